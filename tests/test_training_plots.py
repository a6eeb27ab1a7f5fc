"""Figures of validations: what their axes say can be read."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from matplotlib.figure import Figure

from surrogate.observables import Observable, ObservableSpace
from surrogate.tick_plots import label_log_axis
from training.plots import plot_projections

WINDOWS = [
    (3.0, 70.0, ["5", "10", "20", "50"]),
    (50.0, 8000.0, ["50", "100", "200", "500", "1000", "2000", "5000"]),
    (1.0, 1e4, None),
]


@pytest.mark.parametrize(("low", "high", "expected"), WINDOWS)
def test_labels_of_logarithmic_axes_are_plain_and_apart(low: float, high: float, expected: list[str] | None) -> None:
    space = ObservableSpace((Observable("a", "PE", low, high, "log"), Observable("b", "PE", 1.0, 2.0)))
    u = torch.rand(2000, 2, generator=torch.Generator().manual_seed(1))
    events = SimpleNamespace(u=u, size=len(u))
    figure = plot_projections(SimpleNamespace(fresh=events, drawn=events), space)  # type: ignore[arg-type]
    figure.canvas.draw()
    axis = figure.axes[0].xaxis
    assert not any(label.get_text() for label in axis.get_minorticklabels())
    shown = [t for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
    words = [t.label1.get_text() for t in shown]
    assert words == (expected or ["1", "10", "100", "1000", "10000"])
    boxes = [t.label1.get_window_extent() for t in shown]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


@pytest.mark.parametrize(("low", "high"), [(0.25, 0.9), (2.1, 2.6), (700.0, 3e4), (1e-47, 5e-45), (1e-12, 1e12)])
@pytest.mark.parametrize("inches", [2.0, 4.0])
def test_numbers_of_a_logarithmic_axis_have_room(low: float, high: float, inches: float) -> None:
    figure = Figure(figsize=(inches, inches), layout="constrained")
    axes = figure.subplots()
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    for axis in (axes.xaxis, axes.yaxis):
        label_log_axis(axis)
    figure.draw_without_rendering()
    for axis, first, last in ((axes.xaxis, "x1", "x0"), (axes.yaxis, "y1", "y0")):
        ticks = [t for t in axis.get_major_ticks() if low * 0.999 <= t.get_loc() <= high * 1.001]
        boxes = [t.label1.get_window_extent() for t in ticks]
        assert len(boxes) >= 2
        assert all(getattr(a, first) < getattr(b, last) for a, b in itertools.pairwise(boxes))
