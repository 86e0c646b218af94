"""Neighbours, fitted manifolds and distances against SciPy, NumPy loops, closed forms and orders."""

import sys
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.tree_util import Partial
from scipy.spatial import cKDTree
from scipy.spatial.distance import directed_hausdorff

from manifold_jax.datasets import circle, helix, sphere, torus, two_moons
from manifold_jax.datasets.compose import warped
from manifold_jax.fitting.distances import (
    distances_to_manifold,
    fit_distances,
    hausdorff_distance,
    summarise_distances,
)
from manifold_jax.fitting.moving_least_squares import moving_least_squares
from manifold_jax.fitting.nearest_points import nearest_points
from manifold_jax.fitting.projections import STATUS, local_pca_projection, project_with_status
from manifold_jax.geometry import neighbours as search
from manifold_jax.geometry.neighbours import nearest_neighbours


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def rotation(size, seed=0):
    return np.linalg.qr(random(size, size, seed=seed))[0]


# --- neighbours --------------------------------------------------------------------------------------------


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("features", "count"), [(40, 7), pytest.param(3, 7, marks=SLOW), pytest.param(40, 500, marks=SLOW)]
)
@pytest.mark.thorough
def test_neighbours_match_a_tree(x64, monkeypatch, features, count):
    monkeypatch.setattr(search, "TILE_NUMBERS", 40 * 130)  # several tiles, the last one overlapping
    samples, queries = random(500, features), random(61, features, seed=1)
    nearest = nearest_neighbours(
        samples.reshape(500, -1, 1), queries.reshape(61, -1, 1), count, block_size=16
    )
    distances, indices = cKDTree(samples).query(queries, count)
    np.testing.assert_array_equal(nearest.indices, indices)
    np.testing.assert_allclose(nearest.distances, distances, rtol=1e-13)


def test_groups_of_columns_hold_the_smallest(x64):
    values = np.round(random(20, 512), 1)  # with many ties
    low, columns = jax.jit(partial(search.least_columns, count=9))(values)
    np.testing.assert_array_equal(low, np.sort(values, axis=1)[:, :9])
    np.testing.assert_array_equal(np.take_along_axis(values, np.asarray(columns), axis=1), low)
    assert all(len(set(row)) == 9 for row in np.asarray(columns).tolist())


def test_float32_neighbours_far_from_the_origin():
    """Two clusters 2e3 apart: the screen cannot tell points of one cluster from each other."""
    side = 1e3 * np.sign(random(400, 1, seed=3))
    cloud = (side + 1e-3 * random(400, 30)).astype(np.float32)
    nearest = nearest_neighbours(cloud, cloud[:40], 5)
    assert nearest.distances.dtype == jnp.float32
    exact = cloud.astype(np.float64)
    distances, _ = cKDTree(exact).query(exact[:40], 5)
    assert distances.max() < 0.01
    np.testing.assert_allclose(nearest.distances, distances, rtol=1e-5)
    squares = np.sum(cloud**2, axis=1)
    screen = squares[:40, None] + squares[None] - 2 * cloud[:40] @ cloud.T
    assert np.mean(np.argsort(screen, axis=1)[:, 0] == np.arange(40)) < 0.5  # what would go wrong


def test_duplicates_and_points_that_are_not_finite():
    cloud = np.repeat(random(67, 30), 6, axis=0)[:400].astype(np.float32)
    cloud[5] = np.nan
    nearest = nearest_neighbours(cloud, cloud[:240:6], 5)  # the shapes of the test above: compiled once
    np.testing.assert_array_equal(nearest.distances, 0.0)
    for row, first in zip(np.asarray(nearest.indices).tolist(), range(0, 240, 6), strict=True):
        assert len(set(row)) == 5
        assert all(first <= k < first + 6 and k != 5 for k in row)
    cloud[4:] = np.nan
    distances = nearest_neighbours(cloud, np.zeros((40, 30), np.float32), 5).distances
    assert np.isfinite(distances[:, :4]).all()
    assert np.isinf(distances[:, 4]).all()


@pytest.mark.slow
def test_block_sizes_jit_and_vmap_agree():
    samples, queries = (jnp.asarray(random(n, 33, seed=n), jnp.float32) for n in (300, 25))
    whole = nearest_neighbours(samples, queries, 6)
    nearest = nearest_neighbours(samples, queries, 6, block_size=7)  # the last block is filled up
    np.testing.assert_array_equal(nearest.indices, whole.indices)
    np.testing.assert_allclose(nearest.distances, whole.distances, rtol=1e-6)
    one = jax.jit(jax.vmap(lambda q: nearest_neighbours(samples, q[None], 6).indices[0]))(queries)
    np.testing.assert_array_equal(one, whole.indices)


@pytest.mark.slow
def test_neighbours_of_many_images_hold_one_tile():
    images = jax.ShapeDtypeStruct((65536, 4096), jnp.float32)
    compiled = search._exact.lower(images, images, 32, None).compile()
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < 2**28  # a quarter of the samples themselves


@pytest.mark.slow
def test_gradient_of_distances_is_the_unit_vector(x64):
    samples, query = random(50, 20), random(20, seed=1)
    gradient = jax.jit(jax.grad(lambda q: nearest_neighbours(samples, q[None], 1).distances[0, 0]))
    slope = gradient(query)
    nearest = samples[np.argmin(np.linalg.norm(samples - query, axis=1))]
    np.testing.assert_allclose(slope, (query - nearest) / np.linalg.norm(query - nearest), rtol=1e-12)
    np.testing.assert_array_equal(gradient(samples[3]), 0.0)


@pytest.mark.slow
def test_approximate_neighbours_find_nearly_all():
    """Nearly all of the time goes into the compilation of pynndescent."""
    pytest.importorskip("pynndescent")
    cloud = random(1000, 5).astype(np.float32)
    nearest = nearest_neighbours(cloud, cloud[:200], 10, method="approximate")
    exact = cKDTree(cloud).query(cloud[:200], 10)[1].tolist()
    common = [len(set(a) & set(b)) for a, b in zip(nearest.indices.tolist(), exact, strict=True)]
    assert np.mean(common) > 9.5
    np.testing.assert_allclose(
        nearest.distances, np.linalg.norm(cloud[nearest.indices] - cloud[:200, None], axis=2), atol=1e-5
    )
    assert np.all(np.diff(nearest.distances, axis=1) >= 0)


def test_approximate_neighbours_are_measured_and_sorted(monkeypatch):
    """A stand-in for the library that returns the right rows in a wrong order."""

    class Backwards:
        def __init__(self, data, n_neighbors, random_state):
            assert (n_neighbors, random_state) == (30, 0)
            self.tree = cKDTree(data)

        def query(self, queries, k):
            distances, indices = self.tree.query(queries, k)
            return indices[:, ::-1], distances[:, ::-1]

    monkeypatch.setitem(sys.modules, "pynndescent", SimpleNamespace(NNDescent=Backwards))
    cloud, queries = random(50, 5).astype(np.float32), random(4, 5, seed=1).astype(np.float32)
    nearest = nearest_neighbours(cloud, queries, 3, method="approximate")
    distances, indices = cKDTree(cloud).query(queries, 3)
    np.testing.assert_array_equal(nearest.indices, indices)
    np.testing.assert_allclose(nearest.distances, distances, rtol=1e-6)


def test_approximate_neighbours_say_what_is_missing(monkeypatch):
    cloud = jnp.ones((5, 2))
    monkeypatch.setitem(sys.modules, "pynndescent", None)
    with pytest.raises(ImportError, match=r'needs pynndescent: pip install "manifold_jax\[neighbours\]"'):
        nearest_neighbours(cloud, cloud, 1, method="approximate")
    with pytest.raises(ValueError, match="cannot be traced; call it outside of jit"):
        jax.jit(lambda x: nearest_neighbours(x, x, 1, method="approximate"))(cloud)


# --- local PCA ---------------------------------------------------------------------------------------------


def plane_loop(samples, points, dimension, count, sigma, power):
    """Weighted plane of the nearest samples, one point after the other; power 1 is that of the peer."""
    out = []
    for p in points:
        distance = np.linalg.norm(samples - p, axis=1)
        near = np.argsort(distance)[:count]
        w = np.exp(-(distance[near] ** power) / (2 * sigma**2))
        mean = (w[:, None] * samples[near]).sum(axis=0) / w.sum()
        rows = np.linalg.svd(np.sqrt(w)[:, None] * (samples[near] - mean), full_matrices=False)[2][:dimension]
        out.append(mean + (p - mean) @ rows.T @ rows)
    return np.array(out)


@pytest.mark.parametrize(
    ("features", "count", "dimension", "weights", "power"),
    [
        (40, 6, 1, "exponential", 1),
        pytest.param(3, 9, 2, "gaussian", 2, marks=SLOW),
        pytest.param(3, 9, 2, "exponential", 1, marks=SLOW),
        pytest.param(40, 32, 4, "exponential", 1, marks=SLOW),
    ],
)
@pytest.mark.thorough
def test_local_pca_equals_a_loop(x64, features, count, dimension, weights, power):
    samples, points = random(200, features), random(23, features, seed=1)
    project = local_pca_projection(
        samples, dimension=dimension, neighbours=count, weights=weights, sigma=1.3, block_size=8
    )
    expected = plane_loop(samples, points, dimension, count, 1.3, power)
    np.testing.assert_allclose(project(points), expected, rtol=0, atol=1e-10)


@pytest.mark.slow
def test_default_width_of_local_pca(x64):
    samples, points = random(64, 4), random(40, 4, seed=1)  # the shapes of the test of orders
    for point, image in zip(points, local_pca_projection(samples, dimension=1)(points), strict=True):
        sigma = np.sort(np.linalg.norm(samples - point, axis=1))[5] / 2
        np.testing.assert_allclose(image, plane_loop(samples, point[None], 1, 6, sigma, 2)[0], atol=1e-12)


@pytest.mark.slow
def test_defaults_of_local_pca_with_exponential_weights(x64):
    samples, points = random(60, 5), random(4, 5, seed=1)
    image = local_pca_projection(samples, dimension=2, weights="exponential")(points)
    np.testing.assert_allclose(image, plane_loop(samples, points, 2, 8, 1.0, 1), atol=1e-12)


@pytest.mark.slow
def test_tiny_width_does_not_underflow(x64):
    samples = np.stack([np.arange(20.0), np.zeros(20)], axis=1)
    # Two samples are equally near; all other weights are exp(-10^6) of theirs.
    project = local_pca_projection(samples, dimension=1, sigma=1e-3)
    np.testing.assert_allclose(project(jnp.array([4.5, 0.3])), [4.5, 0.0], atol=1e-12)


@pytest.mark.slow
def test_plane_that_is_not_singled_out_is_marked(x64):
    corners = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    project = local_pca_projection(corners, dimension=1, neighbours=4)
    assert np.isnan(project(jnp.zeros(2))).all()
    assert STATUS[int(project_with_status(project, jnp.zeros(2)).status)] == "degenerate"


@pytest.mark.slow
@pytest.mark.parametrize("features", [3, 12])
def test_derivatives_of_local_pca(x64, features):
    samples, point = random(40, features), random(features, seed=1)
    project = local_pca_projection(samples, dimension=2, neighbours=9)
    # The transpose of the forward derivative: both are right, or neither.
    both = jax.jit(lambda x: (project(x), jax.jacrev(project)(x)))
    np.testing.assert_allclose(both(point)[1], central(lambda x: both(x)[0], point), atol=1e-8)


@pytest.mark.slow
def test_derivative_where_eigenvalues_within_the_plane_are_equal(x64):
    ring = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    samples = np.stack([np.cos(ring), np.sin(ring), 0.1 * np.cos(4 * ring)], axis=1)
    project = local_pca_projection(samples, dimension=2, neighbours=8, sigma=1.0)
    both = jax.jit(lambda x: (project(x), jax.jacfwd(project)(x)))
    point = np.array([0.0, 0.0, 0.2])
    np.testing.assert_allclose(both(point)[1], central(lambda x: both(x)[0], point), atol=1e-8)


def central(function, point, step=1e-5):
    """Jacobian by central differences."""
    moves = step * np.eye(len(point))
    return np.stack([(function(point + v) - function(point - v)) / (2 * step) for v in moves], axis=1)


# --- moving least squares ----------------------------------------------------------------------------------


def space_curve(t):
    return np.stack([np.cos(t), np.sin(t), 0.4 * np.sin(2 * t + 0.3), 0.2 * np.cos(3 * t)], axis=-1)


SHAPES = {"dimension": 1, "degree": 2, "tolerance": 1e-14}
"""With 64 samples and 40 points, several tests share one compilation of this fit."""


def jittered(count, seed):
    t = np.arange(count) + np.random.default_rng(seed).uniform(-0.3, 0.3, count)
    return 2 * np.pi * t / count


def distance_to_curve(points):
    """Distance to the space curve by Newton on t, from a dense sample."""
    dense = np.linspace(0, 2 * np.pi, 4001)
    t = dense[cKDTree(space_curve(dense)).query(points)[1]]
    for _ in range(6):
        e = 1e-4
        low, mid, high = (np.sum((space_curve(t + s) - points) ** 2, axis=1) for s in (-e, 0, e))
        t = t - e * (high - low) / 2 / (high - 2 * mid + low)
    return np.linalg.norm(space_curve(t) - points, axis=1)


def mmls_loop(samples, point, dimension, degree, count):
    """The paper's algorithm for d = 1 or 2 in NumPy: SVD start, lstsq for both fits."""
    distance = np.linalg.norm(samples - point, axis=1)
    near = samples[np.argsort(distance)[:count]]
    mean = near.mean(axis=0)
    frame = np.linalg.svd(near - mean, full_matrices=False)[2][:dimension].T
    q = mean + frame @ frame.T @ (point - mean)

    def local():
        distance = np.linalg.norm(samples - q, axis=1)
        b = np.sort(distance)[count - 1]
        inside = distance < b * (1 - 1e-9)
        t = distance[inside] / b
        return samples[inside] - q, np.sqrt(np.exp(-(t**2) / (1 - t**2)))[:, None]

    for _ in range(200):
        z, root = local()
        x = z @ frame
        fit = np.linalg.lstsq(root * np.column_stack([np.ones(len(x)), x]), root * z, rcond=None)[0]
        frame = np.linalg.qr(fit[1:].T)[0]
        q = q + fit[0]
        q = q + frame @ frame.T @ (point - q)
    z, root = local()
    x = z @ frame
    powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
    second = x[:, 1] if dimension == 2 else np.ones(len(x))
    powers = [p for p in powers if dimension == 2 or p[1] == 0]
    design = np.column_stack([x[:, 0] ** i * second**j for i, j in powers])
    return q + np.linalg.lstsq(root * design, root * z, rcond=None)[0][powers.index((0, 0))]


def test_moving_least_squares_equals_a_loop(x64):
    samples = space_curve(jittered(64, 0))
    points = samples[5:45] + 0.03 * random(40, 4, seed=2)
    projection = project_with_status(moving_least_squares(samples, **SHAPES), points)
    assert not projection.status.any()
    expected = [mmls_loop(samples, p, 1, 2, 8) for p in points]
    np.testing.assert_allclose(projection.points, expected, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("dimension", "degree", "count"), [(2, 2, 18), (1, 3, 10)])
def test_other_dimensions_and_degrees_equal_a_loop(x64, dimension, degree, count):
    if dimension == 1:
        samples = space_curve(jittered(60, 0))
    else:
        u = random(400, 2)
        samples = np.column_stack([u, np.sin(u[:, 0]) * u[:, 1], 0.3 * u[:, 1] ** 2, np.cos(u[:, 0])])
    points = samples[5:400:40] + 0.03 * random(len(samples[5:400:40]), samples.shape[1], seed=2)
    project = moving_least_squares(
        samples, dimension=dimension, degree=degree, neighbours=count, candidates=40, tolerance=1e-13
    )
    projection = project_with_status(project, points)
    assert not projection.status.any()
    expected = [mmls_loop(samples, p, dimension, degree, count) for p in points]
    np.testing.assert_allclose(projection.points, expected, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_planes_are_reproduced(x64):
    frame = rotation(5)
    samples = 3.0 + random(120, 2) @ frame[:2]
    for seed in range(10):
        points = 3.0 + 0.5 * random(2, 5, seed=seed)  # the shapes of the next test
        expected = 3.0 + (points - 3.0) @ frame[:2].T @ frame[:2]
        project = moving_least_squares(samples, dimension=2, degree=2, bandwidth=1.5, candidates=120)
        np.testing.assert_allclose(project(points), expected, atol=1e-11)


@pytest.mark.slow
def test_polynomials_over_their_plane_are_reproduced(x64):
    """A graph z(x) in a tilted frame, samples symmetric about the apex so that H is the plane of x."""
    half = random(60, 2)
    x = np.concatenate([half, -half])
    graph = np.column_stack([x, x[:, 0] ** 2 - 0.5 * x[:, 0] * x[:, 1], 0.3 * x[:, 1] ** 2, 0 * x[:, 0]])
    frame, shift = rotation(5), random(5, seed=4)
    samples, apex = graph @ frame + shift, shift
    away = apex + 0.05 * frame[2] - 0.02 * frame[4]  # normal to the plane
    errors = {}
    for degree in (1, 2):
        project = moving_least_squares(samples, dimension=2, degree=degree, bandwidth=1.5, candidates=120)
        errors[degree] = np.abs(project(np.stack([apex, away])) - apex).max()
    assert errors[1] > 1e-2
    assert errors[2] < 1e-11


def test_projecting_twice_and_along_the_normal_changes_nothing(x64):
    project = moving_least_squares(space_curve(jittered(64, 0)), **SHAPES)
    points = space_curve(np.linspace(0, 6, 40)) + 0.02 * random(40, 4)
    once = project_with_status(project, points)
    assert not once.status.any()
    moved = np.linalg.norm(once.points - points, axis=1)
    assert moved.min() > 1e-3
    np.testing.assert_allclose(project(once.points), once.points, atol=1e-12)
    # r and p(0) have the same base point, so that every point of the line between them has their image.
    np.testing.assert_allclose(project((points + once.points) / 2), once.points, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("fitter", [local_pca_projection, partial(moving_least_squares, degree=2)])
def test_isometries_pass_through(x64, fitter):
    wide = np.eye(4, 7)  # seven features before and after: compiled once
    samples, points = space_curve(jittered(80, 0)), space_curve(jittered(9, 1)) + 0.03 * random(9, 4)
    samples, points, turned = samples @ wide, points @ wide, rotation(7)
    image = fitter(samples, dimension=1)(points)
    moved = fitter(samples @ turned + 2.0, dimension=1)(points @ turned + 2.0)
    np.testing.assert_allclose(moved, image @ turned + 2.0, atol=1e-9)
    scaled = fitter(1e-3 * samples, dimension=1)(1e-3 * points)
    np.testing.assert_allclose(scaled, 1e-3 * image, atol=1e-12)


def curve_slope(fitter):
    """Slope of the largest error over the spacing, on arcs of 64 samples: one shape, one compilation."""
    spacings, errors = 2 * np.pi / np.array([80, 160, 320, 640]), []
    rng = np.random.default_rng(5)
    jitter, places = rng.uniform(-0.3, 0.3, 64), rng.uniform(-16, 16, 40)
    for spacing in spacings:
        largest = 0.0
        for middle in np.arange(6.0):
            samples = space_curve(middle + spacing * (np.arange(-32, 32) + jitter))
            image = fitter(samples, dimension=1)(space_curve(middle + spacing * places))
            largest = max(largest, distance_to_curve(image).max())
        errors.append(largest)
    return np.polyfit(np.log(spacings), np.log(errors), 1)[0]


@pytest.mark.parametrize(
    ("fitter", "order"),
    [
        (local_pca_projection, 2),
        pytest.param(partial(moving_least_squares, degree=1), 2, marks=SLOW),
        (partial(moving_least_squares, degree=2, tolerance=SHAPES["tolerance"]), 3),
        pytest.param(partial(moving_least_squares, degree=3), 4, marks=SLOW),
    ],
)
@pytest.mark.thorough
def test_orders_on_a_jittered_curve(x64, fitter, order):
    """Measured: local PCA 1.98; degrees 1, 2, 3: 1.99, 3.12, 3.87."""
    assert abs(curve_slope(fitter) - order) < 0.35


@pytest.mark.slow
def test_orders_on_a_jittered_torus(x64):
    """Jittered lattices on a warped torus, RMS errors by the closed form. Measured: 2.08, 3.16, 4.18."""

    def torus_points(u, v):
        u, v = u + 0.3 * np.sin(u), v + 0.3 * np.sin(v)
        ring = 2 + np.cos(v)
        return np.stack([ring * np.cos(u), ring * np.sin(u), np.sin(v)], axis=-1)

    def error(p):
        return np.abs(np.hypot(np.hypot(p[:, 0], p[:, 1]) - 2, p[:, 2]) - 1)

    rng = np.random.default_rng(0)
    lattice = np.stack(np.meshgrid(*2 * [np.arange(-14.0, 14.0)])).reshape(2, -1)
    jitter, places = rng.uniform(-0.3, 0.3, lattice.shape), rng.uniform(-7, 7, (2, 40))
    spacings = 2 * np.pi / np.array([60, 90, 135, 202])
    for degree in (1, 2, 3):
        errors = []
        for h in spacings:
            # Patches of 784 samples: one shape, one compilation.
            squares = []
            for middle in np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])[:, :, None]:
                samples = torus_points(*(middle + h * (lattice + jitter)))
                image = moving_least_squares(samples, dimension=2, degree=degree)(
                    torus_points(*(middle + h * places))
                )
                squares.append(np.mean(error(np.asarray(image)) ** 2))
            errors.append(np.sqrt(np.mean(squares)))
        slope = np.polyfit(np.log(spacings), np.log(errors), 1)[0]
        assert abs(slope - (degree + 1)) < 0.4, (degree, slope, errors)


@pytest.mark.slow
def test_derivatives_of_moving_least_squares(x64):
    """Forward for the adaptive bandwidth; backward, to the samples too, for a given one."""
    samples = space_curve(jittered(60, 0))
    point = space_curve(np.array(1.1)) + 0.1 * random(4, seed=3)
    options = {"dimension": 1, "degree": 2, "tolerance": 1e-15}
    adaptive = moving_least_squares(samples, **options)
    forward = jax.jit(lambda x: (adaptive(x), jax.jacfwd(adaptive)(x)))
    np.testing.assert_allclose(forward(point)[1], central(lambda x: forward(x)[0], point), atol=1e-7)

    @jax.jit
    def both(point, shift):
        def image(point, shift):
            return moving_least_squares(samples + shift, bandwidth=0.5, **options)(point)

        value, back = jax.vjp(image, point, shift)
        return value, jax.vmap(back)(jnp.eye(4))

    _, (to_point, to_shift) = both(point, np.zeros(4))
    np.testing.assert_allclose(to_point, central(lambda x: both(x, np.zeros(4))[0], point), atol=1e-7)
    np.testing.assert_allclose(to_shift, central(lambda v: both(point, v)[0], np.zeros(4)), atol=1e-7)


@pytest.mark.slow
def test_fit_is_smooth_across_the_edge_of_the_support(x64):
    """The image moves steadily while samples enter and leave the support of a given bandwidth."""
    project = moving_least_squares(space_curve(jittered(100, 0)), dimension=1, degree=2, bandwidth=0.4)
    t = np.linspace(0.3, 0.5, 400)
    path = np.asarray(project(space_curve(t)))
    second = np.linalg.norm(np.diff(path, 2, axis=0), axis=1) / (t[1] - t[0]) ** 2
    assert second.max() < 5.0  # |x''| of the curve is about 2; a jump of 1e-5 would give 40


@pytest.mark.slow
def test_point_without_samples_nearby_has_a_status(x64):
    samples = space_curve(jittered(100, 0))
    project = moving_least_squares(samples, dimension=1, degree=2, bandwidth=0.25)
    odd = [4 * [5.0], samples[3], [np.nan, 0.0, 0.0, 0.0]]
    points = np.concatenate([odd, np.tile(samples, (4, 1))])[:400]  # the shapes of the test above
    projection = project_with_status(project, points)
    assert STATUS[int(projection.status[0])] == "too few samples in the support"
    failed = (projection.status != 0).tolist()
    assert failed == np.isnan(project(points)).any(axis=1).tolist() == [True, False, True, *397 * [False]]


@pytest.mark.slow
def test_failures_have_a_status(x64):
    line = np.stack([np.linspace(0, 1, 30), np.zeros(30), np.zeros(30)], axis=1)
    flat = moving_least_squares(line, dimension=2, degree=1, bandwidth=0.5)
    hasty = moving_least_squares(space_curve(jittered(60, 0)), dimension=1, max_iterations=1)
    for project, point, reason in (
        (flat, [0.5, 0.0, 0.0], "degenerate"),
        (hasty, list(space_curve(np.array(1.0)) + 0.1), "not converged"),
    ):
        projection = project_with_status(project, jnp.array(point))
        assert STATUS[int(projection.status)] == reason
        assert np.isnan(project(jnp.array(point))).all()


@pytest.mark.slow
def test_float32_follows_float64():
    samples = space_curve(jittered(64, 0))
    points = space_curve(jittered(40, 1)) + 0.02 * random(40, 4)
    with jax.enable_x64(True):
        exact = moving_least_squares(samples, dimension=1, degree=3)(points)
    image = moving_least_squares(samples.astype(np.float32), dimension=1, degree=3)(points.astype(np.float32))
    assert image.dtype == jnp.float32
    np.testing.assert_allclose(image, exact, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("fitter", [local_pca_projection, moving_least_squares])
def test_shapes_blocks_and_traces(fitter):
    turned = rotation(12)[:4]
    samples = (space_curve(jittered(50, 0)) @ turned).astype(np.float32)
    points = (space_curve(jittered(12, 1)) @ turned).astype(np.float32).reshape(4, 3, 12)
    project = fitter(samples.reshape(50, 3, 4), dimension=1)
    image = project(points.reshape(4, 3, 3, 4))
    assert image.shape == (4, 3, 3, 4)
    np.testing.assert_allclose(project(points.reshape(12, 12)), image.reshape(12, 12), atol=1e-6)
    single = jax.vmap(project)(points.reshape(12, 3, 4))
    np.testing.assert_allclose(single, image.reshape(12, 3, 4), atol=1e-5)
    if fitter is local_pca_projection:  # blocks are the same code for all
        blocked = fitter(samples, dimension=1, block_size=5)(points.reshape(12, 12))
        np.testing.assert_allclose(blocked, image.reshape(12, 12), atol=1e-5)
    traces = []

    @jax.jit
    def images(project, x):
        traces.append(1)
        return project(x)

    images(project, points.reshape(12, 12))
    images(fitter((2 * samples).reshape(50, 3, 4), dimension=1), points.reshape(12, 12))
    assert len(traces) == 1


@pytest.mark.slow
def test_given_neighbours_are_used():
    samples = random(80, 5).astype(np.float32)
    project = local_pca_projection(samples, dimension=2, neighbours=8)
    points = samples[:6] + np.float32(0.1)
    near = nearest_neighbours(samples, points, 8).indices
    projection = project_with_status(project, points, indices=near)
    np.testing.assert_allclose(projection.points, project(points), atol=1e-6)
    others = project_with_status(project, points, indices=near[::-1])
    assert np.abs(others.points - projection.points).max() > 0.1
    with pytest.raises(
        ValueError, match=r"indices must be whole numbers of shape \(6, 8\), got int32 of shape \(6, 7\)"
    ):
        project_with_status(project, points, indices=near[:, :7])


# --- distances ---------------------------------------------------------------------------------------------


def test_hausdorff_distance_matches_scipy():
    a, b = (random(150, 5, seed=seed).astype(np.float32) for seed in (0, 1))
    hausdorff = hausdorff_distance(a, b)
    for side, (x, y) in ((hausdorff.forward, (a, b)), (hausdorff.backward, (b, a))):
        value, i, j = directed_hausdorff(x, y)
        assert float(side.maximum) == pytest.approx(value, rel=1e-6)
        assert side.witness.tolist() == [i, j]
        nearest = np.linalg.norm(x[:, None] - y, axis=2).min(axis=1)
        assert float(side.mean) == pytest.approx(nearest.mean(), rel=1e-6)
        assert float(side.rms) == pytest.approx(np.sqrt(np.mean(nearest**2)), rel=1e-6)
    assert float(hausdorff.value) == max(float(hausdorff.forward.maximum), float(hausdorff.backward.maximum))


@pytest.mark.slow
def test_the_two_directions_differ():
    """A half circle and the whole: 0 one way, the diameter's end to the far points the other way."""
    t = np.linspace(0, 2 * np.pi, 401)[:-1]
    whole = np.stack([np.cos(t), np.sin(t)], axis=1).astype(np.float32)
    hausdorff = hausdorff_distance(whole[:201], whole)
    assert float(hausdorff.forward.maximum) == 0.0
    assert float(hausdorff.backward.maximum) == pytest.approx(2**0.5, rel=1e-3)


feet = jax.jit(nearest_points, static_argnums=0)
compiled_distances = jax.jit(fit_distances, static_argnums=1)


def test_summary_leaves_failures_out_and_counts_them():
    summarise = jax.jit(summarise_distances)
    summary = summarise(jnp.array([jnp.nan, 3e-30, 4e-30]))
    assert float(summary.rms) == pytest.approx(12.5**0.5 * 1e-30, rel=1e-6)
    assert (int(summary.failed), summary.witness.tolist()) == (1, [2, -1])
    assert np.isnan(summarise(jnp.full(3, jnp.nan)).maximum)


@pytest.mark.slow
def test_feet_on_a_warped_torus(x64):
    """Points at a known distance along the normal, up to 0.9 of the reach on either side."""
    manifold = warped(torus(2.0, 0.5), 0.4)
    rng = np.random.default_rng(0)
    u, v = rng.uniform(0, 2 * np.pi, (2, 200))
    offset = rng.uniform(-0.45, 0.45, 200)
    ring = np.stack([np.cos(u), np.sin(u), 0 * u], axis=1)
    normal = np.cos(v)[:, None] * ring + np.sin(v)[:, None] * [0.0, 0.0, 1.0]
    surface = 2 * ring + 0.5 * normal
    nearest = feet(manifold, surface + offset[:, None] * normal)
    assert bool(nearest.converged.all())
    np.testing.assert_allclose(nearest.distances, np.abs(offset), atol=1e-13)
    np.testing.assert_allclose(nearest.points, surface, atol=1e-8)
    embedded = jax.jit(jax.vmap(manifold.embedding))(nearest.coordinates)
    np.testing.assert_allclose(embedded, nearest.points, atol=1e-12)
    assert np.all((nearest.coordinates >= 0) & (nearest.coordinates <= 2 * np.pi))


@pytest.mark.slow
def test_feet_on_a_sphere_with_poles():
    """Points right next to a pole, where the nearest lattice point is the pole itself, and above it."""
    points = [[0.011, -0.016, 1.0], [-0.002, 0.001, -1.1], [0.3, 0.4, 0.2], [0.0, 0.0, 1.5]]
    points = np.array(points, np.float32)
    nearest = feet(sphere(2), points)
    np.testing.assert_allclose(nearest.distances, np.abs(np.linalg.norm(points, axis=1) - 1), atol=1e-6)
    # The foot of the last one is the pole: the chart cannot tell.
    assert nearest.converged.tolist() == [True, True, True, False]
    assert nearest.distances.dtype == jnp.float32


@pytest.mark.slow
def test_feet_at_the_end_of_an_open_axis_and_in_a_union(x64):
    spiral = helix(1.0, 1.0, 1.0)
    below = feet(spiral, jnp.array([[1.0, -0.1, -2.0]]))
    assert below.coordinates.tolist() == [[0.0]]
    assert bool(below.converged[0])
    assert float(below.distances[0]) == pytest.approx(np.hypot(0.1, 2.0), rel=1e-14)
    nearest = feet(two_moons(), jnp.array([[0.0, 2.0], [1.0, -2.0], [jnp.nan, 0.0]]))
    np.testing.assert_allclose(nearest.distances, [1.0, 1.5, np.nan], rtol=1e-12)
    assert nearest.component.tolist()[:2] == [0, 1]
    assert nearest.converged.tolist() == [True, True, False]


@pytest.mark.slow
def test_search_cut_short_is_marked_and_an_upper_bound(x64):
    points = random(50, 3)
    exact = np.abs(np.hypot(np.hypot(points[:, 0], points[:, 1]) - 2, points[:, 2]) - 0.5)
    rough = torus(2.0, 0.5, size=(12, 8))
    distances = jax.jit(partial(distances_to_manifold, rough, max_steps=1))(points)
    assert int(distances.unconverged) == 50
    assert np.all(distances.values >= exact - 1e-12)
    assert np.max(distances.values - exact) > 1e-3


@pytest.mark.slow
def test_fit_distances_of_concentric_circles(x64):
    truth, t = circle(2.0), np.linspace(0, 2 * np.pi, 60, endpoint=False)
    points = 2 * np.stack([np.cos(t), np.sin(t)], axis=1)

    def turned_and_failing(x):
        return jnp.where(x[:, :1] > 1.9, jnp.nan, jnp.stack([-x[:, 1], x[:, 0]], axis=1))

    def project(turned, x):
        return jnp.where(turned > 0, turned_and_failing(x), 1.5 * x)

    fit = compiled_distances(Partial(project, 0.0), truth, points)
    for side in (fit.forward, fit.backward, fit.projected):
        np.testing.assert_allclose([side.maximum, side.mean, side.rms], 1.0, rtol=1e-12)
    fit = compiled_distances(Partial(project, 1.0), truth, points)
    assert float(fit.forward.maximum) < 1e-7
    assert int(fit.forward.failed) == 2 * int(np.sum(points[:, 0] > 1.9))
    assert float(fit.projected.maximum) == pytest.approx(8**0.5)  # images are a quarter turn away
    gap = 2 * np.pi * 4 / 60  # seven images are missing: the middle of their arc is 4 samples away
    assert float(fit.backward.maximum) == pytest.approx(4 * np.sin(gap / 2), rel=1e-9)
    assert float(fit.hausdorff) == float(fit.backward.maximum)


@pytest.mark.slow
def test_fit_distances_of_a_shifted_sphere(x64):
    """S^2 against its copy moved by s: |s| at most, and s cos(angle) to first order."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(400, 3))
    points[0] = [1.0, 0.0, 0.0]
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    moved = Partial(lambda x: x + jnp.array([0.1, 0.0, 0.0]))
    fit = compiled_distances(moved, sphere(2), points, true_points=points)
    expected = np.abs(np.linalg.norm(points + np.array([0.1, 0, 0]), axis=1) - 1)
    np.testing.assert_allclose(fit.forward.values[:400], expected, atol=1e-7)
    assert float(fit.forward.maximum) == pytest.approx(0.1, abs=1e-9)
    assert np.all(fit.backward.values <= fit.projected.values + 1e-12)


# --- everywhere --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_kernels_lower_for_every_platform():
    samples = jnp.asarray(random(40, 20), jnp.float32)
    functions = (
        lambda x: nearest_neighbours(x, x, 3),
        lambda x: local_pca_projection(x, dimension=2)(x),
        lambda x: moving_least_squares(x, dimension=1)(x),
        lambda x: hausdorff_distance(x, x[:9]),
        lambda x: nearest_points(circle(), x[:, :2]),
    )
    for function in functions:
        export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(samples)


CLOUD = np.ones((9, 3), np.float32)
PROJECT = local_pca_projection(CLOUD, dimension=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nearest_neighbours(CLOUD, CLOUD, 10), "count must be a whole number, from 1 to 9, got 10"),
        (lambda: nearest_neighbours(CLOUD, CLOUD, 0), "count must be a whole number, from 1 to 9, got 0"),
        (lambda: nearest_neighbours(CLOUD, CLOUD[:, :2], 1), r"same feature shape, got \(3,\) and \(2,\)"),
        (lambda: nearest_neighbours(CLOUD.astype(int), CLOUD, 1), "samples must be a floating-point array"),
        (
            lambda: nearest_neighbours(CLOUD, CLOUD, 1, method="tree"),
            "method must be one of 'exact', 'approximate'",
        ),
        (lambda: nearest_neighbours(CLOUD, CLOUD, 1, block_size=0), "block_size must be a whole number"),
        (lambda: local_pca_projection(CLOUD, dimension=3), r"below the 3 feature\(s\) of a point, got 3"),
        (
            lambda: local_pca_projection(CLOUD, dimension=1, neighbours=1),
            "neighbours must be a whole number, from 2 to 9, got 1",
        ),
        (
            lambda: local_pca_projection(CLOUD, dimension=1, neighbours=10),
            "neighbours must be a whole number, from 2 to 9, got 10",
        ),
        (
            lambda: local_pca_projection(CLOUD, dimension=1, weights="box"),
            "weights must be one of 'gaussian', 'exponential'",
        ),
        (
            lambda: local_pca_projection(CLOUD, dimension=1, sigma=-1.0),
            "sigma must be a positive finite number",
        ),
        (
            lambda: moving_least_squares(CLOUD, dimension=2, degree=0),
            "degree must be a whole number, at least 1",
        ),
        (
            lambda: moving_least_squares(CLOUD, dimension=2, degree=3),
            r"degree 3 in dimension 2 needs at least 11 samples, got 9",
        ),
        (
            lambda: moving_least_squares(CLOUD, dimension=2, neighbours=6),
            "neighbours must be a whole number, from 7 to 9, got 6",
        ),
        (lambda: moving_least_squares(CLOUD, dimension=1, bandwidth=0.0), "bandwidth must be a positive"),
        (
            lambda: moving_least_squares(CLOUD, dimension=1, bandwidth=1.0, neighbours=5),
            "a bandwidth, or a number of neighbours",
        ),
        (
            lambda: PROJECT(np.ones((4, 2), np.float32)),
            r"shape \(\*batch, 3\) as the samples have, got \(4, 2\)",
        ),
        (lambda: PROJECT(np.ones((4, 3), int)), "points must be a floating-point array"),
        (
            lambda: project_with_status(lambda x: x, CLOUD),
            "must be what local_pca_projection or moving_least",
        ),
        (lambda: nearest_points("circle", CLOUD), "must be a Manifold or a sequence of them, got 'circle'"),
        (lambda: nearest_points((circle(), sphere()), CLOUD), "the parts of a union need one feature shape"),
        (lambda: nearest_points(sphere(), CLOUD[0]), r"points must have shape \(q, \*features\), got \(3,\)"),
        (lambda: nearest_points(sphere(), CLOUD, starts=0), "starts must be a whole number, at least 1"),
        (lambda: hausdorff_distance(CLOUD, CLOUD[:, :2]), "both clouds must have the same feature shape"),
        (
            lambda: summarise_distances(CLOUD),
            r"values must be a vector, got shape \(9, 3\)",
        ),
        (
            lambda: fit_distances(lambda x: x[:3], sphere(), CLOUD),
            r"must keep the shape of its input, \(9, 3\), got \(3, 3\)",
        ),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
