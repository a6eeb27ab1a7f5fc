"""Scans of a mass: each point is the model at that mass; the record carries everything that is drawn and printed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import model_files
import numpy as np
import pytest
from counting_models import counting

import xeflow
from inference.analysis import Analysis
from inference.model import StatisticalModel
from inference.parameters import Parameter
from inference.physical import physical_interval
from inference.record_store import read_record
from inference.reports.scan import LimitScan, ScanSettings, limit_scan
from inference.reports.scan_plots import plot_scan
from inference.reports.scan_report import scan_text
from inference.results import Interval
from inference.toy_studies import ToySettings, neyman_study
from surrogate.errors import ConfigError

POI = "wimp_rate_multiplier"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    folder = tmp_path_factory.mktemp("scan")
    path = model_files.write_model(folder)
    np.savez(folder / "data.npz", **dict(zip(("sr0", "sr1", "ancillary"), model_files.data(), strict=True)))
    return folder, str(path), str(folder / "data.npz")


def sized_by(interval: Interval, size: float) -> Interval:
    """Return an interval on a parameter that stands for a cross-section."""
    ends = interval.lower.value, interval.upper.value
    return replace(interval, physical=physical_interval(Parameter("mu", "rate", 1.0, unit=f"{size} cm2"), *ends))


def test_scan(files: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    folder, model, data = files
    words = ["scan", model, "--data", data, "--over", "wimp_mass=50,20", "--bands", "40", "--power", "0.5"]
    words += ["--global-toys", "40", "--store", str(folder / "toys"), "--output", str(folder / "out")]
    assert xeflow.main([*words, "--json", str(folder / "scan.json")]) == 0
    shown = capsys.readouterr().out
    found = LimitScan.from_json((folder / "scan.json").read_text())
    assert [p.value for p in found.points] == [20, 50]
    for p in found.points:
        alone = StatisticalModel.from_config(model, nominal_values={"wimp_mass": int(p.value)})
        alone.data = data
        assert p.interval.upper.value == pytest.approx(alone.interval(POI).upper.value, rel=1e-9)
        assert p.interval.best_fit.values["wimp_mass"] == p.value
        assert p.band is not None
        assert p.constrained == max(p.interval.upper.value, p.band.median)
        assert 0 < p.p0 <= 0.5
    assert found.significance.p_toys.trials == 40
    assert found.significance.largest == max(p.q0 for p in found.points)
    assert "median" in shown
    assert "global p" in shown
    assert LimitScan.load(folder / "out" / "scan.json") == found
    assert read_record(folder / "out" / "scan.h5", LimitScan) == found
    assert (folder / "out" / "scan.png").stat().st_size > 0
    assert len(list((folder / "toys").glob("*.h5"))) == 4
    # The figure needs the record alone, and may lack everything but limits.
    labels = {t.get_text() for t in plot_scan(found, "cross section", 1e-47).axes[0].get_legend().get_texts()}
    assert {r"expected $\pm 2\sigma$", r"expected $\pm 1\sigma$", "median expected", "upper limit"} <= labels
    points = tuple(replace(p, band=None, constrained=None) for p in found.points)
    bare = replace(found, points=points, significance=None)
    assert plot_scan(bare).axes[0].get_yscale() == "log"
    assert plot_scan(bare).axes[0].get_ylabel() == "wimp rate multiplier"
    sized = tuple(replace(p, interval=sized_by(p.interval, 1e-45)) for p in points)
    axes = plot_scan(replace(bare, points=sized)).axes[0]
    assert axes.get_ylabel() == "limit [cm2]"
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [1e-45 * p.interval.upper.value for p in points], rtol=1e-12)
    assert "limits on wimp_rate_multiplier [1e-45 cm2]" in scan_text(replace(bare, points=sized))
    assert "median" not in scan_text(replace(bare, power_threshold=None))


def test_a_power_constraint_by_discovery() -> None:
    """n ~ Poisson(mu + 100): a discovery at p = 0.1 has power 0.5 where mu is 1.28 standard deviations."""
    model = Analysis(*counting(100.0))
    model.data = {"run": {"x": np.full(85, 0.5)}}
    settings = ScanSettings("mu", 0.9, "upper", band_toys=1000, power_threshold=0.5, power="discovery")
    (point,) = limit_scan([(1.0, model)], "livetime", settings).points
    assert point.interval.upper.value < 5
    assert point.constrained == pytest.approx(1.2816 * 10, abs=2.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--over", "wimp_mass"], "must be of the form NAME=VALUE,VALUE"),
        (["--over", "wimp_mass=20,x"], "'x' is no number"),
        (["--over", "wimp_mass=20,20"], "given twice"),
        (["--over", "wimp_mss=20"], "did you mean 'wimp_mass'"),
        (
            ["--over", "er_rate_multiplier=1,2"],
            "er_rate_multiplier: it is fitted, not a constant; scan one of the constants",
        ),
        (["--over", "wimp_mass=20,30"], "has no entry for wimp_mass = 30"),
        (["--over", "wimp_mass=20", "--power", "0.16"], "needs the limits of background-only toys"),
        (["--over", "wimp_mass=20", "--power", "0", "--bands", "9"], "power_threshold = 0.0 must lie strictly between"),
    ],
)
def test_bad_scans(
    files: tuple[Path, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert xeflow.main(["scan", files[1], "-d", files[2], "--output", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err


def analyses(n: int) -> list[tuple[float, Analysis]]:
    """Counting experiments with signals of different efficiency: one test, seen at several "masses"."""
    models = []
    for k, scale in enumerate((0.5, 1.0, 2.0)):
        parameters, runs = counting(3.0, scale=scale)
        analysis = Analysis(parameters, runs)
        analysis.data = {"run": {"x": np.full(n, 0.5)}}
        models.append((float(k), analysis))
    return models


def test_a_scan_of_one_test_has_no_trial_factor() -> None:
    """q0 is the same at all values, and so is the significance; limits scale with the efficiency."""
    found = limit_scan(analyses(9), "mass", ScanSettings("mu", global_toys=2000, seed=3))
    q0 = [p.q0 for p in found.points]
    assert q0 == pytest.approx([q0[0]] * 3, rel=1e-9)
    upper = [p.interval.upper.value for p in found.points]
    assert upper == pytest.approx([2 * upper[1], upper[1], upper[1] / 2], rel=1e-8)
    significance = found.significance
    assert significance.upcrossings == 0
    # n >= 9 over a background of 3; 3.5 standard deviations: one false alarm in 2000.
    exact = 0.003802978
    assert abs(significance.p_toys.value - exact) < 3.5 * np.sqrt(exact / 2000)


def test_values_must_increase() -> None:
    with pytest.raises(ConfigError, match="must increase"):
        limit_scan(analyses(3)[::-1], "mass", ScanSettings("mu"))
    with pytest.raises(ConfigError, match="at least one value"):
        limit_scan([], "mass", ScanSettings("mu"))


def test_critical_values_from_toys_at_every_value(tmp_path: Path) -> None:
    """Toys of a count of 9 over 3: the limits agree with the asymptotic ones to the size of the steps of t."""
    settings = ScanSettings("mu", critical_toys=400, band_toys=100, n_points=4, folder=tmp_path)
    found = limit_scan(analyses(9)[:2], "mass", settings)
    asymptotic = limit_scan(analyses(9)[:2], "mass", ScanSettings("mu"))
    assert found.success
    for p, other in zip(found.points, asymptotic.points, strict=True):
        assert p.interval.critical_values == "toys"
        assert p.upper_error > 0
        assert p.interval.upper.value == pytest.approx(other.interval.upper.value, rel=0.15)
        assert other.interval.remarks
        assert p.interval.remarks[: len(other.interval.remarks)] == other.interval.remarks
    stores = {f.name for f in tmp_path.glob("*.h5")}
    assert stores == {f"{study}_{k}.h5" for study in ("neyman", "limits") for k in (0, 1)}
    assert "error" in scan_text(found)


def test_lower_limits_with_critical_values_from_toys() -> None:
    """The same as those of the study of one value, on its grid around both ends."""
    (value, analysis), *_ = analyses(9)
    settings = ScanSettings("mu", 0.9, "lower", critical_toys=200, n_points=4)
    (point,) = limit_scan([(value, analysis)], "mass", settings).points
    alone, _ = neyman_study(analysis, "mu", ToySettings(200, pools=None), n_points=4, kind="lower", cl=0.9)
    assert point.interval.lower.found
    assert (point.interval.critical_values, point.interval.statistic) == ("toys", "l_mu")
    assert point.interval.lower.value == alone.interval.lower.value


def test_a_value_without_an_upper_end_is_recorded_and_the_scan_goes_on() -> None:
    """9 counts over 3 are above any mu below 2: there is no place for toys."""
    bounded = Analysis(*counting(3.0, high=2.0))
    bounded.data = {"run": {"x": np.full(9, 0.5)}}
    settings = ScanSettings("mu", 0.9, critical_toys=100, n_points=4)
    missing, found = limit_scan([(0.0, bounded), (1.0, analyses(9)[1][1])], "mass", settings).points
    assert (missing.interval.upper.status, missing.interval.critical_values) == ("at_bound", "asymptotic")
    assert "has no upper end (at_bound), and so no range for toys" in missing.interval.remarks[-1]
    assert found.interval.upper.found
    assert found.interval.critical_values == "toys"
