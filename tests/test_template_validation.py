"""Surrogates against templates: deviations in closed form, exactness where a surrogate made the templates itself."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import template_cases
import torch
import yaml

import xeflow
from surrogate.errors import ConfigError, RangeError
from surrogate.flow import ConditionalFlow
from surrogate.flow_config import FlowConfig
from surrogate.nuisance import NuisanceSpace
from training.event_set import UnitEvents
from training.template_validation import compare_with_templates, deviation
from training.validation_density import normalisation, score_bias
from training.validation_job import validate_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("templates")
    template_cases.write_set(folder, template_cases.surrogate(spread=0.5))
    return folder


def test_deviations_in_closed_form() -> None:
    template = torch.tensor([1.0, 2.0, 5.0, 0.0], dtype=torch.float64)
    expected = torch.tensor([1.1, 2.0, 4.5, 0.4], dtype=torch.float64)
    found = deviation(expected, template, exposure=4.0)
    assert found.rate == pytest.approx(8.0 / 8.0 - 1, abs=1e-12)
    shape = 0.0125**2 / 0.125 + (0.0625**2) / 0.625 + 0.05
    assert found.shape == pytest.approx(math.sqrt(shape))
    assert found.chi2 == pytest.approx(4 * (0.01 / 1 + 0.25 / 5 + 0.4))
    assert found.largest_pull == pytest.approx(math.sqrt(4 * 0.4))
    assert deviation(2 * template, template, 1.0).rate == pytest.approx(1.0)


def test_a_surrogate_agrees_with_its_own_templates(folder: Path, tmp_path: Path) -> None:
    """And morphing between every second of them does not, off the anchors that it has."""
    block = template_cases.description(folder) | {"keep": template_cases.KEPT}
    path = template_cases.write_checkpoint(tmp_path / "own", template_cases.surrogate(spread=0.5), block)
    found = compare_with_templates(path, folder, exposure=3.0)
    assert {word: len(anchors) for word, anchors in found.groups().items()} == {"trained on": 9, "left out": 6}
    for anchor in found.anchors:
        assert abs(anchor.surrogate.rate) < 1e-12
        assert anchor.surrogate.chi2 < 1e-12
        assert anchor.morphing is not None
        assert (anchor.morphing.chi2 < 1e-12) == anchor.trained
    rows = found.summary()
    assert [(row["anchors"], row["of"]) for row in rows] == [
        ("trained on", "surrogate"),
        ("left out", "surrogate"),
        ("left out", "morphing"),
    ]
    assert rows[2]["shape_rms"] > 0.001


def test_smooth_densities_are_integrated(tmp_path: Path) -> None:
    source = template_cases.surrogate("logistic_mixture")
    template_cases.write_set(tmp_path, source)
    (tmp_path / "set.yaml").write_text(yaml.safe_dump(template_cases.description(tmp_path)))
    path = template_cases.write_checkpoint(tmp_path / "own", source)
    found = compare_with_templates(path, tmp_path / "set.yaml")
    assert set(found.groups()) == {"all"}
    assert max(a.surrogate.shape for a in found.anchors) < 1e-3
    assert all(a.morphing is None for a in found.anchors)
    with pytest.raises(ConfigError, match="was not trained on templates"):
        compare_with_templates(path, tmp_path)


def test_a_histogram_sums_to_one(folder: Path) -> None:
    theta = torch.tensor([0.3, -0.7], dtype=torch.float64)
    assert normalisation(template_cases.surrogate(spread=0.5).flow, theta) == pytest.approx(1.0, abs=1e-12)


def test_without_nuisance_parameters_there_is_no_score() -> None:
    flow = ConditionalFlow(FlowConfig(template_cases.SPACE, NuisanceSpace(), "histogram", hidden=8, blocks=1))
    events = UnitEvents(torch.rand(50, 2), torch.zeros(50, 0), torch.ones(50))
    assert score_bias(flow, events, torch.zeros(50, dtype=torch.int64)).bias.shape == (1, 0)


@pytest.mark.slow
def test_fresh_draws_certify_a_surrogate_of_templates(folder: Path, tmp_path: Path) -> None:
    """One that made the templates passes; one of another shape and the same rate fails by its shape alone."""
    block = template_cases.description(folder)
    own = template_cases.write_checkpoint(tmp_path / "own", template_cases.surrogate(spread=0.5), block)
    assert validate_checkpoint(own, [], 30_000, seed=1).passed
    other = template_cases.write_checkpoint(tmp_path / "other", template_cases.surrogate(spread=0.3), block)
    failed = {c.name for c in validate_checkpoint(other, [], 30_000, seed=1).criteria if not c.passed}
    assert "projection" in failed
    assert not failed & {"normalisation", "rate"}


def test_the_verb_prints_writes_and_draws(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    block = template_cases.description(folder) | {"keep": template_cases.KEPT}
    path = template_cases.write_checkpoint(tmp_path / "own", template_cases.surrogate(spread=0.5), block)
    words = ["validate", str(path), "--templates", str(folder), "--exposure", "2", "--figures", str(tmp_path)]
    assert xeflow.main([*words, "--json", str(tmp_path / "record.json")]) == 0
    assert "3 x 2 bins, exposure 2" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "templates.png").stat().st_size > 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert len(record["anchors"]) == 15
    assert record["summary"][1]["of"] == "surrogate"


def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    path = template_cases.write_checkpoint(tmp_path / "own", template_cases.surrogate())
    block = template_cases.description(folder)

    def described(**changes: object) -> Path:
        (tmp_path / "set.yaml").write_text(yaml.safe_dump(block | changes))
        return tmp_path / "set.yaml"

    with pytest.raises(ConfigError, match="parameters are t_qy, t_ly"):
        compare_with_templates(path, described(nuisances=block["nuisances"][::-1]))
    with pytest.raises(ConfigError, match="exposure"):
        compare_with_templates(path, described(), exposure=0.0)
    shifted = [n | {"anchors": [v + 9 for v in n["anchors"]], "nominal": 9} for n in block["nuisances"]]
    for t_ly in shifted[0]["anchors"]:
        for t_qy in shifted[1]["anchors"]:
            (folder / f"wimp_{t_ly:.1f}_{t_qy:.1f}.h5").write_bytes((folder / "wimp_0.0_0.0.h5").read_bytes())
    with pytest.raises(RangeError, match="no anchor"):
        compare_with_templates(path, described(nuisances=shifted))
