"""The command that calibrates estimators: refusals, what it writes, going on."""

import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

pytest.importorskip("skdim", reason="needs the extra estimators")

from manifold_jax.datasets import circle
from manifold_jax.experiments import calibrate as command
from manifold_jax.experiments.calibrate import EXACT, GRID, calibrate_command, ellipses, measure_on_grid
from manifold_jax.experiments.calibration import balls, reaches
from manifold_jax.fitting import builtin_estimators


def run(*arguments):
    app = typer.Typer()
    app.command()(calibrate_command)
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--manifold", "cube"], "manifold must be one of 'sphere2', 'sphere3'"),
        (["--preset", "huge"], "--preset must be"),
        (["--size", 10], "greater than or equal to 50"),
    ],
)
def test_the_command_refuses_in_one_sentence(arguments, words, tmp_path):
    result = run(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def check_run(sizes, tmp_path, monkeypatch):
    """Run the command twice; the second time nothing is estimated."""
    options = ["--manifold", "sphere2", "--seeds", 1, "--out", tmp_path]
    options += [word for size in sizes for word in ("--size", size)]
    first = run(*options)
    assert first.exit_code == 0, first.output
    record = json.loads((tmp_path / "calibrate.json").read_text())
    assert list(record["rows"][0]) == ["quantity", "of", "by", *(f"n = {n}" for n in sizes), "slope", "s"]
    rows = record["data"]["rows"]
    assert (tmp_path / "calibrate.png").stat().st_size > 1000
    by_grid = [r["rmse"] for r in rows if r["estimator"] == GRID and r["quantity"] == "scalar_curvature"]
    exactly = [r["rmse"] for r in rows if r["estimator"] == EXACT]
    assert max(by_grid) < 0.02
    assert len(exactly) == len(command.CURVATURES)
    assert max(exactly) < 1e-12
    monkeypatch.setattr(command, "calibrate", lambda *_, **__: pytest.fail("was done before"))
    assert run(*options).exit_code == 0
    again = json.loads((tmp_path / "calibrate.json").read_text())["data"]["rows"]
    samples = [[r for r in part if r["estimator"] not in (GRID, EXACT)] for part in (rows, again)]
    assert samples[0] == samples[1]
    return samples[0]


@pytest.mark.thorough
def test_a_tiny_run_writes_its_tables_and_goes_on(tmp_path, monkeypatch):
    few = [one for one in builtin_estimators() if one.quantity == "volume" or one.name == "TwoNN"]
    fewer = {name: command.CURVATURES[name] for name in ("scalar_curvature", "second_form_norm")}
    monkeypatch.setattr(command, "CURVATURES", fewer)
    monkeypatch.setitem(command.PLACES, "sphere2", circle)  # a curve: less to compile
    monkeypatch.setattr(command, "builtin_estimators", lambda **_: few)
    assert {row["quantity"] for row in check_run([100], tmp_path, monkeypatch)} == {"volume", "dimension"}


@pytest.mark.slow
def test_the_command_runs_all_estimators(tmp_path, monkeypatch):
    quantities = {row["quantity"] for row in check_run([100, 150], tmp_path, monkeypatch)}
    assert {"tangent", "scalar_curvature", "volume", "reach", "dimension"} <= quantities


@pytest.mark.slow
def test_the_grid_is_measured_on_the_scale_of_the_samples():
    # A translated sprite: S is 1e-4 of |II|^2, so that errors of S are divided by |II|^2 in both.
    place = ellipses({"y": 12, "x": 12}, {})
    rows = {row.quantity: row for row in measure_on_grid(place, 144)}
    assert rows["scalar_curvature"].reference == "RMS of |II|^2"
    assert rows["second_form_norm"].reference == "RMS of the exact field"
    assert rows["scalar_curvature"].rmse < 0.2
    assert rows["scalar_curvature"].scale == pytest.approx(rows["second_form_norm"].scale ** 2, rel=0.1)


STUDY_COLUMNS = {
    "neighbourhoods": ["of", "n", "quantity", "by", "usual k", "best k", "k", "oracle radius", "radius"],
    "noise": ["quantity", "by", "D", "noise 0", "noise 0.01"],
    "reaches": ["of", "n", "noise", "by", "truth", "value", "bar", "with a bar", "coverage"],
    "balls": ["n", "distances", "by", "mean of S", "deviation of the points", "truth"],
}


def check_study(name, tmp_path, *options):
    result = run(name, *options, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert list(record["rows"][0]) == STUDY_COLUMNS[name]
    assert any(letter.isdigit() for letter in record["headline"])
    return record


def test_ball_volumes_by_the_recipe_have_their_kernel_right():
    # The biweight of all points of a plane lattice within h sums to its integral times their density.
    step = 0.04
    axis = np.arange(-0.6, 0.6001, step)
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    lengths = np.linalg.norm(points[None, len(points) // 2] - points[:, None], axis=-1)
    n = len(points)
    value = balls.recipe_density(lengths.reshape(1, -1), 2)[0]  # one row: n is 1 there, and h is 1
    assert value == pytest.approx(np.sum((1 - lengths**2) ** 2 * (lengths < 1)) / (np.pi / 3), rel=1e-12)
    # With the exact density the ratios of the balls on a flat lattice are 1, and S is 0.
    square = np.linalg.norm(points[:, None] - points[None], axis=-1)
    middle = balls.recipe_curvature(square, np.full(n, 1 / (n * step**2)), 2, 0.5, [n // 2])
    assert abs(middle[0]) < 0.5


def test_a_study_writes_its_table_and_goes_on(tmp_path, monkeypatch):
    record = check_study("reaches", tmp_path, "--seeds", 2)
    assert [row["by"] for row in record["rows"]] == list(reaches.METHODS.values())
    assert all(abs(value - 1) < 0.1 for row in record["data"]["rows"] for value in row["values"])
    monkeypatch.setattr(reaches, "reach_from_samples", lambda *_, **__: pytest.fail("was done before"))
    assert check_study("reaches", tmp_path, "--seeds", 2)["rows"] == record["rows"]
    assert run("reaches", "--manifold", "cube", "--out", tmp_path).exit_code == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["neighbourhoods", "noise", "balls"])
def test_studies_run(name, tmp_path):
    record = check_study(name, tmp_path)
    if name == "neighbourhoods":
        for cloud in (cloud for clouds in record["data"].values() for cloud in clouds):
            for part in cloud.values():  # no size of all points is better than the best of each point
                assert part["oracle"] <= min(part["rmse"])
    if name == "balls":
        by = {row["by"]: row["mean of S"] for row in record["rows"] if row["distances"] == "arcs"}
        assert abs(float(by["recipe with the exact density"].split()[0]) - 2) < 0.5
