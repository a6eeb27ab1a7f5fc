"""Critical values c(mu) of a test statistic from toys at grid points, smoothed in mu.

At each grid point the CL-quantile of t over toys made at that mu has a known error. A natural cubic smoothing spline is
laid through the quantiles (Green and Silverman, Nonparametric Regression and Generalized Linear Models, 1994, ch. 2),

    minimise  sum_g (y_g - c(mu_g))^2 / s_g^2 + lambda int c''(mu)^2 dmu,

with lambda where Mallows' C_p (Technometrics 15 (1973) 661), an unbiased estimate of the squared error when the s_g are
known, is smallest. The spline is linear in the quantiles and points have independent toys, so its error is known at any
mu. Where t is discrete, c(mu) jumps, and joining the points by straight lines is the honest choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from inference.studies.counting import Quantile, check_level
from surrogate.errors import ConfigError, unknown_name

Smoothing = Literal["spline", "linear"]
SMOOTHINGS: tuple[str, ...] = ("spline", "linear")

#: Fewest grid points for a spline.
FEWEST = 5

#: Critical values are at least this, so that the best fit, where the statistic vanishes, is always inside.
FLOOR = 1e-6


@dataclass(frozen=True)
class CriticalCurve:
    """Critical values on a grid of the parameter of interest, and the curve through them.

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
    smooth
        Values of the spline at the grid points from ``start`` on; empty where the quantiles are joined by straight
        lines.
    covariance
        Of ``smooth``.
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
    smooth: tuple[float, ...] = ()
    covariance: tuple[tuple[float, ...], ...] = ()

    def __call__(self, mu: Tensor) -> Tensor:
        """Return c at mu (*,), positive; beyond the grid the value at its end."""
        x = mu.detach().cpu().to(torch.float64).numpy()
        return torch.as_tensor(np.maximum(self._evaluate(x), FLOOR)).to(mu)

    def _evaluate(self, mu: np.ndarray) -> np.ndarray:
        inside = np.clip(mu, self.mu[0], self.mu[-1])
        if not self.smooth:
            return np.interp(inside, self.mu, self.value)
        curve: np.ndarray = self._spline(np.asarray(self.smooth))(np.maximum(inside, self.start))
        if self.start == self.mu[0]:
            return curve
        before = self.mu[self.mu.index(self.start) - 1]
        return curve * np.clip((inside - before) / (self.start - before), 0.0, 1.0)

    def _spline(self, values: np.ndarray) -> CubicSpline:
        """Return the natural cubic spline through values (n, ...) at the grid points from ``start`` on."""
        return CubicSpline(self.mu[self.mu.index(self.start) :], values, bc_type="natural")

    def error(self, mu: float) -> float:
        """Return the standard error of c at one mu, from the number of toys."""
        inside = float(np.clip(mu, self.mu[0], self.mu[-1]))
        if not self.smooth:
            spread = (np.asarray(self.high) - np.asarray(self.low)) / 2
            return float(np.interp(inside, self.mu, spread))
        weights = self._spline(np.eye(len(self.smooth)))(max(inside, self.start))
        return float(np.sqrt(weights @ np.asarray(self.covariance) @ weights))

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


def _roughness(x: np.ndarray) -> np.ndarray:
    """Return K (n, n): int c''^2 = g^T K g for the natural cubic spline through g at x (Green and Silverman, 2.3)."""
    h, n = np.diff(x), len(x)
    q, r = np.zeros((n, n - 2)), np.zeros((n - 2, n - 2))
    for j in range(n - 2):
        q[j : j + 3, j] = 1 / h[j], -1 / h[j] - 1 / h[j + 1], 1 / h[j + 1]
        r[j, j] = (h[j] + h[j + 1]) / 3
        if j + 1 < n - 2:
            r[j, j + 1] = r[j + 1, j] = h[j + 1] / 6
    return q @ np.linalg.solve(r, q.T)


def _smoothed(x: np.ndarray, y: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the spline's values at x (n,) and their covariance (n, n)."""
    weight = np.diag(1 / sigma**2)
    roughness = _roughness((x - x[0]) / (x[-1] - x[0])) / np.mean(sigma**2)
    best = None
    for strength in np.logspace(-9, 3, 61):
        smoother = np.linalg.solve(weight + strength * roughness, weight)
        risk = float(np.sum(((y - smoother @ y) / sigma) ** 2) + 2 * np.trace(smoother))
        if best is None or risk < best[0]:
            best = (risk, smoother)
    smoother = best[1] if best is not None else np.eye(len(x))
    return smoother @ y, smoother @ np.diag(sigma**2) @ smoother.T


def _smooth_errors(x: np.ndarray, error: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return standard errors that vary smoothly with x.

    A quantile that fluctuates upwards has a large error beside it, because samples thin out there; weighting by the raw
    errors would pull the curve down. ln(error sqrt(n)) is therefore replaced by a parabola through all points.
    """
    # An interval of width zero (many equal toys) must not get infinite weight.
    logs = np.log(np.maximum(error, 1e-6) * np.sqrt(n))
    scaled = (2 * x - x[0] - x[-1]) / (x[-1] - x[0])
    parabola = np.polynomial.polynomial.polyfit(scaled, logs, 2)
    smooth: np.ndarray = np.exp(np.polynomial.polynomial.polyval(scaled, parabola)) / np.sqrt(n)
    return smooth


def critical_curve(
    poi: str,
    statistic: str,
    cl: float,
    mu: Sequence[float],
    quantiles: Sequence[Quantile],
    n_failed: Sequence[int],
    smoothing: Smoothing = "spline",
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
        ``spline`` (at least five points with finite quantiles above zero, otherwise straight lines) or ``linear``.

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
    y, error = np.array([q.value for q in quantiles]), np.array([q.error for q in quantiles])
    first = int(np.argmax(y > 0))
    smooth, covariance = np.zeros(0), np.zeros((0, 0))
    if smoothing == "spline" and len(x) - first >= FEWEST and bool(np.isfinite([y, error]).all()):
        n = np.array([q.n for q in quantiles[first:]])
        smooth, covariance = _smoothed(x[first:], y[first:], _smooth_errors(x[first:], error[first:], n))
    return CriticalCurve(
        poi=poi,
        cl=cl,
        statistic=statistic,
        mu=tuple(x.tolist()),
        value=tuple(y.tolist()),
        low=tuple(q.low for q in quantiles),
        high=tuple(q.high for q in quantiles),
        n_toys=tuple(q.n for q in quantiles),
        n_failed=tuple(int(k) for k in n_failed),
        start=float(x[first]),
        smooth=tuple(smooth.tolist()),
        covariance=tuple(tuple(row) for row in covariance.tolist()),
    )
