"""The claims of both papers, and where our results speak to them; read by claims.py.

Values are found in the JSON of a result by functions of its content. A verdict follows from the value: by a
rule that is data here, never by a word that was typed in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from command_results import wilson
from studies_findings import grid_gains, largest_size

from manifold_jax.experiments.fits.figures import FIGURE4
from manifold_jax.experiments.layers.quantities import depth_correlation

HOLDS, PART, FAILS, MECHANISM = "holds", "holds in part", "does not hold", "mechanism"
OPEN = "not resolved"  # the interval is so wide that the claim could not have failed
DIFFERS = "differs, by another protocol"  # nothing is said of the claim until its own protocol was run


class Value(NamedTuple):
    """A number with its interval; equal ends where there is none."""

    value: float
    low: float
    high: float
    unit: str = ""
    tested: bool = True  # False where the claim is about what was not made, such as a training to its end


Found = Value | None
Rule = Callable[[Value], str]


class Claim(NamedTuple):
    """What is claimed, and how it was tested; ``find`` is None where there is a table without JSON."""

    text: str
    protocol: str
    source: str
    find: Callable[[Any], Found] | None = None
    rule: Rule | None = None
    command: str = ""


def exactly(value: float) -> Value:
    """A number without an interval."""
    return Value(value, value, value)


def above(limit: float) -> Rule:
    """Holds where the interval lies at or above a limit, in part where it crosses it."""
    return lambda v: HOLDS if v.low >= limit else PART if v.high >= limit else FAILS


def below(limit: float) -> Rule:
    """Holds where the interval lies at or below a limit, in part where it crosses it."""
    return lambda v: HOLDS if v.high <= limit else PART if v.low <= limit else FAILS


def holding(target: float, slack: float = 0.0) -> Rule:
    """Holds where an interval, with ``slack``, contains a number; open where it is too wide to fail."""

    def rule(v: Value) -> str:
        if (v.high - v.low) / 2 > max(abs(target) / 2, slack):
            return OPEN
        return HOLDS if v.low - slack <= target <= v.high + slack else FAILS

    return rule


def elsewhere(rule: Rule) -> Rule:
    """A test by another protocol than that of the claim, which cannot refute it."""
    return lambda v: DIFFERS if rule(v) == FAILS else rule(v)


def explains(rule: Rule) -> Rule:
    """The number says how something comes about, where it passes a rule."""
    return lambda v: MECHANISM if rule(v) == HOLDS else FAILS


def returned(batch: str) -> Callable[[Any], Found]:
    """Where the trace is at the end of the training, over its first value."""

    def find(record: Any) -> Found:
        part = record["returns"][batch]
        low, high = part["last_interval"]
        return Value(part["last"], low, high, "of its value at step 100")

    return find


def trace_peak(batch: str) -> Callable[[Any], Found]:
    """The highest value over the first."""

    def find(record: Any) -> Found:
        part = record["returns"][batch]
        ratio = part["highest"] / part["first"]
        return Value(ratio, ratio, ratio, "times its value at step 100")

    return find


def last_row(column: str) -> Callable[[Any], Found]:
    """A column of the last row of the record of a training."""
    return lambda record: exactly(record["rows"][-1][column])


def walk(run: str, way: str, column: str, clamp: bool = True) -> Callable[[Any], Found]:
    """A column of the table of Algorithm 1 in float32; of ``ratio`` and ``reached`` with its interval."""

    def find(record: Any) -> Found:
        for row in record["runs"].get(run, {}).get("rows", []):
            if (row["way"], row["clamp"], row["dtype"]) == (way, clamp, "float32"):
                ends: tuple[float, float] = (row[column], row[column])
                ends = (row["from"], row["to"]) if column == "ratio" else ends
                ends = wilson(row["reached"], row["pairs"]) if column == "reached" else ends
                return Value(row[column], *ends, f"({row['pairs']} pairs, {row['steps']:.0f} steps)")
        return None

    return find


def of(run: str) -> str:
    """The title of a run within a sentence."""
    return run[0].lower() + run[1:] if run.split()[0].istitle() else run


def order(case: str, quantity: str, accuracy: int) -> Callable[[Any], Found]:
    """A measured order of convergence."""

    def find(record: Any) -> Found:
        for row in record["orders"]:
            if (row["case"], row["quantity"], row["accuracy"]) == (case, quantity, accuracy):
                return exactly(row["order"])
        return None

    return find


def in_layers(claim: str) -> Callable[[Any], Found]:
    """Rank correlation with depth over all layers at the last checkpoint, least and most of the runs."""

    def find(record: Any) -> Found:
        run = record["runs"]["evolution"]
        last = f"{claim}, step {run['data']['steps'][-1]}"
        row = next(r for r in run["data"]["claims"] if r["claim"] == last and r["layers"] == "all")
        return Value(row["rank correlation, mean"], row["least"], row["most"], f"({row['runs']} runs)")

    return find


def apart_in_layers(record: Any) -> Found:
    """Rank correlation with depth of the distance of classes over that within them."""
    rows = record["runs"]["evolution"]["rows"]
    return exactly(depth_correlation(np.array([row["apart"] for row in rows])))


def union(shape: str, quantity: str) -> Callable[[Any], Found]:
    """A normalised quantity of one sprite in the union, with its bar."""

    def find(record: Any) -> Found:
        for row in record["rows"]:
            if (row["class"], row["quantity"]) == (shape, quantity) and row["error"] is not None:
                return Value(row["value"], row["value"] - row["error"], row["value"] + row["error"])
        return None

    return find


def slope(fit: str, setting: str) -> Callable[[Any], Found]:
    """Slope of a fit in a table of bounds, of one setting."""

    def find(record: Any) -> Found:
        for row in record["rows"]:
            words = re.findall(r"-?\d+\.\d+", str(row.get("slope [95 %]", "")))
            here = row.get("setting") == setting and row.get("fit") == fit
            if here and len(words) == 3:
                middle, low, high = map(float, words)
                return Value(middle, low, high)
        return None

    return find


def share(column: str, where: str = "rows", **wanted: Any) -> Callable[[Any], Found]:
    """Least and largest value of a column over the rows that are wanted, and their median."""

    def find(record: Any) -> Found:
        rows = [row for row in record[where] if all(row.get(k) == v for k, v in wanted.items())]
        numbers = sorted(float(row[column]) for row in rows if row.get(column) is not None)
        return Value(numbers[len(numbers) // 2], numbers[0], numbers[-1]) if numbers else None

    return find


def across(clamp: bool, step: int) -> Callable[[Any], Found]:
    """Share of the images that have their label after so many steps."""

    def find(record: Any) -> Found:
        (row,) = (row for row in record["rows"] if (row["clamp"], row["step"]) == (clamp, step))
        images = record["settings"]["images"]
        return Value(row["same label"], row["low"], row["high"], f"({images} images, step {row['step']})")

    return find


def depth(run: str, network: str, quantity: str) -> Callable[[Any], Found]:
    """Rank correlation of a quantity of figure 6 with depth at the last checkpoint, over the runs."""

    def find(record: Any) -> Found:
        part = record["runs"][run]["data"]
        rows = [r for r in part["depth"] if (r["network"], r["quantity"]) == (network, quantity)]
        row = max((r for r in rows if r["layers"] == "all"), key=lambda r: r["step"])
        if row["mean"] is None:
            return None
        trained = row["step"] >= part["published_steps"]
        unit = f"in {row['counted']} layers, step {row['step']}, runs: {row['runs']}"
        return Value(row["mean"], row["least"], row["most"], unit, trained)

    return find


def network_over_mmls(record: Any) -> Found:
    """Largest error of the beta-VAE of figure 4 over that of MMLS: median, least and most."""
    part, settings = record["data"]["dsprites 4"], record["arguments"]["settings"]
    errors = [np.array(part[fit]["errors"]["maximum"]) for fit in ("vae-b", "ref")]
    ratios = errors[0] / errors[1]
    sizes, runs = ratios.shape
    unit = (
        f"times ({sizes} sizes, {runs} repetitions, {settings['steps']} steps, {settings['pixels']} pixels)"
    )
    trained = settings["steps"] >= FIGURE4.steps
    return Value(float(np.median(ratios)), float(ratios.min()), float(ratios.max()), unit, trained)


def involutive(run: str, over: str, by: str) -> Callable[[Any], Found]:
    """Median of the defect of involutivity."""

    def find(record: Any) -> Found:
        for row in record["runs"].get(run, {}).get("rows", []):
            if (row["over"], row["by"]) == (over, by):
                unit = f"({row['images']} images; random directions {row['random']:.4g})"
                return Value(row["defect"], row["from"], row["to"], unit)
        return None

    return find


def use(part: str, of: str, at: str) -> Callable[[Any], Found]:
    """A number of denoising, detection or generation; ``of`` is how its name begins."""

    def find(record: Any) -> Found:
        for row in record["runs"].get(part, {}).get("rows", []):
            if row["of"].startswith(of) and row["at"] == at:
                return Value(row["value"], row["low"], row["high"], f"({row['n']} images)")
        return None

    return find


def resolved_layers(run: str, network: str, column: str) -> Callable[[Any], Found]:
    """Share of the layers, at all checkpoints, in which a total is resolved."""

    def find(record: Any) -> Found:
        rows = [r for r in record["runs"][run]["data"]["rows"] if r["network"] == network]
        return exactly(sum(r[f"{column} resolved"] for r in rows) / len(rows))

    return find


def rank_of_distribution(study: str) -> Callable[[Any], Found]:
    """Least and most rank of D over the test images, after the training."""

    def find(record: Any) -> Found:
        row, images = (
            record["runs"][study]["rows"][1],
            record["runs"][study]["arguments"]["settings"]["images"],
        )
        ends = row["rank D: least"], row["rank D: most"]
        return Value(ends[0], *ends, f"({images} images, {row['network']})")

    return find


def cifar10_across(record: Any) -> Found:
    """Share of the images that keep their label to the end."""
    run = record["runs"]["cifar10_across"]
    images, row = run["arguments"]["settings"]["images"], run["rows"][-1]
    return Value(
        row["same label"], *wilson(row["same label"], images), f"({images} images, step {row['step']})"
    )


def bracketed(record: Any) -> Found:
    """Share of the sizes at which the error lies between the lower and the upper rate of the paper."""
    shares = []
    for setting in record["data"].values():
        fit, power = setting["ref"], 2 / (2 + setting["setting"]["dimension"])
        sizes, errors = np.array(fit["sizes"], float), np.array(fit["errors"]["maximum"], float)
        labels = fit["line of the paper"]["curves"][:2]
        low, high = (float(label.split("C = ")[1].split()[0]) for label in labels)
        above_low = np.nanmean(errors, axis=1) >= low * sizes**-power
        below_high = np.nanmean(errors, axis=1) <= high * (np.log(sizes) / sizes) ** power
        shares.append(float(np.mean(above_low & below_high)))
    return Value(float(np.mean(shares)), min(shares), max(shares))


def differences_beat(record: Any) -> Found:
    """Share of the cases in which a grid is nearer than the best estimator of as many points."""
    run = record["runs"]["all"]
    gains = grid_gains(run)
    share = sum(gain > 1 for gain in gains) / len(gains)
    return Value(share, share, share, f"of {len(gains)} cases, {largest_size(run)} points")


NAMED, RANDOM = "Pairs of the paper's repository", "Pairs drawn at random"
HISTORY = "python benchmarks/history.py"
ALGORITHM = "python benchmarks/algorithm.py"
ACROSS = "python benchmarks/across.py"
INVOLUTIVITY = "python benchmarks/involutivity.py"
USES = "python benchmarks/uses.py"
LEAVES = "python benchmarks/studies.py leaf"
EPOCHS = tuple(f"{NAMED}, epoch {k}" for k in range(2, 6))
LENET = "LeNet after 10000 steps"
RUNS = (NAMED, *EPOCHS, RANDOM, f"{LENET}, pairs drawn at random")
CIFAR10 = "VGG11 with batch normalisation, 16 channels, on CIFAR-10 (lossy subset) after 3000 steps"
CIFAR10 += ", pairs drawn at random"
FROM_NOISE = tuple(f"noisy to {end}, pairs drawn at random" for end in ("valid", "its own image"))
SMALL = "The small network of the paper's repository, small_cnn_05.npz"
INVOLVED = (SMALL, "weights after epoch 5"), (LENET, LENET)
LEAF, CLASS_ANCHOR = (
    "leaf from the nearest training image of the predicted class",
    "leaf distance (nearest image)",
)
LEVELS = ("sd 0.1", "sd 0.3", "sd 0.5")
UNION = "python benchmarks/union.py"
FIGURE6 = "python benchmarks/figure6.py"


def walks(
    text: str, runs: Sequence[str], ways: Sequence[str], column: str, rule: Any, more: str = ""
) -> list[Claim]:
    """The same claim of the paths of Algorithm 1 with the clamp, run by run and way by way."""
    return [
        Claim(text, f"{way}, clamped, {of(run)}{more}", "algorithm", walk(run, way, column), rule, ALGORITHM)
        for run in runs
        for way in ways
    ]


MODEL_CENTRIC = (
    Claim(
        "The trace of G rises first, and then falls back",
        "mean over a reference batch of the training, from step 100 on, raw",
        "history",
        trace_peak("reference batch, mean, raw"),
        above(1.0 + 1e-9),
        HISTORY,
    ),
    *(
        Claim(
            "At the end of the training the trace is not above its first value",
            f"{batch}, from step 100 on; one training",
            "history",
            returned(batch),
            below(1.0),
            HISTORY,
        )
        for kind in ("training batch", "reference batch", "test images")
        for batch in (f"{kind}, mean, raw", f"{kind}, mean, smoothed", f"{kind}, median, raw")
    ),
    Claim(
        "The Jacobian of log p has rank C - 1 = 9",
        "reference batch, end of the training",
        "history",
        last_row("rank J"),
        holding(9.0, 0.01),
        HISTORY,
    ),
    Claim(
        "G has rank C - 1 = 9",
        "reference batch, end of the training, mean of the images",
        "history",
        last_row("rank G"),
        holding(9.0, 0.01),
        HISTORY,
    ),
    *walks(
        "Horizontal paths join any two images (arrive within 1)",
        RUNS,
        ("rank", "full rank"),
        "reached",
        above(0.9),
    ),
    *walks(
        "Ends of the paths look like the destination (at most half of the distance is left)",
        RUNS,
        ("rank", "full rank", "rank and random"),
        "ratio",
        below(0.5),
    ),
    *walks(
        "Steps of the paper's code leave the distribution D_x: share of a step outside of it",
        RUNS,
        ("full rank",),
        "vertical",
        explains(above(0.1)),
    ),
    *(
        Claim(
            "Walks across the leaves keep the label, whatever the noise (at least 90 % of the images)",
            f"{step} steps, {'with' if clamp else 'without'} the clamp, weights after epoch 5",
            "across",
            across(clamp, step),
            above(0.9),
            ACROSS,
        )
        for clamp in (True, False)
        for step in (250, 1000)
    ),
    *(
        Claim(
            f"Paths lead to {words} too (arrive within 1)",
            "rank, clamped",
            "algorithm",
            walk(f"valid to {kind}, pairs drawn at random", "rank", "reached"),
            above(0.9),
            ALGORITHM,
        )
        for kind, words in (("letter", "letters"), ("mirrored", "mirrored digits"))
    ),
    *walks(
        "No path leads from noise to a valid image (arrives within 1)",
        FROM_NOISE,
        ("rank", "full rank"),
        "reached",
        below(0.2),
        "; to be compared with paths from valid images",
    ),
    *(
        Claim(
            f"Projection on a leaf removes noise: PSNR less that of {words}",
            f"{level}, from the nearest training image of the predicted class",
            "uses",
            use("denoise", f"{LEAF} less {other}", level),
            above(0.0),
            USES,
        )
        for words, other in (
            ("the noisy image, clipped", "the noisy image"),
            ("the better of total variation and principal components", "the better baseline"),
            ("the training image where it starts", "its anchor"),
        )
        for level in LEVELS
    ),
    Claim(
        "Distance from a leaf tells what is no image of the data: area under the ROC curve",
        "Fashion-MNIST, letters and noise; from the nearest training image; 0.5 is chance",
        "uses",
        use("detect", f"{CLASS_ANCHOR}, area", "vs all"),
        above(0.5 + 1e-9),
        USES,
    ),
    Claim(
        "Distance from a leaf tells more than distance from the nearest training image: difference of areas",
        "Fashion-MNIST, letters and noise",
        "uses",
        use("detect", f"{CLASS_ANCHOR} less", "vs all"),
        above(1e-9),
        USES,
    ),
    Claim(
        "Horizontal paths to images of the same class keep the label: share at their ends",
        "from test images, without the clamp",
        "uses",
        use("generate", "label kept, share", "leaf, same class"),
        above(0.95),
        USES,
    ),
    Claim(
        "Horizontal paths keep the label more often than straight lines as long: difference of shares",
        "to images of the same class",
        "uses",
        use("generate", "label kept, leaf less line", "same class"),
        above(1e-9),
        USES,
    ),
    *(
        Claim(
            "D of a ReLU network is involutive, across its linear regions too: defect (at most 0.1)",
            f"brackets by {by} in normalised grey levels, {network}",
            "involutivity",
            involutive(run, "pixels", by),
            below(0.1),
            INVOLUTIVITY,
        )
        for run, network in INVOLVED
        for by in ("differences over 0.01", "differences over 0.1", "differences over 1")
    ),
    *(
        Claim(
            "The distribution of F is not involutive: defect (at least 0.1)",
            f"over the parameters, by derivatives, {network}",
            "involutivity",
            involutive(run, "parameters", "derivatives"),
            above(0.1),
            INVOLUTIVITY,
        )
        for run, network in INVOLVED
    ),
    Claim(
        "On CIFAR-10 too D has rank C - 1 = 9",
        "test images of a lossy subset, a small network like VGG11: least and most",
        "leaf",
        rank_of_distribution("cifar10_rank"),
        above(9.0),
        LEAVES,
    ),
    *walks(
        "On CIFAR-10 too horizontal paths join any two images (arrive within 1)",
        (CIFAR10,),
        ("rank", "full rank"),
        "reached",
        above(0.9),
    ),
    *walks(
        "On CIFAR-10 too ends of paths look like the destination (at most half of the distance is left)",
        (CIFAR10,),
        ("rank", "full rank", "rank and random"),
        "ratio",
        below(0.5),
    ),
    Claim(
        "On CIFAR-10 too walks across the leaves keep the label (at least 90 % of the images)",
        "without the clamp, lossy subset, a small network like VGG11",
        "leaf",
        cifar10_across,
        above(0.9),
        LEAVES,
    ),
    Claim(
        "The rank of D is that of the network, by its centred Jacobian",
        "constructed networks, all sizes, both dtypes",
        "coverage_information",
        share("right_rank_distribution", "cells"),
        above(0.99),
        "python benchmarks/coverage_information.py",
    ),
)

MICROSCOPE = (
    *(
        Claim(
            f"{what}, by differences of order 2, converges as h^2",
            f"{case}, order between two grids",
            "convergence",
            order(case, quantity, 2),
            holding(2.0, 0.2),
            "python benchmarks/convergence.py",
        )
        for what, case, quantity in (
            ("The scalar curvature", "warped torus", "S"),
            ("The volume element", "warped torus", "dV"),
            ("The total volume", "totals of a torus patch", "volume"),
            ("The scalar curvature at a border", "border of a sphere zone", "S"),
        )
    ),
    *(
        Claim(
            f"Union of the sprites, of unit volume: {words} of the {shape} is {paper:g}",
            "smooth images, a coarse lattice over the ranges of the paper (there rasters, 18 x 16 x 18 x 18)",
            "union",
            union(shape, quantity),
            elsewhere(holding(paper, margin)),
            UNION,
        )
        for quantity, words, margin, papers in (
            ("volume", "volume", 0.05, (0.53, 0.16, 0.25)),
            ("total_scalar_curvature", "total S", 1.0, (-10.7, -17.5, -15.2)),
            ("total_positive_curvature", "positive part of total S", 5.0, (226.0, 379.0, 323.0)),
            ("total_negative_curvature", "negative part of total S", 5.0, (-247.0, -414.0, -353.0)),
            ("least_reach", "reach", 0.005, (0.01, 0.0, 0.02)),
        )
        for shape, paper in zip(("square", "ellipse", "heart"), papers, strict=True)
    ),
    *(
        Claim(
            f"Without noise the error of MMLS follows {rate}, d = {d}",
            "figure 3, the projection of the reference: slope of the largest error, upper half of the sizes",
            "figure3",
            slope("ref", f"dsprites {d}"),
            holding(exponent(d)),
            "python benchmarks/bounds_figures.py figure3",
        )
        for rate, exponent in (("n^(-2/(2+d))", lambda d: -2 / (2 + d)), ("n^(-1/d)", lambda d: -1 / d))
        for d in (1, 2, 3, 4)
    ),
    Claim(
        "A beta-VAE fits worse than MMLS",
        "figure 4: its largest error over that of MMLS; a short training (2 000 000 steps there)",
        "figure4",
        network_over_mmls,
        above(1.0),
        "python benchmarks/bounds_figures.py figure4",
    ),
    *(
        Claim(
            f"Without noise the error of MMLS follows {rate}: {name}",
            "figure 5, 20 repetitions: slope of the largest error, upper half of the sizes",
            "figure5",
            slope("ref", name),
            holding(exponent(d)),
            "python benchmarks/bounds_figures.py figure5 --data dsprites",
        )
        for rate, exponent in (("n^(-2/(2+d))", lambda d: -2 / (2 + d)), ("n^(-1/d)", lambda d: -1 / d))
        for name, d in (("circle", 1), ("moons", 1), ("sphere", 2), ("torus", 2), ("dsprites 4", 4))
    ),
    *(
        Claim(
            "Curves that are drawn bracket the errors (at least 95 % of the sizes)",
            f"{figure}, through 1 and 99 % of the line; least and most of the settings",
            figure.replace(" ", ""),
            bracketed,
            elsewhere(above(0.95)),
            f"python benchmarks/bounds_figures.py {figure.replace(' ', '')}",
        )
        for figure in ("figure 3", "figure 5")
    ),
    Claim(
        "Curvature grows with depth (rank correlation)",
        "2 factors, 5 runs, reduced beta-VAE, SiLU, union of unit volume",
        "layers",
        in_layers("curvature grows with depth"),
        elsewhere(above(1e-9)),
        "python benchmarks/studies.py layers",
    ),
    Claim(
        "Reach falls with depth (rank correlation)",
        "2 factors, 5 runs, reduced beta-VAE, SiLU, union of unit volume",
        "layers",
        in_layers("reach falls with depth"),
        elsewhere(below(-1e-9)),
        "python benchmarks/studies.py layers",
    ),
    Claim(
        "Classes separate with depth (rank correlation)",
        "2 factors, 5 runs, reduced beta-VAE, SiLU, union of unit volume",
        "layers",
        apart_in_layers,
        elsewhere(above(1e-9)),
        "python benchmarks/studies.py layers",
    ),
    *(
        Claim(
            f"Figure 6: {words} with depth (rank correlation {'above' if sign > 0 else 'below'} 0)",
            f"{kind}, {network}, union of unit volume, 4 factors, a short training (2 000 000 steps there)",
            "figure6",
            depth(run, network, quantity),
            above(1e-9) if sign > 0 else below(-1e-9),
            FIGURE6,
        )
        for run, kind, network in (
            ("published", "published beta-VAE", "relu"),
            ("published", "published beta-VAE", "silu"),
            ("reduced", "small beta-VAE", "relu"),
            ("reduced", "small beta-VAE", "silu"),
        )
        for quantity, words, sign in (
            ("positive S", "the positive part of total S grows", 1),
            ("negative S", "the negative part of total S falls", -1),
            ("least reach", "the least reach falls", -1),
            ("mean reach", "the average reach falls", -1),
            ("paired", "distances of classes at equal transformation grow", 1),
        )
    ),
    *(
        Claim(
            "Figure 6: differences of order 2 tell total S of a layer (share of layers resolved)",
            f"{kind} beta-VAE, {network}, a lattice that is coarser than the paper's",
            "figure6",
            resolved_layers(run, network, "stencils, S"),
            elsewhere(above(0.9)),
            FIGURE6,
        )
        for run, kind in (("published", "published"), ("reduced", "small"))
        for network in ("relu", "silu")
    ),
    Claim(
        "Differences beat estimators from samples (at least 90 % of quantities and manifolds)",
        "without noise, equal numbers of points, against the best of the estimators",
        "calibration",
        differences_beat,
        above(0.9),
        "python benchmarks/studies.py calibration",
    ),
)
