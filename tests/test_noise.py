"""Noise: distribution of its length and direction, and orthogonality to the tangents."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from scipy import stats

from manifold_jax.datasets.compose import product
from manifold_jax.datasets.curves import circle, helix
from manifold_jax.datasets.noise import ambient_noise, normal_noise
from manifold_jax.datasets.surfaces import sphere, torus, veronese
from manifold_jax.geometry.grid import Axis, Grid
from manifold_jax.geometry.manifold import Manifold

KINDS = ("gaussian", "uniform")


def charts(manifold, n, seed=0):
    low = np.array([a.start for a in manifold.grid.axes])
    high = np.array([a.stop for a in manifold.grid.axes])
    shares = np.random.default_rng(seed).uniform(0.1, 0.9, (n, len(low)))
    return jnp.asarray(low + shares * (high - low))


def embed(manifold, coordinates):
    return np.asarray(jax.jit(jax.vmap(manifold.embedding))(coordinates))


def test_both_kinds_of_noise_on_a_circle():
    manifold, key = circle(), jax.random.key(0)
    for kind in KINDS:
        moved = normal_noise(key, manifold, jnp.zeros((3, 1)), 0.1, kind=kind)
        np.testing.assert_allclose(moved[:, 1], 0.0, atol=1e-6)
        assert np.abs(moved[:, 0] - 1.0).min() > 0
    assert np.abs(ambient_noise(key, jnp.ones((3, 2)), 0.1) - 1.0).min() > 0


def displacement(manifold, coordinates, noisy):
    points = embed(manifold, coordinates)
    return (np.asarray(noisy) - points).reshape(len(coordinates), -1)


@pytest.mark.slow
@pytest.mark.parametrize("make", [helix, lambda: product(circle(), torus())])
def test_normal_noise_is_orthogonal_to_the_tangents(make):
    with jax.enable_x64(True):
        manifold = make()
        coordinates = charts(manifold, 20)
        jacobian = np.asarray(jax.jit(jax.vmap(jax.jacfwd(manifold.embedding)))(coordinates))
        for kind in KINDS:
            noisy = normal_noise(jax.random.key(0), manifold, coordinates, 0.3, kind=kind)
            assert noisy.dtype == jnp.float64
            moved = displacement(manifold, coordinates, noisy)
            assert np.linalg.norm(moved, axis=1).min() > 1e-4
            np.testing.assert_allclose(np.einsum("nf,nfi->ni", moved, jacobian), 0.0, atol=1e-14)


@pytest.mark.slow
def test_lengths_have_the_stated_distribution():
    manifold, codimension = veronese(), 3
    coordinates = charts(manifold, 4000)
    draw = partial(normal_noise, jax.random.key(5), manifold, coordinates, 0.2)
    gaussian = np.linalg.norm(displacement(manifold, coordinates, draw()), axis=1) / 0.2
    assert stats.kstest(gaussian, stats.chi(codimension).cdf).pvalue > 0.01
    uniform = np.linalg.norm(displacement(manifold, coordinates, draw(kind="uniform")), axis=1) / 0.2
    assert uniform.max() <= 1.0 + 1e-4
    assert stats.kstest(uniform**codimension, stats.uniform.cdf).pvalue > 0.01


@pytest.mark.slow
def test_directions_are_uniform_in_the_normal_space():
    ring = Manifold(
        "ring in R^4",
        lambda u: jnp.stack([jnp.cos(u[0]), jnp.sin(u[0]), 0.0 * u[0], 0.0 * u[0]]),
        circle().grid,
    )
    coordinates = charts(ring, 4000)
    noisy = normal_noise(jax.random.key(6), ring, coordinates, 0.2, kind="uniform")
    moved = displacement(ring, coordinates, noisy)
    angle = np.arctan2(moved[:, 2], moved[:, 3])
    assert stats.kstest(angle, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 0.01
    radial = np.einsum("nf,nf->n", moved, embed(ring, coordinates))
    cosine = radial / np.linalg.norm(moved, axis=1)  # uniform on S^2 by Archimedes
    assert stats.kstest(cosine, stats.uniform(-1, 2).cdf).pvalue > 0.01


@pytest.mark.slow
def test_normal_noise_on_images_and_on_whole_numbers():
    image = Manifold(
        "image",
        lambda u: jnp.outer(
            jnp.cos(u[0] + jnp.arange(3, dtype=u.dtype)), jnp.exp(u[0] * jnp.ones_like(u, shape=2))
        ),
        Grid((Axis("x", 0.0, 1.0, 5),)),
    )
    noisy = normal_noise(jax.random.key(0), image, jnp.ones((20, 1)), 0.1)
    assert noisy.shape == (20, 3, 2)
    assert noisy.dtype == jnp.float32
    assert normal_noise(jax.random.key(0), sphere(), jnp.ones((20, 2), int), 0.1).shape == (20, 3)


def test_poles_are_marked_and_nothing_else():
    coordinates = jnp.array([[0.0, 1.0], [1e-3, 1.0], [1.0, 1.0], [jnp.pi, 1.0], [jnp.nan, 0.0]])
    noisy = normal_noise(jax.random.key(0), sphere(), coordinates, 0.1)
    np.testing.assert_array_equal(np.isnan(noisy).all(axis=1), [True, False, False, True, True])
    np.testing.assert_array_equal(np.isnan(noisy).any(axis=1), [True, False, False, True, True])


@pytest.mark.slow
def test_noise_below_the_reach_keeps_the_nearest_point():
    manifold = circle()
    coordinates = charts(manifold, 20)
    noisy = np.asarray(normal_noise(jax.random.key(1), manifold, coordinates, 0.9, kind="uniform"))
    angle = np.mod(np.arctan2(noisy[:, 1], noisy[:, 0]), 2 * np.pi)
    np.testing.assert_allclose(angle, np.asarray(coordinates)[:, 0], atol=1e-5)


@pytest.mark.slow
def test_ambient_noise():
    points = jnp.ones((2000, 3))
    noisy = ambient_noise(jax.random.key(0), points, 0.5)
    assert stats.kstest(np.ravel(noisy - points) / 0.5, stats.norm.cdf).pvalue > 0.01
    np.testing.assert_array_equal(noisy, ambient_noise(jax.random.key(0), points, 0.5))
    assert not np.array_equal(noisy, ambient_noise(jax.random.key(1), points, 0.5))
    np.testing.assert_array_equal(ambient_noise(jax.random.key(0), points, 0.0), points)
    assert ambient_noise(jax.random.key(0), points.astype(jnp.bfloat16), 0.5).dtype == jnp.bfloat16


@pytest.mark.slow
def test_noise_composes_with_jit_and_vmap_and_depends_on_its_key():
    manifold = torus()
    coordinates = charts(manifold, 20)
    draw = lambda key, scale: normal_noise(key, manifold, coordinates, scale)  # noqa: E731
    eager = draw(jax.random.key(0), 0.1)
    np.testing.assert_array_equal(eager, draw(jax.random.key(0), 0.1))
    assert not np.array_equal(eager, draw(jax.random.key(1), 0.1))
    scales = jnp.array([0.0, 0.1])
    both = jax.vmap(jax.jit(draw), in_axes=(None, 0))(jax.random.key(0), scales)
    np.testing.assert_allclose(both[1], eager, atol=1e-6)
    np.testing.assert_allclose(both[0], embed(manifold, coordinates), atol=1e-6)


@pytest.mark.slow
def test_noise_lowers_for_every_platform():
    manifold = sphere()

    def draw(key):
        return normal_noise(key, manifold, jnp.ones((4, 2)), 0.1, kind="uniform")

    export.export(jax.jit(draw), platforms=("cpu", "cuda", "tpu"))(jax.random.PRNGKey(0))


KEY = jax.random.PRNGKey(0)
PLANE = Manifold("plane", lambda u: u, Grid((Axis("x", 0.0, 1.0, 3), Axis("y", 0.0, 1.0, 3))))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ambient_noise(KEY, jnp.ones(3, jnp.uint8), 1.0),
            "points must be a floating-point array .* got uint8",
        ),
        (
            lambda: ambient_noise(KEY, jnp.ones(3), -1.0),
            "ambient_noise: scale must be a finite number",
        ),
        (
            lambda: normal_noise(KEY, sphere(), jnp.ones((3, 2)), jnp.inf),
            "normal_noise: scale must be a finite number, at least 0",
        ),
        (lambda: normal_noise(KEY, sphere(), jnp.ones((3, 3)), 0.1), r"shape \(n, 2\), got \(3, 3\)"),
        (lambda: normal_noise(KEY, sphere(), jnp.ones(2), 0.1), r"shape \(n, 2\), got \(2,\)"),
        (lambda: normal_noise(KEY, sphere(), jnp.ones((3, 2)), 0.1, kind="box"), "'uniform', got 'box'"),
        (
            lambda: normal_noise(KEY, PLANE, jnp.ones((3, 2)), 0.1),
            "'plane' has dimension 2 and 2 feature.*ambient",
        ),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
