"""Estimators of geometry from samples alone, in the form that ``calibrate`` takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax._checks import choice, flat_points, keys, whole
from manifold_jax.fitting.dimension import OTHERS, OWN, intrinsic_dimension
from manifold_jax.fitting.geodesic_balls import MOST_POINTS, ball_volume, scalar_curvature_from_balls
from manifold_jax.geometry import local_fit, reach_from_samples
from manifold_jax.geometry.neighbours import nearest_neighbours
from manifold_jax.geometry.tensors import JetGram
from manifold_jax.geometry.weingarten import weingarten_fit

QUANTITIES = ("tangent", *local_fit.CURVATURES, "volume", "reach", "dimension", "fit")
"""What an estimator can estimate."""


@dataclass(frozen=True)
class Estimator:
    """An estimator, and what it estimates.

    Attributes:
        name: For tables; unique within one calibration.
        quantity: ``"tangent"``, ``"scalar_curvature"``, ``"mean_curvature"``, ``"second_form_norm"``,
            ``"normal_curvature"``, ``"volume"``, ``"reach"``, ``"dimension"`` or ``"fit"``.
        function: Called as ``function(points, dimension=d, **options)`` with samples ``(n, f)``. It returns
            frames ``(n, d, f)`` of the tangent spaces; values ``(n,)`` for curvatures; one number for the
            volume and the reach; one number or ``(n,)`` for the dimension; for a fit a function that projects
            points ``(m, f)``. NaN says that a point failed.
        needs: Arguments that it is given by name: ``"dimension"``, and ``"key"`` for a random key.
        most: Points above which it is left out, because of its memory.
        options: Further arguments by name.

    Raises:
        ValueError: The quantity or a need is unknown, or the function cannot be called.

    Example:
        >>> box = mj.fitting.Estimator("bounding box", "volume", lambda x: jnp.prod(jnp.ptp(x, 0)), needs=())
        >>> box.quantity
        'volume'
    """

    name: str
    quantity: str
    function: Callable[..., Any]
    needs: tuple[str, ...] = ("dimension",)
    most: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        caller = f"estimator {self.name!r}"
        choice(caller, "quantity", self.quantity, QUANTITIES)
        keys(caller, "needs", self.needs, ("dimension", "key"))
        if not callable(self.function):
            raise ValueError(f"{caller}: function must be a function of samples, got {self.function!r}.")


def volume_from_samples(
    points: Float[Array, "n *features"], *, dimension: int, neighbours: int | None = None
) -> Float[Array, ""]:
    """Total volume from the distances to the k-th nearest neighbours.

    With r_i the distance from point i to the k-th nearest of the other n - 1,

        V = (n / k) omega_d mean_i r_i^d.

    The mass within r_i has the law Beta(k, n - k) of mean k/n. Where the density is constant over the ball,
    1/density is then estimated without bias by (n/k) omega_d r^d, and the mean of 1/density over the samples
    is the volume, whatever the density. (The factor (k - 1)/(n - 1) of Loftsgaarden & Quesenberry, *Annals of
    Mathematical Statistics* 36, 1965, makes the density unbiased, not its inverse.) Chords for arcs make it
    too small by O(r^2); a boundary makes it too large by O(r).

    Args:
        points: Samples.
        dimension: d.
        neighbours: k, by default 10.

    Raises:
        ValueError: The points are not ``(n, *features)``, or d or k is out of range.

    Example:
        >>> t = jax.random.uniform(jax.random.key(0), (2000,), maxval=2 * jnp.pi)
        >>> circle = jnp.stack([jnp.cos(t), jnp.sin(t)], axis=-1)
        >>> print(f"{mj.fitting.volume_from_samples(circle, dimension=1) / (2 * jnp.pi):.2f}")
        1.00
    """
    cloud = flat_points("volume_from_samples", points, dimension)
    n, k = len(cloud), 10 if neighbours is None else neighbours
    k = whole("volume_from_samples", "neighbours", k, 1, n - 1)
    radius = nearest_neighbours(cloud, cloud, k + 1).distances[:, -1]
    return n / k * ball_volume(dimension) * jnp.mean(radius**dimension)


def _reach(points: Any, *, dimension: int, **options: Any) -> float:
    value = reach_from_samples(points, dimension=dimension, **options).value
    return value if math.isfinite(value) else math.nan


def _dimension(points: Any, **options: Any) -> float:
    return intrinsic_dimension(points, **options).value


def _ball_curvature(points: Any, **options: Any) -> np.ndarray:
    return scalar_curvature_from_balls(points, **options).scalar_curvature


def _quadratic_tangents(points: Any, **options: Any) -> Array:
    return local_fit.local_quadratic_fit(points, **options).tangents


@partial(jax.jit, static_argnames="quantity")
def _curvature_of(gram: JetGram, quantity: str) -> Array:
    return local_fit.CURVATURES[quantity](gram)


def _of_map(quantity: str, points: Any, **options: Any) -> Array:
    return _curvature_of(weingarten_fit(points, **options).gram, quantity)


def builtin_estimators(
    *quantities: str, dimensions: Sequence[str] = ("TwoNN", "MLE")
) -> tuple[Estimator, ...]:
    """The package's own estimators with their default options, for :func:`calibrate`.

    Args:
        quantities: Estimators of these; of all by default. There is none for ``"fit"``.
        dimensions: Methods of :func:`intrinsic_dimension`.

    Raises:
        ValueError: A quantity is unknown.

    Example:
        >>> [estimator.name for estimator in mj.fitting.builtin_estimators("tangent")]
        ['local PCA', 'quadratic regression']
    """
    keys("builtin_estimators", "quantities", quantities, QUANTITIES)
    for name in [dimensions] if not isinstance(dimensions, list | tuple) else dimensions:
        choice("builtin_estimators", "every one of dimensions", name, (*OWN, *OTHERS))
    curvature = local_fit.curvature_from_samples
    curvatures = {name: partial(curvature, quantity=name) for name in local_fit.CURVATURES}
    methods = {name: partial(_dimension, method=name) for name in dimensions}
    every = (
        Estimator("local PCA", "tangent", local_fit.local_pca_tangents),
        Estimator("quadratic regression", "tangent", _quadratic_tangents),
        *(Estimator("quadratic regression", name, function) for name, function in curvatures.items()),
        *(Estimator("Weingarten map", name, partial(_of_map, name)) for name in local_fit.CURVATURES),
        Estimator("geodesic balls", "scalar_curvature", _ball_curvature, most=MOST_POINTS),
        Estimator("nearest neighbours", "volume", volume_from_samples),
        Estimator("Federer plug-in", "reach", _reach),
        Estimator("local polynomials", "reach", partial(_reach, method="curvature")),
        *(Estimator(name, "dimension", function, needs=()) for name, function in methods.items()),
    )
    return tuple(e for e in every if not quantities or e.quantity in quantities)
