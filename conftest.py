"""Names that the examples of docstrings use without importing them, as numpy's do with np."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def names_of_examples(doctest_namespace):
    """``jax``, ``jnp``, ``np`` and ``math``."""
    doctest_namespace.update(jax=jax, jnp=jnp, np=np, math=math)
