"""The verbs ``fit``, ``limit`` and ``convert-alea``: each reads its options, calls one function and prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from inference.alea import read_alea
from inference.asymptotics import IntervalKind
from inference.data import Outside
from inference.model import StatisticalModel
from inference.report import FIT_HEADINGS, ReportFiles, fit_report, fit_rows, interval_lines, limit_report
from inference.results import FitResult
from surrogate.atomic import write_json
from surrogate.errors import ConfigError

ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL", help="Statistical model (YAML).")]
DataOption = Annotated[Path, typer.Option("--data", "-d", help="Events: HDF5, .npz, .npy, CSV or a directory of them.")]
OutputOption = Annotated[Path, typer.Option(help="Directory for the record, the figures and the table.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Hold a parameter at a value in all fits.")
]
NominalOption = Annotated[
    list[str] | None, typer.Option(metavar="NAME=VALUE", help="Another nominal value, such as wimp_mass=6.")
]
FolderOption = Annotated[
    list[Path] | None, typer.Option("--template-path", help="Where templates and checkpoints are looked up first.")
]
TemplateOption = Annotated[
    list[str] | None,
    typer.Option(metavar="SOURCE=PATTERN", help="File name of a source's templates; {run:lower} is the run's name."),
]
IndexOption = Annotated[int | None, typer.Option(help="Which data set of a file that holds several.")]
DropOption = Annotated[bool, typer.Option("--drop-outside", help="Drop events outside the region of interest.")]
JsonOption = Annotated[Path | None, typer.Option("--json", metavar="FILE|-", help="Write the record as JSON.")]


def _pairs(words: Sequence[str] | None, option: str) -> dict[str, str]:
    """Read words of the form NAME=TEXT."""
    pairs: dict[str, str] = {}
    for word in words or []:
        name, separator, text = word.partition("=")
        if not (name and separator and text):
            raise ConfigError(f"{option} {word}: must be of the form NAME=VALUE")
        if name in pairs:
            raise ConfigError(f"{option} {word}: '{name}' is given twice")
        pairs[name] = text
    return pairs


def _numbers(words: Sequence[str] | None, option: str) -> dict[str, float]:
    """Read words of the form NAME=NUMBER; whole numbers stay integers, as file names need them."""
    numbers: dict[str, float] = {}
    for name, text in _pairs(words, option).items():
        try:
            numbers[name] = int(text) if text.lstrip("+-").isdigit() else float(text)
        except ValueError:
            raise ConfigError(f"{option} {name}={text}: '{text}' is no number") from None
    return numbers


def _model(
    path: Path,
    data: Path,
    folders: Sequence[Path] | None,
    templates: Sequence[str] | None,
    nominal: Sequence[str] | None,
    index: int | None,
    drop: bool,
    uncertified: bool,
) -> StatisticalModel:
    """Build the model and give it its data."""
    model = StatisticalModel.from_config(
        path,
        list(folders or []),
        _pairs(templates, "--template"),
        _numbers(nominal, "--nominal"),
        uncertified,
    )
    outside: Outside = "drop" if drop else "refuse"
    model.set_data(data, index, outside)
    return model


def _console(record: Path | None) -> Console:
    """Return where people read: standard output, unless the record goes there."""
    return Console(stderr=record is not None and str(record) == "-", soft_wrap=True, highlight=False)


def _write(record: Path | None, result: Mapping[str, Any]) -> None:
    if record is None:
        return
    if str(record) == "-":
        sys.stdout.write(json.dumps(result, indent=2, allow_nan=False) + "\n")
    else:
        write_json(record, result)


def _print_fit(console: Console, model: StatisticalModel, fit: FitResult) -> None:
    table = Table(title=None, box=None, pad_edge=False)
    for k, heading in enumerate(FIT_HEADINGS):
        table.add_column(heading, justify="left" if k in (0, 4) else "right")
    for row in fit_rows(fit):
        table.add_row(*row)
    console.print(table)
    console.print(f"fit: {fit.message}; ln L = {fit.log_likelihood}")
    for name, events in model.data.events.items():
        dropped = f", {events.n_dropped} outside the region of interest dropped" if events.n_dropped else ""
        console.print(f"run {name}: {len(events)} events{dropped}")
    if model.uncertified:
        console.print(f"without a valid certificate: {', '.join(model.uncertified)}")


def _print_files(console: Console, files: ReportFiles) -> None:
    console.print(f"record   {files.record}")
    console.print(f"summary  {files.summary}")
    for path in files.figures.values():
        console.print(f"figure   {path}")


def fit(
    model: ModelArgument,
    data: DataOption,
    output: OutputOption = Path("runs/fit"),
    hold: SetOption = None,
    nominal: NominalOption = None,
    template_path: FolderOption = None,
    template: TemplateOption = None,
    index: IndexOption = None,
    drop_outside: DropOption = False,
    record: JsonOption = None,
) -> int:
    """Fit a statistical model to data.

    Prints the best fit with errors and pulls, and writes the record, figures and a table. Exit code 1 if the fit did
    not converge.
    """
    built = _model(model, data, template_path, template, nominal, index, drop_outside, True)
    result, files = fit_report(built, output, _numbers(hold, "--set"))
    console = _console(record)
    _print_fit(console, built, result)
    _print_files(console, files)
    _write(record, result.to_dict())
    return 0 if result.success else 1


def limit(
    model: ModelArgument,
    data: DataOption,
    output: OutputOption = Path("runs/limit"),
    poi: Annotated[
        str | None, typer.Option(help="Parameter of interest; the only unconstrained rate if left out.")
    ] = None,
    confidence_level: Annotated[float | None, typer.Option(help="Such as 0.9, the default of models.")] = None,
    kind: Annotated[IntervalKind | None, typer.Option(help="central, upper or lower.")] = None,
    hold: SetOption = None,
    nominal: NominalOption = None,
    template_path: FolderOption = None,
    template: TemplateOption = None,
    index: IndexOption = None,
    drop_outside: DropOption = False,
    allow_uncertified: Annotated[
        bool, typer.Option("--allow-uncertified", help="Accept surrogates without a valid certificate.")
    ] = False,
    record: JsonOption = None,
) -> int:
    """Set a limit or an interval on the parameter of interest.

    Prints the best fit and the limits, and writes the record, figures and a table. Exit code 1 if a fit did not
    converge or the search for a limit failed.
    """
    built = _model(model, data, template_path, template, nominal, index, drop_outside, allow_uncertified)
    interval, files = limit_report(built, output, poi, confidence_level, kind, _numbers(hold, "--set"))
    console = _console(record)
    _print_fit(console, built, interval.best_fit)
    for line in interval_lines(interval):
        console.print(line)
    _print_files(console, files)
    _write(record, interval.to_dict())
    return 0 if interval.success else 1


def convert_alea(
    model: ModelArgument,
    record: JsonOption = None,
) -> int:
    """Say what of an alea model file could not be honoured.

    Exit code 1 if something would change results.
    """
    conversion = read_alea(model).conversion
    console = _console(record)
    for note in conversion.notes:
        console.print(f"{'noted      ' if note.harmless else 'unsupported'}  {note}")
    if not conversion.notes:
        console.print("everything is honoured as it stands")
    _write(record, conversion.to_dict())
    return 1 if conversion.unsupported else 0
