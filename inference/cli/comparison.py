"""The verb ``compare``: two statistical models on the same data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from inference.cli.options import (
    CertifiedOption,
    DataOption,
    FolderOption,
    JsonOption,
    KindOption,
    LevelOption,
    NominalOption,
    OutputOption,
    PoiOption,
    SetOption,
    TemplateOption,
    build_model,
    console_for,
    name_numbers,
    write_record,
)
from inference.reports.comparison import ModelComparison, compare_models
from inference.reports.comparison_plots import plot_comparison
from inference.reports.plots import save_figure
from inference.reports.summary import end_text


def compare(
    first: Annotated[Path, typer.Argument(metavar="FIRST", help="Statistical model (YAML), the reference.")],
    second: Annotated[Path, typer.Argument(metavar="SECOND", help="Statistical model (YAML), compared with it.")],
    data: DataOption,
    output: OutputOption = Path("runs/compare"),
    poi: PoiOption = None,
    confidence_level: LevelOption = None,
    kind: KindOption = None,
    hold: SetOption = None,
    nominal: NominalOption = None,
    template_path: FolderOption = None,
    template: TemplateOption = None,
    allow_uncertified: CertifiedOption = False,
    record: JsonOption = None,
) -> int:
    """Compare the best fits and limits of two models on the same data.

    Prints how far the second model's best fits lie from the first's, in units of their errors, and both limits; writes
    the record and a figure of both profiles. Exit code 1 if a fit or a search for a limit failed.
    """
    one, two = (
        build_model(path, data, template_path, template, nominal, None, False, allow_uncertified)
        for path in (first, second)
    )
    found = compare_models(one, two, poi, confidence_level, kind, name_numbers(hold, "--set"))
    console = console_for(record)
    _print(console, found, (first.stem, second.stem))
    output.mkdir(parents=True, exist_ok=True)
    found.save(output / "comparison.json")
    figure = save_figure(plot_comparison(found, (first.stem, second.stem)), output / "comparison.png")
    console.print(f"record  {output / 'comparison.json'}")
    console.print(f"figure  {figure}")
    write_record(record, found.to_dict())
    return 0 if found.success else 1


def _print(console: Console, found: ModelComparison, names: tuple[str, str]) -> None:
    fits = found.first.best_fit, found.second.best_fit
    table = Table(box=None, pad_edge=False)
    for heading in ("parameter", *names, "shift / error"):
        table.add_column(heading, justify="left" if heading == "parameter" else "right")
    for name, shift in found.shifts.items():
        values = [f"{fit.values[name]:.6g}" for fit in fits]
        table.add_row(name, *values, "" if shift is None else f"{shift:+.3f}")
    console.print(table)
    level = f"{100 * found.first.confidence_level:g} %"
    for side, ratio in (("lower", found.lower_ratio), ("upper", found.upper_ratio)):
        ends = [getattr(interval, side) for interval in (found.first, found.second)]
        if ends[0].status == "not_requested":
            continue
        texts = " and ".join(end_text(end) for end in ends)
        tail = "" if ratio is None else f", ratio {ratio:.5f}"
        console.print(f"{level} {side} limits on {found.first.parameter}: {texts}{tail}")
