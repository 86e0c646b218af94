"""The decoder after a sampled latent, as in the reference, next to z = mu."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from manifold_jax._files import Progress
from manifold_jax.experiments.experiment import Outcome
from manifold_jax.experiments.layers import quantities
from manifold_jax.experiments.layers.claims import as_sentence, check_claims
from manifold_jax.experiments.layers.data import Settings
from manifold_jax.experiments.layers.quantities import Quantities, scale_to_unit_volume, stack
from manifold_jax.experiments.layers.trial import Trial, forward, split_at_latent
from manifold_jax.experiments.sprites import evaluate
from manifold_jax.geometry import Grid, measure, reach
from manifold_jax.models import Layers, Pure, network_layers


def sampled(trial: Trial, settings: Settings, progress: Progress) -> Outcome:
    """The decoder of a beta-VAE after a sampled latent next to z = mu, by stencils of order 2.

    The reference draws z independently at every point of the grid. Differences then divide the noise by the
    spacing. Means over the runs of the first class.
    """
    chart, step, names = trial.charts.measured[0], trial.steps[-1], ()
    grid = chart.grid
    images = evaluate(chart.embedding, grid.coordinates().reshape(-1, grid.ndim))
    of_mean, of_sample = [], []
    for run, network in enumerate(trial.networks(step)):
        _, decoder = split_at_latent(network_layers(network))
        names = ("latent", *decoder.names)
        z, noise = _encode(network, images, settings.seed + run)
        of_mean.append(_measure_decoder(decoder, z, grid))
        of_sample.append(_measure_decoder(decoder, z + noise, grid))
        progress(run + 1, settings.seeds)
    mean, sample = stack(of_mean), stack(of_sample)
    a, b = (scale_to_unit_volume(part, grid.ndim) for part in (mean, sample))
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
    return Outcome(title, table, data, {}, notes)


def _measure_decoder(decoder: Layers, latents: jax.Array, grid: Grid) -> Quantities:
    """Volume, mean |II| and reach in the latent and every layer after it."""
    rows = []
    for array in (latents, *forward(decoder.functions, latents)):
        points = array.reshape(*grid.shape, -1)
        geometry = measure(points, grid, accuracy=2)
        value = reach(points, grid, accuracy=2, geometry=geometry).value
        rows.append(quantities.as_quantities(reach=value, **quantities.average([geometry])))
    return stack(rows)


def _encode(network: Pure, images: jax.Array, seed: int) -> tuple[jax.Array, jax.Array]:
    """Mean of the latent, and noise of its deviation."""
    mean, log_variance = evaluate(Partial(network.apply.of("encode"), network.params), images)
    return mean, jnp.exp(log_variance / 2) * jax.random.normal(jax.random.key(seed), mean.shape)
