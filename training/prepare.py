"""Making the event file of a training: simulating it, converting files of another program, drawing from templates."""

from __future__ import annotations

import logging
from pathlib import Path

from surrogate.errors import DataError
from training.event_adapters import convert_events
from training.event_mapping import read_mapping
from training.progress import SimulationBar
from training.settings import TrainConfig
from training.simulation import simulate_to_file
from training.simulation_plan import SimulationPlan
from training.template_events import write_template_events

logger = logging.getLogger(__name__)


def simulation_plan(config: TrainConfig, folder: Path) -> SimulationPlan | None:
    """Return the plan of the simulate block, None where there is none; ``folder`` is that of relative paths in it."""
    return None if config.data.simulate is None else config.data.simulate.build(folder)


def prepare_events(config: TrainConfig, folder: Path, shown: bool = True) -> list[Path]:
    """Return the event files of a training; one that is absent is simulated, converted or drawn first.

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
    DataError
        If a file is absent and the configuration does not say how to make it.
    """
    paths = [Path(text) for text in config.data.events]
    missing = [path for path in paths if not path.exists()]
    if not missing:
        return paths
    plan, convert = simulation_plan(config, folder), config.data.convert
    if plan is not None:
        with SimulationBar(f"{config.name}: simulate", shown) as bar:
            record = simulate_to_file(plan, paths[0], config.threads, progress=bar.show)
        logger.info("%s: %d of %d events accepted", paths[0], record.n_accepted, record.n_generated)
    elif convert is not None:
        convert_events(read_mapping(Path(convert.mapping)), [Path(file) for file in convert.files], paths[0])
        logger.info("%s: converted from %s", paths[0], ", ".join(convert.files))
    elif config.data.templates is not None:
        n_events = write_template_events(config.data.templates, paths[0])
        logger.info("%s: %d events drawn from %s", paths[0], n_events, config.data.templates.files)
    else:
        raise DataError(
            f"event file {missing[0]} does not exist; make it with 'xeflow simulate', or add a simulate, a convert or "
            "a templates block under data"
        )
    return paths
