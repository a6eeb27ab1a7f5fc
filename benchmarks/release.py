"""The XENONnT search for light WIMPs, 6 GeV: model, limits and fits of the released binned model, beside alea.

Run: python benchmarks/release.py [--toys N] [--alea PYTHON] [--output DIR] [--quick]

Reads the release (arXiv:2409.17868, doi:10.5281/zenodo.14522706) from ``data/xenonnt_light_wimp`` of the directory that
XEFLOW_SHARED names. ``--alea`` is the interpreter of an environment with the packages of benchmarks/peers/alea.txt; it
gets the same toys, and its limits are compared. Without it, its times are those of ``reference/alea_light_wimp.json``
in the same directory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from measure import Cost, copy_rate, measure, once
from records import Peer, Record, finish, parser

from inference.data.dataset import Dataset
from inference.intervals.asymptotics import critical_value
from inference.intervals.confidence import interval_batch
from inference.likelihood.extended import Likelihood
from inference.model import StatisticalModel
from inference.studies.sensitivity import toy_limits
from inference.studies.toy_pairs import run_pairs
from inference.toys.draws import draw_toys, toy_index
from inference.toys.toy_fits import fit_likelihood_pairs
from inference.toys.toy_tables import one_row, toy_tables

POI, MASS, SEED = "wimp_rate_multiplier", 6, 41
SHARED = Path(os.environ.get("XEFLOW_SHARED", "../shared"))
RELEASE = SHARED / "data" / "xenonnt_light_wimp"
REFERENCE = SHARED / "reference" / "alea_light_wimp.json"


@dataclass(frozen=True)
class Alea:
    """What alea needs and finds: CPU seconds to build, per limit on data, per toy limit, per pair of fits."""

    name: str
    source: Literal["measured", "cited"]
    build_s: float
    limit_s: float
    toy_limit_s: float
    pair_s: float
    limits: tuple[float, ...] = ()
    statistics: tuple[float, ...] = ()


def build() -> StatisticalModel:
    """Return the model without data."""
    pattern = f"wimp_si/template_XENONnT_{{run:lower}}_wimp_si_{MASS}_cevns_tly_{{t_ly:.1f}}_tqy_{{t_qy:.1f}}.h5"
    return StatisticalModel.from_config(
        RELEASE / "statistical_model_base.yaml", template_path=RELEASE, template_filenames={"wimp": pattern}
    )


def science_tables(model: StatisticalModel) -> dict[str, np.ndarray]:
    """Return the science data as alea's tables."""
    tables = {}
    for run in model.runs:
        x = model.data.events[run.name].x.numpy()
        columns = [*x.T, np.full(len(x), -1)]
        names = [(name, "f8") for name in run.observables.names]
        tables[run.name] = np.array(list(zip(*columns, strict=True)), dtype=[*names, ("source", "i8")])
    nominal = model.parameters.mapping(model.parameters.nominal())
    tables["ancillary"] = one_row({name: nominal[name] for name in model.parameters.ancillary_names})
    tables["generate_values"] = one_row(nominal)
    return tables


def toy_likelihood(model: StatisticalModel, n: int) -> tuple[Likelihood, list[dict[str, np.ndarray]]]:
    """Return the likelihood of background-only toys, and their tables."""
    index = toy_index(0, torch.arange(n))
    toys = draw_toys(model.parameters, model.runs, model.parameters.vector({POI: 0.0}), index, SEED)
    return Likelihood(model.parameters, model.runs, toys.data), toy_tables(model.parameters, model.runs, toys)


def run_alea(
    python: str, model: StatisticalModel, tables: Sequence[Mapping[str, np.ndarray]], limits: int, pairs: int
) -> Alea:
    """Return what alea finds on the science data and on toys."""
    script = Path(__file__).parent / "peers" / "alea_release.py"
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "toys.h5"
        model.store_data(data, [science_tables(model), *tables[: max(limits, pairs)]])
        command = [python, str(script), str(RELEASE.resolve()), str(MASS), str(data)]
        command += ["--limits", str(limits), "--pairs", str(pairs)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL)
    found = json.loads(done.stdout)
    return Alea(
        found["version"],
        "measured",
        found["build_s"],
        found["limit_s"][0],
        float(np.mean(found["limit_s"][1:])),
        float(np.mean(found["pair_s"])),
        tuple(found["limit"]),
        tuple(found["t"]),
    )


def cited_alea() -> Alea:
    """Return alea's CPU seconds as recorded with the reference values."""
    known: dict[str, Any] = json.loads(REFERENCE.read_text())
    return Alea(
        f"alea {known['versions']['alea-inference']}",
        "cited",
        known["timing"]["build_cold"]["cpu_s"],
        known["timing"]["ci"]["cpu_s"],
        known["bkg_only_toys_m6"]["genuine_alea_toys"]["mean_ci_cpu_s"],
        known["neyman_threshold_m6"]["zero"]["genuine_alea"]["cpu_s_two_fits"],
    )


def floor_per_evaluation(model: StatisticalModel, bins: float) -> float:
    """Return the seconds in which the memory moves what ln L, gradient and Hessian of one toy need.

    Every occupied bin reads, for each source, the templates at the corners of its cell of shape parameters and its own
    density with first and second derivatives once.
    """
    per_bin = 0
    for run in model.runs:
        for source in run.sources:
            k = len(source.nuisance_parameters)
            per_bin += 2**k + 1 + k + k * (k + 1) // 2
    return 8.0 * bins * per_bin / len(model.runs) / copy_rate()


def agreement(limits: Sequence[float], statistics: Sequence[float], alea: Alea) -> list[Record]:
    """Return the median deviations from alea of limits, relative, and of the statistic at zero."""
    ratio = np.array(limits[: len(alea.limits)]) / np.array(alea.limits)
    t = np.array(statistics[: len(alea.statistics)]) - np.array(alea.statistics)
    return [
        Record(f"deviation of {what} from alea's, median", float(np.median(np.abs(d))), unit, target=to, scales=False)
        for what, d, unit, to in (("limits", ratio - 1.0, "relative", 1e-4), ("t", t, "", 1e-3))
    ]


def records_of(
    costs: Mapping[str, Cost], n: int, alea: Alea, evaluations: Mapping[str, float], floor: float
) -> list[Record]:
    """Return the figures: CPU seconds per piece of work."""

    def record(name: str, key: str, divide: int, peer: float, **targets: float) -> Record:
        cost = costs[key]
        times = evaluations.get(key)
        text = "" if times is None else f"{times:.0f} evaluations of ln L with derivatives, bytes moved"
        made = Record(name, cost.cpu_s / divide, "CPU s", cost=cost, peers=(Peer(alea.name, peer, alea.source),))
        made = replace(made, floor=None if times is None else times * floor, floor_text=text)
        return replace(made, **targets)  # type: ignore[arg-type]

    return [
        record("build the model", "build", 1, alea.build_s, target=1.0),
        record("limit on the science data", "limit", 1, alea.limit_s, target=0.1),
        record("limit of a toy, one at a time", "single", 1, alea.toy_limit_s),
        record(f"limit of a toy, {n} at a time", "limits", n, alea.toy_limit_s, target=0.1, target_ratio=100),
        record(f"limit of a toy, {n} at a time, drawing included", "study", n, alea.toy_limit_s),
        record(f"free and conditional fit of a toy, {n} at a time", "pairs", n, alea.pair_s, target_ratio=300),
        record(f"free and conditional fit of a toy, {n} at a time, drawing included", "toys", n, alea.pair_s),
    ]


def main() -> int:
    """Measure, print and write the figures."""
    arguments = parser(__doc__)
    arguments.add_argument("--toys", type=int, default=1000)
    arguments.add_argument("--alea", help="interpreter of an environment with alea")
    arguments.add_argument("--alea-limits", type=int, default=3, help="toys that alea sets limits on, 20 CPU s each")
    arguments.add_argument("--alea-pairs", type=int, default=20, help="toys that alea fits twice")
    options: argparse.Namespace = arguments.parse_args()
    n, repeats = (200, 2) if options.quick else (options.toys, 5)
    costs = {"build": once(build)}
    model = build()
    model.data = RELEASE / "science_data.h5"
    science: Dataset = model.data
    threshold = critical_value(0.9, "central")

    def limit() -> None:
        model.data = science
        model.interval(POI)

    costs["limit"] = measure(limit, repeats)
    likelihood, tables = toy_likelihood(model, n)
    start = likelihood.parameters.vector({POI: 0.0})
    nothing = torch.zeros(n, dtype=torch.float64)
    single = likelihood.data.take(torch.tensor([0]))
    alone = Likelihood(model.parameters, model.runs, single)
    costs["single"] = measure(lambda: interval_batch(alone, POI, threshold), repeats)
    costs["limits"] = measure(lambda: interval_batch(likelihood, POI, threshold), repeats)
    costs["pairs"] = measure(lambda: fit_likelihood_pairs(likelihood, POI, nothing, start), repeats)
    points = start[None]
    costs["study"] = measure(
        lambda: toy_limits(model.parameters, model.runs, POI, points, n, SEED, threshold, 0.9), repeats
    )
    costs["toys"] = measure(lambda: run_pairs(model.parameters, model.runs, POI, points, n, SEED), repeats)
    found = interval_batch(likelihood, POI, threshold)
    fits = fit_likelihood_pairs(likelihood, POI, nothing, start)

    alea, further = cited_alea(), []
    if options.alea:
        alea = run_alea(options.alea, model, tables, options.alea_limits, options.alea_pairs)
        t = 2 * (fits.free.log_likelihood - fits.conditional.log_likelihood)
        upper = [] if found.upper is None else found.upper.value.tolist()
        further = agreement([model.interval(POI).upper.value or 0.0, *upper], t.tolist(), alea)
    evaluations = {"pairs": 2 * float(found.best.evaluations.double().mean())}
    bins = float(torch.cat(list(likelihood.data.weights.values()), dim=1).gt(0).sum(dim=1).double().mean())
    records = records_of(costs, n, alea, evaluations, floor_per_evaluation(model, bins))
    return finish("release", "python benchmarks/release.py", [*records, *further], options)


if __name__ == "__main__":
    raise SystemExit(main())
