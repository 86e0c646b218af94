"""What a classifier must be: a function from one input to log-probabilities. Its checks and its scores.

As a function of its parameters it is checked and differentiated in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from manifold_jax._checks import checked_function, is_traced, optional, positive, real, single, whole
from manifold_jax._linalg import block_rows, map_blocks
from manifold_jax._programs import as_function, first_line
from manifold_jax.information.precision import promoted

LogProb = Callable[[Any], Array]
Apply = Callable[[Any, Any], Array]
Input = Float[Array, "*shape"]  # one input, or a vector in its shape


def as_input(caller: str, x: Any, name: str = "x") -> Array:
    """One input as a floating-point array with finite values."""
    x = real(caller, name, x)
    if x.size == 0 or not jnp.issubdtype(x.dtype, jnp.floating):
        wanted = "a floating-point array that is not empty"
        remedy = "scale integer images to [0, 1], as in image / 255"
        raise ValueError(f"{caller}: {name} must be {wanted}, got {x.dtype} of shape {x.shape}: {remedy}.")
    if not is_traced(x) and not np.isfinite(np.asarray(x)).all():
        raise ValueError(f"{caller}: {name} must be finite, got NaN or infinite values.")
    return x


def check_log_prob(log_prob: LogProb, x: Any) -> None:
    """Refuse a function that does not return log-probabilities.

    The shape is always checked, the values (``logsumexp == 0``) only where they are not traced: call this
    once, outside ``jit`` and ``vmap``, before a compiled run.

    Args:
        log_prob: One input to ``(C,)`` log-probabilities.
        x: One input (or a parameter pytree) to try it with.

    Returns:
        None.

    Raises:
        ValueError: The result is not one-dimensional or not floating-point, there is only one class, or the
            values look like logits, like probabilities, or hold NaN or -inf.

    Example:
        >>> mj.check_log_prob(jax.nn.softmax, jnp.array([1.0, 2.0, 4.0]))
        Traceback (most recent call last):
            ...
        ValueError: log_prob returned probabilities (they sum to 1): return log-probabilities,
        preferably jax.nn.log_softmax(logits).
    """
    log_prob = as_function(log_prob)
    checked_function("check_log_prob", "log_prob", log_prob, "one input")
    try:
        values = jax.eval_shape(lambda z: log_prob(z), x) if is_traced(x) else log_prob(x)
    except Exception as error:  # whatever a network of the user raises
        kind = f"an input {x.dtype} of shape {x.shape}" if hasattr(x, "dtype") else "such parameters"
        raise ValueError(f"log_prob does not accept {kind}: {first_line(error)}") from error
    shape = getattr(values, "shape", None)
    if shape is None or len(shape) != 1 or shape[0] < 2:
        got = type(values).__name__ if shape is None else f"shape {shape}"
        wanted = "(C,) log-probabilities of one input, C at least 2"
        remedy = "wrap a network of batches as lambda x: network(x[None])[0]"
        raise ValueError(f"log_prob must return {wanted}, got {got}: {remedy}.")
    dtype = values.dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"log_prob must return floating-point log-probabilities, got {dtype}.")
    if not isinstance(values, jax.ShapeDtypeStruct) and not is_traced(values):
        _check_values(np.asarray(single(values), np.float64), dtype)


def _check_values(values: Float[np.ndarray, "C"], dtype: Any) -> None:
    """Refuse NaN, infinite values, probabilities and logits."""
    advice = "preferably jax.nn.log_softmax(logits)"
    if np.isnan(values).any():
        raise ValueError(f"log_prob returned NaN for class {np.argmax(np.isnan(values))}: check the network.")
    if np.isinf(values).any():
        where = f"infinite for class {np.argmax(np.isinf(values))}, and has no gradient there"
        raise ValueError(f"log_prob is {where}: do not take the logarithm of a softmax, {advice}.")
    tolerance = max(1e-3, 16 * float(jnp.finfo(dtype).eps))
    total = values.max() + np.log(np.sum(np.exp(values - values.max())))
    if abs(total) <= tolerance:
        return
    if values.min() >= 0 and abs(values.sum() - 1) <= tolerance:
        got = "probabilities (they sum to 1)"
    else:
        got = f"what looks like logits (their log-sum-exp is {total:.3g}, not 0)"
    raise ValueError(f"log_prob returned {got}: return log-probabilities, {advice}.")


def _check_options(caller: str, batch_size: Any, rtol: Any) -> None:
    """Check the number of classes at once and the tolerance of ranks; None stands for the default of each."""
    optional(whole, caller, "batch_size", batch_size)
    if rtol is not None:
        positive(caller, "rtol", rtol, zero=True, below=1)


def checked_input(
    caller: str, log_prob: LogProb, x: Any, *, name: str = "x", batch_size: Any = None, rtol: Any = None
) -> tuple[LogProb, Array]:
    """A function and one input, checked together with the options, in at least float32."""
    x, log_prob = as_input(caller, x, name), as_function(log_prob)
    check_log_prob(log_prob, x)
    _check_options(caller, batch_size, rtol)
    return promoted(log_prob, x)


def _of_params(apply: Apply, x: Any, params: Any) -> Array:
    return apply(params, x)


def checked_params(
    caller: str, apply: Apply, params: Any, x: Any, *, batch_size: Any = None, rtol: Any = None
) -> tuple[LogProb, Any]:
    """Log-probabilities as a function of the parameters, and the parameters, checked like an input."""
    x = single(as_input(caller, x))
    checked_function(caller, "apply", apply, "parameters and one input")
    params = jax.tree.map(lambda leaf: single(real(caller, "params", leaf)), params)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError(f"{caller}: params must hold an array, got none: nothing to differentiate.")
    for path, leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            name = f"params{jax.tree_util.keystr(path)}"
            got = f"{leaf.dtype}: leave counters and keys out of params"
            raise ValueError(f"{caller}: {name} must be floating-point, got {got}.")
    function = Partial(partial(_of_params, apply), x)
    check_log_prob(function, params)
    _check_options(caller, batch_size, rtol)
    return promoted(function, params)


def checked_vector(caller: str, v: Any, at: Any, *, name: str = "v", of: str = "x") -> Any:
    """A vector in the structure, shapes and dtypes of an input or of parameters."""
    v = real(caller, name, v) if isinstance(at, jax.Array) else jax.tree.map(partial(real, caller, name), v)
    leaves, likes = jax.tree.leaves(v), jax.tree.leaves(at)
    fits = jax.tree.structure(v) == jax.tree.structure(at) and all(
        jnp.shape(leaf) == like.shape and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        for leaf, like in zip(leaves, likes, strict=True)
    )
    if not fits:
        described = ", ".join(f"{jnp.result_type(leaf)} of shape {jnp.shape(leaf)}" for leaf in leaves)
        wanted = f"floating-point, in the shape {jax.tree.map(jnp.shape, at)} of {of}"
        raise ValueError(f"{caller}: {name} must be {wanted}, got {described}.")
    return jax.tree.map(lambda leaf, like: jnp.asarray(leaf).astype(like.dtype), v, at)


def checked_label(caller: str, label: Any, classes: int) -> Any:
    """A class of a classifier."""
    return label if is_traced(label) else whole(caller, "label", label, 0, classes - 1)


@partial(jax.jit, inline=True)
def score_cotangent(log_p: Float[Array, "C"], y: Int[Array, ""]) -> Float[Array, "C"]:
    """Cotangent whose pull-back is the score grad log p_y.

    e_y, save for the most likely class k: by E_y[grad log p_y] = 0 its score is - sum_(j != k) (p_j / p_k)
    grad log p_j, which keeps its digits where p_k rounds to 1.
    """
    classes = jnp.arange(log_p.shape[0])
    k = jnp.argmax(log_p)
    others = jnp.where(classes == k, 0.0, -jnp.exp(log_p - log_p[k]))
    return jnp.where(y == k, others, (classes == y).astype(log_p.dtype))


def map_scores(
    function: LogProb, at: Any, batch_size: int | None, of: Callable[[Array, Any], Any]
) -> tuple[Float[Array, "C"], Any]:
    """Log p ``(C,)``, and ``of(log p_y, grad log p_y)`` stacked over the classes, a block at a time."""
    log_p, pull_back = jax.vjp(function, at)
    size = sum(leaf.size for leaf in jax.tree.leaves(at))
    batch = block_rows(size, batch_size, most=log_p.shape[0])
    one = jax.vmap(lambda y: of(log_p[y], pull_back(score_cotangent(log_p, y))[0]))
    return log_p, map_blocks(one, batch, jnp.arange(log_p.shape[0]))


def scores(
    log_prob: LogProb, x: Array, batch_size: int | None = None
) -> tuple[Float[Array, "C"], Float[Array, "C n"]]:
    """Log p ``(C,)`` and the scores a_y = grad_x log p_y ``(C, n)``."""
    return map_scores(log_prob, x, batch_size, lambda _, score: jnp.ravel(score))


def centred(rows: Float[Array, "C n"]) -> Float[Array, "C n"]:
    """Scores less their mean, J_y - mean J: they span D_x and do not depend on p."""
    return rows - jnp.mean(rows, axis=0)
