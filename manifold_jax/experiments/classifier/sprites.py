"""Where the manifold of the data meets that of a classifier: sprites, whose tangents are known exactly.

A small network learns the shape and the size of sprites. At sprites that it has not seen we compare the
tangents X_i of the data, one for each factor, with the distribution D_x of the network, ask how much of each
factor the network sees, X_i^T G X_i / (|X_i|^2 lambda_max(G)), and pull G back to the factors: a metric with
volume and curvature of its own, induced by u -> 2 sqrt(p(X(u))).
"""

from pathlib import Path

import jax

from manifold_jax.experiments.classifier.sprites_report import data as data
from manifold_jax.experiments.classifier.sprites_report import figure as figure
from manifold_jax.experiments.classifier.sprites_report import table as table
from manifold_jax.experiments.classifier.sprites_run import REDUCED as REDUCED
from manifold_jax.experiments.classifier.sprites_run import Result as Result
from manifold_jax.experiments.classifier.sprites_run import Settings as Settings
from manifold_jax.experiments.classifier.sprites_run import run as run
from manifold_jax.experiments.classifier.task import Progress
from manifold_jax.experiments.experiment import Outcome

_COLUMNS = ("quantity", "shape", "unit", "median", "lower", "upper", "untrained", "random", "error")
_STAGES = ("training", "tangents", "maps")


def outcome(seed: int, folder: Path, settings: Settings, progress: Progress | None = None) -> Outcome:
    """Run the experiment, for the command line.

    Args:
        seed: Of weights, sprites and places.
        folder: Of the checkpoints.
        settings: Size.
        progress: Called with the work done and all of it, stage after stage.

    Returns:
        The outcome.
    """

    def tell(stage: str, done: int, total: int) -> None:
        if progress is not None:
            progress(_STAGES.index(stage) * total + done, len(_STAGES) * total)

    found = run(settings, jax.random.key(seed), folder, tell)
    title = "Sprites: the tangents of the data beside the distribution of a classifier"
    notes = [
        "Angles in degrees; visibility X_i^T G X_i / (|X_i|^2 lambda_max(G)); S of the metric pulled back to "
        "(scale, orientation), 1/2 where its image is totally geodesic in the sphere of radius 2."
    ]
    rows = [{name: row[name] for name in _COLUMNS} for row in table(found)]
    return Outcome(title, rows, data(found), {"sprites": figure(found)}, notes)
