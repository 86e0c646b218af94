"""MNIST and the data sets in its format, from their idx files or from Keras' ``mnist.npz``.

Y. LeCun, L. Bottou, Y. Bengio & P. Haffner, Proc. IEEE 86 (1998), with the format on the MNIST page: two zero
bytes, a type, the number of dimensions, their sizes as big-endian 32-bit integers, then the entries. H. Xiao,
K. Rasul & R. Vollgraf, Fashion-MNIST, arXiv:1708.07747; T. Clanuwat et al., KMNIST, arXiv:1812.01718;
G. Cohen et al., EMNIST, arXiv:1702.05373.
"""

from __future__ import annotations

import hashlib
import math
import os
import string
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Num, UInt8

import manifold_jax.datasets.archives as archives
from manifold_jax._checks import choice, flag
from manifold_jax._files import user_path
from manifold_jax.datasets.archives import Content, Names
from manifold_jax.datasets.known_files import KNOWN, PUBLISHED

SIDE = 28
_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
"""Third byte of an idx file to the type of its entries."""

_DIMENSIONS = 32  # of an idx file, at most

_SMALL, _DIGITS = tuple(string.ascii_lowercase), tuple(string.digits)
_EVERY = (*_DIGITS, *string.ascii_uppercase, *_SMALL)
_MERGED = tuple(letter for letter in _EVERY if letter not in "cijklmopsuvwxyz")
"""Without the small letters that EMNIST does not tell from capitals in its merged splits."""

SPLITS = {"byclass": _EVERY, "bymerge": _MERGED, "balanced": _MERGED, "letters": _SMALL}
SPLITS |= {"digits": _DIGITS, "mnist": _DIGITS}
"""Splits of EMNIST and their classes."""


class LabelledImages(NamedTuple):
    """Images and their classes, on the host.

    Attributes:
        images: ``(n, height, width)`` or ``(n, height, width, 3)``, grey levels 0 ... 255; divide by 255 for
            the pixels in [0, 1] that this package takes.
        labels: ``(n,)``, from 0.
        names: What the classes are called.
    """

    images: UInt8[np.ndarray, "n height width *channels"]
    labels: UInt8[np.ndarray, "n"]
    names: tuple[str, ...]


class _Source(NamedTuple):
    """A data set of idx files: where it lies, where it is served (as one archive, if that has a name)."""

    title: str
    url: str
    names: tuple[str, ...]  # of the classes
    others: tuple[str, ...] = ()  # names of folders and archives next to those of torchvision
    archive: str = ""

    @property
    def folders(self) -> tuple[str, ...]:
        """What its folder or archive may be called."""
        plain = self.title.replace("-", "")
        return self.title.lower(), f"{plain}/raw", plain, *self.others


_MNIST = _Source("MNIST", "https://storage.googleapis.com/cvdf-datasets/mnist/", _DIGITS, ("mnist.npz",))
_CLOTHES = "T-shirt,trouser,pullover,dress,coat,sandal,shirt,sneaker,bag,ankle boot"
_FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_FASHION = _Source("Fashion-MNIST", _FASHION_URL, tuple(_CLOTHES.split(",")), ("fashion_mnist",))
_KANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
_KMNIST = _Source("KMNIST", "http://codh.rois.ac.jp/kmnist/dataset/kmnist/", _KANA)
_ZIPS = ("emnist-gzip.zip", "gzip.zip", "emnist.zip", "gzip")
_EMNIST = _Source("EMNIST", "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip", (), _ZIPS, _ZIPS[0])
_EMNIST_CHECKSUM = "md5:58c8d27c78d21e728a6bc7b3cc06412e"  # of gzip.zip, as torchvision records it


def mnist(path: archives.Place = None, *, train: bool = True) -> LabelledImages:
    """MNIST: 60 000 training or 10 000 test images of handwritten digits, 28x28.

    Args:
        path: Folder or archive of the idx files, or a folder that holds it, as ``mnist`` or as torchvision
            (``MNIST/raw``) and Keras (``mnist.npz``) leave it. Files may be gzipped or not, whatever their
            names say, and called ``train-images.idx3-ubyte`` as well. By default they are looked for where
            MANIFOLD_JAX_DATA says, else downloaded into the user's cache (once, with a checksum).
        train: The training set; else the test set.

    Raises:
        ValueError: A file is truncated, damaged or not an idx file, images and labels do not belong together,
            or a checksum tells that they are of another data set.
        FileNotFoundError: The path lacks a file, or the download failed.
        ImportError: pooch is not installed, for a download.

    Example:
        >>> digits = mnist("mnist", train=False)  # doctest: +SKIP
        >>> digits.images.shape, digits.labels[:3]  # doctest: +SKIP
        ((10000, 28, 28), array([7, 2, 1], dtype=uint8))
    """
    return _read(_MNIST, path, _names("mnist", train))


def fashion_mnist(path: archives.Place = None, *, train: bool = True) -> LabelledImages:
    """Fashion-MNIST: 60 000 training or 10 000 test images of clothes, in the format of MNIST.

    All else is as for :func:`mnist`, with the folder ``fashion-mnist`` or ``FashionMNIST/raw``.
    """
    return _read(_FASHION, path, _names("fashion_mnist", train))


def kmnist(path: archives.Place = None, *, train: bool = True) -> LabelledImages:
    """Kuzushiji-MNIST: 60 000 training or 10 000 test images of ten cursive hiragana, in the format of MNIST.

    All else is as for :func:`mnist`, with the folder ``kmnist`` or ``KMNIST/raw``.
    """
    return _read(_KMNIST, path, _names("kmnist", train))


def emnist(path: archives.Place = None, split: str = "balanced", *, train: bool = True) -> LabelledImages:
    """EMNIST: handwritten digits and letters in the format of MNIST, 28x28.

    The files hold transposed images and count letters from 1; here images are upright, labels count from 0.

    Args:
        path: As for :func:`mnist`, with the folder ``emnist`` or ``EMNIST/raw`` or ``gzip.zip`` (562 MB).
        split: ``"byclass"`` (62 classes), ``"bymerge"`` and ``"balanced"`` (47), ``"letters"`` (26),
            ``"digits"`` or ``"mnist"`` (10).
        train: The training set; else the test set.

    Raises:
        ValueError, FileNotFoundError, ImportError: As :func:`mnist`.
    """
    names = _names("emnist", train, f"emnist-{choice('emnist', 'split', split, SPLITS)}-", "test")
    source = _EMNIST._replace(names=SPLITS[split])
    images, labels, classes = _read(source, path, names, int(split == "letters"))
    return LabelledImages(np.ascontiguousarray(images.swapaxes(1, 2)), labels, classes)


def read_idx(path: str | os.PathLike[str]) -> Num[np.ndarray, "*shape"]:
    """The array in an idx file of any type and shape, gzipped or not.

    Args:
        path: The file.

    Returns:
        The array in the byte order of the machine; it may be written to.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is truncated, damaged or not an idx file.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "labels.idx1-ubyte"
        >>> _ = file.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
        >>> read_idx(file)
        array([7, 2, 1], dtype=uint8)
    """
    file, again = user_path(path), "take it from where it came."
    if not os.path.isfile(file):
        raise FileNotFoundError(f"read_idx: path must be an idx file, there is none at {file}.")
    try:
        content = archives.gunzip(archives.read_file(file), str(file), again)
    except OSError as error:
        raise ValueError(f"read_idx: {file} cannot be read ({error}).") from error
    return parse_idx(content, None, str(file), again)


def _names(caller: str, train: bool, prefix: str = "", test: str = "t10k") -> list[Names]:
    """What the file of images and that of labels may be called."""
    part, keras = ("train", "train") if flag(caller, "train", train) else (test, "test")
    return [
        (*(f"{prefix}{part}-{kind}{mark}idx{n}-ubyte" for mark in "-."), f"{letter}_{keras}.npy")
        for kind, n, letter in (("images", 3, "x"), ("labels", 1, "y"))
    ]


def _read(source: _Source, path: archives.Place, wanted: Sequence[Names], first: int = 0) -> LabelledImages:
    """Images and labels, which count from ``first`` in the file."""
    again = f"take it from {source.url}."
    place = archives.find(path, source.folders, wanted, source.title, source.url)
    if place is None and source.archive:
        place = archives.download(source.url, _EMNIST_CHECKSUM, source.archive)
    contents = archives.read_members(place, wanted, again) if place else _downloads(source, wanted, again)
    (at, images), (labels_at, labels) = (
        (label, _array(source, label, content, names[0], 3 - 2 * k, again))
        for k, ((label, content), names) in enumerate(zip(contents, wanted, strict=True))
    )
    if images.shape[1:] != (SIDE, SIDE):
        raise ValueError(f"{at} holds images of {images.shape[1:]} pixels, expected {SIDE}x{SIDE}.")
    if len(images) != len(labels):
        numbers = f"{len(images)} images, but {labels_at} {len(labels)} labels"
        raise ValueError(f"{at} holds {numbers}: take both together.")
    last = first + len(source.names) - 1
    for extreme in (labels.min(initial=last), labels.max(initial=first)):
        if not first <= extreme <= last:
            raise ValueError(f"{labels_at} holds the label {extreme}, expected {first} to {last}.")
    return LabelledImages(images, labels - np.uint8(first), source.names)


def _downloads(source: _Source, wanted: Sequence[Names], remedy: str) -> list[tuple[str, Content]]:
    """Contents of downloaded files; in the cache their names begin with that of the data set."""
    contents = []
    for name, *_ in wanted:
        checksum = f"md5:{PUBLISHED[source.title, name]}"
        file = archives.download(f"{source.url}{name}.gz", checksum, f"{source.folders[0]}-{name}.gz")
        contents += archives.read_members(file.parent, [(file.name,)], remedy)
    return contents


def _array(
    source: _Source, label: str, content: Content, name: str, dimensions: int, remedy: str
) -> UInt8[np.ndarray, "*shape"]:
    """Unsigned bytes of an idx or .npy file, unless a checksum says that it is another file than ``name``."""
    known = KNOWN.get(hashlib.md5(content).hexdigest())
    content = archives.gunzip(content, label, remedy)
    if content[:6] == b"\x93NUMPY":
        values = archives.parse_npy(content, label, remedy)
        if values.dtype != np.uint8 or values.ndim != dimensions:
            wanted = f"unsigned bytes in {dimensions} dimension(s)"
            got = f"{values.dtype} of shape {values.shape}"
            raise ValueError(f"{label} holds {got}, expected {wanted}: {remedy}")
    else:
        values = parse_idx(content, dimensions, label, remedy)
    digest = hashlib.md5(bytes([0, 0, 8, dimensions]) + np.array(values.shape, ">u4").tobytes())
    digest.update(np.ascontiguousarray(values).data)
    known = known or KNOWN.get(digest.hexdigest(), (source.title, name))
    if known != (source.title, name):
        title, file = known
        reader = title.lower().replace("-", "_")
        hint = "take the right one" if title == source.title else f"call {reader}"
        got = f"{file} of {title} by its checksum, not {name} of {source.title}"
        raise ValueError(f"{label} is {got}: {hint}, or {remedy}")
    return values


def parse_idx(content: Content, dimensions: int | None, label: str, remedy: str) -> Num[np.ndarray, "*shape"]:
    """The array in an idx file: of unsigned bytes and so many dimensions, or of anything for None.

    Raises:
        ValueError: The magic number is another, or the length is not what the header says; the message calls
            the file ``label`` and ends with ``remedy``.
    """
    size, magic = len(content), int.from_bytes(content[:4], "big")
    count = magic & 0xFF if dimensions is None else dimensions
    header = 4 + 4 * count
    if size < header:
        raise ValueError(f"{label} has {size} bytes, fewer than the {header} of an idx header: {remedy}")
    kind, expected = _TYPES.get(magic >> 8), 0x0800 + count
    if kind is None or count > _DIMENSIONS or (dimensions is not None and magic != expected):
        wanted = f"{expected:#010x}, unsigned bytes in {count} dimension(s)"
        wanted = "0x00000801 or that of another idx file" if dimensions is None else wanted
        raise ValueError(f"{label} begins with the magic number {magic:#010x}, expected {wanted}: {remedy}")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", count, 4))
    dtype = np.dtype(kind)
    if size - header != math.prod(shape) * dtype.itemsize or max(shape, default=0) > size:
        said = f"{size - header} bytes where its header says {shape}"
        raise ValueError(f"{label} holds {said}: it is truncated or damaged, {remedy}")
    values = np.frombuffer(content, dtype, offset=header).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=not values.flags.writeable)
