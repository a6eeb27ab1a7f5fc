"""Keep freed memory in the process, for programs that allocate large arrays over and over."""

from __future__ import annotations

import ctypes
import platform

#: Parameters of glibc's mallopt, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
#: Free memory at the end of the heap that is kept, and the largest array that is taken from the heap.
KEPT, LARGEST = 2**28, 2**25


def keep_freed_memory() -> bool:
    """Tell the C library to reuse freed arrays instead of returning them to the system.

    Arrays beyond 128 KiB otherwise come and go page by page; for second-order jets of a few hundred events the page
    faults cost as much as the arithmetic. At most 256 MiB stay with the process. It affects the whole process, and is
    for programs to call, not for libraries.

    Returns
    -------
    bool
        Whether it could be done: the C library must be glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_TRIM_THRESHOLD, KEPT)) and bool(mallopt(M_MMAP_THRESHOLD, LARGEST))
