"""Figures 3 to 5 of Koulakis & Seibold (arXiv 2606.15760) by their protocol, with our errors and slopes.

    python benchmarks/bounds_figures.py figure3 --runs FOLDER
    python benchmarks/bounds_figures.py figure5 --runs FOLDER --path coil-20-proc.zip

runs ``manifold-jax bounds FIGURE`` (cells that the folder of the runs holds are not computed again) and
writes results/FIGURE.md, .json and .png. Further options go to the command as they are.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import peer_common as common


def cell(value: Any) -> str:
    """A value of a table."""
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def markdown(record: dict[str, Any], origin: dict[str, Any]) -> str:
    """The table, its notes and its picture."""
    name, rows = record["name"], record["rows"]
    machine = f"{origin['machine']['cpu']}, {origin['machine']['cores']} cores"
    lines = [f"# {record['title']}", "", f"By `{record['command']}`.", ""]
    lines += [f"{machine}; jax {origin['versions']['jax']}; {origin['commit']}; {origin['time']}.", ""]
    table = [
        list(rows[0]),
        ["---"] * len(rows[0]),
        *([cell(value) for value in row.values()] for row in rows),
    ]
    lines += ["| " + " | ".join(line) + " |" for line in table]
    lines += ["", f"![Errors against the number of samples]({name}.png)", ""]
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
    code = "from manifold_jax.experiments.cli import main; main()"
    subprocess.run([sys.executable, "-c", code, *command, "--out", str(options.runs)], check=True)
    record = json.loads((options.runs / f"{options.figure}.json").read_text())
    del record["arguments"]["out"]
    record |= {"name": options.figure, "command": "manifold-jax " + " ".join(command)}
    common.write_json(options.out / f"{options.figure}.json", {"provenance": origin} | record)
    shutil.copy(options.runs / f"{options.figure}.png", options.out / f"{options.figure}.png")
    (options.out / f"{options.figure}.md").write_text(markdown(record, origin))


if __name__ == "__main__":
    main()
