"""The verbs ``fit``, ``limit`` and ``convert-alea``: each reads its options, calls one function and prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from inference.cli.neyman import NeymanOptions, cls_with_toys, limit_from_store, limit_with_toys
from inference.cli.options import (
    CertifiedOption,
    DataOption,
    DropOption,
    FolderOption,
    IndexOption,
    JsonOption,
    KindOption,
    LevelOption,
    ModelArgument,
    NominalOption,
    OutputOption,
    PoiOption,
    PoolOption,
    SeedOption,
    SetOption,
    StoreOption,
    TemplateOption,
    ToysOption,
    WorkersOption,
    build_model,
    console_for,
    name_numbers,
    write_record,
)
from inference.configuration.alea import inspect_alea
from inference.reports.report import ReportFiles, fit_report, limit_report
from inference.reports.summary import summary_text
from surrogate.errors import ConfigError

ErrorKind = Literal["curvature", "profile"]


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
    errors: Annotated[
        ErrorKind, typer.Option(help="From the curvature at the best fit, or asymmetric from the profile likelihood.")
    ] = "curvature",
    corner: Annotated[
        str | None, typer.Option(metavar="NAME,NAME,...", help="Profile all pairs of these parameters and draw them.")
    ] = None,
    nominal: NominalOption = None,
    template_path: FolderOption = None,
    template: TemplateOption = None,
    index: IndexOption = None,
    drop_outside: DropOption = False,
    record: JsonOption = None,
) -> int:
    """Fit a statistical model to data.

    Prints the best fit with errors and pulls, and writes the record, figures and a table. With --errors profile the
    errors are where -2 ln Lambda has risen by one, as MINOS gives them. Exit code 1 if the fit did not converge.
    """
    built = build_model(model, data, template_path, template, nominal, index, drop_outside, True)
    pairs_of = [name.strip() for name in corner.split(",")] if corner else []
    result, files = fit_report(built, output, name_numbers(hold, "--set"), pairs_of, errors == "profile")
    console = console_for(record)
    console.print(summary_text(result), markup=False)
    _print_files(console, files)
    write_record(record, result.to_dict())
    return 0 if result.success else 1


def limit(
    model: ModelArgument,
    data: DataOption,
    output: OutputOption = Path("runs/limit"),
    poi: PoiOption = None,
    confidence_level: LevelOption = None,
    kind: KindOption = None,
    hold: SetOption = None,
    nominal: NominalOption = None,
    template_path: FolderOption = None,
    template: TemplateOption = None,
    index: IndexOption = None,
    drop_outside: DropOption = False,
    allow_uncertified: CertifiedOption = False,
    critical: Annotated[
        str, typer.Option(help="Critical values: 'asymptotic', 'toys', or the store of a neyman study.")
    ] = "asymptotic",
    cls: Annotated[bool, typer.Option("--cls", help="Set an upper limit by CLs, asymptotically or with toys.")] = False,
    toys: ToysOption = NeymanOptions.n_toys,
    seed: SeedOption = NeymanOptions.seed,
    workers: WorkersOption = NeymanOptions.workers,
    store: StoreOption = None,
    pool: PoolOption = NeymanOptions.pool,
    record: JsonOption = None,
) -> int:
    """Set a limit or an interval on the parameter of interest.

    Prints the best fit and the limits, and writes the record, figures and a table. Exit code 1 if a fit did not
    converge or the search for a limit failed. With --critical toys it makes a Neyman construction, of which the verb
    neyman has more options. With --cls the limit is that of CLs.
    """
    built = build_model(model, data, template_path, template, nominal, index, drop_outside, allow_uncertified)
    if cls and (kind not in (None, "upper") or critical not in ("asymptotic", "toys")):
        raise ConfigError("--cls gives upper limits, with --critical asymptotic or toys")
    options = NeymanOptions(poi, confidence_level, kind, toys, seed, workers, store, pool=pool)
    if critical != "toys" and options != NeymanOptions(poi, confidence_level, kind):
        raise ConfigError(
            f"--critical {critical} makes no toys; --toys, --seed, --workers, --store and --pool need --critical toys"
        )
    if critical != "asymptotic":
        if hold:
            raise ConfigError("--set: parameters cannot be held in a Neyman construction; change the model instead")
        if critical == "toys":
            return (cls_with_toys if cls else limit_with_toys)(built, options, output, record)
        return limit_from_store(built, Path(critical), options, output, record)
    interval, files = limit_report(built, output, poi, confidence_level, kind, name_numbers(hold, "--set"), cls)
    console = console_for(record)
    console.print(summary_text(interval.best_fit, interval), markup=False)
    _print_files(console, files)
    write_record(record, interval.to_dict())
    return 0 if interval.success else 1


def convert_alea(
    model: ModelArgument,
    record: JsonOption = None,
) -> int:
    """Say what of an alea model file could not be honoured.

    Exit code 1 if something would change results.
    """
    conversion = inspect_alea(model)
    console = console_for(record)
    for note in conversion.notes:
        console.print(f"{'noted      ' if note.harmless else 'unsupported'}  {note}")
    if not conversion.notes:
        console.print("everything is honoured as it stands")
    write_record(record, conversion.to_dict())
    return 1 if conversion.unsupported else 0
