"""What the networks are made of: convolution and pooling, fast inside compiled loops on a CPU too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax._checks import choice, floating, shown, whole

Layer = Callable[[Array], Array]


def apply_layers(layers: Mapping[str, Layer], x: Array, last: str, after: str | None = None) -> Array:
    """The output of one layer, from that of another (None: from the input of the first)."""
    names = list(layers)
    begin = 0 if after is None else names.index(after) + 1
    for name in names[begin : names.index(last) + 1]:
        x = layers[name](x)
    return x


def _patches_convolution(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k l c o"],
    window_strides: Sequence[int],
    padding: Any,
    precision: Any,
) -> Float[Array, "b p q o"]:
    """A convolution as one matrix product of all patches."""
    (rows, columns), (down, across) = kernel.shape[:2], window_strides
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], (rows, columns), window_strides, padding)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    high, wide = x.shape[1] - rows + 1, x.shape[2] - columns + 1
    shifts = [x[:, i : i + high : down, j : j + wide : across] for i in range(rows) for j in range(columns)]
    patches = jnp.concatenate(shifts, axis=-1)
    return jnp.matmul(patches, kernel.reshape(-1, kernel.shape[-1]), precision=precision)


_LAYOUT = ("NHWC", "HWIO", "NHWC")


def _is_plain(x: Array, kernel: Array, options: dict[str, Any]) -> bool:
    """Whether a convolution has no option but the layout of its axes."""
    layout = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, options["dimension_numbers"])
    dilations = (options.get(name) or (1,) for name in ("lhs_dilation", "rhs_dilation"))
    return (
        layout == jax.lax.conv_dimension_numbers(x.shape, kernel.shape, _LAYOUT)
        and all(set(dilation) == {1} for dilation in dilations)
        and options.get("feature_group_count", 1) == options.get("batch_group_count", 1) == 1
        and options.get("preferred_element_type") is None
    )


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k l c o"],
    window_strides: Sequence[int],
    padding: Any,
    *,
    precision: Any = None,
    **options: Any,
) -> Float[Array, "b p q o"]:
    """``jax.lax.conv_general_dilated`` for plain two-dimensional layers; on a CPU a product of patches.

    Inside ``lax.scan`` and ``lax.while_loop`` XLA's CPU backend has no fast gradient of a convolution: that
    of the weights is tens of times slower than the product. For
    ``flax.nnx.Conv(conv_general_dilated=convolve)``.

    Args:
        x: Images.
        kernel: Its first two axes are those of a patch.
        window_strides: Two strides.
        padding: ``"SAME"``, ``"VALID"`` or two pairs.
        precision: Precision of the products.
        options: Other options of ``conv_general_dilated``, which does all that is not plain.

    Example:
        >>> image, kernel = jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1))
        >>> print(mj.models.convolve(image, kernel, (1, 1), "VALID")[0, ..., 0])
        [[9. 9.]
         [9. 9.]]
    """
    for name, array in (("x", x), ("kernel", kernel)):
        floating("convolve", name, array, 3)
    if len(window_strides := tuple(window_strides if np.ndim(window_strides) else ())) != len(x.shape) - 2:
        raise ValueError(f"convolve: window_strides must be one for each axis, got {shown(window_strides)}.")
    window_strides = tuple(whole("convolve", "every one of window_strides", s) for s in window_strides)
    if isinstance(padding, str) or not isinstance(padding, Sequence):
        padding = choice("convolve", "padding", padding, ("SAME", "VALID", "SAME_LOWER"))
    elif not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in padding):
        raise ValueError(f"convolve: padding must be 'SAME', 'VALID' or pairs, got {shown(padding)}.")
    options.setdefault("dimension_numbers", _LAYOUT)
    common = {"window_strides": window_strides, "padding": padding, "precision": precision}
    library = partial(jax.lax.conv_general_dilated, **common, **options)
    if not _is_plain(x, kernel, options):
        return library(x, kernel)
    patches = partial(_patches_convolution, **common)
    return jax.lax.platform_dependent(x, kernel, cpu=patches, default=library)


_PHASES = ((3, 1), (2, 0))
"""Rows of a 4 x 4 kernel that meet two neighbouring inputs, for even and for odd outputs."""


def convolve_transposed(
    x: Float[Array, "b h w c"], kernel: Float[Array, "4 4 c o"], *, precision: Any = None
) -> Float[Array, "b 2h 2w o"]:
    """Transposed convolution of a 4 x 4 kernel with stride 2 and padding 1, which doubles an image.

    ``y[2 i + k - 1] += x[i] kernel[k]`` on both axes, as PyTorch's ``ConvTranspose2d(c, o, 4, 2, 1)``. Every
    output meets 2 x 2 inputs: one product of 2 x 2 patches gives the four outputs of each, on any device.

    Raises:
        ValueError: The kernel is not 4 x 4.

    Example:
        >>> print(mj.models.convolve_transposed(jnp.ones((1, 1, 2, 1)), jnp.ones((4, 4, 1, 1)))[0, ..., 0])
        [[1. 2. 2. 1.]
         [1. 2. 2. 1.]]
    """
    x, kernel = (floating("convolve_transposed", n, a, 4) for n, a in (("x", x), ("kernel", kernel)))
    if kernel.shape[:2] != (4, 4):
        raise ValueError(f"kernel must be 4 x 4, got {kernel.shape[0]} x {kernel.shape[1]}.")
    batch, high, wide, inputs = x.shape
    outputs = kernel.shape[-1]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    corners = [x[:, i : i + high + 1, j : j + wide + 1] for i in (0, 1) for j in (0, 1)]
    patches = jnp.concatenate(corners, axis=-1)
    phases = kernel[np.array(_PHASES)][:, :, np.array(_PHASES)]  # (phase, row, phase, column, c, o)
    phases = phases.transpose(1, 3, 4, 0, 2, 5).reshape(4 * inputs, 4 * outputs)
    product = jnp.matmul(patches, phases, precision=precision)
    product = product.reshape(batch, high + 1, wide + 1, 2, 2, outputs)
    rows = [jnp.stack([product[:, i : i + high, j : j + wide, i, j] for j in (0, 1)], axis=3) for i in (0, 1)]
    return jnp.stack(rows, axis=2).reshape(batch, 2 * high, 2 * wide, outputs)


def _larger(a: Array, b: Array) -> Array:
    """The larger of two; of equal ones the first, also in the derivative."""
    return jnp.where((b > a) | jnp.isnan(b), b, a)


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h/2 w/2 c"]:
    """Largest value of every 2 x 2 block; an odd last row or column is left out.

    Of equal values, as on the blank border of a digit, the first one counts, as in PyTorch: there the maximum
    has no derivative, and G depends on the choice.

    Example:
        >>> print(mj.models.max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, ..., 0])
        [[ 5.  7.]
         [13. 15.]]
    """
    x = floating("max_pool", "x", x, 4)
    high, wide = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    first, second = (_larger(x[:, i:high:2, 0:wide:2], x[:, i:high:2, 1:wide:2]) for i in (0, 1))
    return _larger(first, second)
