"""What of a foreign statistical model could not be taken over as it stands, key by key.

Nothing of a file is ignored silently: a key that only steers another program's machinery is noted, one that would
change a number and is not supported stops the reading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from surrogate.errors import ConfigError


@dataclass(frozen=True)
class Note:
    """One finding.

    Attributes
    ----------
    place
        Path of the key in the file.
    value
        What stands there.
    harmless
        Whether results are unaffected.
    reason
        Why, or what to do.
    """

    place: str
    value: str
    harmless: bool
    reason: str

    def __str__(self) -> str:
        return f"{self.place} = {self.value}: {self.reason}"


@dataclass(frozen=True)
class Conversion:
    """All findings of one file."""

    path: str
    notes: tuple[Note, ...] = ()

    @property
    def unsupported(self) -> tuple[Note, ...]:
        """The findings that would change results."""
        return tuple(n for n in self.notes if not n.harmless)

    def require_supported(self) -> None:
        """Raise ConfigError when something would change results, with all of it."""
        if self.unsupported:
            listed = "\n".join(f"  {n}" for n in self.unsupported)
            many = "settings are" if len(self.unsupported) > 1 else "setting is"
            raise ConfigError(f"{self.path}: {len(self.unsupported)} {many} not supported:\n{listed}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"path": self.path, "notes": [vars(n) for n in self.notes]}


@dataclass(frozen=True)
class Rule:
    """How a foreign key is treated: unsupported unless ``harmless(value)``.

    Attributes
    ----------
    reason
        What is said of it.
    harmless
        Whether results do not depend on the key when it has this value.
    honoured
        Whether a harmless value is just what is done here, so that there is nothing to say.
    """

    reason: str
    harmless: Callable[[Any], bool]
    honoured: bool = False


def technical(reason: str) -> Rule:
    """Return the rule for a key that no result depends on."""
    return Rule(reason, lambda value: True)


def only(*values: Any, reason: str) -> Rule:
    """Return the rule for a key that is supported for these values alone."""
    return Rule(reason, lambda value: value in values, honoured=True)


def apply_rules(section: MutableMapping[str, Any], rules: Mapping[str, Rule], place: str) -> list[Note]:
    """Take the keys that have a rule out of a section and return what is to be said of them."""
    notes: list[Note] = []
    for key in [k for k in section if k in rules]:
        value, rule = section.pop(key), rules[key]
        harmless = rule.harmless(value)
        if not (harmless and rule.honoured):
            notes.append(Note(f"{place}.{key}" if place else key, repr(value), harmless, rule.reason))
    return notes
