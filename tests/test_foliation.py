"""The distribution and its involutivity, against NumPy oracles."""

from functools import partial

import classifier
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from classifier import centred_projector, linear

import manifold_jax as mj

PARAMS = classifier.weights(n=8, hidden=12, classes=4, scale=2.0)
RNG = np.random.default_rng(1)
X, _, V = RNG.normal(size=(3, 8))


# --- the distribution ------------------------------------------------------------------------------------


def test_projections_are_those_of_the_oracle(x64):
    log_prob = classifier.network(PARAMS)
    projector = centred_projector(classifier.analytic(PARAMS, X)[1])
    basis = np.asarray(jax.jit(mj.horizontal_basis)(log_prob, X))
    np.testing.assert_allclose(basis @ basis.T, np.diag([1.0, 1, 1, 0]), atol=1e-14)
    np.testing.assert_allclose(basis.T @ basis, projector, atol=1e-13)
    x, v = X.reshape(2, 4), V.reshape(2, 4)
    horizontal, vertical = (
        np.asarray(jax.jit(project)(log_prob, x, v))
        for project in (mj.horizontal_projection, mj.vertical_projection)
    )
    np.testing.assert_allclose(horizontal.ravel(), projector @ V, atol=1e-13)
    np.testing.assert_allclose(horizontal + vertical, v, atol=1e-15)
    # G sees nothing of a vertical vector.
    np.testing.assert_allclose(
        jax.jit(mj.local_data_matvec)(log_prob, x, vertical), np.zeros((2, 4)), atol=1e-14
    )


@pytest.mark.slow
def test_basis_survives_saturation():
    params = classifier.weights(n=20, hidden=30, classes=8, scale=40.0)
    many = np.random.default_rng(5).normal(size=(50, 20))
    x = max(many, key=lambda x: classifier.analytic(params, x)[0].max())
    basis = mj.horizontal_basis(classifier.network(params, dtype=jnp.float32), jnp.float32(x))
    assert np.linalg.matrix_rank(basis) == 7
    np.testing.assert_allclose(
        basis.T @ basis, centred_projector(classifier.analytic(params, x)[1]), atol=1e-4
    )


@pytest.mark.slow
def test_gradient_of_a_projection(x64):
    log_prob, h = classifier.network(PARAMS), 1e-5
    size = jax.jit(lambda x: jnp.sum(mj.horizontal_projection(log_prob, x, V) ** 3))
    slope = [(float(size(X + d)) - float(size(X - d))) / (2 * h) for d in h * np.eye(8)]
    np.testing.assert_allclose(jax.grad(size)(jnp.asarray(X)), slope, atol=1e-8)


def test_sign_gradient_leaves_the_leaf(x64):
    # A gradient step is horizontal, its sign (FGSM) is not.
    log_prob = classifier.network(PARAMS)
    gradient = jax.grad(lambda x: log_prob(x)[0])(X)
    project = jax.jit(partial(mj.vertical_projection, log_prob, X))
    share = lambda v: np.linalg.norm(project(v)) / np.linalg.norm(v)  # noqa: E731
    assert share(gradient) < 1e-13
    assert share(np.sign(gradient)) > 0.1


# --- involutivity ----------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_defect_of_a_tanh_network_is_that_of_the_oracle(x64):
    for seed in range(2):
        params = classifier.weights(n=8, hidden=12, classes=4, scale=2.0, seed=seed)
        log_prob = classifier.network(params)
        want = classifier.defect(params, X)
        assert want > 0.1
        for batch_size in (None, 2):
            defect = jax.jit(partial(mj.involutivity_defect, batch_size=batch_size))
            value = defect(log_prob, X.reshape(4, 2))
            assert float(value) == pytest.approx(want, rel=1e-10)


@pytest.mark.slow
def test_defect_of_a_relu_network_is_zero(x64):
    relu = classifier.network(PARAMS, classifier.relu_apply)
    scores = jax.jacfwd(relu)(X)
    there = jax.jvp(lambda x: jax.jacrev(relu)(x)[1], (jnp.asarray(X),), (scores[0],))[1]
    back = jax.jvp(lambda x: jax.jacrev(relu)(x)[0], (jnp.asarray(X),), (scores[1],))[1]
    assert float(jnp.linalg.norm(there - back)) > 1e-3  # the brackets themselves do not vanish
    assert float(jax.jit(mj.involutivity_defect)(relu, X)) < 1e-12


@pytest.mark.slow
def test_defect_is_zero_where_brackets_vanish_or_cannot_leave(x64):
    defect = jax.jit(mj.involutivity_defect)
    assert float(defect(linear(np.zeros((3, 8))), X)) == 0
    line = classifier.network(classifier.weights(n=8, classes=2))
    assert float(defect(line, X)) < 1e-12  # one dimension is always involutive
    full = classifier.network(classifier.weights(n=2, classes=4))
    assert float(defect(full, X[:2])) < 1e-12


@pytest.mark.slow
def test_distribution_over_parameters_is_not_involutive(x64):
    params = jax.tree.map(jnp.asarray, classifier.weights(n=3, hidden=4, classes=3, seed=1))
    for apply in (classifier.apply, classifier.relu_apply):
        flat, unravel = jax.flatten_util.ravel_pytree(params)
        over = lambda w: apply(unravel(w), X[:3])  # noqa: B023, E731
        rows, hessians = (np.asarray(jax.jit(d(over))(flat)) for d in (jax.jacrev, jax.hessian))
        pairs = [(0, 1), (0, 2), (1, 2)]
        brackets = np.array([hessians[b] @ rows[a] - hessians[a] @ rows[b] for a, b in pairs])
        left = brackets - brackets @ np.linalg.pinv(rows) @ rows
        want = np.linalg.norm(left) / np.linalg.norm(brackets)
        assert want > 0.05
        value = jax.jit(partial(mj.fisher_involutivity_defect, apply))(params, X[:3])
        assert float(value) == pytest.approx(want, rel=1e-9)
