"""Weights of PyTorch against PyTorch, and against a forward pass by NumPy and SciPy in its layouts."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import drawn
from scipy.signal import correlate

from manifold_jax.models import VGG, LeNet, load_torch_weights, max_pool, pure

RNG = np.random.default_rng(0)


def draw(*shape):
    return (RNG.normal(size=shape) / np.prod(shape[1:]) ** 0.5).astype(np.float32)


class Small(nnx.Module):
    """Convolution, normalisation, pool, two linear layers; the image is not square."""

    def __init__(self, rngs):
        weights = {"kernel_init": nnx.initializers.zeros_init(), "rngs": rngs}
        self.conv = nnx.Conv(2, 3, (3, 3), padding="VALID", **weights)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.inner, self.outer = nnx.Linear(18, 5, **weights), nnx.Linear(5, 4, use_bias=False, **weights)

    def __call__(self, x):
        x = max_pool(nnx.relu(self.norm(self.conv(x))))
        return self.outer(nnx.relu(self.inner(x.reshape(x.shape[0], -1))))


def network():
    module = Small(nnx.Rngs(0))
    module.eval()
    return module


STATE = {
    "0.weight": draw(3, 2, 3, 3),
    "0.bias": draw(3),
    "1.weight": 1 + draw(3),
    "1.bias": draw(3),
    "1.running_mean": draw(3),
    "1.running_var": 1 + draw(3) ** 2,
    "1.num_batches_tracked": np.array(7),
    "5.weight": draw(5, 18),
    "5.bias": draw(5),
    "10.weight": draw(4, 5),
}
TWIN = {"weight": (2, 2), "bias": (2,)}
IMAGE = draw(2, 6, 8).astype(np.float64)  # channels, rows, columns


def in_torch_layout(state, image):
    w = {name: array.astype(np.float64) for name, array in state.items()}
    maps = [
        sum(correlate(x, k, "valid") for x, k in zip(image, kernel, strict=True)) for kernel in w["0.weight"]
    ]
    column = lambda name: w[name][:, None, None]  # noqa: E731
    x = np.stack(maps) + column("0.bias")
    x = (x - column("1.running_mean")) / np.sqrt(column("1.running_var") + 1e-5)
    x = np.maximum(x * column("1.weight") + column("1.bias"), 0)
    x = x.reshape(3, 2, 2, 3, 2).max((2, 4)).ravel()
    return w["10.weight"] @ np.maximum(w["5.weight"] @ x + w["5.bias"], 0)


LAYOUT = {"conv": "0", "norm": "1", "inner": "5", "outer": "10"}


class Parameter:
    """What PyTorch has: a tensor with gradients, which NumPy does not read."""

    def __init__(self, values):
        self.values, self.dtype = values, values.dtype

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("requires grad")

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return self.values


def stored(tmp_path, suffix, state=STATE):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".npz":
        np.savez(path, **state)
    else:
        pytest.importorskip("safetensors.numpy").save_file(dict(state), path)
    return path


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", "in memory"])
def test_a_network_gives_what_numpy_gives_in_the_layout_of_torch(tmp_path, suffix, monkeypatch):
    module = network()
    monkeypatch.setenv("HOME", str(tmp_path))
    weights = {name: Parameter(array) for name, array in STATE.items()}
    if suffix != "in memory":
        weights = f"~/{stored(tmp_path, suffix).name}"
    loaded = load_torch_weights(weights, module)
    got = pure(loaded)(jnp.moveaxis(jnp.asarray(IMAGE, jnp.float32), 0, -1))
    np.testing.assert_allclose(got, in_torch_layout(STATE, IMAGE), rtol=2e-5, atol=2e-6)
    assert not np.array_equal(module.conv.kernel[...], loaded.conv.kernel[...])


def test_a_layout_tells_which_layer_is_which():
    renamed = {name.replace("5.", "last.").replace("10.", "first."): array for name, array in STATE.items()}
    layout = LAYOUT | {"inner": "last", "outer": "first"}
    swapped = {name: renamed[name] for name in reversed(renamed)}
    expected, loaded = load_torch_weights(STATE, network()), load_torch_weights(swapped, network(), layout)
    jax.tree.map(
        np.testing.assert_array_equal,
        nnx.to_pure_dict(nnx.state(loaded)),
        nnx.to_pure_dict(nnx.state(expected)),
    )


def test_inputs_may_be_in_one_order_already():
    kernel = load_torch_weights(STATE, network(), flatten="channels last").inner.kernel[...]
    np.testing.assert_array_equal(kernel, STATE["5.weight"].T)


def lenet(torch):
    layers = torch.nn
    return layers.Sequential(
        *(
            layers.Conv2d(1, 32, 3),
            layers.ReLU(),
            layers.Conv2d(32, 64, 3),
            layers.ReLU(),
            layers.MaxPool2d(2),
        ),
        *(layers.Flatten(), layers.Linear(1024, 128), layers.ReLU(), layers.Linear(128, 10)),
        layers.LogSoftmax(1),
    )


def vgg(torch):
    """VGG13 with batch normalisation, as torchvision builds it, but narrow."""
    layers, parts, channels = torch.nn, [], 3
    for width in (4, 8, 16, 32, 32):
        for _ in range(2):
            parts += [layers.Conv2d(channels, width, 3, padding=1), layers.BatchNorm2d(width), layers.ReLU()]
            channels = width
        parts.append(layers.MaxPool2d(2))
    end = [layers.Flatten(), layers.Linear(128, 9), layers.ReLU(), layers.Linear(9, 10), layers.LogSoftmax(1)]
    return layers.Sequential(*parts, *end)


@pytest.mark.parametrize(("name", "suffix"), [("lenet", ".npz"), ("vgg", ".safetensors"), ("vgg", ".npz")])
def test_networks_are_those_of_torch(tmp_path, name, suffix):
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    torch.manual_seed(0)
    if name == "lenet":
        module, theirs = LeNet(size=12, rngs=nnx.Rngs(0)), lenet(torch)
        images, mean, std = torch.rand(2, 1, 12, 12), 0.1307, 0.3081
    else:
        options = {"depth": 13, "batch_norm": True, "width": 4, "size": 64, "hidden": (9,)}
        module, theirs = VGG(**options, rngs=nnx.Rngs(0)), vgg(torch)
        images, mean, std = torch.rand(2, 3, 64, 64), 0.0, 1.0
        module.mean, module.std = (0.0,) * 3, (1.0,) * 3
        theirs.train()
        with torch.no_grad():
            theirs(torch.rand(8, 3, 64, 64))  # statistics that are not 0 and 1
    theirs.eval()
    module.eval()
    state = {key: value.detach().numpy() for key, value in theirs.state_dict().items()}
    network = pure(load_torch_weights(stored(tmp_path, suffix, state), module))
    with torch.no_grad():
        wanted = theirs((images - mean) / std).numpy()
    got = jax.vmap(network)(jnp.moveaxis(jnp.asarray(images.numpy()), 1, -1))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    one = lambda x: theirs((x[None] - mean) / std)[0]  # noqa: E731
    jacobian = torch.autograd.functional.jacobian(one, images[0]).numpy()
    ours = jax.jacrev(network)(jnp.moveaxis(jnp.asarray(images[0].numpy()), 0, -1))
    np.testing.assert_allclose(np.moveaxis(ours, -1, 1), jacobian, atol=2e-5 * np.abs(jacobian).max())


def without(*names):
    return {name: array for name, array in STATE.items() if name not in names}


class Transposed(nnx.Module):
    def __init__(self, rngs):
        self.up = nnx.ConvTranspose(2, 3, (3, 3), rngs=rngs)


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ("network.pth", {}, "is a pickle, which can run any program: write it in PyTorch, safetensors"),
        ("network.onnx", {}, r"must be a .safetensors or .npz file, got network.onnx"),
        ("none.npz", {}, "there is no file none.npz"),
        ({"0.weight": [[1], [2, 3]]}, {}, "weights must be arrays of numbers, got list"),
        (STATE | {"5.weight": draw(5)}, {"layout": LAYOUT}, r"kernel of 5 becomes \(5,\), inner takes"),
        (without("10.weight"), {}, r"must hold 2 linear layers \(inner, outer\), got 1 \(5\)"),
        (without("0.bias"), {}, "conv takes bias, kernel, 0 has weight: build"),
        (STATE | {"5.weight": draw(5, 12)}, {}, r"kernel of 5 becomes \(12, 5\), inner takes \(18, 5\)"),
        (STATE, {"layout": {"conv": "0"}}, "every layer of the module, 'norm' is missing"),
        (STATE, {"layout": {"conv": "7"}}, "layout may name 0, 1, 5, 10 in the dictionary, got '7'"),
        (STATE, {"flatten": "no"}, "flatten must be one of 'channels first', 'channels last', got 'no'"),
        (STATE, {"module": lambda x: x}, "module must be a Module, got function"),
        (STATE, {"module": drawn(Transposed)}, "got ConvTranspose up"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_a_sentence(weights, options, message):
    with pytest.raises(ValueError, match=message) as refusal:
        load_torch_weights(weights, **({"module": network()} | options))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 30, 400])
def test_damaged_files_are_refused(tmp_path, suffix, kept):
    path = stored(tmp_path, suffix)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="is damaged or holds more than arrays"):
        load_torch_weights(path, network())


def test_no_pickle_is_loaded(tmp_path):
    np.savez(tmp_path / "weights.npz", **(STATE | {"0.weight": np.array([{}], object)}))
    with pytest.raises(ValueError, match="holds more than arrays"):
        load_torch_weights(tmp_path / "weights.npz", network())


class Twins(nnx.Module):
    def __init__(self, rngs):
        self.up, self.down = nnx.Linear(2, 2, rngs=rngs), nnx.Linear(2, 2, rngs=rngs)

    def __call__(self, x):
        return self.down(self.up(x))


def test_names_without_an_order_need_a_layout(tmp_path):
    twins = {f"{name}.{entry}": draw(*shape) for name in ("up", "down") for entry, shape in TWIN.items()}
    expected = load_torch_weights(twins, Twins(nnx.Rngs(0)))
    np.testing.assert_array_equal(expected.up.kernel[...], twins["up.weight"].T)
    path, layout = stored(tmp_path, ".safetensors", twins), {"up": "up", "down": "down"}
    with pytest.raises(
        ValueError, match=r"does not tell the order of its linear layers down, up: give layout"
    ):
        load_torch_weights(path, Twins(nnx.Rngs(0)))
    np.testing.assert_array_equal(
        load_torch_weights(path, Twins(nnx.Rngs(0)), layout).down.kernel[...], twins["down.weight"].T
    )
    copied = nnx.clone(Twins(nnx.Rngs(0)))  # its attributes are sorted
    with pytest.raises(ValueError, match="the module does not tell the order of its linear layers down, up"):
        load_torch_weights(twins, copied)


def test_copied_modules_are_filled_as_the_file_tells(tmp_path):
    expected = load_torch_weights(STATE, network())
    for weights in (STATE, stored(tmp_path, ".safetensors")):
        loaded = load_torch_weights(weights, nnx.clone(network()))
        np.testing.assert_array_equal(loaded.inner.kernel[...], expected.inner.kernel[...])
    renamed = {f"b{name}" if name[0] == "0" else name: array for name, array in STATE.items()}
    with pytest.raises(ValueError, match="tells the order: give layout"):
        load_torch_weights(stored(tmp_path, ".safetensors", renamed), nnx.clone(network()))


def test_without_safetensors_the_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "w.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r"needs safetensors: pip install"):
        load_torch_weights(tmp_path / "w.safetensors", network())
