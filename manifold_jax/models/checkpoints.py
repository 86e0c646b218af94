"""Checkpoints of a training, in Orbax's format: one folder for each, parameters apart from the rest."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manifold_jax._checks import optional, whole
from manifold_jax._files import remove, remove_leftovers, replacing, user_path
from manifold_jax._keys import is_whole, seal
from manifold_jax._programs import first_line

Folder = str | os.PathLike[str]


def _place(folder: Folder, step: int) -> str:
    """Where a checkpoint is, absolute as Orbax wants it."""
    return os.path.abspath(user_path(folder, "folder") / str(whole("checkpoint", "step", step, 0)))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax warns of what does not concern arrays on one host, and logs what it raises too."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)


def save_checkpoint(folder: Folder, step: int, params: Any, rest: Any = None) -> Path:
    """Write ``folder/<step>`` aside, then move it into place; a checkpoint that is there is replaced.

    Args:
        folder: Folder of the run.
        step: Number of steps made.
        params: Pytree of arrays.
        rest: Another one, what a run needs to go on.

    Returns:
        The folder of the checkpoint.

    Raises:
        ValueError: Nothing to save, something is not an array of numbers, or the folder cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     saved = mj.models.save_checkpoint(folder, 10, {"w": jnp.ones(3)})
        ...     mj.models.checkpoint_steps(folder), mj.models.load_params(folder, {"w": jnp.zeros(3)}, 10)
        ([10], {'w': array([1., 1., 1.], dtype=float32)})
    """
    from orbax.checkpoint import v1 as ocp

    place = Path(_place(folder, step))
    parts = {"params": params, "rest": {"rest": rest}}
    if not jax.tree.leaves(params):
        raise ValueError("save_checkpoint: params must hold at least one array, got none.")
    for path, leaf in jax.tree_util.tree_leaves_with_path(parts):
        dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
        if not (jnp.issubdtype(dtype, np.number) or dtype == np.dtype(bool)) or not np.size(leaf):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            got = f"{dtype} of shape {np.shape(leaf)}"
            wanted = "an array of numbers that is not empty (of a key, jax.random.key_data)"
            raise ValueError(f"save_checkpoint: {name} must be {wanted}, got {got}.")
    try:
        remove_leftovers(place.parent)
        with replacing(place) as aside, _quiet():
            try:
                ocp.save_checkpointables(str(aside), jax.tree.map(np.asarray, parts))
                seal(aside)
            finally:
                for left in aside.parent.glob(f"{aside.name}.*"):
                    remove(left)
    except Exception as error:
        if str(error).startswith("Cannot write"):
            raise
        reason = re.search(r": ([^:]+) \[os_error_code", str(error))
        reason = reason[1] if reason else first_line(error)
        raise ValueError(f"Cannot write the checkpoint {place}: {reason}.") from error
    return place


def checkpoint_steps(folder: Folder) -> list[int]:
    """Steps whose checkpoints are complete, ascending; none where the folder of the run is missing.

    Example:
        >>> mj.models.checkpoint_steps("no-such-folder")
        []
    """
    # Orbax writes aside, and gives a folder its number when all is written.
    complete = (mark.parent.name for mark in user_path(folder, "folder").glob("*/_CHECKPOINT_METADATA"))
    return sorted(int(name) for name in complete if name.isdigit())


def _kinds(tree: Any) -> dict[str, str]:
    """Name of every leaf to its dtype and shape, in words."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype} of shape {tuple(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _load(folder: Folder, step: int, name: str, like: Any) -> Any:
    """One part of a checkpoint, refused by name unless it has the structure of ``like``."""
    from orbax.checkpoint import v1 as ocp

    steps = checkpoint_steps(folder)
    if step not in steps:
        there = ", ".join(map(str, steps)) or "none"
        raise FileNotFoundError(f"no checkpoint of step {step} in {folder}, there are: {there}.")
    place = _place(folder, step)
    like = jax.tree.map(lambda x: x if hasattr(x, "dtype") else np.asarray(x), like)
    remedy = "delete this folder, and the training goes on from the checkpoint before it"
    damaged = f"the checkpoint {place} is damaged, its arrays cannot be read: {remedy}."
    if is_whole(Path(place)) is False:
        raise ValueError(damaged)
    with _quiet():
        metadata = ocp.checkpointables_metadata(place).metadata
        if name not in metadata:
            raise ValueError(f"{place} was not written by manifold_jax: it holds no {name}.")
        if metadata[name] is None:  # what Orbax makes of files that it cannot read
            raise ValueError(damaged)
        stored, wanted = _kinds(metadata[name]), _kinds(like)
        for leaf in sorted(stored.keys() | wanted.keys()):
            has, wants = (kinds.get(leaf, "no such array") for kinds in (stored, wanted))
            if has != wants:
                other = f"of another architecture: at {leaf} it has {has}, the network has {wants}"
                remedy = "choose another folder, or build the network that was trained"
                raise ValueError(f"the checkpoint {place} is {other}; {remedy}.")
        abstract = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
        try:
            return ocp.load(place, abstract, checkpointable_name=name)
        except (ValueError, OSError) as error:
            raise ValueError(damaged) from error


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
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     place = mj.models.save_checkpoint(folder, 10, {"w": jnp.ones(3)})
        ...     print(mj.models.load_params(folder, {"w": jnp.zeros(3)})["w"])
        [1. 1. 1.]
    """
    step = optional(whole, "load_params", "step", step, 0)
    steps = checkpoint_steps(folder)
    if step is None and not steps:
        raise FileNotFoundError(f"{folder} holds no checkpoint: train the network first.")
    return _load(folder, steps[-1] if step is None else step, "params", like)


def load_rest(folder: Folder, like: Any, step: int) -> Any:
    """What was saved next to the parameters."""
    return _load(folder, step, "rest", {"rest": like})["rest"]
