"""What ``manifold-jax measure`` can measure, built from its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax

from manifold_jax import datasets
from manifold_jax.geometry import Manifold

SURFACES = (
    "circle",
    "ellipse",
    "ellipsoid",
    "flat_torus",
    "helix",
    "hyperboloid",
    "parallel_circles",
    "sphere",
    "swiss_roll",
    "torus",
    "two_moons",
    "veronese",
)
"""Constructors of manifolds with closed forms, by name."""

NAMES = ("sprites", "coil20", *SURFACES)

_ALLOWED = {
    "sprites": {"shape", "layout", "axes", "size", "blur", "samples", "ranges", "fixed"},
    "coil20": {"object", "data", "layout", "axes", "size", "blur", "samples", "ranges", "fixed"},
}


@dataclass(frozen=True)
class Choice:
    """Options that say what to measure; None or empty where they were not given.

    Attributes:
        name: ``"sprites"``, ``"coil20"`` or one of :data:`SURFACES`.
        shape: Shape of the sprite.
        layout: Name of a lattice.
        axes: Factors that vary.
        size: Pixels per side.
        blur: Blur in pixels.
        samples: Samples by axis.
        ranges: (start, stop) by axis.
        fixed: Values of factors that do not vary.
        object: COIL-20 object.
        data: Where COIL-20 is.
    """

    name: str
    shape: str | None = None
    layout: str | None = None
    axes: tuple[str, ...] = ()
    size: int | None = None
    blur: float | None = None
    samples: Mapping[str, int] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    fixed: Mapping[str, float] = field(default_factory=dict)
    object: int | None = None
    data: Path | None = None

    @property
    def given(self) -> dict[str, Any]:
        """Options that were given, by name."""
        return {key: value for key, value in vars(self).items() if value not in (None, (), {})}

    @property
    def folder(self) -> str:
        """Name of the default output folder."""
        detail = {"sprites": self.shape or "ellipse", "coil20": f"object{self.object or 1}"}.get(self.name)
        return f"measure-{self.name}" + (f"-{detail}" if detail else "")


def parse_pairs(text: str | None, option: str, convert: Callable[[str], Any]) -> dict[str, Any]:
    """Read ``name=value,name=value``.

    Args:
        text: What was given; None for nothing.
        option: Name of the option, for messages.
        convert: Reads one value.

    Returns:
        Values by name.

    Raises:
        ValueError: The text is not of this form, a value cannot be read, or a name comes twice.

    Example:
        >>> parse_pairs("scale=9,orientation=32", "--samples", int)
        {'scale': 9, 'orientation': 32}
    """
    pairs: dict[str, Any] = {}
    for part in filter(None, (text or "").split(",")):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not name or not equals:
            raise ValueError(f"{option} takes name=value,name=value, got {part!r}.")
        if name in pairs:
            raise ValueError(f"{option} names {name!r} twice.")
        try:
            pairs[name] = convert(value)
        except ValueError:
            raise ValueError(f"{option}: cannot read the value {value!r} of {name!r}.") from None
    return pairs


def parse_range(text: str) -> tuple[float, float]:
    """Read ``start:stop``."""
    start, _, stop = text.partition(":")
    return float(start), float(stop)


def build(choice: Choice) -> tuple[Manifold, ...]:
    """The components to measure, one for everything but unions.

    Args:
        choice: The options.

    Returns:
        The manifolds. Their embeddings are named after the options, so that an interrupted measurement is
        recognised in another process.

    Raises:
        ValueError: A name is unknown, an option does not belong to the data set, or it refuses a value.
        FileNotFoundError: COIL-20 is not where it should be.
    """
    if choice.name not in NAMES:
        raise ValueError(f"there is no data set {choice.name!r}: choose from {', '.join(NAMES)}.")
    allowed = _ALLOWED.get(choice.name, {"samples"})
    for key in choice.given:
        if key not in allowed and key != "name":
            option = {"ranges": "range"}.get(key, key)
            others = sorted({"ranges": "range"}.get(other, other) for other in allowed)
            raise ValueError(
                f"--{option} does not apply to {choice.name}, which takes --{', --'.join(others)}."
            )
    made = {"sprites": _sprite, "coil20": _coil20}.get(choice.name, _surface)(choice)
    parts = made if isinstance(made, tuple) else (made,)
    return tuple(_named(part, f"{choice.given}, component {k}") for k, part in enumerate(parts))


def _options(choice: Choice) -> dict[str, Any]:
    """Arguments that both image data sets share."""
    given = {"layout": choice.layout, "factors": choice.axes, "size": choice.size, "blur": choice.blur}
    given |= {"sizes": choice.samples, "ranges": choice.ranges, "fixed": choice.fixed}
    return {key: value for key, value in given.items() if value not in (None, (), {})}


def _sprite(choice: Choice) -> Manifold:
    if choice.shape not in (None, "ellipse", "square", "heart"):
        raise ValueError(f"--shape must be ellipse, square or heart, got {choice.shape!r}.")
    return datasets.sprite(choice.shape or "ellipse", **_options(choice))


def _coil20(choice: Choice) -> Manifold:
    from manifold_jax.datasets.coil20 import coil20

    return coil20(choice.data, 1 if choice.object is None else choice.object, **_options(choice))


def _surface(choice: Choice) -> Manifold | tuple[Manifold, ...]:
    construct: Callable[..., Any] = getattr(datasets, choice.name)
    natural = construct()
    if not choice.samples:
        return natural
    axes = (natural[0] if isinstance(natural, tuple) else natural).grid.axes
    names = tuple(axis.name for axis in axes)
    for name in choice.samples:
        if name not in names:
            raise ValueError(f"--samples names the axis {name!r}; the axes of {choice.name} are {names}.")
    sizes = [choice.samples.get(axis.name, axis.size) for axis in axes]
    return construct(size=tuple(sizes) if len(sizes) > 1 else sizes[0])


@dataclass(frozen=True, repr=False)
class _Named:
    """A function whose ``repr`` is the same in every process."""

    function: Callable[..., jax.Array]
    name: str

    def __call__(self, *arguments: Any, **options: Any) -> jax.Array:
        return self.function(*arguments, **options)

    def __repr__(self) -> str:
        return self.name


def _named(manifold: Manifold, name: str) -> Manifold:
    embedding = manifold.embedding
    if isinstance(embedding, jax.tree_util.Partial):
        named = jax.tree_util.Partial(_Named(embedding.func, name), *embedding.args, **embedding.keywords)
        return replace(manifold, embedding=named)
    return replace(manifold, embedding=_Named(embedding, name))
