"""COIL-20: reading, downloading, and the smooth renderer against a direct float64 sum."""

import hashlib
import http.server
import io
import os
import sys
import threading
import zipfile
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pooch
import pytest
from PIL import Image

from manifold_jax.datasets.coil20 import coil20, coil100, read_coil20, read_coil100
from manifold_jax.datasets.resample import hermite_functions, rotation_blocks
from manifold_jax.datasets.turntable import turntable
from manifold_jax.experiments.measure.data import build

module = sys.modules["manifold_jax.datasets.coil20"]  # the package re-exports a function of the same name

DATA = os.environ.get("MANIFOLD_JAX_DATA")  # tests on made files are run without it
ALL = ("view", "zoom", "rotation", "y", "x")
STEP = 2 * np.pi / 72


def blobs(count: int, frame: int) -> np.ndarray:
    """An asymmetric object with hard edges, turning; it touches the frame. uint8 (count, frame, frame)."""
    angle = 2 * np.pi * np.arange(count)[:, None, None] / count
    y, x = np.mgrid[-1 : 1 : frame * 1j, -1 : 1 : frame * 1j]
    body = 0.6 * (np.abs(x) + 0.8 * np.abs(y - 0.2) < 0.7 + 0.1 * np.cos(angle))
    spot = 0.4 * np.exp(-((x - 0.5 * np.cos(angle)) ** 2 + (y - 0.3 * np.sin(angle)) ** 2) / 0.02)
    return np.round(255 * np.clip(body + spot + 0.1 * (y > 0.9), 0, 1)).astype(np.uint8)


def direct(frame: np.ndarray, size: int, blur: float, u: tuple[float, ...]) -> np.ndarray:
    """The defining sum, pixel by pixel: zoom, rotation, y, x of u; frame in [0, 1]."""
    zoom, rotation, shift_y, shift_x = u
    scale = zoom * size / len(frame)
    y, x = np.mgrid[: len(frame), : len(frame)] - (len(frame) - 1) / 2
    at_x = scale * (np.cos(rotation) * x + np.sin(rotation) * y) + shift_x
    at_y = scale * (np.cos(rotation) * y - np.sin(rotation) * x) + shift_y
    pixels = np.arange(size) - (size - 1) / 2
    rows = np.exp(-0.5 * ((pixels[:, None, None] - at_y) / blur) ** 2) * frame
    columns = np.exp(-0.5 * ((pixels[:, None, None] - at_x) / blur) ** 2)
    total = rows.reshape(size, -1) @ columns.reshape(size, -1).T
    return total * scale**2 / (2 * np.pi * blur**2)


@jax.jit
def image(embedding, u):
    return embedding(u)


@jax.jit
def images(embedding, u):
    return jax.vmap(embedding)(u)


@jax.jit
def second_derivative(embedding, u, direction):
    """Along a straight line in the chart."""

    def first(t):
        return jax.jvp(lambda t: embedding(u + t * direction), (t,), (jnp.ones_like(t),))[1]

    return jax.jvp(first, (jnp.zeros((), u.dtype),), (jnp.ones((), u.dtype),))[1]


STENCIL = np.array([-1, 16, -30, 16, -1]) / 12
VIEWS = blobs(12, 32)
small = partial(turntable, VIEWS, size=16)


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


@pytest.fixture(scope="session")
def genuine() -> dict[str, bytes]:
    """File names and contents of object 3, and one view of object 4, as in the genuine archive."""
    views = {f"obj3__{k}.png": png(pixels) for k, pixels in enumerate(blobs(72, 128))}
    return views | {"obj4__0.png": png(np.zeros((128, 128), np.uint8))}


def write_zip(path: Path, contents: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(f"coil-20-proc/{name}", content)
    return path


@pytest.fixture
def archive(tmp_path, genuine) -> Path:
    return write_zip(tmp_path / "coil-20-proc.zip", genuine)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("MANIFOLD_JAX_DATA", raising=False)


# --- reading ---------------------------------------------------------------------------------------------


def test_reads_zip_folder_and_parents_alike(tmp_path, archive, genuine, monkeypatch):
    folder = tmp_path / "unpacked" / "coil-20-proc"
    folder.mkdir(parents=True)
    for name, content in genuine.items():
        (folder / name).write_bytes(content)
    expected = blobs(72, 128)
    for place in (archive, str(archive), tmp_path, folder, folder.parent):
        views = read_coil20(place, 3)
        assert views.dtype == np.uint8
        np.testing.assert_array_equal(views, expected)
    for place in (archive, folder.parent):
        monkeypatch.setenv("MANIFOLD_JAX_DATA", str(place))
        np.testing.assert_array_equal(read_coil20(object_id=3), expected)


def test_coil20_is_the_turntable_of_its_views(archive):
    manifold = coil20(archive, 3, size=16, blur=0.8)
    assert manifold.name == "coil20 object 3"
    assert manifold.grid.shape == (72, 9, 64)
    u = jnp.array([7 * STEP, 0.9, 2.0])
    expected = direct(blobs(72, 128)[7] / 255, 16, 0.8, (0.9, 2.0, 0, 0))
    np.testing.assert_allclose(image(manifold.embedding, u), expected, atol=3e-5)


@pytest.mark.parametrize("layout", ["coil-20/coil-20-proc", "coil-20-proc/coil-20-proc", "mine/obj3"])
def test_reads_nested_folders(tmp_path, genuine, layout):
    folder = tmp_path / layout
    folder.mkdir(parents=True)
    for name, content in genuine.items():
        (folder / name).write_bytes(content)
    (tmp_path / "obj2__0.png").write_bytes(b"another object")
    np.testing.assert_array_equal(read_coil20(tmp_path, 3), blobs(72, 128))
    (folder.parent / "copy").mkdir()
    (folder.parent / "copy" / "obj3__7.png").write_bytes(genuine["obj3__7.png"])
    if layout.startswith("mine"):
        with pytest.raises(ValueError, match=r"is not a whole archive \(it holds obj3__7.png 2 times\)"):
            read_coil20(tmp_path, 3)


def test_a_member_that_is_named_twice_is_refused(tmp_path, archive, genuine):
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("elsewhere/obj3__7.png", genuine["obj3__8.png"])
    with pytest.raises(
        ValueError, match=r"coil-20-proc.zip .*it holds obj3__7.png 2 times.*: take the complete"
    ):
        read_coil20(archive, 3)
    assert read_coil20(write_zip(tmp_path / "b.zip", genuine), 3).shape == (72, 128, 128)


def test_coil100_in_colour_and_as_grey_frames(tmp_path):
    colour = blobs(72, 128)[..., None] // np.array([1, 2, 4], np.uint8)
    views = {f"obj7__{5 * k}.png": png(pixels) for k, pixels in enumerate(colour)}
    for place in (write_zip(tmp_path / "coil-100.zip", views), tmp_path):
        np.testing.assert_array_equal(read_coil100(place, 7), colour)
    manifold = coil100(tmp_path, 7, size=16, blur=0.8)
    assert (manifold.name, manifold.grid.shape) == ("coil100 object 7", (72, 9, 64))
    (built,) = build("coil100", {"data": tmp_path, "object": 7, "size": 16, "blur": 0.8})
    assert (built.name, built.grid) == (manifold.name, manifold.grid)
    expected = direct(colour[7] @ [0.299, 0.587, 0.114] / 255, 16, 0.8, (0.9, 2.0, 0, 0))
    rendered = image(manifold.embedding, jnp.array([7 * STEP, 0.9, 2.0]))
    np.testing.assert_allclose(rendered, expected, atol=3e-5)
    with pytest.raises(ValueError, match="read_coil100: object_id must be a whole number, from 1 to 100"):
        read_coil100(tmp_path, 101)
    with pytest.raises(FileNotFoundError, match=r"no published checksum: fetch http.*coil-100.zip by hand"):
        read_coil100(object_id=7)
    with pytest.raises(ValueError, match=r"128x128 pixels of mode L: expected a 128x128 RGB PNG"):
        read_coil100(write_zip(tmp_path / "grey.zip", dict.fromkeys(views, png(blobs(8, 128)[0]))), 7)


@pytest.mark.parametrize("object_id", [0, 21, -1, True, 3.0, "3"])
def test_refuses_unknown_objects(archive, object_id):
    with pytest.raises(ValueError, match="read_coil20: object_id must be a whole number, from 1 to 20"):
        read_coil20(archive, object_id)


def test_refuses_places_without_coil20(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"path names .*nowhere, which does not exist"):
        read_coil20(tmp_path / "nowhere", 3)
    with pytest.raises(FileNotFoundError, match=r"holds no COIL-20: expected coil-20-proc.zip, coil"):
        read_coil20(tmp_path, 3)
    with pytest.raises(ValueError, match=r"path must be text or a Path, .* got 3"):
        read_coil20(3)
    monkeypatch.setenv("MANIFOLD_JAX_DATA", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"MANIFOLD_JAX_DATA names .*gone, which does not exist"):
        read_coil20(object_id=3)


def test_refuses_missing_views(tmp_path, archive, genuine):
    with pytest.raises(FileNotFoundError, match=r"coil-20-proc.zip lacks 71 of 72 files, first obj4__1.png"):
        read_coil20(archive, 4)
    (tmp_path / "obj3__0.png").write_bytes(genuine["obj3__0.png"])
    archive.unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 71 of 72 files, first obj3__1.png: take the"):
        read_coil20(tmp_path, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda good: good[: len(good) // 2], "obj3__5.png is truncated or damaged: expected a 128x128 grey"),
        (lambda good: good[:40] + bytes(20) + good[60:], "obj3__5.png is truncated or damaged"),
        (lambda good: b"not an image", "obj3__5.png is truncated or damaged"),
        (
            lambda good: good[:-5] + b"\0" + good[-4:],
            "obj3__5.png is truncated or damaged",
        ),  # behind the pixels
        (lambda good: good[:-12], "obj3__5.png is truncated or damaged"),
        (lambda good: png(np.zeros((64, 128), np.uint8)), "obj3__5.png is 128x64 pixels of mode L: expected"),
        (lambda good: png(np.zeros((128, 128, 3), np.uint8)), "obj3__5.png is 128x128 pixels of mode RGB"),
    ],
)
def test_refuses_bad_images(tmp_path, genuine, change, message):
    bad = genuine | {"obj3__5.png": change(genuine["obj3__5.png"])}
    with pytest.raises(ValueError, match=message):
        read_coil20(write_zip(tmp_path / "bad.zip", bad), 3)


def test_refuses_a_truncated_or_corrupted_zip(archive):
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"coil-20-proc.zip is not a whole archive .*take the complete"):
        read_coil20(archive, 3)
    archive.write_bytes(whole[:5000] + bytes(3) + whole[5003:])
    with pytest.raises(ValueError, match="is not a whole archive"):
        read_coil20(archive, 3)


def test_names_the_missing_package(archive, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r'Reading images needs PIL: pip install "manifold_jax\[data'):
        read_coil20(archive, 3)
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r"Downloading coil-20-proc.zip .*needs pooch: pip install"):
        read_coil20(object_id=3)


# --- downloading -----------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path, archive, monkeypatch):
    """The archive served on this machine as if by Columbia; yields the cache folder."""
    handler = partial(QuietHandler, directory=str(tmp_path))
    cache = tmp_path / "cache"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(pooch, "os_cache", lambda name: cache)
        url = f"http://127.0.0.1:{httpd.server_port}/coil-20-proc.zip"
        checksum = "md5:" + hashlib.md5(archive.read_bytes()).hexdigest()
        monkeypatch.setattr(module, "COIL20", module.COIL20._replace(url=url, checksum=checksum))
        yield cache
        httpd.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def test_downloads_once_into_the_cache(server, archive, tmp_path, monkeypatch):
    (tmp_path / "other data").mkdir()
    monkeypatch.setenv("MANIFOLD_JAX_DATA", str(tmp_path / "other data"))
    np.testing.assert_array_equal(read_coil20(object_id=3), blobs(72, 128))
    assert os.listdir(server) == ["coil-20-proc.zip"]
    archive.unlink()  # gone from the server
    assert read_coil20(object_id=3).shape == (72, 128, 128)


def test_a_wrong_checksum_leaves_nothing_behind(server, archive):
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"is not coil-20-proc.zip as recorded \(md5:.*nothing was kept"):
        read_coil20(object_id=3)
    assert os.listdir(server) == []


def test_a_damaged_cache_is_mended(server):
    server.mkdir()
    (server / "coil-20-proc.zip").write_bytes(b"half a file")
    assert read_coil20(object_id=3).shape == (72, 128, 128)


def test_says_how_to_mend_a_failed_download(server, archive):
    archive.unlink()
    with pytest.raises(FileNotFoundError, match=r"could not be downloaded .*fetch http.* by hand and pass"):
        read_coil20(object_id=3)
    assert os.listdir(server) == []


def test_official_checksum_has_pooch_syntax():
    algorithm, digest = module.COIL20.checksum.split(":")
    assert len(digest) == 2 * hashlib.new(algorithm).digest_size


# --- rendering -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_hermite_functions_are_orthonormal():
    x = np.linspace(-40, 40, 4001)
    table = hermite_functions(x, 400)
    np.testing.assert_allclose(table.T @ table * (x[1] - x[0]), np.eye(400), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 10, 80])
def test_rotation_blocks_are_orthogonal(count):
    blocks, orders, mask = rotation_blocks(count)
    gram = np.swapaxes(blocks, -1, -2) @ blocks
    used = np.stack([np.ones_like(orders), orders > 0])[..., None] * np.eye(orders.shape[1])
    np.testing.assert_allclose(gram, used, atol=1e-12)
    assert mask.sum() == orders.size


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "blur", "factors", "view"),
    [
        (16, 1.0, ALL, "bandlimited"),
        (15, 0.8, ALL, "spline"),
        (16, 1.0, ALL[:3], "bandlimited"),
        (24, 1.3, ("rotation", "view", "zoom"), "spline"),
        (40, 2.0, ALL, "bandlimited"),
    ],
)
def test_equals_the_direct_sum_at_every_view(size, blur, factors, view):
    rng = np.random.default_rng(size)
    with jax.enable_x64(True):
        manifold = turntable(VIEWS, size=size, blur=blur, factors=factors, view=view)
        zoom, turn, y, x = (rng.uniform(*limits, 12) for limits in ((0.8, 1.2), (0, 6.2), (-4, 4), (-4, 4)))
        u = {"view": 2 * np.pi * np.arange(12) / 12, "zoom": zoom, "rotation": turn, "y": y, "x": x}
        rendered = images(manifold.embedding, jnp.stack([jnp.asarray(u[factor]) for factor in factors], 1))
        for k in range(12):
            shift = (y[k], x[k]) if "y" in factors else (0, 0)
            expected = direct(VIEWS[k] / 255, size, blur, (zoom[k], turn[k], *shift))
            np.testing.assert_allclose(rendered[k], expected, atol=5e-5)


@pytest.mark.slow
def test_derivatives_equal_those_of_the_direct_sum():
    """Along zoom, rotation, y and x, by differences of the direct sum: no ripple of the quadrature."""
    with jax.enable_x64(True):
        embedding = small(factors=ALL[1:]).embedding
        u = np.array([0.9, 0.7, 1.3, -0.4])
        for h, direction in zip((0.003, 0.003, 0.03, 0.03), np.eye(4), strict=True):
            samples = [direct(VIEWS[0] / 255, 16, 1.0, tuple(u + k * h * direction)) for k in range(-2, 3)]
            expected = np.tensordot(STENCIL / h**2, np.stack(samples), 1)
            exact = second_derivative(embedding, jnp.asarray(u), jnp.asarray(direction))
            np.testing.assert_allclose(exact, expected, atol=2e-3 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("view", ["bandlimited", "spline"])
def test_stencils_converge_at_their_order(view):
    factors = ALL if view == "bandlimited" else ("view",)
    with jax.enable_x64(True):
        embedding = small(factors=factors, view=view).embedding
        u = jnp.array([1.03, 0.95, 0.4, 0.3, -0.2])[: len(factors)]
        steps = (0.05, 0.01, 0.02, 0.15, 0.15)
        for h, direction in zip(steps, jnp.eye(len(factors)), strict=False):
            exact = second_derivative(embedding, u, direction)

            def error(h, direction=direction, exact=exact):
                samples = images(embedding, u + h * jnp.arange(-2, 3)[:, None] * direction)
                return np.linalg.norm(np.tensordot(STENCIL / h**2, samples, 1) - exact)

            assert error(h) < 3e-3 * np.linalg.norm(exact)
            assert np.log2(error(h) / error(h / 2)) == pytest.approx(4, abs=0.3)


@pytest.mark.slow
def test_a_quarter_turn_is_rot90():
    embedding = small().embedding
    u = jnp.array([0.3, 1.1, 0.2]) + jnp.arange(4)[:, None] * jnp.array([0, 0, jnp.pi / 2])
    for turns, turned in enumerate(images(embedding, u)):
        np.testing.assert_allclose(turned, np.rot90(image(embedding, u[0]), turns), atol=5e-6)


@pytest.mark.slow
def test_a_whole_pixel_moves_the_image():
    still, moved = images(small(factors=("y", "x")).embedding, jnp.array([[0, 0], [2.0, -1.0]]))
    np.testing.assert_allclose(moved[2:, :-1], still[:-2, 1:], atol=1e-5)


@pytest.mark.slow
def test_rotation_is_an_isometry_inside_the_frame():
    with jax.enable_x64(True):
        embedding = small(factors=("rotation",), fixed={"zoom": 0.55}).embedding
        angles = jnp.linspace(0, 2 * jnp.pi, 31)
        speed = jnp.linalg.norm(
            jax.jacfwd(lambda t: images(embedding, (angles + t)[:, None]))(0.0), axis=(1, 2)
        )
        assert float(speed.max() / speed.min()) < 1.005


@pytest.mark.slow
@pytest.mark.parametrize("view", ["bandlimited", "spline"])
def test_interpolation_turns_full_circle_and_stays_near(view):
    embedding = small(factors=("view",), view=view).embedding
    u = jnp.array([0.0, np.pi / 12, np.pi / 6, 0.2, 0.2 + 2 * np.pi])
    first, between, second, before, after = images(embedding, u[:, None])
    np.testing.assert_allclose(before, after, atol=2e-5)
    assert float(jnp.abs(between - (first + second) / 2).max()) < 0.15


@pytest.mark.slow
def test_odd_number_of_views_and_float_frames():
    views = blobs(9, 16) / 255
    for view in ("bandlimited", "spline"):
        embedding = turntable(views, factors=("view",), size=8, view=view).embedding
        rendered = image(embedding, jnp.array([2 * np.pi * 4 / 9]))
        np.testing.assert_allclose(rendered, direct(views[4], 8, 1.0, (1, 0, 0, 0)), atol=5e-5)


@pytest.mark.slow
def test_dtype_follows_the_coordinates():
    manifold = small()
    u = np.array([0.3, 1.0, 0.2])
    single = image(manifold.embedding, jnp.asarray(u, jnp.float32))
    assert single.dtype == jnp.float32
    with jax.enable_x64(True):
        double = small().embedding
        assert image(double, jnp.asarray(u, jnp.float32)).dtype == jnp.float32
        assert image(manifold.embedding, jnp.asarray(u)).dtype == jnp.float64
        weak = jax.eval_shape(lambda t: double(jnp.stack([t, t, t])), jnp.asarray(1.0))
        assert weak.dtype == jnp.float64
        np.testing.assert_allclose(single, image(double, jnp.asarray(u)), atol=3e-6)


@pytest.mark.slow
def test_jit_vmap_and_reverse_mode():
    embedding = small().embedding
    u = jnp.array([[0.3, 1.0, 0.2], [2.0, 0.8, 5.0], [6.0, 1.2, 3.0]])
    np.testing.assert_allclose(images(embedding, u), jnp.stack([image(embedding, v) for v in u]), atol=3e-6)
    weights = jnp.cos(jnp.arange(256.0)).reshape(16, 16)
    reverse = jax.jit(jax.grad(lambda v: jnp.sum(weights * embedding(v))))(u[0])
    forward = jnp.sum(weights * jax.jit(jax.jacfwd(embedding))(u[0]).transpose(2, 0, 1), axis=(1, 2))
    np.testing.assert_allclose(forward, reverse, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_one_trace_for_all_objects():
    traces = []

    @jax.jit
    def counted(embedding, u):
        traces.append(u)
        return embedding(u)

    u = jnp.array([0.3, 1.0, 0.2])
    several = [counted(turntable(v, size=16).embedding, u) for v in (VIEWS, VIEWS[::-1], VIEWS / 300)]
    assert len(traces) == 1
    assert not np.allclose(several[0], several[1])


@pytest.mark.slow
def test_lowers_for_every_platform():
    embedding = small(size=8).embedding
    shape = jax.ShapeDtypeStruct((3,), jnp.float32)
    jax.export.export(jax.jit(lambda u: jax.jacfwd(embedding)(u)), platforms=("cpu", "cuda", "tpu"))(shape)


@pytest.mark.slow
def test_zoom_beyond_the_range_is_nan_not_wrong():
    embedding = small(factors=("zoom",), sizes={"zoom": 5}).embedding  # steps of 0.1
    below, above = images(embedding, jnp.array([[1.6], [1.62]]))
    assert bool(jnp.isfinite(below).all())
    assert bool(jnp.isnan(above).all())


# --- grids and wrong calls -------------------------------------------------------------------------------


def test_axes_are_labelled():
    grid = small(factors=ALL).grid
    assert grid.names == ALL
    assert grid.shape == (12, 9, 64, 9, 9)
    assert [axis.unit for axis in grid.axes] == ["rad", "", "rad", "px", "px"]
    assert grid.periodic == (True, False, True, False, False)
    np.testing.assert_allclose(grid.axes[0].samples(), 2 * np.pi * np.arange(12) / 12)
    assert small(layout="balanced").grid.shape == (16, 16, 16)
    assert small(layout="dense").grid.shape == (288, 33, 256)
    patch = small(ranges={"rotation": (0, 0.2), "view": (-np.pi, np.pi)}, sizes={"rotation": 9}).grid
    assert patch.periodic == (True, False, False)
    assert patch.axes[2].stop == 0.2


def test_attributes_record_the_making():
    manifold = small(factors=("zoom",), fixed={"y": 1.5})
    assert manifold.attributes["factors"] == ("zoom",)
    assert manifold.attributes["fixed"] == {"view": 0.0, "rotation": 0.0, "y": 1.5, "x": 0.0}
    assert manifold.feature_shape == (16, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"factors": ()}, "factors must be distinct, and at least one of"),
        ({"factors": ("view", "scale")}, "a factor must be one of 'view', 'zoom', .*, got 'scale'"),
        (
            {"factors": ("view", "zoom", "view")},
            r"factors must be distinct, .* got \('view', 'zoom', 'view'\)",
        ),
        ({"size": 7}, "size must be a whole number, at least 8, got 7"),
        ({"size": 16.0}, "size must be a whole number"),
        ({"blur": 0.0}, "blur must be a positive finite number, got 0.0"),
        ({"blur": float("nan")}, "blur must be a positive finite number, got nan"),
        ({"blur": 0.2}, "blur 0.2 px shows the pixels of the 32x32 frames at size 16 and zoom 1.4 .* 0.35"),
        ({"view": "linear"}, "view must be one of 'bandlimited', 'spline', got 'linear'"),
        ({"layout": "coarse"}, "layout must be one of 'views', 'balanced', 'dense', got 'coarse'"),
        ({"sizes": {"y": 9}}, "sizes may hold 'view', 'zoom', 'rotation', got 'y'"),
        ({"ranges": {"hue": (0, 1)}}, "ranges may hold 'view', 'zoom', 'rotation', got 'hue'"),
        (
            {"ranges": {"zoom": (0.0, 1.0)}},
            r"the start of ranges\['zoom'\] must be a positive finite number, got 0.0",
        ),
        ({"ranges": {"zoom": (1.2, 0.8)}}, "Axis 'zoom' must increase"),
        ({"ranges": {"zoom": (1, 2, 3)}}, r"ranges\['zoom'\] must be 2 finite numbers, got \(1, 2, 3\)"),
        ({"ranges": {"rotation": (0, 7)}}, r"ranges\['rotation'\] must be at most one turn .* got 7 rad"),
        ({"sizes": {"zoom": 1}}, "Axis 'zoom': size must be a whole number, at least 2, got 1"),
        ({"fixed": {"zoom": 1.0}}, "fixed may hold 'y', 'x', got 'zoom'"),
        ({"fixed": {"x": float("inf")}}, "x must be a finite number, got inf"),
        ({"views": VIEWS[:7]}, r"at least 8 square frames .* got shape \(7, 32, 32\)"),
        ({"views": VIEWS[:, :20]}, r"got shape \(12, 20, 32\)"),
        ({"views": np.full((8, 16, 16), np.nan)}, "views must be finite"),
    ],
)
def test_refuses_nonsense(arguments, message):
    with pytest.raises(ValueError, match=message):
        turntable(**({"views": VIEWS, "size": 16} | arguments))


# --- the genuine data ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def real() -> Path:
    if not DATA:
        pytest.skip("MANIFOLD_JAX_DATA, a folder of genuine data, is not set")
    if not (Path(DATA) / "coil-20-proc.zip").is_file():
        pytest.skip("there is no coil-20-proc.zip in MANIFOLD_JAX_DATA")
    return Path(DATA)


@pytest.mark.slow
@pytest.mark.parametrize("object_id", [1, 20])
def test_real_object_equals_the_direct_sum(real, object_id):
    views = read_coil20(real, object_id)
    assert views.shape == (72, 128, 128)
    assert len({view.tobytes() for view in views}) == 72
    embedding = coil20(real, object_id, factors=ALL, size=32).embedding
    for k, u in ((0, (1.0, 0.0, 0.0, 0.0)), (50, (0.85, 2.2, 1.5, -2.0))):
        rendered = image(embedding, jnp.array([k * STEP, *u]))
        np.testing.assert_allclose(rendered, direct(views[k] / 255, 32, 1.0, u), atol=3e-5)


@pytest.mark.slow
def test_real_views_determine_the_interpolant_to_some_percent(real):
    """Halfway between genuine views: both interpolations, which agree at the views, stay close."""
    first, second = (
        coil20(real, 4, factors=("view",), size=32, view=view).embedding for view in ("bandlimited", "spline")
    )
    u = (jnp.arange(0, 72, 9)[:, None] + 0.5) * STEP
    a, b, following = images(first, u), images(second, u), images(first, u + STEP)
    step, difference = (jnp.linalg.norm(x - a, axis=(1, 2)) for x in (following, b))
    assert float(jnp.max(difference / step)) < 0.2
