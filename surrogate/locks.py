"""One writer at a time: files that several processes may share are written under a lock.

The lock is an empty hidden file beside the one that is guarded, ``.NAME.lock``. The operating system releases it when
its holder ends, however it ends; the empty file stays. Readers need no lock: files are replaced whole.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from surrogate.errors import DataError

logger = logging.getLogger(__name__)

#: What a file system without locks answers.
NO_LOCKS = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK})


@contextmanager
def only_writer(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a file, so that nobody else who asks for it writes the file meanwhile.

    Where the file system has no locks a warning is logged and nothing is locked.

    Parameters
    ----------
    path
        The file or folder to be written; its parent is made if missing.
    wait
        Whether to wait until another holder is done.

    Raises
    ------
    DataError
        If another process, or this one, holds the lock already and ``wait`` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.parent / f".{path.name}.lock")
    held = _acquire(lock, path, wait)
    try:
        yield
    finally:
        if held:
            lock.release()


def _acquire(lock: FileLock, path: Path, wait: bool) -> bool:
    """Acquire the lock of a path; False where the file system has none."""
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            if not wait:
                raise DataError(
                    f"'{path}' is being written by another process; wait until that one is done, or give another file"
                ) from error
            logger.info("waiting for another process that writes '%s'", path)
            lock.acquire()
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        logger.warning(
            "the file system of '%s' has no locks (%s); see to it that no other process writes it", path, error
        )
        return False
    return True
