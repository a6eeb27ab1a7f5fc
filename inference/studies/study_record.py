"""What a study is and what its rows are, wherever they are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from surrogate.errors import DataError

Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Chunk:
    """Toys ``first`` to ``first + size - 1`` at one point of a study: what is worked off and stored at a time.

    Attributes
    ----------
    point
        Position of the point in the study.
    first, size
        The range of toys.
    """

    point: int
    first: int
    size: int

    @property
    def toys(self) -> torch.Tensor:
        """The numbers of the toys (size,)."""
        return torch.arange(self.first, self.first + self.size)


@dataclass(frozen=True)
class StudyHeader:
    """What a study is: two studies with equal headers have equal toys.

    The number of toys and the size of chunks are no part of it: toys can be added to a study at any time.

    Attributes
    ----------
    kind
        Such as ``neyman`` or ``sensitivity``.
    model_hash
        Of :func:`inference.science_run.model_hash`.
    seed
        Seed of the toys.
    settings
        Everything else that the rows depend on; plain data.
    units
        Column name -> unit, for the columns that are stored.
    """

    kind: str
    model_hash: str
    seed: int
    settings: Mapping[str, Any]
    units: Mapping[str, str]

    def identity(self) -> dict[str, Any]:
        """Return the fields that must agree for a study to be resumed."""
        return {
            "kind": self.kind,
            "model_hash": self.model_hash,
            "seed": self.seed,
            "settings": json.loads(json.dumps(dict(self.settings))),
        }


class Store(Protocol):
    """Where the rows of a study go."""

    def writing(self) -> AbstractContextManager[None]:
        """Return a context in which nobody else writes the store."""
        ...

    def done(self) -> set[Chunk]:
        """Return the chunks that are stored."""
        ...

    def append(self, chunk: Chunk, columns: Columns) -> None:
        """Store the rows of one chunk, whole or not at all."""
        ...

    def flush(self) -> None:
        """Write the rows that wait to be written."""
        ...

    def finish(self) -> None:
        """Mark the study as complete."""
        ...

    def read(self) -> dict[str, np.ndarray]:
        """Return all rows by column, by point and toy."""
        ...


def check_rows(header: StudyHeader, chunk: Chunk, columns: Columns, stored: set[Chunk]) -> dict[str, np.ndarray]:
    """Return the columns of a chunk, or say what is wrong with them."""
    rows = {name: np.asarray(columns[name]) for name in header.units if name in columns}
    missing = [name for name in header.units if name not in rows]
    if missing:
        raise DataError(f"{chunk}: column {', '.join(missing)} is missing")
    wrong = [f"{name} has {len(c)}" for name, c in rows.items() if len(c) != chunk.size]
    if wrong:
        raise DataError(f"{chunk}: one row per toy is needed, but {', '.join(wrong)}")
    last = chunk.first + chunk.size
    if any(c.point == chunk.point and c.first < last and chunk.first < c.first + c.size for c in stored):
        raise DataError(f"{chunk}: some of these toys are stored already")
    return rows


@dataclass
class MemoryStore:
    """Rows kept in memory, for studies that need no file."""

    header: StudyHeader
    _parts: dict[Chunk, dict[str, np.ndarray]] = field(default_factory=dict)

    def writing(self) -> AbstractContextManager[None]:
        """Return a context that does nothing: memory is not shared."""
        return nullcontext()

    def done(self) -> set[Chunk]:
        """Return the chunks that are stored."""
        return set(self._parts)

    def append(self, chunk: Chunk, columns: Columns) -> None:
        """Keep the rows of one chunk."""
        self._parts[chunk] = check_rows(self.header, chunk, columns, self.done())

    def flush(self) -> None:
        """Do nothing: nothing waits."""

    def finish(self) -> None:
        """Do nothing: what is in memory needs no mark."""

    def read(self) -> dict[str, np.ndarray]:
        """Return all rows by column, by point and toy."""
        parts = [self._parts[c] for c in sorted(self._parts, key=lambda c: (c.point, c.first))]
        return {name: np.concatenate([p[name] for p in parts]) for name in self.header.units} if parts else {}
