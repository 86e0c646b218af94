"""Rates, explicit bounds and slopes against formulas written out in NumPy float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from scipy import stats

from manifold_jax.datasets import sphere
from manifold_jax.fitting import bounds
from manifold_jax.fitting.bounds import agnostic_mean_squared_bound, agnostic_sample_complexity, unit_ball
from manifold_jax.fitting.rates import RATES, smooth_rate
from manifold_jax.fitting.slopes import (
    Slope,
    compare_rates,
    effective_slope,
    explicit,
    fit_constant,
    slope,
    supports,
)

ln = np.log

# Every rate once more, written as in its source.
FORMULAS = {
    "perpendicular_hausdorff_lower": lambda n, d: n ** (-2 / (2 + d)),
    "perpendicular_hausdorff_upper": lambda n, d: (ln(n) / n) ** (2 / (2 + d)),
    "noiseless_hausdorff_lower": lambda n, d: n ** (-2 / d),
    "noiseless_hausdorff_upper": lambda n, d: (ln(n) / n) ** (2 / d),
    "clutter_hausdorff_lower": lambda n, d: n ** (-2 / d),
    "additive_hausdorff_lower": lambda n, d: 1 / ln(n),
    "small_additive_hausdorff_upper_as_drawn": lambda n, d: (ln(n) / n) ** (1 / d),
    "agnostic_mean_squared_upper": lambda n, d: (ln(n) ** 4 / n) ** (2 / (d + 4)),
    "noiseless_inverse_reach_upper_global": lambda n, d: n ** (-1 / d),
    "noiseless_inverse_reach_upper_local": lambda n, d: n ** (-2 / (3 * d - 1)),
    "grid_scalar_curvature_upper": lambda n, d: n ** (-2 / d),
    "noiseless_hausdorff_lower_c3": lambda n, d: n ** (-3 / d),
    "noiseless_hausdorff_upper_c3": lambda n, d: (ln(n) / n) ** (3 / d),
    "noiseless_hausdorff_lower_c4": lambda n, d: n ** (-4 / d),
    "noiseless_hausdorff_upper_c4": lambda n, d: (ln(n) / n) ** (4 / d),
    "noiseless_tangents_lower_c2": lambda n, d: n ** (-1 / d),
    "noiseless_tangents_upper_c2": lambda n, d: (ln(n) / n) ** (1 / d),
    "noiseless_tangents_lower_c3": lambda n, d: n ** (-2 / d),
    "noiseless_tangents_upper_c3": lambda n, d: (ln(n) / n) ** (2 / d),
    "noiseless_curvature_lower_c3": lambda n, d: n ** (-1 / d),
    "noiseless_curvature_upper_c3": lambda n, d: (ln(n) / n) ** (1 / d),
    "noiseless_curvature_lower_c4": lambda n, d: n ** (-2 / d),
    "noiseless_curvature_upper_c4": lambda n, d: (ln(n) / n) ** (2 / d),
}
# What was not read in a source or a paper that quotes it, and a curve that is no theorem: these must say so.
UNSEEN = {
    "small_additive_hausdorff_upper_as_drawn",
    "agnostic_mean_squared_upper",
    "grid_scalar_curvature_upper",
}
HAUSDORFF = "Hausdorff distance"
SIZES = np.geomspace(100, 10_000, 9)


def complexity(epsilon, volume, reach, d, constant, delta):
    """Theorem 1 as printed in the head of ``bounds``."""
    planes = volume * (reach**-d + epsilon ** (-d / 2) * reach ** (-d / 2))
    cut = max(ln(planes / epsilon), 0.0)
    return constant * (planes / epsilon**2 * cut**4 + ln(1 / delta) / epsilon**2)


# --- rates -------------------------------------------------------------------------------------------


def test_every_rate_against_its_formula(x64):
    assert set(RATES) == set(FORMULAS)
    n = np.array([2.0, 3.0, 50.0, 1e4, 1e9])
    for name, formula in FORMULAS.items():
        for d in (1, 2, 3, 4, 7):
            np.testing.assert_allclose(RATES[name](n, d), formula(n, d), rtol=1e-13, err_msg=name)


def test_hand_values(x64):
    assert float(RATES["perpendicular_hausdorff_lower"](100.0, 2)) == pytest.approx(0.1)
    assert float(RATES["noiseless_hausdorff_lower"](1e6, 4)) == pytest.approx(1e-3)
    assert float(RATES["noiseless_inverse_reach_upper_local"](1e5, 2)) == pytest.approx(1e-2)
    assert float(RATES["agnostic_mean_squared_upper"](math.exp(4.0), 4)) == pytest.approx(4 / math.e)
    assert smooth_rate("curvature", 5, "upper").exponent(3) == 1.0


def test_rates_of_one_loss_have_different_words():
    words = [(rate.loss, rate.words) for rate in RATES.values()]
    assert len(set(words)) == len(words)


def test_what_was_not_seen_says_so():
    assert {name for name, rate in RATES.items() if not rate.verified} == UNSEEN
    assert not bounds.VERIFIED
    assert "bound*" in explicit(RATES["grid_scalar_curvature_upper"], 2, constant=1.0).label
    assert "*" not in explicit(RATES["noiseless_hausdorff_upper"], 2, constant=1.0).label
    assert "No theorem" in RATES["small_additive_hausdorff_upper_as_drawn"].note
    assert "not verified" not in explicit(RATES["noiseless_hausdorff_lower"], 2, constant=1.0).label
    assert all(rate.note and rate.source and rate.noise and rate.loss for rate in RATES.values())
    assert all(name == rate.name and rate.side in name for name, rate in RATES.items())


@pytest.mark.parametrize("name", RATES)
def test_rates_decrease_from_where_they_say(name, x64):
    rate = RATES[name]
    for d in (1, 3):
        start = rate.decreases_from(d)
        n = start * np.geomspace(1.0001, 1e12, 200)
        assert np.all(np.diff(rate(n, d)) < 0)
        if start > 2.01:
            below = np.linspace(2.0, 0.999 * start, 20)
            assert np.all(np.diff(rate(below, d)) > 0)


def test_log_n_over_n_turns_at_e():
    assert RATES["noiseless_hausdorff_upper"].decreases_from(5) == pytest.approx(math.e)
    assert RATES["agnostic_mean_squared_upper"].decreases_from(2) == pytest.approx(math.exp(4))
    values = RATES["small_additive_hausdorff_upper_as_drawn"](np.array([2.0, 3.0, 4.0]), 1)
    np.testing.assert_allclose(values, [0.34657, 0.36620, 0.34657], rtol=1e-4)


def test_rates_under_jit_and_grad_follow_the_type(x64):
    rate = RATES["perpendicular_hausdorff_upper"]
    n = 1234.0
    derivative = jax.jit(jax.grad(lambda n: rate(n, 3)))(n)
    a = 2 / 5
    expected = FORMULAS["perpendicular_hausdorff_upper"](n, 3) * (-a / n + a / (n * ln(n)))
    assert float(derivative) == pytest.approx(expected, rel=1e-12)
    assert rate(jnp.float32(n), 3).dtype == jnp.float32
    assert rate(1234, 3).dtype == jnp.float64
    traced = jax.jit(lambda n: rate(n, 3))(jnp.array([1.0, -3.0, 2.0]))
    np.testing.assert_array_equal(np.isnan(traced), [True, True, False])


# --- sample complexity and its inverse -------------------------------------------------------------------

CASES = [
    (0.3, 2 * math.pi, 1.0, 1, 1.0, 0.05),
    (0.01, 1.7, 0.2, 2, 0.5, 0.01),
    (1e-6, 40.0, 0.05, 4, 10.0, 0.3),
    (0.9, 1e-4, 0.9, 3, 20.0, 0.5),  # N_p < eps: the logarithm is cut off
]


@pytest.mark.parametrize("case", CASES)
def test_sample_complexity_against_numpy(case, x64):
    epsilon, volume, reach, d, constant, delta = case
    count = agnostic_sample_complexity(epsilon, volume, reach, d, constant=constant, delta=delta)
    assert float(count) == pytest.approx(complexity(*case), rel=1e-12)


def test_sample_complexity_by_hand():
    """Circle, eps = 1/4: N_p = 6 pi, N_p / eps = 24 pi, log = 4.3227, fourth power 349.15."""
    count = agnostic_sample_complexity(0.25, 2 * math.pi, 1.0, 1, constant=1.0, delta=math.exp(-1))
    assert float(count) == pytest.approx(96 * math.pi * 349.15 + 16, rel=1e-4)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.thorough
def test_inverse_round_trips(case, x64):
    epsilon, volume, reach, d, constant, delta = case
    for radius in (1.0, 3.7):
        bound = agnostic_mean_squared_bound(
            complexity(*case),
            volume * radius**d,
            reach * radius,
            d,
            radius=radius,
            constant=constant,
            delta=delta,
        )
        assert not bool(bound.vacuous)
        assert not bound.verified
        assert float(bound.epsilon) == pytest.approx(epsilon, rel=1e-10)
        assert float(bound.mean_squared) == pytest.approx(epsilon * radius**2, rel=1e-10)
        assert float(bound.root_mean_square) == pytest.approx(math.sqrt(epsilon) * radius, rel=1e-10)


def test_bound_is_vacuous_below_its_least_samples(x64):
    stated = {"radius": 2.0, "constant": 1.0, "delta": 0.05}
    least = complexity(1.0, math.pi, 0.5, 1, 1.0, 0.05)  # a circle of radius 1 in a ball of radius 2
    samples = least * np.array([0.01, 0.999, 1.001, 100.0])
    bound = agnostic_mean_squared_bound(samples, 2 * math.pi, 1.0, 1, **stated)
    np.testing.assert_array_equal(bound.vacuous, [True, True, False, False])
    np.testing.assert_allclose(bound.least_samples, least, rtol=1e-12)
    np.testing.assert_array_equal(np.isinf(bound.mean_squared), bound.vacuous)
    assert 0.99 < float(bound.epsilon[2]) < 1
    assert float(bound.mean_squared[2]) < 4.0


def test_bound_does_not_change_with_scale(x64):
    def bound(scale):
        return agnostic_mean_squared_bound(
            1e7, scale**3 * 20.0, scale * 0.5, 3, radius=scale * 2.0, constant=1.0, delta=0.1
        )

    for scale in (1e-6, 0.3, 1e5):
        assert float(bound(scale).epsilon) == pytest.approx(float(bound(1.0).epsilon), rel=1e-12)
        assert float(bound(scale).mean_squared) == pytest.approx(
            scale**2 * float(bound(1.0).mean_squared), rel=1e-12
        )


@pytest.mark.slow
def test_bound_is_monotone_in_every_argument(x64):
    base = {"samples": 1e6, "volume": 6.0, "reach": 0.5, "radius": 1.0, "constant": 1.0, "delta": 0.1}

    def epsilon(**changes):
        return np.asarray(agnostic_mean_squared_bound(**{**base, **changes}, dimension=2).epsilon)

    assert np.all(np.diff(epsilon(samples=np.geomspace(1e5, 1e12, 50))) < 0)
    assert np.all(np.diff(epsilon(volume=np.geomspace(1.0, 100.0, 20))) > 0)
    assert np.all(np.diff(epsilon(reach=np.linspace(0.3, 1.0, 20))) < 0)
    assert np.all(np.diff(epsilon(constant=np.geomspace(1.0, 10.0, 20))) > 0)
    assert np.all(np.diff(epsilon(delta=np.linspace(0.01, 0.99, 20))) < 0)


@pytest.mark.parametrize("d", [2, *(pytest.param(d, marks=pytest.mark.slow) for d in (1, 4))])
def test_bound_tends_to_its_rate(d, x64):
    """d log eps / d log s is -2/(d+4) with the correction of log^4, at any number of samples."""
    s = 1e60
    log_epsilon = lambda log_s: jnp.log(  # noqa: E731
        agnostic_mean_squared_bound(jnp.exp(log_s), 6.0, 0.5, d, radius=1.0, constant=1.0, delta=0.1).epsilon
    )
    local = float(jax.grad(log_epsilon)(math.log(s)))
    log_rate = jax.grad(lambda log_s: RATES["agnostic_mean_squared_upper"].log(jnp.exp(log_s), d))
    assert local == pytest.approx(float(log_rate(math.log(s))), rel=0.02)
    assert abs(local + 2 / (d + 4)) > 0.02 * 2 / (d + 4)  # the logarithm is still seen


@pytest.mark.slow
def test_gradients_of_the_bound_by_finite_differences(x64):
    def epsilon(arguments):
        samples, volume, reach, radius, constant, delta = arguments
        return agnostic_mean_squared_bound(
            samples, volume, reach, 2, radius=radius, constant=constant, delta=delta
        ).epsilon

    at = jnp.array([1e6, 6.0, 0.5, 1.2, 1.5, 0.1])
    gradient = jax.jit(jax.grad(epsilon))
    steps = 1e-5 * np.diag(at)
    ends = jax.jit(jax.vmap(epsilon))(jnp.stack([at + steps, at - steps]).reshape(12, 6)).reshape(2, 6)
    np.testing.assert_allclose(gradient(at), (ends[0] - ends[1]) / (2e-5 * at), rtol=1e-5)
    # Where the logarithm is cut off, only the second term is left: eps = (C log(1/delta) / s)^(1/2).
    small = jnp.array([10.0, 1e-9, 0.5, 1.0, 1.0, 0.1])
    assert np.isfinite(gradient(small)).all()
    assert float(gradient(small)[0]) == pytest.approx(-0.5 * math.sqrt(ln(10) / 10) / 10, rel=1e-9)


def test_bound_in_float32_and_under_jit_and_vmap():
    sizes = jnp.geomspace(1e5, 1e30, 6)
    call = lambda s: agnostic_mean_squared_bound(  # noqa: E731
        s, 6.0, 0.01, 8, radius=1.0, constant=1e-12, delta=0.1
    )
    bound = jax.jit(jax.vmap(call))(sizes)
    assert bound.epsilon.dtype == jnp.float32
    with jax.enable_x64(True):
        exact = call(np.asarray(sizes, np.float64))
        assert exact.epsilon.dtype == jnp.float64
        assert call(jnp.asarray(np.asarray(sizes))).epsilon.dtype == jnp.float32
    np.testing.assert_array_equal(bound.vacuous, exact.vacuous)
    assert not bound.vacuous.all()
    np.testing.assert_allclose(bound.epsilon, exact.epsilon, rtol=2e-5)


def test_unit_ball_of_a_measured_sphere(x64):
    manifold = sphere(2, radius=3.0)
    volume, reach = unit_ball(manifold.known["total_volume"], manifold.known["reach"], 2, radius=3.0)
    assert (float(volume), float(reach)) == pytest.approx((4 * math.pi, 1.0))


# --- constants ---------------------------------------------------------------------------------------


def test_constants_are_recovered_and_labelled(x64):
    rate = RATES["perpendicular_hausdorff_upper"]
    values = FORMULAS["perpendicular_hausdorff_upper"](SIZES, 3)
    factors = np.random.default_rng(0).lognormal(size=(9, 30))
    errors = values[:, None] * factors
    fitted = fit_constant(SIZES, errors, rate, 3)
    assert fitted.constant == pytest.approx(np.exp(np.mean(ln(factors))))
    assert fitted.fitted
    assert "fitted by least squares" in fitted.label
    for level in (0.01, 0.5, 0.99):
        curve = fit_constant(SIZES, errors, rate, 3, kind="quantile", level=level)
        assert curve.constant == pytest.approx(np.quantile(factors, level))
        assert np.mean(errors <= np.asarray(curve(SIZES))[:, None]) == pytest.approx(level, abs=0.005)
        assert f"fitted {level} quantile" in curve.label
    stated = explicit(rate, 3, constant=2.5)
    assert not stated.fitted
    assert "C = 2.5 (explicit" in stated.label
    np.testing.assert_allclose(stated(SIZES), 2.5 * values)
    assert fit_constant(SIZES, values, rate, 3).constant == pytest.approx(1.0)


# --- slopes ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_slope_of_a_power_law_is_exact(x64):
    errors = np.tile(7.0 * SIZES[:, None] ** -0.37, (1, 20))
    measured = slope(SIZES, errors, key=jax.random.key(0), resamples=500)
    assert float(measured.value) == pytest.approx(-0.37, abs=1e-12)
    assert float(measured.upper - measured.lower) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [4, 40])
def test_slope_and_interval_against_numpy(seeds, x64):
    """A resampled mean is nearly normal, of known deviation: Student's interval, freedom by Satterthwaite."""
    rng = np.random.default_rng(1)
    noise = 0.3 * rng.normal(size=(9, seeds))
    measured = slope(SIZES, np.exp(noise) / SIZES[:, None], key=jax.random.key(0), resamples=8000, level=0.9)
    x = ln(SIZES) - ln(SIZES).mean()
    value = np.polyfit(np.repeat(ln(SIZES), seeds), (noise - ln(SIZES)[:, None]).ravel(), 1)[0]
    assert float(measured.value) == pytest.approx(value, abs=1e-12)
    parts = (x / np.sum(x**2)) ** 2 * noise.var(axis=1, ddof=1) / seeds
    freedom = parts.sum() ** 2 / np.sum(parts**2 / (seeds - 1))
    width = float(measured.upper - measured.lower) / 2
    assert width == pytest.approx(stats.t.ppf(0.95, freedom) * np.sqrt(parts.sum()), rel=0.03)
    assert measured.level == 0.9


@pytest.mark.slow
def test_slopes_do_not_change_with_units_and_seeds_do_not_mix(x64):
    errors = np.random.default_rng(2).lognormal(size=(9, 20)) / SIZES[:, None]
    draw = lambda e: slope(SIZES, e, key=jax.random.key(3), resamples=500)  # noqa: E731
    measured, scaled = draw(errors), draw(1e6 * errors)
    for a, b in zip(measured[:3], scaled[:3], strict=True):
        assert float(a) == pytest.approx(float(b), abs=1e-12)
    # Constant within every size: resampling within sizes leaves nothing to chance.
    still = draw(np.tile(errors[:, :1], (1, 20)))
    assert float(still.lower) == pytest.approx(float(still.upper), abs=1e-12)


def test_logarithms_bend_the_slope(x64):
    rate = RATES["noiseless_hausdorff_upper"]
    expected = np.polyfit(ln(SIZES), ln(FORMULAS[rate.name](SIZES, 2)), 1)[0]
    assert float(effective_slope(rate, SIZES, 2)) == pytest.approx(expected, abs=1e-12)
    assert expected == pytest.approx(-0.85, abs=0.005)
    errors = FORMULAS[rate.name](SIZES, 2)[:, None] * np.exp(
        0.05 * np.random.default_rng(3).normal(size=(9, 20))
    )
    measured = slope(SIZES, errors, key=jax.random.key(0), resamples=500)
    row = supports(measured, rate, 2)
    assert (row.supported, row.asymptotic_supported) == (True, False)
    assert row.asymptotic == -1.0
    plain = supports(measured, RATES["noiseless_hausdorff_lower"], 2)
    assert (plain.supported, plain.effective) == (False, pytest.approx(-1.0))


@pytest.mark.parametrize("name", ["perpendicular_hausdorff_lower", "noiseless_hausdorff_upper"])
def test_the_true_rate_is_among_the_supported_ones(name, x64):
    values = FORMULAS[name](SIZES, 3)
    errors = values[:, None] * np.exp(0.1 * np.random.default_rng(4).normal(size=(9, 20)))
    rows = compare_rates(slope(SIZES, errors, key=jax.random.key(1), resamples=500), 3, loss=HAUSDORFF)
    assert name in {row.rate.name for row in rows if row.supported}
    assert "additive_hausdorff_lower" not in {row.rate.name for row in rows if row.supported}
    assert {row.rate.loss for row in rows} == {HAUSDORFF}
    distance = [abs(row.effective - float(np.polyfit(ln(SIZES), ln(errors).mean(1), 1)[0])) for row in rows]
    assert distance == sorted(distance)


def test_interval_ends_decide():
    at = lambda low, high: Slope(jnp.float32(-1), jnp.float32(low), jnp.float32(high), 0.95, SIZES)  # noqa: E731
    rate = RATES["perpendicular_hausdorff_lower"]  # slope -1/2 at d = 2
    assert supports(at(-0.6, -0.4), rate, 2).supported
    assert not supports(at(-0.6, -0.51), rate, 2).supported
    assert not supports(at(-0.49, -0.4), rate, 2).supported


@pytest.mark.slow
def test_slope_keeps_the_type_and_traces():
    errors = jnp.exp(jax.random.normal(jax.random.key(0), (9, 4))) / SIZES[:, None].astype(np.float32)
    draw = lambda e: slope(SIZES, e, key=jax.random.key(1), resamples=100)  # noqa: E731
    eager, jitted = draw(errors), jax.jit(draw)(errors)
    assert eager.value.dtype == jnp.float32
    np.testing.assert_allclose(jitted[:3], eager[:3], rtol=1e-5)
    assert np.isnan(jax.jit(draw)(errors.at[0, 0].set(0.0)).value)
    assert np.isfinite(jax.grad(lambda e: draw(e).value)(errors)).all()
    again = draw(errors)
    np.testing.assert_array_equal(again[:3], eager[:3])


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "level"), [(3, 0.95), (5, 0.8)])
def test_intervals_cover_at_their_level(seeds, level):
    """Skewed noise that differs between sizes. With 3 seeds the normal quantile would cover 90.5 %."""
    trials, sizes = 1000, np.geomspace(50, 5000, 8)
    deviation = np.linspace(0.6, 0.2, 8)[:, None]

    @jax.jit
    def covered(key):
        first, second = jax.random.split(key)
        noise = deviation * jax.random.gamma(first, 4.0, (8, seeds)) ** 0.5
        measured = slope(sizes, jnp.exp(noise), key=second, resamples=300, level=level)
        # E log error by size gives the true least-squares slope.
        mean = deviation[:, 0] * math.gamma(4.5) / math.gamma(4.0)
        true = float(np.polyfit(ln(sizes), mean, 1)[0])
        return (measured.lower <= true) & (true <= measured.upper)

    hits = jax.lax.map(covered, jax.random.split(jax.random.key(0), trials), batch_size=100)
    assert float(jnp.mean(hits)) == pytest.approx(level, abs=3 * math.sqrt(level * (1 - level) / trials))


def test_kernels_lower_for_every_platform():
    key = jax.random.PRNGKey(0)
    functions = (
        lambda key: RATES["noiseless_hausdorff_upper"](2 + jax.random.uniform(key, (3,)), 2),
        lambda key: agnostic_mean_squared_bound(
            1e6 + jax.random.uniform(key, (3,)), 6.0, 0.5, 2, radius=1.0, constant=1.0, delta=0.1
        ),
        lambda key: slope(SIZES, jax.random.uniform(key, (9, 3)), key=key, resamples=300)[:3],
    )
    for function in functions:
        export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(key)


# --- everything else is refused ---------------------------------------------------------------------------

KEY = jax.random.PRNGKey(0)
RATE = RATES["noiseless_hausdorff_lower"]
TWO = np.array([100.0, 200.0])
GOOD = np.ones((2, 3))


def bound(samples=1e6, volume=6.0, reach=0.5, dimension=2, radius=1.0, constant=1.0, delta=0.1):
    return agnostic_mean_squared_bound(
        samples, volume, reach, dimension, radius=radius, constant=constant, delta=delta
    )


def samples(epsilon=0.1, volume=6.0, reach=0.5, dimension=2, constant=1.0, delta=0.1):
    return agnostic_sample_complexity(epsilon, volume, reach, dimension, constant=constant, delta=delta)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: RATE(100.0, 0),
            "noiseless_hausdorff_lower: dimension must be a whole number, at least 1, got 0",
        ),
        (lambda: RATE(100.0, 1.5), "dimension must be a whole number, at least 1, got 1.5"),
        (lambda: RATE(100.0, True), "dimension must be a whole number, at least 1, got True"),
        (lambda: RATE.decreases_from(-1), "dimension must be a whole number, at least 1, got -1"),
        (lambda: RATE(np.array([5.0, 1.0]), 2), "number of samples must be finite and at least 2, got 1 at"),
        (lambda: RATE(np.nan, 2), "number of samples must be finite and at least 2, got nan"),
        (
            lambda: smooth_rate("reach", 2, "upper"),
            "smooth_rate: what must be one of 'hausdorff', 'tangents', 'curvature', got 'reach'",
        ),
        (
            lambda: smooth_rate("hausdorff", 2, "both"),
            "smooth_rate: side must be one of 'lower', 'upper', got 'both'",
        ),
        (
            lambda: smooth_rate("hausdorff", 1, "lower"),
            "k must be a whole number, at least 2, got 1",
        ),
        (
            lambda: smooth_rate("curvature", 2, "lower"),
            "k must be a whole number, at least 3, got 2",
        ),
        (lambda: samples(epsilon=1.0), "epsilon must be positive and below 1, got 1"),
        (lambda: samples(epsilon=0.0), "epsilon must be positive and below 1, got 0"),
        (lambda: samples(epsilon=np.array([0.5, -0.1])), "epsilon must be positive and below 1, got -0.1"),
        (lambda: samples(epsilon=np.nan), "epsilon must be positive and below 1, got nan"),
        (lambda: samples(delta=1.5), "delta must be positive and below 1, got 1.5"),
        (lambda: samples(volume=-1.0), "volume must be finite and positive, got -1"),
        (lambda: samples(reach=np.inf), "reach must be finite and positive, got inf"),
        (lambda: samples(constant=0), "constant must be finite and positive, got 0"),
        (lambda: samples(dimension=0), "dimension must be a whole number, at least 1, got 0"),
        (lambda: bound(samples=1), "samples must be finite and at least 2, got 1"),
        (lambda: bound(volume=0.0), "volume must be finite and positive, got 0"),
        (lambda: bound(reach=-0.5), "reach must be finite and positive, got -0.5"),
        (lambda: bound(radius=0.0), "radius must be finite and positive, got 0"),
        (lambda: bound(delta=0.0), "delta must be positive and below 1, got 0"),
        (lambda: bound(dimension=0), "dimension must be a whole number, at least 1, got 0"),
        (
            lambda: explicit(RATE, 2, constant=-1.0),
            "explicit: constant must be a positive finite number, got -1",
        ),
        (lambda: explicit(RATE, 0, constant=1.0), "dimension must be a whole number, at least 1, got 0"),
        (lambda: fit_constant(TWO, np.ones(3), RATE, 2), r"errors must have shape \(2,\) or \(2, seeds\)"),
        (
            lambda: fit_constant(TWO, np.zeros(2), RATE, 2),
            r"must be finite and positive, got 0 at index \(0,\)",
        ),
        (
            lambda: fit_constant(TWO, GOOD, RATE, 2, kind="max"),
            "kind must be one of 'least squares', 'quantile'",
        ),
        (
            lambda: fit_constant(TWO, GOOD, RATE, 2, kind="quantile", level=99),
            r"level must lie in \[0, 1\], got 99",
        ),
        (lambda: slope(TWO, np.ones((3, 2)), key=KEY), r"one row a size, got \(3, 2\)"),
        (lambda: slope(TWO, np.ones((2, 0)), key=KEY), r"one row a size, got \(2, 0\)"),
        (lambda: slope(TWO, np.ones(2), key=KEY), "errors must hold at least 2 seeds"),
        (
            lambda: slope(TWO, -GOOD, key=KEY),
            r"slope: errors must be finite and positive, got -1 at index \(0, 0\)",
        ),
        (lambda: slope(TWO, np.nan * GOOD, key=KEY), r"finite and positive, got nan at index \(0, 0\)"),
        (lambda: slope(TWO[:1], GOOD[:1], key=KEY), r"at least 2 numbers, got shape \(1,\)"),
        (lambda: slope(TWO * 0 + 7, GOOD, key=KEY), "all sizes are 7: a slope needs two different ones"),
        (
            lambda: slope(TWO / 100, GOOD, key=KEY),
            "slope: sizes must be finite and at least 2",
        ),
        (
            lambda: slope(TWO, GOOD, key=KEY, resamples=1),
            "resamples must be a whole number, at least 2, got 1",
        ),
        (
            lambda: slope(TWO, GOOD, key=KEY, level=95),
            "level must be a positive finite number below 1, got 95",
        ),
        (lambda: effective_slope(RATE, 100.0, 2), r"at least 2 numbers, got shape \(\)"),
        (
            lambda: compare_rates(Slope(-1.0, -1.1, -0.9, 0.95, TWO), 2, loss="rms"),
            "loss must be that of a rate, 'Hausdorff distance', .*, got 'rms'",
        ),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
