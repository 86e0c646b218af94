"""Several trainings in one: a loss over stacked parameters."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from manifold_jax.models.training import Loss


@lru_cache(maxsize=32)
def over_seeds(loss: Loss, count: int) -> Loss:
    """The sum of a loss over ``count`` independent runs whose parameters are stacked, for :func:`train`.

    Every run has its own share of a batch and its own key, so that the runs differ by initial weights, data
    order and noise. They stay independent under any optimizer that treats every number by itself, as Adam
    and SGD do. On a CPU one is computed after the other (mapped over weights, convolutions become slow
    grouped ones there), elsewhere all at once.

    Args:
        loss: ``loss(params, batch, key, step) -> (scalar, metrics)``.
        count: Runs.

    Returns:
        A loss for parameters with a leading axis of ``count`` and batches of ``count`` times as many rows;
        its metrics have a leading axis of ``count`` too, and ``"run_loss"`` is the loss of every run.

    Raises:
        ValueError: When called: the parameters are of another number of runs, or the rows of a batch cannot
            be shared out.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from manifold_jax.models import over_seeds
        >>> def loss(w, batch, key, step):
        ...     return jnp.mean((batch - w) ** 2), {}
        >>> value, metrics = over_seeds(loss, 2)(jnp.array([0.0, 1.0]), jnp.ones(6), jax.random.key(0), 0)
        >>> print(value, metrics["run_loss"])
        1.0 [1. 0.]
    """

    def total(params: Any, batch: Any, key: Array, step: Array) -> tuple[Array, dict[str, Array]]:
        runs = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(params)}
        if runs != {count}:
            raise ValueError(f"params must have a leading axis of {count} runs, got {sorted(runs)}.")
        rows = jax.tree.leaves(batch)[0].shape[0]
        if rows % count:
            raise ValueError(f"a batch of {rows} rows cannot be shared out to {count} runs.")
        shares = jax.tree.map(lambda a: a.reshape(count, rows // count, *a.shape[1:]), batch)

        def one(run: tuple[Any, Any, Array]) -> tuple[Array, dict[str, Array]]:
            return loss(*run, step)

        def in_turn(*runs: Any) -> Any:
            return jax.lax.map(one, runs)

        def at_once(*runs: Any) -> Any:
            return jax.vmap(lambda *run: one(run))(*runs)

        values, metrics = jax.lax.platform_dependent(
            params, shares, jax.random.split(key, count), cpu=in_turn, default=at_once
        )
        return jnp.sum(values), metrics | {"run_loss": values}

    return total
