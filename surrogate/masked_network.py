"""A masked autoregressive network evaluated without autograd: its outputs, and their gradient in the context.

The network is nflows' residual MADE (Germain et al., arXiv:1502.03509; Durkan et al., doi:10.5281/zenodo.4296287),

    h_0     = W x + a(C t),
    h_{j+1} = h_j + V_j a(U_j a(h_j) + C_j t),      raw_d = R_d h,

with biases, input x, context t and activation a. Hidden units are sorted by their degree: a mask is then block lower
triangular, and products go column by column of blocks, from the diagonal down. Each of them reads other units than the
one before, so that the units are packed for multiplication once. Events run along the last axis, which makes the blocks
contiguous; results are written into a workspace that is used over and over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

aten = torch.ops.aten


class Affine(NamedTuple):
    """A matrix (rows, columns) and a bias (rows, 1)."""

    matrix: Tensor
    bias: Tensor


class MaskedBlock(NamedTuple):
    """One residual block: [C_j, U_j] (H, F + H) and V_j (H, H), with their biases."""

    first: Affine
    second: Affine


@dataclass(frozen=True)
class MaskedWeights:
    """All weights of a network with H hidden units in G degrees, sorted by degree.

    Attributes
    ----------
    ends
        (G,) how many units have at most each degree.
    inputs
        [W, bias] (H, D + 1).
    context
        C (H, F) and its bias; F = 0 without context.
    blocks
        The residual blocks.
    outputs
        R (D P, H) and its bias, P rows for each of the D coordinates; those of coordinate d see ends[d] units.
    activation
        A key of :data:`ACTIVATIONS`.
    """

    ends: tuple[int, ...]
    inputs: Tensor
    context: Affine
    blocks: tuple[MaskedBlock, ...]
    outputs: Affine
    activation: str

    @property
    def n_features(self) -> int:
        """Number F of context features."""
        return self.context.matrix.shape[1]


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
    unwanted = len(made.final_layer.bias) // (dim + 1)
    context = Affine(like.new_zeros(len(order), 0), like.new_zeros(len(order), 1))
    if hasattr(made, "context_layer"):
        context = _affine(made.context_layer, order, ALL, like)
    return MaskedWeights(
        ends,
        torch.cat(_affine(made.initial_layer, order, slice(1, None), like), dim=1),
        context,
        tuple(_block(block, order, like) for block in made.blocks),
        _affine(made.final_layer, slice(unwanted, None), order, like),
        activation,
    )


def _block(block: Any, order: Tensor, like: Tensor) -> MaskedBlock:
    first, second = (_affine(linear, order, order, like) for linear in block.linear_layers)
    if hasattr(block, "context_layer"):
        context = _affine(block.context_layer, order, ALL, like)
        first = Affine(torch.cat([context.matrix, first.matrix], dim=1), context.bias + first.bias)
    return MaskedBlock(first, second)


def _affine(linear: Any, rows: Tensor | slice, columns: Tensor | slice, like: Tensor) -> Affine:
    """Return some rows and columns of a linear layer, masked where it has a mask."""
    weight = linear.weight * linear.mask if hasattr(linear, "mask") else linear.weight
    matrix, bias = weight.detach()[rows][:, columns], linear.bias.detach()[rows, None]
    return Affine(matrix.to(like).contiguous(), bias.to(like).contiguous())


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


class _Product(NamedTuple):
    """A product of matrices and where its result goes, all views."""

    matrix: Tensor
    argument: Tensor
    out: Tensor


class _Layer:
    """The products with a masked matrix [*, U]: rows of one degree see the units of lower or equal degree.

    Parameters
    ----------
    matrix
        The columns before those of the units are not masked.
    rows
        How many rows have at most each degree.
    units
        How many units have at most each degree.
    """

    def __init__(self, matrix: Tensor, rows: Sequence[int], units: Sequence[int]) -> None:
        self._matrix = matrix
        self._rows = list(pairwise((0, *rows)))
        self._ends = [matrix.shape[1] - units[-1] + end for end in units]

    def forward(self, x: Tensor, out: Tensor) -> list[_Product]:
        """Return the products that add up to matrix @ x."""
        columns = pairwise((0, *self._ends))
        return [
            _Product(self._matrix[first:, lo:hi], x[lo:hi], out[first:])
            for (first, _), (lo, hi) in zip(self._rows, columns, strict=True)
        ]

    def backward(self, x: Tensor, out: Tensor) -> list[_Product]:
        """Return those that add up to matrix.T @ x."""
        return [
            _Product(self._matrix[lo:hi, :end].T, x[lo:hi], out[:end])
            for (lo, hi), end in zip(self._rows, self._ends, strict=True)
        ]


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
    All products are between views of one workspace, laid out once. The features lie above the units that are active,
    for both to be multiplied at once.
    """

    def __init__(self, weights: MaskedWeights, n: int) -> None:
        self._weights = weights
        self._act = ACTIVATIONS[weights.activation]
        units, dim, features = weights.ends[-1], weights.inputs.shape[1] - 1, weights.n_features
        like, blocks, ends = weights.inputs, weights.blocks, weights.ends
        self._inputs = like.new_ones(dim + 1, n)
        self._known = like.new_empty(features + units, n)
        self._active = self._known[features:]
        self._context, self._gradient, self._one = (like.new_empty(units, n) for _ in range(3))
        self._two = like.new_empty(features + units, n)
        self._inner = [like.new_empty(units, n) for _ in blocks]
        self._hidden = [like.new_empty(units, n) for _ in (*blocks, None)]
        self._raw = like.new_empty(len(weights.outputs.matrix), n)
        first, second = ([_Layer(affine.matrix, ends, ends) for affine in part] for part in zip(*blocks, strict=True))
        share = len(self._raw) // dim
        final = _Layer(weights.outputs.matrix, [share * (d + 1) for d in range(dim)], ends)
        self._first = [layer.forward(self._known, i) for layer, i in zip(first, self._inner, strict=True)]
        self._second = [layer.forward(self._active, h) for layer, h in zip(second, self._hidden[1:], strict=True)]
        self._final = final.forward(self._hidden[-1], self._raw)
        self._first_back = [layer.backward(self._one, self._two) for layer in first]
        self._second_back = [layer.backward(self._gradient, self._one) for layer in second]
        self._final_back = final.backward(self._raw, self._gradient)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Return the raw parameters (D P, n) for x (D, n) and context features (F, n), in a buffer of this object."""
        weights, features = self._weights, self._weights.n_features
        self._inputs[:-1] = x
        hidden = self._hidden[0]
        if features:
            self._known[:features] = context
            self._context.copy_(weights.context.bias).addmm_(weights.context.matrix, self._known[:features])
            self._act.forward(self._context, hidden)
        else:
            hidden.zero_()
        hidden.addmm_(weights.inputs, self._inputs)
        steps = zip(weights.blocks, self._first, self._second, self._inner, self._hidden[1:], strict=True)
        for block, first, second, inner, above in steps:
            self._act.forward(hidden, self._active)
            _add(first, inner.copy_(block.first.bias))
            self._act.forward(inner, self._active)
            _add(second, torch.add(hidden, block.second.bias, out=above))
            hidden = above
        return _add(self._final, self._raw.copy_(weights.outputs.bias))

    def context_gradient(self) -> Tensor:
        """Return the gradient (F, n) in the context of a function whose slopes in the outputs stand in their place."""
        weights, features = self._weights, self._weights.n_features
        total, beyond = self._two[:features].zero_(), self._two[features:]
        if not features:
            return total
        _add(self._final_back, self._gradient.zero_())
        for j in reversed(range(len(weights.blocks))):
            _add(self._second_back[j], self._one.zero_())
            self._act.backward(self._one, self._inner[j])
            beyond.zero_()
            _add(self._first_back[j], self._two)
            self._gradient.add_(self._act.backward(beyond, self._hidden[j]))
        return total.addmm_(weights.context.matrix.T, self._act.backward(self._gradient, self._context))


def _add(products: list[_Product], start: Tensor) -> Tensor:
    """Return ``start`` with products into it added: MKL takes longer to overwrite than torch to write it before."""
    for matrix, argument, out in products:
        out.addmm_(matrix, argument)
    return start
