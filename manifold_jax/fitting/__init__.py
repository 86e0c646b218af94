"""From samples back to manifolds: neighbours, fitted manifolds, and their distances."""
