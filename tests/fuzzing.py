"""Fits and limits of random models on random data sets, and what is wrong with any of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from analytic_sources import UNIT
from random_models import random_model
from torch import Tensor

from inference.data.dataset import DataBatch, Dataset, data_batch, event_data
from inference.fits.batch_fit import fit_batch
from inference.intervals.asymptotics import critical_value
from inference.intervals.confidence import IntervalBatch, interval_batch
from inference.intervals.statistics import evaluate
from inference.likelihood.extended import Likelihood
from inference.minimize import FitStatus
from inference.parameters import ParameterSet
from inference.profiles.crossing_records import Crossings, CrossingStatus
from inference.science_run import ScienceRun, expected_counts
from inference.toys.draws import draw_toys

#: Data sets of each model: its own, an empty one, uniform events, toys.
SETS = 25
TOYS = 12
CRITICAL = critical_value(0.9)
#: Where the signal is tested besides the limits.
TESTED = (0.0, 30.0)
#: -2 ln Lambda below this is a free fit that missed the maximum.
LOWEST = -1e-3
#: |t - c| at a limit, fitted again by itself, above this is a wrong limit.
CLOSE = 1e-4
#: More conditional fits than this are a long search, and a larger reach than this is a look at absurd values.
LONG, FAR = 12, 100.0


class WatchedLikelihood(Likelihood):
    """Notes the largest value of the first parameter at which each data set was evaluated since :meth:`watch`."""

    seen: Tensor = torch.zeros(0)

    def watch(self) -> None:
        """Begin to watch."""
        self.seen = torch.zeros(self.n_datasets, dtype=torch.float64)

    def derivatives(
        self, values: Tensor, rows: Tensor | None = None, centre: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the derivatives."""
        if len(self.seen):
            self.seen.scatter_reduce_(0, self.rows(len(values), rows), values[:, 0], "amax")
        return super().derivatives(values, rows, centre)


@dataclass
class FuzzCounts:
    """What was seen.

    Attributes
    ----------
    fits
        Data sets fitted, each with a search for both ends.
    cases
        Data sets by what is special about them.
    faults
        Kind of fault -> the (seed, data set) that have it.
    conditional_fits
        Of every search that found an end, or that there is none before the bound.
    reach
        Signal events expected at the furthest point that a search looked at, over the number of events seen or that
        expected at the limit, whichever is larger; of every upper limit found.
    refits, higher
        Free fits, from one start, that were repeated from a higher point: one that a search for limits came by, one
        that the test of a fixed signal came by. Models with several maxima have them.
    """

    fits: int = 0
    cases: Counter[str] = field(default_factory=Counter)
    faults: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    conditional_fits: list[int] = field(default_factory=list)
    reach: list[float] = field(default_factory=list)
    refits: int = 0
    higher: int = 0

    def fault(self, kind: str, seed: int, where: Tensor) -> None:
        """Note the data sets that have a fault (T,)."""
        found = [(seed, k) for k in where.nonzero().flatten().tolist()]
        if found:
            self.faults.setdefault(kind, []).extend(found)

    def count(self, kind: str) -> int:
        """Return how many data sets have a fault."""
        return len(self.faults.get(kind, ()))


def uniform_set(runs: tuple[ScienceRun, ...], pick: random.Random, generator: torch.Generator) -> Dataset:
    """Return events that owe nothing to the model."""
    events = {}
    for run in runs:
        x = torch.rand(pick.choice((0, 1, 3, 12, 60)), 1, generator=generator, dtype=torch.float64)
        events[run.name] = event_data(UNIT, x ** pick.choice((1, 3)))
    return Dataset(events, {})


def toy_sets(parameters: ParameterSet, runs: tuple[ScienceRun, ...], seed: int, mu: float) -> list[Dataset]:
    """Return toys of the model with their own ancillary centres."""
    drawn = draw_toys(parameters, runs, parameters.vector({"mu": mu}), torch.arange(TOYS), seed).data
    sets = []
    for t in range(TOYS):
        events = {r.name: event_data(UNIT, drawn.x[r.name][t][drawn.weights[r.name][t] > 0]) for r in runs}
        sets.append(Dataset(events, dict(zip(parameters.ancillary_names, drawn.centres[t].tolist(), strict=True))))
    return sets


def random_problem(seed: int) -> tuple[ParameterSet, tuple[ScienceRun, ...], DataBatch]:
    """Return a random model and :data:`SETS` data sets."""
    parameters, runs, own = random_model(seed)
    pick = random.Random(-seed)  # noqa: S311
    generator = torch.Generator().manual_seed(seed)
    empty = Dataset({run.name: event_data(UNIT, torch.zeros(0, 1)) for run in runs}, {})
    toys = toy_sets(parameters, runs, seed, pick.choice((0.0, 1.0, 10.0)))
    uniform = [uniform_set(runs, pick, generator) for _ in range(SETS - 2 - TOYS)]
    return parameters, runs, data_batch(parameters, runs, [own, empty, *uniform, *toys])


def fuzz_model(seed: int, counts: FuzzCounts) -> None:
    """Fit a random model to its data sets, search both ends, and note what is wrong."""
    parameters, runs, data = random_problem(seed)
    likelihood = WatchedLikelihood(parameters, runs, data)
    counts.fits += len(data)
    everywhere = torch.ones(len(data), dtype=torch.bool)
    try:
        best = fit_batch(likelihood)
        likelihood.watch()
        found = interval_batch(likelihood, "mu", CRITICAL, best=best)
        seen = likelihood.seen.clone()
    except Exception:  # noqa: BLE001  whatever it is, it is what is looked for
        counts.fault("exception", seed, everywhere)
        return
    _judge_fits(likelihood, found, seed, counts)
    for end in (found.lower, found.upper):
        if end is not None:
            _judge_end(likelihood, found, end, seed, counts)
    counts.refits += int((found.refits > 0).sum())
    if found.upper is not None:
        there = found.upper.status == int(CrossingStatus.FOUND)
        per_unit = _signal(parameters, runs)
        reach = per_unit * seen / torch.maximum(data.total_weight(), per_unit * found.upper.value)
        counts.reach += reach[there].tolist()
        counts.fault("looked far out", seed, there & (reach > FAR))
    for case, rows in _cases(parameters, runs, likelihood, found).items():
        counts.cases[case] += int(rows.sum())


def _judge_fits(likelihood: Likelihood, found: IntervalBatch, seed: int, counts: FuzzCounts) -> None:
    """Note free fits that did not converge, or missed the maximum, or hold numbers that are none."""
    best = found.best
    impossible = best.status == int(FitStatus.NON_FINITE)
    counts.fault("not converged", seed, ~best.success & ~impossible)
    counts.fault("called impossible, and is not", seed, impossible & _is_possible(likelihood))
    finite = torch.isfinite(best.values).all(dim=-1) & torch.isfinite(best.log_likelihood)
    counts.fault("unflagged NaN or infinity", seed, best.success & ~finite)
    inside = ((best.values >= likelihood.lower) & (best.values <= likelihood.upper)).all(dim=-1)
    counts.fault("outside the bounds", seed, ~inside)
    n = len(best)
    rows, tested = torch.arange(n).repeat(len(TESTED)), torch.tensor(TESTED, dtype=torch.float64).repeat_interleave(n)
    tests = evaluate(likelihood, "mu", tested, rows=rows, free=best.take(rows))
    possible = best.success[rows] & torch.isfinite(tests.conditional.log_likelihood)
    lost = (possible & ~tests.valid).reshape(-1, n)
    counts.fault("-2 ln Lambda < -1e-3", seed, lost.any(dim=0))
    counts.higher += int((tests.refits.reshape(-1, n) > 0).any(dim=0).sum())


def _judge_end(likelihood: Likelihood, found: IntervalBatch, end: Crossings, seed: int, counts: FuzzCounts) -> None:
    """Note searches that failed, and limits that are none when fitted again."""
    there = end.status == int(CrossingStatus.FOUND)
    counts.fault("search failed", seed, found.best.success & (end.status == int(CrossingStatus.FAILED)))
    ended = there | (end.status == int(CrossingStatus.NO_CROSSING))
    counts.conditional_fits += end.fits[ended].tolist()
    counts.fault("long search", seed, end.fits > LONG)
    counts.fault("unflagged NaN or infinity", seed, found.best.success & ~torch.isfinite(end.value + end.t))
    counts.fault("-2 ln Lambda < -1e-3", seed, found.best.success & (end.t < LOWEST))
    rows = there.nonzero().flatten()
    if len(rows):
        again = fit_batch(likelihood, {"mu": end.value[rows]}, rows, end.conditional.values[rows])
        t = 2 * (found.best.log_likelihood[rows] - again.log_likelihood)
        counts.fault("wrong limit", seed, torch.zeros_like(there).index_put((rows,), (t - CRITICAL).abs() > CLOSE))


def _is_possible(likelihood: Likelihood) -> Tensor:
    """Return for which data sets (T,) ln L is finite at one of many points."""
    high = torch.minimum(likelihood.upper, torch.tensor(20.0, dtype=torch.float64))
    u = torch.rand(64, len(high), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values = likelihood.lower + (high - likelihood.lower) * u
    values[:, likelihood.parameters.index("livetime")] = 1.0
    n = likelihood.n_datasets
    log_l = likelihood.log_likelihood(values.repeat(n, 1), torch.arange(n).repeat_interleave(64))
    return torch.isfinite(log_l).reshape(n, 64).any(dim=-1)


def _signal(parameters: ParameterSet, runs: tuple[ScienceRun, ...]) -> float:
    """Return the expected events of the signal, the first source of every run, per unit of its rate."""
    nominal = parameters.vector({"mu": 1.0}).unsqueeze(0)
    return sum(float(expected_counts(parameters, run, nominal)[0, 0]) for run in runs)


def _explained_by_one(parameters: ParameterSet, runs: tuple[ScienceRun, ...], data: DataBatch) -> Tensor:
    """Return which data sets (T,) have an event at which the densities of all sources but one are zero."""
    nominal, found = parameters.mapping(parameters.nominal()), torch.zeros(len(data), dtype=torch.bool)
    for run in runs:
        x = data.x[run.name]
        thetas = [[nominal[d] if isinstance(d, str) else d for d in c.drivers] for c in run.sources]
        pairs = zip(run.sources, thetas, strict=True)
        log_f = [c.source.log_prob(x, torch.tensor(t, dtype=torch.float64).expand(*x.shape[:-1], -1)) for c, t in pairs]
        alone = torch.isfinite(torch.stack(log_f)).sum(dim=0) == 1
        found |= (alone & (data.weights[run.name] > 0)).any(dim=-1) & (len(run.sources) > 1)
    return found


def _cases(
    parameters: ParameterSet, runs: tuple[ScienceRun, ...], likelihood: Likelihood, found: IntervalBatch
) -> dict[str, Tensor]:
    """Return what is special about the data sets: case -> bool (T,)."""
    every = torch.ones(likelihood.n_datasets, dtype=torch.bool)
    nominal = parameters.nominal().unsqueeze(0)
    rates = torch.cat([expected_counts(parameters, run, nominal)[0] for run in runs])
    signal = _signal(parameters, runs)
    widths = parameters.constraint_widths()
    limit = torch.zeros(len(every), dtype=torch.float64)
    if found.upper is not None:
        limit = torch.where(found.upper.status == int(CrossingStatus.FOUND), found.upper.value, 0.0)
    return {
        "no events": likelihood.data.total_weight() == 0,
        "an event that one source alone explains": _explained_by_one(parameters, runs, likelihood.data),
        "a source without rate": every & bool((rates == 0).any()),
        "a signal of 2e-3 events per unit": every & (0 < signal < 1e-2),
        "a limit above 100 units": limit > 100,
        "a constraint of width 1e-3": every & bool((widths <= 1e-3).any()),
        "a constraint of width 1e3": every & bool((widths == 1e3).any()),
        "impossible data": found.best.status == int(FitStatus.NON_FINITE),
    }


def fuzz(seeds: Iterable[int]) -> FuzzCounts:
    """Fit the random models of some seeds."""
    counts = FuzzCounts()
    for seed in seeds:
        fuzz_model(seed, counts)
    return counts
