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
# # A beta-VAE layer by layer
#
# The images of a heart that grows and turns are a surface whose geometry is known exactly. A beta-VAE learns it; what
# do its layers make of volume, curvature and reach? (Koulakis & Seibold, ICML 2026, ask this of sampled latents; here
# the latent is its mean, so that every layer is a function of the factors and has exact derivatives.)
#
# 1. Images with known factors, and a network.
# 2. Volume and curvature of every layer, by jets pushed from layer to layer.
# 3. ReLU: a curvature that depends on the spacing.
# 4. A network of your own, as a list of functions.

# %%
# %matplotlib inline
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from matplotlib import pyplot as plt

from manifold_jax import measure_layers
from manifold_jax.datasets import sprite
from manifold_jax.models import BetaVAE, Objective, beta_vae_loss, chain, network_layers, pure, train

REDUCED = bool(os.environ.get("MANIFOLD_JAX_REDUCED"))  # continuous integration runs a smaller version

# %% [markdown]
# ## 1. Images and a network
#
# Two factors, scale and orientation; 16 x 16 pixels keep it quick. Softplus instead of ReLU keeps the image of the
# surface smooth in every layer.

# %%
size, steps = 16, 100 if REDUCED else 2000
heart = sprite(
    "heart", factors=("scale", "orientation"), layout="balanced", size=size, ranges={"scale": (0.75, 1.5)}
)
low, high = (np.array([getattr(axis, end) for axis in heart.grid.axes]) for end in ("start", "stop"))
factors = jax.random.uniform(jax.random.key(0), (1000, 2), minval=low, maxval=high)
images = jax.jit(lambda u: jax.lax.map(heart.embedding, u, batch_size=50))(factors)

vae = BetaVAE(size=size, width=8, hidden=32, latent=4, activation=nnx.softplus, rngs=nnx.Rngs(0))
apply, params = pure(vae)
objective = Objective("B", gamma=10.0, capacity=8.0, capacity_steps=steps)
run = train(
    beta_vae_loss(apply, objective),
    params,
    (images,),
    key=jax.random.key(1),
    steps=steps,
    batch_size=32,
    optimizer=optax.adam(1e-3),
)
print({name: float(values[-10:].mean()) for name, values in run.metrics.items()})

# %%
network = pure(vae)._replace(params=run.params)
back = jax.vmap(apply, (None, 0))(run.params, images[:6])
figure, axes = plt.subplots(2, 6, figsize=(9, 3.2))
for k in range(6):
    axes[0, k].imshow(images[k], cmap="gray", vmin=0, vmax=1)
    axes[1, k].imshow(back[k, ..., 0], cmap="gray", vmin=0, vmax=1)
for at, word in zip(axes[:, 0], ("image", "reconstruction"), strict=True):
    at.set_ylabel(word)
for at in axes.flat:
    at.set_xticks([])
    at.set_yticks([])

# %% [markdown]
# ## 2. Every layer
#
# `network_layers` names the layers and gives each as a function of the activation before it; `measure_layers` pushes
# the derivatives X_i and X_ij of the surface through them, Y_ij = Df X_ij + D²f(X_i, X_j), a batch of points at a time.

# %%
layers = network_layers(network)
before = network_layers(pure(vae))
reports = {
    "random weights": measure_layers(heart, before.functions, before.names),
    f"after {steps} steps": measure_layers(heart, layers.functions, layers.names),
}

# %%
names = [report.name for report in reports["random weights"]]
figure, axes = plt.subplots(1, 2, figsize=(12, 4.2))
for label, parts in reports.items():
    volume = np.array([float(part.total_volume.value) for part in parts])
    norm = np.array([float(jnp.median(part.second_form_norm.value)) for part in parts])
    axes[0].semilogy(volume, "o-", label=label)
    axes[1].semilogy(norm * volume**0.5, "o-", label=label)  # as if the surface had unit area
for at, word in zip(axes, ("area", "median |II|, scaled to unit area"), strict=True):
    at.set_title(word)
    at.set_xticks(range(len(names)), names, rotation=60, ha="right")
    at.grid(alpha=0.3)
axes[0].legend()
plt.show()

# %% [markdown]
# The area spans orders of magnitude and says little by itself: layers scale. What has no unit is the curvature at unit
# area. Compare the two curves: what a network with random weights does already is no sign of learning.
#
# ## 3. ReLU
#
# After a ReLU the surface is made of smooth pieces with kinks between them. A second difference across a kink is the
# jump of the tangent over the spacing: the largest "curvature" grows like the number of samples, for ever.

# %%
weights = jax.random.normal(jax.random.key(2), (20, 2))
for activation in (nnx.relu, nnx.softplus):
    largest = []
    for count in (64, 128, 256, 512):
        angle = 2 * np.pi * np.arange(count) / count
        curve = np.asarray(
            activation(jnp.stack([np.cos(angle), np.sin(angle)], axis=-1) @ weights.T), np.float64
        )
        second = (np.roll(curve, 1, 0) - 2 * curve + np.roll(curve, -1, 0)) / (2 * np.pi / count) ** 2
        largest.append(np.linalg.norm(second, axis=1).max())
    print(
        f"{activation.__name__:9s} largest second difference at 64, 128, 256, 512 samples: {np.round(largest, 1)}"
    )

# %% [markdown]
# ## 4. Your own network
#
# Any list of functions will do. `chain` checks that their shapes fit; parameters bound with `jax.tree_util.Partial`
# can change without a new compilation.

# %%
mine = chain(
    {"blurred": lambda x: (x + jnp.roll(x, 1, 0)) / 2, "flat": jnp.ravel, "log": jnp.log1p}, (size, size)
)
for report in measure_layers(heart, mine.functions, mine.names):
    print(f"{report.name:8s} area {report.total_volume.value:8.3f} +- {report.total_volume.error:.1e}")
