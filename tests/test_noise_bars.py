"""Noise of samples: its level, what it does to every quantity, bars that cover it, stencils that smooth it.

The oracles are white noise of known level, differences in exact arithmetic, Monte Carlo in NumPy, and
automatic differentiation of the surface without noise.
"""

import math
from fractions import Fraction
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from manifold_jax import Axis, Grid, datasets, measure
from manifold_jax.geometry.pooling import local_mean
from manifold_jax.geometry.quantities import FIELDS
from manifold_jax.geometry.rounded import common_step
from manifold_jax.geometry.stencil import (
    central_weights,
    difference_weights,
    local_polynomial_weights,
)

TURN = 2 * math.pi
MAJOR, MINOR, SIZE = 2.0, 0.5, 48
RING = Grid((Axis("t", 0.0, TURN, 96, periodic=True),))


def torus_points(size=SIZE):
    angles = TURN * np.arange(size) / size
    mesh = np.meshgrid(angles, angles, indexing="ij")
    return np.stack(oracle.torus_points(*mesh, MAJOR, MINOR), axis=-1)


def torus_grid(size=SIZE):
    return Grid(tuple(Axis(name, 0.0, TURN, size, periodic=True) for name in ("u", "v")))


def ring_points(sigma=0.0, seed=0, features=3):
    """An ellipse bent out of its plane."""
    t = TURN * np.arange(RING.size) / RING.size
    points = np.stack([2 * np.cos(t), np.sin(t), 0.3 * np.cos(2 * t)], axis=-1)
    return points + sigma * np.random.default_rng(seed).normal(size=points.shape)


@cache
def noisy_torus(sigma, seed=0, dtype="float64"):
    points = torus_points()
    points = points + sigma * np.random.default_rng(seed).normal(size=points.shape)
    with jax.enable_x64(True):
        return jax.device_get(measure(points.astype(dtype), torus_grid()))


@cache
def exact_torus():
    with jax.enable_x64(True):
        return jax.device_get(measure(datasets.torus(MAJOR, MINOR, size=SIZE), exact=True))


def coverage(geometry, exact, name):
    """Share of the resolved points whose error lies within the bar, and how many are resolved."""
    estimate, resolved = getattr(geometry, name), np.asarray(getattr(geometry, name).resolved)
    error = np.abs(estimate.value - getattr(exact, name).value)[resolved]
    within = error <= estimate.error[resolved]
    return (float(within.mean()) if resolved.any() else 1.0), int(resolved.sum())


@pytest.mark.parametrize("order", [3, 8, 14])
def test_differences_annihilate_polynomials_and_keep_the_noise(order):
    weights = difference_weights(order)
    whole = [round(w * math.sqrt(math.comb(2 * order, order))) for w in weights]
    for degree in range(order):
        assert sum(w * Fraction(j) ** degree for j, w in enumerate(whole)) == 0
    assert sum(w * Fraction(j) ** order for j, w in enumerate(whole)) == (-1) ** order * math.factorial(order)
    np.testing.assert_allclose(np.linalg.norm(weights), 1, rtol=1e-14)


def test_local_mean_is_the_mean_over_the_samples_that_exist():
    grid = Grid((Axis("a", 0.0, 1.0, 7), Axis("b", 0.0, 1.0, 6, periodic=True)))
    values = np.random.default_rng(0).normal(size=grid.shape)
    wanted = np.empty(grid.shape)
    for i in range(7):
        for j in range(6):
            rows = [k for k in range(i - 2, i + 3) if 0 <= k < 7]
            wanted[i, j] = values[np.ix_(rows, [k % 6 for k in range(j - 1, j + 2)])].mean()
    np.testing.assert_allclose(local_mean(jnp.asarray(values), grid, (2, 1)), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sigma", [1e-6, pytest.param(1e-3, marks=pytest.mark.slow)])
@pytest.mark.thorough
def test_the_level_of_white_noise(sigma):
    level = noisy_torus(sigma).noise
    assert level.shape == (SIZE, SIZE, 2)
    np.testing.assert_allclose(np.median(level, axis=(0, 1)), sigma * 3**0.5, rtol=0.15)


@pytest.mark.thorough
def test_the_level_at_order_2_where_less_high_differences_see_signal(x64):
    u = TURN * np.arange(48) / 48
    t, sigma = u + 0.3 * np.sin(u), 3e-6
    points = np.stack([np.cos(t), np.sin(t)], axis=-1)
    points += sigma * np.random.default_rng(1).normal(size=points.shape)
    ring = Grid((Axis("t", 0.0, TURN, 48, periodic=True),))
    level = np.median(measure(points, ring, accuracy=2).noise)
    np.testing.assert_allclose(level, sigma * 2**0.5, rtol=0.4)


@pytest.mark.thorough
def test_the_level_of_rounded_samples(x64):
    step = 1 / 256
    points = np.round(torus_points() / step) * step
    level = np.median(measure(points, torus_grid()).noise, axis=(0, 1))
    np.testing.assert_allclose(level, step * (3 / 12) ** 0.5, rtol=0.2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_the_step_of_rounded_samples_is_found_and_no_other(bits, dtype):
    for count in (48, 97, 500):
        t = TURN * np.arange(count) / count
        smooth = np.stack([np.cos(t) + 0.2 * np.cos(2 * t + 0.3), np.sin(t), 0 * t, np.sin(3 * t + 0.2)], 1)
        step = np.ptp(smooth) / (2**bits - 1)
        rounded = smooth.min() + step * np.round((smooth - smooth.min()) / step)
        step_of = common_step(rounded.astype(dtype))
        assert step_of == pytest.approx(step, rel=1e-3 if dtype == np.float32 else 1e-9)
        assert common_step(smooth.astype(dtype)) == 0
        noisy = smooth + 1e-3 * np.random.default_rng(bits).normal(size=smooth.shape)
        assert common_step(noisy.astype(dtype)) == 0


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_the_step_of_features_of_very_different_size_is_found(bits):
    """Counted from one offset, small features carry its rounding, which is far above their own."""
    for seed in range(4):
        mixing = np.random.default_rng(seed).normal(size=(2, 3)) * [1.0, 0.05, 0.01]
        t = TURN * np.arange(96) / 96
        smooth = np.stack([np.cos(t), np.sin(2 * t + 0.3)], axis=1) @ mixing
        step = np.ptp(smooth) / (2**bits - 1)
        rounded = smooth.min() + step * np.round((smooth - smooth.min()) / step)
        assert common_step(rounded) == pytest.approx(step, rel=1e-9)
        assert common_step(smooth) == 0


@pytest.mark.thorough
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_rounding_of_symmetric_samples_is_not_taken_for_less(x64, bits):
    """What symmetry leaves in high differences of a curve at 96 places is a fifth of its energy at times."""
    grid = Grid((Axis("t", 0.0, 1.0, 96, periodic=True),))
    t = TURN * np.arange(96) / 96
    points = np.stack([np.cos(t), np.sin(t), 0.5 * np.abs(np.sin(t + 0.4)) ** 3], axis=-1)
    step = 2 / (2**bits - 1)
    rounded = -1 + step * np.round((points + 1) / step)
    true = np.sqrt(np.mean(np.sum((rounded - points) ** 2, axis=1)))
    for order in (4, 6, 8, "spectral"):
        geometry = measure(rounded, grid, accuracy=order)
        assert np.median(geometry.noise) > 0.75 * true
        if order != "spectral":  # differences of spectral order meet the curve, which is C^2 only
            assert np.median(geometry.noise) < 1.4 * true
        value, bar, _ = (np.asarray(x) for x in geometry.volume_element)
        speed = TURN * np.sqrt(1 + (1.5 * np.sin(t + 0.4) ** 2 * np.cos(t + 0.4)) ** 2)
        assert (np.abs(value - speed) <= bar).all()


def test_dense_samples_of_few_bits_may_begin_where_they_end(x64):
    t = TURN * np.arange(2000) / 2000
    points = np.round(np.stack([np.cos(t), np.sin(t)], axis=-1) * 100) / 100
    assert (points[0] == points[-1]).all()
    geometry = measure(points, Grid((Axis("t", 0.0, TURN, 2000, periodic=True),)))
    assert not geometry.volume_element.resolved.any()


def test_rings_sampled_at_both_ends_are_refused_also_beside_poles_and_pauses(x64):
    angles = np.linspace(0, TURN, 33)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    ring[-1] = ring[0]
    grid, says = Grid((Axis("t", 0.0, TURN, 33, periodic=True),)), "samples of the periodic axis 't' coincide"
    paused, part = ring.copy(), ring.copy()
    paused[11], part[10:13] = paused[10], np.nan
    latitude = np.linspace(0, math.pi, 21)[:, None, None]
    sphere = np.concatenate([np.sin(latitude) * ring, np.cos(latitude) * np.ones((21, 33, 1))], axis=-1)
    globe = Grid((Axis("s", 0.0, math.pi, 21), *grid.axes))
    for points, where in ((ring, grid), (paused, grid), (sphere, globe)):
        with pytest.raises(ValueError, match=says):
            measure(points, where)
    for points in (part, jnp.asarray(part)):
        with pytest.raises(ValueError, match=says):
            measure(points, grid, missing="mask")


def test_samples_of_equal_steps_that_are_smooth_have_no_noise(x64):
    u, v = np.meshgrid(np.linspace(-1, 1, 21), np.linspace(-1, 1, 21), indexing="ij")
    grid = Grid((Axis("u", -1.0, 1.0, 21), Axis("v", -1.0, 1.0, 21)))
    bowl = np.stack([u, v, u**2 + v**2], axis=-1)
    assert common_step(bowl.reshape(-1, 3)) == pytest.approx(0.01)
    assert np.max(measure(bowl, grid).noise) < 1e-12


def test_features_that_are_exact_have_no_share_in_the_noise_of_rounded_ones(x64):
    u, v = np.meshgrid(np.linspace(-1, 1, 41), np.linspace(-1, 1, 41), indexing="ij")
    height = np.sin(2 * u + 0.3) * np.cos(1.7 * v - 0.2)
    grid = Grid((Axis("u", -1.0, 1.0, 41), Axis("v", -1.0, 1.0, 41)))
    for digits in (3, 4):
        rounded = np.round(height, digits)
        level = np.median(measure(np.stack([u, v, rounded], axis=-1), grid).noise)
        assert level == pytest.approx(np.sqrt(np.mean((rounded - height) ** 2)), rel=0.2)


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "float64"])
def test_rounding_is_no_noise(dtype):
    clean = noisy_torus(0.0, dtype=dtype)
    assert np.all(clean.noise == 0)
    assert all(np.all(bar == 0) for bar in clean.noise_bars)
    assert np.mean(clean.scalar_curvature.resolved) == 1


def central_jet(points, i, j, spacing):
    """Jet ``(draws, 2, f), (draws, 2, 2, f)`` at one sample by central differences of order 4."""
    near = np.arange(-2, 3)
    window = points[:, (i + near)[:, None] % SIZE, (j + near)[None] % SIZE]
    rows = [central_weights(k, 4) / spacing**k for k in range(3)]

    def partial_derivative(a, b):
        return np.einsum("i,j,nijf->nf", rows[a], rows[b], window)

    first = np.stack([partial_derivative(1, 0), partial_derivative(0, 1)], axis=1)
    mixed = partial_derivative(1, 1)
    second = [[partial_derivative(2, 0), mixed], [mixed, partial_derivative(0, 2)]]
    return first, np.stack([np.stack(row, axis=1) for row in second], axis=1)


@pytest.mark.parametrize("sigma", [1e-5, 3e-3])
def test_propagated_noise_against_redrawn_noise(sigma):
    """The bar of noise covers 99 % of what other draws of it do at a point, and not much more.

    That of S is wide where the curvature along one axis is small and the noise along it large.
    """
    generator, draws, spacing = np.random.default_rng(1), 2000, TURN / SIZE
    i, j = 5, 20
    near = np.arange(-2, 3)
    points = torus_points()[None, (i + near)[:, None] % SIZE, (j + near)[None] % SIZE]
    noisy = points + sigma * generator.normal(size=(draws, *points.shape[1:]))

    def quantities(window):
        full = np.zeros((len(window), SIZE, SIZE, 3))
        full[:, (i + near)[:, None], (j + near)[None]] = window
        return oracle.geometry(oracle.inner(central_jet(full, i, j, spacing)))

    noisy, clean = quantities(noisy), quantities(points)
    bars = noisy_torus(sigma).noise_bars
    for name in FIELDS[:4]:
        error = np.abs(noisy[name] - clean[name])
        bar = getattr(bars, name)[i, j]
        assert np.mean(error <= bar) >= 0.99, name
        assert bar <= (50 if name == "scalar_curvature" else 8) * np.quantile(error, 0.99), name


@pytest.mark.parametrize("sigma", [1e-6, 1e-5, 1e-3])
def test_bars_of_a_noisy_torus_cover(sigma):
    for name in FIELDS:
        share, points = coverage(noisy_torus(sigma), exact_torus(), name)
        assert share >= 0.99, (name, share, points)
    assert coverage(noisy_torus(sigma), exact_torus(), "volume_element")[1] > 1000


@pytest.mark.slow
def test_bars_know_noise_that_points_one_way(x64):
    """A height map: its samples are noisy along the normal only, hardly along the tangents."""
    grid = Grid(tuple(Axis(name, 0.0, TURN, SIZE, periodic=True) for name in ("u", "v")))

    def height(u):
        return 0.3 * jnp.sin(u[0]) * jnp.cos(u[1]) + 0.1 * jnp.cos(2 * u[0] + u[1])

    def surface(u):  # a thin sheet over a flat torus
        around = [f(x) for x in u for f in (jnp.cos, jnp.sin)]
        return jnp.stack([*around, height(u)])

    exact = measure(surface, grid, exact=True)
    points = np.array(jax.vmap(jax.vmap(surface))(grid.coordinates()))
    points[..., -1] += 1e-4 * np.random.default_rng(0).normal(size=grid.shape)
    measured = measure(points, grid)
    for name in FIELDS[:4]:
        share, count = coverage(measured, exact, name)
        assert share >= 0.99, (name, share, count)


@pytest.mark.thorough
def test_rounding_of_many_features_hardly_points_along_the_second_form():
    t, rng = TURN * np.arange(RING.size) / RING.size, np.random.default_rng(0)
    turns, weights = np.stack([t, t, 2 * t, 2 * t]), rng.normal(size=(4, 400))
    phases, speeds = np.array([0, 1, 0, 1]) * np.pi / 2, np.array([1, 1, 2, 2])
    waves = [(speeds**k)[:, None] * np.cos(turns + phases[:, None] + k * np.pi / 2) for k in range(3)]
    points, velocity, acceleration = (wave.T @ weights for wave in waves)
    points += 20 * rng.choice([-1.0, 1.0], size=400)  # of which the last digits are lost in float32
    square = np.sum(velocity**2, axis=1)
    along = np.sum(velocity * acceleration, axis=1) / square
    curvature = np.linalg.norm(acceleration - along[:, None] * velocity, axis=1) / square
    geometry = measure(points.astype(np.float32), RING, accuracy=8)
    error = np.abs(np.asarray(geometry.second_form_norm.value, float) - curvature)
    bar = np.asarray(geometry.rounding.second_form_norm)
    assert np.all(error <= bar)
    assert np.median(bar) <= 12 * np.median(error)


@pytest.mark.slow
def test_noise_in_many_features_hardly_points_along_the_second_form(x64):
    """A circle in R^1000 whose noise is larger than II, of which a thousandth in energy points along it."""
    features, sigma, lattice = 1000, 3e-6, Grid((Axis("t", 0.0, TURN, 256, periodic=True),))
    t = lattice.axes[0].samples()
    frame = np.linalg.qr(np.random.default_rng(0).normal(size=(features, 2)))[0]
    points = np.stack([np.cos(t), np.sin(t)], axis=-1) @ frame.T
    points += sigma * np.random.default_rng(1).normal(size=points.shape)
    geometry = measure(points, lattice)
    weights = central_weights(2, 4) / lattice.spacing[0] ** 2
    moved = sigma * features**0.5 * np.linalg.norm(weights)
    assert 0.1 < moved < 1  # of a curvature of 1
    bias, along = moved**2 / 2, moved / features**0.5
    bars = np.asarray(geometry.second_form_norm.error)
    assert (np.abs(np.asarray(geometry.second_form_norm.value) - 1) <= bars).all()
    assert np.median(bars) < 2 * (bias + 3 * along)


@pytest.mark.slow
@pytest.mark.parametrize("levels", [255, 1023, 65535])
def test_bars_of_sprites_of_few_grey_levels_cover(levels):
    manifold = datasets.sprite("ellipse", factors=("orientation", "scale"), size=32)
    with jax.enable_x64(True):
        exact = jax.device_get(measure(manifold, exact=True))
        mesh = manifold.grid.coordinates().reshape(-1, 2)
        images = jax.lax.map(manifold.embedding, mesh, batch_size=64).reshape(*manifold.grid.shape, -1)
    rounded = np.round(np.asarray(images) * levels) / levels
    for accuracy in (4, 6):
        measured = measure(rounded.astype(np.float32), manifold.grid, accuracy=accuracy)
        for name in FIELDS[:4]:
            share, points = coverage(measured, exact, name)
            assert share >= 0.99, (name, accuracy, share, points)


@pytest.mark.slow
def test_known_noise_is_taken_as_it_is(x64):
    """A level that is given bars as much as one that is estimated; a larger one bars more."""
    points = ring_points(1e-4)
    estimated, given = measure(points, RING), measure(points, RING, noise=1e-4)
    np.testing.assert_allclose(given.noise, 1e-4 * 3**0.5, rtol=1e-12)
    ratio = given.noise_bars.second_form_norm / estimated.noise_bars.second_form_norm
    assert 0.5 < np.median(ratio) < 2
    louder = measure(points, RING, noise=1e-3)
    assert np.all(louder.noise_bars.second_form_norm > given.noise_bars.second_form_norm)
    silent = measure(points, RING, noise=0.0)
    assert np.all(silent.noise_bars.second_form_norm == 0)


@pytest.mark.slow
def test_arrays_files_and_blocks_know_the_same_noise(x64, tmp_path):
    points = ring_points(1e-4)
    np.save(tmp_path / "ring.npy", points)
    wanted = measure(jnp.asarray(points), RING)
    others = {
        "host": measure(points, RING),
        "mapped": measure(np.load(tmp_path / "ring.npy", mmap_mode="r"), RING),
        "blocks": measure(jnp.asarray(points), RING, block_size=20),
        "jit": jax.jit(partial(measure, grid=RING))(points),
    }
    assert np.all(np.asarray(wanted.noise) > 0)
    for other in others.values():
        np.testing.assert_allclose(other.noise, wanted.noise, rtol=1e-9)
        for name in FIELDS:
            bars = (getattr(g, name).error for g in (other, wanted))
            np.testing.assert_allclose(*bars, rtol=1e-6, err_msg=name)


def kinked_torus(u):
    """Of smoothness C^1 across two lines."""
    s, t = u
    lifted = 0.3 * jnp.maximum(jnp.sin(s + 0.7), 0.0) ** 2 + 0.2 * jnp.maximum(jnp.cos(t - 0.3), 0.0) ** 2
    ring = MAJOR + MINOR * jnp.cos(t)
    return jnp.stack([ring * jnp.cos(s), ring * jnp.sin(s), MINOR * jnp.sin(t), lifted])


def ridged_torus(u):
    """With a ridge about as wide as the spacing."""
    s, t = u
    ring = MAJOR + MINOR * jnp.cos(t)
    ridge = 0.3 * jnp.exp(-(jnp.sin((s - t) / 2 - 0.4) ** 2) / 0.01)
    return jnp.stack([ring * jnp.cos(s), ring * jnp.sin(s), MINOR * jnp.sin(t), ridge])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("surface", "sigma", "accuracy"),
    [
        (kinked_torus, 0.0, 4),
        (ridged_torus, 1e-5, 4),
        (kinked_torus, 0.0, 8),
        (kinked_torus, 1e-5, 8),
        (ridged_torus, 1e-5, 8),
    ],
)
def test_bars_beside_kinks_and_ridges_cover(x64, surface, sigma, accuracy):
    points = np.asarray(jax.vmap(jax.vmap(surface))(torus_grid().coordinates(jnp.float64)))
    points = points + sigma * np.random.default_rng(1).normal(size=points.shape)
    geometry, exact = (
        measure(points, torus_grid(), accuracy=accuracy),
        measure(surface, torus_grid(), exact=True),
    )
    for name in FIELDS[:4]:
        within, resolved = coverage(geometry, exact, name)
        assert within > 0.999, name
        assert resolved > 0.3 * geometry.grid.size or name != "volume_element"
    if sigma:  # the ridge neither hides the noise nor counts as some
        assert (np.asarray(geometry.noise) > 0.5 * sigma * 2).all()
        assert np.quantile(geometry.noise, 0.25) < 5 * sigma * 2  # away from it


@pytest.mark.thorough
@pytest.mark.parametrize("features", [50, 400])
def test_kinks_of_the_size_of_the_noise_show_in_many_features(x64, features):
    """A fold along a line in a direction of its own, its differences two to four times the noise."""
    generator, grid = np.random.default_rng(0), torus_grid()
    frame = generator.normal(size=(5, features)) / features**0.5

    def surface(u):
        s, t = u
        fold = 0.2 * jnp.abs(jnp.sin(s - 1.489))
        return jnp.stack([jnp.cos(s), jnp.sin(s), jnp.cos(t), jnp.sin(t), fold]) @ frame

    points = np.asarray(jax.vmap(jax.vmap(surface))(grid.coordinates(jnp.float64)))
    points = points + 1e-3 * generator.normal(size=points.shape) / features**0.5
    geometry, exact = measure(points, grid), measure(surface, grid, exact=True)
    within, resolved = coverage(geometry, exact, "volume_element")
    assert within > 0.99
    assert resolved > 0.8 * grid.size  # all but some columns beside the folds
    assert np.median(geometry.noise) == pytest.approx(1e-3, rel=0.2)


@pytest.mark.thorough
def test_kinks_that_rounding_hides_are_in_the_bars(x64):
    """The superellipsoid of exponent 1.5, whose seams leave little more in differences than 10 bits do."""

    def surface(u):
        waist, *ring = (jnp.cos(u[0]), jnp.cos(u[1]), jnp.sin(u[1]))
        waist, *ring, height = (jnp.sign(x) * jnp.abs(x) ** 1.5 for x in (waist, *ring, jnp.sin(u[0])))
        return jnp.stack([waist * ring[0], waist * ring[1], height])

    grid = Grid((Axis("height", -TURN / 4, TURN / 4, 41), Axis("angle", 0.0, TURN, 40, periodic=True)))
    points = np.asarray(jax.vmap(jax.vmap(surface))(grid.coordinates(jnp.float64)))
    step = 2 / 1023
    geometry, exact = measure(np.round(points / step) * step, grid), measure(surface, grid, exact=True)
    within, resolved = coverage(geometry, exact, "volume_element")
    assert within > 0.99
    assert resolved > 0.2 * grid.size


@pytest.mark.slow
def test_bars_beside_kinks_of_a_curve_cover_at_order_8(x64):
    """A plane curve r(t) of smoothness C^1, of known curvature; sizes and order as in test_nodes."""
    t = RING.axes[0].samples()
    bump = np.maximum(np.sin(t + 0.7), 0.0)
    r, slope = 1 + 0.3 * bump**2, 0.6 * bump * np.cos(t + 0.7)
    speed, bend = np.hypot(r, slope), np.where(bump > 0, 0.6 * np.cos(2 * (t + 0.7)), 0.0)
    curvature = np.abs(r**2 + 2 * slope**2 - r * bend) / speed**3
    geometry = measure(r[:, None] * np.stack([np.cos(t), np.sin(t)], axis=-1), RING, accuracy=8)
    for name, exact in (
        ("volume_element", speed),
        ("mean_curvature", curvature),
        ("second_form_norm", curvature),
    ):
        value, error, resolved = map(np.asarray, getattr(geometry, name))
        assert (np.abs(value - exact) <= error)[resolved].all(), name
    assert np.mean(geometry.volume_element.resolved) > 0.3


@pytest.mark.parametrize("derivative", [1, 2])
@pytest.mark.parametrize("shift", [0, 3, -5])
def test_smoothing_weights_are_exact_on_polynomials_and_pass_least_noise(derivative, shift):
    """Against the normal equations of least squares, in exact arithmetic."""
    degree, width = 4, 5
    offsets = tuple(int(k) + shift for k in np.arange(-width, width + 1))
    weights = local_polynomial_weights(offsets, degree, derivative)
    for power in range(degree + 1):
        wanted = math.factorial(derivative) if power == derivative else 0.0
        moment = math.fsum(w * k**power for w, k in zip(weights, offsets, strict=True))
        np.testing.assert_allclose(moment, wanted, atol=1e-9)
    # Least noise: orthogonal to every change that keeps the moments, so a polynomial of that degree itself.
    powers = np.vander(np.array(offsets, float), degree + 1)
    fit = powers @ np.linalg.lstsq(powers, weights, rcond=None)[0]
    np.testing.assert_allclose(fit, weights, atol=1e-10)


def ring_error(size, sigma=0.0, **options):
    """Error of |II| of a circle, in a chart without its symmetry, and its bars."""
    t = TURN * np.arange(size) / size
    s = t + 0.3 * np.sin(t)
    points = np.stack([np.cos(s), np.sin(s)], axis=-1)
    points = points + sigma * np.random.default_rng(3).normal(size=points.shape)
    grid = Grid((Axis("t", 0.0, TURN, size, periodic=True),))
    norm = measure(points, grid, **options).second_form_norm
    return np.abs(norm.value - 1), norm.error


@pytest.mark.slow
def test_smoothing_stencils_keep_the_order(x64):
    coarse, fine = (ring_error(size, accuracy=4, smooth=5)[0].max() for size in (96, 192))
    assert 3.5 < math.log2(coarse / fine) < 5.5


@pytest.mark.slow
def test_smoothing_passes_less_noise_and_the_bars_know(x64):
    plain, smooth = (ring_error(192, 1e-4, accuracy=4, smooth=w) for w in (0, 10))
    gains = [
        np.linalg.norm(w)
        for w in (central_weights(2, 4), local_polynomial_weights(tuple(range(-10, 11)), 4, 2))
    ]
    # The second derivative rules; its noise falls with the norm of the weights.
    ratio = np.sqrt(np.mean(smooth[0] ** 2) / np.mean(plain[0] ** 2))
    assert ratio < 3 * gains[1] / gains[0] < 0.3
    for error, bar in (plain, smooth):
        assert np.mean(error <= bar) >= 0.99


def test_the_mean_of_a_neighbourhood_counts_the_samples_that_are_there():
    grid = Grid((Axis("a", 0, 1, 7), Axis("b", 0, 1, 9, periodic=True)))
    values = np.random.default_rng(0).normal(size=grid.shape)
    with jax.enable_x64(True):
        means = local_mean(jnp.asarray(values), grid, (2, 3))
    for i, j in np.ndindex(grid.shape):
        near = np.ix_([k for k in range(i - 2, i + 3) if 0 <= k < 7], np.arange(j - 3, j + 4) % 9)
        assert means[i, j] == pytest.approx(values[near].mean(), rel=1e-12)


def test_no_large_constant_is_left_to_the_compiler():
    # XLA computed the sums of a grid of ones when it compiled: minutes on 10^5 points.
    grid = Grid(tuple(Axis(name, 0, 1, 20) for name in "abc"))
    program = jax.jit(lambda x: local_mean(x, grid, (2, 2, 2))).lower(jnp.zeros(grid.shape)).as_text()
    assert program.count("reduce_window") == grid.ndim
