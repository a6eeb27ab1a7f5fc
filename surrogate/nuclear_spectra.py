"""Nuclear-recoil spectra: spin-independent WIMPs, solar 8B neutrinos and radiogenic neutrons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, spherical_jn

from surrogate.errors import ConfigError, unknown_name
from surrogate.spectrum import Spectrum

Array = NDArray[np.float64]
WimpNorm = Literal["standard", "wimprates"]
NeutrinoNorm = Literal["xenonnt", "nest"]

XENON_ISOTOPES: dict[int, float] = {
    124: 0.00095, 126: 0.00089, 128: 0.0191, 129: 0.26401, 130: 0.04071,
    131: 0.21232, 132: 0.26909, 134: 0.10436, 136: 0.08857,
}  # fmt: skip
"""Natural abundance by mole (IUPAC 2013)."""

ATOMIC_MASS_UNIT = 0.93149410
"""GeV (CODATA 2018)."""

PROTON_MASS = 0.93827209
"""GeV (CODATA 2018)."""

WIMP_NORMS: dict[str, float] = {"standard": 1.0, "wimprates": 0.970}
"""``wimprates`` up to 0.5 normalises the truncated speed distribution by N instead of 1/N: a factor N^2 = 0.970 with
the halo below. Analyses that took their spectra from it quote cross-sections on that scale."""


@dataclass(frozen=True)
class HaloModel:
    """Standard halo model with the conventions recommended for direct detection (arXiv:2105.00599).

    Parameters
    ----------
    density
        Local dark-matter density, GeV/cm3.
    v0, v_escape
        Most probable speed and Galactic escape speed, km/s.
    v_lab
        Speed of the laboratory in the Galactic frame, km/s; its value on 9 March, close to the annual mean.
    """

    density: float = 0.3
    v0: float = 238.0
    v_escape: float = 544.0
    v_lab: float = 253.7

    def __post_init__(self) -> None:
        if not (self.density > 0 and self.v0 > 0 and self.v_lab > 0 and self.v_escape > self.v_lab):
            raise ConfigError(f"halo model: {self} must have positive values and v_escape > v_lab")

    def mean_inverse_speed(self, v_min: Array) -> Array:
        """Return eta(v_min) = <1/v> over speeds above ``v_min``, s/km, for v_min in km/s.

        The closed form for the truncated Maxwellian (Savage, Freese and Gondolo, astro-ph/0607121).
        """
        x, y, z = v_min / self.v0, self.v_lab / self.v0, self.v_escape / self.v0
        edge = math.exp(-(z**2)) / math.sqrt(math.pi)
        norm = 2 * (math.erf(z) - 2 * z * edge) * self.v0 * y
        below = erf(x + y) - erf(x - y) - 4 * y * edge
        across = math.erf(z) - erf(x - y) - 2 * (z + y - x) * edge
        return np.where(x < z - y, below, np.where(x < z + y, across, 0.0)) / norm


STANDARD_HALO = HaloModel()


def helm_form_factor(energy: Array, mass_number: int) -> Array:
    """Return the Helm form factor F(q), q = sqrt(2 M E), of Lewin and Smith (1996), section 4."""
    c, a, s = 1.23 * mass_number ** (1 / 3) - 0.60, 0.52, 0.9
    radius = math.sqrt(c**2 + 7 / 3 * math.pi**2 * a**2 - 5 * s**2)
    mass = ATOMIC_MASS_UNIT * mass_number * 1e6
    q = np.maximum(np.sqrt(2 * mass * energy) / 197326.98, 1e-9)
    return 3 * spherical_jn(1, q * radius) / (q * radius) * np.exp(-0.5 * (q * s) ** 2)


def wimp_si_rate(energy: Array, mass: float, cross_section: float, halo: HaloModel = STANDARD_HALO) -> Array:
    """Return dR/dE of spin-independent WIMP scattering on natural xenon.

    dR/dE = sum_A f_A rho sigma A^2 F_A^2(E) eta(v_min)/(2 m mu_p^2), with f_A the mass fraction of isotope A and
    v_min = sqrt(M_A E/2)/mu_A (Lewin and Smith 1996).

    Parameters
    ----------
    energy
        Recoil energies (n,), keV.
    mass
        WIMP mass, GeV.
    cross_section
        WIMP-nucleon cross-section, cm2.

    Returns
    -------
    Array
        (n,) events per (tonne year keV).
    """
    reduced_proton = mass * PROTON_MASS / (mass + PROTON_MASS)
    total_mass = sum(a * f for a, f in XENON_ISOTOPES.items())
    rate = np.zeros_like(energy)
    for a, abundance in XENON_ISOTOPES.items():
        nucleus = ATOMIC_MASS_UNIT * a
        reduced = mass * nucleus / (mass + nucleus)
        v_min = 299792.458 * np.sqrt(nucleus * energy * 1e-6 / 2) / reduced
        coherent = a**2 * helm_form_factor(energy, a) ** 2 * halo.mean_inverse_speed(v_min)
        rate += a * abundance / total_mass * coherent
    # GeV^-3 cm^-3 cm^2 s/km -> 1/(t yr keV): c^2 turns 1/GeV^2 mass units into speeds, 1 t = 5.6095886e29 GeV.
    prefactor = halo.density * cross_section / (2 * mass * reduced_proton**2)
    return rate * prefactor * RATE_UNIT


KM_TO_CM = 1e5
SPEED_OF_LIGHT = 299792.458 * KM_TO_CM
SECONDS_PER_YEAR = 365.25 * 86400
TONNE = 5.60958860e29
"""GeV."""

RATE_UNIT = SPEED_OF_LIGHT**2 / KM_TO_CM * SECONDS_PER_YEAR * TONNE * 1e-6
"""From (GeV/cm3) cm2 (s/km) / GeV^3 per target mass to events per (tonne year keV)."""


def wimp_si_spectrum(
    mass: float,
    cross_section: float,
    low: float | None = None,
    norm: WimpNorm = "standard",
    halo: HaloModel = STANDARD_HALO,
) -> Spectrum:
    """Return the spin-independent WIMP spectrum above ``low`` keV, on a grid up to its end point (at most 400 keV).

    Parameters
    ----------
    mass
        WIMP mass, 1 to 10000 GeV.
    cross_section
        WIMP-nucleon cross-section, cm2.
    low
        Lowest energy, keV; the rate below is not part of the total. By default 0.5, or half the end point of a light
        WIMP.
    norm
        ``standard``, or ``wimprates`` for the scale of that library (:data:`WIMP_NORMS`).

    Raises
    ------
    ConfigError
        For a mass outside the range, a cross-section that is not positive, an unknown norm, or when the heaviest recoil
        lies below ``low``.
    """
    if norm not in WIMP_NORMS:
        raise ConfigError(unknown_name("norm", norm, WIMP_NORMS, "wimp spectrum"))
    if not 1 <= mass <= 1e4:
        raise ConfigError(f"wimp spectrum: mass = {mass} GeV must be in [1, 10000]")
    if not (cross_section > 0 and math.isfinite(cross_section)):
        raise ConfigError(f"wimp spectrum: cross_section = {cross_section} cm2 must be > 0")
    v_max = (halo.v_escape + halo.v_lab) / 299792.458
    end = max(2e6 * (v_max * mass * m / (mass + m)) ** 2 / m for m in (ATOMIC_MASS_UNIT * a for a in XENON_ISOTOPES))
    low = min(0.5, end / 2) if low is None else low
    if not 0 <= low < end:
        raise ConfigError(
            f"wimp spectrum: {mass:g} GeV give recoils up to {end:.3g} keV; low = {low} keV must be below"
        )
    energy = np.linspace(low, min(end, 400.0), 4001)
    rate = wimp_si_rate(energy, mass, cross_section, halo) * WIMP_NORMS[norm]
    return Spectrum(f"wimp_si_{mass:g}GeV", tuple(energy.tolist()), tuple(np.maximum(rate, 0.0).tolist()))


NEUTRINO_NORMS: dict[str, float] = {"xenonnt": 0.907, "nest": 1.0}
"""Scale of the 8B rate: ``xenonnt`` matches the table of arXiv:2409.17868, 335.6 events/(t yr) above 0.45 keV."""


def cevns_b8_rate(energy: Array) -> Array:
    """Return dR/dE of solar 8B neutrinos scattering coherently on xenon, events per (tonne year keV), 0 < E < 5 keV.

    The parametrisation of NEST (arXiv:2211.10726; its source code, B8 spectrum).
    """
    e = np.minimum(energy, 5.0)
    log10 = 3.4155 - 1.2184 * e + 0.32849 * e**2 - 0.12441 * e**3 - 2.2965e-13 * np.exp(7.4129 * e)
    return np.where(energy < 5.0, 10.0 ** np.maximum(log10, -300.0), 0.0)


def cevns_b8_spectrum(low: float = 0.5, norm: NeutrinoNorm = "xenonnt") -> Spectrum:
    """Return the solar 8B recoil spectrum above ``low`` keV.

    Raises
    ------
    ConfigError
        For an unknown norm, or low outside [0, 4.5) keV.
    """
    if norm not in NEUTRINO_NORMS:
        raise ConfigError(unknown_name("norm", norm, NEUTRINO_NORMS, "8B spectrum"))
    if not 0 <= low < 4.5:
        raise ConfigError(f"8B spectrum: low = {low} keV must be in [0, 4.5)")
    energy = np.linspace(low, 5.0, 2001)
    rate = cevns_b8_rate(energy) * NEUTRINO_NORMS[norm]
    return Spectrum("cevns_b8", tuple(energy.tolist()), tuple(rate.tolist()))


def neutron_spectrum(rate: float, low: float = 0.5, high: float = 200.0) -> Spectrum:
    """Return a generic radiogenic-neutron spectrum of ``rate`` events per tonne-year over all energies.

    A sum of two exponentials, 55 % with a slope of 4.5 keV and 45 % with 20 keV: the shape that simulations of
    radiogenic neutrons show, not those of a particular detector. Calibration sources need a table.

    Raises
    ------
    ConfigError
        Unless 0 <= low < high.
    """
    if not 0 <= low < high:
        raise ConfigError(f"neutron spectrum: 0 <= low = {low} < high = {high} keV must hold")
    energy = np.linspace(low, high, 4001)
    density = rate * (0.55 * np.exp(-energy / 4.5) / 4.5 + 0.45 * np.exp(-energy / 20.0) / 20.0)
    return Spectrum("neutron", tuple(energy.tolist()), tuple(density.tolist()))
