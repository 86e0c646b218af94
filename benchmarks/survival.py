"""Commands that are killed at random moments and called again give what they give in one go.

    python benchmarks/survival.py --work FOLDER [JOB ...]

Every job runs twice to its end, the second time with its programs compiled, which is timed. Then it is called
again and again with another folder, and each time killed (SIGKILL) at a random moment, so many times in all;
with workers every other time one of them is killed instead, and the command goes on by itself. A run that
comes to its end is compared with the first, all numbers but seconds, and a new one begins. A job fails where
a number differs, a command does not end well, or anything but its results is left in its folder. Writes
results/survival.md and .json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import peer_common as common
from command_results import origin_words, table

IGNORED = {"seconds", "s", "warm", "arguments", "out", "workers"}  # what may differ between two runs
MAIN = "from manifold_jax.experiments.cli import main; main()"
COLUMNS = ("job", "kills", "of workers", "runs to the end", "seconds in one go", "equal", "left over")


class Job(NamedTuple):
    """A command, and the pattern of the file that is compared."""

    command: tuple[str, ...]
    result: str
    workers: bool = False  # kill workers too


SMALL = ("--no-plots", "--no-reach", "--block-size", "16")
SPRITES = ("measure", "sprites", "--axes", "scale,orientation", "--size", "16", *SMALL)
REACH = ("measure", "sprites", "--axes", "scale,orientation", "--size", "32", "--no-plots")
REACH += ("--samples", "scale=65,orientation=128")
BOUNDS = ("bounds", "boundary", "--seeds", "2", "--fits", "pca", "--sizes", "100,200", "--tests", "50")
CALIBRATE = ("calibrate", "reaches", "--manifold", "circle", "--seeds", "8")
LEAF = ("leaf", "paths", "--steps", "200", "--pairs", "100", "--max-steps", "300", "--ways", "1")
LAYERS = ("layers", "evolution", "--steps", "200", "--images", "200", "--seeds", "1", "--factors", "1")
TWO = ("--workers", "2")
JOBS = {
    "measure": Job(SPRITES, "geometry*.nc"),
    "measure-workers": Job((*SPRITES, *TWO), "geometry*.nc", True),
    "reach": Job(REACH, "*.nc"),
    "reach-workers": Job((*REACH, *TWO), "*.nc", True),
    "file": Job(("measure", "points.npy", "--axis", "u=0:1", "--axis", "v=0:1", *SMALL), "geometry.nc"),
    "bounds": Job(BOUNDS, "boundary.json"),
    "bounds-workers": Job((*BOUNDS, *TWO), "boundary.json", True),
    "calibrate": Job(CALIBRATE, "reaches.json"),
    "calibrate-workers": Job((*CALIBRATE, *TWO), "reaches.json", True),
    "leaf": Job(LEAF, "paths.json"),
    "leaf-workers": Job((*LEAF, *TWO), "paths.json", True),
    "layers": Job(LAYERS, "evolution.nc"),
}


def start(command: tuple[str, ...], folder: Path, out: Path) -> subprocess.Popen[bytes]:
    """A command in a process group of its own, which keeps what it compiles."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    with (out.parent / f"{out.name}.log").open("ab") as log:
        arguments = [sys.executable, "-c", MAIN, *command, "--out", str(out)]
        return subprocess.Popen(
            arguments, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )


def workers(process: int) -> list[int]:
    """Processes that one has spawned."""
    kept = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(place.read_text().rpartition(")")[2].split()[1])
            line = (place.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == process and b"spawn_main" in line:
            kept.append(int(place.parent.name))
    return kept


def end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for the end of a command, which is killed, and so has failed, where it takes far too long."""
    try:
        process.wait(60 + 10 * seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def numbers(out: Path, pattern: str) -> dict[str, Any]:
    """All numbers of the results, by file and name."""
    kept: dict[str, Any] = {}
    for path in sorted(out.glob(pattern)):
        if path.suffix == ".json":
            kept[path.name] = plain(json.loads(path.read_text()))
        else:
            import xarray

            with xarray.open_dataset(path, decode_cf=False) as dataset:
                kept[path.name] = {name: field.values.tobytes() for name, field in dataset.variables.items()}
    return kept


def plain(value: Any) -> Any:
    """A record without what may differ."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if key not in IGNORED}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


def survive(name: str, job: Job, kills: int, work: Path, random: np.random.Generator) -> dict[str, Any]:
    """Kill a job so many times."""
    first, out = work / f"{name}-whole", work / f"{name}-killed"
    shutil.rmtree(out, ignore_errors=True)
    seconds = 0.0
    for _ in range(2):
        shutil.rmtree(first, ignore_errors=True)
        began = time.perf_counter()
        if start(job.command, work, first).wait():
            raise SystemExit(f"{name}: the command failed, see {first}.log.")
        seconds = time.perf_counter() - began
    expected, files = numbers(first, job.result), sorted(path.name for path in first.iterdir())
    row: dict[str, Any] = dict.fromkeys(("kills", "of workers", "runs to the end"), 0)
    row |= {"job": name, "seconds in one go": seconds, "equal": True, "left over": "nothing"}
    while row["kills"] + row["of workers"] < kills or not row["runs to the end"]:
        process = start(job.command, work, out)
        ended = False
        if row["kills"] + row["of workers"] < kills:
            try:
                ended = process.wait(random.uniform(0.05, 0.9) * seconds) is not None
            except subprocess.TimeoutExpired:
                below = workers(process.pid)
                if job.workers and row["kills"] > row["of workers"] and below:
                    os.kill(int(random.choice(below)), signal.SIGKILL)
                    row["of workers"] += 1
                    end(process, seconds)
                    ended = True
                else:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    row["kills"] += 1
        else:
            end(process, seconds)
            ended = True
        if ended:
            row["runs to the end"] += 1
            row["equal"] &= process.returncode == 0 and numbers(out, job.result) == expected
            left = {path.name for path in out.iterdir()} ^ set(files)
            if left:
                row["left over"] = ", ".join(sorted(left))
            shutil.rmtree(out)
    return row


def page(rows: list[dict[str, Any]]) -> str:
    """What the results say."""
    lines = ["# Jobs that are killed and called again", ""]
    lines += ["By benchmarks/survival.py, which says what is killed, how, and what is compared.", ""]
    lines += table(COLUMNS, rows, 3)
    for row in rows:
        lines += ["", f"- {row['job']}: `{row['command']}`; {origin_words(row['provenance'])}"]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("jobs", nargs="*", choices=[[], *JOBS], default=[], help="which; all by default")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    origin = common.provenance()
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    u, v = np.meshgrid(*[np.linspace(0, 1, 48)] * 2, indexing="ij")
    waves = [np.sin(k * u + np.cos(k + v)) for k in np.linspace(1, 3, 400)]
    np.save(work / "points.npy", np.stack(waves, axis=-1).astype(np.float32))
    random = np.random.default_rng(options.seed)
    place = options.out / "survival.json"
    rows = {row["job"]: row for row in json.loads(place.read_text())["rows"]} if place.exists() else {}
    for name in options.jobs or JOBS:
        row = survive(name, JOBS[name], options.kills, work, random)
        rows[name] = row | {"command": f"manifold-jax {' '.join(JOBS[name].command)}", "provenance": origin}
        common.write_json(place, {"rows": list(rows.values())})
        (options.out / "survival.md").write_text(page(list(rows.values())))
        print({key: row[key] for key in COLUMNS}, flush=True)


if __name__ == "__main__":
    main()
