"""Figures of simulated events: they are drawn from records, and say what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from surrogate.errors import DataError
from surrogate.nuclear_spectra import neutron_spectrum
from surrogate.nuisance import NuisanceSpace
from surrogate.observables import Observable, ObservableSpace
from training.event_writer import EventWriter, Segment
from training.events import Blocks, EventFile, EventSchema
from training.simulation import simulate_to_file
from training.simulator.simulate import efficiency
from training.simulator.sources import RecoilSource
from training.simulator.theta import nominal_theta
from training.simulator_config import read_detector, standard_plan
from training.simulator_plots import band, plot_bands, plot_efficiency, plot_projections, plot_report
from training.simulator_validation import Comparison, SimulatorReport


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("events")
    paths = {name: folder / f"{name}.h5" for name in ("er", "wimp50")}
    for name, path in paths.items():
        simulate_to_file(standard_plan("xenonnt_like", name, 60_000, 1), path, workers=1)
    return paths


def test_projections_and_bands(events: dict[str, Path], tmp_path: Path) -> None:
    files = {name: EventFile.open(path) for name, path in events.items()}
    projections = plot_projections(files["er"])
    assert len([a for a in projections.axes if a.get_visible()]) == 10
    bands = plot_bands(files)
    assert [t.get_text() for t in bands.axes[0].get_legend().get_texts()] == [f"{n}: 10, 50, 90 %" for n in events]
    for k, figure in enumerate((projections, bands)):
        figure.savefig(tmp_path / f"{k}.png")
    for file in files.values():
        file.close()


def test_band_quantiles() -> None:
    """Uniform y: the quantiles of every bin are the levels; thin bins are left out."""
    rng = np.random.default_rng(1)
    found = band(rng.uniform(0, 2, 200_000), rng.uniform(0, 1, 200_000), np.array([0.0, 1.0, 2.0, 3.0]))
    assert found[:2] == pytest.approx(np.array([[0.1, 0.5, 0.9]] * 2), abs=0.01)
    assert np.isnan(found[2]).all()


def test_efficiency_rises(tmp_path: Path) -> None:
    detector = read_detector("xenonnt_like")
    energies = torch.tensor([0.5, 3.0, 20.0])
    source = RecoilSource("nr", detector, "nr", neutron_spectrum(1.0))
    kept, error = efficiency(source, energies, nominal_theta(detector), 5000, 1)
    assert float(kept[0]) < 0.01
    assert 0.1 < float(kept[1]) < 0.6
    assert float(kept[2]) == pytest.approx(1.0, abs=0.03)
    assert bool((error <= 0.55 / 5000**0.5).all())
    plot_efficiency(energies, {"nr": (kept, error)}).savefig(tmp_path / "efficiency.png")


def test_report(tmp_path: Path) -> None:
    comparisons = [
        Comparison("er 1 keV 23 V/cm: mean photons", 1.001, 1.0, 0.0, 0.005),
        Comparison("nr 23 V/cm: cs2 in cs1 [3, 6) phd, 50 %", 1.01, 1.0, 0.004, 0.015),
        Comparison("8B sr0 rate at t_ly = 1, t_qy = 0", 1.24, 1.237, 0.006, 0.04),
    ]
    figure = plot_report(SimulatorReport(tuple(comparisons)))
    labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert labels == ["mean photons", "cs2 quantiles", "8B rate"]
    figure.savefig(tmp_path / "report.png")


def test_nothing_to_draw(tmp_path: Path) -> None:
    space = ObservableSpace((Observable("s1", "PE", 0.0, 1.0),))
    writer = EventWriter(tmp_path / "empty.h5", EventSchema(space, NuisanceSpace(), None), {})
    none = Blocks(np.zeros((1, 0)), None, np.zeros(1, dtype=np.int64))
    writer.write(0, Segment(none, np.zeros((0, 1), np.float32), np.zeros(0, np.int32)))
    with EventFile.open(writer.finish(1)) as file:
        with pytest.raises(DataError, match="no events"):
            plot_projections(file)
        with pytest.raises(DataError, match="unknown observable 'cs1'"):
            plot_bands({"empty": file})
