"""Every shipped configuration is read by the reader of its folder, and the names in it lead somewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from inference.configuration.alea import read_alea
from inference.configuration.assembly import assemble
from training.config import load_config
from training.event_mapping import read_mapping
from training.simulator_config import read_detector, read_simulation

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

READERS: dict[str, Callable[[Path], object]] = {
    "detectors": read_detector,
    "events": read_mapping,
    "models": read_alea,
    "simulate": read_simulation,
    "train": load_config,
}


def shipped(folder: str) -> list[Path]:
    return sorted((CONFIGS / folder).rglob("*.yaml"))


def named(paths: list[Path]) -> list:
    return [pytest.param(path, id=str(path.relative_to(CONFIGS))) for path in paths]


def test_every_folder_has_a_reader_and_every_reader_a_file():
    assert {path.relative_to(CONFIGS).parts[0] for path in CONFIGS.rglob("*") if path.is_file()} == set(READERS)
    assert {path.suffix for path in CONFIGS.rglob("*") if path.is_file()} == {".yaml"}


@pytest.mark.parametrize("path", named([path for folder in READERS for path in shipped(folder)]))
def test_it_can_be_read(path, monkeypatch, tmp_path):
    monkeypatch.setenv("XEFLOW_SHARED", str(tmp_path))
    READERS[path.relative_to(CONFIGS).parts[0]](path)


@pytest.mark.parametrize("path", named(shipped("train")))
def test_what_a_training_simulates_exists(path, monkeypatch, tmp_path):
    monkeypatch.setenv("XEFLOW_SHARED", str(tmp_path))
    simulate = load_config(path).data.simulate
    if simulate is not None:
        simulate.build(CONFIGS / "simulate")


def of_surrogates_alone(path: Path) -> bool:
    text = path.read_text()
    return "surrogate:" in text and "template_filename:" not in text


@pytest.mark.parametrize("path", named([path for path in shipped("models") if of_surrogates_alone(path)]))
def test_models_of_shipped_surrogates_come_alive(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    pieces = assemble(path)
    assert not [c.name for run in pieces.runs for c in run.sources if not c.source.observables.names]
