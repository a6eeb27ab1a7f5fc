"""Coverage from start to end: over toys of the model, and over data sets from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.analysis import Analysis
from inference.data.dataset import data_batch
from inference.data.files import read_all_tables
from inference.data.input import ANCILLARY, as_dataset
from inference.intervals.asymptotics import IntervalKind, critical_value
from inference.studies.coverage import CoveragePoint, coverage, coverage_of_data
from inference.studies.critical_values import CriticalCurve
from inference.toy_studies import ToySettings
from inference.toys.draws import throw_centres


def coverage_study(
    analysis: Analysis,
    poi: str,
    settings: ToySettings,
    truths: Sequence[Mapping[str, float]],
    critical: float | CriticalCurve | None = None,
    kind: IntervalKind = "central",
    cl: float | None = None,
) -> tuple[CoveragePoint, ...]:
    """Return the coverage of intervals at true parameter points; parameters that a point leaves out are nominal."""
    level = analysis.confidence_level if cl is None else cl
    points: Tensor = torch.stack([analysis.parameters.vector(t) for t in truths])
    pairs = settings.pairs(analysis, poi, points)
    threshold = critical_value(level, kind) if critical is None else critical
    return coverage(pairs, threshold, level, kind)


def _brings_centres(tables: Mapping[str, Any]) -> bool:
    """Return whether ancillary centres are among tables by name, in whatever case, as data sets are read."""
    return any(name.lower() == ANCILLARY for name in tables)


def coverage_of_files(
    analysis: Analysis,
    poi: str,
    files: Sequence[Path],
    truth: Mapping[str, float],
    settings: ToySettings,
    critical: float | CriticalCurve | None = None,
    kind: IntervalKind = "central",
    cl: float | None = None,
) -> CoveragePoint:
    """Return the coverage over data sets that were made elsewhere, by a simulator for instance.

    Parameters
    ----------
    analysis
        The model that is fitted.
    poi
        The parameter of interest.
    files
        Each with one data set or many; see :func:`inference.data.files.read_all_tables`.
    truth
        The parameters at which they were made; nominal where not given. ``poi`` is needed.
    settings
        Its seed throws the ancillary centres of data sets that bring none, at the truth; its pools say in which
        functions densities are expanded, where there are enough data sets for that to pay.
    critical
        Critical value or critical values from toys; asymptotic if None.
    kind, cl
        Of the intervals; two-sided, and the model's level, where not given.

    Raises
    ------
    DataError
        If data do not fit the model, or there are none.
    """
    names = [*(run.name for run in analysis.runs), ANCILLARY]
    tables = [table for file in files for table in read_all_tables(file, names)]
    sets = [as_dataset(analysis.parameters, analysis.runs, table) for table in tables]
    batch = data_batch(analysis.parameters, analysis.runs, sets)
    values = analysis.parameters.vector(truth).expand(len(batch), -1)
    thrown = throw_centres(analysis.parameters, values, torch.arange(len(batch)), settings.seed)
    bare = torch.tensor([isinstance(table, np.ndarray) or not _brings_centres(table) for table in tables])
    batch = replace(batch, centres=torch.where(bare.unsqueeze(-1), thrown, batch.centres))
    level = analysis.confidence_level if cl is None else cl
    threshold = critical_value(level, kind) if critical is None else critical
    origin = ", ".join(file.name for file in files)
    pool = replace(settings, n_toys=len(batch)).pool(analysis, values[:1])
    return coverage_of_data(
        analysis.parameters, analysis.runs, [batch], poi, dict(truth), threshold, level, kind, origin, pool
    )
