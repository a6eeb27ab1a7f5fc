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

    def count(self, rows: IntArray) -> None:
        """Count generated events of the blocks added last: the number of its block there, for each."""
        known = self.n_generated.pop()
        counts = np.bincount(rows, minlength=len(self.theta[-1]))
        self.n_generated.append(counts if known is None else known + counts)

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
    names = [*(o.source for o in mapping.observables), *(t.source for t in mapping.truth)]
    names += [name for name in (mapping.weight, mapping.kept) if name is not None]
    names += [theta.index] if isinstance(theta, ThetaTable) else []
    names += [n.source for n in mapping.nuisances] if theta == "columns" else []
    start = 0
    for slab in file.slabs(sorted(set(names))):
        block = _slab_blocks(mapping, slab, first, table, file.path)
        kept = np.arange(len(block)) if mapping.kept is None else np.flatnonzero(slab[mapping.kept])
        rows = _converted(mapping, {name: column[kept] for name, column in slab.items()})
        rows["events/block"] = block[kept].astype(np.int32)
        inside = _inside(mapping, rows, file.path, start + kept)
        yield {path: column[inside] for path, column in rows.items()}, len(block)
        start += len(block)


def _slab_blocks(
    mapping: EventMapping, slab: dict[str, AnyArray], first: int, table: _BlockTable, path: Path
) -> IntArray:
    """Return the block of each row, and count the rows as generated events where they are."""
    theta, length = mapping.theta, len(next(iter(slab.values())))
    if theta == "columns":
        return _unique_blocks(mapping, slab, table, path)
    block: IntArray = np.zeros(length, dtype=np.int64)
    if isinstance(theta, ThetaTable):
        block = _checked_index(slab[theta.index], table.size - first, path)
    if mapping.n_generated == "rows":
        table.count(block)
    return first + block


def _converted(mapping: EventMapping, slab: dict[str, AnyArray]) -> dict[str, AnyArray]:
    """Return observables, truth and weights in the units of the mapping."""
    rows: dict[str, AnyArray] = {
        f"events/{o.name}": (slab[o.source] * o.factor).astype(np.float32) for o in mapping.observables
    }
    rows |= {f"truth/{t.name}": (slab[t.source] * t.factor).astype(np.float32) for t in mapping.truth}
    if mapping.weight:
        rows["events/weight"] = slab[mapping.weight].astype(np.float32)
    return rows


def _inside(mapping: EventMapping, rows: dict[str, AnyArray], path: Path, number: IntArray) -> AnyArray:
    """Return which events, of these row numbers in the file, lie in all windows.

    Raises
    ------
    DataError
        For a value that is not finite, or, unless the mapping drops them, an event outside.
    """
    for name, column in rows.items():
        if not np.isfinite(column).all():
            row = number[np.argmin(np.isfinite(column))]
            raise DataError(f"{path}: {name.split('/')[1]} has a value that is not finite (row {row}, counted from 0)")
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


def _checked_index(index: AnyArray, n: int, path: Path) -> IntArray:
    wrong = ~((index >= 0) & (index < n) & (index == np.floor(index)))
    if wrong.any():
        raise DataError(f"{path}: theta index {index[wrong][0]:g} must be a whole number in 0 .. {n - 1}")
    return index.astype(np.int64)


def _file_blocks(mapping: EventMapping, file: ForeignFile, table: _BlockTable) -> int:
    """Enter the blocks that a file declares, and return the number of its first block."""
    theta = mapping.theta
    if isinstance(theta, ThetaTable):
        return _table_blocks(mapping, theta, file, table)
    if theta == "columns":
        return table.size
    if theta is None:
        return table.add(np.zeros((1, 0)), _stated(mapping, 1))
    found = [entry for entry in theta if isinstance(entry, FileTheta) and Path(file.path).match(entry.file)]
    if len(found) != 1:
        raise ConfigError(f"{file.path}: {len(found)} entries under theta match this file, must be one")
    values = np.array([[_value(found[0], n.name) for n in mapping.nuisances]])
    _check_theta(mapping, values, file.path)
    generated = found[0].n_generated
    return table.add(values, _stated(mapping, 1) if generated is None else np.array([generated]))


def _stated(mapping: EventMapping, n_blocks: int) -> IntArray | None:
    """Return the generated events that the mapping states for each block: none yet where rows are to be counted."""
    stated = 0 if mapping.n_generated == "rows" else mapping.n_generated
    return np.full(n_blocks, stated) if isinstance(stated, int) else None


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
    if not isinstance(counts, CountColumn):
        return table.add(values, _stated(mapping, len(values)))
    generated = file.array(counts.column).astype(np.int64)
    if len(generated) != len(values):
        raise DataError(f"{file.path}: {len(generated)} generated counts for {len(values)} rows of theta")
    return table.add(values, generated)


def _unique_blocks(mapping: EventMapping, slab: dict[str, AnyArray], table: _BlockTable, path: Path) -> IntArray:
    """Enter the distinct thetas of a slab as blocks with their numbers of rows, and return the block of each row."""
    values = np.stack([slab[n.source].astype(np.float64) * n.factor for n in mapping.nuisances], axis=1)
    unique, index, counts = np.unique(values, axis=0, return_inverse=True, return_counts=True)
    _check_theta(mapping, unique, path)
    return table.add(unique, counts) + index.reshape(-1)


def _check_theta(mapping: EventMapping, theta: FloatArray, path: Path) -> None:
    """Raise unless every theta lies in the ranges of the mapping."""
    for k, n in enumerate(mapping.nuisances):
        outside = ~((theta[:, k] >= n.low) & (theta[:, k] <= n.high))
        if outside.any():
            raise DataError(
                f"{path}: {n.name} = {theta[outside, k][0]:g} {n.unit} lies outside its range "
                f"[{n.low:g}, {n.high:g}]; correct the range or the factor"
            )
