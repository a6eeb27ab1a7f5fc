"""Summaries of coverage with data sets of a simulator: what they say of data sets that are the model's, or are not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from coverage_summary import PointSummary, plot, remarks, spread_p_values, summarise, table  # noqa: E402

NAMES = ("signal", "background")
N_SETS, N_TOYS = 8000, 6000


def fits(n: int, seed: int, shift: float = 0.0, failed: int = 0) -> dict[str, np.ndarray]:
    """Fits of two normal estimates of unit error; t is the square of the pull of the first."""
    rng = np.random.default_rng(seed)
    estimates = rng.normal(size=(n, 2)) + np.array([shift, 0.0])
    return {
        "t": estimates[:, 0] ** 2,
        "valid": np.arange(n) >= failed,
        "deviation": np.where(np.arange(n) % 32 == 0, 0.01, np.nan),
        "again": np.arange(n) < failed,
        "estimates": np.where((np.arange(n) < failed)[:, None], np.nan, estimates),
        "pulls": estimates,
        "shift": np.array([shift, 0.0]),
        "cpu": np.array([1.0, 2.0]),
    }


def outcome(shift: float = 0.0, failed: int = 0) -> PointSummary:
    return summarise("nominal", 3.0, NAMES, fits(N_TOYS, 1), fits(N_SETS, 2, shift, failed))


def test_data_sets_of_the_model_are_covered_as_asked() -> None:
    found = outcome()
    assert abs(found.coverage.value - 0.9) < 3 * found.coverage.error
    assert found.coverage.error == pytest.approx((0.09 / N_SETS + 0.09 / N_TOYS) ** 0.5, rel=0.05)
    assert found.asymptotic["low"] < found.asymptotic["value"] < found.asymptotic["high"]
    assert found.critical.value == pytest.approx(stats.chi2(1).isf(0.1), abs=4 * found.critical.error)
    assert found.p_same > 1e-3
    assert stats.kstest(found.p_values, "uniform").pvalue > 1e-3
    assert all(abs(m.value) < 4 * m.error for m in found.bias.values())
    assert all(abs(m.value - 1) < 4 * m.error for m in found.width.values())
    assert found.pulls["background"] == pytest.approx((0.0, 1.0), abs=0.05)
    assert found.deviation == pytest.approx((0.01, 0.01))
    assert found.cpu_s == (3.0, 3.0)


def test_a_bias_shows_in_coverage_and_in_its_parameter() -> None:
    found, normal = outcome(shift=0.5), stats.norm
    wanted = normal.cdf(1.645 - 0.5) - normal.cdf(-1.645 - 0.5)
    assert found.coverage.value == pytest.approx(wanted, abs=4 * found.coverage.error)
    assert found.bias["signal"].value == pytest.approx(0.5, abs=4 * found.bias["signal"].error)
    assert abs(found.bias["background"].value) < 4 * found.bias["background"].error
    assert found.predicted == {"signal": 0.5, "background": 0.0}
    assert found.p_same < 1e-6


def test_data_sets_without_valid_fits_are_not_covered() -> None:
    assert outcome(failed=800).asymptotic["value"] == pytest.approx(0.9 * (1 - 800 / N_SETS), abs=0.02)
    assert (outcome(failed=800).n_failed, outcome(failed=800).n_again) == (800, 800)


def test_p_values_of_ties_are_spread() -> None:
    p = spread_p_values(np.zeros(4000), np.concatenate([np.zeros(500), np.ones(500)]))
    assert p.min() == pytest.approx(0.5, abs=0.01)
    assert stats.kstest(p, stats.uniform(0.5, 0.5).cdf).pvalue > 1e-3


def test_a_summary_is_written_and_drawn(tmp_path: Path) -> None:
    found = [outcome(), outcome(shift=0.5)]
    rows = table(found, "signal").splitlines()
    assert len(rows) == 4
    assert len({row.count("|") for row in rows}) == 1
    assert "| background" in rows[-1]
    assert f"data sets {2 * N_SETS}, toys {2 * N_TOYS}, without valid fits 0" in remarks(found)
    stored = json.loads(json.dumps(found[0].to_dict()))
    assert sum(stored["p_values"]) == N_SETS
    assert plot(found, tmp_path / "f.png").stat().st_size > 10_000
