"""Points far from 0 in float64 or whole numbers, while JAX computes in float32."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manifold_jax import Axis, Grid, gram_from_grid, jet_from_grid, measure, reach
from manifold_jax.geometry.manifold import as_points

TURN = 2 * math.pi
CURVE = Grid((Axis("u", 0.0, TURN, 64, periodic=True),))
SURFACE = Grid((Axis("u", 0.0, TURN, 40, periodic=True), Axis("v", 0.0, TURN, 40, periodic=True)))


def circle(radius=1.0):
    u = CURVE.axes[0].samples()
    return radius * np.stack([np.cos(u), np.sin(u)], -1)


def torus(scale=1.0):
    u, v = np.meshgrid(*(axis.samples() for axis in SURFACE.axes), indexing="ij")
    wide = 2 + np.cos(v)
    return scale * np.stack([wide * np.cos(u), wide * np.sin(u), np.sin(v)], -1)


AREA = 8 * math.pi**2
CURVATURE = np.cos(SURFACE.axes[1].samples()) / (2 + np.cos(SURFACE.axes[1].samples()))  # Gauss
FARTHER = [4e6, 1e9, np.array([-1e9, 4e6, 0.0])]


def covers(estimate, truth):
    assert bool(estimate.resolved.all())
    assert (np.abs(np.asarray(estimate.value, np.float64) - truth) <= estimate.error).all()
    assert np.median(estimate.error) < 0.01 * np.abs(truth).max()


@pytest.mark.slow
@pytest.mark.parametrize("offset", [4e6, 1e9])
def test_circle(offset):
    points = circle() + offset
    geometry = measure(points, CURVE)
    covers(geometry.total_volume, TURN)
    covers(geometry.volume_element, np.ones(CURVE.shape))
    covers(geometry.second_form_norm, np.ones(CURVE.shape))
    result = reach(points, CURVE, geometry=geometry)
    assert result.resolved
    assert result.case == "tie"
    assert abs(result.value - 1) <= result.error < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("offset", FARTHER)
def test_torus(offset):
    geometry = measure(torus() + offset, SURFACE)
    covers(geometry.total_volume, AREA)
    covers(geometry.scalar_curvature, np.broadcast_to(2 * CURVATURE, SURFACE.shape))


@pytest.mark.slow
def test_reach_of_a_torus():
    result = reach(torus() + 1e9, SURFACE)
    assert result.resolved
    assert abs(result.value - 1) <= result.error < 0.01


def test_what_float64_has_lost_is_in_the_bars():
    # 1e12 eps = 2e-4: as much as if the circle lay at 2000 in float32.
    geometry, near = (measure(circle() + offset, CURVE) for offset in (1e12, 0.0))
    assert (np.abs(np.asarray(geometry.second_form_norm.value) - 1) <= geometry.second_form_norm.error).all()
    assert (np.asarray(geometry.rounding.second_form_norm) > 100 * near.rounding.second_form_norm).all()


def test_single_precision_far_away_has_wide_bars():
    volume = measure((circle() + 4e6).astype(np.float32), CURVE).total_volume
    assert not volume.resolved
    assert abs(volume.value - TURN) <= volume.error


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint32])
def test_whole_numbers(kind):
    points = np.round(circle(1e5) + 4e8).astype(kind)
    geometry = measure(points, CURVE)
    covers(geometry.total_volume, TURN * 1e5)
    exact = measure(points.astype(float) - 4e8, CURVE)  # the circle itself is exact in float32
    for far, near in zip(geometry.fields, exact.fields, strict=True):
        np.testing.assert_allclose(far.value, near.value, rtol=2e-4)
    assert geometry.volume_element.value.dtype == jnp.float32


def test_images_of_whole_numbers_are_measured_as_they_are():
    images = np.round(128 + 100 * circle()[:, None, :]).astype(np.uint8)
    for held in (images, jnp.asarray(images)):
        geometry = measure(held, CURVE, smooth=5)
        np.testing.assert_allclose(geometry.total_volume.value, 100 * TURN, rtol=0.01)
        assert abs(geometry.total_volume.value - 100 * TURN) <= geometry.total_volume.error
    same = measure(images.astype(np.float32), CURVE, smooth=5)
    np.testing.assert_allclose(geometry.volume_element.value, same.volume_element.value, rtol=1e-6)
    with pytest.raises(ValueError, match="points must be real numbers, got bool"):
        measure(images > 100, CURVE)


@pytest.mark.slow
def test_a_memory_map_is_centred_block_by_block(tmp_path):
    np.save(tmp_path / "points.npy", torus() + 4e6)
    stored = np.load(tmp_path / "points.npy", mmap_mode="r")
    checked = as_points("test", stored, SURFACE)
    assert checked.kind == "file"
    assert np.shares_memory(checked.values, stored)
    mapped, held = (measure(points, SURFACE, block_size=400) for points in (stored, torus() + 4e6))
    covers(mapped.total_volume, AREA)
    np.testing.assert_array_equal(mapped.volume_element.value, held.volume_element.value)


def test_points_near_0_are_left_as_they_are():
    assert as_points("test", torus() + 3.0, SURFACE).centre is None
    assert as_points("test", torus() + 300.0, SURFACE).centre is not None
    assert as_points("test", (torus() + 300.0).astype(np.float32), SURFACE).centre is None
    with jax.enable_x64(True):
        assert as_points("test", torus() + 300.0, SURFACE).centre is None
    broken = torus() + 4e6
    broken[3, 4] = np.nan
    with pytest.raises(ValueError, match=r"points must be finite.*first at index \(3, 4\)"):
        measure(broken, SURFACE)


def test_derivatives():
    points = circle() + 4e6
    np.testing.assert_allclose(gram_from_grid(points, CURVE).metric[..., 0, 0], 1.0, rtol=1e-4)
    jet = jet_from_grid(points, CURVE)
    np.testing.assert_allclose(jet.first[:, 0], circle()[:, ::-1] * [-1, 1], atol=1e-4)


@pytest.mark.slow
def test_constants_of_a_program():
    points = circle() + 4e6
    within = jax.jit(lambda scale: scale * measure(points, CURVE).total_volume.value)(2.0)
    np.testing.assert_allclose(within, 2 * TURN, rtol=1e-5)
