r"""Smooth zoom, rotation and translation of a ring of views, exactly blurred by a Gaussian.

The image of a frame whose pixel n, at offset q_n from the frame's centre, has value a_n is

    image(p) = (z h)^2 sum_n a_n G_sigma(p - t - z h R q_n)
    G_sigma(v) = exp(-|v|^2 / 2 sigma^2) / (2 pi sigma^2)

with zoom z, pitch h (output pixels per frame pixel), rotation R, translation t and blur sigma, all in
output pixels: C-infinity in every factor, and the blur is the same isotropic Gaussian whatever they are.
Summed as it stands it costs (output pixels) x (frame pixels) exponentials. Here it is a chain of small
dense matrix products instead, without any gather:

1. The blur is split, sigma^2 = (z h sigma_1)^2 + sigma_2^2. The frame blurred by sigma_1 is expanded in
   Hermite functions psi_a(x) psi_b(y) with a + b < N, N following from frame size / sigma_1.
2. Rotation maps each total order n = a + b to itself: its generator x d/dy - y d/dx is there an
   antisymmetric tridiagonal matrix with eigenvalues i m, m = -n, -n + 2, ..., n. In its eigenbasis (the
   Laguerre-Gauss modes of wave optics) a rotation is a phase, exactly, for every angle alike.
3. Zoom, translation and the rest of the blur are separable: one matrix product per image side.

Views are combined linearly before step 2, so interpolation between them costs one more product.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax._linalg import HIGHEST, matmul

SHARE = 0.9  # part of the blur that is spent on the frame (sigma_1), at the largest zoom
CUTOFF = 4.3  # the expansion reaches frequency CUTOFF / sigma_1, where the frame's blur leaves 1e-4
MARGIN = 6.0  # the expansion extends MARGIN * sigma_1 beyond the frame's corners


class Ring(NamedTuple):
    """A ring of views, expanded and ready to be rendered; rows = N/2 and columns = N/2 + 1."""

    coefficients: Float[Array, "n 2 rows columns"]  # modes (cosine, sine) of each view basis function
    blocks: Float[Array, "2 rows columns columns"]  # modes to Hermite coefficients of even and odd y-orders
    orders: Float[Array, "rows columns"]  # angular order m of each mode
    mask: Float[Array, "columns N"]  # 1 where row n = 0 ... N-1 of the unfolded blocks has an entry
    nodes: Float[Array, " L"]  # of the quadrature, >= 0, in frame pixels; the others are their mirror images
    hermite: Float[Array, "2 L rows"]  # even and odd Hermite functions there, times weight over sqrt(2 pi)
    pixels: Float[Array, " pixels"]  # places on one side relative to its centre; if centred, those > 0
    pitch: Float[Array, ""]  # h, output pixels per frame pixel
    blur: Float[Array, ""]  # sigma, in output pixels
    frame_blur: Float[Array, ""]  # sigma_1, in frame pixels


def bandlimited_basis(angle: Float[Array, ""], count: int) -> Float[Array, " count"]:
    """Trigonometric functions that interpolate ``count`` equally spaced views of a turn, at an angle.

    1, cos m v, sin m v, and for an even count the Nyquist term cos(count v / 2), whose sine vanishes on
    all samples: the Dirichlet interpolant with that term shared equally between both signs.
    """
    order = jnp.arange(1, (count + 1) // 2)
    one = jnp.ones((1,), jnp.asarray(angle).dtype)
    nyquist = [jnp.cos(count // 2 * angle)[None]] if count % 2 == 0 else []
    return jnp.concatenate([one, jnp.cos(order * angle), jnp.sin(order * angle), *nyquist])


def spline_basis(angle: Float[Array, ""], count: int) -> Float[Array, " count"]:
    """Periodic B-splines of degree 7, one centred on each view: C^6, and local.

    B(x) = 1/7! sum_i (-1)^i C(8, i) max(4 - i - |x|, 0)^7, with x in units of the view spacing.
    """
    offset = angle * (count / (2 * math.pi)) - jnp.arange(count)
    offset = offset - count * jnp.round(offset / count)
    distance = jnp.where(offset < 0, -offset, offset)  # not abs, whose second derivative at 0 is lost
    inside = jnp.maximum(4 - jnp.arange(4)[:, None] - distance, 0)
    signs = jnp.asarray([1, -8, 28, -56], inside.dtype)
    return jnp.sum(signs[:, None] * inside**7, axis=0) / math.factorial(7)


INTERPOLATIONS = {"bandlimited": bandlimited_basis, "spline": spline_basis}


def hermite_functions(x: np.ndarray, count: int) -> np.ndarray:
    """Orthonormal Hermite functions psi_0 ... psi_{count-1} at x, float64 of shape ``(len(x), count)``.

    psi_{n+1} = sqrt(2 / (n+1)) x psi_n - sqrt(n / (n+1)) psi_{n-1}, with the exponent carried apart
    because exp(-x^2 / 2) underflows long before psi_n(x) does.
    """
    table = np.zeros((count, len(x)))
    exponent = -(x**2) / 2
    previous, current = np.zeros_like(x), np.full_like(x, math.pi**-0.25)
    for n in range(count):
        table[n] = current * np.exp(exponent)
        following = math.sqrt(2 / (n + 1)) * x * current - math.sqrt(n / (n + 1)) * previous
        scale = np.maximum(np.abs(following), 1.0)
        previous, current, exponent = current / scale, following / scale, exponent + np.log(scale)
    return table.T


def _rotation_modes(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal (cosine, sine) modes m = n, n-2, ... >= 0 of total order n.

    They are i^b w_b, with w an eigenvector of the symmetric tridiagonal matrix of the generator,
    sqrt((n-b) (b+1)) w_{b+1} + sqrt(b (n-b+1)) w_{b-1} = m w_b, w_0^2 = binomial(n, j) / 2^n. Those of m
    and -m are conjugate, so a rotation turns their real part (even b) and imaginary part (odd b) into one
    another. The recurrence is stable up to the middle, and w_{n-b} = (-1)^j w_b.
    """
    j = np.arange(n // 2 + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    log_binomial = log_factorial[n] - log_factorial[j] - log_factorial[n - j]
    modes = np.zeros((n + 1, len(j)))
    modes[0] = np.exp((log_binomial - n * math.log(2)) / 2)
    for b in range(n // 2):
        rest = (n - 2 * j) * modes[b] - math.sqrt(b * (n - b + 1)) * modes[b - 1]
        modes[b + 1] = rest / math.sqrt((n - b) * (b + 1))
    modes[n // 2 + 1 :] = ((-1.0) ** j * modes)[: (n + 1) // 2][::-1]
    sign = (-1.0) ** (np.arange(n + 1) // 2)[:, None]
    modes *= sign * np.where(2 * j < n, math.sqrt(2), 1.0)  # m = 0 is alone, and has no odd b
    return modes[0::2], modes[1::2]


@cache
def rotation_blocks(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks, orders and mask of :class:`Ring` for total orders below ``count`` (even).

    Orders r and count-1-r have together the same number of modes for every r, so they share one block,
    the second from the end backwards: no padding.
    """
    rows, columns = count // 2, count // 2 + 1
    blocks, orders = np.zeros((2, rows, columns, columns)), np.zeros((rows, columns))
    for n in range(count):
        row, step = (n, 1) if n < rows else (count - 1 - n, -1)
        for parity, block in enumerate(_rotation_modes(n)):
            blocks[parity, row, ::step, ::step][: block.shape[0], : block.shape[1]] = block
        orders[row, ::step][: n // 2 + 1] = n - 2 * np.arange(n // 2 + 1)
    mask = np.arange(columns)[:, None] <= np.arange(count) // 2
    return blocks, orders, mask.astype(float)


def _fold(coefficients: np.ndarray) -> np.ndarray:
    """Hermite coefficients (..., b, a) to folded orders (..., parity of b, rows, columns)."""
    count = coefficients.shape[-1]
    rows, columns = count // 2, count // 2 + 1
    folded = np.zeros((*coefficients.shape[:-2], 2, rows, columns))
    for n in range(count):
        row, step = (n, 1) if n < rows else (count - 1 - n, -1)
        order = coefficients[..., np.arange(n + 1), n - np.arange(n + 1)]
        folded[..., 0, row, ::step][..., : n // 2 + 1] = order[..., 0::2]
        folded[..., 1, row, ::step][..., : (n + 1) // 2] = order[..., 1::2]
    return folded


def _unfold(
    even: Float[Array, "columns rows"], odd: Float[Array, "columns rows"], mask: Float[Array, "columns N"]
) -> Float[Array, "2 rows N"]:
    """Folded orders, transposed, back to Hermite coefficients [parity of b, b // 2, a]; undoes :func:`_fold`.

    Row b of the unfolded table runs over n = a + b. Read with a row length longer by the shift, it runs
    over a (what then runs over into the next row has n < b there, and is zero).
    """
    count = mask.shape[1]

    def rows(half: jax.Array, shift: int) -> jax.Array:
        table = jnp.concatenate([half, half[::-1, ::-1]], axis=1) * mask
        flat = jnp.pad(table[:-1].reshape(-1), (0, count + shift))[shift:]
        return flat[: (count // 2) * (count + 2)].reshape(count // 2, count + 2)[:, :count]

    return jnp.stack([rows(even, 0), rows(odd, 1)])


def prepare_ring(
    views: Float[np.ndarray, "n frame frame"], size: int, blur: float, zoom: float, kind: str, centred: bool
) -> Ring:
    """Expand square frames, equally spaced over one turn, in JAX's default floating type.

    Images of ``size`` pixels per side show the frame at zoom 1, blurred by sigma = ``blur`` pixels; ``zoom``
    is the largest, and ``kind`` a key of ``INTERPOLATIONS``. A centred ring is never translated and its size
    is even, so that half of the pixels of a side suffice.
    """
    number, frame = views.shape[:2]
    pitch = size / frame
    frame_blur = SHARE * blur / (pitch * zoom)
    radius = frame / math.sqrt(2) + MARGIN * frame_blur
    count = 2 * math.ceil(radius * CUTOFF / frame_blur / 4)
    scale = radius / math.sqrt(2 * count)  # psi_n reaches to radius, and to frequency radius / scale^2

    def expansion(spacing: float) -> tuple[np.ndarray, np.ndarray]:
        half = math.ceil((radius + 2 * scale) / spacing)
        nodes = np.arange(-half, half + 1) * spacing
        return nodes, hermite_functions(nodes / scale, count) * spacing / math.sqrt(scale)

    nodes, hermite = expansion(frame_blur / 3)
    offsets = np.arange(frame) - (frame - 1) / 2
    gaussian = np.exp(-0.5 * ((offsets[:, None] - nodes) / frame_blur) ** 2)
    analysis = gaussian @ hermite / (frame_blur * math.sqrt(2 * math.pi))
    blocks, orders, mask = rotation_blocks(count)
    folded = _fold(analysis.T @ views @ analysis)
    modes = np.swapaxes(blocks, -1, -2) @ np.moveaxis(folded, 0, -1)
    modes = np.linalg.solve(sample_basis(kind, number), modes.reshape(-1, number).T).reshape(folded.shape)
    nodes, hermite = expansion(frame_blur / 2)
    middle = len(nodes) // 2
    half = hermite[middle:] / math.sqrt(2 * math.pi)
    half[0] /= 2  # node 0 is its own mirror image
    parities = np.stack([half[:, 0::2], half[:, 1::2]])
    pixels = (np.arange(size) - (size - 1) / 2)[size // 2 if centred else 0 :]
    scales = (pitch, float(blur), frame_blur)
    return Ring(*map(jnp.asarray, (modes, blocks, orders, mask, nodes[middle:], parities, pixels, *scales)))


@cache
def sample_basis(kind: str, number: int) -> np.ndarray:
    """Interpolation functions at the views themselves, float64 of shape ``(number, number)``."""
    angles = 2 * np.pi * np.arange(number) / number
    with jax.enable_x64(True):
        basis = jax.jit(jax.vmap(lambda angle: INTERPOLATIONS[kind](angle, number)))
        return np.asarray(basis(jnp.asarray(angles)))


def _side(ring: Ring, zoom: Float[Array, ""], shift: Float[Array, ""]) -> Float[Array, "2 pixels rows"]:
    """Even and odd Hermite functions zoomed, shifted and blurred by sigma_2, at the pixels of one side."""
    scale = zoom * ring.pitch
    variance = ring.blur**2 - (scale * ring.frame_blur) ** 2
    least = 0.999 * (1 - SHARE**2) * ring.blur**2  # a hair less than what is left at the largest zoom
    sigma = jnp.sqrt(jnp.where(variance < least, jnp.nan, variance))
    positive, negative = (
        jnp.exp(-0.5 * ((ring.pixels[:, None] - shift - scale * nodes) / sigma) ** 2)
        for nodes in (ring.nodes, -ring.nodes)
    )
    weights = jnp.stack([positive + negative, positive - negative]) * (scale / sigma)
    return matmul(weights, ring.hermite)


def _apply(side: Float[Array, "2 pixels rows"], table: Float[Array, "2 rows k"], centred: bool) -> Array:
    """Sum over Hermite functions, split by parity; on a centred side the other half follows from it."""
    even, odd = matmul(side, table)
    return jnp.concatenate([(even - odd)[::-1], even + odd]) if centred else even + odd


def render(
    ring: Ring, basis: Float[Array, " n"], factors: Float[Array, " 4"], centred: bool
) -> Float[Array, "size size"]:
    """One image, rows downwards; NaN above the largest zoom of the ring.

    Args:
        ring: From :func:`prepare_ring`, with the same ``centred``.
        basis: The view basis functions at the wanted view.
        factors: Zoom, rotation (radians, counter-clockwise as displayed), then the translation y (downwards)
            and x (to the right) in output pixels.
        centred: There is no translation; this costs half as much.
    """
    zoom, rotation, y, x = factors
    cosine, sine = jnp.tensordot(basis, ring.coefficients, axes=1, precision=HIGHEST)
    turn_cosine, turn_sine = jnp.cos(ring.orders * rotation), jnp.sin(ring.orders * rotation)
    turned = (turn_cosine * cosine + turn_sine * sine, turn_cosine * sine - turn_sine * cosine)
    even, odd = (
        jnp.einsum("rij,rj->ir", block, mode, precision=HIGHEST)
        for block, mode in zip(ring.blocks, turned, strict=True)
    )
    coefficients = _unfold(even, odd, ring.mask)  # [parity of b, b // 2, a]
    horizontal = _side(ring, zoom, x)
    vertical = horizontal if centred else _side(ring, zoom, y)
    partial = _apply(vertical, coefficients, centred)  # [pixel, a]
    split = jnp.moveaxis(partial.reshape(len(partial), -1, 2), (0, 1, 2), (2, 1, 0))
    return _apply(horizontal, split, centred).T
