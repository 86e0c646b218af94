"""Results stay: awkward names, full disks, other processes, files of the user, signals, terminals."""

import copy
import dataclasses
import errno
import io
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interrupt import Interrupted, interrupt_after
from typer.testing import CliRunner

from manifold_jax import Axis, Grid, Manifold, _files, load_geometry, measure, reach
from manifold_jax.datasets import circle, product, torus, warped
from manifold_jax.experiments import cli, terminal
from manifold_jax.experiments.results import MANIFEST, Cells, publishing, remove_others
from manifold_jax.fitting import RATES
from manifold_jax.models import checkpoint_steps, load_params, save_checkpoint

GRID = Grid((Axis("angle", 0.0, 2 * np.pi, 16, periodic=True),))
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def ring(u):
    return jnp.stack([jnp.cos(u[0]), jnp.sin(u[0])])


@pytest.fixture(scope="module")
def geometry():
    return measure(ring, GRID)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def run(*arguments):
    return CliRunner().invoke(cli.application(arguments[0]), list(map(str, arguments)))


# --- what can be saved --------------------------------------------------------------------------------------

AWKWARD = [
    *("a/b", "reach", "volume_element", "Noise", "axis_name", " ", "ünï €", "a\0b", "..", "x" * 300, "__x"),
    *("\ud800", "line\nbreak", "title", "measure_name", "value", "{name}", "ﬁ", "-", "0"),
]


def spread(geometry, grid):
    """A Geometry of another grid, with some number in every field."""

    def shaped(leaf):
        if leaf.shape[:1] == (16,):
            return np.full(grid.shape + (grid.ndim,) * (leaf.ndim - 1), leaf.ravel()[0])
        if leaf.ndim == 1:
            return np.full(grid.ndim, leaf[0])
        return np.full((len(leaf), grid.ndim), leaf.ravel()[0]) if leaf.ndim == 2 else leaf

    return dataclasses.replace(jax.tree.map(shaped, jax.device_get(geometry)), grid=grid)


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
@pytest.mark.thorough
def test_awkward_names_units_and_attributes_come_back(suffix, geometry, tmp_path):
    units = [None, "s", "days since 2000-01-01", "°", "a\0b", "\ud800", "days"]
    for k in range(0, len(AWKWARD), 5):
        chosen = list(zip(AWKWARD[k : k + 5], units[k % 3 :], strict=False))
        odd = spread(
            geometry, Grid([Axis(name, 0.0, 1.0, 2, np.bool_(k % 2), unit) for name, unit in chosen])
        )
        named = {"name": AWKWARD[k], "attributes": {AWKWARD[k]: None, "b": np.float32(1)}}
        odd = dataclasses.replace(odd, **named, tolerance=np.float32(0.5))
        assert odd.attributes == ((AWKWARD[k], "None"), ("b", "1.0"))
        assert load_geometry(odd.save(tmp_path / f"odd.{suffix}")) == odd


def test_numbers_of_numpy_are_saved(tmp_path):
    grid = Grid((Axis(np.str_("t"), np.float32(0), np.int8(3), np.uint8(16), np.bool_(True), None),))
    assert (grid.axes[0].periodic, grid.axes[0].unit) == (True, "")
    measured = measure(ring, grid, accuracy=np.int64(4), stride=np.int8(1), tolerance=np.float32(0.25))
    assert load_geometry(measured.save(tmp_path / "a.nc")) == measured
    for label, value in (("periodic", "no"), ("periodic", 1), ("wrap", None), ("unit", 3)):
        with pytest.raises(ValueError, match=rf"Axis 't': {label} must be .*, got {value!r}"):
            Axis("t", 0, 1, 4, **({"periodic": True} | {label: value}))


@pytest.mark.thorough
def test_a_reach_over_axes_that_are_called_like_its_fields(tmp_path):
    grid = Grid((Axis("value", 0.0, 2 * np.pi, 16, periodic=True, unit="s"),))
    dataset = reach(ring, grid).to_xarray()
    assert float(dataset["value"]) == pytest.approx(1, rel=1e-3)
    assert _files.read_dataset(_files.write_dataset(dataset, tmp_path / "reach.nc")).sizes == dataset.sizes


def test_the_home_folder(geometry, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert geometry.save("~/a.nc") == tmp_path / "a.nc"
    assert load_geometry("~/a.nc") == geometry
    assert save_checkpoint("~/run", 1, {"w": np.ones(2)}) == tmp_path / "run" / "1"
    assert checkpoint_steps("~/run") == [1]
    assert load_params("~/run", {"w": np.zeros(2)})["w"].sum() == 2
    measure(ring, GRID, checkpoint="~/work")
    assert (tmp_path / "work").is_dir()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "params must hold at least one array, got none"),
        ({"a": {}, "b": None}, "params must hold at least one array, got none"),
        ({"w": np.ones((0, 3))}, r"params/w must be an array of numbers .* got float64 of shape \(0, 3\)"),
        ({"w": "text"}, "params/w must be an array of numbers"),
        ({"w": jax.random.key(0)}, r"params/w must be .* \(of a key, jax.random.key_data\), got key"),
    ],
)
def test_a_checkpoint_of_nothing_is_refused(params, message, tmp_path):
    with pytest.raises(ValueError, match=f"save_checkpoint: {message}"):
        save_checkpoint(tmp_path, 1, params)
    assert names(tmp_path) == []


# --- objects ------------------------------------------------------------------------------------------------


def _same(pair):
    return pair[0] == pair[1]


def test_results_are_compared_hashed_shown_and_sent(geometry):
    other, first, second = measure(ring, GRID), reach(ring, GRID), reach(ring, GRID)
    assert geometry == other
    assert hash(geometry) == hash(other)
    assert geometry != dataclasses.replace(other, name="other")
    assert geometry != jax.tree.map(lambda x: x + 1 if x.dtype.kind == "f" else x, other)
    assert geometry != 3
    assert first == second
    assert (first != second) is False
    assert hash(first) == hash(second)
    assert first.components[0] == second.components[0]
    assert first != first._replace(value=2.0)
    for thing in (
        geometry,
        first,
        first.components[0],
        torus(),
        product(circle(), circle()),
        warped(torus()),
    ):
        assert len(repr(thing).splitlines()) <= 10
        assert len(repr(thing)) < 600
    assert jax.jit(lambda g: jnp.zeros(len(repr(g)) > 0))(geometry).shape == (1,)
    for thing in (geometry, first, RATES):
        assert copy.deepcopy(thing) == thing


@pytest.mark.slow
def test_results_are_sent_to_other_processes(geometry):
    pairs = [(geometry, measure(ring, GRID)), (reach(ring, GRID), reach(ring, GRID)), (RATES, RATES)]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_same, pairs) == [True] * 3


@pytest.mark.parametrize("build", [torus, lambda: product(circle(), circle()), lambda: warped(torus())])
def test_manifolds_are_copied_and_say_why_they_are_not_sent(build):
    manifold = build()
    twin = copy.deepcopy(manifold)
    u = jnp.ones(manifold.grid.ndim)
    np.testing.assert_array_equal(twin.embedding(u), manifold.embedding(u))
    assert twin.known["reach"] == manifold.known["reach"]
    assert twin.attributes is not manifold.attributes
    with pytest.raises(TypeError, match=r"cannot be pickled: .* build it in the other process"):
        manifold.__reduce_ex__(4)
    assert Manifold(np.str_("ring"), ring, GRID, None, {1: 2}).attributes == {"1": 2}


# --- keys ---------------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_a_function_is_known_by_its_constants_and_not_by_some_points(tmp_path, monkeypatch):
    grid = Grid((Axis("t", 0.0, 1.0, 33),))

    def curve(table):
        return lambda u: jnp.stack([u[0], jnp.interp(u[0], jnp.linspace(0, 1, len(table)), table)])

    flat = np.zeros(17)
    bump = flat.copy()
    bump[2] = 1.0  # 0 at the five points that were looked at
    with pytest.raises(Interrupted):
        measure(curve(flat), grid, checkpoint=tmp_path, block_size=4, progress=interrupt_after(20))
    assert any(tmp_path.glob("partial-*"))
    options = {"checkpoint": tmp_path, "block_size": 4}
    assert measure(curve(bump), grid, **options) == measure(curve(bump), grid, block_size=4)
    monkeypatch.setattr("manifold_jax._keys.package_version", lambda: "another")
    seen = []
    measure(curve(flat), grid, **options, progress=lambda n, _: seen.append(n))
    assert seen[0] <= 8, "of another version: begin again"


# --- folders ------------------------------------------------------------------------------------------------


def put(out, key, **texts):
    written = []
    with publishing(out, key, written) as folder:
        for name, text in texts.items():
            (folder / f"{name}.txt").write_text(text)
    return [path.name for path in written]


def test_results_of_other_work_and_files_of_the_user_stay(tmp_path):
    assert put(tmp_path, "a", one="1", two="2") == ["one.txt", "two.txt"]
    assert put(tmp_path, "a", one="3", two="4") == ["one.txt", "two.txt"]
    assert put(tmp_path, "b", one="5") == ["one-2.txt"]
    (tmp_path / "two.txt").write_text("by hand")
    assert put(tmp_path, "a", one="6", two="7") == ["one-3.txt", "two-3.txt"]
    remove_others(tmp_path, "a", [])
    assert names(tmp_path) == [MANIFEST, "one-2.txt", "two.txt"]
    assert (tmp_path / "two.txt").read_text() == "by hand"


def test_a_link_to_what_is_away_is_no_free_name(tmp_path):
    (tmp_path / "a.txt").symlink_to(tmp_path / "away" / "a.txt")
    written: list[Path] = []
    with publishing(tmp_path, "key", written) as folder:
        (folder / "a.txt").write_text("new")
    assert (tmp_path / "a.txt").is_symlink()
    assert [path.name for path in written] == ["a-2.txt"]


def test_a_folder_that_was_looked_at_is_still_whole(geometry, tmp_path):
    place = geometry.save(tmp_path / "a.zarr")
    (place / ".DS_Store").write_bytes(b"view")
    assert load_geometry(place) == geometry


@pytest.mark.thorough
def test_a_map_without_a_name_is_known_by_its_numbers(tmp_path):
    with tempfile.TemporaryFile(dir=tmp_path) as file:
        points = np.memmap(file, np.float32, "w+", shape=(*GRID.shape, 2))
        points[:] = np.asarray(jax.vmap(ring)(GRID.coordinates()))
        volume = measure(points, GRID, checkpoint=tmp_path).total_volume.value
    np.testing.assert_allclose(volume, 2 * np.pi, rtol=1e-2)


@pytest.mark.thorough
def test_a_command_removes_nothing_of_the_user(tmp_path):
    mine = (
        "pca.png",
        "reach.nc",
        "samples.png",
        ".x.tmp.y",
        "partial-1.tmp",
        "geometry_1.nc",
        "summary.json",
    )
    (tmp_path / "mine.tmp.nc").mkdir()
    for name in mine:
        (tmp_path / name).write_text(name)
    options = ("--samples", "angle=16", "--no-plots", "--no-reach", "--out", tmp_path)
    for tolerance in (0.1, 0.2):
        result = run("measure", "circle", *options, "--tolerance", tolerance)
        assert result.exit_code == 0, result.output
    assert all((tmp_path / name).read_text() == name for name in mine)
    assert json.loads((tmp_path / "summary-2.json").read_text())["arguments"]["tolerance"] == 0.2
    assert "summary-2.json" in result.output
    assert not (tmp_path / "summary-3.json").exists()


def test_two_processes_do_not_share_a_folder(tmp_path):
    with _files.locked(tmp_path):
        result = run("measure", "circle", "--no-plots", "--no-reach", "--out", tmp_path)
    assert result.exit_code == 2
    assert "Another process is writing its results" in " ".join(result.output.split())
    assert names(tmp_path) == []


def test_cells_of_two_processes_and_of_one_that_was_ended(tmp_path):
    path = tmp_path / "cells.jsonl"
    first, second = Cells(path), Cells(path)
    first.put("a", 1)
    second.put("b", 2)
    path.write_bytes(path.read_bytes() + b'{"cell": "c", "val')
    Cells(path).put("d", 3)
    assert Cells(path) == {"a": 1, "b": 2, "d": 3}
    path.write_bytes(path.read_bytes().replace(b'"values": 2', b'"values": 7'))
    assert Cells(path) == {"a": 1, "d": 3}


def test_only_leftovers_of_ended_processes_are_removed(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    own = _files.temporary(tmp_path / "a.nc").name
    dead = own.replace(f"-{os.getpid()}-", f"-{process.pid}-")
    other = dead.replace(".mj-", ".mj-ffffff")[: len(dead)]
    for name in (own, dead, ".a.tmp.nc", "b.tmp.nc", other):
        (tmp_path / name).write_text("")
    (tmp_path / dead.replace(".a.", ".b.")).mkdir()  # as of a Zarr folder
    (tmp_path / dead.replace(".a.", ".c.").replace(".tmp", ".old")).write_text("stepped aside")
    _files.remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted([own, ".a.tmp.nc", "b.tmp.nc", other, "c.nc"])


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_a_full_disk_costs_a_sentence(suffix, geometry, tmp_path):
    measured = spread(geometry, Grid((Axis("t", 0.0, 6.0, 4000),)))
    path = measured.save(tmp_path / f"a.{suffix}")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, limits[1]))
    try:
        with pytest.raises(ValueError, match=rf"Cannot write .*a\.{suffix}: File too large"):
            measured.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == [f"a.{suffix}"]
    assert load_geometry(path) == measured


def test_a_full_disk_does_not_end_a_measurement(tmp_path, monkeypatch):
    def full(*_, **__):
        raise FULL

    monkeypatch.setattr(Path, "replace", full)
    with pytest.warns(UserWarning, match=r"Cannot write .*: No space left on device. The work goes on"):
        measured = measure(np.asarray(GRID.coordinates()).repeat(2, -1), GRID, checkpoint=tmp_path)
    assert measured.grid == GRID


# --- terminals and signals ----------------------------------------------------------------------------------


def test_text_is_printed_as_it_is_and_a_closed_pipe_costs_nothing(monkeypatch):
    paper = io.StringIO()
    monkeypatch.setattr(sys, "stdout", paper)
    terminal.console.print("runs/[red]a[/b] :smile: [5 %]", soft_wrap=True)
    assert paper.getvalue() == "runs/[red]a[/b] :smile: [5 %]\n"
    assert terminal.as_text(["[bold]x"]) == "[bold]x\n"
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe, monkeypatch.context() as patch:
        patch.setattr(terminal.console, "quiet", False)
        patch.setattr(sys, "stdout", pipe)
        terminal.console.print("nobody reads this")
        assert terminal.console.quiet


LOOP = """
import jax, jax.numpy as jnp, signal, sys, time, typer
from manifold_jax.experiments import terminal
from pathlib import Path
signal.alarm(120)  # an end, should the test itself be killed
terminal._GRACE, terminal._PATIENCE = 0.2, 0.3
terminal.handle_signals()
x = jnp.ones(100)
loop = jax.jit(lambda x: jax.lax.while_loop(lambda x: x[0] >= 0, lambda x: jnp.sin(x) + 1, x))
loop = loop.lower(x).compile()
def command():
    with terminal.plain_errors(), terminal.results_folder(Path(sys.argv[1])):
        print("ready", flush=True)
        try:  # as what JAX calls while it traces may do
            time.sleep(60 if "lost" in sys.argv else 0)
        except KeyboardInterrupt:
            pass
        loop(x).block_until_ready()
try:
    typer.run(command) if len(sys.argv) < 2 else command()
except typer.Exit as end:
    terminal.leave(end.exit_code)
"""


@pytest.mark.parametrize(
    ("signals", "first", "status"),
    [
        ((signal.SIGINT,), "lost", 130),
        pytest.param((signal.SIGINT,), "taken", 130, marks=pytest.mark.slow),
        pytest.param((signal.SIGTERM,) * 2, "taken", 143, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_compiled_code_in_a_sentence(signals, first, status, tmp_path):
    arguments = [sys.executable, "-c", LOOP, tmp_path, first]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    for number in signals:
        process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == status, errors
    assert "Traceback" not in errors
    if len(signals) == 1:
        assert f"Interrupted. What was complete, if anything, is kept in {tmp_path}" in errors
    assert output == ""
    assert names(tmp_path) == []


IMPORTING = """
import os, sys
class Interrupting:
    def find_spec(self, name, *_):
        if name == "typer":
            try:
                os.kill(os.getpid(), int(sys.argv[1]))
            except BaseException as error:
                raise ImportError(name) from error
sys.meta_path.insert(0, Interrupting())
from manifold_jax.experiments.cli import main
main()
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_packages_are_imported_ends_in_a_sentence(number, status):
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING, str(int(number))], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == status, done.stderr
    assert done.stderr == f"\n{terminal.NOTHING}\n"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_signalled_goes_on(number, status, tmp_path):
    program = [sys.executable, "-c", "from manifold_jax.experiments.cli import main; main()"]
    command = [*program, "measure", "sprites", "--axes", "scale,orientation,x", "--no-plots", "--no-reach"]
    command += ["--block-size", "64", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if any(tmp_path.glob("partial-*")) or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
    assert [name.split("-")[0] for name in names(tmp_path)] == ["partial"]


@pytest.mark.slow
def test_a_command_whose_output_nobody_can_read(tmp_path):
    program = f"'{sys.executable}' -c 'from manifold_jax.experiments.cli import main; main()'"
    command = f"{program} measure circle --out '{tmp_path}/[red]' | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    written = {"geometry.nc", "reach.nc", "reach.png", "summary.json", "summary.txt", "pca.png", MANIFEST}
    assert written < set(names(tmp_path / "[red]"))


# --- refusals come first ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("leaf paths --path .", "--path does nothing for digits"),
        ("leaf train --pairs 3", "train only trains: leave out --pairs"),
        ("leaf train --max-steps 3 --ways 2", "leave out --max-steps, --ways"),
        ("leaf train --letters a.npz", "--letters does not belong to train"),
        ("leaf paths --width 3", "leave it out for digits"),
        ("leaf sprites --init torch", "leave out --init"),
        ("leaf train --seed 99999999999999999999", "--seed"),
        ("leaf train --seed -1", "--seed"),
        ("layers train --factors 3", "leave it out"),
        ("bounds images --data sprites --path .", "--path is where COIL-20 is"),
        ("bounds toys --out FILE/x", "Cannot write to the folder"),
        ("calibrate --out FILE", "is not a folder"),
        ("leaf train --out FILE/x", "Cannot write to the folder"),
        ("layers train --out FILE/x", "Cannot write to the folder"),
        ("measure torus --out FILE/x", "Cannot write to the folder"),
    ],
)
def test_options_that_do_nothing_and_folders_that_cannot_be_written(
    arguments, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text("")
    result = run(*arguments.split())
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())
    assert names(tmp_path) == ["FILE"]


@pytest.mark.parametrize("command", ["leaf train", "layers train", "bounds toys", "calibrate"])
def test_missing_packages_are_said_before_the_work(command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run(*command.split(), "--out", tmp_path / "results")
    assert result.exit_code == 2
    assert "needs matplotlib: pip install" in result.output
    assert names(tmp_path) == []
