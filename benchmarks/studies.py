"""Pages of results from commands of the package: runs, their record in JSON, and the page that is made of it.

    python benchmarks/studies.py layers --runs FOLDER                    # every study, then the page
    python benchmarks/studies.py layers --runs FOLDER --study evolution  # one of them
    python benchmarks/studies.py layers                                  # the page alone, from the record

A page has the studies that studies_pages.py lists under its name. Every study keeps the command that anyone
can repeat, the machine, the versions and the commit it was run at; results/PAGE.json holds them, and a
study that is run again takes its own place there. Parts of its data that are too long for the repository are
named under ``left out``, with their length: the command writes them again. Images are looked for where
``MANIFOLD_JAX_DATA`` says; files in commands are in the folder in which this is called. What the folder of
the runs holds is not trained or computed again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import peer_common as common
from command_results import latest, origin_words, run_study, table
from studies_pages import PAGES, Page, Study

LARGEST = 20_000  # characters of JSON that a part of the data of a study may have


def run(study: Study, page: str, runs: Path, out: Path) -> dict[str, Any]:
    """Run a study, copy its pictures, and return what is kept of it."""
    origin, words = common.provenance(), shlex.split(study.command)
    folder = runs / page / (study.folder or study.key)
    record = run_study(words, folder, study.experiment, study.key)
    for stem in study.pictures:
        shutil.copy(latest(folder, f"{stem}.png"), out / picture_name(page, study, stem))
    data = record.pop("data")
    lengths = {name: len(json.dumps(part)) for name, part in data.items()}
    large = {name: length for name, length in lengths.items() if length > LARGEST}
    small = {name: part for name, part in data.items() if name not in large}
    return {"provenance": origin} | record | {"data": small, "left out": large}


def picture_name(page: str, study: Study, stem: str) -> str:
    """Name of a picture among the results."""
    name = page if len(PAGES[page].studies) == 1 else f"{page}_{study.key}"
    return f"{name}.png" if len(study.pictures) == 1 else f"{name}_{stem}.png"


def tables(study: Study, rows: list[dict[str, Any]]) -> list[str]:
    """The rows as one table, or one for every value of a column."""
    if not study.split:
        return [*table(list(rows[0]), rows), ""]
    lines, columns = [], [name for name in rows[0] if name != study.split]
    for value in dict.fromkeys(row[study.split] for row in rows):
        chosen = [row for row in rows if row[study.split] == value]
        lines += [f"### {value.replace('|', '&#124;')}", "", *table(columns, chosen), ""]
    return lines


def section(page: str, study: Study, record: dict[str, Any]) -> list[str]:
    """Heading, command, origin, tables, notes and pictures of one study."""
    took = f"{record['arguments']['seconds']:.0f} s" if "seconds" in record["arguments"] else ""
    lines = [f"## {study.title}", ""] if len(PAGES[page].studies) > 1 else []
    lines += [study.about, ""] if study.about else []
    lines += [f"`{record['command']}`", "", f"{origin_words(record['provenance'])} {took}".strip(), ""]
    lines += [f"{record['title']}.", ""] if record["title"] != PAGES[page].title else []
    lines += tables(study, record["rows"])
    for note in record["notes"]:
        lines += [note] if note.startswith(("- ", "  ")) else [f"- {note}"]
    lines += [""] * bool(record["notes"])
    for stem, caption in study.pictures.items():
        lines += [f"![{caption}]({picture_name(page, study, stem)})", ""]
    return lines


def markdown(name: str, page: Page, runs: dict[str, Any]) -> str:
    """The page: what it is about, what was found in words and numbers of the record, the studies."""
    lines = [f"# {page.title}", "", "By benchmarks/studies.py.", ""]
    lines += [page.about, ""] if page.about else []
    found = [finding(runs) for needed, finding in page.findings if set(needed) <= set(runs)]
    lines += [*(["**In short.**", *(f"- {words}" for words in found), ""] if found else [])]
    for study in page.studies:
        if study.key in runs:
            lines += section(name, study, runs[study.key])
        else:
            lines += [f"## {study.title}", "", f"Not run: `manifold-jax {study.command}`.", ""]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("page", choices=tuple(PAGES))
    parser.add_argument("--runs", type=Path, help="folder of the runs; without one nothing is run")
    parser.add_argument("--study", action="append", help="only this one; may be repeated")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    page, path = PAGES[options.page], options.out / f"{options.page}.json"
    keys = [study.key for study in page.studies]
    if unknown := sorted({*(options.study or ())} - {*keys}):
        parser.error(f"no study {', '.join(unknown)} of {options.page}: choose from {', '.join(keys)}")
    runs = json.loads(path.read_text())["runs"] if path.exists() else {}
    if options.runs is not None:
        for study in page.studies:
            if study.key in (options.study or keys):
                runs[study.key] = run(study, options.page, options.runs.resolve(), options.out)
                ordered = {key: runs[key] for key in keys if key in runs}
                common.write_json(path, {"runs": ordered})
    (options.out / f"{options.page}.md").write_text(markdown(options.page, page, runs))


if __name__ == "__main__":
    main()
