"""Finding and reading the template files of a source, one per combination of anchors."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from inference.configuration.alea import ModelConfig, SliceConfig, SourceConfig, TermConfig
from inference.configuration.search_path import PLACEHOLDER, RunName, SearchPath
from inference.science_run import EDGE_TOLERANCE
from surrogate.binning import Binning
from surrogate.errors import ConfigError, DataError, unknown_name
from surrogate.file_names import fields_of, fill
from surrogate.observables import ObservableSpace
from surrogate.template import Template, TemplateSource
from surrogate.template_io import read_template

Number = int | float
Option = TypeVar("Option")


def _sliced(template: Template, config: SliceConfig) -> Template:
    """Keep a range of one axis, whole bins only, and sum over the axis when asked."""
    names = template.binning.names
    if config.slice_axis not in names:
        raise ConfigError(unknown_name("axis", config.slice_axis, names, f"slice_args of {template.label}"))
    d = names.index(config.slice_axis)
    edges, counts = list(template.binning.edges), template.counts
    if config.slice_axis_limits is not None:
        found = []
        for limit in config.slice_axis_limits:
            k = int((edges[d] - limit).abs().argmin())
            if abs(float(edges[d][k]) - limit) > 1e-6 * float(edges[d][-1] - edges[d][0]):
                raise ConfigError(
                    f"slice_args of {template.label}: {limit} is no bin edge of '{config.slice_axis}'; the nearest is "
                    f"{float(edges[d][k]):.6g}"
                )
            found.append(k)
        counts = counts.narrow(d, found[0], max(0, found[1] - found[0]))
        edges[d] = edges[d][found[0] : found[1] + 1]
    if config.sum_axis:
        if len(names) == 1:
            raise ConfigError(f"slice_args of {template.label}: the only axis cannot be summed over")
        counts, names = counts.sum(dim=d), (*names[:d], *names[d + 1 :])
        del edges[d]
    return Template(Binning(names, tuple(edges)), counts, template.label)


def _adjusted(template: Template, source: SourceConfig, term: TermConfig) -> Template:
    """Apply the options of a source (or, where it has none, of its run) to a template as read."""
    binning, counts = template.binning, template.counts
    if _option(source.normalise_template, term.normalise_template, False) and template.total > 0:
        counts = counts / counts.sum()
    if not _option(source.in_events_per_bin, term.in_events_per_bin, True):
        counts = counts * binning.volumes.reshape(binning.shape)
    template = Template(binning, counts, template.label)
    for entry in _option(source.slice_args, term.slice_args, ()):
        template = _sliced(template, entry)
    scale = float(_option(source.histogram_scale_factor, term.histogram_scale_factor, 1))
    edges = list(template.binning.edges)
    for axis in _option(source.log10_bins, term.log10_bins, ()):
        if not 0 <= axis < len(edges):
            raise ConfigError(f"log10_bins of {template.label}: axis {axis} does not exist")
        edges[axis] = 10 ** edges[axis]
    return Template(Binning(template.binning.names, tuple(edges)), template.counts * scale, template.label)


def _option(own: Option | None, inherited: Option | None, default: Option) -> Option:
    """Return the source's own option, else its run's, else the default."""
    if own is not None:
        return own
    return inherited if inherited is not None else default


def _fitted(template: Template, binning: Binning) -> Template:
    """Put a template on the run's own grid after checking that its edges are those."""
    if (difference := binning.difference(template.binning)) is not None:
        raise DataError(f"{template.label}: {difference} by analysis_space")
    names = template.binning.names
    if names != binning.names and set(names) == set(binning.names):
        raise DataError(
            f"{template.label}: axes are {', '.join(names)}, analysis_space has them in the order "
            f"{', '.join(binning.names)}"
        )
    return Template(binning, template.counts, template.label)


@dataclass(frozen=True)
class TemplateReader:
    """Reads the template sources of a model.

    Parameters
    ----------
    search
        Where files are looked up.
    constants
        Values of the parameters that are no anchors of a morph: what their fields in file names become.
    anchors
        Anchors of the shape parameters.
    """

    search: SearchPath
    constants: Mapping[str, Number]
    anchors: Mapping[str, Sequence[Number]]

    def read(self, term: TermConfig, source: SourceConfig, binning: Binning, place: str) -> TemplateSource:
        """Read the templates of a source at every combination of the anchors of its named shape parameters.

        Raises
        ------
        ConfigError
            If a file name is missing, a placeholder or unknown, or a field cannot be filled.
        DataError
            If a template is malformed or its edges are not those of the run.
        """
        filename, histname, named = self._names(term, source, place)
        used = fields_of(filename) | fields_of(histname)
        axes = {n: self.anchors[n] for n in named if n in self.anchors and n in used}
        templates = []
        for point in itertools.product(*axes.values()):
            template = self._read_one(term, source, dict(zip(axes, point, strict=True)), place)
            templates.append(_fitted(template, binning))
        return TemplateSource.from_templates(templates, {n: tuple(float(v) for v in a) for n, a in axes.items()})

    def binning(self, term: TermConfig, source: SourceConfig, place: str) -> Binning:
        """Return the grid of the first template of a source."""
        return self._read_one(term, source, {n: a[0] for n, a in self.anchors.items()}, place).binning

    def _names(self, term: TermConfig, source: SourceConfig, place: str) -> tuple[str, str, tuple[str, ...]]:
        """Return the patterns of file and histogram, and the parameters that may fill them."""
        filename = source.template_filename or term.template_filename
        histname = source.histname or term.histname
        if filename is None or histname is None:
            missing = "template_filename" if filename is None else "histname"
            raise ConfigError(f"{place}: key '{missing}' is missing (or 'surrogate' for a checkpoint)")
        if PLACEHOLDER in (filename, histname):
            raise ConfigError(
                f"{place}: template_filename and histname must not be the placeholder '{PLACEHOLDER}'; fill it with "
                f"template_filenames={{'{source.name}': PATTERN}}, or --template {source.name}=PATTERN"
            )
        named = source.named_parameters or term.named_parameters or ()
        for name in named:
            if name not in source.parameters:
                raise ConfigError(unknown_name("parameter", name, source.parameters, f"{place}.named_parameters"))
        for name in sorted((fields_of(filename) | fields_of(histname)) - {*named, "run"}):
            raise ConfigError(
                unknown_name("field", name, (*named, "run"), f"{place}.template_filename (named_parameters)")
            )
        return filename, histname, named

    def _read_one(self, term: TermConfig, source: SourceConfig, point: Mapping[str, Number], place: str) -> Template:
        """Read the template at one combination of anchors."""
        filename, histname, named = self._names(term, source, place)
        values: dict[str, Number | str] = {n: self.constants[n] for n in named if n in self.constants}
        values |= {**{n: v for n, v in point.items() if n in named}, "run": RunName(term.name)}
        path = self.search.find(fill(filename, values, place), place)
        return _adjusted(read_template(path, fill(histname, values, place)), source, term)


def analysis_binning(term: TermConfig, place: str) -> Binning | None:
    """Return the grid of ``analysis_space``; None where it is not given or an axis has no edges.

    Raises
    ------
    ConfigError
        If the edges do not increase.
    """
    space = term.analysis_space
    if not space or any(edges is None for _, edges in space):
        return None
    try:
        rows = tuple(torch.tensor([float(v) for v in edges or ()], dtype=torch.float64) for _, edges in space)
        return Binning(tuple(axis for axis, _ in space), rows)
    except ConfigError as error:
        raise ConfigError(f"{place}.analysis_space: {error}") from error


def check_space(term: TermConfig, space: ObservableSpace, place: str) -> None:
    """Raise ConfigError unless ``analysis_space`` agrees with the region of interest of a run's surrogates.

    Axes without edges agree with any window. A surrogate is normalised on its own window and cannot be cut to another.
    """
    axes = term.analysis_space or ()
    names = tuple(axis for axis, _ in axes)
    if names and names != space.names:
        raise ConfigError(
            f"{place}.analysis_space: axes are {', '.join(names)}, the surrogates have {', '.join(space.names)}"
        )
    for o, (_, edges) in zip(space.observables, axes, strict=False):
        if not edges:
            continue
        tolerance = EDGE_TOLERANCE * (o.high - o.low)
        if abs(edges[0] - o.low) > tolerance or abs(edges[-1] - o.high) > tolerance:
            raise ConfigError(
                f"{place}.analysis_space: {o.name} runs from {edges[0]:g} to {edges[-1]:g}, the surrogates are "
                f"normalised on [{o.low:g}, {o.high:g}]; give these ends or no edges, or train surrogates on the "
                "window that you want"
            )


def with_filenames(config: ModelConfig, filenames: Mapping[str, str]) -> ModelConfig:
    """Fill in file names of templates, given by source or by run/source.

    Raises
    ------
    ConfigError
        If one of them belongs to no source.
    """
    used: set[str] = set()
    terms = []
    for term in config.likelihood_config.likelihood_terms:
        sources = []
        for source in term.sources:
            key = next((k for k in (f"{term.name}/{source.name}", source.name) if k in filenames), None)
            if key is not None:
                used.add(key)
                source = source.model_copy(update={"template_filename": filenames[key]})
            sources.append(source)
        terms.append(term.model_copy(update={"sources": tuple(sources)}))
    for key in filenames:
        if key not in used and key.split("/")[-1] not in used:
            known = dict.fromkeys(s.name for t in terms for s in t.sources)
            raise ConfigError(unknown_name("source", key, known, "template_filenames"))
    likelihood = config.likelihood_config.model_copy(update={"likelihood_terms": tuple(terms)})
    return config.model_copy(update={"likelihood_config": likelihood})
