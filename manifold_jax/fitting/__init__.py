"""From samples back to manifolds."""
