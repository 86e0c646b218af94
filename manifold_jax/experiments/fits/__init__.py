"""``manifold-jax bounds``: errors of fitted manifolds against rates and bounds."""
