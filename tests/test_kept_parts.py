"""Parts of long work that was interrupted: what goes on from them, and what does not look at them."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interrupt import Interrupted, interrupt_after
from jax.tree_util import Partial

from manifold_jax import (
    Axis,
    Grid,
    datasets,
    measure_layers,
    measure_union,
    reach,
    reach_from_samples,
)
from manifold_jax._partial import PartialResult, keeping_parts
from manifold_jax.experiments.classifier.walks import PathOptions, walk_all
from manifold_jax.information import horizontal_path, vertical_walk

GRID = Grid((Axis("u", 0.0, 1.0, 24), Axis("v", 0.0, 1.0, 24)))
U = np.stack(np.meshgrid(*[np.linspace(0, 1, 24)] * 2, indexing="ij"), -1)
POINTS = np.stack([np.sin(k * U[..., 0] + np.cos(k + U[..., 1])) for k in np.linspace(1, 3, 5)], -1)
POINTS = POINTS.astype(np.float32)
ANGLE = np.random.default_rng(0).uniform(0, 2 * np.pi, 400)
RING = np.stack([2 * np.cos(ANGLE), np.sin(ANGLE)], axis=1).astype(np.float32)
RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.normal(size=(3, 6)).astype(np.float32)
ENDS = RANDOM.normal(size=(2, 30, 6)).astype(np.float32)
WALK = PathOptions(max_steps=8, clip=False, save_every=4, block=4)


def classify(params, x):
    return jax.nn.log_softmax(params @ jnp.tanh(x))


def walk(weights=WEIGHTS, ends=ENDS, options=WALK, kind=horizontal_path, **how):
    return walk_all(kind, Partial(classify, jnp.asarray(weights)), ends, options, **how)


def through(factor=1.0, points=24, **how):
    chart = datasets.torus(size=(points, 24))
    layers = [lambda x: factor * jnp.sin(x), lambda x: x[:2] * x[1:]]
    return measure_layers(chart, layers, **{"accuracy": 4, "batch_size": 64} | how)


def tiles(points=POINTS, **how):
    return reach(points, GRID, **{"tile_size": 16, "block_size": 64} | how)


def tiles_of_samples(points=RING, **how):
    return reach_from_samples(points, **{"dimension": 1, "tile_size": 25} | how)


def classes(shift=2.0, **how):
    return measure_union([POINTS, POINTS + np.float32(shift)], GRID, block_size=64, **how)


JOBS = {  # a job, and how much of it is done when it is interrupted
    "tiles": (tiles, 200),
    "samples": (tiles_of_samples, 150),
    "classes": (classes, 300),
    "layers": (through, 200),
    "jets": (partial(through, accuracy=None, batch_size=32), 200),
    "walks": (walk, 12),
}
OTHER = {  # arguments of other work
    "tiles": [
        {"points": POINTS * np.float32(1.01)},
        {"accuracy": 2},
        {"longest": 0.3},
        {"tile_size": 8},
    ],
    "samples": [{"points": RING[::-1]}, {"separation": 0.1}],
    "layers": [{"factor": 1.01}, {"accuracy": 2}, {"points": 20}],
    "walks": [
        {"weights": 1.01 * WEIGHTS},
        {"ends": ENDS[::-1]},
        {"options": WALK._replace(step_size=0.11)},
        {"options": WALK._replace(max_steps=9)},
        {"kind": vertical_walk},
    ],
}


def same(one, other):
    """All numbers of two results are the same."""
    one, other = (jax.tree.leaves(part) for part in (one, other))
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        if not isinstance(a, str):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def interrupt(kind, folder):
    job, count = JOBS[kind]
    with pytest.raises(Interrupted):
        job(checkpoint=folder, progress=interrupt_after(count))
    return len(list(folder.glob("partial-*")))


SLOW = ("jets", "classes", "layers")


def marked(kind, *others, slow):
    return pytest.param(kind, *others, marks=[pytest.mark.slow] * slow)


@pytest.mark.parametrize("kind", [marked(kind, slow=kind in SLOW) for kind in JOBS])
def test_what_was_interrupted_goes_on_to_the_same_end(kind, tmp_path):
    job, told = JOBS[kind][0], []
    folders = interrupt(kind, tmp_path)
    assert folders == 1 + (kind == "tiles"), "with the measurement within the search"
    result = job(checkpoint=tmp_path, progress=lambda done, _: told.append(done))
    assert told[0] >= JOBS[kind][1] * (kind != "classes"), "what was kept is not done again"
    assert list(tmp_path.iterdir()) == []
    same(result, job())


@pytest.mark.parametrize("kind", ["samples", "walks", marked("tiles", slow=True)])
def test_it_goes_on_with_an_executor(kind, tmp_path):
    job, told = JOBS[kind][0], []
    interrupt(kind, tmp_path)
    with ThreadPoolExecutor(2) as executor:
        how = {"progress": lambda done, _: told.append(done), "executor": executor}
        result = job(checkpoint=tmp_path, **how)
    assert told[0] >= JOBS[kind][1]
    assert list(tmp_path.iterdir()) == []
    same(result, job())


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        marked(kind, other, slow=kind == "layers" or (kind == "tiles" and k > 0))
        for kind in OTHER
        for k, other in enumerate(OTHER[kind])
    ],
)
def test_parts_of_other_work_are_not_used(kind, other, tmp_path):
    job, told = JOBS[kind][0], []
    interrupt(kind, tmp_path)
    kept = set(tmp_path.iterdir())
    result = job(**other, checkpoint=tmp_path, progress=lambda done, _: told.append(done))
    same(result, job(**other))
    assert told[0] < JOBS[kind][1] / 2
    left = set(tmp_path.iterdir())
    # Another search of the same points goes on from their curvature.
    assert left == kept or (kind == "tiles" and left < kept)
    assert left


def test_complete_parts_are_kept_until_all_is_written(tmp_path):
    told = []

    def interrupted():
        with keeping_parts():
            walk(checkpoint=tmp_path)
            raise Interrupted

    with pytest.raises(Interrupted):
        interrupted()
    with keeping_parts():
        same(walk(checkpoint=tmp_path, progress=lambda done, _: told.append(done)), walk())
        with keeping_parts():  # ends with the outer one
            PartialResult(tmp_path, "inner").save(0, [np.ones(3)])
            PartialResult(tmp_path, "inner").remove()
        assert len(list(tmp_path.iterdir())) == 2
    assert told == [30]
    assert list(tmp_path.iterdir()) == []
