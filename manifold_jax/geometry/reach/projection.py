"""Few directions in which most of a cloud of points extends."""

from __future__ import annotations

import numpy as np

_ROUNDS = 4


def principal_directions(sample: np.ndarray, count: int) -> np.ndarray:
    """Orthonormal columns that nearly span the main directions of the rows of a sample, ``(f, k)``.

    Subspace iteration: a threaded eigendecomposition takes seconds where the cores are shared.

    Args:
        sample: Centred points ``(n, f)``.
        count: k, at most.

    Returns:
        The columns, fewer where the sample spans less.
    """
    inner = sample @ sample.T
    found = np.random.default_rng(0).normal(size=(len(sample), min(count, len(sample))))
    for _ in range(_ROUNDS):
        found = _orthonormal_columns(inner @ found)
    return _orthonormal_columns(sample.T @ found)


def _orthonormal_columns(columns: np.ndarray) -> np.ndarray:
    """Orthonormal basis from the Gram matrix, twice for accuracy; dependent columns are dropped."""
    for _ in range(2):
        values, vectors = np.linalg.eigh(columns.T @ columns)
        keep = values > 1e-10 * values[-1]
        columns = columns @ (vectors[:, keep] / np.sqrt(values[keep]))
    return columns
