"""The chain of the detector: vertices, drift, signals, reconstruction, corrections and cuts.

Events travel as columns (name -> tensor of equal length); ``index`` is the position of an event among the generated
ones. Rejected events are dropped as soon as a stage rejects them. Reconstructed columns:

    cs1 = S1/LCE(r, z),    cs2 = S2/s2(r) exp(t_drift/elife_nominal) bottom_fraction,    t_drift = -z/v,

with r, z reconstructed: corrections use the nominal calibration, so elife and g1 deform cs1 and cs2.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from surrogate.errors import RangeError, unknown_name
from training.simulator.detector import Detector
from training.simulator.signals import detect_photons, extracted_electrons, s1_area, s1_found, s2_area

Columns = dict[str, Tensor]

RECONSTRUCTED: tuple[str, ...] = ("cs1", "cs2", "r", "z", "drift_time", "s1", "s2")
"""Columns of a selected event, in cm, us and PE (or phd)."""

TRUTH: tuple[str, ...] = ("energy", "photons", "electrons", "true_r", "true_z", "hits", "extracted")
"""What can be recorded beside them: keV, numbers, cm."""

FIXABLE: tuple[str, ...] = ("energy", "photons", "electrons", "r", "z")
"""What a caller can fix instead of having it drawn; r and z are the true position."""

FixedTruth = Mapping[str, float | Tensor]


def keep(columns: Columns, mask: Tensor) -> Columns:
    """Return the columns of the events where ``mask`` (n,) holds."""
    index = mask.nonzero().squeeze(1)
    return {name: column.index_select(0, index) for name, column in columns.items()}


def check_truth(truth: FixedTruth, n: int, detector: Detector) -> None:
    """Raise unless every fixed quantity is known, of shape () or (n,), and possible in this detector.

    Raises
    ------
    RangeError
        Naming the quantity, its value and its bounds.
    """
    whole = float(2**24)
    bounds = {
        "energy": (1e-3, 1e4),
        "photons": (0.0, whole),
        "electrons": (0.0, whole),
        "r": (0.0, detector.radius),
        "z": (-detector.height, 0.0),
    }
    for name, value in truth.items():
        if name not in bounds:
            raise RangeError(unknown_name("quantity", name, FIXABLE, "fix_truth"))
        values, (low, high) = torch.as_tensor(value), bounds[name]
        if values.ndim > 1 or (values.ndim == 1 and len(values) != n):
            raise RangeError(f"fix_truth: {name} has shape {tuple(values.shape)}, must be a number or ({n},)")
        outside = ~((values >= low) & (values <= high))
        if bool(outside.any()):
            raise RangeError(
                f"fix_truth: {name} = {float(values[outside].reshape(-1)[0]):g} must be in [{low:g}, {high:g}]"
            )


def fixed(truth: FixedTruth, name: str, n: int, device: torch.device) -> Tensor | None:
    """Return the fixed value of a quantity as a column (n,) float32, or None where it is to be drawn."""
    if name not in truth:
        return None
    value = torch.as_tensor(truth[name], dtype=torch.float32, device=device)
    return value.expand(n).contiguous()


def truth_of(truth: FixedTruth, rows: slice | Tensor) -> FixedTruth:
    """Return the fixed quantities of some of the events."""
    return {name: v[rows] if isinstance(v, Tensor) and v.ndim else v for name, v in truth.items()}


def draw_vertices(detector: Detector, n: int, generator: torch.Generator, truth: FixedTruth) -> Columns:
    """Draw n positions, uniform in the padded fiducial volume, as columns ``index``, ``true_r`` and ``true_z``."""
    device = generator.device
    r_max, z_low, z_high = detector.generation_volume()
    r, z = fixed(truth, "r", n, device), fixed(truth, "z", n, device)
    if r is None:
        r = torch.rand(n, generator=generator, device=device).sqrt_().mul_(r_max)
    if z is None:
        z = torch.rand(n, generator=generator, device=device).mul_(z_high - z_low).add_(z_low)
    return {"index": torch.arange(n, dtype=torch.int32, device=device), "true_r": r, "true_z": z}


def form_signals(columns: Columns, detector: Detector, finding: Tensor, generator: torch.Generator) -> Columns:
    """Turn quanta into S1 and S2 areas, PE, of the events whose S1 is found.

    Parameters
    ----------
    columns
        ``index``, ``true_r``, ``true_z``, ``photons``, ``electrons``, ``elife``, ``g1``, and anything to carry along.
    finding
        Probability to find an S1 by its number of detected photons
        (:func:`~training.simulator.signals.s1_finding_table`).
    """
    light = columns.pop("g1") * detector.light_collection(columns["true_r"], columns["true_z"])
    columns["hits"] = detect_photons(columns["photons"], light.clamp_(max=1.0), generator)
    columns = keep(columns, s1_found(columns["hits"], finding, generator))
    columns["s1"] = s1_area(columns["hits"], detector, generator)
    drift_time = columns["true_z"] * (-1 / detector.drift_velocity)
    extracted = extracted_electrons(columns["electrons"], drift_time, columns.pop("elife"), detector, generator)
    columns["extracted"] = extracted
    columns["s2"] = s2_area(extracted, columns["true_r"], detector, generator)
    return columns


def reconstruct(columns: Columns, detector: Detector, generator: torch.Generator) -> Columns:
    """Smear positions, correct areas and apply the cuts.

    Positions are smeared around ``true_r``, or around the column ``apparent_r`` where there is one.

    ``columns`` holds ``true_r``, ``true_z`` and the areas ``s1`` and ``s2`` in PE; those of the result are in the
    detector's unit.
    """
    s, scale = detector.selection, 1 / detector.area_scale
    columns = keep(columns, columns["s2"] * scale > s.s2_min)
    a, b = detector.xy_resolution
    centre = columns.pop("apparent_r", columns["true_r"])
    sigma = (a**2 / columns["s2"] + b**2).sqrt_()
    x, y, dz = torch.randn((3, len(centre)), generator=generator, device=centre.device)
    columns["r"] = torch.hypot(centre + sigma * x, sigma * y)
    columns["z"] = columns["true_z"] + dz * detector.z_resolution
    return select(correct(columns, detector), detector, generator)


def correct(columns: Columns, detector: Detector) -> Columns:
    """Add ``cs1``, ``cs2`` and ``drift_time``; ``s1`` and ``s2`` change from PE to the detector's unit."""
    scale = 1 / detector.area_scale
    r, z = columns["r"], columns["z"]
    columns["drift_time"] = z * (-1 / detector.drift_velocity)
    columns["s1"] = columns["s1"] * scale
    columns["s2"] = columns["s2"] * scale
    columns["cs1"] = columns["s1"] / detector.light_collection(r, z)
    lost = (columns["drift_time"] * (1 / detector.elife)).exp_().mul_(detector.bottom_fraction)
    columns["cs2"] = columns["s2"] * lost / detector.s2_response(r)
    return columns


def select(columns: Columns, detector: Detector, generator: torch.Generator) -> Columns:
    """Apply the windows, then the efficiency of the cuts that are not simulated."""
    s = detector.selection
    cs1, cs2, r, z = columns["cs1"], columns["cs2"], columns["r"], columns["z"]
    passed = (cs1 >= s.cs1[0]) & (cs1 <= s.cs1[1]) & (cs2 >= s.cs2[0]) & (cs2 <= s.cs2[1])
    columns = keep(columns, passed & (r <= s.r_max) & (z >= s.z[0]) & (z <= s.z[1]))
    if s.efficiency == 1.0 and not s.curves:
        return columns
    survival = torch.full_like(columns["cs1"], s.efficiency)
    for curve in s.curves:
        survival *= interpolate(columns[curve.column], curve.x, curve.value)
    u = torch.rand(survival.shape, generator=generator, device=survival.device)
    return keep(columns, u < survival)


def interpolate(x: Tensor, points: tuple[float, ...], values: tuple[float, ...]) -> Tensor:
    """Return the piecewise linear function through the points at x (n,), constant outside."""
    xs = torch.tensor(points, dtype=x.dtype, device=x.device)
    ys = torch.tensor(values, dtype=x.dtype, device=x.device)
    right = torch.searchsorted(xs, x).clamp_(1, len(points) - 1)
    weight = ((x - xs[right - 1]) / (xs[right] - xs[right - 1])).clamp_(0.0, 1.0)
    return torch.lerp(ys[right - 1], ys[right], weight)
