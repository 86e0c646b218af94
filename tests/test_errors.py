"""Wrong calls and what they say: what was expected, what came, how to mend it."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from manifold_jax import (
    Axis,
    Grid,
    Jet,
    Manifold,
    christoffel,
    gram,
    gram_from_function,
    gram_from_grid,
    integrate,
    jet_from_function,
    jet_from_grid,
    load_geometry,
    measure,
    scalar_curvature,
    sectional_curvature,
)

OPEN = Axis("height", 0.0, 1.0, 9)
ANGLE = Axis("angle", 0.0, 2 * math.pi, 12, periodic=True)
GRID = Grid((OPEN, ANGLE))
POINTS = np.random.default_rng(0).normal(size=(9, 12, 3)).astype(np.float32)
SHORT = Grid((Axis("narrow", 0.0, 1.0, 5),))


def flat(u):
    return jnp.append(u, 0.0)


def broken(where, value):
    points = POINTS.copy()
    points[where] = value
    return points


def curve():
    return gram(Jet(jnp.ones((1, 2)), jnp.ones((1, 1, 2))))


def surface():
    return gram(Jet(jnp.eye(2, 3), jnp.ones((2, 2, 3))))


WRONG = {
    # axes
    "axis without a name": (lambda: Axis("", 0, 1, 5), r"non-empty name first, .*, got ''"),
    "name is a number": (lambda: Axis(3, 0, 1, 5), r"non-empty name first, as in Axis\('angle'.*, got 3"),
    "name is forgotten": (lambda: Axis(0.0, 360.0, 24), r"non-empty name first, as in .*, got 0.0"),
    "size is forgotten": (lambda: Axis("u", 0.0, 1.0), r"size must be a whole number, at least 2, got None"),
    "start is text": (lambda: Axis("a", "left", 1, 5), r"'a': start must be a finite number, got 'left'"),
    "stop is missing": (lambda: Axis("a", 0, None, 5), r"'a': stop must be a finite number, got None"),
    "start is nan": (lambda: Axis("a", math.nan, 1, 5), r"'a': start must be a finite number, got nan"),
    "stop is infinite": (lambda: Axis("a", 0, math.inf, 5), r"'a': stop must be a finite number, got inf"),
    "decreasing axis": (lambda: Axis("a", 1, 0, 5), r"'a' must increase: start 1 is not below stop 0"),
    "empty range": (lambda: Axis("a", 1, 1, 5), r"'a' must increase"),
    "one sample": (lambda: Axis("a", 0, 1, 1), r"'a': size must be a whole .*at least 2, got 1"),
    "negative size": (lambda: Axis("a", 0, 1, -3), r"'a': size must be a whole .*at least 2, got -3"),
    "fractional size": (
        lambda: Axis("a", 0, 1, 4.5),
        r"'a': size must be a whole .*at least 2, got 4.5",
    ),
    "boolean size": (
        lambda: Axis("a", 0, 1, True),
        r"'a': size must be a whole .*at least 2, got True",
    ),
    "textual size": (lambda: Axis("a", 0, 1, "8"), r"'a': size must be a whole .*at least 2, got '8'"),
    "no size": (lambda: Axis("a", 0, 1, None), r"'a': size must be a whole .*at least 2, got None"),
    "nan size": (lambda: Axis("a", 0, 1, math.nan), r"'a': size must be a whole .*at least 2, got nan"),
    "infinite size": (
        lambda: Axis("a", 0, 1, math.inf),
        r"'a': size must be a whole .*at least 2, got inf",
    ),
    "wordy size": (
        lambda: Axis("a", 0, 1, "many"),
        r"'a': size must be a whole .*at least 2, got 'many'",
    ),
    "open axis without wrap": (lambda: Axis("a", 0, 1, 5, wrap=False), r"'a': wrap=False.*periodic=True"),
    # grids
    "no axes": (lambda: Grid(()), r"one Axis or more, got \(\)"),
    "sizes for axes": (lambda: Grid((8, 8)), r"one Axis or more, got \(8, 8\)"),
    "a number for axes": (lambda: Grid(8), r"Axis.*got.*8"),
    "repeated name": (lambda: Grid((OPEN, OPEN)), r"distinct names, got \('height', 'height'\)"),
    "unknown accuracy of weights": (lambda: GRID.weights(3), r"accuracy must be one of 2, 4, 6, 8.*got 3"),
    # manifolds
    "points as embedding": (
        lambda: Manifold("m", POINTS, GRID),
        r"'m': embedding must be a function, got ndarray",
    ),
    "shape as grid": (lambda: Manifold("m", flat, (9, 12)), r"'m': grid must be a Grid, got tuple"),
    # stencils
    "odd accuracy": (
        lambda: gram_from_grid(POINTS, GRID, accuracy=5),
        r"accuracy must be one of 2, 4, 6, 8.*got 5",
    ),
    "accuracy by name": (lambda: gram_from_grid(POINTS, GRID, accuracy="best"), r"accuracy must be.*'best'"),
    "boolean accuracy": (lambda: gram_from_grid(POINTS, GRID, accuracy=True), r"accuracy must be.*got True"),
    "accuracies of another grid": (
        lambda: gram_from_grid(POINTS, GRID, accuracy=(2, 4, 6)),
        r"accuracy must be one, or one per axis \('height', 'angle'\), got \(2, 4, 6\)",
    ),
    "spectral on an open axis": (
        lambda: gram_from_grid(POINTS, GRID, accuracy="spectral"),
        r"'spectral' needs a periodic axis with equal steps; axis 'height'",
    ),
    "zero stride": (
        lambda: gram_from_grid(POINTS, GRID, stride=0),
        r"stride must be a whole number, at least 1, got 0",
    ),
    "fractional stride": (lambda: gram_from_grid(POINTS, GRID, stride=1.5), r"stride must be.*got 1.5"),
    "strides of another grid": (lambda: gram_from_grid(POINTS, GRID, stride=(1, 1, 1)), r"one per axis"),
    "stride by name": (lambda: gram_from_grid(POINTS, GRID, stride="two"), r"stride must be.*got 'two'"),
    "no stride": (lambda: gram_from_grid(POINTS, GRID, stride=None), r"stride must be.*got None"),
    "too few samples": (
        lambda: gram_from_grid(np.ones((5, 2), np.float32), SHORT),
        r"'narrow' has 5 samples; order 4 at stride 1 needs at least 6: take more samples",
    ),
    "too few samples at a stride": (
        lambda: gram_from_grid(POINTS, GRID, stride=(2, 1)),
        r"'height' has 9 samples; order 4 at stride 2 needs at least 12",
    ),
    # points
    "no grid": (lambda: gram_from_grid(POINTS, None), r"grid must be a manifold_jax.Grid, got NoneType"),
    "shape for a grid": (
        lambda: jet_from_grid(POINTS, POINTS.shape),
        r"must be a manifold_jax.Grid, got tuple",
    ),
    "features first": (
        lambda: gram_from_grid(np.moveaxis(POINTS, -1, 0), GRID),
        r"shape \(3, 9, 12\), but the grid axes \('height', 'angle'\).*\(9, 12\)",
    ),
    "truth values": (lambda: gram_from_grid(POINTS > 0, GRID), r"real numbers, got bool: convert"),
    "complex numbers": (lambda: gram_from_grid(POINTS + 0j, GRID), r"real numbers, got complex"),
    "no features": (lambda: gram_from_grid(np.ones((9, 12, 0), np.float32), GRID), r"have no features"),
    "zero block": (
        lambda: gram_from_grid(POINTS, GRID, block_size=0),
        r"block_size must be a whole number, at least 1, got 0",
    ),
    # functions
    "integer coordinates": (lambda: jet_from_function(flat, jnp.arange(4)), r"floating-point array.*int32"),
    "scalar coordinate": (
        lambda: jet_from_function(flat, jnp.asarray(1.0)),
        r"shape \(\.\.\., d\).*shape \(\)",
    ),
    "embedding of two arguments": (
        lambda: jet_from_function(lambda x, y: x, jnp.ones((4, 2))),
        r"does not accept one chart point of shape \(2,\)",
    ),
    "embedding of another dimension": (
        lambda: gram_from_function(lambda u: jnp.eye(3) @ u, jnp.ones((4, 2))),
        r"does not accept one chart point of shape \(2,\)",
    ),
    "embedding into integers": (
        lambda: gram_from_function(lambda u: jnp.arange(3), jnp.ones((4, 2))),
        r"must return one floating-point array",
    ),
    "embedding into two arrays": (
        lambda: gram_from_function(lambda u: (u, u), jnp.ones((4, 2))),
        r"must return one floating-point array",
    ),
    "zero batch": (
        lambda: gram_from_function(flat, jnp.ones((4, 2)), batch_size=0),
        r"batch_size must be a whole number, at least 1, got 0",
    ),
    # curvatures
    "third kind": (lambda: christoffel(surface(), kind=3), r"kind must be one of 1, 2, got 3"),
    "sectional curvature of a curve": (
        lambda: sectional_curvature(curve(), jnp.ones(1), jnp.ones(1)),
        r"dimension 2 or more, got d = 1",
    ),
    "vector of another dimension": (
        lambda: sectional_curvature(surface(), jnp.ones(2), jnp.ones(3)),
        r"v must have 2 chart components.*\(3,\)",
    ),
    "integral of another grid": (
        lambda: integrate(jnp.ones((3, 3)), jnp.ones((9, 12)), GRID),
        r"grid's shape \(9, 12\), got \(3, 3\)",
    ),
    "volume of another grid": (lambda: integrate(1.0, jnp.ones(5), GRID), r"\(9, 12\), got \(\) and \(5,\)"),
    "curvature of a jet": (
        lambda: scalar_curvature(Jet(jnp.eye(2, 3), jnp.ones((2, 2, 3)))),
        r"JetGram.*got Jet",
    ),
    # measure
    "measure without a grid": (
        lambda: measure(POINTS),
        r"grid must be .*Grid, got NoneType",
    ),
    "measure an embedding without a grid": (
        lambda: measure(flat),
        r"grid must be .*Grid, got NoneType",
    ),
    "measure a cloud": (
        lambda: measure(POINTS),
        r"got NoneType: fitting.curvature_from_samples and reach_from_samples take points without a grid",
    ),
    "measure a shape": (lambda: measure(POINTS, (9, 12)), r"must be a manifold_jax.Grid, got tuple"),
    "nan": (
        lambda: measure(broken((3, 4, 1), np.nan), GRID),
        r"measure: points must be finite.*1 of 108.*\(3, 4\)",
    ),
    "infinity on the device": (
        lambda: measure(jnp.asarray(broken((0, 2), np.inf)), GRID),
        r"NaN or infinite.*1 of 108.*\(0, 2\)",
    ),
    "exact without an embedding": (
        lambda: measure(POINTS, GRID, exact=True),
        r"exact=True needs a function or a Manifold",
    ),
    "zero tolerance": (
        lambda: measure(POINTS, GRID, tolerance=0.0),
        r"a positive .*below 1, got 0",
    ),
    "percent tolerance": (
        lambda: measure(POINTS, GRID, tolerance=10),
        r"positive .*below 1, got 10",
    ),
    "textual tolerance": (
        lambda: measure(POINTS, GRID, tolerance="low"),
        r"positive .*below 1, got 'low'",
    ),
    "empty union": (lambda: measure([]), r"takes one manifold, got a sequence of 0"),
    # files
    "no such result": (
        lambda: load_geometry("/nowhere/at/all.nc"),
        r"no saved geometry at /nowhere/at/all.nc",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_call(name):
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    text = str(caught.value)
    assert text.endswith((".", "?")) or ":" in text, text
    assert 20 <= len(text) <= 300, text
    assert "\n" not in text, text


def test_there_are_many():
    assert len(WRONG) >= 25
