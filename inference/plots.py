"""Figures of results; they read result records only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from inference.projections import Projection
from inference.results import FitResult, Interval, ProfileCurve
from surrogate.atomic import replacing_file
from surrogate.errors import DataError

#: Okabe and Ito's palette, distinct for colour-blind readers (https://jfly.uni-koeln.de/color/).
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999")
DATA = "#222222"


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure, atomically; the suffix says in which format."""
    path = Path(path)
    with replacing_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix(".") or "png", dpi=150)
    return path


def plot_profile(curve: ProfileCurve, interval: Interval | None = None) -> Figure:
    """Draw t(mu) with the best fit and, for an interval, the critical value and its ends.

    Raises
    ------
    DataError
        If no point of the curve is defined.
    """
    points = [(x, t) for x, t in zip(curve.grid, curve.t, strict=True) if t is not None]
    if not points:
        raise DataError(f"profile of '{curve.parameter}': no conditional fit succeeded, there is nothing to draw")
    figure = Figure(figsize=(5.5, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*points, strict=True), color=COLOURS[4], lw=1.8)
    best = curve.best_fit.values[curve.parameter]
    axes.axvline(best, color=DATA, lw=1, ls=":", label=f"best fit {best:.4g}")
    if interval is not None:
        _draw_interval(axes, interval)
    axes.set_xlabel(curve.parameter.replace("_", " "))
    axes.set_ylabel(r"$t = 2\,[\ln L(\hat\theta) - \ln L(\hat{\hat\theta})]$")
    axes.set_ylim(0, max(1.0, 1.05 * max(t for _, t in points)))
    axes.set_xlim(min(curve.grid), max(curve.grid))
    axes.legend(frameon=False)
    return figure


def _draw_interval(axes: Axes, interval: Interval) -> None:
    for end, side in ((interval.lower, "lower"), (interval.upper, "upper")):
        if end.value is not None and end.found:
            label = f"{100 * interval.confidence_level:g} % {side} limit {end.value:.4g}"
            axes.axvline(end.value, color=COLOURS[5], lw=1.2, ls="--" if side == "upper" else "-.", label=label)
    critical = next((e.critical for e in (interval.upper, interval.lower) if e.critical is not None), None)
    if critical is not None:
        label = f"critical value {critical:.3f} ({interval.critical_values})"
        axes.axhline(critical, color=COLOURS[7], lw=1, label=label)


def _poisson_errors(counts: np.ndarray) -> np.ndarray:
    """Return lower and upper error bars (2, n): sqrt(n + 1/4) -+ 1/2, which cover 68 % (Barlow, physics/0401042)."""
    root = np.sqrt(counts + 0.25)
    return np.stack([np.where(counts > 0, root - 0.5, 0.0), root + 0.5])


def plot_projections(found: Sequence[Projection]) -> Figure:
    """Draw the data of every run over the stacked expectations of its sources, one panel per observable.

    Raises
    ------
    DataError
        If there is nothing to draw.
    """
    if not found:
        raise DataError("projections: none were given, there is nothing to draw")
    runs = list(dict.fromkeys(p.run for p in found))
    rows = [[p for p in found if p.run == run] for run in runs]
    columns = max(len(row) for row in rows)
    figure = Figure(figsize=(3.1 * columns, 2.9 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    sources = list(dict.fromkeys(name for p in found for name in p.expected))
    colours = {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(sources)}
    for axes_row, row in zip(grid, rows, strict=True):
        for axes in axes_row[len(row) :]:
            axes.set_visible(False)
        for axes, projection in zip(axes_row, row, strict=False):
            _draw_projection(axes, projection, colours)
        axes_row[0].set_ylabel(f"{row[0].run}: events per bin")
    handles: dict[str, Artist] = {}
    for axes in grid.flat:
        handles |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    handles["data"] = handles.pop("data")
    figure.legend(
        handles=list(handles.values()),
        labels=list(handles),
        loc="outside upper center",
        ncols=len(handles),
        frameon=False,
    )
    return figure


def _draw_projection(axes: Axes, projection: Projection, colours: dict[str, str]) -> None:
    edges, counts = np.array(projection.edges), np.array(projection.counts)
    floor = np.zeros(len(counts))
    for name, values in projection.expected.items():
        top = floor + np.array(values)
        axes.stairs(top, edges, baseline=floor, fill=True, color=colours[name], alpha=0.75, lw=0, label=name)
        floor = top
    axes.stairs(floor, edges, color=DATA, lw=0.8)
    logarithmic = projection.logarithmic and edges[0] > 0
    centres = np.sqrt(edges[1:] * edges[:-1]) if logarithmic else 0.5 * (edges[1:] + edges[:-1])
    axes.errorbar(
        centres, counts, yerr=_poisson_errors(counts), fmt="o", ms=3, lw=0.9, color=DATA, label="data", zorder=5
    )
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if edges[-1] / edges[0] < 100 else (1,)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    axes.set_xlabel(projection.observable.replace("_", " ") + (f" [{projection.unit}]" if projection.unit else ""))


def plot_pulls(fit: FitResult) -> Figure:
    """Draw the pull of every constrained parameter.

    Raises
    ------
    DataError
        If the model has no constrained parameter.
    """
    if not fit.pulls:
        raise DataError("pulls: the model has no constrained parameter, there is nothing to draw")
    names = list(fit.pulls)
    figure = Figure(figsize=(5.0, 0.9 + 0.34 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(-2, 2, color="#FFDD44", alpha=0.35, lw=0)
    axes.axvspan(-1, 1, color="#55BB55", alpha=0.45, lw=0)
    axes.axvline(0, color=DATA, lw=0.8)
    for k, name in enumerate(names):
        axes.plot(fit.pulls[name], k, "o", ms=4, color=DATA)
    reach = max(2.5, *(1.3 * abs(p) for p in fit.pulls.values() if math.isfinite(p)))
    axes.set_xlim(-reach, reach)
    axes.set_yticks(range(len(names)), [n.replace("_", " ") for n in names])
    axes.invert_yaxis()
    axes.set_xlabel("pull: (best fit - centre) / width")
    return figure
