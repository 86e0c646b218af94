"""Axis-aligned lattices in chart coordinates and their quadrature weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache, reduce
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax._checks import choice, flag, keys, number, numbers, positive, real_type, shown, whole

Accuracy = int | str
"""Order of accuracy along one axis: 2, 4, 6, 8 or ``"spectral"`` (periodic axes only)."""

DType = Any
"""A NumPy or JAX floating dtype."""

ORDERS = (2, 4, 6, 8)

UNEQUAL = 1e-6  # of a step, by which equal steps may differ
NO = ("", "0", "false", "no", "none")  # what an attribute says of an axis that is not periodic
GAP = 4.0  # of the largest step, from which samples do not fill a period


@dataclass(frozen=True)
class Axis:
    """One chart coordinate sampled at equal steps.

    Attributes:
        name: Coordinate name, for example ``"orientation"``.
        start: First sample.
        stop: Last sample of an open axis; on a periodic axis the (excluded) image of ``start``.
        size: Number of samples, at least 2.
        periodic: The geometry repeats with period ``stop - start``.
        unit: Unit of the coordinate, printed in reports and plots (``"px"``, ``"rad"``).
        wrap: On a periodic axis, whether the *points* repeat too. If not, a period is only an isometry, as is
            the shift of an image by one pixel: the metric repeats, the images do not. Quadrature is then
            periodic, but ghost layers are not wrapped.
        descending: Whether arrays hold the last sample first; what is measured is in ascending order.
        nodes: Samples at unequal steps, in ascending order, the first of them ``start`` and on an open axis
            the last ``stop``; empty for equal steps. A function is then measured at its samples alone.

    Raises:
        ValueError: The name is empty, the range is not increasing and finite, or the size is below 2.

    Example:
        >>> Axis("angle", 0.0, 1.0, 4, periodic=True).spacing
        0.25
        >>> Axis("height", 0.0, 1.0, 5).spacing
        0.25
    """

    name: str
    start: float
    stop: float
    size: int = cast(Any, None)  # asked for below, in a sentence: who forgets it mostly forgets the name
    periodic: bool = False
    unit: str = ""
    wrap: bool = field(default=True, kw_only=True)
    descending: bool = field(default=False, kw_only=True)
    nodes: tuple[float, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            example = "Axis('angle', 0.0, 360.0, 24)"
            raise ValueError(f"Axis needs a non-empty name first, as in {example}, got {shown(self.name)}.")
        caller = f"Axis {self.name!r}"
        object.__setattr__(self, "name", str(self.name))
        if not isinstance(self.unit, str | None):
            raise ValueError(f"{caller}: unit must be text, got {self.unit!r}.")
        object.__setattr__(self, "unit", str(self.unit or ""))
        for label in ("periodic", "wrap", "descending"):
            object.__setattr__(self, label, flag(caller, label, getattr(self, label)))
        for label in ("start", "stop"):
            object.__setattr__(self, label, number(caller, label, getattr(self, label)))
        # A single sample has no derivative: a factor that does not vary is left out.
        size = int(self.size) if isinstance(self.size, float) and self.size.is_integer() else self.size
        object.__setattr__(self, "size", whole(caller, "size", size, 2))
        if not self.start < self.stop:
            raise ValueError(f"{caller} must increase: start {self.start:g} is not below stop {self.stop:g}.")
        if not self.periodic and not self.wrap:
            raise ValueError(f"{caller}: wrap=False only makes sense with periodic=True.")
        object.__setattr__(self, "nodes", numbers(caller, "nodes", self.nodes, np.size(self.nodes)))
        if self.nodes:
            steps = np.diff([*self.nodes, self.stop] if self.periodic else self.nodes)
            ends = self.nodes[0] == self.start and (self.periodic or self.nodes[-1] == self.stop)
            if len(self.nodes) != self.size or not ends or not (steps > 0).all() or not self.wrap:
                wanted = f"{self.size} increasing numbers from start to stop, with wrap=True"
                raise ValueError(f"{caller}: nodes must be {wanted}, got {len(self.nodes)} of them.")

    @classmethod
    def from_samples(cls, name: str, values: Any, periodic: bool | float = False, unit: str = "") -> Axis:
        """The axis of given samples, in ascending or descending order.

        Args:
            name: Name of the coordinate.
            values: Samples ``(n,)``; at steps that are not equal to rounding they become ``nodes``.
            periodic: Whether the axis is periodic, then with the mean step from the last sample to the
                first; or its period.
            unit: Unit of the coordinate.

        Raises:
            ValueError: There are fewer than two samples, they are not finite, repeat or go up and down, or
                they do not fit the period: the last one is the first again, for example.

        Example:
            >>> axis = mj.Axis.from_samples("angle", [270, 180, 90, 0], periodic=360, unit="deg")
            >>> axis.start, axis.stop, axis.size, axis.descending
            (0.0, 360.0, 4, True)
        """
        caller = f"Axis {name!r}"
        samples = np.asarray(values)
        if samples.ndim != 1 or samples.size < 2 or samples.dtype.kind not in "iuf":
            got = f"{samples.dtype} of shape {samples.shape}"
            raise ValueError(f"{caller}: samples must be two numbers or more, got {got}.")
        rounding = 4 * np.finfo(samples.dtype if samples.dtype.kind == "f" else float).eps
        samples = samples.astype(np.float64)
        if not np.isfinite(samples).all():
            raise ValueError(f"{caller}: samples must be finite, got {samples[~np.isfinite(samples)][0]}.")
        descending = bool(samples[-1] < samples[0])
        samples = samples[::-1] if descending else samples
        steps = np.diff(samples)
        if not (steps > 0).all():
            place = int(np.argmax(steps <= 0))
            got = f"{samples[place]:g} next to {samples[place + 1]:g}"
            raise ValueError(f"{caller}: samples must all increase or all decrease, got {got}.")
        step = (samples[-1] - samples[0]) / steps.size
        tolerance = rounding * np.abs(samples).max() + UNEQUAL * step
        unequal = bool((np.abs(steps - step) > 2 * tolerance).any())
        given = not isinstance(periodic, bool) and getattr(periodic, "dtype", None) != np.dtype(bool)
        period = positive(caller, "periodic", periodic) if given else step * samples.size
        left = period - (samples[-1] - samples[0])
        if given and abs(left) < steps.min() / 2:
            remedy = "leave the last one out, whose place is that of the first"
            raise ValueError(f"{caller}: first and last sample coincide after a period: {remedy}.")
        if not 0 < left < GAP * steps.max():
            got = f"samples from {samples[0]:g} to {samples[-1]:g} and a period of {period:g}"
            raise ValueError(f"{caller}: samples must fill one period, got {got}.")
        unequal |= abs(left - step) > 2 * samples.size * tolerance
        whole_turn = given or bool(periodic)
        stop = samples[0] + period if whole_turn else samples[-1]
        nodes = tuple(samples) if unequal else ()
        return cls(name, samples[0], stop, samples.size, whole_turn, unit, descending=descending, nodes=nodes)

    @property
    def spacing(self) -> float:
        """Distance between neighbouring samples, on average where steps are unequal."""
        return (self.stop - self.start) / (self.size if self.periodic else self.size - 1)

    @property
    def wraps(self) -> bool:
        """Whether ghost layers are copies of the samples at the other end."""
        return self.periodic and self.wrap

    def samples(self) -> np.ndarray:
        """Sample positions, float64 of shape ``(size,)``."""
        return np.array(self.nodes) if self.nodes else self.start + self.spacing * np.arange(self.size)

    def nearest(self, coordinate: Any) -> Any:
        """Index of the nearest sample, as if equal steps went on beyond the ends; integers like the input."""
        index = (np.asarray(coordinate) - self.start) / self.spacing
        if self.nodes:
            nodes = (*self.nodes, self.stop) if self.periodic else self.nodes
            index = np.interp(coordinate, nodes, np.arange(len(nodes)))
        return np.rint(index).astype(int)

    def positions(self, index: np.ndarray) -> np.ndarray:
        """Positions of samples, beyond the ends of a periodic axis moved by whole periods."""
        return self.samples()[index % self.size] + (self.stop - self.start) * (index // self.size)


@dataclass(frozen=True)
class Grid:
    """A rectangular lattice, the product of its axes; hashable, so usable as a static argument.

    Attributes:
        axes: One :class:`Axis` per chart coordinate.

    Raises:
        ValueError: There is no axis, an entry is not an Axis, or two axes share a name.

    Example:
        >>> grid = Grid((Axis("u", 0.0, 1.0, 3), Axis("v", 0.0, 2.0, 4, periodic=True)))
        >>> grid.shape, grid.spacing, grid.names
        ((3, 4), (0.5, 0.5), ('u', 'v'))
        >>> grid.coordinates().shape
        (3, 4, 2)
        >>> print(f"{grid.weights(accuracy=2).sum():.4f}")  # the area of the chart
        2.0000
    """

    axes: tuple[Axis, ...]

    def __post_init__(self) -> None:
        axes = (self.axes,) if isinstance(self.axes, Axis) else self.axes
        if not isinstance(axes, list | tuple) or not axes or not all(isinstance(a, Axis) for a in axes):
            raise ValueError(f"Grid: axes must be one Axis or more, got {shown(self.axes)}.")
        object.__setattr__(self, "axes", tuple(axes))
        if len(set(self.names)) != len(axes):
            raise ValueError(f"Grid axes need distinct names, got {self.names}.")

    @classmethod
    def from_xarray(cls, array: Any, periodic: Mapping[str, bool | float] | Iterable[str] = ()) -> Grid:
        """The grid of a DataArray of xarray: its dimensions with coordinates, in order; others are features.

        Args:
            array: A DataArray whose axes have one-dimensional numeric coordinates. Their attributes ``units``
                and ``period`` (a number) or ``periodic`` count.
            periodic: Names of periodic axes, or their periods by name; before the attributes.

        Raises:
            ValueError: No dimension has numeric coordinates, or :meth:`Axis.from_samples` refuses them.

        Example:
            >>> import xarray
            >>> angle = np.linspace(0, 2 * np.pi, 8, endpoint=False)
            >>> points = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
            >>> array = xarray.DataArray(points, dims=("angle", "xy"), coords={"angle": angle})
            >>> mj.Grid.from_xarray(array, periodic=["angle"]).periodic
            (True,)
        """
        if not hasattr(array, "coords"):
            raise ValueError(f"Grid.from_xarray: array must be a DataArray of xarray, got {shown(array)}.")
        periods = named_periods("Grid.from_xarray", periodic)
        names = [
            name
            for name in array.dims
            if name in array.coords
            and array.coords[name].ndim == 1
            and array.coords[name].dtype.kind in "iuf"
        ]
        keys("Grid.from_xarray", "periodic", periods, names)
        if not names:
            remedy = "assign coordinates to the axes of the grid, and none to those of features"
            wanted = "a dimension with numbers as coordinates"
            raise ValueError(f"Grid.from_xarray: array must have {wanted}, got {array.dims}: {remedy}.")

        def axis(name: Any) -> Axis:
            coordinate = array.coords[name]
            words = str(coordinate.attrs.get("periodic", "")).strip().lower()  # NetCDF has no True and False
            period = coordinate.attrs.get("period", words not in NO)
            unit = str(coordinate.attrs.get("units") or "")
            return Axis.from_samples(str(name), coordinate.values, periods.get(name, period), unit)

        return cls(tuple(map(axis, names)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Samples along each axis."""
        return tuple(axis.size for axis in self.axes)

    @property
    def ndim(self) -> int:
        """Number of axes, the dimension d of the manifold."""
        return len(self.axes)

    @property
    def size(self) -> int:
        """Number of points."""
        return math.prod(self.shape)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Step along each axis."""
        return tuple(axis.spacing for axis in self.axes)

    @property
    def periodic(self) -> tuple[bool, ...]:
        """Whether each axis is periodic."""
        return tuple(axis.periodic for axis in self.axes)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each axis."""
        return tuple(axis.name for axis in self.axes)

    def coordinates(self, dtype: DType | None = None) -> Float[Array, "*shape d"]:
        """Chart coordinates of every point, by default in the floating type of JAX."""
        samples = mesh([axis.samples() for axis in self.axes])
        return jnp.asarray(samples, dtype=real_type("coordinates", "dtype", dtype))

    def weights(
        self, accuracy: Accuracy | tuple[Accuracy, ...] = 4, dtype: DType | None = None
    ) -> Float[Array, "*shape"]:
        """Quadrature weights in chart coordinates, by default in the floating type of JAX.

        The trapezoid rule, which converges spectrally on periodic axes; on open axes its ends are corrected
        (Gregory's rule) so that it is exact on polynomials of degree below ``accuracy``, one for all axes or
        one per axis.
        """
        columns = map(axis_weights, self.axes, accuracies("weights", accuracy, self))
        return outer_product(columns, real_type("weights", "dtype", dtype))


def named_periods(caller: str, periodic: Mapping[str, bool | float] | Iterable[str]) -> dict[Any, Any]:
    """Periods, or True, by name of the axis: from a dictionary, some names, or one."""
    if isinstance(periodic, Mapping):
        return dict(periodic)
    if not isinstance(periodic, Iterable):
        raise ValueError(f"{caller}: periodic must be names of axes, or periods by name, got {periodic!r}.")
    return dict.fromkeys([periodic] if isinstance(periodic, str) else periodic, True)


@lru_cache(maxsize=64)
def skeleton(grid: Grid) -> Grid:
    """Grid of the same sizes and ends at unit spacing: what programs are compiled for.

    Intervals are data of a program, names and units are none of its business.
    """
    steps = (a.size if a.periodic else a.size - 1 for a in grid.axes)
    columns = enumerate(zip(grid.axes, steps, strict=True))
    return Grid(tuple(Axis(str(k), 0, n, a.size, a.periodic, wrap=a.wrap) for k, (a, n) in columns))


def per_axis(caller: str, name: str, value: Any, grid: Grid) -> tuple[Any, ...]:
    """One value for each axis of a grid, from one for all of them or a tuple."""
    values = tuple(value) if isinstance(value, tuple | list) else (value,) * grid.ndim
    if len(values) != grid.ndim:
        raise ValueError(f"{caller}: {name} must be one, or one per axis {grid.names}, got {shown(value)}.")
    return values


def accuracies(caller: str, accuracy: Any, grid: Grid) -> tuple[Accuracy, ...]:
    """Check orders of accuracy, 2, 4, 6, 8 or ``"spectral"``, and give one to every axis of a grid."""
    orders = per_axis(caller, "accuracy", accuracy, grid)
    orders = tuple(choice(caller, "accuracy", order, (*ORDERS, "spectral")) for order in orders)
    for order, axis in zip(orders, grid.axes, strict=True):
        if order == "spectral" and (not axis.wraps or axis.nodes):
            reason = f"axis {axis.name!r} is not one"
            wanted = "a periodic axis with equal steps"
            raise ValueError(f"{caller}: accuracy='spectral' needs {wanted}; {reason}.")
    return orders


def mesh(columns: Sequence[Any]) -> Any:
    """One column per axis to ``(*shape, d)``, in NumPy or JAX."""
    array = np if isinstance(columns[0], np.ndarray) else jnp
    return array.stack(array.meshgrid(*columns, indexing="ij"), axis=-1)


def outer_product(columns: Iterable[np.ndarray], dtype: DType) -> Array:
    """Product of one column per axis, on the whole grid."""
    return jnp.asarray(reduce(np.multiply.outer, columns), dtype)


@cache
def _end_corrections(order: int) -> np.ndarray:
    """Corrections d_j to the unit weights of sum_{j>=0} f(j) so that it equals the integral from 0.

    Exact for f = x^k, k < order: sum_j d_j j^k = -zeta(-k) = B_{k+1} / (k + 1), k > 0 (Euler-Maclaurin).
    """
    bernoulli = [1.0, -0.5, 1 / 6, 0.0, -1 / 30, 0.0, 1 / 42, 0.0, -1 / 30]
    vandermonde = np.vander(np.arange(order, dtype=float), increasing=True).T
    moments = [-0.5] + [bernoulli[k + 1] / (k + 1) for k in range(1, order)]
    return np.linalg.solve(vandermonde, moments)


def axis_weights(axis: Axis, accuracy: Accuracy) -> np.ndarray:
    """Quadrature weights of one axis, float64 of shape ``(size,)``."""
    if axis.nodes:
        return _node_weights(axis, min(int(accuracy), axis.size))
    weights = np.ones(axis.size)
    if not axis.periodic:
        order = min(int(accuracy), axis.size)
        corrections = _end_corrections(order)
        weights[:order] += corrections
        weights[axis.size - order :] += corrections[::-1]
    return weights * axis.spacing


def cell_lengths(axis: Axis) -> np.ndarray:
    """Distance from every sample to the next, ``(size,)``; beyond the end of an open axis 0."""
    steps = np.diff(axis.samples(), append=axis.stop)
    return steps if axis.nodes else np.where(steps > 0, axis.spacing, steps)


def _node_weights(axis: Axis, order: int) -> np.ndarray:
    """Weights at unequal steps: every cell integrates the polynomial through ``order`` samples around it."""
    n, weights = axis.size, np.zeros(axis.size)
    cells = np.arange(n if axis.periodic else n - 1)
    first = cells + 1 - order // 2
    first = first if axis.periodic else np.clip(first, 0, n - order)
    around = first[:, None] + np.arange(order)
    places, starts = axis.positions(around), axis.positions(cells)
    scale, exponents = np.ptp(places, axis=1), 1 + np.arange(order)
    powers = ((places - starts[:, None]) / scale[:, None])[:, None, :] ** np.arange(order)[:, None]
    lengths = (axis.positions(cells + 1) - starts) / scale
    moments = scale[:, None] * lengths[:, None] ** exponents / exponents
    np.add.at(weights, around % n, np.linalg.solve(powers, moments[..., None])[..., 0])
    return weights
