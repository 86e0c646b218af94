"""Autoencoders as fitted manifolds: accuracy on a circle, keys, traces, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manifold_jax.models import Objective
from manifold_jax.models.manifold_fits import decode_points, denoising_autoencoder, variational_autoencoder

FITTERS = (denoising_autoencoder, variational_autoencoder)


def circle(count, radius=1.0, centre=(0.0, 0.0)):
    t = jnp.linspace(0.0, 2 * jnp.pi, count, endpoint=False)
    return jnp.array(centre) + radius * jnp.stack([jnp.cos(t), jnp.sin(t)], axis=-1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fit", "accuracy"), [(denoising_autoencoder, 0.02), (variational_autoencoder, 0.04)]
)
def test_a_circle_is_reproduced_and_points_near_it_are_drawn_to_it(fit, accuracy):
    # Far from the origin and large: without standardised inputs nothing is learnt in 500 steps.
    centre, radius = jnp.array([40.0, -30.0]), 5.0
    samples = circle(200, radius, centre)
    project = fit(samples, dimension=1, key=jax.random.key(0), steps=500)
    test = circle(333, radius, centre)
    error = jnp.linalg.norm(project(test) - test, axis=1) / radius
    assert 0 < float(error.max()) < accuracy
    moved = project(centre + 1.1 * (test - centre))
    assert float(jnp.abs(jnp.linalg.norm(moved - centre, axis=1) / radius - 1).max()) < 0.09
    assert float(jnp.abs(jnp.linalg.norm(moved - centre, axis=1) / radius - 1).mean()) < 0.07


@pytest.mark.slow
def test_the_key_decides_and_other_samples_do_not_retrace():
    samples = circle(40)
    options = {"dimension": 1, "steps": 30, "width": 8}
    before = decode_points._cache_size()
    for fit in FITTERS:
        first, again, other = (fit(samples, key=jax.random.key(k), **options)(samples) for k in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)
    larger = denoising_autoencoder(2 * samples, key=jax.random.key(0), **options)
    assert larger(samples).shape == samples.shape
    assert decode_points._cache_size() - before == 1  # both kinds and all samples have one architecture


@pytest.mark.slow
def test_project_is_a_pytree_for_jit_vmap_and_grad(x64):
    project = denoising_autoencoder(circle(40), dimension=1, key=jax.random.key(0), steps=30, width=8)
    points = circle(6)
    whole = project(points)
    assert whole.dtype == points.dtype == jnp.float64
    np.testing.assert_allclose(jax.jit(lambda p, x: p(x))(project, points), whole, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(project)(points), whole, atol=1e-6)
    np.testing.assert_allclose(project(points.reshape(2, 3, 2)).reshape(6, 2), whole, atol=1e-6)
    step = 1e-2
    slope = jax.grad(lambda s: project(points + s)[0, 0])(0.0)
    difference = (project(points + step)[0, 0] - project(points - step)[0, 0]) / (2 * step)
    assert float(slope) == pytest.approx(float(difference), rel=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("fit", FITTERS)
def test_images_go_through_convolutions(fit):
    images = jax.random.uniform(jax.random.key(0), (6, 16, 16), minval=-3.0, maxval=7.0)
    project = fit(images, dimension=2, key=jax.random.key(0), steps=2, width=4, channels=2)
    decoded = project(images)
    assert decoded.shape == images.shape
    assert float(decoded.min()) >= -3.0
    assert float(decoded.max()) <= 7.0
    assert "convolutions" in project.args[0].params
    np.testing.assert_allclose(project(images.reshape(6, 256)).reshape(images.shape), decoded, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": jnp.zeros((5, 2), int)}, "samples must be a floating-point array"),
        ({"samples": jnp.zeros((1, 2))}, "at least 2 points"),
        ({"samples": jnp.ones((5, 2))}, "all samples coincide"),
        ({"samples": jnp.array([[0.0, 1.0], [jnp.nan, 0.0]])}, "samples must be finite"),
        ({"dimension": 2}, "dimension must be below the 2 feature"),
        ({"dimension": 0}, "dimension must be a whole number, at least 1"),
        ({"latent": 0}, "latent must be a whole number, at least 1, got 0"),
        ({"steps": 0}, "steps must be a whole number, at least 1"),
        ({"width": 2.5}, "width must be a whole number, at least 1"),
        ({"learning_rate": -1.0}, "learning_rate must be a positive"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(change, message):
    options = {"samples": circle(8), "dimension": 1, "key": jax.random.key(0)} | change
    for fit in FITTERS:
        with pytest.raises(ValueError, match=message) as caught:
            fit(options.pop("samples") if "samples" in options else change["samples"], **options)
        options["samples"] = change.get("samples", circle(8))
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_more_refusals():
    with pytest.raises(ValueError, match="noise must be a positive"):
        denoising_autoencoder(circle(8), dimension=1, key=jax.random.key(0), noise=0.0)
    with pytest.raises(ValueError, match="latent must be a whole number, at least 2, got 1"):
        denoising_autoencoder(jnp.ones((4, 3)), dimension=2, latent=1, key=jax.random.key(0))
    wrong = Objective("Z")
    with pytest.raises(ValueError, match="kind must be one of"):
        variational_autoencoder(circle(8), dimension=1, key=jax.random.key(0), objective=wrong)
    with pytest.raises(ValueError, match="the training diverged after"):
        denoising_autoencoder(circle(8), dimension=1, key=jax.random.key(0), steps=20, learning_rate=1e30)
    project = denoising_autoencoder(circle(8), dimension=1, key=jax.random.key(0), steps=1, width=4)
    with pytest.raises(ValueError, match="points must have shape"):
        project(jnp.zeros((3, 5)))
