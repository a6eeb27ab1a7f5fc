"""Acceptance from counts and drift times: its derivatives, its errors, and what the drift times are worth."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from training_cases import event_file

from surrogate import ray_acceptance
from surrogate.acceptance import fit_acceptance
from surrogate.basis import ThetaBasis
from surrogate.errors import DataError
from surrogate.nuisance import Nuisance, NuisanceSpace
from surrogate.ray_acceptance import KeptEvents, _RayLikelihood, _with_survival, fit_ray_acceptance
from training.event_set import EventSet

SPACE = NuisanceSpace((Nuisance("elife", "us", 250.0, 900.0, 450.0, "log"), Nuisance("g1", "", 0.08, 0.14, 0.1)))
WINDOW = (20.0, 700.0)
CELLS = 32


def exact(theta: torch.Tensor) -> torch.Tensor:
    """Probability (n, J) in the cells of the drift time: a logistic function of surviving electrons and g1."""
    middle = WINDOW[0] + (torch.arange(CELLS, dtype=torch.float64) + 0.5) * (WINDOW[1] - WINDOW[0]) / CELLS
    survival = torch.exp(-middle / theta[:, :1])
    return torch.sigmoid(-1.5 + 2.5 * survival + 8.0 * (theta[:, 1:] - 0.1))


def simulated(n_blocks: int, per_block: int, seed: int) -> KeptEvents:
    generator = torch.Generator().manual_seed(seed)
    low, high = SPACE.bounds(torch.zeros(0, dtype=torch.float64))
    theta = low + (high - low) * torch.rand(n_blocks, 2, generator=generator, dtype=torch.float64)
    cell = torch.randint(CELLS, (n_blocks, per_block), generator=generator)
    made = torch.zeros(n_blocks, CELLS, dtype=torch.float64).scatter_add_(1, cell, torch.ones(cell.shape).double())
    kept = torch.binomial(made, exact(theta), generator=generator)
    return KeptEvents(theta, torch.full((n_blocks,), per_block), kept.long(), "elife", WINDOW)


def test_derivatives_are_those_of_the_likelihood():
    events = simulated(30, 50, seed=1)
    basis = ThetaBasis(_with_survival(SPACE, 0, WINDOW), 2)
    likelihood = _RayLikelihood(basis, 0, events)
    c = 0.3 * torch.randn(basis.size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    value, gradient, information = likelihood.evaluate(c)
    a = torch.sigmoid(likelihood.cells(events.theta) @ c)
    lost = events.generated - events.kept.sum(dim=-1)
    assert float(value) == pytest.approx(float((events.kept * a.log()).sum() + (lost * (1 - a.mean(1)).log()).sum()))
    for k in range(basis.size):
        step = torch.zeros_like(c)
        step[k] = 1e-5
        slope = (likelihood.evaluate(c + step)[0] - likelihood.evaluate(c - step)[0]) / 2e-5
        assert float(gradient[k]) == pytest.approx(float(slope), rel=1e-6, abs=1e-5)
    # the Fisher information is the covariance of the gradient where the model is true
    eps, share = likelihood.share(events.theta, c)
    assert torch.allclose(eps, a.mean(dim=1))
    assert bool((torch.linalg.eigvalsh(information) > 0).all())
    assert share.shape == (30, basis.size)


def test_it_is_right_within_its_errors_and_better_than_counts_alone():
    grid = simulated(200, 1, seed=99).theta
    truth = exact(grid).mean(dim=1)
    pulls, errors = [], {"rays": [], "counts": []}
    for seed in range(12):
        events = simulated(100, 200, seed)
        rays = fit_ray_acceptance(SPACE, events, max_degree=3)
        counts = fit_acceptance(SPACE, events.theta, events.generated, events.kept.sum(dim=-1), max_degree=3)
        for name, model in (("rays", rays), ("counts", counts)):
            errors[name].append(float((model.acceptance(grid) / truth - 1).square().mean()))
        pulls.append((rays.acceptance(grid) - truth) / rays.std(grid))
        assert rays.n_generated == 20_000
    width = float(torch.stack(pulls).square().mean().sqrt())
    assert 0.6 < width < 1.5
    assert np.mean(errors["rays"]) < 0.8 * np.mean(errors["counts"])


def test_a_polynomial_that_does_not_follow_the_symmetric_fit_is_a_warning(monkeypatch):
    monkeypatch.setattr(ray_acceptance, "HIGHEST", 1)
    with pytest.warns(RuntimeWarning, match="of degree 1 follows the symmetric fit only to"):
        fit_ray_acceptance(SPACE, simulated(100, 200, seed=0), max_degree=3)


def test_events_that_are_all_kept_or_all_lost_are_refused():
    events = simulated(10, 20, seed=1)
    none = KeptEvents(events.theta, events.generated, 0 * events.kept, "elife", WINDOW)
    with pytest.raises(DataError, match="some events must be kept and some lost"):
        fit_ray_acceptance(SPACE, none)


def test_histograms_of_event_sets_count_each_event_in_its_block(tmp_path):
    path = event_file(tmp_path / "er.h5", n_generated=8000)
    with EventSet.open([path, path]) as events:
        found = events.histogram(0, 7)
        counts = events.blocks()
        everything = events.read(0, events.n_events)
        assert torch.equal(found.sum(dim=1), counts.n_accepted)
        window = events.observables.observables[0]
        x = events.observables.from_unit(everything.u.double())[:, 0]
        share = (x - window.low) / (window.high - window.low)
        assert torch.allclose(found.sum(dim=0).double(), torch.histc(share, 7, 0, 1), atol=2)


@pytest.mark.shared
@pytest.mark.parametrize(("source", "limit"), [("er", 0.0010), ("nr", 0.0036)])
def test_on_events_of_flamedisx(shared: Path, source: str, limit: float):
    """r.m.s. of mu/mu_exact - 1 at the 400 points of the events (flamedisx 2.1.0, arXiv:2003.12483)."""
    with h5py.File(shared / "data" / "flamedisx" / f"{source}_events.h5") as file:
        theta = torch.from_numpy(file["theta"][:] * [1e-3, 1.0])
        generated, true = torch.from_numpy(file["n_simulated"][:]), torch.from_numpy(file["mu_exact"][:])
        rate = file.attrs["mu_before_efficiencies"]
        cell = np.clip((file["drift_time"][:] / 731_087 * 64).astype(int), 0, 63)
        kept = np.zeros((len(theta), 64), dtype=np.int64)
        np.add.at(kept, (file["theta_index"][:].astype(int), cell), 1)
    events = KeptEvents(theta, generated, torch.from_numpy(kept), "elife", (0.0, 731.087))
    model = fit_ray_acceptance(SPACE, events)
    ratio = rate * model.acceptance(theta) / true - 1
    assert float(ratio.square().mean().sqrt()) < limit
    assert float((ratio / (model.std(theta) / model.acceptance(theta))).square().mean().sqrt()) < 1.6
