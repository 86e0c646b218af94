"""What Grementieri & Fioresi use leaves for, next to simple baselines: denoising, detection, generation.

    python benchmarks/uses.py denoise detect generate --data FOLDER --letters FILE --weights FILE --runs OUT

runs ``manifold-jax leaf denoise``, ``detect`` and ``generate`` on weights in the history of the code of the
paper, which PyTorch initialised and trained, and writes results/uses.md, .json and the pictures. Intervals
hold 95 %: of shares by Wilson, of means, areas and differences at the same images by the bootstrap.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import peer_common as common
from command_results import bootstrap, latest, origin_words, run_command, settings_of, table, wilson

from manifold_jax.experiments.classifier.baselines import auroc

PICTURES = {
    "denoise": ("leaf_denoise", "leaf_denoise_psnr"),
    "detect": ("leaf_detect", "leaf_detect_distances"),
    "generate": ("leaf_generate", "leaf_generate_curves"),
}
LEAF, ANCHOR = "leaf from the ", "anchor: "
BASELINES = ("principal components", "total variation")
WAYS = ("leaf, same class", "line, same class", "leaf, random", "line, random", "leaf, random, label kept")

Row = dict[str, Any]


def row(of: str, at: str, value: Any, interval: Any, count: int) -> Row:
    """A number with its interval."""
    low, high = interval
    return {"of": of, "at": at, "value": float(value), "low": float(low), "high": float(high), "n": count}


def mean_row(of: str, at: str, values: Any) -> Row:
    """A mean over images."""
    return row(of, at, np.mean(values), bootstrap(values), len(values))


def denoise_rows(data: dict[str, Any]) -> list[Row]:
    """PSNR of every method; what leaves add to their anchors, and are ahead of the better baseline by."""
    rows = []
    for k, level in enumerate(data["levels"]):
        at, psnr = f"sd {level:g}", {name: np.array(values[k]) for name, values in data["psnr"].items()}
        rows += [mean_row(f"{name}, dB", at, values) for name, values in psnr.items()]
        best = max(BASELINES, key=lambda name: psnr[name].mean())
        for name in (name for name in psnr if name.startswith(LEAF)):
            kind = name.removeprefix(LEAF)
            others = {"its anchor": ANCHOR + kind, "the noisy image, clipped": "noisy image, clipped"}
            for words, other in (others | {f"the better baseline, {best}": best}).items():
                rows.append(mean_row(f"{name} less {words}, dB", at, psnr[name] - psnr[other]))
    return rows


def area_interval(
    areas: Any, inside: dict[str, Any], outside: dict[str, Any], draws: int = 1000
) -> list[float]:
    """95 % of a function of scores, for images of both kinds drawn with replacement."""
    random, found = np.random.default_rng(0), []
    counts = [len(next(iter(part.values()))) for part in (inside, outside)]
    for _ in range(draws):
        rows = [random.integers(count, size=count) for count in counts]
        parts = (
            {name: v[drawn] for name, v in part.items()}
            for part, drawn in zip((inside, outside), rows, strict=True)
        )
        found.append(areas(*parts))
    return np.quantile(found, [0.025, 0.975]).tolist()


def detect_rows(data: dict[str, Any]) -> list[Row]:
    """Area of every score against every set and all, and what the leaf adds to the nearest image."""
    scores = data["scores"]
    first, *others = next(iter(scores.values()))
    inside = {name: np.array(by_set[first]) for name, by_set in scores.items()}
    sets = {other: {name: np.array(by_set[other]) for name, by_set in scores.items()} for other in others}
    sets["all"] = {name: np.concatenate([sets[other][name] for other in others]) for name in scores}
    rows = []
    for other, outside in sets.items():
        count = len(inside[next(iter(inside))]) + len(outside[next(iter(outside))])
        for name in scores:
            area = lambda a, b, name=name: auroc(a[name], b[name])[0]  # noqa: E731
            rows.append(
                row(
                    f"{name}, area",
                    f"vs {other}",
                    area(inside, outside),
                    area_interval(area, inside, outside),
                    count,
                )
            )
        for name in (name for name in scores if name.startswith("leaf distance")):
            gain = lambda a, b, name=name: (  # noqa: E731
                auroc(a[name], b[name])[0]
                - auroc(a["nearest training image"], b["nearest training image"])[0]
            )
            words = f"{name} less nearest training image, area"
            rows.append(
                row(words, f"vs {other}", gain(inside, outside), area_interval(gain, inside, outside), count)
            )
    return rows


def generate_rows(data: dict[str, Any]) -> list[Row]:
    """Share of the walks that keep the label, distances to the training images, leaf less line."""
    ends, rows = data["ends"], []
    kept = {way: np.array(ends[way]["label kept"], float) for way in WAYS}
    for way in WAYS:
        share = kept[way].mean()
        rows.append(row("label kept, share", way, share, wilson(share, len(kept[way])), len(kept[way])))
    for way in ("test images", *WAYS):
        far = np.array(ends[way]["to training"])
        rows.append(
            row(
                "to the nearest training image, median",
                way,
                np.median(far),
                bootstrap(far, np.median),
                len(far),
            )
        )
    for kind in ("same class", "random"):
        rows.append(
            mean_row("label kept, leaf less line", kind, kept[f"leaf, {kind}"] - kept[f"line, {kind}"])
        )
    return rows


ROWS = {"denoise": denoise_rows, "detect": detect_rows, "generate": generate_rows}


def run(part: str, options: argparse.Namespace) -> dict[str, Any]:
    """What the command wrote of a part, and what the results hold of it."""
    asked = ["leaf", part, "--data", "mnist", "--images", str(options.images)]
    given = [*asked, "--weights", options.weights, "--path", options.data]
    given += ["--letters", options.letters] if part == "detect" and options.letters else []
    record = run_command(given, options.runs / part, part)
    pictures = [f"uses_{stem.removeprefix('leaf_')}.png" for stem in PICTURES[part]]
    for stem, picture in zip(PICTURES[part], pictures, strict=True):
        shutil.copy(latest(options.runs / part, f"{stem}.png"), options.out / picture)
    found = {"title": record["title"], "command": [*asked, "--weights", options.weights.name]}
    found |= {"rows": ROWS[part](record["data"]), "notes": record["notes"], "pictures": pictures}
    return found | settings_of(record, "seconds") | {"provenance": common.provenance()}


def markdown(result: dict[str, Any]) -> str:
    """A table for every use."""
    lines = ["# Denoising, detection and generation by leaves", ""]
    lines += ["By benchmarks/uses.py, which says on what weights and what the intervals are."]
    for part in result["runs"].values():
        lines += ["", f"## {part['title']}", "", f"`manifold-jax {' '.join(part['command'])}`"]
        lines += ["", origin_words(part["provenance"]), "", *table(tuple(part["rows"][0]), part["rows"]), ""]
        lines += [f"- {note}" for note in part["notes"]]
        lines += ["", *(f"![{Path(file).stem}]({file})" for file in part["pictures"])]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="+", choices=ROWS, help="uses, in this order")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--weights", type=Path, required=True, help="weights of the small network")
    parser.add_argument("--letters", type=Path, help="file of letters")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--images", type=int, default=200, help="test images, and images of every other set")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    place = options.out / "uses.json"
    result = json.loads(place.read_text()) if place.exists() else {"runs": {}}
    for part in options.parts:
        result["runs"][part] = run(part, options)
        common.write_json(place, result)
        (options.out / "uses.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
