"""The corner plot: profile likelihoods of parameters and of their pairs, with contours of 68 % and 90 %."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import special

from inference.profiles.corner import Corner, ProfilePlane
from inference.reports.plots import COLOURS, DATA, curve_points, parameter_label
from inference.results import ProfileCurve

#: Confidence levels of contours, for two parameters, and of the lines across profiles, for one.
LEVELS = (0.6827, 0.9)


def plot_corner(corner: Corner, units: Mapping[str, str] | None = None) -> Figure:
    """Draw the profile of every parameter on the diagonal and the contours of every pair below it.

    ``units`` are those of parameters, by name.
    """
    names = [curve.parameter for curve in corner.curves]
    n = len(names)
    figure = Figure(figsize=(2.2 * n + 0.6, 2.2 * n + 0.4), layout="constrained")
    grid = figure.subplots(n, n, squeeze=False)
    for axes in grid[np.triu_indices(n, 1)]:
        axes.set_visible(False)
    for k, curve in enumerate(corner.curves):
        _draw_curve(grid[k, k], curve)
    for plane in corner.planes:
        column, row = names.index(plane.x), names.index(plane.y)
        _draw_plane(grid[row, column], plane, corner.best_fit.values)
    for k, name in enumerate(names):
        label = parameter_label(name, units).replace(" [", "\n[")
        grid[n - 1, k].set_xlabel(label)
        if k:
            grid[k, 0].set_ylabel(label)
    for row in range(n):
        for column in range(row + 1):
            if row < n - 1:
                grid[row, column].tick_params(labelbottom=False)
            if 0 < column < row:
                grid[row, column].tick_params(labelleft=False)
    figure.legend(*grid[n - 1, 0].get_legend_handles_labels(), loc="outside upper right", frameon=False)
    return figure


def _draw_curve(axes: Axes, curve: ProfileCurve) -> None:
    """Draw t of one parameter, with the values that bound its intervals."""
    axes.plot(*curve_points(curve), color=COLOURS[4], lw=1.6)
    for level in LEVELS:
        axes.axhline(float(special.chdtri(1, 1 - level)), color=COLOURS[7], lw=0.8)
    axes.axvline(curve.best_fit.values[curve.parameter], color=DATA, lw=0.8, ls=":")
    axes.set_xlim(curve.grid[0], curve.grid[-1])
    axes.set_ylim(0, 9)
    axes.yaxis.tick_right()
    axes.set_title("t", fontsize=9, loc="right")


def _draw_plane(axes: Axes, plane: ProfilePlane, best: dict[str, float]) -> None:
    """Draw the contours of two parameters, where t has risen by the chi-square quantiles for two."""
    t = np.ma.masked_invalid(np.array(plane.t, dtype=float).T)
    levels = [float(special.chdtri(2, 1 - level)) for level in LEVELS]
    axes.contourf(plane.x_grid, plane.y_grid, t, levels=[-np.inf, *levels], colors=["#0072B2", "#9BC7E3"])
    axes.contour(plane.x_grid, plane.y_grid, t, levels=levels, colors=DATA, linewidths=0.8)
    axes.plot([best[plane.x]], [best[plane.y]], ls="", marker="+", color=DATA, ms=7, clip_on=False, label="best fit")
    for level, colour in zip(LEVELS, ("#0072B2", "#9BC7E3"), strict=True):
        axes.fill([], [], color=colour, label=f"{100 * level:.0f} %")
    axes.set_xlim(plane.x_grid[0], plane.x_grid[-1])
    axes.set_ylim(plane.y_grid[0], plane.y_grid[-1])
