"""The studies by name."""

from __future__ import annotations

from functools import partial

from manifold_jax.experiments.calibration.balls import FEW_BALLS, Balls, run_balls
from manifold_jax.experiments.calibration.neighbourhoods import (
    FEW_NEIGHBOURHOODS,
    Neighbourhoods,
    run_neighbourhoods,
)
from manifold_jax.experiments.calibration.noise import FEW_NOISES, Noises, run_noises
from manifold_jax.experiments.calibration.reaches import FEW_REACHES, PLACES, Reaches, run_reaches
from manifold_jax.experiments.calibration.words import MANIFOLDS, check_manifolds
from manifold_jax.experiments.experiment import Experiment

STUDIES: dict[str, Experiment] = {
    "neighbourhoods": Experiment(
        "k neighbours and oracle radius",
        Neighbourhoods(),
        FEW_NEIGHBOURHOODS,
        run_neighbourhoods,
        partial(check_manifolds, MANIFOLDS),
    ),
    "noise": Experiment("noise and ambient dimension", Noises(), FEW_NOISES, run_noises),
    "reaches": Experiment(
        "reach by three estimators", Reaches(), FEW_REACHES, run_reaches, partial(check_manifolds, PLACES)
    ),
    "balls": Experiment("ball volumes by a published recipe", Balls(), FEW_BALLS, run_balls),
}
