"""The verbs ``simulate``, ``validate`` and ``inspect``: each parses, calls one public function, prints and writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from surrogate.atomic import write_json
from surrogate.certificate import Certificate
from surrogate.checkpoint import describe_checkpoint
from surrogate.errors import ConfigError
from surrogate.locks import only_writer
from surrogate.shipped import checkpoint_path
from training.criteria import Criterion, Thresholds
from training.plots import save_figure
from training.progress import SimulationBar
from training.simulation import simulate_to_file
from training.simulator_config import read_simulation
from training.template_plots import plot_templates
from training.template_validation import TemplateComparison, compare_with_templates
from training.threads import torch_threads
from training.truth import TruthComparison, compare_with_truth
from training.validation_job import data_hashes, validate_checkpoint

CheckpointArgument = Annotated[
    Path, typer.Argument(help="Directory of the surrogate, or the name of a shipped one.", show_default=False)
]
JsonOption = Annotated[Path | None, typer.Option("--json", metavar="FILE|-", help="Write the record as JSON.")]


def simulate(
    config: Annotated[
        Path, typer.Argument(help="Simulation: a YAML file, or the name of a shipped one.", show_default=False)
    ],
    output: Annotated[Path, typer.Argument(help="Event file to write (HDF5).", show_default=False)],
    workers: Annotated[int | None, typer.Option(help="Threads; all cores by default.")] = None,
    json_file: JsonOption = None,
) -> int:
    """Simulate events of one source into an event file.

    Run again after an interruption, the same command continues where it stopped.
    """
    plan = read_simulation(config)
    with only_writer(output), SimulationBar(plan.source.name) as bar:
        record = simulate_to_file(plan, output, workers, progress=bar.show)
    rows = {
        "event file": record.path,
        "accepted": f"{record.n_accepted:,} of {record.n_generated:,} generated",
        "expected": f"{record.mean_expected:.4g} +- {record.mean_expected_std:.2g} per tonne-year, mean over theta",
        "CPU time": f"{record.cpu_seconds:.1f} s, {record.n_generated / max(record.cpu_seconds, 1e-9):.3g} events/s",
    }
    _report(record.to_dict(), json_file, _table(record.source, rows))
    return 0


def validate(
    checkpoint: CheckpointArgument,
    events: Annotated[
        list[Path] | None, typer.Option(help="Fresh event files; by default the training's simulation with a new seed.")
    ] = None,
    n_events: Annotated[int, typer.Option("--events-number", help="Accepted events to simulate.")] = 4_000_000,
    seed: Annotated[int, typer.Option(help="Seed of the simulation and of all random choices.")] = 20_000,
    figures: Annotated[Path | None, typer.Option(help="Directory of the figures.")] = None,
    threshold: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Change a threshold: score_bias=0.1.")
    ] = None,
    truth: Annotated[
        list[Path] | None, typer.Option(help="Compare with files of exact densities or rates instead.")
    ] = None,
    templates: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|YAML",
            help="Compare with binned templates instead: those of the training, or of a description.",
        ),
    ] = None,
    exposure: Annotated[float, typer.Option(help="Of the pulls against templates, in tonne-years.")] = 1.0,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
    json_file: JsonOption = None,
) -> int:
    """Certify a surrogate against fresh events.

    Exit code 1 if it fails; the certificate, either way, goes into the checkpoint. Comparisons with templates and with
    exact densities leave the certificate alone.
    """
    checkpoint = checkpoint_path(checkpoint)
    if templates is not None:
        with torch_threads(threads):
            compared = compare_with_templates(checkpoint, templates, exposure)
        if figures is not None:
            save_figure(plot_templates(compared), figures / "templates.png")
        _report(compared.to_dict(), json_file, _template_table(compared))
        return 0
    if truth:
        comparisons = [compare_with_truth(checkpoint, path) for path in truth]
        tables = [_truth_table(comparison) for comparison in comparisons]
        _report({"truth": [c.to_dict() for c in comparisons]}, json_file, *tables)
        return 0
    thresholds = Thresholds.from_mapping(dict(_name_and_number(text) for text in threshold or []))
    record = validate_checkpoint(checkpoint, events or [], n_events, seed, thresholds, figures, threads)
    title = f"{record.checkpoint}: {'passed' if record.passed else 'not passed'}, {record.n_events:,} fresh events"
    _report(record.to_dict(), json_file, _criteria_table(title, record.criteria), *record.advice)
    return 0 if record.passed else 1


def inspect(
    checkpoint: CheckpointArgument,
    json_file: JsonOption = None,
) -> int:
    """Print what a checkpoint holds."""
    content = describe_checkpoint(checkpoint_path(checkpoint))
    _report(content, json_file, *_checkpoint_tables(content))
    return 0


def _report(record: Mapping[str, Any], json_file: Path | None, *shown: Table | str) -> None:
    """Print tables and lines, or the record as JSON to standard output; write it where a file is given."""
    if json_file is not None and str(json_file) == "-":
        sys.stdout.write(json.dumps(record, indent=2) + "\n")
        return
    if json_file is not None:
        write_json(json_file, record)
    console = Console()
    for part in shown:
        console.print(part)


def _name_and_number(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise ConfigError(f"--threshold {text}: must be NAME=VALUE with a number, such as score_bias=0.1") from None


def _table(title: str, rows: Mapping[str, str]) -> Table:
    table = Table(title=title, show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _criteria_table(title: str, criteria: Sequence[Criterion]) -> Table:
    table = Table(title=title, caption="a value passes below threshold + allowance for its error")
    for heading in ("criterion", "value", "error", "threshold", "passes below", "blunt", ""):
        table.add_column(heading, justify="left" if heading in ("criterion", "") else "right")
    colours = {"ok": "green", "undecided": "yellow", "fails": "red"}
    for c in criteria:
        numbers = f"{c.value:.4f}", f"{c.error:.4f}", f"{c.threshold:g}", f"{c.limit:.4f}", f"{c.bluntness:.2f}"
        table.add_row(c.name, *numbers, f"[{colours[c.verdict]}]{c.verdict}[/]")
    return table


def _template_table(comparison: TemplateComparison) -> Table:
    bins = " x ".join(str(n) for n in comparison.bins.values())
    table = Table(title=f"{comparison.checkpoint}: {bins} bins, exposure {comparison.exposure:g}")
    for heading in ("anchors", "of", "number", "rate, rms", "shape, rms", "chi2, mean", "largest", "largest pull"):
        table.add_column(heading, justify="left" if heading in ("anchors", "of") else "right")
    for row in comparison.summary():
        deviations = f"{100 * row['rate_rms']:.3f} %", f"{100 * row['shape_rms']:.3f} %"
        chi2 = f"{row['chi2_mean']:.2g}", f"{row['chi2_largest']:.2g}"
        table.add_row(row["anchors"], row["of"], str(row["number"]), *deviations, *chi2, f"{row['largest_pull']:+.2g}")
    if comparison.outside:
        table.caption = f"{comparison.outside} anchors lie outside the ranges of the surrogate"
    return table


def _truth_table(comparison: TruthComparison) -> Table:
    rows = {}
    if comparison.n_events:
        rows = {
            "events": f"{comparison.n_events}",
            "mean of ln(f_exact/f_flow)": f"{comparison.mean:.5f} +- {comparison.mean_error:.5f}",
            "rms": f"{comparison.rms:.4f}",
            "99 % quantile of |ln(f_exact/f_flow)|": f"{comparison.quantile_99:.4f}",
        }
    rows["mu_flow/mu_exact - 1, rms"] = f"{100 * comparison.rate_rms:.3f} % at {comparison.n_theta} thetas"
    rows["worst"] = f"{100 * comparison.rate_worst:.3f} %"
    for shift in comparison.fits:
        where, to = (", ".join(f"{v:g}" for v in theta) for theta in (shift.origin, shift.other))
        sizes = ", ".join(f"{value:.3f} ({n} events)" for n, value in shift.shifts.items())
        rows[f"fits at ({where})"] = f"move by {sizes} sigma towards ({to}), {shift.distance:.1f} sigma away"
    return _table(f"{comparison.checkpoint} against {comparison.truth}", rows)


def _checkpoint_tables(content: Mapping[str, Any]) -> list[Table]:
    spaces = Table(title="observables and nuisance parameters")
    for heading in ("name", "unit", "low", "high", "scale", "nominal"):
        spaces.add_column(heading)
    for o in (*content["observables"], *content["nuisances"]):
        nominal = f"{o['nominal']:g}" if "nominal" in o else ""
        spaces.add_row(o["name"], o["unit"], f"{o['low']:g}", f"{o['high']:g}", o["scale"], nominal)
    metadata, architecture, certificate = content["metadata"], content["architecture"], content["certificate"]
    rows = {
        "architecture": ", ".join(
            f"{k} {architecture[k]}" for k in ("family", "components", "hidden", "blocks", "layers")
        ),
        "ordering": ", ".join(architecture["ordering"]) or "default",
        "guides": ", ".join(f"{g['kind']} on {g['observable']}" for g in architecture["guides"]) or "none",
        "members": _members(content["members"]),
        "weights": f"{content['n_weights']:,} ({content['size_bytes'] / 1e6:.2f} MB)",
        "generated rate": f"{content['members'][0]['generated_rate']:.6g} per tonne-year",
        "acceptance": "degree {degree}, chi2 {chi2:.1f} for {n_dof} degrees of freedom".format_map(
            content["members"][0]["acceptance"]
        ),
        "training data": ", ".join(data_hashes(metadata)) or "unknown",
        "NLL, held out": str(metadata.get("metrics", {}).get("held_out_nll", "unknown")),
        "versions": ", ".join(f"{k} {v}" for k, v in content["versions"].items()),
        "identity": content["identity"],
        "certificate": "none: run 'xeflow validate'" if certificate is None else Certificate(**certificate).verdict,
    }
    tables = [spaces, _table(str(metadata.get("name", "surrogate")), rows)]
    measured = [] if certificate is None else certificate["metrics"].get("criteria", [])
    if measured:
        title = f"certificate, {certificate['metrics']['n_events']:,} fresh events"
        tables.append(_criteria_table(title, [Criterion.from_dict(c) for c in measured]))
    return tables


def _members(members: Sequence[Mapping[str, Any]]) -> str:
    """Say how many members there are, and what their training events have in common."""
    shared = {
        "none": "trained on events of their own",
        "bootstrap": "trained on bootstraps of the same events",
        "all": "trained on the same events",
    }
    sharing = members[0].get("sharing")
    return str(len(members)) if sharing is None else f"{len(members)}, {shared[sharing]}"
