# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own images
#
# Images of one thing under changing conditions (turned, zoomed, lit otherwise) lie on a manifold whose
# coordinates are these conditions. From files to numbers that can be believed:
#
# 1. A folder of images with their factors in the names, or in a table.
# 2. When it is not resolved.
# 3. An array on a grid of zoom and rotation (.npy), xarray, HDF5.
# 4. Images that are missing.
# 5. Reach: when different views look alike.

# %%
# %matplotlib inline
import csv
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import xarray
from matplotlib import pyplot as plt
from PIL import Image

from manifold_jax import Axis, Grid, load_geometry, measure, reach, suggest_stencil
from manifold_jax.datasets import image_folder
from manifold_jax.plotting import plot_maps, plot_reach, plot_samples

REDUCED = bool(os.environ.get("MANIFOLD_JAX_REDUCED"))  # continuous integration runs a smaller version
folder = Path(tempfile.mkdtemp())
compiled = {  # what one process compiles serves the next
    "jax_compilation_cache_dir": str(folder / "compiled"),
    "jax_persistent_cache_min_compile_time_secs": 0.1,
}
for name, value in compiled.items():
    jax.config.update(name, value)


def shell(command):
    """Run a command as in a terminal, in the folder of this notebook."""
    print("$", command)
    program, *words = shlex.split(command)
    program = Path(sys.executable).with_name(program)
    environment = {name: value for name, value in os.environ.items() if "COLOR" not in name}  # plain text
    environment |= {name.upper(): str(value) for name, value in compiled.items()} | {"COLUMNS": "110"}
    done = subprocess.run([program, *words], cwd=folder, env=environment, capture_output=True, text=True)
    print(done.stdout + done.stderr)


# %% [markdown]
# Yours come from a camera. Here they are drawn, so that the truth is known too: a soft shape without symmetry.

# %%
PIXELS = 24 if REDUCED else 48


def picture(zoom, angle):
    """Brightness from 0 to 1; the angle is in degrees."""
    y, x = jnp.meshgrid(*[jnp.linspace(-1.6, 1.6, PIXELS)] * 2, indexing="ij")
    turn = jnp.deg2rad(angle)
    x, y = (x * jnp.cos(turn) + y * jnp.sin(turn)) / zoom, (y * jnp.cos(turn) - x * jnp.sin(turn)) / zoom
    body = jnp.exp(-((x / 0.9) ** 2) - (y / 0.4) ** 2)
    return 0.6 * body + 0.4 * jnp.exp(-((x - 0.6) ** 2 + (y - 0.3) ** 2) / 0.2)


def photograph(zoom, angle, bits=8):
    """What a camera stores of it."""
    levels = np.round(np.asarray(picture(zoom, angle)) * (2**bits - 1))
    return levels.astype(np.uint8 if bits == 8 else np.uint16)


# %% [markdown]
# ## 1. A folder of images
#
# One turn in steps of 5 degrees. The angle is in the name of every file, and in a table as well: either will do.

# %%
shots = folder / "shots"
shots.mkdir()
rows = []
for angle in range(0, 360, 5):
    name = f"angle{angle:03d}.png"
    Image.fromarray(photograph(1.0, angle)).save(shots / name)
    rows.append({"file": name, "angle [deg]": angle, "zoom": 1.0})
with open(shots / "factors.csv", "w", newline="") as file:
    table = csv.DictWriter(file, rows[0])
    table.writeheader()
    table.writerows(rows)

# %% [markdown]
# `inspect` says what is there, and what to run.

# %%
shell("manifold-jax inspect shots")
shell("manifold-jax measure shots --periodic angle=360 --no-reach --no-plots --out turn")

# %% [markdown]
# (Without `--no-reach --no-plots` there are the reach and pictures too.) The same in Python, by the names of the files. Lengths are
# distances between images, the root of summed squared differences of pixels; `image_folder` makes white 1.

# %%
images, circle, _ = image_folder(shots, pattern="angle{angle}.png", periodic={"angle": 360})
turn = measure(images, circle, name="turn")
print(turn.summary())
saved = load_geometry(folder / "turn" / "geometry.nc")
print("length by the command", saved.total_volume.value, "and in Python", turn.total_volume.value)
plot_samples(images, turn)

# %% [markdown]
# ## 2. When it is not resolved
#
# Every line ends with a verdict. The length of the curve is resolved. Its curvature is not: between images 5 degrees
# apart, second differences are to a good part rounding to 256 grey levels. The bars know that noise, and the verdict
# names the remedies: a larger `stride` takes samples further apart, `smooth` fits polynomials to so many samples on each
# side. `suggest_stencil` tries them; on the command line `--accuracy auto` does.

# %%
rounding = PIXELS / 255 / 12**0.5
print(f"noise of an image {np.median(turn.noise):.4f}; rounding of all pixels would make {rounding:.4f}")
tried = {"strides": (1, 3), "smooths": (0,)} if REDUCED else {"strides": (1, 2, 3, 4), "smooths": (0, 6)}
for row in suggest_stencil(images, circle, accuracies=(4,), **tried):
    print(f"stride {row.stride}, smooth {row.smooth}: median bar {row.bar:.3f}, resolved {row.resolved:.0%}")

# %%
exact = measure(lambda u: picture(1.0, u[0]), circle, exact=True).second_form_norm.value
figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
angles = circle.axes[0].samples()
stencils = {"stride 1": {}, "stride 3": {"stride": 3}, "smooth 6": {"smooth": 6}}
for colour, (label, options) in zip(("C1", "C0", "C2"), stencils.items(), strict=True):
    norm = measure(images, circle, **options).second_form_norm
    inside = np.mean(np.abs(np.asarray(norm.value) - exact) <= norm.error)
    print(f"{label}: the truth lies within the bars at {inside:.0%} of the points")
    axes.errorbar(angles, norm.value, norm.error, fmt=".", ms=4, lw=1, color=colour, label=label)
axes.plot(angles, exact, "k-", lw=1, label="exact")
axes.set(xlabel="angle in deg", ylabel="|II| with its bar", title="The same images by three stencils")
axes.legend()
plt.show()

# %% [markdown]
# Where an axis is too coarse the verdict says so instead, and how much finer it should be: then only more images help.
#
# ## 3. An array on a grid
#
# Zoom and angle vary. The first dimensions of the array are the axes, in the order of `--axis`, the others belong to
# one image. At the end of a period lies the first image again, and no image of its own.

# %%
ZOOMS, ANGLES = (9, 40) if REDUCED else (13, 45)
zooms, angles = np.linspace(0.5, 1.3, ZOOMS), np.linspace(0, 360, ANGLES, endpoint=False)
array = np.stack([[photograph(zoom, angle) for angle in angles] for zoom in zooms])
np.save(folder / "images.npy", array)
print(array.shape, array.dtype)
axes = "--axis zoom=0.5:1.3 --axis angle=0:360:deg --periodic angle"
shell(f"manifold-jax measure images.npy {axes} --no-reach --no-plots --out surface")

# %% [markdown]
# Two axes ask for more than one: 8 bits leave all curvatures open, and a larger stride needs more images. More bits help
# at once (or the mean of several photographs): the same in 16 bits, in Python.

# %%
deep = np.stack([[photograph(zoom, angle, bits=16) for angle in angles] for zoom in zooms])
lattice = Grid((Axis("zoom", 0.5, 1.3, ZOOMS), Axis("angle", 0.0, 360.0, ANGLES, periodic=True, unit="deg")))
surface = measure(deep, lattice, name="zoom and angle, 16 bits")
print(surface.summary())
coarse = load_geometry(folder / "surface" / "geometry.nc")
for name, power in (("volume_element", 2), ("second_form_norm", -1)):
    fine, rough = getattr(surface, name), getattr(coarse, name)
    scale = 257.0**power  # of the grey levels
    near = np.abs(fine.value / scale - rough.value) <= rough.error + fine.error / scale
    print(f"{name}: 8 and 16 bits agree within their bars at {np.mean(near):.1%} of the points")
plot_maps(surface)

# %% [markdown]
# A DataArray of xarray brings its own grid: dimensions with coordinates are axes, the others belong to one image. HDF5
# and Zarr are read window by window, so that they may be larger than the memory.

# %%
coordinates = {"zoom": zooms, "angle": ("angle", angles, {"units": "deg", "period": 360.0})}
labelled = xarray.DataArray(deep, dims=("zoom", "angle", "row", "column"), coords=coordinates)
print("xarray:", measure(labelled).total_volume.value)
with h5py.File(folder / "images.h5", "w") as file:
    file["experiment/images"] = deep
with h5py.File(folder / "images.h5") as file:
    print("HDF5:  ", measure(file["experiment/images"], lattice).total_volume.value)

# %% [markdown]
# From the command line: `manifold-jax measure images.h5 --variable experiment/images --axis ...`, and what xarray
# wrote (`labelled.to_netcdf("images.nc")`) without any option.
#
# ## 4. Images that are missing
#
# Three were lost. Not measured is not the same as black: set them to NaN, or mask them. Stencils next to them
# shrink, what these cannot reach is undefined, and all the rest stays as it was. (With a stride of 3, that is every
# third image around a hole.)

# %%
broken = images.copy()
broken[[20, 50, 51]] = np.nan
part = measure(broken, circle, stride=3, missing="mask", name="turn with three images missing")
print(part.verdict("second_form_norm").sentence)
print("length:", part.verdict("total_volume").sentence)
plot_maps(part)

# %% [markdown]
# On the command line that is `--missing mask`. Totals are undefined: what is missing has a length too.
#
# ## 5. Reach
#
# Up to which distance has every image one nearest image on the manifold? Curvature limits that, and so do different
# views that look alike, which decide here: half a turn apart the shape is nearly the same.

# %%
views = reach(images, circle, stride=3)
print("all images:    ", views.sentence())
print("three missing: ", reach(broken, circle, stride=3, missing="mask").sentence())
plot_reach(images, views)
