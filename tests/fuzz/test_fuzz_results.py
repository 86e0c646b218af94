"""Damaged results: the right data, a sentence that names the file, or work that begins again."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from fuzz.mutate import trial
from fuzz.warm import Warm

from manifold_jax import Axis, Grid, _files, load_geometry, measure
from manifold_jax._partial import PartialResult
from manifold_jax.experiments.results import Cells
from manifold_jax.models import load_params, save_checkpoint

GRID = Grid((Axis("angle", 0.0, 2 * np.pi, 16, periodic=True),))
PARAMS = {"a": np.arange(60.0, dtype=np.float32).reshape(3, 20), "b": {"c": np.arange(5)}}


def ring(u):
    return jnp.stack([jnp.cos(u[0]), jnp.sin(u[0])])


def _checkpoint_files(folder):
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.stat().st_size]
    return [file for file in files if "ocdbt" in str(file) or file.parent == folder or "params" in str(file)]


def make(kind, folder):
    """``(files, (read, same))`` of a format; each file is damaged by itself."""
    if kind in ("nc", "zarr", "unsealed.zarr"):
        geometry = measure(ring, GRID)
        path = geometry.save(folder / f"ring.{kind}")
        files = [path]
        if kind == "unsealed.zarr":  # as other programs write it
            (path / ".manifold_jax.sha256").unlink()
        if kind != "nc":
            names = (".zmetadata", "volume_element/0", "volume_element/.zarray", ".zattrs", "measure_name/0")
            files = [path / name for name in names]
        return files, (lambda: load_geometry(path), lambda found: found == geometry)
    if kind == "checkpoint":
        place = save_checkpoint(folder, 3, PARAMS)

        def same(found):
            return np.array_equal(found["a"], PARAMS["a"]) and np.array_equal(found["b"]["c"], np.arange(5))

        return _checkpoint_files(place), (lambda: load_params(folder, PARAMS, 3), same)
    if kind == "partial":
        partial = PartialResult(folder, "key")
        partial.save(7, [np.arange(7), np.ones((7, 3))])

        def whole(found):
            return not found or (list(found) == [7] and np.array_equal(found[7][0], np.arange(7)))

        return [partial.path / "7.npy"], (partial.load, whole)
    cells = Cells(folder / "cells.jsonl")
    for number in range(6):
        cells.put(f"cell {number}", {"rms": 0.1 * number, "failed": None})

    def subset(found):
        return all(cells.get(name) == values for name, values in found.items())

    return [cells.path], (lambda: Cells(cells.path), subset)


KINDS = ("nc", "zarr", "checkpoint", "partial", "cells")


def run(kind, folder, count, seed):
    """Outcomes of ``count`` mutations, shared out over the files. Names of the folder count as well."""
    files, (read, same) = make(kind, folder)
    shares = [count // len(files) + (k < count % len(files)) for k in range(len(files))]
    total = dict.fromkeys(("right", "refused", "other"), 0)
    root = f"ring.{kind}" if "zarr" in kind else "3" if kind == "checkpoint" else None
    for number, (file, share) in enumerate(zip(files, shares, strict=True)):
        outcomes = trial(file, read, same, count=share, seed=[seed, number], named=root)
        for name, times in outcomes.items():
            total[name] += times
    return total


@pytest.fixture(scope="module", autouse=True)
def readers():
    """Readers of damaged files come from a warm process."""
    with Warm() as warm, pytest.MonkeyPatch.context() as patch:
        patch.setattr(_files, "subprocess", SimpleNamespace(run=warm.run, TimeoutExpired=TimeoutError))
        yield


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.thorough
def test_a_few_damaged_results(kind, tmp_path):
    total = run(kind, tmp_path, 48, 0)
    assert total["refused"] + total["right"] == sum(total.values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, "unsealed.zarr"])
def test_many_damaged_results(kind, tmp_path):
    total = run(kind, tmp_path, 2000, 1)
    print(f"{kind}: {total}")
    assert total["refused"] + total["right"] == 2000
