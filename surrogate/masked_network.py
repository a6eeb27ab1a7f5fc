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


class MaskedBlock(NamedTuple):
    """One residual block: [C_j, bias, U_j] (H, F + 1 + H) and [bias, V_j] (H, 1 + H)."""

    first: Tensor
    second: Tensor


@dataclass(frozen=True)
class MaskedWeights:
    """All weights of a network with H hidden units in G degrees, sorted by degree, each bias a column of its matrix.

    Attributes
    ----------
    ends
        (G,) how many units have at most each degree.
    inputs
        [bias, W] (H, 1 + D).
    context
        [C, bias] (H, F + 1); F = 0 without context.
    blocks
        The residual blocks.
    outputs
        One matrix [bias, R_d] (P, 1 + ends[d]) for each of the D coordinates.
    activation
        A key of :data:`ACTIVATIONS`.
    """

    ends: tuple[int, ...]
    inputs: Tensor
    context: Tensor
    blocks: tuple[MaskedBlock, ...]
    outputs: tuple[Tensor, ...]
    activation: str

    @property
    def n_features(self) -> int:
        """Number F of context features."""
        return self.context.shape[1] - 1


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
    size = len(final) // (dim + 1)
    outputs = [final[(d + 1) * size : (d + 2) * size, : 1 + end].contiguous() for d, end in enumerate(ends)]
    context = like.new_zeros(len(order), 1)
    if hasattr(made, "context_layer"):
        context = _layer(made.context_layer, order, ALL, like).roll(-1, dims=1).contiguous()
    return MaskedWeights(
        ends,
        _layer(made.initial_layer, order, slice(1, None), like),
        context,
        tuple(_block(block, order, like) for block in made.blocks),
        tuple(outputs),
        activation,
    )


def _block(block: Any, order: Tensor, like: Tensor) -> MaskedBlock:
    first, second = (_layer(linear, order, order, like) for linear in block.linear_layers)
    if not hasattr(block, "context_layer"):
        return MaskedBlock(first, second)
    context = _layer(block.context_layer, order, ALL, like)
    first[:, 0] += context[:, 0]
    return MaskedBlock(torch.cat([context[:, 1:], first], dim=1), second)


def _layer(linear: Any, rows: Tensor | slice, columns: Tensor | slice, like: Tensor) -> Tensor:
    """Return [bias, weights] of some rows and columns of a linear layer, masked where it has a mask."""
    weight = linear.weight * linear.mask if hasattr(linear, "mask") else linear.weight
    return torch.cat([linear.bias.detach()[rows, None], weight.detach()[rows][:, columns]], dim=1).to(like)


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


Product = tuple[Tensor, Tensor, Tensor]
"""Matrix, argument and result, all views."""


class MaskedNetwork:
    """Runs a network for n events at a time.

    Parameters
    ----------
    weights
        Of the network.
    n
        Number of events of every call.

    Notes
    -----
    All products are between views of one workspace, laid out once. A row of ones under the context and above the units
    carries the biases.
    """

    def __init__(self, weights: MaskedWeights, n: int) -> None:
        self._weights = weights
        self._act = ACTIVATIONS[weights.activation]
        units, dim, features = weights.ends[-1], weights.inputs.shape[1] - 1, weights.n_features
        like, blocks = weights.inputs, weights.blocks
        self._inputs = like.new_ones(1 + dim, n)
        self._features = like.new_ones(features + 1 + units, n)
        self._active = self._features[features + 1 :]
        self._context, self._gradient, self._one, self._two = (like.new_empty(units, n) for _ in range(4))
        self._slope = like.new_empty(features, n)
        self._inner = [like.new_empty(units, n) for _ in blocks]
        self._last = like.new_ones(1 + units, n)
        self._hidden = [*(like.new_empty(units, n) for _ in blocks), self._last[1:]]
        self._spans = list(pairwise((0, *weights.ends)))
        self._first = [self._products(b.first, self._features, i) for b, i in zip(blocks, self._inner, strict=True)]
        plain = self._features[features:]
        self._second = [self._products(b.second, plain, h) for b, h in zip(blocks, self._hidden[1:], strict=True)]
        self._second_back = [self._transposed(b.second, self._gradient, self._one) for b in blocks]
        self._first_back = [self._transposed(b.first, self._one, self._two) for b in blocks]

    def _products(self, matrix: Tensor, x: Tensor, out: Tensor) -> list[Product]:
        """Return the products of the blocks of rows of a matrix [*, units] with the units of lower or equal degree."""
        before = matrix.shape[1] - self._weights.ends[-1]
        return [(matrix[lo:hi, : before + hi], x[: before + hi], out[lo:hi]) for lo, hi in self._spans]

    def _transposed(self, matrix: Tensor, x: Tensor, out: Tensor) -> list[Product]:
        """Return the same for the transposed matrix of the units."""
        square = matrix[:, matrix.shape[1] - self._weights.ends[-1] :]
        return [(square[lo:, lo:hi].T, x[lo:], out[lo:hi]) for lo, hi in self._spans]

    def forward(self, x: Tensor, context: Tensor) -> None:
        """Compute all hidden units for x (D, n) and context features (F, n)."""
        weights, features = self._weights, self._weights.n_features
        self._inputs[1:] = x
        hidden = self._hidden[0]
        if features:
            self._features[:features] = context
            torch.mm(weights.context, self._features[: features + 1], out=self._context)
            self._act.forward(self._context, hidden).addmm_(weights.inputs, self._inputs)
        else:
            torch.mm(weights.inputs, self._inputs, out=hidden)
        steps = zip(self._first, self._second, self._inner, self._hidden[1:], strict=True)
        for first, second, inner, above in steps:
            self._act.forward(hidden, self._active)
            for matrix, argument, out in first:
                torch.mm(matrix, argument, out=out)
            self._act.forward(inner, self._active)
            above.copy_(hidden)
            for matrix, argument, out in second:
                out.addmm_(matrix, argument)
            hidden = above
        self._gradient.zero_()

    def output(self, d: int, out: Tensor) -> Tensor:
        """Write the raw parameters (P, n) of coordinate d into ``out``."""
        return torch.mm(self._weights.outputs[d], self._last[: 1 + self._weights.ends[d]], out=out)

    def add_gradient(self, d: int, slope: Tensor) -> None:
        """Add what coordinate d contributes to the gradient of a function of all outputs: its slope (P, n) in them."""
        self._gradient[: self._weights.ends[d]].addmm_(self._weights.outputs[d][:, 1:].T, slope)

    def context_gradient(self) -> Tensor:
        """Return the gradient (F, n) in the context, of what :meth:`add_gradient` was told since :meth:`forward`.

        It is overwritten by the next call.
        """
        weights, features = self._weights, self._weights.n_features
        if not features:
            return self._gradient[:0]
        total = self._slope
        total.zero_()
        for j in reversed(range(len(weights.blocks))):
            for matrix, argument, out in self._second_back[j]:
                torch.mm(matrix, argument, out=out)
            self._act.backward(self._one, self._inner[j])
            total.addmm_(weights.blocks[j].first[:, :features].T, self._one)
            for matrix, argument, out in self._first_back[j]:
                torch.mm(matrix, argument, out=out)
            self._gradient.add_(self._act.backward(self._two, self._hidden[j]))
        return total.addmm_(weights.context[:, :features].T, self._act.backward(self._gradient, self._context))
