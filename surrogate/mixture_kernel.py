"""The log density of truncated-logistic mixtures with its derivatives in closed form, written for speed.

The density is that of :class:`surrogate.univariate.LogisticMixtureMap`. With r = 1/s, x = (u - m) r, y = (1 - m) r,
v = m r, a bend g (the identity for logistics), z = g(x), b = g(y), c = g(v), the logistic function s, S_a = s(|a|),
which neither overflows nor loses digits, and Q = 1 - exp(-b - c), one component has

    ln F' = -|z| + max(-min(b, c), 0) + ln( r g'(x) S_z^2 / [S_b S_c Q] ).

Its derivatives in x, -y and -v at fixed r,

    X = (1 - 2 s(z)) g'(x) + (ln g')'(x),    Y = (1/Q - s(b)) g'(y),    V = (1/Q - s(c)) g'(v),

give all others: d ln F'/dm = r (Y - V - X) and r d ln F'/dr = 1 + x X - y Y - v V. A mixture with weights
w = softmax(l) and responsibilities p_k = w_k F_k'/F' has d ln F'/dl_k = p_k - w_k and p_k times those for the other
parameters.

All coordinates go together. Everything is written in place into one workspace, component after component along the
middle axis and events along the last, so that sums over components are sums of rows. Only four logistic functions, four
powers of two and one logarithm are left per component, and no logarithm of a sum of exponentials per pair.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from surrogate.univariate import LOCATION_HIGH, LOCATION_LOW, LogisticMixtureMap

aten = torch.ops.aten

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
    """What is kept of the components, each (D, K, n): named as in the formulas above, and two for what comes and goes.

    ``sm`` is the logistic function of the raw locations and ``e`` the exponential of the raw widths. ``sz`` becomes
    1 - 2 s(z); ``density`` holds 4 w_k F_k' and later p_k r. ``z``, ``b`` and ``c`` are ``x``, ``y`` and ``v``
    themselves where nothing is bent.
    """

    sm: Tensor
    e: Tensor
    r: Tensor
    x: Tensor
    y: Tensor
    v: Tensor
    sz: Tensor
    sb: Tensor
    sc: Tensor
    q: Tensor
    density: Tensor
    lever: Tensor
    one: Tensor
    two: Tensor
    z: Tensor
    b: Tensor
    c: Tensor


class MixtureKernel:
    """Evaluates mixtures of D coordinates for n events, over and over, in the same memory.

    Parameters
    ----------
    mapping
        The family, of K components.
    dim
        D.
    n
        Number of events of every call.
    like
        Dtype and device.
    """

    def __init__(self, mapping: LogisticMixtureMap, dim: int, n: int, like: Tensor) -> None:
        self._floor, self._bend = mapping.floor, mapping.bend
        self._shape = (dim, 3, mapping.components)
        self._widest = math.log(torch.finfo(like.dtype).max) - 1.0
        self._unit, self._zero = like.new_ones(()), like.new_zeros(())
        buffers = [like.new_empty(dim, mapping.components, n) for _ in _Buffers._fields]
        self._buffers = _Buffers(*buffers)
        if not self._bend:
            self._buffers = self._buffers._replace(z=self._buffers.x, b=self._buffers.y, c=self._buffers.v)

    def log_density(self, u: Tensor, raw: Tensor, shifts: Mapping[int, Shift], total: Tensor) -> None:
        """Write the sum over coordinates of ln F'(u) to ``total`` (n,).

        Parameters
        ----------
        u
            (D, n).
        raw
            (3 K D, n): logits, locations and widths of one coordinate after the other, as the map takes them.
        shifts
            Of the coordinates that are guided.
        total
            Where the result goes.
        """
        w = self._buffers
        logits, location, width = raw.unflatten(0, self._shape).unbind(dim=1)
        self._arguments(u, location, width, shifts)
        for argument, share in ((w.z, w.sz), (w.b, w.sb), (w.c, w.sc)):
            torch.sigmoid(argument, out=share)
        torch.minimum(w.b, w.c, out=w.one).clamp_max_(0.0)
        torch.sub(logits, torch.abs(w.z, out=w.two).add_(w.one), out=w.density)
        top = self._exponentiate(w.density, w.density)
        # S_z^2 = (1 + |t|)^2/4, t = 1 - 2 s(z)
        torch.sub(self._unit, w.sz, alpha=2.0, out=w.sz)
        torch.abs(w.sz, out=w.one)
        w.density.addcmul_(w.density, w.one).addcmul_(w.density, w.one)
        # S_b S_c = max(s_b s_c, max(s_b, s_c) - s_b s_c), since b and c are not both negative
        torch.mul(w.sb, w.sc, out=w.two)
        torch.maximum(w.sb, w.sc, out=w.one).sub_(w.two)
        torch.maximum(w.one, w.two, out=w.one).mul_(w.q)
        w.density.mul_(torch.div(w.r, w.one, out=w.one))
        if self._bend:
            w.density.mul_(self._bent_slope(w.x))
        self._weighted = w.density.sum(dim=1, keepdim=True)
        largest = self._exponentiate(logits, w.one)
        self._norm = w.one.sum(dim=1, keepdim=True)
        ratio = (self._weighted / self._norm).mul_(0.25).log_()
        torch.sum(ratio.add_(top.sub_(largest), alpha=math.log(2.0)), dim=(0, 1), out=total)

    def slopes(self, raw: Tensor, shifts: Mapping[int, Shift]) -> dict[int, Tensor]:
        """Replace the raw parameters of the last :meth:`log_density` by the gradient in them; it can be done once.

        Returns
        -------
        dict
            The derivative (n,) in the shift of each coordinate that is guided.
        """
        w = self._buffers
        logits, location, width = raw.unflatten(0, self._shape).unbind(dim=1)
        w.density.mul_(self._weighted.reciprocal_())
        torch.addcmul(w.density, w.one, self._norm.reciprocal_(), value=-1.0, out=logits)
        w.density.mul_(w.r)
        w.q.reciprocal_()
        for share in (w.sb, w.sc):
            torch.sub(w.q, share, out=share)
        if self._bend:
            self._bend_slopes()
        # dr/d(raw width) = -r^2 e/(1 + e)
        torch.addcmul(self._unit, w.x, w.sz, out=w.one)
        w.one.addcmul_(w.y, w.sb, value=-1.0).addcmul_(w.v, w.sc, value=-1.0).mul_(w.density)
        torch.sub(-self._unit, w.e, out=w.two)
        torch.mul(w.one, w.e.div_(w.two), out=width)
        by_location = torch.sub(w.sb, w.sc, out=w.two).sub_(w.sz)
        # in units of the range of locations
        torch.addcmul(self._zero, by_location, w.density, value=LOCATION_RANGE, out=by_location)
        by_shift = {d: self._unmove(by_location[d], d, shift) for d, shift in shifts.items()}
        aten.sigmoid_backward.grad_input(by_location, w.sm, grad_input=location)
        return by_shift

    def _arguments(self, u: Tensor, location: Tensor, width: Tensor, shifts: Mapping[int, Shift]) -> None:
        """Compute r, x, y, v, z, b, c and Q."""
        w = self._buffers
        torch.sigmoid(location, out=w.sm)
        m = torch.add(self._unit * LOCATION_LOW, w.sm, alpha=LOCATION_RANGE, out=w.one)
        for d, shift in shifts.items():
            self._move(m[d], d, shift)
        # 1/r = floor + ln(1 + e); where e would overflow, a component is flat
        torch.clamp_max(width, self._widest, out=w.e).mul_(LOG2_E).exp2_()
        torch.log1p(w.e, out=w.r).add_(self._floor).reciprocal_()
        torch.sub(u.unsqueeze(1), m, out=w.x).mul_(w.r)
        torch.mul(m, w.r, out=w.v)
        torch.sub(w.r, w.v, out=w.y)
        if self._bend:
            for x, bent in ((w.x, w.z), (w.y, w.b), (w.v, w.c)):
                torch.mul(x, x, out=bent).mul_(self._bend).add_(1.0).sqrt_().mul_(x)
            torch.add(w.b, w.c, out=w.q).mul_(-LOG2_E)
        else:
            torch.mul(w.r, -LOG2_E, out=w.q)
        torch.sub(self._unit, w.q.exp2_(), out=w.q)

    def _exponentiate(self, x: Tensor, out: Tensor) -> Tensor:
        """Write exp(x - top) for the largest x of each coordinate and event; return top/ln 2 (D, 1, n)."""
        top = x.amax(dim=1, keepdim=True).mul_(LOG2_E)
        torch.add(-top, x, alpha=LOG2_E, out=out).exp2_()
        return top

    def _move(self, m: Tensor, d: int, shift: Shift) -> None:
        """Move locations m (K, n); ``lever`` becomes 1 - offset exp(-low - span m), which is span times dm'/d delta."""
        lever = self._buffers.lever[d]
        torch.mul(m, -shift.span * LOG2_E, out=lever).add_(-shift.low * LOG2_E).exp2_().mul_(-shift.offset).add_(1.0)
        m.addcmul_(lever, shift.delta, value=1.0 / shift.span)

    def _unmove(self, slope: Tensor, d: int, shift: Shift) -> Tensor:
        """Turn slopes (K, n) in the moved locations into those in the locations; return d ln F'/d delta (n,)."""
        lever = self._buffers.lever[d]
        by_shift = torch.mul(slope, lever, out=self._buffers.one[d]).sum(dim=0) / (LOCATION_RANGE * shift.span)
        # dm'/dm = 1 + delta (1 - lever)
        slope.mul_(lever.neg_().add_(1.0).mul_(shift.delta).add_(1.0))
        return by_shift

    def _bent_slope(self, x: Tensor) -> Tensor:
        """Return g'(x) = (2 h - 1)/sqrt(h), h = 1 + bend x^2, in ``one``; h is left in ``two``, and z is lost."""
        w = self._buffers
        torch.mul(x, x, out=w.two).mul_(self._bend).add_(1.0)
        return torch.mul(w.two, 2.0, out=w.one).sub_(1.0).div_(w.z.copy_(w.two).sqrt_())

    def _bend_slopes(self) -> None:
        """Multiply by g', and add (ln g')'(x) = bend x (2 h + 1)/[h (2 h - 1)]."""
        w = self._buffers
        for x, slope in ((w.y, w.sb), (w.v, w.sc), (w.x, w.sz)):
            slope.mul_(self._bent_slope(x))
        torch.mul(w.two, 2.0, out=w.one).sub_(1.0).mul_(w.two)
        w.two.mul_(2.0).add_(1.0).mul_(w.x).div_(w.one)
        w.sz.add_(w.two, alpha=self._bend)
