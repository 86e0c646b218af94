"""Small pieces of HTML, which notebooks show and reports are made of."""

from __future__ import annotations

import html
from collections.abc import Sequence

Cell = str | tuple[str, str]
"""Text of a cell, or text and the name of its class: ``good``, ``fair`` or ``bad``."""

COLOURS = {"good": "#008060", "fair": "#a06a00", "bad": "#c4480c"}
"""Colours of the classes where no style sheet is at hand; they can be read on white and on black."""


def _style(name: str) -> str:
    """The colour of the page where there is one, else that of the class."""
    return f' style="color:var(--{name},{COLOURS[name]})"'


def escape(text: object) -> str:
    """Text as HTML."""
    return html.escape(str(text))


def table(
    head: Sequence[str], rows: Sequence[Sequence[Cell]], left: Sequence[int] = (0,), *, sortable: bool = False
) -> str:
    """A table; numbers, in all columns but those that are counted in ``left``, stand to the right.

    A page with a program may sort the rows at a click on a head.

    Example:
        >>> table(["quantity", "value"], [["volume", "1.0"]])
        '<table><thead><tr><th>quantity</th><th class="right">value</th></tr></thead><tbody>...</table>'
    """

    def cell(tag: str, content: Cell, column: int) -> str:
        text, name = content if isinstance(content, tuple) else (content, "")
        shown = f'<span class="{name}"{_style(name)}>{escape(text)}</span>' if name else ""
        names = ["right"] * (column not in left) + ["sortable"] * (sortable and tag == "th")
        place = f' class="{" ".join(names)}"' if names else ""
        return f"<{tag}{place}>{shown or escape(text)}</{tag}>"

    def line(tag: str, cells: Sequence[Cell]) -> str:
        return f"<tr>{''.join(cell(tag, content, k) for k, content in enumerate(cells))}</tr>"

    body = "".join(line("td", row) for row in rows)
    return f"<table><thead>{line('th', head)}</thead><tbody>{body}</tbody></table>"


def paragraph(text: object, name: str = "") -> str:
    """A paragraph of a class, see :data:`Cell`, or of none."""
    style = f' class="{name}"' if name else ""
    style += _style(name) if name in COLOURS else ""
    return f"<p{style}>{escape(text)}</p>"


def titled(title: str, *parts: str) -> str:
    """Parts of HTML below a title."""
    return f"<div><p><strong>{escape(title)}</strong></p>{''.join(parts)}</div>"
