"""Several event files as one sequence of events in the unit cube."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from surrogate.errors import DataError
from surrogate.nuisance import NuisanceSpace
from surrogate.observables import ObservableSpace
from training.events import EventFile


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
        return cls(
            torch.cat([p.u for p in parts]), torch.cat([p.theta for p in parts]), torch.cat([p.weight for p in parts])
        )


class BlockCounts(NamedTuple):
    """Generated and kept events per block of common theta: theta (nb, K) float64, counts (nb,) int64."""

    theta: Tensor
    n_generated: Tensor
    n_accepted: Tensor


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
        """Events per tonne-year that one generated event stream stands for."""
        return float(self._files[0].generated_rate)

    @property
    def n_events(self) -> int:
        """Number of events in all files."""
        return int(self._stops[-1])

    def blocks(self) -> BlockCounts:
        """Return the counts of all blocks of all files."""
        parts = [file.blocks() for file in self._files]
        return BlockCounts(
            torch.cat([torch.as_tensor(p.theta, dtype=torch.float64) for p in parts]),
            torch.cat([torch.as_tensor(p.n_generated, dtype=torch.int64) for p in parts]),
            torch.cat([torch.as_tensor(p.n_accepted, dtype=torch.int64) for p in parts]),
        )

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
                parts.append(self._convert(file, begin - first, end - first))
            first = last
        return UnitEvents.join(parts)

    def _convert(self, file: EventFile, start: int, stop: int) -> UnitEvents:
        """Read a slice of one file and map it to the unit cube in float64."""
        events = file.read(start, stop)
        x = torch.as_tensor(events.x)
        inside = self.observables.contains(x)
        if not bool(inside.all()):
            row = int((~inside).nonzero()[0])
            raise DataError(
                f"event {start + row} = {x[row].tolist()} lies outside the region of interest of "
                f"{', '.join(self.observables.names)} ({int((~inside).sum())} of {x.shape[0]} events do); "
                "drop such events when the file is written"
            )
        u, _ = self.observables.to_unit(x.double())
        theta = torch.as_tensor(events.theta)
        weight = torch.ones(x.shape[0]) if events.weight is None else torch.as_tensor(events.weight)
        finite = torch.isfinite(theta).all(dim=-1) & torch.isfinite(weight)
        if not bool(finite.all()):
            raise DataError(f"event {start + int((~finite).nonzero()[0])}: theta or weight is not a number")
        return UnitEvents(u.float(), theta.float(), weight.float())

    def content_hash(self) -> str:
        """Return the SHA-256 of the files' contents."""
        digests = [file.content_hash() for file in self._files]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
