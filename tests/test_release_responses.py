"""The XENONnT light-WIMP release (arXiv:2409.17868): its mono-energetic basis folded, against its own templates.

The tolerances are what the basis allows. Its energies begin at 0.51 keV: 2.7 % of the events of a 4 GeV WIMP lie below.
The templates of 8B differ from the fold by a factor of their own in each run, 1/1.014 and 1/0.977, and by nothing else.
"""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from inference.model import StatisticalModel
from surrogate.beta_spectra import table_spectrum
from surrogate.errors import ConfigError
from surrogate.template import TemplateSource
from surrogate.template_io import read_basis, read_template
from surrogate.template_response import Interpolation, TemplateResponse, read_band

pytestmark = pytest.mark.shared

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "models"
RUNS = ("sr0", "sr1")
ANCHORS = {"t_ly": tuple(range(-3, 4)), "t_qy": tuple(range(-3, 4))}
POI = "wimp_rate_multiplier"


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "data" / "xenonnt_light_wimp"


@cache
def folded(folder: Path, run: str, signal: str, interpolation: Interpolation = "cubic") -> TemplateSource:
    signals = folder / "signal"
    bands = [
        read_band(*(signals / f"{name}_ybe_model_{edge}.json" for edge in ("lower", "median", "upper")))
        for name in ("ly", "qy")
    ]
    basis = read_basis(folder / "mono_energetic_basis.h5", run)
    response = TemplateResponse(basis, bands[0], bands[1], ANCHORS, interpolation)
    spectrum = "cevns_spectrum" if signal == "b8" else f"wimp_si_spectrum_{signal}"
    return response.fold(table_spectrum(signals / f"{spectrum}.json"), outside=0.05)


def released(folder: Path, run: str, signal: str) -> Tensor:
    """The release's templates (49, 81) on the grid of (t_ly, t_qy)."""
    name = "b8/template_XENONnT_{}_b8" if signal == "b8" else "wimp_si/template_XENONnT_{}_wimp_si_" + signal
    points = itertools.product(*ANCHORS.values())
    paths = [folder / f"{name.format(run)}_cevns_tly_{a:.1f}_tqy_{b:.1f}.h5" for a, b in points]
    return torch.stack([read_template(path, "template").counts.reshape(-1) for path in paths])


def compare(folder: Path, run: str, signal: str, interpolation: Interpolation = "cubic") -> tuple[Tensor, Tensor]:
    """Ratio of the counts, and half the summed difference of the shapes, at 49 points."""
    mine = folded(folder, run, signal, interpolation).counts.reshape(49, -1)
    theirs = released(folder, run, signal)
    shapes = mine / mine.sum(dim=1, keepdim=True) - theirs / theirs.sum(dim=1, keepdim=True)
    return mine.sum(dim=1) / theirs.sum(dim=1), 0.5 * shapes.abs().sum(dim=1)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(("signal", "low", "high"), [("4", 0.965, 1.01), ("6", 0.99, 1.004), ("10", 0.995, 1.01)])
def test_folded_wimps_are_the_templates_of_the_release(
    folder: Path, run: str, signal: str, low: float, high: float
) -> None:
    ratio, shape = compare(folder, run, signal)
    assert low < float(ratio.min()) < float(ratio.max()) < high
    assert float(shape.max()) < 0.007


@pytest.mark.parametrize(("run", "factor"), [("sr0", 1.0141), ("sr1", 0.9770)])
def test_folded_neutrinos_are_the_templates_up_to_a_factor(folder: Path, run: str, factor: float) -> None:
    ratio, shape = compare(folder, run, "b8")
    assert float(ratio.mean()) == pytest.approx(factor, abs=1e-3)
    assert float((ratio / ratio.mean() - 1).abs().max()) < 0.01
    assert float(shape.max()) < 0.005


def test_splines_do_better_than_straight_lines(folder: Path) -> None:
    for signal in ("4", "6", "10"):
        errors = {}
        for interpolation in ("cubic", "linear"):
            ratio, shape = compare(folder, "sr0", signal, interpolation)  # type: ignore[arg-type]
            errors[interpolation] = (float((ratio - 1).abs().mean()), float(shape.mean()))
        assert errors["cubic"][0] < 0.5 * errors["linear"][0]
        assert errors["cubic"][1] < 0.5 * errors["linear"][1]


@pytest.mark.parametrize(("mass", "tolerance"), [(4, 0.01), (6, 0.003), (10, 0.001)])
def test_limits_are_those_of_the_templates(folder: Path, mass: int, tolerance: float) -> None:
    limits = []
    for name in ("xenonnt_light_wimp", "xenonnt_light_wimp_folded"):
        model = StatisticalModel.from_config(
            CONFIGS / f"{name}.yaml", template_path=folder, nominal_values={"wimp_mass": mass}
        )
        model.data = folder / "science_data.h5"
        limits.append(model.interval(POI, 0.9).upper.value)
    assert limits[1] == pytest.approx(limits[0], rel=tolerance)


def test_a_mass_whose_events_lie_below_the_basis_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"about 20 % of its recorded events .* outside \[0.51, 5\] keV"):
        StatisticalModel.from_config(
            CONFIGS / "xenonnt_light_wimp_folded.yaml", template_path=folder, nominal_values={"wimp_mass": 3}
        )
