"""Whether toys of a study come from a pool of expanded events, and where pools are kept."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from inference.expansion.build import expandable
from inference.expansion.density import Scored
from inference.likelihood.extended import model_breakpoints
from inference.parameters import ParameterSet
from inference.pools.builder import PoolOptions, build_pool
from inference.pools.event_pool import EventPool
from inference.pools.region import toy_region
from inference.pools.store import cached_pool
from inference.science_run import ScienceRun

#: Fewest toys for which building a pool pays.
FEWEST_TOYS = 100


def default_folder() -> Path:
    """Return where pools are kept: ``$XDG_CACHE_HOME/xeflow``, else ``~/.cache/xeflow``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xeflow"


@dataclass(frozen=True)
class PoolChoice:
    """Pools where they pay.

    Attributes
    ----------
    folder
        Where they are kept, by the hash of what they are made of; nowhere if None.
    options
        Their size and accuracy.
    """

    folder: Path | None = None
    options: PoolOptions = field(default_factory=PoolOptions)

    def pool(
        self, parameters: ParameterSet, runs: tuple[ScienceRun, ...], points: Tensor, n_toys: int
    ) -> EventPool | None:
        """Return the pool for ``n_toys`` toys at each of some parameter points (G, P), None where it does not pay.

        It does for unbinned runs with trained flows and smooth ln L, and more than a hundred toys.
        """
        dear = any(expandable(c) and isinstance(c.source, Scored) for run in runs for c in run.sources)
        binned = any(run.binned for run in runs)
        if not dear or binned or model_breakpoints(parameters, runs) or n_toys * len(points) < FEWEST_TOYS:
            return None
        region, values = toy_region(parameters, runs, points, self.options.radius)
        if self.folder is None:
            return build_pool(parameters, runs, values, region, self.options)
        self.folder.mkdir(parents=True, exist_ok=True)
        return cached_pool(self.folder, parameters, runs, values, region, self.options)
