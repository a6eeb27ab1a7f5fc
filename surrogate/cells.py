"""Densities of observables that are known by their cell only, from a density p that is continuous.

What the data tell of an event is the cell c of such an observable: the whole number that a count is, or a bin. Its
probability is P(c) = int_c p(y) dy, and f is constant in the cell,

    f(x) = P(c)/|c| = int_0^1 p(y_c(v)) dv = sum_q w_q p(y_c(v_q)),    y_c(v) = e_c + v (e_{c+1} - e_c),

by a Gauss-Legendre rule in each cell. sum_c P(c) = int p = 1 to the accuracy of the rule, so that nothing has to be
normalised, and all else (the continuous observables, theta) is as in p. For p to be learned, the events of a training
are spread uniformly over their cells; ln P(c)/|c| is by Jensen's inequality never smaller than the mean of ln p over
the cell, which that training raises (Theis, van den Oord and Bethge, arXiv:1511.01844). Where the events lie in their
cells means nothing, and the networks, which see them at the centres, cannot take it for something.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from surrogate.jet import Jet, mean_jet
from surrogate.observables import bin_of_unit

NODES = 4
"""Points per cell and observable: exact for densities that are polynomials of degree 7 within a cell."""


def cell_centres(u: Tensor, cells: tuple[int, ...]) -> Tensor:
    """Return u (*, D) of the unit cube with coordinates moved to the centres of their cells.

    Parameters
    ----------
    u
        (*, D).
    cells
        Number of cells of each coordinate, 0 for those that stay; equally wide, as scales make them.
    """
    if not any(cells):
        return u
    columns = [
        ((bin_of_unit(column, n) + 0.5) / n).to(u) if n else column
        for column, n in zip(u.unbind(dim=-1), cells, strict=True)
    ]
    return torch.stack(columns, dim=-1)


def cell_indicators(u: Tensor, cells: tuple[int, ...]) -> Tensor:
    """Return for u (n, D) one column for every cell of every coordinate, 1 where u lies in it and else 0.

    What a histogram's network sees of the coordinates: cells are told apart from the start, where a single number would
    have to be bent into something that is not monotone.
    """
    columns = [
        torch.nn.functional.one_hot(bin_of_unit(column, n), n).to(u)
        for column, n in zip(u.unbind(dim=-1), cells, strict=True)
    ]
    return torch.cat(columns, dim=-1)


@dataclass(frozen=True, eq=False)
class CellRule:
    """The points of a product rule in the cells of C observables.

    Attributes
    ----------
    shares
        (m, C) in [0, 1], the share of each cell that lies below the point.
    weights
        (m,), their sum 1.
    """

    shares: Tensor
    weights: Tensor

    @classmethod
    def of(cls, n_observables: int, nodes: int = NODES) -> CellRule:
        """Return the rule for C observables; one point for C = 0."""
        roots, weights = np.polynomial.legendre.leggauss(nodes)
        points = itertools.product(zip((roots + 1) / 2, weights / 2, strict=True), repeat=n_observables)
        pairs = [(list(p), float(np.prod([w for _, w in p]))) for p in points]
        shares = torch.tensor([[v for v, _ in p] for p, _ in pairs], dtype=torch.float64)
        total = torch.tensor([w for _, w in pairs], dtype=torch.float64)
        return cls(shares.reshape(len(pairs), n_observables), total)

    def log_mean(self, log_p: list[Tensor]) -> Tensor:
        """Return ln sum_q w_q p_q (*,), -inf where all p_q vanish, from ln p (*,) at each point."""
        if len(log_p) == 1:
            return log_p[0]
        stacked = torch.stack(log_p)
        inside = torch.isfinite(stacked).any(dim=0)
        weights = self.weights.to(stacked).log().reshape(-1, *(1,) * inside.ndim)
        # rows that are -inf throughout would put NaN into the gradient of logsumexp
        total = torch.logsumexp(torch.where(inside, stacked, 0.0) + weights, dim=0)
        return torch.where(inside, total, -torch.inf)

    def mean_score(self, scores: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Return ln of the mean density (n,) and its gradient (n, K), from those at each point."""
        if len(scores) == 1:
            return scores[0]
        log_f = self.log_mean([log_p for log_p, _ in scores])
        gradient = torch.zeros_like(scores[0][1])
        for (log_p, slope), weight in zip(scores, self.weights, strict=True):
            share = torch.where(torch.isfinite(log_f), weight.to(log_p) * torch.exp(log_p - log_f), 0.0)
            gradient += share.unsqueeze(-1) * slope
        return log_f, gradient

    def mean_jet(self, jets: list[Jet]) -> Jet:
        """Return the jet of the mean density."""
        return jets[0] if len(jets) == 1 else mean_jet(jets, self.weights)
