"""In which precision a classifier is differentiated, and which pivots and eigenvalues are rounding errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from manifold_jax._checks import is_traced, single

NOISE, SHORT_NOISE = 16, 4
"""Rounding errors of a score in machine epsilons: up to 11 were seen in float32 (VGG-11, ten layers of 500),
and up to 2 in types of 16 bits, in which nothing is summed."""


def _narrowed(function: Callable[[Any], Array], like: Any, at: Any) -> Array:
    """A function of an argument that is cast to the dtypes of another."""
    return function(jax.tree.map(lambda a, b: a.astype(b.dtype), at, like))


def _widened(function: Callable[[Any], Array], at: Any) -> Array:
    """Log-probabilities in the dtype of the argument; those of 16 bits sum to 1 afterwards."""
    log_p, dtype = function(at), jnp.result_type(*jax.tree.leaves(at))
    wide = log_p.astype(dtype)
    return jax.nn.log_softmax(wide) if jnp.finfo(log_p.dtype).bits < 32 else wide


def promoted(function: Callable[[Any], Array], at: Any) -> tuple[Callable[[Any], Array], Any]:
    """A function and its argument in at least float32; the results have the dtype of the argument.

    A ``jax.tree_util.Partial`` stays one.
    """
    wrap = jax.tree_util.Partial if isinstance(function, jax.tree_util.Partial) else partial
    wide = jax.tree.map(single, at)
    if any(a.dtype != b.dtype for a, b in zip(jax.tree.leaves(wide), jax.tree.leaves(at), strict=True)):
        try:
            jax.eval_shape(function, wide)
        except TypeError:  # lax.conv and its like take arguments of one dtype only
            function = wrap(_narrowed, function, jax.tree.map(lambda a: jnp.zeros((), a.dtype), at))
    return wrap(_widened, function), wide


def _noise(dtype: Any) -> float:
    """Relative error of scores that were computed in a dtype."""
    kind = jnp.finfo(dtype)
    return (NOISE if kind.bits >= 32 else SHORT_NOISE) * float(kind.eps)


def _dtypes(jaxpr: Any) -> Iterator[Any]:
    """Floating dtypes that a program computes in."""
    for equation in jaxpr.eqns:
        dtypes = (getattr(variable.aval, "dtype", jnp.int32) for variable in equation.outvars)
        yield from (dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating))
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda value: hasattr(value, "eqns")):
            yield from _dtypes(inner) if hasattr(inner, "eqns") else ()


def rank_tolerances(rtol: Any, function: Callable[[Any], Array], at: Any) -> tuple[Any, Any]:
    """Shares of the first pivot, and of the first eigenvalue, that count as zero: as given, or rounding.

    Gram-Schmidt of C rows gives Q and T with A + E = T Q, where every row of E is bounded by a multiple of C
    machine epsilons of that row, however long it is (Higham, Accuracy and stability of numerical algorithms,
    2nd ed., 2002, theorem 19.13; measured: up to 2 sqrt(C) of them). To these come the errors that the rows
    already have, those of the least precise dtype in which ``function`` computes.
    """
    if rtol is not None:
        share = rtol if is_traced(rtol) else float(rtol)
        return share, share
    program = jax.make_jaxpr(function)(at)
    (result,) = program.out_avals
    steps = result.shape[0] * float(jnp.finfo(result.dtype).eps)
    noise = max(map(_noise, {result.dtype, *_dtypes(program)}))
    return steps + noise, steps + noise**2
