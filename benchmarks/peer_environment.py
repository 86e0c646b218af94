"""Set up the peer's own virtual environment: manifold-microscope 0.2.0 beside PyTorch on the CPU.

    python benchmarks/peer_environment.py

It lives in ``benchmarks/.peer/venv`` (git-ignored) and never touches the environment of manifold_jax. A
second call finds it ready and returns at once. PyTorch is installed first, so the peer's requirement does
not pull in the build for CUDA, which is several GB. Where pip's own package index offers the CUDA build only
(the script then refuses, before any download), name the index of the CPU wheels, which PyTorch's installation
page gives, in ``--torch-args="--index-url ADDRESS"`` or in the environment variable PEER_TORCH_ARGS.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

TORCH = "2.13.0"
PEER = "0.2.0"
FOLDER = Path(__file__).resolve().parent / ".peer"

_PROBE = """
import json
from importlib.metadata import version
import torch
from microscope.computations_grid import curvature, reach, volume
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda,
                  "manifold-microscope": version("manifold-microscope")}))
"""


class EnvironmentFailure(Exception):
    """The environment cannot be made; the message is one sentence for a reader."""


def peer_python(folder: Path = FOLDER) -> Path:
    """Path of the peer's interpreter, whether or not it exists."""
    return folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def installed(folder: Path = FOLDER) -> dict[str, str | None] | None:
    """Versions in a working environment, or None when there is none or an import fails."""
    python = peer_python(folder)
    if not python.exists():
        return None
    result = subprocess.run([python, "-c", _PROBE], capture_output=True, text=True)
    return json.loads(result.stdout) if result.returncode == 0 else None


def ready(versions: dict[str, str | None] | None) -> bool:
    """Whether the probed versions are the ones this benchmark is about."""
    return (
        versions is not None
        and str(versions["torch"]).split("+")[0] == TORCH
        and versions["manifold-microscope"] == PEER
    )


def _run(command: list[str | Path], purpose: str) -> str:
    """Run a step and return its output, or fail with its last line of error output."""
    try:
        result = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise EnvironmentFailure(f"Could not {purpose}: {error}.") from None
    if result.returncode:
        lines = [line.strip() for line in (result.stderr or result.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error")] or lines or ["no output"]
        raise EnvironmentFailure(f"Could not {purpose}: {errors[-1]}")
    return result.stdout


def _refuse_cuda(python: Path, torch_args: list[str]) -> None:
    """Resolve torch without installing it and refuse a build that brings CUDA along."""
    plan = [python, "-m", "pip", "install", "--quiet", "--dry-run", "--report", "-"]
    resolved = json.loads(_run([*plan, f"torch=={TORCH}", *torch_args], f"find torch {TORCH}"))
    names = {entry["metadata"]["name"].lower() for entry in resolved["install"]}
    if any(name.startswith(("nvidia-", "cuda-", "triton")) for name in names):
        raise EnvironmentFailure(
            f"pip would fetch the CUDA build of torch {TORCH}, several GB: name the index of the CPU wheels "
            'with --torch-args="--index-url ADDRESS", or accept the download with --allow-cuda.'
        )


def ensure(
    folder: Path = FOLDER,
    *,
    torch_args: list[str] | None = None,
    allow_cuda: bool = False,
    recreate: bool = False,
    also: tuple[str, ...] = (),
) -> Path:
    """Make the environment if it is not there and return the path of its interpreter.

    Args:
        folder: Where it lives.
        torch_args: Extra arguments of ``pip install torch``; by default those in PEER_TORCH_ARGS.
        allow_cuda: Accept a build of torch that brings CUDA along.
        recreate: Remove what is there and start again.
        also: Names of further packages, which the peer asks for in its extras only.

    Raises:
        EnvironmentFailure: A step failed; the message says which and why.
    """
    python = peer_python(folder)
    if recreate:
        shutil.rmtree(folder / "venv", ignore_errors=True)
    if ready(installed(folder)):
        _add(python, also)
        return python
    torch_args = shlex.split(os.environ.get("PEER_TORCH_ARGS", "")) if torch_args is None else torch_args
    folder.mkdir(parents=True, exist_ok=True)
    if not python.exists():
        _run([sys.executable, "-m", "venv", folder / "venv"], "create a virtual environment")
    install = [python, "-m", "pip", "install", "--quiet"]
    if not allow_cuda:
        _refuse_cuda(python, torch_args)
    _run([*install, f"torch=={TORCH}", *torch_args], f"install torch {TORCH}")
    # torch is satisfied by now; naming it again keeps pip from moving it.
    _run([*install, f"torch=={TORCH}", f"manifold-microscope=={PEER}"], f"install the peer {PEER}")
    versions = installed(folder)
    if not ready(versions):
        raise EnvironmentFailure(
            f"The peer's environment in {folder} does not import after installation (found {versions}): "
            "start again with --recreate."
        )
    _add(python, also)
    return python


def _add(python: Path, packages: tuple[str, ...]) -> None:
    """Install further packages where they are missing; the versions of torch and the peer stay."""
    for name in packages:
        asked = f"import importlib.metadata as m; m.version({name!r})"
        if subprocess.run([python, "-c", asked], capture_output=True).returncode:
            fixed = [f"torch=={TORCH}", f"manifold-microscope=={PEER}"]
            _run([python, "-m", "pip", "install", "--quiet", *fixed, name], f"install {name}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the environment lives")
    parser.add_argument(
        "--torch-args", default=None, help="extra arguments of pip install torch (default: $PEER_TORCH_ARGS)"
    )
    parser.add_argument("--allow-cuda", action="store_true", help="accept a CUDA build of torch")
    parser.add_argument("--recreate", action="store_true", help="remove the environment first")
    parser.add_argument("--check", action="store_true", help="only say whether it is ready")
    options = parser.parse_args()
    if options.check:
        versions = installed(options.folder)
        print(f"ready: {versions}" if ready(versions) else f"not ready: {versions}")
        raise SystemExit(0 if ready(versions) else 1)
    torch_args = None if options.torch_args is None else shlex.split(options.torch_args)
    try:
        python = ensure(
            options.folder, torch_args=torch_args, allow_cuda=options.allow_cuda, recreate=options.recreate
        )
    except EnvironmentFailure as failure:
        raise SystemExit(str(failure)) from None
    print(f"{python}  {installed(options.folder)}")


if __name__ == "__main__":
    main()
