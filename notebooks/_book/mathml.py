"""Formulas as MathML, which browsers draw by themselves: the book needs no network."""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

NAMES = re.compile(r"\\(cos|sin|log|det|arccos|arcsin|operatorname\{\w+\})\s+(?=[A-Za-z\\])")
BARS = {r"\lvert": r"{\lvert", r"\rvert": r"\rvert}", r"\langle": r"{\langle", r"\rangle": r"\rangle}"}
"""What is between bars is one thing: for spaces around it, and for powers of it."""


def mathml(tex: str, display: bool = False) -> str:
    """A formula; names of functions stand apart from their arguments."""
    tex = NAMES.sub(lambda match: rf"\{match[1]}\, ", tex)
    for plain, grouped in BARS.items():
        tex = tex.replace(plain, grouped)
    return tex2mathml(tex, as_block=display)


def _inline(translator: Any, node: Any) -> None:
    translator.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def _display(translator: Any, node: Any) -> None:
    translator.body.append(f'<div class="formula-block">{mathml(node.astext(), display=True)}</div>')
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Offer it as a renderer of HTML pages."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_display, None))
