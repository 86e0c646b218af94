"""Paths, leaves, lengths: closed forms, convergence orders, drift, the isometry into the sphere, refusals."""

from functools import partial

import classifier
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from classifier import centred_projector, linear

import manifold_jax as mj
from manifold_jax import PathStatus
from manifold_jax.information import label_keeping_projection, label_keeping_walk

PARAMS = classifier.weights(n=8, hidden=12, classes=4, scale=2.0)
RNG = np.random.default_rng(1)
X, Y, V = RNG.normal(size=(3, 8))


# Two classes that differ by f = x^2 - y^2: leaves are the hyperbolas xy = const, across them f = const.
saddle = jax.tree_util.Partial(lambda x: jax.nn.log_softmax(jnp.stack([x[0] ** 2 - x[1] ** 2, 0.0])))
START, END = np.array([2.0, 0.5]), np.array([1.0, 1.0])


# --- horizontal paths ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_leaves_of_a_linear_model_are_planes(x64):
    # The path is the straight line to the projection of the destination, and it stalls there.
    w = np.random.default_rng(0).normal(size=(4, 8))
    path = mj.horizontal_path(linear(w), X, Y, max_steps=200, tolerance=1e-6)
    move = centred_projector(w) @ (Y - X)
    np.testing.assert_allclose(path.points[-1], X + move, atol=1e-12)
    assert int(path.status) == PathStatus.STALLED
    assert not bool(path.converged)
    assert float(path.horizontal) < 1e-12
    count = int(path.steps)
    assert count == int(np.ceil(np.linalg.norm(move) / 0.03))
    line = X + 0.03 * np.arange(count)[:, None] * move / np.linalg.norm(move)
    np.testing.assert_allclose(path.points[:count], line, atol=1e-12)
    np.testing.assert_allclose(path.distances, np.linalg.norm(path.points - Y, axis=1), rtol=1e-12)
    np.testing.assert_allclose(path.log_probs, jax.vmap(linear(w))(path.points), atol=1e-12)
    assert float(path.length) == pytest.approx(np.linalg.norm(move), rel=1e-12)
    assert float(path.drift) < 1e-12


def test_a_vertical_walk_stalls_where_the_distribution_is_everything(x64):
    w = np.random.default_rng(0).normal(size=(5, 4))
    for step in ("fixed", "full"):
        walk = mj.vertical_walk(linear(w), jnp.zeros(4), jnp.ones(4), steps=5, step=step)
        assert int(walk.status) == PathStatus.STALLED
        assert float(walk.length) == 0


@pytest.mark.slow
def test_other_steps_end_at_the_same_place(x64):
    w = np.random.default_rng(0).normal(size=(4, 8))
    move = centred_projector(w) @ (Y - X)
    slow = mj.horizontal_path(linear(w), X, Y, max_steps=400, step="decreasing")
    sizes = np.linalg.norm(np.diff(slow.points[: int(slow.steps)], axis=0), axis=1)
    np.testing.assert_allclose(sizes, 0.03 / (1 + np.arange(len(sizes)) / 100), rtol=1e-9)
    np.testing.assert_allclose(slow.points[-1], X + move, atol=1e-12)
    # Full steps go back and forth about the end, and never stall.
    full = mj.horizontal_path(linear(w), X, Y, max_steps=200, step="full")
    lengths = np.linalg.norm(np.diff(full.points, axis=0), axis=1)
    np.testing.assert_allclose(lengths, 0.03, rtol=1e-9)
    assert (int(full.status), int(full.steps)) == (PathStatus.STEPS_USED, 200)
    assert 0 < np.linalg.norm(full.points[-1] - X - move) <= 0.03
    # The error control goes half of the rest of the way, until 1e-3 of the chord is left horizontal.
    careful = mj.horizontal_path(linear(w), X, Y, max_steps=400, step="controlled")
    assert int(careful.status) == PathStatus.STALLED
    rest = float(jnp.linalg.norm(careful.points[-1] - X - move))
    assert rest < 1e-3 * float(careful.distances[-1])


@pytest.mark.slow
def test_a_destination_on_the_leaf_is_reached(x64):
    w = np.random.default_rng(0).normal(size=(4, 8))
    there = X + centred_projector(w) @ V
    path = mj.horizontal_path(linear(w), X, there, max_steps=400)
    assert bool(path.converged)
    assert int(path.status) == PathStatus.CONVERGED
    # It stops at the first step within the tolerance of 0.3.
    assert int(path.steps) == int(np.ceil((np.linalg.norm(there - X) - 0.3) / 0.03))
    assert float(path.distances[int(path.steps) - 1]) > 0.3 >= float(path.distances[-1])
    same = mj.horizontal_path(linear(w), X, X, max_steps=5)
    assert (bool(same.converged), int(same.steps), float(same.length)) == (True, 0, 0.0)


def departure(path):
    """Distance of the end from the hyperbola of the start, to first order."""
    x, y = path.points[-1]
    return abs(float(x * y) - 1) / float(np.hypot(x, y))


@pytest.mark.slow
def test_euler_drifts_at_first_order_and_says_so(x64):
    ends = [mj.horizontal_path(saddle, START, END, step_size=h, tolerance=0.05) for h in (0.04, 0.02, 0.01)]
    far = [departure(p) for p in ends]
    assert all(bool(p.converged) for p in ends)
    assert np.all(np.abs(np.log2(np.array(far[:-1]) / far[1:]) - 1) < 0.1)
    for path, true in zip(ends, far, strict=True):
        assert 0.5 < float(path.drift) / true < 2


@pytest.mark.thorough
def test_error_control_follows_the_leaf(x64):
    def run(tolerance):
        return mj.horizontal_path(
            saddle,
            START,
            END,
            step="controlled",
            step_size=0.2,
            error_tolerance=tolerance,
            tolerance=0.05,
            max_steps=2000,
        )

    coarse, fine = run(1e-3), run(1e-5)
    assert bool(coarse.converged & fine.converged)
    assert int(fine.steps) > 3 * int(coarse.steps)
    assert departure(fine) < 0.2 * departure(coarse) < 1e-4
    assert departure(fine) < float(fine.drift)
    assert int(run(1e-4).rejected) > 0


@pytest.mark.slow
def test_saved_points_do_not_depend_on_how_many_are_saved(x64):
    every = mj.horizontal_path(saddle, START, END, max_steps=50)
    third = mj.horizontal_path(saddle, START, END, max_steps=50, save_every=3)
    assert third.points.shape == (18, 2)
    np.testing.assert_array_equal(third.points[:-1], every.points[::3])
    np.testing.assert_array_equal(third.points[-1], every.points[-1])
    short = mj.horizontal_path(saddle, START, END, max_steps=7, save_every=100)
    assert short.points.shape == (2, 2)
    assert (int(short.status), int(short.steps)) == (PathStatus.STEPS_USED, 7)
    np.testing.assert_array_equal(short.points[-1], every.points[7])


@pytest.mark.slow
def test_length_that_the_clip_undoes(x64):
    # Walking up from (1, 1/2) along f = const the hyperbola leaves the box; every step is cut back.
    walk = mj.vertical_walk(saddle, np.array([1.0, 0.5]), np.array([0.0, 1.0]), steps=10, clip=(0.0, 1.0))
    free = mj.vertical_walk(saddle, np.array([1.0, 0.5]), np.array([0.0, 1.0]), steps=10)
    assert bool(walk.clip)
    assert float(jnp.max(walk.points)) == 1.0 < float(jnp.max(free.points))
    assert 0.1 < float(walk.clipped) < 0.3
    assert float(walk.drift) > 2 * float(free.drift)
    assert float(free.clipped) == 0


@pytest.mark.slow
def test_clipping_leaves_the_leaf_and_is_recorded(x64):
    # The leaf through 0 is the line of (1, -1), which leaves the box [0, 1]^3 at once.
    log_prob, end = linear(np.array([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]])), np.array([1.0, 0.5, 0.0])
    free = mj.horizontal_path(log_prob, np.zeros(3), end, max_steps=300)
    np.testing.assert_allclose(free.points[-1], [0.25, -0.25, 0.0], atol=1e-12)
    assert (bool(free.clip), float(free.clipped)) == (False, 0.0)
    cut = mj.horizontal_path(log_prob, np.zeros(3), end, max_steps=300, clip=(0.0, 1.0))
    # Only the first coordinate can move, until the chord (1/2, 1/2) is vertical: half of each step is undone.
    np.testing.assert_allclose(cut.points[-1], [0.5, 0.0, 0.0], atol=1e-3)
    assert bool(cut.clip)
    assert float(cut.clipped) == pytest.approx(0.5, abs=1e-3)
    assert float(cut.drift) == pytest.approx(0.5 * 0.5**0.5, abs=1e-2)
    down = mj.horizontal_path(log_prob, np.zeros(3), np.array([0.0, 0.0, 1.0]), max_steps=300)
    assert (int(down.status), int(down.steps)) == (PathStatus.STALLED, 0)


def test_not_finite_is_a_status(x64):
    cliff = jax.tree_util.Partial(lambda x: jax.nn.log_softmax(jnp.stack([jnp.log(1 - x[0]), x[1]])))
    path = mj.horizontal_path(cliff, np.zeros(2), np.array([2.0, 1.0]), step_size=0.3, max_steps=20)
    assert int(path.status) == PathStatus.NOT_FINITE
    assert not bool(path.converged)
    assert 0 < int(path.steps) < 20


@pytest.mark.slow
@pytest.mark.parametrize("step", ["fixed", "controlled"])
def test_mapped_paths_are_single_paths(step, x64):
    # Members that end early stay where they are.
    log_prob = classifier.network(PARAMS)
    rng = np.random.default_rng(3)
    sources = rng.normal(size=(4, 8))
    ends = sources + np.array([0.1, 0.5, 1.0, 2.0])[:, None] * rng.normal(size=(4, 8))
    path = partial(mj.horizontal_path, max_steps=60, step=step, save_every=7)
    mapped = jax.jit(jax.vmap(path, in_axes=(None, 0, 0)))(log_prob, sources, ends)
    assert len(set(np.asarray(mapped.steps))) > 1
    for i in range(4):
        one = path(log_prob, sources[i], ends[i])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[i], atol=1e-11), one, mapped)  # noqa: B023


@pytest.mark.slow
def test_new_parameters_and_steps_do_not_compile_again(compilations):
    counts = []
    for seed in range(3):
        params = jax.tree.map(jnp.float32, classifier.weights(n=8, seed=seed))
        log_prob = jax.tree_util.Partial(classifier.apply, params)
        before = len(compilations)
        mj.horizontal_path(log_prob, np.float32(X), np.float32(Y), max_steps=3, step_size=0.01 + 0.01 * seed)
        counts.append(len(compilations) - before)
    assert counts[0] > 0
    assert counts[1:] == [0, 0]


@pytest.mark.slow
def test_path_memory_does_not_grow_with_the_state():
    # The saved points are written once: temporary memory stays below a copy of them.
    log_prob = classifier.network(classifier.weights(n=1000), dtype=jnp.float32)
    path = jax.vmap(partial(mj.horizontal_path, log_prob, max_steps=1000))
    pairs = jax.ShapeDtypeStruct((4, 1000), jnp.float32)
    memory = jax.jit(path).lower(pairs, pairs).compile().memory_analysis()
    assert memory.output_size_in_bytes > 4 * 1000 * 1000 * 4
    assert memory.temp_size_in_bytes < 2 * memory.output_size_in_bytes


def test_paths_lower_for_every_platform():
    log_prob = classifier.network(PARAMS, dtype=jnp.float32)
    pairs = jax.ShapeDtypeStruct((2, 8), jnp.float32)
    path = jax.jit(jax.vmap(partial(mj.horizontal_path, log_prob, max_steps=5)))
    exported = jax.export.export(path, platforms=("cpu", "cuda", "tpu"))(pairs, pairs)
    assert "lapack" not in exported.mlir_module()


# --- vertical walks --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("step", "order"), [("fixed", 1), ("controlled", 2)])
def test_vertical_walks_keep_p_to_the_order_of_the_step(step, order, x64):
    log_prob = classifier.network(PARAMS)
    changes = []
    for count in (10, 20, 40):
        walk = mj.vertical_walk(log_prob, X, V, step_size=1 / count, steps=40, step=step, error_tolerance=1.0)
        assert float(walk.length) == pytest.approx(40 / count, rel=0.02)
        changes.append(float(jnp.max(jnp.abs(walk.log_probs[count] - walk.log_probs[0]))))
    rates = np.log2(np.array(changes[:-1]) / changes[1:])
    assert np.all(rates > order - 0.2)
    sideways = log_prob(X + np.asarray(mj.horizontal_projection(log_prob, X, V)))
    assert changes[-1] < 0.1 * float(jnp.max(jnp.abs(sideways - log_prob(X))))


def test_vertical_walk_in_a_linear_model_is_straight(x64):
    w = np.random.default_rng(0).normal(size=(4, 8))
    walk = mj.vertical_walk(linear(w), X, V, steps=20, save_every=5)
    up = V - centred_projector(w) @ V
    line = X + 0.03 * np.arange(0, 21, 5)[:, None] * up / np.linalg.norm(up)
    np.testing.assert_allclose(walk.points, line, atol=1e-13)
    np.testing.assert_allclose(walk.distances, 0.15 * np.arange(5), atol=1e-13)
    np.testing.assert_allclose(walk.log_probs, np.tile(walk.log_probs[0], (5, 1)), atol=1e-12)
    assert (int(walk.steps), int(walk.status)) == (20, PathStatus.STEPS_USED)


def test_a_key_draws_one_direction(x64):
    w, key = np.random.default_rng(0).normal(size=(4, 8)), jax.random.key(3)
    drawn = jax.random.normal(key, (8,), jnp.float64)
    options = {"steps": 5, "step_size": 0.1}
    want = mj.vertical_walk(linear(w), X, drawn, **options).points
    for same in (key, jax.random.PRNGKey(3)):
        np.testing.assert_array_equal(mj.vertical_walk(linear(w), X, same, **options).points, want)
    other = mj.vertical_walk(linear(w), X, jax.random.key(4), **options).points
    assert np.abs(other - want).max() > 0.01


@pytest.mark.slow
def test_without_a_vertical_direction_the_walk_stalls(x64):
    full = linear(np.random.default_rng(0).normal(size=(4, 2)))
    walk = mj.vertical_walk(full, X[:2], V[:2], steps=5)
    assert (int(walk.status), float(walk.length)) == (PathStatus.STALLED, 0.0)
    np.testing.assert_array_equal(walk.points, np.tile(X[:2], (6, 1)))


# --- walks that keep a label -----------------------------------------------------------------------------


def test_label_keeping_projection_is_horizontal_and_never_lowers_the_label(x64):
    w = classifier.weights(n=6, hidden=8, classes=4)
    projection = jax.jit(label_keeping_projection)
    rng = np.random.default_rng(0)
    lowered = 0
    for _ in range(8):
        x, direction = rng.normal(size=6), rng.normal(size=6)
        rows = classifier.score_rows(w, x)
        u = centred_projector(rows) @ direction
        if rows[1] @ u < 0:
            lowered += 1
            u -= (u @ rows[1]) * rows[1] / (rows[1] @ rows[1])
        part = projection(classifier.network(w), jnp.asarray(x), jnp.asarray(direction), jnp.asarray(1))
        np.testing.assert_allclose(part, u, atol=1e-8)
        assert rows[1] @ np.asarray(part) > -1e-9
    assert 0 < lowered < 8


@pytest.mark.slow
def test_label_keeping_walk_keeps_the_label_and_stalls_where_it_must_lower_it(x64):
    log_prob = classifier.network(PARAMS)
    label = int(jnp.argmax(log_prob(X)))
    options = {"steps": 40, "step_size": 0.02, "save_every": 8}
    walk = label_keeping_walk(log_prob, X, V, label, **options)
    own = np.asarray(walk.log_probs)[:, label]
    assert int(walk.status) == PathStatus.STEPS_USED
    assert np.all(np.diff(own) > -1e-3)
    assert float(walk.length) == pytest.approx(0.8, rel=1e-12)
    np.testing.assert_allclose(walk.distances, np.linalg.norm(walk.points - X, axis=1), atol=1e-12)
    # Euler's method by hand.
    x = jnp.asarray(X)
    for _ in range(8):
        part = label_keeping_projection(log_prob, x, V, label)
        x = x + 0.02 * part / jnp.linalg.norm(part)
    np.testing.assert_allclose(walk.points[1], x, atol=1e-12)
    two = linear(np.random.default_rng(0).normal(size=(2, 8)))
    down = np.asarray(mj.horizontal_basis(two, X)[0])
    down = down if float(two(X + down)[0]) < float(two(X)[0]) else -down
    assert int(label_keeping_walk(two, X, down, 0, **options).status) == PathStatus.STALLED
    assert int(label_keeping_walk(two, X, down, 1, **options).status) == PathStatus.STEPS_USED


# --- leaf projection, lengths ----------------------------------------------------------------------------


@pytest.mark.slow
def test_leaf_projection_on_planes_and_hyperbolas(x64):
    w = np.random.default_rng(0).normal(size=(4, 8))
    path = mj.leaf_projection(linear(w), X, Y)
    want = X + centred_projector(w) @ (Y - X)
    np.testing.assert_allclose(path.point, want, atol=1e-10)
    assert float(path.distance) == pytest.approx(np.linalg.norm(Y - want), rel=1e-12)
    assert bool(path.converged)
    distance = mj.leaf_distance(linear(w), X, Y)
    assert float(distance) == pytest.approx(float(path.distance), rel=1e-12)
    # Nearest point of the branch xy = 1 to (1, 3/2), by a dense search.
    t = np.linspace(0.5, 1.5, 2_000_001)
    target = np.array([1.0, 1.5])
    apart = np.hypot(t - target[0], 1 / t - target[1])
    best = np.array([t[apart.argmin()], 1 / t[apart.argmin()]])
    curved = mj.leaf_projection(
        saddle, START, target, step="controlled", error_tolerance=1e-6, tolerance=1e-4, step_size=0.02
    )
    assert bool(curved.converged)
    np.testing.assert_allclose(curved.point, best, atol=1e-4)
    assert float(curved.distance) == pytest.approx(apart.min(), abs=1e-5)


@pytest.mark.slow
def test_leaf_projection_of_a_point_on_the_leaf_and_without_steps(x64):
    w = np.random.default_rng(0).normal(size=(4, 8))
    there = X + centred_projector(w) @ V
    path = mj.leaf_projection(linear(w), X, there)
    assert bool(path.converged)
    assert float(path.distance) < 1e-2
    early = mj.leaf_projection(linear(w), X, Y, max_steps=2)
    assert not bool(early.converged)
    assert np.isnan(float(mj.leaf_distance(linear(w), X, Y, max_steps=2)))


@pytest.mark.slow
def test_sliding_along_a_kink_is_recorded_as_drift(x64):
    # Two linear regions, x < 1/2 and x > 1/2, whose leaves are wedges y = |x - 1/2| / 3 + const.
    # Steps back and forth across the kink carry the path down the wedge, off its leaf.
    kink = jax.tree_util.Partial(
        lambda x: jax.nn.log_softmax(jnp.stack([3 * jnp.abs(x[0] - 0.5) + x[1], 0.0]))
    )
    path = mj.horizontal_path(kink, np.zeros(2), np.array([0.6, -2.0]), max_steps=400)
    off = np.asarray(path.points[:, 1] - np.abs(path.points[:, 0] - 0.5) / 3 + 1 / 6)
    assert abs(off[10]) < 1e-12  # before the kink
    true = abs(off[-1]) / np.hypot(1, 1 / 3)
    assert true > 1
    assert 0.7 < float(path.drift) / true < 1.5
    # All steps come closer, on either side of a kink: the straight step goes towards the nearest point.
    count = int(path.steps)
    assert np.all(np.diff(path.distances[: count + 1]) < 0)


def test_output_map_is_an_isometry(x64):
    # G-length of any path equals the Euclidean length of 2 sqrt p, and no path is shorter than the arc.
    log_prob = classifier.network(PARAMS)
    t = np.linspace(0, 1, 1025)[:, None]
    curve = X + t * (Y - X) + np.sin(np.pi * t) * V
    gaps = []
    for every in (16, 8, 4):
        piece = curve[::every]
        inner, outer = (jax.jit(f)(log_prob, piece) for f in (mj.path_length, mj.output_length))
        assert float(inner) > 0.3
        gaps.append(abs(float(inner - outer)))
        arc = mj.fisher_rao_distance(log_prob(curve[0]), log_prob(curve[-1]))
        assert float(outer) >= float(arc) - 1e-12
    rates = np.log2(np.array(gaps[:-1]) / gaps[1:])
    assert np.all(np.abs(rates - 2) < 0.2)
    p, q = np.exp(np.asarray(log_prob(curve[0]))), np.exp(np.asarray(log_prob(curve[-1])))
    assert float(arc) == pytest.approx(2 * np.arccos(np.sum(np.sqrt(p * q))), rel=1e-12)
    blocks = jax.jit(partial(mj.path_length, batch_size=10))(log_prob, curve[::4])
    assert float(blocks) == pytest.approx(float(inner), rel=1e-13)


def test_a_lift_of_a_great_circle_attains_the_bound(x64):
    # x = (log p_1, log p_2, log p_3) with log_softmax: any path of distributions can be lifted exactly.
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.1, 0.3, 0.6])
    angle = np.arccos(np.sum(np.sqrt(p * q)))
    t = np.linspace(0, 1, 2001)[:, None]
    root = (np.sin((1 - t) * angle) * np.sqrt(p) + np.sin(t * angle) * np.sqrt(q)) / np.sin(angle)
    lift = 2 * np.log(root)
    for length in (mj.path_length, mj.output_length):
        value = jax.jit(partial(length, jax.nn.log_softmax))(lift)
        assert float(value) == pytest.approx(2 * angle, rel=1e-6)


@pytest.mark.thorough
def test_repeated_points_add_no_length_and_keep_gradients(x64):
    log_prob = classifier.network(PARAMS)
    points = jnp.stack([X, Y, Y, Y])
    for length in (mj.path_length, mj.output_length):
        value, slope = jax.jit(jax.value_and_grad(partial(length, log_prob)))(points)
        assert float(value) == pytest.approx(float(jax.jit(length)(log_prob, points[:2])), rel=1e-14)
        assert np.all(np.isfinite(slope))


# --- refusals --------------------------------------------------------------------------------------------

log_softmax, A, B = jax.nn.log_softmax, np.float32([0.1, 0.2]), np.float32([0.8, 0.9])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mj.horizontal_path(jax.nn.softmax, A, B), "returned probabilities"),
        (lambda: mj.horizontal_path(lambda x: x, A, B), "looks like logits"),
        (lambda: mj.vertical_walk(lambda x: x, A, B), "looks like logits"),
        (lambda: mj.leaf_projection(jax.nn.softmax, A, B), "returned probabilities"),
        (lambda: mj.horizontal_path(log_softmax, A, B[:1]), r"one shape, got \(2,\) and \(1,\)"),
        (lambda: mj.leaf_projection(log_softmax, A, B[:1]), "anchor and x must have one shape"),
        (lambda: mj.horizontal_path(log_softmax, np.uint8([0, 255]), B), "source must be .* got uint8"),
        (lambda: mj.horizontal_path(log_softmax, A, B * np.inf), "destination must be finite"),
        (lambda: mj.horizontal_path(log_softmax, A, B, step_size=0.0), "step_size must be a positive"),
        (lambda: mj.horizontal_path(log_softmax, A, B, tolerance=-1), "tolerance must be a positive"),
        (lambda: mj.horizontal_path(log_softmax, A, B, tolerance=0), "tolerance must be a positive"),
        (lambda: mj.horizontal_path(log_softmax, A, B, max_steps=0), "max_steps must be a whole number"),
        (lambda: mj.horizontal_path(log_softmax, A, B, max_steps=2.5), "max_steps must be a whole number"),
        (lambda: mj.horizontal_path(log_softmax, A, B, save_every=0), "save_every must be a whole number"),
        (
            lambda: mj.horizontal_path(log_softmax, A, B, step="heun"),
            "step must be one of 'fixed', 'full', 'decr",
        ),
        (lambda: mj.horizontal_path(log_softmax, A, B, error_tolerance=0), "error_tolerance must be"),
        (lambda: mj.horizontal_path(log_softmax, A, B, clip=(1, 0)), "pair .* with low < high"),
        (lambda: mj.horizontal_path(log_softmax, A, B, clip=True), "clip must be a pair of finite numbers"),
        (
            lambda: mj.horizontal_path(log_softmax, A, 9 * B, clip=(0, 1)),
            "destination must lie inside clip .* from 7",
        ),
        (lambda: mj.vertical_walk(log_softmax, 9 * A, B, clip=(0, 1)), "x must lie inside clip"),
        (lambda: mj.vertical_walk(log_softmax, A, B, steps=-1), "steps must be a whole number"),
        (lambda: mj.vertical_walk(log_softmax, A, B, step="euler"), "step must be one of"),
        (lambda: mj.vertical_walk(log_softmax, A, B[:1]), "direction .* must be"),
        (lambda: mj.vertical_walk(log_softmax, A, 3), "direction .* must be"),
        (lambda: mj.horizontal_basis(log_softmax, A, rtol=-1.0), "rtol must be"),
        (lambda: mj.horizontal_projection(log_softmax, A, np.zeros(3)), r"in the shape \(2,\)"),
        (lambda: mj.involutivity_defect(lambda x: x, A), "looks like logits"),
        (lambda: mj.path_length(log_softmax, A[None]), "at least two inputs"),
        (lambda: mj.output_length(lambda x: x, np.stack([A, B])), "looks like logits"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
