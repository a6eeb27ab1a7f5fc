"""Toy Neyman construction: the distribution of a test statistic on a grid of the parameter of interest.

At each grid point mu_g toys are made with the nuisances at their conditional best fit to the data (the profile
construction of arXiv:2105.00599, section 2.2), or at values given, and each is fitted twice: free and with mu = mu_g.
The CL-quantile of the statistic is the critical value c(mu_g), and the interval on the data is where t(mu) <= c(mu).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inference.batch_fit import fit_batch
from inference.counting import Fraction, check_level, clopper_pearson, quantile
from inference.critical_values import CriticalCurve, Smoothing, critical_curve
from inference.likelihood import Likelihood
from inference.parameters import ParameterSet
from inference.science_run import ScienceRun, model_hash
from inference.storage import read_study
from inference.study import StudyPlan, run_study
from inference.study_record import Chunk, Columns, StudyHeader
from inference.toy_fits import UNITS, ToyFits, fit_pairs
from inference.toys import draw_toys, toy_index
from surrogate.errors import ConfigError, DataError

KIND = "neyman"


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
        """Return the columns of :data:`inference.toy_fits.UNITS`."""
        truth = self.points[chunk.point]
        toys = draw_toys(self.parameters, self.runs, truth, toy_index(chunk.point, chunk.toys), self.seed)
        tested = self.tested[chunk.point].expand(chunk.size)
        fits = fit_pairs(self.parameters, self.runs, toys.data, self.poi, tested, truth)
        columns = {name: getattr(fits, name) for name in ToyFits.__dataclass_fields__}
        return {"point": np.full(chunk.size, chunk.point), "toy": chunk.toys.numpy(), **columns}


def profiled_points(
    likelihood: Likelihood, poi: str, grid: Sequence[float], nuisances: Mapping[str, float] | None = None
) -> Tensor:
    """Return the true parameters (G, P) of the toys at each grid point.

    Parameters
    ----------
    likelihood
        The model with the data.
    poi
        The parameter of interest.
    grid
        Its values.
    nuisances
        Values of other parameters; nominal ones where not given. If None, all are at their conditional best fit.

    Raises
    ------
    ConfigError
        If the grid does not increase, or the parameter of interest is among the nuisances.
    DataError
        If a conditional fit to the data fails.
    """
    parameters = likelihood.parameters
    values = torch.tensor(list(grid), dtype=torch.float64)
    if len(values) < 1 or not bool((values.diff() > 0).all()):
        raise ConfigError(f"grid of {poi}: increasing values are needed, got {list(grid)}")
    if nuisances is not None:
        if poi in nuisances:
            raise ConfigError(f"'{poi}' is the parameter of interest; its values are the grid")
        return torch.stack([parameters.vector({**nuisances, poi: mu}) for mu in values.tolist()])
    best = fit_batch(likelihood, {poi: values})
    if not bool(best.success.all()):
        failed = [f"{mu:.4g}" for mu, ok in zip(values.tolist(), best.success.tolist(), strict=True) if not ok]
        raise DataError(
            f"the conditional fit to the data failed at {poi} = {', '.join(failed)}; give the nuisances at which toys "
            "are to be made, or another grid"
        )
    return best.values


@dataclass(frozen=True, eq=False)
class NeymanToys:
    """Toys of a construction with their fits.

    Attributes
    ----------
    poi
        The parameter of interest.
    names
        Names of the parameters.
    points
        (G, P) true parameters.
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
    point: np.ndarray
    fits: ToyFits
    model_hash: str
    seed: int

    @property
    def grid(self) -> np.ndarray:
        """Values of the parameter of interest (G,)."""
        column: np.ndarray = self.points[:, self.names.index(self.poi)]
        return column

    def statistics(self, name: str = "t_mu_tilde") -> list[np.ndarray]:
        """Return the statistic of the toys at each grid point; NaN for a toy without valid fits."""
        values = self.fits.statistic(name)
        return [values[self.point == g] for g in range(len(self.points))]

    def curve(
        self, cl: float = 0.9, statistic: str = "t_mu_tilde", smoothing: Smoothing = "polynomial"
    ) -> CriticalCurve:
        """Return the critical values c(mu) at confidence level ``cl``; toys without valid fits count as +inf."""
        samples = self.statistics(statistic)
        quantiles = [quantile(t, cl) for t in samples]
        failed = [int(np.isnan(t).sum()) for t in samples]
        return critical_curve(self.poi, statistic, cl, self.grid.tolist(), quantiles, failed, smoothing)

    def p_value(self, point: int, observed: float, statistic: str = "t_mu_tilde") -> Fraction:
        """Return the fraction of the toys of a grid point whose statistic is at least ``observed``."""
        t = np.nan_to_num(self.statistics(statistic)[point], nan=np.inf)
        return clopper_pearson(int((t >= observed).sum()), len(t))

    @property
    def n_refits(self) -> int:
        """How many fits were repeated."""
        return int(self.fits.refits.sum())

    @property
    def n_failed(self) -> int:
        """Toys without valid fits, after all repetitions."""
        return int((~self.fits.valid).sum())


def neyman_toys(
    parameters: ParameterSet,
    runs: tuple[ScienceRun, ...],
    poi: str,
    points: Tensor,
    n_toys: int,
    seed: int,
    plan: StudyPlan | None = None,
) -> NeymanToys:
    """Make and fit the toys of a construction.

    Parameters
    ----------
    parameters, runs
        The model.
    poi
        The parameter of interest.
    points
        (G, P) true parameters, from :func:`profiled_points`.
    n_toys
        Toys per point; those stored already are not made again.
    seed
        Of the study.
    plan
        Who works, and where the rows are stored; in this process and in memory if None.

    Raises
    ------
    DataError
        If the store holds another study.
    """
    tested = points[:, parameters.index(poi)]
    settings = {"poi": poi, "names": list(parameters.names), "points": points.tolist(), "tested": tested.tolist()}
    header = StudyHeader(KIND, model_hash(parameters, runs), seed, settings, UNITS)
    work = ToyPairWork(parameters, runs, poi, points, tested, seed)
    return _gathered(header, run_study(header, work, len(points), n_toys, plan or StudyPlan()))


def read_neyman(path: str | Path) -> NeymanToys:
    """Read the toys of a construction from its store, finished or not.

    Raises
    ------
    DataError
        If the file is missing, holds no construction, or no toys yet.
    """
    header, columns = read_study(path)
    if header.kind != KIND:
        raise DataError(f"'{path}' holds a study of kind '{header.kind}', not '{KIND}'")
    return _gathered(header, columns)


def _gathered(header: StudyHeader, columns: Mapping[str, np.ndarray]) -> NeymanToys:
    if not columns:
        raise DataError("the construction has no toys yet; run it first")
    fits = ToyFits(*(columns[name] for name in ToyFits.__dataclass_fields__))
    points = np.asarray(header.settings["points"], dtype=float)
    names = tuple(header.settings["names"])
    return NeymanToys(header.settings["poi"], names, points, columns["point"], fits, header.model_hash, header.seed)


def suggested_grid(low: float, high: float, n_points: int, margin: float = 0.25) -> list[float]:
    """Return equally spaced grid points that enclose where a limit may lie.

    Parameters
    ----------
    low
        Lower end of the search: the bound of the parameter, or below the asymptotic lower limit.
    high
        The asymptotic upper limit.
    n_points
        At least 2.
    margin
        How far beyond ``high`` the grid goes, as a fraction of high - low.

    Raises
    ------
    ConfigError
        If the range is empty or there are less than two points.
    """
    check_level("margin", margin)
    if not low < high or n_points < 2:
        raise ConfigError(f"grid: needs low < high and at least 2 points, got [{low}, {high}] and {n_points}")
    return np.linspace(low, high + margin * (high - low), n_points).tolist()
