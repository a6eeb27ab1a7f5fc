"""Freed memory stays with the process where the C library can be told so."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from surrogate.memory import keep_freed_memory

FAULTS = """
import resource
import torch
from surrogate.memory import keep_freed_memory
keep_freed_memory()
def work():
    parts = [torch.ones(1 << 19, dtype=torch.float64) for _ in range(4)]
    return sum(float(p[0]) for p in parts)
for _ in range(5):  # until the heap has settled: one array more may still be touched for the first time
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_it_says_whether_it_could() -> None:
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
    assert keep_freed_memory() == keep_freed_memory()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_arrays_are_reused_without_page_faults() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 100  # one array alone has 1024 pages; forty are made
