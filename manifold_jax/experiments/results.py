"""What is kept of experiments: finished cells, and results that get their names when all are whole."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from manifold_jax._executors import run_tasks
from manifold_jax._files import Progress, make_folder, scratch_folder, silent, user_path, writing
from manifold_jax._keys import file_digest, package_version

MANIFEST = ".manifold_jax.sha256"
"""File in a folder of results: a line for each of them with its digest, the key of the work, and its name."""


def _listed(out: Path) -> set[tuple[str, ...]]:
    """Digest, key and name of what this package wrote to a folder."""
    with contextlib.suppress(OSError):
        lines = (out / MANIFEST).read_text(encoding="utf-8", errors="replace").splitlines()
        return {entry for line in lines if len(entry := tuple(line.split(" ", 2))) == 3}
    return set()


def _is_own(path: Path, key: str, listed: set[tuple[str, ...]]) -> bool:
    """Whether a file is as this package wrote it in the same work."""
    named = any(entry[1:] == (key, path.name) for entry in listed)
    return named and path.is_file() and (file_digest(path), key, path.name) in listed


@contextlib.contextmanager
def publishing(out: Path, key: str, written: list[Path], *, beside: Sequence[Path] = ()) -> Iterator[Path]:
    """A folder to write results to; when the block ends they get their names in ``out``, and are ``written``.

    They replace those of the same work, which has the same ``key``. Where a name is taken by anything else,
    all of them get a number: ``geometry-2.nc``. Those that belong to others get the number of these, if it
    is free.
    """
    taken = [re.search(r"-(\d+)$", path.stem) for path in beside]
    first = max((int(match[1]) for match in taken if match), default=1)
    with scratch_folder(out) as folder:
        yield folder
        files, listed = sorted(folder.iterdir()), _listed(out)

        def numbered(number: int) -> list[Path]:
            mark = f"-{number}" if number > 1 else ""
            return [out / f"{file.stem}{mark}{file.suffix}" for file in files]

        def is_free(paths: list[Path]) -> bool:
            return all(_is_own(path, key, listed) or not os.path.lexists(path) for path in paths)

        paths = next(filter(is_free, map(numbered, itertools.count(first))))
        moves = list(zip(files, paths, strict=True))
        with (out / MANIFEST).open("a", encoding="utf-8") as manifest:
            manifest.writelines(f"{file_digest(file)} {key} {path.name}\n" for file, path in moves)
        written += [file.replace(path) for file, path in moves]


def remove_others(out: Path, key: str, keep: Sequence[Path]) -> None:
    """Remove earlier results of the same key, unless they were changed since."""
    listed = _listed(out)
    for _, _, name in listed:
        path = out / name
        if Path(name).name == name and path not in keep and _is_own(path, key, listed):
            path.unlink(missing_ok=True)


VERSION = 3  # part of every cell's name: raise it when a fit, an estimator or the defaults of one change
Values = Any  # anything that JSON knows


class Cells(dict[str, Values]):
    """Values of finished cells by name: all that the values of a cell depend on.

    The file has a line of JSON with a checksum for each cell, and only ever grows, so that several processes
    may add to it; a line that is not whole does not count. Floats are read back bit by bit. Missing cells are
    computed in this process, or by an ``executor``.
    """

    def __init__(self, path: Path, executor: Any = None) -> None:
        self.path, self.executor = user_path(path), executor
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        super().__init__(entry for entry in map(_read_line, lines) if entry is not None)
        if lines and not self and not lines[0].startswith(b'{"cell": '):
            remedy = "remove it, or choose another folder"
            raise ValueError(f"{path} is not a file of finished cells: {remedy}.")

    def fill(
        self, wanted: Sequence[tuple[str, Callable[[], Values]]], progress: Progress = silent
    ) -> list[Values]:
        """The values of cells by name, with what computes those that are missing; each is kept at once.

        For other processes these are partials of functions of a module.
        """
        computed = dict(wanted)
        missing = [name for name in computed if name not in self]
        done = len(computed) - len(missing)
        progress(done, len(computed))
        for k, values in run_tasks(_compute, ((computed[name],) for name in missing), self.executor):
            self.put(missing[k], values)
            done += 1
            progress(done, len(computed))
        return [self[name] for name, _ in wanted]

    def put(self, cell: str, values: Values) -> None:
        """Keep a finished cell."""
        self[cell] = values
        line = _line(cell, values)
        make_folder(self.path.parent)
        with writing(self.path), self.path.open("ab+") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            whole = file.read(1) in (b"", b"\n")  # else a process was ended while it wrote
            file.write(line if whole else b"\n" + line)


def _compute(compute: Callable[[], Values]) -> Values:
    return compute()


def _line(cell: str, values: Values) -> bytes:
    entry = json.dumps({"cell": cell, "values": values})
    return f'{entry[:-1]}, "check": {zlib.crc32(entry.encode())}}}\n'.encode()


def _read_line(line: bytes) -> tuple[str, Values] | None:
    """Name and values of a cell, or None where the line is not whole."""
    try:
        entry = json.loads(line)
        cell, values = entry["cell"], entry["values"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return (cell, values) if isinstance(cell, str) and _line(cell, values) == line + b"\n" else None


def cell_name(**parts: Any) -> str:
    """Everything that a cell depends on, as text."""
    versions = {"version": VERSION, "package": package_version()}
    return json.dumps(parts | versions, sort_keys=True, default=str)
