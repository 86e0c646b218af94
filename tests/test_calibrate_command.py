"""The command that calibrates estimators: refusals, what it writes, going on."""

import json

import pytest
import typer
from typer.testing import CliRunner

pytest.importorskip("skdim", reason="needs the extra estimators")

from manifold_jax.datasets import circle
from manifold_jax.experiments import calibrate as command
from manifold_jax.experiments.calibrate import EXACT, GRID, calibrate_command, ellipses, measure_on_grid
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
