"""A headless Chromium that opens reports, driven through Playwright; a skip with a reason without it."""

import contextlib
import os
import shutil

import pytest

# Software rendering: machines that run tests have no GPU.
ARGUMENTS = ("--no-sandbox", "--enable-unsafe-swiftshader", "--use-angle=swiftshader")


@contextlib.contextmanager
def browser():
    """The browser, or a skip."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra browser)")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no chromium (apt-get install chromium)")
    with api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            yield chromium
        finally:
            chromium.close()


@contextlib.contextmanager
def opened(chromium, file, width=1280, scheme="light"):
    """A page of a file without network, whose errors fail the test."""
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    page, errors, asked = context.new_page(), [], []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-ready=yes]", timeout=60_000)
    yield page
    assert not errors
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked), asked
    context.close()
