"""The data's tangents next to a classifier's distribution: angles, visibility, the pulled-back metric."""

from functools import partial

import classifier
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import subspace_angles

import manifold_jax as mj


def orthogonal(n, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


def tilted(angles, more=2, seed=0, dtype=np.float32):
    """Skew bases of two subspaces of R^16 with the given principal angles; the second has ``more`` vectors.

    Four and six vectors in nearly all tests: every new shape is compiled again.
    """
    rng, d = np.random.default_rng(seed), len(angles)
    axes = orthogonal(16, seed)
    first = axes[:d]
    second = np.cos(angles)[:, None] * axes[:d] + np.sin(angles)[:, None] * axes[d : 2 * d]
    second = np.concatenate([second, axes[2 * d : 2 * d + more]])
    mixes = [np.eye(k) + 0.3 * rng.normal(size=(k, k)) for k in (d, d + more)]
    return [(mix @ a).astype(dtype) for mix, a in zip(mixes, (first, second), strict=True)]


def curved(n=7, d=3, seed=3):
    """A smooth embedding of R^d in R^n with float64 weights."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, d)), rng.normal(size=(n, d, d)) / 3
    return lambda u: a @ u + jnp.sin(jnp.einsum("nij,i,j->n", b, u, u))


# --- principal angles --------------------------------------------------------------------------------------

SMALL_AND_LARGE = np.array([1e-4, 1e-2, 0.7, np.pi / 2 - 1e-4])


@pytest.mark.slow
def test_angles_are_those_put_in():
    angles = mj.principal_angles(*tilted(SMALL_AND_LARGE))
    assert angles.dtype == np.float32
    # Absolute accuracy of the rows; a cosine alone would give 0 or 3e-4 for 1e-4.
    np.testing.assert_allclose(angles, SMALL_AND_LARGE, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_angles_in_double_precision_whichever_span_is_larger(x64):
    pair = tilted(SMALL_AND_LARGE, dtype=np.float64)
    np.testing.assert_allclose(mj.principal_angles(*pair[::-1]), SMALL_AND_LARGE, rtol=0, atol=3e-15)


def test_identical_and_orthogonal_spans():
    axes = orthogonal(16).astype(np.float32)
    mixed = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32) @ axes[:4]
    np.testing.assert_allclose(mj.principal_angles(axes[:4], mixed), 0, atol=3e-6)
    np.testing.assert_allclose(mj.principal_angles(axes[:4], axes[4:10]), np.pi / 2, atol=1e-6)


def test_missing_directions_count_as_orthogonal():
    tangents, basis = tilted(np.array([0.0, 0.2, 0.5, 0.9]))
    sparse = np.concatenate([basis[:4] * [[1], [1], [1], [0]], np.zeros((2, 16), np.float32)])
    plane = np.concatenate([tangents[:2], [tangents[0] - 2 * tangents[1]], np.zeros((1, 16))])
    for rows, columns, rank in ((tangents, sparse, 3), (plane, basis, 2), (plane, sparse, 2)):
        angles = np.asarray(mj.principal_angles(rows.astype(np.float32), columns.astype(np.float32)))
        scipy = subspace_angles(rows[: max(rank, 2) if rows is plane else 4].T, columns[np.any(columns, 1)].T)
        np.testing.assert_allclose(angles[:rank], np.sort(scipy)[:rank], atol=2e-6)
        np.testing.assert_array_equal(angles[rank:], np.float32(np.pi / 2))


def test_angles_do_not_depend_on_lengths_and_pass_nan_on():
    tangents, basis = tilted(np.array([1e-3, 0.3, 0.7, 1.0]))
    want = mj.principal_angles(tangents, basis)
    scales = np.array([[1e-30], [1.0], [1e5], [1e30]], np.float32)
    np.testing.assert_allclose(mj.principal_angles(scales * tangents, 1e-25 * basis), want, atol=2e-6)
    assert np.isnan(mj.principal_angles(tangents * np.nan, basis)).all()
    assert np.isnan(mj.principal_angles(tangents, basis * np.nan)).all()


@pytest.mark.slow
def test_angles_under_jit_and_vmap():
    want = np.array([[0.01, 0.4, 0.5, 1.2], [0.0, 0.01, 1.0, 1.1]])
    pairs = [tilted(angles, seed=k) for k, angles in enumerate(want)]
    tangents, basis = (np.stack(column) for column in zip(*pairs, strict=True))
    np.testing.assert_allclose(jax.jit(jax.vmap(mj.principal_angles))(tangents, basis), want, atol=2e-6)


def test_scores_lie_in_the_distribution(factor):
    # C - 1 = 5 of 6 dimensions: every tangent made of scores lies in it.
    log_prob = classifier.network(PARAMS, dtype=jnp.float32)
    basis = jax.jit(mj.horizontal_basis)(log_prob, jnp.asarray(X, jnp.float32))
    angles = mj.principal_angles(factor[:4], basis)
    np.testing.assert_allclose(angles, 0, atol=1e-5)


# --- visibility --------------------------------------------------------------------------------------------

PARAMS = classifier.weights(n=16, classes=6)
X = np.random.default_rng(1).normal(size=16)


@pytest.fixture(scope="module")
def factor():
    log_prob = classifier.network(PARAMS, dtype=jnp.float32)
    return jax.jit(mj.local_data_factor)(log_prob, jnp.asarray(X, jnp.float32))


@pytest.mark.slow
def test_visibility_is_the_quotient_of_the_matrix(factor):
    tangents = np.random.default_rng(2).normal(size=(4, 16)) * np.logspace(-3, 3, 4)[:, None]
    g = classifier.matrix(PARAMS, X)
    want = np.einsum("in,nm,im->i", tangents, g, tangents) / np.sum(tangents**2, axis=1)
    visible = mj.factor_visibility(jnp.asarray(tangents, jnp.float32), factor)
    np.testing.assert_allclose(visible, want / np.linalg.eigvalsh(g)[-1], rtol=1e-5)
    assert np.all((visible > 0) & (visible < 1))


def test_visibility_of_eigenvectors_leaves_and_nothing(factor):
    values, vectors = np.linalg.eigh(classifier.matrix(PARAMS, X))
    chosen = vectors.T[[-1, -2, -5, 0]].astype(np.float32)  # the last one lies across the leaf
    want = [1.0, values[-2] / values[-1], values[-5] / values[-1], 0.0]
    np.testing.assert_allclose(mj.factor_visibility(3 * chosen, factor), want, rtol=1e-5, atol=1e-10)
    assert float(mj.factor_visibility(chosen, factor)[0]) <= 1
    assert mj.factor_visibility(0 * chosen, factor).tolist() == [0.0] * 4
    assert mj.factor_visibility(chosen, 0 * factor).tolist() == [0.0] * 4


def test_visibility_survives_saturation_and_batches():
    factor = np.zeros((6, 16), np.float32)
    factor[0, 0], factor[1, 1] = 1e-25, 1e-27  # squares underflow
    tangents = np.zeros((2, 4, 16), np.float32)
    tangents[:, 0, 0], tangents[:, 1, 1], tangents[:, 2, :2] = 1e-25, 1, 1
    visible = jax.jit(jax.vmap(mj.factor_visibility, (0, None)))(tangents, factor)
    np.testing.assert_allclose(visible, [[1.0, 1e-4, 0.50005, 0.0]] * 2, rtol=1e-5)


# --- the pulled-back metric --------------------------------------------------------------------------------


@pytest.fixture
def network(x64):
    return lambda classes: classifier.network(classifier.weights(n=7, classes=classes))


def gram_of(log_prob, embedding, points):
    """Compiled as a whole: operation by operation it takes seconds."""
    return jax.jit(partial(mj.gram_from_function, mj.pulled_back(log_prob, embedding)))(points)


def test_pulled_back_metric_is_that_of_the_matrix(network):
    log_prob, embedding = network(5), curved()
    points = np.random.default_rng(4).normal(size=(3, 3))
    metrics = mj.metric(gram_of(log_prob, embedding, points))
    both = jax.jit(lambda u: (jax.jacfwd(embedding)(u), mj.local_data_matrix(log_prob, embedding(u))))
    for u, metric in zip(points, metrics, strict=True):
        columns, g = map(np.asarray, both(u))
        tangents = columns.T
        np.testing.assert_allclose(metric, tangents @ g @ tangents.T, rtol=1e-12, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("d", [2, 3])
def test_full_rank_image_is_a_piece_of_the_sphere_of_radius_2(network, d):
    # C = d + 1 classes: an open set of the d-sphere, K = 1/4, whatever the network and the embedding.
    outputs = mj.pulled_back(network(d + 1), curved(d=d))
    points = np.random.default_rng(5).normal(size=(4, d)) / 2
    np.testing.assert_allclose(np.linalg.norm(outputs(points[0])), 2.0, rtol=1e-14)
    gram = gram_of(network(d + 1), curved(d=d), points)
    np.testing.assert_allclose(jax.jit(mj.scalar_curvature)(gram), d * (d - 1) / 4, rtol=1e-6)
    u, v = np.eye(d)[:2]
    np.testing.assert_allclose(jax.jit(mj.sectional_curvature)(gram, u, v), 1 / 4, rtol=1e-6)


@pytest.mark.slow
def test_more_factors_than_classes_are_degenerate(network):
    points = np.random.default_rng(6).normal(size=(3, 3)) / 2
    gram = gram_of(network(3), curved(), points)
    values = np.linalg.eigvalsh(np.asarray(gram.metric))
    assert np.all(values[:, 0] < 1e-14 * values[:, 2])
    assert np.all(values[:, 1] > 1e-6 * values[:, 2])


def test_parameters_of_a_pulled_back_map_are_arguments():
    traces = []

    def apply(params, x):
        traces.append(1)
        return classifier.apply(params, x)

    @jax.jit
    def volume(params, points):
        log_prob = jax.tree_util.Partial(apply, params)
        embedding = lambda u: jnp.concatenate([u, jnp.sin(u), u**2])  # noqa: E731
        return mj.volume_element(mj.gram_from_function(mj.pulled_back(log_prob, embedding), points))

    first, second = (
        volume(jax.tree.map(partial(jnp.asarray, dtype=jnp.float32), classifier.weights(seed=seed)), points)
        for seed, points in ((0, jnp.ones((4, 2))), (1, jnp.ones((4, 2))))
    )
    once = len(traces)
    volume(jax.tree.map(jnp.float32, classifier.weights(seed=2)), jnp.zeros((4, 2)))
    assert len(traces) == once
    assert first.shape == (4,)
    assert float(first[0]) != float(second[0])


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [mj.principal_angles, mj.factor_visibility])
@pytest.mark.parametrize(
    ("tangents", "rows", "message"),
    [
        (jnp.ones(3), jnp.ones((2, 3)), "tangents must be a floating-point matrix"),
        (jnp.ones((2, 3), int), jnp.ones((2, 3)), "got int32"),
        (jnp.ones((2, 3)), jnp.ones((4, 2, 3)), "map over points with jax.vmap"),
        (jnp.ones((2, 3)), jnp.ones((2, 4)), "rows of one length, got 3 and 4"),
        (jnp.ones((0, 3)), jnp.ones((2, 3)), "shape \\(0, 3\\)"),
    ],
)
def test_wrong_arrays_are_refused(function, tangents, rows, message):
    with pytest.raises(ValueError, match=message):
        function(tangents, rows)


def test_what_is_not_a_function_is_refused():
    with pytest.raises(
        ValueError, match=r"embedding must be a function of one point, got float64 of shape \(3,\)"
    ):
        mj.pulled_back(jax.nn.log_softmax, np.ones(3))
