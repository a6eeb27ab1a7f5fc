"""The detector: a two-phase xenon time projection chamber in numbers, and the position dependence of its signals.

Geometry: cylinder of radius R; z = 0 at the liquid surface (gate), z = -H at the cathode. Areas are in PE unless the
detector reports in phd (photons detected), which divides them by 1 + p_dpe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from torch import Tensor

from surrogate.errors import ConfigError

AreaUnit = Literal["PE", "phd"]
YieldModel = Literal["nest", "ybe"]


def _require(condition: bool, what: str, value: object, bound: str) -> None:
    """Raise a ConfigError that names the value and its bound unless the condition holds."""
    if not condition:
        raise ConfigError(f"{what} = {value} must be {bound}")


def _check_finite(record: Any, where: str) -> None:
    """Raise unless every float of a dataclass, also inside tuples, is finite."""
    for item in fields(record):
        value = getattr(record, item.name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise ConfigError(f"{where}: {item.name} = {value} must be finite")


@dataclass(frozen=True)
class EfficiencyCurve:
    """Probability that an event survives the cuts that are not simulated, as a function of one reconstructed column.

    Parameters
    ----------
    column
        A reconstructed column, such as ``cs1``, ``cs2``, ``s2`` or ``drift_time``.
    x, value
        Points, ``x`` increasing; linear between them, constant beyond them. Values in [0, 1].
    """

    column: str
    x: tuple[float, ...]
    value: tuple[float, ...]

    __pydantic_config__: ClassVar[Mapping[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        where = f"efficiency curve of '{self.column}'"
        _check_finite(self, where)
        _require(
            len(self.x) == len(self.value) >= 2, f"{where}: number of points", len(self.x), "two or more, x as value"
        )
        _require(all(a < b for a, b in zip(self.x, self.x[1:], strict=False)), f"{where}: x", self.x, "increasing")
        _require(all(0 <= v <= 1 for v in self.value), f"{where}: value", self.value, "in [0, 1]")


@dataclass(frozen=True)
class Selection:
    """The analysis cuts: an event is kept if it passes all of them.

    Parameters
    ----------
    s2_min
        Threshold on the uncorrected S2 area.
    cs1, cs2
        Windows of the corrected areas.
    r_max
        Fiducial radius, cm, on the reconstructed position.
    z
        Fiducial window in reconstructed z, cm.
    padding_r, padding_z
        Events are generated this far beyond the fiducial volume, cm, so that position resolution moves them both ways.
    efficiency
        Flat probability to survive the cuts that are not simulated.
    curves
        The same as functions of reconstructed columns.
    """

    s2_min: float
    cs1: tuple[float, float]
    cs2: tuple[float, float]
    r_max: float
    z: tuple[float, float]
    padding_r: float = 2.0
    padding_z: float = 0.5
    efficiency: float = 1.0
    curves: tuple[EfficiencyCurve, ...] = ()

    __pydantic_config__: ClassVar[Mapping[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        _check_finite(self, "selection")
        _require(self.s2_min >= 0, "selection: s2_min", self.s2_min, ">= 0")
        _require(0 <= self.cs1[0] < self.cs1[1], "selection: cs1", self.cs1, "0 <= low < high")
        _require(0 < self.cs2[0] < self.cs2[1], "selection: cs2", self.cs2, "0 < low < high")
        _require(self.r_max > 0, "selection: r_max", self.r_max, "> 0")
        _require(self.z[0] < self.z[1] <= 0, "selection: z", self.z, "low < high <= 0")
        _require(self.padding_r >= 0, "selection: padding_r", self.padding_r, ">= 0")
        _require(self.padding_z >= 0, "selection: padding_z", self.padding_z, ">= 0")
        _require(0 < self.efficiency <= 1, "selection: efficiency", self.efficiency, "in (0, 1]")


@dataclass(frozen=True)
class Detector:
    """A xenon time projection chamber with its nominal calibration and analysis cuts.

    Parameters
    ----------
    name
        Such as ``xenonnt_like``.
    radius, height
        Of the active volume, cm.
    drift_field
        V/cm.
    drift_velocity
        cm/us.
    elife
        Nominal electron lifetime, us: the value with which cS2 is corrected.
    g1
        Nominal photon detection probability, phd/photon, averaged over the fiducial volume, without double
        photo-emission.
    double_pe
        Probability p_dpe that a detected photon releases two photoelectrons.
    spe_resolution
        Relative width of the single-photoelectron area.
    n_pmts, coincidence
        Number of photosensors, and how many must see light for an S1 to be found.
    extraction
        Probability to extract an electron that reaches the surface.
    electron_gain, electron_spread
        Mean and standard deviation of the S2 area per extracted electron, PE.
    light_map
        (a1, a2, a3, a4) of the relative light collection 1 + a1 u + a2 u^2 + q (a3 + a4 u), u = (z + H/2)/(H/2),
        q = (r/R)^2, divided by its fiducial mean.
    s2_map
        (b2, b4) of the relative S2 area 1 + b2 q + b4 q^2, divided by its fiducial mean.
    xy_resolution
        (a, b) of the transverse position resolution sqrt(a^2/S2 + b^2), cm, S2 in PE.
    z_resolution
        Resolution of z, cm.
    selection
        The analysis cuts.
    s1_efficiency
        Probability to find an S1 of 0, 1, 2, ... detected photons (1 beyond the table). It replaces the coincidence.
    bottom_fraction
        Fraction of the S2 light in the array from which cS2 is reported.
    area_unit
        ``PE``, or ``phd``: reported areas and cuts are divided by 1 + p_dpe.
    density
        Of liquid xenon, g/cm3.
    nr_yields
        The nuclear-recoil yield model that belongs to the detector, ``nest`` or ``ybe``.
    rates
        Background rates of the default search: ``er`` per (tonne year keV), the others per tonne-year.
    references
        Where the numbers come from.

    Raises
    ------
    ConfigError
        If a value is not physical, or the fiducial volume does not lie in the active one.
    """

    name: str
    radius: float
    height: float
    drift_field: float
    drift_velocity: float
    elife: float
    g1: float
    double_pe: float
    spe_resolution: float
    n_pmts: int
    coincidence: int
    extraction: float
    electron_gain: float
    electron_spread: float
    light_map: tuple[float, float, float, float]
    s2_map: tuple[float, float]
    xy_resolution: tuple[float, float]
    z_resolution: float
    selection: Selection
    s1_efficiency: tuple[float, ...] = ()
    bottom_fraction: float = 1.0
    area_unit: AreaUnit = "PE"
    density: float = 2.862
    nr_yields: YieldModel = "nest"
    rates: Mapping[str, float] = field(default_factory=dict)
    references: tuple[str, ...] = ()

    __pydantic_config__: ClassVar[Mapping[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        where = f"detector '{self.name}'"
        _check_finite(self, where)
        for key in ("radius", "height", "drift_velocity", "elife", "electron_gain"):
            _require(getattr(self, key) > 0, f"{where}: {key}", getattr(self, key), "> 0")
        for key in ("double_pe", "spe_resolution", "electron_spread", "z_resolution"):
            _require(getattr(self, key) >= 0, f"{where}: {key}", getattr(self, key), ">= 0")
        for key in ("g1", "extraction", "bottom_fraction"):
            _require(0 < getattr(self, key) <= 1, f"{where}: {key}", getattr(self, key), "in (0, 1]")
        _require(self.double_pe <= 1, f"{where}: double_pe", self.double_pe, "<= 1")
        _require(1 <= self.drift_field <= 5000, f"{where}: drift_field", self.drift_field, "in [1, 5000] V/cm")
        _require(
            2.5 <= self.density <= 3.2, f"{where}: density", self.density, "that of liquid xenon, [2.5, 3.2] g/cm3"
        )
        _require(self.coincidence in (1, 2, 3), f"{where}: coincidence", self.coincidence, "1, 2 or 3")
        _require(self.n_pmts >= 4, f"{where}: n_pmts", self.n_pmts, ">= 4")
        _require(min(self.xy_resolution) >= 0, f"{where}: xy_resolution", self.xy_resolution, ">= 0")
        _require(
            all(0 <= e <= 1 for e in self.s1_efficiency), f"{where}: s1_efficiency", self.s1_efficiency, "in [0, 1]"
        )
        _require(self.selection.r_max <= self.radius, f"{where}: r_max", self.selection.r_max, f"<= {self.radius}")
        _require(self.selection.z[0] >= -self.height, f"{where}: z", self.selection.z, f">= {-self.height}")
        for key, rate in self.rates.items():
            _require(math.isfinite(rate) and rate >= 0, f"{where}: rates: {key}", rate, "finite and >= 0")
        self._check_maps(where)

    def _check_maps(self, where: str) -> None:
        """Raise unless both maps are positive in the active volume and g1 is a probability at its brightest place.

        Both maps are polynomials of low degree: a grid of 41 x 41 points resolves them.
        """
        light, s2 = self._extremes()
        _require(light[0] > 0, f"{where}: light_map", self.light_map, "positive in the whole active volume")
        _require(s2[0] > 0, f"{where}: s2_map", self.s2_map, "positive in the whole active volume")
        bound = f"<= {1 / light[1]:.4g} (a probability at the brightest place)"
        _require(self.g1 * light[1] <= 1, f"{where}: g1", self.g1, bound)

    def _extremes(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return the smallest and the largest value of the light map and of the S2 map in the active volume."""
        steps = [i / 40 for i in range(41)]
        light = [self._light(2 * u - 1, q) / self._light_mean() for u in steps for q in steps]
        s2 = [self._s2(q) / self._s2_mean() for q in steps]
        return (min(light), max(light)), (min(s2), max(s2))

    def brightest(self) -> float:
        """Return the largest relative light collection in the active volume."""
        return self._extremes()[0][1]

    def _light(self, u: Any, q: Any) -> Any:
        a1, a2, a3, a4 = self.light_map
        return 1 + u * (a1 + a2 * u) + q * (a3 + a4 * u)

    def _s2(self, q: Any) -> Any:
        return 1 + q * (self.s2_map[0] + self.s2_map[1] * q)

    def _light_mean(self) -> float:
        """Return the fiducial mean of the light map: moments of u over the z window and of q over the disc."""
        low, high = ((z + self.height / 2) / (self.height / 2) for z in self.selection.z)
        u1 = (low + high) / 2
        u2 = (low * low + low * high + high * high) / 3
        q1 = (self.selection.r_max / self.radius) ** 2 / 2
        a1, a2, a3, a4 = self.light_map
        return 1 + a1 * u1 + a2 * u2 + q1 * (a3 + a4 * u1)

    def _s2_mean(self) -> float:
        q1 = (self.selection.r_max / self.radius) ** 2 / 2
        q2 = (self.selection.r_max / self.radius) ** 4 / 3
        return 1 + self.s2_map[0] * q1 + self.s2_map[1] * q2

    def light_collection(self, r: Tensor, z: Tensor) -> Tensor:
        """Return the relative light collection at (r, z), cm; its fiducial mean is 1."""
        half = self.height / 2
        return self._light((z + half) * (1 / half), (r * (1 / self.radius)).square()) * (1 / self._light_mean())

    def s2_response(self, r: Tensor) -> Tensor:
        """Return the relative S2 area at radius r, cm; its fiducial mean is 1."""
        return self._s2((r * (1 / self.radius)).square()) * (1 / self._s2_mean())

    @property
    def area_scale(self) -> float:
        """PE per reported unit of area: 1, or 1 + p_dpe for a detector that reports phd."""
        return 1.0 if self.area_unit == "PE" else 1.0 + self.double_pe

    def generation_volume(self) -> tuple[float, float, float]:
        """Return (r_max, z_low, z_high) of the volume in which events are generated: fiducial plus padding."""
        s = self.selection
        return (
            min(s.r_max + s.padding_r, self.radius),
            max(s.z[0] - s.padding_z, -self.height),
            min(s.z[1] + s.padding_z, 0.0),
        )

    def volume_ratio(self) -> float:
        """Return the volume in which events are generated over the fiducial volume."""
        r, low, high = self.generation_volume()
        fiducial = self.selection.r_max**2 * (self.selection.z[1] - self.selection.z[0])
        return r**2 * (high - low) / fiducial
