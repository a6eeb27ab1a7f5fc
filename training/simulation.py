"""Simulating event files: batches on all cores, segments on disk, one file at the end.

A file is the same, bit for bit, for any number of workers, any segment size, and across restarts.
"""

from __future__ import annotations

import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from surrogate.errors import ConfigError
from training.event_writer import EventWriter, Segment
from training.events import Blocks
from training.simulation_plan import SimulationPlan, simulate_batch

SEGMENT_BATCHES = 16
"""Batches per segment on disk: about a second of work."""

FEW_EVENTS = 100
"""Below this number of accepted events a simulation carries a warning."""


def _join(batches: list[Segment]) -> Segment:
    """Return several batches as one segment."""
    offsets = np.cumsum([0, *(len(b.blocks.theta) for b in batches[:-1])]).astype(np.int32)
    blocks = Blocks(
        np.concatenate([b.blocks.theta for b in batches]),
        np.concatenate([b.blocks.n_generated for b in batches if b.blocks.n_generated is not None]),
        np.concatenate([b.blocks.n_accepted for b in batches]),
    )
    return Segment(
        blocks,
        np.concatenate([b.x for b in batches]),
        np.concatenate([b.block + o for b, o in zip(batches, offsets, strict=True)]),
        None,
        {name: np.concatenate([b.truth[name] for b in batches]) for name in batches[0].truth},
    )


@dataclass(frozen=True)
class SimulationProgress:
    """How far a simulation is: generated and kept events so far, and generated events in all."""

    n_generated: int
    n_accepted: int
    total: int
    resumed: int


@dataclass(frozen=True)
class SimulationRecord:
    """What a simulation did.

    ``mean_expected`` is the mean of mu(theta) over the simulated thetas, events per tonne-year, and
    ``mean_expected_std`` its standard error.
    """

    path: str
    source: str
    n_generated: int
    n_accepted: int
    generated_rate: float
    mean_expected: float
    mean_expected_std: float
    cpu_seconds: float
    wall_seconds: float
    resumed_events: int
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain data."""
        return asdict(self)


@contextmanager
def _single_threaded_operations() -> Iterator[None]:
    """Let each torch operation use one thread: the workers are the parallelism, and sums keep one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _ordered(pool: ThreadPoolExecutor, plan: SimulationPlan, batches: range, ahead: int) -> Iterator[Segment]:
    """Yield batches in order, at most ``ahead`` of them computed beforehand: memory stays flat."""
    waiting: deque[Future[Segment]] = deque()
    for index in batches:
        waiting.append(pool.submit(simulate_batch, plan, index))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def simulate_to_file(
    plan: SimulationPlan,
    path: Path,
    workers: int | None = None,
    segment_batches: int = SEGMENT_BATCHES,
    progress: Callable[[SimulationProgress], None] | None = None,
) -> SimulationRecord:
    """Simulate an event file; a run that was interrupted continues after its last complete segment.

    Parameters
    ----------
    plan
        What to simulate.
    path
        The event file to write; a file that is already there is replaced when the new one is complete.
    workers
        Threads (torch releases the interpreter lock); all available cores by default.
    segment_batches
        Batches per segment on disk, the unit of resumption. It does not change the file.
    progress
        Called after every batch.

    Returns
    -------
    SimulationRecord
        Counts, mean rate and time. A source of which nothing, or next to nothing, is accepted gives a warning.

    Raises
    ------
    ConfigError
        If segments of a different run are in the way.
    DataError
        If the file cannot be written.
    """
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    if workers < 1 or segment_batches < 1:
        raise ConfigError(f"workers = {workers} and segment_batches = {segment_batches} must be at least 1")
    writer = EventWriter(path, plan.schema(), {"n_generated": plan.n_generated, "segment_batches": segment_batches})
    n_segments = -(-plan.n_batches // segment_batches)
    cpu, wall = time.process_time(), time.perf_counter()
    done = [k for k in range(n_segments) if writer.has(k)]
    total = plan.n_blocks * plan.block_size
    resumed = sum(_segment_events(plan, k, segment_batches) for k in done)
    generated, accepted = resumed, sum(writer.accepted(k) for k in done)
    with _single_threaded_operations(), ThreadPoolExecutor(workers) as pool:
        for k in sorted(set(range(n_segments)) - set(done)):
            batches = range(k * segment_batches, min((k + 1) * segment_batches, plan.n_batches))
            pieces = []
            for piece in _ordered(pool, plan, batches, workers + 1):
                pieces.append(piece)
                generated += len(piece.blocks.theta) * plan.block_size
                accepted += len(piece.block)
                if progress is not None:
                    progress(SimulationProgress(generated, accepted, total, resumed))
            writer.write(k, _join(pieces))
    writer.finish(n_segments)
    spent = time.process_time() - cpu, time.perf_counter() - wall
    return _record(plan, path, total, accepted, spent, resumed)


def _segment_events(plan: SimulationPlan, index: int, segment_batches: int) -> int:
    """Return the number of generated events of a segment."""
    per_segment = segment_batches * plan.batch_blocks
    return (min((index + 1) * per_segment, plan.n_blocks) - index * per_segment) * plan.block_size


def _record(
    plan: SimulationPlan, path: Path, total: int, accepted: int, spent: tuple[float, float], resumed: int
) -> SimulationRecord:
    rate = plan.source.generated_rate
    expected, error = rate * accepted / total, rate * max(accepted, 1) ** 0.5 / total
    messages = []
    if accepted < FEW_EVENTS:
        messages.append(
            f"source '{plan.source.name}': {accepted} of {total} generated events were accepted, "
            f"{expected:.3g} +- {error:.2g} events per tonne-year; simulate more, or leave the source out"
        )
        warnings.warn(messages[0], RuntimeWarning, stacklevel=3)
    return SimulationRecord(
        path=str(path),
        source=plan.source.name,
        n_generated=total,
        n_accepted=accepted,
        generated_rate=rate,
        mean_expected=expected,
        mean_expected_std=error,
        cpu_seconds=spent[0],
        wall_seconds=spent[1],
        resumed_events=resumed,
        warnings=tuple(messages),
    )
