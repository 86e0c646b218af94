"""The regression of the Weingarten map: an independent oracle, closed forms, convergence, invariance."""

import jax.numpy as jnp
import numpy as np
import pytest

from manifold_jax import mean_curvature, scalar_curvature
from manifold_jax.fitting import local_pca_tangents, local_quadratic_fit, weingarten_fit

RNG = np.random.default_rng


def on_sphere(n, d=2, seed=0):
    x = RNG(seed).normal(size=(n, d + 1))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def tangents_of_sphere(x):
    return np.linalg.svd(x[:, None])[2][:, 1:]


def oracle(points, frames, i, k):
    """II ``(d, d, f)`` at one point, one normal after the other: projections, ``lstsq``, symmetry."""
    d, f = frames.shape[1:]
    near = np.argsort(np.linalg.norm(points - points[i], axis=1))[1 : k + 1]
    normals = np.linalg.svd(frames[i])[2][d:]
    form = np.zeros((d, d, f))
    for normal in normals:
        moved = [normal - frames[j].T @ (frames[j] @ normal) - normal for j in near]
        steps = (points[near] - points[i]) @ frames[i].T
        weingarten = np.linalg.lstsq(steps, -np.array(moved) @ frames[i].T, rcond=None)[0]
        form += ((weingarten + weingarten.T) / 2)[:, :, None] * normal
    return form


@pytest.mark.thorough
def test_the_map_is_that_of_an_independent_regression(x64):
    n, k = 60, 9
    t = RNG(0).uniform(-1, 1, (n, 2))
    points = np.stack([*t.T, t[:, 0] ** 2, t[:, 0] * t[:, 1], np.sin(t[:, 1])], axis=1)
    frames = np.asarray(local_pca_tangents(jnp.asarray(points), dimension=2, neighbours=k))
    rows = jnp.array([3, 41])
    fit = weingarten_fit(
        jnp.asarray(points), dimension=2, neighbours=k, tangents=jnp.asarray(frames), rows=rows
    )
    for row, place in enumerate(rows):
        form = oracle(points, frames, int(place), k)
        products = np.einsum("ijf,klf->ijkl", form, form)
        np.testing.assert_allclose(fit.gram.second[row], products, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(fit.gram.mixed, 0, atol=1e-12)
    np.testing.assert_allclose(fit.gram.metric, np.broadcast_to(np.eye(2), (2, 2, 2)), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("d", [1, 2, 3])
def test_with_exact_tangents_it_converges_as_the_square_of_the_neighbourhood(d, x64):
    # On the sphere of radius r it gives II = -g x / r^2 times a weighted mean of 1 - |x_i - x|^2 / 2 r^2.
    errors = []
    for n in (400, 400 * 4**d):
        x = on_sphere(n, d)
        rows = jnp.arange(200)
        fit = weingarten_fit(
            jnp.asarray(2 * x),
            dimension=d,
            neighbours=24,
            tangents=jnp.asarray(tangents_of_sphere(x)),
            rows=rows,
        )
        errors.append(float(jnp.sqrt(jnp.mean((mean_curvature(fit.gram) - 0.5) ** 2))))
    assert errors[1] < 0.01
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.25)  # (4^d)^(2/d)


@pytest.mark.slow
def test_with_estimated_tangents_it_needs_more_neighbours(x64):
    """Principal components scatter by O(h): what a fixed number of neighbours leaves does not vanish."""

    def error(n, k):
        rows = jnp.arange(300)
        fit = weingarten_fit(jnp.asarray(on_sphere(n)), dimension=2, neighbours=k, rows=rows)
        return float(jnp.sqrt(jnp.mean((scalar_curvature(fit.gram) / 2 - 1) ** 2)))

    assert error(4000, 12) > 0.15
    assert error(4000, 100) < 0.5 * error(4000, 12)


@pytest.mark.slow
def test_frames_may_be_turned_and_points_moved(x64):
    x, turn = on_sphere(60), np.linalg.qr(RNG(1).normal(size=(6, 3)))[0].T
    frames = tangents_of_sphere(x)
    angles = RNG(2).uniform(0, 6, 60)
    spun = np.stack([[np.cos(angles), np.sin(angles)], [-np.sin(angles), np.cos(angles)]]).transpose(2, 0, 1)
    rows = jnp.arange(5)
    options = {"dimension": 2, "neighbours": 12, "rows": rows, "weights": "tricube"}
    plain = weingarten_fit(jnp.asarray(x), tangents=jnp.asarray(frames), **options)
    other = weingarten_fit(
        jnp.asarray(3 * x @ turn + 1), tangents=jnp.asarray(spun @ frames @ turn), **options
    )
    np.testing.assert_allclose(
        9 * scalar_curvature(other.gram), scalar_curvature(plain.gram), rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(other.radius, 3 * plain.radius, rtol=1e-9)


@pytest.mark.parametrize("fit", [weingarten_fit, pytest.param(local_quadratic_fit, marks=pytest.mark.slow)])
@pytest.mark.thorough
def test_rows_are_those_of_all_points(fit, x64):
    x, rows = jnp.asarray(on_sphere(60)), jnp.array([7, 0, 59])
    every, some = fit(x, dimension=2, neighbours=12), fit(x, dimension=2, neighbours=12, rows=rows)
    np.testing.assert_allclose(
        scalar_curvature(some.gram), scalar_curvature(every.gram)[rows], rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": jnp.array([0, 20])}, "rows must be from 0 to 19, got 0 to 20"),
        ({"rows": jnp.array([0.0])}, "rows must be whole numbers"),
        ({"radius": jnp.ones(3), "rows": jnp.arange(2)}, "radius must be one number or 2 of them"),
        ({"tangents": jnp.ones((2, 2, 3)), "rows": jnp.arange(2)}, r"tangents must have shape \(20, 2, 3\)"),
        ({"weights": "gauss"}, "weights must be one of"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=f"weingarten_fit: {message}"):
        weingarten_fit(jnp.asarray(on_sphere(20)), dimension=2, **{"neighbours": 8} | options)
