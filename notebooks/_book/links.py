"""Links within the built book: every page, picture and heading that one names is there."""

from collections.abc import Iterator
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sphinx.util import logging

LOGGER = logging.getLogger(__name__)


class Page(HTMLParser):
    """Targets and links of one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name == "id":
                self.targets.add(value)
            elif value and name in {"href", "src"}:
                self.links.append(value)


@lru_cache
def page_of(path: Path) -> Page:
    """What one file of the book holds."""
    return Page(path.read_text("utf8"))


def broken_links(folder: Path) -> Iterator[str]:
    """Links that lead nowhere, with their pages; those to other sites are not looked at."""
    for path in sorted(folder.rglob("*.html")):
        for link in page_of(path).links:
            parts = urlsplit(link)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if parts.scheme or parts.netloc or link.startswith("data:"):
                continue
            anchor = unquote(parts.fragment)
            here = target.is_file() and (not anchor or target.suffix != ".html" or _has(target, anchor))
            if not here:
                yield f"{path.relative_to(folder)}: {link}"


def _has(path: Path, anchor: str) -> bool:
    return anchor in page_of(path).targets


def check(app: Any, exception: Exception | None) -> None:
    """Warn of every link that leads nowhere."""
    if exception is None and app.builder.name == "html":
        for broken in dict.fromkeys(broken_links(Path(app.outdir))):
            LOGGER.warning("this link leads nowhere: %s", broken)


def setup(app: Any) -> None:
    """Look after every build of HTML pages."""
    app.connect("build-finished", check, priority=900)
