"""Estimators from samples against exact geometry, and the studies of what they see.

    python benchmarks/calibration.py reaches --runs FOLDER --seeds 12

runs ``manifold-jax calibrate STUDY`` (cells that the folder of the runs holds are not computed again) and
writes results/calibration_STUDY.md, .json and, where the study draws one, .png. Further options go to the
command as they are.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import peer_common as common
from command_results import latest, origin_words, run_study, table


def markdown(record: dict[str, Any], origin: dict[str, Any], picture: bool) -> str:
    """The table, its notes and its picture."""
    rows = record["rows"]
    lines = [f"# {record['title']}", "", f"By `{record['command']}`.", "", origin_words(origin), ""]
    lines += table(list(rows[0]), rows)
    if picture:
        lines += ["", f"![{record['title']}]({record['name']}.png)"]
    return "\n".join([*lines, "", *(f"- {note}" for note in record["notes"])]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", help="experiment of manifold-jax calibrate")
    parser.add_argument("--preset", default="full")
    parser.add_argument("--name", help="of the results; calibration_STUDY by default")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options, others = parser.parse_known_args()
    origin = common.provenance()
    command = ["calibrate", options.study, "--preset", options.preset, *others]
    name = options.name or f"calibration_{options.study}"
    record = run_study(command, options.runs, options.study, name)
    picture = latest(options.runs, f"{options.study}.png")
    common.write_json(options.out / f"{name}.json", {"provenance": origin} | record)
    if picture.exists():
        shutil.copy(picture, options.out / f"{name}.png")
    (options.out / f"{name}.md").write_text(markdown(record, origin, picture.exists()))


if __name__ == "__main__":
    main()
