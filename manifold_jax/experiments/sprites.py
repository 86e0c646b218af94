"""Sprites for the experiments: charts of the shapes, factors drawn from them, images, a smooth network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from manifold_jax._linalg import map_blocks
from manifold_jax._programs import frozen
from manifold_jax.datasets import sprite
from manifold_jax.geometry import Manifold
from manifold_jax.models import LeNet

FACTORS = ("scale", "orientation", "y", "x")
SCALES = (0.75, 1.5)
HALF_SHIFT = 17 / 64  # of the side, from the middle to the ends of the positions of Koulakis & Seibold
BLUR = 0.8  # of their sprites, in pixels


def sprite_charts(
    shapes: Sequence[str], size: int, shift: float, factors: Sequence[str], sizes: Any = None
) -> list[Manifold]:
    """The sprites of each shape, ``size`` pixels per side.

    Factors that do not vary are at the centre, and the scale is 1; y and x vary by ``shift`` pixels to either
    side of it. ``sizes`` are samples by factor.
    """
    centre = (size - 1) / 2
    place = (centre - shift, centre + shift)
    ranges = {"scale": SCALES, "y": place, "x": place}
    limits = {factor: ranges[factor] for factor in factors if factor in ranges}
    options = {"factors": factors, "layout": "balanced", "size": size, "ranges": limits, "sizes": sizes}
    return [sprite(shape, **options) for shape in shapes]


def published_charts(shapes: Sequence[str], size: int, factors: Sequence[str], sizes: Any) -> list[Manifold]:
    """The sprites of each shape over the ranges of Koulakis & Seibold, ``size`` pixels per side.

    Scales from half to one, a full turn, which covers a square four times and an ellipse twice, and positions
    of 34 pixels of 64 each way; where theirs are rasters, these are blurred by 0.8 pixels.
    """
    centre, half = (size - 1) / 2, HALF_SHIFT * size
    ranges = {"scale": (0.5, 1.0)} | dict.fromkeys(("y", "x"), (centre - half, centre + half))
    limits = {factor: ranges[factor] for factor in factors if factor in ranges}
    options = {"factors": factors, "layout": "balanced", "size": size, "ranges": limits, "sizes": sizes}
    return [sprite(shape, blur=BLUR, full_turn=True, **options) for shape in shapes]


def ends(manifold: Manifold) -> Float[np.ndarray, "2 d"]:
    """Where the axes of a chart begin, and where they end."""
    return np.array([(axis.start, axis.stop) for axis in manifold.grid.axes]).T


def draw(key: Array, manifold: Manifold, count: int) -> Float[Array, "count d"]:
    """Factors drawn uniformly from their ranges."""
    low, high = ends(manifold)
    return jax.random.uniform(key, (count, low.size), minval=low, maxval=high)


def evaluate(function: Any, points: Array) -> Any:
    """A function of one point, such as an embedding or a layer, at many ``(n, ...)``, up to 64 at a time."""
    return _evaluate(frozen(function, points[0]), points)


@jax.jit
def _evaluate(function: Any, points: Array) -> Any:
    return map_blocks(jax.vmap(function), 64, points)


def draw_images(
    key: Array, charts: Sequence[Manifold], count: int
) -> tuple[list[Float[Array, "count d"]], list[Float[Array, "count h w"]]]:
    """Factors drawn from every chart, ``count`` of each, and their images."""
    points = [draw(jax.random.fold_in(key, k), chart, count) for k, chart in enumerate(charts)]
    return points, [evaluate(m.embedding, part) for m, part in zip(charts, points, strict=True)]


def _mean_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h/2 w/2 c"]:
    """Mean of every 2 x 2 block; an odd last row or column is left out."""
    high, wide = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    x = x[:, :high:2, :wide] + x[:, 1:high:2, :wide]
    return (x[:, :, ::2] + x[:, :, 1::2]) / 4


class SmoothLeNet(LeNet):
    """LeNet with means in place of maxima: of a maximum, second derivatives miss the kinks."""

    pool = staticmethod(_mean_pool)
