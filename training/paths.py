"""Paths in configurations: ``${NAME}`` and ``${NAME:-default}`` stand for environment variables."""

from __future__ import annotations

import os
import re
from typing import Annotated

from pydantic import AfterValidator

from surrogate.errors import ConfigError

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_]\w*)(?::-(?P<default>[^}]*))?\}")


def expand_variables(text: str) -> str:
    """Replace ``${NAME}`` and ``${NAME:-default}`` by the environment's values.

    Raises
    ------
    ConfigError
        If a variable is neither set nor given a default.
    """

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match["name"], match["default"])
        if found is None:
            raise ConfigError(
                f"environment variable {match['name']} is not set, but '{text}' needs it; "
                f"set it or write ${{{match['name']}:-default}}"
            )
        return found

    return _VARIABLE.sub(value, text)


PathText = Annotated[str, AfterValidator(expand_variables)]
