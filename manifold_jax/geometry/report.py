"""The result of a measurement, a Geometry: fields, totals, verdicts, and how to keep them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
    natural_scales,
    unit_of,
)
from manifold_jax.geometry.stencil import Stencil

if TYPE_CHECKING:
    import xarray

ENOUGH = 0.95  # share of points that must be resolved for a quantity to count as resolved
MOST = 0.5  # share of points that decides what is said of all: below it a quantity is "not resolved"
# The difference of two stencils, its maximum over neighbours and the safety factor amplify noise too.
NOISY = 0.1  # share of a bar from which rounding is to blame
GUILTY = 0.3  # axes are blamed that change a quantity by this share of what the worst axis does
SPECTRAL_ORDER = 10  # order of convergence expected of a spectral axis, for the advice how far to refine
REFINEMENTS = 1.5, 16.0  # least and largest refinement that is advised: less changes nothing, more is a guess
_STATIC = {"static": True}


class Verdict(NamedTuple):
    """Whether a quantity can be trusted on this grid.

    Attributes:
        resolved: At least 95 % of the points (or the total) have a bar below the tolerance.
        share: Share of resolved points among those where the quantity is defined.
        axes: Names of the axes to blame, the worst first.
        sentence: All of this in words.
    """

    resolved: bool
    share: float
    axes: tuple[str, ...]
    sentence: str


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
        noise: Length of the noise of a sample by every axis ``(d,)``, the median over the grid; 0 where
            rounding explains it. It is a length in the ambient space: for equal noise in f features,
            sqrt(f) times that of one.
        noise_bars: Part of each error bar that is noise.
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
    noise: Float[Array, "d"]
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
        estimate = getattr(self, choice("verdict", "name", name, FIELDS + TOTALS))
        value, resolved = np.asarray(estimate.value), np.asarray(estimate.resolved)
        defined = ~np.isnan(value)
        if not defined.any():
            return Verdict(
                False, 0.0, (), "not defined anywhere: the metric is degenerate on the whole grid."
            )
        share = float(resolved[defined].mean())
        missing = 1 - float(defined.mean())
        note = f" Undefined at {missing:.1%} of the points (degenerate metric)." if missing > 0 else ""
        if share >= ENOUGH:
            where = "resolved." if name in TOTALS else f"resolved at {share:.1%} of the points."
            return Verdict(True, share, (), where + note)
        axes, cause = _blame(self, name, np.asarray(estimate.error))
        where = "not resolved" if share < MOST else f"resolved at only {share:.0%} of the points"
        return Verdict(False, share, axes, f"{where}: {cause}." + note)

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
        data["noise"] = ("axis_name", np.asarray(self.noise), {"units": LENGTH})
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


def _blame(geometry: Geometry, name: str, error: np.ndarray) -> tuple[tuple[str, ...], str]:
    """Axes to blame for a quantity that is not resolved, and a remedy."""
    if name in TOTALS:
        name = "volume_element" if name == "total_volume" else "scalar_curvature"
    noise = np.asarray(getattr(geometry.rounding, name))
    if error.shape == noise.shape and _is_noise(noise, error):
        remedy = "measure in float64" if noise.dtype == np.float32 else "take a larger stride"
        return (), f"rounding dominates, {remedy}"
    table = np.nan_to_num(np.asarray(geometry.axis_sensitivity), nan=np.inf)
    row = table[FIELDS.index(name)]
    half = geometry.tolerance / 2
    if row.max() < half:
        row = table.max(axis=0)  # another quantity fails on these axes, and this one with it
    orders = [SPECTRAL_ORDER if a == "spectral" else int(a) for a, *_ in geometry.stencil or ()]
    worst = [k for k in np.argsort(-row) if row[k] >= max(GUILTY * row.max(), half / 2)]
    worst = worst or [int(np.argmax(row))]
    # The largest bar of all axes together tells how far there is to go.
    excess = max(1.0, _relative_error(geometry, name) / row[worst[0]])
    names, parts = [geometry.grid.names[k] for k in worst], []
    for k, axis in zip(worst, names, strict=True):
        need = float(np.clip((row[k] * excess / half) ** (1 / min(orders, default=4)), *REFINEMENTS))
        parts.append(f"{axis} axis too coarse: refine {math.ceil(2 * need) / 2:g}x")
    return tuple(names), ", ".join(parts)


def _relative_error(geometry: Geometry, name: str) -> float:
    """Median bar of a field over its natural scale; 1 where there is none."""
    scales = natural_scales(Fields(*(field.value for field in geometry.fields)))
    scale = np.asarray(getattr(scales, name))
    return finite_median(getattr(geometry, name).error / np.where(scale > 0, scale, np.nan), 1.0)


def _is_noise(noise: np.ndarray, error: np.ndarray) -> bool:
    """Whether rounding dominates the bars of most points."""
    finite = np.isfinite(error) & np.isfinite(noise)
    return bool(finite.any() and np.mean(noise[finite] > NOISY * error[finite]) > 0.5)


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
