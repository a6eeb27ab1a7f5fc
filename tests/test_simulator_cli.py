"""The verbs of simulator and event files."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from training.events import EventFile
from training.simulation import simulate_to_file
from training.simulator_cli import convert_events, plot_events, validate_simulator
from training.simulator_config import standard_plan


def test_convert_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["s1"] = np.arange(10.0)
    (tmp_path / "mapping.yaml").write_text("observables: [{name: s1, unit: PE, low: 0, high: 9}]\n")
    out = tmp_path / "events.h5"
    assert convert_events(tmp_path / "mapping.yaml", [tmp_path / "foreign.h5"], out, Path("-")) == 0
    assert json.loads(capsys.readouterr().out)["n_kept"] == 10
    with EventFile.open(out) as events:
        assert events.n_events == 10


def test_plot_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate_to_file(standard_plan("xenonnt_like", "er", 30_000, 1), tmp_path / "er.h5", workers=1)
    assert plot_events([tmp_path / "er.h5"], tmp_path / "figures", tmp_path / "record.json") == 0
    written = json.loads((tmp_path / "record.json").read_text())["figures"]
    assert [Path(name).name for name in written] == ["er_projections.png", "bands.png"]
    assert all(Path(name).stat().st_size > 0 for name in written)
    assert "figures" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.shared
def test_validate_simulator(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release = shared / "data" / "xenonnt_light_wimp"
    code = validate_simulator(release, nest=False, figure=tmp_path / "report.png", json_file=tmp_path / "report.json")
    assert code == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["passed"] is True
    assert len(report["comparisons"]) == 20
    assert (tmp_path / "report.png").exists()
    assert "8B rate" in capsys.readouterr().out
