"""Figures of studies with toys: critical values, distributions of the statistic, sensitivity bands."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import special

from inference.intervals.asymptotics import TWO_SIDED
from inference.intervals.confidence import STATISTIC
from inference.reports.cls_study import CLsLimit
from inference.reports.plots import COLOURS, DATA, parameter_label
from inference.results import ProfileCurve
from inference.studies.counting import quantile
from inference.studies.discovery import Discovery
from inference.studies.neyman import NeymanInterval
from inference.studies.sensitivity import SensitivityBand, ToyLimits
from inference.studies.toy_pairs import ToyPairs
from surrogate.errors import DataError
from surrogate.tick_plots import label_log_axis

#: The colours of the one- and two-sigma bands that the field is used to.
GREEN, YELLOW = "#00CC00", "#FFDD00"
#: A legend over bands, whose swatches would vanish in them without a ground of its own.
ON_BANDS: dict[str, Any] = {"frameon": True, "facecolor": "white", "framealpha": 1.0, "edgecolor": DATA}

#: How the statistics are written (arXiv:1007.1727).
SYMBOLS = {
    "t_mu": r"$t_\mu$",
    "t_mu_tilde": r"$\tilde{t}_\mu$",
    "q_mu": r"$q_\mu$",
    "q_mu_tilde": r"$\tilde{q}_\mu$",
    "q0": "$q_0$",
    "l_mu": r"$l_\mu$",
}


def plot_critical_values(found: NeymanInterval, curve: ProfileCurve | None = None) -> Figure:
    """Draw c(mu) from toys with its smooth curve, the asymptotic value, and t(mu) of the data where it is given."""
    figure = Figure(figsize=(6.0, 4.2), layout="constrained")
    axes = figure.subplots()
    grid, value = np.array(found.grid), np.array(found.critical)
    spread = [value - np.array(found.critical_low), np.array(found.critical_high) - value]
    axes.errorbar(grid, value, yerr=spread, fmt="o", ms=4, color=COLOURS[4], label="toys")
    smooth, error = np.array(found.smooth), np.array(found.smooth_error)
    axes.plot(found.fine, smooth, color=COLOURS[4], lw=1.5)
    axes.fill_between(found.fine, smooth - error, smooth + error, color=COLOURS[4], alpha=0.2, lw=0)
    level = found.interval.confidence_level
    asymptotic = float(special.chdtri(1, 1 - level if found.interval.kind in TWO_SIDED else 2 - 2 * level))
    axes.axhline(asymptotic, color=COLOURS[7], ls="--", lw=1, label=f"asymptotic {asymptotic:.3f}")
    if curve is not None:
        points = [(x, t) for x, t in zip(curve.grid, curve.t, strict=True) if t is not None]
        axes.plot(*zip(*points, strict=True), color=DATA, lw=1.5, label="t of the data")
    for end in (found.interval.lower, found.interval.upper):
        if end.value is not None:
            axes.axvline(end.value, color=COLOURS[5], lw=1, ls=":", label=f"limit {end.value:.4g}")
    axes.set_xlabel(parameter_label(found.interval.parameter))
    axes.set_ylabel(f"{100 * level:.3g} % critical value")
    axes.set_xlim(grid[0], grid[-1])
    axes.set_ylim(0, 1.5 * max(asymptotic, float(value.max())))
    axes.legend(frameon=False)
    return figure


def plot_statistics(pairs: ToyPairs, cl: float = 0.9, statistic: str = "t_mu_tilde", most: int = 6) -> Figure:
    """Draw the survival function of the statistic at some grid points, its critical values, and the asymptotic law.

    Parameters
    ----------
    pairs
        Toys with their fits.
    cl
        The level at which critical values are read off.
    statistic
        Which one.
    most
        Most grid points drawn, evenly chosen.

    Raises
    ------
    DataError
        If there are no valid fits.
    """
    samples = pairs.statistics(statistic)
    if not any(np.isfinite(t).any() for t in samples):
        raise DataError("there are no toys with valid fits to draw")
    figure = Figure(figsize=(6.0, 4.2), layout="constrained")
    axes = figure.subplots()
    chosen = np.unique(np.linspace(0, len(samples) - 1, min(most, len(samples))).round().astype(int))
    for k, g in enumerate(chosen):
        # Toys without valid fits count as infinite, as they do for the critical values.
        t = np.sort(np.nan_to_num(samples[g], nan=np.inf))
        survival = 1 - np.arange(len(t)) / len(t)
        critical = quantile(samples[g], cl).value
        colour, label = COLOURS[k % len(COLOURS)], f"{pairs.tested[g]:.4g}: {critical:.3g}"
        axes.step(t[np.isfinite(t)], survival[np.isfinite(t)], where="post", color=colour, label=label)
        axes.plot([critical], [1 - cl], ls="", marker="o", ms=4, color=colour)
    x = np.linspace(0, 12, 400)
    tails = 1.0 if any(statistic in STATISTIC[kind] for kind in TWO_SIDED) else 0.5
    axes.plot(x, tails * special.chdtrc(1, x), color=DATA, ls="--", lw=1, label="asymptotic")
    axes.axhline(1 - cl, color=COLOURS[7], lw=0.8)
    axes.set_yscale("log")
    label_log_axis(axes.yaxis)
    axes.set_xlim(0, 8)
    axes.set_ylim(1e-3, 1)
    axes.set_xlabel(SYMBOLS.get(statistic, statistic))
    axes.set_ylabel("fraction of toys above")
    axes.legend(frameon=False, title=f"{parameter_label(pairs.poi)}: critical value")
    return figure


def plot_cls(found: CLsLimit) -> Figure:
    """Draw CLs where toys were made, and the limit at which it falls to 1 - CL."""
    figure = Figure(figsize=(6.0, 4.2), layout="constrained")
    axes = figure.subplots()
    mu, value = [p.mu for p in found.points], [p.value for p in found.points]
    axes.errorbar(mu, value, yerr=[p.error for p in found.points], fmt="o", ms=4, color=COLOURS[4], label="toys")
    axes.axhline(1 - found.confidence_level, color=COLOURS[7], lw=0.8, label=f"{1 - found.confidence_level:.3g}")
    axes.axvline(found.value, color=COLOURS[5], lw=1.2, label=f"limit {found.value:.4g} $\\pm$ {found.error:.2g}")
    if (asymptotic := found.asymptotic.upper.value) is not None:
        axes.axvline(asymptotic, color=DATA, ls="--", lw=1, label=f"asymptotic {asymptotic:.4g}")
    axes.set_yscale("log")
    label_log_axis(axes.yaxis)
    axes.set_xlabel(parameter_label(found.parameter))
    axes.set_ylabel(r"$\mathrm{CL}_s$")
    axes.legend(frameon=False)
    return figure


def plot_discovery(found: Discovery, toys: ToyPairs | None = None) -> Figure:
    """Draw P(q0 >= x) without signal, asymptotically and in toys, and the observed q0; above, Z = sqrt(q0).

    Raises
    ------
    DataError
        If the fits to the data failed.
    """
    if found.q0 is None or found.p0 is None:
        raise DataError(f"discovery of {found.parameter}: the fits to the data failed, there is nothing to draw")
    figure = Figure(figsize=(6.0, 4.2), layout="constrained")
    axes = figure.subplots()
    right = max(9.0, 1.2 * found.q0)
    x = np.linspace(0, right, 400)
    axes.plot(x, 0.5 * special.chdtrc(1, x), color=DATA, ls="--", lw=1, label="asymptotic")
    least = 0.5 * float(special.chdtrc(1, right))
    if toys is not None:
        # Toys without valid fits count as infinite, as they do for the p-value.
        t = np.sort(np.nan_to_num(toys.statistics("q0")[0], nan=np.inf))
        left = 1 - np.arange(len(t)) / len(t)
        label = f"{len(t)} toys without signal"
        axes.step(t[np.isfinite(t)], left[np.isfinite(t)], where="pre", color=COLOURS[4], label=label)
        least = min(least, 0.5 / len(t))
    if found.p0_toys == 0:
        p0 = f"$p_0$ < {found.p0_high:.2g}"
    else:
        p0 = f"$p_0$ = {found.p0 if found.p0_toys is None else found.p0_toys:.3g}"
    axes.axvline(found.q0, color=COLOURS[5], lw=1.2, label=f"data: $q_0$ = {found.q0:.3g}, {p0}")
    axes.set_yscale("log")
    label_log_axis(axes.yaxis)
    axes.set_xlim(0, right)
    axes.set_ylim(max(least, 1e-12), 1)
    axes.set_xlabel(f"{SYMBOLS['q0']} of {parameter_label(found.parameter)}")
    axes.set_ylabel("fraction above, without signal")
    top = axes.secondary_xaxis("top", functions=(lambda q: np.sqrt(np.maximum(q, 0)), np.square))
    top.set_xlabel("significance Z / standard deviations")
    axes.legend(frameon=False)
    return figure


def plot_toy_limits(limits: ToyLimits, band: SensitivityBand) -> Figure:
    """Draw the distribution of the limits of toys, with the median and the one- and two-sigma intervals.

    Raises
    ------
    DataError
        If no toy has a limit.
    """
    values = limits.ends(band.end)
    finite = values[np.isfinite(values) & (values > 0)]
    if not len(finite):
        raise DataError(f"no toy has a {band.end} limit, there is nothing to draw")
    figure = Figure(figsize=(6.0, 4.2), layout="constrained")
    axes = figure.subplots()
    edges = np.geomspace(finite.min(), finite.max(), 41)
    for sigma, colour in ((2.0, YELLOW), (1.0, GREEN)):
        low, high = (
            band_value(band, -sigma),
            min(float(np.nan_to_num(band_value(band, sigma), nan=np.inf)), float(edges[-1])),
        )
        axes.axvspan(low, high, color=colour, lw=0, label=rf"$\pm {sigma:.0f}\sigma$")
    axes.hist(finite, edges.tolist(), histtype="step", color=DATA, lw=1.4)
    axes.axvline(band_value(band, 0.0), color=DATA, ls="--", lw=1.2, label=f"median {band_value(band, 0.0):.4g}")
    axes.set_xscale("log")
    label_log_axis(axes.xaxis)
    axes.set_xlabel(f"{100 * band.confidence_level:.3g} % {band.end} limit on {parameter_label(band.parameter)}")
    axes.set_ylabel(f"toys of {band.n_toys}")
    axes.legend(**ON_BANDS)
    return figure


def band_value(band: SensitivityBand, sigma: float) -> float:
    """Return a quantile of a band, by its position in standard deviations; NaN where it is infinite."""
    value = band.values[band.sigmas.index(sigma)]
    return np.nan if value is None else value
