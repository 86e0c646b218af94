"""What pages of studies say in short: sentences whose numbers are read from the records of the studies."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from command_results import wilson

Runs = Mapping[str, Any]
"""Records of the studies of a page by the key of the study."""

Finding = Callable[[Runs], str]


def span(values: Sequence[float], digits: int = 2) -> str:
    """Least and largest of some numbers."""
    low, high = (
        f"{value:.{digits}f}".replace("-0." + "0" * digits, "0." + "0" * digits)
        for value in (min(values), max(values))
    )
    return low if low == high else f"{low} to {high}"


# --- layers -------------------------------------------------------------------------------------------------


def _held(runs: Runs, study: str, words: str, part: str) -> str:
    """In how many runs a claim holds in a part of the network; of several checkpoints the last."""
    rows = runs[study]["data"]["claims"]
    row = next(row for row in reversed(rows) if words in row["claim"] and row["layers"] == part)
    return f"{row['holds in']} of {row['runs']}"


def before_learning(runs: Runs) -> str:
    first = f"step {runs['evolution']['data']['steps'][0]}"
    grows, falls = (
        _held(runs, "evolution", f"{what} with depth, {first}", "all")
        for what in ("curvature grows", "reach falls")
    )
    return (
        f"*Random weights do it already.* Before any training mean |II| grows with depth in {grows} runs and "
        f"the reach falls in {falls}: neither is a sign of learning."
    )


def after_learning(study: str, name: str) -> Callable[[Runs], str]:
    def words(runs: Runs) -> str:
        last = f"step {runs[study]['data']['steps'][-1]}"
        curvature, reach = f"curvature grows with depth, {last}", f"reach falls with depth, {last}"
        encoder, decoder = (_held(runs, study, curvature, part) for part in ("encoder", "decoder"))
        falls, below = (_held(runs, study, reach, part) for part in ("encoder", "decoder"))
        return (
            f"*{name}, {last}.* Mean |II| grows along the encoder in {encoder} runs and along the decoder in "
            f"{decoder}; the reach falls along the encoder in {falls} and along the decoder in {below}."
        )

    return words


def every_class(runs: Runs) -> str:
    shares = []
    for shape in ("ellipse", "square", "heart"):
        held = _held(runs, "evolution", f"reach falls with depth, {shape} sprite alone", "encoder")
        shares.append(f"{shape} {held}")
    return f"*Each class by itself:* the reach falls along the encoder in {', '.join(shares)} runs."


def sampled_latent(runs: Runs) -> str:
    first = runs["sampled"]["rows"][0]
    ratio = first["|II|, sampled"] / first["|II|, mu"]
    at_mean, drawn = (
        _held(runs, "sampled", f"curvature grows with depth, {z}", "decoder") for z in ("z = mu", "z sampled")
    )
    return (
        f"*A latent that is sampled at every grid point, as in the reference,* has {ratio:.1f} times the "
        f"|II| of z = mu, and |II| grows along the decoder in {drawn} runs, at z = mu in {at_mean}."
    )


def bars(runs: Runs) -> str:
    rows = runs["stencils"]["rows"]
    least = min(row[f"{short} cover"] for row in rows for short in ("dV", "|II|"))
    return f"*Stencils and exact jets:* in every layer their bars cover at {least:.1%} of the points or more."


def kinks(runs: Runs) -> str:
    rows = [row for row in runs["spacing"]["rows"] if row["layer"] != "input"]
    relu, silu = (span([row["exponent"] for row in rows if row["network"] == n]) for n in ("relu", "silu"))
    return (
        f"*After ReLU, as published,* the largest curvature by stencils grows with the number of samples, "
        f"exponents {relu} over the layers (after SiLU {silu}): it is a number about the grid."
    )


# --- leaf ---------------------------------------------------------------------------------------------------


def ranks(study: str, name: str) -> Finding:
    def words(runs: Runs) -> str:
        record = runs[study]
        before, after, many = record["rows"]
        images, right = record["arguments"]["settings"]["images"], record["arguments"]["test images right"]
        classes = many["bound C - 1"] + 1
        return (
            f"*{name}, rank at {images} test images.* At {after['network']} ({right} of the test images "
            f"right) the distribution D has rank {_ranks(after, 'D')}, before training "
            f"{_ranks(before, 'D')}, where C - 1 = {after['bound C - 1']} is the most that it can have; G, "
            f"which loses rank where p saturates, has {_ranks(after, 'G')}. With {classes} classes D has "
            f"rank {_ranks(many, 'D')} before training."
        )

    return words


def _ranks(row: Mapping[str, Any], of: str) -> str:
    return span([row[f"rank {of}: least"], row[f"rank {of}: most"]], 0)


def _arrived(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many paths arrive between the same pairs, in the best of several ways."""
    pairs, share = rows[0]["pairs"], max(row["reached"] for row in rows)
    most = wilson(share, pairs)[1]
    return f"{round(share * pairs)} of {pairs} paths arrive (95 %: at most {most:.0%})"


def over_training(runs: Runs) -> str:
    rows = runs["sweep"]["rows"]
    steps = ", ".join(str(step) for step in dict.fromkeys(row["checkpoint"] for row in rows))
    words = []
    for clamp in (True, False):
        left = ", ".join(f"{row['ratio']:.0%}" for row in rows if row["clamp"] is clamp)
        words.append(f"{left} {'with' if clamp else 'without'} the clamp")
    return (
        f"*Ends of paths over the training.* After {rows[0]['steps']:.0f} steps of {rows[0]['step']:g} are "
        f"left of the distance, at the checkpoints {steps}: {' and '.join(words)} (medians of "
        f"{rows[0]['pairs']} pairs, "
        f"without intervals). At any of these checkpoints {_arrived(rows)}."
    )


def ways_to_walk(runs: Runs) -> str:
    rows = runs["ways"]["rows"]
    left = ", ".join(
        f"{row['ratio']:.0%} ({row['kind']} steps of {row['step']:g}{', clamped' * row['clamp']})"
        for row in rows
    )
    off = ", ".join(f"{row['drift/length'] * row['length']:.1f}" for row in rows)
    steps = span([row["steps"] for row in rows], 0)
    return (
        f"*{len(rows)} ways to walk.* After {steps} steps (medians) {_arrived(rows)} in any way. Of the "
        f"distance are left, as medians: {left}. In the same order they have left the leaf by about {off} "
        "units (drift times length, of the medians)."
    )


def cifar10_paths(runs: Runs) -> str:
    rows = runs["cifar10_paths"]["rows"]
    first, last, longest = rows[0], rows[-1], max(row["length"] for row in rows)
    return (
        f"*CIFAR-10, paths.* {first['steps']:.0f} steps are short there: {longest:.0f} units of "
        f"{first['distance before']:.0f}. {_arrived(rows)}; {first['ratio']:.1%} of the distance is left "
        f"with the clamped steps of the paper, {last['ratio']:.1%} with error control (medians)."
    )


def cifar10_across(runs: Runs) -> str:
    rows, settings = runs["cifar10_across"]["rows"], runs["cifar10_across"]["arguments"]["settings"]
    images, walks = settings["images"], settings["images"] * settings["directions"]
    free, clamped = (next(row for row in reversed(rows) if row["clamp"] is clamp) for clamp in (False, True))
    low = wilson(free["same label"], images)[0]
    return (
        f"*CIFAR-10, across the leaves.* After {free['step']} steps {free['same label']:.0%} of {walks} "
        f"walks from {images} images keep their label without the clamp (95 %, by images: at least "
        f"{low:.0%}), {clamped['same label']:.0%} with it."
    )


def sprites_seen(runs: Runs) -> str:
    rows = runs["sprites"]["rows"]
    angle = next(row for row in rows if row["quantity"] == "principal angle 1")
    seen = {row["quantity"]: [] for row in rows if row["quantity"].startswith("visibility")}
    for row in rows:
        if row["quantity"] in seen:
            seen[row["quantity"]].append(row["median"] / row["untrained"])
    scale, *others = (seen[name] for name in seen)
    most = max(ratio for ratios in others for ratio in ratios)
    least = min(ratio for ratios in others for ratio in ratios)
    return (
        "*Two manifolds meet.* The smallest angle between the distribution and the tangents of the sprites "
        f"is {angle['untrained']:.0f} degrees before training and {angle['median']:.0f} after it (medians; "
        f"random directions {angle['random']:.0f}). Scale, which with the shape makes the classes, becomes "
        f"{span(scale, 1)} times as visible, orientation, y and x {least:.2f} to {most:.2f} times."
    )


# --- bounds -------------------------------------------------------------------------------------------------

NUMBER = r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?"


def numbers_in(text: Any) -> list[float]:
    """Numbers of a cell such as ``-0.93 [-0.96, -0.90]`` or ``-1.00 (-0.85)``; none of ``-``."""
    return [float(number) for number in re.findall(NUMBER, str(text))]


def slope_of(row: Mapping[str, Any]) -> list[float]:
    """Slope and its interval, empty where there is none."""
    return numbers_in(row["slope [95 %]"])


def _noiseless(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if "+" not in row["setting"]]


def follow_the_fit(study: str, name: str) -> Finding:
    def words(runs: Runs) -> str:
        rows = [row for row in _noiseless(runs[study]["rows"]) if row["theory"] != "-" and slope_of(row)]
        held, slopes = 0, dict[float, list[float]]()
        for row in rows:
            (slope, low, high), theory = slope_of(row), numbers_in(row["theory"])
            held += low <= max(theory) and min(theory) <= high
            slopes.setdefault(theory[0], []).append(slope)
        groups = "; ".join(f"{of:.2f}: {span(slopes[of])}" for of in sorted(slopes, reverse=True))
        return (
            f"*{name}: slopes without noise beside that of the fit,* n^(-k/d) with h^k its order. In "
            f"{held} of {len(rows)} cases the interval meets the range from this rate to the one with the "
            f"logarithm. Measured, by the slope of theory: {groups}."
        )

    return words


def degrees(runs: Runs) -> str:
    errors = {(row["setting"], row["fit"]): row["error"] for row in _noiseless(runs["toys"]["rows"])}
    pairs = [
        (float(error), float(errors[setting, "mmls3"]))
        for (setting, fit), error in errors.items()
        if fit == "mmls2"
    ]
    better = sum(second <= third for second, third in pairs)
    return (
        f"*Degree 2 and 3 of moving least squares:* at the largest n degree 2 is as near or nearer on "
        f"{better} of {len(pairs)} toys."
    )


def networks(runs: Runs) -> str:
    rows = _noiseless(runs["networks"]["rows"])
    flat = sum(low <= 0 <= high for _, low, high in map(slope_of, rows))
    errors = [float(row["error"]) for row in rows]
    return (
        f"*Networks* (denoising autoencoder, beta-VAE): the interval of the slope holds 0 in {flat} of "
        f"{len(rows)} cases, and the error at the largest n is {span(errors, 3)}: that of the training."
    )


def noise_and_neighbours(runs: Runs) -> str:
    rows = [r for r in runs["toys"]["rows"] if "+" in r["setting"] and r["fit"] in ("pca", "ref")]
    slopes = [slope_of(row)[0] for row in rows]
    share = runs["toys"]["arguments"]["settings"]["noise"]
    return (
        f"*With noise of {share:g} of the reach and a fixed number of neighbours* the slope of the error of "
        f"local PCA in n is {span(slopes)}."
    )


def explicit_bound(runs: Runs) -> str:
    least, vacuous, counted = [], 0, 0
    for study in ("toys", "sprites", "coil20"):
        sizes = runs[study]["arguments"]["settings"]["sizes"] if study in runs else []
        for note in runs[study]["notes"] if study in runs else []:
            if found := re.search(r"for C = (.*): vacuous below n = ([^;]*);", note):
                constants, limits = map(numbers_in, found.groups())
                least.append(limits[constants.index(1.0)])
                counted, vacuous = counted + 1, vacuous + (least[-1] > max(sizes))
    return (
        f"*The explicit bound* of Fefferman, Mitter & Narayanan (not verified against the paper) with C = 1 "
        f"is vacuous at every n here in {vacuous} of {counted} settings: it needs {min(least):.2g} to "
        f"{max(least):.2g} samples."
    )


def too_few(runs: Runs) -> str:
    rows = {(row["setting"], row["fit"]): row for row in runs["coil20"]["rows"]}
    slope, low, high = slope_of(rows["coil20 3", "pca"])
    theory = numbers_in(rows["coil20 3", "pca"]["theory"])
    largest = max(runs["coil20"]["arguments"]["settings"]["sizes"])
    return (
        f"*{largest} images of COIL-20 with three factors are too few for a rate:* the slope of local PCA is "
        f"{slope:.2f} [{low:.2f}, {high:.2f}], that of theory {theory[0]:.2f}; read as a rate it would be "
        f"taken for n^(-2/(2+d)), {-2 / 5:.2f}."
    )


def against_reach(runs: Runs) -> str:
    rows = [row for row in runs["reach"]["rows"] if row["in"] == "tau" and slope_of(row)]
    held = sum(low <= float(row["theory"]) <= high for row in rows for _, low, high in [slope_of(row)])
    return (
        f"*Tori of several reach:* in {held} of {len(rows)} cases the interval of the slope in the reach "
        "holds that of theory, tau^(1 - k/2)."
    )


def ambient_dimension(runs: Runs) -> str:
    rows, words = runs["ambient"]["rows"], []
    for fit in dict.fromkeys(row["fit"] for row in rows):
        clean = [row["RMS"] for row in rows if (row["fit"], row["noise"]) == (fit, "none")]
        change = max(abs(rms / clean[0] - 1) for rms in clean)
        slope = next(
            note.rsplit("log D ", 1)[1].rstrip(".")
            for note in runs["ambient"]["notes"]
            if note.startswith(f"{fit}, ambient noise")
        )
        words.append(f"{fit} changes by at most {change:.0e} of itself, with noise it grows as D^{slope}")
    dimensions = [row["D"] for row in rows]
    return (
        f"*From D = {min(dimensions)} to {max(dimensions)}* the RMS without noise of {'; of '.join(words)} "
        "(the same noise in every coordinate)."
    )


def at_a_border(runs: Runs) -> str:
    rows = runs["boundary"]["rows"]
    errors = {(row["setting"], row["fit"], row["where"]): row for row in rows}
    ratios, alike = [], 0
    for (setting, fit, where), border in errors.items():
        if where == "border":
            inner = errors[setting, fit, "interior"]
            ratios.append(float(border["RMS"]) / float(inner["RMS"]))
            (_, low, high), (_, least, most) = slope_of(border), slope_of(inner)
            alike += low <= most and least <= high
    return (
        f"*At a border* the RMS is {span(ratios, 1)} times that of the interior; the intervals of the two "
        f"slopes overlap in {alike} of {len(ratios)} cases."
    )


# --- calibration --------------------------------------------------------------------------------------------

GRID, EXACT = "grid, order 4", "autodiff"


def errors_at(record: Mapping[str, Any], size: int) -> dict[tuple[str, str], dict[str, float]]:
    """Errors at so many points by quantity and manifold, and then by method."""
    errors = dict[tuple[str, str], dict[str, float]]()
    for row in record["rows"]:
        if found := numbers_in(row.get(f"n = {size}", "-")):
            errors.setdefault((row["quantity"], row["of"]), {})[row["by"]] = found[0]
    return errors


def largest_size(record: Mapping[str, Any]) -> int:
    """The largest number of samples."""
    return max(record["arguments"]["settings"]["sizes"])


def grid_gains(record: Mapping[str, Any]) -> list[float]:
    """Least error of an estimator over that of the grid of as many points, where both measure something."""
    every = errors_at(record, largest_size(record)).values()
    return [
        min(error for name, error in errors.items() if name not in (GRID, EXACT)) / errors[GRID]
        for errors in every
        if GRID in errors and set(errors) - {GRID, EXACT}
    ]


def _of_quantity(runs: Runs, quantity: str, method: str) -> list[float]:
    errors = errors_at(runs["all"], largest_size(runs["all"]))
    return [found[method] for (name, _), found in errors.items() if name == quantity and method in found]


def grid_and_estimators(runs: Runs) -> str:
    gains = grid_gains(runs["all"])
    return (
        f"*The grid,* with as many points ({largest_size(runs['all'])}), is nearer than the best estimator "
        f"from samples in {sum(gain > 1 for gain in gains)} of {len(gains)} cases (quantities and "
        f"manifolds), {min(gains):.2g} to {max(gains):.2g} times."
    )


def tangents(runs: Runs) -> str:
    flat, curved = (_of_quantity(runs, "tangent", name) for name in ("local PCA", "quadratic regression"))
    gains = [pca / quadratic for pca, quadratic in zip(flat, curved, strict=True)]
    return (
        f"*Tangents:* quadratic regression is {min(gains):.2g} to {max(gains):.2g} times nearer than local "
        f"PCA at {largest_size(runs['all'])} points."
    )


def scalar_curvatures(runs: Runs) -> str:
    fits, balls = (_of_quantity(runs, "S", name) for name in ("quadratic regression", "geodesic balls"))
    rows = (row for row in runs["all"]["rows"] if (row["quantity"], row["by"]) == ("S", "geodesic balls"))
    slopes = [slope for row in rows for slope in numbers_in(row["slope"])]
    return (
        f"*Scalar curvature:* quadratic regression is off by {min(fits):.2g} to {max(fits):.2g} of the field "
        f"at {largest_size(runs['all'])} points, ball volumes with a density from the same points by "
        f"{min(balls):.2g} to {max(balls):.2g}, with slopes of {span(slopes)} in the number of points."
    )


def volumes_and_reach(runs: Runs) -> str:
    volume = _of_quantity(runs, "volume", "nearest neighbours")
    reach = _of_quantity(runs, "reach", "Federer plug-in")
    return (
        f"*Volume* by nearest neighbours is off by {min(volume):.1%} to {max(volume):.1%}, *reach* by "
        f"Federer's plug-in with estimated tangents by {min(reach):.1%} to {max(reach):.1%}, at "
        f"{largest_size(runs['all'])} points."
    )


def dimensions(runs: Runs) -> str:
    methods = dict.fromkeys(row["by"] for row in runs["all"]["rows"] if row["quantity"] == "dimension")
    worst = {name: max(_of_quantity(runs, "dimension", name)) for name in methods}
    words = ", ".join(f"{name} {worst[name]:.1%}" for name in sorted(worst, key=worst.__getitem__))
    return f"*Dimension,* largest error over the manifolds at {largest_size(runs['all'])} points: {words}."


def four_factors(runs: Runs) -> str:
    size, words = largest_size(runs["sprite4"]), []
    for (quantity, _), errors in errors_at(runs["sprite4"], size).items():
        others = [error for name, error in errors.items() if name not in (GRID, EXACT)]
        if quantity in ("tangent", "S", "|II|", "volume", "reach", "dimension") and others:
            words.append(f"{quantity} {min(others):.2g}")
    return f"*Four factors of a sprite,* least error of the estimators at {size} points: {', '.join(words)}."
