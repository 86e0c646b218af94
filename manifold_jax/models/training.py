"""Training: one compiled scan over steps, explicit keys, checkpoints from which a run goes on bit by bit."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from manifold_jax._checks import checked_function, finite, instance, optional, random_key, real, shown, whole
from manifold_jax._files import Progress
from manifold_jax._keys import digest_arrays, digest_function
from manifold_jax._programs import frozen, result_of
from manifold_jax._sharding import auto, on_own_rows, pieces_along, rows_place, take_batch
from manifold_jax.models.checkpoints import Folder, checkpoint_steps, load_params, load_rest, save_checkpoint

Loss = Callable[[Any, Any, Array, Array], tuple[Array, dict[str, Array]]]
"""``loss(params, batch, key, step) -> (scalar, metrics)``, metrics by name, of any shape."""

_State = tuple[Any, Any]  # what a step changes: the parameters, and the state of the optimizer
_SGD = optax.sgd(0.01)  # the optimizer of Grementieri & Fioresi; one object, so that it is compiled once


class Trained(NamedTuple):
    """A finished (or diverged) training.

    Attributes:
        params: Pytree of arrays.
        metrics: ``"loss"`` and the metrics by name, one row for each step ``(steps, ...)``.
        steps: Steps made; fewer than asked for where the loss was no longer finite.
        finite: Whether all losses were finite.
    """

    params: Any
    metrics: dict[str, Float[np.ndarray, "steps *shape"]]
    steps: int
    finite: bool

    def or_raise(self, remedy: str) -> Trained:
        """The training itself; ValueError, with a remedy, if it diverged."""
        if not self.finite:
            raise ValueError(f"the training diverged after {self.steps} steps: {remedy}.")
        return self


@partial(jax.jit, static_argnames="optimizer")
def _begin(params: Any, *, optimizer: optax.GradientTransformation) -> _State:
    """The first state, of copies, whose buffers the scan takes over."""
    return jax.tree.map(jnp.copy, (params, optimizer.init(params)))


@partial(jax.jit, static_argnames=("optimizer", "place"), donate_argnames="state")
def _scan(
    loss: Partial,
    state: _State,
    data: Any,
    order: Int[Array, "chunk batch"],
    key: Array,
    first: Int[Array, ""],
    count: Int[Array, ""],
    *,
    optimizer: optax.GradientTransformation,
    place: Any,
) -> tuple[_State, dict[str, Array]]:
    """The first ``count`` of a chunk of steps; the rest is idle: one compilation serves all lengths."""

    def make(state: _State, rows: Int[Array, "batch"], step: Array) -> tuple[_State, dict[str, Array]]:
        params, inner = state
        batch = take_batch(data, rows, place)
        differentiate = jax.value_and_grad(loss, has_aux=True)
        (value, metrics), gradient = differentiate(
            params, batch, jax.random.fold_in(key, step), jnp.int32(step)
        )
        updates, inner = optimizer.update(gradient, inner, params)
        return (optax.apply_updates(params, updates), inner), {"loss": value, **metrics}

    value, metrics = result_of(loss)
    idle = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), {"loss": value, **metrics})

    def one(state: _State, at: tuple[Array, Array]) -> tuple[_State, dict[str, Array]]:
        index, rows = at
        return jax.lax.cond(index < count, lambda s: make(s, rows, first + index), lambda s: (s, idle), state)

    return jax.lax.scan(one, state, (jnp.arange(order.shape[0]), order))


def _orders(key: Array, steps: range, size: int, batch_size: int, chunk: int) -> np.ndarray:
    """Rows ``(chunk, batch)`` of the data. Each epoch in an order of its own, its remainder left out."""
    per_epoch = size // batch_size
    epochs = range(steps.start // per_epoch, (steps.stop - 1) // per_epoch + 1)
    shuffled = [jax.random.permutation(jax.random.fold_in(key, epoch), size) for epoch in epochs]
    rows = np.concatenate([order[: per_epoch * batch_size] for order in shuffled], dtype=np.int32)
    rows = rows.reshape(-1, batch_size)[steps.start - epochs.start * per_epoch :][: len(steps)]
    return np.pad(rows, ((0, chunk - len(steps)), (0, 0)))


def batch_rows(key: Array, step: int, size: int, batch_size: int = 60) -> Int[np.ndarray, "batch"]:
    """Rows of ``size`` data that :func:`train` with this key takes after ``step`` steps."""
    return _orders(jax.random.split(key)[0], range(step, step + 1), size, batch_size, 1)[0]


def _size(data: Any) -> int:
    """Length of the common first axis."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(data)]
    sizes = {shape[:1] for shape in shapes}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(f"train: data must be arrays with one common first axis, got shapes {shapes}.")
    return sizes.pop()[0]


def _digest(*trees: Any) -> int:
    """A number that tells arrays from others."""
    return int(digest_arrays(*jax.tree.leaves(trees))[:15], 16)


def _program(loss: Loss, optimizer: Any, state: _State, rows: Any, key: Array) -> int:
    """A number that tells what a step computes from anything else."""
    params, inner = state
    of_loss = digest_function(loss, params, rows, key, 0)
    of_optimizer = digest_function(optimizer.update, params, inner, params)
    return int(hashlib.sha256(f"{of_loss}{of_optimizer}".encode()).hexdigest()[:15], 16)


def _rest(state: _State, key: Array, run: Sequence[int], metrics: dict[str, np.ndarray]) -> Any:
    """All that a run needs to go on, and to know that it is the same run."""
    # One row more: Orbax refuses empty arrays.
    longer = {name: np.append(values, _zeros(values, 1), axis=0) for name, values in metrics.items()}
    numbers = {"key": jax.random.key_data(key), "run": np.array(run, np.int64)}
    return {"optimizer": state[1], "metrics": longer, **numbers}


def _zeros(values: np.ndarray, rows: int) -> np.ndarray:
    return np.zeros((rows, *values.shape[1:]), np.float32)


def _resume(
    folder: Folder, step: int, start: _State, key: Array, run: Sequence[int], none: dict[str, np.ndarray]
) -> tuple[_State, dict[str, np.ndarray]]:
    """The state after ``step`` steps, and the metrics of these."""
    metrics = {name: _zeros(values, step) for name, values in none.items()}
    wanted = jax.tree.map(np.asarray, _rest(start, key, run, metrics))
    params = load_params(folder, start[0], step)
    rest = load_rest(folder, wanted, step)
    if not np.array_equal(rest["key"], wanted["key"]) or not np.array_equal(rest["run"], wanted["run"]):
        other = "another key, batch_size, data or initial parameters, or another loss or optimizer"
        its_own = f"it has batch_size {rest['run'][1]} and {rest['run'][0]} data"
        raise ValueError(f"{folder} holds a run with {other} ({its_own}): choose another folder.")
    metrics = {name: values[:-1] for name, values in rest["metrics"].items()}
    return jax.device_put((params, rest["optimizer"]), may_alias=False), metrics


def _no_metrics(loss: Partial) -> dict[str, np.ndarray]:
    """All metrics, with no rows yet."""
    value, extra = result_of(loss)
    return {name: np.zeros((0, *part.shape), np.float32) for name, part in {"loss": value, **extra}.items()}


def train(
    loss: Loss,
    params: Any,
    data: Any,
    *,
    key: Array,
    steps: int,
    batch_size: int = 60,
    optimizer: optax.GradientTransformation | None = None,
    chunk: int = 100,
    folder: Folder | None = None,
    save_at: Sequence[int] = (),
    save_every: int | None = None,
    callback: Callable[[int, dict[str, np.ndarray]], None] | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Minimise a loss by stochastic gradients, a compiled scan of ``chunk`` steps at a time.

    With a ``folder`` it goes on from the last checkpoint there, and gives bit by bit what it would have given
    without the interruption (same machine, same ``chunk``).

    Args:
        loss: ``loss(params, batch, key, step) -> (scalar, dictionary of metrics)``; ``batch`` is
            ``batch_size`` rows of ``data``. Equal computations are compiled once.
        params: Pytree of floating-point arrays; left intact.
        data: Pytree of arrays with a common first axis. Each epoch goes through it in an order of its own.
            Where all are cut alike over a ``jax.sharding.Mesh`` along this axis they stay where they are: a
            batch is put together from what every device has of it and shared out to them, if their number
            divides ``batch_size``, and gradients are summed up; along other axes they are gathered. The
            parameters are those of one device, to rounding. With a ``folder`` the host reads all data once,
            to know them again.
        key: Key of the orders and of all noise in the loss.
        steps: Steps in all, those of earlier runs in ``folder`` included.
        batch_size: Rows in a step; 60 in Grementieri & Fioresi.
        optimizer: An optimizer of optax; by default ``sgd(0.01)``, as there.
        chunk: Steps compiled together, and between two calls of ``callback``.
        folder: Where checkpoints are written and looked for.
        save_at: Steps after which to write one; 0 is the initial state. The last step is always written.
        save_every: Checkpoints are also written after every so many steps.
        callback: Function that is called with the number of steps made and the metrics of the latest ones.
        progress: Function that is called with the number of steps made and of all.

    Raises:
        ValueError: An option is out of range, the arrays of ``data`` differ in length, or ``folder`` holds a
            run of another architecture, optimizer, loss, data, key or batch size.

    Example:
        >>> loss = lambda w, batch, key, step: (jnp.mean((batch - w) ** 2), {})
        >>> options = {"key": jax.random.key(0), "steps": 300, "batch_size": 4}
        >>> run = mj.models.train(loss, jnp.zeros(2), jnp.ones((8, 2)), **options)
        >>> print(run.params.round(2))
        [0.95 0.95]
    """
    checked_function("train", "loss", loss, "params, batch, key and step")
    random_key("train", "key", key)
    for name, call in (("callback", callback), ("progress", progress)):
        optional(checked_function, "train", name, call)
    if optimizer is not None:
        instance("train", "optimizer", optimizer, optax.GradientTransformation, "an optimizer of optax")
    _check_arrays("params", params)
    _check_arrays("data", data)
    size = _size(data)
    (params, data), back = auto((params, data))
    place = rows_place(data)
    steps, chunk = whole("train", "steps", steps), whole("train", "chunk", chunk)
    batch_size = whole("train", "batch_size", batch_size, most=size)
    marks = _marks(steps, save_at, save_every)
    marks = {steps} if folder is None else marks
    optimizer = _SGD if optimizer is None else optimizer
    order_key, loss_key = jax.random.split(key)
    state = _begin(params, optimizer=optimizer)
    run: tuple[int, ...] = ()
    digests = () if folder is None else (_digest(params), _digest(data))
    data = jax.device_put(data)
    rows = jax.tree.map(lambda a: jax.ShapeDtypeStruct((batch_size, *a.shape[1:]), a.dtype), data)
    # As it is now; tracing it once shows its mistakes before anything starts.
    function = frozen(loss, state[0], rows, loss_key, jax.ShapeDtypeStruct((), jnp.int32))
    metrics = _no_metrics(function)
    if folder is not None:
        run = (size, batch_size, *digests, _program(loss, optimizer, state, rows, loss_key))
    done, saved = 0, [] if folder is None else checkpoint_steps(folder)
    if folder is not None and saved:  # also where all are later: runs must not mix
        latest = max((step for step in saved if step <= steps), default=saved[0])
        resumed = _resume(folder, latest, state, key, run, metrics)
        if latest <= steps:
            done, (state, metrics) = latest, resumed
    elif folder is not None and 0 in marks:
        save_checkpoint(folder, 0, state[0], _rest(state, key, run, metrics))
    stops = {step for step in marks if step > done} | set(range(done + chunk, steps, chunk))
    finite = True
    for begin, end in itertools.pairwise([done, *sorted(stops)]):
        batches = _orders(order_key, range(begin, end), size, batch_size, chunk)
        chosen = batches, loss_key, begin, end - begin
        state, new = _scan(function, state, data, *chosen, optimizer=optimizer, place=place)
        new = {name: np.asarray(value, np.float32)[: end - begin] for name, value in new.items()}
        metrics = {name: np.concatenate([metrics[name], new[name]]) for name in metrics}
        done = end
        if callback is not None:
            callback(done, new)
        if progress is not None:
            progress(done, steps)
        finite = bool(np.isfinite(new["loss"]).all())
        if not finite:
            break
        if folder is not None and done in marks:
            save_checkpoint(folder, done, state[0], _rest(state, key, run, metrics))
    return Trained(back(state[0]), metrics, done, finite)


def _check_arrays(name: str, tree: Any) -> None:
    """Refuse leaves that are no arrays of finite numbers to train with."""
    for leaf in jax.tree.leaves(tree) or [None]:
        array = leaf if isinstance(leaf, np.ndarray | jax.Array) else real("train", name, leaf)
        floats = jnp.issubdtype(array.dtype, jnp.floating)
        numbers = floats or (name == "data" and jnp.issubdtype(array.dtype, jnp.integer))
        if not array.size or not (numbers or (name == "data" and array.dtype == bool)):
            raise ValueError(f"train: {name} must be arrays of numbers to train with, got {shown(array)}.")
        if floats:
            finite("train", name, array, axes=min(1, array.ndim))


def _marks(steps: int, save_at: Sequence[int], save_every: int | None) -> set[int]:
    """Steps after which a checkpoint is written."""
    if not isinstance(save_at, list | tuple | set | frozenset | range | np.ndarray):
        raise ValueError(f"train: save_at must be a sequence of steps, got {shown(save_at)}.")
    marks = {whole("train", "save_at", step, 0) for step in save_at} | {steps}
    if save_every is not None:
        every = whole("train", "save_every", save_every)
        marks |= set(range(every, steps, every))
    return {step for step in marks if step <= steps}


def over_seeds(loss: Loss, count: int, *, place: NamedSharding | None = None) -> Loss:
    """The sum of a loss over ``count`` independent runs whose parameters are stacked, for :func:`train`.

    Every run has its own share of a batch and its own key, so that the runs differ by initial weights, data
    order and noise. They stay independent under any optimizer that treats every number by itself, as Adam
    and SGD do. On a CPU one is computed after the other (mapped over weights, convolutions become slow
    grouped ones there), elsewhere all at once.

    Args:
        loss: As in :func:`train`.
        count: Number of runs.
        place: How the runs are cut over a mesh, ``NamedSharding(mesh, PartitionSpec("x"))``: every device
            computes its own, of parameters that :func:`train` is given in these pieces. Only the sum of the
            losses travels, and rows of ``data`` where that is cut too.

    Returns:
        A loss for parameters with a leading axis of ``count`` and batches of ``count`` times as many rows;
        its metrics have a leading axis of ``count`` too, and ``"run_loss"`` is the loss of every run. It
        raises ValueError for parameters of another number of runs, and a batch that cannot be shared out.

    Raises:
        ValueError: ``count`` is below 1, or ``place`` does not cut so many runs into equal pieces.

    Example:
        >>> loss = lambda w, batch, key, step: (jnp.mean((batch - w) ** 2), {})
        >>> both = mj.models.over_seeds(loss, 2)
        >>> value, metrics = both(jnp.array([0.0, 1.0]), jnp.ones(6), jax.random.key(0), 0)
        >>> print(value, metrics["run_loss"])
        1.0 [1. 0.]
    """
    checked_function("over_seeds", "loss", loss, "params, batch, key and step")
    count = whole("over_seeds", "count", count)
    if place is not None:
        instance("over_seeds", "place", place, NamedSharding, 'NamedSharding(mesh, PartitionSpec("x"))')
        pieces = pieces_along(place)
        if not pieces or count % pieces:
            got = f"{place.spec} on a mesh {dict(place.mesh.shape)}"
            raise ValueError(f"over_seeds: place must cut {count} runs into equal pieces, got {got}.")
    return _over_seeds(loss, count, place)


@lru_cache(maxsize=32)
def _over_seeds(loss: Loss, count: int, place: NamedSharding | None) -> Loss:
    def total(params: Any, batch: Any, key: Array, step: Array) -> tuple[Array, dict[str, Array]]:
        stacked = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(params)}
        if stacked != {count}:
            axis = f"a leading axis of {count} runs"
            raise ValueError(f"over_seeds: params must have {axis}, got {sorted(stacked)}.")
        rows = jax.tree.leaves(batch)[0].shape[0]
        if rows % count:
            raise ValueError(f"over_seeds: a batch of {rows} rows cannot be shared out to {count} runs.")
        shares = jax.tree.map(lambda a: a.reshape(count, rows // count, *a.shape[1:]), batch)

        def one(run: tuple[Any, Any, Array]) -> tuple[Array, dict[str, Array]]:
            return loss(*run, step)

        def several(runs: Any) -> Any:
            return jax.lax.platform_dependent(runs, cpu=partial(jax.lax.map, one), default=jax.vmap(one))

        every = several if place is None else on_own_rows(several, place)
        values, metrics = every((params, shares, jax.random.split(key, count)))
        return jnp.sum(values), metrics | {"run_loss": values}

    return total
