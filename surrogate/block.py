"""Blocks of configuration files: immutable, closed to unknown keys, which are answered with the nearest known one."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from surrogate.errors import unknown_name


class Block(BaseModel):
    """A block of a configuration file: immutable, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        for key in data if isinstance(data, dict) else ():
            if key not in cls.model_fields:
                raise ValueError(unknown_name("key", str(key), cls.model_fields))
        return data
