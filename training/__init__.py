"""Simulated events to checkpoints: simulator, event files, training, validation.

Training itself is imported from :mod:`training.train`, since Lightning takes seconds to load.
"""

from training.config import load_config
from training.criteria import Criterion, Thresholds
from training.event_set import EventSet
from training.events import EventFile
from training.settings import TrainConfig
from training.simulation import SimulationRecord, simulate_to_file
from training.simulation_plan import SimulationPlan
from training.simulator_config import read_detector, read_simulation, standard_plan
from training.truth import TruthComparison, compare_with_truth
from training.validation import Effort, ValidationRecord, validate
from training.validation_job import validate_checkpoint
from training.validation_sample import FreshSample

__all__ = [
    "Criterion",
    "Effort",
    "EventFile",
    "EventSet",
    "FreshSample",
    "SimulationPlan",
    "SimulationRecord",
    "Thresholds",
    "TrainConfig",
    "TruthComparison",
    "ValidationRecord",
    "compare_with_truth",
    "load_config",
    "read_detector",
    "read_simulation",
    "simulate_to_file",
    "standard_plan",
    "validate",
    "validate_checkpoint",
]
