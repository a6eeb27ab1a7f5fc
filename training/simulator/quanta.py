"""Fluctuations of the quanta: from mean yields to whole numbers of photons and electrons.

An event of mean quanta N_q splits into excitons and ions in the ratio alpha; a fraction r of the N_i ions recombines:

    N_e = (1 - r) N_i + sqrt(r (1 - r) N_i + (omega N_i)^2) zeta,    N_ph = N_q - N_e,

with zeta a standardised skew normal. alpha, r, omega and the skewness are those of NEST (arXiv:2211.10726; nestpy
2.1.3).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training.simulator.yields import Medium, Quanta

TINY = 1e-6


def _recombination(electron_fraction: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Return (r, alpha) with r = 1 - (1 + alpha) y; where that is negative r = 0 and alpha = 1/y - 1.

    The second rule keeps the mean number of electrons right when more electrons are asked for than there are ions.
    """
    r = 1 - (1 + ratio) * electron_fraction
    negative = r < 0
    ratio = torch.where(negative, 1 / electron_fraction.clamp(min=TINY) - 1, ratio)
    return r.clamp_(0.0, 1.0), ratio


def _skew_normal(shape: Tensor | float, like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw from the skew normal with shape parameter k, shifted and scaled to mean 0 and variance 1.

    Azzalini's construction: d |N1| + sqrt(1 - d^2) N2 with d = k/sqrt(1 + k^2) has mean sqrt(2/pi) d.
    """
    second = torch.randn(like.shape, generator=generator, device=like.device)
    if isinstance(shape, float) and shape == 0.0:
        return second
    first = torch.randn(like.shape, generator=generator, device=like.device).abs_()
    d = shape / (1 + shape * shape) ** 0.5
    mean = math.sqrt(2 / math.pi) * d
    return (d * first + (1 - d * d) ** 0.5 * second - mean) / (1 - mean * mean) ** 0.5


def _split(ions: Tensor, quanta: Tensor, r: Tensor, omega: Tensor, zeta: Tensor) -> tuple[Tensor, Tensor]:
    """Return photons and electrons, whole numbers, from the ions that escape recombination."""
    spread = (r * (1 - r) * ions + (omega * ions).square_()).sqrt_()
    electrons = torch.minimum(((1 - r) * ions + spread * zeta).round_().clamp_(min=0.0), ions)
    return quanta - electrons, electrons


def _electronic_width(y: Tensor, medium: Medium) -> Tensor:
    """Return omega of electronic recoils: a skewed bell in y with its peak scaled to the field-dependent amplitude."""
    # (1 + x^251.6)^0.007 overflows when evaluated as written.
    softplus = torch.nn.functional.softplus(torch.tensor(251.6 * math.log(medium.field / 295.2), dtype=torch.float64))
    amplitude = 0.07 + (0.046452 - 0.07) / math.exp(0.0069114 * float(softplus))
    centre, width, skew = 0.45, 0.205, -0.2
    mode = centre + math.sqrt(2 / math.pi) * skew * width / math.sqrt(1 + skew**2)
    peak = math.exp(-((mode - centre) ** 2) / (2 * width**2)) * (
        1 + math.erf(skew * (mode - centre) / (width * 2**0.5))
    )
    x = (y - centre) * (1 / width)
    return (-0.5 * x.square()).exp_() * (1 + (x * (skew / 2**0.5)).erf_()) * (amplitude / peak)


def _electronic_skew(total: Tensor, medium: Medium) -> Tensor | float:
    """Return the skew-normal shape of electronic recoils; 0 outside 50 to 4000 V/cm."""
    f = medium.field
    if not 50 <= f <= 4000:
        return 0.0
    e = total * medium.work_function
    switch = torch.sigmoid((26.7 - e) * (1 / 6.4))
    low = 1.39 + 4 * math.exp(-f / 225) * (1 - (e * (-1 / 7.7)).exp_())
    high = 22.1 * math.exp(-math.sqrt(f / 71)) * (e * (-1 / 54)).exp_()
    return torch.where(total < 1e4, switch * low + (1 - switch) * high, 0.0)


def electronic_quanta(
    energy: Tensor, mean: Quanta, medium: Medium, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw photons and electrons of electronic recoils, each (n,), from their means."""
    rho = medium.density
    total = mean.photons + mean.electrons
    y = mean.electrons / total.clamp(min=TINY)
    r, ratio = _recombination(y, medium.exciton_scale * (0.05 * energy).erf_())
    fano = 0.12707 - 0.029623 * rho - 0.0057042 * rho**2 + 0.0015957 * rho**3
    variance = (fano + 0.001 * (total * medium.field).sqrt_()) * total
    noise = torch.randn(total.shape, generator=generator, device=total.device)
    quanta = (total + variance.sqrt_() * noise).round_().clamp_(min=0.0)
    ions = torch.binomial(quanta, 1 / (1 + ratio), generator=generator)
    zeta = _skew_normal(_electronic_skew(total, medium), total, generator)
    return _split(ions, quanta, r, _electronic_width(y, medium), zeta)


def nuclear_quanta(energy: Tensor, mean: Quanta, medium: Medium, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw photons and electrons of nuclear recoils, each (n,), from their means."""
    total = (mean.photons + mean.electrons).clamp(min=TINY)
    y = mean.electrons / total
    box = medium.recombination_box / 4
    mean_ions = torch.minimum(torch.expm1(mean.electrons * box) * (1 / box), total).clamp_(min=TINY)
    ratio = (total - mean_ions) / mean_ions
    ratio = torch.where(energy < 1.0, ratio.clamp(max=1.0), ratio)
    ratio = torch.where(energy > 100.0, ratio.clamp(min=medium.exciton_scale), ratio)
    r, ratio = _recombination(y, ratio)
    mean_ions = total / (1 + ratio)
    # NEST: a Fano factor of 0.4 for ions and excitons separately.
    ions, excitons = (
        (m + (0.4 * m).sqrt_() * torch.randn(m.shape, generator=generator, device=m.device)).round_().clamp_(min=0.0)
        for m in (mean_ions, total - mean_ions)
    )
    omega = 0.04 * (-(y - 0.5).square_() * (1 / (2 * 0.19**2))).exp_()
    zeta = _skew_normal(2.25 if 50 <= medium.field <= 4000 else 0.0, total, generator)
    return _split(ions, ions + excitons, r, omega, zeta)


def poisson_quanta(mean: Quanta, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw photons and electrons as independent Poisson numbers, the convention of low-energy XENONnT analyses."""
    return torch.poisson(mean.photons, generator=generator), torch.poisson(mean.electrons, generator=generator)
