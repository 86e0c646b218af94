"""Largest empty tangent balls and bottleneck candidates, from all pairs of points.

For a point x with tangent space T_x the ball that touches it and passes through y has the radius

    R(x, y) = |y - x|^2 / (2 d(y - x, T_x))          (Federer, Trans. AMS 93, 1959, theorem 4.18)

and tau(x) = inf over y of R(x, y). Pairs are screened in tiles, in the dtype of the points; those whose
rounding interval reaches the minimum of their row are computed again in NumPy float64. A pair at distance r
cannot give less than r/2, so points are first compared after an orthogonal projection to few dimensions,
which never lengthens a distance: what lies beyond twice the radius already found is never looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from manifold_jax.geometry.reach.cloud import Cloud
from manifold_jax.geometry.reach.screen import DIRECT_FEATURES, RELIABLE, Side, near, screen

_LARGEST_TILE = 16384
_TILTED = 0.25


class Rows(NamedTuple):
    """A tile of centres x.

    Attributes:
        position: ``(a,)`` positions in the cloud.
        frames: ``(a, d, f)`` orthonormal tangent frames; NaN where the metric is degenerate.
        tilt: ``(a,)`` bound on the sine of the error of the tangent space.
        radius: ``(a,)`` upper bound of tau known beforehand, or infinity.
        bend: ``(a,)`` normal curvature, by which the normal space turns within a cell.
    """

    position: np.ndarray
    frames: np.ndarray
    tilt: np.ndarray
    radius: np.ndarray
    bend: np.ndarray


class Pairs(NamedTuple):
    """What the pairs of one tile, or of all, say.

    Attributes:
        radius: ``(a,)`` smallest R(x, y), infinite where no pair is reliable.
        error: ``(a,)`` its error by noise and rounding.
        witness: ``(a,)`` position of y in the cloud, -1 where there is none.
        normal: ``(m, 2)`` pairs whose chord is normal at the first, within a cell.
        length: ``(m,)`` their lengths.
        tangent: ``(m,)`` length of the chord's tangential part at the first.
        coincident: ``(c, 2)`` different points at the same place.
        looked_at: Pairs that were not pruned.
    """

    radius: np.ndarray
    error: np.ndarray
    witness: np.ndarray
    normal: np.ndarray
    length: np.ndarray
    tangent: np.ndarray
    coincident: np.ndarray
    looked_at: int


def check_tile_size(tile_size: int | None) -> None:
    """Refuse what is no number of rows, or more than a machine can hold."""
    whole = isinstance(tile_size, (int, np.integer)) and not isinstance(tile_size, bool)
    if tile_size is not None and not (whole and 1 <= tile_size <= _LARGEST_TILE):
        raise ValueError(
            f"tile_size must be a whole number of points from 1 to {_LARGEST_TILE} (they are compared with "
            f"thousands at once), got {tile_size!r}."
        )


def tile_shape(features: int, count: int, tile_size: int | None) -> tuple[int, int]:
    """Rows and columns of a tile.

    Short points want large tiles, for speed; long ones small tiles, whose rows have few candidates in common.

    Args:
        features: Numbers per point.
        count: Points of the cloud.
        tile_size: Rows as asked for, or None.

    Returns:
        Rows per tile, columns compared with them at once.
    """
    short = features <= DIRECT_FEATURES
    columns = min(4096 if short else 2048, 16 * tile_size if tile_size else 4096)
    return tile_size or (256 if short else 32), min(columns, 1 << max(5, (count - 1).bit_length()))


# --- one tile ----------------------------------------------------------------------------------------------

_PROJECTED_COLUMNS = 8192


def _candidates(cloud: Cloud, rows: Rows, limit: np.ndarray) -> tuple[np.ndarray, int]:
    """Columns that some row of the tile may need, and a bound of the number of pairs within their limits.

    First those within the ball around the tile, then, where points are long, pair by pair after projection.
    """
    dtype = cloud.projected.dtype
    here = cloud.projected[rows.position]
    centre = here.mean(axis=0)
    size = float(np.sqrt(np.sum((here - centre) ** 2, axis=1).max()))
    squares = cloud.squares - 2 * (cloud.projected @ centre) + float(centre @ centre)
    farthest = float(limit.max()) + size + 2 * cloud.slack
    found = np.flatnonzero(squares <= farthest**2 + cloud.slack * float(cloud.squares.max()) ** 0.5)
    if cloud.points.shape[1] <= DIRECT_FEATURES:
        return found, len(found) * len(here)
    near_rows, limits = jnp.asarray(here), jnp.asarray(limit, dtype)
    kept, pairs = [], 0
    step = min(_PROJECTED_COLUMNS, len(cloud.points))
    for start in range(0, len(found), step):
        index = found[start : start + step]
        # Padded with points at infinity: one shape, one compilation.
        piece = np.full((step, here.shape[1]), np.sqrt(np.finfo(dtype).max) / 8, dtype)
        piece[: len(index)] = cloud.projected[index]
        any_row, count = near(near_rows, jnp.asarray(piece), limits, dtype.type(cloud.slack))
        kept.append(index[np.asarray(any_row)[: len(index)]])
        pairs += int(np.asarray(count).sum())
    return np.concatenate(kept) if kept else found, pairs


def compact_order(points: np.ndarray, size: int) -> list[np.ndarray]:
    """Indices in groups of ``size`` near points, by halving along the widest direction (a k-d tree)."""
    groups, stack = [], [np.arange(len(points))]
    while stack:
        index = stack.pop()
        if len(index) <= size:
            groups.append(index)
            continue
        part = points[index]
        along = part[:, int(np.argmax(np.ptp(part, axis=0)))]
        # Cut at a multiple of the size, so that all groups but one are full.
        cut = max(1, round(len(index) / size / 2)) * size
        order = np.argpartition(along, min(cut, len(index) - 1))
        stack += [index[order[:cut]], index[order[cut:]]]
    return groups


def _side(cloud: Cloud, index: np.ndarray, size: int) -> Side:
    """Gather columns, padded to ``size`` with index -1."""
    dtype = cloud.projected.dtype
    place = np.zeros(size, np.int64)
    place[: len(index)] = index
    label = np.full(size, -1, np.int32)
    label[: len(index)] = index
    points = jnp.asarray(np.asarray(cloud.points[place], dtype))
    noise = jnp.asarray(cloud.noise[place], dtype)
    return Side(jnp.asarray(label), points, noise, jnp.asarray(cloud.spread[place], dtype))


def tile_pairs(
    cloud: Cloud, rows: Rows, *, longest: float, separation: float, columns: int, allowed: np.ndarray | None
) -> Pairs:
    """Smallest R(x, y) of every row of a tile, and the pairs that may be bottlenecks.

    Args:
        cloud: All points.
        rows: The centres.
        longest: Bottlenecks are looked for up to this half length.
        separation: Pairs closer than this do not count for R.
        columns: Points compared with the tile at once.
        allowed: Mask of the points of the cloud that count as y; all by default.

    Returns:
        The pairs of this tile.
    """
    dtype = cloud.projected.dtype
    slack = dtype.type(slack_of(dtype))
    side = _side(cloud, rows.position, len(rows.position))
    traced = [jnp.asarray(x, dtype) for x in (rows.frames, rows.tilt, rows.bend)]
    scalars = dtype.type(longest), dtype.type(separation), slack
    best = jnp.full(len(rows.position), jnp.inf, dtype)
    merged = _empty(len(rows.position))

    def look(index: np.ndarray, size: int, best: Array, merged: Pairs) -> tuple[Array, Pairs]:
        mask, bound = screen(side, *traced, _side(cloud, index, size), best, *scalars)
        i, j = np.divmod(np.flatnonzero(np.asarray(mask)), size)
        return bound, _again(cloud, rows, i, index[j], merged, longest, separation, float(slack))

    n = len(cloud.points)
    everyone = np.arange(n) if allowed is None else np.flatnonzero(allowed)
    columns = min(columns, len(everyone))
    long = cloud.points.shape[1] > DIRECT_FEATURES
    if len(everyone) > (1 if long else 2) * columns:
        own = rows.position if allowed is None else rows.position[allowed[rows.position]]
        best, merged = look(own, len(rows.position), best, merged)
        radius = np.minimum(np.asarray(best), rows.radius)
        index, looked_at = _candidates(cloud, rows, 2 * np.maximum(radius, longest))
        everyone = index if allowed is None else index[allowed[index]]
    else:
        looked_at = len(everyone) * len(rows.position)
    for start in range(0, len(everyone), columns):
        best, merged = look(everyone[start : start + columns], columns, best, merged)
    return merged._replace(looked_at=looked_at)


def slack_of(dtype: np.dtype) -> float:
    """Relative gap below which a pair is not computed again; it is part of the error."""
    return float(100 * np.finfo(dtype).eps)


def _empty(count: int) -> Pairs:
    none = np.zeros((0, 2), np.int64)
    radius = np.full(count, np.inf)
    return Pairs(radius, np.zeros(count), np.full(count, -1), none, np.zeros(0), np.zeros(0), none, 0)


class Balls(NamedTuple):
    """Tangent balls of pairs, all ``(p,)``.

    Attributes:
        chord: |y - x|.
        normal: Distance of y to the tangent space at x.
        noise: Rounding error of y - x.
        radius: R(x, y); infinite where noise spoils the distance to the tangent space.
        error: Its error.
    """

    chord: np.ndarray
    normal: np.ndarray
    noise: np.ndarray
    radius: np.ndarray
    error: np.ndarray


def pair_radii(cloud: Cloud, rows: Rows, local: np.ndarray, other: np.ndarray, slack: float) -> Balls:
    """R(x, y) of pairs in float64.

    Args:
        cloud: All points.
        rows: A tile.
        local: ``(p,)`` position of x in the tile.
        other: ``(p,)`` position of y in the cloud.
        slack: Relative error that is added.

    Returns:
        The balls.
    """
    chord, normal = _chord_and_normal(cloud, rows, local, other)
    noise = cloud.noise[rows.position[local]] + cloud.noise[other]
    soft = rows.tilt[local] * chord + noise
    reliable = (soft <= RELIABLE * normal) & (normal > 0)
    below = np.where(reliable, normal, 1.0)
    radius = np.where(reliable, chord**2 / (2 * below), np.inf)
    error = np.where(reliable, radius * (soft / below + slack), np.inf)
    return Balls(chord, normal, noise, radius, error)


def _chord_and_normal(
    cloud: Cloud, rows: Rows, local: np.ndarray, other: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """|y - x| and d(y - x, T_x), a few pairs at a time."""
    d, f = rows.frames.shape[1:]
    chord, normal = np.zeros(len(local)), np.zeros(len(local))
    step = max(1, 2**22 // (f * (d + 2)))
    for start in range(0, len(local), step):
        part = slice(start, start + step)
        i, j = local[part], other[part]
        v = np.asarray(cloud.points[j], np.float64) - np.asarray(cloud.points[rows.position[i]], np.float64)
        frames = np.asarray(rows.frames[i], np.float64)
        along = np.einsum("pdf,pf->pd", frames, v)
        rest = v - np.einsum("pdf,pd->pf", frames, along)
        chord[part] = np.linalg.norm(v, axis=1)
        normal[part] = np.linalg.norm(rest, axis=1)
    return chord, normal


def _again(
    cloud: Cloud,
    rows: Rows,
    i: np.ndarray,
    j: np.ndarray,
    merged: Pairs,
    longest: float,
    separation: float,
    slack: float,
) -> Pairs:
    """Compute screened pairs in float64 and merge them into what is known of the tile."""
    if not len(i):
        return merged
    chord, normal, noise, radius, error = pair_radii(cloud, rows, i, j, slack)
    x = rows.position[i]
    apart = chord > 2 * noise
    radius = np.where(apart & (chord >= separation), radius, np.inf)
    order = np.lexsort((radius, i))
    first = order[np.unique(i[order], return_index=True)[1]]
    better = first[radius[first] < merged.radius[i[first]]]
    for old, new in ((merged.radius, radius), (merged.error, error), (merged.witness, j)):
        old[i[better]] = new[better]
    cell = cloud.spread[x] * (1 + chord * rows.bend[i]) + cloud.spread[j]
    tangent = np.sqrt(np.maximum(chord**2 - normal**2, 0.0))
    # Where stencils do not know the tangent space (copies by rasterisation) nothing is normal to it.
    facing = apart & (rows.tilt[i] <= _TILTED) & (noise <= RELIABLE * normal)
    facing &= (tangent <= np.minimum(cell, chord / 2)) & (chord <= 2 * longest)
    facing &= np.isfinite(normal)
    same = ~apart & np.isfinite(normal)
    return merged._replace(
        normal=np.concatenate([merged.normal, np.stack([x, j], 1)[facing]]),
        length=np.concatenate([merged.length, chord[facing]]),
        tangent=np.concatenate([merged.tangent, tangent[facing]]),
        coincident=np.concatenate([merged.coincident, np.stack([x, j], 1)[same]]),
    )


# --- all tiles ---------------------------------------------------------------------------------------------


def all_pairs(
    cloud: Cloud,
    tiles: Iterable[Rows],
    *,
    longest: float,
    separation: float = 0.0,
    columns: int,
    allowed: np.ndarray | None = None,
    after: Callable[[Rows, Pairs], None] | None = None,
) -> Pairs:
    """Run :func:`tile_pairs` over tiles and put the results into cloud order.

    Args:
        cloud: All points.
        tiles: Centres, tile by tile.
        longest: As in :func:`tile_pairs`.
        separation: As in :func:`tile_pairs`.
        columns: As in :func:`tile_pairs`.
        allowed: As in :func:`tile_pairs`.
        after: Called with each tile and its pairs while its frames are at hand.

    Returns:
        Pairs with ``(n,)`` fields in the order of the cloud; points that are no centre keep radius infinity.
    """
    total = _empty(len(cloud.points))
    lists: list[tuple[np.ndarray, ...]] = [total[3:7]]
    looked_at = 0
    run = partial(tile_pairs, longest=longest, separation=separation, columns=columns, allowed=allowed)
    for rows in tiles:
        pairs = run(cloud, rows)
        for whole, part in zip(total[:3], pairs[:3], strict=True):
            whole[rows.position] = part
        lists.append(pairs[3:7])
        looked_at += pairs.looked_at
        if after is not None:
            after(rows, pairs)
    normal, length, tangent, coincident = (np.concatenate(column) for column in zip(*lists, strict=True))
    return total._replace(
        normal=normal, length=length, tangent=tangent, coincident=coincident, looked_at=looked_at
    )


def mutual(pairs: Pairs, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs whose chord is normal at both ends, each once, in the order of ``first * count + second``.

    Args:
        pairs: From :func:`all_pairs`.
        count: Number of points of the cloud.

    Returns:
        ``(m, 2)`` pairs with the smaller position first, their lengths, and the larger tangential part of the
        chord at its ends, relative to the length.
    """
    i, j = pairs.normal.T
    forward = i < j
    ahead, at_first = np.unique((i * count + j)[forward], return_index=True)
    back, at_second = np.unique((j * count + i)[~forward], return_index=True)
    both, one, two = np.intersect1d(ahead, back, assume_unique=True, return_indices=True)
    length = pairs.length[forward][at_first][one]
    sides = pairs.tangent[forward][at_first][one], pairs.tangent[~forward][at_second][two]
    return np.stack([both // count, both % count], 1), length, np.maximum(*sides) / length
