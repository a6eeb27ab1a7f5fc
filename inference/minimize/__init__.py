"""Batched bounded second-order minimisation."""

from inference.minimize.minimum import Minimum
from inference.minimize.newton import NewtonOptions, Objective, minimise
from inference.minimize.status import FitStatus

__all__ = ["FitStatus", "Minimum", "NewtonOptions", "Objective", "minimise"]
