"""Closed forms of the surfaces against NumPy differential geometry written out here, in float64."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from manifold_jax.datasets.compose import product, warped
from manifold_jax.datasets.curves import circle, ellipse, helix, parallel_circles, two_moons
from manifold_jax.datasets.quadrics import ellipsoid, hyperboloid
from manifold_jax.datasets.surfaces import flat_torus, sphere, swiss_roll, torus, veronese
from manifold_jax.geometry.grid import Axis, Grid
from manifold_jax.geometry.manifold import Manifold

CASES = {
    "circle": partial(circle, 1.7),
    "ellipse": partial(ellipse, (0.8, 2.1)),
    "helix": partial(helix, 1.3, 2.0, 1.5),
    "upper moon": lambda: two_moons(1.4)[0],
    "lower moon": lambda: two_moons(1.4)[1],
    "lower circle": lambda: parallel_circles(1.2, 0.7)[0],
    "upper circle": lambda: parallel_circles(1.2, 0.7)[1],
    "S1": partial(sphere, 1, 1.5),
    "S2": partial(sphere, 2, 1.5),
    "S3": partial(sphere, 3, 1.5),
    "S4": partial(sphere, 4, 1.5),
    "torus": partial(torus, 1.9, 0.7),
    "ellipsoid abc": partial(ellipsoid, (1.6, 1.2, 0.9)),
    "ellipsoid bca": partial(ellipsoid, (1.2, 0.9, 1.6)),
    "one sheet": partial(hyperboloid, 1, (1.3, 0.9, 1.1), 1.2),
    "one sheet of revolution": partial(hyperboloid, 1, (1.3, 1.3, 0.8), 1.2),
    "two sheets": partial(hyperboloid, 2, (1.3, 0.9, 1.1), 1.2),
    "two sheets of revolution": partial(hyperboloid, 2, (1.3, 1.3, 0.8), 1.2),
    "T2": partial(flat_torus, 2, (0.6, 1.1)),
    "T3": partial(flat_torus, 3, (0.6, 1.1, 0.9)),
    "veronese": partial(veronese, 1.3),
    "swiss roll": partial(swiss_roll, 2.0, 11.0, 3.0),
    "ellipse x helix": lambda: product(ellipse((2.0, 0.9)), helix(1.0, 2.0, 1.0)),
    "ellipse x ellipsoid": lambda: product(ellipse((2.0, 0.9)), ellipsoid((1.6, 1.2, 0.9))),
    "torus x veronese": lambda: product(torus(1.9, 0.7), veronese()),
    "warped helix": lambda: warped(helix(1.3, 2.0, 1.5)),
    "warped torus": lambda: warped(torus(1.9, 0.7)),
    "warped ellipsoid": lambda: warped(ellipsoid((1.6, 1.2, 0.9)), -0.4),
    "warped product": lambda: warped(product(ellipse((2.0, 0.9)), sphere(2))),
}
POINTWISE = (
    "metric",
    "volume_element",
    "gaussian_curvature",
    "scalar_curvature",
    "mean_curvature",
    "second_form_norm",
    "normal_curvature",
)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def interior_points(manifold, count=4, seed=0):
    lows = np.array([a.start for a in manifold.grid.axes])
    highs = np.array([a.stop for a in manifold.grid.axes])
    shares = np.random.default_rng(seed).uniform(0.1, 0.9, (count, len(lows)))
    return lows + shares * (highs - lows)


def flat(manifold):
    return lambda u: jnp.ravel(manifold.embedding(u))


def evaluate(manifold, points):
    """2-jets by autodiff, and every pointwise closed form, in one compilation."""
    embedding = flat(manifold)

    def one(u):
        forms = {name: form(u) for name, form in manifold.known.items() if callable(form)}
        return jax.jacfwd(embedding)(u), jax.jacfwd(jax.jacfwd(embedding))(u), forms

    first, second, forms = jax.jit(jax.vmap(one))(jnp.asarray(points))
    return (
        np.moveaxis(np.asarray(first), 1, 2),
        np.moveaxis(np.asarray(second), 1, 3),
        {name: np.asarray(value) for name, value in forms.items()},
    )


def largest_normal_curvature(form):
    """max |II(v, v)|: over a fan of directions for d <= 2, else by shifted power iteration (SS-HOPM)."""
    d = form.shape[0]
    if d <= 2:
        angles = np.linspace(0.0, np.pi, 20001)
        v, steps = np.stack([np.cos(angles), np.sin(angles)], axis=1)[:, :d], 0
        v = v if d == 2 else np.ones((1, 1))
    else:
        v, steps = np.random.default_rng(0).normal(size=(24, d)), 500
        v /= np.linalg.norm(v, axis=1, keepdims=True)
    for step in range(steps + 1):
        along = (v @ form.reshape(d, -1)).reshape(len(v), d, -1)  # II(v, .)
        normal = np.sum(along * v[:, :, None], axis=1)  # II(v, v)
        if step < steps:
            v = np.sum(along * normal[:, None, :], axis=2) + 0.3 * np.sum(form**2) * v
            v /= np.linalg.norm(v, axis=1, keepdims=True)
    return np.max(np.linalg.norm(normal, axis=1))


def oracle(first, second):
    """Section 2 of the design at one point, from X_i (d, f) and X_ij (d, d, f)."""
    d = first.shape[0]
    g = first @ first.T
    inverse = np.linalg.inv(g)
    gamma = np.einsum("ijf,kf->ijk", second, first)
    form = second - np.einsum("ijm,mn,nf->ijf", gamma, inverse, first)
    gram = np.einsum("ijf,klf->ijkl", form, form)
    riemann = np.einsum("ikjl->ijkl", gram) - np.einsum("iljk->ijkl", gram)
    ricci = np.einsum("ik,ijkl->jl", inverse, riemann)
    scalar = np.einsum("jl,jl->", inverse, ricci)
    mean = np.einsum("ij,ijf->f", inverse, form) / d
    frame = np.linalg.inv(np.linalg.cholesky(g))
    orthonormal = np.einsum("ai,bj,ijf->abf", frame, frame, form)
    return {
        "metric": g,
        "volume_element": np.sqrt(np.linalg.det(g)),
        "gaussian_curvature": scalar / 2.0,
        "scalar_curvature": scalar,
        "mean_curvature": np.linalg.norm(mean),
        "second_form_norm": np.linalg.norm(orthonormal),
        "normal_curvature": largest_normal_curvature(orthonormal),
    }


QUICK = ("circle", "S2", "warped torus")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES]
)
def test_closed_forms_match_the_second_fundamental_form(case):
    manifold = CASES[case]()
    first, second, forms = evaluate(manifold, interior_points(manifold))
    expected = set(POINTWISE) if manifold.grid.ndim == 2 else set(POINTWISE) - {"gaussian_curvature"}
    assert set(forms) == expected
    for p in range(len(first)):
        truth = oracle(first[p], second[p])
        scale = max(1e-3, truth["second_form_norm"])
        for name in forms:
            tolerance = 1e-7 if name == "normal_curvature" else 1e-10
            size = scale**2 if name in ("gaussian_curvature", "scalar_curvature") else scale
            np.testing.assert_allclose(
                forms[name][p], truth[name], rtol=tolerance, atol=tolerance * size, err_msg=name
            )


@pytest.mark.parametrize("case", CASES)
def test_float32_stays_float32_with_x64_on(case):
    manifold = CASES[case]()
    fields = [form for form in manifold.known.values() if callable(form)]
    reverse = jax.jacrev(manifold.embedding)
    u = jax.ShapeDtypeStruct((manifold.grid.ndim,), jnp.float32)
    results = jax.eval_shape(lambda u: [f(u) for f in (manifold.embedding, reverse, *fields)], u)
    assert {result.dtype for result in results} == {jnp.dtype("float32")}
    assert results[1].shape == (*manifold.feature_shape, manifold.grid.ndim)


def refined(manifold, size):
    axes = (Axis(a.name, a.start, a.stop, size, a.periodic) for a in manifold.grid.axes)
    return Grid(tuple(axes))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_totals_are_the_integrals_of_the_closed_forms(case):
    manifold = CASES[case]()
    grid = refined(manifold, {1: 200, 2: 120, 3: 40, 4: 24}[manifold.grid.ndim])
    orders = tuple("spectral" if a.periodic else 8 for a in grid.axes)
    flat_grid = grid.coordinates().reshape(-1, grid.ndim)
    volume = jax.jit(jax.vmap(manifold.known["volume_element"]))(flat_grid)
    weighted = np.ravel(grid.weights(orders)) * np.asarray(volume)
    tolerance = 1e-6 if grid.ndim < 4 else 2e-4
    revolution = "sheet" not in case or "revolution" in case
    assert ("total_volume" in manifold.known) == revolution
    if not revolution:
        return
    total = manifold.known["total_volume"]
    assert weighted.sum() == pytest.approx(total, rel=tolerance)
    scalar = np.asarray(jax.jit(jax.vmap(manifold.known["scalar_curvature"]))(flat_grid))
    scalar = np.where(np.asarray(volume) > 0, scalar, 0.0)
    size = np.sum(weighted * np.abs(scalar)) + 1e-12
    assert np.sum(weighted * scalar) == pytest.approx(
        manifold.known["total_scalar_curvature"], abs=tolerance * size
    )


def test_gauss_bonnet():
    for manifold, characteristic in ((sphere(2), 2), (ellipsoid(), 2), (torus(), 0), (veronese(), 1)):
        total = manifold.known["total_scalar_curvature"]
        assert total == pytest.approx(4 * math.pi * characteristic)


@pytest.mark.slow
def test_ellipsoid_has_the_textbook_gaussian_curvature():
    a, b, c = 1.6, 1.2, 0.9
    surface = ellipsoid((a, b, c))
    both = jax.jit(jax.vmap(lambda u: (surface.embedding(u), surface.known["gaussian_curvature"](u))))
    points, values = both(interior_points(surface))
    x, y, z = np.asarray(points).T
    p = x**2 / a**4 + y**2 / b**4 + z**2 / c**4
    np.testing.assert_allclose(values, 1.0 / (a * b * c * p) ** 2)


@pytest.mark.slow
def test_umbilics_keep_their_digits_in_float32():
    ball = ellipsoid((1.0, 1.0, 1.0))
    points = interior_points(ball, 50).astype(np.float32)
    values = jax.jit(jax.vmap(ball.known["normal_curvature"]))(points)
    np.testing.assert_allclose(values, 1.0, rtol=1e-6)


def test_length_of_ellipses_by_legendre_and_area_of_spheroids_by_elementary_functions():
    for long, short in ((2.0, 1.0), (1.5, 1.5), (1e4, 0.3)):
        q = short / long
        e = math.sqrt((1 - q) * (1 + q))
        around, along = (math.acos(q) / e, math.log((1 + e) / q) / e) if e else (1.0, 1.0)  # asin, atanh of e
        for curve in (ellipse((long, short)), ellipse((short, long))):
            assert curve.known["total_volume"] == pytest.approx(4 * long * special.ellipe(e * e), rel=1e-13)
        prolate, oblate = (short**2 + long * short * around, long**2 + short**2 * along)
        for axes, area in (
            ((short, long, short), prolate),
            ((long, short, short), prolate),
            ((long, short, long), oblate),
        ):
            assert ellipsoid(axes).known["total_volume"] == pytest.approx(2 * math.pi * area, rel=1e-13)


# --- reach -------------------------------------------------------------------------------------------


def sample_with_tangents(manifold, *sizes):
    """Points, orthonormal tangent frames and, on a curve with ends, the inward direction there."""
    axes = (
        Axis(a.name, a.start, a.stop, n, a.periodic) for a, n in zip(manifold.grid.axes, sizes, strict=True)
    )
    coordinates = Grid(tuple(axes)).coordinates().reshape(-1, len(sizes))
    embedding = flat(manifold)
    points, jacobians = jax.jit(jax.vmap(lambda u: (embedding(u), jax.jacfwd(embedding)(u))))(coordinates)
    regular = np.linalg.det(np.einsum("nfi,nfj->nij", jacobians, jacobians)) > 1e-20
    frames, _ = np.linalg.qr(np.asarray(jacobians)[regular])
    points = np.asarray(points)[regular]
    inward = np.zeros(points.shape)
    if len(sizes) == 1 and not manifold.grid.axes[0].periodic:
        inward[0], inward[-1] = np.asarray(jacobians)[[0, -1], :, 0] * np.array([[1.0], [-1.0]])
    return points, frames, inward


def federer_reach(*parts):
    """inf |y - x|^2 / (2 d(y - x, T_x)) over all pairs; T_x is a ray at the end of a curve."""
    points, frames, inward = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    best = np.inf
    for x, frame, ray in zip(points, frames, inward, strict=True):
        w = points - x
        squared = np.sum(w**2, axis=1)
        normal = np.linalg.norm(w - (w @ frame) @ frame.T, axis=1)
        normal = np.where(w @ ray < 0, np.sqrt(squared), normal)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(squared > 1e-14, squared / (2.0 * normal), np.inf)
        best = min(best, np.min(ratios))
    return best


REACH_CASES = {
    "circle": (partial(circle, 1.7), (200,)),
    "flat ellipse": (partial(ellipse, (0.8, 2.1)), (600,)),
    "tight helix": (partial(helix, 1.0, 1.0, 2.2), (700,)),
    "tight helix, just short": (partial(helix, 1.0, 1.5, 0.9), (700,)),
    "tight helix, under a turn": (partial(helix, 1.0, 1.5, 0.7), (500,)),
    "tight helix, arc": (partial(helix, 1.0, 1.5, 0.4), (500,)),
    "helix at the change": (partial(helix, 1.0, 2.6, 3.0), (700,)),
    "loose helix": (partial(helix, 1.0, 6.0, 3.0), (700,)),
    "upper moon": (lambda: two_moons(1.4)[0], (300,)),
    "S2": (partial(sphere, 2, 1.5), (20, 40)),
    "S3": (partial(sphere, 3, 1.5), (8, 8, 16)),
    "thin torus": (partial(torus, 1.9, 0.7), (24, 24)),
    "fat torus": (partial(torus, 1.9, 1.3), (24, 24)),
    "ellipsoid": (partial(ellipsoid, (1.2, 0.9, 1.6)), (31, 32)),
    "one sheet, a / b": (partial(hyperboloid, 1, (1.3, 0.9, 1.1), 1.2), (31, 32)),
    "one sheet, c small": (partial(hyperboloid, 1, (0.9, 1.3, 0.7), 1.2), (31, 32)),
    "two sheets": (partial(hyperboloid, 2, (1.3, 0.9, 1.1), 1.2), (40, 24)),
    "T2": (partial(flat_torus, 2, (0.6, 1.1)), (24, 24)),
    "veronese": (partial(veronese, 1.3), (21, 41)),
    "swiss roll": (swiss_roll, (500, 2)),
    "swiss roll, wide": (partial(swiss_roll, 2.0, 11.0, 3.0), (500, 2)),
    "swiss roll, no next turn": (partial(swiss_roll, 4.0, 9.0), (500, 2)),
    "swiss roll, short": (partial(swiss_roll, 4.0, 10.05), (500, 2)),
    "swiss roll, inner": (partial(swiss_roll, 0.5, 11.0, 3.0), (600, 2)),
    "circle x helix": (lambda: product(circle(0.4), helix(1.0, 1.0, 1.5)), (8, 100)),
    "warped torus": (lambda: warped(torus(1.9, 0.7)), (24, 24)),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REACH_CASES)
def test_reach_is_the_infimum_of_federers_ratio(case):
    make, sizes = REACH_CASES[case]
    manifold = make()
    measured = federer_reach(sample_with_tangents(manifold, *sizes))
    reach = manifold.known["reach"]
    assert reach <= measured * (1 + 1e-7)  # a sample can only miss the infimum from above
    assert measured <= reach * 1.02


@pytest.mark.slow
@pytest.mark.parametrize("union", [two_moons(1.4), parallel_circles(1.2, 0.7), parallel_circles(0.3, 0.7)])
def test_union_reach(union):
    measured = federer_reach(*(sample_with_tangents(part, 401) for part in union))
    assert measured == pytest.approx(union[0].attributes["union_reach"], rel=1e-6)


def test_unknown_reaches_are_left_out():
    assert "union_reach" not in two_moons(offset=(2.0, 0.5))[0].attributes


# --- compositions ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_warp_keeps_ends_and_periods_and_is_not_symmetric():
    line = Manifold("line", lambda u: u, Grid((Axis("x", -1.0, 3.0, 9),)))
    turn = Manifold("turn", lambda u: u, Grid((Axis("x", 1.0, 3.0, 8, periodic=True),)))
    u = jnp.linspace(-1.0, 3.0, 101)[:, None]
    values = np.asarray(jax.jit(jax.vmap(warped(line, 0.9).embedding))(u))[:, 0]
    np.testing.assert_allclose(values[[0, -1]], [-1.0, 3.0], atol=1e-14)
    assert np.all(np.diff(values) > 0)
    assert abs(values[50] - 1.0) > 0.5
    shifted = warped(turn, 0.9).embedding(u[0] + 2.0) - warped(turn, 0.9).embedding(u[0])
    np.testing.assert_allclose(shifted, 2.0, atol=1e-14)
    standard = warped(circle()).embedding(jnp.array([1.0]))
    angle = 1.0 + 0.3 * math.sin(1.0)
    np.testing.assert_allclose(standard, [math.cos(angle), math.sin(angle)], rtol=1e-15)


def test_warp_keeps_numbers_and_drops_what_depends_on_the_chart():
    known = {"christoffel": lambda u: u, "mean_curvature": lambda u: u[0] ** 2, "reach": 2.0}
    line = Manifold("line", lambda u: u, Grid((Axis("x", 0.0, 1.0, 9),)), known, {"tag": 1})
    again = warped(line)
    assert set(again.known) == {"mean_curvature", "reach"}
    assert again.attributes == {"tag": 1, "warp": 0.3}


def test_product_names_and_missing_closed_forms():
    bare = Manifold("bare", lambda u: jnp.ones((2, 3)) * u[0], Grid((Axis("angle", 0.0, 1.0, 5, unit="px"),)))
    both = product(circle(size=7), bare, sphere(2, size=(5, 6)))
    assert both.grid.names == ("angle_1", "angle_2", "polar", "azimuth")
    assert both.grid.shape == (7, 5, 5, 6)
    assert [axis.unit for axis in both.grid.axes] == ["rad", "px", "rad", "rad"]
    assert both.feature_shape == (2 + 6 + 3,)
    assert not both.known
    nested = product(flat_torus(2), circle(), circle())
    assert len(set(nested.grid.names)) == 4
    assert product(circle(2.0)).known["reach"] == 2.0


def test_sizes_and_defaults():
    assert sphere(3).grid.shape == (24, 24, 24)
    assert sphere(3, size=9).grid.shape == (9, 9, 9)
    assert torus(size=(7, 9)).grid.shape == (7, 9)
    assert flat_torus(5).grid.shape == (8,) * 5
    assert flat_torus(2, size=[5, 6]).grid.shape == (5, 6)
    assert veronese().grid.shape == (33, 65)
    assert sphere(3).grid.names == ("polar_1", "polar_2", "azimuth")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: circle(0.0), "circle: radius must be a positive finite number, got 0"),
        (lambda: circle("wide"), "circle: radius must be a positive finite number, got 'wide'"),
        (lambda: circle(math.nan), "circle: radius must be a positive finite number, got nan"),
        (lambda: circle(size=(3, 4)), r"circle: size must be one whole number or 1 of them, got \(3, 4\)"),
        (lambda: circle(size=1), "circle: size must be a whole number, at least 2, got 1"),
        (lambda: ellipse((1.0, -2.0)), r"ellipse: semi_axes\[1\] must be a positive finite number, got -2"),
        (
            lambda: ellipse((1.0, 2.0, 3.0)),
            "ellipse: semi_axes must be 2 finite numbers, got",
        ),
        (lambda: ellipse(2.0), "ellipse: semi_axes must be 2 finite numbers, got 2.0"),
        (lambda: helix(turns=-1), "helix: turns must be a positive finite number, got -1"),
        (lambda: helix(pitch=0), "helix: pitch must be a positive"),
        (lambda: two_moons(offset=1.0), "two_moons: offset must be 2 finite numbers, got 1.0"),
        (lambda: two_moons(offset=(1.0, math.inf)), "two_moons: offset must be 2 finite numbers"),
        (lambda: parallel_circles(gap=0), "parallel_circles: gap must be a positive"),
        (lambda: sphere(5), "sphere: dimension must be a whole number, from 1 to 4, got 5"),
        (lambda: sphere(True), "sphere: dimension must be a whole number, from 1 to 4, got True"),
        (lambda: sphere(2, -1), "sphere: radius must be a positive finite number, got -1"),
        (lambda: sphere(2, size=(4, 4, 4)), "sphere: size must be one whole number or 2 of them"),
        (lambda: torus(0.5, 2.0), "minor must be below major, got minor 2 and major 0.5.*swap"),
        (lambda: ellipsoid((1.0, 2.0)), "ellipsoid: semi_axes must be 3 finite numbers, got"),
        (lambda: hyperboloid(3), "hyperboloid: sheets must be a whole number, from 1 to 2, got 3"),
        (lambda: hyperboloid(1, extent=0), "hyperboloid: extent must be a positive"),
        (lambda: flat_torus(0), "flat_torus: dimension must be a whole number, at least 1, got 0"),
        (lambda: flat_torus(2.5), "flat_torus: dimension must be a whole number, at least 1, got 2.5"),
        (lambda: flat_torus(3, (1.0, 2.0)), "flat_torus: radii must be 3 finite numbers, got"),
        (lambda: veronese(-1.0), "veronese: radius must be a positive"),
        (lambda: swiss_roll(5.0, 4.0), "swiss_roll: stop must be above start, got start 5 and stop 4"),
        (lambda: product(), "product needs at least one Manifold"),
        (
            lambda: product(circle(), two_moons()),
            "product: every one of manifolds must be a Manifold, got tuple",
        ),
        (lambda: warped(two_moons()), "warped: manifold must be a Manifold, got tuple: warp the members"),
        (lambda: warped(circle(), 1.0), "warped: strength must lie between -1 and 1, got 1"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("size", [np.int64(5), jnp.int32(5), (np.uint8(5), 5)])
def test_sizes_may_be_numbers_of_other_libraries(size):
    assert torus(size=size).grid.shape == (5, 5)
