"""Reach from samples: the plug-in estimator, estimated tangents, rounding, refusals."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from manifold_jax import Axis, Grid, distortion_radius, reach, reach_from_samples, tangent_ball_radius
from manifold_jax.datasets import ellipse as ellipse_manifold
from manifold_jax.datasets import torus
from manifold_jax.fitting.truth import draw, exact_field
from manifold_jax.geometry.reach import pairs
from manifold_jax.geometry.reach.cloud import SAMPLE
from manifold_jax.geometry.reach.distortion import widest_gap
from manifold_jax.geometry.reach.scales import fit_scales

TURN = 2 * math.pi


def ellipse(n, seed=0):
    t = np.random.default_rng(seed).uniform(0, TURN, n)
    points = np.stack([2 * np.cos(t), np.sin(t)], -1)
    return points, np.stack([-2 * np.sin(t), np.cos(t)], -1)[:, None]


def sphere(n, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, 3))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x, np.linalg.svd(x[:, None])[2][:, 1:]


@pytest.mark.parametrize("cloud", [ellipse, pytest.param(sphere, marks=pytest.mark.slow)])
def test_it_is_the_plug_in_and_biased_upwards(cloud, x64):
    points, tangents = cloud(400)
    estimate = reach_from_samples(points, tangents, dimension=tangents.shape[1], noise=0.0)
    assert estimate.value == pytest.approx(oracle.tangent_balls(points, tangents)[0].min(), rel=1e-6)
    true = 0.5 if cloud is ellipse else 1.0
    assert estimate.value >= true * (1 - 1e-6)


def test_local_fits_do_not_depend_on_where_the_cloud_lies():
    t = np.random.default_rng(0).uniform(0, TURN, 1024)
    circle = np.stack([np.cos(t), np.sin(t)], -1).astype(np.float32)
    near, far = (fit_scales(circle + np.float32(shift), 1, 8) for shift in (0, 30))
    # The points themselves are rounded to 30 * 6e-8.
    across = np.linalg.norm(near.frames - (near.frames @ np.swapaxes(far.frames, 1, 2)) @ far.frames, axis=2)
    assert across.max() < 1e-3
    assert far.noise < 1e-5


@pytest.mark.slow
def test_fits_are_exact_on_spheres_of_any_size(x64):
    """Chords in the place of tangential parts: |y - x|^2 / 2 R is a quadratic function of them."""
    for points, d in ((ellipse(60)[0] / [2, 1], 1), (sphere(120)[0], 2)):
        known = fit_scales(3 * points, d, d * (d + 3) + 4)
        np.testing.assert_allclose(known.curvature, 1 / 3, rtol=2e-2)
        assert known.noise < 1e-3
        low, high = known.largest_curvature
        assert low <= 1 / 3 <= high


@pytest.mark.parametrize("sigma", [1e-4, 1e-2])
@pytest.mark.thorough
def test_the_noise_is_measured(sigma, x64):
    points = ellipse(1000)[0]
    noisy = points + sigma * np.random.default_rng(1).normal(size=points.shape)
    assert fit_scales(noisy, 1, 8).noise == pytest.approx(sigma, rel=0.2)
    assert fit_scales(points, 1, 8).noise < 1e-6


def test_no_pair_is_no_reach(x64):
    points, tangents = ellipse(400)
    estimate = reach_from_samples(points, tangents, dimension=1, separation=10.0)
    assert math.isinf(estimate.value)
    assert not estimate.resolved
    with pytest.raises(ValueError, match="separation must be a finite number, at least 0"):
        reach_from_samples(points, tangents, dimension=1, separation=-1.0)
    with pytest.raises(ValueError, match=r"must be a whole number, from 4 to 399, got 8\.5"):
        reach_from_samples(points, dimension=1, neighbours=8.5)


@pytest.mark.parametrize("n", [1024, *(pytest.param(n, marks=pytest.mark.slow) for n in (128, 8192, 65536))])
def test_float32_samples_do_not_collapse(n):
    points, tangents = ellipse(n)
    single = [np.asarray(x, np.float32) for x in (points, tangents)]
    estimate = reach_from_samples(*single, dimension=1)
    assert abs(estimate.value - 0.5) <= max(estimate.error, 0.01)
    assert estimate.value > 0.49
    assert estimate.case == "local"


def test_float32_follows_float64():
    points, tangents = ellipse(1024)
    single = reach_from_samples(np.float32(points), np.float32(tangents), dimension=1)
    with jax.enable_x64(True):
        double = reach_from_samples(points, tangents, dimension=1)
    assert np.all(np.abs(single.pointwise - double.pointwise) <= 2 * single.pointwise_error + 1e-3)


@pytest.mark.parametrize("tile_size", [None, 64])
def test_points_at_the_same_place_are_left_out_and_counted(tile_size, x64):
    points, tangents = ellipse(395)
    twice = [np.concatenate([x, x[:5]]) for x in (points, tangents)]
    estimate, single = (
        reach_from_samples(*x, dimension=1, tile_size=tile_size) for x in (twice, (points, tangents))
    )
    assert estimate.coincident == 10
    assert estimate.value == pytest.approx(single.value, rel=1e-12)
    assert "coincide" in estimate.sentence()
    assert dict(estimate.to_xarray().sizes) == {"point": 400}


def test_tangents_are_second_order(x64):
    # The error of a quadratic fit falls with the square of the neighbourhood: 1/n^2 on a curve.
    errors = []
    for n in (250, 1000):
        points, tangents = ellipse(n, seed=2)
        frames = fit_scales(points, 1, 8).frames
        unit = tangents[:, 0] / np.linalg.norm(tangents[:, 0], axis=1, keepdims=True)
        errors.append(np.median(1 - np.abs(np.sum(frames[:, 0] * unit, axis=1))) ** 0.5)
    assert math.log(errors[0] / errors[1]) / math.log(4) > 1.6


@pytest.mark.slow
def test_estimate_tangents_give_the_reach(x64):
    points, _ = ellipse(2000)
    estimate = reach_from_samples(points, dimension=1)
    assert abs(estimate.value - 0.5) <= 0.02
    ball, _ = sphere(1500)
    assert abs(reach_from_samples(ball, dimension=2).value - 1.0) <= 0.1


def test_separation_leaves_near_pairs_out(x64):
    points, tangents = ellipse(400)
    near = reach_from_samples(points, tangents, dimension=1)
    far = reach_from_samples(points, tangents, dimension=1, separation=0.5)
    assert near.value < far.value
    chord = np.linalg.norm(np.diff(far.pair, axis=0))
    assert chord >= 0.5


def test_progress_reaches_the_end():
    seen = []
    points, tangents = ellipse(1024)
    reach_from_samples(
        np.float32(points),
        np.float32(tangents),
        dimension=1,
        tile_size=256,
        progress=lambda *x: seen.append(x),
    )
    assert seen[-1] == (1024, 1024)


def test_the_ratio_of_one_pair_and_its_gradient(x64):
    # x = (1, 0), y = (0, t): v = (-1, t) has the normal part 1, so that R = (1 + t^2) / 2.
    x, frame = jnp.array([1.0, 0.0]), jnp.array([[0.0, 1.0]])
    radius = jax.jit(jax.value_and_grad(lambda t: tangent_ball_radius(x, jnp.stack([0.0, t]), frame)))
    value, slope = radius(1.0)
    assert float(value) == pytest.approx(1.0)
    assert float(slope) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "wrap",
    [
        jax.jit,
        *(
            pytest.param(wrap, marks=pytest.mark.slow)
            for wrap in (lambda f: f, lambda f: lambda y: jax.vmap(f)(y[None])[0])
        ),
    ],
)
def test_the_ratio_in_the_tangent_plane_is_infinite_with_derivative_0(wrap):
    x, frame = jnp.array([1.0, 0.0]), jnp.array([[0.0, 1.0]])
    for y in (x, jnp.array([1.0, 2.0])):
        for argument in (0, 1):
            radius = wrap(lambda z, a=argument, y=y: tangent_ball_radius(*((z, y), (x, z))[a], frame))
            value, slope = jax.value_and_grad(radius)((x, y)[argument])
            assert float(value) == np.inf
            np.testing.assert_array_equal(slope, 0.0)


# --- bars ------------------------------------------------------------------------------------------------

KEY = jax.random.key(0)
ROWS = {
    "ellipse 3:1": (ellipse_manifold((3.0, 1.0)), 1 / 3),
    "ellipse 10:1": (ellipse_manifold((10.0, 1.0)), 0.1),
    "torus": (torus(2.0, 0.5), 0.5),
}


def estimates(name, n, sigma, repeats, tangents, **options):
    """Value, bar and whether that is resolved, on samples uniform by volume with ambient noise."""
    manifold, _ = ROWS[name]
    for repeat in range(repeats):
        noise = ("ambient", sigma) if sigma else None
        sample = draw(jax.random.fold_in(KEY, repeat), (manifold,), [1.0], n, noise)
        frames = exact_field((manifold,), sample.coordinates, "tangent") if tangents else None
        yield reach_from_samples(sample.points, frames, dimension=manifold.grid.ndim, **options)


def check_coverage(name, n, sigma, repeats, tangents, **options):
    found = list(estimates(name, n, sigma, repeats, tangents, **options))
    resolved = [one for one in found if one.resolved]
    covered = [abs(one.value - ROWS[name][1]) <= one.error for one in resolved]
    assert sum(covered) >= 0.95 * len(covered), [(one.value, one.error) for one in resolved]
    return len(resolved) / len(found)


@pytest.mark.slow
@pytest.mark.parametrize("tangents", [True, False])
def test_bars_cover_few(tangents, x64):
    assert check_coverage("ellipse 3:1", 1000, 0.0, 3, tangents) == 1
    assert check_coverage("ellipse 3:1", 1000, 0.01, 2, tangents) < 1


@pytest.mark.slow
@pytest.mark.parametrize("tangents", [True, False])
def test_bars_cover_where_samples_are_few(tangents, x64):
    assert check_coverage("ellipse 10:1", 200, 0.0, 3, tangents) == 0  # its ends are hardly sampled
    assert check_coverage("torus", 200, 1e-3, 1, tangents) == 0


@pytest.mark.slow
@pytest.mark.parametrize("tangents", [True, False])
@pytest.mark.parametrize("sigma", [0.0, 1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("name", ROWS)
def test_bars_cover(name, sigma, tangents, x64):
    for n, repeats in ((100, 4), (400, 8), (1000, 4)):
        check_coverage(name, n, sigma, repeats, tangents, tolerance=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_the_curvature_estimate_covers_too(name, x64):
    for sigma in (0.0, 1e-3):
        check_coverage(name, 1000, sigma, 5, False, method="curvature", tolerance=0.2)


def test_noise_does_not_ruin_the_ratio(x64):
    points, tangents = ellipse(400)
    noisy = points + 1e-3 * np.random.default_rng(1).normal(size=points.shape)
    ruined = reach_from_samples(noisy, tangents, dimension=1, noise=0.0)
    assert oracle.tangent_balls(noisy, tangents)[0].min() < 0.05
    assert not ruined.resolved
    assert abs(ruined.value - 0.5) <= ruined.error
    for options in ({}, {"noise": 1e-3}, {"method": "curvature"}):
        estimate = reach_from_samples(noisy, tangents, dimension=1, **options)
        assert abs(estimate.value - 0.5) <= min(estimate.error, 0.1)


def test_repeats_are_taken_once_and_counted(x64):
    points, _ = ellipse(400)
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(400), 3))
    single, copies = (reach_from_samples(points[i], dimension=1) for i in (np.arange(400), order))
    assert (copies.value, copies.error) == pytest.approx((single.value, single.error), rel=1e-9)
    assert copies.coincident == 400 * 6
    assert "2400 pairs coincide" in copies.sentence()
    np.testing.assert_allclose(copies.pointwise, single.pointwise[order])
    met = copies.witness >= 0
    np.testing.assert_array_equal(points[order][copies.witness][met], points[single.witness[order]][met])


# --- shortest paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_chords_and_arcs_of_a_circle_give_its_radius(dtype, x64):
    half = np.array([0.01, 0.3, 0.8, 1.2, 1.5, 1.57, 2.0, 3.0], dtype)
    chord, arc = 6 * np.sin(np.minimum(half, math.pi / 2)), 6 * half
    radius = jax.jit(jax.vmap(distortion_radius))(chord, arc)
    assert radius.dtype == dtype
    # An arc is longer than its chord by the share half^2 / 6, which holds the rounding of both.
    rounding = 4 * np.finfo(dtype).eps / (half**2 / 6)
    assert np.all(np.abs(radius / 3 - 1) <= rounding)
    assert distortion_radius(1.0, 1.0) == distortion_radius(1.0, 0.5) == np.inf
    assert distortion_radius(1.0, jnp.inf) == 0.5
    assert all(jnp.isnan(distortion_radius(*ends)) for ends in ((jnp.nan, 1.0), (1.0, jnp.nan)))


def test_the_radius_of_an_arc_can_be_differentiated(x64):
    # c = 2 r sin(s / 2 r), so that along constant s dc = 2 (sin t - t cos t) dr with t = s / 2 r.
    t, r = 0.7, 3.0
    gradient = jax.jit(jax.grad(distortion_radius))
    slope = gradient(2 * r * math.sin(t), 2 * r * t)
    assert float(slope) == pytest.approx(1 / (2 * (math.sin(t) - t * math.cos(t))), rel=1e-9)
    assert gradient(1.0, 9.0) == 0.5


def blobs(n, seed=0, neck=0.3):
    """Two blobs with a neck between them, half of which is the reach; radii of curvature are above 0.4."""
    rng = np.random.default_rng(seed)
    t = rng.uniform(0, TURN, 8 * n)
    speed = np.hypot(2 * np.sin(t), np.cos(t) * (neck + (1 - neck) * (1 - 3 * np.sin(t) ** 2)))
    t = t[rng.uniform(0, 2.5, 8 * n) < speed][:n]
    return np.stack([2 * np.cos(t), np.sin(t) * (neck + (1 - neck) * np.cos(t) ** 2)], -1), rng


def test_paths_and_curvature_give_the_reach(x64):
    circle = ellipse(400)[0] * [0.5, 1.0]
    for points, true, error, case in ((circle, 1.0, 3e-3, "tie"), (ellipse(400)[0], 0.5, 0.05, "local")):
        estimate = reach_from_samples(points, dimension=1, method="distortion")
        assert abs(estimate.value - true) <= estimate.error <= error
        assert (estimate.case, estimate.resolved) == (case, True)
        assert estimate.bottleneck >= true - estimate.bottleneck_error


def test_paths_see_a_neck_through_noise(x64):
    points, rng = blobs(600)
    noisy = points + 0.01 * rng.normal(size=points.shape)
    plug_in, paths = (reach_from_samples(noisy, dimension=1, method=m) for m in ("plug-in", "distortion"))
    assert not plug_in.resolved
    assert (paths.resolved, paths.case) == (True, "global")
    assert abs(paths.value - 0.3) <= paths.error
    assert np.max(np.abs(np.abs(paths.pair) - [0.0, 0.3])) < 0.15


def test_paths_are_invariant(x64):
    points = blobs(600)[0]
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    first, turned = (
        reach_from_samples(x, dimension=1, method="distortion")
        for x in (points, np.repeat(1e3 * points @ turn + 7, 2, axis=0))
    )
    assert (first.resolved, turned.resolved) == (True, True)
    assert turned.value == pytest.approx(1e3 * first.value, rel=1e-6)
    assert turned.error == pytest.approx(1e3 * first.error, rel=1e-3)
    assert turned.coincident == 600 * 2
    assert turned.pointwise.shape == (1200,)


@pytest.mark.parametrize("gap", [0.02, 0.4])
def test_a_gap_below_the_spacing_is_not_resolved(gap, x64):
    angle = np.random.default_rng(0).uniform(0, TURN, 400)
    points = np.stack([np.cos(angle) + (2 + gap) * (np.arange(400) % 2), np.sin(angle)], -1)
    estimate = reach_from_samples(points, dimension=1, method="distortion")
    assert estimate.resolved == (gap == 0.4)
    assert abs(estimate.value - gap / 2) <= estimate.error


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 5])
def test_holes_between_samples_of_a_sphere_are_no_bottlenecks(seed):
    # Of 125 000 pairs some go far around a hole: the bar of the least radius knows how far.
    points = np.random.default_rng(seed).normal(size=(500, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    estimate = reach_from_samples(points, dimension=2, method="distortion")
    assert abs(estimate.value - 1) <= estimate.error


@pytest.mark.slow
def test_paths_do_not_cross_a_gap_that_chance_does_not_leave(x64):
    # 200 samples of an arc whose ends are 13 mean distances apart: tau = sin(0.2).
    angle = 0.2 + (TURN - 0.4) * np.random.default_rng(1).uniform(size=200)
    arc = np.stack([np.cos(angle), np.sin(angle)], -1)
    estimate = reach_from_samples(arc, dimension=1, method="distortion")
    assert abs(estimate.value - math.sin(0.2)) <= estimate.error <= 0.1


def test_chance_leaves_no_wider_gap_but_rarely():
    wider = 0
    for seed in range(100):
        places = np.sort(np.random.default_rng(seed).uniform(size=300))
        away = np.abs(places[:, None] - places[None])
        away = np.minimum(away, 1 - away)  # on a circle
        index = np.argsort(away, axis=1)[:, 1:17]
        gap = widest_gap(np.take_along_axis(away, index, axis=1), index, 1)
        after = np.roll(places, -1) - places
        wider += np.any(after % 1 > np.maximum(gap, np.roll(gap, -1)))
    assert wider <= 10


def test_few_points_tell_nothing(x64):
    points, tangents = ellipse(12)
    estimate = reach_from_samples(points, tangents, dimension=1)
    assert estimate.error == math.inf
    assert not estimate.resolved


@pytest.mark.slow
def test_a_straight_line_has_no_reach():
    flat = np.stack([np.linspace(0, 1, 40), np.zeros(40)], -1)
    assert not reach_from_samples(flat, dimension=1).resolved


POINTS, TANGENTS = ellipse(20)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reach_from_samples(POINTS[:, 0], dimension=1), "floating-point array"),
        (lambda: reach_from_samples(np.arange(8).reshape(4, 2), dimension=1), "floating-point array"),
        (lambda: reach_from_samples(POINTS, dimension=0), "dimension must be a whole number"),
        (lambda: reach_from_samples(POINTS, dimension=2), "dimension must be below the 2 feature"),
        (lambda: reach_from_samples(POINTS[:2], TANGENTS[:2], dimension=1), "points must be at least 3"),
        (lambda: reach_from_samples(POINTS, TANGENTS[:, :, :1], dimension=1), "tangents must have shape"),
        (lambda: reach_from_samples(POINTS, TANGENTS[:5], dimension=1), "tangents must have shape"),
        (lambda: reach_from_samples(POINTS, TANGENTS * np.nan, dimension=1), "tangents must be finite"),
        (lambda: reach_from_samples(POINTS, TANGENTS * 0, dimension=1), "got dependent vectors"),
        (lambda: reach_from_samples(POINTS * np.nan, TANGENTS, dimension=1), "NaN or infinite"),
        (lambda: reach_from_samples(np.ones((9, 2)), TANGENTS[:9], dimension=1), "one place"),
        (
            lambda: reach_from_samples(POINTS, dimension=1, neighbours=2),
            "neighbours, of the smallest local fit, must be",
        ),
        (lambda: reach_from_samples(POINTS, TANGENTS, dimension=1, tile_size=0), "tile_size"),
        (
            lambda: reach_from_samples(np.ones((5001, 2)), dimension=1, method="distortion"),
            "n x n distances, for up to 5000 points, got 5001; thin the samples",
        ),
        (lambda: jax.jit(lambda p: reach_from_samples(p, dimension=1).value)(POINTS), "cannot be traced"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.thorough
def test_points_off_the_directions_of_the_sample_still_decide(dtype, x64):
    """Long points are screened in directions that a sample shows; a few points lie elsewhere."""
    random, n = np.random.default_rng(1), 700
    hidden = np.random.default_rng(0).permutation(n)[SAMPLE:][:4]
    t = np.sort(random.uniform(0, TURN, n))
    points, tangents = np.zeros((2, n, 120))
    points[:, :2] = np.stack([np.cos(t), np.sin(t)], -1)
    tangents[:, :2] = np.stack([-np.sin(t), np.cos(t)], -1)
    points[hidden, 2 + np.arange(4)] += [0.3, 0.1, 3e-2, 1e-2]
    waves = np.arange(1, 101)
    points[:, 6:106] = 1e-5 * np.sin(t[:, None] * waves)
    tangents[:, 6:106] = 1e-5 * waves * np.cos(t[:, None] * waves)
    turn = np.linalg.qr(random.normal(size=(120, 120)))[0]
    points, tangents = ((x @ turn).astype(dtype) for x in (points, tangents))
    result = reach_from_samples(points, tangents[:, None], dimension=1, noise=0)
    tau, witness = oracle.tangent_balls(points.astype(float), tangents[:, None].astype(float))
    # In float32 the formula meets the rounding of near points, which the search leaves out.
    far = np.linalg.norm(points - points[witness], axis=1) > (0.02 if dtype == np.float32 else 0)
    assert np.isin(witness[far], hidden).sum() > 10
    np.testing.assert_allclose(result.pointwise[far], tau[far], rtol=1e-4 if dtype == np.float32 else 1e-9)
    np.testing.assert_array_equal(result.witness[far], witness[far])


@pytest.mark.thorough
def test_tangents_off_the_directions_of_the_points(x64):
    """Samples on an ellipse in a plane, whose tangents leave it: the screen compares two coordinates."""
    t = np.arange(64) * TURN / 64
    points, tangents = np.zeros((2, 64, 100))
    points[:, :2] = np.stack([np.cos(t), np.sin(t) / 2], -1)
    tangents[:, :2] = np.stack([-np.sin(t), np.cos(t) / 2], -1)
    tangents[:, 50] = 0.3 * np.cos(3 * t)
    result = reach_from_samples(points, tangents[:, None], dimension=1, noise=0)
    tau, _ = oracle.tangent_balls(points, tangents[:, None])
    np.testing.assert_allclose(result.pointwise, tau, rtol=1e-9)


@pytest.mark.parametrize("held", [None, 1000])
@pytest.mark.thorough
def test_pairs_that_may_be_too_close_do_not_hide_others(held, x64, monkeypatch):
    """Two lines nearer than the separation; a facing pair is off the directions of the sample."""
    if held:
        monkeypatch.setattr(pairs, "HELD", held)
    points, tangents = np.zeros((2, 800, 64))
    points[:, 0], points[400:, 1], tangents[:, 0] = 0.07 * (np.arange(800) % 400), 0.099, 1
    shown = np.zeros(800, bool)
    shown[np.random.default_rng(0).permutation(800)[:SAMPLE]] = True
    hidden = int(np.flatnonzero(~shown[:400] & ~shown[400:])[10])
    points[[hidden, hidden + 400], 60] = 0.02
    result = reach_from_samples(points, tangents[:, None], dimension=1, noise=0, separation=0.1)
    tau, _ = oracle.tangent_balls(points, tangents[:, None], separation=0.1)
    np.testing.assert_allclose(result.pointwise, tau, rtol=1e-9)


@pytest.mark.thorough
def test_points_that_no_sample_tells_apart():
    points = np.zeros((600, 64), np.float32)
    points[np.random.default_rng(0).permutation(600)[-1]] = 1
    result = reach(points, Grid((Axis("u", 0.0, 1.0, 600),)))
    assert not result.resolved
