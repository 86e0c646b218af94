"""What the workers of peer_fitting.py share: arguments, loading, two timed passes. NumPy and nothing else."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peer_common as common

Arrays = dict[str, np.ndarray]


def load(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Samples ``(n, f)`` and queries ``(q, f)``, in memory of this process."""
    dtype = np.float64 if options.x64 else np.float32

    def rows(path: Path, count: int | None) -> np.ndarray:
        return np.array(np.load(path, mmap_mode="r")[:count], dtype)

    return rows(options.samples, options.first), rows(options.queries, options.tests)


def two_passes(passed: Callable[[], Arrays], warm: bool = True, scale: float = 1.0) -> tuple[Arrays, Any]:
    """A first pass with its memory and a second one, of a function that returns NumPy arrays.

    Memory is sampled and private: pages of the files from which the points were read do not count, nor
    does what loading needed for a moment. ``peak`` holds the points, interpreter and libraries too,
    ``above_start`` is what the pass added. Seconds are multiplied by ``scale``.
    """

    def timed() -> tuple[float, float, Arrays]:
        processor = time.process_time()
        seconds, found = common.timed(passed)
        return scale * seconds, scale * (time.process_time() - processor), found

    memory = common.MemoryMeter("mmap", 0)
    with memory:
        seconds, processor, found = timed()
    record = {"seconds": seconds, "cpu_seconds": processor, "memory": memory.reading()}
    if warm:
        record["warm_seconds"], record["warm_cpu_seconds"], _ = timed()
    return found, record | {"extrapolated": scale != 1}


def finish(options: argparse.Namespace, found: Arrays, record: dict[str, Any]) -> dict[str, Any]:
    """Store what was found."""
    if options.save:
        np.savez(options.save, **found)
    return record | {"process_peak": common.peak_rss()}


def add_task(tasks: Any, run: Callable[..., Any], variants: tuple[str, ...]) -> Any:
    """Arguments of ``project`` and ``neighbours``, the same on both sides."""
    task = tasks.add_parser(run.__name__, help=run.__doc__)
    task.set_defaults(run=run, task=run.__name__)
    task.add_argument("samples", type=Path, help="(n, f), .npy")
    task.add_argument("queries", type=Path, help="(q, f), .npy")
    task.add_argument("--first", type=int, help="only so many samples")
    task.add_argument("--tests", type=int, help="only so many queries")
    task.add_argument("--variant", required=True, choices=variants)
    task.add_argument("--neighbours", type=int, required=True, help="k")
    task.add_argument("--warm", action=argparse.BooleanOptionalAction, default=True)
    task.add_argument("--x64", action="store_true", help="float64")
    task.add_argument("--save", type=Path, help="where to store what was found, .npz")
    return task
