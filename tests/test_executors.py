"""Blocks that other processes measure: the same numbers, whatever the executor and wherever points are."""

import contextlib
import json
import math
import multiprocessing
import operator
import os
import re
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interrupt import Interrupted, interrupt_after
from jax.tree_util import Partial
from typer.testing import CliRunner

from manifold_jax import (
    Axis,
    Grid,
    _executors,
    datasets,
    horizontal_path,
    load_geometry,
    measure,
    measure_union,
    reach,
    reach_from_samples,
)
from manifold_jax._executors import MANY, call_exported, exported, run_sharing, run_tasks, workers_of
from manifold_jax.experiments import cli, cluster
from manifold_jax.experiments.classifier import command as leaf_command
from manifold_jax.experiments.classifier.walks import PathOptions, walk_all
from manifold_jax.experiments.fits.runner import Plan, run_cells
from manifold_jax.experiments.fits.studies import closed_and_open
from manifold_jax.experiments.measure import command as measure_command
from manifold_jax.experiments.results import Cells
from manifold_jax.fitting import Estimator, builtin_estimators, calibrate
from manifold_jax.geometry import sources
from manifold_jax.geometry.points import Points

GRID = Grid((Axis("u", 0.0, 2 * math.pi, 16, periodic=True), Axis("v", 0.0, 2 * math.pi, 12, periodic=True)))
BLOCKS = {"block_size": 40}
FORK = multiprocessing.get_context("fork")


class Elsewhere(Executor):
    """Tasks that run at once, with arguments that travelled: as a pool of processes, in no time."""

    def __init__(self):
        self.sent = []

    def submit(self, function, /, *arguments):
        future = Future()
        try:
            # A thread of its own, which knows nothing of the settings of this one.
            with ThreadPoolExecutor(1) as other:
                self.sent.append(reduced := other.submit(copied, (function, arguments)).result())
            function, arguments = reduced
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


def copied(value):
    """A value as another process has it; arrays of JAX would arrive there as float32."""
    from multiprocessing.reduction import ForkingPickler

    class Strict(ForkingPickler):
        def reducer_override(self, held):
            if isinstance(held, jax.Array) and jnp.issubdtype(held.dtype, jnp.floating):
                raise TypeError(f"an array of JAX travels, {held.dtype}{held.shape}")
            return NotImplemented

    left, right = multiprocessing.Pipe()
    sender = threading.Thread(target=left.send_bytes, args=(Strict.dumps(value),))
    sender.start()
    received = right.recv()
    sender.join()
    return received


def torus(u):
    big = 2 + 0.5 * jnp.cos(u[1])
    return jnp.stack([big * jnp.cos(u[0]), big * jnp.sin(u[0]), 0.5 * jnp.sin(u[1])])


@pytest.fixture(scope="module")
def array():
    return np.asarray(jax.vmap(jax.vmap(torus))(GRID.coordinates()))


@pytest.fixture(scope="module")
def reference(array):
    return measure(array, GRID, **BLOCKS)


def same(measured, reference):
    for a, b in zip(jax.tree.leaves(measured), jax.tree.leaves(reference), strict=True):
        np.testing.assert_array_equal(a, b)


def in_file(kind, array, folder):
    """The array in a file, as its library opens it, perhaps in another order."""
    path = folder / f"points.{kind}"
    if kind in ("npy", "turned", "part"):
        stored = {"npy": array, "turned": array[::-1], "part": np.repeat(array, 2, axis=1)}[kind]
        np.save(path, stored)
        opened = np.load(f"{path}" if kind == "npy" else f"{path}.npy", mmap_mode="r")
        return {"npy": opened, "turned": opened[::-1], "part": opened[:, ::2]}[kind]
    if kind == "h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            file["group/points"] = array
        return h5py.File(path, "r")["group/points"]
    zarr = pytest.importorskip("zarr")
    stored = zarr.open(path, mode="w", shape=array.shape, chunks=(8, 6, 3), dtype="f4")
    stored[:] = array
    return zarr.open(path, mode="r")


@pytest.mark.parametrize("kind", ["npy", "turned", "part", "h5", "zarr"])
def test_a_file_travels_as_its_path(kind, array, reference, tmp_path):
    executor = Elsewhere()
    same(measure(in_file(kind, array, tmp_path), GRID, executor=executor, **BLOCKS), reference)
    held = [points for _, arguments in executor.sent for points in arguments if isinstance(points, Points)]
    assert len(held) > 4
    assert not any(isinstance(points.values.values, np.ndarray) for points in held), "no points are sent"


def test_changes_of_a_mapped_file_that_stay_in_memory_travel(array, tmp_path):
    np.save(tmp_path / "points.npy", array)
    changed = np.load(tmp_path / "points.npy", mmap_mode="c")
    changed[3, 4] += 0.01
    same(measure(changed, GRID, executor=Elsewhere(), **BLOCKS), measure(np.array(changed), GRID, **BLOCKS))


@pytest.mark.parametrize("library", [np.asarray, jnp.asarray])
def test_of_an_array_in_memory_the_windows_travel(library, array, reference):
    same(measure(library(array), GRID, executor=Elsewhere(), **BLOCKS), reference)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.thorough
def test_any_function_travels_as_its_program(exact):
    radius = jnp.asarray(0.5)  # held by a function that pickle cannot name
    source = lambda u: radius * jnp.stack([jnp.cos(u[0]), jnp.sin(u[0]), 2 * jnp.cos(u[1])])  # noqa: E731
    options, executor = {"exact": exact, "block_size": None if exact else 40}, Elsewhere()
    executor._max_workers = 1
    same(measure(source, GRID, executor=executor, **options), measure(source, GRID, **options))
    sent = [jax.tree.leaves(arguments) for _, arguments in executor.sent]
    assert len(sent) >= 3
    assert sum(any(isinstance(leaf, bytes) for leaf in leaves) for leaves in sent) == 1


def test_the_arrays_of_a_function_travel_beside_its_program():
    weights = np.arange(3.0 * 50_000, dtype=np.float32).reshape(3, -1)
    program, constants, structure = exported(
        "test", lambda x: {"y": jnp.asarray(weights) @ x}, np.ones(50_000)
    )
    assert len(program) < 20_000
    assert sum(map(np.size, constants)) == weights.size
    result = jax.tree.unflatten(structure, call_exported(program, constants, np.ones(50_000)))
    np.testing.assert_allclose(result["y"], weights.sum(axis=1), rtol=1e-5)


@pytest.mark.thorough
def test_missing_and_large_points_travel(array):
    far = array.astype(np.float64) + 1e6
    far[3, 4] = np.nan
    with pytest.raises(ValueError, match=r"measure: points must be finite.*first at index \(3, 4\)"):
        measure(far, GRID, executor=Elsewhere(), **BLOCKS)
    options = BLOCKS | {"missing": "mask"}
    same(measure(far, GRID, executor=Elsewhere(), **options), measure(far, GRID, **options))


@pytest.mark.thorough
def test_precision_is_that_of_the_caller(array):
    with jax.enable_x64(True):
        measured = measure(array.astype(np.float64), GRID, executor=Elsewhere(), **BLOCKS)
        assert measured.volume_element.value.dtype == np.float64
        same(measured, measure(array.astype(np.float64), GRID, **BLOCKS))


@pytest.mark.thorough
def test_reach_of_long_points_in_double_precision():
    frame = np.linalg.qr(np.random.default_rng(0).normal(size=(60, 3)))[0]
    with jax.enable_x64(True):
        points = np.asarray(jax.vmap(jax.vmap(torus))(GRID.coordinates(jnp.float64))) @ frame.T
        geometry = measure(points, GRID)
        here, there = (
            reach(points, GRID, geometry=geometry, tile_size=4, executor=e) for e in (None, Elsewhere())
        )
    assert here == there
    assert here.pruned > 0


@pytest.mark.thorough
@pytest.mark.parametrize("function", [False, True])
def test_parts_made_here_are_taken_elsewhere(array, tmp_path, function):
    points, seen = torus if function else jnp.asarray(array), []
    with pytest.raises(Interrupted):
        measure(points, GRID, checkpoint=tmp_path, progress=interrupt_after(60), **BLOCKS)
    told = {"progress": lambda done, _: seen.append(done)}
    measured = measure(points, GRID, executor=Elsewhere(), checkpoint=tmp_path, **told, **BLOCKS)
    assert seen[0] > 60, "what was done is not done again"
    same(measured, measure(points, GRID, **BLOCKS))


@pytest.mark.thorough
def test_parts_are_taken_whatever_the_number_of_workers(tmp_path):
    def run(workers, **options):
        executor = Elsewhere()
        executor._max_workers = workers
        try:
            measured = measure(torus, grid, exact=True, executor=executor, checkpoint=tmp_path, **options)
        except Interrupted:
            measured = None
        # The first two tasks look at the version, and whether the program arrives.
        return measured, len(executor.sent) - 2

    grid = datasets.torus(size=(192, 192)).grid  # 64 batches of 576 points, in two parts
    reference = measure(torus, grid, exact=True)
    assert run(1, progress=interrupt_after(20_000)) == (None, 36)
    measured, sent = run(100)
    assert sent == 128 - 2 * 35  # one of the 36 was not taken
    for a, b in zip(jax.tree.leaves(measured), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_threads_and_progress(array, reference):
    seen = []
    with ThreadPoolExecutor(2) as executor:
        progress = lambda done, total: seen.append((done, total))  # noqa: E731
        same(measure(array, GRID, executor=executor, progress=progress, **BLOCKS), reference)
    assert seen[-1] == (GRID.size, GRID.size)
    assert seen == sorted(seen)


@pytest.mark.parametrize("executor", [Elsewhere, partial(ThreadPoolExecutor, 2)])
@pytest.mark.thorough
def test_tiles_of_reach_find_the_same_wherever_they_are_compared(executor, array, reference):
    search = partial(reach, array, GRID, geometry=reference, tile_size=4)
    here, seen = search(), []
    assert 0 < here.pruned < 1
    assert here == search(executor=executor(), progress=lambda *done: seen.append(done))
    assert seen == sorted(seen)
    assert seen[-1] == (GRID.size, GRID.size)


@pytest.mark.slow
def test_reach_of_unions_and_samples_in_other_processes():
    circles = datasets.parallel_circles(gap=0.5, size=60)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        for exact in (False, True):
            here, there = (measure_union(circles, exact=exact, executor=e) for e in (None, executor))
            same(here.geometries, there.geometries)
            assert here.reach == there.reach
        angle = np.random.default_rng(0).uniform(0, 2 * np.pi, 300)
        points = np.stack([2 * np.cos(angle), np.sin(angle)], axis=1)
        search = partial(reach_from_samples, points, dimension=1, tile_size=50)
        assert search() == search(executor=executor)


def drawn(points, dimension, key):
    return points[0, 0] + dimension + jax.random.normal(key)


def silent_estimator(_points, dimension):
    raise TypeError(f"none of dimension {dimension}")


@pytest.mark.thorough
def test_estimators_are_called_elsewhere_and_judged_here():
    tried = *builtin_estimators("tangent")[:1], Estimator("drawn", "reach", drawn, needs=("dimension", "key"))
    tried += (Estimator("none", "volume", silent_estimator), Estimator("few", "volume", len, most=50))
    seen, options = [], {"key": jax.random.key(3), "seeds": (0, 1), "on_error": "record"}
    run = partial(calibrate, tried, datasets.circle(), [96], **options)
    here, there = (
        [row._replace(seconds=0.0) for row in table.rows]
        for table in (run(), run(executor=Elsewhere(), progress=seen.append))
    )
    assert repr(here) == repr(there)  # NaN for those that are left out
    assert len(seen) == len(there) == 8
    assert "raised TypeError on 96 samples of 'circle': none of dimension 1" in there[2].status
    with pytest.raises(ValueError, match=r"calibrate: the first task of the executor failed, .*lambda"):
        calibrate(
            ("reach", lambda x, dimension: 1.0),
            datasets.circle(),
            [96],
            key=options["key"],
            executor=Elsewhere(),
        )


def classify(params, x):
    return jax.nn.log_softmax(params @ jnp.tanh(jnp.ravel(x)))


@pytest.mark.thorough
def test_walks_of_blocks_are_the_same_elsewhere():
    random = np.random.default_rng(0)
    log_prob, ends = (
        Partial(classify, jnp.asarray(random.normal(size=(3, 6)))),
        random.normal(size=(2, 7, 2, 3)),
    )
    options, executor = PathOptions(max_steps=8, clip=False, save_every=4, block=3), Elsewhere()
    walk = partial(walk_all, horizontal_path, log_prob, ends.astype(np.float32), options)
    seen = []
    here, there = walk(), walk(executor=executor, progress=lambda *done: seen.append(done))
    for a, b in zip(here, there, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6)
    assert seen == [(3, 7), (6, 7), (7, 7)]
    assert len(executor.sent) == 3


# --- tasks --------------------------------------------------------------------------------------------------


def test_the_thread_beside_has_the_settings_of_this_one(x64):
    with _executors.one_thread() as submit:
        assert submit(jnp.ones, 2).result().dtype == jnp.float64


def test_the_thread_beside_does_not_hold_up_an_error():
    def wait():
        running.set()
        return released.wait(60)

    def fail():
        with _executors.one_thread() as submit:
            begun.extend([submit(wait), submit(wait)])
            running.wait(60)
            raise ValueError("an error")

    running, released, begun = threading.Event(), threading.Event(), []
    with pytest.raises(ValueError, match="an error"):
        fail()
    first, second = begun
    assert not first.done()
    assert second.cancelled()
    released.set()


def test_few_tasks_are_handed_over_at_a_time():
    made, most = [], []

    def tasks():
        for k in range(40):
            made.append(k)
            yield (k,)

    with ThreadPoolExecutor(3) as executor:
        results = {}
        for k, result in run_tasks(lambda k: k**2, tasks(), executor):
            results[k] = result
            most.append(len(made) - len(results))
    assert results == {k: k**2 for k in range(40)}
    assert max(most) <= 2 * 3


class Growing:
    """As Dask where one worker after the other comes: a task is done when it is asked for."""

    def __init__(self, client):
        self._client, self.open, self.most = client, 0, 0

    def submit(self, function, *arguments):
        self.open += 1
        self.most = max(self.most, self.open)
        return Task(self, partial(function, *arguments))


class Task:
    def __init__(self, executor, call):
        self.executor, self.call = executor, call

    def done(self):
        return True

    def result(self):
        self.executor.open -= 1
        return self.call()


def test_workers_that_come_later_have_work(monkeypatch):
    monkeypatch.setattr(_executors, "LOOK", -1.0)
    there = {"first": 1}

    def tasks():
        for k in range(40):
            there[f"worker {k}"] = 1
            yield (float(k),)

    executor = Growing(SimpleNamespace(nthreads=lambda: there, cluster=None))
    assert len(dict(run_tasks(math.sqrt, tasks(), executor))) == 40
    assert executor.most > 2 * 4


def test_workers_that_wait_in_a_queue_count():
    cluster = SimpleNamespace(worker_spec={k: {} for k in range(64)})
    client = SimpleNamespace(nthreads=lambda: {"first": 2}, cluster=cluster)
    assert workers_of(SimpleNamespace(_client=client)) == 64
    client.cluster = None
    assert workers_of(SimpleNamespace(_client=client)) == 2


def test_what_tasks_share_travels_once_to_every_worker(monkeypatch):
    kept = [{}, {}, {}]

    class Three(Elsewhere):
        _max_workers = 2  # of which the executor does not know the third

        def submit(self, *task):
            monkeypatch.setattr(_executors, "_SHARED", kept[len(self.sent) % 3])
            return super().submit(*task)

    executor = Three()
    found = dict(run_sharing(operator.add, 1000, ((k,) for k in range(50)), executor))
    assert found == {k: 1000 + k for k in range(50)}
    carried = [task for _, task in executor.sent if 1000 in task]
    assert 3 <= len(carried) < 8
    assert len(executor.sent) < 60


class Jobs:
    """An executor whose jobs are not futures of the standard library, as submitit's."""

    def submit(self, function, *arguments):
        class Job:
            asked = 0

            def done(self):
                self.asked += 1
                return self.asked > 1

            def result(self):
                return function(*arguments)

        return Job()


def test_jobs_that_are_no_futures_of_the_standard_library():
    assert dict(run_tasks(math.sqrt, [(4.0,), (9.0,)], Jobs())) == {0: 2.0, 1: 3.0}
    assert workers_of(Jobs()) == MANY


# --- refused in a sentence ----------------------------------------------------------------------------------


def shut_down():
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    return executor


def calls_back(u):
    return jax.pure_callback(
        lambda x: x, jax.ShapeDtypeStruct((2,), jnp.float32), u, vmap_method="sequential"
    )


@pytest.mark.parametrize(
    ("source", "executor", "message"),
    [
        (torus, 4, r"measure: executor must be a concurrent.futures.Executor, .* got 4\."),
        (torus, ProcessPoolExecutor(1, mp_context=FORK), r"measure: executor must not fork, .*spawn"),
        (torus, shut_down(), r"measure: the first task of the executor failed, RuntimeError: .*shutdown"),
        (
            calls_back,
            Elsewhere(),
            r"measure: the function cannot travel .*: give a function of jax.numpy alone",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(source, executor, message):
    with pytest.raises(ValueError, match=message):
        measure(source, GRID, executor=executor)


def test_an_executor_has_no_place_in_a_program(array):
    with pytest.raises(ValueError, match="measure: executor must be left out under jit"):
        jax.jit(lambda x: measure(x, GRID, executor=Elsewhere()))(array)


def test_workers_of_another_version_are_refused(monkeypatch):
    monkeypatch.setattr("manifold_jax._executors.first_task", lambda *_: "0.0.1")
    with pytest.raises(ValueError, match=r"have manifold_jax 0\.0\.1, this process .*: install one"):
        measure(torus, GRID, executor=Elsewhere())


def test_a_file_that_is_not_on_the_worker(array, tmp_path, monkeypatch):
    points = in_file("npy", array, tmp_path)
    place = sources.portable(points)
    os.utime(tmp_path / "points.npy", ns=(1, 1))
    sources._opened.cache_clear()
    with pytest.raises(ValueError, match=r"points\.npy is not here, or was changed"):
        place[0]
    monkeypatch.setattr("manifold_jax.geometry.host_blocks.portable", lambda _: place)
    with pytest.raises(ValueError, match=r"measure: the first task .*points\.npy is not here"):
        measure(points, GRID, executor=Elsewhere(), **BLOCKS)


# --- processes ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("default")
def test_a_scheduler_without_workers_is_said_in_time(monkeypatch, tmp_path):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(_executors, "WORKERS", 0.2)
    options = {"n_workers": 0, "dashboard_address": None, "processes": False}
    with distributed.LocalCluster(**options) as dask, distributed.Client(dask) as client:
        address = re.escape(dask.scheduler_address)
        message = rf"the scheduler {address} has no workers: start some with `dask worker {address}`\."
        with pytest.raises(ValueError, match=f"measure: {message}"):
            measure(torus, GRID, executor=client)
        with (
            pytest.raises(ValueError, match=f"--scheduler: {message}"),
            cluster.cluster_executor(None, dask.scheduler_address),
        ):
            pass


# --- commands -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def pretended(workers, scheduler):
    yield Elsewhere() if workers or scheduler else None


@pytest.mark.slow
def test_a_command_measures_the_same_with_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(measure_command, "cluster_executor", pretended)
    options = ["measure", "circle", "--samples", "angle=16", "--block-size", "4", "--no-reach", "--no-plots"]
    for name, more in {"here": (), "there": ("--workers", "2")}.items():
        result = CliRunner().invoke(
            cli.application("measure"), [*options, *more, "--out", str(tmp_path / name)]
        )
        assert result.exit_code == 0, result.output
    for file in ("geometry.nc", "geometry_stencil.nc"):
        same(*(load_geometry(tmp_path / name / file) for name in ("here", "there")))


@pytest.mark.slow
def test_a_command_walks_the_same_with_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(leaf_command, "cluster_executor", pretended)
    options = ["leaf", "paths", "--steps", "20", "--pairs", "3", "--max-steps", "6", "--ways", "1"]
    found = []
    for name, more in {"here": (), "there": ("--workers", "2")}.items():
        folder = tmp_path / name
        result = CliRunner().invoke(cli.application("leaf"), [*options, *more, "--out", str(folder)])
        assert result.exit_code == 0, result.output
        found.append(json.loads((folder / "paths.json").read_text())["data"])
    assert found[0] == found[1]


@pytest.mark.thorough
def test_cells_are_the_same_wherever_they_are_computed(tmp_path):
    plan = Plan(("pca",), (40, 80), 2, 20)
    here, there = (Cells(tmp_path / name, e) for name, e in (("here", None), ("there", Elsewhere())))
    for cells in (here, there):
        run_cells(closed_and_open(plan)[:2], plan, cells, seed=0, make=two_settings)
    assert len(here) == 8
    assert here == there == Cells(tmp_path / "there")


def two_settings(plan):
    return closed_and_open(plan)[:2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--workers", "2", "--scheduler", "tcp://127.0.0.1:9"), "give one"),
        (("--workers", "0"), "should be greater than or equal to 1"),
    ],
)
def test_workers_that_cannot_be_are_refused(options, message, tmp_path):
    arguments = ["measure", "circle", *options, "--out", str(tmp_path)]
    result = CliRunner().invoke(cli.application("measure"), arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_a_scheduler_that_does_not_answer_is_said_in_time(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "ANSWER", 1)
    with (
        pytest.raises(ValueError, match=r"--scheduler tcp://127\.0\.0\.1:9: no scheduler answers within 1 s"),
        cluster.cluster_executor(None, "tcp://127.0.0.1:9"),
    ):
        pass


@pytest.mark.parametrize("deaths", [2, 3])
def test_a_worker_that_dies_as_it_starts_is_tried_again(deaths):
    class Distributed:
        tried = 0

        def LocalCluster(self, **_options):
            self.tried += 1
            if self.tried <= deaths:
                raise RuntimeError("Nanny failed to start.")
            return self

    distributed = Distributed()
    if deaths < cluster.STARTS:
        assert cluster._local_cluster(distributed, 2) is distributed
    else:
        with pytest.raises(ValueError, match="--workers 2: 3 times one died as it started: take fewer"):
            cluster._local_cluster(distributed, 2)
