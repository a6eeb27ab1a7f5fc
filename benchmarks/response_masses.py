"""A response folded with spectra, against events simulated from those spectra: rates, scores and binned densities.

    PYTHONPATH=. python benchmarks/response_masses.py checkpoints/xenon1t_like_response

For every spectrum, at the nominal theta and at four random ones: expected over simulated events minus one, with its
binomial error; the mean score, as the bias of each parameter in standard deviations that 1000 events would leave; and
chi2 per degree of freedom between simulated events and as many drawn from the fold, in bins of cs1, cs2 and z.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from surrogate.checkpoint import load_checkpoint
from surrogate.flow_response import FlowResponse
from surrogate.nuclear_spectra import cevns_b8_spectrum, neutron_spectrum, wimp_si_spectrum
from surrogate.spectrum import Spectrum
from surrogate.spectrum_source import SpectrumSource
from training.simulator.detector import Detector
from training.simulator.simulate import simulate
from training.simulator.sources import RecoilSource
from training.simulator.theta import THETA_NAMES, nominal_theta
from training.simulator_config import read_detector

MASSES = (6, 8, 10, 20, 30, 50, 100, 1000)
SCORED = 4_000
"""Events whose scores are averaged, per theta: the biases then have errors of 0.5."""

MOST = 20_000_000
"""Generated events per theta at most."""

QUANTILES = 6
"""Bins per observable, equally populated."""


def spectra() -> dict[str, Spectrum]:
    """Return the spectra that are compared."""
    wimps = {f"wimp{mass}": wimp_si_spectrum(mass, 1e-47) for mass in MASSES}
    return {**wimps, "cevns_b8": cevns_b8_spectrum(), "neutron": neutron_spectrum(10.0)}


def simulated(
    detector: Detector, spectrum: Spectrum, source: SpectrumSource, theta: Tensor, n: int
) -> tuple[Tensor, float]:
    """Return simulated events (m, D) in the region of interest, and the rate of generated events."""
    recoils = RecoilSource(spectrum.name, detector, "nr", spectrum, detector.nr_yields)
    columns = simulate(recoils, n, theta.float(), seed=5)
    x = torch.stack([columns[name] for name in source.observables.names], dim=-1).double()
    return x[source.observables.contains(x)], recoils.generated_rate


def chi2_per_dof(a: Tensor, b: Tensor) -> float:
    """Return chi2 per degree of freedom of two samples of equal size in bins of the first two and the last column."""
    cell_a, cell_b = torch.zeros(len(a)), torch.zeros(len(b))
    for d in (0, 1, a.shape[1] - 1):
        edges = a[:, d].quantile(torch.linspace(0, 1, QUANTILES + 1, dtype=a.dtype)[1:-1])
        cell_a = cell_a * QUANTILES + torch.bucketize(a[:, d].contiguous(), edges)
        cell_b = cell_b * QUANTILES + torch.bucketize(b[:, d].contiguous(), edges)
    counts_a, counts_b = (torch.bincount(cell.long(), minlength=QUANTILES**3).double() for cell in (cell_a, cell_b))
    used = counts_a + counts_b >= 20
    return float(((counts_a - counts_b).square() / (counts_a + counts_b))[used].sum() / (used.sum() - 1))


@dataclass(frozen=True)
class Row:
    """The measures at one theta."""

    events: int
    mu: float
    ratio: float
    ratio_error: float
    bias: tuple[float, ...]
    chi2_per_dof: float

    def cells(self) -> str:
        """Return the row of a table."""
        bias = ", ".join(f"{b:+.2f}" for b in self.bias)
        ratio = f"{100 * (self.ratio - 1):+.2f} ± {100 * self.ratio_error:.2f}"
        return f"| {self.events} | {self.mu:.3g} | {ratio} | {bias} | {self.chi2_per_dof:.2f} |"


def compare(source: SpectrumSource, detector: Detector, spectrum: Spectrum, theta: Tensor, generated: int) -> Row:
    """Return the measures at one theta (4,)."""
    x, rate = simulated(detector, spectrum, source, theta, generated)
    fraction = len(x) / generated
    mu = float(source.expected_events(theta))
    scored = x[:SCORED]
    _, score = source.score(scored, theta.expand(len(scored), -1))
    information = score.T @ score / len(score)
    bias = 1000**0.5 * score.mean(dim=0) / information.diagonal().sqrt()
    drawn = source.sample(len(x), theta, torch.Generator().manual_seed(3))
    error = ((1 - fraction) / len(x)) ** 0.5
    return Row(len(x), mu, mu / (rate * fraction), error, tuple(bias.tolist()), chi2_per_dof(x, drawn))


def thetas(source: SpectrumSource, detector: Detector, n: int) -> Tensor:
    """Return the nominal theta and n random ones within two thirds of the trained ranges."""
    nominal = nominal_theta(detector)
    low, high = source.nuisances.bounds(nominal)
    u = torch.rand(n, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.cat([nominal.unsqueeze(0), low + (high - low) * (1 + 4 * u) / 6])


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--detector", default="xenon1t_like")
    parser.add_argument("--events", type=int, default=20_000, help="accepted events per spectrum and theta, about")
    parser.add_argument("--thetas", type=int, default=1, help="random thetas besides the nominal one")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    detector = read_detector(options.detector)
    response = FlowResponse(load_checkpoint(options.checkpoint))
    if response.nuisances.names != THETA_NAMES:
        parser.error(f"the response must depend on {', '.join(THETA_NAMES)}")
    console, record = Console(), {}
    console.print("| spectrum | events | mu | mu/simulated - 1 [%] | bias of t_ly, t_qy, elife, g1 | chi2/dof |")
    console.print("|---|---|---|---|---|---|")
    for name, spectrum in spectra().items():
        source = response.fold(spectrum, outside=0.05)
        rows = []
        for theta in thetas(source, detector, options.thetas):
            generated = int(options.events * spectrum.total / float(source.expected_events(theta)))
            row = compare(source, detector, spectrum, theta, min(MOST, generated))
            console.print(f"| {name} {row.cells()}", soft_wrap=True)
            rows.append({"theta": theta.tolist(), **asdict(row)})
        record[name] = rows
    if options.json:
        options.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
