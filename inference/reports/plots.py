"""Figures of results; they read result records only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.interpolate import CubicHermiteSpline

from inference.reports.projections import Plane, Projection
from inference.results import Interval, ProfileCurve
from surrogate.atomic import replacing_file
from surrogate.errors import DataError
from surrogate.tick_plots import label_log_axis

#: Okabe and Ito's palette, distinct for colour-blind readers (https://jfly.uni-koeln.de/color/).
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999")
DATA = "#222222"
SUM = "#CFCFCF"

#: Fractions of a source's events that its contours contain, the outer one first.
CONTAINED = (0.9, 0.5)
#: Panels side by side in a figure of projections.
ABREAST = 3
#: Colours of sources that are drawn by lines alone; yellow is too pale for that.
SOURCES = tuple(c for c in COLOURS if c != "#F0E442")


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure, atomically; the suffix says in which format."""
    path = Path(path)
    with replacing_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix(".") or "png", dpi=150)
    return path


def plot_profile(
    curve: ProfileCurve, interval: Interval | None = None, units: Mapping[str, str] | None = None
) -> Figure:
    """Draw t(mu) with the best fit and, for an interval, critical value and ends; units of parameters are by name.

    Raises
    ------
    DataError
        If no point of the curve is defined.
    """
    figure = Figure(figsize=(5.5, 4.6), layout="constrained")
    _draw_profile(figure.subplots(), curve, interval, units)
    return figure


def _draw_profile(axes: Axes, curve: ProfileCurve, interval: Interval | None, units: Mapping[str, str] | None) -> None:
    """Draw a profile with its legend below the axes, where it hides no line."""
    x, t = curve_points(curve)
    axes.plot(x, t, color=COLOURS[4], lw=1.8)
    # the curve may come of an expansion, whose best fit is not quite that of the record
    best = (curve if interval is None else interval).best_fit.values[curve.parameter]
    axes.axvline(best, color=DATA, lw=1, ls=":", label=f"best fit {best:.4g}")
    if interval is not None:
        _draw_interval(axes, interval)
    axes.set_xlabel(parameter_label(curve.parameter, units))
    axes.set_ylabel(r"$t = 2\,[\ln L(\hat\theta) - \ln L(\hat{\hat\theta})]$")
    axes.set_ylim(0, max(1.0, 1.05 * float(t.max())))
    low, high = min(curve.grid), max(curve.grid)
    # a best fit on its bound is drawn beside the axis, not under it
    axes.set_xlim(low - 0.02 * (high - low), high)
    axes.legend(ncols=2, fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13))


def curve_points(curve: ProfileCurve, n: int = 201) -> tuple[np.ndarray, np.ndarray]:
    """Return where to draw a profile: n points of the cubics through its values and slopes, else its own points.

    Raises
    ------
    DataError
        If no point of the curve is defined.
    """
    if not (found := sorted(p for p in zip(curve.grid, curve.t, curve.slope, strict=True) if p[1] is not None)):
        raise DataError(f"profile of '{curve.parameter}': no conditional fit succeeded, there is nothing to draw")
    x, t, slope = zip(*found, strict=True)
    if None in slope or len(set(x)) < max(2, len(x)):
        return np.array(x), np.array(t)
    drawn = np.linspace(x[0], x[-1], n)
    return drawn, CubicHermiteSpline(x, t, slope)(drawn)


def _draw_interval(axes: Axes, interval: Interval) -> None:
    for end, side in ((interval.lower, "lower"), (interval.upper, "upper")):
        if end.value is not None and end.found:
            label = f"{100 * interval.confidence_level:g} % {side} limit {end.value:.4g}"
            if interval.physical is not None:
                label += f"\n{interval.physical.reference * end.value:.3g} {interval.physical.unit}"
            axes.axvline(end.value, color=COLOURS[5], lw=1.2, ls="--" if side == "upper" else "-.", label=label)
    critical = next((e.critical for e in (interval.upper, interval.lower) if e.critical is not None), None)
    if critical is not None:
        label = f"critical value {critical:.3f} ({interval.critical_values})"
        axes.axhline(critical, color=COLOURS[7], lw=1, label=label)


def _poisson_errors(counts: np.ndarray) -> np.ndarray:
    """Return lower and upper error bars (2, n): sqrt(n + 1/4) -+ 1/2, which cover 68 % (Barlow, physics/0401042)."""
    root = np.sqrt(counts + 0.25)
    return np.stack([np.where(counts > 0, root - 0.5, 0.0), root + 0.5])


def plot_projections(found: Sequence[Projection], planes: Sequence[Plane] = ()) -> Figure:
    """Draw the data of every run over the expectations of its sources: in a plane where given, and per observable.

    Raises
    ------
    DataError
        If there is nothing to draw.
    """
    if not found:
        raise DataError("projections: none were given, there is nothing to draw")
    views: list[Plane | Projection] = [*planes, *found]
    runs = [[view for view in views if view.run == run] for run in dict.fromkeys(p.run for p in found)]
    columns = min(ABREAST, max(len(of_run) for of_run in runs))
    rows = [of_run[k : k + columns] for of_run in runs for k in range(0, len(of_run), columns)]
    figure = Figure(figsize=(3.4 * max(1.5, columns), 2.9 * len(rows)))
    # room between panels, so that no label touches the panel beside it
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.06)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    colours = source_colours(found)
    for axes_row, row in zip(grid, rows, strict=True):
        for axes in axes_row[len(row) :]:
            axes.set_visible(False)
        for axes, view in zip(axes_row, row, strict=False):
            if isinstance(view, Plane):
                _draw_plane(axes, view, colours)
                axes.set_title(f"{view.run}: {len(view.events[0])} events", fontsize=10)
            else:
                _draw_projection(axes, view, colours)
                axes.set_title(f"{view.run}: {sum(view.counts):g} events", fontsize=10)
    handles: dict[str, Artist] = {}
    for axes in grid.flat:
        handles |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    handles["data"] = handles.pop("data")
    lines = math.ceil(len(handles) / (0.6 * figure.get_figwidth()))
    figure.legend(
        handles=list(handles.values()),
        labels=list(handles),
        loc="outside upper center",
        ncols=math.ceil(len(handles) / lines),
        frameon=False,
    )
    return figure


def source_colours(found: Sequence[Projection] | Sequence[Plane]) -> dict[str, str]:
    """Return a colour for every source, in order of appearance."""
    sources = dict.fromkeys(name for p in found for name in p.expected)
    return {name: SOURCES[k % len(SOURCES)] for k, name in enumerate(sources)}


def _draw_projection(axes: Axes, projection: Projection, colours: dict[str, str]) -> None:
    """Draw each source by itself and their sum; on a logarithmic scale, since rates differ by orders of magnitude."""
    edges, counts = np.array(projection.edges), np.array(projection.counts)
    total = np.sum(list(projection.expected.values()), axis=0)
    for name, values in projection.expected.items():
        if max(values) > 0:
            axes.stairs(values, edges, color=colours[name], lw=1.6, label=name, zorder=2.5, baseline=None)
    for name, values in projection.raised.items():
        axes.stairs(
            values,
            edges,
            color=colours[name],
            lw=1.4,
            ls="--",
            label=f"{name} at the upper limit",
            zorder=3,
            baseline=None,
        )
    # wide, pale and below: a source that is almost all of the sum shows within it
    axes.stairs(total, edges, color=SUM, lw=4.5, label="sum", zorder=1.5, baseline=None)
    logarithmic = projection.logarithmic and edges[0] > 0
    centres = np.sqrt(edges[1:] * edges[:-1]) if logarithmic else 0.5 * (edges[1:] + edges[:-1])
    seen = counts > 0
    axes.errorbar(
        centres[seen],
        counts[seen],
        yerr=_poisson_errors(counts[seen]),
        fmt="o",
        ms=3,
        lw=0.9,
        color=DATA,
        label="data",
        zorder=5,
    )
    top = max(1.0, float(total.max()), float(counts.max()))
    peaks = [max(v) for v in (*projection.expected.values(), *projection.raised.values()) if max(v) > 0]
    axes.set_yscale("log")
    label_log_axis(axes.yaxis)
    axes.set_ylim(max(1e-5 * top, min([0.3, *(0.1 * peak for peak in peaks)])), 2 * top)
    _scale(axes, "x", projection.edges, projection.logarithmic)
    axes.set(xlabel=_label(projection.observable, projection.unit), ylabel="events per bin")


def _draw_plane(axes: Axes, plane: Plane, colours: dict[str, str]) -> list[Line2D]:
    """Draw events over the smallest regions that contain half and 90 % of each source; return a legend's entries.

    Regions are smallest in the coordinates of the axes. A source that the best fit does without is drawn by dashed
    lines if its rate is raised, else not at all.
    """
    handles = [Line2D([], [], ls="", marker=".", ms=5, color=DATA, label=f"data: {len(plane.events[0])} events")]
    for name, count in plane.expected.items():
        raised = plane.raised.get(name)
        absent = count == 0
        if (absent and raised is None) or not np.any(plane.probability[name]):
            continue
        points, levels = contour_regions(plane, name)
        style = "--" if absent else "-"
        if not absent:
            axes.contourf(*points, levels=[levels[-1], np.inf], colors=[colours[name]], alpha=0.22)
        # A flat density has no contours.
        crossed = [(v, w) for v, w in zip(levels, (1.0, 1.8), strict=False) if points[2].min() < v < points[2].max()]
        for level, width in crossed:
            axes.contour(*points, levels=[level], colors=colours[name], linewidths=width, linestyles=style)
        label = f"{name}: {count:.3g} expected" + ("" if raised is None else f", {raised:.3g} at the upper limit")
        handles.append(Line2D([], [], color=colours[name], lw=1.8, ls=style, label=label))
    axes.plot(*plane.events, ".", ms=3, color=DATA, mew=0, zorder=5)
    _scale(axes, "x", plane.edges[0], plane.logarithmic[0])
    _scale(axes, "y", plane.edges[1], plane.logarithmic[1])
    axes.set(xlabel=_label(plane.observables[0], plane.units[0]), ylabel=_label(plane.observables[1], plane.units[1]))
    return handles


def contour_regions(plane: Plane, name: str) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], list[float]]:
    """Return x, y and the density of one source for a contour plot, and the levels of :data:`CONTAINED`."""
    centres, widths = [], []
    for edges, logarithmic in zip(plane.edges, plane.logarithmic, strict=True):
        logs = logarithmic and edges[0] > 0
        e = np.log(edges) if logs else np.array(edges)
        middle = np.concatenate([e[:1], 0.5 * (e[1:] + e[:-1]), e[-1:]])
        centres.append(np.exp(middle) if logs else middle)
        widths.append(np.diff(e))
    probability = np.array(plane.probability[name])
    density = probability / np.outer(*widths)
    order = np.argsort(-density, axis=None)
    contained = np.cumsum(probability.flat[order]) / probability.sum()
    ranked = density.flat[order]
    levels = [float(ranked[np.searchsorted(contained, c)]) for c in CONTAINED]
    if levels[0] == levels[1]:
        levels = levels[:1]
    return (centres[0], centres[1], np.pad(density, 1, mode="edge").T), levels


def plot_summary(
    planes: Sequence[Plane],
    curve: ProfileCurve,
    interval: Interval | None = None,
    units: Mapping[str, str] | None = None,
) -> Figure:
    """Draw the events of each run over its sources, and the profile of the parameter of interest to the right.

    ``units`` are those of parameters, by name.

    Raises
    ------
    DataError
        If no plane is given, or no point of the curve is defined.
    """
    if not planes:
        raise DataError("summary: no run has two observables, there is no plane to draw")
    colours = source_colours(planes)
    figure = Figure(figsize=(5.2 * (len(planes) + 1), 5.2), layout="constrained")
    *left, right = figure.subplots(1, len(planes) + 1)
    for axes, plane in zip(left, planes, strict=True):
        handles = _draw_plane(axes, plane, colours)
        axes.legend(
            handles=handles, ncols=2, fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13)
        )
        axes.set_title(f"{plane.run}: best fit, regions of 50 % and 90 % of each source", fontsize=10)
    _draw_profile(right, curve, interval, units)
    right.set_title("profile likelihood ratio", fontsize=10)
    return figure


def parameter_label(name: str, units: Mapping[str, str] | None = None) -> str:
    """Return the label of a parameter's axis, with its unit where that is known."""
    return _label(name, (units or {}).get(name, ""))


def _label(name: str, unit: str) -> str:
    return name.replace("_", " ") + (f" [{unit}]" if unit else "")


def _scale(axes: Axes, name: Literal["x", "y"], edges: Sequence[float], logarithmic: bool) -> None:
    """Set limits and, where it makes sense, a logarithmic scale with few, plain numbers."""
    if logarithmic and edges[0] > 0:
        axes.set(**{f"{name}scale": "log"})
        label_log_axis(axes.xaxis if name == "x" else axes.yaxis)
    axes.set(**{f"{name}lim": (edges[0], edges[-1])})
