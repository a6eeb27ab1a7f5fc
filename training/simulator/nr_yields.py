"""Nuclear-recoil yields: NEST with priors on its yields, and the band that XENONnT measured with YBe neutrons.

Along one parameter a yield moves linearly in each direction from its median,

    Y(t) = Y + t (Y_hi - Y)  for t >= 0,    Y + t (Y - Y_lo)  for t < 0,

with Y_lo, Y_hi its 1-sigma band as a function of energy. The bands are tabulated and interpolated linearly in ln E.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from training.simulator.theta import Theta
from training.simulator.yields import Medium, Quanta

NEST_BAND_ENERGY = (0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 100.0)
NEST_LIGHT_BAND = (0.20, 0.15, 0.10, 0.08, 0.08, 0.08, 0.08, 0.08)
NEST_CHARGE_BELOW = (0.29, 0.25, 0.21, 0.18, 0.14, 0.11, 0.08, 0.06)
NEST_CHARGE_ABOVE = (0.43, 0.23, 0.13, 0.11, 0.09, 0.08, 0.05, 0.05)
"""Relative 1-sigma bands around NEST: a summary of the spread of the data compiled in arXiv:2211.10726."""

YBE_ENERGY = (
    0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0,
)  # fmt: skip
YBE_LIGHT = (
    (2.376, 2.936, 3.339, 3.837, 4.068, 4.160, 4.190, 4.235, 4.283, 4.337, 4.325, 4.281, 4.230, 4.149, 4.095, 4.044,
     3.941, 3.837),
    (4.969, 5.243, 5.349, 5.452, 5.397, 5.305, 5.212, 5.073, 4.990, 4.967, 5.002, 5.063, 5.123, 5.224, 5.327, 5.432,
     5.641, 5.849),
    (7.911, 7.857, 7.677, 7.294, 6.884, 6.529, 6.233, 5.915, 5.759, 5.701, 5.840, 6.078, 6.341, 6.874, 7.361, 7.843,
     8.809, 9.775),
)  # fmt: skip
YBE_CHARGE = (
    (0.215, 0.652, 1.208, 2.274, 3.294, 4.127, 4.799, 5.507, 5.809, 5.960, 5.983, 5.937, 5.873, 5.731, 5.589, 5.447,
     5.163, 4.879),
    (2.745, 3.339, 3.885, 4.751, 5.336, 5.703, 5.946, 6.182, 6.321, 6.407, 6.416, 6.378, 6.313, 6.159, 6.001, 5.844,
     5.529, 5.215),
    (6.234, 6.358, 6.456, 6.577, 6.643, 6.686, 6.720, 6.780, 6.846, 6.887, 6.902, 6.868, 6.805, 6.647, 6.480, 6.313,
     5.978, 5.644),
)  # fmt: skip
"""Lower edge, median and upper edge, quanta/keV, at 23 V/cm (arXiv:2412.10451; data release of arXiv:2409.17868)."""

YBE_CLIP = (1.0, 10.0)
"""Range of the deformed yields, quanta/keV (arXiv:2409.17868)."""

KNOTS = 512


@dataclass(frozen=True)
class LogTable:
    """Columns tabulated at knots uniform in ln E between ``low`` and ``high`` keV; held constant outside."""

    low: float
    high: float
    columns: Tensor

    def at(self, energy: Tensor) -> tuple[Tensor, ...]:
        """Return the columns, each (n,), interpolated linearly in ln E."""
        step = (KNOTS - 1) / math.log(self.high / self.low)
        position = (energy.clamp(self.low, self.high) * (1 / self.low)).log_().mul_(step).clamp_(0.0, KNOTS - 1.001)
        knot = position.to(torch.int32)
        weight = position - knot
        return tuple(torch.lerp(c.index_select(0, knot), c.index_select(0, knot + 1), weight) for c in self.columns)

    def to(self, like: Tensor) -> LogTable:
        """Return the table with the dtype and device of ``like``."""
        return LogTable(self.low, self.high, self.columns.to(like))


def log_table(energy: tuple[float, ...], columns: tuple[tuple[float, ...], ...]) -> LogTable:
    """Resample columns given at increasing energies to knots uniform in ln E."""
    x = torch.tensor(energy, dtype=torch.float64).log()
    knots = torch.linspace(float(x[0]), float(x[-1]), KNOTS, dtype=torch.float64)
    right = torch.searchsorted(x, knots).clamp(1, len(x) - 1)
    weight = (knots - x[right - 1]) / (x[right] - x[right - 1])
    y = torch.tensor(columns, dtype=torch.float64)
    return LogTable(energy[0], energy[-1], torch.lerp(y[:, right - 1], y[:, right], weight).float())


NEST_BAND = log_table(NEST_BAND_ENERGY, (NEST_LIGHT_BAND, NEST_LIGHT_BAND, NEST_CHARGE_BELOW, NEST_CHARGE_ABOVE))
YBE_BAND = log_table(YBE_ENERGY, (*YBE_LIGHT, *YBE_CHARGE))


def nuclear_yields(energy: Tensor, medium: Medium) -> tuple[Tensor, Tensor]:
    """Return the undeformed NEST light and charge yields, quanta/keV, each (n,)."""
    low = 1 - 1 / (1 + (energy * (1 / 0.3)).square_())
    charge = low / (medium.recombination_box * (energy + 12.6).sqrt_())
    # Quanta per keV grow as 11 E^0.1; light is what charge leaves, suppressed again towards threshold.
    light = ((11.0 * energy**0.1 - charge) * low).clamp_(min=0.0)
    alive = ((light + charge) * energy >= 1.0).to(energy.dtype)
    return light * alive, charge * alive


def _deformed(median: Tensor, below: Tensor, above: Tensor, t: Tensor) -> Tensor:
    """Return median + t above for t >= 0 and median + t below for t < 0."""
    return median + t.clamp(min=0.0) * above + t.clamp(max=0.0) * below


def nest_recoil(energy: Tensor, theta: Theta, medium: Medium) -> Quanta:
    """Return the mean quanta of nuclear recoils in NEST, deformed within its prior bands."""
    light, charge = nuclear_yields(energy, medium)
    light_below, light_above, charge_below, charge_above = NEST_BAND.to(energy).at(energy)
    light = _deformed(light, light * light_below, light * light_above, theta.t_ly)
    charge = _deformed(charge, charge * charge_below, charge * charge_above, theta.t_qy)
    return Quanta(light.clamp_(min=0.0) * energy, charge.clamp_(min=0.0) * energy)


def ybe_recoil(energy: Tensor, theta: Theta, medium: Medium) -> Quanta:
    """Return the mean quanta of nuclear recoils in the YBe band, calibrated between 0.5 and 5 keV.

    Below 0.3 keV the band is held; above 10 keV it is scaled with the energy dependence of NEST.
    """
    light_lo, light, light_hi, charge_lo, charge, charge_hi = YBE_BAND.to(energy).at(energy)
    nest = nuclear_yields(energy.clamp(min=YBE_ENERGY[-1]), medium)
    reference = nuclear_yields(torch.full_like(energy[:1], YBE_ENERGY[-1]), medium)
    light_scale, charge_scale = (a / b for a, b in zip(nest, reference, strict=True))
    light = _deformed(light, light - light_lo, light_hi - light, theta.t_ly) * light_scale
    charge = _deformed(charge, charge - charge_lo, charge_hi - charge, theta.t_qy) * charge_scale
    return Quanta(light.clamp_(*YBE_CLIP) * energy, charge.clamp_(*YBE_CLIP) * energy)
