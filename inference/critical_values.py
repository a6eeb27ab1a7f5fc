"""Critical values c(mu) of a test statistic: from its asymptotic law, or from toys at grid points, smoothed in mu.

At each grid point the CL-quantile of t over toys made at that mu has a known error. A polynomial in mu is fitted to
these quantiles by weighted least squares; its degree minimises AICc (Hurvich and Tsai, Biometrika 76 (1989) 297,
doi:10.1093/biomet/76.2.297). Points have independent toys, so the covariance of the coefficients gives the error of c
at any mu. Where t is discrete, c(mu) jumps, and joining the points by straight lines is the honest choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from inference.counting import Quantile, check_level
from surrogate.errors import ConfigError, unknown_name

Smoothing = Literal["polynomial", "linear"]
SMOOTHINGS: tuple[str, ...] = ("polynomial", "linear")

MAX_DEGREE = 5

#: Critical values are at least this, so that the best fit, where the statistic vanishes, is always inside.
FLOOR = 1e-6


@dataclass(frozen=True)
class CriticalCurve:
    """Critical values on a grid of the parameter of interest, and the smooth curve through them.

    Attributes
    ----------
    poi
        The parameter of interest.
    cl
        Confidence level.
    statistic
        Name of the test statistic.
    mu
        Grid points, increasing.
    value, low, high
        Quantiles of t with their one-sigma intervals, per grid point.
    n_toys, n_failed
        Toys per grid point, and how many of them have no valid fit.
    start
        First grid point whose quantile is not zero. One-sided statistics vanish at mu = 0; from there to ``start`` the
        curve is a straight line.
    coefficients
        Of the polynomial in (2 mu - a - b)/(b - a), a = start, b = the last grid point, lowest order first; empty for
        straight lines everywhere.
    covariance
        Of the coefficients.
    """

    poi: str
    cl: float
    statistic: str
    mu: tuple[float, ...]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n_toys: tuple[int, ...]
    n_failed: tuple[int, ...]
    start: float
    coefficients: tuple[float, ...] = ()
    covariance: tuple[tuple[float, ...], ...] = ()

    def __call__(self, mu: Tensor) -> Tensor:
        """Return c at mu (*,), positive; beyond the grid the value at its end."""
        x = mu.detach().cpu().to(torch.float64).numpy()
        return torch.from_numpy(np.maximum(self._evaluate(x), FLOOR)).to(mu)

    def _evaluate(self, mu: np.ndarray) -> np.ndarray:
        inside = np.clip(mu, self.mu[0], self.mu[-1])
        if not self.coefficients:
            return np.interp(inside, self.mu, self.value)
        smooth = np.maximum(inside, self.start)
        curve = np.maximum(np.polynomial.polynomial.polyval(self._scaled(smooth), np.asarray(self.coefficients)), 0.0)
        if self.start == self.mu[0]:
            return curve
        before = self.mu[self.mu.index(self.start) - 1]
        return curve * np.clip((inside - before) / (self.start - before), 0.0, 1.0)

    def _scaled(self, mu: np.ndarray) -> np.ndarray:
        a, b = self.start, self.mu[-1]
        return (2 * mu - a - b) / (b - a)

    def error(self, mu: float) -> float:
        """Return the standard error of c at one mu, from the number of toys."""
        inside = float(np.clip(mu, self.mu[0], self.mu[-1]))
        if not self.coefficients:
            spread = (np.asarray(self.high) - np.asarray(self.low)) / 2
            return float(np.interp(inside, self.mu, spread))
        row = self._scaled(np.array([max(inside, self.start)])) ** np.arange(len(self.coefficients))
        return float(np.sqrt(row @ np.asarray(self.covariance) @ row))

    def covers(self, mu: float) -> bool:
        """Return whether mu lies on the grid, where c was measured and not continued."""
        return self.mu[0] <= mu <= self.mu[-1]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data from which :meth:`from_dict` rebuilds the curve."""
        return {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CriticalCurve:
        """Build the curve from the output of :meth:`to_dict`."""
        rows = tuple(tuple(row) for row in data["covariance"])
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**{**fields, "covariance": rows})


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _polynomial(x: np.ndarray, y: np.ndarray, sigma: np.ndarray, degree: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return coefficients, covariance and AICc of a weighted least-squares polynomial with known errors."""
    design = np.vander(x, degree + 1, increasing=True) / sigma[:, None]
    coefficients, _, _, _ = np.linalg.lstsq(design, y / sigma, rcond=None)
    chi2 = float(np.sum((y / sigma - design @ coefficients) ** 2))
    k, n = degree + 1, len(x)
    correction = 2 * k * (k + 1) / (n - k - 1) if n > k + 1 else np.inf
    return coefficients, np.linalg.inv(design.T @ design), chi2 + 2 * k + correction


def _smooth_errors(x: np.ndarray, error: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return standard errors that vary smoothly with x.

    A quantile that fluctuates upwards has a large error beside it, because samples thin out there; weighting by the raw
    errors would pull the curve down. ln(error sqrt(n)) is therefore replaced by a parabola through all points.
    """
    # An interval of width zero (many equal toys) must not get infinite weight.
    logs = np.log(np.maximum(error, 1e-6) * np.sqrt(n))
    parabola = np.polynomial.polynomial.polyfit(x, logs, 2)
    smooth: np.ndarray = np.exp(np.polynomial.polynomial.polyval(x, parabola)) / np.sqrt(n)
    return smooth


def critical_curve(
    poi: str,
    statistic: str,
    cl: float,
    mu: Sequence[float],
    quantiles: Sequence[Quantile],
    n_failed: Sequence[int],
    smoothing: Smoothing = "polynomial",
) -> CriticalCurve:
    """Return c(mu) from the quantiles of t at grid points.

    Parameters
    ----------
    poi, statistic
        What c is a function of, and of what.
    cl
        Confidence level.
    mu
        Grid points, increasing, at least two.
    quantiles
        The CL-quantile at each.
    n_failed
        Toys without a valid fit at each.
    smoothing
        ``polynomial`` (at least four points with finite quantiles, otherwise straight lines) or ``linear``.

    Raises
    ------
    ConfigError
        If the grid does not increase, the level is none, or the smoothing unknown.
    """
    check_level("cl", cl)
    if smoothing not in SMOOTHINGS:
        raise ConfigError(unknown_name("smoothing", smoothing, SMOOTHINGS))
    x = np.asarray(mu, dtype=float)
    if len(x) < 2 or not bool((np.diff(x) > 0).all()):
        raise ConfigError(f"mu: at least two increasing grid points are needed, got {list(mu)}")
    y = np.array([q.value for q in quantiles])
    error = np.array([q.error for q in quantiles])
    fitted: tuple[np.ndarray, np.ndarray, float] | None = None
    first = int(np.argmax(y > 0))
    used = len(x) - first
    if smoothing == "polynomial" and used >= 4 and bool(np.isfinite([y, error]).all()):
        scaled = ((2 * x - x[first] - x[-1]) / (x[-1] - x[first]))[first:]
        sigma = _smooth_errors(scaled, error[first:], np.array([q.n for q in quantiles[first:]]))
        degrees = range(min(MAX_DEGREE, used - 3) + 1)
        fitted = min((_polynomial(scaled, y[first:], sigma, d) for d in degrees), key=lambda fit: fit[2])
    return CriticalCurve(
        poi,
        cl,
        statistic,
        tuple(x.tolist()),
        tuple(y.tolist()),
        tuple(q.low for q in quantiles),
        tuple(q.high for q in quantiles),
        tuple(q.n for q in quantiles),
        tuple(int(n) for n in n_failed),
        float(x[first]),
        () if fitted is None else tuple(fitted[0].tolist()),
        () if fitted is None else tuple(tuple(row) for row in fitted[1].tolist()),
    )
