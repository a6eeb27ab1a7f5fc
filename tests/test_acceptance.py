"""The acceptance: basis derivatives, coverage of its errors, degree, kinks, empty sources, reference data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from surrogate.acceptance import AcceptanceModel, fit_acceptance
from surrogate.basis import ThetaBasis
from surrogate.errors import ConfigError, DataError, RangeError
from surrogate.logistic import BinomialDesign, shrunken_fit
from surrogate.nuisance import Nuisance, NuisanceSpace

SPACE = NuisanceSpace((Nuisance("t", "sigma", -3.0, 3.0, 0.0), Nuisance("elife", "us", 250.0, 900.0, 450.0, "log")))
NONE = NuisanceSpace()


def draw_theta(n: int, seed: int, space: NuisanceSpace = SPACE) -> Tensor:
    low, high = space.bounds(torch.zeros((), dtype=torch.float64))
    return low + (high - low) * torch.rand(n, space.dim, generator=torch.Generator().manual_seed(seed)).double()


def throw(theta: Tensor, eps: Tensor, generated: float, seed: int) -> tuple[Tensor, Tensor]:
    counts = torch.full((len(theta),), generated, dtype=torch.float64)
    return counts, torch.binomial(counts, eps, generator=torch.Generator().manual_seed(seed))


def smooth_truth(theta: Tensor) -> Tensor:
    """Acceptance of a few per cent with visible curvature."""
    t, life = theta[:, 0], (theta[:, 1] / 450.0).log()
    return torch.exp(-3.0 + 0.3 * t - 0.03 * t**2 + 0.5 * life + 0.05 * t * life)


@pytest.mark.parametrize("fine", [(), (("elife", 3),)])
@pytest.mark.parametrize("kinks", [(), ("t",)])
@pytest.mark.parametrize("degree", [0, 1, 4])
def test_basis_derivatives_equal_autograd(
    degree: int, kinks: tuple[str, ...], fine: tuple[tuple[str, int], ...]
) -> None:
    basis, theta = ThetaBasis(SPACE, degree, kinks, fine), draw_theta(5, 1)
    coefficients = torch.randn(basis.size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    value, gradient, hessian = basis.jet(theta, coefficients)
    assert torch.allclose(value, basis.values(theta) @ coefficients)
    for i, point in enumerate(theta):
        function = lambda p: basis.values(p) @ coefficients  # noqa: E731
        assert torch.allclose(torch.autograd.functional.jacobian(function, point), gradient[i])
        assert torch.allclose(torch.autograd.functional.hessian(function, point), hessian[i])


def test_basis_holds_all_products_up_to_the_degree() -> None:
    basis = ThetaBasis(SPACE, 3, ("t",))
    assert basis.size == 10 + 3
    assert basis.values(draw_theta(4, 1)).shape == (4, 13)
    assert basis.groups[0] == 0
    assert sorted(set(basis.groups)) == list(range(max(basis.groups) + 1))


def test_a_fine_parameter_has_more_powers() -> None:
    basis = ThetaBasis(SPACE, 2, ("t",), (("elife", 3),))
    assert basis.size == (7 + 4 + 1) + (1 + 1 + 3)  # powers 0..6, 0..3, 0 of elife with 1, t, t^2; h, h t, h elife^a
    with pytest.raises(ConfigError, match="did you mean 'elife'"):
        ThetaBasis(SPACE, 2, fine=(("elif", 3),))
    with pytest.raises(ConfigError, match="at least 1"):
        ThetaBasis(SPACE, 2, fine=(("elife", 0),))
    with pytest.raises(ConfigError, match="no kink"):
        ThetaBasis(SPACE, 2, ("t",), fine=(("t", 2),))


def test_an_acceptance_over_decades_needs_a_fine_parameter() -> None:
    """From 1e-4 to 0.9 and back along one parameter; and the model survives being written down."""
    space = NuisanceSpace((Nuisance("energy", "keV", 0.7, 80.0, 10.0, "log"), SPACE.nuisances[0]))
    low, high = space.bounds(torch.zeros((), dtype=torch.float64))
    u = torch.rand(4000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    theta = torch.stack([low[0] * (high[0] / low[0]) ** u[:, 0], low[1] + (high - low)[1] * u[:, 1]], dim=-1)
    x = theta[:, 0].log() + 0.05 * theta[:, 1]
    counts = throw(theta, 0.9 * torch.sigmoid(5 * (x - 1.4)) * torch.sigmoid(-9 * (x - 3.7)), 1000.0, 2)
    plain = fit_acceptance(space, theta, *counts, degree=3)
    fine = fit_acceptance(space, theta, *counts, degree=3, fine={"energy": 5})
    assert plain.chi2 > 5 * plain.n_dof
    assert fine.chi2 < 1.15 * fine.n_dof
    again = AcceptanceModel.from_dict(fine.to_dict(), space, fine.coefficients, fine.covariance)
    assert torch.equal(again.acceptance(theta), fine.acceptance(theta))
    assert "fine" not in plain.to_dict()
    with pytest.raises(ConfigError, match="coefficients for a basis of"):
        AcceptanceModel.from_dict(plain.to_dict(), space, fine.coefficients, fine.covariance)


def test_without_shrinkage_the_coefficients_are_the_maximum_of_the_likelihood() -> None:
    """All coefficients in the group of the constant: plain logistic regression, against scipy's minimiser."""
    theta = draw_theta(200, 3)
    values = ThetaBasis(SPACE, 2).values(theta)
    generated, accepted = throw(theta, smooth_truth(theta), 500.0, 4)
    coefficients, covariance, *_ = shrunken_fit(BinomialDesign(values, generated, accepted), torch.zeros(6).long())

    def loss(c: Tensor) -> Tensor:
        eta = values @ c
        return -(accepted * eta - generated * torch.nn.functional.softplus(eta)).sum()

    start = torch.zeros(6, dtype=torch.float64).numpy()
    found = minimize(lambda c: float(loss(torch.from_numpy(c))), start, method="BFGS", tol=1e-10)
    assert torch.allclose(coefficients, torch.from_numpy(found.x), atol=1e-4)
    information = torch.autograd.functional.hessian(loss, coefficients)
    assert torch.allclose(covariance, torch.linalg.inv(information), rtol=1e-6, atol=1e-12)


def test_errors_cover_the_truth() -> None:
    """Over 40 simulated fits the residual in units of the quoted error has a width near 1, also where it shrinks."""
    theta, probe = draw_theta(300, 5), draw_theta(50, 6)
    pulls = []
    for seed in range(40):
        model = fit_acceptance(SPACE, theta, *throw(theta, smooth_truth(theta), 300.0, seed), degree=4)
        pulls.append((model.acceptance(probe) - smooth_truth(probe)) / model.std(probe))
    width = torch.stack(pulls).square().mean().sqrt()
    assert 0.75 < float(width) < 1.3


def test_shrinkage_beats_the_plain_fit() -> None:
    """A quadratic truth fitted at degree 6: 28 coefficients cost hardly more noise than the 6 that matter."""
    theta, probe = draw_theta(300, 5), draw_theta(200, 6)
    basis = ThetaBasis(SPACE, 6)
    shrunken, plain = [], []
    for seed in range(10):
        generated, accepted = throw(theta, smooth_truth(theta), 300.0, 100 + seed)
        model = fit_acceptance(SPACE, theta, generated, accepted, degree=6)
        design = BinomialDesign(basis.values(theta), generated, accepted)
        free, *_ = shrunken_fit(design, torch.zeros(basis.size).long())
        for errors, eps in ((shrunken, model.acceptance(probe)), (plain, torch.sigmoid(basis.values(probe) @ free))):
            errors.append(float((eps / smooth_truth(probe)).log().square().mean()))
    assert sum(shrunken) < 0.5 * sum(plain)


def test_the_degree_is_found_by_leaving_one_out() -> None:
    theta = draw_theta(400, 7)
    flat = fit_acceptance(SPACE, theta, *throw(theta, torch.full((400,), 0.2).double(), 500.0, 1))
    curved = fit_acceptance(SPACE, theta, *throw(theta, smooth_truth(theta), 100_000.0, 1))
    assert curved.basis.degree >= 2
    assert abs(float(flat.acceptance(theta).mean()) - 0.2) < 0.002
    assert 0.7 < curved.chi2 / curved.n_dof < 1.3
    bad = fit_acceptance(SPACE, theta, *throw(theta, smooth_truth(theta), 100_000.0, 1), degree=1)
    assert bad.chi2 / bad.n_dof > 10
    assert bool((bad.std(theta) > replace(bad, chi2=0.0).std(theta)).all())


def test_a_kink_is_followed_smoothly() -> None:
    """Slopes 0.4 and 0.2 on the two sides of t = 0: the kink term beats any polynomial and stays twice smooth."""
    theta, probe = draw_theta(3000, 8), draw_theta(500, 9)

    def truth(point: Tensor) -> Tensor:
        t = point[:, 0]
        return torch.exp(-2.0 + torch.where(t > 0, 0.2 * t, 0.4 * t))

    counts = throw(theta, truth(theta), 20_000.0, 1)
    errors = {}
    for kinks in ((), ("t",)):
        model = fit_acceptance(SPACE, theta, *counts, kinks=kinks)
        errors[kinks] = float((model.acceptance(probe) / truth(probe)).log().abs().max())
    assert errors[("t",)] < 0.5 * errors[()]
    assert errors[("t",)] < 0.01


@pytest.mark.parametrize("eps", [0.0, 1.0])
def test_none_or_all_accepted(eps: float) -> None:
    theta = draw_theta(100, 1)
    counts = torch.full((100,), 1000.0, dtype=torch.float64)
    model = fit_acceptance(SPACE, theta, counts, eps * counts)
    fraction, error = model.acceptance(theta), model.std(theta)
    assert torch.allclose(fraction, torch.full_like(fraction, eps), atol=1e-4)
    assert bool(((fraction > 0) & (fraction < 1) & (error > 0)).all())
    assert (model.n_dof, model.n_accepted) == (0, int(eps * 100_000))
    jet = model.jet(theta)
    assert all(bool(torch.isfinite(part).all()) for part in (jet.log_scale, jet.gradient, jet.hessian))


def test_a_region_without_accepted_events_is_extrapolated_towards_zero() -> None:
    theta = draw_theta(500, 2)
    generated, accepted = throw(theta, torch.exp(-6.0 + 2.0 * theta[:, 0].clamp(max=2.0)), 2000.0, 3)
    model = fit_acceptance(SPACE, theta, generated, accepted)
    low, high = (model.acceptance(torch.tensor([t, 450.0], dtype=torch.float64)) for t in (-2.9, 1.5))
    assert float(low) < 1e-4
    assert float(high) == pytest.approx(float(torch.exp(torch.tensor(-3.0))), rel=0.1)


def test_without_nuisances_it_is_the_fraction() -> None:
    model = fit_acceptance(NONE, torch.zeros(3, 0), torch.tensor([100, 200, 300]), torch.tensor([10, 20, 30]))
    eps = model.acceptance(torch.zeros(2, 0))
    assert torch.allclose(eps, torch.full((2,), 60.5 / 601.0, dtype=torch.float64))
    assert torch.allclose(model.std(torch.zeros(0)), (eps[0] * (1 - eps[0]) / 601.0).sqrt())


def test_blocks_of_equal_theta_are_added_up() -> None:
    theta = draw_theta(60, 4)
    generated, accepted = throw(theta, smooth_truth(theta), 300.0, 1)
    whole = fit_acceptance(SPACE, theta, generated, accepted, degree=2)
    halves = fit_acceptance(
        SPACE, theta.repeat(2, 1), generated.repeat(2) / 2, torch.cat([accepted, torch.zeros(60)]), degree=2
    )
    assert torch.allclose(whole.coefficients, halves.coefficients, atol=1e-9)


def test_plain_data_round_trip() -> None:
    theta = draw_theta(60, 4)
    model = fit_acceptance(SPACE, theta, *throw(theta, smooth_truth(theta), 300.0, 1), degree=2, kinks=("t",))
    copy = AcceptanceModel.from_dict(model.to_dict(), SPACE, model.coefficients, model.covariance)
    assert torch.equal(copy.acceptance(theta), model.acceptance(theta))
    assert torch.equal(copy.std(theta), model.std(theta))


@pytest.mark.parametrize(
    ("generated", "accepted", "message"),
    [
        ([10.0, 10.0], [1.0, 11.0], "block 1 has n_accepted = 11 of n_generated = 10"),
        ([10.0, 10.0], [-1.0, 1.0], "block 0 has n_accepted = -1"),
        ([10.0, 10.0], [float("nan"), 1.0], "block 0 has n_accepted = nan"),
        ([0.0, 0.0], [0.0, 0.0], "no event was generated"),
        ([10.0], [1.0], "must have shapes"),
    ],
)
def test_bad_counts_are_refused(generated: list[float], accepted: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit_acceptance(SPACE, draw_theta(2, 1), torch.tensor(generated), torch.tensor(accepted))


def test_bad_theta_and_names_are_refused() -> None:
    counts = torch.tensor([10.0, 10.0]), torch.tensor([1.0, 1.0])
    with pytest.raises(RangeError, match="elife = 100"):
        fit_acceptance(SPACE, torch.tensor([[0.0, 100.0], [0.0, 300.0]]), *counts)
    with pytest.raises(ConfigError, match="unknown nuisance 'tt'; did you mean 't'"):
        fit_acceptance(SPACE, draw_theta(2, 1), *counts, kinks=("tt",))
    with pytest.raises(ConfigError, match="degree = -1"):
        ThetaBasis(SPACE, -1)


@pytest.mark.shared
@pytest.mark.parametrize(("name", "bound"), [("er", 0.0016), ("nr", 0.0036)])
def test_the_rate_of_flamedisx_is_met(shared: Path, name: str, bound: float) -> None:
    """400 blocks simulated with flamedisx 2.1.0 against its exact rate: rms of the logarithm of the ratio."""
    with h5py.File(shared / "data" / "flamedisx" / f"{name}_events.h5") as file:
        columns = {key: torch.from_numpy(file[key][:]) for key in ("theta", "n_simulated", "n_accepted", "mu_exact")}
        rate = float(file.attrs["mu_before_efficiencies"])
    space = NuisanceSpace((Nuisance("elife", "ns", 2.5e5, 9e5, 452e3, "log"), Nuisance("g1", "", 0.08, 0.14, 0.1)))
    model = fit_acceptance(space, columns["theta"], columns["n_simulated"], columns["n_accepted"])
    log_ratio = (rate * model.acceptance(columns["theta"]) / columns["mu_exact"]).log()
    assert float(log_ratio.square().mean().sqrt()) < bound
    pull = (rate * model.acceptance(columns["theta"]) - columns["mu_exact"]) / (rate * model.std(columns["theta"]))
    assert float(pull.square().mean().sqrt()) < 1.6


def test_a_step_that_lowers_the_likelihood_is_not_taken() -> None:
    """However short: with a gradient that points downhill the start stays."""

    class Downhill:
        start = 1.0

        def evaluate(self, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            ones = torch.ones(1, dtype=torch.float64)
            return -coefficients.square().sum(), ones, torch.eye(1, dtype=torch.float64)

    assert shrunken_fit(Downhill(), torch.tensor([0])).coefficients.tolist() == [1.0]
