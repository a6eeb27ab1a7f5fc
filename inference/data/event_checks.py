"""Whether events may go into a likelihood: finite, and inside the region of interest."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from surrogate.errors import DataError
from surrogate.observables import ObservableSpace

#: How many offending events an error message lists.
LISTED = 5

#: Share of a run's events above which leaving them out is warned of.
MANY = 0.1

logger = logging.getLogger(__name__)


def listing(x: Tensor, offending: Tensor, space: ObservableSpace) -> str:
    """Return the first of the offending (N,) events x (N, D) with their rows, and how many more there are."""
    lines = [
        "(" + ", ".join(f"{n} = {v:.6g}" for n, v in zip(space.names, x[i].tolist(), strict=True)) + f") at row {i}"
        for i in offending.nonzero().flatten()[:LISTED].tolist()
    ]
    more = int(offending.sum()) - len(lines)
    return "; ".join(lines) + (f"; and {more} more" if more > 0 else "")


def require_finite(space: ObservableSpace, x: Tensor, run: str) -> None:
    """Raise DataError if an event of x (N, D) holds NaN or infinity."""
    broken = ~torch.isfinite(x).all(dim=-1)
    if bool(broken.any()):
        raise DataError(
            f"run '{run}': {int(broken.sum())} events hold NaN or infinity: {listing(x, broken, space)}; correct or "
            "drop them with --drop-outside (outside='drop' in Python)"
        )


def inside_region(space: ObservableSpace, x: Tensor, drop: bool, run: str) -> Tensor:
    """Return which events of x (N, D) lie inside the region of interest, with a warning if many do not.

    Raises
    ------
    DataError
        If one lies outside and is not to be dropped, or if all lie outside.
    """
    inside = space.contains(x)
    count = int((~inside).sum())
    window = ", ".join(f"{o.name} in [{o.low:g}, {o.high:g}] {o.unit}".rstrip() for o in space.observables)
    found = f"run '{run}': {count} of {len(x)} events lie outside the region of interest, {window}"
    if count and not drop:
        raise DataError(
            f"{found}: {listing(x, ~inside, space)}; apply the selection first, or drop them with --drop-outside "
            "(outside='drop' in Python)"
        )
    if count and count == len(x):
        raise DataError(
            f"{found}: {listing(x, ~inside, space)}; dropping them leaves none: check their units, or give an empty "
            "table if there are no events"
        )
    if count > MANY * len(x):
        logger.warning("%s, and are dropped; check their units", found)
    return inside
