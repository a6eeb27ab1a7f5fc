"""Patterns of file names with ``{parameter:format}`` fields, such as one template per combination of anchors."""

from __future__ import annotations

import string
from collections.abc import Mapping

from surrogate.errors import ConfigError, unknown_name


def fill(pattern: str, values: Mapping[str, int | float | str], place: str) -> str:
    """Return a file name with its ``{parameter:format}`` fields filled in.

    Parameters
    ----------
    pattern
        Such as ``wimp_{t_ly:.1f}.h5``.
    values
        Name of a field -> value.
    place
        What errors call the pattern.

    Raises
    ------
    ConfigError
        If a field is no plain name, is unknown, or its format does not fit the value.
    """
    try:
        fields = list(string.Formatter().parse(pattern))
    except ValueError as error:
        raise ConfigError(f"{place}: '{pattern}' is malformed: {error}") from error
    parts = []
    for text, name, spec, conversion in fields:
        parts.append(text)
        if name is None:
            continue
        if name not in values or conversion:
            raise ConfigError(unknown_name("field", name, values, f"{place}: '{pattern}'"))
        try:
            parts.append(format(values[name], spec or ""))
        except ValueError as error:
            raise ConfigError(f"{place}: '{pattern}': {name} = {values[name]!r}: {error}") from error
    return "".join(parts)


def fields_of(pattern: str) -> set[str]:
    """Return the names of the fields of a pattern."""
    try:
        return {name for _, name, _, _ in string.Formatter().parse(pattern) if name}
    except ValueError:
        return set()
