"""The reference: a page for every room of the package, with every name that a user may import."""

import importlib
import inspect
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from .docstrings import linked
from .files import write_folder
from .typeset import typeset

PACKAGE = "manifold_jax"
IMPORT = re.compile(r"^from ([\w.]+) import (\w+) as \2$", re.MULTILINE)


class Room(NamedTuple):
    """A package with public names, and the page that lists them.

    Attributes:
        module: Package below ``manifold_jax`` that exports them.
        home: Where a user imports them from.
        title: Title of the page.
        about: What it says first.
    """

    module: str
    home: str
    title: str
    about: str


ROOMS = (
    Room("geometry", PACKAGE, "Geometry", "Grids, jets, curvature, reach, and what is measured of them."),
    Room(
        "information",
        PACKAGE,
        "Classifiers",
        "The local data matrix G, the Fisher matrix F, leaves and paths.",
    ),
    Room(
        "datasets",
        f"{PACKAGE}.datasets",
        "Data sets",
        "Manifolds of known geometry, archives of images, samples and noise.",
    ),
    Room(
        "fitting",
        f"{PACKAGE}.fitting",
        "Fits and estimators",
        "Fits of manifolds to samples, estimators and their calibration, rates and bounds.",
    ),
    Room(
        "models",
        f"{PACKAGE}.models",
        "Networks",
        "Networks as pure functions of their parameters, training, checkpoints, weights of PyTorch.",
    ),
    Room(
        "plotting",
        f"{PACKAGE}.plotting",
        "Pictures",
        "Pictures of manifolds and of what was measured. They need the extra `plots`.",
    ),
)

TITLES = {
    "archives": "Archives",
    "cifar10": "CIFAR",
    "coil20": "COIL",
    "compose": "Products and changes of parameters",
    "dsprites": "dSprites",
    "idx": "MNIST and its relatives",
    "jet": "Jets and their Gram",
    "tensors": "The Gram of a jet",
    "layers": "Layers of a network",
    "log_prob": "Checks",
    "measure": "Measuring",
    "quantities": "Estimates",
    "report": "Results of a measurement",
    "suggest": "Choosing a stencil",
    "union": "Unions of classes",
    "union_result": "Results of a union",
    "walker": "Results of a path",
    "local_data": "Local data matrix and Fisher matrix",
    "lengths": "Lengths",
    "tangents": "Tangents of the data and G",
    "calibration": "Calibration",
    "calibration_table": "Tables of a calibration",
    "local_fit": "Local fits",
    "slopes": "Slopes and constants",
    "torch_weights": "Weights of PyTorch",
    "pure": "Networks as pure functions",
}
"""Headings of modules whose name does not say it."""


ORDER = (
    "measure", "grid", "manifold", "report", "quantities", "verdict", "suggest", "reach", "union", "union_result",
    "layers", "curvature", "normal_curvature", "jet", "tensors",
    "local_data", "foliation", "paths", "walker", "lengths", "tangents", "log_prob",
    "sprites", "turntable", "curves", "surfaces", "quadrics", "compose", "sampling", "noise",
    "calibration", "estimators", "calibration_table", "projections", "moving_least_squares",
)  # fmt: skip
"""Modules in the order in which a page has them; others come after these, as they are imported."""


class Name(NamedTuple):
    """One public name: where it is imported from, the module that defines it, and what it is."""

    path: str
    module: str
    value: Any

    @property
    def short(self) -> str:
        return self.path.rpartition(".")[2]


def names_of(room: Room) -> Iterator[Name]:
    """Public names of a room, in the order of its modules."""
    package = importlib.import_module(f"{PACKAGE}.{room.module}")
    modules = {name: module for module, name in IMPORT.findall(inspect.getsource(package))}
    for name, value in vars(package).items():
        if not name.startswith("_") and not isinstance(value, ModuleType):
            yield Name(f"{room.home}.{name}", modules[name], value)


@lru_cache
def public_names() -> dict[str, str]:
    """Every public name and its path, ``{"measure": "manifold_jax.measure", ...}``."""
    return {name.short: name.path for room in ROOMS for name in names_of(room)}


def kind(value: Any) -> str:
    """Word of Sphinx for what a name stands for."""
    return "class" if inspect.isclass(value) else "function" if callable(value) else "data"


def members(value: Any) -> list[str]:
    """Methods and properties of a class that its docstring does not list: not the fields of a result."""
    fields = getattr(value, "_fields", ())
    own = {name: member for base in value.__mro__ for name, member in vars(base).items() if _ours(base)}
    return sorted(
        name
        for name, member in own.items()
        if (not name.startswith("_") or name == "__call__") and name not in fields and _documented(member)
    )


def _ours(base: type) -> bool:
    return base.__module__.startswith(PACKAGE)


def _documented(member: Any) -> bool:
    kinds = (property, classmethod, staticmethod)
    return (inspect.isfunction(member) or isinstance(member, kinds)) and bool(member.__doc__)


def entry(name: Name) -> str:
    """The directive that documents one name."""
    word = kind(name.value)
    lines = [f".. auto{word}:: {name.path}"]
    if word == "data":
        lines = [f".. py:data:: {name.short}", "", f"   {_note(name)}"]
    elif word == "class" and members(name.value):
        lines.append(f"   :members: {', '.join(members(name.value))}")
    return "\n".join(lines)


def _note(name: Name) -> str:
    """Text of a name that is no class and no function: the string below its definition."""
    lines = inspect.getsource(importlib.import_module(name.module)).splitlines()
    start = next(k for k, line in enumerate(lines) if re.match(rf"{name.short}\b.* = ", line))
    text = next(line for line in lines[start:] if line.startswith('"""'))
    return typeset(text.strip('"'))


def _heading(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}\n"


def page(room: Room) -> str:
    """Page of a room: its names by module."""
    sections: dict[str, list[Name]] = {}
    for name in names_of(room):
        sections.setdefault(name.module.split(".")[2], []).append(name)
    parts = [
        _heading(room.title, "="),
        f"{room.about} Import them from ``{room.home}``.\n",
        f".. py:currentmodule:: {room.home}\n",
    ]
    for section in sorted(sections, key=_place):
        names = sections[section]
        title = TITLES.get(section, section.replace("_", " ").capitalize())
        parts += [_heading(title, "-"), *(entry(name) + "\n" for name in names)]
    return "\n".join(parts)


def _place(section: str) -> int:
    return ORDER.index(section) if section in ORDER else len(ORDER)


def _row(name: Name) -> str:
    role = {"class": "class", "function": "func", "data": "data"}[kind(name.value)]
    about = _note(name) if role == "data" else _first_sentence(name.value)
    return f"   * - :py:{role}:`~{name.path}`\n     - {about}"


def _first_sentence(value: Any) -> str:
    first = (inspect.getdoc(value) or "").split("\n\n")[0]
    return typeset(linked(" ".join(first.split()), public_names()))


def index() -> str:
    """Page of all rooms: every name with its first sentence."""
    pages = "\n".join(f"   {room.module}" for room in ROOMS)
    parts = [
        _heading("Reference", "="),
        "Every public name. What is under Geometry and Classifiers is in ``manifold_jax`` itself, the rest in its room.\n",
        f".. toctree::\n   :hidden:\n\n{pages}\n",
    ]
    for room in ROOMS:
        names = sorted(names_of(room), key=lambda name: _place(name.module.split(".")[2]))
        rows = "\n".join(map(_row, names))
        parts += [
            _heading(room.title, "-"),
            f":doc:`{room.title} <{room.module}>`, ``{room.home}``: {room.about}\n",
            f".. list-table::\n   :widths: 30 70\n\n{rows}\n",
        ]
    return "\n".join(parts)


def write(folder: Path) -> None:
    """Write all pages of the reference."""
    pages = {f"{room.module}.rst": page(room) for room in ROOMS}
    write_folder(folder, pages | {"index.rst": index()})
