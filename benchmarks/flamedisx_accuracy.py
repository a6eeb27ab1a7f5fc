"""How far surrogates trained on events of flamedisx 2.1.0 are from its densities and rates, and what that does to fits.

Run: python benchmarks/flamedisx_accuracy.py [--checkpoints DIR] [--thetas N] [--events N] [--output DIR] [--quick]

Surrogates are those of configs/train/flamedisx_er.yaml and flamedisx_nr.yaml. Events are simulated, and densities and
rates summed exactly, by flamedisx_model.py, at points theta = (elife, g1) that fill the ranges evenly. Errors are those
of ln f at an event's own theta.

Fits are of N events, half of them expected from each source, in phi = (ln of the two rates, ln elife, ln g1), by the
extended likelihood. With lambda(x | phi) the expected events per x, Lambda their number, g = d ln lambda/d phi and F =
N E[g g^T], the flows move the best fit, to first order in their error, by

    F^-1 {sum_i [g_flow(x_i) - g(x_i)] - d(Lambda_flow - Lambda)/d phi}.

Stated is its r.m.s. over data sets and points of theta, in standard deviations sqrt((F^-1)_jj). Derivatives are central
differences over 2 %; what the number of events behind them adds is taken off.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from flamedisx_model import DRIFT_LENGTH, Array, RecoilModel, Recoils
from records import Record, finish, parser
from rich.progress import track
from scipy.stats import qmc

from surrogate import load_checkpoint
from surrogate.ensemble import EnsembleSource
from surrogate.flow_source import FlowSource

KINDS = ("er", "nr")
LOW, HIGH = (260.0, 0.082), (880.0, 0.137)
"""Points of (elife [us], g1) are taken between these, a step inside of the trained ranges."""
STEP = 0.02
SIZES = (25, 100, 400)
PARAMETERS = ("rate_er", "rate_nr", "elife", "g1")
Point = tuple[float, float]
Surrogate = FlowSource | EnsembleSource


@dataclass(frozen=True)
class Sums:
    """Exact (or a flow's) ln of the differential rate (5, n) at theta and at four points around, and mu (5,) there."""

    log_rate: Array
    mu: Array


@dataclass(frozen=True)
class At:
    """What was found at one point of theta: errors of ln f by source, shift of fits."""

    errors: dict[str, Array]
    bias: Array
    scatter: Array
    mu: Array


def around(theta: Point) -> list[Point]:
    """Return theta and the points one step of elife and of g1 away."""
    elife, g1 = theta
    up, down = 1 + STEP, 1 - STEP
    return [theta, (elife * up, g1), (elife * down, g1), (elife, g1 * up), (elife, g1 * down)]


def exact_sums(model: RecoilModel, events: Recoils, theta: Point) -> Sums:
    """Return what the model says, per generated event."""
    points = around(theta)
    _, longer, shorter, more, less = points
    here, up, down = model.density(events, theta[0], theta[1], more[1], less[1])
    rates = [here, *model.density(events, *longer), *model.density(events, *shorter), up, down]
    with np.errstate(divide="ignore"):  # an event of one source may be impossible in the other
        log_rate = np.log(rates) - np.log(DRIFT_LENGTH)
    return Sums(log_rate, np.array([model.acceptance(*point) for point in points]))


def flow_sums(source: Surrogate, events: Recoils, theta: Point) -> Sums:
    """Return what the surrogate says, per generated event."""
    columns = {"s1": events.s1, "s2": events.s2, "drift_time": events.time}
    x = torch.from_numpy(np.stack([columns[name] for name in source.observables.names], axis=-1))
    points = torch.tensor(around(theta), dtype=torch.float64)
    with torch.no_grad():
        mu = source.expected_events(points).numpy() / source.generated_rate
        log_f = torch.stack([source.log_prob(x, point) for point in points]).numpy()
    return Sums(log_f + np.log(mu)[:, None], mu)


def scores(parts: list[Sums], norms: list[float]) -> tuple[Array, Array]:
    """Return g (n, 4) and dLambda/dphi (4,) for N = 1, from the sums of both sources over the same events."""
    per_event = 1.0 / (len(parts) * np.array(norms))
    rates = per_event[:, None, None] * np.exp([part.log_rate for part in parts])
    number = per_event[:, None] * np.array([part.mu for part in parts])
    log_sum, total = np.log(rates.sum(axis=0)), number.sum(axis=0)
    shares = rates[:, 0] / rates[:, 0].sum(axis=0)
    slopes = [(log_sum[k] - log_sum[k + 1]) / (2 * STEP) for k in (1, 3)]
    flux = [(total[k] - total[k + 1]) / (2 * STEP) for k in (1, 3)]
    return np.stack([*shares, *slopes], axis=-1), np.array([*number[:, 0], *flux])


def shift(flow: tuple[Array, Array], exact: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return, in standard deviations for N = 1, squared bias and scatter (4,): N events move by N bias + scatter."""
    covariance = np.linalg.inv(exact[0].T @ exact[0] / len(exact[0]))
    moved = (flow[0] - exact[0] - (flow[1] - exact[1])) @ covariance / np.sqrt(np.diag(covariance))
    scatter: Array = moved.var(axis=0)
    return np.square(moved.mean(axis=0)) - scatter / len(moved), scatter


def measure_at(
    theta: Point, models: dict[str, RecoilModel], sources: dict[str, Surrogate], n: int, rng: np.random.Generator
) -> At:
    """Return errors and shifts at one point, from n events of each source."""
    data = [simulated(models[kind], theta, n, rng) for kind in KINDS]
    events = Recoils(*(np.concatenate(columns) for columns in zip(*data, strict=True)))
    exact = [exact_sums(models[kind], events, theta) for kind in KINDS]
    flow = [flow_sums(sources[kind], events, theta) for kind in KINDS]
    norms = [float(part.mu[0]) for part in exact]
    errors = {}
    for k, kind in enumerate(KINDS):
        own = slice(k * n, (k + 1) * n)
        difference = flow[k].log_rate[0, own] - exact[k].log_rate[0, own]
        errors[kind] = difference - np.log(flow[k].mu[0] / norms[k])
    bias, scatter = shift(scores(flow, norms), scores(exact, norms))
    ratio = np.array([part.mu[0] / norm - 1 for part, norm in zip(flow, norms, strict=True)])
    return At(errors, bias, scatter, ratio)


def simulated(model: RecoilModel, theta: Point, n: int, rng: np.random.Generator) -> Recoils:
    """Return n accepted events."""
    events = model.simulate(int(1.2 * n / model.acceptance(*theta)) + 200, *theta, rng)
    return Recoils(*(column[:n] for column in events))


def density_records(kind: str, errors: Array) -> Iterator[Record]:
    """Return the figures of ln(f_flow/f_exact)."""
    note = f"{errors.size} events at their own theta"
    name, unit = kind.upper(), "of ln f"
    mean = -float(errors.mean())
    yield Record(f"{name}: mean of ln(f_exact/f_flow)", mean, unit, target=0.001, scales=False, note=note)
    rms = float(np.sqrt(np.square(errors).mean()))
    yield Record(f"{name}: root mean square", rms, unit, target=0.025, scales=False, note=note)
    quantile = float(np.quantile(np.abs(errors), 0.99))
    yield Record(f"{name}: 99 % quantile of the size", quantile, unit, target=0.08, scales=False, note=note)


def fit_records(found: list[At]) -> Iterator[Record]:
    """Return the figures of fits, over all sizes and for each."""
    bias, scatter = (np.mean([getattr(at, key) for at in found], axis=0) for key in ("bias", "scatter"))
    squared = {n: n * bias + scatter for n in SIZES}
    for j, name in enumerate(PARAMETERS):
        each = {n: float(np.sqrt(max(values[j], 0.0))) for n, values in squared.items()}
        overall = float(np.sqrt(np.mean(np.square(list(each.values())))))
        target = 0.03 if name.startswith("rate") else 0.10
        note = ", ".join(f"{n} events: {value:.3f}" for n, value in each.items())
        yield Record(f"fits of 25 to 400 events: {name}", overall, "sigma", target=target, scales=False, note=note)


def main() -> int:
    """Measure, print and write the figures."""
    options = arguments().parse_args()
    n_thetas, n = (8, 300) if options.quick else (options.thetas, options.events)
    models = {"er": RecoilModel("er"), "nr": RecoilModel("nr")}
    sources = {kind: load_checkpoint(options.checkpoints / f"flamedisx_{kind}") for kind in KINDS}
    points = qmc.scale(qmc.Sobol(2, seed=1).random(n_thetas), LOW, HIGH)
    rng = np.random.default_rng(1)
    found = [
        measure_at((float(elife), float(g1)), models, sources, n, rng)
        for elife, g1 in track(points, "points of theta", transient=True)
    ]
    records = [r for kind in KINDS for r in density_records(kind, np.concatenate([at.errors[kind] for at in found]))]
    for k, (kind, target) in enumerate(zip(KINDS, (0.001, 0.002), strict=True)):
        rms = float(np.sqrt(np.mean([at.mu[k] ** 2 for at in found])))
        name = f"{kind.upper()}: root mean square of mu/mu_exact - 1"
        records.append(Record(name, rms, "relative", target=target, scales=False))
    records += fit_records(found)
    return finish("flamedisx_accuracy", "python benchmarks/flamedisx_accuracy.py", records, options)


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    made = parser(__doc__)
    made.add_argument("--checkpoints", type=Path, default=Path(os.environ.get("XEFLOW_CHECKPOINTS", "checkpoints")))
    made.add_argument("--thetas", type=int, default=32, help="points of theta, a power of two")
    made.add_argument("--events", type=int, default=1000, help="events of each source at each")
    return made


if __name__ == "__main__":
    raise SystemExit(main())
