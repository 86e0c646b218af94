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
# # Measuring a manifold, and knowing when not to believe the result
#
# 1. Measure an embedding of your own in five lines.
# 2. Measure a manifold of images: a sprite that grows, turns and moves.
# 3. Make the grid too coarse, and watch the error bars say so.

# %%
# %matplotlib inline
import math
import os

import jax
import jax.numpy as jnp
import numpy as np

from manifold_jax import Axis, Grid, measure
from manifold_jax.datasets import sprite
from manifold_jax.plotting import plot_comparison, plot_histograms, plot_maps, plot_samples

REDUCED = bool(os.environ.get("MANIFOLD_JAX_REDUCED"))  # continuous integration runs a smaller version

# %% [markdown]
# ## 1. Your own embedding
#
# Any JAX function from chart coordinates to an array is an embedding. A trefoil tube, say: a torus whose
# core is a knot. Nothing is known about it in closed form.


# %%
def tube(u, radius=0.6):
    """Tube around a trefoil knot, by a frame that turns with it; radius 0 is the knot itself."""

    def knot(t):
        return jnp.stack([jnp.sin(t) + 2 * jnp.sin(2 * t), jnp.cos(t) - 2 * jnp.cos(2 * t), -jnp.sin(3 * t)])

    if radius == 0.0:
        return knot(u[0])
    tangent = jax.jacfwd(knot)(u[0])
    side = jnp.cross(tangent, jnp.array([0.0, 0.0, 1.0], u.dtype))
    side = side / jnp.linalg.norm(side)
    up = jnp.cross(side, tangent) / jnp.linalg.norm(tangent)
    return knot(u[0]) + radius * (jnp.cos(u[1]) * side + jnp.sin(u[1]) * up)


tube_grid = Grid(
    (Axis("along", 0, 2 * math.pi, 240, periodic=True), Axis("around", 0, 2 * math.pi, 48, periodic=True))
)
result = measure(tube, tube_grid, name="trefoil tube")
print(result.summary())

# %% [markdown]
# The total scalar curvature of a closed torus is zero whatever its shape (Gauss-Bonnet): the measured value
# is zero within its bar. The area of a tube is 2 pi r times the length of its core (Weyl). Where the
# curvature sits, the maps show.

# %%
core = measure(lambda u: tube(u, radius=0.0), Grid(tube_grid.axes[:1]), name="core")
area = 2 * math.pi * 0.6 * float(core.total_volume.value)
print(f"area measured {float(result.total_volume.value):.3f}, by Weyl's formula {area:.3f}")
plot_maps(result)

# %% [markdown]
# ## 2. A manifold of images
#
# `sprite` renders a blurred shape exactly, as a smooth function of its factors: no rasterisation, so its
# derivatives exist. The `dense` layout is fine enough for fourth-order stencils. Positions run over one pixel
# only, because away from the frame the metric repeats with every pixel: volumes are per pixel of y and of x.

# %%
factors = ("scale", "orientation") if REDUCED else ("scale", "orientation", "y", "x")
ellipse = sprite("ellipse", factors=factors)
plot_samples(ellipse)

# %%
geometry = measure(ellipse)
print(geometry.summary())
plot_histograms(geometry)

# %% [markdown]
# The extrinsic curvature is well measured. The scalar curvature is tiny next to |II|^2: this manifold is curved
# in image space but nearly flat in itself, and its sign takes a finer stencil (or automatic differentiation).

# %% [markdown]
# ## 3. Too coarse
#
# Eight orientations per half turn move the outline by several blur widths a step. A difference quotient
# still returns a number; only the bar tells that it is meaningless, and which axis to refine.

# %%
coarse = sprite("ellipse", factors=("scale", "orientation"), sizes={"orientation": 8})
guess = measure(coarse)
truth = measure(coarse, exact=True)
for name in ("volume_element", "scalar_curvature", "second_form_norm"):
    print(f"{name}: {guess.verdict(name).sentence}")
plot_comparison(guess, truth)

# %% [markdown]
# Refining the blamed axis, and nothing else, repairs it.

# %%
for samples in (8, 16, 32, 64):
    manifold = sprite("ellipse", factors=("scale", "orientation"), sizes={"orientation": samples})
    estimate = measure(manifold).volume_element
    exact = measure(manifold, exact=True).volume_element.value
    error = float(np.median(np.abs(estimate.value / exact - 1)))
    bar = float(np.median(np.asarray(estimate.error / exact)))
    print(f"{samples:3d} orientations: true error {error:8.2%}, bar {bar:8.2%}")
