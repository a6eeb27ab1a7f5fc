"""The optimisers of a training: AdamW, alone or with Muon for the hidden matrices of the networks.

AdamW (Loshchilov and Hutter, arXiv:1711.05101) scales the step of each weight by itself. Muon (Jordan et al., 2024;
scaled to the step length of AdamW as in Liu et al., arXiv:2502.16982, section 2.2) replaces the averaged gradient of a
matrix by the nearest orthogonal matrix, so that all its directions are learned at the same pace, those with small
gradients too. It takes the matrices between hidden layers; what enters and leaves a network, and all biases, stay with
AdamW.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from training.settings import OptimiserConfig


def build_optimiser(network: nn.Module, settings: OptimiserConfig) -> Optimizer:
    """Return the optimiser of all parameters of a network, at the peak learning rate."""
    hidden = hidden_matrices(network) if settings.algorithm == "muon" else []
    taken = {id(matrix) for matrix in hidden}
    others = [parameter for parameter in network.parameters() if id(parameter) not in taken]
    rate, decay = settings.learning_rate, settings.weight_decay
    adamw = AdamW(others, lr=rate, weight_decay=decay, fused=True)
    if not hidden:
        return adamw
    muon = Muon(hidden, lr=settings.muon_rate * rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    return JointOptimiser(adamw, muon)


def hidden_matrices(network: nn.Module) -> list[Tensor]:
    """Return the weights between hidden layers: those of the residual blocks."""
    return [
        parameter
        for name, parameter in network.named_parameters()
        if "linear_layers" in name.split(".") and parameter.ndim == 2
    ]


class JointOptimiser(Optimizer):
    """Several optimisers of different parameters as one.

    Parameters
    ----------
    parts
        The optimisers; their parameter groups are shared, so that a schedule reaches them.
    """

    def __init__(self, *parts: Optimizer) -> None:
        self._parts = parts
        super().__init__(self._groups(), {})

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step of each, after a single evaluation of ``closure``, whose result is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all parts."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = self._groups()  # loading replaces them

    def _groups(self) -> list[dict[str, Any]]:
        return [group for part in self._parts for group in part.param_groups]
