"""The verb ``draw``: a data set of an experiment from the simulator."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from surrogate.atomic import write_json
from surrogate.errors import ConfigError
from training.experiment import Experiment, Recording, write_recordings
from training.experiment import record as record_experiment
from training.simulator.catalogue import standard_source
from training.simulator.spaces import observable_space
from training.simulator_config import read_detector


def draw(
    detector: Annotated[str, typer.Argument(help="Detector: a YAML file, or the name of a shipped one.")],
    source: Annotated[
        list[str], typer.Option(metavar="NAME[=MULTIPLIER]", help="A source, with the multiplier of its rate.")
    ],
    output: Annotated[Path, typer.Option(help="Data file to write (HDF5).")],
    run: Annotated[str, typer.Option(help="Name of the run, as the statistical model has it.")],
    exposure: Annotated[float, typer.Option(help="Exposure in tonne-years.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed; the same seed gives the same events.")] = 0,
    number: Annotated[
        int, typer.Option(min=1, help="Data sets to draw, of this seed and those that follow, into one file.")
    ] = 1,
    theta: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="True value of a nuisance, if not nominal.")
    ] = None,
    space: Annotated[str, typer.Option(help="Analysis space: which observables are recorded.")] = "A",
    record: Annotated[Path | None, typer.Option("--json", metavar="FILE|-", help="Write the record as JSON.")] = None,
) -> int:
    """Draw a data set of an experiment from the simulator.

    Every source contributes a Poisson number of events; no surrogate takes part. Several data sets (--number) lie in
    one file; the record describes the first.
    """
    described = read_detector(detector)
    multipliers = _numbers(source, "--source", default="1")
    experiment = Experiment(
        run=run,
        detector=described,
        observables=observable_space(described, space),
        sources=tuple((standard_source(name, described), value) for name, value in multipliers.items()),
        exposure=exposure,
        theta=_numbers(theta or [], "--theta", default=""),
    )
    drawn = record_experiment(experiment, seed)
    if number == 1:
        drawn.write(output)
    else:
        write_recordings(output, [drawn, *(record_experiment(experiment, seed + k) for k in range(1, number))])
    result = {"data": str(output), "n_datasets": number, **drawn.to_dict()}
    if record is not None and str(record) == "-":
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
        return 0
    if record is not None:
        write_json(record, result)
    _print(drawn, output)
    return 0


def _numbers(words: Sequence[str], option: str, default: str) -> dict[str, float]:
    """Read words of the form NAME=VALUE; a name alone has the default value."""
    numbers: dict[str, float] = {}
    for word in words:
        name, separator, text = word.partition("=")
        try:
            value = float(text if separator else default)
        except ValueError:
            raise ConfigError(
                f"{option} {word}: must be NAME=VALUE with a number, such as {name or 'NAME'}=1"
            ) from None
        if name in numbers:
            raise ConfigError(f"{option} {word}: '{name}' is given twice")
        numbers[name] = value
    return numbers


def _print(drawn: Recording, output: Path) -> None:
    experiment = drawn.experiment
    console = Console()
    # A table's own title wraps at the width of its columns.
    console.print(
        f"{experiment.exposure:g} tonne-years of {experiment.detector.name}, seed {drawn.seed}", soft_wrap=True
    )
    table = Table()
    table.add_column("source")
    table.add_column("rate multiplier", justify="right")
    table.add_column("events", justify="right")
    for source, multiplier in experiment.sources:
        table.add_row(source.name, f"{multiplier:g}", str(drawn.counts[source.name]))
    table.add_row("all", "", str(len(drawn.x)), end_section=True)
    console.print(table)
    console.print(f"data: {output}")
