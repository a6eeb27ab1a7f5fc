"""The verb ``scan``: limits at every value of a constant of the model, such as the mass of the WIMP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from inference.analysis import Analysis
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
    TemplateOption,
    WorkersOption,
    build_model,
    console_for,
    number_in,
    pool_choice,
    study_plan,
    write_record,
)
from inference.parameters import ParameterSet
from inference.reports.report import default_poi
from inference.reports.scan import ScanSettings, limit_scan
from inference.reports.scan_report import scan_text, write_scan
from inference.studies.power_constraint import Power
from surrogate.errors import ConfigError

CriticalToysOption = Annotated[
    int, typer.Option(min=0, help="Toys at each point of a Neyman construction; asymptotic critical values if 0.")
]
GlobalToysOption = Annotated[
    int, typer.Option(min=0, help="Background-only toys for the global significance of the largest excess.")
]
PowerOption = Annotated[
    float | None, typer.Option(min=0, max=1, help="Power constraint: the threshold, such as 0.16; needs --bands.")
]
PowerOfOption = Annotated[
    Power, typer.Option(help="What power means: that of the rejection, or of the discovery, of a signal.")
]


def scan_values(word: str) -> tuple[str, list[int | float]]:
    """Read a word of the form NAME=VALUE,VALUE,...; return the name and the values in increasing order."""
    name, separator, text = word.partition("=")
    if not (name and separator and text):
        raise ConfigError(f"--over {word}: must be of the form NAME=VALUE,VALUE,...")
    values = [number_in(part.strip(), f"--over {word}") for part in text.split(",")]
    if len(set(values)) < len(values):
        raise ConfigError(f"--over {word}: a value is given twice")
    return name, sorted(values)


def unit_of_constant(parameters: ParameterSet, name: str) -> str:
    """Return the unit of a parameter that no fit varies.

    Raises
    ------
    ConfigError
        If fits vary it: a scan would move its nominal value and the centre of its constraint.
    """
    if parameters[name].fittable:
        constants = ", ".join(p.name for p in parameters.parameters if not p.fittable) or "none in this model"
        raise ConfigError(f"--over {name}: it is fitted, not a constant; scan one of the constants: {constants}")
    return parameters[name].unit


def scan(
    model: ModelArgument,
    data: DataOption,
    over: Annotated[str, typer.Option(metavar="NAME=VALUE,...", help="What is scanned, such as wimp_mass=4,6,10.")],
    output: OutputOption = Path("runs/scan"),
    poi: PoiOption = None,
    confidence_level: LevelOption = None,
    kind: KindOption = None,
    critical_toys: CriticalToysOption = 0,
    bands: Annotated[int, typer.Option(min=0, help="Background-only toys for the bands of the sensitivity.")] = 0,
    global_toys: GlobalToysOption = 0,
    power: PowerOption = None,
    power_of: PowerOfOption = "rejection",
    factor: Annotated[float | None, typer.Option(help="In the figure: what 1 stands for, else by the unit.")] = None,
    ylabel: Annotated[str | None, typer.Option(help="In the figure: what that is.")] = None,
    seed: SeedOption = 0,
    workers: WorkersOption = 1,
    store: Annotated[Path | None, typer.Option(help="Folder that collects the toys, one file a study.")] = None,
    pool: PoolOption = "auto",
    nominal: NominalOption = None,
    template_path: FolderOption = None,
    template: TemplateOption = None,
    index: IndexOption = None,
    drop_outside: DropOption = False,
    allow_uncertified: CertifiedOption = False,
    record: JsonOption = None,
) -> int:
    """Set limits at every value of a constant of the model, such as a mass.

    Prints a table, and writes it with the record and the figure of limits against the scanned value, with the bands of
    background-only toys. Exit code 1 if a fit did not converge or a search for a limit failed.
    """
    name, values = scan_values(over)

    def build(value: float) -> Analysis:
        chosen = [*(nominal or []), f"{name}={value}"]
        return build_model(model, data, template_path, template, chosen, index, drop_outside, allow_uncertified)

    first = build(values[0])
    unit = unit_of_constant(first.parameters, name)
    settings = ScanSettings(
        default_poi(first.parameters) if poi is None else poi,
        confidence_level,
        kind,
        critical_toys,
        bands,
        global_toys,
        power,
        power_of,
        seed=seed,
        folder=store,
        pools=pool_choice(pool),
    )
    console = console_for(record)
    with study_plan(console, workers, None) as plan:
        models = _models(first, values, build)
        found = limit_scan(models, name, replace(settings, plan=plan), unit)
    console.print(scan_text(found))
    for what, path in write_scan(found, output, ylabel, factor).items():
        console.print(f"{what:<9}{path}")
    write_record(record, found.to_dict())
    return 0 if found.success else 1


def _models(
    first: Analysis, values: Sequence[float], build: Callable[[float], Analysis]
) -> Iterator[tuple[float, Analysis]]:
    """Yield every value with its model, built when it is asked for."""
    yield values[0], first
    for value in values[1:]:
        yield value, build(value)
