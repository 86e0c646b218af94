"""Cells are executed before the pages are read, several notebooks at once, and kept for the next build."""

import hashlib
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from logging import getLogger
from pathlib import Path
from typing import Any

from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import single_nb_execution
from myst_nb.core.read import create_nb_reader
from sphinx.errors import ExtensionError
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
PACKAGE = Path(__file__).parents[2] / "manifold_jax"
OPTIONS: dict[str, Any] = {
    "allow_errors": False,
    "startup_timeout": 300,  # of a kernel, on a busy machine
    "extra_arguments": ["--IPKernelApp.log_level=40"],  # errors: kernels warn that they are not encrypted
}
REDUCED = bool(os.environ.get("MANIFOLD_JAX_REDUCED"))


def digest_of(*folders: Path) -> str:
    """What pages depend on besides their text: sources, and how much is executed."""
    digest = hashlib.sha256(f"reduced {REDUCED}".encode())
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def notebooks_of(app: Any, names: list[str]) -> dict[Path, Any]:
    """The pages with cells among those that are read, as notebooks."""
    books = {}
    for name in names:
        path = Path(app.env.doc2path(name))
        if path.suffix in {".md", ".py"}:
            text = path.read_text("utf8")
            reader = create_nb_reader(str(path), app.env.myst_config, app.env.mystnb_config, text)
            if reader is not None:
                books[path] = reader.read(text)
    return books


def execute(path: Path, notebook: Any, timeout: int) -> Any:
    """Run all cells in a folder of their own; what went wrong is in the result."""
    LOGGER.info("executing %s", path.name)
    with tempfile.TemporaryDirectory() as folder:
        return single_nb_execution(notebook, cwd=folder, timeout=timeout, **OPTIONS)


def execute_pages(app: Any, env: Any, names: list[str]) -> None:
    """Execute what is not in the cache, the longest first, as many at once as there are cores."""
    if app.config.nb_execution_mode != "cache":
        return
    cache = get_cache(app.config.nb_execution_cache_path)
    fresh = {path: book for path, book in notebooks_of(app, names).items() if not _known(cache, book)}
    longest_first = sorted(fresh, key=lambda path: (path.suffix == ".py", path.stat().st_size), reverse=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {
            path: pool.submit(execute, path, fresh[path], app.config.nb_execution_timeout)
            for path in longest_first
        }
    results = {path: job.result() for path, job in jobs.items()}
    for path, result in results.items():
        if result.err is None:
            bundle = CacheBundleIn(result.nb, str(path), data={"execution_seconds": result.time})
            cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
            LOGGER.info("executed %s in %.0f s", path.name, result.time)
    failed = [
        f"{path.name}:\n{result.exc_string}" for path, result in results.items() if result.err is not None
    ]
    if failed:
        raise ExtensionError("cells failed in " + "\n".join(failed))


def _known(cache: Any, notebook: Any) -> bool:
    try:
        cache.match_cache_notebook(notebook)
    except KeyError:
        return False
    return True


def setup(app: Any) -> None:
    """Outputs are kept next to the built book, and forgotten when the package changes."""
    place = Path(app.outdir).parent / ".book"
    app.config.nb_execution_cache_path = str(place / digest_of(PACKAGE))
    app.add_config_value("book_digest", "", "env")  # another one: every page is read again
    app.config.book_digest = digest_of(PACKAGE, Path(__file__).parent)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(place / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # JAX, imported by now, set another one
    os.environ.pop("MPLBACKEND", None)  # kernels draw into the page
    getLogger("traitlets").setLevel("WARNING")  # of kernels, which tell what they do
    app.connect("env-before-read-docs", execute_pages)
