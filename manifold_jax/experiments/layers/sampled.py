"""The decoder behind a sampled latent, as in the reference, beside z = mu."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from manifold_jax.experiments.experiment import Outcome
from manifold_jax.experiments.layers.evolution import Claim, rank_correlation
from manifold_jax.experiments.layers.measures import means
from manifold_jax.experiments.layers.task import Trial, forward
from manifold_jax.experiments.sprites import render
from manifold_jax.geometry import Grid, measure, reach
from manifold_jax.models import Layers, Pure, network_layers


class _Decoder(NamedTuple):
    """Measures of the latent and the layers behind it, ``(runs, layers)`` each, of the manifold as it is."""

    volume: Float[np.ndarray, "runs layers"]
    bend: Float[np.ndarray, "runs layers"]
    reach: Float[np.ndarray, "runs layers"]

    def unit(self, dimension: int) -> _Decoder:
        """Scaled to unit volume."""
        length = self.volume ** (1 / dimension)
        return _Decoder(np.ones_like(length), self.bend * length, self.reach / length)


def sampled(trial: Trial) -> Outcome:
    """The decoder behind a sampled latent beside z = mu, by stencils of order 2.

    The reference draws z independently at every point of the grid. Differences then divide the noise by the
    spacing.

    Args:
        trial: What was trained.

    Returns:
        The outcome: means over the runs of the first class, latent and decoder; the claims about depth for
        both.

    Raises:
        ValueError: The network is no autoencoder.
    """
    if not trial.task.is_vae:
        raise ValueError("sampled belongs to an autoencoder: leave out --network classifier.")
    chart, step, names = trial.task.charts[0], trial.steps[-1], ()
    grid, runs = chart.grid, trial.task.settings.seeds
    images = render(chart.embedding, grid.coordinates().reshape(-1, grid.ndim))
    rows: list[list[list[float]]] = []
    for run, network in enumerate(trial.networks(step)):
        layers = network_layers(network)
        names = layers.names[layers.names.index("latent") :]
        z, noise = _latent(network, images, trial.seed + run)
        rows += [_decoder(layers, z, grid), _decoder(layers, z + noise, grid)]
        trial.tell(run + 1, runs)
    numbers = np.moveaxis(np.array(rows), -1, 0)  # (measures, 2 runs, layers)
    quiet, noisy = _Decoder(*numbers[:, ::2]), _Decoder(*numbers[:, 1::2])
    tested = _claims(quiet.unit(grid.ndim), "z = mu") + _claims(noisy.unit(grid.ndim), "z sampled")
    table = _table(names, quiet, noisy, grid.ndim)
    title = f"{chart.name}, {trial.task.name}, step {step}: latent sampled, and z = mu; {runs} runs"
    notes = [
        f"Sampled independently at each of the {grid.size} points of the grid {grid.shape}: the volume of "
        f"the image is {table[-1]['ratio']:.3g} times that of z = mu. |II| and reach are scaled to unit "
        "volume. By stencils of order 2, of the first class alone.",
        *(claim.sentence for claim in tested),
    ]
    data = {"mu": quiet._asdict(), "sampled": noisy._asdict(), "axes": ["run", "layer"]}
    return Outcome(title, table, data | {"claims": [claim.row for claim in tested]}, {}, notes)


def _decoder(layers: Layers, latents: jax.Array, grid: Grid) -> list[list[float]]:
    """Volume, mean |II| and reach in the latent and every layer behind it."""
    behind = layers.functions[layers.names.index("latent") + 1 :]
    found = []
    for array in (latents, *forward(behind, latents)):
        points = array.reshape(*grid.shape, -1)
        geometry = measure(points, grid, accuracy=2)
        part = means([geometry])
        found.append([part["volume"], part["bend"], reach(points, grid, accuracy=2, geometry=geometry).value])
    return found


def _claims(found: _Decoder, when: str) -> list[Claim]:
    """About the depth of the decoder."""
    tested = (("curvature grows with depth", found.bend, 1), ("reach falls with depth", found.reach, -1))
    return [
        Claim(f"{words}, {when}", "decoder", sign, np.array([rank_correlation(run) for run in values]))
        for words, values, sign in tested
    ]


def _table(names: tuple[str, ...], quiet: _Decoder, noisy: _Decoder, dimension: int) -> list[dict]:
    a, b = quiet.unit(dimension), noisy.unit(dimension)
    return [
        {
            "layer": name,
            "volume, mu": float(quiet.volume[:, k].mean()),
            "sampled": float(noisy.volume[:, k].mean()),
            "ratio": float((noisy.volume[:, k] / quiet.volume[:, k]).mean()),
            "|II|, mu": float(a.bend[:, k].mean()),
            "|II|, sampled": float(b.bend[:, k].mean()),
            "reach, mu": float(a.reach[:, k].mean()),
            "reach, sampled": float(b.reach[:, k].mean()),
        }
        for k, name in enumerate(names)
    ]


@jax.jit
def _moments(encode: jax.tree_util.Partial, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.lax.map(encode, images, batch_size=64)


def _latent(network: Pure, images: jax.Array, seed: int) -> tuple[jax.Array, jax.Array]:
    """Mean of the latent, and noise of its deviation."""
    encode = jax.tree_util.Partial(network.apply.of("encode"), network.params)
    mean, log_variance = _moments(encode, images)
    return mean, jnp.exp(log_variance / 2) * jax.random.normal(jax.random.key(seed), mean.shape)
