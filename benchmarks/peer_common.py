"""What the two sides of the peer benchmark share: lattice files, memory readings, machine facts.

Imported by scripts that run in two different virtual environments, so it needs NumPy and nothing else.

A lattice is two files: ``NAME.npy``, the samples with shape ``(*grid, f)``, and ``NAME.json``, its axes as
``{"axes": [{"name", "start", "stop", "size", "periodic", "wrap", "unit"}, ...], "source": {...}}``.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import resource
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

MIB = 2.0**20
GIB = 2.0**30


def spec_path(array: Path) -> Path:
    """The file that describes the axes of a stored lattice."""
    return array.with_suffix(".json")


def read_spec(array: Path) -> dict[str, Any]:
    """Read the axes of a stored lattice."""
    return json.loads(spec_path(array).read_text())


def write_json(path: Path, content: Any) -> None:
    """Write JSON in one step, so that an interrupted run leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)


def spacings(spec: dict[str, Any]) -> list[float]:
    """Step along each axis; the stop of a periodic axis is excluded."""
    return [
        (axis["stop"] - axis["start"]) / (axis["size"] if axis["periodic"] else axis["size"] - 1)
        for axis in spec["axes"]
    ]


def wrapping_axes(spec: dict[str, Any]) -> list[int]:
    """Axes along which the samples themselves repeat."""
    return [i for i, axis in enumerate(spec["axes"]) if axis["periodic"] and axis.get("wrap", True)]


def load_points(array: Path, source: str) -> np.ndarray:
    """Load a lattice, ``"memory"`` as an array of its own or ``"mmap"`` as a mapping of the file."""
    points = np.load(array, mmap_mode="r" if source == "mmap" else None)
    shape = tuple(axis["size"] for axis in read_spec(array)["axes"])
    if points.shape[: len(shape)] != shape or points.ndim != len(shape) + 1:
        raise SystemExit(f"{array}: shape {points.shape} is not {shape} and one feature axis.")
    return points


def _status_kib(*fields: str) -> int | None:
    """Sum of fields of /proc/self/status in KiB, or None where there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    table = dict(line.split(":", 1) for line in lines if ":" in line)
    return sum(int(table[field].split()[0]) for field in fields if field in table)


def peak_rss() -> int:
    """Peak resident bytes of this process so far.

    Linux hands ``ru_maxrss`` of the parent on to a child across fork and exec, so the kernel's high-water
    mark of the present address space is asked first.
    """
    high_water = _status_kib("VmHWM")
    if high_water:
        return high_water * 1024
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024


def private_rss() -> int:
    """Resident bytes now, without pages of mapped files (with them where the system does not say)."""
    kib = _status_kib("RssAnon", "RssShmem")
    return peak_rss() if kib is None else kib * 1024


class PrivatePeak:
    """Samples the private resident memory of this process while a block runs.

    Needed for memory-mapped input only, where the peak resident size counts pages of the file.
    """

    def __init__(self, interval: float = 0.01) -> None:
        self.interval = interval
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(self.interval):
            self.bytes = max(self.bytes, private_rss())

    def __enter__(self) -> PrivatePeak:
        self.bytes = private_rss()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.bytes = max(self.bytes, private_rss())


class MemoryMeter:
    """Peak memory of one block, beside what was resident before it and the size of the input."""

    def __init__(self, source: str, input_bytes: int) -> None:
        self.mapped = source == "mmap"
        self.input_bytes = 0 if self.mapped else input_bytes
        self.before = private_rss()
        self._sampler = PrivatePeak() if self.mapped else None

    def __enter__(self) -> MemoryMeter:
        if self._sampler:
            self._sampler.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._sampler:
            self._sampler.__exit__()

    def reading(self) -> dict[str, Any]:
        """Figures in bytes.

        ``above_input`` is the whole process (interpreter and libraries too) less an in-memory input;
        ``above_start`` is what the block added to the process that had already loaded its input.
        """
        peak = self._sampler.bytes if self._sampler else peak_rss()
        return {
            "kind": "private, sampled" if self.mapped else "resident",
            "peak": peak,
            "above_input": peak - self.input_bytes,
            "above_start": peak - self.before,
        }


def volunteer_for_the_oom_killer() -> None:
    """Ask the kernel to end this process first should memory run out: the machine is shared."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def machine() -> dict[str, Any]:
    """CPU model, cores this process may use, memory, load, and versions of Python and NumPy."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": model,
        "cores": cores,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "load_average": list(os.getloadavg()),
    }


def available_memory() -> int | None:
    """Bytes that new processes can use without swapping, or None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def commit(folder: Path) -> str:
    """Commit of the working tree, with a mark when files differ from it."""

    def git(*arguments: str) -> str:
        result = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
        return result.stdout.strip() if result.returncode == 0 else ""

    head = git("rev-parse", "--short=12", "HEAD")
    return (head or "unknown") + ("+changes" if git("status", "--porcelain") else "")


def provenance() -> dict[str, Any]:
    """Machine, versions, commit, time; the device too where JAX is loaded."""
    names = ("manifold_jax", "jax", "jaxlib", "numpy")
    facts = {
        "machine": machine(),
        "versions": {name: metadata.version(name) for name in names},
        "commit": commit(Path(__file__).parent),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    if "jax" in sys.modules:
        device = sys.modules["jax"].devices()[0]
        facts["device"] = f"{device.platform} {device.device_kind}"
    return facts


def timed(function: Any, *arguments: Any) -> tuple[float, Any]:
    """Wall seconds of one call, and its result."""
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def report(record: dict[str, Any]) -> None:
    """Print a record as the one JSON line that the driver reads."""
    sys.stderr.flush()
    print(json.dumps(record), flush=True)
