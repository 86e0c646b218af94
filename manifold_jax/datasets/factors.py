"""Factors of families of images: which vary, over which axes, and the values of the others."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from manifold_jax import _checks
from manifold_jax.geometry.grid import Axis

POSITIVE = ("scale", "aspect", "blur", "contrast", "zoom")  # factors without a meaning at and below 0


def chosen_factors(caller: str, factors: str | Sequence[str], known: Collection[str]) -> tuple[str, ...]:
    """The factors that vary: at least one, each of them known and named once."""
    if not isinstance(factors, str | list | tuple):
        raise ValueError(f"{caller}: factors must be a sequence of names, got {_checks.shown(factors)}.")
    names = (factors,) if isinstance(factors, str) else tuple(factors)
    for name in names:
        _checks.choice(caller, "a factor", name, known)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"{caller}: factors must be distinct, and at least one of {known}, got {names}.")
    return names


def fixed_values(
    caller: str, fixed: Mapping[str, float] | None, factors: Sequence[str], defaults: Mapping[str, float]
) -> dict[str, float]:
    """Values of the factors that do not vary: finite, and positive where they must be."""
    free = [name for name in defaults if name not in factors]
    _checks.keys(caller, "fixed", fixed, free)
    values = {name: _checks.number(caller, name, (fixed or {}).get(name, defaults[name])) for name in free}
    for name in values.keys() & set(POSITIVE):
        _checks.positive(caller, name, values[name])
    return values


def factor_axes(
    caller: str,
    axes: Iterable[Axis],
    ranges: Mapping[str, tuple[float, float]] | None,
    sizes: Mapping[str, int] | None,
    *,
    turns: bool = False,
) -> tuple[Axis, ...]:
    """The axes of a layout, some with the caller's ranges and sizes; a range opens a periodic axis.

    With ``turns`` an angle stays periodic if its range is one turn, and must not have a longer one.
    """
    named = {axis.name: axis for axis in axes}
    _checks.keys(caller, "ranges", ranges, named)
    _checks.keys(caller, "sizes", sizes, named)
    for name, size in (sizes or {}).items():
        named[name] = replace(named[name], size=size)
    for name, limits in (ranges or {}).items():
        label = f"ranges[{name!r}]"
        start, stop = _checks.numbers(caller, label, limits, 2)
        if name in POSITIVE:
            _checks.positive(caller, f"the start of {label}", start)
        angle = turns and named[name].unit == "rad"
        whole = angle and math.isclose(stop - start, 2 * math.pi, rel_tol=1e-6)
        if angle and not whole and stop - start > 2 * math.pi:
            raise ValueError(f"{caller}: {label} must be at most one turn (2 pi), got {stop - start:g} rad.")
        named[name] = replace(named[name], start=start, stop=stop, periodic=whole, wrap=True)
    return tuple(named.values())
