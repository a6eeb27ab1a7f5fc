"""Where the files and directories that a model names are looked up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from surrogate.errors import ConfigError
from surrogate.shipped import SHIPPED_CHECKPOINTS, SHIPPED_CONFIGS

#: What a model file writes where the user must fill in a name.
PLACEHOLDER = "TBD"

#: What marks the root of a project: directories above a model file are searched up to there and no further.
ROOT_MARKS = (".git", "pyproject.toml")


class RunName(str):
    """A run's name in a pattern: ``{run}`` as it is, ``{run:lower}`` and ``{run:upper}`` in that case."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        if spec in ("lower", "upper"):
            return self.lower() if spec == "lower" else self.upper()
        return str.__format__(self, spec)


def _paths(names: str | Path | Sequence[str | Path] | None) -> list[Path]:
    given = [] if names is None else [names] if isinstance(names, str | Path) else names
    return [Path(name).expanduser() for name in given if str(name) != PLACEHOLDER]


@dataclass(frozen=True)
class SearchPath:
    """Where relative names are looked up.

    In this order: the folders; the directory of the model file and, inside a project, those above it up to the
    project's root (which holds ``.git`` or ``pyproject.toml``); the working directory; what came with the package.

    Parameters
    ----------
    folders
        In order of preference; relative ones are so to the working directory, then to that of the model file.
    model
        The directory of the model file.
    """

    folders: tuple[Path, ...]
    model: Path

    @classmethod
    def of(
        cls,
        model: Path,
        own: str | Sequence[str] | None,
        given: str | Path | Sequence[str | Path] | None,
    ) -> SearchPath:
        """Return where the names of a model file are looked up.

        Parameters
        ----------
        model
            The file.
        own
            The folders that it names.
        given
            Folders to be searched before these.

        Raises
        ------
        ConfigError
            If a folder that was given is none.
        """
        for path in _paths(given):
            if not path.is_dir():
                raise ConfigError(f"--template-path (template_path in Python): '{path}' is no directory")
        return cls((*_paths(given), *_paths(own)), model.resolve().parent)

    @property
    def places(self) -> tuple[Path, ...]:
        """Every directory that is searched, in order."""
        beside = (self.model / folder for folder in self.folders if not folder.is_absolute())
        above = (self.model, *self.model.parents)
        root = next((k for k, place in enumerate(above) if any((place / mark).exists() for mark in ROOT_MARKS)), 0)
        last = (Path.cwd(), SHIPPED_CONFIGS.parent, SHIPPED_CHECKPOINTS)
        return tuple(dict.fromkeys((*self.folders, *beside, *above[: root + 1], *last)))

    def find(self, name: str, what: str) -> Path:
        """Return the file or directory of that name.

        Raises
        ------
        ConfigError
            If no directory holds it.
        """
        path = Path(name).expanduser()
        if path.is_absolute() and not path.exists():
            raise ConfigError(f"{what}: '{name}' does not exist")
        for place in self.places:
            if (place / path).exists():
                return place / path
        searched = ", ".join(f"'{place}'" for place in self.places)
        raise ConfigError(
            f"{what}: '{name}' was found in none of {searched}; give the folder that holds it with --template-path "
            "(template_path in Python)"
        )
