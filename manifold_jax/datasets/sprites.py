"""Extended dSprites: smooth images of a blurred shape as a function of its factors.

An image is the indicator of a shape, convolved with a Gaussian of standard deviation sigma and sampled at
pixel centres, without any rasterisation. By Green's theorem the area integral becomes one over the outline,

    image(p) = closed integral of Phi((q_x - p_x) / sigma) phi_sigma(q_y - p_y) dq_y,

(Phi, phi_sigma: normal distribution function and density), times the sign of the enclosed area: a
(size x N)(N x size) matrix product that is C-infinity in every factor, and so are its derivatives, in closed
form (:func:`_smear`). The outline is

    q(t) = (x, y) + scale R(orientation) [[1, shear], [0, 1]] diag(sqrt aspect, 1/sqrt aspect) c(t).

Shapes and sizes follow dSprites (Matthey et al., 2017, github.com/google-deepmind/dsprites-dataset).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from manifold_jax._checks import choice, flag, whole
from manifold_jax._linalg import matmul
from manifold_jax.datasets.factors import chosen_factors, factor_axes, fixed_values
from manifold_jax.datasets.outlines import SQUARE_HALF_SIDE, Nodes, Outline, outline_nodes, signed_area
from manifold_jax.geometry.grid import Axis, Grid
from manifold_jax.geometry.manifold import Manifold

LAYOUTS = ("dense", "balanced", "original")
_ORIGINAL = {"scale": 6, "orientation": 40, "y": 32, "x": 32}  # samples of dSprites
_DENSE_STEP = 0.6  # largest displacement of the outline per sample of the dense layout, in blur widths
_FARTHEST = 13.4  # largest distance of a built-in outline from its centre at scale 1, pixels
_SHARPEST = 0.8  # least blur where the blur is a factor, pixels
_PROBES = (0.23, 0.61, 0.87)
"""Chart points, as shares of the axes, at which factors are compared; no symmetry holds there."""


@dataclass(frozen=True)
class SpriteRenderer:
    """Renders one sprite; hashable and compared by value, so that equal renderers compile once."""

    factors: tuple[str, ...]  # names of the chart coordinates, in order
    fixed: tuple[tuple[str, float], ...]  # name and value of every other factor
    size: int  # pixels per side
    nodes: Nodes  # of the quadrature on the outline
    half_side: float = 0.0  # half side of a square in pixels, for its closed form; 0 for other shapes

    def __call__(self, u: Float[Array, "d"]) -> Float[Array, "size size"]:
        """Image of one chart point, row index y first, in the dtype of ``u``."""
        f = {name: jnp.asarray(value, u.dtype) for name, value in self.fixed}
        f |= {name: u[k] for k, name in enumerate(self.factors)}
        if self.half_side:
            return f["contrast"] * _square_image(self.half_side, f, jnp.arange(self.size, dtype=u.dtype))
        nodes = [jnp.asarray(column, u.dtype) for column in self.nodes]
        sign = math.copysign(1.0, signed_area(self.nodes))
        return f["contrast"] * sign * _outline_image(nodes, f, self.size)


def _distribution(z: Array) -> Array:
    """Normal distribution function Phi."""
    return 0.5 * (1 + jax.lax.erf(z * math.sqrt(0.5)))


def _moved_outline(f: Mapping[str, Any], nodes: Sequence[Any], xp: Any = jnp) -> tuple[Any, ...]:
    """Outline and increments (q_x, q_y, dq_x, dq_y) at some factors, in JAX or in NumPy."""
    x, y, dx, dy = nodes
    cos, sin = f["scale"] * xp.cos(f["orientation"]), f["scale"] * xp.sin(f["orientation"])
    wide = xp.sqrt(f["aspect"])
    tall = 1 / wide
    # scale R(orientation) [[1, shear], [0, 1]] diag(sqrt aspect, 1 / sqrt aspect)
    a, b, c, d = cos * wide, (cos * f["shear"] - sin) * tall, sin * wide, (sin * f["shear"] + cos) * tall
    return f["x"] + a * x + b * y, f["y"] + c * x + d * y, a * dx + b * dy, c * dx + d * dy


def _gaussian_derivatives(q: Array, sigma: Array, size: int, count: int) -> list[Float[Array, "size N"]]:
    """d^a/dq^a of the normal density of q - p, a < ``count``, at pixel centres p, by Hermite's recurrence."""
    z = (q[None, :] - jnp.arange(size, dtype=q.dtype)[:, None]) / sigma
    rows = [jnp.exp(-0.5 * z**2) / (math.sqrt(2 * math.pi) * sigma)]
    for a in range(count - 1):
        rows.append(-(z * rows[a] + (a / sigma * rows[a - 1] if a else 0.0)) / sigma)
    return rows


def _distribution_derivatives(q: Array, sigma: Array, size: int, count: int) -> list[Float[Array, "size N"]]:
    """The same of the distribution function."""
    first = _distribution((q[None, :] - jnp.arange(size, dtype=q.dtype)[:, None]) / sigma)
    return [first, *(_gaussian_derivatives(q, sigma, size, count - 1) if count > 1 else [])]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _smear(
    size: int, weights: Float[Array, "k k N"], qx: Float[Array, "N"], qy: Float[Array, "N"], sigma: Array
) -> Float[Array, "size size"]:
    """sum_n sum_{a + b < k} weights[a, b, n] D^a phi_sigma(qy_n - p_y) D^b Phi((qx_n - p_x) / sigma).

    Closed under differentiation: the derivative along q_x or q_y is the same sum with the weights one place
    on, and that along sigma (heat equation, d/dsigma = sigma D^2) with the weights two places on. So every
    derivative is one matrix product, in which all directions have one factor in common.
    """
    k = len(weights)
    density = _gaussian_derivatives(qy, sigma, size, k)
    inside = _distribution_derivatives(qx, sigma, size, k)
    rows = [sum(density[a] * weights[a, b] for a in range(k - b)) for b in range(k)]
    return matmul(jnp.concatenate(rows, axis=1), jnp.concatenate(inside, axis=1).T)


@partial(_smear.defjvp, symbolic_zeros=True)
def _smear_jvp(size: int, primals: Any, tangents: Any) -> tuple[Array, Array]:
    weights, *outline = primals
    qx, qy, sigma = outline
    still = [isinstance(tangent, SymbolicZero) for tangent in tangents]
    step = 1 if still[3] else 2
    terms = zip(
        still,
        [((0, 0),), ((0, 1),), ((1, 0),), ((2, 0), (0, 2))],
        [lambda t: t, lambda t: weights * t, lambda t: weights * t, lambda t: weights * sigma * t],
        tangents,
        strict=True,
    )
    moved = jnp.zeros((*(n + step for n in weights.shape[:2]), weights.shape[2]), weights.dtype)
    for zero, places, times, tangent in terms:
        for a, b in () if zero else places:
            moved += jnp.pad(times(tangent), ((a, step - a), (b, step - b), (0, 0)))
    return _smear(size, weights, qx, qy, sigma), _smear(size, moved, qx, qy, sigma)


@partial(jax.jit, static_argnames="size")
def _outline_image(nodes: Sequence[Array], f: dict[str, Array], size: int) -> Array:
    """Green's theorem on the outline."""
    qx, qy, _, dqy = _moved_outline(f, nodes)
    return _smear(size, dqy[None, None], qx, qy, f["blur"])


@partial(jax.jit, static_argnames="half_side")
def _square_image(half_side: float, f: dict[str, Array], pixels: Array) -> Array:
    """Product of two blurred slabs in the frame of a rectangle."""
    x, y = pixels[None, :] - f["x"], pixels[:, None] - f["y"]
    cos, sin = jnp.cos(f["orientation"]), jnp.sin(f["orientation"])

    def slab(z: Array, half: Array) -> Array:
        return _distribution((half - z) / f["blur"]) - _distribution((-half - z) / f["blur"])

    half = half_side * f["scale"]
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
        shape: ``"square"``, ``"ellipse"`` or ``"heart"``; a smooth closed curve t -> (x, y) with period 2 pi,
            in pixels of a 64-pixel frame at scale 1; or polygon vertices ``(k, 2)``.
        layout: ``"dense"``, fine enough for stencils of order 4, with positions over one pixel only, where
            the metric repeats (volumes are then per pixel of each translation); ``"balanced"``, 16 samples of
            each axis over the full range; ``"original"``, the lattice of dSprites (6 scales, 40 orientations
            from 0 to 2 pi inclusive, 32 x 32 positions).
        factors: Chart coordinates in order, from ``scale``, ``orientation`` (rad), ``y``, ``x`` (px),
            ``aspect``, ``shear``, ``blur`` (px) and ``contrast``.
        size: Pixels per side; shapes grow with it.
        blur: Standard deviation of the Gaussian blur in pixels, where it is not a factor.
        ranges: ``(start, stop)`` by factor, instead of the layout's.
        sizes: Samples by factor, instead of the layout's.
        fixed: Values of factors that are not axes; by default scale 1, orientation 0, aspect 1, shear 0,
            contrast 1 and the centre of the frame.
        full_turn: Let the orientation run over 2 pi although the shape repeats earlier: a multiple cover,
            labelled as such. By default it runs until the shape repeats: pi/2 for a square with aspect 1 and
            shear 0, pi for other squares and ellipses, 2 pi otherwise.

    Returns:
        The manifold, with images ``(size, size)`` in [0, contrast].

    Raises:
        ValueError: An argument is out of range, or the factors move the image in dependent directions.

    Example:
        >>> heart = sprite("heart", factors=("orientation", "x"), size=32)
        >>> heart.grid.names, heart.embedding(jnp.array([0.0, 15.5])).shape
        (('orientation', 'x'), (32, 32))
    """
    size = whole("sprite", "size", size, 8)
    choice("sprite", "layout", layout, LAYOUTS)
    full_turn = flag("sprite", "full_turn", full_turn)
    centre = (size - 1) / 2
    defaults = {"scale": 1.0, "orientation": 0.0, "y": centre, "x": centre, "aspect": 1.0, "shear": 0.0}
    defaults |= {"blur": blur, "contrast": 1.0}
    names = chosen_factors("sprite", factors, tuple(defaults))
    constants = fixed_values("sprite", fixed, names, defaults)
    symmetry = _symmetry(shape, constants)
    turn = 2 * math.pi if full_turn or layout == "original" else symmetry
    every = _layout_axes(layout, size, constants.get("blur", _SHARPEST), turn)
    axes = factor_axes("sprite", [every[name] for name in names], ranges, sizes)
    renderer = _renderer(shape, constants, axes, size)
    _refuse_redundant(renderer, axes, shape)
    name = shape if isinstance(shape, str) else getattr(shape, "__name__", "polygon")
    turn = next((axis.stop - axis.start for axis in axes if axis.name == "orientation"), symmetry)
    cover = max(1, round(turn / symmetry))
    title = f"{name} sprite" + (f" ({cover}-fold cover)" if cover > 1 else "")
    attributes = {"dataset": "sprites", "shape": name, "layout": layout, "size": size, "fixed": constants}
    return Manifold(title, renderer, Grid(axes), {}, attributes | {"cover": cover})


def _symmetry(shape: Outline, constants: Mapping[str, float]) -> float:
    """Smallest turn that maps every image of the family to itself."""
    upright = constants.get("aspect") == 1.0 and constants.get("shear") == 0.0
    turns = {"square": math.pi / 2 if upright else math.pi, "ellipse": math.pi}
    return turns.get(shape, 2 * math.pi) if isinstance(shape, str) else 2 * math.pi


def _layout_axes(layout: str, size: int, blur: float, turn: float) -> dict[str, Axis]:
    """Every axis of a layout; dense ones have an even number of samples if periodic, else an odd one."""
    dense, centre = layout == "dense", (size - 1) / 2
    place = (centre, centre + 1.0) if dense else (centre - size / 4, centre + size / 4)
    step = _DENSE_STEP * blur
    radius = _FARTHEST * size / 64 / step
    # Range of each factor, and the path of the outline over it in dense steps.
    table = {
        "scale": (0.5, 1.0, 0.5 * radius),
        "orientation": (0.0, turn, turn * radius),
        "y": (*place, 1 / step),
        "x": (*place, 1 / step),
        "aspect": (0.8, 1.25, 0.5 * math.log(1.25 / 0.8) * radius),
        "shear": (-0.3, 0.3, 0.6 * radius),
        "blur": (_SHARPEST, 2 * _SHARPEST, 8 * math.log(2)),
        "contrast": (0.5, 1.0, 8 * math.log(2)),
    }
    axes = {}
    for name, (start, stop, path) in table.items():
        angle, shift = name == "orientation", name in ("y", "x")
        periodic = (dense and shift) or (angle and layout != "original")
        count = _ORIGINAL.get(name, 16) if layout == "original" else 16
        if dense:
            least = 8 if angle else 1 if shift else 4
            count = 2 * max(least, math.ceil(path / 2)) + (not periodic)
        unit = "rad" if angle else "px" if shift or name == "blur" else ""
        axes[name] = Axis(name, start, stop, count, periodic, unit, wrap=not (dense and shift))
    return axes


def _renderer(shape: Outline, constants: dict[str, float], axes: Sequence[Axis], size: int) -> SpriteRenderer:
    """The renderer, with nodes that suffice wherever the factors go."""
    ends = {name: (value, value) for name, value in constants.items()}
    ends |= {axis.name: (axis.start, axis.stop) for axis in axes}
    wide = max(max(ends["aspect"]), 1 / min(ends["aspect"])) ** 0.5
    stretch = max(ends["scale"]) * wide * (1 + max(map(abs, ends["shear"])))
    nodes = outline_nodes(shape, stretch, min(ends["blur"]), size / 64)
    closed_form = isinstance(shape, str) and shape == "square" and constants.get("shear") == 0.0
    half_side = SQUARE_HALF_SIDE * size / 64 if closed_form else 0.0
    factors = tuple(axis.name for axis in axes)
    return SpriteRenderer(factors, tuple(constants.items()), size, nodes, half_side)


def _refuse_redundant(renderer: SpriteRenderer, axes: tuple[Axis, ...], shape: Outline) -> None:
    """Refuse factors whose motions of the outline are linearly dependent at every sampled point.

    An image moves with the normal velocity of its outline, so these velocities must have the rank of all
    geometric factors (blur and contrast act differently and always add one each).
    """
    geometric = [k for k, name in enumerate(renderer.factors) if name not in ("blur", "contrast")]
    nodes, rank = np.array(renderer.nodes), 0
    for share in _PROBES if geometric else ():
        u = np.array([axis.start + share * (axis.stop - axis.start) for axis in axes])
        velocities = np.stack([_normal_velocity(renderer, u, k, nodes) for k in geometric])
        lengths = np.linalg.norm(velocities, axis=1, keepdims=True)
        # Below this length a velocity is the noise of its difference quotient: the outline does not move.
        moving = lengths > 1e-7 * np.abs(nodes[:2]).max()
        unit = np.where(moving, velocities / np.where(moving, lengths, 1.0), 0.0)
        singular = np.linalg.svd(unit, compute_uv=False)
        rank = max(rank, int(np.sum(singular > 1e-6)))
    if rank < len(geometric):
        names = tuple(renderer.factors[k] for k in geometric)
        motions = f"the motions of the outline have rank {rank}, not {len(geometric)}. Leave one of them out"
        raise ValueError(f"sprite: factors {names} are redundant for shape {shape!r}: {motions}.")


def _normal_velocity(renderer: SpriteRenderer, u: np.ndarray, k: int, nodes: np.ndarray) -> np.ndarray:
    """Velocity of the outline along its normal with factor k, by central differences."""

    def outline(shift: float) -> np.ndarray:
        point = np.where(np.arange(len(u)) == k, u + shift, u)
        f = dict(renderer.fixed) | dict(zip(renderer.factors, point, strict=True))
        return np.stack(_moved_outline(f, list(nodes), np))

    _, _, dx, dy = outline(0.0)
    x, y = (outline(1e-5) - outline(-1e-5))[:2] / 2e-5
    return x * dy - y * dx
