"""Tables of two columns, in CSV or in the JSON of the XENONnT releases: spectra, yields."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surrogate.errors import DataError


@dataclass(frozen=True)
class Table:
    """Two columns of equal length.

    Attributes
    ----------
    x, y
        (n,) each.
    quantity
        What x is, where the file says so: ``cdf``, ``pdf``, ...; empty in CSV files.
    rate
        The rate that belongs to it, where the file gives one.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    quantity: str = ""
    rate: float | None = None


def read_table(path: Path) -> Table:
    """Read a table.

    In CSV files a first row that is not numeric is taken as the header, and lines beginning with ``#`` are skipped.
    JSON files hold the columns ``coordinate_system`` and ``map``.

    Raises
    ------
    DataError
        If the file cannot be read, has no rows, or a row does not hold two finite numbers.
    """
    try:
        table = _from_json(path) if path.suffix == ".json" else _from_csv(path)
    except OSError as error:
        raise DataError(f"table {path}: {error.strerror}") from error
    if not (np.isfinite(table.x).all() and np.isfinite(table.y).all()):
        raise DataError(f"table {path}: all values must be finite")
    return table


def _from_json(path: Path) -> Table:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        x, y = (np.asarray(content[key], dtype=np.float64) for key in ("coordinate_system", "map"))
        rate = None if content.get("rate") is None else float(content["rate"])
        quantity = str(content.get("coordinate_name", ""))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"table {path}: is no JSON table with 'coordinate_system' and 'map' ({error})") from error
    x = x.reshape(-1) if x.ndim == 2 and x.shape[1] == 1 else x
    if x.ndim != 1 or x.shape != y.shape or not x.size:
        raise DataError(
            f"table {path}: 'coordinate_system' {x.shape} and 'map' {y.shape} must be lists of equal length"
        )
    return Table(x, y, quantity, rate)


def _from_csv(path: Path) -> Table:
    with path.open(newline="", encoding="utf-8") as lines:
        rows = list(_numeric_rows(path, csv.reader(line for line in lines if not line.lstrip().startswith("#"))))
    if not rows:
        raise DataError(f"table {path}: no rows; two columns are expected")
    x, y = np.asarray(rows, dtype=np.float64).T
    return Table(x, y)


def _numeric_rows(path: Path, rows: Iterable[list[str]]) -> Iterable[tuple[float, float]]:
    for number, row in enumerate(row for row in rows if row):
        try:
            x, y = row
            yield float(x), float(y)
        except ValueError as error:
            if number > 0:
                raise DataError(f"table {path}: row {number + 1} is {row}, must be two numbers") from error
