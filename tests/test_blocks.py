"""One job on blocks, however the points are held."""

import math
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manifold_jax import Axis, Grid, gram_from_function
from manifold_jax._partial import PartialResult
from manifold_jax.geometry.blocks import read_window, run_blocks
from manifold_jax.geometry.layers import window_grams
from manifold_jax.geometry.manifold import as_points
from manifold_jax.geometry.quantities import LABELS, unit_of
from manifold_jax.geometry.windows import BatchPlan, plan_blocks

GRID = Grid((Axis("u", 0.0, 2 * math.pi, 13, periodic=True), Axis("v", 0.0, 2 * math.pi, 11, periodic=True)))
STENCIL = ((4, 1), (4, 1))


def torus(u):
    big = 2 + 0.5 * jnp.cos(u[1])
    return jnp.stack([big * jnp.cos(u[0]), big * jnp.sin(u[0]), 0.5 * jnp.sin(u[1])])


def metric(block, plan):
    return block.grams[0][..., :2, :2]


def window_metric(window, plan):
    return metric(window_grams(window, plan), plan)


@pytest.fixture(scope="module")
def array():
    return np.asarray(jax.vmap(jax.vmap(torus))(GRID.coordinates()))


@pytest.fixture(params=["array", "host", "memmap", "function"])
def points(request, array, tmp_path):
    if request.param == "memmap":
        stored = np.memmap(tmp_path / "points.bin", array.dtype, "w+", shape=array.shape)
        stored[:] = array
        return as_points("test", stored, GRID)
    held = {"array": jnp.asarray(array), "host": array, "function": torus}[request.param]
    return as_points("test", held, GRID)


@pytest.fixture(scope="module")
def expected(array):
    checked = as_points("test", jnp.asarray(array), GRID)
    return run_blocks(checked, plan_blocks(checked, (STENCIL,)), metric)


def test_grams_and_windows_of_every_kind_of_points(points, expected):
    plan = plan_blocks(points, (STENCIL,), 20)
    assert plan.size > 4
    seen = []
    grams = run_blocks(points, plan, metric, progress=lambda done, total: seen.append((done, total)))
    np.testing.assert_allclose(grams, expected, atol=2e-5)
    assert seen[-1] == (GRID.size, GRID.size)
    for calls in (1, 64):
        windows = run_blocks(points, plan, window_metric, windows=True, calls=calls)
        np.testing.assert_allclose(windows, expected, atol=2e-5)


def test_a_few_blocks_are_stacked(points):
    plan = plan_blocks(points, (STENCIL,), 20)
    some = run_blocks(points, plan, metric, blocks=np.array([0, 3]), calls=1)
    assert some.shape == (2, *plan.block, 2, 2)
    one = window_metric(read_window(points, plan, 3), plan)
    np.testing.assert_allclose(some[1], one, atol=2e-5)


def test_traced_points_are_part_of_the_program(array, expected):
    @jax.jit
    def job(values):
        checked = as_points("test", values, GRID)
        assert checked.traced
        plan = plan_blocks(checked, (STENCIL,), 20)
        return run_blocks(checked, plan, metric), run_blocks(checked, plan, window_metric, windows=True)

    for result in job(jnp.asarray(array)):
        np.testing.assert_allclose(result, expected, atol=2e-5)


def test_a_host_array_within_a_program_becomes_part_of_it(array, expected):
    def job(scale):
        checked = as_points("test", array, GRID)
        return scale * run_blocks(checked, plan_blocks(checked, (STENCIL,)), metric)

    np.testing.assert_allclose(jax.jit(job)(1.0), expected, atol=2e-5)


def many_numbers(coordinates, plan):
    return [np.full((len(coordinates), 500), k, np.float32) for k in range(8)]


def test_results_are_held_once():
    grid = Grid(tuple(Axis(name, 0.0, 1.0, 64) for name in "uv"))
    checked, plan = as_points("test", torus, grid), BatchPlan(grid, 100)
    run_blocks(checked, plan, many_numbers)
    tracemalloc.start()
    results = run_blocks(checked, plan, many_numbers)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * sum(leaf.nbytes for leaf in results)
    np.testing.assert_array_equal(results[5], 5)


@pytest.mark.slow
def test_an_exact_job_differentiates_batches():
    checked = as_points("test", torus, GRID, exact=True)

    def job(coordinates, plan):
        return gram_from_function(torus, coordinates).metric

    known = gram_from_function(torus, GRID.coordinates()).metric
    exact = run_blocks(checked, BatchPlan(GRID, 16), job)
    np.testing.assert_allclose(exact, known, atol=1e-6)
    traced = jax.jit(lambda: run_blocks(as_points("test", torus, GRID), BatchPlan(GRID, 16), job))()
    np.testing.assert_allclose(traced, known, atol=1e-6)


def test_a_job_that_was_complete_goes_on_to_its_end(array, expected, tmp_path):
    checked = as_points("test", array, GRID)
    plan = plan_blocks(checked, (STENCIL,), 20)
    run_blocks(checked, plan, metric, checkpoint=PartialResult(tmp_path, "key"))
    seen = []
    again = run_blocks(
        checked,
        plan,
        metric,
        checkpoint=PartialResult(tmp_path, "key"),
        progress=lambda done, _: seen.append(done),
    )
    assert seen == [GRID.size]
    np.testing.assert_allclose(again, expected, atol=2e-5)


def test_points_on_the_host_are_looked_at_when_they_are_read(array):
    broken = array.copy()
    broken[3, 4] = np.nan
    checked = as_points("caller", broken, GRID)
    with pytest.raises(ValueError, match=r"caller: points must be finite.*first at index \(3, 4\)"):
        run_blocks(checked, plan_blocks(checked, (STENCIL,)), metric)


def test_units_of_quantities():
    grid = Grid(
        (Axis("angle", 0.0, 6.0, 9, unit="rad"), Axis("x", 0.0, 1.0, 9, periodic=True, unit="px", wrap=False))
    )
    units = {name: unit_of(name, grid) for name in LABELS}
    assert units["volume_element"] == "ℓ²/(rad px)"
    assert units["total_volume"] == "ℓ²/px"
    assert units["total_scalar_curvature"] == "1/px"
    assert (units["mean_curvature"], units["scalar_curvature"], units["reach"]) == ("ℓ⁻¹", "ℓ⁻²", "ℓ")


def wave(u):
    """An embedding of four coordinates without symmetries."""
    directions = jnp.asarray(np.random.default_rng(0).normal(size=(24, 4)), u.dtype)
    return jnp.sin(directions @ u) + u[0] * u[3]


@pytest.mark.parametrize("accuracies", [(4, 6), pytest.param(("spectral", 2), marks=pytest.mark.slow)])
@pytest.mark.thorough
def test_what_is_rendered_of_a_window_is_all_that_derivatives_need(accuracies, x64):
    first, other = accuracies
    periodic = first == "spectral"
    grid = Grid(
        (Axis("a", 0.0, 1.0, 8, periodic=periodic), *(Axis(n, 0.0, 1.0, 5 + k) for k, n in enumerate("bcd")))
    )
    points = as_points("test", wave, grid)
    stencils = tuple(((a, 1), (b, 1), (b, 1), (b, 1)) for a, b in ((first, other), (first, other + 2)))
    plan = plan_blocks(points, stencils, block_size=16)
    assert plan.size > 4
    chosen = np.array([0, plan.size - 1])
    crossed = run_blocks(points, plan, all_grams, blocks=chosen)
    windows = run_blocks(points, plan, window_all_grams, blocks=chosen, windows=True)
    np.testing.assert_allclose(crossed, windows, atol=1e-9 * np.abs(windows).max())


def all_grams(block, plan):
    return block.grams


def window_all_grams(window, plan):
    return window_grams(window, plan).grams


@pytest.mark.parametrize("order", [pytest.param(4, marks=pytest.mark.slow), 8])
@pytest.mark.thorough
def test_rendering_grows_with_the_cross_and_not_with_the_window(order):
    sizes, places = (6, 12, 2, 2), []
    grid = Grid(tuple(Axis(n, 0.0, 1.0, m, periodic=m == 12) for n, m in zip("abcd", sizes, strict=True)))

    def counted(u):
        jax.debug.callback(lambda x: places.append(np.shape(x)), u)
        return wave(u)

    points = as_points("test", counted, grid)
    stencils = ((order, 1),) * 4, ((order + 2, 1),) * 4
    plan = plan_blocks(points, stencils, block_size=48)
    jax.block_until_ready(run_blocks(points, plan, all_grams, blocks=np.array([0])))
    jax.effects_barrier()
    halo = order // 2 + 1
    outer = [2 * halo / b for b in plan.block]
    cross = 1 + sum(outer) + sum(x * y for k, x in enumerate(outer) for y in outer[:k])
    assert len(places) <= 1.1 * cross * plan.block_points
    assert len(places) < 0.7 * plan.block_points * math.prod(1 + x for x in outer)
