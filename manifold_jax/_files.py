"""Files written aside and renamed, labelled data sets."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import unicodedata
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from manifold_jax._checks import require
from manifold_jax._keys import is_whole, seal

Progress = Callable[[int, int], None]
"""Called with the number of points (or steps) done and the number of all."""

_ENGINES = {".nc": ("h5netcdf", "report"), ".zarr": ("zarr", "zarr")}
"""The engine that reads and writes data sets of this suffix, and the extra that installs it."""


_MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:6]
_OWN = re.compile(
    r"\.(?P<stem>.*)\.mj-(?P<machine>\w{6})-(?P<process>\d+)-\w{8}\.(?P<kind>tmp|old)(?P<suffix>.*)"
)
"""Temporary names, which tell the machine and the process that made them."""

_ASIDE: set[Path] = set()
"""What this process is writing aside right now."""


def silent(_done: int, _total: int) -> None:
    """Progress that nobody wants to know."""


def user_path(path: str | os.PathLike[str], name: str = "path") -> Path:
    """A path as the user means it: ``~`` is the home folder; ``name`` is that of the argument."""
    try:
        return Path(path).expanduser()
    except (TypeError, RuntimeError) as error:
        wanted = f"{name} must be text or a Path, with ~ for a known home"
        raise ValueError(f"{wanted}, got {path!r}.") from error


def temporary(path: Path, kind: str = "tmp") -> Path:
    """A hidden name next to ``path``, unique to this call."""
    token = uuid.uuid4().hex[:8]
    return path.with_name(f".{path.stem}.mj-{_MACHINE}-{os.getpid()}-{token}.{kind}{path.suffix}")


def remove(path: Path) -> None:
    """Remove a file, a folder or nothing, as far as that is possible."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_leftovers(folder: Path, of: Path | None = None) -> None:
    """Remove what ended processes of this machine left of writing (one path, or anything) in a folder.

    Those of other machines and of living processes are theirs. A result that had stepped aside comes back.
    """
    for place in folder.glob(".*.mj-*") if folder.is_dir() else ():
        own = _OWN.fullmatch(place.name)
        if own is None or own["machine"] != _MACHINE or _is_alive(int(own["process"])):
            continue
        target = place.with_name(own["stem"] + own["suffix"])
        if of is None or target == of:
            if own["kind"] == "old" and not target.exists():
                place.rename(target)
            else:
                remove(place)


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # there signal 0 would be Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def forget_unfinished() -> None:
    """Remove what this process is writing aside: it ends now."""
    for aside in tuple(_ASIDE):
        remove(aside)


@contextlib.contextmanager
def writing_aside(path: Path) -> Iterator[Path]:
    """A hidden name next to a path, for this block only."""
    aside = temporary(path)
    _ASIDE.add(aside)
    try:
        yield aside
    finally:
        remove(aside)
        _ASIDE.discard(aside)


@contextlib.contextmanager
def writing(place: object) -> Iterator[None]:
    """Say in one sentence that a place cannot be written."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"Cannot write {place}: {error.strerror or error}.") from error


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A name to write to, next to ``path``; what is there takes the name ``path`` when the block ends well.

    A half-written file never takes the name, and none is left behind. A folder replaces a folder. There is a
    ValueError if the place cannot be written.
    """
    path = user_path(path)
    with writing(path), writing_aside(path) as aside:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, of=path)
        yield aside
        if aside.is_dir():
            _replace_folder(aside, path)
        else:
            aside.replace(path)


@contextlib.contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """A hidden new folder in a folder, for this block only."""
    with writing(f"to the folder {folder}"), writing_aside(folder / "results") as scratch:
        scratch.mkdir()
        yield scratch


def check_folder(folder: Path) -> None:
    """Refuse a folder that could not be written, before it is made."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "Permission denied" if there.is_dir() else f"{there} is not a folder"
        raise ValueError(f"Cannot write to the folder {folder}: {reason}.")


def make_folder(folder: Path) -> None:
    """Make sure that there is such a folder, and that files can be written to it."""
    with writing(f"to the folder {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process, until it ends; there is a ValueError if another one holds it."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            remedy = "wait for it, or choose another folder with --out"
            raise ValueError(f"Another process is writing its results to {folder}: {remedy}.") from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> Path:
    """Write a text file aside and rename it."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")
    return path


def _replace_folder(new: Path, path: Path) -> None:
    """Rename a folder over another: the old one steps aside first, and comes back if that fails."""
    if not path.exists():
        new.rename(path)
        return
    old = temporary(path, "old")
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    remove(old)


def _engine(path: Path) -> str:
    """The engine for files of this name; its package is installed."""
    if path.suffix not in _ENGINES:
        raise ValueError(f"Results are saved as .nc (NetCDF) or .zarr, got {path.name!r}.")
    engine, extra = _ENGINES[path.suffix]
    require(engine, extra, f"A {path.suffix} file")
    return engine


def write_dataset(dataset: Any, path: str | Path) -> Path:
    """Write an ``xarray.Dataset`` to a file (``.nc``) or folder (``.zarr``), in place of an earlier result.

    There is a ValueError if the suffix is unknown, the place cannot be written, or something else is there.
    """
    path = user_path(path)
    engine = _engine(path)
    marks = (path / ".zgroup", path / "zarr.json")  # one of these lies in every Zarr folder
    if engine == "zarr" and path.exists() and not any(mark.exists() for mark in marks):
        raise ValueError(f"Cannot write {path}: what is there is not a Zarr folder; choose another name.")
    with replacing(path) as aside:
        if engine == "zarr":
            # Format 2: format 3 has neither strings of fixed length nor consolidated metadata yet.
            dataset.to_zarr(aside, mode="w", zarr_format=2)
            seal(aside)
        else:
            # In memory first: HDF5 crashes where a disk is full. Nothing but this block may hold the view.
            with memoryview(dataset.to_netcdf(None, engine=engine)) as content, aside.open("wb") as file:
                file.write(content)
    return path


_READING = """
import sys
try:
    import {engine}
except ImportError:
    sys.exit(3)
try:
    import resource
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + {room},) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, ({seconds},) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except (ImportError, OSError, ValueError):
    pass  # no limits on this machine but that of the time
if "{engine}" == "zarr":
    data = zarr.open_group(sys.argv[1], mode="r")
    arrays = [array for _, array in data.arrays()]
else:
    data = h5netcdf.File(sys.argv[1], "r")
    arrays = [array for array in data.variables.values() if array.dimensions is not None]
for one in (data, *arrays):
    dict(one.attrs)
for array in arrays:
    array[...]
"""
"""Program that reads a data set once, in a process that can be ended: HDF5 may loop or crash on bad files."""

_NOT_READY = 3  # status of that program where it has not the packages of this process

_READ_SECONDS, _READ_RATE = 2, 50e6  # seconds to read any file, and bytes a second on top of them

LEAN = {"MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Environment of a process whose memory is limited, so that it does not reserve what it does not need."""


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())


def reading_room(size: int) -> int:
    """Bytes that reading a file may take: half a gigabyte, and 100 for each byte on disk."""
    return 2**29 + 100 * size


def read_dataset(path: str | Path) -> Any:
    """Read an ``xarray.Dataset`` into memory, from a file (``.nc``) or folder (``.zarr``).

    A process of its own reads it first, with 2 s (and 1 s for every 50 MB) and half a gigabyte (and 100 times
    the size on disk): a damaged file ends that one, and is a ValueError here that names the file.
    """
    path = user_path(path)
    if not path.exists():
        raise ValueError(f"There is no saved geometry at {path}.")
    xarray, engine = require("xarray", "report", "A labelled result"), _engine(path)
    damaged = f"{path} is not a whole {path.suffix} file"
    remedy = "measure again and save it"
    if path.is_dir() != (engine == "zarr") or not (path.is_dir() or path.is_file()):
        raise ValueError(f"{damaged}: {remedy}.")
    whole = is_whole(path)
    if whole is False:
        raise ValueError(f"{damaged}, its files were changed: {remedy}.")
    size = size_on_disk(path)
    seconds, room = _READ_SECONDS + int(size / _READ_RATE), reading_room(size)
    code = _READING.format(engine=engine, seconds=seconds, room=room)
    if sys.executable and not whole:
        command = [sys.executable, "-P", "-c", code, str(path.absolute())]
        try:
            status = subprocess.run(command, env=os.environ | LEAN, capture_output=True, timeout=4 * seconds)
        except subprocess.TimeoutExpired:
            raise ValueError(f"{damaged}, reading it did not end in {4 * seconds} s: {remedy}.") from None
        if status.returncode not in (0, _NOT_READY):
            raise ValueError(f"{damaged}, or takes more than {seconds} s or {room >> 20} MiB: {remedy}.")
    try:
        # Not decoded: units such as "s" or "days since 2000-01-01" would become dates.
        with xarray.open_dataset(path, engine=engine, decode_cf=False) as dataset:
            return dataset.load()
    except Exception as error:
        raise ValueError(f"{damaged}: {remedy}.") from error


def safe_labels(names: Sequence[str], taken: Collection[str]) -> tuple[str, ...]:
    """Names as names of dimensions in a file: letters, digits, ``_`` and ``-``, all different, none taken."""
    labels: list[str] = []
    for name in names:
        label = re.sub(r"[^\w-]", "_", unicodedata.normalize("NFC", name))[:100]
        label = label if label.strip("_-") and not label.startswith("__") else f"axis{label}"
        others = {other.casefold() for other in (*taken, *labels)}
        while label.casefold() in others:
            label += "_axis"
        labels.append(label)
    return tuple(labels)


def printable(text: str) -> str:
    """Text that every format takes: no control characters, no lone surrogates."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
