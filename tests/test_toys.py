"""Counter-based random numbers and toys: known answers, laws of the distributions, independence of batching."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from inference.constraints.gaussian import GaussianConstraint, PoissonConstraint
from inference.data.files import write_toys
from inference.parameters import Parameter, ParameterSet
from inference.science_run import RunSource, ScienceRun, expected_counts
from inference.toys.draws import draw_toys, toy_index
from inference.toys.philox import MASK, philox, poisson_counts, stream_of, uniforms
from inference.toys.toy_tables import toy_tables
from surrogate.binning import Binning
from surrogate.errors import ConfigError, RangeError
from surrogate.template import TemplateSource

BINNING = Binning(
    ("cs1", "cs2"),
    (torch.tensor([0.0, 1.0, 4.0, 10.0]), torch.tensor([100.0, 200.0, 500.0])),
)
ER = TemplateSource(BINNING, {}, torch.tensor([[1.0, 2.0], [0.0, 3.0], [4.0, 0.0]]))
WIMP = TemplateSource(
    BINNING,
    {"t_ly": (-1.0, 0.0, 1.0)},
    torch.stack([torch.tensor([[6.0, 1.0], [1.0, 0.0], [0.0, 0.0]]) * s for s in (0.5, 1.0, 1.5)]),
)


def build(source_of_er=ER, binned=True):
    parameters = ParameterSet(
        (
            Parameter("livetime", "livetime", 2.0, fittable=False),
            Parameter("wimp_rate_multiplier", "rate", 1.0, 0.0, 100.0),
            Parameter("er_rate_multiplier", "rate", 1.0, 0.0, 100.0),
            Parameter("t_ly", "shape", 0.0, -1.0, 1.0),
        ),
        (GaussianConstraint("t_ly", 1.0, 0.0), PoissonConstraint("er_rate_multiplier", 10.0, 1.0)),
    )
    run = ScienceRun(
        "sr0",
        BINNING.space(),
        (
            RunSource("wimp", WIMP, "wimp_rate_multiplier", {"t_ly": "t_ly"}),
            RunSource("er", source_of_er, "er_rate_multiplier", {}),
        ),
        ("livetime",),
        BINNING.edges if binned else None,
    )
    return parameters, (run,)


class OnlyGenerator:
    """A source that knows nothing but how to sample with a generator."""

    observables, nuisances, breakpoints, identity = ER.observables, ER.nuisances, ER.breakpoints, "generator"
    expected_events = staticmethod(ER.expected_events)
    sample = staticmethod(ER.sample)


class FromNoise(OnlyGenerator):
    """A source whose events are a function of noise: uniform over the region of interest."""

    noise_shape = (2, 1)

    @staticmethod
    def sample_from_noise(noise, theta):
        return ER.observables.from_unit(noise[..., 0])


@pytest.mark.parametrize(
    ("seed", "counter", "expected"),
    [
        (0, (0, 0, 0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (2**64 - 1, (MASK,) * 4, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            0xA4093822 | 0x299F31D0 << 32,
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_known_answers(seed, counter, expected):
    """The known-answer vectors of the Random123 distribution (doi:10.1145/2063384.2063405), philox4x32-10."""
    words = philox(seed, tuple(torch.tensor(c) for c in counter))
    assert " ".join(f"{int(w):08x}" for w in words) == expected


def test_uniforms_are_uniform_independent_and_open():
    u = uniforms(7, torch.arange(20_000), stream_of("a"), 0, 3)
    assert float(u.min()) > 0
    assert float(u.max()) < 1
    for d in range(3):
        assert stats.kstest(u[:, d].numpy(), "uniform").pvalue > 1e-3
    assert np.abs(np.corrcoef(u.numpy().T) - np.eye(3)).max() < 0.03
    other = uniforms(7, torch.arange(20_000), stream_of("b"), 0, 3)
    assert abs(np.corrcoef(u[:, 0], other[:, 0])[0, 1]) < 0.03


def test_seed_out_of_range_is_refused():
    with pytest.raises(RangeError, match="seed = -1"):
        uniforms(-1, torch.arange(2), 0, 0)


@settings(max_examples=60, deadline=None)
@given(u=st.floats(1e-15, 1 - 1e-15), mean=st.floats(1e-6, 1e5))
def test_poisson_counts_invert_the_distribution(u, mean):
    k = int(poisson_counts(torch.tensor([u], dtype=torch.float64), torch.tensor([mean], dtype=torch.float64)))
    assert stats.poisson.cdf(k, mean) >= u - 1e-13
    assert k == 0 or stats.poisson.cdf(k - 1, mean) < u + 1e-13


def test_zero_mean_gives_zero_counts():
    u = torch.tensor([0.01, 0.99], dtype=torch.float64)
    assert poisson_counts(u, torch.zeros(2, dtype=torch.float64)).tolist() == [0, 0]


def same(first, second, rows):
    """Whether toys ``rows`` of the first batch are the toys of the second."""
    for name, label in second.labels.items():
        for i, row in enumerate(rows):
            mine, theirs = first.labels[name][row] >= 0, label[i] >= 0
            if not torch.equal(first.data.x[name][row][mine], second.data.x[name][i][theirs]):
                return False
    return torch.equal(first.data.centres[rows], second.data.centres)


@pytest.mark.parametrize("er", [ER, OnlyGenerator(), FromNoise()], ids=["histogram", "generator", "noise"])
def test_a_toy_does_not_depend_on_its_batch(er):
    parameters, runs = build(er, binned=er is ER)
    values = parameters.nominal().repeat(50, 1)
    values[:, 3] = torch.linspace(-1, 1, 50)
    index = toy_index(3, torch.arange(50))
    together = draw_toys(parameters, runs, values, index, seed=5)
    rows = torch.tensor([41, 7, 0, 23])
    assert same(together, draw_toys(parameters, runs, values[rows], index[rows], seed=5), rows)
    assert not same(together, draw_toys(parameters, runs, values[rows], index[rows], seed=6), rows)


def test_points_have_independent_toys():
    parameters, runs = build()
    first = draw_toys(parameters, runs, parameters.nominal(), toy_index(0, torch.arange(5)), 1)
    second = draw_toys(parameters, runs, parameters.nominal(), toy_index(1, torch.arange(5)), 1)
    assert not torch.equal(first.data.centres, second.data.centres)


def test_counts_bins_and_centres_follow_their_laws():
    parameters, runs = build()
    values = parameters.vector({"t_ly": 0.3, "wimp_rate_multiplier": 2.0})
    toys = draw_toys(parameters, runs, values, torch.arange(4000), seed=11)
    mean = expected_counts(parameters, runs[0], values[None])[0]
    label, x = toys.labels["sr0"], toys.data.x["sr0"]
    for c in range(2):
        n = (label == c).sum(dim=-1).numpy()
        assert abs(n.mean() - float(mean[c])) < 4 * np.sqrt(float(mean[c]) / len(n))
        assert abs(n.var() / n.mean() - 1) < 0.1
    theta = torch.tensor([0.3], dtype=torch.float64)
    for c, pmf in ((0, WIMP.pmf(theta)), (1, ER.pmf(theta[:0]))):
        observed = torch.bincount(BINNING.index(x[label == c]), minlength=6).numpy()
        expected = pmf.numpy() * observed.sum()
        assert observed[expected == 0].sum() == 0
        assert stats.chisquare(observed[expected > 0], expected[expected > 0]).pvalue > 1e-3
    centres = toys.data.centres.numpy()
    assert centres[:, 0].min() == -1.0
    assert centres[:, 0].max() == 1.0
    inside = np.abs(centres[:, 0]) < 1
    assert abs(inside.mean() - (stats.norm.cdf(0.7) - stats.norm.cdf(-1.3))) < 0.03
    assert abs(centres[:, 1].mean() - 1.0) < 0.02
    assert np.allclose(centres[:, 1] * 10 % 1, 0)


def test_zero_rates_give_empty_toys():
    parameters, runs = build()
    values = parameters.vector({"er_rate_multiplier": 0.0, "wimp_rate_multiplier": 0.0})
    toys = draw_toys(parameters, runs, values, torch.arange(3), seed=1)
    assert toys.data.total_weight().tolist() == [0, 0, 0]


def test_adding_a_source_leaves_the_others_as_they_were():
    parameters, (run,) = build()
    alone = ScienceRun("sr0", run.observables, run.sources[:1], run.exposure_parameters, run.binning)
    index = torch.arange(20)
    both = draw_toys(parameters, (run,), parameters.nominal(), index, 2)
    one = draw_toys(parameters, (alone,), parameters.nominal(), index, 2)
    for t in range(20):
        kept = both.labels["sr0"][t] == 0
        assert torch.equal(both.data.x["sr0"][t][kept], one.data.x["sr0"][t][one.labels["sr0"][t] >= 0])


def test_bad_input_is_refused():
    parameters, runs = build()
    with pytest.raises(RangeError, match=r"t_ly = 1\.5"):
        draw_toys(parameters, runs, torch.tensor([2.0, 1.0, 1.0, 1.5]), torch.arange(2), 1)
    with pytest.raises(ConfigError, match="values: shape"):
        draw_toys(parameters, runs, torch.zeros(3, 4), torch.arange(2), 1)
    huge = torch.tensor([1e8, 1.0, 1.0, 0.0], dtype=torch.float64)
    with pytest.raises(RangeError, match="expected in a toy"):
        draw_toys(parameters, runs, huge, torch.arange(2), 1)


def test_toy_tables_are_what_alea_reads(tmp_path):
    parameters, runs = build()
    toys = draw_toys(parameters, runs, parameters.nominal(), torch.arange(3), 1)
    write_toys(tmp_path / "toys.h5", toy_tables(parameters, runs, toys), {})
    with h5py.File(tmp_path / "toys.h5") as file:
        assert json.loads(file.attrs["dataset_names"]) == ["sr0", "ancillary", "generate_values"]
        events = file["2/sr0"][()]
        assert events.dtype.names == ("cs1", "cs2", "source")
        assert len(events) == int(toys.data.total_weight()[2])
        assert set(events["source"]) <= {0, 1}
        ancillary = file["2/ancillary"][()]
        assert ancillary.dtype.names == ("er_rate_multiplier", "t_ly")
        assert ancillary["t_ly"][0] == float(toys.data.centres[2, 0])
        assert file["2/generate_values"][()]["livetime"][0] == 2.0
