"""Maps of the unit cube to itself, conditional on theta, and their composition: what is built from nflows.

Each map acts coordinate by coordinate, with the parameters of one coordinate's map given by a network of other
coordinates and of theta. Autoregressive networks: Germain et al., "MADE", arXiv:1502.03509; flows built from them:
Papamakarios et al., arXiv:1705.07057; coupling layers: Dinh et al., arXiv:1605.08803. Networks, transforms and their
composition are nflows' (Durkan et al., doi:10.5281/zenodo.4296287). The context that nflows passes along is theta in
physical units.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from nflows.distributions.base import Distribution
from nflows.flows.base import Flow
from nflows.nn.nets.resnet import ResidualNet
from nflows.transforms.base import CompositeTransform, Transform
from nflows.transforms.coupling import CouplingTransform
from nflows.transforms.made import MADE, MaskedLinear
from nflows.transforms.permutations import Permutation, ReversePermutation
from torch import Tensor, nn
from torch.nn import functional

from surrogate.cells import cell_centres, cell_indicators
from surrogate.context import ContextFeatures
from surrogate.flow_config import FlowConfig
from surrogate.univariate import UnivariateMap

ACTIVATION_FUNCTIONS = {"silu": functional.silu, "gelu": functional.gelu, "tanh": torch.tanh}


Solver = Callable[[UnivariateMap], Callable[..., Tensor]]
"""Picks the method of a map that solves for a coordinate."""


class _MaskedConditioner(nn.Module):
    """MADE network: raw parameters (n, D, P) of coordinate d from the coordinates before d and theta.

    In nflows' MADE no hidden unit feeds the first output, so that it ignores the context. A constant is therefore put
    in front of the coordinates and its own output dropped: the first coordinate then depends on theta like the others.
    """

    def __init__(self, config: FlowConfig, mapping: UnivariateMap, cells: tuple[int, ...]) -> None:
        super().__init__()
        self._dim, self._features, self._cells = config.observables.dim, config.features(), cells
        self.made = MADE(
            features=self._dim + 1,
            hidden_features=config.hidden,
            context_features=self._features.dim or None,
            num_blocks=config.blocks,
            output_multiplier=mapping.n_parameters,
            activation=ACTIVATION_FUNCTIONS[config.activation],
        )
        self._indicated = config.family == "histogram"
        if self._indicated:
            degrees = [1, *(d + 2 for d, n in enumerate(cells) for _ in range(n))]
            self.made.initial_layer = MaskedLinear(
                torch.tensor(degrees), config.hidden, self._dim + 1, random_mask=False, is_output=False
            )
        _start_from(self.made.final_layer, mapping.initial().repeat(self._dim + 1))

    def forward(self, u: Tensor, theta: Tensor) -> Tensor:
        # centred inputs train better; the constant is 0, its weight being redundant with the bias
        seen = cell_indicators(u, self._cells) if self._indicated else 2.0 * cell_centres(u, self._cells) - 1.0
        inputs = functional.pad(seen, (1, 0))
        raw: Tensor = self.made(inputs, _context(self._features, theta))
        return raw.unflatten(-1, (self._dim + 1, -1))[:, 1:]


class _AutoregressiveLayer(Transform):
    """One autoregressive map of the unit cube to itself, from the data towards the base.

    Guides and cells are those of the observables, and belong to the layer next to the data.
    """

    def __init__(self, config: FlowConfig, first: bool) -> None:
        super().__init__()
        self._map: UnivariateMap = config.univariate()
        self._guides = config.guide_set() if config.guides and first else None
        self._columns = range(config.observables.dim)
        self.conditioner = _MaskedConditioner(config, self._map, config.cells if first else ())

    def forward(self, inputs: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        move = self._guides.move(inputs, context, self._columns) if self._guides else None
        z, log_slope = self._map.forward(inputs, self.conditioner(inputs, context), move)
        return z, log_slope.sum(dim=-1)

    def log_derivative(self, inputs: Tensor, context: Tensor) -> Tensor:
        move = self._guides.move(inputs, context, self._columns) if self._guides else None
        return self._map.log_derivative(inputs, self.conditioner(inputs, context), move).sum(dim=-1)

    @torch.no_grad()
    def inverse(self, inputs: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        u = self._fill(inputs, context, lambda mapping: mapping.inverse)
        return u, -self.log_derivative(u, context)

    @torch.no_grad()
    def sample(self, noise: Tensor, context: Tensor) -> Tensor:
        return self._fill(noise, context, lambda mapping: mapping.sample)

    def _fill(self, inputs: Tensor, context: Tensor, solver: Solver) -> Tensor:
        """Solve for one coordinate after the other; column d of ``inputs`` is what the solver needs for it."""
        u = context.new_zeros(len(inputs), len(self._columns))
        for d in self._columns:
            raw = self.conditioner(u, context)[:, d : d + 1]
            move = self._guides.move(u, context, (d,)) if self._guides else None
            u[:, d : d + 1] = solver(self._map.at(d))(inputs[:, d : d + 1], raw, move)
        return u


class _CouplingConditioner(nn.Module):
    """Residual network: raw parameters of some coordinates from the others and theta."""

    def __init__(self, config: FlowConfig, n_in: int, n_out: int, mapping: UnivariateMap) -> None:
        super().__init__()
        self._features = config.features()
        self.net = ResidualNet(
            n_in,
            n_out,
            hidden_features=config.hidden,
            context_features=self._features.dim or None,
            num_blocks=config.blocks,
            activation=ACTIVATION_FUNCTIONS[config.activation],
        )
        _start_from(self.net.final_layer, mapping.initial().repeat(n_out // mapping.n_parameters))

    def forward(self, inputs: Tensor, theta: Tensor) -> Tensor:
        raw: Tensor = self.net(inputs, _context(self._features, theta))
        return raw


class _CouplingLayer(CouplingTransform):
    """One coupling map: every second coordinate is mapped with parameters from the others and theta."""

    def __init__(self, config: FlowConfig, parity: int) -> None:
        self._map: UnivariateMap = config.univariate()

        def network(n_in: int, n_out: int) -> nn.Module:
            return _CouplingConditioner(config, n_in, n_out, self._map)

        super().__init__([(d + parity) % 2 for d in range(config.observables.dim)], network)

    def log_derivative(self, inputs: Tensor, context: Tensor) -> Tensor:
        log_slope: Tensor = self.forward(inputs, context)[1]
        return log_slope

    def sample(self, noise: Tensor, context: Tensor) -> Tensor:
        return self.inverse(noise[..., 0], context)[0]

    def _transform_dim_multiplier(self) -> int:
        return self._map.n_parameters

    def _coupling_transform_forward(self, inputs: Tensor, transform_params: Tensor) -> tuple[Tensor, Tensor]:
        z, log_slope = self._map.forward(inputs, transform_params.unflatten(-1, (inputs.shape[-1], -1)))
        return z, log_slope.sum(dim=-1)

    def _coupling_transform_inverse(self, inputs: Tensor, transform_params: Tensor) -> tuple[Tensor, Tensor]:
        raw = transform_params.unflatten(-1, (inputs.shape[-1], -1))
        u = self._map.inverse(inputs, raw)
        return u, -self._map.log_derivative(u, raw).sum(dim=-1)


class _UnitCube(Distribution):
    """Uniform density on the unit cube, the base of the flow."""

    def _log_prob(self, inputs: Tensor, context: Tensor) -> Tensor:
        return inputs.new_zeros(len(inputs))


class CubeFlow(Flow):
    """nflows' Flow on the unit cube with the uniform base, which needs the derivative of the last map, not its value.

    Parameters
    ----------
    config
        The architecture.
    """

    def __init__(self, config: FlowConfig) -> None:
        super().__init__(CompositeTransform(_transforms(config)), _UnitCube())

    def _log_prob(self, inputs: Tensor, context: Tensor) -> Tensor:
        *first, last = self._transform._transforms
        total = inputs.new_zeros(len(inputs))
        for transform in first:
            inputs, log_slope = transform(inputs, context)
            total = total + log_slope
        return total + last.log_derivative(inputs, context)

    def to_base(self, u: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (n, D) and ln|det dz/du| (n,)."""
        z, log_slope = self._transform(u, context)
        return z, log_slope

    def from_base(self, z: Tensor, context: Tensor) -> Tensor:
        """Return u (n, D) with z = to_base(u)."""
        u: Tensor = self._transform.inverse(z, context)[0]
        return u

    def conditioner_network(self) -> nn.Module:
        """Return the masked network of the layer next to the data (autoregressive families)."""
        made: nn.Module = self._transform._transforms[1].conditioner.made
        return made

    def from_noise(self, noise: Tensor, context: Tensor) -> Tensor:
        """Return u (n, D) of the flow's density for uniforms (n, D, 2)."""
        *first, last = self._transform._transforms
        u = last.sample(noise, context)
        for transform in reversed(first):
            u = transform.inverse(u, context)[0]
        return u


def _transforms(config: FlowConfig) -> list[Transform]:
    """Return the permutation to autoregressive order and the layers, from the data towards the base."""
    transforms: list[Transform] = [Permutation(torch.tensor(config.permutation))]
    for index in range(config.layers):
        if config.family == "spline_coupling":
            transforms.append(_CouplingLayer(config, index))
            continue
        if index:
            transforms.append(ReversePermutation(config.observables.dim))
        transforms.append(_AutoregressiveLayer(config, first=not index))
    return transforms


def _context(features: ContextFeatures, theta: Tensor) -> Tensor | None:
    """Return what the networks see of theta (n, K), or None where there is no nuisance parameter."""
    return features.values(theta) if features.dim else None


def _start_from(layer: nn.Linear, bias: Tensor) -> None:
    """Make a network's last layer start near the given raw parameters."""
    with torch.no_grad():
        layer.weight.mul_(0.1)
        layer.bias.copy_(bias)
