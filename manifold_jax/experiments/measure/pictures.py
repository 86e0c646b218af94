"""Pictures that ``manifold-jax measure`` leaves behind, drawn in a thread beside the measurements."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from manifold_jax import plotting
from manifold_jax.experiments.measure.report import Part
from manifold_jax.experiments.terminal import left_out, progress_bar
from manifold_jax.geometry import Reach, UnionGeometry
from manifold_jax.plotting.style import Figure
from manifold_jax.plotting.traversals import geodesics, traversals

FIGURES: dict[str, Callable[[Part], Any]] = {
    "samples": lambda part: plotting.plot_samples(part.points, part.geometry),
    "histograms": lambda part: plotting.plot_histograms(part.geometry),
    "pairs": lambda part: plotting.plot_pairs(part.geometry),
    "maps": lambda part: plotting.plot_maps(part.geometry),
    "pca": lambda part: plotting.plot_pca(part.points, part.geometry),
}
"""Pictures of a component, by file name."""


def _png(draw: Callable[[], Figure]) -> bytes:
    """A figure as the content of a file."""
    content = io.BytesIO()
    draw().savefig(content, format="png")
    return content.getvalue()


def _save_picture(picture: Future[bytes], path: Path) -> None:
    path.write_bytes(picture.result())


def _save_moving(move: Callable[[Any], Any], points: Any, path: Path) -> None:
    plotting.save_animation(move(points), path)


def start_pictures(part: Part, submit: Callable[..., Future[Any]]) -> dict[str, Future[bytes]]:
    """Have pictures of a component drawn in a thread, beside measurements that leave a core to it."""
    pictures = {f"{stem}{part.mark}.png": partial(draw, part) for stem, draw in FIGURES.items()}
    if part.both is not None:
        pictures[f"exact_vs_stencil{part.mark}.png"] = partial(plotting.plot_comparison, *part.both)
    begun = part.pictures
    return begun | {name: submit(_png, draw) for name, draw in pictures.items() if name not in begun}


def write_pictures(
    parts: Sequence[Part],
    out: Path,
    reach: Reach | None,
    union: UnionGeometry | None,
    submit: Callable[..., Future[Any]],
    *,
    animate: bool = False,
) -> list[str]:
    """Draw and save every picture, and those that move; why any is left out.

    All are drawn in the one thread behind ``submit``: matplotlib is not made for two.
    """
    pictures: dict[str, Future[bytes]] = {}
    for part in parts:
        pictures |= start_pictures(part, submit)
    sources = [part.points for part in parts]
    if reach is not None:
        draw = partial(plotting.plot_reach, sources if len(parts) > 1 else sources[0], reach)
        pictures["reach.png"] = submit(_png, draw)
    if union is not None:
        pictures["union.png"] = submit(_png, partial(plotting.plot_union, sources, union))
    jobs: list[tuple[str, Callable[[Path], Any]]]
    jobs = [(name, partial(_save_picture, picture)) for name, picture in pictures.items()]
    for part, move in itertools.product(parts if animate else (), (traversals, geodesics)):
        jobs.append((f"{move.__name__}{part.mark}.gif", partial(_save_moving, move, part.points)))
    lost: list[str] = []
    with progress_bar("pictures", first="") as advance:
        for k, (name, save) in enumerate(jobs, 1):
            with left_out(name, lost):
                save(out / name)
            advance(k, len(jobs))
    return lost
