"""One fit as a record: values, errors, correlations, pulls, and how it ended."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from inference.data.event_checks import listing
from inference.fits.batch_fit import FitBatch, FitOptions, fit_batch
from inference.likelihood.event_density import per_row
from inference.likelihood.extended import Likelihood
from inference.minimize import FitStatus
from inference.record import number, provenance
from inference.results import FitResult
from inference.science_run import expected_counts, theta_of


def covariances(batch: FitBatch) -> tuple[Tensor, Tensor]:
    """Return the covariance of the parameters (B, P, P) and whether it exists (B,).

    The inverse of -d2 ln L over the parameters that are neither held nor on a bound, and on which ln L depends; zero
    elsewhere.
    """
    free = ~(batch.held | batch.at_bound) & (batch.hessian.diagonal(dim1=-2, dim2=-1) < 0)
    eye = torch.eye(free.shape[-1], dtype=torch.float64, device=free.device)
    pair = free[:, :, None] & free[:, None, :]
    information = torch.where(pair, -batch.hessian, eye)
    unit = information.diagonal(dim1=-2, dim2=-1).abs().clamp_min(1e-300).rsqrt()
    scaled = information * unit.unsqueeze(-1) * unit.unsqueeze(-2)
    factor, info = torch.linalg.cholesky_ex(scaled)
    exists = (info == 0) & (factor.diagonal(dim1=-2, dim2=-1).amin(dim=-1) > 1e-7)
    factor = torch.where(exists[:, None, None], factor, eye)
    inverse = torch.cholesky_inverse(factor) * unit.unsqueeze(-1) * unit.unsqueeze(-2)
    return torch.where(pair & exists[:, None, None], inverse, 0.0), exists


def edge_remarks(likelihood: Likelihood, batch: FitBatch) -> tuple[str, ...]:
    """Return what is to be said of free parameters of the first row that end where their sources do."""
    remarks = []
    for j, p in enumerate(likelihood.parameters.parameters):
        value = float(batch.values[0, j])
        if bool(batch.at_bound[0, j]) and p.low < value < p.high:
            remarks.append(f"{p.name} = {value:.6g} is the end of the range on which its sources are defined")
    return tuple(remarks)


def impossible_remarks(likelihood: Likelihood, batch: FitBatch) -> tuple[str, ...]:
    """Return why ln L of the first row is not finite: events without density, and sources that give no number."""
    values, row, remarks = batch.values[:1], int(batch.rows[0]), []
    for run in likelihood.runs:
        x = likelihood.data.x[run.name][row][likelihood.data.weights[run.name][row] > 0]
        expected = expected_counts(likelihood.parameters, run, values)[0]
        theta = [theta_of(likelihood.parameters, c, values).expand(len(x), -1) for c in run.sources]
        log_f = [c.source.log_prob(x, t) for c, t in zip(run.sources, theta, strict=True)]
        for c, f, mu in zip(run.sources, log_f, expected, strict=True):
            if not bool(torch.isfinite(mu)):
                remarks.append(f"run '{run.name}': source '{c.name}' expects {float(mu)} events")
            if bool((broken := torch.isnan(f) | (f == math.inf)).any()):
                where = listing(x, broken, run.observables)
                remarks.append(f"run '{run.name}': the density of source '{c.name}' is no number at {where}")
        none = ~torch.stack([(f != -math.inf) & (mu != 0) for f, mu in zip(log_f, expected, strict=True)]).any(dim=0)
        if bool(none.any()):
            remarks.append(f"run '{run.name}': no source has a density at {listing(x, none, run.observables)}")
    return tuple(remarks)


def expected_events(likelihood: Likelihood, values: Tensor) -> dict[str, dict[str, float]]:
    """Return run -> source -> events expected at parameters (1, P); a source that gives no number is left out."""
    found = {}
    for run in likelihood.runs:
        counts = expected_counts(likelihood.parameters, run, values)[0].tolist()
        found[run.name] = {c.name: mu for c, mu in zip(run.sources, counts, strict=True) if math.isfinite(mu)}
    return found


def fit_result(likelihood: Likelihood, batch: FitBatch, row: int = 0, starts: int = 1) -> FitResult:
    """Return one row of a batch as a record."""
    one = batch.take(torch.tensor([row]))
    names, parameters = likelihood.parameters.names, likelihood.parameters
    covariance, exists = covariances(one)
    free = [j for j in range(len(names)) if bool(exists) and float(covariance[0, j, j]) > 0]
    errors = {n: number(math.sqrt(float(covariance[0, j, j]))) if j in free else None for j, n in enumerate(names)}
    centres = per_row(likelihood.data.centres, one.rows)[0].tolist()
    widths = dict(zip(names, parameters.constraint_widths().tolist(), strict=True))
    values, ancillary = parameters.mapping(one.values[0]), parameters.ancillary_names
    weights = {run.name: likelihood.data.weights[run.name][int(one.rows[0])] for run in likelihood.runs}
    status = FitStatus(int(one.status))
    return FitResult(
        values=values,
        errors=errors,
        covariance_names=tuple(names[j] for j in free),
        covariance=tuple(tuple(row) for row in covariance[0][free][:, free].tolist()),
        pulls={n: (values[n] - c) / widths[n] for n, c in zip(ancillary, centres, strict=True)},
        pull_errors={n: None if (error := errors[n]) is None else error / widths[n] for n in ancillary},
        fixed=tuple(n for j, n in enumerate(names) if bool(one.held[0, j])),
        log_likelihood=number(float(one.log_likelihood)),
        status=status.label,
        message=status.message,
        at_bound=tuple(n for j, n in enumerate(names) if bool(one.at_bound[0, j])),
        at_kink=tuple(n for j, n in enumerate(names) if bool(one.at_kink[0, j])),
        evaluations=int(one.evaluations),
        starts=starts,
        disagreeing_starts=int(one.disagreeing),
        provenance=provenance(likelihood.model_hash),
        expected=expected_events(likelihood, one.values),
        observed={name: float(weight.sum()) for name, weight in weights.items()},
        remarks=(impossible_remarks if status == FitStatus.NON_FINITE else edge_remarks)(likelihood, one),
    )


def fit(
    likelihood: Likelihood,
    fixed: Mapping[str, float] | None = None,
    start: Tensor | None = None,
    options: FitOptions | None = None,
) -> FitResult:
    """Fit one data set and return the record; see :func:`fit_batch`."""
    options = options or FitOptions()
    return fit_result(likelihood, fit_batch(likelihood, fixed, None, start, options), 0, options.starts)
