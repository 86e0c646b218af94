"""Measure data manifolds in JAX.

The geometry of manifolds and of classifiers is here by name, next to the rooms ``datasets``, ``fitting``,
``models`` and ``plotting``. All of it is imported when it is first used, so that importing the package costs
no more than importing JAX. In the examples ``mj`` is this package; ``jnp``, ``np``, ``nnx`` (of Flax) and
``math`` are what they are everywhere.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manifold_jax import datasets as datasets
    from manifold_jax import fitting as fitting
    from manifold_jax import models as models
    from manifold_jax import plotting as plotting
    from manifold_jax.geometry import *
    from manifold_jax.information import *

_ROOMS = ("datasets", "fitting", "models", "plotting")
_NAMED = ("geometry", "information")
"""Rooms whose public names are names of the package."""


def _names_of(room: str) -> dict[str, Any]:
    """Public names of a room, without its modules."""
    names = vars(importlib.import_module(f"{__name__}.{room}"))
    return {k: v for k, v in names.items() if not k.startswith("_") and not isinstance(v, ModuleType)}


def _public() -> list[str]:
    """All names that the package has for its users."""
    return sorted({*_ROOMS, *(name for room in _NAMED for name in _names_of(room))})


def __getattr__(name: str) -> Any:
    if name == "__all__":  # what ``from manifold_jax import *`` asks for, and nothing else
        return _public()
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    if not name.startswith("_"):
        for room in _NAMED:
            names = _names_of(room)
            if name in names:
                globals()[name] = names[name]
                return names[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_public()})
