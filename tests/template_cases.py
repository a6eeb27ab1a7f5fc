"""A small surrogate and the templates that it makes at anchors of its parameters."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
from source_cases import shaken_flow, some_acceptance

from surrogate.binned import BinnedSource
from surrogate.binning import Binning
from surrogate.checkpoint import save_checkpoint
from surrogate.flow_config import Family, FlowConfig
from surrogate.flow_source import FlowSource
from surrogate.nuisance import Nuisance, NuisanceSpace
from surrogate.observables import Observable, ObservableSpace
from surrogate.template_io import write_templates

EDGES = {"cs2": (90.0, 170.0, 250.0, 500.0), "score": (0.0, 0.3, 1.0)}
GRID = Binning(tuple(EDGES), tuple(torch.tensor(e, dtype=torch.float64) for e in EDGES.values()))
SPACE = ObservableSpace(tuple(Observable(n, "", e[0], e[-1], "bins", edges=e) for n, e in EDGES.items()))
ANCHORS = {"t_ly": (-2.0, -1.0, 0.0, 1.0, 2.0), "t_qy": (-1.0, 0.0, 1.0)}
NUISANCES = NuisanceSpace(tuple(Nuisance(n, "sigma", a[0], a[-1], 0.0) for n, a in ANCHORS.items()))
KEPT = {"t_ly": (-2.0, 0.0, 2.0)}


def description(folder: Path) -> dict[str, Any]:
    """The templates in a folder, as a configuration says it."""
    return {
        "folder": str(folder),
        "files": "wimp_{t_ly:.1f}_{t_qy:.1f}.h5",
        "histogram": "wimp",
        "nuisances": [{"name": n, "unit": "sigma", "anchors": list(a), "nominal": 0} for n, a in ANCHORS.items()],
    }


def surrogate(family: Family = "histogram", spread: float = 0.1) -> FlowSource:
    """A flow with random weights over the bins of the grid."""
    config = FlowConfig(SPACE, NUISANCES, family, components=3, hidden=12, blocks=1)
    return FlowSource(shaken_flow(config, spread=spread), some_acceptance(NUISANCES), 10.0)


def write_set(folder: Path, source: FlowSource) -> None:
    """Write the templates of a source at every combination of the anchors."""
    binned = BinnedSource(source, GRID, nodes=1 if source.flow.config.family == "histogram" else 12)
    for point in itertools.product(*ANCHORS.values()):
        theta = torch.tensor(point, dtype=torch.float64)
        counts = binned.pmf(theta) * source.expected_events(theta)
        name = "wimp_{:.1f}_{:.1f}.h5".format(*point)
        write_templates(folder / name, GRID, {"wimp": counts.reshape(GRID.shape)})


def write_checkpoint(path: Path, source: FlowSource, templates: dict[str, Any] | None = None) -> Path:
    """Save a surrogate as if it had been trained on templates."""
    data = {} if templates is None else {"templates": templates}
    save_checkpoint(path, source, {"config": {"data": data}})
    return path
