"""Training: one compiled scan over steps, explicit keys, checkpoints from which a run goes on bit by bit."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Int, Num

from manifold_jax.models.checkpoints import Folder, checkpoint_steps, load_params, load_rest, save_checkpoint

Loss = Callable[[Any, Any, Array, Array], tuple[Array, dict[str, Array]]]
"""``loss(params, batch, key, step) -> (scalar, metrics)``, metrics by name, of any shape."""

LEARNING_RATE = 0.01


class Trained(NamedTuple):
    """A finished (or diverged) training.

    Attributes:
        params: Pytree of arrays.
        metrics: Name to its values, those of a step in a row ``(steps, ...)``; ``"loss"`` and what the loss
            function returns.
        steps: Steps made; fewer than asked for where the loss was no longer finite.
        finite: Whether all losses were.
    """

    params: Any
    metrics: dict[str, Float[np.ndarray, "steps *shape"]]
    steps: int
    finite: bool


class _State(NamedTuple):
    """What a step changes."""

    params: Any
    optimizer: Any


def pixels(images: Num[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    """Images with pixels in [0, 1]: bytes are divided by 255, others are left alone.

    Args:
        images: Of any shape.

    Returns:
        float32, or the dtype of ``images``.

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax.models import pixels
        >>> print(pixels(jnp.array([0, 255], "uint8")))
        [0. 1.]
    """
    images = jnp.asarray(images)
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


@lru_cache(maxsize=32)
def classification_loss(apply: Callable[[Any, Any], Array]) -> Loss:
    """Mean negative log-likelihood of batches (images, labels), with the accuracy as a metric.

    Args:
        apply: ``apply(params, x)``, one input to ``(C,)`` log-probabilities.

    Returns:
        A loss for :func:`train`; the same one for the same ``apply``, so that it is compiled once.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from manifold_jax.models import classification_loss
        >>> loss = classification_loss(lambda w, x: jax.nn.log_softmax(w @ x))
        >>> batch = jnp.ones((4, 2)), jnp.zeros(4, int)
        >>> value, metrics = loss(jnp.zeros((3, 2)), batch, jax.random.key(0), 0)
        >>> print(f"{value:.3f}")
        1.099
    """

    def loss(params: Any, batch: Any, key: Array, step: Array) -> tuple[Array, dict[str, Array]]:
        images, labels = batch
        log_p = jax.vmap(apply, (None, 0))(params, pixels(images))
        chosen = jnp.take_along_axis(log_p, labels.astype(jnp.int32)[:, None], axis=1)
        accuracy = jnp.mean(jnp.argmax(log_p, axis=1) == labels, dtype=log_p.dtype)
        return -jnp.mean(chosen), {"accuracy": accuracy}

    return loss


def labelled(apply: Callable[[Any, Any], Array], params: Any, images: Any, labels: Any) -> tuple[Any, Any]:
    """Images and labels that fit a classifier, as data for :func:`train` with :func:`classification_loss`.

    Args:
        apply: ``apply(params, x)``, one input to ``(C,)`` log-probabilities.
        params: Of ``apply``.
        images: ``(n, *shape)``, bytes or pixels in [0, 1].
        labels: ``(n,)``, whole numbers from 0 to C - 1.

    Returns:
        Both, unchanged.

    Raises:
        ValueError: Lengths or types do not fit, pixels lie outside of [0, 1], or a label is no class of the
            network.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from manifold_jax.models import labelled
        >>> apply = lambda w, x: jax.nn.log_softmax(w @ x)
        >>> labelled(apply, jnp.zeros((3, 2)), jnp.ones((4, 2)), jnp.array([0, 1, 2, 3]))
        Traceback (most recent call last):
            ...
        ValueError: labels must lie between 0 and 2, the network has 3 classes, got 0 to 3.
    """
    pictures, numbers = np.asarray(images), np.asarray(labels)
    if (
        numbers.ndim != 1
        or numbers.dtype.kind not in "iu"
        or len(numbers) != len(pictures)
        or not len(numbers)
    ):
        raise ValueError(
            f"labels must be whole numbers, one for each of {len(pictures)} images, got {numbers.dtype} of "
            f"shape {numbers.shape}."
        )
    if pictures.dtype != np.uint8 and not (pictures.min() >= 0 and pictures.max() <= 1):
        raise ValueError(
            f"images must be bytes or have pixels in [0, 1], got {pictures.dtype} from {pictures.min():.3g} "
            f"to {pictures.max():.3g}: scale them, as in images / 255."
        )
    first = pixels(pictures[0])
    classes = jax.eval_shape(apply, params, first).shape[0]
    if numbers.min() < 0 or numbers.max() >= classes:
        raise ValueError(
            f"labels must lie between 0 and {classes - 1}, the network has {classes} classes, got "
            f"{numbers.min()} to {numbers.max()}."
        )
    return images, labels


@partial(jax.jit, static_argnames=("loss", "optimizer"), donate_argnames="state")
def _scan(
    state: _State,
    data: Any,
    order: Int[Array, "chunk batch"],
    key: Array,
    first: Int[Array, ""],
    count: Int[Array, ""],
    *,
    loss: Loss,
    optimizer: optax.GradientTransformation,
) -> tuple[_State, dict[str, Array]]:
    """The first ``count`` of a chunk of steps; the rest is idle: one compilation serves all lengths."""

    def make(state: _State, rows: Int[Array, "batch"], step: Array) -> tuple[_State, dict[str, Array]]:
        batch = jax.tree.map(lambda a: a[rows], data)
        of = jax.value_and_grad(loss, has_aux=True)
        (value, metrics), gradient = of(state.params, batch, jax.random.fold_in(key, step), step)
        updates, inner = optimizer.update(gradient, state.optimizer, state.params)
        return _State(optax.apply_updates(state.params, updates), inner), {"loss": value, **metrics}

    def one(state: _State, at: tuple[Array, Array]) -> tuple[_State, dict[str, Array]]:
        index, rows = at
        shapes = jax.eval_shape(make, state, rows, first)[1]
        idle = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return jax.lax.cond(index < count, lambda s: make(s, rows, first + index), lambda s: (s, idle), state)

    return jax.lax.scan(one, state, (jnp.arange(order.shape[0]), order))


@partial(jax.jit, static_argnames="size")
def _permutation(key: Array, epoch: Array, size: int) -> Int[Array, "size"]:
    return jax.random.permutation(jax.random.fold_in(key, epoch), size)


def _orders(
    key: Array, steps: range, size: int, batch_size: int, chunk: int
) -> Int[np.ndarray, "chunk batch"]:
    """Rows of the data for every step. Each epoch in an order of its own, its remainder left out."""
    per_epoch = size // batch_size
    rows = np.zeros((chunk, batch_size), np.int32)
    epochs = {step // per_epoch for step in steps}
    shuffled = {epoch: np.asarray(_permutation(key, epoch, size)) for epoch in epochs}
    for index, step in enumerate(steps):
        begin = step % per_epoch * batch_size
        rows[index] = shuffled[step // per_epoch][begin : begin + batch_size]
    return rows


def _count(value: Any, name: str, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} must be a whole number, at least {least}, got {value!r}.")
    return int(value)


def _size(data: Any) -> int:
    """Length of the common first axis."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(data)]
    sizes = {shape[:1] for shape in shapes}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(f"data must be arrays with one common first axis, got shapes {shapes}.")
    return sizes.pop()[0]


_ROWS = 64


def _digest(tree: Any) -> int:
    """Checksum of the first rows of every array."""
    found = 0
    for leaf in jax.tree.leaves(tree):
        rows = np.asarray(leaf[:_ROWS] if np.ndim(leaf) else leaf)
        found = zlib.crc32(rows.tobytes(), found)
    return found


def _rest(state: _State, key: Array, run: Sequence[int], metrics: dict[str, np.ndarray]) -> Any:
    """All that a run needs to go on, and to know that it is the same run."""
    return {
        "optimizer": state.optimizer,
        "key": jax.random.key_data(key),
        "run": np.array(run, np.int64),
        # One row more: Orbax refuses empty arrays.
        "metrics": {name: _with_room(values, 1) for name, values in metrics.items()},
    }


def _with_room(values: np.ndarray, rows: int) -> np.ndarray:
    """More rows, of zeros."""
    return np.concatenate([values, np.zeros((rows, *values.shape[1:]), np.float32)])


def _resume(
    folder: Folder, step: int, start: _State, key: Array, run: Sequence[int], none: dict[str, np.ndarray]
) -> tuple[_State, dict[str, np.ndarray]]:
    """The state after ``step`` steps, and the metrics of these."""
    metrics = {name: _with_room(values, step) for name, values in none.items()}
    wanted = jax.tree.map(np.asarray, _rest(start, key, run, metrics))
    params = load_params(folder, start.params, step)
    rest = load_rest(folder, wanted, step)
    if not np.array_equal(rest["key"], wanted["key"]) or not np.array_equal(rest["run"], wanted["run"]):
        raise ValueError(
            f"{folder} holds a run with another key, batch_size, data or initial parameters (it has "
            f"batch_size {rest['run'][1]} and {rest['run'][0]} data): choose another folder."
        )
    return _State(*jax.tree.map(jnp.asarray, (params, rest["optimizer"]))), {
        name: values[:-1] for name, values in rest["metrics"].items()
    }


def _no_metrics(loss: Loss, params: Any, data: Any, batch_size: int, key: Array) -> dict[str, np.ndarray]:
    """All metrics, of no step; the loss is traced once, so that its mistakes show before anything starts."""
    rows = jax.tree.map(lambda a: jax.ShapeDtypeStruct((batch_size, *a.shape[1:]), a.dtype), data)
    extra = jax.eval_shape(loss, params, rows, key, jnp.int32(0))[1]
    return {"loss": np.zeros(0, np.float32)} | {
        name: np.zeros((0, *value.shape), np.float32) for name, value in extra.items()
    }


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
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """Minimise a loss by stochastic gradients, a compiled scan of ``chunk`` steps at a time.

    With a ``folder`` it goes on from the last checkpoint there, and gives bit by bit what it would have given
    without the interruption (same machine, same ``chunk``).

    Args:
        loss: ``loss(params, batch, key, step) -> (scalar, dictionary of metrics)``; ``batch`` is
            ``batch_size`` rows of ``data``. The same function object is compiled once.
        params: Pytree of floating-point arrays; left intact.
        data: Pytree of arrays with a common first axis. Each epoch goes through it in an order of its own.
        key: Of the orders and of all noise in the loss.
        steps: Steps in all, those of earlier runs in ``folder`` included.
        batch_size: Rows a step; 60 in Grementieri & Fioresi.
        optimizer: From optax; by default ``sgd(0.01)``, as there.
        chunk: Steps compiled together, and between two calls of ``callback``.
        folder: Where checkpoints are written and looked for.
        save_at: Steps after which to write one; 0 is the initial state. The last step is always written.
        save_every: Also after every so many steps.
        callback: Called with the number of steps made and the metrics of the latest ones.
        progress: Called with the number of steps made and of all.

    Returns:
        Parameters and metrics. Stops early where the loss is not finite; see ``finite``.

    Raises:
        ValueError: An option is out of range, the arrays of ``data`` differ in length, or ``folder`` holds a
            run of another architecture, optimizer, key or batch size.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from manifold_jax.models import train
        >>> def loss(w, batch, key, step):
        ...     return jnp.mean((batch - w) ** 2), {}
        >>> key = jax.random.key(0)
        >>> found = train(loss, jnp.zeros(2), jnp.ones((8, 2)), key=key, steps=300, batch_size=4)
        >>> print(found.params.round(2))
        [0.95 0.95]
    """
    size = _size(data)
    steps, chunk = _count(steps, "steps"), _count(chunk, "chunk")
    if _count(batch_size, "batch_size") > size:
        raise ValueError(f"batch_size must be at most the number of data, {size}, got {batch_size}.")
    every = None if save_every is None else _count(save_every, "save_every")
    optimizer = _default_optimizer() if optimizer is None else optimizer
    order_key, loss_key = jax.random.split(key)
    run = (size, batch_size, _digest(params), _digest(data))
    # The scan takes the buffers over: an optimizer may keep those of the parameters.
    state = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), _State(params, optimizer.init(params)))
    data = jax.tree.map(jnp.asarray, data)
    metrics = _no_metrics(loss, state.params, data, batch_size, loss_key)

    marks = {_count(step, "save_at", 0) for step in save_at} if folder is not None else set()
    marks |= set(range(every, steps, every)) if folder is not None and every else set()
    marks = {step for step in marks if step <= steps} | {steps}
    done = 0
    if folder is not None:
        there = checkpoint_steps(folder)
        if there:  # also where all are later: runs must not mix
            latest = max((step for step in there if step <= steps), default=there[0])
            found = _resume(folder, latest, state, key, run, metrics)
            if latest <= steps:
                done, (state, metrics) = latest, found
        elif 0 in marks:
            save_checkpoint(folder, 0, state.params, _rest(state, key, run, metrics))
    stops = sorted({step for step in marks if step > done} | set(range(done + chunk, steps, chunk)))
    finite = True
    for begin, end in itertools.pairwise([done, *stops]):
        batches = _orders(order_key, range(begin, end), size, batch_size, chunk)
        state, new = _scan(state, data, batches, loss_key, begin, end - begin, loss=loss, optimizer=optimizer)
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
            save_checkpoint(folder, done, state.params, _rest(state, key, run, metrics))
    return Trained(state.params, metrics, done, finite)


@lru_cache(maxsize=1)
def _default_optimizer() -> optax.GradientTransformation:
    """One object, so that it is compiled once."""
    return optax.sgd(LEARNING_RATE)
