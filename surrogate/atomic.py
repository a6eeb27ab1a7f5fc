"""Atomic writes: a file or a directory appears whole under its name, or not at all."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def _sync(path: Path) -> None:
    """Flush a file or a directory entry to disk, so that a rename never outlives its content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    """Return a new name in the folder of ``path``; a file of that name gets the permissions of the user's umask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent / f".{path.name}.{secrets.token_hex(8)}.tmp"


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is flushed and renamed over ``path``, else removed."""
    temporary = _beside(path)
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory beside ``path``; on success it takes the place of ``path``, else it is removed.

    A directory cannot be renamed over a non-empty one, so an old ``path`` is first moved aside and dropped last: at any
    instant either the old or the new content is complete on disk. A process killed between the two renames leaves both
    under hidden names, ``.NAME.*.old`` and ``.NAME.*.tmp``, and none under its own.
    """
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.iterdir():
            _sync(file)
        old = temporary.with_suffix(".old")
        if path.exists():
            path.rename(old)
        try:
            temporary.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
        _sync(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as indented JSON, atomically; NaN and infinities are refused (ValueError)."""
    text = json.dumps(record, indent=2, allow_nan=False) + "\n"
    with replacing_file(path) as temporary:
        temporary.write_text(text)
