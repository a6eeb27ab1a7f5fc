"""The sources of a default search, by name: what most analyses start from."""

from __future__ import annotations

import re

from surrogate.beta_spectra import flat_spectrum
from surrogate.errors import ConfigError, unknown_name
from surrogate.nuclear_spectra import cevns_b8_spectrum, neutron_spectrum, wimp_si_spectrum
from training.simulator.accidentals import AccidentalSource, ParametricSignals
from training.simulator.detector import Detector
from training.simulator.simulate import with_accepted_rate
from training.simulator.sources import EventSource, RecoilSource
from training.simulator.wall import WallSource

ER_RANGE = (0.05, 25.0)
"""Energies of the flat electronic-recoil source, keV: beyond any cS1 window below 120 PE."""

WIMP_CROSS_SECTION = 1e-47
"""Cross-section to which WIMP rates refer, cm2."""

LOWEST_WIMP_ENERGY: dict[str, float | None] = {"nest": None, "ybe": 0.3}
LOWEST_B8_ENERGY: dict[str, float] = {"nest": 0.5, "ybe": 0.45}
"""Lowest recoil energies by yield model, keV; None for the default of the spectrum.

With threefold coincidence nothing is found below 0.5 keV. In the low-energy search the upper edge of the YBe band
reaches further down; its published spectra begin at these energies (data release of arXiv:2409.17868).
"""

STANDARD_SOURCES: tuple[str, ...] = ("er", "nr", "cevns_b8", "ac", "wall", "wimp<mass in GeV>")


def standard_source(name: str, detector: Detector) -> EventSource:
    """Return a source of the default search.

    ``er``: flat electronic recoils at the detector's rate; ``nr``: radiogenic neutrons; ``cevns_b8``: solar neutrinos;
    ``ac``: accidental coincidences and ``wall``: decays on the wall, both at the rate that passes the cuts;
    ``wimp50``: spin-independent WIMPs of 50 GeV at 1e-47 cm2, and so for any mass.

    Raises
    ------
    ConfigError
        For a name that is none of these, or a background whose rate the detector does not give.
    """
    wimp = re.fullmatch(r"wimp_?(\d+(?:\.\d+)?)", name)
    if wimp:
        spectrum = wimp_si_spectrum(float(wimp[1]), WIMP_CROSS_SECTION, LOWEST_WIMP_ENERGY[detector.nr_yields])
        return RecoilSource(name, detector, "nr", spectrum, nr_yields=detector.nr_yields)
    if name == "er":
        return RecoilSource(name, detector, "er", flat_spectrum(*ER_RANGE, background_rate(detector, "er")))
    if name == "nr":
        spectrum = neutron_spectrum(background_rate(detector, "nr"))
        return RecoilSource(name, detector, "nr", spectrum, nr_yields=detector.nr_yields)
    if name == "cevns_b8":
        spectrum = cevns_b8_spectrum(LOWEST_B8_ENERGY[detector.nr_yields])
        return RecoilSource(name, detector, "nr", spectrum, nr_yields=detector.nr_yields)
    if name == "ac":
        pairs = AccidentalSource(name, detector, 1.0, ParametricSignals())
        return with_accepted_rate(pairs, background_rate(detector, "ac"))
    if name == "wall":
        decays = WallSource(name, detector, flat_spectrum(*ER_RANGE, 1.0))
        return with_accepted_rate(decays, background_rate(detector, "wall"))
    raise ConfigError(unknown_name("source", name, STANDARD_SOURCES, f"detector '{detector.name}'"))


def background_rate(detector: Detector, name: str) -> float:
    """Return a background rate that the detector gives, in the unit of that background.

    Raises
    ------
    ConfigError
        If it gives none.
    """
    rates = dict(detector.rates)
    if name not in rates:
        known = ", ".join(rates) or "none"
        raise ConfigError(
            f"detector '{detector.name}' gives no rate for '{name}' (given: {known}); add it under 'rates'"
        )
    return rates[name]
