"""The event sources that a YAML file can describe: recoils, accidental coincidences, decays on the wall."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from surrogate.block import Block
from surrogate.spectrum_config import SpectrumBlock
from training.foreign_files import open_foreign
from training.simulator.accidentals import AccidentalSource, LoneSignals, MeasuredSignals, ParametricSignals
from training.simulator.detector import Detector
from training.simulator.mono import MonoEnergeticSource
from training.simulator.simulate import with_accepted_rate
from training.simulator.sources import EventSource, Fluctuations, Recoil, RecoilSource
from training.simulator.wall import WallSource


class RecoilBlock(Block):
    """Recoils of a spectrum. With ``accepted_rate`` the spectrum gives the shape, and that rate passes the cuts."""

    kind: Literal["recoil"]
    name: str
    recoil: Recoil
    spectrum: SpectrumBlock
    fluctuations: Fluctuations = "nest"
    accepted_rate: Annotated[float, Field(gt=0)] | None = None

    def build(self, detector: Detector, folder: Path) -> EventSource:
        """Return the source."""
        spectrum = self.spectrum.build(folder)
        source = RecoilSource(self.name, detector, self.recoil, spectrum, detector.nr_yields, self.fluctuations)
        return source if self.accepted_rate is None else with_accepted_rate(source, self.accepted_rate)


class MonoEnergeticBlock(Block):
    """Recoils of one energy, a parameter named ``energy``: the response that spectra are folded with."""

    kind: Literal["mono"]
    name: str
    recoil: Recoil
    fluctuations: Fluctuations = "nest"

    def build(self, detector: Detector, folder: Path) -> EventSource:
        """Return the source."""
        return MonoEnergeticSource(self.name, detector, self.recoil, detector.nr_yields, self.fluctuations)


class ParametricBlock(Block):
    """Lone signals of usual shape (:class:`training.simulator.accidentals.ParametricSignals`)."""

    stop: float = 0.25
    large: float = 0.10
    large_range: tuple[float, float] = (5.0, 100.0)
    plateau: float = 250.0
    slope: float = 200.0

    def build(self, folder: Path) -> LoneSignals:
        """Return the signals."""
        return ParametricSignals(self.stop, self.large, self.large_range, self.plateau, self.slope)


class MeasuredBlock(Block):
    """Lists of areas of lone S1s and S2s, PE: columns of HDF5, NPZ, CSV or Parquet files."""

    s1_file: str
    s1_column: str = "s1"
    s2_file: str
    s2_column: str = "s2"

    def build(self, folder: Path) -> LoneSignals:
        """Return the signals."""
        s1 = _column(folder / self.s1_file, self.s1_column)
        return MeasuredSignals(s1, _column(folder / self.s2_file, self.s2_column))


def _column(path: Path, name: str) -> Tensor:
    with open_foreign(path) as file:
        return torch.from_numpy(file.array(name).astype(np.float32))


class AccidentalBlock(Block):
    """Accidental coincidences; ``accepted_rate`` passes the cuts, per tonne-year."""

    kind: Literal["accidental"]
    name: str
    accepted_rate: Annotated[float, Field(gt=0)]
    signals: ParametricBlock | MeasuredBlock = ParametricBlock()

    @model_validator(mode="before")
    @classmethod
    def _choose_signals(cls, data: object) -> object:
        """Decide by the keys which signals are meant, so that a mistake is reported for those."""
        if isinstance(data, dict) and isinstance(data.get("signals"), dict):
            block = MeasuredBlock if {"s1_file", "s2_file"} & set(data["signals"]) else ParametricBlock
            return {**data, "signals": block.model_validate(data["signals"])}
        return data

    def build(self, detector: Detector, folder: Path) -> EventSource:
        """Return the source."""
        source = AccidentalSource(self.name, detector, 1.0, self.signals.build(folder))
        return with_accepted_rate(source, self.accepted_rate)


class WallBlock(Block):
    """Decays on the wall; ``accepted_rate`` passes the cuts, per tonne-year."""

    kind: Literal["wall"]
    name: str
    accepted_rate: Annotated[float, Field(gt=0)]
    spectrum: SpectrumBlock
    tail_fraction: float = 0.3
    tail_length: float = 3.0

    def build(self, detector: Detector, folder: Path) -> EventSource:
        """Return the source."""
        spectrum = self.spectrum.build(folder)
        source = WallSource(self.name, detector, spectrum, self.tail_fraction, self.tail_length)
        return with_accepted_rate(source, self.accepted_rate)


SourceBlock = Annotated[RecoilBlock | MonoEnergeticBlock | AccidentalBlock | WallBlock, Field(discriminator="kind")]
