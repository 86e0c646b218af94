"""Reach of unions whose parts are spaced very differently, or nearer to each other than their points."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manifold_jax import Axis, Grid, Manifold, reach

TURN = 2 * math.pi


def ring(radius, centre, u):
    return jnp.stack([centre + radius * jnp.cos(u[0]), radius * jnp.sin(u[0])])


def circle(radius, centre, size, shift):
    grid = Grid((Axis("angle", shift, shift + TURN, size, True),))
    return Manifold("circle", jax.tree_util.Partial(ring, radius, centre), grid, {})  # one program for all


def beside(big, small, gap, sizes, shift):
    """Two circles outside of each other."""
    return [circle(big, 0.0, sizes[0], shift), circle(small, big + gap + small, sizes[1], 2 * shift)]


@pytest.mark.parametrize("shift", [0.003, *(pytest.param(s, marks=pytest.mark.slow) for s in (0.0, 0.065))])
@pytest.mark.parametrize(
    ("big", "small", "gap", "sizes"),
    [
        (10.0, 0.01, 1e-3, (48, 48)),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((1.0, 1e-3, 1e-4, (40, 17)), (1.0, 1.0, 0.01, (48, 37)))
        ),
    ],
)
@pytest.mark.thorough
def test_gaps_below_the_spacing_are_found(big, small, gap, sizes, shift, x64):
    parts = beside(big, small, gap, sizes, shift)
    result = reach(parts)
    assert result.resolved
    assert result.case == "global"
    assert abs(result.value - gap / 2) <= result.error
    assert abs(result.value - gap / 2) <= 1e-9 * gap
    # The deciding pair is a bottleneck: both ends lie on the line through the centres.
    ends = [np.asarray(parts[end.component].embedding(end.coordinates)) for end in result.ends]
    np.testing.assert_allclose(sorted(ends, key=lambda x: x[0]), [[big, 0], [big + gap, 0]], atol=1e-8 * big)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("big", "small", "gap", "sizes"),
    [(10.0, 0.01, 1e-3, (48, 48)), pytest.param(1.0, 1e-3, 1e-4, (40, 17), marks=pytest.mark.slow)],
)
def test_gaps_below_the_spacing_of_arrays_are_found_or_said_to_be_possible(big, small, gap, sizes, x64):
    result = reach(beside(big, small, gap, sizes, 0.05), exact=False)
    assert abs(result.value - gap / 2) <= result.error
    assert not result.resolved
    assert "narrower" in result.sentence() or "not resolved" in result.sentence()


@pytest.mark.parametrize(("small", "gap", "true"), [(1.0, 0.3, 0.15), (0.1, 1.0, 0.1)])
@pytest.mark.parametrize("exact", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_well_spaced_unions_stay_resolved(small, gap, true, exact, x64):
    result = reach(beside(1.0, small, gap, (48, 48), 0.05), exact=exact)
    assert result.resolved
    assert not result.narrower
    assert abs(result.value - true) <= result.error


@pytest.mark.slow
def test_parallel_circles_have_many_close_pairs(x64):
    def at(height, u):
        return jnp.stack([jnp.cos(u[0]), jnp.sin(u[0]), height + 0 * u[0]])

    grids = [Grid((Axis("angle", shift, shift + TURN, 48, True),)) for shift in (0.0, math.pi / 48)]
    embeddings = [jax.tree_util.Partial(at, height) for height in (0.0, 0.005)]
    result = reach([Manifold("circle", *both, {}) for both in zip(embeddings, grids, strict=True)])
    assert result.resolved
    assert abs(result.value - 0.0025) <= result.error <= 1e-9


def test_what_touches_or_crosses_is_not_resolved(x64):
    for parts in (beside(1.0, 0.5, 0.0, (48, 48), 0.05), [circle(1.0, c, 48, 0.05) for c in (0.0, 1.0)]):
        result = reach(parts)
        assert not result.resolved
        assert result.value <= result.error


@pytest.mark.slow
def test_arrays_say_that_they_are_a_lattice(x64):
    manifold = circle(1.0, 0.0, 48, 0.0)
    points = jnp.stack([manifold.embedding(u) for u in manifold.grid.coordinates()])
    result = reach(points, manifold.grid)
    assert result.on_lattice
    assert "on this lattice" in result.sentence()
    assert "on this lattice" not in reach(manifold).sentence()
