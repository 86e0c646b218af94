"""Finite-difference weights of any order, ghost layers, spectral derivatives.

A derivative along one axis is a small matrix acting on a window of samples: central differences, at an open
border on extrapolated ghost layers (which keep the order), wrapped at a periodic one, or dense (spectral).
Everything here is NumPy float64 and runs once, at trace time.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from manifold_jax._checks import whole
from manifold_jax.geometry.grid import Accuracy, Axis, Grid, accuracies, per_axis

BELOW = 4  # orders that the second difference lies below the first: they agree on noise, not on a signal
KEPT_SIZE = 256  # most samples of an axis whose plan is kept: a few MiB
SPECTRAL_SIZE = 8192  # most samples of a spectral axis, whose matrix is dense: 512 MiB in float64

Spec = tuple[Any, ...]
"""``(accuracy, stride)`` of one axis; ``(accuracy, stride, smooth)`` fits polynomials to so many samples on
each side; ``("spectral", 1, modes)`` leaves the highest modes out."""

Stencil = tuple[Spec, ...]
"""One for each axis."""


def stencil_of(
    caller: str,
    grid: Grid,
    accuracy: Accuracy | tuple[Accuracy, ...],
    stride: int | tuple[int, ...],
    smooth: int | tuple[int, ...] = 0,
) -> Stencil:
    """Check accuracy, stride and smoothing, and give one of each to every axis of a grid."""
    orders = accuracies(caller, accuracy, grid)
    strides = [whole(caller, "stride", s) for s in per_axis(caller, "stride", stride, grid)]
    widths = [whole(caller, "smooth", s, 0) for s in per_axis(caller, "smooth", smooth, grid)]
    for order, width in zip(orders, widths, strict=True):
        if width and (order == "spectral" or width <= int(order) // 2 + 1):
            raise ValueError(
                f"{caller}: smooth must be 0, or samples on each side of a polynomial of degree accuracy + 2 "
                f"(at least accuracy / 2 + 2, accuracy not 'spectral'), got {width} at accuracy {order}."
            )
    return tuple((o, s, w) if w else (o, s) for o, s, w in zip(orders, strides, widths, strict=True))


@cache
def central_weights(derivative: int, order: int) -> np.ndarray:
    """Weights of the central difference at offsets ``-order/2 .. order/2`` for unit spacing.

    They solve sum_j w_j j^k = k! [k = derivative] for k = 0..order, hence are exact on polynomials of degree
    ``order``, which is even (Fornberg, Math. Comp. 51, 1988). Derivative 0 is the sample itself.

    Example:
        >>> central_weights(2, 2).round(12)
        array([ 1., -2.,  1.])
    """
    m = order // 2
    offsets = np.arange(-m, m + 1)
    if derivative == 0:
        return (offsets == 0).astype(float)
    weights = np.zeros(order + 1)
    for j in range(1, m + 1):
        # w_j = k (-1)^(j+1) (m!)^2 / (j^k (m-j)! (m+j)!): integers until the last division.
        share = (-1) ** (j + 1) * derivative * math.factorial(m) ** 2
        right = share / (j**derivative * math.factorial(m - j) * math.factorial(m + j))
        weights[m + j], weights[m - j] = right, right if derivative == 2 else -right
    weights[m] = -math.fsum(weights)
    return weights


@lru_cache(maxsize=4096)  # at unequal steps every sample has its own
def local_polynomial_weights(offsets: tuple[float, ...], degree: int, derivative: int) -> np.ndarray:
    """Weights of a derivative at 0 of the polynomial that fits samples at ``offsets`` best, for unit spacing.

    Savitzky & Golay, Anal. Chem. 36, 1964. Exact on polynomials of that degree; among all weights that are,
    they pass the least noise.
    """
    scale = max(map(abs, offsets))
    powers = np.vander(np.array(offsets) / scale, degree + 1, increasing=True)
    return math.factorial(derivative) * np.linalg.pinv(powers)[derivative] / scale**derivative


@cache
def extrapolation_weights(distance: int, degree: int) -> np.ndarray:
    """Lagrange weights that continue samples 0, 1, ..., ``degree`` to position ``-distance``."""
    # prod over m != j of (-distance - m) / (j - m): whole numbers.
    common = distance * math.comb(distance + degree, degree)
    weights = [(-1) ** j * common * math.comb(degree, j) // (distance + j) for j in range(degree + 1)]
    return np.array(weights, float)


def node_weights(positions: np.ndarray, derivative: int) -> np.ndarray:
    """Weights of a derivative at 0 of the polynomial through samples at any positions.

    Fornberg, SIAM Rev. 40, 1998.
    """
    weights = np.zeros((derivative + 1, len(positions)))
    weights[0, 0] = product = 1.0
    for j, x in enumerate(positions[1:], start=1):
        gaps = x - positions[:j]
        last, product = product, np.prod(gaps)
        for m in range(min(j, derivative), -1, -1):
            lower = m * weights[m - 1, :j] if m else np.zeros(j)
            weights[m, j] = last / product * (lower[-1] - positions[j - 1] * weights[m, j - 1])
            weights[m, :j] = (x * weights[m, :j] - lower) / gaps
    return weights[derivative]


def stencil_words(stencil: Stencil) -> str:
    """Orders of the axes in words, each once.

    Example:
        >>> stencil_words(((4, 1), (4, 2), ("spectral", 1), (4, 1)))
        '4, 4 (stride 2), spectral'
    """

    def words(order: Any, stride: int, smooth: int = 0) -> str:
        options = [f"stride {stride}"] * (stride > 1) + [f"smooth {smooth}"] * (smooth > 0)
        return f"{order} ({', '.join(options)})" if options else str(order)

    return ", ".join(words(*spec) for spec in dict.fromkeys(stencil))


def halo(accuracy: Accuracy, stride: int, smooth: int = 0) -> int:
    """Samples that a stencil needs beyond a point on each side."""
    return 0 if accuracy == "spectral" else (smooth or int(accuracy) // 2) * stride


def axis_halo(axis: Axis, accuracy: Accuracy, stride: int, smooth: int = 0) -> int:
    """The same on an axis: of unequal steps one sample more keeps the order of second derivatives."""
    return halo(accuracy, stride, smooth) + (stride if axis.nodes and not smooth else 0)


def reaches(stencil: Stencil, grid: Grid) -> tuple[int, ...]:
    """Samples on each side that matter to a stencil; a spectral one feels all, the near ones most."""
    pairs = zip(grid.axes, stencil, strict=True)
    return tuple(axis.size // 8 if spec[0] == "spectral" else axis_halo(axis, *spec) for axis, spec in pairs)


def spectral_matrix(axis: Axis, derivative: int, left_out: int = 0) -> np.ndarray:
    """Derivative 0, 1 or 2 of the trigonometric interpolant at the samples of a periodic axis, float64.

    ``left_out`` is how many of the highest modes do not count.

    Trefethen, Spectral Methods in MATLAB (SIAM 2000), equations 3.9 and 3.12 for an even number of samples;
    for an odd number the first derivative is exact on every mode and is squared.
    """
    n = axis.size
    if derivative == 0:
        return np.eye(n)
    lag = np.subtract.outer(np.arange(n), np.arange(n))
    angle = np.pi * lag / n
    sign = np.where(lag % 2 == 0, 1.0, -1.0)
    off = lag != 0
    sine = np.where(off, np.sin(angle), 1.0)
    first = np.where(off, 0.5 * sign * (np.cos(angle) if n % 2 == 0 else 1.0) / sine, 0.0)
    if derivative == 1:
        matrix = first
    elif n % 2 == 0:
        matrix = np.where(off, -0.5 * sign / sine**2, -(n**2) / 12 - 1 / 6)
    else:
        matrix = first @ first
    matrix = matrix * (2 * np.pi / (axis.stop - axis.start)) ** derivative
    if left_out:
        kept = np.arange(1, max(1, n // 2 - left_out) + 1)
        matrix = matrix @ (1 + 2 * np.cos(2 * np.pi / n * np.multiply.outer(lag, kept)).sum(-1)) / n
    return matrix


def fewest_samples(axis: Axis, accuracy: Accuracy, stride: int, smooth: int = 0) -> int:
    """Samples that a stencil needs on an axis: its own width, or as many as its ghost layers come from."""
    if accuracy == "spectral":
        return 0
    if smooth:
        return 2 * smooth * stride + 1
    if axis.nodes:
        return (int(accuracy) + 1) * stride + 1
    return int(accuracy) * stride + 1 if axis.wraps else (int(accuracy) + 2) * stride


class AxisPlan(NamedTuple):
    """How the blocks of one axis are differentiated.

    Attributes:
        rows: ``(blocks, block)`` index of each output sample.
        columns: ``(blocks, window)`` index of each input sample; those outside of ``range(size)`` lie beyond
            the ends and are wrapped or evaluated.
        kinds: ``(blocks,)`` which of the matrices a block takes; those away from the ends share one.
        matrices: ``(specs, kinds, 3, block, window)`` derivative 0, 1 and 2, float64.
        differences: ``(kinds, 2, block, window)`` differences of norm 1 at each output sample, of the order
            asked for and of :data:`BELOW` less.
        gains: ``(4, size)`` noise gain of derivative 1 and 2 at every sample, by the first stencil; then that
            of noise which grows with the distance from the sample.
        overlaps: ``(6, size)`` products of the weights of the higher difference, then of the sample itself,
            with those of derivative 0, 1 and 2.
        chart: Start, spacing and length of the axis.
    """

    rows: np.ndarray
    columns: np.ndarray
    kinds: np.ndarray
    matrices: np.ndarray
    differences: np.ndarray
    gains: np.ndarray
    overlaps: np.ndarray
    chart: np.ndarray


def difference_weights(order: int) -> np.ndarray:
    """Weights (-1)^j binom(m, j) / sqrt(binom(2m, m)) of the difference of order m; their norm is 1."""
    signed = [(-1) ** j * math.comb(order, j) for j in range(order + 1)]
    return np.array(signed, float) / math.sqrt(math.comb(2 * order, order))


def axis_plan(
    axis: Axis, specs: Stencil, block: int, *, evaluated: bool, difference: int = 0, pieces: int = 1
) -> AxisPlan:
    """Windows and derivative matrices of one axis, for one or more stencils on the same windows.

    Blocks have ``block`` output samples; the last one, of every one of the ``pieces`` that devices hold, is
    moved back where that does not divide. Points that are ``evaluated`` exist beyond the ends. Otherwise a
    periodic axis wraps and an open one is extrapolated with polynomials of degree ``accuracy + 1``, which
    keep the order of second derivatives. A ``difference`` of that order, of samples that exist, is made
    ready too. Plans of small axes are kept for the next call.
    """
    make = _kept_plan if axis.size <= KEPT_SIZE else _make_plan
    plan = make(axis, specs, block, evaluated, difference, pieces)
    # Objects of their own: JAX remembers by identity what constants are, which depends on jax_enable_x64.
    return AxisPlan(*(table.view() for table in plan))


def _make_plan(
    axis: Axis, specs: Stencil, block: int, evaluated: bool, difference: int, pieces: int
) -> AxisPlan:
    """What :func:`axis_plan` gives."""
    n, free = axis.size, evaluated or axis.wraps
    spectral = any(accuracy == "spectral" for accuracy, *_ in specs)
    beyond = max(-(-difference // 2), *(axis_halo(axis, *spec) for spec in specs))
    _refuse_size(axis, specs, evaluated)
    piece = n // pieces
    within = np.minimum(np.arange(0, piece, block), piece - block)
    starts = (piece * np.arange(pieces)[:, None] + within).ravel()
    width, windows = block + 2 * beyond, starts - beyond
    if spectral or (axis.wraps and not evaluated and width >= n):
        width, windows = n, np.zeros_like(starts)
    elif not free:
        width = min(n, max(width, difference + 1, *(fewest_samples(axis, *spec) for spec in specs)))
        windows = np.clip(windows, 0, n - width)
    rows = starts[:, None] + np.arange(block)
    columns = windows[:, None] + np.arange(width)
    # Blocks at the same place in their windows have the same matrix, except where they need ghost layers.
    ghosts = 0 if free else beyond
    special = (width == n) | (starts < ghosts) | (starts > n - block - ghosts) | bool(axis.nodes)
    offset = starts - windows
    places = np.where(special, offset.max() + 1 + starts, offset)
    _, first, kinds = np.unique(places, return_index=True, return_inverse=True)

    def derivatives(spec: Spec, k: int) -> list[np.ndarray]:
        return [_local_matrix(axis, spec, order, rows[k], columns[k], free) for order in range(3)]

    matrices = np.array([[derivatives(spec, k) for k in first] for spec in specs])
    orders = difference, max(0, difference - BELOW)
    differences = [[_difference_matrix(axis, m, rows[k], columns[k], free) for m in orders] for k in first]
    differences = np.array(differences)
    main, chart = matrices[0], np.array([axis.start, axis.spacing, axis.stop - axis.start])
    products = [np.einsum("kbm,kobm->okb", x, main) for x in (differences[:, 0], main[:, 0])]

    def at_samples(values: np.ndarray) -> np.ndarray:
        """Values ``(r, kinds, block)`` at every sample, ``(r, n)``."""
        table = np.empty((len(values), n))
        table[:, rows] = values[:, kinds]
        return table

    away = np.array([_distances(axis, rows[k], columns[k]) for k in first])[:, None]
    weights = np.concatenate([main[:, 1:], main[:, 1:] * away], axis=1)
    gains = at_samples(np.linalg.norm(weights, axis=-1).swapaxes(0, 1))
    overlaps = at_samples(np.concatenate(products))
    plan = AxisPlan(rows, columns, kinds, matrices, differences, gains, overlaps, chart)
    for table in plan:
        table.flags.writeable = False  # shared by all who ask for it
    return plan


_kept_plan = lru_cache(maxsize=32)(_make_plan)


def _refuse_size(axis: Axis, specs: Stencil, evaluated: bool) -> None:
    """ValueError where an axis has too many samples for a dense matrix, or too few for a stencil."""
    has = f"Axis {axis.name!r} has {axis.size} samples"
    if axis.size > SPECTRAL_SIZE and any(accuracy == "spectral" for accuracy, *_ in specs):
        limit = f"a spectral derivative is a dense matrix for {SPECTRAL_SIZE} at most"
        raise ValueError(f"{has}; {limit}: take accuracy=8 or fewer.")
    for k, (accuracy, stride, *smooth) in enumerate(specs):
        # Where points are evaluated they exist beyond the ends, but a stencil must not go around a period.
        turn = 2 * halo(accuracy, stride, *smooth) + 1 if k == 0 and axis.wraps else 0
        needed = turn if evaluated else fewest_samples(axis, accuracy, stride, *smooth)
        if axis.size < needed:
            limit = f"order {accuracy} at stride {stride}" + "".join(f" and smooth={w}" for w in smooth)
            remedy = f"take more samples or a lower {'smooth' if smooth else 'accuracy'}"
            raise ValueError(f"{has}; {limit} needs at least {needed}: {remedy}.")


def _distances(axis: Axis, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """From each output sample of an axis to the samples of its window ``(block, window)``."""
    if axis.nodes:
        samples = axis.samples()
        away = samples[columns % axis.size] - samples[rows][:, None]
    else:
        away = axis.spacing * (columns - rows[:, None])
    turn = axis.stop - axis.start
    return (away + turn / 2) % turn - turn / 2 if axis.wraps else away


def _difference_matrix(
    axis: Axis, order: int, rows: np.ndarray, columns: np.ndarray, free: bool
) -> np.ndarray:
    """Rows of the difference of an axis, centred on each output sample as far as there are samples."""
    n, first = axis.size, columns[0]
    matrix = np.zeros((len(rows), len(columns)))
    if not order:
        return matrix
    starts = rows - order // 2 if free else np.clip(rows - order // 2, 0, n - 1 - order)
    whole_period = free and len(columns) == n and first == 0
    if axis.nodes:
        return _node_differences(axis, starts[:, None] + np.arange(order + 1), matrix, first, whole_period)
    for offset, weight in enumerate(difference_weights(order)):
        targets = starts + offset
        local = (targets % n if whole_period else targets) - first
        np.add.at(matrix, (np.arange(len(rows)), local), weight)
    return matrix


def _node_differences(
    axis: Axis, targets: np.ndarray, matrix: np.ndarray, first: int, whole_period: bool
) -> np.ndarray:
    """Rows of divided differences of norm 1, weights 1 / prod_i (x_j - x_i), added to a matrix."""
    positions = axis.positions(targets)
    positions = positions / (np.ptp(positions, axis=1, keepdims=True) / 4)
    gaps = positions[:, :, None] - positions[:, None, :] + np.eye(targets.shape[1])
    weights = 1 / np.prod(gaps, axis=2)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    local = (targets % axis.size if whole_period else targets) - first
    np.add.at(matrix, (np.arange(len(matrix))[:, None], local), weights)
    return matrix


def _local_matrix(
    axis: Axis, spec: Spec, derivative: int, rows: np.ndarray, columns: np.ndarray, free: bool
) -> np.ndarray:
    """Rows of the derivative matrix of an axis, restricted to the columns of a window."""
    accuracy, stride, *smooth = spec
    if accuracy == "spectral":
        return spectral_matrix(axis, derivative, *smooth)[rows]
    order, n, first = int(accuracy), axis.size, columns[0]
    matrix = np.zeros((len(rows), len(columns)))
    whole_period = free and len(columns) == n and first == 0
    if derivative and (smooth or axis.nodes):
        steps = np.arange(-smooth[0], smooth[0] + 1) if smooth else np.arange(order + 2) - order // 2
        targets = rows[:, None] + stride * steps
        # Near an open end the samples lie to one side, and one more degree keeps the order.
        beyond = np.maximum(-targets[:, 0], 0) - np.maximum(targets[:, -1] - (n - 1), 0)
        shifts = np.zeros_like(beyond) if free else beyond
        targets += shifts[:, None]
        offsets = (
            axis.positions(targets) - axis.positions(rows)[:, None] if axis.nodes else targets - rows[:, None]
        )
        degrees = order + ((shifts != 0) | bool(axis.nodes))
        for k, (place, degree) in enumerate(zip(offsets, degrees.tolist(), strict=True)):
            if smooth:
                weights = local_polynomial_weights(tuple(place.tolist()), degree, derivative)
            else:
                weights = node_weights(place, derivative)
            np.add.at(matrix[k], (targets[k] % n if whole_period else targets[k]) - first, weights)
        return matrix if axis.nodes else matrix / axis.spacing**derivative
    for offset, weight in enumerate(central_weights(derivative, order), -(order // 2)):
        if weight == 0.0:
            continue
        targets = rows + offset * stride
        inside = np.ones(len(rows), bool) if free else (targets >= 0) & (targets < n)
        local = (targets % n if whole_period else targets) - first
        np.add.at(matrix, (np.flatnonzero(inside), local[inside]), weight)
        for row in np.flatnonzero(~inside):
            sources, shares = _ghost(targets[row], n, order + 1, stride)
            matrix[row, sources - first] += weight * shares
    return matrix / (axis.spacing * stride) ** derivative


def _ghost(target: int, n: int, degree: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Interior columns and weights that extrapolate the sample at ``target`` beyond an end."""
    if target < 0:
        base, step = target % stride, stride
    else:
        base, step = n - 1 - (n - 1 - target) % stride, -stride
    distance = (base - target) // step
    return base + step * np.arange(degree + 1), extrapolation_weights(int(distance), degree)
