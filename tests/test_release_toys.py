"""Critical values and limits from toys on the XENONnT light-WIMP release (arXiv:2409.17868)."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from inference.model import StatisticalModel
from inference.studies.counting import quantile
from inference.studies.neyman import critical_values, neyman_interval, profiled_points
from inference.studies.toy_pairs import run_pairs

pytestmark = pytest.mark.shared

POI = "wimp_rate_multiplier"


def load(shared, mass):
    release = shared / "data" / "xenonnt_light_wimp"
    pattern = f"wimp_si/template_XENONnT_{{run:lower}}_wimp_si_{mass}_cevns_tly_{{t_ly:.1f}}_tqy_{{t_qy:.1f}}.h5"
    model = StatisticalModel.from_config(
        release / "statistical_model_base.yaml", template_path=release, template_filenames={"wimp": pattern}
    )
    model.data = release / "science_data.h5"
    return model


@pytest.mark.parametrize("which", ["zero", "upper"])
def test_critical_values_are_those_of_alea(shared, which):
    """90 % quantiles of t over 1000 toys of alea 0.3.5 at 6 GeV: 1.433 +- 0.097 and 2.398 +- 0.113."""
    reference = json.loads((shared / "reference" / "alea_light_wimp.json").read_text())["neyman_threshold_m6"][which]
    model = load(shared, 6)
    points = model.parameters.vector(reference["true"])[None]
    pairs = run_pairs(model.parameters, model.runs, POI, points, 2000, seed=21)
    found = quantile(pairs.statistics()[0], 0.9)
    error = np.hypot(found.error, reference["all"]["q90_err"])
    assert abs(found.value - reference["all"]["q90"]) < 3 * error
    assert pairs.n_failed == 0
    theirs = np.array([toy["t"] for toy in reference["toys"]])
    share = (pairs.statistics()[0] > 1.0).mean()
    assert abs(share - (theirs > 1.0).mean()) < 4 * np.sqrt(0.2 / 1000 + 0.2 / 2000)


@pytest.mark.slow
def test_limit_at_10_gev(shared):
    """An independent construction with profiled nuisances (2,204 toys a point) gave 0.1074 +- 0.0028."""
    model = load(shared, 10)
    grid = (0.15017 * np.array([0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05, 1.25])).tolist()
    points = profiled_points(model.likelihood, POI, grid)
    pairs = run_pairs(model.parameters, model.runs, POI, points, 4000, seed=22)
    found = neyman_interval(model.likelihood, pairs)
    assert found.success
    assert abs(found.interval.upper.value - 0.1074) < 3 * np.hypot(found.upper_error, 0.0028)
    expected = {0.45: 1.73, 0.6: 1.94, 0.75: 1.91, 0.9: 2.06, 1.05: 2.23}
    curve = critical_values(pairs)
    pulls = [
        (float(curve(torch.tensor(0.15017 * f, dtype=torch.float64))) - c) / np.hypot(0.07, curve.error(0.15017 * f))
        for f, c in expected.items()
    ]
    assert np.square(pulls).sum() < 20.5  # chi2 of 5 points, p = 0.001
    assert pairs.n_failed == 0
