"""The four nuisance parameters of the simulator: names, physical bounds, and ranges for training.

theta = (t_ly, t_qy, elife, g1):

- ``t_ly``, ``t_qy`` [sigma]: deformation of the light and the charge yield along their published uncertainty bands;
- ``elife`` [us]: electron lifetime;
- ``g1`` [phd/photon]: photon detection probability averaged over the fiducial volume, without double photo-emission.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from surrogate.errors import ConfigError, RangeError, unknown_name
from surrogate.nuisance import Nuisance, NuisanceSpace
from training.simulator.detector import Detector

THETA_NAMES: tuple[str, ...] = ("t_ly", "t_qy", "elife", "g1")

YIELD_LIMIT = 5.0
"""Largest |t_ly| and |t_qy| that are simulated: beyond, a linear deformation of the bands means nothing."""

YIELD_RANGE = 3.3
"""Trained range of t_ly and t_qy: fits are bounded at 3 sigma, and the margin keeps the edge out of reach."""

ELIFE_RANGE = (0.7, 1.4)
"""Trained range of the electron lifetime relative to nominal, sampled uniformly in its logarithm."""

G1_RANGE = (0.88, 1.12)
"""Trained range of g1 relative to nominal."""

ENERGY = "energy"
"""The recoil energy [keV], a further parameter of mono-energetic sources."""

ENERGY_RANGE = (0.7, 80.0)
ENERGY_NOMINAL = 10.0
"""Its trained range, uniform in the logarithm, and a reference. Below, threefold coincidence finds nothing to speak of;
above, nuclear recoils lie beyond a window that ends at 70 PE."""


@dataclass(frozen=True)
class Theta:
    """The parameters of each event, or of all events at once.

    Each field is a 0-d tensor (shared by all events) or has shape (n,).
    """

    t_ly: Tensor
    t_qy: Tensor
    elife: Tensor
    g1: Tensor

    def at(self, index: Tensor) -> Theta:
        """Return the parameters of the events at an index (m,)."""
        return Theta(*(value[index] if value.ndim else value for value in (self.t_ly, self.t_qy, self.elife, self.g1)))


def nominal_theta(detector: Detector) -> Tensor:
    """Return the reference point (4,), float64: no deformation, nominal lifetime and g1."""
    return torch.tensor([0.0, 0.0, detector.elife, detector.g1], dtype=torch.float64)


def check_theta(theta: Tensor, n: int, detector: Detector) -> None:
    """Raise unless theta has shape (4,) or (n, 4) and every value is physical.

    Raises
    ------
    RangeError
        For a wrong shape, a value that is not finite, |t_ly| or |t_qy| above 5, elife <= 0, or a g1 that is not
        positive or with which the brightest place of the detector would detect more than one photon per photon.
    """
    names = ", ".join(THETA_NAMES)
    if tuple(theta.shape) not in ((len(THETA_NAMES),), (n, len(THETA_NAMES))):
        raise RangeError(f"theta: shape is {tuple(theta.shape)}, must be (4,) or ({n}, 4) with columns {names}")
    g1_max = 1.0 / detector.brightest()
    bounds = ((-YIELD_LIMIT, YIELD_LIMIT), (-YIELD_LIMIT, YIELD_LIMIT), (1e-3, math.inf), (1e-6, g1_max))
    for k, (name, (low, high)) in enumerate(zip(THETA_NAMES, bounds, strict=True)):
        column = theta[..., k]
        bad = ~(torch.isfinite(column) & (column >= low) & (column <= high))
        if bool(bad.any()):
            value = float(column[bad].reshape(-1)[0])
            raise RangeError(f"theta: {name} = {value:.6g} is outside its physical range [{low:.6g}, {high:.6g}]")


def split_theta(theta: Tensor, like: Tensor) -> Theta:
    """Return the columns of theta (4,) or (n, 4) with the dtype and device of ``like``."""
    columns = theta.to(like)
    return Theta(*(columns[..., k].contiguous() for k in range(len(THETA_NAMES))))


def training_nuisances(detector: Detector, names: tuple[str, ...] = THETA_NAMES) -> NuisanceSpace:
    """Return the nuisance space in which surrogates of this detector are trained, for the chosen parameters.

    Raises
    ------
    ConfigError
        For a name that is not a parameter of the simulator.
    """
    elife, g1 = detector.elife, detector.g1
    known = {
        "t_ly": Nuisance("t_ly", "sigma", -YIELD_RANGE, YIELD_RANGE, 0.0),
        "t_qy": Nuisance("t_qy", "sigma", -YIELD_RANGE, YIELD_RANGE, 0.0),
        "elife": Nuisance("elife", "us", ELIFE_RANGE[0] * elife, ELIFE_RANGE[1] * elife, elife, scale="log"),
        "g1": Nuisance("g1", "phd/photon", G1_RANGE[0] * g1, G1_RANGE[1] * g1, g1),
        ENERGY: Nuisance(ENERGY, "keV", *ENERGY_RANGE, ENERGY_NOMINAL, scale="log"),
    }
    for name in names:
        if name not in known:
            raise ConfigError(unknown_name("nuisance", name, known, "simulator"))
    return NuisanceSpace(tuple(known[name] for name in names))


def assemble_theta(values: Tensor, nuisances: NuisanceSpace, base: Tensor) -> Tensor:
    """Return theta (n, 4): the columns of ``values`` (n, K) where floating, ``base`` (4,) where fixed.

    A recoil energy among the nuisances is no part of theta and is left out.
    """
    theta = base.to(values).expand(values.shape[0], -1).clone()
    for k, name in enumerate(nuisances.names):
        if name != ENERGY:
            theta[:, THETA_NAMES.index(name)] = values[:, k]
    return theta
