"""Sources that fold a response with a recoil spectrum: of a flow, or of a basis of templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from inference.configuration.alea import SourceConfig, TermConfig
from inference.configuration.config import BasisConfig, SpectrumSection, validate
from inference.configuration.search_path import RunName, SearchPath
from inference.configuration.template_reader import Number
from surrogate.binning import Binning
from surrogate.ensemble import EnsembleSource
from surrogate.errors import ConfigError, DataError
from surrogate.file_names import fill
from surrogate.flow_response import FlowResponse
from surrogate.flow_source import FlowSource
from surrogate.response import Response, checked_nodes
from surrogate.spectrum import Spectrum
from surrogate.spectrum_source import SpectrumSource
from surrogate.template import TemplateSource
from surrogate.template_io import read_basis
from surrogate.template_response import TemplateBasis, TemplateResponse, YieldBand, read_band

LIGHT, CHARGE = "t_ly", "t_qy"
"""Names of the nuisances that deform the yields of a basis."""


@dataclass(frozen=True)
class ResponseReader:
    """Reads the responses and spectra of a model.

    Parameters
    ----------
    search
        Where files are looked up.
    constants
        Values of the parameters that fields in file names and spectra may name.
    anchors
        Anchors of the shape parameters.
    """

    search: SearchPath
    constants: Mapping[str, Number]
    anchors: Mapping[str, Sequence[Number]]

    def fold_flow(
        self, flow: FlowSource | EnsembleSource, term: TermConfig, config: SourceConfig, place: str
    ) -> SpectrumSource:
        """Return a flow with the recoil energy among its parameters, folded with the spectrum of the source.

        Raises
        ------
        ConfigError
            If the flow does not depend on the energy, or the spectrum is malformed or reaches too far outside.
        """
        try:
            response = FlowResponse(flow)
        except ConfigError as error:
            raise ConfigError(f"{place}.surrogate: {error}") from error
        return SpectrumSource(response, self._spectrum(response, term, config, place), config.outside)

    def fold_basis(
        self, basis: BasisConfig, term: TermConfig, config: SourceConfig, binning: Binning, place: str
    ) -> TemplateSource:
        """Return the templates of the spectrum at all combinations of the anchors of the two yields, on the run's grid.

        Raises
        ------
        ConfigError
            If a key is missing or wrong, a yield has no anchors, or the spectrum reaches too far outside the basis.
        DataError
            If a file is malformed, or the edges of the basis are not those of the run.
        """
        where = f"{place}.basis"
        light = self._band(basis.light_yield, term, f"{where}.light_yield")
        charge = self._band(basis.charge_yield, term, f"{where}.charge_yield")
        anchors = {nuisance: self._anchors(nuisance, config, place) for nuisance in (LIGHT, CHARGE)}
        templates = self._basis(basis, term, where)
        if (difference := binning.difference(templates.binning)) is not None:
            raise DataError(f"{where}: {difference} by analysis_space")
        response = TemplateResponse(templates, light, charge, anchors, basis.interpolation)
        return replace(response.fold(self._spectrum(response, term, config, place), config.outside), binning=binning)

    def binning(self, basis: BasisConfig, term: TermConfig, place: str) -> Binning:
        """Return the grid of a basis."""
        return self._basis(basis, term, f"{place}.basis").binning

    def _basis(self, basis: BasisConfig, term: TermConfig, where: str) -> TemplateBasis:
        path = self.search.find(self._fill(basis.file, term, f"{where}.file"), f"{where}.file")
        return read_basis(path, self._fill(basis.run, term, f"{where}.run"))

    def _band(self, pattern: str, term: TermConfig, where: str) -> YieldBand:
        paths = [
            self.search.find(self._fill(pattern, term, where, {"edge": edge}), where)
            for edge in ("lower", "median", "upper")
        ]
        return read_band(*paths)

    def _anchors(self, nuisance: str, config: SourceConfig, place: str) -> tuple[float, ...]:
        """Return the anchors of the parameter that drives a yield."""
        driver = config.nuisance_parameters.get(nuisance, nuisance)
        if not isinstance(driver, str):
            raise ConfigError(
                f"{place}: the yields of a basis cannot be held; fix the parameter that drives '{nuisance}'"
            )
        if driver not in self.anchors:
            raise ConfigError(
                f"{place}: parameter '{driver}' drives the yield '{nuisance}' and needs 'blueice_anchors', between "
                "which the folded templates are morphed"
            )
        return tuple(float(v) for v in self.anchors[driver])

    def _fill(self, pattern: str, term: TermConfig, where: str, more: Mapping[str, str] | None = None) -> str:
        """Return text with its fields filled in: constants, and the name of the run."""
        return fill(pattern, {**self.constants, "run": RunName(term.name), **(more or {})}, where)

    def _spectrum(self, response: Response, term: TermConfig, config: SourceConfig, place: str) -> Spectrum:
        """Return the spectrum of a source, of which the response may leave out the share that the source allows."""
        where = f"{place}.spectrum"
        if config.spectrum is None:
            raise ConfigError(f"{place}: key 'spectrum' is missing; a response is folded with one")
        filled: dict[str, str | Number] = {
            key: self._fill(value, term, f"{where}.{key}") if isinstance(value, str) else value
            for key, value in config.spectrum.items()
        }
        if isinstance(filled.get("path"), str):
            filled["path"] = str(self.search.find(str(filled["path"]), f"{where}.path"))
        spectrum = validate(SpectrumSection, {"spectrum": filled}, place).spectrum
        try:
            recoils = spectrum.build(Path())
            checked_nodes(response, recoils, config.outside)
        except (ConfigError, DataError) as error:
            raise type(error)(f"{where}: {error}") from error
        return recoils
