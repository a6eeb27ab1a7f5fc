"""Learning-rate schedules as factors of the peak rate."""

from __future__ import annotations

import math

from training.settings import OptimiserConfig


def learning_rate_factor(config: OptimiserConfig, step: int, total: int) -> float:
    """Return the learning rate at a step in [0, total), as a share of the peak.

    ``cosine`` and ``constant`` rise linearly over the first ``warmup * total`` steps. Then ``cosine`` falls as
    final + (1 - final)(1 + cos(pi p))/2, p in [0, 1] the share of the remaining steps (arXiv:1608.03983, equation 5).
    ``one_cycle`` rises with a half cosine over 30 % of the steps and falls with another (arXiv:1708.07120).
    """
    rise = max(round(total * (0.3 if config.schedule == "one_cycle" else config.warmup)), 1)
    if step < rise:
        share = (step + 1) / (rise + 1)
        return 0.04 + 0.96 * (1 - math.cos(math.pi * share)) / 2 if config.schedule == "one_cycle" else share
    if config.schedule == "constant":
        return 1.0
    share = min((step - rise) / max(total - rise, 1), 1.0)
    return config.final + (1 - config.final) * (1 + math.cos(math.pi * share)) / 2
