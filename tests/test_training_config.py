"""Training configurations: what is accepted, and what is said of the rest."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from surrogate.errors import ConfigError
from training.config import load_config
from training.schedule import learning_rate_factor
from training.settings import OptimiserConfig

GOOD = """\
name: er
checkpoint: checkpoints/er
data:
  events: [er.h5]
flow:
  guides:
    - {kind: photon_gain, observable: cs1}
optimiser:
  learning_rate: 1e-3
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "train.yaml"
    path.write_text(text)
    return path


def test_defaults_fill_what_is_not_said(tmp_path):
    config = load_config(write(tmp_path, GOOD))
    assert config.optimiser.learning_rate == 1e-3
    assert config.flow.family == "logistic_mixture"
    assert config.run_directory == Path("runs/er")


def test_overrides_replace_what_the_file_says(tmp_path):
    config = load_config(
        write(tmp_path, GOOD), {"optimiser.learning_rate": "0.5", "stopping.patience": "3", "data.events": '["a", "b"]'}
    )
    assert config.optimiser.learning_rate == 0.5
    assert config.stopping.patience == 3
    assert config.data.events == ("a", "b")


def test_paths_name_environment_variables(tmp_path, monkeypatch):
    text = GOOD.replace("er.h5", '"${EVENTS_HERE}/er.h5"').replace("checkpoints/er", '"${NOT_SET:-there}/er"')
    monkeypatch.setenv("EVENTS_HERE", "data")
    config = load_config(write(tmp_path, text))
    assert config.data.events == ("data/er.h5",)
    assert config.checkpoint == "there/er"
    monkeypatch.delenv("EVENTS_HERE")
    with pytest.raises(ConfigError, match="EVENTS_HERE is not set"):
        load_config(write(tmp_path, text))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "learning_rate",
            "learning_rat",
            r"line 9: optimiser: unknown key 'learning_rat'; did you mean 'learning_rate'",
        ),
        ("optimiser", "optimizer", r"line 8: unknown key 'optimizer'; did you mean 'optimiser'"),
        ("name: er", "name: er\nname: nr", r"line 2: key 'name' stands twice"),
        ("name: er\n", "", "'name' is missing"),
        ("name: er\n", "name: ..\n", "name"),
        ("name: er\n", "name: a/b\n", "name"),
        ("1e-3", "-1", r"line 9: optimiser.learning_rate: .*greater than 0.*-1"),
        ("[er.h5]", "[]", "data.events"),
        ("photon_gain", "photon_gian", r"did you mean 'photon_gain'"),
        ("[er.h5]", "[er.h5]\n  fresh: true", "fresh events need a simulate or a templates block"),
        ("[er.h5]", "[a.h5, b.h5]\n  convert: {mapping: m.yaml, files: [x.h5]}", "exactly one file"),
        ("name: er", "- name: er", "not valid YAML"),
    ],
)
def test_bad_files_are_explained(tmp_path, old, new, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, GOOD.replace(old, new, 1)))


def test_unknown_key_in_a_simulate_block(tmp_path):
    text = GOOD.replace(
        "events: [er.h5]", "events: [er.h5]\n  simulate: {detector: d, sorce: er, n_generated: 1, seed: 1}"
    )
    with pytest.raises(ConfigError, match="unknown key 'sorce'; did you mean 'source'"):
        load_config(write(tmp_path, text))


def test_a_missing_file_and_a_file_that_is_no_mapping(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="must hold a mapping"):
        load_config(write(tmp_path, "just text"))
    with pytest.raises(ConfigError, match="is a value, not a block"):
        load_config(write(tmp_path, GOOD), {"name.x": "1"})


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).resolve().parents[1].glob("configs/train/*.yaml")), ids=lambda p: p.stem
)
def test_shipped_configurations_are_valid(path, monkeypatch):
    monkeypatch.setenv("XEFLOW_SHARED", "shared")
    config = load_config(path)
    assert config.name == path.stem
    if config.data.simulate is not None:
        plan = config.data.simulate.build(path.parent)
        flow = config.flow.build(plan.space, plan.nuisances)
        assert set(flow.ordering) <= set(plan.space.names)


def test_learning_rate_rises_and_falls():
    config = OptimiserConfig(warmup=0.1, final=0.01)
    rates = [learning_rate_factor(config, step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 101)
    assert max(rates) == rates[100] == 1.0
    assert all(a < b for a, b in itertools.pairwise(rates[:101]))
    assert all(a > b for a, b in itertools.pairwise(rates[100:]))
    # half way down the cosine is at its middle
    assert rates[550] == pytest.approx(0.01 + 0.99 / 2)
    assert rates[-1] == pytest.approx(0.01, abs=1e-4)
    assert learning_rate_factor(OptimiserConfig(schedule="constant"), 900, 1000) == 1.0
    cycle = [learning_rate_factor(OptimiserConfig(schedule="one_cycle"), step, 1000) for step in range(1000)]
    assert max(range(1000), key=cycle.__getitem__) == 300
