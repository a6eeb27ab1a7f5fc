"""A data set as an experiment would record it, drawn from the simulator.

For each source, N ~ Poisson(multiplier x generated_rate x exposure) events are generated and pass the detector and the
selection; what is kept is mixed. This is an exact draw of the extended process at one theta: no surrogate takes part,
so that a fit of surrogates to such data tests them too.

The file holds one group with the columns of the run, in the layout that statistical models read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from surrogate.atomic import replacing_file
from surrogate.errors import ConfigError, DataError, unknown_name
from surrogate.observables import ObservableSpace
from training.simulator.detector import Detector
from training.simulator.seeds import stream
from training.simulator.sources import EventSource
from training.simulator.theta import THETA_NAMES, check_theta, nominal_theta, split_theta

BATCH = 65536
"""Events generated at once, the unit in which random numbers are drawn."""


@dataclass(frozen=True)
class Experiment:
    """What is recorded, and under which truth.

    Parameters
    ----------
    run
        Name of the science run.
    detector
        The detector of all sources.
    observables
        The columns to record, with their windows.
    sources
        Each source with the multiplier of its rate.
    exposure
        Tonne-years.
    theta
        True values of the nuisance parameters where they are not nominal.

    Raises
    ------
    ConfigError
        For an exposure or a multiplier that is negative or not finite, an unknown parameter, or a source that occurs
        twice or belongs to another detector.
    RangeError
        For a theta that is not physical.
    """

    run: str
    detector: Detector
    observables: ObservableSpace
    sources: tuple[tuple[EventSource, float], ...]
    exposure: float
    theta: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"experiment '{self.run}'"
        if not (math.isfinite(self.exposure) and self.exposure >= 0):
            raise ConfigError(f"{where}: exposure = {self.exposure} tonne-years must be finite and >= 0")
        names = [source.name for source, _ in self.sources]
        if len(set(names)) != len(names):
            raise ConfigError(f"{where}: sources must be unique, got {', '.join(names)}")
        for source, multiplier in self.sources:
            if not (math.isfinite(multiplier) and multiplier >= 0):
                raise ConfigError(f"{where}: multiplier {multiplier} of '{source.name}' must be finite and >= 0")
            if source.detector != self.detector:
                raise ConfigError(f"{where}: source '{source.name}' belongs to detector '{source.detector.name}'")
        for name in self.theta:
            if name not in THETA_NAMES:
                raise ConfigError(unknown_name("nuisance", name, THETA_NAMES, where))
        check_theta(self.true_theta(), 1, self.detector)

    def true_theta(self) -> torch.Tensor:
        """Return theta (4,), float64."""
        theta = nominal_theta(self.detector)
        for name, value in self.theta.items():
            theta[THETA_NAMES.index(name)] = value
        return theta


@dataclass(frozen=True)
class Recording:
    """The events of one experiment.

    Attributes
    ----------
    experiment
        What was recorded.
    seed
        Seed of the draw.
    x
        (n, D) float64, in the order of the observables.
    counts
        Recorded events per source.
    """

    experiment: Experiment
    seed: int
    x: NDArray[np.float64]
    counts: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return what describes the events, as plain data; the events themselves are in the file."""
        experiment = self.experiment
        return {
            "run": experiment.run,
            "detector": experiment.detector.name,
            "exposure": experiment.exposure,
            "multipliers": {source.name: multiplier for source, multiplier in experiment.sources},
            "theta": dict(zip(THETA_NAMES, experiment.true_theta().tolist(), strict=True)),
            "seed": self.seed,
            "n_events": len(self.x),
            "counts": dict(self.counts),
        }

    def write(self, path: Path) -> None:
        """Write the events as an HDF5 file, atomically: a group per run, a dataset per column with its unit."""
        with replacing_file(path) as temporary, h5py.File(temporary, "w") as file:
            file.attrs["description"] = json.dumps(self.to_dict())
            group = file.create_group(self.experiment.run)
            for d, observable in enumerate(self.experiment.observables.observables):
                group.create_dataset(observable.name, data=self.x[:, d]).attrs["unit"] = observable.unit


def write_recordings(path: Path, recordings: Sequence[Recording]) -> None:
    """Write data sets of one experiment into an HDF5 file in the layout of inference_interface, atomically.

    Raises
    ------
    DataError
        If there is none, or they are of different experiments.
    """
    if not recordings or any(r.experiment is not recordings[0].experiment for r in recordings):
        raise DataError("recordings: at least one is needed, and all must be of one experiment")
    experiment = recordings[0].experiment
    dtype = [(name, np.float64) for name in experiment.observables.names]
    with replacing_file(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["n_datasets"] = json.dumps(len(recordings))
        file.attrs["dataset_names"] = json.dumps([experiment.run])
        file.attrs["description"] = json.dumps(recordings[0].to_dict())
        for i, recording in enumerate(recordings):
            table = np.empty(len(recording.x), dtype=dtype)
            for d, name in enumerate(experiment.observables.names):
                table[name] = recording.x[:, d]
            file.create_dataset(f"{i}/{experiment.run}", data=table)


def _events_of(source: EventSource, mean: float, experiment: Experiment, seed: int) -> torch.Tensor:
    """Return the recorded events (n, D) of a source of which ``mean`` events are generated on average."""
    label = f"{experiment.run}/{source.name}"
    count = torch.poisson(torch.tensor(mean, dtype=torch.float64), generator=stream(seed, f"{label}/count", 0))
    theta = split_theta(experiment.true_theta(), torch.zeros(0))
    kept = [torch.zeros(0, experiment.observables.dim, dtype=torch.float64)]
    for index, start in enumerate(range(0, int(count), BATCH)):
        columns = source.generate(min(BATCH, int(count) - start), theta, stream(seed, label, index), {})
        x = torch.stack([columns[name] for name in experiment.observables.names], dim=1).double()
        kept.append(x[experiment.observables.contains(x)])
    return torch.cat(kept)


def record(experiment: Experiment, seed: int) -> Recording:
    """Draw the data set number ``seed`` of an experiment.

    Raises
    ------
    ConfigError
        Unless 0 <= seed < 2^63.
    """
    parts = {
        source.name: _events_of(source, multiplier * source.generated_rate * experiment.exposure, experiment, seed)
        for source, multiplier in experiment.sources
    }
    x = torch.cat([torch.zeros(0, experiment.observables.dim, dtype=torch.float64), *parts.values()])
    order = torch.randperm(len(x), generator=stream(seed, f"{experiment.run}/order", 0))
    return Recording(experiment, seed, x[order].numpy(), {name: len(part) for name, part in parts.items()})
