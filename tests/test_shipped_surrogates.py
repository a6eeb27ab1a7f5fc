"""Surrogates of the shipped search: certified, small, of the present format, and what their configurations make."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from surrogate.certificate import read_certificate
from surrogate.checkpoint import RECORD_FILE, describe_checkpoint, load_checkpoint
from surrogate.flow_response import FlowResponse
from surrogate.flow_source import FlowSource
from surrogate.nuclear_spectra import wimp_si_spectrum
from training.config import load_config
from training.criteria import Criterion

ROOT = Path(__file__).resolve().parents[1]
SEARCH = ("er", "nr", "cevns_b8", "ac", "wall", "wimp50", "response")
SHIPPED = [path for name in SEARCH if (path := ROOT / "checkpoints" / f"xenon1t_like_{name}").exists()]
every_surrogate = pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in SHIPPED])


@every_surrogate
def test_it_is_certified_and_small(path: Path) -> None:
    certificate = read_certificate(path)
    assert certificate is not None
    assert certificate.passed
    assert {Criterion.from_dict(c).verdict for c in certificate.metrics["criteria"]} == {"ok"}
    content = describe_checkpoint(path)
    assert content["size_bytes"] < 5e6
    source = load_checkpoint(path)
    assert source.identity == content["identity"] == certificate.identity


@every_surrogate
def test_it_is_what_its_configuration_makes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XEFLOW_EVENTS", "XEFLOW_CHECKPOINTS"):
        monkeypatch.delenv(name, raising=False)
    trained = describe_checkpoint(path)["metadata"]["config"]
    shipped = load_config(ROOT / "configs" / "train" / f"{path.name}.yaml").model_dump(mode="json")
    assert set(trained) <= set(shipped)
    for key, value in trained.items():
        same = {k: shipped[key][k] for k in value} if isinstance(value, dict) else shipped[key]
        if isinstance(value, dict) and isinstance(value.get("simulate"), dict):
            same = same | {"simulate": {k: same["simulate"][k] for k in value["simulate"]}}
        assert same == value, key


@every_surrogate
def test_it_says_nothing_of_the_machine_that_made_it(path: Path) -> None:
    text = (path / RECORD_FILE).read_text(encoding="utf-8")
    assert not re.findall(r"/(?:tmp|root|home|work|usr)\b", text)
    assert json.loads(text)["metadata"]["name"] == path.name


@every_surrogate
def test_rate_and_density_are_sound_over_the_whole_range(path: Path) -> None:
    source = load_checkpoint(path)
    assert isinstance(source, FlowSource)
    engine = torch.quasirandom.SobolEngine(max(source.nuisances.dim, 1), scramble=True, seed=1)
    low, high = source.nuisances.bounds(torch.zeros((), dtype=torch.float64))
    theta = low + (high - low) * engine.draw(64, dtype=torch.float64)[:, : source.nuisances.dim]
    mu, error = source.expected_events(theta), source.expected_events_std(theta)
    assert bool((mu > 0).all())
    # at some energies next to none of the recoils is seen
    common = mu > 0.05 if "energy" in source.nuisances.names else mu > 0
    assert float((error / mu)[common].max()) < 0.02
    x = source.sample(64, theta, torch.Generator().manual_seed(1))
    jet = source.density_jet(x, theta)
    assert bool(torch.isfinite(jet.log_scale).all() and torch.isfinite(jet.hessian).all())


def test_the_response_folded_with_a_spectrum_is_the_surrogate_of_that_spectrum() -> None:
    """Rates to 1 % and ln f to 0.06 (rms) against the flow trained on WIMPs of 50 GeV, at 8 points of theta."""
    direct = load_checkpoint(ROOT / "checkpoints" / "xenon1t_like_wimp50")
    response = load_checkpoint(ROOT / "checkpoints" / "xenon1t_like_response")
    folded = FlowResponse(response).fold(wimp_si_spectrum(50.0, 1e-47))
    low, high = direct.nuisances.bounds(torch.zeros((), dtype=torch.float64))
    theta = low + (high - low) * torch.rand(8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert float((folded.expected_events(theta) / direct.expected_events(theta) - 1).abs().max()) < 0.01
    rows = theta.repeat_interleave(50, dim=0)
    x = direct.sample(400, rows, torch.Generator().manual_seed(2)).double()
    difference = folded.log_prob(x, rows) - direct.log_prob(x, rows)
    assert float(difference.square().mean().sqrt()) < 0.06
    assert abs(float(difference.mean())) < 0.01
