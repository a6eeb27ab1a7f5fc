"""Figures of simulated events: projections, bands, efficiencies, and the comparison with references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from surrogate.errors import DataError, unknown_name
from surrogate.observables import Observable
from surrogate.tick_plots import label_log_axis
from training.events import EventFile
from training.simulator_validation import SimulatorReport

Array = NDArray[np.float64]

BINS = 80
QUANTILES = (0.1, 0.5, 0.9)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Distinguishable with colour-blind vision (Okabe and Ito)."""


def _label(observable: Observable) -> str:
    return f"{observable.name} [{observable.unit}]" if observable.unit else observable.name


def _edges(observable: Observable, bins: int = BINS) -> Array:
    """Return edges that are uniform in the scale of the observable."""
    u = torch.linspace(0.0, 1.0, bins + 1, dtype=torch.float64)
    return observable.from_unit(u).numpy()


def _some(file: EventFile, limit: int) -> Array:
    """Return the first events of a file; blocks are in random order of theta, so they are a fair sample."""
    return file.read(0, min(limit, file.n_events)).x.astype(np.float64)


def _scale(axes: Axes, observable: Observable, which: str) -> None:
    if observable.scale == "log" and observable.low > 0:
        axes.set(**{f"{which}scale": "log"})
        label_log_axis(axes.xaxis if which == "x" else axes.yaxis)
    axes.set(**{f"{which}lim": (observable.low, observable.high)})


def plot_projections(file: EventFile, limit: int = 1_000_000) -> Figure:
    """Draw all one- and two-dimensional projections of the events of a file, averaged over its thetas.

    Raises
    ------
    DataError
        If the file holds no events.
    """
    if file.n_events == 0:
        raise DataError(f"event file {file.path}: it holds no events to draw")
    x, observables = _some(file, limit), file.observables.observables
    d = len(observables)
    figure = Figure(figsize=(2.6 * d + 0.8, 2.6 * d), layout="constrained")
    axes = figure.subplots(d, d, squeeze=False)
    for k, o in enumerate(observables):
        axes[k, k].hist(x[:, k], bins=_edges(o), histtype="step", color=COLOURS[0])
        axes[k, k].set_yticks([])
        _scale(axes[k, k], o, "x")
    for first, second in combinations(range(d), 2):
        panel, horizontal, vertical = axes[second, first], observables[first], observables[second]
        edges = [_edges(horizontal), _edges(vertical)]
        panel.hist2d(x[:, first], x[:, second], bins=edges, norm=LogNorm(), cmap="viridis", rasterized=True)
        _scale(panel, horizontal, "x")
        _scale(panel, vertical, "y")
        axes[first, second].set_visible(False)
    for k, o in enumerate(observables):
        axes[d - 1, k].set_xlabel(_label(o))
        if k > 0:
            axes[k, 0].set_ylabel(_label(o))
    figure.suptitle(f"{file.metadata.get('source', {}).get('name', file.path.name)}: {len(x)} events")
    return figure


def band(x: Array, y: Array, edges: Array, quantiles: Sequence[float] = QUANTILES) -> Array:
    """Return the quantiles of y in bins of x: (bins, quantiles), NaN where a bin has fewer than 50 events."""
    which = np.digitize(x, edges) - 1
    found = np.full((len(edges) - 1, len(quantiles)), np.nan)
    for k in range(len(edges) - 1):
        inside = y[which == k]
        if len(inside) >= 50:
            found[k] = np.quantile(inside, quantiles)
    return found


def plot_bands(files: Mapping[str, EventFile], limit: int = 1_000_000) -> Figure:
    """Draw cs2 against cs1: events and the 10, 50 and 90 % lines of each file, named by its key.

    Raises
    ------
    DataError
        If a file has no cs1 or no cs2.
    """
    figure = Figure(figsize=(7.0, 5.0), layout="constrained")
    axes = figure.subplots()
    for (name, file), colour in zip(files.items(), COLOURS * len(files), strict=False):
        names = file.observables.names
        for wanted in ("cs1", "cs2"):
            if wanted not in names:
                raise DataError(unknown_name("observable", wanted, names, str(file.path)))
        cs1, cs2 = (file.observables.observables[names.index(n)] for n in ("cs1", "cs2"))
        x = _some(file, limit)
        s1, s2 = x[:, names.index("cs1")], x[:, names.index("cs2")]
        axes.plot(s1[:4000], s2[:4000], ".", ms=1.2, color=colour, alpha=0.35, rasterized=True)
        edges = _edges(cs1, 30)
        centres, lines = (edges[1:] + edges[:-1]) / 2, band(s1, s2, edges)
        for k, q in enumerate(QUANTILES):
            style, label = ("-", f"{name}: 10, 50, 90 %") if q == 0.5 else ("--", None)
            axes.plot(centres, lines[:, k], style, color=colour, lw=1.6, label=label)
        _scale(axes, cs1, "x")
        _scale(axes, cs2, "y")
        axes.set(xlabel=_label(cs1), ylabel=_label(cs2))
    axes.legend(loc="lower right")
    return figure


def plot_efficiency(energies: Tensor, curves: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """Draw kept events per recoil in the fiducial volume against energy, keV.

    Parameters
    ----------
    energies
        (m,), keV.
    curves
        Name -> efficiency and standard error (:func:`training.simulator.simulate.efficiency`), each (m,).
    """
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axes = figure.subplots()
    for (name, (kept, error)), colour in zip(curves.items(), COLOURS * len(curves), strict=False):
        axes.plot(energies, kept, color=colour, label=name)
        axes.fill_between(energies, kept - error, kept + error, color=colour, alpha=0.3, lw=0)
    axes.set(
        xscale="log",
        xlabel="recoil energy [keV]",
        ylabel="kept events per recoil in the fiducial volume",
        ylim=(0, None),
    )
    label_log_axis(axes.xaxis)
    axes.legend()
    return figure


def plot_report(report: SimulatorReport) -> Figure:
    """Draw every comparison with its references: difference over tolerance, with standard errors.

    One line per kind of quantity; the shaded range is within tolerance.
    """
    groups: dict[str, list[tuple[float, float]]] = {}
    for c in report.comparisons:
        point = c.difference / c.tolerance, c.error / c.tolerance
        groups.setdefault(kind_of(c.what), []).append(point)
    figure = Figure(figsize=(7.0, 0.5 * len(groups) + 1.5), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(-1, 1, color="0.92")
    for row, points in enumerate(groups.values()):
        values, errors = np.array(points).T
        offsets = row + np.linspace(-0.3, 0.3, len(values))
        axes.errorbar(values, offsets, xerr=errors, fmt=".", ms=4, lw=0.6, color=COLOURS[row % len(COLOURS)])
    axes.set(xlabel="(simulator - reference) / tolerance", yticks=range(len(groups)), yticklabels=list(groups))
    axes.invert_yaxis()
    return figure


def kind_of(what: str) -> str:
    """Return the kind of quantity of a comparison, such as ``mean photons`` or ``cs2 quantiles``."""
    known = ("mean photons", "mean electrons", "<photons>", "<electrons>", "std", "correlation", "S1 efficiency")
    for name in known:
        if name in what:
            return name
    return "8B rate" if what.startswith("8B") else "cs2 quantiles"
