"""Manifolds of the coverage benchmark, none of which the error bars were tuned on.

Every chart is [0, 1]^d and all share few lattices, so that compiled programs are shared; features are filled
up with zeros to the width of the lattice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import manifold_jax as mj
from manifold_jax import datasets

TURN = 2 * math.pi
PLAIN, IMAGE = 50, 1024
"""Features of an array: of formulas, and of images of 32 x 32 pixels."""

OBJECTS = 1, 4, 13
"""Of COIL-20."""


class Lattice(NamedTuple):
    """Samples of every axis, whether it is periodic, its length, and the width of the features."""

    sizes: tuple[int, ...]
    periodic: tuple[bool, ...]
    lengths: tuple[float, ...]
    features: int = PLAIN

    @property
    def grid(self) -> mj.Grid:
        """The grid of the package."""
        columns = zip("abcd", self.sizes, self.periodic, self.lengths, strict=False)
        return mj.Grid(tuple(mj.Axis(name, 0.0, stop, n, periodic=p) for name, n, p, stop in columns))


def lattice(sizes: int | tuple[int, ...], kinds: str, features: int = PLAIN, lengths: Any = None) -> Lattice:
    """A lattice from its samples and a letter for each axis, p(eriodic) or o(pen)."""
    sizes = (sizes,) * len(kinds) if isinstance(sizes, int) else sizes
    return Lattice(sizes, tuple(k == "p" for k in kinds), lengths or (1.0,) * len(kinds), features)


LATTICES = {
    "closed curve": lattice(96, "p"),
    "arc": lattice(65, "o"),
    "torus 33": lattice(33, "pp"),
    "torus 48": lattice(48, "pp"),
    "zone": lattice((41, 40), "op"),
    "patch 20": lattice(20, "oo"),
    "patch 41": lattice(41, "oo"),
    "scaled": lattice(48, "pp", lengths=(1e-3, 1e3)),
    "images": lattice((96, 17), "po", IMAGE),
    "3-torus": lattice(16, "ppp"),
    "3-zone": lattice((17, 16, 16), "opp"),
    "4-torus": lattice((12, 12, 8, 8), "pppp"),
}


class Case(NamedTuple):
    """A manifold: its name, group, lattice and function of one chart point; images are made when needed."""

    name: str
    group: str
    lattice: str
    make: Callable[[], Callable[[jax.Array], jax.Array]]


def circles(*angles: Any) -> list[Any]:
    return [f(a) for a in angles for f in (jnp.cos, jnp.sin)]


def fourier(coefficients: jax.Array, modes: jax.Array, u: jax.Array) -> jax.Array:
    """A random trigonometric polynomial."""
    angles = TURN * modes @ u
    return coefficients @ jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])


def fourier_case(dimension: int, highest: int, decay: float, seed: int) -> Callable[[], Callable]:
    """Random Fourier manifold in R^50 with modes up to ``highest``, of amplitude |k|^-decay, 24 of them."""

    def make() -> Callable:
        generator = np.random.default_rng(seed)
        modes = generator.integers(-highest, highest + 1, (24, dimension))
        modes[:dimension] = np.eye(dimension)
        amplitudes = np.tile(np.maximum(np.linalg.norm(modes, axis=1), 1) ** -decay, 2)
        coefficients = generator.normal(size=(PLAIN, 48)) * amplitudes
        return Partial(fourier, jnp.asarray(coefficients), jnp.asarray(modes, float))

    return make


# Curves.
def ellipse(u):
    t = TURN * u[0] + 0.3 * jnp.sin(TURN * u[0])
    return [3 * jnp.cos(t), jnp.sin(t)]


def trefoil(u):
    t = TURN * u[0]
    return [jnp.sin(t) + 2 * jnp.sin(2 * t), jnp.cos(t) - 2 * jnp.cos(2 * t), -jnp.sin(3 * t)]


def helix(u):
    return [jnp.cos(5 * u[0]), jnp.sin(5 * u[0]), 2 * u[0]]


def spiral(u):
    return [jnp.exp(u[0]) * jnp.cos(6 * u[0]), jnp.exp(u[0]) * jnp.sin(6 * u[0])]


def catenary(u):
    return [2 * u[0] - 1, jnp.cosh(2 * u[0] - 1)]


def cusp(u):
    t = 2 * u[0] - 1
    return [t**2, t**3, 0.5 * t**2 - t**4]


def bump_curve(u):
    t = TURN * u[0]
    r = 1 + 0.3 * jnp.exp(-(jnp.sin(t / 2 - 1) ** 2) / 0.02)
    return [r * jnp.cos(t), r * jnp.sin(t)]


def kink(x, power):
    """x^power where x > 0: of smoothness C^1 for power 2, C^2 for 3."""
    return jnp.maximum(x, 0.0) ** power


def power_curve(power, u):
    t = TURN * u[0]
    return [jnp.cos(t), jnp.sin(t), 0.5 * kink(jnp.sin(t + 0.4), power)]


# Closed surfaces.
def torus(u, big=2.0, r=0.5, warp=0.0):
    t = TURN * u + warp * jnp.sin(TURN * u)
    ring = big + r * jnp.cos(t[1])
    return [ring * jnp.cos(t[0]), ring * jnp.sin(t[0]), r * jnp.sin(t[1])]


def clifford(u):
    return circles(*(TURN * u + 0.3 * jnp.sin(TURN * u)))


def lawson(u):
    s, t = TURN * u
    return [
        jnp.cos(2 * s) * jnp.cos(t),
        jnp.sin(2 * s) * jnp.cos(t),
        jnp.cos(s) * jnp.sin(t),
        jnp.sin(s) * jnp.sin(t),
    ]


def klein(u):
    s, t = TURN * u
    ring = 2 + 0.7 * jnp.cos(t)
    return [
        ring * jnp.cos(2 * s),
        ring * jnp.sin(2 * s),
        0.7 * jnp.sin(t) * jnp.cos(s),
        0.7 * jnp.sin(t) * jnp.sin(s),
    ]


def bumpy_torus(u):
    s, t = TURN * u
    r = 0.6 + 0.15 * jnp.cos(3 * s) * jnp.sin(2 * t)
    ring = 2 + r * jnp.cos(t)
    return [ring * jnp.cos(s), ring * jnp.sin(s), r * jnp.sin(t)]


def bent_tube(u):
    s, t = TURN * u
    ring = 1.5 + 0.4 * jnp.cos(t) + 0.3 * jnp.cos(2 * s)
    return [
        ring * jnp.cos(s),
        ring * jnp.sin(s),
        0.4 * jnp.sin(t) + 0.3 * jnp.sin(2 * s),
        0.2 * jnp.cos(s + t),
    ]


def power_torus(power, u):
    s, t = TURN * u
    return [*torus(u), 0.3 * kink(jnp.sin(s + 0.7), power) + 0.2 * kink(jnp.cos(t - 0.3), power)]


def ridge(u):
    s, t = TURN * u
    return [*torus(u), 0.3 * jnp.exp(-(jnp.sin((s - t) / 2 - 0.4) ** 2) / 0.01)]


def folded_fourier(smooth, direction, u):
    return smooth(u) + direction * jnp.abs(jnp.sin(TURN * (u[0] - 0.237)))


def folded_case(size: float, seed: int) -> Callable[[], Callable]:
    """A random Fourier surface with a fold along a line, in a direction of all features."""

    def make() -> Callable:
        direction = size * np.random.default_rng(seed).normal(size=PLAIN)
        return Partial(folded_fourier, fourier_case(2, 3, 2.0, seed)(), jnp.asarray(direction))

    return make


# Surfaces with poles, zones between, and other surfaces with one periodic axis.
def sphere(u):
    p, a = math.pi * u[0], TURN * u[1]
    return [jnp.sin(p) * jnp.cos(a), jnp.sin(p) * jnp.sin(a), jnp.cos(p)]


def ellipsoid(u):
    x, y, z = sphere(u)
    return [1.5 * x, 1.2 * y, z]


def veronese(u):
    x, y, z = sphere(u)
    root = 3**0.5
    return [
        root * y * z,
        root * z * x,
        root * x * y,
        root * (x * x - y * y) / 2,
        (2 * z * z - x * x - y * y) / 2,
    ]


def superellipsoid(u):
    p, a = math.pi * (u[0] - 0.5), TURN * u[1]

    def power(x):
        return jnp.sign(x) * jnp.abs(x) ** 1.5

    return [power(jnp.cos(p)) * power(jnp.cos(a)), power(jnp.cos(p)) * power(jnp.sin(a)), power(jnp.sin(p))]


def zone(u):
    return ellipsoid(jnp.stack([0.15 + 0.6 * u[0], u[1] + 0.04 * jnp.sin(TURN * u[1])]))


def catenoid(u):
    z, a = 2.4 * u[0] - 1, TURN * u[1]
    return [jnp.cosh(z) * jnp.cos(a), jnp.cosh(z) * jnp.sin(a), z]


def hyperboloid(u):
    z, a = 2 * u[0] - 0.7, TURN * u[1]
    return [jnp.cosh(z) * jnp.cos(a), 1.3 * jnp.cosh(z) * jnp.sin(a), jnp.sinh(z)]


def cone(u):
    """A cone with its apex, a degenerate chart and a singular point."""
    return [u[0] * jnp.cos(TURN * u[1]), u[0] * jnp.sin(TURN * u[1]), 0.8 * u[0]]


# Patches.
def helicoid(u):
    v, a = 3 * u[0] - 1.5, 4 * u[1]
    return [v * jnp.cos(a), v * jnp.sin(a), a]


def enneper(u):
    s, t = 2.4 * u - 1.2
    return [s - s**3 / 3 + s * t**2, t - t**3 / 3 + t * s**2, s**2 - t**2]


def monkey_saddle(u):
    s, t = 2 * u - 0.9
    return [s, t, s**3 / 3 - s * t**2]


def swiss_roll(u):
    t = 1.5 * math.pi * (1 + 2 * u[0] * 0.7)
    return [t * jnp.cos(t), 10 * u[1], t * jnp.sin(t)]


def sphere_patch(u):
    return sphere(jnp.stack([0.1 + 0.5 * u[0] + 0.1 * u[0] ** 2, 0.1 + 0.6 * u[1] - 0.1 * u[0] * u[1]]))


def paraboloid(u):
    s, t = 2 * u - 1
    return [s, t, s**2 + 0.5 * t**2 + 0.3 * s * t]


def whitney_umbrella(u):
    s, t = 2 * u - 1
    return [s * t, s, t**2]


def cuspidal_edge(u):
    s, t = 2 * u - 1
    return [s**2, s**3, t, s * t**2 / 2]


def power_patch(power, u):
    s, t = 2 * u - 1
    return [s, t, kink(s - 0.13, power) + 0.5 * t**2]


def scaled_torus(u):
    return torus(u * jnp.asarray([1e3, 1e-3], u.dtype))


# Three and four dimensions.
def warped_radii(u):
    """Torus of three or four dimensions in R^6 or R^8."""
    r = 1 + 0.3 * jnp.cos(TURN * u[0])
    return [*circles(TURN * u[0]), *(r * x for x in circles(*(TURN * u[1:])))]


def tube(u):
    s, t, p = TURN * u
    ring = 3 + (1 + 0.4 * jnp.cos(p)) * jnp.cos(t)
    return [ring * jnp.cos(s), ring * jnp.sin(s), (1 + 0.4 * jnp.cos(p)) * jnp.sin(t), 0.4 * jnp.sin(p)]


def hopf(eta, u):
    (p, q) = TURN * u[1:]
    return [
        jnp.sin(eta) * jnp.cos(p),
        jnp.sin(eta) * jnp.sin(p),
        jnp.cos(eta) * jnp.cos(q),
        jnp.cos(eta) * jnp.sin(q),
    ]


def hopf_sphere(u):
    return hopf(math.pi / 2 * u[0], u)


def hopf_zone(u):
    return hopf(0.3 + 0.9 * u[0], u)


def formula(function: Callable, *parameters: float) -> Callable[[], Callable]:
    """The case of a function that lists its coordinates."""
    return lambda: Partial(lambda u: jnp.stack(function(*parameters, u)))


def _image(embedding: Callable, starts: jax.Array, lengths: jax.Array, u: jax.Array) -> jax.Array:
    return jnp.ravel(embedding(starts + lengths * u))


def rescaled(manifold: mj.Manifold) -> Callable:
    """The embedding of images over [0, 1]^2."""
    axes = manifold.grid.axes
    starts, stops = (jnp.asarray([getattr(axis, end) for axis in axes]) for end in ("start", "stop"))
    embedding = manifold.embedding
    embedding = embedding if isinstance(embedding, Partial) else Partial(embedding)
    return Partial(_image, embedding, starts, stops - starts)


def sprite_case(shape: str) -> Callable[[], Callable]:
    return lambda: rescaled(datasets.sprite(shape, factors=("orientation", "scale"), size=32))


def coil20_case(place: str | None, number: int) -> Callable[[], Callable]:
    factors = ("view", "zoom")
    return lambda: rescaled(datasets.coil20(place, number, factors=factors, size=32, blur=1.0))


def half_of(make: Callable[[], Callable]) -> Callable[[], Callable]:
    """A part with open axes."""

    def half(embedding: Callable, u: jax.Array) -> jax.Array:
        return embedding(0.05 + 0.45 * u)

    return lambda: Partial(half, make())


CASES = [
    Case("ellipse", "closed forms", "closed curve", formula(ellipse)),
    Case("trefoil", "closed forms", "closed curve", formula(trefoil)),
    Case("helix", "borders", "arc", formula(helix)),
    Case("spiral", "borders", "arc", formula(spiral)),
    Case("catenary", "borders", "arc", formula(catenary)),
    Case("cusp", "degenerate", "arc", formula(cusp)),
    Case("Fourier 1, k <= 4", "Fourier", "closed curve", fourier_case(1, 4, 1.5, 1)),
    Case("Fourier 1, k <= 10", "Fourier", "closed curve", fourier_case(1, 10, 2.5, 2)),
    Case("narrow bump", "limited smoothness", "closed curve", formula(bump_curve)),
    Case("C^1 curve", "limited smoothness", "closed curve", formula(power_curve, 2.0)),
    Case("C^2 curve", "limited smoothness", "closed curve", formula(power_curve, 3.0)),
    Case("torus", "closed forms", "torus 33", formula(torus)),
    Case("Lawson torus", "closed forms", "torus 33", formula(lawson)),
    Case("Klein bottle", "closed forms", "torus 33", formula(klein)),
    Case("warped torus", "closed forms", "torus 48", formula(partial(torus, warp=0.3))),
    Case("warped Clifford torus", "closed forms", "torus 48", formula(clifford)),
    Case("bumpy torus", "closed forms", "torus 48", formula(bumpy_torus)),
    Case("bent tube", "closed forms", "torus 48", formula(bent_tube)),
    Case("Fourier 2, k <= 3, first", "Fourier", "torus 33", fourier_case(2, 3, 2.0, 3)),
    Case("Fourier 2, k <= 3, second", "Fourier", "torus 33", fourier_case(2, 3, 2.0, 4)),
    Case("Fourier 2, k <= 4", "Fourier", "torus 48", fourier_case(2, 4, 1.5, 5)),
    Case("Fourier 2, k <= 8", "Fourier", "torus 48", fourier_case(2, 8, 3.0, 6)),
    Case("Fourier 2, k <= 20", "Fourier", "torus 48", fourier_case(2, 20, 3.0, 7)),
    Case("ridge", "limited smoothness", "torus 48", formula(ridge)),
    Case("C^1 torus", "limited smoothness", "torus 48", formula(power_torus, 2.0)),
    Case("C^2 torus", "limited smoothness", "torus 48", formula(power_torus, 3.0)),
    Case("x^2.5 torus", "limited smoothness", "torus 48", formula(power_torus, 2.5)),
    Case("folded Fourier 2", "limited smoothness", "torus 48", folded_case(0.1, 11)),
    Case("sphere", "poles", "zone", formula(sphere)),
    Case("ellipsoid", "poles", "zone", formula(ellipsoid)),
    Case("Veronese surface", "poles", "zone", formula(veronese)),
    Case("superellipsoid", "limited smoothness", "zone", formula(superellipsoid)),
    Case("zone of an ellipsoid", "borders", "zone", formula(zone)),
    Case("catenoid", "borders", "zone", formula(catenoid)),
    Case("hyperboloid", "borders", "zone", formula(hyperboloid)),
    Case("cone", "degenerate", "zone", formula(cone)),
    Case("helicoid", "borders", "patch 20", formula(helicoid)),
    Case("Enneper", "borders", "patch 20", formula(enneper)),
    Case("monkey saddle", "borders", "patch 20", formula(monkey_saddle)),
    Case("patch of a sphere, 20", "borders", "patch 20", formula(sphere_patch)),
    Case("Swiss roll", "borders", "patch 41", formula(swiss_roll)),
    Case("patch of a sphere, 41", "borders", "patch 41", formula(sphere_patch)),
    Case("paraboloid", "borders", "patch 41", formula(paraboloid)),
    Case("Fourier patch", "borders", "patch 41", half_of(fourier_case(2, 4, 1.5, 8))),
    Case("Whitney umbrella", "degenerate", "patch 41", formula(whitney_umbrella)),
    Case("cuspidal edge", "degenerate", "patch 41", formula(cuspidal_edge)),
    Case("x^2.5 patch", "limited smoothness", "patch 41", formula(power_patch, 2.5)),
    Case("torus on 1e-3 : 1e3", "scaled axes", "scaled", formula(scaled_torus)),
    *(Case(f"{s} sprite", "sprites", "images", sprite_case(s)) for s in ("square", "ellipse", "heart")),
    Case("3-torus", "closed forms", "3-torus", formula(warped_radii)),
    Case("tube", "closed forms", "3-torus", formula(tube)),
    Case("Fourier 3, k <= 2", "Fourier", "3-torus", fourier_case(3, 2, 2.0, 9)),
    Case("S^3", "poles", "3-zone", formula(hopf_sphere)),
    Case("zone of S^3", "borders", "3-zone", formula(hopf_zone)),
    Case("4-torus", "closed forms", "4-torus", formula(warped_radii)),
    Case("Fourier 4, k <= 1", "Fourier", "4-torus", fourier_case(4, 1, 2.0, 10)),
]


def cases(coil20: str | None = None) -> list[Case]:
    """Every manifold; objects of COIL-20 only where their archive is given."""
    objects = () if coil20 is None else OBJECTS
    return CASES + [Case(f"object {k}", "COIL-20", "images", coil20_case(coil20, k)) for k in objects]
