"""Readers of MNIST, Fashion-MNIST and CIFAR-10: made files, refusals, genuine files where they are."""

import gzip
import hashlib
import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from manifold_jax.datasets import archives, cifar10, fashion_mnist, mnist
from manifold_jax.datasets.idx import parse_idx

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (7, 28, 28), dtype=np.uint8)
LABELS = np.arange(7, dtype=np.uint8)
COLOURS = RNG.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


def idx(array, magic=0x0800):
    """An idx file, straight from the description of the format."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return (magic + array.ndim).to_bytes(4, "big") + sizes + array.tobytes()


def batch(images, labels):
    """A CIFAR-10 batch, record by record."""
    return b"".join(
        bytes([label]) + b"".join(image[:, :, channel].tobytes() for channel in range(3))
        for image, label in zip(images, labels, strict=True)
    )


def write_mnist(folder, part="train", images=IMAGES, labels=LABELS, zipped=True):
    folder.mkdir(parents=True, exist_ok=True)
    for kind, content in (("images-idx3", idx(images)), ("labels-idx1", idx(labels))):
        name = f"{part}-{kind}-ubyte"
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


def write_cifar(folder, numbers=range(1, 6)):
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"data_batch_{number}.bin").write_bytes(batch(COLOURS, [number] * 5))
    (folder / "test_batch.bin").write_bytes(batch(COLOURS[:2], [9, 0]))
    return folder


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv(archives.VARIABLE, raising=False)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("read", "name"), [(mnist, "mnist"), (fashion_mnist, "fashion-mnist")])
def test_idx_files_are_read_from_their_folder_or_the_one_above(read, name, zipped, tmp_path):
    write_mnist(tmp_path / name, zipped=zipped)
    write_mnist(tmp_path / name, "t10k", IMAGES[:3], LABELS[:3], zipped=zipped)
    for place in (tmp_path, tmp_path / name, str(tmp_path)):
        images, labels, names = read(place)
        np.testing.assert_array_equal(images, IMAGES)
        np.testing.assert_array_equal(labels, LABELS)
        assert images.dtype == labels.dtype == np.uint8
        assert len(names) == 10
    assert len(read(tmp_path, train=False).labels) == 3
    assert images.flags.writeable


def test_the_environment_names_the_place(tmp_path, monkeypatch):
    write_mnist(tmp_path / "mnist")
    write_cifar(tmp_path / "cifar-10-batches-bin")
    monkeypatch.setenv(archives.VARIABLE, str(tmp_path))
    assert len(mnist().labels) == 7
    assert len(cifar10().labels) == 25


def test_what_is_not_there_is_downloaded_with_its_checksum(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    asked = []

    def download(url, checksum, name):
        asked.append((url, checksum, name))
        return tmp_path / url.rsplit("/", 1)[1]

    monkeypatch.setattr(archives, "download", download)
    np.testing.assert_array_equal(fashion_mnist().images, IMAGES)
    assert [url.rsplit("/", 1)[1] for url, _, _ in asked] == [
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
    ]
    # One cache for both data sets: the names must differ although the files are called alike.
    assert all(
        checksum.startswith("md5:") and name.startswith("fashion-mnist-") for _, checksum, name in asked
    )


def write_other_archive(place):
    """The archive of another data set."""
    with zipfile.ZipFile(place, "w") as file:
        file.writestr("coil-20-proc/obj1__0.png", b"a picture")
    return place


@pytest.mark.parametrize("name", ["coil-20-proc.zip", "coil", "damaged.tar"])
@pytest.mark.parametrize("read", [mnist, fashion_mnist, cifar10])
def test_the_environment_may_name_the_archive_of_another_data_set(read, name, tmp_path, monkeypatch):
    other = write_other_archive(tmp_path / name)
    if name == "damaged.tar":
        other.write_bytes(other.read_bytes()[:-30])
    monkeypatch.setenv(archives.VARIABLE, str(other))

    def download(url, checksum, name):
        raise LookupError(name)

    monkeypatch.setattr(archives, "download", download)
    with pytest.raises(LookupError, match=r"ubyte\.gz|cifar-10-binary\.tar\.gz"):
        read()
    with pytest.raises((FileNotFoundError, ValueError), match=rf"{name} (lacks|is not a whole archive)"):
        read(other)


def test_the_environment_may_name_an_archive_by_any_name(tmp_path, monkeypatch):
    archive = tmp_path / "pictures"
    with tarfile.open(archive, "w:gz") as file:
        file.add(write_cifar(tmp_path / "cifar-10-batches-bin"), "cifar-10-batches-bin")
    monkeypatch.setenv(archives.VARIABLE, str(archive))
    np.testing.assert_array_equal(cifar10(train=False).labels, [9, 0])
    damaged = archive.rename(tmp_path / "cifar-10-binary.tar.gz")
    damaged.write_bytes(damaged.read_bytes()[:-100])
    monkeypatch.setenv(archives.VARIABLE, str(damaged))
    with pytest.raises(ValueError, match="is not a whole archive"):
        cifar10()


def test_cifar_batches_from_a_folder_and_from_the_archive(tmp_path):
    folder = write_cifar(tmp_path / "cifar-10-batches-bin")
    archive = tmp_path / "elsewhere" / "cifar-10-binary.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, "cifar-10-batches-bin")
    for place in (tmp_path, folder, archive, archive.parent):
        images, labels, names = cifar10(place)
        np.testing.assert_array_equal(images, np.concatenate(5 * [COLOURS]))
        np.testing.assert_array_equal(labels, np.repeat(np.arange(1, 6), 5))
        assert names[3] == "cat"
        test = cifar10(place, train=False)
        np.testing.assert_array_equal(test.images, COLOURS[:2])
        np.testing.assert_array_equal(test.labels, [9, 0])
        np.testing.assert_array_equal(cifar10(place, batches=[4]).labels, 5 * [4])


# --- refusals ----------------------------------------------------------------------------------------------


def spoil(folder, name, change):
    file = folder / name
    content = gzip.decompress(file.read_bytes()) if name.endswith(".gz") else file.read_bytes()
    changed = change(content)
    file.write_bytes(gzip.compress(changed) if name.endswith(".gz") else changed)
    return folder


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "images-idx3",
            lambda c: c[:-5],
            r"train-images-idx3-ubyte holds 5483 bytes where .* \(7, 28, 28\)",
        ),
        ("images-idx3", lambda c: c[:9], "has 9 bytes, fewer than the 16 of an idx header"),
        ("images-idx3", lambda c: b"", "has 0 bytes, fewer than the 16"),
        (
            "images-idx3",
            lambda c: idx(np.zeros(40, np.uint8)),
            r"magic number 0x00000801, expected 0x00000803",
        ),
        ("images-idx3", lambda c: idx(IMAGES, 0x0D00), r"magic number 0x00000d03, expected 0x00000803"),
        ("images-idx3", lambda c: idx(IMAGES[:, :27]), r"images of \(27, 28\) pixels, expected 28x28"),
        ("labels-idx1", lambda c: idx(LABELS[:6]), "holds 7 images, but .*labels.* 6 labels"),
        ("labels-idx1", lambda c: idx(LABELS + 4), "holds the label 10, expected 0 to 9"),
    ],
)
def test_bad_idx_files_are_refused_by_name(name, change, message, tmp_path):
    folder = spoil(write_mnist(tmp_path), f"train-{name}-ubyte.gz", change)
    with pytest.raises(ValueError, match=message) as caught:
        mnist(folder)
    assert f"train-{name}-ubyte" in str(caught.value)


def test_a_truncated_gzip_file_is_refused_by_name(tmp_path):
    file = write_mnist(tmp_path) / "train-labels-idx1-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-6])
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte.gz is not a whole archive"):
        mnist(tmp_path)
    file.write_bytes(b"no gzip at all")
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte.gz is not a whole archive"):
        mnist(tmp_path)


def test_missing_idx_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no mnist: expected mnist or files train-images"):
        mnist(tmp_path)
    (write_mnist(tmp_path) / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="lacks 1 of 2 files, first train-labels-idx1-ubyte"):
        mnist(tmp_path)


def test_bad_cifar_files_are_refused_by_name(tmp_path):
    folder = write_cifar(tmp_path, [1, 2])
    with pytest.raises(FileNotFoundError, match=r"lacks 3 of 5 files, first data_batch_3.bin: .*batches="):
        cifar10(folder)
    spoil(folder, "data_batch_1.bin", lambda c: c[:-1])
    with pytest.raises(ValueError, match=r"data_batch_1.bin has 15364 bytes, not a multiple of the 3073"):
        cifar10(folder, batches=[1])
    spoil(folder, "data_batch_2.bin", lambda c: bytes([17]) + c[1:])
    with pytest.raises(ValueError, match=r"data_batch_2.bin holds the label 17, expected 0 to 9"):
        cifar10(folder, batches=[2])
    with pytest.raises(ValueError, match="batches must be some of"):
        cifar10(folder, batches=[0])


def test_bad_cifar_archives(tmp_path):
    archive = tmp_path / "cifar-10-binary.tar.gz"
    archive.write_bytes(b"no archive at all")
    with pytest.raises(ValueError, match=r"cifar-10-binary.tar.gz is not a whole archive"):
        cifar10(archive)
    with tarfile.open(archive, "w:gz") as file:
        info = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        info.size = 3
        file.addfile(info, io.BytesIO(b"abc"))
    with pytest.raises(FileNotFoundError, match=r"lacks 5 of 5 files, first data_batch_1.bin"):
        cifar10(archive)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match="holds no CIFAR-10"):
        cifar10(empty)


def test_idx_headers_longer_than_the_file():
    with pytest.raises(ValueError, match="some file has 10 bytes, fewer than the 16"):
        parse_idx(idx(IMAGES)[:10], 3, "some file", "mend it.")


# --- the genuine files -------------------------------------------------------------------------------------


def genuine(name):
    shared = Path(__file__).resolve().parents[2] / "shared" / "data"
    for place in (os.environ.get(archives.VARIABLE), shared):
        if place and (Path(place) / name).is_dir():
            return Path(place) / name
    pytest.skip(f"{name} is neither in {archives.VARIABLE} nor in ../shared/data")


def test_the_genuine_mnist():
    place = genuine("mnist")
    images, labels, _ = mnist(place)
    assert images.shape == (60000, 28, 28)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    np.testing.assert_array_equal(np.bincount(labels), counts)
    assert round(images.mean() / 255, 4) == 0.1307
    assert round(images.std() / 255, 4) == 0.3081
    test = mnist(place, train=False)
    assert test.images.shape == (10000, 28, 28)
    np.testing.assert_array_equal(test.labels[:5], [7, 2, 1, 0, 4])


def test_the_genuine_fashion_mnist():
    images, labels, names = fashion_mnist(genuine("fashion-mnist"), train=False)
    assert images.shape == (10000, 28, 28)
    np.testing.assert_array_equal(np.bincount(labels), 10 * [1000])
    assert names[labels[0]] == "ankle boot"
    assert len({hashlib.md5(image.tobytes()).digest() for image in images}) > 9990


def test_cifar_batches_in_the_genuine_format():
    images, labels, _ = cifar10(genuine("cifar-10-batches-bin"), batches=[1])
    assert images.shape == (10000, 32, 32, 3)
    assert set(labels) == set(range(10))
    # Neighbouring pixels of a photograph are alike; a wrong order of planes or rows would not give that.
    step = np.abs(np.diff(images.astype(int), axis=2)).mean()
    assert step < np.abs(images[:, :, :16].astype(int) - images[:, :, 16:].astype(int)).mean() / 2
