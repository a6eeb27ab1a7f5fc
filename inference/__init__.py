"""What data say about parameters: statistical models, likelihoods, fits and limits."""

from inference.batch_fit import FitOptions
from inference.constraints import (
    CorrelatedGaussianConstraint,
    GaussianConstraint,
    LogNormalConstraint,
    PoissonConstraint,
)
from inference.data import Dataset, EventData, event_data, events_from_columns
from inference.likelihood import Likelihood
from inference.model import StatisticalModel
from inference.parameters import Parameter, ParameterSet
from inference.results import FitResult, Interval, ProfileCurve
from inference.science_run import RunSource, ScienceRun
from inference.uniform_constraint import UniformConstraint

__all__ = [
    "CorrelatedGaussianConstraint",
    "Dataset",
    "EventData",
    "FitOptions",
    "FitResult",
    "GaussianConstraint",
    "Interval",
    "Likelihood",
    "LogNormalConstraint",
    "Parameter",
    "ParameterSet",
    "PoissonConstraint",
    "ProfileCurve",
    "RunSource",
    "ScienceRun",
    "StatisticalModel",
    "UniformConstraint",
    "event_data",
    "events_from_columns",
]
