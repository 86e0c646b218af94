"""Moving across the leaves: what a walk orthogonal to the distribution does to an image; FGSM beside it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax._linalg import map_blocks
from manifold_jax.experiments.classifier.task import Task, Trial, sample
from manifold_jax.experiments.classifier.walks import PAPER, How, add_noise, confidence, steps_axis
from manifold_jax.experiments.experiment import Outcome, Row
from manifold_jax.information import Path, vertical_projection
from manifold_jax.information.log_prob import scores
from manifold_jax.plotting.images import Curves, curve_panels, image_grid

_COLUMNS = (0, 50, 100, 250, 500, 1000, 2500, 5000)
_SHOWN = 5


class Settings(NamedTuple):
    """Size of the experiment.

    Attributes:
        images: Test images, one direction each.
        max_steps: Steps, 5000 in the paper.
    """

    images: int = 25
    max_steps: int = 5000


REDUCED = Settings(images=8, max_steps=1000)


@jax.jit
def fast_gradient_departure(
    log_prob: Any, images: Float[Array, "k *shape"], labels: Array
) -> tuple[Float[Array, "k"], Float[Array, "k"]]:
    """Vertical share of two attacks on the loss: its sign-gradient, and its gradient.

    Args:
        log_prob: The classifier.
        images: ``(k, *shape)``.
        labels: Of the images ``(k,)``.

    Returns:
        |V(w)| / |w| for w = sign(grad loss) (FGSM; Goodfellow et al., arXiv 1412.6572), and for
        w = grad loss, which lies in the distribution.
    """

    def one(image: Array, label: Array) -> tuple[Array, Array]:
        gradient = -scores(log_prob, image)[1][label].reshape(image.shape)

        def share(w: Array) -> Array:
            vertical = vertical_projection(log_prob, image, w)
            return jnp.linalg.norm(vertical.ravel()) / jnp.maximum(jnp.linalg.norm(w.ravel()), 1e-30)

        return share(jnp.sign(gradient)), share(gradient)

    return map_blocks(jax.vmap(one), 16, images, labels)


def _row(walk: Path, how: How, slot: int, std: float, pixels: int) -> Row:
    """What is known after one number of steps; lengths in normalised units."""
    log_probs = np.asarray(walk.log_probs)
    first, now = log_probs[:, 0], log_probs[:, slot]
    level = np.asarray(walk.distances)[:, slot] / std
    return {
        "clamp": how.clip,
        "step": min(slot * how.every, how.max_steps),
        "noise level": float(np.median(level)),
        "per pixel": float(np.median(level)) / pixels**0.5,
        "same label": float(np.mean(first.argmax(-1) == now.argmax(-1))),
        "confidence": float(np.median(confidence(now))),
        "least": float(confidence(now).min()),
        "change of p": float(np.median(np.abs(np.exp(now) - np.exp(first)).max(-1))),
    }


def _slots(how: How) -> list[int]:
    """Which of the saved points are shown."""
    return list(dict.fromkeys(step // how.every for step in _COLUMNS if step <= how.max_steps))


def _strips(title: str, walk: Path, how: How, task: Task, labels: np.ndarray) -> Any:
    """Images along the first few walks."""
    slots = _slots(how)
    images, captions = [], []
    for k in range(min(_SHOWN, len(labels))):
        log_probs = np.asarray(walk.log_probs)[k, slots]
        images.append(list(np.asarray(walk.points)[k, slots]))
        captions.append([f"{task.test.names[p.argmax()]}  {100 * confidence(p):.1f} %" for p in log_probs])
    return image_grid(
        f"{title}\n{how.words()}",
        images,
        rows=[task.test.names[label] for label in labels[: len(images)]],
        columns=[f"step {slot * how.every}" for slot in slots],
        captions=captions,
    )


def run(trial: Trial, settings: Settings) -> Outcome:
    """Walk across the leaves from test images, clamped and not; compare with the sign-gradient attack.

    Args:
        trial: The network.
        settings: Size.

    Returns:
        The outcome.
    """
    log_prob = trial.log_prob
    images, labels = sample(trial.task.test, settings.images, trial.seed)
    size = images[0].size
    rows, curves, figures, data = [], [], {}, {}
    title = f"{trial.words}: walks across the leaves"
    for k, clip in enumerate((True, False)):
        how = PAPER._replace(max_steps=settings.max_steps, clip=clip, saved=max(1, settings.max_steps // 50))
        key = jax.random.key(trial.seed)
        walk = add_noise(log_prob, images, key, how, trial.task.std, trial.stage(k, 2))
        slots = _slots(how)
        rows += [_row(walk, how, slot, trial.task.std, size) for slot in slots]
        x = steps_axis(how, walk.points.shape[1])
        curves.append(Curves(how.words(), x, confidence(walk.log_probs), {}))
        data[how.words()] = {
            "step": x,
            "noise level": walk.distances / trial.task.std,
            "confidence": confidence(walk.log_probs),
            "label": np.asarray(walk.log_probs).argmax(-1),
            "clipped": walk.clipped / trial.task.std,
        }
        stem = f"across_{'clamped' if clip else 'free'}"
        figures[stem] = _strips(title, walk, how, trial.task, labels)
    figures["across_curves"] = curve_panels(title, curves, "step", "confidence", ylim=(0, 1.02))
    signs, gradients = (np.asarray(w) for w in fast_gradient_departure(log_prob, images, labels))
    data["vertical share"] = {"sign gradient": signs, "gradient": gradients}
    notes = [
        "Noise level: distance to the image in normalised pixels; 'per pixel' its root mean square.",
        f"Vertical share of the sign-gradient (FGSM): median {np.median(signs):.3f}, range "
        f"{signs.min():.3f} to {signs.max():.3f}; of the gradient itself: at most {gradients.max():.1g}.",
    ]
    return Outcome(title, rows, data, figures, notes)
