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
# # The manifold that a classifier sees
#
# A classifier with probabilities p(y|x) measures changes of its input by the *local data matrix*
# G(x) = E_y[∇ log p ∇ log pᵀ]: KL(p(x+dx) ‖ p(x)) = ½ dxᵀ G dx + O(|dx|³). Its rank is at most C − 1. The
# directions it sees span the *distribution* D_x; where they fit together they foliate the space of images into
# *leaves* (Grementieri & Fioresi, SIAM J. Imaging Sci. 15, 2022).
#
# 1. A network of any library, as a function of one image.
# 2. G: trace, spectrum, rank, and its eigenvectors as images.
# 3. Across the leaves: noise that the network does not see.
# 4. Along a leaf: how near can one come to another image?
# 5. Is there a foliation at all?
#
# It runs on MNIST if `MANIFOLD_JAX_DATA` names a folder with its files, else on the 8 x 8 digits of scikit-learn.

# %%
# %matplotlib inline
import os

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import Partial
from matplotlib import pyplot as plt

from manifold_jax import (
    check_log_prob,
    fisher_rao_distance,
    horizontal_path,
    involutivity_defect,
    local_data_rank,
    local_data_spectrum,
    output_length,
    path_length,
    vertical_walk,
)
from manifold_jax.models import LeNet, classification_loss, pixels, pure, train

REDUCED = bool(os.environ.get("MANIFOLD_JAX_REDUCED"))  # continuous integration runs a smaller version

# %%
if os.environ.get("MANIFOLD_JAX_DATA"):
    from manifold_jax.datasets import mnist

    data = mnist()
    images, labels, steps = data.images, data.labels, 2000
else:
    from sklearn.datasets import load_digits

    pictures, labels = load_digits(return_X_y=True)
    images, steps = (pictures.reshape(-1, 8, 8) / 16).astype(np.float32), 1500
steps = 100 if REDUCED else steps
held_out = 100
print(images.shape)

# %% [markdown]
# ## 1. A function of one image
#
# `pure` splits a Flax NNX module into `apply(params, x)` and its parameters. `Partial(apply, params)` is the
# classifier: parameters travel as arguments, so that checkpoints of one network are compiled once.

# %%
apply, params = pure(LeNet(size=images.shape[1], rngs=nnx.Rngs(0)))
run = train(
    classification_loss(apply),
    params,
    (images[held_out:], labels[held_out:]),
    key=jax.random.key(0),
    steps=steps,
    callback=lambda step, metrics: (
        print(step, f"loss {metrics['loss'].mean():.3f}") if step % 500 == 0 else None
    ),
)
log_prob = Partial(apply, run.params)
x = pixels(images[:held_out])
check_log_prob(log_prob, x[0])
right = np.mean(np.asarray(jax.vmap(log_prob)(x).argmax(1)) == labels[:held_out])
print(f"{100 * right:.0f} % of {held_out} images that it has not seen are classified as labelled")

# %% [markdown]
# Any other library serves as well:
#
# ```python
# log_prob = Partial(linen_module.apply, variables)                         # Flax Linen
# params, static = eqx.partition(equinox_module, eqx.is_array)              # Equinox
# log_prob = Partial(lambda w, x: jax.nn.log_softmax(eqx.combine(w, static)(x)), params)
# log_prob = Partial(lambda w, x: jax.nn.log_softmax(w @ x.ravel()), w)     # a plain function
# ```

# %% [markdown]
# ## 2. The local data matrix
#
# G is n x n, but its factor has only C rows. Each eigenvector is an image: a change that the network feels.

# %%
few = x[:40]
values, vectors = jax.jit(jax.vmap(lambda image: local_data_spectrum(log_prob, image)))(few)
ranks = jax.jit(jax.vmap(lambda image: local_data_rank(log_prob, image)))(few)
print("rank of D:", np.unique(ranks.distribution), " rank of G:", np.unique(ranks.matrix))

figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
axes.semilogy(np.arange(1, 10), values.T[:9], color="#0072B2", alpha=0.3, lw=1)
axes.semilogy(np.arange(1, 10), np.median(values, axis=0)[:9], "k-", lw=2, label="median of 40 images")
axes.set(xlabel="number of the eigenvalue", ylabel="eigenvalue of G", title="Nine directions, the tenth is 0")
axes.legend()
plt.show()

# %%
figure, grid = plt.subplots(3, 6, figsize=(9, 4.8), layout="constrained")
for k, row in enumerate(grid):
    row[0].imshow(few[k], cmap="gray", vmin=0, vmax=1)
    row[0].set_title(f"label {labels[k]}", fontsize=9)
    for j, at in enumerate(row[1:]):
        picture = np.asarray(vectors[k, j]).reshape(few[k].shape)
        largest = np.abs(picture).max()
        at.imshow(picture, cmap="RdBu_r", vmin=-largest, vmax=largest)
        at.set_title(f"λ = {values[k, j]:.2g}", fontsize=9)
for at in grid.ravel():
    at.set_axis_off()
figure.suptitle("Images, and the changes of them that the network feels most (red: +, blue: −)")
plt.show()

# %% [markdown]
# ## 3. Across the leaves
#
# A walk orthogonal to D_x adds noise, and p stays. The steps are finite: what changes is their error.

# %%
walk = vertical_walk(log_prob, x[0], jax.random.key(1), step_size=0.03, steps=200, save_every=40)
figure, row = plt.subplots(1, 6, figsize=(10, 2.4), layout="constrained")
for at, point, log_p, distance in zip(row, walk.points, walk.log_probs, walk.distances, strict=True):
    at.imshow(point, cmap="gray", vmin=0, vmax=1)
    at.set_title(f"distance {distance:.1f}\n{log_p.argmax()}: {100 * np.exp(log_p.max()):.1f} %", fontsize=9)
    at.set_axis_off()

# %% [markdown]
# ## 4. Along a leaf
#
# `horizontal_path` is Algorithm 1 of the paper: it follows the leaf of the source towards another image, until
# what is left of the way is orthogonal to the leaf. The paper's code also clamps pixels to [0, 1] after each
# step, which leaves the leaf; here that is an option, off by default. A path that stalls did not arrive:
# see the final distance.

# %%
target = next(k for k in range(1, held_out) if labels[k] != labels[0])
options = {"step_size": 0.03, "max_steps": 100 if REDUCED else 600, "tolerance": 0.1}
free = horizontal_path(log_prob, x[0], x[target], **options)
clamped = horizontal_path(log_prob, x[0], x[target], clip=(0.0, 1.0), **options)
figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
for path, name, colour in ((free, "on the leaf", "#0072B2"), (clamped, "clamped to [0, 1]", "#D55E00")):
    axes.plot(
        path.distances, color=colour, label=f"{name}: {path.distances[-1] / path.distances[0]:.0%} is left"
    )
axes.set(xlabel="step", ylabel="distance to the destination", title="How near a leaf comes to another image")
axes.set_ylim(bottom=0)
axes.legend()
print("converged:", bool(free.converged), " horizontal share of the rest:", f"{free.horizontal:.3f}")

# %% [markdown]
# The map x ↦ 2√p(x) turns G into the Euclidean metric of a sphere of radius 2: the length of a path in G is the
# length of its image there, and no shorter than the Fisher–Rao distance of its ends. Three functions, one check:

# %%
lengths = path_length(log_prob, free.points), output_length(log_prob, free.points)
shortest = fisher_rao_distance(free.log_probs[0], free.log_probs[-1])
print(f"in G {lengths[0]:.4f}, of 2√p {lengths[1]:.4f}, Fisher–Rao distance of the ends {shortest:.4f}")

# %% [markdown]
# ## 5. Is there a foliation?
#
# Leaves exist where the brackets of the scores stay in D (Frobenius). With ReLU they do, inside of each linear
# region; with a smooth activation they do not.

# %%
smooth = Partial(*pure(LeNet(size=images.shape[1], activation=jnp.tanh, rngs=nnx.Rngs(0))))
defects = {
    name: float(jax.jit(lambda f: involutivity_defect(f, x[0]))(f))
    for name, f in (("ReLU, trained", log_prob), ("tanh, untrained", smooth))
}
print(defects)
