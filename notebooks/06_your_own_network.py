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
# # Your own network
#
# A network enters as a function: of one chart point for `measure` and `reach`, of one input, to
# log-probabilities, for `local_data_*` and the paths. There is nothing to register.
#
# 1. Flax NNX, with batch normalisation and dropout.
# 2. Flax Linen.
# 3. Haiku, and any pair (apply, params).
# 4. Equinox.
# 5. flax.struct, dataclasses, a class of your own.
# 6. Plain functions.
# 7. While it learns: new weights, same program.
# 8. A decoder as a manifold, and the layers of a network.
# 9. Weights of PyTorch; ONNX.

# %%
import dataclasses
import math
import tempfile
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx, struct

import manifold_jax as mj
from manifold_jax.models import load_torch_weights, network_layers, pure

x, y = jnp.array([0.3, -0.2, 0.5, 0.1]), jnp.array([0.1, 0.4, -0.3, 0.2])

# %% [markdown]
# ## 1. Flax NNX
#
# `pure` takes a module that maps batches to batches, and gives a function of one input and its parameters. In
# training, batch normalisation and dropout make the output depend on other inputs and on chance: call
# `eval()` first. Their state is kept as data next to the parameters.


# %%
class Classifier(nnx.Module):
    def __init__(self, rngs):
        self.inner, self.norm = nnx.Linear(4, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.drop, self.outer = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, batch):
        hidden = nnx.relu(self.norm(self.inner(batch)))
        return nnx.log_softmax(self.outer(self.drop(hidden)))

    def stages(self):
        """Names the layers, for `network_layers`."""
        return {
            "inner": lambda batch: nnx.relu(self.norm(self.inner(batch))),
            "scores": lambda batch: nnx.log_softmax(self.outer(self.drop(batch))),
        }


module = Classifier(nnx.Rngs(0))
try:
    pure(module)
except ValueError as refusal:
    print(refusal)
module.eval()
network = pure(module)
print("eigenvalues of G:", mj.local_data_spectrum(network, x)[0])
path = mj.horizontal_path(network, x, y, max_steps=200)
print(f"path: {mj.PathStatus(int(path.status)).name}, {path.length:.3f} long")

# %% [markdown]
# ## 2. Flax Linen
#
# The pair `(module, variables)`; other collections than the parameters, such as `batch_stats`, are in the
# variables too.


# %%
class InLinen(linen.Module):
    @linen.compact
    def __call__(self, x):
        return jax.nn.log_softmax(linen.Dense(3)(jnp.tanh(linen.Dense(8)(x))))


key = jax.random.key(0)
variables = InLinen().init(key, x)
print("trace of G:", mj.local_data_trace((InLinen(), variables), x))

# %% [markdown]
# ## 3. Haiku, and any pair (apply, params)
#
# What maps parameters and one input to the output; of Haiku `(hk.without_apply_rng(hk.transform(f)), params)`.
# A network that wants a batch: `lambda params, x: apply(params, x[None])[0]`.


# %%
def apply(params, x):
    return jax.nn.log_softmax(params["out"] @ jnp.tanh(params["in"] @ x))


weights = {"in": jax.random.normal(key, (8, 4)), "out": jax.random.normal(key, (3, 8))}
print("trace of G:", mj.local_data_trace((apply, weights), x))

# %% [markdown]
# ## 4. Equinox
#
# The module itself, if its call takes one input and returns log-probabilities. Dropout and batch normalisation:
# `eqx.nn.inference_mode(module)`.


# %%
class InEquinox(eqx.Module):
    layers: eqx.nn.MLP

    def __call__(self, x):
        return jax.nn.log_softmax(self.layers(x))


print("trace of G:", mj.local_data_trace(InEquinox(eqx.nn.MLP(4, 3, 8, 1, key=key)), x))

# %% [markdown]
# ## 5. flax.struct, dataclasses, a class of your own
#
# Any object that can be called.


# %%
@struct.dataclass
class InStruct:
    weights: jax.Array

    def __call__(self, x):
        return jax.nn.log_softmax(self.weights @ x)


@dataclasses.dataclass(frozen=True)
class Mine:
    weights: jax.Array

    def __call__(self, x):
        return jax.nn.log_softmax(self.weights @ x)


for kind in (InStruct, Mine):
    print(f"{kind.__name__:8} trace of G: {mj.local_data_trace(kind(weights['in'][:3]), x):.4f}")

# %% [markdown]
# ## 6. Plain functions
#
# Closures too: arrays that they hold are found, and are data of what is compiled. Python numbers are part of the
# program; `jax.tree_util.Partial(function, 0.5)` makes them data.

# %%
print("trace of G:", mj.local_data_trace(lambda x: apply(weights, x), x))

# %% [markdown]
# ## 7. While it learns
#
# A module that is changed in place gives new numbers at the next call, in every function of the package; what
# was compiled serves all weights. (Inside a `jax.jit` of your own, hand the network over as an argument: JAX
# remembers what a closure held.)

# %%
for epoch in range(3):
    print(epoch, f"{mj.horizontal_path(pure(module), x, y, max_steps=200).length:.4f}")
    module.inner.kernel[...] = module.inner.kernel[...] ** 3  # a step of your training

# %% [markdown]
# ## 8. A decoder as a manifold, and the layers of a network
#
# What a decoder makes of its latent space is a parametrised manifold: `measure` and `reach` take the module
# itself, or any function.


# %%
class Decoder(nnx.Module):
    def __init__(self, rngs):
        self.first, self.last = nnx.Linear(2, 16, rngs=rngs), nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, angle):
        circle = jnp.stack([jnp.cos(angle[0]), jnp.sin(angle[0])])
        return self.last(nnx.tanh(self.first(circle)))


grid = mj.Grid((mj.Axis("angle", 0.0, 2 * math.pi, 64, periodic=True),))
decoder = Decoder(nnx.Rngs(1))
geometry = mj.measure(decoder, grid)
print(f"length {geometry.total_volume.value:.4f} +- {geometry.total_volume.error:.1e}")

# %%
inputs = mj.Manifold("inputs", lambda u: jnp.cos(u[0] + jnp.arange(4.0)), grid)
layers = network_layers(network)
for part in mj.measure_layers(inputs, layers.functions, layers.names):
    print(f"{part.name:8} length {part.total_volume.value:.3f}")

# %% [markdown]
# ## 9. Weights of PyTorch
#
# Write them in PyTorch, never as a pickle:
#
# ```python
# safetensors.torch.save_file(network.state_dict(), "weights.safetensors")
# numpy.savez("weights.npz", **{k: v.cpu().numpy() for k, v in network.state_dict().items()})  # or this
# ```
#
# and build the same network in Flax (`models.LeNet` and `models.VGG` are there). `load_torch_weights` knows
# how the layouts differ: convolutions, linear layers, the order in which images are flattened, normalisation.
# Pixels that were normalised before the network must be normalised here too.


# %%
class Small(nnx.Module):
    """Conv2d(1, 2, 3), ReLU, MaxPool2d(2), Flatten, Linear(18, 3), LogSoftmax."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 2, (3, 3), padding="VALID", rngs=rngs)
        self.output = nnx.Linear(18, 3, rngs=rngs)

    def __call__(self, images):
        maps = mj.models.max_pool(nnx.relu(self.conv(images[..., None])))
        return nnx.log_softmax(self.output(maps.reshape(len(images), -1)))


rng = np.random.default_rng(0)
shapes = {"0.weight": (2, 1, 3, 3), "0.bias": (2,), "4.weight": (3, 18), "4.bias": (3,)}
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "weights.npz"
    np.savez(file, **{name: rng.normal(size=shape) for name, shape in shapes.items()})
    trained = pure(load_torch_weights(file, Small(nnx.Rngs(0))))
print(mj.local_data_spectrum(trained, jnp.asarray(rng.uniform(size=(8, 8)), jnp.float32))[0])

# %% [markdown]
# ONNX: we know of no converter to JAX that is maintained for today's versions (`jaxonnxruntime` had its last
# release in 2023; `jax2onnx` goes the other way). Take the weights out of the file (`onnx.numpy_helper`) and
# hand them to `load_torch_weights` as a dictionary: they have the layouts of PyTorch if they come from there.
