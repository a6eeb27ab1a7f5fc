"""ln p(u | theta) of a flow and its gradient in theta without automatic differentiation: the fast path of inference.

It holds for flows of one autoregressive layer of logistic mixtures, the default family, and gives what autograd gives,
to rounding. What it gains is in docs/speed.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surrogate.cells import cell_centres
from surrogate.flow import ConditionalFlow
from surrogate.flow_config import FlowConfig
from surrogate.masked_network import MaskedNetwork, MaskedWeights, masked_weights
from surrogate.mixture_kernel import MixtureKernel, Shift

CPU_BYTES = 2**23
"""Memory of a chunk's buffers on a CPU, small enough for its caches."""

DEVICE_BYTES = 2**30
"""The same on other devices, where many events must be in flight."""

LEAST = 256
"""Fewest events in a chunk."""


def has_kernel(config: FlowConfig) -> bool:
    """Return whether a flow can be evaluated by :class:`FlowKernel`."""
    return config.family == "logistic_mixture" and config.layers == 1


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
        u, theta = u.to(self.dtype), theta.to(self.dtype)
        total = u.new_zeros(len(u))
        size = self._chunk(u)
        chunk: _Chunk | None = None
        for start in range(0, len(u), size):
            part = slice(start, start + size)
            if chunk is None or chunk.n != len(total[part]):
                chunk = _Chunk(self, len(total[part]))
            slope = chunk.evaluate(u[part], theta[part], total[part], gradient is not None)
            if gradient is not None:
                gradient[part] = slope
        return total

    def _chunk(self, u: Tensor) -> int:
        hidden, blocks = self.weights.ends[-1], len(self.weights.blocks)
        per_event = u.element_size() * (hidden * (2 * blocks + 5) + 18 * self.config.components)
        return max(LEAST, (CPU_BYTES if u.device.type == "cpu" else DEVICE_BYTES) // per_event)


class _Chunk:
    """Workspaces for n events."""

    def __init__(self, kernel: FlowKernel, n: int) -> None:
        like, config = kernel.weights.inputs, kernel.config
        self.n = n
        self._config = config
        self._features = config.features()
        self._guides = config.guide_set() if config.guides else None
        guided = {guide.observable for guide in config.guides}
        self._guided = [config.observables.names[d] in guided for d in config.permutation]
        self._network = MaskedNetwork(kernel.weights, n)
        self._mixture = MixtureKernel(config.components, config.floor, n, like)
        self._raw = like.new_empty(3 * config.components, n)

    def evaluate(self, u: Tensor, theta: Tensor, total: Tensor, slopes: bool) -> Tensor:
        """Add ln p to ``total`` (n,) and return its gradient (n, K) in theta if asked for, else zeros."""
        u = u[:, list(self._config.permutation)]
        columns = u.T.contiguous()
        self._network.forward(
            (2.0 * cell_centres(u, self._config.cells) - 1.0).T.contiguous(), self._features.values(theta).T
        )
        delta, first, _ = self._guides.delta_jet(u, theta) if self._guides else (None, None, None)
        gradient = torch.zeros_like(theta)
        for d in range(len(columns)):
            shift = None
            if self._guides is not None and delta is not None and self._guided[d]:
                shift = Shift(delta[:, d], *self._guides.scales[d])
            raw = self._network.output(d, self._raw)
            by_delta = self._mixture.add_log_density(columns[d], raw, total, shift, slopes)
            if slopes:
                self._network.add_gradient(d, raw)
            if by_delta is not None and first is not None:
                gradient.addcmul_(first[:, :, d], by_delta.unsqueeze(-1))
        if slopes and self._features.dim:
            slope, _ = self._features.derivatives(theta)
            gradient.add_(self._features.gather(self._network.context_gradient().T * slope, -1))
        return gradient
