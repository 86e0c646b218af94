"""Jets of an embedding and their Gram matrices, from a grid of points or from a function.

All local geometry is algebra on the inner products of the first and second derivatives X_i, X_ij of the
embedding X (14 vectors and 105 numbers per point at d = 4, whatever the ambient dimension).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax.geometry.blocks import (
    CACHE,
    BlockGrams,
    Cut,
    Source,
    Window,
    derivative_indices,
    host_block,
    map_blocks,
    map_windows,
    reassemble,
    window_derivatives,
)
from manifold_jax.geometry.grid import Accuracy, Grid
from manifold_jax.geometry.plan import MEMORY, BlockPlan, longest_block
from manifold_jax.geometry.source import Embedding, feature_size, plan_for, point_source, stencil_of


class Jet(NamedTuple):
    """First and second derivatives of an embedding, features flattened.

    Attributes:
        first: X_i, shape ``(..., d, f)``.
        second: X_ij, shape ``(..., d, d, f)``, symmetric in i, j.
    """

    first: Float[Array, "*batch d f"]
    second: Float[Array, "*batch d d f"]


class JetGram(NamedTuple):
    """Inner products of the vectors of a jet; every local measure is a function of it.

    Attributes:
        metric: g_ij = <X_i, X_j>, shape ``(..., d, d)``.
        mixed: Gamma_ij,k = <X_ij, X_k>, shape ``(..., d, d, d)``.
        second: <X_ij, X_kl>, shape ``(..., d, d, d, d)``.
    """

    metric: Float[Array, "*batch d d"]
    mixed: Float[Array, "*batch d d d"]
    second: Float[Array, "*batch d d d d"]


def _pair_positions(dimension: int) -> np.ndarray:
    """Position of the vector X_ij in the packed list of :func:`derivative_indices`."""
    position = {index: k for k, index in enumerate(derivative_indices(dimension))}
    pairs = [[position[min(i, j), max(i, j)] for j in range(dimension)] for i in range(dimension)]
    return np.array(pairs)


def unpack_gram(packed: Float[Array, "*batch v v"], dimension: int) -> JetGram:
    """Gram matrix of the v = d + d(d+1)/2 jet vectors to a :class:`JetGram`."""
    d, pairs = dimension, _pair_positions(dimension)
    mixed = packed[..., d:, :d][..., pairs - d, :]
    second = packed[..., d:, d:][..., pairs - d, :][..., pairs - d]
    return JetGram(packed[..., :d, :d], mixed, second)


def _unpack_jet(vectors: Float[Array, "*batch v f"], dimension: int) -> Jet:
    d = dimension
    return Jet(vectors[..., :d, :], vectors[..., _pair_positions(d), :])


def gram(jet: Jet) -> JetGram:
    """Inner products of the vectors of a jet.

    Args:
        jet: Derivatives, batch axes first.

    Returns:
        The Gram matrices, in the dtype of the jet.

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax import gram, jet_from_function
        >>> parabola = lambda u: jnp.stack([u[0], u[0] ** 2])
        >>> gram(jet_from_function(parabola, jnp.array([1.0]))).metric
        Array([[5.]], dtype=float32)
    """
    d = jet.first.shape[-2]
    upper = np.triu_indices(d)
    packed = jnp.concatenate([jet.first, jet.second[..., upper[0], upper[1], :]], axis=-2)
    products = jnp.matmul(packed, jnp.swapaxes(packed, -1, -2), precision=jax.lax.Precision.HIGHEST)
    return unpack_gram(products, d)


# --- from a function -------------------------------------------------------------------------------------


def _check_coordinates(coordinates: Array) -> Array:
    coordinates = jnp.asarray(coordinates)
    if coordinates.ndim < 1 or not jnp.issubdtype(coordinates.dtype, jnp.floating):
        raise ValueError(
            "coordinates must be a floating-point array of shape (..., d), "
            f"got {coordinates.dtype} of shape {coordinates.shape}."
        )
    return coordinates


def point_vectors(embedding: Embedding, u: Float[Array, "d"]) -> Float[Array, "v f"]:
    """X_i, then X_ij (i <= j), at one point, by forward-over-forward differentiation."""
    d = u.shape[0]
    basis = jnp.eye(d, dtype=u.dtype)
    i, j = np.triu_indices(d)

    def along(v: Array) -> Callable[[Array], Array]:
        return lambda x: jax.jvp(lambda y: jnp.ravel(embedding(y)), (x,), (v,))[1]

    first = jax.vmap(lambda v: along(v)(u))(basis)
    second = jax.vmap(lambda v, w: jax.jvp(along(v), (u,), (w,))[1])(basis[i], basis[j])
    return jnp.concatenate([first, second])


def jet_from_function(embedding: Embedding, coordinates: Float[Array, "*batch d"]) -> Jet:
    """Exact first and second derivatives of an embedding, by nested forward-mode differentiation.

    Args:
        embedding: One chart point ``(d,)`` to one ambient point of any shape.
        coordinates: Chart points ``(..., d)``.

    Returns:
        The jet, ``(..., d, f)`` and ``(..., d, d, f)``, in the dtype of the embedding's values.

    Raises:
        ValueError: The coordinates are not floating-point, or the embedding does not accept a point.

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax import jet_from_function
        >>> jet = jet_from_function(lambda u: jnp.stack([u[0] * u[1], u[1] ** 2]), jnp.ones((5, 2)))
        >>> jet.first.shape, jet.second.shape
        ((5, 2, 2), (5, 2, 2, 2))
    """
    coordinates = _check_coordinates(coordinates)
    d = coordinates.shape[-1]
    feature_size(embedding, d, coordinates.dtype)
    flat = coordinates.reshape(-1, d)
    vectors = jax.vmap(partial(point_vectors, embedding))(flat)
    return _unpack_jet(vectors.reshape(*coordinates.shape[:-1], *vectors.shape[1:]), d)


def gram_from_function(
    embedding: Embedding, coordinates: Float[Array, "*batch d"], *, batch_size: int | None = None
) -> JetGram:
    """Exact Gram matrices of the 2-jet of an embedding, a batch of points at a time.

    Args:
        embedding: One chart point ``(d,)`` to one ambient point of any shape.
        coordinates: Chart points ``(..., d)``.
        batch_size: Points differentiated at once; peak memory grows with it and not with the number of
            points. By default set by the cache of a CPU, or by 256 MiB on an accelerator.

    Returns:
        The Gram matrices with the batch shape of ``coordinates``.

    Raises:
        ValueError: ``batch_size`` is below 1, or as :func:`jet_from_function`.

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax import gram_from_function, scalar_curvature
        >>> bowl = lambda u: jnp.concatenate([u, jnp.sum(u**2)[None] / 2])
        >>> print(scalar_curvature(gram_from_function(bowl, jnp.zeros(3))))
        6.0
    """
    coordinates = _check_coordinates(coordinates)
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    d = coordinates.shape[-1]
    features = feature_size(embedding, d, coordinates.dtype)
    flat = coordinates.reshape(-1, d)
    vectors = d * (d + 3) // 2
    # On a CPU the jets of a batch should stay in cache; an accelerator wants it large.
    room = CACHE if jax.default_backend() == "cpu" else MEMORY
    batch = batch_size or max(1, room // (8 * vectors * max(features, 1) * coordinates.dtype.itemsize))
    batch = min(batch, max(1, flat.shape[0]))

    def packed(points: Array) -> Array:
        v = jax.vmap(partial(point_vectors, embedding))(points)
        return jnp.matmul(v, jnp.swapaxes(v, -1, -2), precision=jax.lax.Precision.HIGHEST)

    count = -(-flat.shape[0] // batch)
    padded = jnp.pad(flat, ((0, count * batch - flat.shape[0]), (0, 0)), mode="edge")
    products = packed(flat) if count == 1 else jax.lax.map(packed, padded.reshape(count, batch, d))
    products = products.reshape(-1, vectors, vectors)[: flat.shape[0]]
    return unpack_gram(products.reshape(*coordinates.shape[:-1], vectors, vectors), d)


# --- from a grid -----------------------------------------------------------------------------------------


def _first_gram(block: BlockGrams) -> Array:
    return block.grams[0]


@partial(jax.jit, static_argnames="plan")
def _unpack_blocks(stacked: Array, plan: BlockPlan) -> JetGram:
    return unpack_gram(reassemble(stacked, plan), plan.grid.ndim)


def gram_from_grid(
    points: Source,
    grid: Grid,
    *,
    accuracy: Accuracy | tuple[Accuracy, ...] = 4,
    stride: int | tuple[int, ...] = 1,
    block_size: int | None = None,
) -> JetGram:
    """Gram matrices of the 2-jet of gridded points, by finite-difference stencils.

    First and pure second derivatives are central differences of the given order; mixed ones are products of
    first differences. Ghost layers keep the order up to the border and no layer is lost: periodic axes wrap,
    open ones are extrapolated with degree ``accuracy + 1``, and a function is simply evaluated beyond the
    ends.

    Args:
        points: Array ``(*grid.shape, *features)``; or a memory-mapped NumPy array of that shape, read block
            by block; or a function of one chart point ``(d,)``, evaluated block by block and never stored.
        grid: The lattice.
        accuracy: Order 2, 4, 6 or 8, or ``"spectral"`` on periodic axes; one for all axes or one per axis.
        stride: Use every ``stride``-th sample in the stencils (all points keep a value). A larger stride
            lowers rounding errors, which grow as 1/spacing^2.
        block_size: Largest number of points differentiated at once; by default as many as keep temporaries
            near 256 MiB.

    Returns:
        The Gram matrices ``(*grid.shape, ...)`` in the dtype of the points.

    Raises:
        ValueError: Shapes, dtype, accuracy or stride do not fit, or an axis has too few samples.

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax import Axis, Grid, gram_from_grid, mean_curvature
        >>> grid = Grid((Axis("angle", 0.0, 2 * jnp.pi, 64, periodic=True),))
        >>> angle = grid.coordinates()[..., 0]
        >>> circle = 2 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        >>> print(mean_curvature(gram_from_grid(circle, grid)).mean().round(4))
        0.5
    """
    source = point_source(points, grid)
    plan = plan_for(source, grid, (stencil_of(grid, accuracy, stride),), block_size)
    if source.on_host:
        blocks = (
            host_block(source.points, plan, b, whole_features=source.kind == "memmap")
            for b in range(plan.size)
        )
        stacked = jnp.stack([_first_gram(block) for block in blocks])
    else:
        stacked = map_blocks(source.points, plan, jnp.arange(plan.size), source.dtype, _first_gram)
    return _unpack_blocks(stacked, plan)


def jet_from_grid(
    points: Source,
    grid: Grid,
    *,
    accuracy: Accuracy | tuple[Accuracy, ...] = 4,
    stride: int | tuple[int, ...] = 1,
) -> Jet:
    """First and second derivatives of gridded points, whole (not streamed).

    Args:
        points: Array ``(*grid.shape, *features)`` or function of one chart point.
        grid: The lattice.
        accuracy: As in :func:`gram_from_grid`.
        stride: As in :func:`gram_from_grid`.

    Returns:
        The jet ``(*grid.shape, d, f)``, ``(*grid.shape, d, d, f)``, features flattened; it takes
        d(d+3)/2 times the memory of the points.

    Raises:
        ValueError: As :func:`gram_from_grid`.

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax import Axis, Grid, jet_from_grid
        >>> grid = Grid((Axis("t", 0.0, 1.0, 8),))
        >>> jet = jet_from_grid(grid.coordinates() ** 2, grid)
        >>> bool(jnp.allclose(jet.second, 2.0, atol=1e-2))
        True
    """
    source = point_source(points, grid)
    stencil = stencil_of(grid, accuracy, stride)
    block = tuple(
        longest_block(axis, order == "spectral") for axis, (order, _) in zip(grid.axes, stencil, strict=True)
    )
    plan = BlockPlan(grid, (stencil,), block, source.kind == "function", source.features)
    stored = source.points if source.kind == "function" else jnp.asarray(source.points)

    def vectors(cut: Cut, features: int, window: Window) -> Array:
        derivatives = window_derivatives(cut(0, features), [m[0] for m in window.matrices])
        return derivatives.reshape(*block, *derivatives.shape[1:])

    stacked = map_windows(stored, plan, jnp.arange(plan.size), source.dtype, vectors)
    return _unpack_jet(reassemble(stacked, plan), grid.ndim)
