"""Choosing points of a manifold: uniform in volume, far apart, or split in two.

Equal random keys give equal choices. Numbers outside the ranges below are a ValueError.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from manifold_jax._checks import fits_in_memory, instance, positive, random_key, real, whole
from manifold_jax._linalg import block_rows, map_blocks, matmul
from manifold_jax.geometry.embeddings import frozen_embedding
from manifold_jax.geometry.grid import Grid
from manifold_jax.geometry.manifold import Manifold

PROBES = 1024  # grid points, at most, from which the first bound on the volume element is taken


class Samples(NamedTuple):
    """Random points of a manifold.

    Attributes:
        coordinates: Chart coordinates ``(count, d)``; NaN in rows that were not filled.
        points: Their embeddings ``(count, *features)``; NaN in rows that were not filled.
        accepted: ``(count,)``, False in rows left empty when the rounds ran out.
        bound: The bound on the volume element under which the points were accepted: the largest value
            seen at a probe or a proposal.
    """

    coordinates: Float[Array, "count d"]
    points: Float[Array, "count *features"]
    accepted: Bool[Array, "count"]
    bound: Float[Array, ""]


class Split(NamedTuple):
    """Indices of a random split.

    Attributes:
        train: ``(count - tests,)``.
        test: ``(tests,)``.
    """

    train: Int[Array, "train"]
    test: Int[Array, "test"]


def sample_uniform(key: PRNGKeyArray, manifold: Manifold, count: int, *, max_rounds: int = 1000) -> Samples:
    """Independent points, uniform with respect to the volume of the manifold over the box of its chart.

    Rejection: u uniform in the chart box (from the start to the stop of every axis) and w uniform in (0, 1]
    are accepted if w * bound <= sqrt(det J(u)^T J(u)). The bound starts as the largest volume element on a
    lattice of at most 1024 grid points, ends of the axes included, and is raised whenever a proposal exceeds
    it; all points accepted until then are tested again with their own w, so that the result is exactly that
    of the raised bound. A region above the final bound is one that no proposal has met, a share of the chart
    of the order of 1 / proposals (empirical supremum rejection; Caffo, Booth & Davis, *Biometrika* 89, 2002).
    A narrow, high peak of the volume element can therefore be under-sampled: look at ``bound``.

    Args:
        key: Random key.
        manifold: Where to sample. Points where the volume element is 0 or not finite are never chosen.
            The compiled loop is cached per Manifold object: build it once, not once per call.
        count: Number of points, at least 1.
        max_rounds: Rounds of proposals, at least 1, after which rows stay empty (``accepted`` False, NaN).

    Returns:
        The samples, in JAX's default floating type.

    Example:
        >>> samples = sample_uniform(jax.random.key(0), mj.datasets.torus(), 100)
        >>> samples.points.shape, bool(samples.accepted.all())
        ((100, 3), True)
    """
    random_key("sample_uniform", "key", key)
    count = whole("sample_uniform", "count", count)
    max_rounds = whole("sample_uniform", "max_rounds", max_rounds)
    instance("sample_uniform", "manifold", manifold, Manifold, "sample the members of a union one by one")
    embedding = frozen_embedding(manifold.embedding, manifold.grid.ndim, jnp.result_type(float))
    size = 8 * count * (math.prod(manifold.feature_shape) + manifold.grid.ndim)
    fits_in_memory("sample_uniform", f"count={count} points", size)
    return _rejection(key, embedding, manifold.grid, count, max_rounds)


@partial(jax.jit, static_argnames=("grid", "count"))
def _rejection(key: PRNGKeyArray, embedding: Any, grid: Grid, count: int, max_rounds: int) -> Samples:
    manifold, axes = Manifold("sampled", embedding, grid), grid.axes
    low, high = (jnp.array(ends, float) for ends in zip(*((a.start, a.stop) for a in axes), strict=True))
    proposals = min(max(count, 256), 16384)

    def unfinished(state):
        rounds, _, levels, bound = state
        return (rounds < max_rounds) & ~jnp.all(levels >= bound)

    def propose(state):
        rounds, coordinates, levels, bound = state
        draw = jax.random.uniform(jax.random.fold_in(key, rounds), (proposals, len(axes) + 1))
        u, w = low + (high - low) * draw[:, 1:], 1.0 - draw[:, 0]
        values = volume_elements(manifold, u)
        bound = jnp.maximum(bound, jnp.max(values))
        # A point is accepted under any bound up to its level.
        levels = jnp.append(levels, jnp.where(values > 0.0, values / w, -jnp.inf))
        kept = jnp.argsort(levels < bound)[:count]  # stable: the accepted ones first, in order
        return rounds + 1, jnp.concatenate([coordinates, u])[kept], levels[kept], bound

    bound = jnp.max(volume_elements(manifold, _probes(manifold.grid)))
    state = (0, jnp.full((count, len(axes)), jnp.nan), jnp.full((count,), -jnp.inf), bound)
    _, coordinates, levels, bound = jax.lax.while_loop(unfinished, propose, state)
    accepted = levels >= bound
    coordinates = jnp.where(accepted[:, None], coordinates, jnp.nan)
    points = map_points(manifold, manifold.embedding, coordinates)
    mask = accepted.reshape(count, *(1,) * (points.ndim - 1))
    return Samples(coordinates, jnp.where(mask, points, jnp.nan), accepted, bound)


def map_points(manifold: Manifold, function: Callable[..., Any], *arrays: Array) -> Any:
    """Map a function of one chart point that differentiates the embedding over rows, a block at a time."""
    numbers = math.prod(manifold.feature_shape) * (manifold.grid.ndim + 1)
    rows = block_rows(numbers, most=len(arrays[0]))
    return map_blocks(jax.vmap(function), rows, *arrays)


def volume_elements(manifold: Manifold, coordinates: Float[Array, "n d"]) -> Float[Array, "n"]:
    """Volume elements sqrt(det J^T J) of an embedding from its first derivatives J alone; 0 if not finite.

    :func:`manifold_jax.volume_element` takes the Gram of a 2-jet, which costs (d + 3) / 2 times as many
    derivatives. The columns of J are normalised first: the determinant neither overflows nor underflows.
    """

    def one(u: Float[Array, "d"]) -> Float[Array, ""]:
        jacobian = jax.jacfwd(lambda v: jnp.ravel(manifold.embedding(v)))(u)
        norms = jnp.linalg.norm(jacobian, axis=0)
        unit = jacobian / jnp.where(norms > 0.0, norms, 1.0)
        cosines = matmul(unit.T, unit)
        value = jnp.prod(norms) * jnp.sqrt(jnp.maximum(jnp.linalg.det(cosines), 0.0))
        return jnp.where(jnp.isfinite(value), value, 0.0)

    return map_points(manifold, one, coordinates)


def _probes(grid: Grid) -> Float[Array, "probes d"]:
    """A coarse lattice of grid points, the ends of every axis included."""
    per_axis = max(2, int(PROBES ** (1.0 / grid.ndim) + 1e-9))
    picks = [np.linspace(0, n - 1, min(n, per_axis)).round().astype(int) for n in grid.shape]
    mesh = np.meshgrid(*map(np.take, (a.samples() for a in grid.axes), picks), indexing="ij")
    return jnp.array(np.stack(mesh, axis=-1).reshape(-1, grid.ndim), float)


def sample_grid(key: PRNGKeyArray, volume_element: Float[Array, "*shape"], count: int) -> Int[Array, "count"]:
    """Distinct points of a grid, drawn one after another with probability proportional to their volume.

    Gumbel top-k: the ``count`` largest of log(volume) + Gumbel noise are a weighted sample without
    replacement (Kool, van Hoof & Welling, ICML 2019, after Vieira 2014).

    Args:
        key: Random key.
        volume_element: Weights on the grid, of its shape; multiply by ``grid.weights()`` if the ends of open
            axes should count by half. Points with a weight that is not positive and finite are never chosen.
        count: Number of points, from 1 to the number of grid points.

    Returns:
        Flat indices ``(count,)``, in the order of the draw; -1 where no point of positive volume was left.

    Example:
        >>> sorted(sample_grid(jax.random.key(0), jnp.array([0.0, 1.0, 2.0]), 2).tolist())
        [1, 2]
    """
    random_key("sample_grid", "key", key)
    weights = jnp.ravel(real("sample_grid", "volume_element", volume_element))
    if not weights.size:
        raise ValueError("sample_grid: volume_element must hold the weights of a grid, got none.")
    count = whole("sample_grid", "count", count, 1, weights.size)
    usable = (weights > 0) & jnp.isfinite(weights)
    logits = jnp.log(jnp.where(usable, weights, 1.0))
    noisy = jnp.where(usable, logits + jax.random.gumbel(key, logits.shape, logits.dtype), -jnp.inf)
    best, index = jax.lax.top_k(noisy, count)
    return jnp.where(jnp.isfinite(best), index, -1)


def farthest_points(
    points: Float[Array, "n *features"], count: int, *, start: int = 0
) -> Int[Array, "count"]:
    """Greedy farthest-point sampling: each new point is the one farthest from all chosen before.

    Gonzalez's 2-approximation of the k-centre problem (*Theoretical Computer Science* 38, 1985). Time
    O(n count) distances, extra memory O(n): no matrix of distances is formed.

    Args:
        points: n points of any feature shape, compared in the Euclidean norm.
        count: Number of points to choose, from 1 to n.
        start: Index of the first point.

    Returns:
        Distinct indices ``(count,)`` in the order of choice; the first index wins a tie. Points that are
        not finite come after all others.

    Example:
        >>> farthest_points(jnp.array([[0.0], [1.0], [2.0], [9.0]]), 3).tolist()
        [0, 3, 2]
    """
    points = real("farthest_points", "points", points)
    if points.ndim < 1 or points.size == 0:
        raise ValueError(f"farthest_points: points must have shape (n, *features), got {points.shape}.")
    n = points.shape[0]
    count = whole("farthest_points", "count", count, 1, n)
    start = whole("farthest_points", "start", start, 0, n - 1)
    return _farthest(points.reshape(n, -1).astype(jnp.result_type(points, float)), count, start)


@partial(jax.jit, static_argnames="count")
def _farthest(points: Float[Array, "n f"], count: int, start: int) -> Int[Array, "count"]:
    def step(state, _):
        nearest, current = state
        squared = jnp.sum((points - points[current]) ** 2, axis=1)
        nearest = jnp.minimum(nearest, jnp.where(jnp.isfinite(squared), squared, -1.0))
        nearest = nearest.at[current].set(-2.0)  # never again
        return (nearest, jnp.argmax(nearest)), current

    nothing_near = jnp.full(points.shape[0], jnp.inf, points.dtype)
    state = (nothing_near, jnp.asarray(start, jnp.result_type(int)))
    return jax.lax.scan(step, state, length=count)[1]


def train_test_split(key: PRNGKeyArray, count: int, test_fraction: float = 0.2) -> Split:
    """Random disjoint index sets that together are 0, ..., count - 1.

    Args:
        key: Random key.
        count: Number of points, at least 2.
        test_fraction: Share of the test set, its size rounded to the nearest integer; neither may be empty.

    Returns:
        Index arrays in random order.

    Example:
        >>> train, test = train_test_split(jax.random.key(0), 10, 0.3)
        >>> len(train), len(test)
        (7, 3)
    """
    count = whole("train_test_split", "count", count, 2)
    random_key("train_test_split", "key", key)
    tests = round(count * positive("train_test_split", "test_fraction", test_fraction, below=1))
    if not 0 < tests < count:
        wanted = f"leave some of the {count} points on both sides"
        raise ValueError(f"train_test_split: test_fraction must {wanted}, got {test_fraction!r}.")
    order = jax.random.permutation(key, count)
    return Split(order[tests:], order[:tests])
