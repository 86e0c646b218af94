"""Intrinsic dimension: the likelihood written out, bars that hold, ties, repeats, keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manifold_jax.fitting import intrinsic_dimension

RNG = np.random.default_rng


def cube(n, d, seed=0):
    return RNG(seed).uniform(size=(n, d)) @ np.linalg.qr(RNG(1).normal(size=(d + 3, d)))[0].T


def sphere(n, d, seed=0):
    x = RNG(seed).normal(size=(n, d + 1))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_it_is_the_likelihood(x64):
    points, k = cube(60, 2), 5
    lengths = np.sort(np.linalg.norm(points[:, None] - points, axis=2), axis=1)[:, 1 : k + 1]
    logs = np.log(lengths[:, -1:] / lengths[:, :-1]).sum(axis=1)
    estimate = intrinsic_dimension(points, neighbours=k)
    np.testing.assert_allclose(estimate.pointwise.value, (k - 2) / logs, rtol=1e-9)
    assert estimate.value == pytest.approx((60 * (k - 1) - 1) / logs.sum(), rel=1e-9)
    two = intrinsic_dimension(points, method="TwoNN")
    assert two.value == pytest.approx(59 / np.log(lengths[:, 1] / lengths[:, 0]).sum(), rel=1e-9)


@pytest.mark.slow
def test_pointwise_values_are_unbiased(x64):
    """On a line the density is constant up to the ends: the mean over many points is 1."""
    values = [intrinsic_dimension(sphere(400, 1, seed)).pointwise.value for seed in range(10)]
    assert np.mean(values) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("method", ["MLE", "TwoNN"])
@pytest.mark.parametrize(
    ("cloud", "d"),
    [(cube, 3), *(pytest.param(*at, marks=pytest.mark.slow) for at in ((cube, 1), (sphere, 2)))],
)
def test_bars_cover(method, cloud, d):
    for seed in range(10):
        estimate = intrinsic_dimension(cloud(500, d, seed).astype(np.float32), method=method)
        assert abs(estimate.value - d) <= estimate.error
        assert estimate.resolved == (estimate.error <= 0.5)
        inside = np.abs(estimate.pointwise.value - d) <= estimate.pointwise.error
        assert inside.mean() > 0.95


@pytest.mark.slow
def test_noise_is_not_taken_for_a_dimension():
    """Two neighbours of a noisy circle see a plane; bars that look wider know."""
    for seed in range(5):
        noisy = sphere(1000, 1, seed) + 0.01 * RNG(seed + 50).normal(size=(1000, 2))
        for method in ("MLE", "TwoNN"):
            estimate = intrinsic_dimension(noisy, method=method)
            assert not estimate.resolved or abs(estimate.value - 1) <= estimate.error


def test_lattices_say_so_and_are_not_resolved():
    grid = np.stack(np.meshgrid(*2 * [np.arange(20.0)]), -1).reshape(-1, 2) @ np.eye(2, 5)
    for method in ("MLE", "TwoNN"):
        estimate = intrinsic_dimension(grid, method=method)
        assert not estimate.resolved
        assert "tied, as on a lattice" in estimate.status
        assert not estimate.pointwise.resolved.any()
    assert intrinsic_dimension(cube(400, 2)).status == ""


@pytest.mark.slow
def test_repeats_are_left_out_and_counted(x64):
    points = cube(200, 2)
    order = RNG(3).permutation(np.repeat(np.arange(200), 3))
    single, copies = intrinsic_dimension(points), intrinsic_dimension(points[order])
    assert (single.repeats, copies.repeats) == (0, 400)
    assert copies.value == pytest.approx(single.value, rel=1e-12)
    np.testing.assert_allclose(copies.pointwise.value, single.pointwise.value[order])
    with pytest.raises(ValueError, match="more than 20 different points are needed, got 1"):
        intrinsic_dimension(np.ones((50, 3)))


def test_it_says_the_same_every_time():
    points = jnp.asarray(cube(400, 2))
    assert len({intrinsic_dimension(points, method="TwoNN").value for _ in range(3)}) == 1


def test_methods_of_scikit_dimension_have_no_bars_and_take_keys():
    pytest.importorskip("skdim", reason="needs the extra estimators")
    points = cube(200, 2)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    with pytest.raises(ValueError, match="KNN draws random numbers: give a random key"):
        intrinsic_dimension(points, method="KNN")
    key = jax.random.key(0)
    values = {intrinsic_dimension(points, method="KNN", key=key).value for _ in range(2)}
    assert len(values) == 1
    local = intrinsic_dimension(points, method="lPCA")
    assert local.value == pytest.approx(2, abs=0.1)
    assert local.error == np.inf
    assert not local.resolved
    assert local.status == "lPCA gives no bar"
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002
