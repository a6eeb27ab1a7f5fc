"""Conditional normalizing flow: a density f(x | theta) that is exactly normalised over the region of interest.

    f(x | theta) = prod_l |det dT_l| |det du/dx|,    u -> T_1 -> ... -> T_L -> uniform on the unit cube,

where u(x) maps the region of interest onto the unit cube (:mod:`surrogate.observables`) and each T_l takes the cube to
itself, coordinate by coordinate, with the parameters of each coordinate's map given by a network of the coordinates
before it and of theta. Autoregressive networks: Germain et al., "MADE", arXiv:1502.03509; flows built from them:
Papamakarios et al., arXiv:1705.07057; coupling layers: Dinh et al., arXiv:1605.08803. The networks and the composition
are nflows' (Durkan et al., doi:10.5281/zenodo.4296287).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from nflows.distributions.base import Distribution
from nflows.flows.base import Flow
from nflows.nn.nets.resnet import ResidualNet
from nflows.transforms.base import CompositeTransform, Transform
from nflows.transforms.coupling import CouplingTransform
from nflows.transforms.made import MADE
from nflows.transforms.permutations import Permutation, ReversePermutation
from torch import Tensor, nn
from torch.nn import functional

from surrogate.errors import DataError
from surrogate.flow_config import FlowConfig
from surrogate.guides import GuideSet
from surrogate.nuisance import NuisanceSpace
from surrogate.univariate import UnivariateMap

ACTIVATION_FUNCTIONS = {"silu": functional.silu, "gelu": functional.gelu, "tanh": torch.tanh}

SAMPLE_CHUNK = 65_536
"""Events drawn at a time, which bounds the memory of sampling."""


class _MaskedConditioner(nn.Module):
    """MADE network: raw parameters (n, D, P) of coordinate d from the coordinates before d and theta.

    In nflows' MADE no hidden unit feeds the first output, so that it ignores the context. A constant is therefore put
    in front of the coordinates and its own output dropped: the first coordinate then depends on theta like the others.
    """

    def __init__(self, config: FlowConfig, n_parameters: int, initial: Tensor) -> None:
        super().__init__()
        self._dim, self._nuisances = config.observables.dim, config.nuisances
        self.made = MADE(
            features=self._dim + 1,
            hidden_features=config.hidden,
            context_features=self._nuisances.dim or None,
            num_blocks=config.blocks,
            output_multiplier=n_parameters,
            activation=ACTIVATION_FUNCTIONS[config.activation],
        )
        _start_from(self.made.final_layer, initial.repeat(self._dim + 1))

    def forward(self, u: Tensor, theta: Tensor) -> Tensor:
        # centred inputs train better; the constant is 0, its weight being redundant with the bias
        inputs = functional.pad(2.0 * u - 1.0, (1, 0))
        raw: Tensor = self.made(inputs, _context(self._nuisances, theta))
        return raw.unflatten(-1, (self._dim + 1, -1))[:, 1:]


class _AutoregressiveLayer(Transform):
    """One autoregressive map of the unit cube to itself, from the data towards the base."""

    def __init__(self, config: FlowConfig, guides: GuideSet | None) -> None:
        super().__init__()
        self._map: UnivariateMap = config.univariate()
        self._guides = guides
        self._columns = range(config.observables.dim)
        self.conditioner = _MaskedConditioner(config, self._map.n_parameters, self._map.initial())

    def forward(self, inputs: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        move = self._guides.move(inputs, context, self._columns) if self._guides else None
        z, log_slope = self._map.forward(inputs, self.conditioner(inputs, context), move)
        return z, log_slope.sum(dim=-1)

    def log_derivative(self, inputs: Tensor, context: Tensor) -> Tensor:
        move = self._guides.move(inputs, context, self._columns) if self._guides else None
        return self._map.log_derivative(inputs, self.conditioner(inputs, context), move).sum(dim=-1)

    @torch.no_grad()
    def inverse(self, inputs: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        u = self._fill(inputs, context, self._map.inverse)
        return u, -self.log_derivative(u, context)

    @torch.no_grad()
    def sample(self, noise: Tensor, context: Tensor) -> Tensor:
        return self._fill(noise, context, self._map.sample)

    def _fill(self, inputs: Tensor, context: Tensor, solve: Callable[..., Tensor]) -> Tensor:
        """Solve for one coordinate after the other; column d of ``inputs`` is what ``solve`` needs for it."""
        u = context.new_zeros(len(inputs), len(self._columns))
        for d in self._columns:
            raw = self.conditioner(u, context)[:, d : d + 1]
            move = self._guides.move(u, context, (d,)) if self._guides else None
            u[:, d : d + 1] = solve(inputs[:, d : d + 1], raw, move)
        return u


class _CouplingLayer(CouplingTransform):
    """One coupling map: every second coordinate is mapped with parameters from the others and theta."""

    def __init__(self, config: FlowConfig, parity: int) -> None:
        self._map: UnivariateMap = config.univariate()
        self._nuisances = config.nuisances

        def network(n_in: int, n_out: int) -> nn.Module:
            net = ResidualNet(
                n_in,
                n_out,
                hidden_features=config.hidden,
                context_features=config.nuisances.dim or None,
                num_blocks=config.blocks,
                activation=ACTIVATION_FUNCTIONS[config.activation],
            )
            _start_from(net.final_layer, self._map.initial().repeat(n_out // self._map.n_parameters))
            return net

        super().__init__([(d + parity) % 2 for d in range(config.observables.dim)], network)

    def forward(self, inputs: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        z, log_slope = super().forward(inputs, _context(self._nuisances, context))
        return z, log_slope

    def log_derivative(self, inputs: Tensor, context: Tensor) -> Tensor:
        return self.forward(inputs, context)[1]

    @torch.no_grad()
    def inverse(self, inputs: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        u, log_slope = super().inverse(inputs, _context(self._nuisances, context))
        return u, log_slope

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


class _CubeFlow(Flow):
    """nflows' Flow over the uniform base, which needs the derivative of the last map but not its value."""

    def _log_prob(self, inputs: Tensor, context: Tensor) -> Tensor:
        *first, last = self._transform._transforms
        total = inputs.new_zeros(len(inputs))
        for transform in first:
            inputs, log_slope = transform(inputs, context)
            total = total + log_slope
        return total + last.log_derivative(inputs, context)

    def to_base(self, u: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        z, log_slope = self._transform(u, context)
        return z, log_slope

    def from_base(self, z: Tensor, context: Tensor) -> Tensor:
        return self._transform.inverse(z, context)[0]

    def from_noise(self, noise: Tensor, context: Tensor) -> Tensor:
        *first, last = self._transform._transforms
        u = last.sample(noise, context)
        for transform in reversed(first):
            u = transform.inverse(u, context)[0]
        return u


class ConditionalFlow(nn.Module):
    """Density f(x | theta) over a region of interest, exactly normalised, smooth in theta.

    Parameters
    ----------
    config
        The architecture.
    seed
        Seed of the initial weights; the global random state is left alone.

    Notes
    -----
    Everything is evaluated in the dtype of the parameters: float32 while training, float64 after ``.double()``.
    """

    def __init__(self, config: FlowConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._flow = _CubeFlow(CompositeTransform(_transforms(config)), _UnitCube())

    def log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        """Return ln f(x | theta) (*,), for x (*, D) in physical units and theta (*, K), broadcasting over *.

        Exactly -inf outside the region of interest and for NaN.

        Raises
        ------
        DataError
            If the last dimension of x is not the number of observables.
        RangeError
            If theta is outside the trained ranges.
        """
        space = self.config.observables
        if x.shape[-1:] != (space.dim,):
            raise DataError(f"x: shape {tuple(x.shape)}, last dimension must be {space.dim} ({', '.join(space.names)})")
        self.config.nuisances.check(theta)
        inside = space.contains(x)
        low, high = space.bounds(x)
        # points outside are moved to the centre before any arithmetic, so that no NaN enters a gradient
        u, log_volume = space.to_unit(torch.where(inside.unsqueeze(-1), x, 0.5 * (low + high)).to(self.dtype))
        shape = torch.broadcast_shapes(x.shape[:-1], theta.shape[:-1])
        rows = u.expand(*shape, -1).reshape(-1, space.dim)
        log_p = self.log_prob_unit(rows, self._rows(theta, shape)).reshape(shape)
        return torch.where(inside, log_p + log_volume, -torch.inf)

    def log_prob_unit(self, u: Tensor, theta: Tensor) -> Tensor:
        """Return ln p(u | theta) (n,) on the unit cube, for u (n, D) and theta (n, K); nothing is checked."""
        log_p: Tensor = self._flow._log_prob(u, theta)
        return log_p

    def to_base(self, u: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (n, D), uniform on the cube where u (n, D) follows p(u | theta), and ln|det dz/du| (n,).

        Column j of z belongs to the j-th coordinate in autoregressive order; with one layer it is the probability
        integral transform given the coordinates before.
        """
        return self._flow.to_base(u, theta)

    def from_base(self, z: Tensor, theta: Tensor) -> Tensor:
        """Return u (n, D) with ``to_base(u, theta)`` = z (n, D); not differentiable."""
        with torch.no_grad():
            return self._flow.from_base(z, theta)

    @torch.no_grad()
    def sample(self, n: int, theta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw n events (n, D) inside the region of interest, at theta (K,) or one per row of theta (n, K).

        Raises
        ------
        RangeError
            If theta is outside the trained ranges.
        """
        space = self.config.observables
        self.config.nuisances.check(theta)
        rows = self._rows(theta, torch.Size([n]))
        noise = torch.rand((n, space.dim, 2), generator=generator, dtype=self.dtype, device=rows.device)
        chunks = zip(noise.split(SAMPLE_CHUNK), rows.split(SAMPLE_CHUNK), strict=True)
        u = [self._flow.from_noise(some_noise, some_theta) for some_noise, some_theta in chunks]
        return space.from_unit(torch.cat(u))

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the parameters."""
        return next(self.parameters()).dtype

    def _rows(self, theta: Tensor, shape: torch.Size) -> Tensor:
        return theta.to(self.dtype).expand(*shape, theta.shape[-1]).reshape(shape.numel(), theta.shape[-1])


def _transforms(config: FlowConfig) -> list[Transform]:
    """Return the permutation to autoregressive order and the layers, from the data towards the base."""
    transforms: list[Transform] = [Permutation(torch.tensor(config.permutation))]
    for index in range(config.layers):
        if config.family == "spline_coupling":
            transforms.append(_CouplingLayer(config, index))
            continue
        if index:
            transforms.append(ReversePermutation(config.observables.dim))
        transforms.append(_AutoregressiveLayer(config, config.guide_set() if config.guides and not index else None))
    return transforms


def _context(nuisances: NuisanceSpace, theta: Tensor) -> Tensor | None:
    """Return theta (n, K) standardised to [-1, 1], or None where there is no nuisance parameter."""
    return nuisances.standardise(theta) if nuisances.dim else None


def _start_from(layer: nn.Linear, bias: Tensor) -> None:
    """Make a network's last layer start near the given raw parameters."""
    with torch.no_grad():
        layer.weight.mul_(0.1)
        layer.bias.copy_(bias)
