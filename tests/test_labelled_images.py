"""Readers of MNIST, its relatives and CIFAR: layouts, made files, refusals, genuine files where they are."""

import gzip
import hashlib
import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from manifold_jax.datasets import (
    archives,
    cifar10,
    cifar100,
    emnist,
    fashion_mnist,
    kmnist,
    known_files,
    mnist,
    read_idx,
)
from manifold_jax.datasets.idx import SPLITS, parse_idx
from manifold_jax.datasets.plain_pickle import read_plain_pickle

DATA = os.environ.get(archives.VARIABLE)  # tests on made files are run without it
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


# --- the layouts that people have --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "folder"),
    [
        (mnist, "MNIST/raw"),
        (fashion_mnist, "FashionMNIST/raw"),
        (kmnist, "KMNIST/raw"),
        (mnist, "raw"),
        (mnist, "a/mnist"),
    ],
)
def test_idx_files_where_others_leave_them(read, folder, tmp_path):
    write_mnist(tmp_path / folder, zipped=False)
    write_mnist(tmp_path / "other" / "b", images=255 - IMAGES)
    np.testing.assert_array_equal(read(tmp_path).images, IMAGES)
    np.testing.assert_array_equal(read((tmp_path / folder).parent).images, IMAGES)


def test_names_need_not_say_what_is_gzipped(tmp_path):
    (tmp_path / "train-images.idx3-ubyte").write_bytes(gzip.compress(idx(IMAGES)))
    (tmp_path / "train-labels.idx1-ubyte.gz").write_bytes(idx(LABELS))
    images, labels, _ = mnist(tmp_path)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_file_of_keras(order, tmp_path):
    arrays = {"x_train": np.asarray(IMAGES, order=order), "y_train": LABELS, "x_test": IMAGES[:2]}
    np.savez_compressed(tmp_path / "mnist.npz", **arrays, y_test=LABELS[:2])
    for place in (tmp_path, tmp_path / "mnist.npz"):
        np.testing.assert_array_equal(mnist(place).images, IMAGES)
        np.testing.assert_array_equal(mnist(place, train=False).labels, LABELS[:2])
    np.savez(tmp_path / "mnist.npz", x_train=IMAGES / 255, y_train=LABELS)
    with pytest.raises(
        ValueError, match=r"mnist.npz: x_train.npy holds float64 of shape \(7, 28, 28\), expected un"
    ):
        mnist(tmp_path)
    np.savez(tmp_path / "mnist.npz", x_train=np.array([None]), y_train=LABELS)
    with pytest.raises(
        ValueError, match=r"x_train.npy holds an array of object of shape .* expected numbers"
    ):
        mnist(tmp_path)


@pytest.mark.parametrize(
    ("split", "first", "letters"), [("letters", 1, "abcdefg"), ("balanced", 30, "UVWXYZa")]
)
def test_emnist_is_upright_and_names_its_letters(split, first, letters, tmp_path):
    place = tmp_path / "gzip.zip"
    with zipfile.ZipFile(place, "w") as archive:
        for kind, array in (("images-idx3", IMAGES), ("labels-idx1", LABELS + first)):
            archive.writestr(f"gzip/emnist-{split}-train-{kind}-ubyte.gz", gzip.compress(idx(array)))
    for where in (place, tmp_path):
        images, labels, names = emnist(where, split)
        np.testing.assert_array_equal(images, IMAGES.swapaxes(1, 2))
        assert "".join(names[label] for label in labels) == letters
    assert [len(names) for names in SPLITS.values()] == [62, 47, 47, 26, 10, 10]
    with pytest.raises(ValueError, match=r"emnist: split must be one of 'byclass', .*, got 'small'"):
        emnist(place, "small")


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int16, np.int32, np.float32, np.float64])
def test_idx_files_of_any_type(kind, tmp_path):
    values = (100 * RNG.normal(size=(2, 3, 4, 1))).astype(kind)
    code = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}[values.dtype.str[1:]]
    big = values.astype(values.dtype.newbyteorder(">"))
    content = idx(big, 256 * code)
    for stored in (content, gzip.compress(content)):
        (tmp_path / "values").write_bytes(stored)
        read = read_idx(tmp_path / "values")
        np.testing.assert_array_equal(read, values)
        assert read.dtype == kind
        assert read.flags.writeable
    for bad in (
        content[:-1],
        content[:3],
        b"\0\0\x07\1\0\0\0\1x",
        content[:2] + bytes([code, 200]) + content[4:],
    ):
        (tmp_path / "values").write_bytes(bad)
        with pytest.raises(ValueError, match=r"values (holds|has|begins)"):
            read_idx(tmp_path / "values")
    with pytest.raises(FileNotFoundError, match="there is none at"):
        read_idx(tmp_path / "nothing")


def test_a_checksum_tells_one_data_set_from_another(tmp_path, monkeypatch):
    """Whatever the files are called, gzipped or not; what has no known checksum is taken as it is."""
    folder = write_mnist(tmp_path / "MNIST" / "raw")
    known = hashlib.md5(idx(IMAGES)).hexdigest()
    monkeypatch.setitem(known_files.KNOWN, known, ("MNIST", "train-images-idx3-ubyte"))
    assert len(mnist(folder).labels) == 7
    with pytest.raises(
        ValueError, match=r"is train-images.* of MNIST by its .*, not .* of Fashion-MNIST: call mnist, or"
    ):
        fashion_mnist(folder)
    np.savez(tmp_path / "x.npz", x_train=IMAGES, y_train=LABELS)
    with pytest.raises(ValueError, match="of MNIST by its checksum, not train-images-idx3-ubyte of KMNIST"):
        kmnist(tmp_path / "x.npz")
    write_mnist(folder, "t10k")
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte.gz is train-images-idx3-ubyte of MNIST"):
        mnist(folder, train=False)
    stored = (folder / "train-images-idx3-ubyte.gz").read_bytes()
    monkeypatch.delitem(known_files.KNOWN, known)
    assert len(fashion_mnist(folder).labels) == 7
    monkeypatch.setitem(
        known_files.KNOWN, hashlib.md5(stored).hexdigest(), ("KMNIST", "train-images-idx3-ubyte")
    )
    assert len(kmnist(folder).labels) == 7
    with pytest.raises(ValueError, match=r"of KMNIST by its checksum, .*: call kmnist"):
        mnist(folder)


def test_the_table_of_checksums_is_whole():
    assert len(known_files.PUBLISHED) == 36
    assert len(known_files.KNOWN) == 44
    assert {len(checksum) for checksum in known_files.KNOWN} == {32}


# --- CIFAR without unpickling ------------------------------------------------------------------------------


def short(text):
    return b"U" + bytes([len(text)]) + text


def counted(n):
    return b"J" + n.to_bytes(4, "little", signed=True)


def pickled_array(values, string=lambda raw: b"T" + len(raw).to_bytes(4, "little") + raw, core=b"numpy.core"):
    """An array as Python 2 pickles it, opcode by opcode."""
    shape = b"(" + b"".join(map(counted, values.shape)) + b"t"
    begun = b"c" + core + b".multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R"
    state = b"(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    dtype = b"cnumpy\ndtype\n" + short(values.dtype.str[1:].encode()) + b"K\0K\1\x87R" + state
    fortran = not values.flags.c_contiguous
    raw = values.tobytes("F" if fortran else "C")
    return begun + b"(K\1" + shape + dtype + (b"\x88" if fortran else b"\x89") + string(raw) + b"tb"


def pickled_batch(planes, labels, key=b"labels", **options):
    """A batch as the genuine ones of CIFAR-10: protocol 2 of Python 2, a dict of short strings."""
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    names = b"](" + b"".join(short(b"a.png") for _ in labels) + b"e"
    items = [short(b"batch_label"), short(b"testing batch 1 of 1"), short(key), numbers + b"q\1"]
    items += [short(b"data"), pickled_array(planes, **options), short(b"filenames"), names]
    return b"\x80\x02}q\0(" + b"".join(items) + b"u."


PLANES = np.ascontiguousarray(np.moveaxis(COLOURS, -1, 1).reshape(5, -1))


@pytest.mark.parametrize("folder", ["cifar-10-batches-py", "cifar-10-batches-py-target/cifar-10-batches-py"])
def test_the_python_version_of_cifar(folder, tmp_path):
    place = tmp_path / folder
    place.mkdir(parents=True)
    for number in range(1, 6):
        (place / f"data_batch_{number}").write_bytes(pickled_batch(PLANES, [number] * 5))
    (place / "batches.meta").write_bytes(b"not looked at")
    images, labels, _ = cifar10(tmp_path)
    np.testing.assert_array_equal(images, np.concatenate(5 * [COLOURS]))
    np.testing.assert_array_equal(labels, np.repeat(np.arange(1, 6), 5))
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as file:
        file.add(place, "cifar-10-batches-py")
    np.testing.assert_array_equal(cifar10(tmp_path / "cifar-10-python.tar.gz", batches=[2]).images, COLOURS)


def test_cifar100_in_both_versions(tmp_path):
    fine = [0, 99, 19, 20, 7]
    rows = [
        bytes([k, label]) + row.tobytes() for k, (label, row) in enumerate(zip(fine, PLANES, strict=True))
    ]
    contents = {"cifar-100-binary/train.bin": b"".join(rows)}
    fortran = np.asfortranarray(PLANES)
    contents["cifar-100-python/train"] = pickled_batch(fortran, fine, b"fine_labels")
    contents["again/train"] = pickled_batch(PLANES, fine, b"fine_labels", core=b"numpy._core")
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(content)
        images, labels, names = cifar100((tmp_path / name).parent)
        np.testing.assert_array_equal(images, COLOURS)
        np.testing.assert_array_equal(labels, fine)
        assert [names[label] for label in labels] == ["apple", "worm", "cattle", "chair", "beetle"]
        (tmp_path / name).rename(tmp_path / name.replace("train", "test_batch"))
        with pytest.raises(ValueError, match=r"not of CIFAR-10; take the archive"):
            cifar10((tmp_path / name).parent, train=False)


def protocols(values):
    """The same dict in other spellings of Python's: text (0), Python 3's (2 and 3), memos."""
    text = values.tobytes().decode("latin1")
    encoded = (
        b"c_codecs\nencode\nX" + len(text.encode()).to_bytes(4, "little") + text.encode() + b"U\6latin1\x86R"
    )
    yield b"(dS'labels'\np0\n(lp1\nI3\naL4L\nasS'x'\nF1.5\nsS'y'\n(I00\nI01\nNtsg0\ng1\ns."
    yield b"\x80\2}(U\4data" + pickled_array(values, lambda raw: encoded) + b"u."
    yield (
        b"\x80\3}X\4\0\0\0data"
        + pickled_array(values, lambda raw: b"B" + len(raw).to_bytes(4, "little") + raw)
        + b"s."
    )


def test_protocols_of_plain_pickles():
    values = np.arange(6, dtype=">i2").reshape(2, 3)
    first, *others = map(read_plain_pickle, protocols(values.astype("<i2")))
    assert first == {"labels": [3, 4], "x": 1.5, "y": (False, True, None)}
    for read in others:
        np.testing.assert_array_equal(read["data"], values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cos\nsystem\n(S'touch pwned'\ntR.", r"the name 'os.system', which is never looked up"),
        (b"\x80\2cbuiltins\neval\nU\0011\x85R.", "the name 'builtins.eval', which is never"),
        (b"\x80\4\x8c\2os\x8c\6system\x93.", "a pickle of protocol 4, expected at most 3"),
        (b"(S'touch pwned'\nios\nsystem\n.", "the opcode INST"),
        (b"\x80\2cnumpy\ndtype\nU\1O\x85R.", "an array of object, expected numbers"),
        (b"\x80\2cnumpy\ndtype\ncnumpy\nndarray\n\x85R.", "a damaged pickle"),
        (b"\x80\2U\1xU\1y\x85R.", "a call of something that is not a name"),
        (b"\x80\2}U\1xU\1ab.", "a damaged pickle"),
        (b"\x80\2}q\1h\1h\1s.", "a damaged pickle"),
        (b"\x80\2]q\1h\1a.", "a pickled list, expected a dict"),
        (b"\x80\2}(U\1xt", "pickle exhausted|before seeing STOP"),
        (b"\x80\2}(K\1u.", "zip|argument 2 is shorter"),
        (b"", "pickle exhausted|before seeing STOP"),
        (b"\x80\2T\xff\xff\xff\x7fabc.", "expected 2147483647 bytes"),
        (
            pickled_array(np.zeros((2, 3)), lambda raw: short(raw[:-1])),
            r"47 bytes where its header says \(2, 3\)",
        ),
    ],
)
def test_nothing_of_a_pickle_is_executed(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_batch").write_bytes(content if content[:1] in (b"(", b"\x80") else b"\x80\2" + content)
    with pytest.raises(ValueError, match=message) as caught:
        cifar10(tmp_path, train=False)
    assert str(caught.value).startswith(str(tmp_path / "test_batch"))
    assert [file.name for file in tmp_path.iterdir()] == ["test_batch"]


# --- what expands without end -------------------------------------------------------------------------------


def test_nothing_that_expands_beyond_the_limit_is_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "LARGEST", 2**20)
    folder = write_mnist(tmp_path / "mnist")
    bomb = idx(np.zeros((4000, 28, 28), np.uint8))
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bomb))
    with pytest.raises(
        ValueError, match=r"train-images-idx3-ubyte.gz is not a whole archive \(more than 1 MB in"
    ):
        mnist(folder)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(bomb)
    with pytest.raises(ValueError, match=r"more than 1 MB in one file"):
        mnist(folder)
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        with zipfile.ZipFile(tmp_path / "bomb.zip", "w", method) as archive:
            archive.writestr("train-images-idx3-ubyte", bomb)
            archive.writestr("train-labels-idx1-ubyte", idx(np.zeros(4000, np.uint8)))
        with pytest.raises(
            ValueError, match=r"bomb.zip is not a whole archive \((more than 1 MB|.*by method 1[24])"
        ):
            mnist(tmp_path / "bomb.zip")
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as file:
        info = tarfile.TarInfo("test_batch.bin")
        info.size = 3073 * 500
        file.addfile(info, io.BytesIO(bytes(info.size)))
    with pytest.raises(
        ValueError, match=r"cifar-10-binary.tar.gz is not a whole archive \(more than 1 MB in"
    ):
        cifar10(tmp_path, train=False)


def test_an_archive_is_read_to_its_end(tmp_path):
    archive = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(write_cifar(tmp_path / "cifar"), "cifar-10-batches-bin")
    content = bytearray(archive.read_bytes())
    content[-6] ^= 1  # of the checksum, behind everything that is needed
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=r"cifar-10-binary.tar.gz is not a whole archive \(CRC check failed"):
        cifar10(archive, train=False)


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
            r"train-images-idx3-ubyte.gz holds 5483 bytes where .* \(7, 28, 28\)",
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
    with pytest.raises(
        ValueError, match=r"train-labels-idx1-ubyte.gz begins with the magic number 0x6e6f2067"
    ):
        mnist(tmp_path)


@pytest.mark.parametrize("read", [mnist, fashion_mnist, kmnist, emnist, cifar10, cifar100])
def test_wrong_arguments(read, tmp_path):
    with pytest.raises(ValueError, match=rf"{read.__name__}: train must be .*, got 'test'"):
        read(tmp_path, train="test")
    with pytest.raises(ValueError, match=r"path must be text or a Path, .* got 3"):
        read(3)
    for name in ("a" * 5000, "a\0b"):
        with pytest.raises(FileNotFoundError, match="which does not exist"):
            read(name)
    with pytest.raises(ValueError, match=r"must be .*, got None"):
        read_idx(None)
    with pytest.raises(ValueError, match=r"batches must be some of .*, got 1"):
        cifar10(tmp_path, batches=1)


def test_missing_idx_files(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"holds no MNIST: expected mnist, MNIST/raw, .* or files like train-im"
    ):
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
    with pytest.raises(ValueError, match=r"batches must be"):
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
    if not DATA:
        pytest.skip(f"{archives.VARIABLE}, a folder of genuine data, is not set")
    if not (Path(DATA) / name).is_dir():
        pytest.skip(f"there is no {name} in {archives.VARIABLE}")
    return Path(DATA) / name


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
