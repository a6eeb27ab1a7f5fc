"""Several event files as one sequence of events in the unit cube."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from surrogate.errors import DataError
from surrogate.nuisance import NuisanceSpace
from surrogate.observables import ObservableSpace
from training.events import CHUNK, EventFile, Events
from training.split import uniform_of

SPREAD_SEED = 7_001
"""Seed of the places in their cells that discrete values are given; one more for each further observable."""


class UnitEvents(NamedTuple):
    """Events in the unit cube.

    Attributes
    ----------
    u
        (n, D) float32, the observables mapped to [0, 1].
    theta
        (n, K) float32, physical units.
    weight
        (n,) float32, 1 for unweighted events.
    """

    u: Tensor
    theta: Tensor
    weight: Tensor

    @property
    def size(self) -> int:
        """Number of events n."""
        return self.u.shape[0]

    def take(self, index: Tensor) -> UnitEvents:
        """Return the events at an index (m,) of integers, or under a mask (n,) of booleans."""
        return UnitEvents(self.u[index], self.theta[index], self.weight[index])

    @classmethod
    def join(cls, parts: Sequence[UnitEvents]) -> UnitEvents:
        """Return the concatenation of the parts."""
        return cls(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


class BlockCounts(NamedTuple):
    """Generated and kept events per block of common theta: theta (nb, K) float64, counts (nb,) int64."""

    theta: Tensor
    n_generated: Tensor
    n_accepted: Tensor

    @classmethod
    def join(cls, parts: Sequence[BlockCounts]) -> BlockCounts:
        """Return the concatenation of the parts."""
        return cls(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def unit_events(
    observables: ObservableSpace, x: Tensor, theta: Tensor, weight: Tensor | None = None, first: int = 0
) -> UnitEvents:
    """Return events x (n, D) at theta (n, K) in the unit cube, mapped in float64.

    Counts and binned values are spread uniformly over their cells: by a hash of the event's number, which is ``first``
    for the first event.

    Raises
    ------
    DataError
        If an event lies outside the region of interest, or a value is not a number.
    """
    inside = observables.contains(x)
    if not bool(inside.all()):
        row = int((~inside).nonzero()[0])
        raise DataError(
            f"event {x[row].tolist()} lies outside the region of interest of {', '.join(observables.names)} "
            f"({int((~inside).sum())} of {x.shape[0]} events do); drop such events when the file is written"
        )
    weight = torch.ones(x.shape[0]) if weight is None else weight
    if not bool(torch.isfinite(theta).all() & torch.isfinite(weight).all()):
        raise DataError("events: a theta or a weight is not a number")
    number = torch.arange(first, first + len(x))
    shares = [uniform_of(number, SPREAD_SEED + d) for d in range(len(observables.celled))]
    spread = observables.in_cells(x.double(), torch.stack(shares, dim=-1)) if shares else x.double()
    u, _ = observables.to_unit(spread)
    return UnitEvents(u.float(), theta.float(), weight.float())


class EventSet:
    """Event files of one source read as one sequence; a context manager.

    Parameters
    ----------
    files
        Open event files.

    Raises
    ------
    DataError
        If there is none, or they differ in observables, nuisance parameters or generated rate.
    """

    def __init__(self, files: Sequence[EventFile]) -> None:
        if not files:
            raise DataError("event files: at least one is needed")
        first = files[0]
        for k, file in enumerate(files[1:], start=2):
            for what in ("observables", "nuisances", "generated_rate"):
                if getattr(file, what) != getattr(first, what):
                    raise DataError(
                        f"event file {k} differs from the first in its {what}: {getattr(file, what)} instead of "
                        f"{getattr(first, what)}; train on files of one source in one region of interest"
                    )
        self._files = tuple(files)
        self._stops = np.cumsum([file.n_events for file in files])
        self._stack = ExitStack()
        if self.n_events == 0:
            raise DataError("event files: they hold no accepted event; nothing can be trained from them")

    @classmethod
    def open(cls, paths: Sequence[Path]) -> EventSet:
        """Open event files by path; close them with :meth:`close` or by leaving the ``with`` block."""
        with ExitStack() as stack:
            events = cls([stack.enter_context(EventFile.open(path)) for path in paths])
            events._stack = stack.pop_all()
        return events

    def __enter__(self) -> EventSet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._stack.close()

    @property
    def observables(self) -> ObservableSpace:
        """The region of interest of all files."""
        return self._files[0].observables

    @property
    def nuisances(self) -> NuisanceSpace:
        """The nuisance parameters of all files."""
        return self._files[0].nuisances

    @property
    def generated_rate(self) -> float:
        """Generated events per tonne-year: mu(theta) is this times kept over generated.

        Raises
        ------
        DataError
            If the files do not tell it.
        """
        rate = self.known_rate
        if rate is None:
            raise DataError(
                "event files: they do not tell the generated rate, without which there is no mu(theta); "
                "give generated_rate where the files are written or mapped"
            )
        return rate

    @property
    def known_rate(self) -> float | None:
        """Generated events per tonne-year, None if the files do not tell it."""
        return self._files[0].generated_rate

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the first file says of its origin: detector, source, seed, versions."""
        return self._files[0].metadata

    @property
    def weighted(self) -> bool:
        """Whether any file has weights."""
        return any(file.schema.weighted for file in self._files)

    @property
    def n_events(self) -> int:
        """Number of events in all files."""
        return int(self._stops[-1])

    def blocks(self) -> BlockCounts:
        """Return the counts of all blocks of all files.

        Raises
        ------
        DataError
            If a file does not tell how many events were generated.
        """
        parts = [file.blocks() for file in self._files]
        generated = [p.n_generated for p in parts if p.n_generated is not None]
        if len(generated) < len(parts):
            raise DataError(
                "event files: they do not tell how many events were generated per block, without which there is no "
                "mu(theta); give n_generated where the files are written or mapped"
            )
        return BlockCounts(
            torch.cat([torch.as_tensor(p.theta, dtype=torch.float64) for p in parts]),
            torch.cat([torch.as_tensor(n, dtype=torch.int64) for n in generated]),
            torch.cat([torch.as_tensor(p.n_accepted, dtype=torch.int64) for p in parts]),
        )

    def chunks(self) -> Iterator[Events]:
        """Yield all events in physical units, in pieces; their blocks are numbered through all files."""
        first = 0
        for file in self._files:
            for start in range(0, file.n_events, CHUNK):
                events = file.read(start, min(start + CHUNK, file.n_events))
                yield replace(events, block=events.block.astype(np.int64) + first)
            first += len(file.blocks().theta)

    def histogram(self, column: int, bins: int, which: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return the events (nb, bins) of each block in equal bins of one observable, over its window.

        Counted are all, or those of which ``which`` is true: a mask (n,) of events x (n, D).
        """
        window = self.observables.observables[column]
        counts = np.zeros((sum(len(file.blocks().theta) for file in self._files), bins), dtype=np.int64)
        for events in self.chunks():
            mask = slice(None) if which is None else which(torch.from_numpy(events.x)).numpy()
            share = (events.x[mask, column].astype(np.float64) - window.low) / (window.high - window.low)
            np.add.at(counts, (events.block[mask], np.clip((share * bins).astype(np.int64), 0, bins - 1)), 1)
        return torch.from_numpy(counts)

    def read(self, start: int, stop: int) -> UnitEvents:
        """Return the events [start, stop) in the unit cube.

        Raises
        ------
        DataError
            If an event lies outside the region of interest or has an undefined value.
        """
        parts = []
        first = 0
        for file, last in zip(self._files, self._stops.tolist(), strict=True):
            begin, end = max(start, first), min(stop, last)
            if begin < end:
                events = file.read(begin - first, end - first)
                weight = None if events.weight is None else torch.as_tensor(events.weight)
                parts.append(
                    unit_events(
                        self.observables, torch.as_tensor(events.x), torch.as_tensor(events.theta), weight, begin
                    )
                )
            first = last
        return UnitEvents.join(parts)

    @cached_property
    def file_hashes(self) -> tuple[str, ...]:
        """SHA-256 of the content of each file: all of it is read, once."""
        return tuple(file.content_hash() for file in self._files)

    def content_hash(self) -> str:
        """Return the SHA-256 of the files' contents."""
        digests = self.file_hashes
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
