"""Fits of toys in the layout of alea's result files, for scripts that read those.

    /fits/<hypothesis>   structured array, one row per toy: parameters by name, ll, dl, ul, valid_fit
    attribute hypotheses_values (JSON): hypothesis -> parameters that it holds
    root attributes (JSON each): date, poi, common_hypothesis, generate_values, nominal_values, seed, expectation_values

Hypotheses are ``free`` (nothing held), ``zero`` (the parameter of interest at 0) and ``true`` (at its true value);
``dl`` and ``ul`` are the ends of the confidence interval in ``free``, -inf and +inf where there is none, elsewhere NaN.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from inference.fits.batch_fit import FitBatch, fit_batch
from inference.intervals.confidence import interval_batch
from inference.likelihood.extended import Likelihood
from inference.parameters import ParameterSet
from inference.profiles.crossing_records import Crossings, CrossingStatus
from inference.science_run import ScienceRun, expected_counts
from inference.toys.draws import ToyBatch
from surrogate.atomic import replacing_file
from surrogate.errors import DataError


def fit_table(names: tuple[str, ...], fits: FitBatch, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Return fits as a structured array: parameters in alphabetical order, ll, dl, ul, valid_fit."""
    ordered = sorted(names)
    rows = np.empty(len(fits), [*((n, "f8") for n in (*ordered, "ll", "dl", "ul")), ("valid_fit", "?")])
    values = fits.values.cpu().numpy()
    for name in ordered:
        rows[name] = values[:, names.index(name)]
    rows["ll"], rows["dl"], rows["ul"] = fits.log_likelihood.cpu().numpy(), lower, upper
    rows["valid_fit"] = fits.success.cpu().numpy()
    return rows


def _ends(found: Crossings | None, absent: float, n: int) -> np.ndarray:
    if found is None:
        return np.full(n, np.nan)
    status, value = found.status.cpu().numpy(), found.value.cpu().numpy()
    missing = np.where(status == int(CrossingStatus.FAILED), np.nan, absent)
    return np.where(status == int(CrossingStatus.FOUND), value, missing)


def fit_hypotheses(
    parameters: ParameterSet, runs: tuple[ScienceRun, ...], toys: ToyBatch, poi: str, critical: float
) -> dict[str, np.ndarray]:
    """Fit toys under all hypotheses.

    Parameters
    ----------
    parameters, runs
        The model.
    toys
        The toys with their truth.
    poi
        The parameter of interest.
    critical
        Critical value of the two-sided interval.

    Returns
    -------
    dict
        Hypothesis -> table of :func:`fit_table`.
    """
    likelihood = Likelihood(parameters, runs, toys.data)
    n, rows, column = len(toys), torch.arange(len(toys)), parameters.index(poi)
    free = fit_batch(likelihood, None, rows, toys.values)
    ends = interval_batch(likelihood, poi, critical, best=free)
    lower, upper = _ends(ends.lower, -np.inf, n), _ends(ends.upper, np.inf, n)
    nothing = np.full(n, np.nan)
    held: dict[str, Tensor] = {"zero": torch.zeros(n, dtype=torch.float64), "true": toys.values[:, column]}
    tables = {"free": fit_table(parameters.names, ends.best, lower, upper)}
    for name, values in held.items():
        fits = fit_batch(likelihood, {poi: values}, rows, toys.values)
        tables[name] = fit_table(parameters.names, fits, nothing, nothing)
    return tables


def write_fits(
    path: str | Path,
    tables: Mapping[str, np.ndarray],
    poi: str,
    truth: Mapping[str, float],
    parameters: ParameterSet,
    runs: tuple[ScienceRun, ...],
    seed: int,
) -> None:
    """Write tables of fits in alea's layout, atomically.

    Parameters
    ----------
    path
        The file; an older one is replaced.
    tables
        Hypothesis -> table.
    poi
        The parameter of interest.
    truth
        Parameters at which the toys were made.
    parameters, runs
        The model.
    seed
        Of the toys.
    """
    point = parameters.vector(truth)[None]
    expected: dict[str, float] = {}
    for run in runs:
        for name, value in zip(run.source_names, expected_counts(parameters, run, point)[0].tolist(), strict=True):
            expected[name] = expected.get(name, 0.0) + value
    held = {"free": {}, "zero": {poi: 0.0}, "true": {poi: truth[poi]}}
    metadata: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y%m%d_%H:%M:%S"),
        "poi": poi,
        "common_hypothesis": {},
        "generate_values": dict(truth),
        "nominal_values": parameters.mapping(parameters.nominal()),
        "seed": seed,
        "expectation_values": expected,
    }
    with replacing_file(Path(path)) as temporary, h5py.File(temporary, "w") as file:
        for key, value in metadata.items():
            file.attrs[key] = json.dumps(value)
        group = file.create_group("fits")
        for name, table in tables.items():
            dataset = group.create_dataset(name, data=table)
            dataset.attrs["hypotheses_values"] = json.dumps(held.get(name, {}))


def read_fits(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the tables by hypothesis and the root attributes of a result file.

    Raises
    ------
    DataError
        If the file is missing or has no fits.
    """
    try:
        with h5py.File(path, "r") as file:
            tables = {name: item[()] for name, item in file["fits"].items()}
            return tables, {key: json.loads(value) for key, value in file.attrs.items()}
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"'{path}' is no result file with fits: {error}") from error
