"""The figure of a scan: limits against mass in the usual green and yellow, and the local significance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import special

from inference.reports.plots import COLOURS, DATA, parameter_label
from inference.reports.scan import LimitScan
from inference.reports.study_plots import GREEN, ON_BANDS, YELLOW, band_value
from surrogate.tick_plots import label_log_axis

#: Ratio of the ends of a scan above which its axis is logarithmic.
WIDE = 5.0


def plot_scan(scan: LimitScan, ylabel: str | None = None, factor: float | None = None) -> Figure:
    """Draw the limits of a scan, with the bands of background-only toys, over the local significance.

    Parameters
    ----------
    scan
        The record.
    ylabel
        What is drawn; by default what the parameter of interest stands for, if its unit says so, else itself.
    factor
        From the parameter of interest to that, such as the cross section that a rate multiplier of 1 stands for.
    """
    first = scan.points[0].interval
    if ylabel is None:
        ylabel = parameter_label(first.parameter) if first.physical is None else f"limit [{first.physical.unit}]"
    if factor is None:
        factor = 1.0 if first.physical is None else first.physical.reference
    figure = Figure(figsize=(6.0, 5.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    x = np.array([p.value for p in scan.points])
    bands = [p.band for p in scan.points if p.band is not None]
    if len(bands) == len(x):
        rows = {s: factor * np.array([band_value(band, s) for band in bands]) for s in (-2.0, -1.0, 0.0, 1.0, 2.0)}
        _draw_band(above, x, rows[-2.0], rows[2.0], YELLOW, r"expected $\pm 2\sigma$")
        _draw_band(above, x, rows[-1.0], rows[1.0], GREEN, r"expected $\pm 1\sigma$")
        above.plot(x, rows[0.0], color=DATA, ls="--", lw=1.2, marker="_", label="median expected")
    ends = [("upper limit", DATA, "-", [p.interval.upper.value for p in scan.points])]
    ends += [("lower limit", COLOURS[5], "-", [p.interval.lower.value for p in scan.points])]
    ends += [("power-constrained", COLOURS[4], ":", [p.constrained for p in scan.points])]
    for label, colour, style, values in ends:
        _draw_line(above, x, values, factor, colour, style, label)
    above.set_yscale("log")
    label_log_axis(above.yaxis)
    above.set_ylabel(ylabel)
    above.legend(**ON_BANDS, title=f"{100 * first.confidence_level:g} % ({first.critical_values})")
    _draw_significance(below, x, scan)
    if x[0] > 0 and x[-1] / x[0] > WIDE:
        below.set_xscale("log")
        label_log_axis(below.xaxis)
    below.set_xlabel(parameter_label(scan.scanned, {scan.scanned: scan.unit}))
    return figure


def _draw_line(
    axes: Axes, x: np.ndarray, values: Sequence[float | None], factor: float, colour: str, style: str, label: str
) -> None:
    """Draw the values that exist."""
    y = np.array([np.nan if v is None else factor * v for v in values])
    if np.isfinite(y).any():
        axes.plot(x, y, color=colour, ls=style, lw=1.6, marker="o", ms=4, label=label)


def _draw_band(axes: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str, label: str) -> None:
    """Draw a band; one that ends at infinity ends at the top of the axis."""
    top = np.where(np.isfinite(high), high, 10 * np.nanmax(np.where(np.isfinite(high), high, low)))
    if len(x) > 1:
        axes.fill_between(x, low, top, color=colour, lw=0, label=label)
    else:
        axes.errorbar(x, (low + top) / 2, yerr=(top - low) / 2, color=colour, lw=12, label=label)


def _draw_significance(axes: Axes, x: np.ndarray, scan: LimitScan) -> None:
    """Draw the local significance of each point, and say what the largest is worth over the scan."""
    local = np.array([np.nan if p.p0 is None else max(0.0, -special.ndtri(p.p0)) for p in scan.points])
    axes.plot(x, local, color=DATA, lw=1.2, marker="o", ms=3)
    axes.set_ylim(0, max(2.0, 1.3 * float(np.nan_to_num(local).max())))
    axes.set_ylabel("local Z")
    if scan.significance is not None:
        found = scan.significance
        text = f"global p = {found.p_toys.value:.3g} [{found.p_toys.low:.3g}, {found.p_toys.high:.3g}]"
        axes.annotate(text, (0.98, 0.92), xycoords="axes fraction", ha="right", va="top", fontsize=9)
