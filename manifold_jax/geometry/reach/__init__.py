"""Reach of manifolds and of samples: the search, and what it returns."""

from manifold_jax.geometry.reach.distortion import distortion_radius as distortion_radius
from manifold_jax.geometry.reach.field import ReachField as ReachField
from manifold_jax.geometry.reach.field import reach_field as reach_field
from manifold_jax.geometry.reach.result import ComponentReach as ComponentReach
from manifold_jax.geometry.reach.result import End as End
from manifold_jax.geometry.reach.result import Reach as Reach
from manifold_jax.geometry.reach.samples import reach_from_samples as reach_from_samples
from manifold_jax.geometry.reach.samples import tangent_ball_radius as tangent_ball_radius
from manifold_jax.geometry.reach.search import reach as reach
