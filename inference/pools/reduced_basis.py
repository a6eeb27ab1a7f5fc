"""Few functions of theta that span ln f of all events of a source, and how little is needed to know an event's share.

ln f(x | theta) of different events are much alike as functions of theta. The polynomials of a sample of events have a
singular value decomposition, in the norm of the region and with each event as important as the source is there, whose
first R right vectors reproduce all of them: a few dozen instead of hundreds of monomials. To tell an event's amount of
each takes its density and slopes at R / (1 + S) nodes, some ten, and a product with one matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.expansion.density import score
from inference.expansion.polynomial import least_squares
from inference.expansion.source_fit import central_nodes
from inference.expansion.theta_basis import ThetaBasis
from inference.science_run import RunSource

#: Points of the region by which the norm of functions is defined.
NORM_POINTS = 4096
#: Numbers per coefficient.
EXCESS = 2.0
#: Least norm of a combination of monomials relative to the largest, below which it is rounding.
SMALLEST_NORM = 1e-10


def principal_modes(basis: ThetaBasis, coefficients: Tensor, importance: Tensor, tail: float) -> ThetaBasis:
    """Return the functions that span those of a sample of events but for a remainder.

    Parameters
    ----------
    basis
        M polynomials.
    coefficients
        (E, M) of the sample.
    importance
        (E,) by which the function of each event counts.
    tail
        The remainder: root of the summed squares of what is left out, in the root-mean-square norm over the region.
    """
    theta = basis.chart.theta(central_nodes(basis.chart, NORM_POINTS))
    phi = basis.values(theta)
    size, axes = torch.linalg.eigh(phi.T @ phi / len(phi))
    kept = size > SMALLEST_NORM * size[-1]
    root = axes[:, kept] * size[kept].sqrt()
    _, values, right = torch.linalg.svd((importance.unsqueeze(-1) * coefficients) @ root, full_matrices=False)
    left_out = values.square().flip(0).cumsum(0).flip(0).sqrt()
    n = max(1, int((left_out > tail).sum()))
    modes = (axes[:, kept] / size[kept].sqrt()) @ right[:n].T
    return ThetaBasis(basis.chart, basis.polynomials, modes)


@dataclass(frozen=True, eq=False)
class NodalFit:
    """Amounts of the functions of a basis in ln f of any event.

    Attributes
    ----------
    source, basis
        Whose density, and the functions.
    nodes
        Nuisances (n, K) at which it is evaluated.
    fitter
        (R, n (1 + S)), from values and slopes, node by node.
    """

    source: RunSource
    basis: ThetaBasis
    nodes: Tensor
    fitter: Tensor

    @classmethod
    def of(cls, source: RunSource, basis: ThetaBasis) -> NodalFit:
        """Choose the nodes."""
        dim = basis.chart.n_parameters
        nodes = basis.chart.theta(central_nodes(basis.chart, math.ceil(EXCESS * len(basis) / (1 + dim))))
        at = basis.inner(nodes)
        slopes = basis.chart.region.axes.T @ basis.from_monomials(at.slope)
        return cls(source, basis, nodes, least_squares(basis.from_monomials(at.value), slopes))

    def coefficients(self, x: Tensor) -> Tensor:
        """Return the amounts (E, R) of events x (E, D)."""
        data = []
        for node in self.nodes:
            log_f, gradient = score(self.source.source, x, node.expand(len(x), -1))
            data.append(torch.cat([log_f.unsqueeze(0), self.basis.chart.pull_back(gradient).T]))
        return (self.fitter @ torch.cat(data)).T
