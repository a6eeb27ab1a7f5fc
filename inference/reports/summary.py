"""Fits and intervals as plain text: tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from inference.results import FitResult, Interval, IntervalEnd, SurrogateError

Row = tuple[str, str, str, str, str]

#: Headings of :func:`fit_rows`.
FIT_HEADINGS: Row = ("parameter", "best fit", "error", "pull", "")


def fit_rows(fit: FitResult) -> list[Row]:
    """Return one row of text per parameter: name, value, error, pull and remarks."""
    rows = []
    profiled = {e.parameter: f"{_move(e.up, e.status_up)} {_move(e.down, e.status_down)}" for e in fit.profile_errors}
    for name, value in fit.values.items():
        error, pull = fit.errors.get(name), fit.pulls.get(name)
        remarks = [
            word
            for word, names in (("fixed", fit.fixed), ("at its bound", fit.at_bound), ("at a kink", fit.at_kink))
            if name in names
        ]
        rows.append(
            (
                name,
                f"{value:.6g}",
                profiled.get(name, "" if error is None else f"{error:.3g}"),
                "" if pull is None or name in fit.fixed else f"{pull:+.2f}",
                ", ".join(remarks),
            )
        )
    return rows


def _move(error: float | None, status: str) -> str:
    """Return one side of a profile error; where t does not rise by enough before the bound that side is open."""
    return f"{error:+.3g}" if error is not None else "failed" if status == "failed" else "open"


def correlation_rows(fit: FitResult) -> list[tuple[str, ...]]:
    """Return the correlation matrix as rows of text, each beginning with the parameter's name."""
    return [
        (name, *(f"{c:+.2f}" for c in row)) for name, row in zip(fit.covariance_names, fit.correlation(), strict=True)
    ]


def end_text(end: IntervalEnd) -> str:
    """Return one end of an interval in words."""
    if end.found and end.value is not None:
        return f"{end.value:.6g}" + (f", where the statistic jumps (t = {end.t:.4g})" if end.jump else "")
    reach = "" if end.bound is None else f" (searched to {end.bound:.4g})"
    words = {
        "no_crossing": f"none: the statistic stays below its critical value{reach}",
        "at_bound": "none: the best fit is on the bound",
        "outside_range": f"none: outside the range of the search{reach}",
        "failed": "none: the conditional fits failed",
        "not_requested": "not asked for",
    }
    return words.get(end.status, end.status)


def interval_lines(interval: Interval) -> list[str]:
    """Return what an interval says, one statement a line."""
    level = f"{100 * interval.confidence_level:g} %"
    ends = (("lower", interval.lower), ("upper", interval.upper))
    method = "CLs " if interval.critical_values.endswith("CLs") else ""
    lines = [f"{level} {method}{side} limit on {interval.parameter}: {end_text(end)}" for side, end in ends]
    if (physical := interval.physical) is not None:
        lines = [line + physical.text(end) for line, end in zip(lines, (physical.lower, physical.upper), strict=True)]
    values = [f"{e.critical:.4f} at the {side} limit" for side, e in ends if e.found and e.critical is not None]
    lines.append(", ".join([f"statistic {interval.statistic}, {interval.critical_values} critical values", *values]))
    if interval.surrogate_error is not None:
        lines += surrogate_lines(interval.surrogate_error)
    return [line for line, (_, end) in zip(lines, ends, strict=False) if end.status != "not_requested"] + lines[2:]


def surrogate_lines(error: SurrogateError) -> list[str]:
    """Return what finite training adds to the ends of an interval, one statement a line."""
    singles = ", ".join(error.incomplete)
    bound = f" or more: of {singles} the rate's error alone is known, which are single flows" if singles else ""
    if error.unknown:
        bound += f"; of {', '.join(error.unknown)}, folded with a spectrum, nothing is known"
    ends = (("lower", error.lower), ("upper", error.upper))
    return [
        f"error of the {side} limit from finite training samples: +- {size:.2g}{bound}"
        for side, size in ends
        if size is not None
    ]


def training_line(fit: FitResult) -> str | None:
    """Return the largest share of finite training in the error of a best fit as a sentence, None if it is unknown."""
    if fit.surrogate_error is None:
        return None
    moves = fit.surrogate_error.values
    shares = {name: moves[name] / error for name, error in fit.errors.items() if error and name in moves}
    if not shares:
        return None
    name = max(shares, key=lambda n: shares[n])
    return f"error of best fits from finite training samples: at most {shares[name]:.2g} of their errors ({name})"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of text aligned in columns: the first to the left, the others to the right."""
    width = [max(len(r[k]) for r in rows) for k in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(w) if k == 0 else cell.rjust(w) for k, (cell, w) in enumerate(zip(r, width, strict=True))
        ).rstrip()
        for r in rows
    ]


def event_rows(fit: FitResult, interval: Interval | None = None) -> list[tuple[str, ...]]:
    """Return the expected events of every run and source as rows of text, at the best fit and at found ends."""
    points = [("best fit", fit)]
    if interval is not None:
        ends = (("lower limit", interval.lower), ("upper limit", interval.upper))
        points += [(side, end.fit) for side, end in ends if end.found and end.fit is not None]
    sources = list(dict.fromkeys(name for run in fit.expected.values() for name in run))
    rows: list[tuple[str, ...]] = [("", "", *sources, "sum", "observed")]
    for run, observed in fit.observed.items():
        for k, (where, at) in enumerate(points):
            counts = at.expected.get(run, {})
            cells = [f"{counts[name]:.4g}" if name in counts else "" for name in sources]
            seen = f"{observed:.6g}" if k == 0 else ""
            rows.append((run if k == 0 else "", where, *cells, f"{sum(counts.values()):.4g}", seen))
    return rows


def summary_text(fit: FitResult, interval: Interval | None = None) -> str:
    """Return a fit, an interval and what is to be said of them as plain text."""
    log_l = "not finite" if fit.log_likelihood is None else f"{fit.log_likelihood:.6f}"
    lines = [f"fit: {fit.message}", f"ln L = {log_l}", "", *aligned([FIT_HEADINGS, *fit_rows(fit)])]
    if fit.covariance_names:
        numbers = tuple(str(k) for k in range(1, len(fit.covariance_names) + 1))
        lines += ["", "correlations", *aligned([("", *numbers), *correlation_rows(fit)])]
    if fit.expected:
        lines += ["", "expected events", *aligned(event_rows(fit, interval))]
    if (line := training_line(fit)) is not None:
        lines += ["", line]
    if interval is not None:
        lines += ["", *interval_lines(interval)]
    if remarks := fit.remarks if interval is None else interval.remarks:
        lines += ["", *remarks]
    return "\n".join(lines) + "\n"
