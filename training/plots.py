"""Figures of trainings and validations; they read only records and measurements."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from surrogate.atomic import replacing_file
from surrogate.observables import ObservableSpace
from surrogate.tick_plots import label_log_axis
from training.event_set import UnitEvents
from training.history import History
from training.validation import Measurements

FRESH, DRAWN = "#222222", "#D55E00"
THETA_COLOURS = ("#0072B2", "#009E73", "#D55E00")
IN_CELLS = "means of three cells of theta"


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure, atomically, and return the path; the suffix says in which format."""
    with replacing_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix(".") or "png", dpi=130)
    return path


def plot_training(history: History, title: str) -> Figure:
    """Draw the training curve: training and held-out NLL above the best, and the learning rate, against steps."""
    checks, best = history.checks, history.best
    steps = [c.step for c in checks]
    figure = Figure(figsize=(7.0, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    floor = 1e-2 * best.held_out_error
    held_out = [max(c.held_out_nll - best.held_out_nll, floor) for c in checks]
    upper.plot(steps, held_out, color=DRAWN, label="held out, averaged weights")
    training = [max(c.train_nll - best.held_out_nll, floor) for c in checks]
    upper.plot(steps, training, color=FRESH, lw=0.8, alpha=0.7, label="training, weights of each step (other events)")
    upper.axvline(best.step, color="0.5", lw=0.8, ls=":", label=f"best: {best.held_out_nll:.5f}")
    upper.set_yscale("log")
    label_log_axis(upper.yaxis)
    upper.set_ylabel("NLL per event above the best [nat]")
    upper.legend(fontsize=8)
    upper.set_title(f"{title}: {history.stopped or 'running'}")
    lower.plot(steps, [c.learning_rate for c in checks], color="0.3")
    lower.set_ylabel("learning rate")
    lower.set_xlabel("step")
    return figure


def validation_figures(
    measured: Measurements, space: ObservableSpace, nuisances: tuple[str, ...], allowed: float
) -> dict[str, Figure]:
    """Return the figures of a validation by name; ``allowed`` is the threshold of the score bias."""
    figures = {
        "marginals": plot_marginals(measured, space, nuisances),
        "projections": plot_projections(measured, space),
        "integral_transforms": plot_integral_transforms(measured),
        "classifier": plot_classifier(measured),
    }
    if space.dim > 1:
        figures["bands"] = plot_bands(measured, space, nuisances)
    if nuisances:
        figures["score_bias"] = plot_score_bias(measured, nuisances, allowed)
        figures["rate"] = plot_rate(measured, nuisances)
    return figures


def plot_marginals(measured: Measurements, space: ObservableSpace, nuisances: tuple[str, ...]) -> Figure:
    """Draw the marginal of each observable at three cells of theta, fresh events over the surrogate's, with ratios."""
    figure = Figure(figsize=(3.6 * space.dim, 5.0), layout="constrained")
    axes = figure.subplots(2, space.dim, sharex="col", height_ratios=(2, 1), squeeze=False)
    edges = np.linspace(0, 1, 41)
    for colour, cell in zip(THETA_COLOURS, _three_cells(measured), strict=False):
        fresh, drawn = _in_cell(measured, cell)
        axes[0, 0].stairs([], [0], color=colour, label=_mean_theta(fresh, nuisances))
        for d, observable in enumerate(space.observables):
            a, b = (np.histogram(e.u[:, d].numpy(), edges)[0] for e in (fresh, drawn))
            x = observable.from_unit(torch.from_numpy(edges)).numpy()
            share = b * (len(fresh.u) / len(drawn.u))
            axes[0, d].stairs(share, x, color=colour)
            centre = (x[1:] + x[:-1]) / 2
            axes[0, d].errorbar(centre, a, np.sqrt(a), fmt=".", ms=3, lw=0.8, color=colour)
            few = np.maximum(share, 1)
            error = np.sqrt(a + share * len(fresh.u) / len(drawn.u)) / few
            axes[1, d].errorbar(centre, a / few, error, fmt=".", ms=3, lw=0.8, color=colour)
    for d, observable in enumerate(space.observables):
        axes[0, d].set_ylim(bottom=0)
        axes[1, d].axhline(1, color="0.5", lw=0.8)
        axes[1, d].set_ylim(0.85, 1.15)
        axes[1, d].set_xlabel(_label(observable.name, observable.unit))
        if observable.scale == "log":
            axes[1, d].set_xscale("log")
            label_log_axis(axes[1, d].xaxis)
    axes[0, 0].set_ylabel("events")
    axes[1, 0].set_ylabel("fresh / surrogate")
    if nuisances:
        figure.legend(loc="outside lower center", ncols=min(space.dim, 3), fontsize=7, title_fontsize=7, title=IN_CELLS)
    figure.suptitle("Fresh events (points), surrogate (lines)", fontsize=10)
    return figure


def plot_projections(measured: Measurements, space: ObservableSpace) -> Figure:
    """Draw all two-dimensional projections of the fresh events and their pulls from the surrogate."""
    planes = list(itertools.combinations(range(space.dim), 2)) or [(0, 0)]
    figure = Figure(figsize=(3.4 * len(planes) + 1.0, 6.2), layout="constrained")
    axes = figure.subplots(2, len(planes), squeeze=False)
    edges = np.linspace(0, 1, 31)
    for k, (first, second) in enumerate(planes):
        a, b = (
            np.histogram2d(e.u[:, first].numpy(), e.u[:, second].numpy(), (edges, edges))[0]
            for e in (measured.fresh, measured.drawn)
        )
        scale = measured.fresh.size / measured.drawn.size
        pull = (a - scale * b) / np.sqrt(np.maximum(a + scale**2 * b, 1))
        pull[(a + b) < 10] = np.nan
        x, y = (space.observables[d].from_unit(torch.from_numpy(edges)).numpy() for d in (first, second))
        axes[0, k].pcolormesh(x, y, np.log10(np.maximum(a, 1)).T, cmap="viridis")
        mesh = axes[1, k].pcolormesh(x, y, pull.T, cmap="RdBu_r", vmin=-4, vmax=4)
        for row in axes[:, k]:
            _name_axes(row, space, first, second)
    figure.colorbar(mesh, ax=axes[1, :], label="(fresh - surrogate) / error")
    axes[0, 0].set_title("fresh events, all thetas, log scale", fontsize=9)
    axes[1, 0].set_title("their pulls from the surrogate", fontsize=9)
    return figure


def plot_bands(measured: Measurements, space: ObservableSpace, nuisances: tuple[str, ...]) -> Figure:
    """Draw the 10, 50 and 90 % quantiles of the second observable in bins of the first, at three thetas."""
    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = figure.subplots()
    edges = torch.linspace(0, 1, 16)
    x = space.observables[0].from_unit((edges[1:] + edges[:-1]).double() / 2).numpy()
    for colour, cell in zip(THETA_COLOURS, _three_cells(measured), strict=False):
        events = _in_cell(measured, cell)
        fresh, drawn = (_band(part, edges, space) for part in events)
        for k, style in enumerate(("--", "-", "--")):
            label = _mean_theta(events[0], nuisances) if style == "-" else None
            axes.plot(x, drawn[:, k], style, color=colour, lw=1, label=label)
            axes.plot(x, fresh[:, k], ".", color=colour, ms=5)
    _name_axes(axes, space, 0, 1)
    axes.set_title("10, 50, 90 % quantiles: fresh events (points), surrogate (lines)", fontsize=10)
    if nuisances:
        axes.legend(fontsize=7, title_fontsize=7, title=IN_CELLS)
    return figure


def plot_score_bias(measured: Measurements, names: tuple[str, ...], allowed: float) -> Figure:
    """Draw the score bias of each parameter against its value, for N = 1000 events, over what is allowed on average."""
    score = measured.score
    figure = Figure(figsize=(3.4 * len(names), 3.2), layout="constrained")
    for j, axes in enumerate(figure.subplots(1, len(names), sharey=True, squeeze=False)[0]):
        axes.axhspan(-allowed, allowed, color="0.85", label=f"r.m.s. allowed: {allowed:g}")
        axes.errorbar(score.theta[:, j], score.bias[:, j], score.error[:, j], fmt=".", lw=0.8, color=FRESH)
        axes.set_xlabel(names[j])
    figure.axes[0].set_ylabel("bias / standard deviation, N = 1000")
    figure.axes[0].legend(fontsize=7)
    return figure


def plot_rate(measured: Measurements, names: tuple[str, ...]) -> Figure:
    """Draw kept over expected events minus one against each parameter."""
    rate = measured.rate
    figure = Figure(figsize=(3.4 * len(names), 3.2), layout="constrained")
    for j, axes in enumerate(figure.subplots(1, len(names), sharey=True, squeeze=False)[0]):
        axes.axhline(0, color="0.5", lw=0.8)
        values, errors = 100 * np.array(rate.deviation), 100 * np.array(rate.error)
        axes.errorbar(rate.theta[:, j], values, errors, fmt=".", lw=0.8, color=FRESH)
        axes.set_xlabel(names[j])
    figure.axes[0].set_ylabel("fresh / expected - 1 [%]")
    return figure


def plot_integral_transforms(measured: Measurements) -> Figure:
    """Draw the histogram of each probability integral transform; uniform is right."""
    pit = measured.pit
    figure = Figure(figsize=(3.0 * len(pit.names), 2.8), layout="constrained")
    n = len(pit.z)
    for k, axes in enumerate(figure.subplots(1, len(pit.names), sharey=True, squeeze=False)[0]):
        counts, edges = np.histogram(pit.z[:, k].numpy(), np.linspace(0, 1, 41))
        error = 1 / np.sqrt(n / 40)
        axes.axhspan(1 - error, 1 + error, color="0.85", label="error of a bin")
        axes.stairs(counts * 40 / n, edges, color=FRESH)
        axes.set_xlabel(f"{pit.names[k]}: D = {pit.distance[k]:.4f}")
    figure.axes[0].set_ylabel("density")
    figure.axes[0].legend(fontsize=7)
    return figure


def plot_classifier(measured: Measurements) -> Figure:
    """Draw the area under the classifier's curve, over all events and in each slice."""
    test = measured.classifier
    rows = [("all", test.auc, test.error), *test.slices]
    figure = Figure(figsize=(6.0, 0.22 * len(rows) + 1.0), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0.5, color="0.5", lw=0.8)
    axes.errorbar([r[1] for r in rows], range(len(rows)), xerr=[r[2] for r in rows], fmt=".", color=FRESH)
    axes.set_yticks(range(len(rows)), [r[0] for r in rows], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("area under the curve, fresh against surrogate (0.5: indistinguishable)")
    return figure


def _three_cells(measured: Measurements) -> list[int]:
    """Return the first, the middle and the last cell of theta."""
    last = int(measured.cells[0].max())
    return sorted({0, last // 2, last})


def _mean_theta(events: UnitEvents, nuisances: tuple[str, ...]) -> str:
    """Return the mean theta of events as text."""
    mean = events.theta.double().mean(dim=0).tolist()
    return ", ".join(f"{name} {value:.3g}" for name, value in zip(nuisances, mean, strict=True))


def _in_cell(measured: Measurements, cell: int) -> tuple[UnitEvents, UnitEvents]:
    return measured.fresh.take(measured.cells[0] == cell), measured.drawn.take(measured.cells[1] == cell)


def _band(events: UnitEvents, edges: torch.Tensor, space: ObservableSpace) -> np.ndarray:
    """Return the quantiles (bins, 3) of the second observable in bins of the first, NaN where there are few events."""
    bins = torch.bucketize(events.u[:, 0].contiguous(), edges[1:-1])
    levels = torch.tensor([0.1, 0.5, 0.9])
    rows = []
    for k in range(len(edges) - 1):
        column = events.u[bins == k, 1]
        rows.append(column.quantile(levels) if len(column) > 50 else torch.full((3,), float("nan")))
    return space.observables[1].from_unit(torch.stack(rows).double()).numpy()


def _name_axes(axes: Axes, space: ObservableSpace, first: int, second: int) -> None:
    a, b = space.observables[first], space.observables[second]
    axes.set_xlabel(_label(a.name, a.unit))
    axes.set_ylabel(_label(b.name, b.unit))
    axes.set_xscale("log" if a.scale == "log" else "linear")
    axes.set_yscale("log" if b.scale == "log" else "linear")
    for axis, observable in ((axes.xaxis, a), (axes.yaxis, b)):
        if observable.scale == "log":
            label_log_axis(axis)


def _label(name: str, unit: str) -> str:
    return f"{name} [{unit}]" if unit else name
