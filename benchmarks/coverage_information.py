"""Rank and trace of the local data matrix G in float64, float32 and bfloat16, against NumPy in float64.

    python benchmarks/coverage_information.py                  # prints the table
    python benchmarks/coverage_information.py --seeds 2 --classes 10 --pixels 784 --out coverage

The classifiers are x -> log_softmax(W x), W of known rank and with entries rounded to the dtype, at random x.
The oracle forms the weighted scores sqrt(p_y) (W_y - p W) and the centred rows W_y - mean W in float64,
whose singular values give the trace of G, its rank and the dimension of D_x. A rank is right where it counts
all that lie clearly above the tolerance of the package, and nothing that lies clearly below it or is there by
rounding. ``weights`` computes in float32 where W and x are of 16 bits; ``network`` casts x to the dtype of W,
as a network of 16 bits does.

By dtype, function, C and n: share of right ranks of D_x and of G, largest relative error of the trace.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import peer_common as common

import manifold_jax as mj
from manifold_jax.information.precision import promoted, rank_tolerances

CLEAR = 4.0
DTYPES = {"float64": jnp.float64, "float32": jnp.float32, "bfloat16": jnp.bfloat16}


def weights(w: jax.Array, x: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(w @ x)


def network(w: jax.Array, x: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(w @ x.astype(w.dtype))


FUNCTIONS = {"weights": weights, "network": network}


@jax.jit
def ours(log_prob: Any, x: jax.Array) -> tuple[mj.LocalDataRank, jax.Array]:
    return mj.local_data_rank(log_prob, x), mj.local_data_trace(log_prob, x)


def one(dtype: str, function: str, classes: int, pixels: int, rank: int, seed: int) -> dict[str, Any]:
    """Ranks and trace of one classifier."""
    rng = np.random.default_rng([classes, pixels, rank, seed])
    w = rng.normal(size=(classes, rank)) @ rng.normal(size=(rank, pixels)) / (rank * pixels) ** 0.5
    w, x = jnp.asarray(w, DTYPES[dtype]), jnp.asarray(rng.normal(size=pixels), DTYPES[dtype])
    log_prob = jax.tree_util.Partial(FUNCTIONS[function], w)
    ranks, value = ours(log_prob, x)
    of_pivots, of_eigenvalues = rank_tolerances(None, *promoted(log_prob, x))
    exact = np.asarray(w, np.float64)
    logits = exact @ np.asarray(x, np.float64)
    p = np.exp(logits - logits.max())
    p /= p.sum()
    centred, rows = exact - exact.mean(axis=0), np.sqrt(p)[:, None] * (exact - p @ exact)
    values, eigenvalues = (np.linalg.svd(a, compute_uv=False) ** k for a, k in ((centred, 1), (rows, 2)))
    # In float32 the rounding of W to bfloat16 is part of the classifier, in bfloat16 it is an error.
    most = rank if function == "network" or dtype != "bfloat16" else min(classes - 1, pixels)
    trace = float(eigenvalues.sum())
    return {
        "distribution": within(int(ranks.distribution), values, of_pivots, most),
        "matrix": within(int(ranks.matrix), eigenvalues, of_eigenvalues, most),
        "trace": abs(float(value) - trace) / trace,
    }


def within(rank: int, values: np.ndarray, tolerance: float, most: int) -> bool:
    """Whether a rank fits singular values; pivots and singular values differ by small factors."""
    share = values / (tolerance * values[0])
    return int(np.sum(share > CLEAR)) <= rank <= min(most, int(np.sum(share > 1 / CLEAR)))


def cell(dtype: str, function: str, classes: int, pixels: int, seeds: int) -> dict[str, Any]:
    """Shares over ranks and seeds."""
    most = min(classes - 1, pixels)
    ranks = sorted({1, (most + 1) // 2, most})
    runs = [one(dtype, function, classes, pixels, rank, seed) for rank in ranks for seed in range(seeds)]
    return {
        "dtype": dtype,
        "function": function,
        "classes": classes,
        "pixels": pixels,
        "runs": len(runs),
        "right_rank_distribution": float(np.mean([run["distribution"] for run in runs])),
        "right_rank_matrix": float(np.mean([run["matrix"] for run in runs])),
        "largest_error_of_trace": float(np.max([run["trace"] for run in runs])),
    }


def markdown(cells: list[dict[str, Any]], origin: dict[str, Any]) -> str:
    lines = [
        "# Rank and trace of the local data matrix",
        "",
        "Against NumPy in float64, by benchmarks/coverage_information.py.",
        "",
        "| dtype | function | C | n | runs | right rank of D_x | right rank of G | error of the trace |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in cells:
        lines.append(
            f"| {row['dtype']} | {row['function']} | {row['classes']} | {row['pixels']} | {row['runs']} "
            f"| {row['right_rank_distribution']:.0%} | {row['right_rank_matrix']:.0%} "
            f"| {row['largest_error_of_trace']:.0e} |"
        )
    machine = f"{origin['machine']['cpu']}, {origin['machine']['cores']} cores; {origin['device']}"
    return "\n".join([*lines, "", f"{machine}; jax {origin['versions']['jax']}; {origin['commit']}"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 10, 100])
    parser.add_argument("--pixels", type=int, nargs="+", default=[10, 784, 150_528])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="stem of files .json and .md; by default nothing is written")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    origin, cells = common.provenance(), []
    for dtype in DTYPES:
        for function in FUNCTIONS if dtype == "bfloat16" else ("weights",):
            for classes in options.classes:
                for pixels in options.pixels:
                    cells.append(cell(dtype, function, classes, pixels, options.seeds))
                    print(json.dumps(cells[-1]), file=sys.stderr, flush=True)
    print(markdown(cells, origin))
    if options.out:
        common.write_json(options.out.with_suffix(".json"), {"cells": cells, "provenance": origin})
        options.out.with_suffix(".md").write_text(markdown(cells, origin))


if __name__ == "__main__":
    main()
