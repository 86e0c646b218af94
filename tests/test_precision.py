"""Ranks that do not depend on the number of pixels, 16-bit types, and mixed ones."""

from functools import partial
from itertools import pairwise

import classifier
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from classifier import linear

import manifold_jax as mj

EPS = {np.float32: 2.0**-23, np.float64: 2.0**-52}
PARAMS = classifier.weights(n=8, hidden=12, classes=4, scale=2.0)
X, Y, V = np.random.default_rng(1).normal(size=(3, 8))


# --- the rank does not depend on the number of pixels ----------------------------------------------------


def few_pixels(scale, x):
    """Classes that see one pixel each; at x = 0 the centred scores are diag(scale) - mean(scale)."""
    return jax.nn.log_softmax(scale * x.ravel()[: scale.size])


@pytest.mark.parametrize("shape", [(28, 28), pytest.param((224, 224, 3), marks=pytest.mark.slow)])
@pytest.mark.thorough
def test_pixels_without_influence_do_not_change_the_rank(shape):
    classes = 20
    scale = np.geomspace(1.0, 5e-3, classes)
    log_prob, x = jax.tree_util.Partial(few_pixels, jnp.float32(scale)), jnp.zeros(shape)
    values = np.linalg.eigvalsh(np.diag(scale**2) / classes - np.outer(scale, scale) / classes**2)
    rank = jax.jit(mj.local_data_rank)(log_prob, x)
    assert tuple(map(int, rank)) == (19, 19)
    np.testing.assert_allclose(jax.jit(mj.local_data_spectrum)(log_prob, x)[0][:19], values[:0:-1], rtol=1e-5)
    basis = jax.jit(jax.vmap(partial(mj.horizontal_basis, log_prob)))(x[None])[0]
    np.testing.assert_allclose(basis @ basis.T, np.diag(np.arange(classes) < 19), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(28, 28), (224, 224, 3)])
def test_pixels_without_influence_do_not_stop_a_path(shape):
    classes = 20
    scale = np.geomspace(1.0, 5e-3, classes)
    log_prob, x = jax.tree_util.Partial(few_pixels, jnp.float32(scale)), jnp.zeros(shape)
    # On the faintest pixel a path ends at the projection of its destination; it used to stall at once.
    far = jnp.zeros(x.size).at[classes - 1].set(1.0).reshape(shape)
    path = mj.horizontal_path(log_prob, x, far, step_size=0.1, max_steps=30, save_every=30)
    rows = np.eye(classes) * scale - scale / classes
    end = (np.linalg.pinv(rows, rcond=1e-12) @ rows)[:, -1]
    assert float(path.horizontal) < 1e-3
    np.testing.assert_allclose(np.ravel(path.point)[:classes], end, atol=1e-3)


def of_rank(count, n, rank, dtype):
    """Centred rows with this many singular values of 1, and none but for the rounding of the entries."""
    rng = np.random.default_rng(0)
    left = rng.normal(size=(count, rank))
    rows, columns = np.linalg.qr(left - left.mean(axis=0))[0], np.linalg.qr(rng.normal(size=(n, rank)))[0]
    return (rows @ columns.T).astype(dtype)


SMALL = [(100, 10)]
LARGE = [
    (10, 784),
    (2, 10),
    (3, 150_528),
    (30, 1000),
    (100, 10_000),
    (300, 3000),
    (1000, 10),
    (1000, 3000),
    (30, 150_528),
]


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("count", "n"), [*SMALL, *(pytest.param(*size, marks=pytest.mark.slow) for size in LARGE)]
)
def test_known_ranks(count, n, dtype, x64):
    most = min(count - 1, n)
    for rank in sorted({1, (most + 1) // 2, most}):
        log_prob = linear(of_rank(count, n, rank, dtype))
        if count < 1000:  # at x = 0 all classes are equally likely: G and D_x have one rank
            assert tuple(map(int, jax.jit(mj.local_data_rank)(log_prob, jnp.zeros(n, dtype)))) == (rank, rank)
        basis = jax.jit(mj.horizontal_basis)(log_prob, jnp.ones(n, dtype))
        assert int(jnp.sum(jnp.any(basis != 0, axis=1))) == rank


@pytest.mark.slow
def test_errors_of_deep_networks_are_no_directions():
    # Ten layers of 300 neurons, then two: D_x has two dimensions, and float32 must not add any.
    rng = np.random.default_rng(0)
    widths = [100, *[300] * 10, 2, 10]
    layers = [rng.normal(size=(b, a)) * (2 / a) ** 0.5 for a, b in pairwise(widths)]

    def deep(layers, x):
        for w in layers[:-1]:
            x = jnp.tanh(w @ x)
        return jax.nn.log_softmax(layers[-1] @ x)

    for dtype in (jnp.float32, jnp.bfloat16):
        log_prob = jax.tree_util.Partial(deep, [jnp.asarray(w, dtype) for w in layers])
        rank = mj.local_data_rank(log_prob, jnp.asarray(rng.normal(size=100), dtype))
        assert tuple(map(int, rank)) == (2, 2)


# --- 16 bits ---------------------------------------------------------------------------------------------

SHORT = [jnp.float16, jnp.bfloat16]
FLOAT16 = pytest.param(jnp.float16, marks=pytest.mark.slow)
WEIGHTS = np.random.default_rng(0).normal(size=(12, 40)) / 20


def narrow(w, x):
    """Everything in the dtype of the weights, whatever the input is, as in a network of 16 bits."""
    return jax.nn.log_softmax(w @ x.astype(w.dtype))


def convolution(w, x):
    """``lax.conv`` takes arguments of one dtype only."""
    rows = jax.lax.conv_general_dilated(x.reshape(1, 1, -1), w[:, None], (1,), "VALID")
    return jax.nn.log_softmax(rows.ravel())


def oracle(w, x):
    """Factor of G in float64, and the dimension of D_x, for the rounded weights."""
    w, x = np.asarray(w, np.float64), np.asarray(x, np.float64)
    p = classifier.probabilities(w @ x)
    return np.sqrt(p)[:, None] * (w - p @ w), np.linalg.matrix_rank(w - w.mean(0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "dtype"),
    [(function, dtype) for function in (convolution, classifier.linear_apply, narrow) for dtype in SHORT],
)
def test_classifiers_of_16_bits(dtype, function):
    w, x = jnp.asarray(WEIGHTS, dtype), jnp.asarray(np.random.default_rng(1).normal(size=40), dtype)
    log_prob = jax.tree_util.Partial(function, w)
    factor, rank = oracle(w, x)
    rounding = 1e-5 if function is classifier.linear_apply else 8 * float(jnp.finfo(dtype).eps)
    values = np.linalg.svd(factor)[1] ** 2

    def everything(f, x):
        kernels = (mj.local_data_trace, mj.local_data_spectrum, mj.local_data_rank, mj.horizontal_basis)
        return [kernel(f, x) for kernel in kernels]

    # Mapped and compiled; the rank below is neither.
    mapped = jax.tree.map(lambda a: a[0], jax.jit(jax.vmap(everything, (None, 0)))(log_prob, x[None]))
    for trace, (spectrum, vectors), ranks, basis in (mapped,):
        assert {trace.dtype, spectrum.dtype, vectors.dtype, basis.dtype} == {jnp.dtype(jnp.float32)}
        assert float(trace) == pytest.approx(values.sum(), rel=rounding)
        np.testing.assert_allclose(spectrum, values, atol=rounding * values[0])
        assert int(ranks.distribution) == rank == 11
        np.testing.assert_allclose(basis @ basis.T, np.diag(np.arange(12) < 11), atol=1e-5)
    assert tuple(map(int, mj.local_data_rank(log_prob, x))) == tuple(map(int, mapped[2]))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, FLOAT16])
@pytest.mark.thorough
def test_parameters_of_16_bits(dtype):
    params = jax.tree.map(lambda w: jnp.asarray(w, dtype), PARAMS)
    exact = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), params)
    spectrum = jax.jit(partial(mj.fisher_spectrum, classifier.apply))
    short, long = (spectrum(w, jnp.asarray(X, w["in"].dtype)) for w in (params, exact))
    np.testing.assert_allclose(short[0][:3], long[0][:3], rtol=0.02)
    assert {leaf.dtype for leaf in jax.tree.leaves(short)} == {jnp.dtype(jnp.float32)}
    trace = mj.fisher_trace(classifier.apply, params, jnp.asarray(X, dtype))
    assert float(trace) == pytest.approx(float(jnp.sum(short[0])), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, FLOAT16])
def test_paths_and_lengths_of_16_bits(dtype):
    params = jax.tree.map(lambda w: jnp.asarray(w, dtype), PARAMS)
    short = jax.tree_util.Partial(classifier.apply, params)
    long = classifier.network(params, dtype=jnp.float32)
    ends = [jnp.asarray(x, dtype) for x in (X, Y)]
    wide = [x.astype(jnp.float32) for x in ends]
    path = jax.jit(partial(mj.horizontal_path, max_steps=20))
    one, two = (path(f, *e) for f, e in ((short, ends), (long, wide)))
    assert one.points.dtype == jnp.float32
    np.testing.assert_allclose(one.points, two.points, atol=1e-5)
    for length in (mj.path_length, mj.output_length):
        value, want = (jax.jit(length)(f, jnp.stack(e)) for f, e in ((short, ends), (long, wide)))
        assert float(value) == pytest.approx(float(want), rel=1e-5)


@pytest.mark.parametrize("dtype", [FLOAT16, jnp.bfloat16])
@pytest.mark.parametrize("hold", [np.asarray, pytest.param(jnp.asarray, marks=pytest.mark.slow)])
@pytest.mark.thorough
def test_points_of_16_bits_are_measured_and_saved_in_float32(dtype, hold, tmp_path):
    grid = mj.Grid((mj.Axis("t", 0, 2 * np.pi, 64, periodic=True),))
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    points = hold(np.stack([np.cos(t), np.sin(t)], -1).astype(dtype))
    geometry = mj.measure(points, grid)
    assert geometry.total_volume.value.dtype == jnp.float32
    assert float(geometry.total_volume.value) == pytest.approx(2 * np.pi, rel=float(jnp.finfo(dtype).eps))
    geometry.save(tmp_path / "ring.nc")
    with xr.open_dataset(tmp_path / "ring.nc") as saved:
        np.testing.assert_array_equal(saved["volume_element"], geometry.volume_element.value)
    assert mj.gram_from_grid(points, grid).metric.dtype == jnp.float32


@pytest.mark.parametrize("dtype", [jnp.bfloat16, FLOAT16])
def test_embeddings_of_16_bits_have_jets_of_float32(dtype):
    circle = lambda u: jnp.stack([jnp.cos(u[0]), jnp.sin(u[0])]).astype(dtype)  # noqa: E731
    for u in (jnp.ones(1), jnp.ones(1, dtype)):
        jet = mj.jet_from_function(circle, u)
        assert jet.first.dtype == jnp.float32
        np.testing.assert_allclose(jet.first[0], [-np.sin(1), np.cos(1)], atol=float(jnp.finfo(dtype).eps))
    before, after = mj.layer_jets(circle, [lambda x: (3 * x).astype(dtype)], jnp.ones((1, 1), dtype))
    np.testing.assert_allclose(after.vectors, 3 * before.vectors, rtol=float(jnp.finfo(dtype).eps))


# --- mixed types -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("types", "step"),
    [
        (types, step)
        for types in ((np.float32, np.float32), (np.float64, np.float32), (np.float32, np.float64))
        for step in ("fixed", "full", "decreasing", "controlled")
    ],
)
def test_loops_keep_the_dtype_of_the_input(step, types, x64):
    of_x, of_weights = types
    log_prob = classifier.network(PARAMS, dtype=of_weights)
    x, y, v = (jnp.asarray(a, of_x) for a in (X, Y, V))
    options = {"step": step, "clip": (-9, 9)}

    def walks(f, x, y, v):
        return [
            mj.leaf_projection(f, x, y, max_steps=4, **options),
            mj.horizontal_path(f, x, y, max_steps=4, **options),
            mj.vertical_walk(f, x, v, steps=4, **options),
            mj.label_keeping_walk(f, x, v, 1, steps=4, **options),
        ]

    results = jax.jit(walks)(log_prob, x, y, v)
    for path in results:
        assert {path.points.dtype, path.log_probs.dtype, path.drift.dtype} == {jnp.dtype(of_x)}
    # With another precision the first steps are the same, to the rounding of the coarser one.
    exact = jax.jit(walks)(classifier.network(PARAMS), *map(jnp.asarray, (X, Y, V)))
    for path, want in zip(results, exact, strict=True):
        np.testing.assert_allclose(path.points, want.points, atol=1e-5)


@pytest.mark.thorough
def test_lists_and_python_numbers():
    basis = mj.horizontal_basis(jax.nn.log_softmax, [0.1, 0.2, 0.3])
    assert int(jnp.sum(jnp.any(basis != 0, axis=1))) == 2
    scaled = lambda w, x: jax.nn.log_softmax(w * x)  # noqa: E731
    x = np.array([0.1, 0.2, 0.4])
    p = classifier.probabilities(2 * x)
    assert float(mj.fisher_trace(scaled, 2.0, list(x))) == pytest.approx(p @ (x - p @ x) ** 2, rel=1e-5)
