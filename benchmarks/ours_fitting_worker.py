"""Our side of peer_fitting.py: points, projections and neighbours by manifold_jax, one task a process.

Run in the environment of manifold_jax, normally from peer_fitting.py:

    python benchmarks/ours_fitting_worker.py prepare FOLDER --images 65536 --queries 4096
    python benchmarks/ours_fitting_worker.py project X.npy Y.npy --variant pca --dimension 4 --neighbours 32
    python benchmarks/ours_fitting_worker.py neighbours X.npy Y.npy --variant exact --neighbours 32

``project`` is ``local_pca_projection`` with the peer's weights (``pca``), or ``moving_least_squares`` of
degree 1, 2 or 3 (``mls-1`` ...) with its own number of neighbours. The first pass includes compilation. The
last line printed is the result, as JSON.
"""

from __future__ import annotations

import argparse
import gc
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peer_common as common
import peer_fitting_tasks as tasks

os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # a fresh process compiles everything itself
import jax
import jax.numpy as jnp
from ours_worker import CompileClock, device_peak, run_task

from manifold_jax.datasets import circle, sphere, sprite, torus
from manifold_jax.fitting import (
    local_pca_projection,
    moving_least_squares,
    nearest_neighbours,
    project_with_status,
)

SURFACES = {"circle": circle, "sphere": sphere, "torus": torus}
OFFSET = 0.02


def drawn(manifold: Any, count: int, rng: np.random.Generator, dtype: Any) -> np.ndarray:
    """Points at coordinates uniform in the chart, flattened."""
    ends = np.array([(axis.start, axis.stop) for axis in manifold.grid.axes])
    chart = jnp.asarray(rng.uniform(ends[:, 0], ends[:, 1], (count, len(ends))), dtype)
    embedded = jax.jit(lambda u: jax.lax.map(manifold.embedding, u, batch_size=64))(chart)
    return np.asarray(embedded).reshape(count, -1)


def prepare(options: argparse.Namespace) -> dict[str, Any]:
    """Store samples and queries: float64 for the comparison, float32 images for the times."""
    options.folder.mkdir(parents=True, exist_ok=True)
    images = sprite("ellipse", layout="balanced")
    for name, manifold in (*((name, make()) for name, make in SURFACES.items()), ("images", images)):
        rng = np.random.default_rng(0)
        points = drawn(manifold, options.equal_samples + options.equal_queries, rng, np.float64)
        samples, queries = np.split(points, [options.equal_samples])
        # Off the manifold: there a projection has something to do.
        queries = queries + OFFSET * rng.normal(size=queries.shape)
        np.save(options.folder / f"equal-{name}-samples.npy", samples)
        np.save(options.folder / f"equal-{name}-queries.npy", queries)
    for seed, (name, count) in enumerate((("queries", options.queries), ("images", options.images)), 1):
        path = options.folder / f"fitting-{name}.npy"
        if not path.exists() or len(np.load(path, mmap_mode="r")) < count:
            np.save(path, drawn(images, count, np.random.default_rng(seed), np.float32))
    return {"task": "prepare", "seconds": 0.0}


def on_device(options: argparse.Namespace) -> tuple[jax.Array, ...]:
    """Samples and queries; the copies are made when this returns, and those of NumPy gone."""
    points = jax.block_until_ready(tuple(map(jax.device_put, tasks.load(options))))
    gc.collect()  # what the copies were made from hangs in cycles
    return points


def passes(passed: Any, options: argparse.Namespace) -> tuple[tasks.Arrays, dict[str, Any]]:
    clock = CompileClock()
    found, record = tasks.two_passes(passed, options.warm)
    return found, record | {"compile_seconds": clock.seconds(), "device_peak_bytes": device_peak()}


def fitter(options: argparse.Namespace) -> Any:
    """Samples to project, by name."""
    if options.variant == "pca":
        return partial(
            local_pca_projection, neighbours=options.neighbours, weights="exponential", sigma=options.sigma
        )
    return partial(moving_least_squares, degree=int(options.variant[-1]))


def project(options: argparse.Namespace) -> dict[str, Any]:
    """Project queries onto a fit of the samples."""
    samples, queries = on_device(options)
    fit = fitter(options)

    def passed() -> tasks.Arrays:
        found = project_with_status(fit(samples, dimension=options.dimension), queries)
        return {"points": np.asarray(found.points), "status": np.asarray(found.status)}

    found, record = passes(passed, options)
    return tasks.finish(options, found, record | {"failed": int(np.sum(found["status"] != 0))})


def neighbours(options: argparse.Namespace) -> dict[str, Any]:
    """Exact nearest samples of queries."""
    samples, queries = on_device(options)

    def passed() -> tasks.Arrays:
        found = nearest_neighbours(samples, queries, options.neighbours)
        return {name: np.asarray(value) for name, value in found._asdict().items()}

    return tasks.finish(options, *passes(passed, options))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    chosen = parser.add_subparsers(required=True)
    task = chosen.add_parser("prepare", help=prepare.__doc__)
    task.set_defaults(run=prepare, task="prepare", x64=True)
    task.add_argument("folder", type=Path)
    for name in ("images", "queries", "equal-samples", "equal-queries"):
        task.add_argument(f"--{name}", type=int, required=True)
    task = tasks.add_task(chosen, project, ("pca", "mls-1", "mls-2", "mls-3"))
    task.add_argument("--dimension", type=int, required=True, help="d")
    task.add_argument("--sigma", type=float, default=1.0, help="width of the weights of local PCA")
    tasks.add_task(chosen, neighbours, ("exact",))
    return parser.parse_args()


if __name__ == "__main__":
    run_task(arguments(), cores=common.machine()["cores"])
