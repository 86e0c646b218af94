"""Wall time of ``import manifold_jax`` beside ``import jax``, each in fresh interpreters, taken in turns.

    python benchmarks/import_time.py
    python benchmarks/import_time.py --repeats 40

Prints the medians and their ratio (wanted: at most 1.15) and writes ``import_time.json`` in ``--out``. The
first round, which fills the page cache and the cache of compiled bytecode, is not counted; nobody who imports
a package twice compiles its files twice, so ``PYTHONDONTWRITEBYTECODE`` is not heeded.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import peer_common as common

MODULES = ("jax", "manifold_jax")
WANTED = 1.15


def seconds(module: str, bytecode: str) -> float:
    """Time of one import, as a fresh interpreter sees it, with a folder for compiled bytecode."""
    code = f"import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = bytecode
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(result.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    origin = common.provenance()
    with tempfile.TemporaryDirectory() as bytecode:
        rounds = [
            {module: seconds(module, bytecode) for module in MODULES} for _ in range(options.repeats + 1)
        ][1:]
    medians = {module: statistics.median(times[module] for times in rounds) for module in MODULES}
    ratio = medians["manifold_jax"] / medians["jax"]
    result = {"repeats": options.repeats, "median_seconds": medians, "ratio": ratio, "wanted": WANTED}
    common.write_json(options.out / "import_time.json", result | {"provenance": origin})
    for module, median in medians.items():
        print(f"import {module}: {median:.3f} s")
    print(f"ratio {ratio:.3f} (wanted at most {WANTED})")


if __name__ == "__main__":
    main()
