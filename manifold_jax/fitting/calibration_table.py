"""The table of a calibration, and what is read off it: ranks and error curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from manifold_jax._checks import instance
from manifold_jax._html import paragraph, table, titled

_MOST = 200  # lines that a notebook shows


class Row(NamedTuple):
    """One call of an estimator on one sample. Errors are relative to ``scale``."""

    estimator: str
    quantity: str  # what it estimates
    manifold: str  # its name, or names of the components joined by +
    dimension: int
    features: int
    size: int  # number of samples
    seed: int
    noise: str  # label of the noise, empty without
    bias: float = np.nan  # mean of estimate - truth over the points that did not fail
    rmse: float = np.nan  # root mean square error over them
    median: float = np.nan  # of the absolute error
    largest: float = np.nan
    failed: float = 1.0  # share of points without a finite estimate
    scale: float = np.nan  # what errors are divided by, in the units of the quantity
    reference: str = ""  # what that is, in words
    seconds: float = np.nan  # wall time of one call; for a fit, of fitting and projecting
    warm: bool = False  # whether compilation is not in it
    status: str = ""  # empty, or why there is no result (errors are NaN then)

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

    def _repr_html_(self) -> str:
        """Estimators by rank, for notebooks."""
        head = ("quantity", "manifold", "noise", "estimator", "mean rank", "error at the largest size")
        rows = [(*rank[:4], f"{rank.rank:.3g}", f"{rank.error:.3g}") for rank in ranking(self)]
        shown = table(head, rows[:_MOST], left=(0, 1, 2, 3))
        note = f"{len(self.rows)} rows; relative errors, the median over seeds, failed points count as 1."
        return titled("Calibration", shown, paragraph(note, "quiet"))


class Rank(NamedTuple):
    """Place of an estimator among those of the same quantity on one manifold."""

    quantity: str
    manifold: str
    noise: str
    estimator: str
    rank: float  # mean over sizes of the rank by error, 1 for the best; equal errors share a rank
    error: float  # median over seeds of the penalised error at the largest size


class ErrorCurve(NamedTuple):
    """Error of one estimator on one manifold against the number of samples."""

    quantity: str
    manifold: str
    noise: str
    estimator: str
    sizes: np.ndarray  # numbers of samples with a result, increasing
    error: np.ndarray  # median over seeds of the RMS error at each
    low: np.ndarray  # smallest over seeds
    high: np.ndarray  # largest over seeds
    slope: float  # of log error against log size by least squares; NaN for fewer than two sizes


def ranking(calibration: Calibration) -> tuple[Rank, ...]:
    """Estimators of the same quantity on the same manifold, the best first.

    At every size they are ranked by the median over seeds of the penalised error, in which a failed point
    counts as an error of 1 and a missing result as infinite; the mean of these ranks decides.

    Example:
        >>> tangents = mj.fitting.builtin_estimators("tangent")
        >>> table = mj.fitting.calibrate(tangents, mj.datasets.circle(), [100], key=jax.random.key(0))
        >>> mj.fitting.ranking(table)[0].estimator
        'quadratic regression'
    """
    instance("ranking", "calibration", calibration, Calibration, "see calibrate")
    # Late: JAX itself installs SciPy, but its statistics take long to import.
    from scipy.stats import rankdata

    ranks = []
    for group in _grouped(calibration.rows, ("quantity", "manifold", "noise")):
        sizes = sorted({row.size for row in group})
        table = _grouped(group, ("estimator",))
        errors = np.array([[_median_error(rows, size) for size in sizes] for rows in table])
        places = rankdata(errors, axis=0).mean(axis=1)
        for i in np.argsort(places, kind="stable"):
            named = _names(table[i][0])
            ranks.append(Rank(*named, float(places[i]), float(errors[i, -1])))
    return tuple(ranks)


def _median_error(rows: Sequence[Row], size: int) -> float:
    """Over the seeds of one size, penalised; infinite where there is none."""
    errors = [row.penalised for row in rows if row.size == size]
    return float(np.median(errors)) if errors else np.inf


def error_curves(calibration: Calibration) -> tuple[ErrorCurve, ...]:
    """Error curves of every estimator on every manifold, in the order of the table.

    Example:
        >>> tangents = mj.fitting.builtin_estimators("tangent")[0]
        >>> table = mj.fitting.calibrate(tangents, mj.datasets.circle(), [100, 400], key=jax.random.key(0))
        >>> mj.fitting.error_curves(table)[0].slope < -0.5
        True
    """
    instance("error_curves", "calibration", calibration, Calibration, "see calibrate")
    curves = []
    for group in _grouped(calibration.rows, ("quantity", "manifold", "noise", "estimator")):
        finished = [row for row in group if np.isfinite(row.rmse)]
        sizes = np.unique([row.size for row in finished])
        errors = [[row.rmse for row in finished if row.size == size] for size in sizes]
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
