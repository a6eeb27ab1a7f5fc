"""What is installed without a checkout: configurations and surrogates come along and find one another."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import xeflow
from inference.configuration.search_path import SearchPath
from surrogate.checkpoint import describe_checkpoint, load_checkpoint
from surrogate.errors import CheckpointError, ConfigError
from surrogate.shipped import SHIPPED_CONFIGS, config_path

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
from pathlib import Path
import surrogate
from inference.configuration.assembly import assemble
from training.simulator_config import read_detector
run, = assemble("xenon1t_like").runs
print(Path(surrogate.__file__).parents[1], read_detector("lz_like").name, *(c.name for c in run.sources))
"""


def test_names_lead_to_shipped_configurations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert config_path("models", "xenon1t_like") == SHIPPED_CONFIGS / "models" / "xenon1t_like.yaml"
    assert config_path("models", "own.yaml") == Path("own.yaml")
    (tmp_path / "own").touch()
    assert config_path("models", "own") == Path("own")
    listed = "xenon1t_like, xenon1t_like_masses, xenonnt_light_wimp"
    with pytest.raises(ConfigError, match=rf"unknown model 'xenon1t_lik': .*{listed}"):
        config_path("models", "xenon1t_lik")


def test_models_may_name_shipped_surrogates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    places = SearchPath.of(tmp_path / "model.yaml", None, None)
    assert places.find("xenon1t_like_ac", "surrogate") == places.find("checkpoints/xenon1t_like_ac", "surrogate")


def test_names_lead_to_shipped_surrogates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = ROOT / "checkpoints" / "xenon1t_like_ac"
    assert load_checkpoint("xenon1t_like_ac").identity == load_checkpoint(shipped).identity
    assert xeflow.main(["inspect", "xenon1t_like_ac", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == describe_checkpoint(shipped)
    assert xeflow.main(["validate", "xenon1t_like"]) == 2
    named = ", ".join(sorted(folder.name for folder in shipped.parent.iterdir()))
    assert f"unknown surrogate 'xenon1t_like': there is no such path, and the shipped ones are {named}" in (
        capsys.readouterr().err
    )
    (tmp_path / "xenon1t_like_ac").mkdir()  # what lies here comes first
    with pytest.raises(CheckpointError, match="no file surrogate"):
        load_checkpoint("xenon1t_like_ac")


def test_a_wheel_works_outside_a_checkout(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    for name in (*(package.rstrip("*") for package in packages), "pyproject.toml", "README.md", "LICENSE", "xeflow.py"):
        path = ROOT / name
        (shutil.copytree if path.is_dir() else shutil.copy)(path, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    made = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env={"PYTHONPATH": str(site)}, capture_output=True, text=True
    )
    assert made.stdout.split() == [str(site), "lz_like", "er", "nr", "cevns_b8", "ac", "wall", "wimp"], made.stderr
