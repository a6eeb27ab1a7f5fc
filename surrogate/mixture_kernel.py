"""The log density of truncated-logistic mixtures with its derivatives in closed form, written for speed.

The density is that of :class:`surrogate.univariate.LogisticMixtureMap`. With r = 1/s, z = (u - m) r, b = (1 - m) r,
c = m r, x' = s(x) - 1/2 for the logistic function s, and S_x = 1/2 + |x'| = s(|x|), which neither overflows nor loses
digits, one component has, as b + c = r > 0,

    ln F' = -|z| + max(-min(b, c), 0) + ln( r S_z^2 / [S_b S_c (1 - exp(-r))] ),

    d ln F'/du = -2 r z',    d ln F'/dm = r (2 z' - b' + c'),
    r d ln F'/dr = 1 - 2 z z' + b b' + c c' + r (1/expm1(-r) + 1/2).

A mixture with weights w = softmax(l) and responsibilities p_k = w_k F_k'/F' has d ln F'/dl_k = p_k - w_k and p_k times
the above for the other parameters.

Everything is written in place into one workspace, component after component along the first axis and events along the
last, so that sums over components are sums of rows. Only five logistic functions, three powers of two, one logarithm
and one expm1 are left per component, and no logarithm of a sum of exponentials per pair.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from surrogate.univariate import LOCATION_HIGH, LOCATION_LOW

# exp is several times slower than exp2 in the vector library that torch uses on some processors
LOG2_E = math.log2(math.e)

LOCATION_RANGE = LOCATION_HIGH - LOCATION_LOW


@dataclass(frozen=True)
class Shift:
    """A guide's move of the locations m -> m + delta (1 - offset exp(-low - span m))/span; see surrogate.guides.

    Attributes
    ----------
    delta
        (n,) shift of the logarithm of the observable.
    low, span, offset
        ln(low + offset), its distance to ln(high + offset), and the offset of the observable's scale.
    """

    delta: Tensor
    low: float
    span: float
    offset: float


class _Buffers(NamedTuple):
    """What is kept of the components, each (K, n): named as in the formulas above, and two for what comes and goes.

    ``density`` holds w_k F_k' and later p_k.
    """

    z: Tensor
    b: Tensor
    c: Tensor
    dz: Tensor
    db: Tensor
    dc: Tensor
    m: Tensor
    r: Tensor
    sm: Tensor
    tail: Tensor
    density: Tensor
    bend: Tensor
    one: Tensor
    two: Tensor


class MixtureKernel:
    """Evaluates mixtures of K components for up to n events, over and over, in the same memory.

    Parameters
    ----------
    components
        K.
    floor
        Smallest width of a component.
    n
        Number of events of every call.
    like
        Dtype and device.
    """

    def __init__(self, components: int, floor: float, n: int, like: Tensor) -> None:
        self._k, self._floor = components, floor
        self._buffers = _Buffers(*(like.new_empty(components, n) for _ in _Buffers._fields))

    def add_log_density(
        self, u: Tensor, raw: Tensor, total: Tensor, shift: Shift | None, slopes: bool
    ) -> Tensor | None:
        """Add ln F'(u) to ``total`` (n,), for u (n,) and raw parameters (3K, n) as the map takes them.

        With ``slopes`` the raw parameters are overwritten with d ln F'/d raw, and d ln F'/d delta (n,) is returned
        where there is a shift.
        """
        w = self._buffers
        logits, location, width = raw[: self._k], raw[self._k : 2 * self._k], raw[2 * self._k :]
        torch.sigmoid(location, out=w.sm)
        torch.mul(w.sm, LOCATION_RANGE, out=w.m).add_(LOCATION_LOW)
        if shift is not None:
            self._move(shift)
        # softplus(x) = max(x, 0) + ln(1 + exp(-|x|))
        torch.abs(width, out=w.one).mul_(-LOG2_E).exp2_().log1p_()
        torch.clamp_min(width, 0.0, out=w.r).add_(w.one).add_(self._floor).reciprocal_()

        torch.sub(u, w.m, out=w.z).mul_(w.r)
        torch.mul(w.m, w.r, out=w.c)
        torch.sub(w.r, w.c, out=w.b)
        for x, centred in ((w.z, w.dz), (w.b, w.db), (w.c, w.dc)):
            torch.sigmoid(x, out=centred).sub_(0.5)
        torch.neg(w.r, out=w.tail).expm1_()

        torch.sub(logits, torch.abs(w.z, out=w.one), out=w.density)
        w.density.sub_(torch.minimum(w.b, w.c, out=w.one).clamp_max_(0.0))
        top = w.density.amax(dim=0)
        w.density.sub_(top).mul_(LOG2_E).exp2_()
        # tail = -(1 - exp(-r)); its sign is put right in the sum
        torch.abs(w.db, out=w.two).add_(0.5).mul_(w.tail)
        w.two.mul_(torch.abs(w.dc, out=w.one).add_(0.5))
        torch.abs(w.dz, out=w.one).add_(0.5).square_()
        w.density.mul_(w.one.mul_(w.r).div_(w.two))
        weighted = w.density.sum(dim=0)
        largest = logits.amax(dim=0)
        weights = torch.sub(logits, largest, out=w.one).mul_(LOG2_E).exp2_()
        norm = weights.sum(dim=0)
        total.add_((weighted / norm).neg_().log_()).add_(top).sub_(largest)
        if not slopes:
            return None
        w.density.div_(weighted)
        torch.sub(w.density, weights.div_(norm), out=logits)
        self._width_slopes(width)
        return self._location_slopes(location, shift)

    def _move(self, shift: Shift) -> None:
        """Move the locations; ``bend`` becomes 1 - offset exp(-low - span m), which is span times dm'/d delta."""
        w = self._buffers
        torch.mul(w.m, -shift.span * LOG2_E, out=w.bend).add_(-shift.low * LOG2_E).exp2_().mul_(-shift.offset).add_(1.0)
        w.m.add_(torch.mul(w.bend, shift.delta / shift.span, out=w.one))

    def _width_slopes(self, width: Tensor) -> None:
        """Replace raw widths by d ln F'/d(raw width), from dr/d(raw width) = -r^2 s(raw width)."""
        w = self._buffers
        torch.mul(w.b, w.db, out=w.two).addcmul_(w.c, w.dc).addcmul_(w.z, w.dz, value=-2.0)
        w.two.add_(torch.reciprocal(w.tail, out=w.one).add_(0.5).mul_(w.r)).add_(1.0)
        torch.sigmoid(width, out=w.one)
        torch.mul(w.two.mul_(w.r).mul_(w.one), w.density, out=width).neg_()

    def _location_slopes(self, location: Tensor, shift: Shift | None) -> Tensor | None:
        """Replace raw locations by d ln F'/d(raw location); return d ln F'/d delta (n,) where there is a shift."""
        w, by_shift = self._buffers, None
        torch.sub(w.dc, w.db, out=w.two).add_(w.dz, alpha=2.0).mul_(w.r).mul_(w.density)
        if shift is not None:
            by_shift = torch.mul(w.two, w.bend, out=w.one).sum(dim=0) / shift.span
            # dm'/dm = 1 + delta (1 - bend)
            w.two.mul_(w.bend.neg_().add_(1.0).mul_(shift.delta).add_(1.0))
        w.two.mul_(w.sm).addcmul_(w.two, w.sm, value=-1.0)
        torch.mul(w.two, LOCATION_RANGE, out=location)
        return by_shift
