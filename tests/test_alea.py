"""alea's statistical models read unchanged: values equal alea's own, and what cannot be honoured is said."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import model_files
import pytest
import torch
import yaml

from inference.configuration.alea import inspect_alea, read_alea
from inference.configuration.assembly import ModelPieces, assemble
from inference.constraints.gaussian import CorrelatedGaussianConstraint, GaussianConstraint, LogNormalConstraint
from inference.constraints.uniform import UniformConstraint
from inference.data.dataset import Dataset, events_from_columns
from inference.likelihood.extended import Likelihood
from inference.science_run import expected_counts
from surrogate.errors import ConfigError, DataError

POINTS: list[dict[str, float]] = [
    {},
    {
        "wimp_rate_multiplier": 0.0,
        "er_rate_multiplier": 0.8,
        "ac_rate_multiplier": 1.7,
        "signal_efficiency": 0.6,
        "er_shift": -0.4,
    },
    {
        "wimp_rate_multiplier": 3.0,
        "er_rate_multiplier": 1.2,
        "ac_rate_multiplier": 0.2,
        "signal_efficiency": 1.4,
        "er_shift": 1.3,
    },
    {"wimp_rate_multiplier": 7.5, "er_shift": 2.0},
    {"er_shift": -1.0},
]

# ln L of alea 0.3.5 with blueice 1.2.2 on the files of model_files.py, at POINTS, for both WIMP masses.
ALEA_LL = {
    50: [-464.05080703951, -473.28478063201624, -475.75236816894284, -477.3124088297325, -463.0893459401478],
    20: [-460.7810277991719, -470.6029278125762, -468.2724364838471, -470.56943712986646, -459.6131383686076],
}


def likelihood(pieces: ModelPieces) -> Likelihood:
    tables = model_files.data()
    events = {
        run.name: events_from_columns(run.observables, table, run=run.name)
        for run, table in zip(pieces.runs, tables, strict=False)
    }
    row = tables[-1]
    return Likelihood(pieces.parameters, pieces.runs, Dataset(events, {n: float(row[n][0]) for n in row.dtype.names}))


Change = Callable[[dict[str, Any]], Any]


def build(folder: Path, change: Change | None = None) -> ModelPieces:
    content = model_files.model_dict()
    if change is not None:
        change(content)
    return assemble(model_files.write_model(folder, content))


def term(content: dict[str, Any], k: int = 0) -> dict[str, Any]:
    return content["likelihood_config"]["likelihood_terms"][k]


def source(content: dict[str, Any], k: int = 0) -> dict[str, Any]:
    return term(content)["sources"][k]


def definition(content: dict[str, Any], name: str = "er_shift") -> dict[str, Any]:
    return content["parameter_definition"][name]


@pytest.mark.parametrize("mass", [50, 20])
def test_log_likelihood_is_that_of_alea(tmp_path: Path, mass: int) -> None:
    """Binned and unbinned, morphing, efficiency, conditioned and uniform uncertainties, scale factors, shifted data."""
    pieces = assemble(model_files.write_model(tmp_path), nominal_values={"wimp_mass": mass})
    found = likelihood(pieces).log_likelihood(torch.stack([pieces.parameters.vector(p) for p in POINTS]))
    assert found.tolist() == pytest.approx(ALEA_LL[mass], rel=0, abs=1e-11)


def test_expected_counts_are_those_of_alea(tmp_path: Path) -> None:
    pieces = build(tmp_path)
    run = pieces.runs[1]
    found = expected_counts(pieces.parameters, run, pieces.parameters.vector(POINTS[2])[None])[0]
    assert dict(zip(run.source_names, found.tolist(), strict=True)) == pytest.approx(
        {"er": 55.8, "ac": 1.0, "wimp": 16.8}
    )


def test_parameters(tmp_path: Path) -> None:
    pieces = build(tmp_path)
    p = pieces.parameters
    assert p.names == tuple(model_files.parameters())
    assert p.free() == (
        "wimp_rate_multiplier",
        "er_rate_multiplier",
        "ac_rate_multiplier",
        "signal_efficiency",
        "er_shift",
    )
    assert p["wimp_rate_multiplier"].interval_bounds == (0.0, 50.0)
    assert (p["er_rate_multiplier"].low, p["er_rate_multiplier"].high) == (0.0, math.inf)
    assert (p["er_shift"].low, p["er_shift"].high) == (-1.0, 2.0)
    assert p.constraints == (
        GaussianConstraint("er_rate_multiplier", 0.2, 1.0),
        GaussianConstraint("ac_rate_multiplier", 0.3, 1.0),
        GaussianConstraint("signal_efficiency", 0.15, 1.0),
        UniformConstraint("er_shift", -1.0, 2.0),
    )
    assert pieces.conversion.notes == ()
    assert pieces.runs[0].binned
    assert not pieces.runs[1].binned


def test_extensions_of_the_constraints(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        del definition(content, "er_rate_multiplier")["uncertainty"]
        definition(content, "er_rate_multiplier")["constraint"] = {"type": "log_normal", "log_sigma": 0.1}
        for name in ("ac_rate_multiplier", "signal_efficiency"):
            del definition(content, name)["uncertainty"]
        content["correlated_constraints"] = [
            {
                "parameters": ["ac_rate_multiplier", "signal_efficiency"],
                "sigma": [0.1, 0.2],
                "correlation": [[1, 0.5], [0.5, 1]],
            }
        ]

    log_normal, uniform, block = build(tmp_path, change).parameters.constraints
    assert log_normal == LogNormalConstraint("er_rate_multiplier", 0.1, 1.0)
    assert isinstance(uniform, UniformConstraint)
    assert isinstance(block, CorrelatedGaussianConstraint)
    assert block.width == pytest.approx((0.1, 0.2))


def test_template_options(tmp_path: Path) -> None:
    """Densities are multiplied back by the bin volume (alea forgets to divide, so that its pmf does not sum to 1)."""

    def density(content: dict[str, Any]) -> None:
        source(content, 1).update(histname="ac_density", in_events_per_bin=False, normalise_template=False)

    def normalised(content: dict[str, Any]) -> None:
        source(content, 1).update(normalise_template=True)

    none = torch.zeros(0, dtype=torch.float64)
    for name, change, rate in (("a", density, 5.0), ("b", normalised, 2.5)):
        (tmp_path / name).mkdir()
        found = build(tmp_path / name, change).runs[0].sources[1].source
        assert float(found.expected_events(none)) == pytest.approx(rate)
        reference = build(tmp_path / name).runs[0].sources[1].source
        x = model_files.GRID.centres
        torch.testing.assert_close(found.log_prob(x, none), reference.log_prob(x, none))


def test_slices(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["likelihood_config"]["likelihood_terms"] = [
            {
                **term(content),
                "analysis_space": [{"cs2": "np.geomspace(100, 8000, 5)"}],
                "slice_args": [{"slice_axis": "cs1", "slice_axis_limits": [2, 30], "sum_axis": True}],
            }
        ]
        content["likelihood_config"]["likelihood_weights"] = None

    (run,) = build(tmp_path, change).runs
    counts = model_files.template(2.0, -0.5, 1.0)[:2].sum(dim=0) * 2.5
    found = run.sources[1].source
    assert run.observables.names == ("cs2",)
    assert float(found.expected_events(torch.zeros(0))) == pytest.approx(float(counts.sum()))


def test_file_names_are_filled_in(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        for k in (0, 1):
            term(content, k)["sources"][1]["template_filename"] = "TBD"
        content["likelihood_config"]["template_folder"] = "TBD"

    (tmp_path / "m").mkdir()
    path = model_files.write_model(tmp_path / "m")
    content = model_files.model_dict()
    change(content)
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(
        ConfigError, match=r"sr0\.sources\.ac: .* placeholder 'TBD'; .*template_filenames={'ac': PATTERN}"
    ):
        assemble(path)
    (tmp_path / "other").mkdir()
    for run in ("sr0", "sr1"):
        (tmp_path / "other" / f"ac_{run.upper()}.h5").write_bytes((tmp_path / "m" / "ac.h5").read_bytes())
    pieces = assemble(path, template_path=tmp_path / "other", template_filenames={"ac": "ac_{run:upper}.h5"})
    assert pieces.runs[0].source_names == ("er", "ac", "wimp")
    with pytest.raises(ConfigError, match="unknown source 'acc'; did you mean 'ac'"):
        assemble(path, template_filenames={"acc": "ac.h5"})
    with pytest.raises(ConfigError, match="is no directory"):
        assemble(path, template_path=tmp_path / "none")


def test_what_only_steers_another_program_is_noted(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["fit_strategy"] = {"minuit_strategy": 2}
        term(content, 1)["source_wise_interpolation"] = True
        term(content, 1)["likelihood_config"] = {"unphysical_behaviour": "error", "morpher": "GridInterpolator"}
        definition(content, "ac_rate_multiplier")["fit_limits"] = None
        definition(content)["fit_limits"] = [-4, 2]

    notes = build(tmp_path, change).conversion.notes
    assert [n.place for n in notes] == [
        "fit_strategy",
        "likelihood_config.likelihood_terms.sr1.source_wise_interpolation",
        "likelihood_config.likelihood_terms.sr1.likelihood_config.unphysical_behaviour",
        "ac_rate_multiplier.fit_limits",
        "er_shift.fit_limits",
    ]
    assert all(n.harmless for n in notes)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda c: term(c).update(default_source_class="alea.ces_source.CESTemplateSource"), "default_source_class"),
        (lambda c: source(c).update({"class": "alea.template_source.CombinedSource"}), r"sources\.er\.class"),
        (lambda c: term(c).update(likelihood_config={"morpher": "IndexMorpher"}), "morpher"),
        (lambda c: source(c).update(convert_to_uniform=True), "convert_to_uniform"),
        (lambda c: c.update(asymptotic_dof=2), "asymptotic_dof"),
        (lambda c: definition(c).update(ptype="index"), r"er_shift\.ptype = 'index': .* make it 'shape'"),
        (
            lambda c: term(c).update(likelihood_config={"model_statistical_uncertainty_handling": "bb_single"}),
            "model_statistical_uncertainty_handling",
        ),
    ],
)
def test_what_would_change_a_result_is_refused(tmp_path: Path, change: Change, place: str) -> None:
    with pytest.raises(ConfigError, match=f"1 setting is not supported:\n.*{place}"):
        build(tmp_path, change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(paramter_definition={}), r"unknown key 'paramter_definition'; did you mean 'parameter_def"),
        (
            lambda c: definition(c).update(nominal_vaule=1),
            r"parameter_definition\.er_shift\.nominal_vaule = 1: unknown key 'nominal_vaule'; did you mean 'nominal_v",
        ),
        (
            lambda c: source(c).update(histnam="er"),
            r"likelihood_terms\.sr0\.sources\.er\.histnam = 'er': unknown key 'histnam'; did you mean 'histname'",
        ),
        (
            lambda c: term(c).update(sourcs=[]),
            r"likelihood_terms\.sr0\.sourcs = .*unknown key 'sourcs'; did you mean 'sources'",
        ),
        (lambda c: term(c).pop("livetime_parameter"), r"sr0: key 'livetime_parameter' is missing"),
        (lambda c: source(c).pop("name"), r"sources\.0: key 'name' is missing"),
        (lambda c: source(c).pop("histname"), r"sources\.er: key 'histname' is missing"),
        (lambda c: c.pop("parameter_definition"), "a mapping 'parameter_definition' is needed"),
        (lambda c: c.pop("likelihood_config"), "a mapping 'likelihood_config' is needed"),
        (
            lambda c: term(c).update(likelihood_type="blueice.likelihood.BinedLogLikelihood"),
            r"sr0\.likelihood_type: input",
        ),
        (lambda c: term(c).update(likelihood_config={"morfer": None}), "unknown key 'morfer'; did you mean 'morpher'"),
        (lambda c: source(c)["parameters"].append("er_shfit"), "unknown parameter 'er_shfit'; did you mean 'er_shift'"),
        (lambda c: term(c).update(livetime_parameter="livetme_sr0"), "did you mean 'livetime_sr0'"),
        (
            lambda c: source(c)["parameters"].remove("er_rate_multiplier"),
            "exactly one rate parameter is needed, got none",
        ),
        (lambda c: source(c)["parameters"].append("ac_rate_multiplier"), "exactly one rate parameter"),
        (lambda c: source(c)["parameters"].remove("er_shift"), r"named_parameters: unknown parameter 'er_shift'"),
        (
            lambda c: source(c).update(template_filename="er_{er_shft}.h5"),
            "unknown field 'er_shft'; did you mean 'er_shift'",
        ),
        (lambda c: source(c).update(template_filename="er_{er_shift:q}.h5"), "er_shift = -1: "),
        (
            lambda c: source(c).update(template_filename="er_{er_shift.real}.h5"),
            "unknown field 'er_shift.real'; did you mean 'er_shift'",
        ),
        (lambda c: source(c).update(template_filename="none_{er_shift}.h5"), "'none_-1.h5' was found in none of"),
        (
            lambda c: source(c, 2).update(efficiency_name="er_shift"),
            "must be among the source's parameters and of ptype",
        ),
        (lambda c: source(c).update(apply_efficiency=True), "apply_efficiency needs efficiency_name"),
        (
            lambda c: source(c).update(nuisance_parameters={"er_shift": "er_shift"}),
            "nuisance_parameters are for surrogates",
        ),
        (lambda c: definition(c).update(ptype="shap"), r"er_shift\.ptype: input should be 'rate', 'shape', 'eff"),
        (lambda c: definition(c).update(blueice_anchors=[0, -1, 2]), "at least two increasing values"),
        (lambda c: definition(c).update(blueice_anchors="np.arrange(3)"), "unknown numpy function 'arrange'"),
        (lambda c: definition(c).update(nominal_value=5), "nominal = 5.0 must be finite and inside the bounds"),
        (lambda c: definition(c).update(nominal_value=math.nan), r"er_shift\.nominal_value: "),
        (lambda c: definition(c).update(nominal_value=True), "a number is needed"),
        (lambda c: definition(c).pop("nominal_value"), "er_shift: key 'nominal_value' is missing"),
        (lambda c: definition(c).update(fit_limits=[2, -1]), r"bounds \[2.0, -1.0\] must satisfy low < high"),
        (lambda c: definition(c).update(fit_limits=[0]), r"er_shift\.fit_limits"),
        (
            lambda c: definition(c).update(uncertainty="stats.unifrm(0, 1)"),
            "unknown distribution 'unifrm'; did you mean 'unif",
        ),
        (lambda c: definition(c).update(uncertainty="stats.uniform(0, 1, 2)"), "takes loc and scale alone"),
        (lambda c: definition(c).update(uncertainty=0.1, relative_uncertainty=True), "nominal_value 0 leaves no width"),
        (lambda c: definition(c).update(uncertainty=-0.1), "sigma = -0.1 must be finite and > 0"),
        (
            lambda c: definition(c).update(constraint={"type": "poisson", "tau": 2.0}),
            "has both 'uncertainty' and 'constraint'",
        ),
        (lambda c: definition(c, "wimp_mass").update(fit_guess=3.0), "fittable is false"),
        (lambda c: definition(c, "signal_efficiency").update(fit_limits=None), "an efficiency needs finite fit_limits"),
        (lambda c: definition(c, "signal_efficiency").update(fit_limits=[-1, 2]), "an efficiency needs finite bounds"),
        (lambda c: definition(c, "wimp_mass").update(nominal_value=30), "has no entry for wimp_mass = 30"),
        (
            lambda c: definition(c, "signal_efficiency").update(conditioning_parameter_name="mass"),
            "unknown parameter 'mass'",
        ),
        (lambda c: term(c).update(analysis_space={"cs1": [1, 2]}), "a list of '- axis: edges' is needed"),
        (lambda c: term(c)["analysis_space"].pop(), r"er_-1.h5': \(3, 4\) bins where \(3,\) are expected"),
        (lambda c: term(c)["analysis_space"].reverse(), r"\(3, 4\) bins where \(4, 3\) are expected"),
        (lambda c: term(c)["analysis_space"].append({"cs1": "0 1"}), "axis names must be unique"),
        (lambda c: term(c).update(slice_args={"slice_axis": "cs3"}), "unknown axis 'cs3'"),
        (
            lambda c: term(c).update(slice_args={"slice_axis": "cs1", "slice_axis_limits": [2, 31]}),
            "31 is no bin edge of 'cs1'; the nearest is 30",
        ),
    ],
)
def test_bad_models_name_their_place(tmp_path: Path, change: Change, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message) as error:
        build(tmp_path, change)
    assert "\n  File" not in str(error.value)


def test_all_that_is_not_supported_is_said_at_once(tmp_path: Path) -> None:
    """Unknown keys beside those that are known not to be supported, in the inspection and in the error."""

    def change(content: dict[str, Any]) -> None:
        term(content)["fixed_weight"] = 2
        source(content)["histnam"] = source(content).pop("histname")
        source(content, 1)["convert_to_uniform"] = True
        term(content, 1)["likelihood_config"] = {"morfer": 1}

    with pytest.raises(ConfigError, match="4 settings are not supported") as error:
        build(tmp_path, change)
    found = inspect_alea(tmp_path / "model.yaml").unsupported
    assert [note.place.removeprefix("likelihood_config.likelihood_terms.") for note in found] == [
        "sr0.sources.ac.convert_to_uniform",
        "sr1.likelihood_config.morfer",
        "sr0.sources.er.histnam",
        "sr0.fixed_weight",
    ]
    assert all(str(note) in str(error.value) for note in found)


def test_edges_are_compared_closely(tmp_path: Path) -> None:
    """alea compares to two decimals, which says nothing of an axis that ends at 1."""

    def change(content: dict[str, Any]) -> None:
        term(content)["analysis_space"][0]["cs1"] = "2 10.001 30 70"

    with pytest.raises(DataError, match=r"edge 1 of axis 'cs1' is 10 where 10\.001 is expected by analysis_space"):
        build(tmp_path, change)


def test_swapped_axes_of_equal_size_are_noticed(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        for k in (0, 1):
            term(content, k)["analysis_space"] = [{"cs2": "2 10 30 70"}, {"cs1": "np.geomspace(100, 8000, 5)"}]

    with pytest.raises(DataError, match="analysis_space has them in the order cs2, cs1"):
        build(tmp_path, change)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "key 'a' is given twice"),
        ("a: [1\n", "no valid YAML"),
        ("- 1\n", "a mapping is needed"),
        ("a: !!python/object/apply:os.getpid []\n", "no valid YAML"),
    ],
)
def test_bad_yaml(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "model.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_alea(tmp_path / "model.yaml")


def test_missing_model_and_unknown_nominal(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_alea(tmp_path / "model.yaml")
    with pytest.raises(ConfigError, match="nominal_values: unknown parameter 'wimp_mas'; did you mean 'wimp_mass'"):
        read_alea(model_files.write_model(tmp_path), {"wimp_mas": 20})


def test_bins_may_be_those_of_the_templates(tmp_path: Path) -> None:
    pieces = build(tmp_path, lambda c: term(c).pop("analysis_space"))
    assert pieces.runs[0].binning is not None
    torch.testing.assert_close(pieces.runs[0].binning[1], model_files.GRID.edges[1], rtol=1e-12, atol=0)


@pytest.mark.shared
def test_the_release_is_read_unchanged(shared: Path) -> None:
    folder = shared / "data" / "xenonnt_light_wimp"
    pattern = "wimp_si/template_XENONnT_{run:lower}_wimp_si_6_cevns_tly_{t_ly:.1f}_tqy_{t_qy:.1f}.h5"
    start = time.process_time()
    pieces = assemble(folder / "statistical_model_base.yaml", folder, {"wimp": pattern})
    assert time.process_time() - start < 5  # about 0.6 s on an idle core
    assert pieces.conversion.notes == ()
    assert [run.source_names for run in pieces.runs] == [
        ("wimp", "b8", "ac_sr0", "er", "nr"),
        ("wimp", "b8", "ac_sr1", "er", "nr"),
    ]
    assert len(pieces.parameters.free()) == 9


@pytest.mark.shared
@pytest.mark.parametrize("mass", [4, 10])
def test_the_shipped_release_model_is_the_same_model(shared: Path, mass: int) -> None:
    folder = shared / "data" / "xenonnt_light_wimp"
    pattern = f"wimp_si/template_XENONnT_{{run:lower}}_wimp_si_{mass}_cevns_tly_{{t_ly:.1f}}_tqy_{{t_qy:.1f}}.h5"
    theirs = assemble(folder / "statistical_model_base.yaml", folder, {"wimp": pattern})
    path = Path(__file__).resolve().parents[1] / "configs" / "models" / "xenonnt_light_wimp.yaml"
    ours = assemble(path, folder, nominal_values={"wimp_mass": mass})
    point = {"wimp_rate_multiplier": 2.0, "t_ly": -1.4, "t_qy": 0.6, "signal_efficiency": 0.9}
    for a, b in zip(ours.runs, theirs.runs, strict=True):
        found = expected_counts(ours.parameters, a, ours.parameters.vector(point)[None])[0]
        expected = expected_counts(theirs.parameters, b, theirs.parameters.vector(point)[None])[0]
        by_name = dict(zip(a.source_names, found.tolist(), strict=True))
        assert by_name == pytest.approx(dict(zip(b.source_names, expected.tolist(), strict=True)), rel=1e-14)


def test_a_forgotten_ptype_is_refused_or_for_alea_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = model_files.model_dict()
    given = {"nominal_value": 0.1, "uncertainty": 0.1, "fit_limits": [0, 1]}
    content["parameter_definition"]["g1"] = {**given, "unit": "phd/photon"}
    with pytest.raises(ConfigError, match=r"g1: has uncertainty, fit_limits, but no ptype.*add 'ptype: shape'"):
        assemble(model_files.write_model(tmp_path, content))
    for said, warnings in (({}, 1), ({"ptype": "needs_reinit"}, 0), ({"fittable": False}, 0)):
        caplog.clear()
        content["parameter_definition"]["g1"] = {**given, **said}
        notes = assemble(model_files.write_model(tmp_path, content)).conversion.notes
        assert {"g1.uncertainty", "g1.fit_limits"} <= {n.place for n in notes}
        assert len([r for r in caplog.records if "no ptype" in r.message]) == warnings
