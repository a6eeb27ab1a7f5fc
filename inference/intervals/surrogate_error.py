"""How far the finite training of surrogates moves a fit and its limits.

With another surrogate ln L changes by D(theta). To first order in D a best fit moves by I^-1 grad D(theta_hat), with
I the observed information; and as t(mu) = 2 [ln L(theta_hat) - ln L(theta_mu)] is stationary in both maxima, an end of
an interval, t(mu) = c, moves by

    d mu = -2 [D(theta_hat) - D(theta_mu)] / (dt/dmu).

So nothing is fitted again: ln L and its gradient at the best fit and at the ends, once per variation of each source
(:mod:`surrogate.variations`), give the covariance of all results. Sources are trained independently of each other, and
their variances add; a source that populates several runs is varied in all of them together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inference.expansion.density import Scored, score
from inference.likelihood.event_density import EventDensity, EventJet, summing, without_hessian
from inference.likelihood.extended import Likelihood
from inference.results import FitResult, Interval, SurrogateError
from inference.science_run import RunSource, ScienceRun, theta_of
from surrogate.ensemble import EnsembleSource
from surrogate.errors import RangeError
from surrogate.flow_source import FlowSource
from surrogate.source import Source
from surrogate.spectrum_source import SpectrumSource
from surrogate.variations import Trained, is_complete, variations


def surrogate_error(likelihood: Likelihood, fit: FitResult, interval: Interval | None = None) -> SurrogateError | None:
    """Return what finite training contributes to the error of a fit and of the ends of an interval.

    Parameters
    ----------
    likelihood
        The model with the one data set behind the results, and exact densities.
    fit
        The best fit.
    interval
        The interval whose best fit it is.

    Returns
    -------
    SurrogateError or None
        None if no source of an unbinned run was trained, or the fit is not at a maximum.

    Raises
    ------
    RangeError
        If there is more than one data set.
    """
    if likelihood.n_datasets != 1:
        raise RangeError(f"surrogate error: needs one data set, got {likelihood.n_datasets}")
    trained = dict(_trained(likelihood.runs))
    if not trained or not fit.success:
        return None
    frame = _Frame.of(likelihood, fit, interval)
    by_source = {label: _covariance(frame, source) for label, source in trained.items()}
    names = ("lower", "upper")
    total = frame.named(sum(by_source.values(), torch.zeros(())))
    return SurrogateError(
        values={name: error for name, error in total.items() if name not in names},
        lower=total.get("lower"),
        upper=total.get("upper"),
        by_source={label: frame.named(covariance) for label, covariance in by_source.items()},
        incomplete=tuple(label for label, source in trained.items() if not is_complete(source)),
        unknown=_folded(likelihood.runs),
    )


def _trained(runs: tuple[ScienceRun, ...]) -> Iterator[tuple[str, Trained]]:
    """Yield the trained sources of unbinned runs, each once, under the names they have there."""
    seen: dict[str, tuple[Trained, list[str]]] = {}
    for run in runs:
        for c in run.sources:
            if not run.binned and isinstance(c.source, FlowSource | EnsembleSource):
                seen.setdefault(c.source.identity, (c.source, []))[1].append(c.name)
    for source, names in seen.values():
        yield " = ".join(dict.fromkeys(names)), source


def _folded(runs: tuple[ScienceRun, ...]) -> tuple[str, ...]:
    """Return the names of the folded responses in unbinned runs."""
    unbinned = (c for run in runs if not run.binned for c in run.sources)
    return tuple(dict.fromkeys(c.name for c in unbinned if isinstance(c.source, SpectrumSource)))


class _FixedJets:
    """The jets of a density at fixed parameter points, whatever is asked; implements ``EventDensity``."""

    def __init__(self, jet: EventJet) -> None:
        self._jet = jet

    def density_jet(self, theta: Tensor, rows: Tensor, centre: Tensor | None = None) -> EventJet:
        return self._jet

    def log_prob(self, theta: Tensor, rows: Tensor) -> Tensor:
        return self._jet.log_scale + self._jet.value.log()


@dataclass(frozen=True, eq=False)
class _Frame:
    """The points at which ln L is compared, and what a change of it means there.

    Attributes
    ----------
    likelihood
        The model with its data.
    points
        (B, P): the best fit, then the conditional fits at the ends.
    ends
        Names of the ends, and dt/dmu at each.
    free
        Names of the parameters with an error, and their covariance.
    jets
        (run, source) -> jets at the points; sources that are not given are evaluated as they are.
    """

    likelihood: Likelihood
    points: Tensor
    ends: Mapping[str, float]
    free: tuple[str, ...]
    covariance: Tensor
    jets: Mapping[tuple[str, str], EventJet]

    @classmethod
    def of(cls, likelihood: Likelihood, fit: FitResult, interval: Interval | None) -> _Frame:
        parameters = likelihood.parameters
        fits, names = [fit], []
        for name, end in () if interval is None else (("lower", interval.lower), ("upper", interval.upper)):
            if end.found and end.fit is not None:
                fits.append(end.fit)
                names.append(name)
        points = torch.stack([parameters.vector(f.values) for f in fits])
        jets = {
            (run.name, c.name): _jets(likelihood, run, c, c.source, points)
            for run in likelihood.runs
            if not run.binned
            for c in run.sources
        }
        size = len(fit.covariance_names)  # none at all where nothing is free
        covariance = torch.tensor(fit.covariance, dtype=torch.float64).reshape(size, size)
        frame = cls(likelihood, points, {}, fit.covariance_names, covariance, jets)
        if interval is None:
            return frame
        _, gradient = frame.evaluate(likelihood.runs, {})
        column = parameters.index(interval.parameter)
        slopes = {name: float(-2 * gradient[1 + k, column]) for k, name in enumerate(names)}
        return replace(frame, ends=slopes)

    def evaluate(
        self, runs: tuple[ScienceRun, ...], changed: Mapping[tuple[str, str], EventJet]
    ) -> tuple[Tensor, Tensor]:
        """Return ln L (B,) and its gradient (B, P) at the points, with some sources or densities changed."""
        densities: dict[str, dict[str, EventDensity]] = {}
        for (run, source), jet in {**self.jets, **changed}.items():
            densities.setdefault(run, {})[source] = _FixedJets(jet)
        likelihood = Likelihood(self.likelihood.parameters, runs, self.likelihood.data, densities)
        rows = torch.zeros(len(self.points), dtype=torch.long)
        value, gradient, _ = likelihood.derivatives(self.points, rows)
        return value, gradient

    def effects(self, value: Tensor, gradient: Tensor) -> Tensor:
        """Return how the results move, free parameters first, then ends, when ln L changes by so much."""
        index = [self.likelihood.parameters.index(name) for name in self.free]
        fit = self.covariance @ gradient[0, index] if index else gradient.new_zeros(0)
        slopes = torch.tensor(list(self.ends.values()), dtype=torch.float64)
        return torch.cat([fit, -2 * (value[0] - value[1:]) / slopes])

    def named(self, covariance: Tensor) -> dict[str, float]:
        """Return the standard deviation of each result by name."""
        errors = covariance.diagonal().clamp_min(0.0).sqrt().tolist()
        return dict(zip((*self.free, *self.ends), errors, strict=True))


def _jets(likelihood: Likelihood, run: ScienceRun, c: RunSource, source: Source, points: Tensor) -> EventJet:
    """Return the jets (B, N) of a density; Hessians are not needed, as no gradient of ln L contains them."""
    x = likelihood.data.x[run.name][0]
    theta = theta_of(likelihood.parameters, c, points)
    shape, k = (len(points), len(x)), theta.shape[-1]
    if not isinstance(source, Scored):
        return summing(source.density_jet(x, theta.unsqueeze(1)))
    rows = theta.repeat_interleave(len(x), dim=0)
    log_f, gradient = score(source, x.repeat(len(points), 1), rows)
    return without_hessian(log_f.reshape(shape), gradient.reshape(*shape, k))


def _covariance(frame: _Frame, source: Trained) -> Tensor:
    """Return the covariance of all results from the finite training of one source."""
    likelihood = frame.likelihood
    places = [
        (run, c)
        for run in likelihood.runs
        if not run.binned
        for c in run.sources
        if isinstance(c.source, FlowSource | EnsembleSource) and c.source.identity == source.identity
    ]
    theta = torch.cat([theta_of(likelihood.parameters, c, frame.points) for _, c in places])
    value, gradient = frame.evaluate(likelihood.runs, {})
    size = len(frame.free) + len(frame.ends)
    total = torch.zeros(size, size, dtype=torch.float64)
    for variation in variations(source, theta):
        effects = []
        for other in variation.sources:
            jets = {}
            if variation.kind == "density":
                jets = {(r.name, c.name): _jets(likelihood, r, c, other, frame.points) for r, c in places}
            changed = frame.evaluate(_with_source(likelihood.runs, source, other), jets)
            effects.append(frame.effects(changed[0] - value, changed[1] - gradient))
        total = total + variation.covariance(torch.stack(effects))
    return total


def _with_source(runs: tuple[ScienceRun, ...], source: Trained, other: Trained) -> tuple[ScienceRun, ...]:
    """Return the runs with one source replaced wherever it stands."""
    return tuple(
        replace(
            run,
            sources=tuple(
                replace(c, source=other)
                if isinstance(c.source, FlowSource | EnsembleSource) and c.source.identity == source.identity
                else c
                for c in run.sources
            ),
        )
        for run in runs
    )
