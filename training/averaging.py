"""Exponential moving average of the weights of a module."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Followed = TypeVar("Followed", bound=nn.Module)


class AveragedModule(nn.Module, Generic[Followed]):
    """A copy of a module whose weights follow the original's with an exponential moving average.

    After step t (counted from 1) the average a and the weights w obey

        a <- d a + (1 - d) w,    d = min(decay, (1 + t) / (10 + t)),

    so that the first steps are forgotten quickly. Buffers are copied.

    Parameters
    ----------
    module
        The module to follow; it is copied, and the copy needs no gradients.
    decay
        Decay in [0, 1).
    """

    module: Followed
    step: torch.Tensor

    def __init__(self, module: Followed, decay: float) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.decay = decay
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def follow(self, module: Followed) -> None:
        """Move the average towards the weights of ``module`` by one step."""
        self.step += 1
        t = int(self.step)
        weight = 1.0 - min(self.decay, (1 + t) / (10 + t))
        torch._foreach_lerp_(list(self.module.parameters()), list(module.parameters()), weight)
        for mine, theirs in zip(self.module.buffers(), module.buffers(), strict=True):
            mine.copy_(theirs)
