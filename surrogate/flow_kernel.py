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
        total = theta.new_empty(len(u), dtype=self.dtype)
        if not len(u):
            return total
        # events run along the last axis of memory, coordinates in autoregressive order
        u = u.to(self.dtype).T[list(self.config.permutation)]
        theta = theta.to(self.dtype).T.contiguous()
        features = self.config.features()
        seen, context = 2.0 * cell_centres(u.T, self.config.cells).T - 1.0, features.values(theta.T).T.contiguous()
        by_feature, by_shift = torch.empty_like(context), torch.empty_like(theta)
        chunk = self._workspace(self._length(u))
        for start in range(0, len(total), chunk.n):
            # the last chunk is as long as the others and overlaps with the one before
            start = min(start, len(total) - chunk.n)
            part = slice(start, start + chunk.n)
            raw = chunk.network.forward(seen[:, part], context[:, part])
            chunk.density(u[:, part], theta[:, part], raw, total[part])
            if gradient is not None:
                chunk.slopes(raw, by_shift[:, part])
                by_feature[:, part] = chunk.network.context_gradient()
        if gradient is not None:
            slope, _ = features.derivatives(theta.T)
            torch.add(features.gather(by_feature.T * slope, -1), by_shift.T, out=gradient)
        self._spare[:] = [chunk]
        return total

    def _workspace(self, n: int) -> _Chunk:
        """Return the spare workspace if it is for n events, else a new one."""
        try:
            chunk = self._spare.pop()
        except IndexError:
            return _Chunk(self, n)
        return chunk if chunk.n == n else _Chunk(self, n)

    def _length(self, u: Tensor) -> int:
        """Return that of chunks of u (D, n): as equal as can be, since each length needs a workspace."""
        hidden, blocks, events = self.weights.ends[-1], len(self.weights.blocks), u.shape[-1]
        per_event = u.element_size() * (hidden * (2 * blocks + 6) + 16 * len(u) * self.config.components)
        most = max(LEAST, (CPU_BYTES if u.device.type == "cpu" else DEVICE_BYTES) // per_event)
        equal = math.ceil(events / math.ceil(events / most))
        return min(events, ALIGN * math.ceil(equal / ALIGN))


class _Chunk:
    """Workspaces for n events."""

    def __init__(self, kernel: FlowKernel, n: int) -> None:
        like, config = kernel.weights.inputs, kernel.config
        self.n = n
        self._guides = config.guide_set() if config.guides else None
        guided = {guide.observable for guide in config.guides}
        self._guided = [j for j, d in enumerate(config.permutation) if config.observables.names[d] in guided]
        self.network = MaskedNetwork(kernel.weights, n)
        self._mixture = MixtureKernel(config.mixture(), config.observables.dim, n, like)
        self._shifts: dict[int, Shift] = {}

    def density(self, u: Tensor, theta: Tensor, raw: Tensor, total: Tensor) -> None:
        """Write ln p to ``total`` (n,), for u (D, n), theta (K, n) and raw parameters of the mixtures."""
        if self._guides is not None:
            delta, self._first, _ = self._guides.delta_jet(u.T, theta.T)
            self._shifts = {d: Shift(delta[:, d], *self._guides.scales[d]) for d in self._guided}
        self._mixture.log_density(u, raw, self._shifts, total)

    def slopes(self, raw: Tensor, gradient: Tensor) -> None:
        """Replace raw parameters by the gradient in them; write that in theta (K, n) by way of the guides' shifts."""
        gradient.zero_()
        for d, slope in self._mixture.slopes(raw, self._shifts).items():
            gradient.addcmul_(self._first[:, :, d].T, slope)
