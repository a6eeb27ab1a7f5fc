"""Templates: binned densities, and sources that morph between templates made at anchors of theta.

Between anchors the rate and the normalised histogram are interpolated separately, each multilinearly, as blueice and
alea do (doi:10.5281/zenodo.12770430); with mu_a the sum of the template at anchor a, p_a = n_a/mu_a and w_a(theta) the
weights of :mod:`surrogate.morph`,

    mu(theta) = sum_a w_a(theta) mu_a,    f(x | theta) = sum_a w_a(theta) p_a[b(x)] / V_b(x),

where b(x) is the bin of x and V_b its volume. Both are continuous; their derivatives jump at the anchors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from surrogate.binning import Binning
from surrogate.errors import ConfigError, DataError
from surrogate.jet import Jet
from surrogate.morph import AnchorGrid, Stencil
from surrogate.nuisance import Nuisance, NuisanceSpace
from surrogate.observables import ObservableSpace


def _checked_counts(counts: Tensor, label: str) -> Tensor:
    """Return expected events as float64, or say why they cannot be any."""
    counts = counts.detach().to(torch.float64)
    if not bool(torch.isfinite(counts).all()):
        raise DataError(f"{label}: {int((~torch.isfinite(counts)).sum())} bins are not finite")
    if bool((counts < 0).any()):
        raise DataError(
            f"{label}: {int((counts < 0).sum())} bins are negative, the lowest {float(counts.min()):.4g}; "
            "expected events cannot be negative"
        )
    return counts


@dataclass(frozen=True, eq=False)
class Template:
    """Expected events per bin and unit exposure.

    Parameters
    ----------
    binning
        The grid.
    counts
        Events per bin per unit exposure (tonne-year), of the grid's shape; zero is legal.
    label
        What errors call it, such as the file it came from.

    Raises
    ------
    DataError
        If the shape does not fit the grid, or a content is negative or not finite.
    """

    binning: Binning
    counts: Tensor
    label: str = "template"

    def __post_init__(self) -> None:
        if tuple(self.counts.shape) != self.binning.shape:
            raise DataError(
                f"{self.label}: has {tuple(self.counts.shape)} bins where {self.binning.shape} are expected"
            )
        object.__setattr__(self, "counts", _checked_counts(self.counts, self.label))

    @property
    def total(self) -> float:
        """Expected events per unit exposure over all bins."""
        return float(self.counts.sum())


def _normalised(counts: Tensor, grid: AnchorGrid) -> Tensor:
    """Return the pmf (n_anchors, n_bins) of each anchor.

    An empty template has no shape of its own: it takes the one of the nearest anchor that is not empty, so that an
    efficiency which vanishes at one end of the grid does not spoil the shape beside it. Its rate stays zero.
    """
    total = counts.sum(dim=-1)
    full = total > 0
    if not bool(full.any()):
        return torch.full_like(counts, 1.0 / counts.shape[-1])
    steps = grid.positions()
    distance = torch.cdist(steps, steps[full])
    nearest = full.nonzero()[:, 0][distance.argmin(dim=-1)]
    chosen = torch.where(full, torch.arange(len(counts)), nearest)
    return counts[chosen] / total[chosen, None]


@dataclass(frozen=True, eq=False)
class TemplateSource:
    """A source whose density is piecewise constant in bins and multilinear in theta between anchors.

    Parameters
    ----------
    binning
        The grid of bins.
    anchors
        Nuisance name -> increasing anchors; empty for a source without nuisances.
    counts
        (A_1, ..., A_K, *binning.shape): events per bin and unit exposure at every combination of anchors.
    nominal
        Reference values of the nuisances; the middle anchor where not given.
    rate_std
        (A_1, ..., A_K): standard error of the total of each template, where known.
    units
        Units of the observables.

    Raises
    ------
    ConfigError
        If the anchors or the shape of ``counts`` do not fit.
    DataError
        If a content is negative or not finite.
    """

    binning: Binning
    anchors: Mapping[str, Sequence[float]]
    counts: Tensor
    nominal: Mapping[str, float] | None = None
    rate_std: Tensor | None = None
    units: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = (*self.grid.shape, *self.binning.shape)
        if tuple(self.counts.shape) != shape:
            raise ConfigError(f"counts: shape is {tuple(self.counts.shape)}, must be anchors x bins = {shape}")
        object.__setattr__(self, "counts", _checked_counts(self.counts, "template source"))

    @classmethod
    def from_templates(
        cls, templates: Sequence[Template], anchors: Mapping[str, Sequence[float]], units: tuple[str, ...] = ()
    ) -> TemplateSource:
        """Join templates on equal grids, given in C order of the anchors (the last nuisance fastest)."""
        grid = AnchorGrid(anchors)
        if len(templates) != max(1, int(torch.tensor(grid.shape).prod())):
            raise ConfigError(f"templates: {len(templates)} were given for a grid of {grid.shape} anchors")
        first = templates[0]
        for template in templates[1:]:
            if (difference := first.binning.difference(template.binning)) is not None:
                raise DataError(f"{template.label}: {difference} from {first.label}")
        counts = torch.stack([t.counts for t in templates])
        return cls(first.binning, anchors, counts.reshape(*grid.shape, *first.binning.shape), units=units)

    @cached_property
    def grid(self) -> AnchorGrid:
        """The grid of anchors."""
        return AnchorGrid(self.anchors)

    @cached_property
    def observables(self) -> ObservableSpace:
        """The region of interest: the extent of the bins."""
        return self.binning.space(self.units or None)

    @cached_property
    def nuisances(self) -> NuisanceSpace:
        """The nuisances, defined between the first and the last anchor."""
        given = dict(self.nominal or {})
        return NuisanceSpace(
            tuple(
                Nuisance(n, "", float(a[0]), float(a[-1]), float(given.get(n, a[len(a) // 2])))
                for n, a in self.anchors.items()
            )
        )

    @property
    def breakpoints(self) -> Mapping[str, tuple[float, ...]]:
        """The anchors, at which derivatives jump."""
        return {n: tuple(float(v) for v in a) for n, a in self.anchors.items()}

    @cached_property
    def identity(self) -> str:
        """SHA-256 of axes, edges, anchors and contents."""
        digest = hashlib.sha256(repr((self.binning.names, dict(self.breakpoints))).encode())
        for tensor in (*self.binning.edges, self.counts):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def _pmf(self) -> Tensor:
        """Normalised templates (n_anchors, n_bins)."""
        return _normalised(self.counts.reshape(-1, self.binning.n_bins), self.grid)

    @cached_property
    def _density_table(self) -> Tensor:
        """Densities p_a/V at the corners of every cell: (n_cells * (n_bins + 1), 2^K), the last bin empty.

        The corners lie side by side in memory, so that one gather fetches all that a point needs.
        """
        density = torch.nn.functional.pad(self._pmf / self.binning.volumes, (0, 1))
        return self.grid.gather_corners(density).transpose(1, 2).flatten(0, 1).contiguous()

    @cached_property
    def _rate_table(self) -> Tensor:
        """Rates mu_a at the corners of every cell: (n_cells, 2^K)."""
        return self.grid.gather_corners(self.counts.reshape(-1, self.binning.n_bins).sum(dim=-1))

    def bin_index(self, x: Tensor) -> Tensor:
        """Return the bin of each event of x (*, D): int64 (*,), -1 outside the region of interest."""
        return self.binning.index(x)

    @cached_property
    def _range(self) -> tuple[Tensor, Tensor]:
        return self.nuisances.bounds(torch.zeros((), dtype=torch.float64))

    def _stencil(self, theta: Tensor, centre: Tensor | None = None) -> Stencil:
        low, high = (bound.to(theta.device) for bound in self._range)
        if theta.shape[-1] != self.grid.dim or not bool(((theta >= low) & (theta <= high)).all()):
            self.nuisances.check(theta)
        return self.grid.stencil(theta.to(torch.float64), centre)

    def _density_rows(self, index: Tensor, stencil: Stencil) -> Tensor:
        """Contract corner densities with the stencil: (*, M)."""
        bins = torch.where(index >= 0, index, self.binning.n_bins)
        corners = self._density_table.to(index.device)[stencil.cell * (self.binning.n_bins + 1) + bins]
        weights = stencil.weights
        if corners.ndim >= 2 and weights.ndim == corners.ndim + 1 and weights.shape[-3] == 1:
            return corners @ weights.squeeze(-3).mT
        return (corners.unsqueeze(-2) * weights).sum(dim=-1)

    def density_at(self, index: Tensor, theta: Tensor) -> Tensor:
        """Return f (*,) in the bins ``index`` (*,) of :meth:`bin_index`, at theta (*, K)."""
        return self._density_rows(index, self._stencil(theta))[..., 0]

    def density_jet_at(self, index: Tensor, theta: Tensor, centre: Tensor | None = None) -> Jet:
        """Return the jet of f in the bins ``index`` (*,); :meth:`density_jet` without the search for the bins."""
        stencil = self._stencil(theta, centre)
        value, gradient, hessian = stencil.derivatives(self._density_rows(index, stencil))
        return Jet(torch.zeros_like(value), value, gradient, hessian)

    def density_jet(self, x: Tensor, theta: Tensor, centre: Tensor | None = None) -> Jet:
        """Return the jet of f(x | theta) for x (*, D) and theta (*, K), in the cell that contains ``centre``."""
        return self.density_jet_at(self.bin_index(x), theta, centre)

    def log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        """Return ln f(x | theta) (*,), -inf outside the region of interest and in empty bins."""
        return self.density_at(self.bin_index(x), theta).log()

    def pmf(self, theta: Tensor) -> Tensor:
        """Return the probability of every bin (*, n_bins) at theta (*, K)."""
        bins = torch.arange(self.binning.n_bins, device=theta.device)
        return self.density_at(bins, theta.unsqueeze(-2)) * self.binning.volumes.to(theta.device)

    def rate_jet(self, theta: Tensor, centre: Tensor | None = None) -> Jet:
        """Return the jet of mu(theta), theta (*, K), in the cell that contains ``centre``."""
        stencil = self._stencil(theta, centre)
        rows = (self._rate_table.to(theta.device)[stencil.cell].unsqueeze(-2) * stencil.weights).sum(dim=-1)
        value, gradient, hessian = stencil.derivatives(rows)
        return Jet(torch.zeros_like(value), value, gradient, hessian)

    def expected_events(self, theta: Tensor) -> Tensor:
        """Return mu(theta) (*,) in events per unit exposure."""
        return self._interpolate(self._rate_table, theta)

    def expected_events_std(self, theta: Tensor) -> Tensor:
        """Return the standard error (*,) of mu, interpolated between anchors; 0 where the templates carry none."""
        if self.rate_std is None:
            return torch.zeros(theta.shape[:-1], dtype=torch.float64, device=theta.device)
        return self._interpolate(self.grid.gather_corners(self.rate_std.to(torch.float64).reshape(-1)), theta)

    def _interpolate(self, table: Tensor, theta: Tensor) -> Tensor:
        stencil = self._stencil(theta)
        return (table.to(theta.device)[stencil.cell] * stencil.weights[..., 0, :]).sum(dim=-1)

    def sample(self, n: int, theta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw n events (n, D) at theta (K,) or at the rows of theta (n, K): the bin by its pmf, then uniform in it."""
        cumulative = self.pmf(theta).cumsum(dim=-1)
        u = torch.rand(n, generator=generator, dtype=torch.float64, device=theta.device) * cumulative[..., -1]
        wanted = u if theta.ndim == 1 else u.unsqueeze(-1)
        bins = torch.searchsorted(cumulative, wanted, right=True).reshape(n)
        return self.binning.draw(bins.clamp(max=self.binning.n_bins - 1), generator)
