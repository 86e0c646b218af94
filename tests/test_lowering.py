"""The main jobs lower for CPU, GPU and TPU, with every matrix product in full precision and without LAPACK.

Full precision, because a TPU multiplies in bfloat16 unless told otherwise; no LAPACK, because two batched
calls of it in one program block each other for ever on two cores.
"""

import jax
import jax.numpy as jnp
import pytest
from jax import export
from jax.tree_util import Partial
from networks import drawn

import manifold_jax as mj
from manifold_jax.models import VGG11, BetaVAE, LeNet, beta_vae_loss, network_layers, pure

SURFACE = mj.Grid((mj.Axis("u", 0.0, 1.0, 12), mj.Axis("v", 0.0, 1.0, 8, periodic=True)))


def shaped(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def waves(scale, u):
    """An embedding in R^6 that depends on a traced number."""
    return jnp.concatenate([jnp.sin(scale * u), jnp.cos(scale * u), u**2])[:6]


def image(u):
    return jax.nn.sigmoid(jnp.sin(jnp.arange(64.0).reshape(8, 8) * u[0]) + u[0])


def stencils(points):
    return mj.measure(points, SURFACE)


def exact(scale):
    return mj.measure(Partial(waves, scale), SURFACE, exact=True)


def layers(coordinates):
    network = pure(drawn(LeNet, size=8))
    return [jets.vectors for jets in mj.layer_jets(image, network_layers(network).functions, coordinates)]


def autoencoder_gradient(images):
    apply, params = pure(drawn(BetaVAE, size=16, width=2, hidden=4, latent=3))
    loss = beta_vae_loss(apply)
    return jax.grad(lambda p: loss(p, (images,), jax.random.key(0), 0)[0])(params)


def spectra(images):
    return jax.vmap(Partial(mj.local_data_spectrum, Partial(*pure(drawn(VGG11, width=2)))))(images)


def fisher(images):
    apply, params = pure(drawn(LeNet, size=8))
    return jax.vmap(lambda x: mj.fisher_spectrum(apply, params, x)[0])(images)


def paths(sources, destinations):
    log_prob = Partial(*pure(drawn(LeNet, size=8)))
    return jax.vmap(lambda a, b: mj.horizontal_path(log_prob, a, b, max_steps=3))(sources, destinations)


JOBS = {
    "measure by stencils": (stencils, shaped(*SURFACE.shape, 5)),
    "measure exactly": (exact, shaped()),
    "jets through layers": (layers, shaped(4, 1)),
    "gradient of the beta-VAE": (autoencoder_gradient, shaped(2, 16, 16)),
    "spectra of G, VGG": (spectra, shaped(2, 32, 32, 3)),
    "spectra of F, LeNet": (fisher, shaped(2, 8, 8)),
    "horizontal paths": (paths, shaped(2, 8, 8), shaped(2, 8, 8)),
}


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.thorough
def test_main_jobs_lower_for_every_platform(name):
    function, *arguments = JOBS[name]
    exported = export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(*arguments)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    module = exported.mlir_module()
    assert "lapack" not in module
    products = [
        line for line in module.splitlines() if "stablehlo.dot_general" in line or "convolution(" in line
    ]
    assert products
    for line in products:
        assert "HIGHEST" in line, f"a product of default precision: {line.strip()}"
