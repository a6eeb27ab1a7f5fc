"""The fit of eps(theta) that a training configuration asks for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from surrogate.acceptance import AcceptanceModel, fit_acceptance
from surrogate.errors import DataError
from surrogate.guides import guide_from_dict
from surrogate.moved_acceptance import KeptChunk, Motion, fit_moved_acceptance, moved_shares
from surrogate.nuisance import NuisanceSpace
from surrogate.ray_acceptance import KeptEvents, fit_ray_acceptance
from training.event_set import BlockCounts, EventSet
from training.settings import AcceptanceConfig, TrainConfig

logger = logging.getLogger(__name__)

DRIFT_CELLS = 64
"""Cells of drift time in which kept events are counted."""


def fit_acceptances(config: TrainConfig, events: EventSet, counts: Sequence[BlockCounts]) -> list[AcceptanceModel]:
    """Fit eps(theta) for each flow: once where all have the same events, else to the counts of each.

    A bootstrap leaves the counts alone. Given theta, how many events are kept and where the kept ones lie are
    independent, and the error of the former follows from the counts.

    Parameters
    ----------
    config
        Training configuration.
    events
        The event files.
    counts
        Counts of the events of each flow.

    Raises
    ------
    ConfigError, DataError
        If the configuration or the events do not allow the fit.
    """
    start = time.process_time()
    motion = motion_of(config, events)
    if config.data.fresh:
        fits = [_counted(config.acceptance, events.nuisances, each) for each in counts]
    elif motion is not None:
        fits = [_moved(config, events, motion)] * len(counts)
    else:
        fits = [_kept(config, events)] * len(counts)
    first = fits[0]
    logger.info(
        "acceptance: degree %d, chi2 %.1f for %d degrees of freedom, %.1f CPU s",
        first.basis.degree,
        first.chi2,
        first.n_dof,
        time.process_time() - start,
    )
    return fits


def motion_of(config: TrainConfig, events: EventSet) -> Motion | None:
    """Return how events move with theta for the fit of eps(theta), None where they are counted only.

    Raises
    ------
    ConfigError
        If the guides do not say how events move, or a value of ``moving_above`` makes no sense.
    DataError
        If the events have weights.
    """
    if config.acceptance.moving_above is None:
        return None
    if events.weighted:
        raise DataError("acceptance: events with weights cannot be moved; leave moving_above out")
    guides = tuple(guide_from_dict(guide) for guide in config.flow.guides)
    return Motion(guides, events.observables, events.nuisances, config.acceptance.moving_above)


def _moved(config: TrainConfig, events: EventSet, motion: Motion) -> AcceptanceModel:
    """Fit eps(theta) to the places of the events that move as the guides say, and to counts of the others."""
    settings, blocks = config.acceptance, events.blocks()
    logger.info("acceptance: moving %d events to %d thetas", events.n_events, len(blocks.theta))
    chunks = (KeptChunk(torch.from_numpy(chunk.x), torch.from_numpy(chunk.block)) for chunk in events.chunks())
    moved = moved_shares(motion, blocks.theta, blocks.n_generated, chunks)

    def still(x: Tensor) -> Tensor:
        return ~motion.moving(x)

    counted = _kept(config, events, still) if int(events.histogram(0, 1, still).sum()) else None
    return fit_moved_acceptance(events.nuisances, *blocks, moved, counted, settings.total_degree, settings.max_degree)


def _kept(config: TrainConfig, events: EventSet, which: Callable[[Tensor], Tensor] | None = None) -> AcceptanceModel:
    """Fit the share of generated events that is kept, all or ``which``: by drift time where a symmetry allows it."""
    settings, counts = config.acceptance, events.blocks()
    if not config.data.symmetries or settings.kinks or settings.fine:
        kept = counts.n_accepted if which is None else events.histogram(0, 1, which).squeeze(-1)
        return _counted(settings, events.nuisances, counts._replace(n_accepted=kept))
    symmetry = config.data.symmetries[0]
    column = events.observables.names.index(symmetry.drift)
    window = events.observables.observables[column]
    histogram = events.histogram(column, DRIFT_CELLS, which)
    kept_events = KeptEvents(counts.theta, counts.n_generated, histogram, symmetry.lifetime, (window.low, window.high))
    return fit_ray_acceptance(events.nuisances, kept_events, settings.total_degree, settings.max_degree)


def _counted(settings: AcceptanceConfig, nuisances: NuisanceSpace, counts: BlockCounts) -> AcceptanceModel:
    """Fit eps(theta) to counts."""
    degree, highest = settings.total_degree, settings.max_degree
    return fit_acceptance(nuisances, *counts, degree, settings.kinks, highest, settings.fine)
