"""What the verbs of inference share: their options, and how a model is built from them."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from inference.data.dataset import Outside
from inference.intervals.asymptotics import IntervalKind
from inference.model import StatisticalModel
from inference.pools.choice import PoolChoice, default_folder
from inference.studies.study import StudyPlan, make_executor
from surrogate.atomic import write_json
from surrogate.errors import ConfigError

logger = logging.getLogger(__name__)

#: Seconds after which a study without a bar first says how far it is, and from line to line then.
FIRST_LINE, NEXT_LINE = 5.0, 30.0

ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="Statistical model: a YAML file, or the name of a shipped one.")
]
DataOption = Annotated[Path, typer.Option("--data", "-d", help="Events: HDF5, .npz, .npy, CSV or a directory of them.")]
OutputOption = Annotated[Path, typer.Option(help="Directory for the record, the figures and the table.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Hold a parameter at a value in all fits.")
]
TruthOption = Annotated[
    list[str] | None,
    typer.Option("--truth", metavar="NAME=VALUE", help="True value of a parameter in the toys; else nominal."),
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

PoiOption = Annotated[str | None, typer.Option(help="Parameter of interest; the only unconstrained rate if left out.")]
LevelOption = Annotated[float | None, typer.Option(help="Such as 0.9, the default of models.")]
KindOption = Annotated[
    IntervalKind | None, typer.Option(help="central, unified (the same), upper or lower; the model's if left out.")
]
ToysOption = Annotated[int, typer.Option("--toys", "-n", min=1, help="Toys per point.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Toy k of a seed is the same in any run, on any machine.")]
WorkersOption = Annotated[int, typer.Option(min=1, help="Processes.")]
StoreOption = Annotated[
    Path | None, typer.Option(help="HDF5 file that collects the toys; a study that was interrupted goes on from it.")
]
PoolOption = Annotated[
    str,
    typer.Option(
        "--pool",
        metavar="auto|none|DIR",
        help="Whether toys come from a pool of events with expanded densities, where that pays, and where it is kept.",
    ),
]
CertifiedOption = Annotated[
    bool, typer.Option("--allow-uncertified", help="Accept surrogates without a valid certificate.")
]


def pool_choice(word: str) -> PoolChoice | None:
    """Return where toys come from: pools in the cache of the user (auto), in a directory, or none."""
    if word == "none":
        return None
    return PoolChoice(default_folder() if word == "auto" else Path(word))


def name_pairs(words: Sequence[str] | None, option: str) -> dict[str, str]:
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


def name_numbers(words: Sequence[str] | None, option: str) -> dict[str, float]:
    """Read words of the form NAME=NUMBER; whole numbers stay integers, as file names need them."""
    numbers: dict[str, float] = {}
    for name, text in name_pairs(words, option).items():
        numbers[name] = number_in(text, f"{option} {name}={text}")
    return numbers


def number_in(text: str, where: str) -> int | float:
    """Read a number; a whole one stays an integer."""
    try:
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    except ValueError:
        raise ConfigError(f"{where}: '{text}' is no number") from None


def model_without_data(
    path: Path,
    folders: Sequence[Path] | None,
    templates: Sequence[str] | None,
    nominal: Sequence[str] | None,
    uncertified: bool,
) -> StatisticalModel:
    """Build the model; the arguments are those of :func:`build_model`."""
    return StatisticalModel.from_config(
        path,
        list(folders or []),
        name_pairs(templates, "--template"),
        name_numbers(nominal, "--nominal"),
        uncertified,
    )


def build_model(
    path: Path,
    data: Path,
    folders: Sequence[Path] | None,
    templates: Sequence[str] | None,
    nominal: Sequence[str] | None,
    index: int | None,
    drop: bool,
    uncertified: bool,
) -> StatisticalModel:
    """Build the model and give it its data.

    Parameters
    ----------
    path
        The model file.
    data
        Its events.
    folders, templates, nominal
        The values of --template-path, --template and --nominal.
    index
        Which data set of a file that holds several.
    drop
        Whether events outside the region of interest are dropped; refused otherwise.
    uncertified
        Whether surrogates without a valid certificate are accepted.
    """
    model = model_without_data(path, folders, templates, nominal, uncertified)
    outside: Outside = "drop" if drop else "refuse"
    model.set_data(data, index, outside)
    return model


def console_for(record: Path | None) -> Console:
    """Return where people read: standard output, unless the record goes there."""
    return Console(stderr=record is not None and str(record) == "-", soft_wrap=True, highlight=False)


def write_record(record: Path | None, result: Mapping[str, Any]) -> None:
    """Write a record as JSON to a file, to standard output for ``-``, or nowhere."""
    if record is None:
        return
    if str(record) == "-":
        sys.stdout.write(json.dumps(result, indent=2, allow_nan=False) + "\n")
    else:
        write_json(record, result)


class ProgressLines:
    """Logs how far a study is, and about how long it will take.

    A call is one of :attr:`inference.studies.study.StudyPlan.progress`; a study begins where the toys done do not grow.

    Parameters
    ----------
    clock
        Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._begin, self._next = clock, 0.0, 0.0
        self._stored, self._done = 0, sys.maxsize

    def __call__(self, done: int, total: int) -> None:
        """Log a line if the last one is long ago and toys remain."""
        now = self._clock()
        if done <= self._done:
            self._begin, self._next, self._stored = now, now + FIRST_LINE, done
        elif now >= self._next and done < total:
            self._next, spent = now + NEXT_LINE, now - self._begin
            left = spent * (total - done) / (done - self._stored)
            logger.info("%d of %d toys after %s, about %s left", done, total, duration(spent), duration(left))
        self._done = done


def duration(seconds: float) -> str:
    """Return a time in words: in seconds up to two minutes, in minutes up to two hours."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds > 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


@contextmanager
def study_plan(console: Console, workers: int, store: Path | None) -> Iterator[StudyPlan]:
    """Yield a plan whose progress is drawn on the console, or logged where that is no terminal."""
    executor = make_executor(workers)
    if not console.is_terminal:
        yield StudyPlan(path=store, executor=executor, progress=ProgressLines())
        return
    columns = (TextColumn("toys"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("toys")
        yield StudyPlan(
            path=store,
            executor=executor,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
