"""Data sets drawn from the simulator: exact counts, provenance, files."""

from __future__ import annotations

import json
import math

import h5py
import numpy as np
import pytest
import torch

import xeflow
from inference.data.files import read_tables
from surrogate.errors import ConfigError, RangeError
from surrogate.observables import ObservableSpace
from training.experiment import Experiment, record
from training.simulator.catalogue import standard_source
from training.simulator.detector import Detector
from training.simulator.spaces import observable_space
from training.simulator.theta import nominal_theta, split_theta
from training.simulator_config import read_detector


@pytest.fixture(scope="module")
def detector() -> Detector:
    return read_detector("xenon1t_like")


@pytest.fixture(scope="module")
def space(detector) -> ObservableSpace:
    return observable_space(detector, "A")


def experiment(detector, space, exposure=1.0, theta=None, **multipliers) -> Experiment:
    sources = tuple((standard_source(name, detector), m) for name, m in multipliers.items())
    return Experiment("run", detector, space, sources, exposure, theta or {})


def test_counts_are_poisson_with_the_rate_of_the_simulator(detector, space):
    source = standard_source("er", detector)
    n = 200_000
    generator = torch.Generator().manual_seed(1)
    columns = source.generate(n, split_theta(nominal_theta(detector), torch.zeros(0)), generator, {})
    x = torch.stack([columns[name] for name in space.names], dim=1).double()
    kept = int(space.contains(x).sum())
    mean = source.generated_rate * kept / n
    draws = [record(experiment(detector, space, er=1.0), seed).counts["er"] for seed in range(300)]
    assert np.mean(draws) == pytest.approx(mean, abs=4 * math.sqrt(mean / 300 + mean**2 / kept))
    # The variance of a Poisson sample has relative standard deviation sqrt(2/n).
    assert np.var(draws, ddof=1) / mean == pytest.approx(1.0, abs=4 * math.sqrt(2 / 300))


def test_many_data_sets_lie_in_one_file(tmp_path):
    """Each is the data set of its own seed; those of one file differ."""
    path = tmp_path / "sets.h5"
    words = ["draw", "xenon1t_like", "--source", "nr=20", "--run", "xenon1t", "--output", str(path)]
    assert xeflow.main([*words, "--seed", "5", "--number", "3"]) == 0
    sets = [read_tables(path, k)["xenon1t"] for k in range(3)]
    assert xeflow.main([*words, "--seed", "7"]) == 0
    alone = read_tables(path)["xenon1t"]
    for name in sets[0].dtype.names:
        np.testing.assert_array_equal(sets[2][name], alone[name])
    assert len({len(events) for events in sets}) > 1


def test_exposure_and_multiplier_scale_the_counts_alike(detector, space):
    long = [record(experiment(detector, space, 40.0, wimp50=1.0), seed).counts["wimp50"] for seed in range(50)]
    strong = [record(experiment(detector, space, 1.0, wimp50=40.0), seed).counts["wimp50"] for seed in range(50)]
    assert long == strong
    assert np.mean(long) > 20


def test_events_lie_in_the_window_and_are_mixed(detector, space):
    drawn = record(experiment(detector, space, er=1.0, wimp50=300.0), 7)
    assert len(drawn.x) == sum(drawn.counts.values())
    assert bool(space.contains(torch.from_numpy(drawn.x)).all())
    half = len(drawn.x) // 2
    light = drawn.x[:, 1] / drawn.x[:, 0]
    spread = light.std() * math.sqrt(2 / half)
    assert light[:half].mean() == pytest.approx(light[half:].mean(), abs=4 * spread)


def test_same_seed_same_events_and_sources_do_not_disturb_each_other(detector, space):
    alone = record(experiment(detector, space, er=1.0), 3)
    again = record(experiment(detector, space, er=1.0), 3)
    joined = record(experiment(detector, space, er=1.0, nr=1.0), 3)
    np.testing.assert_array_equal(alone.x, again.x)
    assert set(map(tuple, alone.x)) <= set(map(tuple, joined.x))
    assert record(experiment(detector, space, er=1.0), 4).x.shape != alone.x.shape


def test_a_shorter_lifetime_lowers_s2(detector, space):
    nominal = record(experiment(detector, space, 20.0, er=1.0), 5).x
    short = record(experiment(detector, space, 20.0, {"elife": 330.0}, er=1.0), 5).x
    assert np.median(short[:, 1]) < 0.97 * np.median(nominal[:, 1])


def test_file_holds_columns_units_and_provenance(detector, space, tmp_path):
    drawn = record(experiment(detector, space, er=1.0), 11)
    path = tmp_path / "data.h5"
    drawn.write(path)
    with h5py.File(path) as file:
        assert list(file) == ["run"]
        assert {name: file["run"][name].attrs["unit"] for name in file["run"]} == {
            "cs1": "PE", "cs2": "PE", "r": "cm", "z": "cm",
        }  # fmt: skip
        np.testing.assert_array_equal(np.stack([file["run"][name][()] for name in space.names], axis=1), drawn.x)
        assert json.loads(file.attrs["description"]) == drawn.to_dict()


def test_nothing_recorded_is_a_data_set(detector, space):
    for empty in (experiment(detector, space, 0.0, er=1.0), experiment(detector, space, er=0.0)):
        assert record(empty, 1).x.shape == (0, space.dim)


def test_bad_input(detector, space):
    with pytest.raises(ConfigError, match=r"exposure = -1\.0 tonne-years must be finite and >= 0"):
        experiment(detector, space, -1.0, er=1.0)
    with pytest.raises(ConfigError, match="multiplier nan of 'er'"):
        experiment(detector, space, er=math.nan)
    with pytest.raises(ConfigError, match=r"unknown nuisance 'elif'; did you mean 'elife'\?"):
        experiment(detector, space, theta={"elif": 450.0}, er=1.0)
    with pytest.raises(RangeError, match="g1 = 2"):
        experiment(detector, space, theta={"g1": 2.0}, er=1.0)
    other = read_detector("lz_like")
    with pytest.raises(ConfigError, match="belongs to detector 'lz_like'"):
        Experiment("run", detector, space, ((standard_source("wimp50", other), 1.0),), 1.0)
    with pytest.raises(ConfigError, match="sources must be unique"):
        Experiment("run", detector, space, ((standard_source("er", detector), 1.0),) * 2, 1.0)
    with pytest.raises(ConfigError, match="seed"):
        record(experiment(detector, space, er=1.0), -1)


def test_verb_writes_data_and_record(tmp_path, capsys):
    path = tmp_path / "data.h5"
    words = ["draw", "xenon1t_like", "--source", "er", "--source", "wimp50=30", "--run", "sr1", "--seed", "9"]
    assert xeflow.main([*words, "--theta", "elife=430", "--output", str(path), "--json", "-"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["data"] == str(path)
    assert result["multipliers"] == {"er": 1.0, "wimp50": 30.0}
    assert result["theta"]["elife"] == 430.0
    assert result["n_events"] == sum(result["counts"].values()) == len(read_tables(path)["sr1"])
    assert xeflow.main([*words, "--output", str(path)]) == 0
    assert "wimp50" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", "err"], "unknown source 'err'; did you mean 'er'?"),
        (["--source", "er=much"], "--source er=much: must be NAME=VALUE with a number, such as er=1"),
        (["--source", "er", "--source", "er=2"], "'er' is given twice"),
        (["--source", "er", "--theta", "elife"], "--theta elife: must be NAME=VALUE with a number"),
        (["--source", "er", "--space", "E"], "unknown space 'E'"),
    ],
)
def test_verb_refuses_bad_words(words, message, tmp_path, capsys):
    output = tmp_path / "data.h5"
    assert xeflow.main(["draw", "xenon1t_like", *words, "--run", "sr1", "--output", str(output)]) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()
