"""Settings of one training job: the blocks of a training configuration, their defaults and bounds.

Paths are read as in :mod:`training.data_settings`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from surrogate.flow_config import Activation, Family, FlowConfig
from surrogate.guides import guide_from_dict
from surrogate.nuisance import NuisanceSpace
from surrogate.observables import ObservableSpace
from training.data_settings import DataConfig, SettingsBlock
from training.paths import PathText


def _checked_guide(guide: dict[str, Any]) -> dict[str, Any]:
    """Return a guide's keys after building it once."""
    guide_from_dict(guide)
    return guide


class FlowBlock(SettingsBlock):
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


class OptimiserConfig(SettingsBlock):
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


class StoppingConfig(SettingsBlock):
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


class AcceptanceConfig(SettingsBlock):
    """Fit of mu(theta).

    Attributes
    ----------
    degree
        Total degree of the logistic polynomial, or ``auto`` to choose it by cross-validation up to ``max_degree``.
    kinks
        Parameters with a smoothed kink at their nominal value, as yield bands with unequal half-widths have.
    fine
        Name -> n: powers of this parameter count 1/n in the degree, for one over which the acceptance spans decades.
    moving_above
        Guided observable -> value from which its events move with theta as the guide says, across the edges of the
        region of interest, see :mod:`surrogate.moved_acceptance`; ``{}``: all events do. None: events are counted only.
    """

    degree: int | Literal["auto"] = "auto"
    max_degree: int = Field(default=6, ge=0, le=10)
    kinks: tuple[str, ...] = ()
    fine: dict[str, int] = Field(default_factory=dict)
    moving_above: dict[str, float] | None = None

    @model_validator(mode="after")
    def _one_way_at_a_time(self) -> AcceptanceConfig:
        if self.moving_above is not None and (self.kinks or self.fine):
            raise ValueError("events that move allow neither kinks nor fine; leave these or moving_above out")
        return self

    @property
    def total_degree(self) -> int | None:
        """The degree, None for the one that the fit chooses."""
        return None if self.degree == "auto" else self.degree


class EnsembleConfig(SettingsBlock):
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


class TrainConfig(SettingsBlock):
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
    def _fresh_events_need_neither_bootstrap_nor_motion(self) -> TrainConfig:
        if self.data.fresh and self.acceptance.moving_above is not None:
            raise ValueError("acceptance: fresh events are counted only; leave moving_above out, or train on files")
        if self.data.fresh and self.ensemble.bootstrap != "none":
            raise ValueError("ensemble: each member simulates fresh events of its own; set bootstrap to none")
        return self

    @property
    def run_directory(self) -> Path:
        """``<runs>/<name>``."""
        return Path(self.runs) / self.name
