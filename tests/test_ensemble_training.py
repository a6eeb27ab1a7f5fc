"""Members of an ensemble: what differs between them, that none is trained twice, and what is made of them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import ValidationError
from source_cases import theta_points
from training_cases import SIMULATION, config, event_file

import xeflow
from surrogate.checkpoint import load_checkpoint, read_record, save_checkpoint
from surrogate.ensemble import EnsembleSource
from surrogate.errors import CheckpointError, ConfigError
from surrogate.flow_source import FlowSource
from training.jobs import member_job, sharing_of, training_jobs
from training.run_files import STATE_FILE
from training.settings import TrainConfig
from training.train import train, train_member


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble")
    event_file(folder / "events.h5")
    return folder


def three(folder: Path, name: str, bootstrap: str = "poisson", **changes) -> TrainConfig:
    block = {"members": 3, "bootstrap": bootstrap}
    return config(folder, name=name, checkpoint=str(folder / f"{name}_checkpoint"), ensemble=block, **changes)


def identity(settings: TrainConfig) -> str:
    return read_record(Path(settings.checkpoint))["identity"]


@pytest.fixture(scope="module")
def whole(folder):
    """A trained ensemble of three."""
    settings = three(folder, "whole")
    record = train(settings, shown=False)
    return settings, record


def test_members_differ_in_seed_part_and_bootstrap_and_not_with_the_size_of_the_ensemble(folder):
    jobs = training_jobs(three(folder, "e"))
    assert len({job.config.seed for job in jobs}) == 3
    assert [job.split.part for job in jobs] == [0, 1, 2]
    assert len({job.split.bootstrap for job in jobs}) == 3
    assert len({job.config.run_directory for job in jobs}) == 3
    assert len({job.split.seed for job in jobs}) == 1
    more = config(folder, name="e", ensemble={"members": 5, "bootstrap": "poisson"})
    assert [job.split for job in training_jobs(more)[:3]] == [job.split for job in jobs]
    assert [job.fingerprint("x") for job in training_jobs(more)[:3]] == [job.fingerprint("x") for job in jobs]
    assert len({json.dumps(job.fingerprint("x")) for job in jobs}) == 3
    plain = training_jobs(three(folder, "e", "none"))
    assert all(job.split.bootstrap is None for job in plain)
    assert plain[1].fingerprint("x") != jobs[1].fingerprint("x")
    index = torch.arange(10_000)
    trained_on = torch.stack([job.split.copies(index) for job in plain]).sum(dim=0)
    assert int(trained_on.min()) >= 2  # together they use every event


def test_a_single_training_is_an_ensemble_of_one(folder):
    settings = config(folder, name="single", checkpoint=str(folder / "single"))
    (job,) = training_jobs(settings)
    assert job.config is settings
    record = train(settings, shown=False)
    assert len(record.members) == 1
    assert not isinstance(load_checkpoint(folder / "single"), EnsembleSource)
    assert "sharing" not in read_record(folder / "single")["members"][0]


def test_one_command_makes_one_checkpoint_of_all_members(whole):
    settings, record = whole
    source = load_checkpoint(Path(settings.checkpoint))
    assert isinstance(source, EnsembleSource)
    assert (len(source.members), source.sharing) == (3, "bootstrap")
    assert len({member.identity for member in source.members}) == 3
    # the counts are not resampled: one acceptance, fitted to all of them
    theta = source.nuisances.nominal()
    assert float(source.expected_events_spread(theta)) == pytest.approx(0.0, abs=1e-9)
    assert record.steps == 180
    assert record.held_out_nll == pytest.approx(sum(m.held_out_nll for m in record.members) / 3)
    errors = [m.held_out_error for m in record.members]
    assert record.held_out_error == pytest.approx(sum(e * e for e in errors) ** 0.5 / 3)
    metadata = read_record(Path(settings.checkpoint))["metadata"]
    assert metadata["seeds"]["members"] == [m.seed for m in record.members]
    assert metadata["metrics"]["members"] == json.loads(json.dumps([asdict(m) for m in record.members]))


def test_members_trained_apart_are_assembled(folder, whole):
    settings = three(folder, "apart")
    for member in (2, 0):
        train_member(settings, member, shown=False)
    states = {k: settings.run_directory / f"apart.{k}" / STATE_FILE for k in range(3)}
    assert [k for k, state in states.items() if state.exists()] == [0, 2]
    assert not Path(settings.checkpoint).exists()
    written = {k: states[k].stat().st_mtime_ns for k in (0, 2)}
    train(settings, shown=False)
    assert {k: states[k].stat().st_mtime_ns for k in (0, 2)} == written  # those were not trained again
    assert identity(settings) == identity(whole[0])
    train_member(settings, 1, restart=True, shown=False)
    assert states[1].stat().st_mtime_ns > written[0]
    assert states[0].stat().st_mtime_ns == written[0]


def test_a_larger_ensemble_keeps_the_members_there_are(folder, whole):
    settings, _ = whole
    larger = settings.model_copy(update={"ensemble": settings.ensemble.model_copy(update={"members": 4})})
    state = settings.run_directory / "whole.0" / STATE_FILE
    written = state.stat().st_mtime_ns
    member = member_job(larger, 0)
    assert member.config.run_directory == settings.run_directory / "whole.0"
    train_member(larger, 0, shown=False)
    assert state.stat().st_mtime_ns == written
    with pytest.raises(ConfigError, match="members 0 to 3; raise"):
        train_member(larger, 4, shown=False)


def test_another_bootstrap_does_not_continue_the_members(folder, whole):
    settings, _ = whole
    plain = settings.model_copy(update={"ensemble": settings.ensemble.model_copy(update={"bootstrap": "none"})})
    with pytest.raises(ConfigError, match="another split; start afresh with --restart"):
        train(plain, shown=False)


def test_an_ensemble_is_distilled_into_one_flow(folder, whole):
    settings, record = whole
    block = settings.ensemble.model_copy(update={"distil": 300})
    distilled = settings.model_copy(update={"ensemble": block, "checkpoint": str(folder / "distilled")})
    again = train(distilled, shown=False)
    assert again.members == record.members  # none was trained again
    assert again.distilled is not None
    assert again.steps == 180 + 300
    assert again.distilled.best_step == 300
    assert again.held_out_nll == again.distilled.held_out_nll
    mean, flow = load_checkpoint(Path(settings.checkpoint)), load_checkpoint(folder / "distilled")
    assert isinstance(mean, EnsembleSource)
    assert isinstance(flow, FlowSource)
    generator = torch.Generator().manual_seed(2)
    theta = theta_points(mean.nuisances, 3000)
    x = mean.sample(3000, theta, generator)
    error = [float((source.log_prob(x, theta) - mean.log_prob(x, theta)).std()) for source in (flow, *mean.members)]
    assert error[0] < 0.5 * min(error[1:])
    other = distilled.model_copy(update={"ensemble": block.model_copy(update={"members": 2})})
    with pytest.raises(ConfigError, match="another teachers; start afresh"):
        train(other, shown=False)
    with pytest.raises(ValidationError, match="nothing to distil from one member"):
        config(folder, ensemble={"distil": 10})


def test_members_take_orderings_in_turn_and_are_distilled(folder):
    orderings = [["cs1", "cs2"], ["cs2", "cs1"]]
    block = {"members": 3, "distil": 60, "orderings": orderings}
    settings = config(folder, name="orders", checkpoint=str(folder / "orders"), ensemble=block)
    jobs = training_jobs(settings)
    assert [job.config.flow.ordering for job in jobs] == [("cs1", "cs2"), ("cs2", "cs1"), ("cs1", "cs2")]
    settings = settings.model_copy(update={"ensemble": settings.ensemble.model_copy(update={"members": 2})})
    train(settings, shown=False)
    flow = load_checkpoint(folder / "orders")
    assert isinstance(flow, FlowSource)
    assert flow.flow.config.ordering == settings.flow.ordering
    with pytest.raises(ValidationError, match="set distil to make one flow"):
        config(folder, ensemble={"members": 2, "orderings": orderings})


def test_members_of_fresh_events_share_none(tmp_path, monkeypatch):
    content = {"data": {"events": ["events.h5"], "simulate": SIMULATION | {"n_generated": 20_000}, "fresh": True}}
    monkeypatch.chdir(tmp_path)
    settings = config(tmp_path, name="fresh", ensemble={"members": 2}, optimiser={"steps": 30}, **content)
    assert sharing_of(settings) == "none"
    train(settings, shown=False)
    source = load_checkpoint(Path(settings.checkpoint))
    assert isinstance(source, EnsembleSource)
    assert source.sharing == "none"
    theta = source.nuisances.nominal()
    spread, error = float(source.expected_events_spread(theta)), float(source.expected_events_std(theta))
    assert 0 < spread < 6 * error  # each has counts of its own
    with pytest.raises(ValidationError, match="set bootstrap to none"):
        config(tmp_path, ensemble={"members": 2, "bootstrap": "poisson"}, **content)


def test_a_bootstrap_of_one_is_refused(folder):
    with pytest.raises(ValidationError, match="a bootstrap needs several members"):
        config(folder, ensemble={"members": 1, "bootstrap": "poisson"})


def test_verbs_train_members_and_inspect_the_whole(folder, whole, capsys):
    settings, record = whole
    content = settings.model_dump(mode="json", exclude_defaults=True)
    (folder / "whole.yaml").write_text(yaml.safe_dump(content))
    command = ["train", str(folder / "whole.yaml"), "--json", "-"]
    assert xeflow.main([*command, "--member", "1"]) == 0
    assert json.loads(capsys.readouterr().out) == asdict(record.members[1])
    assert xeflow.main([*command, "--member", "3"]) == 2
    assert "members 0 to 2" in capsys.readouterr().err
    assert xeflow.main(command[:-2]) == 0
    assert "whole.2" in capsys.readouterr().out
    assert xeflow.main(["inspect", settings.checkpoint]) == 0
    assert "3, trained on bootstraps of the same events" in capsys.readouterr().out


def test_a_checkpoint_tells_what_members_share_or_is_refused(whole, tmp_path):
    settings, _ = whole
    source = load_checkpoint(Path(settings.checkpoint))
    assert isinstance(source, EnsembleSource)
    save_checkpoint(tmp_path / "one", EnsembleSource(source.members[:1], "all"), {})
    again = load_checkpoint(tmp_path / "one")
    assert isinstance(again, EnsembleSource)
    assert again.sharing == "all"
    save_checkpoint(tmp_path / "odd", EnsembleSource(source.members, "all"), {})
    assert read_record(tmp_path / "odd")["identity"] == source.identity
    text = (tmp_path / "odd" / "surrogate.json").read_text()
    (tmp_path / "odd" / "surrogate.json").write_text(text.replace('"all"', '"some"'))
    with pytest.raises(CheckpointError, match="altered"):
        load_checkpoint(tmp_path / "odd")


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_ensemble_training import LONG, three
from training.train import train
train(three(Path(sys.argv[2]), "killed", **LONG), shown=False)
"""
LONG = {"optimiser": {"batch_size": 256, "steps": 600, "learning_rate": 0.01}}


@pytest.mark.slow
def test_kill_9_and_run_again(folder):
    """An ensemble killed in its second member keeps the first, continues the second, and ends as if never killed."""
    settings = three(folder, "killed", **LONG)
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(folder)])
    second = settings.run_directory / "killed.1" / STATE_FILE
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not second.exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert second.exists()
    first = settings.run_directory / "killed.0" / STATE_FILE
    written = first.stat().st_mtime_ns
    assert not (settings.run_directory / "killed.2").exists()
    train(settings, shown=False)
    assert first.stat().st_mtime_ns == written
    never = three(folder, "never", **LONG)
    train(never, shown=False)
    assert identity(settings) == identity(never)
