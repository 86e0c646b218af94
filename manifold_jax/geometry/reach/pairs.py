"""Largest empty tangent balls and bottleneck candidates, from all pairs of points.

Pairs are screened in tiles, in the dtype of the points, long ones in the few directions that hold them. Those
whose interval of the radius R(x, y) of :mod:`search`, by rounding and by what the directions leave out, meets
the minimum of their row are computed again in NumPy float64. A pair at distance r cannot give less than r/2:
so points are first compared after an orthogonal projection to few dimensions, which never lengthens a
distance, and what lies beyond twice the radius already known is never looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from manifold_jax._checks import positive, whole
from manifold_jax._executors import run_sharing
from manifold_jax._files import Progress
from manifold_jax._keys import digest_arrays, fingerprint
from manifold_jax._partial import PartialResult
from manifold_jax.geometry.reach.cloud import Cloud, pieces
from manifold_jax.geometry.reach.cones import Cones, squared_distance
from manifold_jax.geometry.reach.screen import RELIABLE, STEEP, Side, near, screen

LARGEST_TILE = 16384  # rows of a tile at most: they are compared with thousands of columns at once
PROJECTED_COLUMNS = 8192  # projected points that are compared with a tile at once
HELD = 2**24  # bounds of pairs of a tile that are kept before some are computed again
PAIRS = 5  # standard deviations that the noise of the least of all pairs may be off
TILTED = 0.25  # largest sine of the error of a tangent space to which a chord can be said to be normal
SLACK = 100  # relative gap, in eps, below which a better pair is not looked for; it is part of the error


class Tile(NamedTuple):
    """Positions of the centres x of a tile in the cloud, and what is known there.

    Attributes:
        frames: Orthonormal tangent frames; NaN where the metric is degenerate.
        tilt: Bound on the sine of the error of the tangent space.
        radius: Upper bound of tau known beforehand, or infinity.
        curvature: Normal curvature, by which the normal space turns within a cell.
        cones: Tangent cones where a centre lies at a border, else None.
        own: Mask of the centres that no other tile has; the others are there to make it full. None: all.
    """

    position: Int[np.ndarray, "a"]
    frames: Float[np.ndarray, "a d f"]
    tilt: Float[np.ndarray, "a"]
    radius: Float[np.ndarray, "a"]
    curvature: Float[np.ndarray, "a"]
    cones: Cones | None = None
    own: Bool[np.ndarray, "a"] | None = None

    @property
    def mine(self) -> Bool[np.ndarray, "a"]:
        """The mask of its own centres."""
        return np.ones(len(self.position), bool) if self.own is None else self.own


class Seen(NamedTuple):
    """What a comparison of a tile with all points found.

    Attributes:
        radius: Smallest R(x, y) at every centre, infinite where there is no reliable pair or it is no own.
        error: Its error by noise and rounding.
        witness: Position of y in the cloud, -1 where there is none.
        facing: Pairs whose chord is normal at the first, within a cell: positions, and lengths of the chord
            and of its tangential part.
        coincident: Pairs of different points at the same place, as x n + y.
        compared: Number of pairs that were not pruned.
    """

    radius: Float[np.ndarray, "a"]
    error: Float[np.ndarray, "a"]
    witness: Int[np.ndarray, "a"]
    facing: tuple[np.ndarray, ...]
    coincident: Int[np.ndarray, "c"]
    compared: int = 0

    def and_then(self, other: Seen) -> Seen:
        """Both, of the same tile."""
        better = other.radius < self.radius
        return Seen(
            radius=np.where(better, other.radius, self.radius),
            error=np.where(better, other.error, self.error),
            witness=np.where(better, other.witness, self.witness),
            facing=tuple(map(np.concatenate, zip(self.facing, other.facing, strict=True))),
            coincident=np.concatenate([self.coincident, other.coincident]),
            compared=self.compared + other.compared,
        )


def _as_seen(leaves: Sequence[np.ndarray]) -> Seen:
    """The leaves of a kept comparison."""
    radius, error, witness, *facing, coincident, compared = leaves
    return Seen(radius, error, witness, tuple(facing), coincident, int(compared))


def check_options(caller: str, tile_size: int | None, tolerance: float) -> None:
    """Refuse a tile that no machine can hold, and a relative error outside (0, 1)."""
    if tile_size is not None:
        whole(caller, "tile_size", tile_size, most=LARGEST_TILE)
    positive(caller, "tolerance", tolerance, below=1)


def tile_shape(cloud: Cloud, tile_size: int | None) -> tuple[int, int]:
    """Rows of a tile, as asked for or by default, and the columns that are compared with them at once."""
    # Short points want large tiles, for speed; long ones small tiles, whose rows share few candidates.
    rows, columns = (256, 4096) if cloud.short else (64, 2048)
    if tile_size:
        rows, columns = int(tile_size), min(columns, 16 * int(tile_size))
    # A power of two for small clouds: few shapes, few compilations.
    return rows, min(columns, 1 << max(5, (len(cloud.points) - 1).bit_length()))


class Balls(NamedTuple):
    """Tangent balls of pairs.

    |y - x|; the distance of y - x to the tangent cone at x; the noise and rounding of y - x; R(x, y),
    infinite where noise spoils that distance; and its error.
    """

    chord: Float[np.ndarray, "p"]
    normal: Float[np.ndarray, "p"]
    noise: Float[np.ndarray, "p"]
    radius: Float[np.ndarray, "p"]
    error: Float[np.ndarray, "p"]


def pair_balls(cloud: Cloud, tile: Tile, row: np.ndarray, other: np.ndarray, slack: float = 0.0) -> Balls:
    """Balls at rows of a tile through other positions ``(p,)``; ``slack`` is a relative error to add."""
    d, f = tile.frames.shape[1:]
    chord, normal = np.zeros(len(row)), np.zeros(len(row))
    for part in pieces(len(row), f * (d + 2)):
        i, j = row[part], other[part]
        v = np.asarray(cloud.points[j], np.float64) - np.asarray(cloud.points[tile.position[i]], np.float64)
        frames = np.asarray(tile.frames[i], np.float64)
        along = np.einsum("pdf,pf->pd", frames, v)
        chord[part] = np.linalg.norm(v, axis=1)
        normal[part] = np.linalg.norm(v - np.einsum("pdf,pd->pf", frames, along), axis=1)
        if tile.cones is not None:
            cones = Cones(*(maps[:, i] for maps in tile.cones))
            outside = squared_distance(cones, along.T, np)
            normal[part] = np.minimum(np.sqrt(normal[part] ** 2 + outside), chord[part])
    noise = cloud.noise[tile.position[row]] + cloud.noise[other]
    # A tilt hardly changes what is normal to the tangent space.
    tilt, tangent = tile.tilt[row], np.sqrt(np.maximum(chord**2 - normal**2, 0.0))
    soft = tilt * np.minimum(chord, tangent + tilt * normal) + noise
    # Where the points face each other a tilt has bars; elsewhere near pairs would be nothing else.
    facing = (tangent <= STEEP * chord) & (noise <= RELIABLE * normal) & (tilt <= TILTED)
    reliable = (soft <= RELIABLE * normal) | (facing & (soft < normal / 2))
    reliable &= normal > 0
    divisor, least = np.where(reliable, normal, 1.0), np.where(reliable, normal - soft, 1.0)
    radius = np.where(reliable, chord**2 / (2 * divisor), np.inf)
    error = np.where(reliable, radius * (soft / least + slack), np.inf)
    return Balls(chord, normal, noise, radius, error)


def _padded(index: np.ndarray, size: int) -> Int[np.ndarray, "m"]:
    """Positions filled up with -1: one shape, one compilation."""
    return np.pad(index, (0, size - len(index)), constant_values=-1).astype(np.int32)


@dataclass(eq=False)
class PairSearch:
    """A search through all pairs, tile by tile, and what it has seen so far.

    Attributes:
        columns: Points compared with a tile at once.
        longest: Bottlenecks are looked for up to this half length.
        separation: Pairs closer than this do not count for R.
        allowed: Mask of the points of the cloud that count as y; all by default.
        radius: ``(n,)`` smallest R(x, y), infinite where there is no centre or no reliable pair.
        error: ``(n,)`` its error by noise and rounding.
        witness: ``(n,)`` position of y in the cloud, -1 where there is none.
        centre: ``(n,)`` mask of the points x.
        compared: Number of pairs that were not pruned.
    """

    cloud: Cloud
    columns: int
    longest: float = 0.0
    separation: float = 0.0
    allowed: Bool[np.ndarray, "n"] | None = None

    def __post_init__(self) -> None:
        count = len(self.cloud.points)
        self.radius = np.full(count, np.inf)
        self.error = np.zeros(count)
        self.witness = np.full(count, -1)
        self.centre = np.zeros(count, bool)
        self.compared = 0
        self._everyone = self._only_allowed(np.arange(count))
        self._slack = SLACK * float(np.finfo(self.cloud.projected.dtype).eps)
        # Pairs whose chord is normal at the first, within a cell; lengths of chord and tangential part.
        self._facing: list[tuple[np.ndarray, ...]] = [
            (np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros(0))
        ]
        self._coincident = [np.zeros(0, np.int64)]

    @cached_property
    def _projected(self) -> Array:
        """On the device from when it is asked for: a worker arrives here with the settings of its task."""
        return jax.device_put(self.cloud.projected)

    @property
    def pruned(self) -> float:
        """Share of all pairs that were not compared."""
        return max(0.0, 1 - self.compared / (int(self.centre.sum()) * len(self.centre)))

    @property
    def coincident(self) -> int:
        """Number of ordered pairs of different points at the same place."""
        return len(np.unique(np.concatenate(self._coincident)))

    def __reduce__(self) -> tuple[Any, ...]:
        """To other processes it travels without what it has seen."""
        return PairSearch, (self.cloud, self.columns, self.longest, self.separation, self.allowed)

    def compare_all(
        self,
        tiles: Iterable[Tile],
        total: int,
        progress: Progress | None = None,
        checkpoint: str | Path | None = None,
        executor: Any = None,
        take: Callable[[Tile, Seen], None] = lambda tile, seen: None,
    ) -> None:
        """:meth:`compare` tiles with ``total`` centres in all; what is seen is kept here, and told ``take``.

        What the folder ``checkpoint`` holds of the same tile among the same points is not compared again.
        """
        kept, there, handed, done = None, dict[int, list[np.ndarray]](), dict[int, tuple[int, str, Tile]](), 0
        if checkpoint is not None:
            points = digest_arrays(self.cloud.points, self.cloud.noise, self.cloud.half_cell)
            allowed = None if self.allowed is None else digest_arrays(self.allowed)
            key = fingerprint(None, points, allowed, self.columns, float(self.longest), self.separation)
            kept = PartialResult(checkpoint, key)
            there = kept.load()

        def take_in(tile: Tile, seen: Seen, *, anew: bool) -> None:
            nonlocal done
            self._take(tile, seen)
            take(tile, seen)
            done += int(tile.mine.sum())
            if progress is not None and (anew or done == total):
                progress(done, total)

        def tasks() -> Iterator[tuple[Tile]]:
            number = itertools.count()
            for k, tile in enumerate(tiles):
                digest = "" if kept is None else digest_arrays(*jax.tree.leaves(tile))
                part = there.pop(k, None)
                if part is not None and str(part[0]) == digest:
                    take_in(tile, _as_seen(part[1:]), anew=False)
                else:
                    handed[next(number)] = k, digest, tile
                    yield (tile,)

        for n, seen in run_sharing(PairSearch.compare, self, tasks(), executor):
            k, digest, tile = handed.pop(n)
            if kept is not None:
                kept.save(k, [np.array(digest), *map(np.asarray, jax.tree.leaves(seen))])
            take_in(tile, seen, anew=True)
        if kept is not None:
            kept.remove()

    def _take(self, tile: Tile, seen: Seen) -> None:
        """Keep what was seen from a tile, whose centres no other tile has."""
        mine = tile.mine
        position = tile.position[mine]
        self.radius[position], self.error[position] = seen.radius[mine], seen.error[mine]
        self.witness[position], self.centre[position] = seen.witness[mine], True
        self.compared += seen.compared
        self._facing.append(seen.facing)
        self._coincident.append(seen.coincident)

    def compare(self, tile: Tile) -> Seen:
        """Compare the centres of a tile with all points that their balls may meet."""
        dtype, count, drift = self.cloud.projected.dtype, len(tile.position), self.cloud.reduced.drift
        rows = self._side(tile.position, count)
        cones = tile.cones and Cones(*(np.asarray(maps[:, :, None], dtype) for maps in tile.cones))
        known = (*self.cloud.reduced.frames(tile.frames), tile.tilt, tile.curvature)
        tangents = (*(np.asarray(x, dtype) for x in known), cones)
        limits = tuple(dtype.type(x) for x in (self.longest, self.separation, drift))
        best: Any = np.full(count, np.inf, dtype), np.full(count, -1, np.int32)
        others, columns = self._everyone, min(self.columns, len(self._everyone))
        compared, screened = np.full(count, len(others)), []
        seen = self._exactly(tile, np.zeros(0, int), np.zeros(0, int))

        def compare(index: np.ndarray, size: int, best: Any, seen: Seen) -> tuple[Any, Seen]:
            lower, best = screen(rows, tangents, self._side(index, size), best, limits)
            screened.append((index, lower))
            if sum(bounds.size for _, bounds in screened) > HELD:
                seen = seen.and_then(self._settle(tile, screened, best))
            return best, seen

        if len(others) > (2 if self.cloud.short else 1) * columns:
            # The tile's own points come first: the radii they give say how far the rest can be.
            best, seen = compare(self._only_allowed(tile.position), count, best, seen)
            radius = np.minimum(np.asarray(best[0]), tile.radius)
            others, compared = self._within(tile, 2 * np.maximum(radius, self.longest))
        for start in range(0, len(others), columns):  # the last part is filled up: one size, one program
            part = others[start : start + columns]
            best, seen = compare(part, columns, best, seen)
        seen = seen.and_then(self._settle(tile, screened, best))
        return seen._replace(compared=int(compared[tile.mine].sum()))

    def _settle(
        self, tile: Tile, screened: list[tuple[np.ndarray, Array]], best: tuple[Array, Array]
    ) -> Seen:
        """Compute again the best sure pairs, and the screened ones that may beat them."""
        (bound, witness), n = map(np.asarray, best), len(self.cloud.points)
        sure = np.flatnonzero((witness >= 0) & tile.mine)
        keys = [sure * n + witness[sure]]
        for index, lower in screened:
            better = np.asarray(lower)[:, : len(index)] < bound[:, None] * (1 - self._slack)
            row, column = np.divmod(np.flatnonzero(better & tile.mine[:, None]), len(index))
            keys.append(row * n + index[column])
        screened.clear()
        return self._exactly(tile, *np.divmod(np.unique(np.concatenate(keys)), n))

    def _side(self, index: np.ndarray, size: int) -> Side:
        """Points at the given positions, filled up to ``size``: one shape, one compilation."""
        cloud, dtype = self.cloud, self.cloud.projected.dtype
        place = np.pad(index, (0, size - len(index)))
        fields = (cloud.reduced.points, cloud.reduced.rest, cloud.noise, cloud.half_cell)
        return Side(_padded(index, size), *(np.asarray(x[place], dtype) for x in fields))

    def _only_allowed(self, position: np.ndarray) -> np.ndarray:
        return position if self.allowed is None else position[self.allowed[position]]

    def _within(
        self, tile: Tile, limit: Float[np.ndarray, "a"]
    ) -> tuple[Int[np.ndarray, "m"], Int[np.ndarray, "a"]]:
        """Positions within the limit of some row of the tile, and for every row how many are within its own.

        First those within the ball around the tile; then, for long points, pair by pair after projection.
        """
        cloud, dtype = self.cloud, self.cloud.projected.dtype
        here = cloud.projected[tile.position]
        centre = here.mean(axis=0)
        size = float(np.sqrt(np.sum((here - centre) ** 2, axis=1).max()))
        squares = cloud.squares - 2 * (cloud.projected @ centre) + float(centre @ centre)
        farthest = float(limit.max()) + size + 2 * cloud.slack
        index = np.flatnonzero(squares <= farthest**2 + cloud.slack * float(cloud.squares.max()) ** 0.5)
        if cloud.short:
            return self._only_allowed(index), np.full(len(here), len(index))
        rows, limits = tile.position.astype(np.int32), np.asarray(limit + cloud.slack, dtype)
        kept, pairs, step = [index[:0]], np.zeros(len(here), int), min(PROJECTED_COLUMNS, len(cloud.points))
        for start in range(0, len(index), step):
            part = index[start : start + step]
            any_row, count = near(self._projected, rows, _padded(part, step), limits)
            kept.append(part[np.asarray(any_row)[: len(part)]])
            pairs += np.asarray(count)
        return self._only_allowed(np.concatenate(kept)), pairs

    def _exactly(self, tile: Tile, row: np.ndarray, other: np.ndarray) -> Seen:
        """Screened pairs in float64: the smallest balls and the bottleneck candidates."""
        cloud, x, count = self.cloud, tile.position[row], len(tile.position)
        radius, error, witness = np.full(count, np.inf), np.zeros(count), np.full(count, -1)
        balls = pair_balls(cloud, tile, row, other, self._slack)
        apart = balls.chord > 2 * balls.noise
        values = np.where(apart & (balls.chord >= self.separation), balls.radius, np.inf)
        order = np.lexsort((values, row))
        best = order[np.unique(row[order], return_index=True)[1]]
        best = best[np.isfinite(values[best])]
        radius[row[best]], error[row[best]] = values[best], balls.error[best]
        witness[row[best]] = other[best]
        cell = cloud.half_cell[x] * (1 + balls.chord * tile.curvature[row]) + cloud.half_cell[other]
        tangent = np.sqrt(np.maximum(balls.chord**2 - balls.normal**2, 0.0))
        # Where stencils do not know the tangent space (copies by rasterisation) nothing is normal to it.
        facing = apart & (tile.tilt[row] <= TILTED) & (balls.noise <= RELIABLE * balls.normal)
        facing &= (tangent <= np.minimum(cell, STEEP * balls.chord)) & (balls.chord <= 2 * self.longest)
        facing &= np.isfinite(balls.normal)
        pairs = (x[facing], other[facing], balls.chord[facing], tangent[facing])
        same = ~apart & np.isfinite(balls.normal)
        return Seen(radius, error, witness, pairs, x[same] * len(cloud.points) + other[same])

    def bottlenecks(self) -> tuple[Int[np.ndarray, "m 2"], Float[np.ndarray, "m"], Float[np.ndarray, "m"]]:
        """Ordered pairs whose chord is normal at both ends, each once with the smaller position first.

        With them their lengths, and the larger tangential part of the chord, relative to the length.
        """
        first, second, length, tangent = (np.concatenate(field) for field in zip(*self._facing, strict=True))
        count = len(self.cloud.points)
        ahead = np.flatnonzero(first < second)
        back = np.flatnonzero(first > second)
        keys, one, two = np.intersect1d(
            first[ahead] * count + second[ahead], second[back] * count + first[back], return_indices=True
        )
        one, two = ahead[one], back[two]
        defect = np.maximum(tangent[one], tangent[two]) / length[one]
        return np.stack([keys // count, keys % count], 1), length[one], defect
