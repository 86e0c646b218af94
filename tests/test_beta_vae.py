"""The beta-VAE: its convolutions, its loss in closed form, several runs in one, its command."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.tree_util import Partial
from networks import drawn
from typer.testing import CliRunner

from manifold_jax._files import silent
from manifold_jax.experiments.cli import application
from manifold_jax.experiments.layers import latents
from manifold_jax.experiments.layers.command import EXPERIMENTS, select_for
from manifold_jax.experiments.layers.trial import REDUCED, Trial
from manifold_jax.models import (
    BetaVAE,
    Layers,
    Objective,
    beta_vae_loss,
    convolve,
    convolve_transposed,
    over_seeds,
    pure,
    train,
)


@pytest.mark.slow
def test_a_transposed_convolution_is_the_adjoint_of_the_convolution():
    keys = jax.random.split(jax.random.key(0), 3)
    kernel = jax.random.normal(keys[0], (4, 4, 3, 5))
    x, y = jax.random.normal(keys[1], (2, 4, 3, 3)), jax.random.normal(keys[2], (2, 8, 6, 5))
    pads = ((1, 1), (1, 1))
    ahead = convolve(y, kernel.transpose(0, 1, 3, 2), (2, 2), pads, precision="highest")
    back = convolve_transposed(x, kernel, precision="highest")
    assert float(jnp.vdot(x, ahead)) == pytest.approx(float(jnp.vdot(back, y)), rel=1e-4)
    with pytest.raises(ValueError, match="4 x 4"):
        convolve_transposed(x, kernel[:3, :3])


def small(seed=0):
    options = {"size": 16, "width": 4, "hidden": 6, "latent": 3, "activation": nnx.silu}
    return pure(drawn(BetaVAE, seed, gain=2, **options))


@jax.jit
def by_other_convolutions(params, image):
    """Reconstruction and log-variance, from parameters alone."""
    layout = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "precision": "highest"}
    convolution = partial(jax.lax.conv_general_dilated, **layout)

    def dense(layers, x):
        for layer in layers.values():
            x = jax.nn.silu(x @ layer["kernel"] + layer["bias"])
        return x

    x = image[None, ..., None]
    for layer in params["convolutions"].values():
        x = jax.nn.silu(convolution(x, layer["kernel"], (2, 2), ((1, 1), (1, 1))) + layer["bias"])
    hidden = dense(params["encoder"], x.reshape(1, -1))
    moments = hidden @ params["moments"]["kernel"] + params["moments"]["bias"]
    x = dense(params["decoder"], moments[:, :3]).reshape(1, 1, 1, 4)
    for k, layer in params["transposed"].items():
        kernel = layer["kernel"][::-1, ::-1]
        x = convolution(x, kernel, (1, 1), ((2, 2), (2, 2)), lhs_dilation=(2, 2)) + layer["bias"]
        x = jax.nn.silu(x) if int(k) < 3 else jax.nn.sigmoid(x)
    return x[0], moments[0, 3:]


@pytest.mark.slow
def test_a_forward_pass_by_other_convolutions():
    apply, params = small()
    image = jax.random.uniform(jax.random.key(1), (16, 16))
    expected, log_variance = by_other_convolutions(params, image)
    np.testing.assert_allclose(jax.jit(apply)(params, image), expected, atol=1e-5)
    np.testing.assert_allclose(jax.jit(apply.of("encode"))(params, image)[1], log_variance, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "step"),
    [
        (Objective("B", gamma=7.0, capacity=3.0, capacity_steps=10), 4),
        (Objective("B", gamma=7.0, capacity=3.0, capacity_steps=10), 40),
        (Objective("H", beta=5.0, likelihood="gaussian"), 4),
        (Objective("H", beta=5.0, likelihood="points"), 4),
    ],
)
def test_the_loss_is_the_sum_of_its_terms(objective, step):
    apply, params = small()
    images = jax.random.uniform(jax.random.key(1), (3, 16, 16))
    key = jax.random.key(2)
    value, terms = jax.jit(beta_vae_loss(apply, objective))(params, (images,), key, jnp.int32(step))
    encode, decode = (jax.jit(jax.vmap(apply.of(name), (None, 0))) for name in ("encode", "decode"))
    mean, log_variance = (np.asarray(part, np.float64) for part in encode(params, images))
    noise = np.asarray(jax.random.normal(key, mean.shape))
    logits = np.asarray(decode(params, jnp.asarray(mean + np.exp(log_variance / 2) * noise, jnp.float32)))
    p, x = 1 / (1 + np.exp(-logits[..., 0].astype(np.float64))), np.asarray(images, np.float64)
    cross = -(x * np.log(p) + (1 - x) * np.log(1 - p)).sum() / 3
    squared = (((logits[..., 0] if objective.likelihood == "points" else p) - x) ** 2).sum() / 3
    reconstruction = cross if objective.likelihood == "bernoulli" else squared
    kl = ((mean**2 + np.exp(log_variance) - 1 - log_variance) / 2).sum() / 3
    capacity = 3.0 * min(step / 10, 1)
    weighted = 7 * abs(kl - capacity) if objective.kind == "B" else 5 * kl
    assert float(terms["reconstruction"]) == pytest.approx(reconstruction, rel=1e-4)
    assert float(terms["kl"]) == pytest.approx(kl, rel=1e-4)
    assert float(terms["kl_units"].sum()) == pytest.approx(kl, rel=1e-4)
    assert float(value) == pytest.approx(reconstruction + weighted, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "Q"}, "kind must be one of"),
        ({"likelihood": "poisson"}, "one of 'bernoulli', 'gaussian', 'points'"),
        ({"beta": -1.0}, "beta must be a finite number, at least 0"),
        ({"capacity_steps": 0}, "capacity_steps must be"),
    ],
)
def test_objectives_are_checked(options, words):
    with pytest.raises(ValueError, match=words):
        beta_vae_loss(lambda *_: None, Objective(**options))


def quadratic(params, batch, key, step):
    noise = jax.random.normal(key, params["w"].shape)
    value = jnp.mean((batch[0] - params["w"] + 0.1 * noise) ** 2)
    return value, {"twice": 2 * value, "parts": params["w"]}


def test_runs_in_one_training_are_independent():
    params = {"w": jnp.array([[0.0, 1.0], [2.0, -1.0]])}
    data = (jax.random.normal(jax.random.key(0), (24, 2)),)
    adam = optax.adam(0.1)
    options = {"steps": 5, "batch_size": 8, "optimizer": adam, "chunk": 5}
    both = train(over_seeds(quadratic, 2), params, data, key=jax.random.key(1), **options)
    changed = {"w": params["w"].at[1].set(9.0)}
    other = train(over_seeds(quadratic, 2), changed, data, key=jax.random.key(1), **options)
    np.testing.assert_array_equal(both.params["w"][0], other.params["w"][0])
    assert not np.allclose(both.params["w"][1], other.params["w"][1])
    assert both.metrics["parts"].shape == (5, 2, 2)
    np.testing.assert_allclose(both.metrics["run_loss"].sum(1), both.metrics["loss"], rtol=1e-6)
    np.testing.assert_allclose(both.metrics["twice"], 2 * both.metrics["run_loss"], rtol=1e-6)
    with pytest.raises(ValueError, match="cannot be shared out"):
        over_seeds(quadratic, 2)(params, (data[0][:7],), jax.random.key(0), 0)
    with pytest.raises(ValueError, match="leading axis of 3 runs"):
        over_seeds(quadratic, 3)(params, data, jax.random.key(0), 0)


def test_a_share_of_a_batch_is_what_one_run_would_do():
    params = {"w": jnp.array([[0.0, 1.0], [2.0, -1.0]])}
    batch = (jax.random.normal(jax.random.key(0), (8, 2)),)
    key = jax.random.key(3)
    gradient = jax.grad(lambda p: over_seeds(quadratic, 2)(p, batch, key, 0)[0])(params)["w"]
    for run, k in enumerate(jax.random.split(key, 2)):
        part = (batch[0][4 * run : 4 * run + 4],)
        alone = jax.grad(lambda w, part=part, k=k: quadratic({"w": w}, part, k, 0)[0])(params["w"][run])
        np.testing.assert_allclose(gradient[run], alone, rtol=1e-5, atol=1e-7)


def test_metrics_with_axes_survive_an_interruption(tmp_path):
    data = (jnp.arange(12.0).reshape(6, 2),)
    params = {"w": jnp.zeros(2)}
    options = {"key": jax.random.key(0), "batch_size": 3, "chunk": 2}
    whole = train(quadratic, params, data, steps=6, **options)
    train(quadratic, params, data, steps=2, folder=tmp_path, **options)
    again = train(quadratic, params, data, steps=6, folder=tmp_path, **options)
    np.testing.assert_array_equal(again.params["w"], whole.params["w"])
    np.testing.assert_array_equal(again.metrics["parts"], whole.metrics["parts"])


# --- the command -------------------------------------------------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(application("layers"), ["layers", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "no experiment 'nothing'"),
        (["latents", "--network", "classifier"], "belongs to an autoencoder"),
        (["train", "--preset", "huge"], "--preset must be"),
        (["train", "--activation", "step"], "activation must be one of"),
        (["train", "--data", "faces"], "data must be one of"),
        (["train", "--network", "classifier", "--variant", "B"], "--variant is for the beta-VAE"),
        (["train", "--beta", 2], "--beta belongs to variant H"),
        (["train", "--variant", "H", "--gamma", 2], "--gamma belongs to variant B"),
        (["train", "--learning-rate", -1], "learning_rate must be a positive finite number"),
        (["train", "--variant", "Z"], "variant must be one of"),
        (["train", "--path", "here"], "--path is where COIL-20 is"),
        (["train", "--images", 100], "images a step"),
        (["train", "--factors", 1], "train only trains"),
        (["evolution", "--network", "classifier", "--factors", 3], "room for 2 factors"),
        (["evolution", "--data", "coil20", "--factors", 4], "coil20 has 3 factors"),
        (["evolution", "--lattice", 5], "--lattice belongs to figure6"),
        (["figure6", "--data", "coil20"], "figure6 is about sprites"),
        pytest.param(["evolution", "--preset", "full", "--factors", 4], "GiB", marks=pytest.mark.slow),
    ],
)
def test_the_command_refuses_in_one_sentence(arguments, words, tmp_path):
    result = run(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_all_leaves_out_what_a_classifier_lacks():
    assert "latents" in select_for("all", "vae")
    assert "latents" not in select_for("all", "classifier")


TINY = REDUCED._replace(size=16, width=2, hidden=2, latent=2, batch_size=4, points=6)


def test_the_command_trains_and_writes(tmp_path, monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "evolution", EXPERIMENTS["evolution"]._replace(reduced=TINY))
    # 18 images are 6 of each class, as many as points and as pictures that are shown: compiled once.
    options = ["--steps", 2, "--seeds", 1, "--images", 18, "--factors", 1]
    result = run("latents", *options, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "latents.json").read_text())
    assert record["arguments"]["settings"]["images"] == 18
    assert len(record["rows"]) == 1
    assert f"{record['rows'][0]['KL']:.3g} nats" in record["headline"]
    for file in ("latents.txt", "traversals.png", "reconstructions.png"):
        assert (tmp_path / file).stat().st_size > 100
    assert run("train", *options[:-2], "--out", tmp_path).exit_code == 0
    (tmp_path / "latents.json").unlink()
    monkeypatch.setattr(latents, "mutual_information_gap", None)  # what is known is not computed again
    assert run("latents", *options, "--out", tmp_path).exit_code == 0
    assert json.loads((tmp_path / "latents.json").read_text())["rows"] == record["rows"]


def test_measurements_of_other_networks_and_data_are_not_taken(tmp_path):
    images, labels = np.zeros((4, 2, 2), np.uint8), np.zeros(4, int)
    trial = Trial(TINY, None, images, labels, None, tmp_path / "checkpoints", {})
    made = []

    def ask(trial, name="job", weight=1.0):
        layers = Layers(("only",), (Partial(jnp.multiply, jnp.float32(weight)),))
        assert trial.compute([(name, layers, lambda: made.append(name) or [weight])], silent) == [[weight]]
        return len(made)

    changed = trial.settings._replace(points=7)
    longer = trial.settings._replace(steps=10, seeds=2, checkpoints=2)
    others = [trial._replace(images=images + 1), trial._replace(settings=changed)]
    assert [ask(trial), ask(trial), ask(trial._replace(settings=longer))] == [1, 1, 1]
    assert [ask(trial, weight=1.01), ask(trial, "other"), *map(ask, others)] == [2, 3, 4, 5]


@pytest.mark.slow
def test_the_command_trains_measures_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.delitem(EXPERIMENTS, "spacing")  # trains another network, and compiles it in float64
    monkeypatch.setitem(EXPERIMENTS, "evolution", EXPERIMENTS["evolution"]._replace(reduced=TINY))
    options = ["--steps", 6, "--seeds", 2, "--images", 36, "--out", tmp_path]
    result = run("all", *options, "--factors", 1)
    assert result.exit_code == 0, result.output
    for name in EXPERIMENTS:  # figure 6 has a training of its own
        assert (tmp_path / f"{name}.json").exists() == (name != "figure6")
    for file in (
        "evolution.nc",
        "evolution_symlog.png",
        "traversals.png",
        "reconstructions.png",
    ):
        assert (tmp_path / file).stat().st_size > 1000
    for other in (["--activation", "relu"], ["--steps", 7]):
        result = run("train", *options, *other)
        assert result.exit_code == 2
        assert "another" in result.output
