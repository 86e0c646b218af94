"""What one device gives, eight give too, of rows: cases that ``run_sharded.py`` runs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.tree_util import Partial
from sharded import (
    KINDS,
    LINE,
    PLANE,
    collectives,
    cut,
    fast,
    held,
    lies,
    mesh_of,
    only,
    raises,
    same,
    slow,
    turned,
)

import manifold_jax as mj


def ellipse(n, features):
    """Points of an ellipse of reach 1 / 2 and their tangents."""
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    points = np.stack([2 * np.cos(angle), np.sin(angle)], axis=-1)
    tangents = np.stack([-2 * np.sin(angle), np.cos(angle)], axis=-1)
    return turned(points, features), turned(tangents, features)[:, None]


@fast
def fields_of_reach():
    points, tangents = ellipse(120, 2)
    field = partial(mj.reach_field, block_size=4)
    whole = field(points, tangents)
    for kind in KINDS:
        mesh = mesh_of(*PLANE, kind)
        for names in ("x", ("y", "x")):
            ring = field(cut(points, mesh, names), cut(tangents, mesh, names))
            same(whole, ring)
            np.testing.assert_allclose(np.min(ring.radius), 0.5, rtol=3e-3)
            lies(ring.radius, mesh, names)
    shapes = (2048, 64), (2048, 1, 64)
    sizes = []
    for count in (2, 4, 8):
        mesh = mesh_of((count,), ("x",), count=count)
        given = [jax.ShapeDtypeStruct(n, np.float32, sharding=NamedSharding(mesh, P("x"))) for n in shapes]
        program = jax.jit(partial(mj.reach_field, block_size=32)).lower(*given).compile()
        sizes.append(held(program))
        calls = collectives(program.as_text())
        assert calls == only({"collective-permute": calls["collective-permute"]}), calls
        assert max(calls["collective-permute"]) == 2048 * 64 // count, calls
    assert sizes[2] < 0.75 * sizes[1] < 0.75 * 0.75 * sizes[0], sizes


@slow
def gradients_of_reach():
    for features in (2, 40):  # by differences, and by matrix products
        points, tangents = ellipse(120, features)
        for temperature in (None, 0.01):

            def total(points, tangents=tangents, temperature=temperature):
                field = mj.reach_field(points, tangents, temperature=temperature, block_size=15)
                return jnp.sum(field.radius)

            points, mesh = jnp.asarray(points), mesh_of(*LINE)
            same(jax.grad(total)(points), jax.jit(jax.grad(total))(cut(points, mesh, "x")), rtol=1e-8)


def wave(weights, u):
    return jnp.tanh(weights @ u) + jnp.sum(u**2)


@fast
def jets_of_functions():
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(5, 2)))
    u = np.random.default_rng(0).uniform(size=(12, 8, 2))
    gram = mj.gram_from_function(Partial(wave, weights), u)
    layers = [lambda x: jnp.tanh(3 * x), lambda x: x[:2] ** 2]
    jets = list(mj.layer_jets(Partial(wave, weights), layers, u.reshape(-1, 2)))
    for kind in KINDS:
        mesh = mesh_of(*PLANE, kind)
        function = Partial(wave, cut(weights, mesh, None, "y"))
        pieces = mj.gram_from_function(function, cut(u, mesh, "x", "y"), batch_size=5)
        same(gram, pieces)
        lies(pieces.second, mesh, "x", "y")
        same(mj.scalar_curvature(gram), mj.scalar_curvature(pieces))
        rows = cut(u.reshape(-1, 2), mesh, ("x", "y"))
        for layer, piece in zip(jets, mj.layer_jets(function, layers, rows), strict=True):
            same(layer, piece)
            lies(piece.vectors, mesh, ("x", "y"))


def regression(weights, batch, key, step):
    x, y = batch
    noisy = x + 0.01 * jax.random.normal(key, x.shape)
    return jnp.mean((jnp.tanh(noisy @ weights["in"]) @ weights["out"] - y) ** 2), {}


@fast
def trainings():
    random = np.random.default_rng(0)
    x = random.normal(size=(32, 5))
    data, weights = (x, np.sin(x.sum(axis=1, keepdims=True))), {"in": (5, 8), "out": (8, 1)}
    weights = {name: jnp.asarray(random.normal(size=shape)) for name, shape in weights.items()}
    options = {"key": jax.random.key(0), "steps": 20, "chunk": 10, "optimizer": optax.adam(1e-2)}
    # Batches of 16 are shared out to 4 devices or 8, those of 12 are not shared out to 8.
    cases = (KINDS[0], "x", 16), (KINDS[1], ("y", "x"), 16), (KINDS[0], ("y", "x"), 12)
    for kind, names, batch in cases:
        mesh = mesh_of(*PLANE, kind)
        run = partial(mj.models.train, regression, batch_size=batch, **options)
        whole, pieces = run(weights, data), run(cut(weights, mesh), cut(data, mesh, names))
        same(whole.params, pieces.params)
        same(whole.metrics, pieces.metrics, rtol=1e-6)
        lies(pieces.params["in"], mesh)


@fast
def trainings_of_seeds():
    random, runs = np.random.default_rng(0), 8
    x = random.normal(size=(32, 5))
    data, shapes = (x, np.sin(x.sum(axis=1, keepdims=True))), {"in": (5, 8), "out": (8, 1)}
    weights = {name: jnp.asarray(random.normal(size=(runs, *shape))) for name, shape in shapes.items()}
    options = {"key": jax.random.key(0), "steps": 6, "chunk": 6, "batch_size": 16}
    options["optimizer"] = optax.adam(1e-2)
    whole = mj.models.train(mj.models.over_seeds(regression, runs), weights, data, **options)
    mesh, spec = mesh_of(*PLANE), ("y", "x")
    loss = mj.models.over_seeds(regression, runs, place=NamedSharding(mesh, P(spec)))
    pieces = mj.models.train(loss, cut(weights, mesh, spec), cut(data, mesh, "x"), **options)
    same(whole.params, pieces.params)
    same(whole.metrics, pieces.metrics, rtol=1e-6)
    lies(pieces.params["in"], mesh, spec)
    place = NamedSharding(mesh_of(*LINE, KINDS[1]), P("x"))
    given = [jax.ShapeDtypeStruct(w.shape, w.dtype, sharding=place) for w in weights.values()]
    step = jax.value_and_grad(mj.models.over_seeds(regression, runs, place=place), has_aux=True)
    program = jax.jit(step).lower(dict(zip(weights, given, strict=True)), data, options["key"], 0).compile()
    calls = collectives(program.as_text())
    assert calls == only({"all-reduce": [1]}), calls
    wrong = partial(mj.models.over_seeds, regression, place=place)
    raises("place must cut 6 runs into equal pieces", wrong, 6)
