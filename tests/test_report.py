"""Reports: pytree, labelled data sets, files, verdicts and summaries."""

import dataclasses
import json
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manifold_jax import Axis, Geometry, Grid, Verdict, geometry_from_xarray, load_geometry, measure
from manifold_jax.geometry.quantities import FIELDS, TOTALS

# Of the same sizes, and NumPy arrays, as in test_missing and test_sources: compiled once.
GRID = Grid(
    (Axis("angle", 0.0, 2 * math.pi, 24, periodic=True, unit="rad"), Axis("height", 0.0, 1.0, 20, unit="px"))
)
STATIC = ("name", "grid", "stencil", "tolerance", "attributes")


def cone(u):
    # The apex at height 0 is degenerate: values are NaN there.
    return u[1] * jnp.stack([jnp.cos(u[0]), jnp.sin(u[0]), jnp.ones_like(u[0])])


def make(exact=False, dtype=jnp.float32, **options):
    points = np.asarray(jax.vmap(jax.vmap(cone))(GRID.coordinates(dtype)))
    return measure(cone if exact else points, GRID, exact=exact, name="cone", **options)


@pytest.fixture(scope="module")
def geometry():
    return make()


def assert_equal(first, second):
    assert first == second
    assert hash(first) == hash(second)
    for name in STATIC:
        assert getattr(first, name) == getattr(second, name), name


def test_a_geometry_is_a_pytree(geometry):
    leaves, structure = jax.tree.flatten(geometry)
    others = ("axis_sensitivity", "noise", "noise_decay")
    assert len(leaves) == 3 * (len(FIELDS) + len(TOTALS)) + 2 * len(FIELDS) + len(others)
    assert_equal(jax.tree.unflatten(structure, leaves), geometry)
    doubled = jax.jit(lambda g: jax.tree.map(lambda x: 2 * x, g))(geometry)
    assert isinstance(doubled, Geometry)
    assert doubled.grid == GRID
    np.testing.assert_array_equal(
        np.asarray(doubled.total_volume.value), 2 * np.asarray(geometry.total_volume.value)
    )


def test_a_geometry_is_frozen(geometry):
    with pytest.raises(dataclasses.FrozenInstanceError):
        geometry.name = "other"


def test_labelled_data_set(geometry):
    dataset = geometry.to_xarray()
    assert dataset["scalar_curvature"].dims == ("angle", "height")
    assert dataset["total_volume"].dims == ()
    assert dataset["height"].attrs["units"] == "px"
    np.testing.assert_array_equal(dataset["angle"].values, GRID.axes[0].samples())
    at = dataset["volume_element"].sel(height=0.47, method="nearest").isel(angle=0)
    assert float(at) == pytest.approx(float(geometry.volume_element.value[0, 9]))
    assert dataset.attrs["title"] == "cone"
    assert {"jax_version", "device", "stencil", "tolerance"} <= set(dataset.attrs)
    for name in FIELDS + TOTALS:
        assert dataset[name].attrs["long_name"]
        assert {f"{name}_error", f"{name}_resolved"} <= set(dataset)


@pytest.mark.parametrize("name", ["cone.nc", "cone.zarr"])
@pytest.mark.parametrize("exact", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_round_trip_through_a_file(exact, name, tmp_path):
    measured = make(exact)
    path = measured.save(tmp_path / "new folder" / name)
    assert path.exists()
    assert [p.name for p in path.parent.iterdir()] == [name]
    assert_equal(load_geometry(path), measured)
    assert_equal(geometry_from_xarray(measured.to_xarray()), measured)


def test_round_trip_of_an_exact_curve(tmp_path):
    ring = Grid((Axis("angle", 0.0, 2 * math.pi, 16, periodic=True),))
    measured = measure(lambda u: jnp.stack([jnp.cos(u[0]), jnp.sin(u[0])]), ring, exact=True)
    assert measured.stencil is None
    assert_equal(load_geometry(measured.save(tmp_path / "ring.nc")), measured)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_round_trip_in_float64_and_with_attributes(suffix, x64, tmp_path):
    measured = dataclasses.replace(make(dtype=jnp.float64), attributes=(("shape", "cone"), ("blur", "1.0")))
    assert measured.volume_element.value.dtype == jnp.float64
    assert_equal(load_geometry(measured.save(tmp_path / f"cone.{suffix}")), measured)


def test_a_float64_file_is_read_without_x64(geometry, tmp_path):
    with jax.enable_x64(True):
        double = jax.tree.map(lambda x: x.astype(float) if x.dtype.kind == "f" else x, geometry)
        path = double.save(tmp_path / "cone.nc")
        assert load_geometry(path).volume_element.value.dtype == jnp.float64
    assert load_geometry(path).volume_element.value.dtype == jnp.float32


@pytest.mark.parametrize("name", ["cone.nc", "cone.zarr"])
@pytest.mark.thorough
def test_overwriting_a_file(name, geometry, tmp_path):
    path = tmp_path / name
    make(exact=True).save(path)
    geometry.save(path)
    assert_equal(load_geometry(path), geometry)
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.thorough
def test_a_failed_save_leaves_the_earlier_result(geometry, tmp_path, monkeypatch):
    path = geometry.save(tmp_path / "cone.zarr")
    rename = Path.rename

    def failing(self, target):
        if ".tmp" in self.name:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(ValueError, match=r"Cannot write .*cone\.zarr: No space left on device"):
        make(exact=True).save(path)
    monkeypatch.undo()
    assert load_geometry(path) == geometry
    assert [p.name for p in tmp_path.iterdir()] == ["cone.zarr"]


def test_labels_and_units_in_a_zarr_folder(geometry, tmp_path):
    xarray = pytest.importorskip("xarray")
    with xarray.open_zarr(geometry.save(tmp_path / "cone.zarr")) as dataset:
        assert dataset["scalar_curvature"].dims == ("angle", "height")
        assert dataset["height"].attrs["units"] == "px"
        assert dataset["angle"].attrs["units"] == "rad"
        np.testing.assert_array_equal(dataset["angle"].values, GRID.axes[0].samples())


def test_a_foreign_folder_is_not_replaced(geometry, tmp_path):
    path = tmp_path / "cone.zarr"
    path.mkdir()
    (path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"cone\.zarr: what is there is not a Zarr folder"):
        geometry.save(path)
    assert (path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("module", "name", "extra"), [("zarr", "cone.zarr", "zarr"), ("h5netcdf", "cone.nc", "report")]
)
def test_a_missing_package_is_named(module, name, extra, geometry, tmp_path, monkeypatch):
    path = geometry.save(tmp_path / name)
    monkeypatch.setitem(sys.modules, module, None)
    for action in (lambda: geometry.save(path), lambda: load_geometry(path)):
        with pytest.raises(ImportError, match=rf'needs {module}: pip install "manifold_jax\[{extra}\]"'):
            action()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["measure", "axis"])
def test_an_axis_may_have_any_name(name, tmp_path):
    # These were once the names of dimensions of axis_sensitivity in the data set.
    grid = Grid((Axis(name, 0.0, 1.0, 9), Axis("v", 0.0, 1.0, 9)))
    points = grid.coordinates()
    measured = measure(jnp.concatenate([points, points[..., :1] ** 2], axis=-1), grid)
    assert_equal(load_geometry(measured.save(tmp_path / "named.nc")), measured)


@pytest.mark.parametrize("name", ["cone.txt", "cone", "cone.csv"])
def test_unknown_suffix(name, geometry, tmp_path):
    with pytest.raises(ValueError, match=rf"\.nc \(NetCDF\) or \.zarr, got '{name}'"):
        geometry.save(tmp_path / name)


@pytest.mark.parametrize("name", ["cone.nc", "cone.zarr"])
def test_unwritable_folder(name, geometry, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ValueError, match=rf"Cannot write .*{name}"):
        geometry.save(tmp_path / "file" / name)


def test_a_folder_in_the_place_of_a_file(geometry, tmp_path):
    (tmp_path / "cone.nc").mkdir()
    with pytest.raises(ValueError, match=r"Cannot write .*cone\.nc: Is a directory"):
        geometry.save(tmp_path / "cone.nc")


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(ValueError, match=r"no saved geometry at .*gone\.nc"):
        load_geometry(tmp_path / "gone.nc")
    xarray = pytest.importorskip("xarray")
    foreign = xarray.Dataset({"x": ("t", [1.0])})
    foreign.to_netcdf(tmp_path / "foreign.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=r"not written by Geometry\.to_xarray"):
        load_geometry(tmp_path / "foreign.nc")
    with pytest.raises(ValueError, match=r"not written by Geometry\.to_xarray"):
        geometry_from_xarray(foreign)


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "broken.nc").write_text("this is no NetCDF file")
    (tmp_path / "broken.zarr").mkdir()
    (tmp_path / "half.zarr").mkdir()
    (tmp_path / "half.zarr" / ".zgroup").write_text("{")
    for name in ("broken.nc", "broken.zarr", "half.zarr"):
        with pytest.raises(ValueError, match=name):
            load_geometry(tmp_path / name)


def test_verdicts_name_what_they_judge(geometry):
    verdicts = geometry.verdicts()
    assert set(verdicts) == set(FIELDS + TOTALS)
    for verdict in verdicts.values():
        assert isinstance(verdict, Verdict)
        assert verdict.sentence.endswith(".")
        assert 0 <= verdict.share <= 1
        assert set(verdict.axes) <= set(GRID.names)
    curvature = geometry.verdict("scalar_curvature")
    assert (
        "Undefined at 5.0% of the points (degenerate metric)" in curvature.sentence
    )  # the apex row, 1 of 20
    with pytest.raises(ValueError, match=r"verdict: name must be one of .*got 'colour'"):
        geometry.verdict("colour")


@pytest.mark.thorough
def test_a_degenerate_manifold_is_said_to_be():
    flat = measure(jnp.ones((24, 20, 3)), GRID)
    assert float(flat.total_volume.value) == 0.0
    assert np.isnan(np.asarray(flat.scalar_curvature.value)).all()
    verdict = flat.verdict("scalar_curvature")
    assert not verdict.resolved
    assert "degenerate on the whole grid" in verdict.sentence
    assert flat.quantiles()["scalar_curvature"].shape == (5,)
    assert "cone" not in flat.summary()


def test_summary_is_plain_text(geometry):
    text = geometry.summary()
    lines = text.splitlines()
    assert lines[0] == "cone: 480 points, 24 angle x 20 height; stencils of order 4"
    assert len(lines) == 1 + len(FIELDS) + len(TOTALS)
    assert all(" +- " in line for line in lines[1:])


def test_quantiles(geometry):
    quantiles = geometry.quantiles((0.0, 0.5, 1.0))
    values = np.asarray(geometry.volume_element.value)
    np.testing.assert_allclose(quantiles["volume_element"], [values.min(), np.median(values), values.max()])


def test_provenance_is_json(geometry):
    dataset = geometry.to_xarray()
    assert json.loads(dataset.attrs["axes"])[0]["periodic"] is True
    assert json.loads(dataset.attrs["stencil"]) == [[4, 1], [4, 1]]


def test_a_result_saved_without_the_decay_of_its_noise_still_loads(geometry):
    dataset = geometry.to_xarray().drop_vars("noise_decay")
    with pytest.raises(ValueError, match="not those that were measured"):
        geometry_from_xarray(dataset)  # it was taken out
    del dataset.attrs["digest"]
    assert np.isnan(geometry_from_xarray(dataset).noise_decay).all()


@pytest.mark.slow
def test_a_result_saved_with_a_reach_still_loads(geometry, tmp_path):
    # Saved before the reach had a result of its own.
    dataset = geometry.to_xarray()
    for name, value in (("reach", 0.5), ("reach_error", 0.01), ("reach_resolved", np.int8(1))):
        dataset[name] = ((), value)
    dataset.to_netcdf(tmp_path / "earlier.nc", engine="h5netcdf")
    assert_equal(load_geometry(tmp_path / "earlier.nc"), geometry)
