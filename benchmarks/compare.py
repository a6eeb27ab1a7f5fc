"""Show how new figures differ from the stored ones, and make the table of README.md from the stored ones.

Run: python benchmarks/compare.py [STORED] [--new DIR] [--run NAME ...] [--tolerance FACTOR] [--adopt]

STORED is a file or a folder of records, benchmarks/results by default; ``--new`` the folder of what was measured now.
Figures that scale with the speed of a machine are divided by the machine's own speed at a fixed piece of arithmetic, so
that machines can be compared; costs that grew by more than the tolerance are regressions, and make the exit code 1.
``--run`` measures first; ``--adopt`` stores the new figures and writes the table anew.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from records import STORED, Record, Results, row
from rich.console import Console
from rich.table import Table

README = Path(__file__).resolve().parent / "README.md"
BEGIN, END = "<!-- figures: written by compare.py -->", "<!-- end of figures -->"
NAMES = (
    "release",
    "unbinned",
    "flamedisx_fit",
    "flamedisx_accuracy",
    "flow_density",
    "scaling",
    "simulator",
    "simulator_projections",
    "gpu",
)
"""The order of the table."""


@dataclass(frozen=True)
class Change:
    """How one figure changed.

    Attributes
    ----------
    benchmark, name, unit
        Which figure.
    old, new
        Its values.
    factor
        By how much the cost grew, the speed of the machine taken out: above 1 is worse.
    """

    benchmark: str
    name: str
    unit: str
    old: float
    new: float
    factor: float


def read(where: Path) -> dict[str, Results]:
    """Return the results of a file or of a folder by benchmark, in the order of the table."""
    paths = [where] if where.is_file() else sorted(where.glob("*.json"))
    found = {results.benchmark: results for results in map(Results.read, paths)}
    return {
        name: found[name] for name in sorted(found, key=lambda n: (NAMES.index(n) if n in NAMES else len(NAMES), n))
    }


def changes(old: Results, new: Results) -> list[Change]:
    """Return the changes of the figures that both have."""
    known = {record.name: record for record in old.records}
    pairs = [(known[record.name], record) for record in new.records if record.name in known]
    speed = new.machine["calibration_s"] / old.machine["calibration_s"]
    return [
        Change(old.benchmark, before.name, before.unit, before.value, after.value, growth(before, after, speed))
        for before, after in pairs
    ]


def growth(old: Record, new: Record, slower: float) -> float:
    """Return by what factor a figure got worse, on a machine that is slower by a factor."""
    if old.value == 0.0 or new.value == 0.0:
        return 1.0 if old.value == new.value else float("inf")
    factor = new.value / old.value if old.better == "lower" else old.value / new.value
    return factor / slower if old.scales else factor


def comparison(found: Iterable[Change], tolerance: float) -> Table:
    """Return the changes for a terminal."""
    table = Table(title=f"cost now over cost stored (regression above {tolerance:g})")
    for column in ("benchmark", "figure", "stored", "now", "cost ratio", ""):
        table.add_column(column, justify="right" if column in ("stored", "now", "cost ratio") else "left")
    for c in found:
        verdict = "regression" if c.factor > tolerance else "better" if c.factor < 1 / tolerance else ""
        old, new = f"{c.old:.3g} {c.unit}", f"{c.new:.3g} {c.unit}"
        table.add_row(c.benchmark, c.name, old, new, f"{c.factor:.2f}", verdict)
    return table


def markdown(results: Iterable[Results]) -> str:
    """Return all figures as Markdown tables, one per benchmark, ratios first."""
    lines: list[str] = []
    for found in results:
        machine = found.machine
        where = (
            f"{machine['processor']}, {machine['system']}, {machine['cores']} cores, {machine['threads']} thread used"
        )
        if "gpu" in machine:
            where += f", {machine['gpu']}"
        used = ", ".join(f"{name} {version}" for name, version in found.versions.items())
        lines += [f"### {found.benchmark}", "", f"`{found.command}`, {found.date}; {where}; {used}.", ""]
        lines += ["| figure | ratio to peer | value | target | floor | peers |", "|---|---|---|---|---|---|"]
        for record in found.records:
            name, value, target, floor, peers, ratio = row(record)
            missed = " (missed)" if record.reached is False else ""
            lines.append(
                f"| {name} | {f'**{ratio}**' if ratio else ''} | {value} | {target}{missed} | {floor} | {peers} |"
            )
        lines.append("")
    return "\n".join(lines)


def write_table(results: Iterable[Results]) -> None:
    """Replace the tables of README.md."""
    text = README.read_text()
    head, rest = text.split(BEGIN)
    README.write_text(f"{head}{BEGIN}\n\n{markdown(results)}\n{END}{rest.split(END)[1]}")


def run(names: Sequence[str], output: Path) -> None:
    """Run benchmarks one after the other."""
    for name in names:
        script = Path(__file__).with_name(f"{name}.py")
        subprocess.run([sys.executable, str(script), "--output", str(output)], check=False)


def main() -> int:
    """Compare; return 1 if there is a regression."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stored", type=Path, nargs="?", default=STORED)
    parser.add_argument("--new", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--run", nargs="+", default=[], choices=NAMES, help="measure these first")
    parser.add_argument("--tolerance", type=float, default=1.25, help="growth of a cost that is none yet")
    parser.add_argument("--adopt", action="store_true", help="store what was measured and write the table")
    options = parser.parse_args()
    run(options.run, options.new)
    console = Console(highlight=False)
    old, new = read(options.stored), read(options.new)
    found = [change for name in new if name in old for change in changes(old[name], new[name])]
    if found:
        console.print(comparison(found, options.tolerance))
    for name in new:
        if name not in old:
            console.print(f"{name}: nothing stored to compare with")
    if options.adopt:
        STORED.mkdir(exist_ok=True)
        for name in new:
            shutil.copy(options.new / f"{name}.json", STORED / f"{name}.json")
        write_table(read(STORED).values())
        console.print(f"stored in {STORED}, table in {README}", soft_wrap=True)
    return int(not options.adopt and any(change.factor > options.tolerance for change in found))


if __name__ == "__main__":
    raise SystemExit(main())
