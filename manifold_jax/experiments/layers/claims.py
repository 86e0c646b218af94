"""Claims about depth, tested over runs by rank correlations."""

from __future__ import annotations

import numpy as np
import scipy.stats
from jaxtyping import Float

from manifold_jax.experiments.experiment import Row
from manifold_jax.experiments.layers.quantities import Quantities

CLAIMS = {"curvature grows with depth": ("second_form_norm", 1), "reach falls with depth": ("reach", -1)}
"""Claims of Koulakis & Seibold (ICML 2026): quantity at unit volume, and sign of its rank correlation."""


def rank_correlation(values: Float[np.ndarray, "n"]) -> float:
    """Spearman's correlation of values with their order, without NaN; of three different values at least."""
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

    The quantities ``(runs, layers)`` are those of one checkpoint with unit volume; ``when`` names it.
    """
    rows = []
    for claim, (quantity, sign) in CLAIMS.items():
        for part, layers in parts.items():
            runs = getattr(quantities, quantity)[:, layers]
            correlations = np.array([rank_correlation(run) for run in runs])
            defined = correlations[np.isfinite(correlations)]
            row: Row = {"claim": f"{claim}, {when}", "layers": part, "runs": len(runs)}
            row["undefined in"] = len(runs) - len(defined)
            row["holds in"] = int(np.sum(np.sign(defined) == sign))
            row["rank correlation, mean"] = float(defined.mean()) if defined.size else np.nan
            row |= {"least": float(defined.min(initial=np.inf)), "most": float(defined.max(initial=-np.inf))}
            rows.append(row)
    return rows


def as_sentence(row: Row) -> str:
    """A row of :func:`check_claims` for people."""
    lost = f", undefined in {row['undefined in']}" if row["undefined in"] else ""
    share = f"in {row['holds in']} of {row['runs']} runs{lost}"
    correlation = f"{row['rank correlation, mean']:.2f} ({row['least']:.2f} to {row['most']:.2f})"
    return f"{row['claim']}, {row['layers']}: {share}, rank correlation {correlation}."
