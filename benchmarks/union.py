"""The three sprites as one union of unit volume, beside what the notebook of the microscope paper says.

    python benchmarks/union.py                        # 7 x 12 x 3 x 3 points a class, exact derivatives
    python benchmarks/union.py --samples 18 16 18 18  # the grid of the paper

Smooth images of 64 x 64 pixels over the ranges of the paper: scales from half to one, a full turn (which
covers a square four times and an ellipse twice, as there), positions of 34 pixels each way. The paper
differentiates rasterised images by differences of order 2 on 18 x 16 x 18 x 18 of these points. Writes
union.md, .json and .png.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import peer_common as common
from command_results import table

from manifold_jax import Manifold, UnionGeometry, measure_union
from manifold_jax.datasets import sprite
from manifold_jax.plotting import plot_union, save_figure

SHAPES = ("square", "ellipse", "heart")
HALF = 17.0  # pixels from the middle to the ends of the positions
PAPER = {
    "volume": (0.53, 0.16, 0.25),
    "total_scalar_curvature": (-10.7, -17.5, -15.2),
    "total_positive_curvature": (226.0, 379.0, 323.0),
    "total_negative_curvature": (-247.0, -414.0, -353.0),
    "least_reach": (0.01, 0.0, 0.02),
}
"""Of the notebook, after scaling the union to volume 1."""


def classes(samples: list[int], blur: float) -> list[Manifold]:
    """The manifolds of the shapes."""
    sizes = dict(zip(("scale", "orientation", "y", "x"), samples, strict=True))
    ranges = dict.fromkeys(("y", "x"), (31.5 - HALF, 31.5 + HALF))
    options: dict[str, Any] = {"sizes": sizes, "ranges": ranges, "blur": blur, "full_turn": True}
    return [sprite(shape, layout="balanced", **options) for shape in SHAPES]


def rows_of(union: UnionGeometry) -> list[dict[str, Any]]:
    """Every number with its bar, next to the paper's."""
    rows = []
    for k, part in enumerate(union.classes):
        for name, known in PAPER.items():
            estimate = part.together.least if name == "least_reach" else getattr(part, name)
            value, error, resolved = float(estimate.value), float(estimate.error), bool(estimate.resolved)
            row = {"class": SHAPES[k], "quantity": name, "value": value, "error": error}
            rows.append(row | {"resolved": resolved, "paper": known[k]})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, nargs=4, default=[7, 12, 3, 3], help="scale, turn, y, x")
    parser.add_argument("--blur", type=float, default=0.8, help="of the images, in pixels")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    provenance = common.provenance()
    manifolds = classes(options.samples, options.blur)
    began = time.perf_counter()
    union = measure_union(manifolds, names=SHAPES, exact=True)
    seconds = time.perf_counter() - began
    rows = rows_of(union)
    settings = {"samples": options.samples, "blur": options.blur}
    result = {"provenance": provenance, "settings": settings, "seconds": seconds, "rows": rows}
    finite = [dict(row, error=row["error"] if row["error"] < float("inf") else None) for row in rows]
    common.write_json(options.out / "union.json", result | {"rows": finite, "summary": union.summary()})
    save_figure(plot_union(manifolds, union), options.out / "union.png")
    grid = " x ".join(map(str, options.samples))
    head = f"{grid} points a class, blur {options.blur} pixels, exact derivatives; {seconds:.0f} s on "
    head += f"{provenance['machine']['cpu']}; jax {provenance['versions']['jax']}; {provenance['commit']}."
    lines = ["# Three sprites as a union of unit volume", "", "By benchmarks/union.py. " + head, ""]
    lines += [
        *table(list(rows[0]), rows, digits=3),
        "",
        "```",
        union.summary(),
        "```",
        "",
        "![The union](union.png)",
    ]
    (options.out / "union.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
