"""The unbinned search: best fit and interval from cold checkpoints, toys from event pools, and how exact they are.

python benchmarks/unbinned.py [--model configs/models/xenon1t_like.yaml] [--quick]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from measure import copy_rate, measure, multiply_rate, once
from records import Record, finish, parser

from inference.fits.fit import fit
from inference.intervals.confidence import confidence_interval
from inference.intervals.expanded_fit import expand_at_maximum, expanded_interval
from inference.likelihood.extended import Likelihood
from inference.model import StatisticalModel
from inference.pools.builder import build_pool
from inference.pools.choice import PoolChoice
from inference.pools.event_pool import EventPool
from inference.pools.pairs import QUICK
from inference.pools.region import toy_region
from inference.reports.report import default_poi
from inference.studies.neyman import profiled_points
from inference.studies.toy_pairs import run_pairs
from inference.toys.toy_fits import ToyFits, fit_likelihood_pairs, fit_pairs
from surrogate.flow_source import FlowSource

#: A new process that loads the model, draws data, fits them and sets the limit.
COLD = """
import sys, torch
torch.set_num_threads(1)
from inference.model import StatisticalModel
from inference.reports.report import default_poi
model = StatisticalModel.from_config(sys.argv[1], allow_uncertified=True)
model.data = model.generate_data(seed=1)
print(model.interval(default_poi(model.parameters), 0.9).upper.value)
"""
#: Forward pass and gradient of a network, in multiplications by its weights.
PASSES = 3
#: The model of the second set of toys: a parameter, its value, and the parameter of interest.
OTHER = ("livetime", 2.0, "nr_rate_multiplier")


def weights(likelihood: Likelihood) -> int:
    """Return the number of weights of all flows."""
    flows = (c.source for run in likelihood.runs for c in run.sources if isinstance(c.source, FlowSource))
    return sum(t.numel() for source in flows for name, t in source.tensors().items() if name.startswith("flow."))


def interval_records(model: StatisticalModel, path: Path, repeats: int) -> list[Record]:
    """Return the figures of fits and intervals of one data set."""
    likelihood, poi = model.likelihood, default_poi(model.parameters)
    n_events = int(likelihood.data.total_weight())
    what = f"{n_events} events, {sum(len(r.sources) for r in model.runs)} sources, "
    what += f"{sum(p.fittable for p in model.parameters.parameters)} parameters"
    cold = once(lambda: subprocess.run([sys.executable, "-c", COLD, str(path)], check=True, stdout=subprocess.DEVNULL))
    load = once(lambda: StatisticalModel.from_config(path, allow_uncertified=True))
    quick = measure(lambda: expanded_interval(likelihood, poi, 0.9), repeats)
    slow = measure(lambda: confidence_interval(likelihood, poi, 0.9), repeats)
    best = measure(lambda: fit(likelihood), repeats)
    a, b = expanded_interval(likelihood, poi, 0.9).upper.value, confidence_interval(likelihood, poi, 0.9).upper.value
    expansion, _ = expand_at_maximum(likelihood)
    # three networks of equal size share the evaluations
    operations = (
        2 * PASSES * weights(likelihood) * expansion.report.n_densities / sum(len(r.sources) for r in model.runs)
    )
    floor = operations / multiply_rate(torch.float32)
    return [
        Record(
            "new process: imports, checkpoints, best fit, 90 % interval",
            cold.cpu_s,
            "CPU s",
            target=5.0,
            cost=cold,
            note=what,
        ),
        Record("load the model", load.cpu_s, "CPU s", cost=load),
        Record(
            "best fit and 90 % interval, expanded, exact at the ends",
            quick.cpu_s,
            "CPU s",
            floor=floor,
            floor_text=f"{expansion.report.n_densities} densities with slopes, {PASSES} passes each, at the rate of a "
            "large product of matrices in single precision",
            cost=quick,
            note=what,
        ),
        Record("the same, exact throughout", slow.cpu_s, "CPU s", cost=slow),
        Record("best fit, exact throughout", best.cpu_s, "CPU s", cost=best),
        Record(
            "relative difference of the two limits",
            abs(a / b - 1) if a is not None and b is not None else float("nan"),
            "",
            target=1e-5,
            scales=False,
        ),
        Record("error of -2 ln Lambda of the expansion", expansion.report.error, "", target=0.01, scales=False),
    ]


def pool_of(model: StatisticalModel, points: torch.Tensor) -> EventPool:
    """Return a pool for toys at some points."""
    options = PoolChoice().options
    region, values = toy_region(model.parameters, model.runs, points, options.radius)
    return build_pool(model.parameters, model.runs, values, region, options)


def toy_records(model: StatisticalModel, poi: str, n_toys: int, n_exact: int, label: str = "") -> list[Record]:
    """Return the figures of toys."""
    limit = confidence_interval(model.likelihood, poi, 0.9).upper.value or 1.0
    points = profiled_points(model.likelihood, poi, [0.0, limit])
    pools: list[EventPool] = []
    build = once(lambda: pools.append(pool_of(model, points)))
    pool, mu = pools[0], points[1, model.parameters.index(poi)]
    toys = torch.arange(n_toys)

    def fits() -> None:
        for some in toys.split(pool.portion):
            fit_likelihood_pairs(pool.draw(points[1], some, 1), poi, mu.expand(len(some)), points[1], QUICK)

    fitted = once(fits)
    studied = once(lambda: run_pairs(model.parameters, model.runs, poi, points[1:], n_toys, 1, pool=pool))
    sample = pool.draw(points[1], toys[:n_exact], 1)
    held = mu.expand(n_exact)
    exact: list[ToyFits] = []
    exact_cost = once(lambda: exact.append(fit_pairs(model.parameters, model.runs, sample.data, poi, held, points[1])))
    pairs = run_pairs(model.parameters, model.runs, poi, points[1:], n_exact, 1, pool=pool)
    quick = fit_likelihood_pairs(sample, poi, held, points[1], QUICK)
    t, found, raw = (2 * (f.ll_free - f.ll_conditional) for f in (exact[0], pairs.fits, quick.record()))
    evaluations = float((quick.free.evaluations + quick.conditional.evaluations).double().mean())
    functions = sum(len(table.basis) for run in pool.pools.values() for table in run.tables.values())
    n_events = float(sample.data.total_weight().mean())
    floor = 2 * copy_rate() / (2 * evaluations * n_events * functions * 8)
    text = f"{evaluations:.1f} evaluations a pair, each reads {n_events:.0f} x {functions} numbers twice"
    rates = [
        ("profile fits to toys, on the expansion", 2 * n_toys, fitted, 50.0, floor, text),
        ("profile fits to toys in a study", 2 * n_toys, studied, 50.0, None, ""),
        ("profile fits to toys, exact throughout", 2 * n_exact, exact_cost, None, None, ""),
    ]
    errors = [
        ("largest error of t of toys, on the expansion", float(abs(raw - t).max()), None),
        ("root-mean-square error of t of toys in a study", float(((found - t) ** 2).mean() ** 0.5), None),
        ("largest error of t of toys in a study", float(abs(found - t).max()), 0.01),
        ("toys refitted with exact densities", float((pairs.fits.refits > 0).mean()), None),
    ]
    about = f"{functions} functions of the nuisances"
    return [
        Record(label + "build an event pool", build.cpu_s, "CPU s", cost=build, note=about),
        *(
            Record(label + name, n / cost.cpu_s, "per CPU s", "higher", target, floor=least, floor_text=how, cost=cost)
            for name, n, cost, target, least, how in rates
        ),
        *(Record(label + name, value, "", target=target, scales=False) for name, value, target in errors),
    ]


def main() -> int:
    """Measure, print and store."""
    made = parser(__doc__)
    made.add_argument("--model", type=Path, default=Path("configs/models/xenon1t_like.yaml"))
    options = made.parse_args()
    model = StatisticalModel.from_config(options.model, allow_uncertified=True)
    model.data = model.generate_data(seed=1)
    records = interval_records(model, options.model, 1 if options.quick else 3)
    n_toys, n_exact = (100, 4) if options.quick else (1000, 32)
    records += toy_records(model, default_poi(model.parameters), n_toys, n_exact)
    # another model than that on which pools were tuned: another signal, another exposure
    other = StatisticalModel.from_config(options.model, nominal_values={OTHER[0]: OTHER[1]}, allow_uncertified=True)
    other.data = other.generate_data(seed=2)
    records += toy_records(other, OTHER[2], n_toys // 2, n_exact // 2, f"{OTHER[2]}, {OTHER[0]} {OTHER[1]:g}: ")
    return finish("unbinned", f"python benchmarks/unbinned.py --model {options.model}", records, options)


if __name__ == "__main__":
    raise SystemExit(main())
