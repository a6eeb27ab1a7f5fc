"""The verbs ``validate-simulator``, ``plot-events`` and ``convert-events``: each parses, calls, prints and writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from surrogate.atomic import write_json
from training.event_adapters import convert_events as convert
from training.event_mapping import read_mapping
from training.events import EventFile
from training.plots import save_figure
from training.simulator_config import read_detector
from training.simulator_plots import kind_of, plot_bands, plot_projections, plot_report
from training.simulator_validation import Comparison, SimulatorReport
from training.simulator_validation import validate_simulator as compare

JsonOption = Annotated[Path | None, typer.Option("--json", metavar="FILE|-", help="Write the record as JSON.")]


def validate_simulator(
    release: Annotated[
        Path | None, typer.Option(help="XENONnT light dark-matter release (arXiv:2409.17868), to compare 8B rates.")
    ] = None,
    nest: Annotated[bool, typer.Option(help="Compare with NEST; needs nestpy and about a minute.")] = True,
    detector: Annotated[str, typer.Option(help="Detector of what NEST's does not fix.")] = "lz_like",
    light: Annotated[str, typer.Option(help="Detector of the 8B rates.")] = "xenonnt_light_like",
    figure: Annotated[Path | None, typer.Option(help="Figure of all differences.")] = None,
    json_file: JsonOption = None,
) -> int:
    """Compare the simulator with NEST and with published rates.

    Exit code 1 if a difference is beyond its tolerance.
    """
    report = compare(read_detector(detector), read_detector(light), release, nest)
    if figure is not None:
        save_figure(plot_report(report), figure)
    _report(report.to_dict(), json_file, _report_table(report))
    return 0 if report.passed else 1


def plot_events(
    events: Annotated[list[Path], typer.Argument(help="Event files.", show_default=False)],
    output: Annotated[Path, typer.Option(help="Directory of the figures.")],
    json_file: JsonOption = None,
) -> int:
    """Draw event files: their projections, and their bands together.

    The bands of cs2 against cs1 are drawn where every file has both.
    """
    written = []
    with ExitStack() as stack:
        files = {path.stem: stack.enter_context(EventFile.open(path)) for path in events}
        for name, file in files.items():
            written.append(save_figure(plot_projections(file), output / f"{name}_projections.png"))
        if all({"cs1", "cs2"} <= set(file.observables.names) for file in files.values()):
            written.append(save_figure(plot_bands(files), output / "bands.png"))
    names = [str(path) for path in written]
    table = Table("figures")
    for name in names:
        table.add_row(name)
    _report({"figures": names}, json_file, table)
    return 0


def convert_events(
    mapping: Annotated[Path, typer.Argument(help="What the columns mean (YAML).", show_default=False)],
    files: Annotated[
        list[Path], typer.Argument(help="Event files of another program: HDF5, NPZ, CSV, Parquet.", show_default=False)
    ],
    output: Annotated[Path, typer.Option(help="Event file to write (HDF5).")],
    json_file: JsonOption = None,
) -> int:
    """Convert event files of another program into one that surrogates train on."""
    record = convert(read_mapping(mapping), files, output)
    table = Table(title=record.path, show_header=False)
    table.add_row("events kept", f"{record.n_kept:,} of {record.n_read:,} read")
    table.add_row("blocks of common theta", f"{record.n_blocks:,}")
    _report(record.to_dict(), json_file, table)
    return 0


def _report(record: Mapping[str, Any], json_file: Path | None, table: Table) -> None:
    """Print a table, or the record as JSON to standard output; write it where a file is given."""
    if json_file is not None and str(json_file) == "-":
        sys.stdout.write(json.dumps(record, indent=2) + "\n")
        return
    if json_file is not None:
        write_json(json_file, record)
    Console().print(table)


def _report_table(report: SimulatorReport) -> Table:
    """Return one line per kind of quantity, for the worst of its comparisons."""
    worst: dict[str, Comparison] = {}
    counts: dict[str, int] = {}
    for c in report.comparisons:
        kind = kind_of(c.what)
        counts[kind] = counts.get(kind, 0) + 1
        if kind not in worst or abs(c.difference) / c.tolerance > abs(worst[kind].difference) / worst[kind].tolerance:
            worst[kind] = c
    verdict = "[green]passed[/]" if report.passed else "[red]failed[/]"
    table = Table(title=f"simulator: {verdict}, {len(report.comparisons)} comparisons")
    for heading in ("quantity", "number", "largest difference", "error", "tolerance", "where"):
        table.add_column(heading, justify="left" if heading in ("quantity", "where") else "right")
    for kind, c in worst.items():
        form = "{:+.4f}" if c.absolute else "{:+.2%}"
        numbers = (form.format(c.difference), form.format(c.error)[1:], form.format(c.tolerance)[1:])
        table.add_row(kind, str(counts[kind]), *numbers, c.what)
    return table
