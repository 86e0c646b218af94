"""The studies of ``manifold-jax bounds`` as data: what is fitted, how often, and what is shown of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array

from manifold_jax._checks import choice, optional, positive, whole
from manifold_jax._files import Progress
from manifold_jax._linalg import matmul
from manifold_jax.datasets import circle, coil20, sample_uniform, sphere, torus, two_moons
from manifold_jax.datasets.sampling import map_points, volume_elements
from manifold_jax.experiments.experiment import Experiment, Outcome
from manifold_jax.experiments.fits.figures import (
    FEW_FIGURE3,
    FEW_FIGURE4,
    FEW_FIGURE5,
    FIGURE3,
    FIGURE4,
    FIGURE5,
    LATTICES,
    lattices,
    show_figure3,
    show_figure4,
    show_figure5,
)
from manifold_jax.experiments.fits.outcomes import show_ambient, show_boundary, show_reach, show_slopes
from manifold_jax.experiments.fits.report import Results, trend_of
from manifold_jax.experiments.fits.runner import FITS, SHARES, Plan, run_cells
from manifold_jax.experiments.fits.samples import NOISES, Setting, add_noise, known_setting
from manifold_jax.experiments.results import Cells, cell_name
from manifold_jax.experiments.sprites import draw, ends, sprite_charts
from manifold_jax.geometry import Axis, Grid, Manifold, reach_from_samples

LATTICE = 32  # points along each axis of a surface, for its radius and for where distances to it start
MAJOR = 2.0  # major radius of the tori
LEAST_TESTS = 8  # fewer test points say nothing about a maximum
MEASURED = 1000  # images of which volume and reach are measured, at most


Settings = Callable[[Plan], list[Setting]]
"""What is fitted, for a plan; it raises ValueError for one that makes no sense."""

_OF_ALL = ("fits", "sizes", "seeds", "tests", "steps")
_FIGURE = ("data", "dimensions", "path", "shares")
_OWN = {"images": _FIGURE[:3], "toys": ("noises", "noise"), "ambient": ("noise",)}
_OWN |= {"figure3": _FIGURE, "figure4": _FIGURE, "figure5": (*_FIGURE, "image_seeds")}
"""Options of the command line that all studies have, and those that only one study has."""


def check_plan(settings: Settings, plan: Plan) -> None:
    """Refuse unknown fits, numbers out of range and too few samples before anything starts."""
    for fit in plan.fits:
        choice("bounds", "fits", fit, FITS)
    for option, least in (("seeds", 2), ("tests", LEAST_TESTS), ("steps", 1)):
        whole("bounds", option, getattr(plan, option), least)
    optional(whole, "bounds", "image_seeds", plan.image_seeds, 2)
    for share in plan.shares:
        positive("bounds", "shares", share, below=1.0 + 1e-9)
    if len(set(plan.sizes)) != len(plan.sizes) or min(plan.sizes, default=2) < 2:
        raise ValueError(f"bounds: sizes must be different whole numbers from 2, got {plan.sizes}.")
    for setting in settings(plan):
        for fit in plan.fits:
            if not plan.sizes_of(fit, setting):
                least = FITS[fit].least(setting.dimension, setting.images)
                needs = f"{fit} needs at least {least} samples for d = {setting.dimension}"
                raise ValueError(f"bounds: {needs}: raise --sizes.")


def _study(
    name: str, about: str, settings: Settings, show: Callable[[Results], Outcome], full: Plan, reduced: Plan
) -> Experiment:
    """An experiment: the errors of fits of the settings of a plan, and what is shown of them.

    The context of a run is the folder where finished cells are kept, the seed of all random choices, and the
    executor that computes them, or None.
    """

    def run(context: tuple[Path, int, Any], plan: Plan, progress: Progress) -> Outcome:
        folder, seed, executor = context
        with jax.enable_x64(True):  # errors of h^4 leave single precision early
            # Figures share some cells.
            cells = Cells(folder / f"{'figures' if plan.shares else name}.cells.jsonl", executor)
            measured = [measure_setting(setting, plan, seed, cells) for setting in settings(plan)]
            series = run_cells(measured, plan, cells, seed=seed, make=settings, progress=progress)
            trends = [trend_of(one, of, seed) for one in series for of in one.values if of not in SHARES]
            return show(Results(name, measured, plan, seed, trends))

    def change(plan: Plan, option: str, value: Any) -> Plan | None:
        if option not in (*_OF_ALL, *_OWN.get(name, ())):
            return None
        if option == "sizes" and not plan.sizes:  # shares of a lattice
            return None
        of_networks = {f"network_{option}": value} if option in ("sizes", "seeds") else {}
        return plan._replace(**{option: value}, **of_networks)

    return Experiment(about, full, reduced, run, partial(check_plan, settings), change=change)


TOYS: dict[str, Callable[[], Any]] = {
    "circle": circle,
    "moons": two_moons,
    "sphere": partial(sphere, 2, size=LATTICE),
    "torus": partial(torus, size=LATTICE),
}


def toys(plan: Plan) -> list[Setting]:
    """All toys without noise, some of them with each noise."""
    plain = [known_setting(name, make()) for name, make in TOYS.items()]
    return [
        add_noise(setting, noise, plan.noise)
        for noise in plan.noises
        for setting in plain
        if noise == "none" or setting.name in plan.with_noise
    ]


def toys_and_lattices(plan: Plan) -> list[Setting]:
    """Toys with test points far apart, and unions of images."""
    return [*(replace(setting, farthest=True) for setting in toys(plan)), *lattices(plan)]


FACTORS = {"sprites": ("orientation", "scale", "y", "x"), "coil20": ("view", "zoom", "rotation")}
"""Data sets of images, and their factors: a manifold of dimension d has the first d."""


DATA = tuple(dict.fromkeys((*FACTORS, *LATTICES)))
"""Names of all data sets of images."""


def images(plan: Plan) -> list[Setting]:
    """One shape or object with its first factors, for each data set and dimension."""
    settings = []
    for data in plan.data:
        choice("bounds", "data", data, FACTORS)
        for dimension in plan.dimensions[data]:
            whole("bounds", f"a dimension of {data}", dimension, 1, len(FACTORS[data]))
            manifold = _image_manifold(data, dimension, plan.pixels, plan.path)
            settings.append(Setting(f"{data} {dimension}", (manifold,), farthest=True))
    return settings


@cache
def _image_manifold(data: str, dimension: int, pixels: int, path: Path | None) -> Manifold:
    factors = FACTORS[data][:dimension]
    samples: dict[str, int] = dict.fromkeys(factors, {1: 128, 2: 32, 3: 12, 4: 8}[dimension])
    if data == "coil20":
        return coil20(path, 1, factors=factors, size=pixels, sizes=samples)
    return sprite_charts(("ellipse",), pixels, 3.0 * pixels / 32, factors, samples)[0]


def measure_setting(setting: Setting, plan: Plan, seed: int, cells: Cells) -> Setting:
    """With volume and reach, where these are not known in closed form.

    The volume is the mean volume element at uniform chart points times the size of the chart; the reach the
    plug-in of Federer's ratio at points uniform by volume with exact tangents, which is never too small.
    """
    if not math.isnan(setting.volume):
        return setting
    count = (MEASURED if setting.grids else min(MEASURED, plan.largest)) // len(setting.parts)
    name = cell_name(measured=setting.name, identity=setting.identity, seed=seed, count=count)
    if name not in cells:
        cells.put(name, _volume_and_reach(setting, count, seed))
    return replace(setting, **cells[name])


def _volume_and_reach(setting: Setting, count: int, seed: int) -> dict[str, float]:
    """From so many points of every part."""
    key, volume, points, tangents = jax.random.key(seed), 0.0, [], []
    for part in setting.parts:
        elements = volume_elements(part, draw(key, part, count))
        volume += float(np.mean(elements)) * float(np.prod(np.diff(ends(part), axis=0)))
        samples = sample_uniform(jax.random.fold_in(key, 1), part, count)
        jacobians = map_points(part, jax.jacfwd(part.embedding), samples.coordinates)
        tangents.append(np.moveaxis(np.asarray(jacobians), -1, 1))
        points.append(np.asarray(samples.points))
    every = np.concatenate(points), np.concatenate(tangents)
    reach = reach_from_samples(*every, dimension=setting.dimension, noise=0.0)
    return {"volume": volume, "reach": float(reach.value)}


def tori(plan: Plan) -> list[Setting]:
    """Tori of several minor radii, which are their reach."""
    return [known_setting(f"r = {r:g}", torus(MAJOR, r, size=LATTICE), stream="torus") for r in plan.values]


def embedded_tori(plan: Plan) -> list[Setting]:
    """The torus in R^3, R^10, ... R^1000: the same chart points, without noise and with ambient noise."""
    base = torus(size=LATTICE)
    plain = [
        known_setting(f"D = {int(d)}", embed_isometrically(base, int(d)), stream="torus") for d in plan.values
    ]
    return [*plain, *(add_noise(setting, "ambient", plan.noise) for setting in plain)]


def embed_isometrically(manifold: Manifold, dimension: int) -> Manifold:
    """A manifold of features ``(f,)`` in R^D, D at least f, by a random map with orthonormal columns."""
    matrix = np.random.default_rng(0).standard_normal((dimension, manifold.feature_shape[0]))
    columns = jnp.asarray(np.linalg.qr(matrix)[0], float)
    embedding = Partial(_embed, manifold.embedding, columns)
    return Manifold(manifold.name, embedding, manifold.grid, manifold.known, manifold.attributes)


def _embed(embedding: Any, columns: Array, u: Array) -> Array:
    return matmul(columns, embedding(u))


def closed_and_open(_plan: Plan) -> list[Setting]:
    """The circle and half of it, the torus and a quarter of it, u and v in [0, pi]."""
    ring, tube = circle(), torus(size=LATTICE)
    arc = open_axes("arc", ring, math.pi)
    patch = open_axes("patch", tube, math.pi**2 * MAJOR * 0.5)  # cos v is odd about pi / 2
    return [known_setting("circle", ring), arc, known_setting("torus", tube), patch]


def open_axes(name: str, manifold: Manifold, volume: float) -> Setting:
    """The half of every axis of a closed manifold, with open ends; ``volume`` is that of this patch."""
    axes = tuple(
        Axis(a.name, a.start, (a.start + a.stop) / 2, a.size, unit=a.unit) for a in manifold.grid.axes
    )
    reach: Any = manifold.known["reach"]  # the smallest ball that touches is no smaller on a part
    patch = Manifold(name, manifold.embedding, Grid(axes))
    return Setting(name, (patch,), volume, float(reach), open_ends=True)


_LOCAL = ("pca", "mmls1", "mmls2", "mmls3")
_DOUBLING = (125, 250, 500, 1000, 2000, 4000, 8000)
_QUARTERS = (5, 9, 16, 28, 50, 89, 158, 281, 500, 889, 1581, 2812, 5000)  # four to a factor of ten
_RADII = (0.1, 0.147, 0.215, 0.316, 0.464, 0.681, 1.0)
_FIGURE5 = FIGURE5._replace(sizes=_QUARTERS)
_FEW_FIGURE5 = FEW_FIGURE5._replace(sizes=(20, 75, 278, 1036))
_USUAL = tuple(name for name in FITS if name != "vae-b")
_TOYS = Plan(
    _USUAL, _QUARTERS, network_sizes=(20, 100, 500, 1000, 5000), noises=NOISES, with_noise=tuple(TOYS)
)
_FEW_TOYS = _TOYS._replace(seeds=4, tests=100, steps=1000, network_sizes=(20, 200, 2000), network_seeds=2)
_FEW_TOYS = _FEW_TOYS._replace(sizes=(20, 39, 75, 144, 278, 537, 1036, 2000), with_noise=("circle",))
_EVERY = {data: tuple(range(1, len(factors) + 1)) for data, factors in FACTORS.items()}
_MANY = (500, 1000, 2500, 5000, 10_000, 25_000, 50_000)
_IMAGES = Plan(_USUAL, _MANY, 3, steps=20_000, network_sizes=(500, 5000, 50_000), data=tuple(FACTORS))
_IMAGES = _IMAGES._replace(dimensions=_EVERY)
_FEW_IMAGES = _IMAGES._replace(fits=("pca", "ref", "mmls1", "mmls2", "dae"), sizes=(50, 100, 300, 1000))
_FEW_IMAGES = _FEW_IMAGES._replace(tests=100, steps=150, network_sizes=(100, 1000), pixels=16)
_FEW_IMAGES = _FEW_IMAGES._replace(data=("sprites",), dimensions={"sprites": (1, 2), "coil20": (1,)})
_REACH = Plan((*_LOCAL, "dae"), _DOUBLING, values=_RADII)
_FEW_REACH = Plan(_LOCAL[:3], (250, 1000, 4000), 3, 100, values=(0.1, 0.215, 0.464, 1.0))
_AMBIENT = Plan(_LOCAL, (500, 2000), values=(3, 10, 30, 100, 300, 1000))
_FEW_AMBIENT = Plan(("pca", "mmls2"), (1000,), 3, 100, values=(3, 30, 300, 1000))
_BOUNDARY = Plan(_LOCAL, (20, 40, 80, 159, 316, 631, 1257, 2507, 5000))
_FEW_BOUNDARY = Plan(_LOCAL[:3], (60, 144, 346, 832, 2000), 4, 200)

EXPERIMENTS = {
    row[0]: _study(*row)
    for row in (
        ("toys", "errors against n on circle, moons, sphere, torus", toys, show_slopes, _TOYS, _FEW_TOYS),
        ("images", "the same on images, sprites and COIL-20", images, show_slopes, _IMAGES, _FEW_IMAGES),
        ("reach", "tori of several reach", tori, show_reach, _REACH, _FEW_REACH),
        ("ambient", "a torus in R^D for several D", embedded_tori, show_ambient, _AMBIENT, _FEW_AMBIENT),
        ("boundary", "open against periodic axes", closed_and_open, show_boundary, _BOUNDARY, _FEW_BOUNDARY),
        ("figure3", "sprites of 1 to 4 factors", lattices, show_figure3, FIGURE3, FEW_FIGURE3),
        ("figure4", "a beta-VAE on sprites", lattices, show_figure4, FIGURE4, FEW_FIGURE4),
        ("figure5", "toys, sprites, COIL-20", toys_and_lattices, show_figure5, _FIGURE5, _FEW_FIGURE5),
    )
}
