"""Keys of alea's statistical models that are no part of the schema here, and what is said of each."""

from __future__ import annotations

from collections.abc import Mapping

from inference.configuration.conversion import Rule, only, technical

_BLUEICE = technical("steers how blueice computes and caches; results do not depend on it")
_SPECIAL = Rule(
    "belongs to a source class of alea that is not supported; export its templates instead", lambda v: False
)

#: Keys of a run or a source that are no part of the schema.
TEMPLATE_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("cache_dir", "never_save_to_cache", "force_recalculation", "delete_obsolete_cache"), _BLUEICE),
    **dict.fromkeys(("extra_dont_hash_settings", "n_cores", "pdf_sampling_multiplier", "analysis_name"), _BLUEICE),
    **dict.fromkeys(("weight_names", "histnames", "template_filenames", "spectrum_name", "spectrum_axis"), _SPECIAL),
    **dict.fromkeys(("apply_smearing", "smearing_model", "smearing_parameters", "peak_energy"), _SPECIAL),
    **dict.fromkeys(("efficiency_model", "efficiency_parameters", "minimal_energy_resolution"), _SPECIAL),
    **dict.fromkeys(("apply_bias", "bias_model", "bias_parameters"), only(False, None, reason=_SPECIAL.reason)),
    "allow_negative": only(False, None, reason="negative densities are not supported"),
    "convert_to_uniform": only(False, None, reason="write uniform templates instead"),
    "pdf_interpolation_method": only("piecewise", None, reason="densities are constant in each bin"),
    "source_wise_interpolation": technical("both ways give the same density"),
    **dict.fromkeys(
        ("default_source_class", "class"),
        only("alea.template_source.TemplateSource", "TemplateSource", reason="sources are templates or surrogates"),
    ),
}
#: Keys of a parameter with values that are no part of the schema.
PARAMETER_RULES: Mapping[str, Rule] = {
    "ptype": Rule("a choice between templates cannot be fitted; make it 'shape'", lambda v: False)
}
#: Keys of the nested ``likelihood_config`` of a run.
MORPHER_RULES: Mapping[str, Rule] = {
    "morpher": only(None, "GridInterpolator", reason="templates are interpolated multilinearly between anchors"),
    "morpher_config": only(None, {}, reason="templates are interpolated multilinearly between anchors"),
    "outlier_likelihood": technical("an event of zero density makes ln L = -inf instead of getting a floor"),
    "unphysical_behaviour": technical("a negative expectation makes ln L = -inf"),
    "model_statistical_uncertainty_handling": only(None, reason="template statistics are taken as exact"),
}
#: Keys at the top of the file.
TOP_RULES: Mapping[str, Rule] = {
    "fit_strategy": technical("settings of Minuit; fits here are bounded Newton fits"),
    "confidence_interval_root_find": technical("limits are bracketed from the best fit outwards"),
    "asymptotic_dof": only(None, 1, reason="one parameter of interest is supported"),
    "template_path": technical("give template_path when the model is built"),
}
