"""Figures of trainings; they read only records."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from surrogate.atomic import replacing_file
from training.history import History


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure, atomically, and return the path; the suffix says in which format."""
    with replacing_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix(".") or "png", dpi=130)
    return path


def plot_training(history: History, title: str) -> Figure:
    """Draw the training curve: training and held-out NLL above the best, and the learning rate, against steps."""
    checks = history.checks
    steps = [c.step for c in checks]
    best = history.best
    figure = Figure(figsize=(7.0, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    floor = min(c.held_out_error for c in checks) * 1e-2
    upper.plot(
        steps, [max(c.held_out_nll - best.held_out_nll, floor) for c in checks], label="held out, averaged weights"
    )
    upper.plot(
        steps,
        [max(c.train_nll - best.held_out_nll, floor) for c in checks],
        lw=0.8,
        alpha=0.7,
        label="training, weights of each step (other events)",
    )
    upper.axvline(best.step, color="0.5", lw=0.8, ls=":", label=f"best: {best.held_out_nll:.5f}")
    upper.set_yscale("log")
    upper.set_ylabel("NLL per event above the best [nat]")
    upper.legend(fontsize=8)
    upper.set_title(f"{title}: {history.stopped or 'running'}")
    lower.plot(steps, [c.learning_rate for c in checks], color="0.3")
    lower.set_ylabel("learning rate")
    lower.set_xlabel("step")
    return figure
