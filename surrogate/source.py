"""The Source protocol: a density f(x | theta) over a bounded observable space and its expected rate mu(theta)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from surrogate.jet import Jet
from surrogate.nuisance import NuisanceSpace
from surrogate.observables import ObservableSpace


@runtime_checkable
class Source(Protocol):
    """What the likelihood knows of a source; flows, templates and folded spectra all provide it."""

    @property
    def observables(self) -> ObservableSpace:
        """The region of interest."""
        ...

    @property
    def nuisances(self) -> NuisanceSpace:
        """The parameters theta, in the order of the columns of every ``theta`` argument."""
        ...

    @property
    def breakpoints(self) -> Mapping[str, tuple[float, ...]]:
        """Where derivatives jump: nuisance name -> sorted values between which f and mu are smooth.

        Empty for a smooth source.
        """
        ...

    @property
    def identity(self) -> str:
        """Hash of everything the density depends on; it enters the model hash of results and caches."""
        ...

    def log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        """Return ln f(x | theta) (*,) for x (*, D) in physical units and theta (*, K), broadcasting over *.

        Exactly -inf outside the region of interest. Raises RangeError for theta outside the ranges.
        """
        ...

    def expected_events(self, theta: Tensor) -> Tensor:
        """Return mu(theta) (*,) in events per unit exposure (tonne-year), for theta (*, K)."""
        ...

    def expected_events_std(self, theta: Tensor) -> Tensor:
        """Return the standard error (*,) of :meth:`expected_events` from finite simulation or template statistics."""
        ...

    def sample(self, n: int, theta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw n events (n, D) inside the region of interest at theta (K,), or one event per row of theta (n, K)."""
        ...

    def density_jet(self, x: Tensor, theta: Tensor, centre: Tensor | None = None) -> Jet:
        """Return the jet in theta of f(x | theta), for x (*, D) and theta (*, K), broadcasting over *.

        ``centre`` (*, K) picks the side of a breakpoint on which one-sided derivatives are taken: the smooth piece that
        contains it. Smooth sources ignore it; without it a piecewise source uses the piece that contains theta.
        """
        ...

    def rate_jet(self, theta: Tensor, centre: Tensor | None = None) -> Jet:
        """Return the jet in theta of mu(theta), for theta (*, K)."""
        ...
