"""What tests and the examples of docstrings share: the compilation cache, and names that need no import."""

import gc
import math
import os
from pathlib import Path

# Before JAX is imported: compiled programs are kept for the next run and for the other worker; one that was
# half written is compiled again. The loader's complaints about tuning hints would fill the output.
CACHE = Path(__file__).parent / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.02")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from flax import nnx  # noqa: E402

import manifold_jax  # noqa: E402


@pytest.fixture(autouse=True)
def names_of_examples(doctest_namespace):
    """``mj``, the package; ``jax``, ``jnp``, ``nnx`` of Flax, ``np`` and ``math``."""
    doctest_namespace.update(mj=manifold_jax, jax=jax, jnp=jnp, nnx=nnx, np=np, math=math)


def pytest_collection_finish():
    """Python's garbage collector leaves alone what stays to the end, and looks at the rest less often."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
