"""Pictures of manifolds and of what was measured on them; needs the extra ``plots``."""

from manifold_jax.plotting.animation import Moving as Moving
from manifold_jax.plotting.animation import save_animation as save_animation
from manifold_jax.plotting.geometry import plot_comparison as plot_comparison
from manifold_jax.plotting.geometry import plot_histograms as plot_histograms
from manifold_jax.plotting.geometry import plot_maps as plot_maps
from manifold_jax.plotting.geometry import plot_pairs as plot_pairs
from manifold_jax.plotting.geometry import save_figure as save_figure
from manifold_jax.plotting.page.sections import save_report as save_report
from manifold_jax.plotting.points import plot_cloud as plot_cloud
from manifold_jax.plotting.points import plot_pca as plot_pca
from manifold_jax.plotting.points import plot_samples as plot_samples
from manifold_jax.plotting.points import principal_components as principal_components
from manifold_jax.plotting.reach import plot_reach as plot_reach
from manifold_jax.plotting.style import Comparison as Comparison
from manifold_jax.plotting.style import compare as compare
from manifold_jax.plotting.style import unit_of as unit_of
from manifold_jax.plotting.union import plot_union as plot_union
