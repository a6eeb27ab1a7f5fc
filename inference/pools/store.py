"""Event pools on disk, under a name that is a hash of all they depend on: built once per study and machine."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from inference.expansion.chart import chart_of
from inference.expansion.polynomial import PolynomialBasis
from inference.expansion.region import Region
from inference.expansion.report import ExpansionReport, SourceReport
from inference.expansion.theta_basis import ThetaBasis
from inference.parameters import ParameterSet
from inference.pools.builder import PoolOptions, build_pool
from inference.pools.event_pool import EventPool, PoolTable, RunPool
from inference.science_run import ScienceRun, model_hash
from surrogate.atomic import replacing_file
from surrogate.errors import DataError

FORMAT = "xeflow-event-pool-3"

logger = logging.getLogger(__name__)


def pool_key(
    parameters: ParameterSet,
    runs: Sequence[ScienceRun],
    values: Tensor,
    region: Region,
    options: PoolOptions,
) -> str:
    """Return the SHA-256 of everything a pool is made of: model, surrogates, region, options and code version."""
    record = {
        "format": FORMAT,
        "version": version("xeflow"),
        "model": model_hash(parameters, tuple(runs)),
        "values": values.tolist(),
        "region": [region.names, region.radius]
        + [t.tolist() for t in (region.centre, region.covariance, region.lower, region.upper)],
        "options": asdict(options),
    }
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def cached_pool(
    folder: str | Path,
    parameters: ParameterSet,
    runs: Sequence[ScienceRun],
    values: Tensor,
    region: Region,
    options: PoolOptions | None = None,
) -> EventPool:
    """Return the pool that :func:`inference.pools.builder.build_pool` builds, from the folder if it is there.

    Raises
    ------
    DataError
        If the file of that name is damaged.
    """
    options = options or PoolOptions()
    key = pool_key(parameters, runs, values, region, options)
    path = Path(folder) / f"pool-{key[:24]}.npz"
    if path.exists():
        logger.info("toys take their events from the pool %s", path)
        return _read(path, key, parameters, tuple(runs), values, region)
    logger.info("drawing the pool of events for toys, %s", path)
    start = time.monotonic()
    built = build_pool(parameters, runs, values, region, options)
    _write(path, key, built)
    logger.info("the pool is ready after %.0f s", time.monotonic() - start)
    return built


def _write(path: Path, key: str, pool: EventPool) -> None:
    arrays: dict[str, np.ndarray] = {"key": np.array(key), "report": np.array(json.dumps(asdict(pool.report)))}
    for name, run in pool.pools.items():
        arrays[f"{name}/x"], arrays[f"{name}/counts"] = run.x.numpy(), run.counts.numpy()
        for source, table in run.tables.items():
            arrays[f"{name}/tables/{source}"] = table.coefficients.numpy()
            arrays[f"{name}/degrees/{source}"] = np.array(table.basis.polynomials.degrees)
            one = torch.eye(len(table.basis.polynomials), dtype=torch.float64)
            arrays[f"{name}/modes/{source}"] = table.basis.from_monomials(one).numpy()
        for source, log_f in run.constants.items():
            arrays[f"{name}/constants/{source}"] = log_f.numpy()
    with replacing_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _read(
    path: Path, key: str, parameters: ParameterSet, runs: tuple[ScienceRun, ...], values: Tensor, region: Region
) -> EventPool:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        if str(arrays["key"]) != key:
            raise DataError(f"event pool '{path}': was made of something else; remove it")
        report = json.loads(str(arrays["report"]))
        pools = {run.name: _run_pool(arrays, run, region) for run in runs}
    except (OSError, BadZipFile, KeyError, ValueError) as error:
        raise DataError(f"event pool '{path}': cannot be read ({error}); remove it, and it is built again") from error
    sources = tuple(SourceReport(**{**s, "degrees": tuple(s["degrees"])}) for s in report.pop("sources"))
    return EventPool(parameters, runs, values, region, pools, ExpansionReport(sources=sources, **report))


def _run_pool(arrays: Mapping[str, np.ndarray], run: ScienceRun, region: Region) -> RunPool:
    tables, constants = {}, {}
    for c in run.sources:
        table, constant = f"{run.name}/tables/{c.name}", f"{run.name}/constants/{c.name}"
        if table in arrays:
            chart = chart_of(c, region)
            degrees = tuple(int(p) for p in arrays[f"{run.name}/degrees/{c.name}"])
            modes = torch.from_numpy(arrays[f"{run.name}/modes/{c.name}"])
            basis = ThetaBasis(chart, PolynomialBasis(degrees, chart.n_kinks), modes)
            tables[c.name] = PoolTable(basis, torch.from_numpy(arrays[table]))
        elif constant in arrays:
            constants[c.name] = torch.from_numpy(arrays[constant])
    x, counts = (torch.from_numpy(arrays[f"{run.name}/{name}"]) for name in ("x", "counts"))
    return RunPool(x, counts, tables, constants)
