"""The result of a measurement: fields, totals, verdicts, and how to keep them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax._checks import require
from manifold_jax._files import read_dataset, write_dataset
from manifold_jax.geometry.error_bars import Estimate
from manifold_jax.geometry.grid import Axis, Grid
from manifold_jax.geometry.plan import Stencil
from manifold_jax.geometry.quantities import Fields

FIELDS = Fields._fields
TOTALS = (
    "total_volume",
    "total_scalar_curvature",
    "total_positive_curvature",
    "total_negative_curvature",
)
_ENOUGH = 0.95
"""Share of points that must be resolved for a measure to count as resolved."""


class Verdict(NamedTuple):
    """Whether a measure can be trusted on this grid.

    Attributes:
        resolved: At least 95 % of the points (or the total) have a bar below the tolerance.
        share: Share of resolved points among those where the measure is defined.
        axes: Names of the axes to blame, the worst first.
        sentence: One sentence for people.
    """

    resolved: bool
    share: float
    axes: tuple[str, ...]
    sentence: str


_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Geometry:
    """Measured geometry of a manifold; a pytree whose leaves are arrays.

    Attributes:
        volume_element: sqrt(det g), an :class:`Estimate` (value, error, resolved) of the grid's shape.
        scalar_curvature: S.
        mean_curvature: |H|, divided by d.
        second_form_norm: |II|.
        normal_curvature: Largest normal curvature found (exact for d <= 2).
        normal_curvature_upper: Upper bound of the largest normal curvature.
        total_volume: Integral of dV. On an axis that covers one period of the metric, per period.
        total_scalar_curvature: Integral of S dV.
        total_positive_curvature: Integral of max(S, 0) dV.
        total_negative_curvature: Integral of min(S, 0) dV.
        axis_sensitivity: Relative change of each measure when the stencil is lowered on one axis, median over
            sampled points, ``(measures, d)``.
        rounding: Part of each error bar that is rounding.
        name: Title.
        grid: The lattice.
        stencil: ``(accuracy, stride)`` per axis; None for exact jets.
        tolerance: Relative error up to which a value counts as resolved.
        attributes: ``(key, value)`` pairs that say how the manifold was made.
    """

    volume_element: Estimate
    scalar_curvature: Estimate
    mean_curvature: Estimate
    second_form_norm: Estimate
    normal_curvature: Estimate
    normal_curvature_upper: Estimate
    total_volume: Estimate
    total_scalar_curvature: Estimate
    total_positive_curvature: Estimate
    total_negative_curvature: Estimate
    axis_sensitivity: Float[Array, "measures d"]
    rounding: Fields
    name: str = field(default="manifold", metadata=_STATIC)
    grid: Grid = field(kw_only=True, metadata=_STATIC)
    stencil: Stencil | None = field(default=None, metadata=_STATIC)
    tolerance: float = field(default=0.1, metadata=_STATIC)
    attributes: tuple[tuple[str, str], ...] = field(default=(), metadata=_STATIC)

    @property
    def exact(self) -> bool:
        """Whether the jets are exact (automatic differentiation)."""
        return self.stencil is None

    def verdict(self, measure: str) -> Verdict:
        """Whether a field or total is resolved, and which axes are to blame if not.

        Args:
            measure: Name of a field or total.

        Returns:
            The verdict.

        Raises:
            ValueError: There is no such measure.
        """
        if measure not in FIELDS + TOTALS:
            raise ValueError(f"measure must be one of {FIELDS + TOTALS}, got {measure!r}.")
        estimate: Estimate = getattr(self, measure)
        value, resolved = np.asarray(estimate.value), np.asarray(estimate.resolved)
        defined = ~np.isnan(value)
        if not defined.any():
            return Verdict(
                False, 0.0, (), "not defined anywhere: the metric is degenerate on the whole grid."
            )
        share = float(resolved[defined].mean())
        missing = 1 - float(defined.mean())
        note = f" Undefined at {missing:.1%} of the points (degenerate metric)." if missing > 0 else ""
        if share >= _ENOUGH and measure in TOTALS:
            return Verdict(True, share, (), "resolved.")
        if share >= _ENOUGH:
            return Verdict(True, share, (), f"resolved at {share:.1%} of the points." + note)
        if measure in TOTALS:
            row = "volume_element" if measure == "total_volume" else "scalar_curvature"
        else:
            row = measure
        axes, cause = self._cause(row, estimate)
        where = "not resolved" if share < 0.5 else f"resolved at only {share:.0%} of the points"
        return Verdict(False, share, axes, f"{where}: {cause}." + note)

    def _cause(self, measure: str, estimate: Estimate) -> tuple[tuple[str, ...], str]:
        """Axes to blame for a measure that is not resolved, with a remedy."""
        noise = np.asarray(getattr(self.rounding, measure))
        if estimate.error.shape == noise.shape and self._mostly_rounding(noise, np.asarray(estimate.error)):
            remedy = "measure in float64" if noise.dtype == np.float32 else "take a larger stride"
            return (), f"rounding dominates, {remedy}"
        table = np.nan_to_num(np.asarray(self.axis_sensitivity), nan=np.inf)
        row = table[FIELDS.index(measure)]
        if row.max() < self.tolerance / 2:
            row = table.max(axis=0)  # another measure fails on these axes, and this one with it
        power = 1 / min((10 if a == "spectral" else int(a) for a, _ in self.stencil or ()), default=4)
        worst = [k for k in np.argsort(-row) if row[k] >= max(0.3 * row.max(), self.tolerance / 4)]
        if not worst:
            worst = [int(np.argmax(row))]
        # The largest bar of all axes together tells how far there is to go.
        spread = self._relative_error(measure) / row[worst[0]]
        parts = []
        for k in worst:
            excess = max(row[k], row[k] * spread) / (self.tolerance / 2)
            need = min(max(excess**power, 1.5), 16.0)
            parts.append(f"{self.grid.names[k]} axis too coarse: refine {math.ceil(2 * need) / 2:g}x")
        return tuple(self.grid.names[k] for k in worst), ", ".join(parts)

    def _relative_error(self, measure: str) -> float:
        """Median bar of a field over its natural scale."""
        bend = np.asarray(self.second_form_norm.value)
        powers = {"volume_element": np.asarray(self.volume_element.value), "scalar_curvature": bend**2}
        scale = powers.get(measure, bend)
        error = np.asarray(getattr(self, measure).error) / np.where(scale > 0, scale, np.nan)
        finite = np.isfinite(error)
        return float(np.median(error[finite])) if finite.any() else 1.0

    def _mostly_rounding(self, noise: np.ndarray, error: np.ndarray) -> bool:
        finite = np.isfinite(error) & np.isfinite(noise)
        # The difference of two stencils, its maximum over neighbours and the safety factor amplify noise too.
        return bool(finite.any() and np.mean(noise[finite] > 0.1 * error[finite]) > 0.5)

    def verdicts(self) -> dict[str, Verdict]:
        """Verdict of every field and total."""
        return {measure: self.verdict(measure) for measure in FIELDS + TOTALS}

    def quantiles(self, levels: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95)) -> dict[str, np.ndarray]:
        """Quantiles of every field over the points where it is defined.

        Args:
            levels: Probabilities.

        Returns:
            Array of shape ``(len(levels),)`` by measure.
        """
        return {
            measure: np.nanquantile(np.asarray(getattr(self, measure).value), levels)
            if np.isfinite(np.asarray(getattr(self, measure).value)).any()
            else np.full(len(levels), np.nan)
            for measure in FIELDS
        }

    def summary(self) -> str:
        """Plain-text table of totals and fields with error bars and verdicts."""
        how = "exact (automatic differentiation)" if self.exact else f"stencils {self.stencil}"
        lines = [f"{self.name}: {' x '.join(map(str, self.grid.shape))} points on {self.grid.names}, {how}"]
        for measure in TOTALS:
            estimate = getattr(self, measure)
            value, error = float(estimate.value), float(estimate.error)
            lines.append(f"  {measure:26s} {value: .5g} +- {error:.1e}  {self.verdict(measure).sentence}")
        for measure in FIELDS:
            estimate = getattr(self, measure)
            low, middle, high = self.quantiles((0.05, 0.5, 0.95))[measure]
            finite = np.isfinite(np.asarray(estimate.error))
            error = float(np.median(np.asarray(estimate.error)[finite])) if finite.any() else math.inf
            lines.append(
                f"  {measure:26s} {middle: .5g} +- {error:.1e}  [{low:.4g}, {high:.4g}]  "
                f"{self.verdict(measure).sentence}"
            )
        return "\n".join(lines)

    def to_xarray(self) -> Any:
        """Labelled data set: fields and errors on named axes with units, totals as scalars, provenance.

        Returns:
            An ``xarray.Dataset`` that :func:`geometry_from_xarray` reads back without loss.

        Raises:
            ImportError: xarray is not installed.
        """
        return _to_xarray(self)

    def save(self, path: str | Path) -> Path:
        """Write to NetCDF (``.nc``) or Zarr (``.zarr``); a half-written file never takes the name.

        Args:
            path: Destination; an earlier result there is replaced.

        Returns:
            The path.

        Raises:
            ValueError: The suffix is unknown or the folder cannot be written.
            ImportError: The package for this format is not installed.
        """
        return write_dataset(self.to_xarray(), path)


def _provenance(geometry: Geometry) -> dict[str, Any]:
    axes = [vars(axis) for axis in geometry.grid.axes]
    return {
        "title": geometry.name,
        "axes": json.dumps(axes),
        "stencil": json.dumps(geometry.stencil),
        "tolerance": geometry.tolerance,
        "attributes": json.dumps(dict(geometry.attributes)),
        "jax_version": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "conventions": "H is divided by d; R_1212 > 0 on the sphere; errors are half-widths",
    }


def _to_xarray(geometry: Geometry) -> Any:
    xarray = require("xarray", "report")
    names = geometry.grid.names
    data: dict[str, Any] = {}
    for measure in FIELDS + TOTALS:
        estimate = getattr(geometry, measure)
        dimensions = names if measure in FIELDS else ()
        data[measure] = (dimensions, np.asarray(estimate.value), {"long_name": LABELS[measure]})
        data[f"{measure}_error"] = (dimensions, np.asarray(estimate.error))
        data[f"{measure}_resolved"] = (dimensions, np.asarray(estimate.resolved).astype(np.int8))
        if measure in FIELDS:
            data[f"{measure}_rounding"] = (dimensions, np.asarray(getattr(geometry.rounding, measure)))
    data["axis_sensitivity"] = (("measure_name", "axis_name"), np.asarray(geometry.axis_sensitivity))
    coordinates = {
        axis.name: (axis.name, axis.samples(), {"units": axis.unit}) for axis in geometry.grid.axes
    }
    coordinates |= {"measure_name": list(FIELDS), "axis_name": list(names)}
    return xarray.Dataset(data, coordinates, _provenance(geometry))


def geometry_from_xarray(dataset: Any) -> Geometry:
    """Read back what :meth:`Geometry.to_xarray` wrote.

    Args:
        dataset: The ``xarray.Dataset``.

    Returns:
        The Geometry, equal to the one written.

    Raises:
        ValueError: The data set was not written by this package.

    Example:
        >>> from manifold_jax import geometry_from_xarray, measure
        >>> from manifold_jax.datasets import ellipse
        >>> geometry = measure(ellipse(size=16))
        >>> geometry_from_xarray(geometry.to_xarray()).grid == geometry.grid
        True
    """
    if "axes" not in dataset.attrs or "volume_element" not in dataset:
        raise ValueError("This data set was not written by Geometry.to_xarray: it has no 'axes' attribute.")
    axes = tuple(Axis(**axis) for axis in json.loads(dataset.attrs["axes"]))
    stencil = json.loads(dataset.attrs["stencil"])
    estimates = {
        measure: Estimate(
            jnp.asarray(dataset[measure].values),
            jnp.asarray(dataset[f"{measure}_error"].values),
            jnp.asarray(dataset[f"{measure}_resolved"].values.astype(bool)),
        )
        for measure in FIELDS + TOTALS
    }
    return Geometry(
        **estimates,
        axis_sensitivity=jnp.asarray(dataset["axis_sensitivity"].values),
        rounding=Fields(*(jnp.asarray(dataset[f"{measure}_rounding"].values) for measure in FIELDS)),
        name=dataset.attrs["title"],
        grid=Grid(axes),
        stencil=tuple(tuple(spec) for spec in stencil) if stencil else None,
        tolerance=float(dataset.attrs["tolerance"]),
        attributes=tuple(json.loads(dataset.attrs["attributes"]).items()),
    )


def load_geometry(path: str | Path) -> Geometry:
    """Read a Geometry saved as NetCDF or Zarr.

    Args:
        path: File (``.nc``) or folder (``.zarr``).

    Returns:
        The Geometry.

    Raises:
        ValueError: There is no such file, or it is not a saved Geometry.

    Example:
        >>> import tempfile
        >>> from manifold_jax import load_geometry, measure
        >>> from manifold_jax.datasets import ellipse
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = measure(ellipse(size=16)).save(f"{folder}/ellipse.nc")
        ...     load_geometry(path).name
        'ellipse'
    """
    return geometry_from_xarray(read_dataset(path))


LABELS = {
    "volume_element": "volume element sqrt(det g)",
    "scalar_curvature": "scalar curvature S",
    "mean_curvature": "mean curvature |H|",
    "second_form_norm": "second fundamental form |II|",
    "normal_curvature": "largest normal curvature",
    "normal_curvature_upper": "upper bound of the normal curvature",
    "total_volume": "volume",
    "total_scalar_curvature": "total scalar curvature",
    "total_positive_curvature": "its positive part",
    "total_negative_curvature": "its negative part",
}
"""What each measure is called in reports and plots."""
