"""Sprites: images against an independent area integral, smoothness, symmetries, layouts, messages."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import manifold_jax as mj
from manifold_jax.datasets import sprite
from manifold_jax.datasets.outlines import outline_nodes, signed_area

ALL = ("scale", "orientation", "y", "x", "aspect", "shear", "blur", "contrast")
ARROW = np.array([[-8.0, -6.0], [9.0, -1.0], [-8.0, 7.0], [-3.0, 0.5]])


def clover(t):
    """A smooth user curve without symmetry under half a turn."""
    r = 8 + 2 * jnp.cos(3 * t)
    return jnp.stack([r * jnp.cos(t), r * jnp.sin(t)])


OUTLINES = {"square": "square", "ellipse": "ellipse", "heart": "heart", "curve": clover, "polygon": ARROW}
FEW_OUTLINES = [
    "heart",
    "polygon",
    *(pytest.param(s, marks=pytest.mark.slow) for s in ("square", "ellipse", "curve")),
]


@pytest.fixture(autouse=True)
def double(x64):
    """Float64 unless a test asks for less."""


# --- an independent oracle: the area integral itself, over triangles between outline and centre -----


def curve_jet(shape, t):
    """Outline and velocity in NumPy, written out by hand."""
    sin, cos = np.sin(t), np.cos(t)
    if shape == "ellipse":
        return np.stack([13 * cos, 7 * sin]), np.stack([-13 * sin, 7 * cos])
    if shape == "heart":
        y = 13 * cos - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t) + 2.515
        dy = -13 * sin + 10 * np.sin(2 * t) + 6 * np.sin(3 * t) + 4 * np.sin(4 * t)
        return 0.6 * np.stack([16 * sin**3, -y]), 0.6 * np.stack([48 * sin**2 * cos, -dy])
    r, dr = 8 + 2 * np.cos(3 * t), -6 * np.sin(3 * t)
    return np.stack([r * cos, r * sin]), np.stack([dr * cos - r * sin, dr * sin + r * cos])


def boundary(shape):
    """Nodes (2, n) on the outline and increments (2, n)."""
    if shape in ("square", "polygon"):
        corners = 9.5 * np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) if shape == "square" else ARROW
        nodes, weights = np.polynomial.legendre.leggauss(90)
        edges = np.roll(corners, -1, axis=0) - corners
        points = corners[:, :, None] + edges[:, :, None] * (nodes + 1) / 2
        return np.concatenate(list(points), 1), np.concatenate(list(edges[:, :, None] * weights / 2), 1)
    points, speed = curve_jet(shape, 2 * np.pi * np.arange(360) / 360)
    return points, speed * 2 * np.pi / 360


def linear_map(f):
    turn = np.array([[math.cos(f["orientation"]), -math.sin(f["orientation"])]])
    turn = np.concatenate([turn, [[-turn[0, 1], turn[0, 0]]]])
    wide = math.sqrt(f["aspect"])
    return f["scale"] * turn @ np.array([[1, f["shear"]], [0, 1]]) @ np.diag([wide, 1 / wide])


def oracle(shape, f, size):
    """Gaussian of every pixel integrated over the area, q = r c(t): no Green's theorem, no closed form."""
    points, steps = (linear_map(f) @ part for part in boundary(shape))
    r, weights = np.polynomial.legendre.leggauss(96)
    r, weights = (r + 1) / 2, weights / 2
    area = np.abs(np.sum(points[0] * steps[1] - points[1] * steps[0])) / 2
    cells = (points[0] * steps[1] - points[1] * steps[0]) * (weights * r)[:, None]
    cells = (cells * np.sign(cells.sum())).ravel()
    np.testing.assert_allclose(cells.sum(), area, rtol=1e-12)
    pixels = np.arange(size)
    x, y = (f[name] + (r[:, None] * points[k]).ravel() for k, name in enumerate("xy"))
    density = [np.exp(-0.5 * ((z[:, None] - pixels) / f["blur"]) ** 2) for z in (y, x)]
    cells *= f["contrast"] / (2 * np.pi * f["blur"] ** 2)
    return density[0].T @ (cells[:, None] * density[1]), area


FACTORS = {"scale": 0.9, "orientation": 0.7, "y": 30.3, "x": 33.2, "aspect": 1.15, "shear": -0.2}
FACTORS |= {"blur": 1.0, "contrast": 0.8}


def render(shape, f, size=64, free="x", dtype=jnp.float64):
    others = {name: value for name, value in f.items() if name != free}
    outline = OUTLINES[shape] if isinstance(shape, str) else shape
    manifold = sprite(outline, factors=(free,), fixed=others, size=size)
    return np.asarray(jax.jit(manifold.embedding)(jnp.array([f[free]], dtype)))  # one program, not many


@pytest.mark.slow
@pytest.mark.parametrize("shape", OUTLINES)
@pytest.mark.parametrize("changes", [{}, {"blur": 0.6, "shear": 0.0, "aspect": 0.85}])
def test_image_is_the_blurred_indicator(shape, changes):
    f = FACTORS | changes
    expected, area = oracle(shape, f, 64)
    image = render(shape, f)
    np.testing.assert_allclose(image, expected, atol=1e-12)
    assert image.min() > -1e-14
    assert 0.5 * area < (image > 0.4).sum() < 1.5 * area  # the inside is bright: no sign was lost


def test_ellipse_by_chords():
    f = FACTORS
    a = linear_map(f) @ np.diag([13.0, 7.0])
    gram = a @ a.T
    nodes, weights = np.polynomial.legendre.leggauss(200)
    angle = nodes * np.pi / 2
    y = np.sqrt(gram[1, 1]) * np.sin(angle)
    middle, half = gram[0, 1] / gram[1, 1] * y, np.sqrt(np.linalg.det(gram) / gram[1, 1]) * np.cos(angle)
    pixels = np.arange(64)
    ends = [norm.cdf((f["x"] + middle + s * half)[:, None] - pixels) for s in (1, -1)]
    rows = norm.pdf(f["y"] + y[:, None] - pixels)
    strips = (weights * np.sqrt(gram[1, 1]) * np.cos(angle) * np.pi / 2)[:, None]
    expected = f["contrast"] * rows.T @ (strips * (ends[0] - ends[1]))
    np.testing.assert_allclose(render("ellipse", f), expected, atol=1e-12)


@pytest.mark.parametrize("shape", FEW_OUTLINES)
def test_total_mass_is_the_area(shape):
    f = FACTORS | {"blur": 1.5, "contrast": 1.0}
    area = oracle(shape, f, 64)[1]
    np.testing.assert_allclose(render(shape, f).sum(), area, rtol=1e-11)


@pytest.mark.parametrize("blur", [1.0, *(pytest.param(b, marks=pytest.mark.slow) for b in (0.5, 2.0))])
def test_square_closed_form_is_the_polygon(blur):
    f = FACTORS | {"shear": 0.0, "blur": blur}
    corners = 9.5 * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    others = {name: value for name, value in f.items() if name != "orientation"}
    square, polygon = (
        sprite(s, factors=("orientation",), fixed=others, sizes={"orientation": 8})
        for s in ("square", corners)
    )
    assert square.embedding.half_side > 0 == polygon.embedding.half_side
    u = jnp.linspace(0.0, 3.0, 7)[:, None]
    images = [jax.jit(jax.vmap(one.embedding))(u) for one in (square, polygon)]
    np.testing.assert_allclose(*images, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("blur", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("shape", OUTLINES)
def test_nodes_suffice(shape, blur):
    """Twice the nodes change nothing, at every corner of scale x aspect x shear."""
    fixed = {"orientation": 0.4}
    outline = OUTLINES[shape]
    manifold = sprite(outline, factors=("scale", "aspect", "shear"), fixed=fixed, blur=blur)
    renderer = manifold.embedding
    stretch = 1.25**0.5 * 1.3
    finer = dataclasses.replace(renderer, nodes=outline_nodes(outline, stretch, blur / 2, 1.0))
    assert len(finer.nodes.x) > 1.5 * len(renderer.nodes.x) - 40
    ends = [(axis.start, axis.stop) for axis in manifold.grid.axes]
    corners = jnp.asarray(np.stack(np.meshgrid(*ends), -1).reshape(-1, 3))
    images, doubled = (jax.jit(jax.vmap(r))(corners) for r in (renderer, finer))
    np.testing.assert_allclose(images, doubled, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_blur_as_a_factor_gets_nodes_for_its_sharpest():
    manifold = sprite("heart", factors=("blur", "x"), ranges={"blur": (0.4, 3.0)})
    f = FACTORS | dict(manifold.embedding.fixed) | {"blur": 0.4, "x": 31.2}
    image = manifold.embedding(jnp.array([0.4, 31.2]))
    np.testing.assert_allclose(image, oracle("heart", f, 64)[0], atol=1e-11)


@pytest.mark.slow
def test_heart_runs_clockwise_as_written():
    t = 2 * np.pi * np.arange(200) / 200
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    dx = 48 * np.sin(t) ** 2 * np.cos(t)
    dy = -13 * np.sin(t) + 10 * np.sin(2 * t) + 6 * np.sin(3 * t) + 4 * np.sin(4 * t)
    as_written = np.sum(x * dy - y * dx) * np.pi / 200
    assert as_written == pytest.approx(-180 * np.pi)  # clockwise
    # Rows of an image run downwards: with y turned over, the built-in outline is counter-clockwise.
    assert signed_area(outline_nodes("heart", 1.0, 1.0, 1.0)) == pytest.approx(0.36 * 180 * np.pi)
    image = render("heart", FACTORS | {"orientation": 0.0, "aspect": 1.0, "shear": 0.0, "y": 31.5, "x": 31.5})
    width = (image > 0.4).sum(axis=1)
    rows = np.flatnonzero(width)
    assert width[rows[2]] > 3 * width[rows[-1]]  # the lobes are up, the tip down
    np.testing.assert_allclose(image, image[:, ::-1], atol=1e-14)


def test_direction_of_a_curve_does_not_matter():
    forward = render("curve", FACTORS)
    backward = render(lambda t: clover(-t), FACTORS)
    np.testing.assert_allclose(forward, backward, atol=1e-14)
    np.testing.assert_allclose(render("polygon", FACTORS), render(ARROW[::-1], FACTORS), atol=1e-14)


@pytest.mark.parametrize("shape", ["heart", pytest.param("square", marks=pytest.mark.slow)])
def test_smooth_in_every_factor(shape):
    """Fourth-order central differences converge at order 4 to autodiff: no rasterisation anywhere."""
    manifold = sprite(shape, factors=ALL)
    steps = np.array([0.02, 0.03, 0.4, 0.4, 0.05, 0.05, 0.1, 0.1])
    base = jnp.array([FACTORS[name] for name in ALL])
    offsets = np.array([-2.0, -1.0, 1.0, 2.0])
    weights = np.array([1.0, -8.0, 8.0, -1.0]) / 12
    shifts = np.eye(8)[:, None, None, :] * np.outer([1.0, 0.5], offsets)[None, :, :, None]
    images = jax.jit(jax.vmap(manifold.embedding))(base + (shifts * steps).reshape(-1, 8))
    images = np.asarray(images).reshape(8, 2, 4, 64, 64)
    exact = np.moveaxis(np.asarray(jax.jit(jax.jacfwd(manifold.embedding))(base)), -1, 0)
    scaled = exact * steps[:, None, None]
    errors = [np.abs(np.einsum("fkij,k->fij", images[:, n], weights) * 2**n - scaled) for n in (0, 1)]
    coarse, fine = (error.max(axis=(1, 2)) / np.abs(scaled).max(axis=(1, 2)) for error in errors)
    assert coarse[-1] < 1e-13  # linear in the contrast
    np.testing.assert_allclose(np.log2(coarse / fine)[:-1], 4.0, atol=0.3)


# --- symmetries ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "factors", "fixed", "period", "cover"),
    [
        ("square", ("orientation", "x"), {}, math.pi / 2, 4),
        ("square", ("orientation", "aspect"), {}, math.pi, 2),
        *(
            pytest.param("square", *case, math.pi, 2, marks=pytest.mark.slow)
            for case in (
                (("orientation", "shear"), {}),
                (("orientation", "x"), {"aspect": 1.2}),
                (("orientation", "x"), {"shear": 0.1}),
            )
        ),
        ("ellipse", ("orientation", "x"), {}, math.pi, 2),
        ("heart", ("orientation", "x"), {}, 2 * math.pi, 1),
        ("curve", ("orientation", "x"), {}, 2 * math.pi, 1),
        ("polygon", ("orientation", "x"), {}, 2 * math.pi, 1),
    ],
)
def test_orientation_runs_over_the_fundamental_domain(shape, factors, fixed, period, cover):
    manifold = sprite(OUTLINES[shape], factors=factors, fixed=fixed)
    axis = manifold.grid.axes[0]
    assert (axis.start, axis.periodic, axis.wrap) == (0.0, True, True)
    assert axis.stop == pytest.approx(period)
    assert manifold.attributes["cover"] == 1
    other = 0.5 * (manifold.grid.axes[1].start + manifold.grid.axes[1].stop) + 0.1
    places = jnp.array([[v, other] for v in (0.1, 0.1 + period, 0.1 + period / 2)])
    first, last, half = np.asarray(jax.jit(jax.vmap(manifold.embedding))(places))
    np.testing.assert_allclose(first, last, atol=1e-13)
    assert np.abs(first - half).max() > 0.05
    full = sprite(OUTLINES[shape], factors=factors, fixed=fixed, full_turn=True)
    assert full.grid.axes[0].stop == pytest.approx(2 * math.pi)
    assert full.attributes["cover"] == cover
    assert ("cover" in full.name) == (cover > 1)


@pytest.mark.slow
def test_full_turn_measures_the_cover():
    sizes = {"orientation": 32}
    once, twice = (
        mj.measure(
            sprite("ellipse", factors=("orientation",), size=16, sizes={"orientation": n}, full_turn=full),
            exact=True,
        ).total_volume.value
        for n, full in ((sizes["orientation"], False), (2 * sizes["orientation"], True))
    )
    assert float(twice / once) == pytest.approx(2, rel=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["square", "heart"])
def test_translation_by_a_pixel_is_an_isometry(shape):
    manifold = sprite(shape, factors=("orientation", "y", "x"))
    u = jnp.array([0.4, 31.3, 31.7])
    moved = u + jnp.array([0.0, 1.0, 1.0])
    image, shifted = manifold.embedding(u), manifold.embedding(moved)
    np.testing.assert_allclose(shifted[1:, 1:], image[:-1, :-1], atol=1e-14)
    rates = [np.asarray(jax.jacfwd(manifold.embedding)(v)).reshape(-1, 3) for v in (u, moved)]
    metric = [rate.T @ rate for rate in rates]
    np.testing.assert_allclose(metric[0], metric[1], atol=1e-12 * np.abs(metric).max())


# --- redundant factors, degenerate points ----------------------------------------------------------


def test_redundant_factors_are_refused():
    linear = ("scale", "orientation", "aspect", "shear")
    with pytest.raises(ValueError, match=r"redundant for shape 'ellipse'.*rank 3, not 4"):
        sprite("ellipse", factors=linear)
    with pytest.raises(ValueError, match=r"rank 5, not 6"):
        sprite("ellipse", factors=(*linear, "y", "x", "blur"))
    # Three of them are independent, but turning, stretching and shearing keep the area: two parameters.
    for three in (linear[:3], ("scale", "aspect", "shear"), ("scale", "orientation", "shear")):
        sprite("ellipse", factors=(*three, "blur", "contrast"))
    with pytest.raises(ValueError, match=r"rank 2, not 3"):
        sprite("ellipse", factors=("orientation", "aspect", "shear"))
    for shape in ("square", "heart", "curve", "polygon"):
        assert sprite(OUTLINES[shape], factors=ALL).grid.ndim == 8


def test_orientation_of_a_circle_is_refused():
    disc = lambda t: 8 * jnp.stack([jnp.cos(t), jnp.sin(t)])  # noqa: E731
    with pytest.raises(ValueError, match="redundant"):
        sprite(disc, factors=("orientation", "x"))
    with pytest.raises(ValueError, match="redundant"):
        sprite("ellipse", factors=("scale", "orientation"), fixed={"aspect": 7 / 13})


@pytest.mark.slow
def test_degenerate_points_are_masked():
    """At aspect 7/13 the ellipse is a circle, whose orientation means nothing."""
    manifold = sprite(
        "ellipse",
        factors=("aspect", "orientation"),
        size=16,
        ranges={"aspect": (7 / 13, 1.0)},
        sizes={"aspect": 5, "orientation": 8},
    )
    gram = mj.gram_from_function(manifold.embedding, jnp.array([[7 / 13, 0.3], [0.8, 0.3]]))
    volume = mj.volume_element(gram)
    assert volume[0] < 1e-10 * volume[1]
    geometry = mj.measure(manifold, exact=True)
    curvature = geometry.scalar_curvature
    assert not np.asarray(curvature.resolved)[0].any()
    assert np.isfinite(np.asarray(curvature.value)[1:]).all()
    assert np.asarray(curvature.resolved)[1:].all()
    assert np.isnan(curvature.value[0]).all()
    assert np.isinf(curvature.error[0]).all()
    assert "Undefined at 20.0%" in geometry.verdict("scalar_curvature").sentence
    assert 0 < float(geometry.total_scalar_curvature.value) < 2  # not the 1e14 of the degenerate row


# --- layouts, dtypes, compilation ------------------------------------------------------------------


def test_layouts():
    original = sprite("heart", layout="original").grid
    assert original.shape == (6, 40, 32, 32)
    turn = original.axes[1]
    assert (turn.start, turn.stop, turn.periodic) == (0.0, pytest.approx(2 * math.pi), False)
    assert not any(axis.periodic for axis in original.axes)
    balanced = sprite("ellipse", layout="balanced").grid
    assert balanced.shape == (16,) * 4
    assert [axis.periodic for axis in balanced.axes] == [False, True, False, False]
    assert balanced.axes[3].stop - balanced.axes[3].start == 32
    dense = sprite("heart", factors=ALL)
    assert dense.attributes["layout"] == "dense"
    for axis in dense.grid.axes:
        assert axis.size % 2 == (0 if axis.periodic else 1)
    for axis in dense.grid.axes[2:4]:
        assert (axis.periodic, axis.wrap, axis.stop - axis.start) == (True, False, 1.0)
    assert [axis.unit for axis in dense.grid.axes[:4]] == ["", "rad", "px", "px"]
    given = sprite("heart", factors=("x", "scale"), sizes={"scale": 7}, ranges={"x": (20.0, 40.0)}).grid
    assert given.axes[0].periodic is False
    assert (given.axes[0].start, given.axes[0].stop, given.axes[1].size) == (20.0, 40.0, 7)


@pytest.mark.slow
def test_size_scales_the_picture():
    """Half the pixels at half the blur are every second pixel of the large image."""
    f = FACTORS | {"shear": 0.1}
    for shape in ("square", "heart"):
        large = render(shape, f | {"x": 31.0, "y": 31.0})[::2, ::2]
        small = render(shape, f | {"x": 15.5, "y": 15.5, "blur": 0.5}, size=32)
        np.testing.assert_allclose(small, large, atol=1e-13)
    assert sprite("heart", factors=("x",), size=48).feature_shape == (48, 48)


@pytest.mark.parametrize("shape", FEW_OUTLINES)
def test_dtype_follows_the_input(shape):
    single, full = (render(shape, FACTORS, dtype=dtype) for dtype in (jnp.float32, jnp.float64))
    assert (single.dtype, full.dtype) == (np.float32, np.float64)
    assert np.abs(single - full).max() < 2e-6


def test_equal_sprites_compile_once():
    traces = []

    def image(renderer, u):
        traces.append(renderer)
        return renderer(u)

    jitted = jax.jit(image, static_argnums=0)
    u = jnp.array([0.3, 31.0])
    for _ in range(2):
        renderer = sprite("heart", factors=("orientation", "x")).embedding
        jitted(renderer, u)
    again = sprite("heart", factors=("orientation", "x")).embedding
    assert (renderer, hash(renderer)) == (again, hash(again))
    assert len(traces) == 1
    assert renderer != sprite("heart", factors=("orientation", "x"), blur=1.5).embedding


@pytest.mark.slow
def test_stencils_agree_with_autodiff_on_the_dense_layout():
    with jax.enable_x64(False):
        manifold = sprite("ellipse", size=32)
        assert manifold.grid.shape == (9, 36, 2, 2)
        geometry = mj.measure(manifold)
        chosen = np.random.default_rng(1).choice(manifold.grid.size, 300, replace=False)
        coordinates = manifold.grid.coordinates().reshape(-1, 4)[chosen]
        gram = mj.gram_from_function(manifold.embedding, coordinates)
        measured = {
            name: np.asarray(getattr(geometry, name).value).ravel()[chosen]
            for name in ("volume_element", "scalar_curvature", "second_form_norm")
        }
        exact = {name: np.asarray(getattr(mj, name)(gram)) for name in measured}
        square = exact["second_form_norm"] ** 2
        relative = lambda value, truth, scale: float(np.median(np.abs(value - truth) / scale))  # noqa: E731
        volume = exact["volume_element"]
        assert relative(measured["volume_element"], volume, volume) <= 0.01
        assert relative(measured["second_form_norm"] ** 2, square, square) <= 0.01
        assert relative(measured["scalar_curvature"], exact["scalar_curvature"], square) <= 0.05
        for name in measured:
            estimate = getattr(geometry, name)
            assert geometry.verdict(name).resolved
            bar, resolved = (np.asarray(x).ravel()[chosen] for x in (estimate.error, estimate.resolved))
            covered = np.abs(measured[name] - exact[name]) <= bar
            assert covered[resolved].mean() >= 0.99


# --- messages --------------------------------------------------------------------------------------

NAN = float("nan")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": "star"}, "shape must be one of 'ellipse', 'square', 'heart', got 'star'"),
        ({"layout": "sparse"}, r"sprite: layout must be one of .* got 'sparse'"),
        ({"factors": ("x", "hue")}, r"a factor must be one of .* got 'hue'"),
        ({"factors": ()}, r"factors must be distinct, and at least one of .* got \(\)"),
        ({"factors": ("x", "x")}, r"factors must be distinct, .* got \('x', 'x'\)"),
        ({"size": 4}, r"size must be a whole number, at least 8, got 4"),
        ({"size": 33.5}, r"size must be a whole number, .* got 33.5"),
        ({"size": True}, r"size must be a whole number, .* got True"),
        ({"fixed": {"x": 3.0}}, r"fixed may hold 'aspect', 'shear', .* got 'x'"),
        ({"fixed": {"hue": 3.0}}, r"fixed may hold .* got 'hue'"),
        ({"factors": ("x",), "fixed": {"scale": 0.0}}, r"scale must be a positive finite number, got 0.0"),
        ({"factors": ("x",), "fixed": {"aspect": NAN}}, r"aspect must be a finite number, got nan"),
        ({"blur": 0.0}, r"blur must be a positive finite number, got 0.0"),
        ({"blur": -1.0}, r"blur must be a positive finite number, got -1.0"),
        ({"ranges": {"scale": (1.0, 0.5)}}, r"Axis 'scale' must increase: start 1 is not below stop 0.5"),
        (
            {"ranges": {"scale": (0.0, 1.0)}},
            r"the start of ranges\['scale'\] must be a positive finite number",
        ),
        (
            {"factors": ("blur",), "ranges": {"blur": (-1.0, 1.0)}},
            r"the start of ranges\['blur'\] must be a positive finite number",
        ),
        ({"ranges": {"x": (0.0, math.inf)}}, r"ranges\['x'\] must be 2 finite numbers, got \(0.0, inf\)"),
        ({"ranges": {"shear": (0.0, 1.0)}}, r"ranges may hold 'scale', 'orientation', 'y', 'x', got 'shear'"),
        ({"sizes": {"blur": 3}}, r"sizes may hold .*, got 'blur'"),
        ({"sizes": {"x": 1}}, r"Axis 'x': size must be a whole number, at least 2, got 1"),
        ({"sizes": {"x": 2.5}}, r"Axis 'x': size must be a whole number, at least 2, got 2.5"),
        ({"shape": lambda t: jnp.stack([t, jnp.sin(t)])}, r"shape curve must close: .* 6.28 apart"),
        ({"shape": lambda t: jnp.stack([jnp.log(t - 1), t])}, r"shape curve returns NaN or infinite points"),
        ({"shape": lambda t: jnp.cos(t)}, r"shape curve must return \(x, y\), got an array of shape \(\)"),
        ({"shape": np.zeros((2, 2))}, r"polygon vertices must have shape \(k >= 3, 2\), got \(2, 2\)"),
        ({"shape": np.zeros((4, 3))}, r"polygon vertices must have shape \(k >= 3, 2\), got \(4, 3\)"),
        ({"shape": np.array([[0, 0], [1, 0], [0, NAN]])}, r"polygon vertices must be finite"),
    ],
)
def test_messages(arguments, message):
    with pytest.raises(ValueError, match=message):
        sprite(**arguments)


@pytest.mark.thorough
def test_derivatives_of_every_factor_against_differences_of_lower_ones(x64):
    """All seven factors, forward and in reverse: the kernel of the outline has a rule of its own."""
    names = ("scale", "orientation", "y", "x", "blur", "shear", "aspect")
    image = sprite("heart", factors=names, size=16).embedding
    u, h = jnp.array([0.8, 0.4, 7.3, 7.8, 1.1, 0.1, 1.05]), 1e-4
    steps = h * jnp.eye(len(names))

    @jax.jit
    def both(f):
        return jnp.stack([image(f + e) - image(f - e) for e in steps], -1) / (2 * h), jax.jacfwd(image)(f)

    difference, first = both(u)
    np.testing.assert_allclose(first, difference, atol=1e-6 * np.abs(first).max())
    jacobian = jax.jit(jax.jacfwd(image))
    second = jax.jit(jax.jacfwd(jax.jacfwd(image)))(u)
    differences = np.stack([jacobian(u + e) - jacobian(u - e) for e in steps], -1) / (2 * h)
    np.testing.assert_allclose(second, differences, atol=1e-6 * np.abs(second).max())
    weights = np.random.default_rng(0).normal(size=(16, 16))
    gradient = jax.jit(jax.grad(lambda f: jnp.sum(weights * image(f))))(u)
    np.testing.assert_allclose(gradient, np.einsum("ij,ijk->k", weights, first), rtol=1e-10)
