"""Stencil weights, ghost layers, spectral derivatives; all NumPy float64."""

import math
from dataclasses import replace

import numpy as np
import pytest

from manifold_jax import Axis
from manifold_jax.geometry.stencil import (
    axis_plan,
    central_weights,
    extrapolation_weights,
    halo,
    spectral_matrix,
)

ORDERS = (2, 4, 6, 8)


def derivative_matrices(axis, accuracy, stride=1, block=None, evaluated=False):
    """Dense (3, size, size) matrices put together from the blocks of a plan."""
    plan = axis_plan(axis, ((accuracy, stride),), block or axis.size, evaluated=evaluated)
    dense = np.zeros((3, axis.size, axis.size))
    for rows, columns, kind in zip(plan.rows, plan.columns, plan.kinds, strict=True):
        matrices = plan.matrices[0, kind]
        dense[:, rows] = 0.0  # the last block may overlap the one before
        for k, column in enumerate(columns % axis.size):
            dense[:, rows, column] += matrices[:, :, k]
    return dense


def test_textbook_weights():
    np.testing.assert_allclose(central_weights(1, 2), [-1 / 2, 0, 1 / 2], atol=1e-15)
    np.testing.assert_allclose(central_weights(2, 2), [1, -2, 1], atol=1e-15)
    np.testing.assert_allclose(central_weights(1, 4), np.array([1, -8, 0, 8, -1]) / 12, atol=1e-15)
    np.testing.assert_allclose(central_weights(2, 4), np.array([-1, 16, -30, 16, -1]) / 12, atol=1e-14)
    np.testing.assert_allclose(
        central_weights(2, 8),
        [-1 / 560, 8 / 315, -1 / 5, 8 / 5, -205 / 72, 8 / 5, -1 / 5, 8 / 315, -1 / 560],
        atol=1e-13,
    )
    np.testing.assert_allclose(extrapolation_weights(1, 3), [4, -6, 4, -1], atol=1e-13)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("derivative", [0, 1, 2])
def test_central_weights_are_exact_on_polynomials(order, derivative):
    # By symmetry the second derivative is exact to degree order + 1.
    offsets = np.arange(-(order // 2), order // 2 + 1.0)
    weights = central_weights(derivative, order)
    for k in range(order + 1 + (derivative == 2)):
        expected = math.factorial(derivative) if k == derivative else 0.0
        assert weights @ offsets**k == pytest.approx(expected, abs=1e-10), k


@pytest.mark.parametrize("degree", [3, 5, 7, 9])
@pytest.mark.parametrize("distance", [1, 2, 4])
def test_extrapolation_is_exact_on_polynomials(degree, distance):
    nodes = np.arange(degree + 1.0)
    for k in range(degree + 1):
        centred = (nodes - degree / 2) / degree
        target = (-distance - degree / 2) / degree
        assert extrapolation_weights(distance, degree) @ centred**k == pytest.approx(target**k, abs=1e-9)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("block", [None, 7])
def test_open_axis_is_exact_on_polynomials_at_every_row(order, stride, block):
    size = (order + 2) * stride + 3
    axis = Axis("t", -1.0, 1.5, size)
    dense = derivative_matrices(axis, order, stride, block)
    t = axis.samples()
    np.testing.assert_array_equal(dense[0], np.eye(size))
    scale = np.abs(dense).sum(axis=-1).max(axis=-1)
    for degree in range(order + 1):
        p = np.polynomial.Polynomial.basis(degree)
        for k in (1, 2):
            wrong = np.abs(dense[k] @ p(t) - p.deriv(k)(t)).max()
            assert wrong <= 1e-13 * scale[k] * 1.5**degree, (degree, k)


@pytest.mark.parametrize("order", ORDERS)
def test_second_derivative_keeps_its_order_at_the_border(order):
    # Ghost layers of degree p + 1: exact on degree p + 1 for the second derivative too.
    axis = Axis("t", -1.0, 1.0, order + 6)
    dense = derivative_matrices(axis, order)
    p = np.polynomial.Polynomial.basis(order + 1)
    wrong = np.abs(dense[2] @ p(axis.samples()) - p.deriv(2)(axis.samples()))
    assert wrong.max() <= 1e-13 * np.abs(dense[2]).sum(axis=1).max()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("stride", [1, 3])
def test_mixed_derivatives_are_exact_on_polynomials(order, stride):
    x, y = (Axis(n, -1.0, 1.0, (order + 2) * stride + 1) for n in "xy")
    along = derivative_matrices(x, order, stride)[1]
    px, py = np.polynomial.Polynomial.basis(order), np.polynomial.Polynomial.basis(order - 1)
    values = np.outer(px(x.samples()), py(y.samples()))
    expected = np.outer(px.deriv()(x.samples()), py.deriv()(y.samples()))
    scale = np.abs(along).sum(axis=1).max() ** 2
    np.testing.assert_allclose(along @ values @ along.T, expected, atol=1e-13 * scale)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("block", [None, 5])
def test_wrapped_axis_multiplies_modes_by_the_symbol(order, stride, block):
    size = order * stride + 4
    axis = Axis("t", 0.0, 2 * math.pi, size, periodic=True)
    dense = derivative_matrices(axis, order, stride, block)
    step, offsets = axis.spacing * stride, np.arange(-(order // 2), order // 2 + 1)
    for mode in range(size):
        wave = np.exp(1j * mode * axis.samples())
        for k in (1, 2):
            symbol = central_weights(k, order) @ np.exp(1j * mode * step * offsets) / step**k
            np.testing.assert_allclose(dense[k] @ wave, symbol * wave, atol=1e-11)


def test_blocks_do_not_change_the_matrices():
    for axis in (Axis("t", 0.0, 1.0, 23), Axis("t", 0.0, 1.0, 23, periodic=True)):
        whole = derivative_matrices(axis, 4)
        for block in (1, 2, 5, 11, 16, 22):
            np.testing.assert_allclose(derivative_matrices(axis, 4, block=block), whole, atol=1e-9)


@pytest.mark.parametrize("size", [16, 17])
def test_spectral_derivative_is_exact_on_resolved_modes(size):
    length, start = 3.0, 0.7
    axis = Axis("t", start, start + length, size, periodic=True)
    phase = 2 * np.pi * (axis.samples() - start) / length
    for mode in range((size + 1) // 2):
        rate = 2 * np.pi * mode / length
        for wave, slope in ((np.sin, np.cos), (np.cos, lambda x: -np.sin(x))):
            values = wave(mode * phase)
            np.testing.assert_allclose(spectral_matrix(axis, 0) @ values, values, atol=0)
            np.testing.assert_allclose(
                spectral_matrix(axis, 1) @ values, rate * slope(mode * phase), atol=2e-12 * size
            )
            np.testing.assert_allclose(
                spectral_matrix(axis, 2) @ values, -(rate**2) * values, atol=4e-11 * size
            )


def test_spectral_derivative_of_the_sawtooth_mode():
    # cos(n x / 2) on n samples: first derivative 0, second -(n/2)^2 times itself.
    axis = Axis("t", 0.0, 2 * math.pi, 12, periodic=True)
    saw = (-1.0) ** np.arange(12)
    np.testing.assert_allclose(spectral_matrix(axis, 1) @ saw, 0.0, atol=1e-12)
    np.testing.assert_allclose(spectral_matrix(axis, 2) @ saw, -36.0 * saw, atol=1e-11)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("periodic", [False, True])
def test_fewest_samples(order, stride, periodic):
    needed = order * stride + 1 if periodic else (order + 2) * stride
    axis_plan(Axis("t", 0, 1, needed, periodic), ((order, stride),), needed, evaluated=False)
    short = Axis("narrow", 0, 1, needed - 1, periodic)
    with pytest.raises(ValueError, match=rf"'narrow' has {needed - 1} samples.*at least {needed}"):
        axis_plan(short, ((order, stride),), needed - 1, evaluated=False)
    # A function has samples beyond an open end, but a stencil must not go around a period.
    open_axis = Axis("open", 0, 1, 2)
    axis_plan(open_axis, ((order, stride),), 2, evaluated=True)
    axis_plan(replace(open_axis, periodic=True, wrap=False), ((order, stride),), 2, evaluated=True)
    wide = Axis("wide", 0, 1, order * stride + 1, True)
    axis_plan(wide, ((order, stride), (order + 2, stride)), wide.size, evaluated=True)
    short = Axis("narrow", 0, 1, order * stride, True)
    with pytest.raises(ValueError, match=rf"'narrow' has {short.size} samples.*at least {wide.size}"):
        axis_plan(short, ((order, stride),), short.size, evaluated=True)


def test_halo():
    assert [halo(order, 2) for order in ORDERS] == [2, 4, 6, 8]
    assert halo("spectral", 3) == 0


@pytest.mark.parametrize("accuracy", [2, 4, 6, 8])
def test_noise_that_grows_with_distance_passes_second_derivatives_as_twice_first_ones(accuracy):
    # Central weights of second derivatives are 2 / j times those of first ones, around a period too.
    ring = axis_plan(Axis("t", 0, 3, 30, periodic=True), ((accuracy, 1),), 30, evaluated=False)
    line = axis_plan(Axis("t", 0, 3, 31), ((accuracy, 1),), 31, evaluated=False)
    away = accuracy // 2
    for gains in (ring.gains, line.gains[:, away:-away]):
        np.testing.assert_allclose(gains[3], 2 * gains[0])
    nodes = Axis("t", 0, 3, 30, periodic=True, nodes=tuple(np.arange(30) / 10))
    gains = axis_plan(nodes, ((accuracy, 1),), 30, evaluated=False).gains
    np.testing.assert_allclose(gains, np.broadcast_to(gains[:, :1], gains.shape))
