"""Random models with random data, from harmless to pathological."""

from __future__ import annotations

import random

import torch
from analytic_sources import LIVETIME, UNIT, exponential_source, flat_source, gaussian_source, rate_parameter

from inference.constraints.gaussian import Constraint, GaussianConstraint, LogNormalConstraint, PoissonConstraint
from inference.data.dataset import Dataset, event_data
from inference.parameters import Parameter, ParameterSet
from inference.science_run import RunSource, ScienceRun
from surrogate.binning import Binning
from surrogate.source import Source
from surrogate.template import TemplateSource

#: Expected events of a source, from nothing to many.
RATES = (0.0, 2e-3, 0.3, 2.0, 10.0, 40.0)
WIDTHS = (1e-3, 0.1, 1.0, 30.0, 1e3)


def template(pick: random.Random, moving: bool, rate: float, binning: Binning) -> TemplateSource:
    """A histogram with empty bins; moving ones have kinks at their anchors."""
    generator = torch.Generator().manual_seed(pick.randrange(10**9))
    shape = (5, *binning.shape) if moving else binning.shape
    counts = torch.rand(shape, generator=generator, dtype=torch.float64)
    counts = counts * (torch.rand(binning.shape, generator=generator) > 0.3)
    counts = rate * counts / counts.sum(dim=-1, keepdim=True).clamp_min(1e-9)
    return TemplateSource(binning, {"t": (-2.0, -1.0, 0.0, 1.0, 2.0)} if moving else {}, counts)


def random_source(pick: random.Random, rate: float, binning: Binning | None) -> tuple[Source, dict[str, str | float]]:
    """A source and what drives its nuisances."""
    if binning is not None or pick.random() < 0.4:
        moving = pick.random() < 0.6
        grid = binning or Binning(("x",), (torch.linspace(0, 1, pick.choice((4, 12)) + 1),))
        return template(pick, moving, rate, grid), {"t": "kinked"} if moving else {}
    kind = pick.choice(("flat", "gauss", "moving gauss", "exponential"))
    if kind == "flat" or rate == 0.0:
        return flat_source(rate), {}
    if kind == "exponential":
        return exponential_source(rate), {"slope": "slope", "size": pick.choice(("size", 0.3))}
    shift = "shift" if kind == "moving gauss" else None
    source = gaussian_source(pick.uniform(0.1, 0.9), pick.choice((0.02, 0.2)), rate, shift)
    return source, {"shift": "shift"} if shift else {}


def random_constraint(pick: random.Random, name: str, nominal: float) -> list[Constraint]:
    """None, or one of a width between 1e-3 and 1e3."""
    kind = pick.choice(("none", "gauss", "gauss", "log", "poisson")) if nominal > 0 else "gauss"
    width = pick.choice(WIDTHS)
    if kind == "gauss":
        return [GaussianConstraint(name, width, nominal)]
    if kind == "log":
        return [LogNormalConstraint(name, min(width, 1.0), nominal)]
    return [PoissonConstraint(name, pick.choice((0.5, 20.0)), nominal)] if kind == "poisson" else []


def random_model(seed: int) -> tuple[ParameterSet, tuple[ScienceRun, ...], Dataset]:
    """One to two runs of one to four sources and 0 to 60 events; the parameter of interest is ``mu``."""
    pick = random.Random(seed)  # noqa: S311
    runs, rates = [], ["mu"]
    for r in range(pick.choice((1, 1, 2))):
        binning = Binning(("x",), (torch.linspace(0, 1, pick.choice((1, 5, 20)) + 1),)) if pick.random() < 0.4 else None
        sources = []
        for c in range(pick.choice((1, 2, 3, 4))):
            source, drivers = random_source(pick, pick.choice(RATES), binning)
            rate = "mu" if c == 0 else pick.choice((f"b{c}", "b1"))
            rates.append(rate)
            efficiencies = ("efficiency",) if pick.random() < 0.3 else ()
            sources.append(RunSource(f"s{c}", source, rate, drivers, efficiencies))
        runs.append(ScienceRun(f"r{r}", UNIT, tuple(sources), ("livetime",), binning.edges if binning else None))
    shapes = [Parameter(n, "shape", 0.0, -4.0, 4.0) for n in ("slope", "size", "shift", "kinked")]
    used = {name for run in runs for c in run.sources for name in c.parameters}
    parameters = [rate_parameter(n, 1.0, 0.0, 1e5) for n in dict.fromkeys(rates)]
    parameters += [p for p in shapes if p.name in used]
    if "efficiency" in used:
        parameters.append(Parameter("efficiency", "efficiency", 0.8, 0.0, 1.5))
    constraints = [c for p in parameters[1:] for c in random_constraint(pick, p.name, p.nominal)]
    model = ParameterSet((*parameters, LIVETIME), tuple(constraints))
    events = {}
    for run in runs:
        n = pick.choice((0, 0, 1, 3, 12, 60))
        generator = torch.Generator().manual_seed(seed + 1)
        x = torch.rand(n, 1, generator=generator, dtype=torch.float64) ** pick.choice((1, 3))
        events[run.name] = event_data(UNIT, x)
    return model, tuple(runs), Dataset(events, {})
