"""Numbers along logarithmic axes of figures: as many as there is room for, and no more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from matplotlib.axis import Axis, XAxis
from matplotlib.ticker import Formatter, LogLocator, MaxNLocator, NullFormatter

#: Multiples of powers of ten that are tried, the densest first.
MULTIPLES: tuple[tuple[float, ...], ...] = ((1, 2, 5), (1, 3), (1,))
#: Width of a character, and height of a line with some room, in units of the font size.
CHARACTER, LINE = 0.65, 1.6


def label_log_axis(axis: Axis) -> None:
    """Label a logarithmic axis with numbers that do not overlap, those of few decades at 2 and 5, or 3, as well."""
    axis.set_major_locator(RoomyLogLocator())
    axis.set_major_formatter(PlainNumbers())
    axis.set_minor_formatter(NullFormatter())


class PlainNumbers(Formatter):
    """Numbers as they are, and as powers of ten where they are very large or small."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Return a number as text."""
        if x <= 0 or 0.999e-3 < x < 0.999e5:
            return f"{x:.6g}"
        mantissa, exponent = f"{x:.3e}".split("e")
        power = f"10^{{{int(exponent)}}}"
        factor = f"{float(mantissa):g}"
        return f"${power}$" if factor == "1" else rf"${factor}\times{power}$"


class RoomyLogLocator(LogLocator):
    """Ticks at the densest of MULTIPLES whose numbers have room; equidistant ones where few of those are in range."""

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        """Return where ticks are between two values."""
        low, high = sorted((float(vmin), float(vmax)))
        if not 0 < low < high < math.inf:
            return [float(t) for t in super().tick_values(vmin, vmax)]
        for multiples in MULTIPLES:
            ticks = _multiples(low, high, multiples)
            if len(ticks) >= 2 and self._fits(ticks, low, high):
                return ticks
        if high / low < 10:
            return [float(t) for t in MaxNLocator(3, steps=[1, 2, 5, 10]).tick_values(low, high)]
        return [float(t) for t in super().tick_values(vmin, vmax)]

    def _fits(self, ticks: Sequence[float], low: float, high: float) -> bool:
        """Return whether the numbers of neighbouring ticks stay apart, by the length of the axis."""
        axis = self.axis
        figure = axis.get_figure() if isinstance(axis, Axis) else None
        if not isinstance(axis, Axis) or figure is None:
            return len(ticks) <= 5
        box = axis.axes.get_window_extent()
        horizontal = isinstance(axis, XAxis)
        font = axis.get_major_ticks(1)[0].label1.get_fontproperties().get_size_in_points() * figure.dpi / 72
        per_decade = (box.width if horizontal else box.height) / math.log10(high / low) / font
        number = PlainNumbers()
        sizes = [CHARACTER * (_length(number(t)) + 1) if horizontal else LINE for t in ticks]
        gaps = [per_decade * math.log10(b / a) for a, b in pairwise(ticks)]
        return all(gap > (a + b) / 2 for gap, (a, b) in zip(gaps, pairwise(sizes), strict=True))


def _multiples(low: float, high: float, multiples: Sequence[float]) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [float(f"{m:g}e{k}") for k in powers for m in multiples]
    return [t for t in found if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]


def _length(text: str) -> float:
    """Return the length of a number in characters, those of exponents being smaller."""
    plain = text.replace(r"\times", "x").translate(str.maketrans("", "", "${}"))
    head, _, tail = plain.partition("^")
    return len(head) + 0.7 * len(tail)
