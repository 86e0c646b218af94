"""What the house looks like: sizes, definitions, import levels, circles and arrows, counted from the source.

    python tests/house.py                    # table by package
    python tests/house.py --json house.json  # the same as numbers
    python tests/house.py --duplicates       # adds the stretches of six equal lines (needs pylint)
    python tests/house.py --tree OLD         # of another checkout
    python tests/house.py --before OLD --markdown house.md   # both next to each other

Nothing is imported: files are parsed. ``tests/test_house.py`` asserts what must hold.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = "manifold_jax"
GROUND = (
    "_sharding",
    "_linalg",
    "_checks",
    "_html",
    "_keys",
    "_files",
    "_partial",
    "_programs",
    "_executors",
)
LOWER = ("geometry", "information")
MIDDLE = ("datasets", "fitting", "models", "plotting")
TOP = ("experiments",)

ALLOWED = {
    "_sharding": set(),
    "_linalg": {"_sharding"},
    "_checks": {"_sharding"},
    "_html": set(),
    "_keys": set(),
    "_files": {"_checks", "_keys"},
    "_partial": {"_files"},
    "_programs": set(),
    "_executors": {"_checks", "_keys", "_programs"},
    "geometry": set(GROUND),
    "information": set(GROUND),
    "datasets": {"geometry", *GROUND},
    "models": {"geometry", *GROUND},
    "plotting": {"geometry", *GROUND},
    "fitting": {"geometry", "datasets", *GROUND},
    "experiments": {*GROUND, *LOWER, *MIDDLE},
}
"""What each package may import, apart from itself."""


class Import(NamedTuple):
    """One import of a module of the package, by another."""

    importer: str
    imported: str
    name: str
    line: int


class Module(NamedTuple):
    """One file."""

    name: str
    path: Path
    tree: ast.Module
    text: str


def modules(root: Path) -> dict[str, Module]:
    """Every module of the package below ``root``, by dotted name."""
    result = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        result[name] = Module(name, path, ast.parse(text), text)
    return result


def package_of(name: str) -> str:
    """The room of a module: ``geometry``, ``experiments``, ..., or a ground file's own name."""
    return name.split(".")[1] if "." in name else "(root)"


def _names(node: ast.AST) -> Iterator[tuple[str, str, int]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name, "", node.lineno
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        for alias in node.names:
            yield node.module, alias.name, node.lineno


def _type_only(tree: ast.Module) -> set[ast.AST]:
    """Nodes below ``if TYPE_CHECKING``: no imports at run time."""
    guarded: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            guarded.update(inner for branch in node.body for inner in ast.walk(branch))
    return guarded


def imports(house: dict[str, Module], *, types: bool = False) -> list[Import]:
    """Imports between modules of the package, those within functions too; with ``types`` also for types."""
    result = []
    for module in house.values():
        guarded = set() if types else _type_only(module.tree)
        for node in ast.walk(module.tree):
            if node in guarded:
                continue
            for source, name, line in _names(node):
                if source.split(".")[0] != PACKAGE:
                    continue
                whole = f"{source}.{name}" if f"{source}.{name}" in house else source
                if whole != module.name and whole in house:
                    result.append(Import(module.name, whole, name, line))
    return result


def graph(house: dict[str, Module], inside: str | None = None, *, types: bool = True) -> dict[str, set[str]]:
    """Modules to the modules they import, within one room or everywhere; ``__init__`` lists do not count."""
    lists = {name for name, module in house.items() if module.path.name == "__init__.py"}
    kept = [name for name in house if name not in lists and inside in (None, package_of(name))]
    edges: dict[str, set[str]] = {name: set() for name in kept}
    for importer, imported, name, _ in imports(house, types=types):
        if imported in lists:  # a name from a list of names: the module that defines it
            imported = _defining(house, imported, name)
        if importer in edges and imported in edges and importer != imported:
            edges[importer].add(imported)
    return edges


def _defining(house: dict[str, Module], package: str, name: str) -> str:
    for node in ast.walk(house[package].tree):
        for source, imported, _ in _names(node):
            if imported == name and source.startswith(PACKAGE):
                whole = f"{source}.{name}"
                place = whole if whole in house else source
                is_list = place in house and house[place].path.name == "__init__.py" and place != package
                return _defining(house, place, name) if is_list else place
    return package


def circles(edges: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """Strongly connected groups of more than one module (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[tuple[str, ...]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(edges[name]):
            if other not in index:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                groups.append(tuple(sorted(group)))

    for name in sorted(edges):
        if name not in index:
            visit(name)
    return groups


def levels(edges: dict[str, set[str]]) -> int:
    """Modules on the longest chain of imports; circles are cut where they close."""
    depth: dict[str, int] = {}

    def measured(name: str, above: frozenset[str]) -> int:
        if name not in depth:
            below = [other for other in edges[name] if other not in above]
            depth[name] = 1 + max((measured(other, above | {name}) for other in below), default=0)
        return depth[name]

    return max((measured(name, frozenset()) for name in sorted(edges)), default=0)


def wrong_arrows(house: dict[str, Module]) -> list[str]:
    """Imports against the arrows, also those that only types need."""
    wrong = []
    for importer, imported, _, line in imports(house, types=True):
        a, b = package_of(importer), package_of(imported)
        if a != b and a in ALLOWED and b not in ALLOWED[a]:
            wrong.append(f"{importer}:{line} imports {imported}")
    return wrong


def private_imports(house: dict[str, Module]) -> list[str]:
    """Names with a leading underscore that one module imports from another."""
    return [
        f"{importer}:{line} imports {name} of {imported}"
        for importer, imported, name, line in imports(house, types=True)
        if name.startswith("_") and f"{imported}" != f"{PACKAGE}.{name}"
    ]


def _code_lines(text: str) -> int:
    """Lines with code: not blank, not comment, not docstring."""
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    lines: set[int] = set()
    fresh = True  # at the start of a statement, where a string is a docstring
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in skipped or token.type == tokenize.ENDMARKER:
            fresh = fresh or token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
            continue
        if not (token.type == tokenize.STRING and fresh):
            lines.update(range(token.start[0], token.end[0] + 1))
        fresh = False
    return len(lines)


def counts(house: dict[str, Module], room: str | None) -> dict[str, Any]:
    """Numbers of one room, or of the whole package."""
    chosen = [module for name, module in house.items() if room in (None, package_of(name))]
    defined = [
        node.name
        for module in chosen
        for node in module.tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    text = "\n".join(module.text for module in chosen)
    edges = graph(house, room)
    running = graph(house, room, types=False)
    return {
        "files": len(chosen),
        "lines": sum(module.text.count("\n") for module in chosen),
        "code": sum(_code_lines(module.text) for module in chosen),
        "longest file": max(module.text.count("\n") for module in chosen),
        "public": sum(not name.startswith("_") for name in defined),
        "private": sum(name.startswith("_") for name in defined),
        "levels": levels(running),
        "circles": len(circles(edges)),
        "np.asarray": len(re.findall(r"\bnp\.asarray\(", text)),
        "found": len(re.findall(r"\bfound\b *(?::[^=\n]+)?=[^=]", text)),
        "bend": len(re.findall(r"\bbend\w*", text)),
    }


def duplicates(root: Path, least: int = 6) -> str:
    """Stretches of equal lines in two files, docstrings and imports left out, as pylint finds them."""
    files = [str(path) for path in sorted((root / PACKAGE).rglob("*.py")) if path.name != "__init__.py"]
    options = [f"--duplicates={least}", "--ignore-comments", "--ignore-docstrings", "--ignore-imports"]
    code = "from pylint.checkers.symilar import Run; import sys; Run(sys.argv[1:])"
    command = [sys.executable, "-c", code, *options, *files]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def table_of(house: dict[str, Module]) -> dict[str, dict[str, Any]]:
    """Counts of every room and of all of them."""
    rooms = sorted({package_of(name) for name in house})
    return {room: counts(house, room) for room in rooms} | {"all": counts(house, None)}


def markdown(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> str:
    """Two tables in one; a room that one of them lacks is a dash."""
    heads = list(after["all"])
    lines = ["# The source, counted", "", f"Before -> after, by `python {' '.join(sys.argv)}`.", ""]
    lines += ["`code`: without blank lines, comments and docstrings. `levels`: longest chain of imports.", ""]
    lines += ["| | " + " | ".join(heads) + " |", "| --- " * (len(heads) + 1) + "|"]
    for room in [*sorted({*before, *after} - {"all"}), "all"]:
        pairs = [(before.get(room, {}).get(head, "-"), after.get(room, {}).get(head, "-")) for head in heads]
        lines.append(f"| {room} | " + " | ".join(f"{a} -> {b}" for a, b in pairs) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tree", type=Path, default=Path(__file__).parents[1], help="checkout to count")
    parser.add_argument("--before", type=Path, help="an older checkout, for --markdown")
    parser.add_argument("--markdown", type=Path, help="file for a table of both")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--check", action="store_true", help="only say what goes against the arrows")
    parser.add_argument("--duplicates", action="store_true", help="list equal stretches of six lines too")
    arguments = parser.parse_args()
    house = modules(arguments.tree)
    faults = [f"circle: {' <-> '.join(group)}" for group in circles(graph(house))]
    faults += wrong_arrows(house) + private_imports(house)
    if arguments.check:
        print("\n".join(faults))
        sys.exit(bool(faults))
    table = table_of(house)
    heads = list(table["all"])
    print(f"{'':12}" + "".join(f"{head:>14}" for head in heads))
    for room, row in table.items():
        print(f"{room:12}" + "".join(f"{row[head]:14}" for head in heads))
    print(*faults, sep="\n")
    if arguments.markdown:
        older = table_of(modules(arguments.before or arguments.tree))
        arguments.markdown.write_text(markdown(older, table), encoding="utf-8")
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    if arguments.duplicates:
        print(duplicates(arguments.tree))


if __name__ == "__main__":
    main()
