"""What the commands share: options, errors in one sentence, whole files or none, bars with time left."""

from __future__ import annotations

import codecs
import contextlib
import copy
import difflib
import io
import os
import re
import select
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich import box, progress
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from typer.core import TyperCommand, TyperGroup

from manifold_jax import _files
from manifold_jax._checks import require
from manifold_jax._partial import keeping_parts
from manifold_jax._programs import first_line

_PLAIN = {"±": "+-", "ℓ": "l", "…": "..", "−": "-", "∫": "int", "√": "sqrt ", "τ": "tau", "×": "x", "Δ": "D"}
_RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def _spelled_out(error: UnicodeError) -> tuple[str, int]:
    """Characters that an encoding lacks, in ASCII: ``+-``, ``^-2``; ``?`` for what has no other form."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = re.sub(
        "[⁻⁰-⁹¹²³]+", lambda run: f"^{run[0].translate(_RAISED)}", error.object[error.start : error.end]
    )
    plain = "".join(_PLAIN.get(letter, letter if letter.isascii() else "?") for letter in text)
    return plain, error.end


def write_what_fits() -> None:
    """Let the streams of this process spell out what their encoding cannot say."""
    codecs.register_error("manifold_jax.plain", _spelled_out)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="manifold_jax.plain")


class _Console(Console):
    """A console that prints text as it is, and says nothing more where nobody reads."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        null = os.open(os.devnull, os.O_WRONLY)
        with contextlib.suppress(OSError, ValueError):
            os.dup2(null, self.file.fileno())
        os.close(null)


console = _Console(markup=False, emoji=False)
bars = _Console(stderr=True, markup=False, emoji=False)
"""For progress: what is printed may be read by another program."""

Preset = Annotated[str, typer.Option(help="reduced (minutes on 2 cores) or full (published sizes).")]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of everything that is random.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Training steps (default: the preset's).")]
_COIL20 = "Where COIL-20 is (default: MANIFOLD_JAX_DATA, else downloaded)."
Coil20 = Annotated[Path | None, typer.Option("--path", help=_COIL20)]
Animate = Annotated[bool, typer.Option("--animate", help="Write images that move as GIF too.")]
_OUT = "Folder of the results (default: a folder of that name in runs/)."
Out = Annotated[Path | None, typer.Option(help=_OUT)]


def words(text: str | None) -> tuple[str, ...] | None:
    """Words with commas between, or None where the option was not given."""
    return None if text is None else tuple(word.strip() for word in text.split(","))


def meant(word: str, known: Iterable[str]) -> str:
    """A guess which of the known words is meant, to be put before a list of them; empty if none is near.

    Example:
        >>> meant("sprite", ("sprites", "torus"))
        'perhaps you mean sprites; '
    """
    near = difflib.get_close_matches(word.lower(), list(known), 1)
    return f"perhaps you mean {near[0]}; " if near else ""


class _WithoutTypes:
    """A command whose help shows no type of a flag: ``<bool>`` asks for a value, which flags do not take."""

    def get_params(self, ctx: Any) -> list[Any]:
        """All parameters."""
        params = super().get_params(ctx)  # pyright: ignore[reportAttributeAccessIssue]
        for param in params:
            if getattr(param, "is_flag", False):
                param.metavar = ""
        return params


class PlainCommand(_WithoutTypes, TyperCommand):
    """One of the commands."""


class _PlainGroup(_WithoutTypes, TyperGroup):
    """All of them."""


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"manifold_jax {version('manifold_jax')}")
        raise typer.Exit


_VERSION = typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)


def _root(show: Annotated[bool, _VERSION] = False) -> None:
    """Take the options of no command."""


def new_application(about: str) -> typer.Typer:
    """An application without commands; it knows ``--help`` and ``--version``."""
    app = typer.Typer(
        cls=_PlainGroup, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )
    app.callback(help=about)(_root)
    return app


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


_GRACE = 3.0  # seconds that compiled code has to return after a signal, before the process ends without it
_PATIENCE = 10.0  # seconds after which an interrupt that nobody took is raised again
_signals: list[int] = []  # those that Python has seen
_taken: list[int] = []  # those that ended a command
NOTHING = "Interrupted, before there was anything to keep."
_interrupted = [NOTHING]  # what is said when a signal comes now


def handle_signals() -> None:
    """From now on Ctrl-C and SIGTERM end this process in one sentence, also while compiled code runs.

    The first one interrupts Python, as soon as compiled code returns; after some seconds, and at a second
    one, a thread ends the process. What JAX calls while it traces may lose an interrupt: it is raised again.
    On Windows Python's own handling of Ctrl-C remains.
    """
    if os.name == "nt":
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def interrupt(number: int, _: object) -> None:
        _signals.append(number)
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    def is_again(seconds: float | None) -> bool:
        """Whether a signal comes within some seconds."""
        return bool(select.select([reading], [], [], seconds)[0])

    def watch() -> None:
        number, sent = os.read(reading, 1)[0], 1
        while not is_again(_GRACE):
            if len(_signals) < sent:  # compiled code has not returned
                print(f"\n{_interrupted[0]}", file=sys.stderr, flush=True)
                break
            if is_again(None if _taken else _PATIENCE):  # Python is at work; a second signal ends it
                break
            os.kill(os.getpid(), number)
            os.read(reading, 1)
            sent += 1
        leave(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=watch, daemon=True).start()


def leave(status: int) -> NoReturn:
    """End the process at once: its interpreter would crash while compiled code still runs."""
    _files.forget_unfinished()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            if stream.isatty():
                stream.write("\x1b[?25h")  # the cursor, which a progress bar hides
            stream.flush()
    os._exit(status)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """One sentence instead of a traceback for what the user can mend, and for an interrupt."""
    _interrupted[0] = NOTHING
    try:
        yield
    except (ValueError, ImportError, OSError) as error:
        words: object = error
        if isinstance(error, OSError) and error.strerror:  # without [Errno 28]
            words = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        typer.echo(f"Error: {words}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt as error:
        _taken.append(status_of(error))
        typer.echo(f"\n{_interrupted[0]}", err=True)
        raise typer.Exit(status_of(error)) from None


def status_of(error: KeyboardInterrupt) -> int:
    """Exit status, as shells give it for Ctrl-C and SIGTERM."""
    return 143 if isinstance(error, Terminated) else 130


def prepare(out: Path, *, plots: bool = True) -> Path:
    """The folder of the results, after asking for all that writing them needs; nothing is made yet."""
    for module in ("xarray", "h5netcdf", "h5py", "plotly", *(["matplotlib"] if plots else [])):
        require(module, "cli", "This command")
    folder = _files.user_path(out)
    _files.check_folder(folder)
    return folder


def command_line() -> str:
    """What was typed."""
    return shlex.join(["manifold-jax", *sys.argv[1:]])


@contextlib.contextmanager
def results_folder(out: Path) -> Iterator[None]:
    """Hold the folder of the results: it can be written, and no other process writes to it.

    Parts of work that are kept in it go when all results are written.
    """
    _files.make_folder(out)
    with _files.locked(out), keeping_parts():
        _files.remove_leftovers(out)
        kept = f"What was complete, if anything, is kept in {out}; the same command goes on:"
        _interrupted[0] = f"Interrupted. {kept}\n  {command_line()}"
        yield


@contextlib.contextmanager
def left_out(name: str, lost: list[str]) -> Iterator[None]:
    """Go on without what only shows results: whatever it raises must not cost the results."""
    try:
        yield
    except Exception as error:  # of drawing libraries, for data that nobody thought of
        lost.append(f"{name} is left out: {first_line(error)}")


@contextlib.contextmanager
def progress_bar(label: str, first: str = " (compiling)") -> Iterator[Callable[[int, int], None]]:
    """Bar with time left; what comes ``first`` is not extrapolated."""
    text = progress.TextColumn("{task.description}", markup=False)
    columns = (text, progress.BarColumn(), progress.TaskProgressColumn())
    columns += (progress.TimeElapsedColumn(), "left", progress.TimeRemainingColumn())
    with progress.Progress(*columns, console=bars, disable=not bars.is_terminal) as bar:
        task = bar.add_task(f"{label}{first}", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total, description=label)


_WIDEST = 10_000  # columns in which any table has room


class _Table(Table):
    """A table that leaves out ``spare`` columns, the first of them first, where it is too wide."""

    spare: tuple[str, ...] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What is shown: numbers are never cut as long as there is a column to spare."""
        shown, wide = copy.copy(self), options.update(max_width=_WIDEST)
        for name in self.spare:
            if console.measure(shown, options=wide).maximum <= options.max_width:
                break
            shown.columns = [column for column in shown.columns if column.header != name]
        yield from Table.__rich_console__(shown, console, options)


def new_table(*names: str, spare: Sequence[str] = ()) -> Table:
    """An empty table; numbers to the right. Columns that are ``spare`` are left out where it is too wide."""
    table = _Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.spare = tuple(spare)
    for k, name in enumerate(names):
        table.add_column(name, justify="left" if k == 0 or name == "unit" else "right", no_wrap=True)
    return table


def as_text(parts: Sequence[RenderableType], width: int = 110) -> str:
    """Tables and sentences as plain text, at most so many columns wide."""
    paper = Console(file=io.StringIO(), width=width, color_system=None, markup=False, emoji=False)
    with paper.capture() as text:
        paper.print(*parts, sep="\n")
    return text.get()
