"""Comparison of a surrogate with exact densities and rates of the model that made its training events.

A truth file holds, under the names of the columns that the training events had,

    theta       (T, K)   parameters
    mu_exact    (T,)     expected events at each theta
    rate_exact  (N, T)   optional: differential rate of event i at theta j, in all observables that are not positions,
                         relative to the uniform density in those that are (x, y, z, r, drift_time)
    gen_index   (N,)     row of theta at which event i was generated
    and one column (N,) per observable.

A file with theta and mu_exact alone is compared in the rate.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from surrogate.checkpoint import load_checkpoint, read_record
from surrogate.errors import ConfigError, DataError
from surrogate.flow_config import COORDINATES
from surrogate.source import Source
from training.event_mapping import EventMapping
from training.foreign_files import ForeignFile, open_foreign
from training.truth_fits import FitShift, fit_shifts


@dataclass(frozen=True)
class TruthComparison:
    """How far a surrogate is from the truth.

    Attributes
    ----------
    checkpoint, truth
        Directory of the surrogate, and the truth file.
    n_events, n_theta
        Events at their own theta behind the densities (0: the file has none), thetas behind the rates.
    mean, mean_error, rms, quantile_99
        Of ln(f_exact/f_flow) over the events: mean (the Kullback-Leibler divergence) and its error, root mean square,
        99 % quantile of the absolute value.
    rate_mean, rate_rms, rate_worst
        Of mu_flow/mu_exact - 1 over the thetas: mean, root mean square, largest absolute value.
    fits
        What the error of the density does to fits, see :mod:`training.truth_fits`.
    """

    checkpoint: str
    truth: str
    n_events: int
    n_theta: int
    mean: float
    mean_error: float
    rms: float
    quantile_99: float
    rate_mean: float
    rate_rms: float
    rate_worst: float
    fits: tuple[FitShift, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain data."""
        return asdict(self)


def compare_with_truth(checkpoint: Path, path: Path) -> TruthComparison:
    """Compare a surrogate with a truth file.

    Parameters
    ----------
    checkpoint
        Directory of a surrogate that was trained on converted events; their mapping says what the columns mean.
    path
        Truth file.

    Raises
    ------
    ConfigError
        If the surrogate knows no mapping, or a column is missing.
    DataError
        If no event lies inside the region of interest.
    """
    source = load_checkpoint(checkpoint)
    mapping = _mapping(checkpoint)
    with open_foreign(path) as file:
        theta = _theta(mapping, file)
        ratio = source.expected_events(theta).numpy() / file.array("mu_exact") - 1
        events = _exact_events(source, mapping, file) if "rate_exact" in file.names else None
    error, fits = np.zeros(0), []
    if events is not None:
        own = events.log_exact.gather(1, events.own.unsqueeze(-1)).squeeze(-1)
        error = (own - source.log_prob(events.x, theta[events.own])).numpy()
        fits = fit_shifts(source, events.x, theta, events.own, events.log_exact)
    n = len(error)
    return TruthComparison(
        checkpoint=str(checkpoint),
        truth=str(path),
        n_events=n,
        n_theta=len(theta),
        mean=float(error.mean()) if n else 0.0,
        mean_error=float(error.std() / math.sqrt(n)) if n else 0.0,
        rms=float(np.sqrt(np.square(error).mean())) if n else 0.0,
        quantile_99=float(np.quantile(np.abs(error), 0.99)) if n else 0.0,
        rate_mean=float(ratio.mean()),
        rate_rms=float(np.sqrt(np.square(ratio).mean())),
        rate_worst=float(np.abs(ratio).max()),
        fits=tuple(fits),
    )


def _mapping(checkpoint: Path) -> EventMapping:
    mapping = read_record(checkpoint)["metadata"].get("events", {}).get("mapping")
    if mapping is None:
        raise ConfigError(f"{checkpoint}: was not trained on converted events; a truth file cannot be compared with it")
    return EventMapping.model_validate(mapping)


def _theta(mapping: EventMapping, file: ForeignFile) -> Tensor:
    """Return theta (T, K) in the units of the surrogate."""
    table = np.asarray(file.array("theta"), dtype=np.float64)
    columns = [n.column if isinstance(n.column, int) else k for k, n in enumerate(mapping.nuisances)]
    factors = [n.factor for n in mapping.nuisances]
    return torch.from_numpy(table[:, columns] * factors)


class _ExactEvents(NamedTuple):
    """Events x (N, D) inside the region of interest, row of theta (N,) of each, exact ln f (N, T) at all thetas."""

    x: Tensor
    own: Tensor
    log_exact: Tensor


def _exact_events(source: Source, mapping: EventMapping, file: ForeignFile) -> _ExactEvents:
    x = torch.from_numpy(
        np.stack([np.asarray(file.array(o.source), dtype=np.float64) * o.factor for o in mapping.observables], axis=-1)
    )
    own = torch.from_numpy(np.asarray(file.array("gen_index"), dtype=np.int64))
    rate = torch.from_numpy(np.asarray(file.array("rate_exact"), dtype=np.float64))
    log_exact = (rate / torch.from_numpy(np.asarray(file.array("mu_exact"), dtype=np.float64))).log()
    for column, observable in zip(mapping.observables, source.observables.observables, strict=True):
        uniform = observable.name in COORDINATES
        log_exact -= math.log(observable.high - observable.low) if uniform else math.log(abs(column.factor))
    inside = source.observables.contains(x)
    if not bool(inside.any()):
        raise DataError(f"{file.path}: no event lies inside the region of interest of the surrogate")
    return _ExactEvents(x[inside], own[inside], log_exact[inside])
