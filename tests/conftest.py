"""Fixtures shared by the tests, and the path of the NumPy oracle."""

import os
import sys
from pathlib import Path

# Most of the time of a test goes into compiling a program that runs once: optimise less, unless told otherwise.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def x64():
    """Float64 within one test; the package itself never sets the flag."""
    with jax.enable_x64(True):
        yield
