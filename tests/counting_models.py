"""Small counting models with closed forms, shared by the tests of limits from toys."""

from __future__ import annotations

import torch

from inference.constraints.gaussian import GaussianConstraint, PoissonConstraint
from inference.data.dataset import DataBatch
from inference.parameters import Parameter, ParameterSet
from inference.science_run import RunSource, ScienceRun
from surrogate.binning import Binning
from surrogate.template import TemplateSource

ONE_BIN = Binning(("x",), (torch.tensor([0.0, 1.0]),))
ONE_EVENT = TemplateSource(ONE_BIN, {}, torch.tensor([1.0]))


def counting(background, constraint=None, scale=1.0, high=200.0):
    """n ~ Poisson(scale x mu + b): b known, or constrained by an ancillary measurement."""
    free = constraint is not None
    parameters = ParameterSet(
        (
            Parameter("livetime", "livetime", 1.0, fittable=False),
            Parameter("mu", "rate", 1.0, 0.0, high),
            Parameter("b", "rate", background, 0.0, 10 * background + 10, fittable=free),
        ),
        (constraint,) if free else (),
    )
    sources = (
        RunSource("signal", ONE_EVENT, "mu", {}, scale=scale),
        RunSource("background", ONE_EVENT, "b", {}),
    )
    return parameters, (ScienceRun("run", ONE_BIN.space(), sources, ("livetime",), ONE_BIN.edges),)


def on_off(background, tau):
    """n ~ Poisson(mu + b), m ~ Poisson(tau b): the model of Rolke and Lopez (arXiv:physics/0403059)."""
    return counting(background, PoissonConstraint("b", tau, background))


def gaussian_background(background, sigma):
    """n ~ Poisson(mu + b), b measured with a Gaussian error."""
    return counting(background, GaussianConstraint("b", sigma, background))


def counts(n, centres=None):
    """Return data sets with n events each, and ancillary centres (T,)."""
    n = torch.as_tensor(n)
    longest = max(1, int(n.max()))
    weights = (torch.arange(longest) < n[:, None]).to(torch.float64)
    x = torch.full((len(n), longest, 1), 0.5, dtype=torch.float64)
    given = torch.zeros(len(n), 0, dtype=torch.float64) if centres is None else torch.as_tensor(centres)[:, None]
    return DataBatch({"run": x}, {"run": weights}, given)
