"""A page of sections: one HTML file that holds its style, its program, its data and plotly.js."""

from __future__ import annotations

import base64
import importlib.resources
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from manifold_jax._checks import require
from manifold_jax._files import write_text
from manifold_jax._html import escape
from manifold_jax.plotting.style import PALETTE

CITATIONS = """\
@inproceedings{koulakis2026microscope,
  title = {The Data Manifold under the Microscope},
  author = {Koulakis and Seibold},
  booktitle = {International Conference on Machine Learning},
  year = {2026},
  eprint = {2606.15760},
  archivePrefix = {arXiv}
}
@article{grementieri2022model,
  title = {Model-centric Data Manifold: the Data Through the Eyes of the Model},
  author = {Grementieri and Fioresi},
  journal = {SIAM Journal on Imaging Sciences},
  volume = {15},
  number = {3},
  year = {2022},
  eprint = {2104.13289},
  archivePrefix = {arXiv}
}"""


class Section(NamedTuple):
    """A part of a page below a heading; ``body`` is HTML."""

    title: str
    body: str


def _own(name: str) -> str:
    """A file beside this one."""
    return importlib.resources.files(__spec__.parent).joinpath(name).read_text(encoding="utf-8")


def plotly_js() -> str:
    """The program of plotly.js; ImportError with the pip command where plotly is missing."""
    require("plotly", "page", "A report")
    return importlib.resources.files("plotly").joinpath("package_data/plotly.min.js").read_text("utf-8")


def write_page(
    path: Path, title: str, subtitle: str, sections: Sequence[Section], data: dict[str, Any]
) -> Path:
    """Write a page; ``data`` is what ``page.js`` draws."""
    # Within a script "<" could begin a tag that ends it.
    packed = json.dumps(data | {"palette": PALETTE}, allow_nan=False).replace("<", "\\u003c")
    body = "".join(f"<section><h2>{escape(s.title)}</h2>{s.body}</section>\n" for s in sections)
    text = f"""<!doctype html>
<html lang="en" data-theme="light">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{_own("page.css")}</style>
<script>{plotly_js()}</script>
</head>
<body>
<header><h1>{escape(title)}</h1><p class="quiet">{escape(subtitle)}</p>
<button id="theme" type="button">light / dark</button></header>
<main>
{body}</main>
<script type="application/json" id="data">{packed}</script>
<script>{_own("page.js")}</script>
</body>
</html>
"""
    return write_text(path, text)


def pack(values: Any, kind: str = "<f4") -> str:
    """An array as base64 of little-endian numbers, float32 by default; what is too large is infinite."""
    with np.errstate(over="ignore"):
        return base64.b64encode(np.ascontiguousarray(values).astype(kind).tobytes()).decode()


def _address(data: bytes, kind: str) -> str:
    """A picture as its own address."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def png(pixels: np.ndarray) -> str:
    """Grey levels ``(h, w)`` or colours ``(h, w, 3)`` in 0 to 255 as the address of a picture."""
    image = require("PIL.Image", "page", "A report").fromarray(pixels.astype(np.uint8))
    with io.BytesIO() as file:
        image.save(file, "png")
        return _address(file.getvalue(), "png")


def picture(file: Path, words: str = "") -> str:
    """A picture in a file, with its words below."""
    source = _address(file.read_bytes(), file.suffix.removeprefix("."))
    caption = f"<figcaption>{escape(words or file.name)}</figcaption>"
    return (
        f'<figure class="picture"><img alt="{escape(words or file.stem)}" src="{source}">{caption}</figure>'
    )


def about(arguments: dict[str, Any], command: str = "", files: Sequence[str] = ()) -> Section:
    """How a page came about: the command, what was asked for, versions, files, and how to cite."""
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in arguments.items()
    )
    parts = [f"<pre>{escape(command)}</pre>"] if command else []
    parts += [f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>']
    parts += [f"<p>Files beside this page: {escape(', '.join(files))}.</p>"] if files else []
    cite = f"<details><summary>How to cite</summary><pre>{escape(CITATIONS)}</pre></details>"
    return Section("How this was made", "".join([*parts, cite]))
