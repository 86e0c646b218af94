"""The command line: ``manifold-jax``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; the entry point of ``manifold-jax``."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError:
        print(
            'Error: the command line needs typer and rich: pip install "manifold_jax[cli]"', file=sys.stderr
        )
        raise SystemExit(2) from None
    from manifold_jax.experiments.calibrate_command import calibrate_command
    from manifold_jax.experiments.classifier.command import leaf_command
    from manifold_jax.experiments.fits.command import bounds_command
    from manifold_jax.experiments.layers.command import layers_command
    from manifold_jax.experiments.measure.command import app

    app.command("bounds")(bounds_command)
    app.command("calibrate")(calibrate_command)
    app.command("leaf")(leaf_command)
    app.command("layers")(layers_command)
    app()
