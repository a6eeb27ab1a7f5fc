"""Where the configurations and surrogates lie that come with the package.

A checkout and an installed package have the same layout: ``configs/`` and ``checkpoints/`` beside the packages.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from surrogate.errors import CheckpointError, ConfigError, suggestion

SHIPPED_CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SHIPPED_CHECKPOINTS = SHIPPED_CONFIGS.parent / "checkpoints"


def config_path(kind: str, name: str | Path) -> Path:
    """Return the path of a configuration that is given by its path, or by the name of a shipped one.

    Parameters
    ----------
    kind
        A folder of ``configs``, such as ``detectors`` or ``models``.
    name
        A path, or a name without suffix, such as ``xenon1t_like``.

    Raises
    ------
    ConfigError
        If it is the name of no shipped configuration.
    """
    path = Path(name)
    if path.suffix or path.exists():
        return path
    shipped = {file.stem: file for file in sorted((SHIPPED_CONFIGS / kind).glob("*.yaml"))}
    if str(name) not in shipped:
        raise ConfigError(_unknown(kind.removesuffix("s"), name, shipped))
    return shipped[str(name)]


def checkpoint_path(name: str | Path) -> Path:
    """Return the directory of a surrogate that is given by its path, or by the name of a shipped one.

    Raises
    ------
    CheckpointError
        If it is a bare name, but neither that of a directory here nor that of a shipped surrogate.
    """
    path = Path(name)
    if len(path.parts) > 1 or path.exists():
        return path
    shipped = {folder.name: folder for folder in sorted(SHIPPED_CHECKPOINTS.glob("*/"))}
    if str(name) not in shipped:
        raise CheckpointError(_unknown("surrogate", name, shipped))
    return shipped[str(name)]


def _unknown(what: str, name: str | Path, shipped: Collection[str]) -> str:
    near = suggestion(str(name), shipped)
    listed = f"there is no such path, and the shipped ones are {', '.join(shipped)}"
    return f"unknown {what} '{name}': {listed}{'; ' if near else ''}{near}"
