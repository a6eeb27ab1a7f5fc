"""Events generated per CPU second, one core, theta per event; also into a file, and on a GPU where there is one.

Run: python benchmarks/simulator.py [--output DIR] [--quick]

CPU seconds are those of the process: they hold on a busy machine too. Each figure is the best of several repetitions.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from records import Record, finish, parser

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


def records_of(name: str, repetitions: int) -> list[Record]:
    """Return the figures of one source."""
    plan = standard_plan("xenonnt_like", name, 2_000_000, seed=1)
    found = [
        Record(f"{name} in memory", in_memory(plan, repetitions), "events/CPU s", "higher", TARGETS.get(name)),
        Record(f"{name} into a compressed file", to_file(plan), "events/CPU s", "higher"),
    ]
    gpu = on_gpu(name, repetitions)
    return found if gpu is None else [*found, Record(f"{name} on the GPU", gpu, "events/s", "higher", scales=False)]


def main() -> int:
    """Measure, print and write the figures; exit 1 if a target is missed."""
    options = parser(__doc__).parse_args()
    records = [record for name in SOURCES for record in records_of(name, 2 if options.quick else 5)]
    return finish("simulator", "python benchmarks/simulator.py", records, options)


if __name__ == "__main__":
    raise SystemExit(main())
