"""Names that the examples of docstrings use without importing them, as numpy's do with np."""

import jax
import jax.numpy as jnp
import pytest


@pytest.fixture(autouse=True)
def names_of_examples(doctest_namespace):
    """``jax`` and ``jnp``."""
    doctest_namespace.update(jax=jax, jnp=jnp)
