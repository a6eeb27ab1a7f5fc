"""Figures of two models side by side."""

from __future__ import annotations

from matplotlib.figure import Figure

from inference.reports.comparison import ModelComparison
from inference.reports.plots import COLOURS, DATA, curve_points, parameter_label


def plot_comparison(comparison: ModelComparison, names: tuple[str, str] = ("first", "second")) -> Figure:
    """Draw the profiles of both models with their limits, and how far the best fit of each parameter moves.

    Raises
    ------
    DataError
        If a profile has no point.
    """
    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    pairs = ((comparison.first, comparison.first_curve), (comparison.second, comparison.second_curve))
    top = 1.0
    for (interval, curve), name, colour, style in zip(pairs, names, (COLOURS[4], COLOURS[5]), ("-", "--"), strict=True):
        x, t = curve_points(curve)
        top = max(top, float(t.max()))
        ends = [(e.value, side) for e, side in ((interval.lower, "lower"), (interval.upper, "upper")) if e.found]
        limits = "".join(f"\n{100 * interval.confidence_level:g} % {side} limit {value:.4g}" for value, side in ends)
        left.plot(x, t, color=colour, ls=style, lw=1.8, label=_shown(name) + limits)
        for value, _ in ends:
            left.axvline(value or 0.0, color=colour, ls=style, lw=1.0)
    critical = comparison.first.upper.critical or comparison.first.lower.critical
    if critical is not None:
        left.axhline(critical, color=COLOURS[7], lw=1, label=f"critical value {critical:.3f}")
    left.set(ylim=(0, 1.05 * top), xlabel=parameter_label(comparison.first.parameter))
    left.set_ylabel(r"$t = 2\,[\ln L(\hat\theta) - \ln L(\hat{\hat\theta})]$")
    left.legend(fontsize=8, loc="lower right", framealpha=0.9, edgecolor="none")
    shifts = {name: shift for name, shift in comparison.shifts.items() if shift is not None}
    right.axvspan(-0.1, 0.1, color=COLOURS[7], alpha=0.25, lw=0)
    right.axvline(0, color=DATA, lw=0.8)
    right.plot(list(shifts.values()), range(len(shifts)), "o", ms=5, color=COLOURS[5])
    right.set_yticks(range(len(shifts)), [parameter_label(name) for name in shifts])
    right.invert_yaxis()
    reach = 1.2 * max(0.2, *(abs(shift) for shift in shifts.values())) if shifts else 0.25
    right.set(xlim=(-reach, reach), xlabel="shift of the best fit / error (band: 0.1)")
    return figure


def _shown(name: str) -> str:
    """Return a name as a label of a legend, which leaves out those that begin with an underscore."""
    return "\u200b" + name if name.startswith("_") else name
