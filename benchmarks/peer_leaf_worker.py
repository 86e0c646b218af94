"""PyTorch's side of peer_leaf.py: local data matrix and horizontal paths of one LeNet, one task a process.

Run by the interpreter of ``benchmarks/.peer/venv`` (see peer_environment.py), normally from peer_leaf.py:

    .peer/venv/bin/python peer_leaf_worker.py spectrum CASE.npz --variant factor --save FOUND.npz
    .peer/venv/bin/python peer_leaf_worker.py paths CASE.npz --variant func --chunk 25 --steps 20

Variants of ``spectrum``: ``matrix`` is the route of the public code of Grementieri & Fioresi, an image at a
time: ``autograd.functional.jacobian``, the n x n matrix as a sum of C outer products; here followed by its
eigenvalues. ``factor`` is the same loop with the singular values of the C x n factor. ``func`` is
``torch.func.vmap(jacrev)`` with the factor, ``--chunk`` images at a time. Those of ``paths``: ``loop``, a
pair at a time, and ``func``, ``--chunk`` pairs at a time; both project by the QR factors of C - 1 differences
of gradients. The last line printed is the result, as JSON.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peer_common as common
import torch
from torch.autograd.functional import jacobian
from torch.nn import functional

Tensors = tuple[torch.Tensor, ...]


class LeNet(torch.nn.Module):
    """The network of manifold_jax.models.LeNet with weights stored by ours_leaf_worker.py."""

    def __init__(self, case: Any) -> None:
        super().__init__()
        self.mean, self.std = float(case["mean"]), float(case["std"])
        for name in ("first", "second"):
            self._add(name, case[f"{name}/kernel"].transpose(3, 2, 0, 1), case[f"{name}/bias"])
        # Rows of our dense kernel run over (height, width, channel), those of torch over (channel, h, w).
        hidden, channels = case["hidden/kernel"], case["second/bias"].size
        side = round((hidden.shape[0] // channels) ** 0.5)
        hidden = hidden.reshape(side, side, channels, -1).transpose(3, 2, 0, 1)
        self._add("hidden", hidden.reshape(len(hidden), -1), case["hidden/bias"])
        self._add("output", case["output/kernel"].T, case["output/bias"])

    def _add(self, name: str, weight: np.ndarray, bias: np.ndarray) -> None:
        self.register_buffer(f"{name}_weight", torch.tensor(np.ascontiguousarray(weight)))
        self.register_buffer(f"{name}_bias", torch.tensor(bias))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of images ``(batch, 1, h, w)`` with pixels in [0, 1]."""
        x = (x - self.mean) / self.std
        x = functional.relu(functional.conv2d(x, self.first_weight, self.first_bias))
        x = functional.relu(functional.conv2d(x, self.second_weight, self.second_bias))
        x = torch.flatten(functional.max_pool2d(x, 2), 1)
        x = functional.relu(functional.linear(x, self.hidden_weight, self.hidden_bias))
        return functional.log_softmax(functional.linear(x, self.output_weight, self.output_bias), dim=1)


# --- the local data matrix --------------------------------------------------------------------------------


def loop_jacobian(model: LeNet, x: torch.Tensor) -> torch.Tensor:
    """Gradients of the log-probabilities of one image, ``(C, n)``: one pull-back after the other."""
    return jacobian(model, x[None, None])[0].flatten(1)


def batch_jacobian(model: LeNet) -> Callable[[torch.Tensor], Tensors]:
    """Log-probabilities ``(b, C)`` and gradients ``(b, C, n)`` of a batch."""

    def one(x: torch.Tensor) -> Tensors:
        log_p = model(x[None, None])[0]
        return log_p, log_p

    both = torch.func.vmap(torch.func.jacrev(one, has_aux=True))

    def of(x: torch.Tensor) -> Tensors:
        rows, log_p = both(x)
        return log_p, rows.flatten(2)

    return of


def matrix_spectrum(model: LeNet, images: torch.Tensor, _: int) -> Tensors:
    """Trace and the C largest eigenvalues of the n x n matrix, an image at a time."""
    found = []
    for x in images:
        rows = loop_jacobian(model, x)
        with torch.no_grad():
            p = torch.exp(model(x[None, None]))[0]
            products = torch.bmm(rows.unsqueeze(2), rows.unsqueeze(1)).permute(1, 2, 0)
            matrix = torch.sum(p * products, dim=-1)
            values = torch.linalg.eigvalsh(matrix).flip(0)[: len(p)]
            found.append((torch.trace(matrix), values, torch.sum(rows**2)))
    return tuple(map(torch.stack, zip(*found, strict=True)))


def of_factor(log_p: torch.Tensor, rows: torch.Tensor) -> Tensors:
    """Trace, eigenvalues and sum of squared gradients from the C x n factor, batched."""
    factor = torch.exp(log_p / 2).unsqueeze(-1) * rows
    values = torch.linalg.svdvals(factor) ** 2
    return (factor**2).sum((-2, -1)), values, (rows**2).sum((-2, -1))


def factor_spectrum(model: LeNet, images: torch.Tensor, _: int) -> Tensors:
    """The same by the singular values of the C x n factor, an image at a time."""
    found = []
    for x in images:
        rows = loop_jacobian(model, x)
        with torch.no_grad():
            found.append(of_factor(model(x[None, None])[0], rows))
    return tuple(map(torch.stack, zip(*found, strict=True)))


def func_spectrum(model: LeNet, images: torch.Tensor, chunk: int) -> Tensors:
    """The same by torch.func, a chunk of images at a time."""
    both = batch_jacobian(model)
    with torch.no_grad():
        found = [of_factor(*both(part)) for part in images.split(chunk)]
    return tuple(map(torch.cat, zip(*found, strict=True)))


# --- horizontal paths -------------------------------------------------------------------------------------


def moved(
    x: torch.Tensor, rows: torch.Tensor, destination: torch.Tensor, step_size: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of a batch of flat points along the horizontal part of what is left, and its length."""
    # Differences span D_x and have full rank, which the C gradients (sum_y p_y a_y = 0) have not.
    basis = torch.linalg.qr((rows[:, :-1] - rows[:, -1:]).mT).Q
    aim = (basis @ (basis.mT @ (destination - x).unsqueeze(-1))).squeeze(-1)
    length = torch.linalg.vector_norm(aim, dim=-1, keepdim=True)
    size = torch.clamp(length, max=step_size)
    return x + size * aim / length, size


def loop_paths(model: LeNet, ends: Tensors, options: argparse.Namespace) -> Tensors:
    """A pair at a time; end points and lengths."""
    found = []
    for source, destination in zip(*ends, strict=True):
        x, target, length = source.flatten()[None], destination.flatten()[None], 0.0
        for _ in range(options.steps):
            rows = loop_jacobian(model, x.reshape(source.shape))
            with torch.no_grad():
                x, size = moved(x, rows[None], target, options.step_size)
                length = length + size
        found.append((x[0], length[0, 0]))
    return tuple(map(torch.stack, zip(*found, strict=True)))


def func_paths(model: LeNet, ends: Tensors, options: argparse.Namespace) -> Tensors:
    """A chunk of pairs at a time."""
    both, found = batch_jacobian(model), []
    with torch.no_grad():
        for sources, destinations in zip(*(end.split(options.chunk) for end in ends), strict=True):
            x, target, length = sources.flatten(1), destinations.flatten(1), 0.0
            for _ in range(options.steps):
                x, size = moved(x, both(x.reshape(sources.shape))[1], target, options.step_size)
                length = length + size
            found.append((x, length[:, 0]))
    return tuple(map(torch.cat, zip(*found, strict=True)))


# --- the tasks --------------------------------------------------------------------------------------------


def two_passes(passed: Callable[[], Tensors], scale: float) -> tuple[list[np.ndarray], dict[str, Any]]:
    """A first pass with its memory and a second one; seconds times ``scale``."""

    def timed() -> tuple[float, float, list[np.ndarray]]:
        processor = time.process_time()
        seconds, found = common.timed(lambda: [part.cpu().numpy() for part in passed()])  # waits for a GPU
        return scale * seconds, scale * (time.process_time() - processor), found

    memory = common.MemoryMeter("memory", 0)
    with memory:
        seconds, processor, found = timed()
    record: dict[str, Any] = {"seconds": seconds, "cpu_seconds": processor, "memory": memory.reading()}
    cuda = torch.cuda.is_available()
    record["device_peak_bytes"] = torch.cuda.max_memory_allocated() if cuda else None
    record["warm_seconds"], record["warm_cpu_seconds"], _ = timed()
    return found, record | {"extrapolated": scale != 1}


def load(options: argparse.Namespace) -> tuple[LeNet, Callable[[str], torch.Tensor]]:
    """The network, and its images by name."""
    case = np.load(options.case)
    device = torch.device("cuda" if torch.cuda.is_available() and options.device != "cpu" else "cpu")
    dtype = torch.float64 if options.x64 else torch.float32
    model = LeNet(case).eval().to(device, dtype)
    return model, lambda name: torch.tensor(case[name][: options.count], device=device, dtype=dtype)


def spectrum(options: argparse.Namespace) -> dict[str, Any]:
    """Trace and spectrum of G for images."""
    model, stored = load(options)
    images = stored("images")
    variant = {"matrix": matrix_spectrum, "factor": factor_spectrum, "func": func_spectrum}[options.variant]
    passed = lambda: variant(model, images, options.chunk)  # noqa: E731
    (trace, values, scores), record = two_passes(passed, (options.total or len(images)) / len(images))
    if options.save:
        np.savez(options.save, trace=trace, values=values, scores=scores)
    return {"images": len(images), "device": str(images.device), **record}


def paths(options: argparse.Namespace) -> dict[str, Any]:
    """Horizontal paths of a fixed number of steps."""
    model, stored = load(options)
    ends = stored("sources"), stored("destinations")
    variant = {"loop": loop_paths, "func": func_paths}[options.variant]
    passed = lambda: variant(model, ends, options)  # noqa: E731
    made = len(ends[0]) * options.steps
    scale = (options.total or made) / made
    (points, lengths), record = two_passes(passed, scale)
    if options.save:
        np.savez(options.save, points=points, lengths=lengths)
    return {"pairs": len(ends[0]), "steps": options.steps, "device": str(ends[0].device), **record}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tasks = parser.add_subparsers(required=True)
    for run, variants, unit in (
        (spectrum, ("matrix", "factor", "func"), "images"),
        (paths, ("loop", "func"), "pairs"),
    ):
        task = tasks.add_parser(run.__name__, help=run.__doc__)
        task.set_defaults(run=run)
        task.add_argument("case", type=Path, help="weights and images, .npz, by ours_leaf_worker.py")
        task.add_argument("--variant", required=True, choices=variants)
        task.add_argument("--chunk", type=int, default=64, help=f"func: {unit} at once")
        task.add_argument("--count", type=int, help=f"only so many {unit}")
        task.add_argument("--total", type=int, help="seconds are scaled to so many images, or pairs x steps")
        task.add_argument("--device", choices=("cpu", "auto"), default="auto", help="auto: CUDA if any")
        task.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
        task.add_argument("--x64", action="store_true", help="float64")
        task.add_argument("--save", type=Path, help="where to store what was found, .npz")
        if run is paths:
            task.add_argument("--steps", type=int, default=100)
            task.add_argument("--step-size", type=float, default=0.03)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    common.volunteer_for_the_oom_killer()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False  # our convolutions have full precision on a GPU too
    facts = {
        "side": "torch",
        "task": options.run.__name__,
        "variant": options.variant,
        "chunk": options.chunk if options.variant == "func" else None,
        "versions": {"torch": torch.__version__},
        "threads": torch.get_num_threads(),
        "start_load_average": common.machine()["load_average"][0],
    }
    try:
        record = options.run(options)
    except (RuntimeError, MemoryError, ValueError) as error:
        record = {"error": f"{type(error).__name__}: {error}"}
    common.report(facts | record)


if __name__ == "__main__":
    main()
