"""Converting event files of other programs, with a mapping, into event files that train surrogates.

The conversion streams: memory does not grow with the file. Units are converted, events are checked against the windows
of the observables, and theta and counts end up per block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from surrogate.atomic import replacing_file
from surrogate.errors import ConfigError, DataError
from training.event_mapping import AttributeValue, CountColumn, EventMapping, FileTheta, ThetaTable
from training.event_writer import EventStream
from training.events import AnyArray, EventSchema, FloatArray, IntArray
from training.foreign_files import ForeignFile, open_foreign


@dataclass(frozen=True)
class ConversionRecord:
    """What a conversion did: events read, kept in the windows, and blocks."""

    path: str
    n_read: int
    n_kept: int
    n_blocks: int

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain data."""
        return asdict(self)


@dataclass
class _BlockTable:
    """Blocks found so far: theta rows and generated counts, over all files."""

    theta: list[FloatArray] = field(default_factory=list)
    n_generated: list[IntArray | None] = field(default_factory=list)
    size: int = 0

    def add(self, theta: FloatArray, n_generated: IntArray | None) -> int:
        """Append blocks and return the number of the first of them."""
        first = self.size
        self.theta.append(theta)
        self.n_generated.append(n_generated)
        self.size += len(theta)
        return first

    def joined(self, dim: int) -> tuple[FloatArray, IntArray | None]:
        """Return theta (nb, K) and the counts, None where any are unknown."""
        theta = np.concatenate([np.zeros((0, dim)), *self.theta])
        known = [n for n in self.n_generated if n is not None]
        return theta, np.concatenate(known) if known and len(known) == len(self.n_generated) else None


def convert_events(mapping: EventMapping, files: Sequence[Path], target: Path) -> ConversionRecord:
    """Convert files of one source into one event file, written atomically.

    Parameters
    ----------
    mapping
        What their columns mean (:func:`training.event_mapping.read_mapping`).
    files
        HDF5, NPZ, CSV or Parquet files.
    target
        The event file to write.

    Raises
    ------
    ConfigError
        If a column of the mapping does not exist, or the files disagree in their generated rate.
    DataError
        If values are not finite, an event lies outside the windows (unless the mapping drops those), a theta lies
        outside its range, or a block kept more events than were generated.
    """
    if not files:
        raise ConfigError("events: at least one file is needed")
    table, counted = _BlockTable(), [0, 0]
    schema = _schema(mapping, files)
    with replacing_file(target) as temporary, h5py.File(temporary, "w") as out:
        stream = EventStream(out, schema)
        for path in files:
            with open_foreign(path) as file:
                for rows, n_read in _rows(mapping, file, table):
                    stream.append(rows)
                    counted[0] += n_read
                    counted[1] += len(rows["events/block"])
        blocks = stream.finish(*table.joined(len(mapping.nuisances)))
    return ConversionRecord(str(target), counted[0], counted[1], len(blocks.theta))


def _schema(mapping: EventMapping, files: Sequence[Path]) -> EventSchema:
    rates = {_generated_rate(mapping, path) for path in files}
    if len(rates) > 1:
        raise ConfigError(f"events: the files differ in their generated rate ({sorted(map(str, rates))}); convert each")
    metadata = {
        "converted_from": {path.name: _hash(path) for path in files},
        "mapping": mapping.model_dump(mode="json"),
    }
    truth = tuple(t.name for t in mapping.truth)
    rate = rates.pop()
    return EventSchema(mapping.space, mapping.nuisance_space, rate, metadata, truth, mapping.weight is not None)


def _generated_rate(mapping: EventMapping, path: Path) -> float | None:
    if isinstance(mapping.generated_rate, AttributeValue):
        with open_foreign(path) as file:
            return file.attribute(mapping.generated_rate.attribute)
    return mapping.generated_rate


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _rows(mapping: EventMapping, file: ForeignFile, table: _BlockTable) -> Iterator[tuple[dict[str, AnyArray], int]]:
    """Yield converted rows of one file with the number of events read, and enter its blocks in the table."""
    first = _file_blocks(mapping, file, table)
    theta = mapping.theta
    per_event = [n.name if n.column is None else str(n.column) for n in mapping.nuisances] if theta == "columns" else []
    names = [*(o.source for o in mapping.observables), *(t.source for t in mapping.truth), *per_event]
    names += [mapping.weight] if mapping.weight else []
    names += [theta.index] if isinstance(theta, ThetaTable) else []
    for slab in file.slabs(sorted(set(names))):
        rows = _converted(mapping, slab)
        inside = _inside(mapping, rows, file.path)
        if isinstance(theta, ThetaTable):
            block = first + _checked_index(slab[theta.index], table.size - first, file.path)
        elif theta == "columns":
            block = _unique_blocks(mapping, np.stack([slab[name] for name in per_event], axis=1), table)
        else:
            block = np.full(len(inside), first)
        rows["events/block"] = block.astype(np.int32)
        yield {path: column[inside] for path, column in rows.items()}, len(inside)


def _converted(mapping: EventMapping, slab: dict[str, AnyArray]) -> dict[str, AnyArray]:
    """Return observables, truth and weights in the units of the mapping."""
    rows: dict[str, AnyArray] = {
        f"events/{o.name}": (slab[o.source] * o.factor).astype(np.float32) for o in mapping.observables
    }
    rows |= {f"truth/{t.name}": (slab[t.source] * t.factor).astype(np.float32) for t in mapping.truth}
    if mapping.weight:
        rows["events/weight"] = slab[mapping.weight].astype(np.float32)
    return rows


def _inside(mapping: EventMapping, rows: dict[str, AnyArray], path: Path) -> AnyArray:
    """Return which events lie in all windows.

    Raises
    ------
    DataError
        For a value that is not finite, or, unless the mapping drops them, an event outside.
    """
    for name, column in rows.items():
        if not np.isfinite(column).all():
            raise DataError(
                f"{path}: {name.split('/')[1]} has a value that is not finite (row {np.argmin(np.isfinite(column))})"
            )
    inside = np.ones(len(next(iter(rows.values()))), dtype=bool)
    for o in mapping.observables:
        column = rows[f"events/{o.name}"].astype(np.float64)
        within = (column >= o.low) & (column <= o.high)
        if mapping.outside == "error" and not within.all():
            value = column[~within][0]
            raise DataError(
                f"{path}: {o.name} = {value:g} {o.unit} lies outside its window [{o.low:g}, {o.high:g}]; "
                "correct the window or the factor, or say outside: drop (the acceptance then includes the window)"
            )
        inside &= within
    return inside


def _checked_index(index: AnyArray, n: int, path: Path) -> AnyArray:
    if len(index) and (index.min() < 0 or index.max() >= n):
        raise DataError(f"{path}: theta index {index.min()} .. {index.max()} must be in 0 .. {n - 1}")
    return index


def _file_blocks(mapping: EventMapping, file: ForeignFile, table: _BlockTable) -> int:
    """Enter the blocks that a file declares, and return the number of its first block."""
    theta = mapping.theta
    if isinstance(theta, ThetaTable):
        return _table_blocks(mapping, theta, file, table)
    if theta == "columns":
        return table.size
    if theta is None:
        generated = mapping.n_generated if isinstance(mapping.n_generated, int) else None
        return table.add(np.zeros((1, 0)), None if generated is None else np.array([generated]))
    found = [entry for entry in theta if isinstance(entry, FileTheta) and Path(file.path).match(entry.file)]
    if len(found) != 1:
        raise ConfigError(f"{file.path}: {len(found)} entries under theta match this file, must be one")
    values = np.array([[_value(found[0], n.name) for n in mapping.nuisances]])
    _check_theta(mapping, values, file.path)
    generated = found[0].n_generated
    return table.add(values, None if generated is None else np.array([generated]))


def _value(entry: FileTheta, name: str) -> float:
    if name not in entry.values:
        raise ConfigError(f"theta of {entry.file}: it gives no value for '{name}'")
    return entry.values[name]


def _table_blocks(mapping: EventMapping, theta: ThetaTable, file: ForeignFile, table: _BlockTable) -> int:
    values = np.atleast_2d(file.array(theta.table)).astype(np.float64)
    columns = [n.column for n in mapping.nuisances if isinstance(n.column, int)]
    if max(columns) >= values.shape[1]:
        raise ConfigError(
            f"{file.path}: '{theta.table}' has {values.shape[1]} columns, the mapping asks for {max(columns)}"
        )
    values = values[:, columns] * np.array([n.factor for n in mapping.nuisances])
    _check_theta(mapping, values, file.path)
    counts = mapping.n_generated
    generated = file.array(counts.column).astype(np.int64) if isinstance(counts, CountColumn) else None
    if generated is not None and len(generated) != len(values):
        raise DataError(f"{file.path}: {len(generated)} generated counts for {len(values)} rows of theta")
    return table.add(values, generated)


def _unique_blocks(mapping: EventMapping, values: AnyArray, table: _BlockTable) -> AnyArray:
    """Enter the distinct thetas of a slab as blocks, and return the block of each event."""
    scaled = values.astype(np.float64) * np.array([n.factor for n in mapping.nuisances])
    unique, index = np.unique(scaled, axis=0, return_inverse=True)
    _check_theta(mapping, unique, None)
    return table.add(unique, None) + index.reshape(-1)


def _check_theta(mapping: EventMapping, theta: FloatArray, path: Path | None) -> None:
    """Raise unless every theta lies in the ranges of the mapping."""
    for k, n in enumerate(mapping.nuisances):
        outside = ~((theta[:, k] >= n.low) & (theta[:, k] <= n.high))
        if outside.any():
            raise DataError(
                f"{path or 'events'}: {n.name} = {theta[outside, k][0]:g} {n.unit} lies outside its range "
                f"[{n.low:g}, {n.high:g}]; correct the range or the factor"
            )
