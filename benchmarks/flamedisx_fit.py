"""Unbinned fits with a floating electron lifetime, as in the tutorial of flamedisx: 25, 100 and 400 events.

Run: python benchmarks/flamedisx_fit.py [--checkpoints DIR] [--toys N] [--flamedisx PYTHON] [--output DIR] [--quick]

Surrogates are those of configs/train/flamedisx_er.yaml and flamedisx_nr.yaml; data are events that flamedisx 2.1.0
(arXiv:2003.12483) simulated, at points of (elife, g1) well inside the ranges, from ``data/flamedisx`` of the directory
that XEFLOW_SHARED names. ``--flamedisx`` is the interpreter of an environment with the packages of
benchmarks/peers/flamedisx.txt; it gets the same 25 events. Its other times are cited: 14 to 27 CPU s for a fit to 100
events of two sources with elife and g1 floating, 53 to 77 for 400.

A fit is the best fit with errors and correlations. Importing the package is not included; loading surrogates is stated.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import torch
from measure import Cost, measure, multiply_rate, once
from records import Peer, Record, finish, parser

from inference.analysis import Analysis
from inference.data.dataset import Dataset, EventData
from inference.parameters import Parameter, ParameterSet
from inference.science_run import RunSource, ScienceRun
from surrogate import load_checkpoint
from surrogate.ensemble import EnsembleSource
from surrogate.flow_source import FlowSource
from surrogate.memory import keep_freed_memory
from surrogate.source import Source

SHARED = Path(os.environ.get("XEFLOW_SHARED", "../shared")) / "data" / "flamedisx"
LEVEL = 0.6827
#: Points of (elife [us], g1) from which data are taken lie in these ranges.
INSIDE = ((350.0, 750.0), (0.09, 0.13))
#: CPU seconds of flamedisx: the range seen for a fit to 25, 100 and 400 events, and for the interval after the first.
CITED = {25: (5.0, 13.0), 100: (14.0, 27.0), 400: (53.0, 77.0), "interval": (12.0, 16.0)}

Point = tuple[float, float]


def simulated_points() -> list[tuple[int, Point]]:
    """Return indices and values of the points of (elife, g1) inside the ranges."""
    with h5py.File(SHARED / "er_events.h5") as file:
        theta = file["theta"][:]
    points = [(k, (float(elife) / 1e3, float(g1))) for k, (elife, g1) in enumerate(theta)]
    return [(k, p) for k, p in points if all(low < v < high for v, (low, high) in zip(p, INSIDE, strict=True))]


def events(source: str, index: int, n: int) -> np.ndarray:
    """Return the first n simulated events (n, 3) of a point: s1 [PE], s2 [PE], drift_time [us]."""
    with h5py.File(SHARED / f"{source}_events.h5") as file:
        rows = np.flatnonzero(file["theta_index"][:] == index)[:n]
        first, last = rows.min(), rows.max() + 1
        columns = [file[name][first:last][rows - first] for name in ("s1", "s2", "drift_time")]
    return np.stack([columns[0], columns[1], columns[2] / 1e3], axis=-1).astype(np.float64)


def model(sources: dict[str, Source], n: int, theta: Point, float_g1: bool) -> Analysis:
    """Return a model in which each source expects an equal share of n events at theta, all rates floating."""
    at = torch.tensor(theta, dtype=torch.float64)
    low, high = next(iter(sources.values())).nuisances.bounds(at)
    parameters = [
        Parameter("livetime", "livetime", 1.0, 0.0, 2.0, fittable=False),
        *(Parameter(f"{name}_rate_multiplier", "rate", 1.0, 0.0, 100.0) for name in sources),
        Parameter("elife", "shape", 452.0, float(low[0]), float(high[0]), unit="us"),
        Parameter("g1", "shape", 0.1 if float_g1 else theta[1], float(low[1]), float(high[1]), fittable=float_g1),
    ]
    drives = {"elife": "elife", "g1": "g1"}
    members = [
        RunSource(
            name, source, f"{name}_rate_multiplier", drives, (), n / len(sources) / float(source.expected_events(at))
        )
        for name, source in sources.items()
    ]
    observables = next(iter(sources.values())).observables
    run = ScienceRun("flamedisx", observables, tuple(members), ("livetime",), None)
    return Analysis(ParameterSet(tuple(parameters)), (run,))


def analyses(sources: dict[str, Source], n: int, toys: int, float_g1: bool) -> list[Analysis]:
    """Return models with data sets of n events, each simulated at another point."""
    found = []
    for index, theta in simulated_points()[:toys]:
        made = model(sources, n, theta, float_g1)
        x = np.concatenate([events(name, index, n // len(sources)) for name in sources])
        names = made.runs[0].observables.names
        columns = [("s1", "s2", "drift_time").index(name) for name in names]
        made.data = Dataset({"flamedisx": EventData(torch.from_numpy(x[:, columns]))}, {})
        found.append(made)
    return found


def fits(made: Sequence[Analysis]) -> Callable[[], None]:
    """Return the work of fitting all data sets, each from scratch."""

    def work() -> None:
        for analysis in made:
            analysis.data = analysis.data
            result = analysis.fit_result()
            if not result.success:
                raise SystemExit(f"a fit failed: {result.message}")

    return work


def with_intervals(made: Sequence[Analysis]) -> Callable[[], None]:
    """Return the work of fitting all data sets and finding the 68 % interval on elife."""

    def work() -> None:
        fits(made)()
        for analysis in made:
            analysis.interval("elife", LEVEL)

    return work


def floor(sources: dict[str, Source], n: int, evaluations: float) -> float:
    """Return the seconds of the multiplications with the weights: value, two tangents and one way back."""
    weights = 0
    for source in sources.values():
        members = source.members if isinstance(source, EnsembleSource) else (source,)
        weights += sum(w.numel() for m in members if isinstance(m, FlowSource) for w in m.flow.parameters())
    return 4 * 2.0 * weights * n * evaluations / multiply_rate(torch.float64)


def fit_record(name: str, sources: dict[str, Source], made: Sequence[Analysis], n: int, repeats: int) -> Record:
    """Return CPU seconds of a fit."""
    cost, evaluations = measure(fits(made), repeats), [a.fit_result().evaluations for a in made]
    low, high = CITED[n]
    return Record(
        name,
        cost.cpu_s / len(made),
        "CPU s",
        target=0.3,
        floor=floor(sources, n, float(np.mean(evaluations))),
        floor_text="multiplications with the weights of all members, in each evaluation of the fit",
        peers=(Peer("flamedisx 2.1.0, fastest", low, "cited"), Peer("flamedisx 2.1.0, slowest", high, "cited")),
        cost=cost,
        note=f"{np.mean(evaluations):.1f} evaluations of ln L with derivatives",
    )


def run_flamedisx(python: str) -> dict[str, float]:
    """Return CPU seconds of flamedisx for the fit and the interval on the first 25 events, after warming up."""
    index, theta = simulated_points()[0]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "events.npy"
        np.save(data, events("er", index, 25))
        script = Path(__file__).parent / "peers" / "flamedisx_fit.py"
        command = [python, str(script), str(data), "--g1", str(theta[1])]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def tutorial_records(cold: Cost, warm: Cost, n: int, python: str | None, floor_s: float) -> list[Record]:
    """Return CPU seconds of best fit, errors and interval of the tutorial's 25 events."""
    fit_s, interval_s = CITED[25], CITED["interval"]
    peers = [
        Peer("flamedisx 2.1.0, fastest", fit_s[0] + interval_s[0], "cited"),
        Peer("flamedisx 2.1.0, slowest", fit_s[1] + interval_s[1], "cited"),
    ]
    if python:
        found = run_flamedisx(python)
        peers.append(Peer("flamedisx 2.1.0", found["fit_s"] + found["interval_s"], "measured"))
    name = "25 ER events, elife floating: best fit, errors, 68 % interval"
    text = "multiplications with the weights, in 12 evaluations of ln L with derivatives"
    shared = {"target": 0.2, "floor": floor_s, "floor_text": text, "peers": tuple(peers)}
    return [
        Record(name, warm.cpu_s / n, "CPU s", cost=warm, **shared),  # type: ignore[arg-type]
        Record(f"{name}, first in the process", cold.cpu_s, "CPU s", target=0.2, cost=cold),
    ]


def main() -> int:
    """Measure, print and write the figures."""
    arguments = parser(__doc__)
    arguments.add_argument(
        "--checkpoints", type=Path, default=Path(os.environ.get("XEFLOW_CHECKPOINTS", "checkpoints"))
    )
    arguments.add_argument("--toys", type=int, default=10)
    arguments.add_argument("--flamedisx", help="interpreter of an environment with flamedisx")
    options = arguments.parse_args()
    keep_freed_memory()  # as the command line does
    toys, repeats = (3, 1) if options.quick else (options.toys, 3)
    sources: dict[str, Source] = {}

    def load() -> None:
        sources.update({name: load_checkpoint(options.checkpoints / f"flamedisx_{name}") for name in ("er", "nr")})

    loading = once(load)
    er = {"er": sources["er"]}
    tutorial = analyses(er, 25, toys, float_g1=False)
    cold = once(with_intervals(tutorial[:1]))
    warm = measure(with_intervals(tutorial), repeats)
    records = [Record("load both surrogates", loading.cpu_s, "CPU s", target=0.4, cost=loading)]
    records += tutorial_records(cold, warm, toys, options.flamedisx, floor(er, 25, 12))
    for n in (100, 400):
        made = analyses(sources, n, toys, float_g1=True)
        name = f"{n} ER and NR events, elife and g1 floating: best fit and errors"
        records.append(fit_record(name, sources, made, n, repeats))
    return finish("flamedisx_fit", "python benchmarks/flamedisx_fit.py", records, options)


if __name__ == "__main__":
    raise SystemExit(main())
