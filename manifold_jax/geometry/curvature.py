"""Metric, volume element and every curvature, as algebra on the Gram matrix of a 2-jet.

In an orthonormal frame e_a = E_a^i X_i of the tangent space (E = L^-1, g = L L^T), with
II_ab = E_a^i E_b^j (normal part of X_ij), everything follows from the inner products

    C_abcd = <II_ab, II_cd> = E E E E <X_ij, X_kl> - sum_e Gamma_ab,e Gamma_cd,e

through the Gauss equation (do Carmo, Riemannian Geometry, 1992, chapter 6). Signs: R_1212 > 0 on the sphere.
Where the metric is degenerate (dV = 0) the frame does not exist and curvatures are NaN.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from manifold_jax.geometry.grid import Accuracy, Grid
from manifold_jax.geometry.jet import Jet, JetGram


def _contract(subscripts: str, *operands: Array) -> Array:
    """Einsum of small tensors as a broadcast product and a sum.

    Under vmap this stays one fused loop over points. Dot products of tiny matrices would instead become a
    batched matrix product, slow on CPUs and of reduced precision on accelerators.
    """
    inputs, output = subscripts.split("->")
    terms = inputs.split(",")
    letters = output + "".join(sorted(set("".join(terms)) - set(output)))
    total: Array | float = 1.0
    for term, operand in zip(terms, operands, strict=True):
        order = [c for c in letters if c in term]
        moved = jnp.transpose(operand, [term.index(c) for c in order])
        shape = [operand.shape[term.index(c)] if c in term else 1 for c in letters]
        total = total * moved.reshape(shape)
    return jnp.sum(jnp.asarray(total), axis=tuple(range(len(output), len(letters))))


def _pointwise(kernel: Callable[..., Array], gram: JetGram, *vectors: Array) -> Array:
    """Apply a one-point function over the batch axes of a Gram."""
    batch = gram.metric.shape[:-2]
    d = gram.metric.shape[-1]
    flat = JetGram(
        gram.metric.reshape(-1, d, d), gram.mixed.reshape(-1, d, d, d), gram.second.reshape(-1, d, d, d, d)
    )
    arguments = [jnp.broadcast_to(v, (*batch, d)).reshape(-1, d) for v in vectors]
    result = jax.vmap(kernel)(flat, *arguments)
    return result.reshape(*batch, *result.shape[1:])


def _sqrt(x: Array) -> Array:
    """Square root that is 0 with derivative 0 at and below 0, and passes NaN on."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), jnp.where(jnp.isnan(x), x, 0.0))


# --- one point ---------------------------------------------------------------------------------------------


def _cholesky(g: Float[Array, "d d"]) -> tuple[list[list[Array]], list[Array]]:
    """Rows of L with g = L L^T, and the pivots L_kk^2; pivots of rounding size count as 0."""
    d = g.shape[0]
    tolerance = 4 * d * jnp.finfo(g.dtype).eps
    rows: list[list[Array]] = []
    pivots: list[Array] = []
    for i in range(d):
        row: list[Array] = []
        for j in range(i):
            row.append((g[i, j] - sum(row[k] * rows[j][k] for k in range(j))) / rows[j][j])
        pivot = g[i, i] - sum(x * x for x in row)
        pivot = jnp.where(pivot <= tolerance * g[i, i], 0.0, pivot)
        pivots.append(pivot)
        rows.append([*row, jnp.where(pivot > 0, jnp.sqrt(jnp.where(pivot > 0, pivot, 1.0)), jnp.nan)])
    return rows, pivots


def _frame(g: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """E = L^-1, so that E g E^T = 1: row a holds the chart components of the frame vector e_a."""
    d = g.shape[0]
    lower, _ = _cholesky(g)
    rows: list[Array] = []
    for i in range(d):
        unit = jnp.zeros(d, g.dtype).at[i].set(1.0)
        rows.append(
            (unit - sum((lower[i][k] * rows[k] for k in range(i)), jnp.zeros(d, g.dtype))) / lower[i][i]
        )
    return jnp.stack(rows)


def _volume_element(gram: JetGram) -> Float[Array, ""]:
    """sqrt(det g) = product of L_kk; 0 where the metric is degenerate."""
    _, pivots = _cholesky(gram.metric)
    total = jnp.ones((), gram.metric.dtype)
    for k, pivot in enumerate(pivots):
        # Past a vanishing pivot the factorisation is NaN; the determinant is 0 all the same.
        lost = jnp.zeros((), bool)
        for earlier in pivots[:k]:
            lost = lost | (earlier == 0)
        total = total * jnp.where(lost, 0.0, _sqrt(pivot))
    return total


def _second_form_gram(gram: JetGram) -> Float[Array, "d d d d"]:
    """C_abcd = <II_ab, II_cd> in the orthonormal frame."""
    e = _frame(gram.metric)
    tangential = _frame_mixed(gram, e)
    second = gram.second
    second = _contract("ai,ijkl->ajkl", e, second)
    second = _contract("bj,ajkl->abkl", e, second)
    second = _contract("ck,abkl->abcl", e, second)
    second = _contract("dl,abcl->abcd", e, second)
    return second - _contract("abe,cde->abcd", tangential, tangential)


def _frame_mixed(gram: JetGram, e: Float[Array, "d d"]) -> Float[Array, "d d d"]:
    """Gamma_ab,c in the orthonormal frame."""
    mixed = _contract("ai,ijk->ajk", e, gram.mixed)
    mixed = _contract("bj,ajk->abk", e, mixed)
    return _contract("ck,abk->abc", e, mixed)


def _chart_second_form_gram(gram: JetGram) -> Float[Array, "d d d d"]:
    """<II_ij, II_kl> in chart components."""
    tangential = _contract("ck,ijk->ijc", _frame(gram.metric), gram.mixed)
    return gram.second - _contract("ijc,klc->ijkl", tangential, tangential)


def _riemann(gram: JetGram) -> Float[Array, "d d d d"]:
    c = _chart_second_form_gram(gram)
    return jnp.einsum("ikjl->ijkl", c) - jnp.einsum("iljk->ijkl", c)


def _inverse_metric(gram: JetGram) -> Float[Array, "d d"]:
    e = _frame(gram.metric)
    return _contract("ai,aj->ij", e, e)


def _ricci(gram: JetGram) -> Float[Array, "d d"]:
    return _contract("ik,ijkl->jl", _inverse_metric(gram), _riemann(gram))


def _traces(c: Float[Array, "d d d d"]) -> tuple[Array, Array]:
    """|d H|^2 = C_aabb and |II|^2 = C_abab."""
    return jnp.einsum("aabb->", c), jnp.einsum("abab->", c)


def _scalar_curvature(gram: JetGram) -> Float[Array, ""]:
    mean, norm = _traces(_second_form_gram(gram))
    return mean - norm


def _mean_curvature(gram: JetGram) -> Float[Array, ""]:
    return _sqrt(_traces(_second_form_gram(gram))[0]) / gram.metric.shape[0]


def _second_form_norm(gram: JetGram) -> Float[Array, ""]:
    return _sqrt(_traces(_second_form_gram(gram))[1])


def _sectional(gram: JetGram, u: Float[Array, "d"], v: Float[Array, "d"]) -> Float[Array, ""]:
    g, c = gram.metric, _chart_second_form_gram(gram)
    uu, vv, uv = (_contract("ij,i,j->", g, a, b) for a, b in ((u, u), (v, v), (u, v)))
    curvature = _contract("ijkl,i,j,k,l->", c, u, u, v, v) - _contract("ijkl,i,j,k,l->", c, u, v, u, v)
    return curvature / (uu * vv - uv**2)


def _christoffel_second_kind(gram: JetGram) -> Float[Array, "d d d"]:
    return _contract("kl,ijl->ijk", _inverse_metric(gram), gram.mixed)


# --- batched -----------------------------------------------------------------------------------------------


def metric(gram: JetGram) -> Float[Array, "*batch d d"]:
    """Induced metric (first fundamental form) g_ij = <X_i, X_j>.

    Args:
        gram: Gram of a 2-jet.

    Returns:
        ``(..., d, d)``, in squared feature units per coordinate units.

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax import gram_from_function, metric
        >>> metric(gram_from_function(lambda u: 3.0 * u, jnp.zeros(2)))
        Array([[9., 0.], [0., 9.]], dtype=float32)
    """
    return gram.metric


def volume_element(gram: JetGram) -> Float[Array, "*batch"]:
    """Density of the volume, dV = sqrt(det g) du.

    Args:
        gram: Gram of a 2-jet.

    Returns:
        ``(...)``; 0 where the metric is degenerate to rounding.

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax import gram_from_function, volume_element
        >>> print(volume_element(gram_from_function(lambda u: 3.0 * u, jnp.zeros(2))))
        9.0
    """
    return _pointwise(_volume_element, gram)


def christoffel(gram: JetGram, *, kind: int = 2) -> Float[Array, "*batch d d d"]:
    """Christoffel symbols of the Levi-Civita connection.

    Args:
        gram: Gram of a 2-jet.
        kind: 1 for Gamma_ij,k = <X_ij, X_k>; 2 for Gamma^k_ij = g^kl Gamma_ij,l.

    Returns:
        ``(..., d, d, d)``, indexed ``[..., i, j, k]``, with k the upper index for ``kind=2``.

    Raises:
        ValueError: ``kind`` is neither 1 nor 2.

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax import christoffel, gram_from_function
        >>> polar = lambda u: u[0] * jnp.stack([jnp.cos(u[1]), jnp.sin(u[1])])
        >>> symbols = christoffel(gram_from_function(polar, jnp.array([2.0, 0.0])))
        >>> print(symbols[1, 1, 0], symbols[0, 1, 1])  # -r and 1 / r
        -2.0 0.5
    """
    if kind not in (1, 2):
        raise ValueError(f"kind of Christoffel symbols must be 1 or 2, got {kind!r}.")
    return gram.mixed if kind == 1 else _pointwise(_christoffel_second_kind, gram)


def riemann(gram: JetGram) -> Float[Array, "*batch d d d d"]:
    """Riemann tensor R_ijkl = <II_ik, II_jl> - <II_il, II_jk> (Gauss equation), all indices down.

    Args:
        gram: Gram of a 2-jet.

    Returns:
        ``(..., d, d, d, d)`` in chart components; R_1212 > 0 on the sphere.

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax import gram_from_function, riemann
        >>> bowl = lambda u: jnp.stack([u[0], u[1], (u[0] ** 2 + u[1] ** 2) / 2])
        >>> print(riemann(gram_from_function(bowl, jnp.zeros(2)))[0, 1, 0, 1])
        1.0
    """
    return _pointwise(_riemann, gram)


def ricci(gram: JetGram) -> Float[Array, "*batch d d"]:
    """Ricci tensor Ric_jl = g^ik R_ijkl.

    Args:
        gram: Gram of a 2-jet.

    Returns:
        ``(..., d, d)`` in chart components; (n - 1) g on the unit sphere S^n.

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax import gram_from_function, ricci
        >>> bowl = lambda u: jnp.stack([u[0], u[1], (u[0] ** 2 + u[1] ** 2) / 2])
        >>> ricci(gram_from_function(bowl, jnp.zeros(2)))
        Array([[1., 0.], [0., 1.]], dtype=float32)
    """
    return _pointwise(_ricci, gram)


def scalar_curvature(gram: JetGram) -> Float[Array, "*batch"]:
    """Scalar curvature S = g^jl Ric_jl = d^2 |H|^2 - |II|^2.

    Args:
        gram: Gram of a 2-jet.

    Returns:
        ``(...)``; n (n - 1) / r^2 on S^n(r), twice the Gaussian curvature of a surface. NaN where the metric
        is degenerate.

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax import gram_from_function, scalar_curvature
        >>> saddle = lambda u: jnp.stack([u[0], u[1], u[0] * u[1]])
        >>> print(scalar_curvature(gram_from_function(saddle, jnp.zeros(2))))
        -2.0
    """
    return _pointwise(_scalar_curvature, gram)


def mean_curvature(gram: JetGram) -> Float[Array, "*batch"]:
    """Length |H| of the mean curvature vector H = (1/d) g^ij II_ij (the average, divided by d).

    Args:
        gram: Gram of a 2-jet.

    Returns:
        ``(...)``; 1/r on S^n(r).

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax import gram_from_function, mean_curvature
        >>> bowl = lambda u: jnp.stack([u[0], u[1], u[0] ** 2 + u[1] ** 2])
        >>> print(mean_curvature(gram_from_function(bowl, jnp.zeros(2))))
        2.0
    """
    return _pointwise(_mean_curvature, gram)


def second_form_norm(gram: JetGram) -> Float[Array, "*batch"]:
    """Norm |II| of the second fundamental form, |II|^2 = g^ik g^jl <II_ij, II_kl>.

    Args:
        gram: Gram of a 2-jet.

    Returns:
        ``(...)``; sqrt(n)/r on S^n(r).

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax import gram_from_function, second_form_norm
        >>> bowl = lambda u: jnp.stack([u[0], u[1], (u[0] ** 2 + u[1] ** 2) / 2])
        >>> print(second_form_norm(gram_from_function(bowl, jnp.zeros(2))).round(4))
        1.4142
    """
    return _pointwise(_second_form_norm, gram)


def sectional_curvature(
    gram: JetGram, u: Float[Array, "*batch d"], v: Float[Array, "*batch d"]
) -> Float[Array, "*batch"]:
    """Sectional curvature R(u, v, u, v) / (|u|^2 |v|^2 - <u, v>^2) of the plane of two tangent vectors.

    Args:
        gram: Gram of a 2-jet.
        u: Chart components of the first vector, ``(..., d)``, broadcast over points.
        v: Chart components of the second, linearly independent of u.

    Returns:
        ``(...)``; NaN for dependent vectors.

    Raises:
        ValueError: d = 1, or a vector has the wrong number of components.

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax import gram_from_function, sectional_curvature
        >>> saddle = lambda u: jnp.stack([u[0], u[1], u[0] * u[1]])
        >>> gram = gram_from_function(saddle, jnp.zeros(2))
        >>> print(sectional_curvature(gram, jnp.array([1.0, 0.0]), jnp.array([1.0, 1.0])))
        -1.0
    """
    d = gram.metric.shape[-1]
    u, v = jnp.asarray(u), jnp.asarray(v)
    if d < 2:
        raise ValueError("sectional_curvature needs a manifold of dimension 2 or more, got d = 1.")
    for name, vector in (("u", u), ("v", v)):
        if vector.shape[-1:] != (d,):
            raise ValueError(f"{name} needs {d} chart components in its last axis, got shape {vector.shape}.")
    return _pointwise(_sectional, gram, u, v)


def second_fundamental_form(jet: Jet) -> Float[Array, "*batch d d f"]:
    """Second fundamental form II_ij: the part of X_ij normal to the manifold.

    Args:
        jet: Derivatives with batch axes first.

    Returns:
        ``(..., d, d, f)`` in chart components.

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax import jet_from_function, second_fundamental_form
        >>> circle = lambda u: 2.0 * jnp.stack([jnp.cos(u[0]), jnp.sin(u[0])])
        >>> second_fundamental_form(jet_from_function(circle, jnp.zeros(1)))[0, 0]
        Array([-2., -0.], dtype=float32)
    """
    d, f = jet.first.shape[-2:]
    batch = jet.first.shape[:-2]

    def normal_part(first: Array, second: Array) -> Array:
        high = jax.lax.Precision.HIGHEST
        e = _frame(jnp.matmul(first, first.T, precision=high))
        tangents = jnp.matmul(e, first, precision=high)
        inner = jnp.matmul(second.reshape(d * d, f), tangents.T, precision=high)
        return second - jnp.matmul(inner, tangents, precision=high).reshape(d, d, f)

    result = jax.vmap(normal_part)(jet.first.reshape(-1, d, f), jet.second.reshape(-1, d, d, f))
    return result.reshape(*batch, d, d, f)


def integrate(
    values: Float[Array, "*shape"],
    volume_element: Float[Array, "*shape"],
    grid: Grid,
    *,
    accuracy: Accuracy | tuple[Accuracy, ...] = 4,
) -> Float[Array, ""]:
    """Integral of a function over the manifold, by quadrature of the stencil's own order.

    Args:
        values: Function values on the grid (or one that broadcasts, such as 1.0 for the volume).
        volume_element: sqrt(det g) on the grid.
        grid: The lattice.
        accuracy: Order of the end corrections on open axes; periodic axes converge spectrally.

    Returns:
        The integral, a scalar. Points where dV = 0 to rounding (the poles of a sphere) count 0, whatever the
        value there.

    Raises:
        ValueError: A shape is not that of the grid.

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax import Axis, Grid, integrate
        >>> grid = Grid((Axis("theta", 0.0, jnp.pi, 33), Axis("phi", 0.0, 2 * jnp.pi, 8, periodic=True)))
        >>> print(f"{integrate(1.0, jnp.sin(grid.coordinates()[..., 0]), grid):.3f}")  # 4 pi
        12.566
    """
    volume_element = jnp.asarray(volume_element)
    values = jnp.asarray(values, volume_element.dtype)
    if volume_element.shape != grid.shape or values.shape not in ((), grid.shape):
        raise ValueError(
            f"integrate needs values and volume_element of the grid's shape {grid.shape}, "
            f"got {values.shape} and {volume_element.shape}."
        )
    weights = grid.weights(accuracy, dtype=volume_element.dtype)
    null = is_null(volume_element)
    return jnp.sum(weights * jnp.where(null, 0.0, volume_element) * jnp.where(null, 0.0, values))


def is_null(volume_element: Float[Array, "*shape"]) -> Array:
    """Where the volume element vanishes to rounding: degenerate points, such as the poles of a sphere."""
    largest = jnp.max(jnp.where(jnp.isnan(volume_element), 0.0, jnp.abs(volume_element)))
    return jnp.abs(volume_element) <= 16 * jnp.finfo(volume_element.dtype).eps * largest
