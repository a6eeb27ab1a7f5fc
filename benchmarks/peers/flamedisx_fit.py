"""The tutorial of flamedisx, 25 electronic recoils with the electron lifetime floating; run by flamedisx_fit.py.

Run: python benchmarks/peers/flamedisx_fit.py EVENTS.npy --g1 VALUE

Takes events (n, 3) of s1 [PE], s2 [PE] and drift_time [us]. Prints a line of JSON: CPU seconds of the first fit, which
compiles the model, of a second one, and of the 68 % interval, with what was found.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"

# this part of flamedisx downloads the maps of a detector when it is imported, and is not needed here
sys.modules["flamedisx.xenon.x1t_sr0"] = types.ModuleType("flamedisx.xenon.x1t_sr0")

import flamedisx  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

LEVEL = 0.6827
#: Drift velocity of the default source [cm/ns].
VELOCITY = 1.335e-4


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what the work returns, and its CPU seconds."""
    start = time.process_time()
    found = work()
    return found, time.process_time() - start


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events", type=Path)
    parser.add_argument("--g1", type=float, required=True)
    options = parser.parse_args()

    class Source(flamedisx.ERSource):  # type: ignore[misc]
        """The default source with a photon detection probability that is a parameter."""

        @staticmethod
        def photon_detection_eff(z: Any, *, g1: float = options.g1) -> Any:
            """Return g1."""
            return g1 + 0.0 * z

    s1, s2, drift = np.load(options.events).T
    data = pd.DataFrame({"s1": s1, "s2": s2, "drift_time": 1e3 * drift})
    data["z"] = -VELOCITY * data["drift_time"]
    # the model depends on the depth alone
    for name in ("x", "y", "r", "theta", "event_time"):
        data[name] = 0.0
    data["event_time"] = 1_579_784_955_000_000_000.0
    likelihood = flamedisx.LogLikelihood(
        sources={"er": Source}, data=data, free_rates=("er",), elife=(250e3, 900e3, 3), batch_size=25, progress=False
    )
    guess = {"er_rate_multiplier": len(data) / 1000.0}
    _, first = timed(lambda: likelihood.bestfit(guess))

    def fit() -> Any:
        best = likelihood.bestfit(guess)
        likelihood.inverse_hessian(best)
        return best

    timed(fit)
    best, fit_s = timed(fit)
    _, interval_first = timed(lambda: likelihood.interval("elife", bestfit=best, confidence_level=LEVEL))
    ends, interval_s = timed(lambda: likelihood.interval("elife", bestfit=best, confidence_level=LEVEL))
    found = {
        "first_s": first,
        "fit_s": fit_s,
        "interval_first_s": interval_first,
        "interval_s": interval_s,
        "elife_us": float(best["elife"]) / 1e3,
        "ends_us": [float(e) / 1e3 for e in ends],
    }
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()
