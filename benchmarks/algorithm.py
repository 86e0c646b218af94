"""Algorithm 1 of Grementieri & Fioresi as its code ran it, on the network and the pairs of its pictures.

    python benchmarks/algorithm.py --data FOLDER_OF_MNIST --weights FOLDER --runs FOLDER named random

runs ``manifold-jax leaf algorithm`` (what the folder of the runs holds is not done again) and writes
results/algorithm.md, .json and the pictures; parts that are not asked for stay as they are. The parts:

    named     the pairs of images whose pictures stand in the repository of the paper
    random    pairs drawn at random
    epoch2 to epoch5   the named pairs after these epochs
    noisy-valid, noisy-own, noisy-noisy, valid-noisy, valid-mirrored, valid-letter
              pairs drawn at random, from and to these; own is the image before the noise
    lenet     pairs drawn at random, on LeNet as PyTorch initialises it after --train steps
    cifar10   the same on VGG11 with batch normalisation, of --width channels, by steps of 1 (--cifar10)

Paths from noise have 10 000 steps, others 5000, as in the paper. The weights are those of the small network
in the history of the repository (4c765df, after epoch 1 unless the part says otherwise), saved as .npz files
of the state dicts, small_cnn_01.npz to small_cnn_05.npz.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import peer_common as common
from command_results import latest, origin_words, run_command, settings_of, table
from scipy.stats import spearmanr

NAMED = "3898:9709,4185:5874,857:4385,6311:6890,125:6349,4200:9792"
COLUMNS = ("way", "dtype", "clamp", "pairs", "reached", "ratio", "from", "to", "best", "speed", "vertical")
COLUMNS += ("of it logits", "s_C / s_C-1", "other label", "label of the destination", "noise")
SHORT = ("full rank", "rank", "rank and random")
DETAILED = ("full rank, clamped", "rank, clamped", "rank and random, clamped")


KINDS = ("noisy-valid", "noisy-own", "noisy-noisy", "valid-noisy", "valid-mirrored", "valid-letter")
PARTS = ("named", "random", *(f"epoch{k}" for k in range(2, 6)), *KINDS, "lenet", "cifar10")


def title(part: str, options: argparse.Namespace) -> str:
    """The heading of a part."""
    if part == "lenet":
        return f"LeNet after {options.train} steps, pairs drawn at random"
    if part == "cifar10":
        network = f"VGG11 with batch normalisation, {options.width} channels"
        return f"{network}, on CIFAR-10 (lossy subset) after {options.train} steps, pairs drawn at random"
    if part in KINDS:
        source, destination = part.split("-")
        destination = {"own": "its own image"}.get(destination, destination)
        return f"{source} to {destination}, pairs drawn at random"
    if part.startswith("epoch"):
        return f"Pairs of the paper's repository, epoch {part[5:]}"
    return {"named": "Pairs of the paper's repository", "random": "Pairs drawn at random"}[part]


def arguments(part: str, options: argparse.Namespace) -> list[Any]:
    """What the command is given for a part."""
    trained = ["--init", "torch", "--steps", options.train, "--pairs", options.pairs]
    if part == "cifar10":
        data = ["--data", "cifar10", "--path", options.cifar10, "--step-size", 1]
        return [*data, "--batch-norm", "--width", options.width, *trained]
    chosen = ["--data", "mnist", "--path", options.data]
    if part == "lenet":
        chosen += trained
    else:
        epoch = int(part[5:]) if part.startswith("epoch") else 1
        chosen += ["--weights", options.weights / f"small_cnn_{epoch:02d}.npz"]
        named = part == "named" or part.startswith("epoch")
        chosen += ["--between", NAMED] if named else ["--pairs", options.pairs]
    if part in KINDS:
        source, destination = part.split("-")
        chosen += ["--source", source, "--destination", destination]
        chosen += ["--letters", options.letters] if destination == "letter" else []
    return chosen


def run(part: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a command wrote."""
    command = ["leaf", "algorithm", *arguments(part, options), "--preset", "full"]
    steps = options.steps or (10_000 if part.startswith("noisy") else 5000)
    command += ["--max-steps", steps, "--ways", options.ways]
    return run_command(command, options.runs / part, "algorithm")


def pictures(part: str) -> list[str]:
    """Names of the pictures of a part."""
    mark = "" if part == "named" else f"_{part}"
    return [f"algorithm{mark}_{stem}.png" for stem in ("curves", "images")]


def kept(part: str, record: dict[str, Any]) -> dict[str, Any]:
    """What the results hold of a part."""
    found = {key: record[key] for key in ("rows", "notes")} | settings_of(record)
    found |= {"pairs": pairs_of(record), "pictures": pictures(part), "halfway": halfway(record)}
    return found | {"provenance": common.provenance()}


def halfway(record: dict[str, Any]) -> dict[str, Any]:
    """After half of the steps, with the clamp: their number, and what is left of the distance (medians)."""
    left = {}
    for way, name in zip(SHORT, DETAILED, strict=True):
        if name in record["data"]:
            steps, distances = (np.asarray(record["data"][name][key]) for key in ("step", "distances"))
            middle = len(steps) // 2
            left |= {
                way: float(np.median(distances[:, middle] / distances[:, 0])),
                "steps": int(steps[middle]),
            }
    return left


def pairs_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Every pair: where its paths end, and along what its full-rank steps left D_x in the second half."""
    rows = []
    for k, (source, destination) in enumerate(record["data"]["pairs"]):
        row: dict[str, Any] = {"pair": f"{source} to {destination}"}
        for name in (name for name in DETAILED if name in record["data"]):
            distances = record["data"][name]["distances"][k]
            row[name.removesuffix(", clamped")] = distances[-1] / distances[0]
        first = record["data"][DETAILED[0]]
        for name in ("vertical", "logits"):
            values = np.array(first[name][k], float)
            row[f"{name}, full rank"] = float(np.nanmedian(values[len(values) // 2 :]))
        row["p at the end, full rank"] = first["confidence"][k][-1]
        rows.append(row)
    return rows


def clamped(part: dict[str, Any], way: str) -> dict[str, Any]:
    """Row of a way as the paper walks it: single precision, with the clamp."""
    return next(r for r in part["rows"] if (r["way"], r["dtype"], r["clamp"]) == (way, "float32", True))


def in_brief(part: dict[str, Any], way: str) -> str:
    """What is left of the distance at the end, with 95 %, and after half of the steps where that is known."""
    words, half = "{ratio:.0%} [{from:.0%}, {to:.0%}]".format(**clamped(part, way)), part.get("halfway", {})
    return words + (f", {half[way]:.0%} after {half['steps']}" if way in half else "")


def in_short(runs: dict[str, Any]) -> list[str]:
    """What is left of the distance in every run, and what the runs say together."""
    code, leaf = ([clamped(part, way) for part in runs.values()] for way in ("full rank", "rank"))
    pairs = sum(row["pairs"] for row in leaf)
    reached = [round(sum(row["reached"] * row["pairs"] for row in rows)) for rows in (code, leaf)]
    outside = [row["vertical"] for row in code]
    sizes = [part["settings"].get("step_size", 0.1) for part in runs.values()]
    speeds, on_leaf = (
        [row["speed"] / size for row, size in zip(rows, sizes, strict=True)] for rows in (code, leaf)
    )
    every = [pair for part in runs.values() for pair in part["pairs"]]
    ends, logits = ([pair[name] for pair in every] for name in ("full rank", "logits, full rank"))
    correlated: Any = spearmanr(ends, logits)
    lines = ["**In short.** Of the distance are left at the end, with the clamp (median with 95 %):", ""]
    rows = [
        {"run": name, "pairs": part["rows"][0]["pairs"], "steps": part["settings"]["max_steps"]}
        | {way: in_brief(part, way) for way in SHORT}
        for name, part in runs.items()
    ]
    lines += [*table(tuple(rows[0]), rows), ""]
    lines += [
        f"- On the leaf ('rank') {reached[1]} of {pairs} paths arrive, by the projection of the code ('full "
        f"rank') {reached[0]}. The code takes the C gradients as independent: {min(outside):.0%} to "
        f"{max(outside):.0%} of the squared length of its steps is outside of D_x (medians of the runs).",
        f"- In the second half of the way a step of the code still comes nearer by {min(speeds):.1%} to "
        f"{max(speeds):.1%} of its length, one on the leaf by at most {max(on_leaf):.1%}. 'rank and random' "
        "has one random direction more in every step.",
        "- What is left of the distance by the code, and how far its direction outside of D_x is that of the "
        f"mean of the logits, the same in every step: rank correlation {correlated.statistic:.2f} over "
        f"{len(every)} pairs.",
        "",
    ]
    return lines


def markdown(result: dict[str, Any]) -> str:
    """What was found, and both tables of every run."""
    lines = ["# Algorithm 1: ways to project a step", ""]
    lines += ["By benchmarks/algorithm.py, which says on what network and which pairs.", ""]
    lines += in_short(result["runs"])
    lines += [f"- {note}" for note in next(iter(result["runs"].values()))["notes"]]
    for name, part in result["runs"].items():
        lines += ["", f"## {name}, {part['settings']['max_steps']} steps", ""]
        lines += [origin_words(part["provenance"]), ""]
        lines += [*table(COLUMNS, part["rows"]), "", *table(tuple(part["pairs"][0]), part["pairs"])]
        lines += ["", *(f"![{Path(file).stem}]({file})" for file in part["pictures"])]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", help=f"what to do, in this order: of {', '.join(PARTS)}; none writes the page"
    )
    parser.add_argument("--data", type=Path, help="folder of MNIST")
    parser.add_argument("--cifar10", type=Path, help="folder of CIFAR-10")
    parser.add_argument("--width", type=int, default=16, help="channels of the first layer of VGG11")
    parser.add_argument("--weights", type=Path, help="folder of the weights of the small network")
    parser.add_argument("--letters", type=Path, help="file of letters")
    parser.add_argument("--runs", type=Path, help="folder of the runs")
    parser.add_argument("--steps", type=int, help="steps of every path (default: the paper's)")
    parser.add_argument("--pairs", type=int, default=20, help="pairs drawn at random")
    parser.add_argument("--ways", type=int, default=5, help="ways to project a step, float64 last")
    parser.add_argument("--train", type=int, default=10_000, help="steps of the training of LeNet or VGG11")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if unknown := sorted({*options.parts} - {*PARTS}):
        parser.error(f"no part {', '.join(unknown)}: choose from {', '.join(PARTS)}")
    if options.parts and options.runs is None:
        parser.error("--runs is needed to run a part")
    place = options.out / "algorithm.json"
    result = json.loads(place.read_text()) if place.exists() else {"runs": {}}
    for part in options.parts:
        # An earlier run of the part, under another title, loses its pictures.
        others = {k: v for k, v in result["runs"].items() if v["pictures"] != pictures(part)}
        result["runs"] = others | {title(part, options): kept(part, run(part, options))}
        for stem, file in zip(("curves", "images"), pictures(part), strict=True):
            shutil.copy(latest(options.runs / part, f"algorithm_{stem}.png"), options.out / file)
    order = {tuple(pictures(part)): k for k, part in enumerate(PARTS)}
    places = {k: order.get(tuple(v["pictures"]), len(order)) for k, v in result["runs"].items()}
    result["runs"] = {k: result["runs"][k] for k in sorted(places, key=places.__getitem__)}
    common.write_json(place, result)
    (options.out / "algorithm.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
