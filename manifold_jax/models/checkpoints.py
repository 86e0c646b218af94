"""Checkpoints of a training, in Orbax's format: one folder a step, parameters apart from the rest."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

Folder = str | os.PathLike[str]

_PARAMS, _REST = "params", "rest"


@contextmanager
def _quiet() -> Iterator[None]:
    """Orbax warns of what does not concern arrays on one host."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _place(folder: Folder, step: int) -> str:
    """Where a checkpoint is, absolute as Orbax wants it."""
    return os.path.abspath(os.path.join(folder, str(int(step))))


def _is_complete(folder: Folder, step: int) -> bool:
    """Whether Orbax finished it: it gives a folder its name when all is written."""
    return os.path.isfile(os.path.join(_place(folder, step), "_CHECKPOINT_METADATA"))


def save_checkpoint(folder: Folder, step: int, params: Any, rest: Any = None) -> Path:
    """Write ``folder/<step>``, aside first, then moved into place.

    Args:
        folder: Folder of the run.
        step: Number of steps made.
        params: Pytree of arrays.
        rest: Another pytree of arrays, what a run needs to go on.

    Returns:
        The folder of the checkpoint; one that is there already is replaced.

    Example:
        >>> import tempfile
        >>> from manifold_jax.models import checkpoint_steps, load_params, save_checkpoint
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     saved = save_checkpoint(folder, 10, {"w": jnp.ones(3)})
        ...     checkpoint_steps(folder), load_params(folder, {"w": jnp.zeros(3)}, 10)
        ([10], {'w': array([1., 1., 1.], dtype=float32)})
    """
    from orbax.checkpoint import v1 as ocp

    place = _place(folder, step)
    parts = {_PARAMS: params, _REST: {"rest": rest}}
    with _quiet():
        ocp.save_checkpointables(place, jax.tree.map(np.asarray, parts), overwrite=True)
    return Path(place)


def checkpoint_steps(folder: Folder) -> list[int]:
    """Steps whose checkpoints are complete, ascending.

    Args:
        folder: Folder of the run; may be missing.

    Returns:
        Step numbers.

    Example:
        >>> from manifold_jax.models import checkpoint_steps
        >>> checkpoint_steps("no-such-folder")
        []
    """
    if not os.path.isdir(folder):
        return []
    numbered = [int(name) for name in os.listdir(folder) if name.isdigit()]
    return sorted(step for step in numbered if _is_complete(folder, step))


def _shapes(tree: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name of every leaf to its shape and dtype."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (tuple(leaf.shape), str(leaf.dtype))
        for path, leaf in leaves
    }


def _load(folder: Folder, step: int, name: str, like: Any) -> Any:
    """One part of a checkpoint, refused by name unless it has the structure of ``like``."""
    from orbax.checkpoint import v1 as ocp

    place = _place(folder, step)
    if not _is_complete(folder, step):
        there = ", ".join(map(str, checkpoint_steps(folder))) or "none"
        raise FileNotFoundError(f"no checkpoint of step {step} in {folder}, there are: {there}.")
    with _quiet():
        metadata = ocp.checkpointables_metadata(place).metadata
        if name not in metadata:
            raise ValueError(f"{place} was not written by manifold_jax: it holds no {name}.")
        if metadata[name] is None:  # what Orbax makes of files that it cannot read
            raise ValueError(_damaged(place))
        stored, wanted = _shapes(metadata[name]), _shapes(like)
        for leaf in sorted(stored.keys() | wanted.keys()):
            if stored.get(leaf) != wanted.get(leaf):
                has, wants = (
                    "no such array" if kind is None else f"{kind[1]} of shape {kind[0]}"
                    for kind in (stored.get(leaf), wanted.get(leaf))
                )
                raise ValueError(
                    f"the checkpoint {place} is of another architecture: at {leaf} it has {has}, the network "
                    f"has {wants}; choose another folder, or build the network that was trained."
                )
        abstract = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
        try:
            return ocp.load(place, abstract, checkpointable_name=name)
        except (ValueError, OSError) as error:
            raise ValueError(_damaged(place)) from error


def _damaged(place: str) -> str:
    return (
        f"the checkpoint {place} is damaged, its arrays cannot be read: delete this folder, and the training "
        "goes on from the checkpoint before it."
    )


def load_params(folder: Folder, like: Any, step: int | None = None) -> Any:
    """Parameters of one checkpoint.

    Args:
        folder: Folder of the run.
        like: Parameters of the same architecture, or their ``jax.eval_shape``.
        step: The step of the checkpoint; by default the last.

    Returns:
        A pytree like ``like``, of NumPy arrays.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It is of another architecture, or damaged.

    Example:
        >>> import tempfile
        >>> from manifold_jax.models import load_params, save_checkpoint
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     place = save_checkpoint(folder, 10, {"w": jnp.ones(3)})
        ...     print(load_params(folder, {"w": jnp.zeros(3)})["w"])
        [1. 1. 1.]
    """
    return _load(folder, last_step(folder) if step is None else step, _PARAMS, like)


def load_rest(folder: Folder, like: Any, step: int) -> Any:
    """What was saved next to the parameters."""
    return _load(folder, step, _REST, {"rest": like})["rest"]


def last_step(folder: Folder) -> int:
    """The last complete checkpoint."""
    steps = checkpoint_steps(folder)
    if not steps:
        raise FileNotFoundError(f"{folder} holds no checkpoint: train the network first.")
    return steps[-1]
