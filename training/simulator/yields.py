"""Mean light and charge yields of liquid xenon and their deformation along (t_ly, t_qy).

A yield model maps energies (n,), keV, and theta to the mean numbers of photons and electrons. Formulas and constants
are those of NEST (arXiv:2211.10726; nestpy 2.1.3) unless another source is named. F is the drift field in V/cm, rho the
density in g/cm3, and y = N_e/(N_ph + N_e).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from training.simulator.theta import Theta

AVOGADRO = 6.0221409e23
MOLAR_MASS = 131.293

ER_CHARGE_SIGMA = 0.04
"""1-sigma relative uncertainty of the ER charge yield: the spread of calibrations around NEST below 20 keV."""

ER_LIGHT_SIGMA = 0.015
"""1-sigma relative uncertainty of the number of quanta per keV: W = 13.7 +- 0.2 eV (Dahl 2009; arXiv:2211.10726)."""


@dataclass(frozen=True)
class Quanta:
    """Mean numbers per event before fluctuations, each (n,)."""

    photons: Tensor
    electrons: Tensor


@dataclass(frozen=True)
class Medium:
    """What the yields need to know of the detector: drift field, V/cm, and liquid density, g/cm3."""

    field: float
    density: float

    @property
    def work_function(self) -> float:
        """W_q, keV per quantum: 13.55 eV at 2.862 g/cm3 (NEST)."""
        electrons = self.density * AVOGADRO * 54.0 / MOLAR_MASS
        return (18.7263 - 1.01e-23 * electrons) * 1.1716263e-3

    @property
    def exciton_scale(self) -> float:
        """Asymptotic ratio of excitons to ions of electronic recoils, reached as erf(E/20 keV)."""
        return 0.067366 + 0.039693 * self.density

    @property
    def recombination_box(self) -> float:
        """Thomas-Imel box parameter of nuclear recoils."""
        return 0.0480 * self.field**-0.0533 * (self.density / 2.9) ** 0.3

    @property
    def density_correction(self) -> float:
        """Charge yield relative to that at 2.9 g/cm3."""
        return _density_shape(self.density) / _density_shape(2.9)


def _density_shape(density: float) -> float:
    return math.log1p(2.9**-1.7 * density**1.7) * density**-1.7


def _sigmoid(low_field: float, high_field: float, field: float, scale: float, power: float) -> float:
    """Return the value that runs from ``low_field`` (F -> 0) to ``high_field`` (F -> infinity) around ``scale``."""
    return high_field + (low_field - high_field) / (1 + (field / scale) ** power)


@dataclass(frozen=True)
class BetaParameters:
    """The ten parameters of the beta yield model at one field; m6 = 0."""

    m1: float
    m2: float
    m3: float
    m4: float
    m5: float
    m7: float
    m8: float
    m9: float
    m10: float


def beta_parameters(medium: Medium) -> BetaParameters:
    """Return the field-dependent parameters; m5 without its energy dependence (see :func:`electronic_charge_yield`)."""
    f = medium.field
    return BetaParameters(
        m1=30.66 + (6.1978 - 30.66) / (1 + (f / 73.855) ** 2.0318) ** 0.41883,
        m2=77.2931084,
        m3=0.13946236 * math.log10(f) + 0.52561312,
        m4=_sigmoid(2.82528809, 1.82217496, f, 144.65029656, -2.80532006),
        m5=1 / medium.work_function,
        m7=_sigmoid(98.27936794, 7.02921301, f, 256.48156448, 1.29119251),
        m8=4.285781736,
        m9=0.3344049589,
        m10=_sigmoid(0.1166087199, 0.0508273937, f, 139.26046, -0.65763592),
    )


def electronic_charge_yield(energy: Tensor, medium: Medium) -> Tensor:
    """Return the undeformed charge yield of beta electrons, electrons/keV, (n,)."""
    m = beta_parameters(medium)
    m5 = m.m5 / (1 + medium.exciton_scale * (0.05 * energy).erf()) - m.m1
    low = (m.m2 - m.m1) * (1 + (energy / m.m3) ** m.m4) ** -m.m9
    high = m5 * (1 - (1 + (energy / m.m7) ** m.m8) ** -m.m10)
    return ((m.m1 + low + high) * medium.density_correction).clamp_(min=0.0)


def electronic_recoil(energy: Tensor, theta: Theta, medium: Medium) -> Quanta:
    """Return the mean quanta of electronic recoils.

    t_qy moves the recombination, Q' = Q (1 + 0.04 t_qy) at a fixed number of quanta, and t_ly the number of quanta,
    L' = 1/W - Q' + 0.015 L t_ly.
    """
    total = 1 / medium.work_function
    charge = electronic_charge_yield(energy, medium)
    electrons = charge * (1 + ER_CHARGE_SIGMA * theta.t_qy)
    photons = (total - electrons) + ER_LIGHT_SIGMA * (total - charge).clamp_(min=0.0) * theta.t_ly
    return Quanta(photons.clamp_(min=0.0) * energy, electrons.clamp_(min=0.0) * energy)
