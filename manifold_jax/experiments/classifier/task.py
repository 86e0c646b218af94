"""What the experiments on a classifier start from: data, a network, its checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import Partial
from jaxtyping import Float, Int, Num

from manifold_jax import datasets, models
from manifold_jax._checks import choice, require, whole
from manifold_jax._files import Progress, silent
from manifold_jax._linalg import map_blocks
from manifold_jax.datasets import LabelledImages, archives, cifar10
from manifold_jax.experiments.classifier.given import network_with
from manifold_jax.experiments.classifier.normalised import (
    evaluate,
    is_normalised,
    network_of,
    normalised_loss,
    with_statistics,
)
from manifold_jax.information import check_log_prob
from manifold_jax.models import VGG11, LeNet, Pure, pixels

MARKS = (0, 10, 20, 50, 100, 200, 300, 500, 700, 1000, 1500, *range(2000, 10_001, 1000))
MARKS += tuple(range(12_000, 30_001, 2000))
"""Steps after which a checkpoint is kept."""

_BATCH = 250  # images that a network is evaluated at together
_NORMALISING = 1000  # training images, the first ones, whose statistics a network with normalisation keeps

Images = Float[Any, "n *shape"]  # pixels in [0, 1]


class Task(NamedTuple):
    """A data set and the network for it: pixels in [0, 1] to ``(C,)`` log-probabilities."""

    name: str  # one of READERS
    network: Pure  # with its initial parameters
    train: LabelledImages
    test: LabelledImages
    std: float  # grey levels in one unit of the normalised input: the paper's 0.1 is 0.1 * std here
    rebuild: Callable[[int], Pure]  # the same network with another number of classes


class Trial(NamedTuple):
    """A trained network: what every experiment is run on."""

    task: Task
    folder: Path  # of the checkpoints
    step: int  # of the checkpoint, or of the last one of a history
    seed: int = 0  # of all choices of images and directions
    weights: str = ""  # name of the file that the parameters of the task's network come from, if any
    executor: Any = None  # where walks are made

    def log_prob_at(self, step: int) -> Partial:
        """The classifier at a checkpoint; its parameters are the leaves."""
        if self.weights:
            return Partial(*self.task.network)
        apply, initial = self.task.network
        params = jax.tree.map(jnp.asarray, models.load_params(self.folder, initial, step))
        if is_normalised(apply, params):
            apply = with_statistics(apply, params, self.task.train.images[:_NORMALISING])
            return Partial(evaluate, apply, params)
        return Partial(apply, params)

    @property
    def log_prob(self) -> Partial:
        """The classifier at the checkpoint ``step``."""
        return self.log_prob_at(self.step)

    @property
    def how(self) -> dict[str, Any]:
        """Where walks are made, and where they are kept until the results are written."""
        return {"checkpoint": self.folder.parent, "executor": self.executor}

    @property
    def checkpoints(self) -> list[int]:
        """Steps of the checkpoints up to ``step``."""
        return [step for step in models.checkpoint_steps(self.folder) if step <= self.step]

    @property
    def title(self) -> str:
        """How titles of figures and tables begin."""
        return f"{self.task.name}, {self.weights or f'checkpoint {self.step}'}"


def stage(progress: Progress, k: int, count: int) -> Progress:
    """Progress of the k-th of so many equal parts."""
    return lambda done, total: progress(k * total + done, count * total)


def _read_cifar10(path: Path | None, *, train: bool) -> LabelledImages:
    try:
        return cifar10(path, train=train)
    except FileNotFoundError:
        # A folder may hold no more than the first of the five batches.
        return cifar10(path, train=train, batches=(1,))


def _read_digits(_path: Path | None, *, train: bool) -> LabelledImages:
    """The 8 x 8 digits that come with scikit-learn, whatever the path; every fifth is for testing."""
    datasets = require("sklearn.datasets", "cli", "The data set of digits")
    pictures, labels = datasets.load_digits(return_X_y=True)
    rows = (np.arange(len(labels)) % 5 == 0) != train
    images = np.round(pictures[rows].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return LabelledImages(images, labels[rows].astype(np.uint8), tuple("0123456789"))


READERS = {"mnist": datasets.mnist, "fashion-mnist": datasets.fashion_mnist, "kmnist": datasets.kmnist}
READERS |= {"emnist": datasets.emnist, "cifar10": _read_cifar10, "cifar100": datasets.cifar100}
READERS |= {"digits": _read_digits}
"""Name of a data set to the function that reads its images, to learn from or for testing."""


def _module(
    name: str, images: np.ndarray, width: int, batch_norm: bool, seed: int, classes: int
) -> LeNet | VGG11:
    """LeNet for grey images, normalised by published numbers or their own; a VGG11-like one for colour."""
    options = {"classes": classes, "rngs": nnx.Rngs(seed)}
    if images.ndim == 4:
        module = VGG11(width=width, batch_norm=batch_norm, **options)
        module.eval()
        return module
    if name != "mnist":
        options |= {"mean": np.mean(images / 255), "std": np.std(images / 255)}
    return LeNet(size=images.shape[1], **options)


def make_task(
    name: str,
    path: Path | None = None,
    *,
    seed: int = 0,
    width: int = 16,
    batch_norm: bool = False,
    init: str = "flax",
    weights: Path | None = None,
) -> Task:
    """Read a data set, one of ``READERS``, and build the network for it.

    ``path`` is the folder of the files, by default ``MANIFOLD_JAX_DATA``, else they are downloaded; ``seed``
    that of the initial weights, ``width`` the channels of the first layer of the VGG11-like network, which
    may have ``batch_norm``. Initial weights are drawn as ``init`` does, ``flax`` or ``torch``, where the
    paper's come from; or they are read from a file of ``weights``, whose network it then is. ValueError for
    an unknown name or a file that is not what it should be, FileNotFoundError if there is no data.
    """
    choice("leaf", "init", init, ("flax", "torch"))
    read = READERS[choice("leaf", "data", name, READERS)]
    learnt, other = read(path, train=True), read(path, train=False)
    module = partial(_module, name, learnt.images, width, batch_norm, seed)

    def build(classes: int) -> Pure:
        network = models.pure(module(classes))
        if init == "torch":
            network = network._replace(params=models.torch_initial(network.params, jax.random.key(seed)))
        return network

    if weights is not None:
        given = network_with(weights)
        return Task(name, models.pure(given), learnt, other, given.std, build)
    classes = len(learnt.names)
    return Task(name, build(classes), learnt, other, float(np.mean(module(classes).std)), build)


def learn(
    task: Task, folder: Path, steps: int, *, seed: int = 0, marks: Any = MARKS, progress: Progress = silent
) -> Trial:
    """Train up to ``steps``, going on from what the folder holds; SGD 0.01, batches of 60, as in the paper.

    ``seed`` is that of the order of the data and of the trial. A checkpoint is kept after each of ``marks``
    and after the last step, and made up for where an earlier training in the folder kept fewer. ValueError if
    the folder holds another network, or the training diverged.
    """
    apply, params = task.network
    check_log_prob(Partial(apply, params), jnp.zeros(task.train.images.shape[1:]))
    train = partial(
        models.train,
        normalised_loss(apply) if is_normalised(apply, params) else models.classification_loss(apply),
        params,
        models.labelled(apply, params, task.train.images, task.train.labels),
        key=jax.random.key(seed),
        chunk=20,
        folder=folder,
        save_at=[mark for mark in marks if mark <= steps],
        save_every=2000,
        progress=progress,
    )
    there = models.checkpoint_steps(folder)
    missing = [
        mark for mark in marks if there and there[0] < mark < min(steps, there[-1]) and mark not in there
    ]
    for last in (*missing, steps):
        train(steps=last).or_raise("take another seed")
    return Trial(task, folder, steps, seed)


@jax.jit
def _outputs(function: Partial, images: Any) -> Any:
    return map_blocks(jax.vmap(lambda image: function(pixels(image))), _BATCH, images)


def outputs(function: Partial, images: Num[Any, "n *shape"]) -> np.ndarray:
    """A function of one image at many ``(n, ...)``."""
    return np.asarray(_outputs(function, images))


def predictions(log_prob: Partial, images: Num[Any, "n *shape"]) -> Int[np.ndarray, "n"]:
    """The most likely class of every image."""
    return outputs(log_prob, images).argmax(axis=1)


def layer(log_prob: Partial, method: str) -> Partial:
    """The ``"logits"`` or ``"features"`` of the network of a classifier, as a function of one image."""
    apply, params = network_of(log_prob, method)
    if not isinstance(apply, models.Apply):
        raise ValueError(f"{method} are needed: log_prob must be Partial(apply, params) of pure(network).")
    return Partial(evaluate, apply.of(method), params)


def sample(data: LabelledImages, count: int, seed: int = 0) -> tuple[jax.Array, np.ndarray]:
    """Images drawn at random, with pixels in [0, 1], and their labels; the same for the same seed."""
    whole("leaf", "images", count, most=len(data.labels))
    rows = np.random.default_rng(seed).permutation(len(data.labels))[:count]
    return pixels(data.images[rows]), data.labels[rows]


def different_pairs(
    labels: Int[np.ndarray, "n"], count: int, seed: int = 0
) -> tuple[Int[np.ndarray, "count"], list[int]]:
    """Rows of sources and of destinations of other classes; none occurs twice."""
    order = np.random.default_rng(seed).permutation(len(labels))
    first, rest = order[:count], list(order[count:])
    second = []
    for row in first:
        match = next((k for k, other in enumerate(rest) if labels[other] != labels[row]), None)
        if match is not None:
            second.append(rest.pop(match))
    if len(second) < count:
        raise ValueError(f"there are not {count} pairs of different classes among {len(order)} images.")
    return first, second


def read_images(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Bytes ``(n, *shape)`` of an ``.npz`` file, under the name ``images``."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: give --letters an .npz file with an array named images.")
    remedy = "it is not an .npz file with an array named images."
    try:
        ((label, content),) = archives.read_members(path, [("images.npy",)], remedy)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from None
    images = archives.parse_npy(content, label, remedy)
    if images.shape[1:] != shape or images.dtype != np.uint8 or not len(images):
        wanted = f"uint8 of shape (n, {', '.join(map(str, shape))})"
        raise ValueError(f"the images in {path} must be {wanted}, got {images.dtype} {images.shape}.")
    return images
