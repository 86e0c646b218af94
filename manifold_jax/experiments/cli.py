"""The command line: ``manifold-jax``."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

_HOME = "manifold_jax.experiments"
COMMANDS = {
    "measure": (f"{_HOME}.measure.command", "Measure volume, curvature and reach with error bars."),
    "inspect": (f"{_HOME}.measure.inspect", "Say what a file or folder holds, and how to measure it."),
    "leaf": (f"{_HOME}.classifier.command", "Look at the manifold that a classifier sees."),
    "layers": (f"{_HOME}.layers.command", "Measure a known manifold in every layer of a network."),
    "bounds": (f"{_HOME}.fits.command", "Fit manifolds from samples, and compare with rates and bounds."),
    "calibrate": (f"{_HOME}.calibrate", "Compare estimators from samples with what is known."),
}
"""By name: the module that holds ``NAME_command``, and a line of ``--help``."""


def application(asked: str | None = None) -> typer.Typer:
    """The commands. Only the module of the one that is asked for is imported; the others are listed."""
    from manifold_jax.experiments.terminal import PlainCommand, new_application

    app = new_application("Measure data manifolds: volume, curvature and reach with error bars.")
    for name, (module, about) in COMMANDS.items():
        if name == asked:
            app.command(name, cls=PlainCommand)(getattr(import_module(module), f"{name}_command"))
        else:
            app.command(name, help=about)(lambda: None)
    return app


def _end(number: int, _: object) -> None:
    os.write(2, b"\nInterrupted, before there was anything to keep.\n")
    os._exit(128 + number)


@contextlib.contextmanager
def _ending_at_once() -> Iterator[None]:
    """End the process at a signal: out of an import an exception would come as another, or as a traceback."""
    usual = {number: signal.signal(number, _end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


def main() -> None:
    """Run the command line; the entry point of ``manifold-jax``."""
    with _ending_at_once():
        try:
            import rich  # noqa: F401
            import typer  # noqa: F401

            from manifold_jax.experiments import terminal
        except ImportError:
            missing = 'the command line needs typer and rich: pip install "manifold_jax[cli]"'
            print(f"Error: {missing}", file=sys.stderr)
            raise SystemExit(2) from None
        app = application(sys.argv[1] if len(sys.argv) > 1 else None)
    # Tracing makes millions of objects and hardly any cycles: to look for them took 6 % of a run.
    gc.set_threshold(100_000, 50, 100)
    try:
        terminal.handle_signals()
        terminal.write_what_fits()
        app()
    except SystemExit as end:
        if end.code in (130, 143):
            terminal.leave(end.code)
        raise
    except KeyboardInterrupt as error:
        print(f"\n{terminal.NOTHING}", file=sys.stderr)
        terminal.leave(terminal.status_of(error))
