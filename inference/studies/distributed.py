"""Studies on a cluster, through Dask: the same chunks, worked off by the workers of a ``distributed.Client``.

Needs the extra ``xeflow[cluster]``. The work (model and settings) is sent to each worker once; chunks are small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from distributed import Client, as_completed

from inference.studies.study import Work
from inference.studies.study_record import Chunk, Columns


@dataclass(frozen=True, eq=False)
class DaskExecutor:
    """Works on a Dask cluster.

    Parameters
    ----------
    client
        Connected to the scheduler; make its workers with one thread each.
    in_flight
        Most chunks that are scheduled at a time, per worker thread.
    """

    client: Client
    in_flight: int = 3

    def run(self, work: Work, chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, Columns]]:
        """Yield every chunk with its columns, in the order in which they are done; an error of a chunk is raised."""
        shared = self.client.scatter(work, broadcast=True, hash=False)
        waiting = list(reversed(chunks))
        width = max(1, self.in_flight * sum(self.client.nthreads().values()))
        first = [self._submit(shared, waiting.pop()) for _ in range(min(width, len(waiting)))]
        running = as_completed(first)
        for future in running:
            chunk, columns = future.result()
            if waiting:
                running.add(self._submit(shared, waiting.pop()))
            yield chunk, columns

    def _submit(self, shared: object, chunk: Chunk) -> object:
        return self.client.submit(_worked_off, shared, chunk, pure=False)


def _worked_off(work: Work, chunk: Chunk) -> tuple[Chunk, Columns]:
    """Return a chunk with its columns as arrays."""
    return chunk, {name: np.asarray(column) for name, column in work(chunk).items()}
