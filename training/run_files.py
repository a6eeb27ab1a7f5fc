"""The files that a training keeps in its run directory, and how they are dropped: these, and nothing else."""

from __future__ import annotations

from pathlib import Path

STATE_FILE = "last.ckpt"
"""The state from which a training continues."""

HISTORY_FILE = "history.csv"
"""The validations so far."""

CURVE_FILE = "training.png"
"""The training curve."""


def drop_run(directory: Path) -> None:
    """Remove what earlier trainings left in a run directory, of members too.

    A run directory may be any folder of the user's: files of other names stay, and with them the folder.
    """
    members = (path for path in directory.glob(f"{directory.name}.*") if path.suffix[1:].isdigit() and path.is_dir())
    for folder in (*members, directory):
        for name in (STATE_FILE, HISTORY_FILE, CURVE_FILE):
            for path in (folder / name, *folder.glob(f".{name}.*.tmp")):
                path.unlink(missing_ok=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
