"""Trace and rank of G along a training, as figure 2 of the paper reads them."""

import classifier
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manifold_jax import models
from manifold_jax.datasets import LabelledImages
from manifold_jax.experiments.classifier import history, returns
from manifold_jax.experiments.classifier.task import Task, learn
from manifold_jax.models import Pure

CLASSES, SIDE = 4, 6


@pytest.fixture(scope="module")
def task():
    """A network of two layers for noise in four classes."""
    random = np.random.default_rng(0)
    images = random.integers(256, size=(200, SIDE, SIDE)).astype(np.uint8)
    data = LabelledImages(images, (np.arange(200) % CLASSES).astype(np.uint8), tuple("abcd"))
    params = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), classifier.weights(SIDE**2, 8, CLASSES))
    network = Pure(classifier.apply, params)
    return Task("noise", network, data, data, 0.5, lambda _: network)


@pytest.fixture(scope="module")
def trial(task, tmp_path_factory):
    """The network after 60 steps, with a checkpoint every 20."""
    return learn(task, tmp_path_factory.mktemp("noise") / "checkpoints", 60, marks=(0, 20, 40))


def exact_traces(params, images):
    params = jax.tree.map(lambda w: np.asarray(w, float), params)
    return np.array([np.trace(classifier.matrix(params, image / 255)) for image in images])


def test_traces_are_those_of_the_batch_that_is_learnt_from_next(trial):
    outcome = history.follow_training(trial, history.Settings(60, 60, 2, every=20))
    assert outcome.data["step"] == [20, 40, 60]
    assert [row["step"] for row in outcome.rows] == [0, 20, 60]
    images = trial.task.train.images
    loss = lambda w, batch, key, step: (jnp.sum(w), {"rows": batch})  # noqa: E731
    run = {"key": jax.random.key(trial.seed), "steps": 61, "chunk": 61}
    seen = models.train(loss, jnp.zeros(1), np.arange(200), **run).metrics["rows"].astype(int)
    for k, step in enumerate(outcome.data["step"]):
        params = trial.log_prob_at(step).args[0]
        for name, rows in (("training batch", seen[step]), ("reference batch", np.arange(60))):
            expected = exact_traces(params, images[rows])
            np.testing.assert_allclose(outcome.data[name]["mean"][k], expected.mean(), rtol=1e-4)
            np.testing.assert_allclose(outcome.data[name]["median"][k], np.median(expected), rtol=1e-4)
    of_noise = outcome.data["returns"]["reference batch, mean, raw"].first
    np.testing.assert_allclose(of_noise, 0.25 * outcome.data["reference batch"]["mean"][0], rtol=1e-6)
    assert outcome.data["reference batch"]["rank, jacobian"].tolist() == [CLASSES - 1] * 3
    assert outcome.data["reference batch"]["rank, distribution"].tolist() == [CLASSES - 1] * 3
    assert set(outcome.figures) == {"history"}


def test_a_short_training_has_no_curves(trial):
    outcome = history.follow_training(trial, history.Settings(60, 60, 2))
    assert outcome.notes[-1] == "Curves begin at step 100: train for longer."
    assert [row["step"] for row in outcome.rows] == [0, 20, 60]


def test_checkpoints_that_an_earlier_training_did_not_keep_are_made_up_for(task, trial, tmp_path):
    learn(task, tmp_path, 60, marks=(0,))
    assert models.checkpoint_steps(tmp_path) == [0, 60]
    again = learn(task, tmp_path, 60, marks=(0, 20, 40, 80))
    assert models.checkpoint_steps(tmp_path) == [0, 20, 40, 60]
    for step in (20, 40, 60):
        jax.tree.map(
            np.testing.assert_array_equal, again.log_prob_at(step).args, trial.log_prob_at(step).args
        )


def test_a_curve_is_back_where_it_falls_through_its_first_value():
    assert returns.first_return([0, 10, 20, 30, 40], [2.0, 1.0, 6.0, 4.0, 0.0]) == 35
    assert returns.first_return([0, 10, 20], [2.0, 3.0, 2.0]) == 20
    assert np.isnan(returns.first_return([0, 10, 20], [2.0, 3.0, 2.5]))
    assert np.isnan(returns.first_return([0, 10, 20], [2.0, 1.0, 0.0]))


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        (
            [1.0, 2.0, 0.0, 0.5],
            "highest 2 at step 200; back at its first value near step 250 (250 to 250; 100%",
        ),
        ([1.0, 2.0, 4.0, 3.0], "not back at its first value up to step 400 (0% of the resamples are back)"),
        ([1.0, 0.5, 0.8, 0.9], "never above its first value; at the end 0.9 times the first (0.9 to 0.9)"),
    ],
)
def test_verdicts_can_go_either_way(curve, words):
    steps, same = [100, 200, 300, 400], np.tile(curve, (5, 1))
    assert words in returns.sentence("tr G", returns.judge(steps, curve, same), 400)


def test_resampled_means_spread_as_the_standard_error_says():
    traces = np.random.default_rng(0).exponential(size=(2, 400))
    for shared in (True, False):
        drawn = returns.resample(traces, np.mean, shared=shared)
        np.testing.assert_allclose(drawn.std(axis=0), traces.std(axis=1) / 20, rtol=0.1)
    together = np.corrcoef(returns.resample(traces[[0, 0]], np.mean, shared=True).T)[0, 1]
    assert together == pytest.approx(1)
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.15
