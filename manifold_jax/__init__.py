"""Measure data manifolds in JAX.

The geometry of manifolds and of classifiers is here by name, next to the rooms ``datasets``, ``fitting``,
``models`` and ``plotting``. All of it is imported when it is first used, so that importing the package costs
no more than importing JAX.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manifold_jax import datasets as datasets
    from manifold_jax import fitting as fitting
    from manifold_jax import models as models
    from manifold_jax import plotting as plotting
    from manifold_jax.geometry import Axis as Axis
    from manifold_jax.geometry import Estimate as Estimate
    from manifold_jax.geometry import Geometry as Geometry
    from manifold_jax.geometry import Grid as Grid
    from manifold_jax.geometry import Jet as Jet
    from manifold_jax.geometry import JetGram as JetGram
    from manifold_jax.geometry import LayerJets as LayerJets
    from manifold_jax.geometry import Manifold as Manifold
    from manifold_jax.geometry import Reach as Reach
    from manifold_jax.geometry import Verdict as Verdict
    from manifold_jax.geometry import christoffel as christoffel
    from manifold_jax.geometry import geometry_from_xarray as geometry_from_xarray
    from manifold_jax.geometry import gram as gram
    from manifold_jax.geometry import gram_from_function as gram_from_function
    from manifold_jax.geometry import gram_from_grid as gram_from_grid
    from manifold_jax.geometry import integrate as integrate
    from manifold_jax.geometry import jet_from_function as jet_from_function
    from manifold_jax.geometry import jet_from_grid as jet_from_grid
    from manifold_jax.geometry import layer_jets as layer_jets
    from manifold_jax.geometry import load_geometry as load_geometry
    from manifold_jax.geometry import mean_curvature as mean_curvature
    from manifold_jax.geometry import measure as measure
    from manifold_jax.geometry import measure_layers as measure_layers
    from manifold_jax.geometry import metric as metric
    from manifold_jax.geometry import normal_curvature as normal_curvature
    from manifold_jax.geometry import normal_curvature_bounds as normal_curvature_bounds
    from manifold_jax.geometry import reach as reach
    from manifold_jax.geometry import reach_from_samples as reach_from_samples
    from manifold_jax.geometry import ricci as ricci
    from manifold_jax.geometry import riemann as riemann
    from manifold_jax.geometry import scalar_curvature as scalar_curvature
    from manifold_jax.geometry import second_form_norm as second_form_norm
    from manifold_jax.geometry import second_fundamental_form as second_fundamental_form
    from manifold_jax.geometry import sectional_curvature as sectional_curvature
    from manifold_jax.geometry import tangent_ball_radius as tangent_ball_radius
    from manifold_jax.geometry import volume_element as volume_element
    from manifold_jax.information import LocalDataRank as LocalDataRank
    from manifold_jax.information import Path as Path
    from manifold_jax.information import PathStatus as PathStatus
    from manifold_jax.information import check_log_prob as check_log_prob
    from manifold_jax.information import factor_visibility as factor_visibility
    from manifold_jax.information import fisher_factor as fisher_factor
    from manifold_jax.information import fisher_involutivity_defect as fisher_involutivity_defect
    from manifold_jax.information import fisher_matvec as fisher_matvec
    from manifold_jax.information import fisher_rao_distance as fisher_rao_distance
    from manifold_jax.information import fisher_spectrum as fisher_spectrum
    from manifold_jax.information import fisher_trace as fisher_trace
    from manifold_jax.information import horizontal_basis as horizontal_basis
    from manifold_jax.information import horizontal_path as horizontal_path
    from manifold_jax.information import horizontal_projection as horizontal_projection
    from manifold_jax.information import involutivity_defect as involutivity_defect
    from manifold_jax.information import label_keeping_projection as label_keeping_projection
    from manifold_jax.information import label_keeping_walk as label_keeping_walk
    from manifold_jax.information import leaf_distance as leaf_distance
    from manifold_jax.information import leaf_projection as leaf_projection
    from manifold_jax.information import local_data_factor as local_data_factor
    from manifold_jax.information import local_data_matrix as local_data_matrix
    from manifold_jax.information import local_data_matvec as local_data_matvec
    from manifold_jax.information import local_data_rank as local_data_rank
    from manifold_jax.information import local_data_spectrum as local_data_spectrum
    from manifold_jax.information import local_data_trace as local_data_trace
    from manifold_jax.information import output_length as output_length
    from manifold_jax.information import path_length as path_length
    from manifold_jax.information import principal_angles as principal_angles
    from manifold_jax.information import pulled_back as pulled_back
    from manifold_jax.information import vertical_projection as vertical_projection
    from manifold_jax.information import vertical_walk as vertical_walk

_ROOMS = ("datasets", "fitting", "models", "plotting")
_NAMED = ("geometry", "information")
"""Rooms whose public names are names of the package."""


def _names_of(room: str) -> dict[str, Any]:
    """Public names of a room, without its modules."""
    names = vars(importlib.import_module(f"{__name__}.{room}"))
    return {k: v for k, v in names.items() if not k.startswith("_") and not isinstance(v, ModuleType)}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    if not name.startswith("_"):
        for room in _NAMED:
            names = _names_of(room)
            if name in names:
                globals()[name] = names[name]
                return names[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS, *(name for room in _NAMED for name in _names_of(room))})
