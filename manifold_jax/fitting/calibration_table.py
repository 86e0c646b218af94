"""The table of a calibration, and what is read off it: ranks and error curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Row(NamedTuple):
    """One call of an estimator on one sample. Errors are relative to ``scale``.

    Attributes:
        estimator: Its name.
        quantity: What it estimates.
        manifold: Name of the manifold, or names of the components joined by ``+``.
        dimension: d.
        features: f.
        size: Samples.
        seed: Seed of the sample.
        noise: Label of the noise, empty without.
        bias: Mean of estimate - truth over the points that did not fail.
        rmse: Root mean square error over them.
        median: Median of the absolute error.
        largest: Largest absolute error.
        failed: Share of points without a finite estimate.
        scale: What errors are divided by, in the units of the quantity.
        reference: What ``scale`` is, in words.
        seconds: Wall time of one call; for a fit, of fitting and projecting.
        warm: Whether that call came after another with the same shapes, so that compilation is not in it.
        status: Empty, or why there is no result (errors are NaN then, ``failed`` is 1).
    """

    estimator: str
    quantity: str
    manifold: str
    dimension: int
    features: int
    size: int
    seed: int
    noise: str
    bias: float = np.nan
    rmse: float = np.nan
    median: float = np.nan
    largest: float = np.nan
    failed: float = 1.0
    scale: float = np.nan
    reference: str = ""
    seconds: float = np.nan
    warm: bool = False
    status: str = ""

    @property
    def penalised(self) -> float:
        """RMS error in which a failed point counts as an error of 1, as much as the field itself."""
        if self.failed >= 1.0 or not np.isfinite(self.rmse):
            return np.inf
        return float(np.sqrt((1.0 - self.failed) * self.rmse**2 + self.failed))


class Calibration(NamedTuple):
    """A tidy table: one :class:`Row` per estimator, manifold, size and seed."""

    rows: tuple[Row, ...]

    def to_dicts(self) -> list[dict[str, Any]]:
        """Rows as dictionaries, for a data frame or JSON."""
        return [row._asdict() for row in self.rows]


class Rank(NamedTuple):
    """Place of an estimator among those of the same quantity on one manifold.

    Attributes:
        quantity: What is estimated.
        manifold: Where.
        noise: Label of the noise.
        estimator: Name.
        rank: Mean over sizes of the rank by error, 1 for the best; equal errors share a rank.
        error: Median over seeds of the penalised error at the largest size.
    """

    quantity: str
    manifold: str
    noise: str
    estimator: str
    rank: float
    error: float


class ErrorCurve(NamedTuple):
    """Error of one estimator on one manifold against the number of samples.

    Attributes:
        quantity: What is estimated.
        manifold: Where.
        noise: Label of the noise.
        estimator: Name.
        sizes: Numbers of samples with a result, increasing.
        error: Median over seeds of the RMS error at each.
        low: Smallest over seeds.
        high: Largest over seeds.
        slope: Slope of log error against log size by least squares; NaN for fewer than two sizes.
    """

    quantity: str
    manifold: str
    noise: str
    estimator: str
    sizes: np.ndarray
    error: np.ndarray
    low: np.ndarray
    high: np.ndarray
    slope: float


def ranking(calibration: Calibration) -> tuple[Rank, ...]:
    """Estimators of the same quantity on the same manifold, the best first.

    At every size they are ranked by the median over seeds of the penalised error, in which a failed point
    counts as an error of 1 and a missing result as infinite; the mean of these ranks decides.

    Args:
        calibration: The table.

    Returns:
        Ranks, ordered by quantity, manifold and noise as they first appear in the table, then by rank.

    Example:
        >>> tangents = mj.fitting.builtin_estimators("tangent")
        >>> table = mj.fitting.calibrate(tangents, mj.datasets.circle(), [100], key=jax.random.key(0))
        >>> mj.fitting.ranking(table)[0].estimator
        'quadratic regression'
    """
    # Late: JAX itself installs SciPy, but its statistics take long to import.
    from scipy.stats import rankdata

    ranks = []
    for group in _grouped(calibration.rows, ("quantity", "manifold", "noise")):
        sizes = sorted({row.size for row in group})
        table = _grouped(group, ("estimator",))
        errors = np.array([[_penalised(rows, size) for size in sizes] for rows in table])
        places = rankdata(errors, axis=0).mean(axis=1)
        for i in np.argsort(places, kind="stable"):
            named = _names(table[i][0])
            ranks.append(Rank(*named, float(places[i]), float(errors[i, -1])))
    return tuple(ranks)


def _penalised(rows: Sequence[Row], size: int) -> float:
    """Median over the seeds of one size; infinite where there is none."""
    errors = [row.penalised for row in rows if row.size == size]
    return float(np.median(errors)) if errors else np.inf


def error_curves(calibration: Calibration) -> tuple[ErrorCurve, ...]:
    """Error of every estimator on every manifold against the number of samples.

    Args:
        calibration: The table.

    Returns:
        Curves, in the order of the table; rows without a result are left out.

    Example:
        >>> tangents = mj.fitting.builtin_estimators("tangent")[0]
        >>> table = mj.fitting.calibrate(tangents, mj.datasets.circle(), [100, 400], key=jax.random.key(0))
        >>> mj.fitting.error_curves(table)[0].slope < -0.5
        True
    """
    curves = []
    for group in _grouped(calibration.rows, ("quantity", "manifold", "noise", "estimator")):
        finished = [row for row in group if np.isfinite(row.rmse)]
        by_size = sorted(_grouped(finished, ("size",)), key=lambda rows: rows[0].size)
        sizes = np.array([rows[0].size for rows in by_size])
        errors = [np.array([row.rmse for row in rows]) for rows in by_size]
        error, low, high = (np.array([f(e) for e in errors]) for f in (np.median, np.min, np.max))
        sloped = len(sizes) > 1 and bool((error > 0).all())
        slope = float(np.polyfit(np.log(sizes), np.log(error), 1)[0]) if sloped else np.nan
        curves.append(ErrorCurve(*_names(group[0]), sizes, error, low, high, slope))
    return tuple(curves)


def _grouped(rows: Sequence[Row], names: tuple[str, ...]) -> list[list[Row]]:
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(getattr(row, name) for name in names), []).append(row)
    return list(groups.values())


def _names(row: Row) -> tuple[str, str, str, str]:
    return row.quantity, row.manifold, row.noise, row.estimator
