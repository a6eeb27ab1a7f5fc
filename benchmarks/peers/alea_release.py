"""The XENONnT search for light WIMPs with alea, in alea's own environment; run by release.py.

Run: python benchmarks/peers/alea_release.py RELEASE MASS TOYS.h5 --limits N --pairs N

alea-inference requires pydantic < 2 and cannot be installed beside this package. Prints JSON: CPU seconds, limits and
log likelihood ratios.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import blueice.likelihood
import blueice.pdf_morphers
import yaml

# alea 0.3.5 looks for this where blueice 1.2.2 no longer has it
blueice.pdf_morphers.MORPHERS = blueice.likelihood.MORPHERS

from alea.models import BlueiceExtendedModel  # noqa: E402  the line above must come first
from inference_interface import toydata_from_file  # noqa: E402

POI = "wimp_rate_multiplier"


def build(release: Path, mass: str) -> Any:
    """Return alea's model of a WIMP mass."""
    config = yaml.safe_load((release / "statistical_model_base.yaml").read_text())
    for term in config["likelihood_config"]["likelihood_terms"]:
        for source in term["sources"]:
            if source["name"] == "wimp":
                run = term["name"].lower()
                name = f"template_XENONnT_{run}_wimp_si_{mass}_cevns_tly_{{t_ly:.1f}}_tqy_{{t_qy:.1f}}.h5"
                source["template_filename"] = f"wimp_si/{name}"
    return BlueiceExtendedModel(**config, template_path=str(release))


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what the work returns, and its CPU seconds."""
    start = time.process_time()
    found = work()
    return found, time.process_time() - start


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path)
    parser.add_argument("mass")
    parser.add_argument("data", type=Path, help="the science data first, then toys")
    parser.add_argument("--limits", type=int, default=3, help="toys to set limits on")
    parser.add_argument("--pairs", type=int, default=10, help="toys to fit twice")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable()
    stdout, sys.stdout = sys.stdout, sys.stderr
    datasets, _ = toydata_from_file(str(options.data))
    os.chdir(options.data.parent)  # blueice leaves a folder of cached densities where it runs
    model, build_s = timed(lambda: build(options.release, options.mass))
    found: dict[str, Any] = {"build_s": build_s, "limit": [], "limit_s": [], "t": [], "pair_s": []}
    for dataset in datasets[: options.limits + 1]:
        model.data = list(dataset)
        ends, seconds = timed(lambda: model.confidence_interval(poi_name=POI))
        found["limit"].append(float(ends[1]))
        found["limit_s"].append(seconds)
    for dataset in datasets[1 : options.pairs + 1]:
        model.data = list(dataset)
        fits, seconds = timed(lambda: (model.fit(), model.fit(**{POI: 0.0})))
        found["t"].append(float(2 * (fits[0][1] - fits[1][1])))
        found["pair_s"].append(seconds)
    found["version"] = f"alea {metadata.version('alea-inference')} + blueice {metadata.version('blueice')}"
    json.dump(found, stdout)


if __name__ == "__main__":
    main()
