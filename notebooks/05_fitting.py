# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From samples back to manifolds
#
# How far is a manifold that was fitted to n samples from the true one, and how does that depend on n? What do published
# rates and bounds say? And whose estimate of curvature, volume or dimension from samples can be trusted? On manifolds
# whose geometry is known these are measurements.
#
# 1. Two fits and their distance from the truth.
# 2. Errors against n, a slope with its interval, the rates next to it.
# 3. An explicit bound, and where it says nothing.
# 4. Estimators against exact geometry, and your own among them.

# %%
# %matplotlib inline
import os

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt

from manifold_jax.datasets import circle, ellipse, sample_uniform
from manifold_jax.fitting import (
    agnostic_mean_squared_bound,
    builtin_estimators,
    calibrate,
    compare_rates,
    fit_distances,
    local_pca_projection,
    moving_least_squares,
    ranking,
    slope,
)

REDUCED = bool(os.environ.get("MANIFOLD_JAX_REDUCED"))  # continuous integration runs a smaller version

# %% [markdown]
# ## 1. Two fits
#
# `local_pca_projection` projects once on the principal plane of the nearest samples. `moving_least_squares` (Sober & Levin)
# iterates base point and plane, then fits a polynomial over the plane. Each takes samples and gives a function that
# projects points.

# %%
curve = ellipse((2.0, 1.0))
samples = sample_uniform(jax.random.key(0), curve, 200).points
test = sample_uniform(jax.random.key(1), curve, 200).points
fits = {
    "local PCA": local_pca_projection(samples, dimension=1),
    "moving least squares, degree 2": moving_least_squares(samples, dimension=1, degree=2),
}
for name, project in fits.items():
    result = fit_distances(project, curve, test)
    print(
        f"{name:31s} RMS distance {result.forward.rms:.1e}, largest {result.forward.maximum:.1e}, "
        f"Hausdorff {result.hausdorff:.1e}"
    )

# %% [markdown]
# `forward` is from the fitted points to the ellipse itself, whose nearest points are found by Newton steps in the
# chart; the Hausdorff distance is the larger of this and of the way back.
#
# ## 2. Errors against n

# %%
sizes, seeds = (50, 100, 200, 400), 3 if REDUCED else 10
errors = {"local PCA": [], "moving least squares, degree 2": []}
for size in sizes:
    row = {name: [] for name in errors}
    for seed in range(seeds):
        cloud = sample_uniform(jax.random.key(100 + seed), curve, size).points
        for name, fit in (
            ("local PCA", local_pca_projection(cloud, dimension=1)),
            ("moving least squares, degree 2", moving_least_squares(cloud, dimension=1, degree=2)),
        ):
            row[name].append(float(fit_distances(fit, curve, test).hausdorff))
    for name, values in row.items():
        errors[name].append(values)
figure, at = plt.subplots(figsize=(6, 4))
for name, values in errors.items():
    values = np.array(values)
    at.loglog(sizes, np.median(values, axis=1), "o-", label=name)
    at.fill_between(sizes, values.min(1), values.max(1), alpha=0.2)
at.set_xlabel("samples")
at.set_ylabel("Hausdorff distance")
at.legend()
at.grid(alpha=0.3)

# %%
for name, values in errors.items():
    fitted = slope(sizes, np.array(values), key=jax.random.key(2))
    print(f"{name}: slope {fitted.value:.2f}, 95 % interval {fitted.lower:.2f} to {fitted.upper:.2f}")
    for support in compare_rates(fitted, 1, loss="Hausdorff distance"):
        if support.supported:
            note = "" if support.rate.verified else ", an exponent that was not verified"
            print(f"    agrees with {support.rate.name}{note}")

# %% [markdown]
# A noiseless rate n^(-2/d) for a plane, n^(-3/d) and better for degree 2: without noise, the exponent is that of the
# *fit*. The perpendicular-noise rate 2 / (2 + d), drawn next to such data in the literature, is not what they follow.
#
# ## 3. An explicit bound
#
# Fefferman, Mitter & Narayanan bound the *mean squared* distance by volume, reach and n, up to a constant C that is not
# known: it must be given, and the result says where the bound is vacuous.

# %%
for size in (100, 10_000, 1_000_000):
    bound = agnostic_mean_squared_bound(size, 2 * np.pi, 1.0, 1, radius=1.0, constant=1.0, delta=0.05)
    print(
        f"n = {size:9,d}: RMS distance at most {bound.root_mean_square:.2f}, vacuous: {bool(bound.vacuous)}"
    )

# %% [markdown]
# ## 4. Calibration
#
# An estimator is a function of samples. Here a user's own, the length of a closed curve from its polygon, next to the
# built-in one from distances to neighbours.


# %%
def polygon(points, *, dimension):
    order = jnp.argsort(jnp.arctan2(points[:, 1], points[:, 0]))
    return jnp.sum(jnp.linalg.norm(points[order] - points[jnp.roll(order, 1)], axis=1))


estimators = [("volume", polygon), *builtin_estimators("volume")]
table = calibrate(estimators, [circle(), curve], [100, 400], key=jax.random.key(3), seeds=range(3))
for place in ranking(table):
    print(f"{place.manifold:10s} {place.estimator:20s} relative error {place.error:.1e}")

# %% [markdown]
# `table.to_dicts()` is a tidy table for a data frame; `manifold-jax calibrate` does the same for all built-in estimators on
# spheres, a torus, a hyperboloid and sprites, and `manifold-jax bounds` the first half of this notebook at length.
