"""Reports: what they say, what they hold, and that they work in a browser without network."""

import base64
import io
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from browser import browser, opened

import manifold_jax as mj
from manifold_jax.geometry.quantities import with_bar
from manifold_jax.geometry.reach.lattice import End
from manifold_jax.geometry.reach.result import ComponentReach
from manifold_jax.plotting.page import charts, sections

LARGEST = 10 * 2**20


def data_of(file):
    text = file.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found.group(1))


def numbers(text, kind="<f4"):
    return np.frombuffer(base64.b64decode(text), kind)


def words_of(file):
    body = file.read_text(encoding="utf-8").partition("<body>")[2].partition("<script")[0]
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


@pytest.fixture(scope="module")
def torus():
    manifold = mj.datasets.torus(size=(12, 10))
    return manifold, mj.measure(manifold, exact=True)


@pytest.fixture(scope="module")
def sprites(tmp_path_factory):
    """A report of images of two factors, with their reach."""
    sizes = {"orientation": 9, "x": 8}
    sprite = mj.datasets.sprite(
        "ellipse", size=16, factors=("orientation", "x"), sizes=sizes, layout="balanced"
    )
    geometry = mj.measure(sprite, exact=True)
    reach = mj.reach(sprite, geometry=geometry)
    file = tmp_path_factory.mktemp("sprites") / "report.html"
    return mj.plotting.save_report(file, sprite, geometry, reach=reach), reach


def test_a_report_holds_what_was_measured(torus, tmp_path):
    manifold, geometry = torus
    file = mj.plotting.save_report(tmp_path / "torus.html", manifold, geometry)
    assert file.stat().st_size < LARGEST
    (part,) = data_of(file)["parts"]
    n, curvature = geometry.grid.size, np.ravel(geometry.scalar_curvature.value)
    # Positions are the embedded points, coordinates those of the grid; both are in one order.
    u = numbers(part["points"]["coordinates"]).reshape(n, 2)
    x = numbers(part["points"]["positions"]).reshape(n, 3)
    np.testing.assert_allclose(x, jax.vmap(manifold.embedding)(jnp.asarray(u)), atol=1e-5)
    (signed,) = [q for q in part["quantities"] if q["signed"]]
    np.testing.assert_array_equal(numbers(signed["values"]), curvature.astype(np.float32))
    np.testing.assert_array_equal(numbers(signed["map"][0]), curvature.astype(np.float32))
    assert part["map"]["shape"] == [12, 10]
    assert sum(signed["histogram"]["counts"]) == n
    # S = 4 cos v / (1 + cos v / 2) on the torus with radii 1 and 1/2, has both signs.
    assert signed["limits"][0] == -signed["limits"][1]
    said = words_of(file)
    assert "Yes: every quantity is resolved" in said
    assert "12 of toroidal" in said


@pytest.mark.thorough
def test_a_report_says_what_is_not_resolved_and_what_to_do(tmp_path):
    grid = mj.Grid((mj.Axis("angle", 0, 2 * math.pi, 8, periodic=True),))
    t = grid.coordinates(jnp.float32)[..., 0]
    points = jnp.stack([jnp.cos(t), 0.3 * jnp.sin(t)], axis=-1)
    geometry = mj.measure(points, grid, name="thin ellipse")
    assert not geometry.verdict("mean_curvature").resolved
    file = mj.plotting.save_report(tmp_path / "report.html", points, geometry)
    said = words_of(file)
    assert "Yes: every quantity" not in said
    assert geometry.verdict("mean_curvature").sentence in said


@pytest.mark.thorough
def test_names_cannot_break_a_page(tmp_path):
    grid = mj.Grid((mj.Axis("<b>a</b>", 0, 2 * math.pi, 16, periodic=True),))
    t = grid.coordinates(jnp.float32)[..., 0]
    points = jnp.stack([jnp.cos(t), jnp.sin(t)], axis=-1)
    geometry = mj.measure(points, grid, name="</script><script>alert(1)</script>")
    file = mj.plotting.save_report(tmp_path / "report.html", points, geometry)
    assert "<script>alert" not in file.read_text(encoding="utf-8")
    assert data_of(file)["parts"][0]["name"] == geometry.name


def test_large_grids_are_thinned_to_what_a_page_holds():
    grid = mj.Grid(tuple(mj.Axis(name, 0, 1, n) for name, n in zip("abc", (200, 100, 20), strict=True)))
    steps = charts.thin(grid, 40_000)
    left = [-(-n // step) for n, step in zip(grid.shape, steps, strict=True)]
    assert math.prod(left) <= 40_000 < 4 * math.prod(left)
    assert charts.thin(grid, 400_000) == (1, 1, 1)


def test_the_sheet_holds_the_means_of_squares_of_pixels():
    from PIL import Image

    images = np.random.default_rng(0).random((5, 84, 80))
    small = charts.shrink(images)
    assert small.shape == (5, 28, 26)
    np.testing.assert_allclose(small[3, 2, 4], images[3, 6:9, 12:15].mean())
    sheet = charts.sheet(small)
    with Image.open(io.BytesIO(base64.b64decode(sheet["src"].partition(",")[2]))) as picture:
        levels = np.asarray(picture)
    row, column = divmod(3, sheet["columns"])
    part = levels[row * 28 : (row + 1) * 28, column * 26 : (column + 1) * 26]
    np.testing.assert_allclose(part, 255 * small[3] / small.max(), atol=0.51)


@pytest.mark.thorough
def test_a_report_of_images_holds_them_and_the_reach(sprites):
    file, reach = sprites
    assert file.stat().st_size < LARGEST
    said = words_of(file)
    for words in ("What was measured", "Is it reliable?", "What next?", "How to cite", reach.sentence()):
        assert words in said
    (part,) = data_of(file)["parts"]
    assert part["images"]["width"] == 16
    assert [axis["label"] for axis in part["axes"]] == ["orientation [rad]", "x [px]"]
    ball = part["quantities"][-1]
    np.testing.assert_allclose(numbers(ball["values"]), reach.pointwise.ravel(), rtol=1e-6)


@pytest.mark.thorough
def test_results_are_tables_in_notebooks(torus):
    _, geometry = torus
    shown = geometry._repr_html_()
    value, bar = re.search(r">volume</td><td[^>]*>([\d.]+) ± ([\d.e-]+)<", shown).groups()
    assert abs(float(value) - 4 * math.pi**2) <= float(bar)  # 4 pi^2 R r
    assert "resolved at" in shown
    reach = mj.reach(mj.datasets.circle(size=32))
    assert reach.sentence() in reach._repr_html_()
    assert jax.eval_shape(lambda g: g, geometry)._repr_html_() is None
    table = mj.fitting.calibrate(
        mj.fitting.builtin_estimators("tangent")[:1], mj.datasets.circle(), [60], key=jax.random.key(0)
    )
    assert f"{table.rows[0].estimator}</td>" in table._repr_html_()


@pytest.mark.thorough
def test_paths_are_tables_in_notebooks():
    weights = jnp.arange(12.0).reshape(4, 3)

    def log_prob(x):
        return jax.nn.log_softmax(jnp.sin(x @ weights))

    x, y = jnp.array([0.1, 0.2, 0.3, 0.4]), jnp.array([0.4, 0.1, 0.2, 0.3])
    path = mj.horizontal_path(log_prob, x, y, max_steps=20)
    shown = path._repr_html_()
    assert "1 path<" in shown
    assert f"{float(path.length):.4g}" in shown
    many = jax.vmap(lambda end: mj.horizontal_path(log_prob, x, end, max_steps=5))(jnp.stack([y] * 22))
    assert "22 paths" in many._repr_html_()
    assert "2 more paths are not shown" in many._repr_html_()
    traced = []
    jax.eval_shape(lambda end: traced.append(mj.horizontal_path(log_prob, x, end)._repr_html_()), y)
    assert traced == [None]


@pytest.mark.thorough
def test_reports_work_in_a_browser(sprites):
    with browser() as chromium:
        for width, scheme in ((1280, "light"), (400, "dark")):
            with opened(chromium, sprites[0], width, scheme) as page:
                assert page.evaluate("document.documentElement.dataset.theme") == scheme
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                # Hovering shows another point, with its image.
                before = page.get_attribute("#point", "data-point")
                hover = "p => p.emit('plotly_hover', {points: [{curveNumber: 0, pointNumber: 5}]})"
                page.eval_on_selector("#points", hover)
                assert page.get_attribute("#point", "data-point") == "5" != before
                brightest = """c => Math.max(...c.getContext('2d')
                    .getImageData(0, 0, c.width, c.height).data.filter((_, i) => i % 4 !== 3))"""
                assert page.eval_on_selector("#point canvas", brightest) > 100
                page.select_option("#quantity", "1")
                label = page.eval_on_selector("#histogram", "p => p.layout.xaxis.title.text")
                assert label == "scalar curvature S [ℓ⁻²]"
                page.click("#theme")
                assert page.evaluate("document.documentElement.dataset.theme") != scheme


@pytest.mark.thorough
def test_a_slider_cuts_the_other_axes(tmp_path):
    options = {"factors": ("scale", "orientation", "x"), "sizes": {"scale": 5, "orientation": 8, "x": 5}}
    sprite = mj.datasets.sprite("ellipse", size=16, layout="balanced", **options)
    geometry = mj.measure(sprite, exact=True)
    file = mj.plotting.save_report(tmp_path / "report.html", sprite, geometry)
    volume = np.asarray(geometry.volume_element.value)
    with browser() as chromium, opened(chromium, file) as page:
        shown = "p => p.data[0].z"
        np.testing.assert_allclose(page.eval_on_selector("#map", shown), volume[:, :, 2], rtol=1e-6)
        page.locator("#sliders input").fill("4")
        np.testing.assert_allclose(page.eval_on_selector("#map", shown), volume[:, :, 4], rtol=1e-6)
        page.select_option("#map-x", "2")
        np.testing.assert_allclose(page.eval_on_selector("#map", shown), volume[:, 4, :], rtol=1e-6)
        # The pointer itself, in the middle of the map.
        page.locator("#map").scroll_into_view_if_needed()
        box = page.locator("#map").bounding_box()
        page.mouse.move(box["x"] + 50, box["y"] + 50)
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=5)
        page.wait_for_selector("#map .hoverlayer .hovertext", state="attached")
        told = page.text_content("#map .hoverlayer .hovertext")
        assert any(f"{value:.4g} ±" in told for value in volume[:, 4, :].ravel()), told


def ones_like(shapes):
    """A result without measuring anything."""
    return jax.tree.map(lambda one: np.ones(one.shape, one.dtype), shapes)


SHAPES = [(2, 60), (1, 50), (50, 1), (5, 5, 5), (8, 8, 3), (8, 8, 2), (3,), (1,)]


@pytest.mark.parametrize("features", SHAPES)
@pytest.mark.thorough
def test_points_of_any_shape_have_a_page(features):
    grid = mj.Grid((mj.Axis("a", 0, 2 * math.pi, 8, periodic=True),))
    phases = np.linspace(0, 3, math.prod(features))
    points = np.cos(np.arange(8)[:, None] * math.pi / 4 + phases).reshape(8, *features).astype(np.float32)
    geometry = ones_like(jax.eval_shape(lambda x: mj.measure(x, grid), points))
    end = End(0, np.array([1.0]))
    ball = np.ones(8)
    part = ComponentReach("a", grid, ball, ball, np.arange(8), ball > 2)
    reach = mj.Reach(1.0, 0.1, True, "local", 1.0, 0.1, (1, 1), 1.0, 0.1, 1.0, (end, end), 0, 0.0, (part,))
    data = charts.part_data(points, geometry, reach, 0, 1)
    assert (data["images"] is not None) == (features == (8, 8, 3))
    assert reach.sentence() in sections.witnesses(points, reach).body


@pytest.mark.thorough
def test_many_manifolds_fit_on_a_page():
    sizes = {"orientation": 36, "scale": 9, "x": 9}
    sprite = mj.datasets.sprite("ellipse", size=32, factors=tuple(sizes), sizes=sizes, layout="balanced")
    geometry = ones_like(jax.eval_shape(lambda: mj.measure(sprite)))
    for count in (1, 20):
        size = len(json.dumps(charts.part_data(sprite, geometry, None, 0, count)))
        assert count * size < 4.5 * 2**20  # plotly.js takes as much, and pictures some of the rest


def test_a_bar_holds_what_it_was_measured_to_hold():
    generator = np.random.default_rng(0)
    values = generator.normal(size=2000) * 10.0 ** generator.integers(-8, 8, 2000)
    errors = np.abs(values) * 10.0 ** generator.uniform(-9, 2, 2000)
    for value, error in zip(values, errors, strict=True):
        shown, bar = with_bar(value, error).split(" ± ")
        assert float(bar) >= error * (1 - 2e-6)
        assert abs(float(shown) - value) <= 0.051 * float(bar) + 1e-15 * abs(value)
