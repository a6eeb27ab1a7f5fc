"""Observable space: the region of interest and its map to the unit cube.

A density f(x) over the region of interest is modelled as a density p(u) over the unit cube,

    f(x) = p(u(x)) prod_d |du_d/dx_d|,    u_d = (t_d(x_d) - t_d(low_d)) / (t_d(high_d) - t_d(low_d)),

with one monotone scale t_d per observable: ``linear`` t = x, ``log`` t = ln(x + offset), ``square`` t = x^2
(uniform density in a disc becomes uniform in u when x is a radius), ``bins`` t = i + (x - e_i)/(e_{i+1} - e_i) in bin i
of given edges, which makes all bins equally wide in u: for observables known, or of interest, only by their bin, such
as the axes of templates; ``counts`` is linear, for whole numbers, in a window between half-integers. The map takes the
region of interest onto the cube exactly, so a normalised p gives a normalised f and no probability leaks over an edge.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from surrogate.errors import ConfigError, unknown_name

Scale = Literal["linear", "log", "square", "bins", "counts"]
SCALES: tuple[str, ...] = ("linear", "log", "square", "bins", "counts")


@dataclass(frozen=True)
class Observable:
    """One reconstructed quantity with its window in the region of interest.

    Parameters
    ----------
    name
        Column name, such as ``cs1``.
    unit
        Physical unit, such as ``PE``; empty when dimensionless.
    low, high
        The window [low, high], both edges included.
    scale
        ``linear``, ``log``, ``square``, ``bins`` or ``counts``.
    offset
        Added to x under the logarithm; low + offset must be positive.
    edges
        Bin edges from low to high, for the scale ``bins`` and for it alone.

    Raises
    ------
    ConfigError
        If the window is empty or not finite, or the scale is undefined on it.
    """

    name: str
    unit: str
    low: float
    high: float
    scale: Scale = "linear"
    offset: float = 0.0
    edges: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "edges", tuple(float(edge) for edge in self.edges))
        if self.scale not in SCALES:
            raise ConfigError(unknown_name("scale", self.scale, SCALES, f"observable '{self.name}'"))
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(
                f"observable '{self.name}': window [{self.low}, {self.high}] must be finite with low < high"
            )
        if self.scale == "log" and self.low + self.offset <= 0:
            raise ConfigError(
                f"observable '{self.name}': low + offset = {self.low + self.offset} must be > 0 for the log scale; "
                "raise the offset or the lower edge"
            )
        if self.scale == "square" and self.low < 0:
            raise ConfigError(f"observable '{self.name}': low = {self.low} must be >= 0 for the square scale")
        if self.scale == "counts" and (self.low % 1.0, self.high % 1.0) != (0.5, 0.5):
            raise ConfigError(
                f"observable '{self.name}': window [{self.low}, {self.high}] of counts must run between half-integers, "
                "such as [1.5, 9.5] for 2 to 9"
            )
        self._check_edges()

    def _check_edges(self) -> None:
        if (self.scale == "bins") != bool(self.edges):
            raise ConfigError(f"observable '{self.name}': give edges for the scale 'bins', and for no other")
        if not self.edges:
            return
        if not all(a < b for a, b in itertools.pairwise(self.edges)):
            raise ConfigError(f"observable '{self.name}': edges {list(self.edges)} must increase")
        if (self.edges[0], self.edges[-1]) != (self.low, self.high):
            raise ConfigError(
                f"observable '{self.name}': edges run from {self.edges[0]} to {self.edges[-1]}, must run from low = "
                f"{self.low} to high = {self.high}"
            )

    def _edges(self) -> tuple[float, float]:
        if self.scale == "log":
            return math.log(self.low + self.offset), math.log(self.high + self.offset)
        if self.scale == "square":
            return self.low**2, self.high**2
        return self.low, self.high

    @property
    def cells(self) -> tuple[float, ...]:
        """Edges of the cells within which values are not told apart: bins or counts; empty for other scales."""
        if self.scale != "counts":
            return self.edges
        return tuple(self.low + i for i in range(round(self.high - self.low) + 1))

    def in_cell(self, x: Tensor, share: Tensor) -> Tensor:
        """Return the point of the cell that holds x with the share (in [0, 1]) of it below; x outside the window."""
        edges = torch.as_tensor(self.cells, dtype=x.dtype, device=x.device)
        index = torch.bucketize(x.detach().contiguous(), edges[1:-1], right=True)
        moved = torch.lerp(edges[index], edges[index + 1], share.to(x))
        return torch.where((x >= self.low) & (x <= self.high), moved, x)

    def to_unit(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return u(x) and ln|du/dx|, elementwise."""
        if self.scale == "bins":
            return self._bins_to_unit(x)
        low, high = self._edges()
        norm = math.log(high - low)
        if self.scale == "log":
            shifted = x + self.offset
            return (shifted.log() - low) / (high - low), -shifted.log() - norm
        if self.scale == "square":
            return (x.square() - low) / (high - low), (2 * x).log() - norm
        return (x - low) / (high - low), torch.full_like(x, -norm)

    def from_unit(self, u: Tensor) -> Tensor:
        """Return x(u), the inverse of :meth:`to_unit`; rounding never carries it over an edge."""
        if self.scale == "bins":
            return self._bins_from_unit(u)
        low, high = self._edges()
        t = low + u * (high - low)
        if self.scale == "log":
            t = t.exp() - self.offset
        elif self.scale == "square":
            t = t.clamp(min=0.0).sqrt()
        return t.clamp(self.low, self.high)

    def _bins_to_unit(self, x: Tensor) -> tuple[Tensor, Tensor]:
        edges = torch.as_tensor(self.edges, dtype=x.dtype, device=x.device)
        n, widths = len(self.edges) - 1, edges.diff()
        index = torch.bucketize(x.detach().contiguous(), edges[1:-1], right=True)
        inside = ((x - edges[index]) / widths[index]).clamp(max=1.0)
        return (index + inside) / n, -(n * widths[index]).log()

    def _bins_from_unit(self, u: Tensor) -> Tensor:
        edges = torch.as_tensor(self.edges, dtype=u.dtype, device=u.device)
        n = len(self.edges) - 1
        index = bin_of_unit(u, n)
        x = edges[index] + edges.diff()[index] * (u * n - index)
        return torch.minimum(torch.maximum(x, edges[index]), edges[index + 1])

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; without edges where there are none, so that identities of other scales stay."""
        data = asdict(self)
        data["edges"] = list(self.edges)
        if not self.edges:
            del data["edges"]
        return data


def bin_of_unit(u: Tensor, n: Tensor | int) -> Tensor:
    """Return the number int64 (*,) of the bin, of n equal ones, that holds u (*,) in [0, 1].

    A u that rounding left just below an edge counts to the bin above.
    """
    scaled = (u.detach() * n * (1.0 + 2.0 * torch.finfo(u.dtype).eps)).floor().long().clamp(min=0)
    return torch.minimum(scaled, torch.as_tensor(n, device=u.device) - 1)


@dataclass(frozen=True)
class ObservableSpace:
    """The region of interest: an ordered product of observable windows.

    Raises
    ------
    ConfigError
        If it is empty or a name occurs twice.
    """

    observables: tuple[Observable, ...]

    def __post_init__(self) -> None:
        if not self.observables:
            raise ConfigError("observables: at least one is needed")
        if len(set(self.names)) != len(self.names):
            raise ConfigError(f"observables: names must be unique, got {', '.join(self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(o.name for o in self.observables)

    @property
    def dim(self) -> int:
        """Number of observables D."""
        return len(self.observables)

    @property
    def volume(self) -> float:
        """Volume of the region of interest in physical units."""
        return math.prod(o.high - o.low for o in self.observables)

    def bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lower and the upper edges, each (D,), with the dtype and device of ``like``."""
        low = torch.as_tensor([o.low for o in self.observables], dtype=like.dtype, device=like.device)
        high = torch.as_tensor([o.high for o in self.observables], dtype=like.dtype, device=like.device)
        return low, high

    def contains(self, x: Tensor) -> Tensor:
        """Return, for x (*, D), whether each point lies in the region of interest (NaN does not): bool (*,)."""
        low, high = self.bounds(x)
        return ((x >= low) & (x <= high)).all(dim=-1)

    def to_unit(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return u (*, D) in the unit cube and ln|det du/dx| (*,) for x (*, D) inside the region of interest."""
        parts = [o.to_unit(x[..., d]) for d, o in enumerate(self.observables)]
        u = torch.stack([p[0] for p in parts], dim=-1).clamp(0.0, 1.0)
        return u, torch.stack([p[1] for p in parts], dim=-1).sum(dim=-1)

    def from_unit(self, u: Tensor) -> Tensor:
        """Return x (*, D) for u (*, D) in the unit cube; the inverse of :meth:`to_unit`."""
        return torch.stack([o.from_unit(u[..., d]) for d, o in enumerate(self.observables)], dim=-1)

    @property
    def celled(self) -> tuple[int, ...]:
        """Columns of the observables that are known by their cell only."""
        return tuple(d for d, o in enumerate(self.observables) if o.cells)

    def in_cells(self, x: Tensor, shares: Tensor) -> Tensor:
        """Return x (*, D) moved within its cells, the shares (*, C) of them below, for the C columns of ``celled``."""
        columns = list(x.unbind(dim=-1))
        for d, share in zip(self.celled, shares.unbind(dim=-1), strict=True):
            columns[d] = self.observables[d].in_cell(columns[d], share)
        return torch.stack(columns, dim=-1) if self.celled else x

    def to_values(self, x: Tensor) -> Tensor:
        """Return x (*, D) with counts rounded to whole numbers inside their windows."""
        whole = [d for d, o in enumerate(self.observables) if o.scale == "counts"]
        columns = list(x.unbind(dim=-1))
        for d in whole:
            columns[d] = self.observables[d].in_cell(columns[d], x.new_tensor(0.5))
        return torch.stack(columns, dim=-1) if whole else x

    def to_dict(self) -> list[dict[str, Any]]:
        """Return plain data from which :meth:`from_dict` rebuilds the space."""
        return [o.to_dict() for o in self.observables]

    @classmethod
    def from_dict(cls, data: Sequence[Mapping[str, Any]]) -> ObservableSpace:
        """Build the space from the output of :meth:`to_dict`."""
        return cls(tuple(Observable(**o) for o in data))
