"""Checkpoints: a directory with ``surrogate.safetensors`` (numbers) and ``surrogate.json`` (everything else).

Nothing is pickled. A checkpoint appears whole or not at all, and the JSON holds the SHA-256 of the numbers and of its
own canonical form (sorted keys, no spaces, without the hash itself), so that an edited or truncated file is refused.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata as packages
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from surrogate.acceptance import AcceptanceModel
from surrogate.atomic import replacing_directory, write_json
from surrogate.ensemble import EnsembleSource
from surrogate.errors import CheckpointError, ConfigError, unknown_name
from surrogate.flow import ConditionalFlow
from surrogate.flow_config import FlowConfig
from surrogate.flow_source import FlowSource
from surrogate.shipped import checkpoint_path

FORMAT = "xeflow-surrogate"
FORMAT_VERSION = 1
TENSOR_FILE = "surrogate.safetensors"
RECORD_FILE = "surrogate.json"

FIELDS: tuple[str, ...] = (
    "format",
    "format_version",
    "observables",
    "nuisances",
    "architecture",
    "members",
    "identity",
    "versions",
    "metadata",
    "certificate",
    "tensors_sha256",
    "sha256",
)
"""Keys of ``surrogate.json``, all required."""


def save_checkpoint(path: Path, source: FlowSource | EnsembleSource, metadata: Mapping[str, Any]) -> None:
    """Write a source as a checkpoint directory, replacing an older checkpoint of that name.

    Parameters
    ----------
    path
        The directory.
    source
        A flow source or an ensemble whose members share one architecture.
    metadata
        Plain data kept with it: hash and provenance of the training data, seeds, metrics, ...

    Raises
    ------
    ConfigError
        If the metadata are not plain JSON data (NaN and infinities are not) or the members differ in architecture.
    CheckpointError
        If ``path`` exists and is not a checkpoint; it is left alone.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and ((path / RECORD_FILE).exists() or not any(path.iterdir()))):
        raise CheckpointError(f"{path}: exists and is not a checkpoint; choose another name or remove it")
    members = source.members if isinstance(source, EnsembleSource) else (source,)
    config = members[0].flow.config
    if any(member.flow.config != config for member in members):
        raise ConfigError("ensemble: all members of a checkpoint must have the same architecture")
    architecture = config.to_dict()
    shared = {"sharing": source.sharing} if isinstance(source, EnsembleSource) else {}
    record: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "observables": architecture.pop("observables"),
        "nuisances": architecture.pop("nuisances"),
        "architecture": architecture,
        "members": [
            {"generated_rate": m.generated_rate, "acceptance": m.acceptance.to_dict(), **shared} for m in members
        ],
        "identity": source.identity,
        "versions": versions(),
        "metadata": dict(metadata),
        "certificate": None,
    }
    tensors = {
        f"{index}.{name}": _compact(tensor)
        for index, member in enumerate(members)
        for name, tensor in member.tensors().items()
    }
    with replacing_directory(path) as directory:
        (directory / TENSOR_FILE).write_bytes(save(tensors))  # save_file would hide it from others than the owner
        record["tensors_sha256"] = _file_hash(directory / TENSOR_FILE)
        record["sha256"] = record_hash(record)
        write_json(directory / RECORD_FILE, record)


def load_checkpoint(
    path: str | Path, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
) -> FlowSource | EnsembleSource:
    """Return the source of a checkpoint, given by its directory or a shipped name: a flow source, or an ensemble.

    Raises
    ------
    CheckpointError
        If the directory or a file is missing, truncated or altered, or of an unknown format.
    """
    path = checkpoint_path(path)
    record = read_record(path)
    try:
        tensors = load_file(path / TENSOR_FILE)
    except SafetensorError as error:
        raise CheckpointError(f"{path / TENSOR_FILE}: cannot be read ({error}); restore or retrain it") from error
    try:
        config = FlowConfig.from_dict(
            {**record["architecture"], "observables": record["observables"], "nuisances": record["nuisances"]}
        )
        members = [_member(config, index, tensors, m, dtype, device) for index, m in enumerate(record["members"])]
        if len(members) == 1 and "sharing" not in record["members"][0]:
            return members[0]
        return EnsembleSource(tuple(members), record["members"][0]["sharing"])
    except (KeyError, TypeError, RuntimeError, ConfigError) as error:
        raise CheckpointError(f"{path}: its parts do not fit together ({error}); restore or retrain it") from error


def read_record(path: Path) -> dict[str, Any]:
    """Return the content of ``surrogate.json`` after checking both files against their hashes.

    Raises
    ------
    CheckpointError
        As for :func:`load_checkpoint`.
    """
    path = Path(path)
    for name in (RECORD_FILE, TENSOR_FILE):
        if not (path / name).is_file():
            raise CheckpointError(f"{path}: no file {name}; name the directory that 'xeflow train' wrote")
    where = path / RECORD_FILE
    try:
        record = json.loads(where.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{where}: is not valid JSON ({error}); restore or retrain it") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise CheckpointError(f"{where}: is not a checkpoint of this package (field 'format' must be '{FORMAT}')")
    if record.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{where}: format_version = {record.get('format_version')}, this version reads {FORMAT_VERSION}; "
            "retrain it or use the version of xeflow that wrote it"
        )
    check_fields(where, record, FIELDS)
    if record["sha256"] != record_hash(record):
        raise CheckpointError(f"{where}: was altered after it was written; restore or retrain it")
    if record["tensors_sha256"] != _file_hash(path / TENSOR_FILE):
        raise CheckpointError(f"{path / TENSOR_FILE}: was altered or truncated; restore or retrain it")
    return record


def describe_checkpoint(path: Path) -> dict[str, Any]:
    """Return the checked content of ``surrogate.json`` with the number of weights and the size on disk in bytes."""
    path = Path(path)
    record = read_record(path)
    tensors = load_file(path / TENSOR_FILE)
    weights = sum(t.numel() for name, t in tensors.items() if name.endswith(("weight", "bias")))
    size = sum((path / name).stat().st_size for name in (RECORD_FILE, TENSOR_FILE))
    return {**record, "n_weights": weights, "size_bytes": size}


def _member(
    config: FlowConfig,
    index: int,
    tensors: Mapping[str, Tensor],
    record: Mapping[str, Any],
    dtype: torch.dtype,
    device: torch.device | str,
) -> FlowSource:
    """Build one member from the tensors whose names start with its index."""
    own = {name.removeprefix(f"{index}."): t for name, t in tensors.items() if name.startswith(f"{index}.")}
    coefficients, covariance = own.pop("acceptance.coefficients"), own.pop("acceptance.covariance")
    weights = {name.removeprefix("flow."): tensor for name, tensor in own.items()}
    flow = ConditionalFlow(config)
    if any(tensor.dtype == torch.float64 for tensor in weights.values()):
        flow = flow.double()
    flow.load_state_dict(weights)
    acceptance = AcceptanceModel.from_dict(record["acceptance"], config.nuisances, coefficients, covariance)
    return FlowSource(flow, acceptance, record["generated_rate"], dtype, device)


def _compact(tensor: Tensor) -> Tensor:
    """Return the tensor in float32 where that loses nothing, in memory of its own."""
    single = tensor.float()
    lossless = tensor.dtype == torch.float64 and torch.equal(single.double(), tensor)
    return (single if lossless else tensor).clone().contiguous()


def check_fields(where: Path, record: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise CheckpointError unless a record has all known fields and no other."""
    for key in known:
        if key not in record:
            raise CheckpointError(f"{where}: the field '{key}' is missing; restore or retrain the checkpoint")
    for key in record:
        if key not in known:
            raise CheckpointError(unknown_name("field", key, known, str(where)))


def record_hash(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON of a record without its hash."""
    content = {key: value for key, value in record.items() if key != "sha256"}
    try:
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"checkpoint: metadata and metrics must be plain finite JSON data ({error})") from error
    return hashlib.sha256(text.encode()).hexdigest()


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a surrogate depends on."""
    names = ("xeflow", "torch", "nflows", "numpy", "safetensors")
    return {"python": platform.python_version()} | {name: packages.version(name) for name in names}
