"""The book: every public name is in its reference, every page can be reached, docstrings stay readable."""

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import manifold_jax

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "notebooks"


@pytest.fixture(scope="module")
def book():
    """Modules of the book that need no Sphinx, by name."""
    sys.path.insert(0, str(BOOK))
    try:
        yield {
            n: importlib.import_module(f"_book.{n}")
            for n in ("docstrings", "reference", "results", "typeset")
        }
    finally:
        sys.path.remove(str(BOOK))


def public_paths():
    """Every name that a user may import, as the package itself lists them."""
    rooms = {name: getattr(manifold_jax, name) for name in ("datasets", "fitting", "models", "plotting")}
    for name in dir(manifold_jax):
        value = getattr(manifold_jax, name)
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("manifold_jax"):
            yield f"manifold_jax.{name}"
    for home, room in rooms.items():
        for name, value in vars(room).items():
            if not name.startswith("_") and not isinstance(value, ModuleType):
                yield f"manifold_jax.{home}.{name}"


def test_every_public_name_is_in_the_reference_once(book):
    documented = []
    for room in book["reference"].ROOMS:
        page = book["reference"].page(room)
        documented += re.findall(r"^\.\. auto(?:class|function):: (\S+)", page, re.MULTILINE)
        documented += [
            f"{room.home}.{name}" for name in re.findall(r"^\.\. py:data:: (\S+)", page, re.MULTILINE)
        ]
    assert sorted(documented) == sorted(public_paths())


def test_the_index_of_the_reference_has_a_sentence_for_every_name(book):
    index = book["reference"].index()
    for path in public_paths():
        assert re.search(rf"`~{re.escape(path)}`\n     - \S", index), path


def pages_of(book):
    """Text of every page, by its name in a table of contents."""
    paths = [
        *BOOK.glob("*.md"),
        *BOOK.glob("0*.py"),
        *BOOK.glob("howto/*.md"),
        *BOOK.glob("explanation/*.md"),
    ]
    texts = {str(path.relative_to(BOOK)): path.read_text("utf8") for path in paths}
    texts |= {f"results/{name}": text for name, text in book["results"].result_pages(ROOT).items()}
    texts |= {f"project/{name}": text for name, text in book["results"].project_pages(ROOT).items()}
    texts |= {f"reference/{room.module}.rst": "" for room in book["reference"].ROOMS}
    texts["reference/index.rst"] = book["reference"].index()
    return {name.rsplit(".", 1)[0]: text for name, text in texts.items()}


def listed_in(name, text):
    """Pages in the tables of contents of a page."""
    blocks = re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL)
    blocks += re.findall(r"\.\. toctree::\n((?:   .*\n|\n)+)", text)
    entries = (re.sub(r".* <(.*)>", r"\1", line.strip()) for block in blocks for line in block.splitlines())
    folder = name.rpartition("/")[0]
    return [f"{folder}/{entry}".lstrip("/") for entry in entries if entry and not entry.startswith(":")]


def test_every_page_is_reached_from_the_first(book):
    pages = pages_of(book)
    reached, open_pages = {"index"}, ["index"]
    while open_pages:
        name = open_pages.pop()
        fresh = [page for page in listed_in(name, pages[name]) if page not in reached]
        reached.update(fresh)
        open_pages += fresh
    assert reached == set(pages)


def test_every_page_of_results_and_its_pictures_are_in_the_book(book):
    pages = book["results"].result_pages(ROOT)
    results = ROOT / "benchmarks" / "results"
    assert {path.name for path in results.glob("*.md")} == set(pages) - {"index.md"}
    pictures = {picture for text in pages.values() for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)}
    assert pictures
    assert all((BOOK / "results" / picture).resolve().is_file() for picture in pictures)


@pytest.mark.parametrize(
    ("plain", "readable"),
    [
        ("|II|^2 of ``|x|^2``", r"\|II\|\ :sup:`2`\  of ``|x|^2``"),
        ("g_ij = <X_i, X_j>", r"g\ :sub:`ij`\  = ⟨X\ :sub:`i`\ , X\ :sub:`j`\ ⟩"),
        ("n^(-2/d), tau -> 0, batch_size <= 3", r"n\ :sup:`-2/d`\ , τ → 0, batch_size ≤ 3"),
        ("sqrt(p_y) grad log p_y", r"√(p\ :sub:`y`\ ) ∇ log p\ :sub:`y`\ "),
    ],
)
def test_formulas_of_docstrings_become_readable(book, plain, readable):
    assert book["typeset"].typeset(plain) == readable


def test_signatures_show_shapes_without_quotes_and_results_have_none(book):
    signature, result = book["docstrings"].signature_of(manifold_jax.scalar_curvature)
    assert (signature, result) == ("(gram: JetGram)", "Float[Array, '*batch']")
    assert book["docstrings"].signature_of(manifold_jax.Reach) == ("", "")


def test_references_between_docstrings_lead_to_public_names(book):
    hooks = book["docstrings"].Docstrings(book["reference"].public_names())
    text = hooks.rewrite("See :func:`measure`, :func:`_hidden`.", {})
    assert text == "See :py:obj:`measure <manifold_jax.measure>`, ``_hidden``."


def test_links_that_lead_nowhere_are_named(book, tmp_path):
    pytest.importorskip("sphinx")
    assert book  # its folder is on the path
    links = importlib.import_module("_book.links")
    (tmp_path / "one.html").write_text(
        '<a href="two.html#there">a</a> <img src="no.png"> <a href="https://x.y">b</a>'
    )
    (tmp_path / "two.html").write_text('<p id="there"></p><a href="one.html">c</a><a href="#away">d</a>')
    assert list(links.broken_links(tmp_path)) == ["one.html: no.png", "two.html: #away"]


def test_a_power_of_what_is_between_bars_is_one_of_all(book):
    pytest.importorskip("docutils")
    assert book
    text = "".join(importlib.import_module("_book.mathml").mathml(r"\lvert x\rvert^2").split())
    assert "<msup><mrow>" in text
    assert text.index("</mrow>") < text.index("<mn>2</mn>")
