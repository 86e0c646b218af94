"""What the commands share: options, errors in one sentence, whole files or none, bars with time left."""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich import progress
from rich.console import Console, RenderableType

from manifold_jax._files import make_folder

console = Console()

Preset = Annotated[str, typer.Option(help="reduced (minutes on 2 cores) or full (published sizes).")]
Seed = Annotated[int, typer.Option(help="Seed of everything that is random.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Training steps (default: the preset's).")]
_COIL20 = "Where COIL-20 is (default: MANIFOLD_JAX_DATA, else downloaded)."
Coil20 = Annotated[Path | None, typer.Option("--path", help=_COIL20)]
_OUT = "Folder of the results (default: a folder of that name in runs/)."
Out = Annotated[Path | None, typer.Option(help=_OUT)]


def words(text: str | None) -> tuple[str, ...] | None:
    """Words with commas between, or None where the option was not given."""
    return None if text is None else tuple(word.strip() for word in text.split(","))


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"manifold_jax {version('manifold_jax')}")
        raise typer.Exit


_VERSION = typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)


def _root(show: Annotated[bool, _VERSION] = False) -> None:
    """Take the options of no command."""


def new_application(about: str) -> typer.Typer:
    """An application without commands; it knows ``--help`` and ``--version``."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback(help=about)(_root)
    return app


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """One sentence instead of a traceback for what the user can mend."""
    try:
        yield
    except (ValueError, ImportError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None


@contextlib.contextmanager
def results_folder(out: Path) -> Iterator[None]:
    """Make sure that the folder can be written, and leave no half-written file in it."""
    make_folder(out)
    try:
        yield
    except KeyboardInterrupt:
        message = f"\nInterrupted. What is done is kept in {out}; the same command goes on:\n  "
        typer.echo(message + shlex.join(["manifold-jax", *sys.argv[1:]]), err=True)
        raise typer.Exit(130) from None  # as shells say for Ctrl-C
    finally:
        for aside in (*out.glob(".*.tmp.*"), *out.glob("partial-*.tmp")):
            aside.unlink(missing_ok=True)


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """Bar with time left; the time to compile is not extrapolated."""
    columns = ("{task.description}", progress.BarColumn(), progress.TaskProgressColumn())
    columns += (progress.TimeElapsedColumn(), "left", progress.TimeRemainingColumn())
    with progress.Progress(*columns, console=console, transient=not console.is_terminal) as bar:
        task = bar.add_task(f"{label} (compiling)", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total, description=label)


def as_text(parts: Sequence[RenderableType], width: int = 110) -> str:
    """Tables and sentences as plain text, at most so many columns wide."""
    paper = Console(file=io.StringIO(), width=width, color_system=None)
    with paper.capture() as text:
        paper.print(*parts, sep="\n")
    return text.get()
