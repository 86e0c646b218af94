"""Long work in a process that kills itself: ``python survivor.py KIND FOLDER [SECONDS]``.

The clock runs from the start of the work. Without SECONDS it comes to its end, and prints how long it
took, a digest of its result, and how much was done when it told so first.
"""

import hashlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from manifold_jax import Axis, Grid, Manifold, measure, measure_layers, reach
from manifold_jax.experiments.calibration.reaches import Reaches, run_reaches
from manifold_jax.experiments.classifier.walks import PathOptions, walk_all
from manifold_jax.experiments.fits.runner import Plan, run_cells
from manifold_jax.experiments.fits.studies import closed_and_open
from manifold_jax.experiments.results import Cells
from manifold_jax.information import horizontal_path
from manifold_jax.models import train

GRID = Grid((Axis("u", 0.0, 1.0, 40), Axis("v", 0.0, 1.0, 40)))


def wave(u):
    k = jnp.linspace(1.0, 3.0, 60)
    return jnp.sin(k * u[0] + jnp.cos(k + u[1]))


TOLD = []


def slowly(done, _total):
    TOLD.append(done)
    time.sleep(0.02)


def measure_function(folder):
    return measure(wave, GRID, block_size=25, checkpoint=folder, progress=slowly)


def measure_exactly(folder):
    return measure(wave, GRID, exact=True, checkpoint=folder, progress=slowly)


def measure_file(folder):
    place = folder / "points.npy"
    if not place.exists():
        np.save(folder / "new.npy", jax.vmap(jax.vmap(wave))(GRID.coordinates()))
        (folder / "new.npy").replace(place)
    points = np.load(place, mmap_mode="r")
    return measure(points, GRID, block_size=25, checkpoint=folder, progress=slowly)


def measure_elsewhere(folder):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        options = {"checkpoint": folder, "progress": slowly, "executor": executor}
        return measure(wave, GRID, block_size=25, **options)


def tiles(folder, **how):
    options = {"geometry": measure(wave, GRID), "tile_size": 16, "checkpoint": folder, "progress": slowly}
    result = reach(wave, GRID, **options, **how)
    return result.value, result.error, result.pair, result.pointwise, result.pointwise_error


def tiles_elsewhere(folder):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return tiles(folder, executor=executor)


def layers(folder):
    functions = [lambda x: jnp.tanh(x[:40] + x[20:]), lambda x: x[:20] * x[20:]]
    options = {"accuracy": 4, "batch_size": 25, "checkpoint": folder, "progress": slowly}
    return measure_layers(Manifold("wave", wave, GRID), functions, **options)


def classify(params, x):
    return jax.nn.log_softmax(params @ jnp.tanh(x))


def walks(folder):
    random = np.random.default_rng(0)
    log_prob = Partial(classify, jnp.asarray(random.normal(size=(3, 6)), jnp.float32))
    ends = random.normal(size=(2, 200, 6)).astype(np.float32)
    options = PathOptions(max_steps=8, clip=False, save_every=4, block=3)
    return walk_all(horizontal_path, log_prob, ends, options, slowly, folder)


def bounds(folder):
    plan = Plan(("pca",), (30, 60), 6, 20)
    cells = Cells(folder / "cells.jsonl")
    return [s.values for s in run_cells(closed_and_open(plan)[:2], plan, cells, seed=0, progress=slowly)]


def calibrate(folder):
    settings = Reaches(("circle",), (60, 80), (0.0, 0.01), 3)
    outcome = run_reaches((Cells(folder / "cells.jsonl"), 0), settings, slowly)
    return [np.array(row["values"]) for row in outcome.data["rows"]]


def training(folder):
    x = jnp.linspace(-1.0, 1.0, 64)[:, None]

    def loss(params, batch, key, _step):
        noise = 0.01 * jax.random.normal(key, batch.shape)
        return jnp.mean((params["w"] * (batch + noise) - 2 * batch) ** 2), {}

    params = {"w": jnp.zeros(1)}
    options = {"steps": 400, "batch_size": 8, "chunk": 10, "save_every": 10, "optimizer": optax.adam(1e-2)}
    return train(loss, params, x, key=jax.random.key(0), folder=folder, progress=slowly, **options)


KINDS = {
    job.__name__: job
    for job in (
        measure_function,
        measure_exactly,
        measure_file,
        measure_elsewhere,
        tiles,
        tiles_elsewhere,
        layers,
        walks,
        bounds,
        calibrate,
        training,
    )
}


def main(kind, folder, seconds=None):
    if seconds is not None:
        threading.Timer(float(seconds), partial(os.kill, os.getpid(), signal.SIGKILL)).start()
    began = time.monotonic()
    leaves = jax.tree.leaves(KINDS[kind](Path(folder)))
    digest = hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest()
    print(time.monotonic() - began, digest, TOLD[0])
    os._exit(0)  # a timer may be running


if __name__ == "__main__":
    main(*sys.argv[1:])
