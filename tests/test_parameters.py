"""Parameters, runs and data: what is accepted, and what is refused with a reason."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from analytic_sources import LIVETIME, UNIT, exponential_source, flat_source, rate_parameter

from inference.constraints.gaussian import GaussianConstraint
from inference.data.dataset import Dataset, EventData, data_batch, event_data, events_from_columns, padded
from inference.parameters import Parameter, ParameterSet
from inference.science_run import RunSource, ScienceRun, model_hash
from surrogate.binning import Binning
from surrogate.errors import ConfigError, DataError, RangeError
from surrogate.observables import Observable, ObservableSpace
from surrogate.template import TemplateSource


def small_set() -> ParameterSet:
    return ParameterSet(
        (
            rate_parameter("mu"),
            Parameter("slope", "shape", 0.5, -3, 3, fit_guess=1.0, interval_bounds=(-2, 2)),
            LIVETIME,
        ),
        (GaussianConstraint("slope", 1.0, 0.0),),
    )


def test_vectors_and_mappings() -> None:
    parameters = small_set()
    assert parameters.names == ("mu", "slope", "livetime")
    assert parameters.vector({"slope": -1.0}).tolist() == [1.0, -1.0, 1.0]
    assert parameters.mapping(parameters.nominal()) == {"mu": 1.0, "slope": 0.5, "livetime": 1.0}
    assert parameters.start().tolist() == [1.0, 1.0, 1.0]
    assert parameters.free() == ("mu", "slope")
    assert parameters.free(("mu",)) == ("slope",)
    assert parameters.ancillary_names == ("slope",)
    assert parameters.nominal_centres().tolist() == [0.0]
    assert parameters.constraint_widths().tolist() == [math.inf, 1.0, math.inf]
    assert json.loads(json.dumps(parameters.to_dict()))["parameters"][0]["high"] == 1e5


def test_bounds_and_nominal_values_can_be_changed() -> None:
    changed = small_set().with_bounds({"slope": (-1.0, 0.75)})
    assert changed["slope"].fit_guess == 0.75
    assert changed["slope"].interval_bounds == (-1.0, 0.75)
    assert small_set().with_nominal({"mu": 3.0}).nominal()[0] == 3.0
    with pytest.raises(ConfigError, match=r"nominal = 0\.5 must be finite and inside"):
        small_set().with_bounds({"slope": (1.0, 2.0)})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Parameter("a", "rat", 1.0), "unknown kind 'rat'; did you mean 'rate'"),
        (lambda: Parameter("a", "rate", 1.0, 2.0, 1.0), "must satisfy low < high"),
        (lambda: Parameter("a", "rate", math.nan), "nominal = nan"),
        (lambda: Parameter("a", "rate", 5.0, 0.0, 1.0), "nominal = 5.0 must be finite and inside"),
        (lambda: Parameter("a", "rate", 0.5, 0.0, 1.0, fit_guess=2.0), "fit_guess = 2.0"),
        (lambda: Parameter("a", "efficiency", 0.5), "an efficiency needs finite bounds"),
        (lambda: Parameter("a", "rate", 0.5, 0, 1, interval_bounds=(0, 2)), "interval_bounds"),
        (lambda: Parameter("a", "rate", 0.5, fittable=False, fit_guess=1.0), "is not fittable"),
        (lambda: ParameterSet(()), "at least one is needed"),
        (lambda: ParameterSet((rate_parameter("a"), rate_parameter("a"))), "repeated: a"),
        (
            lambda: ParameterSet((rate_parameter("mu"),), (GaussianConstraint("mv", 1, 0),)),
            "unknown parameter 'mv'; did you mean 'mu'",
        ),
        (
            lambda: ParameterSet((rate_parameter("mu"),), (GaussianConstraint("mu", 1, 0),) * 2),
            "constrained by more than one term",
        ),
    ],
)
def test_impossible_parameters_are_refused(build: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


def test_values_are_checked() -> None:
    with pytest.raises(RangeError, match=r"mu = -1\.0 must be finite and inside its bounds"):
        small_set().vector({"mu": -1.0})
    with pytest.raises(ConfigError, match="unknown parameter 'slop'; did you mean 'slope'"):
        small_set().vector({"slop": 1.0})


def test_sources_and_runs_are_checked() -> None:
    moving = exponential_source()
    with pytest.raises(ConfigError, match="nuisance 'size' is driven by nothing"):
        RunSource("er", moving, "mu", {"slope": "slope"})
    with pytest.raises(ConfigError, match=r"held at 9\.0 is outside"):
        RunSource("er", moving, "mu", {"slope": "slope", "size": 9.0})
    with pytest.raises(ConfigError, match="unknown nuisance 'sloppe'"):
        RunSource("er", moving, "mu", {"sloppe": "slope", "slope": 0.0, "size": 0.0})
    with pytest.raises(ConfigError, match="scale = -1"):
        RunSource("er", flat_source(), "mu", {}, scale=-1.0)
    er = RunSource("er", moving, "mu", {"slope": "slope", "size": 0.0})
    with pytest.raises(ConfigError, match="unique names"):
        ScienceRun("run", UNIT, (er, er), ("livetime",))
    wide = ObservableSpace((Observable("x", "", 0.0, 2.0),))
    with pytest.raises(ConfigError, match="is normalised on x in"):
        ScienceRun("run", wide, (er,), ("livetime",))
    with pytest.raises(ConfigError, match="not constant in bins"):
        ScienceRun("run", UNIT, (er,), ("livetime",), (torch.tensor([0.0, 0.5, 1.0]),))
    binning = Binning(("x",), (torch.tensor([0.0, 0.4, 1.0]),))
    binned = RunSource("er", TemplateSource(binning, {}, torch.ones(2)), "mu", {})
    with pytest.raises(ConfigError, match="edge 1 of axis 'x'"):
        ScienceRun("run", UNIT, (binned,), ("livetime",), (torch.tensor([0.0, 0.5, 1.0]),))
    with pytest.raises(ConfigError, match=r"run from 0\.0 to 0\.5"):
        ScienceRun("run", UNIT, (binned,), ("livetime",), (torch.tensor([0.0, 0.5]),))


def test_the_model_hash_sees_every_change() -> None:
    er = RunSource("er", exponential_source(), "mu", {"slope": "slope", "size": 0.0})
    run = ScienceRun("run", UNIT, (er,), ("livetime",))
    hashes = {
        model_hash(small_set(), (run,)),
        model_hash(small_set().with_nominal({"mu": 2.0}), (run,)),
        model_hash(ParameterSet(small_set().parameters), (run,)),
        model_hash(small_set(), (ScienceRun("other", UNIT, (er,), ("livetime",)),)),
        model_hash(
            small_set(),
            (ScienceRun("run", UNIT, (RunSource("er", flat_source(), "mu", {}),), ("livetime",)),),
        ),
    }
    assert len(hashes) == 5
    assert model_hash(small_set(), (run,)) in hashes


def test_events_are_checked(caplog: pytest.LogCaptureFixture) -> None:
    good = events_from_columns(UNIT, {"x": [0.1, 0.0, 1.0], "other": [1, 2, 3]})
    assert good.x.shape == (3, 1)
    assert good.x.dtype == torch.float64
    structured = np.array([(0.1, 2), (0.9, 3)], dtype=[("x", "f4"), ("w", "i8")])
    weighted = events_from_columns(UNIT, structured, weight_column="w")
    assert weighted.weight().tolist() == [2.0, 3.0]
    assert len(events_from_columns(UNIT, {"x": []})) == 0
    with pytest.raises(DataError, match=r"1 events hold NaN or infinity: \(x = nan\) at row 1"):
        events_from_columns(UNIT, {"x": [0.1, math.nan]})
    with pytest.raises(DataError, match="run 'data': column 'x' is missing; the table has y"):
        events_from_columns(UNIT, {"y": [0.1]})
    with pytest.raises(DataError, match=r"2 of 3 events lie outside .* \(x = 1\.5\) at row 0; \(x = -0\.1\) at row 2"):
        events_from_columns(UNIT, {"x": [1.5, 0.5, -0.1]})
    with caplog.at_level("WARNING"):
        dropped = events_from_columns(UNIT, {"x": [1.5, 0.5, -0.1]}, outside="drop")
    assert (len(dropped), dropped.n_dropped) == (1, 2)
    assert "2 of 3 events lie outside the region of interest, x in [0, 1]" in caplog.text
    with pytest.raises(DataError, match=r"2 of 2 events lie outside .* dropping them leaves none: check their units"):
        events_from_columns(UNIT, {"x": [1.5, -0.1]}, outside="drop")
    assert len(events_from_columns(UNIT, {"x": []}, outside="drop")) == 0
    with pytest.raises(DataError, match="and 15 more"):
        events_from_columns(UNIT, {"x": np.full(20, 3.0)})
    with pytest.raises(DataError, match="weights must be 1 finite numbers >= 0"):
        event_data(UNIT, torch.tensor([[0.5]]), torch.tensor([-1.0]))
    with pytest.raises(DataError, match=r"events have shape \(3,\)"):
        event_data(UNIT, torch.zeros(3))
    with pytest.raises(ConfigError, match="unknown treatment 'ignore'"):
        event_data(UNIT, torch.zeros(3, 1), outside="ignore")
    with pytest.raises(DataError, match="without column names"):
        events_from_columns(UNIT, np.zeros((3, 1)))


def test_data_sets_become_padded_batches() -> None:
    run = ScienceRun("run", UNIT, (RunSource("er", flat_source(), "mu", {}),), ("livetime",))
    sets = [
        Dataset({"run": event_data(UNIT, torch.full((n, 1), 0.1 * n))}, {"slope": float(n)} if n else {})
        for n in (2, 0, 3)
    ]
    batch = data_batch(small_set(), (run,), sets)
    assert batch.x["run"].shape == (3, 3, 1)
    assert batch.weights["run"].tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 1]]
    assert bool(UNIT.contains(batch.x["run"]).all())
    assert batch.centres[:, 0].tolist() == [2.0, 0.0, 3.0]
    assert batch.total_weight().tolist() == [2, 0, 3]
    with pytest.raises(DataError, match="were not checked"):
        data_batch(small_set(), (run,), [Dataset({"run": EventData(torch.full((1, 1), 7.0))}, {})])
    with pytest.raises(DataError, match="at least one data set"):
        data_batch(small_set(), (run,), [])


def test_padding_keeps_the_order_of_events() -> None:
    flat = torch.arange(6.0).unsqueeze(-1)
    laid, weight = padded(flat, torch.tensor([1, 0, 3, 2]), torch.tensor([9.0]))
    assert laid[..., 0].tolist() == [[0, 9, 9], [9, 9, 9], [1, 2, 3], [4, 5, 9]]
    assert weight.sum(dim=-1).tolist() == [1, 0, 3, 2]


@pytest.mark.parametrize(
    ("unit", "reference"),
    [
        ("1e-47 cm2", (1e-47, "cm2")),
        ("0.5 events per tonne-year", (0.5, "events per tonne-year")),
        ("cm2", None),
        ("phd/photon", None),
        ("3", None),
        ("0 cm2", None),
        ("nan cm2", None),
        ("", None),
    ],
)
def test_a_unit_with_a_number_says_what_one_stands_for(unit: str, reference: tuple[float, str] | None) -> None:
    assert Parameter("mu", "rate", 1.0, 0.0, unit=unit).reference == reference


@pytest.mark.parametrize("value", [0.0, -2.0])
def test_exposures_are_positive_wherever_they_enter(value: float) -> None:
    refused = rf"{value:g}\S* is an exposure and must be > 0"
    with pytest.raises(ConfigError, match=refused):
        Parameter("livetime", "livetime", value, fittable=False)
    with pytest.raises(ConfigError, match=refused):
        small_set().vector({"livetime": value})
    with pytest.raises(ConfigError, match=refused):
        small_set().with_nominal({"livetime": value})
    run = ScienceRun("run", UNIT, (RunSource("er", flat_source(), "mu", {}),), ("livetime", "mass"))
    mass = Parameter("mass", "shape", value, fittable=False)
    with pytest.raises(ConfigError, match=f"mass = {refused}"):
        run.check_parameters(ParameterSet((*small_set().parameters, mass)))
