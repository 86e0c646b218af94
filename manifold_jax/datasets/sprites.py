"""Extended dSprites: smooth images of a blurred shape as a function of its factors.

An image is the indicator of a shape convolved with a Gaussian of standard deviation sigma and sampled at
pixel centres, without any rasterisation. By Green's theorem the area integral becomes one over the outline,

    image(p) = closed integral of Phi((q_x - p_x) / sigma) phi_sigma(q_y - p_y) dq_y,

(Phi, phi_sigma: normal distribution function and density), times the sign of the enclosed area: a
(size x N)(N x size) matrix product that is C-infinity in every factor. The outline is

    q(t) = (x, y) + scale R(orientation) [[1, shear], [0, 1]] diag(sqrt aspect, 1/sqrt aspect) c(t).

Shapes and sizes follow dSprites (Matthey et al., 2017, github.com/google-deepmind/dsprites-dataset).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax.datasets.outlines import SQUARE_HALF_SIDE, Nodes, Outline, outline_nodes, signed_area
from manifold_jax.geometry import Axis, Grid, Manifold

FACTORS = ("scale", "orientation", "y", "x", "aspect", "shear", "blur", "contrast")
LAYOUTS = ("dense", "balanced", "original")
_RANGES = {
    "scale": (0.5, 1.0),
    "aspect": (0.8, 1.25),
    "shear": (-0.3, 0.3),
    "blur": (0.8, 1.6),
    "contrast": (0.5, 1.0),
}
_UNITS = {"orientation": "rad", "y": "px", "x": "px", "blur": "px"}


@dataclass(frozen=True)
class SpriteRenderer:
    """Renders one sprite; hashable and compared by value, so that equal renderers compile once.

    Attributes:
        factors: Names of the chart coordinates, in order.
        fixed: ``(name, value)`` of every other factor.
        size: Pixels per side.
        nodes: Quadrature nodes of the outline at scale 1, pixels.
        half_side: Half side of a square in pixels, for its closed form; 0 for other shapes.
    """

    factors: tuple[str, ...]
    fixed: tuple[tuple[str, float], ...]
    size: int
    nodes: Nodes
    half_side: float = 0.0

    def values(self, u: Float[Array, "d"]) -> dict[str, Array]:
        """Every factor by name, given the chart point."""
        values: dict[str, Array] = {name: jnp.asarray(value, u.dtype) for name, value in self.fixed}
        values.update({name: u[k] for k, name in enumerate(self.factors)})
        return values

    def __call__(self, u: Float[Array, "d"]) -> Float[Array, "size size"]:
        """Image of one chart point, row index y first, in the dtype of ``u``."""
        f = self.values(u)
        pixels = jnp.arange(self.size, dtype=u.dtype)
        image = _square_image if self.half_side else _outline_image
        return f["contrast"] * image(self, f, pixels)


def _distribution(z: Array) -> Array:
    """Normal distribution function Phi."""
    return 0.5 * (1 + jax.lax.erf(z * math.sqrt(0.5)))


def _linear_map(f: dict[str, Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Linear part: scale R(orientation) [[1, shear], [0, 1]] diag(sqrt aspect, 1/sqrt aspect)."""
    cos, sin = f["scale"] * jnp.cos(f["orientation"]), f["scale"] * jnp.sin(f["orientation"])
    wide = jnp.sqrt(f["aspect"])
    tall = 1 / wide
    return (cos * wide, (cos * f["shear"] - sin) * tall), (sin * wide, (sin * f["shear"] + cos) * tall)


def _outline_image(renderer: SpriteRenderer, f: dict[str, Array], pixels: Array) -> Array:
    """Green's theorem on the outline."""
    nodes = [jnp.asarray(column, pixels.dtype) for column in renderer.nodes]
    (a, b), (c, d) = _linear_map(f)
    qx = f["x"] + a * nodes[0] + b * nodes[1]
    qy = f["y"] + c * nodes[0] + d * nodes[1]
    dqy = c * nodes[2] + d * nodes[3]
    sigma = f["blur"]
    inside = _distribution((qx[:, None] - pixels[None, :]) / sigma)
    z = (qy[None, :] - pixels[:, None]) / sigma
    density = jnp.exp(-0.5 * z**2) / (math.sqrt(2 * math.pi) * sigma) * dqy[None, :]
    image = jnp.matmul(density, inside, precision=jax.lax.Precision.HIGHEST)
    return math.copysign(1.0, signed_area(renderer.nodes)) * image


def _square_image(renderer: SpriteRenderer, f: dict[str, Array], pixels: Array) -> Array:
    """Product of two blurred slabs in the frame of a rectangle."""
    x, y = pixels[None, :] - f["x"], pixels[:, None] - f["y"]
    cos, sin = jnp.cos(f["orientation"]), jnp.sin(f["orientation"])

    def slab(z: Array, half: Array) -> Array:
        return _distribution((half - z) / f["blur"]) - _distribution((-half - z) / f["blur"])

    half = renderer.half_side * f["scale"]
    wide = jnp.sqrt(f["aspect"])
    return slab(cos * x + sin * y, half * wide) * slab(cos * y - sin * x, half / wide)


def sprite(
    shape: Outline = "ellipse",
    *,
    layout: str = "dense",
    factors: Sequence[str] = ("scale", "orientation", "y", "x"),
    size: int = 64,
    blur: float = 1.0,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    sizes: Mapping[str, int] | None = None,
    fixed: Mapping[str, float] | None = None,
    full_turn: bool = False,
) -> Manifold:
    """Manifold of the images of one sprite.

    Args:
        shape: ``"square"``, ``"ellipse"`` or ``"heart"``; a closed curve t -> (x, y) with period 2 pi,
            smooth, in pixels of a 64-pixel frame at scale 1; or polygon vertices ``(k, 2)``.
        layout: ``"dense"``, fine enough for order-4 stencils, with positions over one pixel only, where the
            metric repeats (volumes are then per pixel of each translation); ``"balanced"``, 16 samples
            on each axis over the full range; ``"original"``, the lattice of dSprites (6 scales, 40
            orientations from 0 to 2 pi inclusive, 32 x 32 positions).
        factors: Chart coordinates in order, from ``scale``, ``orientation`` (rad), ``y``, ``x`` (px),
            ``aspect``, ``shear``, ``blur`` (px) and ``contrast``.
        size: Pixels per side; shapes grow with it.
        blur: Standard deviation of the Gaussian blur in pixels, where it is not a factor.
        ranges: ``(start, stop)`` by factor, instead of the layout's.
        sizes: Samples by factor, instead of the layout's.
        fixed: Values of factors that are not axes; by default scale 1, orientation 0, aspect 1, shear 0,
            contrast 1 and the centre of the frame.
        full_turn: Let the orientation run over 2 pi although the shape repeats earlier: a multiple cover,
            labelled as such. By default it runs over the fundamental domain: pi/2 for a square with aspect
            1 and shear 0, pi for other squares and ellipses, 2 pi otherwise.

    Returns:
        The manifold, with images ``(size, size)`` in [0, contrast].

    Raises:
        ValueError: A name, range or size makes no sense, or the factors are redundant (they move the image in
            dependent directions everywhere).

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax.datasets import sprite
        >>> heart = sprite("heart", factors=("orientation", "x"), size=32)
        >>> heart.grid.names, heart.feature_shape
        (('orientation', 'x'), (32, 32))
        >>> image = heart.embedding(jnp.array([0.0, 15.5]))
        >>> bool(abs(image.max() - 1) < 1e-2)
        True
    """
    factors = _check_factors(factors)
    if isinstance(size, bool) or int(size) != size or size < 8:
        raise ValueError(f"size must be a whole number of pixels, at least 8, got {size!r}.")
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {LAYOUTS}, got {layout!r}.")
    constants = _check_fixed(fixed, factors, int(size), blur)
    symmetry = _symmetry(shape, factors, constants)
    axes = tuple(
        _axis(name, layout, int(size), symmetry, constants, full_turn, ranges or {}, sizes or {})
        for name in factors
    )
    _check_keys("ranges", ranges, factors)
    _check_keys("sizes", sizes, factors)
    limits = {axis.name: (axis.start, axis.stop) for axis in axes}
    renderer = _renderer(shape, factors, constants, limits, int(size))
    _refuse_redundant(renderer, axes, shape)
    name = shape if isinstance(shape, str) else getattr(shape, "__name__", "polygon")
    turn = next((axis.stop - axis.start for axis in axes if axis.name == "orientation"), symmetry)
    cover = max(1, round(turn / symmetry))
    attributes = {
        "dataset": "sprites",
        "shape": name,
        "layout": layout,
        "size": int(size),
        "fixed": dict(constants),
        "cover": cover,
    }
    title = f"{name} sprite" + (f" ({cover}-fold cover)" if cover > 1 else "")
    return Manifold(title, renderer, Grid(axes), {}, attributes)


def _check_factors(factors: Sequence[str]) -> tuple[str, ...]:
    factors = (factors,) if isinstance(factors, str) else tuple(factors)
    unknown = [name for name in factors if name not in FACTORS]
    if unknown or not factors:
        raise ValueError(f"factors must be chosen from {FACTORS}, got {unknown or factors}.")
    if len(set(factors)) != len(factors):
        raise ValueError(f"factors must be distinct, got {factors}.")
    return factors


def _check_keys(label: str, values: Mapping[str, Any] | None, factors: tuple[str, ...]) -> None:
    unknown = [name for name in values or {} if name not in factors]
    if unknown:
        raise ValueError(f"{label} names {unknown}, but the factors are {factors}.")


def _check_fixed(
    fixed: Mapping[str, float] | None, factors: tuple[str, ...], size: int, blur: float
) -> dict[str, float]:
    """Value of every factor that is not an axis."""
    centre = (size - 1) / 2
    constants = {"scale": 1.0, "orientation": 0.0, "y": centre, "x": centre, "aspect": 1.0}
    constants |= {"shear": 0.0, "blur": float(blur), "contrast": 1.0}
    for name, value in (fixed or {}).items():
        if name not in FACTORS:
            raise ValueError(f"fixed names {name!r}, which is not one of {FACTORS}.")
        if name in factors:
            raise ValueError(f"{name!r} is both a factor and fixed: leave it out of one of them.")
        constants[name] = float(value)
    for name in ("scale", "aspect", "blur", "contrast"):
        if not constants[name] > 0:
            raise ValueError(f"{name} must be positive, got {constants[name]}.")
    for name, value in constants.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}.")
    return {name: value for name, value in constants.items() if name not in factors}


def _symmetry(shape: Outline, factors: tuple[str, ...], constants: Mapping[str, float]) -> float:
    """Smallest turn that maps every image of the family to itself."""
    upright = constants.get("aspect") == 1.0 and constants.get("shear") == 0.0
    if isinstance(shape, str) and shape == "square":
        return math.pi / 2 if upright else math.pi
    return math.pi if isinstance(shape, str) and shape == "ellipse" else 2 * math.pi


def _axis(
    name: str,
    layout: str,
    size: int,
    symmetry: float,
    constants: Mapping[str, float],
    full_turn: bool,
    ranges: Mapping[str, tuple[float, float]],
    sizes: Mapping[str, int],
) -> Axis:
    """One axis of a layout; a given range opens it."""
    unit = _UNITS.get(name, "")
    blur = constants.get("blur", _RANGES["blur"][0])
    default = _sample_count(name, layout, size / 64, symmetry, blur, full_turn)
    count = sizes.get(name, default)
    if name in ranges:
        start, stop = ranges[name]
        if name in ("scale", "aspect", "blur", "contrast") and not start > 0:
            raise ValueError(f"{name} must stay positive, got the range ({start}, {stop}).")
        return Axis(name, start, stop, count, unit=unit)
    if name == "orientation":
        if layout == "original":
            return Axis(name, 0.0, 2 * math.pi, count, unit=unit)
        return Axis(name, 0.0, 2 * math.pi if full_turn else symmetry, count, True, unit)
    if name in ("y", "x"):
        centre = (size - 1) / 2
        if layout == "dense":
            return Axis(name, centre, centre + 1.0, count, True, unit, wrap=False)
        return Axis(name, centre - size / 4, centre + size / 4, count, unit=unit)
    return Axis(name, *_RANGES[name], count, unit=unit)


_DENSE_STEP = 0.6
"""Largest displacement of the outline per sample of the dense layout, in blur widths."""

_FARTHEST = 13.4
"""Largest distance of a built-in outline from its centre at scale 1, pixels."""


def _sample_count(name: str, layout: str, unit: float, symmetry: float, blur: float, full_turn: bool) -> int:
    """Samples of one axis in a layout; dense ones are even on periodic axes and odd on open ones."""
    if layout == "original":
        return {"scale": 6, "orientation": 40, "y": 32, "x": 32}.get(name, 16)
    if layout == "balanced":
        return 16
    step = _DENSE_STEP * blur
    radius = _FARTHEST * unit
    if name in ("y", "x"):
        return 2 * max(1, math.ceil(0.5 / step))
    if name == "orientation":
        turn = 2 * math.pi if full_turn else symmetry
        return 2 * max(8, math.ceil(turn * radius / step / 2))
    start, stop = _RANGES[name]
    if name in ("scale", "shear"):
        return 1 + 2 * max(4, math.ceil((stop - start) * radius / step / 2))
    if name == "aspect":
        return 1 + 2 * max(4, math.ceil(math.log(stop / start) * radius / step / 4))
    return 1 + 2 * max(4, math.ceil(4 * math.log(stop / start)))


def _renderer(
    shape: Outline,
    factors: tuple[str, ...],
    constants: dict[str, float],
    limits: dict[str, tuple[float, float]],
    size: int,
) -> SpriteRenderer:
    def extreme(name: str) -> tuple[float, float]:
        return limits.get(name) or (constants[name], constants[name])

    wide = max(max(extreme("aspect")), 1 / min(extreme("aspect"))) ** 0.5
    stretch = max(extreme("scale")) * wide * (1 + max(map(abs, extreme("shear"))))
    nodes = outline_nodes(shape, stretch, min(extreme("blur")), size / 64)
    closed_form = isinstance(shape, str) and shape == "square" and constants.get("shear") == 0.0
    half_side = SQUARE_HALF_SIDE * size / 64 if closed_form else 0.0
    return SpriteRenderer(factors, tuple(constants.items()), size, nodes, half_side)


def _refuse_redundant(renderer: SpriteRenderer, axes: tuple[Axis, ...], shape: Outline) -> None:
    """Refuse factors whose motions of the outline are linearly dependent at every sampled point.

    An image moves with the normal velocity of its outline, so the rank of the family is that of the normal
    velocities of its geometric factors (blur and contrast act differently and always add one each).
    """
    geometric = [k for k, name in enumerate(renderer.factors) if name not in ("blur", "contrast")]
    if not geometric:
        return
    x, y, dx, dy = (np.asarray(column) for column in renderer.nodes)
    rank = 0
    for fraction in (0.23, 0.61, 0.87):
        u = np.array([axis.start + fraction * (axis.stop - axis.start) for axis in axes])
        velocities = _normal_velocities(renderer, u, geometric, (x, y, dx, dy))
        lengths = np.linalg.norm(velocities, axis=1, keepdims=True)
        # Below this length a velocity is the noise of its difference quotient: the outline does not move.
        moving = lengths > 1e-7 * np.abs(np.stack([x, y])).max()
        unit = np.where(moving, velocities / np.where(moving, lengths, 1.0), 0.0)
        singular = np.linalg.svd(unit, compute_uv=False)
        rank = max(rank, int(np.sum(singular > 1e-6)))
    if rank < len(geometric):
        names = tuple(renderer.factors[k] for k in geometric)
        raise ValueError(
            f"factors {names} are redundant for shape {shape!r}: their images have rank {rank}, not "
            f"{len(geometric)}, because the outline moves in dependent directions. Leave one of them out."
        )


def _normal_velocities(
    renderer: SpriteRenderer, u: np.ndarray, geometric: list[int], nodes: tuple[np.ndarray, ...]
) -> np.ndarray:
    """Velocity of the outline along its normal for each geometric factor, by central differences."""
    x, y, dx, dy = nodes

    def outline(point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        f = dict(renderer.fixed) | dict(zip(renderer.factors, point, strict=True))
        angle, wide = f["orientation"], math.sqrt(f["aspect"])
        rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        stretch = np.array([[wide, f["shear"] / wide], [0.0, 1 / wide]])
        matrix = f["scale"] * rotation @ stretch
        return np.array([[f["x"]], [f["y"]]]) + matrix @ np.stack([x, y]), matrix @ np.stack([dx, dy])

    tangent = outline(u)[1]
    normal = np.stack([tangent[1], -tangent[0]])
    rows = []
    for k in geometric:
        step = np.zeros(len(u))
        step[k] = 1e-5
        rows.append(np.sum((outline(u + step)[0] - outline(u - step)[0]) / 2e-5 * normal, axis=0))
    return np.stack(rows)
