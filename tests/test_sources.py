"""Points from whatever holds numbers: the same measurement, or one sentence."""

import re

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
import zarr

from manifold_jax import Axis, Grid, gram_from_grid, jet_from_grid, measure, reach, volume_element
from manifold_jax.geometry.manifold import as_points
from manifold_jax.geometry.sources import Rearranged, Stored

TURN = 2 * np.pi
# Of the same sizes as in test_measure and test_missing: compiled once.
GRID = Grid((Axis("angle", 0.0, TURN, 24, periodic=True), Axis("height", 0.0, 2.0, 20)))
LONG = Axis("angle", 0.0, TURN, 600, periodic=True)


def cylinder() -> np.ndarray:
    """An elliptic cylinder ``(24, 20, 3)`` whose samples all differ."""
    angle, height = (axis.samples() for axis in GRID.axes)
    columns = np.broadcast_arrays(2 * np.cos(angle)[:, None], np.sin(angle)[:, None], height)
    return np.stack(columns, axis=-1).astype(np.float32)


class OnlyArray:
    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return self.values


class OnlyDlpack:
    def __init__(self, values):
        self.__dlpack__, self.__dlpack_device__ = values.__dlpack__, values.__dlpack_device__


class Tensor:
    """What PyTorch has: a tensor with gradients must be detached first."""

    def __init__(self, values, attached=True):
        self.values, self.attached, self.dtype = values, attached, values.dtype

    def detach(self):
        return Tensor(self.values, False)

    def cpu(self):
        return self

    def numpy(self):
        if self.attached:
            raise RuntimeError("requires grad")
        return self.values


def hdf5(points, folder):
    file = h5py.File(folder / "points.h5", "w")
    return file.create_dataset("x", data=points)


def mapped(points, folder):
    np.save(folder / "points.npy", points)
    return np.load(folder / "points.npy", mmap_mode="r")


def labelled_file(points, folder):
    array = labelled(points).rename("x")
    array.to_netcdf(folder / "points.nc", engine="h5netcdf")
    return xr.open_dataarray(folder / "points.nc", engine="h5netcdf")


def labelled(points):
    coords = {"angle": ("angle", GRID.axes[0].samples(), {"units": "rad", "period": TURN})}
    coords["height"] = ("height", GRID.axes[1].samples(), {"units": "m"})
    return xr.DataArray(points, dims=("angle", "height", "xyz"), coords=coords)


HOLDERS = {
    "JAX": lambda points, _: jnp.asarray(points),
    "big endian": lambda points, _: points.astype(">f4"),
    "big endian, mapped": lambda points, folder: mapped(points.astype(">f4"), folder),
    "long double": lambda points, _: points.astype(np.longdouble),
    "Fortran order": lambda points, _: np.asfortranarray(points),
    "unmasked": lambda points, _: np.ma.masked_array(points, mask=False),
    "lists": lambda points, _: points.tolist(),
    "mapped": mapped,
    "HDF5": hdf5,
    "Zarr": lambda points, _: zarr.array(points, chunks=(5, 20, 2)),
    "xarray": lambda points, _: labelled(points),
    "xarray in a file": labelled_file,
    "__array__": lambda points, _: OnlyArray(points),
    "DLPack": lambda points, _: OnlyDlpack(points),
    "PyTorch": lambda points, _: Tensor(points),
}


@pytest.fixture(scope="module")
def expected():
    return measure(cylinder(), GRID)


@pytest.mark.parametrize("holder", HOLDERS)
def test_every_holder_gives_the_same_measurement(holder, expected, tmp_path):
    geometry = measure(HOLDERS[holder](cylinder(), tmp_path), GRID)
    assert geometry.grid == GRID
    for name in ("volume_element", "second_form_norm"):
        # Sums over features may run in another order.
        value, wanted = (np.asarray(getattr(g, name).value) for g in (geometry, expected))
        np.testing.assert_allclose(value, wanted, rtol=0, atol=2e-4)
    assert abs(float(geometry.total_volume.value) - 2 * 9.6884482) < 1e-2  # perimeter of the ellipse 2:1


def test_a_file_is_read_a_window_at_a_time():
    axis = LONG
    points = np.stack([np.cos(axis.samples()), np.sin(axis.samples())], axis=-1)

    class Watched:
        """An array in a file, as h5py has them, that counts what is read at once."""

        shape, dtype, chunks, largest = points.shape, points.dtype, None, 0

        def __getitem__(self, index):
            part = points[index]
            self.largest = max(self.largest, part.size)
            return part

    watched = Watched()
    gram = gram_from_grid(watched, Grid((axis,)), block_size=64)
    assert 0 < watched.largest <= 2 * (64 + 2 * 5)
    np.testing.assert_allclose(volume_element(gram), 1.0, rtol=1e-5)


@pytest.mark.thorough
def test_reach_and_jets_take_files(tmp_path):
    points = cylinder()
    stored = hdf5(points, tmp_path)
    np.testing.assert_array_equal(jet_from_grid(stored, GRID).first, jet_from_grid(points, GRID).first)
    found = reach(stored, GRID)
    assert found.value == reach(points, GRID).value
    assert abs(found.value - 0.5) <= found.error  # an ellipse 2:1, and a border


def test_a_labelled_array_has_its_grid(expected):
    array = labelled(cylinder())
    turned = as_points("measure", array.transpose("xyz", "height", "angle"))
    assert [(a.name, a.unit, a.periodic) for a in turned.grid.axes] == [
        ("height", "m", False),
        ("angle", "rad", True),
    ]
    np.testing.assert_array_equal(turned.values, np.swapaxes(cylinder(), 0, 1))
    geometry = measure(array.transpose("xyz", "angle", "height"))
    np.testing.assert_allclose(geometry.total_volume.value, expected.total_volume.value, rtol=1e-5)


@pytest.mark.slow
def test_a_labelled_array_is_measured_in_any_order(expected):
    geometry = measure(labelled(cylinder()).transpose("xyz", "height", "angle"))
    np.testing.assert_allclose(geometry.total_volume.value, expected.total_volume.value, rtol=1e-5)


@pytest.mark.parametrize(
    ("said", "periodic"), [("false", False), (np.int8(0), False), (1, True), ("yes", True)]
)
def test_what_an_attribute_says_of_a_period(said, periodic):
    array = xr.DataArray(np.zeros((4, 2)), dims=("time", "xy"), coords={"time": np.arange(4)})
    assert Grid.from_xarray(array, "time").periodic == (True,)
    array["time"].attrs.update(periodic=said, units=None)
    assert Grid.from_xarray(array).axes == (Axis("time", 0, 3 + periodic, 4, periodic),)


@pytest.mark.parametrize("holder", ["NumPy", "JAX", "HDF5", "Zarr", "xarray"])
def test_descending_axes_are_turned_around(holder, expected, tmp_path):
    """Against samples that were turned around by hand."""
    points = cylinder()[::-1, ::-1].copy()
    axes = [Axis.from_samples(a.name, a.samples()[::-1], a.periodic) for a in GRID.axes]
    grid = Grid(tuple(axes))
    assert all(axis.descending for axis in axes)
    if holder == "xarray":
        points, grid = labelled(cylinder())[::-1, ::-1], None
    geometry = measure(HOLDERS.get(holder, lambda p, _: p)(points, tmp_path) if grid else points, grid)
    np.testing.assert_allclose([a.start for a in geometry.grid.axes], 0, atol=1e-12)
    assert not any(axis.descending for axis in geometry.grid.axes)
    np.testing.assert_allclose(geometry.second_form_norm.value, expected.second_form_norm.value, atol=2e-4)


@pytest.mark.parametrize(
    ("values", "periodic", "axis"),
    [
        (np.linspace(0, 1, 5), False, Axis("t", 0.0, 1.0, 5)),
        (np.linspace(0, 1, 5, dtype=np.float32), False, Axis("t", 0.0, 1.0, 5)),
        (range(4), True, Axis("t", 0.0, 4.0, 4, periodic=True)),
        (range(4), jnp.array(True), Axis("t", 0.0, 4.0, 4, periodic=True)),
        ([np.float32(3), 2, 1], False, Axis("t", 1.0, 3.0, 3, descending=True)),
        ([0, 1, 2, 4], False, Axis("t", 0.0, 4.0, 4, nodes=(0, 1, 2, 4))),
        ([5, 3, 0], 6, Axis("t", 0.0, 6.0, 3, True, nodes=(0, 3, 5), descending=True)),
        (np.arange(0, 360, 5), 360, Axis("t", 0.0, 360.0, 72, periodic=True)),
        (
            np.arange(0, 360, 5, np.uint16)[::-1],
            np.int64(360),
            Axis("t", 0.0, 360.0, 72, True, descending=True),
        ),
    ],
)
def test_axes_from_samples(values, periodic, axis):
    assert Axis.from_samples("t", values, periodic) == axis


@pytest.mark.parametrize(
    ("values", "periodic", "words"),
    [
        ([0, 1, 1, 2], False, "got 1 next to 1"),
        ([0, 2, 1, 3], False, "all increase or all decrease"),
        ([0, np.nan], False, "finite"),
        ([0], False, "two numbers or more"),
        (["a", "b"], False, "two numbers or more"),
        (np.linspace(0, TURN, 64), TURN, "coincide"),
        (np.arange(0, 300, 5), 360, "fill one period"),
        (np.arange(0, 400, 5), 360, "fill one period"),
        ([0, 1, 2], -3, "periodic must be a positive"),
    ],
)
def test_samples_that_are_no_axis_are_refused(values, periodic, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        Axis.from_samples("t", values, periodic)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (np.ma.masked_less(cylinder(), -1.9), "masked numbers"),
        ([[1.0], [1.0, 2.0]], "array of numbers"),
        ("points.npy", "real numbers"),
        (None, "real numbers"),
        (cylinder().astype(complex), "real numbers, got complex128"),
        (cylinder() > 0, "real numbers, got bool"),
        (cylinder().astype("M8[s]"), "real numbers"),
    ],
)
def test_what_holds_no_points_is_refused(points, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        measure(points, GRID)


def test_not_finite_numbers_in_a_file_are_counted(tmp_path):
    points = cylinder()
    points[3, 4, 1] = points[7, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"at 2 of 480 points, first at index \(3, 4\)"):
        measure(hdf5(points, tmp_path), GRID)


@pytest.mark.parametrize("held", [np.asarray, pytest.param(jnp.asarray, marks=pytest.mark.slow), zarr.array])
@pytest.mark.thorough
def test_a_doubled_end_is_refused_and_a_fold_is_not(held):
    axis = LONG
    angle = np.linspace(0, TURN, axis.size)
    ellipse = np.stack([2 * np.cos(angle), np.sin(angle)], axis=-1).astype(np.float32)
    with pytest.raises(ValueError, match="coincide"):
        measure(held(ellipse), Grid((axis,)))
    cylinder = np.stack([np.c_[ellipse, np.full(axis.size, height)] for height in range(5)])
    cylinder[0, 0] = np.nan
    with pytest.raises(ValueError, match="coincide"):
        measure(held(cylinder), Grid((Axis("height", 0, 4, 5), axis)), missing="mask")
    middle = axis.samples() + axis.spacing / 2
    fold = np.stack([np.cos(middle), np.cos(2 * middle)], axis=-1).astype(np.float32)
    # In the blocks of the file that is read a window at a time: compiled once.
    assert np.isfinite(measure(held(fold), Grid((axis,)), block_size=64).total_volume.value)


@pytest.mark.slow
def test_a_file_may_be_measured_under_jit(tmp_path, expected):
    stored = hdf5(cylinder(), tmp_path)
    volume = jax.jit(lambda: measure(stored, GRID).total_volume.value)()
    np.testing.assert_allclose(volume, expected.total_volume.value, rtol=1e-5)


def test_a_labelled_array_takes_the_order_of_the_grid_that_is_given(expected):
    array = xr.DataArray(cylinder(), dims=("angle", "height", "xyz")).transpose("height", "xyz", "angle")
    volume = measure(array, GRID).total_volume.value
    np.testing.assert_allclose(volume, expected.total_volume.value, rtol=1e-6)


def test_stored_samples_are_read_in_any_order():
    values = np.arange(12.0).reshape(4, 3)
    for flipped in ((), (0,)):
        stored = Stored(Rearranged(values, (0, 1), flipped), values.shape, values.dtype)
        index = np.array([0, 1, 0, 3, 2])
        np.testing.assert_array_equal(stored.take([index]), (values[::-1] if flipped else values)[index])
