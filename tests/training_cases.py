"""Small simulations and configurations on which the training tests run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.settings import TrainConfig
from training.simulation import simulate_to_file
from training.simulation_plan import SimulationPlan
from training.simulator_config import SimulationFile

SIMULATION: dict[str, Any] = {
    "detector": "xenon1t_like",
    "source": "er",
    "space": "C",
    "nuisances": ["elife", "g1"],
    "n_generated": 40_000,
    "seed": 5,
    "batch_blocks": 16,
}


def plan(seed: int = 5, n_generated: int = 40_000) -> SimulationPlan:
    """Electronic recoils in (cs1, cs2) over (elife, g1), in batches of 4096 generated events."""
    block = SIMULATION | {"seed": seed, "n_generated": n_generated}
    return SimulationFile.model_validate(block).build(Path())


def event_file(path: Path, seed: int = 5, n_generated: int = 40_000) -> Path:
    """Simulate a small event file."""
    simulate_to_file(plan(seed, n_generated), path, workers=1)
    return path


def config(folder: Path, **changes: Any) -> TrainConfig:
    """A training of a tiny flow that takes a second; ``changes`` replace blocks or entries of blocks."""
    content: dict[str, Any] = {
        "name": "tiny",
        "checkpoint": str(folder / "checkpoint"),
        "runs": str(folder / "runs"),
        "data": {"events": [str(folder / "events.h5")]},
        "flow": {"hidden": 8, "components": 4, "blocks": 1},
        "optimiser": {"batch_size": 256, "steps": 60, "learning_rate": 0.01},
        "stopping": {"check_every": 15},
        "acceptance": {"max_degree": 2},
    }
    for key, value in changes.items():
        content[key] = content.get(key, {}) | value if isinstance(value, dict) else value
    return TrainConfig.model_validate(content)
