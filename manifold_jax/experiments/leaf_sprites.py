"""Where the manifold of the data meets that of a classifier: sprites, whose tangents are known exactly.

A small network learns the shape and the size of sprites. At sprites that it has not seen we compare the
tangents X_i of the data, one for each factor, with the distribution D_x of the network, ask how much of each
factor the network sees, X_i^T G X_i / (|X_i|^2 lambda_max(G)), and pull G back to the factors: a metric with
volume and curvature of its own, induced by u -> 2 sqrt(p(X(u))).
"""

from manifold_jax.experiments.leaf_sprites_report import data as data
from manifold_jax.experiments.leaf_sprites_report import figure as figure
from manifold_jax.experiments.leaf_sprites_report import table as table
from manifold_jax.experiments.leaf_sprites_run import REDUCED as REDUCED
from manifold_jax.experiments.leaf_sprites_run import Result as Result
from manifold_jax.experiments.leaf_sprites_run import Settings as Settings
from manifold_jax.experiments.leaf_sprites_run import run as run
