"""What data say about parameters: statistical models, likelihoods, fits and limits."""

from inference.constraints.gaussian import (
    CorrelatedGaussianConstraint,
    GaussianConstraint,
    LogNormalConstraint,
    PoissonConstraint,
)
from inference.constraints.uniform import UniformConstraint
from inference.data.dataset import Dataset, EventData, event_data, events_from_columns
from inference.fits.batch_fit import FitOptions
from inference.intervals.confidence import confidence_interval
from inference.likelihood.extended import Likelihood
from inference.model import StatisticalModel
from inference.parameters import Parameter, ParameterSet
from inference.pools.choice import PoolChoice
from inference.profiles.profile import profile_curve, profile_errors
from inference.results import FitResult, Interval, ProfileCurve
from inference.science_run import RunSource, ScienceRun
from inference.studies.neyman import neyman_interval, profiled_points
from inference.studies.study import ProcessExecutor, StudyPlan
from inference.studies.toy_pairs import run_pairs
from inference.toy_studies import ToySettings
from inference.toys.draws import draw_toys

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
    "PoolChoice",
    "ProcessExecutor",
    "ProfileCurve",
    "RunSource",
    "ScienceRun",
    "StatisticalModel",
    "StudyPlan",
    "ToySettings",
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
