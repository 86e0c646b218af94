"""What leaf projections start from and are compared with: training images, denoisers, scores."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jax.tree_util import Partial
from jaxtyping import Float, Int
from scipy.stats import rankdata

from manifold_jax._checks import choice, require, whole
from manifold_jax._files import Progress
from manifold_jax.datasets import LabelledImages
from manifold_jax.experiments.classifier.task import Images, stage
from manifold_jax.experiments.classifier.walks import PathOptions, leaf_projections, norms
from manifold_jax.information import Path
from manifold_jax.models import pixels

ANCHORS = {
    "class": "nearest training image of the predicted class",
    "any": "nearest training image",
    "mean": "mean of the predicted class",
}

_COLUMNS = 10_000
"""Training images whose distances are held at once."""

_LEAST_ERROR = 1e-10
"""Mean squared error of 100 dB, the most that is told apart."""


class Training(NamedTuple):
    """Training images as baselines and anchors use them.

    Attributes:
        images: Pixels in [0, 1] ``(n, *shape)``.
        labels: ``(n,)``.
    """

    images: Float[np.ndarray, "n *shape"]
    labels: Int[np.ndarray, "n"]

    @property
    def flat(self) -> Float[np.ndarray, "n m"]:
        """One row an image."""
        return self.images.reshape(len(self.images), -1)

    def require_classes(self, classes: Int[np.ndarray, "k"]) -> None:
        """Raise unless there is a training image of every class."""
        missing = np.setdiff1d(classes, self.labels)
        if missing.size:
            raise ValueError(f"there is no training image of class {missing[0]}: take more training images.")


def training_images(data: LabelledImages, rows: Int[np.ndarray, "n"] | None = None) -> Training:
    """Some rows of a data set, or all."""
    images, labels = (data.images, data.labels) if rows is None else (data.images[rows], data.labels[rows])
    return Training(np.asarray(pixels(images)), labels)


def split(data: LabelledImages, validation: int, training: int, seed: int) -> tuple[Training, Training]:
    """Training images drawn at random: some to choose options by, then at most ``training`` others."""
    count = len(data.labels)
    whole("leaf", "validation", validation, most=count - 1)
    order = np.random.default_rng(seed).permutation(count)
    rest = order[validation : validation + training]
    return training_images(data, order[:validation]), training_images(data, rest)


def nearest(
    images: Float[Any, "k *shape"], training: Training, classes: Int[np.ndarray, "k"] | None = None
) -> tuple[Int[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """Nearest training image in Euclidean distance of pixels.

    Args:
        images: Images to look for.
        training: Where to look.
        classes: Look among images of this class only.

    Returns:
        Rows of the training images, and distances.

    Raises:
        ValueError: There is no training image of a class.
    """
    rows, flat = images.reshape(len(images), -1), training.flat
    if classes is not None:
        training.require_classes(classes)
    best, least = np.zeros(len(rows), int), np.full(len(rows), np.inf)
    for begin in range(0, len(flat), _COLUMNS):
        part = flat[begin : begin + _COLUMNS]
        squares = np.sum(part**2, axis=1) - 2 * rows @ part.T
        if classes is not None:
            squares[classes[:, None] != training.labels[None, begin : begin + _COLUMNS]] = np.inf
        at = squares.argmin(axis=1)
        value = squares[np.arange(len(rows)), at]
        best, least = np.where(value < least, at + begin, best), np.minimum(value, least)
    return best, np.linalg.norm(rows - flat[best], axis=1)


def anchors_of(
    kind: str,
    images: Float[Any, "k *shape"],
    predicted: Int[np.ndarray, "k"],
    training: Training,
) -> Float[np.ndarray, "k *shape"]:
    """Where leaf projections start: training images, on the leaf of valid data, or class means.

    Args:
        kind: One of ``ANCHORS``.
        images: Images to project.
        predicted: Their predicted classes.
        training: What to choose from.

    Returns:
        An anchor for every image.

    Raises:
        ValueError: The kind is unknown, or there is no training image of a class.
    """
    if choice("leaf", "anchors", kind, ANCHORS) != "mean":
        return training.images[nearest(images, training, predicted if kind == "class" else None)[0]]
    training.require_classes(predicted)
    classes, of = np.unique(predicted, return_inverse=True)
    return np.stack([training.images[training.labels == c].mean(axis=0) for c in classes])[of]


class Projections(NamedTuple):
    """Leaf projections of images from anchors of one kind.

    Attributes:
        anchors: ``(n, *shape)``.
        before: Distances of the images to their anchors ``(n,)``.
        path: The projections, with an axis of images first.
    """

    anchors: Images
    before: Float[np.ndarray, "n"]
    path: Path

    def caption(self, options: PathOptions) -> str:
        """How many came to an end, and how far they left the leaf."""
        return (
            f"{np.mean(self.path.converged):.0%} of the chords were vertical (horizontal share at most "
            f"{options.stationarity:g}) within {options.max_steps} steps of {options.step_size:g}; drift off "
            f"the leaf {np.sum(self.path.drift):.2g} of {np.sum(self.path.length):.3g} walked"
        )


def project_from_anchors(
    log_prob: Partial,
    images: Images,
    training: Training,
    predicted: Int[np.ndarray, "n"],
    settings: Any,
    progress: Progress | None = None,
) -> dict[str, Projections]:
    """Project images on the leaves of their anchors, for every kind in ``settings.anchors``."""
    projections = {}
    for k, kind in enumerate(settings.anchors):
        anchors = anchors_of(kind, images, predicted, training)
        tell = stage(progress, k, len(settings.anchors))
        path = leaf_projections(log_prob, anchors, images, settings.path, tell)
        projections[kind] = Projections(anchors, norms(images - anchors), path)
    return projections


# --- denoising ---------------------------------------------------------------------------------------------


def psnr(images: Images, clean: Images) -> Float[np.ndarray, "n"]:
    """Peak signal-to-noise ratio -10 log10(mean squared error) of pixels in [0, 1], in dB; at most 100."""
    errors = np.mean((images - clean).reshape(len(images), -1) ** 2, axis=1)
    return -10 * np.log10(np.maximum(errors, _LEAST_ERROR))


class Subspace(NamedTuple):
    """Principal components: the mean ``(m,)``, orthonormal rows ``(k, m)`` and variances ``(k,)``."""

    mean: np.ndarray
    rows: np.ndarray
    variance: np.ndarray

    def project(self, images: Images, count: int) -> Images:
        """Orthogonal projection on the mean and the first ``count`` components."""
        rows = self.rows[:count]
        flat = images.reshape(len(images), -1) - self.mean
        return (self.mean + flat @ rows.T @ rows).reshape(images.shape).astype(images.dtype)


def principal_subspace(training: Training) -> Subspace:
    """The principal components of training images, by descending variance."""
    flat = training.flat.astype(np.float64)
    mean = flat.mean(axis=0)
    covariance = (flat.T @ flat - len(flat) * np.outer(mean, mean)) / (len(flat) - 1)
    variance, columns = np.linalg.eigh(covariance)
    count = min(flat.shape)
    return Subspace(mean, columns[:, ::-1].T[:count], np.maximum(variance[::-1][:count], 0))


def denoise_tv(images: Images, weight: float) -> Images:
    """Total-variation denoising (A. Chambolle, J. Math. Imaging Vis. 20, 2004), by scikit-image."""
    restoration = require("skimage.restoration", "cli", "Total variation")
    channels = -1 if images.ndim == 4 else None
    denoise = restoration.denoise_tv_chambolle
    return np.stack([denoise(image, weight=weight, channel_axis=channels) for image in images]).astype(
        images.dtype
    )


# --- scores of how unlike the training data an input is; the larger, the more unlike -----------------------


def max_softmax_score(log_p: Float[np.ndarray, "n C"]) -> Float[np.ndarray, "n"]:
    """-max_y log p_y (Hendrycks & Gimpel, ICLR 2017)."""
    return -log_p.max(axis=1)


def energy_score(logits: Float[np.ndarray, "n C"]) -> Float[np.ndarray, "n"]:
    """-log sum_y exp(logit_y), the free energy at temperature 1 (Liu et al., NeurIPS 2020)."""
    return -np.logaddexp.reduce(logits, axis=1)


class ClassGaussians(NamedTuple):
    """Class means ``(C, m)`` with the pseudo-inverse of the covariance within classes ``(m, m)``."""

    means: Float[np.ndarray, "C m"]
    precision: Float[np.ndarray, "m m"]


def fit_class_gaussians(features: Float[np.ndarray, "n m"], labels: Int[np.ndarray, "n"]) -> ClassGaussians:
    """Means of the classes that occur and one covariance (Lee et al., NeurIPS 2018, section 2.1).

    Directions without variance, such as units that never fire, do not count.
    """
    features = features.astype(np.float64)
    classes, of = np.unique(labels, return_inverse=True)
    means = np.stack([features[of == k].mean(axis=0) for k in range(len(classes))])
    within = features - means[of]
    covariance = within.T @ within / len(features)
    return ClassGaussians(means, np.linalg.pinv(covariance, rcond=1e-8, hermitian=True))


def mahalanobis_score(
    features: Float[np.ndarray, "n m"], gaussians: ClassGaussians
) -> Float[np.ndarray, "n"]:
    """min_c (f - mean_c)^T precision (f - mean_c) (Lee et al., NeurIPS 2018, equation 2)."""
    chords = features.astype(np.float64)[:, None] - gaussians.means
    return np.einsum("nci,ij,ncj->nc", chords, gaussians.precision, chords, optimize=True).min(axis=1)


def subspace_score(images: Images, subspace: Subspace, count: int) -> Float[np.ndarray, "n"]:
    """Distance to the affine subspace of the first ``count`` principal components."""
    return norms(images - subspace.project(images, count))


def auroc(inside: Float[np.ndarray, "n"], outside: Float[np.ndarray, "m"]) -> tuple[float, float]:
    """Area under the receiver operating characteristic, with its standard error.

    Args:
        inside: Scores of inputs like the training data.
        outside: Scores of others.

    Returns:
        The probability that one from outside scores higher, ties counted half; and the standard error of
        Hanley & McNeil (Radiology 143, 1982), which is 0 where the area is 0 or 1.
    """
    ranked = np.sort(inside)
    below = sum(np.searchsorted(ranked, outside, side).mean() for side in ("left", "right"))
    area = float(below) / (2 * len(inside))
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    square = (
        area * (1 - area) + (len(outside) - 1) * (first - area**2) + (len(inside) - 1) * (second - area**2)
    ) / (len(inside) * len(outside))
    return area, max(square, 0.0) ** 0.5


def rank_correlation(a: Float[np.ndarray, "n"], b: Float[np.ndarray, "n"]) -> float:
    """Spearman's; NaN for a constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])
