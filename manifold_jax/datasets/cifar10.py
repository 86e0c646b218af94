"""CIFAR-10 from its binary batches: A. Krizhevsky, *Learning multiple layers of features*, Toronto, 2009.

A record is one byte for the class and 3072 for the pixels: the red plane of 32x32, the green, the blue.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import manifold_jax.datasets.archives as archives
from manifold_jax.datasets.idx import CLASSES, LabelledImages

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CHECKSUM = "md5:c32a1d4ab5d03f1284b67883e8d87530"  # as the page of the data set gives it
ARCHIVE, FOLDER = "cifar-10-binary.tar.gz", "cifar-10-batches-bin"
SIDE = 32
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_RECORD = 1 + 3 * SIDE**2
_BATCHES = (1, 2, 3, 4, 5)


def cifar10(
    path: archives.Place = None, *, train: bool = True, batches: Sequence[int] = _BATCHES
) -> LabelledImages:
    """CIFAR-10: 50 000 training or 10 000 test images of objects, 32x32 in colour.

    Args:
        path: ``cifar-10-binary.tar.gz``, the folder it unpacks to, or a folder that holds either; by default
            as for :func:`mnist` (162 MB).
        train: The training set; else the test set.
        batches: Which of the five training batches to read.

    Returns:
        The images, channels last.

    Raises:
        ValueError, FileNotFoundError, ImportError: As :func:`mnist`.

    Example:
        >>> objects = cifar10("cifar-10-binary.tar.gz", train=False)  # doctest: +SKIP
        >>> objects.images.shape, objects.names[objects.labels[0]]  # doctest: +SKIP
        ((10000, 32, 32, 3), 'cat')
    """
    if not batches or any(batch not in _BATCHES for batch in batches):
        raise ValueError(f"cifar10: batches must be some of {_BATCHES}, got {batches!r}.")
    names = [f"data_batch_{batch}.bin" for batch in batches] if train else ["test_batch.bin"]
    place = archives.find(path, (FOLDER, ARCHIVE), "*_batch*.bin", "CIFAR-10", URL)
    place = place or archives.download(URL, CHECKSUM, ARCHIVE)
    remedy = f"take the archive from {URL}, or read some of the training batches with batches=(1,)."
    contents = archives.read_members(place, names, remedy)
    batched = [_records(content, f"{place}: {name}") for name, content in zip(names, contents, strict=True)]
    records = np.concatenate(batched)
    planes = records[:, 1:].reshape(-1, 3, SIDE, SIDE)
    images = np.ascontiguousarray(np.moveaxis(planes, 1, -1))
    return LabelledImages(images, records[:, 0].copy(), NAMES)


def _records(content: bytes, label: str) -> np.ndarray:
    """The records ``(n, 3073)`` of one batch."""
    if not content or len(content) % _RECORD:
        raise ValueError(
            f"{label} has {len(content)} bytes, not a multiple of the {_RECORD} of a record: it is truncated "
            f"or not a batch of CIFAR-10; take the archive from {URL}."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    if records[:, 0].max() >= CLASSES:
        raise ValueError(
            f"{label} holds the label {records[:, 0].max()}, expected 0 to {CLASSES - 1}: it is damaged, or "
            f"of CIFAR-100; take the archive from {URL}."
        )
    return records
