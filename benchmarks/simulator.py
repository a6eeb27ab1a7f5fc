"""Events generated per CPU second, one core, theta per event; also into a file, and on a GPU where there is one.

Run: python benchmarks/simulator.py [--json FILE]

CPU seconds are those of the process: they hold on a busy machine too. Each figure is the best of several repetitions.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from training.simulation import simulate_to_file
from training.simulation_plan import BATCH_BLOCKS, BLOCK, SimulationPlan, simulate_batch
from training.simulator.theta import Theta
from training.simulator_config import standard_plan

TARGETS = {"er": 1.7e6, "wimp50": 2.4e6}
"""Generated events per CPU second that electronic and nuclear recoils must reach."""

SOURCES = ("er", "wimp50", "nr", "cevns_b8", "ac", "wall")


def rate(work: Callable[[], object], events: int, repetitions: int, clock: Callable[[], float]) -> float:
    """Return events per second of a clock, best of several repetitions after one to warm up."""
    work()
    best = float("inf")
    for _ in range(repetitions):
        start = clock()
        work()
        best = min(best, clock() - start)
    return events / best


def in_memory(plan: SimulationPlan, repetitions: int) -> float:
    """Return generated events per CPU second, theta drawn per block and passed per event."""
    batches = 8

    def work() -> None:
        for k in range(batches):
            simulate_batch(plan, k)

    return rate(work, batches * BATCH_BLOCKS * BLOCK, repetitions, time.process_time)


def to_file(plan: SimulationPlan) -> float:
    """Return generated events per CPU second, compression and writing included."""
    with tempfile.TemporaryDirectory() as folder:
        record = simulate_to_file(plan, Path(folder) / "events.h5", workers=1)
    return record.n_generated / record.cpu_seconds


def on_gpu(name: str, repetitions: int) -> float | None:
    """Return generated events per second on the GPU, None where there is none."""
    if not torch.cuda.is_available():
        return None
    plan = standard_plan("xenonnt_like", name, 1 << 24, seed=1)
    source, n = plan.source, 1 << 21
    theta = plan.base_theta().to("cuda", torch.float32).expand(n, 4).contiguous()
    generator = torch.Generator(device="cuda").manual_seed(1)
    columns = tuple(theta[:, k].contiguous() for k in range(4))

    def work() -> None:
        source.generate(n, Theta(*columns), generator, {})
        torch.cuda.synchronize()

    return rate(work, n, repetitions, time.perf_counter)


def main() -> int:
    """Print the table; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    console, rows = Console(highlight=False), []
    for name in SOURCES:
        plan = standard_plan("xenonnt_like", name, 2_000_000, seed=1)
        row = {
            "source": name,
            "per_cpu_second": in_memory(plan, options.repetitions),
            "to_file_per_cpu_second": to_file(plan),
            "gpu_per_second": on_gpu(name, options.repetitions),
            "target": TARGETS.get(name),
        }
        rows.append(row)
        gpu = "-" if row["gpu_per_second"] is None else f"{row['gpu_per_second']:.3g}"
        console.print(
            f"{name:10s} {row['per_cpu_second'] / 1e6:6.2f} M/CPU s   "
            f"into a file {row['to_file_per_cpu_second'] / 1e6:6.2f} M/CPU s   GPU {gpu}"
        )
    machine = {"machine": platform.machine(), "python": platform.python_version(), "torch": torch.__version__}
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    missed = [row["source"] for row in rows if row["target"] and row["per_cpu_second"] < row["target"]]
    if missed:
        console.print(f"below target: {', '.join(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
