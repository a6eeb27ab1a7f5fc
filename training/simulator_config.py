"""Reading detectors and simulations from YAML.

A key that is not known is answered with the nearest one that is, and its place in the file.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from surrogate.block import Block
from surrogate.errors import ConfigError, unknown_name
from surrogate.nuisance import NuisanceSpace
from surrogate.shipped import config_path
from training.blocks import read_yaml, validation_message
from training.simulation_plan import SimulationPlan
from training.simulator.catalogue import standard_source
from training.simulator.detector import Detector, EfficiencyCurve, Selection
from training.simulator.spaces import observable_space
from training.simulator.theta import training_nuisances
from training.source_config import SourceBlock


def _check_fields(record: type, data: object, where: str) -> None:
    """Raise unless every key of a mapping is a field of the dataclass."""
    known = [f.name for f in dataclasses.fields(record) if f.init]
    for key in data if isinstance(data, dict) else ():
        if key not in known:
            raise ConfigError(unknown_name("key", str(key), known, where))


def read_detector(name: str | Path) -> Detector:
    """Read a detector from a YAML file, given by its path or by the name of a shipped one (``xenon1t_like``).

    Raises
    ------
    ConfigError
        If there is no such file, a key is unknown or missing, or a value is not possible.
    """
    path = config_path("detectors", name)
    data = read_yaml(path)
    _check_fields(Detector, data, str(path))
    selection = data.get("selection")
    _check_fields(Selection, selection, f"{path}: selection")
    for curve in selection.get("curves", ()) if isinstance(selection, dict) else ():
        _check_fields(EfficiencyCurve, curve, f"{path}: selection.curves")
    try:
        return TypeAdapter(Detector).validate_python(data)
    except ValidationError as error:
        raise ConfigError(validation_message(path, error)) from error


class RangeBlock(Block):
    """The range of a nuisance parameter, or the value at which it is held."""

    low: float | None = None
    high: float | None = None
    fixed: float | None = None

    @model_validator(mode="after")
    def _one_of(self) -> RangeBlock:
        if (self.fixed is None) == (self.low is None or self.high is None):
            raise ValueError("give either low and high, or fixed")
        return self


class SimulationFile(Block):
    """One simulation."""

    detector: str
    source: str | SourceBlock
    space: str = "A"
    nuisances: list[str] | dict[str, RangeBlock] | None = None
    n_generated: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]
    truth: tuple[str, ...] = ()
    theta_draw: Literal["sobol", "uniform"] = "sobol"
    block_size: Annotated[int, Field(ge=1)] = 256
    batch_blocks: Annotated[int, Field(ge=1)] = 256
    device: Literal["cpu", "cuda"] = "cpu"

    def build(self, folder: Path) -> SimulationPlan:
        """Return the plan; relative paths are relative to ``folder``."""
        detector = read_detector(folder / self.detector if Path(self.detector).suffix else self.detector)
        source = (
            standard_source(self.source, detector)
            if isinstance(self.source, str)
            else self.source.build(detector, folder)
        )
        wanted = list(source.parameters) if self.nuisances is None else self.nuisances
        nuisances, fixed = _nuisances(wanted, detector)
        return SimulationPlan(
            source=source,
            space=observable_space(detector, self.space),
            nuisances=nuisances,
            n_generated=self.n_generated,
            seed=self.seed,
            fixed=fixed,
            truth=self.truth,
            theta_draw=self.theta_draw,
            block_size=self.block_size,
            batch_blocks=self.batch_blocks,
            device=self.device,
        )


def _nuisances(
    wanted: list[str] | dict[str, RangeBlock], detector: Detector
) -> tuple[NuisanceSpace, tuple[tuple[str, float], ...]]:
    """Return the space of the parameters that vary, and the values of those held away from nominal."""
    if isinstance(wanted, list):
        return training_nuisances(detector, tuple(wanted)), ()
    space = training_nuisances(detector, tuple(name for name, block in wanted.items() if block.fixed is None))
    chosen = tuple(
        dataclasses.replace(n, low=block.low, high=block.high)
        for n in space.nuisances
        if (block := wanted[n.name]).low is not None and block.high is not None
    )
    fixed = tuple((name, block.fixed) for name, block in wanted.items() if block.fixed is not None)
    return NuisanceSpace(chosen), fixed


def read_simulation(path: Path) -> SimulationPlan:
    """Read one simulation from a YAML file, given by its path or by the name of a shipped one.

    Raises
    ------
    ConfigError
        If a key is unknown or missing, a value is not possible, or a file it names is not there.
    """
    path = config_path("simulate", path)
    try:
        return SimulationFile.model_validate(read_yaml(path)).build(path.parent)
    except ValidationError as error:
        raise ConfigError(validation_message(path, error)) from error


def standard_plan(
    detector: str | Path,
    source: str,
    n_generated: int,
    seed: int,
    space: str = "A",
    nuisances: NuisanceSpace | None = None,
) -> SimulationPlan:
    """Return the simulation of a standard source in a detector given by path or shipped name.

    Parameters
    ----------
    nuisances
        The parameters that vary and their ranges; the training ranges of all that the source depends on by default.

    Raises
    ------
    ConfigError
        For an unknown detector, source, space or nuisance parameter.
    """
    described = read_detector(detector)
    chosen = standard_source(source, described)
    ranges = training_nuisances(described, chosen.parameters) if nuisances is None else nuisances
    return SimulationPlan(chosen, observable_space(described, space), ranges, n_generated, seed)
