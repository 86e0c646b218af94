"""Whether a periodic axis was sampled at both ends, which are one point."""

from __future__ import annotations

import numpy as np

from manifold_jax.geometry.points import PROBED_NUMBERS, Points, probed

LINE = 4096  # samples along an axis, at most, among which equal neighbours are looked for
MANY = 0.1  # share of them from which samples are rounded coarsely
SAME = 1e-3  # distance of points that are one, over that of neighbours


def end_distances(points: Points, axis: int) -> np.ndarray:
    """Distances ``(4, n)`` on lines along an axis: of its ends, the samples next to them, the end steps.

    Lines with a missing sample are left out.
    """
    shape, there = points.grid.shape, points.there
    places = np.stack(np.unravel_index(probed(points), shape))

    columns = []
    for index in (0, 1, shape[axis] - 2, shape[axis] - 1):
        places[axis] = index
        columns.append(np.ravel_multi_index(tuple(places), shape))
    flat = np.concatenate(columns)
    values = points.at(flat).astype(np.float64)  # all at once: every look at a device takes its time
    if there is not None:
        values = np.where(np.asarray(there).reshape(-1)[flat, None], values, np.nan)
    first, second, before, last = np.split(values, 4)
    pairs = (first, last), (second, before), (first, second), (before, last)
    with np.errstate(invalid="ignore"):
        distances = np.stack([np.abs(x - y).max(axis=-1) for x, y in pairs])
    return distances[:, np.isfinite(distances).all(axis=0)]


def ends_coincide(points: Points, axis: int, distances: np.ndarray) -> bool:
    """Whether the ends of an axis are one point, from :func:`end_distances`.

    A fold has equal ends too, its samples come back the way they went; and coarsely rounded samples repeat.
    """
    ends, next_to_them, *steps = distances
    step = np.minimum(*steps)
    same = (ends <= SAME * step).all() and ((next_to_them > SAME * step) & (step > 0)).any()
    return bool(same) and not _repeats(points, axis)


def _repeats(points: Points, axis: int) -> bool:
    """Whether many neighbours along an axis are equal, as where dense samples are coarsely rounded.

    Lines of equal samples alone, as at a pole, tell nothing; nor do missing samples.
    """
    size = min(points.grid.shape[axis], LINE, max(2, PROBED_NUMBERS // points.features))
    for place in np.transpose(np.unravel_index(probed(points), points.grid.shape)):
        index = [np.array([k]) for k in place]
        index[axis] = np.arange(size)
        line = points.window(index).reshape(size, -1)
        there = np.isfinite(line).all(axis=1)
        if points.there is not None:
            there &= np.asarray(points.there)[np.ix_(*index)].reshape(-1)
        line = line[there]
        equal = (line[1:] == line[:-1]).all(axis=1)
        if len(equal) and not equal.all():
            return bool(equal.mean() > MANY)
    return False


def refuse_doubled_ends(points: Points) -> None:
    """Raise ValueError if a periodic axis was sampled at both ends, which are one point."""
    for k, axis in enumerate(points.grid.axes):
        if axis.wraps and axis.size >= 5 and ends_coincide(points, k, end_distances(points, k)):
            what = f"first and last samples of the periodic axis {axis.name!r} coincide"
            remedy = "leave the last one out, whose place is that of the first"
            raise ValueError(f"{points.caller}: {what}: {remedy}.")
