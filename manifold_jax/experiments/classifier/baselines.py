"""What leaf projections start from and are compared with: training images, denoisers, scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.tree_util import Partial
from jaxtyping import Float, Int

from manifold_jax._checks import choice, flat, require, whole
from manifold_jax._files import Progress
from manifold_jax.datasets import LabelledImages
from manifold_jax.experiments.classifier.task import Images, predictions, stage
from manifold_jax.experiments.classifier.walks import PathOptions, walk_all
from manifold_jax.information import Path, leaf_projection
from manifold_jax.models import pixels

ANCHORS = {
    "class": "nearest training image of the predicted class",
    "any": "nearest training image",
    "mean": "mean of the predicted class",
}
SHORT = {"class": "nearest of class", "any": "nearest image", "mean": "class mean"}
"""Anchors in figures and tables."""

_COLUMNS = 10_000  # training images whose distances are held at once
_LEAST_ERROR = 1e-10  # mean squared error of 100 dB, the largest ratio that is reported


def training_images(data: LabelledImages, rows: Any = slice(None)) -> LabelledImages:
    """Some rows of a data set, with pixels in [0, 1]."""
    return data._replace(images=np.asarray(pixels(data.images[rows])), labels=data.labels[rows])


def require_classes(classes: Int[Any, "k"], training: LabelledImages) -> None:
    """Raise unless there is a training image of every class."""
    missing = np.setdiff1d(classes, training.labels)
    if missing.size:
        raise ValueError(f"there is no training image of class {missing[0]}: take more training images.")


def split(
    data: LabelledImages, validation: int, training: int, seed: int
) -> tuple[LabelledImages, LabelledImages]:
    """Training images drawn at random: some to choose options by, then at most ``training`` others."""
    count = len(data.labels)
    whole("leaf", "validation", validation, most=count - 1)
    order = np.random.default_rng(seed).permutation(count)
    rest = order[validation : validation + training]
    return training_images(data, order[:validation]), training_images(data, rest)


def nearest(
    images: Images, training: LabelledImages, classes: Int[Any, "k"] | None = None
) -> tuple[Int[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """Rows of the nearest training images, of given classes if there are any, and Euclidean distances."""
    rows, others = flat(images), flat(training.images)
    if classes is not None:
        require_classes(classes, training)
    best, least = np.zeros(len(rows), int), np.full(len(rows), np.inf)
    for begin in range(0, len(others), _COLUMNS):
        part = others[begin : begin + _COLUMNS]
        squares = np.sum(part**2, axis=1) - 2 * rows @ part.T
        if classes is not None:
            squares[classes[:, None] != training.labels[None, begin : begin + _COLUMNS]] = np.inf
        at = squares.argmin(axis=1)
        value = squares[np.arange(len(rows)), at]
        best, least = np.where(value < least, at + begin, best), np.minimum(value, least)
    return best, np.linalg.norm(rows - others[best], axis=1)


def anchors_of(kind: str, images: Images, predicted: Int[Any, "k"], training: LabelledImages) -> Images:
    """Where projections of images start: training images, on the leaf of valid data, or means of classes."""
    if choice("leaf", "anchors", kind, ANCHORS) != "mean":
        return training.images[nearest(images, training, predicted if kind == "class" else None)[0]]
    require_classes(predicted, training)
    classes, of = np.unique(predicted, return_inverse=True)
    return np.stack([training.images[training.labels == c].mean(axis=0) for c in classes])[of]


def require_anchors(caller: str, kinds: Sequence[str]) -> None:
    """Raise unless there are kinds of anchors."""
    if not kinds:
        raise ValueError(f"{caller}: anchors must hold some of {', '.join(ANCHORS)}, got none.")
    for kind in kinds:
        choice(caller, "anchors", kind, ANCHORS)


def project_from_anchors(
    log_prob: Partial,
    images: Images,
    training: LabelledImages,
    settings: Any,
    progress: Progress,
    **how: Any,
) -> dict[str, Path]:
    """Project images onto the leaves of their anchors, for every kind in ``settings.anchors``.

    Other options are those of :func:`walk_all`.
    """
    predicted, projections = predictions(log_prob, images), {}
    for k, kind in enumerate(settings.anchors):
        ends = (anchors_of(kind, images, predicted, training), images)
        tell = stage(progress, k, len(settings.anchors))
        projections[kind] = walk_all(leaf_projection, log_prob, ends, settings.path, tell, **how)
    return projections


def describe_projections(kind: str, path: Path, options: PathOptions) -> str:
    """How many projections came to an end, and how far they left the leaf."""
    return (
        f"From the {ANCHORS[kind]}: {np.mean(path.converged):.0%} of the chords were vertical (horizontal "
        f"share at most {options.stationarity:g}) within {options.max_steps} steps of "
        f"{options.step_size:g}; median horizontal share {np.median(path.horizontal):.3f}; drift off the "
        f"leaf {np.sum(path.drift):.2g} of {np.sum(path.length):.3g} walked"
    )


def psnr(images: Images, clean: Images) -> Float[np.ndarray, "n"]:
    """Peak signal-to-noise ratio -10 log10(mean squared error) of pixels in [0, 1], in dB; at most 100."""
    errors = np.mean(flat(images - clean) ** 2, axis=1)
    return -10 * np.log10(np.maximum(errors, _LEAST_ERROR))


class Subspace(NamedTuple):
    """Principal components: the mean ``(m,)``, orthonormal rows ``(k, m)`` and variances ``(k,)``."""

    mean: np.ndarray
    rows: np.ndarray
    variance: np.ndarray

    def project(self, images: Images, count: int) -> Images:
        """Orthogonal projection onto the affine space of the mean and the first ``count`` components."""
        rows = self.rows[:count]
        centred = flat(images) - self.mean
        return (self.mean + centred @ rows.T @ rows).reshape(images.shape).astype(images.dtype)


def principal_subspace(training: LabelledImages) -> Subspace:
    """The principal components of training images, by descending variance."""
    points = flat(training.images).astype(np.float64)
    mean = points.mean(axis=0)
    covariance = (points.T @ points - len(points) * np.outer(mean, mean)) / (len(points) - 1)
    variance, columns = np.linalg.eigh(covariance)
    count = min(points.shape)
    return Subspace(mean, columns[:, ::-1].T[:count], np.maximum(variance[::-1][:count], 0))


def denoise_tv(images: Images, weight: float) -> Images:
    """Total-variation denoising (A. Chambolle, J. Math. Imaging Vis. 20, 2004), by scikit-image."""
    denoise = require("skimage.restoration", "cli", "Total variation").denoise_tv_chambolle
    channels = -1 if images.ndim == 4 else None
    smooth = [denoise(image, weight=weight, channel_axis=channels) for image in images]
    return np.stack(smooth).astype(images.dtype)


def max_softmax_score(log_p: Float[np.ndarray, "n C"]) -> Float[np.ndarray, "n"]:
    """-max_y log p_y (Hendrycks & Gimpel, ICLR 2017)."""
    return -log_p.max(axis=1)


def energy_score(logits: Float[np.ndarray, "n C"]) -> Float[np.ndarray, "n"]:
    """-log sum_y exp(logit_y), the free energy at temperature 1 (Liu et al., NeurIPS 2020)."""
    return -np.logaddexp.reduce(logits, axis=1)


def mahalanobis_score(
    features: Float[Any, "n m"], training: Float[Any, "k m"], labels: Int[Any, "k"]
) -> Float[np.ndarray, "n"]:
    """min_c (f - mean_c)^T precision (f - mean_c) (Lee et al., NeurIPS 2018, section 2.1 and equation 2).

    Means of the classes that occur and the one covariance are those of the features of training images.
    Directions without variance, such as units that never fire, do not count.
    """
    training = training.astype(np.float64)
    classes, of = np.unique(labels, return_inverse=True)
    means = np.stack([training[of == k].mean(axis=0) for k in range(len(classes))])
    within = training - means[of]
    precision = np.linalg.pinv(within.T @ within / len(training), rcond=1e-8, hermitian=True)
    chords = features.astype(np.float64)[:, None] - means
    return np.einsum("nci,ij,ncj->nc", chords, precision, chords, optimize=True).min(axis=1)


def auroc(inside: Float[np.ndarray, "n"], outside: Float[np.ndarray, "m"]) -> tuple[float, float]:
    """Area under the receiver operating characteristic: probability that a score from outside is the higher.

    Ties count half. The standard error is that of Hanley & McNeil (Radiology 143, 1982), 0 at areas 0 and 1.
    """
    n, m, ranked = len(inside), len(outside), np.sort(inside)
    below = sum(np.searchsorted(ranked, outside, side).mean() for side in ("left", "right"))
    area = float(below) / (2 * n)
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    square = area * (1 - area) + (m - 1) * (first - area**2) + (n - 1) * (second - area**2)
    return area, max(square / (n * m), 0.0) ** 0.5
