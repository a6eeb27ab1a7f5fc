"""Reading a training configuration from YAML.

Every key is checked; a key that is not known is answered with the nearest one that is, the file, the line and the place
in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from surrogate.errors import ConfigError, unknown_name
from surrogate.shipped import config_path
from training.settings import TrainConfig


def load_config(path: Path, overrides: Mapping[str, str] | None = None) -> TrainConfig:
    """Read a training configuration.

    Parameters
    ----------
    path
        YAML file, or the name of a shipped one.
    overrides
        Dotted key -> value as YAML text, such as ``{"optimiser.passes": "5"}``; each replaces what the file says.

    Raises
    ------
    ConfigError
        If the file cannot be read, a key is unknown or doubled, or a value is not allowed.
    """
    path = config_path("train", path)
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a training YAML") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
        for key, value in (overrides or {}).items():
            _override(content, key, yaml.safe_load(value))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold a mapping with the keys {', '.join(TrainConfig.model_fields)}")
    _refuse_doubled_keys(node, str(path))
    try:
        return TrainConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigError("\n".join(_message(e, str(path), node) for e in error.errors())) from error


def _override(content: Any, key: str, value: Any) -> None:
    """Set the entry at a dotted key, creating blocks on the way."""
    *blocks, last = key.split(".")
    for block in blocks:
        if not isinstance(content, dict):
            break
        content = content.setdefault(block, {})
    if not isinstance(content, dict):
        raise ConfigError(f"--set {key}: '{key.rsplit('.', 1)[0]}' is a value, not a block")
    content[last] = value


def _refuse_doubled_keys(node: yaml.Node | None, where: str) -> None:
    """Raise if a mapping holds a key twice: YAML readers keep the last one without a word."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_doubled_keys(item, where)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        if key.value in seen:
            raise ConfigError(f"{where}, line {key.start_mark.line + 1}: key '{key.value}' stands twice; remove one")
        seen.add(key.value)
        _refuse_doubled_keys(value, where)


def _message(error: Any, path: str, node: yaml.Node | None) -> str:
    """Turn one pydantic error into a sentence that names the file, the line, the place and the remedy."""
    location = [str(part) for part in error["loc"]]
    line = _line(node, location)
    where = f"{path}, line {line}" if line else path
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        parent = ".".join(location[:-1])
        return unknown_name(
            "key", location[-1], _known_keys(location[:-1]), f"{where}{': ' + parent if parent else ''}"
        )
    if error["type"] == "missing":
        return f"{where}: '{'.'.join(location)}' is missing; it has no default"
    shown = "" if isinstance(error.get("input"), dict) else f" (got {error.get('input')!r})"
    return f"{where}: {'.'.join(location) or 'file'}: {error['msg'].removeprefix('Value error, ')}{shown}"


def _line(node: yaml.Node | None, location: list[str]) -> int | None:
    """Return the line of the deepest part of a location that the file holds."""
    line = None
    for part in location:
        if isinstance(node, yaml.MappingNode):
            entry = next(((k, v) for k, v in node.value if k.value == part), None)
            if entry is None:
                break
            line, node = entry[0].start_mark.line + 1, entry[1]
        elif isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            node = node.value[int(part)]
            line = node.start_mark.line + 1
    return line


def _known_keys(location: list[str]) -> list[str]:
    """Return the keys of the block at a location of :class:`TrainConfig`."""
    schema = TrainConfig.model_json_schema()
    at: Any = schema
    for part in location:
        block = _resolve(at, schema)
        at = block.get("properties", {}).get(part, block.get("additionalProperties", {}))
    return list(_resolve(at, schema).get("properties", {}))


def _resolve(at: Any, schema: Any) -> Any:
    """Follow references and optional blocks of a JSON schema to the block itself."""
    for option in at.get("anyOf", []):
        if "$ref" in option:
            at = option
    while "$ref" in at:
        at = schema["$defs"][at["$ref"].rsplit("/", 1)[-1]]
    return at
