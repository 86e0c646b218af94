"""The three ground files, tested directly: checks of arguments, files written aside, maps and components."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manifold_jax import _checks, _files, _partial
from manifold_jax._linalg import leading_rows, map_blocks, norm, rotation, safe_sqrt

# --- checks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3), jnp.asarray(3)])
def test_whole_numbers_of_every_kind_become_python_ints(value):
    entry = _checks.whole("sphere", "size", value)
    assert (entry, type(entry)) == (3, int)


@pytest.mark.parametrize("value", [2, 2.5, jnp.float32(1), np.float64(2), np.array([1.0, math.inf])[0]])
def test_positive_numbers_of_every_kind_become_those_of_python(value):
    entry = _checks.positive("circle", "radius", value)
    assert (entry, type(entry)) == (value, int if isinstance(value, int) else float)


REFUSED = [
    *(
        (_checks.whole, (value, 3, 9), "a: b must be a whole number, from 3 to 9, got")
        for value in (2, 10, 4.0, True, "4", None, math.nan, np.float32(4), np.array([4]), jnp.asarray(2))
    ),
    (_checks.whole, (0,), "a: b must be a whole number, at least 1, got 0"),
    *(
        (_checks.positive, (value,), "a: b must be a positive finite number, got")
        for value in (0, -1.0, math.inf, math.nan, True, "1", None, np.float64(-1), jnp.ones(2))
    ),
    (_checks.number, (np.inf,), "a: b must be a finite number, got inf"),
    (_checks.number, ("1",), "a: b must be a finite number, got '1'"),
    *(
        (_checks.numbers, (values, 2), "a: b must be 2 finite numbers, got")
        for values in ((1.0, math.inf), (1.0,), 3, "12", (1.0, None))
    ),
    (_checks.choice, (3, (2, 4)), "a: b must be one of 2, 4, got 3"),
    (_checks.choice, (True, (1, 2)), "a: b must be one of 1, 2, got True"),
    (_checks.keys, ({"c": 1}, ("d",)), "a: b may hold 'd', got 'c'"),
    (_checks.keys, ({"c": 1}, ()), "a: b may hold nothing, got 'c'"),
    (_checks.instance, (3, str, "spell it"), "a: b must be a str, got int: spell it"),
    (_checks.floating, (np.ones(3),), r"shape \(n, \*features\) that is not empty, got float\d\d of shape"),
    (_checks.floating, (np.ones((3, 0)), 2), "that is not empty"),
    (_checks.floating, (np.ones((3, 2), int),), r"that is not empty, got int\d\d of shape \(3, 2\)"),
    (_checks.finite, (np.array([[0.0], [math.nan]]),), r"values at 1 of 2 points, first at index \(1\)"),
    (_checks.finite, (jnp.array([[0.0], [math.inf]]), 2), r"1 of 2 points, first at index \(1, 0\)"),
]


@pytest.mark.parametrize(("check", "arguments", "message"), REFUSED)
def test_everything_else_is_refused(check, arguments, message):
    with pytest.raises(ValueError, match=message):
        check("a", "b", *arguments)


def test_limits_zeros_and_defaults():
    assert _checks.positive("a", "b", 0, zero=True) == 0
    with pytest.raises(ValueError, match="a positive finite number below 1, got 1"):
        _checks.positive("a", "b", 1, below=1)
    assert _checks.numbers("a", "b", np.array([1, 2]), 2) == (1.0, 2.0)
    assert _checks.optional(_checks.whole, "a", "b", None) is None
    assert _checks.choice("a", "b", "x", "xyz") == "x"
    _checks.keys("a", "b", None, ())
    rows, batch = _checks.query_rows("a", jnp.zeros((2, 5, 3, 4)), (3, 4))
    assert (rows.shape, batch) == ((10, 12), (2, 5))
    with pytest.raises(ValueError, match=r"shape \(\*batch, 3, 4\) as the samples have, got \(2, 5\)"):
        _checks.query_rows("a", jnp.zeros((2, 5)), (3, 4))


def test_traced_values_pass_as_points_and_are_refused_as_sizes():
    @jax.jit
    def passes(x):
        assert _checks.is_traced(x, 1.0)
        _checks.finite("a", "b", x)
        return _checks.positive("a", "b", x[0, 0])

    assert np.isnan(passes(jnp.full((2, 2), jnp.nan)))
    for check in (_checks.whole, _checks.number):
        with pytest.raises(ValueError, match=r"a: b must be a .*, got"):
            jax.jit(lambda x, check=check: check("a", "b", x))(3)


def test_a_missing_package_is_named_with_its_extra():
    with pytest.raises(ImportError, match=r'Art needs missing_package: pip install "manifold_jax\[data\]"'):
        _checks.require("missing_package.inner", "data", "Art")


# --- files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [False, True])
def test_replacing_keeps_the_old_until_the_new_is_whole_and_leaves_nothing_behind(folder, tmp_path):
    path = tmp_path / "inner" / "result"

    def write(text, fail=False):
        with _files.replacing(path) as aside:
            if folder:
                aside.mkdir()
            (aside / "part" if folder else aside).write_text(text)
            if fail:
                raise RuntimeError("interrupted")

    write("old")
    with pytest.raises(RuntimeError, match="interrupted"):
        write("half", fail=True)
    assert [place.name for place in path.parent.iterdir()] == ["result"]
    assert (path / "part" if folder else path).read_text() == "old"
    write("new")
    assert [place.name for place in path.parent.iterdir()] == ["result"]
    assert (path / "part" if folder else path).read_text() == "new"


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"Cannot write .*report\.txt: File exists"):
        _files.write_text(tmp_path / "file" / "report.txt", "text")
    with pytest.raises(ValueError, match="Cannot write to the folder"):
        _partial.PartialResult(tmp_path / "file", "key")


def test_partial_results_come_back_and_damaged_parts_do_not(tmp_path):
    partial = _partial.PartialResult(tmp_path, "key")
    assert partial.load() == {}
    assert not list(tmp_path.iterdir())
    partial.save(7, [np.arange(3), np.ones((3, 2))])
    partial.save(0, [np.arange(3, 5), np.zeros((2, 0))])
    kept = _partial.PartialResult(tmp_path, "key").load()
    assert sorted(kept) == [0, 7]
    np.testing.assert_array_equal(kept[7][0], np.arange(3))
    np.testing.assert_array_equal(kept[7][1], np.ones((3, 2)))
    assert kept[0][1].shape == (2, 0)
    assert _partial.PartialResult(tmp_path, "other").load() == {}
    file = partial.path / "7.npy"
    file.write_bytes(file.read_bytes()[:-20])
    (partial.path / "-1.npy").write_bytes(b"")
    assert sorted(partial.load()) == [0]
    partial.remove()
    assert not list(tmp_path.iterdir())


# --- linear algebra ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "block"), [(7, 3), (8, 4), (11, 4), (5, 8), (12, 5)])
@pytest.mark.thorough
def test_maps_of_blocks_equal_one_call_with_one_trace(n, block):
    traces = []

    def function(x, pair):
        traces.append(x.shape[0])
        return {"sum": x + pair[0][:, None], "row": jnp.sum(pair[1], axis=1)}

    x, u, v = (jnp.asarray(np.random.default_rng(0).normal(size=(n, k))) for k in (3, 1, 4))
    mapped = jax.jit(lambda *a: map_blocks(function, block, *a))(x, (u[:, 0], v))
    assert len(traces) == 1
    assert traces[0] <= block
    for name, whole in function(x, (u[:, 0], v)).items():
        np.testing.assert_allclose(mapped[name], whole, rtol=1e-6)


@pytest.mark.parametrize("shape", [(5, 12), (12, 5)])
def test_leading_rows_are_those_of_numpy(shape, x64):
    rows = np.random.default_rng(1).normal(size=shape)
    values, frame = leading_rows(jnp.asarray(rows), 3)
    singular, vectors = np.linalg.svd(rows, full_matrices=False)[1:]
    np.testing.assert_allclose(values[::-1], singular**2, rtol=1e-10)
    np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(np.abs(frame[::-1] @ vectors[:3].T), np.eye(3), atol=1e-10)


def test_roots_have_no_derivative_at_0_and_rotations_make_diagonal(x64):
    assert jax.grad(safe_sqrt)(0.0) == 0.0
    assert np.isnan(safe_sqrt(jnp.nan))
    np.testing.assert_array_equal(jax.grad(norm)(jnp.zeros(3)), 0.0)
    cos, sin = rotation(*map(jnp.asarray, (2.0, -1.0, 0.7, True)))
    turn = np.array([[cos, sin], [-sin, cos]])
    assert abs((turn.T @ np.array([[2.0, 0.7], [0.7, -1.0]]) @ turn)[0, 1]) < 1e-15
