"""CIFAR-10 and CIFAR-100: A. Krizhevsky, *Learning multiple layers of features*, Toronto, 2009.

A record of the binary version is one byte for the class (two for CIFAR-100, the second for the fine one) and
3072 for the pixels: the red plane of 32x32, the green, the blue. The Python version holds the same planes in
a pickled array; it is read without unpickling, see :mod:`manifold_jax.datasets.plain_pickle`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

import manifold_jax.datasets.archives as archives
from manifold_jax._checks import choice, flag, shown
from manifold_jax.datasets.idx import LabelledImages
from manifold_jax.datasets.plain_pickle import read_plain_pickle

SIDE = 32
_PIXELS = 3 * SIDE**2
_BATCHES = (1, 2, 3, 4, 5)
_FINE = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark
shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""


class _Source(NamedTuple):
    """A data set: where it lies and is served, bytes of labels in a record, names of labels, and classes."""

    title: str
    batches: str  # what follows the name in that of the folder
    checksum: str  # as the page of the data set gives it
    bytes: int
    key: str
    names: tuple[str, ...]

    @property
    def url(self) -> str:
        """Where the archive of the binary version is served."""
        return f"https://www.cs.toronto.edu/~kriz/{self.title.lower()}-binary.tar.gz"

    @property
    def folders(self) -> tuple[str, ...]:
        """As Toronto, torchvision and Keras call the folders and archives of the two versions."""
        stem, long = self.title.lower(), f"{self.title.lower()}{self.batches}"
        names = (f"{long}-bin", f"{stem}-binary", f"{long}-py", f"{stem}-python")
        return *names, *(f"{name}.tar.gz" for name in names), f"{long}-py-target", f"{stem}-python-target"


_THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR10 = _Source("CIFAR-10", "-batches", "md5:c32a1d4ab5d03f1284b67883e8d87530", 1, "labels", _THINGS)
_CIFAR100 = _Source(
    "CIFAR-100", "", "md5:03b5dce01913d631647c71ecec9e9cb8", 2, "fine_labels", tuple(_FINE.split())
)
_Part = tuple[np.ndarray, np.ndarray]  # labels ``(n,)`` and planes ``(n, 3072)``


def cifar10(
    path: archives.Place = None, *, train: bool = True, batches: Sequence[int] = _BATCHES
) -> LabelledImages:
    """CIFAR-10: 50 000 training or 10 000 test images of objects, 32x32 in colour, channels last.

    Args:
        path: The archive of the binary or the Python version, the folder it unpacks to, or a folder that
            holds either, as torchvision and Keras leave it; by default as for :func:`mnist` (162 MB).
        train: The training set; else the test set.
        batches: Which of the five training batches to read.

    Raises:
        ValueError, FileNotFoundError, ImportError: As :func:`mnist`.

    Example:
        >>> objects = cifar10("cifar-10-binary.tar.gz", train=False)  # doctest: +SKIP
        >>> objects.images.shape, objects.names[objects.labels[0]]  # doctest: +SKIP
        ((10000, 32, 32, 3), 'cat')
    """
    if not isinstance(batches, list | tuple) or not batches:
        raise ValueError(f"cifar10: batches must be some of {_BATCHES}, got {shown(batches)}.")
    batches = [choice("cifar10", "every one of batches", batch, _BATCHES) for batch in batches]
    training = [f"data_batch_{batch}" for batch in batches]
    names = training if flag("cifar10", "train", train) else ["test_batch"]
    return _read(_CIFAR10, path, names, ", or read some of the training batches with batches=(1,).")


def cifar100(path: archives.Place = None, *, train: bool = True) -> LabelledImages:
    """CIFAR-100: 50 000 training or 10 000 test images of a hundred classes of objects, 32x32 in colour.

    All else is as for :func:`cifar10`, without batches.
    """
    return _read(_CIFAR100, path, ["train" if flag("cifar100", "train", train) else "test"], ".")


def _read(source: _Source, path: archives.Place, names: Sequence[str], end: str) -> LabelledImages:
    wanted = [(f"{name}.bin", name) for name in names]
    place = archives.find(path, source.folders, wanted, source.title, source.url)
    place = place or archives.download(source.url, source.checksum, source.url.rsplit("/", 1)[1])
    remedy = f"take the archive from {source.url}"
    parts = []
    for label, stored in archives.read_members(place, wanted, remedy + end):
        content = archives.gunzip(stored, label, f"{remedy}.")
        pickled = content[:1] in (b"\x80", b"(")  # no first byte of a record is that large
        parts.append((_pickled if pickled else _records)(source, content, label, f"{remedy}."))
    labels, planes = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    images = np.ascontiguousarray(np.moveaxis(planes.reshape(-1, 3, SIDE, SIDE), 1, -1))
    return LabelledImages(images, labels.astype(np.uint8), source.names)


def _records(source: _Source, content: archives.Content, label: str, remedy: str) -> _Part:
    """What is in one file of the binary version."""
    size = source.bytes + _PIXELS
    if not content or len(content) % size:
        got = f"{len(content)} bytes, not a multiple of the {size} of a record"
        raise ValueError(f"{label} has {got}: it is truncated or not of {source.title}; {remedy}")
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    return _checked(source, records[:, source.bytes - 1], label, remedy), records[:, source.bytes :]


def _pickled(source: _Source, content: archives.Content, label: str, remedy: str) -> _Part:
    """What is in one file of the Python version."""
    wrong = f"not of {source.title}; {remedy}"
    try:
        batch = read_plain_pickle(content)
    except ValueError as error:
        raise ValueError(f"{label} holds {error}: it is damaged or {wrong}") from error
    planes, labels = batch.get("data"), batch.get(source.key)
    if not isinstance(planes, np.ndarray) or planes.dtype != np.uint8 or planes.shape[1:] != (_PIXELS,):
        raise ValueError(f"{label} holds no bytes 'data' (n, {_PIXELS}): it is {wrong}")
    entries = labels if isinstance(labels, list) else []
    if not entries or len(entries) != len(planes) or any(type(entry) is not int for entry in entries):
        raise ValueError(f"{label} holds no {source.key!r} for all images: it is {wrong}")
    return _checked(source, entries, label, remedy), planes


def _checked(source: _Source, labels: Sequence[int] | np.ndarray, label: str, remedy: str) -> np.ndarray:
    """The labels, if all are known."""
    last = len(source.names) - 1
    for extreme in (min(labels), max(labels)):
        if not 0 <= extreme <= last:
            other = "CIFAR-100" if source is _CIFAR10 else "CIFAR-10"
            got = f"the label {extreme}, expected 0 to {last}"
            raise ValueError(f"{label} holds {got}: it is damaged, or of {other}; {remedy}")
    return np.asarray(labels)
