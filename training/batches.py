"""Order of the training events: which of them make batch number s.

Everything is a function of (seed, pass, step), so that a training continues at any step as if it had never stopped, and
every process of a distributed training knows its share without a word to the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from surrogate.errors import DataError
from training.event_set import UnitEvents
from training.split import generator_of
from training.supply import Supply
from training.symmetries import DriftLifetimeSymmetry


class TrainingBatches:
    """Shuffled batches.

    Parameters
    ----------
    supply
        Training events, in groups; those of a group are shuffled together.
    batch_size
        Events per batch B over all processes.
    seed
        Seed of the shuffles and the symmetries.
    symmetries
        Exact symmetries of the detector; each event is moved along them anew in each batch.
    rank, world
        This process and their number: process r gets the events r, r + world, ... of each batch.

    Raises
    ------
    DataError
        If a group does not fill one batch.
    """

    def __init__(
        self,
        supply: Supply,
        batch_size: int,
        seed: int,
        symmetries: Sequence[DriftLifetimeSymmetry] = (),
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._supply, self._batch_size, self._seed = supply, batch_size, seed
        self._symmetries = tuple(symmetries)
        self._rank, self._world = rank, world
        self._per_group = supply.group_size // batch_size
        if self._per_group < 1:
            raise DataError(
                f"events: {supply.group_size} training events do not fill a batch of {batch_size}; "
                "lower optimiser.batch_size or simulate more events"
            )
        self._loaded: tuple[int, UnitEvents, Tensor] | None = None

    @property
    def steps_per_pass(self) -> int:
        """Number of batches in one pass over the events."""
        return self._supply.groups * self._per_group

    def batch(self, step: int) -> UnitEvents:
        """Return this process's share of batch number ``step`` of the training."""
        number, k = divmod(step, self._per_group)
        events, order = self._load(number)
        batch = events.take(order[k * self._batch_size : (k + 1) * self._batch_size])
        for s, symmetry in enumerate(self._symmetries):
            batch = symmetry.move(batch, generator_of(self._seed, 2 + s, step))
        return UnitEvents(*(column[self._rank :: self._world] for column in batch))

    def _load(self, number: int) -> tuple[UnitEvents, Tensor]:
        """Return the events of group ``number`` of the training and their order."""
        if self._loaded is None or self._loaded[0] != number:
            self._loaded = None  # frees the last group before the next is made
            events = self._supply.load(*divmod(number, self._supply.groups))
            order = torch.randperm(events.size, generator=generator_of(self._seed, 1, number))
            self._loaded = number, events, order
        return self._loaded[1], self._loaded[2]
