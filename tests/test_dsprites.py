"""The genuine dSprites, from small archives of the same make with images whose geometry is known."""

import itertools
import math
import shutil
import zipfile

import numpy as np
import pytest

import manifold_jax as mj
from manifold_jax.datasets import archives, dsprites
from manifold_jax.experiments.measure.data import build, default_folder

SIDE, SIZES, TURNS = 8, (1, 3, 2, 17, 3, 2), (4, 2, 1)
PHASES = 2 * np.pi * np.arange(SIDE**2).reshape(SIDE, SIDE) / SIDE**2
SCALES, POSITIONS = (0.5, 1.0), {"x": (0.0, 0.5, 1.0), "y": (0.0, 1.0)}


def picture(turns, scale, angle, x, y):
    """Repeats after 2 pi / turns; its curve of angles is a circle of radius 100 scale sqrt(SIDE^2 / 2)."""
    return np.round(125 + 100 * scale * np.cos(turns * angle + PHASES) + 4 * x + 2 * y).astype(np.uint8)


def write(path, angles=None, **changes):
    """An archive as DeepMind's, with a member that no reader may open."""
    angles = np.linspace(0, 2 * np.pi, SIZES[3]) if angles is None else angles
    values = [(1.0,), (1.0, 2.0, 3.0), SCALES, angles, POSITIONS["x"], POSITIONS["y"]]
    rows = np.array(list(itertools.product(*values)))
    classes = np.array(list(itertools.product(*(range(len(column)) for column in values))))
    images = np.stack([picture(TURNS[int(row[1]) - 1], *row[2:]) for row in rows])
    arrays = {"imgs": images, "latents_values": rows, "latents_classes": classes} | changes
    np.savez_compressed(path, **arrays)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("metadata.npy", b"cos\nsystem\n(S'touch pwned'\ntR.")
    return path


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv(archives.VARIABLE, raising=False)


@pytest.mark.parametrize(("shape", "turns", "count"), [("square", 4, 4), ("ellipse", 2, 8), ("heart", 1, 16)])
def test_every_image_is_where_the_grid_says(archive, shape, turns, count):
    points, grid, notes = dsprites(archive.parent, shape)
    assert grid.names == ("scale", "orientation", "y", "x")
    assert grid.shape == (2, count, 2, 3)
    assert grid.periodic == (False, True, False, False)
    assert math.isclose(grid.axes[1].stop, 2 * np.pi / turns)
    np.testing.assert_allclose(grid.axes[3].samples(), [1.5, 3.5, 5.5])  # centred 4 pixels of 8
    for index in np.ndindex(grid.shape):
        scale, angle, y, x = (axis.samples()[k] for axis, k in zip(grid.axes, index, strict=True))
        np.testing.assert_array_equal(
            points[index], picture(turns, scale, angle, (x - 1.5) / 4, (y - 1.5) / 4)
        )
    assert "one of 17 samples is left out" in notes[0]
    assert [f"The {shape} repeats after 2 pi / {turns}" in note for note in notes[1:]] == [True] * (turns > 1)


def test_an_odd_number_of_orientations_is_sorted_into_one_period(tmp_path):
    """As of the genuine file: 40 - 1 = 39 orientations of a square are 39 of a quarter turn."""
    archive = write(tmp_path / "d.npz", np.linspace(0, 2 * np.pi, 10))
    points, grid, _ = dsprites(archive, "square", factors="orientation")
    assert grid.shape == (9,)
    assert math.isclose(grid.axes[0].spacing, math.pi / 18)
    for angle, image in zip(grid.axes[0].samples(), points, strict=True):
        assert np.abs(image.astype(int) - picture(4, 1.0, angle, 0.5, 0.0)).max() <= 1  # rounded otherwise


@pytest.mark.slow
def test_the_length_of_a_circle_of_images(archive):
    """Of an ellipse: one cover by default, two in a full turn."""
    points, grid, _ = dsprites(archive, "ellipse", factors=["orientation"])
    length = mj.measure(points, grid, accuracy="spectral").total_volume.value
    assert math.isclose(length, 2 * np.pi * 100 * math.sqrt(SIDE**2 / 2), rel_tol=2e-3)
    twice, grid, notes = dsprites(archive, "ellipse", factors=["orientation"], full_turn=True)
    np.testing.assert_array_equal(twice[8:], twice[:8])
    assert (grid.shape, len(notes)) == ((16,), 1)


def test_the_command_measures_them(archive):
    options = {"data": archive, "shape": "ellipse", "axes": ("orientation",), "fixed": {"scale": 0.5}}
    (part,) = build("dsprites", options)
    points, grid, notes = dsprites(archive, "ellipse", factors="orientation", fixed={"scale": 0.5})
    np.testing.assert_array_equal(part.points, points)
    assert (part.name, part.grid) == ("dsprites ellipse", grid)
    assert part.attributes["note"] == " ".join(notes)
    assert default_folder("dsprites", options) == "measure-dsprites-ellipse"
    with pytest.raises(
        ValueError, match="--size does not apply to dsprites, which takes --axes, --data, --fixed"
    ):
        build("dsprites", {"size": 32})


def test_fixed_values_and_a_file(archive, tmp_path, monkeypatch):
    fixed = {"scale": 0.5, "y": 5.5}
    points, grid, _ = dsprites(archive, factors=("x", "orientation"), fixed=fixed)
    assert grid.shape == (3, 16)
    np.testing.assert_array_equal(points[2, 0], picture(1, 0.5, 0.0, 1.0, 1.0))
    mapped = dsprites(archive, factors=("x", "orientation"), fixed=fixed, file=tmp_path / "heart.npy").points
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, points)
    assert [file.name for file in tmp_path.iterdir()] == ["heart.npy"]
    with pytest.raises(ValueError, match=r"file must be a new .npy file, got .*heart.npy"):
        dsprites(archive, file=tmp_path / "heart.npy")
    full = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(ValueError, match=r"Cannot write .*b.npy: No space left"):
        dsprites(archive, file=tmp_path / "b.npy")
    assert [file.name for file in tmp_path.iterdir()] == ["heart.npy"]


def test_orientations_without_a_doubled_end(tmp_path):
    open_axis = write(tmp_path / "a.npz", np.linspace(0, 1, 5))
    assert not dsprites(open_axis, factors="orientation").grid.periodic[0]
    closed = write(tmp_path / "b.npz", np.linspace(0, 2 * np.pi, 8, endpoint=False))
    result = dsprites(closed, factors="orientation")
    assert (result.grid.shape, result.grid.periodic, result.notes) == ((8,), (True,), ())
    uneven = write(tmp_path / "c.npz", np.array([0.0, 1.0, 3.0]))
    with pytest.raises(ValueError, match="orientation is not sampled at equal steps"):
        dsprites(uneven, factors="orientation")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": "circle"}, "shape must be one of 'square', 'ellipse', 'heart', got 'circle'"),
        ({"factors": ("scale", "hue")}, "a factor must be one of 'scale', .*, got 'hue'"),
        ({"fixed": {"scale": 1.0}}, "fixed may hold nothing, got 'scale'"),
        (
            {"factors": "x", "fixed": {"scale": 0.7}},
            r"fixed\['scale'\] must be .* the nearest is 0.5, got 0.7",
        ),
        ({"factors": "x", "fixed": {"scale": "big"}}, r"fixed\['scale'\] must be a finite number"),
        ({"file": "images.npz"}, r"file must be a new .npy file, got images.npz"),
    ],
)
def test_wrong_arguments(archive, arguments, message):
    with pytest.raises(ValueError, match=message):
        dsprites(archive, **arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"imgs": np.zeros((9, 8, 8), np.uint8)},
            r"images of uint8 of shape \(9, 8, 8\), expected \(612, height",
        ),
        ({"imgs": np.zeros((612, 8, 8))}, "images of float64"),
        ({"latents_values": np.zeros((612, 5))}, "latents of shapes"),
        ({"latents_values": np.random.default_rng(0).normal(size=(612, 6))}, "do not follow its classes"),
        ({"latents_classes": np.zeros((612, 6), int)}, "612 rows of latents that do not form a lattice"),
        ({"latents_classes": np.array([None])}, "latents_classes.npy holds an array of object"),
    ],
)
def test_archives_of_another_make(changes, message, tmp_path):
    path = write(tmp_path / "d.npz", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        dsprites(path)
    assert str(path) in str(caught.value)


def test_images_that_are_there_twice(tmp_path):
    path = write(tmp_path / "d.npz")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("copy/imgs.npy", b"")
    with pytest.raises(ValueError, match=r"d.npz is not a whole archive \(it holds imgs.npy 2 times\)"):
        dsprites(path)


def test_no_archive(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no dSprites: expected dsprites_ndarray"):
        dsprites(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"no published checksum: fetch https://github.com/.* by hand"
    ):
        dsprites()
