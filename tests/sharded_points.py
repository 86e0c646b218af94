"""What one device gives, eight give too, of images mapped by vmap: cases that ``run_sharded.py`` runs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from jax.tree_util import Partial
from sharded import KINDS, LINE, PLANE, collectives, cut, fast, lies, mesh_of, same, slow

import manifold_jax as mj

RNG = np.random.default_rng(0)
IMAGES, OTHERS = RNG.normal(size=(2, 16, 3, 4))
WEIGHTS = RNG.normal(size=(5, 12))


def classify(weights, x):
    return jax.nn.log_softmax(weights @ jnp.tanh(jnp.ravel(x)))


def projector(log_prob, x):
    """Of the span of the basis: its last row may be as long as another one, and either may come first."""
    basis = mj.horizontal_basis(log_prob, x)
    return basis.T @ basis


def keeping(log_prob, x, v):
    return mj.label_keeping_projection(log_prob, x, v, 2)


def spectrum(log_prob, x):
    values, vectors = mj.local_data_spectrum(log_prob, x)
    return values, jnp.abs(vectors)


OF_ONE = {f"local_data_{name}": getattr(mj, f"local_data_{name}") for name in ("factor", "trace", "rank")}
OF_ONE |= {"local_data_spectrum": spectrum, "horizontal_basis": projector}
OF_ONE["involutivity_defect"] = mj.involutivity_defect
OF_TWO = {name: getattr(mj, name) for name in ("local_data_matvec", "vertical_projection", "leaf_distance")}
OF_TWO["label_keeping_projection"] = keeping
OF_TWO["horizontal_path"] = partial(mj.horizontal_path, max_steps=9, save_every=3)
OF_TWO["vertical_walk"] = partial(mj.vertical_walk, steps=5, step="controlled")
OF_TWO["path_length"] = lambda log_prob, x, y: mj.path_length(log_prob, jnp.stack([x, y, x]), batch_size=1)


def fisher(name):
    function = getattr(mj, f"fisher_{name}")
    return lambda log_prob, x, *v: function(log_prob.func, *log_prob.args, x, *v)


OF_ONE |= {f"fisher_{name}": fisher(name) for name in ("trace", "factor")}


def check(function, mesh, names, *arrays, under=lambda x: x):
    """The function of one image, mapped over those in pieces, gives what it gives of the whole; it is cut."""
    log_prob = Partial(classify, cut(WEIGHTS, mesh))
    whole = jax.vmap(partial(function, Partial(classify, WEIGHTS)))(*arrays)
    pieces = under(jax.vmap(partial(function, log_prob)))(*(cut(x, mesh, names) for x in arrays))
    same(whole, pieces, rtol=1e-9)
    for leaf in jax.tree.leaves(pieces):
        if not (leaf.is_fully_replicated and len(np.unique(leaf)) == 1):  # constants may be everywhere
            lies(leaf, mesh, names)


@fast
def images_in_pieces():
    check(OF_TWO["horizontal_path"], mesh_of(*PLANE), "x", IMAGES, OTHERS)
    images = cut(IMAGES, mesh_of(*LINE), "x")
    mapped = jax.vmap(partial(spectrum, Partial(classify, WEIGHTS)))
    program = jax.jit(mapped).lower(images).compile()
    same(mapped(IMAGES), program(images))
    # Only whether all rotations are done is asked of all devices.
    calls = collectives(program.as_text())
    assert set(calls.pop("all-reduce")) == {1}
    assert not any(calls.values()), calls


@slow
def images_of_all_functions():
    for kind in KINDS:
        mesh = mesh_of(*PLANE, kind)
        for functions, arrays in ((OF_ONE, (IMAGES,)), (OF_TWO, (IMAGES, OTHERS))):
            for function in functions.values():
                check(function, mesh, "x", *arrays)
                check(function, mesh, ("x", "y"), *arrays, under=jax.jit)


@slow
def images_with_weights_that_are_closed_over():
    mesh = mesh_of(*PLANE)
    images, others, weights = cut(IMAGES, mesh, "x"), cut(OTHERS, mesh, "x"), cut(WEIGHTS, mesh)

    def log_prob(x):
        return classify(weights, x)

    trace = jax.vmap(partial(mj.local_data_trace, log_prob))(images)
    same(jax.vmap(partial(mj.local_data_trace, Partial(classify, WEIGHTS)))(IMAGES), trace)
    path = jax.vmap(partial(mj.horizontal_path, log_prob, max_steps=2))
    with pytest.raises(ValueError, match="closes over arrays on a mesh with explicit axes: hand it over"):
        path(images, others)


@slow
def images_in_a_map_by_hand():
    mesh = mesh_of(*PLANE)
    function = jax.vmap(partial(spectrum, Partial(classify, WEIGHTS)))
    mapped = jax.shard_map(function, mesh=mesh, in_specs=P("x"), out_specs=P("x"), check_vma=False)
    same(function(IMAGES), jax.jit(mapped)(cut(IMAGES, mesh, "x")))
    gradient = jax.vmap(jax.grad(lambda x: mj.local_data_spectrum(Partial(classify, WEIGHTS), x)[0][0]))
    same(gradient(IMAGES), jax.jit(gradient)(cut(IMAGES, mesh, "x")))
