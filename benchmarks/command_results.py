"""What benchmarks share that run a command of the package and write its results as Markdown."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def run_command(arguments: Sequence[Any], out: Path, name: str) -> dict[str, Any]:
    """Run ``manifold-jax`` with a folder for its results; the record that it wrote of an experiment."""
    code = "from manifold_jax.experiments.cli import main; main()"
    subprocess.run([sys.executable, "-c", code, *map(str, arguments), "--out", str(out)], check=True)
    return json.loads(latest(out, f"{name}.json").read_text())


def run_study(command: Sequence[str], runs: Path, study: str, name: str) -> dict[str, Any]:
    """The record of a study by the ``name`` of its results, with the command line that anyone can repeat."""
    record = run_command(command, runs, study)
    record["arguments"].pop("out", None)
    return record | {"name": name, "command": "manifold-jax " + " ".join(command)}


def latest(out: Path, name: str) -> Path:
    """The newest of the files of a name: results of other settings may have taken it."""
    stem, end = Path(name).stem, Path(name).suffix
    numbered = [path for path in out.glob(f"{stem}-*{end}") if path.stem[len(stem) + 1 :].isdigit()]
    return max([out / name, *numbered], key=lambda path: path.stat().st_mtime if path.exists() else 0.0)


def settings_of(record: dict[str, Any], *names: str) -> dict[str, Any]:
    """What the results keep of the arguments of a run, and more of them by name."""
    return {key: record["arguments"][key] for key in ("settings", "seed", "device", "version", *names)}


def origin_words(origin: dict[str, Any]) -> str:
    """Machine, version of JAX, commit and time of a provenance."""
    machine = f"{origin['machine']['cpu']}, {origin['machine']['cores']} cores"
    return f"{machine}; jax {origin['versions']['jax']}; {origin['commit']}; {origin['time']}."


def wilson(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % of a share of so many draws (Wilson, J. Am. Stat. Assoc. 22, 1927)."""
    middle = share + z**2 / (2 * count)
    half = z * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    low, high = ((middle + sign * half) / (1 + z**2 / count) for sign in (-1, 1))
    return max(low, 0.0), min(high, 1.0)


def bootstrap(values: Any, statistic: Any = np.mean, *, seed: int = 0, draws: int = 2000) -> list[float]:
    """95 % of a statistic of rows that are drawn with replacement (percentiles)."""
    values, random = np.asarray(values, float), np.random.default_rng(seed)
    rows = (random.integers(len(values), size=len(values)) for _ in range(draws))
    return np.quantile([statistic(values[drawn]) for drawn in rows], [0.025, 0.975]).tolist()


def cell(value: Any, digits: int = 4) -> str:
    """A value of a table; bars of |H| would end it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = "-" if value is None else f"{value:.{digits}g}" if isinstance(value, float) else str(value)
    return text.replace("|", "&#124;")


def table(columns: Sequence[str], rows: Sequence[dict[str, Any]], digits: int = 4) -> list[str]:
    """Lines of a table."""
    cells = [[cell(row[name], digits) for name in columns] for row in rows]
    return [f"| {' | '.join(line)} |" for line in (columns, ["---"] * len(columns), *cells)]
