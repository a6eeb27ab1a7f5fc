"""The verbs fit, limit and convert-alea: what they print and write, and their exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import model_files
import numpy as np
import pytest

import xeflow
from inference.profiles.corner import Corner
from inference.record_store import read_record
from inference.results import FitResult, Interval, ProfileCurve


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("cli")
    path = model_files.write_model(folder)
    np.savez(folder / "data.npz", **dict(zip(("sr0", "sr1", "ancillary"), model_files.data(), strict=True)))
    return str(path), str(folder / "data.npz")


def test_limit(files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "limit.json"
    code = xeflow.main(
        ["limit", files[0], "--data", files[1], "--output", str(tmp_path / "out"), "--json", str(record)]
    )
    assert code == 0
    shown = capsys.readouterr().out
    interval = Interval.from_json(record.read_text())
    assert interval.upper.value == pytest.approx(6.593226, rel=1e-4)
    assert "90 % upper limit on wimp_rate_multiplier: 6.59" in shown
    assert "er_rate_multiplier" in shown
    assert "run sr1: 45 events" in shown
    figures = ("projections.png", "profile.png", "pulls.png", "summary.png")
    for name in ("result.json", "summary.txt", "profile.json", *figures):
        assert (tmp_path / "out" / name).stat().st_size > 0
    assert str(tmp_path / "out" / "profile.png") in shown.replace("\n", "")
    assert Interval.load(tmp_path / "out" / "result.json") == interval
    assert read_record(tmp_path / "out" / "result.h5", Interval, "result") == interval
    assert interval.remarks == ("run sr0: 12 events", "run sr1: 45 events")
    curve = ProfileCurve.load(tmp_path / "out" / "profile.json")
    assert curve.grid[0] < 1.56 < 6.59 < curve.grid[-1]
    assert "correlations" in (tmp_path / "out" / "summary.txt").read_text()


def test_profile_errors_on_request(files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", files[0], "-d", files[1], "--output", str(tmp_path), "--set", "wimp_rate_multiplier=0"]
    assert xeflow.main([*words, "--errors", "profile"]) == 0
    fit = read_record(tmp_path / "result.h5", FitResult, "result")
    assert FitResult.from_json(fit.to_json()) == fit
    errors = {e.parameter: e for e in fit.profile_errors}
    assert set(errors) == {name for name, e in fit.errors.items() if name not in fit.fixed}
    rate = errors["er_rate_multiplier"]
    assert rate.up is not None
    assert rate.down is not None
    assert rate.up > -rate.down > 0.5 * (fit.errors["er_rate_multiplier"] or 0)
    assert f"{rate.up:+.3g} {rate.down:+.3g}" in capsys.readouterr().out


def test_pairs_of_parameters_are_profiled_on_request(files: tuple[str, str], tmp_path: Path) -> None:
    words = ["fit", files[0], "-d", files[1], "--output", str(tmp_path)]
    assert xeflow.main([*words, "--corner", "wimp_rate_multiplier,er_rate_multiplier"]) == 0
    assert (tmp_path / "corner.png").stat().st_size > 0
    found = read_record(tmp_path / "result.h5", Corner, "corner")
    fit = read_record(tmp_path / "result.h5", FitResult, "result")
    assert found.best_fit.values == pytest.approx(fit.values, rel=1e-5)
    assert [(p.x, p.y) for p in found.planes] == [("wimp_rate_multiplier", "er_rate_multiplier")]
    assert xeflow.main([*words, "--corner", "wimp_rate_multiplier"]) == 2


def test_fit_writes_only_the_record_to_standard_output(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = xeflow.main(
        ["fit", files[0], "-d", files[1], "--output", str(tmp_path), "--set", "er_shift=0.5", "--json", "-"]
    )
    assert code == 0
    streams = capsys.readouterr()
    result = FitResult.from_json(streams.out)
    assert result.values["er_shift"] == 0.5
    assert "er_shift" in result.fixed
    assert "best fit" in streams.err


def test_other_mass_and_kind(files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "limit",
        files[0],
        "-d",
        files[1],
        "--output",
        str(tmp_path),
        "--nominal",
        "wimp_mass=20",
        "--kind",
        "upper",
    ]
    assert xeflow.main([*words, "--confidence-level", "0.95", "--json", "-"]) == 0
    streams = capsys.readouterr()
    found = json.loads(streams.out)
    assert found["best_fit"]["values"]["wimp_mass"] == 20
    assert found["lower"]["status"] == "not_requested"
    assert "95 % upper limit" in streams.err
    assert "lower limit" not in streams.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "er_shfit=0"], "unknown parameter 'er_shfit'; did you mean 'er_shift'"),
        (["--set", "er_shift"], "--set er_shift: must be of the form NAME=VALUE"),
        (["--set", "er_shift=a"], "'a' is no number"),
        (["--set", "er_shift=0", "--set", "er_shift=1"], "'er_shift' is given twice"),
        (["--set", "er_shift=9"], "er_shift cannot be fixed at 9"),
        (["--nominal", "wimp_mass=30"], "has no entry for wimp_mass = 30"),
        (["--poi", "wimp_multiplier"], "unknown parameter 'wimp_multiplier'; did you mean 'wimp_rate_multiplier'"),
        (["--critical", "toy"], "critical values: 'toy' is neither 'asymptotic' nor 'toys', nor a file"),
        (["--confidence-level", "90"], "confidence_level = 90.0 must lie between 0 and 1"),
        (["--template", "er=none.h5"], "'none.h5' was found in none of"),
        (["--template-path", "nowhere"], "--template-path (template_path in Python): 'nowhere' is no directory"),
        (["--index", "3"], "holds one data set; number 3 does not exist"),
    ],
)
def test_bad_options_end_with_2_and_one_message(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert xeflow.main(["limit", files[0], "-d", files[1], "--output", str(tmp_path / "o"), *words]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def test_a_pickle_ends_with_2(files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "real_data.pkl").write_bytes(b"\x80\x04.")
    assert xeflow.main(["limit", files[0], "-d", str(tmp_path / "real_data.pkl")]) == 2
    assert "numpy.savez" in capsys.readouterr().err


def test_an_output_that_cannot_be_written(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert xeflow.main(["fit", files[0], "-d", files[1], "--output", str(tmp_path / "file")]) == 2
    assert "file" in capsys.readouterr().err


@pytest.mark.shared
def test_limits_of_the_release(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shared / "data" / "xenonnt_light_wimp"
    pattern = "wimp=wimp_si/template_XENONnT_{run:lower}_wimp_si_6_cevns_tly_{t_ly:.1f}_tqy_{t_qy:.1f}.h5"
    words = ["limit", str(folder / "statistical_model_base.yaml"), "--data", str(folder / "science_data.h5")]
    words += ["--template-path", str(folder), "--template", pattern, "--output", str(tmp_path), "--json", "-"]
    assert xeflow.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["upper"]["value"] == pytest.approx(2.6558587789, rel=1e-6)
    assert found["lower"]["value"] is None
