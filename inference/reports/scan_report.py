"""The report of a scan: a table for people, the record, and its figure."""

from __future__ import annotations

from pathlib import Path

from inference.record_store import write_records
from inference.reports.plots import save_figure
from inference.reports.scan import LimitScan
from inference.reports.scan_plots import plot_scan
from inference.reports.summary import aligned
from inference.results import Interval
from surrogate.atomic import replacing_file

Row = tuple[str, ...]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _unit(interval: Interval) -> str:
    return "" if interval.physical is None else f" [{interval.physical.reference:g} {interval.physical.unit}]"


def scan_rows(scan: LimitScan) -> list[Row]:
    """Return a heading and one row of text per value: limits, bands where there are any, and local significance."""
    toys = any(p.upper_error is not None for p in scan.points)
    bands = all(p.band is not None for p in scan.points)
    heading = (
        scan.scanned,
        *("best fit", "lower", "upper"),
        *(("error",) if toys else ()),
        *(("constrained",) if scan.power_threshold is not None else ()),
        *(("-2 sigma", "-1 sigma", "median", "+1 sigma", "+2 sigma") if bands else ()),
        *("q0", "p0"),
    )
    rows: list[Row] = [heading]
    for p in scan.points:
        best = p.interval.best_fit.values[p.interval.parameter]
        rows.append(
            (
                f"{p.value:g}",
                *(_number(v) for v in (best, p.interval.lower.value, p.interval.upper.value)),
                *((_number(p.upper_error),) if toys else ()),
                *((_number(p.constrained),) if scan.power_threshold is not None else ()),
                *((_number(v) for v in p.band.values) if bands and p.band is not None else ()),
                *(_number(v) for v in (p.q0, p.p0)),
            )
        )
    return rows


def scan_text(scan: LimitScan) -> str:
    """Return a scan as plain text."""
    first = scan.points[0].interval
    lines = [
        f"{100 * first.confidence_level:g} % {first.kind} limits on {first.parameter}{_unit(first)}, "
        f"{first.critical_values} critical values",
        "",
        *aligned(scan_rows(scan)),
    ]
    if scan.power_threshold is not None:
        lines += ["", f"power constraint: {scan.power}, threshold {scan.power_threshold:g}"]
    if scan.significance is not None:
        found = scan.significance
        at = scan.points[found.position].value
        lines += [
            "",
            f"largest q0 {found.largest:.4g} at {scan.scanned} = {at:g}: local p {found.local_p:.4g}",
            f"global p {found.p_toys.value:.4g} [{found.p_toys.low:.4g}, {found.p_toys.high:.4g}] from "
            f"{found.p_toys.trials} toys, {found.p_extrapolated:.4g} from {found.upcrossings:.3g} upcrossings of "
            f"{found.level:g}",
        ]
    return "\n".join(lines) + "\n"


def write_scan(
    scan: LimitScan, directory: str | Path, ylabel: str | None = None, factor: float | None = None
) -> dict[str, Path]:
    """Write ``scan.json``, ``scan.h5``, ``scan.txt`` and ``scan.png`` into a directory; return them by what they are.

    Parameters
    ----------
    scan
        The record.
    directory
        Made if missing.
    ylabel, factor
        Of the figure; see :func:`inference.reports.scan_plots.plot_scan`.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    scan.save(directory / "scan.json")
    write_records(directory / "scan.h5", {"scan": scan})
    with replacing_file(directory / "scan.txt") as temporary:
        temporary.write_text(scan_text(scan))
    figure = save_figure(plot_scan(scan, ylabel, factor), directory / "scan.png")
    return {"record": directory / "scan.json", "table": directory / "scan.txt", "figure": figure}
