"""Largest normal curvature max |II(v, v)| over unit tangent vectors v, exact or between two bounds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax._linalg import rotation, safe_sqrt
from manifold_jax.geometry.tensors import JetGram, contract, pair_positions, pointwise, second_form_gram

ANGLES = 32  # samples of the curvature ellipse: eight for each of the at most four extrema of its radius
NEWTON_STEPS = 8  # steps from the best sample, which is close: more than quadratic convergence needs
FIRST_STEPS = 8  # steps of the power method from every start, which converge linearly
KEPT = 4  # the best of them then, which go on
ASCENT_STEPS = 24  # with so many more steps
POLISH_STEPS = 3  # steps to the largest eigenvector, each of which can only improve the direction
SWEEPS = 6  # sweeps of two-sided Jacobi, which converge quadratically: to rounding for small matrices


def _surface_maximum(c: Float[Array, "2 2 2 2"]) -> Float[Array, ""]:
    """Exact maximum of |II(v, v)|^2 on a surface.

    With v = (cos t, sin t) and phi = 2t, II(v, v) = H + A cos phi + B sin phi traces the curvature ellipse;
    its squared length is a trigonometric polynomial of degree 2: samples and Newton's method find its maxima.
    """
    hh = (c[0, 0, 0, 0] + 2 * c[0, 0, 1, 1] + c[1, 1, 1, 1]) / 4
    aa = (c[0, 0, 0, 0] - 2 * c[0, 0, 1, 1] + c[1, 1, 1, 1]) / 4
    bb = c[0, 1, 0, 1]
    ha = (c[0, 0, 0, 0] - c[1, 1, 1, 1]) / 4
    hb = (c[0, 0, 0, 1] + c[1, 1, 0, 1]) / 2
    ab = (c[0, 0, 0, 1] - c[1, 1, 0, 1]) / 2

    def squared_length(phi: Array) -> Array:
        cos, sin = jnp.cos(phi), jnp.sin(phi)
        return hh + aa * cos**2 + bb * sin**2 + 2 * (ha * cos + hb * sin + ab * cos * sin)

    def newton(_: int, phi: Array) -> Array:
        slope = -2 * ha * jnp.sin(phi) + 2 * hb * jnp.cos(phi)
        slope += (bb - aa) * jnp.sin(2 * phi) + 2 * ab * jnp.cos(2 * phi)
        second = -2 * ha * jnp.cos(phi) - 2 * hb * jnp.sin(phi)
        second += 2 * (bb - aa) * jnp.cos(2 * phi) - 4 * ab * jnp.sin(2 * phi)
        step = jnp.where(second < 0, slope / jnp.where(second < 0, second, 1.0), 0.0)
        return phi - jnp.clip(step, -0.2, 0.2)

    samples = jnp.asarray(np.arange(ANGLES) * (2 * np.pi / ANGLES), c.dtype)
    start = samples[jnp.argmax(squared_length(samples))]
    best = jax.lax.stop_gradient(jax.lax.fori_loop(0, NEWTON_STEPS, newton, start))
    start = jax.lax.stop_gradient(start)
    return jnp.maximum(squared_length(start), squared_length(best))


def _symmetric_eigenvectors(a: Float[Array, "d d"]) -> tuple[Float[Array, "d"], Float[Array, "d d"]]:
    """Eigenvalues and (in columns) eigenvectors of a small symmetric matrix, by Jacobi rotations.

    Under vmap this is one fused loop, whereas batched LAPACK calls are slow on accelerators.
    """
    d = a.shape[0]
    eye = jnp.eye(d, dtype=a.dtype)
    # A loop over the planes, not the planes one after the other: a third of the program to compile.
    planes = np.tile(np.stack(np.triu_indices(d, 1), axis=1), (SWEEPS, 1))

    def rotate(state: tuple[Array, Array], plane: Array) -> tuple[tuple[Array, Array], None]:
        a, vectors = state
        p, q = eye[plane]
        alpha, beta, gamma = (contract("ij,i,j->", a, *pair) for pair in ((p, p), (q, q), (p, q)))
        cos, sin = rotation(alpha, beta, gamma, gamma != 0)
        both, one = jnp.outer(p, p) + jnp.outer(q, q), jnp.outer(p, q)
        turn = eye + (cos - 1) * both + sin * (one - one.T)
        turned = contract("il,lj->ij", contract("ki,kl->il", turn, a), turn)
        return (turned, contract("ik,kj->ij", vectors, turn)), None

    (diagonal, vectors), _ = jax.lax.scan(rotate, (a, eye), jnp.asarray(planes))
    return jnp.diagonal(diagonal), vectors


def _top_eigenvector(a: Float[Array, "d d"]) -> Float[Array, "d"]:
    values, vectors = _symmetric_eigenvectors(a)
    return vectors[:, jnp.argmax(values)]


def _starts(c: Float[Array, "d d d d"], eigenvectors: Float[Array, "d d"]) -> Float[Array, "n d"]:
    """Starting directions: eigenvectors of C_ij = <II_ik, II_jk>, frame vectors, and generic ones.

    The generic ones matter where the manifold is symmetric: ascent cannot leave an invariant subspace.
    """
    d = c.shape[0]
    generic = np.random.default_rng(0).normal(size=(d * (d - 1), d))
    generic /= np.linalg.norm(generic, axis=1, keepdims=True)
    return jnp.concatenate([eigenvectors.T, jnp.asarray(np.concatenate([np.eye(d), generic]), c.dtype)])


def _best_direction(c: Float[Array, "d d d d"], eigenvectors: Float[Array, "d d"]) -> Float[Array, "d"]:
    """Unit vector with the largest |II(v, v)|^2 found by monotone ascent from several starts.

    For fixed v let M_kl = <II(v, v), II_kl>. The largest eigenvector w of M has |II(w, w)| >= |II(v, v)|:
    each step of the (shifted) power method on M, and finally its eigenvector, can only improve v.
    """
    d = c.shape[0]
    i, j = np.triu_indices(d)
    # C as a quadratic form on the d(d+1)/2 monomials v_i v_j, i <= j.
    multiplicity = jnp.asarray(np.where(i == j, 1.0, 2.0), c.dtype)
    form = c[i, j][:, i, j] * multiplicity[:, None] * multiplicity[None, :]
    expand = pair_positions(d) - d
    half = jnp.asarray(np.where(i == j, 1.0, 0.5), c.dtype)

    def inner_form(v: Float[Array, "d"]) -> Float[Array, "d d"]:
        """M_kl = <II(v, v), II_kl>."""
        return (contract("st,t->s", form, v[i] * v[j]) * half)[expand]

    def ascend(_: int, v: Float[Array, "d"]) -> Float[Array, "d"]:
        m = inner_form(v)
        w = contract("kl,l->k", m, v) + jnp.sqrt(jnp.sum(m * m)) * v
        return w / jnp.maximum(jnp.sqrt(jnp.sum(w * w)), jnp.finfo(c.dtype).tiny)

    def value(v: Float[Array, "d"]) -> Float[Array, ""]:
        return contract("kl,k,l->", inner_form(v), v, v)

    def climb(starts: Float[Array, "n d"], steps: int) -> tuple[Array, Array]:
        ends = jax.vmap(lambda v: jax.lax.fori_loop(0, steps, ascend, v))(starts)
        return ends, jax.vmap(value)(ends)

    ends, values = climb(_starts(c, eigenvectors), FIRST_STEPS)
    ends, values = climb(ends[jax.lax.top_k(values, KEPT)[1]], ASCENT_STEPS)
    best = ends[jnp.argmax(values)]

    def polish(_: int, v: Float[Array, "d"]) -> Float[Array, "d"]:
        w = _top_eigenvector(inner_form(v))
        return jnp.where(value(w) >= value(v), w, v)

    return jax.lax.fori_loop(0, POLISH_STEPS, polish, best)


def bounds_of(c: Float[Array, "d d d d"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Largest normal curvature found and its upper bound, from C_abcd = <II_ab, II_cd> in a frame."""
    d = c.shape[0]
    if d <= 2:
        exact = safe_sqrt(c[0, 0, 0, 0] if d == 1 else _surface_maximum(c))
        return exact, exact
    squares = jnp.einsum("ikjk->ij", c)  # <II_ik, II_jk>
    values, vectors = _symmetric_eigenvectors(jax.lax.stop_gradient(squares))
    v = jax.lax.stop_gradient(_best_direction(jax.lax.stop_gradient(c), vectors))
    top = vectors[:, jnp.argmax(values)]
    largest = contract("ijkl,i,j,k,l->", c, v, v, v, v)
    return safe_sqrt(largest), safe_sqrt(contract("ij,i,j->", squares, top, top))


def normal_curvature(gram: JetGram) -> Float[Array, "*batch"]:
    """Largest normal curvature, max of |II(v, v)| over unit tangent vectors v.

    Its inverse is the smallest radius of curvature of a geodesic, the local part of the reach. Exact for
    d <= 2. For d > 2 this quartic is maximised by monotone ascent from several starts: a lower bound that in
    practice is attained; :func:`normal_curvature_bounds` encloses it.

    Args:
        gram: Gram of a 2-jet.

    Returns:
        ``(...)``; 1/r on S^n(r), NaN where the metric is degenerate. Derivatives hold the maximising
        direction fixed, which is exact to first order.

    Example:
        >>> saddle = lambda u: jnp.stack([u[0], u[1], u[0] ** 2 - u[1] ** 2 / 2])
        >>> print(mj.normal_curvature(mj.gram_from_function(saddle, jnp.zeros(2))))
        2.0
    """
    return normal_curvature_bounds(gram)[0]


def normal_curvature_bounds(gram: JetGram) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Lower and upper bound of the largest normal curvature.

    The upper bound is the square root of the largest eigenvalue of g^-1 C, C_ij = g^kl <II_ik, II_jl>
    (|II(v, v)| <= |II(v, .)|), and is attained on hypersurfaces.

    Args:
        gram: Gram of a 2-jet.

    Returns:
        ``(lower, upper)``, each ``(...)``; equal for d <= 2, where the maximum is exact.

    Example:
        >>> bowl = lambda u: jnp.concatenate([u, jnp.sum(u**2)[None] / 2])
        >>> lower, upper = mj.normal_curvature_bounds(mj.gram_from_function(bowl, jnp.zeros(3)))
        >>> print(lower.round(4), upper.round(4))
        1.0 1.0
    """
    both = pointwise(_both_bounds, gram)
    return both[..., 0], both[..., 1]


def _both_bounds(point: JetGram) -> Float[Array, "2"]:
    return jnp.stack(bounds_of(second_form_gram(point)))
