"""The fits that are compared: one signature, samples in, a projection out."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from manifold_jax.fitting.moving_least_squares import moving_least_squares
from manifold_jax.fitting.projections import local_pca_projection
from manifold_jax.geometry.neighbours import DIRECT_FEATURES
from manifold_jax.models.manifold_fits import denoising_autoencoder, variational_autoencoder

FAR = 1e5
"""Where samples that fill up an array lie, in units of the largest coordinate: they get no weight."""


class Fit(NamedTuple):
    """One way to fit a manifold.

    Attributes:
        about: In words.
        least: Least number of samples, a function of d and of whether they are images.
        make: ``make(samples, dimension, images, key, steps) -> project``.
        order: k of the error h^k in the fill distance h that theory gives; None for networks.
        network: Whether it is trained.
    """

    about: str
    least: Callable[[int, bool], int]
    make: Callable[..., Any]
    order: int | None
    network: bool = False


def _pca_count(dimension: int, images: bool) -> int:
    return max(6, 2 * 2**dimension)


def _reference_count(dimension: int, images: bool) -> int:
    return 2 * 2**dimension if images else 5


def _pca(samples: Any, dimension: int, images: bool, key: Array, steps: int) -> Any:
    return local_pca_projection(samples, dimension=dimension)


def _reference(samples: Any, dimension: int, images: bool, key: Array, steps: int) -> Any:
    count = _reference_count(dimension, images)
    return local_pca_projection(
        samples, dimension=dimension, neighbours=count, weights="exponential", sigma=1.0
    )


def _mls_count(degree: int, dimension: int, images: bool) -> int:
    return 2 * math.comb(dimension + degree, degree) + 2 * dimension


def _mls(degree: int, samples: Any, dimension: int, images: bool, key: Array, steps: int) -> Any:
    return moving_least_squares(samples, dimension=dimension, degree=degree)


def _network(fit: Any, samples: Any, dimension: int, images: bool, key: Array, steps: int) -> Any:
    # Networks are trained in single precision, also where all else is double.
    with jax.enable_x64(False):
        return fit(np.asarray(samples, np.float32), dimension=dimension, key=key, steps=steps)


def _two(dimension: int, images: bool) -> int:
    return 2


FITS: dict[str, Fit] = {
    "pca": Fit("local PCA, Gaussian weights, the larger of 6 and 2 * 2^d neighbours", _pca_count, _pca, 2),
    "ref": Fit(
        "local PCA as in manifold-microscope: exp(-distance / 2), 5 neighbours (images 2 * 2^d)",
        _reference_count,
        _reference,
        2,
    ),
    **{
        f"mmls{m}": Fit(
            f"manifold moving least squares of degree {m}", partial(_mls_count, m), partial(_mls, m), m + 1
        )
        for m in (1, 2, 3)
    },
    "dae": Fit("denoising autoencoder", _two, partial(_network, denoising_autoencoder), None, True),
    "vae": Fit("beta-VAE, decoded means", _two, partial(_network, variational_autoencoder), None, True),
}


def fitted(name: str, samples: np.ndarray, largest: int, dimension: int, key: Array, steps: int) -> Any:
    """Fit samples; where it can be done without changing the fit, in arrays of one size.

    One array shape for all sizes is one compilation. Local fits get samples so far away that no weight
    reaches them, networks each sample a whole number of times: as often in an epoch.

    Args:
        name: Of the fit.
        samples: ``(n, *features)``.
        largest: Most samples of the experiment.
        dimension: d.
        key: Of networks.
        steps: Of networks.

    Returns:
        ``project``.
    """
    fit, n = FITS[name], len(samples)
    images = samples.ndim > 2
    if fit.network:
        samples = (
            np.tile(samples, (largest // n, *(1,) * (samples.ndim - 1))) if largest % n == 0 else samples
        )
    elif n < largest and samples.ndim == 2 and samples.shape[1] <= DIRECT_FEATURES:
        far = FAR * max(1.0, float(np.abs(samples).max()))
        samples = np.concatenate([samples, np.full((largest - n, samples.shape[1]), far, samples.dtype)])
    return fit.make(samples, dimension, images, key, steps)
