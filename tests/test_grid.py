"""Axes, grids and quadrature weights."""

import math
from dataclasses import FrozenInstanceError

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manifold_jax import Axis, Grid, integrate
from manifold_jax.geometry.grid import axis_weights

ORDERS = (2, 4, 6, 8)


def test_spacing_and_samples():
    closed, open_ = Axis("a", -1.0, 2.0, 6, periodic=True), Axis("b", -1.0, 2.0, 7)
    np.testing.assert_allclose(closed.samples(), [-1.0, -0.5, 0.0, 0.5, 1.0, 1.5], atol=1e-15)
    np.testing.assert_allclose(open_.samples(), np.linspace(-1.0, 2.0, 7), atol=1e-15)
    assert closed.spacing == open_.spacing == 0.5


def test_a_grid_is_frozen_hashable_and_a_static_argument():
    def make(size):
        return Grid((Axis("a", 0, 1, size), Axis("b", 0, 2, 3, periodic=True)))

    assert hash(make(4)) == hash(make(4))
    assert make(4) == make(4)
    assert make(4) != make(5)
    with pytest.raises(FrozenInstanceError):
        make(4).axes = ()
    traces = []
    count = jax.jit(lambda g: traces.append(g) or jnp.zeros(g.shape), static_argnums=0)
    assert count(make(4)).shape == (4, 3)
    count(make(4))
    assert len(traces) == 1


def test_attributes_of_a_grid():
    grid = Grid((Axis("a", 0, 1, 4), Axis("b", 0, 2, 3, periodic=True), Axis("c", 0, 1, 5)))
    assert grid.shape == (4, 3, 5)
    assert (grid.ndim, grid.size) == (3, 60)
    assert grid.names == ("a", "b", "c")
    assert grid.periodic == (False, True, False)
    np.testing.assert_allclose(grid.spacing, (1 / 3, 2 / 3, 1 / 4), rtol=1e-15)


def test_coordinates_come_grid_axes_first(x64):
    grid = Grid((Axis("a", 0, 1, 4), Axis("b", 0, 2, 3, periodic=True)))
    coordinates = np.asarray(grid.coordinates())
    assert coordinates.shape == (4, 3, 2)
    for i, a in enumerate(grid.axes[0].samples()):
        for j, b in enumerate(grid.axes[1].samples()):
            assert tuple(coordinates[i, j]) == (a, b)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [8, 9, 20])
def test_gregory_weights_integrate_polynomials_exactly(order, size):
    axis = Axis("t", 0.5, 2.0, size)
    weights = axis_weights(axis, order)
    for k in range(order):
        exact = (2.0 ** (k + 1) - 0.5 ** (k + 1)) / (k + 1)
        assert weights @ axis.samples() ** k == pytest.approx(exact, rel=3e-14), k


@pytest.mark.parametrize("order", ORDERS)
def test_gregory_weights_are_mirror_symmetric_and_unit_inside(order):
    weights = axis_weights(Axis("t", 0.0, 19.0, 20), order)
    np.testing.assert_allclose(weights, weights[::-1], atol=1e-13)
    np.testing.assert_allclose(weights[order:-order], 1.0, atol=1e-13)


@pytest.mark.parametrize("order", ORDERS)
def test_gregory_order_of_convergence(order):
    # Exact below degree p, from p samples at each end: the error is h^(p+1), one better than asked for.
    def error(size):
        axis = Axis("t", 0.0, 2.0, size)
        return abs(axis_weights(axis, order) @ np.exp(1.5 * axis.samples()) - (math.exp(3.0) - 1) / 1.5)

    sizes = {2: (65, 129), 4: (129, 257), 6: (65, 97), 8: (49, 65)}[order]
    rate = math.log(error(sizes[0]) / error(sizes[1])) / math.log((sizes[1] - 1) / (sizes[0] - 1))
    assert abs(rate - order - 1) <= 0.2, rate


@pytest.mark.parametrize("size", [2, 3, 5])
def test_axes_shorter_than_the_order_stay_exact_for_what_they_can(size):
    axis = Axis("t", -1.0, 2.0, size)
    weights = axis_weights(axis, 8)
    for k in range(size):
        exact = (2.0 ** (k + 1) - (-1.0) ** (k + 1)) / (k + 1)
        assert weights @ axis.samples() ** k == pytest.approx(exact, abs=1e-13), k


@pytest.mark.parametrize("accuracy", [2, 8, "spectral"])
def test_periodic_weights_are_the_trapezoid_rule(accuracy, x64):
    grid = Grid((Axis("t", 0.3, 0.3 + 2 * math.pi, 24, periodic=True),))
    samples = grid.axes[0].samples()
    total = float(grid.weights(accuracy) @ jnp.exp(jnp.cos(jnp.asarray(samples))))
    assert total == pytest.approx(2 * math.pi * 1.2660658777520082, rel=1e-14)  # I_0(1)


@pytest.mark.parametrize("accuracy", [2, 4, (8, 2)])
def test_weights_of_a_grid_are_products(accuracy, x64):
    grid = Grid((Axis("a", 0, 1, 9), Axis("b", 0, 2, 5, periodic=True)))
    a = accuracy[0] if isinstance(accuracy, tuple) else accuracy
    expected = np.outer(axis_weights(grid.axes[0], a), np.full(5, 0.4))
    np.testing.assert_allclose(np.asarray(grid.weights(accuracy)), expected, rtol=1e-15)


def test_integrate_over_a_wedge(x64):
    # Polar coordinates: dV = r, integral of x y = R^4 sin^2(angle) / 8.
    grid = Grid((Axis("r", 0.0, 1.5, 17), Axis("angle", 0.0, 0.8, 33)))
    r, angle = np.moveaxis(np.asarray(grid.coordinates()), -1, 0)
    value = integrate(r**2 * np.cos(angle) * np.sin(angle), r, grid, accuracy=8)
    assert float(value) == pytest.approx(1.5**4 * math.sin(0.8) ** 2 / 8, rel=1e-12)
    assert float(integrate(1.0, r, grid)) == pytest.approx(0.5 * 1.5**2 * 0.8, rel=1e-14)


def test_integrate_counts_degenerate_points_as_zero(x64):
    grid = Grid((Axis("r", 0.0, 1.0, 17),))
    r = grid.coordinates()[..., 0]
    values = jnp.where(r == 0, jnp.nan, 3.0)
    assert float(integrate(values, r, grid)) == pytest.approx(1.5, rel=1e-14)


def test_nan_away_from_degenerate_points_is_not_hidden(x64):
    grid = Grid((Axis("r", 0.0, 1.0, 17),))
    r = grid.coordinates()[..., 0]
    assert np.isnan(float(integrate(jnp.where(r == 0.5, jnp.nan, 3.0), r, grid)))


@pytest.mark.parametrize("flag", [False, True])
def test_default_dtype_follows_jax(flag):
    grid = Grid((Axis("a", 0, 1, 9),))
    with jax.enable_x64(flag):
        expected = jnp.float64 if flag else jnp.float32
        assert grid.coordinates().dtype == expected
        assert grid.weights().dtype == expected
        assert grid.coordinates(jnp.float32).dtype == jnp.float32
        assert grid.weights(dtype=jnp.float32).dtype == jnp.float32
