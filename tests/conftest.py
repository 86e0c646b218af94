"""Fixtures shared by the tests, and the path of the NumPy oracle."""

import sys
from pathlib import Path

import jax
import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def x64():
    """Float64 within one test; the package itself never sets the flag."""
    with jax.enable_x64(True):
        yield
