"""Traced reach: closed forms, a loop in NumPy, derivatives, ties, places, bars of float32, memory."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from manifold_jax import datasets, reach, reach_field, reach_from_samples

TURN = 2 * math.pi


def generic(n, d, f, seed=0):
    """Points and tangents without any order: all balls differ."""
    random = np.random.default_rng(seed)
    return random.normal(size=(n, f)), random.normal(size=(n, d, f))


def ellipse(n, shift=0.37):
    """Unevenly sampled, its sharpest points not among the samples."""
    t = TURN * (np.arange(n) + shift) / n
    t = t + 0.3 * np.sin(t)
    return np.stack([2 * np.cos(t), np.sin(t)], -1), np.stack([-2 * np.sin(t), np.cos(t)], -1)[:, None]


def surface(manifold):
    """Points and coordinate tangents of a manifold on its grid."""
    u = manifold.grid.coordinates().reshape(-1, manifold.grid.ndim)
    tangents = jax.vmap(jax.jacfwd(manifold.embedding))(u)
    return jax.vmap(manifold.embedding)(u), jnp.swapaxes(tangents, 1, 2)


@pytest.mark.parametrize(
    ("n", "d", "f", "block_size"),
    [
        (60, 1, 3, None),
        (40, 3, 40, 7),
        pytest.param(60, 1, 3, 7, marks=pytest.mark.thorough),
        pytest.param(40, 3, 40, None, marks=pytest.mark.thorough),
    ],
)
def test_it_is_the_formula(n, d, f, block_size, x64):
    points, tangents = generic(n, d, f)
    radius, witness = oracle.tangent_balls(points, tangents)
    field = reach_field(points, tangents, block_size=block_size)
    np.testing.assert_allclose(field.radius, radius, rtol=1e-12)
    np.testing.assert_array_equal(field.witness, witness)
    assert float(jnp.max(field.error / field.radius)) < 1e-10
    assert not field.coincident.any()


@pytest.mark.thorough
def test_under_jit_and_vmap(x64):
    clouds = [generic(40, 3, 40, seed) for seed in range(2)]
    both = jax.jit(jax.vmap(reach_field))(*(jnp.stack(x) for x in zip(*clouds, strict=True)))
    for k, cloud in enumerate(clouds):
        radius, witness = oracle.tangent_balls(*cloud)
        np.testing.assert_allclose(both.radius[k], radius, rtol=1e-12)
        np.testing.assert_array_equal(both.witness[k], witness)


@pytest.mark.thorough
def test_more_points_than_a_tile(x64):
    points, tangents = ellipse(1100)
    field, small = reach_field(points, tangents), reach_field(points, tangents, block_size=100)
    np.testing.assert_allclose(field.radius, small.radius, rtol=1e-12)
    for x in range(0, 1100, 100):
        v = np.delete(points, x, axis=0) - points[x]
        normal = np.abs(v[:, 0] * tangents[x, 0, 1] - v[:, 1] * tangents[x, 0, 0])
        ratio = np.sum(v**2, axis=1) * np.linalg.norm(tangents[x]) / (2 * normal)
        # Near the tangent line digits are lost, here and there.
        assert float(field.radius[x]) == pytest.approx(ratio.min(), rel=1e-9)


@pytest.mark.parametrize("features", [2, 300])
@pytest.mark.thorough
def test_it_agrees_with_the_search_of_samples(features, x64):
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(features, 2)))[0]
    points, tangents = (x @ turn.T for x in ellipse(400))
    field, search = (
        reach_field(points + 1, tangents),
        reach_from_samples(points + 1, tangents, dimension=1, noise=0),
    )
    np.testing.assert_allclose(field.radius, search.pointwise, rtol=1e-9)
    np.testing.assert_array_equal(field.witness, search.witness)


@pytest.mark.thorough
def test_it_agrees_with_reach_where_pairs_decide(x64):
    manifold = datasets.helix(1.0, 1.0, size=97)
    field, result = reach_field(*surface(manifold)), reach(manifold)
    pairs = (result.witness != np.arange(97)) & ~result.border
    assert pairs.sum() > 50
    np.testing.assert_allclose(np.asarray(field.radius)[pairs], result.pointwise[pairs], rtol=1e-9)
    np.testing.assert_array_equal(np.asarray(field.witness)[pairs], result.witness[pairs])


def test_every_ball_of_a_sphere_is_its_own(x64):
    x = np.random.default_rng(0).normal(size=(80, 3))
    x *= 3 / np.linalg.norm(x, axis=1, keepdims=True)
    tangents = np.linalg.svd(x[:, None])[2][:, 1:]
    field = reach_field(x, tangents @ np.eye(3))
    np.testing.assert_allclose(field.radius, 3.0, rtol=1e-10)


@pytest.mark.thorough
def test_balls_of_a_torus_fill_its_tube(x64):
    field = reach_field(*surface(datasets.torus(2.0, 0.5, size=(32, 24))))
    np.testing.assert_allclose(field.radius, 0.5, rtol=1e-9)


@pytest.mark.thorough
def test_the_reach_of_an_ellipse_is_met_at_second_order(x64):
    errors = [float(reach_field(*ellipse(n)).radius.min()) - 0.5 for n in (48, 96, 192)]
    assert min(errors) > 0  # the minimum over fewer pairs
    assert abs(math.log2(errors[0] / errors[2]) / 2 - 2) < 0.3


# --- derivatives -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [None, 0.1])
@pytest.mark.parametrize(("n", "d", "f"), [pytest.param(30, 1, 3, marks=pytest.mark.slow), (30, 2, 20)])
@pytest.mark.thorough
def test_derivatives_are_those_of_differences(n, d, f, temperature, x64):
    cloud = generic(n, d, f)
    step = generic(n, d, f, seed=1)
    weights = np.random.default_rng(2).normal(size=n)

    @jax.jit
    def total(points, tangents):
        return jnp.sum(weights * reach_field(points, tangents, temperature=temperature, block_size=8).radius)

    slopes = jax.grad(total, argnums=(0, 1))(*cloud)
    h = 1e-6
    for k in range(2):
        ends = [
            total(*(x + s * h * v * (m == k) for m, (x, v) in enumerate(zip(cloud, step, strict=True))))
            for s in (1, -1)
        ]
        slope = float(jnp.sum(slopes[k] * step[k]))
        assert slope == pytest.approx(float(ends[0] - ends[1]) / (2 * h), rel=1e-5)


@pytest.mark.parametrize("features", [3, 20])
@pytest.mark.thorough
def test_the_soft_minimum_is_that_of_all_pairs(features, x64):
    points, tangents = generic(30, 2, features)
    radii = np.array(
        [
            [
                np.inf if i == j else oracle.tangent_balls(points[[i, j]], tangents[[i, j]])[0][0]
                for j in range(30)
            ]
            for i in range(30)
        ]
    )
    for t in (1e-3, 0.1, 10.0):
        least = radii.min(axis=1)
        soft = least - t * np.log(np.sum(np.exp((least[:, None] - radii) / t), axis=1))
        np.testing.assert_allclose(reach_field(points, tangents, temperature=t).radius, soft, rtol=1e-10)


@pytest.mark.parametrize("temperature", [pytest.param(None, marks=pytest.mark.slow), 0.1])
@pytest.mark.parametrize("features", [3, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.thorough
def test_derivatives_are_finite_where_nothing_is_defined(features, temperature, x64):
    """Points in one place, points in the tangent plane, and dependent tangents."""
    points, tangents = np.zeros((12, features)), np.zeros((12, 2, features))
    points[:, 0], tangents[:, 0, 0], tangents[:, 1, 1] = np.arange(12), 1.0, 1.0
    points[0] = points[1]
    points[8:, 2] = np.arange(1, 5)
    tangents[5, 1] = 2 * tangents[5, 0]

    def total(points, tangents):
        radius = reach_field(points, tangents, temperature=temperature).radius
        return jnp.sum(jnp.where(jnp.isfinite(radius), radius, 0.0))

    field = reach_field(points, tangents, temperature=temperature)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(field.radius)), [5])
    assert field.witness[5] == -1
    np.testing.assert_array_equal(np.flatnonzero(field.coincident), [0, 1])
    assert set(np.asarray(field.witness[:5]).tolist()) <= {8, 9, 10, 11}
    assert all(
        bool(jnp.all(jnp.isfinite(slope))) for slope in jax.grad(total, argnums=(0, 1))(points, tangents)
    )
    flat = reach_field(points[1:5], tangents[1:5], temperature=temperature)
    assert (np.asarray(flat.witness) == -1).all()
    assert np.isposinf(flat.radius).all()


# --- rounding, memory, refusals ----------------------------------------------------------------------------


@pytest.mark.parametrize("features", [2, 300])
@pytest.mark.thorough
def test_bars_of_float32_hold(features):
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(features, 2)))[0]
    points, tangents = (np.float32(x @ turn.T) for x in ellipse(300))
    with jax.enable_x64(True):
        double = np.asarray(reach_field(*(x.astype(np.float64) for x in (points, tangents))).radius)
    single = reach_field(points, tangents)
    assert single.radius.dtype == np.float32
    # Pairs that float32 cannot tell are left out there, so that the minimum runs over fewer.
    assert np.mean(np.abs(single.radius - double) <= single.error) > 0.95
    assert np.all(single.radius >= double - single.error)
    assert np.median(single.error / single.radius) < 1e-2


@pytest.mark.parametrize("features", [pytest.param(3, marks=pytest.mark.slow), 40])
@pytest.mark.parametrize("temperature", [pytest.param(None, marks=pytest.mark.slow), 0.1])
@pytest.mark.thorough
def test_memory_follows_the_block(features, temperature):
    n = 8192
    shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in ((n, features), (n, 2, features))]

    def total(points, tangents):
        return jnp.sum(reach_field(points, tangents, temperature=temperature, block_size=64).radius)

    for program in (total, jax.grad(total)):
        held = jax.jit(program).lower(*shapes).compile().memory_analysis().temp_size_in_bytes
        assert held < n * n / 4  # all pairs in float32 are 16 times that


def refused(points, tangents, **options):
    return lambda: reach_field(points, tangents, **options)


POINTS, TANGENTS = generic(6, 1, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (refused(POINTS[0], TANGENTS), "floating-point array of shape"),
        (refused(POINTS, TANGENTS[:, 0]), r"tangents must have shape \(6, d, 3\), got \(6, 3\)"),
        (refused(POINTS, TANGENTS[:5]), "tangents must have shape"),
        (
            refused(POINTS, np.ones((6, 4, 3))),
            "number of tangents must be a whole number, from 1 to 3, got 4",
        ),
        (refused(POINTS * np.nan, TANGENTS), "points must be finite"),
        (refused(POINTS, TANGENTS * np.inf), "tangents must be finite"),
        (refused(POINTS, TANGENTS, temperature=0.0), "temperature must be a positive finite number"),
        (refused(POINTS, TANGENTS, block_size=0), "block_size must be a whole number"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=f"reach_field: .*{message}"):
        call()
