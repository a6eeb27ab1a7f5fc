"""Asimov data: every estimate is the truth, and medians follow the closed forms of arXiv:1007.1727."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from analytic_sources import LIVETIME, UNIT, AnalyticSource, exponential_source, flat_source, rate_parameter
from counting_models import counting, gaussian_background, on_off

from inference.constraints.gaussian import GaussianConstraint
from inference.fits.batch_fit import fit_batch
from inference.likelihood.extended import Likelihood
from inference.parameters import Parameter, ParameterSet
from inference.science_run import RunSource, ScienceRun
from inference.studies.discovery import discovery
from inference.toys.asimov import asimov_data
from surrogate.errors import ConfigError, RangeError


@pytest.mark.parametrize(("s", "b"), [(3.0, 1.0), (10.0, 9.0), (5.0, 100.0)])
def test_median_significance_of_counting(s, b):
    """Z_A = sqrt(2 ((s + b) ln(1 + s/b) - s)), arXiv:1007.1727, eq. 97."""
    parameters, runs = counting(b)
    found = discovery(Likelihood(parameters, runs, asimov_data(parameters, runs, {"mu": s})), "mu")
    assert found.z0 == pytest.approx(math.sqrt(2 * ((s + b) * math.log1p(s / b) - s)), rel=1e-6)


def test_median_significance_with_an_uncertain_background():
    """On/off counting: q0 at n = s + b, m = tau b is that of Li and Ma, Astrophys. J. 272 (1983) 317, eq. 17."""
    s, b, tau = 8.0, 5.0, 2.0
    parameters, runs = on_off(b, tau)
    found = discovery(Likelihood(parameters, runs, asimov_data(parameters, runs, {"mu": s, "b": b})), "mu")
    n, m = s + b, tau * b
    first = n * math.log(n * (1 + tau) / (n + m))
    second = m * math.log(m * (1 + tau) / (tau * (n + m)))
    assert found.z0 == pytest.approx(math.sqrt(2 * (first + second)), rel=1e-6)


def test_binned_estimates_are_the_truth():
    parameters, runs = gaussian_background(20.0, 4.0)
    truth = {"mu": 7.0, "b": 23.0}
    fit = fit_batch(Likelihood(parameters, runs, asimov_data(parameters, runs, truth)))
    torch.testing.assert_close(fit.values[0], parameters.vector(truth), rtol=1e-6, atol=0)


@dataclass(frozen=True, eq=False)
class ExponentialFromNoise(AnalyticSource):
    """The exponential of :func:`exponential_source`, drawn by inverting its cumulative distribution."""

    noise_shape: tuple[int, ...] = (1,)

    def sample_from_noise(self, noise, theta):
        s = 2 * (0.3 * theta[..., 0]).exp()
        return (-torch.log1p(noise[..., 0] * torch.expm1(-s)) / s).unsqueeze(-1)


def shape_model():
    base = exponential_source(200.0)
    source = ExponentialFromNoise(base.log_density, base.log_rate, base.nuisances, base.label)
    parameters = ParameterSet(
        (
            rate_parameter("signal"),
            rate_parameter("flat"),
            Parameter("slope", "shape", 0.0, -5, 5),
            Parameter("size", "shape", 0.0, -5, 5),
            LIVETIME,
        ),
        (GaussianConstraint("slope", 1.0, 0.0), GaussianConstraint("size", 1.0, 0.0)),
    )
    sources = (
        RunSource("signal", source, "signal", {"slope": "slope", "size": "size"}),
        RunSource("flat", flat_source(100.0), "flat", {}),
    )
    return parameters, (ScienceRun("run", UNIT, sources, ("livetime",)),)


def test_unbinned_estimates_are_the_truth():
    parameters, runs = shape_model()
    truth = {"signal": 1.3, "flat": 0.8, "slope": 0.5, "size": -0.3}
    data = asimov_data(parameters, runs, truth, n=8192)
    mean = 1.3 * 200 * math.exp(0.05 - 0.06 - 0.003) + 80
    assert float(data.events["run"].weight().sum()) == pytest.approx(mean, rel=1e-9)
    fit = fit_batch(Likelihood(parameters, runs, data))
    # The flat source is drawn at random here, not from noise: its 8192 events set the precision.
    torch.testing.assert_close(fit.values[0], parameters.vector(truth), rtol=0.05, atol=0.03)


def test_bad_input_is_refused():
    parameters, runs = counting(3.0)
    with pytest.raises(ConfigError, match="n = 0"):
        asimov_data(parameters, runs, n=0)
    with pytest.raises(RangeError, match="mu = -1"):
        asimov_data(parameters, runs, {"mu": -1.0})
