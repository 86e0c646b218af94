"""What one device gives, eight give too, of points on a grid: cases that ``run_sharded.py`` runs."""

import contextlib
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import manifold_jax as mj

FAST, SLOW = {}, {}
LINE, PLANE = ((8,), ("x",)), ((4, 2), ("x", "y"))
KINDS = AxisType.Explicit, AxisType.Auto
TORUS = mj.Grid(tuple(mj.Axis(name, 0.0, 2 * np.pi, n, periodic=True) for name, n in (("u", 24), ("v", 16))))
SHEET = mj.Grid((mj.Axis("u", 0.0, 1.0, 24), mj.Axis("v", 0.0, 1.0, 23)))  # 23 is prime


def fast(function):
    FAST[function.__name__] = function
    return function


def slow(function):
    SLOW[function.__name__] = function
    return function


def mesh_of(shape, names, kind=AxisType.Explicit, count=8):
    return Mesh(np.array(jax.devices()[:count]).reshape(shape), names, axis_types=(kind,) * len(names))


def cut(x, mesh, *spec):
    return jax.device_put(x, NamedSharding(mesh, P(*spec)))


def turned(points, features, seed=0):
    """Points in more features: an isometry, after which every feature counts."""
    frame = np.linalg.qr(np.random.default_rng(seed).normal(size=(features, points.shape[-1])))[0]
    return points @ frame.T


def torus(features=6, dtype=np.float64):
    """The product of two unit circles, of volume 4 pi^2, in so many features; its metric is flat."""
    u, v = np.meshgrid(*(axis.samples() for axis in TORUS.axes), indexing="ij")
    points = np.stack([np.cos(u), np.sin(u), np.cos(v), np.sin(v)], axis=-1)
    return turned(points, features).astype(dtype)


def bumps(features=6):
    """A torus in space whose fields vary along both axes, in so many features."""
    u, v = np.meshgrid(*(axis.samples() for axis in TORUS.axes), indexing="ij")
    wide = 2 + 0.3 * np.cos(2 * u) + (1 + 0.2 * np.sin(u)) * np.cos(v)
    return turned(np.stack([wide * np.cos(u), wide * np.sin(u), np.sin(v)], axis=-1), features)


def values(geometry):
    return [field.value for field in geometry.fields]


def sheet(features=6):
    u, v = np.meshgrid(*(axis.samples() for axis in SHEET.axes), indexing="ij")
    return turned(np.stack([u, v, np.sin(2 * u) * v, np.cos(u + v)], axis=-1), features)


def same(wanted, got, rtol=1e-11):
    """Equal to rounding, relative to the largest of every array."""
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(wanted), jax.tree.leaves(got), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        largest = np.max(np.abs(x), where=np.isfinite(x), initial=1e-3)
        np.testing.assert_allclose(
            y, x, rtol=0, atol=rtol * largest, equal_nan=True, err_msg=jax.tree_util.keystr(path)
        )


def lies(x, mesh, *spec):
    """The array is cut like this, on this mesh."""
    assert x.sharding.is_equivalent_to(NamedSharding(mesh, P(*spec)), x.ndim), x.sharding
    assert x.sharding.mesh == mesh, x.sharding


def collectives(text):
    """Shapes of the results of all collectives of a compiled program, by name."""
    names = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    result = {name: [] for name in names.split("|")}
    for kind, name in re.findall(rf"= (\S+|\([^)]*\)) ({names})(?:-start)?\(", text):
        shapes = re.findall(r"\[([\d,]*)\]", kind)
        result[name].append(max(int(np.prod([int(n) for n in s.split(",") if n])) for s in shapes))
    return result


def only(calls):
    return collectives("") | calls


def compiled(function, shape, mesh, *spec, dtype=np.float32):
    return (
        jax.jit(function)
        .lower(jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P(*spec))))
        .compile()
    )


def held(program):
    """Bytes that every device holds."""
    memory = program.memory_analysis()
    parts = memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes
    return sum(parts)


@fast
def grams_of_pieces():
    points = sheet()
    whole = mj.gram_from_grid(points, SHEET, block_size=20)
    for kind in KINDS:
        line, plane = mesh_of(*LINE, kind), mesh_of(*PLANE, kind)
        for mesh, spec in (
            (line, ("x",)),
            (plane, ("x", None, "y")),
            (plane, (("y", "x"),)),
            (plane, ("y",)),
        ):
            gram = mj.gram_from_grid(cut(points, mesh, *spec), SHEET, block_size=20)
            same(whole, gram)
            lies(gram.second, mesh, *spec[:1])


@fast
def grams_of_a_torus():
    # Its metric is that of the plane. Pieces of 3 and 8 samples, a halo of 4 on each side: two hops.
    mesh = mesh_of((4, 2), ("x", "y"))
    points = cut(torus(features=300), mesh, "x", "y")
    gram = jax.jit(partial(mj.gram_from_grid, grid=TORUS, accuracy=8))(points)
    np.testing.assert_allclose(gram.metric, np.broadcast_to(np.eye(2), (24, 16, 2, 2)), atol=2e-3)
    same(mj.gram_from_grid(np.asarray(points), TORUS, accuracy=8), gram)
    lies(gram.metric, mesh, "x", "y")
    # Features in two parts of 150, a chunk of 128 and a rest.
    parts = mj.gram_from_grid(cut(points, mesh, None, None, "y"), TORUS, accuracy=8)
    same(gram, parts)
    images = np.asarray(points).reshape(24, 16, 10, 30)
    same(gram, mj.gram_from_grid(cut(images, mesh, None, "x", None, "y"), TORUS, accuracy=8))


@fast
def jets_of_pieces():
    mesh, points = mesh_of(*PLANE), sheet()
    jet = mj.jet_from_grid(cut(points, mesh, "x", None, "y"), SHEET)
    same(mj.jet_from_grid(points, SHEET), jet)
    lies(jet.second, mesh, "x", None, None, None, "y")
    images = cut(points.reshape(*SHEET.shape, 3, 2), mesh, None, None, None, "y")
    raises("no feature axis but the first is cut, got .* over ", mj.jet_from_grid, images, SHEET)


@fast
def gradients_of_pieces():
    mesh, points = mesh_of(*PLANE), sheet()

    def loss(points):
        return jnp.sum(mj.gram_from_grid(points, SHEET).second ** 2)

    wanted = jax.grad(loss)(jnp.asarray(points))
    gradient = jax.jit(jax.grad(loss))(cut(points, mesh, "x", None, "y"))
    same(wanted, gradient)
    lies(gradient, mesh, "x", None, "y")


@fast
def points_are_not_gathered():
    shape, sizes = (64, 48, 256), []
    grid = mj.Grid((mj.Axis("u", 0.0, 1.0, 64, periodic=True), mj.Axis("v", 0.0, 1.0, 48)))
    for count in (1, 2, 4, 8):
        mesh = mesh_of((count,), ("x",), count=count)
        program = compiled(partial(mj.gram_from_grid, grid=grid), shape, mesh, "x")
        sizes.append(held(program))
    calls = collectives(program.as_text())
    # Two samples before every piece, and two after.
    assert calls == only({"collective-permute": [2 * 48 * 256] * 2}), calls
    for before, after, share in zip(sizes, sizes[1:], (1.1, 0.7, 0.6), strict=False):
        assert after < share * before, sizes
    features = compiled(partial(mj.gram_from_grid, grid=grid), shape, mesh, None, None, "x")
    calls = collectives(features.as_text())
    assert calls == only({"all-reduce": calls["all-reduce"]}), calls
    assert held(features) < sizes[0] / 2


@fast
def wrong_pieces():
    mesh, points = mesh_of(*LINE), sheet()
    raises("axis: z of .* is not found in mesh", cut, points, mesh, "z")
    points[3, 4, 0] = np.nan
    raises("at 1 of 552 points, first at index \\(3, 4\\)", mj.gram_from_grid, cut(points, mesh, "x"), SHEET)
    closed = mj.Grid((mj.Axis("u", 0.0, 1.0, 24, periodic=True), SHEET.axes[1]))
    points = sheet()
    points[-1] = points[0]
    raises("first and last samples .* coincide", mj.gram_from_grid, cut(points, mesh, "x"), closed)


def raises(message, function, *arguments):
    with pytest.raises(ValueError, match=message) as raised:
        function(*arguments)
    assert "\n" not in str(raised.value).strip()


@slow
def measurements():
    points = torus(features=12)
    whole = mj.measure(points, TORUS)
    for kind in KINDS:
        mesh = mesh_of(*PLANE, kind)
        for spec in (("x", "y"), ("x", None, "y")):
            geometry = mj.measure(cut(points, mesh, *spec), TORUS)
            # S is 0, and its digits are rounding.
            same(whole.fields[2:], geometry.fields[2:])
            same(
                (whole.total_volume, whole.axis_sensitivity[2:]),
                (geometry.total_volume, geometry.axis_sensitivity[2:]),
            )
            assert np.abs(geometry.scalar_curvature.value).max() < 1e-9
            lies(geometry.mean_curvature.value, mesh, *spec[:2])
            lies(geometry.noise, mesh, *spec[:2])
            np.testing.assert_allclose(geometry.total_volume.value, 4 * np.pi**2, rtol=1e-3)
            assert geometry.verdicts()["mean_curvature"].resolved
            same(values(mj.measure(bumps(), TORUS)), values(mj.measure(cut(bumps(), mesh, *spec[:2]), TORUS)))


@slow
def measurements_under_jit_and_in_a_context():
    points, mesh = torus(features=12), mesh_of(*PLANE)
    whole = mj.measure(points, TORUS)
    held = cut(points, mesh, "x", None, "y")
    with jax.set_mesh(mesh):
        inside = mj.measure(held, TORUS)
    for geometry in (inside, jax.jit(lambda x: mj.measure(x, TORUS))(held)):
        same(whole.fields[2:], geometry.fields[2:])
        lies(geometry.mean_curvature.value, mesh, "x")
    inside = jax.jit(lambda x: values(mj.measure(x, TORUS)))(cut(bumps(), mesh, "x", "y"))
    same(values(mj.measure(bumps(), TORUS)), inside)
    total = jax.grad(lambda x: mj.measure(x, TORUS).total_volume.value)
    same(total(jnp.asarray(points)), jax.jit(total)(held))
    with jax.set_mesh(mesh):
        same(total(jnp.asarray(points)), total(held))


@slow
def measurements_that_are_kept(folder):
    points, mesh, calls = torus(), mesh_of(*LINE), []
    told = partial(mj.measure, grid=TORUS, block_size=8, progress=lambda *done: calls.append(done))
    same(mj.measure(points, TORUS).fields[2:], told(cut(points, mesh, "x")).fields[2:])
    assert len(calls) > 2
    assert calls[-1] == (384, 384)
    assert calls == sorted(calls)

    def stop(done, _):
        if done > 100:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        told(cut(points, mesh, "x"), checkpoint=folder, progress=stop)
    calls.clear()
    geometry = told(cut(points, mesh, "x"), checkpoint=folder)
    assert calls[0][0] > 100, calls
    same(told(cut(points, mesh, "x")), geometry, rtol=0)
    plane, there = mesh_of(*PLANE), values(mj.measure(bumps(), TORUS))
    for spec in (("x", "y"), (("y", "x"),)):
        same(there, values(told(cut(bumps(), plane, *spec))))


@slow
def measurements_of_the_rest():
    points, mesh = torus(), mesh_of(*PLANE)
    # A spectral axis is gathered.
    spectral = partial(mj.measure, grid=TORUS, accuracy=("spectral", 4))
    same(spectral(points).fields[2:4], spectral(cut(points, mesh, "x")).fields[2:4], rtol=1e-8)
    missing = points.copy()
    missing[3, 4] = np.nan
    masked = partial(mj.measure, grid=TORUS, missing="mask")
    same(masked(missing).fields[2:], masked(cut(missing, mesh, "y", "x")).fields[2:])
    # Along u nothing changes.
    still = partial(mj.measure, cut(np.array(np.broadcast_to(points[:1], points.shape)), mesh, "x"), TORUS)
    assert "nothing changes along u" in still().verdict("total_volume").sentence
    # Integers become floats where they lie.
    bytes_ = np.round(100 * points).astype(np.int8)
    same(mj.gram_from_grid(bytes_, TORUS), mj.gram_from_grid(cut(bytes_, mesh, "x"), TORUS))
