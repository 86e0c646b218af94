"""``manifold-jax measure`` of a cloud of points: dimension, tangents, curvature and reach from samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from manifold_jax import plotting
from manifold_jax._checks import optional, require, whole
from manifold_jax._files import Progress, write_dataset, write_text
from manifold_jax.experiments.experiment import machine, write_json
from manifold_jax.experiments.measure.files import Cloud
from manifold_jax.experiments.measure.report import (
    QUANTILES,
    reach_entry,
    reach_table,
)
from manifold_jax.experiments.terminal import as_text, new_table
from manifold_jax.fitting import IntrinsicDimension, intrinsic_dimension
from manifold_jax.geometry import Reach, reach_from_samples
from manifold_jax.geometry.quantities import with_bar
from manifold_jax.geometry.reach.scales import Scales, fit_scales


class CloudGeometry(NamedTuple):
    """What a cloud says.

    Attributes:
        name: Of the cloud.
        points: The points ``(n, f)`` less their mean.
        intrinsic: Intrinsic dimension.
        dimension: The whole number that the rest is measured with.
        scales: Tangents and curvature of the different points, or None where points are too few for them.
        place: Which of the different points each point is.
        reach: The reach, or None where it was not asked for or points are too few.
        note: Why something is missing, or empty.
    """

    name: str
    points: np.ndarray
    intrinsic: IntrinsicDimension
    dimension: int
    scales: Scales | None
    place: np.ndarray
    reach: Reach | None
    note: str


def measure_cloud(
    cloud: Cloud,
    *,
    noise: float | None,
    tolerance: float,
    with_reach: bool,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
) -> CloudGeometry:
    """Measure a cloud of points; progress and checkpoint are those of :func:`reach_from_samples`.

    Raises:
        ValueError: The points are not finite, or too few, or the dimension does not fit them.
    """
    dtype = np.dtype(jax.numpy.result_type(float))
    points = cloud.points.astype(np.float64)
    points = (points - points.mean(axis=0)).astype(dtype)
    if points.shape[1] < 2:
        raise ValueError(f"measure: points must have two features or more, got {cloud.points.shape}.")
    optional(whole, "measure", "--dimension", cloud.dimension, 1, points.shape[1] - 1)
    intrinsic = intrinsic_dimension(points)
    likely = max(1, round(intrinsic.value)) if math.isfinite(intrinsic.value) else 1
    d = cloud.dimension or likely
    _, first, place = np.unique(points, axis=0, return_index=True, return_inverse=True)
    rows, note = points[np.sort(first)], ""
    place = np.argsort(np.argsort(first))[place.ravel()]
    count = d * (d + 3) + 4
    if d >= points.shape[1]:
        note = f"The points fill their space: no tangents, curvature or reach for dimension {d}."
    elif len(rows) <= 2 * count:
        note = f"Tangents, curvature and reach of dimension {d} need more than {2 * count} different points."
    if note:
        return CloudGeometry(cloud.name, points, intrinsic, d, None, place, None, note)
    scales = fit_scales(rows, d, count, noise=noise)
    options = {"dimension": d, "noise": noise, "tolerance": tolerance}
    options |= {"progress": progress, "checkpoint": checkpoint}
    reach = reach_from_samples(points, **options) if with_reach else None
    if not intrinsic.resolved and cloud.dimension is None:
        note = f"The dimension is not certain; {d} was taken, --dimension takes another."
    return CloudGeometry(cloud.name, points, intrinsic, d, scales, place, reach, note)


def cloud_tables(result: CloudGeometry, tolerance: float) -> list[RenderableType]:
    """Dimension, curvature, tangents, noise and reach with their bars."""
    span, intrinsic = "5 % … 95 %", result.intrinsic
    table = new_table("quantity", "value", span, "unit", "resolved", spare=(span, "unit"))
    certain = Text("yes", "green") if intrinsic.resolved else Text("no", "red")
    table.add_row("intrinsic dimension", with_bar(intrinsic.value, intrinsic.error), "", "", certain)
    lines = [intrinsic.status and f"The dimension has no bar: {intrinsic.status}.", result.note]
    if result.scales is not None:
        value, error = result.scales.curvature, result.scales.error
        low, middle, high = np.quantile(value, (0.05, 0.5, 0.95))
        share = Text(f"{np.mean(error <= tolerance * value):.0%}")
        bar = with_bar(middle, float(np.median(error)))
        table.add_row("largest normal curvature", bar, f"{low:.3g} … {high:.3g}", "1/ℓ", share)
        tilt = float(np.median(result.scales.tilt))
        share = Text(f"{np.mean(result.scales.tilt <= tolerance):.0%}")
        table.add_row("tangent spaces, sine of the tilt", with_bar(0.0, tilt), "", "", share)
        table.add_row("noise in a normal direction", f"{result.scales.noise:.2g}", "", "ℓ", "")
        lines.insert(0, "± half-width of the error bar (of fields the medians over points).")
        lines.insert(1, "ℓ: the unit of the coordinates.")
    n, f = result.points.shape
    title = Text(f"{result.name}: {n} points in R^{f}, dimension {result.dimension}", style="bold")
    tables: list[RenderableType] = [Group(title, table, *(Text(line, style="dim") for line in lines if line))]
    return tables if result.reach is None else [*tables, reach_table(result.reach)]


def _dataset(result: CloudGeometry) -> Any:
    """Everything at every point."""
    points, dimension = result.intrinsic.pointwise, ("point",)
    fields: dict[str, Any] = {
        "intrinsic_dimension": (dimension, np.asarray(points.value)),
        "intrinsic_dimension_error": (dimension, np.asarray(points.error)),
    }
    if result.scales is not None:
        place, scales = result.place, result.scales
        fields["tangents"] = (("point", "direction", "feature"), scales.frames[place])
        fields["tangent_tilt_error"] = (dimension, scales.tilt[place])
        fields["normal_curvature"] = (dimension, scales.curvature[place])
        fields["normal_curvature_error"] = (dimension, scales.error[place])
    if result.reach is not None:
        fields["tangent_ball_radius"] = (dimension, result.reach.pointwise)
        fields["tangent_ball_radius_error"] = (dimension, result.reach.pointwise_error)
        fields["witness"] = (dimension, result.reach.witness)
    return require("xarray", "report", "A labelled result").Dataset(fields, attrs={"title": result.name})


def cloud_record(result: CloudGeometry, arguments: dict[str, Any]) -> dict[str, Any]:
    """What ``summary.json`` holds."""
    n, f = result.points.shape
    record = machine() | {"dtype": str(result.points.dtype), "arguments": arguments}
    cloud: dict[str, Any] = {"name": result.name, "points": n, "features": f, "dimension": result.dimension}
    names = ("value", "error", "resolved", "repeats", "status")
    cloud["intrinsic_dimension"] = {name: getattr(result.intrinsic, name) for name in names}
    if result.scales is not None:
        scales = result.scales
        values = np.quantile(scales.curvature, QUANTILES)
        cloud["normal_curvature"] = {
            "quantiles": dict(zip(map(str, QUANTILES), values, strict=True)),
            "median_error": np.median(scales.error),
            "largest": scales.largest_curvature,
        }
        cloud["tangent_tilt_error"] = {"median": np.median(scales.tilt), "largest": scales.tilt.max()}
        cloud["noise"] = scales.noise
    record["cloud"] = cloud | {"note": result.note}
    if result.reach is not None:
        record["reach"] = reach_entry(result.reach)
    return record


def write_cloud(
    result: CloudGeometry, out: Path, record: dict[str, Any], tables: Sequence[RenderableType]
) -> None:
    """Write ``cloud.nc``, ``summary.json`` and ``summary.txt``."""
    write_dataset(_dataset(result), out / "cloud.nc")
    write_json(out / "summary.json", record)
    write_text(out / "summary.txt", as_text(tables))


def draw_cloud(result: CloudGeometry, out: Path) -> None:
    """Draw the points, coloured by their curvature or dimension."""
    if result.scales is None:
        values, label = np.asarray(result.intrinsic.pointwise.value), "intrinsic dimension"
    else:
        values, label = result.scales.curvature[result.place], "largest normal curvature [1/ℓ]"
    plotting.save_figure(plotting.plot_cloud(result.points, values, result.name, label), out / "cloud.png")
