"""The ancillary part of ln L: all constraints together, over the full parameter vector."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from inference.constraints.constraint import LOG_2PI, Constraint
from inference.constraints.gaussian import CorrelatedGaussianConstraint, GaussianConstraint


class AncillaryTerm:
    """The sum of all constraints over a parameter vector, with its derivatives in all P parameters.

    All Gaussian terms, correlated or not, are joined into one quadratic form, so that a model with twenty of them costs
    two matrix products.

    Parameters
    ----------
    names
        The P parameter names.
    constraints
        The terms; the columns of every ``centres`` argument are their parameters, term after term.
    device
        Where the constants are kept.
    """

    def __init__(
        self, names: Sequence[str], constraints: Sequence[Constraint], device: torch.device | None = None
    ) -> None:
        self.constraints = tuple(constraints)
        position = {name: i for i, name in enumerate(names)}
        columns = [position[name] for c in constraints for name in c.names]
        index = torch.tensor(columns, dtype=torch.long)
        precision = torch.zeros(len(columns), len(columns), dtype=torch.float64)
        self._log_norm = 0.0
        self._others: list[tuple[Constraint, slice, Tensor]] = []
        start = 0
        for c in constraints:
            block = slice(start, start + len(c.names))
            start = block.stop
            if isinstance(c, GaussianConstraint):
                precision[block, block] = 1 / c.sigma**2
                self._log_norm -= math.log(c.sigma) + 0.5 * LOG_2PI
            elif isinstance(c, CorrelatedGaussianConstraint):
                precision[block, block] = c.precision(precision)
                self._log_norm += c.log_norm
            else:
                self._others.append((c, block, index[block].to(device)))
        embed = torch.zeros(len(columns), len(names), dtype=torch.float64)
        embed[torch.arange(len(columns)), index] = 1.0
        self._index, self._precision, self._embed = index.to(device), precision.to(device), embed.to(device)
        self._hessian = -(embed.T @ precision @ embed).to(device)

    def log_prob(self, values: Tensor, centres: Tensor) -> Tensor:
        """Return sum_k ln p(a_k | theta_k) (B,) for values (B, P) and centres (B, m)."""
        residual = values[:, self._index] - centres
        total = -0.5 * ((residual @ self._precision) * residual).sum(-1) + self._log_norm
        for constraint, block, index in self._others:
            total = total + constraint.log_prob(values[:, index], centres[:, block])
        return total

    def derivatives(self, values: Tensor, centres: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sum (B,), its gradient (B, P) and its Hessian (B, P, P)."""
        residual = values[:, self._index] - centres
        pull = residual @ self._precision
        total = -0.5 * (pull * residual).sum(-1) + self._log_norm
        gradient = -(pull @ self._embed)
        hessian = self._hessian.expand(len(values), -1, -1)
        if self._others:
            hessian = hessian.clone()
        for constraint, block, index in self._others:
            value, first, second = constraint.derivatives(values[:, index], centres[:, block])
            total = total + value
            gradient[:, index] += first
            hessian[:, index[:, None], index[None, :]] += second
        return total, gradient, hessian

    def throw(self, values: Tensor, normal: Tensor) -> Tensor:
        """Return centres (B, m) thrown at values (B, P), a map of standard normals (B, m)."""
        blocks, start = [], 0
        for constraint in self.constraints:
            block = slice(start, start + len(constraint.names))
            start = block.stop
            blocks.append(constraint.throw(values[:, self._index[block]], normal[:, block]))
        return torch.cat(blocks, dim=-1) if blocks else values.new_zeros(len(values), 0)
