"""The peer's side of the benchmark: one task of manifold-microscope 0.2.0 in a fresh process.

Run by the interpreter of ``benchmarks/.peer/venv`` (see peer_environment.py), normally from peer_measures.py:

    .peer/venv/bin/python peer_worker.py measure LATTICE.npy --measure scalar_curvature --save FIELD.npy
    .peer/venv/bin/python peer_worker.py sprites OUT.npy --shape ellipse --lattice 10,16,10,10

``measure`` times one measure on a stored lattice (see peer_common.py). With ``--max-patches`` or
``--fraction`` only some of the patches are computed, through the peer's own batch function, and the time of
all of them is extrapolated: ``"extrapolated": true`` in the result says so. ``sprites`` lets the peer render
its own rasterised dSprites and stores them as a lattice. The last line printed is the result, as JSON.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import peer_common as common

STARTED = time.perf_counter()
import torch  # noqa: E402
from microscope.computations_grid import curvature, reach, volume  # noqa: E402
from microscope.cyclic_dimensions import get_difference_intervals  # noqa: E402
from microscope.patches import extract_patches, stack_patches  # noqa: E402

IMPORT_SECONDS = time.perf_counter() - STARTED

MARGIN = {"volume_element": 1, "scalar_curvature": 3, "reach_per_point": 1}
"""Layers that a measure loses at each end of an open axis, and borrows at each end of a cyclic one."""

DEFAULT_PATCH = 10
"""Patch size on every axis in the peer's loader of its image datasets (load_dataset_no_split)."""

QUICKSTART_BATCH = 2
"""Query points per batch of the reach in the peer's image analyses (compute_measures_multiclass)."""


class EnoughError(Exception):
    """Raised inside the peer's own loop once the wanted number of batches has been timed."""


def patch_counts(shape: list[int], cyclic: list[int], patches: list[int], margin: int) -> list[int]:
    """Patches along each axis as the peer cuts them.

    When one axis does not divide evenly, the peer pads all of them: those that do get a patch too many.
    """
    inner = [n if i in cyclic else n - 2 * margin for i, n in enumerate(shape)]
    steps = [p - 2 * margin for p in patches]
    if min(inner) < 1 or min(steps) < 1:
        raise ValueError(
            f"the peer needs at least {2 * margin + 1} samples on each open axis and in each patch, "
            f"got a lattice {shape} and patches {patches}"
        )
    if all(n % s == 0 for n, s in zip(inner, steps, strict=True)):
        return [n // s for n, s in zip(inner, steps, strict=True)]
    return [n // s + 1 for n, s in zip(inner, steps, strict=True)]


def default_patches(shape: list[int], cyclic: list[int], margin: int) -> list[int]:
    """The peer's patch size, no larger than the (padded) lattice."""
    return [min(DEFAULT_PATCH, n + 2 * margin * (i in cyclic)) for i, n in enumerate(shape)]


def peer_ranges(spec: dict[str, Any]) -> list[float]:
    """Ranges from which the peer finds the right spacings; it divides by n - 1 unless an axis is cyclic."""
    cyclic = common.wrapping_axes(spec)
    return [
        step * (axis["size"] if i in cyclic else axis["size"] - 1)
        for i, (step, axis) in enumerate(zip(common.spacings(spec), spec["axes"], strict=True))
    ]


def warm_up(measure: str, dims: int, dtype: np.dtype) -> float:
    """Call the peer once on a tiny random lattice, so that thread pools and libraries are up."""
    size = 2 * MARGIN[measure] + 1
    tiny = np.random.default_rng(0).normal(size=(*dims * [size], 2 * dims)).astype(dtype)
    functions = {
        "volume_element": lambda: volume.volume_element(tiny, dims * [1.0], [], dims * [size], "cpu"),
        "scalar_curvature": lambda: curvature.scalar_curvature(
            tiny, dims * [1.0], [], dims * [size], device="cpu"
        ),
        "reach_per_point": lambda: None,
    }
    return common.timed(functions[measure])[0]


def whole(
    measure: str, points: np.ndarray, intervals: list[float], cyclic: list[int], patches: list[int]
) -> Any:
    """Call the peer's public function on the whole lattice."""
    function = {
        "volume_element": volume.volume_element,
        "scalar_curvature": curvature.scalar_curvature,
    }[measure]
    return function(
        points, difference_intervals=intervals, cyclic_dimensions=cyclic, patch_sizes=patches, device="cpu"
    )


def part(
    measure: str,
    points: np.ndarray,
    intervals: list[float],
    cyclic: list[int],
    patches: list[int],
    wanted: int,
    at_least: float,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Compute some of the patches as the peer's public function does, and extrapolate to all of them.

    Patches are drawn at random until there are ``wanted`` and ``at_least`` so many seconds have gone by.
    Points of the others are NaN in the field returned.
    """
    batch = {
        "volume_element": volume.volume_element_batch,
        "scalar_curvature": curvature.scalar_curvature_batch,
    }[measure]
    dims, margin = len(patches), MARGIN[measure]
    cut_seconds, views = common.timed(extract_patches, points, patches, dims * [2 * margin], cyclic)
    counts = views.shape[:dims]
    inner = [p - 2 * margin for p in patches]
    fields = np.full((*counts, *inner), np.nan, points.dtype)
    every = list(itertools.product(*map(range, counts)))
    seconds: list[float] = []
    for number in np.random.default_rng(0).permutation(len(every)):
        if len(seconds) >= wanted and sum(seconds) >= at_least:
            break
        start, index = time.perf_counter(), every[number]
        fields[index] = batch(torch.from_numpy(views[index]), intervals).cpu().detach().numpy()
        seconds.append(time.perf_counter() - start)
    # The first patch also pays for fresh memory; the others stand for those that were left out.
    typical = float(np.median(seconds[1:] or seconds))
    field = stack_patches(fields, n_features=0)[
        tuple(slice(0, n if i in cyclic else n - 2 * margin) for i, n in enumerate(points.shape[:-1]))
    ]
    return field, {
        "seconds": cut_seconds + sum(seconds) + typical * (len(every) - len(seconds)),
        "extrapolated": len(seconds) < len(every),
        "cut_seconds": cut_seconds,
        "patches_timed": len(seconds),
        "patch_seconds": {"first": seconds[0], "median": typical, "largest": max(seconds)},
    }


def reach_field(
    points: np.ndarray, spec: dict[str, Any], patches: list[int], options: argparse.Namespace
) -> tuple[np.ndarray | None, dict[str, Any]]:
    """Call the peer's reach; with ``--max-patches`` leave its loop early and extrapolate over the queries."""
    stride, max_batches = options.reach_stride, options.max_patches
    ticks: list[float] = []
    total = 0

    def counted(batches: list[Any], **_: Any) -> Any:
        nonlocal total
        total = len(batches)
        for batch in batches:
            ticks.append(time.perf_counter())
            if max_batches is not None and len(ticks) > max_batches:
                raise EnoughError
            yield batch

    reach.tqdm = counted  # the progress bar of the peer's loop is the place to count and to stop
    start = time.perf_counter()
    try:
        field = reach.reach_per_point(
            points,
            range_sizes=peer_ranges(spec),
            patch_sizes=patches,
            cyclic_dimensions=common.wrapping_axes(spec),
            subsample_points=stride,
            batch_size=options.reach_batch,
            device="cpu",
        )
        record = {"seconds": time.perf_counter() - start, "extrapolated": False}
    except EnoughError:
        field = None
        # The first batch also pays for thread pools and fresh memory: the median stands for those left out.
        seconds = np.diff(ticks)
        left_out = (total - len(seconds)) * float(np.median(seconds))
        record = {"seconds": ticks[-1] - start + left_out, "extrapolated": True}
        record |= {"batches_timed": len(seconds), "batch_seconds": float(np.median(seconds))}
    return field, record | {"batches": total, "batch_size": options.reach_batch, "stride": stride}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time one measure on a stored lattice."""
    spec = common.read_spec(options.lattice)
    load_seconds, points = common.timed(common.load_points, options.lattice, options.input)
    shape, cyclic = list(points.shape[:-1]), common.wrapping_axes(spec)
    margin = MARGIN[options.measure]
    patches = options.patch_sizes or default_patches(shape, cyclic, margin)
    if len(patches) != len(shape):
        raise SystemExit(f"--patch-sizes needs {len(shape)} numbers, one per axis, got {patches}.")
    warm_seconds = warm_up(options.measure, len(shape), points.dtype)
    intervals = get_difference_intervals(shape, peer_ranges(spec), cyclic)
    total = math.prod(patch_counts(shape, cyclic, patches, margin))
    wanted = options.max_patches or math.ceil(options.fraction * total)
    timing: dict[str, Any] = {"extrapolated": False}
    with common.MemoryMeter(options.input, points.nbytes) as memory:
        start, processor = time.perf_counter(), time.process_time()
        if options.measure == "reach_per_point":
            field, timing = reach_field(points, spec, patches, options)
        elif wanted < total:
            choice = (points, intervals, cyclic, patches, wanted, options.min_seconds)
            field, timing = part(options.measure, *choice)
        else:
            field = whole(options.measure, points, intervals, cyclic, patches)
            timing["seconds"] = time.perf_counter() - start
        timing["seconds_spent"] = time.perf_counter() - start
        share = timing["seconds"] / timing["seconds_spent"]
        timing["cpu_seconds"] = share * (time.process_time() - processor)
    if options.save and field is not None:
        np.save(options.save, field)
    return {
        "task": options.measure,
        **timing,
        "patch_sizes": patches,
        "patches": total,
        "outputs": None if field is None else int(np.isfinite(field).sum()),
        "output_shape": None if field is None else list(field.shape),
        "cyclic_axes": cyclic,
        "load_seconds": load_seconds,
        "warm_up_seconds": warm_seconds,
        "input": options.input,
        "input_bytes": points.nbytes,
        "memory": memory.reading(),
    }


def centred(transform: Any) -> Any:
    """The peer's apply_transform, with x translations by 0 only."""

    def chosen(*, transform_name: str, transform_range: tuple[str, Any], **rest: Any) -> Any:
        name, values = transform_range
        values = [0.0] if transform_name == "x-translate" else values
        return transform(transform_name=transform_name, transform_range=(name, values), **rest)

    return chosen


def sprites(options: argparse.Namespace) -> dict[str, Any]:
    """Let the peer render one shape of its dSprites and store it as a lattice.

    The parameters are those of its ``dsprites_balanced``, values scaled to [0, 1] as its loader does. The
    axes carry the peer's own ranges (1, 2 pi, 1, 1); what they stand for is in ``source``. A lattice of three
    factors is the slice at x = 0: the peer's own pipeline with one x translation instead of all.
    """
    from microscope.datasets import custom_dsprites

    sizes, angles, rows, *columns = options.lattice
    if columns not in ([], [rows]) or rows % 2:
        raise SystemExit(
            "--lattice needs equal and even numbers of y and x positions: the peer makes no others."
        )
    if not columns:
        custom_dsprites.apply_transform = centred(custom_dsprites.apply_transform)
    stride, pixels = 2, 64
    need = 3.5 * math.prod(options.lattice) * pixels * pixels * 4
    if (available := common.available_memory()) is not None and need > available:
        raise SystemExit(
            f"The peer needs about {need / common.GIB:.1f} GiB for this lattice: take a smaller one."
        )
    start = time.perf_counter()
    images, _ = custom_dsprites.dsprites(
        image_size=pixels,
        sprites=(options.shape,),
        n_sizes=sizes,
        n_angles=angles,
        max_translation=rows * stride // 2,
        translation_stride=stride,
        dtype=np.float32,
        verbose=False,
    )
    images = images[0]
    low, high = images.min(), images.max()
    images -= low
    images /= high - low
    seconds = time.perf_counter() - start
    lattice, d = tuple(options.lattice), len(options.lattice)
    np.save(options.out, images.reshape(*lattice, pixels * pixels))
    names, stops = ("scale", "orientation", "y", "x"), (1.0, 2 * math.pi, 1.0, 1.0)
    axes = [
        {"name": name, "start": 0.0, "stop": stop, "size": size, "periodic": name == "orientation"}
        for name, stop, size in zip(names[:d], stops[:d], lattice, strict=True)
    ]
    source = {
        "made_by": f"manifold-microscope {version('manifold-microscope')} custom_dsprites.dsprites",
        "shape": options.shape,
        "image_size": pixels,
        "scale_pixels": [int(pixels * ratio) for ratio in np.linspace(0.5, 1.0, sizes, dtype=np.float32)],
        "shift_pixels": list(range(-rows * stride // 2, rows * stride // 2, stride)),
        "note": "rasterised; a full turn covers a square four times and an ellipse twice",
    }
    common.write_json(common.spec_path(options.out), {"axes": axes, "source": source})
    return {"task": "sprites", "seconds": seconds, "shape": list(images.shape), "bytes": images.nbytes}


def whole_numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tasks = parser.add_subparsers(required=True)
    task = tasks.add_parser("measure", help="time one measure on a stored lattice")
    task.set_defaults(run=measure)
    task.add_argument("lattice", type=Path, help="NAME.npy with its NAME.json beside it")
    task.add_argument("--measure", required=True, choices=sorted(MARGIN))
    task.add_argument("--patch-sizes", type=whole_numbers, help="one per axis, as 10,10,10,10 (default: 10)")
    task.add_argument("--max-patches", type=int, help="compute so many patches (reach: batches), extrapolate")
    task.add_argument("--min-seconds", type=float, default=0.0, help="with --max-patches: go on for so long")
    task.add_argument("--fraction", type=float, default=1.0, help="part of the patches, instead of a number")
    task.add_argument("--reach-stride", type=int, help="the peer's subsample_points (its analyses take 2)")
    task.add_argument("--reach-batch", type=int, default=QUICKSTART_BATCH, help="the peer's batch_size")
    task.add_argument("--input", choices=("memory", "mmap"), default="memory")
    task.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    task.add_argument("--save", type=Path, help="where to store the field, .npy")
    task = tasks.add_parser("sprites", help="render the peer's own rasterised dSprites")
    task.set_defaults(run=sprites, threads=None)
    task.add_argument("out", type=Path, help="NAME.npy; NAME.json is written beside it")
    task.add_argument("--shape", choices=("square", "ellipse", "heart"), default="ellipse")
    task.add_argument(
        "--lattice",
        type=whole_numbers,
        default=[10, 16, 10, 10],
        help="sizes of scale, orientation, y, x (the peer's own: 22,16,22,22, a file of 2.8 GB), or no x",
    )
    return parser.parse_args()


def main() -> None:
    options = arguments()
    common.volunteer_for_the_oom_killer()
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    if options.threads:
        torch.set_num_threads(options.threads)
    facts = {
        "side": "peer",
        "versions": {"manifold-microscope": version("manifold-microscope"), "torch": torch.__version__},
        "threads": torch.get_num_threads(),
        "import_seconds": IMPORT_SECONDS,
        "start_load_average": common.machine()["load_average"][0],
    }
    try:
        record = options.run(options)
    except (RuntimeError, MemoryError, ValueError) as error:
        record = {"task": getattr(options, "measure", "sprites"), "error": f"{type(error).__name__}: {error}"}
    common.report(facts | record)


if __name__ == "__main__":
    main()
