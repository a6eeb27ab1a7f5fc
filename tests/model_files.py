"""A small statistical model in alea's schema, with templates of closed form, written to a directory."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from surrogate.binning import Binning
from surrogate.template_io import write_templates

GRID = Binning(
    ("cs1", "cs2"),
    (
        torch.tensor([2.0, 10.0, 30.0, 70.0], dtype=torch.float64),
        torch.from_numpy(np.geomspace(100.0, 8000.0, 5)),
    ),
)
SHIFTS = (-1, 0, 2)


def template(rate: float, slope: float, ridge: float) -> torch.Tensor:
    """Return positive contents with the given sum, whose shape depends on the two other numbers."""
    i = torch.arange(3, dtype=torch.float64)[:, None]
    j = torch.arange(4, dtype=torch.float64)[None, :]
    shape = torch.exp(-0.4 * i * (1 + slope)) * (1 + torch.cos(ridge + i - j)) + 0.05
    return rate * shape / shape.sum()


def write_template_files(folder: Path) -> None:
    for shift in SHIFTS:
        write_templates(folder / f"er_{shift}.h5", GRID, {"er": template(40 + 5 * shift, 0.3 * shift, 0.2 * shift)})
    for mass in (20, 50):
        write_templates(folder / f"wimp{mass}.h5", GRID, {"wimp": template(3 + mass / 50, 1.0, 50 / mass)})
    density = template(2.0, -0.5, 1.0) / GRID.volumes.reshape(GRID.shape)
    write_templates(folder / "ac.h5", GRID, {"ac": template(2.0, -0.5, 1.0), "ac_density": density})


def run(name: str, kind: str, livetime: str) -> dict[str, Any]:
    return {
        "name": name,
        "default_source_class": "alea.template_source.TemplateSource",
        "likelihood_type": f"blueice.likelihood.{kind}LogLikelihood",
        "analysis_space": [{"cs1": "2 10.0 30 70"}, {"cs2": "np.geomspace(100, 8000, 5)"}],
        "in_events_per_bin": True,
        "livetime_parameter": livetime,
        "slice_args": {},
        "sources": [
            {
                "name": "er",
                "histname": "er",
                "parameters": ["er_rate_multiplier", "er_shift"],
                "named_parameters": ["er_shift"],
                "template_filename": "er_{er_shift}.h5",
            },
            {
                "name": "ac",
                "histname": "ac",
                "parameters": ["ac_rate_multiplier"],
                "template_filename": "ac.h5",
                "histogram_scale_factor": 2.5,
            },
            {
                "name": "wimp",
                "histname": "wimp",
                "parameters": ["wimp_rate_multiplier", "signal_efficiency", "wimp_mass"],
                "named_parameters": ["wimp_mass"],
                "template_filename": "wimp{wimp_mass:d}.h5",
                "efficiency_name": "signal_efficiency",
            },
        ],
    }


def parameters() -> dict[str, Any]:
    rate = {"nominal_value": 1.0, "ptype": "rate", "fittable": True, "fit_limits": [0, None]}
    return {
        "wimp_mass": {"nominal_value": 50, "fittable": False, "description": "WIMP mass in GeV/c^2"},
        "livetime_sr0": {"nominal_value": 0.2, "ptype": "livetime", "fittable": False},
        "livetime_sr1": {"nominal_value": 1.0, "ptype": "livetime", "fittable": False},
        "wimp_rate_multiplier": {**rate, "parameter_interval_bounds": [0, 50]},
        "er_rate_multiplier": {**rate, "uncertainty": 0.2, "relative_uncertainty": True, "fit_guess": 1.0},
        "ac_rate_multiplier": {**rate, "uncertainty": 0.3},
        "signal_efficiency": {
            "conditioning_parameter_name": "wimp_mass",
            "nominal_value": 1.0,
            "ptype": "efficiency",
            "uncertainty": {20: 0.3, 50: 0.15},
            "relative_uncertainty": True,
            "fit_limits": [0, 10.0],
        },
        "er_shift": {
            "nominal_value": 0,
            "ptype": "shape",
            "uncertainty": "stats.uniform(loc=-1, scale=3)",
            "blueice_anchors": list(SHIFTS),
            "fit_limits": [-1, 2],
        },
    }


def model_dict() -> dict[str, Any]:
    return copy.deepcopy(
        {
            "parameter_definition": parameters(),
            "likelihood_config": {
                "likelihood_weights": [1, 1, 1],
                "template_folder": None,
                "likelihood_terms": [run("sr0", "Binned", "livetime_sr0"), run("sr1", "Unbinned", "livetime_sr1")],
            },
        }
    )


def write_model(folder: Path, content: dict[str, Any] | None = None) -> Path:
    """Write templates and the model file (the default one unless given) and return the path of the latter."""
    write_template_files(folder)
    path = folder / "model.yaml"
    path.write_text(yaml.safe_dump(content or model_dict(), sort_keys=False))
    return path


def events(n: int, seed: int) -> np.ndarray:
    """Return n events of the grid, on a sequence that covers it."""
    k = np.arange(1, n + 1)
    u, v = (k * 0.7548776662 + 0.1 * seed) % 1, (k * 0.5698402910 + 0.3 * seed) % 1
    table = np.zeros(n, dtype=[("cs1", "f8"), ("cs2", "f8"), ("source", "i8")])
    table["cs1"], table["cs2"] = 2 + 68 * u**2, 100 * 80**v
    return table


def ancillary() -> np.ndarray:
    values = {"ac_rate_multiplier": 0.9, "er_rate_multiplier": 1.1, "er_shift": 0.0, "signal_efficiency": 1.05}
    return np.array([tuple(values.values())], dtype=[(name, "f8") for name in values])


def data() -> list[np.ndarray]:
    """Return 12 events for sr0, 45 for sr1 and the ancillary row."""
    return [events(12, 0), events(45, 1), ancillary()]
