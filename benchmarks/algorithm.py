"""Algorithm 1 of Grementieri & Fioresi as its code ran it, on the network and the pairs of its pictures.

    python benchmarks/algorithm.py --data FOLDER_OF_MNIST --weights small_cnn_01.npz --runs FOLDER

runs ``manifold-jax leaf algorithm`` (parts that the folder of the runs holds are not done again) on the pairs
of images whose pictures stand in the repository of the paper, and on pairs drawn at random, and writes
results/algorithm.md, .json and the pictures. The weights are those of the small network in its history
(commit 4c765df, after epoch 1), saved as an .npz file of the state dict.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import peer_common as common

NAMED = "3898:9709,4185:5874,857:4385,6311:6890,125:6349,4200:9792"
COLUMNS = ("way", "dtype", "clamp", "pairs", "reached", "ratio", "from", "to", "best", "speed", "vertical")
COLUMNS += ("of it logits", "s_C / s_C-1", "other label", "label of the destination", "noise")
DETAILED = ("full rank, clamped", "rank, clamped", "rank and random, clamped")


def run(name: str, options: argparse.Namespace, *extra: str) -> dict[str, Any]:
    """What a command wrote."""
    out = options.runs / name
    command = ["leaf", "algorithm", "--data", "mnist", "--path", options.data, "--preset", "full"]
    command += ["--weights", options.weights, "--max-steps", options.steps, *extra, "--out", out]
    code = "from manifold_jax.experiments.cli import main; main()"
    subprocess.run([sys.executable, "-c", code, *map(str, command)], check=True)
    return json.loads((out / "algorithm.json").read_text())


def cell(value: Any) -> str:
    """A value of a table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def table(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> list[str]:
    """Lines of a table."""
    lines = [columns, ["---"] * len(columns), *([cell(row[name]) for name in columns] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def pairs_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Every pair: where its paths end, and along what its full-rank steps left D_x in the second half."""
    rows = []
    for k, (source, destination) in enumerate(record["data"]["pairs"]):
        row: dict[str, Any] = {"pair": f"{source} to {destination}"}
        for name in DETAILED:
            distances = record["data"][name]["distances"][k]
            row[name.removesuffix(", clamped")] = distances[-1] / distances[0]
        first = record["data"][DETAILED[0]]
        for name in ("vertical", "logits"):
            values = np.array(first[name][k], float)
            row[f"{name}, full rank"] = float(np.nanmedian(values[len(values) // 2 :]))
        row["p at the end, full rank"] = first["confidence"][k][-1]
        rows.append(row)
    return rows


def markdown(result: dict[str, Any]) -> str:
    """Both tables of every run."""
    origin = result["provenance"]
    machine = f"{origin['machine']['cpu']}, {origin['machine']['cores']} cores"
    lines = ["# Algorithm 1: four ways to project a step", ""]
    lines += ["By benchmarks/algorithm.py, which says on what network and which pairs.", ""]
    lines += [f"{machine}; jax {origin['versions']['jax']}; {origin['commit']}; {origin['time']}."]
    for name, part in result["runs"].items():
        lines += [
            "",
            f"## {name}, {part['settings']['max_steps']} steps",
            "",
            *table(COLUMNS, part["rows"]),
            "",
        ]
        lines += [f"- {note}" for note in part["notes"]]
        lines += ["", *table(tuple(part["pairs"][0]), part["pairs"])]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST")
    parser.add_argument("--weights", type=Path, required=True, help="state dict of the small network")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--steps", type=int, default=5000, help="steps of every path")
    parser.add_argument("--pairs", type=int, default=0, help="pairs drawn at random, besides the named ones")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    runs = {"Pairs of the paper's repository": run("named", options, "--between", NAMED)}
    if options.pairs:
        runs["Pairs drawn at random"] = run("random", options, "--pairs", str(options.pairs))
    kept = {
        name: {key: record[key] for key in ("rows", "notes")}
        | {key: record["arguments"][key] for key in ("settings", "seed", "device", "version")}
        | {"pairs": pairs_of(record)}
        for name, record in runs.items()
    }
    result = {"provenance": common.provenance(), "runs": kept}
    common.write_json(options.out / "algorithm.json", result)
    for stem in ("algorithm_curves.png", "algorithm_images.png"):
        shutil.copy(options.runs / "named" / stem, options.out / stem)
    (options.out / "algorithm.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
