"""MNIST and Fashion-MNIST from their idx files.

Y. LeCun, L. Bottou, Y. Bengio & P. Haffner, Proc. IEEE 86 (1998), with the format on the MNIST page: a magic
number, 0x0800 (unsigned bytes) plus the number of dimensions, their sizes as big-endian 32-bit integers, then
the bytes. H. Xiao, K. Rasul & R. Vollgraf, Fashion-MNIST, arXiv:1708.07747.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

import manifold_jax.datasets.archives as archives

CLASSES, SIDE = 10, 28
_UNSIGNED_BYTES = 0x0800


class LabelledImages(NamedTuple):
    """Images and their classes, on the host.

    Attributes:
        images: ``(n, height, width)`` or ``(n, height, width, 3)``, grey levels 0 ... 255; divide by 255 for
            the pixels in [0, 1] that this package takes.
        labels: ``(n,)``, 0 ... 9.
        names: What the classes are called.
    """

    images: UInt8[np.ndarray, "n height width *channels"]
    labels: UInt8[np.ndarray, "n"]
    names: tuple[str, ...]


class _Source(NamedTuple):
    """A data set of four idx files: its folder, where they are served, their MD5 sums, and the classes."""

    folder: str
    url: str
    checksums: dict[str, str]
    names: tuple[str, ...]


_MNIST = _Source(
    "mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    {
        "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    tuple("0123456789"),
)
_FASHION = _Source(
    "fashion-mnist",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    {
        "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
    },
    ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
)


def mnist(path: archives.Place = None, *, train: bool = True) -> LabelledImages:
    """MNIST: 60 000 training or 10 000 test images of handwritten digits, 28x28.

    Args:
        path: Folder of the idx files, gzipped or not, or a folder that holds it as ``mnist``. By default they
            are looked for where MANIFOLD_JAX_DATA says, else downloaded into the user's cache (once, with a
            checksum).
        train: The training set; else the test set.

    Returns:
        The images.

    Raises:
        ValueError: A file is truncated, damaged or not an idx file, or images and labels do not belong
            together.
        FileNotFoundError: The path lacks a file, or the download failed.
        ImportError: pooch is not installed, for a download.

    Example:
        >>> digits = mnist("mnist", train=False)  # doctest: +SKIP
        >>> digits.images.shape, digits.labels[:3]  # doctest: +SKIP
        ((10000, 28, 28), array([7, 2, 1], dtype=uint8))
    """
    return _read(_MNIST, path, train)


def fashion_mnist(path: archives.Place = None, *, train: bool = True) -> LabelledImages:
    """Fashion-MNIST: 60 000 training or 10 000 test images of clothes, in the format of MNIST.

    All else is as for :func:`mnist`, with the folder ``fashion-mnist``.
    """
    return _read(_FASHION, path, train)


def _read(source: _Source, path: archives.Place, train: bool) -> LabelledImages:
    part, again = "train" if train else "t10k", f"take it from {source.url}."
    names = [f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"]
    place = archives.find(path, (source.folder,), f"{names[0]}*", source.folder, source.url)
    contents = archives.read_members(place, names, again) if place else _downloads(source, names, again)
    at, labels_at = (f"{place or source.url}: {name}" for name in names)
    images, labels = parse_idx(contents[0], 3, at, again), parse_idx(contents[1], 1, labels_at, again)
    if images.shape[1:] != (SIDE, SIDE):
        raise ValueError(f"{at} holds images of {images.shape[1:]} pixels, expected {SIDE}x{SIDE}.")
    if len(images) != len(labels):
        numbers = f"{len(images)} images, but {labels_at} {len(labels)} labels"
        raise ValueError(f"{at} holds {numbers}: take both together.")
    if len(labels) and labels.max() >= CLASSES:
        raise ValueError(f"{labels_at} holds the label {labels.max()}, expected 0 to {CLASSES - 1}.")
    return LabelledImages(images, labels, source.names)


def _downloads(source: _Source, names: Sequence[str], remedy: str) -> list[bytes]:
    """Contents of downloaded files; in the cache their names begin with that of the data set."""
    contents = []
    for name in names:
        checksum = f"md5:{source.checksums[name]}"
        file = archives.download(f"{source.url}{name}.gz", checksum, f"{source.folder}-{name}.gz")
        contents += archives.read_members(file.parent, [file.name], remedy)
    return contents


def parse_idx(content: bytes, dimensions: int, label: str, remedy: str) -> UInt8[np.ndarray, "*shape"]:
    """The array of so many dimensions in an idx file of unsigned bytes, a copy that may be written to.

    Raises:
        ValueError: The magic number is another, or the length is not what the header says; the message calls
            the file ``label`` and ends with ``remedy``.
    """
    header, size = 4 + 4 * dimensions, len(content)
    magic, expected = int.from_bytes(content[:4], "big"), _UNSIGNED_BYTES + dimensions
    if size < header:
        raise ValueError(f"{label} has {size} bytes, fewer than the {header} of an idx header: {remedy}")
    if magic != expected:
        wanted = f"{expected:#010x}, unsigned bytes in {dimensions} dimension(s)"
        raise ValueError(f"{label} begins with the magic number {magic:#010x}, expected {wanted}: {remedy}")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", dimensions, 4))
    if size - header != math.prod(shape):
        said = f"{size - header} bytes where its header says {shape}"
        raise ValueError(f"{label} holds {said}: it is truncated or damaged, {remedy}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()
