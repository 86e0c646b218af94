import dataclasses
import html
import json
import os
import re
import shlex
import subprocess
import sys

import pytest
import xarray
from typer.testing import CliRunner

from manifold_jax import load_geometry
from manifold_jax.experiments import cli, terminal
from manifold_jax.experiments.measure import command as measure_command
from manifold_jax.experiments.measure import data as measure_data
from manifold_jax.experiments.results import MANIFEST

PLOTS = {"samples.png", "histograms.png", "pairs.png", "maps.png", "pca.png"}
# Equal sprites compile once for all tests; 16 positions in blocks of 4 are 4 steps.
SPRITES = ("sprites", "--axes", "x", "--size", "16", "--samples", "x=16", "--block-size", "4", "--no-reach")


def run(*arguments):
    return CliRunner().invoke(cli.application("measure"), ["measure", *map(str, arguments)])


def text(result):
    return " ".join(result.output.split())


def names(folder):
    return {path.name for path in folder.iterdir() if path.name != MANIFEST}


def test_version():
    result = CliRunner().invoke(cli.application(), ["--version"])
    assert result.exit_code == 0
    assert result.output.startswith("manifold_jax 0.")


def test_entry_point(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "handle_signals", lambda: None)  # they are those of pytest
    monkeypatch.setattr(sys, "argv", ["manifold-jax", "--version"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    assert "manifold_jax" in capsys.readouterr().out


def test_entry_point_without_typer(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert 'pip install "manifold_jax[cli]"' in capsys.readouterr().err


@pytest.mark.thorough
def test_curve_with_every_file(tmp_path):
    out = tmp_path / "new" / "folder"
    result = run("ellipse", "--samples", "angle=24", "--out", out)
    assert result.exit_code == 0, result.output
    files = {"geometry.nc", "geometry_stencil.nc", "reach.nc", "reach.png", "exact_vs_stencil.png"}
    assert names(out) == files | {"summary.json", "summary.txt", "report.html"} | PLOTS
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Is it reliable?" in page
    assert "Yes: every quantity is resolved" in page
    assert "truth: 9.6884" in text(result)
    assert str(out) in text(result)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["arguments"]["dataset"] == "ellipse"
    assert summary["arguments"]["samples"] == ["angle=24"]
    assert summary["dtype"] == "float32"
    assert {"manifold_jax", "jax", "device", "platform"} <= set(summary)
    (entry,) = summary["manifolds"]
    assert entry["totals"]["total_volume"]["value"] == pytest.approx(9.6884, abs=0.01)
    assert entry["totals"]["total_volume"]["unit"] == "ℓ"
    assert entry["fields"]["mean_curvature"]["verdict"]["sentence"]
    assert set(entry["fields"]["mean_curvature"]["quantiles"]) == {"0.05", "0.25", "0.5", "0.75", "0.95"}
    assert min(entry["seconds"][stage] for stage in ("exact", "stencil")) > 0
    geometry = load_geometry(out / "geometry.nc")
    assert geometry.grid.shape == (24,)
    written = (out / "summary.txt").read_text(encoding="utf-8")
    assert "volume" in written
    assert "half the bottleneck" in written
    assert summary["reach"]["case"] == "local"
    assert summary["reach"]["value"] == pytest.approx(0.5, rel=1e-4)
    with xarray.open_dataset(out / "reach.nc", engine="h5netcdf") as fields:
        assert fields["pointwise"].shape == (24,)
        assert float(fields["value"]) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.thorough
def test_the_page_gives_the_command_that_resolves_what_is_open(tmp_path, monkeypatch):
    coarse = ("ellipse", "--samples", "angle=8", "--accuracy", "2", "--stencils", "--no-plots")
    monkeypatch.setattr(sys, "argv", ["manifold-jax", "measure", *coarse, "--out", str(tmp_path / "coarse")])
    assert "too coarse: refine" in text(run(*coarse, "--out", tmp_path / "coarse"))
    page = (tmp_path / "coarse" / "report.html").read_text(encoding="utf-8")
    (command,) = re.findall("<pre><code>(manifold-jax .*?)</code></pre>", page)
    _, _, *words = shlex.split(html.unescape(command))
    assert run(*words, "--out", tmp_path / "fine").exit_code == 0
    verdicts = load_geometry(tmp_path / "fine" / "geometry.nc").verdicts()
    assert all(verdict.resolved for verdict in verdicts.values())


@pytest.mark.slow
def test_noise_and_smoothing(tmp_path):
    options = ("ellipse", "--samples", "angle=24", "--no-plots", "--no-reach", "--smooth", 5)
    options += ("--stencils",)
    result = run(*options, "--noise", 0.003, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "stencils of order 4 (smooth 5)" in text(result)
    assert "Noise of a sample, a length over all features: 0.0042 ℓ along angle" in text(result)
    (entry,) = json.loads((tmp_path / "summary.json").read_text())["manifolds"]
    assert entry["noise"]["angle"] == pytest.approx(0.003 * 2**0.5, rel=1e-5)
    geometry = load_geometry(tmp_path / "geometry.nc")
    assert geometry.stencil == ((4, 1, 5),)
    assert float(geometry.noise_bars.second_form_norm.min()) > 0
    assert "Noise of a sample" not in text(run(*options, "--out", tmp_path))


@pytest.mark.slow
def test_exact_values_with_stencils_beside_them_and_the_other_way_round(tmp_path):
    result = run(*SPRITES, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert {"exact_vs_stencil.png", "geometry_stencil.nc"} <= names(tmp_path)
    assert "; automatic differentiation" in text(result)
    assert "stencils of order 4 beside the exact values" in text(result)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["manifolds"][0]["exact"]
    row = summary["manifolds"][0]["stencil_against_exact"]["volume_element"]
    assert row["coverage"] == row["within"] == 1.0
    exact, stencil = (load_geometry(tmp_path / f"geometry{which}.nc") for which in ("", "_stencil"))
    assert exact.exact
    assert stencil.stencil == ((4, 1),)
    # The other way round, over the same folder: what it did not write is removed.
    result = run(*SPRITES, "--stencils", "--no-plots", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert names(tmp_path) == {
        "geometry.nc",
        "geometry_exact.nc",
        "summary.json",
        "summary.txt",
        "report.html",
    }
    assert "; stencils of order 4" in text(result)
    assert "stencils of order 4 beside the exact values" in text(result)
    assert load_geometry(tmp_path / "geometry.nc") == stencil
    assert load_geometry(tmp_path / "geometry_exact.nc") == exact
    swapped = json.loads((tmp_path / "summary.json").read_text())
    assert not swapped["manifolds"][0]["exact"]
    key = "stencil_against_exact"
    assert swapped["manifolds"][0][key] == summary["manifolds"][0][key]


def test_sprites_in_the_default_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*SPRITES, "--no-plots")
    assert result.exit_code == 0, result.output
    assert names(tmp_path / "runs" / "measure-sprites-ellipse") == {
        "geometry.nc",
        "geometry_stencil.nc",
        "summary.json",
        "summary.txt",
        "report.html",
    }
    assert "per px of x" in text(result)
    summary = json.loads((tmp_path / "runs" / "measure-sprites-ellipse" / "summary.json").read_text())
    assert summary["manifolds"][0]["totals"]["total_volume"]["unit"] == "ℓ/px"


@pytest.mark.slow
def test_union(tmp_path):
    result = run("two_moons", "--samples", "angle=16", "--x64", "--no-plots", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert {"geometry_1.nc", "geometry_2.nc", "reach_1.nc", "reach_2.nc"} <= names(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["dtype"] == "float64"
    assert summary["reach"]["case"] == "global"
    assert summary["reach"]["value"] == pytest.approx(0.25, abs=summary["reach"]["error"])
    assert {end["component"] for end in summary["reach"]["pair"]} == {0, 1}
    union = summary["union"]
    assert union["least_reach"]["value"] == pytest.approx(summary["reach"]["value"] * union["scale"])
    assert len(union["distances"]) == 1
    assert "in the union" in text(result)
    assert [entry["name"] for entry in summary["manifolds"]] == [
        part.name for part in measure_data.build("two_moons", {})
    ]


@pytest.mark.slow
def test_all_shapes_are_a_union(tmp_path):
    result = run(*SPRITES, "--shape", "all", "--no-plots", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert {f"geometry_{k}.nc" for k in (1, 2, 3)} <= names(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    union = summary["union"]
    assert [part["name"] for part in union["classes"]] == [part["name"] for part in summary["manifolds"]]
    assert sum(part["volume"]["value"] for part in union["classes"]) == pytest.approx(1.0, rel=1e-5)
    volume = sum(part["totals"]["total_volume"]["value"] for part in summary["manifolds"])
    assert union["scale"] * volume == pytest.approx(1.0, rel=1e-5)
    assert union["distances"] == []  # all points would be held
    assert "volume, share" in text(result)


def test_an_object_is_a_number_or_all(tmp_path):
    result = run("coil20", "--object", "duck", "--out", tmp_path / "new")
    assert result.exit_code == 2
    assert "--object must be the number of an object, or all, got 'duck'" in text(result)


class Interrupting:
    """Progress that counts calls and stops a measurement after some of them."""

    def __init__(self, after):
        self.after, self.seen = after, []

    def __call__(self, done, total):
        self.seen.append(done)
        if len(self.seen) == self.after:
            raise KeyboardInterrupt


@pytest.fixture
def watched(monkeypatch):
    def watch(after=-1):
        counter, original = Interrupting(after), measure_command.measure

        def measure(*arguments, progress, **options):
            return original(*arguments, progress=counter, **options)

        monkeypatch.setattr(measure_command, "measure", measure)
        return counter, original

    return watch


@pytest.mark.thorough
def test_interrupted_and_called_again_it_goes_on(tmp_path, monkeypatch, watched):
    monkeypatch.setattr(sys, "argv", ["manifold-jax", "measure", *SPRITES, "--out", str(tmp_path)])
    arguments = (*SPRITES, "--no-plots", "--out", tmp_path)
    first, original = watched(after=3)
    result = run(*arguments)
    assert result.exit_code == 130, result.output
    assert "manifold-jax measure sprites" in text(result)
    assert [name.split("-")[0] for name in names(tmp_path)] == ["partial", "partial"]  # exact, stencils
    monkeypatch.setattr(measure_command, "measure", original)
    second, _ = watched()
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert first.seen[0] == 16, "all points exactly"
    assert second.seen[0] > first.seen[2], "what was done is kept"
    assert names(tmp_path) == {
        "geometry.nc",
        "geometry_stencil.nc",
        "summary.json",
        "summary.txt",
        "report.html",
    }


@pytest.mark.slow
def test_a_finished_stage_is_not_measured_again(tmp_path, monkeypatch, watched):
    arguments = (*SPRITES, "--no-plots", "--out", tmp_path)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(measure_command.report, "write_results", interrupt)
    assert run(*arguments).exit_code == 130
    assert [name.split("-")[0] for name in names(tmp_path)] == ["partial", "partial"]
    monkeypatch.undo()
    second, _ = watched()
    assert run(*arguments).exit_code == 0
    assert len(second.seen) == 2, "the last block of each tells how results are made of them"
    assert names(tmp_path) == {
        "geometry.nc",
        "geometry_stencil.nc",
        "summary.json",
        "summary.txt",
        "report.html",
    }


@pytest.mark.slow
def test_a_finished_stage_of_another_manifold_is_not_taken(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(measure_command.report, "write_results", interrupt)
    others = (), ("--fixed", "y=6"), ("--blur", "1.5"), ("--range", "x=5:9"), ("--shape", "square")
    for number, other in enumerate(others, 1):
        assert run(*SPRITES, *other, "--no-plots", "--out", tmp_path).exit_code == 130
        assert len(names(tmp_path)) == 2 * number
    # the same options and another file, as of COIL-20
    built = measure_data.build("sprites", {"axes": ("x",), "size": 16, "samples": {"x": 16}})[0]
    other = dataclasses.replace(built, embedding=lambda u: 0.5 * built.embedding(u))
    monkeypatch.setattr(measure_command, "build", lambda *_: (other,))
    assert run(*SPRITES, "--no-plots", "--out", tmp_path).exit_code == 130
    assert len(names(tmp_path)) == 2 * len(others) + 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tarus"], "no data set 'tarus'"),
        (["sprites", "--shape", "circle"], "must be one of 'ellipse', 'square', 'heart'"),
        (["sprites", "--layout", "fine"], "layout must be one of"),
        (["sprites", "--axes", "orientation,z"], "a factor must be one of"),
        (["sprites", "--axes", "x,x"], "factors must be distinct"),
        (["sprites", "--axes", ""], "--axes must not be empty"),
        (["sprites", "--size", "4"], "at least 8"),
        (["sprites", "--samples", "scale"], "--samples takes name=value"),
        (["sprites", "--samples", "scale=a"], "cannot read the value 'a' of 'scale'"),
        (["sprites", "--samples", "scale=1"], "size must be a whole number, at least 2"),
        (["sprite"], "that name: perhaps you mean sprites; the data sets are sprites, dsprites"),
        (["sprites", "--samples", "blur=9"], "sizes may hold"),
        (["sprites", "--samples", "x=4,x=5"], "twice"),
        (["sprites", "--samples", "x=4", "--samples", "x=5"], "twice"),
        (["sprites", "--range", "scale=1"], "cannot read the value '1' of 'scale'"),
        (["sprites", "--range", "scale=1:0.5"], "must increase"),
        (["sprites", "--fixed", "colour=1"], "'colour'"),
        (["sprites", "--blur", "-1"], "blur must be a positive finite number"),
        (["sprites", "--object", "3"], "--object does not apply to sprites"),
        (["torus", "--shape", "square"], "--shape does not apply to torus"),
        (["torus", "--samples", "angle=9"], "--samples names the axis 'angle'"),
        (["torus", "--accuracy", "5"], "accuracy must be one of 2, 4, 6, 8, 'spectral'"),
        (["torus", "--accuracy", "4,4,4"], "accuracy must be one, or one per axis"),
        (["swiss_roll", "--accuracy", "spectral"], "needs a periodic axis"),
        (["torus", "--noise", "0.1", "--exact"], "--noise is that of samples"),
        (["torus", "--noise", "0.1"], "torus is differentiated exactly: add --stencils"),
        (["torus", "--noise", "inf"], "--noise must be"),
        (["torus", "--tolerance", "2"], "--tolerance must lie between 0 and 1"),
        (["coil20", "--object", "21", "--data", "."], "from 1 to 20"),
        (["coil20", "--data", "/nonexistent/coil"], "does not exist"),
        (["coil20", "--data", "."], "coil-20-proc"),
    ],
)
def test_bad_calls_say_why_in_one_sentence(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in text(result)
    assert text(result).startswith("Error: ")
    assert "Traceback" not in result.output
    assert not names(tmp_path), "nothing is left behind"


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    result = run("torus", "--out", tmp_path / "file" / "results")
    assert result.exit_code == 2
    assert "Cannot write to the folder" in text(result)


def test_missing_package_is_said_first(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("torus", "--out", tmp_path / "results")
    assert result.exit_code == 2
    assert 'This command needs matplotlib: pip install "manifold_jax[cli]"' in text(result)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("name", measure_data.SURFACES)
def test_every_surface_is_built_by_name_with_its_samples(name):
    natural = measure_data.build(name, {})
    axis = natural[0].grid.axes[0].name
    for part in measure_data.build(name, {"samples": {axis: 12}}):
        assert part.grid.shape == (12, *natural[0].grid.shape[1:])
        assert part.feature_shape


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name):
    result = CliRunner().invoke(cli.application(name), [name, "--help"])
    assert result.exit_code == 0, result.output
    assert ("--out" in result.output) == (name != "inspect")
    assert "bool" not in result.output, "which asks for --cloud true"


def test_the_list_of_commands_imports_no_networks():
    code = (
        "import sys; from manifold_jax.experiments import cli; "
        "cli.application()(['--help'], standalone_mode=False); "
        "assert not {'flax', 'optax', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in cli.COMMANDS)


def test_numbers_are_never_cut_where_the_terminal_is_narrow():
    table = terminal.new_table("quantity", "value", "between", "unit", spare=("between", "unit"))
    table.add_row("scalar curvature", "-0.006218 ± 6e-05", "-0.0123 … 0.0123", "ℓ⁻²")
    for width, shown in ((30, 0), (45, 1), (60, 2)):
        printed = terminal.as_text([table], width)
        assert "-0.006218 ± 6e-05" in printed or width == 30
        assert ("ℓ⁻²" in printed, "0.0123" in printed) == (shown > 0, shown > 1)
        assert max(map(len, printed.splitlines())) <= width


def test_what_an_encoding_lacks_is_spelled_out(tmp_path):
    words = "print('S = 2 ± 0.1 ℓ⁻², 5 … 9, \\u4e2d'); console.print('|II|² ── ±')"
    code = f"from manifold_jax.experiments.terminal import *; write_what_fits(); {words}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode("ascii").split("\n")[0] == "S = 2 +- 0.1 l^-2, 5 .. 9, ?"
    assert "|II|^2" in done.stdout.decode("ascii")
