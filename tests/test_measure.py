"""The one call: sources, options, jit, interruption."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from interrupt import Interrupted, interrupt_after

from manifold_jax import (
    Axis,
    Geometry,
    Grid,
    Manifold,
    datasets,
    gram_from_grid,
    integrate,
    measure,
    normal_curvature_bounds,
    reach,
    scalar_curvature,
    volume_element,
)
from manifold_jax.geometry.quantities import FIELDS, TOTALS

GRID = Grid((Axis("u", 0.0, 2 * math.pi, 24, periodic=True), Axis("v", 0.2, 1.5, 20)))


def torus(u):
    big = 2 + 0.5 * jnp.cos(u[1])
    return jnp.stack([big * jnp.cos(u[0]), big * jnp.sin(u[0]), 0.5 * jnp.sin(u[1])])


def torus_array(dtype=np.float32):
    mesh = np.meshgrid(*(axis.samples() for axis in GRID.axes), indexing="ij")
    return np.stack(oracle.torus_points(*mesh), axis=-1).astype(dtype)


POINTS = torus_array()


def close(first, second, rtol=2e-4):
    """Two measurements agree in all values; bars and flags come from differences of rounding size."""
    for name in FIELDS + TOTALS:
        a, b = (np.asarray(getattr(g, name).value) for g in (first, second))
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(np.nanmax(np.abs(b)), 1e-3), err_msg=name)


@pytest.fixture(scope="module")
def reference():
    return measure(jnp.asarray(POINTS), GRID)


@pytest.mark.slow
def test_values_are_those_of_the_single_functions(reference):
    gram = jax.jit(lambda p: gram_from_grid(p, GRID))(jnp.asarray(POINTS))
    volume, curvature, bounds = jax.jit(
        lambda g: (volume_element(g), scalar_curvature(g), normal_curvature_bounds(g))
    )(gram)
    expected = {
        "volume_element": volume,
        "scalar_curvature": curvature,
        "normal_curvature": bounds[0],
        "normal_curvature_upper": bounds[1],
        "total_volume": integrate(1.0, volume, GRID),
        "total_scalar_curvature": integrate(curvature, volume, GRID),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(
            np.asarray(getattr(reference, name).value), np.asarray(value), rtol=1e-3, atol=1e-3, err_msg=name
        )


def test_positive_and_negative_parts_add_up(reference):
    total = reference.total_positive_curvature.value + reference.total_negative_curvature.value
    assert float(total) == pytest.approx(float(reference.total_scalar_curvature.value), rel=1e-4)
    assert (
        float(reference.total_negative_curvature.value)
        <= 0
        <= float(reference.total_positive_curvature.value)
    )


def test_fields_have_the_shape_and_dtype_of_the_points(reference):
    for name in FIELDS:
        estimate = getattr(reference, name)
        assert estimate.value.shape == estimate.error.shape == estimate.resolved.shape == GRID.shape
        assert estimate.value.dtype == estimate.error.dtype == jnp.float32
        assert estimate.resolved.dtype == bool
        assert (np.asarray(estimate.error) >= 0).all()
    for name in TOTALS:
        assert getattr(reference, name).value.shape == ()
    assert reference.axis_sensitivity.shape == (len(FIELDS), 2)


@pytest.mark.slow
def test_numpy_memmap_and_blocks_agree(reference, tmp_path):
    stored = np.memmap(tmp_path / "points.bin", np.float32, "w+", shape=POINTS.shape)
    stored[:] = POINTS
    close(measure(POINTS, GRID), reference)
    close(measure(stored, GRID, block_size=48), reference)
    close(measure(jnp.asarray(POINTS), GRID, block_size=48), reference)


@pytest.mark.slow
def test_jit_of_an_array(reference):
    measured = jax.jit(lambda p: measure(p, GRID))(jnp.asarray(POINTS))
    assert isinstance(measured, Geometry)
    close(measured, reference)
    assert measured.verdict("total_volume").resolved


@pytest.mark.slow
def test_jit_of_an_embedding():
    # The docstring of measure promises it: "under jit for arrays and embeddings".
    measured = jax.jit(lambda s: measure(lambda u: s * torus(u), GRID))(2.0)
    close(measured, measure(lambda u: 2.0 * torus(u), GRID))


@pytest.mark.slow
def test_jit_of_an_exact_embedding():
    # The same with exact=True.
    measured = jax.jit(lambda s: measure(lambda u: s * torus(u), GRID, exact=True))(2.0)
    close(measured, measure(lambda u: 2.0 * torus(u), GRID, exact=True))


@pytest.mark.slow
def test_other_intervals_and_names_compile_nothing_new(caplog):
    points = jnp.asarray(POINTS)
    same, expected = measure(points, GRID), reach(points, GRID)
    grid = Grid((Axis("first", -3.0, 1.0, 24, periodic=True, unit="rad"), Axis("second", 0.0, 0.3, 20)))
    with jax.log_compiles():
        other, radius = measure(points, grid, tolerance=0.2), reach(points, grid)
    assert not [record for record in caplog.records if "Compiling" in record.getMessage()]
    # The manifold is the same in every chart, but for rounding.
    rounding = other.rounding.mean_curvature + same.rounding.mean_curvature
    assert (abs(other.mean_curvature.value - same.mean_curvature.value) <= rounding).all()
    assert abs(radius.value - expected.value) <= radius.error + expected.error < 0.02
    assert other.grid == grid


def test_exact_is_exact(x64):
    manifold = datasets.torus(2.0, 0.5, size=(12, 16))
    measured = measure(manifold, exact=True)
    assert measured.exact
    u = manifold.grid.coordinates()
    known = jax.jit(jax.vmap(jax.vmap(manifold.known["scalar_curvature"])))(u)
    error = np.abs(np.asarray(measured.scalar_curvature.value) - np.asarray(known))
    assert error.max() <= 1e-12
    assert (error <= np.asarray(measured.scalar_curvature.error)).all()
    assert float(measured.total_volume.value) == pytest.approx(manifold.known["total_volume"], rel=1e-12)
    assert all(verdict.resolved for verdict in measured.verdicts().values())


def test_a_sequence_is_refused():
    with pytest.raises(ValueError, match="measure takes one manifold, got a sequence of 3: measure each"):
        measure([datasets.circle()] * 3)


@pytest.mark.slow
def test_grid_and_name_of_a_manifold_can_be_replaced():
    manifold = Manifold("ring", lambda u: torus(jnp.append(u, 0.0)), Grid((GRID.axes[0],)))
    finer = Grid((Axis("u", 0.0, 2 * math.pi, 40, periodic=True),))
    measured = measure(manifold, finer, name="fine ring")
    assert (measured.name, measured.grid) == ("fine ring", finer)
    assert float(measured.total_volume.value) == pytest.approx(2 * math.pi * 2.5, rel=1e-4)


@pytest.mark.slow
def test_stride_is_recorded_and_used(reference):
    measured = measure(jnp.asarray(POINTS), GRID, stride=(2, 1))
    assert measured.stencil == ((4, 2), (4, 1))
    assert reference.stencil == ((4, 1), (4, 1))
    difference = np.abs(np.asarray(measured.scalar_curvature.value - reference.scalar_curvature.value)).max()
    assert 1e-4 < difference < 0.1 * float(jnp.max(jnp.abs(reference.scalar_curvature.value)))


@pytest.mark.slow
def test_progress_counts_points():
    seen = []
    measure(jnp.asarray(POINTS), GRID, block_size=48, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (480, 480)
    assert all(total == 480 for _, total in seen)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


# --- interruption ----------------------------------------------------------------------------------------


def interrupted(points, folder, **options):
    with pytest.raises(Interrupted):
        measure(points, GRID, checkpoint=folder, progress=interrupt_after(250), **options)
    assert len(list(folder.glob("partial-*"))) == 1


@pytest.mark.parametrize(
    "kind", ["host", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("array", "function"))]
)
@pytest.mark.thorough
def test_a_measurement_goes_on_where_it_was(kind, reference, tmp_path):
    source = {"array": jnp.asarray(POINTS), "host": POINTS, "function": torus}[kind]
    interrupted(source, tmp_path, block_size=48)
    seen = []
    measured = measure(
        source, GRID, checkpoint=tmp_path, block_size=48, progress=lambda done, _: seen.append(done)
    )
    assert seen[0] > 200, "started from the beginning"
    assert list(tmp_path.iterdir()) == []
    whole = measure(source, GRID, block_size=48)
    for name in FIELDS + TOTALS:
        a, b = getattr(measured, name), getattr(whole, name)
        np.testing.assert_array_equal(np.asarray(a.value), np.asarray(b.value))
        np.testing.assert_array_equal(np.asarray(a.error), np.asarray(b.error))


def test_a_checkpoint_of_other_points_is_not_used(tmp_path):
    # A fingerprint by the repr of the array would miss it: NumPy abbreviates above 1000 entries.
    other = POINTS.copy()
    other[8:16, 5:15] *= 1.5
    interrupted(other, tmp_path, block_size=48)
    measured = measure(POINTS, GRID, checkpoint=tmp_path, block_size=48)
    close(measured, measure(POINTS, GRID, block_size=48), 1e-7)


@pytest.mark.slow
def test_a_checkpoint_of_other_blocks_is_not_used(tmp_path):
    # The block size must be part of the fingerprint, since blocks are counted.
    interrupted(POINTS, tmp_path, block_size=48)
    measured = measure(POINTS, GRID, checkpoint=tmp_path, block_size=100)
    close(measured, measure(POINTS, GRID, block_size=100), 1e-7)


def test_a_broken_checkpoint_is_not_fatal(tmp_path):
    # A file cut short (disk full, killed) costs what it held.
    interrupted(POINTS, tmp_path, block_size=48)
    files = sorted(tmp_path.glob("partial-*/*.npy"))
    assert len(files) > 3
    for size, file in enumerate(files[1:]):
        file.write_bytes(file.read_bytes()[: 40 * size])
    measured = measure(POINTS, GRID, checkpoint=tmp_path, block_size=48)
    close(measured, measure(POINTS, GRID, block_size=48), 1e-7)


@pytest.mark.slow
def test_an_embedding_made_anew_goes_on_too(tmp_path):
    # "Interrupted and called again" is another process, where the same function has another address: its repr
    # must not be part of the fingerprint.
    def make():
        return Manifold("torus", lambda u: torus(u), GRID, {}, {"major": 2.0, "minor": 0.5})

    with pytest.raises(Interrupted):
        measure(make(), checkpoint=tmp_path, block_size=48, progress=interrupt_after(250))
    seen = []
    measure(make(), checkpoint=tmp_path, block_size=48, progress=lambda done, _: seen.append(done))
    assert seen[0] > 200, "started from the beginning"


def test_an_unwritable_checkpoint_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"Cannot write to the folder .*file"):
        measure(POINTS, GRID, checkpoint=tmp_path / "file" / "folder")
