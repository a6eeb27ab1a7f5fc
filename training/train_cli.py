"""The verb ``train``: apart from the others, since Lightning takes seconds to import."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from surrogate.atomic import write_json
from surrogate.errors import ConfigError
from training.config import load_config
from training.train import train as run_training
from training.train import train_member
from training.train_record import FlowRecord, TrainRecord


def train(
    config: Annotated[
        Path, typer.Argument(help="Training: a YAML file, or the name of a shipped one.", show_default=False)
    ],
    events: Annotated[list[Path] | None, typer.Option(help="Event file to use instead of the configured one.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Directory of the surrogate, instead of the configured.")
    ] = None,
    runs: Annotated[Path | None, typer.Option(help="Directory of logs and resumable states.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: optimiser.passes=5.")
    ] = None,
    member: Annotated[
        int | None, typer.Option(metavar="K", help="Train only member K of the ensemble, from 0, and no checkpoint.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Start afresh instead of continuing.")] = False,
    record: Annotated[Path | None, typer.Option("--json", metavar="FILE|-", help="Write the record as JSON.")] = None,
) -> int:
    """Train the surrogate of one source from an event file.

    Run again after an interruption, the same command continues where it stopped. An ensemble is trained member by
    member; those that --member has trained before, on a cluster, are taken as they are.
    """
    overrides = dict(_key_and_value(text) for text in change or [])
    if events:
        overrides["data.events"] = json.dumps([str(path) for path in events])
    if checkpoint is not None:
        overrides["checkpoint"] = json.dumps(str(checkpoint))
    if runs is not None:
        overrides["runs"] = json.dumps(str(runs))
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # it has a handler of its own, and advertises
    settings = load_config(config, overrides)
    result: TrainRecord | FlowRecord
    if member is None:
        result = run_training(settings, config.parent, restart)
        distilled = [result.distilled] if result.distilled else []
        tables = [_source_table(result), _flow_table([*result.members, *distilled])]
    else:
        result = train_member(settings, member, config.parent, restart)
        tables = [_flow_table([result])]
    if record is not None and str(record) == "-":
        sys.stdout.write(json.dumps(result.to_dict(), indent=2) + "\n")
        return 0
    if record is not None:
        write_json(record, result.to_dict())
    console = Console()
    for table in tables:
        console.print(table)
    return 0


def _key_and_value(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise ConfigError(f"--set {text}: must be KEY=VALUE, such as optimiser.passes=5")
    return key.strip(), value


def _source_table(record: TrainRecord) -> Table:
    table = Table(title=record.name, show_header=False)
    table.add_row("checkpoint", record.checkpoint)
    table.add_row("NLL, held out", f"{record.held_out_nll:.5f} +- {record.held_out_error:.5f}")
    table.add_row(
        "acceptance",
        f"degree {record.acceptance_degree}, chi2 {record.acceptance_chi2:.1f} for {record.acceptance_n_dof} degrees "
        f"of freedom, {record.n_events:,} accepted events",
    )
    table.add_row("CPU time", f"{record.cpu_seconds:.0f} s")
    return table


def _flow_table(records: Sequence[FlowRecord]) -> Table:
    table = Table("training", "ended", "best step", "NLL, held out", "CPU s")
    for r in records:
        held_out = f"{r.held_out_nll:.4f} +- {r.held_out_error:.4f}"
        table.add_row(r.name, r.stopped, f"{r.best_step} of {r.steps}", held_out, f"{r.cpu_seconds:.0f}")
    return table
