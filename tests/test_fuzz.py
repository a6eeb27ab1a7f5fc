"""Random models on random data: a right answer, or a status that says why there is none; see :mod:`fuzzing`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fuzzing import FuzzCounts, fuzz, random_problem

from inference.fits.batch_fit import fit_batch
from inference.likelihood.extended import Likelihood

#: Fits of 10,000 that may end without convergence.
ALLOWED = 1


def check(counts: FuzzCounts) -> None:
    """Nothing is wrong, and searches are short."""
    lost = counts.faults.pop("not converged", [])
    assert not counts.faults
    assert len(lost) <= ALLOWED
    assert np.mean(counts.conditional_fits) < 4


@pytest.mark.parametrize("first", range(0, 8, 4))
def test_hundreds_of_fuzzed_fits(first: int) -> None:
    check(fuzz(range(first, first + 4)))


def test_a_search_that_met_a_lower_maximum_goes_on_warily() -> None:
    """One data set of this model has t rising to 2.19 at most, and another maximum above it at every far point."""
    assert not fuzz([1099]).faults


def test_a_limit_that_does_not_exist_is_not_searched_for_long() -> None:
    """The signal of this model is a rate times a free efficiency: t is flat up to the bound of 1e5.

    Without signal there is a second, lower maximum at every rate, in which a search used to get lost.
    """
    counts = fuzz([1328])
    assert not counts.faults
    assert max(counts.conditional_fits) <= 8


@pytest.mark.parametrize("seed", [20007, 20234])
def test_a_search_that_ends_close_to_zero(seed: int) -> None:
    """t is singular at a rate of zero, or the fit there has met a lower maximum."""
    assert not fuzz([seed]).faults


@pytest.mark.parametrize(("seed", "rows"), [(30187, (17, 18)), (30229, (20,))])
def test_valleys_of_a_rate_and_an_efficiency_are_followed_to_their_end(seed: int, rows: tuple[int, ...]) -> None:
    """In these fits ln L rises by 2e-5 to 0.4 while an efficiency falls by orders of magnitude."""
    likelihood = Likelihood(*random_problem(seed))
    found = fit_batch(likelihood, rows=torch.tensor(rows))
    assert bool(found.success.all())
    assert int(found.evaluations.max()) <= 100
    again = fit_batch(likelihood, rows=torch.tensor(rows), start=found.values)
    assert float((again.log_likelihood - found.log_likelihood).max()) < 1e-8


@pytest.mark.slow
def test_ten_thousand_fuzzed_fits() -> None:
    counts = fuzz(range(1000, 1400))
    assert counts.fits == 10_000
    assert min(counts.cases.values()) > 100
    check(counts)
