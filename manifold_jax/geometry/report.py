"""The result of a measurement, a Geometry: fields, totals, verdicts, and how to keep them."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax._checks import choice, is_traced, number, numbers, require, shown
from manifold_jax._files import printable, read_dataset, safe_labels, user_path, write_dataset
from manifold_jax._keys import digest_arrays
from manifold_jax._programs import first_line
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
    with_bar,
)
from manifold_jax.geometry.show import geometry_html
from manifold_jax.geometry.stencil import Stencil, stencil_words
from manifold_jax.geometry.verdict import Verdict, judge, noise_sentence

if TYPE_CHECKING:
    import xarray

_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class Geometry:
    """Measured geometry of a manifold; a pytree whose leaves are arrays.

    Two are equal if all their numbers are, NaN and NaN included.

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
        axis_sensitivity: Median relative change ``(quantities, d)`` when one axis takes another stencil; NaN
            along axes along which nothing changes.
        rounding: Part of each error bar that is rounding.
        noise: Length of the noise of a sample at every point, by every axis ``(*shape, d)``; 0 where rounding
            explains it, NaN where no axis has samples enough to tell. For equal noise in f features it is
            sqrt(f) times that of one. Beside a kink it is of that too.
        noise_bars: Part of each error bar that is noise, or a kink.
        noise_decay: Share of its energy that a high difference along every axis keeps where its order grows
            by 4: about 1 for noise, less where the axis may be too coarse; NaN where samples are too few
            or the noise was given.
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
    noise_decay: Float[Array, "d"]
    name: str = field(default="manifold", metadata=_STATIC)
    grid: Grid = field(kw_only=True, metadata=_STATIC)
    stencil: Stencil | None = field(default=None, metadata=_STATIC)
    tolerance: float = field(default=0.1, metadata=_STATIC)
    attributes: tuple[tuple[str, str], ...] = field(default=(), metadata=_STATIC)

    def __post_init__(self) -> None:
        set_field, pairs = object.__setattr__, self.attributes
        set_field(self, "name", str(self.name))
        set_field(self, "tolerance", number("Geometry", "tolerance", self.tolerance))
        pairs = pairs.items() if isinstance(pairs, Mapping) else pairs
        set_field(self, "attributes", tuple((str(key), str(value)) for key, value in pairs))
        if self.stencil is not None:
            specs = (tuple(x if isinstance(x, str) else int(x) for x in spec) for spec in self.stencil)
            set_field(self, "stencil", tuple(specs))

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Geometry) and equal_trees(self, other))

    def __hash__(self) -> int:
        return hash((self.name, self.grid, self.stencil, self.tolerance, self.attributes))

    def __repr__(self) -> str:
        def short(estimate: Estimate) -> str:
            if is_traced(estimate) or np.ndim(estimate.value):
                return f"{estimate.value.dtype}{list(estimate.value.shape)}"
            return with_bar(float(estimate.value), float(estimate.error), "+-")

        totals = (f"  {name}: {short(getattr(self, name))}" for name in TOTALS)
        return "\n".join([f"Geometry of {self.title}", *totals])

    def _repr_html_(self) -> str | None:
        """A table for notebooks; None of a traced or batched one, which is shown as text."""
        volume = self.total_volume.value
        known = isinstance(volume, (jax.Array, np.ndarray, np.generic)) and not is_traced(volume)
        return geometry_html(self) if known and np.ndim(volume) == 0 else None

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
        """Quantiles ``(len(levels),)`` of every field over the points where it is defined, by name.

        Raises:
            ValueError: The levels are not numbers from 0 to 1.
        """
        levels = tuple(numbers("quantiles", "levels", levels, max(1, np.size(levels))))
        if not 0 <= min(levels) <= max(levels) <= 1:
            raise ValueError(f"quantiles: levels must lie between 0 and 1, got {shown(levels)}.")

        def quantile(values: np.ndarray) -> np.ndarray:
            if not np.isfinite(values).any():
                return np.full(len(levels), np.nan)
            return np.nanquantile(values, levels)

        return {name: quantile(np.asarray(getattr(self, name).value)) for name in FIELDS}

    @property
    def title(self) -> str:
        """Name, grid and method in one line."""
        orders = stencil_words(self.stencil or ())
        source = "automatic differentiation" if self.exact else f"stencils of order {orders}"
        lattice = " x ".join(f"{axis.size} {axis.name}" for axis in self.grid.axes)
        return f"{self.name}: {self.grid.size} points, {lattice}; {source}"

    def summary(self) -> str:
        """Plain-text table of totals and fields with error bars and verdicts."""
        lines = [self.title]
        quantiles = self.quantiles((0.05, 0.5, 0.95))
        for name in TOTALS + FIELDS:
            estimate, span = getattr(self, name), ""
            if name in TOTALS:
                value, error = float(estimate.value), float(estimate.error)
            else:
                low, value, high = quantiles[name]
                error, span = finite_median(estimate.error, math.inf), f"[{low:.4g}, {high:.4g}]  "
            sentence = self.verdict(name).sentence
            words = with_bar(value, error, "+-")
            lines.append(f"  {name:26s} {words:>22s}  {span}{sentence}")
        if noise := noise_sentence(self):
            lines.append(f"  {noise}")
        return "\n".join(lines)

    def to_xarray(self) -> xarray.Dataset:
        """Labelled data set: fields and errors on named axes with units, totals as scalars, provenance.

        :func:`geometry_from_xarray` reads it back without loss.

        Raises:
            ImportError: xarray is not installed.
        """
        grid, names = self.grid, FIELDS + TOTALS
        labels = safe_labels(grid.names, [*_variables(), "measure_name", "axis_name"])
        data: dict[str, Any] = {}
        for name in names:
            estimate, dimensions = getattr(self, name), labels if name in FIELDS else ()
            about = {"long_name": LABELS[name].name, "units": printable(unit_of(name, grid))}
            data[name] = (dimensions, np.asarray(estimate.value), about)
            data[f"{name}_error"] = (dimensions, np.asarray(estimate.error))
            data[f"{name}_resolved"] = (dimensions, np.asarray(estimate.resolved).astype(np.int8))
        for name in FIELDS:
            data[f"{name}_rounding"] = (labels, np.asarray(getattr(self.rounding, name)))
            data[f"{name}_noise"] = (labels, np.asarray(getattr(self.noise_bars, name)))
        data["noise"] = ((*labels, "axis_name"), np.asarray(self.noise), {"units": LENGTH})
        data["noise_decay"] = (("axis_name",), np.asarray(self.noise_decay))
        data["axis_sensitivity"] = (("measure_name", "axis_name"), np.asarray(self.axis_sensitivity))
        coordinates: dict[str, Any] = coordinates_of(grid, labels)
        coordinates |= {"measure_name": list(FIELDS), "axis_name": list(labels)}
        static = {
            "name": json.dumps(self.name),
            "axes": json.dumps([vars(axis) for axis in grid.axes]),
            "stencil": json.dumps(self.stencil),
            "tolerance": self.tolerance,
            "attributes": json.dumps(self.attributes),
        }
        provenance = static | {
            "title": printable(self.name),
            "digest": _digest(static, {name: values[1] for name, values in data.items()}),
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


def equal_trees(first: Any, second: Any) -> bool:
    """Whether two pytrees have one structure and equal arrays, of one type, NaN being equal to NaN."""
    a, b = jax.tree.leaves(first), jax.tree.leaves(second)
    if jax.tree.structure(first) != jax.tree.structure(second) or is_traced(a, b):
        return False

    def same(x: Any, y: Any) -> bool:
        x, y = np.asarray(x), np.asarray(y)
        return x.dtype == y.dtype and np.array_equal(x, y, equal_nan=x.dtype.kind in "fc")

    return all(map(same, a, b))


def coordinates_of(grid: Grid, labels: Sequence[str]) -> dict[str, Any]:
    """Samples of every axis for a labelled data set, by the label of the axis."""
    return {
        label: (label, axis.samples(), {"units": printable(axis.unit), "long_name": printable(axis.name)})
        for label, axis in zip(labels, grid.axes, strict=True)
    }


def _variables() -> list[str]:
    """Names of all variables in a data set, in order."""
    parts = [[name, f"{name}_error", f"{name}_resolved"] for name in FIELDS + TOTALS]
    parts += [[f"{name}_rounding", f"{name}_noise"] for name in FIELDS]
    return [*itertools.chain(*parts), "noise", "noise_decay", "axis_sensitivity"]


def _digest(static: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """Digest of everything that makes a Geometry: a damaged file is told by it."""
    text = json.dumps([str(static[name]) for name in ("name", "axes", "stencil", "tolerance", "attributes")])
    return digest_arrays(
        np.frombuffer(text.encode(), np.uint8), *(values[name] for name in _variables() if name in values)
    )


def geometry_from_xarray(dataset: Any) -> Geometry:
    """Read back what :meth:`Geometry.to_xarray` wrote.

    Args:
        dataset: The ``xarray.Dataset``.

    Returns:
        The Geometry, equal to the one written.

    Raises:
        ValueError: The data set was not written by this package, or was changed since.

    Example:
        >>> geometry = mj.measure(mj.datasets.ellipse(size=16))
        >>> mj.geometry_from_xarray(geometry.to_xarray()) == geometry
        True
    """
    if not hasattr(dataset, "attrs"):
        got = shown(dataset)
        raise ValueError(f"geometry_from_xarray: dataset must be an xarray.Dataset, got {got}.")
    if "axes" not in dataset.attrs or "volume_element" not in dataset:
        raise ValueError("This data set was not written by Geometry.to_xarray: it has no 'axes' attribute.")
    try:
        return _read_geometry(dataset)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        reason = first_line(error) if isinstance(error, ValueError) else "parts are missing"
        raise ValueError(f"This data set is not a whole Geometry: {reason}") from error


def _read_geometry(dataset: Any) -> Geometry:
    static = dict(dataset.attrs)
    grid = Grid(tuple(Axis(**axis) for axis in json.loads(static["axes"])))
    stencil, attributes = json.loads(static["stencil"]), json.loads(static["attributes"])
    later = {"noise_decay"} - set(dataset)  # what files of earlier versions lack
    values = {name: dataset[name].values for name in _variables() if name not in later}
    shapes = {name: () if name.startswith("total") else grid.shape for name in values}
    shapes |= {"noise": (*grid.shape, grid.ndim), "noise_decay": (grid.ndim,)}
    shapes |= {"axis_sensitivity": (len(FIELDS), grid.ndim)}
    for name, part in values.items():
        if part.shape != shapes[name]:
            raise ValueError(f"{name} has the shape {part.shape}, not {shapes[name]}.")
    if "digest" in static and static["digest"] != _digest(static, values):
        raise ValueError("its numbers are not those that were measured.")

    def estimate(name: str) -> Estimate:
        value, error = jnp.asarray(values[name]), jnp.asarray(values[f"{name}_error"])
        return Estimate(value, error, jnp.asarray(values[f"{name}_resolved"]).astype(bool))

    return Geometry(
        **{name: estimate(name) for name in FIELDS + TOTALS},
        axis_sensitivity=jnp.asarray(values["axis_sensitivity"]),
        rounding=Fields(*(jnp.asarray(values[f"{name}_rounding"]) for name in FIELDS)),
        noise=jnp.asarray(values["noise"]),
        noise_bars=Fields(*(jnp.asarray(values[f"{name}_noise"]) for name in FIELDS)),
        noise_decay=jnp.asarray(values.get("noise_decay", np.full(grid.ndim, np.nan))),
        name=json.loads(static["name"]),
        grid=grid,
        stencil=tuple(map(tuple, stencil)) if stencil else None,
        tolerance=float(static["tolerance"]),
        attributes=attributes,
    )


def load_geometry(path: str | Path) -> Geometry:
    """Read a Geometry saved as NetCDF or Zarr.

    A process of its own reads it first, with 2 s of computing time (and 1 s for every 50 MB) and half a
    gigabyte of memory (and 100 times the size on disk): damaged files end that one.

    Args:
        path: File (``.nc``) or folder (``.zarr``).

    Returns:
        The Geometry.

    Raises:
        ValueError: There is no such file, it is not a saved Geometry, or it is damaged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = mj.measure(mj.datasets.ellipse(size=16)).save(f"{folder}/ellipse.nc")
        ...     mj.load_geometry(path).name
        'ellipse'
    """
    try:
        return geometry_from_xarray(read_dataset(path))
    except ValueError as error:
        named = str(user_path(path)) in str(error)
        raise error if named else ValueError(f"{user_path(path)}: {error}") from error
