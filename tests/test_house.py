"""Imports go one way, and the instrument that says so sees when they do not."""

import ast
from pathlib import Path

import house
import pytest

from manifold_jax.experiments.cli import COMMANDS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def ours():
    return house.modules(ROOT)


def test_rooms(ours):
    assert {house.package_of(name) for name in ours} == {"(root)", *house.ALLOWED}


def test_arrows_go_one_way(ours):
    assert house.wrong_arrows(ours) == []


def test_no_circles(ours):
    assert house.circles(house.graph(ours)) == []


def test_no_private_names_across_modules(ours):
    assert house.private_imports(ours) == []


def test_files_are_short(ours):
    assert {name: n for name, m in ours.items() if (n := m.text.count("\n")) > 400} == {}


@pytest.fixture
def crooked(tmp_path):
    """A package with one wrong arrow, one circle, one private name and a chain of three modules."""
    files = {
        "__init__.py": "",
        "_checks.py": "from manifold_jax.geometry.a import one\n",
        "geometry/__init__.py": "from manifold_jax.geometry.a import one as one\n",
        "geometry/a.py": '"""A."""\nfrom manifold_jax.geometry.b import two\n\n\ndef one():\n    """1."""\n',
        "geometry/b.py": "import typing as t\nif t.TYPE_CHECKING:\n    import manifold_jax.geometry.a\n",
        "datasets/__init__.py": "",
        "datasets/c.py": "def _hidden():\n    from manifold_jax.geometry import one\n    found = one\n",
        "datasets/d.py": "from manifold_jax.datasets.c import _hidden\n",
        "datasets/e.py": "import manifold_jax.datasets.d\n",
    }
    for name, text in files.items():
        path = tmp_path / "manifold_jax" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return house.modules(tmp_path)


def test_faults_are_seen(crooked):
    assert house.wrong_arrows(crooked) == ["manifold_jax._checks:1 imports manifold_jax.geometry.a"]
    assert house.circles(house.graph(crooked)) == [("manifold_jax.geometry.a", "manifold_jax.geometry.b")]
    assert house.circles(house.graph(crooked, types=False)) == []
    assert house.private_imports(crooked) == [
        "manifold_jax.datasets.d:1 imports _hidden of manifold_jax.datasets.c"
    ]
    assert house.levels(house.graph(crooked, "datasets")) == 3


def test_counts(crooked):
    row = house.counts(crooked, "geometry")
    assert (row["files"], row["lines"], row["code"], row["public"], row["private"]) == (3, 10, 6, 1, 0)
    row = house.counts(crooked, "datasets")
    assert (row["files"], row["public"], row["private"], row["found"]) == (4, 0, 1, 1)


def _named_in_fast_tests():
    """Names and texts in tests and helpers that a plain run may reach; imports do not count."""
    seen = set()
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if path == Path(__file__):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            marks = [ast.unparse(mark) for mark in getattr(node, "decorator_list", [])]
            if isinstance(node, ast.Import | ast.ImportFrom) or "pytest.mark.slow" in marks:
                continue
            for inner in ast.walk(node):
                seen.update(getattr(inner, field, None) for field in ("id", "attr"))
                seen.update([inner.value] if isinstance(inner, ast.Constant) else [])
    return seen


def test_commands_plots_data_sets_and_samplers_are_used_by_fast_tests(ours):
    def listed(package):
        body = ours[f"manifold_jax.{package}"].tree.body
        names = [a.name for node in body if isinstance(node, ast.ImportFrom) for a in node.names]
        return {name for name in names if name.islower()}  # no classes

    plots = {name for name in listed("plotting") if name.startswith("plot_")}
    assert {*COMMANDS, *plots, *listed("datasets")} - _named_in_fast_tests() == set()
