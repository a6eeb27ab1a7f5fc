"""Checkpoints: what is stored, what is refused, and that a write is all or nothing."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from source_cases import DISC, NUISANCES, OBSERVABLES, flow_source

import surrogate.checkpoint as module
from surrogate.certificate import read_certificate, write_certificate
from surrogate.checkpoint import RECORD_FILE, TENSOR_FILE, describe_checkpoint, load_checkpoint, save_checkpoint
from surrogate.ensemble import EnsembleSource
from surrogate.errors import CheckpointError, ConfigError
from surrogate.flow_source import FlowSource

METADATA = {"training_data": {"sha256": "0" * 64, "generator": "test"}, "seeds": [1, 2], "metrics": {"nll": 1.25}}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "er"
    save_checkpoint(path, flow_source(guided=True), METADATA)
    return path


def edit(path: Path, change: Callable[[dict[str, object]], object], seal: bool = False) -> None:
    """Change the record; with ``seal`` its hash is made right again, as by someone who knows the format."""
    record = json.loads((path / RECORD_FILE).read_text())
    change(record)
    if seal:
        record["sha256"] = module.record_hash(record)
    (path / RECORD_FILE).write_text(json.dumps(record))


def test_a_checkpoint_is_two_files_that_say_everything(checkpoint: Path) -> None:
    assert sorted(p.name for p in checkpoint.iterdir()) == [RECORD_FILE, TENSOR_FILE]
    record = describe_checkpoint(checkpoint)
    assert record["observables"] == OBSERVABLES.to_dict()
    assert record["nuisances"] == NUISANCES.to_dict()
    assert record["metadata"] == METADATA
    assert record["certificate"] is None
    assert record["members"][0]["generated_rate"] == 1234.5
    assert record["versions"]["torch"] == torch.__version__
    assert record["identity"] == flow_source(guided=True).identity
    assert record["n_weights"] == sum(p.numel() for p in flow_source(guided=True).flow.parameters())
    assert 0 < record["size_bytes"] < 100_000


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_whom_the_umask_lets_read_can_read_both_files(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        save_checkpoint(tmp_path / "er", flow_source(), METADATA)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "er").iterdir()} == {0o644}


def test_weights_trained_in_single_precision_are_stored_so(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / TENSOR_FILE)
    weights = [t for name, t in tensors.items() if name.endswith(("weight", "bias"))]
    assert {t.dtype for t in weights} == {torch.float32}
    assert tensors["0.acceptance.coefficients"].dtype == torch.float64


def test_double_precision_weights_survive(tmp_path: Path) -> None:
    source = flow_source()
    with torch.no_grad():
        for weight in source.flow.parameters():
            weight.mul_(1.0 + 1e-12)
    save_checkpoint(tmp_path / "er", source, {})
    loaded = load_checkpoint(tmp_path / "er")
    assert isinstance(loaded, FlowSource)
    assert all(torch.equal(a, b) for a, b in zip(loaded.flow.parameters(), source.flow.parameters(), strict=True))


def test_saving_again_replaces_and_a_foreign_directory_is_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    save_checkpoint(checkpoint, flow_source(seed=5), {})
    assert load_checkpoint(checkpoint).identity == flow_source(seed=5).identity
    assert [p.name for p in tmp_path.iterdir()] == ["er"]
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="exists and is not a checkpoint"):
        save_checkpoint(thesis, flow_source(), {})
    with pytest.raises(CheckpointError, match="exists and is not a checkpoint"):
        save_checkpoint(thesis / "chapter.tex", flow_source(), {})
    assert (thesis / "chapter.tex").read_text() == "years of work"


def test_a_failed_write_leaves_the_old_checkpoint(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(module, "write_json", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(checkpoint, flow_source(seed=5), {})
    assert load_checkpoint(checkpoint).identity == flow_source(guided=True).identity
    assert [p.name for p in checkpoint.parent.iterdir()] == ["er"]


def test_metadata_must_be_plain_and_finite(tmp_path: Path) -> None:
    for bad in ({"nll": float("nan")}, {"path": Path("x")}):
        with pytest.raises(ConfigError, match="plain finite JSON data"):
            save_checkpoint(tmp_path / "er", flow_source(), bad)
    assert not list(tmp_path.iterdir())


def test_missing_files_are_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"no file {RECORD_FILE}"):
        load_checkpoint(tmp_path / "nothing")
    (checkpoint / TENSOR_FILE).unlink()
    with pytest.raises(CheckpointError, match=f"no file {TENSOR_FILE}"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("key", module.FIELDS)
def test_every_field_is_required(checkpoint: Path, key: str) -> None:
    edit(checkpoint, lambda record: record.pop(key))
    with pytest.raises(CheckpointError, match=f"{key}|not a checkpoint"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(note="mine"), "unknown field 'note'"),
        (lambda r: r.update(format_version=99), "format_version = 99, this version reads 1"),
        (lambda r: r.update(format="other"), "not a checkpoint of this package"),
        (lambda r: r["observables"][0].update(high=80.0), "altered after it was written"),
        (lambda r: r["members"][0].update(generated_rate=1.0), "altered after it was written"),
        (lambda r: r.update(certificate={"passed": True}), "altered after it was written"),
    ],
)
def test_altered_records_are_refused(
    checkpoint: Path, change: Callable[[dict[str, object]], object], message: str
) -> None:
    edit(checkpoint, change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(checkpoint)


def test_truncated_and_altered_files_are_refused(checkpoint: Path) -> None:
    tensor_file, record_file = checkpoint / TENSOR_FILE, checkpoint / RECORD_FILE
    whole = tensor_file.read_bytes()
    for damaged in (whole[:-1], whole[:100], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        tensor_file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="altered or truncated"):
            load_checkpoint(checkpoint)
    tensor_file.write_bytes(whole)
    text = record_file.read_text()
    record_file.write_text(text[: len(text) // 2])
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load_checkpoint(checkpoint)


def test_parts_that_do_not_fit_are_refused_even_when_sealed(checkpoint: Path) -> None:
    edit(checkpoint, lambda r: r["architecture"].update(hidden=13), seal=True)
    with pytest.raises(CheckpointError, match="parts do not fit together"):
        load_checkpoint(checkpoint)


def test_tensors_of_another_checkpoint_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    tensors = load_file(checkpoint / TENSOR_FILE)
    save_file({name: t + 1 for name, t in tensors.items()}, checkpoint / TENSOR_FILE)
    with pytest.raises(CheckpointError, match="altered or truncated"):
        load_checkpoint(checkpoint)


def test_a_certificate_is_kept_with_the_surrogate(checkpoint: Path) -> None:
    assert read_certificate(checkpoint) is None
    before = load_checkpoint(checkpoint)
    written = write_certificate(checkpoint, True, {"c2st": 0.502}, {"c2st": 0.505}, before.identity)
    assert read_certificate(checkpoint) == written
    assert written.passed
    assert written.identity == before.identity
    assert load_checkpoint(checkpoint).identity == before.identity
    assert not write_certificate(checkpoint, False, {"c2st": 0.6}, {"c2st": 0.505}, before.identity).passed
    with pytest.raises(ConfigError, match="plain finite JSON data"):
        write_certificate(checkpoint, True, {"c2st": float("inf")}, {}, before.identity)
    assert read_certificate(checkpoint) is not None


def test_a_certificate_is_refused_to_a_surrogate_that_took_the_place_of_the_measured_one(checkpoint: Path) -> None:
    measured = load_checkpoint(checkpoint).identity
    save_checkpoint(checkpoint, flow_source(seed=5), {})
    with pytest.raises(CheckpointError, match="replaced by another surrogate"):
        write_certificate(checkpoint, True, {}, {}, measured)
    assert read_certificate(checkpoint) is None


def test_retraining_voids_the_certificate(checkpoint: Path) -> None:
    write_certificate(checkpoint, True, {}, {}, load_checkpoint(checkpoint).identity)
    certificate = json.loads((checkpoint / RECORD_FILE).read_text())["certificate"]
    save_checkpoint(checkpoint, flow_source(seed=5), {})
    assert read_certificate(checkpoint) is None
    edit(checkpoint, lambda r: r.update(certificate=certificate), seal=True)
    with pytest.raises(CheckpointError, match="belongs to another surrogate"):
        read_certificate(checkpoint)


def test_members_of_an_ensemble_must_share_the_architecture(tmp_path: Path) -> None:
    small = flow_source(observables=DISC)
    other = FlowSource(type(small.flow)(replace(small.flow.config, hidden=8)), small.acceptance, small.generated_rate)
    with pytest.raises(ConfigError, match="same architecture"):
        save_checkpoint(tmp_path / "er", EnsembleSource((small, other)), {})


def test_loading_is_fast(checkpoint: Path) -> None:
    start = time.process_time()
    load_checkpoint(checkpoint)
    assert time.process_time() - start < 0.2
