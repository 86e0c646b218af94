"""Wrong calls of every public function and command: one sentence of ours that names the argument.

Right calls are a small table; what is wrong follows from the kind of each argument.
"""

import contextlib
import importlib
import inspect
import math
import re
import traceback
from collections import Counter
from functools import partial
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import typer
import xarray
from flax import nnx
from networks import drawn
from typer.testing import CliRunner

import manifold_jax as mj
from manifold_jax import _checks, datasets, fitting, models, plotting
from manifold_jax.experiments import cli, terminal
from manifold_jax.geometry.reach import ComponentReach

KEY = jax.random.key(0)
GRID = mj.Grid(mj.Axis("t", 0, 2 * math.pi, 16, periodic=True))
PLANE = mj.Grid((mj.Axis("u", 0, 1, 6), mj.Axis("v", 0, 1, 6)))
CIRCLE = mj.datasets.circle(size=16)
T = GRID.axes[0].samples()
RING = np.stack([np.cos(T), np.sin(T)], -1).astype(np.float32)
CLOUD = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
X = np.array([0.1, 0.2, 0.3], np.float32)
SIZES = np.array([10.0, 100.0, 1000.0])
ERRORS = np.array([[1.0, 1.1], [0.1, 0.12], [0.01, 0.011]])
GRAM = mj.JetGram(np.eye(2), np.zeros((2, 2, 2)), np.zeros((2, 2, 2, 2)))
JET = mj.Jet(np.eye(2, 3, dtype=np.float32), np.zeros((2, 2, 3), np.float32))
RATE = fitting.RATES["noiseless_hausdorff_lower"]
SLOPE = fitting.Slope(-1.0, -1.1, -0.9, 0.95, SIZES)
VIEWS = np.random.default_rng(0).uniform(size=(8, 16, 16)).astype(np.float32)


def circle(u):
    return jnp.array([jnp.cos(u[0]), jnp.sin(u[0])])


def log_prob(x):
    return jax.nn.log_softmax(jnp.sin(x @ jnp.arange(12.0).reshape(3, 4)))


def apply(w, x):
    return jax.nn.log_softmax(w @ x)


def loss(w, batch, key, step):
    return jnp.mean((batch - w) ** 2), {}


def identity(x):
    return x


SHAPES = jax.eval_shape(lambda x: mj.measure(x, GRID), RING)  # without compiling anything in every worker
GEOMETRY = jax.tree.map(lambda one: np.ones(one.shape, one.dtype), SHAPES)
ONES, ORIGIN = np.ones(16), np.zeros(16, int)
BALLS = ComponentReach("ring", GRID, ONES, ONES, ORIGIN, ORIGIN > 0)
REACH = mj.Reach(1.0, 0.1, True, "local", 1.0, 0.1, (1.0, 1.0), math.inf, 0.0, 1.0, (), 0, 0.0, (BALLS,))
FIT = fitting.local_pca_projection(RING, dimension=1)
LABELLED = xarray.DataArray(RING, dims=("t", "xy"), coords={"t": T})
TILE = np.zeros((8, 8), np.float32)
LENET = drawn(models.LeNet, classes=3, size=8)
VGG = drawn(models.VGG, depth=11, width=2)
VAE = drawn(models.BetaVAE, size=16, width=2, hidden=4, latent=2)
NETWORK = models.pure(LENET)
LINEAR = drawn(nnx.Linear, in_features=2, out_features=1)
WEIGHTS = {"weight": np.ones((1, 2), np.float32), "bias": np.ones(1, np.float32)}
NAN = math.nan
NO_NUMBER = (True, "no", 1j, [1.0, 2.0], {})
BAD_ARRAYS = ("no", object(), np.zeros((0, 2), np.float32), 1j * CLOUD)
BROKEN = np.where(CLOUD[3, 1] == CLOUD, np.nan, CLOUD)

WRONG = {
    "whole": (*NO_NUMBER, None, 2.5, NAN, math.inf, -1, 0, 10**40),
    "whole0": (*NO_NUMBER, None, 2.5, NAN, -1),
    "orders": (*NO_NUMBER, None, 3, 0, -2, 4.5, NAN, (4, 4, 4), "spectrum"),
    "wholes": (*NO_NUMBER, None, 2.5, NAN, -1, 0, (1, 1, 1)),
    "widths": (*NO_NUMBER, None, 2.5, NAN, -1, (0, 0, 0)),
    "positive": (*NO_NUMBER, None, NAN, math.inf, 0, -0.5),
    "positive0": (*NO_NUMBER, None, NAN, math.inf, -0.5),
    "share": (*NO_NUMBER, None, NAN, math.inf, 0, -0.5, 1.5),
    "number": (*NO_NUMBER, None, NAN, math.inf),
    "reals": ("no", 1j, {}, None, NAN, math.inf, 0, -0.5, True, object()),
    "real numbers": ("no", 1j, {}, None, True, object()),
    "flag": (None, "no", 1, 2.5, NAN, [True]),
    "choice": (None, "unknown", 7, True, ["unknown"]),
    "sizes": ("no", 1j * SIZES, None, 3, [], [10.0], SIZES * NAN, -SIZES, [1.0, 2.0]),
    "errors": ("no", 1j * ERRORS, None, 3, [], ERRORS[:2], ERRORS * NAN, -ERRORS),
    "steps": (True, "no", 1j, {}, 3, (2.5,), (-1,), ("no",)),
    "picture": ("no", None, object(), 1j * CLOUD),
    "dims": ("no", 3, (2.5,), (-1,), ("no",)),
    "factors": ((3,), ("torus",), (CIRCLE, None)),
    "manifold_or_points": (None, "torus", 3, []),
    "finite": (*BAD_ARRAYS, None, 3, np.ones(4), BROKEN),
    "samples": (*BAD_ARRAYS, None, 3, np.ones((3, 3)), [1.0], [1.0, NAN, 2.0], [1.0, 1.0], [0.0, 2.0, 1.0]),
    "text": (3, True, ["no"]),
    "function": (None, "no", 3, CLOUD),
    "call": ("no", 3, CLOUD),
    "key": (None, "no", 3, 0.5, [0, 1], np.zeros(3)),
    "grid": (None, "no", 3, (16,)),
    "manifold": (None, "torus", 3, RING, []),
    "geometry": (None, "no", 3, RING),
    "gram": (None, "no", 3, JET, np.eye(2)),
    "jet": (None, "no", 3, GRAM, np.eye(2)),
    "cloud": (*BAD_ARRAYS, None, 3, np.ones(4, np.float32), CLOUD.astype(int), BROKEN),
    "values": (*BAD_ARRAYS, None, np.zeros((2, 5, 7, 3), np.float32), -CLOUD, BROKEN),
    "input": (*BAD_ARRAYS, None, 3, np.array([1, 2, 3]), np.full(3, NAN), np.full(3, math.inf)),
    "vector": (*BAD_ARRAYS, None, np.ones((3, 7)), np.array([1, 2, 3])),
    "mapping": ("no", 3, [("a", 1)], {"unknown": 1}),
    "length": (*NO_NUMBER, None, NAN, 0, -0.5),  # infinite ones count
    "level": (*NO_NUMBER, None, NAN, math.inf, -0.5, 1.5),
    "radii": ("no", None, True, 0, -1.0, NAN, (1.0,), (1.0, -1.0)),
    "reals of R^3": (*BAD_ARRAYS, None, np.ones((3, 7))),
    "dictionary": (None, "no", {}),
    "ends": ("no", 3, True, (1.0,), (1.0, 0.5), (NAN, 1.0), ("a", "b")),
    "numbers": ("no", 3, True, (1.0,), (1.0, 2.0, 3.0, 4.0), (NAN, 1.0), ("a", "b"), None),
    "noise": ("no", 3, True, ("ambient",), ("ambient", -1.0), ("unknown", 0.1), CLOUD),
    "points": (*BAD_ARRAYS, None),  # whole numbers and NaN are allowed
    "names": (None, 3, True, "unknown", ("unknown",), ()),
    "path": (3, True, "/dev/null/none", object()),
    "folder": (3, True, object()),
    "params": (None, "no", {}, {"w": np.array([1j, 2])}),
    "period": ("no", NAN, -1.0, 0.0, math.inf, 1j, [1.0, 2.0], {}, None),
    "periods": (3, True, "unknown", ["unknown"], {"t": "no"}, {"t": -1.0}, {"t": NAN}, {"unknown": 1.0}),
    "labelled": (None, "no", 3, RING, LABELLED.drop_vars("t"), LABELLED.assign_coords(t=T * NAN)),
    "dtype": ("no", 3, object(), int, complex),
    "levels": ("no", None, 3, (2.0,), (-0.1,), (NAN,), ("a",), ()),
    "component": (*NO_NUMBER, None, 2.5, -1, 1),
    "images": (*BAD_ARRAYS, None, 3, np.zeros((2, 5, 5, 1)), np.zeros(3)),
    "image": (*BAD_ARRAYS, None, 3, np.zeros((5, 5)), np.zeros(3)),
    "precision": ("no", 3, True, [1]),
    "rngs": (None, "no", 3, KEY),
    "per channel": ("no", 3, None, (0.5,), (0.5, 0.5, NAN), ("a", "b", "c"), (1j, 1j, 1j)),
    "scales": ("no", 3, None, (0.5,), (0.5, 0.5, 0.0), (0.5, 0.5, -1.0), ("a", "b", "c")),
    "units": ("no", 3, None, (2.5,), (0,), ("a",)),
    "weights": (None, "no", 3, [1.0], "none.npz", "none.pt", {}, {"weight": "no"}, {"weight": np.ones(3)}),
    "layout": ("no", 3, ["weight"], {"unknown": ""}, {"Linear": "unknown"}, {"Linear": 3}),
    "pairs": ("no", 3, [3], ["ab"]),
    "two names": ("no", 3, ["one"], [1, 2]),
    "geometries": ("no", 3, [GEOMETRY], [3, 4]),
}
"""Values by kind of argument; None is left out where it is the default."""

KINDS = (
    dict.fromkeys(
        ["batch_size", "block_size", "tile_size", "max_steps", "neighbours", "count", "steps", "starts"],
        "whole",
    )
    | dict.fromkeys(
        ["max_iterations", "chunk", "save_every", "periods", "degree", "candidates", "resamples"], "whole"
    )
    | dict.fromkeys(
        ["dimension", "max_rounds", "most", "channels", "width", "columns", "object_id", "size"], "whole"
    )
    | dict.fromkeys(
        ["step_size", "longest", "radius", "minor", "major", "pitch", "turns", "gap", "blur", "sigma"],
        "positive",
    )
    | dict.fromkeys(["bandwidth", "error_tolerance", "stationarity", "constant", "learning_rate"], "positive")
    | dict.fromkeys(["separation", "volume", "reach", "extent"], "positive")
    | dict.fromkeys(["tolerance", "level", "delta", "epsilon", "test_fraction"], "share")
    | dict.fromkeys(["exact", "train", "full_turn", "intercept", "warm_up"], "flag")
    | dict.fromkeys(
        [
            "missing",
            "method",
            "quantity",
            "weights",
            "kind",
            "step",
            "loss",
            "layout",
            "what",
            "side",
            "split",
        ],
        "choice",
    )
    | dict.fromkeys(["log_prob", "apply", "embedding", "project"], "function")
    | dict.fromkeys(("progress", "callback"), "call")
    | dict.fromkeys(["samples", "queries", "first", "second", "test_points", "true_points"], "cloud")
    | {
        "accuracy": "orders",
        "stride": "wholes",
        "smooth": "widths",
        "noise": "positive0",
        "rtol": "positive0",
    }
    | {"key": "key", "grid": "grid", "manifold": "manifold", "gram": "gram", "jet": "jet", "params": "params"}
    | {"x": "input", "source": "input", "destination": "input", "anchor": "input", "v": "vector"}
    | {"points": "cloud", "geometry": "geometry", "path": "path", "clip": "ends"}
    | {"copies": "mapping", "ranges": "mapping", "sizes": "mapping", "fixed": "mapping", "folder": "folder"}
    | {"factors": "names", "label": "whole0", "direction": "vector", "scale": "positive0", "start": "whole0"}
    | {"radii": "ends", "checkpoint": "folder", "longest": "length"}
)

INPUT = {"log_prob": log_prob, "x": X}
ENDS = {"log_prob": log_prob, "source": X, "destination": X + 0.1, "max_steps": 4}
WALK = INPUT | {"direction": X, "steps": 4}
PARAMS = {"apply": lambda w, x: apply(w["w"], x), "params": {"w": np.ones((2, 3), np.float32)}, "x": X}
SAMPLES = {"points": CLOUD, "dimension": 1, "neighbours": 6}
TRAIN = {"loss": loss, "params": jnp.zeros(2), "data": np.ones((4, 2), np.float32), "key": KEY, "steps": 2}
TRAIN |= {"batch_size": 2}
BOUND = {"volume": 1.0, "reach": 0.5, "dimension": 1}
REALS = dict.fromkeys(("volume", "reach", "radius", "constant"), "reals")
FITTED = {"samples": RING, "dimension": 1, "key": KEY, "steps": 2, "batch_size": 4, "width": 4}

CALLS = [
    (
        mj.Axis,
        {"name": "t", "start": -5.0, "stop": 5.0, "size": 5},
        {"name": "text", "start": "number", "stop": "number", "unit": "text", "periodic": "flag"},
    ),
    (
        mj.Axis,
        {"name": "t", "start": 0.0, "stop": 1.0, "size": 5, "periodic": True},
        {"start": "", "wrap": "flag"},
    ),
    (mj.Axis.from_samples, {"name": "t", "values": np.arange(5.0)}, {"values": "samples"}),
    (mj.Grid, {"axes": GRID.axes}, {"axes": "grid"}),
    (mj.Manifold, {"name": "m", "embedding": circle, "grid": GRID}, {"embedding": "function"}),
    (mj.measure, {"points_or_manifold": RING, "grid": GRID}, {"points_or_manifold": "values"}),
    (mj.measure, {"points_or_manifold": circle, "grid": GRID}, {"exact": "flag"}),
    (
        mj.reach,
        {"points_or_manifold": RING, "grid": GRID},
        {"points_or_manifold": "values", "periods": "whole0"},
    ),
    (mj.reach, {"points_or_manifold": circle, "grid": GRID, "exact": True}, {"periods": "whole0"}),
    (
        mj.measure_union,
        {"manifolds": [RING, RING + 3], "grid": GRID},
        {
            "manifolds": "values",
            "names": "two names",
            "with_reach": "flag",
            "with_distances": "flag",
            "geometry": "geometries",
        },
    ),
    (mj.reach_from_samples, SAMPLES, {"tangents": "vector", "method": "choice", "separation": "positive0"}),
    (mj.suggest_stencil, {"points_or_manifold": RING, "grid": GRID}, {"points_or_manifold": "values"}),
    (mj.gram_from_grid, {"points": RING, "grid": GRID}, {"points": "values"}),
    (mj.jet_from_grid, {"points": RING, "grid": GRID}, {"points": "values"}),
    (
        mj.gram_from_function,
        {"embedding": circle, "coordinates": np.ones((3, 1), np.float32)},
        {"embedding": "function", "coordinates": "input"},
    ),
    (
        mj.jet_from_function,
        {"embedding": circle, "coordinates": np.ones((3, 1), np.float32)},
        {"embedding": "function", "coordinates": "input"},
    ),
    *(
        (f, {"gram": GRAM}, {})
        for f in (
            mj.metric,
            mj.volume_element,
            mj.riemann,
            mj.ricci,
            mj.scalar_curvature,
            mj.mean_curvature,
            mj.second_form_norm,
            mj.normal_curvature,
            mj.normal_curvature_bounds,
        )
    ),
    (mj.christoffel, {"gram": GRAM}, {}),
    (mj.gram, {"jet": JET}, {}),
    (mj.second_fundamental_form, {"jet": JET}, {}),
    (
        mj.sectional_curvature,
        {"gram": GRAM, "u": np.array([1.0, 0]), "v": np.array([0, 1.0])},
        {"u": "vector"},
    ),
    (
        mj.integrate,
        {"values": np.ones(16), "volume_element": np.ones(16), "grid": GRID},
        {"values": "vector", "volume_element": "vector"},
    ),
    (
        mj.layer_jets,
        {"embedding": circle, "functions": [jnp.tanh], "coordinates": np.ones((3, 1), np.float32)},
        {"embedding": "function", "functions": "mapping", "coordinates": "input"},
    ),
    (mj.measure_layers, {"manifold": CIRCLE, "functions": [jnp.tanh]}, {"functions": "mapping"}),
    (mj.load_geometry, {"path": "geometry.nc"}, {}),
    (mj.geometry_from_xarray, {"dataset": None}, {"dataset": "geometry"}),
    (
        mj.distortion_radius,
        {"chord": 1.0, "arc": 1.5},
        dict.fromkeys(["chord", "arc"], "real numbers"),
    ),
    (
        mj.tangent_ball_radius,
        {"x": X, "y": X + 1, "frame": np.eye(1, 3, dtype=np.float32)},
        {"y": "reals of R^3", "frame": "reals of R^3", "x": "reals of R^3"},
    ),
    (
        mj.reach_field,
        {"points": CLOUD, "tangents": CLOUD[:, None]},
        {"points": "cloud", "tangents": "finite", "temperature": "positive", "block_size": "whole"},
    ),
    # methods and constructors
    (
        mj.Axis.from_samples,
        {"name": "t", "values": T},
        {"name": "text", "periodic": "period", "unit": "text"},
    ),
    (
        mj.Axis,
        {"name": "t", "start": 0.0, "stop": 2.0, "size": 3, "nodes": (0.0, 0.5, 2.0)},
        {"start": "", "nodes": "ends", "descending": "flag", "size": "whole"},
    ),
    (mj.Grid.from_xarray, {"array": LABELLED}, {"array": "labelled", "periodic": "periods"}),
    (GRID.coordinates, {}, {"dtype": "dtype"}),
    (GRID.weights, {}, {"dtype": "dtype"}),
    (
        mj.Manifold,
        {"name": "m", "embedding": circle, "grid": GRID},
        {"known": "pairs", "attributes": "pairs"},
    ),
    (GEOMETRY.verdict, {"name": "total_volume"}, {"name": "choice"}),
    (GEOMETRY.quantiles, {}, {"levels": "levels"}),
    (GEOMETRY.save, {"path": "/dev/null/a.nc"}, {}),
    (REACH.to_xarray, {}, {"component": "component"}),
    # what a classifier sees
    (mj.check_log_prob, INPUT, {"x": ""}),
    *(
        (f, INPUT, {})
        for f in (
            mj.local_data_factor,
            mj.local_data_matrix,
            mj.local_data_trace,
            mj.local_data_spectrum,
            mj.local_data_rank,
            mj.horizontal_basis,
            mj.involutivity_defect,
        )
    ),
    *(
        (f, INPUT | {"v": X}, {})
        for f in (mj.local_data_matvec, mj.horizontal_projection, mj.vertical_projection)
    ),
    (mj.label_keeping_projection, INPUT | {"v": X, "label": 0}, {}),
    (
        mj.geodesic,
        {"embedding": lambda u: jnp.sin(u), "start": np.zeros(2), "velocity": np.ones(2)},
        {"embedding": "function", "start": "vector", "velocity": "vector", "steps": "whole"},
    ),
    (mj.horizontal_path, ENDS, {"tolerance": "positive"}),
    (mj.leaf_projection, {"log_prob": log_prob, "anchor": X, "x": X + 0.1, "max_steps": 4}, {}),
    (mj.leaf_distance, {"log_prob": log_prob, "anchor": X, "x": X + 0.1, "max_steps": 4}, {}),
    (mj.vertical_walk, WALK, {}),
    (mj.label_keeping_walk, WALK | {"label": 0}, {}),
    *(
        (f, PARAMS, {})
        for f in (mj.fisher_factor, mj.fisher_trace, mj.fisher_spectrum, mj.fisher_involutivity_defect)
    ),
    (mj.fisher_matvec, PARAMS | {"v": PARAMS["params"]}, {}),
    (mj.path_length, {"log_prob": log_prob, "points": CLOUD}, {}),
    (mj.output_length, {"log_prob": log_prob, "points": CLOUD}, {}),
    (
        mj.fisher_rao_distance,
        {"log_p": np.log([0.5, 0.5]), "log_q": np.log([0.1, 0.9])},
        {"log_p": "vector", "log_q": "vector"},
    ),
    (
        mj.principal_angles,
        {"tangents": np.eye(2, 3), "basis": np.eye(2, 3)},
        {"tangents": "vector", "basis": "vector"},
    ),
    (
        mj.factor_visibility,
        {"tangents": np.eye(2, 3), "factor": np.eye(2, 3)},
        {"tangents": "vector", "factor": "vector"},
    ),
    (mj.pulled_back, {"log_prob": log_prob, "embedding": circle}, {"embedding": "function"}),
    # datasets
    *(
        (f, {}, {})
        for f in (
            datasets.circle,
            datasets.helix,
            datasets.parallel_circles,
            datasets.sphere,
            datasets.torus,
            datasets.veronese,
        )
    ),
    (datasets.swiss_roll, {}, {"start": "positive", "stop": "positive", "height": "positive"}),
    (datasets.ellipse, {}, {"semi_axes": "numbers"}),
    (datasets.ellipsoid, {}, {"semi_axes": "numbers"}),
    (datasets.hyperboloid, {}, {"semi_axes": "numbers", "sheets": "whole"}),
    (datasets.two_moons, {}, {"offset": "numbers"}),
    (datasets.flat_torus, {}, {"radii": "radii"}),
    (datasets.product, {"manifolds": (CIRCLE, CIRCLE)}, {"manifolds": "factors"}),
    (datasets.warped, {"manifold": CIRCLE}, {"strength": "number"}),
    (datasets.sprite, {"size": 16}, {"shape": "choice"}),
    (datasets.turntable, {"views": VIEWS, "size": 16}, {"view": "choice", "views": "cloud"}),
    (datasets.ambient_noise, {"key": KEY, "points": CLOUD, "scale": 0.1}, {"points": "points"}),
    (
        datasets.normal_noise,
        {"key": KEY, "manifold": CIRCLE, "coordinates": np.ones((3, 1), np.float32), "scale": 0.1},
        {"coordinates": "cloud"},
    ),
    (datasets.farthest_points, {"points": CLOUD, "count": 3}, {"points": "points"}),
    (
        datasets.sample_grid,
        {"key": KEY, "volume_element": np.ones((3, 3)), "count": 2},
        {"volume_element": "points"},
    ),
    (datasets.sample_uniform, {"key": KEY, "manifold": CIRCLE, "count": 4}, {}),
    (datasets.train_test_split, {"key": KEY, "count": 10}, {}),
    *(
        (f, {"path": "/dev/null/none"}, {})
        for f in (
            datasets.mnist,
            datasets.fashion_mnist,
            datasets.kmnist,
            datasets.emnist,
            datasets.cifar100,
            datasets.coil20,
            datasets.coil100,
            datasets.read_coil20,
            datasets.read_coil100,
        )
    ),
    (datasets.cifar10, {"path": "/dev/null/none"}, {"batches": "whole"}),
    (datasets.dsprites, {"path": "/dev/null/none"}, {"shape": "choice", "file": "path"}),
    (
        datasets.image_folder,
        {"path": "/dev/null/none"},
        {"factors": "", "periodic": ""},
    ),
    (datasets.read_idx, {"path": "/dev/null/none"}, {}),
    # fitting
    (
        fitting.agnostic_mean_squared_bound,
        BOUND | {"samples": SIZES, "radius": 1.0, "constant": 1.0, "delta": 0.1},
        REALS | {"samples": "reals"},
    ),
    (fitting.agnostic_sample_complexity, BOUND | {"epsilon": 0.5, "constant": 1.0, "delta": 0.1}, REALS),
    (fitting.unit_ball, BOUND | {"radius": 1.0}, REALS),
    (fitting.builtin_estimators, {}, {"dimensions": "choice"}),
    (
        fitting.calibrate,
        {"estimators": ("dimension", lambda points: 1), "manifolds": CIRCLE, "sizes": [50], "key": KEY},
        {
            "estimators": "names",
            "manifolds": "manifold",
            "sizes": "whole",
            "seeds": "whole0",
            "on_error": "choice",
            "noise": "noise",
        },
    ),
    (fitting.compare_rates, {"measured": SLOPE, "dimension": 1, "loss": RATE.loss}, {"measured": "geometry"}),
    (
        fitting.supports,
        {"measured": SLOPE, "rate": RATE, "dimension": 1},
        {"measured": "geometry", "rate": "geometry"},
    ),
    (
        fitting.effective_slope,
        {"rate": RATE, "sizes": SIZES, "dimension": 1},
        {"rate": "geometry", "sizes": "sizes"},
    ),
    (fitting.explicit, {"rate": RATE, "dimension": 1, "constant": 1.0}, {"rate": "geometry"}),
    (
        fitting.fit_constant,
        {"sizes": SIZES, "errors": ERRORS, "rate": RATE, "dimension": 1},
        {"rate": "geometry", "sizes": "sizes", "errors": "errors", "kind": "choice", "level": "level"},
    ),
    (
        fitting.slope,
        {"sizes": SIZES, "errors": ERRORS, "key": KEY, "resamples": 4},
        {"sizes": "sizes", "errors": "errors"},
    ),
    (fitting.smooth_rate, {"what": "hausdorff", "k": 3, "side": "lower"}, {"k": "whole", "side": "choice"}),
    (fitting.curvature_from_samples, SAMPLES, {}),
    (fitting.local_pca_tangents, SAMPLES, {}),
    (fitting.local_quadratic_fit, SAMPLES, {"tangents": "vector", "radius": "length"}),
    (fitting.weingarten_fit, SAMPLES, {"tangents": "vector", "radius": "length"}),
    (fitting.local_pca_projection, {"samples": CLOUD, "dimension": 1}, {"samples": "points"}),
    (
        fitting.moving_least_squares,
        {"samples": CLOUD, "dimension": 1},
        {"tolerance": "positive", "samples": "points"},
    ),
    (fitting.volume_from_samples, SAMPLES, {}),
    (fitting.intrinsic_dimension, {"points": CLOUD}, {}),
    (
        fitting.scalar_curvature_from_balls,
        {"points": CLOUD, "dimension": 2, "neighbours": 6},
        {"distances": "vector", "density": "vector"},
    ),
    (
        fitting.nearest_neighbours,
        {"samples": CLOUD, "queries": CLOUD, "count": 2},
        {"samples": "points", "queries": "points"},
    ),
    (fitting.nearest_points, {"manifold": CIRCLE, "points": RING}, {"tolerance": "positive"}),
    (fitting.distances_to_manifold, {"manifold": CIRCLE, "points": RING}, {}),
    (fitting.fit_distances, {"project": identity, "manifold": CIRCLE, "test_points": RING}, {}),
    (fitting.hausdorff_distance, {"first": CLOUD, "second": CLOUD}, {"first": "points", "second": "points"}),
    (fitting.project_with_status, {"project": FIT, "points": RING}, {"indices": "vector"}),
    (fitting.ranking, {"calibration": None}, {"calibration": "geometry"}),
    (fitting.error_curves, {"calibration": None}, {"calibration": "geometry"}),
    # networks
    (
        models.train,
        TRAIN,
        {"loss": "function", "data": "points", "params": "input", "save_at": "steps", "optimizer": "call"},
    ),
    (models.over_seeds, {"loss": loss, "count": 2}, {"loss": "function"}),
    (models.pixels, {"images": np.zeros((2, 2), np.uint8)}, {"images": "picture"}),
    (models.classification_loss, {"apply": apply}, {}),
    (
        models.labelled,
        {
            "apply": apply,
            "params": np.ones((3, 2), np.float32),
            "images": np.ones((4, 2), np.float32),
            "labels": np.array([0, 1, 2, 0]),
        },
        {"images": "finite", "labels": "vector", "params": ""},
    ),
    (models.beta_vae_loss, {"apply": apply}, {"objective": "geometry"}),
    (models.pure, {"module": None}, {"module": "geometry"}),
    (models.network_layers, {"network": None}, {"network": "geometry"}),
    (
        models.chain,
        {"functions": {"a": jnp.tanh}, "shape": (2,)},
        {"functions": "geometry", "shape": "dims"},
    ),
    (
        models.torch_initial,
        {"params": {"kernel": np.ones((2, 2)), "bias": np.ones(2)}, "key": KEY},
        {"params": "dictionary"},
    ),
    (
        models.convolve,
        {
            "x": np.ones((1, 4, 4, 1)),
            "kernel": np.ones((3, 3, 1, 1)),
            "window_strides": (1, 1),
            "padding": "SAME",
        },
        {"x": "cloud", "kernel": "cloud", "window_strides": "wholes", "padding": "choice"},
    ),
    (
        models.convolve_transposed,
        {"x": np.ones((1, 4, 4, 1)), "kernel": np.ones((4, 4, 1, 1))},
        {"x": "cloud", "kernel": "cloud"},
    ),
    (models.max_pool, {"x": np.ones((1, 4, 4, 1), np.float32)}, {"x": "cloud"}),
    (
        models.save_checkpoint,
        {"folder": "/dev/null/none", "step": 1, "params": {"w": np.ones(2)}},
        {"step": "whole0", "params": "dictionary"},
    ),
    (models.load_params, {"folder": "/dev/null/none", "like": {"w": np.ones(2)}}, {"step": "whole0"}),
    (models.checkpoint_steps, {"folder": "/dev/null/none"}, {}),
    (models.denoising_autoencoder, FITTED, {"latent": "whole"}),
    (models.variational_autoencoder, FITTED, {"latent": "whole", "objective": "geometry"}),
    (
        models.load_torch_weights,
        {"weights": WEIGHTS, "module": LINEAR},
        {"weights": "weights", "layout": "layout", "flatten": "choice", "module": "geometry"},
    ),
    (
        models.LeNet,
        {"rngs": nnx.Rngs(0)},
        {
            "classes": "whole",
            "mean": "number",
            "std": "positive",
            "activation": "call",
            "precision": "precision",
            "rngs": "rngs",
            "size": "whole",
        },
    ),
    (
        models.VGG,
        {"rngs": nnx.Rngs(0), "width": 2, "depth": 11},
        {
            "depth": "whole",
            "batch_norm": "flag",
            "classes": "whole",
            "hidden": "units",
            "mean": "per channel",
            "std": "scales",
            "activation": "call",
            "precision": "precision",
            "rngs": "rngs",
            "size": "whole",
        },
    ),
    (
        models.BetaVAE,
        {"rngs": nnx.Rngs(0), "size": 16, "width": 2, "hidden": 4, "latent": 2},
        {
            "variant": "choice",
            "latent": "whole",
            "hidden": "whole",
            "activation": "call",
            "precision": "precision",
            "rngs": "rngs",
            "size": "whole",
        },
    ),
    *(
        (f, {"images": TILE[None]}, {"images": "images"})
        for f in (LENET.__call__, LENET.logits, LENET.features)
    ),
    *(
        (f, {"images": np.zeros((1, 32, 32, 3), np.float32)}, {"images": "images"})
        for f in (VGG.__call__, VGG.logits, VGG.features)
    ),
    *(
        (f, {"images": np.zeros((1, 16, 16), np.float32)}, {"images": "images"})
        for f in (VAE.__call__, VAE.encode)
    ),
    (VAE.decode, {"latents": np.zeros((1, 2), np.float32)}, {"latents": "images"}),
    (NETWORK.__call__, {"x": TILE}, {"x": "image"}),
    (NETWORK.apply.__call__, {"params": NETWORK.params, "x": TILE}, {"x": "image"}),
    (NETWORK.apply.of, {"method": "logits"}, {"method": "text"}),
    (models.network_layers(NETWORK).activations, {"x": TILE}, {"x": "image"}),
    (RATE.log, {"n": SIZES, "dimension": 1}, {"n": "reals"}),
    # pictures
    *((f, {"geometry": GEOMETRY}, {}) for f in (plotting.plot_histograms, plotting.plot_pairs)),
    (plotting.plot_maps, {"geometry": GEOMETRY}, {"pairs": "whole"}),
    (
        plotting.compare,
        {"stencil": GEOMETRY, "exact": GEOMETRY},
        {"stencil": "geometry", "exact": "geometry"},
    ),
    (
        plotting.plot_comparison,
        {"stencil": GEOMETRY, "exact": GEOMETRY},
        {"stencil": "geometry", "exact": "geometry"},
    ),
    (plotting.plot_pca, {"manifold": RING, "geometry": GEOMETRY}, {"manifold": "values"}),
    (plotting.plot_samples, {"manifold": RING, "geometry": GEOMETRY}, {"manifold": "values"}),
    (
        plotting.plot_cloud,
        {"points": CLOUD, "values": np.ones(12), "name": "c", "label": "v"},
        {"values": "vector", "points": "finite", "label": ""},
    ),
    (
        plotting.plot_reach,
        {"manifolds": CIRCLE, "result": REACH},
        {"manifolds": "manifold_or_points", "result": "geometry"},
    ),
    (
        plotting.plot_union,
        {"manifolds": [CIRCLE, CIRCLE], "union": None},
        {"manifolds": "values", "union": "geometry"},
    ),
    (plotting.principal_components, {"points": CLOUD}, {"points": "finite"}),
    (plotting.save_figure, {"figure": None, "path": "a.png"}, {"figure": "geometry", "path": ""}),
    (
        plotting.save_animation,
        {
            "moving": plotting.Moving("", np.ones((1, 1, 2, 2)), ["a"], [["b"]]),
            "path": "/dev/null/no/a.gif",
        },
        {"moving": "geometry", "path": "", "seconds": "positive"},
    ),
    (
        plotting.save_report,
        {"path": "/dev/null/no/a.html", "manifold": RING, "geometry": GEOMETRY},
        {"path": "", "manifold": "values", "geometry": "geometry", "reach": "geometry", "beside": "geometry"},
    ),
    (plotting.unit_of, {"geometry": GEOMETRY, "quantity": "volume_element"}, {}),
]


def parameters_of(function):
    """Those of the constructor of a class: modules of Flax have a signature of their own."""
    return inspect.signature(function.__init__ if inspect.isclass(function) else function).parameters


def wrong_calls(function, right, own):
    """Every wrong value of every argument, one at a time."""
    for name, parameter in parameters_of(function).items():
        for value in WRONG.get(own.get(name, KINDS.get(name, "")), ()):
            if value is not None or parameter.default is not None:
                yield name, value


def call(function, arguments):
    """Call with arguments by name, those of ``*args`` too."""
    arguments = dict(arguments)
    parameters = inspect.signature(function).parameters.values()
    spread = [x for p in parameters if p.kind == p.VAR_POSITIONAL for x in arguments.pop(p.name, ())]
    return function(*spread, **arguments)


def outcome(function, name, arguments):
    """Of a wrong call: "accepted", "raw" (an error of a library), "unclear" or "refused"; what was said."""
    try:
        call(function, arguments)
    except Exception as error:
        origin, said = traceback.extract_tb(error.__traceback__)[-1].filename, str(error)
        if not isinstance(error, ValueError | TypeError | OSError) or "/manifold_jax/" not in origin:
            return "raw", f"{type(error).__name__} in {origin}: {said}"
        value = arguments[name]
        names = {
            name,
            name.rstrip("s"),
            "points" if "manifold" in name else name,
            "points"[: 6 * ("points" in name)],
        }
        came = (
            "got",
            str(value),
            str(np.shape(value)) if isinstance(value, np.ndarray | int | list) else "got",
        )
        one = len(said) < 500 and "\n" not in said
        clear = any(n in said for n in names) and any(c in said for c in came)
        return ("refused" if one and clear else "unclear"), said
    return "accepted", ""


@pytest.fixture(scope="module")
def counts():
    """Outcomes of all calls, printed at the end."""
    counter = Counter()
    yield counter
    print(f"\n{counter.total()} wrong calls: " + ", ".join(f"{n} {kind}" for kind, n in counter.items()))


@pytest.mark.parametrize(("function", "right", "own"), CALLS, ids=[row[0].__name__ for row in CALLS])
def test_every_wrong_call_is_refused_in_a_sentence(function, right, own, counts):
    bad = []
    for name, value in wrong_calls(function, right, own):
        kind, said = outcome(function, name, right | {name: value})
        counts[kind] += 1
        if kind != "refused":
            bad.append(f"{kind}: {name}={value!r:.60}: {said:.200}")
    assert not bad, "\n".join(bad)


def test_there_are_many_of_every_public_function():
    rooms = (mj, datasets, fitting, models, plotting)
    public = [getattr(room, name) for room in rooms for name in dir(room) if name[0] != "_"]
    functions = [f for f in public if inspect.isfunction(f)]
    assert {f.__name__ for f in functions} - {row[0].__name__ for row in CALLS} == set()
    assert sum(len(list(wrong_calls(*row))) for row in CALLS) > 4000


# --- numbers of NumPy and JAX, lists for tuples ------------------------------------------------------------

MEASURED = {"points_or_manifold": RING, "grid": GRID, "noise": 0.5, "tolerance": 0.25, "block_size": 8}
RIGHT = [
    (mj.Axis, {"name": "t", "start": 0.0, "stop": 2.0, "size": 8, "periodic": True}),
    (datasets.circle, {"radius": 2.0, "size": 8}),
    (datasets.flat_torus, {"dimension": 2, "radii": (1.0, 2.0), "size": (4, 6)}),
    (datasets.sphere, {"dimension": 2, "radius": 2.0, "size": 4}),
    (datasets.ellipse, {"semi_axes": (2.0, 1.0), "size": 8}),
    (datasets.sprite, {"factors": ("x",), "size": 16, "blur": 2.0, "full_turn": False}),
    (datasets.farthest_points, {"points": CLOUD, "count": 3, "start": 1}),
    (datasets.train_test_split, {"key": KEY, "count": 8, "test_fraction": 0.25}),
    (mj.measure, MEASURED | {"accuracy": 4, "stride": 1, "smooth": 0, "exact": False}),
    (mj.measure, MEASURED | {"accuracy": (4,), "stride": (1,), "smooth": (0,)}),
    (mj.reach, {"points_or_manifold": RING, "grid": GRID, "longest": 4.0, "periods": 1, "tile_size": 8}),
    (mj.christoffel, {"gram": GRAM, "kind": 1}),
    (mj.local_data_rank, INPUT | {"rtol": 0.25, "batch_size": 2}),
    (mj.label_keeping_projection, INPUT | {"v": X, "label": 2}),
    (mj.horizontal_path, ENDS | {"step_size": 0.25, "tolerance": 0.5, "clip": (0.0, 1.0), "save_every": 2}),
    (fitting.nearest_neighbours, {"samples": CLOUD, "queries": CLOUD, "count": 2, "block_size": 4}),
    (fitting.explicit, {"rate": RATE, "dimension": 2, "constant": 0.5}),
    (fitting.smooth_rate, {"what": "hausdorff", "k": 3, "side": "lower"}),
    (models.train, TRAIN | {"chunk": 2, "save_at": (1,), "save_every": 1}),
    (models.LeNet, {"classes": 4}),
    (models.BetaVAE, {"size": 16, "latent": 2, "width": 2, "hidden": 4}),
    (fitting.local_quadratic_fit, SAMPLES | {"radius": 8.0, "intercept": True}),
    (mj.reach_from_samples, SAMPLES),
]
CONVERSIONS = {
    "NumPy": {int: np.uint8, float: np.float32, bool: np.bool_, str: np.str_},
    "JAX": {int: jnp.int32, float: jnp.float32, bool: jnp.bool_},
    "lists": {tuple: list},
}


def converted(value, kinds):
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return kinds.get(type(value), type(value))(converted(entry, kinds) for entry in value)
    return kinds.get(type(value), lambda same: same)(value)


def parts(result):
    """What of a result is compared: numbers and texts."""
    if isinstance(result, mj.Manifold):
        return result.name, result.grid, dict(result.attributes), result.embedding(jnp.ones(result.grid.ndim))
    if isinstance(result, fitting.Rate):
        return result.name, result.exponent(2)
    return nnx.to_pure_dict(nnx.state(result, nnx.Param)) if isinstance(result, nnx.Module) else result


@pytest.mark.parametrize("kind", CONVERSIONS)
@pytest.mark.parametrize(("function", "arguments"), RIGHT, ids=[row[0].__name__ for row in RIGHT])
def test_numbers_of_other_libraries_give_the_same(function, arguments, kind):
    given = {name: converted(value, CONVERSIONS[kind]) for name, value in arguments.items()}
    network = inspect.isclass(function) and issubclass(function, nnx.Module)
    make = partial(drawn, function) if network else function
    expected, result = parts(make(**arguments)), parts(make(**given))
    assert jax.tree.structure(result) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        same = (
            a == b if isinstance(b, str | mj.Grid) else np.array_equal(a, b, np.asarray(b).dtype.kind == "f")
        )
        assert same, (a, b)


# --- memory, and functions checked like arrays -------------------------------------------------------------


def flat_log_prob(x):
    return jax.nn.log_softmax(jnp.ravel(x)[:4])


IMAGE = np.zeros((224, 224, 3), np.float32)
VAST = mj.Grid(tuple(mj.Axis(name, 0, 1, 2000) for name in "abc"))
LARGE = {
    "local_data_matrix": (lambda: mj.local_data_matrix(flat_log_prob, IMAGE), "84.4 GB.*local_data_spectrum"),
    "horizontal_path": (
        lambda: mj.horizontal_path(flat_log_prob, IMAGE, IMAGE + 1),
        "5002 saved points.*save_every",
    ),
    "vertical_walk": (
        lambda: mj.vertical_walk(flat_log_prob, IMAGE, KEY, steps=10**6),
        "saved points.*save_every",
    ),
    "measure": (lambda: mj.measure(lambda u: u, VAST), "results on 8000000000 points.*fewer samples"),
    "reach": (lambda: mj.reach(lambda u: u, VAST), "8000000000 points.*fewer samples"),
    "sample_uniform": (
        lambda: datasets.sample_uniform(KEY, CIRCLE, 10**12),
        "count=1000000000000.*take fewer",
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_memory_is_refused_before_it_is_asked_for(name, monkeypatch):
    monkeypatch.setattr(_checks, "memory_left", lambda: 2.0**31)
    call_it, said = LARGE[name]
    with pytest.raises(
        ValueError, match=rf"^{name}: .* take .* GB of memory, and 2 GB are left: .*"
    ) as error:
        call_it()
    assert re.search(said, str(error.value)), error.value


WIDE = {
    "stride": ({"stride": 9}, "'t' has 16 samples; order 4 at stride 9 needs at least 37"),
    "smooth": ({"smooth": 9}, "'t' has 16 samples; order 4 at stride 1 and smooth=9 needs at least 19"),
    "grid": ({"grid": PLANE}, "grid must have 1 axes as 'circle' has|points have shape"),
}


@pytest.mark.parametrize("points", [CIRCLE, circle, RING], ids=["manifold", "function", "array"])
@pytest.mark.parametrize("name", ["stride", "smooth"])
def test_functions_are_checked_like_arrays(name, points):
    options, said = WIDE[name]
    with pytest.raises(ValueError, match=said):
        mj.measure(points, GRID, **options)


@pytest.mark.parametrize("ask", [mj.measure, mj.reach])
@pytest.mark.parametrize("points", [CIRCLE, RING], ids=["manifold", "array"])
def test_a_curve_on_a_grid_of_two_axes_is_refused(points, ask):
    with pytest.raises(ValueError, match=WIDE["grid"][1]):
        ask(points, PLANE)


# --- the command line -------------------------------------------------------------------------------------

BASES = {
    "measure": ["torus"],
    "inspect": ["points.npy"],
    "leaf": ["rank"],
    "layers": ["evolution"],
    "bounds": ["toys"],
    "calibrate": [],
}
OF_SPRITES = ("shape", "layout", "axes", "size", "samples", "ranges", "fixed", "blur")
WRONG_TEXTS = {
    int: ("no", "2.5", "-1", "nan", "", "1" + 40 * "0"),
    float: ("no", "nan", "inf", "-1", ""),
    str: ("unknown", "", "\u20ac=\u20ac"),
    Path: ("/dev/null/none",),
    bool: (),
}
"""By type of option."""


def options_of(command):
    """Options of a command and their types, from the signature of its function."""
    module = importlib.import_module(cli.COMMANDS[command][0])
    for name, parameter in inspect.signature(
        getattr(module, f"{command}_command"), eval_str=True
    ).parameters.items():
        annotated, option = get_args(parameter.annotation)[:2]
        kinds = [
            t
            for outer in (annotated, *get_args(annotated))
            for t in (outer, *get_args(outer))
            if t in WRONG_TEXTS
        ]
        if isinstance(option, typer.models.OptionInfo):
            decls = [d for d in option.param_decls or () if d.startswith("--")]
            yield name, (decls or [f"--{name.replace('_', '-')}"])[0].split("/")[0], kinds[0]


class AcceptedError(Exception):
    """A command went on to its work."""


@contextlib.contextmanager
def at_work(_):
    raise AcceptedError
    yield


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_wrong_option_is_refused_before_the_work(command, counts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("points.npy", RING)
    module = importlib.import_module(cli.COMMANDS[command][0])
    for place in (module, terminal):
        if hasattr(place, "results_folder"):
            monkeypatch.setattr(place, "results_folder", at_work)
    bad, app = [], cli.application(command)
    for name, option, kind in options_of(command):
        base = ["sprites"] if command == "measure" and name in OF_SPRITES else BASES[command]
        base = ["coil20"] if command == "measure" and name in ("data", "object_id") else base
        for value in WRONG_TEXTS[kind]:
            result = CliRunner().invoke(app, [command, *base, f"{option}={value}"])
            said = " ".join(result.output.split())
            kind_of = (
                "accepted"
                if isinstance(result.exception, AcceptedError) or not result.exit_code
                else "refused"
            )
            if (
                result.exit_code != 2
                or "Traceback" in said
                or not any(n in said for n in (option, name, f"got {value!r}", "/dev/null/none"))
            ):
                kind_of = "unclear" if kind_of == "refused" else kind_of
            counts[kind_of] += 1
            if kind_of != "refused":
                bad.append(f"{kind_of}: {option}={value}: {said:.200} {result.exception!r:.100}")
    assert not bad, "\n".join(bad)
