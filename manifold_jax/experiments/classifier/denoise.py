"""Denoising by leaf projection, beside principal components and total variation.

Grementieri & Fioresi (SIAM J. Imaging Sci. 15, 2022) propose to project a noisy image on the leaf of valid
data. From an anchor on that leaf one goes horizontally towards the noisy image, until the chord is vertical.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Float

from manifold_jax.experiments.classifier.pairs import (
    ANCHORS,
    Training,
    anchors_of,
    predictions,
    projections,
    split,
)
from manifold_jax.experiments.classifier.task import Progress, Task, sample
from manifold_jax.experiments.experiment import Outcome, Row
from manifold_jax.plotting.images import PALETTE, image_grid
from manifold_jax.plotting.style import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from manifold_jax.information import Path

Images = Float[np.ndarray, "n *shape"]

_LEAST_ERROR = 1e-10


class Settings(NamedTuple):
    """What to run.

    Attributes:
        images: Test images.
        levels: Standard deviations of the noise, in pixels from 0 to 1.
        anchors: Where projections start, among ``leaf_pairs.ANCHORS``.
        step_size: Of a projection.
        max_steps: Of a projection.
        tolerance: Horizontal share of the chord at which it counts as vertical.
        training: Training images that principal components are fitted to and anchors are chosen from.
        validation: Other training images, by which the options of the baselines are chosen.
        components: Numbers of principal components to choose from.
        weights: Weights of the total variation to choose from.
        block: Pairs at once.
        shown: Images in the figure.
    """

    images: int = 200
    levels: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5)
    anchors: tuple[str, ...] = ("class", "any", "mean")
    step_size: float = 0.03
    max_steps: int = 500
    tolerance: float = 0.01
    training: int = 50_000
    validation: int = 500
    components: tuple[int, ...] = (5, 10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 320, 480)
    weights: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8)
    block: int = 50
    shown: int = 3


REDUCED = Settings(
    images=24,
    levels=(0.1, 0.3, 0.5),
    anchors=("class", "mean"),
    step_size=0.05,
    max_steps=100,
    tolerance=0.02,
    training=10_000,
    validation=100,
    weights=(0.02, 0.05, 0.1, 0.2, 0.3, 0.5),
    block=24,
    shown=2,
)


def psnr(images: Images, clean: Images) -> Float[np.ndarray, "n"]:
    """Peak signal-to-noise ratio -10 log10(mean squared error) of pixels in [0, 1], in dB; at most 100.

    Args:
        images: Estimates.
        clean: The truth.

    Returns:
        One number an image.
    """
    errors = np.mean((images - clean).reshape(len(images), -1) ** 2, axis=1)
    return -10 * np.log10(np.maximum(errors, _LEAST_ERROR))


class Subspace(NamedTuple):
    """Principal components: the mean ``(m,)``, orthonormal rows ``(k, m)`` and variances ``(k,)``."""

    mean: np.ndarray
    rows: np.ndarray
    variance: np.ndarray


def principal_subspace(training: Training, count: int) -> Subspace:
    """The first principal components of training images, as many as there are at most."""
    try:
        from sklearn.decomposition import PCA
    except ImportError:
        raise ImportError(
            'principal components come from scikit-learn: pip install "manifold_jax[cli]".'
        ) from None
    flat = training.flat.astype(np.float64)
    solver = "covariance_eigh" if len(flat) > flat.shape[1] else "full"
    fitted = PCA(min(count, *flat.shape), svd_solver=solver).fit(flat)
    return Subspace(*map(np.asarray, (fitted.mean_, fitted.components_, fitted.explained_variance_)))


def pca_denoised(images: Images, subspace: Subspace, count: int) -> Images:
    """Orthogonal projection on the mean and ``count`` principal components."""
    rows = subspace.rows[:count]
    flat = images.reshape(len(images), -1) - subspace.mean
    return (subspace.mean + flat @ rows.T @ rows).reshape(images.shape).astype(images.dtype)


def tv_denoised(images: Images, weight: float) -> Images:
    """Total-variation denoising (A. Chambolle, J. Math. Imaging Vis. 20, 2004), by scikit-image."""
    try:
        from skimage.restoration import denoise_tv_chambolle
    except ImportError:
        raise ImportError(
            'total variation comes from scikit-image: pip install "manifold_jax[cli]".'
        ) from None
    channels = -1 if images.ndim == 4 else None
    found = [denoise_tv_chambolle(image, weight=weight, channel_axis=channels) for image in images]
    return np.stack(found).astype(images.dtype)


class _Baselines(NamedTuple):
    """Options chosen on validation images, by level."""

    subspace: Subspace
    components: list[int]
    weights: list[float]


def _chosen(settings: Settings, chosen: Training, fitted: Training, rng: np.random.Generator) -> _Baselines:
    """The number of components and the weight with the best PSNR on validation images."""
    counts = [k for k in settings.components if k < min(fitted.flat.shape)]
    if not counts or not settings.weights:
        raise ValueError(
            f"components must have numbers below {min(fitted.flat.shape)}, and weights at least one, got "
            f"{settings.components} and {settings.weights}."
        )
    subspace = principal_subspace(fitted, max(counts))
    components, weights = [], []
    for level in settings.levels:
        noisy = _with_noise(chosen.images, level, rng)

        def score(estimate: Images) -> float:
            return float(np.mean(psnr(np.clip(estimate, 0, 1), chosen.images)))

        components.append(max(counts, key=lambda k: score(pca_denoised(noisy, subspace, k))))
        weights.append(max(settings.weights, key=lambda w: score(tv_denoised(noisy, w))))
    return _Baselines(subspace, components, weights)


def _with_noise(images: Images, level: float, rng: np.random.Generator) -> Images:
    return (images + level * rng.standard_normal(images.shape)).astype(np.float32)


class _Leaf(NamedTuple):
    """Anchors, their distances and projections ``(levels, anchors, images, ...)``, and predicted classes."""

    anchors: np.ndarray
    before: np.ndarray
    found: Path
    predicted: np.ndarray


def _project(
    log_prob: Partial, noisy: np.ndarray, training: Training, settings: Settings, progress: Progress | None
) -> _Leaf:
    predicted = np.stack([predictions(log_prob, images) for images in noisy])
    starts = np.stack(
        [
            np.stack([anchors_of(kind, images, classes, training) for kind in settings.anchors])
            for images, classes in zip(noisy, predicted, strict=True)
        ]
    )
    shape = starts.shape[:3]
    images = np.broadcast_to(noisy[:, None], starts.shape)
    found = projections(
        log_prob,
        starts.reshape(-1, *noisy.shape[2:]),
        images.reshape(-1, *noisy.shape[2:]),
        step_size=settings.step_size,
        max_steps=settings.max_steps,
        tolerance=settings.tolerance,
        block=settings.block,
        progress=progress,
    )
    before = np.linalg.norm((images - starts).reshape(*shape, -1), axis=-1)
    return _Leaf(starts, before, jax.tree.map(lambda a: a.reshape(*shape, *a.shape[1:]), found), predicted)


def _checked(settings: Settings) -> None:
    if not settings.levels or min(settings.levels) <= 0:
        raise ValueError(f"levels of noise must be positive numbers, got {settings.levels}.")
    if not settings.anchors:
        raise ValueError(f"there must be an anchor, one of {', '.join(ANCHORS)}.")


def run(
    task: Task,
    log_prob: Partial,
    settings: Settings = Settings(),  # noqa: B008
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Outcome:
    """Denoise test images by leaf projection and by baselines.

    All estimates are clipped to [0, 1] before they are compared with the clean image; paths are not.

    Args:
        task: Data and network.
        log_prob: The trained classifier.
        settings: What to run.
        seed: Of the choice of images and of the noise.
        progress: Called with projections done and all of them.

    Returns:
        PSNR by method and level.

    Raises:
        ValueError: A setting is out of range.
        ImportError: scikit-learn or scikit-image is not installed.
    """
    _checked(settings)
    rng = np.random.default_rng(seed)
    clean, labels = sample(task.test, settings.images, seed)
    clean = np.asarray(clean)
    chosen, fitted = split(task.train, settings.validation, settings.training, seed)
    baselines = _chosen(settings, chosen, fitted, rng)
    noisy = np.stack([_with_noise(clean, level, rng) for level in settings.levels])
    leaf = _project(log_prob, noisy, fitted, settings, progress)
    methods = {"noisy image": noisy, "noisy image, clipped": np.clip(noisy, 0, 1)}
    each = zip(noisy, baselines.components, baselines.weights, strict=True)
    smooth = [(pca_denoised(n, baselines.subspace, k), tv_denoised(n, w)) for n, k, w in each]
    methods["principal components"] = np.clip(np.stack([a for a, _ in smooth]), 0, 1)
    methods["total variation"] = np.clip(np.stack([b for _, b in smooth]), 0, 1)
    for k, kind in enumerate(settings.anchors):
        methods[f"anchor: {ANCHORS[kind]}"] = leaf.anchors[:, k]
        methods[f"leaf from the {ANCHORS[kind]}"] = np.clip(leaf.found.point[:, k], 0, 1)
    values = {name: np.stack([psnr(part, clean) for part in parts]) for name, parts in methods.items()}
    right = np.mean(leaf.predicted == labels, axis=1)
    rows = [_row(name, settings.levels, value) for name, value in values.items()]
    return Outcome(
        f"Denoising {len(clean)} test images of {task.name}: mean PSNR in dB by level of noise",
        rows,
        _data(settings, values, baselines, leaf, right),
        {
            "leaf_denoise": _grid(task, settings, clean, labels, methods, values),
            "leaf_denoise_psnr": _curves(task, settings, values),
        },
        _notes(settings, values, baselines, leaf, right),
    )


def _row(name: str, levels: tuple[float, ...], value: np.ndarray) -> Row:
    return {"method": name} | {f"sd {s:g}": float(v.mean()) for s, v in zip(levels, value, strict=True)}


def _data(
    settings: Settings, values: dict[str, np.ndarray], chosen: _Baselines, leaf: _Leaf, right: np.ndarray
) -> dict[str, Any]:
    """What goes to JSON."""
    found = leaf.found
    kept = ("distance", "horizontal", "length", "drift", "steps", "converged")
    return {
        "levels": settings.levels,
        "psnr": values,
        "standard_error": {
            name: value.std(axis=1, ddof=1) / np.sqrt(value.shape[1]) if value.shape[1] > 1 else None
            for name, value in values.items()
        },
        "components": chosen.components,
        "tv_weights": chosen.weights,
        "anchors": settings.anchors,
        "accuracy_on_noisy": right,
        "leaf": {name: np.asarray(getattr(found, name)).mean(axis=2) for name in kept}
        | {"anchor_distance": leaf.before.mean(axis=2)},
    }


def _notes(
    settings: Settings, values: dict[str, np.ndarray], chosen: _Baselines, leaf: _Leaf, right: np.ndarray
) -> list[str]:
    best = []
    for k, level in enumerate(settings.levels):
        name = max(values, key=lambda n: values[n][k].mean())
        best.append(f"{name} ({level:g})")
    gains = []
    for kind in settings.anchors:
        name = ANCHORS[kind]
        gain = (values[f"leaf from the {name}"] - values[f"anchor: {name}"]).mean(axis=1)
        gains.append(f"from the {name} {', '.join(f'{g:+.2f}' for g in gain)} dB")
    found = leaf.found
    spread = max(float(v.std(axis=1).max()) / np.sqrt(v.shape[1]) for v in values.values())
    return [
        f"Best by level: {'; '.join(best)}.",
        f"What the leaf adds to its anchor, by level: {'; '.join(gains)}.",
        f"Chosen on {settings.validation} validation images, by level: "
        f"{', '.join(map(str, chosen.components))} components; "
        f"weights {', '.join(f'{w:g}' for w in chosen.weights)} of the total variation.",
        f"Projections whose chord was vertical (horizontal share at most {settings.tolerance:g}) within "
        f"{settings.max_steps} steps of {settings.step_size:g}: {np.mean(found.converged):.0%}; median "
        f"horizontal share {np.median(found.horizontal):.3f}; drift off the leaf {np.sum(found.drift):.2g} "
        f"of {np.sum(found.length):.3g} walked.",
        f"Noisy images classified as labelled, by level: {', '.join(f'{r:.0%}' for r in right)}.",
        f"Standard errors of the means are at most {spread:.2f} dB. All but the first line are clipped to "
        "[0, 1]; paths are not.",
    ]


def _short(name: str) -> str:
    """Name of a method as a title of a column."""
    for kind, words in ANCHORS.items():
        name = name.replace(
            words, {"class": "nearest\nof class", "any": "nearest", "mean": "class mean"}[kind]
        )
    short = {"principal components": "PCA", "total variation": "total\nvariation", "noisy image": "noisy"}
    return short.get(name, name.replace("anchor: ", "anchor:\n").replace("leaf from the ", "leaf from\n"))


def _grid(
    task: Task,
    settings: Settings,
    clean: Images,
    labels: np.ndarray,
    methods: dict[str, np.ndarray],
    values: dict[str, np.ndarray],
) -> Figure:
    """Some images by level, with the PSNR of each below it."""
    names = [name for name in methods if name != "noisy image, clipped"]
    images, captions, rows = [], [], []
    for k in range(min(settings.shown, len(clean))):
        for j, level in enumerate(settings.levels):
            images.append([clean[k], *(methods[name][j, k] for name in names)])
            captions.append(["", *(f"{values[name][j, k]:.1f} dB" for name in names)])
            rows.append(f"{task.test.names[labels[k]]}: sd {level:g}")
    title = (
        f"Denoising {task.name}: PSNR below each image; class and noise (sd: standard deviation) at the left"
    )
    columns = ["clean", *map(_short, names)]
    return image_grid(title, images, rows=rows, columns=columns, captions=captions)


def _curves(task: Task, settings: Settings, values: dict[str, np.ndarray]) -> Figure:
    """Mean PSNR against the level of noise."""
    figure = new_figure(8.2, 5.0, f"Denoising {task.name}, mean of {settings.images} test images")
    axes = figure.add_subplot()
    marks = "osD^v<>P*X"
    for k, (name, value) in enumerate(values.items()):
        leaf = name.startswith("leaf")
        axes.errorbar(
            settings.levels,
            value.mean(axis=1),
            yerr=value.std(axis=1) / np.sqrt(value.shape[1]),
            marker=marks[k % len(marks)],
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
