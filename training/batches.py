"""Order of the training events: who is held out, and which events make batch number s.

Everything is a function of (seed, pass, step), so that a training continues at any step as if it had never stopped, and
every process of a distributed training knows its share without a word to the others.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from surrogate.errors import DataError
from training.event_set import EventSet, UnitEvents

CHUNK = 65_536
HELD_OUT_LIMIT = 200_000


def held_out(index: Tensor, seed: int, fraction: float) -> Tensor:
    """Return whether each event (n,) is held out: a fixed pseudo-random choice per event number.

    Notes
    -----
    splitmix64 (Steele, Lea, Flood 2014, doi:10.1145/2660193.2660195) of the event number, compared with the fraction.
    """
    with np.errstate(over="ignore"):
        z = index.numpy().astype(np.uint64) + np.uint64((seed * 0x632BE59BD9B4E019 + 0x9E3779B97F4A7C15) % 2**64)
        z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return torch.from_numpy(z < np.uint64(int(fraction * 2**64)))


def generator_of(*key: int) -> torch.Generator:
    """Return a generator seeded by a key of non-negative integers, independent for different keys."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)


class TrainingBatches:
    """Shuffled batches of the events that are not held out.

    The events are cut into chunks, and the chunks into groups that fit into memory. In each pass the chunks are
    shuffled among the groups and the events within their group; events that fit as a whole form a single group, which
    is read once and kept.

    Parameters
    ----------
    events
        The events.
    batch_size
        Events per batch B over all processes.
    seed, fraction
        Seed of all choices, and the share of held-out events.
    memory_mb
        Memory for one group in MB.
    rank, world
        This process and their number: process r gets the events r, r + world, ... of each batch.

    Raises
    ------
    DataError
        If fewer than two batches remain in a pass.
    """

    def __init__(
        self,
        events: EventSet,
        batch_size: int,
        seed: int,
        fraction: float,
        memory_mb: float = 2000.0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._events, self._seed, self._fraction = events, seed, fraction
        self._batch_size, self._rank, self._world = batch_size, rank, world
        n = events.n_events
        edges = [*range(0, max(n - CHUNK, 0) + 1, CHUNK), n]
        self._chunks = list(itertools.pairwise(edges))
        row_bytes = 4 * (events.observables.dim + events.nuisances.dim + 1) + 8
        fitting = max(int(memory_mb * 1e6 / (2 * row_bytes * CHUNK)), 1)
        self._groups = max(-(-len(self._chunks) // fitting), 1)
        kept = [int((~self._is_held_out(chunk)).sum()) for chunk in self._chunks]
        self._per_group = sum(sorted(kept)[: len(kept) // self._groups]) // batch_size
        if self._per_group < 1:
            raise DataError(
                f"events: {sum(kept)} training events do not fill a batch of {batch_size}; "
                "lower optimiser.batch_size or simulate more events"
            )
        self._held: tuple[int, int] | None = None
        self._group: UnitEvents | None = None
        self._order: tuple[int, Tensor] | None = None

    @property
    def steps_per_pass(self) -> int:
        """Number of batches in one pass over the events."""
        return self._groups * self._per_group

    @property
    def in_memory(self) -> bool:
        """Whether all events are kept in memory."""
        return self._groups == 1

    def batch(self, step: int) -> UnitEvents:
        """Return this process's share of batch number ``step`` of the training."""
        number, within = divmod(step, self.steps_per_pass)
        group, k = divmod(within, self._per_group)
        events = self._load(number, group)
        key = number * self._groups + group
        if self._order is None or self._order[0] != key:
            self._order = key, torch.randperm(events.size, generator=generator_of(self._seed, 1, number, group))
        rows = self._order[1][k * self._batch_size : (k + 1) * self._batch_size]
        return events.take(rows[self._rank :: self._world])

    def held_out_events(self) -> UnitEvents:
        """Return the held-out events, evenly thinned to at most ``HELD_OUT_LIMIT``."""
        parts = [self._events.read(*chunk).take(self._is_held_out(chunk)) for chunk in self._chunks]
        joined = UnitEvents.join(parts)
        if joined.size == 0:
            raise DataError("events: no event is held out; raise data.validation_fraction or simulate more events")
        step = -(-joined.size // HELD_OUT_LIMIT)
        return joined.take(torch.arange(0, joined.size, step))

    def _is_held_out(self, chunk: tuple[int, int]) -> Tensor:
        return held_out(torch.arange(*chunk), self._seed, self._fraction)

    def _load(self, number: int, group: int) -> UnitEvents:
        """Return the events of one group of one pass, from memory if they are there."""
        key = (0, 0) if self.in_memory else (number, group)
        if self._group is None or self._held != key:
            chunks = torch.randperm(len(self._chunks), generator=generator_of(self._seed, 0, key[0])).tolist()
            self._group = None
            mine = [self._chunks[c] for c in sorted(chunks[group :: self._groups])]
            self._group = UnitEvents.join([self._events.read(*c).take(~self._is_held_out(c)) for c in mine])
            self._held = key
        return self._group
