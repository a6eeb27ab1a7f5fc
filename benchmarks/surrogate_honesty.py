"""Pulls of limits over retrainings: is the error quoted for a surrogate the one that retraining shows.

Run: python benchmarks/surrogate_honesty.py [--retrainings 20] [--json FILE]

A background with a known density and rate is simulated anew for each retraining; an ensemble of small networks is
trained on the events, with Poisson bootstrap, and stands for the background in the upper limit of a data set. The same
limit with the exact density and rate is known. The pull (limit - exact limit) / (quoted error of the surrogate) has
the width 1 if the quoted error is honest. Retrainings are independent of
each other; the limits of several data sets are set with each.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from inference.constraints.gaussian import GaussianConstraint
from inference.data.dataset import Dataset, EventData
from inference.intervals.confidence import confidence_interval
from inference.intervals.surrogate_error import surrogate_error
from inference.likelihood.extended import Likelihood
from inference.parameters import Parameter, ParameterSet
from inference.science_run import RunSource, ScienceRun
from surrogate.checkpoint import load_checkpoint
from surrogate.jet import Jet, autograd_log_jet
from surrogate.nuisance import Nuisance, NuisanceSpace
from surrogate.observables import Observable, ObservableSpace
from surrogate.source import Source
from training.event_writer import EventWriter, Segment
from training.events import Blocks, EventSchema
from training.settings import TrainConfig
from training.train import train

Array = NDArray[np.float64]

PLANE = ObservableSpace((Observable("a", "", 0.0, 1.0), Observable("b", "", 0.0, 1.0)))
SHAPE = NuisanceSpace((Nuisance("t", "sigma", -2.5, 2.5, 0.0),))
WIDTH = 0.15
BLOCKS, PER_BLOCK, GENERATED_RATE = 300, 64, 200.0


@dataclass(frozen=True, eq=False)
class BandSource:
    """A band in the unit square: a truncated exponential in a, and a truncated normal in b about a line in a.

    Attributes
    ----------
    slope, offset
        Slope of the exponential, and of the line its value at a = 0, where t = 0.
    rate
        Generated events; 1/(1 + exp(-0.3 t)) of them are kept.
    nuisances
        ``t``, which moves slope, line and rate, or none.
    """

    slope: float
    offset: float
    rate: float
    nuisances: NuisanceSpace = SHAPE
    observables: ObservableSpace = PLANE

    @property
    def breakpoints(self) -> Mapping[str, tuple[float, ...]]:
        """None."""
        return {}

    @property
    def identity(self) -> str:
        """Its numbers."""
        return f"band {self.slope} {self.offset} {self.rate} {self.nuisances.names}"

    def _numbers(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        t = theta[..., 0] if theta.shape[-1] else theta.new_zeros(theta.shape[:-1])
        return self.slope * torch.exp(0.2 * t), self.offset + 0.05 * t

    def log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        """Return ln f (*,) for x (*, 2) and theta (*, K)."""
        slope, offset = self._numbers(theta)
        a, b = x[..., 0], x[..., 1]
        mean = offset + 0.2 * a
        mass = torch.special.ndtr((1 - mean) / WIDTH) - torch.special.ndtr(-mean / WIDTH)
        along = slope.log() - slope * a - (-torch.expm1(-slope)).log()
        across = -0.5 * ((b - mean) / WIDTH).square() - math.log(WIDTH * math.sqrt(2 * math.pi)) - mass.log()
        return torch.where(PLANE.contains(x), along + across, -torch.inf)

    def acceptance(self, theta: Tensor) -> Tensor:
        """Return the share (*,) of generated events that is kept."""
        t = theta[..., 0] if theta.shape[-1] else theta.new_zeros(theta.shape[:-1])
        return torch.sigmoid(0.3 * t)

    def expected_events(self, theta: Tensor) -> Tensor:
        """Return mu (*,)."""
        return self.rate * self.acceptance(theta)

    def expected_events_std(self, theta: Tensor) -> Tensor:
        """Return zero."""
        return torch.zeros(theta.shape[:-1], dtype=theta.dtype)

    def sample(self, n: int, theta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw n events (n, 2) at theta (K,) or (n, K), by inversion."""
        slope, offset = self._numbers(theta)
        u = torch.rand(n, 2, generator=generator, dtype=torch.float64)
        a = -torch.log1p(u[:, 0] * torch.expm1(-slope)) / slope
        mean = offset + 0.2 * a
        low, high = torch.special.ndtr(-mean / WIDTH), torch.special.ndtr((1 - mean) / WIDTH)
        b = mean + WIDTH * torch.special.ndtri(low + u[:, 1] * (high - low))
        return torch.stack([a, b], dim=-1).clamp(0.0, 1.0)

    def density_jet(self, x: Tensor, theta: Tensor, centre: Tensor | None = None) -> Jet:
        """Return the jet of f for x (*, 2) and theta (*, K)."""
        shape = torch.broadcast_shapes(x.shape[:-1], theta.shape[:-1])
        k = theta.shape[-1]
        rows = x.expand(*shape, 2).reshape(-1, 2)
        jet = autograd_log_jet(lambda t: self.log_prob(rows, t), theta.expand(*shape, k).reshape(len(rows), k))
        parts = (jet.log_scale, jet.value, jet.gradient, jet.hessian)
        return Jet(*(part.reshape(*shape, *part.shape[1:]) for part in parts))

    def rate_jet(self, theta: Tensor, centre: Tensor | None = None) -> Jet:
        """Return the jet of mu for theta (*, K)."""
        return autograd_log_jet(lambda t: self.expected_events(t).log(), theta)


BACKGROUND = BandSource(2.0, 0.45, GENERATED_RATE)
SIGNAL = BandSource(6.0, 0.25, 20.0, NuisanceSpace())

PARAMETERS = ParameterSet(
    (
        Parameter("livetime", "livetime", 1.0, fittable=False),
        Parameter("signal", "rate", 0.3, 0.0, 20.0),
        Parameter("background", "rate", 1.0, 0.0, 5.0),
        Parameter("t", "shape", 0.0, -2.5, 2.5),
    ),
    (GaussianConstraint("background", 0.05, 1.0), GaussianConstraint("t", 1.0, 0.0)),
)


def write_events(path: Path, seed: int) -> None:
    """Simulate the background at random t and write an event file."""
    generator = torch.Generator().manual_seed(seed)
    theta = 5.0 * torch.rand(BLOCKS, 1, generator=generator, dtype=torch.float64) - 2.5
    made = torch.full((BLOCKS,), float(PER_BLOCK), dtype=torch.float64)
    kept = torch.binomial(made, BACKGROUND.acceptance(theta), generator=generator).long()
    block = torch.arange(BLOCKS).repeat_interleave(kept)
    x = BACKGROUND.sample(len(block), theta[block], generator)
    schema = EventSchema(PLANE, SHAPE, GENERATED_RATE)
    writer = EventWriter(path, schema, {"seed": seed})
    blocks = Blocks(theta.numpy(), made.long().numpy(), kept.numpy())
    writer.write(0, Segment(blocks, x.numpy().astype(np.float32), block.numpy().astype(np.int32)))
    writer.finish(1)


def retrain(folder: Path, seed: int, members: int, steps: int) -> Source:
    """Train an ensemble on fresh events."""
    write_events(folder / f"{seed}.h5", seed)
    config = TrainConfig.model_validate(
        {
            "name": f"band{seed}",
            "checkpoint": str(folder / f"band{seed}"),
            "runs": str(folder / "runs"),
            "data": {"events": [str(folder / f"{seed}.h5")], "validation_fraction": 0.1},
            "flow": {"hidden": 16, "components": 4, "blocks": 1},
            "optimiser": {
                "algorithm": "adamw",
                "batch_size": 512,
                "steps": steps,
                "learning_rate": 0.01,
                "ema_decay": 0.99,
            },
            "stopping": {"check_every": 50},
            "acceptance": {"max_degree": 3},
            "ensemble": {"members": members, "bootstrap": "poisson"},
            "seed": seed,
        }
    )
    train(config, shown=False)
    return load_checkpoint(folder / f"band{seed}")


def draw(seed: int) -> Dataset:
    """Draw a data set of signal and background."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for source, multiplier in ((BACKGROUND, 1.0), (SIGNAL, 0.3)):
        theta = source.nuisances.nominal()
        mean = multiplier * source.expected_events(theta)
        parts.append(source.sample(int(torch.poisson(mean, generator=generator)), theta, generator))
    return Dataset({"run": EventData(torch.cat(parts))}, {"background": 1.0, "t": 0.0})


def likelihood_of(background: Source, data: Dataset) -> Likelihood:
    """Return the likelihood with some source for the background."""
    sources = (RunSource("signal", SIGNAL, "signal", {}), RunSource("band", background, "background", {"t": "t"}))
    return Likelihood(PARAMETERS, (ScienceRun("run", PLANE, sources, ("livetime",)),), data)


def pulls_of(background: Source, data: Dataset) -> dict[str, float]:
    """Return the pulls of the upper limit and of the best fits, and the quoted error of the limit over the limit."""
    exact = confidence_interval(likelihood_of(BACKGROUND, data), "signal", 0.9, "upper")
    likelihood = likelihood_of(background, data)
    found = confidence_interval(likelihood, "signal", 0.9, "upper")
    error = surrogate_error(likelihood, found.best_fit, found)
    if error is None or not error.upper or found.upper.value is None or exact.upper.value is None:
        raise RuntimeError("a limit was not found")
    fits = exact.best_fit.values, found.best_fit.values
    pulls = {name: (fits[1][name] - fits[0][name]) / error.values[name] for name in ("background", "t")}
    pulls["limit"] = (found.upper.value - exact.upper.value) / error.upper
    return pulls | {"quoted": error.upper / exact.upper.value}


def half_width(pulls: Array) -> float:
    """Return half of the central interval that holds 68.3 % of the pulls."""
    low, high = np.quantile(pulls, [0.1587, 0.8413])
    return float(high - low) / 2


def summary(pulls: Array, seed: int = 0) -> dict[str, float]:
    """Return width, rms and mean of pulls (retrainings, data sets), with bootstrap errors over the former."""
    generator = np.random.default_rng(seed)
    measures = {"width": half_width, "rms": lambda p: float(np.sqrt(np.square(p).mean())), "mean": np.mean}
    again = [pulls[generator.integers(len(pulls), size=len(pulls))] for _ in range(500)]
    found = {}
    for name, measure in measures.items():
        found[name] = float(measure(pulls))
        found[f"{name} error"] = float(np.std([measure(p) for p in again]))
    return found


def main() -> int:
    """Retrain, print, and return the exit code: 1 where the width of the limit's pull is not 1 within its error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--retrainings", type=int, default=20)
    parser.add_argument("--members", type=int, default=6)
    parser.add_argument("--data-sets", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    begin, rows = time.process_time(), []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1, arguments.retrainings + 1):
            background = retrain(Path(folder), seed, arguments.members, arguments.steps)
            rows.append([pulls_of(background, draw(1000 * seed + k)) for k in range(arguments.data_sets)])
    tables = {name: np.array([[pulls[name] for pulls in row] for row in rows]) for name in rows[0][0]}
    found = {name: summary(table) for name, table in tables.items() if name != "quoted"}
    seconds = time.process_time() - begin
    console = Console(soft_wrap=True)
    console.print("| result | width of its pulls | rms | mean |\n|---|---|---|---|")
    for name, row in found.items():
        cells = (f"{row[m]:.2f} +- {row[f'{m} error']:.2f}" for m in ("width", "rms", "mean"))
        console.print(f"| {name} | {' | '.join(cells)} |")
    console.print(f"quoted error of a limit: {100 * tables['quoted'].mean():.1f} % of it")
    console.print(f"{len(rows)} retrainings of {arguments.members} members, {seconds:.0f} CPU s")
    if arguments.json:
        tables_as_lists = {name: table.tolist() for name, table in tables.items()}
        content = {"summary": found, "pulls": tables_as_lists, "cpu_seconds": seconds}
        arguments.json.write_text(json.dumps(content, indent=2))
    limit = found["limit"]
    return 0 if abs(limit["width"] - 1) <= 0.15 + 2 * limit["width error"] else 1


if __name__ == "__main__":
    sys.exit(main())
