"""Measures of a manifold; imports nothing of the package outside itself."""

from manifold_jax.geometry.curvature import christoffel as christoffel
from manifold_jax.geometry.curvature import integrate as integrate
from manifold_jax.geometry.curvature import mean_curvature as mean_curvature
from manifold_jax.geometry.curvature import metric as metric
from manifold_jax.geometry.curvature import ricci as ricci
from manifold_jax.geometry.curvature import riemann as riemann
from manifold_jax.geometry.curvature import scalar_curvature as scalar_curvature
from manifold_jax.geometry.curvature import second_form_norm as second_form_norm
from manifold_jax.geometry.curvature import second_fundamental_form as second_fundamental_form
from manifold_jax.geometry.curvature import sectional_curvature as sectional_curvature
from manifold_jax.geometry.curvature import volume_element as volume_element
from manifold_jax.geometry.grid import Axis as Axis
from manifold_jax.geometry.grid import Grid as Grid
from manifold_jax.geometry.jet import Jet as Jet
from manifold_jax.geometry.jet import JetGram as JetGram
from manifold_jax.geometry.jet import gram as gram
from manifold_jax.geometry.jet import gram_from_function as gram_from_function
from manifold_jax.geometry.jet import gram_from_grid as gram_from_grid
from manifold_jax.geometry.jet import jet_from_function as jet_from_function
from manifold_jax.geometry.jet import jet_from_grid as jet_from_grid
from manifold_jax.geometry.manifold import Manifold as Manifold
from manifold_jax.geometry.normal_curvature import normal_curvature as normal_curvature
from manifold_jax.geometry.normal_curvature import normal_curvature_bounds as normal_curvature_bounds
