"""The main jobs on whatever device JAX finds: seconds cold and warm, and how far they are from the floor.

    python benchmarks/accelerator.py                # on a GPU or TPU: minutes; on a CPU smaller sizes
    python benchmarks/accelerator.py --size small   # seconds, to try the script

Two rates are measured first: a large matrix product in full precision, and a copy. The floor of a job is what
its products would take at the first rate, or what it must read and write at the second, whichever is longer:
of Gram matrices the products of the jet vectors, of ``reach_field`` those of all pairs with points and
tangents. Where nobody counts operations (rendering, networks) there is no floor. Each job runs twice on the
same input, with compilation and without. The results are written to ``accelerator.json`` and
``accelerator.md`` in ``--out``, with device, versions and commit.
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
import optax
import peer_common as common
from flax import nnx
from jax.tree_util import Partial

import manifold_jax as mj
from manifold_jax.datasets import sprite, torus
from manifold_jax.models import BetaVAE, LeNet, beta_vae_loss, pure, train

FOUR = ("scale", "orientation", "y", "x")


class Size(NamedTuple):
    """How large the jobs are."""

    product: int  # edge of the matrix product
    pixels: int
    lattice: int  # samples of each of the four axes of the stored array
    features: int
    cloud: int  # points of the all-pairs reach
    images: int
    pairs: int
    steps: int


SIZES = {
    "small": Size(512, 16, 8, 64, 128, 8, 2, 10),
    "cpu": Size(4096, 64, 16, 1024, 2048, 128, 16, 100),
    "full": Size(8192, 64, 16, 1024, 65_536, 512, 100, 200),
}


class Job(NamedTuple):
    """One thing to time: how often it does its unit of work, the call, and the work it cannot avoid."""

    name: str
    count: int
    unit: str
    run: Callable[[], Any]
    flops: float = 0.0
    bytes: float = 0.0


def rates(size: Size) -> list[Job]:
    """A matrix product in full precision, and a copy."""
    n = size.product
    a, long = jnp.full((n, n), 0.5, jnp.float32), jnp.zeros(4 * n * n, jnp.float32)
    product = jax.jit(lambda x: jnp.matmul(x, x, precision="highest"))
    copy = jax.jit(lambda x: x + 1)
    return [
        Job("matrix product, float32", 1, "product", lambda: product(a), flops=2.0 * n**3),
        Job("copy", 1, "copy", lambda: copy(long), bytes=2.0 * long.nbytes),
    ]


def geometry(size: Size) -> list[Job]:
    """Stencils and autodiff on sprites, a stored array, and the reach."""
    manifold = sprite("ellipse", factors=FOUR, size=size.pixels)
    axes = [mj.Axis(f"u{k}", 0.0, 2 * math.pi, size.lattice, periodic=True) for k in range(4)]
    grid = mj.Grid(tuple(axes))
    waves = np.random.default_rng(0).normal(size=(4, size.features)).astype(np.float32)
    stored = jnp.sin(grid.coordinates(jnp.float32) @ waves)
    n, d = manifold.grid.size, 4
    vectors = d * (d + 3) // 2

    def gram(points: int, features: int, stencils: int) -> float:
        return 2.0 * stencils * points * vectors**2 * features

    jobs = [
        Job(
            "measure sprites, stencils of order 4",
            n,
            "point",
            lambda: mj.measure(manifold),
            flops=gram(n, size.pixels**2, 2),
        ),
        Job(
            "measure sprites, autodiff",
            n,
            "point",
            lambda: mj.measure(manifold, exact=True),
            flops=gram(n, size.pixels**2, 1),
        ),
    ]
    for order in (2, 4, 6):
        run = partial(mj.gram_from_grid, stored, grid, accuracy=order)
        name = f"gram_from_grid, stored array, order {order}"
        flops = gram(grid.size, size.features, 1)
        jobs.append(Job(name, grid.size, "point", run, flops, float(stored.nbytes)))
    run = partial(mj.measure, stored, grid)
    flops = gram(grid.size, size.features, 2)
    jobs.append(Job("measure, stored array, order 4", grid.size, "point", run, flops, float(stored.nbytes)))
    jobs.append(Job("reach of sprites", n, "point", lambda: mj.reach(manifold)))
    return [*jobs, all_pairs(size)]


def all_pairs(size: Size) -> Job:
    """The reach of all pairs of random sprites, with exact tangents."""
    manifold = sprite("ellipse", factors=FOUR, size=size.pixels)
    ends = ("start", "stop")
    start, stop = (jnp.asarray([getattr(axis, end) for axis in manifold.grid.axes]) for end in ends)
    u = start + (stop - start) * jax.random.uniform(jax.random.key(0), (size.cloud, 4))

    def flat(u: jax.Array) -> jax.Array:
        return jnp.ravel(manifold.embedding(u))

    @jax.jit
    def render(u: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.lax.map(lambda v: (flat(v), jax.jacfwd(flat)(v).T), u, batch_size=64)

    points, tangents = render(u)
    name = f"reach_field, all pairs of {size.pixels**2} features"
    field = jax.jit(mj.reach_field)
    flops, numbers = 2.0 * 5 * points.size * size.cloud, float(points.nbytes + tangents.nbytes)
    return Job(name, size.cloud, "point", lambda: field(points, tangents), flops, numbers)


def training(size: Size) -> list[Job]:
    """Gradient steps of the beta-VAE."""
    apply, params = pure(BetaVAE(size=size.pixels, rngs=nnx.Rngs(0)))
    images = jax.random.uniform(jax.random.key(0), (256, size.pixels, size.pixels))
    options: dict[str, Any] = {"key": jax.random.key(1), "steps": size.steps, "chunk": size.steps}
    options |= {"batch_size": 64, "optimizer": optax.adam(5e-4)}
    run = partial(train, beta_vae_loss(apply), params, (images,), **options)
    return [Job("beta-VAE, gradient steps of 64 images", size.steps, "step", lambda: run().params)]


def information(size: Size) -> list[Job]:
    """Spectra of G and paths of a fresh LeNet on random images."""
    images, pairs, steps = size.images, size.pairs, size.steps
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


def timed(job: Job, floors: tuple[float, float] | None) -> dict[str, Any]:
    """Seconds of both runs, and those of the floor by the rates of products and of the memory."""
    cold, _ = common.timed(lambda: jax.block_until_ready(job.run()))
    warm, _ = common.timed(lambda: jax.block_until_ready(job.run()))
    row = {"job": job.name, "count": job.count, "unit": job.unit, "cold_s": cold, "warm_s": warm}
    row |= {"flops": job.flops, "bytes": job.bytes}
    if floors is not None and job.flops:
        floor = max(job.flops / floors[0], job.bytes / floors[1])
        row |= {"floor_s": floor, "share": floor / warm}
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
        f"Size {record['size']}. Cold: with compilation; warm: the same call again; floor: see the script.",
        "",
        "| job | amount | cold s | warm s | warm per unit | rate | floor s | share of the floor |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in record["rows"]:
        each = f"{1e6 * row['warm_s'] / row['count']:.3g} µs per {row['unit']}"
        kinds = {"GFLOP/s": row["flops"], "GB/s": row["bytes"]}
        rate = ", ".join(f"{1e-9 * work / row['warm_s']:.3g} {unit}" for unit, work in kinds.items() if work)
        floor = f"{row['floor_s']:.3g} | {row['share']:.1%}" if "floor_s" in row else " | "
        seconds = f"{row['cold_s']:.3g} | {row['warm_s']:.3g}"
        lines.append(f"| {row['job']} | {row['count']} | {seconds} | {each} | {rate} | {floor} |")
    differences = ", ".join(f"{name} {value:.1e}" for name, value in record["agreement"].items())
    lines += ["", f"Exact fields of a torus, float32 here against float64 on the CPU: {differences}.", ""]
    return "\n".join(lines)


def main() -> None:
    """Run all jobs and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", choices=SIZES, help="default: full, on a CPU cpu")
    parser.add_argument("--commit", help="commit of the source, where it travelled without its repository")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    device = jax.devices()[0]
    chosen = arguments.size or ("cpu" if device.platform == "cpu" else "full")
    size = SIZES[chosen]
    rows = [timed(job, None) for job in rates(size)]
    product, copy = rows
    floors = product["flops"] / product["warm_s"], copy["bytes"] / copy["warm_s"]
    jobs = (job for group in (geometry, information, training) for job in group(size))
    rows += [timed(job, floors) for job in jobs]
    record = {
        "device": f"{device.platform} {device.device_kind}",
        "versions": {"jax": jax.__version__, "numpy": np.__version__},
        "commit": arguments.commit or common.commit(Path(__file__).parent),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": common.machine(),
        "size": chosen,
        "rows": rows,
        "agreement": agreement(),
    }
    common.write_json(arguments.out / "accelerator.json", record)
    (arguments.out / "accelerator.md").write_text(markdown(record), encoding="utf-8")
    print(markdown(record))


if __name__ == "__main__":
    main()
