"""Studies of fit pairs: toys made at some points, each fitted freely and with the parameter of interest held.

Where the toys are made and where the parameter is held are two choices. Both at mu: the Neyman construction. Made at
mu, held at zero: the power of a discovery. Made without signal, held at mu: CL_b.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inference.parameters import ParameterSet
from inference.pools.event_pool import EventPool
from inference.pools.pairs import PooledPairWork
from inference.science_run import ScienceRun, model_hash
from inference.studies.counting import Fraction, at_least, clopper_pearson
from inference.studies.storage import read_study
from inference.studies.study import StudyPlan, run_study
from inference.studies.study_record import Chunk, Columns, StudyHeader
from inference.toys.draws import draw_toys, toy_index
from inference.toys.toy_fits import UNITS, ToyFits, fit_pairs
from surrogate.errors import ConfigError

KIND = "toy_pairs"


@dataclass(frozen=True, eq=False)
class ToyPairWork:
    """Draws the toys of a chunk and fits each twice.

    Attributes
    ----------
    parameters, runs
        The model.
    poi
        The parameter of interest.
    points
        (G, P) true parameters of the toys at each point.
    tested
        (G,) where the parameter of interest is held in the conditional fit.
    seed
        Of the study.
    """

    parameters: ParameterSet
    runs: tuple[ScienceRun, ...]
    poi: str
    points: Tensor
    tested: Tensor
    seed: int

    def __call__(self, chunk: Chunk) -> Columns:
        """Return the columns of :data:`inference.toys.toy_fits.UNITS`."""
        truth = self.points[chunk.point]
        toys = draw_toys(self.parameters, self.runs, truth, toy_index(chunk.point, chunk.toys), self.seed)
        tested = self.tested[chunk.point].expand(chunk.size)
        fits = fit_pairs(self.parameters, self.runs, toys.data, self.poi, tested, truth)
        columns = {name: getattr(fits, name) for name in ToyFits.__dataclass_fields__}
        return {"point": np.full(chunk.size, chunk.point), "toy": chunk.toys.numpy(), **columns}


@dataclass(frozen=True, eq=False)
class ToyPairs:
    """Toys with their pairs of fits.

    Attributes
    ----------
    poi
        The parameter of interest.
    names
        Names of the parameters.
    points
        (G, P) true parameters.
    tested
        (G,) where the parameter of interest was held.
    point
        (N,) at which point each toy was made.
    fits
        The N pairs of fits.
    model_hash, seed
        What the toys were made of.
    """

    poi: str
    names: tuple[str, ...]
    points: np.ndarray
    tested: np.ndarray
    point: np.ndarray
    fits: ToyFits
    model_hash: str
    seed: int

    @property
    def truth(self) -> np.ndarray:
        """True values of the parameter of interest (G,)."""
        column: np.ndarray = self.points[:, self.names.index(self.poi)]
        return column

    def statistics(self, name: str = "t_mu_tilde") -> list[np.ndarray]:
        """Return the statistic of the toys at each point; NaN for a toy without valid fits."""
        values = self.fits.statistic(name)
        return [values[self.point == g] for g in range(len(self.points))]

    def tail(self, point: int, observed: float, statistic: str = "t_mu_tilde") -> Fraction:
        """Return the fraction of the toys of a point whose statistic is at least ``observed``.

        Toys without valid fits count as beyond it.
        """
        t = np.nan_to_num(self.statistics(statistic)[point], nan=np.inf)
        return clopper_pearson(int(at_least(t, observed).sum()), len(t))

    @property
    def n_refits(self) -> int:
        """How many fits were repeated."""
        return int(self.fits.refits.sum())

    @property
    def n_expanded(self) -> int:
        """Toys on expanded densities, but for where these matter."""
        return int(self.fits.expanded.sum())

    @property
    def expansion_error(self) -> float | None:
        """Largest change of -2 ln Lambda by the exact densities, over the toys examined; None without any."""
        examined = self.fits.deviation[np.isfinite(self.fits.deviation)]
        return float(examined.max()) if len(examined) else None

    @property
    def n_failed(self) -> int:
        """Toys without valid fits, after all repetitions."""
        return int((~self.fits.valid).sum())


def run_pairs(
    parameters: ParameterSet,
    runs: tuple[ScienceRun, ...],
    poi: str,
    points: Tensor,
    n_toys: int,
    seed: int,
    tested: Sequence[float] | None = None,
    plan: StudyPlan | None = None,
    pool: EventPool | None = None,
) -> ToyPairs:
    """Make toys and fit each twice.

    Parameters
    ----------
    parameters, runs
        The model.
    poi
        The parameter of interest.
    points
        (G, P) true parameters.
    n_toys
        Toys per point; those stored already are not made again.
    seed
        Of the study.
    tested
        (G,) where the parameter of interest is held; its true values if None.
    plan
        Who works, and where the rows are stored; in this process and in memory if None.
    pool
        Where the events of toys are taken from; drawn anew for every toy if None.

    Raises
    ------
    ConfigError
        If ``tested`` does not have one value per point, or the pool is of another model.
    DataError
        If the store holds another study.
    """
    held = points[:, parameters.index(poi)] if tested is None else torch.tensor(list(tested), dtype=torch.float64)
    if held.shape != (len(points),):
        raise ConfigError(f"tested: {len(held)} values of {poi} for {len(points)} points; one each is needed")
    model = model_hash(parameters, runs)
    settings = {"poi": poi, "names": list(parameters.names), "points": points.tolist(), "tested": held.tolist()}
    work: ToyPairWork | PooledPairWork = ToyPairWork(parameters, runs, poi, points, held, seed)
    if pool is not None:
        pool.require(parameters, runs)
        settings["pool"] = pool.identity
        work = PooledPairWork(pool, poi, points, held, seed)
    header = StudyHeader(KIND, model, seed, settings, UNITS)
    return _gathered(header, run_study(header, work, len(points), n_toys, plan or StudyPlan()))


def read_pairs(path: str | Path) -> ToyPairs:
    """Read toys and fits from their store, finished or not.

    Raises
    ------
    DataError
        If the file is missing, holds another kind of study, or no toys yet.
    """
    return _gathered(*read_study(path, KIND))


def _gathered(header: StudyHeader, columns: Mapping[str, np.ndarray]) -> ToyPairs:
    return ToyPairs(
        header.settings["poi"],
        tuple(header.settings["names"]),
        np.asarray(header.settings["points"], dtype=float),
        np.asarray(header.settings["tested"], dtype=float),
        columns["point"],
        ToyFits(*(columns[name] for name in ToyFits.__dataclass_fields__)),
        header.model_hash,
        header.seed,
    )
