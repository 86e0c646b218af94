"""The fits that are compared: one signature, samples in, a projection out."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from manifold_jax.fitting import local_pca_projection, moving_least_squares
from manifold_jax.geometry.neighbours import DIRECT_FEATURES
from manifold_jax.models.manifold_fits import denoising_autoencoder, variational_autoencoder

FAR = 1e5  # where samples that fill up an array lie, over the largest coordinate: they get no weight


class Fit(NamedTuple):
    """One way to fit a manifold; a network has neither an order nor neighbours."""

    about: str
    make: Callable[..., Any]  # of samples and dimension=
    order: int | None = None  # k of the error h^k in the fill distance h that theory gives
    # Number of neighbours from d and whether samples are images; a fit needs as many samples.
    neighbours: Callable[[int, bool], int] | None = None

    @property
    def network(self) -> bool:
        """Whether it is trained, instead of looking at neighbours."""
        return self.neighbours is None

    def least(self, dimension: int, images: bool) -> int:
        """Least number of samples."""
        return 2 if self.neighbours is None else self.neighbours(dimension, images)


FITS: dict[str, Fit] = {
    "pca": Fit(
        "local PCA, Gaussian weights, the larger of 6 and 2 * 2^d neighbours",
        local_pca_projection,
        2,
        lambda dimension, images: max(6, 2 * 2**dimension),
    ),
    "ref": Fit(
        "local PCA as in manifold-microscope: exp(-distance / 2), 5 neighbours (images 2 * 2^d)",
        partial(local_pca_projection, weights="exponential", sigma=1.0),
        2,
        lambda dimension, images: 2 * 2**dimension if images else 5,
    ),
    **{
        f"mmls{m}": Fit(
            f"manifold moving least squares of degree {m}",
            partial(moving_least_squares, degree=m),
            m + 1,
            # Twice the terms of a polynomial, and some for the plane.
            lambda dimension, images, m=m: 2 * math.comb(dimension + m, m) + 2 * dimension,
        )
        for m in (1, 2, 3)
    },
    "dae": Fit("denoising autoencoder", denoising_autoencoder),
    "vae": Fit("beta-VAE, decoded means", variational_autoencoder),
}


def fit_samples(name: str, samples: np.ndarray, largest: int, dimension: int, key: Array, steps: int) -> Any:
    """Fit samples; where it can be done without changing the fit, in arrays of ``largest`` samples.

    One array shape for all sizes is one compilation. Local fits get samples so far away that no weight
    reaches them, networks each sample a whole number of times: as often in an epoch.
    """
    fit, n = FITS[name], len(samples)
    if fit.neighbours is None:
        if largest % n == 0:
            samples = np.tile(samples, (largest // n, *(1,) * (samples.ndim - 1)))
        # Networks are trained in single precision, also where all else is double.
        with jax.enable_x64(False):
            return fit.make(np.asarray(samples, np.float32), dimension=dimension, key=key, steps=steps)
    images = samples.ndim > 2
    if n < largest and not images and samples.shape[1] <= DIRECT_FEATURES:
        far = FAR * max(1.0, float(np.abs(samples).max()))
        samples = np.concatenate([samples, np.full((largest - n, samples.shape[1]), far, samples.dtype)])
    return fit.make(samples, dimension=dimension, neighbours=fit.neighbours(dimension, images))
