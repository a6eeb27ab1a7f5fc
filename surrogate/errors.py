"""The errors that xeflow raises on purpose.

Each message names the argument, the value it had, the bound it broke and the remedy. The command line turns every
:class:`XeflowError` into one line on standard error and exit code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class XeflowError(Exception):
    """Base class: the input cannot be honoured, and the message says why and what to do."""


class ConfigError(XeflowError, ValueError):
    """A configuration file or a constructor argument is malformed."""


class DataError(XeflowError, ValueError):
    """Events, templates or event files are malformed or lie outside their region of interest."""


class RangeError(XeflowError, ValueError):
    """A parameter value lies outside the range for which a surrogate, a template or a bound is defined."""


class CheckpointError(XeflowError, ValueError):
    """A checkpoint directory is missing, incomplete, altered or of an unknown format."""


class UncertifiedError(XeflowError, ValueError):
    """A surrogate without a valid certificate was asked to set a limit."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean '...'?`` with the nearest known name, or nothing where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else ""


def unknown_name(what: str, name: str, known: Iterable[str], where: str = "") -> str:
    """Return the message for a name that is not among the known ones, with the nearest known name.

    Parameters
    ----------
    what
        What the name stands for, such as ``"parameter"`` or ``"key"``.
    name
        The name that was given.
    known
        The names that would have been accepted.
    where
        Where it was given, such as ``"model.yaml: likelihood_config"``.
    """
    names = [str(k) for k in known]
    hint = suggestion(str(name), names) or f"known: {', '.join(names) or 'none'}"
    return f"{where + ': ' if where else ''}unknown {what} '{name}'; {hint}"
