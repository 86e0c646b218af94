"""Axes with unequal steps: order of accuracy, quadrature, noise; the geometry is that of any other chart."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manifold_jax import Axis, Grid, measure, reach
from manifold_jax.geometry.grid import axis_weights
from manifold_jax.geometry.stencil import axis_plan, central_weights, node_weights

TURN = 2 * np.pi


def smooth_axis(n: int, periodic: bool = False) -> Axis:
    """Nodes that are a smooth function of their number."""
    t = np.arange(n) / (n if periodic else n - 1)
    nodes = TURN * (t + 0.1 * np.sin(TURN * t)) if periodic else (t + t**2 / 4) / 1.25
    return Axis.from_samples("t", nodes, TURN if periodic else False)


def rough_axis(n: int, periodic: bool = False, seed: int = 0) -> Axis:
    """Nodes moved by up to a third of a step at random."""
    moved = np.arange(n) + np.random.default_rng(seed).uniform(-1 / 3, 1 / 3, n)
    if periodic:
        return Axis.from_samples("t", TURN * moved / n, TURN)
    return Axis.from_samples("t", (moved - moved[0]) / (moved[-1] - moved[0]))


@pytest.mark.parametrize("order", [2, 4, 6, 8])
def test_weights_at_equal_steps_are_the_central_ones(order):
    offsets = np.arange(order + 1) - order // 2
    for derivative in (1, 2):
        np.testing.assert_allclose(
            node_weights(offsets, derivative), central_weights(derivative, order), atol=1e-13
        )


@pytest.mark.parametrize("derivative", [0, 1, 2, 3])
def test_weights_are_exact_on_polynomials(derivative):
    nodes = np.random.default_rng(1).normal(size=7)
    for k in range(7):
        exact = math.factorial(k) if k == derivative else 0.0
        assert (
            abs(node_weights(nodes, derivative) @ nodes**k - exact)
            < 1e-11 * max(1, np.abs(nodes).max() ** k) * 50
        )


@pytest.mark.parametrize("make", [smooth_axis, rough_axis])
@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("order", [2, 4, 6, 8])
def test_derivatives_converge_with_their_order(make, periodic, order):
    errors = []
    for n in (36, 72):
        axis = make(n, periodic)
        plan = axis_plan(axis, ((order, 1),), n, evaluated=False)
        # The error of a complex wave has no zeros that would be met by chance.
        frequency = 1 if periodic else TURN
        wave = np.exp(1j * frequency * axis.samples())
        first, second = plan.matrices[0, 0, 1:] @ wave[plan.columns[0] % n]
        exact = 1j * frequency * wave, -(frequency**2) * wave
        errors.append([np.abs(first - exact[0]).max(), np.abs(second - exact[1]).max()])
    rates = np.log2(np.array(errors[0]) / errors[1])
    # Random nodes have steps of any ratio, so their errors scatter about the rate.
    assert (rates > order - (0.2 if make is smooth_axis else 1.5)).all(), rates


@pytest.mark.parametrize("make", [smooth_axis, rough_axis])
@pytest.mark.parametrize("order", [2, 4, 6, 8])
def test_quadrature_is_exact_on_polynomials_and_converges_over_a_period(make, order):
    axis = make(17)
    for k in range(order):
        assert abs(axis_weights(axis, order) @ axis.samples() ** k - 1 / (k + 1)) < 1e-13
    exact = TURN * 1.2660658777520084  # 2 pi I_0(1), the integral of exp(cos u)
    errors = [
        axis_weights(a, order) @ np.exp(np.cos(a.samples())) - exact
        for a in (make(40, True), make(160, True))
    ]
    assert abs(errors[1]) < max(abs(errors[0]) * 4.0 ** -(order - 1), 1e-13)


def ellipse(u):
    return jnp.stack([2 * jnp.cos(u[0]), jnp.sin(u[0])])


@pytest.mark.parametrize("order", [4, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", [pytest.param(smooth_axis, marks=pytest.mark.slow), rough_axis])
@pytest.mark.thorough
def test_the_geometry_of_an_ellipse_does_not_depend_on_its_nodes(make, order, x64):
    axis = make(96, True)
    points = np.asarray(jax.vmap(ellipse)(axis.samples()[:, None]))
    exact = 2 / (4 * np.sin(axis.samples()) ** 2 + np.cos(axis.samples()) ** 2) ** 1.5
    geometry = measure(points, Grid((axis,)), accuracy=order)
    curvature = geometry.second_form_norm
    assert (np.abs(curvature.value - exact) <= curvature.error).all()
    assert curvature.resolved.all()
    total = geometry.total_volume
    assert abs(total.value - 9.688448220547675) <= total.error
    assert total.resolved
    if order == 8:
        function = measure(ellipse, Grid((axis,)), accuracy=8)
        np.testing.assert_allclose(function.second_form_norm.value, curvature.value, rtol=1e-9)


@pytest.mark.parametrize("make", [smooth_axis, rough_axis])
@pytest.mark.thorough
def test_noise_at_unequal_steps_is_in_the_bars(make, x64):
    axis, sigma = make(96, True), 1e-5  # as many samples as above: compiled once
    noise = sigma * np.random.default_rng(2).normal(size=(96, 3))
    u = axis.samples()
    points = np.stack([np.cos(u), np.sin(u), 0.3 * np.cos(2 * u)], -1) + noise
    velocity, force = (
        np.stack(x, -1)
        for x in (
            (-np.sin(u), np.cos(u), -0.6 * np.sin(2 * u)),
            (-np.cos(u), -np.sin(u), -1.2 * np.cos(2 * u)),
        )
    )
    exact = np.linalg.norm(np.cross(velocity, force), axis=-1) / np.linalg.norm(velocity, axis=-1) ** 3
    geometry = measure(points, Grid((axis,)), accuracy=4)
    assert 0.5 < np.median(geometry.noise) / (sigma * 3**0.5) < 2
    curvature = geometry.second_form_norm
    assert (np.abs(curvature.value - exact) <= curvature.error)[np.asarray(curvature.resolved)].mean() > 0.98


@pytest.mark.thorough
def test_reach_of_an_array_at_unequal_steps(x64):
    axis = smooth_axis(96, True)
    u = axis.samples()
    result = reach(np.stack([2 * np.cos(u), np.sin(u)], -1), Grid((axis,)), accuracy=8)
    assert abs(result.value - 0.5) <= result.error < 0.01  # the radius of curvature b^2 / a


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nodes": (0.0, 0.5)}, "nodes must be 3 increasing numbers"),
        ({"nodes": (0.0, 0.7, 0.5)}, "nodes must be 3 increasing numbers"),
        ({"nodes": (0.1, 0.5, 1.0)}, "from start to stop"),
        ({"nodes": (0.0, math.nan, 1.0)}, "nodes must be 3 finite numbers"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(ValueError, match=words):
        Axis("t", 0.0, 1.0, 3, **options)


def test_spectral_stencils_need_equal_steps():
    with pytest.raises(ValueError, match="equal steps"):
        measure(np.zeros((16, 2)), Grid((smooth_axis(16, True),)), accuracy="spectral")


def test_the_nearest_sample_may_lie_around_the_period():
    axis = Axis("t", 0.0, 10.0, 3, True, nodes=(0.0, 4.0, 5.0))
    np.testing.assert_array_equal(axis.nearest([1.9, 4.6, 7.0, 9.0]) % axis.size, [0, 2, 2, 0])
