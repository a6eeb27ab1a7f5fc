"""Studies: a list of chunks of toys, worked through in any order by any number of workers, stored as they come.

A chunk is a range of toys at one point; what it yields depends on nothing but itself, because toys are counter-based.
Whoever executes the chunks (this process, several processes, a cluster) is an :class:`Executor`; the study stores what
arrives and skips what a former run has stored.
"""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from inference.studies.storage import FileStore
from inference.studies.study_record import Chunk, Columns, MemoryStore, Store, StudyHeader
from surrogate.errors import ConfigError, XeflowError
from surrogate.memory import keep_freed_memory

Work = Callable[[Chunk], Columns]
Progress = Callable[[int, int], None]

#: Toys of the first chunk of a study; each of the next ones of its point has as many as were made before it, to the
#: size asked for. Other points have that size at once: a chunk costs more than its toys do.
FIRST_CHUNK = 50


def make_chunks(n_points: int, n_toys: int, size: int, stored: Iterable[Chunk] = ()) -> tuple[Chunk, ...]:
    """Return what remains to be done of ``n_toys`` toys at each of ``n_points`` points.

    Parameters
    ----------
    n_points, n_toys
        Toys 0 .. n_toys - 1 are wanted at points 0 .. n_points - 1.
    size
        Most toys of a chunk.
    stored
        What is there already, in chunks of any size.

    Returns
    -------
    tuple of Chunk
        All points advance together, so that an unfinished study has toys everywhere. The first chunks of the first
        point are small, so that one soon knows how long the study will take.

    Raises
    ------
    ConfigError
        If one of the numbers is not positive.
    """
    for name, value in (("n_points", n_points), ("n_toys", n_toys), ("chunk size", size)):
        if value < 1:
            raise ConfigError(f"{name} = {value} must be at least 1")
    chunks: list[Chunk] = []
    for point in range(n_points):
        ranges = sorted((c.first, c.first + c.size) for c in stored if c.point == point)
        start = 0
        for first, last in [*ranges, (n_toys, n_toys)]:
            chunks += _portions(point, start, min(first, n_toys), size, size if chunks else FIRST_CHUNK)
            start = max(start, last)
    return tuple(sorted(chunks, key=lambda c: (c.first, c.point)))


def _portions(point: int, start: int, stop: int, size: int, least: int) -> Iterator[Chunk]:
    """Yield the chunks of toys ``start`` .. ``stop`` - 1 of a point, from the least size to the largest."""
    k = start
    while k < stop:
        chunk = Chunk(point, k, min(size, max(least, k - start), stop - k))
        yield chunk
        k += chunk.size


class Executor(Protocol):
    """Whoever works chunks off."""

    def run(self, work: Work, chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, Columns]]:
        """Yield every chunk with its columns, in the order in which they are done."""
        ...


@dataclass(frozen=True)
class SerialExecutor:
    """Works in this process, one chunk after the other."""

    def run(self, work: Work, chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, Columns]]:
        """Yield every chunk with its columns."""
        for chunk in chunks:
            yield chunk, work(chunk)


@dataclass(frozen=True)
class ProcessExecutor:
    """Works in several processes of this machine, each with one thread.

    The work is sent to each process once; then only chunks and columns travel. Processes are spawned, so a script that
    uses them needs its ``if __name__ == "__main__":``.

    Parameters
    ----------
    workers
        Number of processes, at least 1.

    Raises
    ------
    ConfigError
        If there is less than one worker.
    """

    workers: int

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"workers = {self.workers} must be at least 1")

    def run(self, work: Work, chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, Columns]]:
        """Yield every chunk with its columns, in the order in which they are done.

        Raises
        ------
        XeflowError
            If a worker dies or its work raises; what was yielded before stands.
        """
        context = multiprocessing.get_context("spawn")
        waiting = list(reversed(chunks))
        processes, connections = [], {}
        try:
            for _ in range(min(self.workers, len(chunks))):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(work, theirs), daemon=True)
                process.start()
                theirs.close()
                processes.append(process)
                connections[ours] = waiting.pop()
                ours.send(connections[ours])
            yield from _collect(connections, waiting)
        finally:
            for connection in connections:
                connection.close()
            for process in processes:
                process.terminate()
                process.join()


def _collect(connections: dict[Any, Chunk], waiting: list[Chunk]) -> Iterator[tuple[Chunk, Columns]]:
    """Yield what workers send and hand them the next chunks until none is left."""
    busy = set(connections)
    while busy:
        for ready in wait(list(busy)):
            done = connections[ready]
            columns = _receive(ready, done)
            if waiting:
                connections[ready] = waiting.pop()
                _send(ready, connections[ready])
            else:
                busy.remove(ready)
            yield done, columns


def _send(connection: Any, chunk: Chunk) -> None:
    try:
        connection.send(chunk)
    except OSError:
        # A worker that died is noticed, and reported, when its answer is read.
        return


def _receive(connection: Any, chunk: Chunk) -> Columns:
    try:
        message: str | dict[str, np.ndarray] = connection.recv()
    except (EOFError, OSError):
        raise XeflowError(
            f"the worker of {chunk} ended without an answer (out of memory?); what is stored stands, run "
            "the study again to go on, with fewer workers or smaller chunks if memory is short"
        ) from None
    if isinstance(message, str):
        raise XeflowError(f"{chunk} failed in its worker:\n{message}")
    return message


def _serve(work: Work, connection: Connection) -> None:
    """Work off chunks from a connection until it closes: the main function of a worker process."""
    torch.set_num_threads(1)
    keep_freed_memory()
    while True:
        try:
            chunk: Chunk = connection.recv()
        except EOFError:
            return
        try:
            connection.send({name: np.asarray(column) for name, column in work(chunk).items()})
        except Exception:  # noqa: BLE001  whatever it is, the parent raises it with its traceback
            connection.send(traceback.format_exc())


def silent(done: int, total: int) -> None:
    """Report nothing."""


def make_executor(workers: int) -> Executor:
    """Return the executor for a number of processes: this process for 1."""
    return SerialExecutor() if workers == 1 else ProcessExecutor(workers)


@dataclass(frozen=True)
class StudyPlan:
    """How a study is worked off; no part of its result.

    Attributes
    ----------
    chunk_size
        Most toys worked off, and stored, at a time.
    path
        The store; rows are kept in memory if None.
    executor
        Who works.
    progress
        Called with (toys done, toys in all), at the start and after each chunk.
    """

    chunk_size: int = 500
    path: str | Path | None = None
    executor: Executor = SerialExecutor()
    progress: Progress = silent


def run_study(
    header: StudyHeader,
    work: Work,
    n_points: int,
    n_toys: int,
    plan: StudyPlan,
) -> dict[str, np.ndarray]:
    """Work off a study and return its rows.

    Parameters
    ----------
    header
        What the study is.
    work
        Chunk -> columns; picklable where processes or a cluster execute it.
    n_points, n_toys
        Toys 0 .. n_toys - 1 at points 0 .. n_points - 1.
    plan
        Who works, in what portions, and where the rows go.

    Returns
    -------
    dict
        Column -> rows, by point and toy; more than ``n_toys`` a point where the store had more.

    Raises
    ------
    DataError
        If the file holds another study, or another process works on it.
    """
    store: Store = MemoryStore(header) if plan.path is None else FileStore(plan.path, header)
    with store.writing():
        stored = store.done()
        missing = make_chunks(n_points, n_toys, plan.chunk_size, stored)
        done = sum(c.size for c in stored)
        total = done + sum(c.size for c in missing)
        plan.progress(done, total)
        try:
            for chunk, columns in plan.executor.run(work, missing):
                store.append(chunk, columns)
                done += chunk.size
                plan.progress(done, total)
        finally:
            store.flush()
        store.finish()
        return store.read()
