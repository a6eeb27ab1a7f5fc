"""Records of benchmarks: written, read and compared. What they measure is measured elsewhere."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import compare  # noqa: E402
from measure import Cost, measure, side_by_side  # noqa: E402
from records import Peer, Record, Results  # noqa: E402

PEERS = (Peer("slow 1.0", 30.0, "measured"), Peer("old 2.0", 10.0, "cited"))
RECORDS = (
    Record("a fit", 0.5, "CPU s", target=1.0, target_ratio=10, peers=PEERS, cost=Cost(0.5, 0.6, 300.0, 5)),
    Record("densities", 4e5, "1/s", "higher", target=5e5),
    Record("slope", 1.0, "", scales=False),
)
RESULTS = Results("case", "python benchmarks/case.py", RECORDS, {"calibration_s": 0.02, "processor": "x"}, {}, "today")


def test_records_survive_their_file(tmp_path: Path) -> None:
    assert Results.read(RESULTS.write(tmp_path)) == RESULTS


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = replace(RESULTS, format=0).write(tmp_path)
    with pytest.raises(SystemExit, match="run the benchmark again"):
        Results.read(path)


def test_ratios_are_to_the_best_peer_and_targets_hold_both_ways() -> None:
    fit, densities, slope = RECORDS
    assert fit.ratio == pytest.approx(20.0)
    assert (fit.reached, densities.reached, slope.reached) == (True, False, None)
    assert replace(fit, value=1.0, target_ratio=11).reached is False


def test_a_slower_machine_is_no_regression() -> None:
    slower = {**RESULTS.machine, "calibration_s": 0.04}
    records = (replace(RECORDS[0], value=1.0), replace(RECORDS[1], value=1e5), replace(RECORDS[2], value=1.5))
    factors = [c.factor for c in compare.changes(RESULTS, replace(RESULTS, records=records, machine=slower))]
    assert factors == pytest.approx([1.0, 2.0, 1.5])


def test_costs_are_counted_for_every_candidate() -> None:
    calls: list[str] = []
    costs = side_by_side({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=2)
    assert calls == ["a", "b"] * 3
    assert all(cost.repeats == 2 and cost.cpu_s >= 0 and cost.peak_mib > 0 for cost in costs.values())
    assert measure(lambda: sum(range(10**5)), repeats=1).cpu_s > 0


def test_stored_figures_are_those_of_the_table() -> None:
    stored = compare.read(BENCHMARKS / "results")
    table = (BENCHMARKS / "README.md").read_text().split(compare.BEGIN)[1].split(compare.END)[0]
    assert compare.markdown(stored.values()).strip() == table.strip()
