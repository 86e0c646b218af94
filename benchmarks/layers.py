"""Seconds and peak memory of measuring a 4-dimensional manifold in every layer of a beta-VAE.

    python benchmarks/layers.py            # 64 x 64 pixels, the published widths
    python benchmarks/layers.py --size 32 --width 16 --hidden 64

The ellipse sprite in all four factors goes through a beta-VAE with softplus and random weights. Jets are
pushed from layer to layer, a batch of points at a time, and only Gram matrices are kept. Beside it: stencils
of order 4 on windows of activations that go from layer to layer; each layer measured by itself through the
whole composition, at a few points and in a few layers, scaled to all; and what it would take to hold the
activations, or the jets, of all layers at once. Compilation is timed apart for the jets; the time of the
stencils includes it.

The table is printed and written to ``layers_cost.md`` and ``layers_cost.json`` in ``--out``.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import peer_common as common
from flax import nnx
from jax.tree_util import Partial

from manifold_jax import Axis, Grid, Manifold, gram_from_function, measure_layers
from manifold_jax.datasets import sprite
from manifold_jax.models import BetaVAE, network_layers, pure

POINTS = 64
PROBED = (2, 8, -1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=64, help="pixels per side")
    parser.add_argument("--width", type=int, default=32, help="channels of the first convolution")
    parser.add_argument("--hidden", type=int, default=256, help="units of a hidden layer")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


def few(manifold: Manifold) -> Manifold:
    """The same with as many points as one batch."""
    axes = tuple(
        Axis(axis.name, axis.start, axis.stop, size, periodic=axis.periodic)
        for axis, size in zip(manifold.grid.axes, (4, 4, 2, 2), strict=True)
    )
    return Manifold(manifold.name, manifold.embedding, Grid(axes))


def seconds(function) -> tuple[float, float]:
    """Of the first call and of the second."""
    times = []
    for _ in range(2):
        began = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - began)
    return times[0], times[1]


def main() -> None:
    options = parse()
    sizes = {"scale": 9, "orientation": 16, "y": 5, "x": 5}
    manifold = sprite("ellipse", layout="balanced", size=options.size, sizes=sizes)
    vae = BetaVAE(
        size=options.size,
        width=options.width,
        hidden=options.hidden,
        activation=nnx.softplus,
        rngs=nnx.Rngs(0),
    )
    layers = network_layers(pure(vae))
    widths = {"size": options.size, "width": options.width, "hidden": options.hidden}
    image = jnp.zeros((options.size, options.size))
    features = [image.size, *(part.size for part in jax.eval_shape(layers.activations, image))]
    before = common.peak_rss()
    compiling, batch = seconds(lambda: measure_layers(few(manifold), layers.functions, layers.names))
    began = time.perf_counter()
    measure_layers(manifold, layers.functions, layers.names)
    ours = time.perf_counter() - began
    peak = common.peak_rss() - before
    began = time.perf_counter()
    measure_layers(manifold, layers.functions, layers.names, accuracy=4)
    stencils = time.perf_counter() - began
    stencil_peak = common.peak_rss() - before

    coordinates = few(manifold).grid.coordinates().reshape(-1, 4)
    apart = []
    for k in PROBED:
        function = Partial(lambda f, u, k=k: f(manifold.embedding(u))[k], Partial(layers.activations))
        gram = jax.jit(lambda u, function=function: gram_from_function(function, u))
        apart.append(seconds(lambda gram=gram: gram(coordinates))[1])
    share = float(np.mean(apart)) / POINTS * len(layers.names) * manifold.grid.size
    vectors = 1 + 4 * 7 // 2
    rows = {
        "points": manifold.grid.size,
        "layers": len(features),
        "features of all layers": sum(features),
        "compilation, s": compiling - batch,
        "all layers, s": ours,
        "a point, ms": 1e3 * ours / manifold.grid.size,
        "peak memory above the start, MiB": peak / common.MIB,
        "the same by stencils of order 4, compilation included, s": stencils,
        "peak memory after both, above the start, MiB": stencil_peak / common.MIB,
        "every layer by itself (estimate), s": share,
        "ratio": share / ours,
        "activations of all layers at once, MiB": 4 * sum(features) * manifold.grid.size / common.MIB,
        "jets of all layers at once, MiB": 4 * vectors * sum(features) * manifold.grid.size / common.MIB,
    }
    cores = common.machine()
    command = f"`python benchmarks/layers.py {' '.join(f'--{k} {v}' for k, v in widths.items())}`"
    words = f"{command}, {jax.devices()[0].device_kind}, {os.cpu_count()} cores, jax {jax.__version__}."
    lines = ["# All layers of a beta-VAE on a 4-dimensional grid", "", words, "", "| quantity | value |"]
    lines += ["| --- | --- |", *(f"| {name} | {value:.5g} |" for name, value in rows.items()), ""]
    print("\n".join(lines))
    options.out.mkdir(parents=True, exist_ok=True)
    common.write_json(options.out / "layers_cost.json", {"machine": cores, "sizes": widths, **rows})
    (options.out / "layers_cost.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
