"""Reach with a border: the tangent cone in Federer's formula, against closed forms and fine lattices."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manifold_jax import Axis, Grid, Manifold, reach
from manifold_jax import datasets as D

TURN = 2 * math.pi


def ring(u):
    return jnp.stack([jnp.cos(u[0]), jnp.sin(u[0])])


def arc(opening, size=65):
    """Circle of radius 1 without ``opening`` radians."""
    return ring, Grid((Axis("angle", opening / 2, TURN - opening / 2, size),))


def covered(result, true, relative):
    assert abs(result.value - true) <= result.error + 1e-15
    assert abs(result.value - true) <= relative * true
    return True


@pytest.mark.parametrize(
    ("opening", "exact"),
    [
        *((opening, True) for opening in (1e-3, 1.5, 4.0)),
        *(pytest.param(opening, True, marks=pytest.mark.slow) for opening in (0.02, 0.1, 0.5, 3.0, 6.0)),
        *(
            pytest.param(opening, False, marks=pytest.mark.slow)
            for opening in (1e-3, 0.02, 0.1, 0.5, 1.5, 3.0, 4.0, 6.0)
        ),
    ],
)
def test_arcs(opening, exact, x64):
    # The ends face each other where the arc is longer than half a circle.
    result = reach(*arc(opening), exact=exact)
    true = math.sin(opening / 2) if opening < math.pi else 1.0
    assert covered(result, true, 1e-12 if exact else 1e-5)
    assert result.resolved == (exact or opening > 0.01)
    assert "upper bound" not in result.sentence()
    np.testing.assert_array_equal(np.flatnonzero(result.border), [0, 64])


@pytest.mark.slow
@pytest.mark.parametrize("exact", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_arcs_in_float32(exact):
    for opening in (0.1, 1.5, 4.0):
        true = math.sin(opening / 2) if opening < math.pi else 1.0
        assert covered(reach(*arc(opening), exact=exact), true, 1e-5 if exact else 2e-3)


# --- the formula, on a fine lattice ------------------------------------------------------------------------


def federer(points, tangents):
    """Smallest |v|^2 / 2 d(v, Tan) of an open curve, whose tangents at the ends are rays; float64."""
    least = math.inf
    for i, (x, tangent) in enumerate(zip(points, tangents, strict=True)):
        v = np.delete(points, i, axis=0) - x
        along = v @ tangent / np.linalg.norm(tangent)
        if i in (0, len(points) - 1):
            along = np.maximum(along * (1 if i == 0 else -1), 0.0)
        squares = np.sum(v**2, axis=1)
        least = min(least, np.min(squares / (2 * np.sqrt(np.maximum(squares - along**2, 1e-12 * squares)))))
    return least


def hook(u):
    """An ellipse whose long axis grows: open, its ends at an angle to each other."""
    return jnp.stack([(2 + 0.05 * u[0]) * jnp.cos(u[0]), jnp.sin(u[0]), 0.02 * u[0] ** 2])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "length"),
    [(2.0, 7.0), (0.1, 1.0), (0.2, 6.0), (1.0, 6.2), (1.5, 5.5), (0.7, 4.5)],
)
def test_hooks_against_the_formula(start, length, x64):
    grid = Grid((Axis("u", start, start + length, 120),))
    result = reach(hook, grid)
    u = jnp.linspace(start, start + length, 3000)[:, None]
    true = federer(np.asarray(jax.vmap(hook)(u)), np.asarray(jax.vmap(jax.jacfwd(hook))(u))[:, :, 0])
    assert abs(result.value - true) <= 2e-3 * true
    assert result.resolved


# --- surfaces ----------------------------------------------------------------------------------------------


def slit_cylinder(opening):
    grid = Grid((Axis("angle", opening / 2, TURN - opening / 2, 49), Axis("height", 0.0, 1.0, 7)))
    return lambda u: jnp.stack([jnp.cos(u[0]), jnp.sin(u[0]), u[1]]), grid


def zone(low, high):
    """Part of the unit sphere between two polar angles."""
    grid = Grid((Axis("polar", low, high, 25), Axis("azimuth", 0.0, TURN, 32, True)))
    return lambda u: jnp.stack([*(jnp.sin(u[0]) * ring(u[1:])), jnp.cos(u[0])]), grid


def bent_square(opening):
    """A unit square bent along its diagonal, so that two corners face each other."""
    diagonal = math.sqrt(2)
    radius = diagonal / (TURN - opening)

    def embedding(u):
        angle = (u[0] + u[1]) / diagonal / radius
        return jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle), (u[1] - u[0]) / diagonal])

    return embedding, Grid((Axis("u", 0.0, 1.0, 21), Axis("v", 0.0, 1.0, 21)))


def annulus(inner, outer):
    grid = Grid((Axis("radius", inner, outer, 9), Axis("angle", 0.0, TURN, 48, True)))
    return lambda u: u[0] * ring(u[1:]), grid


def elliptical_hole():
    """A plate whose hole has semi-axes 2 and 1: the smallest radius of curvature is 1/2."""
    grid = Grid((Axis("angle", 0.1, TURN + 0.1, 48, True), Axis("outward", 0.0, 1.0, 9)))
    return lambda u: (1 + u[1]) * jnp.array([2.0, 1.0]) * ring(u), grid


SURFACES = {
    "elliptical hole": (elliptical_hole(), 0.5),
    "slit cylinder": (slit_cylinder(0.1), math.sin(0.05)),
    "wide slit": (slit_cylinder(1.0), math.sin(0.5)),
    "cap": (zone(0.0, 0.5), 1.0),
    "cap beyond the equator": (zone(0.0, 2.5), math.sin(2.5)),  # its border turns outward
    "zone": (zone(0.3, 1.2), math.sin(0.3)),
    "bent square": (bent_square(0.2), math.sqrt(2) / (TURN - 0.2) * math.sin(0.1)),
    "annulus": (annulus(0.5, 1.0), 0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SURFACES)
@pytest.mark.parametrize("exact", [True, False])
def test_surfaces(name, exact, x64):
    (embedding, grid), true = SURFACES[name]
    result = reach(embedding, grid, exact=exact)
    assert covered(result, true, 1e-9 if exact else 5e-3)
    assert result.resolved


@pytest.mark.slow
def test_a_solid_ring_has_the_reach_of_its_hole(x64):
    axes = (Axis("radius", 0.5, 1.0, 6), Axis("angle", 0.0, TURN, 24, True), Axis("height", 0.0, 1.0, 5))
    result = reach(lambda u: jnp.stack([*(u[0] * ring(u[1:])), u[2]]), Grid(axes))
    assert covered(result, 0.5, 1e-9)
    assert result.resolved


@pytest.mark.slow
def test_a_corner_that_faces_a_corner(x64):
    (embedding, grid), true = SURFACES["bent square"]
    result = reach(embedding, grid)
    assert covered(result, true, 1e-12)
    np.testing.assert_allclose(np.sort(result.pair, axis=0), [[0, 0], [1, 1]])


@pytest.mark.slow
def test_a_flat_rectangle_has_infinite_reach(x64):
    grid = Grid((Axis("u", 0.0, 1.0, 12), Axis("v", 0.0, 2.0, 9)))
    result = reach(lambda u: jnp.stack([u[0] + 0.3 * u[1], 2 * u[1], u[0] - u[1]]), grid)
    assert result.value == math.inf


@pytest.mark.slow
@pytest.mark.parametrize("stop", [8.0, 10.5, 11.5])
def test_a_roll_that_ends_before_its_next_turn(stop, x64):
    roll = D.swiss_roll(4.5, stop, 3.0, size=(97, 5))
    result = reach(roll)
    assert covered(result, roll.known["reach"], 1e-9)


@pytest.mark.slow
def test_an_end_that_points_at_a_surface(x64):
    plate = Manifold(
        "plate",
        lambda u: jnp.stack([u[0], u[1], 0.0 * u[0]]),
        Grid((Axis("x", -1.0, 1.0, 9), Axis("y", -1.0, 1.0, 9))),
        {},
    )
    needle = Manifold(
        "needle",
        lambda u: jnp.stack([0.03 + 0 * u[0], 0.05 + 0 * u[0], u[0]]),
        Grid((Axis("height", 0.4, 2.0, 17),)),
        {},
    )
    result = reach([plate, needle])
    assert covered(result, 0.2, 1e-12)
    assert result.case == "global"


# --- borders that are none ---------------------------------------------------------------------------------


def test_a_closed_axis_sampled_at_both_ends_has_no_border(x64):
    result = reach(ring, Grid((Axis("angle", 0.0, TURN, 65),)))  # as long as the arcs: compiled once
    assert not result.border.any()
    assert covered(result, 1.0, 1e-12)


def test_charts_side_by_side_have_no_border_where_they_meet(x64):
    halves = [
        Manifold(f"half {k}", ring, Grid((Axis("angle", k * math.pi, (k + 1) * math.pi, 65),)), {})
        for k in (0, 1)
    ]
    result = reach(halves)
    assert not any(component.border.any() for component in result.components)
    assert covered(result, 1.0, 1e-12)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", [0, 1])
def test_noise_that_hides_the_curvature_of_a_border_leaves_the_reach_open(seed):
    """A zone of a sphere of radius 2 whose circle at its end, of radius 2 sin 0.6, decides."""
    polar, angle = np.linspace(0.6, 2.5, 40), 2 * np.pi * np.arange(60) / 60
    t, p = np.meshgrid(polar, angle, indexing="ij")
    points = 2 * np.stack([np.sin(t) * np.cos(p), np.sin(t) * np.sin(p), np.cos(t)], axis=-1)
    grid = Grid((Axis("t", 0.6, 2.5, 40), Axis("p", 0.0, 2 * np.pi, 60, periodic=True)))
    noise = np.random.default_rng(seed).normal(size=points.shape)
    smooth, noisy = (reach(points + level * noise, grid) for level in (0.0, 1e-4))
    truth = 2 * math.sin(0.6)
    assert smooth.resolved
    assert abs(smooth.value - truth) <= smooth.error
    assert not noisy.resolved or abs(noisy.value - truth) <= noisy.error
    assert "not resolved: noise dominates" in noisy.sentence()
