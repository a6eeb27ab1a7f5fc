"""The verb ``neyman``, and limits with critical values from toys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from inference.analysis import Analysis, level_and_kind
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
    StoreOption,
    TemplateOption,
    ToysOption,
    WorkersOption,
    build_model,
    console_for,
    pool_choice,
    study_plan,
    write_record,
)
from inference.intervals.asymptotics import IntervalKind
from inference.reports.cls_study import CLsLimit, cls_study
from inference.reports.report import default_poi
from inference.reports.study_report import stored_pairs, write_cls, write_neyman
from inference.reports.summary import summary_text
from inference.studies.neyman import NeymanInterval
from inference.studies.study import StudyPlan
from inference.studies.toy_pairs import ToyPairs
from inference.toy_studies import ToySettings, interval_of_store, neyman_study
from surrogate.errors import ConfigError, unknown_name

#: Where the nuisances of toys can be.
NUISANCES: Mapping[str, Mapping[str, float] | None] = {"profiled": None, "nominal": {}}


@dataclass(frozen=True)
class NeymanOptions:
    """What a limit with toys needs besides the model.

    Attributes
    ----------
    poi, confidence_level, kind
        Of the limit; the model's where None.
    n_toys, seed, workers, store
        Of the toys.
    within, points
        The ends of the grid, around the asymptotic limit if None, and how many points it has.
    nuisances
        A key of :data:`NUISANCES`.
    pool
        ``auto``, ``none``, or where pools are kept.
    """

    poi: str | None
    confidence_level: float | None
    kind: IntervalKind | None
    n_toys: int = 2000
    seed: int = 0
    workers: int = 1
    store: Path | None = None
    within: tuple[float, float] | None = None
    points: int = 12
    nuisances: str = "profiled"
    pool: str = "auto"

    def toys(self, plan: StudyPlan) -> ToySettings:
        """Return the settings of the toys."""
        return ToySettings(self.n_toys, self.seed, plan, pool_choice(self.pool))


def _grid(words: Sequence[float] | None, points: int) -> list[float] | None:
    """Return equally spaced points over a range given by two numbers."""
    if words is None:
        return None
    low, high = words
    if points < 2 or not low < high:
        raise ConfigError(f"--range {low} {high}: needs low < high and --points of at least 2, got {points}")
    return [low + (high - low) * k / (points - 1) for k in range(points)]


def _construct(built: Analysis, options: NeymanOptions, console: Console) -> tuple[NeymanInterval, ToyPairs]:
    """Make the toys and set the interval."""
    if options.nuisances not in NUISANCES:
        raise ConfigError(unknown_name("choice", options.nuisances, NUISANCES, "--nuisances"))
    with study_plan(console, options.workers, options.store) as plan:
        return neyman_study(
            built,
            default_poi(built.parameters) if options.poi is None else options.poi,
            options.toys(plan),
            _grid(options.within, options.points),
            options.points,
            NUISANCES[options.nuisances],
            options.kind,
            options.confidence_level,
        )


def _print_expansion(found: NeymanInterval | CLsLimit, console: Console) -> None:
    """Say what toys from a pool rest on."""
    if found.expansion_error is not None:
        console.print(
            f"densities expanded in the nuisances: {found.n_expanded} toys exact where these matter; the others were "
            f"made exact everywhere, which changed -2 ln Lambda by at most {found.expansion_error:.2g}"
        )


def _report(
    built: Analysis, found: NeymanInterval, pairs: ToyPairs, output: Path, record: Path | None, console: Console
) -> int:
    """Print an interval, write it, and return the exit code."""
    console.print(summary_text(found.interval.best_fit, found.interval), markup=False)
    ends = (("lower", found.lower_error), ("upper", found.upper_error))
    errors = [f"{end} +- {error:.2g}" for end, error in ends if error is not None]
    console.print(f"errors of the ends from the number of toys: {', '.join(errors) or 'none'}")
    console.print(f"toys {sum(found.n_toys)}, fits repeated {found.n_refits}, without valid fits {sum(found.n_failed)}")
    _print_expansion(found, console)
    if not found.within_grid:
        console.print("a limit lies beyond the points at which toys were made; widen the range of the grid")
    for what, path in write_neyman(built, found, pairs, output).items():
        console.print(f"{what:<9} {path}")
    write_record(record, found.to_dict())
    return 0 if found.success else 1


def limit_with_toys(built: Analysis, options: NeymanOptions, output: Path, record: Path | None) -> int:
    """Make a construction, set the limit, report, and return the exit code."""
    console = console_for(record)
    found, pairs = _construct(built, options, console)
    return _report(built, found, pairs, output, record, console)


def cls_with_toys(built: Analysis, options: NeymanOptions, output: Path, record: Path | None) -> int:
    """Make toys with and without signal, set the CLs limit, report, and return the exit code."""
    console = console_for(record)
    name = default_poi(built.parameters) if options.poi is None else options.poi
    with study_plan(console, options.workers, options.store) as plan:
        found = cls_study(built, name, options.confidence_level, options.toys(plan), options.points)
    level = f"{100 * found.confidence_level:g} %"
    for p in found.points:
        console.print(f"{name} = {p.mu:.5g}: CLs {p.value:.4g} +- {p.error:.2g}")
    size = "" if found.physical is None else found.physical.text(found.physical.upper)
    console.print(f"{level} CLs upper limit on {name}: {found.value:.6g} +- {found.error:.2g}{size}")
    console.print(f"asymptotically {found.asymptotic.upper.value:.6g}; toys without valid fits {found.n_failed}")
    _print_expansion(found, console)
    for remark in found.asymptotic.remarks:
        console.print(remark)
    for what, path in write_cls(built, found, output).items():
        console.print(f"{what:<9} {path}")
    write_record(record, found.to_dict())
    return 0


def limit_from_store(built: Analysis, store: Path, options: NeymanOptions, output: Path, record: Path | None) -> int:
    """Set the limit with toys made before, report, and return the exit code."""
    built.require_certified()
    pairs = stored_pairs(built, options.poi or default_poi(built.parameters), store)
    level, kind = level_and_kind(built, options.confidence_level, options.kind)
    found = interval_of_store(built, pairs, level, kind)
    return _report(built, found, pairs, output, record, console_for(record))


def neyman(
    model: ModelArgument,
    data: DataOption,
    output: OutputOption = Path("runs/neyman"),
    poi: PoiOption = None,
    confidence_level: LevelOption = None,
    kind: KindOption = None,
    toys: ToysOption = NeymanOptions.n_toys,
    points: Annotated[int, typer.Option(help="Grid points of the parameter of interest.")] = NeymanOptions.points,
    within: Annotated[
        tuple[float, float] | None,
        typer.Option("--range", help="Where the grid lies; else around the asymptotic limit."),
    ] = None,
    nuisances: Annotated[
        str, typer.Option(help="Of the toys: 'profiled' to the data at each point, or 'nominal'.")
    ] = NeymanOptions.nuisances,
    seed: SeedOption = NeymanOptions.seed,
    workers: WorkersOption = NeymanOptions.workers,
    store: StoreOption = None,
    pool: PoolOption = NeymanOptions.pool,
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
    built = build_model(model, data, template_path, template, nominal, index, drop_outside, allow_uncertified)
    options = NeymanOptions(poi, confidence_level, kind, toys, seed, workers, store, within, points, nuisances, pool)
    return limit_with_toys(built, options, output, record)
