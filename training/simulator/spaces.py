"""The analysis spaces: which reconstructed columns a surrogate describes, in which windows and scales.

==============  =====================================  ==========================================
space           observables                            use
==============  =====================================  ==========================================
``A``           cs1, cs2, r, z                         searches with position-dependent backgrounds
``B``           cs1, cs2, r                            the same without z
``C``           cs1, cs2                               the classic two-dimensional search
``light_wimp``  cs2, cs1, z                            low masses, where thresholds dominate
==============  =====================================  ==========================================
"""

from __future__ import annotations

from surrogate.errors import ConfigError, unknown_name
from surrogate.observables import Observable, ObservableSpace
from training.simulator.detector import Detector

SPACES: dict[str, tuple[str, ...]] = {
    "A": ("cs1", "cs2", "r", "z"),
    "B": ("cs1", "cs2", "r"),
    "C": ("cs1", "cs2"),
    "light_wimp": ("cs2", "cs1", "z"),
}

CS1_OFFSET = 2.0
"""Offset of the logarithmic scale of cs1, PE: about one photon, below which its logarithm would stretch noise."""


def observable_space(detector: Detector, space: str) -> ObservableSpace:
    """Return an analysis space of a detector, with the windows of its selection.

    ``cs1`` has the scale ln(cs1 + 2), ``cs2`` ln, ``r`` r^2 and ``z`` linear: bulk sources are close to uniform in r^2
    and z.

    Raises
    ------
    ConfigError
        For an unknown space.
    """
    if space not in SPACES:
        raise ConfigError(unknown_name("space", space, SPACES, f"detector '{detector.name}'"))
    s, unit = detector.selection, detector.area_unit
    known = {
        "cs1": Observable("cs1", unit, *s.cs1, scale="log", offset=CS1_OFFSET),
        "cs2": Observable("cs2", unit, *s.cs2, scale="log"),
        "r": Observable("r", "cm", 0.0, s.r_max, scale="square"),
        "z": Observable("z", "cm", *s.z),
    }
    return ObservableSpace(tuple(known[name] for name in SPACES[space]))
