"""Batched bounded second-order minimisation."""

from inference.minimize.minimum import Minimum
from inference.minimize.newton import minimise
from inference.minimize.objective import NewtonOptions, Objective
from inference.minimize.status import FitStatus

__all__ = ["FitStatus", "Minimum", "NewtonOptions", "Objective", "minimise"]
