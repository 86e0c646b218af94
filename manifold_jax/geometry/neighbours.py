"""Nearest neighbours: exact by tiled matrix products, or approximate through pynndescent.

Distances are screened by ||x||^2 + ||y||^2 - 2 <x, y>, a fast matrix product that loses digits where points
are close. So more candidates than asked are kept and ordered by differences, and a row whose candidates the
screen cannot tell apart is searched by differences altogether.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from manifold_jax._checks import choice, flat, floating, is_traced, optional, require, whole
from manifold_jax._linalg import block_rows, map_blocks, matmul, safe_sqrt

DIRECT_FEATURES = 16  # up to so many features differences are formed at once, which cancel nothing
TILE_NUMBERS = 2**23  # numbers of one tile of samples, and of its distances to a block of queries
_GROUP = 16  # columns of which only the smallest is looked at first
_ONE_BY_ONE = 64  # up to so many smallest entries of float64 are taken one after the other


class Neighbours(NamedTuple):
    """Rows of the nearest samples of every query, nearest first, and their Euclidean distances."""

    distances: Float[Array, "q k"]
    indices: Int[Array, "q k"]


def nearest_neighbours(
    samples: Float[Any, "n *features"],
    queries: Float[Any, "q *features"],
    count: int,
    *,
    block_size: int | None = None,
    method: str = "exact",
) -> Neighbours:
    """The k nearest samples of every query.

    ``"exact"`` never holds more than a tile of samples and its distances to a block of queries. Distances are
    right to rounding also for close points far from the origin; a query that is a sample finds itself, at
    distance 0. Samples that are not finite lie at infinity. ``"approximate"`` builds the graph of pynndescent
    (Dong, Moses & Li, WWW 2011) on the host, for large clouds; a few neighbours may be missed.

    Args:
        samples: n points of any feature shape.
        queries: q points of the same feature shape.
        count: k, at most n.
        block_size: Queries treated at once; by default so many that a tile has about 8 million numbers.
        method: ``"exact"`` or ``"approximate"``.

    Returns:
        The neighbours. The distances can be differentiated (with gradient 0 at distance 0).

    Raises:
        ValueError: Shapes, types, ``count`` or method do not fit, or ``"approximate"`` is traced.
        ImportError: ``"approximate"`` is asked for, and pynndescent is not installed.

    Example:
        >>> samples = jnp.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
        >>> nearest = mj.fitting.nearest_neighbours(samples, jnp.zeros((1, 2)), 2)
        >>> nearest.indices.tolist(), nearest.distances.tolist()
        ([[0, 2]], [[0.0, 1.0]])
    """
    name = "nearest_neighbours"
    samples, queries = floating(name, "samples", samples), floating(name, "queries", queries)
    if samples.shape[1:] != queries.shape[1:]:
        shapes = f"{samples.shape[1:]} and {queries.shape[1:]}"
        raise ValueError(f"{name}: samples and queries must have the same feature shape, got {shapes}.")
    count = whole(name, "count", count, 1, len(samples))
    block_size = optional(whole, name, "block_size", block_size)
    choice(name, "method", method, ("exact", "approximate"))
    dtype = jnp.result_type(samples, queries)
    samples, queries = flat(samples).astype(dtype), flat(queries).astype(dtype)
    search = _approximate if method == "approximate" else _exact
    return search(samples, queries, count, block_size)


@partial(jax.jit, static_argnames=("count", "block_size"))
def _exact(samples: Array, queries: Array, count: int, block_size: int | None) -> Neighbours:
    return _by_distance(samples, queries, neighbour_indices(samples, queries, count, block_size), block_size)


def neighbour_indices(
    samples: Float[Array, "n f"], queries: Float[Array, "q f"], count: int, block_size: int | None = None
) -> Int[Array, "q k"]:
    """Rows of the exact nearest samples, nearest first; constant for differentiation."""
    samples, queries = jax.lax.stop_gradient((samples, queries))
    n, f = samples.shape
    if f <= DIRECT_FEATURES:
        tile = min(n, 4096)
        direct = lambda q: _smallest(samples, q, count, tile, direct_squares)[1].astype(int)  # noqa: E731
        return map_blocks(direct, block_rows(tile, block_size), queries)
    extra = min(n, count + max(8, count // 2))
    tile = min(n, max(extra, TILE_NUMBERS // f))
    block = block_size or max(1, min(1024, TILE_NUMBERS // tile, TILE_NUMBERS // f))
    centre, largest = _extent(samples, tile)
    return map_blocks(partial(_screened, samples, centre, largest, count, extra, tile), block, queries)


def _extent(samples: Array, tile: int) -> tuple[Array, Array]:
    """Mean of the finite samples, about, and the largest squared distance from it.

    Tile by tile: on CPUs the sums over all samples at once would hold a copy of them.
    """
    n = samples.shape[0]
    starts = jnp.minimum(jnp.arange(-(-n // tile)) * tile, n - tile)

    def over_tiles(total: Callable[[Array, Array], Any]) -> Any:
        def one(start: Array) -> Any:
            part = jax.lax.dynamic_slice_in_dim(samples, start, tile)
            return total(part, jnp.all(jnp.isfinite(part), axis=1, keepdims=True))

        return jax.lax.map(one, starts)

    # The overlap of the last tile counts twice: any point near the middle will do.
    sums = over_tiles(lambda part, finite: (jnp.sum(jnp.where(finite, part, 0), axis=0), jnp.sum(finite)))
    centre = jnp.sum(sums[0], axis=0) / jnp.maximum(jnp.sum(sums[1]), 1)
    squares = over_tiles(lambda part, finite: jnp.sum(jnp.where(finite, part - centre, 0) ** 2, axis=1))
    return centre, jnp.max(squares)


def _screened(
    samples: Array, centre: Array, largest: Array, count: int, extra: int, tile: int, queries: Array
) -> Array:
    """Screen by matrix products, order the candidates by differences, repair what stays in doubt."""
    eps, f = jnp.finfo(samples.dtype).eps, samples.shape[1]
    screened, candidates = _smallest(samples, queries, extra, tile, partial(product_squares, centre))
    squares, indices = _sorted_rows(samples, queries, candidates, count)
    if extra == samples.shape[0]:
        return indices
    # What the screen left out is larger than its last candidate, to its rounding error.
    doubt = eps * (8 + f**0.5) * (largest + jnp.sum((queries - centre) ** 2, axis=1))
    certain = squares[:, -1] <= screened[:, -1] - 2 * doubt
    finite = jnp.all(jnp.isfinite(queries), axis=1)

    def repair(state: tuple[Array, Array]) -> tuple[Array, Array]:
        pending, indices = state
        row = jnp.argmax(pending)
        # A quarter of a tile: here differences of all features are held.
        here = _smallest(samples, queries[row][None], count, tile // 4, direct_squares)[1]
        return pending.at[row].set(False), indices.at[row].set(here[0].astype(indices.dtype))

    # A loop rather than a branch: under vmap a branch would always be taken.
    return jax.lax.while_loop(lambda state: jnp.any(state[0]), repair, (~certain & finite, indices))[1]


def _smallest(samples: Array, queries: Array, count: int, tile: int, squares: Any) -> tuple[Array, Array]:
    """Running top-k over tiles of samples: squared distances ``(q, k)`` ascending, and rows."""
    n, q = samples.shape[0], queries.shape[0]
    tile = min(n, max(tile, 1))

    def among(part: Array) -> Array:
        values = squares(part, queries)
        # Farther than any finite sample, nearer than the blanks that the search begins with.
        return jnp.where(jnp.isfinite(values), values, jnp.finfo(values.dtype).max)

    if tile == n:
        values, rows = least_columns(among(samples), count)
        return values, rows.astype(int)

    def merge(best: tuple[Array, Array], number: Array) -> tuple[tuple[Array, Array], None]:
        # The last tile overlaps the one before it: no padded copy of the samples is made.
        start = jnp.minimum(number * tile, n - tile)
        values = among(jax.lax.dynamic_slice_in_dim(samples, start, tile))
        rows = start + jnp.arange(tile)
        values = jnp.where(rows < number * tile, jnp.inf, values)
        values, columns = least_columns(values, min(count, tile))
        values = jnp.concatenate([best[0], values], axis=1)
        index = jnp.concatenate([best[1], rows[columns].astype(best[1].dtype)], axis=1)
        values, place = _least(values, count)
        return (values, jnp.take_along_axis(index, place, axis=1)), None

    begin = (jnp.full((q, count), jnp.inf, samples.dtype), jnp.zeros((q, count), int))
    return jax.lax.scan(merge, begin, jnp.arange(-(-n // tile)))[0]


def least_columns(values: Array, count: int) -> tuple[Array, Array]:
    """Smallest entries of each row: they lie in the ``count`` groups of smallest minima."""
    q, n = values.shape
    if n % _GROUP or n // _GROUP < 2 * count:
        return _least(values, count)
    grouped = values.reshape(q, n // _GROUP, _GROUP)
    groups = jnp.sort(_least(jnp.min(grouped, axis=2), count)[1], axis=1)
    kept = jnp.take_along_axis(grouped, groups[:, :, None], axis=1).reshape(q, -1)
    least, place = _least(kept, count)
    return least, jnp.take_along_axis(groups, place // _GROUP, axis=1) * _GROUP + place % _GROUP


def _least(values: Array, count: int) -> tuple[Array, Array]:
    """Smallest entries of each row, ascending, and their columns; infinite ones may name one column twice."""
    if values.dtype != jnp.float64 or count > _ONE_BY_ONE:
        least, columns = jax.lax.top_k(-values, count)
        return -least, columns
    # XLA's CPU sorts whole rows of float64 for a top_k, which takes ten times as long as this.
    numbers = jnp.arange(values.shape[1], dtype=jnp.int32)

    def take(rest: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        least = jnp.min(rest, axis=1)
        column = jnp.min(jnp.where(rest == least[:, None], numbers, values.shape[1] - 1), axis=1)
        return jnp.where(numbers == column[:, None], jnp.inf, rest), (least, column)

    least, columns = jax.lax.scan(take, values, length=count)[1]
    return least.T, columns.T


def product_squares(centre: Array | float, samples: Array, queries: Array) -> Array:
    """Squared distances ``(q, n)`` by a matrix product of centred points."""
    x, y = queries - centre, samples - centre
    sizes = jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)[None]
    return sizes - 2 * matmul(x, y.T)


def direct_squares(samples: Array, queries: Array) -> Array:
    """Squared distances ``(q, n)`` from differences, one fused loop."""
    if samples.shape[1] <= DIRECT_FEATURES:
        columns = range(samples.shape[1])
        return jnp.asarray(sum((queries[:, None, c] - samples[None, :, c]) ** 2 for c in columns))
    return jnp.sum((queries[:, None] - samples[None]) ** 2, axis=-1)


def _sorted_rows(
    samples: Array, queries: Array, candidates: Array, count: int, block_size: int | None = None
) -> tuple[Array, Array]:
    """The nearest of the candidates by differences: squared distances, infinite for NaN, and rows."""

    def one(query: Array, rows: Array) -> tuple[Array, Array]:
        squares = jnp.sum((samples[rows] - query) ** 2, axis=1)
        squares = jnp.where(jnp.isnan(squares), jnp.inf, squares)
        order = jnp.argsort(squares)[:count]
        return squares[order], rows[order]

    block = block_rows(candidates.shape[1] * samples.shape[1], block_size)
    return map_blocks(jax.vmap(one), block, queries, candidates)


def _by_distance(samples: Array, queries: Array, indices: Array, block_size: int | None) -> Neighbours:
    """Rows with their distances, which can be differentiated."""
    squares, indices = _sorted_rows(samples, queries, indices, indices.shape[1], block_size)
    return Neighbours(safe_sqrt(squares), indices)


def _approximate(samples: Array, queries: Array, count: int, block_size: int | None) -> Neighbours:
    """By nearest-neighbour descent, on the host."""
    if is_traced(samples, queries):
        remedy = "call it outside of jit, or take method='exact'"
        raise ValueError(f"nearest_neighbours: method='approximate' cannot be traced; {remedy}.")
    pynndescent = require("pynndescent", "neighbours", "nearest_neighbours with method='approximate'")
    degree = min(len(samples) - 1, max(count, 30))
    graph = pynndescent.NNDescent(np.asarray(samples), n_neighbors=degree, random_state=0)
    indices = jnp.asarray(graph.query(np.asarray(queries), k=count)[0].astype(int))
    return _by_distance(samples, queries, indices, block_size)
