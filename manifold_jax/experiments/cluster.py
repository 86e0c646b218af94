"""Options of commands that hand work to processes of this machine or of a cluster, by Dask."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from manifold_jax._checks import require
from manifold_jax._executors import check_executor

_ADDRESS = re.compile(r"(\w+://)?(\[[0-9a-fA-F:]+\]|[\w.-]+):\d+")

STARTS = 3  # times that workers of this machine are started
ANSWER = 10  # seconds in which a scheduler answers

Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes of this machine that share the work (needs Dask).")
]
Scheduler = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Scheduler of Dask whose workers share the work.")
]


def check_cluster(workers: int | None, scheduler: str | None) -> None:
    """Refuse both, and what is no address, before anything is done."""
    if workers is not None and scheduler is not None:
        raise ValueError("--workers starts processes here, --scheduler names those of a cluster: give one.")
    if scheduler is not None and not _ADDRESS.fullmatch(scheduler):
        raise ValueError(f"--scheduler must be an address such as tcp://host:8786, got {scheduler!r}.")


@contextlib.contextmanager
def cluster_executor(workers: int | None, scheduler: str | None) -> Iterator[Any]:
    """The executor of so many processes, or of a scheduler; None where neither is asked for.

    A worker that is lost costs what it was doing: Dask does that again, and starts another one here.
    """
    if workers is None and scheduler is None:
        yield None
        return
    distributed = require("distributed", "cluster", "--workers or --scheduler")
    with contextlib.ExitStack() as stack:
        if scheduler is None:
            address = stack.enter_context(_local_cluster(distributed, workers))
        else:
            address = scheduler
        option = "--workers" if scheduler is None else "--scheduler"
        yield check_executor(option, stack.enter_context(_client(distributed, address)))


def _local_cluster(distributed: Any, workers: int | None) -> Any:
    """So many processes; a worker that dies before it is there is tried again, which Dask leaves to us."""
    # One thread each: XLA has threads of its own.
    options = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
    options |= {"processes": True, "silence_logs": logging.CRITICAL}
    died: Exception | None = None
    for _ in range(STARTS):
        try:
            return distributed.LocalCluster(**options)
        except RuntimeError as error:
            died = error
    remedy = "take fewer, or see that they have enough memory"
    raise ValueError(f"--workers {workers}: {STARTS} times one died as it started: {remedy}.") from died


def _client(distributed: Any, address: Any) -> Any:
    """A client of a scheduler that answers."""
    try:
        return distributed.Client(address, timeout=ANSWER, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        remedy = "start one with `dask scheduler`, and workers with `dask worker ADDRESS`"
        sentence = f"--scheduler {address}: no scheduler answers within {ANSWER} s: {remedy}."
        raise ValueError(sentence) from error
