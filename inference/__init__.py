"""What data say about parameters: statistical models, likelihoods, fits and limits."""

from inference.batch_fit import FitOptions
from inference.constraints import (
    CorrelatedGaussianConstraint,
    GaussianConstraint,
    LogNormalConstraint,
    PoissonConstraint,
)
from inference.data import Dataset, EventData, event_data, events_from_columns
from inference.intervals import confidence_interval
from inference.likelihood import Likelihood
from inference.model import StatisticalModel
from inference.neyman import neyman_interval, profiled_points
from inference.parameters import Parameter, ParameterSet
from inference.profile import profile_curve, profile_errors
from inference.results import FitResult, Interval, ProfileCurve
from inference.science_run import RunSource, ScienceRun
from inference.study import StudyPlan
from inference.toy_pairs import run_pairs
from inference.toys import draw_toys
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
    "StudyPlan",
    "UniformConstraint",
    "confidence_interval",
    "draw_toys",
    "event_data",
    "events_from_columns",
    "neyman_interval",
    "profile_curve",
    "profile_errors",
    "profiled_points",
    "run_pairs",
]
