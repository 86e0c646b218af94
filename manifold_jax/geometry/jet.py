"""Jets of an embedding and their Gram matrices, from a grid of points or from a function.

All local geometry is algebra on the inner products of the first and second derivatives X_i, X_ij of the
embedding X (105 numbers per point at d = 4, whatever the ambient dimension).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax._checks import checked_function, finite, instance, optional, real, single, whole
from manifold_jax._linalg import map_blocks
from manifold_jax._programs import result_of
from manifold_jax._sharding import explicit, joined, mesh_of, names_of, over_rows
from manifold_jax.geometry.blocks import block_vectors, run_blocks
from manifold_jax.geometry.derivatives import inner_products
from manifold_jax.geometry.embeddings import Embedding, frozen_embedding
from manifold_jax.geometry.grid import Accuracy, Grid
from manifold_jax.geometry.manifold import Source, as_points
from manifold_jax.geometry.points import Points
from manifold_jax.geometry.stencil import stencil_of
from manifold_jax.geometry.tensors import JetGram, pair_positions, unpack_gram
from manifold_jax.geometry.windows import (
    MEMORY,
    BlockGrams,
    BlockPlan,
    Window,
    longest_block,
    plan_blocks,
)

CACHE = 16 * 2**20  # bytes of the temporaries of one batch of autodiff on a CPU, to stay in cache
COPIES = 8  # arrays of the size of the jets that nested forward differentiation holds at once, about


class Jet(NamedTuple):
    """First and second derivatives of an embedding, features flattened.

    Attributes:
        first: X_i, shape ``(..., d, f)``.
        second: X_ij, shape ``(..., d, d, f)``, symmetric in i, j.
    """

    first: Float[Array, "*batch d f"]
    second: Float[Array, "*batch d d f"]


@partial(jax.jit, static_argnames="dimension")
def _unpack_jet(vectors: Float[Array, "*batch v f"], dimension: int) -> Jet:
    d = dimension
    return Jet(vectors[..., :d, :], vectors[..., pair_positions(d), :])


def gram(jet: Jet) -> JetGram:
    """Inner products of the vectors of a jet.

    Args:
        jet: Derivatives, batch axes first.

    Returns:
        The Gram matrices, in the dtype of the jet.

    Example:
        >>> parabola = lambda u: jnp.stack([u[0], u[0] ** 2])
        >>> mj.gram(mj.jet_from_function(parabola, jnp.array([1.0]))).metric
        Array([[5.]], dtype=float32)
    """
    instance("gram", "jet", jet, Jet, "see jet_from_function and jet_from_grid")
    return _gram(jet)


@partial(jax.jit, inline=True)
def _gram(jet: Jet) -> JetGram:
    d = jet.first.shape[-2]
    i, j = np.triu_indices(d)
    vectors = jnp.concatenate([jet.first, jet.second[..., i, j, :]], axis=-2)
    return unpack_gram(inner_products(single(vectors)), d)


def _check_coordinates(caller: str, coordinates: Array) -> Array:
    coordinates = real(caller, "coordinates", coordinates)
    if not coordinates.size or coordinates.ndim < 1 or not jnp.issubdtype(coordinates.dtype, jnp.floating):
        wanted = "a floating-point array of shape (..., d) that is not empty"
        got = f"{coordinates.dtype} of shape {coordinates.shape}"
        raise ValueError(f"{caller}: coordinates must be {wanted}, got {got}.")
    finite(caller, "coordinates", coordinates, axes=coordinates.ndim - 1)
    return single(coordinates)


def point_vectors(embedding: Embedding, u: Float[Array, "d"]) -> Float[Array, "v f"]:
    """X_i, then X_ij (i <= j), at one point, by forward-over-forward differentiation."""
    d = u.shape[0]
    basis = jnp.eye(d, dtype=u.dtype)
    i, j = np.triu_indices(d)

    def along(v: Array) -> Callable[[Array], Array]:
        return lambda x: jax.jvp(lambda y: single(jnp.ravel(embedding(y))), (x,), (v,))[1]

    first = jax.vmap(lambda v: along(v)(u))(basis)
    second = jax.vmap(lambda v, w: jax.jvp(along(v), (u,), (w,))[1])(basis[i], basis[j])
    return jnp.concatenate([first, second])


def jet_batch(dimension: int, features: int, dtype: Any) -> int:
    """Points whose jets are differentiated at once."""
    room = CACHE if jax.default_backend() == "cpu" else MEMORY
    numbers = COPIES * dimension * (dimension + 3) // 2 * max(features, 1)
    return max(1, room // (numbers * jnp.dtype(dtype).itemsize))


# One program each: operation by operation the derivatives of an embedding compile dozens.


@jax.jit
def _vectors(embedding: Any, points: Float[Array, "*batch d"]) -> Float[Array, "*batch v f"]:
    def of_rows(embedding: Any, points: Array) -> Array:
        vectors = jax.vmap(partial(point_vectors, embedding))(points.reshape(-1, points.shape[-1]))
        return vectors.reshape(*points.shape[:-1], *vectors.shape[1:])

    return over_rows(of_rows, embedding, points, axes=points.ndim - 1)


@partial(jax.jit, static_argnames="size")
def _products(embedding: Any, points: Float[Array, "*batch d"], size: int) -> Float[Array, "*batch v v"]:
    def of_rows(embedding: Any, points: Array) -> Array:
        flat = points.reshape(-1, points.shape[-1])
        packed = map_blocks(lambda block: inner_products(_vectors(embedding, block)), size, flat)
        return packed.reshape(*points.shape[:-1], *packed.shape[1:])

    return over_rows(of_rows, embedding, points, axes=points.ndim - 1)


def jet_from_function(embedding: Embedding, coordinates: Float[Array, "*batch d"]) -> Jet:
    """Exact first and second derivatives of an embedding, by nested forward-mode differentiation.

    Args:
        embedding: One chart point ``(d,)`` to one ambient point of any shape.
        coordinates: Chart points ``(..., d)``. Where they are cut over a ``jax.sharding.Mesh``, every device
            takes its own, and the jet is cut as they are. Weights that lie on the mesh too are to be leaves
            of the embedding, ``jax.tree_util.Partial(apply, weights)``.

    Returns:
        The jet, ``(..., d, f)`` and ``(..., d, d, f)``, in the dtype of the embedding's values.

    Raises:
        ValueError: The coordinates are not floating-point, or the embedding does not accept a point.

    Example:
        >>> jet = mj.jet_from_function(lambda u: jnp.stack([u[0] * u[1], u[1] ** 2]), jnp.ones((5, 2)))
        >>> jet.first.shape, jet.second.shape
        ((5, 2, 2), (5, 2, 2, 2))
    """
    checked_function("jet_from_function", "embedding", embedding, "one chart point")
    coordinates = _check_coordinates("jet_from_function", coordinates)
    coordinates, back = explicit(coordinates)
    d = coordinates.shape[-1]
    vectors = _vectors(frozen_embedding(embedding, d, coordinates.dtype), coordinates)
    return back(_unpack_jet(vectors, d))


def gram_from_function(
    embedding: Embedding, coordinates: Float[Array, "*batch d"], *, batch_size: int | None = None
) -> JetGram:
    """Exact Gram matrices of the 2-jet of an embedding, a batch of points at a time.

    Args:
        embedding: As in :func:`jet_from_function`.
        coordinates: Chart points ``(..., d)``, cut over a mesh or not as in :func:`jet_from_function`.
        batch_size: Points differentiated at once, by default set by the cache of a CPU or by 256 MiB on an
            accelerator; peak memory grows with it and not with the number of points.

    Returns:
        The Gram matrices with the batch shape of ``coordinates``.

    Raises:
        ValueError: ``batch_size`` is below 1, or as :func:`jet_from_function`.

    Example:
        >>> bowl = lambda u: jnp.concatenate([u, jnp.sum(u**2)[None] / 2])
        >>> print(mj.scalar_curvature(mj.gram_from_function(bowl, jnp.zeros(3))))
        6.0
    """
    checked_function("gram_from_function", "embedding", embedding, "one chart point")
    coordinates = _check_coordinates("gram_from_function", coordinates)
    batch_size = optional(whole, "gram_from_function", "batch_size", batch_size)
    coordinates, back = explicit(coordinates)
    d = coordinates.shape[-1]
    embedding = frozen_embedding(embedding, d, coordinates.dtype)
    size = batch_size or jet_batch(d, math.prod(result_of(embedding).shape), coordinates.dtype)
    return back(unpack_gram(_products(embedding, coordinates, size), d))


def _first_gram(block: BlockGrams, _plan: BlockPlan) -> Array:
    return block.grams[0]


_unpack_gram = jax.jit(unpack_gram, static_argnames="dimension")


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
    first differences. Ghost layers keep the order up to the border: periodic axes wrap, open ones are
    extrapolated with degree ``accuracy + 1``, and a function is evaluated beyond the ends.

    An array that is cut over a ``jax.sharding.Mesh``, along axes of the grid, of features or both, is left
    where it is: every device takes its piece, and neighbours exchange what their stencils share. Only along
    an axis that is spectral, or no longer than a window of the stencil, is it gathered. Axes of the mesh may
    be explicit or auto; under a ``jit`` of yours only explicit ones tell how an array is cut, and for others
    the compiler decides.

    Args:
        points: Array ``(*grid.shape, *features)``, in memory or mapped and then read block by block; or a
            function of one chart point ``(d,)``, evaluated block by block and never stored.
        grid: The lattice.
        accuracy: Order 2, 4, 6 or 8, or ``"spectral"`` on periodic axes; one for all axes or one per axis.
        stride: Use every ``stride``-th sample in the stencils (all points keep a value). A larger stride
            lowers rounding errors, which grow as 1/spacing^2.
        block_size: Most points differentiated at once; by default temporaries stay near 256 MiB.

    Returns:
        The Gram matrices ``(*grid.shape, ...)`` in the dtype of the points, cut as these are.

    Raises:
        ValueError: Shapes, dtype, accuracy or stride do not fit, or an axis has too few samples.

    Example:
        >>> grid = mj.Grid((mj.Axis("angle", 0.0, 2 * jnp.pi, 64, periodic=True),))
        >>> angle = grid.coordinates()[..., 0]
        >>> circle = 2 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        >>> print(mj.mean_curvature(mj.gram_from_grid(circle, grid)).mean().round(4))
        0.5
    """
    checked = as_points("gram_from_grid", points, grid, in_pieces=True)
    stencil = stencil_of("gram_from_grid", checked.grid, accuracy, stride)
    plan = plan_blocks(checked, (stencil,), block_size)
    packed = run_blocks(checked, plan, _first_gram, calls=1)
    return checked.back(_unpack_gram(packed, checked.grid.ndim))


def _window_jet(window: Window, plan: BlockPlan) -> Array:
    """Jet vectors ``(*block, v, f)`` of a block."""
    vectors = block_vectors(window, plan)[0]
    return vectors.reshape(*plan.block, *vectors.shape[1:])


def _refuse_cut_features(points: Source, checked: Points) -> None:
    """Raise ValueError where flat features of pieces would be in another order than those of all."""
    if mesh_of(checked.values) is None:
        return
    names = names_of(explicit(points)[0])[checked.grid.ndim + 1 :]
    if any(names):
        got = f"an array that is cut along another over {joined(names)}"
        wanted = "points of which no feature axis but the first is cut"
        raise ValueError(f"jet_from_grid: points must be {wanted}, got {got}: use jax.sharding.reshard.")


def jet_from_grid(
    points: Source,
    grid: Grid,
    *,
    accuracy: Accuracy | tuple[Accuracy, ...] = 4,
    stride: int | tuple[int, ...] = 1,
) -> Jet:
    """First and second derivatives of gridded points, whole (not streamed).

    Args:
        points: Array ``(*grid.shape, *features)`` or function of one chart point. One that is cut over a
            mesh, of its feature axes along the first only, stays so, as in :func:`gram_from_grid`.
        grid: The lattice.
        accuracy: As in :func:`gram_from_grid`.
        stride: As in :func:`gram_from_grid`.

    Returns:
        The jet ``(*grid.shape, d, f)``, ``(*grid.shape, d, d, f)``, d(d+3)/2 times as large as the points.

    Raises:
        ValueError: As :func:`gram_from_grid`.

    Example:
        >>> grid = mj.Grid((mj.Axis("t", 0.0, 1.0, 8),))
        >>> jet = mj.jet_from_grid(grid.coordinates() ** 2, grid)
        >>> bool(jnp.allclose(jet.second, 2.0, atol=1e-2))
        True
    """
    checked = as_points("jet_from_grid", points, grid, in_pieces=True)
    _refuse_cut_features(points, checked)
    grid = checked.grid
    stencil = stencil_of("jet_from_grid", grid, accuracy, stride)
    sizes = [n // p for n, p in zip(grid.shape, checked.pieces, strict=True)]
    block = tuple(longest_block(n, a == "spectral") for n, (a, _) in zip(sizes, stencil, strict=True))
    plan = BlockPlan(grid, (stencil,), block, checked.evaluated, checked.features, pieces=checked.pieces)
    vectors = run_blocks(checked, plan, _window_jet, windows=True, calls=1)
    return checked.back(_unpack_jet(vectors, grid.ndim))
