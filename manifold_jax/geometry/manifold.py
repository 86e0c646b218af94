"""A manifold given by an embedding: the input of every exact measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from manifold_jax.geometry.grid import Grid


@dataclass(frozen=True, eq=False)
class Manifold:
    """A parametrised manifold, its natural grid, and what is known about it in closed form.

    Attributes:
        name: What it is, for reports.
        embedding: One chart point ``(d,)`` to one ambient point of any feature shape, smooth.
        grid: The lattice on which it is measured by default.
        known: Closed forms by measure name. Pointwise measures (``"volume_element"``,
            ``"scalar_curvature"``, ``"mean_curvature"``, ...) are functions of one chart point ``(d,)``;
            totals (``"total_volume"``, ``"reach"``, ...) are numbers. May be empty.
        attributes: Anything a report should record about how the manifold was made (shape, blur, ...).

    Raises:
        ValueError: The embedding does not map a chart point of the grid to a floating-point array.

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax import Axis, Grid, Manifold
        >>> grid = Grid((Axis("angle", 0.0, 2 * jnp.pi, 32, periodic=True),))
        >>> circle = Manifold("circle", lambda u: jnp.array([jnp.cos(u[0]), jnp.sin(u[0])]), grid)
        >>> circle.feature_shape
        (2,)
    """

    name: str
    embedding: Callable[[jax.Array], jax.Array]
    grid: Grid
    known: Mapping[str, Callable[[jax.Array], Any] | float] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not callable(self.embedding):
            raise ValueError(
                f"Manifold {self.name!r} needs a function as its embedding, "
                f"got {type(self.embedding).__name__}."
            )
        if not isinstance(self.grid, Grid):
            raise ValueError(f"Manifold {self.name!r} needs a Grid, got {type(self.grid).__name__}.")

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one ambient point."""
        point = jax.ShapeDtypeStruct((self.grid.ndim,), jnp.result_type(float))
        return tuple(jax.eval_shape(self.embedding, point).shape)


def is_union(points: Any) -> bool:
    """Whether something is a sequence of Manifolds, the components of a union."""
    return (
        isinstance(points, Sequence)
        and len(points) > 0
        and all(isinstance(part, Manifold) for part in points)
    )


def points_and_grid(points: Any, grid: Grid | None, caller: str) -> tuple[Any, Grid]:
    """Embedding or array, and lattice, of what was given to the function ``caller``."""
    if isinstance(points, Manifold):
        return points.embedding, grid or points.grid
    if grid is None:
        raise ValueError(f"{caller} needs a grid beside points or an embedding: {caller}(points, Grid(...)).")
    return points, grid
