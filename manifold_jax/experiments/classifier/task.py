"""What the experiments on a classifier start from: a data set, a network, its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import Partial

from manifold_jax.datasets import LabelledImages, cifar10, fashion_mnist, mnist
from manifold_jax.information import check_log_prob
from manifold_jax.models import (
    VGG11,
    Apply,
    LeNet,
    Pure,
    checkpoint_steps,
    classification_loss,
    labelled,
    load_params,
    pixels,
    pure,
    torch_initial,
    train,
)

NAMES = ("mnist", "fashion-mnist", "cifar10", "digits")
INITS = ("flax", "torch")

Progress = Callable[[int, int], None]


class Task(NamedTuple):
    """A data set and the network for it.

    Attributes:
        name: One of ``NAMES``.
        apply: ``apply(params, x)``, pixels in [0, 1] to ``(C,)`` log-probabilities.
        params: Initial ones.
        train: Images to learn from.
        test: Others.
        std: Pixels in one unit of the network's normalised input: the paper's 0.1 is ``0.1 * std`` here.
        width: Channels of the first layer of a VGG11-like network.
        init: How the initial weights are drawn.
    """

    name: str
    apply: Apply
    params: Any
    train: LabelledImages
    test: LabelledImages
    std: float
    width: int = 16
    init: str = "flax"


class Trial(NamedTuple):
    """What an experiment on one trained network is given.

    Attributes:
        task: What was learnt.
        folder: Of the checkpoints.
        step: The checkpoint, or the last one of a history.
        seed: Of all choices of images and directions.
        progress: Called with the work done and all of it.
    """

    task: Task
    folder: Path
    step: int
    seed: int = 0
    progress: Progress | None = None

    @property
    def log_prob(self) -> Partial:
        """The classifier at the checkpoint."""
        return log_prob_at(self.task, self.folder, self.step)

    @property
    def words(self) -> str:
        """For titles."""
        return f"{self.task.name}, checkpoint {self.step}"

    def stage(self, k: int, count: int) -> Progress:
        """Progress of the k-th of so many equal parts."""
        tell = self.progress or (lambda done, all_: None)
        return lambda done, all_: tell(k * all_ + done, count * all_)


def _digits(train: bool) -> LabelledImages:
    """The 8 x 8 digits that come with scikit-learn; every fifth is for testing."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError('the digits come with scikit-learn: pip install "manifold_jax[cli]".') from None
    pictures, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
    rows = (np.arange(len(labels)) % 5 == 0) != train
    images = np.round(pictures[rows].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return LabelledImages(images, labels[rows].astype(np.uint8), tuple("0123456789"))


def network(
    name: str, data: LabelledImages, *, classes: int, seed: int = 0, width: int = 16
) -> LeNet | VGG11:
    """LeNet for grey images, a VGG11-like network for 32 x 32 colour ones.

    Args:
        name: Of the task.
        data: Whose mean and deviation normalise the pixels, except MNIST's, which are the published ones.
        classes: C.
        seed: Of the initial weights.
        width: Channels of the first layer of the VGG11-like network.

    Returns:
        The module.
    """
    rngs = nnx.Rngs(seed)
    if data.images.ndim == 4:
        return VGG11(classes=classes, width=width, rngs=rngs)
    if name == "mnist":
        return LeNet(classes=classes, size=data.images.shape[1], rngs=rngs)
    grey = data.images / 255
    return LeNet(classes=classes, size=data.images.shape[1], mean=grey.mean(), std=grey.std(), rngs=rngs)


def initial(module: LeNet | VGG11, seed: int, init: str) -> Pure:
    """A network and its initial parameters, drawn as one of ``INITS``."""
    found = pure(module)
    return found if init == "flax" else Pure(found.apply, torch_initial(found.params, jax.random.key(seed)))


def task(name: str, path: Path | None = None, *, seed: int = 0, width: int = 16, init: str = "flax") -> Task:
    """Read a data set and build the network for it.

    Args:
        name: ``mnist``, ``fashion-mnist``, ``cifar10`` or ``digits`` (scikit-learn's, 8 x 8).
        path: Folder of the files; by default ``MANIFOLD_JAX_DATA``, else they are downloaded.
        seed: Of the initial weights.
        width: Channels of the first layer of the VGG11-like network.
        init: Initial weights as in ``flax`` or as in ``torch``, where the paper's come from.

    Returns:
        The task.

    Raises:
        ValueError: The name or ``init`` is unknown, or a file is not what it should be.
        FileNotFoundError: There is no data.
    """
    if name not in NAMES:
        raise ValueError(f"data must be one of {', '.join(NAMES)}, got {name!r}.")
    if init not in INITS:
        raise ValueError(f"init must be one of {', '.join(INITS)}, got {init!r}.")
    if name == "digits":
        learnt, other = _digits(True), _digits(False)
    elif name == "cifar10":
        learnt, other = _cifar10(path, True), _cifar10(path, False)
    else:
        read = mnist if name == "mnist" else fashion_mnist
        learnt, other = read(path, train=True), read(path, train=False)
    module = network(name, learnt, classes=len(learnt.names), seed=seed, width=width)
    apply, params = initial(module, seed, init)
    return Task(name, apply, params, learnt, other, float(np.mean(module.std)), width, init)


def _cifar10(path: Path | None, train: bool) -> LabelledImages:
    """All five batches, or the first where a folder holds no more."""
    try:
        return cifar10(path, train=train)
    except FileNotFoundError:
        return cifar10(path, train=train, batches=(1,))


def learn(
    task: Task,
    folder: Path,
    steps: int,
    *,
    save_at: Sequence[int] = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """Train up to ``steps``, going on from what the folder holds; SGD 0.01, batches of 60, as in the paper.

    Args:
        task: What to learn.
        folder: Of the checkpoints.
        steps: In all.
        save_at: Steps after which to keep a checkpoint.
        seed: Of the order of the data.
        progress: Called with steps done and all steps.

    Returns:
        Loss and accuracy of every step.

    Raises:
        ValueError: The folder holds another network, or the training diverged.
    """
    check_log_prob(Partial(task.apply, task.params), jnp.zeros(task.train.images.shape[1:]))
    data = labelled(task.apply, task.params, task.train.images, task.train.labels)
    found = train(
        classification_loss(task.apply),
        task.params,
        data,
        key=jax.random.key(seed),
        steps=steps,
        chunk=20,
        folder=folder,
        save_at=save_at,
        save_every=2000,
        progress=progress,
    )
    if not found.finite:
        raise ValueError(f"the training diverged within {found.steps} steps: take another seed.")
    return found.metrics


def log_prob_at(task: Task, folder: Path, step: int | None = None) -> Partial:
    """The classifier of one checkpoint, by default of the last.

    Args:
        task: What was learnt.
        folder: Of the checkpoints.
        step: Which.

    Returns:
        One image to ``(C,)`` log-probabilities; the parameters are its leaves.
    """
    params = load_params(folder, task.params, step)
    return Partial(task.apply, jax.tree.map(jnp.asarray, params))


def checkpoints(folder: Path, steps: int) -> list[int]:
    """Steps of the checkpoints up to ``steps``."""
    return [step for step in checkpoint_steps(folder) if step <= steps]


def sample(data: LabelledImages, count: int, seed: int = 0) -> tuple[jax.Array, np.ndarray]:
    """So many images with pixels in [0, 1] and their labels, the same every time."""
    if not 1 <= count <= len(data.labels):
        raise ValueError(f"the number of images must lie between 1 and {len(data.labels)}, got {count}.")
    rows = np.random.default_rng(seed).permutation(len(data.labels))[:count]
    return pixels(data.images[rows]), data.labels[rows]


def different_pairs(
    data: LabelledImages, count: int, seed: int = 0
) -> tuple[jax.Array, jax.Array, np.ndarray, np.ndarray]:
    """Sources and destinations of different classes, and the labels of both."""
    order = np.random.default_rng(seed).permutation(len(data.labels))
    first = order[:count]
    second = []
    rest = list(order[count:])
    for row in first:
        match = next((k for k, other in enumerate(rest) if data.labels[other] != data.labels[row]), None)
        if match is None:
            break
        second.append(rest.pop(match))
    if len(second) < count:
        raise ValueError(f"there are not {count} pairs of different classes among {len(order)} images.")
    images = data.images
    return pixels(images[first]), pixels(images[second]), data.labels[first], data.labels[second]


def read_images(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Images of an ``.npz`` file, under the name ``images``, as bytes.

    Args:
        path: The file.
        shape: Of one image.

    Returns:
        ``(n, *shape)``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds no such images.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: give --letters an .npz file with an array named images.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            images = archive["images"]
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{path} is no .npz file with an array named images ({error}).") from None
    if images.shape[1:] != shape or images.dtype != np.uint8 or not len(images):
        raise ValueError(
            f"the images in {path} must be uint8 of shape (n, {', '.join(map(str, shape))}), got "
            f"{images.dtype} {images.shape}."
        )
    return images
