"""Fits and limits of random models on random data, and what is wrong with any of them.

Run: PYTHONPATH=tests python benchmarks/fuzz_fits.py [--models 400] [--first 1000] [--json FILE]

Every model is fitted to 25 data sets, freely and with the signal held, and both ends of a 90 % interval are searched.
Each limit is fitted again by itself. Prints counts in Markdown; exit code 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from fuzzing import FuzzCounts, fuzz
from rich.console import Console

KINDS = (
    "exception",
    "unflagged NaN or infinity",
    "outside the bounds",
    "called impossible, and is not",
    "-2 ln Lambda < -1e-3",
    "not converged",
    "search failed",
    "wrong limit",
    "long search",
    "looked far out",
)


def summary(counts: FuzzCounts, seconds: float) -> dict[str, object]:
    """Return the counts as plain data."""
    fits, reach = np.array(counts.conditional_fits), np.array(counts.reach)
    return {
        "data_sets": counts.fits,
        "cases": dict(counts.cases),
        "faults": {kind: counts.count(kind) for kind in KINDS},
        "where": {kind: found[:20] for kind, found in counts.faults.items()},
        "limits": len(fits),
        "conditional_fits": {
            "mean": float(fits.mean()),
            "99 %": float(np.percentile(fits, 99)),
            "most": int(fits.max()),
        },
        "reach": {"99 %": float(np.percentile(reach, 99)), "most": float(reach.max())},
        "repeated_by_a_search": counts.refits,
        "repeated_by_a_test": counts.higher,
        "cpu_seconds": round(seconds, 1),
    }


def main() -> int:
    """Fit, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", type=int, default=400)
    parser.add_argument("--first", type=int, default=1000, help="first seed")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.process_time()
    counts = fuzz(range(arguments.first, arguments.first + arguments.models))
    found = summary(counts, time.process_time() - begin)
    console = Console(soft_wrap=True)
    for title, rows in (("case", counts.cases), ("fault", {kind: counts.count(kind) for kind in KINDS})):
        console.print(
            "\n".join([f"| {title} | data sets |", "|---|---|", *(f"| {k} | {n} |" for k, n in rows.items())])
        )
    console.print({k: v for k, v in found.items() if k not in ("cases", "faults")})
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))
    return 1 if counts.faults else 0


if __name__ == "__main__":
    sys.exit(main())
