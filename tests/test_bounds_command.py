"""``manifold-jax bounds`` as a user calls it, and its cells."""

import json
from functools import partial

import jax
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from manifold_jax.datasets import circle, ellipse, sprite
from manifold_jax.experiments.fits import runner, studies
from manifold_jax.experiments.fits.command import bounds_command
from manifold_jax.experiments.fits.figures import bracket, fitted_line, local_slopes
from manifold_jax.experiments.fits.lattices import draw_rows, feet_of_images, lattice_of, project_among
from manifold_jax.experiments.fits.report import Trend, explicit_bound, rate_of, trend_of, usable
from manifold_jax.experiments.fits.runner import FITS, Plan, Series, fit_samples, list_jobs, run_cells
from manifold_jax.experiments.fits.samples import (
    Setting,
    add_noise,
    known_setting,
    probe_points,
    training_samples,
)
from manifold_jax.experiments.fits.studies import EXPERIMENTS
from manifold_jax.experiments.results import MANIFEST, Cells
from manifold_jax.fitting import RATES, local_pca_projection, smooth_rate, supports
from manifold_jax.geometry import Manifold


def run(*arguments):
    app = typer.Typer()
    app.command()(bounds_command)
    return CliRunner().invoke(app, [*map(str, arguments)])


def text(result):
    return " ".join(result.output.split())


RING = known_setting("circle", circle())
PLAN = Plan(("pca",), (12, 24, 48), 2, tests=16, steps=10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("walk",),
            "no experiment 'walk': choose from toys, images, reach, ambient, boundary, figure3,",
        ),
        (("toys", "--preset", "small"), "--preset must be reduced or full, got 'small'."),
        (("toys", "--fits", "pca,splines"), "fits must be one of 'pca', 'ref', 'mmls1'"),
        (("toys", "--sizes", "10,many"), "--sizes takes whole numbers with commas between, got '10,many'."),
        (("toys", "--sizes", "1,10"), "sizes must be different whole numbers from 2, got (1, 10)."),
        (("toys", "--seeds", 1), "seeds must be a whole number, at least 2, got 1."),
        (("toys", "--noises", "pink"), "noises must be one of 'none', 'ambient', 'normal', got 'pink'."),
        (
            ("toys", "--noise", 1.5),
            "must be a positive finite number below 1, got 1.5.",
        ),
        (("boundary", "--tests", 0), "tests must be a whole number, at least 8, got 0."),
        (("images", "--sizes", 0), "sizes must be different whole numbers from 2, got (0,)."),
        (("ambient", "--sizes", 5), "pca needs at least 8 samples for d = 2: raise --sizes."),
        (("reach", "--noises", "normal"), "--noises does not belong to reach: leave it out."),
        (("boundary", "--noise", 0.2), "--noise does not belong to boundary: leave it out."),
        (("images", "--data", "sounds"), "data must be one of 'sprites', 'coil20', got 'sounds'."),
        (("images", "--dimensions", "0"), "dimension of sprites must be a whole number, from 1 to 4, got 0."),
        (("images", "--data", "coil20", "--path", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence_and_leaves_no_folder(tmp_path, arguments, message):
    result = run(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert text(result).startswith("Error: ")
    assert message in text(result)
    assert not (tmp_path / "out").exists()


def test_every_study_has_a_smaller_size():
    for name, study in EXPERIMENTS.items():
        assert study.full != study.reduced, name
        for plan in (study.full, study.reduced):
            assert plan.seeds >= 2
            assert set(plan.fits) <= set(FITS), name


slow = partial(pytest.param, marks=pytest.mark.slow)
SLOPES = ["setting", "fit", "slope [95 %]", "theory", "error", "lost"]
FIGURE = ["setting", "fit", "repetitions", "n", "error", "line", "lower half", "last two", "slope [95 %]"]
FIGURE += ["two-sided", "its slope [95 %]"]
FIGURE += ["n^(-2/(2+d))", "(log n / n)^(2/(2+d))", "(log n / n)^(1/d)", "(log n / n)^(2/d)"]
AMBIENT = ["fit", "n", "noise", "D", "Hausdorff", "RMS", "lost"]


@pytest.mark.parametrize(
    ("name", "fewer", "figures", "columns", "rows"),
    [
        ("toys", {"noises": ("none",)}, ["-hausdorff-none", "-rms-none"], SLOPES, 1),
        slow(
            "toys",
            {"noises": ("none", "ambient")},
            ["-hausdorff-none", "-rms-none", "-hausdorff-ambient", "-rms-ambient"],
            SLOPES,
            2,
        ),
        slow("images", {"dimensions": {"sprites": (1,)}}, ["-hausdorff-none", "-rms-none"], SLOPES, 1),
        slow(
            "reach",
            {"values": (0.5, 1.0)},
            ["", "-rms"],
            ["fit", "fixed", "in", "slope [95 %]", "theory", "error"],
            2 + 2,
        ),
        slow("ambient", {"values": (10,)}, [""], AMBIENT, 2 * 2),
        slow("ambient", {"values": (3, 10)}, [""], AMBIENT, 4 * 2),
        slow("figure3", {"dimensions": {"dsprites": (1,)}, "pixels": 16}, [""], FIGURE, 1),
        slow("figure5", {}, [""], FIGURE, 1),
        slow("boundary", {}, [""], ["setting", "fit", "where", "slope [95 %]", "RMS", "largest"], 4 + 2 * 2),
    ],
)
def test_a_tiny_run_writes_all_files_and_goes_on_from_its_cells(
    name, fewer, figures, columns, rows, tmp_path, monkeypatch
):
    monkeypatch.setattr(studies, "TOYS", {"circle": circle})
    smaller = EXPERIMENTS[name]._replace(reduced=EXPERIMENTS[name].reduced._replace(**fewer))
    monkeypatch.setitem(EXPERIMENTS, name, smaller)
    # As many test points are drawn as samples, of images four times more: one program draws both.
    tests = 8 if name == "images" else 32
    lattice = name == "figure3"  # whose sizes are shares
    sizes = () if lattice else ("--sizes", "16,32")
    arguments = (name, "--fits", "pca", *sizes, "--seeds", 2, "--tests", tests, "--out", tmp_path)
    kept = "figures.cells.jsonl" if "figure" in name else f"{name}.cells.jsonl"
    first = run(*arguments)
    assert first.exit_code == 0, first.output
    images = {f"{name}{end}.png" for end in figures}
    assert {path.name for path in tmp_path.iterdir()} == {
        MANIFEST,
        kept,
        f"{name}.json",
        f"{name}.txt",
        "report.html",
        *images,
    }
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert len(record["rows"]) == rows
    assert any(letter.isdigit() for letter in record["headline"])
    assert list(record["rows"][0]) == columns
    for setting in record["data"].values():
        assert np.shape(setting["pca"]["errors"]["rms"]) == (3 if lattice else 2, 2)
        assert setting["setting"]["reach"] > 0
    cells, table = ((tmp_path / end).read_text() for end in (kept, f"{name}.txt"))
    assert not any(rate in table for rate in RATES)  # but their words
    for errors in ("errors_of", "lattice_errors"):
        monkeypatch.setattr(runner, errors, lambda *_: pytest.fail("was done before"))
    assert run(*arguments).exit_code == 0
    assert (tmp_path / kept).read_text() == cells
    assert (tmp_path / f"{name}.txt").read_text() == table


def test_cells_are_read_back_bit_by_bit(tmp_path):
    values = {"rms": 0.1 + 0.2, "maximum": 5e-324, "failed": None}
    Cells(tmp_path / "cells.jsonl").put("one", values)
    assert Cells(tmp_path / "cells.jsonl")["one"] == values
    assert [path.name for path in tmp_path.iterdir()] == ["cells.jsonl"]
    (tmp_path / "cells.jsonl").write_text("[1]\n")
    with pytest.raises(ValueError, match="is not a file of finished cells: remove it"):
        Cells(tmp_path / "cells.jsonl")


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_ends_with_the_same_table(tmp_path, monkeypatch):
    (whole,) = run_cells([RING], PLAN, Cells(tmp_path / "whole.jsonl"), seed=3)
    genuine, calls = runner.errors_of, []

    def counted(job, *rest):
        calls.append(job)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return genuine(job, *rest)

    monkeypatch.setattr(runner, "errors_of", counted)
    with pytest.raises(KeyboardInterrupt):
        run_cells([RING], PLAN, Cells(tmp_path / "parts.jsonl"), seed=3)
    parts = Cells(tmp_path / "parts.jsonl")
    assert len(parts) == 2
    (series,) = run_cells([RING], PLAN, parts, seed=3)
    assert len(calls) == 3 + 4  # of six cells two were there
    for name in whole.values:
        np.testing.assert_array_equal(whole.values[name], series.values[name])
    # Another seed, or more test points, is another cell.
    assert all(job.name(PLAN, 4) not in parts for job in list_jobs([RING], PLAN))
    assert all(job.name(PLAN._replace(tests=17), 3) not in parts for job in list_jobs([RING], PLAN))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pca", pytest.param("mmls2", marks=pytest.mark.slow)])
def test_samples_that_fill_up_an_array_change_nothing(name):
    samples = training_samples(RING, 30, 0, 0, 64)
    points = probe_points(RING, 20, 0).off
    key = jax.random.key(0)
    alone, filled = (fit_samples(name, samples, n, 1, key, 1)(points) for n in (30, 64))
    np.testing.assert_allclose(alone, filled, atol=2e-6)


@pytest.mark.slow
def test_noise_is_as_large_as_it_should_be_and_chart_points_are_the_same():
    clean = training_samples(RING, 40, 0, 0, 64)
    np.testing.assert_allclose(np.linalg.norm(clean, axis=1), 1, atol=1e-6)
    noisy = add_noise(RING, "normal", 0.2)
    moved = training_samples(noisy, 40, 0, 0, 64)
    np.testing.assert_allclose(moved / np.linalg.norm(moved, axis=1, keepdims=True), clean, atol=1e-5)
    assert 0.15 < np.abs(np.linalg.norm(moved, axis=1) - 1).max() <= 0.2
    probes = probe_points(RING, 50, 0)
    assert np.abs(np.linalg.norm(probes.off, axis=1) - 1).max() <= 0.1 + 1e-6
    assert RING.radius == pytest.approx(1.0, abs=2e-3)
    assert noisy.radius == pytest.approx(1.2, abs=2e-3)


@pytest.mark.slow
def test_a_quarter_of_the_test_points_of_an_open_curve_lies_at_its_ends():
    probes = probe_points(studies.open_axes("arc", circle(), np.pi), 80, 0)
    angles = np.arctan2(probes.on[:, 1], probes.on[:, 0])
    np.testing.assert_allclose(np.sin(angles[probes.regions["border"]]), 0, atol=1e-6)
    assert probes.regions["border"].sum() == 20
    middle = np.abs(angles - np.pi / 2) < np.pi / 4
    np.testing.assert_array_equal(probes.regions["interior"], middle)


def synthetic(slope, fit="pca", failed=0.0):
    sizes = np.array([10, 100, 1000, 10_000])
    noise = np.exp(0.05 * np.random.default_rng(0).standard_normal((4, 8)))
    errors = 3.0 * sizes[:, None] ** slope * noise
    lost = np.zeros((4, 8))
    lost[0] = failed
    return Series(RING, fit, sizes, {"hausdorff": errors, "failed": lost})


@pytest.mark.slow
def test_a_slope_is_taken_over_the_upper_half_without_lost_points():
    trend = trend_of(synthetic(-2.0), "hausdorff")
    assert trend.used.tolist() == [True] * 4  # the upper half would be two
    assert float(trend.slope.lower) < -2.0 < float(trend.slope.upper)
    assert usable(synthetic(-2.0, failed=0.5), "hausdorff").tolist() == [False, True, True, True]
    # (log n / n)^2 is not n^-2: the curve is fitted to the errors that the slope was taken over.
    assert trend.rate.name == "noiseless_hausdorff_upper"
    assert trend.curve.fitted
    assert "(fitted by least squares)" in trend.curve.label
    names = [support.rate.name for support in trend.supports if support.supported]
    assert "noiseless_hausdorff_lower" in names
    assert "perpendicular_hausdorff_lower" not in names


@pytest.mark.slow
def test_theory_follows_the_order_of_the_fit_and_the_noise():
    assert rate_of(RING, "mmls3").name == "noiseless_hausdorff_upper_c4"
    assert rate_of(RING, "dae") is None
    assert rate_of(add_noise(RING, "normal", 0.1), "mmls3").name == "perpendicular_hausdorff_upper"


def measured_slope(setting, degree, tmp_path):
    """Slope of the Hausdorff error of MMLS, noise-free, over n = 100 to 1600."""
    plan = Plan((f"mmls{degree}",), (100, 200, 400, 800, 1600), 8, tests=200)
    (series,) = run_cells([setting], plan, Cells(tmp_path / "cells.jsonl"), seed=0)
    return trend_of(series, "hausdorff").slope


@pytest.mark.slow
def test_slopes_of_degree_two_are_those_of_the_fill_distance(x64, tmp_path):
    # Neighbourhoods of n uniform points on a curve are of the order 1 / n, the largest of them log n / n. At
    # a fixed number of test points the largest is not met: the error h^3 falls like n^-3, not (log n / n)^3.
    length = 9.688448220547675  # of the ellipse with semi-axes 2 and 1
    shape = ellipse()
    known = {"total_volume": length, "reach": 0.5}
    curve = known_setting("ellipse", Manifold("ellipse", shape.embedding, shape.grid, known))
    slope = measured_slope(curve, 2, tmp_path)
    third, fourth = (supports(slope, smooth_rate("hausdorff", k, "lower"), 1) for k in (3, 4))
    assert third.supported
    assert not fourth.supported
    # As a graph over a tangent a circle has no cubic term, and over the tilted plane of the fit, off by O(h),
    # one of size O(h): there the error is O(h^4).
    slope = measured_slope(known_setting("circle", circle()), 2, tmp_path)
    third, fourth = (supports(slope, smooth_rate("hausdorff", k, "lower"), 1) for k in (3, 4))
    assert fourth.supported
    assert not third.supported


SWEPT = (0.01, 0.1, 1.0, 10.0, 100.0)


def test_the_constant_of_the_explicit_bound_is_swept(x64):
    bound = explicit_bound(RING, [100, 10_000])
    least = np.asarray(bound.least_samples)
    # s is C times a number that does not depend on C.
    np.testing.assert_allclose(least / np.array(SWEPT)[:, None], least[2, 0], rtol=1e-12)
    assert np.all(np.diff(np.asarray(bound.mean_squared)[:, 1]) >= 0)
    assert np.asarray(bound.vacuous).tolist() == [[n < s for n in (100, 10_000)] for s in least[:, 0]]


def test_line_and_bracket_are_those_of_the_paper():
    series = synthetic(-0.6)
    trend = Trend(series, "hausdorff", np.ones(4, bool), None)
    n, d = series.sizes.astype(float), 1
    slope, height = np.polyfit(np.log(n), np.log(series.values["hausdorff"].mean(axis=1)), 1)
    line = np.exp(height) * n**slope
    assert fitted_line(trend)[0] == pytest.approx(slope, rel=1e-12)
    np.testing.assert_allclose(fitted_line(trend)[2], line, rtol=1e-12)
    rates = (n ** (-2 / (2 + d)), (np.log(n) / n) ** (2 / (2 + d)), (np.log(n) / n) ** (1 / d))
    for curve, rate, level in zip(bracket(trend), rates, (0.01, 0.99, 0.99), strict=True):
        np.testing.assert_allclose(curve(n), np.quantile(line / rate, level) * rate, rtol=2e-5)


def test_a_kink_shows_in_the_slopes_of_the_lower_half_and_of_the_last_two():
    sizes = np.array([10, 100, 1000, 10_000])
    errors = np.array([1.0, 0.1, 0.01, 0.01 * 10**-0.5])[:, None] * np.ones(2)
    trend = Trend(Series(RING, "pca", sizes, {"maximum": errors}), "maximum", np.ones(4, bool), None)
    np.testing.assert_allclose(local_slopes(trend), (-1.0, -0.5), rtol=1e-12)


@pytest.mark.slow
def test_images_of_a_lattice_are_drawn_apart_from_its_tests_and_projected_as_by_a_fit_of_them_alone():
    # Growing hearts: among turned ones two neighbours would be equally far.
    heart = sprite("heart", factors=("scale",), sizes={"scale": 48}, layout="balanced", size=16)
    setting = Setting("heart", (heart,), grids=(heart.grid,))
    lattice = lattice_of(setting, 500)
    images = np.asarray(lattice.points, np.float64).reshape(48, -1)
    assert len(lattice.tests) == 14  # 30 % of 48
    exact = ((images[lattice.tests][:, None] - images) ** 2).sum(axis=2)
    np.testing.assert_allclose(lattice.squares, exact, atol=2e-5)
    # Each test image was the farthest from those before it; the first is image 0.
    for k in range(1, 14):
        assert exact[:k, lattice.tests[k]].min() >= exact[:k].min(axis=0).max() - 1e-4
    rows = draw_rows(lattice, jax.random.key(0), 20)
    assert len(set(rows)) == 20
    assert not set(rows) & set(lattice.tests)
    fit = partial(local_pca_projection, dimension=1, neighbours=4, weights="exponential", sigma=1.0)
    tests = lattice.points[lattice.tests]
    alone = fit(lattice.points[rows])(tests)
    np.testing.assert_allclose(project_among(lattice, rows, fit(lattice.points)), alone, atol=1e-5)
    # From a copy of itself a test image does not move; its foot is the image.
    feet, lost = feet_of_images(setting, lattice, tests)
    assert feet.max() < 1e-3
    assert lost == 0.0


@pytest.mark.thorough
def test_a_lost_image_does_not_count_with_that_of_another_test_point(monkeypatch):
    heart = sprite("heart", factors=("scale",), sizes={"scale": 48}, layout="balanced", size=16)
    setting = Setting("heart", (heart,), grids=(heart.grid,))

    def all_but_one(lattice, rows, project):
        return lattice.points[lattice.tests].at[3].set(np.nan)

    monkeypatch.setattr(runner, "project_among", all_but_one)
    job = runner.Job(setting, "ref", 20, 0)
    values = runner.lattice_errors(job, Plan(("ref",), (), 1, 500), 0)
    assert values["failed"] == pytest.approx(1 / 14)
    assert values["hausdorff"] < 1e-3  # the others are their own images
