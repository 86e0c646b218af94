"""The geometry of a manifold in every layer of a network: jets are pushed forward from layer to layer.

The image of a chart under a function f has the jet

    Y_i = Df X_i,    Y_ij = Df X_ij + D^2 f (X_i, X_j),

so that each layer needs the jet of the layer before, not a pass through all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax._files import Progress
from manifold_jax.geometry.error_bars import check_tolerance
from manifold_jax.geometry.grid import Accuracy
from manifold_jax.geometry.jet import point_vectors, unpack_gram
from manifold_jax.geometry.layer_stencils import layers_by_stencils
from manifold_jax.geometry.manifold import Manifold
from manifold_jax.geometry.measure import report_on
from manifold_jax.geometry.quantities import PointMeasures, chart_ranges, exact_measures
from manifold_jax.geometry.report import Geometry
from manifold_jax.geometry.source import as_partial, stencil_of

_BATCH = 64


class LayerJets(NamedTuple):
    """Points of one layer and their derivatives.

    Attributes:
        points: Activations ``(n, *shape)``.
        vectors: The d first derivatives, then the second ones X_ij with i <= j, ``(n, v, f)``, features
            flattened.
    """

    points: Float[Array, "n *shape"]
    vectors: Float[Array, "n v f"]

    @property
    def dimension(self) -> int:
        """d, from v = d (d + 3) / 2."""
        return int(((9 + 8 * self.vectors.shape[1]) ** 0.5 - 3) / 2 + 0.5)

    @property
    def tangents(self) -> Float[Array, "n d f"]:
        """The first derivatives."""
        return self.vectors[:, : self.dimension]


def _pushed(function: Any, point: Array, vectors: Float[Array, "v f"], dimension: int) -> LayerJets:
    """A jet behind a function, at one point."""
    i, j = np.triu_indices(dimension)
    shaped = vectors.reshape(-1, *point.shape)
    value, linear = jax.linearize(function, point)
    straight = jax.vmap(linear)(shaped)

    def bent(a: Array, b: Array) -> Array:
        return jax.jvp(lambda x: jax.jvp(function, (x,), (a,))[1], (point,), (b,))[1]

    bends = jax.vmap(bent)(shaped[i], shaped[j])
    found = straight.at[dimension:].add(bends)
    return LayerJets(value, found.reshape(len(found), -1))


@partial(jax.jit, static_argnames="dimension")
def _push(function: Any, jets: LayerJets, dimension: int) -> LayerJets:
    return jax.vmap(lambda x, v: _pushed(function, x, v, dimension))(*jets)


@jax.jit
def _start(embedding: Any, coordinates: Float[Array, "n d"]) -> LayerJets:
    def one(u: Array) -> LayerJets:
        return LayerJets(embedding(u), point_vectors(embedding, u))

    return jax.lax.map(one, coordinates, batch_size=min(8, len(coordinates)))


def layer_jets(
    embedding: Callable[[Any], Any],
    functions: Sequence[Callable[[Any], Any]],
    coordinates: Float[Any, "n d"],
) -> Iterator[LayerJets]:
    """Points and their first and second derivatives in one layer after the other.

    Args:
        embedding: One chart point ``(d,)`` to one ambient point, the input of the first layer.
        functions: The layers, each of one activation of the layer before. Give ``jax.tree_util.Partial`` of a
            function and its parameters, where other parameters shall not be compiled anew.
        coordinates: Chart points ``(n, d)``.

    Returns:
        An iterator over the jets of the input, then of every layer. Only two layers are held at once.

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax import layer_jets
        >>> parabola = lambda u: jnp.concatenate([u, u**2])
        >>> before, after = layer_jets(parabola, [lambda x: 3 * x], jnp.ones((1, 1)))
        >>> print(before.vectors[0].tolist(), after.vectors[0].tolist())
        [[1.0, 2.0], [0.0, 2.0]] [[3.0, 6.0], [0.0, 6.0]]
    """
    coordinates = jnp.asarray(coordinates)
    jets = _start(as_partial(embedding), coordinates)
    yield jets
    for function in functions:
        jets = _push(as_partial(function), jets, coordinates.shape[1])
        yield jets


@jax.jit
def jet_measures(jets: LayerJets, ranges: Float[Array, "d"]) -> PointMeasures:
    """Measures of the points of a layer; ``ranges`` are the lengths of the axes of the chart."""
    vectors = jets.vectors
    products = jnp.matmul(vectors, jnp.swapaxes(vectors, 1, 2), precision=jax.lax.Precision.HIGHEST)
    return exact_measures(unpack_gram(products, len(ranges)), ranges)


def measure_layers(
    manifold: Manifold,
    functions: Sequence[Callable[[Any], Any]],
    names: Sequence[str] | None = None,
    *,
    accuracy: Accuracy | tuple[Accuracy, ...] | None = None,
    tolerance: float = 0.1,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> tuple[Geometry, ...]:
    """Volume and curvatures of a manifold in every layer of a network.

    By automatic differentiation, jets pushed from layer to layer; or, with an ``accuracy``, by stencils of
    this order on the grid of activations. Both go through the grid in parts, and hold the activations of two
    layers of one part at a time.

    Args:
        manifold: Its embedding gives the input of the first layer.
        functions: The layers, as for :func:`layer_jets`.
        names: Of the layers; by default their numbers.
        accuracy: Order of the stencils, as for :func:`measure`; exact by default.
        tolerance: As for :func:`measure`.
        batch_size: Points differentiated at once; by default 64, or set by memory for stencils.
        progress: Called as ``progress(points done, points)``.

    Returns:
        One :class:`Geometry` for the input and one for every layer, each as ``measure(..., exact=True)`` or
        ``measure(..., accuracy=...)`` gives for the composition. Behind ReLU the exact ones are those of the
        smooth pieces: kinks do not count. Stencils count them, the more the finer the grid.

    Raises:
        ValueError: A layer does not accept what the one before gives, names do not fit, or an option is out
            of range.

    Example:
        >>> from manifold_jax import measure_layers
        >>> from manifold_jax.datasets import circle
        >>> layers = [lambda x: 3 * x, lambda x: x[:1]]
        >>> exact = measure_layers(circle(), layers, ["three times", "shadow"])
        >>> [f"{geometry.name} {geometry.total_volume.value:.2f}" for geometry in exact][:2]
        ['input 6.28', 'three times 18.85']
        >>> _, found, _ = measure_layers(circle(), layers, accuracy=4)
        >>> print(f"{found.name} {found.total_volume.value:.2f}", bool(found.total_volume.error < 0.01))
        1 18.85 True
    """
    check_tolerance(tolerance)
    names = tuple(names or map(str, range(1, len(functions) + 1)))
    if len(names) != len(functions):
        raise ValueError(f"names must be one for each layer, got {len(names)} for {len(functions)} layers.")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    start = jax.ShapeDtypeStruct(manifold.feature_shape, jnp.result_type(float))
    check_chain(functions, start, names)
    if accuracy is not None:
        stencil = stencil_of(manifold.grid, accuracy, 1)
        return layers_by_stencils(manifold, functions, names, stencil, tolerance, batch_size, progress)
    return _exactly(manifold, functions, names, tolerance, batch_size, progress)


def _exactly(
    manifold: Manifold,
    functions: Sequence[Callable[[Any], Any]],
    names: Sequence[str],
    tolerance: float,
    batch_size: int | None,
    progress: Progress | None,
) -> tuple[Geometry, ...]:
    """By jets, a batch of points at a time."""
    grid, dtype = manifold.grid, jnp.result_type(float)
    size = min(batch_size or _BATCH, grid.size)
    ranges = chart_ranges(grid, dtype)
    coordinates = np.asarray(grid.coordinates(dtype)).reshape(-1, grid.ndim)
    # The last batch repeats its last point: one shape, one compilation.
    padded = np.pad(coordinates, ((0, -grid.size % size), (0, 0)), mode="edge")
    parts: list[list[PointMeasures]] = [[] for _ in range(len(functions) + 1)]
    for begin in range(0, grid.size, size):
        points = padded[begin : begin + size]
        for found, jets in zip(parts, layer_jets(manifold.embedding, functions, points), strict=True):
            found.append(jax.device_get(jet_measures(jets, ranges)))
        if progress is not None:
            progress(min(begin + size, grid.size), grid.size)
    reports = []
    for name, found in zip(("input", *names), parts, strict=True):
        whole = jax.tree.map(lambda *leaves: np.concatenate(leaves)[: grid.size], *found)
        reports.append(report_on(whole, grid, name, tolerance))
    return tuple(reports)


def check_chain(functions: Sequence[Callable[[Any], Any]], start: Any, names: Sequence[str]) -> None:
    """Refuse layers that do not accept what the one before gives; nothing is computed.

    Args:
        functions: The layers.
        start: ``jax.ShapeDtypeStruct`` of the input of the first.
        names: For the message.

    Raises:
        ValueError: Which layer, and why.
    """
    here, before = start, "the input"
    for name, function in zip(names, functions, strict=True):
        try:
            after = jax.eval_shape(function, here)
        except (TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"layer {name!r} does not accept what {before} gives, {here.dtype} of shape {here.shape}: "
                f"{error}"
            ) from error
        if not hasattr(after, "dtype") or not jnp.issubdtype(after.dtype, jnp.floating):
            raise ValueError(f"layer {name!r} must return one floating-point array, got {after}.")
        here, before = after, f"layer {name!r}"
