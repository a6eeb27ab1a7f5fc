"""What NEST itself gives, through its Python bindings nestpy (optional): the reference of the simulator.

NEST: arXiv:2211.10726. Everything is evaluated in its LZ WS2022 detector, at the centre of the drift region, so that
position maps drop out.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surrogate.errors import ConfigError
from training.simulator.detector import Detector
from training.simulator.sources import Recoil

try:
    import nestpy  # type: ignore[import-not-found,unused-ignore]
except ImportError:  # optional: only the comparison needs it
    nestpy = None

Array = NDArray[np.float64]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the notices that NEST prints from C++."""
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


@dataclass(frozen=True)
class NestSignals:
    """Events of NEST: S1 and S2 at the centre of the detector, phd, and whether the S1 was found; each (n,)."""

    s1: Array
    s2: Array
    found: NDArray[np.bool_]


@dataclass(frozen=True)
class NestReference:
    """NEST at one drift field, V/cm, and one liquid density, g/cm3; the density of the LZ detector by default.

    Raises
    ------
    ConfigError
        If nestpy is not installed.
    """

    field: float
    density: float | None = None

    def __post_init__(self) -> None:
        if nestpy is None:
            raise ConfigError("comparing with NEST needs nestpy; install it with: pip install nestpy")

    @cached_property
    def _detector(self) -> Any:
        return nestpy.detectors.LZ_WS2022()

    @cached_property
    def _nest(self) -> Any:
        return nestpy.NESTcalc(self._detector)

    @cached_property
    def liquid_density(self) -> float:
        """Density of the liquid, g/cm3."""
        if self.density is not None:
            return self.density
        return float(self._nest.GetDensity(self._detector.get_T_Kelvin(), self._detector.get_p_bar()))

    def seed(self, seed: int) -> None:
        """Set the seed of NEST's random numbers, which are global to the process."""
        nestpy.RandomGen.rndm().set_seed(seed)

    def _yields(self, recoil: Recoil, energy: float) -> Any:
        kind = nestpy.interactions.beta if recoil == "er" else nestpy.interactions.NR
        return self._nest.GetYields(kind, energy, self.liquid_density, self.field)

    def mean_quanta(self, recoil: Recoil, energy: float) -> tuple[float, float]:
        """Return the mean numbers of photons and electrons."""
        with _quiet():
            result = self._yields(recoil, energy)
        return float(result.PhotonYield), float(result.ElectronYield)

    def quanta(self, recoil: Recoil, energy: float, n: int) -> Array:
        """Draw n pairs of photons and electrons: (n, 2)."""
        with _quiet():
            mean = self._yields(recoil, energy)
            drawn = [self._nest.GetQuanta(mean, self.liquid_density) for _ in range(n)]
        return np.array([(q.photons, q.electrons) for q in drawn], dtype=np.float64)

    def signals(self, recoil: Recoil, energies: Array) -> NestSignals:
        """Draw one event per energy at the centre of the detector, by NEST's full calculation."""
        detector, nest = self._detector, self._nest
        kind = nestpy.interactions.beta if recoil == "er" else nestpy.interactions.NR
        temperature, pressure, time = detector.get_T_Kelvin(), detector.get_p_bar(), detector.get_dtCntr()
        s1, s2, found = np.zeros(len(energies)), np.zeros(len(energies)), np.zeros(len(energies), dtype=bool)
        with _quiet():
            speed = nest.SetDriftVelocity(temperature, self.liquid_density, self.field, pressure)
            z, gains = detector.get_TopDrift() - speed * time, list(nest.CalculateG2(0))
            at = (0.0, 0.0, z)
            for k, energy in enumerate(energies.tolist()):
                quanta = nest.GetQuanta(self._yields(recoil, energy), self.liquid_density)
                light = nest.GetS1(
                    quanta,
                    *at,
                    *at,
                    speed,
                    speed,
                    kind,
                    k,
                    self.field,
                    energy,
                    nestpy.S1CalculationMode.Full,
                    0,
                    [],
                    [],
                )
                electrons = quanta.electrons
                charge = nest.GetS2(
                    electrons, *at, *at, time, speed, k, self.field, nestpy.S2CalculationMode.Full, 0, [], [], gains
                )
                # NEST marks what was not found by a negative sign; entries 5 and 7 are corrected areas in phd.
                s1[k], s2[k], found[k] = abs(light[5]), abs(charge[7]), light[5] > 0
        return NestSignals(s1, s2, found)

    def detector(self, like: Detector) -> tuple[Detector, float]:
        """Return NEST's detector in our terms, without position dependence or cuts, and the z of its centre, cm."""
        nest, theirs = self._nest, self._detector
        with _quiet():
            speed = nest.SetDriftVelocity(theirs.get_T_Kelvin(), self.liquid_density, self.field, theirs.get_p_bar())
            _, extraction, gain, _, _ = nest.CalculateG2(0)
        velocity = 0.1 * speed
        z = -velocity * theirs.get_dtCntr()
        double = theirs.get_P_dphe()
        height = max(like.height, 1.01 * -z)
        open_cuts = replace(
            like.selection, s2_min=0.0, cs1=(0.0, 1e6), cs2=(1e-3, 1e9), z=(-height, 0.0), r_max=like.radius
        )
        ours = replace(
            like,
            height=height,
            drift_field=self.field,
            drift_velocity=velocity,
            density=self.liquid_density,
            elife=theirs.get_eLife_us(),
            g1=theirs.get_g1(),
            double_pe=double,
            spe_resolution=theirs.get_sPEres(),
            n_pmts=theirs.get_numPMTs(),
            coincidence=theirs.get_coinLevel(),
            extraction=extraction,
            electron_gain=gain * (1 + double),
            light_map=(0.0, 0.0, 0.0, 0.0),
            s2_map=(0.0, 0.0),
            xy_resolution=(0.0, 0.0),
            z_resolution=0.0,
            selection=open_cuts,
        )
        return ours, z
