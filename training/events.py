"""Event files: HDF5 with the selected events, the theta of each block of generated events, and how many were kept.

Layout (format version 1)::

    /theta        (n_blocks, K) float64    parameters of each block
    /n_generated  (n_blocks,)   int64      absent when unknown
    /n_accepted   (n_blocks,)   int64
    /events/<observable>  (n,)  float32    in the unit of the observable
    /events/block         (n,)  int32      row of /theta
    /events/weight        (n,)  float32    optional
    /truth/<name>         (n,)  float32    optional
    attributes            JSON: observables, nuisances, generated_rate, metadata, format version

Files are written by :mod:`training.event_writer`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from surrogate.errors import DataError
from surrogate.nuisance import NuisanceSpace
from surrogate.observables import ObservableSpace

FORMAT_VERSION = 1
CHUNK = 65536
"""Rows per HDF5 chunk, and per write: file bytes do not depend on how the events were cut into segments."""

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]
AnyArray = NDArray[np.number[Any]]


@dataclass(frozen=True)
class EventSchema:
    """What an event file says of itself.

    Parameters
    ----------
    observables
        The columns of ``x``, with their windows.
    nuisances
        The columns of theta; empty when the events depend on none.
    generated_rate
        Generated events per unit exposure: mu(theta) = generated_rate n_accepted/n_generated. None when unknown.
    metadata
        Plain data: detector, source, seed, code version.
    truth
        Names of the recorded truth columns.
    weighted
        Whether events carry weights.
    """

    observables: ObservableSpace
    nuisances: NuisanceSpace
    generated_rate: float | None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    truth: tuple[str, ...] = ()
    weighted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain data from which :meth:`from_dict` rebuilds the schema."""
        return {
            "format_version": FORMAT_VERSION,
            "observables": self.observables.to_dict(),
            "nuisances": self.nuisances.to_dict(),
            "generated_rate": self.generated_rate,
            "metadata": dict(self.metadata),
            "truth": list(self.truth),
            "weighted": self.weighted,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EventSchema:
        """Build the schema from the output of :meth:`to_dict`."""
        return cls(
            ObservableSpace.from_dict(data["observables"]),
            NuisanceSpace.from_dict(data["nuisances"]),
            data["generated_rate"],
            data["metadata"],
            tuple(data["truth"]),
            data["weighted"],
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Dataset paths of the event columns, block index last."""
        names = [f"events/{name}" for name in self.observables.names]
        names += ["events/weight"] if self.weighted else []
        return (*names, *(f"truth/{name}" for name in self.truth), "events/block")


@dataclass(frozen=True)
class Blocks:
    """Generated and kept events per block: theta (nb, K) float64, counts (nb,) int64; n_generated None if unknown."""

    theta: FloatArray
    n_generated: IntArray | None
    n_accepted: IntArray


@dataclass(frozen=True)
class Events:
    """Events: x (n, D) and theta (n, K) float32, weight (n,) float32 or None, block (n,) int32."""

    x: FloatArray
    theta: FloatArray
    weight: FloatArray | None
    block: IntArray


def read_blocks(file: h5py.File) -> Blocks:
    """Return the blocks of an open event file or segment."""
    generated = file["n_generated"][:] if "n_generated" in file else None
    return Blocks(file["theta"][:], generated, file["n_accepted"][:])


class EventFile:
    """Read an event file, streamed: only the rows that are asked for are in memory. Use as a context manager.

    Raises
    ------
    DataError
        If the path is not a complete event file of a known format version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            parts = path.with_name(path.name + ".parts")
            hint = f"its run is unfinished ({parts}); run it again to resume" if parts.exists() else "no such file"
            raise DataError(f"event file {path}: {hint}")
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise DataError(f"event file {path}: not readable as HDF5 ({error})") from error
        try:
            self.schema = self._schema()
            self._check_columns()
            self._theta = self._file["theta"][:].astype(np.float32)
        except BaseException:
            self._file.close()
            raise

    @classmethod
    def open(cls, path: str | Path) -> EventFile:
        """Open an event file."""
        return cls(Path(path))

    def _schema(self) -> EventSchema:
        text = self._file.attrs.get("xeflow_events")
        if text is None:
            raise DataError(
                f"event file {self.path}: it lacks the attribute 'xeflow_events'; convert files of "
                "other programs with a mapping, by 'xeflow convert-events'"
            )
        try:
            data = json.loads(text)
        except ValueError as error:
            raise self._damaged(f"its description is not JSON ({error})") from error
        if data.get("format_version") != FORMAT_VERSION:
            raise DataError(
                f"event file {self.path}: format version {data.get('format_version')}, this code reads {FORMAT_VERSION}"
            )
        try:
            return EventSchema.from_dict(data)
        except (KeyError, TypeError, AttributeError) as error:
            raise self._damaged(f"its description is incomplete ({error!r})") from error

    def _check_columns(self) -> None:
        """Raise unless every column is there, in the length that the others have."""
        lengths: dict[str, int] = {}
        for name in ("theta", "n_accepted", *self.schema.columns):
            if not isinstance(self._file.get(name), h5py.Dataset):
                raise self._damaged(f"the column '{name}' is missing")
            lengths[name] = self._file[name].shape[0]
        if "n_generated" in self._file:
            lengths["n_generated"] = self._file["n_generated"].shape[0]
        for name, length in lengths.items():
            first = "theta" if name in ("theta", "n_accepted", "n_generated") else "events/block"
            if length != lengths[first]:
                raise self._damaged(f"'{name}' has {length} rows, '{first}' {lengths[first]}")
        if self._file["theta"].shape[1:] != (self.schema.nuisances.dim,):
            raise self._damaged(
                f"theta has shape {self._file['theta'].shape}, of {self.schema.nuisances.dim} parameters"
            )

    def _damaged(self, what: str) -> DataError:
        return DataError(f"event file {self.path}: {what}; it is damaged, make it again")

    @property
    def observables(self) -> ObservableSpace:
        """The columns of ``x``."""
        return self.schema.observables

    @property
    def nuisances(self) -> NuisanceSpace:
        """The columns of theta."""
        return self.schema.nuisances

    @property
    def generated_rate(self) -> float | None:
        """Generated events per unit exposure; None when unknown."""
        return self.schema.generated_rate

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Detector, source, seed and versions."""
        return self.schema.metadata

    @property
    def n_events(self) -> int:
        """Number of events."""
        return int(self._file["events/block"].shape[0])

    def blocks(self) -> Blocks:
        """Return theta and counts of all blocks."""
        return read_blocks(self._file)

    def read(self, start: int = 0, stop: int | None = None) -> Events:
        """Return events ``start`` to ``stop`` (all by default), theta looked up from their blocks.

        Raises
        ------
        DataError
            If an event is of no block.
        """
        rows = slice(start, self.n_events if stop is None else stop)
        block = self._file["events/block"][rows]
        if len(block) and not 0 <= block.min() <= block.max() < len(self._theta):
            raise self._damaged(
                f"events/block holds {block.min()} to {block.max()}, there are {len(self._theta)} blocks"
            )
        columns = [self._file[f"events/{name}"][rows] for name in self.observables.names]
        weight = self._file["events/weight"][rows] if self.schema.weighted else None
        return Events(np.stack(columns, axis=1), self._theta[block], weight, block)

    def truth(self, name: str, start: int = 0, stop: int | None = None) -> FloatArray:
        """Return a truth column.

        Raises
        ------
        DataError
            If it was not recorded.
        """
        if name not in self.schema.truth:
            recorded = ", ".join(self.schema.truth) or "none"
            raise DataError(f"event file {self.path}: truth column '{name}' was not recorded (recorded: {recorded})")
        return self._file[f"truth/{name}"][start : self.n_events if stop is None else stop]

    def content_hash(self) -> str:
        """Return the sha256 of the schema and all columns, streamed."""
        digest = hashlib.sha256(json.dumps(self.schema.to_dict(), sort_keys=True).encode())
        names = [n for n in ("theta", "n_generated", "n_accepted") if n in self._file]
        for name in (*names, *self.schema.columns):
            data = self._file[name]
            digest.update(name.encode())
            for start in range(0, data.shape[0], 16 * CHUNK):
                digest.update(np.ascontiguousarray(data[start : start + 16 * CHUNK]).tobytes())
        return digest.hexdigest()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> EventFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
