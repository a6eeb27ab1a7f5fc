"""Result stores of studies: one HDF5 file that grows chunk by chunk and is complete and readable at every instant.

HDF5 itself does not survive being killed while it writes. Rows are therefore added to a copy of the file, which is then
renamed over the old one: after ``kill -9`` the file is whole, and the study goes on from there. Copying a file that has
grown takes time; rows wait in memory until writing them costs no more than a twentieth of the time since the last ones
were written, and that much work is what a kill can lose. One process at a time writes a store; any number may read it.
A store describes itself:

    /columns/<name>   (N, ...) one row per toy, attribute ``unit``
    /chunks           (n, 3) int64: point, first toy, number of toys of each chunk; in the order of the rows
    attributes        format, format_version, kind, model_hash, seed, settings, versions, created, status
"""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import h5py
import numpy as np

from inference.studies.study_record import Chunk, Columns, StudyHeader, check_rows
from surrogate.atomic import replacing_file
from surrogate.errors import DataError
from surrogate.locks import only_writer

FORMAT = "xeflow-study"
FORMAT_VERSION = 1

#: Rows wait until this many times the last writing time has passed.
PATIENCE = 20
RECORDED_PACKAGES = ("xeflow", "torch", "numpy", "scipy", "h5py")


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


class FileStore:
    """Rows in an HDF5 file.

    Parameters
    ----------
    path
        The file; made if missing, resumed if it holds the same study.
    header
        The study.

    Raises
    ------
    DataError
        If the file is no study, or another study: its rows are never mixed with those of this one; or if it is missing
        and another process is about to make it.
    """

    def __init__(self, path: str | Path, header: StudyHeader) -> None:
        self.path, self.header = Path(path), header
        self._pending: dict[Chunk, dict[str, np.ndarray]] = {}
        self._next_write = 0.0
        if not self.path.exists():
            with only_writer(self.path):
                _make(self.path, header)
        self._look()

    def _look(self) -> None:
        """Take over what the file holds."""
        _require_same(self.path, self.header)
        with h5py.File(self.path, "r") as file:
            self._written, self._status = _chunks(file), str(file.attrs["status"])

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the store for writing; what another process has written meanwhile counts as done.

        Raises
        ------
        DataError
            If another process holds it, or has put another study there.
        """
        with only_writer(self.path):
            self._look()
            yield

    def done(self) -> set[Chunk]:
        """Return the chunks that are stored, or wait to be written."""
        return self._written | set(self._pending)

    def append(self, chunk: Chunk, columns: Columns) -> None:
        """Store the rows of one chunk, whole or not at all.

        Raises
        ------
        DataError
            If a column is missing or does not have one row per toy, or some of the toys are stored already.
        """
        self._pending[chunk] = check_rows(self.header, chunk, columns, self.done())
        if time.monotonic() >= self._next_write:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait."""
        if self._pending:
            self._write("running")

    def finish(self) -> None:
        """Write what waits and mark the study as complete, unless it is."""
        if self._pending or self._status != "complete":
            self._write("complete")

    def _write(self, status: str) -> None:
        start, waiting = time.monotonic(), self._pending
        with replacing_file(self.path) as temporary:
            shutil.copyfile(self.path, temporary)
            with h5py.File(temporary, "r+") as file:
                for name in self.header.units if waiting else ():
                    rows = np.concatenate([columns[name] for columns in waiting.values()])
                    _extend(file["columns"], name, rows, self.header.units[name])
                chunks = np.array([[c.point, c.first, c.size] for c in waiting], dtype=np.int64).reshape(-1, 3)
                _extend(file, "chunks", chunks, "")
                file.attrs["status"] = status
        self._written |= set(waiting)
        self._pending, self._status = {}, status
        end = time.monotonic()
        self._next_write = end + PATIENCE * (end - start)

    def read(self) -> dict[str, np.ndarray]:
        """Return all rows by column, by point and toy."""
        self.flush()
        with h5py.File(self.path, "r") as file:
            chunks, columns = file["chunks"][()], {name: item[()] for name, item in file["columns"].items()}
        point = np.repeat(chunks[:, 0], chunks[:, 2])
        toy = np.concatenate([np.arange(f, f + n) for _, f, n in chunks]) if len(chunks) else point
        order = np.lexsort((toy, point))
        return {name: values[order] for name, values in columns.items()}


def _chunks(file: h5py.File) -> set[Chunk]:
    return {Chunk(*map(int, row)) for row in file["chunks"][()]}


def _make(path: Path, header: StudyHeader) -> None:
    """Make an empty store, unless there is one by now."""
    if not path.exists():
        with replacing_file(path) as temporary, h5py.File(temporary, "w") as file:
            _write_header(file, header)


def _write_header(file: h5py.File, header: StudyHeader) -> None:
    for key, value in header.identity().items():
        file.attrs[key] = value if isinstance(value, str) else json.dumps(value)
    file.attrs["format"], file.attrs["format_version"] = FORMAT, FORMAT_VERSION
    file.attrs["versions"] = json.dumps(package_versions())
    file.attrs["created"] = datetime.now(UTC).isoformat(timespec="seconds")
    file.attrs["status"] = "running"
    file.create_group("columns")
    file.create_dataset("chunks", (0, 3), dtype=np.int64, maxshape=(None, 3), chunks=(256, 3))


def _extend(group: h5py.Group, name: str, rows: np.ndarray, unit: str) -> None:
    """Add rows at the end of a dataset, making it where it does not exist."""
    if name not in group:
        shape = (max(1, min(4096, len(rows))), *rows.shape[1:])
        dataset = group.create_dataset(
            name, (0, *rows.shape[1:]), rows.dtype, maxshape=(None, *rows.shape[1:]), chunks=shape, compression="gzip"
        )
        dataset.attrs["unit"] = unit
    dataset = group[name]
    start = len(dataset)
    dataset.resize(start + len(rows), axis=0)
    dataset[start:] = rows


def read_header(path: str | Path) -> tuple[StudyHeader, str]:
    """Return the header of a store and its status, ``running`` or ``complete``.

    Raises
    ------
    DataError
        If the file is missing or holds no study.
    """
    try:
        with h5py.File(path, "r") as file:
            attrs = dict(file.attrs)
            units = {name: str(item.attrs["unit"]) for name, item in file["columns"].items()}
        if attrs["format"] != FORMAT or int(attrs["format_version"]) != FORMAT_VERSION:
            raise DataError(f"'{path}' is of format {attrs['format']} {attrs['format_version']}, not {FORMAT} 1")
        header = StudyHeader(
            str(attrs["kind"]),
            str(attrs["model_hash"]),
            int(json.loads(attrs["seed"])),
            json.loads(attrs["settings"]),
            units,
        )
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"'{path}' is no study that could be read: {error}") from error
    return header, str(attrs["status"])


def read_study(path: str | Path, kind: str) -> tuple[StudyHeader, dict[str, np.ndarray]]:
    """Return the header of a store and its rows so far, by point and toy.

    Raises
    ------
    DataError
        If the file is missing, holds no study or one of another kind, or no toys yet.
    """
    header, _ = read_header(path)
    if header.kind != kind:
        raise DataError(f"'{path}' holds a study of kind '{header.kind}', not '{kind}'")
    columns = FileStore(path, header).read()
    if not columns:
        raise DataError(f"'{path}' has no toys yet; run the study first")
    return header, columns


def _require_same(path: Path, header: StudyHeader) -> None:
    """Raise DataError unless a file holds the study of this header."""
    theirs, ours = read_header(path)[0].identity(), header.identity()
    differing = [key for key in ours if theirs[key] != ours[key]]
    if "settings" in differing:
        keys = {*ours["settings"], *theirs["settings"]}
        differing += [f"settings.{k}" for k in sorted(keys) if ours["settings"].get(k) != theirs["settings"].get(k)]
    if differing:
        raise DataError(
            f"'{path}' holds another study (different {', '.join(differing)}); give another file, or remove that one"
        )
