"""Data: the events of every run and the ancillary centres, checked before any likelihood sees them.

A data set becomes a :class:`DataBatch` of T = 1; toys are batches of many. In a batch the events of a run are padded to
the longest data set, (T, N, D), with weights (T, N) that are zero on the padding: no loop over data sets is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from inference.constraints.gaussian import Constraint
from inference.data.event_checks import inside_region, require_finite
from inference.parameters import ParameterSet
from inference.rows import row_and_place
from inference.science_run import ScienceRun
from surrogate.errors import ConfigError, DataError, unknown_name
from surrogate.observables import ObservableSpace

Outside = Literal["refuse", "drop"]


@dataclass(frozen=True, eq=False)
class EventData:
    """The events of one run, inside its region of interest.

    Attributes
    ----------
    x
        (N, D) float64 in the order and the units of the run's observables; N = 0 is legal.
    weights
        (N,) not negative, or None for unit weights.
    n_dropped
        How many events outside the region of interest, NaN included, were dropped on request.
    """

    x: Tensor
    weights: Tensor | None = None
    n_dropped: int = 0

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        """Return how many events there are."""
        return f"EventData({len(self)} events, {self.n_dropped} dropped)"

    def weight(self) -> Tensor:
        """Return the weights (N,), ones where none were given."""
        return torch.ones(len(self.x), dtype=self.x.dtype) if self.weights is None else self.weights


def _column(values: Any, name: str, run: str) -> Tensor:
    column = torch.from_numpy(np.array(values, dtype=np.float64))
    if column.ndim != 1:
        raise DataError(f"run '{run}': column '{name}' has shape {tuple(column.shape)}, must be one-dimensional")
    return column


def event_data(
    space: ObservableSpace,
    x: Tensor,
    weights: Tensor | None = None,
    outside: Outside = "refuse",
    run: str = "data",
) -> EventData:
    """Check events and return them as float64.

    Parameters
    ----------
    space
        The region of interest.
    x
        Events (N, D) in the order of the observables.
    weights
        (N,), finite and >= 0.
    outside
        ``refuse`` raises where events lie outside the region of interest or are not finite, ``drop`` leaves them out,
        counts them and warns if they are many.
    run
        The run's name, for messages.

    Raises
    ------
    DataError
        If the shape is wrong, a weight negative, an event outside, NaN or infinite and not to be dropped, or all of
        them are.
    ConfigError
        If ``outside`` is neither word.
    """
    if outside not in ("refuse", "drop"):
        raise ConfigError(unknown_name("treatment", outside, ("refuse", "drop"), "outside"))
    x = x.detach().to(torch.float64)
    if x.ndim != 2 or x.shape[1] != space.dim:
        raise DataError(
            f"run '{run}': events have shape {tuple(x.shape)}, must be (N, {space.dim}) for {', '.join(space.names)}"
        )
    if outside == "refuse":
        require_finite(space, x, run)
    if weights is not None:
        weights = weights.detach().to(torch.float64)
        if weights.shape != x.shape[:1] or not bool((torch.isfinite(weights) & (weights >= 0)).all()):
            raise DataError(f"run '{run}': weights must be {len(x)} finite numbers >= 0")
    inside = inside_region(space, x, outside == "drop", run)
    return EventData(x[inside], None if weights is None else weights[inside], int((~inside).sum()))


def events_from_columns(
    space: ObservableSpace,
    columns: Mapping[str, Any] | np.ndarray,
    outside: Outside = "refuse",
    run: str = "data",
    weight_column: str | None = None,
) -> EventData:
    """Return checked events from named columns: a mapping, a structured array or anything indexed by column name.

    Columns that are no observable are ignored.

    Raises
    ------
    DataError
        If a column is missing or of another length, or the events fail :func:`event_data`.
    """
    known = columns.dtype.names if isinstance(columns, np.ndarray) else tuple(columns)
    if known is None:
        raise DataError(
            f"run '{run}': an array without column names; give a structured array, such as "
            f"numpy.rec.fromarrays(array.T, names='{','.join(space.names)}'), or a CSV file with a header line"
        )
    for name in (*space.names, *(() if weight_column is None else (weight_column,))):
        if name not in known:
            raise DataError(
                f"run '{run}': column '{name}' is missing; the table has {', '.join(map(str, known)) or 'none'}"
            )
    parts = [_column(columns[name], name, run) for name in space.names]
    if len({len(p) for p in parts}) > 1:
        raise DataError(f"run '{run}': columns differ in length: {', '.join(str(len(p)) for p in parts)}")
    weights = None if weight_column is None else _column(columns[weight_column], weight_column, run)
    return event_data(space, torch.stack(parts, dim=-1), weights, outside, run)


@dataclass(frozen=True, eq=False)
class Dataset:
    """One data set: the events of every run, and ancillary centres where they differ from the nominal ones.

    Parameters
    ----------
    events
        Run name -> events; a run without an entry is an error, an empty one is legal.
    ancillary
        Parameter name -> centre of its ancillary term.
    """

    events: Mapping[str, EventData]
    ancillary: Mapping[str, float]

    def centres(self, parameters: ParameterSet) -> Tensor:
        """Return the ancillary centres (m,) in the order of ``parameters.ancillary_names``.

        Raises
        ------
        DataError
            If a centre is given for a parameter without an ancillary term, or is impossible.
        """
        for name in self.ancillary:
            if name not in parameters.ancillary_names:
                raise DataError(unknown_name("ancillary", name, parameters.ancillary_names, "data"))
        nominal = parameters.nominal_centres().tolist()
        pairs = zip(parameters.ancillary_names, nominal, strict=True)
        centres = torch.tensor([[self.ancillary.get(n, c) for n, c in pairs]], dtype=torch.float64)
        check_centres(parameters.constraints, centres)
        return centres[0]


def check_centres(constraints: Sequence[Constraint], centres: Tensor) -> None:
    """Raise DataError unless all ancillary centres (T, m) are possible outcomes of their terms."""
    start = 0
    for c in constraints:
        block = centres[:, start : start + len(c.names)]
        start += len(c.names)
        bad = ~c.valid_centre(block)
        if bool(bad.any()):
            value = block[bad][0].tolist()
            raise DataError(f"ancillary centre of {', '.join(c.names)} = {value} is impossible for this constraint")


@dataclass(frozen=True, eq=False)
class DataBatch:
    """T data sets of the same runs, padded.

    Attributes
    ----------
    x
        Run name -> (T, N_run, D); padded entries lie inside the region of interest.
    weights
        Run name -> (T, N_run); zero on the padding.
    centres
        (T, m), in the order of ``ParameterSet.ancillary_names``.
    """

    x: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    centres: Tensor

    def __len__(self) -> int:
        return len(self.centres)

    def take(self, index: Tensor) -> DataBatch:
        """Return some of the data sets."""
        x = {name: events[index] for name, events in self.x.items()}
        return DataBatch(x, {name: weights[index] for name, weights in self.weights.items()}, self.centres[index])

    def total_weight(self) -> Tensor:
        """Return the (weighted) number of events of every data set over all runs (T,)."""
        return torch.stack([w.sum(dim=-1) for w in self.weights.values()]).sum(dim=0)


def padded(x: Tensor, counts: Tensor, fill: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Lay consecutive events out in rows.

    Parameters
    ----------
    x
        (sum of counts, D), the events of data set 0, then of data set 1, ...
    counts
        (T,) how many belong to each.
    fill
        (D,) what stands on the padding.
    weights
        (sum of counts,); ones if None.

    Returns
    -------
    tuple of Tensor
        Events (T, N, D) and weights (T, N) with N = max(counts), at least 1.
    """
    n_rows = len(counts)
    longest = max(1, int(counts.max())) if n_rows else 1
    row, column = row_and_place(counts)
    laid = fill.to(x).expand(n_rows, longest, -1).clone()
    laid[row, column] = x
    weight = x.new_zeros(n_rows, longest)
    weight[row, column] = torch.ones(len(x), dtype=x.dtype, device=x.device) if weights is None else weights
    return laid, weight


def centre_of(space: ObservableSpace) -> Tensor:
    """Return the middle (D,) of a region of interest: where padded entries are put."""
    return torch.tensor([0.5 * (o.low + o.high) for o in space.observables], dtype=torch.float64)


def data_batch(parameters: ParameterSet, runs: Sequence[ScienceRun], datasets: Sequence[Dataset]) -> DataBatch:
    """Join data sets into one batch.

    Raises
    ------
    DataError
        If there is none, a run has no events entry, an entry belongs to no run, or an ancillary centre is impossible.
    """
    if not datasets:
        raise DataError("data: at least one data set is needed")
    names = tuple(run.name for run in runs)
    for d in datasets:
        for name in d.events:
            if name not in names:
                raise DataError(unknown_name("run", name, names, "data"))
        missing = [name for name in names if name not in d.events]
        if missing:
            raise DataError(f"data: no events given for run {', '.join(missing)}; give an empty set if there are none")
    x, weights = {}, {}
    for run in runs:
        events = [d.events[run.name] for d in datasets]
        for e in events:
            if e.x.shape[-1] != run.observables.dim or not bool(run.observables.contains(e.x).all()):
                raise DataError(f"run '{run.name}': events were not checked against this run; use events_from_columns")
        counts = torch.tensor([len(e) for e in events])
        flat, weight = torch.cat([e.x for e in events]), torch.cat([e.weight() for e in events])
        x[run.name], weights[run.name] = padded(flat, counts, centre_of(run.observables), weight)
    return DataBatch(x, weights, torch.stack([d.centres(parameters) for d in datasets]))
