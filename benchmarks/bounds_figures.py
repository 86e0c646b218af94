"""Figures 3 to 5 of Koulakis & Seibold (arXiv 2606.15760) by their protocol, with our errors and slopes.

    python benchmarks/bounds_figures.py figure3 --runs FOLDER
    python benchmarks/bounds_figures.py figure5 --runs FOLDER --path coil-20-proc.zip

runs ``manifold-jax bounds FIGURE`` (cells that the folder of the runs holds are not computed again) and
writes results/FIGURE.md, .json and .png. Further options go to the command as they are.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import peer_common as common
from command_results import latest, origin_words, run_study, table


def markdown(record: dict[str, Any], origin: dict[str, Any]) -> str:
    """The table, its notes and its picture."""
    name, rows = record["name"], record["rows"]
    lines = [f"# {record['title']}", "", f"By `{record['command']}`.", "", origin_words(origin), ""]
    lines += [*table(list(rows[0]), rows), "", f"![Errors against the number of samples]({name}.png)", ""]
    lines += [note if note.startswith("- ") else f"- {note}" for note in record["notes"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figure", choices=("figure3", "figure4", "figure5"))
    parser.add_argument("--preset", default="full")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options, others = parser.parse_known_args()
    origin = common.provenance()
    command = ["bounds", options.figure, "--preset", options.preset, *others]
    record = run_study(command, options.runs, options.figure, options.figure)
    common.write_json(options.out / f"{options.figure}.json", {"provenance": origin} | record)
    shutil.copy(latest(options.runs, f"{options.figure}.png"), options.out / f"{options.figure}.png")
    (options.out / f"{options.figure}.md").write_text(markdown(record, origin))


if __name__ == "__main__":
    main()
