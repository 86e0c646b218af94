"""Reach: closed forms, cases, witnesses, error bars, convergence, invariances, unions, covers, borders."""

import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from manifold_jax import Axis, Grid, Manifold, Reach, measure, reach
from manifold_jax import datasets as D

TURN = 2 * math.pi


CASES = {
    "circle": (lambda: D.circle(2.0, size=48), 2.0, "tie"),
    "ellipse": (lambda: D.ellipse((2.0, 1.0), size=96), 0.5, "local"),
    "parallel circles": (lambda: D.parallel_circles(1.0, 0.5, size=48), 0.25, "global"),
    "two moons": (lambda: D.two_moons(size=97), 0.25, "global"),
    "sphere": (lambda: D.sphere(2, size=(13, 24)), 1.0, "tie"),
    "three-sphere": (lambda: D.sphere(3, size=(9, 9, 16)), 1.0, "tie"),
    "thin torus": (lambda: D.torus(2.0, 0.5, size=(32, 24)), 0.5, "tie"),
    "thick torus": (lambda: D.torus(2.0, 1.25, size=(32, 24)), 0.75, "tie"),
    "flat torus": (lambda: D.flat_torus(2, (1.0, 1.5), size=24), 1.0, "tie"),
    "tight helix": (lambda: D.helix(1.0, 1.0, size=192), None, "global"),
    "loose helix": (lambda: D.helix(1.0, 6.0, size=96), None, "local"),
    "swiss roll": (lambda: D.swiss_roll(size=(97, 9)), None, "global"),
}


@cache
def closed_form(name, double, exact):
    make, true, case = CASES[name]
    with jax.enable_x64(double):
        manifold = make()
        first = manifold[0] if isinstance(manifold, tuple) else manifold
        true = first.known["reach"] if true is None else true
        return manifold, reach(manifold, exact=exact), true, case


BOTH = [(name, True) for name in CASES]
BOTH += [(name, False) for name in ("circle", "ellipse", "two moons", "sphere", "thin torus", "tight helix")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "double"), BOTH)
def test_closed_forms_from_an_embedding(name, double):
    _, result, true, case = closed_form(name, double, None)
    assert abs(result.value - true) <= result.error
    assert result.case == case
    assert result.resolved
    assert abs(result.value - true) <= (1e-9 if double else 1e-3) * true


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ellipse", "two moons", "sphere", "tight helix"])
def test_closed_forms_from_a_grid_alone(name):
    _, result, true, case = closed_form(name, True, False)
    assert abs(result.value - true) <= result.error
    assert result.case == case
    assert abs(result.value - true) <= 0.03 * true


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ellipse", "tight helix"])
def test_pointwise_bars_cover_a_much_finer_grid(name):
    # The truth at a lattice point: the same point against a grid eight times finer, with the exact curvature.
    manifold, result, _, _ = closed_form(name, True, None)
    fine = Grid(
        tuple(
            Axis(a.name, a.start, a.stop, 8 * a.size if a.periodic else 8 * (a.size - 1) + 1, a.periodic)
            for a in manifold.grid.axes
        )
    )
    with jax.enable_x64(True):
        coordinates = np.asarray(manifold.grid.coordinates()).reshape(-1, manifold.grid.ndim)
        everyone = np.asarray(
            jax.vmap(manifold.embedding)(fine.coordinates().reshape(-1, fine.ndim))
        ).reshape(fine.size, -1)
        curvature = np.asarray(measure(manifold, exact=True).normal_curvature.value).reshape(-1)
        chosen = np.linspace(0, manifold.grid.size - 1, 40).round().astype(int)
        for index in chosen:
            u = jnp.asarray(coordinates[index])
            x = np.asarray(manifold.embedding(u)).reshape(-1)
            first = np.asarray(jax.jacfwd(lambda w: manifold.embedding(w).reshape(-1))(u))
            frame = np.linalg.qr(first)[0]
            v = everyone - x
            chord = np.linalg.norm(v, axis=1)
            rest = np.linalg.norm(v - (v @ frame) @ frame.T, axis=1)
            apart = (chord > 1e-6) & (rest > 1e-9)
            truth = min(1 / curvature[index], np.min(chord[apart] ** 2 / (2 * rest[apart])))
            value, error = result.pointwise.reshape(-1)[index], result.pointwise_error.reshape(-1)[index]
            assert abs(value - truth) <= error + 1e-7, (name, index, value, truth, error)


@pytest.mark.slow
def test_the_search_agrees_with_brute_force(x64):
    # A bumpy closed surface without symmetry in R^4, tangents by autodiff: nothing ties.
    def bumpy(u):
        r = 0.5 + 0.1 * jnp.cos(2 * u[0] + 0.3) + 0.07 * jnp.sin(3 * u[1] - 0.2)
        big = 1.4 + r * jnp.cos(u[1])
        return jnp.stack(
            [big * jnp.cos(u[0]), big * jnp.sin(u[0]), r * jnp.sin(u[1]), 0.2 * jnp.sin(2 * u[0])]
        )

    grid = Grid((Axis("a", 0.0, TURN, 40, True), Axis("b", 0.0, TURN, 30, True)))
    result = reach(bumpy, grid, tile_size=16)  # so small that the pruned route runs
    coordinates = grid.coordinates().reshape(-1, 2)
    points = np.asarray(jax.vmap(bumpy)(coordinates))
    tangents = np.swapaxes(np.asarray(jax.vmap(jax.jacfwd(bumpy))(coordinates)), 1, 2)
    tau, witness = oracle.tangent_balls(points, tangents)
    local = 1 / np.asarray(measure(bumpy, grid, exact=True).normal_curvature.value).reshape(-1)
    np.testing.assert_allclose(result.pointwise.reshape(-1), np.minimum(tau, local), rtol=1e-9)
    far = tau < local * (1 - 1e-9)
    assert far.any()
    np.testing.assert_array_equal(result.witness.reshape(-1)[far], witness[far])
    np.testing.assert_array_equal(result.witness.reshape(-1)[~far], np.flatnonzero(~far))
    assert 0 < result.pruned < 1


@pytest.mark.slow
def test_long_points_are_searched_by_matrix_products(x64):
    # The same surface turned into R^300: the projected, matrix-product route must give the same.
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(300, 4)))[0]
    shift = np.random.default_rng(1).normal(size=300)

    def short(u):
        return jnp.stack(
            [jnp.cos(u[0]), 0.7 * jnp.sin(u[0]), jnp.cos(u[1]) + 0.1 * jnp.sin(2 * u[0]), jnp.sin(u[1])]
        )

    grid = Grid((Axis("a", 0.0, TURN, 36, True), Axis("b", 0.0, TURN, 32, True)))
    low = reach(short, grid, tile_size=16)
    high = reach(lambda u: jnp.asarray(basis) @ short(u) + shift, grid, tile_size=16)
    np.testing.assert_allclose(high.pointwise, low.pointwise, rtol=1e-8)
    assert high.value == pytest.approx(low.value, rel=1e-9)
    assert high.case == low.case
    assert high.pruned > 0


@pytest.mark.slow
def test_float32_matrix_products_find_what_float64_finds():
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(400, 3)))[0]
    manifold = D.torus(1.0, 0.4, size=(30, 18))

    def long(u):
        return jnp.asarray(basis, u.dtype) @ manifold.embedding(u) + 3.0

    single = reach(long, manifold.grid, tile_size=32)
    with jax.enable_x64(True):
        double = reach(long, manifold.grid, tile_size=32)
    assert np.all(
        np.abs(single.pointwise - double.pointwise) <= single.pointwise_error + double.pointwise_error
    )
    assert np.median(np.abs(single.pointwise / double.pointwise - 1)) < 1e-3


@pytest.mark.slow
def test_tiles_of_any_size_agree(x64):
    manifold = D.ellipse((2.0, 1.0), size=90)
    reference = reach(manifold).pointwise
    for size in (1, 7, 64, 4096):
        np.testing.assert_allclose(reach(manifold, tile_size=size).pointwise, reference, rtol=1e-12)


# --- convergence -------------------------------------------------------------------------------------------


def warped_ellipse(n):
    axis = Axis("u", 0.0, TURN, n, periodic=True)
    u = oracle.warp(axis.samples() + 0.37 * axis.spacing)  # the sharpest point is never on the lattice
    return np.stack([2 * np.cos(u), np.sin(u)], axis=-1), Grid((axis,))


TIGHT = D.helix(1.0, 1.0).known["reach"]


def warped_helix(n):
    axis = Axis("u", 0.0, 2 * TURN, n)
    u = oracle.warp(axis.samples())
    return np.stack([np.cos(u), np.sin(u), u / TURN], axis=-1), Grid((axis,))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "sizes", "true"), [(warped_ellipse, (48, 96, 192), 0.5), (warped_helix, (60, 120, 240), TIGHT)]
)
def test_order_in_the_spacing_is_at_least_two(make, sizes, true, x64):
    errors = []
    for n in sizes:
        points, grid = make(n)
        result = reach(jnp.asarray(points), grid)
        assert abs(result.value - true) <= result.error
        errors.append(max(abs(result.value - true), 1e-12))
    slope = math.log(errors[0] / errors[-1]) / math.log(sizes[-1] / sizes[0])
    assert slope >= 1.8, (errors, slope)


@pytest.mark.slow
def test_a_dense_float32_ellipse_does_not_collapse():
    # The peer errs by 3.7 % here, since close pairs are rounding noise.
    points, grid = warped_ellipse(4096)
    result = reach(jnp.asarray(points, jnp.float32), grid, stride=32)
    assert abs(result.value - 0.5) <= result.error
    assert abs(result.value - 0.5) <= 0.005
    assert result.case == "local"


# --- invariances -------------------------------------------------------------------------------------------


def similar(embedding, scale, matrix, shift, u):
    return scale * (matrix @ embedding(u)) + shift


@pytest.mark.slow
def test_scaling_and_isometry(x64):
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(5, 5)))[0][:, :3]
    manifold = D.helix(1.0, 2.0, size=80)
    # One program for both.
    base, moved = (
        reach(jax.tree_util.Partial(similar, manifold.embedding, scale, matrix, shift), manifold.grid)
        for scale, matrix, shift in ((1.0, np.eye(5)[:, :3], 0.0), (3.0, turn, 1.0))
    )
    np.testing.assert_allclose(moved.pointwise, 3 * base.pointwise, rtol=1e-9)
    assert moved.value == pytest.approx(3 * base.value, rel=1e-9)


@pytest.mark.slow
def test_reparametrisation_leaves_the_value(x64):
    plain, bent = D.helix(1.0, 1.0, size=257), D.warped(D.helix(1.0, 1.0, size=257))
    assert reach(bent).value == pytest.approx(reach(plain).value, rel=1e-9)


@pytest.mark.slow
def test_a_product_has_the_smallest_reach(x64):
    product = D.product(D.circle(1.0, size=16), D.ellipse((2.0, 1.0), size=48))
    result = reach(product)
    assert result.value == pytest.approx(0.5, rel=1e-9)
    assert result.case == "local"


# --- what the result says ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_bottleneck_is_found_beyond_the_local_part_when_asked(x64):
    ellipse = D.ellipse((2.0, 1.0), size=64)
    assert reach(ellipse).bottleneck == math.inf
    asked = reach(ellipse, longest=2.0)
    assert asked.bottleneck == pytest.approx(1.0, rel=1e-12)
    assert asked.value == pytest.approx(0.5, rel=1e-12)


@pytest.mark.slow
def test_the_deciding_pair_is_a_bottleneck(x64):
    manifold = D.helix(1.0, 1.0, size=191)
    result = reach(manifold)
    x, y = (np.asarray(manifold.embedding(jnp.asarray(u))) for u in result.pair)
    chord = y - x
    assert np.linalg.norm(chord) / 2 == pytest.approx(result.value, rel=1e-12)
    for u in result.pair:
        first = np.asarray(jax.jacfwd(manifold.embedding)(jnp.asarray(u)))
        assert np.abs(chord @ first).max() < 1e-8


@pytest.mark.slow
def test_the_poles_of_a_sphere_are_no_border_and_have_no_reach(x64):
    result = reach(D.sphere(2, size=(9, 16)))
    assert np.isnan(result.pointwise[[0, -1]]).all()
    assert np.isfinite(result.pointwise[1:-1]).all()
    assert (result.witness[[0, -1]] == -1).all()
    assert not result.border.any()
    assert result.coincident == 0


def twofold():
    """An ellipse run through twice."""
    axis = Axis("angle", 0.0, TURN, 96, periodic=True)
    return Manifold("twice", lambda u: jnp.stack([2 * jnp.cos(2 * u[0]), jnp.sin(2 * u[0])]), Grid((axis,)))


@pytest.mark.thorough
def test_undeclared_copies_are_reported_and_do_not_spoil_the_value(x64):
    seen = []
    result = reach(twofold(), tile_size=32, progress=lambda *counts: seen.append(counts))
    assert seen == [(32, 96), (64, 96), (96, 96)]
    assert result.coincident == 96
    assert "coincide" in result.sentence()
    assert result.value == pytest.approx(0.5, rel=1e-9)


@pytest.mark.slow
def test_declared_copies_are_quotiented_out(x64):
    result = reach(twofold(), copies={"angle": 2})
    assert result.coincident == 0
    single = reach(D.ellipse((2.0, 1.0), size=48))
    assert result.value == pytest.approx(single.value, rel=1e-12)
    np.testing.assert_allclose(result.pointwise, np.tile(single.pointwise, 2), rtol=1e-9)
    assert result.witness.max() < 96


@pytest.mark.slow
def test_points_go_on_where_only_the_metric_repeats(x64):
    # A helix as one turn of a screw motion: the neighbouring turns are not in the grid, but beyond it.
    pitch = 1.0
    axis = Axis("angle", 0.0, TURN, 64, periodic=True, wrap=False)

    def screw(u):
        return jnp.stack([jnp.cos(u[0]), jnp.sin(u[0]), pitch * u[0] / TURN])

    result = reach(screw, Grid((axis,)))
    assert result.value == pytest.approx(D.helix(1.0, pitch).known["reach"], rel=1e-9)
    assert result.case == "global"
    assert not result.border.any()
    assert 0 <= result.witness.min() <= result.witness.max() < 64


@pytest.mark.slow
def test_a_union_counts_witnesses_through_its_parts(x64):
    result = reach(D.parallel_circles(1.0, 0.5, size=32))
    assert isinstance(result, Reach)
    first, second = (component.witness for component in result.components)
    np.testing.assert_array_equal(first, np.arange(32, 64))
    np.testing.assert_array_equal(second, np.arange(32))
    assert {end.component for end in result.ends} == {0, 1}
    labelled = [result.to_xarray(k) for k in (0, 1)]
    assert [dict(data.sizes) for data in labelled] == [{"angle": 32}] * 2
    np.testing.assert_array_equal(labelled[1]["witness"], second)
    assert float(labelled[1]["value"]) == result.value
    for name in ("pointwise", "pointwise_error", "witness", "border", "pair"):
        with pytest.raises(ValueError, match=f"Reach: {name} is that of a single manifold.* components"):
            getattr(result, name)


@pytest.mark.slow
def test_a_coarse_grid_is_said_to_be_unresolved(x64):
    points, grid = warped_ellipse(10)
    result = reach(jnp.asarray(points), grid)
    assert not result.resolved
    assert "refine" in result.sentence()


@pytest.mark.slow
def test_a_plane_has_infinite_reach(x64):
    grid = Grid((Axis("u", 0.0, 1.0, 8), Axis("v", 0.0, 1.0, 8)))
    result = reach(lambda u: jnp.stack([u[0], u[1], u[0] + u[1]]), grid)
    assert result.value > 1e6


@pytest.mark.slow
def test_arrays_memmaps_and_functions_agree(tmp_path, x64):
    manifold = D.ellipse((2.0, 1.0), size=64)
    points = np.asarray(jax.vmap(manifold.embedding)(manifold.grid.coordinates()))
    np.save(tmp_path / "points.npy", points)
    results = [
        reach(source, manifold.grid)
        for source in (jnp.asarray(points), points, np.load(tmp_path / "points.npy", mmap_mode="r"))
    ]
    for other in results[1:]:
        np.testing.assert_allclose(other.pointwise, results[0].pointwise, rtol=1e-12)
    function = reach(manifold, exact=False)
    np.testing.assert_allclose(function.pointwise, results[0].pointwise, rtol=1e-9)


@pytest.mark.slow
def test_a_given_geometry_saves_the_measurement(x64):
    manifold = D.ellipse((2.0, 1.0), size=64)
    geometry = measure(manifold)
    assert reach(manifold, geometry=geometry).value == pytest.approx(0.5, rel=1e-9)


@pytest.mark.slow
def test_progress_reaches_the_end(x64):
    seen = []
    reach(D.ellipse(size=64), tile_size=16, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (64, 64)
    assert [done for done, _ in seen] == [16, 32, 48, 64]


# --- refusals ----------------------------------------------------------------------------------------------

CIRCLE = Grid((Axis("u", 0.0, TURN, 16, periodic=True),))
FINER = Grid((Axis("u", 0.0, TURN, 64, periodic=True),))  # measured in other tests too: compiled once
ROUND = np.stack([np.cos(CIRCLE.axes[0].samples()), np.sin(CIRCLE.axes[0].samples())], -1)


@pytest.mark.parametrize(
    ("sigma", "keys"),
    [
        (1e-3, 10),
        pytest.param(1e-4, 100, marks=pytest.mark.slow),
        pytest.param(1e-3, 100, marks=pytest.mark.slow),
    ],
)
@pytest.mark.thorough
def test_bars_hold_the_noise_of_arrays(sigma, keys):
    grid = Grid((Axis("u", 0.0, TURN, 64, periodic=True),))
    t = grid.axes[0].samples()
    circle = np.stack([np.cos(t), np.sin(t), 0 * t], axis=-1)
    covered = []
    for key in range(keys):
        noise = sigma * np.random.default_rng(key).normal(size=circle.shape)
        result = reach((circle + noise).astype(np.float32), grid)
        pointwise = np.abs(result.pointwise - 1) <= result.pointwise_error
        covered.append([abs(result.value - 1) <= result.error, pointwise.mean()])
    assert np.min(np.mean(covered, axis=0)) >= 0.95


def spoilt():
    points = ROUND.copy()
    points[3] = np.nan
    return points


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reach(ROUND), "reach: grid must be a manifold_jax.Grid"),
        (lambda: reach([]), "non-empty sequence of Manifolds"),
        (lambda: reach([1, 2]), "non-empty sequence of Manifolds"),
        (lambda: reach(ROUND[:8], CIRCLE), "ask for a leading shape"),
        (lambda: reach(spoilt(), CIRCLE), "NaN or infinite"),
        (lambda: reach(np.ones((64, 2), np.float32), FINER), "one place|degenerate"),
        (lambda: reach(ROUND, CIRCLE, exact=True), "needs a function or a Manifold"),
        (lambda: reach(ROUND, CIRCLE, tile_size=0), "tile_size must be a whole number"),
        (lambda: reach(ROUND, CIRCLE, tile_size=100_000), "from 1 to 16384"),
        (lambda: reach(ROUND, CIRCLE, tolerance=2.0), "tolerance must be"),
        (lambda: reach(ROUND, CIRCLE, longest=-1.0), "longest must be a positive"),
        (lambda: reach(ROUND, CIRCLE, copies={"v": 2}), "copies may hold 'u', got 'v'"),
        (lambda: reach(ROUND, CIRCLE, copies={"u": 3}), "must divide its 16 samples"),
        (
            lambda: reach(ROUND, CIRCLE, geometry=measure(np.ones((64, 2), np.float32), FINER)),
            "on the same grid",
        ),
        (lambda: reach((D.circle(), D.helix())), "must share their features"),
        (lambda: jax.jit(lambda p: reach(p, CIRCLE).value)(jnp.asarray(ROUND)), "cannot be traced"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- ties --------------------------------------------------------------------------------------------------


def thick_torus(big, u):
    rho = big + 1.2 * jnp.cos(u[1])
    return jnp.stack([rho * jnp.cos(u[0]), rho * jnp.sin(u[0]), 1.2 * jnp.sin(u[1])])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shift", "big"),
    [
        (0.31, 1.7),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (0.0, 2.0),
                (0.013, 2.0),
                (0.31, 2.0),
                (0.77, 2.0),
                (0.0, 1.7),
                (0.013, 1.7),
                (0.77, 1.7),
            )
        ),
    ],
)
def test_thick_tori_tie_on_shifted_lattices(shift, big, x64):
    # Inside, on the equator, the curvature 1 / (R - r) and the hole 2 (R - r) agree exactly.
    embedding = jax.tree_util.Partial(thick_torus, big)
    axes = [Axis(name, s, s + TURN, 24, True) for name, s in (("a", shift), ("b", shift / 3))]
    result = reach(embedding, Grid(tuple(axes)))
    assert result.case == "tie"
    assert result.local_error < 1e-7
    assert abs(result.value - (big - 1.2)) <= result.error
    assert abs(result.local - (big - 1.2)) <= result.local_error


def stored_ellipse(size, noise):
    """Points of an ellipse of reach b^2 / a = 1/2, and their grid."""
    axis = Axis("t", 0.0, 2 * math.pi, size, periodic=True)
    points = np.stack([2 * np.cos(axis.samples()), np.sin(axis.samples())], axis=-1)
    points += noise * np.random.default_rng(0).normal(size=points.shape)
    return points.astype(np.float32), Grid((axis,))


@pytest.mark.slow
def test_noise_is_blamed_and_a_larger_stride_resolves():
    noisy = reach(*stored_ellipse(256, 1e-4))
    assert not noisy.resolved
    assert noisy.noisy
    assert "take a larger stride" in noisy.sentence()
    shapeless = reach(*stored_ellipse(256, 10.0))
    assert not shapeless.resolved
    assert f"{256 * 255} pairs coincide within rounding and noise and are left out." in shapeless.sentence()
    wider = reach(*stored_ellipse(256, 1e-4), stride=4)
    assert wider.resolved
    assert not wider.noisy
    assert abs(wider.value - 0.5) <= wider.error


@pytest.mark.slow
def test_few_samples_without_noise_are_too_coarse():
    coarse = reach(*stored_ellipse(16, 0.0))
    assert not coarse.resolved
    assert not coarse.noisy
    assert "refine the grid" in coarse.sentence()


@pytest.mark.slow
@pytest.mark.parametrize("rounding", [0.005, 0.01])
def test_tangents_that_noise_tilts_leave_the_points_that_they_face(rounding):
    """A homogeneous curve: every ball meets the opposite point at 1, before that of curvature at 2.1."""
    grid = Grid(Axis("t", 0, TURN, 64, periodic=True))
    t = grid.axes[0].samples()
    points = np.stack([np.cos(t), np.sin(t), 2 * np.cos(2 * t), 2 * np.sin(2 * t)], axis=-1)
    result = reach(np.round(points / rounding) * rounding, grid, stride=2)
    assert abs(result.value - 1) <= result.error
    assert (np.abs(result.pointwise - 1) <= result.pointwise_error).all()
    assert (result.pointwise_error < 0.05).all()
    assert (result.witness != np.arange(64)).all()
