"""Independent oracle: differential geometry in NumPy float64, and closed-form jets. No JAX in here.

The package works with Gram matrices in a Cholesky frame. Here everything is written with ``inv`` of the
metric, explicit projectors in the ambient space and nested sums over chart indices (DESIGN section 2).
"""

import numpy as np


def inner(jet):
    """Gram matrices <X_i, X_j>, <X_ij, X_k>, <X_ij, X_kl> of a jet (first, second)."""
    first, second = (np.asarray(x, np.float64) for x in jet)
    return (
        np.einsum("...if,...jf->...ij", first, first),
        np.einsum("...ijf,...kf->...ijk", second, first),
        np.einsum("...ijf,...klf->...ijkl", second, second),
    )


def geometry(gram):
    """Every quantity of a Gram (metric, mixed, second), by the formulas of DESIGN section 2."""
    g, mixed, second = (np.asarray(x, np.float64) for x in gram)
    d, inv = g.shape[-1], np.linalg.inv(g)
    christoffel = np.einsum("...ijl,...lk->...ijk", mixed, inv)
    ii = second - np.einsum("...ijm,...mn,...kln->...ijkl", mixed, inv, mixed)
    riemann = np.einsum("...ikjl->...ijkl", ii) - np.einsum("...iljk->...ijkl", ii)
    ricci = np.einsum("...ik,...ijkl->...jl", inv, riemann)
    mean = np.einsum("...ij,...kl,...ijkl->...", inv, inv, ii)
    norm = np.einsum("...ik,...jl,...ijkl->...", inv, inv, ii)
    return {
        "metric": g,
        "volume_element": np.sqrt(np.linalg.det(g)),
        "christoffel": christoffel,
        "riemann": riemann,
        "ricci": ricci,
        "scalar_curvature": np.einsum("...jl,...jl->...", inv, ricci),
        "mean_curvature": np.sqrt(mean) / d,
        "second_form_norm": np.sqrt(norm),
        "ii": ii,
    }


def second_fundamental_form(jet):
    """II_ij = (1 - P) X_ij with the explicit f x f projector P on the tangent space."""
    first, second = (np.asarray(x, np.float64) for x in jet)
    projector = np.swapaxes(first, -1, -2) @ np.linalg.inv(first @ np.swapaxes(first, -1, -2)) @ first
    return second - np.einsum("...ef,...ijf->...ije", projector, second)


def sectional(gram, u, v):
    """R(u, v, u, v) / area^2 from the Riemann tensor."""
    g, r = np.asarray(gram[0]), geometry(gram)["riemann"]
    form = lambda a, b: np.einsum("...ij,...i,...j->...", g, a, b)  # noqa: E731
    area = form(u, u) * form(v, v) - form(u, v) ** 2
    return np.einsum("...ijkl,...i,...j,...k,...l->...", r, u, v, u, v) / area


def orthonormal_second_form(jet):
    """II in an orthonormal frame made by QR, (n, d, d, f), one point per row."""
    first = np.asarray(jet[0], np.float64)
    ii = second_fundamental_form(jet)
    # first^T = Q R, so that e_a = (R^-T)_ai X_i is orthonormal.
    frame = np.linalg.inv(np.swapaxes(np.linalg.qr(np.swapaxes(first, -1, -2))[1], -1, -2))
    return np.einsum("nai,nbj,nijf->nabf", frame, frame, ii)


def largest_normal_curvature(jet, seed=0, samples=3000, rounds=70):
    """Brute force over directions: dense random samples, then a shrinking random search around the best."""
    ii = orthonormal_second_form(jet)
    n, d = ii.shape[:2]
    rng = np.random.default_rng(seed)

    def value(v):
        return np.linalg.norm(np.einsum("nabf,nka,nkb->nkf", ii, v, v, optimize=True), axis=-1)

    def unit(v):
        return v / np.linalg.norm(v, axis=-1, keepdims=True)

    if d == 1:
        return value(np.ones((n, 1, 1)))[:, 0]
    if d == 2:
        angle = np.linspace(0, np.pi, 20001)
        v = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        return value(np.broadcast_to(v, (n, *v.shape))).max(axis=1)
    v = unit(rng.normal(size=(n, samples, d)))
    order = np.argsort(-value(v), axis=1)[:, :12]
    v = np.take_along_axis(v, order[..., None], axis=1)
    for k in range(rounds):
        step = 0.3 * 0.87**k * rng.normal(size=(n, v.shape[1], 8, d))
        trial = np.concatenate([v[:, :, None], unit(v[:, :, None] + step)], axis=2)
        best = value(trial.reshape(n, -1, d)).reshape(trial.shape[:3]).argmax(axis=2)
        v = np.take_along_axis(trial, best[..., None, None], axis=2)[:, :, 0]
    return value(v).max(axis=1)


def random_jets(dimension, features, count, seed=0):
    """Random jets (n, d, f), (n, d, d, f), second derivatives symmetric."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(count, dimension, features))
    second = rng.normal(size=(count, dimension, dimension, features))
    return first, second + np.swapaxes(second, 1, 2)


def torus_jet(coordinates, major, minor):
    """Hand-written derivatives of ((R + r cos v) cos u, (R + r cos v) sin u, r sin v)."""
    u, v = np.moveaxis(np.asarray(coordinates, np.float64), -1, 0)
    big, cu, su, cv, sv = major + minor * np.cos(v), np.cos(u), np.sin(u), np.cos(v), np.sin(v)
    zero = np.zeros_like(u)
    xu, xv = (-big * su, big * cu, zero), (-minor * sv * cu, -minor * sv * su, minor * cv)
    xuu, xuv = (-big * cu, -big * su, zero), (minor * sv * su, -minor * sv * cu, zero)
    xvv = (-minor * cv * cu, -minor * cv * su, -minor * sv)
    first = np.stack([np.stack(x, axis=-1) for x in (xu, xv)], axis=-2)
    mixed = np.stack(xuv, axis=-1)
    rows = [
        np.stack([np.stack(xuu, axis=-1), mixed], axis=-2),
        np.stack([mixed, np.stack(xvv, axis=-1)], axis=-2),
    ]
    return first, np.stack(rows, axis=-3)


def warp(samples, strength=0.3):
    """u + strength sin u: equal steps in u become unequal ones on the manifold."""
    return samples + strength * np.sin(samples)


def warped_points(function, axes):
    """Points of an embedding written in NumPy, ``function(*meshed coordinates)``, on warped axes."""
    mesh = np.meshgrid(*(warp(samples) for samples in axes), indexing="ij")
    return np.stack(function(*mesh), axis=-1)


def torus_points(u, v, major=2.0, minor=0.5):
    """Torus of revolution."""
    big = major + minor * np.cos(v)
    return big * np.cos(u), big * np.sin(u), minor * np.sin(v) + 0 * u


def hopf_points(eta, p, q):
    """Unit sphere S^3 in Hopf coordinates."""
    return np.sin(eta) * np.cos(p), np.sin(eta) * np.sin(p), np.cos(eta) * np.cos(q), np.cos(eta) * np.sin(q)


def sphere_points(*angles):
    """Unit sphere S^d in polar coordinates."""
    points, sines = [], np.ones_like(angles[0])
    for angle in angles:
        points.append(sines * np.cos(angle))
        sines = sines * np.sin(angle)
    return (*points, sines)


def tangent_balls(points, tangents, separation=0.0):
    """Smallest of Federer's ratios at every point and its witness, straight from the formula."""
    frames = np.linalg.qr(np.swapaxes(tangents, 1, 2))[0]
    tau, witness = np.full(len(points), np.inf), np.full(len(points), -1)
    for i, x in enumerate(points):
        v = np.delete(points, i, axis=0) - x
        rest = v - (v @ frames[i]) @ frames[i].T
        with np.errstate(divide="ignore"):
            ratio = np.sum(v**2, axis=1) / (2 * np.linalg.norm(rest, axis=1))
        ratio = np.where(np.linalg.norm(v, axis=1) >= separation, ratio, np.inf)
        j = int(np.argmin(ratio))
        tau[i], witness[i] = ratio[j], j + (j >= i)
    return tau, witness
