"""Settings of one training job: the blocks of a training configuration, their defaults and bounds.

Path values may name environment variables as ``${NAME}`` or ``${NAME:-default}``; relative paths are relative to the
working directory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from surrogate.flow_config import Activation, Family, FlowConfig
from surrogate.guides import guide_from_dict
from surrogate.nuisance import NuisanceSpace
from surrogate.observables import ObservableSpace
from training.paths import PathText
from training.simulator_config import SimulationFile
from training.template_set import TemplateDraw


class _Block(BaseModel):
    """A block of the configuration: immutable, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SymmetryConfig(_Block):
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


class ConvertConfig(_Block):
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


class DataConfig(_Block):
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


def _checked_guide(guide: dict[str, Any]) -> dict[str, Any]:
    """Return a guide's keys after building it once."""
    guide_from_dict(guide)
    return guide


class FlowBlock(_Block):
    """Architecture of the flow; the keys are those of :class:`surrogate.flow_config.FlowConfig`.

    Observables and nuisance parameters are those of the event files.
    """

    family: Family = "logistic_mixture"
    components: int = 20
    hidden: int = 96
    blocks: int = 2
    layers: int = 1
    activation: Activation = "silu"
    ordering: tuple[str, ...] = ()
    guides: tuple[Annotated[dict[str, Any], AfterValidator(_checked_guide)], ...] = ()
    floor: float = 0.002
    kinks: tuple[str, ...] = ()
    theta_scale: float = Field(default=1.0, gt=0)

    def build(self, observables: ObservableSpace, nuisances: NuisanceSpace) -> FlowConfig:
        """Return the architecture for the spaces of the events.

        Raises
        ------
        ConfigError
            If a value is out of bounds, or an ordering or a guide does not fit the spaces.
        """
        values = self.model_dump() | {"guides": tuple(guide_from_dict(guide) for guide in self.guides)}
        return FlowConfig(observables=observables, nuisances=nuisances, **values)


class OptimiserConfig(_Block):
    """Minimisation on mini-batches, see :mod:`training.optimisers`.

    Attributes
    ----------
    algorithm
        ``muon``: Muon for the hidden matrices of the networks, AdamW for the rest; or ``adamw`` for all.
    learning_rate, weight_decay
        Peak learning rate, and decoupled weight decay.
    muon_rate
        Peak learning rate of Muon as a multiple of the other.
    batch_size
        Events per step, over all devices.
    passes, steps
        Length of the training in passes over the events, or, if given, in steps.
    cpu_minutes
        The training ends after so much CPU time of the process, whatever the length; None for no such limit.
    schedule, warmup
        ``cosine``: linear rise over the share ``warmup`` of the steps, then a cosine to ``final`` of the peak;
        ``one_cycle``: cosine rise and fall (arXiv:1708.07120); ``constant``: linear rise only.
    final
        Learning rate at the end, as a share of the peak.
    gradient_clip
        Largest 2-norm of the gradient.
    ema_decay
        Decay of the exponential moving average of the weights; the average is what is validated and kept.
    """

    algorithm: Literal["muon", "adamw"] = "muon"
    learning_rate: float = Field(default=3e-3, gt=0)
    muon_rate: float = Field(default=2.5, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    batch_size: int = Field(default=4096, gt=0)
    passes: float = Field(default=20.0, gt=0)
    steps: int | None = Field(default=None, gt=0)
    cpu_minutes: float | None = Field(default=None, gt=0)
    schedule: Literal["cosine", "one_cycle", "constant"] = "cosine"
    warmup: float = Field(default=0.03, ge=0, lt=1)
    final: float = Field(default=1e-3, ge=0, le=1)
    gradient_clip: float = Field(default=1.0, gt=0)
    ema_decay: float = Field(default=0.998, ge=0, lt=1)


class StoppingConfig(_Block):
    """Early stopping on the held-out NLL of the averaged weights.

    Attributes
    ----------
    check_every
        Steps between two validations, each followed by a resumable checkpoint; None for one pass, at most 500 steps.
    patience
        Validations without improvement after which the training ends.
    """

    check_every: int | None = Field(default=None, gt=0)
    patience: int = Field(default=20, gt=0)


class AcceptanceConfig(_Block):
    """Fit of mu(theta).

    Attributes
    ----------
    degree
        Total degree of the logistic polynomial, or ``auto`` to choose it by cross-validation up to ``max_degree``.
    kinks
        Parameters with a smoothed kink at their nominal value, as yield bands with unequal half-widths have.
    fine
        Name -> n: powers of this parameter count 1/n in the degree, for one over which the acceptance spans decades.
    """

    degree: int | Literal["auto"] = "auto"
    max_degree: int = Field(default=6, ge=0, le=10)
    kinks: tuple[str, ...] = ()
    fine: dict[str, int] = Field(default_factory=dict)


class EnsembleConfig(_Block):
    """Several trainings of one source, whose mean is the surrogate and whose spread tells its error.

    Each member has a seed of its own and holds out another part of the events.

    Attributes
    ----------
    members
        Number of members.
    bootstrap
        ``poisson``: each member sees every event of the files a Poisson number of times of mean 1, so that their
        spread holds what the finite number of events leaves open; ``none``: once.
    distil
        Steps of one more training, whose target is the mean density of the members: the surrogate is then that one
        flow, and costs what one costs. None: it is the ensemble.
    orderings
        Orderings of the observables that the members take in turn, for their errors to differ more; to be distilled
        into one flow with the ordering of the ``flow`` block. Empty: all have that one.
    """

    members: int = Field(default=1, gt=0, le=100)
    bootstrap: Literal["none", "poisson"] = "none"
    distil: int | None = Field(default=None, gt=0)
    orderings: tuple[tuple[str, ...], ...] = ()

    @model_validator(mode="after")
    def _several_to_resample(self) -> EnsembleConfig:
        if self.bootstrap != "none" and self.members == 1:
            raise ValueError("a bootstrap needs several members; raise members, or leave it out")
        if self.distil is not None and self.members == 1:
            raise ValueError("there is nothing to distil from one member; raise members, or leave distil out")
        if self.orderings and self.distil is None:
            raise ValueError("an ensemble has one ordering; set distil to make one flow of members with several")
        return self


class TrainConfig(_Block):
    """One training job.

    Attributes
    ----------
    name
        Name of the source, also of the run.
    checkpoint
        Directory that the trained surrogate is written to.
    runs
        Directory under which ``<name>/`` holds the log, the training curve and the resumable state.
    threads
        Threads of torch on the CPU.
    device
        ``cpu``, ``cuda`` or ``auto``; ``devices`` of them.
    """

    name: str = Field(min_length=1, pattern=r"^[\w-][\w.-]*$")
    checkpoint: PathText
    runs: PathText = "runs"
    data: DataConfig
    flow: FlowBlock = FlowBlock()
    optimiser: OptimiserConfig = OptimiserConfig()
    stopping: StoppingConfig = StoppingConfig()
    acceptance: AcceptanceConfig = AcceptanceConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    seed: int = Field(default=0, ge=0)
    threads: int = Field(default=1, gt=0)
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    devices: int = Field(default=1, gt=0)

    @model_validator(mode="after")
    def _no_bootstrap_of_fresh_events(self) -> TrainConfig:
        if self.data.fresh and self.ensemble.bootstrap != "none":
            raise ValueError("ensemble: each member simulates fresh events of its own; set bootstrap to none")
        return self

    @property
    def run_directory(self) -> Path:
        """``<runs>/<name>``."""
        return Path(self.runs) / self.name
