"""Estimators against exact geometry: who is reliable where."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from manifold_jax._checks import checked_function, choice, flag, optional, positive, random_key, shown, whole
from manifold_jax._executors import arrived, check_executor, first_task, run_tasks, shares_memory
from manifold_jax.fitting.calibration_table import Calibration, Row
from manifold_jax.fitting.estimators import Estimator
from manifold_jax.fitting.nearest_points import components
from manifold_jax.fitting.truth import NOISES, Noise, Sample, Truth, draw, exact_total, truth_of
from manifold_jax.geometry import Manifold

TESTS = 500  # held-out points of a fit


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
    progress: Callable[[Row], None] | None = None,
    executor: Any = None,
) -> Calibration:
    """Compare estimators with exact geometry on samples that are uniform by volume.

    All estimators see the same samples: those of a seed and a size follow from ``key`` alone. Exact values
    are the closed forms of ``Manifold.known``, or else come from automatic differentiation at the samples;
    volume and reach are then those of :func:`measure` and :func:`reach` on the manifold's own grid. With
    noise they belong to the points before noise was added.

    Errors are divided by a scale: for a curvature the RMS of the exact field over the samples, or, where that
    is below a thousandth of the RMS of |II| (squared for S), as on flat and minimal surfaces, the latter; for
    a volume, reach or dimension the exact value; for a tangent space 1, its error being the sine of the
    largest principal angle; for a fit the RMS distance of the samples from their centroid. A fit is judged on
    500 further points x of the manifold, without noise: the error at x is the larger of the distances from
    its image to the manifold and from x to the nearest image, so that ``largest`` is a Hausdorff distance.

    Args:
        estimators: One :class:`Estimator`, a pair ``(quantity, function)``, or a sequence of these; the
            function is called as ``function(points, dimension=d)``.
        manifolds: One :class:`Manifold`, or a sequence of manifolds and unions (sequences of manifolds).
        sizes: Numbers of samples.
        key: Random key.
        seeds: One sample for each.
        noise: ``("ambient", s)`` Gaussian of standard deviation s in every feature, ``("normal", s)`` the
            same in normal directions, ``("normal-uniform", s)`` uniform in normal balls of radius s; or a
            function of a key, the manifold, chart coordinates ``(n, d)`` and points ``(n, *features)``.
        warm_up: Whether to call everything once before the clock runs: ``seconds`` is without compilation.
        on_error: Whether an estimator that raises, or returns NaN everywhere, is a ValueError (``"raise"``)
            or a row with a status (``"record"``).
        progress: Called with every row, as it is there.
        executor: Where estimators are called, as in :func:`measure`: functions of a module and partials of
            them travel, with the samples. Samples are drawn, exact values computed and estimates judged in
            this process. A worker calls all twice where ``warm_up`` is set, and then times them.

    Raises:
        ValueError: An argument is out of range or a name is taken twice, an estimator cannot travel or
            returns another shape than its quantity has, or while ``on_error`` is ``"raise"`` it fails or
            there is no exact value.

    Example:
        >>> radius = lambda points, dimension: jnp.max(jnp.linalg.norm(points, axis=1))
        >>> curve, key = mj.datasets.circle(), jax.random.key(0)
        >>> table = mj.fitting.calibrate(("reach", radius), curve, [100], key=key)
        >>> table.rows[0].rmse < 1e-6
        True
    """
    tried, places = _estimators(estimators), _places(manifolds)
    sizes, seeds = _whole_numbers("sizes", sizes, 2), _whole_numbers("seeds", seeds, 0)
    choice("calibrate", "on_error", on_error, ("raise", "record"))
    _noise_label(noise)
    warm_up = flag("calibrate", "warm_up", warm_up)
    random_key("calibrate", "key", key)
    optional(checked_function, "calibrate", "progress", progress)
    executor = check_executor("calibrate", executor)
    here = shares_memory(executor)
    if not here:
        first_task("calibrate", executor, arrived, *tried)
    asked, rows = list[Any](), dict[int, Row]()

    def take(number: int, row: Row) -> None:
        rows[number] = row
        if progress is not None:
            progress(row)

    def tasks() -> Iterator[tuple[Any, ...]]:
        for number, case in enumerate(_cases(tried, places, sizes, seeds, key, noise)):
            row = _without_call(case, on_error)
            if row is not None:
                take(number, row)
                continue
            again = warm_up and (case.first or not here)
            asked.append((number, case, warm_up or (here and not case.first)))
            sample = case.sample
            yield case.estimator, sample.points, sample.held, case.row.dimension, _data_of(case.key), again

    for k, outcome in run_tasks(partial(_call, here), tasks(), executor):
        number, case, warm = asked[k]
        asked[k] = None
        take(number, _judge(case, outcome, warm, on_error))
    return Calibration(tuple(rows[number] for number in sorted(rows)))


class _Case(NamedTuple):
    """An estimator and a sample, and how it is judged."""

    estimator: Estimator
    sample: Sample
    truth: Truth
    row: Row
    key: Any
    first: bool  # whether the sample is the first of its size


def _cases(
    tried: Sequence[Estimator],
    places: dict[str, tuple[Manifold, ...]],
    sizes: Sequence[int],
    seeds: Sequence[int],
    key: PRNGKeyArray,
    noise: Noise,
) -> Iterator[_Case]:
    """All estimators on all samples."""
    quantities, label = {estimator.quantity for estimator in tried}, _noise_label(noise)
    for place, parts in places.items():
        d, totals = parts[0].grid.ndim, dict[str, float]()
        volumes = [exact_total((part,), "volume") for part in parts] if len(parts) > 1 else [1.0]
        for size, (number, seed) in itertools.product(sizes, enumerate(seeds)):
            # The same samples whatever the other sizes and seeds are.
            own, test, inner = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, seed), size), 3)
            sample = draw(own, parts, volumes, size, noise)
            if "fit" in quantities:
                sample = sample._replace(held=draw(test, parts, volumes, TESTS, None).clean)
            truths = {name: truth_of(name, sample, totals) for name in quantities}
            for estimator in tried:
                name, quantity, features = estimator.name, estimator.quantity, sample.points.shape[1]
                truth, row = truths[quantity], Row(name, quantity, place, d, features, size, seed, label)
                row = row._replace(scale=truth.scale, reference=truth.reference)
                yield _Case(estimator, sample, truth, row, inner, number == 0)


def _without_call(case: _Case, on_error: str) -> Row | None:
    """The row of an estimator that need not be called; None for others."""
    most, row = case.estimator.most, case.row
    if most is not None and row.size > most:
        return row._replace(status=f"left out: takes up to {most} points")
    if np.isfinite(row.scale):
        return None
    exact = f"the exact {row.quantity} of {row.manifold!r} is {row.scale}"
    return _failed(row, f"{exact}: there is no error to measure.", on_error)


class _Outcome(NamedTuple):
    """What a call returned and its seconds, or the error that it raised, in words too."""

    value: Any = None
    seconds: float = np.nan
    error: Exception | None = None
    kind: str = ""
    text: str = ""


def _call(
    here: bool, estimator: Estimator, points: Any, held: Any, dimension: int, key: Any, again: bool
) -> _Outcome:
    """Call an estimator, once before the clock runs if asked for; errors do not travel, their words do."""
    try:
        if again:
            _estimate(estimator, points, held, dimension, key)
        began = time.perf_counter()
        value = _estimate(estimator, points, held, dimension, key)
        return _Outcome(value, time.perf_counter() - began)
    except Exception as error:
        return _Outcome(error=error if here else None, kind=type(error).__name__, text=str(error))


def _judge(case: _Case, outcome: _Outcome, warm: bool, on_error: str) -> Row:
    """The row of an estimator that was called."""
    estimator, row = case.estimator, case.row
    where = f"{row.size} samples of {row.manifold!r}"
    if outcome.kind:
        sentence = f"estimator {estimator.name!r} raised {outcome.kind} on {where}: {outcome.text}"
        return _failed(row, sentence, on_error, outcome.error)
    errors = case.truth.errors(_checked_value(estimator, outcome.value, case.truth.shapes)) / row.scale
    good = np.isfinite(errors)
    row = row._replace(seconds=outcome.seconds, warm=warm, failed=float(1 - good.mean()))
    if not good.any():
        sentence = f"estimator {estimator.name!r} returned no finite value on {where}"
        return _failed(row, f"{sentence}; finite {row.quantity} values were expected.", on_error)
    errors = errors[good]
    return row._replace(
        bias=float(errors.mean()),
        rmse=float(np.sqrt(np.mean(errors**2))),
        median=float(np.median(np.abs(errors))),
        largest=float(np.abs(errors).max()),
    )


def _failed(row: Row, sentence: str, on_error: str, cause: Exception | None = None) -> Row:
    if on_error == "raise":
        raise ValueError(f"calibrate: {sentence}") from cause
    return row._replace(status=sentence)


def _data_of(key: Any) -> tuple[np.ndarray, str | None]:
    """A random key as numbers, which travel, and the name of its kind."""
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return np.asarray(key), None
    return np.asarray(jax.random.key_data(key)), str(jax.random.key_impl(key))


def _estimate(estimator: Estimator, points: Any, held: Any, dimension: int, key: Any) -> Any:
    """What the estimator returns; of a fit, the images of the held points."""
    data, kind = key
    given: dict[str, Any] = {"dimension": dimension}
    if "key" in estimator.needs:
        given["key"] = jnp.asarray(data) if kind is None else jax.random.wrap_key_data(data, impl=kind)
    needed = {name: given[name] for name in estimator.needs}
    value = jax.block_until_ready(estimator.function(points, **needed, **estimator.options))
    if estimator.quantity != "fit":
        return value
    if not callable(value):
        raise TypeError(f"a fit returns a function that projects points, got {type(value).__name__}")
    return jax.block_until_ready(value(held))


def _checked_value(estimator: Estimator, value: Any, shapes: tuple[tuple[int, ...], ...]) -> np.ndarray:
    try:
        values = np.asarray(value)
        given = f"{values.dtype} of shape {values.shape}"
    except ValueError:
        values, given = np.empty(0, bool), f"a {type(value).__name__}, which is not an array"
    if values.shape not in shapes or not np.issubdtype(values.dtype, np.number):
        wanted = f"numbers of shape {' or '.join(map(str, shapes))} for {estimator.quantity!r}"
        raise ValueError(f"calibrate: estimator {estimator.name!r} must return {wanted}, got {given}.")
    return values


def _listed(kind: str, given: Any, single: bool) -> list[Any]:
    """The entries of a sequence, or the one that is given; there must be some."""
    entries = [given] if single or not isinstance(given, Sequence) else list(given)
    if not entries:
        raise ValueError(f"calibrate: {kind}s must be at least one, got none.")
    return entries


def _estimators(given: Any) -> tuple[Estimator, ...]:
    pair = isinstance(given, tuple) and len(given) > 0 and isinstance(given[0], str)
    estimators = tuple(map(_estimator, _listed("estimator", given, pair)))
    names = [(e.quantity, e.name) for e in estimators]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"calibrate: two estimators of {twice[0][0]!r} have the name {twice[0][1]!r}.")
    return estimators


def _estimator(entry: Any) -> Estimator:
    if isinstance(entry, Estimator):
        return entry
    if isinstance(entry, tuple) and len(entry) == 2:
        return Estimator(getattr(entry[1], "__name__", repr(entry[1])), *entry)
    wanted = "Estimators or pairs (quantity, function)"
    raise ValueError(f"calibrate: estimators must be {wanted}, got {type(entry).__name__}.")


def _places(given: Any) -> dict[str, tuple[Manifold, ...]]:
    """Components of every manifold or union, by name."""
    entries = _listed("manifold", given, isinstance(given, str))
    unions = [components("calibrate", entry) for entry in entries]
    if any(len({part.grid.ndim for part in parts}) > 1 for parts in unions):
        raise ValueError("calibrate: components of a union must agree in dimension.")
    names = ["+".join(part.name for part in parts) for parts in unions]
    if len(set(names)) < len(names):
        raise ValueError(f"calibrate: manifolds need different names, got {names}; see dataclasses.replace.")
    return dict(zip(names, unions, strict=True))


def _whole_numbers(name: str, values: Any, least: int) -> tuple[int, ...]:
    given = tuple(values) if isinstance(values, Sequence | np.ndarray) else (values,)
    numbers = tuple(whole("calibrate", f"every one of {name}", value, least) for value in given)
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"calibrate: {name} must be different whole numbers, got {shown(values)}.")
    return numbers


def _noise_label(noise: Any) -> str:
    if noise is None:
        return ""
    if callable(noise):
        return getattr(noise, "__name__", "noise")
    if not isinstance(noise, tuple) or len(noise) != 2:
        raise ValueError(f"calibrate: noise must be a function or a pair (kind, scale), got {shown(noise)}.")
    kind = choice("calibrate", "kind of noise", noise[0], NOISES)
    return f"{kind} {positive('calibrate', 'scale of the noise', noise[1], zero=True):g}"
