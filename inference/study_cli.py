"""The verbs ``toys``, ``neyman``, ``sensitivity``, ``coverage`` and ``discovery``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from inference.asymptotics import IntervalKind
from inference.cli_options import (
    DataOption,
    DropOption,
    FolderOption,
    IndexOption,
    JsonOption,
    ModelArgument,
    NominalOption,
    OutputOption,
    SetOption,
    TemplateOption,
    build_model,
    console_for,
    model_without_data,
    name_numbers,
    write_record,
)
from inference.data_io import write_toys
from inference.neyman import NeymanInterval
from inference.record import FORMAT
from inference.report import default_poi, interval_lines
from inference.study import StudyPlan, make_executor
from inference.study_report import (
    ToySettings,
    coverage_study,
    discovery_study,
    neyman_study,
    sensitivity_study,
    stored_critical,
    write_neyman,
    write_sensitivity,
)
from inference.toy_tables import toy_tables
from inference.toys import draw_toys
from surrogate.errors import ConfigError, unknown_name

PoiOption = Annotated[str | None, typer.Option(help="Parameter of interest; the only unconstrained rate if left out.")]
LevelOption = Annotated[float | None, typer.Option(help="Such as 0.9, the default of models.")]
KindOption = Annotated[IntervalKind, typer.Option(help="central (two-sided, unified), upper or lower.")]
ToysOption = Annotated[int, typer.Option("--toys", "-n", min=1, help="Toys per point.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Toy k of a seed is the same in any run, on any machine.")]
WorkersOption = Annotated[int, typer.Option(min=1, help="Processes.")]
StoreOption = Annotated[
    Path | None, typer.Option(help="HDF5 file that collects the toys; a study that was interrupted goes on from it.")
]
CriticalOption = Annotated[
    Path | None, typer.Option("--critical", help="Store of a neyman study with the critical values; else asymptotic.")
]
CertifiedOption = Annotated[
    bool, typer.Option("--allow-uncertified", help="Accept surrogates without a valid certificate.")
]


NUISANCES = ("profiled", "nominal")


@contextmanager
def study_plan(console: Console, workers: int, store: Path | None) -> Iterator[StudyPlan]:
    """Yield a plan whose progress is drawn on the console."""
    columns = (TextColumn("toys"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("toys")
        yield StudyPlan(
            path=store,
            executor=make_executor(workers),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _grid(words: Sequence[float] | None, points: int) -> list[float] | None:
    """Return equally spaced points over a range given by two numbers."""
    if words is None:
        return None
    low, high = words
    if points < 2 or not low < high:
        raise ConfigError(f"--range {low} {high}: needs low < high and --points of at least 2, got {points}")
    return [low + (high - low) * k / (points - 1) for k in range(points)]


def toys(
    model: ModelArgument,
    output: Annotated[Path, typer.Option(help="HDF5 file in the layout of inference_interface, readable by alea.")],
    n: ToysOption = 100,
    seed: SeedOption = 0,
    at: SetOption = None,
    nominal: NominalOption = None,
    template_path: FolderOption = None,
    template: TemplateOption = None,
    record: JsonOption = None,
) -> int:
    """Draw toy data sets at nominal parameters, or at those of --set, into a file."""
    built = model_without_data(model, template_path, template, nominal, True)
    truth = built.parameters.vector(name_numbers(at, "--set"))
    drawn = draw_toys(built.parameters, built.runs, truth, torch.arange(n), seed)
    write_toys(output, toy_tables(built.parameters, built.runs, drawn), {"seed": seed})
    console = console_for(record)
    console.print(f"{n} toys of seed {seed}, {float(drawn.data.total_weight().mean()):.4g} events each on average")
    console.print(f"file     {output}")
    facts = {"n": n, "seed": seed, "truth": built.parameters.mapping(truth), "file": str(output)}
    write_record(record, {"record": "Toys", "format": FORMAT, **facts})
    return 0


def print_neyman(console: Console, found: NeymanInterval) -> None:
    """Print an interval with critical values from toys."""
    for line in interval_lines(found.interval):
        console.print(line)
    ends = (("lower", found.lower_error), ("upper", found.upper_error))
    errors = [f"{end} +- {error:.2g}" for end, error in ends if error is not None]
    console.print(f"errors of the ends from the number of toys: {', '.join(errors) or 'none'}")
    console.print(f"toys {sum(found.n_toys)}, fits repeated {found.n_refits}, without valid fits {sum(found.n_failed)}")
    if not found.within_grid:
        console.print("a limit lies beyond the points at which toys were made; widen --range")


def neyman(
    model: ModelArgument,
    data: DataOption,
    output: OutputOption = Path("runs/neyman"),
    poi: PoiOption = None,
    confidence_level: LevelOption = None,
    kind: KindOption = "central",
    n: ToysOption = 2000,
    points: Annotated[int, typer.Option(help="Grid points of the parameter of interest.")] = 12,
    within: Annotated[
        tuple[float, float] | None,
        typer.Option("--range", help="Where the grid lies; else around the asymptotic limit."),
    ] = None,
    nuisances: Annotated[
        str, typer.Option(help="Of the toys: 'profiled' to the data at each point, or 'nominal'.")
    ] = "profiled",
    seed: SeedOption = 0,
    workers: WorkersOption = 1,
    store: StoreOption = None,
    nominal: NominalOption = None,
    template_path: FolderOption = None,
    template: TemplateOption = None,
    index: IndexOption = None,
    drop_outside: DropOption = False,
    allow_uncertified: CertifiedOption = False,
    record: JsonOption = None,
) -> int:
    """Set an interval with critical values from a toy Neyman construction.

    Prints the interval with its errors from the number of toys, and writes the record and figures. Exit code 1 if a fit
    failed or a limit lies beyond the grid.
    """
    if nuisances not in NUISANCES:
        raise ConfigError(unknown_name("choice", nuisances, NUISANCES, "--nuisances"))
    built = build_model(model, data, template_path, template, nominal, index, drop_outside, allow_uncertified)
    name = default_poi(built.parameters) if poi is None else poi
    console = console_for(record)
    with study_plan(console, workers, store) as plan:
        found, pairs = neyman_study(
            built,
            name,
            ToySettings(n, seed, plan),
            _grid(within, points),
            points,
            None if nuisances == "profiled" else {},
            kind,
            confidence_level,
        )
    print_neyman(console, found)
    for what, path in write_neyman(built, found, pairs, output).items():
        console.print(f"{what:<9}{path}")
    write_record(record, found.to_dict())
    return 0 if found.success else 1


def sensitivity(
    model: ModelArgument,
    output: OutputOption = Path("runs/sensitivity"),
    poi: PoiOption = None,
    confidence_level: LevelOption = None,
    kind: KindOption = "central",
    n: ToysOption = 1000,
    seed: SeedOption = 0,
    workers: WorkersOption = 1,
    store: StoreOption = None,
    critical: CriticalOption = None,
    at: SetOption = None,
    nominal: NominalOption = None,
    template_path: FolderOption = None,
    template: TemplateOption = None,
    allow_uncertified: CertifiedOption = False,
    record: JsonOption = None,
) -> int:
    """Return the median limit and its bands over background-only toys."""
    built = model_without_data(model, template_path, template, nominal, allow_uncertified)
    name = default_poi(built.parameters) if poi is None else poi
    console = console_for(record)
    level = built.confidence_level if confidence_level is None else confidence_level
    threshold = stored_critical(critical, level, kind)
    with study_plan(console, workers, store) as plan:
        truth = name_numbers(at, "--set")
        band, limits = sensitivity_study(built, name, ToySettings(n, seed, plan), truth, threshold, kind, level)
    for sigma, value, low, high in zip(band.sigmas, band.values, band.low, band.high, strict=True):
        console.print(f"{sigma:+.0f} sigma  {_text(value)}  [{_text(low)}, {_text(high)}]")
    console.print(f"toys: {band.n_toys}, without a limit: {band.n_without}, failed searches: {band.n_failed}")
    for what, path in write_sensitivity(band, limits, output).items():
        console.print(f"{what:<9}{path}")
    write_record(record, band.to_dict())
    return 0 if band.n_failed == 0 else 1


def _text(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.5g}"


def coverage(
    model: ModelArgument,
    at: Annotated[list[float], typer.Option(help="True values of the parameter of interest; may be repeated.")],
    poi: PoiOption = None,
    confidence_level: LevelOption = None,
    kind: KindOption = "central",
    n: ToysOption = 1000,
    seed: SeedOption = 1,
    workers: WorkersOption = 1,
    store: StoreOption = None,
    critical: CriticalOption = None,
    hold: SetOption = None,
    nominal: NominalOption = None,
    template_path: FolderOption = None,
    template: TemplateOption = None,
    record: JsonOption = None,
) -> int:
    """Measure how often intervals hold the true value, with Clopper-Pearson errors; --set gives other true values."""
    built = model_without_data(model, template_path, template, nominal, True)
    name = default_poi(built.parameters) if poi is None else poi
    console = console_for(record)
    level = built.confidence_level if confidence_level is None else confidence_level
    truths = [{**name_numbers(hold, "--set"), name: value} for value in at]
    with study_plan(console, workers, store) as plan:
        settings = ToySettings(n, seed, plan)
        found = coverage_study(built, name, settings, truths, stored_critical(critical, level, kind), kind, level)
    for p in found:
        console.print(
            f"{name} = {p.truth[name]:.5g}: {100 * p.coverage:.2f} % covered, [{100 * p.low:.2f}, {100 * p.high:.2f}]; "
            f"critical value {p.critical:.4f}, toys {p.n_toys}, without valid fits {p.n_failed}"
        )
    write_record(record, {"record": "Coverage", "format": FORMAT, "points": [p.to_dict() for p in found]})
    return 0


def discovery(
    model: ModelArgument,
    data: DataOption,
    poi: PoiOption = None,
    n: Annotated[int, typer.Option("--toys", "-n", min=0, help="Background-only toys; 0 for none.")] = 0,
    seed: SeedOption = 0,
    workers: WorkersOption = 1,
    store: StoreOption = None,
    nominal: NominalOption = None,
    template_path: FolderOption = None,
    template: TemplateOption = None,
    index: IndexOption = None,
    drop_outside: DropOption = False,
    record: JsonOption = None,
) -> int:
    """Test the background-only hypothesis on the data. Exit code 1 if a fit failed."""
    built = build_model(model, data, template_path, template, nominal, index, drop_outside, True)
    name = default_poi(built.parameters) if poi is None else poi
    console = console_for(record)
    with study_plan(console, workers, store) as plan:
        found = discovery_study(built, name, ToySettings(n, seed, plan) if n else None)
    console.print(f"q0 = {_text(found.q0)}, p0 = {_text(found.p0)}, Z = {_text(found.z0)} (asymptotic)")
    if found.p0_toys is not None:
        console.print(f"p0 = {found.p0_toys:.5g} [{found.p0_low:.5g}, {found.p0_high:.5g}] from {found.n_toys} toys")
    write_record(record, found.to_dict())
    return 0 if found.success else 1
