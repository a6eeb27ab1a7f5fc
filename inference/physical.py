"""Intervals in what a parameter stands for: the cross-section behind a rate multiplier."""

from __future__ import annotations

from dataclasses import dataclass

from inference.parameters import Parameter
from inference.record import Record, number


@dataclass(frozen=True)
class PhysicalInterval(Record):
    """The ends of an interval in what the parameter stands for, such as a cross-section.

    Attributes
    ----------
    reference, unit
        What a parameter of 1 stands for.
    lower, upper
        The ends; None where there is none.
    """

    reference: float
    unit: str
    lower: float | None
    upper: float | None

    def text(self, end: float | None) -> str:
        """Return an end for people, in parentheses behind that of the parameter; nothing where there is none."""
        return "" if end is None else f" ({end:.4g} {self.unit})"


def physical_interval(parameter: Parameter, lower: float | None, upper: float | None) -> PhysicalInterval | None:
    """Return the ends of an interval in what the parameter stands for; None where its unit does not say."""
    if parameter.reference is None:
        return None
    size, unit = parameter.reference
    ends = [None if end is None else number(size * end) for end in (lower, upper)]
    return PhysicalInterval(size, unit, *ends)
