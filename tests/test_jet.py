"""Jets and Grams: convergence orders, blocks and sources, autodiff, dtypes, export, traces."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax import export

from manifold_jax import (
    Axis,
    Grid,
    Jet,
    gram,
    gram_from_function,
    gram_from_grid,
    integrate,
    jet_from_function,
    jet_from_grid,
    normal_curvature,
    scalar_curvature,
)

TURN = 2 * math.pi
MAJOR, MINOR = 2.0, 0.5


def torus(u):
    big = MAJOR + MINOR * jnp.cos(u[1])
    return jnp.stack([big * jnp.cos(u[0]), big * jnp.sin(u[0]), MINOR * jnp.sin(u[1])])


def torus_grid(n, m=None):
    return Grid((Axis("u", 0.0, TURN, n, periodic=True), Axis("v", 0.0, TURN, m or n, periodic=True)))


def torus_samples(grid, warped=False):
    """NumPy points and the exact scalar curvature and volume element in the (warped) chart."""
    axes = [axis.samples() for axis in grid.axes]
    mesh = np.meshgrid(*axes, indexing="ij")
    u, v = (oracle.warp(x) if warped else x for x in mesh)
    points = np.stack(oracle.torus_points(u, v, MAJOR, MINOR), axis=-1)
    big = MAJOR + MINOR * np.cos(v)
    stretch = (1 + 0.3 * np.cos(mesh[0])) * (1 + 0.3 * np.cos(mesh[1])) if warped else 1.0
    return points, 2 * np.cos(v) / (MINOR * big), MINOR * big * stretch


@partial(jax.jit, static_argnames=("grid", "accuracy", "stride", "block_size"))
def grid_gram(points, grid, accuracy=4, stride=1, block_size=None):
    return gram_from_grid(points, grid, accuracy=accuracy, stride=stride, block_size=block_size)


@partial(jax.jit, static_argnames=("grid", "accuracy"))
def grid_jet_gram(points, grid, accuracy=4):
    jet = jet_from_grid(points, grid, accuracy=accuracy)
    return jet, gram(jet)


curvature_of = jax.jit(scalar_curvature)


def relative(value, exact):
    return float(np.abs(np.asarray(value) - exact).max() / np.abs(exact).max())


def rate(errors, intervals):
    return math.log(errors[0] / errors[1]) / math.log(intervals[1] / intervals[0])


def equal(first, second, rtol=1e-11):
    for a, b in zip(first, second, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max())


# --- convergence -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accuracy", "bound"),
    [
        *((4, 2e-5), ("spectral", 1e-9)),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((2, 6e-3), (6, 5e-8), (8, 1e-9))),
    ],
)
def test_torus_of_64_by_64(accuracy, bound, x64):
    grid = torus_grid(64)
    points, curvature, _ = torus_samples(grid)
    value = curvature_of(grid_gram(jnp.asarray(points), grid, accuracy))
    assert relative(value, curvature) <= bound


@pytest.mark.slow
def test_float32_floor_of_the_torus():
    grid = torus_grid(64)
    points, curvature, _ = torus_samples(grid)
    value = curvature_of(grid_gram(jnp.asarray(points, jnp.float32), grid, 4))
    assert value.dtype == jnp.float32
    assert relative(value, curvature) <= 1e-3


@pytest.mark.parametrize(
    ("accuracy", "sizes"),
    [
        (4, (48, 96)),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((2, (48, 96)), (6, (48, 80)), (8, (64, 96)))
        ),
    ],
)
def test_order_on_a_warped_torus(accuracy, sizes, x64):
    errors = []
    for n in sizes:
        grid = torus_grid(n)
        points, curvature, volume = torus_samples(grid, warped=True)
        measured = oracle.geometry(grid_gram(jnp.asarray(points), grid, accuracy))
        errors.append(
            (
                relative(measured["scalar_curvature"], curvature),
                relative(measured["volume_element"], volume),
            )
        )
    for pair in zip(*errors, strict=True):
        assert abs(rate(pair, sizes) - accuracy) <= 0.2, (pair, rate(pair, sizes))


def open_patch(low, high, n):
    return Grid(tuple(Axis(f"x{k}", a, b, n) for k, (a, b) in enumerate(zip(low, high, strict=True))))


def border_error(points, grid, accuracy, curvature):
    """Largest relative error of S on the outermost layer of samples."""
    value = oracle.geometry(grid_gram(jnp.asarray(points), grid, accuracy))["scalar_curvature"]
    border = np.ones(grid.shape, bool)
    border[(slice(1, -1),) * grid.ndim] = False
    return np.abs(value - curvature)[border].max() / curvature


SMALL_S3 = ((0.7, 0.9, 0.2), (1.3, 1.5, 1.0))


@pytest.mark.parametrize(
    ("accuracy", "box", "sizes"),
    [
        pytest.param(2, ((0.4, 0.2), (2.0, 2.2)), (49, 97), marks=pytest.mark.slow),
        (4, ((0.4, 0.2), (2.0, 2.2)), (65, 97)),
        pytest.param(2, SMALL_S3, (17, 33), marks=pytest.mark.slow),
        pytest.param(4, SMALL_S3, (25, 33), marks=pytest.mark.slow),
    ],
)
def test_order_at_the_border_of_a_warped_sphere_patch(accuracy, box, sizes, x64):
    d = len(box[0])
    errors = []
    for n in sizes:
        grid = open_patch(*box, n)
        points = oracle.warped_points(oracle.sphere_points, [axis.samples() for axis in grid.axes])
        errors.append(border_error(points, grid, accuracy, d * (d - 1.0)))
    measured = rate(errors, [n - 1 for n in sizes])
    assert abs(measured - accuracy) <= 0.2, (errors, measured)


def end_error(function, grid, accuracy, curvature):
    """Largest relative error of S on the two border layers of the first axis."""
    points = oracle.warped_points(function, [axis.samples() for axis in grid.axes])
    value = oracle.geometry(grid_gram(jnp.asarray(points), grid, accuracy))["scalar_curvature"]
    return np.abs(value[[0, -1]] - curvature).max() / curvature


# Orders 6 and 8 are measured where one axis is open: on a patch with corners the leading error changes sign
# along the border, so that the slope of the maximum settles late. And on coarse grids: ghosts of degree 9
# amplify the rounding of the samples themselves to a few 1e-10.


@pytest.mark.slow
@pytest.mark.parametrize(("accuracy", "sizes"), [(6, (49, 65)), (8, (25, 29))])
def test_order_at_the_border_of_a_warped_sphere_zone(accuracy, sizes, x64):
    errors = []
    for n in sizes:
        grid = Grid((Axis("a", 0.5, 1.8, n), Axis("b", 0.0, TURN, 2 * n - 2, periodic=True)))
        errors.append(end_error(oracle.sphere_points, grid, accuracy, 2.0))
    assert abs(rate(errors, [n - 1 for n in sizes]) - accuracy) <= 0.2, errors


@pytest.mark.slow
@pytest.mark.parametrize("accuracy", [6, 8])
def test_order_at_the_border_of_a_warped_zone_of_the_three_sphere(accuracy, x64):
    errors, sizes = [], (25, 29)
    for n in sizes:
        turns = (Axis(name, 0.0, TURN, 2 * n - 2, periodic=True) for name in ("p", "q"))
        errors.append(end_error(oracle.hopf_points, Grid((Axis("e", 0.3, 1.0, n), *turns)), accuracy, 6.0))
    assert abs(rate(errors, [n - 1 for n in sizes]) - accuracy) <= 0.2, errors


@pytest.mark.parametrize(
    ("accuracy", "sizes"),
    [
        (8, (33, 49)),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((2, (33, 65)), (4, (129, 193)), (6, (49, 65)))
        ),
    ],
)
def test_order_of_totals_on_open_axes(accuracy, sizes, x64):
    # A warped patch of the torus: area = r du [R v + r sin v], integral of S dV = 2 du [sin v].
    low, high = (0.2, -0.4), (1.7, 1.6)
    ends = oracle.warp(np.array([low, high]))
    du, v = ends[1, 0] - ends[0, 0], ends[:, 1]
    area = MINOR * du * (MAJOR * (v[1] - v[0]) + MINOR * (np.sin(v[1]) - np.sin(v[0])))
    total = 2 * du * (np.sin(v[1]) - np.sin(v[0]))
    errors = []
    for n in sizes:
        grid = open_patch(low, high, n)
        points = oracle.warped_points(oracle.torus_points, [axis.samples() for axis in grid.axes])
        measured = oracle.geometry(grid_gram(jnp.asarray(points), grid, accuracy))
        volume = jnp.asarray(measured["volume_element"])
        errors.append(
            (
                abs(float(integrate(1.0, volume, grid, accuracy=accuracy)) / area - 1),
                abs(
                    float(integrate(measured["scalar_curvature"], volume, grid, accuracy=accuracy)) / total
                    - 1
                ),
            )
        )
    for pair in zip(*errors, strict=True):
        measured = rate(pair, [n - 1 for n in sizes])
        assert measured >= accuracy - 0.2, (pair, measured)


@pytest.mark.slow
def test_stride_lowers_the_rounding_error_of_float32():
    grid = torus_grid(512, 64)
    points, curvature, _ = torus_samples(grid)
    points = jnp.asarray(points, jnp.float32)
    fine, wide = (
        relative(oracle.geometry(grid_gram(points, grid, stride=stride))["scalar_curvature"], curvature)
        for stride in (1, (8, 1))
    )
    assert wide < fine / 10, (fine, wide)


def test_stride_is_a_coarser_grid_at_every_point(x64):
    grid, coarse = torus_grid(48, 40), torus_grid(24, 10)
    points = jnp.asarray(torus_samples(grid, warped=True)[0])
    strided = grid_gram(points, grid, stride=(2, 4))
    for i, j in ((0, 0), (1, 3)):
        part = grid_gram(points[i::2, j::4], coarse)
        equal([x[i::2, j::4] for x in strided], part, 1e-10)


# --- sources and blocks ----------------------------------------------------------------------------------

MATRIX = np.random.default_rng(0).normal(size=(300, 3)) / 17


def features_of(points, features):
    return points[..., :1] if features == 1 else points if features == 3 else points @ MATRIX.T


def mixed_grid():
    """One periodic axis, one open: 13 x 11, which few block sizes divide."""
    return Grid((Axis("u", 0.0, TURN, 13, periodic=True), Axis("v", 0.2, 1.5, 11)))


@pytest.mark.slow
@pytest.mark.parametrize("features", [1, 3, 300])
def test_every_array_source_and_block_size_agrees(features, x64, tmp_path):
    grid = mixed_grid()
    points = features_of(torus_samples(grid)[0], features)
    jet, expected = grid_jet_gram(jnp.asarray(points), grid)
    equal(expected, oracle.inner(jet), 1e-13)
    stored = np.memmap(tmp_path / "points.bin", np.float64, "w+", shape=points.shape)
    stored[:] = points
    for block_size in (7, 40) if features == 3 else (40,):
        equal(grid_gram(jnp.asarray(points), grid, block_size=block_size), expected)
        equal(gram_from_grid(points, grid, block_size=block_size), expected)
        equal(gram_from_grid(stored, grid, block_size=block_size), expected)


@pytest.mark.parametrize(
    "block_size", [142, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3, 26, 1000))]
)
def test_odd_block_sizes(block_size, x64):
    grid = mixed_grid()
    points = jnp.asarray(torus_samples(grid)[0])
    equal(grid_gram(points, grid, block_size=block_size), grid_gram(points, grid))


@pytest.mark.parametrize("block_size", [None, pytest.param(9, marks=pytest.mark.slow)])
def test_function_source_equals_array_on_periodic_axes(block_size, x64):
    grid = torus_grid(13, 11)
    points = jnp.asarray(torus_samples(grid)[0])
    function = jax.tree_util.Partial(torus)
    equal(grid_gram(function, grid, block_size=block_size), grid_gram(points, grid))
    equal(grid_jet_gram(function, grid)[1], grid_gram(points, grid))


def test_function_source_has_true_ghost_layers_on_open_axes(x64):
    # Evaluated beyond the ends: the rows of an open axis equal those of a longer one.
    short = Grid((Axis("u", 0.0, TURN, 12, periodic=True), Axis("v", 0.4, 1.0, 7)))
    longer = Grid((Axis("u", 0.0, TURN, 12, periodic=True), Axis("v", 0.1, 1.3, 13)))
    function = jax.tree_util.Partial(torus)
    inside = [x[:, 3:10] for x in grid_gram(function, longer)]
    equal(grid_gram(function, short), inside, 1e-10)


def test_periodic_axis_without_wrap_evaluates_beyond_the_ends(x64):
    # A helix: a shift by one period is an isometry, but the points do not repeat.
    def helix(u):
        return jnp.stack([jnp.cos(u[0]), jnp.sin(u[0]), 0.3 * u[0]])

    grid = Grid((Axis("t", 0.0, TURN, 24, periodic=True, wrap=False),))
    measured = grid_gram(jax.tree_util.Partial(helix), grid, accuracy=8)
    np.testing.assert_allclose(np.asarray(measured.metric), 1.09, rtol=1e-6)
    points = jax.jit(jax.vmap(helix))(grid.coordinates())
    stored = grid_gram(points, grid, accuracy=8)
    np.testing.assert_allclose(np.asarray(stored.metric), 1.09, rtol=1e-3)
    wrapped = Grid((Axis("t", 0.0, TURN, 24, periodic=True),))
    wrong = grid_gram(points, wrapped, accuracy=8)
    assert np.abs(np.asarray(wrong.metric) - 1.09).max() > 0.1


def test_image_features_are_flattened(x64):
    grid = mixed_grid()
    points = features_of(torus_samples(grid)[0], 300)
    images = jnp.asarray(points.reshape(*grid.shape, 15, 20))
    equal(grid_gram(images, grid), grid_gram(jnp.asarray(points), grid), 1e-13)


def test_kept_plans_are_of_no_precision():
    grid = torus_grid(12)
    for double in (False, True, False):
        with jax.enable_x64(double):
            points = jax.jit(jax.vmap(jax.vmap(torus)))(grid.coordinates())
            assert grid_gram(points, grid).metric.dtype == (jnp.float64 if double else jnp.float32)


@pytest.mark.parametrize("source", ["array", pytest.param("function", marks=pytest.mark.slow)])
def test_memory_follows_the_block_size(source):
    grid = torus_grid(64)

    def temporaries(block_size):
        if source == "array":
            shape = jax.ShapeDtypeStruct((*grid.shape, 256), jnp.float32)
            lowered = jax.jit(lambda p: gram_from_grid(p, grid, block_size=block_size)).lower(shape)
        else:
            matrix = jnp.asarray(np.random.default_rng(1).normal(size=(256, 3)), jnp.float32)
            lowered = jax.jit(
                lambda m: gram_from_grid(lambda u: m @ torus(u), grid, block_size=block_size)
            ).lower(matrix)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    small, large = temporaries(64), temporaries(4096)
    jets = 4096 * 5 * 128 * 4  # of the whole grid, of the features that are contracted at a time
    assert large > jets
    assert small < large / 5
    assert small < jets / 4


# --- from a function -------------------------------------------------------------------------------------


def test_jets_of_the_torus_equal_hand_written_ones(x64):
    u = np.random.default_rng(2).uniform(0, TURN, (6, 5, 2))
    jet, expected = jet_from_function(torus, jnp.asarray(u)), oracle.torus_jet(u, MAJOR, MINOR)
    assert isinstance(jet, Jet)
    equal(jet, expected, 1e-14)
    equal(gram_from_function(torus, jnp.asarray(u)), oracle.inner(expected), 1e-14)


@pytest.mark.parametrize("batch_size", [1, 7, *(pytest.param(n, marks=pytest.mark.slow) for n in (30, 64))])
def test_batches_do_not_matter(batch_size, x64):
    u = jnp.asarray(np.random.default_rng(3).uniform(0, TURN, (6, 5, 2)))
    equal(gram_from_function(torus, u, batch_size=batch_size), gram_from_function(torus, u), 1e-13)


@pytest.mark.slow
def test_jit_and_vmap_equal_eager(x64):
    u = jnp.asarray(np.random.default_rng(4).uniform(0, TURN, (9, 2)))
    eager = gram_from_function(torus, u)
    equal(jax.jit(partial(gram_from_function, torus))(u), eager, 1e-14)
    equal(jax.vmap(partial(gram_from_function, torus))(u), eager, 1e-14)
    grid = mixed_grid()
    points = jnp.asarray(torus_samples(grid)[0])
    eager = gram_from_grid(points, grid, block_size=40)
    equal(jax.jit(lambda p: gram_from_grid(p, grid, block_size=40))(points), eager, 1e-13)
    both = jax.vmap(lambda p: grid_gram(p, grid, block_size=40))(jnp.stack([points, 2 * points]))
    # Sums in another order: rounding, 1e-16, times the gain of a second difference at a border.
    equal([x[0] for x in both], eager, 1e-12)
    equal([x[1] for x in both], [4 * x for x in eager], 1e-12)


@pytest.mark.slow
def test_one_point_and_no_point(x64):
    one = gram_from_function(torus, jnp.asarray([0.3, 0.4]))
    assert one.second.shape == (2, 2, 2, 2)
    with pytest.raises(ValueError, match=r"that is not empty, got float64 of shape \(0, 2\)"):
        gram_from_function(torus, jnp.zeros((0, 2)))


def test_embedding_into_one_number(x64):
    jet = jet_from_function(lambda u: jnp.sin(u[0]), jnp.asarray([[0.3], [0.7]]))
    np.testing.assert_allclose(np.asarray(jet.first)[:, 0, 0], np.cos([0.3, 0.7]), rtol=1e-15)
    np.testing.assert_allclose(np.asarray(jet.second)[:, 0, 0, 0], -np.sin([0.3, 0.7]), rtol=1e-15)


# --- differentiable again --------------------------------------------------------------------------------


@pytest.mark.slow
def test_curvature_is_differentiable_in_a_parameter(x64):
    # At the pole (0, 0, c) of an ellipsoid S = 2 c^2 / (a^2 b^2).
    def curvature(axes, u):
        a, b, c = axes
        height = lambda x: c * jnp.sqrt(1 - (x[0] / a) ** 2 - (x[1] / b) ** 2)  # noqa: E731
        return scalar_curvature(gram_from_function(lambda x: jnp.append(x, height(x)), u))

    @jax.jit
    def all_at_once(axes, u):
        return curvature(axes, u), jax.grad(curvature)(axes, u), jax.jacfwd(curvature)(axes, u)

    axes = jnp.asarray([1.5, 1.2, 0.8])
    a, b, c = np.asarray(axes)
    value, backward, forward = all_at_once(axes, jnp.zeros(2))
    exact = 2 * c**2 / (a * b) ** 2 * np.array([-2 / a, -2 / b, 2 / c])
    assert float(value) == pytest.approx(2 * c**2 / (a * b) ** 2, rel=1e-13)
    np.testing.assert_allclose(np.asarray(backward), exact, rtol=1e-12)
    np.testing.assert_allclose(np.asarray(forward), exact, rtol=1e-12)
    u, step = jnp.asarray([0.3, -0.2]), 1e-5
    moved = [all_at_once(axes.at[2].add(s), u)[0] for s in (step, -step)]
    slope = float(moved[0] - moved[1]) / (2 * step)
    assert float(all_at_once(axes, u)[1][2]) == pytest.approx(slope, rel=1e-7)


@pytest.mark.slow
def test_grid_gram_is_differentiable_in_the_points(x64):
    grid = mixed_grid()
    points = jnp.asarray(torus_samples(grid)[0])
    direction = jnp.asarray(np.random.default_rng(5).normal(size=points.shape))

    def total(p):
        return jnp.sum(scalar_curvature(gram_from_grid(p, grid, block_size=40)))

    forward = jax.jit(lambda p: jax.jvp(total, (p,), (direction,))[1])(points)
    backward = jnp.vdot(jax.jit(jax.grad(total))(points), direction)
    step = 1e-6
    f = jax.jit(total)
    slope = (f(points + step * direction) - f(points - step * direction)) / (2 * step)
    assert float(forward) == pytest.approx(float(backward), rel=1e-10)
    assert float(forward) == pytest.approx(float(slope), rel=1e-5)


# --- dtypes, export, traces ------------------------------------------------------------------------------


def every_result(points, coordinates, grid):
    return [
        gram_from_grid(points, grid),
        gram_from_function(torus, coordinates),
        jet_from_grid(points, grid),
        scalar_curvature(gram_from_grid(points, grid)),
        normal_curvature(gram_from_grid(points, grid)),
        integrate(1.0, points[..., 0], grid),
    ]


@pytest.mark.parametrize(
    ("dtype", "flag"),
    [
        (np.float64, False),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((np.float32, True), (np.float32, False), (np.float64, True))
        ),
    ],
)
def test_the_dtype_of_the_input_is_kept(dtype, flag):
    grid = torus_grid(16)
    points = torus_samples(grid)[0].astype(dtype)
    with jax.enable_x64(flag):
        expected = jnp.dtype(dtype if flag else np.float32)
        coordinates = grid.coordinates(expected)
        results = jax.eval_shape(partial(every_result, grid=grid), jnp.asarray(points), coordinates)
        leaves = jax.tree.leaves([results, gram_from_grid(points, grid)])
    assert {leaf.dtype for leaf in leaves} == {expected}


@pytest.mark.parametrize("dimension", [1, 3])
def test_export_for_every_platform(dimension):
    grid = Grid(tuple(Axis(f"x{k}", 0.0, 1.0, 8) for k in range(dimension)))

    def kernel(points):
        gram = gram_from_grid(points, grid, block_size=100)
        return scalar_curvature(gram), normal_curvature(gram)

    points = jax.ShapeDtypeStruct((*grid.shape, 5), jnp.float32)
    exported = export.export(jax.jit(kernel), platforms=("cpu", "cuda", "tpu"))(points)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    module = exported.mlir_module()
    assert "stablehlo.dot_general" in module
    for line in module.splitlines():
        if "stablehlo.dot_general" in line:
            assert "HIGHEST" in line, f"a matrix product of default precision: {line.strip()}"


def test_the_second_call_does_not_trace_again():
    traces = []

    def embedding(scale, u):
        traces.append(None)
        return scale * torus(u)

    grid = torus_grid(8)
    measured = jax.jit(lambda f: gram_from_grid(f, grid))
    first = measured(jax.tree_util.Partial(embedding, 1.0))
    count = len(traces)
    assert count >= 1
    second = measured(jax.tree_util.Partial(embedding, 2.0))
    assert len(traces) == count
    equal(second, [4 * x for x in first], 1e-5)


@pytest.mark.slow
def test_a_batch_of_more_than_32768_points_equals_an_unbatched_loop(x64):
    # jax issue 39103: jax 0.10.2 miscompiled batched matrix-vector products on the CPU.
    rng = np.random.default_rng(6)
    u = jnp.asarray(rng.uniform(0, TURN, (33000, 3)))
    matrix = jnp.asarray(rng.normal(size=(5, 3)))

    def embedding(x):
        return jnp.concatenate([matrix @ jnp.sin(x), jnp.cos(x)])

    def curvature(x, **options):
        return scalar_curvature(gram_from_function(embedding, x, **options))

    whole = jax.jit(lambda x: curvature(x, batch_size=len(u)))(u)
    mapped = jax.jit(jax.vmap(curvature))(u)
    chosen = np.append(rng.choice(len(u), 40), [0, 32767, 32768, 32769, len(u) - 1])
    one = jax.jit(curvature)
    expected = np.array([one(u[k]) for k in chosen])
    for values in (whole, mapped):
        np.testing.assert_allclose(np.asarray(values)[chosen], expected, rtol=1e-10)
