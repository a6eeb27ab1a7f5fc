"""The XENONnT light-WIMP release (arXiv:2409.17868, doi:10.5281/zenodo.14522706) against alea's numbers.

Reference: alea 0.3.5 with blueice 1.2.2 on the release's own files. "Polished" values are the true optimum of the same
likelihood, from which alea's fits stop up to 7e-5 short in ln L. Where a toy differs from alea by more than the
tolerance, the test asks that the likelihood found here is higher.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inference.data.dataset import Dataset, EventData, data_batch
from inference.fits.batch_fit import FitOptions, fit_batch
from inference.intervals.confidence import interval_batch
from inference.likelihood.extended import Likelihood
from inference.model import StatisticalModel
from inference.science_run import expected_counts, theta_of
from surrogate.binning import Binning

pytestmark = pytest.mark.shared

MASSES = (4, 6, 10)
POI = "wimp_rate_multiplier"
CHI2_90 = 2.705543454095404


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "data" / "xenonnt_light_wimp"


@pytest.fixture(scope="module")
def reference(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "reference" / "alea_light_wimp.json").read_text())


@cache
def model_of(folder: Path, mass: int) -> StatisticalModel:
    pattern = f"wimp_si/template_XENONnT_{{run:lower}}_wimp_si_{mass}_cevns_tly_{{t_ly:.1f}}_tqy_{{t_qy:.1f}}.h5"
    model = StatisticalModel.from_config(
        folder / "statistical_model_base.yaml", template_path=folder, template_filenames={"wimp": pattern}
    )
    model.data = folder / "science_data.h5"
    return model


def grids(model: StatisticalModel) -> list[Binning]:
    return [Binning(run.observables.names, run.binning or ()) for run in model.runs]


def toys(model: StatisticalModel, found: Sequence[dict[str, Any]]) -> Likelihood:
    """Return the likelihood of toys given by counts per bin and ancillary centres: counts sit at the bins' centres."""
    datasets = []
    for toy in found:
        events = {
            run.name: EventData(grid.centres.repeat_interleave(torch.tensor(counts), dim=0))
            for run, grid, counts in zip(model.runs, grids(model), toy["counts"], strict=True)
        }
        datasets.append(Dataset(events, toy["ancillary"]))
    return Likelihood(model.parameters, model.runs, data_batch(model.parameters, model.runs, datasets))


def test_log_likelihood_at_random_points(folder: Path, reference: dict[str, Any]) -> None:
    model = model_of(folder, 6)
    points = reference["si_full"]["6"]["random_points"]
    assert len(points) == 20
    for point in points:
        assert model.ll(**point["params"]) == pytest.approx(point["ll"], rel=0, abs=1e-10)
        for run, sources in model.expected_events(point["params"]).items():
            assert sources == pytest.approx(point["mu"][run], rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("mass", MASSES)
def test_nominal_log_likelihood(folder: Path, reference: dict[str, Any], mass: int) -> None:
    expected = reference["si_full"][str(mass)]["ll_nominal"]
    assert model_of(folder, mass).ll() == pytest.approx(expected, rel=0, abs=1e-10)


@pytest.mark.parametrize("mass", MASSES)
def test_best_fits_are_the_polished_ones(folder: Path, reference: dict[str, Any], mass: int) -> None:
    """ln L to 1e-9; parameters to 1e-6 in units of their errors squared, which is what 1e-9 in ln L leaves open."""
    model = model_of(folder, mass)
    polished = reference["si_polished"][str(mass)]
    held = {"free": {}, "zero": {POI: 0.0}, "at_upper": {POI: polished["upper"]}}
    for name, fixed in held.items():
        result = model.fit_result(fixed)
        assert result.success
        assert result.log_likelihood == pytest.approx(polished[name]["ll"], rel=0, abs=1e-9)
        for parameter, value in polished[name]["params"].items():
            error = result.errors[parameter] or 1.0
            assert result.values[parameter] == pytest.approx(value, rel=1e-6, abs=2e-5 * error)


@pytest.mark.parametrize("mass", MASSES)
def test_limits_are_the_polished_ones(folder: Path, reference: dict[str, Any], mass: int) -> None:
    lower, upper = model_of(folder, mass).confidence_interval(poi_name=POI)
    assert lower == -np.inf
    assert upper == pytest.approx(reference["si_polished"][str(mass)]["upper"], rel=1e-6)


def test_limits_hardly_cost_any_fit(folder: Path) -> None:
    for mass in MASSES:
        assert model_of(folder, mass).interval(POI).upper.fits <= 6


def test_counts_per_bin(folder: Path, reference: dict[str, Any]) -> None:
    model = model_of(folder, 6)
    full = reference["si_full"]["6"]
    values = model.parameters.vector(full["random_points"][5]["params"])[None]
    for run, grid in zip(model.runs, grids(model), strict=True):
        mean = expected_counts(model.parameters, run, values)[0]
        for k, source in enumerate(run.sources):
            pmf = source.source.pmf(theta_of(model.parameters, source, values))[0]  # type: ignore[attr-defined]
            expected = torch.tensor(full["bin_counts_point5"][run.name][source.name], dtype=torch.float64)
            torch.testing.assert_close(mean[k] * pmf, expected.reshape(-1), rtol=1e-12, atol=1e-15)
        found = torch.bincount(grid.index(model.data.events[run.name].x), minlength=grid.n_bins)
        assert found.tolist() == np.array(full["data_counts"][run.name]).reshape(-1).tolist()


def column(found: Sequence[dict[str, Any]], *keys: str) -> torch.Tensor:
    """Return one number of every toy."""
    values = []
    for toy in found:
        value: Any = toy
        for key in keys:
            value = value[key]
        values.append(float("nan") if value is None else float(value))
    return torch.tensor(values, dtype=torch.float64)


def test_limits_of_background_only_toys(folder: Path, reference: dict[str, Any]) -> None:
    """1e-4 relative each, or a higher likelihood here: of the free fit, and of the conditional one at alea's limit."""
    found = reference["bkg_only_toys_m6"]["toys"]
    likelihood = toys(model_of(folder, 6), found)
    batch = interval_batch(likelihood, POI, CHI2_90)
    assert batch.upper is not None
    assert batch.lower is not None
    assert bool(batch.best.success.all())
    free = column(found, "free", "ll")
    assert float((batch.best.log_likelihood - free).min()) > -1e-8
    for end, key, tolerance in ((batch.upper, "upper", 1e-4), (batch.lower, "lower", 1e-4)):
        limit = column(found, key)
        exists = torch.isfinite(limit)
        assert torch.equal(end.status == 0, exists)
        differs = (exists & ((end.value / limit - 1).abs() > tolerance)).nonzero().flatten()
        assert len(differs) <= 7
        if len(differs):
            ours = fit_batch(likelihood, {POI: limit[differs]}, rows=differs).log_likelihood
            theirs = free[differs] - 0.5 * CHI2_90
            gain = (batch.best.log_likelihood - free)[differs] + (ours - theirs)
            assert float((ours - theirs).min()) > -1e-6
            assert float(gain.min()) > 1e-6


@pytest.mark.parametrize("which", ["zero", "upper"])
def test_statistics_of_threshold_toys(folder: Path, reference: dict[str, Any], which: str) -> None:
    """T to 1e-3 each, or a higher likelihood here."""
    study = reference["neyman_threshold_m6"][which]
    found = [toy for toy in study["toys"] if "counts" in toy]
    assert len(found) == 200
    likelihood = toys(model_of(folder, 6), found)
    options = FitOptions(starts=4)
    free = fit_batch(likelihood, options=options)
    held = fit_batch(likelihood, {POI: study["true"][POI]}, start=free.values, options=options)
    t = 2 * (free.log_likelihood - held.log_likelihood)
    gain = torch.minimum(
        free.log_likelihood - column(found, "free", "ll"), held.log_likelihood - column(found, "cond", "ll")
    )
    assert float(t.min()) > -1e-9
    assert float(gain.min()) > -5e-4
    differs = (t - column(found, "t")).abs() > 1e-3
    assert int(differs.sum()) <= 2
    assert bool((gain[differs] > -1e-8).all())
