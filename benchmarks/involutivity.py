"""Is the distribution of a classifier involutive, and that over its parameters?

    python benchmarks/involutivity.py small lenet --data FOLDER_OF_MNIST --weights FILE --runs FOLDER

runs ``manifold-jax leaf involutivity`` on the weights in the history of the code of Grementieri & Fioresi
(small_cnn_05.npz), and on LeNet as PyTorch initialises it after --train steps. It writes
results/involutivity.md, .json and the pictures; parts that are not asked for stay as they are.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import peer_common as common
from command_results import latest, origin_words, run_command, settings_of, table

PARTS = ("small", "lenet")


def title(part: str, options: argparse.Namespace) -> str:
    """The heading of a part."""
    if part == "small":
        return f"The small network of the paper's repository, {options.weights.name}"
    return f"LeNet after {options.train} steps"


def run(part: str, options: argparse.Namespace) -> dict[str, Any]:
    """What the command wrote of a part, and what the results hold of it."""
    asked = ["leaf", "involutivity", "--data", "mnist", "--preset", "full", "--images", str(options.images)]
    given = asked + (["--init", "torch", "--steps", str(options.train)] if part == "lenet" else ["--weights"])
    chosen = [options.weights] if part == "small" else []
    folder = options.runs / part
    record = run_command([*given, *chosen, "--path", options.data], folder, "involutivity")
    picture = f"involutivity_{part}.png"
    shutil.copy(latest(folder, "involutivity.png"), options.out / picture)
    named = [*given, *(weights.name for weights in chosen)]
    found = {"command": named, "picture": picture, "provenance": common.provenance()}
    return found | {key: record[key] for key in ("rows", "notes")} | settings_of(record, "seconds")


def markdown(result: dict[str, Any]) -> str:
    """A table for every network."""
    lines = ["# Defect of involutivity", ""]
    lines += [f"- {note}" for note in next(iter(result["runs"].values()))["notes"]]
    for name, part in result["runs"].items():
        lines += ["", f"## {name}", "", f"`manifold-jax {' '.join(part['command'])}` by"]
        lines += [f"benchmarks/involutivity.py. {origin_words(part['provenance'])}", ""]
        lines += [*table(tuple(part["rows"][0]), part["rows"]), ""]
        lines += [f"![{Path(part['picture']).stem}]({part['picture']})"]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="+", choices=PARTS, help="networks, in this order")
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST")
    parser.add_argument("--weights", type=Path, help="weights of the small network")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--images", type=int, default=200, help="test images")
    parser.add_argument("--train", type=int, default=10_000, help="steps of the training of LeNet")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    place = options.out / "involutivity.json"
    result = json.loads(place.read_text()) if place.exists() else {"runs": {}}
    for part in options.parts:
        result["runs"][title(part, options)] = run(part, options)
    common.write_json(place, result)
    (options.out / "involutivity.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
