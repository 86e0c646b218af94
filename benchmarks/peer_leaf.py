"""Local data matrix and horizontal paths: seconds and memory of manifold_jax beside PyTorch, on one LeNet.

    python benchmarks/peer_environment.py                         # once: the environment with PyTorch
    python benchmarks/peer_leaf.py --reduced                      # minutes: to try it
    python benchmarks/peer_leaf.py                                # a fresh network, random images
    python benchmarks/peer_leaf.py --data PLACE --checkpoint RUN  # MNIST, and a network trained on it

Two tasks, float32: trace and spectrum of G(x) for 512 images, and 100 horizontal paths of 1000 steps. Against

- ``matrix``: an image at a time, the n x n matrix as the public code of Grementieri & Fioresi forms it, then
  its eigenvalues; timed on ``--matrix-images``;
- ``factor``: an image at a time, singular values of the C x n factor, the fair loop;
- ``loop``: a pair at a time, timed on ``--loop-pairs`` and ``--loop-steps``;
- ``func``: ``torch.func``, vmap of jacrev, images or pairs in chunks, paths timed on ``--func-steps``.

All do the same work a step or an image, so that times scale; scaled ones are marked "~". Both sides choose
their fastest block or chunk in short trials, and take a thread for each core that a process may use. Each
task has a process of its own, sides in turn, ``--repeats`` times; the fastest warm pass counts.

First all variants must agree in float64, where no rounding decides between two sides of a kink of the
network. In float32 a few images differ by such a kink; how many, and by how much, is reported.

The tables are printed; all figures go to ``--out`` as JSON, the tables beside it as Markdown.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import peer_common as common
import peer_environment
from peer_measures import Side, portable, say, show

HERE = Path(__file__).resolve().parent
WORK = HERE / ".peer" / "work"
VARIANTS = {"spectrum": ("matrix", "factor", "func", "ours"), "paths": ("loop", "func", "ours")}
REDUCED = {"images": 64, "matrix_images": 4, "pairs": 8, "steps": 20, "loop_pairs": 2, "loop_steps": 10}
REDUCED |= {"func_steps": 10, "repeats": 1, "trial_images": 16, "trial_pairs": 8, "check_images": 8}
REDUCED |= {"blocks": [4], "chunks": [4]}

TOLERANCE = {"float64": 1e-8, "float32": 1e-4}
"""Relative: of the trace, of eigenvalues to the largest, of end points to the length of the path."""

MOST_KINKS = 0.05
"""Part of the images or paths that may miss the tolerance in float32."""

Record = dict[str, Any]


class Bench:
    """One case and the two sides."""

    def __init__(self, options: argparse.Namespace, python: Path) -> None:
        self.options, self.case = options, options.work / "leaf.npz"
        self.torch = Side("torch", python, "peer_leaf_worker.py", options)
        self.ours = Side("ours", sys.executable, "ours_leaf_worker.py", options)

    def field(self, name: str) -> Path:
        """Where a task stores what it found."""
        return self.options.work / f"leaf-{name}.npz"

    def run(self, task: str, variant: str, block: int, *extra: Any) -> Record:
        """One task in a process of its own."""
        if variant == "ours":
            record = self.ours.run(task, self.case, "--block", block, *extra)
        else:
            chosen = ["--variant", variant, "--chunk", block, "--device", self.options.device]
            record = self.torch.run(task, self.case, *chosen, *extra)
        if "error" in record:
            say(f"{task}, {variant}: {record['error']}")
        return record | {"at_once": block}


def prepare(bench: Bench) -> Record:
    """Store weights and images for both sides."""
    options = bench.options
    options.work.mkdir(parents=True, exist_ok=True)
    chosen: list[Any] = ["--images", options.images, "--pairs", options.pairs]
    for name in ("data", "checkpoint", "step"):
        value = getattr(options, name)
        chosen += [] if value is None else [f"--{name}", value]
    record = bench.ours.run("prepare", bench.case, *chosen)
    if "error" in record:
        raise SystemExit(f"The case could not be prepared: {record['error']}")
    return record


# --- do they compute the same? ----------------------------------------------------------------------------


def errors(task: str, ours: Any, theirs: Any) -> dict[str, np.ndarray]:
    """Relative differences, one an image or a path; ours are cut to the number of theirs."""
    if task == "paths":
        count = len(theirs["lengths"])
        apart = np.linalg.norm(ours["points"][:count] - theirs["points"], axis=1)
        return {"end points": apart / theirs["lengths"]}
    count = len(theirs["trace"])
    trace, values = ours["trace"][:count], ours["values"][:count]
    return {
        "trace": np.abs(trace - theirs["trace"]) / theirs["trace"],
        "spectrum": np.abs(values - theirs["values"]).max(axis=1) / theirs["values"][:, 0],
    }


def agreement(task: str, dtype: str, fields: dict[str, Path]) -> list[Record]:
    """Each variant beside ours."""
    if not fields["ours"].exists():
        raise SystemExit(f"{task}: ours failed, there is nothing to compare.")
    ours, rows = np.load(fields["ours"]), []
    for variant, path in fields.items():
        if variant == "ours" or not path.exists():
            continue
        for quantity, error in errors(task, ours, np.load(path)).items():
            missed = float(np.mean(~(error <= TOLERANCE[dtype])))
            agree = missed <= (MOST_KINKS if dtype == "float32" and len(error) > 1 / MOST_KINKS else 0)
            row = {"task": task, "variant": variant, "dtype": dtype, "quantity": quantity, "agree": agree}
            row |= {"count": len(error), "median": float(np.median(error)), "largest": float(error.max())}
            rows.append(row | {"tolerance": TOLERANCE[dtype], "missed": missed})
    return rows


def checks(bench: Bench) -> list[Record]:
    """All variants on a few images and steps in float64: they must agree, or there is nothing to time."""
    options, rows = bench.options, []
    for task in options.tasks:
        count = options.check_images if task == "spectrum" else options.check_pairs
        steps = [] if task == "spectrum" else ["--steps", options.check_steps]
        fields = {variant: bench.field(f"check-{task}-{variant}") for variant in VARIANTS[task]}
        for variant, path in fields.items():
            path.unlink(missing_ok=True)
            found = bench.run(task, variant, min(4, count), "--count", count, "--x64", "--save", path, *steps)
            if "error" in found:
                raise SystemExit(f"{task}, {variant} failed: {found['error']}")
        rows += agreement(task, "float64", fields)
    if not all(row["agree"] for row in rows):
        show_agreement(rows)
        raise SystemExit("The variants do not compute the same: nothing was timed.")
    return rows


# --- the turns --------------------------------------------------------------------------------------------


def pick(bench: Bench, task: str, variant: str) -> tuple[int, list[Record]]:
    """The fastest of a few blocks, on a few images or steps, and every trial."""
    options = bench.options
    most = options.images if task == "spectrum" else options.pairs
    choices = {"func": options.chunks, "ours": options.blocks}.get(variant, [1])
    blocks = sorted({min(block, most) for block in choices})
    if len(blocks) == 1:
        return blocks[0], []
    few = min(most, options.trial_images if task == "spectrum" else options.trial_pairs)
    extra = ["--count", few]
    extra += ["--steps", options.trial_steps] if task == "paths" else []
    trials = [bench.run(task, variant, block, *extra) for block in blocks if block <= few]
    timed = [record for record in trials if "warm_seconds" in record]
    if not timed:
        return blocks[0], trials
    return min(timed, key=lambda record: record["warm_seconds"])["at_once"], trials


def sizes(options: argparse.Namespace, task: str, variant: str) -> list[Any]:
    """How much of a task is timed; seconds of PyTorch are scaled to all of it."""
    if task == "spectrum":
        count = min(options.matrix_images, options.images) if variant == "matrix" else options.images
        return ["--count", count] + ([] if variant == "ours" else ["--total", options.images])
    if variant == "ours":
        return ["--steps", options.steps, "--warm" if options.warm else "--no-warm"]
    few = (options.loop_pairs, options.loop_steps) if variant == "loop" else (None, options.func_steps)
    count, steps = min(few[0] or options.pairs, options.pairs), min(few[1], options.steps)
    return ["--count", count, "--steps", steps, "--total", options.pairs * options.steps]


def take_turns(bench: Bench, blocks: dict[tuple[str, str], int]) -> dict[tuple[str, str], list[Record]]:
    """Every variant of every task, one after the other, ``--repeats`` times over."""
    records: dict[tuple[str, str], list[Record]] = {key: [] for key in blocks}
    for repeat in range(bench.options.repeats):
        for key in blocks if repeat % 2 == 0 else reversed(blocks):
            path = bench.field("-".join(key))
            save = ["--save", path] if key[0] == "spectrum" else []
            path.unlink(missing_ok=True)
            records[key].append(bench.run(*key, blocks[key], *sizes(bench.options, *key), *save))
    return records


def warm(record: Record, name: str = "seconds") -> float:
    """Seconds of the second pass; of the first less its compilation where there is no second."""
    if f"warm_{name}" in record:
        return record[f"warm_{name}"]
    return record[name] - record.get("compile_seconds", 0.0)


def fastest(records: list[Record]) -> Record:
    """The run with the fastest warm pass, or the last failure."""
    timed = [record for record in records if "seconds" in record]
    return min(timed, key=warm) if timed else records[-1]


def check_steps_made(chosen: dict[tuple[str, str], Record]) -> None:
    """Our paths made all of their steps: none ended early."""
    ours = chosen.get(("paths", "ours"), {})
    if ours.get("fewest_steps") != ours.get("max_steps"):
        raise SystemExit(f"A path of ours ended after {ours['fewest_steps']} of {ours['max_steps']} steps.")


# --- the report -------------------------------------------------------------------------------------------

HEADER = ["task", "variant", "at once", "s cold", "s warm", "ms each", "CPU s warm", "MiB added"]
AGREEMENT = ["task", "variant", "dtype", "quantity", "compared", "median", "largest", "beyond tolerance"]


def table(chosen: dict[tuple[str, str], Record], options: argparse.Namespace) -> list[list[str]]:
    """One line a variant."""
    lines = []
    for (task, variant), record in chosen.items():
        if "seconds" not in record:
            lines.append([task, variant, "failed", *(len(HEADER) - 3) * [""]])
            continue
        mark = "~" if record.get("extrapolated") else ""
        each = options.images if task == "spectrum" else options.pairs * options.steps
        cells = [str(record["at_once"])]
        cells += [f"{mark}{value:.2f}" for value in (record["seconds"], warm(record))]
        cells += [f"{1e3 * warm(record) / each:.3f}", f"{mark}{warm(record, 'cpu_seconds'):.2f}"]
        lines.append([task, variant, *cells, f"{record['memory']['above_start'] / common.MIB:.0f}"])
    return lines


def ratios(chosen: dict[tuple[str, str], Record]) -> dict[str, dict[str, float]]:
    """PyTorch's cost over ours."""
    out = {}
    for (task, variant), record in chosen.items():
        ours = chosen[task, "ours"]
        if variant == "ours" or "seconds" not in record or "seconds" not in ours:
            continue
        out[f"{task}, {variant} / ours"] = {
            "cold": record["seconds"] / ours["seconds"],
            "warm": warm(record) / warm(ours),
            "CPU": warm(record, "cpu_seconds") / warm(ours, "cpu_seconds"),
            "memory": record["memory"]["above_start"] / ours["memory"]["above_start"],
        }
    return out


def agreement_lines(rows: list[Record]) -> list[list[str]]:
    """One line a comparison."""
    lines = []
    for row in rows:
        names = [row[name] for name in ("task", "variant", "dtype", "quantity")]
        figures = [str(row["count"]), f"{row['median']:.1e}", f"{row['largest']:.1e}"]
        beyond = f"{row['missed']:.1%} of {row['tolerance']:.0e}" + ("" if row["agree"] else ": TOO MANY")
        lines.append([*names, *figures, beyond])
    return lines


def show_agreement(rows: list[Record]) -> None:
    show("Relative differences from ours", AGREEMENT, agreement_lines(rows))


def tables(result: Record, options: argparse.Namespace) -> list[tuple[str, list[str], list[list[str]]]]:
    """Titles, headers and lines."""
    named = {
        "spectrum": f"{options.images} images",
        "paths": f"{options.pairs} paths of {options.steps} steps",
    }
    task = "; ".join(named[task] for task in options.tasks)
    times = [
        [name, *(f"{value:.2f}" for value in of.values())] for name, of in ratios(result["chosen"]).items()
    ]
    return [
        (task, HEADER, table(result["chosen"], options)),
        ("PyTorch over ours", ["", "cold", "warm", "CPU s", "memory added"], times),
        ("Relative differences from ours", AGREEMENT, agreement_lines(result["agreement"])),
    ]


def markdown(result: Record, options: argparse.Namespace) -> str:
    """All tables, and where they come from."""
    machine, case = result["machine"], result["case"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        "# Local data matrix and horizontal paths beside PyTorch",
        "",
        f"LeNet, {case['weights']} weights; images: {case['images']}; float32. By benchmarks/peer_leaf.py "
        f"on {machine['cpu']}, {machine['cores']} cores, {case['device']}; {versions}; {result['commit']}. "
        'Times marked "~" were scaled from fewer images, pairs or steps. "ms each" is an image, or a step of '
        "a path. Cold times of ours include compilation.",
    ]
    for title, header, rows in tables(result, options):
        align = "|".join("---" if i < 2 else "---:" for i in range(len(header)))
        lines += ["", f"{title}:", "", f"| {' | '.join(header)} |", f"|{align}|"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def report(result: Record, options: argparse.Namespace) -> None:
    """Print what was found and store it."""
    machine = result["machine"]
    print(f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_average']}, {result['commit']}")
    for title, header, lines in tables(result, options):
        show(title, header, lines)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".md").write_text(markdown(result, options))
    named = {name: of for name, of in result.items() if name not in ("chosen", "runs", "trials")}
    for name in ("chosen", "runs", "trials"):
        named[name] = {", ".join(key): value for key, value in result[name].items()}
    common.write_json(options.out, named | {"ratios": ratios(result["chosen"])})
    print(f"all figures: {options.out.name}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, help="place of MNIST (default: MANIFOLD_JAX_DATA, else random images)")
    add("--checkpoint", type=Path, help="folder of a training of LeNet (default: initial weights)")
    add("--step", type=int, help="which checkpoint (default: the last)")
    add("--tasks", nargs="+", choices=tuple(VARIANTS), default=tuple(VARIANTS), help="which")
    add("--images", type=int, default=512, help="of the spectrum")
    add("--matrix-images", type=int, default=32, help="of them timed with the n x n matrix")
    add("--pairs", type=int, default=100, help="of the paths")
    add("--steps", type=int, default=1000, help="of each path")
    add("--loop-pairs", type=int, default=10, help="pairs timed in the loop of PyTorch")
    add("--loop-steps", type=int, default=100, help="steps timed there")
    add("--func-steps", type=int, default=20, help="steps timed with torch.func, all pairs")
    add("--blocks", type=int, nargs="+", default=[2, 4, 8, 16], help="images or pairs at once of ours, tried")
    add("--chunks", type=int, nargs="+", default=[4, 8, 16, 64], help="the same of torch.func")
    add("--trial-images", type=int, default=64, help="images of a trial")
    add("--trial-pairs", type=int, default=64, help="pairs of a trial")
    add("--trial-steps", type=int, default=3, help="steps of a trial")
    add("--check-images", type=int, default=32, help="images compared in float64")
    add("--check-pairs", type=int, default=4, help="pairs compared in float64")
    add("--check-steps", type=int, default=10, help="steps compared in float64")
    add("--repeats", type=int, default=2, help="rounds; the fastest warm pass of each variant counts")
    add("--warm", action=argparse.BooleanOptionalAction, default=True, help="our paths: time a second pass")
    add("--reduced", action="store_true", help="small sizes where none are given")
    add("--platform", default="", help="JAX platform of our side (default: the device that JAX finds)")
    add("--device", choices=("cpu", "auto"), default="auto", help="of PyTorch; auto: CUDA where there is")
    add("--timeout", type=float, default=7200.0, help="seconds after which a task is stopped")
    add("--work", type=Path, default=WORK, help="folder for weights, images and fields")
    add("--out", type=Path, help="JSON result (default: in the results folder, --reduced: the work folder)")
    add("--verbose", action="store_true", help="say what is being run")
    options = parser.parse_args()
    if options.reduced:
        parser.set_defaults(**REDUCED)  # an option that is given wins
        options = parser.parse_args()
    options.out = options.out or (options.work if options.reduced else HERE / "results") / "peer_leaf.json"
    return options


def main() -> None:
    options = arguments()
    try:
        python = peer_environment.ensure()
    except peer_environment.EnvironmentFailure as failure:
        raise SystemExit(str(failure)) from None
    bench, machine = Bench(options, python), common.machine()
    case = prepare(bench)
    compared = checks(bench)
    picked = {(t, v): pick(bench, t, v) for t in options.tasks for v in VARIANTS[t]}
    runs = take_turns(bench, {key: block for key, (block, _) in picked.items()})
    chosen = {key: fastest(records) for key, records in runs.items()}
    check_steps_made(chosen)
    if "spectrum" in options.tasks:
        fields = {variant: bench.field(f"spectrum-{variant}") for variant in VARIANTS["spectrum"]}
        compared += agreement("spectrum", "float32", fields)
    result = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": common.commit(HERE),
        "machine": machine,
        "versions": {name: v for r in chosen.values() for name, v in r.get("versions", {}).items()},
        "options": {name: portable(value) for name, value in vars(options).items()},
        "case": case,
        "agreement": compared,
        "chosen": chosen,
        "runs": runs,
        "trials": {key: trials for key, (_, trials) in picked.items()},
    }
    report(result, options)
    if not all(row["agree"] for row in compared):
        raise SystemExit("The variants differ by more than kinks: see the last table.")


if __name__ == "__main__":
    main()
