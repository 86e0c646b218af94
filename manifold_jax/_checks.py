"""Checks of arguments, made before anything expensive starts: one sentence that names the argument.

Every message reads ``caller: name must be ..., got ...``, with how to mend it where that is not plain.
Numbers of NumPy and JAX count as numbers; values that are being traced cannot be looked at and pass.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Collection, Iterable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def is_traced(*trees: Any) -> bool:
    """Whether any leaf is a tracer, so that its values cannot be looked at."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def _number(value: Any, kinds: str) -> Any:
    """The value as a Python number, or None where it is no number of these NumPy kinds."""
    if isinstance(value, bool | str | bytes) or value is None:
        return None
    array = np.asarray(value)
    return array.item() if array.ndim == 0 and array.dtype.kind in kinds else None


def whole(caller: str, name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """A whole number between ``least`` and ``most``.

    Raises:
        ValueError: It is something else.

    Example:
        >>> import numpy as np
        >>> whole("sphere", "size", np.int64(3))
        3
        >>> whole("sphere", "size", 2.5)
        Traceback (most recent call last):
            ...
        ValueError: sphere: size must be a whole number, at least 1, got 2.5.
    """
    number = None if is_traced(value) else _number(value, "iu")
    if number is None or number < least or (most is not None and number > most):
        span = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{caller}: {name} must be a whole number, {span}, got {value!r}.")
    return number


def positive(caller: str, name: str, value: Any, *, zero: bool = False, below: float = math.inf) -> Any:
    """A finite number above 0 (or 0 too), below a limit if there is one, as it came; a traced one passes.

    Raises:
        ValueError: It is something else.

    Example:
        >>> positive("circle", "radius", -1.0)
        Traceback (most recent call last):
            ...
        ValueError: circle: radius must be a positive finite number, got -1.0.
    """
    if is_traced(value):
        return value
    number = _number(value, "iuf")
    if number is None or not (0 < number < below or (zero and number == 0)):
        kind = "finite number, at least 0" if zero else "positive finite number"
        limit = "" if below == math.inf else f" below {below:g}"
        raise ValueError(f"{caller}: {name} must be a {kind}{limit}, got {value!r}.")
    return value


def number(caller: str, name: str, value: Any) -> float:
    """A finite number as a Python float.

    Raises:
        ValueError: It is something else.
    """
    entry = _number(value, "iuf")
    if entry is None or not math.isfinite(entry):
        raise ValueError(f"{caller}: {name} must be a finite number, got {value!r}.")
    return float(entry)


def numbers(caller: str, name: str, values: Any, count: int) -> tuple[float, ...]:
    """So many finite numbers, as Python floats.

    Raises:
        ValueError: They are something else.

    Example:
        >>> numbers("two_moons", "offset", (1.0, float("inf")), 2)
        Traceback (most recent call last):
            ...
        ValueError: two_moons: offset must be 2 finite numbers, got (1.0, inf).
    """
    try:
        entries = tuple(_number(value, "iuf") for value in values)
    except TypeError:
        entries = ()
    if len(entries) != count or any(entry is None or not math.isfinite(entry) for entry in entries):
        raise ValueError(f"{caller}: {name} must be {count} finite numbers, got {values!r}.")
    return tuple(map(float, entries))


def instance(caller: str, name: str, value: Any, kind: type, remedy: str = "") -> None:
    """Refuse a value of another type.

    Raises:
        ValueError: It is no instance of ``kind``; the message ends with how to mend it.
    """
    if not isinstance(value, kind):
        hint = f": {remedy}" if remedy else ""
        raise ValueError(f"{caller}: {name} must be a {kind.__name__}, got {type(value).__name__}{hint}.")


def optional(check: Callable[..., Any], caller: str, name: str, value: Any, *limits: Any) -> Any:
    """What a check of this file returns, or None for None: the default is chosen elsewhere.

    Raises:
        ValueError: As ``check``.
    """
    return None if value is None else check(caller, name, value, *limits)


def choice(caller: str, name: str, value: Any, known: Iterable[Any]) -> Any:
    """One of the known values, as it came.

    Raises:
        ValueError: It is another one.

    Example:
        >>> choice("measure", "accuracy", 3, (2, 4))
        Traceback (most recent call last):
            ...
        ValueError: measure: accuracy must be one of 2, 4, got 3.
    """
    options = list(known)
    if not any(type(value) is type(option) and value == option for option in options):
        listed = ", ".join(map(repr, options))
        raise ValueError(f"{caller}: {name} must be one of {listed}, got {value!r}.")
    return value


def keys(caller: str, name: str, given: Collection[Any] | None, known: Collection[Any]) -> None:
    """Refuse keys that nothing would be done with.

    Raises:
        ValueError: A key of ``given`` is not among ``known``.
    """
    for key in given or ():
        if key not in known:
            listed = ", ".join(map(repr, known)) or "nothing"
            raise ValueError(f"{caller}: {name} may hold {listed}, got {key!r}.")


# --- arrays ------------------------------------------------------------------------------------------------


def floating(caller: str, name: str, values: Any, least_ndim: int = 2) -> Array:
    """A floating-point array that is not empty; by default points ``(n, *features)``.

    Raises:
        ValueError: It is something else.
    """
    array = jnp.asarray(values)
    if array.ndim < least_ndim or array.size == 0 or not jnp.issubdtype(array.dtype, jnp.floating):
        shape = " of shape (n, *features)" if least_ndim == 2 else ""
        raise ValueError(
            f"{caller}: {name} must be a floating-point array{shape} that is not empty, got {array.dtype} of "
            f"shape {array.shape}."
        )
    return array


def reals(caller: str, name: str, values: Any, least: float = -math.inf, below: float = math.inf) -> Array:
    """A floating-point array of any shape, its values finite and within limits; traced ones pass.

    A Python number stays weakly typed: its type follows the arrays that it meets.

    Args:
        caller: Function that was called.
        name: Its argument.
        values: Numbers; whole ones become floating-point.
        least: Least value; 0 itself is refused.
        below: Values are below this.

    Raises:
        ValueError: A value is something else.

    Example:
        >>> reals("rate", "n", [3, 1], 2)
        Traceback (most recent call last):
            ...
        ValueError: rate: n must be finite and at least 2, got 1 at index (1,).
    """
    array = jnp.asarray(float(values) if isinstance(values, int | float) else values)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(float)
    if is_traced(array):
        return array
    given = np.asarray(array)
    enough = given > 0 if least == 0 else given >= least
    bad = np.argwhere(~(np.isfinite(given) & enough & (given < below)))
    if len(bad):
        place = tuple(bad[0].tolist())
        kind = "positive" if least == 0 else f"at least {least:g}"
        limit = "finite and " + kind if below == math.inf else f"{kind} and below {below:g}"
        where = f" at index {place}" if place else ""
        raise ValueError(f"{caller}: {name} must be {limit}, got {given[place]:g}{where}.")
    return array


def finite(caller: str, name: str, points: Any, axes: int = 1) -> None:
    """Refuse points with NaN or infinite values, unless they are traced.

    Args:
        caller: Function that was called.
        name: Its argument.
        points: ``(*shape, *features)``, ``shape`` of ``axes`` axes.
        axes: Number of axes that tell points apart.

    Raises:
        ValueError: Some point is not finite; the message counts them and gives the first index.
    """
    if is_traced(points):
        return
    array = points if isinstance(points, np.ndarray) else jnp.asarray(points)
    features = tuple(range(axes, array.ndim))
    good = np.asarray((np if isinstance(array, np.ndarray) else jnp).isfinite(array).all(axis=features))
    if not good.all():
        bad = np.argwhere(~good)
        first = ", ".join(str(int(k)) for k in bad[0])
        raise ValueError(
            f"{caller}: {name} must be finite, got NaN or infinite values at {len(bad)} of {good.size} "
            f"points, first at index ({first}): remove or repair them."
        )


def flat(points: Array) -> Float[Array, "n f"]:
    """``(n, *features)`` to ``(n, f)``."""
    return points.reshape(points.shape[0], -1)


def flat_points(caller: str, points: Any, dimension: Any) -> Float[Array, "n f"]:
    """Finite points with flat features, and a dimension below their number of features.

    Raises:
        ValueError: Points or dimension are something else.
    """
    cloud = flat(floating(caller, "points", points))
    below(caller, dimension, cloud)
    finite(caller, "points", cloud)
    return cloud


def below(caller: str, dimension: Any, rows: Array) -> int:
    """A dimension of a manifold, below the number of features of its points ``(n, f)``.

    Raises:
        ValueError: It is something else.
    """
    number, features = whole(caller, "dimension", dimension), rows.shape[1]
    if number >= features:
        raise ValueError(
            f"{caller}: dimension must be below the {features} feature(s) of a point, got {dimension}."
        )
    return number


def query_rows(caller: str, points: Any, features: tuple[int, ...]) -> tuple[Array, tuple[int, ...]]:
    """Rows ``(q, f)`` of points ``(*batch, *features)`` or ``(q, f)``, and the batch shape they had.

    Raises:
        ValueError: The points have another shape or dtype.
    """
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


# --- packages ----------------------------------------------------------------------------------------------


def require(module: str, extra: str, purpose: str = "this") -> Any:
    """Import a package that only an extra installs.

    Args:
        module: Name to import.
        extra: Extra of this package that installs it.
        purpose: What needs it, the subject of the message.

    Returns:
        The module.

    Raises:
        ImportError: It is not installed; the message holds the pip command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f'{purpose} needs {package}: pip install "manifold_jax[{extra}]".') from error
