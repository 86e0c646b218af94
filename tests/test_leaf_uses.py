"""Denoising, detection and generation on a trained classifier: closed forms, oracles, small runs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from classifier import centred_projector, linear, network, score_rows, weights
from flax import nnx
from jax.tree_util import Partial

from manifold_jax.datasets import LabelledImages
from manifold_jax.experiments.classifier import denoise as leaf_denoise
from manifold_jax.experiments.classifier import detect as leaf_detect
from manifold_jax.experiments.classifier import generate as leaf_generate
from manifold_jax.experiments.classifier.along import (
    CLASS,
    CLASS_LINE,
    KEPT,
    RANDOM,
    RANDOM_LINE,
    Steps,
    fisher_rao_lengths,
    keeping_direction,
    walks,
)
from manifold_jax.experiments.classifier.pairs import (
    Training,
    anchors_of,
    in_blocks,
    layer,
    nearest,
    outputs,
    projections,
    split,
)
from manifold_jax.experiments.classifier.scores import (
    auroc,
    class_gaussians,
    energy_score,
    mahalanobis_score,
    max_softmax_score,
    rank_correlation,
    subspace_score,
)
from manifold_jax.experiments.classifier.task import learn, log_prob_at, task
from manifold_jax.experiments.experiment import table, write
from manifold_jax.models import VGG11, LeNet, pure
from manifold_jax.plotting.images import image_grid

SHAPE = (3, 4)


@pytest.fixture(scope="module")
def digits():
    return task("digits")


@pytest.fixture(scope="module")
def untrained(digits):
    return Partial(digits.apply, digits.params)


@pytest.fixture
def training():
    rng = np.random.default_rng(0)
    return Training(rng.random((40, *SHAPE), np.float32), np.arange(40) % 4)


def linear_weights(seed=1, classes=4):
    return np.random.default_rng(seed).normal(size=(classes, 12)).astype(np.float32)


# --- pairs -------------------------------------------------------------------------------------------------


def test_blocks_equal_one_call_and_report_all_rows():
    a = np.arange(7, dtype=np.float32)
    shapes, told = [], []

    def double(part, other):
        shapes.append(part.shape)
        return {"twice": part + other}

    found = in_blocks(double, a, a, block=3, progress=lambda done, total: told.append((done, total)))
    np.testing.assert_array_equal(found["twice"], 2 * a)
    assert shapes == [(3,)] * 3
    assert told == [(3, 7), (6, 7), (7, 7)]
    assert in_blocks(double, a, a, block=100)["twice"].shape == (7,)
    with pytest.raises(ValueError, match="positive block"):
        in_blocks(double, a, a, block=0)


def test_projections_of_a_linear_classifier_keep_the_vertical_part_of_the_chord(training):
    w = linear_weights()
    images = np.random.default_rng(2).random((5, *SHAPE), np.float32)
    anchors = training.images[:5]
    found = projections(linear(w), anchors, images, step_size=0.5, max_steps=50, tolerance=1e-4, block=2)
    chords = (images - anchors).reshape(5, -1)
    horizontal = chords @ centred_projector(w.astype(float)).T
    np.testing.assert_allclose(found.point.reshape(5, -1), anchors.reshape(5, -1) + horizontal, atol=2e-4)
    np.testing.assert_allclose(found.distance, np.linalg.norm(chords - horizontal, axis=1), rtol=1e-4)
    assert found.converged.all()


def test_nearest_is_that_of_all_pairs(training, monkeypatch):
    monkeypatch.setattr("manifold_jax.experiments.classifier.pairs._COLUMNS", 7)
    images = np.random.default_rng(3).random((6, *SHAPE), np.float32)
    distances = np.linalg.norm((images[:, None] - training.images).reshape(6, 40, -1), axis=2)
    row, distance = nearest(images, training)
    np.testing.assert_array_equal(row, distances.argmin(axis=1))
    np.testing.assert_allclose(distance, distances.min(axis=1), rtol=1e-6)
    classes = np.array([0, 1, 2, 3, 0, 1])
    masked = np.where(training.labels == classes[:, None], distances, np.inf)
    np.testing.assert_array_equal(nearest(images, training, classes)[0], masked.argmin(axis=1))
    with pytest.raises(ValueError, match="no training image of class 9"):
        nearest(images, training, np.full(6, 9))


def test_anchors(training):
    images, classes = training.images[:4] + 1e-3, np.array([3, 2, 1, 0])
    np.testing.assert_array_equal(anchors_of("any", images, classes, training), training.images[:4])
    own = anchors_of("class", images, classes, training)
    row = nearest(images, training, classes)[0]
    np.testing.assert_array_equal(own, training.images[row])
    assert (training.labels[row] == classes).all()
    mean = anchors_of("mean", images, classes, training)
    np.testing.assert_allclose(mean[0], training.images[3::4].mean(axis=0), rtol=1e-6)
    with pytest.raises(ValueError, match="class, any, mean"):
        anchors_of("median", images, classes, training)
    with pytest.raises(ValueError, match="predicted class"):
        anchors_of("mean", images, classes + 5, training)


def test_split_is_disjoint_and_repeats(digits):
    chosen, fitted = split(digits.train, 100, 10**6, 0)
    assert len(chosen.labels) == 100
    assert len(chosen.labels) + len(fitted.labels) == len(digits.train.labels)
    joined = np.concatenate([chosen.images, fitted.images]).reshape(len(digits.train.labels), -1)
    pixels = digits.train.images.reshape(joined.shape) / 255
    np.testing.assert_allclose(np.sort(joined, axis=0), np.sort(pixels, axis=0), rtol=1e-6)
    np.testing.assert_array_equal(split(digits.train, 100, 50, 0)[0].images, chosen.images)
    with pytest.raises(ValueError, match="validation"):
        split(digits.train, len(digits.train.labels), 10, 0)


# --- layers and scores -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "shape", "width"),
    [
        (partial(LeNet, size=8), (8, 8), 128),
        pytest.param(partial(VGG11, width=1), (32, 32, 3), 8, marks=pytest.mark.slow),
    ],
    ids=["LeNet", "VGG11"],
)
def test_layers_compose_to_the_classifier(module, shape, width):
    network = module(rngs=nnx.Rngs(0))
    apply, params = pure(network)
    log_prob = Partial(apply, params)
    x = jax.random.uniform(jax.random.key(0), shape)
    parts = layer(log_prob, "features"), layer(log_prob, "logits"), log_prob
    features, logits, log_p = jax.jit(lambda parts, x: [part(x) for part in parts])(parts, x)
    assert features.shape == (width,)
    kernel, bias = network.output.kernel[...], network.output.bias[...]
    np.testing.assert_allclose(logits, features @ kernel + bias, rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(jax.nn.log_softmax(logits), log_p, rtol=1e-5, atol=1e-6)
    assert apply.of("logits") == apply.of("logits") != apply
    with pytest.raises(ValueError, match=r"no method 'bones'"):
        apply.of("bones")(params, x)
    with pytest.raises(ValueError, match="logits are needed"):
        layer(Partial(jax.nn.log_softmax), "logits")


def test_scores_against_numpy():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 4)) * 3
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(max_softmax_score(np.log(p)), -np.log(p.max(axis=1)))
    np.testing.assert_allclose(energy_score(logits), -np.log(np.exp(logits).sum(axis=1)))
    assert np.isfinite(energy_score(logits + 1e4)).all()
    rows = np.linalg.qr(rng.normal(size=(5, 2)))[0].T
    x, mean = rng.normal(size=(6, 5)), rng.normal(size=5)
    solved = [np.linalg.lstsq(rows.T, chord, rcond=None)[1][0] ** 0.5 for chord in x - mean]
    np.testing.assert_allclose(subspace_score(x, mean, rows), solved)


def test_mahalanobis_against_numpy_also_with_a_dead_unit():
    rng = np.random.default_rng(1)
    labels = np.arange(60) % 3
    features = rng.normal(size=(60, 4)) @ rng.normal(size=(4, 4)) + 3 * labels[:, None]
    fitted = class_gaussians(features, labels)
    means = np.stack([features[labels == c].mean(axis=0) for c in range(3)])
    within = np.concatenate([features[labels == c] - means[c] for c in range(3)])
    inverse = np.linalg.inv(within.T @ within / 60)
    test = rng.normal(size=(7, 4)) * 4
    expected = [min((f - m) @ inverse @ (f - m) for m in means) for f in test]
    np.testing.assert_allclose(mahalanobis_score(test, fitted), expected, rtol=1e-8)
    dead = class_gaussians(np.pad(features, ((0, 0), (0, 1))), labels)
    np.testing.assert_allclose(mahalanobis_score(np.pad(test, ((0, 0), (0, 1))), dead), expected, rtol=1e-8)


def test_auroc_and_its_error():
    inside, outside = np.arange(10.0), np.arange(10.0) + 20
    assert auroc(inside, outside) == (1.0, 0.0)
    assert auroc(outside, inside) == (0.0, 0.0)
    assert auroc(np.zeros(8), np.zeros(8))[0] == 0.5
    rng = np.random.default_rng(0)
    draws = [auroc(rng.normal(size=40), rng.normal(size=30) + 1) for _ in range(300)]
    areas, errors = np.array(draws).T
    np.testing.assert_allclose(areas.mean(), 0.7602, atol=0.01)  # Phi(1 / sqrt 2)
    np.testing.assert_allclose(errors.mean(), areas.std(), rtol=0.15)
    count = np.mean([[a < b for a in inside] for b in inside + 0.5])
    np.testing.assert_allclose(auroc(inside, inside + 0.5)[0], count)


def test_rank_correlation_sees_order_only():
    x = np.random.default_rng(0).normal(size=20)
    assert rank_correlation(x, np.exp(x)) == pytest.approx(1)
    assert rank_correlation(x, -x) == pytest.approx(-1)
    assert np.isnan(rank_correlation(x, np.zeros(20)))


def test_psnr_is_that_of_scikit_image():
    from skimage.metrics import peak_signal_noise_ratio

    rng = np.random.default_rng(0)
    clean, other = rng.random((3, 5, 5)), rng.random((3, 5, 5))
    expected = [peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(clean, other, strict=True)]
    np.testing.assert_allclose(leaf_denoise.psnr(other, clean), expected)
    np.testing.assert_allclose(leaf_denoise.psnr(clean, clean), 100)


# --- walks -------------------------------------------------------------------------------------------------


def test_keeping_direction_is_horizontal_and_never_lowers_the_label(x64):
    w = weights(n=6, hidden=8, classes=4)
    log_prob = network(w)
    along = jax.jit(keeping_direction)
    rng = np.random.default_rng(0)
    lowered = 0
    for _ in range(8):
        x, direction = rng.normal(size=6), rng.normal(size=6)
        rows = score_rows(w, x)
        projector = centred_projector(rows)
        u = projector @ direction
        if rows[1] @ u < 0:
            lowered += 1
            u -= (u @ rows[1]) * rows[1] / (rows[1] @ rows[1])
        found = along(log_prob, jnp.asarray(x), jnp.asarray(1), jnp.asarray(direction))
        np.testing.assert_allclose(found, u / np.linalg.norm(u), atol=1e-8)
        assert rows[1] @ np.asarray(found) > -1e-9
    assert 0 < lowered < 8


def test_keeping_direction_where_p_saturates():
    w = linear_weights(classes=2)
    x = 40 * (w[0] - w[1])
    direction = jnp.asarray((w[1] - w[0]).reshape(SHAPE))
    at = jnp.asarray(x.reshape(SHAPE))
    along = jax.jit(keeping_direction)
    np.testing.assert_array_equal(along(linear(w), at, jnp.asarray(0), direction), 0)
    there = along(linear(w), at, jnp.asarray(0), -direction)
    np.testing.assert_allclose(np.linalg.norm(there), 1, rtol=1e-6)


def test_walks_of_a_linear_classifier():
    w = linear_weights()
    rng = np.random.default_rng(5)
    sources, ends, directions = (rng.random((3, *SHAPE), np.float32) for _ in range(3))
    labels = outputs(linear(w), sources).argmax(axis=1)
    told = []
    found = walks(
        linear(w),
        sources,
        labels,
        ends,
        directions,
        Steps(0.1, 20, 5, 1e-3),
        block=2,
        progress=lambda done, total: told.append((done, total)),
    )
    assert list(found) == [CLASS, CLASS_LINE, RANDOM, RANDOM_LINE, KEPT]
    assert told[-1] == (9, 9)
    projector = centred_projector(w.astype(float))
    for name in (CLASS, RANDOM, KEPT):
        chords = (found[name].points[:, -1] - sources).reshape(3, -1)
        np.testing.assert_allclose(chords @ projector.T, chords, atol=2e-5)
        assert found[name].points.shape == (3, 5, *SHAPE)
        np.testing.assert_allclose(found[name].walked[:, 0], 0)
    np.testing.assert_allclose(found[RANDOM].walked[:, -1], 2, rtol=1e-4)
    np.testing.assert_allclose(found[KEPT].walked[:, -1], 2, rtol=1e-4)
    along = directions.reshape(3, -1) @ projector.T
    chords = (found[RANDOM].points[:, -1] - sources).reshape(3, -1)
    expected = 2 * along / np.linalg.norm(along, axis=1, keepdims=True)
    np.testing.assert_allclose(chords, expected, atol=5e-3)  # a destination that is far, not infinitely
    own = np.take_along_axis(found[KEPT].log_probs, labels[:, None, None], axis=2)[..., 0]
    assert (np.diff(own, axis=1) > -5e-3).all()  # second order in the step
    assert (own[:, -1] > found[RANDOM].log_probs[np.arange(3), -1, labels]).any()
    for leaf, line in ((CLASS, CLASS_LINE), (RANDOM, RANDOM_LINE)):
        np.testing.assert_allclose(found[line].moved, found[leaf].moved, rtol=1e-4)


def test_fisher_rao_length_from_class_to_class_is_pi():
    t = np.linspace(0, np.pi / 2, 2000)
    log_p = np.log(np.maximum(np.stack([np.cos(t), np.sin(t)], axis=1), 1e-30) ** 2)
    found = fisher_rao_lengths(log_p[None])
    np.testing.assert_allclose(found[0, [0, -1]], [0, np.pi], atol=1e-5)


# --- pictures ----------------------------------------------------------------------------------------------


def test_image_grid_names_everything():
    image = np.random.default_rng(0).random((4, 4))
    figure = image_grid(
        "title",
        [[image, image - 0.5], [image, None]],
        rows=["first", "second"],
        columns=["a", "b"],
        captions=[["x", ""], ["", ""]],
        differences=(1,),
    )
    grid = figure.axes[:4]
    assert [axes.get_title() for axes in grid[:2]] == ["a", "b"]
    assert [axes.get_ylabel() for axes in grid[::2]] == ["first", "second"]
    assert grid[0].get_xlabel() == "x"
    assert not grid[3].images
    assert {axes.get_ylabel() for axes in figure.axes[4:]} == {
        "pixel, clipped to [0, 1]",
        "difference of pixels",
    }
    low, high = grid[1].images[0].get_clim()
    assert low == -high == -np.abs(image - 0.5).max()


# --- sets of images ----------------------------------------------------------------------------------------


def test_digits_are_told_from_rearranged_ones_and_noise(digits):
    sets, notes = leaf_detect.image_sets(digits, 20)
    assert list(sets) == ["digits test", "permuted pixels", "inverted", "uniform noise", "Gaussian noise"]
    assert notes == []
    for images in sets.values():
        assert images.shape == (20, 8, 8)
        assert images.min() >= 0
        assert images.max() <= 1
    again = leaf_detect.image_sets(digits, 20)[0]
    assert all((again[name] == images).all() for name, images in sets.items())


def test_letters(digits, tmp_path):
    letters = np.random.default_rng(0).integers(0, 255, (30, 8, 8), np.uint8)
    np.savez(tmp_path / "letters.npz", images=letters)
    sets, _ = leaf_detect.image_sets(digits, 20, letters=tmp_path / "letters.npz")
    assert list(sets)[:2] == ["digits test", "letters"]


def test_missing_sets_are_noted(digits, tmp_path):
    blank = LabelledImages(np.zeros((9, 28, 28), np.uint8), np.zeros(9, np.uint8), ("0", "1"))
    mnist = digits._replace(name="mnist", train=blank, test=blank)
    sets, notes = leaf_detect.image_sets(mnist, 4, path=tmp_path)
    assert list(sets)[1:3] == ["permuted pixels", "inverted"]
    assert any("fashion-mnist" in note for note in notes)
    assert any("letters" in note for note in notes)


# --- bad input ---------------------------------------------------------------------------------------------


def test_denoise_refuses(digits, untrained):
    small = leaf_denoise.REDUCED
    for settings, words in (
        (small._replace(levels=()), "levels"),
        (small._replace(levels=(0.1, -1.0)), "levels"),
        (small._replace(anchors=()), "an anchor"),
        (small._replace(components=(9999,)), "components"),
        (small._replace(images=10**6), "number of images"),
    ):
        with pytest.raises(ValueError, match=words):
            leaf_denoise.run(digits, untrained, settings)


def test_detect_refuses(digits, untrained):
    small = leaf_detect.REDUCED
    for settings, words in (
        (small._replace(anchors=()), "an anchor"),
        (small._replace(variance=1.5), "variance"),
        (small._replace(training=1), "training"),
    ):
        with pytest.raises(ValueError, match=words):
            leaf_detect.run(digits, untrained, settings)


def test_generate_refuses(digits, untrained):
    small = leaf_generate.REDUCED
    with pytest.raises(ValueError, match="must be images"):
        leaf_generate.run(digits, untrained, small._replace(images=0))
    with pytest.raises(ValueError, match="classified as labelled"):
        leaf_generate.run(digits, untrained, small._replace(images=300))


# --- whole runs --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    learn(digits, folder, 600)
    return log_prob_at(digits, folder)


def written(outcome, tmp_path, stems):
    names = {path.name for path in write(outcome, tmp_path, "found", {})}
    assert names == {"found.json", "found.txt", *(f"{stem}.png" for stem in stems)}
    assert len({tuple(row) for row in outcome.rows}) == 1
    assert table(outcome, 500).row_count == len(outcome.rows)


@pytest.mark.slow
def test_denoise_run(digits, trained, tmp_path):
    settings = leaf_denoise.REDUCED._replace(
        images=12, levels=(0.1, 0.4), anchors=("class", "any", "mean"), block=20
    )
    told = []
    found = leaf_denoise.run(digits, trained, settings, progress=lambda *done: told.append(done))
    assert told[-1] == (72, 72)
    rows = {row["method"]: row for row in found.rows}
    assert rows["noisy image"]["sd 0.1"] == pytest.approx(20, abs=0.5)  # -20 log10 0.1
    for name in ("principal components", "total variation"):
        assert rows[name]["sd 0.4"] > rows["noisy image, clipped"]["sd 0.4"]
    leaf = found.data["leaf"]
    assert (leaf["distance"] < leaf["anchor_distance"]).all()
    assert all(np.isfinite(value).all() for value in found.data["psnr"].values())
    assert found.data["components"][0] > found.data["components"][1]
    assert found.data["tv_weights"][0] < found.data["tv_weights"][1]
    written(found, tmp_path, ["leaf_denoise", "leaf_denoise_psnr"])


@pytest.mark.slow
def test_detect_run(digits, trained, tmp_path):
    settings = leaf_detect.REDUCED._replace(images=16, anchors=("any", "mean"), block=20)
    found = leaf_detect.run(digits, trained, settings)
    rows = {row["score"]: row for row in found.rows}
    assert rows["nearest training image"]["vs inverted"] == 1
    assert rows["leaf distance (nearest image)"]["vs uniform noise"] > 0.9
    near, leaf = (
        np.concatenate(list(found.data["scores"][name].values()))
        for name in ("nearest training image", "leaf distance (nearest image)")
    )
    assert (leaf <= near + 1e-5).all()
    ratio = np.concatenate(list(found.data["scores"]["leaf ratio (nearest image)"].values()))
    np.testing.assert_allclose(ratio, leaf / near, rtol=1e-4)
    written(found, tmp_path, ["leaf_detect", "leaf_detect_distances"])


@pytest.mark.slow
def test_generate_run(digits, trained, tmp_path):
    settings = leaf_generate.REDUCED._replace(images=8, max_steps=40)
    found = leaf_generate.run(digits, trained, settings)
    rows = {row["way"]: row for row in found.rows}
    assert list(rows) == ["test images", CLASS, CLASS_LINE, RANDOM, RANDOM_LINE, KEPT]
    assert rows["test images"]["label kept"] == 1
    assert rows["test images"]["FR length"] == rows["test images"]["out of range"] == 0
    assert rows[KEPT]["label kept"] >= rows[RANDOM]["label kept"]
    assert rows[KEPT]["walked"] == pytest.approx(2, rel=0.01)
    written(found, tmp_path, ["leaf_generate", "leaf_generate_curves"])
