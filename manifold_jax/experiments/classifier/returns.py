"""Whether and where a curve that has risen comes back to its first value, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

SMOOTHED = 10
"""Records in a running mean: 1000 steps of training, an epoch in the paper."""

RESAMPLES = 1000


class Return(NamedTuple):
    """What a curve does with its first value, with 95 % of its resamples where it has any.

    Attributes:
        first: Its first value.
        highest: Its largest value.
        highest_at: The step of that.
        back: Where it is first back at the first value after it has risen above it; NaN if it never is.
        back_interval: The same of the resamples that are back.
        back_share: Share of the resamples that are back.
        below: Share of the records after that which lie below the first value; NaN if it is never back.
        last: Its last value over the first.
        last_interval: The same of the resamples.
    """

    first: float
    highest: float
    highest_at: float
    back: float
    back_interval: tuple[float, float]
    back_share: float
    below: float
    last: float
    last_interval: tuple[float, float]


def running_mean(values: Float[Any, "*n k"], count: int = SMOOTHED) -> Float[np.ndarray, "*n k"]:
    """Mean of the last ``count`` values, of all where there are not so many: the first value stays.

    Example:
        >>> running_mean([1.0, 3.0, 5.0, 7.0], 2).tolist()
        [1.0, 2.0, 4.0, 6.0]
    """
    values = np.asarray(values, float)
    windows = [values[..., max(0, k + 1 - count) : k + 1].mean(-1) for k in range(values.shape[-1])]
    return np.stack(windows, axis=-1)


def first_return(steps: Any, values: Any) -> float:
    """Step at which a curve that has risen above its first value is first back there, interpolated.

    Both are ``(k,)``, the steps ascending; NaN where it never rises, or never is back.

    Example:
        >>> first_return([0, 1, 2, 3], [1.0, 5.0, 3.0, 0.0])
        2.6666666666666665
    """
    x, y = np.asarray(steps, float), np.asarray(values, float) - float(values[0])
    risen = np.flatnonzero(y > 0)
    back = [k for k in np.flatnonzero(y <= 0) if len(risen) and k > risen[0]]
    if not back:
        return float("nan")
    k = back[0] - 1
    return float(x[k] + (x[k + 1] - x[k]) * y[k] / (y[k] - y[k + 1]))


def resample(
    traces: Float[Any, "k n"], statistic: Callable[..., Any], *, shared: bool, seed: int = 0
) -> Float[np.ndarray, "resamples k"]:
    """Curves of a statistic over images that are drawn with replacement.

    Args:
        traces: Values at n images, a row for every step.
        statistic: ``np.mean`` or ``np.median``.
        shared: Whether the images are the same in all steps, so that they are drawn once.
        seed: Of the draws.
    """
    traces, random = np.asarray(traces, float), np.random.default_rng(seed)
    shape = (1 if shared else len(traces), traces.shape[1])
    drawn = (random.integers(shape[1], size=shape) for _ in range(RESAMPLES))
    return np.stack([statistic(np.take_along_axis(traces, rows, 1), axis=1) for rows in drawn])


def judge(
    steps: Int[Any, "k"], values: Float[Any, "k"], resampled: Float[Any, "resamples k"], count: int = 1
) -> Return:
    """What a curve does with its first value, as a running mean of ``count`` records."""
    curve, others = running_mean(values, count), running_mean(resampled, count)
    backs = np.array([first_return(steps, other) for other in others])
    there, back = backs[np.isfinite(backs)], first_return(steps, curve)
    after = curve[np.asarray(steps) > back]  # none where it is NaN
    highest = int(np.argmax(curve))
    return Return(
        first=float(curve[0]),
        highest=float(curve[highest]),
        highest_at=float(steps[highest]),
        back=back,
        back_interval=_interval(there),
        back_share=len(there) / len(backs),
        below=float(np.mean(after < curve[0])) if len(after) else float("nan"),
        last=float(curve[-1] / curve[0]),
        last_interval=_interval(others[:, -1] / others[:, 0]),
    )


def _interval(values: Float[np.ndarray, "n"]) -> tuple[float, float]:
    """The middle 95 %."""
    if not len(values):
        return (float("nan"), float("nan"))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def sentence(name: str, result: Return, end: float) -> str:
    """A result in words; ``end`` is the last step."""
    low, high = result.last_interval
    course = (
        f"{name}: {result.first:.3g} at first, highest {result.highest:.3g} at step {result.highest_at:.0f}"
    )
    there = f"{result.back_share:.0%} of the resamples are back"
    if np.isfinite(result.back):
        interval = "{:.0f} to {:.0f}".format(*result.back_interval) if result.back_share else "-"
        verdict = f"back at its first value near step {result.back:.0f} ({interval}; {there})"
        verdict += f", below it in {result.below:.0%} of the records after that" if result.below >= 0 else ""
    elif result.highest > result.first:
        verdict = f"not back at its first value up to step {end:.0f} ({there})"
    else:
        verdict = "never above its first value"
    return f"{course}; {verdict}; at the end {result.last:.3g} times the first ({low:.3g} to {high:.3g})."
