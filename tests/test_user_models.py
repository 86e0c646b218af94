"""Any model serves through its log-probability function: Flax Linen, Equinox, a plain function."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.tree_util import Partial

from manifold_jax import check_log_prob, fisher_trace, horizontal_basis, local_data_matrix
from manifold_jax.models import pure

WEIGHTS = np.random.default_rng(0).normal(size=(2, 5, 5)).astype(np.float32)
X = jnp.linspace(0.1, 0.9, 5)


def plain():
    params = jnp.asarray(WEIGHTS)

    def apply(w, x):
        return jax.nn.log_softmax(w[1] @ jnp.tanh(w[0] @ x))

    return apply, params


def in_linen():
    class Network(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = jnp.tanh(linen.Dense(5, use_bias=False)(x))
            return jax.nn.log_softmax(linen.Dense(5, use_bias=False)(x))

    params = {"params": {f"Dense_{k}": {"kernel": jnp.asarray(WEIGHTS[k].T)} for k in (0, 1)}}
    return Network().apply, params


def in_nnx():
    class Network(nnx.Module):
        def __init__(self, rngs):
            self.inner = nnx.Linear(5, 5, use_bias=False, rngs=rngs)
            self.outer = nnx.Linear(5, 5, use_bias=False, rngs=rngs)

        def __call__(self, x):
            return jax.nn.log_softmax(self.outer(jnp.tanh(self.inner(x))))

    network = pure(Network(nnx.Rngs(0)))
    params = {"inner": {"kernel": jnp.asarray(WEIGHTS[0].T)}, "outer": {"kernel": jnp.asarray(WEIGHTS[1].T)}}
    return network.apply, params


def in_equinox():
    keys = jax.random.split(jax.random.key(0))
    layers = [eqx.nn.Linear(5, 5, use_bias=False, key=key) for key in keys]
    network = eqx.nn.Sequential([layers[0], eqx.nn.Lambda(jnp.tanh), layers[1]])
    weights = [jnp.asarray(w) for w in WEIGHTS]
    network = eqx.tree_at(lambda n: [n[0].weight, n[2].weight], network, weights)
    params, static = eqx.partition(network, eqx.is_array)
    return (lambda w, x: jax.nn.log_softmax(eqx.combine(w, static)(x))), params


@pytest.mark.slow
@pytest.mark.parametrize("build", [in_linen, in_nnx, in_equinox])
def test_one_network_in_any_library_has_one_geometry(build):
    apply, params = build()
    reference, weights = plain()
    log_prob, expected = Partial(apply, params), Partial(reference, weights)
    check_log_prob(log_prob, X)
    np.testing.assert_allclose(local_data_matrix(log_prob, X), local_data_matrix(expected, X), atol=1e-6)
    np.testing.assert_allclose(fisher_trace(apply, params, X), fisher_trace(reference, weights, X), rtol=1e-5)
    bases = [np.asarray(jax.jit(horizontal_basis)(f, X)) for f in (log_prob, expected)]
    np.testing.assert_allclose(bases[0].T @ bases[0], bases[1].T @ bases[1], atol=1e-5)
