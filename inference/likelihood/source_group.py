"""Sources of a run whose rates and densities are evaluated together.

Most sources stand alone. Templates on one grid of anchors that are driven by the same parameters share the search for
the cell and the interpolation weights, which for a few dozen events cost more than the interpolation itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from inference.likelihood.event_density import EventDensity, EventJet, per_row, summing
from inference.likelihood.rate_term import SourceBinding
from surrogate.jet import Jet
from surrogate.template import TemplateSource


class SourceGroup(Protocol):
    """One or more sources of a run, bound to its data sets."""

    @property
    def members(self) -> tuple[int, ...]:
        """Positions of the sources in the run."""
        ...

    def jets(self, values: Tensor, rows: Tensor, centre: Tensor | None) -> list[tuple[Jet, EventJet]]:
        """Return, per member, the jets of mu over (B,) and of f over (B, N) in the source's nuisances.

        Parameters
        ----------
        values
            Model parameters (B, P).
        rows
            (B,) data set of each row.
        centre
            (B, P) or None; picks the smooth piece where there are breakpoints.
        """
        ...


class SingleSource:
    """A source on its own.

    Parameters
    ----------
    member
        Its position in the run.
    binding
        How it hangs on the parameters.
    density
        Its density at the events.
    """

    def __init__(self, member: int, binding: SourceBinding, density: EventDensity) -> None:
        self.members = (member,)
        self._binding = binding
        self._density = density

    def jets(self, values: Tensor, rows: Tensor, centre: Tensor | None) -> list[tuple[Jet, EventJet]]:
        """Return its two jets; see :class:`SourceGroup`."""
        theta = self._binding.theta(values)
        where = None if centre is None else self._binding.theta(centre)
        return [(self._binding.rate_jet(theta, where), self._density.density_jet(theta, rows, where))]


class TemplateGroup:
    """Templates on the same anchors, in the same bins, driven by the same parameters.

    Both mu and f are multilinear between anchors, so that their values at the anchors say everything; of the bins only
    those with events are kept.

    Parameters
    ----------
    members
        Positions of the S sources in the run.
    binding
        How they hang on the parameters.
    sources
        The templates.
    x
        Events (T, N, D).
    """

    def __init__(
        self, members: tuple[int, ...], binding: SourceBinding, sources: Sequence[TemplateSource], x: Tensor
    ) -> None:
        self.members = members
        self._binding = binding
        self._grid, self._nuisances = sources[0].grid, sources[0].nuisances
        axes = self._grid.axes
        anchors = torch.cartesian_prod(*axes).reshape(-1, len(axes)).to(x.device)
        occupied, self._bin = torch.unique(sources[0].bin_index(x), return_inverse=True)
        rates = torch.stack([s.expected_events(anchors) for s in sources], dim=-1)
        density = torch.stack([s.density_at(occupied, anchors.unsqueeze(1)) for s in sources], dim=-1)
        self._n_bins = len(occupied)
        # (cells, S, 2^K) and (cells x bins, S, 2^K): the corners lie side by side in memory.
        self._rates = self._grid.gather_corners(rates).transpose(1, 2).contiguous()
        self._density = self._grid.gather_corners(density).permute(0, 2, 3, 1).flatten(0, 1).contiguous()

    def jets(self, values: Tensor, rows: Tensor, centre: Tensor | None) -> list[tuple[Jet, EventJet]]:
        """Return the jets of the members; see :class:`SourceGroup`."""
        theta = self._binding.theta(values)
        self._nuisances.check(theta)
        stencil = self._grid.stencil(theta, None if centre is None else self._binding.theta(centre))
        weights = stencil.weights.mT
        rates = stencil.derivatives(self._rates[stencil.cell] @ weights)
        corners = self._density[stencil.cell.unsqueeze(-1) * self._n_bins + per_row(self._bin, rows)]
        n, s = corners.shape[1:3]
        density = stencil.derivatives((corners.flatten(1, 2) @ weights).unflatten(1, (n, s)))
        zero_rate, zero_density = rates[0].new_zeros(len(values)), rates[0].new_zeros(len(values), n)
        return [
            (
                Jet(zero_rate, rates[0][:, k], rates[1][:, k], rates[2][:, k]),
                summing(Jet(zero_density, density[0][..., k], density[1][..., k, :], density[2][..., k, :, :])),
            )
            for k in range(s)
        ]


def group_sources(
    bindings: Sequence[SourceBinding], densities: Sequence[EventDensity], replaced: Sequence[bool], x: Tensor
) -> list[SourceGroup]:
    """Return the sources of a run in groups.

    Parameters
    ----------
    bindings, densities
        Of every source.
    replaced
        Whether the density was given from outside; such a source stands alone.
    x
        Events (T, N, D).
    """
    groups: list[SourceGroup] = []
    shared: dict[tuple[object, ...], list[int]] = {}
    for c, b in enumerate(bindings):
        source = b.source
        if isinstance(source, TemplateSource) and b.all_driven and b.moves and not replaced[c]:
            edges = tuple(tuple(e.tolist()) for e in source.binning.edges)
            anchors = tuple((name, tuple(a)) for name, a in source.anchors.items())
            shared.setdefault((anchors, edges, tuple(b.parameters.tolist())), []).append(c)
        else:
            groups.append(SingleSource(c, b, densities[c]))
    for members in shared.values():
        sources = [bindings[c].source for c in members]
        templates = [s for s in sources if isinstance(s, TemplateSource)]
        groups.append(TemplateGroup(tuple(members), bindings[members[0]], templates, x))
    return groups
