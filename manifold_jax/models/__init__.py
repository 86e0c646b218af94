"""Networks as Flax NNX modules and as pure functions of their parameters; training and checkpoints."""

from manifold_jax.models.autoencoders import BetaVAE as BetaVAE
from manifold_jax.models.autoencoders import Objective as Objective
from manifold_jax.models.autoencoders import beta_vae_loss as beta_vae_loss
from manifold_jax.models.checkpoints import checkpoint_steps as checkpoint_steps
from manifold_jax.models.checkpoints import load_params as load_params
from manifold_jax.models.checkpoints import save_checkpoint as save_checkpoint
from manifold_jax.models.classifiers import VGG11 as VGG11
from manifold_jax.models.classifiers import LeNet as LeNet
from manifold_jax.models.classifiers import classification_loss as classification_loss
from manifold_jax.models.classifiers import labelled as labelled
from manifold_jax.models.classifiers import pixels as pixels
from manifold_jax.models.manifold_fits import denoising_autoencoder as denoising_autoencoder
from manifold_jax.models.manifold_fits import variational_autoencoder as variational_autoencoder
from manifold_jax.models.primitives import convolve as convolve
from manifold_jax.models.primitives import convolve_transposed as convolve_transposed
from manifold_jax.models.primitives import max_pool as max_pool
from manifold_jax.models.pure import Apply as Apply
from manifold_jax.models.pure import Layers as Layers
from manifold_jax.models.pure import Pure as Pure
from manifold_jax.models.pure import chain as chain
from manifold_jax.models.pure import network_layers as network_layers
from manifold_jax.models.pure import pure as pure
from manifold_jax.models.pure import torch_initial as torch_initial
from manifold_jax.models.training import Trained as Trained
from manifold_jax.models.training import over_seeds as over_seeds
from manifold_jax.models.training import train as train
