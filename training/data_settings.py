"""The data block of a training configuration: where the events come from.

Path values may name environment variables as ``${NAME}`` or ``${NAME:-default}``; relative paths are relative to the
working directory.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from training.paths import PathText
from training.simulator_config import SimulationFile
from training.template_set import TemplateDraw


class SettingsBlock(BaseModel):
    """A block of a training configuration: immutable, and closed to unknown keys; its reader tells their lines."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SymmetryConfig(SettingsBlock):
    """An exact symmetry of the detector, see :mod:`training.symmetries`.

    Attributes
    ----------
    drift, lifetime
        Names of the drift time and of the electron lifetime.
    drawn
        How the lifetimes of the events were drawn: ``uniform``, or ``log`` for uniform in the logarithm.
    """

    kind: Literal["drift_lifetime"]
    drift: str = "drift_time"
    lifetime: str = "elife"
    drawn: Literal["uniform", "log"] = "uniform"


class ConvertConfig(SettingsBlock):
    """Event files of another program, converted when the event file is absent.

    Attributes
    ----------
    mapping
        YAML file that says what their columns mean.
    files
        The files.
    """

    mapping: PathText
    files: tuple[PathText, ...] = Field(min_length=1)


class DataConfig(SettingsBlock):
    """Where the events come from.

    Attributes
    ----------
    events
        Event files; with ``simulate``, ``convert`` or ``templates`` exactly one, which is written if it does not exist.
    convert
        Files of another program to convert if the event file is absent.
    simulate
        What to simulate if the event file is absent; the keys are those of a simulation's own file.
    templates
        Binned templates to draw the events from if the event file is absent.
    fresh
        True to train on events that are simulated or drawn as they are needed, new ones in each pass; the event file is
        then only validated on. For templates, and for sources of which a fair share is accepted.
    symmetries
        Exact symmetries of the detector that made the events; a wrong one biases the surrogate.
    validation_fraction
        Share of events held out of the training, for early stopping and for the reported held-out NLL.
    memory_mb
        Memory for preloaded events, in MB; larger files are streamed.
    """

    events: tuple[PathText, ...] = Field(min_length=1)
    convert: ConvertConfig | None = None
    simulate: SimulationFile | None = None
    templates: TemplateDraw | None = None
    fresh: bool = False
    symmetries: tuple[SymmetryConfig, ...] = ()
    validation_fraction: float = Field(default=0.05, gt=0, lt=0.5)
    memory_mb: float = Field(default=2000.0, gt=0)

    @model_validator(mode="after")
    def _one_file_to_make(self) -> DataConfig:
        makers = [block for block in (self.simulate, self.convert, self.templates) if block is not None]
        if len(makers) > 1:
            raise ValueError("give one of the blocks simulate, convert and templates")
        if makers and len(self.events) != 1:
            raise ValueError(f"to simulate, convert or draw, events must name exactly one file, not {len(self.events)}")
        if self.fresh and self.simulate is None and self.templates is None:
            raise ValueError("fresh events need a simulate or a templates block")
        return self
