"""What a beta-VAE has learnt: reconstructions, traversals, which latent carries which factor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from manifold_jax.experiments.experiment import Outcome, Row
from manifold_jax.experiments.layers.task import Task, Trial, forward
from manifold_jax.experiments.sprites import draw, render
from manifold_jax.models import Layers, network_layers, pixels
from manifold_jax.plotting.images import image_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 20
_PICTURES = 6
_STEPS = np.linspace(-2.5, 2.5, 7)


def binned(values: Float[np.ndarray, "n k"], bins: int = BINS) -> Int[np.ndarray, "n k"]:
    """Every column in intervals of equal width between its extremes."""
    low, high = values.min(0), values.max(0)
    width = np.where(high > low, high - low, 1.0)
    return np.minimum((bins * (values - low) / width).astype(int), bins - 1)


def mutual_information_gap(
    latents: Float[np.ndarray, "n z"], factors: Int[np.ndarray, "n k"]
) -> tuple[float, Float[np.ndarray, "z k"]]:
    """MIG of Chen et al. (NeurIPS 2018): 1 where every factor is carried by one latent alone.

    For each factor v, ``(I(z_1; v) - I(z_2; v)) / H(v)`` of the two latents that share most information with
    it; mean over the factors. Latents are put into 20 intervals of equal width, as in disentanglement_lib
    (Locatello et al., ICML 2019).

    Args:
        latents: Codes, real numbers.
        factors: Of the same points, whole numbers.

    Returns:
        The gap, and I(z; v) / H(v) of all pairs.

    Raises:
        ValueError: Rows do not fit, or there are fewer than two latents.

    Example:
        >>> import numpy as np
        >>> from manifold_jax.experiments.layers.latents import mutual_information_gap
        >>> factors = np.stack(np.meshgrid(np.arange(4), np.arange(5)), axis=-1).reshape(-1, 2)
        >>> gap, _ = mutual_information_gap(factors.astype(float), factors)
        >>> print(f"{gap:.2f}")
        1.00
    """
    from sklearn.metrics import mutual_info_score

    if len(latents) != len(factors) or latents.shape[1] < 2:
        raise ValueError(
            f"latents and factors must have as many rows and at least two latents, got {latents.shape} and "
            f"{factors.shape}."
        )
    codes = binned(latents)
    entropies = np.array([mutual_info_score(v, v) for v in factors.T])
    shared = np.array([[mutual_info_score(v, z) for v in factors.T] for z in codes.T]) / entropies
    best = np.sort(shared, axis=0)[::-1]
    return float(np.mean(best[0] - best[1])), shared


def explained(error: float, images: Float[np.ndarray, "n h w"], likelihood: str) -> float:
    """Share of what can be explained: 0 is the error of the mean image, 1 that of the images themselves.

    Grey pixels have an entropy of their own, so that no cross-entropy is 0.

    Args:
        error: Summed over pixels, mean over images, as in :func:`manifold_jax.models.beta_vae_loss`.
        images: Pixels in [0, 1].
        likelihood: ``"bernoulli"`` or ``"gaussian"``.

    Returns:
        The share; negative for less than the mean image.

    Example:
        >>> import numpy as np
        >>> from manifold_jax.experiments.layers.latents import explained
        >>> images = np.stack([np.zeros((2, 2)), np.ones((2, 2))])
        >>> float(explained(0.25, images, "gaussian"))
        0.75
    """
    images = images.astype(np.float64)
    mean = images.mean(0)
    if likelihood == "gaussian":
        worst, best = np.square(images - mean).sum((1, 2)).mean(), 0.0
    else:
        worst, best = (_entropy(images, guess).sum((1, 2)).mean() for guess in (mean, images))
    return (worst - error) / (worst - best)


def _entropy(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Cross-entropy of two coins."""
    q = np.clip(q, 1e-12, 1 - 1e-12)
    return -(p * np.log(q) + (1 - p) * np.log1p(-q))


def _codes(task: Task, layers: Layers, seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Latents and factors of new random images."""
    middle = layers.names.index("latent") + 1
    latents, factors = [], []
    names = [axis.name for axis in task.sources[0].grid.axes]
    for k, source in enumerate(task.sources):
        points = draw(jax.random.fold_in(jax.random.key(seed), k), source, task.settings.points)
        *_, z = forward(layers.functions[:middle], render(source.embedding, points))
        latents.append(np.asarray(z))
        # Classes have orientations of their own period: by share of the range.
        shares = [
            (np.asarray(points)[:, i] - axis.start) / (axis.stop - axis.start)
            for i, axis in enumerate(source.grid.axes)
        ]
        whole = np.minimum((np.stack(shares, axis=1) * 10).astype(int), 9)
        factors.append(np.concatenate([np.full((len(whole), 1), k), whole], axis=1))
    return np.concatenate(latents), np.concatenate(factors), ["class", *names]


def latents(trial: Trial, metrics: dict[str, np.ndarray]) -> Outcome:
    """Reconstruction, KL and mutual information of every run, with pictures of the first.

    Args:
        trial: What was trained.
        metrics: Of the training, ``(steps, runs, ...)``.

    Returns:
        The outcome.

    Raises:
        ValueError: The network is no autoencoder.
    """
    task = trial.task
    if not task.is_vae:
        raise ValueError("latents belong to an autoencoder: leave out --network classifier.")
    step, rows, shared_first, names = trial.steps[-1], [], np.zeros((0, 0)), []
    last = slice(-min(50, len(metrics["kl"])), None)
    images = np.asarray(pixels(task.images))
    for run, network in enumerate(trial.networks(step)):
        codes, factors, names = _codes(task, network_layers(network), trial.seed + 1)
        gap, shared = mutual_information_gap(codes, factors)
        shared_first = shared if run == 0 else shared_first
        units = metrics["kl_units"][last, run].mean(0)
        error = float(metrics["reconstruction"][last, run].mean())
        row: Row = {
            "run": run,
            "reconstruction": error,
            "explained": explained(error, images, task.likelihood),
            "KL": float(metrics["kl"][last, run].mean()),
            "latents in use": int(np.sum(units > 0.1)),
            "MIG": gap,
        }
        row |= {f"latent of {name}": int(shared[:, k].argmax()) for k, name in enumerate(names)}
        row |= {f"I/H {name}": float(shared[:, k].max()) for k, name in enumerate(names)}
        rows.append(row)
        trial.tell(run + 1, task.settings.seeds)
    title = f"{task.name}: step {step}, {step * task.settings.batch_size} images a run"
    notes = [
        "Reconstruction error (nats; of COIL-20 squared errors) and KL (nats), summed over pixels and "
        "latents, means of the last 50 steps; explained: 0 for the mean image, 1 for the images themselves; "
        "MIG of Chen et al. 2018; a latent is in use if its KL is above 0.1.",
    ]
    figures = {
        "reconstructions": _reconstructions(trial, step),
        "traversals": _traversals(trial, step, shared_first, names),
    }
    data = {"shared information, run 0": shared_first, "metrics": {k: v[::10] for k, v in metrics.items()}}
    return Outcome(title, rows, data, figures, notes)


def _shown(image: np.ndarray) -> np.ndarray:
    return np.asarray(image).reshape(image.shape[0], image.shape[1])


def _reconstructions(trial: Trial, step: int) -> Figure:
    """Training images and what comes back."""
    task = trial.task
    chosen = np.linspace(0, len(task.images) - 1, _PICTURES).astype(int)
    images = pixels(task.images[chosen])
    rows, names = [[_shown(image) for image in images]], ["image"]
    for run in range(min(3, task.settings.seeds)):
        *_, back = forward(trial.layers(step, run).functions, images)
        rows.append([_shown(image) for image in np.asarray(back)])
        names.append(f"run {run}")
    columns = [f"{task.charts[int(task.labels[k])].name}" for k in chosen]
    return image_grid(f"{task.name}: reconstructions, step {step}", rows, rows=names, columns=columns)


def _traversals(trial: Trial, step: int, shared: np.ndarray, names: list[str]) -> Figure:
    """One latent at a time moved from an image, first those that say most of a factor."""
    task, layers = trial.task, trial.layers(step, 0)
    middle = layers.names.index("latent") + 1
    *_, start = forward(layers.functions[:middle], pixels(task.images[:1]))
    order = np.argsort(-shared.max(1))
    rows, words = [], []
    for k in order:
        moved = jnp.repeat(start, len(_STEPS), axis=0).at[:, k].set(jnp.asarray(_STEPS, start.dtype))
        *_, back = forward(layers.functions[middle:], moved)
        rows.append([_shown(image) for image in np.asarray(back)])
        factor = int(shared[k].argmax())
        words.append(f"z{k}: {names[factor]} {shared[k, factor]:.2f}")
    columns = [f"{value:.1f}" for value in _STEPS]
    return image_grid(f"{task.name}: traversals of run 0, step {step}", rows, rows=words, columns=columns)
