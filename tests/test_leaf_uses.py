"""Denoising, detection and generation on a trained classifier: closed forms, oracles, small runs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from classifier import centred_projector, linear
from jax.tree_util import Partial
from networks import drawn

from manifold_jax.datasets import LabelledImages
from manifold_jax.experiments.classifier import denoise, detect, generate
from manifold_jax.experiments.classifier.baselines import (
    Subspace,
    anchors_of,
    auroc,
    energy_score,
    mahalanobis_score,
    max_softmax_score,
    nearest,
    principal_subspace,
    psnr,
    split,
)
from manifold_jax.experiments.classifier.generate import CLASS, CLASS_LINE, KEPT, RANDOM, RANDOM_LINE
from manifold_jax.experiments.classifier.task import layer, learn, make_task, outputs
from manifold_jax.experiments.classifier.walks import (
    LEAF,
    change_path,
    fisher_rao_lengths,
    in_blocks,
    moved,
    walk_all,
    walked,
)
from manifold_jax.experiments.experiment import table, write
from manifold_jax.information import label_keeping_projection, leaf_projection
from manifold_jax.models import VGG11, LeNet, pure
from manifold_jax.plotting.geometry import rank_correlation
from manifold_jax.plotting.images import image_grid

SHAPE = (3, 4)


@pytest.fixture(scope="module")
def digits():
    return make_task("digits")


@pytest.fixture(scope="module")
def trial(digits, tmp_path_factory):
    """LeNet on 8 x 8 digits after 300 steps."""
    return learn(digits, tmp_path_factory.mktemp("digits"), 300, marks=())


@pytest.fixture
def training():
    rng = np.random.default_rng(0)
    return LabelledImages(rng.random((40, *SHAPE), np.float32), np.arange(40) % 4, tuple("0123"))


def linear_weights(seed=1, classes=4):
    return np.random.default_rng(seed).normal(size=(classes, 12)).astype(np.float32)


# --- pairs -------------------------------------------------------------------------------------------------


def test_blocks_equal_one_call_and_report_all_rows():
    a = np.arange(7, dtype=np.float32)
    shapes, told = [], []

    def double(part, other):
        shapes.append(part.shape)
        return {"twice": part + other}

    result = in_blocks(double, a, a, block=3, progress=lambda done, total: told.append((done, total)))
    np.testing.assert_array_equal(result["twice"], 2 * a)
    assert shapes == [(3,)] * 3
    assert told == [(3, 7), (6, 7), (7, 7)]
    assert in_blocks(double, a, a, block=100)["twice"].shape == (7,)
    with pytest.raises(ValueError, match="block must be a whole number, at least 1, got 0"):
        in_blocks(double, a, a, block=0)


@pytest.mark.slow
def test_projections_of_a_linear_classifier_keep_the_vertical_part_of_the_chord(training):
    w = linear_weights()
    images = np.random.default_rng(2).random((5, *SHAPE), np.float32)
    anchors = training.images[:5]
    options = LEAF._replace(step_size=0.5, max_steps=50, stationarity=1e-4, block=2)
    path = walk_all(leaf_projection, linear(w), (anchors, images), options)
    chords = (images - anchors).reshape(5, -1)
    horizontal = chords @ centred_projector(w.astype(float)).T
    np.testing.assert_allclose(path.point.reshape(5, -1), anchors.reshape(5, -1) + horizontal, atol=2e-4)
    np.testing.assert_allclose(path.distance, np.linalg.norm(chords - horizontal, axis=1), rtol=1e-4)
    assert path.converged.all()


def test_nearest_is_that_of_all_pairs(training, monkeypatch):
    monkeypatch.setattr("manifold_jax.experiments.classifier.baselines._COLUMNS", 7)
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
    with pytest.raises(ValueError, match="anchors must be one of 'class', 'any', 'mean', got 'median'"):
        anchors_of("median", images, classes, training)
    with pytest.raises(ValueError, match="no training image of class"):
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
    network = drawn(module)
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
    chords = x - Subspace(mean, rows, np.ones(2)).project(x, 2)
    np.testing.assert_allclose(np.linalg.norm(chords, axis=1), solved)


def test_principal_subspace_is_that_of_scikit_learn(training):
    from sklearn.decomposition import PCA

    flat = training.images.reshape(40, -1)
    pca = PCA(5).fit(flat)
    subspace = principal_subspace(training)
    np.testing.assert_allclose(subspace.variance[:5], pca.explained_variance_, rtol=1e-5)
    expected = pca.inverse_transform(pca.transform(training.images.reshape(40, -1))).reshape(
        training.images.shape
    )
    np.testing.assert_allclose(subspace.project(training.images, 5), expected, atol=1e-5)


def test_mahalanobis_against_numpy_also_with_a_dead_unit():
    rng = np.random.default_rng(1)
    labels = np.arange(60) % 3
    features = rng.normal(size=(60, 4)) @ rng.normal(size=(4, 4)) + 3 * labels[:, None]
    means = np.stack([features[labels == c].mean(axis=0) for c in range(3)])
    within = np.concatenate([features[labels == c] - means[c] for c in range(3)])
    inverse = np.linalg.inv(within.T @ within / 60)
    test = rng.normal(size=(7, 4)) * 4
    expected = [min((f - m) @ inverse @ (f - m) for m in means) for f in test]
    np.testing.assert_allclose(mahalanobis_score(test, features, labels), expected, rtol=1e-8)
    more, dead = (np.pad(rows, ((0, 0), (0, 1))) for rows in (test, features))
    np.testing.assert_allclose(mahalanobis_score(more, dead, labels), expected, rtol=1e-8)


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
    np.testing.assert_allclose(psnr(other, clean), expected)
    np.testing.assert_allclose(psnr(clean, clean), 100)


# --- walks -------------------------------------------------------------------------------------------------


def test_a_label_is_kept_where_p_saturates():
    w = linear_weights(classes=2)
    x, direction = (jnp.asarray(v.reshape(SHAPE)) for v in (40 * (w[0] - w[1]), w[1] - w[0]))
    keep = jax.jit(label_keeping_projection)
    np.testing.assert_array_equal(keep(linear(w), x, direction, jnp.asarray(0)), 0)
    np.testing.assert_allclose(keep(linear(w), x, -direction, jnp.asarray(0)), -direction, rtol=1e-5)


@pytest.mark.slow
def test_walks_of_a_linear_classifier():
    w = linear_weights()
    rng = np.random.default_rng(5)
    sources, ends, directions = (rng.random((3, *SHAPE), np.float32) for _ in range(3))
    labels = outputs(linear(w), sources).argmax(axis=1)
    told = []
    paths = generate.walk_all_kinds(
        linear(w),
        generate.Starts(sources, labels, ends, directions),
        LEAF._replace(step_size=0.1, max_steps=20, stationarity=1e-3, block=2),
        lambda done, total: told.append((done, total)),
    )
    assert list(paths) == [CLASS, CLASS_LINE, RANDOM, RANDOM_LINE, KEPT]
    assert told[-1] == (9, 9)
    projector = centred_projector(w.astype(float))
    for name in (CLASS, RANDOM, KEPT):
        chords = (paths[name].points[:, -1] - sources).reshape(3, -1)
        np.testing.assert_allclose(chords @ projector.T, chords, atol=2e-5)
        assert paths[name].points.shape == (3, 5, *SHAPE)
    np.testing.assert_allclose(walked(paths[RANDOM]), 2, rtol=1e-4)
    np.testing.assert_allclose(walked(paths[KEPT]), 2, rtol=1e-4)
    along = directions.reshape(3, -1) @ projector.T
    chords = (paths[RANDOM].points[:, -1] - sources).reshape(3, -1)
    expected = 2 * along / np.linalg.norm(along, axis=1, keepdims=True)
    np.testing.assert_allclose(chords, expected, atol=5e-3)  # a destination that is far, not infinitely
    own = np.take_along_axis(paths[KEPT].log_probs, labels[:, None, None], axis=2)[..., 0]
    assert (np.diff(own, axis=1) > -5e-3).all()  # second order in the step
    assert (own[:, -1] > paths[RANDOM].log_probs[np.arange(3), -1, labels]).any()
    for leaf, line in ((CLASS, CLASS_LINE), (RANDOM, RANDOM_LINE)):
        np.testing.assert_allclose(moved(paths[line]), moved(paths[leaf]), rtol=1e-4)


def test_fisher_rao_length_from_class_to_class_is_pi():
    t = np.linspace(0, np.pi / 2, 2000)
    log_p = np.log(np.maximum(np.stack([np.cos(t), np.sin(t)], axis=1), 1e-30) ** 2)
    lengths = fisher_rao_lengths(log_p[None])
    np.testing.assert_allclose(lengths[0, [0, -1]], [0, np.pi], atol=1e-5)


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


@pytest.mark.slow
def test_digits_are_told_from_rearranged_ones_and_noise(digits):
    sets, notes = detect.image_sets(digits, 20)
    assert list(sets) == ["digits test", "permuted pixels", "inverted", "uniform noise", "Gaussian noise"]
    assert notes == []
    for images in sets.values():
        assert images.shape == (20, 8, 8)
        assert images.min() >= 0
        assert images.max() <= 1
    again = detect.image_sets(digits, 20)[0]
    assert all((again[name] == images).all() for name, images in sets.items())


def test_letters(digits, tmp_path):
    letters = np.random.default_rng(0).integers(0, 255, (30, 8, 8), np.uint8)
    np.savez(tmp_path / "letters.npz", images=letters)
    sets, _ = detect.image_sets(digits, 20, letters=tmp_path / "letters.npz")
    assert list(sets)[:2] == ["digits test", "letters"]


def test_missing_sets_are_noted(digits, tmp_path):
    blank = LabelledImages(np.zeros((9, 28, 28), np.uint8), np.zeros(9, np.uint8), ("0", "1"))
    mnist = digits._replace(name="mnist", train=blank, test=blank)
    sets, notes = detect.image_sets(mnist, 4, path=tmp_path)
    assert list(sets)[1:3] == ["permuted pixels", "inverted"]
    assert any("fashion-mnist" in note for note in notes)
    assert any("letters" in note for note in notes)


# --- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("experiment", "change", "message"),
    [
        (denoise, {"levels": ()}, "levels"),
        (denoise, {"levels": (0.1, -1.0)}, "levels must be a positive finite number, got -1.0"),
        (denoise, {"anchors": ()}, "anchors"),
        (denoise, {"components": (9999,)}, "components must hold a number below 64"),
        (denoise, {"images": 10**6}, "images must be a whole number, from 1 to 360"),
        (detect, {"anchors": ()}, "anchors"),
        (detect, {"variance": 1.5}, "variance must be a positive finite number below 1"),
        (detect, {"training": 1}, "training must be a whole number, at least 2"),
        (generate, {"images": 0}, "images must be a whole number, at least 1"),
        (generate, {"images": 360}, "classified as labelled"),
    ],
)
def test_nonsense_is_refused(trial, experiment, change, message):
    with pytest.raises(ValueError, match=message):
        experiment.run(trial, experiment.REDUCED._replace(**change))


def test_options_of_the_path_can_be_changed():
    assert change_path(detect.REDUCED, "max_steps", 7).path.max_steps == 7
    assert change_path(detect.REDUCED, "images", 7).images == 7
    assert change_path(detect.REDUCED, "pairs", 7) is None


# --- whole runs --------------------------------------------------------------------------------------------


def check_files(outcome, tmp_path, stems):
    names = {path.name for path in write(outcome, tmp_path, "numbers", {})}
    assert names == {"numbers.json", "numbers.txt", *(f"{stem}.png" for stem in stems)}
    assert len({tuple(row) for row in outcome.rows}) == 1
    assert table(outcome, 500).row_count == len(outcome.rows)
    assert any(letter.isdigit() for letter in outcome.headline)


@pytest.mark.slow
def test_denoise_run(trial, tmp_path):
    settings = denoise.REDUCED._replace(
        images=6, levels=(0.1, 0.4), anchors=("class", "any", "mean"), shown=1
    )
    settings = settings._replace(path=settings.path._replace(max_steps=20))
    told = []
    outcome = denoise.run(trial, settings, lambda *done: told.append(done))
    assert told[-1] == (36, 36)
    rows = {row["method"]: row for row in outcome.rows}
    assert rows["noisy image"]["sd 0.1"] == pytest.approx(20, abs=0.5)  # -20 log10 0.1
    for name in ("principal components", "total variation"):
        assert rows[name]["sd 0.4"] > rows["noisy image, clipped"]["sd 0.4"]
    leaf = outcome.data["leaf"]
    assert leaf["distance"].shape == (2, 3)
    assert (leaf["distance"] < leaf["anchor_distance"]).all()
    assert all(np.isfinite(value).all() for value in outcome.data["psnr"].values())
    assert outcome.data["components"][0] > outcome.data["components"][1]
    assert outcome.data["tv_weights"][0] < outcome.data["tv_weights"][1]
    check_files(outcome, tmp_path, ["leaf_denoise", "leaf_denoise_psnr"])


@pytest.mark.slow
def test_detect_run(trial, tmp_path):
    settings = detect.REDUCED._replace(images=8, anchors=("any", "mean"))
    settings = change_path(settings, "max_steps", 20)
    outcome = detect.run(trial, settings)
    rows = {row["score"]: row for row in outcome.rows}
    assert rows["nearest training image"]["vs inverted"] == 1
    assert rows["leaf distance (nearest image)"]["vs uniform noise"] > 0.9
    near, leaf = (
        np.concatenate(list(outcome.data["scores"][name].values()))
        for name in ("nearest training image", "leaf distance (nearest image)")
    )
    assert (leaf <= near + 1e-5).all()
    ratio = np.concatenate(list(outcome.data["scores"]["leaf ratio (nearest image)"].values()))
    np.testing.assert_allclose(ratio, leaf / near, rtol=1e-4)
    check_files(outcome, tmp_path, ["leaf_detect", "leaf_detect_distances"])


@pytest.mark.slow
def test_generate_run(trial, tmp_path):
    settings = generate.REDUCED._replace(images=8, shown=1)
    outcome = generate.run(trial, change_path(settings, "max_steps", 40))
    rows = {row["way"]: row for row in outcome.rows}
    assert list(rows) == ["test images", CLASS, CLASS_LINE, RANDOM, RANDOM_LINE, KEPT]
    assert rows["test images"]["label kept"] == 1
    assert rows["test images"]["FR length"] == rows["test images"]["out of range"] == 0
    assert rows[KEPT]["label kept"] >= rows[RANDOM]["label kept"]
    assert rows[KEPT]["walked"] == pytest.approx(2, rel=0.01)
    check_files(outcome, tmp_path, ["leaf_generate", "leaf_generate_curves"])
