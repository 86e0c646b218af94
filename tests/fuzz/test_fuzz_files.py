"""Damaged files of users: data of the shape that they declare, or a sentence that names the file."""

import contextlib
import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray
import zarr
from fuzz.mutate import trial
from fuzz.warm import Warm

from manifold_jax.experiments.measure import formats, reader
from manifold_jax.experiments.measure.files import load
from manifold_jax.geometry.manifold import as_points

ANGLE, HEIGHT = np.arange(12) * math.pi / 6, np.linspace(0, 1, 7)
POINTS = np.stack(
    np.broadcast_arrays(np.cos(ANGLE)[:, None], np.sin(ANGLE)[:, None], HEIGHT[None]), axis=-1
).astype(np.float32)
AXES = {"axis": ["angle=0:6.2:rad", "height=0:1"]}
CHUNKS = {"chunks": (5, 4, 3), "compression": "gzip", "shuffle": True}
LARGE = 2**22  # numbers, of which only some are read


def make(kind, folder):
    """``(files, options)`` of a format; each file is damaged by itself."""
    path = folder / f"x.{kind.split()[-1]}"
    data = xarray.Dataset(
        {"points": (("angle", "height", "xyz"), POINTS)},
        {"angle": ("angle", ANGLE, {"units": "rad"}), "height": HEIGHT},
    )
    match kind:
        case "nc":
            encoding = {"zlib": True, "chunksizes": (5, 4, 3), "dtype": "int16", "scale_factor": 1e-4}
            data.to_netcdf(path, engine="h5netcdf", encoding={"points": encoding})
        case "classic nc":
            data.to_netcdf(path, engine="scipy")
        case "h5" | "chunked h5":
            with h5py.File(path, "w") as file:
                file.create_dataset("deep/points", data=POINTS, **(CHUNKS if "chunked" in kind else {}))
                file["deep/angle"], file["deep/height"] = ANGLE, HEIGHT
                file["deep/angle"].attrs["units"] = "rad"
        case "2 zarr" | "3 zarr":
            chunks = {"points": {"chunks": (5, 4, 3)}}
            data.to_zarr(path, zarr_format=int(kind[0]), consolidated=False, encoding=chunks)
            return sorted(file for file in path.rglob("*") if file.is_file()), {}
        case "array zarr":
            zarr.save_array(path, POINTS)
            return sorted(file for file in path.rglob("*") if file.is_file()), AXES
        case "npy":
            np.save(path, POINTS)
            return [path], AXES
        case "npz":
            np.savez(path, points=POINTS, angle=ANGLE, height=HEIGHT)
        case "csv":
            np.savetxt(path, POINTS.reshape(-1, 3), delimiter=",")
    return [path], {}


def read(path, options):
    """The points that would be measured; of a huge array those of the first sample of every axis."""
    with contextlib.ExitStack() as files:
        samples = load(path, options, files)
        points = samples.points
        part = points[:] if math.prod(points.shape) < LARGE else points[:1, :1, :LARGE]
        assert np.asarray(part).dtype.kind in "biuf"
        if not hasattr(samples, "grid"):
            return part
        assert points.shape[: samples.grid.ndim] == samples.grid.shape
        if part.shape == points.shape:
            try:
                as_points("measure", np.asarray(part), samples.grid).refuse_nonfinite()
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
        return part


def same(found):
    return found.size == POINTS.size and np.allclose(np.ravel(found), POINTS.ravel(), atol=1e-4)


KINDS = ("nc", "classic nc", "h5", "chunked h5", "2 zarr", "3 zarr", "array zarr", "npy", "npz", "csv")
APART = KINDS[:7]
QUICK = ("nc", "chunked h5", "3 zarr", "npy", "csv")
FEW = [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]


@pytest.fixture(scope="module")
def warm():
    with Warm() as process:
        yield process


@pytest.fixture
def readers(warm, monkeypatch):
    code = Path(reader.__file__).read_text()
    monkeypatch.setattr(formats, "start_reader", lambda options: warm.start(code, ["reader", *options]))


def run(kind, folder, count, seed):
    files, options = make(kind, folder)
    path = folder / f"x.{kind.split()[-1]}"
    total = dict.fromkeys(("right", "refused", "other"), 0)
    for number, file in enumerate(files):
        share = count // len(files) + (number < count % len(files))
        checks = {"count": share, "seed": [seed, number], "checked": kind == "npz", "named": path.name}
        for name, times in trial(file, lambda: read(path, options), same, **checks).items():
            total[name] += times
    assert sum(total.values()) == count
    return total


@pytest.mark.parametrize("kind", FEW)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.thorough
def test_a_few_damaged_files(kind, tmp_path, readers):
    run(kind, tmp_path, 40, 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_many_damaged_files(kind, tmp_path, readers):
    print(f"{kind}: {run(kind, tmp_path, 2000, 1)}")
    assert {file.name for file in tmp_path.iterdir()} == {f"x.{kind.split()[-1]}"}
