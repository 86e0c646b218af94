"""Unions of unit volume in every layer: isometries, closed forms, pairs by a loop, convergence, ranks."""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from manifold_jax import Axis, Grid, Manifold
from manifold_jax.experiments.layers import figure6 as figures
from manifold_jax.experiments.layers.figure6 import FIGURE6_REDUCED, as_row, depth_rows
from manifold_jax.experiments.layers.unions import loses_rank, measure_unions, tangent_balls
from manifold_jax.models import chain

TURN = 2 * math.pi
CURVATURES = ("total_scalar_curvature", "total_positive_curvature", "total_negative_curvature")


def torus(centre, thick, size):
    """A torus of radii 1 and ``thick``, unevenly parametrised."""
    grid = Grid(tuple(Axis(name, 0.0, TURN, size, True) for name in ("around", "across")))

    def embedding(u):
        a, b = u + 0.3 * jnp.sin(u)
        ring = 1 + thick * jnp.cos(b)
        return jnp.stack([ring * jnp.cos(a) + centre, ring * jnp.sin(a), thick * jnp.sin(b)])

    return Manifold(f"torus {thick}", embedding, grid)


def coarse(charts, size):
    return [Grid(tuple(Axis(a.name, a.start, a.stop, size, True) for a in c.grid.axes)) for c in charts]


def through_layers(features, accuracy=None):
    """Two tori turned in as many dimensions, then a homothety, then onto a plane, then a line."""
    charts = [torus(0.0, 0.4, 16), torus(4.0, 0.25, 16)]
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(features, 3)))[0]
    layers = {"turned": lambda x: turn @ x, "large": lambda x: 3 * x}
    layers |= {"line": lambda x: jnp.stack([x[0], 2 * x[0], 0 * x[0]]), "one": lambda x: x[:1]}
    with jax.enable_x64(True):
        unions = measure_unions(charts, chain(layers, (3,)), coarse(charts, 8), accuracy=accuracy)
    return charts, {union.name: union for union in unions}


@pytest.fixture(scope="module")
def tori():
    return through_layers(3)


@pytest.fixture(scope="module")
def tori_in_five_dimensions():
    return through_layers(5, accuracy=2)


@pytest.mark.parametrize("layer", ["turned", "large"])
@pytest.mark.parametrize("fixture", ["tori", pytest.param("tori_in_five_dimensions", marks=pytest.mark.slow)])
@pytest.mark.thorough
def test_isometries_and_homotheties_change_nothing_of_a_union_of_unit_volume(fixture, layer, request):
    _, unions = request.getfixturevalue(fixture)
    before, after = unions["input"], unions[layer]
    factor = {"turned": 1.0, "large": 9.0}[layer]
    assert float(after.totals.volume.value) == pytest.approx(factor * float(before.totals.volume.value))
    for name in CURVATURES:
        a, b = (float(getattr(union.totals, name).value) for union in (before, after))
        assert b == pytest.approx(a, rel=1e-6, abs=1e-6)
    for name in ("least_reach", "mean_reach"):
        a, b = (float(getattr(union.pairs, name).value) for union in (before, after))
        assert b == pytest.approx(a, rel=1e-6)
    for name in ("paired", "nearest"):
        a, b = (float(getattr(union.pairs.distances[0], name).value) for union in (before, after))
        assert b == pytest.approx(a, rel=1e-6)


@pytest.mark.thorough
def test_the_volume_of_a_union_of_tori_is_known(tori):
    _, unions = tori
    union = unions["large"]
    volumes = [9 * TURN**2 * thick for thick in (0.4, 0.25)]
    assert float(union.totals.volume.value) == pytest.approx(sum(volumes), rel=1e-4)
    assert union.pairs.scale == union.totals.scale == pytest.approx(sum(volumes) ** -0.5, rel=1e-4)
    for part, volume in zip(union.totals.classes, volumes, strict=True):
        assert float(part.volume.value) == pytest.approx(volume / sum(volumes), rel=1e-4)
    # S of a torus is 2 cos b / (r (1 + r cos b)), whose positive part has the integral 8 pi.
    assert abs(float(union.totals.total_scalar_curvature.value)) < 1e-3
    positive = union.totals.total_positive_curvature
    assert abs(float(positive.value) - 16 * math.pi) <= float(positive.error)
    least = float(union.pairs.least_reach.value) / union.pairs.scale
    assert least == pytest.approx(3 * 0.25, rel=1e-4)


@pytest.mark.thorough
def test_layers_that_lose_a_dimension_say_so(tori):
    _, unions = tori
    assert unions["input"].status == unions["large"].status == "resolved"
    assert unions["line"].dropped == 1.0
    assert unions["line"].status in ("degenerate", "not finite")
    assert "loses rank at 100%" in unions["line"].why
    assert "1 features have no room for 2 dimensions" in unions["one"].why
    assert np.isnan(float(unions["line"].pairs.least_reach.value))
    rows = [as_row(union) | {"network": "n", "run": 0, "step": 0} for union in unions.values()]
    counted = {row["quantity"]: row["counted"] for row in depth_rows(rows, tuple(unions))}
    assert set(counted.values()) == {3}


def test_balls_of_pairs_are_those_of_a_loop():
    rng = np.random.default_rng(1)
    points, tangents = rng.normal(size=(9, 6)), rng.normal(size=(4, 2, 6))
    radius, error = tangent_balls(points, tangents, 3)
    for i in range(4):
        for j in range(9):
            if j == i + 3:
                assert radius[i, j] == np.inf
                continue
            v = points[j] - points[i + 3]
            along, *_ = np.linalg.lstsq(tangents[i].T, v, rcond=None)
            expected = v @ v / (2 * np.linalg.norm(v - tangents[i].T @ along))
            assert abs(radius[i, j] - expected) <= error[i, j] + 1e-12 * expected


def test_dependent_tangents_are_found():
    tangents = np.array([[[1.0, 0, 0], [0, 1e-3, 0]], [[1, 1, 0], [2, 2, 0]], [[1, 0, 0], [0, 0, 0]]])
    assert loses_rank(tangents.astype(np.float32)).tolist() == [False, True, True]


@pytest.mark.slow
def test_products_of_spheres_have_their_closed_form_at_unit_volume():
    """S of S^2(a) x S^2(b) is 2 / a^2 + 2 / b^2, the volume V = (4 pi a b)^2: total S is S sqrt V."""
    axes = [Axis("polar", 0.3, math.pi - 0.3, 6), Axis("azimuth", 0.0, TURN, 6, True)]
    both = Grid((*axes, *(Axis(f"{a.name} 2", a.start, a.stop, a.size, a.periodic) for a in axes)))
    a, b = 1.0, 0.5

    def ball(radius, u):
        ring = jnp.sin(u[0]) * jnp.stack([jnp.cos(u[1]), jnp.sin(u[1])])
        return radius * jnp.append(ring, jnp.cos(u[0]))

    def part(shift):
        return Manifold(
            f"at {shift}", lambda u: jnp.concatenate([ball(a, u[:2]) + shift, ball(b, u[2:])]), both
        )

    charts = [part(0.0), part(9.0)]
    layers = chain({"five times": lambda x: 5 * x}, (6,))
    with jax.enable_x64(True):
        unions = measure_unions(charts, layers, [both, both])
    zone = 4 * math.pi * math.cos(0.3)  # of the unit sphere
    volume = 2 * (zone * a * b) ** 2
    for union in unions:
        total = union.totals.total_scalar_curvature
        expected = (2 / a**2 + 2 / b**2) * volume**0.5
        assert abs(float(total.value) - expected) <= float(total.error)
        assert float(total.value) == pytest.approx(expected, rel=0.01)
        assert float(union.pairs.least_reach.value) == pytest.approx(b * volume**-0.25, rel=0.01)
        paired = float(union.pairs.distances[0].paired.value)
        assert paired == pytest.approx(9 * 3**0.5 * volume**-0.25, rel=0.01)


@pytest.mark.slow
def test_stencils_converge_to_the_exact_totals_at_their_order():
    weights = np.random.default_rng(2).normal(size=(6, 3)) / 3

    def errors(size):
        charts = [torus(0.0, 0.5, size), torus(4.0, 0.5, size)]
        layers = chain({"layer": lambda x: nnx.softplus(weights @ x)}, (3,))
        with jax.enable_x64(True):
            unions = measure_unions(charts, layers, coarse(charts, 6), accuracy=2)
        return [
            abs(float(getattr(u.stencils, name).value) - float(getattr(u.totals, name).value))
            for u in unions
            for name in ("volume", "total_positive_curvature")
        ]

    orders = np.log2(np.array(errors(32)) / errors(64))
    assert (abs(orders - 2) < 0.35).all(), orders


@pytest.mark.thorough
def test_figure_6_counts_what_is_known_and_measures_nothing_twice(tmp_path, monkeypatch, tori):
    """Unions and trainings are stand-ins: those of networks take minutes."""
    charts, unions = tori
    calls = []

    def measure(*_, **__):
        calls.append(1)
        return [union._replace(stencils=union.totals) for union in unions.values()]

    def trial(steps, activation):
        curves = {name: np.ones((steps, 2)) for name in ("run_loss", "reconstruction", "kl")}
        settings = FIGURE6_REDUCED._replace(seeds=2, steps=steps, activation=activation)
        names = {"name": "two tori", "metrics": curves, "steps": [0, steps], "nearest_marks": [0, steps]}
        names |= {"charts": SimpleNamespace(measured=charts), "layers": lambda step: [None, None]}
        return SimpleNamespace(settings=settings, folder=tmp_path / "trained", **names)

    def run(steps):
        monkeypatch.setattr(figures, "prepare", lambda settings, _: trial(steps, settings.activation))
        one = trial(steps, "relu")
        return figures.figure6(one, one.settings, lambda *_: None)

    monkeypatch.setattr(figures, "measure_unions", measure)
    monkeypatch.setattr(figures, "learn", lambda one, _: one)
    first = run(4)
    assert len(calls) == 8  # two networks, two runs, the random network and the end
    assert "Trained for 4 steps, where the paper took 2000000" in first.notes[0]
    assert {(row["network"], row["step"]) for row in first.data["rows"]} == {
        (network, step) for network in ("relu", "silu") for step in (0, 4)
    }
    table = {row["layer"]: row for row in first.rows}
    assert table["large"]["status"] == "resolved"
    assert table["large"]["runs differ by"] == 0
    assert table["line"]["status"].startswith(("degenerate", "not finite"))
    assert np.isnan(table["line"]["S"])
    assert set(first.figures) == {f"figure6_{stem}" for stem in ("linear", "symlog", "loss")}
    run(6)
    assert len(calls) == 12  # the random network is known
