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
# # Reach: curvature or bottleneck
#
# The reach τ is the largest radius up to which every point near the manifold has one nearest point on it. All
# bounds on fitting a manifold to samples live on it. It is small for one of two reasons: the manifold bends
# sharply (*local*, τ = 1 / largest normal curvature), or two parts of it come close (*global*, τ = half the
# length of a *bottleneck*, a chord that is normal at both ends).
#
# 1. One family of curves, both reasons.
# 2. The field of largest empty tangent balls, and who stops them.
# 3. Samples without a grid, and what rounding does to them.
# 4. Images.

# %%
# %matplotlib inline
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt

from manifold_jax import Axis, Grid, reach, reach_from_samples
from manifold_jax.datasets import helix, sprite, two_moons
from manifold_jax.plotting import plot_reach

REDUCED = bool(os.environ.get("MANIFOLD_JAX_REDUCED"))  # continuous integration runs a smaller version

# %% [markdown]
# ## 1. A helix that is pulled out
#
# A tight helix is limited by the gap between its turns, a loose one by its radius of curvature. `reach` finds
# both parts and says which decides. The lines are the closed form.

# %%
pitches = np.geomspace(0.5, 12.0, 5 if REDUCED else 13)
results = [reach(helix(1.0, float(p), size=192), longest=20.0) for p in pitches]
exact = [helix(1.0, float(p), size=192).known["reach"] for p in pitches]

figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
axes.loglog(pitches, [r.local for r in results], "o", color="#0072B2", label="local: 1 / curvature")
axes.loglog(
    pitches, [r.bottleneck for r in results], "s", color="#D55E00", label="half the shortest bottleneck"
)
axes.loglog(pitches, exact, "k-", lw=1, label="reach, closed form")
axes.set(xlabel="pitch (radius 1)", ylabel="length", title="Helix: what limits the reach")
axes.legend()
plt.show()
worst = max(abs(r.value - t) / t for r, t in zip(results, exact, strict=True))
print(f"largest relative error {worst:.1e}; cases: {[r.case for r in results]}")

# %% [markdown]
# ## 2. Every point has its ball
#
# At every point, `pointwise` is the radius of the largest ball that touches the manifold there and holds no other
# point of it; `witness` is the point that stops it (the point itself where curvature does). For two half moons
# the end of one points straight at the top of the other. Ends are borders: there a half line takes the place of the
# tangent line.

# %%
moons = two_moons(size=128)
result = reach(moons)
print(result.sentence())
plot_reach(moons, result)

# %% [markdown]
# ## 3. Samples alone
#
# Without a grid there are only pairs of samples. The plug-in estimator takes the smallest ratio
# |y - x|² / (2 d(y - x, T)), which with exact tangents can only be too large. Close pairs are nothing but
# rounding and noise; they are left out by their own error bound, so that more samples never make it collapse.
# Local fits of several sizes tell noise, tangents and an interval of the largest curvature: the bar holds all of these,
# and where the samples are too few it says so.

# %%
sizes = (128, 512, 2048) if REDUCED else (128, 512, 2048, 8192, 32768)
rows = []
for n in sizes:
    t = jax.random.uniform(jax.random.key(n), (n,), maxval=2 * math.pi)
    points = jnp.stack([2 * jnp.cos(t), jnp.sin(t)], axis=-1)
    tangents = jnp.stack([-2 * jnp.sin(t), jnp.cos(t)], axis=-1)[:, None]
    given = reach_from_samples(points, tangents, dimension=1)
    estimated = reach_from_samples(points, dimension=1) if n <= 8192 else None
    rows.append((n, given, estimated))
print("ellipse 2 : 1 in float32, reach 0.5")
for n, given, estimated in rows:
    print(f"n = {n:6d}   tangents given {given.value:.4f} +- {given.error:.4f}", end="   ")
    print(f"estimated {estimated.value:.4f} +- {estimated.error:.4f}" if estimated else "")

# %% [markdown]
# ## 4. Images
#
# A heart that grows and turns: 64 x 64 pixels, so R⁴⁰⁹⁶. The two images side by side are the pair that decides,
# or the place where the images bend most.

# %%
lattice = {"scale": 5, "orientation": 32} if REDUCED else {"scale": 9, "orientation": 72}
heart = sprite("heart", factors=("scale", "orientation"), sizes=lattice)
images = reach(heart)
print(images.sentence())
plot_reach(heart, images)

# %% [markdown]
# An ellipse looks the same after half a turn. Taken over a full turn it is covered twice; points coincide, and a
# search that does not notice finds a reach near 0. Here coincident points are counted and left out, or, declared,
# quotiented out.

# %%
twice = sprite("ellipse", factors=("orientation",), full_turn=True, sizes={"orientation": 96})
print("undeclared:", reach(twice).sentence())
print("declared:  ", reach(twice, copies={"orientation": 2}).sentence())

# %% [markdown]
# The same on a grid of your own points: any array with its `Grid`.

# %%
angle = np.linspace(0, 2 * math.pi, 200, endpoint=False)
curve = np.stack([np.cos(angle), np.sin(angle) * (0.35 + 0.65 * np.cos(angle) ** 2)], axis=-1)  # a peanut
grid = Grid((Axis("angle", 0.0, 2 * math.pi, 200, periodic=True),))
print(reach(curve, grid).sentence())
