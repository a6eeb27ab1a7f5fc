"""The event files of a training, made if absent: simulated, converted from another program, drawn from templates."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from surrogate.errors import ConfigError, DataError
from surrogate.locks import only_writer
from training.event_adapters import convert_events
from training.event_mapping import read_mapping
from training.event_set import EventSet
from training.progress import SimulationBar
from training.settings import TrainConfig
from training.simulation import simulate_to_file
from training.simulation_plan import SimulationPlan
from training.template_events import write_template_events

logger = logging.getLogger(__name__)

ORIGIN = ("detector", "source", "fixed")
"""What events of a simulation have in common with the plan of another, if they may stand for each other."""


def simulation_plan(config: TrainConfig, folder: Path) -> SimulationPlan | None:
    """Return the plan of the simulate block, None where there is none; ``folder`` is that of relative paths in it."""
    return None if config.data.simulate is None else config.data.simulate.build(folder)


def open_events(config: TrainConfig, folder: Path, shown: bool = True) -> EventSet:
    """Open the event files of a training, made first where they are absent; close them after use.

    Parameters
    ----------
    config
        Training configuration.
    folder
        Folder of relative paths inside a simulate block: that of the configuration file.
    shown
        Whether to show progress.

    Raises
    ------
    ConfigError
        If there is a simulate block, and a file that exists was simulated from another source or detector.
    DataError
        If a file is absent and the configuration does not say how to make it, or cannot be read.
    """
    events = EventSet.open(_made(config, folder, shown))
    plan = simulation_plan(config, folder)
    try:
        if plan is not None:
            _check_origin(plan, events)
    except BaseException:
        events.close()
        raise
    return events


def _check_origin(plan: SimulationPlan, events: EventSet) -> None:
    """Raise unless the events are such as the plan simulates; their number and seed may be others."""
    ours, theirs = plan.schema(), events.metadata
    differing = [key for key in ("observables", "nuisances") if getattr(ours, key) != getattr(events, key)]
    differing += [key for key in ORIGIN if key in theirs and _plain(theirs[key]) != _plain(ours.metadata[key])]
    if events.generated_rate != ours.generated_rate:
        differing.append(f"generated rate ({events.generated_rate:g} and {ours.generated_rate:g} per tonne-year)")
    if differing:
        raise ConfigError(
            f"data: the event file and the simulate block differ in {', '.join(differing)}; remove the file, and it is "
            "simulated anew, or give another one under data.events"
        )


def _plain(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _made(config: TrainConfig, folder: Path, shown: bool) -> list[Path]:
    """Return the event files, made first where they are absent; of several jobs one makes them, the others wait."""
    paths = [Path(text) for text in config.data.events]
    if not all(path.exists() for path in paths):
        with only_writer(paths[0], wait=True):
            if not paths[0].exists():
                _make(config, folder, paths[0], shown)
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise DataError(
            f"event file {missing[0]} does not exist; make it with 'xeflow simulate', or add a simulate, a convert or "
            "a templates block under data"
        )
    return paths


def _make(config: TrainConfig, folder: Path, path: Path, shown: bool) -> None:
    """Make an event file as the data block says, if it says how."""
    plan, convert = simulation_plan(config, folder), config.data.convert
    if plan is not None:
        with SimulationBar(f"{config.name}: simulate", shown) as bar:
            record = simulate_to_file(plan, path, config.threads, progress=bar.show)
        logger.info("%s: %d of %d events accepted", path, record.n_accepted, record.n_generated)
    elif convert is not None:
        convert_events(read_mapping(Path(convert.mapping)), [Path(file) for file in convert.files], path)
        logger.info("%s: converted from %s", path, ", ".join(convert.files))
    elif config.data.templates is not None:
        n_events = write_template_events(config.data.templates, path)
        logger.info("%s: %d events drawn from %s", path, n_events, config.data.templates.files)
