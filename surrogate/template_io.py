"""Template files in the HDF5 layout of inference_interface (https://github.com/XENONnT/inference_interface).

Root attributes ``version`` and ``date``; ``bins/0 .. bins/n-1`` hold the edges of the axes, attribute ``name`` their
names; ``templates/<name>`` hold the contents, one dimension per axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import h5py
import torch
from torch import Tensor

from surrogate.atomic import replacing_file
from surrogate.binning import Binning
from surrogate.errors import ConfigError, DataError, unknown_name
from surrogate.template import Template
from surrogate.template_response import TemplateBasis


def _open(path: Path) -> h5py.File:
    """Open a file for reading, or say why it cannot be."""
    if not path.is_file():
        raise DataError(f"template file '{path}' does not exist; check the template path and the file name")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"template file '{path}' is not a readable HDF5 file: {error}") from error


def _read_binning(file: h5py.Group, path: Path) -> Binning:
    if "bins" not in file or "templates" not in file:
        raise DataError(f"template file '{path}': groups 'bins' and 'templates' are needed, found {sorted(file)}")
    axes = [file["bins"].get(str(k)) for k in range(len(file["bins"]))]
    if not axes or any(a is None for a in axes):
        raise DataError(f"template file '{path}': bins must be named 0, 1, ..., found {sorted(file['bins'])}")
    names = tuple(str(a.attrs.get("name", "")) or f"axis{k}" for k, a in enumerate(axes))
    try:
        return Binning(names, tuple(torch.from_numpy(a[()].astype("float64")) for a in axes))
    except ConfigError as error:
        raise DataError(f"template file '{path}': {error}") from error


def read_templates(path: str | Path) -> dict[str, Template]:
    """Read every histogram of a file, by name.

    Raises
    ------
    DataError
        If the file is missing, is no template file, or a content is negative or not finite.
    """
    path = Path(path)
    with _open(path) as file:
        binning = _read_binning(file, path)
        contents = {name: torch.from_numpy(file["templates"][name][()].astype("float64")) for name in file["templates"]}
    return {name: Template(binning, counts, f"template '{name}' in '{path}'") for name, counts in contents.items()}


def read_template(path: str | Path, name: str) -> Template:
    """Read one histogram of a file.

    Raises
    ------
    DataError
        As :func:`read_templates`, and where the file has no histogram of that name.
    """
    path = Path(path)
    with _open(path) as file:
        binning = _read_binning(file, path)
        if name not in file["templates"]:
            raise DataError(unknown_name("histogram", name, file["templates"], f"template file '{path}'"))
        counts = torch.from_numpy(file["templates"][name][()].astype("float64"))
    return Template(binning, counts, f"template '{name}' in '{path}'")


def read_basis(path: str | Path, run: str) -> TemplateBasis:
    """Read templates of mono-energetic recoils at given yields.

    The file holds ``energy_keV``, ``ly_quanta_per_keV``, ``qy_quanta_per_keV`` and a group per run, with ``bins`` as in
    template files and ``templates`` of shape (energies, light yields, charge yields, *bins): recorded events per
    recoil.

    Raises
    ------
    DataError
        If the file is missing or malformed, or has no such run.
    """
    path = Path(path)
    axes = ("energy_keV", "ly_quanta_per_keV", "qy_quanta_per_keV")
    with _open(path) as file:
        missing = [name for name in axes if name not in file]
        if missing:
            raise DataError(f"template basis '{path}': data set '{missing[0]}' is missing; it is no basis of responses")
        runs = [name for name in file if isinstance(file[name], h5py.Group)]
        if run not in runs:
            raise DataError(unknown_name("run", run, runs, f"template basis '{path}'"))
        binning = _read_binning(file[run], path)
        values = [file[name][()].astype("float64") for name in (*axes, f"{run}/templates")]
    return TemplateBasis(binning, *values)


def write_templates(path: str | Path, binning: Binning, counts: Mapping[str, Tensor], version: str = "0.0") -> None:
    """Write histograms (events per bin per unit exposure) on one grid, atomically.

    Raises
    ------
    DataError
        If a content does not fit the grid, is negative or not finite.
    """
    checked = {name: Template(binning, c, f"template '{name}'") for name, c in counts.items()}
    with replacing_file(Path(path)) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["version"] = version
        file.attrs["date"] = datetime.now(UTC).strftime("%Y%m%d_%H:%M:%S")
        for k, (name, edges) in enumerate(zip(binning.names, binning.edges, strict=True)):
            file.create_dataset(f"bins/{k}", data=edges.numpy()).attrs["name"] = name
        for name, template in checked.items():
            file.create_dataset(f"templates/{name}", data=template.counts.numpy())
