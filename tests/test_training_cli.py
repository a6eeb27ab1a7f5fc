"""The job and the verbs from a configuration to a certified checkpoint: records, files, exit codes."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from training_cases import SIMULATION, config, event_file, plan

import xeflow
from surrogate.certificate import read_certificate
from surrogate.checkpoint import load_checkpoint, read_record
from surrogate.errors import ConfigError, DataError
from surrogate.locks import only_writer
from training import prepare
from training.settings import TrainConfig
from training.simulation import simulate_to_file
from training.simulator_config import SimulationFile
from training.train import train
from training.truth import compare_with_truth
from training.validation_job import validate_checkpoint

TRAINING = {
    "name": "er",
    "checkpoint": "er",
    "data": {"events": ["er.h5"], "simulate": SIMULATION, "fresh": True},
    "flow": {"hidden": 16, "components": 6, "blocks": 1, "guides": [{"kind": "photon_gain", "observable": "cs1"}]},
    "optimiser": {"batch_size": 512, "steps": 300, "learning_rate": 0.01, "ema_decay": 0.98},
    "stopping": {"check_every": 50},
    "acceptance": {"max_degree": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    (folder / "train.yaml").write_text(yaml.safe_dump(TRAINING))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert xeflow.main(["train", "train.yaml", "--json", "train.json"]) == 0
    return folder


def test_train_writes_record_checkpoint_and_curve(folder):
    record = json.loads((folder / "train.json").read_text())
    assert [member["stopped"] for member in record["members"]] == ["finished"]
    assert record["steps"] == 300
    assert record["held_out_nll"] < -0.5
    assert (folder / "runs" / "er" / "training.png").stat().st_size > 0
    assert (folder / "er.h5").exists()
    content = read_record(folder / "er")
    assert content["metadata"]["config"]["data"]["simulate"]["source"] == "er"
    assert content["metadata"]["metrics"]["held_out_nll"] == record["held_out_nll"]
    assert content["metadata"]["events"]["detector"]["name"] == "xenon1t_like"
    assert [len(digest) for digest in content["metadata"]["data_hashes"]] == [64]


def test_the_trained_rate_is_the_simulators(folder):
    source = load_checkpoint(folder / "er")
    theta = source.nuisances.nominal()
    # 82 events per tonne-year and keV, in the window of cs1
    assert 500 < float(source.expected_events(theta)) < 1000
    assert float(source.expected_events_std(theta)) < 0.02 * float(source.expected_events(theta))


def test_the_same_training_twice_gives_the_same_checkpoint(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    first = read_record(folder / "er")["identity"]
    assert xeflow.main(["train", "train.yaml", "--checkpoint", str(tmp_path / "er"), "--restart"]) == 0
    assert read_record(tmp_path / "er")["identity"] == first


def test_validate_certifies_and_tells_by_its_exit_code(folder, capsys):
    arguments = ["validate", str(folder / "er"), "--events-number", "4000", "--figures", str(folder / "figures")]
    code = xeflow.main([*arguments, "--json", "-"])
    record = json.loads(capsys.readouterr().out)
    certificate = read_certificate(folder / "er")
    assert certificate is not None
    assert code == (0 if record["passed"] else 1)
    assert certificate.passed == record["passed"]
    assert {c["name"] for c in record["criteria"]} >= {"auc", "rate", "score_bias", "normalisation"}
    assert (folder / "figures" / "projections.png").stat().st_size > 0
    assert xeflow.main([*arguments, "--threshold", "auc=0.0001"]) == 1
    failed = read_certificate(folder / "er")
    assert failed is not None
    assert not failed.passed
    assert xeflow.main([*arguments, "--threshold", "auk=0.5"]) == 2
    assert "did you mean 'auc'" in capsys.readouterr().err


@pytest.mark.parametrize("fresh", [True, False])
def test_events_of_another_simulation_are_refused(folder, monkeypatch, fresh):
    monkeypatch.chdir(folder)
    data = TRAINING["data"] | {"fresh": fresh}
    changed = TRAINING | {"data": data | {"simulate": SIMULATION | {"source": "nr", "seed": 8}}}
    with pytest.raises(ConfigError, match="event file and the simulate block differ in source, generated rate"):
        train(TrainConfig.model_validate(changed), shown=False)
    ranges = {"elife": {"low": 400.0, "high": 500.0}, "g1": {"fixed": 0.12}}
    fixed = TRAINING | {"data": data | {"simulate": SIMULATION | {"nuisances": ranges}}}
    with pytest.raises(ConfigError, match="differ in nuisances, fixed; remove the file"):
        train(TrainConfig.model_validate(fixed), shown=False)


def test_a_training_on_fresh_events_is_not_continued_with_another_simulation(folder, monkeypatch):
    monkeypatch.chdir(folder)
    changed = TRAINING | {"data": TRAINING["data"] | {"simulate": SIMULATION | {"seed": 8}}}
    with pytest.raises(ConfigError, match="belongs to a training with another data; start afresh"):
        train(TrainConfig.model_validate(changed), shown=False)


def test_of_several_jobs_one_makes_the_event_file(tmp_path, monkeypatch):
    settings, made = config(tmp_path, data={"simulate": SIMULATION}), []
    path = tmp_path / "events.h5"
    monkeypatch.setattr(prepare, "simulate_to_file", lambda *args, **options: made.append(args))

    def other_job() -> None:
        with only_writer(path):
            locked.set()
            time.sleep(0.2)
            event_file(path)

    locked, job = threading.Event(), threading.Thread(target=other_job)
    job.start()
    locked.wait()
    with prepare.open_events(settings, tmp_path, shown=False) as events:
        assert events.n_events > 0
    job.join()
    assert not made


def test_validation_on_the_training_events_is_refused(folder, tmp_path):
    fresh = event_file(tmp_path / "fresh.h5", seed=77)
    with pytest.raises(DataError, match=r"er\.h5: .* was trained on it"):
        validate_checkpoint(folder / "er", [fresh, folder / "er.h5"], 4000, seed=1)
    with pytest.raises(ConfigError, match="seed = 5 is that of the training"):
        validate_checkpoint(folder / "er", [], 4000, seed=5)
    record = validate_checkpoint(folder / "er", [fresh], 4000, seed=1)
    assert record.n_generated == plan().n_blocks * 256


def test_validation_on_events_of_another_rate_is_refused(folder, tmp_path):
    block = SIMULATION | {"source": "nr", "seed": 6, "n_generated": 20_000}
    simulate_to_file(SimulationFile.model_validate(block).build(Path()), tmp_path / "nr.h5", workers=1)
    with pytest.raises(DataError, match="are generated per tonne-year"):
        validate_checkpoint(folder / "er", [tmp_path / "nr.h5"], 4000, seed=1)


def test_inspect_prints_a_checkpoint(folder, capsys):
    assert xeflow.main(["inspect", str(folder / "er")]) == 0
    shown = capsys.readouterr().out
    for text in ("cs1", "elife", "photon_gain on cs1", "logistic_mixture", "held out", "certificate"):
        assert text in shown
    assert xeflow.main(["inspect", str(folder / "er"), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["metadata"]["name"] == "er"
    assert xeflow.main(["inspect", str(folder)]) == 2
    assert "surrogate.json" in capsys.readouterr().err


def test_simulate_writes_an_event_file(tmp_path, capsys):
    (tmp_path / "sim.yaml").write_text(yaml.safe_dump(SIMULATION | {"n_generated": 5000}))
    output = tmp_path / "events.h5"
    assert xeflow.main(["simulate", str(tmp_path / "sim.yaml"), str(output), "--workers", "1", "--json", "-"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["n_generated"] == 5120
    assert output.exists()


def test_bad_input_of_train_ends_with_one_line(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert xeflow.main(["train", "train.yaml", "--set", "optimiser.batchsize=3"]) == 2
    assert "did you mean 'batch_size'" in capsys.readouterr().err
    assert xeflow.main(["train", "train.yaml", "--set", "optimiser"]) == 2
    assert "must be KEY=VALUE" in capsys.readouterr().err
    assert xeflow.main(["train", "train.yaml", "--set", "seed=9"]) == 2
    assert "--restart" in capsys.readouterr().err


def test_a_missing_event_file_without_a_recipe(tmp_path):
    with pytest.raises(DataError, match="xeflow simulate"):
        train(config(tmp_path), shown=False)


def test_foreign_events_are_converted_and_compared_with_their_truth(tmp_path, capsys):
    """Events with a density known in closed form: s uniform in ln s, shifted by theta."""
    generator = np.random.default_rng(1)
    theta = np.linspace(-1, 1, 50)
    index = np.repeat(np.arange(50), 400)
    s = np.exp(generator.normal(0.1 * theta[index], 0.2))
    kept = (s > 0.5) & (s < 2.0)
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file["s"], file["row"] = 1000 * s[kept], index[kept]
        file["theta"], file["made"] = theta[:, None], np.full(50, 400)
    mapping = {
        "observables": [{"name": "s", "unit": "PE", "factor": 1e-3, "low": 0.5, "high": 2.0, "scale": "log"}],
        "nuisances": [{"name": "t", "unit": "", "column": 0, "low": -1, "high": 1, "nominal": 0}],
        "theta": {"table": "theta", "index": "row"},
        "n_generated": {"column": "made"},
        "generated_rate": 100.0,
    }
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump(mapping))
    convert = {"mapping": str(tmp_path / "mapping.yaml"), "files": [str(tmp_path / "raw.h5")]}
    settings = config(tmp_path, data={"convert": convert}, optimiser={"steps": 400}, stopping={"check_every": 100})
    train(settings, shown=False)
    points = np.linspace(-0.9, 0.9, 7)
    x = torch.linspace(0.7, 1.45, 50, dtype=torch.float64)
    own = np.arange(50) % 7
    normal = torch.distributions.Normal(torch.from_numpy(0.1 * points), 0.2)
    inside = normal.cdf(torch.tensor(2.0).log()) - normal.cdf(torch.tensor(0.5).log())
    density = (normal.log_prob(x.log()[:, None]) - x.log()[:, None]).exp() / 1000  # per raw unit of s
    with h5py.File(tmp_path / "truth.h5", "w") as file:
        file["s"], file["theta"], file["gen_index"] = 1000 * x.numpy(), points[:, None], own
        file["rate_exact"], file["mu_exact"] = 100 * density.numpy(), 100 * inside.numpy()
    comparison = compare_with_truth(Path(settings.checkpoint), tmp_path / "truth.h5")
    assert comparison.n_events == 50
    assert comparison.rms < 0.1
    assert comparison.rate_rms < 0.01
    code = xeflow.main(["validate", settings.checkpoint, "--truth", str(tmp_path / "truth.h5")])
    assert code == 0
    assert "99 % quantile" in capsys.readouterr().out
