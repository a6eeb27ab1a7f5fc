"""The figure of pulls: what a fit makes of what was known before."""

from __future__ import annotations

import math

from matplotlib.figure import Figure

from inference.reports.plots import DATA
from inference.results import FitResult
from surrogate.errors import DataError


def plot_pulls(fit: FitResult) -> Figure:
    """Draw the pull of every constrained parameter with its error after the fit, over the widths of ancillary terms.

    Raises
    ------
    DataError
        If the model has no constrained parameter.
    """
    if not fit.pulls:
        raise DataError("pulls: the model has no constrained parameter, there is nothing to draw")
    names = list(fit.pulls)
    figure = Figure(figsize=(5.0, 1.4 + 0.34 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(-2, 2, color="#FFDD44", alpha=0.35, lw=0, label=r"before the fit: $\pm 2\sigma$")
    axes.axvspan(-1, 1, color="#55BB55", alpha=0.45, lw=0, label=r"before the fit: $\pm 1\sigma$")
    axes.axvline(0, color=DATA, lw=0.8)
    errors = {name: fit.pull_errors.get(name) for name in names}
    for known, fill, label in ((True, DATA, "best fit"), (False, "white", "held, or at a bound")):
        rows = [k for k, name in enumerate(names) if (errors[name] is not None) == known]
        if rows:
            bars = [errors[names[k]] or 0.0 for k in rows] if known else None
            pulls = [fit.pulls[names[k]] for k in rows]
            axes.errorbar(pulls, rows, xerr=bars, fmt="o", ms=4, mfc=fill, color=DATA, capsize=2, label=label)
    ends = [abs(fit.pulls[name]) + (errors[name] or 0.0) for name in names]
    reach = max(2.5, *(1.15 * end for end in ends if math.isfinite(end)))
    axes.set_xlim(-reach, reach)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(r"(value $-$ centre) / $\sigma$ of the ancillary term")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return figure
