"""StatisticalModel: an analysis under the method names that users of alea have in their fingers."""

from __future__ import annotations

import math
import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from inference.analysis import Analysis, level_and_kind
from inference.configuration.assembly import assemble
from inference.data.files import write_toys
from inference.intervals.asymptotics import IntervalKind, critical_value
from inference.profiles.crossing_records import Critical
from inference.results import IntervalEnd
from inference.toy_studies import ToyAnalysis
from inference.toys.draws import draw_toys
from inference.toys.toy_tables import toy_tables
from surrogate.errors import ConfigError, unknown_name


def pointwise(threshold: Callable[[float], float]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function of many parameter values from one of a single value."""
    return lambda mu: torch.tensor([float(threshold(v)) for v in mu.tolist()], dtype=torch.float64)


def lowered(critical: Critical, gap: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return critical values of t counted from a maximum that lies lower by half the gap."""
    return lambda mu: (critical(mu) if callable(critical) else torch.full_like(mu, critical)) - gap


def likelihood_gap(
    model: Analysis, poi: str, best_fit_args: Mapping[str, float], interval_args: Mapping[str, float] | None
) -> tuple[float, float]:
    """Return 2 [ln L(best) - ln L(best under the other arguments)], and the parameter of interest of the latter."""
    best, other = model.fit_result(best_fit_args), model.fit_result(interval_args)
    if best.log_likelihood is None or other.log_likelihood is None:
        return math.inf, other.values[poi]
    return 2 * (best.log_likelihood - other.log_likelihood), other.values[poi]


def _end_value(end: IntervalEnd, absent: float) -> float:
    """Return an end as alea does: its value, infinite where it does not exist, else NaN."""
    if end.value is not None:
        return end.value
    return absent if end.status in ("no_crossing", "at_bound") else math.nan


def model_text(model: Analysis) -> str:
    """Return a model as text: the expected and observed events of every run, and the table of its parameters."""
    lines = []
    for run, expected in zip(model.runs, model.expected_events().values(), strict=True):
        kind, axes = "binned" if run.binned else "unbinned", ", ".join(run.observables.names)
        observed = f", {len(model.data.events[run.name])} observed" if model.is_data_set else ""
        sources = ", ".join(f"{name} {mu:.4g}" for name, mu in expected.items())
        lines.append(f"run {run.name}, {kind} in {axes}: {sum(expected.values()):.4g} events expected{observed}")
        lines.append(f"  {sources}")
    return "\n".join([*lines, "", str(model.parameters)])


class StatisticalModel(ToyAnalysis):
    """A statistical model; see :class:`inference.analysis.Analysis` for what it consists of.

    The methods of that and of :class:`inference.toy_studies.ToyAnalysis` return records.
    """

    def __repr__(self) -> str:
        """Return the model as text."""
        return model_text(self)

    @classmethod
    def from_config(
        cls,
        path: str | Path,
        template_path: str | Path | Sequence[str | Path] | None = None,
        template_filenames: Mapping[str, str] | None = None,
        nominal_values: Mapping[str, float] | None = None,
        allow_uncertified: bool = False,
    ) -> StatisticalModel:
        """Build the model that a file in alea's schema describes; see :func:`assemble`."""
        pieces = assemble(path, template_path, template_filenames, nominal_values)
        return cls(
            pieces.parameters,
            pieces.runs,
            pieces.confidence_level,
            pieces.interval_kind,
            pieces.uncertified,
            allow_uncertified,
            pieces.conversion,
        )

    @property
    def nominal_values(self) -> Mapping[str, float]:
        """Parameter -> nominal value."""
        return MappingProxyType(self.parameters.mapping(self.parameters.nominal()))

    @property
    def likelihood_names(self) -> list[str]:
        """Names of the runs in order, then ``ancillary``."""
        return [*(run.name for run in self.runs), "ancillary"]

    def get_parameter_list(self) -> list[str]:
        """Return the names of all parameters in order."""
        return list(self.parameters.names)

    @property
    def fittable(self) -> list[str]:
        """Names of the parameters that fits move."""
        return [p.name for p in self.parameters.parameters if p.fittable]

    @property
    def not_fittable(self) -> list[str]:
        """Names of the parameters that are constants."""
        return [p.name for p in self.parameters.parameters if not p.fittable]

    def set_nominal_values(self, **nominal_values: float) -> None:
        """Set the values that hold where nothing else is said; ancillary centres and uncertainties stay as they are.

        Raises
        ------
        ConfigError, RangeError
            For an unknown parameter, an exposure that is not positive, a value outside its bounds, and for a constant
            that names files: build the model anew with ``nominal_values``.
        """
        self.parameters.check(nominal_values)
        acting = {n for run in self.runs for n in run.exposure_parameters}
        acting |= {n for run in self.runs for c in run.sources for n in c.parameters}
        for name in nominal_values:
            if name not in acting and name not in self.parameters.ancillary_names:
                raise ConfigError(
                    f"nothing in the model depends on '{name}', it may name files; build the model anew with "
                    f"from_config(..., nominal_values={{'{name}': ...}})"
                )
        parameters = self.parameters.with_nominal(nominal_values)
        for run in self.runs:
            run.check_parameters(parameters)
        self.parameters = parameters
        self._likelihood = None

    def get_likelihood_term_from_name(self, likelihood_name: str) -> int:
        """Return the position of a run, or of ``ancillary``, in the data."""
        if likelihood_name not in self.likelihood_names:
            raise ConfigError(unknown_name("run", likelihood_name, self.likelihood_names))
        return self.likelihood_names.index(likelihood_name)

    def get_source_name_list(self, likelihood_name: str) -> list[str]:
        """Return the sources of a run, in the order of the ``source`` column of toys."""
        for run in self.runs:
            if run.name == likelihood_name:
                return list(run.source_names)
        raise ConfigError(unknown_name("run", likelihood_name, (run.name for run in self.runs)))

    def ll(self, **values: float) -> float:
        """Return ln L at the values given and at nominal ones for the rest.

        Raises
        ------
        ConfigError
            For an unknown parameter, naming the nearest.
        RangeError
            For a value outside its bounds.
        """
        return float(self.likelihood.log_likelihood(self.parameters.vector(values)[None])[0])

    def fit(self, **fixed: float) -> tuple[dict[str, float], float]:
        """Maximise the likelihood with the parameters given held there; return all values and ln L.

        Where the fit did not converge it warns and ln L is NaN; :meth:`fit_result` says why.
        """
        result = self.fit_result(fixed)
        if not result.success or result.log_likelihood is None:
            warnings.warn(f"fit: {'; '.join((result.message, *result.remarks))}", RuntimeWarning, stacklevel=2)
            return dict(result.values), math.nan
        return dict(result.values), result.log_likelihood

    def confidence_interval(
        self,
        poi_name: str,
        parameter_interval_bounds: tuple[float, float] | None = None,
        confidence_level: float | None = None,
        confidence_interval_kind: IntervalKind | None = None,
        confidence_interval_threshold: Callable[[float], float] | None = None,
        confidence_interval_args: Mapping[str, float] | None = None,
        best_fit_args: Mapping[str, float] | None = None,
    ) -> tuple[float, float]:
        """Return the ends of a confidence interval by alea's conventions; :meth:`interval` returns the record.

        -inf and +inf stand for an end that does not exist (the statistic stays below its critical value up to the
        bound), NaN for one that was not asked for or whose search failed, which also warns.

        ``confidence_interval_args`` are held in the conditional fits, ``best_fit_args`` in the free one, which has the
        same unless given. Where the two differ, so much that no value is inside, both ends are NaN, with a warning.
        """
        threshold = confidence_interval_threshold
        critical: Critical | None = None if threshold is None else pointwise(threshold)
        if best_fit_args is not None and dict(best_fit_args) != dict(confidence_interval_args or {}):
            level, kind = level_and_kind(self, confidence_level, confidence_interval_kind)
            asymptotic = critical_value(level, kind)
            gap, mu_hat = likelihood_gap(self, poi_name, best_fit_args, confidence_interval_args)
            critical = lowered(asymptotic if critical is None else critical, gap)
            if not float(critical(torch.tensor([mu_hat], dtype=torch.float64))) > 0:
                warnings.warn(f"interval on {poi_name}: empty, t >= {gap:.4g} everywhere", RuntimeWarning, stacklevel=2)
                return math.nan, math.nan
        found = self.interval(
            poi_name,
            confidence_level,
            confidence_interval_kind,
            critical,
            confidence_interval_args,
            parameter_interval_bounds,
        )
        if not found.success:
            warnings.warn(
                f"interval on {poi_name}: fit {found.best_fit.message}; lower end {found.lower.status}, upper end "
                f"{found.upper.status}; {'; '.join(found.remarks)}",
                RuntimeWarning,
                stacklevel=2,
            )
        return _end_value(found.lower, -math.inf), _end_value(found.upper, math.inf)

    def get_expectation_values(self, **values: float) -> dict[str, float]:
        """Return the expected events of every source, summed over the runs; :meth:`expected_events` has them by run."""
        found = self.expected_events(values)
        names = dict.fromkeys(n for by_source in found.values() for n in by_source)
        return {n: sum(by_source.get(n, 0.0) for by_source in found.values()) for n in names}

    @property
    def nominal_expectation_values(self) -> dict[str, float]:
        """Source -> expected events at the nominal values."""
        return self.get_expectation_values()

    def generate_data(self, seed: int | None = None, toy: int = 0, **values: float) -> dict[str, np.ndarray]:
        """Draw a data set at the values given.

        Parameters
        ----------
        seed
            Seed of the study; a fresh one from the operating system when None.
        toy
            Number of the toy in the study: (seed, toy, values) name one data set, whatever else is drawn.
        **values
            Parameters; nominal ones for the rest.

        Returns
        -------
        Structured arrays by run, then ``ancillary`` and ``generate_values``.
        """
        study = secrets.randbits(63) if seed is None else seed
        point = self.parameters.vector(values)
        toys = draw_toys(self.parameters, self.runs, point, torch.tensor([toy]), study)
        return toy_tables(self.parameters, self.runs, toys)[0]

    def store_data(
        self,
        file_name: str | Path,
        data_list: Sequence[Mapping[str, np.ndarray]],
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Write data sets of :meth:`generate_data` to an HDF5 file that inference_interface and alea read."""
        write_toys(file_name, data_list, metadata or {})
