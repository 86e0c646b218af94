"""Error bars: they cover the true error, they are sharp, and a coarse grid is said to be one.

Truth is ``exact=True`` (automatic differentiation), in float64, on the same grid.
"""

import math
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manifold_jax import Axis, Grid, Manifold, datasets, measure
from manifold_jax.geometry.error_bars import comparison_stencil
from manifold_jax.geometry.grid import Axis as GridAxis
from manifold_jax.geometry.pooling import neighbourhood_maximum
from manifold_jax.geometry.quantities import FIELDS, TOTALS
from manifold_jax.geometry.totals import alternatives


def sphere_patch(n):
    grid = Grid((Axis("polar", 0.5, 2.0, n), Axis("azimuth", 0.2, 2.2, n)))
    return replace(datasets.warped(replace(datasets.sphere(2), grid=grid)), name="sphere patch")


def ellipsoid_patch(n):
    grid = Grid((Axis("polar", 0.4, 2.4, n), Axis("azimuth", 0.0, 2 * math.pi, n, periodic=True)))
    return replace(datasets.ellipsoid(), grid=grid)


CASES = {
    "torus": lambda n: datasets.torus(2.0, 0.5, size=n),
    "warped torus": lambda n: datasets.warped(datasets.torus(2.0, 0.5, size=n)),
    "ellipsoid": ellipsoid_patch,
    "sphere patch": sphere_patch,
}


@cache
def truth(name, n):
    with jax.enable_x64(True):
        return jax.device_get(measure(CASES[name](n), exact=True))


def sample(manifold):
    mesh = manifold.grid.coordinates()
    return jax.jit(jax.vmap(jax.vmap(manifold.embedding)))(mesh)


@cache
def stencils(name, n, accuracy, dtype):
    manifold = CASES[name](n)
    with jax.enable_x64(True):
        points = np.asarray(sample(manifold)).astype(dtype)
        # One compilation serves all surfaces with these axes, here and in test_noise_bars.
        return jax.device_get(measure(points, manifold.grid, accuracy=accuracy))


def bars(measured, exact, name):
    """True error, bar and flag at every point where the quantity is defined."""
    estimate, true = getattr(measured, name), np.asarray(getattr(exact, name).value)
    error = np.abs(np.asarray(estimate.value, np.float64) - true)
    return error, np.asarray(estimate.error, np.float64), np.asarray(estimate.resolved)


CONFIGURATIONS = [
    # The two tori share their grid, and so their compilations.
    *((name, 48, accuracy, "float64") for name in ("torus", "warped torus") for accuracy in (2, 4, 6)),
    *((name, 24, 4, "float64") for name in ("torus", "warped torus")),
    *(("sphere patch", 48, accuracy, "float64") for accuracy in (2, 4, 6)),
    ("ellipsoid", 48, 4, "float64"),
    ("torus", 48, 4, "float32"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "n", "accuracy", "dtype"), CONFIGURATIONS)
def test_bars_cover_and_are_sharp(name, n, accuracy, dtype):
    measured, exact = stencils(name, n, accuracy, dtype), truth(name, n)
    problems = []
    for field in FIELDS:
        error, bar, resolved = bars(measured, exact, field)
        if resolved.any():
            covered = (error <= bar)[resolved].mean()
            if covered < 0.99:
                problems.append(f"{field}: covers {covered:.1%} of {resolved.sum()} resolved points")
            # Errors below rounding of the result say nothing about sharpness.
            floor = np.finfo(dtype).eps * np.abs(np.asarray(getattr(exact, field).value)).max()
            counted = resolved & (error > floor)
            sharpness = np.median(bar[counted] / error[counted]) if counted.any() else 1.0
            if sharpness > 30:
                problems.append(f"{field}: bar / error = {sharpness:.0f} (median)")
    for total in TOTALS:
        error, bar, _ = bars(measured, exact, total)
        if not error <= bar + np.asarray(getattr(exact, total).error):
            problems.append(f"{total}: error {error:.1e}, bar {bar:.1e}")
    assert not problems, "; ".join(problems)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torus", "warped torus", "sphere patch"])
@pytest.mark.parametrize("accuracy", [2, 4, 6])
def test_totals_cover_the_closed_forms(name, accuracy):
    manifold = CASES[name](48)
    known = {k: manifold.known[k] for k in ("total_volume", "total_scalar_curvature")}
    if name == "sphere patch":
        area = 2.0 * (math.cos(0.5) - math.cos(2.0))
        known = {"total_volume": area, "total_scalar_curvature": 2 * area}
    measured = stencils(name, 48, accuracy, "float64")
    for total, true in known.items():
        estimate = getattr(measured, total)
        assert abs(float(estimate.value) - true) <= float(estimate.error), total


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "guilty"), [((64, 7), "poloidal"), ((7, 64), "toroidal")])
def test_an_axis_that_is_too_coarse_is_named(sizes, guilty, x64):
    manifold = datasets.warped(datasets.torus(2.0, 1.2, size=sizes))
    measured = measure(sample(manifold), manifold.grid)
    verdict = measured.verdict("scalar_curvature")
    assert not verdict.resolved
    assert verdict.axes == (guilty,), verdict
    assert f"{guilty} axis too coarse: refine" in verdict.sentence
    for field in FIELDS:
        verdict = measured.verdict(field)
        assert verdict.resolved or verdict.axes == (guilty,), (field, verdict)


@pytest.mark.slow
def test_refining_as_told_resolves(x64):
    manifold = datasets.warped(datasets.torus(2.0, 1.2, size=(64, 7)))
    sentence = measure(sample(manifold), manifold.grid).verdict("scalar_curvature").sentence
    factor = float(sentence.split("refine ")[1].split("x")[0])
    finer = datasets.warped(datasets.torus(2.0, 1.2, size=(64, math.ceil(7 * factor))))
    after = measure(sample(finer), finer.grid).verdict("scalar_curvature")
    assert after.resolved, (sentence, finer.grid.shape, after)


def test_a_fine_grid_is_resolved():
    assert all(v.resolved for v in stencils("warped torus", 48, 4, "float64").verdicts().values())


@pytest.mark.slow
def test_rounding_is_blamed_for_rounding():
    # A unit circle 1000 away from the origin: its float32 samples are rounded to 6e-5.
    grid = Grid((Axis("t", 0.0, 2 * math.pi, 400, periodic=True),))
    t = grid.coordinates(jnp.float32)[..., 0]
    measured = measure(1000 + jnp.stack([jnp.cos(t), jnp.sin(t)], axis=-1), grid)
    error = np.abs(np.asarray(measured.mean_curvature.value) - 1)
    assert error.max() > 0.1
    assert (error <= np.asarray(measured.mean_curvature.error)).mean() >= 0.99
    verdict = measured.verdict("mean_curvature")
    assert not verdict.resolved
    assert verdict.axes == ()
    assert "rounding dominates, measure in float64" in verdict.sentence


@pytest.mark.slow
@pytest.mark.parametrize("accuracy", [2, 4, 8])
def test_bars_hold_where_rounding_is_largest(accuracy):
    # Just above a power of two the last place is as large as it can be.
    grid = Grid((Axis("t", 0.0, 2 * math.pi, 400, periodic=True),))
    t = 2 * np.pi * np.arange(400) / 400
    points = 520 + np.stack([np.cos(t), np.sin(t)], axis=-1)
    measured = measure(jnp.asarray(points, jnp.float32), grid, accuracy=accuracy)
    for name in ("volume_element", "mean_curvature"):
        error = np.abs(np.asarray(getattr(measured, name).value) - 1)
        assert (error <= np.asarray(getattr(measured, name).error)).mean() >= 0.99, name


@pytest.mark.slow
def test_rounded_coordinates_move_samples_along_the_manifold(x64):
    """They change the metric, whose bar covers them, and curvatures hardly."""
    grid = Grid((Axis("t", 1000.0, 1000.0 + 2 * math.pi, 400, periodic=True),))
    t = np.asarray(grid.coordinates(jnp.float32), float)
    points = np.concatenate([np.cos(t), np.sin(t)], axis=-1).astype(np.float32)
    measured = measure(jnp.asarray(points), grid, accuracy=4)
    for name in ("volume_element", "mean_curvature"):
        error = np.abs(np.asarray(getattr(measured, name).value, float) - 1)
        bar = np.asarray(getattr(measured, name).error, float)
        assert np.all(error <= bar), name
        assert np.median(bar / np.maximum(error, 1e-9)) < {"volume_element": 30, "mean_curvature": 300}[name]


def test_values_of_a_function_are_rounded_more_than_once():
    """Matrix products one after the other round what they turn; its geometry stays that of the circle."""
    turns = [np.linalg.qr(np.random.default_rng(k).normal(size=(10, 10)))[0] for k in range(12)]

    def turned(u):
        x = jnp.zeros(10, u.dtype).at[:2].set(jnp.array([jnp.cos(u[0]), jnp.sin(u[0])]))
        for turn in turns:
            x = jnp.asarray(turn, u.dtype) @ x
        return x

    grid = Grid((Axis("t", 0.0, 2 * math.pi, 200, periodic=True),))
    measured = measure(turned, grid, accuracy=8)
    for name in ("volume_element", "mean_curvature"):
        value, error, _ = getattr(measured, name)
        covered = np.abs(np.asarray(value) - 1) <= np.asarray(error)
        assert covered.mean() >= 0.99, name


@pytest.mark.thorough
def test_exact_bars_know_that_the_mean_curvature_of_a_minimal_surface_is_rounded():
    lattice = Grid((Axis("u", -1.0, 1.0, 30), Axis("v", -1.0, 1.0, 30)))

    def enneper(at):
        u, v = at
        return jnp.stack([u - u**3 / 3 + u * v**2, v - v**3 / 3 + v * u**2, u**2 - v**2])

    mean, error, resolved = measure(Manifold("Enneper", enneper, lattice), exact=True).mean_curvature
    assert np.all(np.asarray(mean) <= np.asarray(error))
    assert np.all(resolved)


def test_comparison_stencils_are_higher_where_samples_suffice():
    axes = [GridAxis(name, 0.0, 1.0, 40) for name in "abc"] + [GridAxis("d", 0.0, 1.0, 16, periodic=True)]
    stencil = ((4, 1), (6, 3), (2, 1), ("spectral", 1))
    assert comparison_stencil(stencil, Grid(tuple(axes)), evaluated=False) == (
        (6, 1),
        (8, 3),
        (4, 1),
        ("spectral", 1, 3),
    )
    axes[0] = GridAxis("a", 0.0, 1.0, 7)  # order 6 would need 8 samples
    assert comparison_stencil(stencil, Grid(tuple(axes)), evaluated=False) == (
        (2, 1),
        (4, 3),
        (2, 2),
        ("spectral", 1, 3),
    )
    assert comparison_stencil(stencil, Grid(tuple(axes)), evaluated=True) == (
        (6, 1),
        (8, 3),
        (4, 1),
        ("spectral", 1, 3),
    )


def test_neighbourhood_maximum_wraps_on_periodic_axes_only():
    grid = Grid((Axis("a", 0, 1, 5), Axis("b", 0, 1, 6, periodic=True)))
    spike = jnp.zeros((5, 6)).at[0, 0].set(1.0)
    expected = np.zeros((5, 6))
    expected[:2, [0, 1, 5]] = 1.0
    np.testing.assert_array_equal(np.asarray(neighbourhood_maximum(spike, grid, (1, 1))), expected)
    expected_wide = np.zeros((5, 6))
    expected_wide[:3, [0, 1, 5]] = 1.0
    np.testing.assert_array_equal(np.asarray(neighbourhood_maximum(spike, grid, (2, 1))), expected_wide)
    hole = spike.at[1, 1].set(jnp.nan)
    np.testing.assert_array_equal(np.asarray(neighbourhood_maximum(hole, grid, (1, 1))), expected)
    assert np.isnan(np.asarray(neighbourhood_maximum(jnp.full((5, 6), jnp.nan), grid, (1, 1)))).all()


@pytest.mark.parametrize("accuracy", [2, 4, 6, 8])
@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("n", [9, 12, 33])
def test_alternative_rules_agree_on_constants(n, periodic, accuracy):
    rules = alternatives(GridAxis("t", 0.0, 2.0, n, periodic=periodic), accuracy)
    np.testing.assert_allclose(rules.sum(axis=1), 0.0, atol=1e-12)
    assert np.abs(rules).max() > 0.01


@pytest.mark.slow
def test_the_bar_of_a_total_covers_bad_quadrature(x64):
    # A narrow bump on few samples: the quadrature, not the stencil, is wrong.
    def ridge(u):
        return jnp.stack([u[0], jnp.exp(-((u[0] - 0.52) ** 2) / 0.005)])

    length = partial(measure, ridge, exact=True)
    coarse = length(Grid((Axis("t", 0.0, 1.0, 17),))).total_volume
    fine = length(Grid((Axis("t", 0.0, 1.0, 1025),))).total_volume
    assert abs(float(coarse.value - fine.value)) <= float(coarse.error)
    assert float(coarse.error) > 1e-4
