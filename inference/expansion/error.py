"""What the error of expanded densities does to -2 ln Lambda: they are compared with the exact ones at chosen points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.expansion.region import Region, ball_points, normal_points
from inference.parameters import ParameterSet
from inference.science_run import ScienceRun, expected_counts, theta_of

#: Of the quasi-random points.
HELD_OUT_SEED = 2


@dataclass(frozen=True, eq=False)
class EventSet:
    """Events of one run.

    Attributes
    ----------
    x
        (E, D).
    weights
        (E,) their weight in ln L.
    dataset
        (E,) which of T data sets each belongs to.
    n_datasets
        T.
    """

    x: Tensor
    weights: Tensor
    dataset: Tensor
    n_datasets: int


def measuring_points(
    region: Region, parameters: ParameterSet, values: Tensor, n: int, as_estimates: bool = False
) -> Tensor:
    """Return parameter values (1 + n, P): those given, moved to the centre of a region and to points within it.

    The points fill the region evenly, or lie as estimates do, normally about the centre.
    """
    points = values.expand(1 + n, -1).clone()
    index = [parameters.index(name) for name in region.names]
    dim = len(index)
    ball = normal_points(n, dim, region.radius, HELD_OUT_SEED) if as_estimates else ball_points(n, dim, HELD_OUT_SEED)
    points[:, index] = torch.cat([region.centre.unsqueeze(0), region.from_ball(ball)])
    return points


class ExactDensities:
    """ln f of every source of a run at some events and parameter points, and how errors of it show in -2 ln Lambda.

    Parameters
    ----------
    parameters, run
        The model.
    events
        Of the run.
    points
        Parameter values (1 + H, P); differences of ln L are taken to the first.

    Attributes
    ----------
    theta
        Source -> its nuisances (1 + H, K) at the points.
    log_f
        Source -> ln f (1 + H, E).
    shares
        Source -> the part of the intensity at each event (1 + H, E) that is due to it.
    """

    def __init__(self, parameters: ParameterSet, run: ScienceRun, events: EventSet, points: Tensor) -> None:
        self.run, self.events = run, events
        self.theta = {c.name: theta_of(parameters, c, points) for c in run.sources}
        x = events.x.unsqueeze(0)
        self.log_f = {c.name: c.source.log_prob(x, self.theta[c.name].unsqueeze(1)) for c in run.sources}
        log_rates = expected_counts(parameters, run, points).log()
        terms = [r.unsqueeze(-1) + f for r, f in zip(log_rates.T, self.log_f.values(), strict=True)]
        self.shares = dict(zip(run.source_names, torch.softmax(torch.stack(terms), dim=0), strict=True))

    @property
    def n_densities(self) -> int:
        """Evaluations made."""
        return sum(log_f.numel() for log_f in self.log_f.values())

    def error(self, differences: Mapping[str, Tensor]) -> float:
        """Return the largest error of -2 ln Lambda, given source -> error of ln f (1 + H, E)."""
        # ln lambda' - ln lambda = ln sum_c share_c exp(difference_c)
        change = torch.zeros_like(next(iter(self.shares.values())))
        for name, difference in differences.items():
            change = change + self.shares[name] * torch.expm1(difference)
        return self._deviation(torch.log1p(change))

    def effect(self, name: str, difference: Tensor) -> float:
        """Return what one source contributes to the error, to first order."""
        return self._deviation(self.shares[name] * difference)

    def spread(self, name: str, difference: Tensor, least: float) -> float:
        """Return what one source contributes where it seems to make up no more than ``least`` of the intensity.

        In data sets of Poisson numbers of such events: the mean and the scatter about it, in quadrature.
        """
        share = self.shares[name]
        change = torch.where(share * difference.exp() <= least, share * difference.expm1(), 0.0)
        change = change - change[0]
        mean, variance = change @ self.events.weights, change.square() @ self.events.weights
        return 2.0 * float((mean.square() + variance).sqrt().max())

    def _deviation(self, by_event: Tensor) -> float:
        weighted = by_event * self.events.weights
        total = weighted.new_zeros(len(weighted), self.events.n_datasets)
        total.index_add_(1, self.events.dataset, weighted)
        return 2.0 * float((total - total[0]).abs().max())
