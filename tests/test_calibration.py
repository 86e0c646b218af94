"""Estimators against closed forms and an oracle, and the bench that compares them with exact geometry."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from manifold_jax import Axis, Grid, Manifold, gram_from_function, reach_from_samples, scalar_curvature
from manifold_jax.datasets import circle, flat_torus, hyperboloid, sphere, torus
from manifold_jax.fitting.calibration import calibrate
from manifold_jax.fitting.calibration_table import Calibration, Row, error_curves, ranking
from manifold_jax.fitting.dimension import intrinsic_dimension
from manifold_jax.fitting.estimators import (
    Estimator,
    builtin_estimators,
    volume_from_samples,
)
from manifold_jax.fitting.geodesic_balls import ball_volume, graph_distances, scalar_curvature_from_balls
from manifold_jax.fitting.truth import exact_field, exact_total, largest_angle
from manifold_jax.geometry.local_fit import (
    curvature_from_samples,
    local_pca_tangents,
    local_quadratic_fit,
)

KEY = jax.random.key(0)
CIRCLE, TORUS = circle(), torus()  # sampling is compiled once per object and size
RNG = np.random.default_rng


def on_sphere(n, d=2, seed=0):
    x = RNG(seed).normal(size=(n, d + 1))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def on_torus(n, seed=0):
    """Points of the default torus, uniform in the angles, and S at them."""
    u, v = RNG(seed).uniform(0, 2 * np.pi, (2, n))
    ring = 2 + 0.5 * np.cos(v)
    return np.stack([ring * np.cos(u), ring * np.sin(u), 0.5 * np.sin(v)], -1), 2 * np.cos(v) / (0.5 * ring)


def rms(x):
    return float(np.sqrt(np.mean(np.square(x))))


# --- local fits ------------------------------------------------------------------------------------------


def test_a_quadratic_graph_over_the_given_plane_is_recovered_to_rounding(x64):
    form = RNG(0).normal(size=(3, 2, 2))

    def graph(t):
        return jnp.concatenate([t, jnp.einsum("aij,i,j->a", jnp.asarray(form), t, t)])

    t = np.concatenate([np.zeros((1, 2)), RNG(1).uniform(-1, 1, (60, 2))])
    points = jax.vmap(graph)(jnp.asarray(t))
    frames = np.broadcast_to(np.eye(2, 5), (61, 2, 5))
    fit = local_quadratic_fit(points, dimension=2, neighbours=12, tangents=jnp.asarray(frames))
    exact = gram_from_function(graph, jnp.asarray(t))
    for mine, true in zip(fit.gram, exact, strict=True):
        np.testing.assert_allclose(mine, true, atol=1e-9 * float(jnp.max(jnp.abs(true))))
    np.testing.assert_allclose(fit.residual, 0, atol=1e-12)
    np.testing.assert_allclose(fit.gram.metric[0], np.eye(2), atol=1e-12)  # the vertex


def numpy_fit(points, i, k, d):
    """Frame and S by singular vectors, ``lstsq`` and the oracle's index sums."""
    near = np.argsort(np.linalg.norm(points - points[i], axis=1))[: k + 1]
    y = points[near] - points[i]
    frame = np.linalg.svd(y - y.mean(axis=0), full_matrices=False)[2][:d]
    t = y @ frame.T
    upper = np.triu_indices(d)
    design = np.concatenate([np.ones((k + 1, 1)), t, t[:, upper[0]] * t[:, upper[1]]], axis=1)
    coefficients = np.linalg.lstsq(design, y - t @ frame, rcond=None)[0]
    second = np.zeros((d, d, points.shape[1]))
    for place, (a, b) in enumerate(zip(*upper, strict=True)):
        second[a, b] = second[b, a] = coefficients[1 + d + place] * (2 if a == b else 1)
    jet = (frame + coefficients[1 : 1 + d], second)
    return frame, oracle.geometry(oracle.inner(jet))


@pytest.mark.slow
@pytest.mark.parametrize("ambient", [pytest.param(3, marks=pytest.mark.slow), 40])
def test_fits_match_an_independent_regression(ambient, x64):
    points = on_torus(150)[0] @ np.linalg.qr(RNG(2).normal(size=(ambient, 3)))[0].T + 5
    k = 14
    fit = local_quadratic_fit(jnp.asarray(points), dimension=2, neighbours=k, block_size=64)
    frames = np.asarray(local_pca_tangents(jnp.asarray(points), dimension=2, neighbours=k))
    for i in (0, 77, 149):
        frame, true = numpy_fit(points, i, k, 2)
        assert largest_angle(frames[i][None], frame[None])[0] < 1e-9
        assert float(scalar_curvature(fit.gram)[i]) == pytest.approx(
            float(true["scalar_curvature"]), rel=1e-8
        )


@pytest.mark.slow
def test_curvature_is_invariant_under_isometries_and_scales_as_it_should(x64):
    points = jnp.asarray(on_torus(300)[0])
    turn = jnp.asarray(np.linalg.qr(RNG(3).normal(size=(10, 3)))[0].T)
    for quantity, power in (("scalar_curvature", 2), ("mean_curvature", 1)):
        find = partial(curvature_from_samples, dimension=2, quantity=quantity)
        plain = find(points)
        np.testing.assert_allclose(find(points @ turn + 1), plain, rtol=1e-6)
        np.testing.assert_allclose(find(3 * points), plain / 3**power, rtol=1e-6)


@pytest.mark.slow
def test_quadratic_regression_converges_on_the_sphere_and_the_torus(x64):
    errors = [rms(curvature_from_samples(jnp.asarray(on_sphere(n)), dimension=2) - 2) for n in (300, 1200)]
    assert errors[1] < 0.1
    assert errors[0] / errors[1] > 3  # O(h^2) = O(1/n), for a sphere has no cubic terms
    points, exact = on_torus(1200)
    coarse, values = on_torus(300)
    fine = rms(curvature_from_samples(jnp.asarray(points), dimension=2) - exact)
    assert rms(curvature_from_samples(jnp.asarray(coarse), dimension=2) - values) / fine > 2


@pytest.mark.slow
def test_quadratic_regression_converges_in_three_dimensions(x64):
    for quantity, true in (("scalar_curvature", 6.0), ("mean_curvature", 1.0), ("second_form_norm", 3**0.5)):
        find = partial(curvature_from_samples, dimension=3, quantity=quantity)
        errors = [rms(find(jnp.asarray(on_sphere(n, 3))) / true - 1) for n in (500, 4000)]
        assert errors[1] < 0.1
        assert errors[0] / errors[1] > 3  # O(n^(-2/3)) is 4


@pytest.mark.slow
def test_tangents_converge_and_the_quadratic_fit_has_the_better_ones(x64):
    errors = {}
    for n in (300, 1200):
        x = on_sphere(n)
        true = np.linalg.svd(x[:, None])[2][:, 1:]
        errors[n, "pca"] = rms(largest_angle(local_pca_tangents(jnp.asarray(x), dimension=2), true))
        errors[n, "fit"] = rms(largest_angle(local_quadratic_fit(jnp.asarray(x), dimension=2).tangents, true))
    assert errors[300, "pca"] / errors[1200, "pca"] > 1.6  # O(h) is 2
    assert errors[300, "fit"] / errors[1200, "fit"] > 3
    assert errors[1200, "fit"] < 0.1 * errors[1200, "pca"]


@pytest.mark.slow
def test_radius_and_weights_choose_the_neighbours(x64):
    x = jnp.asarray(on_sphere(300))
    fit = local_quadratic_fit(x, dimension=2, neighbours=30, radius=0.35)
    assert float(jnp.nanmax(fit.radius)) <= 0.35
    assert not bool(jnp.all(fit.radius == fit.radius[0]))
    far = local_quadratic_fit(x, dimension=2, neighbours=30, radius=0.05)
    assert not far.ok.any()  # too few points within it
    assert np.isnan(far.tangents).all()
    assert np.isnan(scalar_curvature(far.gram)).all()
    weighted = curvature_from_samples(x, dimension=2, neighbours=30, weights="tricube")
    assert rms(weighted - 2) < rms(curvature_from_samples(x, dimension=2, neighbours=30) - 2)


@pytest.mark.slow
def test_points_that_span_too_little_are_marked():
    line = jnp.stack([jnp.linspace(0, 1, 40), jnp.zeros(40), jnp.zeros(40)], axis=-1)
    assert np.isnan(local_pca_tangents(line, dimension=2, neighbours=8)).all()
    assert not local_quadratic_fit(line, dimension=2, neighbours=8).ok.any()
    same = jnp.ones((40, 3))
    assert not local_quadratic_fit(same, dimension=2, neighbours=8).ok.any()


@pytest.mark.slow
def test_gradients_where_eigenvalues_or_points_repeat(x64):
    # A square lattice in R^5: both leading eigenvalues are equal, and so are the other three.
    plane = np.stack(np.meshgrid(*[np.arange(3.0)] * 2), -1).reshape(-1, 2)
    points, weight = np.pad(plane, ((0, 0), (0, 3))), np.random.default_rng(0).normal(size=(5, 5))

    @jax.jit
    def projector(x):
        frame = local_pca_tangents(x, dimension=2, neighbours=8)[4]
        return jnp.sum(weight * (frame.T @ frame))

    slope = np.asarray(jax.grad(projector)(jnp.asarray(points)))
    move = np.random.default_rng(1).normal(size=points.shape)
    want = (projector(points + 1e-5 * move) - projector(points - 1e-5 * move)) / 2e-5
    assert np.sum(slope * move) == pytest.approx(float(want), rel=1e-6)
    # A sample that is there twice lies at distance 0 from its neighbour, and the graph fits a plane exactly.
    twice = jnp.asarray(np.concatenate([points, points[:3]]))
    # And the points of a line, which determine no graph, do not spoil the others.
    line = 9 + jnp.arange(12.0)[:, None] * jnp.eye(5)[:1]

    def residuals(x):
        fit = local_quadratic_fit(x, dimension=2, neighbours=9)
        return jnp.sum(jnp.where(fit.ok, fit.residual, 0.0)), fit.ok

    for x, count in ((twice, 12), (jnp.concatenate([twice, line]), 12)):
        slope, ok = jax.grad(residuals, has_aux=True)(x)
        assert int(ok.sum()) == count
        assert np.isfinite(slope).all()


@pytest.mark.slow
def test_float32_stays_float32_and_close():
    points, exact = on_torus(600)
    value = curvature_from_samples(jnp.asarray(points, jnp.float32), dimension=2)
    assert value.dtype == jnp.float32
    with jax.enable_x64(True):
        double = np.asarray(curvature_from_samples(jnp.asarray(points), dimension=2))
    assert rms(value - double) < 1e-3 * rms(exact)


# --- geodesic balls --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "true"), [(2, 2.0), (3, 6.0)])
def test_ball_volumes_give_the_curvature_from_exact_arcs(d, true):
    x = on_sphere(1500, d)
    arcs = np.arccos(np.clip(x @ x.T, -1, 1))
    density = np.full(len(x), 1 / ((d + 1) * ball_volume(d + 1)))
    balls = scalar_curvature_from_balls(dimension=d, distances=arcs, density=density)
    # One point is uncertain by 1/sqrt(points of its ball); the mean over all of them is not.
    assert np.mean(balls.scalar_curvature) == pytest.approx(true, rel=0.06)
    larger = scalar_curvature_from_balls(dimension=d, distances=3 * arcs, density=density / 3**d)
    np.testing.assert_allclose(larger.scalar_curvature, balls.scalar_curvature / 9, rtol=1e-9)


def test_ball_volumes_match_plain_sums():
    x = on_sphere(60)
    arcs, d, h = np.arccos(np.clip(x @ x.T, -1, 1)), 2, 0.9
    balls = scalar_curvature_from_balls(dimension=d, distances=arcs, bandwidth=h, radii=(0.5, 1.2))
    kernel = np.where(arcs < h, (1 - (arcs / h) ** 2) ** 2, 0)
    np.fill_diagonal(kernel, 0)
    density = kernel.sum(axis=1) / (59 * h**2 * np.pi / 3)  # the biweight integrates to pi/3 over the disk
    np.testing.assert_allclose(balls.density, density)
    r = np.linspace(0.5, 1.2, 32)
    volumes = np.array([[sum(1 / density[j] for j in range(60) if j != i and arcs[i, j] <= s) for s in r]
                        for i in range(3)]) / 59  # fmt: skip
    slope = [np.linalg.lstsq((r**2)[:, None], v / (np.pi * r**2) - 1, rcond=None)[0][0] for v in volumes]
    np.testing.assert_allclose(balls.scalar_curvature[:3], -24 * np.array(slope))


def test_graph_distances_are_shortest_paths():
    x = on_sphere(40)
    paths, components = graph_distances(jnp.asarray(x), neighbours=5)
    lengths = np.linalg.norm(x[:, None] - x, axis=2)
    near = np.argsort(lengths, axis=1)[:, 1:6]
    edges = np.full((40, 40), np.inf)
    np.fill_diagonal(edges, 0)
    for i, row in enumerate(near):
        edges[i, row] = edges[row, i] = lengths[i, row]
    for k in range(40):  # Floyd and Warshall
        edges = np.minimum(edges, edges[:, k, None] + edges[k])
    np.testing.assert_allclose(paths, edges, rtol=1e-5)
    assert components == 1


def test_a_lost_component_is_marked():
    x = np.concatenate([on_sphere(200), 100 + 1e-3 * on_sphere(3)])
    balls = scalar_curvature_from_balls(jnp.asarray(x), dimension=2, neighbours=2)
    assert balls.components > 1
    assert not balls.ok[-3:].any()
    assert np.isnan(balls.scalar_curvature[-3:]).all()
    assert balls.ok[:200].mean() > 0.8


# --- totals ----------------------------------------------------------------------------------------------


def test_the_volume_is_unbiased_on_the_sphere_for_few_neighbours():
    # Caps of chord r have area pi r^2 exactly, so that nothing but the factor n/k can be wrong.
    clouds = jnp.asarray(np.stack([on_sphere(100, seed=s) for s in range(80)]))
    for k in (1, 4):
        volumes = jax.vmap(partial(volume_from_samples, dimension=2, neighbours=k))(clouds)
        standard_error = float(jnp.std(volumes)) / 80**0.5
        assert abs(float(jnp.mean(volumes)) - 4 * math.pi) < 3 * standard_error < 0.05 * 4 * math.pi


@pytest.mark.slow
def test_the_volume_does_not_depend_on_the_density():
    t = RNG(0).uniform(0, 1, 4000)
    angle = 2 * np.pi * t + 0.6 * np.sin(2 * np.pi * t)  # density 1 / (2 pi + 1.2 pi cos)
    circles = jnp.asarray(np.stack([3 * np.cos(angle), 3 * np.sin(angle)], -1))
    assert float(volume_from_samples(circles, dimension=1)) == pytest.approx(6 * math.pi, rel=0.02)


# --- exact values ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_exact_values_agree_with_and_without_closed_forms(x64):
    known = torus()
    bare = dataclasses.replace(known, known={}, name="bare")
    u = (jnp.asarray(RNG(0).uniform(0, 6, (9, 2))),)
    for name in ("scalar_curvature", "mean_curvature", "second_form_norm", "normal_curvature"):
        np.testing.assert_allclose(exact_field((known,), u, name), exact_field((bare,), u, name), rtol=1e-10)
    assert exact_total((bare,), "volume") == pytest.approx(exact_total((known,), "volume"), rel=1e-10)
    assert exact_total((bare,), "reach") == pytest.approx(exact_total((known,), "reach"), rel=1e-6)
    frames = exact_field((known,), u, "tangent")
    first = np.asarray(jax.vmap(jax.jacfwd(known.embedding))(u[0]))
    np.testing.assert_allclose(
        np.einsum("ndf,nef->nde", frames, frames), np.eye(2) + np.zeros((9, 1, 1)), atol=1e-12
    )
    rest = first - np.einsum("ndf,ndg,ngi->nfi", frames, frames, first)
    np.testing.assert_allclose(rest, 0, atol=1e-12)


def test_largest_angle():
    a = 1e-5
    plane = np.array([[[1.0, 0, 0], [0, 1, 0]]])
    tilted = np.array([[[2.0, 0, 0], [1, math.cos(a), math.sin(a)]]])  # neither unit nor orthogonal
    assert largest_angle(tilted, plane)[0] == pytest.approx(math.sin(a), rel=1e-9)
    assert np.isnan(largest_angle(plane * [[[1], [0]]], plane)[0])
    assert np.isnan(largest_angle(plane * np.nan, plane)[0])


# --- calibrate -------------------------------------------------------------------------------------------


def torus_curvature(points, **_):
    ring = jnp.hypot(points[:, 0], points[:, 1])
    return 2 * (ring - 2) / 0.5 / (0.5 * ring)


def one(estimators, manifold, size=40, **options):
    return calibrate(estimators, manifold, [size], key=KEY, warm_up=False, **options).rows[0]


@pytest.mark.thorough
def test_the_truth_has_no_error_and_a_known_bias_is_found(x64):
    scale = one(("scalar_curvature", torus_curvature), TORUS).scale
    exact = torus_curvature
    shifted = Estimator("shifted", "scalar_curvature", lambda x, dimension: exact(x) + 0.25 * scale)
    turned = Estimator(
        "alternating", "scalar_curvature", lambda x, dimension: exact(x) + scale * (-1) ** jnp.arange(40)
    )
    right = Estimator("exact", "scalar_curvature", exact)
    rows = calibrate([right, shifted, turned], TORUS, [40], key=KEY, warm_up=False).rows
    assert max(rows[0].rmse, rows[0].largest, abs(rows[0].bias)) < 1e-12
    for name in ("bias", "rmse", "median", "largest"):
        assert getattr(rows[1], name) == pytest.approx(0.25, abs=1e-12)
    assert rows[2].bias == pytest.approx(0, abs=1e-12)
    assert rows[2].rmse == rows[2].median == pytest.approx(1, abs=1e-12)
    u = exact_samples(TORUS, 40)
    assert scale == pytest.approx(rms(jax.vmap(TORUS.known["scalar_curvature"])(u)))


def exact_samples(manifold, size):
    seen = []
    calibrate(
        ("volume", lambda x, dimension: seen.append(x) or 1.0), manifold, [size], key=KEY, warm_up=False
    )
    x = np.asarray(seen[0])
    ring = np.hypot(x[:, 0], x[:, 1])
    return jnp.asarray(np.stack([np.arctan2(x[:, 1], x[:, 0]), np.arctan2(x[:, 2], ring - 2)], -1))


@pytest.mark.parametrize(
    ("quantity", "function", "bias"),
    [
        ("volume", lambda x, dimension: 1.1 * 2 * math.pi, 0.1),
        ("reach", lambda x, dimension: 0.5, -0.5),
        ("dimension", lambda x, dimension: dimension, 0.0),
        ("dimension", lambda x, dimension: jnp.full(len(x), 3.0), 2.0),
        ("tangent", lambda x, dimension: x[:, None], 1.0),
        ("tangent", lambda x, dimension: (x @ jnp.array([[0.0, 1.0], [-1.0, 0.0]]))[:, None], 0.0),
        ("mean_curvature", lambda x, dimension: jnp.full(len(x), 1.5), 0.5),
        pytest.param("fit", lambda x, dimension: lambda y: 1.25 * y, 0.25, marks=pytest.mark.slow),
    ],
)
@pytest.mark.thorough
def test_every_quantity_on_the_circle(quantity, function, bias):
    row = one((quantity, function), CIRCLE, 200)
    # The RMS distance from the centroid of a sample is 1 up to O(1/n).
    assert row.bias == pytest.approx(bias, abs=1e-2 if quantity == "fit" else 2e-6)
    assert row.failed == 0.0


UP = jnp.array([[0.0, 0.0], [0.0, 1.0]])


@pytest.mark.slow
def test_a_fit_that_slides_along_the_manifold_is_perfect_and_one_that_misses_half_is_not():
    turn = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
    slid = one(("fit", lambda x, dimension: lambda y: y @ turn), CIRCLE, 200)
    # Nothing but the spacing of 500 random points: the largest gap is about 2 pi log(500) / 500 = 0.08.
    assert slid.largest < 0.08
    half = one(
        ("fit", lambda x, dimension: lambda y: y * jnp.array([1.0, 0.0]) + jnp.abs(y) @ UP), CIRCLE, 200
    )
    # All images lie on the upper half: (0, -1) is sqrt(2) away from the nearest, (1, 0).
    assert half.largest == pytest.approx(math.sqrt(2), abs=0.02)


@pytest.mark.slow
def test_flat_manifolds_are_measured_against_their_natural_scale():
    wrong = Estimator("wrong", "scalar_curvature", lambda x, dimension: jnp.full(len(x), 1.0))
    row = one(wrong, flat_torus(2, (1.0, 1.0)))
    assert row.reference == "RMS of |II|^2"
    assert row.bias == pytest.approx(0.5)  # |II|^2 = 1/r_1^2 + 1/r_2^2 = 2
    plane = Manifold(
        "plane", lambda u: jnp.append(u, 0.0), Grid((Axis("x", 0.0, 1.0, 5), Axis("y", 0.0, 1.0, 5)))
    )
    assert one(wrong, plane).reference.startswith("none")


@pytest.mark.thorough
def test_failed_points_are_counted_and_not_averaged():
    half = Estimator(
        "half", "mean_curvature", lambda x, dimension: jnp.where(jnp.arange(len(x)) % 2, 1.2, jnp.nan)
    )
    row = one(half, CIRCLE)
    assert row.failed == 0.5
    assert row.rmse == pytest.approx(0.2, rel=1e-5)
    assert row.penalised == pytest.approx(math.sqrt(0.5 * 0.04 + 0.5), rel=1e-5)


def test_samples_follow_from_key_seed_and_size_and_are_shared():
    clouds = []

    def look(points, *, dimension, key):
        clouds.append(np.asarray(points))
        return 1.0

    first = Estimator("first", "volume", look, needs=("dimension", "key"))
    pair = [first, dataclasses.replace(first, name="second")]
    calibrate(pair, CIRCLE, [40, 200], key=KEY, seeds=[0, 1], warm_up=False)
    calibrate(first, CIRCLE, [200], key=KEY, seeds=[1], warm_up=False)
    np.testing.assert_array_equal(clouds[0], clouds[1])
    assert not np.array_equal(clouds[0], clouds[2])  # another seed
    np.testing.assert_array_equal(clouds[6], clouds[8])  # whatever else was asked for
    calibrate(first, CIRCLE, [200], key=jax.random.key(1), seeds=[1], warm_up=False)
    assert not np.array_equal(clouds[8], clouds[9])


def test_the_first_seed_is_called_twice_so_that_all_times_are_warm():
    calls = []
    estimator = Estimator("count", "volume", lambda x: calls.append(1) or 1.0, needs=())
    rows = calibrate(estimator, CIRCLE, [20], key=KEY, seeds=[3, 4]).rows
    assert len(calls) == 3
    assert all(row.warm and row.seconds > 0 for row in rows)
    assert [
        row.warm for row in calibrate(estimator, CIRCLE, [20], key=KEY, seeds=[3, 4], warm_up=False).rows
    ] == [
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("noise", "deviation"),
    [
        (None, 0.0),
        (("ambient", 0.1), 0.1),
        (("normal", 0.1), 0.1),
        (("normal-uniform", 0.3), 0.3 / 3**0.5),
        (lambda key, part, u, x: 1.1 * x, 0.1),
    ],
)
@pytest.mark.thorough
def test_noise_moves_the_points_and_not_the_truth(noise, deviation):
    radial = Estimator("radius", "mean_curvature", lambda x, dimension: jnp.linalg.norm(x, axis=1))
    row = one(radial, CIRCLE, 1000, noise=noise)
    assert row.rmse == pytest.approx(deviation, abs=0.01)  # the truth is 1
    assert (row.noise == "") == (noise is None)


@pytest.mark.slow
def test_unions_share_the_samples_by_volume():
    small, large = CIRCLE, dataclasses.replace(circle(3.0), name="large")
    sizes = []

    def radii(points, *, dimension):
        sizes.append(int(jnp.sum(jnp.linalg.norm(points, axis=1) > 2)))
        return 1 / jnp.linalg.norm(points, axis=1)

    row = one(("mean_curvature", radii), [(small, large)], 80)
    assert sizes == [60]
    assert row.manifold == "circle+large"
    assert row.rmse < 1e-5
    assert one(("volume", lambda x, dimension: 8 * math.pi), [(small, large)]).rmse < 1e-6


@pytest.mark.thorough
def test_failures_are_sentences(recwarn):
    def broken(points, *, dimension):
        raise RuntimeError("no convergence")

    lost = Estimator("lost", "mean_curvature", lambda x, dimension: jnp.full(len(x), jnp.nan))
    with pytest.raises(
        ValueError, match=r"estimator 'broken' raised RuntimeError on 40 samples of 'circle': no conv"
    ):
        one(("volume", broken), CIRCLE)
    with pytest.raises(
        ValueError, match=r"'lost' returned no finite value on 40 samples of 'circle'; finite mean_"
    ):
        one(lost, CIRCLE)
    small = Estimator("small", "volume", lambda x, dimension: 1.0, most=30)
    rows = calibrate([("volume", broken), lost, small], CIRCLE, [40], key=KEY, on_error="record").rows
    assert [row.failed for row in rows] == [1.0, 1.0, 1.0]
    assert "no convergence" in rows[0].status
    assert "no finite value" in rows[1].status
    assert rows[2].status == "left out: takes up to 30 points"
    with pytest.raises(
        ValueError, match=r"'<lambda>' must return numbers of shape \(40,\) for 'mean_curvature', got"
    ):
        one(("mean_curvature", lambda x, dimension: jnp.ones(3)), CIRCLE, on_error="record")
    with pytest.raises(ValueError, match=r"for 'reach', got a Reach, which is not an array"):
        one(("reach", reach_from_samples), CIRCLE, on_error="record")
    with pytest.raises(ValueError, match=r"must return numbers of shape \(40, 1, 2\) for 'tangent'"):
        one(("tangent", lambda x, dimension: x), CIRCLE)
    with pytest.raises(ValueError, match="a fit returns a function that projects points, got"):
        one(("fit", lambda x, dimension: x), CIRCLE)


@pytest.mark.slow
def test_built_in_estimators_are_close_to_the_truth():
    table = calibrate(builtin_estimators(), hyperboloid(), [400], key=KEY, warm_up=False)
    error = {(row.quantity, row.estimator): row.median for row in table.rows}
    del error["scalar_curvature", "geodesic balls"]  # a boundary is beyond them
    assert len(error) == 15
    assert max(error.values()) < 0.3
    assert all(row.failed < 0.05 for row in table.rows)


# --- tables ----------------------------------------------------------------------------------------------


def row(estimator, size, rmse, seed=0, failed=0.0, status=""):
    return Row(
        estimator, "volume", "m", 2, 3, size, seed, "", 0.0, rmse, rmse, rmse, failed, 1.0, status=status
    )


def test_ranking_by_mean_rank_with_failures_last():
    rows = [row("a", 10, 0.3), row("b", 10, 0.1), row("c", 10, 0.3)]
    rows += [row("a", 20, 0.1), row("b", 20, 0.2), row("c", 20, np.nan, failed=1.0, status="raised")]
    ranks = ranking(Calibration(tuple(rows)))
    assert [(rank.estimator, rank.rank) for rank in ranks] == [("b", 1.5), ("a", 1.75), ("c", 2.75)]
    assert ranks[0].error == 0.2
    assert ranks[2].error == math.inf


def test_ranking_goes_by_sizes_not_by_their_order():
    rows = [row("a", 10, 0.1), row("a", 20, 0.01), row("b", 20, 0.02), row("b", 10, 0.2), row("c", 10, 0.05)]
    ranks = ranking(Calibration(tuple(rows)))
    # c is missing at 20, which counts as infinite.
    assert [(rank.estimator, rank.rank) for rank in ranks] == [("a", 1.5), ("c", 2.0), ("b", 2.5)]
    assert [rank.error for rank in ranks] == [0.01, math.inf, 0.02]


def test_an_estimator_that_answers_rarely_does_not_win():
    rows = [row("rare", 10, 0.01, failed=0.9), row("steady", 10, 0.2)]
    assert ranking(Calibration(tuple(rows)))[0].estimator == "steady"


def test_error_curves_take_medians_and_slopes():
    rows = [row("a", n, s / n, seed) for n in (10, 40, 20) for seed, s in enumerate((1.0, 3.0, 2.0))]
    rows.append(row("a", 80, np.nan, failed=1.0, status="raised"))
    curve = error_curves(Calibration(tuple(rows)))[0]
    assert curve.sizes.tolist() == [10, 20, 40]
    np.testing.assert_allclose(curve.error, [0.2, 0.1, 0.05])
    np.testing.assert_allclose(curve.high, 3 * curve.low)
    assert curve.slope == pytest.approx(-1)
    assert Calibration(tuple(rows)).to_dicts()[0]["estimator"] == "a"


# --- refusals --------------------------------------------------------------------------------------------

CLOUD = jnp.asarray(on_sphere(20))
APART = jnp.asarray(np.stack([np.add.outer(100.0 * np.arange(10), np.arange(3)).ravel(), np.zeros(30)], -1))
VOLUME = ("volume", lambda x, dimension: 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: local_pca_tangents(CLOUD, dimension=3), "dimension must be below the 3 feature"),
        (
            lambda: local_pca_tangents(CLOUD, dimension=0),
            "dimension must be a whole number, at least 1, got 0",
        ),
        (lambda: local_pca_tangents(jnp.ones(4), dimension=1), r"floating-point array of shape \(n, \*feat"),
        (lambda: local_quadratic_fit(CLOUD, dimension=2), "neighbours must be a whole number, from 6 to 19"),
        (lambda: local_quadratic_fit(CLOUD, dimension=2, weights="gauss"), "weights must be one of"),
        (
            lambda: local_quadratic_fit(CLOUD, dimension=2, neighbours=8, radius=np.ones(3)),
            "radius must be one",
        ),
        (
            lambda: local_quadratic_fit(CLOUD, dimension=2, neighbours=8, tangents=CLOUD),
            r"shape \(20, 2, 3\)",
        ),
        (
            lambda: local_quadratic_fit(CLOUD, dimension=2, neighbours=8, block_size=0),
            "block_size must be a whole",
        ),
        (lambda: curvature_from_samples(CLOUD, dimension=2, quantity="torsion"), "quantity must be one of"),
        (
            lambda: volume_from_samples(CLOUD.at[3].set(jnp.nan), dimension=2),
            "NaN or infinite values at 1 of 20 points",
        ),
        (lambda: intrinsic_dimension(CLOUD, neighbours=0), "neighbours must be a whole number, at least 2"),
        (lambda: scalar_curvature_from_balls(dimension=0, distances=jnp.eye(9)), "dimension must be a whole"),
        (
            lambda: scalar_curvature_from_balls(APART, dimension=1, neighbours=2),
            "in 10 components: take more",
        ),
        (
            lambda: volume_from_samples(CLOUD, dimension=2, neighbours=20),
            "whole number, from 1 to 19, got 20",
        ),
        (lambda: intrinsic_dimension(CLOUD, method="PCA"), "method must be one of"),
        (
            lambda: graph_distances(CLOUD, neighbours=20),
            "neighbours must be a whole number, from 1 to 19, got 20",
        ),
        (lambda: scalar_curvature_from_balls(CLOUD, dimension=2, most=10), "takes up to 10 points, got 20"),
        (lambda: scalar_curvature_from_balls(dimension=2), "give points or a matrix of distances"),
        (lambda: scalar_curvature_from_balls(dimension=2, distances=CLOUD), r"shape \(n, n\)"),
        (
            lambda: scalar_curvature_from_balls(CLOUD, dimension=2, neighbours=5, radii=(1, 0.5)),
            "radii must be a pair of finite numbers",
        ),
        (
            lambda: scalar_curvature_from_balls(CLOUD, dimension=2, neighbours=5, bandwidth=0),
            "bandwidth must be",
        ),
        (
            lambda: scalar_curvature_from_balls(CLOUD, dimension=2, neighbours=5, density=[1.0]),
            "density must have",
        ),
        (lambda: Estimator("e", "torsion", len), "estimator 'e': quantity must be one of"),
        (lambda: Estimator("e", "volume", 3), "estimator 'e': function must be a function of samples"),
        (
            lambda: Estimator("e", "volume", len, needs=("seed",)),
            "estimator 'e': needs may hold 'dimension', 'key', got 'seed'",
        ),
        (lambda: builtin_estimators("torsion"), "quantities may hold"),
        (lambda: one([], CIRCLE), "estimators must be at least one, got none"),
        (lambda: one([len], CIRCLE), "estimators must be Estimators or pairs"),
        (lambda: one([VOLUME, VOLUME], CIRCLE), "two estimators of 'volume' have the name '<lambda>'"),
        (
            lambda: one(VOLUME, "sphere"),
            "calibrate: manifold must be a Manifold or a sequence of them, got 'sphere'",
        ),
        (lambda: one(VOLUME, [CIRCLE, CIRCLE]), "manifolds need different names"),
        (lambda: one(VOLUME, [(CIRCLE, sphere())]), "the parts of a union need one feature shape"),
        (lambda: one(VOLUME, CIRCLE, 1), "every one of sizes must be a whole number, at least 2"),
        (lambda: one(VOLUME, CIRCLE, seeds=[1, 1]), "seeds must be different whole numbers"),
        (lambda: one(VOLUME, CIRCLE, noise=("salt", 0.1)), "kind of noise must be one of 'ambient'"),
        (
            lambda: one(VOLUME, CIRCLE, noise=("normal", -1)),
            "scale of the noise must be a finite number, at least 0",
        ),
        (
            lambda: one(VOLUME, CIRCLE, noise=("ambient", "a")),
            "scale of the noise must be a finite number, at least 0",
        ),
        (lambda: one(VOLUME, CIRCLE, on_error="ignore"), "on_error must be one of 'raise', 'record'"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
