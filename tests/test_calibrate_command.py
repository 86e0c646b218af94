"""The command that calibrates estimators: refusals, what it writes, going on."""

import json

import pytest
from typer.testing import CliRunner

pytest.importorskip("skdim", reason="needs the extra estimators")

from manifold_jax.experiments import calibrate as calibrate_run
from manifold_jax.experiments.calibrate import EXACT, GRID
from manifold_jax.experiments.calibrate_command import calibrate_command


def run(*arguments):
    import typer

    app = typer.Typer()
    app.command()(calibrate_command)
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--manifold", "cube"], "no manifold 'cube'"),
        (["--preset", "huge"], "--preset must be"),
        (["--size", 10], "greater than or equal to 50"),
    ],
)
def test_the_command_refuses_in_one_sentence(arguments, words, tmp_path):
    result = run(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_writes_its_tables_and_goes_on(tmp_path, monkeypatch):
    options = ["--manifold", "sphere2", "--size", 100, "--size", 150, "--seeds", 1, "--out", tmp_path]
    first = run(*options)
    assert first.exit_code == 0, first.output
    rows = json.loads((tmp_path / "calibrate.json").read_text())["data"]["rows"]
    assert (tmp_path / "calibrate.png").stat().st_size > 1000
    by_grid = [r["rmse"] for r in rows if r["estimator"] == GRID and r["measure"] == "scalar_curvature"]
    exactly = [r["rmse"] for r in rows if r["estimator"] == EXACT]
    assert max(by_grid) < 0.02
    assert len(exactly) == 4
    assert max(exactly) < 1e-12
    monkeypatch.setattr(calibrate_run, "calibrate", lambda *_, **__: pytest.fail("was done before"))
    assert run(*options).exit_code == 0
    again = json.loads((tmp_path / "calibrate.json").read_text())["data"]["rows"]
    samples = [[r for r in part if r["estimator"] not in (GRID, EXACT)] for part in (rows, again)]
    assert samples[0] == samples[1]


def test_the_grid_is_measured_on_the_scale_of_the_samples():
    # A translated sprite: S is 1e-4 of |II|^2, so that errors of S are divided by |II|^2 in both.
    place = calibrate_run._sprites({"y": 12, "x": 12}, {})
    found = {row.quantity: row for row in calibrate_run._by_grid(place, 144)}
    assert found["scalar_curvature"].reference == "RMS of |II|^2"
    assert found["second_form_norm"].reference == "RMS of the exact field"
    assert found["scalar_curvature"].rmse < 0.2
    assert found["scalar_curvature"].scale == pytest.approx(found["second_form_norm"].scale ** 2, rel=0.1)
