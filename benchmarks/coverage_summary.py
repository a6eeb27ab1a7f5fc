"""What fits to data sets of a simulator, and to toys of the model that is fitted, say about coverage and bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from inference.intervals.asymptotics import critical_value
from inference.reports.plots import COLOURS, DATA, save_figure
from inference.studies.counting import Quantile, clopper_pearson, quantile

Columns = Mapping[str, NDArray[Any]]

LEVEL, AIM = 0.9, 0.005
BINS = 20


@dataclass(frozen=True)
class Measured:
    """A figure with its one-sigma error."""

    value: float
    error: float


@dataclass(frozen=True)
class PointSummary:
    """Outcome at one true point.

    Attributes
    ----------
    label, mu
        The point.
    n_sets, n_toys
        Data sets of the simulator, toys of the model.
    n_failed
        Of both, without valid fits: not covered.
    n_again
        Of both, fitted with exact densities throughout.
    critical
        Critical value from the toys.
    asymptotic, model
        Coverage of data sets and of toys with the asymptotic critical value; low and high are Clopper-Pearson.
    coverage
        Coverage of data sets with the critical value from toys; its error holds that of the critical value.
    p_values
        Fraction of the toys whose statistic is at least that of each data set; ties are spread evenly.
    p_same
        Kolmogorov-Smirnov probability that both statistics are distributed alike.
    bias, width
        Parameter -> mean of its estimates from data sets less that from toys, and ratio of the standard deviations, in
        units of that of the toys.
    predicted
        Parameter -> the bias to first order, from the scores of the simulator's events at the truth.
    pulls
        Parameter -> mean and standard deviation of (estimate - truth) / error over data sets.
    deviation
        Mean and largest change of the statistic by exact densities, among the fits examined.
    cpu_s
        Spent on the data sets, and on the toys.
    """

    label: str
    mu: float
    n_sets: int
    n_toys: int
    n_failed: int
    n_again: int
    critical: Measured
    asymptotic: Mapping[str, float]
    model: Mapping[str, float]
    coverage: Measured
    p_values: tuple[float, ...]
    p_same: float
    bias: Mapping[str, Measured]
    width: Mapping[str, Measured]
    predicted: Mapping[str, float]
    pulls: Mapping[str, tuple[float, float]]
    deviation: tuple[float, float]
    cpu_s: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as plain data, p-values as a histogram."""
        histogram = np.histogram(self.p_values, BINS, (0.0, 1.0))[0].tolist()
        return {**asdict(self), "p_values": histogram}


def statistic(columns: Columns) -> NDArray[np.float64]:
    """Return -2 ln Lambda, infinite where fits are not valid: not covered."""
    return np.where(columns["valid"], np.maximum(columns["t"], 0.0), np.inf)


def covered(t: NDArray[np.float64], critical: float) -> dict[str, float]:
    """Return the fraction of a statistic that is at most the critical value, with its Clopper-Pearson interval."""
    return asdict(clopper_pearson(int((t <= critical).sum()), len(t))) | {"value": float((t <= critical).mean())}


def calibrated_coverage(t: NDArray[np.float64], toys: NDArray[np.float64], critical: Quantile) -> Measured:
    """Return the coverage of data sets with a critical value from toys; both are independent samples."""
    value = float((t <= critical.value).mean())
    variance = value * (1 - value) / len(t) + LEVEL * (1 - LEVEL) / len(toys)
    return Measured(value, float(np.sqrt(variance)))


def spread_p_values(t: NDArray[np.float64], toys: NDArray[np.float64], seed: int = 1) -> NDArray[np.float64]:
    """Return the fraction of the toys at or above each t, ties (t = 0 at a bound) spread evenly."""
    ordered = np.sort(toys)
    above = len(toys) - np.searchsorted(ordered, t, side="right")
    ties = len(toys) - above - np.searchsorted(ordered, t, side="left")
    u = np.random.default_rng(seed).uniform(size=len(t))
    values: NDArray[np.float64] = (above + u * (ties + 1)) / (len(toys) + 1)
    return values


def compared(
    names: Sequence[str], sets: NDArray[np.float64], toys: NDArray[np.float64]
) -> tuple[dict[str, Measured], dict[str, Measured]]:
    """Return the biases and the ratios of widths of estimates (n, P), relative to toys."""
    bias, width = {}, {}
    for name, a, b in zip(names, sets.T, toys.T, strict=True):
        a, b = a[np.isfinite(a)], b[np.isfinite(b)]
        unit = b.std(ddof=1)
        error = float(np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)) / unit)
        bias[name] = Measured(float((a.mean() - b.mean()) / unit), error)
        ratio = float(a.std(ddof=1) / unit)
        # the variance of a sample variance, with the kurtosis of the sample
        parts = [(stats.kurtosis(v) + 2) / (4 * len(v)) for v in (a, b)]
        width[name] = Measured(ratio, ratio * float(np.sqrt(sum(parts))))
    return bias, width


def summarise(label: str, mu: float, names: Sequence[str], flows: Columns, simulator: Columns) -> PointSummary:
    """Return the outcome at a point, from the fits to toys of the flows and to data sets of the simulator."""
    t, toys = statistic(simulator), statistic(flows)
    asymptotic, critical = critical_value(LEVEL, "central"), quantile(toys, LEVEL)
    bias, width = compared(names, simulator["estimates"], flows["estimates"])
    change = np.concatenate([c["deviation"] for c in (flows, simulator)])
    change, pulls = change[np.isfinite(change)], simulator["pulls"]
    return PointSummary(
        label=label,
        mu=mu,
        n_sets=len(t),
        n_toys=len(toys),
        n_failed=int(np.isinf(t).sum() + np.isinf(toys).sum()),
        n_again=int(flows["again"].sum() + simulator["again"].sum()),
        critical=Measured(critical.value, critical.error),
        asymptotic=covered(t, asymptotic),
        model=covered(toys, asymptotic),
        coverage=calibrated_coverage(t, toys, critical),
        p_values=tuple(spread_p_values(t, toys).tolist()),
        p_same=float(stats.ks_2samp(t, toys).pvalue),
        bias=bias,
        width=width,
        predicted=dict(zip(names, simulator["shift"].tolist(), strict=True)),
        pulls=dict(zip(names, zip(np.nanmean(pulls, axis=0), np.nanstd(pulls, axis=0), strict=True), strict=True)),
        deviation=(float(change.mean()), float(change.max())),
        cpu_s=(float(simulator["cpu"].sum()), float(flows["cpu"].sum())),
    )


def table(found: Sequence[PointSummary], poi: str) -> str:
    """Return the outcomes as a Markdown table."""
    lines = [
        "| true point | signal | simulator, asymptotic | flows, asymptotic | critical value of toys | with it "
        "| bias of the signal | largest of the others |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for p in found:
        others = {name: m for name, m in p.bias.items() if name != poi}
        worst = max(others, key=lambda name: abs(others[name].value))
        lines.append(
            f"| {p.label} | {p.mu:g} | {_percent(p.asymptotic)} | {_percent(p.model)} "
            f"| {p.critical.value:.2f} +- {p.critical.error:.2f} "
            f"| {100 * p.coverage.value:.1f} +- {100 * p.coverage.error:.1f} "
            f"| {_sigma(p.bias[poi])} | {worst.removesuffix('_multiplier')} {_sigma(others[worst])} |"
        )
    return "\n".join(lines)


def remarks(found: Sequence[PointSummary]) -> str:
    """Return what all points together say."""
    n, n_toys = sum(p.n_sets for p in found), sum(p.n_toys for p in found)
    spread = (LEVEL * (1 - LEVEL) * (1 / n + 1 / n_toys)) ** 0.5
    widths = [m.value for p in found for m in p.width.values()]
    shifts = {name: np.mean([p.bias[name].value for p in found]) for name in found[0].bias}
    error = np.mean([p.bias[name].error for p in found for name in p.bias]) / len(found) ** 0.5
    difference = 100 * np.mean([p.asymptotic["value"] - p.model["value"] for p in found])
    return "\n".join(
        [
            f"data sets {n}, toys {n_toys}, without valid fits {sum(p.n_failed for p in found)}, "
            f"fitted exactly throughout {sum(p.n_again for p in found)}",
            f"mean coverage with critical values of toys {100 * np.mean([p.coverage.value for p in found]):.2f} "
            f"+- {100 * spread:.2f} %, simulator less flows {difference:+.2f} +- {100 * spread:.2f} %",
            f"ratios of the widths of estimates {min(widths):.3f} to {max(widths):.3f}",
            "mean biases: " + ", ".join(f"{k} {v:+.3f}" for k, v in shifts.items()) + f", each +- {error:.3f}",
            f"change of -2 ln Lambda by exact densities: mean {np.mean([p.deviation[0] for p in found]):.4f}, "
            f"largest {max(p.deviation[1] for p in found):.3f}",
            f"CPU seconds: data sets {sum(p.cpu_s[0] for p in found):.0f}, toys {sum(p.cpu_s[1] for p in found):.0f}",
        ]
    )


def _percent(f: Mapping[str, float]) -> str:
    return f"{100 * f['value']:.1f} +- {50 * (f['high'] - f['low']):.1f}"


def _sigma(m: Measured) -> str:
    return f"{m.value:+.2f} +- {m.error:.2f}"


def plot(found: Sequence[PointSummary], path: Path) -> Path:
    """Draw coverage by point, p-values of all data sets, and biases of all estimates."""
    figure = Figure(figsize=(12.5, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.5, 1.0, 1.2))
    _draw_coverage(left, found)
    p = np.concatenate([s.p_values for s in found])
    count = len(p) / BINS
    middle.hist(p, BINS, range=(0.0, 1.0), color=COLOURS[1])
    # of the data sets, and of the toys by which each is ranked
    error = np.sqrt(count * (1 + len(p) / sum(s.n_toys for s in found)))
    middle.axhspan(count - error, count + error, color=COLOURS[7], alpha=0.4, lw=0)
    middle.set(xlabel="p-value of the true signal", ylabel="data sets, all points", xlim=(0, 1))
    middle.set_ylim(0, 1.4 * count)
    _draw_biases(right, found)
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_figure(figure, path)


def _draw_coverage(axes: Axes, found: Sequence[PointSummary]) -> None:
    y = np.arange(len(found))[::-1]
    axes.axvspan(100 * (LEVEL - AIM), 100 * (LEVEL + AIM), color=COLOURS[7], alpha=0.3, lw=0, label="90 +- 0.5 %")
    value = np.array([100 * s.asymptotic["value"] for s in found])
    ends = np.array([(100 * s.asymptotic["low"], 100 * s.asymptotic["high"]) for s in found]).T
    bars = np.abs(ends - value)
    axes.errorbar(value, y + 0.13, xerr=bars, fmt="s", ms=4, color=COLOURS[5], label="asymptotic critical value")
    value = np.array([100 * s.coverage.value for s in found])
    error = np.array([100 * s.coverage.error for s in found])
    axes.errorbar(value, y - 0.13, xerr=error, fmt="o", ms=4, color=COLOURS[4], label="critical value from toys")
    axes.set_yticks(y, [f"{s.label}, {s.mu:g}" for s in found])
    axes.set_ylim(-0.6, len(found) + 0.9)
    axes.set_xlabel("intervals that hold the true signal [%]")
    axes.legend(facecolor="white", framealpha=1.0, edgecolor=DATA, loc="upper center", ncols=1, fontsize=8)


def _draw_biases(axes: Axes, found: Sequence[PointSummary]) -> None:
    names = list(found[0].bias)
    y = np.arange(len(names))[::-1]
    for s in found:
        axes.plot([s.bias[name].value for name in names], y, "o", ms=3, color=COLOURS[1])
    error = float(np.mean([s.bias[names[0]].error for s in found]))
    axes.axvspan(-error, error, color=COLOURS[7], alpha=0.3, lw=0, label="error of one point")
    axes.plot([np.mean([s.bias[n].value for s in found]) for n in names], y, "|", ms=14, color=DATA, label="mean")
    axes.set_yticks(y, [name.removesuffix("_multiplier") for name in names])
    axes.set_ylim(-0.6, len(names) + 0.9)
    axes.set_xlabel("estimates: simulator - flows [sigma]")
    axes.legend(facecolor="white", framealpha=1.0, edgecolor=DATA, loc="upper center", fontsize=8)
