"""From whatever users hold (structured arrays, mappings, data frames, files) to a checked data set of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inference.data.dataset import Dataset, EventData, Outside, events_from_columns
from inference.data.files import as_mapping, read_tables
from inference.parameters import ParameterSet
from inference.science_run import ScienceRun
from surrogate.errors import DataError, unknown_name

ANCILLARY = "ancillary"
GENERATE_VALUES = "generate_values"


def _by_name(data: Any, runs: Sequence[ScienceRun]) -> dict[str, Any]:
    """Return tables by name: a list holds the runs in order, then ancillary, then optionally generate_values."""
    names = [*(run.name for run in runs), ANCILLARY, GENERATE_VALUES]
    if isinstance(data, Mapping):
        _refuse_loose_columns(data, runs)
        return _matched(data, names)
    if isinstance(data, list | tuple):
        if len(data) not in (len(runs) + 1, len(runs) + 2):
            raise DataError(
                f"data: a list must hold {len(runs) + 1} tables ({', '.join(names[:-1])}), optionally followed by "
                f"{GENERATE_VALUES}; got {len(data)}"
            )
        return dict(zip(names, data, strict=False))
    if len(runs) == 1:
        return {runs[0].name: data}
    raise DataError(
        f"data: one table was given for {len(runs)} runs; give a list or a mapping {', '.join(names[:-1])}, or a "
        f"directory with files of these names, such as {runs[0].name}.csv"
    )


def _refuse_loose_columns(data: Mapping[str, Any], runs: Sequence[ScienceRun]) -> None:
    """Raise DataError if a mapping holds columns of events where it must hold the tables of the runs."""
    for run in runs:
        if run.name not in data and (loose := [name for name in run.observables.names if name in data]):
            raise DataError(
                f"data: '{loose[0]}' is a column of events, not a table: group the columns by run, as {run.name}/"
                f"{loose[0]} in HDF5, one structured array '{run.name}' in .npz, {{'{run.name}': columns}} in Python"
            )


def _matched(data: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return a mapping under the model's names; case alone may differ."""
    by_case = {name.lower(): name for name in names}
    matched: dict[str, Any] = {}
    for key, table in data.items():
        name = key if key in names else by_case.get(str(key).lower())
        if name is None:
            raise DataError(unknown_name("table", str(key), names, "data"))
        if name in matched:
            raise DataError(f"data: run '{name}' is given twice")
        matched[name] = table
    return matched


def _centres(table: Any, parameters: ParameterSet) -> dict[str, float]:
    """Return the ancillary centres; a table must hold all of them."""
    if table is None:
        return {}
    centres = as_mapping(table, f"data: {ANCILLARY}")
    for name in centres:
        if name not in parameters.ancillary_names:
            raise DataError(unknown_name("ancillary", name, parameters.ancillary_names, "data"))
    missing = [name for name in parameters.ancillary_names if name not in centres]
    if missing:
        raise DataError(
            f"data: {ANCILLARY} lacks {', '.join(missing)}; give the centre of every constrained parameter, or leave "
            "the table out to use the nominal ones"
        )
    return centres


def _events(run: ScienceRun, table: Any, outside: Outside) -> EventData:
    if isinstance(table, EventData):
        return table
    if not (isinstance(table, np.ndarray | Mapping) or hasattr(table, "columns")):
        raise DataError(
            f"run '{run.name}': a structured array, a mapping of columns or a data frame is needed, got "
            f"{type(table).__name__}"
        )
    return events_from_columns(run.observables, table, outside, run.name)


def as_dataset(
    parameters: ParameterSet,
    runs: Sequence[ScienceRun],
    data: Any,
    index: int | None = None,
    outside: Outside = "refuse",
) -> Dataset:
    """Return a checked data set.

    Parameters
    ----------
    parameters, runs
        The model.
    data
        A list [run 1, run 2, ..., ancillary] of structured arrays as alea takes it, a mapping by name, a data frame or
        structured array for a model of one run, the path of a file (see :mod:`inference.data.files`), or a
        :class:`Dataset`. Columns that are no observables are ignored; names of runs may differ in case. Without an
        ancillary table the nominal centres hold.
    index
        Which data set of a file that holds several.
    outside
        ``refuse`` or ``drop`` events outside the region of interest.

    Raises
    ------
    DataError
        Naming the run, the column or the events that do not fit.
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str | Path):
        data = read_tables(data, index, [*(run.name for run in runs), ANCILLARY])
    elif index is not None:
        raise DataError(f"index = {index} picks a data set of a file, but no file was given")
    tables = _by_name(data, runs)
    missing = [run.name for run in runs if run.name not in tables]
    if missing:
        raise DataError(f"data: no events given for run {', '.join(missing)}; give an empty table if there are none")
    events = {run.name: _events(run, tables[run.name], outside) for run in runs}
    return Dataset(events, _centres(tables.get(ANCILLARY), parameters))
