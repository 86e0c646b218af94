"""``manifold-jax leaf`` as a user calls it."""

import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from manifold_jax.experiments.classifier import command as leaf_command
from manifold_jax.experiments.classifier import ranks
from manifold_jax.experiments.classifier.command import EXPERIMENTS
from manifold_jax.experiments.classifier.task import MARKS, READERS
from manifold_jax.experiments.results import MANIFEST


def run(*arguments):
    app = typer.Typer()
    app.command()(leaf_command.leaf_command)
    return CliRunner().invoke(app, [*map(str, arguments)])


def text(result):
    return " ".join(result.output.split())


def test_every_experiment_has_a_smaller_size():
    for name, experiment in EXPERIMENTS.items():
        assert type(experiment.full) is type(experiment.reduced), name
        assert experiment.full != experiment.reduced, name
    assert {0, 10_000, 30_000} < set(MARKS)


@pytest.mark.parametrize("name", sorted(set(READERS) - {"digits"}))
def test_every_data_set_is_read_from_its_folder(name, tmp_path):
    for train in (True, False):
        with pytest.raises(FileNotFoundError, match=str(tmp_path)):
            READERS[name](tmp_path, train=train)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("walk",), "no experiment 'walk': choose from rank, history"),
        (("rank", "--preset", "small"), "--preset must be reduced or full, got 'small'"),
        (("rank", "--pairs", 3), "--pairs does not belong to rank: leave it out."),
        (
            ("rank", "--data", "sounds"),
            "data must be one of 'mnist', 'fashion-mnist', 'kmnist', 'emnist', 'cifar10', 'cifar100',",
        ),
        (("letters", "--letters", "none.npz"), "no file none.npz"),
        (("rank", "--letters", "none.npz"), "--letters does not belong to rank"),
        (("sprites", "--steps", 3), "a network of its own: leave out --steps"),
        (("rank", "--data", "mnist", "--path", "nowhere"), "nowhere"),
        (("algorithm", "--between", "3"), "--between must be pairs of numbers"),
        (("algorithm", "--step-size", 0.0), "--step-size must be a positive finite number, got 0.0"),
        (("across", "--step-size", 1.0), "--step-size does not belong to across"),
        (("rank", "--directions", 3), "--directions does not belong to rank"),
        (("paths", "--weights", "w.npz"), "--weights is for --data mnist"),
        (("train", "--workers", 2), "train only trains: leave out --workers"),
        (("sprites", "--scheduler", "tcp://127.0.0.1:9"), "leave out --scheduler"),
    ],
)
@pytest.mark.thorough
def test_what_cannot_be_is_said_in_one_sentence(tmp_path, arguments, message):
    result = run(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert text(result).startswith("Error: ")
    assert message in text(result)


@pytest.mark.parametrize(
    ("name", "options", "figures", "key"),
    [
        ("rank", (), ("rank.png",), None),
        pytest.param(
            "across",
            ("--max-steps", 10),
            ("across_clamped.png", "across_free.png", "across_curves.png"),
            "vertical share",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_run_leaves_its_files_and_is_not_trained_twice(name, options, figures, key, tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "_MANY_CLASSES", 10)  # one program for all three networks
    trained = run("train", "--steps", 20, "--out", tmp_path)
    assert trained.exit_code == 0, trained.output
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"0", "10", "20"}
    asked = (name, "--steps", 20, "--images", 2, *options, "--out", tmp_path)
    stamp = (tmp_path / "checkpoints" / "20" / "_CHECKPOINT_METADATA").stat().st_mtime_ns
    result = run(*asked)
    assert result.exit_code == 0, result.output
    written = {path.name for path in tmp_path.iterdir()} - {MANIFEST}
    assert written == {"checkpoints", f"{name}.json", f"{name}.txt", "report.html", *figures}
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert record["arguments"]["settings"]["images"] == 2
    assert len(record["rows"]) > 1
    assert any(letter.isdigit() for letter in record["headline"]), "the numbers that matter"
    if key:
        assert record["arguments"]["settings"]["max_steps"] == 10
        assert np.shape(record["data"][key]["gradient"]) == (2,)
    assert (tmp_path / "checkpoints" / "20" / "_CHECKPOINT_METADATA").stat().st_mtime_ns == stamp
    other = run("rank", "--steps", 30, "--seed", 1, "--out", tmp_path)
    assert other.exit_code == 2
    assert "another key, batch_size, data or initial parameters" in text(other)


@pytest.mark.slow
def test_algorithm_goes_on_from_its_cells(tmp_path):
    asked = (
        "algorithm",
        "--steps",
        5,
        "--between",
        "3:5,7:8",
        "--ways",
        2,
        "--max-steps",
        4,
        "--out",
        tmp_path,
    )
    for _ in range(2):
        result = run(*asked)
        assert result.exit_code == 0, result.output
    written = {path.name for path in tmp_path.iterdir()}
    figures = {"algorithm_curves.png", "algorithm_images.png"}
    assert written == {
        "checkpoints",
        "algorithm.json",
        "algorithm.txt",
        "report.html",
        "algorithm.cells.jsonl",
        MANIFEST,
        *figures,
    }
    cells = tmp_path / "algorithm.cells.jsonl"
    assert len(cells.read_text().splitlines()) == 4
    # Other steps are other paths: they are walked anew.
    assert run(*asked, "--step-size", 1.0).exit_code == 0
    assert len(cells.read_text().splitlines()) == 8
    record = json.loads((tmp_path / "algorithm.json").read_text())
    assert record["data"]["pairs"] == [[3, 5], [7, 8]]
    assert [row["way"] for row in record["rows"]] == ["full rank", "rank"] * 2
    result = run(*asked[:3], "--between", "3:100000", "--out", tmp_path)
    assert result.exit_code == 2
    assert "--between must be numbers of test images, 0 to" in text(result)
