"""Our side of peer_leaf.py: the local data matrix and horizontal paths of one LeNet, one task a process.

Run in the environment of manifold_jax, normally from peer_leaf.py:

    python benchmarks/ours_leaf_worker.py prepare CASE.npz --images 512 --pairs 100
    python benchmarks/ours_leaf_worker.py spectrum CASE.npz --block 4 --save FOUND.npz
    python benchmarks/ours_leaf_worker.py paths CASE.npz --block 4 --steps 1000

``prepare`` stores the weights of a fresh LeNet, or of a checkpoint, with images and pairs of images: test
images of MNIST where ``--data`` or MANIFOLD_JAX_DATA names a place, else random ones. ``--block`` images or
pairs are mapped at once, the blocks one after the other (``jax.lax.map``). The last line printed is the
result, as JSON.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from ours_reach_worker import two_passes  # before jax: it keeps compilations from being remembered
from ours_worker import run_task

import jax  # isort: skip
import jax.numpy as jnp
from flax import nnx
from jax.tree_util import Partial

from manifold_jax import horizontal_path, local_data_spectrum
from manifold_jax.datasets import mnist
from manifold_jax.models import LeNet, load_params, pixels, pure

TINY = 1e-30
"""A tolerance and a stationarity that nothing meets: every path makes all of its steps."""


def key(path: Any) -> str:
    """Name of a leaf of the parameters."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def prepare(options: argparse.Namespace) -> dict[str, Any]:
    """Weights, images and pairs, for both sides."""
    start = time.perf_counter()
    network = LeNet(rngs=nnx.Rngs(options.seed))
    params = pure(network).params
    if options.checkpoint:
        params = load_params(options.checkpoint, params, options.step)
    count = max(options.images, 2 * options.pairs)
    if options.data or os.environ.get("MANIFOLD_JAX_DATA"):
        source, images = "MNIST, test", np.asarray(pixels(mnist(options.data, train=False).images[:count]))
    else:
        source = "random"
        images = np.random.default_rng(options.seed).random((count, *network.shape[:2]), np.float32)
    named = jax.tree_util.tree_leaves_with_path(params)
    weights = {key(name): leaf for name, leaf in named}
    np.savez(
        options.case,
        images=images[: options.images],
        sources=images[: options.pairs],
        destinations=images[options.pairs : 2 * options.pairs],
        mean=network.mean,
        std=network.std,
        **weights,
    )
    record = {"task": "prepare", "seconds": time.perf_counter() - start}
    return record | {"images": source, "weights": "checkpoint" if options.checkpoint else "initial"}


def load(path: Path) -> tuple[Partial, dict[str, np.ndarray]]:
    """The classifier of a case, and its arrays."""
    case = dict(np.load(path))
    apply, params = pure(LeNet(mean=float(case["mean"]), std=float(case["std"]), rngs=nnx.Rngs(0)))

    def stored(name: Any, _: Any) -> jax.Array:
        return jnp.asarray(case[key(name)], float)

    return Partial(apply, jax.tree_util.tree_map_with_path(stored, params)), case


def spectrum(options: argparse.Namespace) -> dict[str, Any]:
    """Trace and spectrum of G for images."""
    log_prob, case = load(options.case)
    images = jnp.asarray(case["images"][: options.count], float)

    @jax.jit
    def of(log_prob: Partial, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        of_one = lambda x: local_data_spectrum(log_prob, x)[0]  # noqa: E731
        values = jax.lax.map(of_one, images, batch_size=options.block)
        # All other eigenvalues are 0; local_data_trace beside them would differentiate once more.
        return values.sum(axis=1), values

    passed = lambda: (jax.block_until_ready(of(log_prob, images)), {})  # noqa: E731
    (trace, values), record = two_passes(passed, options, 0)
    if options.save:
        np.savez(options.save, trace=trace, values=values)
    return {"task": "spectrum", "block": options.block, "images": len(images), **record}


def paths(options: argparse.Namespace) -> dict[str, Any]:
    """Horizontal paths of a fixed number of steps."""
    log_prob, case = load(options.case)
    ends = tuple(jnp.asarray(case[name][: options.count], float) for name in ("sources", "destinations"))

    def one(log_prob: Partial, source: jax.Array, destination: jax.Array) -> dict[str, jax.Array]:
        path = horizontal_path(
            log_prob,
            source,
            destination,
            step_size=options.step_size,
            max_steps=options.steps,
            tolerance=TINY,
            stationarity=TINY,
            save_every=options.steps,
        )
        return {"points": jnp.ravel(path.points[-1]), "lengths": path.length, "steps": path.steps}

    @jax.jit
    def of(log_prob: Partial, ends: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
        return jax.lax.map(lambda pair: one(log_prob, *pair), ends, batch_size=options.block)

    passed = lambda: (jax.block_until_ready(of(log_prob, ends)), {})  # noqa: E731
    found, record = two_passes(passed, options, 0)
    if options.save:
        np.savez(options.save, **found)
    return {
        "task": "paths",
        "block": options.block,
        "pairs": len(ends[0]),
        "max_steps": options.steps,
        "fewest_steps": int(found["steps"].min()),
        **record,
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tasks = parser.add_subparsers(required=True)
    for run in (prepare, spectrum, paths):
        task = tasks.add_parser(run.__name__, help=run.__doc__)
        task.set_defaults(run=run, task=run.__name__, profile=None)
        add = task.add_argument
        add("case", type=Path, help="weights and images, .npz")
        add("--x64", action="store_true", help="float64")
        if run is prepare:
            add("--images", type=int, default=512)
            add("--pairs", type=int, default=100)
            add("--checkpoint", type=Path, help="folder of a training of LeNet")
            add("--step", type=int, help="which checkpoint (default: the last)")
            add("--data", type=Path, help="place of MNIST")
            add("--seed", type=int, default=0, help="of the weights and of random images")
            continue
        add("--block", type=int, default=4, help="images or pairs mapped at once")
        add("--count", type=int, help="only so many images or pairs")
        add("--warm", action=argparse.BooleanOptionalAction, default=True, help="time a second pass")
        add("--save", type=Path, help="where to store what was found, .npz")
        if run is paths:
            add("--steps", type=int, default=1000)
            add("--step-size", type=float, default=0.03)
    return parser.parse_args()


if __name__ == "__main__":
    run_task(arguments())
