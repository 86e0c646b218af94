"""Networks whose weights NumPy draws: JAX compiles half a second for each shape that it draws."""

import jax
import numpy as np
from flax import nnx


def drawn(module, seed=0, gain=1, **options):
    """``module(**options)``: kernels of variance gain / inputs, scales and variances 1, all else 0.

    Its attributes are sorted by name, as in every module that Flax copies.
    """
    rng = np.random.default_rng(seed)
    graph, state = nnx.split(nnx.eval_shape(lambda: module(**options, rngs=nnx.Rngs(0))))

    def draw(path, entry):
        name, shape = path[-2].key, entry.shape  # the last step leads into the variable
        if name == "kernel":
            values = rng.normal(size=shape) * np.sqrt(gain / np.prod(shape[:-1]))
        else:
            values = np.full(shape, name in ("scale", "var"))
        return jax.device_put(values.astype(entry.dtype))

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(draw, state))
