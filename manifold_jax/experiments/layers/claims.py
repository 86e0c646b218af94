"""Claims about depth, tested over runs by rank correlations."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Float

from manifold_jax.experiments.experiment import Row
from manifold_jax.experiments.layers.quantities import Quantities


class Claim(NamedTuple):
    """That a quantity rises or falls from layer to layer.

    Attributes:
        words: What is claimed.
        quantity: Field of :class:`Quantities`.
        sign: Sign of the rank correlation with depth that is claimed.
    """

    words: str
    quantity: str
    sign: int


CLAIMS = (
    Claim("curvature grows with depth", "second_form_norm", 1),
    Claim("reach falls with depth", "reach", -1),
)
"""Koulakis & Seibold (ICML 2026), of networks scaled to unit volume."""


def rank_correlation(values: Float[np.ndarray, "n"]) -> float:
    """Spearman's correlation of values with their order; NaN where they are all equal or fewer than three.

    Values that are NaN are left out.
    """
    kept = values[~np.isnan(values)]
    if len(kept) < 3 or (kept == kept[0]).all():
        return np.nan
    return float(np.corrcoef(np.arange(len(kept)), scipy.stats.rankdata(kept))[0, 1])


def parts_of(names: tuple[str, ...]) -> dict[str, slice]:
    """The whole network; for an autoencoder its two halves too, which share the latent."""
    whole = {"all": slice(0, len(names))}
    if "latent" not in names:
        return whole
    middle = names.index("latent")
    return whole | {"encoder": slice(0, middle + 1), "decoder": slice(middle, len(names))}


def check_claims(quantities: Quantities, parts: dict[str, slice], when: str) -> list[Row]:
    """How many runs bear out each of ``CLAIMS`` in each part of the network.

    Args:
        quantities: Those of one checkpoint with unit volume, ``(runs, layers)``.
        parts: Layers of the parts, by name.
        when: Which checkpoint, for the table.
    """
    rows = []
    for claim in CLAIMS:
        for part, layers in parts.items():
            runs = getattr(quantities, claim.quantity)[:, layers]
            correlations = np.array([rank_correlation(run) for run in runs])
            defined = correlations[np.isfinite(correlations)]
            row: Row = {
                "claim": f"{claim.words}, {when}",
                "layers": part,
                "runs": len(runs),
                "undefined in": len(runs) - len(defined),
                "holds in": int(np.sum(np.sign(defined) == claim.sign)),
                "rank correlation, mean": float(defined.mean()) if defined.size else np.nan,
                "least": float(defined.min(initial=np.inf)),
                "most": float(defined.max(initial=-np.inf)),
            }
            rows.append(row)
    return rows


def as_sentence(row: Row) -> str:
    """A row of :func:`check_claims` for people."""
    lost = f", undefined in {row['undefined in']}" if row["undefined in"] else ""
    share = f"in {row['holds in']} of {row['runs']} runs{lost}"
    correlation = f"{row['rank correlation, mean']:.2f} ({row['least']:.2f} to {row['most']:.2f})"
    return f"{row['claim']}, {row['layers']}: {share}, rank correlation {correlation}."
