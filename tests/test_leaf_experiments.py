"""Experiments on a small network: what they report is what the functions of the package give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from manifold_jax import (
    horizontal_path,
    vertical_projection,
    vertical_walk,
)
from manifold_jax.experiments.classifier import across, paths, ranks
from manifold_jax.experiments.classifier.task import different_pairs, learn, make_task, read_images, sample
from manifold_jax.experiments.classifier.walks import PathOptions, Walks, walk_all
from manifold_jax.experiments.experiment import Outcome, plain, table


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """LeNet on 8 x 8 digits after 60 steps."""
    return learn(make_task("digits"), tmp_path_factory.mktemp("digits"), 60, marks=(0, 20))


def linear(w, x):
    return jax.nn.log_softmax(w @ x.ravel())


def linear_classifier(classes=3, n=6):
    return Partial(linear, jnp.asarray(np.random.default_rng(0).normal(size=(classes, n)), jnp.float32))


def test_digits_are_split_without_overlap_and_pairs_differ_in_class(trial):
    train, test = trial.task.train, trial.task.test
    assert len(train.labels) + len(test.labels) == 1797
    assert train.images.shape[1:] == (8, 8)
    assert train.images.max() == 255
    first, second = different_pairs(test.labels, 100)
    assert (test.labels[first] != test.labels[second]).all()
    assert len({*first, *second}) == 200
    with pytest.raises(ValueError, match="there are not 200 pairs of different classes among 360 images"):
        different_pairs(test.labels, 200)


@pytest.mark.slow
def test_paths_of_a_linear_classifier_end_where_the_rest_is_vertical():
    """D is the same everywhere, so the end is the source plus the horizontal part of the difference."""
    log_prob = linear_classifier()
    rng = np.random.default_rng(1)
    sources, destinations = (jnp.asarray(rng.uniform(size=(30, 6)), jnp.float32) for _ in range(2))
    options = PathOptions(0.02, 300, clip=False, step="fixed", tolerance=1e-3, save_every=100, unit=0.5)
    told = []
    ends = (sources, destinations)
    path = walk_all(horizontal_path, log_prob, ends, options, lambda *at: told.append(at))
    assert told == [(25, 30), (30, 30)]
    rest = jax.vmap(lambda s, d: vertical_projection(log_prob, s, d - s))(sources, destinations)
    np.testing.assert_allclose(path.points[:, -1], destinations - rest, atol=2e-3)
    row = paths.summarize(Walks(path, options))
    end, start = np.linalg.norm(rest, axis=1), np.linalg.norm(sources - destinations, axis=1)
    np.testing.assert_allclose(row["after"], np.median(end) / 0.5, rtol=1e-3)
    np.testing.assert_allclose(row["ratio"], np.median(end / start), rtol=1e-3)
    assert row["stalled"] == 1
    assert row["reached"] == 0


@pytest.mark.slow
def test_noise_of_a_linear_classifier_changes_no_probability():
    log_prob = linear_classifier()
    images = jnp.full((4, 6), 0.5)
    options = PathOptions(0.1, 20, clip=False, save_every=5, unit=0.3)
    directions = jax.random.normal(jax.random.key(0), images.shape)
    walk = walk_all(vertical_walk, log_prob, (images, directions), options)
    np.testing.assert_allclose(walk.distances[:, -1], 20 * 0.1 * 0.3, rtol=1e-4)
    np.testing.assert_allclose(walk.log_probs[:, -1], walk.log_probs[:, 0], atol=1e-5)


@pytest.mark.slow
def test_a_head_of_100_classes_has_the_rank_of_the_pixels(trial):
    outcome = ranks.run(trial, ranks.Settings(images=3))
    bounds = {row["network"]: row["bound C - 1"] for row in outcome.rows}
    assert bounds == {"untrained": 9, "step 60": 9, "untrained, 100 classes": 99}
    assert all(row["rank G: most"] <= min(row["bound C - 1"], 64) for row in outcome.rows)
    assert set(outcome.figures) == {"rank"}


@pytest.mark.slow
def test_the_gradient_is_horizontal_and_its_sign_is_not(trial):
    images, labels = sample(trial.task.test, 4)
    signs, gradients = across.fast_gradient_departure(trial.log_prob, images, labels)
    assert np.all(np.asarray(gradients) < 1e-4)
    assert np.all((np.asarray(signs) > 0.1) & (np.asarray(signs) < 1))


@pytest.mark.slow
def test_walks_across_are_reported_clamped_and_not(trial):
    outcome = across.run(trial, across.Settings(images=3, max_steps=100, directions=2))
    assert [row["clamp"] for row in outcome.rows] == [True] * 3 + [False] * 3
    free = [row for row in outcome.rows if not row["clamp"]]
    assert free[0]["noise level"] == 0
    # The chord of a path of 100 steps of 0.1.
    assert 5 < free[-1]["noise level"] <= 10 * (1 + 1e-5)
    clamped = [row for row in outcome.rows if row["clamp"]]
    labels = outcome.data["step 0.1 full, clamped"]["label"].reshape(2, 3, -1)
    kept = (labels[..., -1] == labels[..., 0]).mean(1)
    last = clamped[-1]
    assert (last["from"], last["same label"], last["to"]) == (kept.min(), kept.mean(), kept.max())
    np.testing.assert_array_equal(labels[0, :, 0], labels[1, :, 0])  # the same images
    assert clamped[-1]["noise level"] < free[-1]["noise level"]
    assert set(outcome.figures) == {"across_clamped", "across_free", "across_curves"}


SMALL = paths.Settings(pairs=2, max_steps=20, noise_steps=10, ways=2)


@pytest.mark.slow
def test_paths_between_classes_go_all_ways(trial):
    outcome = paths.between_classes(trial, SMALL._replace(ways=5))
    assert [(row["step"], row["kind"], row["clamp"]) for row in outcome.rows] == [
        (0.1, "full", True),
        (0.1, "full", False),
        (0.02, "full", True),
        (0.02, "full", False),
        (0.1, "controlled", False),
    ]
    assert all(0 < row["ratio"] <= 1 for row in outcome.rows)
    assert set(outcome.figures) == {"paths_curves", "paths_images"}


@pytest.mark.slow
def test_a_sweep_goes_over_the_checkpoints(trial):
    outcome = paths.sweep(trial, SMALL)
    assert [row["checkpoint"] for row in outcome.rows] == [0, 0, 60, 60]
    assert set(outcome.figures) == {"sweep"}


@pytest.mark.slow
def test_paths_to_letters_and_mirrored_digits(trial, tmp_path):
    letters = tmp_path / "letters.npz"
    np.savez(letters, images=trial.task.train.images[:3])
    outcome = paths.to_other_symbols(trial, SMALL, letters=letters)
    assert {row["paths"] for row in outcome.rows} == {"other class", "mirrored", "letter"}
    assert "--letters" in paths.to_other_symbols(trial, SMALL).notes[-1]


@pytest.mark.slow
def test_paths_from_and_to_noise(trial):
    outcome = paths.from_noise(trial, SMALL)
    assert len(outcome.rows) == 8
    assert set(outcome.figures) == {"noisy_curves", "noisy_images"}


def test_short_walks_show_each_saved_point_once():
    for steps, shown in ((30, [0]), (60, [0]), (1000, [0, 1, 2, 5, 10, 20])):
        assert across.shown_slots(across.options_of(steps, True, 1.0)) == shown


def test_letters_of_the_wrong_kind_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        read_images(tmp_path / "none.npz", (8, 8))
    bad = tmp_path / "bad.npz"
    np.savez(bad, images=np.zeros((2, 9, 9), np.uint8))
    with pytest.raises(ValueError, match=r"must be uint8 of shape \(n, 8, 8\), got uint8 \(2, 9, 9\)"):
        read_images(bad, (8, 8))
    np.savez(bad, pictures=np.zeros(2))
    with pytest.raises(ValueError, match=r"is not an \.npz file with an array named images"):
        read_images(bad, (8, 8))
    bad.write_text("text")
    with pytest.raises(ValueError, match=r"is not an \.npz file"):
        read_images(bad, (8, 8))


def test_tables_and_json_know_no_infinity():
    rows = [{"a": np.float32(np.inf), "b": True, "c": None}]
    outcome = Outcome("title", rows, {"x": jnp.array([1.0, jnp.nan])}, {})
    assert [list(column.cells) for column in table(outcome, 80).columns] == [["-"], ["yes"], ["-"]]
    narrow = table(outcome, 10)
    assert [[str(c.header), *c.cells] for c in narrow.columns] == [["a", "b", "c"], ["-", "yes", "-"]]
    assert plain(outcome.data) == {"x": [1.0, None]}
    assert plain(rows[0]["a"]) is None
