"""Columns of files that other programs wrote, streamed in slabs: HDF5, NPZ, CSV and Parquet."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from surrogate.errors import ConfigError, DataError, unknown_name
from training.events import AnyArray

try:
    import pyarrow.parquet as parquet
except ImportError:  # an optional extra: only files in that format need it
    parquet = None

SLAB = 1 << 20
"""Rows per slab."""


class ForeignFile(ABC):
    """A file of columns; a context manager.

    Parameters
    ----------
    path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of all columns."""

    @abstractmethod
    def _slabs(self, columns: Sequence[str]) -> Iterator[dict[str, AnyArray]]:
        """Yield the columns, which exist, in slabs."""

    def check(self, columns: Sequence[str]) -> None:
        """Raise unless every column exists.

        Raises
        ------
        ConfigError
            Naming the nearest column.
        """
        for name in columns:
            if name not in self.names:
                raise ConfigError(unknown_name("column", name, self.names, str(self.path)))

    def slabs(self, columns: Sequence[str]) -> Iterator[dict[str, AnyArray]]:
        """Yield equally long stretches of the columns, at most ``SLAB`` rows each.

        Raises
        ------
        DataError
            If the columns differ in length or are not one-dimensional.
        """
        self.check(columns)
        for slab in self._slabs(columns):
            shapes = {name: np.shape(values) for name, values in slab.items()}
            if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
                raise DataError(f"{self.path}: columns must be one-dimensional and of equal length, got {shapes}")
            yield slab

    def array(self, name: str) -> AnyArray:
        """Return a whole column or table, such as one row of theta per block.

        Raises
        ------
        ConfigError
            If it does not exist.
        """
        self.check([name])
        return np.concatenate([slab[name] for slab in self._slabs([name])])

    def attribute(self, name: str) -> float:
        """Return a number that the file carries as an attribute.

        Raises
        ------
        ConfigError
            If it has none of this name.
        """
        raise ConfigError(f"{self.path}: this format has no attributes; give the number for '{name}' in the mapping")

    def close(self) -> None:
        """Close the file."""
        return

    def __enter__(self) -> ForeignFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Hdf5File(ForeignFile):
    """HDF5: a column is a data set (``group/name``) or a field of a compound one (``group/name.field``)."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = h5py.File(path, "r")
        found: dict[str, tuple[str, str | None]] = {}

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                fields = item.dtype.names or ()
                found.update({f"{name}.{f}": (name, f) for f in fields} if fields else {name: (name, None)})

        self._file.visititems(visit)
        self._columns = found

    @property
    def names(self) -> tuple[str, ...]:
        """Data sets, and fields of compound data sets."""
        return tuple(self._columns)

    def _read(self, name: str, start: int, stop: int) -> AnyArray:
        dataset, field = self._columns[name]
        rows = self._file[dataset][start:stop]
        return rows if field is None else rows[field]

    def _slabs(self, columns: Sequence[str]) -> Iterator[dict[str, AnyArray]]:
        length = max(int(self._file[self._columns[name][0]].shape[0]) for name in columns)
        for start in range(0, length, SLAB):
            yield {name: self._read(name, start, start + SLAB) for name in columns}

    def attribute(self, name: str) -> float:
        """Return a number among the attributes of the file."""
        if name not in self._file.attrs:
            raise ConfigError(unknown_name("attribute", name, self._file.attrs, str(self.path)))
        return float(self._file.attrs[name])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class NpzFile(ForeignFile):
    """NPZ: a column is an array. Each is read as a whole, as the format has it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = np.load(path, allow_pickle=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays."""
        return tuple(self._file.files)

    def _slabs(self, columns: Sequence[str]) -> Iterator[dict[str, AnyArray]]:
        whole = {name: np.atleast_1d(self._file[name]) for name in columns}
        for start in range(0, max(len(values) for values in whole.values()), SLAB):
            yield {name: values[start : start + SLAB] for name, values in whole.items()}

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class CsvFile(ForeignFile):
    """CSV: a header of column names, comma separated, then numbers; lines beginning with ``#`` are skipped."""

    def _lines(self) -> Iterator[str]:
        with self.path.open(encoding="utf-8-sig") as lines:
            try:
                yield from (line for line in lines if line.strip() and not line.lstrip().startswith("#"))
            except UnicodeDecodeError as error:
                raise DataError(f"{self.path}: is not UTF-8 text ({error}); save it as UTF-8") from None

    @property
    def names(self) -> tuple[str, ...]:
        """The header."""
        header = next(self._lines(), "")
        for other in (";", "\t"):
            if other in header and "," not in header:
                raise DataError(f"{self.path}: the columns are separated by {other!r}; separate them by commas")
        return tuple(name.strip().strip('"') for name in header.split(","))

    def _slabs(self, columns: Sequence[str]) -> Iterator[dict[str, AnyArray]]:
        lines, index = self._lines(), [self.names.index(name) for name in columns]
        next(lines)
        while stretch := list(itertools.islice(lines, SLAB)):
            try:
                rows = np.loadtxt(stretch, delimiter=",", usecols=index, ndmin=2)
            except ValueError as error:
                raise DataError(f"{self.path}: {error}") from error
            yield {name: rows[:, k] for k, name in enumerate(columns)}


class ParquetFile(ForeignFile):
    """Parquet, with pyarrow."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if parquet is None:
            raise ConfigError(f"{path}: reading Parquet needs pyarrow; install xeflow[parquet] or convert the file")
        self._file = parquet.ParquetFile(path)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self._file.schema_arrow.names)

    def _slabs(self, columns: Sequence[str]) -> Iterator[dict[str, AnyArray]]:
        for batch in self._file.iter_batches(batch_size=SLAB, columns=list(columns)):
            yield {name: batch.column(name).to_numpy(zero_copy_only=False) for name in columns}

    def close(self) -> None:
        """Close the file."""
        self._file.close()


FORMATS: dict[str, type[ForeignFile]] = {
    ".h5": Hdf5File,
    ".hdf5": Hdf5File,
    ".npz": NpzFile,
    ".csv": CsvFile,
    ".parquet": ParquetFile,
}


def open_foreign(path: Path) -> ForeignFile:
    """Open a file by its suffix.

    Raises
    ------
    ConfigError
        For a suffix that is not known.
    DataError
        If the file cannot be read in that format.
    """
    if path.suffix not in FORMATS:
        raise ConfigError(unknown_name("suffix", path.suffix, FORMATS, str(path)))
    try:
        return FORMATS[path.suffix](path)
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise DataError(f"{path}: not readable as {path.suffix[1:]}: {error}") from error
