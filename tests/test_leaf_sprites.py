"""The experiment where sprites meet a classifier: its reports on made-up numbers, and one tiny run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import manifold_jax as mj
from manifold_jax.datasets import sprite
from manifold_jax.experiments.classifier import sprites as ls
from manifold_jax.experiments.classifier.sprites import FactorMap, Meeting, label_of, learn
from manifold_jax.experiments.experiment import plain
from manifold_jax.experiments.sprites import FACTORS, SmoothLeNet, draw, sprite_charts
from manifold_jax.plotting import save_figure

TINY = ls.Settings(
    shapes=("ellipse", "square"),
    size=12,
    shift=0.5,
    sprites=60,
    steps=3,
    batch_size=10,
    points=2,
    map_sizes=(9, 8),
)
GRID = mj.Grid((mj.Axis("scale", 0.75, 1.5, 9), mj.Axis("orientation", 0, np.pi, 8, periodic=True)))


def made_up(seed=0):
    rng, points = np.random.default_rng(seed), 2 * TINY.points
    meeting = Meeting(
        np.sort(rng.uniform(0, np.pi / 2, (points, 4))),
        np.sort(rng.uniform(0, np.pi / 2, (points, 4))),
        rng.uniform(1e-4, 1, (points, 4)),
        np.full(points, 0.01),
        rng.uniform(size=points),
    )
    curvature = rng.normal(size=GRID.shape)
    curvature[0, 0] = np.nan
    ellipse = FactorMap("ellipse", GRID, rng.uniform(1, 2, GRID.shape), curvature, curvature**2, 3.0, 0.1)
    maps = (ellipse, ellipse._replace(shape="square"))
    shapes = np.repeat([0, 1], TINY.points)
    return ls.Result(TINY, np.ones(3), 0.5, shapes, meeting, meeting, maps)


def check_reports(result, folder):
    rows = ls.table(result)
    quantities = [f"principal angle {k}" for k in (1, 2, 3, 4)]
    quantities += 2 * [f"visibility of {factor}" for factor in FACTORS]
    quantities += 2 * ["scalar curvature of the pull-back", "volume of the pull-back"]
    assert [row["quantity"] for row in rows] == quantities
    assert all(len(row) == 9 for row in rows)
    assert all(row["lower"] <= row["median"] <= row["upper"] for row in rows if row["lower"] is not None)
    numbers = json.loads(json.dumps(plain(ls.data(result)), allow_nan=False))
    assert numbers["accuracy"] == result.accuracy
    assert np.shape(numbers["trained"]["angles"]) == (2 * TINY.points, 4)
    assert np.shape(numbers["maps"][1]["volume_element"]) == TINY.map_sizes
    drawn = ls.figure(result)
    labels = [axes.get_ylabel() for axes in drawn.axes]
    assert labels.count("scale") == 6
    assert "angle [deg]" in labels
    assert "scalar curvature S" in labels
    assert save_figure(drawn, folder / "leaf.png").stat().st_size > 10_000


def test_reports_of_made_up_numbers(tmp_path):
    result = made_up()
    check_reports(result, tmp_path)
    first = ls.table(result)[0]
    assert first["median"] == pytest.approx(np.degrees(np.median(result.trained.angles[:, 0])))
    assert plain(ls.data(result))["maps"][0]["scalar_curvature"][0][0] is None


def test_curvature_counts_by_area():
    curvature, area = np.zeros(GRID.shape), np.full(GRID.shape, 1e-6)
    curvature[:3], curvature[3, :4], area[3] = 100.0, 7.0, 1.0
    factors = FactorMap("ellipse", GRID, area, curvature, curvature, 1.0, 0.0)
    np.testing.assert_array_equal(ls.curvature_quartiles(factors), [0.0, 0.0, 7.0])
    unknown = factors._replace(scalar_curvature=curvature * np.nan)
    assert np.isnan(ls.curvature_quartiles(unknown)).all()


def test_classes_are_shapes_and_intervals_of_the_scale():
    scale = jnp.array([0.75, 0.99, 1.01, 1.26, 1.5])
    assert label_of(scale, 2, 3).tolist() == [6, 6, 7, 8, 8]


@pytest.mark.slow
def test_factors_are_drawn_from_their_ranges():
    square = sprite_charts(TINY.shapes, TINY.size, TINY.shift, FACTORS)[1]
    points = draw(jax.random.key(0), square, 500)
    low, high = np.array([[0.75, 0.0, 5.0, 5.0], [1.5, np.pi / 2, 6.0, 6.0]])
    assert np.all((points >= low) & (points <= high))
    np.testing.assert_allclose(np.mean(points, axis=0), (low + high) / 2, rtol=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": 2}, "shapes times sizes must be a whole number, at least 5, got 4"),
        ({"map_sizes": (9, 9)}, "map_sizes must be an odd number from 9 and an even one"),
        ({"map_sizes": (7, 8)}, "map_sizes"),
    ],
)
def test_nonsense_is_refused_before_anything_is_run(change, message):
    with pytest.raises(ValueError, match=message):
        ls.measure_sprites(TINY._replace(**change), jax.random.key(0))


@pytest.mark.slow
def test_the_experiment_runs_and_reports(tmp_path, monkeypatch):
    """With made-up maps: their second derivatives of a network take long to compile."""
    monkeypatch.setattr(ls, "factor_map", lambda settings, shape, network: made_up().maps[0])
    told = []
    start = (tmp_path / "sprites", 0)
    outcome = ls.run(start, TINY, lambda *done: told.append(done))
    assert told[-1] == (6, 6)
    assert len(outcome.rows) == 4 + 2 * 4 + 2 * 2
    assert set(outcome.figures) == {"sprites"}
    assert (tmp_path / "sprites" / "3").is_dir()
    assert outcome.data["trained"].angles.shape == (2 * TINY.points, 4)


@pytest.mark.slow  # compiles a training and derivatives of a network
def test_tiny_run(tmp_path, x64):
    stages = []
    with jax.enable_x64(False):
        key = jax.random.key(1)
        result = ls.measure_sprites(TINY, key, progress=lambda *told: stages.append(told))
        network = learn(TINY, jax.random.split(key, 4)[0])[1]
    assert stages[0] == (3, 9)  # all three steps of the training
    assert stages[-1] == (6, 6)
    assert result.loss.shape == (3,)
    assert not np.array_equal(result.untrained.angles, result.trained.angles)
    for meeting in (result.untrained, result.trained):
        assert np.all(np.diff(meeting.angles, axis=1) >= 0)
        assert np.all((meeting.angles > 0) & (meeting.angles <= np.float32(np.pi / 2)))
        assert np.all((meeting.visibility > 0) & (meeting.visibility <= 1))
        # Five directions of 144 at most: a random one is seen at most 5 / 144 as well as the best.
        assert np.all((meeting.random_visibility >= 1 / 144) & (meeting.random_visibility <= 5 / 144))
    check_reports(result, tmp_path)

    # The volume element of a map, from the tangents and the factor of G instead.
    factors = result.maps[1]
    square = sprite("square", factors=("scale", "orientation"), layout="balanced", size=12)
    u = jnp.asarray(factors.grid.coordinates()[4, 3], jnp.float64)
    log_prob = jax.tree_util.Partial(network.apply, jax.tree.map(jnp.float64, network.params))
    tangents = np.asarray(mj.jet_from_function(square.embedding, u).first)
    rows = tangents @ np.asarray(mj.local_data_factor(log_prob, square.embedding(u))).T
    want = np.sqrt(np.linalg.det(rows @ rows.T))
    # The nodes of the outline differ: they follow the range of the scale.
    assert factors.volume_element[4, 3] == pytest.approx(want, rel=1e-4)
    assert factors.volume_error < 0.1 * factors.volume


@pytest.mark.slow  # compiles second derivatives of a network
def test_network_of_the_experiment_has_two_derivatives(x64):
    from networks import drawn

    from manifold_jax.models import pure

    apply, params = pure(drawn(SmoothLeNet, classes=5, size=8, activation=jax.nn.silu))
    params = jax.tree.map(jnp.float64, params)
    rng = np.random.default_rng(0)
    image, v = rng.uniform(size=(8, 8)), rng.normal(size=(8, 8))
    along = jax.jit(lambda t: apply(params, image + t * v))
    exact = jax.jacfwd(jax.jacfwd(along))(0.0)
    h = 1e-4
    np.testing.assert_allclose((along(h) - 2 * along(0.0) + along(-h)) / h**2, exact, rtol=1e-4, atol=1e-5)
