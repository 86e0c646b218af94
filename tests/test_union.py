"""Unions scaled to unit volume: spheres and circles of known radii and centres."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from manifold_jax import Axis, Grid, Manifold, measure_union
from manifold_jax.datasets import sphere
from manifold_jax.plotting import plot_union

TURN = 2 * math.pi
SPHERES = sphere(size=(24, 20)).grid
RADII, CENTRES = (1.0, 0.5, 0.5), (0.0, 2.0, -2.5)
CIRCLES = Grid((Axis("angle", 0.0, TURN, 48, True),))


def ball(radius, centre, u):
    polar, azimuth = u
    ring = jnp.sin(polar) * jnp.stack([jnp.cos(azimuth), jnp.sin(azimuth)])
    return jnp.append(ring, jnp.cos(polar)) * radius + jnp.stack([centre, 0 * polar, 0 * polar])


def circles(scale=1.0):
    """Circles of radii 1 and 1/2 whose gap is 3/10, as arrays."""
    u = np.asarray(CIRCLES.coordinates())[:, 0]
    turn = np.stack([np.cos(u), np.sin(u)], -1)
    return [scale * turn, scale * (turn / 2 + [1.8, 0.0])]


def close(estimate, truth):
    assert bool(estimate.resolved)
    assert abs(float(estimate.value) - truth) <= float(estimate.error) <= 0.1 * abs(truth)


@pytest.fixture(scope="module")
def spheres():
    parts = [Manifold("ball", Partial(ball, *pair), SPHERES) for pair in zip(RADII, CENTRES, strict=True)]
    return measure_union(parts, exact=True, with_reach=False, tolerance=0.1)


def test_spheres_have_their_shares_and_total_curvatures(spheres):
    volume = 4 * math.pi * sum(r**2 for r in RADII)
    close(spheres.volume, volume)
    assert spheres.scale == pytest.approx(volume**-0.5, rel=1e-4)
    for part, radius in zip(spheres.classes, RADII, strict=True):
        close(part.volume, 4 * math.pi * radius**2 / volume)
        close(part.total_scalar_curvature, 8 * math.pi)
        close(part.total_positive_curvature, 8 * math.pi)
        assert abs(float(part.total_negative_curvature.value)) <= float(part.total_negative_curvature.error)
    close(spheres.total_scalar_curvature, 24 * math.pi)


def test_distances_between_spheres(spheres):
    for pair in spheres.distances:
        gap = abs(CENTRES[pair.first] - CENTRES[pair.second]) - RADII[pair.first] - RADII[pair.second]
        nearest = float(pair.nearest.value) / spheres.scale
        assert gap <= nearest * (1 + 1e-5)
        assert nearest - gap <= float(pair.nearest.error) / spheres.scale
    # At equal angles two spheres of one radius lie one shift apart.
    close(spheres.distances[2].paired, 4.5 * spheres.scale)
    assert spheres.distances[2].least_paired == pytest.approx(4.5 * spheres.scale, rel=1e-5)


@pytest.mark.thorough
def test_reach_of_each_circle_alone_and_together(x64):
    union = measure_union(circles(), CIRCLES, noise=0.0)
    scale = union.scale
    assert scale == pytest.approx(1 / (3 * math.pi), rel=1e-3)
    for part, radius in zip(union.classes, (1.0, 0.5), strict=True):
        close(part.volume, radius / 1.5)
        close(part.alone.least, radius * scale)
        close(part.alone.mean, radius * scale)
        close(part.together.least, 0.15 * scale)
        assert 0.15 * scale < float(part.together.mean.value) < radius * scale
        assert 0 < part.stopped < 1
    close(union.least_reach, 0.15 * scale)
    means = [float(part.together.mean.value) for part in union.classes]
    assert float(union.mean_reach.value) == pytest.approx((2 * means[0] + means[1]) / 3, rel=1e-3)
    assert float(union.total_scalar_curvature.value) == 0.0  # of a curve
    # The mean of |turn / 2 - (1.8, 0)| over a circle, by a fine sum.
    u = np.linspace(0, TURN, 1000, endpoint=False)
    close(union.distances[0].paired, scale * np.hypot(np.cos(u) / 2 - 1.8, np.sin(u) / 2).mean())
    figure = plot_union(circles(), union)
    assert [len(axes.patches) > 0 for axes in figure.axes] == [False, True, True, False]
    lines = union.summary().splitlines()
    assert len(lines) == 2 + 2 + 1 + 1
    assert "others stop" in lines[2]
    assert "nearest" in lines[-1]


@pytest.mark.thorough
def test_scaling_everything_changes_nothing(x64):
    one, other = (measure_union(circles(scale), CIRCLES, noise=0.0) for scale in (1.0, 8.0))
    assert float(other.volume.value) == pytest.approx(8 * float(one.volume.value), rel=1e-12)
    for small, large in zip(one.classes, other.classes, strict=True):
        pairs = [(small.volume, large.volume), (small.together.least, large.together.least)]
        pairs += [(small.alone.mean, large.alone.mean)]
        for a, b in pairs:
            assert float(a.value) == pytest.approx(float(b.value), rel=1e-9)
    a, b = (union.distances[0].nearest for union in (one, other))
    assert float(a.value) == pytest.approx(float(b.value), rel=1e-9)
    assert float(a.error) == pytest.approx(float(b.error), rel=1e-6)


@pytest.mark.slow
def test_total_curvature_of_three_spheres_is_scaled_by_a_length():
    """Of S^3 it is 6 / r^2 times 2 pi^2 r^3."""
    names, scaled = ("a", "b"), []
    for radius in (1.0, 3.0):
        part = sphere(3, radius, size=12)
        union = measure_union([part, part], names=names, exact=True, with_reach=False, with_distances=False)
        scaled.append(union.total_scalar_curvature)
    volume = 4 * math.pi**2
    for estimate in scaled:
        assert abs(float(estimate.value) - 24 * math.pi**2 * volume ** (-1 / 3)) <= float(estimate.error)
    assert float(scaled[0].value) == pytest.approx(float(scaled[1].value), rel=1e-5)


def test_bars_of_shares_hold_those_of_all_volumes(x64):
    part = measure_union(circles(), CIRCLES, noise=0.0, with_reach=False, with_distances=False)
    first, second = part.classes
    assert float(first.volume.value) + float(second.volume.value) == pytest.approx(1.0, rel=1e-6)
    relative = [float(g.total_volume.error / g.total_volume.value) for g in part.geometries]
    assert float(first.volume.error) >= float(first.volume.value) * min(relative) / 3
    alone = measure_union(circles()[:1], CIRCLES, noise=0.0, with_reach=False)
    assert float(alone.classes[0].volume.value) == 1.0
    assert alone.distances == ()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="equally many features"):
        measure_union([circles()[0], np.zeros((48, 3))], CIRCLES)
    with pytest.raises(ValueError, match="non-empty sequence of Manifolds, or of arrays on a grid"):
        measure_union(circles())
