"""Networks with batch normalisation: what they are in training, and what their statistics make of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial

from manifold_jax.experiments.classifier.normalised import (
    evaluate,
    in_training,
    is_normalised,
    network_of,
    normalised_loss,
    with_statistics,
)
from manifold_jax.experiments.classifier.task import layer
from manifold_jax.models import pure


class Small(nnx.Module):
    """A linear layer, normalised, as log-probabilities."""

    def __init__(self, norm=True):
        rngs = nnx.Rngs(0)
        self.linear = nnx.Linear(5, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, momentum=0.9, rngs=rngs) if norm else None

    def logits(self, x):
        return self.norm(self.linear(x)) if self.norm else self.linear(x)

    def __call__(self, x):
        return nnx.log_softmax(self.logits(x))


def network(norm=True):
    module = Small(norm)
    module.eval()
    return pure(module)


IMAGES = np.random.default_rng(0).random((40, 5)).astype(np.float32)


def by_hand(params, images):
    """Logits of a batch with its own mean and variance."""
    z = images @ np.asarray(params["linear"]["kernel"]) + np.asarray(params["linear"]["bias"])
    z = (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5)
    return z * np.asarray(params["norm"]["scale"]) + np.asarray(params["norm"]["bias"])


def test_statistics_of_a_batch_make_the_network_what_it_is_in_training():
    apply, params = network()
    fixed = with_statistics(apply, params, IMAGES)
    one_by_one = jax.vmap(fixed.of("logits"), (None, 0))(params, IMAGES)
    np.testing.assert_allclose(one_by_one, by_hand(params, IMAGES), atol=1e-4)
    np.testing.assert_allclose(in_training(apply, params).logits(IMAGES), by_hand(params, IMAGES), atol=1e-4)
    assert not np.allclose(one_by_one[0], apply.of("logits")(params, IMAGES[0]), atol=0.1)


def test_the_loss_normalises_by_the_batch():
    apply, params = network()
    labels = np.arange(40) % 3
    loss, metrics = normalised_loss(apply)(params, (jnp.asarray(IMAGES), jnp.asarray(labels)), None, None)
    z = by_hand(params, IMAGES)
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    assert float(loss) == pytest.approx(-log_p[np.arange(40), labels].mean(), abs=1e-4)
    assert float(metrics["accuracy"]) == pytest.approx(np.mean(z.argmax(1) == labels))


def test_other_statistics_compile_nothing_anew():
    apply, params = network()
    traces = []

    @jax.jit
    def value(log_prob, x):
        traces.append(1)
        return log_prob(x)

    for images in (IMAGES[:20], IMAGES[20:]):
        log_prob = Partial(evaluate, with_statistics(apply, params, images), params)
        np.testing.assert_allclose(
            layer(log_prob, "logits")(images[0]), by_hand(params, images)[0], atol=1e-4
        )
        value(log_prob, images[0])
    assert len(traces) == 1


def test_networks_are_told_apart():
    for norm in (True, False):
        apply, params = network(norm)
        assert is_normalised(apply, params) is norm
        assert network_of(Partial(apply, params)) == (apply, params)
    assert not is_normalised(lambda params, x: x, {})
    with pytest.raises(ValueError, match=r"logits are needed: log_prob must be Partial\(apply, params\)"):
        layer(Partial(jnp.add, 1.0), "logits")
    with pytest.raises(ValueError, match=r"log_prob must be Partial\(apply, params\)"):
        layer(Partial(jnp.sin), "logits")
