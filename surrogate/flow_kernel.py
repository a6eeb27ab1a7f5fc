"""ln p(u | theta) of a flow and its gradient in theta without automatic differentiation: the fast path of inference.

It holds for flows of one autoregressive layer of mixtures, the default family, and gives what autograd gives,
to rounding. What it gains is in docs/speed.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from surrogate.cells import cell_centres
from surrogate.flow import ConditionalFlow
from surrogate.flow_config import MIXTURES, FlowConfig
from surrogate.masked_network import MaskedNetwork, MaskedWeights, masked_weights
from surrogate.mixture_kernel import MixtureKernel, Shift

CPU_BYTES = 32 * 2**20
"""Memory of a chunk's buffers on a CPU: about its last cache, and enough events to hide the start of operations."""

DEVICE_BYTES = 2**30
"""The same on other devices, where many events must be in flight."""

LEAST = 256
"""Fewest events in a chunk."""

ALIGN = 16
"""Chunks are multiples of it, so that rows start at the boundaries of vector registers."""


def has_kernel(config: FlowConfig) -> bool:
    """Return whether a flow can be evaluated by :class:`FlowKernel`."""
    return config.family in MIXTURES and config.layers == 1


@dataclass(frozen=True, eq=False)
class FlowKernel:
    """The frozen weights of a flow for which :func:`has_kernel` holds, laid out for evaluation.

    Attributes
    ----------
    config
        The architecture.
    weights
        The conditioner network; its dtype is that of every result.
    """

    config: FlowConfig
    weights: MaskedWeights
    # The workspace of the last call: to allocate it anew costs a page fault per 4 KiB. A call takes it out of the list
    # while it runs, so that threads never share one.
    _spare: list[_Chunk] = field(default_factory=list, init=False, repr=False)

    def __reduce__(self) -> tuple[type[FlowKernel], tuple[FlowConfig, MaskedWeights]]:
        """Leave the workspace behind when copied to another process."""
        return FlowKernel, (self.config, self.weights)

    @classmethod
    def of(cls, flow: ConditionalFlow, dtype: torch.dtype) -> FlowKernel:
        """Copy the weights of a flow."""
        like = next(flow.parameters()).new_empty(0, dtype=dtype)
        config = flow.config
        return cls(config, masked_weights(flow.conditioner_network(), config.observables.dim, config.activation, like))

    @property
    def dtype(self) -> torch.dtype:
        """In which it computes."""
        return self.weights.inputs.dtype

    def log_prob(self, u: Tensor, theta: Tensor) -> Tensor:
        """Return ln p (n,) for u (n, D) on the unit cube and theta (n, K) in physical units; nothing is checked."""
        return self._run(u, theta, None)

    def log_prob_gradient(self, u: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return ln p (n,) and its gradient (n, K) in theta, for u (n, D) and theta (n, K); nothing is checked."""
        gradient = theta.new_empty(theta.shape, dtype=self.dtype)
        return self._run(u, theta, gradient), gradient

    @torch.no_grad()
    def _run(self, u: Tensor, theta: Tensor, gradient: Tensor | None) -> Tensor:
        # events run along the last axis of memory, coordinates in autoregressive order
        u = u.to(self.dtype).T[list(self.config.permutation)].T
        theta = theta.to(self.dtype).T.contiguous().T
        total = u.new_empty(len(u))
        if not len(u):
            return total
        chunk = self._workspace(self._chunk(u))
        for start in range(0, len(u), chunk.n):
            # the last chunk is as long as the others and overlaps with the one before
            start = min(start, len(u) - chunk.n)
            part = slice(start, start + chunk.n)
            slope = chunk.evaluate(u[part], theta[part], total[part], gradient is not None)
            if gradient is not None:
                gradient[part] = slope
        self._spare[:] = [chunk]
        return total

    def _workspace(self, n: int) -> _Chunk:
        """Return the spare workspace if it is for n events, else a new one."""
        try:
            chunk = self._spare.pop()
        except IndexError:
            return _Chunk(self, n)
        return chunk if chunk.n == n else _Chunk(self, n)

    def _chunk(self, u: Tensor) -> int:
        """Return the length of chunks: as equal as can be, since each length needs a workspace."""
        hidden, blocks = self.weights.ends[-1], len(self.weights.blocks)
        per_event = u.element_size() * (hidden * (2 * blocks + 6) + 16 * u.shape[-1] * self.config.components)
        most = max(LEAST, (CPU_BYTES if u.device.type == "cpu" else DEVICE_BYTES) // per_event)
        equal = math.ceil(len(u) / math.ceil(len(u) / most))
        return min(len(u), ALIGN * math.ceil(equal / ALIGN))


class _Chunk:
    """Workspaces for n events."""

    def __init__(self, kernel: FlowKernel, n: int) -> None:
        like, config = kernel.weights.inputs, kernel.config
        self.n = n
        self._config = config
        self._features = config.features()
        self._guides = config.guide_set() if config.guides else None
        guided = {guide.observable for guide in config.guides}
        self._guided = [j for j, d in enumerate(config.permutation) if config.observables.names[d] in guided]
        self._network = MaskedNetwork(kernel.weights, n)
        self._mixture = MixtureKernel(config.mixture(), config.observables.dim, n, like)

    def evaluate(self, u: Tensor, theta: Tensor, total: Tensor, slopes: bool) -> Tensor:
        """Write ln p to ``total`` (n,) and return its gradient (n, K) in theta if asked for, else zeros."""
        config = self._config
        raw = self._network.forward((2.0 * cell_centres(u, config.cells) - 1.0).T, self._features.values(theta).T)
        gradient, shifts = torch.zeros_like(theta), {}
        if self._guides is not None:
            delta, first, _ = self._guides.delta_jet(u, theta)
            shifts = {d: Shift(delta[:, d], *self._guides.scales[d]) for d in self._guided}
        self._mixture.log_density(u.T, raw, shifts, total)
        if slopes:
            for d, by_delta in self._mixture.slopes(raw, shifts).items():
                gradient.addcmul_(first[:, :, d], by_delta.unsqueeze(-1))
            slope, _ = self._features.derivatives(theta)
            gradient.add_(self._features.gather(self._network.context_gradient().T * slope, -1))
        return gradient
