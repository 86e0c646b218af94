"""Figure 6 of Koulakis & Seibold (arXiv 2606.15760) by its protocol, as far as a processor gets.

    python benchmarks/figure6.py --runs FOLDER                    # what was published here
    python benchmarks/figure6.py --runs FOLDER --steps 2000000 --lattice 7 --pairs 4 --checkpoints 4
    python benchmarks/figure6.py --runs FOLDER --only reduced

runs ``manifold-jax layers figure6`` twice: the published beta-VAE, and three seeds of a small one for the
spread. What the folder of the runs holds is not computed again, and a training with more steps goes on.
With ``--only`` the other run stays as the results have it. Writes results/figure6.md, .json and .png.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import peer_common as common
from command_results import latest, origin_words, run_command, table

FIGURES = ("symlog", "linear", "loss")
TITLES = {"published": "The published beta-VAE", "reduced": "A small one, three seeds"}
DEPTH = ("network", "step", "quantity", "claimed", "layers", "counted", "runs", "mean", "least", "most")


def measured(name: str, command: list[str], runs: Path, out: Path) -> dict[str, Any]:
    """The record of one run; its figures are copied."""
    record = run_command(command, runs / name, "figure6")
    del record["arguments"]["out"]
    mark = "" if name == "published" else f"_{name}"
    for figure in FIGURES:
        stem = f"figure6{mark}" + ("" if figure == "symlog" else f"_{figure}")
        shutil.copy(latest(runs / name, f"figure6_{figure}.png"), out / f"{stem}.png")
    return record | {"command": "manifold-jax " + " ".join(command)}


def section(name: str, record: dict[str, Any]) -> list[str]:
    """Table, pictures and notes of one run."""
    mark = "" if name == "published" else f"_{name}"
    lines = [f"## {TITLES[name]}", "", f"By `{record['command']}`. {record['title']}.", ""]
    lines += [origin_words(record["provenance"]), ""]
    lines += [*table(list(record["rows"][0]), record["rows"]), ""]
    lines += [note if note.startswith("- ") else f"- {note}" for note in record["notes"]]
    lines += ["", f"![Every layer, symmetric logarithmic](figure6{mark}.png)", ""]
    lines += [f"![Every layer, linear](figure6{mark}_linear.png)", ""]
    lines += [f"![Training](figure6{mark}_loss.png)", ""]
    halves = [row for row in record["data"]["depth"] if row["layers"] != "all"]
    return [*lines, "Rank correlation with depth in the two halves:", "", *table(DEPTH, halves), ""]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=300, help="of the published network")
    parser.add_argument("--lattice", type=int, default=6, help="samples along each axis")
    parser.add_argument("--pairs", type=int, default=3, help="the same for pairs of points")
    parser.add_argument("--checkpoints", type=int, default=1, help="checkpoints that are measured")
    parser.add_argument("--only", choices=tuple(TITLES), help="one of the two runs")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    origin, place = common.provenance(), options.out / "figure6.json"
    earlier = json.loads(place.read_text())["runs"] if options.only and place.exists() else {}
    asked = ("steps", "lattice", "pairs", "checkpoints")
    sizes = [word for name in asked for word in (f"--{name}", str(getattr(options, name)))]
    looked_at = ["--checkpoints", str(options.checkpoints)]
    commands = {"reduced": ["--preset", "reduced", *looked_at], "published": ["--preset", "full", *sizes]}
    records = earlier | {
        name: measured(name, ["layers", "figure6", *words], options.runs, options.out)
        | {"provenance": origin}
        for name, words in commands.items()
        if options.only in (None, name)
    }
    common.write_json(place, {"runs": records})
    lines = ["# Figure 6: the classes as one union of unit volume, layer by layer", ""]
    lines += ["By benchmarks/figure6.py.", ""]
    for name in records:
        lines += section(name, records[name])
    (options.out / "figure6.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
