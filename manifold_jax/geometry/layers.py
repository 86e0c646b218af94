"""The geometry of a manifold in every layer of a network: by jets, or by stencils on the activations.

A layer f takes points with first and second derivatives X_i, X_ij along the chart to points with

    Y_i = Df X_i,    Y_ij = Df X_ij + D^2 f (X_i, X_j),

so that it needs the jet of the layer before, not a pass through all of them. By stencils, a window of the
grid goes from layer to layer and is differentiated in each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from manifold_jax._checks import checked_function, finite, floating, optional, positive, single, whole
from manifold_jax._files import Progress
from manifold_jax._keys import digest_function
from manifold_jax._linalg import map_blocks
from manifold_jax._programs import as_function, first_line, frozen, result_of
from manifold_jax._sharding import explicit, over_rows
from manifold_jax.geometry.derivatives import inner_products
from manifold_jax.geometry.embeddings import Embedding, frozen_embedding
from manifold_jax.geometry.error_bars import (
    axis_sensitivity,
    comparison_stencil,
    grid_quantities,
    report_on,
    safety_factor,
    stencil_fields,
)
from manifold_jax.geometry.grid import Accuracy
from manifold_jax.geometry.jet import point_vectors
from manifold_jax.geometry.manifold import Manifold, as_points
from manifold_jax.geometry.measure import run_kept
from manifold_jax.geometry.points import Points
from manifold_jax.geometry.quantities import PointQuantities, chart_ranges, exact_quantities
from manifold_jax.geometry.report import Geometry
from manifold_jax.geometry.stencil import Stencil, stencil_of
from manifold_jax.geometry.tensors import unpack_gram
from manifold_jax.geometry.windows import (
    BatchPlan,
    BlockGrams,
    BlockPlan,
    Window,
    block_grams,
    cut_features,
    locate,
    plan_blocks,
)

BATCH = 64  # points that go through a layer at once: enough for matrix products, few for large activations
RENDERED = 8  # points of the input whose jets are made at once: rendered images need many temporaries
Layer = Callable[[Any], Any]
"""A function of one activation of the layer before, which gives one activation."""


class LayerJets(NamedTuple):
    """Points of one layer and their derivatives.

    Attributes:
        points: Activations ``(n, *shape)``.
        vectors: The d first derivatives, then the second ones X_ij with i <= j, features flattened.
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


def _push_point(function: Any, point: Array, vectors: Float[Array, "v f"], dimension: int) -> LayerJets:
    """A jet after a function, at one point."""
    i, j = np.triu_indices(dimension)
    shaped, wide = vectors.reshape(-1, *point.shape), lambda x: single(function(x))
    value, linear = jax.linearize(wide, point)
    first_order = jax.vmap(linear)(shaped)

    def along(a: Array) -> Array:
        """Second derivatives in a direction and each of the tangents."""
        return jax.jvp(lambda x: jax.vmap(lambda b: jax.jvp(wide, (x,), (b,))[1])(tangents), (point,), (a,))[
            1
        ]

    tangents = shaped[:dimension]
    # Mapped over both directions by themselves: a linear part of the layer sees each of them once, not in
    # every pair.
    second = jax.vmap(along)(tangents)[i, j]
    pushed = first_order.at[dimension:].add(second)
    return LayerJets(value, pushed.reshape(len(pushed), -1))


@partial(jax.jit, static_argnames="dimension")
def _push(function: Any, jets: LayerJets, dimension: int) -> LayerJets:
    def of_rows(function: Any, jets: LayerJets) -> LayerJets:
        return jax.vmap(lambda x, v: _push_point(function, x, v, dimension))(*jets)

    return over_rows(of_rows, function, jets)


@jax.jit
def _start(embedding: Any, coordinates: Float[Array, "n d"]) -> LayerJets:
    def of_rows(embedding: Any, coordinates: Array) -> LayerJets:
        def one(u: Array) -> LayerJets:
            return LayerJets(single(embedding(u)), point_vectors(embedding, u))

        return map_blocks(jax.vmap(one), RENDERED, coordinates)

    return over_rows(of_rows, embedding, coordinates)


def layer_jets(
    embedding: Embedding, functions: Sequence[Layer], coordinates: Float[Any, "n d"]
) -> Iterator[LayerJets]:
    """Points and their first and second derivatives in one layer after the other.

    Args:
        embedding: One chart point ``(d,)`` to one input of the first layer.
        functions: The layers, each of one activation of the layer before. What one computes is looked at
            now; other weights are not compiled anew.
        coordinates: Chart points ``(n, d)``. Where they are cut over a mesh, every device takes its own.

    Returns:
        An iterator over the jets of the input, then of every layer. Only two layers are held at once.

    Example:
        >>> parabola = lambda u: jnp.concatenate([u, u**2])
        >>> before, after = mj.layer_jets(parabola, [lambda x: 3 * x], jnp.ones((1, 1)))
        >>> print(before.vectors[0].tolist(), after.vectors[0].tolist())
        [[1.0, 2.0], [0.0, 2.0]] [[3.0, 6.0], [0.0, 6.0]]
    """
    coordinates = floating("layer_jets", "coordinates", coordinates)
    finite("layer_jets", "coordinates", coordinates)
    coordinates, back = explicit(coordinates)
    functions = _listed("layer_jets", functions)
    chart = coordinates.shape[1], coordinates.dtype
    given = checked_function("layer_jets", "embedding", as_function(embedding), "one chart point")
    return map(back, _layer_jets(frozen_embedding(given, *chart), functions, coordinates))


def _listed(caller: str, functions: Any) -> list[Layer]:
    """The layers of a network, looked at."""
    listed = isinstance(functions, Sequence) and not isinstance(functions, str)
    layers: list[Any] = list(functions) if listed else [None]
    for layer in layers:
        checked_function(caller, "every one of functions", as_function(layer), "one activation")
    return layers


def _layer_jets(
    embedding: Any, functions: Sequence[Layer], coordinates: Float[Array, "n d"]
) -> Iterator[LayerJets]:
    jets = _start(embedding, coordinates)
    yield jets
    for function in functions:
        activation = jax.ShapeDtypeStruct(jets.points.shape[1:], jets.points.dtype)
        jets = _push(frozen(as_function(function), activation), jets, coordinates.shape[1])
        yield jets


@jax.jit
def jet_quantities(jets: LayerJets, ranges: Float[Array, "d"]) -> PointQuantities:
    """Quantities of the points of a layer, with the :func:`chart_ranges` of the grid."""
    return exact_quantities(unpack_gram(inner_products(jets.vectors), len(ranges)), ranges)


def measure_layers(
    manifold: Manifold,
    functions: Sequence[Layer],
    names: Sequence[str] | None = None,
    *,
    accuracy: Accuracy | tuple[Accuracy, ...] | None = None,
    tolerance: float = 0.1,
    batch_size: int | None = None,
    progress: Progress | None = None,
    checkpoint: str | Path | None = None,
) -> tuple[Geometry, ...]:
    """Volume and curvatures of a manifold in every layer of a network.

    Both ways of differentiation hold two layers of a part of the grid at a time.

    Args:
        manifold: Its embedding gives the input of the first layer.
        functions: The layers, as for :func:`layer_jets`.
        names: Names of the layers; by default their numbers.
        accuracy: Order of the stencils on the activations, as for :func:`measure`; exact by default.
        tolerance: As for :func:`measure`.
        batch_size: Points differentiated at once; by default 64, or by memory for stencils.
        progress: Called as ``progress(points done, points)``.
        checkpoint: Folder of finished blocks, from which a call with the same arguments goes on.

    Returns:
        The geometry of the input and of every layer, each as :func:`measure` gives for the composition.
        After a ReLU the exact ones are those of the smooth pieces: kinks do not count. Stencils count them,
        the more the finer the grid.

    Raises:
        ValueError: A layer does not accept what the one before gives, or names or options do not fit.

    Example:
        >>> layers = [lambda x: 3 * x, lambda x: x[:1]]
        >>> exact = mj.measure_layers(mj.datasets.circle(), layers, ["three times", "shadow"])
        >>> [f"{geometry.name} {geometry.total_volume.value:.2f}" for geometry in exact][:2]
        ['input 6.28', 'three times 18.85']
    """
    tolerance = positive("measure_layers", "tolerance", tolerance, below=1)
    functions = _listed("measure_layers", functions)
    optional(checked_function, "measure_layers", "progress", progress)
    names = tuple(names or map(str, range(1, len(functions) + 1)))
    if len(names) != len(functions):
        got = f"{len(names)} for {len(functions)} layers"
        raise ValueError(f"measure_layers: names must be one for each layer, got {got}.")
    batch_size = optional(whole, "measure_layers", "batch_size", batch_size)
    points = as_points("measure_layers", manifold)
    start = jax.ShapeDtypeStruct(points.feature_shape, points.dtype)
    functions = check_chain(functions, start, names)
    sizes = [start.size, *(result_of(function).size for function in functions)]

    asked = ()
    if checkpoint is not None:
        layers = lambda x: list(accumulate(functions, lambda y, layer: layer(y), initial=x))  # noqa: E731
        asked = (digest_function(layers, start),)
    run = partial(run_kept, progress=progress, checkpoint=checkpoint, asked=asked)
    if accuracy is None:
        reports = _by_jets(points, functions, batch_size, run)
    else:
        stencil = stencil_of("measure_layers", points.grid, accuracy, 1)
        largest = replace(points, feature_shape=(max(sizes),))
        reports = _by_stencils(largest, points.feature_shape, functions, stencil, batch_size, run)
    return tuple(
        report_on(grid=points.grid, name=name, tolerance=tolerance, **report)
        for name, report in zip(("input", *names), reports, strict=True)
    )


def _by_jets(
    points: Points, functions: Sequence[Layer], batch_size: int | None, run: Callable[..., Any]
) -> list[dict[str, Any]]:
    """What the report on every layer holds, by jets, a batch of points at a time."""
    ranges = chart_ranges(points.grid, points.dtype)

    def job(coordinates: Array, _: BatchPlan) -> list[PointQuantities]:
        jets = layer_jets(points.values, functions, coordinates)
        return [jax.device_get(jet_quantities(part, ranges)) for part in jets]

    plan = BatchPlan(points.grid, min(batch_size or BATCH, points.grid.size))
    return [{"quantities": part} for part in run(points, plan, job)]


def _by_stencils(
    points: Points,
    feature_shape: tuple[int, ...],
    functions: Sequence[Layer],
    stencil: Stencil,
    block_size: int | None,
    run: Callable[..., Any],
) -> list[dict[str, Any]]:
    """What the report on every layer holds, by stencils; ``points`` have the features of the largest layer.

    Samples beyond the ends of an open axis are evaluated too, as :func:`measure` does for an embedding.
    """
    comparison = comparison_stencil(stencil, points.grid, evaluated=True)
    factor = safety_factor(stencil, comparison)

    def in_layers(of_block: Callable[[BlockGrams, BlockPlan], Any]) -> Callable[..., list[Any]]:
        def job(window: Window, plan: BlockPlan) -> list[Any]:
            windows = _windows(window, feature_shape, functions, points.grid.ndim)
            return [jax.device_get(of_block(window_grams(part, plan), plan)) for part in windows]

        return job

    changes = axis_sensitivity(points, stencil, comparison, in_layers(stencil_fields))
    plan = plan_blocks(points, (stencil, comparison), block_size)
    parts = run(points, plan, in_layers(_block_quantities), windows=True)
    return [
        {"quantities": part, "stencil": stencil, "factor": factor, "sensitivity": factor * change}
        for part, change in zip(parts, changes, strict=True)
    ]


@jax.jit
def window_grams(window: Window, plan: BlockPlan) -> BlockGrams:
    """Gram matrices of a block from its window of computed points, with features of any shape."""
    points = window.points.reshape(*window.points.shape[: plan.grid.ndim], -1)
    place = locate(plan, window.block, points.dtype)
    grams = block_grams(plan, place, cut_features(points), points.shape[-1])
    return grams._replace(peak=grams.norm)


_block_quantities = jax.jit(grid_quantities)


def _windows(
    window: Window, feature_shape: tuple[int, ...], functions: Sequence[Layer], ndim: int
) -> Iterator[Window]:
    """A window of the input, then of one layer after the other."""
    points = window.points.reshape(*window.points.shape[:ndim], *feature_shape)
    yield window._replace(points=points)
    for function in functions:
        points = _advance(function, points, ndim)
        yield window._replace(points=points)


@partial(jax.jit, static_argnames="ndim")
def _advance(function: Any, points: Array, ndim: int) -> Array:
    """The points of a window in the next layer."""
    rows = points.reshape(-1, *points.shape[ndim:])
    after = single(map_blocks(jax.vmap(function), BATCH, rows))
    return after.reshape(*points.shape[:ndim], *after.shape[1:])


def check_chain(functions: Sequence[Layer], start: Any, names: Sequence[str]) -> list[Partial]:
    """The layers as they are now; nothing is computed, ``start`` is a ``jax.ShapeDtypeStruct``."""
    here, before, programs = start, "the input", []
    for name, function in zip(names, functions, strict=True):
        try:
            program = frozen(as_function(function), here)
        except Exception as error:  # whatever a function of the user raises
            gives = f"what {before} gives, {here.dtype} of shape {here.shape}"
            raise ValueError(f"layer {name!r} does not accept {gives}: {first_line(error)}") from error
        after = result_of(program)
        if not hasattr(after, "dtype") or not jnp.issubdtype(after.dtype, jnp.floating):
            raise ValueError(f"layer {name!r} must return one floating-point array, got {after}.")
        here, before = jax.eval_shape(single, after), f"layer {name!r}"
        programs.append(program)
    return programs
