"""What a beta-VAE has learnt: reconstructions, which latent carries which factor, a sampled latent."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from manifold_jax._checks import require
from manifold_jax._files import Progress
from manifold_jax.experiments.experiment import Outcome, Row
from manifold_jax.experiments.layers import quantities
from manifold_jax.experiments.layers.quantities import Quantities, as_sentence, check_claims
from manifold_jax.experiments.layers.trial import Settings, Trial, forward, output, split_at_latent
from manifold_jax.experiments.sprites import draw_images, ends, evaluate
from manifold_jax.geometry import Grid, measure, reach
from manifold_jax.models import Layers, Pure, network_layers, pixels
from manifold_jax.plotting.animation import Moving
from manifold_jax.plotting.images import image_grid
from manifold_jax.plotting.style import Figure

BINS = 20  # intervals of every latent, as in disentanglement_lib
_FACTOR_BINS = 10
_IN_USE = 0.1  # KL, in nats, above which a latent is in use
_LAST = 50  # steps of the training over which its metrics are averaged
_PICTURES = 6
_STEPS = np.linspace(-2.5, 2.5, 7)


def _put_in_bins(values: Float[np.ndarray, "n k"]) -> Int[np.ndarray, "n k"]:
    """Every column in ``BINS`` intervals of equal width between its extremes."""
    low, high = values.min(0), values.max(0)
    width = np.where(high > low, high - low, 1.0)
    return np.minimum((BINS * (values - low) / width).astype(int), BINS - 1)


def mutual_information_gap(
    latents: Float[np.ndarray, "n z"], factors: Int[np.ndarray, "n k"]
) -> tuple[float, Float[np.ndarray, "z k"]]:
    """MIG of Chen et al. (NeurIPS 2018): 1 where every factor is carried by one latent alone.

    For each factor v, ``(I(z_1; v) - I(z_2; v)) / H(v)`` of the two latents that share most information with
    it; mean over the factors, which are whole numbers. Latents are put into 20 intervals of equal width, as
    in disentanglement_lib (Locatello et al., ICML 2019). Returns I(z; v) / H(v) of all pairs too.
    """
    information = require("sklearn.metrics", "cli", "The mutual information gap").mutual_info_score
    if len(latents) != len(factors) or latents.shape[1] < 2:
        shapes = f"{latents.shape} and {factors.shape}"
        raise ValueError(f"latents and factors need as many rows, and two latents or more, got {shapes}.")
    entropies = np.array([information(v, v) for v in factors.T])
    shared = np.array([[information(v, z) for v in factors.T] for z in _put_in_bins(latents).T]) / entropies
    best = np.sort(shared, axis=0)[::-1]
    return float(np.mean(best[0] - best[1])), shared


def explained_share(error: float, images: Float[np.ndarray, "n h w"], likelihood: str) -> float:
    """Share of what can be explained: 0 is the error of the mean image, 1 that of the images themselves.

    Grey pixels have an entropy of their own, so that no cross-entropy is 0. ``error`` is summed over pixels
    and averaged over images, as in :func:`manifold_jax.models.beta_vae_loss`.
    """
    images = images.astype(np.float64)
    mean = images.mean(0)
    if likelihood == "gaussian":
        worst, best = np.square(images - mean).sum((1, 2)).mean(), 0.0
    else:
        worst, best = (_cross_entropy(images, guess).sum((1, 2)).mean() for guess in (mean, images))
    return (worst - error) / (worst - best)


def _cross_entropy(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Cross-entropy of two coins."""
    q = np.clip(q, 1e-12, 1 - 1e-12)
    return -(p * np.log(q) + (1 - p) * np.log1p(-q))


def latents(trial: Trial, settings: Settings, progress: Progress) -> Outcome:
    """Reconstruction, KL and mutual information of every run of a beta-VAE, with pictures of the first."""
    step, rows, tables = trial.steps[-1], [], []
    last = {name: values[-_LAST:].mean(0) for name, values in trial.metrics.items()}
    images = np.asarray(pixels(trial.images))
    names = ["class", *(axis.name for axis in trial.charts.sources[0].grid.axes)]
    layers = trial.layers(step)
    jobs = [("information", network, partial(_information, trial, network)) for network in layers]
    for run, (gap, table) in enumerate(trial.compute(jobs, progress)):
        shared = np.array(table)
        tables.append(shared)
        error = float(last["reconstruction"][run])
        row: Row = {"run": run, "reconstruction": error}
        row["explained"] = explained_share(error, images, trial.likelihood)
        row |= {"KL": float(last["kl"][run]), "latents in use": int(np.sum(last["kl_units"][run] > _IN_USE))}
        row["MIG"] = gap
        row |= {f"latent of {name}": int(shared[:, k].argmax()) for k, name in enumerate(names)}
        row |= {f"I/H {name}": float(shared[:, k].max()) for k, name in enumerate(names)}
        rows.append(row)
    title = f"{trial.name}: step {step}, {step * settings.batch_size} images a run"
    note = (
        "Reconstruction error (nats; of COIL-20 squared errors) and KL (nats), summed over pixels and "
        "latents, means of the last 50 steps; explained: 0 for the mean image, 1 for the images themselves; "
        "MIG of Chen et al. 2018; a latent is in use if its KL is above 0.1."
    )
    figures = {"reconstructions": _reconstructions(trial, layers, step)}
    traversed = _traversals(trial, layers[0], tables[0], names)
    about, steps = f"{trial.name}: traversals of run 0, step {step}", [f"{value:.1f}" for value in _STEPS]
    figures["traversals"] = _picture_rows(about, traversed, steps)
    images = np.stack([np.asarray(row).reshape(row.shape[:3]) for row in traversed.values()])
    moving = {"traversals": Moving(about, images, list(traversed), [steps] * len(traversed))}
    metrics = {name: values[::10] for name, values in trial.metrics.items()}
    data = {"shared information, run 0": tables[0], "metrics": metrics}
    means = {name: np.mean([row[name] for row in rows]) for name in ("explained", "KL", "MIG")}
    headline = (
        f"Means of {len(rows)} runs: {means['explained']:.1%} explained, KL {means['KL']:.3g} nats, mutual "
        f"information gap {means['MIG']:.2g}."
    )
    return Outcome(title, rows, data, figures, [note], moving=moving, headline=headline)


def _information(trial: Trial, layers: Layers) -> tuple[float, list[list[float]]]:
    """:func:`mutual_information_gap` of a run, for JSON."""
    gap, shared = mutual_information_gap(*_codes(trial, layers))
    return gap, shared.tolist()


def _codes(trial: Trial, layers: Layers) -> tuple[np.ndarray, np.ndarray]:
    """Latents of new random images, and their factors as whole numbers, the class first."""
    encoder, _ = split_at_latent(layers)
    sources, settings = trial.charts.sources, trial.settings
    points, images = draw_images(jax.random.key(settings.seed + 1), sources, settings.points)
    codes, factors = [], []
    for k, (source, part, pictures) in enumerate(zip(sources, points, images, strict=True)):
        codes.append(np.asarray(output(encoder, pictures)))
        # Classes have orientations of their own period: by share of the range.
        low, high = ends(source)
        shares = (np.asarray(part) - low) / (high - low)
        numbers = np.minimum((shares * _FACTOR_BINS).astype(int), _FACTOR_BINS - 1)
        factors.append(np.insert(numbers, 0, k, axis=1))
    return np.concatenate(codes), np.concatenate(factors)


def _picture_rows(title: str, batches: dict[str, Array], columns: list[str]) -> Figure:
    """A row for each batch ``(n, h, w, 1)`` or ``(n, h, w)``."""
    images = [list(np.asarray(batch).reshape(batch.shape[:3])) for batch in batches.values()]
    return image_grid(title, images, rows=list(batches), columns=columns)


def _reconstructions(trial: Trial, layers: list[Layers], step: int) -> Figure:
    """Training images and what comes back."""
    chosen = np.linspace(0, len(trial.images) - 1, _PICTURES).astype(int)
    images = pixels(trial.images[chosen])
    rows = {"image": images}
    for run, network in enumerate(layers[:3]):
        rows[f"run {run}"] = output(network, images)
    columns = [trial.charts.measured[int(trial.labels[k])].name for k in chosen]
    return _picture_rows(f"{trial.name}: reconstructions, step {step}", rows, columns)


def _traversals(trial: Trial, layers: Layers, shared: np.ndarray, names: list[str]) -> dict[str, Array]:
    """One latent at a time moved from an image, first those that say most of a factor."""
    encoder, decoder = split_at_latent(layers)
    start = output(encoder, pixels(trial.images[:1]))
    rows = {}
    for k in np.argsort(-shared.max(1)):
        moved = jnp.repeat(start, len(_STEPS), axis=0).at[:, k].set(jnp.asarray(_STEPS, start.dtype))
        factor = int(shared[k].argmax())
        rows[f"z{k}: {names[factor]} {shared[k, factor]:.2f}"] = output(decoder, moved)
    return rows


def sampled(trial: Trial, settings: Settings, progress: Progress) -> Outcome:
    """The decoder of a beta-VAE after a sampled latent next to z = mu, by stencils of order 2.

    The reference draws z independently at every point of the grid. Differences then divide the noise by the
    spacing. Means over the runs of the first class.
    """
    chart, step, names = trial.charts.measured[0], trial.steps[-1], ()
    grid = chart.grid
    images = evaluate(chart.embedding, grid.coordinates().reshape(-1, grid.ndim))
    jobs: list[Any] = []
    for seed, network in enumerate(trial.networks(step), settings.seed):
        layers = network_layers(network)
        names = ("latent", *split_at_latent(layers)[1].names)
        jobs.append((f"sampled by seed {seed}", layers, partial(_measure_both, network, images, grid, seed)))
    both = zip(*trial.compute(jobs, progress), strict=True)
    mean, sample = (Quantities(*map(np.array, zip(*runs, strict=True))) for runs in both)
    a, b = (quantities.scale_to_unit_volume(part, grid.ndim) for part in (mean, sample))
    decoder = {"decoder": slice(None)}
    claims = check_claims(a, decoder, "z = mu") + check_claims(b, decoder, "z sampled")
    columns = {"volume, mu": mean.volume, "sampled": sample.volume, "ratio": sample.volume / mean.volume}
    columns |= {"|II|, mu": a.second_form_norm, "|II|, sampled": b.second_form_norm}
    columns |= {"reach, mu": a.reach, "reach, sampled": b.reach}
    means = {word: values.mean(0) for word, values in columns.items()}
    table = [
        {"layer": name} | {word: float(values[k]) for word, values in means.items()}
        for k, name in enumerate(names)
    ]
    title = f"{chart.name}, {trial.name}, step {step}: latent sampled, and z = mu; {settings.seeds} runs"
    notes = [
        f"Sampled independently at each of the {grid.size} points of the grid {grid.shape}: the volume of "
        f"the image is {table[-1]['ratio']:.3g} times that of z = mu. |II| and reach are scaled to unit "
        "volume. By stencils of order 2, of the first class alone.",
        *map(as_sentence, claims),
    ]
    fields = ("volume", "second_form_norm", "reach")
    values = [{field: getattr(part, field) for field in fields} for part in (mean, sample)]
    data = {"mu": values[0], "sampled": values[1], "axes": ["run", "layer"], "claims": claims}
    latent, image = table[0], table[-1]
    headline = (
        f"|II| of the latent {latent['|II|, mu']:.3g} at z = mu, {latent['|II|, sampled']:.3g} sampled; of "
        f"the image {image['|II|, mu']:.3g} and {image['|II|, sampled']:.3g}."
    )
    return Outcome(title, table, data, {}, notes, headline=headline)


def _measure_both(network: Pure, images: jax.Array, grid: Grid, seed: int) -> list[list[list[float]]]:
    """:func:`_measure_decoder` after the mean and after a sample, for JSON."""
    _, decoder = split_at_latent(network_layers(network))
    z, noise = _encode(network, images, seed)
    return [[x.tolist() for x in _measure_decoder(decoder, one, grid)] for one in (z, z + noise)]


def _measure_decoder(decoder: Layers, latents: jax.Array, grid: Grid) -> Quantities:
    """Volume, mean |II| and reach in the latent and every layer after it."""
    rows = []
    for array in (latents, *forward(decoder.functions, latents)):
        points = array.reshape(*grid.shape, -1)
        geometry = measure(points, grid, accuracy=2)
        value = reach(points, grid, accuracy=2, geometry=geometry).value
        rows.append(quantities.as_quantities(reach=value, **quantities.average([geometry])))
    return quantities.stack(rows)


def _encode(network: Pure, images: jax.Array, seed: int) -> tuple[jax.Array, jax.Array]:
    """Mean of the latent, and noise of its deviation."""
    mean, log_variance = evaluate(Partial(network.apply.of("encode"), network.params), images)
    return mean, jnp.exp(log_variance / 2) * jax.random.normal(jax.random.key(seed), mean.shape)
