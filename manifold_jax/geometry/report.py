"""The result of a measurement, a Geometry: fields, totals, verdicts, and how to keep them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax._checks import choice, require
from manifold_jax._files import read_dataset, write_dataset
from manifold_jax.geometry.grid import Axis, Grid
from manifold_jax.geometry.quantities import (
    FIELDS,
    LABELS,
    LENGTH,
    TOTALS,
    Estimate,
    Fields,
    finite_median,
    unit_of,
)
from manifold_jax.geometry.stencil import Stencil
from manifold_jax.geometry.verdict import Verdict, judge

if TYPE_CHECKING:
    import xarray

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
        normal_curvature: Largest normal curvature, as far as it was searched (exact for d <= 2).
        normal_curvature_upper: Upper bound of the largest normal curvature.
        total_volume: Integral of dV. On an axis that covers one period of the metric, per period.
        total_scalar_curvature: Integral of S dV.
        total_positive_curvature: Integral of max(S, 0) dV.
        total_negative_curvature: Integral of min(S, 0) dV.
        axis_sensitivity: Median relative change ``(quantities, d)`` when one axis takes another stencil.
        rounding: Part of each error bar that is rounding.
        noise: Length of the noise of a sample at every point, by every axis ``(*shape, d)``; 0 where rounding
            explains it, NaN where no axis has samples enough to tell. For equal noise in f features it is
            sqrt(f) times that of one. Beside a kink it is of that too.
        noise_bars: Part of each error bar that is noise, or a kink.
        name: Title.
        grid: The lattice.
        stencil: ``(accuracy, stride)`` per axis, or ``(accuracy, stride, smooth)``; None for exact jets.
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
    axis_sensitivity: Float[Array, "quantities d"]
    rounding: Fields
    noise: Float[Array, "*shape d"]
    noise_bars: Fields
    name: str = field(default="manifold", metadata=_STATIC)
    grid: Grid = field(kw_only=True, metadata=_STATIC)
    stencil: Stencil | None = field(default=None, metadata=_STATIC)
    tolerance: float = field(default=0.1, metadata=_STATIC)
    attributes: tuple[tuple[str, str], ...] = field(default=(), metadata=_STATIC)

    @property
    def exact(self) -> bool:
        """Whether the jets are exact (automatic differentiation)."""
        return self.stencil is None

    @property
    def fields(self) -> Fields:
        """Estimates of all quantities of a point."""
        return Fields(*(getattr(self, name) for name in FIELDS))

    def verdict(self, name: str) -> Verdict:
        """Whether a field or total is resolved, and which axes are to blame if not.

        Raises:
            ValueError: There is no such quantity.
        """
        return judge(self, choice("verdict", "name", name, FIELDS + TOTALS))

    def verdicts(self) -> dict[str, Verdict]:
        """Verdict of every field and total."""
        return {name: self.verdict(name) for name in FIELDS + TOTALS}

    def quantiles(self, levels: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95)) -> dict[str, np.ndarray]:
        """Quantiles ``(len(levels),)`` of every field over the points where it is defined, by name."""

        def quantile(values: np.ndarray) -> np.ndarray:
            if not np.isfinite(values).any():
                return np.full(len(levels), np.nan)
            return np.nanquantile(values, levels)

        return {name: quantile(np.asarray(getattr(self, name).value)) for name in FIELDS}

    def summary(self) -> str:
        """Plain-text table of totals and fields with error bars and verdicts."""
        source = "exact (automatic differentiation)" if self.exact else f"stencils {self.stencil}"
        shape = " x ".join(map(str, self.grid.shape))
        lines = [f"{self.name}: {shape} points on {self.grid.names}, {source}"]
        quantiles = self.quantiles((0.05, 0.5, 0.95))
        for name in TOTALS + FIELDS:
            estimate, span = getattr(self, name), ""
            if name in TOTALS:
                value, error = float(estimate.value), float(estimate.error)
            else:
                low, value, high = quantiles[name]
                error, span = finite_median(estimate.error, math.inf), f"[{low:.4g}, {high:.4g}]  "
            sentence = self.verdict(name).sentence
            lines.append(f"  {name:26s} {value: .5g} +- {error:.1e}  {span}{sentence}")
        level = float(np.median(np.asarray(self.noise)))
        if math.isnan(level):
            lines.append("  noise of the samples: not known and not in the bars, too few samples to tell.")
        elif level > 0:
            lines.append(f"  noise of the samples: {level:.1e} {LENGTH} each (median), in the bars.")
        return "\n".join(lines)

    def to_xarray(self) -> xarray.Dataset:
        """Labelled data set: fields and errors on named axes with units, totals as scalars, provenance.

        :func:`geometry_from_xarray` reads it back without loss.

        Raises:
            ImportError: xarray is not installed.
        """
        grid, data = self.grid, {}
        for name in FIELDS + TOTALS:
            estimate, dimensions = getattr(self, name), grid.names if name in FIELDS else ()
            about = {"long_name": LABELS[name].name, "units": unit_of(name, grid)}
            data[name] = (dimensions, np.asarray(estimate.value), about)
            data[f"{name}_error"] = (dimensions, np.asarray(estimate.error))
            data[f"{name}_resolved"] = (dimensions, np.asarray(estimate.resolved).astype(np.int8))
        for name in FIELDS:
            data[f"{name}_rounding"] = (grid.names, np.asarray(getattr(self.rounding, name)))
            data[f"{name}_noise"] = (grid.names, np.asarray(getattr(self.noise_bars, name)))
        data["noise"] = ((*grid.names, "axis_name"), np.asarray(self.noise), {"units": LENGTH})
        data["axis_sensitivity"] = (("measure_name", "axis_name"), np.asarray(self.axis_sensitivity))
        coordinates = {axis.name: (axis.name, axis.samples(), {"units": axis.unit}) for axis in grid.axes}
        coordinates |= {"measure_name": list(FIELDS), "axis_name": list(grid.names)}
        provenance = {
            "title": self.name,
            "axes": json.dumps([vars(axis) for axis in grid.axes]),
            "stencil": json.dumps(self.stencil),
            "tolerance": self.tolerance,
            "attributes": json.dumps(dict(self.attributes)),
            "jax_version": jax.__version__,
            "device": jax.devices()[0].device_kind,
            "conventions": "H is divided by d; R_1212 > 0 on the sphere; errors are half-widths",
        }
        return require("xarray", "report", "A labelled result").Dataset(data, coordinates, provenance)

    def save(self, path: str | Path) -> Path:
        """Write to NetCDF (``.nc``) or Zarr (``.zarr``), and give the path back.

        An earlier result is replaced; a half-written file never takes the name.

        Raises:
            ValueError: The suffix is unknown or the folder cannot be written.
            ImportError: The package for this format is not installed.
        """
        return write_dataset(self.to_xarray(), path)


def geometry_from_xarray(dataset: Any) -> Geometry:
    """Read back what :meth:`Geometry.to_xarray` wrote.

    Args:
        dataset: The ``xarray.Dataset``.

    Returns:
        The Geometry, equal to the one written.

    Raises:
        ValueError: The data set was not written by this package.

    Example:
        >>> geometry = mj.measure(mj.datasets.ellipse(size=16))
        >>> mj.geometry_from_xarray(geometry.to_xarray()).grid == geometry.grid
        True
    """
    if "axes" not in dataset.attrs or "volume_element" not in dataset:
        raise ValueError("This data set was not written by Geometry.to_xarray: it has no 'axes' attribute.")
    axes = tuple(Axis(**axis) for axis in json.loads(dataset.attrs["axes"]))
    stencil = json.loads(dataset.attrs["stencil"])

    def read(name: str) -> jax.Array:
        return jnp.asarray(dataset[name].values)

    def estimate(name: str) -> Estimate:
        return Estimate(read(name), read(f"{name}_error"), read(f"{name}_resolved").astype(bool))

    return Geometry(
        **{name: estimate(name) for name in FIELDS + TOTALS},
        axis_sensitivity=read("axis_sensitivity"),
        rounding=Fields(*(read(f"{name}_rounding") for name in FIELDS)),
        noise=read("noise"),
        noise_bars=Fields(*(read(f"{name}_noise") for name in FIELDS)),
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
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = mj.measure(mj.datasets.ellipse(size=16)).save(f"{folder}/ellipse.nc")
        ...     mj.load_geometry(path).name
        'ellipse'
    """
    return geometry_from_xarray(read_dataset(path))
