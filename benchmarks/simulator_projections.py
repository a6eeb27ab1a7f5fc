"""Binned projections of the shipped flows against fresh events of the simulator, a million at each of ten thetas.

Run: python benchmarks/simulator_projections.py [--sources er nr wimp50] [--events N] [--checkpoints DIR] [--output DIR]

At ten points of theta = (t_ly, t_qy, elife, g1) that fill the ranges evenly, N events of the simulator and 2 N of the
flow are compared in all two-dimensional projections, in 16 x 16 bins of equal contents in the margins, by the
chi-square of two samples. Stated are chi-square per degree of freedom over all projections, the number of projections
with p < 0.01, of which one in a hundred is expected by chance, and the largest r.m.s. deviation of bins beyond noise.

A source of which few generated events are accepted (solar neutrinos, wall) takes hours at a million a theta.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from measure import cpu_seconds
from records import Record, finish, parser
from rich.progress import track
from torch import Tensor

from surrogate import load_checkpoint
from surrogate.flow_source import FlowSource
from surrogate.nuisance import NuisanceSpace
from training.event_set import UnitEvents, unit_events
from training.simulation_plan import SimulationPlan
from training.simulator_config import read_simulation
from training.validation_comparison import Projection, projection_tests
from training.validation_sample import FreshSample

THETAS = 10
DRAWN = 2
"""Events of the flow per event of the simulator."""
CHUNK = 200_000
SEED = 7_100_000
RARE = 0.01


def thetas(nuisances: NuisanceSpace) -> Tensor:
    """Return points (10, K) that fill the ranges evenly."""
    low, high = nuisances.bounds(torch.zeros(0, dtype=torch.float64))
    u = torch.quasirandom.SobolEngine(nuisances.dim, scramble=True, seed=77).draw(THETAS, dtype=torch.float64)
    return low + (high - low) * u


def projections_at(source: FlowSource, plan: SimulationPlan, theta: Tensor, n: int, number: int) -> list[Projection]:
    """Return the comparison of n events and more at one theta (K,)."""
    fixed = tuple(zip(plan.nuisances.names, theta.tolist(), strict=True))
    endless = {"n_generated": 2**62, "block_size": 1 << 16, "batch_blocks": 4}
    here = replace(plan, nuisances=NuisanceSpace(), fixed=fixed, seed=SEED + number, **endless)
    fresh = FreshSample.simulate(here, n).events
    generator = torch.Generator().manual_seed(number)
    drawn = []
    for first in range(0, DRAWN * n, CHUNK):
        x = source.sample(min(CHUNK, DRAWN * n - first), theta, generator)
        drawn.append(unit_events(source.observables, x, theta.new_zeros(len(x), 0)))
    both = fresh, UnitEvents.join(drawn)
    cells = tuple(torch.zeros(sample.size, dtype=torch.int64) for sample in both)
    return projection_tests(source.flow, *both, (cells[0], cells[1]))


def records_of(name: str, source: FlowSource, plan: SimulationPlan, n: int) -> Iterator[Record]:
    """Return the figures of one source."""
    start = cpu_seconds()
    found: list[Projection] = []
    for number, theta in enumerate(track(thetas(plan.nuisances), description=name)):
        found += projections_at(source, plan, theta, n, number)
    chi2, n_dof = math.fsum(p.chi2 for p in found), sum(p.n_dof for p in found)
    worst = max(found, key=lambda p: p.deviation2)
    note = f"{n} events at each of {THETAS} thetas, {DRAWN} of the flow for each; {cpu_seconds() - start:.0f} CPU s"
    yield Record(f"{name}: chi2 per degree of freedom", chi2 / n_dof, "", scales=False, note=note)
    rare = sum(p.p_value < RARE for p in found)
    note = f"of {len(found)} projections; smallest p {min(p.p_value for p in found):.1g}"
    yield Record(f"{name}: projections with p < {RARE}", rare, "", target=RARE * len(found), scales=False, note=note)
    note = f"({worst.names[0]}, {worst.names[1]}), p = {worst.p_value:.1g}"
    deviation = 100 * math.sqrt(max(worst.deviation2, 0.0))
    yield Record(f"{name}: largest r.m.s. deviation of the bins", deviation, "%", scales=False, note=note)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare all sources that are asked for."""
    made = parser(__doc__)
    made.add_argument("--sources", nargs="+", default=["er", "nr", "wimp50"])
    made.add_argument("--events", type=int, default=1_000_000, help="of the simulator, at each theta")
    made.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    options: argparse.Namespace = made.parse_args(arguments)
    n = options.events // 10 if options.quick else options.events
    records: list[Record] = []
    for name in options.sources:
        source = load_checkpoint(options.checkpoints / f"xenon1t_like_{name}")
        plan = read_simulation(Path(f"configs/simulate/xenon1t_{name}.yaml"))
        records += records_of(name, source, plan, n)
    return finish("simulator_projections", "python benchmarks/simulator_projections.py", records, options)


if __name__ == "__main__":
    raise SystemExit(main())
