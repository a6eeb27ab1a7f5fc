"""Toys as tables: the structured arrays that inference_interface files hold and alea reads.

Per run one row per event with the observables and ``source``, the position of the source in the run; ``ancillary`` and
``generate_values`` with one row each, names sorted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inference.data.files import one_row
from inference.parameters import ParameterSet
from inference.science_run import ScienceRun
from inference.toys.draws import ToyBatch


def toy_tables(parameters: ParameterSet, runs: Sequence[ScienceRun], toys: ToyBatch) -> list[dict[str, np.ndarray]]:
    """Return one set of tables per toy: the runs in order, then ``ancillary``, then ``generate_values``.

    The tables are what :func:`inference.data.files.write_toys` writes.
    """
    tables: list[dict[str, np.ndarray]] = [{} for _ in range(len(toys))]
    for run in runs:
        dtype = [*((name, "f8") for name in run.observables.names), ("source", "i8")]
        x, label = toys.data.x[run.name].cpu().numpy(), toys.labels[run.name].cpu().numpy()
        for t, table in enumerate(tables):
            real = label[t] >= 0
            rows = np.empty(int(real.sum()), dtype=dtype)
            for d, name in enumerate(run.observables.names):
                rows[name] = x[t, real, d]
            rows["source"] = label[t, real]
            table[run.name] = rows
    for t, table in enumerate(tables):
        centres = dict(zip(parameters.ancillary_names, toys.data.centres[t].tolist(), strict=True))
        table["ancillary"] = one_row(centres)
        table["generate_values"] = one_row(parameters.mapping(toys.values[t]))
    return tables
