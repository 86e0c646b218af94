"""Points of any feature shape as rows, and functions of one row mapped in blocks."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

BLOCK_NUMBERS = 2**22
"""Numbers that the temporaries of one block may hold, about."""


def whole(caller: str, name: str, value: Any, least: int = 1) -> int:
    """A whole number from ``least``, or a ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{caller}: {name} must be a whole number from {least}, got {value!r}.")
    return int(value)


def positive_or_none(caller: str, name: str, value: Any) -> None:
    """Refuse a Python number that is not positive and finite; arrays pass."""
    if isinstance(value, bool) or (isinstance(value, int | float) and not 0.0 < value < math.inf):
        raise ValueError(f"{caller}: {name} must be positive and finite, got {value!r}.")


def floating(caller: str, name: str, values: Any) -> Array:
    """An array of points ``(n, *features)`` of floating type."""
    array = jnp.asarray(values)
    if array.ndim < 2 or array.size == 0 or not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"{caller}: {name} must be a floating-point array (n, *features) that is not empty, got "
            f"{array.dtype} of shape {array.shape}."
        )
    return array


def flat(points: Array) -> Float[Array, "n f"]:
    """``(n, *features)`` to ``(n, f)``."""
    return points.reshape(points.shape[0], -1)


def flat_points(caller: str, points: Any, dimension: Any) -> Float[Array, "n f"]:
    """Points with flat features, or one sentence that says what is wrong with them or the dimension."""
    cloud = jnp.asarray(points)
    if cloud.ndim < 2 or not jnp.issubdtype(cloud.dtype, jnp.floating):
        raise ValueError(
            f"{caller}: points must be a floating-point array (n, *features), "
            f"got {cloud.dtype} of shape {cloud.shape}."
        )
    features = math.prod(cloud.shape[1:])
    whole(caller, "dimension", dimension)
    if dimension >= features:
        raise ValueError(
            f"{caller}: dimension must be below the {features} feature(s) of a point, got {dimension}."
        )
    cloud = cloud.reshape(len(cloud), features)
    if not isinstance(cloud, jax.core.Tracer):
        bad = jnp.flatnonzero(~jnp.all(jnp.isfinite(cloud), axis=1))
        if len(bad):
            raise ValueError(
                f"{caller}: {len(bad)} of {len(cloud)} points hold NaN or infinite values, "
                f"first point {bad[0]}."
            )
    return cloud


def query_rows(caller: str, points: Any, features: tuple[int, ...]) -> tuple[Array, tuple[int, ...]]:
    """Rows ``(q, f)`` of points ``(*batch, *features)`` or ``(q, f)``, and the batch shape they had."""
    points = jnp.asarray(points)
    if not jnp.issubdtype(points.dtype, jnp.floating):
        raise ValueError(f"{caller}: points must be floating-point numbers, got {points.dtype}.")
    size, count = math.prod(features), len(features)
    if points.ndim >= count and points.shape[points.ndim - count :] == features:
        return points.reshape(-1, size), points.shape[: points.ndim - count]
    if points.ndim == 2 and points.shape[1] == size:
        return points, points.shape[:1]
    raise ValueError(
        f"{caller}: points must have shape (*batch, {', '.join(map(str, features))}) as the samples have, "
        f"got {points.shape}."
    )


def block_rows(numbers_per_row: int, block_size: int | None, largest: int = 1024) -> int:
    """Rows of a block: as asked, or as many as keep its temporaries within bounds."""
    return block_size or max(1, min(largest, BLOCK_NUMBERS // max(1, numbers_per_row)))


def matmul(a: Array, b: Array) -> Array:
    """Matrix product in full precision (the default is TF32 or bfloat16 on accelerators)."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
