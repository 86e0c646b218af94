"""Local data matrix and local Fisher matrix: closed forms, oracles, saturation, memory, refusals."""

from functools import partial

import classifier
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from classifier import linear

import manifold_jax as mj
from manifold_jax.information.row_factors import orthonormal_rows, singular_rows

PARAMS = classifier.weights()
X = np.random.default_rng(1).normal(size=6)


def test_linear_softmax_has_the_closed_form(x64):
    w = np.random.default_rng(0).normal(size=(5, 6))
    p = classifier.probabilities(w @ X)
    want = w.T @ (np.diag(p) - np.outer(p, p)) @ w
    matrix = jax.jit(mj.local_data_matrix)(linear(w), X.reshape(2, 3))
    np.testing.assert_allclose(matrix, want, atol=1e-14)
    # Another closed form of the trace: 1/2 sum_ij p_i p_j |J_i - J_j|^2.
    squares = np.sum((w[:, None] - w[None]) ** 2, axis=-1)
    assert float(jax.jit(mj.local_data_trace)(linear(w), X)) == pytest.approx(p @ squares @ p / 2, rel=1e-13)


def test_factor_is_the_scores_of_the_oracle(x64):
    factor = np.asarray(jax.jit(mj.local_data_factor)(classifier.network(PARAMS), X))
    p = classifier.analytic(PARAMS, X)[0]
    np.testing.assert_allclose(factor, np.sqrt(p)[:, None] * classifier.score_rows(PARAMS, X), atol=1e-14)
    # E_y[score] = 0.
    np.testing.assert_allclose(np.sqrt(p) @ factor, np.zeros(6), atol=1e-15)


def test_matrix_is_half_of_the_second_derivative_of_kl(x64):
    # Central differences of KL(p(x + dx) || p(x)) around x: an oracle without a single derivative.
    log_prob = classifier.network(PARAMS)
    base, h = np.asarray(log_prob(X)), 1e-4

    def kl(dx):
        there = np.asarray(log_prob(X + dx))
        return np.sum(np.exp(there) * (there - base))

    basis = np.eye(6) * h
    hessian = [[(kl(a + b) - kl(a - b) - kl(b - a) + kl(-a - b)) / (4 * h * h) for a in basis] for b in basis]
    np.testing.assert_allclose(hessian, jax.jit(mj.local_data_matrix)(log_prob, X), atol=1e-6)


def test_remainder_of_kl_is_of_third_order(x64):
    log_prob = classifier.network(classifier.weights(scale=3.0))
    base, direction = np.asarray(log_prob(X)), np.random.default_rng(2).normal(size=6)
    rest, product = [], jax.jit(partial(mj.local_data_matvec, log_prob, X))
    for h in 0.1 * 0.5 ** np.arange(6):
        there, v = np.asarray(log_prob(X + h * direction)), h * direction
        kl = np.sum(np.exp(there) * (there - base))
        rest.append(abs(kl - v @ np.asarray(product(v)) / 2))
    slopes = np.log2(np.array(rest[:-1]) / rest[1:])
    assert np.all(np.abs(slopes[-3:] - 3) < 0.1)


def test_matvec_trace_spectrum_agree_with_the_matrix(x64):
    log_prob = classifier.network(PARAMS)
    x, v = X.reshape(2, 3), np.random.default_rng(3).normal(size=(2, 3))

    @jax.jit  # one program
    def measured(f, x, v):
        quantities = (mj.local_data_matrix, mj.local_data_trace, mj.local_data_spectrum)
        return mj.local_data_matvec(f, x, v), *(quantity(f, x) for quantity in quantities)

    product, matrix, trace, spectrum = measured(log_prob, x, v)
    values, vectors = (np.asarray(part) for part in spectrum)
    matrix = np.asarray(matrix)
    assert product.shape == x.shape
    np.testing.assert_allclose(product.ravel(), matrix @ v.ravel(), atol=1e-14)
    assert float(trace) == pytest.approx(np.trace(matrix), rel=1e-13)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix)[::-1][:4], atol=1e-14)
    np.testing.assert_allclose(vectors.T * values @ vectors, matrix, atol=1e-14)
    np.testing.assert_allclose(vectors @ vectors.T, np.diag([1.0, 1, 1, 0]), atol=1e-14)
    assert float(values[3]) == 0


@pytest.mark.thorough
def test_saturated_softmax_keeps_the_distribution():
    # Logit scale 40: 1 - p is 1e-9 and less, float32 rounds p to 1.
    params = classifier.weights(n=20, hidden=30, classes=8, scale=40.0)
    many = np.random.default_rng(5).normal(size=(50, 20))
    x = max(many, key=lambda x: classifier.analytic(params, x)[0].max())
    single = classifier.network(params, dtype=jnp.float32)
    short = jnp.asarray(x, jnp.float32)
    assert float(jnp.exp(jnp.max(single(short)))) == 1.0
    v = np.random.default_rng(6).normal(size=20)

    @jax.jit  # one program
    def measured(f, x, v):
        quantities = (mj.local_data_rank, mj.local_data_matrix, mj.local_data_trace, mj.local_data_spectrum)
        return *(quantity(f, x) for quantity in quantities), mj.local_data_matvec(f, x, v)

    rank, matrix, trace, spectrum, product = measured(single, short, jnp.asarray(v, jnp.float32))
    assert int(rank.distribution) == 7
    assert int(rank.matrix) < 7
    want = classifier.matrix(params, x)
    matrix = np.asarray(matrix, np.float64)
    assert matrix.dtype == np.float64
    assert np.abs(matrix - want).max() < 1e-4 * np.abs(want).max()
    assert np.abs(product - want @ v).max() < 1e-4 * np.abs(want @ v).max()
    assert float(trace) == pytest.approx(np.trace(want), rel=1e-4)
    # Every eigenvalue has its own relative accuracy.
    p = classifier.analytic(params, x)[0]
    rows = np.sqrt(p)[:, None] * classifier.score_rows(params, x)
    with jax.enable_x64(True):
        exact = np.asarray(singular_rows(jnp.asarray(rows))[0]) ** 2
    normal = exact > 1e-37  # smaller ones are subnormal in float32
    assert exact[normal].min() < 1e-10 * exact[0]
    np.testing.assert_allclose(spectrum[0][normal], exact[normal], rtol=1e-3)


@pytest.mark.slow
def test_rank_of_calm_and_of_degenerate_networks(x64):
    log_prob, rank = classifier.network(PARAMS), jax.jit(mj.local_data_rank)
    assert tuple(map(int, rank(log_prob, X))) == (3, 3)
    # Classes that differ in one direction only; two inputs cannot carry more than rank 2.
    line = linear(np.outer([1.0, 2.0, 3.0, 5.0], np.ones(6)))
    assert tuple(map(int, rank(line, X))) == (1, 1)
    wide = linear(np.random.default_rng(0).normal(size=(7, 2)))
    assert tuple(map(int, rank(wide, X[:2]))) == (2, 2)
    assert tuple(map(int, rank(linear(np.zeros((4, 6))), X))) == (0, 0)
    assert int(mj.local_data_rank(log_prob, X, rtol=0.999).matrix) == 1
    lost = rank(linear(np.full((4, 6), np.nan)), X)
    assert tuple(map(int, lost)) == (-1, -1)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 4), (2, 3), (3, 3), (7, 20), (9, 5)])
def test_decompositions_of_random_and_graded_rows(shape, x64):
    rng = np.random.default_rng(0)
    for grade in (0, 8):
        rows = 10.0 ** -np.linspace(0, grade, shape[0])[:, None] * rng.normal(size=shape)
        basis, coefficients, pivots = orthonormal_rows(jnp.asarray(rows))
        rank = int(np.sum(np.asarray(pivots) > 0))
        assert rank == min(shape)
        np.testing.assert_allclose(coefficients @ basis, rows, atol=1e-14)
        np.testing.assert_allclose(basis[:rank] @ basis[:rank].T, np.eye(rank), atol=1e-14)
        assert np.all(np.asarray(basis[rank:]) == 0)
        values, vectors = singular_rows(jnp.asarray(rows))
        np.testing.assert_allclose(values[:rank], np.linalg.svd(rows)[1], rtol=1e-7)
        np.testing.assert_allclose(
            vectors.T * values**2 @ vectors, rows.T @ rows, atol=1e-13 * np.sum(rows**2)
        )


@pytest.mark.slow
def test_graded_singular_values_have_relative_accuracy():
    # D B with D down to 1e-12 in float32: products with the inverse of a small well-conditioned B know them.
    rng = np.random.default_rng(0)
    rows = np.logspace(0, -12, 5)[:, None] * rng.normal(size=(5, 30))
    with jax.enable_x64(True):
        double = np.asarray(singular_rows(jnp.asarray(rows))[0])
    single = np.asarray(singular_rows(jnp.asarray(rows, jnp.float32))[0])
    assert double[-1] < 1e-11 * double[0]
    np.testing.assert_allclose(single, double, rtol=1e-5)
    # The product of the singular values is the volume, an independent check of the double ones.
    volume = np.exp(np.sum(np.log(np.abs(np.diagonal(np.linalg.qr(rows[::-1].T)[1])))))
    assert np.prod(double) == pytest.approx(volume, rel=1e-10)


@pytest.mark.slow
def test_transformations(x64):
    log_prob, v = classifier.network(PARAMS), np.random.default_rng(3).normal(size=6)
    batch = np.random.default_rng(4).normal(size=(5, 6))
    functions = {
        "trace": mj.local_data_trace,
        "factor": mj.local_data_factor,
        "matvec": lambda f, x: mj.local_data_matvec(f, x, v),
        "values": lambda f, x: mj.local_data_spectrum(f, x)[0],
        "rank": mj.local_data_rank,
    }

    def everything(f, x):
        return {name: function(f, x) for name, function in functions.items()}

    mapped = jax.jit(jax.vmap(everything, in_axes=(None, 0)))(log_prob, batch)
    for i, x in enumerate(batch):
        one = everything(log_prob, x)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[i], atol=1e-13), one, mapped)  # noqa: B023


def test_blocks_of_classes_change_nothing(x64):
    log_prob = classifier.network(PARAMS)
    for size in (1, 3, 50):
        np.testing.assert_allclose(
            mj.local_data_factor(log_prob, X, batch_size=size), mj.local_data_factor(log_prob, X), atol=1e-15
        )
        assert float(mj.local_data_trace(log_prob, X, batch_size=size)) == pytest.approx(
            float(mj.local_data_trace(log_prob, X)), rel=1e-14
        )


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [None, 2])
def test_gradients_follow_finite_differences(batch_size, x64):
    log_prob, h = classifier.network(PARAMS), 1e-5
    functions = [
        partial(mj.local_data_trace, log_prob, batch_size=batch_size),
        lambda x: mj.local_data_spectrum(log_prob, x, batch_size=batch_size)[0][1],
    ]
    for function in functions:
        compiled = jax.jit(function)
        slope = [(float(compiled(X + d)) - float(compiled(X - d))) / (2 * h) for d in h * np.eye(6)]
        np.testing.assert_allclose(jax.grad(function)(jnp.asarray(X)), slope, atol=1e-8)


def test_gradient_reaches_parameters_in_a_closure(x64):
    def trace(scale):
        params = {**PARAMS, "out": scale * PARAMS["out"]}
        return mj.local_data_trace(lambda x: classifier.apply(params, x), X)

    compiled = jax.jit(trace)
    slope = (float(compiled(1 + 1e-5)) - float(compiled(1 - 1e-5))) / 2e-5
    assert float(jax.jit(jax.grad(trace))(1.0)) == pytest.approx(slope, rel=1e-7)


def test_new_parameters_do_not_compile_again():
    traces = []

    def counted(params, x):
        traces.append(1)
        return classifier.apply(params, x)

    trace = jax.jit(mj.local_data_trace)
    for seed in range(3):
        params = jax.tree.map(jnp.float32, classifier.weights(seed=seed))
        trace(jax.tree_util.Partial(counted, params), jnp.float32(X))
        first = len(traces) if seed == 0 else first
    assert len(traces) == first


@pytest.mark.slow
def test_a_model_changed_in_place_is_measured_again():
    params = classifier.weights()
    log_prob = lambda x: classifier.apply(params, x)  # noqa: E731
    before = mj.local_data_spectrum(log_prob, np.float32(X))[0]
    params["out"] = 2 * params["out"]
    assert np.abs(mj.local_data_spectrum(log_prob, np.float32(X))[0] - before).max() > 0.01


@pytest.mark.slow
def test_dtype_of_the_input_is_kept():
    with jax.enable_x64(True):
        for dtype in (jnp.float32, jnp.float64):
            log_prob = classifier.network(PARAMS, dtype=dtype)
            x = jnp.asarray(X, dtype)
            values, vectors = mj.local_data_spectrum(log_prob, x)
            kept = [values, vectors, mj.local_data_trace(log_prob, x), mj.local_data_matvec(log_prob, x, x)]
            assert {a.dtype for a in kept} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("function", [mj.local_data_trace, mj.local_data_spectrum, mj.local_data_rank])
def test_kernels_lower_for_every_platform(function):
    log_prob = classifier.network(PARAMS, dtype=jnp.float32)
    compiled = jax.jit(jax.vmap(partial(function, log_prob)))
    batch = jax.ShapeDtypeStruct((3, 6), jnp.float32)
    exported = jax.export.export(compiled, platforms=("cpu", "cuda", "tpu"))(batch)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    # No LAPACK: two batched calls in one program block each other for ever on two cores.
    assert "lapack" not in exported.mlir_module()


N, CLASSES = 150528, 1000


def image_net(weights, x):
    """Cheap classifier of ImageNet's size: 32 features that every pixel moves."""
    return jax.nn.log_softmax(weights @ jnp.tanh(jnp.sum(x.reshape(32, -1), axis=1) / 30))


def test_image_net_size_runs_in_bounded_memory():
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(CLASSES, 32)), jnp.float32)
    log_prob = jax.tree_util.Partial(image_net, weights)
    shape = jax.ShapeDtypeStruct((224, 224, 3), jnp.float32)
    trace = jax.jit(partial(mj.local_data_trace, log_prob, batch_size=8)).lower(shape).compile()
    matvec = jax.jit(partial(mj.local_data_matvec, log_prob)).lower(shape, shape).compile()
    whole = 4 * N * CLASSES
    assert trace.memory_analysis().temp_size_in_bytes < 0.05 * whole
    assert matvec.memory_analysis().temp_size_in_bytes < 10 * 4 * N
    x = np.random.default_rng(1).normal(size=(224, 224, 3)).astype(np.float32)
    features = np.tanh(x.reshape(32, -1).sum(axis=1, dtype=np.float64) / 30)
    p = classifier.probabilities(np.float64(weights) @ features)
    centred = np.float64(weights) - p @ np.float64(weights)
    jacobian = centred * (1 - features**2) / 30
    want = (N / 32) * np.sum(p[:, None] * jacobian**2)
    assert float(trace(x)) == pytest.approx(want, rel=1e-3)
    u = np.repeat(p * (jacobian @ np.ones(32)) @ jacobian, N // 32) * (N / 32)
    np.testing.assert_allclose(np.ravel(matvec(x, np.ones_like(x))), u, atol=2e-3 * np.abs(u).max())


# --- over the parameters ---------------------------------------------------------------------------------


def dense_fisher(params, x):
    """F over the flattened parameters, by central differences of log p."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    h = 1e-6
    log_prob = jax.jit(jax.vmap(lambda w: classifier.apply(unravel(w), x)))
    steps = h * np.eye(flat.size)
    rows = np.asarray(log_prob(flat + steps) - log_prob(flat - steps)).T / (2 * h)
    p = np.exp(np.asarray(classifier.apply(params, x)))
    return rows.T @ (p[:, None] * rows)


@pytest.mark.slow
def test_fisher_agrees_with_the_dense_matrix(x64):
    params = jax.tree.map(jnp.asarray, classifier.weights(n=3, hidden=4, classes=3))
    x = jnp.asarray(X[:3])
    dense = dense_fisher(params, x)
    ravel = lambda tree: jax.flatten_util.ravel_pytree(tree)[0]  # noqa: E731
    factor = jax.vmap(ravel)(mj.fisher_factor(classifier.apply, params, x))
    np.testing.assert_allclose(factor.T @ factor, dense, atol=1e-9)
    v = jax.tree.map(lambda w: jnp.cos(3 * w), params)
    product = mj.fisher_matvec(classifier.apply, params, x, v)
    assert jax.tree.structure(product) == jax.tree.structure(params)
    np.testing.assert_allclose(ravel(product), dense @ ravel(v), atol=1e-9)
    for size in (None, 2):
        assert float(mj.fisher_trace(classifier.apply, params, x, batch_size=size)) == pytest.approx(
            np.trace(dense), rel=1e-8
        )
    values, vectors = mj.fisher_spectrum(classifier.apply, params, x)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(dense)[::-1][:3], atol=1e-9)
    rows = jax.vmap(ravel)(vectors)
    np.testing.assert_allclose(rows.T * values @ rows, dense, atol=1e-9)


def test_fisher_maps_over_inputs(x64):
    params = jax.tree.map(jnp.asarray, PARAMS)
    batch = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6)))
    trace = partial(mj.fisher_trace, classifier.apply)
    traces = jax.jit(jax.vmap(trace, in_axes=(None, 0)))(params, batch)
    want = [float(jax.jit(trace)(params, x)) for x in batch]
    np.testing.assert_allclose(traces, want, rtol=1e-13)


# --- refusals --------------------------------------------------------------------------------------------

softmax, log_softmax = jax.nn.softmax, jax.nn.log_softmax
LONG = np.float32([0.0, 50.0, 900.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mj.check_log_prob(softmax, LONG), r"returned probabilities .*log_softmax"),
        (lambda: mj.check_log_prob(lambda x: x, LONG), r"looks like logits \(.* 900, not 0\).*log_softmax"),
        (lambda: mj.check_log_prob(lambda x: -x, LONG + 1), "looks like logits"),
        (lambda: mj.check_log_prob(lambda x: jnp.log(softmax(x)), LONG), "infinite for class 0.*log_softmax"),
        (lambda: mj.check_log_prob(lambda x: log_softmax(x) * jnp.nan, LONG), "NaN for class 0"),
        (lambda: mj.check_log_prob(lambda x: log_softmax(x)[None], LONG), r"shape \(1, 3\).*x\[None\]"),
        (lambda: mj.check_log_prob(lambda x: x[:1] * 0, LONG), "C at least 2"),
        (lambda: mj.check_log_prob(lambda x: [0.0, 1.0], LONG), "got list"),
        (lambda: mj.check_log_prob(lambda x: jnp.zeros(3, int), LONG), "floating-point log-probabilities"),
        (lambda: mj.check_log_prob("model", LONG), "must be a function"),
        (lambda: mj.local_data_trace(softmax, LONG), "probabilities"),
        (lambda: mj.local_data_matvec(lambda x: x, LONG, LONG), "logits"),
        (lambda: jax.jit(partial(mj.local_data_trace, lambda x: x[None]))(LONG), r"shape \(1, 3\)"),
        (lambda: mj.local_data_factor(log_softmax, np.arange(3, dtype=np.uint8)), "got uint8.*image / 255"),
        (lambda: mj.local_data_factor(log_softmax, LONG * np.nan), "x must be finite"),
        (lambda: mj.local_data_factor(log_softmax, np.zeros((0,), np.float32)), "not empty, got float32"),
        (lambda: mj.local_data_matvec(log_softmax, LONG, LONG[:2]), r"v must be .* shape \(3,\)"),
        (lambda: mj.local_data_trace(log_softmax, LONG, batch_size=0), "batch_size must be a whole number"),
        (lambda: mj.local_data_rank(log_softmax, LONG, rtol=1.0), "rtol must be"),
        (lambda: mj.fisher_trace(classifier.apply, {}, X), "params must hold an array"),
        (lambda: mj.fisher_trace(classifier.apply, {"step": 3}, X), r"params\['step'\] must be floating"),
        (lambda: mj.fisher_trace(lambda w, x: w * x, jnp.ones(6), X), "logits"),
        (lambda: mj.fisher_matvec(classifier.apply, PARAMS, X, {"in": X}), "v must be .* shape .* of params"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_rounding_is_not_mistaken_for_logits(dtype):
    rng = np.random.default_rng(0)
    for scale in (1, 10, 100):
        logits = jnp.asarray(scale * rng.normal(size=1000), dtype)
        mj.check_log_prob(jax.nn.log_softmax, logits)
        mj.check_log_prob(lambda z: z - jax.nn.logsumexp(z), logits.astype(jnp.float32))
