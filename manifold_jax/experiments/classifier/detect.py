"""Out-of-distribution detection by the distance to the leaf of valid data, next to five other scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.tree_util import Partial

from manifold_jax._checks import positive, whole
from manifold_jax._files import Progress, silent
from manifold_jax.datasets import LabelledImages
from manifold_jax.experiments.classifier import baselines
from manifold_jax.experiments.classifier.baselines import SHORT, nearest, training_images
from manifold_jax.experiments.classifier.task import READERS, Task, Trial, layer, outputs, read_images, sample
from manifold_jax.experiments.classifier.walks import LEAF, LEAF_REDUCED, PathOptions, norms
from manifold_jax.experiments.experiment import Outcome
from manifold_jax.models import pixels
from manifold_jax.plotting.geometry import rank_correlation
from manifold_jax.plotting.style import PALETTE, new_figure

_NEAREST = "nearest training image"

Areas = dict[str, dict[str, tuple[float, float]]]  # score to set to area and standard error


class Settings(NamedTuple):
    """What to run; the nearest training images are looked for among all."""

    images: int = 500  # of every set
    anchors: tuple[str, ...] = ("any", "class", "mean")  # where projections start, among ANCHORS
    path: PathOptions = LEAF
    training: int = 60_000  # images that principal components and class Gaussians are fitted to
    variance: float = 0.9  # share that the principal components hold


REDUCED = Settings(32, ("any",), LEAF_REDUCED._replace(max_steps=80, block=32), training=6_000)


def check(settings: Settings) -> None:
    """Raise unless there are anchors, and the variance and the training images suffice."""
    baselines.require_anchors("detect", settings.anchors)
    positive("detect", "variance", settings.variance, below=1)
    whole("detect", "training", settings.training, least=2)


def _other_data(task: Task, path: Path | None, notes: list[str]) -> dict[str, np.ndarray]:
    """Test images of the other data set in MNIST's format."""
    name = {"mnist": "fashion-mnist", "fashion-mnist": "mnist"}.get(task.name)
    if name is None:
        return {}
    try:
        return {name: READERS[name](path, train=False).images}
    except (FileNotFoundError, ValueError) as error:
        notes.append(f"Without {name}: {error}")
        return {}


def image_sets(
    task: Task, count: int, *, seed: int = 0, path: Path | None = None, letters: Path | None = None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Test images first, then others: real ones where there are any, rearranged ones otherwise, and noise.

    Every set has at most ``count`` images. ``path`` is the folder of MNIST and Fashion-MNIST, ``letters`` a
    file for :func:`read_images`. The notes say which sets are missing.
    """
    notes: list[str] = []
    inside = np.asarray(sample(task.test, min(count, len(task.test.labels)), seed)[0])
    shape, rng = inside.shape[1:], np.random.default_rng([seed, 1])

    def draw(images: np.ndarray) -> np.ndarray:
        return np.asarray(pixels(images[rng.permutation(len(images))[:count]]))

    others = _other_data(task, path, notes)
    if letters is not None:
        others["letters"] = read_images(letters, shape)
    elif shape == (28, 28):
        notes.append("Without letters: no file of them was given.")
    sets = {f"{task.name} test": inside} | {name: draw(images) for name, images in others.items()}
    if not others:
        moved = draw(task.test.images)
        order = rng.permutation(inside[0].size)
        sets["permuted pixels"] = moved.reshape(len(moved), -1)[:, order].reshape(moved.shape)
        sets["inverted"] = 1 - draw(task.test.images)
    noise = rng.normal(inside.mean(), inside.std(), inside.shape)
    sets["uniform noise"] = rng.uniform(size=inside.shape).astype(np.float32)
    sets["Gaussian noise"] = np.clip(noise, 0, 1).astype(np.float32)
    return sets, notes


def _other_scores(
    log_prob: Partial, images: np.ndarray, training: LabelledImages, settings: Settings, seed: int
) -> dict[str, np.ndarray]:
    """The scores that need no leaf."""
    rows = np.random.default_rng([seed, 2]).permutation(len(training.labels))[: settings.training]
    fitted = training_images(training, rows)
    logits, features = layer(log_prob, "logits"), layer(log_prob, "features")
    known = outputs(features, fitted.images)
    subspace = baselines.principal_subspace(fitted)
    held = np.cumsum(subspace.variance) / subspace.variance.sum()
    count = int(np.searchsorted(held, settings.variance)) + 1
    return {
        "max softmax": baselines.max_softmax_score(outputs(log_prob, images)),
        "energy": baselines.energy_score(outputs(logits, images)),
        "Mahalanobis": baselines.mahalanobis_score(outputs(features, images), known, fitted.labels),
        _NEAREST: nearest(images, training)[1],
        "principal subspace": norms(images - subspace.project(images, count)),
    }


def run(trial: Trial, settings: Settings, progress: Progress = silent, **places: Any) -> Outcome:
    """Tell test images from others by several scores; ``places`` are those of :func:`image_sets`."""
    check(settings)
    task, log_prob = trial.task, trial.log_prob
    sets, notes = image_sets(task, settings.images, seed=trial.seed, **places)
    images, training = np.concatenate(list(sets.values())), training_images(task.train)
    others = _other_scores(log_prob, images, training, settings, trial.seed)
    leaf = baselines.project_from_anchors(log_prob, images, training, settings, progress, **trial.how)
    pooled = {}
    for kind, p in leaf.items():
        before = p.distances[:, 0]
        pooled[f"leaf distance ({SHORT[kind]})"] = p.distance
        # 1 where an image is its own anchor: nothing shortens a chord of length 0.
        pooled[f"leaf ratio ({SHORT[kind]})"] = p.distance / np.where(before > 0, before, 1.0)
        correlation = rank_correlation(np.asarray(p.distance), others[_NEAREST])
        notes.append(
            f"{baselines.describe_projections(kind, p, settings.path)}; rank correlation of leaf distance "
            f"and distance to the {_NEAREST}: {correlation:.3f}."
        )
    ends, pooled = np.cumsum([len(part) for part in sets.values()])[:-1], pooled | others
    scores = {name: dict(zip(sets, np.split(value, ends), strict=True)) for name, value in pooled.items()}
    areas = {name: _areas(by_set) for name, by_set in scores.items()}
    rows = [
        {"score": name} | {f"vs {other}": area for other, (area, _) in by_set.items()}
        for name, by_set in areas.items()
    ]
    kept = ("horizontal", "length", "drift", "steps", "status")
    paths = {kind: {name: getattr(p, name) for name in kept} for kind, p in leaf.items()}
    title = f"Telling {ends[0]} test images of {task.name} from others: area under the ROC curve"
    figures = {"leaf_detect": _draw_areas(task, settings, areas)}
    figures["leaf_detect_distances"] = _draw_distances(task, settings, scores)
    data = {"scores": scores, "auroc": areas, "paths": paths}
    (over, _), names = list(areas[next(iter(areas))].items())[-1], [next(iter(areas)), *others]
    shown = sorted(names, key=lambda name: -areas[name][over][0])[:3]
    shown += [names[0]] * (names[0] not in shown)
    areas_words = ", ".join(f"{name} {areas[name][over][0]:.3f}" for name in shown)
    headline = f"Area under the ROC curve against {over}: {areas_words}."
    return Outcome(title, rows, data, figures, [_name_best(areas), *notes], headline=headline)


def _areas(by_set: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Area and standard error of the first set against every other and all of them."""
    (_, inside), *outside = by_set.items()
    areas = {name: baselines.auroc(inside, values) for name, values in outside}
    return areas | {"all": baselines.auroc(inside, np.concatenate([values for _, values in outside]))}


def _name_best(areas: Areas) -> str:
    """The scores with the largest area, as a sentence."""
    top = max(by_set["all"][0] for by_set in areas.values())
    best = ", ".join(name for name, by_set in areas.items() if by_set["all"][0] >= top)
    largest = max(error for by_set in areas.values() for _, error in by_set.values())
    return (
        f"Best against all: {best}: {top:.3f}. Standard errors are at most {largest:.3f}; "
        "0.5 is chance, below 0.5 the others look more like the training data than the test images do."
    )


def _draw_areas(task: Task, settings: Settings, areas: Areas) -> Any:
    """Areas as numbers in coloured cells."""
    names, sets = list(areas), list(next(iter(areas.values())))
    title = f"{task.name}: area under the ROC curve ± standard error, at most {settings.images} images a set"
    figure = new_figure(1.55 * len(sets) + 3.6, 0.5 * len(names) + 1.5, title)
    axes = figure.add_subplot()
    values = np.array([[area for area, _ in by_set.values()] for by_set in areas.values()])
    picture = axes.imshow(values, cmap="RdBu_r", vmin=0, vmax=1, aspect="auto")
    for i, by_set in enumerate(areas.values()):
        for k, (area, error) in enumerate(by_set.values()):
            colour = "white" if abs(area - 0.5) > 0.33 else "black"
            axes.text(k, i, f"{area:.3f} ± {error:.3f}", ha="center", va="center", fontsize=9, color=colour)
    axes.set_xticks(range(len(sets)), [f"vs {other}" for other in sets], fontsize=9)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    figure.colorbar(picture, ax=axes, label="area (0.5: chance)")
    return figure


def _draw_distances(task: Task, settings: Settings, scores: dict[str, dict[str, np.ndarray]]) -> Any:
    """Leaf distances by set, next to the distance to the nearest training image."""
    shown = [f"leaf distance ({SHORT[kind]})" for kind in settings.anchors] + [_NEAREST]
    figure = new_figure(4.6 * len(shown), 4.2, f"{task.name}: distances by set")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        by_set = scores[name]
        bins = np.linspace(0, 1.02 * max(float(part.max()) for part in by_set.values()) or 1.0, 36)
        for k, (other, values) in enumerate(by_set.items()):
            fill = {"histtype": "stepfilled", "alpha": 0.5} if k == 0 else {"histtype": "step"}
            axes.hist(values, bins=bins, color=PALETTE[k], lw=1.8, label=other, **fill)
        axes.set_title(name if name.startswith("leaf") else f"distance to {name}", fontsize=10)
        axes.set(xlabel="distance [norm of grey levels, 0 to 1]", ylabel="images")
        axes.yaxis.get_major_locator().set_params(integer=True)
    legend = figure.axes[0].get_legend_handles_labels()
    figure.legend(*legend, loc="outside lower center", ncols=len(legend[1]), fontsize=9)
    return figure
