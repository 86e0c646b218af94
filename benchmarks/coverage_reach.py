"""Do the bars of the reach hold? Grids, borders and unions of known reach, exact and by stencils.

    python benchmarks/coverage_reach.py                              # a few minutes
    python benchmarks/coverage_reach.py --cases arc annulus --dtypes float64

Of each row: value, truth, bar, whether it is resolved, and whether the bar holds the truth. Written to
``coverage_reach.json`` and ``coverage_reach.md`` in ``--out``.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import peer_common as common

import manifold_jax as mj
from manifold_jax import datasets

TURN = 2 * math.pi
Parts = mj.Manifold | tuple[mj.Manifold, ...]


def ring(u: jax.Array) -> jax.Array:
    return jnp.stack([jnp.cos(u[0]), jnp.sin(u[0])])


def manifold(name: str, embedding: Callable, *axes: mj.Axis) -> mj.Manifold:
    return mj.Manifold(name, embedding, mj.Grid(axes), {})


def around(size: int, shift: float = 0.0) -> mj.Axis:
    return mj.Axis("angle", shift, shift + TURN, size, periodic=True)


def arc(size: int, opening: float) -> tuple[Parts, float]:
    part = manifold("arc", ring, mj.Axis("angle", opening / 2, TURN - opening / 2, size))
    return part, math.sin(opening / 2) if opening < math.pi else 1.0


def slit_cylinder(size: int) -> tuple[Parts, float]:
    axes = mj.Axis("angle", 0.05, TURN - 0.05, size), mj.Axis("height", 0.0, 1.0, 7)
    return manifold("slit", lambda u: jnp.stack([*ring(u), u[1]]), *axes), math.sin(0.05)


def zone(size: int, low: float, high: float, true: float) -> tuple[Parts, float]:
    def embedding(u: jax.Array) -> jax.Array:
        return jnp.stack([*(jnp.sin(u[0]) * ring(u[1:])), jnp.cos(u[0])])

    return manifold("zone", embedding, mj.Axis("polar", low, high, size), around(size, 0.1)), true


def hole(size: int) -> tuple[Parts, float]:
    def embedding(u: jax.Array) -> jax.Array:
        return (1 + u[1]) * jnp.array([2.0, 1.0]) * ring(u)

    return manifold("hole", embedding, around(size, 0.1), mj.Axis("outward", 0.0, 1.0, 9)), 0.5


def bent_square(size: int) -> tuple[Parts, float]:
    radius = math.sqrt(2) / (TURN - 0.2)

    def embedding(u: jax.Array) -> jax.Array:
        angle = (u[0] + u[1]) / math.sqrt(2) / radius
        return jnp.stack([*(radius * ring(angle[None])), (u[1] - u[0]) / math.sqrt(2)])

    axes = (mj.Axis(name, 0.0, 1.0, size) for name in "uv")
    return manifold("bent square", embedding, *axes), radius * math.sin(0.1)


def beside(size: int, big: float, small: float, gap: float) -> tuple[Parts, float]:
    def other(u: jax.Array) -> jax.Array:
        return small * ring(u) + jnp.array([big + gap + small, 0.0])

    parts = (
        manifold("big", lambda u: big * ring(u), around(size, 0.05)),
        manifold("small", other, around(size)),
    )
    return parts, min(gap / 2, small)


def thick_torus(size: int) -> tuple[Parts, float]:
    def embedding(u: jax.Array) -> jax.Array:
        return jnp.stack([*((2 + 1.25 * jnp.cos(u[1])) * ring(u)), 1.25 * jnp.sin(u[1])])

    axes = (mj.Axis(name, 0.31, 0.31 + TURN, size, True) for name in "ab")
    return manifold("thick torus", embedding, *axes), 0.75


def known(part: mj.Manifold) -> tuple[Parts, float]:
    return part, float(part.known["reach"])


CASES: dict[str, tuple[tuple[int, ...], Callable[[int], tuple[Parts, float]]]] = {
    "circle": ((32, 128), lambda n: known(datasets.circle(2.0, size=n))),
    "ellipse": ((64, 256), lambda n: known(datasets.ellipse((2.0, 1.0), size=n))),
    "torus": ((24, 32), lambda n: known(datasets.torus(2.0, 0.5, size=(n, n)))),
    "thick torus, shifted": ((24,), thick_torus),
    "sphere": ((17,), lambda n: known(datasets.sphere(2, size=(n, 2 * n)))),
    "helix": ((96, 192), lambda n: known(datasets.helix(1.0, 1.0, size=n))),
    "short helix": ((64,), lambda n: known(datasets.helix(1.0, 1.0, 0.9, size=n))),
    "swiss roll": ((97,), lambda n: known(datasets.swiss_roll(size=(n, 7)))),
    "arc, gap 0.1": ((32, 128), lambda n: arc(n, 0.1)),
    "arc, gap 1.5": ((64,), lambda n: arc(n, 1.5)),
    "less than half": ((64,), lambda n: arc(n, 4.0)),
    "slit cylinder": ((48,), slit_cylinder),
    "cap beyond the equator": ((24,), lambda n: zone(n, 0.0, 2.5, math.sin(2.5))),
    "zone": ((24,), lambda n: zone(n, 0.3, 1.2, math.sin(0.3))),
    "elliptical hole": ((48,), hole),
    "bent square": ((21,), bent_square),
    "two moons": ((97,), lambda n: (datasets.two_moons(size=n), 0.25)),
    "parallel circles": ((48,), lambda n: (datasets.parallel_circles(1.0, 0.5, size=n), 0.25)),
    "circles 10 : 0.01": ((48,), lambda n: beside(n, 10.0, 0.01, 1e-3)),
    "circles 1 : 0.001": ((40,), lambda n: beside(n, 1.0, 1e-3, 1e-4)),
}
"""Sizes, and from a size to a manifold or a union and its reach."""


def rows_of(name: str, dtype: str) -> list[dict[str, Any]]:
    """Rows of one case: every size, exact and by stencils."""
    rows = []
    sizes, make = CASES[name]
    with jax.enable_x64(dtype == "float64"):
        for size in sizes:
            for exact in (True, False):
                parts, true = make(size)
                start = time.perf_counter()
                result = mj.reach(parts, exact=exact)
                row = {
                    "case": name,
                    "size": size,
                    "dtype": dtype,
                    "derivatives": "exact" if exact else "stencil",
                }
                row |= {
                    "value": result.value,
                    "truth": true,
                    "bar": result.error,
                    "resolved": result.resolved,
                }
                row |= {"covered": abs(result.value - true) <= result.error, "decides": result.case}
                rows.append(row | {"seconds": time.perf_counter() - start})
    return rows


def markdown(rows: list[dict[str, Any]], origin: dict[str, Any]) -> str:
    """The table, and how many of its bars hold."""
    where = f"{origin['machine']['cpu']}, commit {origin['commit']}, {origin['time']}"
    resolved = [row for row in rows if row["resolved"]]
    held = sum(row["covered"] for row in resolved)
    heads = (
        "case",
        "size",
        "dtype",
        "derivatives",
        "value",
        "truth",
        "bar",
        "resolved",
        "covered",
        "decides",
    )
    lines = ["# Coverage of the bars of the reach", "", f"By `benchmarks/coverage_reach.py`. {where}.", ""]
    lines += [
        f"{len(resolved)} of {len(rows)} rows are resolved; the bar holds the truth in {held} of these, "
        f"and in {sum(row['covered'] for row in rows)} of all.",
        "",
        "| " + " | ".join(heads) + " |",
        "| --- " * len(heads) + "|",
    ]
    for row in rows:
        numbers = f"{row['value']:.7g}", f"{row['truth']:.7g}", f"{row['bar']:.1e}"
        verdicts = "yes" if row["resolved"] else "no", "yes" if row["covered"] else "**no**"
        cells = (row["case"], str(row["size"]), row["dtype"], row["derivatives"], *numbers, *verdicts)
        lines.append("| " + " | ".join((*cells, row["decides"])) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--dtypes", nargs="+", choices=("float64", "float32"), default=["float64", "float32"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    rows = [row for name in options.cases for dtype in options.dtypes for row in rows_of(name, dtype)]
    origin = common.provenance()
    common.write_json(options.out / "coverage_reach.json", {"origin": origin, "rows": rows})
    text = markdown(rows, origin)
    (options.out / "coverage_reach.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
