"""The detector: maps, coincidences, signals, descriptions in YAML."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from surrogate.errors import ConfigError
from surrogate.shipped import SHIPPED_CONFIGS
from training.simulator.detector import Detector, EfficiencyCurve
from training.simulator.signals import coincidence_probability, extracted_electrons, s1_area, s1_finding_table, s2_area
from training.simulator.spaces import SPACES, observable_space
from training.simulator_config import read_detector

NAMES = sorted(path.stem for path in (SHIPPED_CONFIGS / "detectors").glob("*.yaml"))


@pytest.fixture(scope="module")
def detector() -> Detector:
    return read_detector("xenonnt_like")


@pytest.mark.parametrize("name", NAMES)
def test_maps_have_unit_mean_in_the_fiducial_volume(name: str) -> None:
    d = read_detector(name)
    n = 400
    steps = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    r = d.selection.r_max * steps.sqrt()
    z = d.selection.z[0] + (d.selection.z[1] - d.selection.z[0]) * steps
    grid_r, grid_z = torch.meshgrid(r, z, indexing="ij")
    assert float(d.light_collection(grid_r, grid_z).mean()) == pytest.approx(1.0, abs=1e-5)
    assert float(d.s2_response(r).mean()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_shipped_detectors_are_complete(name: str) -> None:
    d = read_detector(name)
    assert d.name == name
    assert d.references
    assert all(reference.startswith("arXiv:") for reference in d.references)
    for space, columns in SPACES.items():
        assert observable_space(d, space).names == columns
    r, low, high = d.generation_volume()
    assert r <= d.radius
    assert -d.height <= low < high <= 0
    assert d.volume_ratio() >= 1


@pytest.mark.parametrize("fold", [1, 2, 3])
@pytest.mark.parametrize("hits", [0, 1, 2, 3, 4, 5])
def test_coincidence_by_enumeration(fold: int, hits: int) -> None:
    """All ways to put up to five photons on four sensors."""
    ways = list(itertools.product(range(4), repeat=hits))
    found = sum(len(set(way)) >= fold for way in ways) / len(ways)
    assert coincidence_probability(hits, 4, fold) == pytest.approx(found, abs=1e-12)


def test_finding_table_becomes_one(detector: Detector) -> None:
    table = s1_finding_table(detector)
    assert table[-1] == 1.0
    assert bool((table.diff() >= 0).all())
    custom = s1_finding_table(replace(detector, s1_efficiency=(0.0, 0.1, 0.2)))
    assert custom[:4].tolist() == pytest.approx([0.0, 0.1, 0.2, 1.0])


def test_s1_area_moments(detector: Detector) -> None:
    """Mean n (1 + p); variance n p (1 - p) + spe^2 n (1 + p)."""
    n, p, spe = 40.0, detector.double_pe, detector.spe_resolution
    area = s1_area(torch.full((400_000,), n), detector, torch.Generator().manual_seed(1))
    assert float(area.mean()) == pytest.approx(n * (1 + p), rel=1e-3)
    assert float(area.var()) == pytest.approx(n * p * (1 - p) + spe**2 * n * (1 + p), rel=0.01)


def test_s2_moments(detector: Detector) -> None:
    """Electrons survive with ext exp(-t/elife); each gives G s2(r) +- sigma."""
    n, t, r = 2000.0, 500.0, 20.0
    elife = torch.tensor(800.0)
    generator = torch.Generator().manual_seed(1)
    count = 200_000
    extracted = extracted_electrons(torch.full((count,), n), torch.full((count,), t), elife, detector, generator)
    p = detector.extraction * math.exp(-t / 800.0)
    assert float(extracted.mean()) == pytest.approx(n * p, rel=1e-3)
    assert float(extracted.var()) == pytest.approx(n * p * (1 - p), rel=0.02)
    area = s2_area(torch.full((count,), 100.0), torch.full((count,), r), detector, generator)
    gain = detector.electron_gain * float(detector.s2_response(torch.tensor(r)))
    assert float(area.mean()) == pytest.approx(100 * gain, rel=1e-3)
    assert float(area.std()) == pytest.approx(10 * detector.electron_spread, rel=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": -1.0}, "radius = -1.0 must be > 0"),
        ({"elife": 0.0}, "elife"),
        ({"g1": 1.5}, "g1 = 1.5"),
        ({"g1": 0.9}, "brightest place"),
        ({"double_pe": -0.1}, "double_pe"),
        ({"double_pe": 1.1}, "double_pe"),
        ({"extraction": 0.0}, "extraction"),
        ({"drift_field": 0.0}, "drift_field"),
        ({"density": 1.0}, "density"),
        ({"coincidence": 5}, "coincidence"),
        ({"n_pmts": 2}, "n_pmts"),
        ({"light_map": (-1.5, 0.0, 0.0, 0.0)}, "light_map"),
        ({"s2_map": (-1.2, 0.0)}, "s2_map"),
        ({"s1_efficiency": (0.0, 2.0)}, "s1_efficiency"),
        ({"height": math.nan}, "height = nan must be finite"),
        ({"xy_resolution": (-1.0, 0.1)}, "xy_resolution"),
        ({"rates": {"er": -1.0}}, "rates: er"),
    ],
)
def test_impossible_detectors(detector: Detector, change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(detector, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r_max": 100.0}, "r_max = 100.0 must be <= 66.4"),
        ({"z": (-200.0, -10.0)}, "z"),
        ({"z": (-10.0, -20.0)}, "low < high"),
        ({"cs1": (5.0, 3.0)}, "cs1"),
        ({"cs2": (0.0, 3.0)}, "cs2"),
        ({"efficiency": 0.0}, "efficiency"),
        ({"s2_min": -1.0}, "s2_min"),
    ],
)
def test_impossible_selections(detector: Detector, change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(detector, selection=replace(detector.selection, **change))


def test_impossible_curves() -> None:
    with pytest.raises(ConfigError, match="increasing"):
        EfficiencyCurve("cs1", (2.0, 1.0), (0.0, 1.0))
    with pytest.raises(ConfigError, match=r"\[0, 1\]"):
        EfficiencyCurve("cs1", (1.0, 2.0), (0.0, 1.5))


def test_unknown_names(detector: Detector) -> None:
    with pytest.raises(ConfigError, match=r"shipped ones are .*; did you mean 'xenon1t_like'"):
        read_detector("xenon1t")
    with pytest.raises(ConfigError, match="unknown space 'D'"):
        observable_space(detector, "D")


def write(tmp_path: Path, old: str, new: str) -> Path:
    text = (SHIPPED_CONFIGS / "detectors" / "lz_like.yaml").read_text()
    assert old in text
    path = tmp_path / "detector.yaml"
    path.write_text(text.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("drift_field:", "drift_feld:", "unknown key 'drift_feld'; did you mean 'drift_field'"),
        ("  r_max:", "  rmax:", "selection: unknown key 'rmax'; did you mean 'r_max'"),
        ("extraction: 0.805", "", "extraction: Field required|extraction"),
        ("radius: 72.8", "radius: wide", "radius: .*valid number"),
        ("radius: 72.8", "radius: -3", "radius = -3"),
        ("area_unit: phd", "area_unit: photons", "area_unit"),
        ("name: lz_like", "name: [", "not valid YAML"),
    ],
)
def test_bad_descriptions(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_detector(write(tmp_path, old, new))


def test_missing_description(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_detector(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="must be a mapping"):
        read_detector(tmp_path / "list.yaml")
