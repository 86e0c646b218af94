"""Algorithm 1 as its code ran it, and with three other projections."""

import classifier
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from manifold_jax import horizontal_path
from manifold_jax.datasets import LabelledImages
from manifold_jax.experiments.classifier import projections
from manifold_jax.experiments.classifier.algorithm import (
    algorithm_paths,
    closest_by_chance,
    full_rank_projection,
    noise_level,
    random_speed,
)
from manifold_jax.experiments.classifier.command import _numbers
from manifold_jax.experiments.classifier.task import Task, Trial
from manifold_jax.models import Pure

OPTIONS = {"step_size": 0.1, "tolerance": 0.5, "clip": (-np.inf, np.inf), "steps": 120, "save_every": 60}


def linear_logits(weights, bias, x):
    return weights @ jnp.ravel(x) + bias


def linear_log_prob(weights, bias, x):
    return jax.nn.log_softmax(linear_logits(weights, bias, x))


def make_linear(dtype=np.float32, bias=0.0, classes=4, side=5):
    random = np.random.default_rng(0)
    weights = random.normal(size=(classes, side**2)) / side
    source, destination = random.normal(size=(2, side, side))
    biases = bias * np.eye(classes)[0]
    return tuple(jnp.asarray(array, dtype) for array in (weights, biases, source, destination))


def walk(way, *options, **changes):
    weights, bias, source, destination = make_linear(*options)
    functions = Partial(linear_log_prob, weights, bias), Partial(linear_logits, weights, bias)
    ends, keys = (source[None], destination[None]), jax.random.split(jax.random.key(0), 1)
    walked = algorithm_paths(*functions, ends, keys, way=way, **OPTIONS | changes)
    return jax.tree.map(lambda a: np.asarray(a[0]), walked)


def test_independent_vectors_have_one_projection():
    random = np.random.default_rng(1)
    rows, v = random.normal(size=(3, 20)), random.normal(size=20)
    expected = rows.T @ np.linalg.lstsq(rows.T, v, rcond=None)[0]
    np.testing.assert_allclose(full_rank_projection(jnp.asarray(rows), jnp.asarray(v)), expected, atol=1e-5)


@pytest.mark.slow
def test_by_rank_it_is_the_horizontal_path():
    weights, bias, source, destination = make_linear()
    options = {"step": "full", "step_size": 0.1, "max_steps": 120, "save_every": 60, "tolerance": 0.5}
    path = horizontal_path(Partial(linear_log_prob, weights, bias), source, destination, **options)
    walked = walk("rank")
    np.testing.assert_allclose(walked.points, path.points, atol=1e-4)
    np.testing.assert_allclose(walked.distances, path.distances, rtol=1e-4)
    assert np.nanmax(walked.vertical) < 1e-10


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
def test_full_rank_steps_leave_the_distribution(dtype):
    # Of a linear classifier D_x is the same everywhere, so what is left of the way is vertical in the end.
    with jax.enable_x64(dtype == np.float64):
        longer = {"steps": 360, "save_every": 180}  # rounding sets the pace, and differs between machines
        walked, by_rank = walk("full rank", dtype, **longer), walk("rank", dtype, **longer)
    assert walked.distances.dtype == dtype
    assert walked.singular[-1] < 100 * np.finfo(dtype).eps
    assert walked.vertical[-1] > 0.1
    assert walked.distances[-1] < 0.95 * by_rank.distances[-1]


@pytest.mark.slow
def test_a_confident_class_gives_the_gradient_of_its_logit():
    """1 - p_k has few digits, so that the column of class k keeps a part of the gradient of logit k."""
    sure = walk("full rank", np.float32, 13.0)
    assert np.exp(sure.log_probs[-1, 0]) > 0.999
    assert sure.singular[-1] > 1e-5  # rounding alone leaves 1e-7
    assert sure.logits[-1] > 0.99
    assert sure.vertical[-1] > 0.01


@pytest.mark.slow
def test_a_way_without_projection_arrives():
    walked = walk("none")
    assert walked.steps == np.ceil((walked.distances[0] - 0.5) / 0.1)
    assert walked.distances[-1] <= 0.5


@pytest.mark.slow
def test_steps_that_do_not_fill_the_last_record_are_made():
    walked, one_by_one = walk("rank", steps=7, save_every=3), walk("rank", steps=7, save_every=1)
    assert walked.steps == one_by_one.steps == 7
    np.testing.assert_allclose(walked.distances, one_by_one.distances[[0, 3, 6, 7]], rtol=1e-6)


def test_random_directions_make_the_predicted_progress():
    random = np.random.default_rng(2)
    cosines = random.normal(size=(4000, 784))
    cosines = np.abs(cosines[:, 0]) / np.linalg.norm(cosines, axis=1)
    assert random_speed(0.1, 784) == pytest.approx(0.1 * cosines.mean(), rel=0.03)
    distance = 2.5
    walked = [distance := np.sqrt(distance**2 - 0.2 * distance * cosine + 0.01) for cosine in cosines]
    assert closest_by_chance(0.1, 784) == pytest.approx(np.mean(walked[2000:]), rel=0.03)


def test_noise_is_seen_and_slopes_are_not():
    ramp = np.add.outer(np.arange(64.0), 3 * np.arange(64.0))
    noise = np.random.default_rng(3).normal(scale=0.2, size=(64, 64))
    assert noise_level(jnp.asarray(ramp + noise)) == pytest.approx(0.2, rel=0.05)


def test_pairs_are_read():
    assert _numbers("3898:9709,1:2") == ((3898, 9709), (1, 2))
    for wrong in ("1", "1:2:3", "a:b", ""):
        with pytest.raises(ValueError, match=r"--between must be pairs of numbers, such as 12:34"):
            _numbers(wrong)


@pytest.fixture
def trial(tmp_path):
    """A small network that is not trained, for noise in four classes, and a file of letters."""
    random = np.random.default_rng(0)
    images = random.integers(256, size=(40, 6, 6)).astype(np.uint8)
    data = LabelledImages(images, (np.arange(40) % 4).astype(np.uint8), tuple("abcd"))
    network = Pure(classifier.apply, jax.tree.map(jnp.float32, classifier.weights(36, 8, 4)))
    np.savez(tmp_path / "letters.npz", images=255 - images[:3])
    task = Task("noise", network, data, data, 0.5, lambda _: network)
    return Trial(task, tmp_path, 0, weights="none")


@pytest.mark.thorough
def test_paths_go_to_mirrored_images_letters_and_noise(trial, tmp_path):
    images, settings = trial.task.test.images / 255, projections.Settings(pairs=5)
    valid = projections.draw_pairs(trial, settings, None)
    assert (valid.labels != trial.task.test.labels[valid.rows[:, 0]]).all()
    np.testing.assert_allclose(valid.destinations, images[valid.rows[:, 1]], rtol=1e-6)
    mirrored = projections.draw_pairs(trial, settings._replace(destination="mirrored"), None)
    np.testing.assert_allclose(mirrored.destinations, valid.destinations[:, :, ::-1], rtol=1e-6)
    letters = tmp_path / "letters.npz"
    letter = projections.draw_pairs(trial, settings._replace(destination="letter"), letters)
    assert letter.labels is None
    assert letter.rows.shape == (3, 2)
    np.testing.assert_allclose(letter.destinations, 1 - images[letter.rows[:, 1]], atol=1e-6)
    noisy = projections.draw_pairs(trial, settings._replace(source="noisy"), None)
    moved = np.linalg.norm((noisy.sources - valid.sources).reshape(5, -1), axis=1)
    assert (moved > 10 * 0.1 * 0.5).all()  # much of 250 steps of 0.1, with the clamp
    np.testing.assert_array_equal(noisy.destinations, valid.destinations)
    own = projections.draw_pairs(trial, settings._replace(source="noisy", destination="own"), None)
    np.testing.assert_array_equal(own.sources, noisy.sources)
    np.testing.assert_array_equal(own.destinations, valid.sources)
    np.testing.assert_array_equal(own.labels, trial.task.test.labels[valid.rows[:, 0]])


def test_pairs_that_there_are_not_are_refused(trial):
    settings = projections.Settings(pairs=5, destination="letter")
    with pytest.raises(ValueError, match="--destination letter needs the file of --letters"):
        projections.draw_pairs(trial, settings, None)
    with pytest.raises(ValueError, match="--between names test images"):
        projections.check(settings._replace(between=((1, 2),)))
    with pytest.raises(ValueError, match="--source must be one of 'valid', 'noisy', got 'letter'"):
        projections.check(settings._replace(source="letter"))
    with pytest.raises(ValueError, match="--destination own is the image before the noise: give --source no"):
        projections.check(settings._replace(destination="own"))
