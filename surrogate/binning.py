"""Binnings: a grid of half-open bins over observables, with the last right edge of each axis inclusive."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from surrogate.errors import ConfigError, DataError
from surrogate.observables import Observable, ObservableSpace


def _checked_edges(name: str, edges: Tensor) -> Tensor:
    """Return edges as float64, or say what is wrong with them."""
    if edges.ndim != 1 or edges.numel() < 2:
        raise ConfigError(f"bin edges of '{name}': at least two edges in one row are needed, got {tuple(edges.shape)}")
    values = edges.detach().to(torch.float64)
    if not bool(torch.isfinite(values).all()):
        raise ConfigError(f"bin edges of '{name}': must be finite, got {values.tolist()[:8]}")
    steps = values.diff()
    if not bool((steps > 0).all()):
        k = int((steps <= 0).nonzero()[0, 0])
        raise ConfigError(
            f"bin edges of '{name}': must increase, but edge {k + 1} = {values[k + 1]:.6g} follows {values[k]:.6g}"
        )
    return values


@dataclass(frozen=True, eq=False)
class Binning:
    """A product grid of bins; bins are numbered in C order, the last axis fastest.

    A value x falls in bin i of an axis when e_i <= x < e_{i+1}, and in the last bin also when x equals the last edge,
    as in numpy.histogramdd.

    Parameters
    ----------
    names
        The axes.
    edges
        Increasing bin edges of each axis, (n_d + 1,).

    Raises
    ------
    ConfigError
        If edges do not increase, are not finite, or do not match the names.
    """

    names: tuple[str, ...]
    edges: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.edges):
            raise ConfigError(
                f"binning: {len(self.edges)} rows of edges for {len(self.names)} axes; one each is needed"
            )
        if len(set(self.names)) != len(self.names):
            raise ConfigError(f"binning: axis names must be unique, got {', '.join(self.names)}")
        checked = tuple(_checked_edges(n, e) for n, e in zip(self.names, self.edges, strict=True))
        object.__setattr__(self, "edges", checked)

    @property
    def dim(self) -> int:
        """Number of axes D."""
        return len(self.names)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Number of bins on each axis."""
        return tuple(len(e) - 1 for e in self.edges)

    @property
    def n_bins(self) -> int:
        """Number of bins."""
        return math.prod(self.shape)

    @cached_property
    def corners(self) -> tuple[Tensor, Tensor]:
        """Lower and upper corners of the bins, each (n_bins, D)."""
        low = torch.meshgrid(*[e[:-1] for e in self.edges], indexing="ij")
        high = torch.meshgrid(*[e[1:] for e in self.edges], indexing="ij")
        return torch.stack(low, dim=-1).reshape(-1, self.dim), torch.stack(high, dim=-1).reshape(-1, self.dim)

    @cached_property
    def volumes(self) -> Tensor:
        """Volumes of the bins (n_bins,) in physical units."""
        low, high = self.corners
        return (high - low).prod(dim=-1)

    @property
    def centres(self) -> Tensor:
        """Centres of the bins (n_bins, D)."""
        low, high = self.corners
        return 0.5 * (low + high)

    def index(self, x: Tensor) -> Tensor:
        """Return the bin of each point of x (*, D): int64 (*,), -1 outside the grid and for NaN."""
        if x.shape[-1] != self.dim:
            raise DataError(f"x: last dimension is {x.shape[-1]}, must be {self.dim} ({', '.join(self.names)})")
        flat = torch.zeros(x.shape[:-1], dtype=torch.int64, device=x.device)
        inside = torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)
        for d, row in enumerate(self.edges):
            edges = row.to(x.device)
            value = x[..., d].to(torch.float64).contiguous()
            bin_d = torch.bucketize(value, edges, right=True) - 1
            bin_d = torch.where(value == edges[-1], len(edges) - 2, bin_d)
            inside &= (bin_d >= 0) & (bin_d <= len(edges) - 2)
            flat = flat * (len(edges) - 1) + bin_d
        return torch.where(inside, flat, -1)

    def draw(self, bins: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return one point (n, D), uniform in each of the given bins (n,)."""
        low, high = self.corners
        u = torch.rand((len(bins), self.dim), generator=generator, dtype=torch.float64, device=bins.device)
        low, high = low.to(bins.device)[bins], high.to(bins.device)[bins]
        return torch.minimum(low + u * (high - low), high)

    def space(self, units: Sequence[str] | None = None) -> ObservableSpace:
        """Return the region of interest that the grid covers; units are empty where not given."""
        names = zip(self.names, units or [""] * self.dim, self.edges, strict=True)
        return ObservableSpace(tuple(Observable(n, unit, float(e[0]), float(e[-1])) for n, unit, e in names))

    def difference(self, other: Binning, tolerance: float = 1e-6) -> str | None:
        """Say where another grid has other edges, or return None when it agrees.

        Axes are compared in order; edges agree when they differ by at most ``tolerance`` of the axis' length.
        """
        if self.shape != other.shape:
            return f"{other.shape} bins where {self.shape} are expected"
        for name, mine, theirs in zip(self.names, self.edges, other.edges, strict=True):
            off = (mine - theirs).abs()
            if float(off.max()) > tolerance * float(mine[-1] - mine[0]):
                k = int(off.argmax())
                return f"edge {k} of axis '{name}' is {float(theirs[k]):.8g} where {float(mine[k]):.8g} is expected"
        return None
