"""What a piece of work costs: CPU seconds, wall seconds and peak memory, of several candidates side by side."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

Work = Callable[[], object]

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
#: Words in the model names of processors and GPUs that tell nothing.
NOISE = ("(R)", "(TM)", "CPU", "Processor", "@")


@dataclass(frozen=True)
class Cost:
    """The cost of one run of some work.

    Attributes
    ----------
    cpu_s
        CPU seconds of the process and of its finished children; the smallest of several runs.
    wall_s
        Wall seconds of that run.
    peak_mib
        Largest resident memory of the process in any of the runs [MiB], libraries included.
    repeats
        How many runs there were, not counting one to warm up.
    """

    cpu_s: float
    wall_s: float
    peak_mib: float
    repeats: int


def cpu_seconds() -> float:
    """Return the CPU seconds of this process, all its threads, and of the children it has waited for."""
    spent = os.times()
    return time.process_time() + spent.children_user + spent.children_system


def once(work: Work) -> Cost:
    """Return the cost of one run, without a run to warm up."""
    _reset_peak()
    wall, cpu = time.perf_counter(), cpu_seconds()
    work()
    cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    return Cost(cpu, wall, _peak_mib(), 1)


def side_by_side(works: Mapping[str, Work], repeats: int = 5, warm_up: bool = True) -> dict[str, Cost]:
    """Return the smallest cost of each candidate, all run in turn, so that whatever disturbs one disturbs all.

    Parameters
    ----------
    works
        The candidates by name.
    repeats
        Runs of each.
    warm_up
        Run each once before, without counting it.
    """
    if warm_up:
        for work in works.values():
            work()
    runs: dict[str, list[Cost]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            runs[name].append(once(work))
    return {name: _smallest(costs) for name, costs in runs.items()}


def measure(work: Work, repeats: int = 5, warm_up: bool = True) -> Cost:
    """Return the smallest cost of some work."""
    return side_by_side({"": work}, repeats, warm_up)[""]


def _smallest(costs: list[Cost]) -> Cost:
    best = min(costs, key=lambda cost: cost.cpu_s)
    return Cost(best.cpu_s, best.wall_s, max(cost.peak_mib for cost in costs), len(costs))


def _reset_peak() -> None:
    """Forget the peak of resident memory, where the system can (Linux)."""
    if CLEAR.exists():
        CLEAR.write_text("5")


def _peak_mib() -> float:
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) / 1024
    unit = 2**20 if platform.system() == "Darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def calibration(repeats: int = 7) -> float:
    """Return the CPU seconds of a fixed piece of arithmetic on one thread, by which machines are compared.

    Half of the time goes to products of matrices that fit into a core's cache, half to exponentials in memory, as in
    the work that is measured.
    """
    generator = torch.Generator().manual_seed(0)
    left, right = torch.rand(2, 256, 256, generator=generator)
    row = torch.rand(1 << 19, generator=generator, dtype=torch.float64)

    def work() -> None:
        for _ in range(60):
            torch.mm(left, right)
        for _ in range(6):
            torch.exp2(row)

    return measure(work, repeats).cpu_s


def copy_rate() -> float:
    """Return the bytes per second that one thread moves between memory and processor, read and written."""
    source = torch.zeros(1 << 25, dtype=torch.float64)
    target = torch.empty_like(source)
    return 2 * source.nbytes / measure(lambda: target.copy_(source), 5).cpu_s


def multiply_rate(dtype: torch.dtype) -> float:
    """Return the floating-point operations per second of one thread in a large product of matrices."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.rand(2, 768, 768, generator=generator, dtype=dtype)
    out = torch.empty_like(left)
    return 2 * 768**3 / measure(lambda: torch.mm(left, right, out=out), 5).cpu_s


def machine() -> dict[str, str | int | float]:
    """Return what the figures depend on: processor, cores, threads used, accelerator, and the calibration."""
    found: dict[str, str | int | float] = {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "calibration_s": round(calibration(), 5),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    fields = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line) if info.exists() else {}
    named = {key.strip(): value.strip() for key, value in fields.items()}
    words = [word for word in named.get("model name", platform.processor()).split() if word not in NOISE]
    return " ".join(words) or "unknown"


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python, torch, numpy, this package and others that are installed."""
    found = {"python": platform.python_version()}
    for name in ("xeflow", "torch", "numpy", *packages):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
