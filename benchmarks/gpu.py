"""A Neyman construction, the evaluation and the training of flows on an accelerator; on the CPU where there is none.

One mass point as in alea's example: 10 values of the parameter of interest x 5000 toys x 3 fits (free, at the true
value, at zero), 150,000 profile fits. On the CPU the study is scaled down unless --toys says otherwise.

    python benchmarks/gpu.py [--device cuda|cpu] [--toys 5000] [--model configs/models/xenon1t_like.yaml]
"""

from __future__ import annotations

import copy
import time
from pathlib import Path

import torch
from measure import cpu_seconds
from records import Record, finish, parser

from inference.fits.batch_fit import fit_batch
from inference.intervals.confidence import confidence_interval
from inference.model import StatisticalModel
from inference.pools.builder import build_pool
from inference.pools.choice import PoolChoice
from inference.pools.event_pool import EventPool
from inference.pools.pairs import QUICK
from inference.pools.region import toy_region
from inference.reports.report import default_poi
from inference.studies.neyman import profiled_points
from inference.toys.draws import toy_index
from inference.toys.toy_fits import fit_likelihood_pairs
from surrogate.flow_source import FlowSource

#: Values of the parameter of interest, fits per toy, and toys of the full study.
POINTS, FITS, TOYS = 10, 3, 5000
#: Densities evaluated at a time, and events of a training step.
ROWS, BATCH = {"cuda": 1 << 20, "cpu": 1 << 15}, {"cuda": 1 << 16, "cpu": 1 << 12}


class Clock:
    """Wall and CPU seconds of what runs between start and stop, with the accelerator's work finished."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._begin = self._now()

    def _now(self) -> tuple[float, float]:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter(), cpu_seconds()

    def seconds(self) -> tuple[float, float]:
        """Return wall and CPU seconds since the start."""
        wall, cpu = self._now()
        return wall - self._begin[0], cpu - self._begin[1]


def pool_for(model: StatisticalModel, poi: str, points: torch.Tensor) -> EventPool:
    """Return the pool of the study."""
    options = PoolChoice().options
    region, values = toy_region(model.parameters, model.runs, points, options.radius)
    return build_pool(model.parameters, model.runs, values, region, options)


def construction(model: StatisticalModel, device: torch.device, n_toys: int) -> list[Record]:
    """Return the figures of the Neyman construction."""
    poi, likelihood = default_poi(model.parameters), model.likelihood
    limit = confidence_interval(likelihood, poi, 0.9).upper.value or 1.0
    points = profiled_points(likelihood, poi, torch.linspace(0.0, 1.5 * limit, POINTS, dtype=torch.float64).tolist())
    clock = Clock(device)
    pool = pool_for(model, poi, points)
    built, _ = clock.seconds()
    pool, column, lost = pool.on(device), model.parameters.index(poi), 0
    portion = max(1, pool.portion * (64 if device.type == "cuda" else 1))
    clock = Clock(device)
    for g, truth in enumerate(points):
        for toys in torch.arange(n_toys).split(portion):
            drawn = pool.draw(truth, toy_index(g, toys), 1)
            mu = truth[column].expand(len(toys))
            pairs = fit_likelihood_pairs(drawn, poi, mu, truth, QUICK)
            null = fit_batch(drawn, {poi: 0.0}, torch.arange(len(toys), device=device), pairs.free.values, QUICK)
            lost += int((~(pairs.free.success & pairs.conditional.success & null.success)).sum())
    wall, cpu = clock.seconds()
    fits = POINTS * n_toys * FITS
    full = POINTS * TOYS * FITS
    note = f"{fits} fits made on {device.type}, {lost} toys for the exact densities; the pool took {built:.1f} s"
    return [
        Record("profile fits", fits / wall, "1/s", better="higher", note=note),
        Record(
            "150,000 profile fits", wall * full / fits, "s", target=300.0 if device.type == "cuda" else None, note=note
        ),
        Record("150,000 profile fits, CPU time", cpu * full / fits, "CPU s", note=note),
    ]


def evaluation(source: FlowSource, device: torch.device) -> Record:
    """Return how many densities a second a flow evaluates."""
    moved = FlowSource(source.flow, source.acceptance, source.generated_rate, torch.float32, device)
    n = ROWS[device.type]
    theta = source.nuisances.nominal()
    x = source.sample(4096, theta, torch.Generator().manual_seed(1)).to(device, torch.float32)
    x = x.repeat(n // len(x), 1)
    rows = theta.to(device, torch.float32).expand(len(x), -1)
    with torch.no_grad():
        moved.log_prob(x, rows)
        repeats = 10
        clock = Clock(device)
        for _ in range(repeats):
            moved.log_prob(x, rows)
        wall, _ = clock.seconds()
    target = 5e7 if device.type == "cuda" else None
    return Record("densities", repeats * len(x) / wall, "1/s", better="higher", target=target, note="single precision")


def training(source: FlowSource, device: torch.device) -> Record:
    """Return how long one pass over ten million events takes in training, loading of events aside."""
    flow = copy.deepcopy(source.flow).to(device, torch.float32).train().requires_grad_(True)
    n = BATCH[device.type]
    theta = source.nuisances.nominal()
    x = source.sample(4096, theta, torch.Generator().manual_seed(1)).to(device, torch.float32).repeat(n // 4096, 1)
    rows = theta.to(device, torch.float32).expand(len(x), -1)
    optimiser = torch.optim.Adam(flow.parameters(), 1e-4)
    steps, clock = 10, Clock(device)
    for k in range(steps + 2):
        if k == 2:
            clock = Clock(device)
        optimiser.zero_grad()
        (-flow.log_prob(x, rows).mean()).backward()
        optimiser.step()
    wall, _ = clock.seconds()
    target = 300.0 if device.type == "cuda" else None
    return Record("one pass over 1e7 events in training", 1e7 * wall / (steps * len(x)), "s", target=target)


def main() -> int:
    """Measure, print and store."""
    made = parser(__doc__)
    made.add_argument("--model", type=Path, default=Path("configs/models/xenon1t_like.yaml"))
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--toys", type=int, default=None, help="per point; 5000 on an accelerator, 50 without")
    options = made.parse_args()
    device = torch.device(options.device)
    few = 10 if options.quick else 50
    n_toys = options.toys or (TOYS if device.type == "cuda" and not options.quick else few)
    model = StatisticalModel.from_config(options.model, allow_uncertified=True)
    model.data = model.generate_data(seed=1)
    source = next(c.source for run in model.runs for c in run.sources if isinstance(c.source, FlowSource))
    records = [*construction(model, device, n_toys), evaluation(source, device), training(source, device)]
    return finish("gpu", f"python benchmarks/gpu.py --device {device.type} --toys {n_toys}", records, options)


if __name__ == "__main__":
    raise SystemExit(main())
