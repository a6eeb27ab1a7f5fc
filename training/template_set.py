"""Sets of template files: one binned expectation per combination of anchors of the nuisance parameters.

Example::

    folder: ${RELEASE}
    files: b8/template_sr0_b8_tly_{t_ly:.1f}_tqy_{t_qy:.1f}.h5
    histogram: template
    nuisances:
      - {name: t_ly, unit: sigma, anchors: [-3, -2, -1, 0, 1, 2, 3], nominal: 0}
      - {name: t_qy, unit: sigma, anchors: [-3, -2, -1, 0, 1, 2, 3], nominal: 0}
    axes:
      cs2: {unit: PE}

The files are those of inference_interface, read by alea; see :mod:`surrogate.template_io`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from surrogate.binning import Binning
from surrogate.block import Block
from surrogate.errors import ConfigError, unknown_name
from surrogate.file_names import fields_of, fill
from surrogate.nuisance import Nuisance, NuisanceSpace
from surrogate.observables import Observable, ObservableSpace
from surrogate.template import TemplateSource
from surrogate.template_io import read_template
from training.blocks import read_yaml, validation_message
from training.paths import PathText


class TemplateNuisance(Block):
    """A nuisance parameter, the anchors at which there are templates, and its nominal value (the middle anchor)."""

    name: str
    unit: str = ""
    anchors: Annotated[tuple[float, ...], Field(min_length=2)]
    nominal: float | None = None

    @model_validator(mode="after")
    def _increasing(self) -> TemplateNuisance:
        if any(not b > a for a, b in itertools.pairwise(self.anchors)):
            raise ValueError(f"anchors of '{self.name}' must increase, got {list(self.anchors)}")
        return self

    def among(self, anchors: tuple[float, ...]) -> Nuisance:
        """Return the parameter on the range of some of its anchors."""
        nominal = self.anchors[len(self.anchors) // 2] if self.nominal is None else self.nominal
        return Nuisance(self.name, self.unit, anchors[0], anchors[-1], nominal)


class TemplateAxis(Block):
    """What the files do not say of an axis: its unit, and the scale on which a flow sees it."""

    unit: str = ""
    scale: Literal["bins", "linear", "log", "square"] = "bins"
    offset: float = 0.0

    def build(self, name: str, edges: tuple[float, ...]) -> Observable:
        """Return the observable with the window of the bins."""
        binned = edges if self.scale == "bins" else ()
        return Observable(name, self.unit, edges[0], edges[-1], self.scale, self.offset, binned)


class TemplateSet(Block):
    """Templates of one source in one run.

    Attributes
    ----------
    folder
        Where the files lie.
    files
        Their names in it, with the nuisance parameters as fields, such as ``b8_{t_ly:.1f}.h5``.
    histogram
        Name of the histogram in each file; it may have fields too.
    nuisances
        The parameters and their anchors; there is a file for each combination.
    axes
        Units and scales of axes, where the default (no unit, the axis' own bins) does not do.
    """

    folder: PathText
    files: PathText
    histogram: str = "template"
    nuisances: tuple[TemplateNuisance, ...] = ()
    axes: dict[str, TemplateAxis] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _every_nuisance_is_a_field(self) -> TemplateSet:
        used = fields_of(self.files) | fields_of(self.histogram)
        for nuisance in self.nuisances:
            if nuisance.name not in used:
                raise ValueError(f"no field of 'files' or 'histogram' is the nuisance '{nuisance.name}'")
        return self

    @property
    def anchors(self) -> dict[str, tuple[float, ...]]:
        """Nuisance parameter -> its anchors."""
        return {n.name: n.anchors for n in self.nuisances}

    def read(self, kept: Mapping[str, tuple[float, ...]] | None = None) -> TemplateSource:
        """Read the templates at all combinations of anchors, or of those that are ``kept``.

        Raises
        ------
        ConfigError
            If a field of a file name is unknown, or an axis is none of the templates'.
        DataError
            If a file is missing, is no template file, or its bins differ from those of the others.
        """
        anchors = self.anchors | dict(kept or {})
        templates = []
        for point in itertools.product(*anchors.values()):
            values = dict(zip(anchors, point, strict=True))
            path = Path(self.folder) / fill(self.files, values, "templates: files")
            templates.append(read_template(path, fill(self.histogram, values, "templates: histogram")))
        source = TemplateSource.from_templates(templates, anchors)
        for name in self.axes:
            if name not in source.binning.names:
                raise ConfigError(unknown_name("axis", name, source.binning.names, "templates: axes"))
        return source

    def space(self, binning: Binning) -> ObservableSpace:
        """Return the region of interest: the extent of the bins, on the scales of the axes."""
        axes = ((name, self.axes.get(name, TemplateAxis())) for name in binning.names)
        rows = (tuple(edges.tolist()) for edges in binning.edges)
        return ObservableSpace(tuple(axis.build(name, row) for (name, axis), row in zip(axes, rows, strict=True)))

    def nuisance_space(self, kept: Mapping[str, tuple[float, ...]] | None = None) -> NuisanceSpace:
        """Return the nuisance parameters on the range of their anchors, or of those that are ``kept``."""
        anchors = self.anchors | dict(kept or {})
        return NuisanceSpace(tuple(n.among(anchors[n.name]) for n in self.nuisances))


class TemplateDraw(TemplateSet):
    """A set from which the events of a training are drawn.

    Attributes
    ----------
    keep
        Nuisance parameter -> the anchors to train on, where not all; the others show how a flow interpolates.
    events
        Events per anchor in the event file.
    seed
        Of all draws.
    weighted
        Train on one event for every bin of every template, weighted by its probability, in place of events drawn in
        proportion; only while they are drawn as they are needed. Where a batch holds all of them the gradient has no
        noise at all: for few bins and templates.
    """

    keep: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    events: int = Field(default=5000, gt=0)
    seed: int = Field(default=0, ge=0)
    weighted: bool = False

    @model_validator(mode="after")
    def _kept_are_anchors(self) -> TemplateDraw:
        for name, kept in self.keep.items():
            if name not in self.anchors:
                raise ValueError(unknown_name("nuisance", name, self.anchors, "keep"))
            if len(kept) < 2 or any(not b > a for a, b in itertools.pairwise(kept)):
                raise ValueError(f"keep: at least two increasing anchors of '{name}' are needed, got {list(kept)}")
            strange = [value for value in kept if value not in self.anchors[name]]
            if strange:
                raise ValueError(f"keep: {strange[0]} is no anchor of '{name}'; they are {list(self.anchors[name])}")
        return self


def read_template_set(path: Path) -> TemplateSet:
    """Read the description of a set from a YAML file.

    Raises
    ------
    ConfigError
        If it cannot be read, or a key is unknown, missing or of the wrong kind.
    """
    try:
        return TemplateSet.model_validate(read_yaml(path))
    except ValidationError as error:
        raise ConfigError(validation_message(path, error)) from error
