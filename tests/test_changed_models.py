"""What is changed in place gives new numbers, in every door, and other weights compile nothing again."""

import dataclasses
import functools
import math

import equinox as eqx
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.tree_util import Partial

from manifold_jax import (
    Axis,
    Grid,
    Manifold,
    horizontal_path,
    layer_jets,
    local_data_trace,
    measure,
    measure_layers,
    path_length,
    reach,
)
from manifold_jax.datasets import sample_uniform
from manifold_jax.fitting import nearest_points
from manifold_jax.models import chain, train

GRID = Grid((Axis("angle", 0.0, 2 * math.pi, 16, periodic=True),))
X, Y = jnp.array([0.2, 0.5, -0.4]), jnp.array([0.5, -0.1, 0.3])


def ring(weights, u):
    """A circle whose radius is the sum of the weights; the kink of the ReLU has a derivative by rule."""
    return jax.nn.relu(jnp.sum(weights)) * jnp.stack([jnp.cos(u[0]), jnp.sin(u[0])])


def scores(weights, x):
    return jax.nn.log_softmax(jnp.sum(weights) * jax.nn.softplus(x))


RADII = jnp.array([0.25, 0.75])


def in_nnx(function):
    class Network(nnx.Module):
        def __init__(self):
            self.weights, self.drop = nnx.Param(RADII), nnx.Dropout(0.5, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.drop(function(self.weights[...], x))

    def double(network):
        network.weights[...] = 2 * network.weights[...]
        return network

    network = Network()
    network.eval()
    return network, double


def method(function):
    network, double = in_nnx(function)
    return network.__call__, lambda f: double(network).__call__


def closure(function):
    network, double = in_nnx(function)
    f = lambda x: network(x)  # noqa: E731
    return f, lambda f: double(network) and f


def in_linen(function):
    class Network(linen.Module):
        @linen.compact
        def __call__(self, x):
            return function(self.param("weights", lambda _: RADII), x)

    pair = Network(), {"params": {"weights": RADII}}
    return pair, lambda pair: (pair[0], jax.tree.map(lambda w: 2 * w, pair[1]))


def in_equinox(function):
    class Network(eqx.Module):
        weights: jax.Array
        kind: str = "relu"

        def __call__(self, x):
            return function(self.weights, x)

    return Network(RADII), lambda n: eqx.tree_at(lambda n: n.weights, n, 2 * n.weights)


def in_flax_struct(function):
    @flax.struct.dataclass
    class Network:
        weights: jax.Array

        def __call__(self, x):
            return function(self.weights, x)

    return Network(RADII), lambda n: n.replace(weights=2 * n.weights)


def in_frozen_dataclass(function):
    @dataclasses.dataclass(frozen=True)
    class Network:
        weights: jax.Array

        def __call__(self, x):
            return function(self.weights, x)

    return Network(RADII), lambda n: dataclasses.replace(n, weights=2 * n.weights)


def in_numpy(function):
    """An object that nobody registered, whose array is changed in place."""

    class Network:
        weights = np.asarray(RADII).copy()

        def __call__(self, x):
            return function(jnp.asarray(self.weights), x)

    def double(network):
        network.weights *= 2
        return network

    return Network(), double


def pair(function):
    """``(apply, params)``, as Haiku has it."""
    return (function, RADII), lambda p: (p[0], 2 * p[1])


def partial(function):
    return functools.partial(function, RADII), lambda f: functools.partial(function, 2 * f.args[0])


def jax_partial(function):
    return Partial(function, RADII), lambda f: Partial(function, 2 * f.args[0])


def global_weights(function):
    state = {"weights": RADII}

    def double(f):
        state["weights"] = 2 * state["weights"]
        return f

    return (lambda x: function(state["weights"], x)), double


def jitted(function):
    """A function that its owner compiled, with the weights of that moment."""
    f, double = global_weights(function)
    return jax.jit(f), double


LIBRARIES = [in_nnx, method, closure, in_linen, in_equinox, in_flax_struct, in_frozen_dataclass, in_numpy]
LIBRARIES += [pair, partial, jax_partial, global_weights]


@pytest.mark.parametrize("build", [*LIBRARIES, jitted])
def test_measure_sees_new_weights_and_compiles_nothing_for_them(build, compilations):
    network, double = build(ring)
    lengths = [float(measure(network, GRID, exact=True).total_volume.value)]
    for _ in range(3):
        network = double(network)
        before = len(compilations)
        lengths.append(float(measure(network, GRID, exact=True).total_volume.value))
        assert compilations[before:] == []
    np.testing.assert_allclose(lengths, 2 * math.pi * np.array([1, 2, 4, 8]), rtol=1e-5)


@pytest.mark.parametrize("build", [in_linen, in_equinox, pair])
@pytest.mark.thorough
def test_reach_and_layers_take_any_library(build):
    network, _ = build(ring)
    assert reach(network, GRID).value == pytest.approx(1, rel=1e-3)
    np.testing.assert_allclose(chain({"ring": network}, (1,)).activations(jnp.zeros(1))[0], [1, 0])


@pytest.mark.parametrize("build", LIBRARIES)
def test_classifiers_of_any_library_are_taken_and_seen_anew(build, compilations):
    network, double = build(scores)
    walk = lambda f: horizontal_path(f, X, Y, max_steps=3, save_every=3)  # noqa: E731
    for scale in (1.0, 2.0, 4.0):
        expected = functools.partial(scores, scale * RADII)
        np.testing.assert_allclose(local_data_trace(network, X), local_data_trace(expected, X), rtol=1e-5)
        before = len(compilations)
        path = walk(network)
        assert scale == 1 or compilations[before:] == []
        np.testing.assert_allclose(path.log_probs[0], expected(X), rtol=1e-5)
        network = double(network)


def door(name, f):
    """A length that a door gives for a ring."""
    manifold = Manifold("ring", f, GRID)
    if name == "stencils":
        return measure(manifold, accuracy=8).total_volume.value / (2 * math.pi)
    if name == "reach":
        return reach(f, GRID).value
    if name == "reach of a manifold":
        return reach(manifold, exact=False, accuracy=8).value
    if name == "jets":
        return jnp.linalg.norm(next(iter(layer_jets(f, [], jnp.ones((1, 1))))).points)
    if name == "layers":
        layers = chain({"ring": f}, (1,))
        start = Manifold("chart", lambda u: u, Grid((Axis("angle", 0.0, 1.0, 8),)))
        return measure_layers(start, layers.functions)[1].total_volume.value
    if name == "layers by stencils":
        start = Manifold("chart", lambda u: u, Grid((Axis("angle", 0.0, 1.0, 8),)))
        return measure_layers(start, [f], accuracy=6)[1].total_volume.value
    if name == "samples":
        return jnp.linalg.norm(sample_uniform(jax.random.key(0), manifold, 2).points[0])
    return nearest_points(manifold, jnp.zeros((1, 2)) + jnp.array([1e-3, 0.0])).distances[0] + 1e-3


DOORS = ["reach", "jets"]
MORE = "layers", "samples", "stencils", "reach of a manifold", "layers by stencils", "nearest points"
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in MORE]


@pytest.mark.parametrize("name", [*DOORS, *SLOW])
def test_every_door_sees_a_closure_that_was_changed(name):
    network, double = closure(ring)
    first = float(door(name, network))
    second = float(door(name, double(network)))
    np.testing.assert_allclose([first, second], [1, 2], rtol=2e-3)


def test_a_changed_loss_is_seen_by_train():
    goal = {"at": 1.0}
    loss = lambda w, batch, key, step: (jnp.mean((goal["at"] - w) ** 2) + 0 * jnp.sum(batch), {})  # noqa: E731
    options = {"key": jax.random.key(0), "steps": 200, "batch_size": 2}
    ends = [float(train(loss, jnp.zeros(()), jnp.ones((4, 1)), **options).params)]
    goal["at"] = 2.0
    ends.append(float(train(loss, jnp.zeros(()), jnp.ones((4, 1)), **options).params))
    assert ends[1] == pytest.approx(2 * ends[0])


def test_lengths_see_new_weights():
    network, double = closure(scores)
    lengths = [float(path_length(f(), jnp.stack([X, Y]))) for f in (lambda: network, lambda: double(network))]
    wanted = [float(path_length(functools.partial(scores, s * RADII), jnp.stack([X, Y]))) for s in (1, 2)]
    np.testing.assert_allclose(lengths, wanted, rtol=1e-5)


@pytest.mark.parametrize("wrap", [lambda n: n, lambda n: lambda x: n(x), lambda n: n.__call__])
def test_networks_in_training_are_refused(wrap):
    network, _ = in_nnx(ring)
    network.train()
    with pytest.raises(ValueError, match=r"call module.eval\(\) first"):
        measure(wrap(network), GRID)


@pytest.mark.thorough
def test_rules_of_derivatives_count():
    """The same values by the same operations, with another derivative."""

    def build(slope):
        @jax.custom_jvp
        def f(x):
            return jnp.sum(x)

        f.defjvp(lambda point, vector: (f(*point), slope * jnp.sum(vector[0])))
        return lambda u: jnp.stack([f(u), f(u)])

    lengths = [float(measure(build(s), GRID, exact=True).total_volume.value) for s in (1.0, 3.0, 1.0)]
    np.testing.assert_allclose(lengths, 2 * math.pi * 2**0.5 * np.array([1, 3, 1]), rtol=1e-5)


@pytest.mark.thorough
def test_a_rule_for_gradients_counts_and_is_compiled_once(compilations):
    def build(slope, weights):
        @jax.custom_vjp
        def f(x):
            return jnp.sum(x)

        f.defvjp(lambda x: (f(x), jnp.zeros_like(x)), lambda zero, vector: (zero + slope * vector,))
        return lambda x: jax.nn.log_softmax(weights * f(x))

    traces = [float(local_data_trace(build(s, X), X)) for s in (1.0, 3.0, 1.0)]
    np.testing.assert_allclose(traces, traces[0] * np.array([1, 9, 1]), rtol=1e-5)
    before = len(compilations)
    other = float(local_data_trace(build(1.0, 2 * X), X))
    assert other == pytest.approx(
        float(local_data_trace(lambda x: jax.nn.log_softmax(2 * X * jnp.sum(x)), X))
    )
    horizontal_path(build(1.0, X), X, Y, max_steps=3, save_every=3)
    before = len(compilations)
    horizontal_path(build(1.0, 2 * X), X, Y, max_steps=3, save_every=3)
    assert compilations[before:] == []


class Unbound(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(3)(x)


@pytest.mark.parametrize("network", [Unbound(), (None, RADII), (Unbound(),), "network", (lambda: 0, RADII)])
@pytest.mark.parametrize(
    "call",
    [
        lambda f: measure(f, GRID),
        lambda f: reach(f, GRID),
        lambda f: horizontal_path(f, X, Y),
        lambda f: local_data_trace(f, X),
        lambda f: path_length(f, jnp.stack([X, Y])),
        lambda f: chain({"only": f}, (3,)),
    ],
)
def test_what_is_no_network_is_refused_in_a_sentence(call, network):
    with pytest.raises(ValueError) as refusal:
        call(network)
    assert len(str(refusal.value)) < 400
    assert "\n" not in str(refusal.value)


def test_gradients_go_through_the_weights():
    jets = lambda w: next(iter(layer_jets(functools.partial(ring, w), [], jnp.zeros((1, 1)))))  # noqa: E731
    np.testing.assert_allclose(jax.grad(lambda w: jets(w).points.sum())(RADII), [1, 1])
