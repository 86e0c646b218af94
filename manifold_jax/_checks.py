"""Checks of arguments, made before anything expensive starts: one sentence that names the argument.

Every check raises a ValueError, ``caller: name must be ..., got ...``, with how to mend it where that is not
plain. Numbers of NumPy and JAX count as numbers. Values that are being traced cannot be looked at: as points
or positive numbers they pass, as whole or Python numbers they are refused.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax._sharding import gathered

Held = TypeVar("Held", Array, np.ndarray)
"""An array where it is held: by JAX or by NumPy."""


LARGEST = 2**63 - 1  # whole numbers beyond have no type in JAX


def is_traced(*trees: Any) -> bool:
    """Whether any leaf is a tracer, so that its values cannot be looked at."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def shown(value: Any) -> str:
    """A value as a message gives it: arrays by type and shape, everything else in a line of 80 characters."""
    if getattr(value, "ndim", 0) and hasattr(value, "dtype"):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _number(value: Any, kinds: str) -> Any:
    """The value as a Python number, or None if it is not a number of these NumPy kinds."""
    if value is None or isinstance(value, bool | str | bytes) or is_traced(value):
        return None
    if isinstance(value, int):
        return value if abs(value) < 2**1000 else None
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        return None
    return array.item() if array.ndim == 0 and array.dtype.kind in kinds else None


def whole(caller: str, name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """A whole number between ``least`` and ``most``, as a Python int."""
    entry = _number(value, "iu")
    if entry is None or not least <= entry <= (LARGEST if most is None else most):
        limits = f"at least {least}" if most is None else f"from {least} to {most}"
        limits += f" and at most {LARGEST}" if most is None and entry is not None and entry > LARGEST else ""
        raise ValueError(f"{caller}: {name} must be a whole number, {limits}, got {shown(value)}.")
    return entry


def positive(caller: str, name: str, value: Any, *, zero: bool = False, below: float = math.inf) -> Any:
    """A finite number above 0 (or 0 too), below a limit if there is one, as a Python number unless traced.

    Programs that meet a number of NumPy are compiled anew, for it has a type of its own.
    """
    if is_traced(value):
        return value
    entry = _number(value, "iuf")
    if entry is None or not (0 < entry < below or (zero and entry == 0)):
        kind = "finite number, at least 0" if zero else "positive finite number"
        limit = "" if below == math.inf else f" below {below:g}"
        raise ValueError(f"{caller}: {name} must be a {kind}{limit}, got {shown(value)}.")
    return entry


def number(caller: str, name: str, value: Any) -> float:
    """A finite number as a Python float."""
    entry = _number(value, "iuf")
    if entry is None or not math.isfinite(entry):
        raise ValueError(f"{caller}: {name} must be a finite number, got {shown(value)}.")
    return float(entry)


def flag(caller: str, name: str, value: Any) -> bool:
    """True or False as a Python bool, from one of Python, NumPy or JAX."""
    scalar = isinstance(value, bool | np.bool_ | np.ndarray | jax.Array) and not is_traced(value)
    if not scalar or np.ndim(value) or np.asarray(value).dtype != bool:
        raise ValueError(f"{caller}: {name} must be True or False, got {shown(value)}.")
    return bool(value)


def numbers(caller: str, name: str, values: Any, count: int) -> tuple[float, ...]:
    """So many finite numbers, as Python floats."""
    entries = tuple(_number(value, "iuf") for value in values) if listed(values) else ()
    if len(entries) != count or not all(entry is not None and math.isfinite(entry) for entry in entries):
        raise ValueError(f"{caller}: {name} must be {count} finite numbers, got {shown(values)}.")
    return tuple(map(float, entries))


def listed(values: Any) -> bool:
    """Whether something is a list, a tuple or an array with an axis."""
    return isinstance(values, list | tuple) or (hasattr(values, "dtype") and np.ndim(values) > 0)


def interval(caller: str, name: str, values: Any) -> tuple[float, float]:
    """Two finite numbers, low < high, as Python floats."""
    ends = [_number(end, "iuf") for end in values] if listed(values) else []
    if len(ends) != 2 or None in ends or not -math.inf < ends[0] < ends[1] < math.inf:
        wanted = "a pair of finite numbers (low, high) with low < high"
        raise ValueError(f"{caller}: {name} must be {wanted}, got {shown(values)}.")
    return float(ends[0]), float(ends[1])


def text(caller: str, name: str, value: Any) -> str:
    """Text, as a Python string."""
    if not isinstance(value, str):
        raise ValueError(f"{caller}: {name} must be text, got {shown(value)}.")
    return str(value)


def checked_function(caller: str, name: str, value: Any, of: str = "") -> Any:
    """A function, or what can be called like one, as it came."""
    if not callable(value):
        kind = f"a function of {of}" if of else "a function"
        raise ValueError(f"{caller}: {name} must be {kind}, got {shown(value)}.")
    return value


def random_key(caller: str, name: str, value: Any) -> Any:
    """One random key of JAX, as it came."""
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ()
    if not typed and not (dtype == jnp.uint32 and shape == (2,)):
        raise ValueError(f"{caller}: {name} must be one random key, jax.random.key(0), got {shown(value)}.")
    return value


def instance(caller: str, name: str, value: Any, kind: type, remedy: str = "") -> None:
    """Refuse a value of another type; the message ends with how to mend it."""
    if not isinstance(value, kind):
        hint = f": {remedy}" if remedy else ""
        article = "an" if kind.__name__[0] in "AEIO" else "a"
        got = type(value).__name__
        raise ValueError(f"{caller}: {name} must be {article} {kind.__name__}, got {got}{hint}.")


def optional(check: Callable[..., Any], caller: str, name: str, value: Any, *limits: Any) -> Any:
    """What a check of this file returns, or None for None: the default is chosen elsewhere."""
    return None if value is None else check(caller, name, value, *limits)


def choice(caller: str, name: str, value: Any, known: Iterable[Any]) -> Any:
    """The one of the known words or numbers that a value is; True is not 1 here."""
    options = list(known)
    entry = str(value) if isinstance(value, str) else _number(value, "iuf")
    for option in options:
        if option is value or (entry is not None and type(entry) is type(option) and entry == option):
            return option
    listed = ", ".join(map(repr, options))
    raise ValueError(f"{caller}: {name} must be one of {listed}, got {shown(value)}.")


def keys(caller: str, name: str, given: Collection[Any] | None, known: Collection[Any]) -> None:
    """Refuse keys that nothing would be done with, and what has no keys."""
    if isinstance(given, str) or not isinstance(given, Collection | None):
        raise ValueError(f"{caller}: {name} must be a dictionary, got {shown(given)}.")
    for key in given or ():
        if key not in known:
            listed = ", ".join(map(repr, known)) or "nothing"
            raise ValueError(f"{caller}: {name} may hold {listed}, got {shown(key)}.")


def real(caller: str, name: str, values: Any, library: Any = jnp) -> Any:
    """Real numbers as an array of JAX, or of NumPy, which keeps float64."""
    try:
        # jnp.asarray compiles a program for every shape of NumPy's arrays, to copy them.
        ours = library is jnp and type(values) is np.ndarray
        array = jax.device_put(values, may_alias=False) if ours else library.asarray(values)
    except (TypeError, ValueError, OverflowError):
        array = None
    kinds = (jnp.integer, jnp.floating)
    if values is None or array is None or not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
        got = shown(values) if array is None else shown(array)
        raise ValueError(f"{caller}: {name} must be an array of real numbers, got {got}.")
    return array


def floating(caller: str, name: str, values: Any, least_ndim: int = 2) -> Array:
    """A floating-point array, at least float32, not empty; by default points ``(n, *features)``."""
    array = real(caller, name, values)
    if array.ndim < least_ndim or array.size == 0 or not jnp.issubdtype(array.dtype, jnp.floating):
        shape = " of shape (n, *features)" if least_ndim == 2 else ""
        wanted = f"a floating-point array{shape} that is not empty"
        raise ValueError(f"{caller}: {name} must be {wanted}, got {array.dtype} of shape {array.shape}.")
    return single(array)


def single(x: Any) -> Any:
    """An array in at least float32: 16-bit numbers are for storing, differences of them hold no digits."""
    short = jnp.issubdtype(x.dtype, jnp.floating) and jnp.finfo(x.dtype).bits < 32
    return x.astype(jnp.float32) if short else x


def finite(caller: str, name: str, points: Any, axes: int = 1, remedy: str = "remove or repair them") -> None:
    """Refuse points with NaN or infinite values; the first ``axes`` axes tell points apart."""
    if is_traced(points):
        return
    array = points if isinstance(points, np.ndarray) else jnp.asarray(points)
    pieces = isinstance(array, jax.Array) and len(array.devices()) > 1  # which stay where they are
    if pieces and bool(jnp.isfinite(array).all()):
        return
    if (
        isinstance(array, jax.Array)
        and not pieces
        and all(device.platform == "cpu" for device in array.devices())
    ):
        array = np.asarray(array)  # without a copy, and without a program for every shape
    features = tuple(range(axes, array.ndim))
    good = (np if isinstance(array, np.ndarray) else jnp).isfinite(array).all(axis=features)
    good = gathered(jnp.asarray(good)) if pieces else np.asarray(good)
    if not good.all():
        bad = np.argwhere(~good)
        where = f"at {len(bad)} of {good.size} points, first at index ({', '.join(map(str, bad[0]))})"
        raise ValueError(f"{caller}: {name} must be finite, got NaN or infinite values {where}: {remedy}.")


def real_type(caller: str, name: str, value: Any) -> Any:
    """A floating-point type; that of JAX for None."""
    try:
        kind = jnp.result_type(float) if value is None else np.dtype(value)
    except TypeError:
        kind = None
    if kind is None or not jnp.issubdtype(kind, jnp.floating):
        raise ValueError(f"{caller}: {name} must be a floating-point type, got {shown(value)}.")
    return kind


def flat(points: Held) -> Held:
    """``(n, *features)`` to ``(n, f)``."""
    return points.reshape(points.shape[0], -1)


def below(caller: str, dimension: Any, rows: Array) -> int:
    """A dimension of a manifold, below the number of features of its points ``(n, f)``."""
    entry, features = whole(caller, "dimension", dimension), rows.shape[1]
    if entry >= features:
        limit = f"below the {features} feature(s) of a point"
        raise ValueError(f"{caller}: dimension must be {limit}, got {shown(dimension)}.")
    return entry


def flat_points(caller: str, points: Any, dimension: Any) -> Float[Array, "n f"]:
    """Finite points with flat features, more of them than the dimension of the manifold."""
    cloud = flat(floating(caller, "points", points))
    below(caller, dimension, cloud)
    finite(caller, "points", cloud)
    return cloud


def query_rows(caller: str, points: Any, features: tuple[int, ...]) -> tuple[Array, tuple[int, ...]]:
    """Rows ``(q, f)`` of points ``(*batch, *features)`` or ``(q, f)``, and the batch shape they had."""
    points = floating(caller, "points", points, 0)
    size, count = math.prod(features), len(features)
    if points.ndim >= count and points.shape[points.ndim - count :] == features:
        return points.reshape(-1, size), points.shape[: points.ndim - count]
    if points.ndim == 2 and points.shape[1] == size:
        return points, points.shape[:1]
    wanted = f"(*batch, {', '.join(map(str, features))})"
    raise ValueError(f"{caller}: points must have shape {wanted} as the samples have, got {points.shape}.")


def memory_left() -> float:
    """Bytes that the machine, or the limit of this process, has left; infinite where that is not known."""
    limits = {math.inf}
    with contextlib.suppress(OSError, ValueError, StopIteration):  # elsewhere than on Linux
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        limits.add(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    with contextlib.suppress(OSError, ValueError):
        limits.add(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return min(limits)


def fits_in_memory(caller: str, what: str, size: float, remedy: str = "take fewer") -> None:
    """Refuse what takes more bytes than are left."""
    left = memory_left()
    if size > left:
        need, have = (f"{number / 2**30:.3g} GB" for number in (size, left))
        raise ValueError(f"{caller}: {what} take {need} of memory, and {have} are left: {remedy}.")


def require(module: str, extra: str, purpose: str = "this") -> Any:
    """Import a package that only an extra installs; an ImportError says what needs it and the pip command."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f'{purpose} needs {package}: pip install "manifold_jax[{extra}]".') from error
