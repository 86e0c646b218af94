"""What ``manifold-jax measure`` can measure, built from its options."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from manifold_jax import datasets
from manifold_jax._checks import fits_in_memory
from manifold_jax._files import user_path
from manifold_jax._keys import fingerprint
from manifold_jax.datasets.coil20 import COIL20, COIL100
from manifold_jax.datasets.outlines import SHAPES
from manifold_jax.experiments.experiment import plain
from manifold_jax.experiments.measure.files import Samples, is_address
from manifold_jax.experiments.terminal import meant
from manifold_jax.fitting.nearest_points import components
from manifold_jax.geometry import Manifold
from manifold_jax.geometry.grid import Accuracy

_CURVES = ("circle", "ellipse", "helix", "parallel_circles", "two_moons")
_OTHERS = ("ellipsoid", "flat_torus", "hyperboloid", "sphere", "swiss_roll", "torus", "veronese")
SURFACES = tuple(sorted(_CURVES + _OTHERS))
"""Constructors of manifolds with closed forms, by name."""

POINT_COPIES = 3  # of all points, that the search for the reach holds

_IMAGES = ("layout", "axes", "size", "blur", "samples", "range", "fixed")
OPTIONS = {"sprites": ("shape", *_IMAGES), "dsprites": ("shape", "data", "axes", "fixed")}
COIL = {"coil20": COIL20.objects, "coil100": COIL100.objects}
OPTIONS |= dict.fromkeys(COIL, ("object", "data", *_IMAGES))
OPTIONS |= dict.fromkeys(SURFACES, ("samples",))
"""Options of the command line that each data set takes."""

_ARGUMENTS = {"axes": "factors", "samples": "sizes", "range": "ranges", "object": "object_id", "data": "path"}
"""What the constructors call these options, where they have another name for them."""


def parse_pairs(
    given: Sequence[str] | None, option: str, convert: Callable[[str], Any]
) -> dict[str, Any] | None:
    """Read ``name=value,name=value``, of an option that may be repeated; None where it was not given.

    Example:
        >>> parse_pairs(["scale=9,orientation=32", "x=3"], "--samples", int)
        {'scale': 9, 'orientation': 32, 'x': 3}
    """
    if given is None:
        return None
    pairs: dict[str, Any] = {}
    for part in filter(None, ",".join(given).split(",")):
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


def parse_object(text: str | None) -> int | str | None:
    """Read the number of an object, or ``all``."""
    if text is None or text == "all":
        return text
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"--object must be the number of an object, or all, got {text!r}.") from None


def parse_range(text: str) -> tuple[float, float]:
    """Read ``start:stop``."""
    start, _, stop = text.partition(":")
    return float(start), float(stop)


def parse_accuracy(text: str) -> Accuracy | tuple[Accuracy, ...]:
    """Read an order, or several with commas between."""
    orders = tuple(int(word) if word.isdigit() else word for word in map(str.strip, text.split(",")))
    return orders[0] if len(orders) == 1 else orders


def check_animation(manifolds: Sequence[Manifold | Samples], animate: bool, plots: bool) -> None:
    """Refuse to move what cannot be rendered between its samples, or is no image."""
    if not animate:
        return
    if not plots:
        raise ValueError("--animate draws pictures: leave out --no-plots.")
    for manifold in manifolds:
        if isinstance(manifold, Samples) or len(manifold.feature_shape) not in (2, 3):
            wanted = "images that can be rendered anywhere, such as sprites"
            raise ValueError(f"--animate needs {wanted}, and {manifold.name} has none: leave it out.")


def default_folder(name: str, options: Mapping[str, Any]) -> str:
    """Name of the folder of the results where none is given."""
    shape, number = options.get("shape"), f"object{options.get('object', 1)}"
    detail = {"sprites": shape or "ellipse", "dsprites": shape or "heart"} | dict.fromkeys(COIL, number)
    stem = name if name in OPTIONS else Path(name).resolve().stem
    return f"measure-{name}-{detail[name]}" if name in detail else f"measure-{stem}"


def decide_on_reach(manifolds: Sequence[Manifold | Samples], wanted: bool | None) -> tuple[bool, str]:
    """Whether the reach is searched, which needs all points in memory, and a note if it is left out."""
    size = sum(
        POINT_COPIES * jax.numpy.dtype(float).itemsize * math.prod(manifold.points.shape)
        for manifold in manifolds
        if isinstance(manifold, Samples)
    )
    if wanted is False:
        return False, ""
    try:
        fits_in_memory("reach", "all points together", size, "take fewer samples")
    except ValueError as error:
        if wanted:
            raise ValueError(f"{error} --no-reach leaves it out.") from None
        return False, f"The reach is left out: {str(error).partition(': ')[2]}"
    return True, ""


def key_of(name: str, options: Mapping[str, Any]) -> str:
    """What tells the results of these points from others in the same folder: a data set or file, and axes."""
    source = name if name in OPTIONS or is_address(name) else str(user_path(name).resolve())
    return fingerprint(None, "measure", source, plain(options))


def build(name: str, options: Mapping[str, Any]) -> tuple[Manifold | Samples, ...]:
    """The components to measure, one for everything but unions, from the options that were given.

    Example:
        >>> [part.grid.shape for part in build("two_moons", {"samples": {"angle": 16}})]
        [(16,), (16,)]
    """
    if name not in OPTIONS:
        known = f"{meant(name, OPTIONS)}the data sets are {', '.join(OPTIONS)}"
        raise ValueError(f"there is no data set {name!r}, and no file or folder of that name: {known}.")
    for option in options:
        if option not in OPTIONS[name]:
            known = ", --".join(sorted(OPTIONS[name]))
            raise ValueError(f"--{option} does not apply to {name}, which takes --{known}.")
    arguments = {_ARGUMENTS.get(option, option): value for option, value in options.items()}
    if name == "sprites":
        shapes = _several(arguments, "shape", SHAPES)
        return tuple(datasets.sprite(**arguments | shape) for shape in shapes)
    if name in COIL:
        numbers = _several(arguments, "object_id", range(1, COIL[name] + 1))
        return tuple(getattr(datasets, name)(**arguments | number) for number in numbers)
    if name == "dsprites":
        images, grid, notes = datasets.dsprites(**arguments)
        about = {"length": "distance between images, the root of summed squared differences of pixels (0, 1)"}
        title = f"dsprites {options.get('shape', 'heart')}"
        return (Samples(title, images, grid, about | {"note": " ".join(notes)}),)
    return _surface(name, arguments.get("sizes") or {})


def _several(arguments: Mapping[str, Any], name: str, known: Iterable[Any]) -> list[dict[str, Any]]:
    """What an argument is for every component: all that are known, or the one that is given, if any is."""
    if arguments.get(name) == "all":
        return [{name: value} for value in known]
    return [{name: arguments[name]}] if name in arguments else [{}]


def _surface(name: str, samples: Mapping[str, int]) -> tuple[Manifold, ...]:
    """A manifold with closed forms, with its own numbers of samples but for those that are given."""
    construct = getattr(datasets, name)
    parts = components(name, construct())
    sizes = {axis.name: axis.size for axis in parts[0].grid.axes}
    for axis in samples:
        if axis not in sizes:
            raise ValueError(f"--samples names the axis {axis!r}; the axes of {name} are {tuple(sizes)}.")
    size = tuple((sizes | dict(samples)).values())
    return components(name, construct(size=size[0] if len(size) == 1 else size)) if samples else parts


def with_attributes(manifold: Manifold | Samples, *pairs: tuple[str, str]) -> Manifold | Samples:
    """The same manifold, of which reports record more."""
    attributes = {**manifold.attributes, **dict(pairs)}
    if isinstance(manifold, Samples):
        return manifold._replace(attributes=attributes)
    return replace(manifold, attributes=attributes)


def refuse_for_grids(
    dataset: str, stored: bool, exact: bool | None, noise: float | None, missing: str
) -> None:
    """Raise ValueError for an option of samples or of functions where the other was given."""
    if exact and stored:
        raise ValueError(f"--exact needs a function, and {dataset} holds samples: leave it out.")
    if noise and exact is None and not stored:
        raise ValueError(f"--noise is that of samples, {dataset} is differentiated exactly: add --stencils.")
    if missing != "refuse" and not stored:
        raise ValueError(f"--missing does not apply to {dataset}, which has all points.")


def refuse_for_clouds(options: dict[str, Any]) -> None:
    """Raise ValueError for an option that would do nothing for a cloud."""
    usual = {"accuracy": 4, "stride": 1, "smooth": 0, "block_size": None, "exact": False, "stencils": False}
    usual |= {"missing": "refuse"}
    for name, value in usual.items():
        if options[name] != value:
            raise ValueError(f"--{name.replace('_', '-')} is for points on a grid: leave it out for a cloud.")
