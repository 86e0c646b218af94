"""Random and well spread choices of points against exact distributions and naive NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from scipy import stats

from manifold_jax import _linalg
from manifold_jax.datasets.compose import warped
from manifold_jax.datasets.curves import ellipse, two_moons
from manifold_jax.datasets.sampling import (
    farthest_points,
    map_points,
    sample_grid,
    sample_uniform,
    train_test_split,
    volume_elements,
)
from manifold_jax.datasets.surfaces import sphere, torus
from manifold_jax.geometry.grid import Axis, Grid
from manifold_jax.geometry.manifold import Manifold


def line(embedding, size=2):
    return Manifold("line", embedding, Grid((Axis("x", -1.0, 1.0, size),)))


def test_every_sampler_on_a_torus():
    manifold, key = torus(2.0, 0.5, size=6), jax.random.key(0)
    samples = sample_uniform(key, manifold, 6)
    assert samples.accepted.all()
    from_core = np.hypot(np.hypot(*np.asarray(samples.points)[:, :2].T) - 2.0, samples.points[:, 2])
    np.testing.assert_allclose(from_core, 0.5, atol=1e-5)
    np.testing.assert_allclose(volume_elements(manifold, jnp.zeros((1, 2))), 1.25, rtol=1e-5)
    chosen = sample_grid(key, jnp.arange(1.0, 7.0), 3)
    assert len(set(chosen.tolist())) == 3
    assert farthest_points(samples.points, 3).shape == (3,)
    train, test = train_test_split(key, 6)
    assert (train.size, test.size) == (5, 1)


# --- uniform in volume -------------------------------------------------------------------------------


@pytest.mark.slow
def test_height_on_the_sphere_is_uniform_in_any_chart():
    samples = sample_uniform(jax.random.key(1), warped(sphere(2), 0.6), 4000)
    assert bool(samples.accepted.all())
    points = np.asarray(samples.points)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1.0, rtol=1e-5)
    assert stats.kstest(points[:, 2], stats.uniform(-1, 2).cdf).pvalue > 0.01
    angle = np.arctan2(points[:, 1], points[:, 0])
    assert stats.kstest(angle, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 0.01


@pytest.mark.slow
def test_torus_areas_by_chi_square():
    manifold = torus(1.5, 1.0)
    samples = sample_uniform(jax.random.key(2), manifold, 5000)
    u, v = np.asarray(samples.coordinates).T
    edges = np.linspace(0, 2 * np.pi, 9)
    observed = np.histogram2d(u, v, [edges[::2], edges])[0]
    share = np.diff((1.5 * edges + np.sin(edges)) / (3 * np.pi))
    assert stats.chisquare(observed.ravel(), np.tile(share / 4, 4) * 5000).pvalue > 0.01
    embedded = jax.jit(jax.vmap(manifold.embedding))(samples.coordinates)
    np.testing.assert_allclose(samples.points, embedded, atol=1e-6)
    assert float(samples.bound) == pytest.approx(2.5, rel=1e-5)


@pytest.mark.slow
def test_a_peak_that_the_grid_misses_raises_the_bound():
    manifold = line(lambda u: jnp.tanh(8.0 * u))  # at both probes the speed is 4e-6 of the peak
    samples = sample_uniform(jax.random.key(3), manifold, 3000)
    assert 7.9 < float(samples.bound) <= 8.0
    assert stats.kstest(np.asarray(samples.points)[:, 0], stats.uniform(-1, 2).cdf).pvalue > 0.01


@pytest.mark.slow
def test_equal_keys_give_equal_samples():
    manifold = ellipse((2.0, 0.5))
    draw = partial(sample_uniform, manifold=manifold, count=50)
    first, again = draw(jax.random.key(0)), draw(jax.random.key(0))
    np.testing.assert_array_equal(first.points, again.points)
    assert not np.array_equal(first.points, draw(jax.random.key(1)).points)
    both = jax.jit(jax.vmap(draw))(jnp.stack([jax.random.key(1), jax.random.key(0)]))
    np.testing.assert_allclose(both.points[1], first.points, atol=1e-6)


@pytest.mark.slow
def test_rows_left_empty_are_marked():
    spike = line(lambda u: jnp.tanh(1000.0 * u))
    samples = sample_uniform(jax.random.key(0), spike, 256, max_rounds=1)
    accepted = np.asarray(samples.accepted)
    assert 0 < accepted.sum() < 256
    np.testing.assert_array_equal(np.isfinite(samples.points)[:, 0], accepted)
    np.testing.assert_array_equal(np.isfinite(samples.coordinates)[:, 0], accepted)


@pytest.mark.slow
def test_no_volume_gives_no_point():
    flat_or_nan = line(lambda u: jnp.where(u < 0, 0.0 * u, u * jnp.nan))
    samples = sample_uniform(jax.random.key(0), flat_or_nan, 10, max_rounds=2)
    assert not samples.accepted.any()
    assert np.isnan(samples.points).all()
    assert float(samples.bound) == 0.0


@pytest.mark.slow
def test_second_call_compiles_nothing_and_images_keep_their_shape(compilations):
    def image(u):
        return jnp.outer(jnp.cos(u[0] * jnp.arange(3.0)), jnp.sin(u[0] + jnp.arange(2.0)))

    manifold = line(image, 5)
    samples = sample_uniform(jax.random.key(0), manifold, 20)
    assert samples.points.shape == (20, 3, 2)
    count = len(compilations)
    assert count > 0
    sample_uniform(jax.random.key(1), manifold, 20)
    assert len(compilations) == count


@pytest.mark.slow
def test_volume_element_does_not_overflow_in_float32():
    big = Manifold(
        "big",
        lambda u: 1e12 * jnp.stack([u[0] + u[1], u[1]]),
        Grid((Axis("x", 0.0, 1.0, 3), Axis("y", 0.0, 1.0, 3))),
    )
    assert float(volume_elements(big, jnp.zeros((1, 2)))[0]) == pytest.approx(1e24, rel=1e-5)


@pytest.mark.slow
def test_float64_when_x64_is_on():
    with jax.enable_x64(True):
        samples = sample_uniform(jax.random.key(0), sphere(2), 8)
        assert samples.points.dtype == samples.coordinates.dtype == samples.bound.dtype == jnp.float64
        assert farthest_points(samples.points, 3).shape == (3,)
        assert farthest_points(samples.points.astype(jnp.float32), 3).shape == (3,)


# --- grids -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_grid_points_are_drawn_by_volume_without_replacement():
    weights = np.array([[1.0, 2.0, 0.0], [3.0, 4.0, np.nan]])
    keys = jax.random.split(jax.random.key(4), 6000)
    draws = np.asarray(jax.jit(jax.vmap(lambda key: sample_grid(key, jnp.asarray(weights), 2)))(keys))
    share = np.nan_to_num(weights.ravel()) / 10.0
    expected = share[:, None] * share / (1.0 - share[:, None])
    np.fill_diagonal(expected, 0.0)
    observed = np.zeros((6, 6))
    np.add.at(observed, tuple(draws.T), 1)
    assert np.all(observed[expected == 0] == 0)
    assert stats.chisquare(observed[expected > 0], 6000 * expected[expected > 0]).pvalue > 0.01


@pytest.mark.slow
def test_grid_points_run_out():
    chosen = sample_grid(jax.random.key(0), jnp.array([0.0, 2.0, -1.0, 1.0, jnp.inf]), 4)
    assert sorted(chosen.tolist()) == [-1, -1, 1, 3]


@pytest.mark.slow
def test_all_grid_points():
    chosen = sample_grid(jax.random.key(0), jnp.ones((4, 5)), 20)
    assert sorted(chosen.tolist()) == list(range(20))
    np.testing.assert_array_equal(chosen, sample_grid(jax.random.key(0), jnp.ones((4, 5)), 20))


# --- farthest points ---------------------------------------------------------------------------------


def naive_farthest(points, count, start):
    chosen = [start]
    while len(chosen) < count:
        distances = np.linalg.norm(points[:, None] - points[chosen], axis=-1).min(axis=1)
        chosen.append(int(np.argmax(distances)))
    return chosen


@pytest.mark.slow
def test_farthest_points_match_the_naive_algorithm():
    points = np.random.default_rng(0).normal(size=(300, 2, 3)).astype(np.float32)
    chosen = farthest_points(jnp.asarray(points), 40, start=7)
    assert chosen.tolist() == naive_farthest(points.reshape(300, -1), 40, 7)


def test_farthest_points_stay_distinct_and_take_bad_points_last():
    points = jnp.array([[1.0], [1.0], [jnp.nan], [1.0], [2.0]])
    assert farthest_points(points, 5).tolist() == [0, 4, 1, 3, 2]
    assert farthest_points(jnp.array([200, 10, 0], jnp.uint8), 2).tolist() == [0, 2]


@pytest.mark.slow
def test_farthest_points_hold_no_distance_matrix():
    n = 20_000
    lowered = jax.jit(partial(farthest_points, count=50)).lower(jax.ShapeDtypeStruct((n, 3), jnp.float32))
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 16 * n


# --- splits ------------------------------------------------------------------------------------------


def test_split_is_a_partition():
    train, test = train_test_split(jax.random.key(0), 101, 0.25)
    assert (train.size, test.size) == (76, 25)
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(101))
    np.testing.assert_array_equal(test, train_test_split(jax.random.key(0), 101, 0.25).test)
    assert not np.array_equal(test, train_test_split(jax.random.key(1), 101, 0.25).test)


# --- everywhere --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_kernels_lower_for_every_platform():
    key = jax.random.PRNGKey(0)
    manifold = sphere(2)
    functions = (
        lambda key: sample_uniform(key, manifold, 8),
        lambda key: sample_grid(key, jnp.ones((3, 3)), 4),
        lambda key: farthest_points(jax.random.normal(key, (30, 3)), 4),
        lambda key: train_test_split(key, 10),
    )
    for function in functions:
        export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(key)


KEY = jax.random.PRNGKey(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: sample_uniform(KEY, two_moons(), 3),
            "manifold must be a Manifold, got tuple",
        ),
        (
            lambda: sample_uniform(KEY, sphere(), 0),
            "sample_uniform: count must be a whole number, at least 1, got 0",
        ),
        (lambda: sample_uniform(KEY, sphere(), 2.0), "count must be a whole number, at least 1, got 2.0"),
        (
            lambda: sample_uniform(KEY, sphere(), 3, max_rounds=0),
            "max_rounds must be a whole number",
        ),
        (
            lambda: sample_grid(KEY, jnp.ones(3), 4),
            "sample_grid: count must be .*, from 1 to 3, got 4",
        ),
        (
            lambda: sample_grid(KEY, jnp.ones(3), True),
            "count must be a whole number, .* got True",
        ),
        (lambda: farthest_points(jnp.ones((3, 2)), 4), "count must be a whole number, from 1 to 3, got 4"),
        (
            lambda: farthest_points(jnp.ones((3, 2)), 2, start=3),
            "start must be .*, from 0 to 2, got 3",
        ),
        (
            lambda: farthest_points(jnp.ones((3, 2)), 2, start=-1),
            "start must be a whole number, from 0 to 2, got -1",
        ),
        (
            lambda: farthest_points(jnp.ones(()), 1),
            r"points must have shape \(n, \*features\), got \(\)",
        ),
        (lambda: farthest_points(jnp.ones((0, 2)), 1), r"got \(0, 2\)"),
        (
            lambda: train_test_split(KEY, 1),
            "train_test_split: count must be .*, at least 2, got 1",
        ),
        (
            lambda: train_test_split(KEY, 10, 1.0),
            "test_fraction must be a positive finite number below 1, got 1.0",
        ),
        (lambda: train_test_split(KEY, 10, 0.01), "some of the 10 points on both sides, got 0.01"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.slow
def test_a_map_over_points_is_one_program_for_all_rows(monkeypatch):
    # A rest of another size would be a second decomposition next to the first: on two cores they block each
    # other for ever.
    monkeypatch.setattr(_linalg, "BLOCK_NUMBERS", 40)
    manifold = ellipse()
    chart = jnp.linspace(0.0, 1.0, 25)[:, None]

    def frame(u):
        return jnp.linalg.qr(jax.jacfwd(manifold.embedding)(u))[0][:, 0]

    text = jax.jit(lambda u: map_points(manifold, frame, u)).lower(chart).as_text()
    assert text.count("geqrf") == 1
    expected = jax.vmap(frame)(chart)
    np.testing.assert_allclose(map_points(manifold, frame, chart), expected, rtol=1e-6)
