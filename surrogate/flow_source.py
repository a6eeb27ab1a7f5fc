"""A source whose density is a trained flow and whose rate is a fitted acceptance."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from surrogate.acceptance import AcceptanceModel
from surrogate.cells import CellRule
from surrogate.errors import ConfigError
from surrogate.flow import ConditionalFlow
from surrogate.flow_jet import flow_log_jet, has_closed_jet
from surrogate.flow_kernel import FlowKernel, has_kernel
from surrogate.jet import Jet, autograd_log_jet, jet_of_log
from surrogate.nuisance import NuisanceSpace
from surrogate.observables import ObservableSpace
from surrogate.shapes import broadcast_shape

CHUNK = 2_048
"""Rows whose density is evaluated at a time with gradients."""

KERNEL_CHUNK = 131_072
"""The same without; the kernel cuts them further."""

JET_CHUNK = 512
"""The same for jets; it bounds the memory and lets the work fit into a core's cache."""


class FlowSource:
    """f(x | theta) from a :class:`ConditionalFlow`, mu(theta) = generated_rate eps(theta) from an acceptance.

    In counts and binned observables f is constant within each cell: the mean of the flow's density over it, see
    :mod:`surrogate.cells`. The flow is copied and frozen; gradients flow to x and theta, never to its weights.

    Parameters
    ----------
    flow
        The trained density.
    acceptance
        The fraction of generated events in the region of interest, over the same nuisance parameters.
    generated_rate
        Rate of the generated events per tonne-year, > 0.
    dtype
        In which densities are evaluated.
    device
        Where they are evaluated.

    Raises
    ------
    ConfigError
        If the rate is not positive, or flow and acceptance disagree about the nuisance parameters.
    """

    def __init__(
        self,
        flow: ConditionalFlow,
        acceptance: AcceptanceModel,
        generated_rate: float,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        if not (math.isfinite(generated_rate) and generated_rate > 0):
            raise ConfigError(f"generated_rate = {generated_rate} events per tonne-year must be > 0 and finite")
        if acceptance.basis.nuisances != flow.config.nuisances:
            raise ConfigError(
                f"acceptance: its nuisances ({', '.join(acceptance.basis.nuisances.names) or 'none'}) and ranges must "
                f"be those of the flow ({', '.join(flow.config.nuisances.names) or 'none'})"
            )
        self.flow = copy.deepcopy(flow).to(device=device, dtype=dtype).eval().requires_grad_(False)
        self.acceptance = replace(
            acceptance,
            coefficients=acceptance.coefficients.to(device),
            covariance=acceptance.covariance.to(device),
        )
        self.generated_rate = float(generated_rate)

    def on(self, device: torch.device | str) -> FlowSource:
        """Return the source on a device."""
        return FlowSource(self.flow, self.acceptance, self.generated_rate, self.flow.dtype, device)

    @property
    def observables(self) -> ObservableSpace:
        """The region of interest."""
        return self.flow.config.observables

    @property
    def nuisances(self) -> NuisanceSpace:
        """The parameters theta and their trained ranges."""
        return self.flow.config.nuisances

    @property
    def breakpoints(self) -> Mapping[str, tuple[float, ...]]:
        """None: a flow is smooth."""
        return {}

    @property
    def kinks(self) -> tuple[str, ...]:
        """Nuisances at whose nominal values the density turns within a fraction of a standard deviation."""
        return self.flow.config.kinks

    @cached_property
    def identity(self) -> str:
        """SHA-256 of architecture, weights, acceptance and rate; the same in every dtype that holds the weights."""
        record = [self.flow.config.to_dict(), self.acceptance.to_dict(), self.generated_rate]
        digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode())
        for name, tensor in self.tensors().items():
            digest.update(name.encode())
            digest.update(tensor.double().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def tensors(self) -> dict[str, Tensor]:
        """Return all numbers of the source by name, on the CPU: weights of the flow, coefficients, covariance."""
        named = {f"flow.{name}": tensor for name, tensor in self.flow.state_dict().items()}
        named["acceptance.coefficients"] = self.acceptance.coefficients
        named["acceptance.covariance"] = self.acceptance.covariance
        return {name: tensor.detach().cpu() for name, tensor in sorted(named.items())}

    def log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        """Return ln f(x | theta) (*,) for x (*, D) in physical units and theta (*, K), broadcasting over *.

        Exactly -inf outside the region of interest; raises RangeError for theta outside the trained ranges.
        """
        _check(self.nuisances, x, theta)
        return self._cells.log_mean([self._log_prob(some, theta) for some in self._points(x)])

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        """Return ln p(x | theta) (*,) of the flow itself."""
        kernel = self._kernel
        if kernel is None or (torch.is_grad_enabled() and (x.requires_grad or theta.requires_grad)):
            rows, shape = _flatten(x, theta, CHUNK)
            return torch.cat([self.flow.log_prob(some_x, some_theta) for some_x, some_theta in rows]).reshape(shape)
        rows, shape = _flatten(x, theta, KERNEL_CHUNK)
        parts = []
        for some_x, some_theta in rows:
            u, log_volume, inside = self.flow.to_unit(some_x)
            parts.append(torch.where(inside, kernel.log_prob(u, some_theta) + log_volume, -torch.inf))
        return torch.cat(parts).reshape(shape)

    def score(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return ln f (n,) and its gradient in theta (n, K), for x (n, D) and theta (n, K), to single precision.

        Outside the region of interest ln f = -inf and the gradient is zero. Several times cheaper than a jet.
        """
        self.nuisances.check(theta)
        return self._cells.mean_score([self._score(some, theta) for some in self._points(x)])

    def _score(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return ln p (n,) of the flow itself and its gradient in theta (n, K)."""
        kernel = self._single_kernel
        if kernel is None:
            jet = self._jet(x, theta)
            return jet.log_scale, jet.gradient
        u, log_volume, inside = self.flow.to_unit(x)
        log_p, gradient = kernel.log_prob_gradient(u, theta)
        return torch.where(inside, log_p + log_volume, -torch.inf), torch.where(inside.unsqueeze(-1), gradient, 0.0)

    @cached_property
    def _cells(self) -> CellRule:
        """How the flow's density is averaged over cells; a histogram is constant in them as it is."""
        return CellRule.of(0 if self.flow.config.family == "histogram" else len(self.observables.celled))

    def _points(self, x: Tensor) -> list[Tensor]:
        """Return x (*, D), or the points of its cells at which the flow is evaluated."""
        shares = self._cells.shares
        return [self.observables.in_cells(x, share) for share in shares] if shares.shape[-1] else [x]

    @cached_property
    def _kernel(self) -> FlowKernel | None:
        """The flow without automatic differentiation, where its family allows it."""
        return FlowKernel.of(self.flow, self.flow.dtype) if has_kernel(self.flow.config) else None

    @cached_property
    def _single_kernel(self) -> FlowKernel | None:
        return FlowKernel.of(self.flow, torch.float32) if has_kernel(self.flow.config) else None

    def expected_events(self, theta: Tensor) -> Tensor:
        """Return mu(theta) (*,) in events per tonne-year, float64 and differentiable, for theta (*, K)."""
        return self.generated_rate * self.acceptance.acceptance(theta)

    def expected_events_std(self, theta: Tensor) -> Tensor:
        """Return the standard error (*,) of mu from the finite number of simulated events."""
        return self.generated_rate * self.acceptance.std(theta)

    def sample(self, n: int, theta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw n events (n, D) inside the region of interest at theta (K,), or one per row of theta (n, K)."""
        return self.observables.to_values(self.flow.sample(n, theta, generator))

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the uniforms that make one event."""
        return self.flow.noise_shape

    def sample_from_noise(self, noise: Tensor, theta: Tensor) -> Tensor:
        """Return the events (n, D) made of uniforms (n, *noise_shape), at theta (K,) or (n, K); row by row."""
        return self.observables.to_values(self.flow.sample_from_noise(noise, theta))

    def density_jet(self, x: Tensor, theta: Tensor, centre: Tensor | None = None) -> Jet:
        """Return the jet in theta of f(x | theta), for x (*, D) and theta (*, K), broadcasting over *."""
        self.nuisances.check(theta)
        return self._cells.mean_jet([self._jet(some, theta) for some in self._points(x)])

    def _jet(self, x: Tensor, theta: Tensor) -> Jet:
        """Return the jet of the flow's own density."""
        rows, shape = _flatten(x, theta, JET_CHUNK)
        jets = [self._rows_jet(*some) for some in rows]
        k = self.nuisances.dim
        return Jet(
            torch.cat([jet.log_scale for jet in jets]).reshape(shape),
            torch.cat([jet.value for jet in jets]).reshape(shape),
            torch.cat([jet.gradient for jet in jets]).reshape(*shape, k),
            torch.cat([jet.hessian for jet in jets]).reshape(*shape, k, k),
        )

    def _rows_jet(self, x: Tensor, theta: Tensor) -> Jet:
        """Return the jet for x (n, D) and theta (n, K)."""
        if not has_closed_jet(self.flow.config):
            return autograd_log_jet(lambda t: self.flow.log_prob(x, t), theta)
        u, log_volume, inside = self.flow.to_unit(x)
        log_p, gradient, hessian = flow_log_jet(self.flow, u, theta.detach().to(self.flow.dtype))
        gradient = torch.where(inside.unsqueeze(-1), gradient, 0.0)
        hessian = torch.where(inside[:, None, None], hessian, 0.0)
        return jet_of_log(torch.where(inside, log_p + log_volume, -torch.inf), gradient, hessian)

    def rate_jet(self, theta: Tensor, centre: Tensor | None = None) -> Jet:
        """Return the jet in theta of mu(theta), in closed form, for theta (*, K)."""
        jet = self.acceptance.jet(theta)
        return replace(jet, log_scale=jet.log_scale + math.log(self.generated_rate))


def _check(nuisances: NuisanceSpace, x: Tensor, theta: Tensor) -> None:
    """Raise ConfigError unless x and theta are tensors, and RangeError unless theta is inside the ranges."""
    for name, given in (("x", x), ("theta", theta)):
        if not isinstance(given, Tensor):
            raise ConfigError(f"{name} must be a torch tensor, got {type(given).__name__}; use torch.as_tensor({name})")
    nuisances.check(theta)


def _flatten(x: Tensor, theta: Tensor, chunk: int) -> tuple[list[tuple[Tensor, Tensor]], torch.Size]:
    """Return x and theta broadcast against each other, as chunks of rows (n, D) and (n, K), and their shape (*,)."""
    shape = broadcast_shape(x.shape[:-1], theta.shape[:-1])
    flat = [t.expand(*shape, t.shape[-1]).reshape(shape.numel(), t.shape[-1]).split(chunk) for t in (x, theta)]
    return list(zip(*flat, strict=True)), shape
