"""Accuracy and measured orders of the stencils against closed forms, in float64.

    python benchmarks/convergence.py

1. The torus R = 2, r = 0.5 on 64 x 64 points: max|error| / max|S| of the scalar curvature by order.
2. Measured orders, log(error_1 / error_2) / log(n_2 / n_1) with n intervals, on warped charts: every
   coordinate is u + 0.3 sin u, since uniform angles make many errors vanish. On zones and patches the error
   is that on the outermost layers of an open axis, the border. Totals are integrals over a patch of open
   axes.

The table is printed and written to ``convergence.md`` and ``convergence.json`` in ``--out``.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import peer_common as common

import manifold_jax as mj

TURN = 2 * math.pi
MAJOR, MINOR, WARP = 2.0, 0.5, 0.3
ORDERS = (2, 4, 6, 8)
WANTED = {2: 6e-3, 4: 2e-5, 6: 5e-8, 8: 1e-9, "spectral": 1e-9}
"""Largest error wanted on the torus."""

Errors = dict[str, float]


def torus(u: jax.Array) -> jax.Array:
    ring = MAJOR + MINOR * jnp.cos(u[1])
    return jnp.stack([ring * jnp.cos(u[0]), ring * jnp.sin(u[0]), MINOR * jnp.sin(u[1])])


def sphere(u: jax.Array) -> jax.Array:
    return jnp.stack([jnp.sin(u[0]) * jnp.cos(u[1]), jnp.sin(u[0]) * jnp.sin(u[1]), jnp.cos(u[0])])


def three_sphere(u: jax.Array) -> jax.Array:
    c, s = jnp.cos(u[0]), jnp.sin(u[0])
    return jnp.stack([c * jnp.cos(u[1]), c * jnp.sin(u[1]), s * jnp.cos(u[2]), s * jnp.sin(u[2])])


def warped(embedding: Callable) -> Callable:
    return lambda u: embedding(u + WARP * jnp.sin(u))


def closed(name: str, size: int) -> mj.Axis:
    return mj.Axis(name, 0.0, TURN, size, periodic=True)


def fields(embedding: Callable, grid: mj.Grid, accuracy: Any) -> tuple[np.ndarray, np.ndarray]:
    """Scalar curvature and volume element by stencils on stored points."""
    points = jax.jit(jax.vmap(embedding))(grid.coordinates().reshape(-1, grid.ndim))

    @jax.jit
    def measures(points: jax.Array) -> tuple[jax.Array, jax.Array]:
        gram = mj.gram_from_grid(points, grid, accuracy=accuracy)
        return mj.scalar_curvature(gram), mj.volume_element(gram)

    curvature, volume = measures(points.reshape(*grid.shape, -1))
    return np.asarray(curvature), np.asarray(volume)


def relative(value: np.ndarray, truth: np.ndarray) -> float:
    return float(np.abs(value - truth).max() / np.abs(truth).max())


def torus_errors(size: int, accuracy: Any, warp: bool) -> Errors:
    """Errors of both fields on the whole torus."""
    grid = mj.Grid((closed("around", size), closed("along", size)))
    curvature, volume = fields(warped(torus) if warp else torus, grid, accuracy)
    u = np.moveaxis(np.asarray(grid.coordinates()), -1, 0)
    v = u[1] + WARP * np.sin(u[1]) if warp else u[1]
    stretch = np.prod(1 + WARP * np.cos(u), axis=0) if warp else 1.0
    ring = MAJOR + MINOR * np.cos(v)
    return {
        "S": relative(curvature, 2 * np.cos(v) / (MINOR * ring)),
        "dV": relative(volume, MINOR * ring * stretch),
    }


def zone_errors(embedding: Callable, ends: tuple[float, float], size: int, accuracy: int) -> Errors:
    """Error of S on both ends of a zone of a unit sphere: the first axis open, the others closed."""
    d = 2 if embedding is sphere else 3
    turns = (closed(f"turn {k}", 2 * size - 2) for k in range(d - 1))
    grid = mj.Grid((mj.Axis("height", *ends, size), *turns))
    curvature, _ = fields(warped(embedding), grid, accuracy)
    return {"S": relative(curvature[[0, -1]], np.full(1, d * (d - 1.0)))}


def patch_errors(size: int, accuracy: int) -> Errors:
    """Error of S on the border, corners included, of a patch of the sphere with two open axes."""
    grid = mj.Grid((mj.Axis("a", 0.4, 2.0, size), mj.Axis("b", 0.2, 2.2, size)))
    curvature, _ = fields(warped(sphere), grid, accuracy)
    border = np.ones(grid.shape, bool)
    border[1:-1, 1:-1] = False
    return {"S": relative(curvature[border], np.full(1, 2.0))}


def total_errors(size: int, accuracy: int) -> Errors:
    """Errors of volume and total curvature of a patch of the torus with two open axes."""
    low, high = np.array([0.2, -0.4]), np.array([1.7, 1.6])
    grid = mj.Grid((mj.Axis("around", low[0], high[0], size), mj.Axis("along", low[1], high[1], size)))
    curvature, volume = (jnp.asarray(x) for x in fields(warped(torus), grid, accuracy))
    ends = np.stack([low, high]) + WARP * np.sin([low, high])
    around, along = np.diff(ends, axis=0)[0]
    sine = np.diff(np.sin(ends[:, 1]))[0]
    area, total = MINOR * around * (MAJOR * along + MINOR * sine), 2 * around * sine
    return {
        "volume": abs(float(mj.integrate(1.0, volume, grid, accuracy=accuracy)) / area - 1),
        "total S": abs(float(mj.integrate(curvature, volume, grid, accuracy=accuracy)) / total - 1),
    }


Case = tuple[Callable[[int, int], Errors], dict[int, tuple[int, int]], int]
CASES: dict[str, Case] = {
    # Function of (size, order), the two sizes by order, samples less intervals.
    "warped torus": (
        partial(torus_errors, warp=True),
        {2: (48, 96), 4: (48, 96), 6: (48, 80), 8: (64, 96)},
        0,
    ),
    "border of a sphere zone": (
        partial(zone_errors, sphere, (0.5, 1.8)),
        {2: (49, 97), 4: (65, 97), 6: (49, 65), 8: (25, 29)},
        1,
    ),
    "border of a sphere patch with corners": (patch_errors, {2: (49, 97), 4: (65, 97)}, 1),
    "border of an S^3 zone": (
        partial(zone_errors, three_sphere, (0.3, 1.0)),
        {2: (25, 33), 4: (25, 33), 6: (25, 29), 8: (25, 29)},
        1,
    ),
    "totals of a torus patch": (
        total_errors,
        {2: (33, 65), 4: (129, 193), 6: (49, 65), 8: (33, 49)},
        1,
    ),
}


def rate(errors: tuple[float, float], intervals: tuple[int, int]) -> float:
    return math.log(errors[0] / errors[1]) / math.log(intervals[1] / intervals[0])


def torus_table() -> list[dict[str, Any]]:
    """The torus at 64 x 64 by every order."""
    rows = []
    for accuracy, wanted in WANTED.items():
        error = torus_errors(64, accuracy, warp=False)["S"]
        rows.append({"accuracy": accuracy, "error": error, "wanted": wanted})
        print(f"torus 64 x 64, order {accuracy}: {error:.1e} (wanted {wanted:.0e})", flush=True)
    return rows


def order_table() -> list[dict[str, Any]]:
    """Measured orders of every case."""
    rows = []
    for name, (errors_of, sizes_of, extra) in CASES.items():
        for accuracy, sizes in sizes_of.items():
            coarse, fine = (errors_of(size, accuracy) for size in sizes)
            intervals = (sizes[0] - extra, sizes[1] - extra)
            for quantity in coarse:
                errors = coarse[quantity], fine[quantity]
                row = {"case": name, "quantity": quantity, "accuracy": accuracy, "sizes": sizes}
                row |= {"errors": errors, "order": rate(errors, intervals)}
                rows.append(row)
                print(f"{name}, {quantity}, order {accuracy}: measured {row['order']:.2f}", flush=True)
    return rows


def markdown(result: dict[str, Any]) -> str:
    """Both tables; misses in bold."""
    origin = result["provenance"]
    place = f"{origin['machine']['cpu']}, {origin['machine']['cores']} cores; {origin['device']}"
    made = f"jax {origin['versions']['jax']}; {origin['commit']}"
    lines = [
        "# Stencils against closed forms",
        "",
        f"float64, by benchmarks/convergence.py. {place}; {made}.",
        "",
        "Torus R = 2, r = 0.5 on 64 x 64 points, scalar curvature:",
        "",
        "| order | max error / max S | wanted |",
        "|---|---:|---:|",
    ]
    for row in result["torus"]:
        error = f"{row['error']:.1e}" if row["error"] <= row["wanted"] else f"**{row['error']:.1e}**"
        lines.append(f"| {row['accuracy']} | {error} | {row['wanted']:.0e} |")
    lines += [
        "",
        "Measured orders on warped charts (u + 0.3 sin u on every axis), wanted within 0.2, totals not lower "
        "by more than 0.2:",
        "",
        "| case | quantity | order | samples | errors | measured |",
        "|---|---|---:|---|---|---:|",
    ]
    for row in result["orders"]:
        off = row["order"] - row["accuracy"]
        good = off >= -0.2 if "totals" in row["case"] else abs(off) <= 0.2
        measured = f"{row['order']:.2f}" if good else f"**{row['order']:.2f}**"
        lines.append(
            f"| {row['case']} | {row['quantity']} | {row['accuracy']} | {', '.join(map(str, row['sizes']))} "
            f"| {', '.join(f'{error:.1e}' for error in row['errors'])} | {measured} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    origin = common.provenance()
    result = {"torus": torus_table(), "orders": order_table(), "provenance": origin}
    common.write_json(options.out / "convergence.json", result)
    text = markdown(result)
    (options.out / "convergence.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
