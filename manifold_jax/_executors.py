"""Work handed to an executor of ``concurrent.futures``: threads, processes, the machines of a cluster.

JAX shards over the devices of one program (:mod:`_sharding`); what runs on other processes is a function of
a module with arguments that travel. Functions of a user do not need a name for that: JAX's program of them
travels (:func:`exported`), with the arrays that they hold beside it.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import threading
import time
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Future,
    ThreadPoolExecutor,
    wait,
)
from functools import lru_cache, partial
from itertools import chain, islice
from typing import Any, NamedTuple

import jax
import numpy as np

from manifold_jax._checks import require, shown
from manifold_jax._keys import package_version
from manifold_jax._programs import first_line, frozen_once, result_of

AHEAD = 2  # tasks handed over for each worker: the next one is there when one is done
MANY = 64  # workers of an executor that does not tell how many it has
SHARED = 2  # jobs whose shared part a worker keeps
WORKERS = 10  # seconds in which one worker of Dask is there
LOOK = 1.0  # seconds between two looks at the scheduler and the workers of Dask
POLL = 0.05  # seconds between two looks at futures that are not of concurrent.futures
PLATFORMS = ("cpu", "cuda", "tpu")  # that the program of a function is lowered for


def check_executor(caller: str, executor: Any) -> Any:
    """An executor that takes work, or None; a Client of Dask gives its executor.

    Raises:
        ValueError: It has no ``submit``, forks, has no workers and asked for none, does not do its first
            task, or its workers have another version.
    """
    if executor is None:
        return None
    if hasattr(executor, "get_executor"):
        executor = executor.get_executor()
    if not callable(getattr(executor, "submit", None)):
        wanted = "a concurrent.futures.Executor, such as Client(...).get_executor() of dask.distributed"
        raise ValueError(f"{caller}: executor must be {wanted}, got {shown(executor)}.")
    context = getattr(executor, "_mp_context", None)  # of ProcessPoolExecutor
    if context is not None and context.get_start_method() == "fork":
        remedy = 'ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))'
        raise ValueError(f"{caller}: executor must not fork, or JAX waits for ever in its workers: {remedy}.")
    _await_workers(caller, executor)
    version = first_task(caller, executor, package_version)
    if version != package_version():
        versions = f"{version}, this process {package_version()}"
        raise ValueError(f"{caller}: the workers of the executor have manifold_jax {versions}: install one.")
    return executor


def _await_workers(caller: str, executor: Any) -> None:
    """Wait for the first worker of Dask; say so where that takes long, refuse where none was asked for."""
    client: Any = getattr(executor, "_client", None)
    began = time.monotonic()
    if not hasattr(client, "nthreads"):
        return
    while not client.nthreads():
        if time.monotonic() - began > WORKERS:
            message = f"the scheduler {client.scheduler.address} has no workers"
            if _asked_for(client):  # they are waiting in the queue of a cluster
                warnings.warn(
                    f"{caller}: {message} yet: it waits for those that were asked for.", stacklevel=4
                )
                return
            remedy = f"start some with `dask worker {client.scheduler.address}`"
            raise ValueError(f"{caller}: {message}: {remedy}.")
        time.sleep(POLL)


def first_task(caller: str, executor: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a small task, which shows in time whether the arguments of large ones arrive."""
    try:
        run = partial(_in_worker, function, _settings(executor), shares_memory(executor))
        return executor.submit(run, *jax.tree.map(_as_numpy, arguments)).result()
    except Exception as error:  # whatever pickle, a worker or a scheduler raises
        remedy = "give an executor that runs, and what pickle can take: functions of modules, paths, arrays"
        message = f"the first task of the executor failed, {type(error).__name__}: {first_line(error)}"
        raise ValueError(f"{caller}: {message}; {remedy}.") from error


def arrived(*_arguments: Any) -> None:
    """A task that does nothing with its arguments."""


def shares_memory(executor: Any) -> bool:
    """Whether tasks run in this process, so that nothing has to travel."""
    return executor is None or isinstance(executor, ThreadPoolExecutor)


def run_tasks(
    function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], executor: Any = None
) -> Iterator[tuple[int, Any]]:
    """Number and result of ``function(*task)`` for every task, as an executor has them, or one by one.

    A few tasks for each worker are handed over at a time, so that the arguments of all are never held. Where
    an executor is lost, what it has done comes before the error.

    Raises:
        RuntimeError: The executor lost its workers or scheduler and takes no more work, as pools of processes
            do, or a task was lost with one worker after the other.
    """
    if executor is None:
        yield from ((k, function(*task)) for k, task in enumerate(tasks))
        return
    here = shares_memory(executor)
    run = partial(_in_worker, function, _settings(executor), here)
    if not here:
        tasks = (jax.tree.map(_as_numpy, task) for task in tasks)
    numbered, waiting, lost, most, looked = enumerate(tasks), {}, None, 0, -math.inf
    try:
        while True:
            if time.monotonic() > looked + LOOK:  # workers of a cluster come and go
                most, looked = AHEAD * workers_of(executor), time.monotonic()
            for k, task in islice(numbered, 0 if lost else most - len(waiting)):
                future, lost = _unless_lost(executor.submit, run, *task)
                if lost:
                    break
                waiting[future] = k
            if not waiting:
                break
            done, gone = _unless_lost(_done, executor, list(waiting))
            if gone:
                lost = lost or gone
                break
            for future in done:
                k = waiting.pop(future)
                result, error = _unless_lost(future.result)
                lost = lost or error
                if not error:
                    yield k, result
    finally:
        for future in waiting:
            future.cancel()
    if lost:
        raise RuntimeError(
            f"{_loss(lost)}; what was done before is kept where there is a checkpoint."
        ) from lost


def _unless_lost(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Exception | None]:
    """A result, or the error by which executors say that a worker or a scheduler was lost."""
    try:
        return function(*arguments), None
    except Exception as error:
        if isinstance(error, (BrokenExecutor, CancelledError)) or type(error).__name__ == "KilledWorker":
            return None, error
        raise


def _loss(error: Exception) -> str:
    """What was lost, and how to go on."""
    if type(error).__name__ == "KilledWorker":  # of Dask, which tries again with other workers before
        remedy = "give them more memory, or less to do at once (block_size=), and call again"
        return f"A task was lost with every worker of the executor that took it: {remedy}"
    lost = "its scheduler" if isinstance(error, CancelledError) else "a worker"
    return f"The executor lost {lost} and takes no more work: call again with a new one"


_SHARED: dict[str, Any] = {}  # what tasks of a worker share, by job


def run_traced(
    caller: str, function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], executor: Any = None
) -> Iterator[tuple[int, Any]]:
    """Number and result of a traced function of arrays, as :func:`run_tasks`; its program travels.

    Arguments have the same shapes in every task.

    Raises:
        ValueError: The function cannot travel.
    """
    if shares_memory(executor):
        yield from run_tasks(function, tasks, executor)
        return
    first, *_ = ahead = list(islice(tasks := iter(tasks), 1))
    program, constants, structure = exported(caller, function, *first)
    for k, leaves in run_sharing(call_shared, (program, constants), chain(ahead, tasks), executor):
        yield k, jax.tree.unflatten(structure, leaves)


def call_shared(held: tuple[bytes, list[np.ndarray]], *arguments: Any) -> list[Any]:
    """The leaves of the result of an :class:`Exported` function, as arrays of NumPy."""
    return on_host(call_exported, *held, *arguments)


def run_sharing(
    function: Callable[..., Any], shared: Any, tasks: Iterable[tuple[Any, ...]], executor: Any = None
) -> Iterator[tuple[int, Any]]:
    """Number and result of ``function(shared, *task)`` for every task, as :func:`run_tasks`.

    What is shared travels with the first tasks, and again to a worker that answers that it lacks it.
    """
    if shares_memory(executor):
        yield from run_tasks(partial(function, shared), tasks, executor)
        return
    key, most = uuid.uuid4().hex, workers_of(executor)
    numbered, lacking, under_way = enumerate(tasks), deque[Any](), list[Any]()

    def handed() -> Iterator[tuple[Any, ...]]:
        """A task that came back first; every task is kept until its result is there."""
        while True:
            again = bool(lacking)
            entry = lacking.popleft() if again else next(numbered, None)
            if entry is None:
                return
            given = shared if again or len(under_way) < most else None
            under_way.append(entry)
            yield (key, given, *entry[1])

    while lacking or not under_way:
        first = len(under_way)
        for k, result in run_tasks(partial(_with_shared, function), handed(), executor):
            entry, under_way[first + k] = under_way[first + k], None
            if result is None:
                lacking.append(entry)
            else:
                yield entry[0], result[0]
        if not under_way:
            return


def _with_shared(function: Callable[..., Any], key: str, given: Any, *task: Any) -> Any:
    """The result of a task, in a tuple; None in a worker that does not have what tasks share."""
    if given is None:
        given = _SHARED.get(key)
    else:
        while key not in _SHARED and len(_SHARED) >= SHARED:
            _SHARED.pop(next(iter(_SHARED)), None)
        given = _SHARED.setdefault(key, given)
    return None if given is None else (function(given, *task),)


def workers_of(executor: Any) -> int:
    """How many tasks an executor runs at once, :data:`MANY` where it does not tell.

    Those that were asked for and wait in the queue of a cluster count too.
    """
    count = getattr(executor, "_max_workers", None)  # of the standard library and loky
    client = getattr(executor, "_client", None)  # of Dask
    if count or client is None:
        return count or MANY
    return max(sum(client.nthreads().values()), len(_asked_for(client))) or MANY


def _asked_for(client: Any) -> Any:
    """The workers that a cluster of Dask was told to have."""
    return getattr(getattr(client, "cluster", None), "worker_spec", None) or ()


def _done(executor: Any, futures: list[Any]) -> Iterable[Any]:
    """Those that are done, at least one.

    Raises:
        CancelledError: Dask has given up its scheduler; it leaves futures as they are.
    """
    client, standard = getattr(executor, "_client", None), all(isinstance(f, Future) for f in futures)
    while True:
        if standard:
            done = wait(futures, LOOK, FIRST_COMPLETED).done
        else:  # jobs of submitit
            done = {future for future in futures if future.done()}
        if done:
            return done
        if getattr(client, "status", None) == "closed":
            raise CancelledError
        if not standard:
            time.sleep(POLL)


def _settings(executor: Any) -> tuple[bool, Any, Any]:
    """What JAX is told for the thread that asks: float64, the precision of products, the device if shared."""
    config: Any = jax.config
    device = config.jax_default_device if shares_memory(executor) else None
    return bool(config.jax_enable_x64), config.jax_default_matmul_precision, device


@lru_cache(maxsize=1)
def _end_with_parent() -> None:
    """See that this process ends when the one that started it is killed.

    Workers of a pool would wait for tasks for ever, since they hold the other end of its queue too.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _in_worker(function: Callable[..., Any], settings: tuple[bool, Any, Any], here: bool, *task: Any) -> Any:
    """The result of a task with the settings of the thread that asked for it."""
    if not here:
        _end_with_parent()
    x64, precision, device = settings
    with jax.enable_x64(x64), jax.default_matmul_precision(precision), jax.default_device(device):
        return function(*task)


@contextlib.contextmanager
def one_thread() -> Iterator[Callable[..., Future[Any]]]:
    """``submit`` of a thread that works beside this one, with its settings of JAX.

    At the end it finishes what it has begun and leaves the rest; an error or interrupt does not wait for it.
    """
    settings, pool = _settings(None), ThreadPoolExecutor(1)
    try:
        yield lambda function, *task: pool.submit(_in_worker, function, settings, True, *task)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown(cancel_futures=True)


def _as_numpy(leaf: Any) -> Any:
    """An array of JAX as one of NumPy, which arrives as it was: JAX's would be rounded to float32 on the way.

    They are read before the settings of the task hold in the worker.
    """
    numbers = isinstance(leaf, jax.Array) and not jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(leaf) if numbers else leaf


def on_host(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function as arrays of NumPy, which travel."""
    return jax.device_get(function(*arguments))


class Exported(NamedTuple):
    """A traced function that travels: its program, the arrays that it holds, the tree of its result."""

    program: bytes
    constants: list[np.ndarray]
    structure: Any


def exported(caller: str, function: Callable[..., Any], *at: Any) -> Exported:
    """The program of a function for arguments shaped like ``at``; :func:`call_exported` calls it elsewhere.

    Raises:
        ValueError: The function calls back into this process, or a package is missing.
    """
    require("flatbuffers", "cluster", "A function for the workers of an executor")
    from jax import export  # flatbuffers is slow to import

    held = frozen_once(function, *at)
    (constants,), structure = held.args, jax.tree.structure(result_of(held))
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in constants]
    flat = jax.jit(lambda *arguments: jax.tree.leaves(held.func(*arguments)))
    try:
        program = export.export(flat, platforms=PLATFORMS)(shapes, *at)
        return Exported(bytes(program.serialize()), list(map(np.asarray, constants)), structure)
    except Exception as error:  # a callback of Python, a custom call that has no stable form
        message = f"the function cannot travel to the workers of the executor, {first_line(error)}"
        raise ValueError(f"{caller}: {message}: give a function of jax.numpy alone.") from error


@lru_cache(maxsize=8)
def _program(serialized: bytes) -> Callable[..., Any]:
    from jax import export

    return jax.jit(export.deserialize(bytearray(serialized)).call)


def call_exported(program: bytes, constants: list[np.ndarray], *arguments: Any) -> list[Any]:
    """The leaves of the result of an :class:`Exported` function."""
    return _program(program)(constants, *arguments)
