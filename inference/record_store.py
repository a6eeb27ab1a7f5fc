"""Records in HDF5, field by field, for programs that read that rather than JSON.

A record is a group: numbers and words are its attributes, rows of numbers or words its datasets, records and mappings
its groups, rows of records groups with members ``0``, ``1``, ... What does not exist is an empty attribute, and NaN in
a row of numbers, where a record has no NaN of its own. Several records may lie in one file, each in its group.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np

from inference.record import Record
from surrogate.atomic import replacing_file
from surrogate.errors import DataError

R = TypeVar("R", bound=Record)

#: Attribute that tells a row of records from a mapping.
ROW = "is_row"


def _escaped(key: str) -> str:
    """Return a key without the separator of HDF5 paths."""
    return key.replace("%", "%25").replace("/", "%2F")


def _unescaped(name: str) -> str:
    return name.replace("%2F", "/").replace("%25", "%")


def _leaves(value: Any) -> Iterable[Any]:
    """Yield what nested rows hold in the end."""
    if isinstance(value, list | tuple):
        for v in value:
            yield from _leaves(v)
    else:
        yield value


def _shape(value: Any) -> tuple[int, ...] | None:
    """Return the shape of nested rows; None where their lengths differ."""
    if not isinstance(value, list | tuple):
        return ()
    shapes = {_shape(v) for v in value} or {()}
    inner = shapes.pop()
    return None if shapes or inner is None else (len(value), *inner)


def _as_array(value: Any) -> np.ndarray | None:
    """Return rows of numbers or of words as an array; None for anything else."""
    shape, leaves = _shape(value), list(_leaves(value))
    if shape is None:
        return None
    if leaves and all(isinstance(v, str) for v in leaves):
        return np.array(value, dtype=object)
    if any(isinstance(v, str | dict) for v in leaves):
        return None
    if None in leaves or not leaves:
        return np.array([np.nan if v is None else v for v in leaves], dtype=np.float64).reshape(shape)
    return np.array(value)


def _write(group: h5py.Group, key: str, value: Any) -> None:
    """Write one field of a record, or one member of a row, into a group."""
    name = _escaped(key)
    if value is None:
        group.attrs[name] = h5py.Empty("f8")
    elif isinstance(value, str | bool | int | float):
        group.attrs[name] = value
    elif isinstance(value, dict):
        _fill(group.create_group(name, track_order=True), value)
    elif (array := _as_array(value)) is not None:
        kind = h5py.string_dtype() if array.dtype == object else array.dtype
        group.create_dataset(name, data=array, dtype=kind)
    else:
        row = group.create_group(name, track_order=True)
        row.attrs[ROW] = True
        for k, v in enumerate(value):
            _write(row, str(k), v)


def _fill(group: h5py.Group, data: dict[str, Any]) -> None:
    for key, value in data.items():
        _write(group, key, value)


def _plain(value: Any) -> Any:
    """Return an attribute as a number, a word or None."""
    if isinstance(value, h5py.Empty):
        return None
    return value.item() if isinstance(value, np.generic) else value


def _rows(array: Any) -> Any:
    """Return an array as nested lists, NaN as None."""
    if isinstance(array, list):
        return [_rows(v) for v in array]
    if isinstance(array, bytes):
        return array.decode()
    return None if isinstance(array, float) and array != array else array


def _read(group: h5py.Group) -> Any:
    """Return a group as a mapping, or a row of such."""
    data = {_unescaped(name): _plain(value) for name, value in group.attrs.items()}
    for name, item in group.items():
        data[_unescaped(name)] = _read(item) if isinstance(item, h5py.Group) else _rows(item[()].tolist())
    if data.pop(ROW, False):
        return [data[key] for key in sorted(data, key=int)]
    return data


def write_records(path: str | Path, records: Mapping[str, Record]) -> None:
    """Write records into an HDF5 file, atomically, each in the group of its name."""
    with replacing_file(Path(path)) as temporary, h5py.File(temporary, "w") as file:
        for name, record in records.items():
            _write(file, name, record.to_dict())


def read_record(path: str | Path, kind: type[R], name: str | None = None) -> R:
    """Read one record of a file that :func:`write_records` wrote.

    Parameters
    ----------
    path
        The file.
    kind
        The record's class.
    name
        Its group; the only one of the file if None.

    Raises
    ------
    DataError
        If the file cannot be read, has no such group, or holds a record of another kind.
    """
    try:
        with h5py.File(path, "r") as file:
            names = list(file)
            if name is None and len(names) != 1:
                raise DataError(f"'{path}' holds {len(names)} records, say which: {', '.join(names)}")
            group = file[names[0] if name is None else name]
            data = _read(group)
    except (OSError, KeyError) as error:
        raise DataError(f"'{path}' holds no record that could be read: {error}") from error
    return kind.from_dict(data)
