"""Locks on files that several processes may write."""

from __future__ import annotations

import errno
import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from surrogate.errors import DataError
from surrogate.locks import only_writer

ROOT = Path(__file__).resolve().parents[1]
HOLDER = """
import sys
from pathlib import Path
from surrogate.locks import only_writer

with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(path):
    """Return a process that holds the lock of a path until its standard input is closed."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_one_process_writes_at_a_time(tmp_path):
    path = tmp_path / "new" / "study.h5"
    with holder(path) as process:
        message = r"study\.h5' is being written by another process; wait until .* give another file"
        with pytest.raises(DataError, match=message), only_writer(path):
            pass
        with only_writer(tmp_path / "new" / "other.h5"):
            pass
        process.kill()
        process.wait()
        with only_writer(path), pytest.raises(DataError, match="being written"), only_writer(path):
            pass
    assert {p.name for p in path.parent.iterdir()} == {".study.h5.lock", ".other.h5.lock"}


def test_another_writer_is_waited_for(tmp_path, caplog):
    path = tmp_path / "checkpoint"
    with holder(path) as process, caplog.at_level(logging.INFO, logger="surrogate.locks"):
        threading.Timer(0.2, process.stdin.close).start()
        with only_writer(path, wait=True):
            process.wait()
    assert "waiting for another process" in caplog.text


@pytest.mark.parametrize("error", [NotImplementedError("no flock"), OSError(errno.ENOLCK, "no locks")])
def test_without_locks_there_is_a_warning(tmp_path, monkeypatch, caplog, error):
    def refuse(lock, timeout=None):
        raise error

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with only_writer(tmp_path / "study.h5"):
        pass
    assert "has no locks" in caplog.text


def test_other_errors_of_the_file_system_are_raised(tmp_path, monkeypatch):
    def refuse(lock, timeout=None):
        raise PermissionError(errno.EACCES, "not yours")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(PermissionError, match="not yours"), only_writer(tmp_path / "study.h5"):
        pass
