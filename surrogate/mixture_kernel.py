"""The log density of truncated-logistic mixtures with its derivatives in closed form, written for speed.

The density is that of :class:`surrogate.univariate.LogisticMixtureMap`. With r = 1/s, z = (u - m) r, b = (1 - m) r,
c = m r, x' = s(x) - 1/2 for the logistic function s, and S_x = 1/2 + |x'| = s(|x|), which neither overflows nor loses
digits, one component has, as b + c = r > 0,

    ln F' = -|z| + max(-min(b, c), 0) + ln( r S_z^2 / [S_b S_c (1 - exp(-r))] ),

    d ln F'/du = -2 r z',    d ln F'/dm = r (2 z' - b' + c'),
    r d ln F'/dr = 1 - 2 z z' + b b' + c c' + r (1/expm1(-r) + 1/2).

A mixture with weights w = softmax(l) and responsibilities p_k = w_k F_k'/F' has d ln F'/dl_k = p_k - w_k and p_k times
the above for the other parameters. Components that are bent by g have g(z), g(b) and g(c) in the exponents and logistic
functions, r g'(z) in place of r, and exp(-g(b)-g(c)) in place of exp(-r); with n = 1/expm1(-g(b)-g(c)) + 1/2 and

    Z = g'(z) z' - (ln g')'(z)/2,    B = g'(b) (b' + n),    C = g'(c) (c' + n)

the derivatives are those above with Z, B and C in place of z', b' and c', and without the last term.

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

from surrogate.univariate import LOCATION_HIGH, LOCATION_LOW, LogisticMixtureMap

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

    ``density`` holds w_k F_k' and later p_k; ``gz``, ``gb`` and ``gc`` are z, b and c themselves where nothing is bent.
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
    gz: Tensor
    gb: Tensor
    gc: Tensor


class MixtureKernel:
    """Evaluates mixtures of K components for up to n events, over and over, in the same memory.

    Parameters
    ----------
    mapping
        The family.
    n
        Number of events of every call.
    like
        Dtype and device.
    """

    def __init__(self, mapping: LogisticMixtureMap, n: int, like: Tensor) -> None:
        self._k, self._floor, self._bend = mapping.components, mapping.floor, mapping.bend
        buffers = _Buffers(*(like.new_empty(self._k, n) for _ in _Buffers._fields))
        self._buffers = buffers if self._bend else buffers._replace(gz=buffers.z, gb=buffers.b, gc=buffers.c)

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
        torch.neg(w.r, out=w.tail)
        if self._bend:
            for x, bent in ((w.z, w.gz), (w.b, w.gb), (w.c, w.gc)):
                torch.mul(x, x, out=bent).mul_(self._bend).add_(1.0).sqrt_().mul_(x)
            torch.add(w.gb, w.gc, out=w.tail).neg_()
        w.tail.expm1_()
        for x, centred in ((w.gz, w.dz), (w.gb, w.db), (w.gc, w.dc)):
            torch.sigmoid(x, out=centred).sub_(0.5)

        torch.sub(logits, torch.abs(w.gz, out=w.one), out=w.density)
        w.density.sub_(torch.minimum(w.gb, w.gc, out=w.one).clamp_max_(0.0))
        top = w.density.amax(dim=0)
        w.density.sub_(top).mul_(LOG2_E).exp2_()
        # tail = -(1 - exp(-r)); its sign is put right in the sum
        torch.abs(w.db, out=w.two).add_(0.5).mul_(w.tail)
        w.two.mul_(torch.abs(w.dc, out=w.one).add_(0.5))
        torch.abs(w.dz, out=w.one).add_(0.5).square_()
        w.density.mul_(w.one.mul_(w.r).div_(w.two))
        if self._bend:
            w.density.mul_(self._bent_slope(w.z))
        weighted = w.density.sum(dim=0)
        largest = logits.amax(dim=0)
        weights = torch.sub(logits, largest, out=w.one).mul_(LOG2_E).exp2_()
        norm = weights.sum(dim=0)
        total.add_((weighted / norm).neg_().log_()).add_(top).sub_(largest)
        if not slopes:
            return None
        w.density.div_(weighted)
        torch.sub(w.density, weights.div_(norm), out=logits)
        torch.reciprocal(w.tail, out=w.tail).add_(0.5)
        if self._bend:
            self._bend_slopes()
        self._width_slopes(width)
        return self._location_slopes(location, shift)

    def _move(self, shift: Shift) -> None:
        """Move the locations; ``bend`` becomes 1 - offset exp(-low - span m), which is span times dm'/d delta."""
        w = self._buffers
        torch.mul(w.m, -shift.span * LOG2_E, out=w.bend).add_(-shift.low * LOG2_E).exp2_().mul_(-shift.offset).add_(1.0)
        w.m.add_(torch.mul(w.bend, shift.delta / shift.span, out=w.one))

    def _bent_slope(self, x: Tensor) -> Tensor:
        """Return g'(x) = (2 q - 1)/sqrt(q), q = 1 + bend x^2, in ``one``; q is left in ``two``."""
        w = self._buffers
        torch.mul(x, x, out=w.two).mul_(self._bend).add_(1.0)
        return torch.mul(w.two, 2.0, out=w.one).sub_(1.0).div_(w.gz.copy_(w.two).sqrt_())

    def _bend_slopes(self) -> None:
        """Turn z', b' and c' into Z, B and C, and n into 0."""
        w = self._buffers
        for x, centred in ((w.b, w.db), (w.c, w.dc)):
            centred.add_(w.tail).mul_(self._bent_slope(x))
        w.dz.mul_(self._bent_slope(w.z))
        # (ln g')' = bend z (2 q + 1) / [q (2 q - 1)]
        torch.mul(w.two, 2.0, out=w.one).sub_(1.0).mul_(w.two)
        w.two.mul_(2.0).add_(1.0).mul_(w.z).div_(w.one)
        w.dz.add_(w.two, alpha=-0.5 * self._bend)
        w.tail.zero_()

    def _width_slopes(self, width: Tensor) -> None:
        """Replace raw widths by d ln F'/d(raw width), from dr/d(raw width) = -r^2 s(raw width)."""
        w = self._buffers
        torch.mul(w.b, w.db, out=w.two).addcmul_(w.c, w.dc).addcmul_(w.z, w.dz, value=-2.0)
        w.two.addcmul_(w.tail, w.r).add_(1.0)
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
