"""Figures measured, as records in a JSON file: one file a benchmark, one record a figure."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from measure import Cost, machine, versions
from rich.console import Console
from rich.table import Table

FORMAT = 1
STORED = Path(__file__).resolve().parent / "results"
"""The figures that the repository states."""


@dataclass(frozen=True)
class Peer:
    """The same work done by other software.

    Attributes
    ----------
    name
        Package and version.
    value
        In the unit of the record.
    source
        ``measured`` in the same run, or ``cited``.
    """

    name: str
    value: float
    source: Literal["measured", "cited"]


@dataclass(frozen=True)
class Record:
    """One figure.

    Attributes
    ----------
    name
        What was measured, unique in its benchmark.
    value, unit
        The figure.
    better
        Whether less or more is better.
    target
        What was to be reached, in the same unit.
    target_ratio
        By how much the peer was to be beaten.
    floor, floor_text
        What the hardware allows at best, in the same unit, and how that follows from bytes moved or operations.
    peers
        Others at the same work.
    scales
        Whether the figure scales with the speed of the machine; errors and slopes do not.
    cost
        CPU seconds, wall seconds, peak memory and repeats of the run behind the figure.
    note
        What a reader must know besides.
    """

    name: str
    value: float
    unit: str
    better: Literal["lower", "higher"] = "lower"
    target: float | None = None
    target_ratio: float | None = None
    floor: float | None = None
    floor_text: str = ""
    peers: tuple[Peer, ...] = ()
    scales: bool = True
    cost: Cost | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """By how much the best peer is beaten, > 1 where this package is faster; None without a peer."""
        ratios = [p.value / self.value if self.better == "lower" else self.value / p.value for p in self.peers]
        return min(ratios) if ratios else None

    @property
    def reached(self) -> bool | None:
        """Whether the targets are reached, None if there is none."""
        ratio, found = self.ratio, []
        if self.target is not None:
            found.append(self.value <= self.target if self.better == "lower" else self.value >= self.target)
        if self.target_ratio is not None and ratio is not None:
            found.append(ratio >= self.target_ratio)
        return all(found) if found else None


@dataclass(frozen=True)
class Results:
    """All figures of one benchmark with the machine they were measured on."""

    benchmark: str
    command: str
    records: tuple[Record, ...]
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    date: str = ""
    format: int = FORMAT

    def write(self, folder: Path) -> Path:
        """Write ``<folder>/<benchmark>.json`` and return its path."""
        data = asdict(self)
        for row, record in zip(data["records"], self.records, strict=True):
            row["ratio"] = record.ratio
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.benchmark}.json"
        path.write_text(json.dumps(_rounded(data), indent=2) + "\n")
        return path

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read what :meth:`write` wrote; exit with a message where the format is another."""
        data = json.loads(path.read_text())
        if data.get("format") != FORMAT:
            raise SystemExit(f"{path}: format {data.get('format')} is not {FORMAT}; run the benchmark again")
        names = {f.name for f in fields(Record)}
        records = []
        for row in data["records"]:
            values = {key: value for key, value in row.items() if key in names}
            values["peers"] = tuple(Peer(**peer) for peer in row["peers"])
            values["cost"] = None if row["cost"] is None else Cost(**row["cost"])
            records.append(Record(**values))
        return cls(**{**data, "records": tuple(records)})


def _rounded(data: Any) -> Any:
    """Return the data with floating-point numbers cut to four digits."""
    if isinstance(data, float):
        return float(f"{data:.4g}")
    if isinstance(data, dict):
        return {key: value if key == "calibration_s" else _rounded(value) for key, value in data.items()}
    return [_rounded(value) for value in data] if isinstance(data, list | tuple) else data


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks share; sets torch to one thread."""
    torch.set_num_threads(1)
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--output", type=Path, default=Path("runs/benchmarks"), help="folder of the records")
    made.add_argument("--quick", action="store_true", help="fewer repetitions and smaller studies")
    return made


def finish(
    benchmark: str,
    command: str,
    records: Sequence[Record],
    options: argparse.Namespace,
    packages: Sequence[str] = (),
) -> int:
    """Print the figures and write them; return 1 if a target is missed."""
    results = Results(
        benchmark,
        f"{command} --quick" if options.quick else command,
        tuple(records),
        machine(),
        versions(*packages),
        datetime.now(UTC).date().isoformat(),
    )
    console = Console(highlight=False)
    console.print(table(results))
    console.print(f"written to {results.write(options.output)}", soft_wrap=True)
    return int(any(record.reached is False for record in records))


def table(results: Results) -> Table:
    """Return the figures for a terminal."""
    made = Table(title=results.benchmark)
    for column in ("figure", "value", "target", "floor", "peers", "ratio"):
        made.add_column(column, justify="left" if column in ("figure", "peers") else "right")
    for record in results.records:
        made.add_row(*row(record))
    return made


def row(record: Record) -> tuple[str, ...]:
    """Return name, value, target, floor, peers and ratio of a figure as text."""
    sign = "<=" if record.better == "lower" else ">="
    targets = [] if record.target is None else [f"{sign} {_figure(record.target)}"]
    targets += [] if record.target_ratio is None else [f"{record.target_ratio:g}x"]
    cited = {"cited": " (cited)", "measured": ""}
    peers = [f"{peer.name} {_figure(peer.value)}{cited[peer.source]}" for peer in record.peers]
    return (
        record.name,
        f"{_figure(record.value)} {record.unit}",
        ", ".join(targets),
        "" if record.floor is None else _figure(record.floor),
        "; ".join(peers),
        "" if record.ratio is None else f"{record.ratio:.0f}x" if record.ratio >= 100 else f"{record.ratio:.2g}x",
    )


def _figure(value: float) -> str:
    return f"{value:.3g}"
