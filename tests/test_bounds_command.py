"""``manifold-jax bounds`` as a user calls it, and its cells."""

import json

import jax
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from manifold_jax.datasets import circle, ellipse
from manifold_jax.experiments.cells import Cells
from manifold_jax.experiments.fits import command as bounds_command
from manifold_jax.experiments.fits import run as bounds_run
from manifold_jax.experiments.fits import toys as bounds_toys
from manifold_jax.experiments.fits.command import EXPERIMENTS
from manifold_jax.experiments.fits.data import known_setting, noisy, probe_points, training_samples
from manifold_jax.experiments.fits.fits import FITS, fitted
from manifold_jax.experiments.fits.report import judge, rate_of, usable
from manifold_jax.experiments.fits.run import Plan, Series, jobs, run_cells, series
from manifold_jax.experiments.fits.toys import toy
from manifold_jax.fitting.rates import smooth_rate
from manifold_jax.fitting.slopes import supports
from manifold_jax.geometry import Manifold


def run(*arguments):
    app = typer.Typer()
    app.command()(bounds_command.bounds_command)
    return CliRunner().invoke(app, [*map(str, arguments)])


def text(result):
    return " ".join(result.output.split())


PLAN = Plan(("pca",), (12, 24, 48), 2, (24, 48), 2, 16, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("walk",), "no experiment 'walk': choose from toys, images, reach, ambient, boundary, or all."),
        (("toys", "--preset", "small"), "--preset must be reduced or full, got 'small'."),
        (("toys", "--fits", "pca,splines"), "no fit 'splines': choose from pca, ref, mmls1"),
        (("toys", "--sizes", "10,many"), "--sizes takes whole numbers with commas between, got '10,many'."),
        (("toys", "--sizes", "1,10"), "sizes must be different whole numbers from 2, got (1, 10)."),
        (("toys", "--seeds", 1), "seeds must be at least 2"),
        (("toys", "--noises", "pink"), "noise must be one of none, ambient, normal, got 'pink'."),
        (("toys", "--noise", 1.5), "a share of the reach, in (0, 1), got 1.5."),
        (("boundary", "--tests", 0), "tests must be at least 8, got 0."),
        (("images", "--sizes", 0), "sizes must be different whole numbers from 2, got (0,)."),
        (("ambient", "--sizes", 5), "pca needs at least 8 samples for d = 2: raise --sizes."),
        (("reach", "--noises", "normal"), "--noises does not belong to reach: leave it out."),
        (("images", "--data", "sounds"), "data must be one of sprites, coil20, got 'sounds'."),
        (("images", "--data", "coil20", "--path", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence_and_leaves_no_folder(tmp_path, arguments, message):
    result = run(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert text(result).startswith("Error: ")
    assert message in text(result)
    assert not (tmp_path / "out").exists()


def test_every_experiment_has_a_smaller_size():
    for name, experiment in EXPERIMENTS.items():
        assert experiment.full != experiment.reduced, name
        for settings in (experiment.full, experiment.reduced):
            plan = settings.plan
            assert plan.seeds >= 2
            assert set(plan.fits) <= set(FITS), name


def test_cells_are_read_back_bit_by_bit(tmp_path):
    cells = Cells(tmp_path / "cells.jsonl")
    values = {"rms": 0.1 + 0.2, "maximum": 5e-324, "failed": None}
    cells.put("one", values)
    cells.save()
    assert Cells(tmp_path / "cells.jsonl")["one"] == values
    assert [path.name for path in tmp_path.iterdir()] == ["cells.jsonl"]
    (tmp_path / "cells.jsonl").write_text("[1]\n")
    with pytest.raises(ValueError, match="is no file of finished cells: remove it"):
        Cells(tmp_path / "cells.jsonl")


def test_an_interrupted_run_goes_on_and_ends_with_the_same_table(tmp_path, monkeypatch):
    settings = [toy("circle")]
    whole = Cells(tmp_path / "whole.jsonl")
    run_cells(settings, PLAN, whole, seed=3)
    genuine, calls = bounds_run._errors, []

    def counted(job, *rest):
        calls.append(job)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return genuine(job, *rest)

    monkeypatch.setattr(bounds_run, "_errors", counted)
    with pytest.raises(KeyboardInterrupt):
        run_cells(settings, PLAN, Cells(tmp_path / "parts.jsonl"), seed=3)
    parts = Cells(tmp_path / "parts.jsonl")
    assert len(parts.found) == 2
    run_cells(settings, PLAN, parts, seed=3)
    assert len(calls) == 3 + 4  # of six cells two were there
    first, second = (series(settings, PLAN, cells, 3)[0].values for cells in (whole, parts))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    # Another seed, or more test points, is another cell.
    assert all(job.name(PLAN, 4) not in parts for job in jobs(settings, PLAN))
    assert all(job.name(PLAN._replace(tests=17), 3) not in parts for job in jobs(settings, PLAN))


@pytest.mark.parametrize("name", ["pca", pytest.param("mmls2", marks=pytest.mark.slow)])
def test_samples_that_fill_up_an_array_change_nothing(name):
    setting = toy("circle")
    samples = training_samples(setting, 30, 0, 0, 64)
    points = probe_points(setting, 20, 0).off
    key = jax.random.key(0)
    alone, filled = (fitted(name, samples, n, 1, key, 1)(points) for n in (30, 64))
    np.testing.assert_allclose(alone, filled, atol=2e-6)


def test_noise_is_as_large_as_said_and_chart_points_are_the_same():
    setting = toy("circle")
    clean = training_samples(setting, 40, 0, 0, 64)
    np.testing.assert_allclose(np.linalg.norm(clean, axis=1), 1, atol=1e-6)
    moved = training_samples(noisy(setting, "normal", 0.2), 40, 0, 0, 64)
    np.testing.assert_allclose(moved / np.linalg.norm(moved, axis=1, keepdims=True), clean, atol=1e-5)
    assert 0.15 < np.abs(np.linalg.norm(moved, axis=1) - 1).max() <= 0.2
    tests = probe_points(setting, 50, 0)
    assert np.abs(np.linalg.norm(tests.off, axis=1) - 1).max() <= 0.1 + 1e-6
    assert tests.radius == pytest.approx(1.0, abs=2e-3)


def synthetic(slope, fit="pca", failed=0.0):
    sizes = np.array([10, 100, 1000, 10_000])
    noise = np.exp(0.05 * np.random.default_rng(0).standard_normal((4, 8)))
    errors = 3.0 * sizes[:, None] ** slope * noise
    lost = np.zeros((4, 8))
    lost[0] = failed
    return Series(toy("circle"), fit, sizes, {"hausdorff": errors, "failed": lost})


def test_a_slope_is_taken_over_the_upper_half_without_lost_points():
    found = judge(synthetic(-2.0), "hausdorff")
    assert found.used.tolist() == [True] * 4  # the upper half would be two
    assert float(found.slope.lower) < -2.0 < float(found.slope.upper)
    assert usable(synthetic(-2.0, failed=0.5), "hausdorff").tolist() == [False, True, True, True]
    # (log n / n)^2 is not n^-2: the curve is fitted to the errors that the slope was taken over.
    assert found.rate.name == "noiseless_hausdorff_upper"
    assert found.curve.fitted
    assert "fitted by least squares, exponents not verified" in found.curve.label
    names = [support.rate.name for support in found.supports if support.supported]
    assert "noiseless_hausdorff_lower" in names
    assert "perpendicular_hausdorff_lower" not in names


def test_theory_follows_the_order_of_the_fit_and_the_noise():
    setting = toy("circle")
    assert rate_of(setting, "mmls3").name == "noiseless_hausdorff_upper_c4"
    assert rate_of(setting, "dae") is None
    assert rate_of(noisy(setting, "normal", 0.1), "mmls3").name == "perpendicular_hausdorff_upper"


def measured_slope(setting, degree, tmp_path):
    """Slope of the Hausdorff error of MMLS, noise-free, over n = 100 to 1600."""
    plan = Plan((f"mmls{degree}",), (100, 200, 400, 800, 1600), 8, (100,), 2, 200, 1)
    cells = Cells(tmp_path / "cells.jsonl")
    run_cells([setting], plan, cells, seed=0)
    return judge(series([setting], plan, cells, 0)[0], "hausdorff")


@pytest.mark.slow
def test_slopes_of_degree_two_are_those_of_the_fill_distance(x64, tmp_path):
    # Neighbourhoods of n uniform points on a curve are of the order 1 / n, the largest of them log n / n. At
    # a fixed number of test points the largest is not met: the error h^3 falls like n^-3, not (log n / n)^3.
    length = 9.688448220547675  # of the ellipse with semi-axes 2 and 1
    shape = ellipse()
    known = {"total_volume": length, "reach": 0.5}
    curve = known_setting("ellipse", Manifold("ellipse", shape.embedding, shape.grid, known))
    found = measured_slope(curve, 2, tmp_path)
    third, fourth = (supports(found.slope, smooth_rate("hausdorff", k, "lower"), 1) for k in (3, 4))
    assert third.supported
    assert not fourth.supported
    # As a graph over a tangent a circle has no cubic term, and over the tilted plane of the fit, off by O(h),
    # one of size O(h): there the error is O(h^4).
    found = measured_slope(known_setting("circle", circle()), 2, tmp_path)
    third, fourth = (supports(found.slope, smooth_rate("hausdorff", k, "lower"), 1) for k in (3, 4))
    assert fourth.supported
    assert not third.supported


@pytest.mark.slow
def test_a_tiny_run_writes_all_files_and_goes_on_from_its_cells(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds_toys, "TOYS", ("circle",))
    arguments = ("toys", "--fits", "pca", "--sizes", "16,64", "--seeds", 2, "--tests", 8, "--noises", "none")
    first = run(*arguments, "--out", tmp_path)
    assert first.exit_code == 0, first.output
    files = {"toys.cells.jsonl", "toys.json", "toys.txt", "toys-hausdorff-none.png", "toys-rms-none.png"}
    assert {path.name for path in tmp_path.iterdir()} == files
    record = json.loads((tmp_path / "toys.json").read_text())
    assert [row["setting"] for row in record["rows"]] == ["circle"]
    assert np.shape(record["data"]["circle"]["pca"]["errors"]["rms"]) == (2, 2)
    cells, table = ((tmp_path / name).read_text() for name in ("toys.cells.jsonl", "toys.txt"))
    assert run(*arguments, "--out", tmp_path).exit_code == 0
    assert (tmp_path / "toys.cells.jsonl").read_text() == cells
    assert (tmp_path / "toys.txt").read_text() == table
