"""Where training events come from, group by group: event files, or a simulator that never repeats itself."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from surrogate.errors import ConfigError, DataError
from training.event_set import BlockCounts, EventSet, UnitEvents, unit_events
from training.simulation_plan import SimulationPlan, simulate_batch
from training.split import EventSplit, generator_of, seed_of

CHUNK = 65_536
HELD_OUT_LIMIT = 200_000
COUNTED_GROUPS = 16
"""Simulated groups whose counts enter the fit of mu(theta), which is slow for more than some 10^5 thetas."""

GROUP_BATCHES = 16
"""Simulated batches that are shuffled together: some 10^6 generated events at 4096 thetas."""


class Supply(Protocol):
    """Training events in groups that fit into memory; a pass consists of ``groups`` of them."""

    @property
    def groups(self) -> int:
        """Groups per pass."""
        ...

    @property
    def group_size(self) -> int:
        """Events that a group holds at least, or is expected to hold."""
        ...

    def load(self, number: int, group: int) -> UnitEvents:
        """Return the events of one group of pass ``number``."""
        ...

    def held_out_events(self) -> UnitEvents:
        """Return events that are never trained on, at most ``HELD_OUT_LIMIT``, evenly chosen."""
        ...

    def state(self) -> dict[str, Any]:
        """Return what has to survive an interruption."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the state of an interrupted training."""
        ...

    def counts(self) -> BlockCounts:
        """Return generated and kept events per theta of everything seen so far."""
        ...


class FileSupply:
    """Events of files: each as often as a split says, those held out not at all.

    The events are cut into chunks, and the chunks into groups that fit into memory. In each pass the chunks are dealt
    anew to the groups; events that fit as a whole form a single group, which is read once and kept.

    Parameters
    ----------
    events
        Open event set.
    seed
        Seed of the order of the events.
    split
        Which events are trained on, and how often each.
    memory_mb
        Memory for one group in MB.
    """

    def __init__(self, events: EventSet, seed: int, split: EventSplit, memory_mb: float = 2000.0) -> None:
        self._events, self._seed, self._split = events, seed, split
        n = events.n_events
        self._chunks = list(itertools.pairwise([*range(0, max(n - CHUNK, 0) + 1, CHUNK), n]))
        row_bytes = 4 * (events.observables.dim + events.nuisances.dim + 1) + 8
        fitting = max(int(memory_mb * 1e6 / (2 * row_bytes * CHUNK)), 1)
        self.groups = -(-len(self._chunks) // fitting)
        kept = sorted(int(split.copies(torch.arange(*chunk)).sum()) for chunk in self._chunks)
        self.group_size = sum(kept[: len(kept) // self.groups])
        self._kept: UnitEvents | None = None

    def load(self, number: int, group: int) -> UnitEvents:
        """Return the events of one group of pass ``number``."""
        if self._kept is not None:
            return self._kept
        chunks = torch.randperm(len(self._chunks), generator=generator_of(self._seed, 0, number)).tolist()
        mine = [self._chunks[c] for c in sorted(chunks[group :: self.groups])]
        events = UnitEvents.join([self._copied(chunk) for chunk in mine])
        if self.groups == 1:
            self._kept = events
        return events

    def held_out_events(self) -> UnitEvents:
        """Return the held-out events, evenly thinned.

        Raises
        ------
        DataError
            If there is none.
        """
        rows = (self._events.read(*c).take(self._split.held_out(torch.arange(*c))) for c in self._chunks)
        joined = UnitEvents.join(list(rows))
        if joined.size == 0:
            raise DataError("events: no event is held out; raise data.validation_fraction or simulate more events")
        return thinned(joined)

    def state(self) -> dict[str, Any]:
        """Return nothing: the order of the events follows from the seed."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up nothing."""

    def counts(self) -> BlockCounts:
        """Return the counts of the files."""
        return self._events.blocks()

    def _copied(self, chunk: tuple[int, int]) -> UnitEvents:
        """Read the events [start, stop) and return each as often as the split says."""
        index = torch.arange(*chunk)
        return self._events.read(*chunk).take((index - chunk[0]).repeat_interleave(self._split.copies(index)))


class SimulatedSupply:
    """Events simulated while they are needed, new ones in each pass; a file of the same source is held out.

    The network never sees an event twice, so that it cannot learn their noise. Group g of pass p is a function of the
    seed alone. The counts of the first groups are kept for the fit of mu(theta).

    Parameters
    ----------
    events
        Open event set of the same source, made with another seed.
    plan
        The simulation whose ``n_generated`` is the length of a pass.
    seed
        Seed of the training; with that of the plan it fixes the events.

    Raises
    ------
    ConfigError
        If the plan and the files differ in observables or nuisance parameters.
    """

    def __init__(self, events: EventSet, plan: SimulationPlan, seed: int) -> None:
        if plan.space != events.observables or plan.nuisances != events.nuisances:
            raise ConfigError("data: the simulate block and the event file describe different observables or ranges")
        self._events = events
        self._length = min(GROUP_BATCHES, plan.n_batches)
        self.groups = max(plan.n_batches // self._length, 1)
        # enough batches for any training; batch k is the same in a plan of any length
        self._plan = dataclasses.replace(plan, n_generated=2**50, seed=seed_of(plan.seed, seed))
        blocks = events.blocks()
        acceptance = float(blocks.n_accepted.sum() / blocks.n_generated.sum())
        generated = self._length * plan.batch_blocks * int(blocks.n_generated[0])
        self.group_size = int(0.98 * acceptance * generated)
        self._counts: dict[int, BlockCounts] = {}

    def load(self, number: int, group: int) -> UnitEvents:
        """Simulate the events of one group of pass ``number``."""
        first = (number * self.groups + group) * self._length
        batches = [unit_batch(self._plan, k) for k in range(first, first + self._length)]
        if first < COUNTED_GROUPS * self._length:
            self._counts[first] = BlockCounts.join([blocks for _, blocks in batches])
        return UnitEvents.join([events for events, _ in batches])

    def held_out_events(self) -> UnitEvents:
        """Return the events of the file, evenly thinned."""
        starts = range(0, self._events.n_events, CHUNK)
        stops = [min(start + CHUNK, self._events.n_events) for start in starts]
        return thinned(UnitEvents.join([self._events.read(*c) for c in zip(starts, stops, strict=True)]))

    def state(self) -> dict[str, Any]:
        """Return the counts so far."""
        return {str(first): tuple(counts) for first, counts in self._counts.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the counts of an interrupted training."""
        self._counts = {int(first): BlockCounts(*counts) for first, counts in state.items()}

    def counts(self) -> BlockCounts:
        """Return the counts of the file and of the first groups."""
        return BlockCounts.join([self._events.blocks(), *(self._counts[first] for first in sorted(self._counts))])


def unit_batch(plan: SimulationPlan, index: int) -> tuple[UnitEvents, BlockCounts]:
    """Simulate one batch of a plan and return its events in the unit cube and its counts."""
    segment = simulate_batch(plan, index)
    theta = torch.from_numpy(segment.blocks.theta)
    per_event = theta[torch.from_numpy(segment.block).long()]
    events = unit_events(plan.space, torch.from_numpy(segment.x), per_event, first=index * 2**32)
    generated, accepted = segment.blocks.n_generated, torch.from_numpy(segment.blocks.n_accepted)
    if generated is None:
        raise DataError(f"simulation of '{plan.source.name}': a batch does not tell how many events were generated")
    return events, BlockCounts(theta, torch.from_numpy(generated), accepted)


def thinned(events: UnitEvents) -> UnitEvents:
    """Return at most ``HELD_OUT_LIMIT`` of the events, evenly chosen."""
    return events.take(torch.arange(0, events.size, max(-(-events.size // HELD_OUT_LIMIT), 1)))
