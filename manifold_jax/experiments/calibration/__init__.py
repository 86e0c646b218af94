"""Studies of ``manifold-jax calibrate`` that vary what estimators see."""
