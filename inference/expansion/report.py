"""How densities are to be expanded in theta, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

from surrogate.errors import RangeError


@dataclass(frozen=True)
class ExpansionOptions:
    """How densities are expanded.

    Parameters
    ----------
    tolerance
        Largest error of -2 ln Lambda within the region.
    most_terms
        Most coefficients per event and source; a source that would need more keeps its exact density.
    held_out
        Number of points at which the error is measured.

    Raises
    ------
    RangeError
        If a number is out of bounds.
    """

    tolerance: float = 0.01
    most_terms: int = 400
    held_out: int = 8

    def __post_init__(self) -> None:
        if not (self.tolerance > 0 and self.most_terms >= 1 and self.held_out >= 1):
            raise RangeError(
                f"expansion: tolerance = {self.tolerance} must be > 0, most_terms = {self.most_terms} and held_out = "
                f"{self.held_out} at least 1"
            )


@dataclass(frozen=True)
class SourceReport:
    """How one source of a run was expanded.

    Attributes
    ----------
    run, source
        Names.
    expanded
        Whether the polynomial is used; else the exact density is kept.
    degrees
        Along each natural coordinate.
    n_terms, n_nodes
        Coefficients per event, and theta at which densities were evaluated for them.
    largest
        Largest error of ln f of any event at any held-out point.
    effect
        What it contributes to the error of -2 ln Lambda.
    exact_above
        Part of the intensity at an event above which fits end on the exact density of the source.
    """

    run: str
    source: str
    expanded: bool
    degrees: tuple[int, ...]
    n_terms: int
    n_nodes: int
    largest: float
    effect: float
    exact_above: float = 1.0


@dataclass(frozen=True)
class ExpansionReport:
    """What an expansion cost and how exact it is.

    Attributes
    ----------
    sources
        One entry per source that could be expanded.
    error
        Largest error of -2 ln Lambda at the held-out points, relative to the centre of the region; with the exact
        densities that are wanted.
    tolerance
        What was asked for.
    n_densities
        Evaluations of a density at an event, with or without slopes.
    """

    sources: tuple[SourceReport, ...]
    error: float
    tolerance: float
    n_densities: int
