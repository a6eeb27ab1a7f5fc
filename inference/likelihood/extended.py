"""The extended profile likelihood of all runs and ancillary terms, over batches of parameter points and data sets.

    ln L(theta) = sum_runs ln L_run(theta) + sum_k ln p(a_k | theta_k)

with ln L_run of :mod:`inference.likelihood.run_term`, each with its weight, which is 1 unless a model says otherwise.
Row b of every call is one parameter point with one data set; rows never depend on each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from inference.constraints.ancillary import AncillaryTerm
from inference.data.dataset import DataBatch, Dataset, check_centres, data_batch
from inference.likelihood.event_density import EventDensity, per_row
from inference.likelihood.run_term import RunTerm
from inference.parameters import ParameterSet
from inference.science_run import RunSource, ScienceRun, model_hash
from surrogate.errors import ConfigError, DataError
from surrogate.nuisance import Nuisance

#: Most event-by-derivative entries that one chunk of rows holds in memory at a time.
CHUNK_ENTRIES = 2**24


class Likelihood:
    """ln L of a model and its data, with exact derivatives.

    Parameters
    ----------
    parameters
        Names, bounds and constraints; the columns of ``values``.
    runs
        The science runs.
    data
        One data set or a batch of T.
    densities
        Run name -> source name -> what stands for the density at the events, such as an expansion in theta; the exact
        source where none is given.

    Raises
    ------
    ConfigError
        If run names repeat or a run names an unknown parameter.
    DataError
        If the data do not fit the runs.
    """

    def __init__(
        self,
        parameters: ParameterSet,
        runs: Sequence[ScienceRun],
        data: Dataset | DataBatch,
        densities: Mapping[str, Mapping[str, EventDensity]] | None = None,
    ) -> None:
        names = [run.name for run in runs]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"runs: needs at least one, with unique names, got {', '.join(names) or 'none'}")
        for run in runs:
            run.check_parameters(parameters)
        batch = data if isinstance(data, DataBatch) else data_batch(parameters, runs, [data])
        check_centres(parameters.constraints, batch.centres)
        self.parameters = parameters
        self.runs = tuple(runs)
        self.data = batch
        self.densities = {run.name: dict((densities or {}).get(run.name, {})) for run in runs}
        self._terms = [
            RunTerm(parameters, run, batch.x[run.name], batch.weights[run.name], self.densities[run.name])
            for run in runs
        ]
        self._ancillary = AncillaryTerm(parameters.names, parameters.constraints, batch.centres.device)
        lower, upper = surrogate_bounds(parameters, runs)
        self.lower, self.upper = lower.to(batch.centres.device), upper.to(batch.centres.device)
        self.breakpoints = model_breakpoints(parameters, runs)

    @property
    def n_datasets(self) -> int:
        """Number T of data sets."""
        return len(self.data)

    @cached_property
    def model_hash(self) -> str:
        """SHA-256 of parameters, constraints, runs and sources."""
        return model_hash(self.parameters, self.runs)

    def rows(self, n: int, rows: Tensor | None) -> Tensor:
        """Return the data set of each of n rows: as given, the only one, or one after the other.

        Raises
        ------
        DataError
            If they are not given and T is neither 1 nor n, or an index is out of range.
        """
        device = self.data.centres.device
        if rows is None:
            if self.n_datasets == 1:
                return torch.zeros(n, dtype=torch.long, device=device)
            if self.n_datasets == n:
                return torch.arange(n, device=device)
            raise DataError(f"rows: {n} parameter points for {self.n_datasets} data sets; say which belongs to which")
        if rows.shape != (n,) or (n > 0 and not 0 <= int(rows.min()) <= int(rows.max()) < self.n_datasets):
            raise DataError(f"rows: must be {n} indices in [0, {self.n_datasets})")
        return rows.to(device)

    def log_likelihood(self, values: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return ln L.

        Parameters
        ----------
        values
            Parameter values (B, P).
        rows
            (B,) data set of each row; see :meth:`rows`.

        Returns
        -------
        Tensor
            (B,), differentiable in ``values``. Exactly -inf where an event has zero density under every source.
            Constants: ln n_b! of binned runs and the norms of the ancillary terms are included, ln N! of unbinned
            runs is not.

        Raises
        ------
        RangeError
            If a source is asked for nuisances outside its range.
        """
        rows = self.rows(len(values), rows)
        ancillary = self._ancillary.log_prob(values, per_row(self.data.centres, rows))
        total = self.parameters.ancillary_weight * ancillary
        for run, term in self._weighted_terms():
            total = total + run.weight * term.log_likelihood(values, rows)
        return total

    def shares(self, values: Tensor) -> dict[str, Tensor]:
        """Return run name -> the part of every source in the intensity at every event (T, N, C), at values (T, P)."""
        rows = self.rows(len(values), None)
        return {run.name: term.shares(values, rows) for run, term in zip(self.runs, self._terms, strict=True)}

    def _weighted_terms(self) -> Iterator[tuple[ScienceRun, RunTerm]]:
        """Yield the runs that count, with their terms."""
        return ((run, term) for run, term in zip(self.runs, self._terms, strict=True) if run.weight > 0)

    def derivatives(
        self, values: Tensor, rows: Tensor | None = None, centre: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return ln L (B,), its gradient (B, P) and its Hessian (B, P, P).

        Parameters
        ----------
        values
            Parameter values (B, P).
        rows
            (B,) data set of each row; see :meth:`rows`.
        centre
            (B, P): a point inside the smooth piece on which derivatives are taken, where sources have breakpoints.

        Notes
        -----
        Where ln L = -inf the derivatives are zero.
        """
        rows = self.rows(len(values), rows)
        parts = [
            self._chunk(values[s], rows[s], None if centre is None else centre[s]) for s in self._chunks(len(values))
        ]
        if len(parts) == 1:
            return parts[0]
        value, gradient, hessian = (torch.cat(column) for column in zip(*parts, strict=True))
        return value, gradient, hessian

    def _chunks(self, n: int) -> Iterator[slice]:
        per_point = sum(term.n_events for term in self._terms) * 4 * len(self.parameters)
        size = max(1, CHUNK_ENTRIES // max(1, per_point))
        for start in range(0, max(n, 1), size):
            yield slice(start, start + size)

    def _chunk(self, values: Tensor, rows: Tensor, centre: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        parts = self._ancillary.derivatives(values, per_row(self.data.centres, rows))
        if (weight := self.parameters.ancillary_weight) != 1:
            parts = (weight * parts[0], weight * parts[1], weight * parts[2])
        value, gradient, hessian = parts
        for run, term in self._weighted_terms():
            v, g, h = term.derivatives(values, rows, centre)
            if run.weight != 1:
                v, g, h = run.weight * v, run.weight * g, run.weight * h
            value, gradient, hessian = value + v, gradient + g, hessian + h
        return value, gradient, hessian


def _driven(runs: Sequence[ScienceRun]) -> Iterator[tuple[str, RunSource, Nuisance]]:
    """Yield every parameter that drives a nuisance, with the source and the nuisance."""
    for run in runs:
        for c in run.sources:
            for driver, nuisance in zip(c.drivers, c.source.nuisances.nuisances, strict=True):
                if isinstance(driver, str):
                    yield driver, c, nuisance


def surrogate_bounds(parameters: ParameterSet, runs: Sequence[ScienceRun]) -> tuple[Tensor, Tensor]:
    """Return the parameter bounds (P,), (P,), cut to the ranges on which the sources that they drive are defined.

    Raises
    ------
    ConfigError
        If the nominal value of a parameter is cut off.
    """
    lower, upper = parameters.lower, parameters.upper
    for name, c, nuisance in _driven(runs):
        p = parameters.index(name)
        lower[p] = max(float(lower[p]), nuisance.low)
        upper[p] = min(float(upper[p]), nuisance.high)
        nominal = parameters.parameters[p].nominal
        if not float(lower[p]) <= nominal <= float(upper[p]):
            raise ConfigError(
                f"parameter '{name}': nominal {nominal} is outside [{float(lower[p]):.6g}, {float(upper[p]):.6g}], on "
                f"which source '{c.name}' is defined; change the value, or use a source with a wider range"
            )
    return lower, upper


def model_breakpoints(parameters: ParameterSet, runs: Sequence[ScienceRun]) -> dict[int, tuple[float, ...]]:
    """Return parameter position -> sorted values at which derivatives of ln L jump."""
    points: dict[int, set[float]] = {}
    for name, c, nuisance in _driven(runs):
        points.setdefault(parameters.index(name), set()).update(c.source.breakpoints.get(nuisance.name, ()))
    return {p: tuple(sorted(values)) for p, values in points.items() if values}
