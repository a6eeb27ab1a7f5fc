"""From a statistical-model file to the pieces of a model: parameters, science runs, and what was not taken over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from inference.configuration.alea import AleaFile, ModelConfig, SourceConfig, TermConfig, read_alea
from inference.configuration.alea_parameters import Range, build_parameters
from inference.configuration.conversion import Conversion, Note
from inference.configuration.response_reader import ResponseReader
from inference.configuration.search_path import RunName, SearchPath
from inference.configuration.template_reader import (
    TemplateReader,
    analysis_binning,
    check_space,
    with_filenames,
)
from inference.intervals.asymptotics import IntervalKind
from inference.parameters import ParameterSet
from inference.science_run import RunSource, ScienceRun
from surrogate.binned import BinnedSource
from surrogate.binning import Binning
from surrogate.certificate import read_certificate
from surrogate.checkpoint import load_checkpoint
from surrogate.errors import ConfigError, unknown_name
from surrogate.file_names import fill
from surrogate.observables import ObservableSpace
from surrogate.source import Source


@dataclass(frozen=True, eq=False)
class ModelPieces:
    """What a model consists of.

    Attributes
    ----------
    parameters, runs
        The model.
    conversion
        What of the file could not be taken over as it stands.
    uncertified
        Surrogates without a valid certificate, as ``run/source (checkpoint: verdict)``.
    confidence_level, interval_kind
        Defaults for limits.
    """

    parameters: ParameterSet
    runs: tuple[ScienceRun, ...]
    conversion: Conversion
    uncertified: tuple[str, ...]
    confidence_level: float
    interval_kind: IntervalKind


class Assembler:
    """Builds the sources and runs of one file.

    Parameters
    ----------
    file
        As read.
    search
        Where templates and checkpoints are looked up.
    """

    def __init__(self, file: AleaFile, search: SearchPath) -> None:
        self.config = file.config
        self.where = file.path.name
        self.search = search
        definitions = file.config.parameter_definition
        anchors = {n: p.blueice_anchors for n, p in definitions.items() if p.ptype == "shape" and p.blueice_anchors}
        self.anchors = {n: a for n, a in anchors.items() if len(a) > 1}
        constants = {n: a[0] for n, a in anchors.items() if len(a) == 1}
        nominal = {n: p.nominal_value for n, p in definitions.items() if p.nominal_value is not None}
        fixed = {n: v for n, v in nominal.items() if definitions[n].ptype not in ("rate", "shape")}
        self.reader = TemplateReader(self.search, {**fixed, **constants}, self.anchors)
        self.responses = ResponseReader(self.search, {**fixed, **constants}, self.anchors)
        self.notes: list[Note] = []
        self.uncertified: list[str] = []

    def _require_parameter(self, name: str, place: str) -> None:
        if name not in self.config.parameter_definition:
            raise ConfigError(unknown_name("parameter", name, self.config.parameter_definition, place))

    def run(self, term: TermConfig, weight: float = 1.0) -> ScienceRun:
        """Return one run with all its sources."""
        place = f"{self.where}: likelihood_config.likelihood_terms.{term.name}"
        exposure = [n for n in (term.livetime_parameter, term.fiducial_mass_parameter) if n is not None]
        for name in exposure:
            self._require_parameter(name, place)
        binning = analysis_binning(term, place) or self._binning_of_templates(term, place)
        if binning is None and term.likelihood_type == "binned":
            raise ConfigError(f"{place}: key 'analysis_space' with bin edges is needed, or sources with templates")
        sources = tuple(self._run_source(term, s, binning, f"{place}.sources.{s.name}") for s in term.sources)
        space = self._space(term, sources, binning, place)
        binned = term.likelihood_type == "binned" and binning is not None
        edges = binning.edges if binned and binning else None
        return ScienceRun(term.name, space, sources, tuple(exposure), edges, weight)

    def _binning_of_templates(self, term: TermConfig, place: str) -> Binning | None:
        """Return the grid of the run's first template, for a run that does not say its own."""
        first = next((s for s in term.sources if s.surrogate is None), None)
        if first is None:
            return None
        where = f"{place}.sources.{first.name}"
        if first.basis is not None:
            return self.responses.binning(first.basis, term, where)
        return self.reader.binning(term, first, where)

    def _space(
        self, term: TermConfig, sources: tuple[RunSource, ...], binning: Binning | None, place: str
    ) -> ObservableSpace:
        """Return the region of interest: that of the surrogates, with their units and scales, else of the binning."""
        surrogates = [c.source for c, s in zip(sources, term.sources, strict=True) if s.surrogate is not None]
        if not surrogates:
            if binning is None:
                raise ConfigError(f"{place}: has no sources")
            return binning.space()
        check_space(term, surrogates[0].observables, place)
        return surrogates[0].observables

    def _run_source(self, term: TermConfig, config: SourceConfig, binning: Binning | None, place: str) -> RunSource:
        """Return a source with the parameters that act on it."""
        for name in (*config.parameters, *(v for v in config.nuisance_parameters.values() if isinstance(v, str))):
            self._require_parameter(name, place)
        kinds = {n: self.config.parameter_definition[n].ptype for n in config.parameters}
        rates = [n for n, kind in kinds.items() if kind == "rate"]
        if len(rates) != 1:
            raise ConfigError(
                f"{place}.parameters: exactly one rate parameter is needed, got {', '.join(rates) or 'none'}"
            )
        source = self._source(term, config, binning, place)
        scale = (
            config.histogram_scale_factor or term.histogram_scale_factor if config.surrogate or config.basis else None
        )
        return RunSource(
            config.name,
            source,
            rates[0],
            self._drivers(config, source, place),
            self._efficiencies(term, config, kinds, place),
            1.0 if scale is None else float(scale),
        )

    def _source(self, term: TermConfig, config: SourceConfig, binning: Binning | None, place: str) -> Source:
        kinds = {"surrogate": config.surrogate, "basis": config.basis, "template_filename": config.template_filename}
        given = [name for name, value in kinds.items() if value is not None]
        if len(given) > 1:
            raise ConfigError(f"{place}: has both '{given[0]}' and '{given[1]}'; remove one")
        if config.surrogate is not None:
            return self._surrogate(config.surrogate, term, config, binning, place)
        if binning is None:
            raise ConfigError(f"{place}: templates need bin edges in analysis_space")
        if config.basis is not None:
            return self.responses.fold_basis(config.basis, term, config, binning, place)
        if config.spectrum is not None:
            raise ConfigError(f"{place}: a spectrum is folded with a 'surrogate' or a 'basis'; templates have theirs")
        if config.nuisance_parameters:
            raise ConfigError(f"{place}: nuisance_parameters are for surrogates; templates take named_parameters")
        return self.reader.read(term, config, binning, place)

    def _surrogate(
        self, pattern: str, term: TermConfig, config: SourceConfig, binning: Binning | None, place: str
    ) -> Source:
        """Return the source of a checkpoint, folded with a spectrum where one is given, and binned in a binned run."""
        fields = {**self.reader.constants, "run": RunName(term.name)}
        checkpoint = fill(pattern, fields, f"{place}.surrogate")
        path = self.search.find(checkpoint, f"{place}.surrogate")
        flow = load_checkpoint(path)
        certificate = read_certificate(path)
        if certificate is None or not certificate.passed:
            verdict = "not validated" if certificate is None else certificate.verdict
            self.uncertified.append(f"{term.name}/{config.name} ({checkpoint}: {verdict})")
        source = flow if config.spectrum is None else self.responses.fold_flow(flow, term, config, place)
        if term.likelihood_type == "unbinned":
            return source
        if binning is None:
            raise ConfigError(f"{place}: a binned run needs bin edges")
        return BinnedSource(source, Binning(source.observables.names, binning.edges))

    def _drivers(self, config: SourceConfig, source: Source, place: str) -> dict[str, str | float]:
        """Return which parameter drives each nuisance: that of the same name unless renamed or held."""
        names = source.nuisances.names
        for name in config.nuisance_parameters:
            if name not in names:
                raise ConfigError(unknown_name("nuisance", name, names, f"{place}.nuisance_parameters"))
        drivers = {n: config.nuisance_parameters.get(n, n) for n in names}
        for nuisance, driver in drivers.items():
            if isinstance(driver, str) and driver not in config.parameters:
                raise ConfigError(
                    f"{place}: its nuisance '{nuisance}' is driven by '{driver}', which is not among its parameters; "
                    f"add it there, rename it or hold it with nuisance_parameters"
                )
        driven = {d for d in drivers.values() if isinstance(d, str)}
        for name in config.parameters:
            if self.config.parameter_definition[name].ptype == "shape" and name not in driven:
                reason = f"source '{config.name}' does not depend on it"
                self.notes.append(Note(f"{place}.parameters", name, True, reason))
        return {n: d if isinstance(d, str) else float(d) for n, d in drivers.items()}

    def _efficiencies(
        self, term: TermConfig, config: SourceConfig, kinds: Mapping[str, str], place: str
    ) -> tuple[str, ...]:
        """Return the efficiency parameter of a source, if it has one."""
        name = config.efficiency_name or term.efficiency_name
        listed = [n for n, kind in kinds.items() if kind == "efficiency"]
        if name is None:
            if config.apply_efficiency:
                raise ConfigError(f"{place}: apply_efficiency needs efficiency_name")
            for n in listed:
                self.notes.append(
                    Note(f"{place}.parameters", n, True, "no efficiency_name: it does not act, as in alea")
                )
            return ()
        if name not in listed:
            raise ConfigError(
                f"{place}.efficiency_name: '{name}' must be among the source's parameters and of ptype efficiency"
            )
        return (name,)


def _weights(config: ModelConfig, where: str) -> tuple[float, ...]:
    """Return the factors on ln L of the runs."""
    likelihood = config.likelihood_config
    n = len(likelihood.likelihood_terms)
    given = likelihood.likelihood_weights
    if given is not None and len(given) != n + 1:
        raise ConfigError(f"{where}: likelihood_weights needs {n + 1} numbers, one per run and the ancillary one")
    return (1.0,) * n if given is None else tuple(float(w) for w in given[:n])


def _driven_ranges(runs: Sequence[ScienceRun]) -> dict[str, list[Range]]:
    """Return parameter -> ranges on which the sources that it drives are defined."""
    ranges: dict[str, list[Range]] = {}
    for c in (c for run in runs for c in run.sources):
        for driver, nuisance in zip(c.drivers, c.source.nuisances.nuisances, strict=True):
            if isinstance(driver, str):
                ranges.setdefault(driver, []).append((nuisance.low, nuisance.high))
    return ranges


def assemble(
    path: str | Path,
    template_path: str | Path | Sequence[str | Path] | None = None,
    template_filenames: Mapping[str, str] | None = None,
    nominal_values: Mapping[str, float] | None = None,
) -> ModelPieces:
    """Read a statistical-model file and everything that it names.

    Parameters
    ----------
    path
        The YAML file.
    template_path
        Folders in which templates and checkpoints are looked up before those of the file.
    template_filenames
        File-name patterns of templates by source or ``run/source``, in place of those of the file; besides the
        source's named parameters they may hold ``{run}``, ``{run:lower}`` and ``{run:upper}``.
    nominal_values
        Other nominal values than those of the file, such as the mass that a file name holds.

    Raises
    ------
    ConfigError, DataError, CheckpointError
        Naming the file and the place in it.
    """
    file = read_alea(path, nominal_values)
    file = replace(file, config=with_filenames(file.config, template_filenames or {}))
    search = SearchPath.of(file.path, file.config.likelihood_config.template_folder, template_path)
    builder = Assembler(file, search)
    terms, weights = file.config.likelihood_config.likelihood_terms, _weights(file.config, builder.where)
    runs = tuple(builder.run(term, weight) for term, weight in zip(terms, weights, strict=True))
    acting = {n for run in runs for n in run.exposure_parameters} | {
        n for r in runs for c in r.sources for n in c.parameters
    }
    parameters, notes = build_parameters(file.config, builder.where, _driven_ranges(runs), acting)
    conversion = Conversion(str(path), (*file.conversion.notes, *builder.notes, *notes))
    return ModelPieces(
        parameters,
        runs,
        conversion,
        tuple(builder.uncertified),
        float(file.config.confidence_level),
        file.config.confidence_interval_kind,
    )
