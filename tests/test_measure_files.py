import contextlib
import json
import math
import re
import zipfile
from functools import partial

import h5py
import numpy as np
import pytest
import xarray
import zarr
from PIL import Image
from typer.testing import CliRunner

from manifold_jax import Axis, Grid, gram_from_grid, load_geometry, suggest_stencil
from manifold_jax.datasets import image_folder
from manifold_jax.experiments import cli
from manifold_jax.experiments.measure import command, formats, inspect
from manifold_jax.experiments.measure.files import Cloud, load, parse_axis, parse_periodic
from manifold_jax.experiments.measure.formats import read_cloud
from manifold_jax.geometry import sources, windows

TURN = 2 * math.pi
FORGOTTEN = "looks like an axis: if it is one, name it too, with --axis"
ANGLE, HEIGHT = np.arange(12) * TURN / 12, np.linspace(0, 1, 7)
CYLINDER = np.stack(
    np.broadcast_arrays(np.cos(ANGLE)[:, None], np.sin(ANGLE)[:, None], HEIGHT[None]), axis=-1
).astype(np.float32)
AXES = {"axis": [f"angle=0:{TURN}:rad", "height=0:1"], "periodic": ["angle"]}


def run(command, *arguments):
    return CliRunner().invoke(cli.application(command), [command, *map(str, arguments)])


def text(result):
    return " ".join(result.output.split())


@pytest.fixture
def loaded():
    with contextlib.ExitStack() as files:
        yield lambda path, **options: load(path, options, files)


def is_cylinder(samples):
    angle, height = samples.grid.axes
    assert (angle.name, angle.periodic, angle.unit, angle.size) == ("angle", True, "rad", 12)
    assert angle.stop - angle.start == pytest.approx(TURN)
    assert (height.name, height.start, height.stop, height.periodic) == ("height", 0, 1, False)
    np.testing.assert_array_equal(np.asarray(samples.points[:, :, :]), CYLINDER)


def test_npy(tmp_path, loaded):
    np.save(tmp_path / "x.npy", CYLINDER)
    samples = loaded(tmp_path / "x.npy", **AXES)
    is_cylinder(samples)
    assert isinstance(samples.points, np.memmap)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(CYLINDER))
    is_cylinder(loaded(tmp_path / "fortran.npy", **AXES))
    with (tmp_path / "archive.npy").open("wb") as file:
        np.savez(file, CYLINDER)
    with pytest.raises(ValueError, match=r"archive.npy cannot be read"):
        loaded(tmp_path / "archive.npy", **AXES)


def test_npz_names_its_axes_by_the_arrays_that_fit(tmp_path, loaded):
    np.savez(tmp_path / "x.npz", points=CYLINDER, angle=ANGLE, height=HEIGHT, labels=np.zeros(12))
    samples = loaded(tmp_path / "x.npz", periodic=["angle"])
    assert samples.grid.names == ("angle", "height")
    np.testing.assert_array_equal(samples.points, CYLINDER)


def labelled(points=CYLINDER):
    coordinates = {"angle": ("angle", ANGLE, {"units": "rad"}), "height": HEIGHT}
    return xarray.Dataset({"points": (("angle", "height", "xyz"), points)}, coordinates)


@pytest.mark.parametrize("engine", ["h5netcdf", "scipy"])
def test_netcdf(engine, tmp_path, loaded):
    labelled().to_netcdf(tmp_path / "x.nc", engine=engine)
    is_cylinder(loaded(tmp_path / "x.nc", periodic=["angle"]))


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.filterwarnings("ignore")
def test_zarr(version, tmp_path, loaded):
    labelled().to_zarr(tmp_path / "x.zarr", zarr_format=version, consolidated=False)
    is_cylinder(loaded(tmp_path / "x.zarr", periodic=["angle"]))
    zarr.save_array(tmp_path / "y.zarr", CYLINDER)
    is_cylinder(loaded(tmp_path / "y.zarr", **AXES))


@pytest.mark.filterwarnings("ignore")
def test_addresses_of_zarr(tmp_path, loaded):
    fsspec = pytest.importorskip("fsspec")
    labelled().to_zarr(tmp_path / "x.zarr", zarr_format=3, consolidated=False)
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "x.zarr"), "/bucket/x.zarr", recursive=True)
    for address in (f"file://{tmp_path}/x.zarr", "memory://bucket/x.zarr"):
        samples = loaded(address, periodic=["angle"])
        is_cylinder(samples)
        assert address in samples.attributes["source"]
        assert f"manifold-jax measure {address} " in text(run("inspect", address))


@pytest.mark.parametrize("address", ["memory://bucket/none.zarr", "nothing://bucket/x.zarr"])
def test_addresses_where_nothing_is(address, tmp_path):
    pytest.importorskip("fsspec")
    result = run("measure", address, "--out", tmp_path)
    assert result.exit_code == 2
    assert f"{address} cannot be read (" in text(result)


def test_hdf5(tmp_path, loaded):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["deep/points"] = CYLINDER
        file["deep/angle"], file["deep/height"] = ANGLE, HEIGHT
        file["deep/angle"].attrs["units"] = np.array(["rad"], "S3")
        file["other"] = np.zeros((3, 3))
    is_cylinder(loaded(tmp_path / "x.h5", variable="deep/points", periodic=["angle"]))


READERS = {"crashes": "import os; os.abort()", "loops": "while True: pass", "stops": "print('{}')"}


@pytest.mark.parametrize("name", READERS)
def test_a_reader_that_does_not_answer_costs_a_sentence(name, tmp_path, monkeypatch):
    labelled().to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    about = {"name": "x", "shape": [12, 7, 3], "dtype": "<f4", "names": [], "vectors": [], "units": {}}
    program = f"import json; print(json.dumps({about}), flush=True); input(); {READERS[name]}"
    (tmp_path / "reader.py").write_text(program.replace("; while", "\nwhile"))
    monkeypatch.setattr(formats.reader, "__file__", str(tmp_path / "reader.py"))
    monkeypatch.setattr(formats, "SECONDS", 0.1)
    with formats.opened(tmp_path / "x.nc") as content:
        for _ in range(2):
            with pytest.raises(ValueError, match=r"x.nc cannot be read: it is damaged, or takes more than"):
                content.values[:2]


def test_axes_in_any_order_and_direction(tmp_path, loaded):
    moved = labelled().transpose("xyz", "height", "angle").isel(height=slice(None, None, -1))
    moved.to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    samples = loaded(tmp_path / "x.nc", axes=("angle", "height"), periodic=["angle"])
    is_cylinder(samples)
    np.testing.assert_array_equal(samples.points[2:5, 3:4, :], CYLINDER[2:5, 3:4])
    np.save(tmp_path / "x.npy", CYLINDER[:, ::-1])
    is_cylinder(loaded(tmp_path / "x.npy", axis=[AXES["axis"][0], "height=1:0"], periodic=["angle"]))


@pytest.mark.parametrize(
    ("axis", "periodic", "expected"),
    [
        ("a=0:360:deg", "a", (0, 360)),
        ("a=0:360:deg", "a=360", (0, 360)),
        ("a=0:330:deg", "a=360", (0, 360)),
        ("a=330:0:deg", "a=360", (0, 360)),
    ],
)
def test_ends_of_periods(axis, periodic, expected, tmp_path, loaded):
    np.save(tmp_path / "x.npy", CYLINDER[:, 0])
    (found,) = loaded(tmp_path / "x.npy", axis=[axis], periodic=[periodic]).grid.axes
    assert (found.start, found.stop) == pytest.approx(expected)
    assert (found.periodic, found.size, found.unit) == (True, 12, "deg")


def test_descending_with_an_excluded_end(tmp_path, loaded):
    np.save(tmp_path / "x.npy", CYLINDER[:, 0])
    (found,) = loaded(tmp_path / "x.npy", axis=["a=360:0"], periodic=["a"]).grid.axes
    assert (found.start, found.stop) == pytest.approx((30, 390))


# ---- folders of images


def blob(angle, shift, size=16):
    y, x = np.mgrid[:size, :size] - size / 2
    x = x - shift
    u, v = x * math.cos(angle) + y * math.sin(angle), -x * math.sin(angle) + y * math.cos(angle)
    return np.exp(-((u / 4) ** 2) - (v / 2) ** 2)


ANGLES, SHIFTS = np.arange(8) * math.pi / 8, np.array([-1.0, 0.0, 1.0])


@pytest.fixture
def folder(tmp_path):
    """8-bit images, a table of their factors in another order, a text and a constant."""
    rows = ["file,shift,angle [rad],kind,scale"]
    for i, a in enumerate(ANGLES):
        for s in SHIFTS:
            Image.fromarray(np.round(255 * blob(a, s)).astype(np.uint8)).save(tmp_path / f"{i}_{s:g}.png")
            rows.insert(1, f"{i}_{s:g}.png,{s},{a},blob,2")
    (tmp_path / "factors.csv").write_text("\n".join(rows))
    return tmp_path


def truth():
    return np.stack([[np.round(255 * blob(a, s)) / 255 for s in SHIFTS] for a in ANGLES]).astype(np.float32)


def test_a_table_in_any_order(folder):
    (folder / "._factors.csv").write_bytes(b"what macOS leaves")
    with (folder / "factors.csv").open("a") as table:
        table.write("\n,,,,\n")  # what spreadsheets leave
    pictures = image_folder(folder, periodic={"angle": math.pi}, factors=("angle", "shift"))
    np.testing.assert_allclose(pictures.points, truth(), rtol=1e-6)
    assert pictures.points.dtype == np.float32
    angle, shift = pictures.grid.axes
    assert angle.periodic
    assert (angle.stop, angle.unit, shift.start) == (pytest.approx(math.pi), "rad", -1)
    assert pictures.notes == ("The column kind of factors.csv holds no numbers and is left out.",)
    every = image_folder(folder)
    assert every.grid.names == ("shift", "angle")
    assert every.notes[1:] == ("The factor scale does not vary (2) and is left out.",)


def test_numbers_in_names(folder):
    pictures = image_folder(folder, pattern="{angle}_{shift}.png")
    np.testing.assert_allclose(pictures.points, truth(), rtol=1e-6)
    assert pictures.grid.axes[1] == Axis("shift", -1, 1, 3)


def records(folder):
    header, *rows = [line.split(",") for line in (folder / "factors.csv").read_text().splitlines()]
    return [dict(zip(header, row, strict=True)) for row in rows]


@pytest.mark.parametrize("form", ["records", "columns", "by file", "decimal commas"])
def test_tables_of_every_form(form, folder):
    rows = records(folder)
    (folder / "factors.csv").unlink()
    if form == "decimal commas":
        lines = [";".join(rows[0]), *(";".join(row.values()).replace(".", ",") for row in rows)]
        (folder / "t.csv").write_text("\n".join(lines).replace(",png", ".png"), encoding="utf-8-sig")
    else:
        content = {
            "records": rows,
            "columns": {name: [row[name] for row in rows] for name in rows[0]},
            "by file": {row["file"]: {k: v for k, v in row.items() if k != "file"} for row in rows},
        }[form]
        (folder / "t.json").write_text(json.dumps(content))
    np.testing.assert_allclose(image_folder(folder, factors=("angle", "shift")).points, truth(), rtol=1e-6)


GREY = (np.arange(64).reshape(8, 8) * 4).astype(np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)
MODES = {
    "grey.png": (Image.fromarray(GREY), GREY / 255),
    "grey.tif": (Image.fromarray(GREY), GREY / 255),
    "colour.png": (Image.fromarray(COLOUR), COLOUR / 255),
    "palette.png": (Image.fromarray(GREY).convert("P"), np.stack([GREY] * 3, -1) / 255),
    "black.png": (Image.fromarray(GREY > 100), GREY > 100),
    "sixteen.png": (Image.fromarray(GREY.astype(np.uint16) * 257), GREY / 255),
    "sixteen.tiff": (Image.fromarray(GREY.astype(np.uint16) * 257), GREY / 255),
    "float.tif": (Image.fromarray(GREY.astype(np.float32) - 7.5), GREY - 7.5),
    "opaque.png": (Image.fromarray(np.dstack([COLOUR, np.full((8, 8), 255, np.uint8)])), COLOUR / 255),
}


@pytest.mark.parametrize("name", MODES)
def test_kinds_of_images(name, tmp_path):
    image, expected = MODES[name]
    suffix = name[name.index(".") :]
    for k in range(3):
        image.save(tmp_path / f"{k}{suffix}")
    pictures = image_folder(tmp_path, pattern="{k}" + suffix)
    np.testing.assert_allclose(pictures.points[2], expected, rtol=1e-6)


def test_jpeg(tmp_path):
    for k in range(3):
        Image.fromarray(np.full((8, 8), 40 * k, np.uint8)).save(tmp_path / f"{k}.jpg")
    assert image_folder(tmp_path, pattern="{k}.jpg").points.mean(axis=(1, 2)) == pytest.approx(
        [0, 40 / 255, 80 / 255], abs=0.01
    )


def damage(folder, name="3_0.png", position=60):
    content = bytearray((folder / name).read_bytes())
    content[position] ^= 4
    (folder / name).write_bytes(content)


def replace_image(array, name="3_0.png", **options):
    return lambda folder: Image.fromarray(array).save(folder / name, **options)


def rewrite(old, new):
    def change(folder):
        content = (folder / "factors.csv").read_text()
        assert old in content
        (folder / "factors.csv").write_text(content.replace(old, new))

    return change


def drop(folder, which=(5, 9)):
    lines = (folder / "factors.csv").read_text().splitlines()
    (folder / "factors.csv").write_text("\n".join(x for k, x in enumerate(lines) if k not in which))


SIXTEEN = (np.arange(16 * 16 * 4).reshape(16, 16, 4) % 200).astype(np.uint8)
FOLDERS = {
    "missing": (drop, {}, "2 are missing, first shift = -1, angle = 1.9635"),
    "double": (rewrite("7_0.png,0.0,2.74", "7_0.png,1.0,2.74"), {}, "1 are double, first shift = 1"),
    "no file": (lambda f: (f / "3_0.png").unlink(), {}, "1 of 24 files do not exist, first"),
    "no number": (rewrite("7_0.png,0.0", "7_0.png,?"), {}, "got '?' for 7_0.png"),
    "not finite": (rewrite("7_0.png,0.0", "7_0.png,nan"), {}, "must be finite numbers"),
    "short row": (rewrite("7_0.png,0.0", "7_0.png"), {}, "has 4 cells, not 5"),
    "same heading": (rewrite("shift", "angle [rad]"), {}, "two columns are called 'angle [rad]'"),
    "same factor": (rewrite("shift", "angle"), {}, "must have one column, got two of angle"),
    "no rows": (lambda f: (f / "factors.csv").write_text(""), {}, "factors.csv has no rows"),
    "no files": (rewrite(".png", ".exe"), {}, "files do not exist"),
    "size": (replace_image(np.zeros((16, 15), np.uint8)), {}, "one size and kind, got"),
    "kind": (replace_image(np.zeros((16, 16, 3), np.uint8)), {}, "16 x 16 pixels, RGB"),
    "alpha": (replace_image(SIXTEEN), {}, "has transparent pixels"),
    "damaged": (damage, {}, "3_0.png is damaged"),
    "text": (lambda f: (f / "3_0.png").write_text("hello"), {}, "3_0.png is damaged or not a PNG"),
    "period": (lambda f: None, {"periodic": {"angle": 2.0}}, "period"),
    "factor": (lambda f: None, {"factors": ["angel"]}, "factors must name factors, each once, got 'angel'"),
    "period of": (lambda f: None, {"periodic": ["angel"]}, "periodic must name factors"),
    "tables": (lambda f: (f / "more.csv").write_text("a"), {}, "holds 2 tables (factors.csv, more.csv)"),
    "both": (lambda f: None, {"table": "factors.csv", "pattern": "{a}.png"}, "give one of them"),
    "pattern": (lambda f: None, {"pattern": "{a}{b}.png"}, "with something in between"),
    "no match": (lambda f: None, {"pattern": "x{a}.png"}, "no name of an image"),
    "too many": (lambda f: None, {"pattern": "{a}_{b}.png", "factors": ["a"]}, "16 are double"),
    "empty": (lambda f: [x.unlink() for x in f.iterdir()], {}, "holds no PNG, JPEG or TIFF"),
    "no table": (lambda f: (f / "factors.csv").unlink(), {}, "no table of factors"),
    "json": (
        lambda f: [(f / "factors.csv").unlink(), (f / "f.json").write_text("[1, 2]")],
        {},
        "expected a list of records",
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_that_are_refused(name, folder):
    change, options, message = FOLDERS[name]
    change(folder)
    with pytest.raises((ValueError, FileNotFoundError)) as refusal:
        image_folder(folder, **options)
    assert message in str(refusal.value)
    assert str(refusal.value).count("\n") == 0


def test_the_pattern_that_a_refusal_gives_is_right(folder):
    (folder / "factors.csv").unlink()
    with pytest.raises(ValueError, match="no table of factors") as refusal:
        image_folder(folder)
    pattern = re.search(r"(\S+\.png) \(--pattern\)", str(refusal.value))
    assert pattern
    assert image_folder(folder, pattern=pattern[1]).grid.names == ("factor1", "factor2")


# ---- what the command refuses


def written(tmp_path):
    np.save(tmp_path / "x.npy", CYLINDER)
    np.savez(tmp_path / "x.npz", a=CYLINDER, b=CYLINDER)
    np.save(tmp_path / "o.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:200])
    labelled().to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    (tmp_path / "cut.h5").write_bytes((tmp_path / "x.nc").read_bytes()[:2000])
    (tmp_path / "bad.nc").write_text("no")
    (tmp_path / "bad.npz").write_text("no")
    (tmp_path / "bad.csv").write_text("x,y\n1,2\n1,z\n")
    (tmp_path / "one.csv").write_text("1\n2\n3\n")
    (tmp_path / "few.csv").write_text("1,2\n3,4\n")
    (tmp_path / "x.png").write_text("")
    (tmp_path / "empty").mkdir()


CYLINDER_AXES = ("--axis", "a=0:1", "--axis", "b=0:1")
COMMANDS = [
    (["nothing.npy"], "no file or folder of that name"),
    (["x.png"], "is not of a kind that is read"),
    (["x.npy"], "has the shape (12, 7, 3) and no axes"),
    (["x.npy"], "--cloud if it has no grid"),
    (["x.npy", *CYLINDER_AXES, "--axis", "c=0:1"], "features must be left"),
    (["x.npy", "--axis", "a=0"], "--axis takes name=start:stop[:unit], got 'a=0'"),
    (["x.npy", "--axis", "a=0:x"], "got 'a=0:x'"),
    (["x.npy", "--axis", "a=1:1"], "must be different numbers"),
    (["x.npy", "--axis", "a=0:nan"], "must be different numbers"),
    (["x.npy", "--axis", "a"], "has none for the 12 points of the axis a"),
    (["x.npy", "--axis", "a=0:1", "--axis", "a=0:1"], "each once"),
    (["x.npy", *CYLINDER_AXES, "--periodic", "c"], "--periodic names 'c'"),
    (["x.npy", *CYLINDER_AXES, "--periodic", "a=-1"], "--periodic takes name or name=period"),
    (["x.npy", *CYLINDER_AXES, "--periodic", "a=7"], "must fill one period"),
    (["x.npy", *CYLINDER_AXES, "--variable", "a"], "--variable does not apply to x.npy"),
    (["x.npy", *CYLINDER_AXES, "--pattern", "a"], "--pattern does not apply to x.npy"),
    (["x.npy", *CYLINDER_AXES, "--dimension", "1"], "--dimension does not apply to x.npy"),
    (["x.npy", *CYLINDER_AXES, "--samples", "a=1"], "--samples does not apply to x.npy"),
    (["x.npy", *CYLINDER_AXES, "--exact"], "--exact needs a function"),
    (["x.npy", *CYLINDER_AXES, "--accuracy", "spectral"], "needs a periodic axis"),
    (["x.npy", *CYLINDER_AXES, "--missing", "drop"], "--missing must be one of"),
    (["torus", "--missing", "mask"], "--missing does not apply to torus"),
    (["torus", "--axis", "u=0:1"], "--axis does not apply to torus"),
    (["torus", "--cloud"], "--cloud does not apply to torus"),
    (["o.npy", "--axis", "a=0:1"], "o.npy cannot be read"),
    (["cut.npy", "--axis", "a=0:1"], "cut.npy cannot be read"),
    (["cut.h5"], "cut.h5 cannot be read"),
    (["bad.nc"], "bad.nc cannot be read"),
    (["bad.npz"], "bad.npz cannot be read"),
    (["x.npz"], "holds a (12, 7, 3), b (12, 7, 3): choose one with --variable"),
    (["x.npz", "--variable", "c"], "has no array of numbers 'c'"),
    (["x.nc", "--axes", "angle,width"], "--axes names 'width'"),
    (["x.nc", "--axes", "angle,height,xyz"], "none is left for the features"),
    (["bad.csv"], "bad.csv cannot be read as a cloud"),
    (["one.csv"], "two features or more"),
    (["few.csv"], "different points are needed"),
    (["few.csv", "--dimension", "2"], "--dimension must be a whole number, from 1 to 1"),
    (["few.csv", "--stride", "2"], "--stride is for points on a grid"),
    (["few.csv", "--exact"], "--exact is for points on a grid"),
    (["few.csv", "--stencils"], "--stencils is for points on a grid"),
    (["few.csv", "--axis", "a=0:1"], "--axis does not apply to few.csv"),
    (["empty"], "holds no PNG, JPEG or TIFF images"),
    (["empty", "--cloud"], "--cloud does not apply to empty"),
]


@pytest.mark.parametrize(("arguments", "message"), COMMANDS, ids=[" ".join(a) for a, _ in COMMANDS])
@pytest.mark.thorough
def test_commands_that_are_refused(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path)
    result = run("measure", *arguments)
    assert result.exit_code == 2, result.output
    assert message in text(result)
    assert "Error: " in text(result)
    assert "Traceback" not in result.output
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("*.nc"))


def test_options_are_read():
    assert parse_axis("a = -1.5:2e3:m/s")[1:] == (-1.5, 2000.0, "m/s")
    assert parse_axis("a")[1] is None
    assert parse_periodic(["a", "b=6.5"]) == {"a": True, "b": 6.5}
    with pytest.raises(ValueError, match="each once"):
        parse_periodic(["a", "a=1"])


# ---- the commands


def test_measure_a_file(tmp_path):
    t = np.arange(64) * TURN / 64  # so many samples have other tests too: compiled once
    np.save(tmp_path / "x.npy", np.stack([np.cos(t), np.sin(t)], axis=-1).astype(np.float32))
    told = text(run("inspect", tmp_path / "x.npy"))
    assert "it looks periodic" in told
    assert "names and ranges: those below stand for yours" in told
    options = ("--axis", f"angle=0:{TURN}:rad", "--periodic", "angle", "--no-plots", "--no-reach")
    result = run("measure", tmp_path / "x.npy", *options, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    geometry = load_geometry(tmp_path / "out" / "geometry.nc")
    assert abs(geometry.total_volume.value - TURN) <= geometry.total_volume.error
    assert geometry.grid.axes[0].unit == "rad"
    assert "ℓ: that of the numbers in the file (float32)." in text(result)
    np.save(tmp_path / "x.npy", np.stack([np.cos(t), np.sin(t)], axis=-1))
    result = run("measure", tmp_path / "x.npy", *options, "--out", tmp_path / "double")
    assert "ℓ: that of the numbers in the file (float64), computed in float32; --x64 keeps" in text(result)


def test_a_forgotten_axis_is_a_note_wherever_one_may_look(tmp_path):
    t = np.arange(64) * TURN / 64
    points = np.stack([np.cos(t), np.sin(t)], axis=-1).astype(np.float32)  # as in test_measure_a_file
    np.save(tmp_path / "x.npy", np.stack([points, 2 * points], axis=1))
    out = tmp_path / "out"
    options = ("--axis", f"angle=0:{TURN}:rad", "--periodic", "angle", "--no-plots", "--no-reach")
    result = run("measure", tmp_path / "x.npy", *options, "--out", out)
    assert result.exit_code == 0, result.output
    assert f"Dimension 2 (of 2) is taken as part of every point, but {FORGOTTEN}" in text(result)
    assert FORGOTTEN in (out / "report.html").read_text(encoding="utf-8")
    (part,) = json.loads((out / "summary.json").read_text())["manifolds"]
    assert FORGOTTEN in part["notes"][-1]
    assert FORGOTTEN in text(run("inspect", tmp_path / "x.npy", "--axis", "angle=0:1"))


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((9, 8, 16, 16), "Dimension 2 (of 8) is taken as part of every point"),
        ((9, 8, 7, 16, 16), "Dimensions 2 (of 8) and 3 (of 7) are taken as parts"),
        ((9, 8, 16, 16, 3), "Dimension 2 (of 8)"),
        *(((9, *point), "") for point in ((16,), (16, 16), (16, 16, 3), (3, 16, 16), (1, 16, 16))),
    ],
)
def test_dimensions_of_points_that_look_like_axes(shape, said, tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=shape).cumsum(axis=0))
    lines = described(tmp_path / "x.npy", axis=["u=0:1"])
    notes = [line for line in lines if line.startswith("Dimension")]
    assert [note[: len(said)] for note in notes] == [said] * bool(said)


def test_a_forgotten_axis_of_a_file_with_names(tmp_path):
    labelled().to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    (note,) = (line for line in described(tmp_path / "x.nc", axes=("angle",)) if "Dimension" in line)
    assert note.startswith("Dimension height (of 7) is taken")
    assert note.endswith("with --axes.")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_measure_an_address(tmp_path):
    pytest.importorskip("fsspec")
    zarr.save_array(tmp_path / "x.zarr", CYLINDER)
    options = [f"--axis=angle=0:{TURN}", "--axis=height=0:1", "--periodic=angle", "--no-plots", "--no-reach"]
    for number, place in enumerate((tmp_path / "x.zarr", f"file://{tmp_path}/x.zarr")):
        result = run("measure", place, *options, "--out", tmp_path / str(number))
        assert result.exit_code == 0, result.output
    here, there = (load_geometry(tmp_path / number / "geometry.nc") for number in "01")
    np.testing.assert_array_equal(here.volume_element.value, there.volume_element.value)


@pytest.mark.thorough
def test_accuracy_is_chosen_where_noise_dominates(tmp_path, monkeypatch):
    t = np.arange(64) * TURN / 64
    noise = np.random.default_rng(0).normal(scale=1e-4, size=(64, 2))
    np.save(tmp_path / "x.npy", (np.stack([np.cos(t), np.sin(t)], axis=-1) + noise).astype(np.float32))
    few = partial(suggest_stencil, accuracies=(4,), strides=(1, 4), smooths=(0,))
    monkeypatch.setattr(command, "suggest_stencil", few)
    options = ["--axis", f"angle=0:{TURN}:rad", "--periodic", "angle", "--no-plots", "--no-reach"]
    options += ["--out", tmp_path / "out"]
    assert "dominates, try --accuracy auto" in text(run("measure", tmp_path / "x.npy", *options))
    result = run("measure", tmp_path / "x.npy", *options, "--accuracy", "auto")
    assert "stencils of order 4 (stride 4)" in text(result)
    assert "dominates" not in text(result)
    noise = np.random.default_rng(0).normal(scale=0.1, size=(64, 2))
    np.save(tmp_path / "x.npy", (np.stack([np.cos(t), np.sin(t)], axis=-1) + noise).astype(np.float32))
    result = run("measure", tmp_path / "x.npy", *options, "--accuracy", "auto")
    assert "no stencil that was tried has smaller bars; average several images" in text(result)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for said in (text(result), page.partition("What next?")[2].partition("</ul>")[0]):
        assert "average several images" in said
        assert "--accuracy auto" not in said
    result = run("measure", tmp_path / "x.npy", *options, "--accuracy", "auto", "--stride", "2")
    assert "leave out --stride and --smooth" in text(result)


def test_results_of_other_points_are_kept(circle, tmp_path):
    np.savetxt(tmp_path / "c.csv", circle, delimiter=",")
    np.save(tmp_path / "c.npy", circle)
    out, made = tmp_path / "out", []
    for name, more in (("c.csv", ()), ("c.npy", ("--cloud",)), ("c.csv", ("--tolerance", 0.2))):
        more = (*more, "--no-reach", "--no-plots", "--out", out)
        assert run("measure", tmp_path / name, *more).exit_code == 0
        made.append({path.name for path in out.iterdir() if not path.name.startswith(".")})
    assert made[0] == {"cloud.nc", "summary.json", "summary.txt", "report.html"}
    assert made[1] == made[0] | {"cloud-2.nc", "summary-2.json", "summary-2.txt"}
    assert made[2] == made[1], "the same points once more"
    assert json.loads((out / "summary.json").read_text())["arguments"]["tolerance"] == 0.2


@pytest.mark.slow
def test_points_in_one_place_have_no_reach_and_cost_no_results(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((9, 3), np.float32))
    result = run("measure", tmp_path / "x.npy", "--axis", "u=0:1", "--no-plots", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "The reach is left out: all points lie in one place" in text(result)
    assert (tmp_path / "out" / "geometry.nc").is_file()


@pytest.mark.slow
def test_measure_a_folder_with_reach_and_plots(tmp_path):
    for angle in range(0, 180, 9):
        pixels = np.round(255 * blob(math.radians(angle), 0)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{angle}_deg.png")
    out = tmp_path / "out"
    options = ("--pattern", "{angle}_deg.png", "--axes", "angle", "--periodic", "angle=180")
    result = run("measure", tmp_path, *options, "--out", out)
    assert result.exit_code == 0, result.output
    made = {path.name for path in out.iterdir()}
    assert {"geometry.nc", "reach.nc", "reach.png", "samples.png", "pca.png", "summary.txt"} <= made
    assert "white is 1" in text(result)


@pytest.fixture(scope="module")
def circle():
    angle = np.random.default_rng(0).uniform(0, TURN, 300)
    return 100 + 2 * np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=-1)


def test_measure_a_cloud(circle, tmp_path):
    np.savetxt(tmp_path / "c.csv", circle, delimiter=",", header="x,y,z", comments="")
    out = tmp_path / "out"
    result = run("measure", tmp_path / "c.csv", "--out", out)
    assert result.exit_code == 0, result.output
    summary = json.loads((out / "summary.json").read_text())
    cloud, reach = summary["cloud"], summary["reach"]
    assert cloud["dimension"] == 1
    assert abs(cloud["intrinsic_dimension"]["value"] - 1) <= cloud["intrinsic_dimension"]["error"]
    low, high = cloud["normal_curvature"]["largest"]
    assert low <= 0.5 <= high
    assert abs(reach["value"] - 2) <= reach["error"]
    with xarray.open_dataset(out / "cloud.nc", engine="h5netcdf") as data:
        assert data["tangents"].shape == (300, 1, 3)
        inside = abs(data["normal_curvature"] - 0.5) <= data["normal_curvature_error"]
        assert float(inside.mean()) > 0.95
        tangents = data["tangents"].values[:, 0]
    along = np.abs(np.sum(tangents * (circle - [100, 100, 0]), axis=1))
    assert np.max(along) < 0.1
    assert {"cloud.png", "summary.txt"} <= {path.name for path in out.iterdir()}


@pytest.mark.parametrize(
    "text", ["x,y\n1.5,2\n3,4\n", "# by me\n\n# x y\n1.5 2\n3 4\n", "1,5;2\n3;4,0\n", "x\ty\n1.5\t2\n\n3\t4"]
)
def test_tables_of_points(text, tmp_path):
    (tmp_path / "c.csv").write_text(text)
    np.testing.assert_array_equal(read_cloud(tmp_path / "c.csv"), [[1.5, 2], [3, 4]])


def test_clouds_of_other_files(circle, tmp_path, loaded):
    np.save(tmp_path / "c.npy", circle)
    found = loaded(tmp_path / "c.npy", cloud=True, dimension=1)
    assert isinstance(found, Cloud)
    np.testing.assert_array_equal(found.points, circle)
    for name, delimiter in {"tabs.csv": "\t", "semicolons.csv": ";", "blanks.txt": " "}.items():
        np.savetxt(tmp_path / name, circle, delimiter=delimiter)
        np.testing.assert_allclose(loaded(tmp_path / name).points, circle)


def test_points_that_fill_their_space(tmp_path):
    np.savetxt(tmp_path / "c.csv", np.random.default_rng(0).uniform(size=(200, 2)), delimiter=",")
    result = run("measure", tmp_path / "c.csv", "--no-plots", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "The points fill their space" in text(result)


def test_long_points_are_read_some_features_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "MEMORY", 2**13)
    pixels = np.zeros((12, 16, 16), np.float32)
    pixels[:, ::7, 3], pixels[:, ::5, 4] = np.cos(ANGLE)[:, None], np.sin(ANGLE)[:, None]
    grid = Grid(Axis("angle", 0, TURN, 12, periodic=True))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        stored = file.create_dataset("x", data=pixels)
        shapes = []
        take = sources.Stored.take
        monkeypatch.setattr(
            sources.Stored, "take", lambda *args: shapes.append((x := take(*args)).shape) or x
        )
        read = gram_from_grid(stored, grid)
    assert {shape[-1] for shape in shapes} == {256, 128}
    held = gram_from_grid(pixels, grid)
    for a, b in zip(read, held, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


# ---- inspect


def described(path, **given):
    return list(inspect.describe(path, given))


def test_inspect_an_array(tmp_path):
    noisy = np.round(100 * CYLINDER.repeat(2, axis=1)[:, :12]).astype(np.int16)
    np.save(tmp_path / "x.npy", noisy)
    lines = described(tmp_path / "x.npy")
    assert lines[0] == "x.npy: int16 of shape (12, 12, 3)"
    assert any("a step apart, it looks periodic" in line for line in lines)
    assert lines[-1].endswith("--axis axis1=0:1 --axis axis2=0:1 --periodic axis1")


def test_inspect_sees_noise_ends_and_what_is_not_finite(tmp_path):
    angle = np.linspace(0, TURN, 65)
    points = np.stack([np.cos(angle), np.sin(angle)], -1)
    points += np.random.default_rng(0).normal(scale=1e-3, size=points.shape)
    points[-1] = points[0]
    xarray.Dataset({"x": (("angle", "xy"), points)}, {"angle": angle}).to_netcdf(
        tmp_path / "x.nc", engine="h5netcdf"
    )
    lines = described(tmp_path / "x.nc")
    assert "ends of angle: first and last sample coincide: without the last one it is periodic" in lines
    (noise,) = (line for line in lines if line.startswith("noise"))
    assert float(noise.split()[-1]) == pytest.approx(1e-3, rel=0.3)
    assert lines[-1] == f"run: manifold-jax measure {tmp_path / 'x.nc'}"
    exact = CYLINDER.astype(float)
    exact[..., 2] = HEIGHT
    labelled(exact).to_netcdf(tmp_path / "c.nc", engine="h5netcdf")
    assert "noise of a number: none beyond rounding" in described(tmp_path / "c.nc")
    points[3] = np.nan
    np.save(tmp_path / "x.npy", points)
    lines = described(tmp_path / "x.npy")
    assert "not finite: NaN or infinite values in 1 of 65 points: --missing mask leaves them out" in lines


def test_inspect_tells_a_cloud_from_an_axis(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.normal(size=(500, 3)))
    lines = described(tmp_path / "x.npy")
    assert any("this looks like a cloud without a grid" in line for line in lines)
    assert lines[-1] == f"run: manifold-jax measure {tmp_path / 'x.npy'} --cloud"
    lines = described(tmp_path / "x.npy", axis=["u=0:1"])
    assert any(line.startswith("order of u: neighbours are no nearer than any two points") for line in lines)
    assert not any("periodic" in line for line in lines)
    shuffled = rng.normal(size=(200, 1, 3)) + CYLINDER[0]  # of two axes, the first
    np.save(tmp_path / "x.npy", shuffled)
    lines = described(tmp_path / "x.npy")
    assert "order of axis1: neighbours are no nearer than any two points, this looks like no axis" in lines
    assert lines[-1].endswith("--axis axis1=0:1 --axis axis2=0:1")


def test_coarse_samples_are_not_called_noise(tmp_path):
    t = np.arange(64) * TURN / 64
    np.save(tmp_path / "x.npy", np.stack([np.cos(20 * t), np.sin(20 * t)], axis=-1).astype(np.float32))
    options = ("--axis", f"angle=0:{TURN}:rad", "--periodic", "angle", "--no-plots", "--no-reach")
    said = text(run("measure", tmp_path / "x.npy", *options, "--out", tmp_path / "out"))
    assert "May be too coarse: angle; with more samples this falls, noise does not." in said
    assert "angle axis too coarse: refine" in said
    assert "dominates" not in said
    (noise,) = (line for line in described(tmp_path / "x.npy") if line.startswith("noise"))
    assert noise.startswith("noise of a number: below")


def test_rounding_is_no_more_than_all_the_noise(tmp_path):
    t = np.linspace(0, TURN, 64, endpoint=False)
    circle = np.stack([np.cos(t), np.sin(t)], -1)
    for size, words in ((1e3, "about what rounding makes, 0.29"), (1e3, ", of which rounding makes 0.29")):
        noise = np.random.default_rng(0).normal(scale=0 if "what" in words else 3, size=circle.shape)
        np.save(tmp_path / "x.npy", np.round(size * circle + noise).astype(np.int16))
        (line,) = (x for x in described(tmp_path / "x.npy") if x.startswith("noise"))
        assert line.endswith(words)


def test_inspect_a_folder(folder):
    lines = described(folder, axes=("angle", "shift"))
    assert "a folder of 24 images with factors" in lines[0]
    assert "factor shift: 3 samples, -1 … 1, step 1" in lines
    assert lines[-1].endswith("--axes angle,shift --periodic angle")
    drop(folder)
    lines = described(folder)
    assert any(line.startswith("gaps: ") and "2 are missing" in line for line in lines)


def test_inspect_commands(circle, tmp_path):
    np.savetxt(tmp_path / "c.csv", circle[:50], delimiter=",")
    result = run("inspect", tmp_path / "c.csv")
    assert result.exit_code == 0, result.output
    assert "a cloud of 50 points with 3 coordinates" in text(result)
    result = run("inspect", tmp_path / "nothing")
    assert result.exit_code == 2
    assert "no file or folder" in text(result)


def test_archives_of_unusual_members(tmp_path, loaded):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.npy", b"x" * 100)
    with pytest.raises(ValueError, match="cannot be read"):
        loaded(tmp_path / "x.npz", axis=["a=0:1"])
