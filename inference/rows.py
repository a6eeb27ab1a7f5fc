"""Records of tensors whose first dimension is the row: taking rows out and putting rows in; items laid out in rows."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

R = TypeVar("R")


def take_rows(record: R, index: Tensor) -> R:
    """Return the rows that ``index`` (int64 positions or a bool mask) selects, of every tensor and nested record."""
    return type(record)(**{f.name: _taken(getattr(record, f.name), index) for f in fields(record)})  # type: ignore[arg-type]


def put_rows(record: R, index: Tensor, other: R) -> R:
    """Return the record with the rows ``index`` replaced by those of another."""
    parts = {f.name: (getattr(record, f.name), getattr(other, f.name)) for f in fields(record)}  # type: ignore[arg-type]
    return type(record)(**{name: _put(mine, theirs, index) for name, (mine, theirs) in parts.items()})


def row_and_place(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the row of each of sum(counts) consecutive items, ``counts`` (T,) of them in each, and its place there."""
    row = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    return row, torch.arange(len(row), device=counts.device) - (counts.cumsum(0) - counts)[row]


def _taken(part: Any, index: Tensor) -> Any:
    return take_rows(part, index) if is_dataclass(part) else part[index]


def _put(mine: Any, theirs: Any, index: Tensor) -> Any:
    return put_rows(mine, index, theirs) if is_dataclass(mine) else mine.index_put((index,), theirs)
