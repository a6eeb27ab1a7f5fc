"""Reading detectors and simulations from YAML.

A key that is not known is answered with the nearest one that is, and its place in the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from surrogate.errors import ConfigError, unknown_name
from surrogate.nuisance import NuisanceSpace
from training.simulation_plan import SimulationPlan
from training.simulator.catalogue import standard_source
from training.simulator.detector import Detector, EfficiencyCurve, Selection
from training.simulator.sources import EventSource, Fluctuations, Recoil, RecoilSource
from training.simulator.spaces import observable_space
from training.simulator.theta import THETA_NAMES, training_nuisances
from training.spectrum_config import Block, SpectrumBlock

SHIPPED_DETECTORS = Path(__file__).resolve().parents[1] / "configs" / "detectors"


def _read_yaml(path: Path) -> Mapping[str, Any]:
    """Return the mapping in a YAML file.

    Raises
    ------
    ConfigError
        If it cannot be read, is not YAML, or is not a mapping.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must be a mapping of keys to values")
    return data


def _message(path: Path, error: ValidationError) -> str:
    """Return the first problem of a validation as one line: file, place, and what is wrong."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{path}: {place + ': ' if place else ''}{first['msg'].removeprefix('Value error, ')}"


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
    path = Path(name)
    if not path.suffix:
        path = SHIPPED_DETECTORS / f"{name}.yaml"
        shipped = sorted(p.stem for p in SHIPPED_DETECTORS.glob("*.yaml"))
        if not path.exists():
            raise ConfigError(unknown_name("detector", str(name), shipped))
    data = _read_yaml(path)
    _check_fields(Detector, data, str(path))
    selection = data.get("selection")
    _check_fields(Selection, selection, f"{path}: selection")
    for curve in selection.get("curves", ()) if isinstance(selection, dict) else ():
        _check_fields(EfficiencyCurve, curve, f"{path}: selection.curves")
    try:
        return TypeAdapter(Detector).validate_python(data)
    except ValidationError as error:
        raise ConfigError(_message(path, error)) from error


class RecoilBlock(Block):
    """A source of recoils with its own spectrum."""

    kind: Literal["recoil"] = "recoil"
    name: str
    recoil: Recoil
    spectrum: SpectrumBlock
    fluctuations: Fluctuations = "nest"

    def build(self, detector: Detector, folder: Path) -> EventSource:
        """Return the source."""
        spectrum = self.spectrum.build(folder)
        return RecoilSource(self.name, detector, self.recoil, spectrum, detector.nr_yields, self.fluctuations)


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
    source: str | RecoilBlock
    space: str = "A"
    nuisances: list[str] | dict[str, RangeBlock] = Field(default_factory=lambda: list(THETA_NAMES))
    n_generated: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]
    truth: tuple[str, ...] = ()
    theta_draw: Literal["sobol", "uniform"] = "sobol"
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
        nuisances, fixed = _nuisances(self.nuisances, detector)
        return SimulationPlan(
            source=source,
            space=observable_space(detector, self.space),
            nuisances=nuisances,
            n_generated=self.n_generated,
            seed=self.seed,
            fixed=fixed,
            truth=self.truth,
            theta_draw=self.theta_draw,
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
    """Read one simulation from a YAML file.

    Raises
    ------
    ConfigError
        If a key is unknown or missing, a value is not possible, or a file it names is not there.
    """
    try:
        return SimulationFile.model_validate(_read_yaml(path)).build(path.parent)
    except ValidationError as error:
        raise ConfigError(_message(path, error)) from error


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
