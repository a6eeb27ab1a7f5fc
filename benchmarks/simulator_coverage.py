"""Coverage of the shipped search over data sets of the simulator, which the flows are fitted to, at ten true points.

python benchmarks/simulator_coverage.py [--sets 3600] [--toys 2800] [--points 0 1 ...] [--figure FILE]

At every point the simulator gives a large sample of each source; data sets are drawn from these
(inference/pools/sampled_sets.py), and as many toys from the flows themselves. Each is fitted freely and with the signal
held at its true value. That gives the coverage with asymptotic critical values, and with those of the flows' own toys
at the point; where data sets of the simulator and of the flows differ, in the statistic or in the mean and width of an
estimate, that is the error of the surrogates. What has been done is kept in --store and not done again.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
from coverage_summary import PointSummary, plot, remarks, summarise, table
from measure import cpu_seconds
from rich.console import Console
from torch import Tensor

from inference.fits.fit import covariances
from inference.likelihood.extended import Likelihood
from inference.model import StatisticalModel
from inference.pools.builder import PoolOptions, build_pool
from inference.pools.event_pool import EventPool
from inference.pools.pairs import EXAMINED, QUICK, exact_where_needed
from inference.pools.region import expected_covariance, toy_region
from inference.pools.sampled_sets import EventSample, SampledSets, sampled_sets
from inference.science_run import RunSource, expected_counts, model_hash, theta_of
from inference.toys.draws import toy_index
from inference.toys.toy_fits import fit_likelihood_pairs
from surrogate.atomic import replacing_file, write_json
from training.simulator.catalogue import standard_source
from training.simulator.detector import Detector
from training.simulator.seeds import stream
from training.simulator.spaces import observable_space
from training.simulator.theta import nominal_theta, split_theta
from training.simulator_config import read_detector

MODEL, DETECTOR, SPACE = "configs/models/xenon1t_like.yaml", "xenon1t_like", "A"
POI = "wimp_rate_multiplier"
#: What the model calls a source otherwise than the simulator.
SIMULATED = {"wimp": "wimp50"}
#: Events generated at a time; per event that a data set has, how many are simulated for the rate and of how many of
#: these scores are evaluated; the fewest of a source.
BATCH, COUNTED, SAMPLED, LEAST = 1 << 17, 4000, 500, 10_000
#: Events of a sample, and of a pool of the flows, that are expanded, per event that a data set has.
EXPANDED = 40
#: Data sets in a file of the store, and how many are made of one sample before the simulator is run again.
PART, SHARED = 400, 3600
SEED = 20261122


@dataclass(frozen=True)
class Point:
    """A true point: the signal, and the nuisances that are not nominal, in words and numbers."""

    label: str
    mu: float
    shifts: Mapping[str, float] = field(default_factory=dict)

    @property
    def truth(self) -> dict[str, float]:
        """The parameters that are not nominal."""
        return {POI: self.mu, **self.shifts}


NR_UP = {"t_ly": 1.0, "t_qy": -1.0}
NR_DOWN = {"t_ly": -2.0, "t_qy": -2.0}
ER_UP = {"er_t_ly": 1.0, "er_t_qy": -1.0}
ER_FAR = {"er_t_ly": -2.0, "er_t_qy": 2.0}
DETECTOR_FAR = {"elife": 0.9 * 452, "g1": 1.04 * 0.1254}
ALL = {"t_ly": -1.0, "t_qy": 1.0, "er_t_ly": 1.0, "er_t_qy": 1.0, "elife": 1.05 * 452, "g1": 0.98 * 0.1254}
POINTS = (
    Point("nominal", 0.0),
    Point("nominal", 3.0),
    Point("nominal", 10.0),
    Point("NR yields +1, -1 sigma", 3.0, NR_UP),
    Point("NR yields -2, -2 sigma", 10.0, NR_DOWN),
    Point("ER yields +1, -1 sigma", 0.0, ER_UP),
    Point("ER yields -2, +2 sigma", 3.0, ER_FAR),
    Point("elife -2, g1 +2 sigma", 0.0, DETECTOR_FAR),
    Point("elife -2, g1 +2 sigma", 3.0, DETECTOR_FAR),
    Point("all by 1 sigma", 10.0, ALL),
)


@cache
def model_of() -> StatisticalModel:
    """Return the search."""
    return StatisticalModel.from_config(MODEL)


@lru_cache(maxsize=2)
def pool_of(point: int) -> EventPool:
    """Return a pool for the toys of a point, and of those that differ from it by the signal alone."""
    model, same = model_of(), [p for p in POINTS if p.shifts == POINTS[point].shifts]
    if same[0] is not POINTS[point]:
        return pool_of(POINTS.index(same[0]))
    options = PoolOptions(oversampling=EXPANDED)
    points = torch.stack([model.parameters.vector(p.truth) for p in same])
    region, values = toy_region(model.parameters, model.runs, points, options.radius)
    return build_pool(model.parameters, model.runs, values, region, options)


def simulated(source: RunSource, theta: Tensor, expected: float, detector: Detector, label: str) -> EventSample:
    """Return events of a source from the simulator, and their number in a data set.

    Parameters
    ----------
    source
        As the model has it.
    theta
        Its nuisances (K,).
    expected
        How many events the model expects at these.
    detector, label
        What is simulated, and the name of the random numbers.
    """
    made, space = standard_source(SIMULATED.get(source.name, source.name), detector), observable_space(detector, SPACE)
    full = theta if len(theta) else nominal_theta(detector)
    wanted, counted = (max(LEAST, int(n * expected)) for n in (SAMPLED, COUNTED))
    kept: list[Tensor] = []
    n_kept = n_generated = index = 0
    while n_kept < counted:
        columns = made.generate(BATCH, split_theta(full, torch.zeros(0)), stream(SEED, label, index), {})
        x = torch.stack([columns[name] for name in space.names], dim=1).double()
        x = x[space.contains(x)]
        if n_kept < wanted:
            kept.append(x)
        n_kept, n_generated, index = n_kept + len(x), n_generated + BATCH, index + 1
    rate = made.generated_rate * n_kept / n_generated
    return EventSample(torch.cat(kept)[:wanted], expected * rate / float(source.source.expected_events(theta)))


@lru_cache(maxsize=1)
def sets_of(point: int, sample: int) -> SampledSets:
    """Return the data sets of the simulator at a point, from one of its samples."""
    model, pool, detector = model_of(), pool_of(point), read_detector(DETECTOR)
    truth = model.parameters.vector(POINTS[point].truth)
    samples = {}
    for run in model.runs:
        expected = expected_counts(model.parameters, run, truth.unsqueeze(0))[0].tolist()
        samples[run.name] = [
            simulated(
                c,
                theta_of(model.parameters, c, truth.unsqueeze(0))[0],
                n,
                detector,
                f"coverage/{point}/{sample}/{c.name}",
            )
            for c, n in zip(run.sources, expected, strict=True)
        ]
    return sampled_sets(pool, samples, truth, EXPANDED)


def drawn(point: int, origin: str, index: Tensor) -> Likelihood:
    """Return the likelihood of data sets of the simulator or toys of the flows, by number."""
    truth, numbers = model_of().parameters.vector(POINTS[point].truth), toy_index(point, index)
    if origin == "flows":
        return pool_of(point).draw(truth, numbers, SEED)
    return sets_of(point, int(index[0]) // SHARED).draw(truth, numbers, SEED + 1)


def fitted(point: int, origin: str, index: Tensor) -> dict[str, np.ndarray]:
    """Fit data sets; return -2 ln Lambda, whether it is valid, its change by exact densities, estimates and pulls.

    A pull is (estimate - truth) / error; NaN at a bound, and outside the region of the expansion, whose curvature means
    nothing there.
    """
    model, pool = model_of(), pool_of(point)
    truth = model.parameters.vector(POINTS[point].truth)
    names = ("t", "valid", "deviation", "again", "estimates", "pulls")
    columns: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for some in index.split(pool.portion):
        likelihood = drawn(point, origin, some)
        held = truth[model.parameters.index(POI)].expand(len(some))
        expanded = fit_likelihood_pairs(likelihood, POI, held, truth, QUICK)
        pairs, fits = exact_where_needed(pool, likelihood, POI, expanded, truth, some % EXAMINED == 0)
        again = fits.refits > expanded.refits.numpy()
        columns["t"].append(2 * (fits.ll_free - fits.ll_conditional))
        columns["valid"].append(fits.valid)
        columns["deviation"].append(fits.deviation)
        columns["again"].append(again)
        error = covariances(pairs.free)[0].diagonal(dim1=-2, dim2=-1).sqrt()
        curved = (pool.covers(pairs.free.values) | torch.from_numpy(again)).unsqueeze(-1)
        pulls = torch.where(curved & (error > 0), (pairs.free.values - truth) / error, torch.nan)
        columns["estimates"].append(pairs.free.values.numpy())
        columns["pulls"].append(pulls.numpy())
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def worked_off(store: Path, point: int, origin: str, n: int, console: Console) -> dict[str, np.ndarray]:
    """Return the fits to n data sets of a point, those of the store and new ones, which are added to it."""
    parts = []
    for start in range(0, n, PART):
        stop = min(n, start + PART)
        path = store / f"{point}-{origin}-{start}-{stop}.npz"
        if not path.exists():
            begin = cpu_seconds()
            columns = fitted(point, origin, torch.arange(start, stop))
            columns["shift"] = predicted_shift(point, start // SHARED) if origin == "simulator" else np.zeros(0)
            columns["cpu"] = np.array([cpu_seconds() - begin])
            with replacing_file(path) as temporary, temporary.open("wb") as file:
                np.savez(file, allow_pickle=False, **columns)
            console.print(f"{path.name}: {float(columns['cpu'][0]):.0f} CPU s")
        with np.load(path, allow_pickle=False) as stored:
            parts.append({name: stored[name] for name in stored.files})
    found = {name: np.concatenate([p[name] for p in parts]) for name in parts[0] if name != "shift"}
    return {**found, "shift": np.mean([p["shift"] for p in parts], axis=0)}


def predicted_shift(point: int, sample: int) -> np.ndarray:
    """Return by how many standard deviations the events of a sample move each best fit (P,), to first order."""
    model = model_of()
    covariance = expected_covariance(model.parameters, model.runs, model.parameters.vector(POINTS[point].truth))
    shift: np.ndarray = (covariance @ sets_of(point, sample).excess / covariance.diagonal().sqrt()).numpy()
    return shift


def summaries(store: Path, points: Sequence[int], sets: int, toys: int, console: Console) -> list[PointSummary]:
    """Return the outcome of some points."""
    model, found = model_of(), []
    free = [j for j, p in enumerate(model.parameters.parameters) if p.fittable]
    names = [model.parameters.names[j] for j in free]
    for k in points:
        flows, simulator = (
            worked_off(store, k, origin, n, console) for origin, n in (("flows", toys), ("simulator", sets))
        )
        for columns in (flows, simulator):
            columns.update({name: columns[name][:, free] for name in ("estimates", "pulls")})
        simulator["shift"] = simulator["shift"][free]
        found.append(summarise(POINTS[k].label, POINTS[k].mu, names, flows, simulator))
    return found


def main() -> int:
    """Work, print, and write record and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sets", type=int, default=3600, help="data sets of the simulator at each point")
    parser.add_argument("--toys", type=int, default=2800, help="toys of the flows at each point")
    parser.add_argument("--points", type=int, nargs="+", default=list(range(len(POINTS))), choices=range(len(POINTS)))
    parser.add_argument("--store", type=Path, default=Path("runs/coverage"))
    parser.add_argument("--figure", type=Path, default=Path("runs/coverage/simulator_coverage.png"))
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    model = model_hash(model_of().parameters, model_of().runs)
    store = options.store / model[:12]
    store.mkdir(parents=True, exist_ok=True)
    console = Console(soft_wrap=True)
    found = summaries(store, options.points, options.sets, options.toys, console)
    console.print(f"{table(found, POI)}\n\n{remarks(found)}", markup=False)
    write_json(store / "coverage.json", {"model_hash": model, "points": [p.to_dict() for p in found]})
    console.print(f"figure: {plot(found, options.figure)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
