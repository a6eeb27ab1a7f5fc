"""Second-order jets of the log density of a mixture of truncated logistics, in closed form.

The density of a coordinate at u is ln F' = LSE_k(l_k + A(M_k, r_k)) - LSE_k(l_k), LSE the logarithm of the sum of
exponentials, with l the logits, M the locations, r = 1/s the inverse widths and (see :mod:`surrogate.univariate`)

    A(M, r) = H(z) - N(b, c) + ln r,    z = (u - M) r,  b = (1 - M) r,  c = M r,

with L = ln s, g the bend, H(z) = 2 L(g(z)) - g(z) + ln g'(z) and N(b, c) = L(g(b)) + L(g(c)) + ln(1 - exp(-g(b)-g(c))).
For parameters y_a of the components that move along K directions, with a_k = l_k + A_k, P = softmax(a) and
W = softmax(l),

    d_i ln F'     = <a_i>_P - <l_i>_W,
    d_i d_j ln F' = <a_ij + a_i a_j>_P - <a_i>_P <a_j>_P - <l_i l_j>_W + <l_i>_W <l_j>_W.

The first averages are a quadratic form in the velocities of the raw parameters (logit, location, width) and of the
guide's shift, with coefficients that do not depend on the directions. Events run along the last axis of every array,
over which the arithmetic is contiguous.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from surrogate.univariate import LOCATION_HIGH, LOCATION_LOW, LogisticMixtureMap


class Shift(NamedTuple):
    """A guide's shift of the locations, M = m + delta (1 - offset exp(-low - span m))/span, and its derivatives.

    ``delta`` is (D, n), its derivatives along the K directions (D, K, n) and (D, K, K, n); ``low``, ``span`` and
    ``offset`` are (D, 1, 1).
    """

    delta: Tensor
    first: Tensor
    second: Tensor
    low: Tensor
    span: Tensor
    offset: Tensor


class MixtureJet(NamedTuple):
    """The jet of ln F', summed over coordinates.

    ``value`` is (n,) and ``gradient`` (K, n); ``hessian`` (K, K, n) lacks what comes from second derivatives of the raw
    parameters, for which ``adjoint`` (P D, n), the gradient in the raw parameters, is given.
    """

    value: Tensor
    gradient: Tensor
    hessian: Tensor
    adjoint: Tensor


class _Moving(NamedTuple):
    """A parameter (D, C, n) as a function of a raw one: value, first and second derivative."""

    value: Tensor
    first: Tensor
    second: Tensor


class _Bent(NamedTuple):
    """g(x), g'(x) and g''(x); ln g'(x) and its first two derivatives. Without a bend all but the first are constant."""

    value: Tensor
    first: Tensor | float
    second: Tensor | float
    log_slope: Tensor | float
    log1: Tensor | float
    log2: Tensor | float


class _Lever(NamedTuple):
    """Derivatives of the location (D, C, n) in the shift, and in the shift and the raw location."""

    first: Tensor
    mixed: Tensor


def mixture_jet(
    mapping: LogisticMixtureMap, u: Tensor, raw: Tensor, tangent: Tensor, shift: Shift | None
) -> MixtureJet:
    """Return the jet of the log density for raw parameters that move along K directions.

    Parameters
    ----------
    mapping
        The family, of C components.
    u
        (D, n), points on the unit cube.
    raw
        (3 C D, n): logits, locations and widths of one coordinate after the other.
    tangent
        (3 C D, K, n), the derivatives of ``raw`` along the directions.
    shift
        Of the locations; None where nothing is guided.
    """
    shape = (len(u), 3, mapping.components)
    logits, location_raw, width_raw = raw.unflatten(0, shape).unbind(dim=1)
    velocity = tangent.unflatten(0, shape)
    location, rate, lever = _location(location_raw), _rate(width_raw, mapping.floor), None
    if shift is not None:
        location, lever = _shifted(location, shift)
    a, *derivatives = _component_derivatives(u.unsqueeze(1), location.value, rate.value, mapping.bend)
    p, log_total = _softmax(logits + a)
    weights, log_weight = _softmax(logits)
    slope, form = _quadratic_form(derivatives, location, rate)
    slope, form = p.unsqueeze(1) * slope, p[:, None, None] * form
    form[:, 0, 0] -= weights
    mean_p = (velocity * slope.unsqueeze(3)).sum(dim=(1, 2))
    mean_w = (velocity[:, 0] * weights.unsqueeze(2)).sum(dim=1)
    left = velocity[:, 0:1] * form[:, :, 0].unsqueeze(3)
    for index in (1, 2):
        left = torch.addcmul(left, velocity[:, index : index + 1], form[:, :, index].unsqueeze(3))
    hessian = outer_sum(left.flatten(0, 2), velocity.flatten(0, 2))
    if shift is not None and lever is not None:
        shift_mean, part = _shift_terms(p, derivatives, location, rate, lever, velocity, shift)
        mean_p, hessian = mean_p + shift_mean, hessian + part
    hessian = hessian - outer_sum(mean_p, mean_p) + outer_sum(mean_w, mean_w)
    slope[:, 0] -= weights
    value = (log_total - log_weight).sum(dim=0)
    return MixtureJet(value, (mean_p - mean_w).sum(dim=0), hessian, slope.flatten(0, 2))


def outer_sum(left: Tensor, right: Tensor) -> Tensor:
    """Return the symmetric matrix sum_h left_hi right_hj (K, K, n) of arrays (H, K, n), from its lower triangle."""
    k = left.shape[1]
    matrix = left.new_empty(k, k, left.shape[-1])
    for i in range(k):
        for j in range(i + 1):
            matrix[i, j] = matrix[j, i] = (left[:, i] * right[:, j]).sum(dim=0)
    return matrix


def _softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the softmax (D, C, n) over components and the logarithm (D, n) of its normalisation."""
    top = logits.amax(dim=1, keepdim=True)
    power = torch.exp(logits - top)
    total = power.sum(dim=1, keepdim=True)
    return power / total, (total.log() + top).squeeze(1)


def _quadratic_form(derivatives: list[Tensor], location: _Moving, rate: _Moving) -> tuple[Tensor, Tensor]:
    """Return da/dy (D, 3, C, n) and d2a/dy2 + (da/dy)(da/dy) (D, 3, 3, C, n) in the raw parameters y of a component."""
    a_m, a_r, a_mm, a_mr, a_rr = derivatives
    slope = torch.stack([torch.ones_like(a_m), a_m * location.first, a_r * rate.first], dim=1)
    form = slope.unsqueeze(1) * slope.unsqueeze(2)
    form[:, 1, 1] += a_mm * location.first.square() + a_m * location.second
    form[:, 2, 2] += a_rr * rate.first.square() + a_r * rate.second
    mixed = a_mr * location.first * rate.first
    form[:, 1, 2] += mixed
    form[:, 2, 1] += mixed
    return slope, form


def _shift_terms(
    p: Tensor,
    derivatives: list[Tensor],
    location: _Moving,
    rate: _Moving,
    lever: _Lever,
    velocity: Tensor,
    shift: Shift,
) -> tuple[Tensor, Tensor]:
    """Return what the shift adds to <a_i>_P (D, K, n) and to the quadratic form (K, K, n)."""
    a_m, a_r, a_mm, a_mr, _ = derivatives
    slope = p * a_m * lever.first
    pure = (slope * a_m * lever.first + p * a_mm * lever.first.square()).sum(dim=1)
    of_location = slope * a_m * location.first + p * (a_mm * location.first * lever.first + a_m * lever.mixed)
    of_width = slope * a_r * rate.first + p * a_mr * rate.first * lever.first
    mixed = (velocity * torch.stack([slope, of_location, of_width], dim=1).unsqueeze(3)).sum(dim=(1, 2))
    mean = slope.sum(dim=1)
    cross = mixed + 0.5 * pure.unsqueeze(1) * shift.first
    both = (cross.unsqueeze(2) * shift.first.unsqueeze(1)).sum(dim=0)
    return mean.unsqueeze(1) * shift.first, both + both.transpose(0, 1) + (mean[:, None, None] * shift.second).sum(
        dim=0
    )


def _location(raw: Tensor) -> _Moving:
    span, share = LOCATION_HIGH - LOCATION_LOW, torch.sigmoid(raw)
    first = span * share * (1.0 - share)
    return _Moving(LOCATION_LOW + span * share, first, first * (1.0 - 2.0 * share))


def _rate(raw: Tensor, floor: float) -> _Moving:
    share = torch.sigmoid(raw)
    rate = 1.0 / (floor - logsigmoid(-raw))
    first = -rate.square() * share
    return _Moving(rate, first, first * (1.0 - share - 2.0 * rate * share))


def _shifted(location: _Moving, shift: Shift) -> tuple[_Moving, _Lever]:
    """Return the shifted location as a function of its raw parameter, and its derivatives in the shift."""
    bend = shift.offset * torch.exp(-shift.low - shift.span * location.value)
    lever, delta = (1.0 - bend) / shift.span, shift.delta.unsqueeze(1)
    stretch = 1.0 + delta * bend
    second = stretch * location.second - delta * shift.span * bend * location.first.square()
    moved = _Moving(location.value + delta * lever, stretch * location.first, second)
    return moved, _Lever(lever, bend * location.first)


def _component_derivatives(u: Tensor, location: Tensor, rate: Tensor, bend: float) -> tuple[Tensor, ...]:
    """Return A and its derivatives A_M, A_r, A_MM, A_Mr, A_rr, each (D, C, n), at u (D, 1, n)."""
    d, e = u - location, 1.0 - location
    z, b, c = (_bent(x * rate, bend) for x in (d, e, location))
    total = b.value + c.value if bend else rate
    gap = 1.0 / torch.expm1(total)
    value = 2.0 * logsigmoid(z.value) - z.value - logsigmoid(b.value) - logsigmoid(c.value)
    value = value + z.log_slope + torch.log((1.0 + gap) * rate)
    share, rest_b, rest_c = torch.sigmoid(z.value), torch.sigmoid(-b.value), torch.sigmoid(-c.value)
    phi, close = 1.0 - 2.0 * share, gap * (1.0 + gap)  # the latter is -d gap/d total
    h1 = phi * z.first + z.log1
    h2 = phi * z.second - 2.0 * share * (1.0 - share) * z.first**2 + z.log2
    b1, c1 = (rest_b + gap) * b.first, (rest_c + gap) * c.first
    b2 = (rest_b + gap) * b.second - (rest_b * (1.0 - rest_b) + close) * b.first**2
    c2 = (rest_c + gap) * c.second - (rest_c * (1.0 - rest_c) + close) * c.first**2
    bc = -close * b.first * c.first
    across = b1 - c1 - h1
    a_m = rate * across
    a_r = d * h1 - e * b1 - location * c1 + 1.0 / rate
    a_mm = rate.square() * (h2 - b2 - c2 + 2.0 * bc)
    a_mr = across + rate * (e * b2 - d * h2 - location * c2 + (location - e) * bc)
    a_rr = d.square() * h2 - e.square() * b2 - location.square() * c2 - 2.0 * e * location * bc - 1.0 / rate.square()
    return value, a_m, a_r, a_mm, a_mr, a_rr


def _bent(x: Tensor, bend: float) -> _Bent:
    if not bend:
        return _Bent(x, 1.0, 0.0, 0.0, 0.0, 0.0)
    q = 1.0 + bend * x.square()
    root, p, slope = q.sqrt(), 2.0 * q - 1.0, bend * x * (2.0 * q + 1.0)
    both = q * p
    log2 = bend * (2.0 * q + 1.0) / both + 2.0 * bend * (q - 1.0) * (1.0 - 4.0 * q - 4.0 * q.square()) / both.square()
    return _Bent(x * root, p / root, slope / (q * root), torch.log(p / root), slope / both, log2)
