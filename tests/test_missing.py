"""Points that are missing: stencils shrink to what is there, the rest is undefined."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zarr
from matplotlib import pyplot as plt

from manifold_jax import (
    Axis,
    Grid,
    gram_from_grid,
    mean_curvature,
    measure,
    reach,
    scalar_curvature,
    second_form_norm,
    volume_element,
)
from manifold_jax.geometry.quantities import FIELDS
from manifold_jax.plotting import plot_maps, plot_pca, plot_reach, plot_samples

TURN = 2 * np.pi
GRID = Grid((Axis("angle", 0.0, TURN, 24, periodic=True), Axis("height", -1.0, 1.0, 20)))
HOLES = np.zeros(GRID.shape, bool)
HOLES[0, 9] = HOLES[12:14, 10] = True


def barrel() -> np.ndarray:
    """A surface of revolution with the profile 2 + cos(height) / 2, ``(24, 20, 3)``."""
    angle, height = np.meshgrid(*(axis.samples() for axis in GRID.axes), indexing="ij")
    radius = 2 + np.cos(height) / 2
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=-1).astype(np.float32)


def with_holes() -> np.ndarray:
    return np.where(HOLES[..., None], np.nan, barrel()).astype(np.float32)


def beside(radius: int) -> np.ndarray:
    """Points with a hole within so many samples along both axes."""
    felt = np.zeros_like(HOLES)
    for i, j in np.argwhere(HOLES):
        rows = np.arange(i - radius, i + radius + 1) % 24
        felt[np.ix_(rows, np.arange(max(0, j - radius), min(20, j + radius + 1)))] = True
    return felt


@pytest.fixture(scope="module")
def geometry():
    return measure(with_holes(), GRID, accuracy=4, missing="mask")


def test_every_point_has_the_highest_order_whose_samples_are_there(geometry):
    """Against measurements of the whole surface at both orders; order p is compared with order p + 2."""

    @jax.jit
    def fields(gram):
        return volume_element(gram), scalar_curvature(gram), mean_curvature(gram), second_form_norm(gram)

    whole = [fields(gram_from_grid(barrel(), GRID, accuracy=order)) for order in (4, 2)]
    near, nearer = beside(3), beside(2)
    assert near.sum() > nearer.sum() > 0
    for name, by_4, by_2 in zip(FIELDS, *whole, strict=False):
        value, by_4, by_2 = map(np.asarray, (getattr(geometry, name).value, by_4, by_2))
        np.testing.assert_array_equal(np.isnan(value), nearer)
        expected = np.where(near, by_2, by_4)[~nearer]
        np.testing.assert_allclose(value[~nearer], expected, rtol=0, atol=2e-5 * np.abs(expected).max())
        assert (abs(by_2 - by_4)[near] > 1e-4 * abs(by_4).max()).any() or name == "volume_element"
    assert not geometry.second_form_norm.resolved[nearer].any()
    assert np.isinf(geometry.second_form_norm.error[nearer]).all()
    assert np.isnan(geometry.total_volume.value)  # what is missing has a volume too


def test_totals_say_what_they_lack(geometry):
    words = f"volume is not known at {beside(2).mean():.1%} of the points (missing, or not finite), complete"
    assert words in geometry.verdict("total_volume").sentence


def test_holes_are_no_kinks(geometry):
    whole = measure(barrel(), GRID, accuracy=4)
    far = ~beside(5)
    np.testing.assert_allclose(
        geometry.second_form_norm.error[far], whole.second_form_norm.error[far], rtol=0.3
    )


@pytest.mark.parametrize(
    "hold",
    [
        pytest.param(jnp.asarray, marks=pytest.mark.slow),
        lambda points: np.ma.masked_array(barrel(), np.repeat(HOLES[..., None], 3, -1)),
        lambda points: np.where(np.isnan(points), np.inf, points),
        lambda points: zarr.array(points, chunks=(8, 20, 3)),
        pytest.param(
            lambda points: jnp.asarray(points).at[..., 1:].set(jnp.asarray(barrel())[..., 1:]),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["JAX", "masked", "infinite", "file", "one feature"],
)
def test_holders_of_holes(hold, geometry):
    other = measure(hold(with_holes()), GRID, accuracy=4, missing="mask")
    for a, b in zip(other.fields[:4], geometry.fields[:4], strict=True):
        np.testing.assert_allclose(a.value, b.value, atol=2e-4)
        np.testing.assert_array_equal(np.isnan(a.value), np.isnan(b.value))


@pytest.mark.slow
def test_under_jit(geometry):
    value = jax.jit(lambda x: measure(x, GRID, accuracy=4, missing="mask").second_form_norm.value)(
        with_holes()
    )
    np.testing.assert_allclose(value, geometry.second_form_norm.value, atol=2e-4)


def test_where_nothing_is_missing_nothing_changes():
    a, b = measure(barrel(), GRID, missing="mask"), measure(barrel(), GRID)
    np.testing.assert_array_equal(a.second_form_norm.error, b.second_form_norm.error)


@pytest.mark.parametrize(
    ("points", "options", "words"),
    [
        (with_holes(), {}, "points must be finite, got NaN or infinite values at 3 of 480 points"),
        (with_holes(), {"missing": "drop"}, "missing must be one of 'refuse', 'mask'"),
        (with_holes() * np.nan, {"missing": "mask"}, "finite somewhere"),
        (lambda u: u, {"missing": "mask"}, "a function has them all"),
    ],
)
def test_refusals(points, options, words):
    with pytest.raises(ValueError, match=words):
        measure(points, GRID, **options)


# --- reach --------------------------------------------------------------------------------------------------


def curve(function, size=64):
    grid = Grid((Axis("t", 0, 2 * np.pi, size, periodic=True),))
    return np.stack(function(grid.axes[0].samples()), axis=-1).astype(np.float32), grid


def ring(t):
    return np.cos(t), np.sin(t)


def ellipse(t):
    return 2 * np.cos(t), np.sin(t)


def peanut(t):
    """Its waist, half as wide as 0.35 twice, is at t = pi / 2 and - pi / 2."""
    return np.cos(t), np.sin(t) * (0.35 + 0.65 * np.cos(t) ** 2)


def doughnut(size=(32, 24)):
    grid = Grid(tuple(Axis(n, 0, 2 * np.pi, k, periodic=True) for n, k in zip("uv", size, strict=True)))
    u, v = np.moveaxis(np.asarray(grid.coordinates()), -1, 0)
    radius = 2 + np.cos(v) / 2
    return np.stack([radius * np.cos(u), radius * np.sin(u), np.sin(v) / 2], axis=-1), grid


def without(points, places):
    points = points.copy()
    for place in places:
        points[place] = np.nan
    return points


@pytest.mark.parametrize(
    ("shape", "places", "true"),
    [
        (lambda: curve(ring), [3, 20, 21], 1.0),
        (lambda: curve(ellipse), [14, 40], 0.5),  # the vertices are at 0 and 32
        (lambda: curve(peanut), [5, 40], None),
        pytest.param(doughnut, [(3, 5), (20, 12), (21, 12)], 0.5, marks=pytest.mark.slow),
    ],
    ids=["circle", "ellipse", "peanut", "torus"],
)
@pytest.mark.thorough
def test_the_reach_stays_where_a_few_points_are_missing(shape, places, true):
    points, grid = shape()
    whole = reach(points, grid)
    part = reach(without(points, places), grid, missing="mask")
    true = whole.value if true is None else true
    assert abs(part.value - true) <= part.error
    assert part.resolved
    assert part.case == whole.case
    assert (part.missing, part.coincident) == (len(places), 0)
    assert f"on this lattice of which {len(places)} points are missing" in part.sentence()
    lost = np.zeros(grid.shape, bool)
    for place in places:
        lost[place] = True
    assert np.isnan(part.pointwise[lost]).all()
    assert (part.witness[lost] == -1).all()
    assert not np.isin(part.witness, np.flatnonzero(lost)).any()
    # Nothing changes but for balls that met a missing point, and curvature by stencils of lower order.
    same = np.isfinite(part.pointwise) & (part.witness == whole.witness)
    assert same.mean() > 0.6
    difference = np.abs(part.pointwise - whole.pointwise)[same]
    assert (difference <= (part.pointwise_error + whole.pointwise_error)[same]).all()
    balls = np.isfinite(part.pointwise) & ~np.isin(whole.witness, np.flatnonzero(lost))
    assert (part.pointwise >= whole.pointwise - part.pointwise_error - whole.pointwise_error)[balls].all()


@pytest.mark.parametrize(
    ("function", "places"), [(ellipse, [0, 32]), (ellipse, [63, 0, 1, 31, 32, 33]), (peanut, [16, 48])]
)
def test_what_decides_the_reach_may_be_missing(function, places):
    points, grid = curve(function)
    true = reach(points, grid).value
    part = reach(without(points, places), grid, missing="mask")
    assert abs(part.value - true) <= part.error
    assert part.value >= true * (1 - 1e-3)
    if not part.resolved:
        assert "complete the points" in part.sentence()


def test_reach_refuses_missing_points_by_default():
    points, grid = curve(ring)
    with pytest.raises(ValueError, match="points must be finite, got NaN or infinite values at 1 of 64"):
        reach(without(points, [3]), grid)
    with pytest.raises(ValueError, match="reach: missing='mask' is for arrays of points"):
        reach(lambda u: u, grid, missing="mask")


@pytest.mark.slow
def test_holders_of_holes_have_one_reach():
    points, grid = curve(ring)
    part = reach(without(points, [3]), grid, missing="mask")
    masked = np.ma.masked_array(points, np.isnan(without(points, [3])))
    for held in (jnp.asarray(without(points, [3])), masked, zarr.array(without(points, [3]))):
        assert reach(held, grid, missing="mask").value == pytest.approx(part.value, abs=1e-6)


@pytest.mark.slow
def test_holes_at_an_open_border():
    """A cap of the unit sphere without some points of its border; the border turns inward."""
    grid = Grid((Axis("u", 0.5, 1.2, 12), Axis("v", 0, 2 * np.pi, 32, periodic=True)))
    u, v = np.moveaxis(np.asarray(grid.coordinates()), -1, 0)
    points = np.stack([np.sin(u) * np.cos(v), np.sin(u) * np.sin(v), np.cos(u)], axis=-1)
    whole = reach(points, grid)
    part = reach(without(points, [(0, 4), (11, 20), (5, 9)]), grid, missing="mask")
    assert part.value == pytest.approx(whole.value, abs=part.error + whole.error)


def pictures(t):
    """Images of 6 x 6 pixels along a circle."""
    phase = np.arange(36) / 6
    return [np.cos(t + a) for a in phase]


SLOW_SHAPES = (doughnut, lambda: curve(pictures))


@pytest.mark.parametrize(
    "shape", [lambda: curve(ellipse), *(pytest.param(s, marks=pytest.mark.slow) for s in SLOW_SHAPES)]
)
def test_pictures_of_what_is_there(shape):
    points, grid = shape()
    points = points.reshape(*grid.shape, 6, 6) if points.shape[-1] == 36 else points
    broken = without(points, [3, 20] if grid.ndim == 1 else [(3, 5), (20, 12)])
    geometry = measure(broken, grid, missing="mask")
    result = reach(broken, grid, geometry=geometry, missing="mask")
    figures = [plot(broken, geometry) for plot in (plot_pca, plot_samples)]
    for figure in (*figures, plot_maps(geometry), plot_reach(broken, result)):
        figure.canvas.draw()
        plt.close(figure)
