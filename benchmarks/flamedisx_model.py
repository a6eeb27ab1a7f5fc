"""The default sources of flamedisx 2.1.0 (arXiv:2003.12483), summed directly in float64 and simulated.

Both start from energies E on a grid, all alike in rate, and make N quanta of W = 13.7 eV:

    ER  N = floor(E/W), E at 1000 points of [0, 10] keV;   NR  N ~ Poisson(E L(E)/W), 100 points of [0.7, 150] keV,

with the quenching L of Lindhard (k = 0.138). n_e of them are electrons, the rest n_ph photons:

    ER  n_ph ~ BetaBinomial(N; mean 1 - p(N), standard deviation 0.041 (1 - exp(-N/123))),
    NR  n_e ~ Binomial(N, p(N)),

p(N) for NR after Lenardo et al., arXiv:1412.4417. An event at drift time t, uniform in [0, T], then has

    n ~ Binomial(n_ph, g1) photons detected,       m - n ~ Binomial(n, 0.219),  S1 ~ Normal(m, 0.25 m) PE,
    k ~ Binomial(n_e, 0.96 exp(-t/elife)),         S2 ~ Normal(20 k, 25 k) PE,

and is accepted for n >= 3, 2 <= S1 <= 70, 2 <= S2 <= 6000. The differential rate per generated event,

    d^2 eps/dS1 dS2 = sum_{n_e, n_ph} P(n_e, n_ph) p(S1 | n_ph, g1) p(S2 | n_e, t, elife),

is summed over all numbers of quanta; of electrons k, those within eight standard deviations of S2/20 are.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln
from scipy.stats import norm, poisson

Array = NDArray[np.float64]

WORK = 13.7e-3  # keV per quantum
DOUBLE_PE = 0.219
EXTRACTION = 0.96
S1_WINDOW, S2_WINDOW = (2.0, 70.0), (2.0, 6000.0)
DRIFT_LENGTH = 97.6 / 0.1335  # us
PHOTONS = np.arange(3, 110)
"""Photons detected n: more never make an S1 in the window."""
PHOTOELECTRONS = np.arange(3, 140)
"""Photoelectrons m."""
CHUNK = 64
"""Events summed at a time."""


class Recoils(NamedTuple):
    """Accepted events: S1 [PE], S2 [PE], drift time [us]."""

    s1: Array
    s2: Array
    time: Array


class RecoilModel:
    """Electronic (``er``) or nuclear (``nr``) recoils.

    Parameters
    ----------
    kind
        ``er`` or ``nr``.
    """

    def __init__(self, kind: Literal["er", "nr"]) -> None:
        self.kind = kind
        self._quanta = _er_quanta() if kind == "er" else _nr_quanta()
        self._share = _electron_share(kind, np.arange(len(self._quanta)))
        self._split = _split(kind, self._quanta, self._share)
        n_e, n_ph = (np.arange(size) for size in self._split.shape)
        self._n_ph = n_ph
        self._log_ways = _log_choose(n_e[None], np.arange(len(n_e))[:, None])
        self._doubled = np.exp(_log_binomial(PHOTONS[:, None], PHOTOELECTRONS - PHOTONS[:, None], np.array(DOUBLE_PE)))

    def density(self, events: Recoils, elife: float, *g1: float) -> Array:
        """Return the differential rates (G, n) per generated event, per PE^2, at the drift times of the events."""
        smeared = norm.pdf(events.s1[:, None], PHOTOELECTRONS, 0.5 * np.sqrt(PHOTOELECTRONS))
        by_photons = [self._light(gain, smeared) for gain in g1]
        survival = EXTRACTION * np.exp(-events.time / elife)
        found = np.empty((len(g1), len(survival)))
        for first in range(0, len(survival), CHUNK):
            part = slice(first, first + CHUNK)
            by_electrons = self._charge(events.s2[part], survival[part]) @ self._split
            found[:, part] = [(by_electrons * light[part]).sum(axis=1) for light in by_photons]
        return found

    def acceptance(self, elife: float, g1: float) -> float:
        """Return the share of generated events that is accepted, by Gauss-Legendre quadrature in drift time."""
        edges = norm.cdf(np.array(S1_WINDOW)[:, None], PHOTOELECTRONS, 0.5 * np.sqrt(PHOTOELECTRONS))
        by_electrons = self._split @ self._light(g1, np.diff(edges, axis=0))[0]
        k = np.arange(1, len(by_electrons))
        inside = np.diff(norm.cdf(np.array(S2_WINDOW)[:, None], 20.0 * k, 5.0 * np.sqrt(k)), axis=0)[0]
        nodes, weights = np.polynomial.legendre.leggauss(24)
        total = 0.0
        for node, weight in zip(nodes, weights, strict=True):
            survival = np.array(EXTRACTION * np.exp(-DRIFT_LENGTH * (node + 1) / 2 / elife))
            detected = np.exp(_log_binomial(np.arange(len(by_electrons))[None], k[:, None], survival))
            total += weight / 2 * float(inside @ detected @ by_electrons)
        return total

    def simulate(self, n: int, elife: float, g1: float, rng: np.random.Generator) -> Recoils:
        """Return the accepted ones of n generated events."""
        total = rng.choice(len(self._quanta), n, p=self._quanta / self._quanta.sum())
        share = self._share[total]
        if self.kind == "er":
            share = 1.0 - rng.beta(*_beta(total, share))
        n_e = rng.binomial(total, share)
        time = rng.random(n) * DRIFT_LENGTH
        photons = rng.binomial(total - n_e, g1)
        m = photons + rng.binomial(photons, DOUBLE_PE)
        k = rng.binomial(n_e, EXTRACTION * np.exp(-time / elife))
        s1 = rng.normal(m, 0.5 * np.sqrt(m))
        s2 = rng.normal(20.0 * k, 5.0 * np.sqrt(k))
        inside = (S1_WINDOW[0] <= s1) & (s1 <= S1_WINDOW[1]) & (S2_WINDOW[0] <= s2) & (s2 <= S2_WINDOW[1])
        kept = inside & (photons >= PHOTONS[0])
        return Recoils(s1[kept], s2[kept], time[kept])

    def _light(self, g1: float, by_photoelectrons: Array) -> Array:
        """Return sums (n, n_ph) over photons and photoelectrons of what is given (n, m) of the latter."""
        detected = np.exp(_log_binomial(self._n_ph[None], PHOTONS[:, None], np.array(g1)))
        return by_photoelectrons @ self._doubled.T @ detected

    def _charge(self, s2: Array, survival: Array) -> Array:
        """Return p(S2 | n_e) (n, n_e)."""
        half = int(8 * 0.25 * np.sqrt(s2.max() / 20)) + 8
        k = np.rint(s2 / 20).astype(int)[:, None] + np.arange(-half, half + 1)
        possible = (k >= 1) & (k < len(self._log_ways))
        k = np.where(possible, k, 1)
        log_gain = norm.logpdf(s2[:, None], 20.0 * k, 5.0 * np.sqrt(k))
        odds = np.log(survival) - np.log1p(-survival)
        log_k = np.where(possible, log_gain + k * odds[:, None], -np.inf)
        log_lost = np.arange(self._log_ways.shape[1]) * np.log1p(-survival)[:, None]
        summed: Array = np.exp(self._log_ways[k] + log_k[..., None] + log_lost[:, None]).sum(axis=1)
        return summed


def _er_quanta() -> Array:
    """Return P(N) (N,) of electronic recoils; the energies are float32, as flamedisx's are."""
    energy = np.linspace(0.0, 10.0, 1000, dtype=np.float32).astype(np.float64)
    counts: Array = np.bincount(np.floor(energy / WORK).astype(int)) / 1000.0
    return counts


def _nr_quanta() -> Array:
    """Return P(N) (N,) of nuclear recoils, up to eight standard deviations above the largest mean."""
    energy = np.linspace(0.7, 150.0, 100)
    reduced = energy * 11.5 * 54.0 ** (-7 / 3)
    g = 3.0 * reduced**0.15 + 0.7 * reduced**0.6 + reduced
    mean = energy * 0.138 * g / (1 + 0.138 * g) / WORK
    largest = int(mean.max() + 8 * np.sqrt(mean.max()))
    found: Array = poisson.pmf(np.arange(largest + 1)[:, None], mean).mean(axis=1)
    return found


def _electron_share(kind: str, quanta: NDArray[np.int64]) -> Array:
    """Return p(N) (N,), the mean share of electrons."""
    if kind == "er":
        decades = np.log10(quanta * WORK / 5.0 + 1e-9)
        share = WORK * (15.0 * decades**2 - 27.7 * decades + 32.5)
    else:
        n = quanta + 1e-9
        ions = n / (1 + 1.280 * 120.0**-0.045 * (1 - np.exp(-273 * 0.9e-4 * n)))
        box = ions * 0.0141 * 120.0**-0.062
        share = ions * np.log1p(box) / box / n
    clipped: Array = np.clip(share, 1e-10, 1 - 1e-10)
    return clipped


def _beta(quanta: NDArray[np.int64], share: Array) -> tuple[Array, Array]:
    """Return the parameters (N,) of the beta distribution of the share of photons, kept unimodal."""
    mean = 1.0 - share
    variance = np.square(0.041 * (1 - np.exp(-quanta / 123.0)))
    largest = np.maximum((mean - 1) ** 2 * mean / (2 - mean), mean**2 * (1 - mean) / (1 + mean))
    variance = np.clip(variance, 1e-10, largest)
    a = ((1 - mean) / variance - 1 / mean) * mean**2
    return a, a * (1 / mean - 1)


def _split(kind: str, quanta: Array, share: Array) -> Array:
    """Return P(n_e, n_ph), without the numbers that do not occur (< 1e-14)."""
    number = np.arange(len(quanta))
    n_e, n_ph = np.meshgrid(number, number, indexing="ij")
    possible = n_e + n_ph < len(quanta)
    n = np.where(possible, n_e + n_ph, 0)
    n_ph = np.where(possible, n_ph, 0)
    if kind == "er":
        a, b = (part[n] for part in _beta(number, share))
        log = _log_choose(n, n_ph) + gammaln(n_ph + a) + gammaln(n - n_ph + b) + gammaln(a + b)
        log -= gammaln(a) + gammaln(b) + gammaln(n + a + b)
    else:
        log = _log_binomial(n, n_ph, 1.0 - share[n])
    joint = np.where(possible, np.exp(log) * quanta[n], 0.0)
    last = [int(np.flatnonzero(joint.sum(axis=axis) > 1e-14).max()) + 1 for axis in (1, 0)]
    return joint[: last[0], : last[1]]


def _log_choose(n: NDArray[np.int64], k: NDArray[np.int64]) -> Array:
    """Return ln(n over k), -inf where k is not in 0 .. n."""
    n, k = np.broadcast_arrays(n, k)
    possible = (k >= 0) & (k <= n)
    n, k = np.where(possible, n, 0), np.where(possible, k, 0)
    return np.where(possible, gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0), -np.inf)


def _log_binomial(n: NDArray[np.int64], k: NDArray[np.int64], p: Array) -> Array:
    """Return ln Binomial(k; n, p)."""
    log: Array = _log_choose(n, k) + k * np.log(p) + (n - k) * np.log1p(-p)
    return log
