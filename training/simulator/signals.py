"""From quanta to light: photon detection, S1 finding, electron drift and extraction, S2 areas."""

from __future__ import annotations

import torch
from torch import Tensor

from training.simulator.detector import Detector

TABLE_END = 64
"""Numbers of detected photons from here on are always found: with 3 sensors of 248 the loss at 64 is below 1e-100."""


def coincidence_probability(hits: int, n_pmts: int, fold: int) -> float:
    """Return the probability that ``hits`` photons, spread evenly over P sensors, reach at least ``fold`` of them.

    For three: 1 - P^(1 - n) [1 + (P - 1)(2^n - 2)/2], from the ways to put n photons on exactly one or exactly two
    sensors.
    """
    if hits < fold:
        return 0.0
    one = float(n_pmts) ** (1 - hits)
    two = one * (n_pmts - 1) / 2 * (2.0**hits - 2)
    return 1.0 - (one if fold > 1 else 0.0) - (two if fold > 2 else 0.0)


def s1_finding_table(detector: Detector) -> Tensor:
    """Return the probability (TABLE_END + 1,) float32 to find an S1 of 0, 1, 2, ... detected photons."""
    if detector.s1_efficiency:
        values = list(detector.s1_efficiency[: TABLE_END + 1])
        return torch.tensor(values + [1.0] * (TABLE_END + 1 - len(values)), dtype=torch.float32)
    found = [coincidence_probability(n, detector.n_pmts, detector.coincidence) for n in range(TABLE_END + 1)]
    return torch.tensor(found, dtype=torch.float32)


def detect_photons(photons: Tensor, probability: Tensor, generator: torch.Generator) -> Tensor:
    """Draw the number of detected photons, Bin(N_ph, g1 LCE)."""
    return torch.binomial(photons, probability, generator=generator)


def s1_found(hits: Tensor, table: Tensor, generator: torch.Generator) -> Tensor:
    """Return which S1s are found: bool (n,)."""
    u = torch.rand(hits.shape, generator=generator, device=hits.device)
    return u < table.index_select(0, hits.clamp(max=TABLE_END).to(torch.int32))


def s1_area(hits: Tensor, detector: Detector, generator: torch.Generator) -> Tensor:
    """Draw S1 areas, PE: n_pe = n_hit + Bin(n_hit, p_dpe), then the single-photoelectron resolution."""
    double = torch.full_like(hits, detector.double_pe)
    photoelectrons = hits + torch.binomial(hits, double, generator=generator)
    noise = torch.randn(hits.shape, generator=generator, device=hits.device)
    return photoelectrons.addcmul_(photoelectrons.sqrt().mul_(detector.spe_resolution), noise)


def extracted_electrons(
    electrons: Tensor, drift_time: Tensor, elife: Tensor, detector: Detector, generator: torch.Generator
) -> Tensor:
    """Draw the number of extracted electrons, Bin(N_e, ext exp(-t_drift/elife))."""
    survival = (drift_time / -elife).exp_().mul_(detector.extraction)
    return torch.binomial(electrons, survival, generator=generator)


def s2_area(extracted: Tensor, r: Tensor, detector: Detector, generator: torch.Generator) -> Tensor:
    """Draw S2 areas, PE: Gaussian with mean G s2(r) and standard deviation sigma per extracted electron."""
    noise = torch.randn(extracted.shape, generator=generator, device=extracted.device)
    mean = extracted * detector.s2_response(r) * detector.electron_gain
    return mean.addcmul_(extracted.sqrt().mul_(detector.electron_spread), noise)
