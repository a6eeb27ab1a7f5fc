"""The training loop: it learns, it ends, and an interruption leaves no trace."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_only
from training_cases import config, event_file

from surrogate.checkpoint import read_record
from surrogate.errors import CheckpointError, ConfigError, XeflowError
from surrogate.flow import ConditionalFlow
from surrogate.nuisance import Nuisance, NuisanceSpace
from surrogate.observables import Observable, ObservableSpace
from training import fit as fit_module
from training.event_set import EventSet
from training.event_writer import EventWriter, Segment
from training.events import Blocks, EventSchema
from training.fit import FittedFlow, fit_flow
from training.history import Check, History
from training.run_files import CURVE_FILE, HISTORY_FILE, STATE_FILE, drop_run
from training.settings import TrainConfig
from training.split import EventSplit
from training.supply import FileSupply


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    event_file(folder / "events.h5")
    return folder


def run(settings: TrainConfig, fingerprint: str = "same") -> FittedFlow:
    with EventSet.open([Path(p) for p in settings.data.events]) as events:
        flow = ConditionalFlow(settings.flow.build(events.observables, events.nuisances), seed=settings.seed)
        supply = FileSupply(events, settings.seed, EventSplit(settings.seed, settings.data.validation_fraction))
        return fit_flow(settings, flow, events, supply, {"events": fingerprint}, shown=False)


def weights(fitted: FittedFlow) -> torch.Tensor:
    return torch.cat([p.flatten() for p in fitted.flow.parameters()])


@pytest.fixture(scope="module")
def uninterrupted(folder):
    return run(config(folder, name="uninterrupted"))


def test_training_learns_and_keeps_its_best(folder, uninterrupted):
    history = uninterrupted.history
    assert history.stopped == "finished"
    assert [c.step for c in history.checks] == [15, 30, 45, 60]
    assert history.best.held_out_nll < history.checks[0].held_out_nll - 0.1
    assert history.best.held_out_nll < 0  # better than the uniform density
    lines = (folder / "runs" / "uninterrupted" / "history.csv").read_text().splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("step,train_nll,held_out_nll")


@pytest.mark.parametrize("algorithm", ["adamw", "muon"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_training_ends_with_the_same_weights(folder, monkeypatch, algorithm, error):
    uninterrupted = run(config(folder, name=f"uninterrupted_{algorithm}", optimiser={"algorithm": algorithm}))
    settings = config(folder, name=f"interrupted_{algorithm}_{error.__name__}", optimiser={"algorithm": algorithm})
    with monkeypatch.context() as patch:
        original = fit_module._Keeper.on_train_batch_end

        def fail_at_step_37(self, trainer, *rest):
            original(self, trainer, *rest)
            if trainer.global_step == 37:
                raise error("stop")

        patch.setattr(fit_module._Keeper, "on_train_batch_end", fail_at_step_37)
        with pytest.raises(error):
            run(settings)
    continued = run(settings)
    assert torch.equal(weights(continued), weights(uninterrupted))
    assert [c.step for c in continued.history.checks] == [15, 30, 45, 60]
    for mine, theirs in zip(continued.history.checks, uninterrupted.history.checks, strict=True):
        assert (mine.train_nll, mine.held_out_nll) == (theirs.train_nll, theirs.held_out_nll)


def test_a_finished_training_is_not_repeated(folder, uninterrupted):
    state = folder / "runs" / "uninterrupted" / STATE_FILE
    written = state.stat().st_mtime_ns
    again = run(config(folder, name="uninterrupted"))
    assert torch.equal(weights(again), weights(uninterrupted))
    assert state.stat().st_mtime_ns == written


def test_of_several_processes_one_writes_what_is_finished(folder, uninterrupted, monkeypatch):
    assert run(config(folder, name="uninterrupted")).primary
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert not run(config(folder, name="uninterrupted")).primary
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    monkeypatch.setenv("NODE_RANK", "1")
    assert not run(config(folder, name="uninterrupted")).primary


def test_a_time_limit_of_another_process_ends_the_training_for_good(folder, monkeypatch):
    monkeypatch.setattr(SingleDeviceStrategy, "reduce_boolean_decision", lambda *args, **options: True)
    settings = config(folder, name="other_clock")
    stopped = run(settings)
    assert (stopped.history.stopped, stopped.history.checks[-1].step) == ("time limit", 15)
    assert run(settings).history.checks == stopped.history.checks


def test_a_state_of_other_events_or_a_damaged_one_is_refused(folder, uninterrupted):
    with pytest.raises(ConfigError, match=r"another events; start afresh with --restart"):
        run(config(folder, name="uninterrupted"), fingerprint="other")
    broken = config(folder, name="broken")
    broken.run_directory.mkdir(parents=True)
    (broken.run_directory / STATE_FILE).write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match="no readable training state"):
        run(broken)


def test_only_the_files_of_trainings_are_dropped(tmp_path):
    run_directory = tmp_path / "er"
    for folder in (run_directory, run_directory / "er.0", run_directory / "er.11"):
        folder.mkdir()
        for name in (STATE_FILE, HISTORY_FILE, CURVE_FILE, f".{STATE_FILE}.0123456789abcdef.tmp"):
            (folder / name).touch()
    others = [run_directory / name for name in ("keep.txt", "er.0/notes.md", "er.old/last.ckpt", "er.2")]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    drop_run(run_directory)
    assert {path for path in run_directory.rglob("*") if path.is_file()} == set(others)
    assert not (run_directory / "er.11").exists()
    for path in others:
        path.unlink()
    (run_directory / "er.old").rmdir()
    drop_run(run_directory)
    assert not run_directory.exists()
    drop_run(run_directory)


def test_a_diverging_training_is_stopped_with_a_remedy(folder):
    settings = config(folder, name="diverging", optimiser={"learning_rate": 1e12, "gradient_clip": 1e12})
    with pytest.raises(XeflowError, match=r"diverged.*learning_rate"):
        run(settings)


def test_training_is_reproducible_and_depends_on_the_seed(folder, uninterrupted):
    again = run(config(folder, name="again"))
    assert torch.equal(weights(again), weights(uninterrupted))
    other = run(config(folder, name="other", seed=1))
    assert not torch.equal(weights(other), weights(uninterrupted))


def check(step: int, nll: float, seconds: float = 0.0) -> Check:
    return Check(step, nll, nll, 0.01, 1e-3, seconds)


def test_history_ends_a_training_for_the_right_reason():
    history = History()
    assert history.add(check(1, 3.0), 10, 2, None)
    assert not history.stopped
    assert not history.add(check(2, 3.5), 10, 2, None)
    assert not history.stopped
    assert not history.add(check(3, 3.0), 10, 2, None)
    assert history.stopped == "no improvement"
    assert history.best.step == 1
    history = History()
    history.add(check(1, 3.0, seconds=61.0), 10, 2, 60.0)
    assert history.stopped == "time limit"
    history = History()
    history.add(check(10, 3.0), 10, 2, None)
    assert history.stopped == "finished"
    assert History.from_dict(history.to_dict()) == history


@pytest.mark.parametrize("bootstrap", [None, 7])
def test_weighted_events_are_learned_with_their_weights(tmp_path, bootstrap):
    """Events uniform in u with weights 2 u: the density learned is 2 u, whose mean is 2/3."""
    generator = np.random.default_rng(1)
    u = generator.uniform(size=(6000, 1)).astype(np.float32)
    space = ObservableSpace((Observable("u", "", 0.0, 1.0),))
    nuisances = NuisanceSpace((Nuisance("t", "", -1.0, 1.0, 0.0),))
    writer = EventWriter(tmp_path / "weighted.h5", EventSchema(space, nuisances, 1.0, weighted=True), {})
    theta = generator.uniform(-1, 1, size=(60, 1))
    blocks = Blocks(theta, np.full(60, 200), np.full(60, 100))
    writer.write(0, Segment(blocks, u, np.repeat(np.arange(60), 100).astype(np.int32), 2 * u[:, 0]))
    path = writer.finish(1)
    optimiser = {"steps": 300, "learning_rate": 0.02, "ema_decay": 0.97}
    settings = config(tmp_path, name="weighted", optimiser=optimiser, stopping={"check_every": 100})
    with EventSet.open([path]) as events:
        flow = ConditionalFlow(settings.flow.build(events.observables, events.nuisances), seed=1)
        supply = FileSupply(events, 1, EventSplit(1, 0.1, 0, bootstrap))
        fitted = fit_flow(settings, flow, events, supply, {}, shown=False)
    x = fitted.flow.sample(20_000, torch.zeros(1), torch.Generator().manual_seed(1))
    assert float(x.mean()) == pytest.approx(2 / 3, abs=0.015)


SCRIPT = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from training_cases import config
from test_training_fit import run
torch.set_num_threads(1)
run(config(Path(sys.argv[2]), name="killed", optimiser={"batch_size": 256, "steps": 3000, "learning_rate": 0.01}))
"""


@pytest.mark.slow
def test_kill_9_and_run_again(folder):
    """A killed process leaves a whole state; the run that continues ends like one that was never killed."""
    long = {"batch_size": 256, "steps": 3000, "learning_rate": 0.01}
    whole = run(config(folder, name="whole", optimiser=long))
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(folder)]
    state = folder / "runs" / "killed" / STATE_FILE
    for _ in range(2):
        process = subprocess.Popen(command)
        before = state.stat().st_mtime_ns if state.exists() else 0
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not (state.exists() and state.stat().st_mtime_ns > before):
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert state.exists()
    killed = run(config(folder, name="killed", optimiser=long))
    assert torch.equal(weights(killed), weights(whole))


DISTRIBUTED = """
name: two
checkpoint: two
data: {events: [events.h5]}
flow: {hidden: 8, components: 4, blocks: 1}
optimiser: {batch_size: 256, steps: 60, learning_rate: 0.01}
stopping: {check_every: 15}
acceptance: {max_degree: 2}
devices: 2
"""


@pytest.mark.slow
def test_two_processes_train_like_one(folder, uninterrupted):
    (folder / "two.yaml").write_text(DISTRIBUTED)
    command = [sys.executable, "-m", "xeflow", "train", "two.yaml"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=folder, check=True, env=environment, timeout=300)
    with (folder / "runs" / "two" / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for row, check in zip(rows, uninterrupted.history.checks, strict=True):
        assert float(row["held_out_nll"]) == pytest.approx(check.held_out_nll, abs=1e-4)
        assert float(row["train_nll"]) == pytest.approx(check.train_nll, abs=1e-3)
    assert read_record(folder / "two")["metadata"]["config"]["devices"] == 2
