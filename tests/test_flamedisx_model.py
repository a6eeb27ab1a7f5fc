"""The sums behind benchmarks/flamedisx_accuracy.py: against their own simulation and against reference values."""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from flamedisx_model import DRIFT_LENGTH, RecoilModel, Recoils

ELIFE, G1 = 400.0, 0.1


@pytest.fixture(scope="module", params=["er", "nr"])
def model(request: pytest.FixtureRequest) -> RecoilModel:
    return RecoilModel(request.param)


@pytest.fixture(scope="module")
def simulated(model: RecoilModel) -> tuple[int, Recoils]:
    return 400_000, model.simulate(400_000, ELIFE, G1, np.random.default_rng(5))


def test_the_simulated_share_is_the_acceptance(model: RecoilModel, simulated: tuple[int, Recoils]) -> None:
    n, events = simulated
    acceptance = model.acceptance(ELIFE, G1)
    error = np.sqrt(acceptance * (1 - acceptance) / n)
    assert abs(len(events.s1) / n - acceptance) < 4.5 * error  # fails once in 150,000 seeds


@pytest.mark.parametrize("cell", [((2.0, 6.0), (40.0, 400.0)), ((10.0, 20.0), (500.0, 900.0))])
def test_the_density_integrates_to_simulated_counts(
    model: RecoilModel, simulated: tuple[int, Recoils], cell: tuple[tuple[float, float], tuple[float, float]]
) -> None:
    n, events = simulated
    nodes, weights = np.polynomial.legendre.leggauss(12)
    axes = [low + (high - low) * (nodes + 1) / 2 for low, high in (*cell, (0.0, DRIFT_LENGTH))]
    s1, s2, time = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
    weight = np.einsum("i,j,k->ijk", *(3 * [weights / 2])).ravel()
    volume = np.prod([high - low for low, high in cell])
    expected = n * volume * float(weight @ model.density(Recoils(s1, s2, time), ELIFE, G1)[0])
    inside = [(low <= x) & (x < high) for x, (low, high) in zip((events.s1, events.s2), cell, strict=True)]
    assert abs(np.sum(inside[0] & inside[1]) - expected) < 4.5 * np.sqrt(expected)  # fails once in 150,000 seeds


@pytest.mark.shared
@pytest.mark.parametrize("row", range(5))
def test_reference_densities_are_reproduced(shared: Path, row: int) -> None:
    """Exact rates of flamedisx 2.1.0's ERSource, by an independent sum; events at the theta that made them."""
    model = RecoilModel("er")
    with h5py.File(shared / "data" / "flamedisx" / "er_truth.h5") as file:
        elife, g1 = file["theta"][row]
        own = np.flatnonzero(file["gen_index"][:] == row)[:100]
        columns = [file[name][:][own].astype(np.float64) for name in ("s1", "s2", "drift_time")]
        rate, mu = file["rate_exact"][:][own, row], file["mu_exact"][row]
        generated = file.attrs["mu_before_efficiencies"]
    events = Recoils(columns[0], columns[1], columns[2] / 1e3)
    np.testing.assert_allclose(generated * model.density(events, elife / 1e3, g1)[0], rate, rtol=1e-3)
    assert generated * model.acceptance(elife / 1e3, g1) == pytest.approx(mu, rel=3e-6)


@pytest.mark.shared
@pytest.mark.parametrize("kind", ["er", "nr"])
def test_reference_rates_are_reproduced(shared: Path, kind: str) -> None:
    model = RecoilModel(kind)
    with h5py.File(shared / "data" / "flamedisx" / f"{kind}_events.h5") as file:
        theta, mu = file["theta"][::50], file["mu_exact"][::50]
        generated = file.attrs["mu_before_efficiencies"]
    found = [generated * model.acceptance(elife / 1e3, g1) for elife, g1 in theta]
    np.testing.assert_allclose(found, mu, rtol=3e-6)
