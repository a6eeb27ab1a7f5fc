"""CLs limits: the law of its critical value, toys, and counting experiments in closed form."""

from __future__ import annotations

import math
from pathlib import Path

import model_files
import numpy as np
import pytest
import torch
from counting_models import counting, counts
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from test_expansion import flow_model

import xeflow
from inference.constraints.gaussian import GaussianConstraint
from inference.expansion.build import ExpansionOptions
from inference.intervals.confidence import confidence_interval
from inference.likelihood.extended import Likelihood
from inference.model import StatisticalModel
from inference.pools.builder import PoolOptions
from inference.pools.choice import PoolChoice
from inference.reports.cls_study import CLsLimit, cls_study
from inference.results import Interval
from inference.studies.cls import asymptotic_cls_critical, cls_limit, cls_point
from inference.studies.cls_limits import asymptotic_cls_curve, cls_from_toys, cls_points
from inference.studies.toy_pairs import run_pairs
from inference.toy_studies import ToySettings
from surrogate.errors import ConfigError, DataError


def gaussian_cls(x: float, mu: float) -> float:
    """CLs of x ~ N(mu, 1)."""
    return float(stats.norm.cdf(x - mu) / stats.norm.cdf(x))


def gaussian_q(x: np.ndarray, mu: float) -> np.ndarray:
    """q_mu_tilde of x ~ N(mu, 1)."""
    return np.where(x > mu, 0.0, np.where(x < 0, mu**2 - 2 * mu * x, (mu - x) ** 2))


def test_asymptotic_critical_value_of_a_gaussian_measurement() -> None:
    for x in (-1.0, 0.0, 0.7, 2.0):
        limit = optimize.brentq(lambda mu, x=x: gaussian_cls(x, mu) - 0.1, max(x, 0.0), 10.0)
        expected = float(gaussian_q(np.array(x), limit))
        assert asymptotic_cls_critical(np.array([limit**2]))[0] == pytest.approx(expected, rel=1e-8)
    # From a signal that cannot be seen to one that cannot be missed.
    assert asymptotic_cls_critical(np.array([0.0, 1e4])) == pytest.approx([-2 * math.log(0.1), 1.6424], abs=1e-2)


def test_points_of_many_toys_follow_the_asymptotic_law() -> None:
    rng = np.random.default_rng(7)
    signal, background = gaussian_q(rng.normal(2.0, size=100_000), 2.0), gaussian_q(rng.normal(size=100_000), 2.0)
    found = cls_point(2.0, float(gaussian_q(np.array(0.5), 2.0)), signal, background)
    assert found.value == pytest.approx(gaussian_cls(0.5, 2.0), abs=4 * found.error)
    # Toys without valid fits can only raise it.
    lost = np.full(2000, np.nan)
    assert cls_point(2.0, 2.25, np.append(signal, lost), background).value > found.value
    assert cls_point(2.0, 2.25, signal, np.append(background, lost)).value > found.value


@pytest.mark.parametrize(("n", "background"), [(90, 100.0), (120, 100.0)])
def test_asymptotic_limit_of_many_counts_is_the_gaussian_one(n: int, background: float) -> None:
    """With the variance n + ... of many counts; the laws differ by their skewness, a few per cent."""
    likelihood = Likelihood(*counting(background), counts([n]))
    curve = asymptotic_cls_curve(likelihood, "mu")
    upper = confidence_interval(likelihood, "mu", 0.9, "upper", curve).upper
    exact = optimize.brentq(
        lambda mu: stats.poisson.cdf(n, background + mu) / stats.poisson.cdf(n, background) - 0.1, 0.1, 100.0
    )
    assert upper.value == pytest.approx(exact, rel=0.05)
    frequentist = confidence_interval(likelihood, "mu", 0.9, "upper").upper.value
    assert frequentist is not None
    assert upper.value > frequentist


@pytest.mark.parametrize("n", [0, 3])
def test_toys_give_the_limit_of_a_counting_experiment(n: int) -> None:
    """P(N <= n | mu + b) / P(N <= n | b) = 0.1; without events that is at -ln 0.1 for any b."""
    likelihood = Likelihood(*counting(1.0), counts([n]))
    exact = optimize.brentq(lambda mu: stats.poisson.cdf(n, 1 + mu) / stats.poisson.cdf(n, 1) - 0.1, 0.1, 20.0)
    points, tested = cls_points(likelihood, "mu", [exact * f for f in (0.8, 0.95, 1.1, 1.25)])
    pairs = run_pairs(likelihood.parameters, likelihood.runs, "mu", points, 8000, 3, tested)
    value, error = cls_limit(cls_from_toys(likelihood, pairs))
    assert value == pytest.approx(exact, abs=4 * error)
    assert error < 0.1 * exact
    with pytest.raises(ConfigError, match="above 0"):
        cls_points(likelihood, "mu", [0.0, 1.0])


@pytest.mark.parametrize("n", [0, 3])
def test_limits_of_few_toys_are_unbiased_and_their_errors_honest(n: int) -> None:
    """Of 300 constructions with 400 toys a point; a false alarm has a probability of 1e-3."""
    rng = np.random.default_rng(7)
    exact = optimize.brentq(lambda mu: stats.poisson.cdf(n, 1 + mu) / stats.poisson.cdf(n, 1) - 0.1, 0.1, 20.0)
    grid, pulls = exact * np.linspace(0.4, 1.6, 12), []
    for _ in range(300):
        # q_mu falls with the count, which 100 less the count does as well
        signal, alone = 100.0 - rng.poisson(1 + grid, (400, 12)), 100.0 - rng.poisson(1.0, (400, 12))
        points = [cls_point(float(mu), 100.0 - n, signal[:, k], alone[:, k]) for k, mu in enumerate(grid)]
        value, error = cls_limit(points)
        pulls.append((value - exact) / error)
    assert abs(np.mean(pulls)) < 3.3 / math.sqrt(300) + 0.1
    assert np.std(pulls) == pytest.approx(1.0, abs=3.3 / math.sqrt(600))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 5), st.integers(0, 5)), max_size=8))
def test_limits_of_any_toys_are_on_the_grid_or_refused(drawn: list[tuple[int, int, int]]) -> None:
    toys = np.arange(5.0)
    points = [cls_point(0.5 * k, 1.0, np.where(toys < s, 2.0, 0.0), np.where(toys < b, 2.0, 0.0)) for k, s, b in drawn]
    try:
        value, error = cls_limit(points)
    except DataError:
        return
    assert min(p.mu for p in points) <= value <= max(p.mu for p in points)
    assert 0 < error < math.inf


def test_toys_come_from_a_pool_where_that_pays() -> None:
    """CLs of toys with expanded densities is that of exact ones, within the errors of their numbers."""
    model = StatisticalModel(*flow_model())
    model.data = model.generate_data(seed=4, mu=0.0)
    accuracy = ExpansionOptions(tolerance=0.02, held_out=16)
    pools = PoolChoice(options=PoolOptions(oversampling=8.0, least=1500, seed=4, accuracy=accuracy))
    quick, exact = (cls_study(model, "mu", None, ToySettings(100, 1, pools=p), 2) for p in (pools, None))
    assert exact.n_expanded == 0
    assert exact.expansion_error is None
    assert quick.n_expanded > 380
    assert quick.expansion_error is not None
    assert quick.expansion_error < 0.05
    for one, other in zip(quick.points, exact.points, strict=True):
        assert one.value == pytest.approx(other.value, abs=4 * math.hypot(one.error, other.error))


def test_nuisances_are_profiled_and_bad_input_is_refused() -> None:
    known = Likelihood(*counting(1e4, high=1e4), counts([10_000]))
    loose = Likelihood(*counting(1e4, GaussianConstraint("b", 100.0, 1e4), high=1e4), counts([10_000], [1e4]))
    limits = [
        confidence_interval(model, "mu", 0.9, "upper", asymptotic_cls_curve(model, "mu")).upper.value
        for model in (known, loose)
    ]
    # Counting and background errors of 100 each.
    assert limits[1] / limits[0] == pytest.approx(math.sqrt(2), rel=0.01)
    with pytest.raises(DataError, match="takes one data set"):
        asymptotic_cls_curve(Likelihood(*counting(1.0), counts([1, 2])), "mu")
    at = asymptotic_cls_curve(known, "mu")(torch.tensor([0.0, 50.0, 200.0], dtype=torch.float64))
    assert bool((at.diff() < 0).all())


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(model_files.write_model(tmp_path))
    data = str(tmp_path / "data.npz")
    np.savez(data, **dict(zip(("sr0", "sr1", "ancillary"), model_files.data(), strict=True)))
    words = ["limit", model, "-d", data, "--cls", "--output", str(tmp_path / "out")]
    assert xeflow.main([*words, "--json", str(tmp_path / "limit.json")]) == 0
    said = capsys.readouterr().out
    assert "statistic q_mu_tilde, asymptotic CLs critical value" in said
    assert "90 % CLs upper limit on wimp_rate_multiplier" in said
    asymptotic = Interval.from_json((tmp_path / "limit.json").read_text())
    toys = ["--critical", "toys", "--toys", "60", "--json", str(tmp_path / "toys.json"), "--store"]
    assert xeflow.main([*words, *toys, str(tmp_path / "toys.h5")]) == 0
    found = CLsLimit.from_json((tmp_path / "toys.json").read_text())
    assert CLsLimit.load(tmp_path / "out" / "cls.json") == found
    for name in ("summary.txt", "cls.png", "projections.png"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    assert found.asymptotic.upper.value == pytest.approx(asymptotic.upper.value, rel=1e-6)
    assert found.value == pytest.approx(asymptotic.upper.value, rel=0.3)
    assert "90 % CLs upper limit on wimp_rate_multiplier" in capsys.readouterr().out
    capsys.readouterr()
    assert xeflow.main([*words, "--kind", "central"]) == 2
    assert "--cls gives upper limits" in capsys.readouterr().err
