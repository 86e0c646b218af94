"""Curvature functions against the independent NumPy oracle, closed forms, symmetries and bounds."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from manifold_jax import (
    Jet,
    JetGram,
    christoffel,
    datasets,
    gram,
    gram_from_function,
    mean_curvature,
    metric,
    normal_curvature_bounds,
    ricci,
    riemann,
    scalar_curvature,
    second_form_norm,
    second_fundamental_form,
    sectional_curvature,
    volume_element,
)

COUNT = 64
DIMENSIONS = (1, 2, 3, 4, 5)
FOUR, FIVE = (pytest.param(d, marks=pytest.mark.slow) for d in (4, 5))


@jax.jit
def everything(g):
    lower, upper = normal_curvature_bounds(g)
    return {
        "metric": metric(g),
        "volume_element": volume_element(g),
        "christoffel": christoffel(g),
        "riemann": riemann(g),
        "ricci": ricci(g),
        "scalar_curvature": scalar_curvature(g),
        "mean_curvature": mean_curvature(g),
        "second_form_norm": second_form_norm(g),
        "lower": lower,
        "upper": upper,
    }


@cache
def random_case(d, features, dtype=np.float64):
    """Jets, and their quantities by the package."""
    jets = oracle.random_jets(d, features, COUNT, seed=10 * d + features)
    with jax.enable_x64(dtype == np.float64):
        measured = everything(gram(Jet(*(jnp.asarray(x, dtype) for x in jets))))
        return jets, {name: np.asarray(value) for name, value in measured.items()}


ORACLE = (
    "metric",
    "volume_element",
    "christoffel",
    "riemann",
    "ricci",
    "scalar_curvature",
    "mean_curvature",
    "second_form_norm",
)
TOLERANCE = {np.float64: 1e-11, np.float32: 1e-3}


sectional = jax.jit(sectional_curvature)


def scale_of(value):
    return np.abs(value).reshape(COUNT, -1).max(axis=1)


@pytest.mark.parametrize(
    ("d", "dtype"),
    [
        (3, np.float64),
        pytest.param(2, np.float32, marks=pytest.mark.slow),
        *(pytest.param(d, np.float64, marks=pytest.mark.slow) for d in DIMENSIONS if d != 3),
        pytest.param(4, np.float32, marks=pytest.mark.slow),
    ],
)
@pytest.mark.thorough
def test_random_jets_equal_the_oracle(d, dtype):
    # Twelve features keep the metric well conditioned, so that a tolerance means the same everywhere.
    jets, measured = random_case(d, 12, dtype)
    expected = oracle.geometry(oracle.inner(jets))
    size = expected["second_form_norm"]
    for name in ORACLE:
        assert measured[name].dtype == dtype
        error = scale_of(measured[name] - expected[name])
        scale = scale_of(expected[name])
        if name == "scalar_curvature":
            scale = size**2
        if name == "mean_curvature":
            scale = size
        if d == 1 and name in ("riemann", "ricci"):
            scale = size**2 * expected["metric"][:, 0, 0] ** 2
        assert (error <= TOLERANCE[dtype] * scale).all(), (name, (error / scale).max())


@pytest.mark.parametrize("d", [2, 3, *(pytest.param(d, marks=pytest.mark.slow) for d in (1, 4, 5))])
def test_hypersurface_jets_equal_the_oracle(d):
    # With f = d + 1 some metrics are nearly degenerate: errors grow with their condition number.
    jets, measured = random_case(d, d + 1)
    grams = oracle.inner(jets)
    expected = oracle.geometry(grams)
    condition = np.linalg.cond(grams[0])
    error = np.abs(measured["scalar_curvature"] - expected["scalar_curvature"])
    assert (error <= 1e-13 * condition**2 * expected["second_form_norm"] ** 2).all()
    np.testing.assert_allclose(measured["volume_element"], expected["volume_element"], rtol=1e-11)


@pytest.mark.parametrize("d", [2, *(pytest.param(d, marks=pytest.mark.slow) for d in (3, 4, 5))])
def test_riemann_symmetries_and_first_bianchi(d):
    r = random_case(d, 12)[1]["riemann"]
    atol = 1e-12 * np.abs(r).max()
    assert np.abs(r).max() > 1
    np.testing.assert_allclose(r, -np.swapaxes(r, 1, 2), atol=atol)
    np.testing.assert_allclose(r, -np.swapaxes(r, 3, 4), atol=atol)
    np.testing.assert_allclose(r, np.einsum("nijkl->nklij", r), atol=atol)
    cyclic = r + np.einsum("nijkl->niklj", r) + np.einsum("nijkl->niljk", r)
    np.testing.assert_allclose(cyclic, 0.0, atol=atol)


@pytest.mark.parametrize("d", [1, 2, 3, FOUR, FIVE])
def test_scalar_curvature_is_the_trace_of_ricci_and_the_gauss_difference(d):
    _, m = random_case(d, 12)
    inverse = np.linalg.inv(m["metric"])
    trace = np.einsum("nij,nij->n", inverse, m["ricci"])
    gauss = d**2 * m["mean_curvature"] ** 2 - m["second_form_norm"] ** 2
    scale = m["second_form_norm"] ** 2
    assert (np.abs(m["scalar_curvature"] - trace) <= 1e-11 * scale).all()
    assert (np.abs(m["scalar_curvature"] - gauss) <= 1e-12 * scale).all()


@pytest.mark.parametrize("d", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_second_fundamental_form_is_the_normal_part(d):
    jets = oracle.random_jets(d, 9, COUNT, seed=d)
    with jax.enable_x64(True):
        ii = np.asarray(jax.jit(second_fundamental_form)(Jet(*map(jnp.asarray, jets))))
    expected = oracle.second_fundamental_form(jets)
    np.testing.assert_allclose(ii, expected, atol=1e-10 * np.abs(expected).max())
    tangential = np.einsum("nijf,nkf->nijk", ii, jets[0])
    np.testing.assert_allclose(tangential, 0.0, atol=1e-10 * np.abs(expected).max())


@pytest.mark.slow
def test_curvature_equals_the_derivatives_of_the_metric(x64):
    """Theorema egregium: R_ijkl from first and second derivatives of g alone, sign included."""
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(7, 3)))

    def embedding(u):
        return jnp.concatenate([u, 0.4 * jnp.sin(matrix @ u)])

    def g(u):
        jacobian = jax.jacfwd(embedding)(u)
        return jacobian.T @ jacobian

    def symbols(u):  # Gamma^m_ij
        dg = jax.jacfwd(g)(u)  # [a, b, c] = d_c g_ab
        first = (jnp.einsum("jki->ijk", dg) + jnp.einsum("ikj->ijk", dg) - dg) / 2
        return jnp.einsum("ijk,km->mij", first, jnp.linalg.inv(g(u)))

    @jax.jit
    def intrinsic(u):
        s, ds = symbols(u), jax.jacfwd(symbols)(u)  # ds[m, i, j, k] = d_k Gamma^m_ij
        mixed = jnp.einsum("mljk->mjkl", ds) - jnp.einsum("mkjl->mjkl", ds)
        mixed += jnp.einsum("mkp,plj->mjkl", s, s) - jnp.einsum("mlp,pkj->mjkl", s, s)
        return jnp.einsum("im,mjkl->ijkl", g(u), mixed), s

    u = jnp.asarray([0.3, -0.2, 0.5])
    expected, second_kind = intrinsic(u)
    gram_u = gram_from_function(embedding, u)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(np.asarray(riemann(gram_u)), np.asarray(expected), atol=1e-12)
    upper_last = np.einsum("mij->ijm", np.asarray(second_kind))
    np.testing.assert_allclose(np.asarray(christoffel(gram_u)), upper_last, atol=1e-13)
    np.testing.assert_allclose(
        np.asarray(christoffel(gram_u, kind=1)), np.asarray(christoffel(gram_u) @ g(u)), atol=1e-13
    )


SURFACES = {
    "sphere": lambda: datasets.sphere(2, 1.3),
    "3-sphere": lambda: datasets.sphere(3, 0.7),
    "ellipsoid": lambda: datasets.ellipsoid((1.6, 1.2, 0.9)),
    "one sheet": lambda: datasets.hyperboloid(1, (1.3, 0.9, 1.1)),
    "two sheets": lambda: datasets.hyperboloid(2, (1.3, 0.9, 1.1)),
    "veronese": lambda: datasets.veronese(1.3),
    "helix": lambda: datasets.helix(1.3, 2.0, 1.5),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in ("3-sphere", "one sheet") else n for n in SURFACES],
)
def test_closed_forms(name, x64):
    manifold = SURFACES[name]()
    shares = np.random.default_rng(1).uniform(0.15, 0.85, (COUNT, manifold.grid.ndim))
    low = np.array([axis.start for axis in manifold.grid.axes])
    high = np.array([axis.stop for axis in manifold.grid.axes])
    u = jnp.asarray(low + shares * (high - low))
    measured = everything(jax.jit(lambda x: gram_from_function(manifold.embedding, x))(u))
    measured |= {"normal_curvature": measured["lower"]}
    known = jax.jit(lambda x: {k: jax.vmap(v)(x) for k, v in manifold.known.items() if callable(v)})(u)
    names = set(known) & set(measured)
    assert {"scalar_curvature", "mean_curvature", "second_form_norm", "normal_curvature"} <= names
    size = np.asarray(known["second_form_norm"])
    for name in names:
        scale = size**2 if name == "scalar_curvature" else np.maximum(size, np.abs(known[name]).max())
        error = np.abs(np.asarray(measured[name]) - np.asarray(known[name])).reshape(len(u), -1).max(axis=1)
        assert (error <= 1e-10 * scale).all(), (name, error.max())


@pytest.mark.parametrize("d", [3, *(pytest.param(d, marks=pytest.mark.slow) for d in (2, 4))])
def test_sectional_curvature_of_the_sphere(d, x64):
    sphere = datasets.sphere(d, 1.7)
    rng = np.random.default_rng(d)
    u = jnp.asarray(rng.uniform(0.4, 1.4, (COUNT, d)))
    v, w = rng.normal(size=(2, COUNT, d))
    gram_u = jax.jit(lambda x: gram_from_function(sphere.embedding, x))(u)
    measured = sectional(gram_u, v, w)
    np.testing.assert_allclose(np.asarray(measured), 1 / 1.7**2, rtol=1e-10)


def test_sectional_curvature_equals_the_oracle_and_depends_on_the_plane_only(x64):
    jets = oracle.random_jets(3, 8, COUNT)
    v, w = np.random.default_rng(2).normal(size=(2, COUNT, 3))
    g = gram(Jet(*map(jnp.asarray, jets)))
    measured = np.asarray(sectional(g, v, w))
    np.testing.assert_allclose(measured, oracle.sectional(oracle.inner(jets), v, w), rtol=1e-8)
    np.testing.assert_allclose(np.asarray(sectional(g, 2 * v - w, v + 3 * w)), measured, rtol=1e-8)


def test_sectional_curvature_of_dependent_vectors_is_nan(x64):
    g = gram(Jet(*map(jnp.asarray, oracle.random_jets(3, 8, COUNT))))
    v = np.random.default_rng(2).normal(size=(COUNT, 3))
    for w in (v, -2.5 * v, 0 * v):
        assert np.isnan(np.asarray(sectional(g, v, w))).all()


# --- normal curvature ------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("codimension", [1, 2, 12])
def test_normal_curvature_is_exact_for_curves_and_surfaces(d, codimension):
    jets, measured = random_case(d, 12 if codimension == 12 else d + codimension)
    brute = oracle.largest_normal_curvature(jets)
    # The grid of 20001 angles misses a maximum by a share of (angle/2)^2 of it at most.
    np.testing.assert_allclose(measured["lower"], brute, rtol=1e-6)
    assert (measured["lower"] >= brute * (1 - 1e-11)).all()
    np.testing.assert_array_equal(measured["lower"], measured["upper"])


@pytest.mark.parametrize("features", [2, 4, 12])
@pytest.mark.parametrize("d", [3, FOUR, FIVE])
def test_bounds_of_the_normal_curvature(d, features):
    jets, measured = random_case(d, features if features == 12 else d + features // 2)
    brute = oracle.largest_normal_curvature(jets)
    lower, upper = measured["lower"], measured["upper"]
    attained = lower >= brute * (1 - 1e-3)
    assert attained.mean() >= 0.99, (lower / brute)[~attained]
    assert (brute <= upper * (1 + 1e-9)).all()
    assert (lower <= upper * (1 + 1e-12)).all()
    if features == 2:  # hypersurface: f = d + 1
        np.testing.assert_allclose(upper, lower, rtol=1e-7)


def test_lower_bound_is_attained_by_a_direction():
    # Nothing above the true maximum: compare with a brute force that has converged.
    jets, measured = random_case(3, 4)
    ii = oracle.orthonormal_second_form(jets)[..., :]
    normal = np.linalg.svd(ii.reshape(COUNT, 9, 4))[2][:, 0]
    principal = np.linalg.eigvalsh(np.einsum("nabf,nf->nab", ii, normal))
    np.testing.assert_allclose(measured["lower"], np.abs(principal).max(axis=1), rtol=1e-8)


# --- degenerate and broken input -------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 3, FIVE])
@pytest.mark.parametrize("kind", ["zero", "parallel", "constant"])
def test_a_degenerate_metric_gives_no_volume_and_nan_curvature(d, kind, x64):
    first, second = oracle.random_jets(d, 12, COUNT, seed=3)
    if kind == "parallel" and d > 1:
        first[0, -1] = first[0, 0]
    else:
        first[0, -1] = 0.0
    if kind == "constant":
        first[0], second[0] = 0.0, 0.0
    measured = everything(gram(Jet(jnp.asarray(first), jnp.asarray(second))))
    assert float(measured["volume_element"][0]) == 0.0
    for name in ("christoffel", "riemann", "ricci", "scalar_curvature", "mean_curvature", "lower", "upper"):
        assert np.isnan(np.asarray(measured[name][0])).all(), name
        assert np.isfinite(np.asarray(measured[name][1:])).all(), name


@pytest.mark.parametrize("d", [1, 2, 3, FIVE])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_never_become_numbers(d, bad, x64):
    first, second = oracle.random_jets(d, 12, COUNT, seed=4)
    first[0, 0, 0] = bad
    second[1, 0, 0, 0] = bad
    measured = everything(gram(Jet(jnp.asarray(first), jnp.asarray(second))))
    for name in ("scalar_curvature", "mean_curvature", "second_form_norm", "lower", "upper"):
        values = np.asarray(measured[name])
        assert not np.isfinite(values[:2]).any(), (name, values[:2])
        assert np.isfinite(values[2:]).all(), name
    assert not np.isfinite(float(measured["volume_element"][0]))


def test_fewer_features_than_dimensions_is_degenerate(x64):
    u = jnp.asarray(np.random.default_rng(6).uniform(0.2, 2, (COUNT, 2)))
    measured = everything(jax.jit(lambda x: gram_from_function(lambda y: jnp.sum(y**2), x))(u))
    np.testing.assert_array_equal(np.asarray(measured["volume_element"]), 0.0)
    assert np.isnan(np.asarray(measured["scalar_curvature"])).all()


@pytest.mark.slow
def test_a_flat_manifold_has_zero_curvature_and_derivatives(x64):
    matrix = jnp.asarray(np.random.default_rng(5).normal(size=(6, 2)))

    @jax.jit
    def sizes(m):
        g = gram_from_function(lambda u: m @ u, jnp.ones(2))
        values = jnp.stack([scalar_curvature(g), mean_curvature(g), second_form_norm(g)])
        return values, values

    slopes, values = jax.jacrev(sizes, has_aux=True)(matrix)
    np.testing.assert_array_equal(np.asarray(values), 0.0)
    np.testing.assert_array_equal(np.asarray(slopes), 0.0)


def test_batch_shapes():
    # eval_shape: nothing is compiled.
    vectors = jnp.ones(2)
    for batch in ((), (3, 4)):
        g = JetGram(*(jnp.zeros(batch + (2,) * k) for k in (2, 3, 4)))
        shape = jax.eval_shape(lambda g: (everything(g), sectional_curvature(g, vectors, vectors)), g)
        assert shape[0]["scalar_curvature"].shape == shape[1].shape == batch
        assert shape[0]["riemann"].shape == (*batch, 2, 2, 2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("count", [12, pytest.param(17, marks=pytest.mark.slow)])
def test_many_points_are_taken_in_batches(count, x64, monkeypatch):
    # 12 points are 3 batches of 4; 17 leaves a remainder.
    grams = gram(Jet(*(jnp.asarray(x)[:count] for x in oracle.random_jets(2, 6, COUNT, seed=3))))

    def total(g):
        return jnp.sum(scalar_curvature(g) * volume_element(g)) + jnp.sum(normal_curvature_bounds(g)[1])

    def quantities(g):
        inside = jax.vmap(scalar_curvature)(jax.tree.map(lambda x: x[:, None], g))[:, 0]
        return scalar_curvature(g), riemann(g), normal_curvature_bounds(g), inside, jax.grad(total)(g)

    whole = jax.jit(quantities)(grams)
    monkeypatch.setattr("manifold_jax.geometry.tensors.BATCH", 5)
    batched = jax.jit(lambda g: quantities(g))(grams)
    for a, b in zip(jax.tree.leaves(batched), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12 * np.abs(b).max())
