"""Estimators against exact geometry: who is reliable where."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from manifold_jax.fitting.calibration_table import Calibration, Row
from manifold_jax.fitting.distances import distances_to_manifold, hausdorff_distance
from manifold_jax.fitting.estimators import MEASURES, Estimator
from manifold_jax.fitting.truth import (
    NOISES,
    Cloud,
    Noise,
    components,
    draw,
    exact_field,
    exact_total,
    total_volume,
)
from manifold_jax.geometry import Manifold
from manifold_jax.geometry.local_fit import CURVATURES
from manifold_jax.geometry.manifold import is_union

FLAT = 1e-3
"""A curvature whose RMS is below this share of its natural scale is compared with the natural scale."""

TESTS = 500
"""Held-out points of a fit."""


class _Truth(NamedTuple):
    """Exact values of one measure on one sample, and what errors are divided by."""

    value: Any
    scale: float
    reference: str


class _Call(NamedTuple):
    """How an estimator is called."""

    twice: bool
    warm: bool
    on_error: str


Reported = Callable[[Row], None]


def calibrate(
    estimators: Any,
    manifolds: Any,
    sizes: Sequence[int],
    *,
    key: PRNGKeyArray,
    seeds: Sequence[int] = (0,),
    noise: Noise = None,
    warm_up: bool = True,
    on_error: str = "raise",
    progress: Reported | None = None,
) -> Calibration:
    """Compare estimators with exact geometry on samples that are uniform by volume.

    All estimators see the same samples: those of a seed and a size follow from ``key`` alone. Exact values
    are the closed forms of ``Manifold.known``, or else automatic differentiation at the samples' chart
    coordinates; the volume and the reach are those of :func:`measure` and :func:`reach` on the manifold's
    own grid. With noise they belong to the points before noise was added.

    Errors are divided by a scale. Of a curvature, the RMS of the exact field over the samples; where that
    is below a thousandth of the RMS of |II| (squared for S), the latter, so that flat and minimal surfaces
    count too. Of a volume, reach or dimension, the exact value. Of a tangent space 1, the error being the
    sine of the largest principal angle. Of a fit, the RMS distance of the samples from their centroid: 500
    further points x of the manifold, without noise, are projected to z, and the error at x is the larger of
    the distances from z to the manifold and from x to the nearest z, so that ``largest`` is the two-sided
    Hausdorff distance that :func:`fit_distances` sees with these points. Sliding along the manifold costs
    nothing beyond their spacing.

    Args:
        estimators: One :class:`Estimator`, a pair ``(measure, function)``, or a sequence of these; the
            function is called as ``function(points, dimension=d)``.
        manifolds: One :class:`Manifold`, or a sequence of manifolds and of unions, a union being a tuple or
            list of manifolds: ``[sphere(), two_moons()]``.
        sizes: Numbers of samples.
        key: Random key.
        seeds: One sample for each.
        noise: ``("ambient", s)`` Gaussian of standard deviation s in every feature, ``("normal", s)`` the
            same in normal directions, ``("normal-uniform", s)`` uniform in normal balls of radius s; or a
            function of a key, the manifold, chart coordinates ``(n, d)`` and points ``(n, *features)``.
        warm_up: Call everything once more where it has not been called with these shapes, so that
            ``seconds`` does not hold compilation.
        on_error: ``"raise"``: an estimator that raises, or returns NaN everywhere, is a ValueError;
            ``"record"``: it is a row with a status.
        progress: Called with every row.

    Returns:
        The table. An estimator with ``most`` below a size has a row with a status there.

    Raises:
        ValueError: An argument is out of range or a name is taken twice, an estimator returns another shape
            than its measure has, or fails while ``on_error`` is ``"raise"``.

    Example:
        A user's estimator: the volume of a closed curve from its polygon.

        >>> import jax
        >>> import jax.numpy as jnp
        >>> from manifold_jax.datasets import circle, ellipse
        >>> from manifold_jax.fitting.calibration import calibrate
        >>> def polygon(points, *, dimension):
        ...     order = jnp.argsort(jnp.arctan2(points[:, 1], points[:, 0]))
        ...     steps = points[order] - points[jnp.roll(order, 1)]
        ...     return jnp.sum(jnp.linalg.norm(steps, axis=1))
        >>> table = calibrate(("volume", polygon), [circle(), ellipse()], [100], key=jax.random.key(0))
        >>> [row.rmse < 0.01 for row in table.rows]
        [True, True]
    """
    tried = _estimators(estimators)
    places = _manifolds(manifolds)
    sizes, seeds = _whole_numbers("sizes", sizes, 2), _whole_numbers("seeds", seeds, 0)
    if on_error not in ("raise", "record"):
        raise ValueError(f"calibrate: on_error must be 'raise' or 'record', got {on_error!r}.")
    label = _check_noise(noise)
    rows: list[Row] = []
    for parts in places:
        volumes = [total_volume(part) for part in parts] if len(parts) > 1 else [1.0]
        totals: dict[str, float] = {}
        for size in sizes:
            for number, seed in enumerate(seeds):
                # The same samples whatever the other sizes and seeds are.
                own, test, inner = jax.random.split(
                    jax.random.fold_in(jax.random.fold_in(key, seed), size), 3
                )
                cloud = draw(own, parts, volumes, size, noise)
                held = None
                if any(e.measure == "fit" for e in tried):
                    held = draw(test, parts, volumes, TESTS, None).clean
                names = {e.measure for e in tried}
                truths = {name: _truth(name, parts, cloud, held, totals) for name in names}
                call = _Call(warm_up and number == 0, warm_up or number > 0, on_error)
                blank = _blank(parts, cloud, seed, label)
                for estimator in tried:
                    row = blank._replace(estimator=estimator.name, measure=estimator.measure)
                    rows.append(_run(estimator, row, cloud, held, truths[row.measure], inner, call))
                    if progress is not None:
                        progress(rows[-1])
    return Calibration(tuple(rows))


def _blank(parts: tuple[Manifold, ...], cloud: Cloud, seed: int, label: str) -> Row:
    size, features = cloud.points.shape
    return Row("", "", _name(parts), parts[0].grid.ndim, features, size, seed, label)


# --- one call ----------------------------------------------------------------------------------------------


def _run(
    estimator: Estimator, row: Row, cloud: Cloud, held: Array | None, truth: _Truth, key: Any, options: _Call
) -> Row:
    """The row of one estimator on one sample."""
    row = row._replace(scale=truth.scale, reference=truth.reference)
    if estimator.most is not None and row.size > estimator.most:
        return row._replace(status=f"left out: takes up to {estimator.most} points")
    try:
        if options.twice:
            _call(estimator, cloud, held, row.dimension, key)
        began = time.perf_counter()
        value = _call(estimator, cloud, held, row.dimension, key)
        seconds = time.perf_counter() - began
    except Exception as error:
        sentence = f"estimator {estimator.name!r} raised {type(error).__name__} on {_where(row)}: {error}"
        if options.on_error == "raise":
            raise ValueError(f"calibrate: {sentence}") from error
        return row._replace(status=sentence)
    error = _errors(estimator, row, value, truth, held) / truth.scale
    good = np.isfinite(error)
    row = row._replace(seconds=seconds, warm=options.warm, failed=float(1 - good.mean()))
    if not good.any():
        sentence = f"estimator {estimator.name!r} returned no finite value on {_where(row)}"
        if options.on_error == "raise":
            raise ValueError(f"calibrate: {sentence}; finite {estimator.measure} values were expected.")
        return row._replace(status=sentence)
    error = error[good]
    size = np.abs(error)
    return row._replace(
        bias=float(error.mean()),
        rmse=float(np.sqrt(np.mean(error**2))),
        median=float(np.median(size)),
        largest=float(size.max()),
    )


def _call(estimator: Estimator, cloud: Cloud, held: Array | None, dimension: int, key: Any) -> Any:
    given = {"dimension": dimension, "key": key}
    given = {name: given[name] for name in estimator.needs}
    value = jax.block_until_ready(estimator.function(cloud.points, **given, **estimator.options))
    if estimator.measure != "fit":
        return value
    if not callable(value):
        raise TypeError(f"a fit returns a function that projects points, got {type(value).__name__}")
    return jax.block_until_ready(value(held))


def _errors(estimator: Estimator, row: Row, value: Any, truth: _Truth, held: Array | None) -> np.ndarray:
    """Errors ``(n,)`` or ``(1,)`` in the units of the measure; NaN where the estimator failed."""
    shapes = _shapes(estimator.measure, row, held)
    wanted = " or ".join(str(shape) for shape in shapes)
    must = f"calibrate: estimator {estimator.name!r} must return numbers of shape {wanted} for "
    must += repr(estimator.measure)
    try:
        found = np.asarray(value)
    except ValueError:
        raise ValueError(f"{must}, got a {type(value).__name__} that is no array.") from None
    if found.shape not in shapes or not np.issubdtype(found.dtype, np.number):
        raise ValueError(f"{must}, got {found.dtype} of shape {found.shape}.")
    if estimator.measure == "tangent":
        return largest_angle(found, truth.value)
    if estimator.measure == "fit":
        return _apart(truth.value, held, value)
    return np.atleast_1d(found.astype(np.float64) - truth.value)


def _apart(parts: tuple[Manifold, ...], held: Any, images: Any) -> np.ndarray:
    """Larger of the distances from each image to the manifold and from each point to the images."""
    onto = distances_to_manifold(parts, jnp.asarray(images).reshape(-1, *parts[0].feature_shape)).values
    back = hausdorff_distance(held, images).forward.values
    return np.asarray(jnp.maximum(onto, back), np.float64)  # NaN where the fit gave no point


def _shapes(measure: str, row: Row, held: Array | None) -> tuple[tuple[int, ...], ...]:
    """Shapes that an estimator of a measure may return."""
    if measure == "tangent":
        return ((row.size, row.dimension, row.features),)
    if measure == "fit":
        assert held is not None
        return (held.shape,)
    if measure in CURVATURES:
        return ((row.size,),)
    return ((), (row.size,)) if measure == "dimension" else ((),)


def largest_angle(frames: Any, exact: Any) -> np.ndarray:
    """Sine of the largest principal angle between spans ``(n, d, f)``; NaN where vectors are dependent.

    The second must be orthonormal. The sine is the norm of what an orthonormal frame has outside the other
    span, which keeps its digits at small angles.
    """
    sines = np.full(len(frames), np.nan)
    step = max(1, 2**22 // max(1, frames[0].size))
    for start in range(0, len(frames), step):
        mine, other = (np.asarray(x[start : start + step], np.float64) for x in (frames, exact))
        finite = np.flatnonzero(np.isfinite(mine).all(axis=(1, 2)))
        if len(finite) == 0:
            continue
        basis, triangle = np.linalg.qr(np.swapaxes(mine[finite], 1, 2))
        other = np.swapaxes(other[finite], 1, 2)
        outside = basis - other @ (np.swapaxes(other, 1, 2) @ basis)
        sine = np.linalg.norm(outside, ord=2, axis=(1, 2))
        pivots = np.abs(np.diagonal(triangle, axis1=1, axis2=2))
        full = pivots.min(axis=1) > 1e-6 * pivots.max(axis=1)
        sines[start + finite] = np.where(full, np.minimum(sine, 1.0), np.nan)
    return sines


def _where(row: Row) -> str:
    return f"{row.size} samples of {row.manifold!r}"


# --- exact values ------------------------------------------------------------------------------------------


def _truth(
    name: str, parts: tuple[Manifold, ...], cloud: Cloud, held: Array | None, totals: dict[str, float]
) -> _Truth:
    if name == "tangent":
        return _Truth(exact_field(parts, cloud.coordinates, name), 1.0, "sine of the angle")
    if name == "fit":
        spread = np.asarray(cloud.clean - jnp.mean(cloud.clean, axis=0), np.float64)
        size = float(np.sqrt(np.mean(np.sum(spread**2, axis=1))))
        return _Truth(parts, size, "RMS distance from the centroid")
    if name in CURVATURES:
        return _field_truth(name, parts, cloud)
    if name not in totals:
        totals[name] = exact_total(parts, name)
    return _Truth(totals[name], abs(totals[name]), "exact value")


def _field_truth(name: str, parts: tuple[Manifold, ...], cloud: Cloud) -> _Truth:
    """A curvature and its RMS, or its natural scale where it is flat."""
    value = exact_field(parts, cloud.coordinates, name)
    bend = value if name == "second_form_norm" else exact_field(parts, cloud.coordinates, "second_form_norm")
    return _Truth(value, *field_scale(name, value, bend, np.ones(len(value))))


def field_scale(name: str, value: np.ndarray, bend: np.ndarray, weight: np.ndarray) -> tuple[float, str]:
    """What errors of a curvature are divided by, and its name: the weighted RMS of the exact field.

    Where that is below a thousandth of the natural scale, |II| (squared for S), the latter.
    """
    power = 2 if name == "scalar_curvature" else 1
    scale, natural = _rms(value, weight), _rms(bend**power, weight)
    if scale >= FLAT * natural and scale > 0:
        return scale, "RMS of the exact field"
    if natural > 0:
        return natural, "RMS of |II|^2" if power == 2 else "RMS of |II|"
    return 1.0, "none: the manifold is flat in its ambient space"


def _rms(values: np.ndarray, weight: np.ndarray) -> float:
    good = np.isfinite(values) & (weight > 0)
    return float(np.sqrt(np.average(values[good] ** 2, weights=weight[good]))) if good.any() else 0.0


# --- arguments ---------------------------------------------------------------------------------------------


def _estimators(given: Any) -> tuple[Estimator, ...]:
    """Estimators from one or several, or from pairs of a measure and a function."""
    pair = isinstance(given, tuple) and len(given) > 0 and isinstance(given[0], str)
    entries = list(given) if isinstance(given, Sequence) and not pair else [given]
    if not entries:
        raise ValueError("calibrate: give at least one estimator.")
    found = []
    for entry in entries:
        if isinstance(entry, Estimator):
            found.append(entry)
        elif isinstance(entry, tuple) and len(entry) == 2:
            found.append(Estimator(getattr(entry[1], "__name__", repr(entry[1])), *entry))
        else:
            raise ValueError(
                "calibrate: an estimator is an Estimator or a pair (measure, function) with a measure from "
                f"{MEASURES}, got {type(entry).__name__}."
            )
    names = [(e.measure, e.name) for e in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"calibrate: two estimators of {twice[0][0]!r} have the name {twice[0][1]!r}.")
    return tuple(found)


def _manifolds(given: Any) -> tuple[tuple[Manifold, ...], ...]:
    """Components of every manifold or union."""
    entries = [given] if isinstance(given, Manifold) else list(given) if isinstance(given, Sequence) else []
    if not entries or not all(isinstance(e, Manifold) or is_union(e) for e in entries):
        raise ValueError(
            "calibrate: manifolds must be a Manifold or a sequence of manifolds and of unions (tuples of "
            f"them), got {given if isinstance(given, str) else type(given).__name__}."
        )
    places = tuple(components(entry) for entry in entries)
    for parts in places:
        if len({(part.grid.ndim, part.feature_shape) for part in parts}) > 1:
            raise ValueError("calibrate: components of a union must agree in dimension and feature shape.")
    names = [_name(parts) for parts in places]
    if len(set(names)) < len(names):
        raise ValueError(f"calibrate: manifolds need different names, got {names}; see dataclasses.replace.")
    return places


def _name(parts: tuple[Manifold, ...]) -> str:
    return "+".join(part.name for part in parts)


def _whole_numbers(name: str, values: Any, least: int) -> tuple[int, ...]:
    numbers = tuple(values) if isinstance(values, Sequence | np.ndarray | range) else (values,)
    whole = all(isinstance(v, int | np.integer) and not isinstance(v, bool) and v >= least for v in numbers)
    if not numbers or not whole or len(set(numbers)) < len(numbers):
        raise ValueError(f"calibrate: {name} must be different whole numbers from {least}, got {values!r}.")
    return tuple(int(v) for v in numbers)


def _check_noise(noise: Any) -> str:
    """Label of the noise."""
    if noise is None:
        return ""
    if callable(noise):
        return getattr(noise, "__name__", "noise")
    if not isinstance(noise, tuple) or len(noise) != 2 or noise[0] not in NOISES:
        raise ValueError(
            f"calibrate: noise must be a function or a pair of a kind from {NOISES} and a scale, "
            f"got {noise!r}."
        )
    if not isinstance(noise[1], int | float | np.floating | np.integer) or not 0 <= noise[1] < np.inf:
        raise ValueError(
            f"calibrate: the scale of the noise must be a finite number, at least 0, got {noise[1]!r}."
        )
    return f"{noise[0]} {noise[1]:g}"
