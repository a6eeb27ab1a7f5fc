"""Validating the simulator: against NEST (mean yields, quanta, bands, S1 finding) and against published templates.

Each comparison has a tolerance. It passes if the difference exceeds it by less than two standard errors of the
simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from surrogate.beta_spectra import flat_spectrum
from surrogate.errors import ConfigError
from surrogate.template_io import read_templates
from training.nest_reference import NestReference
from training.simulator.catalogue import standard_source
from training.simulator.detector import Detector
from training.simulator.simulate import simulate
from training.simulator.sources import Recoil, RecoilSource
from training.simulator.theta import nominal_theta, split_theta
from training.simulator.tpc import FixedTruth

Array = NDArray[np.float64]

FIELDS = (23.0, 193.0, 310.0)
"""Drift fields, V/cm: XENONnT's, LZ's, and LZ's design."""


YIELD_ENERGIES: Mapping[Recoil, tuple[float, ...]] = {
    "er": (1.0, 2.0, 5.0, 10.0, 25.0),
    "nr": (1.0, 2.0, 5.0, 10.0, 30.0, 100.0),
}
QUANTA_ENERGIES: Mapping[Recoil, tuple[float, ...]] = {"er": (1.0, 5.0, 20.0), "nr": (1.0, 5.0, 30.0)}
FINDING_ENERGIES: Mapping[Recoil, tuple[float, ...]] = {"er": (1.0, 2.0, 5.0), "nr": (2.0, 3.0, 5.0, 10.0)}
BAND_ENERGIES: Mapping[Recoil, tuple[float, float]] = {"er": (0.3, 12.0), "nr": (1.0, 40.0)}
"""Recoil energies of the comparisons, keV; of the bands the ends of a flat spectrum."""


@dataclass(frozen=True)
class Comparison:
    """One number of the simulator against its reference.

    ``difference`` and ``tolerance`` are relative, or absolute where ``absolute`` says so; ``error`` is the standard
    error of the difference.
    """

    what: str
    ours: float
    reference: float
    error: float
    tolerance: float
    absolute: bool = False

    @property
    def difference(self) -> float:
        """Ours minus reference, or their ratio minus one."""
        return self.ours - self.reference if self.absolute else self.ours / self.reference - 1

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance, two standard errors granted."""
        return abs(self.difference) <= self.tolerance + 2 * self.error


@dataclass(frozen=True)
class SimulatorReport:
    """All comparisons; ``passed`` when each of them did."""

    comparisons: tuple[Comparison, ...]

    @property
    def passed(self) -> bool:
        """Whether every comparison passed."""
        return all(c.passed for c in self.comparisons)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        rows = [{**asdict(c), "difference": c.difference, "passed": c.passed} for c in self.comparisons]
        return {"passed": self.passed, "comparisons": rows}


def compare_yields(field: float, like: Detector) -> list[Comparison]:
    """Compare mean quanta with NEST's, ER from 1 to 25 keV and NR from 1 to 100 keV: within 0.5 %."""
    nest = NestReference(field)
    detector, _ = nest.detector(like)
    found = []
    for recoil, energies in YIELD_ENERGIES.items():
        source = _source(recoil, detector)
        theta = split_theta(nominal_theta(detector), torch.zeros(0, dtype=torch.float64))
        mean = source.mean_quanta(torch.tensor(energies, dtype=torch.float64), theta)
        for k, energy in enumerate(energies):
            reference = nest.mean_quanta(recoil, energy)
            ours = float(mean.photons[k]), float(mean.electrons[k])
            for name, a, b in zip(("photons", "electrons"), ours, reference, strict=True):
                found.append(Comparison(f"{recoil} {energy:g} keV {field:g} V/cm: mean {name}", a, b, 0.0, 0.005))
    return found


def _source(recoil: Recoil, detector: Detector) -> RecoilSource:
    return RecoilSource(recoil, detector, recoil, flat_spectrum(1.0, 60.0, 1.0))


def compare_quanta(field: float, like: Detector, n: int = 20000) -> list[Comparison]:
    """Compare mean, standard deviation and correlation of the quanta with NEST's: within 1 %, 2 % and 0.03."""
    nest = NestReference(field)
    nest.seed(1)
    detector, _ = nest.detector(like)
    found = []
    for recoil, energies in QUANTA_ENERGIES.items():
        source = _source(recoil, detector)
        theta = split_theta(nominal_theta(detector), torch.zeros(0))
        for energy in energies:
            generator = torch.Generator().manual_seed(1)
            drawn = source.draw_quanta(torch.full((20 * n,), energy), theta, generator)
            ours, reference = torch.stack(drawn, dim=1).double().numpy(), nest.quanta(recoil, energy, n)
            found += _moments(f"{recoil} {energy:g} keV {field:g} V/cm", ours, reference)
    return found


def _moments(where: str, ours: Array, reference: Array) -> list[Comparison]:
    """Compare the first two moments of two samples (n, 2) of photons and electrons."""
    found, n = [], len(reference)
    for k, name in enumerate(("photons", "electrons")):
        a, b = ours[:, k], reference[:, k]
        mean, std = float(b.mean()), float(b.std())
        kurtosis = float(((b - mean) ** 4).mean()) / std**4
        found.append(Comparison(f"{where}: <{name}>", float(a.mean()), mean, std / mean / n**0.5, 0.01))
        found.append(Comparison(f"{where}: std {name}", float(a.std()), std, ((kurtosis - 1) / (4 * n)) ** 0.5, 0.02))
    what = f"{where}: correlation"
    found.append(Comparison(what, _correlation(ours), _correlation(reference), 1 / n**0.5, 0.03, absolute=True))
    return found


def _correlation(sample: Array) -> float:
    first, second = ((sample - sample.mean(axis=0)) / sample.std(axis=0)).T
    return float((first * second).mean())


BAND_BINS = ((3.0, 6.0), (6.0, 10.0), (20.0, 30.0))
"""cS1 bins, phd."""

BAND_QUANTILES = (0.1, 0.5, 0.9)


def compare_bands(field: float, like: Detector, n: int = 300_000) -> list[Comparison]:
    """Compare the 10, 50 and 90 % quantiles of cS2 in bins of cS1 with NEST's full calculation: within 1.5 %."""
    nest = NestReference(field)
    nest.seed(1)
    detector, z = nest.detector(like)
    found = []
    for recoil, (low, high) in BAND_ENERGIES.items():
        rng = np.random.default_rng(1)
        theirs = nest.signals(recoil, rng.uniform(low, high, n))
        energy = torch.from_numpy(rng.uniform(low, high, 4 * n)).float()
        truth: FixedTruth = {"energy": energy, "r": 0.0, "z": z}
        events = simulate(_source(recoil, detector), 4 * n, nominal_theta(detector), 1, truth)
        cs1, cs2 = (events[name].double().numpy() for name in ("cs1", "cs2"))
        for first, last in BAND_BINS:
            ours = cs2[(cs1 >= first) & (cs1 < last)]
            reference = theirs.s2[theirs.found & (theirs.s1 >= first) & (theirs.s1 < last)]
            where = f"{recoil} {field:g} V/cm: cs2 in cs1 [{first:g}, {last:g}) phd"
            found += [_quantile(where, ours, reference, q) for q in BAND_QUANTILES]
    return found


def _quantile(where: str, ours: Array, reference: Array, q: float) -> Comparison:
    """Compare one quantile; its error comes from the order statistics of the reference."""
    width = (q * (1 - q) / len(reference)) ** 0.5
    low, value, high = np.quantile(reference, [max(q - width, 0), q, min(q + width, 1)])
    error = (high - low) / (2 * value)
    return Comparison(f"{where}, {100 * q:g} %", float(np.quantile(ours, q)), float(value), float(error), 0.015)


def compare_finding(field: float, like: Detector, n: int = 20_000) -> list[Comparison]:
    """Compare the probability to find the S1 with NEST's full calculation: within 0.01."""
    nest = NestReference(field)
    nest.seed(1)
    detector, z = nest.detector(like)
    found = []
    for recoil, energies in FINDING_ENERGIES.items():
        for energy in energies:
            reference = float(nest.signals(recoil, np.full(n, energy)).found.mean())
            truth: FixedTruth = {"energy": energy, "r": 0.0, "z": z}
            events = simulate(_source(recoil, detector), 10 * n, nominal_theta(detector), 1, truth)
            error = (reference * (1 - reference) / n) ** 0.5
            what = f"{recoil} {energy:g} keV {field:g} V/cm: S1 efficiency"
            found.append(Comparison(what, len(events["index"]) / (10 * n), reference, error, 0.01, absolute=True))
    return found


SHIFTS = ((-3, 0), (-1, 0), (1, 0), (3, 0), (0, -3), (0, -1), (0, 1), (0, 3), (1, 1), (-1, -1))
"""(t_ly, t_qy) at which rates are compared."""


def compare_release(release: Path, detector: Detector, n: int = 1 << 22) -> list[Comparison]:
    """Compare mu(t_ly, t_qy)/mu(0, 0) of solar 8B with XENONnT's templates: within 4 %.

    Parameters
    ----------
    release
        Directory of the data release of arXiv:2409.17868.
    detector
        The light-WIMP detector.

    Raises
    ------
    DataError
        If a template is missing.
    """
    source = standard_source("cevns_b8", detector)

    def kept(t_ly: float, t_qy: float) -> int:
        theta = nominal_theta(detector)
        theta[0], theta[1] = t_ly, t_qy
        return len(simulate(source, n, theta, 1)["index"])

    centre = kept(0, 0)
    found = []
    for t_ly, t_qy in SHIFTS:
        shifted = kept(t_ly, t_qy)
        for run in ("sr0", "sr1"):
            reference = _template_sum(release, run, t_ly, t_qy) / _template_sum(release, run, 0, 0)
            error = (1 / shifted + 1 / centre) ** 0.5
            what = f"8B {run} rate at t_ly = {t_ly}, t_qy = {t_qy}"
            found.append(Comparison(what, shifted / centre, reference, error, 0.04))
    return found


def _template_sum(release: Path, run: str, t_ly: float, t_qy: float) -> float:
    path = release / "b8" / f"template_XENONnT_{run}_b8_cevns_tly_{t_ly:.1f}_tqy_{t_qy:.1f}.h5"
    return sum(template.total for template in read_templates(path).values())


NEST_CHECKS: Mapping[str, Callable[[float, Detector], list[Comparison]]] = {
    "yields": compare_yields,
    "quanta": compare_quanta,
    "bands": compare_bands,
    "finding": compare_finding,
}


def validate_simulator(
    like: Detector,
    light: Detector | None = None,
    release: Path | None = None,
    nest: bool = True,
    fields: tuple[float, ...] = FIELDS,
) -> SimulatorReport:
    """Compare the simulator with its references.

    Parameters
    ----------
    like
        A detector from which those properties are taken that NEST's detector does not fix.
    light, release
        The light-WIMP detector and the directory of the XENONnT release; both, or no comparison with templates.
    nest
        Whether to compare with NEST, which needs nestpy and about two minutes.
    fields
        Drift fields, V/cm.

    Raises
    ------
    ConfigError
        If NEST is asked for and not installed, or nothing is left to compare with.
    DataError
        If a template of the release is missing.
    """
    found: list[Comparison] = []
    for field in fields if nest else ():
        for check in NEST_CHECKS.values():
            found += check(field, like)
    if light is not None and release is not None:
        found += compare_release(release, light)
    if not found:
        raise ConfigError("validate: nothing to compare with; give the release, or compare with NEST")
    return SimulatorReport(tuple(found))
