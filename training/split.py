"""Which events a training is given: held-out parts, bootstrap resampling, and the seeds of all its choices.

Every choice is a function of a key or of an event's number, so that it does not depend on how events are read, on the
number of processes, or on interruptions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surrogate.errors import ConfigError

_POISSON = np.cumsum([math.exp(-1) / math.factorial(n) for n in range(20)])
"""Distribution function of a Poisson number of mean 1."""


def generator_of(*key: int) -> torch.Generator:
    """Return a generator seeded by a key of non-negative integers.

    Keys that differ other than in zeros at their end have streams that are independent but for a chance of 2**-32: so
    much of a seed do torch's generators on the CPU take up.
    """
    return torch.Generator().manual_seed(seed_of(*key))


def seed_of(*key: int) -> int:
    """Return a seed of 63 bits that is a hash of a key of non-negative integers; zeros at its end do not count."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) >> 1


@dataclass(frozen=True)
class EventSplit:
    """The events of one training among all events of its files.

    Attributes
    ----------
    seed
        Seed of the division into parts; the members of an ensemble share it.
    fraction
        Share of events that is held out, in (0, 1/2).
    part
        Which part is held out: the parts 0 .. floor(1/fraction) - 1 have no event in common, and higher numbers begin
        again at 0. Members that hold out different parts together train on all events.
    bootstrap
        Seed of a Poisson bootstrap of the events that are trained on; None for each event once.

    Raises
    ------
    ConfigError
        If the fraction or the part is out of bounds.
    """

    seed: int
    fraction: float
    part: int = 0
    bootstrap: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 0.5:
            raise ConfigError(f"held-out fraction = {self.fraction} must be > 0 and < 0.5")
        if self.part < 0:
            raise ConfigError(f"held-out part = {self.part} must be >= 0")

    def held_out(self, index: Tensor) -> Tensor:
        """Return whether each event (n,), named by its number, is held out."""
        parts = int(1 / self.fraction + 1e-9)
        low = np.uint64(int(self.part % parts * self.fraction * 2**64))
        # unsigned: what lies below wraps around to large numbers
        return torch.from_numpy(_hash(index, self.seed) - low < np.uint64(int(self.fraction * 2**64)))

    def copies(self, index: Tensor) -> Tensor:
        """Return how often each event (n,) is trained on: 0 if held out, else once, or a Poisson number of mean 1.

        Notes
        -----
        Independent Poisson weights have the law of the bootstrap (Efron, doi:10.1214/aos/1176344552) for large samples
        and need no knowledge of the other events (Hanley and MacGibbon, doi:10.1016/j.cmpb.2006.04.006).
        """
        if self.bootstrap is None:
            return (~self.held_out(index)).long()
        copies = torch.from_numpy(np.searchsorted(_POISSON, uniform_of(index, self.bootstrap).numpy(), side="right"))
        return torch.where(self.held_out(index), 0, copies)


def uniform_of(index: Tensor, seed: int) -> Tensor:
    """Return a pseudo-random number (n,) in [0, 1], float64, for each event number (n,)."""
    return torch.from_numpy(_hash(index, seed).astype(np.float64) / 2.0**64)


def _hash(index: Tensor, seed: int) -> NDArray[np.uint64]:
    """Return 64 pseudo-random bits (n,) per event number.

    Notes
    -----
    splitmix64 (Steele, Lea, Flood 2014, doi:10.1145/2660193.2660195) of the event number.
    """
    with np.errstate(over="ignore"):
        z = index.numpy().astype(np.uint64) + np.uint64((seed * 0x632BE59BD9B4E019 + 0x9E3779B97F4A7C15) % 2**64)
        z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
