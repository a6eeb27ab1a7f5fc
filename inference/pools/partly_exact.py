"""Likelihoods on expansions with the exact densities where these matter: what fits to toys end on.

An error of ln f_c at an event counts by the part of the intensity there that is due to source c, and nearly all events
of a search are background. A pool says above which part a source is wanted exactly (:mod:`inference.pools.builder`); of
hundreds of events that is a handful, unless a fit has left the region of the expansion. Values and slopes are exact
there, the curvature remains that of the expansion: Newton steps with it end at the same maximum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from inference.expansion.density import score
from inference.likelihood.event_density import EventDensity, EventJet
from inference.likelihood.extended import Likelihood
from inference.pools.event_pool import EventPool
from surrogate.source import Source


class PartlyExact:
    """ln f of a source, expanded at most events and exact at some; an :class:`EventDensity`.

    Parameters
    ----------
    expanded
        The expansion at the events of T data sets.
    source, x
        The source, and the events (T, N, D).
    chosen
        (T, N) where it is exact.
    curved
        Whether its Hessian is exact there as well, at several times the cost; else it is that of the expansion.
    """

    def __init__(self, expanded: EventDensity, source: Source, x: Tensor, chosen: Tensor, curved: bool) -> None:
        self._expanded, self._source, self._x, self._chosen = expanded, source, x, chosen
        self._curved = curved

    def density_jet(self, theta: Tensor, rows: Tensor, centre: Tensor | None = None) -> EventJet:
        """Return the jet over (B, N); see :class:`inference.likelihood.event_density.EventDensity`."""
        jet, chosen = self._expanded.density_jet(theta, rows, centre), self._chosen[rows]
        row = chosen.nonzero()[:, 0]
        x, at = self._x[rows][chosen], theta[row]
        if not self._curved:
            log_f, gradient = score(self._source, x, at)
            return _put(jet, chosen, log_f, torch.ones_like(log_f), gradient)
        own = self._source.density_jet(x, at)

        def hessian_sum(weight: Tensor) -> Tensor:
            others = jet.hessian_sum(weight.masked_fill(chosen, 0.0))
            return others.index_add(0, row, weight[chosen][:, None, None] * own.hessian)

        return replace(_put(jet, chosen, own.log_scale, own.value, own.gradient), hessian_sum=hessian_sum)

    def log_prob(self, theta: Tensor, rows: Tensor) -> Tensor:
        """Return ln f (B, N)."""
        jet = self.density_jet(theta, rows)
        return jet.log_scale + jet.value.log()


def _put(jet: EventJet, chosen: Tensor, log_scale: Tensor, value: Tensor, gradient: Tensor) -> EventJet:
    """Return a jet with the values and slopes of chosen events replaced."""
    return replace(
        jet,
        log_scale=jet.log_scale.masked_scatter(chosen, log_scale),
        value=jet.value.masked_scatter(chosen, value),
        gradient=jet.gradient.masked_scatter(chosen.unsqueeze(-1), gradient),
    )


def partly_exact(
    pool: EventPool, likelihood: Likelihood, ends: Sequence[Tensor], everywhere: Tensor, curved: bool = False
) -> Likelihood:
    """Return a likelihood to finish fits on.

    Parameters
    ----------
    pool, likelihood
        The pool, and the likelihood of T data sets on its expansions.
    ends
        Parameters (T, P) at which fits have ended on these.
    everywhere
        (T,) data sets with exact densities at all events.
    curved
        Whether Hessians are exact there as well.
    """
    shares = [likelihood.shares(end) for end in ends]
    densities = {name: dict(given) for name, given in likelihood.densities.items()}
    for run in likelihood.runs:
        largest = torch.stack([share[run.name] for share in shares]).amax(dim=0)
        x, used = likelihood.data.x[run.name], likelihood.data.weights[run.name] > 0
        for c, source in enumerate(run.sources):
            limit = pool.exact_above.get((run.name, source.name))
            if limit is not None:
                chosen = used & ((largest[..., c] > limit) | everywhere.unsqueeze(-1))
                densities[run.name][source.name] = PartlyExact(
                    likelihood.densities[run.name][source.name], source.source, x, chosen, curved
                )
    return Likelihood(likelihood.parameters, likelihood.runs, likelihood.data, densities)
