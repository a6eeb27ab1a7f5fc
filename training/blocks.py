"""Reading YAML files made of blocks; messages name the file, the place and the nearest known key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from surrogate.errors import ConfigError


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises
    ------
    ConfigError
        If it cannot be read, is not YAML, or is not a mapping.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must be a mapping of keys to values")
    return data


def validation_message(path: Path, error: ValidationError) -> str:
    """Return one problem of a failed validation as one line: file, place, and what is wrong.

    Where a value may be one of several things, pydantic reports why it is none of them; the deepest report belongs to
    the one that was meant.
    """
    problem = max(error.errors(include_url=False), key=lambda e: len(e["loc"]))
    parts = [str(part) for part in problem["loc"]]
    place = ".".join(part for part in parts if "[" not in part and part != "str")
    return f"{path}: {place + ': ' if place else ''}{problem['msg'].removeprefix('Value error, ')}"
