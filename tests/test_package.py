"""What the package promises as a package: light import, explicit names, documented names, typed."""

import inspect
import subprocess
import sys
from importlib.resources import files

import jax
import pytest

import manifold_jax
from manifold_jax import geometry, information

LAZY = ("datasets", "fitting", "models", "plotting")
HEAVY = (
    *("scipy", "flax", "optax", "orbax", "chex", "matplotlib", "xarray", "h5py", "h5netcdf", "zarr"),
    *("PIL", "pooch", "typer", "rich", "sklearn", "pandas", "pynndescent"),
    *(f"manifold_jax.{room}" for room in (*LAZY, "experiments")),
)
PUBLIC = {
    name: value
    for room in (geometry, information)
    for name, value in vars(room).items()
    if not name.startswith("_") and not inspect.ismodule(value)
}
# fmt: off
EXPECTED = [
    "Axis", "Grid", "Jet", "JetGram", "jet_from_function", "jet_from_grid", "gram", "gram_from_function",
    "gram_from_grid", "metric", "volume_element", "christoffel", "riemann", "ricci", "scalar_curvature",
    "mean_curvature", "second_form_norm", "normal_curvature", "normal_curvature_bounds",
    "sectional_curvature", "second_fundamental_form", "integrate", "measure", "Geometry", "Estimate",
    "Manifold", "local_data_factor", "local_data_matrix", "local_data_matvec", "local_data_trace",
    "local_data_spectrum", "fisher_factor", "fisher_matvec", "fisher_trace", "fisher_spectrum",
    "horizontal_basis", "horizontal_projection", "vertical_projection", "horizontal_path", "vertical_walk",
    "involutivity_defect", "leaf_projection",
]
# fmt: on


def fresh(code):
    """What a new interpreter prints."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_import_is_light():
    assert fresh(f"import sys, manifold_jax; print([m for m in {HEAVY!r} if m in sys.modules])") == "[]"


@pytest.mark.slow
def test_rooms_are_imported_when_they_are_used():
    assert set(LAZY) <= set(fresh("import manifold_jax; print(*dir(manifold_jax))").split())
    assert fresh(
        "import manifold_jax as mj; print(mj.datasets.circle().name, mj.plotting.plot_maps.__name__)"
    ) == ("circle plot_maps")
    with pytest.raises(AttributeError, match="module 'manifold_jax' has no attribute 'nothing'"):
        manifold_jax.nothing  # noqa: B018


def test_import_sets_no_flag_and_starts_no_backend():
    code = (
        "import jax; before = dict(jax.config.values); import manifold_jax; after = dict(jax.config.values)\n"
        "from jax._src import xla_bridge\n"
        "print({k: v for k, v in after.items() if before.get(k) != v}, xla_bridge.backends_are_initialized())"
    )
    assert fresh(code) == "{} False"
    assert jax.config.jax_enable_x64 is False


@pytest.mark.slow
def test_a_star_imports_the_public_names_and_no_others():
    names = fresh("from manifold_jax import *; print(*(n for n in globals() if not n.startswith('__')))")
    assert set(names.split()) == {*LAZY, *PUBLIC}


@pytest.mark.parametrize("name", EXPECTED)
def test_fixed_names_are_public(name):
    assert hasattr(manifold_jax, name)


@pytest.mark.parametrize("name", PUBLIC)
def test_names_are_re_exported(name):
    assert getattr(manifold_jax, name) is PUBLIC[name]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented(name):
    doc = inspect.getdoc(PUBLIC[name])
    assert doc is not None
    assert len(doc.split()) > 5


@pytest.mark.parametrize("name", [n for n in PUBLIC if inspect.isroutine(PUBLIC[n])])
def test_public_functions_have_an_example(name):
    doc = inspect.getdoc(PUBLIC[name])
    missing = [part for part in ("Args:", "Returns:", "Example:", ">>>") if part not in doc]
    assert not missing, f"{name} lacks {missing}"


def test_typed_marker_is_shipped():
    assert files("manifold_jax").joinpath("py.typed").is_file()
