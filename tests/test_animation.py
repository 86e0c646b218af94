"""Geodesics, and images that move."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import manifold_jax as mj
from manifold_jax.plotting.traversals import geodesics, traversals

RADIUS = 2.0


def sphere(u):
    """By longitude and latitude."""
    z = jnp.sin(u[1])
    return RADIUS * jnp.stack([jnp.cos(u[0]) * jnp.cos(u[1]), jnp.sin(u[0]) * jnp.cos(u[1]), z])


def test_geodesics_of_the_sphere_are_great_circles():
    with jax.enable_x64(True):
        start, velocity = jnp.array([0.3, 0.4]), jnp.array([0.8, -0.5])
        errors = []
        for steps in (10, 20):
            path = mj.geodesic(sphere, start, velocity, steps=steps)
            x, tangent = sphere(start), jax.jvp(sphere, (start,), (velocity,))[1]
            angle = jnp.linalg.norm(tangent) / RADIUS * jnp.linspace(0, 1, steps + 1)[:, None]
            unit = tangent / jnp.linalg.norm(tangent) * RADIUS
            circle = jnp.cos(angle) * x + jnp.sin(angle) * unit
            errors.append(float(jnp.abs(jax.vmap(sphere)(path.coordinates) - circle).max()))
            # Its speed stays.
            speeds = [jnp.linalg.norm(jax.jvp(sphere, (u,), (v,))[1]) for u, v in zip(*path, strict=True)]
            np.testing.assert_allclose(speeds, RADIUS * float(angle[-1, 0]), rtol=1e-5)
    assert errors[0] < 1e-4
    assert 12 < errors[0] / errors[1] < 20  # order 4


def test_geodesics_do_not_depend_on_the_chart_and_are_straight_where_it_is_flat():
    with jax.enable_x64(True):
        polar = lambda u: u[0] * jnp.stack([jnp.cos(u[1]), jnp.sin(u[1])])  # noqa: E731
        path = mj.geodesic(polar, jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))
        points = np.asarray(jax.vmap(polar)(path.coordinates))
        np.testing.assert_allclose(points, [[1.0, t] for t in np.linspace(0, 1, 101)], atol=1e-8)


@pytest.mark.thorough
def test_geodesics_compose():
    velocities = jnp.array([[1.0, 0.2], [0.3, 0.7]])
    start = jnp.array([0.1, 0.2])
    ends = jax.jit(jax.vmap(lambda v: mj.geodesic(sphere, start, v).coordinates[-1]))(velocities)
    alone = jnp.stack([mj.geodesic(sphere, start, v).coordinates[-1] for v in velocities])
    np.testing.assert_allclose(ends, alone, atol=1e-6)
    assert ends.dtype == jnp.float32
    # The differential of the exponential map at 0 is the identity.
    slope = jax.jacobian(lambda v: mj.geodesic(sphere, start, v, steps=10).coordinates[-1])(jnp.zeros(2))
    np.testing.assert_allclose(slope, np.eye(2), atol=1e-5)


@pytest.mark.parametrize(
    ("start", "velocity", "steps", "message"),
    [
        ([0.0, 0.0], [1.0], 10, "start and velocity must have one shape"),
        ([0.0, math.nan], [1.0, 1.0], 10, "start"),
        ([0.0, 0.0], [1.0, 1.0], 0, "steps"),
        (0.0, [1.0, 1.0], 10, r"start must have shape \(d,\)"),
    ],
)
def test_wrong_geodesics(start, velocity, steps, message):
    with pytest.raises(ValueError, match=message):
        mj.geodesic(sphere, start, velocity, steps=steps)


def test_an_animation_shows_its_images(tmp_path):
    images = np.zeros((5, 3, 6, 6))
    for frame in range(3):
        images[:, frame, 2 * frame : 2 * frame + 2] = 1.0  # a bar that falls
    captions = [[f"frame {frame}" for frame in range(3)]] * 5
    moving = mj.plotting.Moving("bars", images, list("abcde"), captions)
    with Image.open(mj.plotting.save_animation(moving, tmp_path / "bars.gif")) as picture:
        assert picture.n_frames == 3
        frames = []
        for frame in range(3):
            picture.seek(frame)
            frames.append(np.asarray(picture.convert("L"), float))
    # Between two frames the first bar goes dark and the second lights up.
    change = frames[1] - frames[0]
    rows = np.flatnonzero(change.min(axis=1) < -200)
    lit = np.flatnonzero(change.max(axis=1) > 200)
    assert rows.size
    assert lit.size
    assert rows[0] < lit[0]
    with pytest.raises(ValueError, match=r"must end in \.gif"):
        mj.plotting.save_animation(moving, tmp_path / "bars.png")
    with pytest.raises(ValueError, match="5 names, and 5 lists of 3 captions"):
        mj.plotting.save_animation(moving._replace(names=["a"]), tmp_path / "bars.gif")


def test_traversals_and_geodesics_of_images():
    factors, sizes = ("orientation", "x"), {"orientation": 8, "x": 5}
    sprite = mj.datasets.sprite("ellipse", size=16, layout="balanced", factors=factors, sizes=sizes)
    assert traversals(sprite, frames=11).images.shape == (2, 11, 16, 16)
    along = traversals(sprite, frames=12)
    assert along.images.shape == (2, 12, 16, 16)
    # The orientation goes once around, x to its end and back.
    np.testing.assert_allclose(along.images[1], along.images[1, ::-1], atol=1e-6)
    middle = np.array([axis.samples()[axis.size // 2] for axis in sprite.grid.axes])
    middle[0] = sprite.grid.axes[0].start
    np.testing.assert_allclose(along.images[0, 0], sprite.embedding(jnp.asarray(middle)), atol=1e-6)
    geodesic = geodesics(sprite, frames=12)
    assert np.isfinite(geodesic.images).all()
    middle[0] = sprite.grid.axes[0].samples()[4]
    np.testing.assert_allclose(geodesic.images[:, 0], 2 * [sprite.embedding(jnp.asarray(middle))], atol=1e-6)
