"""``manifold-jax calibrate``: estimators from samples against exact geometry."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

from manifold_jax.experiments.calibrate import PLACES, REDUCED, Settings, run
from manifold_jax.experiments.cells import Cells
from manifold_jax.experiments.experiment import given_options, preset_of, run_and_write
from manifold_jax.experiments.terminal import plain_errors, results_folder

_PRESETS = {"full": Settings(), "reduced": REDUCED}


def calibrate_command(
    manifolds: Annotated[
        list[str] | None, typer.Option("--manifold", help=f"Any of {', '.join(PLACES)}; may be repeated.")
    ] = None,
    sizes: Annotated[
        list[int] | None, typer.Option("--size", min=50, help="Samples; may be repeated.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Clouds of each size.")] = None,
    preset: Annotated[str, typer.Option(help="reduced (minutes on 2 cores) or full (an hour).")] = "reduced",
    single: Annotated[bool, typer.Option("--single", help="float32 instead of float64.")] = False,
    seed: Annotated[int, typer.Option(help="Of the samples.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/calibrate"),
) -> None:
    """Compare every built-in estimator of geometry from samples with what is exactly known.

    Interrupted and called again with the same --out, it goes on where it was.
    """
    arguments = given_options(locals())
    with plain_errors():
        chosen = preset_of(preset, _PRESETS)
        unknown = [name for name in manifolds or () if name not in PLACES]
        if unknown:
            raise ValueError(f"no manifold {unknown[0]!r}: choose from {', '.join(PLACES)}.")
        if find_spec("skdim") is None:
            raise ValueError(
                'intrinsic dimension needs scikit-dimension: pip install "manifold_jax[estimators]".'
            )
        given = {"manifolds": manifolds and tuple(manifolds), "sizes": sizes and tuple(sizes), "seeds": seeds}
        settings = chosen._replace(**{k: v for k, v in given.items() if v})
        with results_folder(out), jax.enable_x64(not single):
            cells = Cells(out / f"cells-{'float32' if single else 'float64'}.jsonl")
            try:
                task = partial(_run, settings, cells, seed)
                run_and_write("calibrate", task, out, arguments, settings)
            finally:
                cells.save()


def _run(settings: Settings, cells: Cells, seed: int, progress: Any) -> Any:
    return run(settings, cells, seed=seed, progress=progress)
