"""Densities of events that are given, in the few functions of theta that an event pool has found.

A pool (:mod:`inference.pools.event_pool`) knows which functions span ln f of any event in the region where fits to toys
end, and how an event's amounts of them are got. Data sets made elsewhere, by a simulator for instance, are fitted with
them as the pool's own toys are, and the same checks hold (:func:`inference.pools.pairs.pooled_pairs`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from inference.data.dataset import DataBatch
from inference.likelihood.extended import Likelihood
from inference.pools.event_pool import EventPool, PoolTable, RunPool
from inference.pools.reduced_basis import NodalFit
from inference.science_run import ScienceRun, theta_of

#: Events expanded at a time.
CHUNK = 8192


def expanded_events(pool: EventPool, run: ScienceRun, x: Tensor, counts: Tensor) -> RunPool:
    """Return given events with their densities expanded as those of a pool are.

    Parameters
    ----------
    pool
        A pool of the model.
    run
        The run that the events belong to.
    x
        (E, D), inside the region of interest.
    counts
        (C,) how many of them, one source after the other, are of each.
    """
    found, tables, constants = pool.pools[run.name], {}, {}
    for c in run.sources:
        if c.name in found.tables:
            basis = found.tables[c.name].basis
            fit = NodalFit.of(c, basis)
            tables[c.name] = PoolTable(basis, torch.cat([fit.coefficients(some) for some in x.split(CHUNK)]))
        elif c.name in found.constants:
            theta = theta_of(pool.parameters, c, pool.values.unsqueeze(0))[0]
            constants[c.name] = c.source.log_prob(x, theta).unsqueeze(-1)
    return RunPool(x, counts, tables, constants)


def expanded_data(pool: EventPool, data: DataBatch) -> Likelihood:
    """Return the likelihood of given data sets on the expansions of a pool; in memory at once."""
    densities = {}
    for run in pool.runs:
        x, used = data.x[run.name], data.weights[run.name] > 0
        events = expanded_events(pool, run, x[used], torch.tensor([int(used.sum())]))
        position = (used.flatten().cumsum(0) - 1).clamp_min(0).reshape(used.shape)
        densities[run.name] = events.densities(position) if bool(used.any()) else {}
    return Likelihood(pool.parameters, pool.runs, data, densities)
