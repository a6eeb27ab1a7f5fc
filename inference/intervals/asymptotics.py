"""Asymptotic distributions of the test statistics, and their critical values.

By Wilks' theorem t_mu follows a chi-square law with one degree of freedom at the true mu; one-sided statistics are zero
half of the time (arXiv:1007.1727, sections 3.3, 3.5 and 3.6).
"""

from __future__ import annotations

from typing import Literal, cast, get_args

from scipy import special

from surrogate.errors import ConfigError, RangeError, unknown_name

#: ``unified`` is ``central`` by another name: with t_mu_tilde and critical values from toys it is the interval of
#: Feldman and Cousins, with an upper limit alone or two ends as the data demand.
IntervalKind = Literal["central", "unified", "upper", "lower"]
KINDS: tuple[str, ...] = get_args(IntervalKind)
TWO_SIDED: tuple[IntervalKind, ...] = ("central", "unified")


def check_level(confidence_level: float) -> None:
    """Raise RangeError unless 0 < confidence level < 1."""
    if not 0 < confidence_level < 1:
        raise RangeError(f"confidence_level = {confidence_level} must lie between 0 and 1, such as 0.9")


def check_kind(kind: str) -> IntervalKind:
    """Return the kind of interval, or raise ConfigError if there is none of that name."""
    for known in get_args(IntervalKind):
        if kind == known:
            return cast(IntervalKind, known)
    raise ConfigError(unknown_name("kind", kind, KINDS, "interval"))


def critical_value(confidence_level: float, kind: IntervalKind = "central") -> float:
    """Return the value of t below which a parameter value is inside the interval.

    Central and unified intervals: the chi-square(1) quantile at the confidence level (2.706 at 90 %). One-sided
    limits: that at 1 - 2 (1 - CL) (1.642 at 90 %), where q_mu has a p-value of 1 - CL (arXiv:1007.1727, Eq. 59).

    Raises
    ------
    RangeError
        If the level is not between 0 and 1, or, one-sided, not above 0.5.
    ConfigError
        If the kind is unknown.
    """
    check_level(confidence_level)
    check_kind(kind)
    tail = 1 - confidence_level
    if kind in TWO_SIDED:
        return float(special.chdtri(1, tail))
    if confidence_level <= 0.5:
        raise RangeError(
            f"confidence_level = {confidence_level}: a one-sided asymptotic limit needs more than 0.5, below the "
            "best fit the statistic is zero"
        )
    return float(special.chdtri(1, 2 * tail))


def two_sided_p_value(t: float) -> float:
    """Return P(t_mu >= t) = 2 [1 - Phi(sqrt t)] (arXiv:1007.1727, section 3.3)."""
    return float(special.chdtrc(1, t))


def one_sided_p_value(q: float) -> float:
    """Return P(q_mu >= q) = 1 - Phi(sqrt q) (arXiv:1007.1727, Eq. 59); also the discovery p-value of q0."""
    return float(special.ndtr(-(max(q, 0.0) ** 0.5)))


def significance(p_value: float) -> float:
    """Return Z = Phi^-1(1 - p) (arXiv:1007.1727, Eq. 1)."""
    return float(-special.ndtri(p_value))
