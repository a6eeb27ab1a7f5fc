"""Science data from files: HDF5, structured NumPy arrays and CSV.

Every reader returns tables by name: one per run, and optionally ``ancillary`` (one row: parameter name -> centre) and
``generate_values``. What they mean is decided by the model that they are given to.

HDF5 comes in two layouts. Either a group per run with one dataset per column, and an ``ancillary`` group with
attributes; or that of inference_interface (https://github.com/XENONnT/inference_interface), which holds many data sets
as structured arrays ``/<i>/<name>``, with ``n_datasets`` and ``dataset_names`` in the root attributes.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from surrogate.atomic import replacing_file
from surrogate.errors import DataError

Tables = dict[str, np.ndarray]

HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")
PICKLE_SUFFIXES = (".pkl", ".pickle", ".p", ".pck")
PICKLE_PROTOCOL_MARK = b"\x80"


def _refuse_pickle(path: Path, names: Sequence[str]) -> DataError:
    """Return the error for a pickle, with the lines that convert it."""
    listed = ", ".join(repr(n) for n in names) or "'SR0', 'ancillary'"
    return DataError(
        f"'{path}' is a Python pickle: loading one runs whatever code it holds, so it is not read. If you trust it, "
        "convert it with these three lines:\n"
        f"    import pickle, numpy\n"
        f"    with open({str(path)!r}, 'rb') as file: data = pickle.load(file)\n"
        f"    numpy.savez({str(path.with_suffix('.npz'))!r}, **dict(zip([{listed}], data)))"
    )


def _structured(columns: Mapping[str, np.ndarray], where: str) -> np.ndarray:
    """Join columns of equal length into a structured array."""
    lengths = {name: len(c) for name, c in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{where}: columns differ in length: {', '.join(f'{n} {k}' for n, k in lengths.items())}")
    rows = np.empty(next(iter(lengths.values()), 0), dtype=[(n, c.dtype) for n, c in columns.items()])
    for name, column in columns.items():
        rows[name] = column
    return rows


def _table(item: h5py.Group | h5py.Dataset, where: str) -> np.ndarray:
    """Return a group of columns (or of scalar attributes), or a structured dataset, as a structured array."""
    if isinstance(item, h5py.Dataset):
        return item[()]
    if len(item):
        nested = [n for n, c in item.items() if not isinstance(c, h5py.Dataset) or c.ndim != 1]
        if nested:
            raise DataError(f"{where}: '{nested[0]}' is no one-dimensional column")
        return _structured({n: c[()] for n, c in item.items()}, where)
    return _structured({n: np.atleast_1d(np.asarray(v)) for n, v in item.attrs.items()}, where)


def _no_such_set(path: Path, index: int | None) -> DataError:
    return DataError(f"data file '{path}' holds one data set; number {index} does not exist")


def _read_hdf5(path: Path, index: int | None) -> Tables:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"data file '{path}' is not a readable HDF5 file: {error}") from error
    with file:
        if "dataset_names" not in file.attrs:
            if index not in (None, 0):
                raise _no_such_set(path, index)
            return {str(name): _table(item, f"'{path}', {name}") for name, item in file.items()}
        names, count = json.loads(file.attrs["dataset_names"]), int(json.loads(str(file.attrs["n_datasets"])))
        if index is None and count != 1:
            raise DataError(
                f"data file '{path}' holds {count} data sets; say which one by its number, 0 to {count - 1}"
            )
        chosen = index or 0
        if not 0 <= chosen < count:
            raise DataError(f"data file '{path}' holds {count} data sets; number {chosen} does not exist")
        missing = [n for n in names if f"{chosen}/{n}" not in file]
        if missing:
            raise DataError(f"data file '{path}': data set {chosen} lacks {', '.join(missing)}")
        return {n: file[f"{chosen}/{n}"][()] for n in names}


def _read_numpy(path: Path, names: Sequence[str]) -> np.ndarray | Tables:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except ValueError as error:
        if "pickle" in str(error):
            raise _refuse_pickle(path, names) from None
        raise DataError(f"data file '{path}': {error}") from error
    except (OSError, EOFError) as error:
        raise DataError(f"data file '{path}' is not a readable NumPy file: {error}") from error


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _read_csv(path: Path) -> np.ndarray:
    """Read numbers under a header line; empty lines and lines that begin with # are skipped."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"data file '{path}' is not UTF-8 text ({error}); save it as UTF-8") from None
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    rows = list(csv.reader(lines, skipinitialspace=True))
    if not rows:
        raise DataError(f"data file '{path}' is empty; a header line with the column names is needed")
    names = [name.strip() for name in rows[0]]
    if len(names) == 1 and (other := next((mark for mark in ";\t " if mark in names[0]), None)) is not None:
        raise DataError(f"data file '{path}': commas must separate the columns, the header has {other!r}: {names[0]}")
    if all(_is_number(name) for name in names):
        raise DataError(
            f"data file '{path}': the header line is missing, or commented out by #: the first line without # reads "
            f"{', '.join(names)}; write the column names without # (numpy.savetxt(..., comments=''))"
        )
    if len(set(names)) != len(names) or not all(names):
        raise DataError(f"data file '{path}': the header must hold unique column names, got {', '.join(names)}")
    values = np.empty((len(rows) - 1, len(names)))
    for i, row in enumerate(rows[1:]):
        if len(row) != len(names):
            raise DataError(f"data file '{path}': row {i} has {len(row)} values for {len(names)} columns")
        try:
            values[i] = [float(word) for word in row]
        except ValueError as error:
            raise DataError(f"data file '{path}': row {i}: {error}") from None
    return _structured({name: values[:, k] for k, name in enumerate(names)}, f"'{path}'")


def _read_directory(path: Path, names: Sequence[str]) -> Tables:
    """Read a directory with one .npy or .csv file per table."""
    readers: Mapping[str, Callable[[Path], Any]] = {".npy": lambda p: _read_numpy(p, names), ".csv": _read_csv}
    files = sorted(p for p in path.iterdir() if p.suffix in readers)
    if not files:
        raise DataError(f"'{path}' holds no .npy or .csv file; one per run is needed, named after it")
    if len({p.stem for p in files}) != len(files):
        raise DataError(f"'{path}' holds two files of the same name: {', '.join(p.name for p in files)}")
    return {p.stem: readers[p.suffix](p) for p in files}


def read_tables(path: str | Path, index: int | None = None, names: Sequence[str] = ()) -> np.ndarray | Tables:
    """Read one data set.

    Parameters
    ----------
    path
        An HDF5 file, an .npz file with one structured array per table, a directory of .npy and .csv files named after
        the tables, or a single .npy or .csv file (one run).
    index
        Which data set of a file that holds several.
    names
        Names of the tables that the model expects, for messages.

    Returns
    -------
    Structured arrays by name; the bare array for a single .npy or .csv file.

    Raises
    ------
    DataError
        If the file is missing, malformed or a pickle.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"data file '{path}' does not exist")
    suffix = path.suffix.lower()
    if path.is_file() and suffix in HDF5_SUFFIXES:
        return _read_hdf5(path, index)
    if index not in (None, 0):
        raise _no_such_set(path, index)
    if path.is_dir():
        return _read_directory(path, names)
    if suffix in (".npy", ".npz"):
        return _read_numpy(path, names)
    if suffix == ".csv":
        return _read_csv(path)
    with path.open("rb") as stream:
        mark = stream.read(1)
    if suffix in PICKLE_SUFFIXES or mark == PICKLE_PROTOCOL_MARK:
        raise _refuse_pickle(path, names)
    raise DataError(f"data file '{path}': '{suffix}' is none of .h5, .hdf5, .npz, .npy, .csv")


def one_row(values: Mapping[str, float]) -> np.ndarray:
    """Return numbers by name as a structured array of one row, names sorted, as inference_interface stores them."""
    names = sorted(values)
    return np.array([tuple(float(values[n]) for n in names)], dtype=[(n, "f8") for n in names])


def as_mapping(table: Any, where: str) -> dict[str, float]:
    """Return a one-row structured array, or a mapping, as numbers by name.

    Raises
    ------
    DataError
        If there is more than one row.
    """
    if isinstance(table, np.ndarray):
        if table.dtype.names is None or table.size > 1:
            raise DataError(f"{where}: one row with named columns is needed, got shape {table.shape}")
        return {n: float(table[n].reshape(-1)[0]) for n in table.dtype.names} if table.size else {}
    if not isinstance(table, Mapping):
        raise DataError(f"{where}: a structured array of one row or a mapping is needed, got {type(table).__name__}")
    return {str(n): float(np.asarray(v).reshape(-1)[0]) for n, v in table.items()}


def read_all_tables(path: str | Path, names: Sequence[str]) -> list[np.ndarray | Tables]:
    """Return every data set of a file: all of one in the layout of inference_interface, else the only one.

    Parameters
    ----------
    path
        The file, or directory.
    names
        What a data set consists of; see :func:`read_tables`.
    """
    path = Path(path)
    if path.suffix in HDF5_SUFFIXES and path.is_file():
        with h5py.File(path, "r") as file:
            if "dataset_names" in file.attrs:
                tables, count = json.loads(file.attrs["dataset_names"]), int(json.loads(str(file.attrs["n_datasets"])))
                return [{n: file[f"{k}/{n}"][()] for n in tables} for k in range(count)]
    return [read_tables(path, None, names)]


def write_toys(path: str | Path, datasets: Sequence[Mapping[str, np.ndarray]], metadata: Mapping[str, Any]) -> None:
    """Write data sets in the layout of inference_interface, atomically.

    Parameters
    ----------
    path
        The file; an older one is replaced.
    datasets
        Structured arrays by name, the same names in each.
    metadata
        Root attributes: text, or anything JSON can hold.

    Raises
    ------
    DataError
        If there is no data set, or their names differ.
    """
    names = list(datasets[0]) if datasets else []
    if not names or any(list(d) != names for d in datasets):
        raise DataError("data sets: at least one is needed, and all must hold the same tables in the same order")
    with replacing_file(Path(path)) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["n_datasets"] = json.dumps(len(datasets))
        file.attrs["dataset_names"] = json.dumps(names)
        file.attrs["date"] = datetime.now(UTC).strftime("%Y%m%d_%H:%M:%S")
        file.attrs["version"] = "0.0"
        for key, value in metadata.items():
            file.attrs[key] = value if isinstance(value, str) else json.dumps(value)
        for i, dataset in enumerate(datasets):
            for name in names:
                file.create_dataset(f"{i}/{name}", data=dataset[name])
