"""Verdicts name the cause of a failure at the points that fail, and what they advise helps."""

import dataclasses
import math
import re

import jax.numpy as jnp
import numpy as np
import pytest

from manifold_jax import Axis, Estimate, Grid, datasets, measure, suggest_stencil

TURN = 2 * math.pi


def grid(n, m, stop=TURN, periodic=True):
    return Grid((Axis("a", 0.0, TURN, n, periodic=True), Axis("b", 0.0, stop, m, periodic=periodic)))


def sample(surface, lattice, dtype=np.float64):
    a, b = np.meshgrid(*(axis.samples() for axis in lattice.axes), indexing="ij")
    return np.stack(surface(a, b), axis=-1).astype(dtype)


def torus(a, b):
    radius = 2 + 0.5 * np.cos(b)
    return radius * np.cos(a), radius * np.sin(a), 0.5 * np.sin(b)


def bent(a, b):
    """A cylinder with a weak fold at b = 1, the same all around: a coarse grid resolves the rest."""
    return np.cos(a), np.sin(a), 0.2 * np.abs(b - 1.0) + b


def folded(a, b):
    """A cylinder with a fold at b = 1."""
    return np.cos(a), np.sin(a), 0.5 * np.abs(b - 1.0) * np.sin(3 * a) + b


def sentence(geometry, name="second_form_norm"):
    verdict = geometry.verdict(name)
    assert not verdict.resolved
    return verdict.sentence


@pytest.mark.parametrize("dtype", [pytest.param(np.float32, marks=pytest.mark.slow), np.float64])
def test_a_seam_is_blamed_on_the_axis_that_is_not_periodic(dtype, x64):
    # The tube is cut at b = 6, so that it does not close.
    closed = grid(48, 48, 6.0)
    said = sentence(measure(sample(torus, closed, dtype), closed))
    assert "the b axis does not join smoothly at its ends, is it periodic" in said


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_seam_is_none_on_an_open_axis(dtype, x64):
    closed, opened = grid(48, 48, 6.0), grid(48, 48, 6.0 * 47 / 48, periodic=False)
    assert measure(sample(torus, closed, dtype), opened).verdict("second_form_norm").resolved


def test_the_place_of_a_kink():
    lattice = grid(24, 20, 2.0, periodic=False)  # of the sizes of test_measure: compiled once
    said = sentence(measure(sample(bent, lattice, np.float32), lattice))
    place = float(re.search(r"limited smoothness near b = ([\d.]+), leave it out", said)[1])
    assert abs(place - 1.0) < 3 * lattice.spacing[1]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_kink_is_named_with_its_place(dtype, x64):
    lattice = grid(48, 48, 6.0 * 47 / 48, periodic=False)
    said = sentence(measure(sample(folded, lattice, dtype), lattice))
    place = float(re.search(r"limited smoothness near b = ([\d.]+), leave it out", said)[1])
    assert abs(place - 1.0) < 3 * lattice.spacing[1]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_split_at_a_kink_helps(dtype, x64):
    lattice = grid(48, 48, 1.9, periodic=False)
    points = sample(folded, lattice, dtype)
    said = sentence(measure(points, lattice))
    place = float(re.search(r"limited smoothness near b = ([\d.]+), leave it out", said)[1])
    assert abs(place - 1.0) < 3 * lattice.spacing[1]
    kept = np.flatnonzero(lattice.axes[1].samples() < 1.0)  # split there
    half = Grid((lattice.axes[0], Axis("b", 0.0, float(lattice.axes[1].samples()[kept[-1]]), len(kept))))
    assert measure(points[:, kept], half).verdict("second_form_norm").resolved


def noisy_torus(lattice, sigma):
    points = sample(torus, lattice)
    return points + sigma * np.random.default_rng(0).normal(size=points.shape)


def test_noise_is_blamed(x64):
    lattice = grid(48, 48)  # as in test_noise_bars: the programs are kept on disk
    geometry = measure(noisy_torus(lattice, 6e-5), lattice)
    assert "noise of" in sentence(geometry)
    assert 0.9 < float(jnp.median(geometry.noise)) / (6e-5 * math.sqrt(3)) < 1.3


@pytest.mark.slow
def test_the_suggested_stencil_resolves_noise(x64):
    lattice = grid(64, 64)
    noisy = noisy_torus(lattice, 3e-5)
    told = []
    tried = {"accuracies": (4, 6), "strides": (1, 4), "smooths": (0,)}
    best = suggest_stencil(noisy, lattice, **tried, progress=lambda *counts: told.append(counts))[0]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    tried = measure(noisy, lattice, accuracy=best.accuracy, stride=best.stride, smooth=best.smooth)
    assert best.resolved > 0.95
    assert tried.verdict("second_form_norm").resolved
    truth = measure(datasets.torus(2.0, 0.5, size=64), exact=True).second_form_norm.value
    estimate = tried.second_form_norm
    covered = np.abs(np.asarray(estimate.value) - np.asarray(truth)) <= np.asarray(estimate.error)
    assert covered.mean() > 0.99


@pytest.mark.thorough
def test_rounding_on_a_long_axis_asks_for_float64():
    lattice = Grid((Axis("t", 0.0, TURN, 4096, periodic=True),))
    t = lattice.axes[0].samples()
    circle = np.stack([np.cos(t), np.sin(t)], axis=-1)
    geometry = measure(circle, lattice)
    for name in ("second_form_norm", "mean_curvature", "normal_curvature"):
        assert "rounding dominates, measure in float64" in sentence(geometry, name)


@pytest.mark.slow
def test_float64_resolves_what_rounding_spoilt(x64):
    lattice = Grid((Axis("t", 0.0, TURN, 4096, periodic=True),))
    t = lattice.axes[0].samples()
    circle = np.stack([np.cos(t), np.sin(t)], axis=-1)
    assert all(verdict.resolved for verdict in measure(circle, lattice).verdicts().values())


def twice(a, b):
    return torus(2 * a, b)


def test_a_coarse_axis_is_not_taken_for_noise(x64):
    lattice = grid(48, 48)  # the programs of the seam; ten waves in 48 samples are coarse
    said = sentence(measure(sample(lambda a, b: torus(10 * a, b), lattice), lattice))
    assert "a axis too coarse: refine" in said


def test_coarse_samples_of_a_curve_are_not_taken_for_noise():
    lattice = Grid((Axis("t", 0.0, TURN, 64, periodic=True),))
    t = lattice.axes[0].samples()
    coarse = measure(np.stack([np.cos(20 * t), np.sin(20 * t)], axis=-1), lattice)
    assert 0.2 < float(coarse.noise_decay[0]) < 0.4
    assert "t axis too coarse: refine" in sentence(coarse)
    for told in (coarse.summary(), coarse._repr_html_()):
        assert "Noise of a sample, or what coarse samples leave, a length over all features: " in told
        assert "May be too coarse: t; with more samples this falls, noise does not." in told
    noise = np.random.default_rng(0).normal(size=(64, 2))
    noisy = measure(np.stack([np.cos(t), np.sin(t)], axis=-1) + 0.01 * noise, lattice)
    assert float(noisy.noise_decay[0]) > 0.7
    assert "a sample dominates" in sentence(noisy)
    assert re.search(r"Noise of a sample, a length over all features: 0\.01\d ℓ along t; ", noisy.summary())


@pytest.mark.slow
def test_refining_a_coarse_axis_as_told_resolves(x64):
    said = sentence(measure(sample(twice, grid(9, 24)), grid(9, 24)))
    size = 9
    while "axis too coarse" in said:
        assert "a axis too coarse: refine" in said
        size = math.ceil(size * float(re.search(r"refine ([\d.]+)x", said)[1]))
        verdict = measure(sample(twice, grid(size, 24)), grid(size, 24)).verdict("second_form_norm")
        said = verdict.sentence
    assert verdict.resolved
    assert size <= 40


@pytest.mark.slow
def test_points_next_to_a_pole_are_told_from_coarse_axes():
    geometry = measure(datasets.sphere(2, size=(32, 32)), accuracy=2)
    assert geometry.verdict("total_scalar_curvature").resolved
    total = geometry.total_scalar_curvature
    assert abs(float(total.value) - 8 * math.pi) <= float(total.error) < 2.5


def test_what_overflows_is_said_to():
    lattice = Grid((Axis("t", 0.0, TURN, 64, periodic=True),))
    t = lattice.axes[0].samples()
    geometry = measure((1e20 * np.stack([np.cos(t), np.sin(t)], axis=-1)).astype(np.float32), lattice)
    assert np.isnan(geometry.total_volume.value)
    assert np.isinf(geometry.total_volume.error)
    assert "points or their squares are not finite" in sentence(geometry, "total_volume")


def test_too_few_samples_to_tell_noise_are_said_to_be():
    lattice = Grid((Axis("t", 0.0, TURN, 8, periodic=True),))
    t = lattice.axes[0].samples()
    geometry = measure(np.stack([np.cos(t), np.sin(t)], axis=-1), lattice)
    assert np.isnan(geometry.noise).all()
    assert "Noise of the samples is not known and not in the bars" in geometry.summary()
    told = measure(np.stack([np.cos(t), np.sin(t)], axis=-1), lattice, noise=1e-3)
    np.testing.assert_allclose(told.noise, 1e-3 * math.sqrt(2), rtol=1e-6)
    assert "features: 0.0014 ℓ along t; " in told.summary()
    assert float(told.noise_bars.second_form_norm.min()) > 0


@pytest.mark.parametrize("exact", [pytest.param(False, marks=pytest.mark.slow), True])
def test_an_axis_along_which_nothing_changes_is_named(exact):
    grid = Grid((Axis("angle", 0, 2 * np.pi, 16, periodic=True), Axis("idle", 0, 1, 12)))
    geometry = measure(lambda u: jnp.stack([jnp.cos(u[0]), jnp.sin(u[0])]), grid, exact=exact)
    for verdict in geometry.verdicts().values():
        assert verdict.axes == ("idle",)
        assert verdict.sentence == "not resolved: nothing changes along idle, leave it out of the grid."


@pytest.mark.slow
def test_an_axis_of_an_array_along_which_nothing_changes_is_named():
    grid = Grid((Axis("angle", 0, 2 * np.pi, 16, periodic=True), Axis("idle", 0, 1, 12)))
    points = np.broadcast_to(grid.axes[1].samples()[:, None], (16, 12, 2))
    assert measure(points, grid).verdict("total_volume").axes == ("angle",)
    assert "nothing changes" not in measure(np.ones((16, 12, 2)), grid).verdict("total_volume").sentence


def judged(value, error, norm):
    """The verdict on S of values and bars, and on a total of it, of a geometry made of them."""
    shape = (8, 8)
    base = measure(lambda u: jnp.stack([u[0], u[1], u[0] ** 2]), grid(8, 8, periodic=False), exact=True)

    def everywhere(number, bar):
        return Estimate(jnp.full(shape, number), jnp.full(shape, bar), jnp.full(shape, bar <= 0.1 * norm**2))

    changed = dataclasses.replace(
        base,
        volume_element=everywhere(1.0, 0.0),
        second_form_norm=everywhere(norm, 0.0),
        scalar_curvature=everywhere(value, error),
        total_volume=Estimate(jnp.asarray(2.0), jnp.asarray(0.0), jnp.asarray(True)),
        total_scalar_curvature=Estimate(*map(jnp.asarray, (2 * value, 2 * error, True))),
    )
    return changed.verdict("scalar_curvature"), changed.verdict("total_scalar_curvature")


@pytest.mark.thorough
def test_a_value_whose_sign_is_open_is_not_called_resolved():
    # Bars of 5 % of |II|^2 are small, and say nothing of the sign of a smaller value.
    for verdict in judged(0.04, 0.2, 2.0):
        assert not verdict.resolved
        assert verdict.share == 0.0
        assert verdict.sentence.startswith("not resolved: its sign is open")
    for verdict in judged(0.3, 0.2, 2.0):
        assert verdict.resolved
        assert not verdict.zero
        assert "resolved" in verdict.sentence


def test_what_is_0_within_a_hundredth_is_said_to_be():
    field, total = judged(0.004, 0.02, 2.0)  # 0.024 of 4 is 0.6 %
    assert field.resolved
    assert field.zero
    assert field.sentence == "0 within 0.6% of |II|² at 100.0% of the points."
    assert total.zero
    assert total.sentence == "0 within 0.6% of ∫ |II|² dV."
    assert "within 0.7% of" in judged(0.0041, 0.02, 2.0)[0].sentence  # rounded up, never down
    assert not judged(0.004, 0.04, 2.0)[0].resolved  # 1.1 %


def test_both_signs_and_the_zero_between_them():
    torus_of_rows = measure(datasets.torus(size=(16, 16)), exact=True)  # S = 0 on two rows of samples
    value, error, _ = map(np.asarray, torus_of_rows.scalar_curvature)
    crossing = np.mean(np.abs(value) <= error)
    assert crossing == 2 / 16
    verdict = torus_of_rows.verdict("scalar_curvature")
    assert verdict.resolved
    assert not verdict.zero
    assert verdict.sentence.startswith("resolved at 87.5% of the points, 0 within ")
    assert verdict.sentence.endswith("of |II|² at 12.5%.")


def test_a_plane_has_no_scale_but_its_own():
    plane = measure(lambda u: jnp.stack([u[0], u[1], u[0] - u[1]]), grid(8, 8, periodic=False), exact=True)
    for name in ("scalar_curvature", "total_scalar_curvature"):
        verdict = plane.verdict(name)
        assert verdict.resolved
        assert "0 within its bar, like |II|" in verdict.sentence


@pytest.mark.thorough
def test_a_coarse_quadrature_of_exact_values_is_blamed_on_its_axis():
    coarse = measure(datasets.hyperboloid(size=(7, 64)), exact=True, tolerance=0.01)
    verdict = coarse.verdict("total_scalar_curvature")
    assert not verdict.resolved
    assert verdict.axes == ("meridian",)
    assert verdict.sentence == "not resolved: the integral needs more samples of meridian."
    fine = measure(datasets.hyperboloid(size=(33, 64)), exact=True, tolerance=0.01)
    assert fine.verdict("total_scalar_curvature").resolved
