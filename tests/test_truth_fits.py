"""Shifts of fits by the error of a density, against a case in which every fit is known."""

from __future__ import annotations

import math

import pytest
import torch
from analytic_sources import UNIT, AnalyticSource, constant_rate

from surrogate.nuisance import Nuisance, NuisanceSpace
from training.truth_fits import fit_shifts

SPACE = NuisanceSpace((Nuisance("m", "", 0.3, 0.7, 0.5),))
WIDTH = 0.02
THETA = torch.tensor([[0.50], [0.51], [0.60]], dtype=torch.float64)


def normal(x: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    return -0.5 * ((x - theta[..., 0]) / WIDTH) ** 2 - math.log(WIDTH * math.sqrt(2 * math.pi))


def events(n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return 0.5 + WIDTH * torch.randn(n, 1, generator=generator, dtype=torch.float64)


def test_a_shifted_density_shifts_every_fit():
    """A normal distribution whose mean is off by delta: its best fit is off by -delta, whatever the data."""
    delta = 0.003
    source = AnalyticSource(lambda x, t: normal(x, t + delta), constant_rate(1.0), SPACE)
    x = events(400)
    exact = torch.stack([normal(x[:, 0], t) for t in THETA], dim=-1)
    (shift,) = fit_shifts(source, x, THETA, torch.zeros(400, dtype=torch.long), exact)
    assert (shift.origin, shift.other) == ((0.50,), (0.51,))
    assert shift.distance == pytest.approx(0.01 * math.sqrt(25) / WIDTH, rel=0.15)
    for n, value in shift.shifts.items():
        assert value == pytest.approx(delta * math.sqrt(n) / WIDTH, rel=0.15)


def test_the_exact_density_shifts_nothing_and_impossible_events_are_left_out():
    source = AnalyticSource(normal, constant_rate(1.0), SPACE)
    x = events(110)
    exact = torch.stack([normal(x[:, 0], t) for t in THETA], dim=-1)
    exact[3, 1] = -torch.inf
    (shift,) = fit_shifts(source, x, THETA, torch.zeros(110, dtype=torch.long), exact)
    assert list(shift.shifts) == [25, 100]
    assert max(shift.shifts.values()) < 1e-10


def test_too_few_events_or_thetas_say_nothing():
    source = AnalyticSource(normal, constant_rate(1.0), SPACE, observables=UNIT)
    x = events(30)
    exact = torch.stack([normal(x[:, 0], t) for t in THETA], dim=-1)
    assert fit_shifts(source, x, THETA[:1], torch.zeros(30, dtype=torch.long), exact[:, :1]) == []
    assert fit_shifts(source, x, THETA, torch.arange(30) // 15, exact) == []
