"""Every built-in estimator against exact geometry, with the grid and the exact route beside it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from manifold_jax._files import Progress
from manifold_jax.datasets import hyperboloid, sample_uniform, sphere, sprite, torus
from manifold_jax.experiments.cells import Cells, cell_name
from manifold_jax.experiments.experiment import Outcome
from manifold_jax.fitting import Calibration, Estimator, builtin_estimators, calibrate, error_curves, ranking
from manifold_jax.fitting.calibration_table import Rank, Row
from manifold_jax.fitting.truth import exact_field, exact_total, field_scale
from manifold_jax.geometry import Grid, Manifold, measure
from manifold_jax.geometry.local_fit import CURVATURES
from manifold_jax.plotting.images import PALETTE
from manifold_jax.plotting.style import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GRID, EXACT = "grid, order 4", "autodiff"
SHORT = {"scalar_curvature": "S", "mean_curvature": "|H|", "second_form_norm": "|II|"}
SHORT |= {"normal_curvature": "max |II(v,v)|"}


class Settings(NamedTuple):
    """Size of the calibration.

    Attributes:
        sizes: Samples.
        seeds: Clouds of each size.
        single: Points above which there is one cloud.
        manifolds: Names in ``PLACES``.
        dimensions: Methods of scikit-dimension.
        most: Points above which all of these but TwoNN and MLE are left out.
    """

    sizes: tuple[int, ...] = (500, 1000, 2000, 5000, 10_000, 20_000)
    seeds: int = 3
    single: int = 5000
    manifolds: tuple[str, ...] = ("sphere2", "sphere3", "torus", "hyperboloid", "sprite2", "sprite4")
    dimensions: tuple[str, ...] = ("TwoNN", "MLE", "lPCA", "CorrInt", "MOM", "TLE")
    most: int = 5000


REDUCED = Settings(
    (500, 2000),
    seeds=2,
    manifolds=("sphere2", "torus", "hyperboloid", "sprite2"),
    dimensions=("TwoNN", "MLE", "lPCA"),
)


def _sprites(sizes: dict[str, int], ranges: dict[str, tuple[float, float]]) -> Manifold:
    """Ellipses of 32 x 32 pixels; volume and reach are taken from a lattice of these sizes."""
    factors = tuple(sizes)
    options: dict[str, Any] = {"factors": factors, "ranges": ranges, "sizes": sizes}
    made = sprite("ellipse", size=32, layout="balanced", **options)
    return dataclasses.replace(made, name=f"ellipse sprites, d = {len(factors)}")


PLACES: dict[str, Callable[[], Manifold]] = {
    "sphere2": lambda: sphere(2),
    "sphere3": lambda: sphere(3),
    "torus": torus,
    "hyperboloid": hyperboloid,
    "sprite2": lambda: _sprites({"y": 32, "x": 32}, {}),
    "sprite4": lambda: _sprites(
        {"scale": 8, "orientation": 12, "y": 8, "x": 8},
        {"scale": (0.7, 1.0), "y": (13.0, 18.0), "x": (13.0, 18.0)},
    ),
}


def run(settings: Settings, cells: Cells, *, seed: int = 0, progress: Progress | None = None) -> Outcome:
    """Calibrate the built-in estimators.

    Args:
        settings: Size.
        cells: Finished parts, one for each manifold, size and seed.
        seed: Of the samples.
        progress: Called with the parts done and all of them.

    Returns:
        The outcome: relative RMS errors by measure, manifold, method and size.
    """
    places = [PLACES[name]() for name in settings.manifolds]
    clouds = {n: settings.seeds if n <= settings.single else 1 for n in settings.sizes}
    parts = [(p, n, k) for p in places for n in settings.sizes for k in range(clouds[n])]
    whole = cache(_with_totals)
    rows: list[Row] = []
    for done, (place, size, number) in enumerate(parts, start=1):
        name = cell_name(manifold=place.name, size=size, number=number, seed=seed, which=settings.dimensions)
        if name not in cells:
            cells.put(name, [row._asdict() for row in _one(settings, whole(place), size, number, seed)])
        rows += [Row(**row) for row in cells[name]]
        if progress is not None:
            progress(done, len(parts))
    cells.save()
    beside = [row for place in places for row in _beside(place, settings.sizes)]
    calibration = Calibration((*rows, *beside))
    table = _table(calibration, settings.sizes, settings.single)
    ranks = ranking(Calibration(tuple(rows)))
    title = (
        f"Estimators from samples against exact geometry, {settings.seeds} clouds of each size "
        f"up to {settings.single}, one of more"
    )
    notes = [
        "Root mean square errors relative to the root mean square of the exact field (where that is nearly "
        "0, of |II|, for S of its square; tangent: sine of the "
        "angle; volume, reach, dimension: the exact value), median over the clouds; slope of their "
        f"logarithms; s: seconds of one call at the largest size up to {settings.single}, compiled before. "
        f"A star: more than 0.5 % of the points have no value. {GRID}: a lattice of about as many "
        f"points; {EXACT}: at the samples, against closed forms. Samples: uniform by volume, no noise.",
        "Errors of exactly 0 have no place on the logarithmic axes of the figure.",
        *_winners(ranks),
        *dict.fromkeys(row.status for row in rows if row.status),
    ]
    data = {"rows": calibration.to_dicts(), "ranking": [r._asdict() for r in ranks]}
    return Outcome(title, table, data, {"calibrate": _figure(calibration)}, notes)


def _winners(ranks: Sequence[Rank]) -> list[str]:
    """The best method of every measure, where there is a choice."""
    sentences = []
    for name in dict.fromkeys(rank.quantity for rank in ranks):
        here = [rank for rank in ranks if rank.quantity == name]
        best: dict[str, str] = {}
        for rank in here:
            if np.isfinite(rank.error):
                best.setdefault(rank.manifold, rank.estimator)
        if len({rank.estimator for rank in here}) > 1:
            words = "; ".join(f"{place}: {method}" for place, method in best.items())
            sentences.append(f"Best for {SHORT.get(name, name)}: {words}.")
    return sentences


def _one(settings: Settings, place: Manifold, size: int, number: int, seed: int) -> tuple[Row, ...]:
    """All estimators on one cloud."""
    key = jax.random.key(seed)
    # Later clouds find everything compiled, and of many points compilation is the smaller part.
    warm_up = number == 0 and size <= settings.single
    options: dict[str, Any] = {"key": key, "seeds": [number], "on_error": "record", "warm_up": warm_up}
    return calibrate(_estimators(settings), place, [size], **options).rows


def _with_totals(place: Manifold) -> Manifold:
    """The manifold with its volume and reach, which take long where there is no closed form."""
    totals = {"total_volume": "volume", "reach": "reach"}
    found = {k: exact_total((place,), name) for k, name in totals.items() if k not in place.known}
    return dataclasses.replace(place, known={**place.known, **found})


def _estimators(settings: Settings) -> tuple[Estimator, ...]:
    """All built-in ones; methods of intrinsic dimension that are slow stop early."""
    slow = set(settings.dimensions) - {"TwoNN", "MLE"}
    return tuple(
        dataclasses.replace(e, most=settings.most) if e.quantity == "dimension" and e.name in slow else e
        for e in builtin_estimators(dimensions=settings.dimensions)
    )


# --- other routes ------------------------------------------------------------------------------------------


def _beside(place: Manifold, sizes: Sequence[int]) -> list[Row]:
    """Stencils on lattices of about as many points, and automatic differentiation against closed forms."""
    return [row for size in sizes for row in _by_grid(place, size)] + _exactly(place, max(sizes))


class _Error(NamedTuple):
    """An error relative to a scale, and the share of volume without a finite value."""

    rmse: float
    failed: float
    scale: float
    reference: str


def _row(place: Manifold, name: str, method: str, size: int, error: _Error, seconds: float) -> Row:
    features = int(np.prod(place.feature_shape))
    blank = Row(method, name, place.name, place.grid.ndim, features, size, 0, "")
    return blank._replace(seconds=seconds, warm=True, **error._asdict())


def _by_grid(place: Manifold, size: int) -> list[Row]:
    along = max(6, round(size ** (1 / place.grid.ndim)))
    grid = Grid(tuple(dataclasses.replace(axis, size=along) for axis in place.grid.axes))
    measure(place, grid)
    began = time.perf_counter()
    found = jax.block_until_ready(measure(place, grid))
    seconds = time.perf_counter() - began
    exact = measure(place, grid, exact=True)
    weight = np.asarray(exact.volume_element.value)
    volume = float(exact.total_volume.value)
    away = abs(float(found.total_volume.value) - volume) / volume
    rows = [_row(place, "volume", GRID, size, _Error(away, 0.0, volume, "exact value"), seconds)]
    bend = np.asarray(exact.second_form_norm.value)
    for name in CURVATURES:
        mine, true = (np.asarray(getattr(part, name).value) for part in (found, exact))
        rows.append(_row(place, name, GRID, size, _relative(name, mine, true, bend, weight), seconds))
    return rows


def _exactly(place: Manifold, size: int) -> list[Row]:
    """Automatic differentiation at random points against closed forms, where all are known."""
    if not all(name in place.known for name in CURVATURES):
        return []
    bare = dataclasses.replace(place, known={})
    coordinates = (sample_uniform(jax.random.key(0), place, size).coordinates,)
    bend, rows = exact_field((place,), coordinates, "second_form_norm"), []
    for name in CURVATURES:
        true = exact_field((place,), coordinates, name)
        exact_field((bare,), coordinates, name)
        began = time.perf_counter()
        mine = exact_field((bare,), coordinates, name)
        seconds = time.perf_counter() - began
        error = _relative(name, mine, true, bend, np.ones(len(true)))
        rows.append(_row(place, name, EXACT, size, error, seconds))
    return rows


def _relative(name: str, mine: np.ndarray, true: np.ndarray, bend: np.ndarray, weight: np.ndarray) -> _Error:
    """RMS error by volume, over the scale that :func:`calibrate` takes."""
    good = np.isfinite(mine) & np.isfinite(true)
    defined = weight > 1e-9 * weight.max()  # poles count for nothing
    error = np.sqrt(np.average((mine[good] - true[good]) ** 2, weights=weight[good]))
    scale, reference = field_scale(name, true, bend, weight)
    lost = 1 - np.sum(weight[good & defined]) / np.sum(weight[defined])
    return _Error(float(error) / scale, float(lost), scale, reference)


# --- tables and figures ------------------------------------------------------------------------------------


def _table(calibration: Calibration, sizes: Sequence[int], single: int) -> list[dict[str, Any]]:
    """One line for every measure, manifold and method."""
    table = []
    for curve in sorted(error_curves(calibration), key=lambda c: (c.quantity, c.manifold)):
        same = (curve.quantity, curve.manifold, curve.estimator)
        rows = [r for r in calibration.rows if (r.quantity, r.manifold, r.estimator) == same]
        errors = dict(zip(map(int, curve.sizes), curve.error, strict=True))
        timed = [r for r in rows if r.warm and r.size <= single and np.isfinite(r.seconds)]
        most = max((r.size for r in timed), default=0)
        seconds = [r.seconds for r in timed if r.size == most]
        line: dict[str, Any] = {"measure": SHORT.get(same[0], same[0]), "of": same[1], "by": same[2]}
        for size in sizes:
            lost = np.mean([r.failed for r in rows if r.size == size]) if size in errors else 0.0
            line[f"n = {size}"] = (
                f"{errors[size]:.2g}{'*' if lost > 0.005 else ''}" if size in errors else "-"
            )
        line |= {"slope": f"{curve.slope:.2f}" if np.isfinite(curve.slope) else "-"}
        line |= {"s": f"{np.median(seconds):.2g}" if seconds else "-"}
        table.append(line)
    return table


def _figure(calibration: Calibration) -> Figure:
    """A panel for every measure, a colour for every manifold, a line style for every method."""
    curves = [curve for curve in error_curves(calibration) if len(curve.sizes) and (curve.error > 0).all()]
    measures = list(dict.fromkeys(curve.quantity for curve in curves))
    manifolds = list(dict.fromkeys(curve.manifold for curve in curves))
    figure = new_figure(15.0, 9.0, "Relative error of estimators from samples (dotted: stencils on a grid)")
    axes = np.atleast_1d(figure.subplots(2, -(-len(measures) // 2), squeeze=False)).ravel()
    for at, name in zip(axes, measures, strict=False):
        here = [curve for curve in curves if curve.quantity == name]
        methods = list(dict.fromkeys(c.estimator for c in here if c.estimator not in (GRID, EXACT)))
        for curve in here:
            if curve.estimator == EXACT:
                continue
            style = ":" if curve.estimator == GRID else ("-", "--", "-.")[methods.index(curve.estimator) % 3]
            mark = "" if curve.estimator == GRID else "os^vDx"[methods.index(curve.estimator) % 6]
            colour = PALETTE[manifolds.index(curve.manifold) % len(PALETTE)]
            at.loglog(curve.sizes, curve.error, style, marker=mark, ms=4, color=colour)
        for k, method in enumerate(methods):
            at.plot([], [], ("-", "--", "-.")[k % 3], marker="os^vDx"[k % 6], color="0.4", label=method)
        at.set_title(SHORT.get(name, name), fontsize=10)
        at.set_xlabel("samples")
        at.grid(alpha=0.3)
        at.legend(fontsize=7)
    for at in axes[len(measures) :]:
        at.set_axis_off()
    for k, name in enumerate(manifolds):
        axes[0].plot([], [], color=PALETTE[k % len(PALETTE)], label=name)
    figure.legend(*_lines(axes[0], manifolds), loc="outside lower center", ncols=len(manifolds), fontsize=9)
    axes[0].set_ylabel("relative RMS error")
    return figure


def _lines(at: Any, names: Sequence[str]) -> tuple[list[Any], list[str]]:
    """Handles with these labels."""
    handles, labels = at.get_legend_handles_labels()
    found = dict(zip(labels, handles, strict=True))
    return [found[name] for name in names], list(names)
