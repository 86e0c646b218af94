"""Networks against NumPy and jax.lax; training against a hand-written loop; checkpoints bit by bit."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.tree_util import Partial
from networks import drawn
from scipy.signal import correlate

from manifold_jax import check_log_prob, local_data_trace
from manifold_jax.models import (
    VGG,
    VGG11,
    LeNet,
    checkpoint_steps,
    classification_loss,
    convolve,
    labelled,
    load_params,
    max_pool,
    network_layers,
    pure,
    save_checkpoint,
    torch_initial,
    train,
)


def library(x, kernel, strides, padding):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=numbers, precision="highest"
    )


def ours(x, kernel, strides, padding):
    return convolve(x, kernel, strides, padding, precision="highest")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "kernel", "strides", "padding"),
    [
        ((7, 6), (3, 3), (1, 1), "VALID"),
        ((7, 6), (3, 3), (1, 1), "SAME"),
        ((8, 9), (4, 4), (2, 2), "SAME"),
        ((8, 9), (4, 2), (2, 1), ((1, 1), (0, 2))),
    ],
)
def test_convolution_and_its_derivatives_are_those_of_the_library(size, kernel, strides, padding, x64):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, *size, 3))
    w = jax.random.normal(keys[1], (*kernel, 3, 5))
    expected, pull_back = jax.vjp(lambda x, w: library(x, w, strides, padding), x, w)
    values, our_pull_back = jax.vjp(lambda x, w: ours(x, w, strides, padding), x, w)
    np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-12)
    cotangent = jax.random.normal(keys[2], expected.shape)
    for a, b in zip(our_pull_back(cotangent), pull_back(cotangent), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_grouped_and_dilated_convolutions_are_left_to_the_library():
    x, w = (
        jax.random.normal(jax.random.key(0), (1, 6, 6, 4)),
        jax.random.normal(jax.random.key(1), (3, 3, 4, 4)),
    )
    grouped = nnx.Conv(4, 4, (3, 3), feature_group_count=2, conv_general_dilated=convolve, rngs=nnx.Rngs(0))
    plain = nnx.Conv(4, 4, (3, 3), feature_group_count=2, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(grouped(x), plain(x))
    numbers = ("NHWC", "HWIO", "NHWC")
    options = {"rhs_dilation": (2, 2), "dimension_numbers": numbers}
    expected = jax.lax.conv_general_dilated(x, w, (1, 1), "VALID", **options)
    np.testing.assert_array_equal(convolve(x, w, (1, 1), "VALID", rhs_dilation=(2, 2)), expected)


@pytest.mark.slow
def test_pool_is_the_maximum_and_equal_values_count_for_the_first():
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 3))
    np.testing.assert_array_equal(max_pool(x), nnx.max_pool(x, (2, 2), (2, 2)))
    gradient = jax.grad(lambda x: jnp.sum(max_pool(x)))(jnp.ones((1, 4, 4, 1)))[0, ..., 0]
    np.testing.assert_array_equal(gradient, np.tile([[1.0, 0.0], [0.0, 0.0]], (2, 2)))
    assert np.isnan(max_pool(x.at[0, 0, 1, 0].set(jnp.nan))[0, 0, 0, 0])


def numpy_lenet(params, image):
    """Forward pass by SciPy's correlation, float64."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def layer(x, w):
        kernel, bias = w["kernel"], w["bias"]
        maps = [
            sum(correlate(x[..., i], kernel[..., i, o], "valid") for i in range(x.shape[-1])) + bias[o]
            for o in range(kernel.shape[-1])
        ]
        return np.maximum(np.stack(maps, -1), 0)

    x = layer(layer((image[..., None] - 0.1307) / 0.3081, p["first"]), p["second"])
    side = x.shape[0] // 2
    x = x[: 2 * side, : 2 * side].reshape(side, 2, side, 2, -1).max((1, 3)).ravel()
    x = np.maximum(x @ p["hidden"]["kernel"] + p["hidden"]["bias"], 0)
    logits = x @ p["output"]["kernel"] + p["output"]["bias"]
    return logits - np.log(np.sum(np.exp(logits - logits.max()))) - logits.max()


@pytest.mark.slow
def test_lenet_is_the_network_of_the_paper():
    apply, params = pure(drawn(LeNet, size=12, classes=7))
    image = np.random.default_rng(0).uniform(size=(12, 12)).astype(np.float32)
    np.testing.assert_allclose(apply(params, image), numpy_lenet(params, image), atol=2e-6)
    shapes = jax.eval_shape(lambda: pure(LeNet(rngs=nnx.Rngs(0))).params)
    kernels = {name: layer["kernel"].shape for name, layer in shapes.items()}
    assert kernels == {
        "first": (3, 3, 1, 32),
        "second": (3, 3, 32, 64),
        "hidden": (9216, 128),
        "output": (128, 10),
    }


@pytest.mark.slow
def test_initial_weights_as_in_torch_are_uniform():
    params = torch_initial(pure(drawn(LeNet, size=12)).params, jax.random.key(0))
    for name, fan_in in (("first", 9), ("second", 288), ("hidden", 1024), ("output", 128)):
        for leaf in params[name].values():
            assert float(jnp.abs(leaf).max()) <= fan_in**-0.5
    kernel = np.asarray(params["hidden"]["kernel"])
    np.testing.assert_allclose(kernel.std(), (3 * 1024) ** -0.5, rtol=0.01)
    assert abs(kernel.mean()) < 1e-3


@pytest.mark.slow
def test_vgg11_has_the_channels_of_configuration_a():
    apply, params = pure(drawn(VGG11, width=2))
    kernels = [params["convolutions"][k]["kernel"].shape for k in range(8)]
    assert [k[3] for k in kernels] == [2 * w for w in (1, 2, 4, 4, 8, 8, 8, 8)]
    assert {k[:2] for k in kernels} == {(3, 3)}
    assert params["output"]["kernel"].shape == (16, 10)
    check_log_prob(Partial(apply, params), jnp.full((32, 32, 3), 0.5))


def layer_counts(depth):
    """Convolutions before each max pool in table 1 of Simonyan & Zisserman."""
    return {11: [1, 1, 2, 2, 2], 13: [2] * 5, 16: [2, 2, 3, 3, 3], 19: [2, 2, 4, 4, 4]}[depth]


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(("depth", "millions"), [(11, 133), (13, 133), (16, 138), (19, 144)])
def test_vgg_has_the_parameters_of_the_paper(depth, millions, batch_norm):
    options = {"depth": np.int64(depth), "size": 224, "hidden": (4096, 4096), "classes": 1000}
    build = lambda: VGG(**options, batch_norm=batch_norm, rngs=nnx.Rngs(0))  # noqa: E731
    params = nnx.state(nnx.eval_shape(build), nnx.Param)
    channels = [3]
    for width, count in zip((64, 128, 256, 512, 512), layer_counts(depth), strict=True):
        channels += [width] * count
    convolutions = sum(9 * a * b + b for a, b in itertools.pairwise(channels))
    linear = sum(a * b + b for a, b in itertools.pairwise([512 * 49, 4096, 4096, 1000]))
    counted = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert counted == convolutions + linear + 2 * sum(channels[1:]) * batch_norm
    assert round(counted / 1e6) == millions


def small_vgg(**options):
    options = {"depth": 11, "batch_norm": True, "width": 1, "hidden": (5,)} | options
    network = drawn(VGG, **options)
    network.norms[0].mean[...] = jnp.full(network.norms[0].mean[...].shape, 0.3)
    network.eval()
    return network


@pytest.mark.slow
def test_vgg_is_a_function_of_one_image_and_its_layers_chain():
    module = small_vgg()
    network, images = pure(module), jax.random.uniform(jax.random.key(0), (2, 32, 32, 3))
    check_log_prob(network, images[0])
    np.testing.assert_allclose(jax.jit(jax.vmap(network))(images), jax.jit(module)(images), atol=1e-6)
    layers = network_layers(network)
    assert layers.names[-4:] == ("pool 5", "hidden 1", "logits", "log-probabilities")
    activations = jax.jit(layers.activations)(images[0])
    np.testing.assert_allclose(activations[-1], jax.jit(network.apply)(network.params, images[0]), atol=1e-6)
    features = jax.jit(network.apply.of("features"))(network.params, images[0])
    np.testing.assert_allclose(features, activations[-3], atol=1e-6)


class Normalised(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.linear, self.norm = nnx.Linear(3, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
        self.drop, self.calls = nnx.Dropout(0.5, rngs=rngs), nnx.Variable(jnp.array(3))

    def __call__(self, x):
        return nnx.log_softmax(self.drop(self.norm(self.linear(x))))


def test_statistics_are_data_beside_the_parameters():
    module, x = Normalised(), jnp.array([0.3, -1.0, 0.5], jnp.float32)
    module(jax.random.normal(jax.random.key(1), (16, 3), jnp.float32))  # in training: statistics move
    with pytest.raises(ValueError, match=r"is in training, .* is False: call module.eval\(\) first"):
        pure(module)
    module.eval()
    traces = []

    @jax.jit
    def trace(network, x):
        traces.append(1)
        return local_data_trace(network, x)

    values = []
    for shift in (0.0, 0.5):
        module.norm.var[...] = module.norm.var[...] + shift
        network = pure(module)
        w, statistics = network.params["linear"], (module.norm.mean[...], module.norm.var[...])
        logits = (x @ w["kernel"] + w["bias"] - statistics[0]) / jnp.sqrt(statistics[1] + 1e-5)
        np.testing.assert_allclose(network(x), jax.nn.log_softmax(logits), atol=1e-6)
        values.append(float(trace(network, x)))
        assert values[-1] == pytest.approx(float(trace(Partial(*network), x)), rel=1e-5)
    assert network.params.keys() == {"linear", "norm"}
    assert network.params["norm"].keys() == {"scale", "bias"}
    assert len(set(values)) == 2
    assert len(traces) == 1 + 2  # once for networks as data, and for every state that a Partial holds
    same = pure(module).apply
    assert same == network.apply
    assert hash(same) == hash(network.apply)


def test_initial_weights_as_in_torch_leave_normalisations_alone():
    module = Normalised()
    module.eval()
    params = pure(module).params
    others = torch_initial(params, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, others["norm"], params["norm"])
    assert not np.array_equal(others["linear"]["kernel"], params["linear"]["kernel"])


@pytest.mark.slow
def test_networks_of_one_architecture_are_compiled_once():
    traces = []

    @jax.jit
    def trace(log_prob, x):
        traces.append(1)
        return local_data_trace(log_prob, x)

    x = jnp.full((8, 8), 0.5)
    values = [trace(Partial(*pure(drawn(LeNet, seed, size=8))), x) for seed in (0, 1)]
    assert len(traces) == 1
    assert values[0] != values[1]


@pytest.mark.slow
def test_lenet_lowers_for_every_platform():
    apply, params = pure(drawn(LeNet, size=8))
    shape = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    function = jax.jit(lambda x: jax.jacrev(lambda z: apply(params, z))(x))
    exported = jax.export.export(function, platforms=("cpu", "cuda", "tpu"))(shape)
    assert exported.platforms == ("cpu", "cuda", "tpu")


def linear(params, x):
    return jax.nn.log_softmax(params["w"] @ x)


def problem():
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(50, 4)).astype(np.float32)
    labels = rng.integers(0, 3, 50).astype(np.uint8)
    return {"w": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)}, (images, labels)


def test_a_run_is_gradient_descent_and_each_epoch_shows_every_row_once():
    params, _ = problem()

    def loss(params, batch, key, step):
        return jnp.sum(params["w"]) * jnp.mean(batch.astype(jnp.float32)), {"mean": jnp.mean(batch * 1.0)}

    rows = np.arange(12, dtype=np.float32)
    seen = train(loss, params, rows, key=jax.random.key(1), steps=8, batch_size=3, chunk=3)
    # d loss / dw is the mean of the batch, in every entry.
    drop = 0.01 * np.sum(seen.metrics["mean"])
    np.testing.assert_allclose(seen.params["w"], np.asarray(params["w"]) - drop, rtol=1e-5)
    epochs = seen.metrics["mean"].reshape(2, 4)
    np.testing.assert_allclose(epochs.mean(1), rows.mean(), rtol=1e-6)
    assert not np.array_equal(epochs[0], epochs[1])


def test_the_classifier_learns_and_its_loss_is_the_mean_negative_log_likelihood():
    params, data = problem()
    images, labels = data
    labels[:] = images[:, :3].argmax(1)
    loss = classification_loss(linear)
    logits = images @ np.asarray(params["w"]).T
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    value, metrics = loss(params, data, None, None)
    np.testing.assert_allclose(value, -log_p[np.arange(50), labels].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], np.mean(log_p.argmax(1) == labels))
    adam = optax.adam(0.05)
    run = train(loss, params, data, key=jax.random.key(0), steps=300, batch_size=10, optimizer=adam)
    assert run.metrics["accuracy"][-20:].mean() > 0.9
    assert run.finite
    assert run.steps == 300


@pytest.mark.parametrize("optimizer", [pytest.param(None, marks=pytest.mark.slow), optax.adam(0.01)])
def test_a_resumed_run_is_bit_by_bit_the_same(tmp_path, optimizer):
    params, data = problem()
    loss = classification_loss(linear)
    options = {"key": jax.random.key(2), "batch_size": 7, "chunk": 4, "optimizer": optimizer}
    whole = train(loss, params, data, steps=19, **options)
    train(loss, params, data, steps=10, folder=tmp_path, save_at=(0, 6), **options)
    assert checkpoint_steps(tmp_path) == [0, 6, 10]
    told = []
    again = train(
        loss, params, data, steps=19, folder=tmp_path, progress=lambda *at: told.append(at), **options
    )
    np.testing.assert_array_equal(again.params["w"], whole.params["w"])
    np.testing.assert_array_equal(again.metrics["loss"], whole.metrics["loss"])
    assert told == [(14, 19), (18, 19), (19, 19)]
    np.testing.assert_array_equal(load_params(tmp_path, params, 0)["w"], params["w"])
    np.testing.assert_array_equal(load_params(tmp_path, params)["w"], whole.params["w"])


def test_a_run_that_diverges_says_so_and_stops():
    params, data = problem()
    run = train(
        classification_loss(linear),
        params,
        data,
        key=jax.random.key(0),
        steps=100,
        batch_size=10,
        chunk=5,
        optimizer=optax.sgd(float("nan")),
    )
    assert not run.finite
    assert run.steps == 5


def test_the_initial_parameters_survive_donation():
    params, data = problem()
    before = np.asarray(params["w"]).copy()
    train(classification_loss(linear), params, data, key=jax.random.key(0), steps=2, batch_size=10)
    np.testing.assert_array_equal(params["w"], before)


def attempt(folder=None, **changes):
    params, data = problem()
    options = {"key": jax.random.key(0), "steps": 2, "batch_size": 10, "folder": folder} | changes
    return train(classification_loss(linear), params, data, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be a whole number, at least 1, got 0"),
        ({"batch_size": 51}, "batch_size must be a whole number, from 1 to 50, got 51"),
        ({"chunk": 1.5}, "chunk must be a whole number"),
        ({"save_at": (-1,), "folder": "unused"}, "save_at must be a whole number, at least 0"),
    ],
)
def test_options_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        attempt(**changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"labels": np.array([0, 3], np.uint8)},
            "labels must lie between 0 and 2, the network has 3 classes, got 0 to 3",
        ),
        ({"labels": np.array([0, -1])}, "between 0 and 2"),
        ({"labels": np.array([0, 1, 2])}, r"one for each of 2 images, got int64 of shape \(3,\)"),
        ({"labels": np.array([0.0, 1.0])}, "labels must be whole numbers"),
        ({"images": np.full((2, 4), 255.0)}, r"pixels in \[0, 1\], got float64 from 255 to 255"),
        ({"images": np.full((2, 4), np.nan)}, r"pixels in \[0, 1\]"),
    ],
)
def test_data_that_do_not_fit_the_classifier_are_refused(change, message):
    params, (images, labels) = problem()
    good = {"apply": linear, "params": params, "images": images[:2], "labels": labels[:2]}
    assert labelled(**good)[0] is good["images"]
    with pytest.raises(ValueError, match=message):
        labelled(**(good | change))


def test_another_run_or_another_architecture_is_not_continued(tmp_path):
    attempt(tmp_path)
    refused = "another key, batch_size, data or initial parameters"
    with pytest.raises(ValueError, match=refused):
        attempt(tmp_path, key=jax.random.key(1), steps=3)
    with pytest.raises(ValueError, match=refused):
        attempt(tmp_path, key=jax.random.key(1), steps=1)
    params, (images, labels) = problem()
    options = {"key": jax.random.key(0), "steps": 3, "batch_size": 10, "folder": tmp_path}
    with pytest.raises(ValueError, match=refused):
        train(classification_loss(linear), params, (1 - images, labels), **options)
    with pytest.raises(ValueError, match=refused):
        train(classification_loss(linear), {"w": -params["w"]}, (images, labels), **options)
    with pytest.raises(ValueError, match=r"of another architecture: at w it has float32 of shape \(3, 4\)"):
        load_params(tmp_path, {"w": jnp.zeros((2, 4))})
    with pytest.raises(ValueError, match="another architecture"):
        attempt(tmp_path, optimizer=optax.adam(0.01), steps=3)
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 7"):
        load_params(tmp_path, {"w": jnp.zeros((3, 4))}, 7)
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        load_params(tmp_path / "none", {})


def test_an_interrupted_checkpoint_does_not_count(tmp_path):
    save_checkpoint(tmp_path, 3, {"w": jnp.ones(2)})
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "half").write_text("")
    assert checkpoint_steps(tmp_path) == [3]


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path):
    values = {"w": jnp.arange(5000.0)}
    place = save_checkpoint(tmp_path, 3, values) / "params"
    for file in (place / "manifest.ocdbt", max((place / "d").iterdir(), key=lambda f: f.stat().st_size)):
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match="3 is damaged, its arrays cannot be read: delete this folder"):
            load_params(tmp_path, values)
        file.write_bytes(whole)
    np.testing.assert_array_equal(load_params(tmp_path, values)["w"], values["w"])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LeNet(classes=1, rngs=nnx.Rngs(0)), "classes must be a whole number, at least 2, got 1"),
        (lambda: LeNet(size=5, rngs=nnx.Rngs(0)), "size must be a whole number, at least 6"),
        (lambda: VGG11(size=48, rngs=nnx.Rngs(0)), "multiple of 32"),
        (lambda: VGG11(mean=(0.5,), rngs=nnx.Rngs(0)), "mean must be 3 finite numbers"),
        (
            lambda: drawn(LeNet)(jnp.zeros((1, 8, 8))),
            r"images of shape \(28, 28, 1\) or \(28, 28\)",
        ),
        (lambda: VGG(depth=12, rngs=nnx.Rngs(0)), "depth must be one of 11, 13, 16, 19, got 12"),
        (lambda: pure(nnx.BatchNorm(3, rngs=nnx.Rngs(0))), "BatchNorm is in training"),
        (lambda: pure(nnx.Dropout(0.5, rngs=nnx.Rngs(0))), "Dropout is in training, deterministic is False"),
        (lambda: pure(lambda x: x), "must be a flax.nnx.Module, got function"),
    ],
)
def test_impossible_networks_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
