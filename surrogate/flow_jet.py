"""Second-order jets in theta of a flow's log density, without automatic differentiation.

For one autoregressive layer of mixtures, ln p(u | theta) = G(raw(theta), shift(theta)), with raw the output of a masked
residual network of features c(theta), each of one parameter. All maps of the network are affine but its activations
v = act(w), so that with first derivatives w_i carried forward along the K directions and adjoints lambda = d ln p/dv
and d ln p/dc carried backward once,

    d_i d_j ln p = (second derivatives of G along the directions) + sum over activations of lambda_v act''(w) w_i w_j
                   + sum over features of lambda_c d_i d_j c.

This costs about 2 + K evaluations, where repeated reverse sweeps cost some ten times as many.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from surrogate.cells import cell_centres, cell_indicators
from surrogate.flow import ConditionalFlow
from surrogate.flow_config import MIXTURES, FlowConfig
from surrogate.histogram import HistogramMap
from surrogate.histogram_jet import histogram_jet
from surrogate.mixture_jet import Shift, mixture_jet, outer_sum


def has_closed_jet(config: FlowConfig) -> bool:
    """Return whether :func:`flow_log_jet` applies: one layer of mixtures or histograms that depends on theta."""
    return config.family in (*MIXTURES, "histogram") and config.layers == 1 and config.nuisances.dim > 0


@torch.no_grad()
def flow_log_jet(flow: ConditionalFlow, u: Tensor, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ln p(u | theta) on the unit cube (n,), its gradient (n, K) and its Hessian (n, K, K) in theta.

    Parameters
    ----------
    flow
        A flow for which :func:`has_closed_jet` holds.
    u
        (n, D).
    theta
        (n, K), in physical units and inside the trained ranges.
    """
    config, columns = flow.config, u[:, list(flow.config.permutation)]
    features = config.features()
    network = _Network(flow.conditioner_network(), config, columns, theta)
    raw, tangent = network.outputs()
    if config.family == "histogram":
        jet = histogram_jet(HistogramMap(config.cells), columns.T, raw, tangent)
    else:
        jet = mixture_jet(config.mixture(), columns.T, raw, tangent, _shift(config, columns, theta))
    curvature, by_feature = network.curvature(jet.adjoint)
    hessian = jet.hessian + curvature
    hessian.diagonal(dim1=0, dim2=1).add_(features.gather(by_feature.T * features.derivatives(theta)[1], -1))
    return jet.value, jet.gradient.T, hessian.permute(2, 0, 1)


def _shift(config: FlowConfig, u: Tensor, theta: Tensor) -> Shift | None:
    if not config.guides:
        return None
    guides = config.guide_set()
    delta, first, second = guides.delta_jet(u, theta)
    low, span, offset = u.new_tensor(guides.scales)[:, :, None, None].unbind(dim=1)
    return Shift(delta.T, first.permute(2, 1, 0), second.permute(3, 1, 2, 0), low, span, offset)


class _Activation(NamedTuple):
    """First and second derivative (H, n) of an activation at w, and the derivatives w_i (H, K, n) of w."""

    first: Tensor
    second: Tensor
    tangent: Tensor


class _Network:
    """One evaluation of a masked residual network with its derivatives along theta, kept for the backward sweep."""

    def __init__(self, made: Any, config: FlowConfig, u: Tensor, theta: Tensor) -> None:
        self._made, self._kind = made, config.activation
        self._features = config.features()
        self._context_in, self._slope = self._features.values(theta).T, self._features.derivatives(theta)[0].T
        histogram = config.family == "histogram"
        seen = cell_indicators(u, config.cells) if histogram else 2.0 * cell_centres(u, config.cells) - 1.0
        self._inputs = nn.functional.pad(seen, (1, 0)).T
        # the first outputs belong to the constant coordinate in front
        self._unused = made.final_layer.out_features // (config.observables.dim + 1)
        self._record: list[_Activation] = []

    def outputs(self) -> tuple[Tensor, Tensor]:
        """Return the raw parameters (O, n) and their derivatives (O, K, n)."""
        made, initial = self._made, self._made.initial_layer
        value, tangent = self._activate(*self._context(made.context_layer))
        value = torch.addmm(value + initial.bias.unsqueeze(-1), _matrix(initial), self._inputs)
        for block in made.blocks:
            first, second = block.linear_layers
            context, context_tangent = self._context(block.context_layer)
            inner, inner_tangent = _affine(_matrix(first), first.bias, *self._activate(value, tangent))
            inner, inner_tangent = self._activate(inner + context, inner_tangent + context_tangent)
            inner, inner_tangent = _affine(_matrix(second), second.bias, inner, inner_tangent)
            value, tangent = value + inner, tangent + inner_tangent
        final = made.final_layer
        return _affine(_matrix(final)[self._unused :], final.bias[self._unused :], value, tangent)

    def curvature(self, adjoint: Tensor) -> tuple[Tensor, Tensor]:
        """Return the Hessian (K, K, n) from the activations and d ln p/dc (F, n), given d ln p/d raw (O, n)."""
        nodes = iter(reversed(self._record))
        adjoint = _matrix(self._made.final_layer)[self._unused :].T @ adjoint
        terms, by_feature = [], []
        for block in reversed(self._made.blocks):
            first, second = block.linear_layers
            term, inner = _backward(_matrix(second).T @ adjoint, next(nodes))
            by_feature.append(block.context_layer.weight.T @ inner)
            terms.append(term)
            term, inner = _backward(_matrix(first).T @ inner, next(nodes))
            terms.append(term)
            adjoint = adjoint + inner
        term, adjoint = _backward(adjoint, next(nodes))
        terms.append(term)
        by_feature.append(self._made.context_layer.weight.T @ adjoint)
        return torch.stack(terms).sum(dim=0), torch.stack(by_feature).sum(dim=0)

    def _context(self, layer: nn.Linear) -> tuple[Tensor, Tensor]:
        value = torch.addmm(layer.bias.unsqueeze(-1), layer.weight, self._context_in)
        return value, self._features.gather(layer.weight.unsqueeze(-1) * self._slope, 1)

    def _activate(self, w: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
        value, first, second = _activation(self._kind, w)
        self._record.append(_Activation(first, second, tangent))
        return value, first.unsqueeze(1) * tangent


def _backward(adjoint: Tensor, node: _Activation) -> tuple[Tensor, Tensor]:
    """Return an activation's share of the Hessian (K, K, n), and the adjoint (H, n) of its argument."""
    share = outer_sum((adjoint * node.second).unsqueeze(1) * node.tangent, node.tangent)
    return share, adjoint * node.first


def _affine(matrix: Tensor, bias: Tensor, value: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    moved = (matrix @ tangent.flatten(1)).unflatten(1, tangent.shape[1:])
    return torch.addmm(bias.unsqueeze(-1), matrix, value), moved


def _matrix(layer: Any) -> Tensor:
    """Return the masked weights (out, in) of a layer."""
    matrix: Tensor = layer.weight * layer.mask
    return matrix


def _activation(kind: str, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the activation and its first two derivatives."""
    if kind == "tanh":
        value = torch.tanh(w)
        first = 1.0 - value.square()
        return value, first, -2.0 * value * first
    if kind == "gelu":
        density = torch.exp(-0.5 * w.square()) / math.sqrt(2.0 * math.pi)
        share = torch.special.ndtr(w)
        return w * share, share + w * density, density * (2.0 - w.square())
    share = torch.sigmoid(w)
    value, bell = w * share, share * (1.0 - share)
    return value, share + w * bell, bell * (2.0 + w * (1.0 - 2.0 * share))
