"""Is the distribution of a classifier involutive, over the pixels and over the parameters?

Derivatives of a ReLU network are those of one linear region, in which the brackets lie in D_x whatever the
weights. Differences over a length see the kinks in between: by them a ReLU network may fail.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from manifold_jax._checks import positive, whole
from manifold_jax._files import Progress, silent
from manifold_jax._linalg import safe_sqrt, unit
from manifold_jax.experiments.classifier.normalised import network_of
from manifold_jax.experiments.classifier.task import Images, Trial, sample, stage
from manifold_jax.experiments.classifier.walks import in_blocks
from manifold_jax.experiments.experiment import Outcome, Row
from manifold_jax.information import fisher_involutivity_defect, involutivity_defect
from manifold_jax.information.foliation import reject, span
from manifold_jax.information.log_prob import LogProb, scores
from manifold_jax.information.precision import rank_tolerances
from manifold_jax.plotting.style import PALETTE, new_figure, panels

_BLOCK = 10  # images from one report of the progress to the next
_LEAST = 1e-8  # smallest defect that is drawn
_NOTE = (
    "Defect: |part outside of D| / |all| of the brackets of the scores, over all pairs of classes; 'from' "
    "and 'to' hold its median with 95 %. 'random': of brackets in random directions, sqrt(1 - (C - 1) / n) "
    "for n pixels or parameters. By derivatives a ReLU network has no defect over the pixels, whatever its "
    "weights: what is left is rounding. Differences over a length see the kinks; lengths in normalised grey "
    "levels, a step of the paper is 0.1."
)


class Settings(NamedTuple):
    """Numbers of test images, and lengths of differences in the paper's unit."""

    images: int = 200
    lengths: tuple[float, ...] = (0.01, 0.1, 1.0)


REDUCED = Settings(images=16)


def check(settings: Settings) -> None:
    """Raise unless there are images, and lengths are positive."""
    whole("leaf", "images", settings.images, least=6)  # fewer do not bound a median with 95 %
    for length in settings.lengths:
        positive("leaf", "lengths", length)


def difference_defect(log_prob: LogProb, x: Float[Array, "*shape"], length: Any) -> Float[Array, ""]:
    """:func:`involutivity_defect` with central differences of the scores in place of their derivatives.

    The derivative of X_b along X_a is |X_a| (X_b(x + h u) - X_b(x - h u)) / (2 h), u = X_a / |X_a|.

    Args:
        log_prob: One input to ``(C,)`` log-probabilities.
        x: One input of any shape.
        length: h.

    Returns:
        From 0 to 1; 0 where the brackets vanish.

    Example:
        >>> warped = lambda x: jax.nn.log_softmax(jnp.stack([x[0], x[1] + x[0] * x[2], 0.0]))
        >>> print(difference_defect(warped, jnp.array([0.1, 0.2, 0.3]), 0.01) > 0.1)
        True
    """
    flat, point = lambda y: log_prob(y.reshape(x.shape)), jnp.ravel(x)
    rows = scores(flat, point)[1]
    basis = span(rows, rank_tolerances(None, flat, point)[0])

    def along(row: Float[Array, "n"]) -> Float[Array, "C n"]:
        u, size = unit(row)
        ahead, behind = (scores(flat, point + sign * length * u)[1] for sign in (1, -1))
        return size * (ahead - behind) / (2 * length)

    change = jax.lax.map(along, rows)
    brackets = (change - jnp.swapaxes(change, 0, 1)).reshape(-1, point.size)
    total, vertical = jnp.sum(brackets**2), jnp.sum(jax.vmap(partial(reject, basis))(brackets) ** 2)
    return jnp.where(total > 0, safe_sqrt(vertical / jnp.where(total > 0, total, 1.0)), 0.0)


def random_defect(rank: int, dimension: int) -> float:
    """Defect of brackets whose directions know nothing of the distribution: sqrt(1 - r / n).

    A vector has the share r / n of its squared length in a random subspace, in the mean.

    Example:
        >>> print(f"{random_defect(9, 784):.4f}")
        0.9942
    """
    return (1 - rank / dimension) ** 0.5


@jax.jit
def _over_pixels(log_prob: Partial, images: Array) -> Array:
    return jax.lax.map(partial(involutivity_defect, log_prob), images)


@jax.jit
def _over_parameters(log_prob: Partial, images: Array) -> Array:
    return jax.lax.map(partial(fisher_involutivity_defect, *network_of(log_prob)), images)


@jax.jit
def _by_differences(log_prob: Partial, length: Array, images: Array) -> Array:
    return jax.lax.map(lambda image: difference_defect(log_prob, image, length), images)


def _row(name: str, how: str, values: Float[np.ndarray, "n"], random: float) -> Row:
    """Numbers of the defects at all images."""
    from scipy import stats  # slow to import

    low, high = stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    return {
        "over": name,
        "by": how,
        "images": len(values),
        "defect": float(np.median(values)),
        "from": float(low),
        "to": float(high),
        "least": float(values.min()),
        "most": float(values.max()),
        "random": random,
    }


def run(trial: Trial, settings: Settings, progress: Progress = silent) -> Outcome:
    """Defects at test images: over pixels by derivatives and by differences, and over the parameters."""
    log_prob, unit_length = trial.log_prob, trial.task.std
    images: Images = sample(trial.task.test, settings.images, trial.seed)[0]
    classes = jax.eval_shape(log_prob, images[0]).shape[0]
    pixels = images[0].size
    parameters = sum(leaf.size for leaf in jax.tree.leaves(network_of(log_prob)[1]))
    jobs: list[tuple[str, str, int, Any]] = [("pixels", "derivatives", pixels, _over_pixels)]
    for length in settings.lengths:
        part = partial(_by_differences, length=jnp.float32(length * unit_length))
        jobs.append(("pixels", f"differences over {length:g}", pixels, part))
    jobs.append(("parameters", "derivatives", parameters, _over_parameters))
    rows, data = [], {}
    for k, (name, how, dimension, function) in enumerate(jobs):
        tell = stage(progress, k, len(jobs))
        options = {"block": _BLOCK, "progress": tell, "checkpoint": trial.folder.parent}
        values = in_blocks(lambda part, f=function: f(log_prob, images=part), images, **options)
        rows.append(_row(name, how, values, random_defect(classes - 1, dimension)))
        data[f"{name}, {how}"] = values
    title = f"{trial.title}: defect of involutivity at {len(images)} test images"
    figures, between = {"involutivity": _draw(title, rows, data)}, rows[len(rows) // 2]
    parts = [f"{row['defect']:.3g} ({row['from']:.3g} to {row['to']:.3g})" for row in (between, rows[-1])]
    headline = (
        f"Defect {parts[0]} over the pixels by {between['by']}, {parts[1]} over the parameters; random "
        f"directions {between['random']:.3g}."
    )
    return Outcome(title, rows, data, figures, [_NOTE], headline=headline)


def _draw(title: str, rows: list[Row], data: dict[str, np.ndarray]) -> Any:
    """Histograms on a logarithmic axis, next to random directions."""
    figure = new_figure(3.4 * len(rows), 3.4, title)
    for axes, row, (name, values) in zip(
        panels(figure, len(rows), len(rows)), rows, data.items(), strict=True
    ):
        axes.hist(np.maximum(values, _LEAST), np.geomspace(_LEAST, 1, 33))
        axes.axvline(row["random"], color=PALETTE[1], ls="--", label="random directions")
        axes.set(title=name, xlabel="defect", xscale="log", xlim=(_LEAST, 2))
        axes.legend(fontsize=8)
    figure.axes[0].set_ylabel("test images")
    return figure
