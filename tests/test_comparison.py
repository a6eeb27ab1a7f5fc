"""Two models on the same data: the binned and the unbinned likelihood of templates agree, other templates do not."""

from __future__ import annotations

import json
from pathlib import Path

import model_files
import numpy as np
import pytest

import xeflow
from inference.model import StatisticalModel
from inference.reports.comparison import ModelComparison, compare_models
from inference.reports.comparison_plots import plot_comparison
from surrogate.errors import ConfigError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model twice: with all runs binned, and with all runs unbinned."""
    folder = tmp_path_factory.mktemp("comparison")
    text = model_files.write_model(folder).read_text()
    (folder / "binned.yaml").write_text(text.replace("UnbinnedLog", "BinnedLog"))
    (folder / "unbinned.yaml").write_text(text.replace("UnbinnedLog", "BinnedLog").replace("BinnedLog", "UnbinnedLog"))
    np.savez(folder / "data.npz", **dict(zip(("sr0", "sr1", "ancillary"), model_files.data(), strict=True)))
    return folder


def model(path: Path) -> StatisticalModel:
    built = StatisticalModel.from_config(path)
    built.data = model_files.data()
    return built


def test_templates_serve_binned_and_unbinned_runs_alike(folder: Path) -> None:
    found = compare_models(model(folder / "binned.yaml"), model(folder / "unbinned.yaml"))
    assert found.success
    assert found.upper_ratio == pytest.approx(1.0, abs=1e-6)
    assert max(abs(shift) for shift in found.shifts.values() if shift is not None) < 1e-4
    assert found.first.best_fit.log_likelihood != pytest.approx(found.second.best_fit.log_likelihood)
    assert ModelComparison.from_json(found.to_json()) == found


def test_names_that_begin_with_an_underscore_are_in_the_legend(folder: Path) -> None:
    found = compare_models(model(folder / "binned.yaml"), model(folder / "binned.yaml"))
    legend = plot_comparison(found, ("_first", "second")).axes[0].get_legend()
    texts = [text.get_text() for text in legend.get_texts()]
    assert any("_first\n" in text for text in texts)
    assert any(text.startswith("second\n") for text in texts)


def test_another_model_is_told_apart(folder: Path) -> None:
    other = model(folder / "binned.yaml")
    other.set_fit_guesses(er_rate_multiplier=1.2)
    first = model(folder / "binned.yaml")
    found = compare_models(first, other, fixed={"er_shift": 0.5}, kind="upper", confidence_level=0.95)
    assert found.upper_ratio == pytest.approx(1.0, abs=1e-6)
    assert found.lower_ratio is None
    assert "er_shift" not in found.shifts
    with pytest.raises(ConfigError, match="parameter of interest 'nothing'"):
        compare_models(first, other, poi="nothing")


def test_the_verb_writes_record_and_figure(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", str(folder / "binned.yaml"), str(folder / "unbinned.yaml"), "-d", str(folder / "data.npz")]
    assert xeflow.main([*words, "--output", str(tmp_path), "--json", str(tmp_path / "copy.json")]) == 0
    shown = capsys.readouterr().out
    assert "upper limits on wimp_rate_multiplier" in shown
    assert "ratio 1.00000" in shown
    assert json.loads((tmp_path / "copy.json").read_text()) == json.loads((tmp_path / "comparison.json").read_text())
    assert (tmp_path / "comparison.png").stat().st_size > 0
