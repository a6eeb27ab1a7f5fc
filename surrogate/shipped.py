"""Where the configurations lie that come with the package.

A checkout and an installed package have the same layout: ``configs/`` and ``checkpoints/`` beside the packages.
"""

from __future__ import annotations

from pathlib import Path

from surrogate.errors import ConfigError, unknown_name

SHIPPED_CONFIGS = Path(__file__).resolve().parents[1] / "configs"


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
        raise ConfigError(unknown_name(kind.removesuffix("s"), str(name), shipped))
    return shipped[str(name)]
