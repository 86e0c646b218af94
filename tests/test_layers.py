"""Jets through layers against composed functions, closed forms and other libraries' statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial
import scipy.special
import scipy.stats
from flax import nnx
from jax.tree_util import Partial
from networks import drawn

from manifold_jax import Axis, Grid, Manifold, jet_from_function, layer_jets, measure, measure_layers
from manifold_jax.datasets import sphere, torus, warped
from manifold_jax.experiments.layers.checks import circle_of, curve_curvatures, spacing_of
from manifold_jax.experiments.layers.latents import explained_share, mutual_information_gap
from manifold_jax.experiments.layers.quantities import (
    check_claims,
    depth_correlation,
    distances,
    measure_union,
    parts_of,
    scale_to_unit_volume,
    spectrum,
    two_nn,
)
from manifold_jax.models import BetaVAE, LeNet, Pure, chain, network_layers, pure


def affine(key, inputs, outputs, activation=None):
    weights = jax.random.normal(jax.random.key(key), (outputs, inputs)) / inputs**0.5

    def layer(weights, x):
        y = weights @ jnp.ravel(x)
        return y if activation is None else activation(y)

    return Partial(layer, weights)


def network(activation):
    return chain({"first": affine(0, 3, 8, activation), "second": affine(1, 8, 5, activation)}, (3,))


# --- jets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [2, *(pytest.param(k, marks=pytest.mark.slow) for k in (0, 1))])
@pytest.mark.parametrize("activation", [jnp.tanh, pytest.param(nnx.softplus, marks=pytest.mark.slow)])
def test_jets_pushed_through_layers_are_those_of_the_composition(x64, activation, layer):
    surface = sphere(size=(6, 5))
    layers = network(activation)
    layers = layers._replace(functions=jax.tree.map(lambda w: w.astype(jnp.float64), layers.functions))
    u = jnp.array([[1.1, 0.3], [0.7, 2.0]])
    jets = list(layer_jets(surface.embedding, layers.functions, u))[layer]

    def composed(v):
        x = surface.embedding(v)
        return (x, *layers.activations(x))[layer]

    expected = jax.jit(lambda u: jet_from_function(composed, u))(u)
    np.testing.assert_allclose(jets.tangents, expected.first, atol=1e-12)
    np.testing.assert_allclose(jets.vectors[:, 2], expected.second[:, 0, 0], atol=1e-12)
    np.testing.assert_allclose(jets.vectors[:, 3], expected.second[:, 0, 1], atol=1e-12)
    np.testing.assert_allclose(jets.vectors[:, 4], expected.second[:, 1, 1], atol=1e-12)


@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_the_dimension_is_read_off_the_number_of_vectors(d):
    jets = next(layer_jets(lambda u: jnp.concatenate([u, u**2]), [], jnp.ones((1, d))))
    assert jets.dimension == d
    assert jets.tangents.shape == (1, d, 2 * d)


@pytest.mark.slow
def test_layers_are_measured_as_by_measure(x64):
    surface = sphere(size=(9, 8))
    layers = network(nnx.softplus)
    layers = layers._replace(functions=jax.tree.map(lambda w: w.astype(jnp.float64), layers.functions))
    geometries = measure_layers(surface, layers.functions, layers.names, batch_size=16)
    assert [part.name for part in geometries] == ["input", "first", "second"]
    whole = measure(lambda u: layers.activations(surface.embedding(u))[-1], surface.grid, exact=True)
    for name in ("volume_element", "scalar_curvature", "second_form_norm", "total_volume"):
        ours, theirs = getattr(geometries[-1], name), getattr(whole, name)
        np.testing.assert_allclose(ours.value, theirs.value, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_a_sphere_blown_up_and_turned_keeps_its_closed_form(x64):
    turn = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (5, 3), jnp.float64))[0]
    geometries = measure_layers(
        sphere(size=(13, 12)), [lambda x: 3 * x, lambda x: turn @ x], ["large", "turned"]
    )
    for part, radius in zip(geometries, (1, 3, 3), strict=True):
        assert part.total_volume.value == pytest.approx(4 * np.pi * radius**2, rel=1e-3)
        inner = part.scalar_curvature.value[1:-1]
        np.testing.assert_allclose(inner, 2 / radius**2, rtol=1e-9)


@pytest.mark.slow
def test_layers_by_stencils_are_those_of_the_composition(x64):
    """Bit by bit: the window is the same, whether it goes layer by layer or through all of them."""
    surface = sphere(size=(9, 8))
    layers = network(nnx.softplus)
    layers = layers._replace(functions=jax.tree.map(lambda w: w.astype(jnp.float64), layers.functions))
    geometries = measure_layers(surface, layers.functions, layers.names, accuracy=4, batch_size=20)
    whole = measure(lambda u: layers.activations(surface.embedding(u))[-1], surface.grid, accuracy=4)
    assert geometries[-1].stencil == whole.stencil
    for name in ("volume_element", "scalar_curvature", "second_form_norm", "total_volume"):
        ours, theirs = getattr(geometries[-1], name), getattr(whole, name)
        np.testing.assert_allclose(ours.value, theirs.value, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(ours.error, theirs.error, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(geometries[-1].axis_sensitivity, whole.axis_sensitivity, rtol=1e-6)


@pytest.mark.slow
def test_stencils_on_layers_converge_to_exact_jets_at_their_order(x64):
    layers = network(nnx.softplus)
    layers = layers._replace(functions=jax.tree.map(lambda w: w.astype(jnp.float64), layers.functions))

    def errors(samples):
        surface = warped(torus(size=(samples, samples)))
        exact = measure_layers(surface, layers.functions)
        geometries = measure_layers(surface, layers.functions, accuracy=4)
        return [
            float(jnp.max(jnp.abs(a.second_form_norm.value - b.second_form_norm.value)))
            for a, b in zip(exact, geometries, strict=True)
        ]

    orders = np.log2(np.array(errors(32)) / errors(64))
    assert (orders > 3.5).all(), orders


@pytest.mark.slow
def test_a_batch_as_large_as_the_grid_gives_the_same():
    surface = sphere(size=(5, 8))
    layers = network(jnp.tanh)
    one = measure_layers(surface, layers.functions, layers.names, batch_size=7)
    other = measure_layers(surface, layers.functions, layers.names, batch_size=40)
    np.testing.assert_allclose(one[-1].volume_element.value, other[-1].volume_element.value, rtol=1e-5)


# --- layers of networks ------------------------------------------------------------------------------------


def small_vae(**options):
    return drawn(BetaVAE, size=16, width=4, hidden=6, latent=3, **options)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["B", "H"])
def test_the_layers_of_a_vae_end_in_its_output(variant):
    module = small_vae(variant=variant)
    apply, params = pure(module)
    layers = network_layers(Pure(apply, params))
    image = jax.random.uniform(jax.random.key(1), (16, 16))
    activations = dict(zip(layers.names, jax.jit(layers.activations)(image), strict=True))
    np.testing.assert_allclose(activations["image"], jax.jit(apply)(params, image), atol=1e-6)
    mean, _ = jax.jit(apply.of("encode"))(params, image)
    np.testing.assert_allclose(activations["latent"], mean, atol=1e-6)
    np.testing.assert_allclose(activations["logits"], jax.jit(apply.of("decode"))(params, mean), atol=1e-6)
    channels = {"B": 4, "H": 8}[variant]
    assert activations["conv 4"].shape == (1, 1, channels)
    assert activations["transposed 1"].shape == (2, 2, channels)


@pytest.mark.slow
def test_the_layers_of_lenet_and_of_a_sequential_network():
    layers = network_layers(pure(drawn(LeNet, classes=3, size=8)))
    assert layers.names[-1] == "log-probabilities"
    probabilities = jnp.exp(layers.activations(jnp.ones((8, 8)) / 2)[-1])
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-5)
    module = nnx.Sequential(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), jnp.tanh, nnx.Linear(4, 2, rngs=nnx.Rngs(1)))
    layers = network_layers(pure(module))
    assert layers.names == ("1 linear", "2 tanh", "3 linear")
    np.testing.assert_allclose(layers.activations(jnp.ones(3))[-1], module(jnp.ones((1, 3)))[0], atol=1e-6)


def test_other_parameters_compile_nothing_anew():
    traces = []

    @jax.jit
    def last(layers, x):
        traces.append(1)
        return layers(x)

    for seed in (0, 1):
        module = drawn(BetaVAE, seed, size=16, width=2, hidden=3, latent=2)
        last(network_layers(pure(module)).functions[0], jnp.ones((16, 16)))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: chain({}, (3,)), "at least one layer"),
        (
            lambda: chain({"a": lambda x: x[:2], "b": lambda x: jnp.ones((4, 3)) @ x}, (3,)),
            "layer 'b' does not",
        ),
        (lambda: chain({"a": lambda x: (x, x)}, (3,)), "one floating-point array"),
        (lambda: measure_layers(sphere(size=(5, 4)), [lambda x: x], ["a", "b"]), "one for each layer"),
        (lambda: measure_layers(sphere(size=(5, 4)), [lambda x: jnp.ones((2, 2)) @ x], ["a"]), "layer 'a'"),
        (lambda: measure_layers(sphere(size=(5, 4)), [], batch_size=0), "batch_size must be"),
        (lambda: measure_layers(sphere(size=(5, 4)), [], accuracy=3), "accuracy must be"),
        (lambda: network_layers(pure(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))), "must name its layers"),
        (lambda: small_vae(variant="C"), "variant must be one of 'B', 'H'"),
        (lambda: BetaVAE(size=40, rngs=nnx.Rngs(0)), "multiple of 16"),
        (lambda: BetaVAE(latent=0, rngs=nnx.Rngs(0)), "latent must be a whole number"),
    ],
)
def test_what_makes_no_sense_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# --- numbers about layers ----------------------------------------------------------------------------------


def union():
    grid = Grid((Axis("angle", 0.0, 2 * np.pi, 24, periodic=True),))

    def circle(centre):
        return Manifold(
            "circle", lambda u: jnp.stack([jnp.cos(u[0]) + centre, jnp.sin(u[0]), 0 * u[0]]), grid
        )

    return [circle(0.0), circle(3.0)]


@pytest.mark.slow
def test_a_union_of_circles_in_closed_form():
    quantities = measure_union(union(), chain({"three times": lambda x: 3 * x}, (3,)))
    np.testing.assert_allclose(quantities.volume, [4 * np.pi, 12 * np.pi], rtol=1e-5)
    np.testing.assert_allclose(quantities.second_form_norm, [1, 1 / 3], rtol=1e-5)
    np.testing.assert_allclose(quantities.local_reach, [1, 3], rtol=1e-4)
    np.testing.assert_allclose(quantities.reach, [0.5, 1.5], rtol=1e-4)  # half the gap
    np.testing.assert_allclose(quantities.gap, [1, 3], rtol=1e-4)
    np.testing.assert_allclose(quantities.dimension, 1, rtol=1e-6)
    scaled = scale_to_unit_volume(quantities, 1)
    for name in ("volume", "second_form_norm", "scalar_curvature", "reach", "gap", "separation"):
        before, after = getattr(scaled, name)
        assert after == pytest.approx(before, rel=1e-4, abs=1e-6), name
    assert scaled.second_form_norm[0] == pytest.approx(4 * np.pi, rel=1e-5)


@pytest.mark.slow
def test_spheres_scaled_to_unit_volume():
    raw = measure_union([sphere(size=(13, 12))], chain({"large": lambda x: 5 * x}, (3,)))
    quantities = scale_to_unit_volume(raw, 2)
    np.testing.assert_allclose(quantities.scalar_curvature, 2 * 4 * np.pi, rtol=5e-3)
    np.testing.assert_allclose(quantities.mean_curvature, (4 * np.pi) ** 0.5, rtol=5e-3)


@pytest.mark.slow
def test_layers_without_room_are_said_to_be_undefined():
    sizes = {"constant": lambda x: 0 * x + 1, "again": lambda x: x[:1]}
    quantities = measure_union([sphere(size=(9, 8)), sphere(size=(9, 8))], chain(sizes, (3,)))
    assert np.isfinite(quantities.second_form_norm[0])
    assert np.isnan(quantities.separation[1])
    assert np.isnan(quantities.reach[1])
    for name in ("volume", "second_form_norm", "local_reach", "reach"):
        assert np.isnan(getattr(quantities, name)[2]), name
    assert quantities.rank[1] == 0


def test_distances_between_classes():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(9, 4)), rng.normal(size=(7, 4)) + 2
    gap, ratio = distances([a, b])
    apart = scipy.spatial.distance.cdist(a, b)
    within = np.mean([scipy.spatial.distance.pdist(part).mean() for part in (a, b)])
    assert gap == pytest.approx(apart.min())
    assert ratio == pytest.approx(apart.mean() / within)
    assert np.isnan(distances([a])).all()


def test_the_spectrum_of_the_metric():
    tangents = np.array([[[1.0, 0, 0], [0, 2.0, 0]], [[1.0, 0, 0], [1.0, 1e-4, 0]]])
    dimension, rank = spectrum(tangents, np.array([2.0, 1.0]))
    assert dimension == pytest.approx((2 + 1) / 2, rel=1e-6)
    assert rank == pytest.approx(1.5)


def test_samples_of_a_plane_suggest_two_dimensions():
    plane = np.random.default_rng(0).uniform(size=(800, 2)) @ np.random.default_rng(1).normal(size=(2, 7))
    assert two_nn([plane, 3 * plane]) == pytest.approx(2, abs=0.25)
    assert np.isnan(two_nn([np.ones((30, 3))]))


def test_rank_correlations_are_spearmans():
    values = np.array([1.0, 3.0, 3.0, 2.0, 8.0, 3.0])
    expected = scipy.stats.spearmanr(np.arange(6), values).statistic
    assert depth_correlation(values) == pytest.approx(expected)
    assert depth_correlation(np.array([1.0, np.nan, 2.0, 3.0])) == pytest.approx(1)
    assert depth_correlation(np.array([3.0, 2.0, 1.0, np.inf])) == pytest.approx(0.2)
    assert np.isnan(depth_correlation(np.ones(5)))


def test_a_claim_counts_the_runs_in_which_it_holds():
    layers = chain({name: lambda x: x for name in ("a", "latent", "b")}, (3,))
    flat = measure_union(union(), layers)
    values = np.array([[1.0, 2, 3, 4], [4, 3, 2, 1], [1, 2, 4, 3]])
    rising = flat._replace(second_form_norm=values, reach=1 / values)
    names = ("input", *layers.names)
    assert set(parts_of(names)) == {"all", "encoder", "decoder"}
    rows = {(row["claim"], row["layers"]): row for row in check_claims(rising, parts_of(names), "now")}
    assert rows["curvature grows with depth, now", "all"]["holds in"] == 2
    assert rows["reach falls with depth, now", "all"]["holds in"] == 2


def test_the_mean_image_explains_nothing_and_the_images_all():
    images = np.random.default_rng(0).uniform(size=(50, 4, 4))
    mean = np.broadcast_to(images.mean(0), images.shape)
    for guess, share in ((mean, 0), (images, 1)):
        cross = -scipy.special.xlogy(images, guess) - scipy.special.xlog1py(1 - images, -guess)
        assert explained_share(cross.sum((1, 2)).mean(), images, "bernoulli") == pytest.approx(
            share, abs=1e-9
        )
        squares = np.square(images - guess).sum((1, 2)).mean()
        assert explained_share(squares, images, "gaussian") == pytest.approx(share, abs=1e-12)


def test_the_mutual_information_gap():
    mesh = np.stack(np.meshgrid(np.arange(5), np.arange(6), np.arange(4)), axis=-1).reshape(-1, 3)
    gap, shared = mutual_information_gap(mesh[:, [2, 0, 1]].astype(float), mesh)
    assert gap == pytest.approx(1)
    np.testing.assert_allclose(shared.argmax(0), [1, 2, 0])
    doubled = np.concatenate([mesh, mesh], axis=1).astype(float)
    assert mutual_information_gap(doubled, mesh)[0] == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="as many rows"):
        mutual_information_gap(mesh[:4].astype(float), mesh)


@pytest.mark.slow
def test_kinks_make_the_largest_curvature_grow_with_the_samples():
    chart = union()[0]
    samples = (128, 256, 512, 1024)

    def exponent(activation):
        layers = chain({"layer": affine(0, 3, 40, activation)}, (3,))  # 80 kinks
        return spacing_of(samples, [curve_curvatures(chart, layers, n) for n in samples]).exponent()

    assert circle_of(chart, 64).grid.shape == (64,)
    straight, kinked = exponent(nnx.relu)
    assert straight == pytest.approx(0, abs=1e-3)
    assert kinked == pytest.approx(1, abs=0.2)
    assert exponent(lambda y: nnx.softplus(y))[1] == pytest.approx(0, abs=0.05)
