"""What is not finite never becomes a finite number that counts: NaN, infinite, a status, or one sentence."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import manifold_jax as mj
from manifold_jax.geometry.quantities import FIELDS, TOTALS

TURN = 2 * math.pi
GRID = mj.Grid((mj.Axis("u", 0.0, TURN, 24, periodic=True),))
SURFACE = mj.Grid((mj.Axis("u", 0.0, TURN, 12, periodic=True), mj.Axis("v", 0.0, TURN, 12, periodic=True)))
PLACE = 5  # grid point at which a function is spoilt


def circle(u):
    return jnp.stack([jnp.cos(u[0]), jnp.sin(u[0])])


def torus(u):
    wide = 2 + jnp.cos(u[1])
    return jnp.stack([wide * jnp.cos(u[0]), wide * jnp.sin(u[0]), jnp.sin(u[1])])


def spoilt(embedding, grid, factor, everywhere):
    # Arrays are data of a program: one serves for all factors.
    factor, everywhere, place = map(jnp.asarray, (factor, everywhere, grid.axes[0].samples()[PLACE]))

    def function(u):
        here = everywhere | (jnp.abs(u[0] - place) < 0.01)
        return embedding(u) * jnp.where(here, factor, 1.0)

    return function


def points_of(function, grid=GRID):
    return jax.vmap(function)(grid.coordinates().reshape(-1, grid.ndim)).reshape(*grid.shape, -1)


CURVE = np.asarray(points_of(circle))


def nowhere_counts(geometry, *, totals=True):
    """No total that holds what is not finite is a number; no field is resolved where it is not finite."""
    for name in TOTALS if totals else ():
        estimate = getattr(geometry, name)
        assert np.isnan(estimate.value), name
        assert np.isinf(estimate.error), name
        assert not estimate.resolved, name
        assert not geometry.verdict(name).resolved
        assert "not finite" in geometry.verdict(name).sentence
    for name in FIELDS:
        value, error, resolved = map(np.asarray, getattr(geometry, name))
        lost = ~np.isfinite(value)
        assert lost.any(), name
        assert not resolved[lost].any(), name
        assert np.isinf(error[lost]).all(), name


# --- measure -----------------------------------------------------------------------------------------------

KINDS = [(factor, everywhere) for factor in (np.nan, np.inf) for everywhere in (True, False)]


@pytest.mark.parametrize(("factor", "everywhere"), [*KINDS, (1e20, True)])
@pytest.mark.parametrize("exact", [pytest.param(False, marks=pytest.mark.slow), True])
def test_measure_of_a_function(factor, everywhere, exact):
    geometry = mj.measure(spoilt(circle, GRID, factor, everywhere), GRID, exact=exact)
    nowhere_counts(geometry)
    if exact and not everywhere:  # only where it is spoilt
        assert np.isfinite(geometry.second_form_norm.value).sum() == GRID.size - 1
        assert "points or their squares are not finite" in geometry.verdict("mean_curvature").sentence


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "everywhere"), [*KINDS, (1e20, True)])
@pytest.mark.parametrize("exact", [False, True])
def test_measure_of_a_surface(factor, everywhere, exact):
    nowhere_counts(mj.measure(spoilt(torus, SURFACE, factor, everywhere), SURFACE, exact=exact))


@pytest.mark.slow
def test_a_volume_that_overflows_though_lengths_do_not():
    # |X_i| = 1e15 and its square are finite in float32, the volume element 1e45 is not.
    grid = mj.Grid(tuple(mj.Axis(name, 0.0, 1.0, 5) for name in "abc"))
    geometry = mj.measure(lambda u: 1e15 * u, grid, exact=True)
    assert np.isnan(geometry.total_volume.value)
    assert not geometry.total_volume.resolved
    assert not geometry.volume_element.resolved.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("held", [np.asarray, jnp.asarray])
def test_arrays_are_refused(bad, held):
    points = CURVE.copy()
    points[PLACE, 1] = bad
    message = (
        rf"points must be finite, got NaN or infinite values at 1 of 24 points, first at index \({PLACE}\)"
    )
    for function in (mj.measure, mj.reach, mj.gram_from_grid, mj.jet_from_grid, mj.suggest_stencil):
        with pytest.raises(ValueError, match=message):
            function(held(points), GRID)
    with pytest.raises(ValueError, match=message):
        mj.reach_from_samples(held(points), dimension=1)


@pytest.mark.parametrize("scale", [pytest.param(1e20, marks=pytest.mark.slow), 1e30])
@pytest.mark.thorough
def test_arrays_whose_squares_overflow(scale):
    nowhere_counts(mj.measure((CURVE * scale).astype(np.float32), GRID))
    nowhere_counts(mj.measure((CURVE + scale).astype(np.float32), GRID), totals=False)  # all in one place
    beyond = mj.measure(CURVE.astype(np.float64) * 1e300, GRID)  # infinite in float32
    nowhere_counts(beyond)


@pytest.mark.slow
def test_traced_arrays():
    bad = np.stack([CURVE, CURVE, CURVE * 1e20, CURVE])
    bad[1, PLACE] = np.nan
    bad[3, PLACE] = np.inf
    one = jax.jit(lambda points: mj.measure(points, GRID))
    nowhere_counts(one(bad[1]))
    nowhere_counts(one(bad[2]))
    total = jax.vmap(lambda points: mj.measure(points, GRID).total_volume)(jnp.asarray(bad))
    np.testing.assert_allclose(total.value[0], TURN, rtol=1e-3)
    assert np.isnan(total.value[1:]).all()
    assert total.resolved.tolist() == [True, False, False, False]


@pytest.mark.slow
def test_suggested_stencils_of_nothing():
    best = mj.suggest_stencil(spoilt(circle, GRID, np.nan, True), GRID, accuracies=(2,), smooths=(0,))[0]
    assert best.resolved == 0
    assert math.isinf(best.bar)


# --- reach -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "everywhere"), KINDS)
def test_reach_of_a_function(factor, everywhere):
    with pytest.raises(ValueError, match="reach: points must be finite, got NaN or infinite values at"):
        mj.reach(spoilt(circle, GRID, factor, everywhere), GRID)


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("scale", [1e20, 1e-20, pytest.param(1e-25, marks=pytest.mark.slow)])
def test_reach_whose_squares_leave_the_range(scale):
    points = (CURVE * scale).astype(np.float32)
    message = r"points extend over 2\.0e.*, whose square leaves float32: scale them"
    for held in (lambda u: jnp.float32(scale) * circle(u), points):
        with pytest.raises(ValueError, match=f"^reach: {message}"):
            mj.reach(held, GRID)
    with pytest.raises(ValueError, match=f"^reach_from_samples: {message}"):
        mj.reach_from_samples(points, dimension=1)


@pytest.mark.slow
@pytest.mark.parametrize("exponent", [-14, -13, -12, 13, 14, 15])
def test_reach_of_the_largest_and_smallest_numbers(exponent):
    scale, fine = jnp.float32(10.0**exponent), mj.Grid((mj.Axis("u", 0.0, TURN, 200, periodic=True),))
    samples = np.asarray(points_of(circle, fine)) * np.float32(scale)  # ``scale`` is data of one program
    for result in (
        mj.reach(lambda u: scale * circle(u), GRID),
        mj.reach_from_samples(samples, dimension=1),
    ):
        assert result.resolved
        assert abs(result.value - scale) <= result.error


@pytest.mark.slow
def test_reach_where_nothing_is_defined():
    line = mj.reach(lambda u: jnp.stack([u[0] + u[1], jnp.zeros(())]), SURFACE, exact=True)
    assert not line.resolved
    assert math.isinf(line.error)
    flat = mj.reach(lambda u: jnp.stack([u[0], u[0]]), mj.Grid((mj.Axis("u", 0.0, 1.0, 9),)))
    assert flat.resolved
    assert (flat.value, flat.error) == (math.inf, 0.0)


def test_tangents_are_looked_at():
    tangents = np.stack([-CURVE[:, 1], CURVE[:, 0]], -1)[:, None]
    tangents[PLACE] = np.inf
    with pytest.raises(ValueError, match=r"tangents must be finite.*first at index \(5\)"):
        mj.reach_from_samples(CURVE, tangents, dimension=1)
    x, y = jnp.array([jnp.nan, 1.0]), jnp.array([1.0, 0.0])
    assert np.isnan(mj.tangent_ball_radius(x, y, jnp.array([[0.0, 1.0]])))


# --- layers, integrals, Grams ------------------------------------------------------------------------------

LAYERS = {
    "logarithm": (lambda x: jnp.log(x),),
    "nothing": (lambda x: x * jnp.nan,),
    "division": (lambda x: x / 0.0,),
    "large": (lambda x: 1e20 * x,),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("accuracy", [None, pytest.param(4, marks=pytest.mark.slow)])
def test_layers(layer, accuracy):
    manifold = mj.Manifold("circle", circle, GRID)
    before, after = mj.measure_layers(manifold, LAYERS[layer], accuracy=accuracy)
    assert before.total_volume.resolved
    nowhere_counts(after)


@pytest.mark.slow
def test_a_layer_that_brings_large_numbers_back():
    layers = (lambda x: 1e20 * x, lambda x: 1e-20 * x)
    _, large, back = mj.measure_layers(mj.Manifold("circle", circle, GRID), layers)
    nowhere_counts(large)
    assert back.total_volume.resolved


def test_jets_of_layers():
    place = jnp.array([[3.0]])  # where the cosine is negative
    _, jets = mj.layer_jets(circle, [lambda x: jnp.sqrt(x)], place)
    assert np.isnan(jets.points[0, 0])
    assert np.isnan(jets.vectors[0, :, 0]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_integrals(bad, wrap):
    ones = jnp.ones(GRID.shape)
    integrate = wrap(lambda values, volume: mj.integrate(values, volume, GRID))
    pairs = (
        (ones.at[PLACE].set(bad), ones),
        (ones, ones.at[PLACE].set(bad)),
        (bad, ones),
        (ones, bad * ones),
    )
    for values, volume in pairs:
        assert not np.isfinite(integrate(values, volume))
    pole = integrate(ones.at[PLACE].set(bad), ones.at[PLACE].set(0.0))  # where dV = 0 values do not count
    np.testing.assert_allclose(pole, TURN * (1 - 1 / GRID.size), rtol=1e-5)


CURVATURES = (
    mj.volume_element,
    mj.scalar_curvature,
    mj.mean_curvature,
    mj.second_form_norm,
    mj.normal_curvature,
    mj.ricci,
    mj.riemann,
    mj.christoffel,
    lambda gram: jnp.stack(mj.normal_curvature_bounds(gram)),
    lambda gram: mj.sectional_curvature(gram, jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])),
)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [np.nan, np.inf, 1e20])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.vmap])
def test_grams(factor, wrap):
    place = jnp.array([1.0, 2.0])
    place = place[None] if wrap is jax.vmap else place
    jet = wrap(lambda u: mj.jet_from_function(lambda v: factor * torus(v), u))(place)
    products = wrap(mj.gram)(jet)
    assert not np.isfinite(products.metric).all()
    for values in wrap(lambda gram: [curvature(gram) for curvature in CURVATURES])(products):
        assert not np.isfinite(values).any()
    if factor != 1e20:
        assert not np.isfinite(mj.second_fundamental_form(jet)).any()
    at_one = mj.gram_from_function(spoilt(circle, GRID, factor, False), GRID.coordinates())
    assert np.flatnonzero(~np.isfinite(np.ravel(mj.volume_element(at_one)))).tolist() == [PLACE]


# --- information -------------------------------------------------------------------------------------------

WEIGHTS = jnp.sin(jnp.arange(12.0).reshape(4, 3))
HERE, THERE = jnp.array([0.9, 0.2, 0.3, 0.4]), jnp.array([0.4, 0.1, 0.2, 0.3])


def network(x):
    return jax.nn.log_softmax(x @ WEIGHTS)


def broken(x):
    """NaN in the half where x_0 > 0.5."""
    return network(x) * jnp.where(x[0] > 0.5, jnp.nan, 1.0)


def kinked(x):
    """Finite at x_0 = 0, its gradient NaN."""
    return jax.nn.log_softmax(x @ WEIGHTS + 0 * jnp.sqrt(x[0]))


def underflowing(x):
    return jnp.log(jax.nn.softmax(x @ WEIGHTS * jnp.array([1.0, 300.0, 1.0])))


LOCAL = {
    "factor": mj.local_data_factor,
    "trace": mj.local_data_trace,
    "spectrum": mj.local_data_spectrum,
    "matrix": mj.local_data_matrix,
    "basis": mj.horizontal_basis,
    "defect": mj.involutivity_defect,
    "matvec": lambda f, x: mj.local_data_matvec(f, x, jnp.ones(4)),
    "horizontal": lambda f, x: mj.horizontal_projection(f, x, jnp.ones(4)),
    "vertical": lambda f, x: mj.vertical_projection(f, x, jnp.ones(4)),
    "label": lambda f, x: mj.label_keeping_projection(f, x, jnp.ones(4), 0),
    "length": lambda f, x: mj.path_length(f, jnp.stack([x, THERE, x + 1])),
    "leaf": lambda f, x: mj.leaf_distance(f, x, THERE, max_steps=5),
}
WHERE = {"broken": (broken, HERE), "underflowing": (underflowing, HERE), "input": (network, HERE * jnp.nan)}


@pytest.mark.parametrize("name", LOCAL)
def test_information_says_what_is_wrong(name):
    for function, x in WHERE.values():
        with pytest.raises(ValueError, match=r"returned NaN|is infinite|must be finite") as raised:
            LOCAL[name](function, x)
        assert len(str(raised.value)) < 250


def test_lengths_of_paths_that_end_where_the_network_does():
    points = jnp.stack([THERE, HERE, HERE + 1])
    for length in (mj.path_length, mj.output_length):
        assert np.isnan(jax.jit(partial(length, broken))(points))


FEW = ("factor", "spectrum", "defect")


@pytest.mark.parametrize("name", [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in LOCAL])
@pytest.mark.parametrize(
    "place", [p if p == "broken" else pytest.param(p, marks=pytest.mark.slow) for p in WHERE]
)
def test_information_within_a_program(name, place):
    function, x = WHERE[place]
    leaves = jax.tree.leaves(jax.jit(lambda x: LOCAL[name](function, x))(x))
    assert not any(np.isfinite(leaf).all() for leaf in leaves)


@pytest.mark.slow
def test_gradients_that_are_nan():
    zero = HERE.at[0].set(0.0)
    for name in ("trace", "spectrum", "basis", "defect", "matvec", "horizontal", "vertical"):
        for leaf in jax.tree.leaves(LOCAL[name](kinked, zero)):
            assert np.isnan(leaf).all(), name
    both = jax.vmap(lambda x: mj.local_data_rank(kinked, x))(jnp.stack([HERE, zero]))
    assert both.matrix.tolist() == [2, -1]
    assert both.distribution.tolist() == [2, -1]


PATHS = {
    "horizontal": lambda f, x, step: mj.horizontal_path(f, x, HERE + 1, max_steps=20, step=step),
    "vertical": lambda f, x, step: mj.vertical_walk(f, x, jnp.ones(4), steps=20, step=step),
    "label": lambda f, x, step: mj.label_keeping_walk(f, x, jnp.ones(4), 0, steps=20, step=step),
    "projection": lambda f, x, step: mj.leaf_projection(f, x, HERE + 1, max_steps=20, step=step),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["horizontal", "vertical", "label", "projection"])
@pytest.mark.parametrize("step", ["fixed", "controlled"])
def test_paths_end_where_the_network_does(name, step):
    for function, x in ((kinked, HERE.at[0].set(0.0)), (broken, HERE)):
        path = jax.jit(lambda x, function=function: PATHS[name](function, x, step))(x)
        assert mj.PathStatus(int(path.status)) == mj.PathStatus.NOT_FINITE
        assert not path.converged
        assert np.isnan(path.horizontal)
    walked = PATHS[name](broken, THERE, step)  # ends on its way, unless it leads elsewhere
    if mj.PathStatus(int(walked.status)) == mj.PathStatus.NOT_FINITE:
        assert np.isnan(walked.horizontal)


@pytest.mark.thorough
def test_fisher():
    def apply(params, x):
        return jax.nn.log_softmax(x @ params["w"])

    bad = {"w": WEIGHTS.at[0, 0].set(jnp.nan)}
    for function in (mj.fisher_trace, mj.fisher_spectrum, mj.fisher_factor):
        with pytest.raises(ValueError, match="log_prob returned NaN for class 0"):
            function(apply, bad, HERE)
    functions = (mj.fisher_trace, mj.fisher_spectrum, mj.fisher_factor)
    for leaf in jax.tree.leaves(jax.jit(lambda w: [f(apply, w, HERE) for f in functions])(bad)):
        assert np.isnan(leaf).all()
    half = jnp.log(jnp.array([0.5, 0.5]))
    for entry in (jnp.nan, jnp.inf):
        assert np.isnan(mj.fisher_rao_distance(jnp.array([entry, 0.0]), half))
    assert np.isnan(mj.principal_angles(jnp.array([[jnp.nan, 0.0, 0.0]]), jnp.eye(3)[:2])).all()


# --- fitting -----------------------------------------------------------------------------------------------

ROUND = mj.datasets.circle()
CLOUD = jnp.asarray(CURVE)


def test_distances_of_clouds():
    for bad in (CLOUD.at[PLACE].set(jnp.nan), CLOUD.at[PLACE, 0].set(jnp.inf), CLOUD * 1e20):
        for wrap in (lambda f: f, jax.jit):
            distance = wrap(mj.fitting.hausdorff_distance)
            assert np.isinf(distance(bad, CLOUD).value)
            assert np.isinf(distance(CLOUD, bad).value)
    found = mj.fitting.nearest_neighbours(CLOUD, CLOUD * 1e20, 1)
    assert np.isinf(found.distances).all()


@pytest.mark.slow
def test_distances_to_a_manifold():
    queries = jnp.stack(
        [jnp.array([2.0, 0.0]), jnp.full(2, jnp.nan), jnp.full(2, jnp.inf), jnp.full(2, 1e25)]
    )
    for wrap in (lambda f: f, jax.jit):
        feet = wrap(lambda q: mj.fitting.nearest_points(ROUND, q))(queries)
        np.testing.assert_allclose(feet.distances[0], 1.0, rtol=1e-5)
        assert feet.converged.tolist() == [True, False, False, False]
        for leaf in (feet.distances, feet.points, feet.coordinates):
            assert np.isnan(leaf[1:]).all()
        distances = wrap(lambda q: mj.fitting.distances_to_manifold(ROUND, q))(queries)
        assert int(distances.failed) == 3
        nothing = wrap(lambda q: mj.fitting.distances_to_manifold(ROUND, q))(queries[1:])
        assert np.isnan([nothing.maximum, nothing.mean, nothing.rms]).all()


@pytest.mark.slow
def test_distances_of_fits():
    fit, bad = mj.fitting.fit_distances, CLOUD.at[PLACE].set(jnp.nan)
    for name, given in (("test_points", (bad, CLOUD)), ("true_points", (CLOUD, bad))):
        with pytest.raises(ValueError, match=f"fit_distances: {name} must be finite"):
            fit(lambda x: x, ROUND, given[0], true_points=given[1])
    for project in (lambda x: x * jnp.nan, lambda x: x * jnp.inf, lambda x: x * 1e20):
        assert not np.isfinite(fit(project, ROUND, CLOUD).hausdorff)
    for points in (bad, CLOUD * 1e20):
        traced = jax.jit(lambda points: fit(lambda x: x, ROUND, points).hausdorff)(points)
        assert not np.isfinite(traced)


SAMPLED = {
    "local_pca_tangents": {"dimension": 1},
    "local_quadratic_fit": {"dimension": 1},
    "curvature_from_samples": {"dimension": 1},
    "weingarten_fit": {"dimension": 1},
    "volume_from_samples": {"dimension": 1},
    "scalar_curvature_from_balls": {"dimension": 1},
}


@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.thorough
def test_estimators_from_samples(name):
    function = getattr(mj.fitting, name)
    with pytest.raises(
        ValueError, match=r"points must be finite, got NaN or infinite values at 1 of 24 points"
    ):
        function(CLOUD.at[PLACE].set(jnp.nan), **SAMPLED[name])
    if name != "scalar_curvature_from_balls":  # in float64
        result = function(CLOUD * 1e20, **SAMPLED[name])
        for leaf in jax.tree.leaves(result):
            assert not np.any(leaf) if leaf.dtype == bool else not np.isfinite(leaf).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["local_pca_projection", "moving_least_squares"])
def test_projections(name):
    project = getattr(mj.fitting, name)(CLOUD, dimension=1)
    images = project(jnp.stack([jnp.array([1.01, 0.0]), jnp.full(2, jnp.nan), jnp.full(2, jnp.inf)]))
    assert np.isfinite(images[0]).all()
    assert np.isnan(images[1:]).all()
    far = getattr(mj.fitting, name)(CLOUD * 1e20, dimension=1)
    assert not np.isfinite(far(CLOUD[:2] * 1e20)).any()


@pytest.mark.slow
def test_calibration():
    def calibrate(quantity, function, manifold=ROUND, on_error="record"):
        key = jax.random.key(0)
        return mj.fitting.calibrate((quantity, function), manifold, [30], key=key, on_error=on_error).rows[0]

    for value in (jnp.nan, jnp.inf):
        row = calibrate("reach", lambda points, dimension, value=value: value)
        assert "returned no finite value" in row.status
        assert np.isnan(row.rmse)
    half = calibrate("mean_curvature", lambda points, dimension: jnp.where(points[:, 0] > 0, 1.0, jnp.nan))
    assert 0.2 < half.failed < 0.8
    hole = mj.Manifold("hole", spoilt(circle, GRID, np.nan, False), GRID)
    row = calibrate("volume", lambda points, dimension: TURN, hole)
    assert row.status == "the exact volume of 'hole' is nan: there is no error to measure."
    with pytest.raises(ValueError, match="calibrate: the exact volume of 'hole' is nan"):
        calibrate("volume", lambda points, dimension: TURN, hole, "raise")
    for factor in (np.nan, 1e20):
        lost = mj.Manifold("lost", spoilt(circle, GRID, factor, True), GRID)
        with pytest.raises(ValueError, match="'lost' could not be sampled uniformly"):
            calibrate("volume", lambda points, dimension: TURN, lost)
