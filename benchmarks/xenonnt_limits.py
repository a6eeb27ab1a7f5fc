"""The published limits of the XENONnT light-WIMP search, with critical values from toys.

Run: python benchmarks/xenonnt_limits.py [--toys N] [--masses 6 10] [--workers N] [--folder DIR] [--json FILE]

Reads the release (arXiv:2409.17868, doi:10.5281/zenodo.14522706) from ``data/xenonnt_light_wimp`` of the directory that
XEFLOW_SHARED names. Toys are collected in stores in DIR, so that an interrupted run goes on where it was. Prints tables
in Markdown and draws the critical values.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console

from inference.model import StatisticalModel
from inference.reports.plots import COLOURS, save_figure
from inference.studies.neyman import NeymanInterval, critical_values, neyman_interval, profiled_points
from inference.studies.sensitivity import SensitivityBand, sensitivity_band, toy_limits
from inference.studies.study import StudyPlan, make_executor
from inference.studies.toy_pairs import ToyPairs, run_pairs

POI = "wimp_rate_multiplier"
#: Cross section that a rate multiplier of 1 stands for [cm2].
UNIT = 1e-45
#: Points of the grid between zero and 1.25 times the asymptotic limit, and beyond it for the limits of toys.
POINTS, BEYOND = 12, 6
SEED = 2409


@dataclass(frozen=True)
class Row:
    """One limit: a mass, where the nuisances of the toys were, how c(mu) was made."""

    mass: int
    nuisances: str
    smoothing: str
    limit: float
    error: float
    published: float
    asymptotic: float
    critical_at_zero: float
    critical_at_asymptotic: float
    n_toys: int
    n_refits: int
    n_failed: int


def load_model(release: Path, mass: int) -> StatisticalModel:
    """Return the model of a WIMP mass with the science data."""
    pattern = f"wimp_si/template_XENONnT_{{run:lower}}_wimp_si_{mass}_cevns_tly_{{t_ly:.1f}}_tqy_{{t_qy:.1f}}.h5"
    model = StatisticalModel.from_config(
        release / "statistical_model_base.yaml", template_path=release, template_filenames={"wimp": pattern}
    )
    model.data = release / "science_data.h5"
    return model


def published(release: Path) -> dict[int, dict[str, float]]:
    """Return the published limits and bands by mass, in rate multipliers."""
    with (release / "limits" / "XENONnT_2024_SI.csv").open() as file:
        rows = list(csv.DictReader(file))
    keys = [k for k in rows[0] if k.endswith("_cm2")]
    return {int(r["dm_mass_gev"]): {k: float(r[k]) / UNIT for k in keys} for r in rows}


def nuisance_choices(model: StatisticalModel) -> dict[str, Mapping[str, float] | None]:
    """Return where the nuisances of toys can be: at the conditional best fits, the free one, or nominal."""
    best, _ = model.fit()
    return {"profiled": None, "best fit": {n: v for n, v in best.items() if n != POI}, "nominal": {}}


def construct(
    model: StatisticalModel, mass: int, asymptotic: float, arguments: argparse.Namespace
) -> dict[str, ToyPairs]:
    """Return the toys of all constructions of one mass, by choice of the nuisances."""
    grid = np.linspace(0.0, 1.25 * asymptotic, POINTS).tolist()
    further = np.geomspace(1.25 * asymptotic, 10 * asymptotic, BEYOND + 1)[1:].tolist()
    found = {}
    for k, (name, nuisances) in enumerate(nuisance_choices(model).items()):
        where = grid + further if name == "nominal" else grid
        points = profiled_points(model.likelihood, POI, where, nuisances)
        store = arguments.folder / f"wimp{mass}_{name.replace(' ', '_')}.h5"
        plan = StudyPlan(path=store, executor=make_executor(arguments.workers))
        found[name] = run_pairs(model.parameters, model.runs, POI, points, arguments.toys, SEED + k, plan=plan)
    return found


def rows_of(
    model: StatisticalModel, mass: int, name: str, pairs: ToyPairs, asymptotic: float, known: float
) -> list[Row]:
    """Return the limits of one construction, with and without smoothing."""
    rows = []
    for smoothing in ("spline", "linear"):
        found: NeymanInterval = neyman_interval(model.likelihood, pairs, 0.9, "central", smoothing)
        curve = critical_values(pairs, 0.9, "t_mu_tilde", smoothing)
        c = curve(torch.tensor([0.0, asymptotic], dtype=torch.float64)).tolist()
        upper, error = found.interval.upper.value, found.upper_error
        if upper is None or error is None:
            raise SystemExit(f"{mass} GeV, {name}: no upper limit ({found.interval.upper.status})")
        rows.append(
            Row(
                mass,
                name,
                smoothing,
                upper,
                error,
                known,
                asymptotic,
                *c,
                min(found.n_toys),
                pairs.n_refits,
                pairs.n_failed,
            )
        )
    return rows


def expected_band(
    model: StatisticalModel, mass: int, pairs: ToyPairs, arguments: argparse.Namespace
) -> SensitivityBand:
    """Return the band of limits of background-only toys with nominal nuisances, with critical values from toys."""
    curve = critical_values(pairs, 0.9)
    points = model.parameters.vector({POI: 0.0})[None]
    plan = StudyPlan(path=arguments.folder / f"wimp{mass}_limits.h5", executor=make_executor(arguments.workers))
    limits = toy_limits(model.parameters, model.runs, POI, points, arguments.toys, 7, curve, 0.9, plan=plan)
    return sensitivity_band(limits)


def limit_table(rows: Sequence[Row]) -> list[str]:
    """Return the limits as a Markdown table."""
    lines = [
        "| mass [GeV] | nuisances of the toys | c(mu) | limit | published | ratio | c(0) | c(asymptotic limit) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for mass in dict.fromkeys(r.mass for r in rows):
        first = next(r for r in rows if r.mass == mass)
        ratio = first.asymptotic / first.published
        lines.append(
            f"| {mass} | none: asymptotic | 2.706 | {first.asymptotic:.4g} | {first.published:.4g} | {ratio:.3f} | | |"
        )
        lines += [
            f"| {mass} | {r.nuisances} | {r.smoothing} | {r.limit:.4g} +- {r.error:.2g} | {r.published:.4g} | "
            f"{r.limit / r.published:.3f} | {r.critical_at_zero:.3f} | {r.critical_at_asymptotic:.3f} |"
            for r in rows
            if r.mass == mass
        ]
    return lines


def band_table(bands: Mapping[int, SensitivityBand], known: Mapping[int, Mapping[str, float]]) -> list[str]:
    """Return the expected limits beside the published ones as a Markdown table."""
    names = ("m2sigma", "m1sigma", "median", "p1sigma", "p2sigma")
    lines = ["| mass [GeV] | | -2 sigma | -1 sigma | median | +1 sigma | +2 sigma |", "|---|---|---|---|---|---|---|"]
    for mass, band in bands.items():
        spread = [
            (h - w) / 2 if h is not None and w is not None else None for w, h in zip(band.low, band.high, strict=True)
        ]
        ours = [f"{v:.4g} +- {e:.2g}" if e is not None else "-" for v, e in zip(band.values, spread, strict=True)]
        lines.append(f"| {mass} | toys | {' | '.join(ours)} |")
        theirs = [f"{known[mass][f'sensitivity_{n}_cm2']:.4g}" for n in names]
        lines.append(f"| {mass} | published | {' | '.join(theirs)} |")
    return lines


def draw(
    found: Mapping[int, Mapping[str, ToyPairs]], models: Mapping[int, StatisticalModel], rows: Sequence[Row]
) -> Figure:
    """Draw c(mu) of every construction with t(mu) of the data."""
    figure = Figure(figsize=(5.2 * len(found), 4.4), layout="constrained")
    for axes, (mass, by_name) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        first = next(r for r in rows if r.mass == mass)
        x = np.linspace(0, 1.25 * first.asymptotic, 61)
        t = models[mass].profile(POI, x.tolist()).t
        axes.plot(x, [np.nan if v is None else v for v in t], color="#222222", lw=1.6, label="t of the data")
        for colour, (name, pairs) in zip(COLOURS[4:], by_name.items(), strict=False):
            curve = critical_values(pairs, 0.9)
            inside = np.array(curve.mu) <= 1.251 * first.asymptotic
            spread = np.array([np.array(curve.value) - curve.low, np.array(curve.high) - curve.value])
            axes.errorbar(
                np.array(curve.mu)[inside],
                np.array(curve.value)[inside],
                spread[:, inside],
                fmt="o",
                ms=3,
                color=colour,
            )
            axes.plot(x, curve(torch.from_numpy(x)).numpy(), color=colour, lw=1.4, label=f"toys, nuisances {name}")
        axes.axhline(2.7055, color="#999999", ls="--", lw=1, label="asymptotic")
        axes.axvline(first.published, color="#D55E00", ls=":", lw=1.2, label="published limit")
        axes.set(xlabel="rate multiplier (sigma / 1e-45 cm2)", title=f"{mass} GeV", xlim=(0, x[-1]), ylim=(0, 3.6))
        axes.legend(frameon=False, fontsize=8)
    figure.axes[0].set_ylabel("90 % critical value of t")
    return figure


def main() -> None:
    """Run the constructions, print the tables and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toys", type=int, default=5000)
    parser.add_argument("--masses", type=int, nargs="+", default=[6, 10])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/xenonnt_limits"))
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    release = Path(os.environ.get("XEFLOW_SHARED", "../shared")) / "data" / "xenonnt_light_wimp"
    console, known = Console(soft_wrap=True, highlight=False), published(release)
    torch.set_num_threads(1)
    models, found, rows, bands = {}, {}, [], {}
    start = time.process_time()
    for mass in arguments.masses:
        model = models[mass] = load_model(release, mass)
        asymptotic = model.interval(POI).upper.value or 0.0
        found[mass] = construct(model, mass, asymptotic, arguments)
        for name, pairs in found[mass].items():
            limit = known[mass]["unconstrained_upper_limit_cm2"]
            rows += rows_of(model, mass, name, pairs, asymptotic, limit)
        bands[mass] = expected_band(model, mass, found[mass]["nominal"], arguments)
    for line in [*limit_table(rows), "", *band_table(bands, known)]:
        console.print(line)
    console.print(f"\n{time.process_time() - start:.0f} CPU s in this process")
    console.print(f"figure {save_figure(draw(found, models, rows), arguments.folder / 'critical_values.png')}")
    if arguments.json is not None:
        record = {"rows": [asdict(r) for r in rows], "bands": {m: b.to_dict() for m, b in bands.items()}}
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
