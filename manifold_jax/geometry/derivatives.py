"""First and second derivatives on a block of a grid, from the samples on its window or on the cross of it.

The derivative along every axis is a small matrix product. A cross is what these derivatives need of a window:
the block, and what lies outside of it along one axis or two.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from manifold_jax._linalg import matmul
from manifold_jax.geometry.tensors import derivative_indices

CACHED_POINTS = 64, 48, 32, 24, 16, 12, 9, 8
"""Points whose jets fill the cache of a CPU core: the first that divides a block."""

Vectors = list[Float[Array, "points f"]]
"""Vectors of all points, one array after the other: together they would be a copy of all of them."""


def _apply(matrix: Float[Array, "b m"], values: Array, axis: int) -> Array:
    """Multiply a matrix into one axis of an array, as a batched matrix product."""
    shape = values.shape
    lead, tail = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    rows = values.reshape(lead, shape[axis], tail)
    product = matmul(jnp.broadcast_to(matrix, (lead, *matrix.shape)), rows)
    return product.reshape(*shape[:axis], matrix.shape[0], *shape[axis + 1 :])


def inner_products(vectors: Float[Array, "*points v f"]) -> Float[Array, "*points v v"]:
    """Gram matrices of the vectors of points."""
    return matmul(vectors, jnp.swapaxes(vectors, -1, -2))


def derivative_products(
    vectors: Vectors, differences: Sequence[tuple[Array, Array]], wanted: Array
) -> tuple[Float[Array, "points v v"], Float[Array, "points d 2+v"]]:
    """Gram matrices of the jets of points, and what differences along every axis tell (0 if not wanted).

    That is, of pairs of a higher and a lower one: the squares of both, then the products of the higher with
    all vectors. On a CPU a few points at a time are put together, which stay in the cache.
    """

    def products(parts: tuple[Vectors, Sequence[tuple[Array, Array]]]) -> tuple[Array, Array]:
        jets, pairs = jnp.stack(parts[0], axis=1), parts[1]
        none = jnp.zeros((len(jets), len(pairs), 2 + jets.shape[1]), jets.dtype)

        def told() -> Array:
            squares = [jnp.stack([jnp.sum(jnp.square(x), axis=-1) for x in pair], axis=-1) for pair in pairs]
            high = jnp.stack([pair[0] for pair in pairs], axis=1)
            crossed = matmul(high, jnp.swapaxes(jets, -1, -2))
            return jnp.concatenate([jnp.stack(squares, axis=1), crossed], axis=-1)

        return inner_products(jets), jax.lax.cond(wanted, told, lambda: none) if pairs else none

    points, parts = len(vectors[0]), (vectors, differences)
    group = next((g for g in CACHED_POINTS if points % g == 0), points)
    if jax.default_backend() != "cpu" or group == points:
        return products(parts)
    parts = jax.tree.map(lambda x: x.reshape(points // group, group, *x.shape[1:]), parts)
    return jax.tree.map(lambda x: x.reshape(points, *x.shape[2:]), jax.lax.map(products, parts))


def _in_order(partials: dict[tuple[int, ...], Array]) -> Vectors:
    """The vectors of ``tensors.derivative_indices``, from those by orders."""
    d = len(next(iter(partials)))
    orders = [tuple(index.count(axis) for axis in range(d)) for index in derivative_indices(d)]
    return [partials[order].reshape(-1, partials[order].shape[-1]) for order in orders]


def window_derivatives(window: Array, matrices: Sequence[Array]) -> Vectors:
    """First and second derivatives on a block from the samples ``(m_1, ..., m_d, f)`` on its window.

    ``matrices`` are ``(3, b_k, m_k)`` for each axis: derivative 0 (which picks samples), 1 and 2. The result
    holds the v = d + d(d+1)/2 vectors of ``tensors.derivative_indices``, each at all points.
    """
    d = len(matrices)
    partials: dict[tuple[int, ...], Array] = {(0,) * d: window}
    # Axes that shrink most come first: later products then run on fewer points.
    for axis in sorted(range(d), key=lambda k: matrices[k].shape[1] / matrices[k].shape[2]):
        size, offset = matrices[axis].shape[1], jnp.argmax(matrices[axis][0, 0])
        done = {}
        for orders, values in partials.items():
            done[orders] = jax.lax.dynamic_slice_in_dim(values, offset, size, axis=axis)
            for order in range(1, 3 - sum(orders)):
                moved = (*orders[:axis], order, *orders[axis + 1 :])
                done[moved] = _apply(matrices[axis][order], values, axis)
        partials = done
    return _in_order(partials)


def cross_sizes(inner: Sequence[int], outer: Sequence[int]) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Samples along every axis of each part of the cross of a block, by the axes along which it lies outside.

    A derivative of order 2 leaves a block along two axes at most, so the rest of its window is never needed.
    """
    axes = [k for k, m in enumerate(outer) if m]
    chosen = [(), *itertools.combinations(axes, 1), *itertools.combinations(axes, 2)]
    return {some: tuple(outer[k] if k in some else n for k, n in enumerate(inner)) for some in chosen}


def split_columns(matrices: Float[Array, "stencils 3 b m"]) -> tuple[Int[Array, "b"], Int[Array, "m-b"]]:
    """Columns of the window of an axis that lie in the block, and the others."""
    size, width = matrices.shape[2:]
    offset = jnp.argmax(matrices[0, 0, 0])
    return offset + jnp.arange(size), (offset + size + jnp.arange(width - size)) % width


def cross_columns(matrices: Sequence[Array]) -> dict[tuple[int, ...], tuple[Array, ...]]:
    """Columns along every axis of each part of a cross, see :func:`cross_sizes`."""
    inside, outside = zip(*map(split_columns, matrices), strict=True)
    parts = cross_sizes([len(c) for c in inside], [len(c) for c in outside])
    return {some: tuple((outside if k in some else inside)[k] for k in range(len(inside))) for some in parts}


def cross_derivatives(
    parts: dict[tuple[int, ...], Array], matrices: Sequence[Float[Array, "3 b m"]]
) -> Vectors:
    """What :func:`window_derivatives` gives, from the samples ``(n_1, ..., n_d, f)`` of the parts of a cross.

    The columns of the matrices are those in the block, then the others.
    """
    d = len(matrices)

    def along(axis: int, order: int, inner: Array, outer: Array | None) -> Array:
        whole = inner if outer is None else jnp.concatenate([inner, outer], axis=axis)
        return _apply(matrices[axis][order], whole, axis)

    partials = {}
    for i, j in itertools.combinations_with_replacement(range(d), 2):
        orders = tuple((k == i) + (k == j) for k in range(d))
        first = tuple(int(k == i) for k in range(d))
        if i == j:
            for order, name in ((1, first), (2, orders)):
                partials[name] = along(i, order, parts[()], parts.get((i,)))
        else:
            beside = along(i, 1, parts[j,], parts.get((i, j))) if (j,) in parts else None
            partials[orders] = along(j, 1, partials[first], beside)
    return _in_order(partials)


def high_differences(
    window: Array, matrices: Sequence[Array], differences: Sequence[Float[Array, "2 b m"]]
) -> list[tuple[Array, Array]]:
    """Differences of the higher and of the lower order along every axis ``(points, f)``, from a window."""
    offsets = [jnp.argmax(m[0, 0]) for m in matrices]

    def along(axis: int) -> tuple[Array, Array]:
        values = window
        for k, offset in enumerate(offsets):
            if k != axis:
                values = jax.lax.dynamic_slice_in_dim(values, offset, matrices[k].shape[1], axis=k)
        high, low = (_apply(rows, values, axis) for rows in differences[axis])
        return high.reshape(-1, high.shape[-1]), low.reshape(-1, low.shape[-1])

    return [along(k) for k in range(len(matrices))]
