"""Where fits to toys end: the region in which an event pool is expanded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from inference.data.dataset import DataBatch
from inference.expansion.build import expandable, shape_parameters
from inference.expansion.density import ScoreDensity
from inference.expansion.region import Region
from inference.fits.fitter import typical_sizes
from inference.likelihood.extended import Likelihood, surrogate_bounds
from inference.parameters import ParameterSet
from inference.science_run import ScienceRun, expected_counts, theta_of

#: Events of each source by which the information of a toy is estimated, and their seed.
SAMPLE, SAMPLE_SEED = 400, 5
#: Standard deviation, in typical sizes, of a parameter that neither events nor an ancillary term constrain.
UNCONSTRAINED = 3.0
#: The same of a parameter that is not fitted.
HELD = 0.01
#: Standard deviations of its estimate that a rate is taken to have at least: fits to toys without signal find some, and
#: densities that count nothing at the truth must be right there.
FOUND = 2.0


def expected_covariance(parameters: ParameterSet, runs: Sequence[ScienceRun], values: Tensor) -> Tensor:
    """Return the covariance (P, P) of estimates from toys at values (P,), small for parameters that are not fitted.

    From the expected information, the mean of the outer product of the scores; densities need no Hessian for that.
    """
    x, weights, densities = {}, {}, {}
    for run in runs:
        expected = expected_counts(parameters, run, values.unsqueeze(0))[0]
        samples = []
        for c in run.sources:
            generator = torch.Generator().manual_seed(SAMPLE_SEED)
            theta = theta_of(parameters, c, values.unsqueeze(0))[0]
            samples.append(c.source.sample(SAMPLE, theta, generator).to(torch.float64))
        x[run.name] = torch.cat(samples).unsqueeze(0)
        weights[run.name] = (expected / SAMPLE).repeat_interleave(SAMPLE).unsqueeze(0)
        densities[run.name] = {c.name: ScoreDensity(c.source, x[run.name]) for c in run.sources if expandable(c)}
    data = DataBatch(x, weights, parameters.nominal_centres().unsqueeze(0))
    _, _, hessian = Likelihood(parameters, runs, data, densities).derivatives(values.unsqueeze(0))
    free = torch.tensor([p.fittable for p in parameters.parameters])
    size = typical_sizes(parameters)
    information = -hessian[0] + torch.diag((UNCONSTRAINED * size).reciprocal().square())
    scale = torch.outer(size, size)[free][:, free]
    covariance = torch.diag((HELD * size).square())
    covariance[free.nonzero(), free.nonzero().T] = torch.linalg.inv(information[free][:, free] * scale) * scale
    return covariance


def toy_region(
    parameters: ParameterSet, runs: Sequence[ScienceRun], points: Tensor, radius: float
) -> tuple[Region, Tensor]:
    """Return the region that holds the fits to toys made at some points, and the parameters to draw a pool at.

    Parameters
    ----------
    parameters, runs
        The model.
    points
        (G, P) true parameters.
    radius
        Standard deviations beyond them.

    Returns
    -------
    tuple
        The region, and values (P,): its centre, with every rate as high as at the highest point, and as fits to toys
        find it where that is nearly zero.
    """
    names = shape_parameters(parameters, runs)
    index = [parameters.index(name) for name in names]
    rate = torch.tensor([p.kind == "rate" for p in parameters.parameters])
    middle = 0.5 * (points.amin(dim=0) + points.amax(dim=0))
    low, high = (bound[index] for bound in surrogate_bounds(parameters, runs))
    expected = [
        expected_covariance(parameters, runs, torch.where(rate, end, middle))
        for end in (points.amin(dim=0), points.amax(dim=0))
    ]
    least = FOUND * expected[-1].diagonal().sqrt()
    values = torch.where(rate, torch.maximum(points.amax(dim=0), least).minimum(parameters.upper), middle)
    found = [v[index][:, index] for v in expected]
    covariance = max(found, key=lambda v: float(torch.logdet(v)))
    region = Region(names, values[index], covariance, radius, low, high)
    reach = float(region.distance(points[:, index]).max())
    return Region(names, values[index], covariance, radius + reach, low, high), values
