"""Data sets whose geometry is controlled, samples of them and noise.

An argument outside the range that its description gives is a ValueError that names it.
"""

from manifold_jax.datasets.cifar10 import cifar10 as cifar10
from manifold_jax.datasets.cifar10 import cifar100 as cifar100
from manifold_jax.datasets.coil20 import coil20 as coil20
from manifold_jax.datasets.coil20 import coil100 as coil100
from manifold_jax.datasets.coil20 import read_coil20 as read_coil20
from manifold_jax.datasets.coil20 import read_coil100 as read_coil100
from manifold_jax.datasets.compose import product as product
from manifold_jax.datasets.compose import warped as warped
from manifold_jax.datasets.curves import circle as circle
from manifold_jax.datasets.curves import ellipse as ellipse
from manifold_jax.datasets.curves import helix as helix
from manifold_jax.datasets.curves import parallel_circles as parallel_circles
from manifold_jax.datasets.curves import two_moons as two_moons
from manifold_jax.datasets.dsprites import ImageLattice as ImageLattice
from manifold_jax.datasets.dsprites import dsprites as dsprites
from manifold_jax.datasets.folders import image_folder as image_folder
from manifold_jax.datasets.idx import LabelledImages as LabelledImages
from manifold_jax.datasets.idx import emnist as emnist
from manifold_jax.datasets.idx import fashion_mnist as fashion_mnist
from manifold_jax.datasets.idx import kmnist as kmnist
from manifold_jax.datasets.idx import mnist as mnist
from manifold_jax.datasets.idx import read_idx as read_idx
from manifold_jax.datasets.noise import ambient_noise as ambient_noise
from manifold_jax.datasets.noise import normal_noise as normal_noise
from manifold_jax.datasets.quadrics import ellipsoid as ellipsoid
from manifold_jax.datasets.quadrics import hyperboloid as hyperboloid
from manifold_jax.datasets.sampling import Samples as Samples
from manifold_jax.datasets.sampling import Split as Split
from manifold_jax.datasets.sampling import farthest_points as farthest_points
from manifold_jax.datasets.sampling import sample_grid as sample_grid
from manifold_jax.datasets.sampling import sample_uniform as sample_uniform
from manifold_jax.datasets.sampling import train_test_split as train_test_split
from manifold_jax.datasets.sprites import sprite as sprite
from manifold_jax.datasets.surfaces import flat_torus as flat_torus
from manifold_jax.datasets.surfaces import sphere as sphere
from manifold_jax.datasets.surfaces import swiss_roll as swiss_roll
from manifold_jax.datasets.surfaces import torus as torus
from manifold_jax.datasets.surfaces import veronese as veronese
from manifold_jax.datasets.turntable import turntable as turntable
