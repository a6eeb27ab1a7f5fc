"""The verbs ``toys``, ``sensitivity``, ``coverage`` and ``discovery``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from inference.analysis import level_and_kind
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
    TruthOption,
    WorkersOption,
    build_model,
    console_for,
    model_without_data,
    name_numbers,
    pool_choice,
    study_plan,
    write_record,
)
from inference.data.files import write_toys
from inference.record import FORMAT
from inference.reports.coverage_study import coverage_of_files, coverage_study
from inference.reports.report import default_poi
from inference.reports.study_report import stored_critical, write_discovery, write_sensitivity
from inference.toy_studies import ToySettings, discovery_study, sensitivity_study
from inference.toys.draws import draw_toys
from inference.toys.toy_tables import toy_tables
from surrogate.errors import ConfigError

CriticalOption = Annotated[
    Path | None, typer.Option("--critical", help="Store of a neyman study with the critical values; else asymptotic.")
]


def toys(
    model: ModelArgument,
    output: Annotated[Path, typer.Option(help="HDF5 file in the layout of inference_interface, readable by alea.")],
    n: ToysOption = 100,
    seed: SeedOption = 0,
    truth: TruthOption = None,
    nominal: NominalOption = None,
    template_path: FolderOption = None,
    template: TemplateOption = None,
    record: JsonOption = None,
) -> int:
    """Draw toy data sets at nominal parameters, or at those of --truth, into a file."""
    built = model_without_data(model, template_path, template, nominal, True)
    point = built.parameters.vector(name_numbers(truth, "--truth"))
    drawn = draw_toys(built.parameters, built.runs, point, torch.arange(n), seed)
    write_toys(output, toy_tables(built.parameters, built.runs, drawn), {"seed": seed})
    console = console_for(record)
    console.print(f"{n} toys of seed {seed}, {float(drawn.data.total_weight().mean()):.4g} events each on average")
    console.print(f"file     {output}")
    facts = {"n": n, "seed": seed, "truth": built.parameters.mapping(point), "file": str(output)}
    write_record(record, {"record": "Toys", "format": FORMAT, **facts})
    return 0


def sensitivity(
    model: ModelArgument,
    output: OutputOption = Path("runs/sensitivity"),
    poi: PoiOption = None,
    confidence_level: LevelOption = None,
    kind: KindOption = None,
    n: ToysOption = 1000,
    seed: SeedOption = 0,
    workers: WorkersOption = 1,
    store: StoreOption = None,
    pool: PoolOption = "auto",
    critical: CriticalOption = None,
    truth: TruthOption = None,
    nominal: NominalOption = None,
    template_path: FolderOption = None,
    template: TemplateOption = None,
    allow_uncertified: CertifiedOption = False,
    record: JsonOption = None,
) -> int:
    """Return the median limit and its bands over toys, background-only ones unless --truth says otherwise."""
    built = model_without_data(model, template_path, template, nominal, allow_uncertified)
    name = default_poi(built.parameters) if poi is None else poi
    console = console_for(record)
    level, kind = level_and_kind(built, confidence_level, kind)
    threshold = stored_critical(built, name, critical, level, kind)
    with study_plan(console, workers, store) as plan:
        settings, true_values = ToySettings(n, seed, plan, pool_choice(pool)), name_numbers(truth, "--truth")
        band, limits = sensitivity_study(built, name, settings, true_values, threshold, kind, level)
    console.print(repr(band), markup=False)
    if remark := built.certificate_remark():
        console.print(remark)
    if (reference := built.parameters[name].reference) is not None and band.median is not None:
        console.print(f"the median is {reference[0] * band.median:.4g} {reference[1]}")
    if band.expansion_error is not None:
        console.print(f"densities are expanded in the nuisances: error of -2 ln Lambda {band.expansion_error:.2g}")
    console.print(f"toys without a limit: {band.n_without}, failed searches: {band.n_failed}")
    for what, path in write_sensitivity(band, limits, output).items():
        console.print(f"{what:<9}{path}")
    write_record(record, band.to_dict())
    return 0 if band.n_failed == 0 else 1


def coverage(
    model: ModelArgument,
    at: Annotated[list[float], typer.Option(help="True values of the parameter of interest; may be repeated.")],
    poi: PoiOption = None,
    confidence_level: LevelOption = None,
    kind: KindOption = None,
    n: ToysOption = 1000,
    seed: SeedOption = 1,
    workers: WorkersOption = 1,
    store: StoreOption = None,
    pool: PoolOption = "auto",
    critical: CriticalOption = None,
    events: Annotated[
        list[Path] | None,
        typer.Option(help="Files of data sets made elsewhere, such as by draw; in place of the model's own toys."),
    ] = None,
    truth: TruthOption = None,
    nominal: NominalOption = None,
    template_path: FolderOption = None,
    template: TemplateOption = None,
    record: JsonOption = None,
) -> int:
    """Measure how often intervals hold the true value.

    With Clopper-Pearson errors; --truth gives those of other parameters. Ancillary centres that --events do not bring
    are thrown.
    """
    built = model_without_data(model, template_path, template, nominal, True)
    name = default_poi(built.parameters) if poi is None else poi
    console = console_for(record)
    level, kind = level_and_kind(built, confidence_level, kind)
    truths = [{**name_numbers(truth, "--truth"), name: value} for value in at]
    threshold = stored_critical(built, name, critical, level, kind)
    if events and len(at) != 1:
        raise ConfigError(f"--at: the one value of {name} at which the data sets of --events were made is needed")
    with study_plan(console, workers, store) as plan:
        settings = ToySettings(n, seed, plan, pool_choice(pool))
        if events:
            found = [coverage_of_files(built, name, events, truths[0], settings, threshold, kind, level)]
        else:
            found = list(coverage_study(built, name, settings, truths, threshold, kind, level))
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
    output: OutputOption = Path("runs/discovery"),
    poi: PoiOption = None,
    n: Annotated[int, typer.Option("--toys", "-n", min=0, help="Background-only toys; 0 for none.")] = 0,
    seed: SeedOption = 0,
    workers: WorkersOption = 1,
    store: StoreOption = None,
    pool: PoolOption = "auto",
    nominal: NominalOption = None,
    template_path: FolderOption = None,
    template: TemplateOption = None,
    index: IndexOption = None,
    drop_outside: DropOption = False,
    allow_uncertified: CertifiedOption = False,
    record: JsonOption = None,
) -> int:
    """Test the background-only hypothesis on the data.

    Prints q0, its p-value and significance, and writes the record and figures. Exit code 1 if a fit failed.
    """
    built = build_model(model, data, template_path, template, nominal, index, drop_outside, allow_uncertified)
    name = default_poi(built.parameters) if poi is None else poi
    console = console_for(record)
    with study_plan(console, workers, store) as plan:
        found, drawn = discovery_study(built, name, ToySettings(n, seed, plan, pool_choice(pool)) if n else None)
    console.print(repr(found), markup=False)
    for remark in found.best_fit.remarks:
        console.print(remark)
    for what, path in write_discovery(built, found, drawn, output).items():
        console.print(f"{what:<9}{path}")
    write_record(record, found.to_dict())
    return 0 if found.success else 1
