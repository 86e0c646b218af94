"""The main jobs on whatever device JAX finds: seconds cold and warm, and agreement with float64 on the CPU.

    python benchmarks/accelerator.py             # on a GPU or TPU: minutes
    python benchmarks/accelerator.py --small     # a look on a CPU

Next to the jobs stand two floors measured in the same run: a large matrix product in full precision, and a
copy. Each job runs twice on the same input, with compilation and without. The results are written to
``accelerator.json`` and ``accelerator.md`` in ``--out``, with device, versions and commit.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import peer_common as common
from flax import nnx
from jax.tree_util import Partial

import manifold_jax as mj
from manifold_jax.datasets import sprite, torus
from manifold_jax.models import LeNet, pure

FOUR = ("scale", "orientation", "y", "x")


class Job(NamedTuple):
    """One thing to time: what it is, how often it does its unit of work, and the call."""

    name: str
    count: int
    unit: str
    run: Callable[[], Any]
    work: float = 0.0
    work_unit: str = ""


def floors(size: int) -> list[Job]:
    """A matrix product in full precision, and a copy."""
    a = jnp.full((size, size), 0.5, jnp.float32)
    long = jnp.zeros(size * size * 4, jnp.float32)
    product = jax.jit(lambda x: jnp.matmul(x, x, precision="highest"))
    copy = jax.jit(lambda x: x + 1)
    return [
        Job("matrix product, float32", 1, "product", lambda: product(a), 2e-9 * size**3, "GFLOP/s"),
        Job("copy", 1, "copy", lambda: copy(long), 2e-9 * long.nbytes, "GB/s"),
    ]


def geometry(small: bool) -> list[Job]:
    """Stencils and autodiff on sprites, a stored array, and the reach."""
    size = 16 if small else 64
    manifold = sprite("ellipse", factors=FOUR, size=size)
    samples = (6, 6, 6, 6) if small else (16, 16, 16, 16)
    axes = [mj.Axis(f"u{k}", 0.0, 2 * math.pi, n, periodic=True) for k, n in enumerate(samples)]
    grid = mj.Grid(tuple(axes))
    waves = np.random.default_rng(0).normal(size=(4, 64 if small else 1024)).astype(np.float32)
    stored = jnp.sin(grid.coordinates(jnp.float32) @ waves)
    n = manifold.grid.size
    return [
        Job("measure sprites, stencils of order 4", n, "point", lambda: mj.measure(manifold)),
        Job("measure sprites, autodiff", n, "point", lambda: mj.measure(manifold, exact=True)),
        Job(
            "gram_from_grid, stored array, order 4",
            grid.size,
            "point",
            lambda: mj.gram_from_grid(stored, grid),
        ),
        Job("measure, stored array, order 4", grid.size, "point", lambda: mj.measure(stored, grid)),
        Job("reach of sprites", n, "point", lambda: mj.reach(manifold)),
    ]


def information(small: bool) -> list[Job]:
    """Spectra of G and paths of a fresh LeNet on random images."""
    images, pairs, steps = (8, 2, 10) if small else (512, 100, 200)
    apply, params = pure(LeNet(rngs=nnx.Rngs(0)))
    log_prob = Partial(apply, params)
    x, a, b = (
        jax.random.uniform(jax.random.key(k), (n, 28, 28, 1)) for k, n in enumerate((images, pairs, pairs))
    )
    spectra = jax.jit(jax.vmap(mj.local_data_spectrum, in_axes=(None, 0)))
    walk = partial(mj.horizontal_path, max_steps=steps, tolerance=1e-30, save_every=steps)
    paths = jax.jit(jax.vmap(walk, in_axes=(None, 0, 0)))
    return [
        Job("spectra of G, LeNet", images, "image", lambda: spectra(log_prob, x)),
        Job("horizontal paths, LeNet", pairs * steps, "step", lambda: paths(log_prob, a, b)),
    ]


def timed(job: Job) -> dict[str, Any]:
    """Seconds of the first and of the second run."""
    cold, _ = common.timed(lambda: jax.block_until_ready(job.run()))
    warm, _ = common.timed(lambda: jax.block_until_ready(job.run()))
    row = {"job": job.name, "count": job.count, "unit": job.unit, "cold_s": cold, "warm_s": warm}
    if job.work:
        row |= {"rate": job.work / warm, "rate_unit": job.work_unit}
    print(json.dumps(row), flush=True)
    return row


def agreement() -> dict[str, float]:
    """Largest difference to float64 on the CPU, relative to the largest value, of exact fields of a torus."""
    manifold = torus(size=32)
    fields = ("volume_element", "scalar_curvature", "mean_curvature")
    here = mj.measure(manifold, exact=True)
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        there = mj.measure(manifold, exact=True)
    pairs = {name: [np.asarray(getattr(g, name).value, np.float64) for g in (here, there)] for name in fields}
    return {name: float(np.abs(a - b).max() / np.abs(b).max()) for name, (a, b) in pairs.items()}


def markdown(record: dict[str, Any]) -> str:
    """The table."""
    lines = [
        "# Main jobs on one device",
        "",
        f"{record['device']}, jax {record['versions']['jax']}, commit {record['commit']}, "
        f"{record['time'][:10]}. Written by `python benchmarks/accelerator.py`.",
        "Cold: with compilation; warm: the same call again.",
        "",
        "| job | amount | cold s | warm s | warm per unit, or rate |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in record["rows"]:
        rate = f"{row['rate']:.3g} {row['rate_unit']}" if "rate" in row else ""
        each = rate or f"{1e6 * row['warm_s'] / row['count']:.3g} µs a {row['unit']}"
        lines.append(
            f"| {row['job']} | {row['count']} | {row['cold_s']:.3g} | {row['warm_s']:.3g} | {each} |"
        )
    differences = ", ".join(f"{name} {value:.1e}" for name, value in record["agreement"].items())
    lines += ["", f"Exact fields of a torus, float32 here against float64 on the CPU: {differences}.", ""]
    return "\n".join(lines)


def main() -> None:
    """Run all jobs and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--commit", help="commit of the source, where it travelled without its repository")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    jobs = [
        *floors(512 if arguments.small else 8192),
        *geometry(arguments.small),
        *information(arguments.small),
    ]
    device = jax.devices()[0]
    record = {
        "device": f"{device.platform} {device.device_kind}",
        "versions": {"jax": jax.__version__, "numpy": np.__version__},
        "commit": arguments.commit or common.commit(Path(__file__).parent),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": common.machine(),
        "rows": [timed(job) for job in jobs],
        "agreement": agreement(),
    }
    common.write_json(arguments.out / "accelerator.json", record)
    (arguments.out / "accelerator.md").write_text(markdown(record), encoding="utf-8")
    print(markdown(record))


if __name__ == "__main__":
    main()
