"""Models whose sources name a response and a spectrum: what they become, and mistakes in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml
from model_files import GRID, model_dict, write_template_files
from source_cases import DISC, flow_source

from inference.configuration.assembly import assemble
from inference.constraints.gaussian import GaussianConstraint
from inference.data.dataset import Dataset, EventData
from inference.fits.batch_fit import fit_batch
from inference.fits.fit import fit_result
from inference.likelihood.extended import Likelihood
from inference.parameters import Parameter, ParameterSet
from inference.science_run import RunSource, ScienceRun
from surrogate.beta_spectra import flat_spectrum, table_spectrum
from surrogate.binned import BinnedSource
from surrogate.binning import Binning
from surrogate.checkpoint import save_checkpoint
from surrogate.errors import ConfigError, DataError
from surrogate.flow_response import FlowResponse
from surrogate.nuclear_spectra import wimp_si_spectrum
from surrogate.nuisance import Nuisance, NuisanceSpace
from surrogate.spectrum_source import SpectrumSource
from surrogate.template import TemplateSource

ENERGY, LIGHT, CHARGE = np.array([1.0, 2.0, 4.0, 8.0]), np.array([2.0, 4.0, 6.0, 8.0]), np.array([1.0, 3.0, 5.0, 7.0])


def basis_counts() -> np.ndarray:
    """Contents that are cubic in each of energy and yields, so that splines reproduce them everywhere."""
    e, light, charge = ENERGY.reshape(-1, 1, 1), LIGHT.reshape(1, -1, 1), CHARGE.reshape(1, 1, -1)
    bins = 1.0 + np.arange(12).reshape(3, 4)
    return ((0.1 + e**2 / 100) * (light / 10) * (charge / 10) ** 2)[..., None, None] * bins / bins.sum()


def write_responses(folder: Path) -> None:
    with h5py.File(folder / "basis.h5", "w") as file:
        file["energy_keV"], file["ly_quanta_per_keV"], file["qy_quanta_per_keV"] = ENERGY, LIGHT, CHARGE
        for k, (name, edges) in enumerate(zip(GRID.names, GRID.edges, strict=True)):
            file.create_dataset(f"sr0/bins/{k}", data=edges.numpy()).attrs["name"] = name
        file["sr0/templates"] = basis_counts()
    for edge, y_light, y_charge in (("lower", 3.0, 3.5), ("median", 4.0, 4.0), ("upper", 4.5, 5.0)):
        for name, value in (("ly", y_light), ("qy", y_charge)):
            table = {"coordinate_system": [0.5, 10.0], "map": [value, value]}
            (folder / f"{name}_{edge}.json").write_text(json.dumps(table))
    space = NuisanceSpace(
        (Nuisance("energy", "keV", 1.0, 60.0, 10.0, "log"), Nuisance("t_ly", "sigma", -3.0, 3.0, 0.0))
    )
    save_checkpoint(folder / "response", flow_source(observables=DISC, nuisances=space), {})


BASIS = {"file": "basis.h5", "light_yield": "ly_{edge}.json", "charge_yield": "qy_{edge}.json"}
LINE = {"kind": "line", "energy": 4.0, "rate": 3.0}
SHAPE = {
    "nominal_value": 0,
    "ptype": "shape",
    "uncertainty": 1,
    "fit_limits": [-2, 2],
    "blueice_anchors": [-2, 0, 1, 2],
}


def model_with(folder: Path, source: dict[str, Any], **changes: Any) -> Path:
    """Write a model of one binned run whose signal is folded."""
    write_template_files(folder)
    write_responses(folder)
    content = model_dict()
    content["parameter_definition"] |= {"t_ly": dict(SHAPE), "t_qy": dict(SHAPE)} | changes
    run = content["likelihood_config"]["likelihood_terms"][0]
    run["sources"][2] = {"name": "wimp", "parameters": ["wimp_rate_multiplier", "t_ly", "t_qy"], **source}
    content["likelihood_config"]["likelihood_terms"] = [run]
    content["likelihood_config"]["likelihood_weights"] = [1, 1]
    (folder / "model.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "model.yaml"


def wimp(path: Path) -> RunSource:
    (found,) = [c for c in assemble(path).runs[0].sources if c.name == "wimp"]
    return found


def test_a_line_at_a_point_of_the_basis_is_that_template(tmp_path: Path) -> None:
    found = wimp(model_with(tmp_path, {"basis": BASIS, "spectrum": LINE, "histogram_scale_factor": 2.0}))
    assert isinstance(found.source, TemplateSource)
    assert found.scale == 2.0
    assert found.source.breakpoints == {"t_ly": (-2.0, 0.0, 1.0, 2.0), "t_qy": (-2.0, 0.0, 1.0, 2.0)}
    bins = (1.0 + torch.arange(12, dtype=torch.float64)) / 78
    for t_light, light in ((-2.0, 2.0), (0.0, 4.0), (1.0, 4.5), (2.0, 5.0)):
        for t_charge, charge in ((-2.0, 3.0), (0.0, 4.0), (2.0, 6.0)):
            theta = torch.tensor([t_light, t_charge], dtype=torch.float64)
            assert float(found.source.expected_events(theta)) == pytest.approx(
                3.0 * 0.26 * light / 10 * charge**2 / 100
            )
            torch.testing.assert_close(found.source.pmf(theta), bins)


def test_yields_are_driven_by_other_parameters_where_the_model_says_so(tmp_path: Path) -> None:
    source = {
        "basis": {**BASIS, "interpolation": "linear"},
        "spectrum": {"kind": "flat", "low": 1.5, "high": 7.5, "rate_per_kev": 1.0},
        "parameters": ["wimp_rate_multiplier", "t_ly", "er_shift"],
        "nuisance_parameters": {"t_qy": "er_shift"},
    }
    found = wimp(model_with(tmp_path, source))
    assert found.drivers == ("t_ly", "er_shift")
    assert found.source.breakpoints["t_qy"] == (-1.0, 0.0, 2.0)
    grid = np.linspace(1.5, 7.5, 4001)
    linear = np.interp(grid, ENERGY, 0.1 + ENERGY**2 / 100) * 0.4 * 0.17  # (4/10)^2 between 9 and 25 is 17
    expected = float(np.trapezoid(linear, grid))
    assert float(found.source.expected_events(torch.zeros(2, dtype=torch.float64))) == pytest.approx(expected, rel=1e-4)


def test_a_checkpoint_with_the_energy_among_its_parameters_is_folded(tmp_path: Path) -> None:
    source = {
        "surrogate": "response",
        "spectrum": {"kind": "wimp_si", "mass": "{wimp_mass}", "cross_section": 1e-47},
        "parameters": ["wimp_rate_multiplier", "t_ly"],
    }
    path = model_with(tmp_path, source)
    content = yaml.safe_load(path.read_text())
    run = content["likelihood_config"]["likelihood_terms"][0]
    run["sources"] = run["sources"][2:]
    run |= {"analysis_space": [{"r": None}, {"z": None}], "likelihood_type": "Unbinned"}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    pieces = assemble(path)
    folded = pieces.runs[0].sources[0].source
    assert isinstance(folded, SpectrumSource)
    assert folded.spectrum == wimp_si_spectrum(50.0, 1e-47)
    assert pieces.uncertified == ("sr0/wimp (response: not validated)",)
    other = assemble(path, nominal_values={"wimp_mass": 20}).runs[0].sources[0].source
    assert isinstance(other, SpectrumSource)
    assert other.spectrum == wimp_si_spectrum(20.0, 1e-47)

    run |= {"analysis_space": [{"r": "0 24 48"}, {"z": "-97 -40 0"}], "likelihood_type": "Binned"}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    binned = assemble(path).runs[0].sources[0].source
    assert isinstance(binned, BinnedSource)
    theta = torch.tensor([0.5], dtype=torch.float64)
    torch.testing.assert_close(binned.expected_events(theta), folded.expected_events(theta))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"basis": BASIS}, r"sources\.wimp: key 'spectrum' is missing"),
        ({"basis": BASIS, "spectrum": {**LINE, "energi": 1}}, "unknown key 'energi'; did you mean 'energy'"),
        ({"basis": BASIS, "spectrum": {"kind": "lines"}}, "spectrum.*lines"),
        ({"basis": BASIS, "spectrum": {**LINE, "energy": "{mass}"}}, "unknown field 'mass'; did you mean 'wimp_mass'"),
        ({"basis": BASIS, "spectrum": {**LINE, "energy": 0.2}}, "no rate between 1 and 8 keV"),
        (
            {"basis": BASIS, "spectrum": {"kind": "table", "path": "none.csv"}},
            r"spectrum\.path: 'none.csv' was found",
        ),
        (
            {"basis": BASIS, "spectrum": {"kind": "flat", "low": 0.1, "high": 7.0, "rate_per_kev": 1.0}},
            "of its recorded events come from energies outside",
        ),
        ({"basis": {**BASIS, "run": "sr7"}, "spectrum": LINE}, "unknown run 'sr7'; did you mean 'sr0'"),
        ({"basis": {**BASIS, "fil": 1}, "spectrum": LINE}, r"basis\.fil = 1: unknown key 'fil'; did you mean 'file'"),
        (
            {"basis": {**BASIS, "light_yield": "ly_median.csv"}, "spectrum": LINE},
            r"light_yield: 'ly_median.csv' was found",
        ),
        ({"basis": BASIS, "spectrum": LINE, "nuisance_parameters": {"t_ly": 0.0}}, "cannot be held"),
        ({"basis": BASIS, "spectrum": LINE, "template_filename": "x.h5"}, "both 'basis' and 'template_filename'"),
        ({"template_filename": "x.h5", "histname": "x", "spectrum": LINE}, "templates have theirs"),
        ({"basis": BASIS, "spectrum": LINE, "outside": 1.5}, "outside.*less than 1"),
        (
            {"basis": BASIS, "spectrum": LINE, "parameters": ["wimp_rate_multiplier", "t_ly"]},
            "'t_qy' is driven by 't_qy'",
        ),
    ],
)
def test_mistakes(tmp_path: Path, source: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        assemble(model_with(tmp_path, source))


def test_yields_need_anchors(tmp_path: Path) -> None:
    free = {**SHAPE, "blueice_anchors": None}
    with pytest.raises(ConfigError, match="'t_qy' drives the yield 't_qy' and needs 'blueice_anchors'"):
        assemble(model_with(tmp_path, {"basis": BASIS, "spectrum": LINE}, t_qy=free))


def test_the_edges_of_a_basis_must_be_those_of_the_run(tmp_path: Path) -> None:
    path = model_with(tmp_path, {"basis": BASIS, "spectrum": LINE})
    with h5py.File(tmp_path / "basis.h5", "a") as file:
        file["sr0/bins/0"][1] = 11.0
    with pytest.raises(DataError, match="edge 1 of axis 'cs1' is 11 where 10 is expected"):
        assemble(path)
    with h5py.File(tmp_path / "basis.h5", "a") as file:
        del file["energy_keV"]
    with pytest.raises(DataError, match="'energy_keV' is missing"):
        assemble(path)


def test_flows_templates_and_folded_spectra_share_a_run() -> None:
    """The derivatives of their common likelihood are the differences of its values; a fit of it ends well."""
    light = Nuisance("t_ly", "sigma", -3.0, 3.0, 0.0)
    energy = Nuisance("energy", "keV", 1.0, 60.0, 10.0, "log")
    folded = FlowResponse(flow_source(observables=DISC, nuisances=NuisanceSpace((energy, light)))).fold(
        flat_spectrum(2.0, 40.0, 0.002)
    )
    flow = flow_source(observables=DISC, nuisances=NuisanceSpace((light,)), seed=3)
    edges = tuple(torch.linspace(o.low, o.high, 4, dtype=torch.float64) for o in DISC.observables)
    shape = torch.arange(1.0, 10.0, dtype=torch.float64).reshape(1, 3, 3)
    template = TemplateSource(Binning(DISC.names, edges), {"t_ly": (-3.0, 3.0)}, torch.cat([shape, 2 * shape.flip(1)]))
    tie = {"t_ly": "t_ly"}
    run = ScienceRun(
        "mixed",
        DISC,
        (
            RunSource("folded", folded, "signal", tie),
            RunSource("flow", flow, "er", tie, scale=0.05),
            RunSource("template", template, "er", tie, scale=0.2),
        ),
        ("livetime",),
    )
    parameters = ParameterSet(
        (
            Parameter("signal", "rate", 1.0, 0.0, 100.0),
            Parameter("er", "rate", 1.0, 0.0, 100.0),
            Parameter("t_ly", "shape", 0.0, -3.0, 3.0),
            Parameter("livetime", "livetime", 1.0, 0.0, fittable=False),
        ),
        (GaussianConstraint("t_ly", 1.0, 0.0),),
    )
    events = {"mixed": EventData(flow.sample(40, torch.zeros(1).double(), torch.Generator().manual_seed(6)).double())}
    likelihood = Likelihood(parameters, (run,), Dataset(events, {}))
    at = parameters.vector({"signal": 2.0, "t_ly": 0.4}).unsqueeze(0)
    value, gradient, hessian = likelihood.derivatives(at)
    torch.testing.assert_close(value, likelihood.log_likelihood(at))
    for k in range(3):
        step = torch.zeros_like(at)
        step[0, k] = 1e-4
        up, down = likelihood.derivatives(at + step), likelihood.derivatives(at - step)
        torch.testing.assert_close(gradient[0, k], (up[0] - down[0])[0] / 2e-4, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(hessian[0, k], (up[1] - down[1])[0] / 2e-4, rtol=1e-4, atol=1e-5)
    assert fit_result(likelihood, fit_batch(likelihood)).success


def test_a_cumulative_table_is_the_spectrum_it_came_from(tmp_path: Path) -> None:
    energy = np.linspace(0.3, 5.0, 301)
    share = (1 - np.exp(-(energy - 0.3) / 0.8)) / (1 - np.exp(-4.7 / 0.8))
    table = {"coordinate_system": share.tolist(), "coordinate_name": "cdf", "map": energy.tolist(), "rate": 20.0}
    (tmp_path / "cdf.json").write_text(json.dumps(table))
    spectrum = table_spectrum(tmp_path / "cdf.json")
    assert spectrum.total == pytest.approx(20.0)
    density = 20.0 / 0.8 * np.exp(-(energy - 0.3) / 0.8) / (1 - np.exp(-4.7 / 0.8))
    np.testing.assert_allclose(spectrum.density_at(energy)[1:-1], density[1:-1], rtol=1e-3)
    shape = {**table, "coordinate_system": energy.tolist(), "coordinate_name": "pdf", "map": density.tolist()}
    (tmp_path / "pdf.json").write_text(json.dumps(shape))
    np.testing.assert_allclose(table_spectrum(tmp_path / "pdf.json").density_at(energy), density, rtol=1e-3)
    del table["rate"]
    (tmp_path / "cdf.json").write_text(json.dumps(table))
    with pytest.raises(ConfigError, match="'rate'"):
        table_spectrum(tmp_path / "cdf.json")
    (tmp_path / "cdf.json").write_text("[1, 2]")
    with pytest.raises(DataError, match="is no JSON table"):
        table_spectrum(tmp_path / "cdf.json")
