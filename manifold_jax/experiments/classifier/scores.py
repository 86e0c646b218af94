"""Scores of how unlike the training data an input is; the larger, the more unlike."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class ClassGaussians(NamedTuple):
    """Class means with a shared covariance.

    Attributes:
        means: ``(C, m)``.
        precision: Pseudo-inverse of the covariance within classes ``(m, m)``.
    """

    means: Float[np.ndarray, "C m"]
    precision: Float[np.ndarray, "m m"]


def max_softmax_score(log_p: Float[np.ndarray, "n C"]) -> Float[np.ndarray, "n"]:
    """-max_y log p_y (Hendrycks & Gimpel, ICLR 2017)."""
    return -log_p.max(axis=1)


def energy_score(logits: Float[np.ndarray, "n C"]) -> Float[np.ndarray, "n"]:
    """-log sum_y exp(logit_y), the free energy at temperature 1 (Liu et al., NeurIPS 2020)."""
    top = logits.max(axis=1)
    return -(top + np.log(np.sum(np.exp(logits - top[:, None]), axis=1)))


def class_gaussians(features: Float[np.ndarray, "n m"], labels: Int[np.ndarray, "n"]) -> ClassGaussians:
    """Fit class means and one covariance to features (Lee et al., NeurIPS 2018, section 2.1).

    Args:
        features: Of training images.
        labels: Their classes.

    Returns:
        Means of the classes that occur; directions without variance, such as units that never fire, do not
        count.
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


def subspace_score(
    images: Float[np.ndarray, "n m"], mean: Float[np.ndarray, "m"], rows: Float[np.ndarray, "k m"]
) -> Float[np.ndarray, "n"]:
    """Distance to the affine subspace through ``mean`` along orthonormal rows."""
    chords = images - mean
    return np.linalg.norm(chords - chords @ rows.T @ rows, axis=1)


def auroc(inside: Float[np.ndarray, "n"], outside: Float[np.ndarray, "m"]) -> tuple[float, float]:
    """Area under the receiver operating characteristic, with its standard error.

    Args:
        inside: Scores of inputs like the training data.
        outside: Scores of others.

    Returns:
        The probability that one from outside scores higher, ties counted half; and the standard error of
        Hanley & McNeil (Radiology 143, 1982), which is 0 where the area is 0 or 1.
    """
    try:
        from sklearn.metrics import roc_auc_score
    except ImportError:
        raise ImportError('areas come from scikit-learn: pip install "manifold_jax[cli]".') from None
    truth = np.repeat([0, 1], [len(inside), len(outside)])
    area = float(roc_auc_score(truth, np.concatenate([inside, outside])))
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    square = (
        area * (1 - area) + (len(outside) - 1) * (first - area**2) + (len(inside) - 1) * (second - area**2)
    ) / (len(inside) * len(outside))
    return area, max(square, 0.0) ** 0.5


def rank_correlation(a: Float[np.ndarray, "n"], b: Float[np.ndarray, "n"]) -> float:
    """Spearman's, ties in the order of their places; NaN for a constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    first, second = (np.argsort(np.argsort(values, kind="stable")) for values in (a, b))
    return float(np.corrcoef(first, second)[0, 1])
