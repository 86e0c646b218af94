"""Figure 2 of Grementieri & Fioresi by its own protocol: does the trace of G come back to where it began?

    python benchmarks/history.py --data FOLDER_OF_MNIST --runs FOLDER [--steps 10000] [--images 1000]

runs ``manifold-jax leaf history --data mnist --init torch`` (goes on from the checkpoints and readings in the
folder of the runs) and writes results/history.md, .json and the picture.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import peer_common as common
from command_results import latest, origin_words, run_command, settings_of, table

COLUMNS = ("images", "statistic", "curve", "first", "highest", "at step", "back at step", "from", "to")
COLUMNS += ("share back", "below after", "last / first", "from ", "to ")


def command(options: argparse.Namespace) -> list[str]:
    """What is run, without the folder of its results."""
    command = ["leaf", "history", "--data", "mnist", "--path", options.data, "--preset", "full"]
    command += ["--init", "torch", "--steps", options.steps, "--images", options.images]
    return list(map(str, command))


def verdicts(returns: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for every curve."""
    rows = []
    for name, part in returns.items():
        images, statistic, curve = name.split(", ")
        row = {"images": images, "statistic": statistic, "curve": curve, "first": part["first"]}
        row |= {"highest": part["highest"], "at step": part["highest_at"], "back at step": part["back"]}
        row |= dict(zip(("from", "to"), part["back_interval"], strict=True))
        row |= {"share back": part["back_share"], "below after": part["below"], "last / first": part["last"]}
        rows.append(row | dict(zip(("from ", "to "), part["last_interval"], strict=True)))
    return rows


def markdown(result: dict[str, Any]) -> str:
    """The verdicts, and the numbers at some steps."""
    lines = ["# The trace of G along the training, by the protocol of figure 2", ""]
    lines += [f"`manifold-jax {' '.join(result['command'])}` by benchmarks/history.py."]
    units = "Traces in this table in normalised pixels; intervals hold 95 %."
    lines += [f"{origin_words(result['provenance'])} {units}"]
    lines += ["", *table(COLUMNS, verdicts(result["returns"])), ""]
    lines += [f"- {note}" for note in result["notes"][:2]]
    lines += ["", "![Traces and ranks along the training](history.png)", "", "In pixels from 0 to 1:", ""]
    return "\n".join([*lines, *table(tuple(result["rows"][0]), result["rows"])]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the run")
    parser.add_argument("--steps", type=int, default=10_000, help="steps of training; 30 000 in the paper")
    parser.add_argument("--images", type=int, default=1000, help="images of the reference batch")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    asked = command(options)
    record = run_command(asked, options.runs, "history")
    asked[asked.index("--path") + 1] = "FOLDER"
    result = {"provenance": common.provenance(), "command": asked}
    result |= {key: record[key] for key in ("rows", "notes")}
    result |= settings_of(record, "seconds")
    result |= {"returns": record["data"].pop("returns"), "curves": record["data"]}
    common.write_json(options.out / "history.json", result)
    shutil.copy(latest(options.runs, "history.png"), options.out / "history.png")
    (options.out / "history.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
