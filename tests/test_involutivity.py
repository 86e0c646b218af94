"""Defects of involutivity by differences, next to derivatives, and what random directions give."""

from functools import partial

import classifier
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import manifold_jax as mj
from manifold_jax.experiments.classifier import involutivity
from manifold_jax.experiments.classifier.involutivity import difference_defect, random_defect
from manifold_jax.experiments.classifier.task import learn, make_task, sample

X = np.random.default_rng(3).normal(size=8)


def test_defect_by_differences_converges_to_that_by_derivatives(x64):
    params = classifier.weights(n=8, hidden=12, classes=4, scale=2.0)
    defect = jax.jit(partial(difference_defect, classifier.network(params)))
    want = classifier.defect(params, X)
    errors = [abs(float(defect(X.reshape(4, 2), h)) - want) for h in (0.04, 0.02, 0.01)]
    orders = np.log2(errors[:-1]) - np.log2(errors[1:])
    np.testing.assert_allclose(orders, 2, atol=0.2)


def test_a_relu_network_has_a_defect_across_its_kinks_only(x64):
    relu = classifier.network(classifier.weights(n=8, hidden=12, classes=4), classifier.relu_apply)
    defect = jax.jit(partial(difference_defect, relu))
    inside, across = (float(defect(jnp.asarray(X), h)) for h in (1e-4, 2.0))
    assert inside < 1e-6
    assert across > 0.1


def test_random_directions_have_the_defect_of_a_random_subspace():
    random = np.random.default_rng(0)
    basis = np.linalg.qr(random.normal(size=(40, 9)))[0]
    vectors = random.normal(size=(20_000, 40))
    vertical = vectors - vectors @ basis @ basis.T
    assert random_defect(9, 40) == pytest.approx(np.linalg.norm(vertical) / np.linalg.norm(vectors), rel=3e-3)


@pytest.mark.slow
def test_the_experiment_reports_the_functions_of_the_package(tmp_path):
    trial = learn(make_task("digits"), tmp_path / "digits", 20, marks=())
    outcome = involutivity.run(trial, involutivity.Settings(images=12, lengths=(0.1,)))
    image, log_prob = sample(trial.task.test, 12)[0][0], trial.log_prob
    want = {
        "pixels, derivatives": mj.involutivity_defect(log_prob, image),
        "pixels, differences over 0.1": difference_defect(log_prob, image, 0.1 * trial.task.std),
        "parameters, derivatives": mj.fisher_involutivity_defect(log_prob.func, *log_prob.args, image),
    }
    assert list(outcome.data) == list(want)
    for row, (name, first) in zip(outcome.rows, want.items(), strict=True):
        values = outcome.data[name]
        np.testing.assert_allclose(values[0], first, rtol=1e-2, atol=1e-4)
        assert len(values) == row["images"] == 12
        assert row["least"] <= row["from"] <= row["defect"] <= row["to"] <= row["most"]
    # By derivatives the brackets over the pixels cannot leave D, over the parameters they do.
    assert outcome.rows[0]["most"] < 1e-2
    assert outcome.rows[-1]["defect"] > 0.1
