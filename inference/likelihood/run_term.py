"""The extended likelihood of one run, binned or unbinned.

    ln L = -sum_c R_c(theta) + sum_i w_i ln lambda_i(theta) + const,    lambda_i = sum_c R_c f_c(x_i | theta),

with its gradient and Hessian assembled from the jets of rates and densities. With v_i = w_i / lambda_i,

    d ln L   = sum_c (A_c - 1) dR_c + R_c G_c,
    d2 ln L  = sum_c (A_c - 1) d2R_c + dR_c G_c^T + G_c dR_c^T + R_c H_c
               - sum_i (w_i / lambda_i^2) dlambda_i dlambda_i^T,

where A_c, G_c, H_c = sum_i v_i (f, df, d2f)_c(x_i). Everything is a matrix product over events.

A binned run is the same with the density of its sources constant in bins: with the bin volumes V and ln n_b! added it
is the product of Poisson probabilities, sum_b ln Pois(n_b | lambda_b), because every source is normalised; empty bins
need no evaluation. The unbinned constant ln N! is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.data.dataset import padded
from inference.likelihood.event_density import EventDensity, EventJet, bind, per_row
from inference.likelihood.rate_term import RateJets, RateTerm
from inference.likelihood.source_group import group_sources
from inference.parameters import ParameterSet
from inference.science_run import ScienceRun
from surrogate.binning import Binning

#: Largest ln of a density relative to lambda_i that enters derivatives; squares of exp(300) are still finite.
LARGEST_LOG = 300.0


def merge_bins(binning: Binning, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Replace the events of T data sets by their occupied bins.

    Parameters
    ----------
    binning
        The grid.
    x, weights
        Events (T, N, D) inside the grid and weights (T, N).

    Returns
    -------
    tuple of Tensor
        Bin centres (T, M, D), contents (T, M), zero on the padding, and the constants (T,)
        sum_b [n_b ln V_b - ln Gamma(n_b + 1)].
    """
    n_rows = len(x)
    rows = torch.arange(n_rows, device=x.device).unsqueeze(-1).expand(weights.shape)
    used = weights > 0
    key = rows[used] * binning.n_bins + binning.index(x)[used]
    occupied, inverse = torch.unique(key, return_inverse=True)
    content = x.new_zeros(len(occupied)).index_add_(0, inverse, weights[used])
    row, bins = occupied // binning.n_bins, occupied % binning.n_bins
    counts = torch.bincount(row, minlength=n_rows)
    low, high = (edge.to(x.device) for edge in binning.corners)
    middle = 0.5 * (low + high)
    centres, contents = padded(middle[bins], counts, middle[0], content)
    constant = content * binning.volumes.to(x.device)[bins].log() - torch.lgamma(content + 1)
    return centres, contents, x.new_zeros(n_rows).index_add_(0, row, constant)


@dataclass(frozen=True, eq=False)
class _Mixture:
    """The sources of a run at B parameter points.

    ``rates``: R_c and derivatives; ``jets``: of f_c over (B, N), to be multiplied by ``unit``, exp(log_scale - shift)
    (B, C, N); ``density`` (B, C, N) and ``intensity`` (B, N): f_c and lambda in units of exp(``shift``) (B, N).
    """

    rates: RateJets
    jets: Sequence[EventJet]
    unit: Tensor
    density: Tensor
    intensity: Tensor
    shift: Tensor


class RunTerm:
    """ln L of one run over T data sets.

    Parameters
    ----------
    parameters
        The model's parameters.
    run
        The run.
    x, weights
        Events (T, N, D) and weights (T, N) as in :class:`inference.data.dataset.DataBatch`.
    densities
        What stands for the densities at the events, per source name; the exact source where none is given.
    """

    def __init__(
        self,
        parameters: ParameterSet,
        run: ScienceRun,
        x: Tensor,
        weights: Tensor,
        densities: dict[str, EventDensity] | None = None,
    ) -> None:
        self._rates = RateTerm(parameters, run, x.device)
        self._constant = x.new_zeros(len(x))
        if run.binning is not None:
            x, weights, self._constant = merge_bins(Binning(run.observables.names, run.binning), x, weights)
        self._weights = weights
        given = densities or {}
        self._densities: Sequence[EventDensity] = [
            given.get(c.name) or bind(c.source, x, None if b.moves else b.held)
            for c, b in zip(run.sources, self._rates.bindings, strict=True)
        ]
        replaced = [c.name in given for c in run.sources]
        self._groups = group_sources(self._rates.bindings, self._densities, replaced, x)

    @property
    def n_events(self) -> int:
        """Length N of the padded data sets, or number of occupied bins."""
        return self._weights.shape[-1]

    def log_likelihood(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return ln L (B,) at values (B, P), differentiable; -inf where a lambda_i is not positive."""
        rates, log_f = self._rates.value(values), self._log_densities(values, rows)
        weights = per_row(self._weights, rows)
        shift = torch.where((rates != 0).unsqueeze(1), log_f.detach(), -math.inf).amax(dim=-1, keepdim=True)
        shift = torch.where(torch.isfinite(shift), shift, 0.0)
        intensity = ((log_f - shift).clamp(max=LARGEST_LOG).exp() * rates.unsqueeze(1)).sum(dim=-1)
        counted = weights > 0
        possible = intensity > 0
        logs = torch.where(possible, intensity, torch.ones_like(intensity)).log() + shift.squeeze(-1)
        total = rates.sum(dim=-1)
        value = (weights * logs).sum(dim=-1) - total + per_row(self._constant, rows)
        legal = (possible | ~counted).all(dim=-1) & (total >= 0)
        return torch.where(legal, value, torch.full_like(value, -math.inf))

    def shares(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return the part of every source in lambda_i (B, N, C); zero where lambda_i is."""
        log_rates = self._rates.value(values).clamp_min(0.0).log().unsqueeze(1)
        return torch.softmax(log_rates + self._log_densities(values, rows), dim=-1).nan_to_num_(0.0)

    def _log_densities(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return ln f of every source (B, N, C)."""
        pairs = zip(self._densities, self._rates.bindings, strict=True)
        return torch.stack([density.log_prob(b.theta(values), rows) for density, b in pairs], dim=-1)

    def derivatives(self, values: Tensor, rows: Tensor, centre: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return ln L (B,), its gradient (B, P) and Hessian (B, P, P); zero derivatives where ln L = -inf."""
        m = self._mixture(values, rows, centre)
        weights = per_row(self._weights, rows)
        possible = m.intensity > 0
        safe = torch.where(possible, m.intensity, torch.ones_like(m.intensity))
        total = m.rates.value.sum(dim=-1)
        value = (weights * (safe.log() + m.shift)).sum(dim=-1) - total + per_row(self._constant, rows)
        legal = (possible | (weights == 0)).all(dim=-1) & (total >= 0)
        ratio = torch.where(possible, weights, torch.zeros_like(weights)) / safe

        gradient, hessian = self._assemble(m, ratio, ratio / safe)
        zero = gradient.new_zeros(())
        return (
            torch.where(legal, value, torch.full_like(value, -math.inf)),
            torch.where(legal[:, None], gradient, zero),
            torch.where(legal[:, None, None], hessian, zero),
        )

    def scores(self, values: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient of ln lambda_i (B, N, P) at every event, and that of mu_tot (B, P)."""
        m = self._mixture(values, rows, None)
        expected = self._rates.to_parameters(m.rates.gradient).sum(dim=1)
        return (self._intensity_gradient(m) / m.intensity.unsqueeze(1)).mT, expected

    def _mixture(self, values: Tensor, rows: Tensor, centre: Tensor | None) -> _Mixture:
        """Return rates, densities and intensities at values (B, P)."""
        pairs = {c: pair for g in self._groups for c, pair in zip(g.members, g.jets(values, rows, centre), strict=True)}
        rates = self._rates.jets(values, [pairs[c][0] for c in range(len(pairs))])
        jets = [pairs[c][1] for c in range(len(pairs))]
        log_scale = torch.stack([j.log_scale for j in jets], dim=1)
        relative = torch.stack([j.value for j in jets], dim=1)
        counts = (rates.value != 0).unsqueeze(-1) & (relative > 0)
        shift = torch.where(counts, log_scale, -math.inf).amax(dim=1, keepdim=True)
        shift = torch.where(torch.isfinite(shift), shift, 0.0)
        unit = (log_scale - shift).clamp_(max=LARGEST_LOG).exp_()
        density = unit * relative
        intensity = (rates.value.unsqueeze(1) @ density).squeeze(1)
        return _Mixture(rates, jets, unit, density, intensity, shift.squeeze(1))

    def _intensity_gradient(self, m: _Mixture) -> Tensor:
        """Return the gradient of lambda_i (B, P, N)."""
        columns, slopes = [m.density], [self._rates.to_parameters(m.rates.gradient)]
        for c, (b, jet) in enumerate(zip(self._rates.bindings, m.jets, strict=True)):
            if b.moves:
                gradient = b.driven_part(jet.gradient)
                block = slice(self._rates.n_factors, self._rates.n_factors + gradient.shape[-1])
                columns.append(gradient.mT * (m.unit[:, c] * m.rates.value[:, c, None]).unsqueeze(1))
                slopes.append(self._rates.embed[c, block].expand(len(gradient), -1, -1))
        return torch.cat(slopes, dim=1).mT @ torch.cat(columns, dim=1)

    def _assemble(self, m: _Mixture, ratio: Tensor, curvature: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient (B, P) and the Hessian (B, P, P), given w / lambda and w / lambda^2 (B, N)."""
        rates = m.rates
        occupancy = (m.density @ ratio.unsqueeze(-1)).squeeze(-1) - 1
        first = rates.gradient * occupancy[..., None]
        second = rates.hessian * occupancy[..., None, None]
        for c, (b, jet) in enumerate(zip(self._rates.bindings, m.jets, strict=True)):
            if not b.moves:
                continue
            weight, rate = ratio * m.unit[:, c], rates.value[:, c, None]
            gradient, h = b.driven(jet.gradient, jet.hessian_sum(weight))
            n = gradient.shape[-1]
            block = slice(self._rates.n_factors, self._rates.n_factors + n)
            g = (weight.unsqueeze(1) @ gradient).squeeze(1)
            first[:, c, block] += rate * g
            mixed = rates.gradient[:, c, :, None] * g[:, None, :]
            second[:, c, :, block] += mixed
            second[:, c, block, :] += mixed.mT
            second[:, c, block, block] += rate[..., None] * h
        intensity_gradient = self._intensity_gradient(m)
        outer = (intensity_gradient * curvature.unsqueeze(1)) @ intensity_gradient.mT
        return self._rates.to_parameters(first).sum(dim=1), self._rates.sum_hessians(second) - outer
