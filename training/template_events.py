"""Events drawn from templates, from which a flow learns to take their place.

At an anchor a with expectation n_ab in bin b, N events are drawn by systematic sampling (Madow 1949,
doi:10.1214/aoms/1177729988): with C_b = N sum_{c <= b} n_ac/mu_a and one uniform number v,

    N_b = floor(C_b + v) - floor(C_{b-1} + v),

so that E[N_b] = N n_ab/mu_a and |N_b - E[N_b]| < 1, without the Poisson noise of independent draws. Inside its bin an
event is uniform. The rate of a template is known exactly: the counts that stand for it are generated_rate n_accepted /
n_generated = mu_a to the rounding of n_generated.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surrogate.errors import ConfigError, DataError
from surrogate.observables import ObservableSpace
from surrogate.template import TemplateSource
from training.event_set import BlockCounts, EventSet, UnitEvents
from training.event_writer import EventWriter, Segment
from training.events import Blocks, EventSchema
from training.split import generator_of
from training.supply import CHUNK, thinned
from training.template_set import TemplateDraw

GROUP = 2**20
"""Events that are drawn and shuffled together in a training, about."""

COUNTED = 1_000_000
"""Events that stand for each template in the fit of the rate: it is followed to about a part in a thousand."""

HEADROOM = 2.0
"""Generated rate over the largest rate of the templates."""


def anchor_points(source: TemplateSource) -> Tensor:
    """Return theta (A, K) of all anchors, in the order of the templates."""
    axes = [torch.tensor(values, dtype=torch.float64) for values in source.anchors.values()]
    return torch.cartesian_prod(*axes).reshape(-1, len(axes)) if axes else torch.zeros(1, 0, dtype=torch.float64)


def systematic_counts(pmf: Tensor, n: int, v: Tensor) -> Tensor:
    """Return how many of n events fall in each bin, int64 (A, B), for pmf (A, B) and uniform numbers v (A,)."""
    reached = torch.floor(n * pmf.cumsum(dim=-1) + v.unsqueeze(-1))
    reached[:, -1] = n
    return torch.diff(reached, dim=-1, prepend=torch.zeros_like(reached[:, :1])).long()


def draw_events(source: TemplateSource, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return n events at every anchor of positive rate: x (m, D) in physical units, and the anchor (m,) of each."""
    full = (source.expected_events(anchor_points(source)) > 0).nonzero()[:, 0]
    pmf = source.pmf(anchor_points(source)[full])
    counts = systematic_counts(pmf, n, torch.rand(len(full), generator=generator, dtype=torch.float64))
    bins = torch.arange(source.binning.n_bins).repeat(len(full)).repeat_interleave(counts.reshape(-1))
    return source.binning.draw(bins, generator), full.repeat_interleave(n)


def generated_rate(source: TemplateSource) -> float:
    """Return the rate of generated events that the counts of :func:`anchor_counts` refer to.

    Raises
    ------
    DataError
        If all templates are empty.
    """
    largest = float(source.expected_events(anchor_points(source)).max())
    if not largest > 0:
        raise DataError("templates: all are empty; there is nothing to draw from")
    return HEADROOM * largest


def anchor_counts(source: TemplateSource, n: int, rate: float) -> BlockCounts:
    """Return counts of n accepted events per anchor, none where its mu is 0, with mu = rate n_accepted/n_generated.

    Parameters
    ----------
    source
        The templates.
    n
        Accepted events.
    rate
        Rate of generated events per unit exposure, above that of any template.
    """
    theta = anchor_points(source)
    mu = source.expected_events(theta)
    full = mu > 0
    generated = torch.where(full, n * rate / mu.clamp(min=rate * 1e-12), n).round().long()
    return BlockCounts(theta, generated, torch.where(full, n, 0))


def write_template_events(draw: TemplateDraw, path: Path) -> int:
    """Draw an event file from templates and return the number of its events.

    Raises
    ------
    ConfigError, DataError
        As :meth:`training.template_set.TemplateSet.read`.
    """
    source = draw.read(draw.keep)
    x, anchor = draw_events(source, draw.events, generator_of(draw.seed))
    rate = generated_rate(source)
    counts = anchor_counts(source, draw.events, rate)
    space = draw.space(source.binning)
    metadata: Mapping[str, Any] = {
        "templates": draw.model_dump(mode="json"),
        "templates_sha256": source.identity,
        "seed": draw.seed,
    }
    schema = EventSchema(space, draw.nuisance_space(draw.keep), rate, metadata)
    blocks = Blocks(counts.theta.numpy(), counts.n_generated.numpy(), counts.n_accepted.numpy())
    writer = EventWriter(path, schema, metadata)
    writer.write(0, Segment(blocks, _inside(x, space), anchor.numpy().astype(np.int32)))
    writer.finish(1)
    return len(x)


def _inside(x: Tensor, space: ObservableSpace) -> np.ndarray:
    """Return x (n, D) in single precision, which must not carry it over an edge of the window."""
    low, high = space.bounds(x.float())
    return x.float().clamp(low, high).numpy()


def drawn_events(draw: TemplateDraw, n_events: int, seed: int, rate: float) -> tuple[UnitEvents, BlockCounts]:
    """Return about n_events of a training's templates that it has never seen, and counts that stand for their rates.

    ``rate`` is that of generated events, to which the counts refer.
    """
    source = draw.read(draw.keep)
    counts = anchor_counts(source, COUNTED, rate)
    per_anchor = max(n_events // int((counts.n_accepted > 0).sum()), 1)
    return _unit_events(source, draw.space(source.binning), per_anchor, generator_of(seed, 2)), counts


def _unit_events(source: TemplateSource, space: ObservableSpace, n: int, generator: torch.Generator) -> UnitEvents:
    x, anchor = draw_events(source, n, generator)
    return UnitEvents(space.to_unit(x)[0].float(), anchor_points(source)[anchor].float(), torch.ones(len(x)))


def _weighted_events(source: TemplateSource, space: ObservableSpace, generator: torch.Generator) -> UnitEvents:
    """Return one event in each bin of every template of positive rate, weighted by n_bins times its probability."""
    theta = anchor_points(source)
    theta = theta[source.expected_events(theta) > 0]
    n = source.binning.n_bins
    x = source.binning.draw(torch.arange(n).repeat(len(theta)), generator)
    weight = (n * source.pmf(theta)).reshape(-1)
    return UnitEvents(space.to_unit(x)[0].float(), theta.float().repeat_interleave(n, dim=0), weight.float())


class TemplateSupply:
    """Training events drawn from templates while they are needed, new ones in each pass; those of a file are held out.

    Parameters
    ----------
    events
        Open event set drawn from the same templates.
    draw
        The templates.
    seed
        Seed of the training; with that of the draw it fixes the events.

    Raises
    ------
    ConfigError
        If the file describes other observables or ranges than the templates.
    """

    groups = 1

    def __init__(self, events: EventSet, draw: TemplateDraw, seed: int) -> None:
        self._source = draw.read(draw.keep)
        self._space = draw.space(self._source.binning)
        if self._space != events.observables or draw.nuisance_space(draw.keep) != events.nuisances:
            raise ConfigError("data: the templates block and the event file describe different observables or ranges")
        self._rate = generated_rate(self._source)
        if self._rate != events.generated_rate:
            raise ConfigError("data: the event file was drawn from other templates; remove it, and it is drawn anew")
        self._events, self._key = events, (draw.seed, seed)
        full = int((anchor_counts(self._source, 1, self._rate).n_accepted > 0).sum())
        self._weighted = draw.weighted
        self._per_anchor = max(GROUP // full, 1)
        self.group_size = full * (self._source.binning.n_bins if draw.weighted else self._per_anchor)

    def load(self, number: int, group: int) -> UnitEvents:
        """Draw the events of pass ``number``."""
        if self._weighted:
            return _weighted_events(self._source, self._space, generator_of(*self._key, 1, number))
        return _unit_events(self._source, self._space, self._per_anchor, generator_of(*self._key, 1, number))

    def held_out_events(self) -> UnitEvents:
        """Return the events of the file, evenly thinned."""
        starts = range(0, self._events.n_events, CHUNK)
        return thinned(UnitEvents.join([self._events.read(s, min(s + CHUNK, self._events.n_events)) for s in starts]))

    def state(self) -> dict[str, Any]:
        """Return nothing: the events follow from the seeds."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up nothing."""

    def counts(self) -> BlockCounts:
        """Return counts that stand for the rates of the templates, which are known."""
        return anchor_counts(self._source, COUNTED, self._rate)
