"""Moving across the leaves: what a walk orthogonal to the distribution does to an image, next to FGSM."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax._files import Progress, silent
from manifold_jax._linalg import map_blocks, norm
from manifold_jax.experiments.classifier.task import Trial, sample, stage
from manifold_jax.experiments.classifier.walks import (
    PathOptions,
    Walks,
    animate,
    confidence,
    name_classes,
    walk_all,
)
from manifold_jax.experiments.experiment import Outcome, Row
from manifold_jax.information import vertical_projection, vertical_walk
from manifold_jax.information.log_prob import scores
from manifold_jax.plotting.images import Curves, curve_panels, image_grid

_COLUMNS = (0, 50, 100, 250, 500, 1000, 2500, 5000)
_SHOWN = 5


class Settings(NamedTuple):
    """Numbers of test images, of random directions at each, and of steps, as many as in the paper."""

    images: int = 50
    max_steps: int = 1000
    directions: int = 5


REDUCED = Settings(images=8, directions=2)


@jax.jit
def fast_gradient_departure(
    log_prob: Any, images: Float[Array, "k *shape"], labels: Array
) -> tuple[Float[Array, "k"], Float[Array, "k"]]:
    """Vertical share |V(w)| / |w| of two attacks on the loss, at images with their labels.

    The first is w = sign(grad loss) (FGSM; Goodfellow et al., arXiv 1412.6572); the second is w = grad loss,
    which lies in the distribution.
    """

    def one(image: Array, label: Array) -> tuple[Array, Array]:
        gradient = -scores(log_prob, image)[1][label].reshape(image.shape)

        def share(w: Array) -> Array:
            vertical = vertical_projection(log_prob, image, w)
            return norm(vertical.ravel()) / jnp.maximum(norm(w.ravel()), 1e-30)

        return share(jnp.sign(gradient)), share(gradient)

    return map_blocks(jax.vmap(one), 16, images, labels)


def options_of(max_steps: int, clip: bool, std: float) -> PathOptions:
    """The paper's steps; every 50th point is saved, or only the ends of a shorter walk."""
    save_every = max_steps // max(1, max_steps // 50)
    return PathOptions(max_steps=max_steps, clip=clip, save_every=save_every, unit=std)


def shown_slots(options: PathOptions) -> list[int]:
    """Which of the saved points are shown."""
    return list(dict.fromkeys(k // options.save_every for k in _COLUMNS if k <= options.max_steps))


def _row(walks: Walks, slot: int, directions: int) -> Row:
    """Numbers at one saved point; lengths in normalised units."""
    first, now = walks.path.log_probs[:, 0], walks.path.log_probs[:, slot]
    level = float(np.median(walks.distances[:, slot]))
    kept = (first.argmax(-1) == now.argmax(-1)).reshape(directions, -1).mean(1)
    return {
        "clamp": walks.options.clip,
        "step": int(walks.steps[slot]),
        "noise level": level,
        "per pixel": level / walks.path.points[0, 0].size ** 0.5,
        "same label": float(kept.mean()),
        "from": float(kept.min()),
        "to": float(kept.max()),
        "confidence": float(np.median(confidence(now))),
        "least": float(confidence(now).min()),
        "change of p": float(np.median(np.abs(np.exp(now) - np.exp(first)).max(-1))),
    }


def _draw_strips(title: str, walks: Walks, rows: list[str], names: Any) -> Any:
    """Images along the first few walks."""
    slots, path = shown_slots(walks.options), walks.path
    return image_grid(
        f"{title}\n{walks.caption}",
        [list(points[slots]) for points in path.points[: len(rows)]],
        rows=rows,
        columns=[f"step {step}" for step in walks.steps[slots]],
        captions=[name_classes(log_probs[slots], names) for log_probs in path.log_probs[: len(rows)]],
    )


def run(trial: Trial, settings: Settings, progress: Progress = silent) -> Outcome:
    """Walk across the leaves from test images, clamped and not; compare with the sign-gradient attack."""
    log_prob, names = trial.log_prob, trial.task.test.names
    images, labels = sample(trial.task.test, settings.images, trial.seed)
    starts = jnp.tile(
        images, (settings.directions, *(1,) * (images.ndim - 1))
    )  # one direction after the other
    directions = jax.random.normal(jax.random.key(trial.seed), starts.shape, images.dtype)
    rows, curves, figures, data, moving = [], [], {}, {}, {}
    title = f"{trial.title}: walks across the leaves"
    for k, (clip, stem) in enumerate(((True, "across_clamped"), (False, "across_free"))):
        options = options_of(settings.max_steps, clip, trial.task.std)
        ends = (starts, directions)
        how = options, stage(progress, k, 2)
        walks = Walks(walk_all(vertical_walk, log_prob, ends, *how, **trial.how), options)
        rows += [_row(walks, slot, settings.directions) for slot in shown_slots(options)]
        curves.append(Curves(walks.caption, walks.steps, confidence(walks.path.log_probs), {}))
        data[walks.caption] = walks.record()
        classes = [names[label] for label in labels[:_SHOWN]]
        figures[stem] = _draw_strips(title, walks, classes, names)
        about = f"{title}\n{walks.caption}; d: distance from the image"
        moving[f"{stem}_moving"] = animate(about, [walks], names, classes)
    figures["across_curves"] = curve_panels(title, curves, "step", "confidence", ylim=(0, 1.02))
    signs, gradients = (np.asarray(part) for part in fast_gradient_departure(log_prob, images, labels))
    data["vertical share"] = {"sign gradient": signs, "gradient": gradients}
    notes = [
        "Noise level: distance to the image in normalised grey levels; 'per pixel': its root mean square.",
        f"'from' and 'to': least and most for any of the {settings.directions} directions at every image.",
        f"Vertical share of the sign-gradient (FGSM): median {np.median(signs):.3f}, range "
        f"{signs.min():.3f} to {signs.max():.3f}; of the gradient itself: at most {gradients.max():.1g}.",
    ]
    clamped, free = (next(row for row in reversed(rows) if row["clamp"] is clip) for clip in (True, False))
    headline = (
        f"After {free['step']} steps across the leaves {free['same label']:.0%} keep their label without the "
        f"clamp (confidence {free['confidence']:.3f}), {clamped['same label']:.0%} with it."
    )
    return Outcome(title, rows, data, figures, notes, moving=moving, headline=headline)
