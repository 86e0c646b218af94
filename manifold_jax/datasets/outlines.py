"""Closed outlines of sprites and the quadrature nodes on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from manifold_jax._checks import choice, real
from manifold_jax._programs import frozen

Outline = str | Callable[[Any], Any] | Any
"""Name of a built-in shape, a closed curve t -> (x, y) with period 2 pi, or polygon vertices (k, 2)."""

SQUARE_HALF_SIDE = 9.5  # of the square at scale 1, pixels
BATCH = 512  # nodes at which a curve is evaluated together


class Nodes(NamedTuple):
    """Quadrature nodes (x, y) on a closed outline at scale 1, pixels, and the increments times the weights.

    They are tuples so that they can be hashed.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    dx: tuple[float, ...]
    dy: tuple[float, ...]


def ellipse_curve(t: Any) -> Any:
    """Ellipse with semi-axes 13 and 7 px at scale 1, as in dSprites."""
    return jnp.stack([13.0 * jnp.cos(t), 7.0 * jnp.sin(t)])


def heart_curve(t: Any) -> Any:
    """Heart 16 sin^3 t, 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, 19 px wide, its box centred.

    The ordinate is turned over because image rows run downwards; its range is [-17, 11.97].
    """
    x = 16 * jnp.sin(t) ** 3
    y = 13 * jnp.cos(t) - 5 * jnp.cos(2 * t) - 2 * jnp.cos(3 * t) - jnp.cos(4 * t)
    return 0.6 * jnp.stack([x, -(y + 2.515)])


SHAPES: dict[str, Any] = {
    "ellipse": ellipse_curve,
    "square": SQUARE_HALF_SIDE * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]),
    "heart": heart_curve,
}
"""Built-in outlines, in pixels of a 64-pixel frame at scale 1."""


def outline_nodes(outline: Outline, stretch: float, blur: float, unit: float) -> Nodes:
    """Quadrature nodes dense enough for a blurred rendering to be exact to rounding.

    On a smooth closed curve the periodic trapezoid rule has an aliasing error of exp(-2 pi^2 sigma^2 / h^2)
    for nodes h apart, below 1e-16 at h = 0.7 sigma. On a polygon each edge takes Gauss-Legendre nodes.
    ``stretch`` is the largest magnification of the outline, ``blur`` the least standard deviation in pixels,
    and ``unit`` the pixels per unit of the outline at scale 1.
    """
    if isinstance(outline, str):
        outline = SHAPES[choice("sprite", "shape", outline, SHAPES)]
    build: Any = _curve_nodes if callable(outline) else _polygon_nodes
    points, increments = build(outline, stretch * unit / blur)
    nodes = Nodes(*(tuple(map(float, unit * column)) for column in (*points.T, *increments.T)))
    if abs(signed_area(nodes)) <= 1e-9 * float(np.abs(unit * points).max()) ** 2:
        raise ValueError("shape must enclose an area; this outline encloses none.")
    return nodes


def _curve_nodes(curve: Callable[[Any], Any], stretch: float) -> tuple[np.ndarray, np.ndarray]:
    """Trapezoid nodes; ``stretch`` is blur widths per outline unit."""
    points, speed = _curve_jet(curve, _turn(BATCH))
    gap = np.abs(_curve_jet(curve, np.array([2 * np.pi]))[0][0] - points[0]).max()
    if gap > 1e-6 * np.ptp(points):
        raise ValueError(f"shape curve must close: c(0) and c(2 pi) are {gap:.3g} apart.")
    longest = np.linalg.norm(speed, axis=1).max() * 2 * np.pi * stretch
    count = max(32, 8 * int(np.ceil(longest / 0.7 / 8)))
    points, speed = _curve_jet(curve, _turn(count))
    return points, speed * (2 * np.pi / count)


def _turn(count: int) -> np.ndarray:
    return 2 * np.pi / count * np.arange(count)


def _curve_jet(curve: Callable[[Any], Any], t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points and velocities (n, 2) of a curve in float64, in whole batches: one compiled shape."""
    padded = np.pad(t, (0, -len(t) % BATCH), mode="edge")
    with jax.enable_x64(True):
        program = frozen(lambda s: jnp.asarray(curve(s)), padded[0])
        points, speed = (np.asarray(part)[: len(t)] for part in _along(program, padded))
    if points.shape[1:] != (2,):
        raise ValueError(f"shape curve must return (x, y), got an array of shape {points.shape[1:]}.")
    if not np.isfinite(points).all():
        raise ValueError("shape curve returns NaN or infinite points.")
    return points, speed


@jax.jit
def _along(curve: Any, t: Array) -> tuple[Array, Array]:
    return jax.vmap(lambda s: jax.jvp(curve, (s,), (jnp.ones_like(s),)))(t)


def _polygon_nodes(vertices: Any, stretch: float) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes on every edge."""
    vertices = real("sprite", "shape", vertices, np).astype(float)
    if vertices.ndim != 2 or vertices.shape[1] != 2 or len(vertices) < 3:
        raise ValueError(f"polygon vertices must have shape (k >= 3, 2), got {vertices.shape}.")
    if not np.isfinite(vertices).all():
        raise ValueError("polygon vertices must be finite.")
    edges = np.roll(vertices, -1, axis=0) - vertices
    points, increments = [], []
    for start, edge in zip(vertices, edges, strict=True):
        # Enough nodes to resolve a Gaussian of width 1 on the edge to rounding (tested).
        count = 16 + int(np.ceil(1.6 * np.linalg.norm(edge) * stretch))
        nodes, weights = np.polynomial.legendre.leggauss(count)
        points.append(start + np.outer((nodes + 1) / 2, edge))
        increments.append(np.outer(weights / 2, edge))
    return np.concatenate(points), np.concatenate(increments)


def signed_area(nodes: Nodes) -> float:
    """Area enclosed by an outline, positive when it runs counter-clockwise in (x, y)."""
    x, y, dx, dy = map(np.asarray, nodes)
    return float(0.5 * np.sum(x * dy - y * dx))
