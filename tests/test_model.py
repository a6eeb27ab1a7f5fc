"""StatisticalModel: the names that alea's users know, data in every form, surrogates beside templates, bad input."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import model_files
import numpy as np
import pytest
import torch
import yaml

from inference import StatisticalModel
from inference.data.files import as_mapping, write_toys
from inference.results import FitResult, Interval
from inference.toy_studies import ToySettings
from surrogate.acceptance import fit_acceptance
from surrogate.certificate import write_certificate
from surrogate.checkpoint import save_checkpoint
from surrogate.errors import CheckpointError, ConfigError, DataError, RangeError, UncertifiedError
from surrogate.flow import ConditionalFlow
from surrogate.flow_config import FlowConfig
from surrogate.flow_source import FlowSource
from surrogate.nuisance import Nuisance, NuisanceSpace
from surrogate.observables import Observable, ObservableSpace

POI = "wimp_rate_multiplier"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_files.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def model(path: Path) -> StatisticalModel:
    built = StatisticalModel.from_config(path)
    built.data = model_files.data()
    return built


def test_fit_and_interval_are_those_of_alea(model: StatisticalModel) -> None:
    """alea 0.3.5 on the same files, whose limits are good to some 5e-5: its fits stop short of the optimum."""
    best_fit, log_l = model.fit()
    assert log_l == pytest.approx(-460.4245099466946, abs=1e-6)
    assert log_l >= -460.4245099466946
    assert best_fit[POI] == pytest.approx(3.656341, rel=1e-4)
    assert list(best_fit) == model.get_parameter_list()
    null, log_l0 = model.fit(wimp_rate_multiplier=0)
    assert null[POI] == 0.0
    assert log_l0 < log_l
    lower, upper = model.confidence_interval(poi_name=POI)
    assert (lower, upper) == pytest.approx((1.5556798826, 6.5932259629), rel=5e-5)


def test_weights_of_terms(tmp_path: Path, model: StatisticalModel) -> None:
    """ln L = sum_i w_i ln L_i, the last weight being that of the ancillary terms."""
    content = model_files.model_dict()

    def weighted(*weights: float) -> StatisticalModel:
        content["likelihood_config"]["likelihood_weights"] = list(weights)
        built = StatisticalModel.from_config(model_files.write_model(tmp_path, content))
        built.data = model_files.data()
        return built

    point = {POI: 0.7, "er_rate_multiplier": 1.2, "er_shift": 0.3}
    one, two, three = (weighted(*w).ll(**point) for w in ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
    assert one + two + three == pytest.approx(model.ll(**point), abs=1e-9)
    built = weighted(0.5, 2, 3)
    assert built.ll(**point) == pytest.approx(0.5 * one + 2 * two + 3 * three, abs=1e-9)
    assert built.likelihood.model_hash != model.likelihood.model_hash
    best, log_l = built.fit()
    assert log_l == pytest.approx(built.ll(**best), abs=1e-9)
    step = {**best, "er_rate_multiplier": best["er_rate_multiplier"] + 1e-3}
    assert built.ll(**step) < log_l
    with pytest.raises(ConfigError, match="likelihood_weights needs 3 numbers"):
        weighted(1, 1)
    with pytest.raises(ConfigError, match="weight = -1"):
        weighted(-1, 1, 1)


def test_the_free_fit_may_hold_other_parameters(model: StatisticalModel) -> None:
    """t is counted from the fit under best_fit_args, the interval taken under confidence_interval_args."""
    values, best = model.fit()
    held = {"er_rate_multiplier": 1.05 * values["er_rate_multiplier"]}
    lower, upper = model.confidence_interval(POI, confidence_interval_args=held, best_fit_args={})
    for end in (lower, upper):
        t = 2 * (best - model.fit(**held, wimp_rate_multiplier=end)[1])
        assert t == pytest.approx(2.705543454, abs=1e-6)
    same = model.confidence_interval(POI, confidence_interval_args=held)
    assert model.confidence_interval(POI, confidence_interval_args=held, best_fit_args=held) == same
    assert same[0] < lower < upper < same[1]
    with pytest.warns(RuntimeWarning, match="empty"):
        ends = model.confidence_interval(POI, confidence_interval_args={"er_rate_multiplier": 3.0}, best_fit_args={})
    assert all(math.isnan(end) for end in ends)


def test_more_of_the_names_that_tutorials_use(model: StatisticalModel) -> None:
    assert POI in model.fittable
    assert model.not_fittable == ["wimp_mass", "livetime_sr0", "livetime_sr1"]
    assert model.get_likelihood_term_from_name("sr1") == 1
    assert model.get_likelihood_term_from_name("ancillary") == 2
    with pytest.raises(ConfigError, match="did you mean 'sr1'"):
        model.get_likelihood_term_from_name("sr11")
    before = model.nominal_expectation_values["er"]
    model.set_nominal_values(livetime_sr0=0.4, livetime_sr1=2.0)
    assert model.nominal_expectation_values["er"] == pytest.approx(2 * before)
    with pytest.raises(ConfigError, match="build the model anew"):
        model.set_nominal_values(wimp_mass=20)
    table = str(model.parameters)
    assert "er_rate_multiplier" in table
    assert "WIMP mass in GeV/c^2" in table
    model.data = model.generate_data(seed=3)


def test_ends_that_are_absent_follow_alea(model: StatisticalModel) -> None:
    assert math.isnan(model.confidence_interval(POI, confidence_interval_kind="upper")[0])
    assert math.isnan(model.confidence_interval(POI, confidence_interval_kind="lower")[1])
    lower, upper = model.confidence_interval(POI, parameter_interval_bounds=(2.0, 5.0))
    assert (lower, upper) == (-math.inf, math.inf)


def test_a_search_range_beside_the_best_fit_gives_no_ends(model: StatisticalModel) -> None:
    """The best fit is 3.656, the interval 1.556 to 6.593: no end outside the range is reported as one."""
    for bounds, lower, upper in (
        ((0.0, 2.0), "found", "outside_range"),
        ((0.0, 1.0), "outside_range", "outside_range"),
        ((4.0, 9.0), "outside_range", "found"),
    ):
        found = model.interval(POI, bounds=bounds)
        assert (found.lower.status, found.upper.status) == (lower, upper)
        assert not found.success
        assert [end.value is None for end in (found.lower, found.upper)] == [s != "found" for s in (lower, upper)]
        assert f"best fit {POI} = 3.656" in found.remarks[-1]
        assert f"searched in [{bounds[0]:g}, {bounds[1]:g}]" in found.remarks[-1]
    with pytest.warns(RuntimeWarning, match=r"outside_range.*searched in \[0, 1\]"):
        assert all(math.isnan(end) for end in model.confidence_interval(POI, (0.0, 1.0)))
    one_sided = model.interval(POI, kind="upper", bounds=(4.0, 9.0))
    assert one_sided.success


def test_critical_values_may_be_a_function(model: StatisticalModel) -> None:
    constant = model.confidence_interval(POI, confidence_interval_threshold=lambda mu: 1.0)
    assert constant == pytest.approx(model.confidence_interval(POI, confidence_level=0.6826894921), rel=1e-6)


def test_records_behind_the_names(model: StatisticalModel) -> None:
    assert isinstance(model.fit_result(), FitResult)
    interval = model.interval(POI, 0.68, "upper", fixed={"er_shift": 0.0})
    assert isinstance(interval, Interval)
    assert interval.best_fit.values["er_shift"] == 0.0
    curve = model.profile(POI, [2.0, 3.0, 4.0])
    assert len(curve.t) == 3


def test_what_a_notebook_shows(model: StatisticalModel) -> None:
    text = repr(model)
    assert "run sr1, unbinned in cs1, cs2: " in text
    assert "45 observed" in text
    assert str(model.parameters) in text
    assert "'sr0': EventData(12 events, 0 dropped)" in repr(model.data)
    interval = model.interval(POI)
    first, *rest = repr(interval).splitlines()
    ends = f"lower end {interval.lower.value:.6g}, upper end {interval.upper.value:.6g}"
    assert first == f"90 % central interval on {POI}: {ends} (t_mu_tilde, critical values asymptotic)"
    assert rest == repr(interval.best_fit).splitlines()
    assert rest[0] == f"fit: {interval.best_fit.message}, ln L = {interval.best_fit.log_likelihood:.6f}"
    assert f"  {POI}  3.656" in repr(interval.best_fit)
    assert "livetime_sr0          0.2 (fixed)" in repr(interval.best_fit)


def test_names_and_expectations(model: StatisticalModel) -> None:
    assert model.likelihood_names == ["sr0", "sr1", "ancillary"]
    assert model.get_source_name_list("sr1") == ["er", "ac", "wimp"]
    assert model.nominal_values["wimp_mass"] == 50
    assert model.get_expectation_values(er_shift=-1.0) == pytest.approx({"er": 42.0, "ac": 6.0, "wimp": 4.8})
    assert model.nominal_expectation_values["er"] == pytest.approx(48.0)
    with pytest.raises(ConfigError, match="unknown run 'sr2'"):
        model.get_source_name_list("sr2")


def test_fit_guesses(model: StatisticalModel) -> None:
    before = model.fit()[1]
    model.set_fit_guesses(wimp_rate_multiplier=20.0)
    assert model.parameters[POI].start == 20.0
    assert model.fit()[1] == pytest.approx(before, abs=1e-8)


def as_columns(table: np.ndarray) -> dict[str, np.ndarray]:
    return {name: table[name] for name in table.dtype.names}


def test_data_in_every_form(model: StatisticalModel, tmp_path: Path) -> None:
    sr0, sr1, ancillary = model_files.data()
    expected = model.ll()
    np.savez(tmp_path / "data.npz", SR0=sr0, SR1=sr1, ancillary=ancillary)
    write_toys(tmp_path / "toys.h5", [{"sr0": sr0, "sr1": sr1, "ancillary": ancillary}], {})
    forms: list[Any] = [
        (sr0, sr1, ancillary),
        [sr0, sr1, ancillary, model_files.ancillary()],
        {"sr1": sr1, "sr0": sr0, "ancillary": ancillary},
        {"SR0": as_columns(sr0), "SR1": as_columns(sr1), "ancillary": as_mapping(ancillary, "ancillary")},
        str(tmp_path / "data.npz"),
        tmp_path / "toys.h5",
        model.data,
    ]
    for form in forms:
        model.data = form
        assert model.ll() == pytest.approx(expected, abs=1e-12)


def test_without_ancillary_data_the_centres_are_nominal(model: StatisticalModel) -> None:
    sr0, sr1, _ = model_files.data()
    shifted = model.ll()
    model.data = {"sr0": sr0, "sr1": sr1}
    pulls = (0.1 / 0.3) ** 2 + (0.1 / 0.2) ** 2 + (0.05 / 0.15) ** 2
    assert model.ll() - shifted == pytest.approx(0.5 * pulls, abs=1e-12)


def test_no_events_are_legal(model: StatisticalModel) -> None:
    model.data = [model_files.events(0, 0), model_files.events(0, 1), model_files.ancillary()]
    best_fit, _ = model.fit()
    assert best_fit[POI] == 0.0
    lower, upper = model.confidence_interval(POI)
    assert lower == -math.inf
    assert 0 < upper < 2


def corrupted(column: str, value: float) -> np.ndarray:
    table = model_files.events(12, 0)
    table[column][3] = value
    return table


def renamed() -> np.ndarray:
    table = model_files.events(12, 0)
    table.dtype.names = ("cs1", "s2", "source")
    return table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[:2], "a list must hold 3 tables"),
        (lambda d: [d[0]] * 5, "a list must hold 3 tables"),
        (lambda d: d[0], r"one table was given for 2 runs.* such as sr0\.csv"),
        (lambda d: {"sr0": d[0]}, "no events given for run sr1"),
        (lambda d: {"sr0": d[0], "sr1": d[1], "ancilary": d[2]}, "unknown table 'ancilary'; did you mean 'ancillary'"),
        (lambda d: {"sr0": d[0], "SR0": d[0], "sr1": d[1]}, "run 'sr0' is given twice"),
        (lambda d: [renamed(), d[1], d[2]], "run 'sr0': column 'cs2' is missing; the table has cs1, s2, source"),
        (lambda d: [corrupted("cs1", math.nan), d[1], d[2]], r"run 'sr0': 1 events hold NaN.*at row 3"),
        (lambda d: [corrupted("cs1", 71.0), d[1], d[2]], r"run 'sr0': 1 of 12 events lie outside.*cs1 = 71.*row 3"),
        (lambda d: [3.0, d[1], d[2]], "run 'sr0': a structured array, a mapping of columns or a data frame is needed"),
        (lambda d: [np.zeros(3), d[1], d[2]], "without column names"),
        (lambda d: [d[0], d[1], {"er_rate_multiplier": 1.0}], "ancillary lacks ac_rate_multiplier, signal_efficiency"),
        (lambda d: [d[0], d[1], {"er_rate_multipler": 1.0}], "did you mean 'er_rate_multiplier'"),
        (lambda d: [d[0], d[1], {**as_mapping(d[2], "a"), "er_rate_multiplier": math.nan}], "is impossible"),
        (lambda d: "nowhere.h5", "data file 'nowhere.h5' does not exist"),
    ],
)
def test_bad_data(model: StatisticalModel, change: Any, message: str) -> None:
    before = model.ll()
    with pytest.raises(DataError, match=message):
        model.data = change(model_files.data())
    assert model.ll() == before


def test_events_outside_may_be_dropped(model: StatisticalModel) -> None:
    sr0, sr1, ancillary = model_files.data()
    model.set_data([corrupted("cs1", 71.0), sr1, ancillary], outside="drop")
    assert model.data.events["sr0"].n_dropped == 1
    kept = model.ll()
    model.data = [np.delete(sr0, 3), sr1, ancillary]
    assert model.ll() == kept


def test_unknown_names_and_values_out_of_range(model: StatisticalModel) -> None:
    nearest = "unknown parameter 'wimp_rate_multiplyer'; did you mean 'wimp_rate_multiplier'"
    for call in (model.ll, model.fit, model.get_expectation_values, model.generate_data):
        with pytest.raises(ConfigError, match=nearest):
            call(wimp_rate_multiplyer=1.0)  # type: ignore[operator]
    with pytest.raises(ConfigError, match=nearest):
        model.confidence_interval("wimp_rate_multiplyer")
    for call in (model.ll, model.fit):
        with pytest.raises(ConfigError, match="wimp_rate_multiplier = 'zero' must be a number"):
            call(wimp_rate_multiplier="zero")  # type: ignore[arg-type]
    for value in (-1.0, math.nan, math.inf):
        with pytest.raises(RangeError, match="wimp_rate_multiplier = "):
            model.ll(wimp_rate_multiplier=value)
    with pytest.raises(RangeError, match=r"er_shift cannot be fixed at 2\.5"):
        model.fit(er_shift=2.5)
    with pytest.raises(ConfigError, match="needs it to be fittable"):
        model.confidence_interval("livetime_sr0")
    for level in (0.0, 1.0, 90.0):
        with pytest.raises(RangeError, match="confidence_level"):
            model.confidence_interval(POI, confidence_level=level)
    with pytest.raises(ConfigError, match="unknown kind 'centrall'; did you mean 'central'"):
        model.confidence_interval(POI, confidence_interval_kind="centrall")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="interval_bounds"):
        model.confidence_interval(POI, parameter_interval_bounds=(5.0, 2.0))


def test_a_model_without_data_says_so(path: Path) -> None:
    model = StatisticalModel.from_config(path)
    assert not model.is_data_set
    for call in (model.ll, model.fit):
        with pytest.raises(DataError, match="the model has no data; assign them"):
            call()


def test_toys_are_reproducible_and_go_to_files(model: StatisticalModel, tmp_path: Path) -> None:
    first = model.generate_data(seed=3, toy=1, wimp_rate_multiplier=2.0)
    again = model.generate_data(seed=3, toy=1, wimp_rate_multiplier=2.0)
    other = model.generate_data(seed=3, toy=2, wimp_rate_multiplier=2.0)
    assert list(first) == ["sr0", "sr1", "ancillary", "generate_values"]
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["sr1"], other["sr1"])
    assert first["sr1"].dtype.names == ("cs1", "cs2", "source")
    assert as_mapping(first["generate_values"], "g")[POI] == 2.0
    model.store_data(tmp_path / "toys.h5", [first, other], {"note": "two toys"})
    model.set_data(tmp_path / "toys.h5", index=1)
    stored = model.ll()
    model.data = other
    assert model.ll() == stored
    fresh = [model.generate_data()["ancillary"] for _ in range(2)]
    assert not np.array_equal(*fresh)


# Surrogates in the same schema

SPACE = ObservableSpace((Observable("cs1", "PE", 2.0, 70.0), Observable("cs2", "PE", 100.0, 8000.0, "log")))
NUISANCES = NuisanceSpace((Nuisance("t_ly", "sigma", -2.0, 2.0, 0.0),))


def write_checkpoint(path: Path, space: ObservableSpace = SPACE, certified: bool = True) -> None:
    flow = ConditionalFlow(FlowConfig(space, NUISANCES, components=4, hidden=16, blocks=1), seed=1)
    theta = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    generated = torch.full((9,), 1000.0, dtype=torch.float64)
    acceptance = fit_acceptance(NUISANCES, theta, generated, 400 + 20 * theta[:, 0], degree=1)
    source = FlowSource(flow, acceptance, 5.0)
    save_checkpoint(path, source, {})
    if certified:
        write_certificate(path, True, {}, {}, source.identity)


def test_exposures_that_are_not_positive_are_refused(path: Path, model: StatisticalModel, tmp_path: Path) -> None:
    for value in (-1, 0):
        with pytest.raises(ConfigError, match=rf"livetime_sr0 = {value}\S* is an exposure and must be > 0"):
            StatisticalModel.from_config(path, nominal_values={"livetime_sr0": value})
        with pytest.raises(ConfigError, match=f"livetime_sr1 = {value}"):
            model.set_nominal_values(livetime_sr1=value)
        with pytest.raises(RangeError, match=f"livetime_sr1 cannot be fixed at {value}"):
            model.fit(livetime_sr1=value)
    assert model.nominal_values["livetime_sr1"] == 1.0
    content = model_files.model_dict()
    content["parameter_definition"]["livetime_sr0"] |= {"fit_limits": [-1, 2]}
    with pytest.raises(ConfigError, match=r"livetime_sr0\.fit_limits: -1 is the lower one of an exposure"):
        StatisticalModel.from_config(model_files.write_model(tmp_path, content))


def without_ancillary() -> dict[str, np.ndarray]:
    return dict(zip(("sr0", "sr1"), model_files.data(), strict=False))


def surrogate_model(folder: Path, **wimp: Any) -> Path:
    content = model_files.model_dict()
    content["parameter_definition"] |= {
        "t_ly": {"nominal_value": 0, "ptype": "shape", "uncertainty": 1, "fit_limits": [-5, 5]},
        "nr_t_ly": {"nominal_value": 0, "ptype": "shape", "uncertainty": 1},
    }
    run = content["likelihood_config"]["likelihood_terms"][1]
    run["sources"][2] = {
        "name": "wimp",
        "surrogate": "checkpoints/wimp",
        "parameters": [POI, "signal_efficiency", "t_ly"],
        "efficiency_name": "signal_efficiency",
        **wimp,
    }
    return model_files.write_model(folder, content)


def test_a_flow_beside_templates_in_one_run(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoints" / "wimp")
    model = StatisticalModel.from_config(surrogate_model(tmp_path))
    model.data = without_ancillary()
    assert model.runs[1].observables.observables[1].unit == "PE"
    assert (model.parameters["t_ly"].low, model.parameters["t_ly"].high) == (-2.0, 2.0)
    assert model.expected_events({"t_ly": 0.0})["sr1"]["wimp"] == pytest.approx(2.0, rel=1e-2)
    best, log_l = model.fit()
    assert math.isfinite(log_l)
    assert best[POI] >= 0
    assert model.parameters["nr_t_ly"].fittable  # constrained: harmless, although nothing depends on it
    with pytest.raises(RangeError, match=r"t_ly = 2\.5"):
        model.ll(t_ly=2.5)


def test_a_flow_in_a_binned_run(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoints" / "wimp")
    path = surrogate_model(tmp_path)
    content = yaml.safe_load(path.read_text())
    content["likelihood_config"]["likelihood_terms"][1]["likelihood_type"] = "Binned"
    path.write_text(yaml.safe_dump(content))
    binned = StatisticalModel.from_config(path)
    binned.data = without_ancillary()
    source = binned.runs[1].sources[2].source
    assert float(source.pmf(torch.zeros(1, dtype=torch.float64)).sum()) == pytest.approx(1, abs=1e-3)  # type: ignore[attr-defined]
    assert math.isfinite(binned.ll(t_ly=0.3))


def test_nuisances_can_be_renamed_and_held(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoints" / "wimp")
    acting = [POI, "signal_efficiency", "nr_t_ly"]
    renamed = surrogate_model(tmp_path, parameters=acting, nuisance_parameters={"t_ly": "nr_t_ly"})
    model = StatisticalModel.from_config(renamed)
    assert model.runs[1].sources[2].drivers == ("nr_t_ly",)
    held = surrogate_model(tmp_path, parameters=acting[:2], nuisance_parameters={"t_ly": 0.5})
    assert StatisticalModel.from_config(held).runs[1].sources[2].drivers == (0.5,)


def test_the_name_of_a_surrogate_may_hold_constants(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoints" / "wimp_20_sr1")
    path = surrogate_model(tmp_path, surrogate="checkpoints/wimp_{wimp_mass}_{run:lower}")
    model = StatisticalModel.from_config(path, nominal_values={"wimp_mass": 20})
    assert model.nominal_values["wimp_mass"] == 20
    with pytest.raises(ConfigError, match="checkpoints/wimp_50_sr1' was found in none"):
        StatisticalModel.from_config(path, nominal_values={"wimp_mass": 50})


@pytest.mark.parametrize(
    ("wimp", "message"),
    [
        ({"parameters": [POI, "signal_efficiency"]}, "its nuisance 't_ly' is driven by 't_ly', which is not among"),
        ({"nuisance_parameters": {"t_li": "nr_t_ly"}}, "unknown nuisance 't_li'; did you mean 't_ly'"),
        ({"nuisance_parameters": {"t_ly": "nr_t_li"}}, "unknown parameter 'nr_t_li'; did you mean 'nr_t_ly'"),
        ({"surrogate": "checkpoints/wmp"}, "'checkpoints/wmp' was found in none of"),
        ({"template_filename": "wimp50.h5"}, "has both 'surrogate' and 'template_filename'"),
    ],
)
def test_bad_surrogate_entries(tmp_path: Path, wimp: dict[str, Any], message: str) -> None:
    write_checkpoint(tmp_path / "checkpoints" / "wimp")
    with pytest.raises(ConfigError, match=message):
        StatisticalModel.from_config(surrogate_model(tmp_path, **wimp))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            ObservableSpace((SPACE.observables[0], Observable("z", "cm", -90.0, 0.0))),
            "axes are cs1, cs2, the surrogates",
        ),
        (
            ObservableSpace((Observable("cs1", "PE", 3.0, 70.0), SPACE.observables[1])),
            r"analysis_space: cs1 runs from 2 to 70, the surrogates are normalised on \[3, 70\]; give these ends",
        ),
    ],
)
def test_a_surrogate_of_another_region_is_refused(tmp_path: Path, space: ObservableSpace, message: str) -> None:
    write_checkpoint(tmp_path / "checkpoints" / "wimp", space)
    with pytest.raises(ConfigError, match=message):
        StatisticalModel.from_config(surrogate_model(tmp_path))


def test_axes_without_edges_take_the_window_of_the_surrogates(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoints" / "wimp")
    path = surrogate_model(tmp_path)
    content = yaml.safe_load(path.read_text())
    run = content["likelihood_config"]["likelihood_terms"][1]
    run["sources"], run["analysis_space"] = run["sources"][2:], [{"cs1": None}, {"cs2": None}]
    path.write_text(yaml.safe_dump(content))
    assert StatisticalModel.from_config(path).runs[1].observables == SPACE
    run["analysis_space"][1] = {"cs2": "100 1000"}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=r"sr1.analysis_space: cs2 runs from 100 to 1000, .* \[100, 8000\]"):
        StatisticalModel.from_config(path)


def test_units_must_agree_where_both_are_said(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoints" / "wimp")
    path = surrogate_model(tmp_path)
    content = yaml.safe_load(path.read_text())
    content["parameter_definition"]["t_ly"]["unit"] = "percent"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="units of t_ly differ: the parameter has percent, source 'wimp' has sigma"):
        StatisticalModel.from_config(path)
    phd = ObservableSpace((replace(SPACE.observables[0], unit="phd"), SPACE.observables[1]))
    write_checkpoint(tmp_path / "checkpoints" / "er", phd)
    path = surrogate_model(tmp_path)
    content = yaml.safe_load(path.read_text())
    sources = content["likelihood_config"]["likelihood_terms"][1]["sources"]
    sources[0] = {"name": "er", "surrogate": "checkpoints/er", "parameters": ["er_rate_multiplier", "t_ly"]}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=r"run 'sr1': units of cs1 differ: .*'er' has phd, source 'wimp' has PE"):
        StatisticalModel.from_config(path)


def test_where_names_are_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the root of a project and no further, then in the working directory; a message names every place."""
    project, elsewhere = tmp_path / "home" / "project", tmp_path / "elsewhere"
    write_checkpoint(tmp_path / "home" / "checkpoints" / "wimp")
    for folder in (project / "models", elsewhere):
        folder.mkdir(parents=True)
    path = surrogate_model(project / "models")
    monkeypatch.chdir(elsewhere)
    found_none = f"none of '{project / 'models'}', '{elsewhere}', .*--template-path"
    with pytest.raises(ConfigError, match=found_none):
        StatisticalModel.from_config(path)
    write_checkpoint(elsewhere / "checkpoints" / "wimp")
    assert StatisticalModel.from_config(path).uncertified == ()
    write_checkpoint(project / "checkpoints" / "wimp", certified=False)
    assert StatisticalModel.from_config(path).uncertified == ()
    (project / "pyproject.toml").touch()
    assert StatisticalModel.from_config(path).uncertified != ()
    with pytest.raises(ConfigError, match=r"--template-path.*'nowhere' is no directory"):
        StatisticalModel.from_config(path, template_path="nowhere")


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoints" / "wimp")
    file = tmp_path / "checkpoints" / "wimp" / "surrogate.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="altered or truncated"):
        StatisticalModel.from_config(surrogate_model(tmp_path))


def test_limits_need_certificates(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoints" / "wimp", certified=False)
    path = surrogate_model(tmp_path)
    model = StatisticalModel.from_config(path)
    model.data = without_ancillary()
    assert model.uncertified == ("sr1/wimp (checkpoints/wimp: not validated)",)
    assert math.isfinite(model.fit()[1])
    with pytest.raises(UncertifiedError, match=r"no valid certificate: sr1/wimp .*--allow-uncertified"):
        model.confidence_interval(POI)
    with pytest.raises(UncertifiedError, match="no valid certificate"):
        model.discovery(POI)
    model.allow_uncertified = True
    assert model.confidence_interval(POI)[1] > 0


def test_toys_are_asked_of_the_model_itself(tmp_path: Path) -> None:
    """With the model's own level and kind where nothing else is said, as for its limits."""
    model = StatisticalModel.from_config(model_files.write_model(tmp_path))
    model.data = model_files.data()
    model.confidence_level, model.confidence_interval_kind = 0.8, "upper"
    few = ToySettings(40, seed=2)
    found, limit = model.neyman(POI, few, grid=[0.0, 2.0, 8.0]), model.interval(POI)
    assert (found.interval.kind, found.interval.confidence_level) == (limit.kind, 0.8) == ("upper", 0.8)
    assert found.n_toys == (40, 40, 40)
    band = model.sensitivity(POI, few)
    assert (band.kind, band.n_toys) == ("upper", 40)
    assert repr(band).splitlines()[0].startswith(f"80 % upper limits on {POI} over 40 toys")
    assert f"+0 sigma  {band.median:.5g}  [" in repr(band)
    stated = rf"best fit {POI} = .*\nq0 = .*, Z = .* \(asymptotic\)\np0 = .* from 40 toys"
    assert re.match(stated, repr(model.discovery(POI, few)))
    assert model.discovery(POI, few).p0_toys == pytest.approx(model.discovery(POI).p0, abs=0.3)
