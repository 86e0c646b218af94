import sys
from dataclasses import replace

import numpy as np
import pytest

from manifold_jax import Axis, Estimate, Geometry, Grid, Manifold, Reach, measure, plotting, reach
from manifold_jax.datasets import ellipse, sprite, torus, two_moons
from manifold_jax.geometry.quantities import FIELDS, TOTALS, Fields
from manifold_jax.geometry.reach.result import ComponentReach, End
from manifold_jax.plotting.images import Curves, curve_panels, image_grid
from manifold_jax.plotting.style import limits, median_bar


def measured(grid, *, exact=False, blank=False):
    """A result made of smooth fields, with bars that cover half of the stencils' errors."""
    mesh = np.meshgrid(*(np.linspace(0, 3, n) for n in grid.shape), indexing="ij")
    wave = sum(np.sin(u + k) for k, u in enumerate(mesh))
    noise = np.zeros(grid.shape) if exact else 1e-3 * np.cos(np.arange(grid.size)).reshape(grid.shape)
    bar = np.where(np.arange(grid.size) % 2, 1.0, 1e-9).reshape(grid.shape)
    fields = {}
    for k, name in enumerate(FIELDS):
        value = (wave if name == "scalar_curvature" else 3 + k + wave**2) + noise
        if blank and name != "volume_element":
            value = np.where(mesh[0] > 2, np.nan, value)
        fields[name] = Estimate(value, np.full(grid.shape, 1e-12) if exact else bar, np.isfinite(value))
    totals = {name: Estimate(np.float64(1.0), np.float64(0.1), np.bool_(True)) for name in TOTALS}
    return Geometry(
        **fields,
        **totals,
        axis_sensitivity=np.zeros((len(FIELDS), grid.ndim)),
        rounding=Fields(*(np.zeros(grid.shape) for _ in FIELDS)),
        noise=np.zeros(grid.ndim),
        noise_bars=Fields(*(np.zeros(grid.shape) for _ in FIELDS)),
        noise_decay=np.full(grid.ndim, np.nan),
        name="waves",
        grid=grid,
        stencil=None if exact else ((4, 1),) * grid.ndim,
    )


@pytest.fixture
def ring():
    manifold = torus(size=(12, 10))
    return manifold, measured(manifold.grid), measured(manifold.grid, exact=True)


@pytest.fixture
def curve():
    manifold = ellipse(size=24)
    return manifold, measured(manifold.grid)


@pytest.fixture
def images():
    manifold = sprite("ellipse", size=16, sizes={"orientation": 12, "scale": 5})
    return manifold, measured(manifold.grid)


def labels(figure):
    drawn = figure.get_axes()
    return [text for axes in drawn for text in (axes.get_xlabel(), axes.get_ylabel()) if text]


def test_units(ring, curve, images):
    geometry = ring[1]
    assert plotting.unit_of(geometry, "volume_element") == "ℓ²/rad²"
    assert plotting.unit_of(geometry, "scalar_curvature") == "ℓ⁻²"
    assert plotting.unit_of(geometry, "total_volume") == "ℓ²"
    assert plotting.unit_of(geometry, "total_scalar_curvature") == ""
    assert plotting.unit_of(curve[1], "total_scalar_curvature") == "ℓ⁻¹"
    assert plotting.unit_of(images[1], "volume_element") == "ℓ⁴/(rad px²)"
    assert plotting.unit_of(images[1], "total_volume") == "ℓ⁴/px²"
    assert plotting.unit_of(images[1], "total_scalar_curvature") == "ℓ²/px²"


def test_comparison_counts_covered_points(ring):
    _, stencil, exact = ring
    comparison = plotting.compare(stencil, exact)["volume_element"]
    error = np.abs(stencil.volume_element.value - exact.volume_element.value)
    assert comparison.coverage == 0.5
    assert comparison.resolved == 1.0
    assert comparison.median == pytest.approx(np.median(error / exact.volume_element.value))


def test_comparison_refuses_different_grids(ring, curve):
    with pytest.raises(ValueError, match="different grids"):
        plotting.compare(ring[1], curve[1])


def reach_by_hand(*parts):
    """A reach between the first point of the first and the last point of the last manifold."""
    sizes = [part.grid.size for part in parts]
    mirror = np.arange(sum(sizes))[::-1]
    components = tuple(
        ComponentReach(
            name=part.name,
            grid=part.grid,
            pointwise=np.linspace(1, 2, part.grid.size).reshape(part.grid.shape),
            pointwise_error=np.full(part.grid.shape, 0.1),
            witness=witness.reshape(part.grid.shape),
            border=np.zeros(part.grid.shape, bool),
        )
        for part, witness in zip(parts, np.split(mirror, np.cumsum(sizes)[:-1]), strict=True)
    )
    first, last = (
        End(k, np.array([axis.samples()[i] for axis in part.grid.axes]))
        for k, part, i in ((0, parts[0], 0), (len(parts) - 1, parts[-1], -1))
    )
    lengths = dict.fromkeys(("value", "local", "bottleneck", "searched"), 1.0)
    errors = dict.fromkeys(("error", "local_error", "bottleneck_error"), 0.1)
    counts = {"coincident": 0, "pruned": 0.0}
    facts = {"resolved": True, "case": "global", "local_bounds": (1.0, 1.0), "ends": (first, last)}
    return Reach(**lengths, **errors, **counts, **facts, components=components)


def test_every_kind_of_plot_is_drawn_without_a_window(ring, curve, images):
    manifold, stencil, exact = ring
    moons = two_moons(size=8)
    turning = sprite("heart", factors=("orientation",), size=8, sizes={"orientation": 8})
    number_of_axes = {
        plotting.plot_samples(manifold, exact): 2,
        plotting.plot_samples(images[0], columns=3): 3 * 4 + 1,
        plotting.plot_histograms(stencil): 5,
        plotting.plot_pairs(stencil): 25,
        plotting.plot_maps(stencil): 10,
        plotting.plot_maps(curve[1]): 2,
        plotting.plot_pca(manifold, stencil): 10,
        plotting.plot_comparison(stencil, exact): 15,
        plotting.plot_reach(moons, reach_by_hand(*moons)): 3,
        plotting.plot_reach(turning, reach_by_hand(turning)): 4 * 3 + 3,
        image_grid("title", [[np.ones((2, 2)), None]], rows=["row"], columns=["a", "b"]): 3,
        curve_panels("title", [Curves("panel", np.arange(3.0), np.ones((2, 3)), {})], "x", "y"): 1,
    }
    assert [len(figure.get_axes()) for figure in number_of_axes] == list(number_of_axes.values())


def test_points_with_one_feature_are_drawn_on_a_line():
    line = Manifold("line", lambda u: u, Grid((Axis("x", 0.0, 1.0, 5),)))
    for geometry in (None, measured(line.grid)):
        (dots,) = plotting.plot_samples(line, geometry).get_axes()[0].collections
        np.testing.assert_allclose(dots.get_offsets(), np.stack([np.linspace(0, 1, 5), np.zeros(5)], axis=1))


@pytest.mark.slow
def test_every_figure_of_a_surface_is_saved(ring, tmp_path):
    manifold, stencil, exact = ring
    figures = {
        "samples": plotting.plot_samples(manifold, exact),
        "histograms": plotting.plot_histograms(stencil),
        "pairs": plotting.plot_pairs(stencil),
        "maps": plotting.plot_maps(stencil),
        "pca": plotting.plot_pca(manifold, stencil),
        "comparison": plotting.plot_comparison(stencil, exact),
    }
    for name, figure in figures.items():
        path = plotting.save_figure(figure, tmp_path / f"{name}.png")
        assert path.read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"{name}.png" for name in figures)
    assert any("[ℓ⁻²]" in text for text in labels(figures["maps"]))
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.slow
def test_curve(curve, tmp_path):
    manifold, geometry = curve
    for figure in (
        plotting.plot_samples(manifold, geometry),
        plotting.plot_histograms(geometry),
        plotting.plot_pairs(geometry),
        plotting.plot_maps(geometry),
        plotting.plot_pca(manifold, geometry),
    ):
        assert plotting.save_figure(figure, tmp_path / "curve.png").exists()
        assert labels(figure)


@pytest.mark.slow
def test_images_along_the_axes(images):
    manifold, geometry = images
    figure = plotting.plot_samples(manifold, geometry, columns=4)
    assert len(figure.get_axes()) == 4 * 4 + 1  # and a colour bar
    assert sum("one period" in text for text in labels(figure)) == 2
    first = figure.get_axes()[0].images[0].get_array()
    middle = [axis.samples()[axis.size // 2] for axis in manifold.grid.axes[1:]]
    expected = manifold.embedding(np.array([0.5, *middle], "float32"))
    np.testing.assert_allclose(first, expected, atol=1e-5)


@pytest.mark.slow
def test_four_axes(images, tmp_path):
    figure = plotting.plot_maps(images[1])
    assert not any(
        a.get_xlabel().startswith("x ") and a.get_ylabel().startswith("y ") for a in figure.get_axes()
    )
    plotting.save_figure(figure, tmp_path / "maps.png")


@pytest.mark.slow
def test_points_instead_of_a_manifold(images):
    manifold, geometry = images
    rng = np.random.default_rng(0)
    points = rng.normal(size=(*manifold.grid.shape, 7))
    assert "PC 3" in "".join(axes.get_zlabel() for axes in plotting.plot_pca(points, geometry).get_axes()[:2])


def test_principal_components_agree_with_both_gram_matrices():
    rng = np.random.default_rng(1)
    tall = rng.normal(size=(40, 6)) * np.arange(1, 7)
    wide = np.concatenate([tall, np.zeros((40, 60))], axis=1)
    (a, shares_a), (b, shares_b) = (plotting.principal_components(points) for points in (tall, wide))
    np.testing.assert_allclose(shares_a, shares_b, rtol=1e-9)
    np.testing.assert_allclose(np.abs(a), np.abs(b), atol=1e-9)


def test_the_first_of_many_principal_components_are_those_of_all():
    rng = np.random.default_rng(2)
    points = rng.normal(size=(300, 400)) + np.outer(rng.normal(size=300), np.arange(400) / 100)
    scores, shares = plotting.principal_components(points)
    left, sizes, _ = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(shares, sizes[:3] ** 2 / np.sum(sizes**2), rtol=1e-9)
    np.testing.assert_allclose(np.abs(scores), np.abs(left[:, :3] * sizes[:3]), atol=1e-6)
    tiny, least = plotting.principal_components(points * 1e-200)
    np.testing.assert_allclose(np.abs(tiny), np.abs(scores) * 1e-200, rtol=1e-6)
    np.testing.assert_allclose(least, shares, rtol=1e-9)
    assert not plotting.principal_components(np.ones((300, 400)))[0].any()
    assert plotting.principal_components(points, 500)[0].shape == (300, 300)


@pytest.mark.slow
def test_scalar_curvature_is_centred_on_zero(ring):
    image = next(c for axes in plotting.plot_maps(ring[2]).get_axes()[1:2] for c in axes.collections)
    low, high = image.get_clim()
    assert low == -high < 0


@pytest.mark.slow
def test_undefined_points_are_left_blank(tmp_path):
    manifold = torus(size=(8, 6))
    geometry, exact = (measured(manifold.grid, exact=exact, blank=True) for exact in (False, True))
    plotting.plot_histograms(geometry)
    plotting.plot_pairs(geometry)
    plotting.plot_comparison(geometry, exact)
    plotting.save_figure(plotting.plot_maps(geometry), tmp_path / "maps.png")
    plotting.save_figure(plotting.plot_samples(manifold, geometry), tmp_path / "samples.png")


def test_missing_matplotlib_is_one_sentence(curve, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "manifold_jax\[plots\]"'):
        plotting.plot_histograms(curve[1])


@pytest.mark.slow
def test_unwritable_path(curve, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="Cannot write"):
        plotting.save_figure(plotting.plot_histograms(curve[1]), tmp_path / "file" / "a.png")


@pytest.mark.slow
def test_reach_of_curves_and_images_side_by_side():
    moons = two_moons(size=24)
    figure = plotting.plot_reach(moons, reach(moons))
    assert "global (two points)" in figure.get_suptitle()
    assert any("tangent ball" in text for text in labels(figure))
    pictures = sprite("ellipse", factors=("orientation",), size=16, sizes={"orientation": 24}, full_turn=True)
    figure = plotting.plot_reach(pictures, reach(pictures))
    for axes, name in zip(figure.get_axes()[:2], "pq", strict=True):
        assert axes.get_title() == name
        assert axes.get_xlabel().startswith("orientation")


@pytest.mark.slow
def test_the_scale_of_what_is_never_negative_begins_at_zero():
    geometry = measure(ellipse((3.0, 1.0), size=8))
    values = np.asarray(geometry.mean_curvature.value)
    wide = geometry.mean_curvature._replace(error=np.full(8, 10 * values.max()))
    coarse = replace(geometry, mean_curvature=wide)
    assert median_bar(coarse, "mean_curvature") > values.max()
    assert limits(values, coarse, "mean_curvature")[0] == 0
