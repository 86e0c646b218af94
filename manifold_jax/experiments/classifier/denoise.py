"""Denoising by leaf projection, next to principal components and total variation.

From an anchor on the leaf of valid data one goes horizontally towards a noisy image, as far as that goes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from manifold_jax._checks import positive, whole
from manifold_jax._files import Progress, silent
from manifold_jax.experiments.classifier import baselines
from manifold_jax.experiments.classifier.baselines import ANCHORS, SHORT, denoise_tv, psnr
from manifold_jax.experiments.classifier.task import Images, Task, Trial, predictions, sample
from manifold_jax.experiments.classifier.walks import LEAF, LEAF_REDUCED, PathOptions
from manifold_jax.experiments.experiment import Outcome
from manifold_jax.information import Path
from manifold_jax.plotting.images import image_grid
from manifold_jax.plotting.style import PALETTE, new_figure

_COLUMNS = {"noisy image": "noisy", "principal components": "PCA", "total variation": "total\nvariation"}
_COLUMNS |= {f"anchor: {name}": f"anchor:\n{SHORT[kind]}" for kind, name in ANCHORS.items()}
_COLUMNS |= {f"leaf from the {name}": f"leaf from\n{SHORT[kind]}" for kind, name in ANCHORS.items()}
_MARKS = "osD^v<>P*X"


class Settings(NamedTuple):
    """What to run; components and weights are those to choose from."""

    images: int = 200  # test images
    levels: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5)  # of the noise: deviations, grey levels 0 to 1
    anchors: tuple[str, ...] = ("class", "any", "mean")  # where projections start, among ANCHORS
    path: PathOptions = LEAF
    training: int = 50_000  # images that principal components are fitted to and anchors are chosen from
    validation: int = 500  # other training images, by which components and weights are chosen
    components: tuple[int, ...] = (5, 10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 320, 480)
    weights: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8)  # of total variation
    shown: int = 3  # images in the figure


REDUCED = Settings(images=24, levels=(0.1, 0.3, 0.5), anchors=("class", "mean"), path=LEAF_REDUCED, shown=2)
REDUCED = REDUCED._replace(training=10_000, validation=100, weights=(0.02, 0.05, 0.1, 0.2, 0.3, 0.5))


def check(settings: Settings) -> None:
    """Raise unless there are levels, anchors and weights."""
    for name in ("levels", "weights"):
        whole("denoise", f"the number of {name}", len(getattr(settings, name)))
    for level in settings.levels:
        positive("denoise", "levels", level)
    baselines.require_anchors("denoise", settings.anchors)


def _add_noise(images: Images, level: float, rng: np.random.Generator) -> Images:
    """Gaussian noise on every pixel, not clipped."""
    return (images + level * rng.standard_normal(images.shape)).astype(np.float32)


def _choose(
    settings: Settings, clean: Images, subspace: Any, rng: np.random.Generator
) -> list[tuple[int, float]]:
    """By level, the number of components and the weight with the best PSNR on validation images."""
    most = len(subspace.rows)
    counts = [k for k in settings.components if k < most]
    if not counts:
        raise ValueError(f"denoise: components must hold a number below {most}, got {settings.components}.")

    def best(options: Any, denoise: Any, noisy: Images) -> Any:
        return max(options, key=lambda option: np.mean(psnr(np.clip(denoise(noisy, option), 0, 1), clean)))

    parts = (_add_noise(clean, level, rng) for level in settings.levels)
    return [(best(counts, subspace.project, p), best(settings.weights, denoise_tv, p)) for p in parts]


def run(trial: Trial, settings: Settings, progress: Progress = silent) -> Outcome:
    """Denoise test images by leaf projection and by baselines; estimates are clipped to [0, 1] at the end."""
    check(settings)
    task, levels, rng = trial.task, settings.levels, np.random.default_rng(trial.seed)
    images, labels = sample(task.test, settings.images, trial.seed)
    clean = np.concatenate([np.asarray(images)] * len(levels))
    validation, training = baselines.split(task.train, settings.validation, settings.training, trial.seed)
    subspace = baselines.principal_subspace(training)
    counts, weights = zip(*_choose(settings, validation.images, subspace, rng), strict=True)
    parts = [_add_noise(np.asarray(images), level, rng) for level in levels]
    noisy = np.concatenate(parts)
    leaf = baselines.project_from_anchors(trial.log_prob, noisy, training, settings, progress, **trial.how)
    methods: dict[str, Any] = {
        "noisy image, clipped": noisy,
        "principal components": np.concatenate(list(map(subspace.project, parts, counts))),
        "total variation": np.concatenate(list(map(denoise_tv, parts, weights))),
    }
    for kind, path in leaf.items():
        methods[f"anchor: {ANCHORS[kind]}"] = path.points[:, 0]
        methods[f"leaf from the {ANCHORS[kind]}"] = path.point
    methods = {"noisy image": noisy} | {name: np.clip(m, 0, 1) for name, m in methods.items()}
    values = {name: psnr(m, clean).reshape(len(levels), -1) for name, m in methods.items()}
    right = np.mean(predictions(trial.log_prob, noisy).reshape(len(levels), -1) == labels, axis=1)
    rows = [
        {"method": name} | {f"sd {s:g}": float(v.mean()) for s, v in zip(levels, value, strict=True)}
        for name, value in values.items()
    ]
    data = {
        "levels": levels,
        "psnr": values,
        "standard_error": {name: _errors(value, ddof=1) for name, value in values.items()},
        "components": counts,
        "tv_weights": weights,
        "anchors": settings.anchors,
        "accuracy_on_noisy": right,
        "leaf": _average(leaf, len(levels)),
    }
    figures = {
        "leaf_denoise": _draw_images(task, settings, labels, clean, methods, values),
        "leaf_denoise_psnr": _draw_psnr(task, settings, values),
    }
    title = f"Denoising {len(labels)} test images of {task.name}: mean PSNR in dB by level of noise"
    level = f"sd {levels[len(levels) // 2]:g}"
    at_level = {str(row["method"]): row[level] for row in rows}
    leaves = [name for name in at_level if name.startswith("leaf")]
    shown = ("noisy image", max(at_level, key=at_level.__getitem__), max(leaves, key=at_level.__getitem__))
    best = ", ".join(f"{name} {at_level[name]:.1f} dB" for name in dict.fromkeys(shown))
    headline = f"At noise of {level}: {best}."
    return Outcome(title, rows, data, figures, _notes(settings, data, leaf), headline=headline)


def _errors(value: Float[np.ndarray, "levels n"], ddof: int = 0) -> Any:
    """Standard errors of the means; None where there is one value only."""
    count = value.shape[1]
    return value.std(axis=1, ddof=ddof) / np.sqrt(count) if count > ddof else None


def _average(leaf: dict[str, Path], levels: int) -> dict[str, Float[np.ndarray, "levels anchors"]]:
    """Means over the images."""
    path = jax.tree.map(lambda *parts: np.stack(parts, axis=1), *leaf.values())
    kept = ("distance", "horizontal", "length", "drift", "steps", "converged")
    by_image = {name: getattr(path, name) for name in kept} | {"anchor_distance": path.distances[..., 0]}
    return {name: value.reshape(levels, -1, len(leaf)).mean(axis=1) for name, value in by_image.items()}


def _notes(settings: Settings, data: dict[str, Any], leaf: dict[str, Path]) -> list[str]:
    """Sentences below the table."""
    values = data["psnr"]
    means = {name: value.mean(axis=1) for name, value in values.items()}
    best = [f"{max(means, key=lambda n: means[n][k])} ({s:g})" for k, s in enumerate(settings.levels)]
    gains = []
    for name in (ANCHORS[kind] for kind in leaf):
        gain = means[f"leaf from the {name}"] - means[f"anchor: {name}"]
        gains.append(f"from the {name} {', '.join(f'{g:+.2f}' for g in gain)} dB")
    largest = max(np.max(_errors(value)) for value in values.values())
    right = ", ".join(f"{share:.0%}" for share in data["accuracy_on_noisy"])
    return [
        f"Best by level: {'; '.join(best)}.",
        f"What the leaf adds to its anchor, by level: {'; '.join(gains)}.",
        f"Chosen on {settings.validation} validation images, by level: "
        f"{', '.join(map(str, data['components']))} components; "
        f"weights {', '.join(f'{w:g}' for w in data['tv_weights'])} of the total variation.",
        *(f"{baselines.describe_projections(kind, path, settings.path)}." for kind, path in leaf.items()),
        f"Noisy images classified as labelled, by level: {right}.",
        f"Standard errors of the means are at most {largest:.2f} dB. All but the first line are clipped to "
        "[0, 1]; paths are not.",
    ]


def _draw_images(task: Task, settings: Settings, labels: Any, clean: Any, methods: Any, values: Any) -> Any:
    """Some images by level, with the PSNR of each."""
    names = [name for name in methods if name != "noisy image, clipped"]
    images, captions, rows = [], [], []
    for k in range(min(settings.shown, len(labels))):
        for j, level in enumerate(settings.levels):
            at = j * len(labels) + k
            images.append([clean[at], *(methods[name][at] for name in names)])
            captions.append(["", *(f"{values[name][j, k]:.1f} dB" for name in names)])
            rows.append(f"{task.test.names[labels[k]]}: sd {level:g}")
    title = f"Denoising {task.name}: PSNR below each image; class and standard deviation (sd) of the noise"
    columns = ["clean", *(_COLUMNS[name] for name in names)]
    return image_grid(title, images, rows=rows, columns=columns, captions=captions)


def _draw_psnr(task: Task, settings: Settings, values: dict[str, np.ndarray]) -> Any:
    """Mean PSNR against the level of noise."""
    figure = new_figure(8.2, 5.0, f"Denoising {task.name}, mean of {settings.images} test images")
    axes = figure.add_subplot()
    for k, (name, value) in enumerate(values.items()):
        leaf = name.startswith("leaf")
        style = {"color": PALETTE[k % len(PALETTE)], "marker": _MARKS[k % len(_MARKS)], "capsize": 2}
        style["ls"] = "-" if leaf else ":" if name.startswith(("anchor", "noisy")) else "--"
        style["lw"] = 2.2 if leaf else 1.4
        axes.errorbar(settings.levels, value.mean(axis=1), _errors(value), label=name, **style)
    axes.set(xlabel="standard deviation of the noise [grey level]", ylabel="PSNR ± standard error [dB]")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=8, ncols=2)
    return figure
