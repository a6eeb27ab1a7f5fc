"""The trainings that make one source: a single one, or the members of an ensemble."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

from surrogate.ensemble import Sharing
from surrogate.errors import ConfigError
from training.settings import EnsembleConfig, TrainConfig
from training.split import EventSplit, seed_of

_MEMBER, _BOOTSTRAP = 101, 102
"""First numbers of the keys that the seeds of members and of bootstraps derive from."""


@dataclass(frozen=True)
class TrainingJob:
    """One training of a flow.

    Attributes
    ----------
    config
        Its configuration: that of the source, or for a member of an ensemble one with a name, a seed and a run
        directory of its own.
    split
        Its events among those of the files.
    """

    config: TrainConfig
    split: EventSplit

    def fingerprint(self, data_hash: str) -> dict[str, str]:
        """Return what must be equal for the training to be continued: all that its result depends on, by block."""
        elsewhere = {"name", "checkpoint", "runs", "threads", "device", "acceptance", "ensemble"}
        content = self.config.model_dump(mode="json", exclude=elsewhere)
        content["optimiser"].pop("cpu_minutes")
        content["data"] = {key: content["data"][key] for key in _data_keys(self.config)}
        if content["data"].get("templates"):
            content["data"]["templates"].pop("folder")
        if self.split != _whole(self.config):
            content["split"] = [self.split.seed, self.split.part, self.split.bootstrap]
        blocks = {key: hashlib.sha256(json.dumps(value).encode()).hexdigest() for key, value in content.items()}
        return blocks | {"events": data_hash}


def training_jobs(config: TrainConfig) -> tuple[TrainingJob, ...]:
    """Return the trainings of a source, one or as many as the ensemble has members.

    Member k is the same in an ensemble of any size.
    """
    if config.ensemble.members == 1:
        return (TrainingJob(config, _whole(config)),)
    return tuple(_member(config, k) for k in range(config.ensemble.members))


def member_job(config: TrainConfig, member: int) -> TrainingJob:
    """Return one of the trainings by number.

    Raises
    ------
    ConfigError
        If there is no member of this number.
    """
    jobs = training_jobs(config)
    if not 0 <= member < len(jobs):
        raise ConfigError(
            f"member = {member}: the ensemble of '{config.name}' has members 0 to {len(jobs) - 1}; "
            "raise ensemble.members, or choose one of these"
        )
    return jobs[member]


def distillation_job(config: TrainConfig) -> TrainingJob:
    """Return the training that makes one flow of the members of an ensemble; it holds out what member 0 does."""
    optimiser = config.optimiser.model_copy(update={"steps": config.ensemble.distil})
    return TrainingJob(config.model_copy(update={"optimiser": optimiser, "ensemble": EnsembleConfig()}), _whole(config))


def sharing_of(config: TrainConfig) -> Sharing:
    """Return what the events of an ensemble's members have in common."""
    if config.data.fresh:
        return "none"
    shared: dict[Literal["none", "poisson"], Sharing] = {"none": "all", "poisson": "bootstrap"}
    return shared[config.ensemble.bootstrap]


def _data_keys(config: TrainConfig) -> tuple[str, ...]:
    """Return the entries of the data block that a training depends on beside the content of its files."""
    drawn = ("simulate", "templates") if config.data.fresh else ()
    return ("symmetries", "fresh", "validation_fraction", "memory_mb", *drawn)


def _whole(config: TrainConfig) -> EventSplit:
    """Return the split of a single training."""
    return EventSplit(config.seed, config.data.validation_fraction)


def _member(config: TrainConfig, k: int) -> TrainingJob:
    bootstrap = seed_of(_BOOTSTRAP, config.seed, k) if config.ensemble.bootstrap == "poisson" else None
    own: dict[str, object] = {
        "name": f"{config.name}.{k}",
        "runs": str(config.run_directory),
        "seed": seed_of(_MEMBER, config.seed, k),
        "ensemble": EnsembleConfig(),
    }
    orderings = config.ensemble.orderings
    if orderings:
        own["flow"] = config.flow.model_copy(update={"ordering": orderings[k % len(orderings)]})
    return TrainingJob(
        config.model_copy(update=own), EventSplit(config.seed, config.data.validation_fraction, k, bootstrap)
    )
