"""Out-of-distribution detection by the distance to a leaf, beside five other scores.

Grementieri & Fioresi (SIAM J. Imaging Sci. 15, 2022) propose the distance to the leaf of valid data as a
measure of how far an input is from what a classifier was trained on.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jax.tree_util import Partial
from jaxtyping import Float

from manifold_jax.datasets import fashion_mnist, mnist
from manifold_jax.experiments.classifier.denoise import principal_subspace
from manifold_jax.experiments.classifier.pairs import (
    ANCHORS,
    Training,
    anchors_of,
    layer,
    nearest,
    outputs,
    projections,
)
from manifold_jax.experiments.classifier.scores import (
    auroc,
    class_gaussians,
    energy_score,
    mahalanobis_score,
    max_softmax_score,
    rank_correlation,
    subspace_score,
)
from manifold_jax.experiments.classifier.task import Progress, Task, read_images, sample
from manifold_jax.experiments.experiment import Outcome, Row
from manifold_jax.models import pixels
from manifold_jax.plotting.images import PALETTE
from manifold_jax.plotting.style import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from manifold_jax.information import Path as LeafPath

Images = Float[np.ndarray, "n *shape"]

_SHORT = {"any": "nearest image", "class": "nearest of class", "mean": "class mean"}


class Settings(NamedTuple):
    """What to run.

    Attributes:
        images: Of every set.
        anchors: Where projections start, among ``leaf_pairs.ANCHORS``.
        step_size: Of a projection.
        max_steps: Of a projection.
        tolerance: Horizontal share of the chord at which it counts as vertical.
        training: Training images that principal components and class Gaussians are fitted to; nearest images
            are looked for among all.
        variance: Share of the variance that the principal components hold.
        block: Pairs at once.
    """

    images: int = 500
    anchors: tuple[str, ...] = ("any", "class", "mean")
    step_size: float = 0.03
    max_steps: int = 500
    tolerance: float = 0.01
    training: int = 60_000
    variance: float = 0.9
    block: int = 50


REDUCED = Settings(
    images=32, anchors=("any",), step_size=0.05, max_steps=80, tolerance=0.02, training=6_000, block=32
)


def _clothes_or_digits(task: Task, path: Path | None, notes: list[str]) -> tuple[str, np.ndarray] | None:
    """Test images of the other data set in MNIST's format."""
    if task.name not in ("mnist", "fashion-mnist"):
        return None
    name, read = ("fashion-mnist", fashion_mnist) if task.name == "mnist" else ("mnist", mnist)
    try:
        return name, read(path, train=False).images
    except FileNotFoundError as error:
        notes.append(f"Without {name}: {error}")
        return None


def _drawn(images: np.ndarray, count: int, rng: np.random.Generator) -> Images:
    rows = rng.permutation(len(images))[:count]
    return np.asarray(pixels(images[rows]))


def image_sets(
    task: Task, count: int, *, seed: int = 0, path: Path | None = None, letters: Path | None = None
) -> tuple[dict[str, Images], list[str]]:
    """Test images first, then others: real ones where there are any, rearranged ones otherwise, and noise.

    Args:
        task: What was learnt.
        count: Images of every set, at most.
        seed: Of the choice.
        path: Folder of MNIST and Fashion-MNIST.
        letters: File of letters, see ``read_images``.

    Returns:
        Name to images with pixels in [0, 1], and notes on what is missing.
    """
    notes: list[str] = []
    inside = np.asarray(sample(task.test, min(count, len(task.test.labels)), seed)[0])
    sets, shape = {f"{task.name} test": inside}, inside.shape[1:]
    rng = np.random.default_rng([seed, 1])
    found = _clothes_or_digits(task, path, notes)
    if found is not None:
        sets[found[0]] = _drawn(found[1], count, rng)
    if letters is not None:
        sets["letters"] = _drawn(read_images(letters, shape), count, rng)
    elif shape == (28, 28):
        notes.append("Without letters: no file of them was given.")
    if len(sets) == 1:
        others = _drawn(task.test.images, count, rng)
        order = rng.permutation(int(np.prod(shape)))
        sets["permuted pixels"] = others.reshape(len(others), -1)[:, order].reshape(others.shape)
        sets["inverted"] = 1 - _drawn(task.test.images, count, rng)
    noise = rng.normal(inside.mean(), inside.std(), inside.shape)
    sets["uniform noise"] = rng.uniform(size=inside.shape).astype(np.float32)
    sets["Gaussian noise"] = np.clip(noise, 0, 1).astype(np.float32)
    return sets, notes


class _Found(NamedTuple):
    """Scores ``(n,)`` of all sets in a row, and the projections of the first anchor and the others."""

    scores: dict[str, np.ndarray]
    projections: dict[str, LeafPath]


def _leaf(
    log_prob: Partial,
    images: Images,
    log_p: np.ndarray,
    training: Training,
    settings: Settings,
    progress: Progress | None,
) -> _Found:
    """Leaf distances, and what is left of the distance to the anchor."""
    predicted = log_p.argmax(axis=1)
    scores, found = {}, {}
    for k, kind in enumerate(settings.anchors):
        starts = anchors_of(kind, images, predicted, training)

        def report(done: int, total: int, k: int = k) -> None:
            if progress is not None:
                progress(k * total + done, len(settings.anchors) * total)

        found[kind] = projections(
            log_prob,
            starts,
            images,
            step_size=settings.step_size,
            max_steps=settings.max_steps,
            tolerance=settings.tolerance,
            block=settings.block,
            progress=report,
        )
        before = np.linalg.norm((images - starts).reshape(len(images), -1), axis=1)
        scores[f"leaf distance ({_SHORT[kind]})"] = found[kind].distance
        # 1 where an image is its own anchor: no horizontal way shortens a chord of length 0.
        scores[f"leaf ratio ({_SHORT[kind]})"] = found[kind].distance / np.where(before > 0, before, 1.0)
    return _Found(scores, found)


def _others(
    log_prob: Partial, images: Images, log_p: np.ndarray, training: Training, settings: Settings, seed: int
) -> dict[str, np.ndarray]:
    """The other scores."""
    rows = np.random.default_rng([seed, 2]).permutation(len(training.labels))[: settings.training]
    fitted = Training(training.images[rows], training.labels[rows])
    features = layer(log_prob, "features")
    gaussians = class_gaussians(outputs(features, fitted.images), fitted.labels)
    subspace = principal_subspace(fitted, min(fitted.flat.shape))
    held = np.cumsum(subspace.variance) / subspace.variance.sum()
    count = int(np.searchsorted(held, settings.variance)) + 1
    flat = images.reshape(len(images), -1)
    return {
        "max softmax": max_softmax_score(log_p),
        "energy": energy_score(outputs(layer(log_prob, "logits"), images)),
        "Mahalanobis": mahalanobis_score(outputs(features, images), gaussians),
        "nearest training image": nearest(images, training)[1],
        "principal subspace": subspace_score(flat, subspace.mean, subspace.rows[:count]),
    }


def run(
    task: Task,
    log_prob: Partial,
    settings: Settings = Settings(),  # noqa: B008
    *,
    seed: int = 0,
    progress: Progress | None = None,
    path: Path | None = None,
    letters: Path | None = None,
) -> Outcome:
    """Tell test images from others by several scores.

    Args:
        task: Data and network.
        log_prob: The trained classifier.
        settings: What to run.
        seed: Of the choice of images.
        progress: Called with projections done and all of them.
        path: Folder of MNIST and Fashion-MNIST; by default ``MANIFOLD_JAX_DATA``.
        letters: npz file with ``images``, bytes in the shape of the task's.

    Returns:
        Areas under the receiver operating characteristic, by score and set.

    Raises:
        ValueError: A setting is out of range, or the classifier has no logits.
        FileNotFoundError: There is no such file of letters.
        ImportError: scikit-learn is not installed.
    """
    if not settings.anchors:
        raise ValueError(f"there must be an anchor, one of {', '.join(ANCHORS)}.")
    if not 0 < settings.variance < 1 or settings.training < 2:
        raise ValueError(
            f"variance must lie between 0 and 1 and training be at least 2, got {settings.variance} and "
            f"{settings.training}."
        )
    sets, notes = image_sets(task, settings.images, seed=seed, path=path, letters=letters)
    images = np.concatenate(list(sets.values()))
    training = Training(np.asarray(pixels(task.train.images)), task.train.labels)
    log_p = outputs(log_prob, images)
    others = _others(log_prob, images, log_p, training, settings, seed)
    found = _leaf(log_prob, images, log_p, training, settings, progress)
    ends = np.cumsum([len(part) for part in sets.values()])[:-1]
    scores = {
        name: dict(zip(sets, np.split(value, ends), strict=True))
        for name, value in (found.scores | others).items()
    }
    areas = {name: _areas(by_set) for name, by_set in scores.items()}
    rows = [_row(name, area) for name, area in areas.items()]
    ways = {
        kind: {name: getattr(p, name) for name in ("horizontal", "length", "drift", "steps", "status")}
        for kind, p in found.projections.items()
    }
    return Outcome(
        f"Telling {ends[0]} test images of {task.name} from others: area under the ROC curve",
        rows,
        {"scores": scores, "auroc": areas, "paths": ways},
        {
            "leaf_detect": _heat_map(task, settings, areas),
            "leaf_detect_distances": _histograms(task, settings, scores),
        },
        [*notes, *_notes(settings, found, others, areas)],
    )


def _areas(by_set: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Area and standard error of the first set against every other and all of them."""
    (_, inside), *outside = by_set.items()
    found = {name: auroc(inside, values) for name, values in outside}
    return found | {"all": auroc(inside, np.concatenate([values for _, values in outside]))}


def _row(name: str, areas: dict[str, tuple[float, float]]) -> Row:
    return {"score": name} | {f"vs {other}": area for other, (area, _) in areas.items()}


def _notes(
    settings: Settings,
    found: _Found,
    others: dict[str, np.ndarray],
    areas: dict[str, dict[str, tuple[float, float]]],
) -> list[str]:
    top = max(area["all"][0] for area in areas.values())
    best = ", ".join(name for name, area in areas.items() if area["all"][0] >= top)
    largest = max(error for by_set in areas.values() for _, error in by_set.values())
    notes = [
        f"Best against all: {best}: {top:.3f}. Standard errors are at most {largest:.3f}; "
        "0.5 is chance, below 0.5 the others look more like the training data than the test images do."
    ]
    for kind, p in found.projections.items():
        near = others["nearest training image"]
        notes.append(
            f"From the {ANCHORS[kind]}: {np.mean(p.converged):.0%} of the chords were vertical (horizontal "
            f"share at most {settings.tolerance:g}) within {settings.max_steps} steps of "
            f"{settings.step_size:g}; drift off the leaf {np.sum(p.drift):.2g} of {np.sum(p.length):.3g} "
            "walked; rank correlation of leaf distance and distance to the nearest training image "
            f"{rank_correlation(np.asarray(p.distance), near):.3f}."
        )
    return notes


def _heat_map(task: Task, settings: Settings, areas: dict[str, dict[str, tuple[float, float]]]) -> Figure:
    """Areas as numbers in coloured cells."""
    names, sets = list(areas), list(next(iter(areas.values())))
    title = f"{task.name}: area under the ROC curve ± standard error, at most {settings.images} images a set"
    figure = new_figure(1.55 * len(sets) + 3.6, 0.5 * len(names) + 1.5, title)
    axes = figure.add_subplot()
    values = np.array([[areas[name][other][0] for other in sets] for name in names])
    picture = axes.imshow(values, cmap="RdBu_r", vmin=0, vmax=1, aspect="auto")
    for i, name in enumerate(names):
        for k, other in enumerate(sets):
            area, error = areas[name][other]
            colour = "white" if abs(area - 0.5) > 0.33 else "black"
            axes.text(k, i, f"{area:.3f} ± {error:.3f}", ha="center", va="center", fontsize=9, color=colour)
    axes.set_xticks(range(len(sets)), [f"vs {other}" for other in sets], fontsize=9)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    figure.colorbar(picture, ax=axes, label="area (0.5: chance)")
    return figure


def _histograms(task: Task, settings: Settings, scores: dict[str, dict[str, np.ndarray]]) -> Figure:
    """Leaf distances by set, beside the distance to the nearest training image."""
    shown = [f"leaf distance ({_SHORT[kind]})" for kind in settings.anchors] + ["nearest training image"]
    figure = new_figure(4.6 * len(shown), 4.2, f"{task.name}: distances by set")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        by_set = scores[name]
        pooled = np.concatenate(list(by_set.values()))
        bins = np.linspace(0, float(pooled.max()) * 1.02 or 1.0, 36)
        for k, (other, values) in enumerate(by_set.items()):
            axes.hist(
                values,
                bins=bins,
                histtype="stepfilled" if k == 0 else "step",
                alpha=0.5 if k == 0 else 1,
                color=PALETTE[k],
                lw=1.8,
                label=other,
            )
        axes.set_title(name if name.startswith("leaf") else f"distance to {name}", fontsize=10)
        axes.set_xlabel("distance [norm of pixels in 0 to 1]")
        axes.set_ylabel("images")
        axes.yaxis.get_major_locator().set_params(integer=True)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9)
    return figure
