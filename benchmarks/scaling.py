"""Cost against events, toys, sources and nuisance parameters, and on one and two cores.

Run: python benchmarks/scaling.py [--figure FILE] [--output DIR] [--quick]

The model is unbinned, its sources are flows of three observables with random weights and 32 hidden units. What is timed
is ln L with gradient and Hessian from the exact densities, which is what a step of a fit costs, and toys with two fits
each. Slopes are those of the logarithms over the upper half of each range: 1 is linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from measure import Cost, Work, once, side_by_side
from records import Record, finish, parser

from inference.data.dataset import Dataset, EventData, data_batch
from inference.likelihood.extended import Likelihood
from inference.parameters import Parameter, ParameterSet
from inference.reports.plots import COLOURS, save_figure
from inference.science_run import RunSource, ScienceRun
from inference.studies.study import ProcessExecutor, StudyPlan
from inference.studies.toy_pairs import run_pairs
from surrogate.acceptance import fit_acceptance
from surrogate.flow import ConditionalFlow
from surrogate.flow_config import FlowConfig
from surrogate.flow_source import FlowSource
from surrogate.nuisance import Nuisance, NuisanceSpace
from surrogate.observables import Observable, ObservableSpace

OBSERVABLES = ObservableSpace(
    (
        Observable("cs1", "PE", 2.0, 70.0, "log", offset=1.5),
        Observable("cs2", "PE", 100.0, 6000.0, "log"),
        Observable("drift_time", "us", 0.0, 700.0),
    )
)
EVENTS, SOURCES, NUISANCES, TOY_EVENTS = 500, 2, 2, 30
AXES = ("events", "sources", "nuisances", "toys")

Curve = tuple[list[int], list[Cost]]


def source(n_nuisances: int, seed: int) -> FlowSource:
    """Return a flow with random weights and an acceptance that depends on every parameter."""
    space = NuisanceSpace(tuple(Nuisance(f"t_{k}", "sigma", -3.0, 3.0, 0.0) for k in range(n_nuisances)))
    flow = ConditionalFlow(FlowConfig(OBSERVABLES, space, components=8, hidden=32), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in flow.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    theta = 6.0 * torch.rand(200, n_nuisances, generator=generator, dtype=torch.float64) - 3.0
    generated = torch.full((200,), 1000.0, dtype=torch.float64)
    accepted = torch.binomial(generated, torch.sigmoid(0.1 * theta.sum(dim=-1)), generator=generator)
    return FlowSource(flow, fit_acceptance(space, theta, generated, accepted, degree=1), 1000.0)


def model(n_events: int, n_sources: int, n_nuisances: int) -> tuple[ParameterSet, ScienceRun]:
    """Return parameters and run that expect a number of events in equal shares."""
    made = [source(n_nuisances, seed) for seed in range(n_sources)]
    drives = {f"t_{k}": f"t_{k}" for k in range(n_nuisances)}
    parameters = [Parameter("livetime", "livetime", 1.0, 0.0, 2.0, fittable=False)]
    parameters += [Parameter(f"s{c}_rate_multiplier", "rate", 1.0, 0.0, 100.0) for c in range(n_sources)]
    parameters += [Parameter(name, "shape", 0.0, -3.0, 3.0) for name in drives]
    nominal = torch.zeros(n_nuisances, dtype=torch.float64)
    members = [
        RunSource(
            f"s{c}",
            s,
            f"s{c}_rate_multiplier",
            drives,
            (),
            n_events / n_sources / float(s.expected_events(nominal)),
        )
        for c, s in enumerate(made)
    ]
    return ParameterSet(tuple(parameters)), ScienceRun("run", OBSERVABLES, tuple(members), ("livetime",), None)


def evaluation(n_events: int, n_sources: int, n_nuisances: int) -> Work:
    """Return what evaluates ln L with gradient and Hessian."""
    parameters, run = model(n_events, n_sources, n_nuisances)
    generator, nominal = torch.Generator().manual_seed(5), torch.zeros(n_nuisances, dtype=torch.float64)
    share = [n_events // n_sources + (c < n_events % n_sources) for c in range(n_sources)]
    x = torch.cat([c.source.sample(n, nominal, generator) for c, n in zip(run.sources, share, strict=True)])
    data = data_batch(parameters, (run,), [Dataset({"run": EventData(x)}, {})])
    likelihood, point = Likelihood(parameters, (run,), data), parameters.nominal()[None]
    return lambda: likelihood.derivatives(point)


def evaluations(sizes: Sequence[tuple[int, int, int]], repeats: int) -> list[Cost]:
    """Return the cost of evaluations at several numbers of events, sources and nuisances, all run in turn."""
    return list(side_by_side({str(size): evaluation(*size) for size in sizes}, repeats).values())


def toys(n_toys: int, workers: int = 0) -> Cost:
    """Return the cost of toys with two fits each, in this process or in others."""
    parameters, run = model(TOY_EVENTS, SOURCES, NUISANCES)
    points = parameters.nominal()[None]
    plan = StudyPlan(chunk_size=25, executor=ProcessExecutor(workers)) if workers else StudyPlan(chunk_size=25)
    return once(lambda: run_pairs(parameters, (run,), "s0_rate_multiplier", points, n_toys, 3, plan=plan))


def curves(quick: bool) -> dict[str, Curve]:
    """Return the cost along every axis."""
    repeats = 2 if quick else 7
    events = [100, 1_000, 10_000] if quick else [30, 100, 300, 1_000, 3_000, 10_000, 30_000]
    n_toys = [25, 50, 100] if quick else [25, 50, 100, 200, 400]
    few = [1, 2, 4, 8]
    toys(10)
    return {
        "events": (events, evaluations([(n, SOURCES, NUISANCES) for n in events], repeats)),
        "sources": (few, evaluations([(EVENTS, n, NUISANCES) for n in few], repeats)),
        "nuisances": (few, evaluations([(EVENTS, SOURCES, n) for n in few], repeats)),
        "toys": (n_toys, [toys(n) for n in n_toys]),
    }


def slope(x: Sequence[int], costs: Sequence[Cost]) -> float:
    """Return d ln cost / d ln x over the upper half of a curve."""
    start = len(x) // 2 - (len(x) == 3)
    return float(np.polyfit(np.log(x[start:]), np.log([c.cpu_s for c in costs[start:]]), 1)[0])


def records_of(found: dict[str, Curve], by_workers: dict[int, Cost], n_toys: int) -> list[Record]:
    """Return slopes, costs per unit and the gain from a second core."""
    records = []
    for axis in AXES:
        x, costs = found[axis]
        target = None if axis == "nuisances" else 1.1
        points = ", ".join(f"{n}: {c.cpu_s:.4g}" for n, c in zip(x, costs, strict=True))
        note = f"CPU s at {points}"
        records.append(Record(f"slope in {axis}", slope(x, costs), "", target=target, scales=False, note=note))
    x, costs = found["events"]
    per_event = 1e6 * costs[-1].cpu_s / (x[-1] * SOURCES)
    records.append(
        Record("ln L, gradient, Hessian per event and source, two nuisances", per_event, "CPU us", cost=costs[-1])
    )
    x, costs = found["toys"]
    records.append(
        Record(f"toy of {TOY_EVENTS} events with two exact fits", costs[-1].cpu_s / x[-1], "CPU s", cost=costs[-1])
    )
    gain = by_workers[1].wall_s / by_workers[2].wall_s
    note = f"{n_toys} toys, the start of the processes included"
    cost = by_workers[2]
    records.append(
        Record("wall time, one process over two", gain, "", "higher", floor=2.0, scales=False, cost=cost, note=note)
    )
    return records


def draw(found: dict[str, Curve]) -> Figure:
    """Draw the four curves with a line of slope 1."""
    figure = Figure(figsize=(9.6, 2.9), layout="constrained")
    for axes, axis, colour in zip(figure.subplots(1, 4), AXES, COLOURS[4:], strict=False):
        x, costs = found[axis]
        y = np.array([c.cpu_s for c in costs])
        axes.loglog(x, y, "o-", color=colour, lw=1.6, ms=4)
        axes.loglog(x, y[-1] * np.array(x) / x[-1], ls="--", color="#999999", lw=1, label="linear")
        axes.set(xlabel=axis, title=f"slope {slope(x, costs):.2f}")
        shown = x[:: 2 if len(x) > 5 else 1]
        axes.set_xticks(shown, [f"{n:g}" for n in shown])
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    figure.axes[0].set_ylabel("CPU seconds")
    figure.axes[0].legend(frameon=False)
    figure.axes[3].set_ylabel("CPU seconds")
    return figure


def main() -> int:
    """Measure, print, draw and write the figures."""
    arguments = parser(__doc__)
    arguments.add_argument("--figure", type=Path, default=Path("runs/benchmarks/scaling.png"))
    options = arguments.parse_args()
    found = curves(options.quick)
    n_toys = 50 if options.quick else 400
    by_workers = {workers: toys(n_toys, workers) for workers in (1, 2)}
    save_figure(draw(found), options.figure)
    return finish("scaling", "python benchmarks/scaling.py", records_of(found, by_workers, n_toys), options)


if __name__ == "__main__":
    raise SystemExit(main())
