"""Recoil spectra from the library wimprates: spin-dependent interactions, the Migdal effect, and a check of our own."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np

from surrogate.errors import ConfigError
from surrogate.spectrum import Spectrum


def _library() -> Any:
    """Return wimprates, loaded on demand: importing it takes a second, and it announces its halo model as a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("wimprates")


def wimprates_spectrum(
    mass: float,
    cross_section: float,
    low: float,
    high: float,
    interaction: str = "SI",
    mechanism: str = "elastic_nr",
    points: int = 200,
) -> Spectrum:
    """Return a spectrum computed by wimprates with its default halo (arXiv:2105.00599).

    Parameters
    ----------
    mass
        WIMP mass, GeV.
    cross_section
        WIMP-nucleon cross-section, cm2.
    low, high
        Energies, keV; logarithmically spaced points between them.
    interaction
        ``SI``, ``SD_n_central``, ``SD_p_central``, ...: names of the library.
    mechanism
        ``elastic_nr``, or ``migdal`` (an electronic recoil), ``bremsstrahlung``.
    points
        Number of energies; the library takes 10 to 200 ms each.

    Raises
    ------
    ConfigError
        If the library rejects the request, or the energies are not 0 < low < high.
    """
    if not 0 < low < high:
        raise ConfigError(f"wimprates spectrum: 0 < low = {low} < high = {high} keV must hold")
    energy = np.geomspace(low, high, points)
    try:
        rate = _library().rate_wimp_std(
            energy, mass, cross_section, interaction=interaction, detection_mechanism=mechanism
        )
    except (ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise ConfigError(f"wimprates spectrum of {mass} GeV, {interaction}, {mechanism}: {error}") from error
    name = f"wimprates_{interaction}_{mechanism}_{mass:g}GeV"
    return Spectrum(name, tuple(energy.tolist()), tuple(np.maximum(rate, 0.0).tolist()))
