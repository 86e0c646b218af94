"""Denoising by leaf projection, next to principal components and total variation.

Grementieri & Fioresi (SIAM J. Imaging Sci. 15, 2022) propose to project a noisy image on the leaf of valid
data. From an anchor on that leaf one goes horizontally towards the noisy image, until the chord is vertical.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from manifold_jax._checks import choice, positive
from manifold_jax._files import Progress
from manifold_jax.experiments.classifier.baselines import (
    ANCHORS,
    Projections,
    Subspace,
    Training,
    denoise_tv,
    principal_subspace,
    project_from_anchors,
    psnr,
    split,
)
from manifold_jax.experiments.classifier.task import Images, Task, Trial, predictions, sample
from manifold_jax.experiments.classifier.walks import LEAF, LEAF_REDUCED, PathOptions
from manifold_jax.experiments.experiment import Outcome
from manifold_jax.plotting.images import PALETTE, image_grid
from manifold_jax.plotting.style import new_figure

_SHORT = {
    "noisy image": "noisy",
    "principal components": "PCA",
    "total variation": "total\nvariation",
    "nearest training image of the predicted class": "nearest\nof class",
    "nearest training image": "nearest",
    "mean of the predicted class": "class mean",
}
"""Titles of columns."""

_MARKS = "osD^v<>P*X"


class Settings(NamedTuple):
    """What to run.

    Attributes:
        images: Test images.
        levels: Standard deviations of the noise, in pixels from 0 to 1.
        anchors: Where projections start, among ``ANCHORS``.
        path: How they go.
        training: Training images that principal components are fitted to and anchors are chosen from.
        validation: Other training images, by which the options of the baselines are chosen.
        components: Numbers of principal components to choose from.
        weights: Weights of the total variation to choose from.
        shown: Images in the figure.
    """

    images: int = 200
    levels: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5)
    anchors: tuple[str, ...] = ("class", "any", "mean")
    path: PathOptions = LEAF
    training: int = 50_000
    validation: int = 500
    components: tuple[int, ...] = (5, 10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 320, 480)
    weights: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8)
    shown: int = 3


REDUCED = Settings(
    images=24,
    levels=(0.1, 0.3, 0.5),
    anchors=("class", "mean"),
    path=LEAF_REDUCED,
    training=10_000,
    validation=100,
    weights=(0.02, 0.05, 0.1, 0.2, 0.3, 0.5),
    shown=2,
)


def check(settings: Settings) -> None:
    """Raise unless there are levels, anchors and weights."""
    if not (settings.levels and settings.anchors and settings.weights):
        raise ValueError(f"denoise: there must be levels, anchors and weights, got {settings}.")
    for level in settings.levels:
        positive("denoise", "levels", level)
    for kind in settings.anchors:
        choice("denoise", "anchors", kind, ANCHORS)


class _Baselines(NamedTuple):
    """Principal components, and options chosen on validation images, one for each level."""

    subspace: Subspace
    components: list[int]
    weights: list[float]


def _choose(settings: Settings, validation: Training, training: Training, rng: Any) -> _Baselines:
    """The numbers of components and the weights with the best PSNR on validation images."""
    counts = [k for k in settings.components if k < min(training.flat.shape)]
    if not counts:
        raise ValueError(
            f"denoise: components must hold a number below {min(training.flat.shape)}, got "
            f"{settings.components}."
        )
    chosen = _Baselines(principal_subspace(training), [], [])
    for level in settings.levels:
        noisy = _add_noise(validation.images, level, rng)

        def score(estimate: Images) -> float:
            return float(np.mean(psnr(np.clip(estimate, 0, 1), validation.images)))

        chosen.components.append(max(counts, key=lambda k: score(chosen.subspace.project(noisy, k))))
        chosen.weights.append(max(settings.weights, key=lambda w: score(denoise_tv(noisy, w))))
    return chosen


def _add_noise(images: Images, level: float, rng: np.random.Generator) -> Images:
    return (images + level * rng.standard_normal(images.shape)).astype(np.float32)


def _smooth(noisy: list[Images], baselines: _Baselines) -> dict[str, Images]:
    """Both baselines at all levels."""
    each = list(zip(noisy, baselines.components, baselines.weights, strict=True))
    return {
        "principal components": np.concatenate([baselines.subspace.project(part, k) for part, k, _ in each]),
        "total variation": np.concatenate([denoise_tv(part, weight) for part, _, weight in each]),
    }


def run(trial: Trial, settings: Settings, progress: Progress | None = None) -> Outcome:
    """Denoise test images by leaf projection and by baselines.

    All estimates are clipped to [0, 1] before they are compared with the clean image; paths are not.
    """
    check(settings)
    task, log_prob, levels = trial.task, trial.log_prob, settings.levels
    rng = np.random.default_rng(trial.seed)
    images, labels = sample(task.test, settings.images, trial.seed)
    clean = np.concatenate([np.asarray(images)] * len(levels))
    validation, training = split(task.train, settings.validation, settings.training, trial.seed)
    baselines = _choose(settings, validation, training, rng)
    parts = [_add_noise(np.asarray(images), level, rng) for level in levels]
    noisy = np.concatenate(parts)
    predicted = predictions(log_prob, noisy)
    leaf = project_from_anchors(log_prob, noisy, training, predicted, settings, progress)
    methods = {"noisy image": noisy, "noisy image, clipped": noisy} | _smooth(parts, baselines)
    for kind, projections in leaf.items():
        methods[f"anchor: {ANCHORS[kind]}"] = projections.anchors
        methods[f"leaf from the {ANCHORS[kind]}"] = projections.path.point
    methods = {name: m if name == "noisy image" else np.clip(m, 0, 1) for name, m in methods.items()}
    values = {name: psnr(m, clean).reshape(len(levels), -1) for name, m in methods.items()}
    right = np.mean(predicted.reshape(len(levels), -1) == labels, axis=1)
    rows = [
        {"method": name} | {f"sd {s:g}": float(v.mean()) for s, v in zip(levels, value, strict=True)}
        for name, value in values.items()
    ]
    data = _data(settings, values, baselines, leaf) | {"accuracy_on_noisy": right}
    figures = {
        "leaf_denoise": _draw_images(task, settings, labels, clean, methods, values),
        "leaf_denoise_psnr": _draw_psnr(task, settings, values),
    }
    title = f"Denoising {len(labels)} test images of {task.name}: mean PSNR in dB by level of noise"
    right_words = f"Noisy images classified as labelled, by level: {', '.join(f'{r:.0%}' for r in right)}."
    return Outcome(title, rows, data, figures, [*_notes(settings, values, baselines, leaf), right_words])


def _errors(value: Float[np.ndarray, "levels n"]) -> Float[np.ndarray, "levels"]:
    """Standard errors of the means."""
    return value.std(axis=1) / np.sqrt(value.shape[1])


def _data(
    settings: Settings, values: dict[str, np.ndarray], baselines: _Baselines, leaf: dict[str, Projections]
) -> dict[str, Any]:
    """What goes to JSON; means by level and anchor."""

    def by_level(of: Any) -> np.ndarray:
        parts = [np.asarray(of(p)).reshape(len(settings.levels), -1).mean(axis=1) for p in leaf.values()]
        return np.stack(parts, axis=1)

    kept = ("distance", "horizontal", "length", "drift", "steps", "converged")
    count = next(iter(values.values())).shape[1]
    return {
        "levels": settings.levels,
        "psnr": values,
        "standard_error": {
            name: _errors(value) * np.sqrt(count / (count - 1)) if count > 1 else None
            for name, value in values.items()
        },
        "components": baselines.components,
        "tv_weights": baselines.weights,
        "anchors": settings.anchors,
        "leaf": {name: by_level(lambda p, name=name: getattr(p.path, name)) for name in kept}
        | {"anchor_distance": by_level(lambda p: p.before)},
    }


def _notes(
    settings: Settings, values: dict[str, np.ndarray], baselines: _Baselines, leaf: dict[str, Projections]
) -> list[str]:
    best = [
        f"{max(values, key=lambda name: values[name][k].mean())} ({level:g})"
        for k, level in enumerate(settings.levels)
    ]
    gains = []
    for name in (ANCHORS[kind] for kind in leaf):
        gain = (values[f"leaf from the {name}"] - values[f"anchor: {name}"]).mean(axis=1)
        gains.append(f"from the {name} {', '.join(f'{g:+.2f}' for g in gain)} dB")
    largest = max(float(_errors(value).max()) for value in values.values())
    return [
        f"Best by level: {'; '.join(best)}.",
        f"What the leaf adds to its anchor, by level: {'; '.join(gains)}.",
        f"Chosen on {settings.validation} validation images, by level: "
        f"{', '.join(map(str, baselines.components))} components; "
        f"weights {', '.join(f'{w:g}' for w in baselines.weights)} of the total variation.",
        *(f"From the {ANCHORS[kind]}: {p.caption(settings.path)}." for kind, p in leaf.items()),
        f"Standard errors of the means are at most {largest:.2f} dB. All but the first line are clipped to "
        "[0, 1]; paths are not.",
    ]


def _column(name: str) -> str:
    """Name of a method as the title of a column."""
    for start in ("anchor: ", "leaf from the "):
        if name.startswith(start):
            return f"{start.removesuffix(': ').removesuffix(' the ')}\n{_SHORT[name.removeprefix(start)]}"
    return _SHORT[name]


def _draw_images(
    task: Task,
    settings: Settings,
    labels: np.ndarray,
    clean: Images,
    methods: dict[str, Images],
    values: dict[str, np.ndarray],
) -> Any:
    """Some images by level, with the PSNR of each."""
    names = [name for name in methods if name != "noisy image, clipped"]
    images, captions, rows = [], [], []
    for k in range(min(settings.shown, len(labels))):
        for j, level in enumerate(settings.levels):
            at = j * len(labels) + k
            images.append([clean[at], *(methods[name][at] for name in names)])
            captions.append(["", *(f"{values[name][j, k]:.1f} dB" for name in names)])
            rows.append(f"{task.test.names[labels[k]]}: sd {level:g}")
    title = (
        f"Denoising {task.name}: PSNR below each image; class and noise (sd: standard deviation) at the left"
    )
    columns = ["clean", *map(_column, names)]
    return image_grid(title, images, rows=rows, columns=columns, captions=captions)


def _draw_psnr(task: Task, settings: Settings, values: dict[str, np.ndarray]) -> Any:
    """Mean PSNR against the level of noise."""
    figure = new_figure(8.2, 5.0, f"Denoising {task.name}, mean of {settings.images} test images")
    axes = figure.add_subplot()
    for k, (name, value) in enumerate(values.items()):
        leaf = name.startswith("leaf")
        axes.errorbar(
            settings.levels,
            value.mean(axis=1),
            yerr=_errors(value),
            marker=_MARKS[k % len(_MARKS)],
            color=PALETTE[k % len(PALETTE)],
            ls="-" if leaf else ":" if name.startswith(("anchor", "noisy")) else "--",
            lw=2.2 if leaf else 1.4,
            capsize=2,
            label=name,
        )
    axes.set_xlabel("standard deviation of the noise [pixel, 0 to 1]")
    axes.set_ylabel("PSNR [dB], bars: standard error")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=8, ncols=2)
    return figure
