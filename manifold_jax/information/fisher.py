"""The local Fisher matrix F(w) = E_y [grad_w log p_y grad_w log p_y^T] over a pytree of parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from manifold_jax._linalg import singular_rows
from manifold_jax.information.local_data import score_product, score_square, weighted_rows
from manifold_jax.information.log_prob import LogProb, as_input, check_log_prob

Apply = Callable[[Any, Any], Array]


def at_input(apply: Apply, params: Any, x: Any) -> tuple[LogProb, Any]:
    """Log-probabilities as a function of the parameters, and the parameters, both checked."""
    x = as_input(x)
    params = jax.tree.map(jnp.asarray, params)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError("params hold no array: nothing to differentiate.")
    for path, leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"params{jax.tree_util.keystr(path)} must be floating-point, got {leaf.dtype}: leave "
                "counters and keys out of params."
            )
    function = lambda w: apply(w, x)  # noqa: E731
    check_log_prob(function, params)
    return function, params


def fisher_factor(
    apply: Apply, params: Any, x: Float[Array, "*shape"], *, batch_size: int | None = None
) -> Any:
    """The factor of the local Fisher matrix: sqrt(p_y) grad_w log p_y for every class y.

    Args:
        apply: Parameters and one input to ``(C,)`` log-probabilities.
        params: Pytree of floating-point arrays.
        x: One input of any shape. On a CPU map over inputs with ``jax.lax.map``: under ``vmap`` the gradients
            of convolutions become slow grouped convolutions.
        batch_size: Classes differentiated at once; by default 16 MiB of gradients.

    Returns:
        A pytree like ``params``, every leaf with a leading axis of length C.

    Raises:
        ValueError: ``apply`` does not return log-probabilities, or a leaf of ``params`` is not
            floating-point.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from manifold_jax import fisher_factor
        >>> apply = lambda w, x: jax.nn.log_softmax(w["scale"] * x)
        >>> rows = fisher_factor(apply, {"scale": jnp.ones(2)}, jnp.array([1.0, 1.0]))
        >>> print(rows["scale"].round(3))
        [[ 0.354 -0.354]
         [-0.354  0.354]]
    """
    return weighted_rows(*at_input(apply, params, x), batch_size)


def fisher_matvec(apply: Apply, params: Any, x: Float[Array, "*shape"], v: Any) -> Any:
    """F v without a matrix: one push-forward and one pull-back.

    Args:
        apply: As for :func:`fisher_factor`.
        params: Pytree of floating-point arrays.
        x: One input of any shape.
        v: A pytree like ``params``.

    Returns:
        A pytree like ``params``.

    Raises:
        ValueError: As :func:`fisher_factor`, or ``v`` has another structure or other shapes.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from manifold_jax import fisher_matvec
        >>> apply = lambda w, x: jax.nn.log_softmax(w["scale"] * x)
        >>> v = {"scale": jnp.array([1.0, 0.0])}
        >>> print(fisher_matvec(apply, {"scale": jnp.ones(2)}, jnp.ones(2), v)["scale"].round(3))
        [ 0.25 -0.25]
    """
    function, params = at_input(apply, params, x)
    shapes = [jax.tree.structure(params), *map(jnp.shape, jax.tree.leaves(params))]
    if [jax.tree.structure(v), *map(jnp.shape, jax.tree.leaves(v))] != shapes:
        raise ValueError("v must be a pytree like params, with the same structure and shapes.")
    v = jax.tree.map(lambda a, w: jnp.asarray(a).astype(w.dtype), v, params)
    return score_product(function, params, v)


def fisher_trace(
    apply: Apply, params: Any, x: Float[Array, "*shape"], *, batch_size: int | None = None
) -> Float[Array, ""]:
    """Tr F = sum_y p_y |grad_w log p_y|^2, in the memory of ``batch_size`` gradients.

    Args:
        apply: As for :func:`fisher_factor`.
        params: Pytree of floating-point arrays.
        x: One input of any shape.
        batch_size: Classes differentiated at once.

    Returns:
        A scalar.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from manifold_jax import fisher_trace
        >>> apply = lambda w, x: jax.nn.log_softmax(w * x)
        >>> print(fisher_trace(apply, jnp.ones(2), jnp.ones(2)).round(3))
        0.5
    """
    return score_square(*at_input(apply, params, x), batch_size)


def fisher_spectrum(
    apply: Apply, params: Any, x: Float[Array, "*shape"], *, batch_size: int | None = None
) -> tuple[Float[Array, "C"], Any]:
    """The C largest eigenvalues of F (all others are 0) and their eigenvectors; never |w| x |w|.

    Args:
        apply: As for :func:`fisher_factor`.
        params: Pytree of floating-point arrays.
        x: One input of any shape.
        batch_size: Classes differentiated at once.

    Returns:
        Eigenvalues ``(C,)``, descending, and a pytree like ``params``, every leaf with a leading axis of
        length C; zero past the rank. As for :func:`local_data_spectrum`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from manifold_jax import fisher_spectrum
        >>> apply = lambda w, x: jax.nn.log_softmax(w["scale"] * x)
        >>> values, vectors = fisher_spectrum(apply, {"scale": jnp.ones(2)}, jnp.ones(2))
        >>> print(values.round(3), vectors["scale"].shape)
        [0.5 0. ] (2, 2)
    """
    function, params = at_input(apply, params, x)
    unravel = ravel_pytree(params)[1]
    rows = jax.vmap(lambda row: ravel_pytree(row)[0])(weighted_rows(function, params, batch_size))
    values, vectors = singular_rows(rows)
    return values**2, jax.vmap(unravel)(vectors)
