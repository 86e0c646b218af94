"""Axes far longer than a block: cut into blocks of bounded length, with the same values."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manifold_jax import Axis, Grid, gram_from_grid, jet_from_grid, mean_curvature, measure
from manifold_jax.geometry.points import Points
from manifold_jax.geometry.stencil import SPECTRAL_SIZE
from manifold_jax.geometry.windows import LENGTH, plan_blocks

TURN = 2 * math.pi
SIZE = 50_000
SEMI_AXES = 2.0, 1.0


def warp(u):
    return u + 0.3 * jnp.sin(u)


def ellipse(u):
    return jnp.stack([SEMI_AXES[0] * jnp.cos(warp(u[0])), SEMI_AXES[1] * jnp.sin(warp(u[0]))])


def curve(periodic, turns=8):
    """Grid on 8 turns of a warped ellipse, and its curvature at every sample."""
    grid = Grid((Axis("t", 0.0, turns * TURN, SIZE, periodic=periodic),))
    a, b = SEMI_AXES
    t = np.asarray(warp(grid.axes[0].samples()))
    return grid, a * b / ((a * np.sin(t)) ** 2 + (b * np.cos(t)) ** 2) ** 1.5


def plan_of(grid, accuracy=4, features=2, evaluated=False):
    stencil = tuple((accuracy, 1) for _ in grid.axes)
    kind = "function" if evaluated else "host"
    return plan_blocks(Points(kind, None, grid, (features,), np.float64), (stencil,))


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("evaluated", [True, False])
def test_matrices_of_a_long_axis_stay_small(periodic, evaluated):
    plan = plan_of(curve(periodic)[0], evaluated=evaluated)
    assert max(plan.block) <= LENGTH
    (axis,) = plan.axes
    # Blocks away from the ends share one matrix.
    assert axis.matrices.nbytes <= 3 * 3 * 8 * LENGTH * (LENGTH + 8)


@pytest.mark.parametrize("source", ["host", "array", "function"])
@pytest.mark.parametrize("periodic", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.thorough
def test_curvature_of_a_long_curve(source, periodic, x64):
    grid, expected = curve(periodic)
    points = jax.jit(jax.vmap(ellipse))(grid.coordinates())
    given = {"host": np.asarray(points), "array": points, "function": ellipse}[source]
    curvature = np.asarray(mean_curvature(gram_from_grid(given, grid)))
    np.testing.assert_allclose(curvature, expected, rtol=0, atol=1e-7 * expected.max())


@pytest.mark.slow
def test_measure_a_long_curve(x64):
    grid, expected = curve(False)
    measured = measure(np.asarray(jax.jit(jax.vmap(ellipse))(grid.coordinates())), grid)
    curvature = np.asarray(measured.mean_curvature.value)
    assert (np.abs(curvature - expected) <= np.asarray(measured.mean_curvature.error)).mean() >= 0.99
    assert bool(measured.mean_curvature.resolved.all())
    assert float(measured.total_volume.value) == pytest.approx(8 * 9.688448220547676, rel=1e-9)


@pytest.mark.slow
def test_blocks_of_a_long_axis_do_not_change_the_jets(x64):
    grid = Grid((Axis("t", 0.0, 1.0, 2 * LENGTH + 7), Axis("s", 0.0, TURN, 9, periodic=True)))
    u = np.asarray(grid.coordinates())
    points = np.stack([u[..., 0] * np.cos(u[..., 1]), u[..., 0] * np.sin(u[..., 1]), u[..., 0] ** 2], axis=-1)
    jet = jet_from_grid(jnp.asarray(points), grid)
    np.testing.assert_allclose(jet.first[..., 0, 2], 2 * u[..., 0], atol=1e-9)
    np.testing.assert_allclose(jet.second[..., 0, 0, 2], 2.0, atol=1e-8)
    first = jax.jit(lambda p: gram_from_grid(p, grid))(points)
    np.testing.assert_allclose(first.metric, jnp.einsum("...if,...jf->...ij", *2 * [jet.first]), atol=1e-9)


def test_usual_grids_are_not_cut():
    sprites = Grid(tuple(Axis(name, 0.0, 1.0, 16) for name in "abcd"))
    assert plan_of(sprites, features=4096).block[-1] == 16
    surface = Grid((Axis("u", 0.0, 1.0, 64), Axis("v", 0.0, 1.0, LENGTH)))
    assert plan_of(surface, features=3).block == surface.shape


def test_a_long_spectral_axis_is_refused_and_a_short_one_is_whole(x64):
    grid = Grid((Axis("t", 0.0, TURN, LENGTH + 1, periodic=True),))
    assert plan_of(grid, accuracy="spectral").block == grid.shape
    grid = Grid((Axis("t", 0.0, TURN, SPECTRAL_SIZE + 1, periodic=True),))
    with pytest.raises(ValueError, match=r"Axis 't' has 8193 samples; .* dense matrix .* accuracy=8"):
        gram_from_grid(jnp.ones((*grid.shape, 2)), grid, accuracy="spectral")
