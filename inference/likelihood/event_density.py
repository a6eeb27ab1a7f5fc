"""The densities of a source at the events of the data, as functions of theta alone.

Within a fit the events stand still and only theta moves. An :class:`EventDensity` is a source bound to a batch of T
data sets; the likelihood knows nothing else of the density. The implementations here evaluate the source itself; a
polynomial in theta fitted once to each event fits the same interface.

Of Hessians ln L needs only sums over events, which an expansion makes without ever forming those of the events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from surrogate.jet import Jet
from surrogate.source import Source


@dataclass(frozen=True, eq=False)
class EventJet:
    """Value and gradient of f at every event of B rows, and weighted sums of its Hessians.

    Attributes
    ----------
    log_scale, value
        (B, N) as in :class:`surrogate.jet.Jet`: f = exp(log_scale) value.
    gradient
        (B, N, K) in units of exp(log_scale).
    hessian_sum
        Weights w (B, N) -> sum_i w_i d2f_i (B, K, K) in units of exp(log_scale) of each event.
    """

    log_scale: Tensor
    value: Tensor
    gradient: Tensor
    hessian_sum: Callable[[Tensor], Tensor]


def summing(jet: Jet) -> EventJet:
    """Return a jet over (B, N) as one that sums Hessians."""
    k = jet.gradient.shape[-1]

    def hessian_sum(weight: Tensor) -> Tensor:
        return (weight.unsqueeze(1) @ jet.hessian.flatten(-2)).reshape(-1, k, k)

    return EventJet(jet.log_scale, jet.value, jet.gradient, hessian_sum)


def without_hessian(log_f: Tensor, gradient: Tensor) -> EventJet:
    """Return the jet of f from ln f (B, N) and its gradient (B, N, K), with f as good as linear in theta."""
    k = gradient.shape[-1]
    return EventJet(log_f, torch.ones_like(log_f), gradient, lambda weight: weight.new_zeros(len(weight), k, k))


class EventDensity(Protocol):
    """f(x_i | theta) for the events i of T data sets."""

    def density_jet(self, theta: Tensor, rows: Tensor, centre: Tensor | None = None) -> EventJet:
        """Return the jet in theta of the density at every event.

        Parameters
        ----------
        theta
            (B, K) nuisances of the source.
        rows
            (B,) data set of each row.
        centre
            (B, K), picks the smooth piece at a breakpoint; see :class:`surrogate.source.Source`.

        Returns
        -------
        EventJet
            Over (B, N), N events of the padded data set.
        """
        ...

    def log_prob(self, theta: Tensor, rows: Tensor) -> Tensor:
        """Return ln f (B, N), differentiable in theta (B, K)."""
        ...


@runtime_checkable
class BinIndexed(Protocol):
    """A source that is constant in bins, and whose density needs of an event only its bin."""

    def bin_index(self, x: Tensor) -> Tensor:
        """Return the bin (*,) of each event x (*, D)."""
        ...

    def density_at(self, index: Tensor, theta: Tensor) -> Tensor:
        """Return f (*,) in the bins ``index`` (*,) at theta (*, K)."""
        ...

    def density_jet_at(self, index: Tensor, theta: Tensor, centre: Tensor | None = None) -> Jet:
        """Return the jet of f in the bins ``index`` (*,)."""
        ...


def per_row(events: Tensor, rows: Tensor) -> Tensor:
    """Return the entries (B, ...) of a batch (T, ...) that belong to each row, without a copy where T = 1."""
    if len(events) == 1:
        return events.expand(len(rows), *events.shape[1:])
    return events[rows]


class SourceDensity:
    """The source itself, evaluated anew at every theta.

    Parameters
    ----------
    source
        The source.
    x
        Events (T, N, D).
    """

    def __init__(self, source: Source, x: Tensor) -> None:
        self._source = source
        self._x = x

    def density_jet(self, theta: Tensor, rows: Tensor, centre: Tensor | None = None) -> EventJet:
        """Return the jet over (B, N); see :class:`EventDensity`."""
        where = None if centre is None else centre.unsqueeze(1)
        return summing(self._source.density_jet(per_row(self._x, rows), theta.unsqueeze(1), where))

    def log_prob(self, theta: Tensor, rows: Tensor) -> Tensor:
        """Return ln f (B, N); see :class:`EventDensity`."""
        return self._source.log_prob(per_row(self._x, rows), theta.unsqueeze(1))


class BinnedDensity:
    """A source that is constant in bins; the search for the bins is done once.

    Parameters
    ----------
    source
        The source.
    x
        Events (T, N, D).
    """

    def __init__(self, source: BinIndexed, x: Tensor) -> None:
        self._source = source
        self._index = source.bin_index(x)

    def density_jet(self, theta: Tensor, rows: Tensor, centre: Tensor | None = None) -> EventJet:
        """Return the jet over (B, N); see :class:`EventDensity`."""
        where = None if centre is None else centre.unsqueeze(1)
        return summing(self._source.density_jet_at(per_row(self._index, rows), theta.unsqueeze(1), where))

    def log_prob(self, theta: Tensor, rows: Tensor) -> Tensor:
        """Return ln f (B, N); see :class:`EventDensity`."""
        return self._source.density_at(per_row(self._index, rows), theta.unsqueeze(1)).log()


class FixedDensity:
    """A source whose theta never moves: evaluated once.

    Parameters
    ----------
    source
        The source.
    x
        Events (T, N, D).
    theta
        (K,) where its nuisances are held; K = 0 for a source without any.
    """

    def __init__(self, source: Source, x: Tensor, theta: Tensor) -> None:
        flat = x.reshape(-1, x.shape[-1])
        self._log_f = source.log_prob(flat, theta.expand(len(flat), -1)).detach().reshape(x.shape[:-1])

    def density_jet(self, theta: Tensor, rows: Tensor, centre: Tensor | None = None) -> EventJet:
        """Return the constant jet over (B, N); see :class:`EventDensity`."""
        log_f = per_row(self._log_f, rows)
        return without_hessian(log_f, log_f.new_zeros(1).expand(*log_f.shape, theta.shape[-1]))

    def log_prob(self, theta: Tensor, rows: Tensor) -> Tensor:
        """Return ln f (B, N); see :class:`EventDensity`."""
        return per_row(self._log_f, rows)


def bind(source: Source, x: Tensor, held: Tensor | None = None) -> EventDensity:
    """Return the exact density of a source at the events x (T, N, D); ``held`` (K,) if its theta never moves."""
    if held is not None:
        return FixedDensity(source, x, held)
    if isinstance(source, BinIndexed):
        return BinnedDensity(source, x)
    return SourceDensity(source, x)
