"""Walks across the leaves at the size of Grementieri & Fioresi, on the weights in the history of their code.

    python benchmarks/across.py --data FOLDER_OF_MNIST --weights small_cnn_05.npz --runs FOLDER

runs ``manifold-jax leaf across`` and writes results/across.md, .json and the pictures. 'low' and 'high' hold
the share of images that keep their label with 95 % (Wilson), with the images as what is drawn: directions at
one image count as one.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import peer_common as common
from command_results import latest, origin_words, run_command, settings_of, table, wilson

PICTURES = ("across_clamped", "across_free", "across_curves")


def markdown(result: dict[str, Any]) -> str:
    """The table."""
    lines = ["# Across the leaves", ""]
    lines += [f"`manifold-jax {' '.join(result['command'])}` by benchmarks/across.py."]
    lines += [origin_words(result["provenance"])]
    lines += ["", *table(tuple(result["rows"][0]), result["rows"]), ""]
    lines += [f"- {note}" for note in result["notes"]]
    return "\n".join([*lines, "", *(f"![{name}]({name}.png)" for name in PICTURES)]) + "\n"


def rows(record: dict[str, Any], images: int) -> list[dict[str, Any]]:
    """The rows of the command, with the interval of the share that keeps its label."""
    intervals = (wilson(row["same label"], images) for row in record["rows"])
    pairs = zip(record["rows"], intervals, strict=True)
    return [row | {"low": low, "high": high} for row, (low, high) in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST")
    parser.add_argument("--weights", type=Path, required=True, help="weights of the small network")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the run")
    parser.add_argument("--images", type=int, default=50, help="test images")
    parser.add_argument("--directions", type=int, default=5, help="random directions at every image")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    asked = ["leaf", "across", "--data", "mnist", "--preset", "full"]
    asked += ["--images", str(options.images), "--directions", str(options.directions), "--weights"]
    record = run_command([*asked, options.weights, "--path", options.data], options.runs, "across")
    result = {"provenance": common.provenance(), "command": [*asked, options.weights.name]}
    result |= {"rows": rows(record, options.images), "notes": record["notes"]}
    result |= settings_of(record, "seconds")
    common.write_json(options.out / "across.json", result)
    for name in PICTURES:
        shutil.copy(latest(options.runs, f"{name}.png"), options.out / f"{name}.png")
    (options.out / "across.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
