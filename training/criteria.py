"""Criteria of a validation: a measured value, its statistical error, a threshold, and whether it is met."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from statistics import NormalDist
from typing import Any, Literal

from surrogate.errors import ConfigError, unknown_name

FALSE_ALARM = 1e-3
"""Probability with which a perfect surrogate fails one criterion."""

BLUNT = 1.5
"""Error of a measurement, in allowed deviations, above which it decides nothing."""

PERFECT = {"auc": 0.5, "auc_slice": 0.5}
"""What a perfect surrogate has, where it is not 0."""

Verdict = Literal["ok", "fails", "undecided"]


@dataclass(frozen=True)
class Thresholds:
    """Largest deviation that a surrogate may show.

    A criterion is met where value <= threshold + z error (in squares for a root mean square): the error is the
    statistical error of the measurement, and z the normal quantile at which a surrogate that is as good as the
    threshold fails once in a thousand times, also as the worst of many. More fresh events make the test sharper; with
    few, a good surrogate does not fail by chance, but nothing is decided where the error exceeds BLUNT times what the
    threshold allows.

    Attributes
    ----------
    overfit
        NLL of fresh events minus that of the events held out of the training, in nats per event.
    normalisation
        |1 - integral of the density| over the region of interest.
    score_bias
        sqrt(N/I_jj) |E[d ln f/d theta_j]| at N = 1000 events: bias of theta_j in units of its statistical error; root
        mean square over theta and components, beyond noise.
    score_bias_worst
        The same, worst over theta and components.
    auc
        Area under the curve of a classifier of fresh events against the surrogate's.
    auc_slice
        The same in the worst slice.
    projection
        Root mean square relative deviation of the binned density in the worst two-dimensional projection, beyond noise.
    rate
        Root mean square relative deviation of mu(theta), beyond noise.
    pit
        Largest distance between the distribution of a probability integral transform and uniform.
    """

    overfit: float = 0.01
    normalisation: float = 1e-3
    score_bias: float = 0.05
    score_bias_worst: float = 0.15
    auc: float = 0.505
    auc_slice: float = 0.515
    projection: float = 0.03
    rate: float = 0.003
    pit: float = 0.005

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"threshold {f.name} = {value} must be > 0")

    @classmethod
    def from_mapping(cls, values: Mapping[str, float]) -> Thresholds:
        """Return the defaults with some values replaced.

        Raises
        ------
        ConfigError
            For an unknown name or a value that is not positive.
        """
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                raise ConfigError(unknown_name("threshold", name, known))
        return cls(**values)


@dataclass(frozen=True)
class Criterion:
    """One measured property of a surrogate.

    Attributes
    ----------
    name
        Name of the threshold it is held against.
    value, error
        Measured deviation and the standard error it has for a perfect surrogate.
    threshold
        What is allowed.
    trials
        Number of values of which this is the worst.
    quadratic
        True for a root mean square beyond noise: there noise adds to the square of the value, and the error is the
        root of that of the square.
    """

    name: str
    value: float
    error: float
    threshold: float
    trials: int = 1
    quadratic: bool = False

    @property
    def limit(self) -> float:
        """The largest value that passes."""
        z = NormalDist().inv_cdf(1 - FALSE_ALARM / self.trials)
        if self.quadratic:
            return math.sqrt(self.threshold**2 + z * self.error**2)
        return self.threshold + z * self.error

    @property
    def bluntness(self) -> float:
        """The error in units of the deviation that is allowed."""
        allowed = self.threshold - PERFECT.get(self.name, 0.0)
        return self.error / allowed if allowed > 0 else math.inf

    @property
    def verdict(self) -> Verdict:
        """``fails`` above the limit or without a number; else ``undecided`` if blunt, or ``ok``."""
        if not self.value <= self.limit:
            return "fails"
        return "ok" if self.bluntness <= BLUNT else "undecided"

    @property
    def passed(self) -> bool:
        """Whether the criterion is met, by a measurement that could have found it violated."""
        return self.verdict == "ok"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, from which :meth:`from_dict` makes the criterion again."""
        return asdict(self) | {"limit": self.limit, "verdict": self.verdict, "passed": self.passed}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Criterion:
        """Return the criterion of plain data."""
        return cls(**{f.name: data[f.name] for f in fields(cls)})


def rms_beyond_noise(deviations: list[float], errors: list[float]) -> tuple[float, float]:
    """Return the root mean square of deviations beyond their noise, and its error for none.

    With d_i of variance s_i^2 about their expectation the estimate is sqrt(max(0, mean(d_i^2 - s_i^2))); for zero
    expectation the variance of the mean is 2 sum s_i^4/n^2, and the error given is the square root of its root.
    """
    n = len(deviations)
    excess = sum(d * d - s * s for d, s in zip(deviations, errors, strict=True)) / n
    noise = math.sqrt(2 * sum(s**4 for s in errors)) / n
    return math.sqrt(max(excess, 0.0)), math.sqrt(noise)
