"""Fixtures shared by the tests, and the path of the NumPy oracle."""

import gc
import sys
from pathlib import Path

import jax
import jax.monitoring
import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def x64():
    """Float64 within one test; the package itself never sets the flag."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def compilations():
    """What is compiled from here on."""
    seen = []
    listener = lambda event, _, **__: event.endswith("backend_compile_duration") and seen.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listener)


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Forget compiled programs between files, before their memory maps reach Linux's limit of 65530.

    Beyond it the compiler crashes.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 45_000:
        jax.clear_caches()
        gc.collect()
