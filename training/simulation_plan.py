"""What a simulation is made of: source, observables, ranges of theta, seed; and its batches.

Randomness is counted: batch k draws its thetas and its events from streams that depend on (seed, source, k) alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor

from surrogate.errors import ConfigError, unknown_name
from surrogate.nuisance import NuisanceSpace
from surrogate.observables import ObservableSpace
from training.event_writer import Segment
from training.events import Blocks, EventSchema
from training.simulator.seeds import stream
from training.simulator.sources import EventSource
from training.simulator.theta import ENERGY, THETA_NAMES, assemble_theta, check_theta, nominal_theta, split_theta
from training.simulator.tpc import RECONSTRUCTED, TRUTH, FixedTruth, check_truth

BLOCK = 256
"""Generated events that share one theta, by default."""

BATCH_BLOCKS = 256
"""Blocks per batch, by default: 65536 events fit the cache of a CPU core."""


@dataclass(frozen=True)
class SimulationPlan:
    """What is simulated; it fixes every byte of the event file.

    Parameters
    ----------
    source
        The event source, with its detector.
    space
        Observables to record, among the reconstructed columns.
    nuisances
        The parameters that vary, uniform (in their scale) over their ranges. Empty: none does.
    n_generated
        Generated events; rounded up to whole blocks.
    seed
        Seed of the run.
    fixed
        Values of parameters that do not vary, where they are not nominal.
    truth
        Truth columns to record.
    theta_draw
        ``sobol`` (scrambled, low discrepancy) or ``uniform``.
    block_size
        Generated events that share one theta. Raise it where few of them are accepted, so that the rate is fitted to
        some 10^5 thetas at most.
    batch_blocks
        Blocks per batch: the unit in which random numbers are drawn. Raise it for a GPU (8192), and lower it where
        blocks are large: a batch of 65536 events fits the cache of a CPU core.
    device
        ``cpu`` or ``cuda``.
    """

    source: EventSource
    space: ObservableSpace
    nuisances: NuisanceSpace
    n_generated: int
    seed: int
    fixed: tuple[tuple[str, float], ...] = ()
    truth: tuple[str, ...] = ()
    theta_draw: str = "sobol"
    block_size: int = BLOCK
    batch_blocks: int = BATCH_BLOCKS
    device: str = "cpu"

    def __post_init__(self) -> None:
        where = f"simulation of '{self.source.name}'"
        for name in self.space.names:
            if name not in RECONSTRUCTED:
                raise ConfigError(unknown_name("observable", name, RECONSTRUCTED, where))
        for name in self.truth:
            if name not in TRUTH:
                raise ConfigError(unknown_name("truth column", name, TRUTH, where))
        for name in (*self.nuisances.names, *(n for n, _ in self.fixed)):
            if name not in self.source.parameters:
                raise ConfigError(unknown_name("nuisance", name, self.source.parameters, where))
        for name, value in self.fixed:
            if name in self.nuisances.names:
                raise ConfigError(f"{where}: {name} is both varied and fixed at {value}; remove one of them")
        if self.theta_draw not in ("sobol", "uniform"):
            raise ConfigError(unknown_name("theta_draw", self.theta_draw, ("sobol", "uniform"), where))
        for key in ("n_generated", "block_size", "batch_blocks"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{where}: {key} = {getattr(self, key)} must be at least 1")
        corners = torch.stack(self.nuisances.bounds(torch.zeros(0, dtype=torch.float64)))
        check_theta(assemble_theta(corners, self.nuisances, self.base_theta()), 2, self.source.detector)
        check_truth(self.fixed_truth(corners, 1), 2, self.source.detector)

    def base_theta(self) -> Tensor:
        """Return theta (4,) float64 with the fixed values set."""
        theta = assemble_theta(
            torch.zeros(1, 0, dtype=torch.float64), NuisanceSpace(), nominal_theta(self.source.detector)
        )
        for name, value in self.fixed:
            if name != ENERGY:
                theta[0, THETA_NAMES.index(name)] = value
        return theta[0]

    def fixed_truth(self, values: Tensor, repeat: int) -> FixedTruth:
        """Return what is not drawn of ``repeat`` events at each row of the varying parameters (n, K): their energy."""
        if ENERGY in self.nuisances.names:
            column = values[:, self.nuisances.names.index(ENERGY)]
            return {ENERGY: column.to(self.device, torch.float32).repeat_interleave(repeat)}
        return {name: value for name, value in self.fixed if name == ENERGY}

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return -(-self.n_generated // self.block_size)

    @property
    def n_batches(self) -> int:
        """Number of batches."""
        return -(-self.n_blocks // self.batch_blocks)

    def schema(self) -> EventSchema:
        """Return what the event file says of itself."""
        detector = self.source.detector
        metadata = {
            "detector": asdict(detector),
            "source": dict(self.source.describe()),
            "fixed": dict(self.fixed),
            "seed": self.seed,
            "theta_draw": self.theta_draw,
            "block_size": self.block_size,
            "batch_blocks": self.batch_blocks,
            "device": self.device,
            "versions": {"xeflow": version("xeflow"), "torch": torch.__version__},
        }
        return EventSchema(self.space, self.nuisances, self.source.generated_rate, metadata, self.truth)


def block_thetas(plan: SimulationPlan, first: int, n: int) -> Tensor:
    """Return the varying parameters of blocks first .. first + n - 1: (n, K) float64."""
    k = plan.nuisances.dim
    if k == 0:
        return torch.zeros(n, 0, dtype=torch.float64)
    if plan.theta_draw == "sobol":
        engine = torch.quasirandom.SobolEngine(k, scramble=True, seed=plan.seed % 2**31)
        u = engine.fast_forward(first).draw(n, dtype=torch.float64)
    else:
        generator = stream(plan.seed, "theta", first)
        u = torch.rand(n, k, generator=generator, dtype=torch.float64)
    return _from_unit(u, plan.nuisances)


def _from_unit(u: Tensor, nuisances: NuisanceSpace) -> Tensor:
    low, high = nuisances.bounds(u)
    log = torch.tensor([n.scale == "log" for n in nuisances.nuisances])
    ratio = torch.where(log, high / low, 1.0)
    return torch.where(log, low * ratio**u, low + u * (high - low)).clamp(low, high)


def simulate_batch(plan: SimulationPlan, index: int) -> Segment:
    """Return the blocks and selected events of one batch."""
    first = index * plan.batch_blocks
    n_blocks = min(plan.batch_blocks, plan.n_blocks - first)
    values = block_thetas(plan, first, n_blocks)
    generator = stream(plan.seed, plan.source.name, index, plan.device)
    n = n_blocks * plan.block_size
    theta = assemble_theta(values, plan.nuisances, plan.base_theta()).to(plan.device, torch.float32)
    per_event = split_theta(theta.repeat_interleave(plan.block_size, dim=0), torch.zeros(0, device=plan.device))
    columns = plan.source.generate(n, per_event, generator, plan.fixed_truth(values, plan.block_size))
    x = torch.stack([columns[name] for name in plan.space.names], dim=1)
    # In float64: a value that float32 rounds onto an edge may lie outside the exact window.
    inside = plan.space.contains(x.double())
    block = torch.div(columns["index"], plan.block_size, rounding_mode="floor")[inside].cpu().numpy()
    truth = {name: columns[name][inside].cpu().numpy() for name in plan.truth}
    accepted = np.bincount(block, minlength=n_blocks)
    blocks = Blocks(values.numpy(), np.full(n_blocks, plan.block_size), accepted)
    return Segment(blocks, x[inside].cpu().numpy(), block, None, truth)
