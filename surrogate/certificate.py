"""Certificates: the verdict of a validation, kept with the checkpoint it was measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from surrogate.atomic import write_json
from surrogate.checkpoint import RECORD_FILE, check_fields, read_record, record_hash, versions
from surrogate.errors import CheckpointError


@dataclass(frozen=True)
class Certificate:
    """The verdict of a validation.

    Attributes
    ----------
    passed
        Whether every metric keeps its threshold.
    metrics, thresholds
        What was measured and what was asked for; plain data.
    code_version
        Version of the package that measured.
    identity
        Identity of the surrogate that was measured.
    """

    passed: bool
    metrics: Mapping[str, Any]
    thresholds: Mapping[str, Any]
    code_version: str
    identity: str

    @property
    def verdict(self) -> str:
        """``passed``, or the criteria that are not met."""
        missed = [
            f"{c['name']} {c.get('verdict', 'fails')}" for c in self.metrics.get("criteria", []) if not c["passed"]
        ]
        return "passed" if self.passed else ", ".join(missed) or "failed"


def read_certificate(path: Path) -> Certificate | None:
    """Return the certificate of a checkpoint, None where it was never validated.

    Raises
    ------
    CheckpointError
        If the checkpoint is damaged, or the certificate is malformed or of another surrogate.
    """
    record = read_record(path)
    if record["certificate"] is None:
        return None
    check_fields(Path(path) / RECORD_FILE, record["certificate"], [f.name for f in fields(Certificate)])
    certificate = Certificate(**record["certificate"])
    if certificate.identity != record["identity"]:
        raise CheckpointError(f"{path}: its certificate belongs to another surrogate; validate it again")
    return certificate


def write_certificate(
    path: Path, passed: bool, metrics: Mapping[str, Any], thresholds: Mapping[str, Any], identity: str
) -> Certificate:
    """Write the verdict of a validation into a checkpoint, atomically, and return it.

    Parameters
    ----------
    path
        The checkpoint.
    passed, metrics, thresholds
        The verdict, what was measured, and what was allowed.
    identity
        That of the surrogate that was measured.

    Raises
    ------
    CheckpointError
        If the checkpoint is damaged, or holds another surrogate by now.
    ConfigError
        If the metrics or thresholds are not plain JSON data (NaN and infinities are not).
    """
    record = read_record(path)
    if record["identity"] != identity:
        raise CheckpointError(f"{path}: was replaced by another surrogate during its validation; validate it again")
    certificate = Certificate(passed, dict(metrics), dict(thresholds), versions()["xeflow"], identity)
    record["certificate"] = asdict(certificate)
    record["sha256"] = record_hash(record)
    write_json(Path(path) / RECORD_FILE, record)
    return certificate
