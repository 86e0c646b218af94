"""Largest empty tangent balls and bottleneck candidates, from all pairs of points.

Pairs are screened in tiles, in the dtype of the points, long ones in the few directions that hold them. Those
whose interval of the radius R(x, y) of :mod:`search`, by rounding and by what the directions leave out, meets
the minimum of their row are computed again in NumPy float64. A pair at distance r cannot give less than r/2:
so points are first compared after an orthogonal projection to few dimensions, which never lengthens a
distance, and what lies beyond twice the radius already known is never looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from manifold_jax._checks import positive, whole
from manifold_jax._linalg import matmul
from manifold_jax.geometry.neighbours import DIRECT_FEATURES
from manifold_jax.geometry.reach.cloud import Cloud, pieces
from manifold_jax.geometry.reach.cones import Cones, squared_distance
from manifold_jax.geometry.reach.squares import pair_squares, product_rounding

LARGEST_TILE = 16384  # rows of a tile at most: they are compared with thousands of columns at once
PROJECTED_COLUMNS = 8192  # projected points that are compared with a tile at once
FEWEST = 512  # columns that are compared with a tile at once at least, padding included
HELD = 2**24  # bounds of pairs of a tile that are kept before some are computed again
PAIRS = 5  # standard deviations that the noise of the least of all pairs may be off
RELIABLE = 0.02  # largest share of noise in the distance to the tangent space, or a pair is ignored
TILTED = 0.25  # largest sine of the error of a tangent space to which a chord can be said to be normal
STEEP = 0.5  # largest tangential share of a chord that may be normal: it rises by 60 degrees or more
SLACK = 100  # relative gap, in eps, below which a better pair is not looked for; it is part of the error


class Tile(NamedTuple):
    """Positions of the centres x of a tile in the cloud, and what is known there.

    Attributes:
        frames: Orthonormal tangent frames; NaN where the metric is degenerate.
        tilt: Bound on the sine of the error of the tangent space.
        radius: Upper bound of tau known beforehand, or infinity.
        curvature: Normal curvature, by which the normal space turns within a cell.
        cones: Tangent cones where a centre lies at a border, else None.
    """

    position: Int[np.ndarray, "a"]
    frames: Float[np.ndarray, "a d f"]
    tilt: Float[np.ndarray, "a"]
    radius: Float[np.ndarray, "a"]
    curvature: Float[np.ndarray, "a"]
    cones: Cones | None = None


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


class Side(NamedTuple):
    """Rows or columns of a tile: ``number`` in the cloud (-1 for padding), points, and their scales.

    The points are given in few directions; ``rest`` is the length of what these leave out.
    """

    number: Int[Any, "a"]
    points: Float[Any, "a k"]
    rest: Float[Any, "a"]
    noise: Float[Any, "a"]
    half_cell: Float[Any, "a"]


@jax.jit
def screen(
    rows: Side,
    tangents: tuple[Any, ...],
    columns: Side,
    best: tuple[Float[Array, "a"], Int[Array, "a"]],
    limits: tuple[Array, ...],
) -> tuple[Float[Array, "a b"], tuple[Float[Array, "a"], Int[Array, "a"]]]:
    """Lower bounds of the radii of a tile, -infinity where a pair is to be looked at in any case.

    Also the best sure radius of every row and the number of its column, after those of ``best``.
    """
    frames, outside, tilt, curvature, cones = tangents
    longest, separation, drift = limits
    chord, normal, along, rounding, relative = pair_squares(rows.points, frames, columns.points)
    # What the directions leave out is normal to them but for the drift, and to the tangents but for what
    # these have outside too; |P (v + r)|^2 - |P v|^2 = 2 <P v, r> + |P r|^2.
    rest = rows.rest[:, None] + columns.rest[None, :]
    rounding = rounding + 2 * jnp.sqrt(chord) * (2 * drift + outside[:, None] * rest) + (rest + drift) ** 2
    if rows.points.shape[1] <= DIRECT_FEATURES:
        # The part of a frame in the directions is not orthonormal: |v - F^T a|^2 misses a part of |a|^2.
        rounding = rounding + outside[:, None] ** 2 * sum(entry**2 for entry in along)
    if cones is not None:
        normal = normal + squared_distance(cones, along, jnp)
        rounding = 2 * rounding
    other = (columns.number[None, :] >= 0) & (rows.number[:, None] != columns.number[None, :])
    noise = rows.noise[:, None] + columns.noise[None, :]
    squares, length = jnp.maximum(chord - rounding, 0.0), jnp.sqrt(chord + rounding)
    soft, softest = tilt[:, None] * length + noise, tilt[:, None] * jnp.sqrt(squares) + noise
    low = jnp.sqrt(jnp.maximum(normal - rounding, 0.0)) - relative * length
    high = jnp.sqrt(normal + rounding) + relative * length
    tiny = jnp.finfo(low.dtype).tiny
    # The upper end of the interval bounds the minimum; the lower end says which pairs may still beat it.
    sure = other & (squares >= separation**2) & (soft <= RELIABLE * low)
    upper = jnp.where(sure, (chord + rounding) / (2 * jnp.maximum(low, tiny)), jnp.inf)
    maybe = other & (chord + rounding >= separation**2) & (softest <= RELIABLE * high)
    lower = jnp.where(maybe, squares / (2 * jnp.maximum(high, tiny)), jnp.inf)
    # Where the metric is degenerate (at a pole) points coincide by nature.
    together = other & (squares <= 4 * noise**2) & jnp.isfinite(frames[:, :1, 0])
    cells = rows.half_cell[:, None] * (1 + length * curvature[:, None]) + columns.half_cell[None, :]
    tangent = chord - normal - rounding
    facing = other & (tangent <= cells**2) & (tangent <= STEEP**2 * length**2)
    facing = facing & (squares <= 4 * longest**2)
    lower = jnp.where(together | facing, -jnp.inf, lower)
    # Kept apart, or the compiler would compute all of it once for the minimum and once for the bounds.
    upper, lower = jax.lax.optimization_barrier((upper, lower))
    least, place = jnp.min(upper, axis=1), columns.number[jnp.argmin(upper, axis=1)]
    better = least < best[0]
    return lower, (jnp.where(better, least, best[0]), jnp.where(better, place, best[1]))


@jax.jit
def near(
    points: Float[Array, "n k"], rows: Int[Array, "a"], columns: Int[Array, "b"], limit: Float[Array, "a"]
) -> tuple[Bool[Array, "b"], Int[Array, "a"]]:
    """Columns (-1 for padding) within the limit of any row, and how many pairs that is."""
    x, y = points[rows], points[columns]
    sizes = jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)[None, :]
    squares = sizes - 2 * matmul(x, y.T)
    close = (squares - product_rounding(x) * sizes <= limit[:, None] ** 2) & (columns >= 0)
    return jnp.any(close, axis=0), jnp.sum(close, axis=1)


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


def _padded_size(count: int, most: int) -> int:
    """The next power of two, of which there are few: each is a compilation."""
    return min(most, max(FEWEST, 1 << (count - 1).bit_length()))


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
        self._projected = jax.device_put(self.cloud.projected)
        self._slack = SLACK * float(np.finfo(self.cloud.projected.dtype).eps)
        # Pairs whose chord is normal at the first, within a cell; lengths of chord and tangential part.
        self._facing = [(np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros(0))]
        self._coincident = [np.zeros(0, np.int64)]

    @property
    def pruned(self) -> float:
        """Share of all pairs that were not compared."""
        return max(0.0, 1 - self.compared / (int(self.centre.sum()) * len(self.centre)))

    @property
    def coincident(self) -> int:
        """Number of ordered pairs of different points at the same place."""
        return len(np.unique(np.concatenate(self._coincident)))

    def add(self, tile: Tile) -> None:
        """Compare the centres of a tile with all points that their balls may meet."""
        dtype, count, drift = self.cloud.projected.dtype, len(tile.position), self.cloud.reduced.drift
        rows = self._side(tile.position, count)
        cones = tile.cones and Cones(*(np.asarray(maps[:, :, None], dtype) for maps in tile.cones))
        known = (*self.cloud.reduced.frames(tile.frames), tile.tilt, tile.curvature)
        tangents = (*(np.asarray(x, dtype) for x in known), cones)
        limits = tuple(dtype.type(x) for x in (self.longest, self.separation, drift))
        best: Any = np.full(count, np.inf, dtype), np.full(count, -1, np.int32)
        others, columns = self._everyone, min(self.columns, len(self._everyone))
        compared, screened = len(others) * count, []

        def compare(index: np.ndarray, size: int, best: Any) -> Any:
            lower, best = screen(rows, tangents, self._side(index, size), best, limits)
            screened.append((index, lower))
            if sum(bounds.size for _, bounds in screened) > HELD:
                self._settle(tile, screened, best)
            return best

        if len(others) > (2 if self.cloud.short else 1) * columns:
            # The tile's own points come first: the radii they give say how far the rest can be.
            best = compare(self._only_allowed(tile.position), count, best)
            radius = np.minimum(np.asarray(best[0]), tile.radius)
            others, compared = self._within(tile, 2 * np.maximum(radius, self.longest))
        for start in range(0, len(others), columns):
            part = others[start : start + columns]
            best = compare(part, _padded_size(len(part), columns), best)
        self.compared += compared
        self.centre[tile.position] = True
        self._settle(tile, screened, best)

    def _settle(
        self, tile: Tile, screened: list[tuple[np.ndarray, Array]], best: tuple[Array, Array]
    ) -> None:
        """Compute again the best sure pairs, and the screened ones that may beat them."""
        (bound, witness), n = map(np.asarray, best), len(self.cloud.points)
        sure = np.flatnonzero(witness >= 0)
        keys = [sure * n + witness[sure]]
        for index, lower in screened:
            better = np.asarray(lower)[:, : len(index)] < bound[:, None] * (1 - self._slack)
            row, column = np.divmod(np.flatnonzero(better), len(index))
            keys.append(row * n + index[column])
        screened.clear()
        self._merge(tile, *np.divmod(np.unique(np.concatenate(keys)), n))

    def _side(self, index: np.ndarray, size: int) -> Side:
        """Points at the given positions, filled up to ``size``: one shape, one compilation."""
        cloud, dtype = self.cloud, self.cloud.projected.dtype
        place = np.pad(index, (0, size - len(index)))
        fields = (cloud.reduced.points, cloud.reduced.rest, cloud.noise, cloud.half_cell)
        return Side(_padded(index, size), *(np.asarray(x[place], dtype) for x in fields))

    def _only_allowed(self, position: np.ndarray) -> np.ndarray:
        return position if self.allowed is None else position[self.allowed[position]]

    def _within(self, tile: Tile, limit: Float[np.ndarray, "a"]) -> tuple[Int[np.ndarray, "m"], int]:
        """Positions within the limit of some row of the tile, and the number of pairs within their limits.

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
            return self._only_allowed(index), len(index) * len(here)
        rows, limits = tile.position.astype(np.int32), np.asarray(limit + cloud.slack, dtype)
        kept, pairs, step = [index[:0]], 0, min(PROJECTED_COLUMNS, len(cloud.points))
        for start in range(0, len(index), step):
            part = index[start : start + step]
            any_row, count = near(self._projected, rows, _padded(part, step), limits)
            kept.append(part[np.asarray(any_row)[: len(part)]])
            pairs += int(np.asarray(count).sum())
        return self._only_allowed(np.concatenate(kept)), pairs

    def _merge(self, tile: Tile, row: np.ndarray, other: np.ndarray) -> None:
        """Compute screened pairs in float64; keep the smallest balls and the bottleneck candidates."""
        if not len(row):
            return
        cloud, x = self.cloud, tile.position[row]
        balls = pair_balls(cloud, tile, row, other, self._slack)
        apart = balls.chord > 2 * balls.noise
        radius = np.where(apart & (balls.chord >= self.separation), balls.radius, np.inf)
        order = np.lexsort((radius, x))
        best = order[np.unique(x[order], return_index=True)[1]]
        best = best[radius[best] < self.radius[x[best]]]
        self.radius[x[best]] = radius[best]
        self.error[x[best]] = balls.error[best]
        self.witness[x[best]] = other[best]
        cell = cloud.half_cell[x] * (1 + balls.chord * tile.curvature[row]) + cloud.half_cell[other]
        tangent = np.sqrt(np.maximum(balls.chord**2 - balls.normal**2, 0.0))
        # Where stencils do not know the tangent space (copies by rasterisation) nothing is normal to it.
        facing = apart & (tile.tilt[row] <= TILTED) & (balls.noise <= RELIABLE * balls.normal)
        facing &= (tangent <= np.minimum(cell, STEEP * balls.chord)) & (balls.chord <= 2 * self.longest)
        facing &= np.isfinite(balls.normal)
        self._facing.append((x[facing], other[facing], balls.chord[facing], tangent[facing]))
        same = ~apart & np.isfinite(balls.normal)
        self._coincident.append(x[same] * len(cloud.points) + other[same])

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
