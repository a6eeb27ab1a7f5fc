"""Coefficients of events, laid out as the data sets of a batch: the two products by which a likelihood uses them.

    combine: phi (B, J, R) -> sum_r phi_r C_ir     for the events i of each row's data set: (B, J, N)
    collect: weight (B, N) -> sum_i w_i C_ir       (B, R)

Both read every coefficient once, and that is what they cost. Laying out the coefficients costs as much again; so they
are laid out once for all data sets, in a fit rows that have ended are carried along, and only when half of them have
ended those that remain are moved together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Fewest rows, as a fraction of those laid out, for which products are made with all of them.
WORTHWHILE = 0.5


@dataclass(frozen=True, eq=False)
class _Block:
    """Coefficients (h, N, R) of h data sets.

    ``rows`` (h,) are the data sets, ``place`` (T,) says where each is, -1 for those that are not here.
    """

    rows: Tensor
    place: Tensor
    coefficients: Tensor

    @classmethod
    def of(cls, rows: Tensor, n_datasets: int, coefficients: Tensor) -> _Block:
        """Note where each data set is."""
        place = torch.full((n_datasets,), -1, dtype=torch.long, device=rows.device)
        place[rows] = torch.arange(len(rows), device=rows.device)
        return cls(rows, place, coefficients)

    def places(self, rows: Tensor) -> Tensor | None:
        """Return where each of these rows is, or None if the block is not worth using for them."""
        if not WORTHWHILE * len(self.rows) <= len(rows) <= len(self.rows):
            return None
        place = self.place[rows]
        return place if bool((place >= 0).all()) and bool((rows.diff() > 0).all()) else None


class EventTable:
    """Coefficients (E, R) of events, and which of them make up each of T data sets.

    Parameters
    ----------
    coefficients
        (E, R).
    index
        (T, N) row of each event; any row on the padding.
    """

    def __init__(self, coefficients: Tensor, index: Tensor) -> None:
        self.coefficients, self.index = coefficients, index
        self._single = coefficients[index[0]] if len(index) == 1 else None
        self._all: _Block | None = None
        self._last: _Block | None = None

    def combine(self, phi: Tensor, rows: Tensor) -> Tensor:
        """Return sum_r phi_r C_ir (B, J, N) for phi (B, J, R)."""
        if self._single is not None:
            return (phi.flatten(0, 1) @ self._single.T).unflatten(0, phi.shape[:2])
        coefficients, place = self._rows(rows)
        if place is None:
            return phi @ coefficients.mT
        spread = phi.new_zeros(len(coefficients), *phi.shape[1:]).index_copy_(0, place, phi)
        return (spread @ coefficients.mT)[place]

    def collect(self, weight: Tensor, rows: Tensor) -> Tensor:
        """Return sum_i w_i C_ir (B, R) for weights (B, N)."""
        if self._single is not None:
            return weight @ self._single
        coefficients, place = self._rows(rows)
        if place is None:
            return (weight.unsqueeze(1) @ coefficients).squeeze(1)
        spread = weight.new_zeros(len(coefficients), weight.shape[-1]).index_copy_(0, place, weight)
        return (spread.unsqueeze(1) @ coefficients).squeeze(1)[place]

    def _rows(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return coefficients (h, N, R), and where the rows asked for stand among them if not in their order."""
        for block in (self._last, self._all):
            if block is None:
                continue
            if len(rows) == len(block.rows) and torch.equal(rows, block.rows):
                return block.coefficients, None
            place = block.places(rows)
            if place is not None:
                return block.coefficients, place
        n = len(self.index)
        if self._all is None:
            self._all = _Block.of(torch.arange(n, device=rows.device), n, self.coefficients[self.index])
            return self._rows(rows)
        self._last = _Block.of(rows.clone(), n, self._all.coefficients[rows])
        return self._last.coefficients, None
