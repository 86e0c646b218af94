"""``manifold-jax calibrate``: built-in estimators, a grid and the exact route against exact geometry."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import typer

from manifold_jax._checks import choice, require
from manifold_jax._files import Progress, silent
from manifold_jax.datasets import hyperboloid, sample_uniform, sphere, sprite, torus
from manifold_jax.experiments import experiment as registry
from manifold_jax.experiments.calibration.studies import STUDIES
from manifold_jax.experiments.cluster import Scheduler, Workers, check_cluster, cluster_executor
from manifold_jax.experiments.experiment import Experiment, Outcome, publish_page, run_experiments
from manifold_jax.experiments.results import Cells, cell_name
from manifold_jax.experiments.sprites import FACTORS
from manifold_jax.experiments.terminal import Preset, Seed, plain_errors, prepare, results_folder
from manifold_jax.fitting import Calibration, builtin_estimators, calibrate, error_curves, ranking
from manifold_jax.fitting.calibration_table import ErrorCurve, Rank, Row
from manifold_jax.fitting.estimators import QUANTITIES
from manifold_jax.fitting.truth import exact_field, exact_total, field_scale
from manifold_jax.geometry import Grid, Manifold, measure
from manifold_jax.geometry.local_fit import CURVATURES
from manifold_jax.geometry.quantities import LABELS
from manifold_jax.plotting.style import PALETTE, Figure, quantity_panels, tick_at

_NAMES = tuple((one.name, one.quantity) for one in builtin_estimators())
GRID, EXACT = "grid, order 4", "autodiff"
FAST = ("TwoNN", "MLE")  # estimators of the intrinsic dimension that are not slow
STARRED = 0.005  # share of points without a value above which an error has a star
SHORT = {name: LABELS[name].symbol for name in CURVATURES} | {"normal_curvature": "max |II(v,v)|"}


class Settings(NamedTuple):
    """Size of the calibration."""

    sizes: tuple[int, ...] = (500, 1000, 2000, 5000, 10_000, 20_000)  # numbers of samples
    seeds: int = 3  # clouds of each size
    single: int = 5000  # points above which there is one cloud
    manifolds: tuple[str, ...] = ("sphere2", "sphere3", "torus", "hyperboloid", "sprite2", "sprite4")
    dimensions: tuple[str, ...] = (*FAST, "lPCA", "CorrInt", "MOM", "TLE")  # see intrinsic_dimension
    most: int = 5000  # points above which all of these but FAST are left out
    quantities: tuple[str, ...] = ()  # what is estimated; all by default


_FEW = ("sphere2", "torus", "hyperboloid", "sprite2")
REDUCED = Settings((500, 2000), seeds=2, manifolds=_FEW, dimensions=(*FAST, "lPCA"))


def ellipses(sizes: dict[str, int], ranges: dict[str, tuple[float, float]]) -> Manifold:
    """Sprites of 32 x 32 pixels; volume and reach are taken from a lattice of these sizes."""
    factors: Any = tuple(sizes)
    place = sprite("ellipse", size=32, layout="balanced", factors=factors, ranges=ranges, sizes=sizes)
    return dataclasses.replace(place, name=f"ellipse sprites, d = {len(factors)}")


_NEAR = {"scale": (0.7, 1.0), "y": (13.0, 18.0), "x": (13.0, 18.0)}
PLACES: dict[str, Callable[[], Manifold]] = {
    "sphere2": lambda: sphere(2),
    "sphere3": lambda: sphere(3),
    "torus": torus,
    "hyperboloid": hyperboloid,
    "sprite2": lambda: ellipses({"y": 32, "x": 32}, {}),
    "sprite4": lambda: ellipses(dict(zip(FACTORS, (8, 12, 8, 8), strict=True)), _NEAR),
}


def check(settings: Settings) -> None:
    """Refuse unknown manifolds and a missing package before anything starts."""
    for name in settings.manifolds:
        choice("calibrate", "manifold", name, PLACES)
    for name in settings.quantities:
        choice("calibrate", "quantity", name, QUANTITIES)
    if set(settings.dimensions) - set(FAST) and "dimension" in (settings.quantities or QUANTITIES):
        require("skdim", "estimators", "intrinsic dimension")


def run(context: tuple[Cells, int], settings: Settings, progress: Progress = silent) -> Outcome:
    """Relative RMS errors by quantity, manifold, method and size.

    The context is the finished parts, one for each manifold, size and cloud, and the seed of the samples.
    """
    cells, seed = context
    places = {name: PLACES[name]() for name in settings.manifolds}
    counts = {n: settings.seeds if n <= settings.single else 1 for n in settings.sizes}
    parts = [(*p, n, k) for p in places.items() for n in settings.sizes for k in range(counts[n])]
    # With the columns in its name, a cell that an earlier version wrote with others is not taken.
    about = {"which": settings.dimensions, "most": settings.most, "quantities": settings.quantities}
    about |= {"estimators": _NAMES, "columns": Row._fields, "seed": seed}
    computed = [
        (
            cell_name(manifold=place.name, size=size, number=number, **about),
            partial(_run_estimators, settings, name, size, number, seed),
        )
        for name, place, size, number in parts
    ]
    rows = [Row(**row) for table in cells.fill(computed, progress) for row in table]
    ranks, others = ranking(Calibration(tuple(rows))), list[Row]()
    for place in places.values():
        others += [row for size in settings.sizes for row in measure_on_grid(place, size)]
        others += _differentiate(place, max(settings.sizes))
    calibration = Calibration((*rows, *others))
    clouds = f"{settings.seeds} clouds of each size up to {settings.single}, one of more"
    notes = [
        "Root mean square errors relative to the root mean square of the exact field (where that is nearly "
        "0, of |II|, for S of its square; tangent: sine of the angle; volume, reach, dimension: the exact "
        "value), median over the clouds; slope of their "
        f"logarithms; s: seconds of one call at the largest size up to {settings.single}, compiled before. "
        f"A star: more than 0.5 % of the points have no value. {GRID}: a lattice of about as many "
        f"points; {EXACT}: at the samples, against closed forms. Samples: uniform by volume, no noise.",
        "Errors of exactly 0 have no place on the logarithmic axes of the figure.",
        *_winners(ranks),
        *dict.fromkeys(row.status for row in rows if row.status),
    ]
    data = {"rows": calibration.to_dicts(), "ranking": ranks}
    curves = error_curves(calibration)
    ordered = sorted(curves, key=lambda curve: (curve.quantity, curve.manifold))
    table = [_line(curve, calibration.rows, settings) for curve in ordered]
    title = f"Estimators from samples against exact geometry, {clouds}"
    return Outcome(title, table, data, {"calibrate": _figure(curves)}, notes, headline=_in_short(ranks))


def _run_estimators(settings: Settings, name: str, size: int, number: int, seed: int) -> list[dict[str, Any]]:
    """All built-in estimators on one cloud; methods of intrinsic dimension that are slow stop early."""
    totals = {"volume", "reach"} & set(settings.quantities or QUANTITIES)
    place = _with_totals(name, str(jax.numpy.result_type(float))) if totals else PLACES[name]()
    slow = set(settings.dimensions) - set(FAST)
    estimators = [
        dataclasses.replace(one, most=settings.most) if one.name in slow else one
        for one in builtin_estimators(*settings.quantities, dimensions=settings.dimensions)
    ]
    # Later clouds find everything compiled, and of many points compilation is the smaller part.
    warm_up, key = number == 0 and size <= settings.single, jax.random.key(seed)
    options = {"key": key, "seeds": [number], "on_error": "record", "warm_up": warm_up}
    return calibrate(estimators, place, [size], **options).to_dicts()


@cache
def _with_totals(name: str, _precision: str) -> Manifold:
    """A manifold with its volume and reach, which take long where there is no closed form."""
    place, totals = PLACES[name](), {"total_volume": "volume", "reach": "reach"}
    missing = {k: exact_total((place,), total) for k, total in totals.items() if k not in place.known}
    return dataclasses.replace(place, known={**place.known, **missing})


def _row(place: Manifold, method: str, name: str, size: int, seconds: float, errors: dict[str, Any]) -> Row:
    sizes = (place.grid.ndim, int(np.prod(place.feature_shape)), size)
    return Row(method, name, place.name, *sizes, seed=0, noise="", seconds=seconds, warm=True, **errors)


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Value of a function, and the seconds of a second call, which finds everything compiled."""
    jax.block_until_ready(function())
    began = time.perf_counter()
    value = jax.block_until_ready(function())
    return value, time.perf_counter() - began


def measure_on_grid(place: Manifold, size: int) -> list[Row]:
    """Errors of stencils on a lattice of about so many points."""
    along = max(6, round(size ** (1 / place.grid.ndim)))
    grid = Grid(tuple(dataclasses.replace(axis, size=along) for axis in place.grid.axes))
    stencil, seconds = _timed(lambda: measure(place, grid))
    exact = measure(place, grid, exact=True)
    weight, second = (np.asarray(field.value) for field in (exact.volume_element, exact.second_form_norm))
    volume = float(exact.total_volume.value)
    away = abs(float(stencil.total_volume.value) - volume) / volume
    errors = {"rmse": away, "failed": 0.0, "scale": volume, "reference": "exact value"}
    rows = [_row(place, GRID, "volume", size, seconds, errors)]
    for name in CURVATURES:
        mine, true = (np.asarray(getattr(geometry, name).value) for geometry in (stencil, exact))
        rows.append(_row(place, GRID, name, size, seconds, _relative(name, mine, true, second, weight)))
    return rows


def _differentiate(place: Manifold, size: int) -> list[Row]:
    """Automatic differentiation at random points against closed forms, where all are known."""
    if not all(name in place.known for name in CURVATURES):
        return []
    bare = dataclasses.replace(place, known={})
    coordinates = (sample_uniform(jax.random.key(0), place, size).coordinates,)
    second = exact_field((place,), coordinates, "second_form_norm")
    rows = []
    for name in CURVATURES:
        true = exact_field((place,), coordinates, name)
        mine, seconds = _timed(lambda name=name: exact_field((bare,), coordinates, name))
        errors = _relative(name, mine, true, second, np.ones(len(true)))
        rows.append(_row(place, EXACT, name, size, seconds, errors))
    return rows


def _relative(
    name: str, mine: np.ndarray, true: np.ndarray, second_form_norm: np.ndarray, weight: np.ndarray
) -> dict[str, Any]:
    """RMS error by volume, over the scale that :func:`calibrate` takes."""
    good = np.isfinite(mine) & np.isfinite(true)
    defined = weight > 1e-9 * weight.max()  # poles count for nothing
    error = np.sqrt(np.average((mine[good] - true[good]) ** 2, weights=weight[good]))
    scale, reference = field_scale(name, true, second_form_norm, weight)
    lost = 1 - np.sum(weight[good & defined]) / np.sum(weight[defined])
    return {"rmse": float(error) / scale, "failed": float(lost), "scale": scale, "reference": reference}


def _winners(ranks: Sequence[Rank]) -> list[str]:
    """The best method for every quantity, where there is a choice."""
    sentences = []
    for name in dict.fromkeys(rank.quantity for rank in ranks):
        here = [rank for rank in ranks if rank.quantity == name]
        best: dict[str, str] = {}
        for rank in here:  # the best of each manifold comes first
            if np.isfinite(rank.error):
                best.setdefault(rank.manifold, rank.estimator)
        if best and len({rank.estimator for rank in here}) > 1:
            winners = "; ".join(f"{manifold}: {method}" for manifold, method in best.items())
            sentences.append(f"Best for {SHORT.get(name, name)}: {winners}.")
    return sentences


def _in_short(ranks: Sequence[Rank]) -> str:
    """Least errors on the first manifold, in words."""
    of, best = ranks[0].manifold if ranks else "", dict[str, Rank]()
    for rank in ranks:  # the best of each manifold comes first
        if rank.manifold == of and np.isfinite(rank.error):
            best.setdefault(rank.quantity, rank)
    if not best:
        return ""
    words = [f"{SHORT.get(name, name)} {rank.error:.1g} ({rank.estimator})" for name, rank in best.items()]
    return f"Least errors, {of}: {', '.join(words)}."


def _line(curve: ErrorCurve, every: Sequence[Row], settings: Settings) -> dict[str, Any]:
    """One line of the table: a quantity, a manifold and a method."""
    same = (curve.quantity, curve.manifold, curve.estimator)
    rows = [row for row in every if (row.quantity, row.manifold, row.estimator) == same]
    name = SHORT.get(curve.quantity, curve.quantity)
    line = {"quantity": name, "of": curve.manifold, "by": curve.estimator}
    line |= {f"n = {size}": "-" for size in settings.sizes}
    for size, error in zip(map(int, curve.sizes), curve.error, strict=True):
        lost = np.mean([row.failed for row in rows if row.size == size])
        line[f"n = {size}"] = f"{error:.2g}{'*' if lost > STARRED else ''}"
    timed = [r for r in rows if r.warm and r.size <= settings.single and np.isfinite(r.seconds)]
    largest = max((row.size for row in timed), default=0)
    seconds = [row.seconds for row in timed if row.size == largest]
    line["slope"] = f"{curve.slope:.2f}" if np.isfinite(curve.slope) else "-"
    return line | {"s": f"{np.median(seconds):.2g}" if seconds else "-"}


def _figure(every: Sequence[ErrorCurve]) -> Figure:
    """A panel for every quantity, a colour for every manifold, a line style for every method."""
    curves = [c for c in every if len(c.sizes) and (c.error > 0).all() and c.estimator != EXACT]
    quantities = list(dict.fromkeys(curve.quantity for curve in curves))
    colours = dict(zip(dict.fromkeys(curve.manifold for curve in curves), PALETTE, strict=False))
    columns = -(-len(quantities) // 2)
    title = "Relative error of estimators from samples (dotted: stencils on a grid)"
    figure, pairs = quantity_panels(title, quantities, (15.0 / columns, 4.25), columns)
    for at, name in pairs:
        here = [curve for curve in curves if curve.quantity == name]
        methods = list(dict.fromkeys(curve.estimator for curve in here if curve.estimator != GRID))
        styles = {m: (("-", "--", "-.")[k % 3], "os^vDx"[k % 6]) for k, m in enumerate(methods)}
        for curve in here:
            line, mark = styles.get(curve.estimator, (":", ""))
            at.loglog(curve.sizes, curve.error, line, marker=mark, ms=4, color=colours[curve.manifold])
        for method, (line, mark) in styles.items():
            at.plot([], [], line, marker=mark, color="0.4", label=method)
        at.set_title(SHORT.get(name, name), fontsize=10)
        at.set_xlabel("samples")
        tick_at(at, [size for curve in here for size in curve.sizes])
        at.grid(alpha=0.3)
        if methods:
            at.legend(fontsize=8)
    first = figure.axes[0]
    first.set_ylabel("relative RMS error")
    handles = [first.plot([], [], color=colour, label=name)[0] for name, colour in colours.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9)
    return figure


_MANIFOLDS, _SIZES = f"Any of {', '.join(PLACES)}; may be repeated.", "Samples; may be repeated."
_QUANTITIES = f"Any of {', '.join(QUANTITIES[:-1])}; may be repeated."
EXPERIMENTS = {"calibrate": Experiment("all estimators and the grid", Settings(), REDUCED, run, check)}
EXPERIMENTS |= STUDIES


def calibrate_command(
    experiment: Annotated[str, typer.Argument(help=registry.describe(EXPERIMENTS))] = "calibrate",
    manifolds: Annotated[list[str] | None, typer.Option("--manifold", help=_MANIFOLDS)] = None,
    sizes: Annotated[list[int] | None, typer.Option("--size", min=50, help=_SIZES)] = None,
    quantities: Annotated[list[str] | None, typer.Option("--quantity", help=_QUANTITIES)] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Clouds of each size.")] = None,
    preset: Preset = "reduced",
    single: Annotated[bool, typer.Option("--single", help="float32 instead of float64.")] = False,
    seed: Seed = 0,
    workers: Workers = None,
    scheduler: Scheduler = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/calibrate"),
) -> None:
    """Compare every built-in estimator of geometry from samples with what is exactly known.

    Interrupted and called again with the same --out, it goes on where it was.
    """
    arguments = registry.given_options(locals())
    with plain_errors():
        registry.check_options(arguments)
        check_cluster(workers, scheduler)
        folder = prepare(out)
        changes = {"manifolds": tuple(manifolds or ()) or None, "sizes": tuple(sizes or ()) or None}
        changes |= {"seeds": seeds, "quantities": tuple(quantities or ()) or None}
        plans = registry.all_settings(EXPERIMENTS, experiment, preset, changes)
        with (
            results_folder(folder),
            jax.enable_x64(not single),
            cluster_executor(workers, scheduler) as executor,
        ):
            cells = Cells(folder / f"cells-{'float32' if single else 'float64'}.jsonl", executor)
            finished = run_experiments(EXPERIMENTS, plans, (cells, seed), folder, arguments)
            publish_page("calibrate", finished, folder)
