"""Totals against closed forms: parts of one sign, poles, curves, scales, what is not finite."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from manifold_jax import Axis, Grid, datasets, measure
from manifold_jax.geometry.totals import quadrature, split_cells

TURN = 2 * math.pi
CLOSED_FORMS = {
    "total_volume": 4 * math.pi**2,
    "total_scalar_curvature": 0.0,
    "total_positive_curvature": 8 * math.pi,
    "total_negative_curvature": -8 * math.pi,
}


# Samples lie on S = 0 for n divisible by 4; odd n have no half rule.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "accuracy"),
    [(33, 8), (24, 4), (24, 8), (33, 4), (24, "spectral"), (33, "spectral")],
)
def test_parts_of_one_sign_of_a_torus_are_within_their_bars(n, accuracy, x64):
    geometry = measure(datasets.torus(2.0, 0.5, size=n), accuracy=accuracy)
    for name, true in CLOSED_FORMS.items():
        total = getattr(geometry, name)
        assert abs(float(total.value) - true) <= float(total.error), name
        assert bool(total.resolved)
    # The correction is worth a power of h: without it 0.0094 is missing at n = 33.
    assert abs(float(geometry.total_positive_curvature.value) - 8 * math.pi) < 5e-3


@pytest.mark.parametrize("shift", np.linspace(0.0, 1.0, 7))
def test_cut_cells_by_a_wave_of_any_phase(shift, x64):
    # The positive part of cos has the integral 2; the trapezoid rule misses it by h^2 / 6 to h^2 / 12.
    n = 40
    axis = Axis("t", 0.0, TURN, n, periodic=True)
    wave = jnp.cos(axis.samples() + shift * axis.spacing)
    excess, error = split_cells(wave, Grid((axis,)), quadrature(Grid((axis,)), (4,), float))
    plain = float(jnp.sum(jnp.maximum(wave, 0.0)) * axis.spacing)
    assert abs(plain - float(excess) - 2.0) < axis.spacing**4
    assert abs(plain - float(excess) - 2.0) <= float(error)


def test_a_cut_along_a_diagonal_counts_once(x64):
    # Positive part of cos(a + b) over a torus: 2 * 2 pi.
    n = 32
    axes = tuple(Axis(name, 0.0, TURN, n, periodic=True) for name in "ab")
    t = axes[0].samples()
    wave = jnp.cos(t[:, None] + t[None, :] + 0.3)
    excess, error = split_cells(wave, Grid(axes), quadrature(Grid(axes), (4, 4), float))
    plain = float(jnp.sum(jnp.maximum(wave, 0.0)) * axes[0].spacing ** 2)
    assert abs(plain - float(excess) - 4 * math.pi) <= float(error) < 0.1


@pytest.mark.slow
def test_poles_do_not_spoil_the_totals_of_a_sphere(x64):
    geometry = measure(datasets.sphere(2))
    for name, true in (("total_volume", 4 * math.pi), ("total_scalar_curvature", 8 * math.pi)):
        total = getattr(geometry, name)
        assert abs(float(total.value) - true) <= float(total.error) < 1e-3, name


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 1e-6, pytest.param(1e-5, marks=pytest.mark.slow)])
def test_rows_at_the_poles_neither_spoil_the_totals_nor_depend_on_the_scale(noise, x64):
    # sin(pi) is 1e-16 in float64, and noise leaves a pole a metric of its own.
    axes = Axis("t", 0.0, math.pi, 17), Axis("p", 0.0, TURN, 16, periodic=True)
    t, p = np.meshgrid(*(np.asarray(axis.samples(), np.float64) for axis in axes), indexing="ij")
    points = np.stack([np.sin(t) * np.cos(p), np.sin(t) * np.sin(p), np.cos(t)], axis=-1)
    points += noise * np.random.default_rng(1).normal(size=points.shape)
    ones = measure(points, Grid(axes))
    eights = measure(8 * points, Grid(axes))  # exact in binary: rounding is that of the others
    for name, true in (("total_volume", 4 * math.pi), ("total_scalar_curvature", 8 * math.pi)):
        one, eight, scale = getattr(ones, name), getattr(eights, name), 64 if "volume" in name else 1
        assert bool(one.resolved)
        assert abs(float(one.value) - true) <= float(one.error) < 0.1 * true, name
        np.testing.assert_allclose(float(eight.value), scale * float(one.value), rtol=1e-12)
        np.testing.assert_allclose(float(eight.error), scale * float(one.error), rtol=1e-6)


@pytest.mark.parametrize("accuracy", [4, pytest.param(2, marks=pytest.mark.slow)])
def test_a_curve_has_no_scalar_curvature(accuracy):
    geometry = measure(datasets.ellipse((3.0, 1.0), size=64), accuracy=accuracy)
    for name in ("total_scalar_curvature", "total_positive_curvature", "total_negative_curvature"):
        total = getattr(geometry, name)
        assert float(total.value) == float(total.error) == 0.0
        assert bool(total.resolved)
    assert not np.asarray(geometry.scalar_curvature.value).any()
    assert np.asarray(geometry.scalar_curvature.resolved).all()


@pytest.mark.slow
def test_units_of_the_axes_change_no_total():
    for scales in ((1.0, 1.0), (1e-3, 1e3), (1e-5, 1e-5), (1e5, 1e5)):
        axes = tuple(Axis(n, 0.0, TURN * s, 48, periodic=True) for n, s in zip("ab", scales, strict=True))
        a, b = np.meshgrid(*(axis.samples() / s for axis, s in zip(axes, scales, strict=True)), indexing="ij")
        radius = 2 + 0.5 * np.cos(b)
        points = np.stack([radius * np.cos(a), radius * np.sin(a), 0.5 * np.sin(b)], -1).astype(np.float32)
        geometry = measure(points, Grid(axes))
        for name, true in CLOSED_FORMS.items():
            total = getattr(geometry, name)
            assert bool(total.resolved)
            assert abs(float(total.value) - true) <= float(total.error), (scales, name)


def test_a_volume_whose_squares_underflow_is_not_resolved():
    axis = Axis("t", 0.0, TURN, 64, periodic=True)
    t = axis.samples()
    circle = 1e-25 * np.stack([np.cos(t), np.sin(t)], axis=-1)
    total = measure(circle.astype(np.float32), Grid((axis,))).total_volume
    assert not bool(total.resolved)


@pytest.mark.parametrize("scale", [1e-15, pytest.param(1e20, marks=pytest.mark.slow)])
def test_squares_out_of_range_are_not_a_total(scale):
    axis = Axis("t", 0.0, TURN, 24, periodic=True)
    t = axis.samples()
    flat = np.stack([np.cos(t), np.sin(t), 0 * t], axis=-1)[:, None, :] + np.linspace(0, 1, 20)[None, :, None]
    grid = Grid((axis, Axis("s", 0.0, 1.0, 20)))  # that of test_measure: compiled once
    geometry = measure((scale * flat).astype(np.float32), grid)
    total = geometry.total_scalar_curvature
    assert not bool(total.resolved)
    assert np.isnan(total.value)
    assert np.isinf(total.error)
