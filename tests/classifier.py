"""Small classifiers with float64 NumPy oracles: Jacobian, Hessians, G, brackets by formula."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np


@partial(jax.jit, inline=True)  # one program, where it is called by itself
def apply(params, x):
    """Log-probabilities of a two-layer tanh network."""
    inside = params["in"] @ x.ravel() + params["bias"]
    return jax.nn.log_softmax(params["out"] @ jnp.tanh(inside))


def relu_apply(params, x):
    return jax.nn.log_softmax(params["out"] @ jax.nn.relu(params["in"] @ x.ravel() + params["bias"]))


def weights(n=6, hidden=8, classes=4, scale=1.0, seed=0):
    """Random weights as float64 NumPy arrays; ``scale`` multiplies the logits."""
    rng = np.random.default_rng(seed)
    return {
        "in": rng.normal(size=(hidden, n)) / np.sqrt(n),
        "bias": 0.1 * rng.normal(size=hidden),
        "out": scale * rng.normal(size=(classes, hidden)) / np.sqrt(hidden),
    }


def network(params, function=apply, dtype=None):
    """The classifier as a Partial, so that parameters are arguments."""
    return jax.tree_util.Partial(
        function, jax.device_put(jax.tree.map(lambda w: np.asarray(w, dtype), params))
    )


def probabilities(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def analytic(params, x):
    """p ``(C,)``, J ``(C, n)``, Hessians of the logits ``(C, n, n)`` of the tanh network."""
    t = np.tanh(params["in"] @ x.ravel() + params["bias"])
    jacobian = (params["out"] * (1 - t**2)) @ params["in"]
    second = params["out"] * (-2 * t * (1 - t**2))
    hessians = np.einsum("ck,ki,kj->cij", second, params["in"], params["in"])
    return probabilities(params["out"] @ t), jacobian, hessians


def score_rows(params, x):
    """grad log p_y by formula; the differences J_y - J_i are exact where p saturates."""
    p, jacobian, _ = analytic(params, x)
    return np.einsum("i,yin->yn", p, jacobian[:, None] - jacobian[None])


def matrix(params, x):
    p, _, _ = analytic(params, x)
    a = score_rows(params, x)
    return np.einsum("y,yi,yj->ij", p, a, a)


def defect(params, x):
    """Involutivity defect with dense Hessians and a singular value decomposition."""
    p, jacobian, hessians = analytic(params, x)
    common = np.einsum("c,cij->ij", p, hessians)
    common = common + jacobian.T @ (np.diag(p) - np.outer(p, p)) @ jacobian
    rows = score_rows(params, x)
    values, axes = np.linalg.svd(rows)[1:]
    axes = axes[: np.sum(values > 1e-10 * values[0])]
    brackets = [
        (hessians[b] - common) @ rows[a] - (hessians[a] - common) @ rows[b]
        for a in range(len(p))
        for b in range(a + 1, len(p))
    ]
    brackets = np.array(brackets)
    return np.linalg.norm(brackets - brackets @ axes.T @ axes) / np.linalg.norm(brackets)


def linear(weights):
    """Linear softmax model as a Partial of its weights."""
    return jax.tree_util.Partial(linear_apply, jax.device_put(weights))


@partial(jax.jit, inline=True)
def linear_apply(weights, x):
    return jax.nn.log_softmax(weights @ x.ravel())


def centred_projector(jacobian):
    """Projection on the span of J_y - mean J, by NumPy's pseudo-inverse."""
    centred = jacobian - jacobian.mean(axis=0)
    return np.linalg.pinv(centred) @ centred
