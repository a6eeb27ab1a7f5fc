"""Figure of a surrogate beside binned templates; it reads the record only."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from surrogate.tick_plots import label_log_axis
from training.template_validation import AnchorComparison, TemplateComparison

SURROGATE, MORPHING, TEMPLATE = "#0072B2", "#E69F00", "#222222"
"""Colours, of Okabe and Ito's palette (https://jfly.uni-koeln.de/color/)."""


def plot_templates(comparison: TemplateComparison) -> Figure:
    """Draw the bins of the worst anchor, the deviations of all bins, and those of rate and shape over the anchors."""
    figure = Figure(figsize=(11.0, 7.0), layout="constrained")
    (worst, spread), (rates, shapes) = figure.subplots(2, 2)
    _draw_bins(worst, max(comparison.anchors, key=lambda a: a.surrogate.chi2), comparison.exposure)
    _draw_spread(spread, comparison)
    _draw_anchors(rates, comparison, "rate", r"rate: $\mu'/\mu - 1$ [%]")
    _draw_anchors(shapes, comparison, "shape", "shape: r.m.s. deviation of bins [%]")
    figure.suptitle(comparison.checkpoint, fontsize=10)
    return figure


def _draw_bins(axes: Axes, anchor: AnchorComparison, exposure: float) -> None:
    """Draw both expectations per bin, in the order of the template."""
    edges = np.arange(len(anchor.template) + 1) - 0.5
    axes.stairs(exposure * np.array(anchor.template), edges, color=TEMPLATE, lw=1.8, label="template")
    axes.stairs(exposure * np.array(anchor.expected), edges, color=SURROGATE, lw=1.0, label="surrogate")
    place = ", ".join(f"{name} = {value:g}" for name, value in anchor.theta.items())
    axes.set(yscale="log", xlabel="bin", ylabel=f"expected events at exposure {exposure:g}")
    label_log_axis(axes.yaxis)
    axes.set_title(f"largest chi2 ({anchor.surrogate.chi2:.2g}){' at ' + place if place else ''}", fontsize=10)
    axes.legend(frameon=False, fontsize=8)


def _draw_spread(axes: Axes, comparison: TemplateComparison) -> None:
    """Draw the distribution of relative deviations over bins and anchors, weighted by the bins' contents."""
    drawn = []
    for word, anchors in comparison.groups().items():
        template = np.array([a.template for a in anchors])
        expected = np.array([a.expected for a in anchors])
        filled = template > 0
        drawn.append((word, 100 * (expected[filled] / template[filled] - 1), template[filled] / template.sum()))
    reach = max(1e-3, *(float(np.quantile(np.abs(values), 0.99)) for _, values, _ in drawn))
    bins = np.linspace(-reach, reach, 61)
    for (word, values, weights), style in zip(drawn, ("-", "--", ":"), strict=False):
        axes.hist(
            values, bins=bins.tolist(), weights=weights, histtype="step", color=SURROGATE, ls=style, lw=1.4, label=word
        )
    axes.set(xlabel="surrogate / template - 1, per bin [%]", ylabel="share of expected events")
    axes.legend(frameon=False, fontsize=8, title="anchors")


def _draw_anchors(axes: Axes, comparison: TemplateComparison, what: str, label: str) -> None:
    """Draw one kind of deviation over the anchors, with that of the morphing beside it where one was left out."""
    for k, anchor in enumerate(comparison.anchors):
        known = "left out" if anchor.trained is False else "trained on"
        face = "none" if anchor.trained is False else SURROGATE
        name = f"surrogate, {known}" if anchor.trained is not None else "surrogate"
        axes.plot(k, 100 * getattr(anchor.surrogate, what), "o", ms=5, color=SURROGATE, mfc=face, label=name)
        if anchor.trained is False and anchor.morphing is not None:
            value = 100 * getattr(anchor.morphing, what)
            axes.plot(k, value, "x", ms=5, color=MORPHING, label="morphing, left out")
    handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    axes.axhline(0, color=TEMPLATE, lw=0.8)
    axes.legend(list(handles.values()), list(handles), frameon=False, fontsize=8)
    names = ", ".join(comparison.anchors[0].theta)
    axes.set(xlabel=f"anchor, in the order of ({names})" if names else "template", ylabel=label)
