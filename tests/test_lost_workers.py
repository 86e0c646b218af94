"""A worker that is lost costs what it was doing, in every job that an executor takes."""

import math
import multiprocessing
import os
import signal
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from manifold_jax import (
    Axis,
    Grid,
    _executors,
    datasets,
    horizontal_path,
    measure,
    reach,
    reach_from_samples,
)
from manifold_jax._executors import run_tasks
from manifold_jax.experiments.calibration.reaches import Reaches, run_reaches
from manifold_jax.experiments.classifier.walks import PathOptions, walk_all
from manifold_jax.experiments.fits.runner import Plan, run_cells
from manifold_jax.experiments.fits.studies import closed_and_open
from manifold_jax.experiments.results import Cells
from manifold_jax.fitting import builtin_estimators, calibrate

GRID = Grid((Axis("u", 0.0, 2 * math.pi, 16, periodic=True), Axis("v", 0.0, 2 * math.pi, 12, periodic=True)))


def torus(u):
    big = 2 + 0.5 * jnp.cos(u[1])
    return jnp.stack([big * jnp.cos(u[0]), big * jnp.sin(u[0]), 0.5 * jnp.sin(u[1])])


def torus_points():
    return np.asarray(jax.vmap(jax.vmap(torus))(GRID.coordinates()))


def measure_array(folder, **how):
    return measure(torus_points(), GRID, block_size=12, checkpoint=folder, **how)


def measure_function(folder, **how):
    return measure(torus, GRID, block_size=12, checkpoint=folder, **how)


def measure_exactly(folder, **how):
    return measure(torus, datasets.torus(size=(48, 48)).grid, exact=True, checkpoint=folder, **how)


def tiles_of_reach(_folder, **how):
    geometry = measure(torus_points(), GRID, block_size=40)
    return repr(reach(torus_points(), GRID, geometry=geometry, tile_size=4, **how))


def tiles_of_samples(_folder, **how):
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, 300)
    points = np.stack([2 * np.cos(angle), np.sin(angle)], axis=1)
    return repr(reach_from_samples(points, dimension=1, tile_size=25, **how))


def classify(params, x):
    return jax.nn.log_softmax(params @ jnp.tanh(jnp.ravel(x)))


def walks(_folder, **how):
    random = np.random.default_rng(0)
    log_prob = Partial(classify, jnp.asarray(random.normal(size=(3, 6)), jnp.float32))
    ends = random.normal(size=(2, 36, 2, 3)).astype(np.float32)
    options = PathOptions(max_steps=8, clip=False, save_every=4, block=3)
    return walk_all(horizontal_path, log_prob, ends, options, **how)


def estimators(_folder, progress=None, executor=None):
    rows = []

    def told(row):
        rows.append(row)
        if progress is not None:
            progress(len(rows), 8)

    options = {"key": jax.random.key(3), "seeds": tuple(range(4)), "progress": told, "executor": executor}
    table = calibrate(builtin_estimators("tangent")[:1], datasets.circle(), [64, 96], **options)
    return [row.rmse for row in table.rows]


def two_settings(plan):
    return closed_and_open(plan)[:2]


def cells_of_bounds(folder, executor=None, **how):
    plan = Plan(("pca",), (40, 80), 3, 20)
    cells = Cells(folder / "cells.jsonl", executor)
    return [s.values for s in run_cells(two_settings(plan), plan, cells, seed=0, make=two_settings, **how)]


def cells_of_calibration(folder, executor=None, progress=lambda *_: None):
    settings, cells = Reaches(("circle",), (60, 80), (0.0, 0.01), 3), Cells(folder / "cells.jsonl", executor)
    return [np.array(row["values"]) for row in run_reaches((cells, 0), settings, progress).data["rows"]]


KEEP = measure_array, measure_function, measure_exactly, cells_of_bounds, cells_of_calibration
JOBS = *KEEP, tiles_of_reach, tiles_of_samples, walks, estimators


def same(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if isinstance(a, str):
            assert a == b
        else:
            np.testing.assert_allclose(a, b, rtol=1e-6)


# --- what is said -------------------------------------------------------------------------------------------


class Breaks(Executor):
    """Two workers that do the first tasks, and then break with an error: in what runs, or when asked."""

    _max_workers = 2

    def __init__(self, error, done, running):
        self.error, self.left, self.running = error, done, running

    def submit(self, function, /, *arguments):
        future, self.left = Future(), self.left - 1
        if self.left >= 0:
            future.set_result(function(*arguments))
        elif self.left >= -self.running:
            future.set_exception(self.error)
        else:
            raise self.error
        return future


class KilledWorker(Exception):
    """As that of Dask, which is a plain exception."""


@pytest.mark.parametrize("running", [0, 1, 2])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (BrokenProcessPool("broken"), "The executor lost a worker and takes no more work: call again"),
        (CancelledError(), "The executor lost its scheduler and takes no more work: call again"),
        (
            KilledWorker("task", 3),
            "A task was lost with every worker of the executor that took it: give",
        ),
    ],
)
def test_what_was_done_comes_before_a_loss_is_said(error, message, running):
    found, tasks = [], ((float(k),) for k in range(9))
    with pytest.raises(RuntimeError, match=message) as caught:
        found.extend(run_tasks(math.sqrt, tasks, Breaks(error, 6, running)))
    assert sorted(found) == [(k, math.sqrt(k)) for k in range(6)]
    assert str(caught.value).endswith("; what was done before is kept where there is a checkpoint.")
    assert caught.value.__cause__ is error


def test_dask_without_its_scheduler_is_not_waited_for(monkeypatch):
    class Dask(Executor):
        _max_workers, _client = 2, SimpleNamespace(status="running")

        def submit(self, *_task):
            future = Future()
            if self._client.status == "running":
                future.set_result(7)
                self._client.status = "closed"  # from now on no future is done
            return future

    monkeypatch.setattr(_executors, "LOOK", 0.01)
    found = []
    with pytest.raises(RuntimeError, match="The executor lost its scheduler and takes no more work"):
        found.extend(run_tasks(math.sqrt, ((4.0,) for _ in range(9)), Dask()))
    assert found == [(0, 7)]


def test_errors_of_tasks_are_raised_as_they_are():
    with pytest.raises(ZeroDivisionError):
        list(run_tasks(math.sqrt, [(4.0,)], Breaks(ZeroDivisionError(), 0, 1)))


# --- workers that are killed --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster:
        yield cluster


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("job", JOBS)
def test_dask_loses_a_worker_in_the_middle_of_a_job(job, cluster, tmp_path):
    import distributed

    killed = []

    def kill(done, total):
        if 0 < done < total and not killed:
            busy = [address for address, tasks in client.processing().items() if tasks]
            workers = {worker.worker_address: worker for worker in cluster.workers.values()}
            one = next(iter(busy or workers))  # all may be done just now, and hold results
            killed.append(workers[one].process.process.pid)
            os.kill(killed[0], signal.SIGKILL)

    with distributed.Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)  # the one that was killed before is there again
        found = job(tmp_path / "killed", executor=client.get_executor(), progress=kill)
    assert killed
    same(found, job(tmp_path / "whole"))


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_a_pool_that_lost_a_worker_is_refused_in_a_sentence(job, tmp_path):
    told, killed = [], []

    def kill(done, total):
        told.append(done)
        if 0 < done < total and not killed:  # what was done before the loss is told after it
            killed.extend(executor._processes)
            os.kill(killed[0], signal.SIGKILL)

    spawn = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(2, mp_context=spawn) as executor,
        pytest.raises(RuntimeError, match=r"^The executor lost a worker .*: call again with a new one; "),
    ):
        job(tmp_path / "killed", executor=executor, progress=kill)
    before, told[:] = told[-1], []
    # Groups and batches of exact jobs are others without an executor.
    same(job(tmp_path / "killed", progress=lambda done, total: told.append(done)), job(tmp_path / "whole"))
    if job in KEEP:
        assert told[0] >= before, "what was done is not done again"


def die(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_task_that_kills_every_worker_of_dask_is_said(cluster):
    import distributed

    found = []
    with distributed.Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        with pytest.raises(RuntimeError, match=r"A task was lost with every worker .* more memory"):
            found.extend(k for k, _ in run_tasks(die, ((k,) for k in range(5)), client.get_executor()))
    assert found  # of those that waited for the same workers Dask may lose some too
    assert 3 not in found
