"""Writing event files: segments that survive any interruption, joined into one file at the end.

A file appears under its name only when it is complete. Until then its segments lie in ``<name>.parts``, each written
under a temporary name and renamed: whatever kills the writer, finished segments are whole and the run resumes after
them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from surrogate.atomic import replacing_file, write_json
from surrogate.errors import ConfigError, DataError
from surrogate.observables import ObservableSpace
from training.events import CHUNK, AnyArray, Blocks, EventSchema, FloatArray, IntArray, read_blocks


@dataclass(frozen=True)
class Segment:
    """A stretch of an event file: blocks, and events with ``block`` counted from the first block of the segment."""

    blocks: Blocks
    x: FloatArray
    block: IntArray
    weight: FloatArray | None = None
    truth: Mapping[str, FloatArray] = field(default_factory=dict)

    def column(self, path: str, observables: ObservableSpace) -> AnyArray:
        """Return one event column by its dataset path."""
        group, name = path.split("/")
        if group == "truth":
            return self.truth[name]
        if name == "block":
            return self.block
        if name == "weight":
            if self.weight is None:
                raise DataError("segment: the schema says weighted, but no weights were given")
            return self.weight
        return self.x[:, observables.names.index(name)]


def check_segment(segment: Segment, schema: EventSchema) -> None:
    """Raise unless the segment fits the schema: shapes, block indices, events inside the region of interest.

    Raises
    ------
    DataError
        Naming what does not fit.
    """
    n, blocks = len(segment.block), segment.blocks
    nb = len(blocks.theta)
    if segment.x.shape != (n, schema.observables.dim) or blocks.theta.shape != (nb, schema.nuisances.dim):
        raise DataError(
            f"segment: x {segment.x.shape} and theta {blocks.theta.shape} must be ({n}, {schema.observables.dim}) and "
            f"({nb}, {schema.nuisances.dim})"
        )
    if not np.array_equal(np.bincount(segment.block, minlength=nb), blocks.n_accepted):
        raise DataError("segment: n_accepted must equal the number of events of each block")
    if blocks.n_generated is not None and (blocks.n_generated < blocks.n_accepted).any():
        raise DataError("segment: a block has more accepted than generated events")
    for d, o in enumerate(schema.observables.observables):
        column = segment.x[:, d]
        inside = (column >= np.float32(o.low)) & (column <= np.float32(o.high))
        if not inside.all():
            value = column[~inside][0]
            raise DataError(f"segment: {o.name} = {value} {o.unit} lies outside its window [{o.low}, {o.high}]")


class EventWriter:
    """Write an event file segment by segment; segments may come in any order and from any process.

    Parameters
    ----------
    path
        The event file. It appears when :meth:`finish` is called.
    schema
        What it will hold.
    identity
        Plain data that fixes the content of segment k. Segments left by an earlier run are taken over if it is equal.

    Raises
    ------
    ConfigError
        If the parts of an earlier, different run are in the way.
    """

    def __init__(self, path: Path, schema: EventSchema, identity: Mapping[str, Any]) -> None:
        self.path, self.schema = path, schema
        self.parts = path.with_name(path.name + ".parts")
        record = json.loads(json.dumps({"schema": schema.to_dict(), "identity": dict(identity)}))
        self._marker = self.parts / "identity.json"
        found = json.loads(self._marker.read_text()) if self._marker.exists() else None
        if found != record and any(self.parts.glob("*.h5")):
            raise ConfigError(
                f"{self.parts} holds the segments of a run with other settings; remove it, or choose another output"
            )
        if found != record:
            write_json(self._marker, record)

    def _part(self, index: int) -> Path:
        return self.parts / f"{index:08d}.h5"

    def has(self, index: int) -> bool:
        """Return whether segment ``index`` is already written."""
        return self._part(index).exists()

    def accepted(self, index: int) -> int:
        """Return the number of events of a written segment."""
        with h5py.File(self._part(index)) as part:
            return int(part["events/block"].shape[0])

    def write(self, index: int, segment: Segment) -> None:
        """Write one segment atomically.

        Raises
        ------
        DataError
            If it does not fit the schema, or cannot be written (a full disk): segments already written stay valid.
            If another process has finished or removed the run.
        """
        check_segment(segment, self.schema)
        if not self._marker.exists():
            raise DataError(f"{self.parts} was removed while segments were written to it; run the same command again")
        try:
            with replacing_file(self._part(index)) as temporary, h5py.File(temporary, "w") as part:
                _write_blocks(part, segment.blocks)
                for path in self.schema.columns:
                    part[path] = segment.column(path, self.schema.observables)
        except (OSError, RuntimeError) as error:
            raise DataError(self._write_failure(error)) from error

    def _write_failure(self, error: Exception) -> str:
        return (
            f"cannot write {self.path}: {error}; make room and run the same command again, it resumes where it stopped"
        )

    def finish(self, n_segments: int) -> Path:
        """Join segments 0 .. n_segments - 1 into the event file, remove the parts, and return the path.

        Raises
        ------
        DataError
            If a segment is missing or the file cannot be written; the segments stay.
        """
        missing = [k for k in range(n_segments) if not self.has(k)]
        if missing:
            raise DataError(f"{self.path}: segment {missing[0]} of {n_segments} is missing; write it before finishing")
        try:
            with replacing_file(self.path) as temporary:
                self._join(temporary, n_segments)
        except (OSError, RuntimeError) as error:
            raise DataError(self._write_failure(error)) from error
        shutil.rmtree(self.parts)
        return self.path

    def _join(self, target: Path, n_segments: int) -> None:
        parts = [self._part(k) for k in range(n_segments)]
        blocks = _concatenate(_read_blocks(part) for part in parts)
        with h5py.File(target, "w") as file:
            stream = EventStream(file, self.schema)
            first = 0
            for part in parts:
                rows, n_blocks = _read_rows(part, self.schema)
                rows["events/block"] = rows["events/block"] + np.int32(first)
                stream.append(rows)
                first += n_blocks
            stream.finish(blocks.theta, blocks.n_generated)


class EventStream:
    """Append events to an open, empty HDF5 file and close it with its blocks.

    Rows are written in slabs of ``CHUNK``, however they arrive, so the bytes of a file depend on its events alone.
    """

    def __init__(self, file: h5py.File, schema: EventSchema) -> None:
        self._file, self._schema = file, schema
        self._held: list[Mapping[str, AnyArray]] = []
        self._n_held = 0
        self._n_accepted = np.zeros(0, dtype=np.int64)
        file.attrs["xeflow_events"] = json.dumps(schema.to_dict())
        for path in schema.columns:
            dtype = np.int32 if path == "events/block" else np.float32
            file.create_dataset(path, (0,), dtype, maxshape=(None,), chunks=(CHUNK,), compression=1, shuffle=True)

    def append(self, rows: Mapping[str, AnyArray]) -> None:
        """Append rows: a column per dataset path of the schema, ``events/block`` counted over the whole file."""
        block = rows["events/block"]
        counts = np.bincount(block, minlength=len(self._n_accepted))
        counts[: len(self._n_accepted)] += self._n_accepted
        self._n_accepted = counts
        self._held.append(rows)
        self._n_held += len(block)
        if self._n_held >= CHUNK:
            self._write(self._n_held - self._n_held % CHUNK)

    def _write(self, n: int) -> None:
        """Write the first n held rows, one slab of every column after the other, and keep the rest."""
        joined = {path: np.concatenate([rows[path] for rows in self._held]) for path in self._schema.columns}
        for start in range(0, n, CHUNK):
            for path, column in joined.items():
                data, slab = self._file[path], column[start : min(start + CHUNK, n)]
                data.resize((data.shape[0] + len(slab),))
                data[-len(slab) :] = slab
        self._held = [{path: column[n:] for path, column in joined.items()}]
        self._n_held -= n

    def finish(self, theta: FloatArray, n_generated: IntArray | None) -> Blocks:
        """Write what is held and the blocks; return them.

        Raises
        ------
        DataError
            If an event names a block that does not exist, or a block kept more events than were generated.
        """
        if self._n_held:
            self._write(self._n_held)
        if len(self._n_accepted) > len(theta):
            raise DataError(f"events name block {len(self._n_accepted) - 1}, but there are {len(theta)} blocks")
        accepted = np.zeros(len(theta), dtype=np.int64)
        accepted[: len(self._n_accepted)] = self._n_accepted
        if n_generated is not None and (n_generated < accepted).any():
            k = int(np.argmax(n_generated < accepted))
            raise DataError(f"block {k}: {accepted[k]} events were kept of {n_generated[k]} generated ones")
        blocks = Blocks(theta, n_generated, accepted)
        _write_blocks(self._file, blocks)
        return blocks


def _write_blocks(file: h5py.File, blocks: Blocks) -> None:
    file["theta"] = blocks.theta.astype(np.float64)
    file["n_accepted"] = blocks.n_accepted.astype(np.int64)
    if blocks.n_generated is not None:
        file["n_generated"] = blocks.n_generated.astype(np.int64)


def _read_blocks(path: Path) -> Blocks:
    with h5py.File(path) as file:
        return read_blocks(file)


def _read_rows(path: Path, schema: EventSchema) -> tuple[dict[str, AnyArray], int]:
    """Return the event columns of a segment and its number of blocks."""
    with h5py.File(path) as file:
        return {name: file[name][:] for name in schema.columns}, int(file["theta"].shape[0])


def _concatenate(pieces: Iterator[Blocks]) -> Blocks:
    """Join the blocks of all segments; counts stay unknown if they are unknown in any."""
    blocks = list(pieces)
    generated = [b.n_generated for b in blocks if b.n_generated is not None]
    return Blocks(
        np.concatenate([b.theta for b in blocks]),
        np.concatenate(generated) if len(generated) == len(blocks) else None,
        np.concatenate([b.n_accepted for b in blocks]),
    )
