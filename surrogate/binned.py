"""A source integrated over bins: how a smooth density serves a binned run, and how it is compared with templates.

The content of bin b is computed by the product Gauss-Legendre rule in the coordinates u of the unit cube, in which
smooth densities are flattest,

    p_b(theta) = int_b f(x | theta) dx = int_{u(b)} f(x(u) | theta) |dx/du| du,

and the density of the binned source is p_b/V_b throughout the bin.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from surrogate.binning import Binning
from surrogate.errors import ConfigError
from surrogate.jet import Jet
from surrogate.nuisance import NuisanceSpace
from surrogate.observables import ObservableSpace
from surrogate.shapes import broadcast_shape
from surrogate.source import Source
from surrogate.template import TemplateSource


def _check_space(source: Source, binning: Binning) -> None:
    """Raise unless the grid covers exactly the source's region of interest."""
    space = source.observables
    if binning.names != space.names:
        raise ConfigError(
            f"binning: axes are {', '.join(binning.names)}, the source's observables are {', '.join(space.names)}"
        )
    for observable, edges in zip(space.observables, binning.edges, strict=True):
        low, high, tolerance = float(edges[0]), float(edges[-1]), 1e-6 * (observable.high - observable.low)
        if abs(low - observable.low) > tolerance or abs(high - observable.high) > tolerance:
            raise ConfigError(
                f"binning: axis '{observable.name}' covers [{low:.6g}, {high:.6g}], the source is normalised on "
                f"[{observable.low:.6g}, {observable.high:.6g}]; both must be equal"
            )


@dataclass(frozen=True, eq=False)
class BinnedSource:
    """Any source, seen through a binning.

    Parameters
    ----------
    source
        The density to integrate.
    binning
        The grid; it must cover exactly the source's region of interest, so that no probability is lost.
    nodes
        Quadrature nodes per axis and bin.
    chunk
        Most density evaluations at a time; bounds the memory.

    Raises
    ------
    ConfigError
        If the grid and the region of interest differ.
    """

    source: Source
    binning: Binning
    nodes: int = 4
    chunk: int = 200_000

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise ConfigError(f"nodes = {self.nodes} must be at least 1")
        _check_space(self.source, self.binning)

    @property
    def observables(self) -> ObservableSpace:
        """The region of interest."""
        return self.source.observables

    @property
    def nuisances(self) -> NuisanceSpace:
        """The nuisances of the source."""
        return self.source.nuisances

    @property
    def breakpoints(self) -> Mapping[str, tuple[float, ...]]:
        """Those of the source."""
        return self.source.breakpoints

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the source's identity, the edges and the quadrature."""
        digest = hashlib.sha256(f"{self.source.identity} {self.nodes}".encode())
        for edges in self.binning.edges:
            digest.update(edges.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def _rule(self) -> tuple[Tensor, Tensor]:
        """Quadrature points (n_bins, Q, D) in physical units and weights (n_bins, Q) that include |dx/du|."""
        roots, weights = np.polynomial.legendre.leggauss(self.nodes)
        axes = [torch.from_numpy(0.5 * (roots + 1))] * self.binning.dim
        unit = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, self.binning.dim)
        rows = torch.meshgrid(*[torch.from_numpy(0.5 * weights)] * self.binning.dim, indexing="ij")
        weight = torch.stack(rows, dim=-1).reshape(-1, self.binning.dim).prod(dim=-1)
        low, high = (self.observables.to_unit(corner)[0] for corner in self.binning.corners)
        u = low[:, None, :] + unit * (high - low)[:, None, :]
        x = self.observables.from_unit(u)
        log_jacobian = self.observables.to_unit(x)[1]
        return x, weight * (high - low).prod(dim=-1)[:, None] * (-log_jacobian).exp()

    def bin_index(self, x: Tensor) -> Tensor:
        """Return the bin of each event of x (*, D): int64 (*,), -1 outside the region of interest."""
        return self.binning.index(x)

    def density_jet_at(self, index: Tensor, theta: Tensor, centre: Tensor | None = None) -> Jet:
        """Return the jet of f in the bins ``index`` (*,), at theta (*, K); bins -1 give density 0."""
        k = self.nuisances.dim
        shape = broadcast_shape(index.shape, theta.shape[:-1])
        flat = index.expand(shape).reshape(-1)
        where = theta.expand(*shape, k).reshape(-1, k)
        side = where if centre is None else centre.expand(*shape, k).reshape(-1, k)
        rows = max(1, self.chunk // self._rule[1].shape[1])
        parts = [self._jet_rows(*c) for c in zip(flat.split(rows), where.split(rows), side.split(rows), strict=True)]
        value, gradient, hessian = (torch.cat(p) for p in zip(*parts, strict=True))
        return Jet(
            torch.zeros(shape, dtype=value.dtype, device=value.device),
            value.reshape(shape),
            gradient.reshape(*shape, k),
            hessian.reshape(*shape, k, k),
        )

    def _jet_rows(self, index: Tensor, theta: Tensor, centre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Integrate value (n,), gradient (n, K) and Hessian (n, K, K) over the bins (n,)."""
        inside = index >= 0
        bins = index.clamp(min=0)
        points, weights = (t.to(index.device)[bins] for t in self._rule)
        scale = torch.where(inside, 1 / self.binning.volumes.to(index.device)[bins], 0.0)
        jet = self.source.density_jet(points, theta[:, None, :], centre[:, None, :])
        mass = jet.log_scale.exp() * weights * scale[:, None]
        return (
            (mass * jet.value).sum(dim=1),
            (mass.unsqueeze(-1) * jet.gradient).sum(dim=1),
            (mass[..., None, None] * jet.hessian).sum(dim=1),
        )

    def density_at(self, index: Tensor, theta: Tensor) -> Tensor:
        """Return f (*,) in the bins ``index`` (*,), at theta (*, K)."""
        shape = broadcast_shape(index.shape, theta.shape[:-1])
        flat = index.expand(shape).reshape(-1)
        where = theta.expand(*shape, self.nuisances.dim).reshape(len(flat), self.nuisances.dim)
        rows = max(1, self.chunk // self._rule[1].shape[1])
        volumes = self.binning.volumes.to(index.device)
        parts = []
        for bins, point in zip(flat.split(rows), where.split(rows), strict=True):
            nodes, weights = (t.to(index.device)[bins.clamp(min=0)] for t in self._rule)
            mass = (self.source.log_prob(nodes, point[:, None, :]).exp() * weights).sum(dim=1)
            parts.append(torch.where(bins >= 0, mass / volumes[bins.clamp(min=0)], 0.0))
        return torch.cat(parts).reshape(shape)

    def density_jet(self, x: Tensor, theta: Tensor, centre: Tensor | None = None) -> Jet:
        """Return the jet of f(x | theta) for x (*, D) and theta (*, K)."""
        return self.density_jet_at(self.bin_index(x), theta, centre)

    def log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        """Return ln f(x | theta) (*,), -inf outside the region of interest."""
        return self.density_at(self.bin_index(x), theta).log()

    def pmf(self, theta: Tensor) -> Tensor:
        """Return the probability of every bin (*, n_bins) at theta (*, K); they sum to 1 up to quadrature error."""
        bins = torch.arange(self.binning.n_bins, device=theta.device)
        return self.density_at(bins, theta.unsqueeze(-2)) * self.binning.volumes.to(theta.device)

    def rate_jet(self, theta: Tensor, centre: Tensor | None = None) -> Jet:
        """Return the jet of mu(theta), which binning leaves as it is."""
        return self.source.rate_jet(theta, centre)

    def expected_events(self, theta: Tensor) -> Tensor:
        """Return mu(theta) (*,) in events per unit exposure."""
        return self.source.expected_events(theta)

    def expected_events_std(self, theta: Tensor) -> Tensor:
        """Return the standard error (*,) of mu."""
        return self.source.expected_events_std(theta)

    def sample(self, n: int, theta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw events of the source and spread each uniformly over its bin."""
        return self.binning.draw(self.bin_index(self.source.sample(n, theta, generator)), generator)


def tabulate(source: BinnedSource, anchors: Mapping[str, tuple[float, ...]]) -> TemplateSource:
    """Make templates of a source at every combination of anchors: the source that alea would build of it."""
    if set(anchors) != set(source.nuisances.names):
        raise ConfigError(
            f"anchors: given for {', '.join(anchors) or 'none'}, "
            f"needed for {', '.join(source.nuisances.names) or 'none'}"
        )
    ordered = {n: anchors[n] for n in source.nuisances.names}
    axes = [torch.tensor(a, dtype=torch.float64) for a in ordered.values()]
    theta = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) if axes else torch.zeros(0, dtype=torch.float64)
    counts = source.pmf(theta) * source.expected_events(theta).unsqueeze(-1)
    return TemplateSource(
        source.binning,
        ordered,
        counts.reshape(*theta.shape[:-1], *source.binning.shape),
        nominal={n.name: n.nominal for n in source.nuisances.nuisances},
        units=tuple(o.unit for o in source.observables.observables),
    )
