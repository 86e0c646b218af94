"""What an experiment is and gives, and the one loop that runs, shows and writes them."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.table import Table
from rich.text import Text

from manifold_jax._checks import number, whole
from manifold_jax._files import write_dataset, write_text
from manifold_jax._keys import fingerprint, package_version
from manifold_jax.experiments.pages import REPORT, Finished, write_outcomes
from manifold_jax.experiments.results import publishing
from manifold_jax.experiments.terminal import as_text, console, left_out, meant, progress_bar
from manifold_jax.plotting.animation import Moving, save_animation
from manifold_jax.plotting.geometry import save_figure
from manifold_jax.plotting.style import Figure

Row = dict[str, Any]

_WIDTH = 200  # characters a line of the text files


class Outcome(NamedTuple):
    """Result of one experiment: a titled table whose rows have the same keys, with notes below it.

    ``data`` is for JSON: numbers, strings, lists, arrays. Figures go by the stem of their file. The
    ``xarray.Dataset`` holds all numbers, where there are many.
    """

    title: str
    rows: Sequence[Row]
    data: dict[str, Any]
    figures: dict[str, Figure]
    notes: Sequence[str] = ()
    dataset: Any = None
    moving: Mapping[str, Moving] | None = None  # by the stem of the file, written where it is asked for
    headline: str = ""  # the numbers that matter, in one line


def replace_field(settings: Any, option: str, value: Any) -> Any:
    """Settings with one field changed, or None where they have no such field."""
    return settings._replace(**{option: value}) if option in settings._fields else None


class Experiment(NamedTuple):
    """One experiment of a command.

    ``run`` is called with the context of the command (what was trained, a folder, ...), the settings,
    ``progress=`` and the options below.
    """

    about: str  # one line of --help
    full: Any  # settings, a NamedTuple, as in the paper
    reduced: Any  # settings that take minutes on two cores
    run: Callable[..., Outcome]
    check: Callable[[Any], None] = lambda _: None  # raises ValueError for settings that make no sense
    options: tuple[str, ...] = ()  # options of the command that ``run`` takes besides its settings
    change: Callable[[Any, str, Any], Any] = replace_field  # puts one option in, None where there is none


Experiments = Mapping[str, Experiment]


def describe(experiments: Experiments, **others: str) -> str:
    """Text of ``--help``: the experiments, what else may be asked for, and ``all``."""
    abouts = {name: experiment.about for name, experiment in experiments.items()} | others
    abouts["all"] = "all of them"
    return "; ".join(f"{name}: {about}" for name, about in abouts.items()) + "."


def select(experiments: Experiments, name: str, *others: str) -> list[str]:
    """Names of the experiments to run: one, all of them, or none for what else may be asked for."""
    if name == "all":
        return list(experiments)
    if name in others:
        return []
    if name not in experiments:
        names = ", ".join((*experiments, *others))
        raise ValueError(
            f"no experiment {name!r}: {meant(name, (*experiments, *others))}choose from {names}, or all."
        )
    return [name]


def preset_of(preset: str, choices: Mapping[str, Any]) -> Any:
    """What belongs to a preset, which is refused if there is none of that name."""
    if preset not in choices:
        raise ValueError(f"--preset must be {' or '.join(choices)}, got {preset!r}.")
    return choices[preset]


def settings_for(
    experiments: Experiments, name: str, preset: str, changes: Mapping[str, Any], *, strict: bool = True
) -> Any:
    """Checked settings of a preset with the options that were given, those that are not None.

    An option that the settings do not have is refused if ``strict``, and left out otherwise.
    """
    experiment = experiments[name]
    settings = preset_of(preset, {"reduced": experiment.reduced, "full": experiment.full})
    for option, value in given_options(changes).items():
        changed = experiment.change(settings, option, value)
        if changed is not None:
            settings = changed
        elif strict:
            raise ValueError(f"--{option.replace('_', '-')} does not belong to {name}: leave it out.")
    experiment.check(settings)
    return settings


def all_settings(
    experiments: Experiments, asked: str, preset: str, changes: Mapping[str, Any], *others: str
) -> dict[str, Any]:
    """Settings by name of what is asked for, see :func:`select`; ``all`` takes the options that it has."""
    strict = asked != "all"
    names = select(experiments, asked, *others)
    return {name: settings_for(experiments, name, preset, changes, strict=strict) for name in names}


def given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a command for the record: those that were given."""
    return {name: value for name, value in options.items() if value is not None}


_SPELLED = {"ranges": "range", "object_id": "object", "manifolds": "manifold"}
"""Options that are called otherwise than their arguments."""


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse what no option of any command takes: empty texts, numbers that are infinite or huge."""
    for name, value in options.items():
        option = f"--{_SPELLED.get(name, name).replace('_', '-')}"
        for entry in value if isinstance(value, list) else [value]:
            if entry == "":
                raise ValueError(f"{option} must not be empty: leave it out, or give it a value.")
            if isinstance(entry, float):
                number("manifold-jax", option, entry)
            elif isinstance(entry, int):
                whole("manifold-jax", option, int(entry), -(2**31), 2**31 - 1)


_WHERE = ("out", "workers", "scheduler", "animate", "test images right")
"""What says how work is done and shown, and what came out of it, not what is done."""


def run_experiments(
    experiments: Experiments,
    settings: Mapping[str, Any],
    context: Any,
    out: Path,
    arguments: dict[str, Any],
    **options: Any,
) -> list[Finished]:
    """Run every experiment that has ``settings``; show its outcome and write it to the folder ``out``.

    ``arguments`` are what was asked for, for the record; of ``options`` each experiment is given its own.
    """
    finished = []
    machine = {"device": str(jax.devices()[0]), "version": package_version()}
    asked = _asked(arguments)
    for name, chosen in settings.items():
        taken = {key: options[key] for key in experiments[name].options}
        began = time.perf_counter()
        with progress_bar(name) as advance:
            outcome = experiments[name].run(context, chosen, progress=advance, **taken)
        seconds = time.perf_counter() - began
        record = arguments | {"settings": chosen, "seconds": seconds} | machine
        written: list[Path] = []
        with publishing(out, fingerprint(None, name, plain(asked), plain(chosen)), written) as folder:
            write(outcome, folder, name, record)
        console.print(table(outcome, console.width), *outcome.notes, sep="\n")
        say_where(out, written, f"{seconds:.0f} s. ")
        about, (title, rows, _, _, notes, *_) = experiments[name].about, outcome
        shown = table(outcome, _WIDTH)
        finished.append(Finished(name, about, title, rows, notes, shown, written, record, outcome.headline))
    return finished


def _asked(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments that say what is done."""
    return {name: value for name, value in arguments.items() if name not in _WHERE}


def publish_page(command: str, finished: Sequence[Finished], out: Path) -> None:
    """Write ``report.html`` about what a command ran, in the place of that of an earlier run."""
    if not finished:
        return
    written: list[Path] = []
    lost: list[str] = []
    # Of whatever this command ran last in the folder.
    with publishing(out, fingerprint(None, REPORT, command), written) as folder, left_out(REPORT, lost):
        write_outcomes(folder / REPORT, command, finished)
    say_where(out, written)
    for words in (*lost, *(Text(one.headline, style="bold") for one in finished if one.headline)):
        console.print(words)


def say_where(out: Path, written: Sequence[Path], before: str = "") -> None:
    """Name the results, and say how to look at the page."""
    pages = [path for path in written if path.suffix == ".html"]
    if names := ", ".join(path.name for path in written if path not in pages):
        console.print(Text.assemble(f"{before}Results in ", (str(out), "bold"), f": {names}"), soft_wrap=True)
    for page in pages:
        console.print(Text.assemble("Open ", (str(page), "bold"), " in a browser."), soft_wrap=True)


def write(outcome: Outcome, out: Path, name: str, arguments: dict[str, Any]) -> list[Path]:
    """Write ``name.json``, ``name.txt``, the figures, and ``name.nc`` where there is a data set."""
    record = {"title": outcome.title, "arguments": arguments, "rows": list(outcome.rows)}
    record |= {"notes": list(outcome.notes), "headline": outcome.headline, "data": outcome.data}
    text = as_text([table(outcome, _WIDTH)], _WIDTH) + "".join(f"{note}\n" for note in outcome.notes)
    text += f"{outcome.headline}\n" if outcome.headline else ""
    written = [write_json(out / f"{name}.json", record), write_text(out / f"{name}.txt", text)]
    if outcome.dataset is not None:
        written.append(write_dataset(outcome.dataset, out / f"{name}.nc"))
    written += [save_figure(figure, out / f"{stem}.png") for stem, figure in outcome.figures.items()]
    if arguments.get("animate"):
        several = (outcome.moving or {}).items()
        written += [save_animation(moving, out / f"{stem}.gif") for stem, moving in several]
    return written


def write_json(path: Path, record: dict[str, Any]) -> Path:
    """Write a record, see :func:`plain`."""
    return write_text(path, json.dumps(plain(record), indent=1, allow_nan=False) + "\n")


def machine() -> dict[str, Any]:
    """Versions and the device."""
    device = jax.devices()[0]
    record: dict[str, Any] = {"manifold_jax": package_version(), "jax": jax.__version__}
    return record | {
        "python": platform.python_version(),
        "device": device.device_kind,
        "platform": device.platform,
    }


def plain(value: Any) -> Any:
    """Numbers, lists and dictionaries for JSON, which knows no arrays, named tuples, paths and infinity."""
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if hasattr(value, "tolist"):
        return plain(np.asarray(value).tolist())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def _cell(value: Any) -> str:
    """A value as text."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (float, np.floating)):
        return "-" if not np.isfinite(value) else f"{value:.4g}"
    return "-" if value is None else str(value)


def table(outcome: Outcome, width: int) -> Table:
    """The rows as a table of so many characters a line; rows become columns where that is too little."""
    lines = [list(outcome.rows[0]), *([_cell(value) for value in row.values()] for row in outcome.rows)]
    upright = list(zip(*lines, strict=True))
    needed, turned = (1 + sum(max(map(len, one)) + 3 for one in part) for part in (upright, lines))
    columns = upright if needed < width or needed <= turned else lines
    shown = Table(title=outcome.title, title_justify="left")
    for k, column in enumerate(columns):
        shown.add_column(column[0], justify="left" if k == 0 else "right")
    for row in zip(*(column[1:] for column in columns), strict=True):
        shown.add_row(*row)
    return shown
