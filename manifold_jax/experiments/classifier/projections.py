"""Algorithm 1 with up to four ways to project a step, between the same images."""

from __future__ import annotations

from functools import partial, reduce
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from manifold_jax import models
from manifold_jax._checks import choice, positive
from manifold_jax._files import Progress, silent
from manifold_jax._keys import digest_arrays
from manifold_jax.experiments.classifier.algorithm import algorithm_paths, closest_by_chance, random_speed
from manifold_jax.experiments.classifier.paths import add_noise
from manifold_jax.experiments.classifier.task import Images, Trial, different_pairs, layer, read_images, stage
from manifold_jax.experiments.classifier.walks import confidence, name_classes
from manifold_jax.experiments.experiment import Outcome, Row, plain
from manifold_jax.experiments.results import Cells, cell_name
from manifold_jax.plotting.animation import Moving
from manifold_jax.plotting.images import Curves, curve_panels, image_grid


class Settings(NamedTuple):
    """Which pairs of test images, by default as many as in the paper, and how many steps.

    The step length is in normalised grey levels: 0.1 in the paper for MNIST, 1 for CIFAR-10.
    """

    pairs: int = 100
    max_steps: int = 5000
    step_size: float = 0.1
    between: tuple[tuple[int, int], ...] = ()  # numbers of test images, instead of pairs drawn at random
    ways: int = 5  # the first is that of the paper's code, the second what it says
    source: str = "valid"  # or noisy
    destination: str = "valid"  # or own (of noise), noisy, mirrored, letter

    @property
    def save_every(self) -> int:
        """Steps from one record to the next."""
        return max(1, self.max_steps // _SAVED)


REDUCED = Settings(pairs=4, max_steps=200)

_WAYS = tuple((way, "float32") for way in ("full rank", "rank", "rank and random", "none"))
_WAYS += (("full rank", "float64"),)
_REACHED = 1.0  # distance that counts as reached: in the paper's units
_SAVED, _BLOCK, _SHOWN, _COLUMNS = 50, 25, 4, 7
_NOTE = (
    "Distances in normalised grey levels; 'from' and 'to' hold the median ratio with 95 %. 'vertical': share "
    "|V(u)|^2 of the direction of a step outside of D_x; 'of it logits': share of that along the one "
    "direction that the gradients of the logits have besides D_x; 's_C / s_C-1': of the singular values of "
    "the C gradients; these and the speed (progress of a step) are medians over the second half of the way. "
    "'noise': standard deviation of white noise at the end, over that of the source."
)


class _Way(NamedTuple):
    """Paths of one way, as they are kept: an axis of pairs first."""

    way: str
    dtype: str
    clip: bool
    steps: np.ndarray
    values: dict[str, np.ndarray]

    @property
    def caption(self) -> str:
        """For titles."""
        precision = ", float64" if self.dtype == "float64" else ""
        return f"{self.way}{precision}, {'clamped' if self.clip else 'not clamped'}"

    @property
    def ratios(self) -> Float[np.ndarray, "n saved"]:
        """Distances as shares of those at the start."""
        distances = self.values["distances"]
        return distances / distances[:, :1]


def check(settings: Settings) -> None:
    """Refuse pairs that there are not."""
    positive("leaf", "--step-size", settings.step_size)
    choice("leaf", "--source", settings.source, ("valid", "noisy"))
    choice("leaf", "--destination", settings.destination, ("valid", "own", "noisy", "mirrored", "letter"))
    if settings.destination == "own" and settings.source != "noisy":
        raise ValueError("--destination own is the image before the noise: give --source noisy with it.")
    if settings.between and settings.destination == "letter":
        raise ValueError("--between names test images: leave it out on the way to letters.")


class Pairs(NamedTuple):
    """What the paths are between."""

    rows: np.ndarray  # numbers of the images, sources and destinations
    sources: Images
    destinations: Images
    labels: np.ndarray | None  # of the destinations, where they have any

    def block(self, rows: slice) -> tuple[Any, Any, Any]:
        """Some of the numbers, sources and destinations."""
        return self.rows[rows], self.sources[rows], self.destinations[rows]


def _walk(
    trial: Trial, block: tuple[Any, Any, Any], way: str, dtype: str, clip: bool, settings: Settings
) -> dict[str, Any]:
    """Numbers of the paths of some pairs, and some of their points."""
    rows = block[0]
    with jax.enable_x64(dtype == "float64"):
        cast = partial(jax.tree.map, lambda leaf: jnp.asarray(leaf, dtype))
        log_prob = cast(trial.log_prob)
        unit, limits = trial.task.std, (0.0, 1.0) if clip else (-np.inf, np.inf)
        numbers = cast({"step_size": settings.step_size * unit, "tolerance": _REACHED * unit, "clip": limits})
        options = {"way": way, "steps": settings.max_steps, "save_every": settings.save_every}
        ends = tuple(jnp.asarray(images, dtype) for images in block[1:])
        # Every pair has random directions of its own, whatever block it is in.
        key = jax.random.key(trial.seed)
        keys = jax.vmap(lambda pair: reduce(jax.random.fold_in, pair, key))(jnp.asarray(rows))
        logits = layer(log_prob, "logits")
        walked = algorithm_paths(log_prob, logits, ends, keys, **numbers, **options)
        values = {name: np.asarray(value) for name, value in walked._asdict().items()}
    chosen = np.linspace(0, values["distances"].shape[1] - 1, _COLUMNS).astype(int)
    values["points"] = np.round(255 * np.clip(values["points"][:_SHOWN, chosen], 0, 1)).astype(int)
    values["distances"] = values["distances"] / trial.task.std
    return plain(values)


def draw_pairs(trial: Trial, settings: Settings, letters: Path | None) -> Pairs:
    """Test images of different classes, or what is made of them, or letters."""
    test = trial.task.test
    if settings.between:
        rows = np.array(settings.between)
    else:
        rows = np.stack(different_pairs(test.labels, settings.pairs, trial.seed), axis=1)
    if settings.destination == "own":
        rows = np.stack([rows[:, 0], rows[:, 0]], axis=1)
    labels, images = test.labels[rows[:, 1]], test.images[rows[:, 1]]
    if settings.destination == "letter":
        if letters is None:
            raise ValueError("--destination letter needs the file of --letters.")
        drawn = read_images(letters, test.images.shape[1:])
        order = np.random.default_rng(trial.seed).permutation(len(drawn))[: len(rows)]
        rows, labels, images = np.stack([rows[: len(order), 0], order], axis=1), None, drawn[order]
    elif settings.destination == "mirrored":
        images = images[:, :, ::-1]
    ends = [models.pixels(test.images[rows[:, 0]]), models.pixels(images)]
    keys = jax.random.split(jax.random.key(trial.seed))
    for k, kind in enumerate((settings.source, settings.destination)):
        if kind == "noisy":
            ends[k] = add_noise(trial, ends[k], keys[k]).path.point
    return Pairs(rows, ends[0], ends[1], labels)


def _summary(walked: _Way, labels: np.ndarray | None) -> Row:
    """A row of the table."""
    from scipy import stats  # slow to import

    values, ends = walked.values, walked.ratios[:, -1]
    half = slice(walked.ratios.shape[1] // 2, None)
    predicted = values["log_probs"].argmax(-1)
    low, high = stats.quantile_test(ends, p=0.5).confidence_interval(0.95)  # free of any distribution

    def later(name: str) -> float:
        return float(np.nanmedian(np.nanmedian(values[name][:, half], axis=1)))

    made = np.maximum(values["steps"] - walked.steps[half][0], 1)
    speed = (values["distances"][:, half][:, 0] - values["distances"][:, -1]) / made
    return {
        "way": walked.way,
        "dtype": walked.dtype,
        "clamp": walked.clip,
        "pairs": len(ends),
        "reached": float(np.mean(values["distances"][:, -1] <= _REACHED)),
        "ratio": float(np.median(ends)),
        "from": float(low),
        "to": float(high),
        "best": float(ends.min()),
        "speed": float(np.median(speed)),
        "vertical": later("vertical"),
        "of it logits": later("logits"),
        "s_C / s_C-1": later("singular"),
        "other label": float(np.mean(predicted[:, -1] != predicted[:, 0])),
        "label of the destination": np.nan if labels is None else float(np.mean(predicted[:, -1] == labels)),
        "noise": float(np.median(values["noise"][:, -1] / values["noise"][:, 0])),
        "steps": float(np.median(values["steps"])),
    }


def run(
    trial: Trial, settings: Settings, progress: Progress = silent, *, letters: Path | None = None
) -> Outcome:
    """Walk between the same pairs in all ways, with the clamp and without; go on from finished blocks."""
    pairs = draw_pairs(trial, settings, letters)
    cells = Cells(trial.folder.parent / "algorithm.cells.jsonl")
    network = digest_arrays(*jax.tree.leaves(trial.log_prob))
    jobs = [(way, dtype, clip) for clip in (True, False) for way, dtype in _WAYS[: settings.ways]]
    blocks = [pairs.block(slice(k, k + _BLOCK)) for k in range(0, len(pairs.rows), _BLOCK)]
    sets = []
    for k, (way, dtype, clip) in enumerate(jobs):
        parts = []
        for j, block in enumerate(blocks):
            about = {"network": network, "pairs": block[0].tolist(), "steps": settings.max_steps}
            about["step_size"] = settings.step_size
            about["ends"] = digest_arrays(*block[1:])
            name = cell_name(way=way, dtype=dtype, clip=clip, data=trial.task.name, seed=trial.seed, **about)
            if name not in cells:
                cells.put(name, _walk(trial, block, way, dtype, clip, settings))
            parts.append(cells[name])
            stage(progress, k * len(blocks) + j, len(jobs) * len(blocks))(1, 1)
        values = {key: np.concatenate([np.array(part[key], float) for part in parts]) for key in parts[0]}
        steps = settings.save_every * np.arange(values["distances"].shape[1])
        sets.append(_Way(way, dtype, clip, np.minimum(steps, settings.max_steps), values))
    kinds = f"{len(pairs.rows)} pairs, {settings.source} to {settings.destination}"
    title = f"{trial.title}: {_count_ways(sets)} to project a step, {kinds}"
    return _outcome(title, trial, pairs, sets, settings)


def _count_ways(sets: list[_Way]) -> str:
    """How many ways there are in words; other precisions and the clamp make no other way."""
    count = len({walked.way for walked in sets})
    return ("one way", "two ways", "three ways", "four ways")[count - 1]


def _outcome(title: str, trial: Trial, pairs: Pairs, sets: list[_Way], settings: Settings) -> Outcome:
    table = [_summary(walked, pairs.labels) for walked in sets]
    y_label = "distance to the destination\n/ at the start"
    groups = [Curves(walked.caption, walked.steps, walked.ratios, {}) for walked in sets]
    columns = sum(walked.clip for walked in sets)  # a row with the clamp, a row without
    curves = curve_panels(title, groups, "step", y_label, ylim=(0, 1.05), columns=columns)
    figures = {"algorithm_curves": curves}
    figures["algorithm_images"] = _draw_strips(title, trial, pairs, sets)
    size, features = settings.step_size, pairs.sources[0].size
    speed, end = random_speed(size, features), closest_by_chance(size, features)
    note = f"A random direction alone would make {speed:.4f} a step, and come no nearer than {end:.3g}."
    data = {walked.caption: {"step": walked.steps} | _record(walked) for walked in sets}
    moving = {"algorithm_moving": _move(title, trial, pairs, sets)}
    clamped = [row for row in table if row["clamp"]] or table
    firsts = {row["way"]: row for row in reversed(clamped)}
    left = [f"{row['ratio']:.0%} ({row['from']:.0%} to {row['to']:.0%}) {way}" for way, row in firsts.items()]
    headline = (
        f"Of the distance is left{' with the clamp' * clamped[0]['clamp']}: {', '.join(reversed(left))}."
    )
    numbers, notes = {"pairs": pairs.rows} | data, [_NOTE, note]
    return Outcome(title, table, numbers, figures, notes, moving=moving, headline=headline)


def _move(title: str, trial: Trial, pairs: Pairs, sets: list[_Way]) -> Moving:
    """The first pair in all ways with the clamp."""
    shown = [walked for walked in sets if walked.clip] or sets
    captions = []
    for walked in shown:
        classes = name_classes(walked.values["log_probs"][0], trial.task.test.names)
        ratios = zip(classes, walked.ratios[0], strict=True)
        captions.append([f"{name}\n{ratio:.2f}" for name, ratio in ratios])
    source, destination = pairs.rows[0]
    about = f"test images {source} to {destination}; below: class, distance over that at the start"
    images = np.stack([walked.values["points"][0] / 255 for walked in shown])
    names = [walked.caption.rpartition(", ")[0] for walked in shown]
    return Moving(f"{title}\n{about}", images, names, captions, 1.0)


def _record(walked: _Way) -> dict[str, Any]:
    """Numbers of the paths for JSON, without their points."""
    values = {name: value for name, value in walked.values.items() if name not in ("points", "log_probs")}
    label, sure = walked.values["log_probs"].argmax(-1), confidence(walked.values["log_probs"])
    return values | {"label": label, "confidence": sure}


def _draw_strips(title: str, trial: Trial, pairs: Pairs, sets: list[_Way]) -> Any:
    """Images along the first path of every way with the clamp, and along others of the first way."""
    shown = [(walked, 0) for walked in sets if walked.clip]
    shown += [(sets[0], pair) for pair in range(1, min(_SHOWN, len(pairs.rows)))]
    slots = np.linspace(0, len(sets[0].steps) - 1, _COLUMNS).astype(int)
    images, captions, names = [], [], []
    for walked, pair in shown:
        source, destination = pairs.rows[pair]
        classes = name_classes(walked.values["log_probs"][pair, slots], trial.task.test.names)
        marks = zip(classes, walked.ratios[pair, slots], strict=True)
        images.append([*(walked.values["points"][pair] / 255), pairs.destinations[pair]])
        captions.append([*(f"{name}\n{ratio:.2f}" for name, ratio in marks), ""])
        names.append(f"{source} to {destination}\n{walked.caption.rpartition(', ')[0]}")
    columns = [*(f"step {step}" for step in sets[0].steps[slots]), "destination"]
    about = "with the clamp; below: class, distance over that at the start"
    return image_grid(f"{title}\n{about}", images, rows=names, columns=columns, captions=captions)
