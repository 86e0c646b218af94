"""Measure data manifolds in JAX."""

from manifold_jax.geometry import Axis as Axis
from manifold_jax.geometry import Grid as Grid
from manifold_jax.geometry import Jet as Jet
from manifold_jax.geometry import JetGram as JetGram
from manifold_jax.geometry import Manifold as Manifold
from manifold_jax.geometry import christoffel as christoffel
from manifold_jax.geometry import gram as gram
from manifold_jax.geometry import gram_from_function as gram_from_function
from manifold_jax.geometry import gram_from_grid as gram_from_grid
from manifold_jax.geometry import integrate as integrate
from manifold_jax.geometry import jet_from_function as jet_from_function
from manifold_jax.geometry import jet_from_grid as jet_from_grid
from manifold_jax.geometry import mean_curvature as mean_curvature
from manifold_jax.geometry import metric as metric
from manifold_jax.geometry import normal_curvature as normal_curvature
from manifold_jax.geometry import normal_curvature_bounds as normal_curvature_bounds
from manifold_jax.geometry import ricci as ricci
from manifold_jax.geometry import riemann as riemann
from manifold_jax.geometry import scalar_curvature as scalar_curvature
from manifold_jax.geometry import second_form_norm as second_form_norm
from manifold_jax.geometry import second_fundamental_form as second_fundamental_form
from manifold_jax.geometry import sectional_curvature as sectional_curvature
from manifold_jax.geometry import volume_element as volume_element
