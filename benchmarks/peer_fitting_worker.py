"""The peer's side of peer_fitting.py: manifold-microscope 0.2.0, and scikit-learn for neighbours.

Run by the interpreter of ``benchmarks/.peer/venv`` (see peer_environment.py), normally from peer_fitting.py:

    .peer/venv/bin/python peer_fitting_worker.py project X.npy Y.npy --variant thin_svd --dimension 4 ...
    .peer/venv/bin/python peer_fitting_worker.py neighbours X.npy Y.npy --variant cdist --neighbours 32

``project`` calls the peer's ``ANNMMLSProjector``: ``thin_svd``, its default, a batch of queries at a time, or
``original``, a query at a time with the f x f covariance and all its singular vectors. Seconds are scaled to
``--total`` queries. ``neighbours``: ``cdist``, what the peer does for up to 10 000 queries, the q x n matrix
of distances and its top k; ``descent``, what it does for more, a graph of pynndescent built on all samples;
``brute``, ``sklearn.neighbors.NearestNeighbors(algorithm="brute")``, which is not the peer's. The last line
printed is the result, as JSON.
"""

from __future__ import annotations

import argparse
import os
from importlib.metadata import version
from typing import Any

import numpy as np
import peer_common as common
import peer_fitting_tasks as tasks


def projector(samples: np.ndarray, options: argparse.Namespace, **chosen: Any) -> Any:
    """The peer's projector, with threads as in its own environment."""
    import torch
    from experiments_and_analysis.models.mmls.projector import ANNMMLSProjector

    torch.set_num_threads(common.machine()["cores"])
    return ANNMMLSProjector(samples, k=options.neighbours, device="cpu", **chosen)


def project(options: argparse.Namespace) -> dict[str, Any]:
    """Project queries onto the peer's fit of the samples."""
    samples, queries = tasks.load(options)
    fit = projector(
        samples,
        options,
        d=options.dimension,
        sigma=options.sigma,
        projection_method=options.variant,
        projection_batch_size=options.batch,
    )
    scale = (options.total or len(queries)) / len(queries)
    found, record = tasks.two_passes(lambda: {"points": fit.project(queries)}, options.warm, scale)
    return tasks.finish(options, found, record | {"queries_timed": len(queries)})


def searcher(samples: np.ndarray, queries: np.ndarray, options: argparse.Namespace) -> Any:
    """A function that builds its index, if any, and returns distances and indices."""
    if options.variant == "brute":
        from sklearn.neighbors import NearestNeighbors

        search = NearestNeighbors(n_neighbors=options.neighbours, algorithm="brute")
        return lambda: search.fit(samples).kneighbors(queries)
    threshold = len(queries) if options.variant == "cdist" else None
    fit = projector(samples, options, d=1, exact_nn_threshold=threshold)
    # Ends the peer's project() where it has its neighbours.
    fit._project_thin_svd = lambda points, indices, distances: (distances.numpy(), indices.numpy())

    def anew() -> Any:
        fit.ann_index = None  # each pass builds its graph
        return fit.project(queries)

    return anew


def neighbours(options: argparse.Namespace) -> dict[str, Any]:
    """Nearest samples of queries."""
    search = searcher(*tasks.load(options), options)
    found, record = tasks.two_passes(
        lambda: dict(zip(("distances", "indices"), search(), strict=True)), options.warm
    )
    return tasks.finish(options, found, record)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    chosen = parser.add_subparsers(required=True)
    task = tasks.add_task(chosen, project, ("thin_svd", "original"))
    task.add_argument("--dimension", type=int, required=True, help="d")
    task.add_argument("--sigma", type=float, default=1.0, help="width of the weights")
    task.add_argument("--batch", type=int, default=32, help="thin_svd: queries at once (the peer's: 32)")
    task.add_argument("--total", type=int, help="seconds are scaled to so many queries")
    tasks.add_task(chosen, neighbours, ("cdist", "descent", "brute"))
    return parser.parse_args()


def main() -> None:
    options = arguments()
    common.volunteer_for_the_oom_killer()
    os.environ.setdefault("TQDM_DISABLE", "1")
    names = ("manifold-microscope", "torch", "pynndescent", "scikit-learn")
    facts = {
        "side": "peer",
        "task": options.task,
        "versions": {name: version(name) for name in names},
        "cores": common.machine()["cores"],
        "start_load_average": common.machine()["load_average"][0],
    }
    try:
        record = options.run(options)
    except (RuntimeError, MemoryError, ValueError) as error:
        record = {"error": f"{type(error).__name__}: {error}"}
    common.report(facts | record)


if __name__ == "__main__":
    main()
