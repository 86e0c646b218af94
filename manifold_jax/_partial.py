"""Partial results of long work, from which a call after a kill goes on."""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path

import numpy as np

from manifold_jax._files import make_folder, remove, remove_leftovers, user_path, writing, writing_aside

_DIGEST = hashlib.sha256().digest_size
"""Bytes at the start of a part that tell whether it is whole."""

_completed: ContextVar[list[Path] | None] = ContextVar("_completed", default=None)
"""Parts of complete work that are to be removed when the block of :func:`keeping_parts` ends."""


@contextlib.contextmanager
def keeping_parts() -> Iterator[None]:
    """Keep the parts of all work that is completed in this block until the block, the outermost, ends well.

    What is made of several jobs, or has yet to be written, goes on after a kill from all that was done.
    """
    if _completed.get() is not None:
        yield
        return
    folders: list[Path] = []
    token = _completed.set(folders)
    try:
        yield
    finally:
        _completed.reset(token)
    for folder in folders:
        remove(folder)


class PartialResult:
    """Results of finished parts of long work, a file for each, in a folder ``partial-KEY``.

    ``key`` is the fingerprint of the work: what has another key is not looked at. A process that is killed
    loses the parts that it had not finished; several processes may add to one folder.
    """

    def __init__(self, folder: str | Path, key: str) -> None:
        self.path = user_path(folder, "checkpoint") / f"partial-{key}"
        make_folder(self.path.parent)
        remove_leftovers(self.path)

    def load(self) -> dict[int, list[np.ndarray]]:
        """The arrays of every part that is whole, by its number."""
        files = (file for file in self.path.glob("[0-9]*.npy") if file.stem.isdecimal())
        parts = {int(file.stem): _read_arrays(file) for file in files}
        return {number: arrays for number, arrays in parts.items() if arrays is not None}

    def save(self, number: int, arrays: Sequence[np.ndarray]) -> None:
        """Keep the arrays of a part."""
        content = io.BytesIO()
        for array in arrays:
            np.save(content, array, allow_pickle=False)
        try:
            path = self.path / f"{number}.npy"
            with writing(path), writing_aside(path) as aside:
                self.path.mkdir(exist_ok=True)
                with aside.open("wb") as file:
                    file.write(hashlib.sha256(content.getbuffer()).digest())
                    file.write(content.getbuffer())
                aside.replace(path)
        except ValueError as error:  # a full disk costs what is kept, not what is measured
            warnings.warn(f"{error} The work goes on, without being kept.", stacklevel=2)

    def remove(self) -> None:
        """Forget the parts, now or where :func:`keeping_parts` ends: the work is complete."""
        folders = _completed.get()
        if folders is None:
            remove(self.path)
        else:
            folders.append(self.path)


def _read_arrays(path: Path) -> list[np.ndarray] | None:
    """The arrays of a part, or None where its file is missing or damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if content[:_DIGEST] != hashlib.sha256(content[_DIGEST:]).digest():
        return None
    stream, arrays = io.BytesIO(content[_DIGEST:]), []
    while stream.tell() < len(content) - _DIGEST:
        arrays.append(np.load(stream, allow_pickle=False))
    return arrays
