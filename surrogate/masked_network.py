"""A masked autoregressive network evaluated without autograd: its outputs, and their gradient in the context.

The network is nflows' residual MADE (Germain et al., arXiv:1502.03509; Durkan et al., doi:10.5281/zenodo.4296287),

    h_0     = W x + a(C t),
    h_{j+1} = h_j + V_j a(U_j a(h_j) + C_j t),      raw_d = R_d h,

with biases, input x, context t and activation a. Hidden units are sorted by their degree: a mask is then block lower
triangular, and the products skip the blocks above the diagonal. Events run along the last axis, which makes the blocks
contiguous; results are written into a workspace that is used over and over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

aten = torch.ops.aten


class MaskedLinear(NamedTuple):
    """Weights (out, in), masked, and bias (out, 1)."""

    weight: Tensor
    bias: Tensor


class MaskedBlock(NamedTuple):
    """One residual block; the context acts on the output of the first layer."""

    first: MaskedLinear
    context: Tensor | None
    second: MaskedLinear


@dataclass(frozen=True)
class MaskedWeights:
    """All weights of a network with H hidden units in G degrees, sorted by degree.

    Attributes
    ----------
    ends
        (G,) how many units have at most each degree.
    inputs
        (H, D).
    context
        (H, K), None without context.
    blocks
        The residual blocks.
    outputs
        One layer (P, ends[d]) for each of the D coordinates.
    activation
        A key of :data:`ACTIVATIONS`.
    """

    ends: tuple[int, ...]
    inputs: MaskedLinear
    context: MaskedLinear | None
    blocks: tuple[MaskedBlock, ...]
    outputs: tuple[MaskedLinear, ...]
    activation: str


ALL = slice(None)


def masked_weights(made: Any, dim: int, activation: str, like: Tensor) -> MaskedWeights:
    """Return the weights of a network whose first input is a constant zero and whose first output is not wanted.

    Parameters
    ----------
    made
        nflows' MADE with residual blocks, over dim + 1 features; see :mod:`surrogate.flow`.
    dim
        D.
    activation
        A key of :data:`ACTIVATIONS`.
    like
        Dtype and device of the weights.
    """
    degrees = made.initial_layer.degrees
    order = torch.argsort(degrees, stable=True)
    ends = tuple(int((degrees <= degree).sum()) for degree in range(1, dim + 1))
    final = _layer(made.final_layer, ALL, order, like)
    size = len(final.bias) // (dim + 1)
    parts = [slice((d + 1) * size, (d + 2) * size) for d in range(dim)]
    outputs = [MaskedLinear(final.weight[p, :n].contiguous(), final.bias[p]) for p, n in zip(parts, ends, strict=True)]
    return MaskedWeights(
        ends,
        _layer(made.initial_layer, order, slice(1, None), like),
        _layer(made.context_layer, order, ALL, like) if hasattr(made, "context_layer") else None,
        tuple(_block(block, order, like) for block in made.blocks),
        tuple(outputs),
        activation,
    )


def _block(block: Any, order: Tensor, like: Tensor) -> MaskedBlock:
    first, second = (_layer(linear, order, order, like) for linear in block.linear_layers)
    if not hasattr(block, "context_layer"):
        return MaskedBlock(first, None, second)
    context = _layer(block.context_layer, order, ALL, like)
    return MaskedBlock(MaskedLinear(first.weight, first.bias + context.bias), context.weight, second)


def _layer(linear: Any, rows: Tensor | slice, columns: Tensor | slice, like: Tensor) -> MaskedLinear:
    """Return some rows and columns of a linear layer, masked where it has a mask."""
    weight = linear.weight * linear.mask if hasattr(linear, "mask") else linear.weight
    part = weight.detach()[rows][:, columns]
    return MaskedLinear(part.to(like).contiguous(), linear.bias.detach()[rows].unsqueeze(-1).to(like))


class Activation(NamedTuple):
    """An activation into a buffer, and the product of a gradient with its derivative, in place."""

    forward: Callable[[Tensor, Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]


def _silu(x: Tensor, out: Tensor) -> Tensor:
    return aten.silu.out(x, out=out)


def _silu_backward(gradient: Tensor, x: Tensor) -> Tensor:
    return aten.silu_backward.grad_input(gradient, x, grad_input=gradient)


def _gelu(x: Tensor, out: Tensor) -> Tensor:
    return aten.gelu.out(x, out=out)


def _gelu_backward(gradient: Tensor, x: Tensor) -> Tensor:
    return aten.gelu_backward.grad_input(gradient, x, grad_input=gradient)


def _tanh(x: Tensor, out: Tensor) -> Tensor:
    return torch.tanh(x, out=out)


def _tanh_backward(gradient: Tensor, x: Tensor) -> Tensor:
    return aten.tanh_backward.grad_input(gradient, x.tanh(), grad_input=gradient)


ACTIVATIONS: dict[str, Activation] = {
    "silu": Activation(_silu, _silu_backward),
    "gelu": Activation(_gelu, _gelu_backward),
    "tanh": Activation(_tanh, _tanh_backward),
}


@dataclass(frozen=True)
class _Workspace:
    """Buffers (H, n); those in lists are kept from the way forward for the way back."""

    context: Tensor
    hidden: list[Tensor]
    inner: list[Tensor]
    one: Tensor
    two: Tensor
    gradient: Tensor


class MaskedNetwork:
    """Runs a network for n events at a time.

    Parameters
    ----------
    weights
        Of the network.
    n
        Number of events of every call.
    """

    def __init__(self, weights: MaskedWeights, n: int) -> None:
        self._weights = weights
        self._act = ACTIVATIONS[weights.activation]
        self._blocks = list(pairwise((0, *weights.ends)))
        n_blocks = len(weights.blocks)
        buffers = iter([weights.inputs.weight.new_empty(weights.ends[-1], n) for _ in range(2 * n_blocks + 5)])
        self._work = _Workspace(
            next(buffers),
            [next(buffers) for _ in range(n_blocks + 1)],
            [next(buffers) for _ in range(n_blocks)],
            *(next(buffers) for _ in range(3)),
        )

    def forward(self, x: Tensor, context: Tensor) -> None:
        """Compute all hidden units for x (D, n) and context (K, n)."""
        w, work = self._weights, self._work
        hidden = work.hidden[0]
        if w.context is None:
            torch.addmm(w.inputs.bias, w.inputs.weight, x, out=hidden)
        else:
            torch.addmm(w.context.bias, w.context.weight, context, out=work.context)
            self._act.forward(work.context, hidden).add_(w.inputs.bias).addmm_(w.inputs.weight, x)
        for block, inner, above in zip(w.blocks, work.inner, work.hidden[1:], strict=True):
            self._act.forward(hidden, work.one)
            if block.context is None:
                inner.copy_(block.first.bias.expand_as(inner))
            else:
                torch.addmm(block.first.bias, block.context, context, out=inner)
            self._add_product(block.first.weight, work.one, inner)
            self._act.forward(inner, work.one)
            torch.add(hidden, block.second.bias, out=above)
            self._add_product(block.second.weight, work.one, above)
            hidden = above
        work.gradient.zero_()

    def output(self, d: int, out: Tensor) -> Tensor:
        """Write the raw parameters (P, n) of coordinate d into ``out``."""
        layer, end = self._weights.outputs[d], self._weights.ends[d]
        return torch.addmm(layer.bias, layer.weight, self._work.hidden[-1][:end], out=out)

    def add_gradient(self, d: int, slope: Tensor) -> None:
        """Add what coordinate d contributes to the gradient of a function of all outputs: its slope (P, n) in them."""
        layer, end = self._weights.outputs[d], self._weights.ends[d]
        self._work.gradient[:end].addmm_(layer.weight.T, slope)

    def context_gradient(self) -> Tensor:
        """Return the gradient (K, n) in the context, of what :meth:`add_gradient` was told since :meth:`forward`."""
        w, work = self._weights, self._work
        if w.context is None:
            return work.gradient[:0]
        parts = []
        steps = zip(w.blocks, work.inner, work.hidden, strict=False)
        for block, inner, hidden in reversed(list(steps)):
            self._transposed_product(block.second.weight, work.gradient, work.one)
            self._act.backward(work.one, inner)
            if block.context is not None:
                parts.append(block.context.T @ work.one)
            self._transposed_product(block.first.weight, work.one, work.two)
            work.gradient.add_(self._act.backward(work.two, hidden))
        parts.append(w.context.weight.T @ self._act.backward(work.gradient, work.context))
        return torch.stack(parts).sum(dim=0)

    def _add_product(self, weight: Tensor, x: Tensor, out: Tensor) -> None:
        for low, high in self._blocks:
            out[low:high].addmm_(weight[low:high, :high], x[:high])

    def _transposed_product(self, weight: Tensor, x: Tensor, out: Tensor) -> None:
        for low, high in self._blocks:
            torch.mm(weight[low:, low:high].T, x[low:], out=out[low:high])
