"""Damaged files of data sets: the right data or a sentence that names the file, nothing else."""

import gzip
import io
import pickletools
import tarfile
import zipfile

import numpy as np
import pytest
from fuzz.mutate import limits, trial
from PIL import Image

from manifold_jax.datasets import (
    archives,
    cifar10,
    cifar100,
    dsprites,
    mnist,
    read_coil20,
    read_coil100,
    read_idx,
)
from manifold_jax.datasets.plain_pickle import read_plain_pickle
from manifold_jax.experiments.classifier.task import read_images

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (3, 28, 28), dtype=np.uint8)
LABELS = np.arange(3, dtype=np.uint8)
PLANES = RNG.integers(0, 256, (2, 3072), dtype=np.uint8)
VIEW = np.arange(128, dtype=np.uint8)[:, None] ^ np.arange(128, dtype=np.uint8)


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def pickled(key):
    """A batch of CIFAR's Python version, as Python 2 wrote it."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\6cnumpy\nndarray\nq\7K\0\x85U\1b\x87Rq\x08(K\1K\2M\0\x0c\x86cnumpy\n"
        b"dtype\nq\x09U\2u1K\0K\1\x87Rq\x0a(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89T"
    )
    array += PLANES.size.to_bytes(4, "little") + PLANES.tobytes() + b"tb"
    head = (
        b"\x80\2}q\1(U\x0bbatch_labelq\2U\7a batchq\3U"
        + bytes([len(key)])
        + key
        + b"q\4]q\5(K\3K\7eU\4dataq\x0b"
    )
    return head + array + b"U\tfilenamesq\x0c]q\x0d(U\5a.pngU\5b.pnge" + b"u."


def zipped(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)  # of 1980, so that mutations repeat
    return path


def npz(path, **arrays):
    """As NumPy writes it, but for the time."""
    members = {}
    for name, array in arrays.items():
        np.save(stream := io.BytesIO(), array)
        members[f"{name}.npy"] = stream.getvalue()
    return zipped(path, members)


def labelled(read, images, labels):
    """A reader of labelled images, and whether they are the right ones."""
    return read, lambda data: np.array_equal(data.images, images) and np.array_equal(data.labels, labels)


def plain(read, values):
    return read, lambda data: np.array_equal(data, values)


COLOURS = np.moveaxis(PLANES.reshape(2, 3, 32, 32), 1, -1)
COIL = {f"coil-20-proc/obj1__{k}.png": png(np.roll(VIEW, k)) for k in range(72)}
ROLLED = np.stack([np.roll(VIEW, k) for k in range(72)])
COIL100 = {f"coil-100/obj1__{5 * k}.png": png(np.stack([view] * 3, -1)) for k, view in enumerate(ROLLED)}


def make(kind, folder):
    """``(file, (read, same), whether it has checksums)`` of a format."""
    match kind:
        case "idx" | "idx.gz" | "labels.gz":
            end = ".gz" if kind.endswith("gz") else ""
            for name, array in (("images-idx3", GREY), ("labels-idx1", LABELS)):
                content = gzip.compress(idx(array), mtime=0) if end else idx(array)
                (folder / f"train-{name}-ubyte{end}").write_bytes(content)
            name = "labels-idx1" if kind.startswith("labels") else "images-idx3"
            file = folder / f"train-{name}-ubyte{end}"
            return file, labelled(lambda: mnist(folder), GREY, LABELS), bool(end)
        case "read_idx":
            (folder / "x.idx").write_bytes(idx(GREY))
            return folder / "x.idx", plain(lambda: read_idx(folder / "x.idx"), GREY), False
        case "mnist.zip":
            members = {"raw/train-images-idx3-ubyte": idx(GREY), "raw/train-labels-idx1-ubyte": idx(LABELS)}
            file = zipped(folder / "mnist.zip", members)
            return file, labelled(lambda: mnist(file), GREY, LABELS), True
        case "mnist.npz":
            file = folder / "mnist.npz"
            npz(file, x_train=GREY, y_train=LABELS)
            return file, labelled(lambda: mnist(file), GREY, LABELS), True
        case "letters.npz":
            file = folder / "letters.npz"
            npz(file, images=GREY)
            return file, plain(lambda: read_images(file, (28, 28)), GREY), True
        case "cifar10.bin" | "cifar100.bin":
            prefix = b"" if kind == "cifar10.bin" else b"\1"
            rows = [prefix + bytes([k]) + row.tobytes() for k, row in zip((3, 7), PLANES, strict=True)]
            read, name = (cifar100, "test.bin") if prefix else (cifar10, "test_batch.bin")
            (folder / name).write_bytes(b"".join(rows))
            return folder / name, labelled(lambda: read(folder, train=False), COLOURS, [3, 7]), False
        case "cifar10.py" | "cifar100.py":
            read, name, key = (
                (cifar100, "test", b"fine_labels") if "100" in kind else (cifar10, "test_batch", b"labels")
            )
            (folder / name).write_bytes(pickled(key))
            return folder / name, labelled(lambda: read(folder, train=False), COLOURS, [3, 7]), False
        case "cifar.tar.gz" | "cifar.tar":
            file, whole = folder / "cifar-10-python.tar.gz", kind.endswith("gz")
            with tarfile.open(fileobj=(stream := io.BytesIO()), mode="w") as tape:
                info = tarfile.TarInfo("cifar-10-batches-py/test_batch")
                info.size = len(pickled(b"labels"))
                tape.addfile(info, io.BytesIO(pickled(b"labels")))
            file.write_bytes(gzip.compress(stream.getvalue(), mtime=0) if whole else stream.getvalue())
            return file, labelled(lambda: cifar10(file, train=False), COLOURS, [3, 7]), whole
        case "coil20.zip":
            file = zipped(folder / "coil-20-proc.zip", COIL)
            return file, plain(lambda: read_coil20(file), ROLLED), True
        case "coil100.zip":
            file = zipped(folder / "coil-100.zip", COIL100, zipfile.ZIP_STORED)
            return file, plain(lambda: read_coil100(file)[..., 1], ROLLED), True
        case "png":
            for name, content in COIL.items():
                (folder / name.rsplit("/", 1)[1]).write_bytes(content)
            return folder / "obj1__5.png", plain(lambda: read_coil20(folder), ROLLED), True
        case "dsprites.npz":
            sizes = (1, 3, 2, 5, 1, 1)
            classes = np.stack(np.unravel_index(np.arange(30), sizes), -1)
            values = classes * [1, 1, 0.5, np.pi / 2, 1, 1]
            images = RNG.integers(0, 2, (30, 8, 8), dtype=np.uint8)
            file, factors = folder / "dsprites.npz", ("scale", "orientation")
            npz(file, imgs=images, latents_values=values, latents_classes=classes)
            right = images.reshape(3, 2, 5, 8, 8)[2, :, :4]
            return (
                file,
                (lambda: dsprites(file, factors=factors), lambda d: np.array_equal(d.points, right)),
                True,
            )
    raise AssertionError(kind)


FORMATS = (
    *("idx", "idx.gz", "labels.gz", "read_idx", "mnist.zip", "mnist.npz", "letters.npz", "cifar10.bin"),
    *(
        "cifar100.bin",
        "cifar10.py",
        "cifar100.py",
        "cifar.tar.gz",
        "cifar.tar",
        "coil20.zip",
        "coil100.zip",
        "png",
    ),
    "dsprites.npz",
)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv(archives.VARIABLE, raising=False)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_few_damaged_files(kind, tmp_path):
    file, (read, same), checked = make(kind, tmp_path)
    outcomes = trial(file, read, same, count=48, checked=checked)
    assert outcomes["refused"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_many_damaged_files(kind, tmp_path):
    file, (read, same), checked = make(kind, tmp_path)
    outcomes = trial(file, read, same, count=2000, seed=1, checked=checked)
    print(f"{kind}: {dict(outcomes)}")
    assert outcomes.total() == 2000


@pytest.mark.parametrize("count", [200, pytest.param(20_000, marks=pytest.mark.slow)])
def test_random_opcodes(count):
    """Pickles of opcodes in any order: a dict, or a ValueError of one line."""
    pieces = [opcode.code.encode("latin1") for opcode in pickletools.opcodes]
    pieces += [b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cnumpy.core.multiarray\n_reconstruct\n"]
    pieces += [
        b"c_codecs\nencode\n",
        b"U\2u1",
        b"U\6latin1",
        b"K\0",
        b"K\1",
        b"q\0",
        b"h\0",
        b"\x85R",
        b"\x87R",
    ]
    pieces += [b"(", b"t", b"]", b"}", b"b", b"NN"]
    rng, dicts, faults = np.random.default_rng(2), 0, []
    for _ in range(count):
        chosen = rng.integers(len(pieces), size=rng.integers(1, 30))
        content = b"\x80\2}" + b"".join(pieces[k] for k in chosen) + b"."
        try:
            with limits():
                dicts += isinstance(read_plain_pickle(content), dict)
        except ValueError as error:
            if "\n" in str(error) or len(str(error)) > 160:
                faults.append((content, error))
    assert not faults
    assert dicts < count
