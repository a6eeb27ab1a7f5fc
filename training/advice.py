"""What to do about a criterion that is not met."""

from __future__ import annotations

import math
from collections.abc import Sequence

from training.criteria import BLUNT, Criterion

REFERENCE_EVENTS = 1000
"""Events of the source in the fit whose bias the default thresholds of the score bias are for."""

CURES = {
    "overfit": "the flow knows its own events by heart; train on more events, or with fewer passes or hidden units",
    "normalisation": "the density has peaks that quadrature misses; use fewer components, or another scale of the axis",
    "score_bias": "the density moves wrongly with the parameters; train on more events or longer, give guides, "
    "and kinks for parameters whose response has one",
    "auc": "the density is wrong as a whole; train longer, with more components or hidden units",
    "auc_slice": "the density is wrong at an edge; the figure of the classifier says which: train on more events there",
    "projection": "the density is wrong in one plane; the figure of the projections says where: train longer, with "
    "more components, or order the observables of that plane first",
    "rate": "mu(theta) is off; generate more events for the training (its error falls as one over their square root), "
    "or raise the threshold to a share of what the rate is known to",
    "pit": "a marginal is wrong; train longer or with more components",
}
"""Usual cause and cure by criterion; ``score_bias_worst`` has that of ``score_bias``."""


def advice(criteria: Sequence[Criterion], n_events: int, held_out_error: float = 0.0) -> list[str]:
    """Return a line for each criterion that fails, and one for all that are undecided.

    Parameters
    ----------
    criteria
        The criteria of a validation.
    n_events
        Its fresh events.
    held_out_error
        Error of the held-out NLL of the training, which no number of fresh events lowers.
    """
    lines = [f"{c.name}: {CURES[c.name.removesuffix('_worst')]}" for c in criteria if c.verdict == "fails"]
    fixed = {"overfit": held_out_error}
    needed = {c.name: _needed(c, n_events, fixed.get(c.name, 0.0)) for c in criteria if c.verdict == "undecided"}
    decidable = {name: number for name, number in needed.items() if number < math.inf}
    if decidable:
        number = _rounded(max(decidable.values()))
        lines.append(f"{', '.join(decidable)}: {n_events:,} fresh events decide nothing; give about {number:,}")
    if needed.get("overfit") == math.inf:
        lines.append(
            f"overfit: the training held out too few events (error {held_out_error:.2g}) to decide it; train with a "
            f"larger data.validation_fraction, or --threshold overfit={1.1 * held_out_error:.2g}"
        )
    return lines + _fewer_events(criteria)


def _needed(criterion: Criterion, n_events: int, fixed: float) -> float:
    """Return how many fresh events bring the error, but for a fixed part of it, to what decides."""
    largest = BLUNT * criterion.error / criterion.bluntness
    return n_events * (criterion.error**2 - fixed**2) / (largest**2 - fixed**2) if largest > fixed else math.inf


def _fewer_events(criteria: Sequence[Criterion]) -> list[str]:
    """Return for how many events of the source in a search its score bias would be small enough.

    A bias in standard deviations grows with the square root of their number, and so does its error.
    """
    scores = [c for c in criteria if c.name.startswith("score_bias")]
    if all(c.passed for c in scores):
        return []
    scale = max(max(c.value if c.verdict == "fails" else 0.0, c.error / BLUNT) / c.threshold for c in scores)
    if not 1.0 < scale < math.inf:
        return []
    options = " ".join(f"--threshold {c.name}={1.01 * scale * c.threshold:.3g}" for c in scores)
    return [f"if a search expects at most {int(REFERENCE_EVENTS / scale**2)} events of this source: {options}"]


def _rounded(number: float) -> int:
    """Round up to two digits."""
    unit = 10.0 ** max(math.floor(math.log10(number)) - 1, 0)
    return int(math.ceil(number / unit) * unit)
