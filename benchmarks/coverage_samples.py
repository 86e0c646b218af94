"""Do the bars of the reach and of the dimension from samples hold? Simulations on manifolds of known reach.

    python benchmarks/coverage_samples.py                            # about five minutes
    python benchmarks/coverage_samples.py --manifolds "two blobs" --sizes 2000 --noises 0.01 --repeats 12
    python benchmarks/coverage_samples.py --methods plug-in curvature distortion --tangents given estimated

Samples are uniform by volume, with Gaussian noise in all features, and tangents given (those of the points
before the noise) or estimated. Of each row: the share of resolved results, the share of these whose bar holds
the truth (coverage), the same of all results, the median of value / truth, and of bar / error at resolved
ones. From 1000 points on there are a third of the repeats. Everything is in float64. Written to
``coverage_samples.json`` and ``coverage_samples.md`` in ``--out``.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import jax
import numpy as np
import peer_common as common

import manifold_jax as mj

TURN = 2 * math.pi
Cloud = tuple[np.ndarray, np.ndarray]


def curve(points: np.ndarray, velocity: np.ndarray) -> Cloud:
    """Points and unit tangents."""
    return points, (velocity / np.linalg.norm(velocity, axis=1, keepdims=True))[:, None]


def chosen(rng: np.random.Generator, n: int, density: Callable[[np.ndarray], np.ndarray], most: float) -> Any:
    """Angles with this density, by rejection."""
    kept = np.zeros(0)
    while len(kept) < n:
        angle = rng.uniform(0, TURN, 4 * n)
        kept = np.concatenate([kept, angle[rng.uniform(0, most, 4 * n) < density(angle)]])
    return kept[:n]


def ellipse(rng: np.random.Generator, n: int, axis: float) -> Cloud:
    """Semi-axes ``axis`` and 1: the reach is 1 / axis."""
    t = chosen(rng, n, lambda t: np.hypot(axis * np.sin(t), np.cos(t)), axis)
    velocity = np.stack([-axis * np.sin(t), np.cos(t)], -1)
    return curve(np.stack([axis * np.cos(t), np.sin(t)], -1), velocity)


def torus(rng: np.random.Generator, n: int, major: float, minor: float) -> Cloud:
    """In R^3; the reach is the smaller of ``minor`` and ``major - minor``."""
    v, u = chosen(rng, n, lambda v: major + minor * np.cos(v), major + minor), rng.uniform(0, TURN, n)
    ring, zero = major + minor * np.cos(v), np.zeros(n)
    points = np.stack([ring * np.cos(u), ring * np.sin(u), minor * np.sin(v)], -1)
    around = np.stack([-np.sin(u), np.cos(u), zero], -1)
    across = np.stack([-np.sin(v) * np.cos(u), -np.sin(v) * np.sin(u), np.cos(v)], -1)
    return points, np.stack([around, across], 1)


def circles(rng: np.random.Generator, n: int, gap: float) -> Cloud:
    """Two unit circles next to each other: the reach is half their gap."""
    t = rng.uniform(0, TURN, n)
    points = np.stack([np.cos(t) + (2 + gap) * (np.arange(n) % 2), np.sin(t)], -1)
    return curve(points, np.stack([-np.sin(t), np.cos(t)], -1))


def blobs(rng: np.random.Generator, n: int, neck: float) -> Cloud:
    """Two blobs and a neck, half of which is the reach; the radius of curvature is at least 0.4."""

    def velocity(t: np.ndarray) -> np.ndarray:
        return np.stack([-2 * np.sin(t), np.cos(t) * (neck + (1 - neck) * (1 - 3 * np.sin(t) ** 2))], -1)

    t = chosen(rng, n, lambda t: np.linalg.norm(velocity(t), axis=1), 2.5)
    points = np.stack([2 * np.cos(t), np.sin(t) * (neck + (1 - neck) * np.cos(t) ** 2)], -1)
    return curve(points, velocity(t))


WAVES = np.random.default_rng(5).normal(size=(2, 3, 3)) / np.arange(1, 4)[:, None] ** 2


def wave(rng: np.random.Generator, n: int) -> Cloud:
    """A random Fourier curve in R^3; the reach is its smallest radius of curvature, by ``mj.reach``."""

    def velocity(t: np.ndarray) -> np.ndarray:
        angle = t[:, None] * [1, 2, 3]
        return -np.sin(angle) * [1, 2, 3] @ WAVES[0] + np.cos(angle) * [1, 2, 3] @ WAVES[1]

    most = float(np.linalg.norm(velocity(np.linspace(0, TURN, 4001)), axis=1).max())
    t = chosen(rng, n, lambda t: np.linalg.norm(velocity(t), axis=1), 1.01 * most)
    angle = t[:, None] * [1, 2, 3]
    return curve(np.cos(angle) @ WAVES[0] + np.sin(angle) @ WAVES[1], velocity(t))


def ball(rng: np.random.Generator, n: int) -> Cloud:
    """The unit sphere in R^3."""
    x = rng.normal(size=(n, 3))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x, np.linalg.svd(x[:, None])[2][:, 1:]


MANIFOLDS: dict[str, tuple[Callable[[np.random.Generator, int], Cloud], float]] = {
    "ellipse 3:1": (lambda rng, n: ellipse(rng, n, 3.0), 1 / 3),
    "ellipse 10:1": (lambda rng, n: ellipse(rng, n, 10.0), 0.1),
    "torus 2:0.5": (lambda rng, n: torus(rng, n, 2.0, 0.5), 0.5),
    "torus 2:1.5": (lambda rng, n: torus(rng, n, 2.0, 1.5), 0.5),
    "random curve in R^3": (wave, 0.194631126),
    "two blobs": (lambda rng, n: blobs(rng, n, 0.3), 0.3),
    "circles 0.4 apart": (lambda rng, n: circles(rng, n, 0.4), 0.2),
    "sphere": (ball, 1.0),
}
"""Samplers and the reach."""


def results(options: argparse.Namespace, name: str, n: int, noise: float) -> Iterator[tuple[str, Any, float]]:
    """Estimates and the truth, by what is estimated and how."""
    sampler, reach = MANIFOLDS[name]
    for repeat in range(options.repeats if n < 1000 else max(1, options.repeats // 3)):
        rng = np.random.default_rng([repeat, n])
        points, tangents = sampler(rng, n)
        points = points + noise * rng.normal(size=points.shape)
        d = tangents.shape[1]
        for method in options.methods:
            for label in options.tangents:
                frames = tangents if label == "given" else None
                estimate = mj.reach_from_samples(
                    points, frames, dimension=d, method=method, tolerance=options.tolerance
                )
                yield f"reach, {method}, tangents {label}", estimate, reach
        for method in options.dimensions:
            yield f"dimension, {method}", mj.fitting.intrinsic_dimension(points, method=method), float(d)


def row_of(estimates: list[tuple[float, float, bool]], truth: float) -> dict[str, Any]:
    """Shares and medians."""
    value, error, resolved = (np.array(column) for column in zip(*estimates, strict=True))
    covered, miss = np.abs(value - truth) <= error, np.maximum(np.abs(value - truth), 1e-15)
    resolved = resolved.astype(bool)
    return {
        "repeats": len(value),
        "resolved": float(resolved.mean()),
        "coverage": float(covered[resolved].mean()) if resolved.any() else None,
        "coverage of all": float(covered.mean()),
        "value / truth": float(np.median(value) / truth),
        "bar / error": float(np.median((error / miss)[resolved])) if resolved.any() else None,
    }


def cell(options: argparse.Namespace, name: str, n: int, noise: float) -> list[dict[str, Any]]:
    """The rows of one manifold, size and noise."""
    jax.config.update("jax_enable_x64", True)
    start, found = time.perf_counter(), dict[str, list[Any]]()
    for what, estimate, truth in results(options, name, n, noise):
        entry = (float(estimate.value), float(estimate.error), bool(estimate.resolved))
        found.setdefault(what, []).append((entry, truth))
    print(f"{name}, n = {n}, noise {noise:g}: {time.perf_counter() - start:.1f} s", flush=True)
    place = {"manifold": name, "n": n, "noise": noise}
    return [place | {"what": k} | row_of([e for e, _ in v], v[0][1]) for k, v in found.items()]


def measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows."""
    cells = zip(*product(options.manifolds, options.sizes, options.noises), strict=True)
    if options.jobs == 1:
        return [row for rows in map(partial(cell, options), *cells) for row in rows]
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        return [row for rows in pool.map(partial(cell, options), *cells) for row in rows]


HEADS = ("resolved", "coverage", "coverage of all", "value / truth", "bar / error")


def pooled(rows: list[dict[str, Any]]) -> list[str]:
    """A table of what is estimated and how, over all rows, weighted by repeats."""
    lines = ["| | results | resolved | coverage of these | coverage of all | worst row of these |"]
    lines.append("| --- " * 6 + "|")
    for what in dict.fromkeys(row["what"] for row in rows):
        mine = [row for row in rows if row["what"] == what]
        count = sum(row["repeats"] for row in mine)
        resolved = sum(row["repeats"] * row["resolved"] for row in mine)
        known = [row for row in mine if row["coverage"] is not None]
        held = sum(row["repeats"] * row["resolved"] * row["coverage"] for row in known)
        every = sum(row["repeats"] * row["coverage of all"] for row in mine)
        worst = min((row["coverage"] for row in known), default=math.nan)
        cells = (held / max(resolved, 1), every / count, worst)
        shares = " | ".join(f"{cell:.3f}" for cell in (resolved / count, *cells))
        lines.append(f"| {what} | {count} | {shares} |")
    return [*lines, ""]


def side_by_side(rows: list[dict[str, Any]]) -> list[str]:
    """A table of the methods for the reach next to each other: resolved, coverage, value / truth."""
    methods = [what for what in dict.fromkeys(row["what"] for row in rows) if what.startswith("reach")]
    heads = " | ".join(
        f"{what.removeprefix('reach, ')}: resolved, covered, value / truth" for what in methods
    )
    lines = [
        "## Side by side",
        "",
        f"| manifold | n | noise | {heads} |",
        "| --- " * (3 + len(methods)) + "|",
    ]
    places = dict.fromkeys((row["manifold"], row["n"], row["noise"]) for row in rows)
    for place in places:
        cells = []
        for row in rows:
            if (row["manifold"], row["n"], row["noise"]) == place and row["what"] in methods:
                covered = "-" if row["coverage"] is None else f"{row['coverage']:.2f}"
                cells.append(f"{row['resolved']:.2f}, {covered}, {row['value / truth']:.3g}")
        lines.append(f"| {place[0]} | {place[1]} | {place[2]:g} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def markdown(rows: list[dict[str, Any]], origin: dict[str, Any], options: argparse.Namespace) -> str:
    """One table for each quantity."""
    where = f"{origin['machine']['cpu']}, commit {origin['commit']}, {origin['time']}"
    lines = ["# Coverage of the bars of estimates from samples", ""]
    lines += [
        f"By `benchmarks/coverage_samples.py`, {options.repeats} repeats of each row (a third",
        "from n = 1000 on), float64, tolerance of",
    ]
    lines += [f"the reach {options.tolerance:g}, samples uniform by volume. {where}.", ""]
    lines += [
        "Coverage: share of the resolved results whose bar holds the truth; the last two are medians.",
        "",
    ]
    lines += [*pooled(rows), *side_by_side(rows)]
    for what in dict.fromkeys(row["what"] for row in rows):
        lines += [f"## {what}", "", "| manifold | n | noise | " + " | ".join(HEADS) + " |"]
        lines += ["| --- " * (3 + len(HEADS)) + "|"]
        for row in rows:
            if row["what"] == what:
                numbers = ("-" if row[head] is None else f"{row[head]:.3g}" for head in HEADS)
                cells = (row["manifold"], str(row["n"]), f"{row['noise']:g}", *numbers)
                lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Run, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--manifolds", nargs="+", choices=MANIFOLDS, default=list(MANIFOLDS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[100, 300, 1000])
    parser.add_argument("--noises", nargs="+", type=float, default=[0.0, 1e-3, 1e-2])
    parser.add_argument("--methods", nargs="*", default=["plug-in", "distortion"])
    parser.add_argument("--tangents", nargs="+", choices=("given", "estimated"), default=["estimated"])
    parser.add_argument("--dimensions", nargs="*", default=["MLE", "TwoNN"])
    parser.add_argument("--tolerance", type=float, default=0.1, help="up to which a reach is resolved")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=1, help="processes, each of which compiles for itself")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    rows, origin = measured(options), common.provenance()
    facts = {"origin": origin, "repeats": options.repeats, "tolerance": options.tolerance}
    common.write_json(options.out / "coverage_samples.json", facts | {"rows": rows})
    (options.out / "coverage_samples.md").write_text(markdown(rows, origin, options), encoding="utf-8")


if __name__ == "__main__":
    main()
