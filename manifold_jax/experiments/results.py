"""Results get their names in a folder when all are whole; what this package did not write there stays."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from manifold_jax._files import scratch_folder
from manifold_jax._keys import file_digest

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
def publishing(out: Path, key: str, written: list[Path]) -> Iterator[Path]:
    """A folder to write results to; when the block ends they get their names in ``out``, and are ``written``.

    They replace those of the same work, which has the same ``key``. Where a name is taken by anything else,
    all of them get a number: ``geometry-2.nc``.
    """
    with scratch_folder(out) as folder:
        yield folder
        files, listed = sorted(folder.iterdir()), _listed(out)

        def numbered(number: int) -> list[Path]:
            mark = f"-{number}" if number > 1 else ""
            return [out / f"{file.stem}{mark}{file.suffix}" for file in files]

        def is_free(paths: list[Path]) -> bool:
            return all(_is_own(path, key, listed) or not os.path.lexists(path) for path in paths)

        paths = next(filter(is_free, map(numbered, itertools.count(1))))
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
