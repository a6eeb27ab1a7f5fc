"""The verbs of studies with toys: what they print and write, and their exit codes."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import h5py
import model_files
import numpy as np
import pytest
import torch

import xeflow
from inference.cli.options import ProgressLines, duration
from inference.configuration.alea_results import fit_hypotheses, read_fits, write_fits
from inference.data.files import read_all_tables, write_toys
from inference.model import StatisticalModel
from inference.reports.study_plots import plot_discovery
from inference.studies.discovery import Discovery
from inference.studies.neyman import NeymanInterval
from inference.studies.sensitivity import SensitivityBand
from inference.studies.toy_pairs import read_pairs
from inference.toy_studies import ToySettings, discovery_study
from inference.toys.draws import draw_toys
from inference.toys.toy_tables import toy_tables
from surrogate.errors import DataError


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    path = model_files.write_model(folder)
    np.savez(folder / "data.npz", **dict(zip(("sr0", "sr1", "ancillary"), model_files.data(), strict=True)))
    return folder, str(path), str(folder / "data.npz")


@pytest.fixture(scope="module")
def construction(files):
    """The store of a small construction and its record."""
    folder, model, data = files
    words = ["limit", model, "--data", data, "--critical", "toys", "--toys", "150", "--store", str(folder / "n.h5")]
    code = xeflow.main([*words, "--output", str(folder / "out"), "--json", str(folder / "n.json")])
    return code, folder / "n.h5", NeymanInterval.from_json((folder / "n.json").read_text())


def test_limit_with_toys(files, construction, capsys):
    folder, model, data = files
    code, store, found = construction
    assert code == 0
    assert found.interval.critical_values == "toys"
    assert 4 < found.interval.upper.value < 9
    assert len(found.grid) == 12
    assert set(found.n_toys) == {150}
    for name in ("neyman.json", "summary.txt", "critical_values.png", "statistic.png", "projections.png"):
        assert (folder / "out" / name).stat().st_size > 0
    assert len(read_pairs(store).fits) == 1800
    # The same store gives the same limit without a single toy.
    words = ["limit", model, "--data", data, "--critical", str(store), "--output", str(folder / "again")]
    assert xeflow.main([*words, "--json", str(folder / "again.json")]) == 0
    assert NeymanInterval.from_json((folder / "again.json").read_text()) == found
    assert "upper limit" in capsys.readouterr().out


def test_progress_without_a_terminal(caplog):
    """A line after five seconds, then every thirty, with the rate since this run began; none for what is done."""
    caplog.set_level(logging.INFO)
    # seconds, toys done, all toys; of the first study 1000 toys were stored before
    calls = [(0, 1000, 2000), (2, 1020, 2000), (10, 1100, 2000), (20, 1200, 2000), (40, 1400, 2000), (100, 2000, 2000)]
    calls += [(100, 0, 9000), (110, 50, 9000)]
    clock = iter([float(seconds) for seconds, _, _ in calls])
    lines = ProgressLines(lambda: next(clock))
    for _, done, total in calls:
        lines(done, total)
    assert caplog.messages == [
        "1100 of 2000 toys after 10 s, about 90 s left",
        "1400 of 2000 toys after 40 s, about 60 s left",
        "50 of 9000 toys after 10 s, about 30 min left",
    ]
    assert [duration(t) for t in (119.0, 3000.0, 8000.0)] == ["119 s", "50 min", "2 h"]


def test_a_limit_beyond_the_grid_fails_its_check(files, tmp_path, capsys):
    _, model, data = files
    words = ["neyman", model, "--data", data, "--toys", "30", "--points", "3", "--range", "0", "2", "--nuisances"]
    assert xeflow.main([*words, "nominal", "--output", str(tmp_path)]) == 1
    assert "widen the range" in capsys.readouterr().out
    assert xeflow.main([*words, "nominell", "--output", str(tmp_path)]) == 2
    assert "did you mean 'nominal'" in capsys.readouterr().err


def test_sensitivity(files, construction, capsys):
    folder, model, _ = files
    words = ["sensitivity", model, "--toys", "60", "--critical", str(construction[1]), "--output", str(folder / "s")]
    assert xeflow.main([*words, "--json", str(folder / "s.json")]) == 0
    band = SensitivityBand.from_json((folder / "s.json").read_text())
    assert band.n_toys == 60
    assert band.values[1] < band.median < band.values[3]
    assert (folder / "s" / "sensitivity.png").stat().st_size > 0
    assert "+0 sigma" in capsys.readouterr().out


def test_coverage_and_discovery(files, construction, tmp_path, capsys):
    _, model, data = files
    record = tmp_path / "coverage.json"
    words = ["coverage", model, "--at", "0", "--at", "2", "--toys", "80", "--critical", str(construction[1])]
    assert xeflow.main([*words, "--json", str(record)]) == 0
    points = json.loads(record.read_text())["points"]
    assert [p["truth"]["wimp_rate_multiplier"] for p in points] == [0.0, 2.0]
    assert all(0.7 < p["coverage"] <= 1.0 for p in points)
    assert "covered" in capsys.readouterr().out
    words = ["discovery", model, "--data", data, "--toys", "60", "--output", str(tmp_path / "d")]
    assert xeflow.main([*words, "--json", "-"]) == 0
    found = Discovery.from_json(capsys.readouterr().out)
    assert found.n_toys == 60
    assert 0 < found.p0 <= 0.5
    assert Discovery.from_json((tmp_path / "d" / "discovery.json").read_text()) == found
    assert {p.name for p in (tmp_path / "d").glob("*.png")} == {"discovery.png", "projections.png"}


def test_the_figure_of_a_discovery_shows_the_fractions_of_toys_beyond(files):
    _, model, data = files
    analysis = StatisticalModel.from_config(model)
    analysis.set_data(data)
    found, toys = discovery_study(analysis, "wimp_rate_multiplier", ToySettings(60))
    axes = plot_discovery(found, toys).axes[0]
    x, y = next(line for line in axes.lines if "toys" in line.get_label()).get_data()
    t = toys.statistics("q0")[0]
    positive = x > 0
    # equal values, of which the next draws a vertical line, differ by one toy
    np.testing.assert_allclose(y[positive], [(t >= value).mean() for value in x[positive]], atol=1.01 / len(t))
    with pytest.raises(DataError, match="fits to the data failed"):
        plot_discovery(replace(found, q0=None))


def test_limits_without_toys_take_no_options_of_toys(files, capsys):
    _, model, data = files
    assert xeflow.main(["limit", model, "--data", data, "--toys", "100"]) == 2
    assert "--critical asymptotic makes no toys" in capsys.readouterr().err


def test_results_of_toys_and_discoveries_tell_of_dropped_events(files, construction, tmp_path, capsys):
    _, model, _ = files
    sets = dict(zip(("sr0", "sr1", "ancillary"), model_files.data(), strict=True))
    for run in ("sr0", "sr1"):
        outside = sets[run][:1].copy()
        outside[outside.dtype.names[0]] = 1e9
        sets[run] = np.concatenate([sets[run], outside])
    np.savez(tmp_path / "more.npz", **sets)
    words = [model, "--data", str(tmp_path / "more.npz"), "--drop-outside", "--json", str(tmp_path / "r.json")]
    assert xeflow.main(["discovery", *words, "--output", str(tmp_path / "d")]) == 0
    remarks = Discovery.from_json((tmp_path / "r.json").read_text()).best_fit.remarks
    assert "dropped" in remarks[0]
    assert remarks[0] in capsys.readouterr().out
    assert xeflow.main(["limit", *words, "--critical", str(construction[1]), "--output", str(tmp_path / "o")]) == 0
    assert NeymanInterval.from_json((tmp_path / "r.json").read_text()).interval.remarks[0] == remarks[0]


def test_limits_with_toys_that_were_made_for_other_data_say_so(files, construction, tmp_path, capsys):
    _, model, data = files
    built = StatisticalModel.from_config(model)
    other = tmp_path / "other.h5"
    point = built.parameters.vector({"er_rate_multiplier": 1.5})
    toys = draw_toys(built.parameters, built.runs, point, torch.arange(1), 3)
    write_toys(other, toy_tables(built.parameters, built.runs, toys), {})
    for file, made_for_others in ((data, False), (str(other), True)):
        words = ["limit", model, "--data", file, "--critical", str(construction[1]), "--output", str(tmp_path / "o")]
        assert xeflow.main([*words, "--json", str(tmp_path / "r.json")]) in (0, 1)
        remarks = NeymanInterval.from_json((tmp_path / "r.json").read_text()).interval.remarks
        assert any("made for other data" in remark for remark in remarks) == made_for_others
        assert ("made for other data" in capsys.readouterr().out) == made_for_others


def test_coverage_of_data_sets_from_files(files, tmp_path, capsys, monkeypatch):
    """The model's own toys, read from a file with their centres, cover as they do when drawn on the spot."""
    _, model, _ = files
    path, record = tmp_path / "toys.h5", tmp_path / "coverage.json"
    words = ["--toys", "80", "--seed", "4"]
    assert xeflow.main(["toys", model, *words, "--truth", "wimp_rate_multiplier=2", "--output", str(path)]) == 0
    read = ["coverage", model, "--at", "2", "--events", str(path), "--json", str(record)]
    assert xeflow.main(read) == 0
    (point,) = json.loads(record.read_text())["points"]
    assert point["n_toys"] == 80
    assert point["origin"] == "toys.h5"
    assert xeflow.main(["coverage", model, "--at", "2", *words, "--json", str(record)]) == 0
    (own,) = json.loads(record.read_text())["points"]
    assert point["coverage"] == own["coverage"]
    # The centres are those of the file by whatever case its table is called.
    other = tmp_path / "cased.h5"
    sets = read_all_tables(path, ["sr0", "sr1", "ancillary"])
    monkeypatch.setattr(
        "inference.reports.coverage_study.throw_centres", lambda p, v, i, s: torch.full_like(v, 1.7)[:, :4]
    )
    write_toys(other, [{name.capitalize(): table for name, table in tables.items()} for tables in sets], {})
    assert xeflow.main(["coverage", model, "--at", "2", "--events", str(other), "--json", str(record)]) == 0
    (cased,) = json.loads(record.read_text())["points"]
    assert cased["coverage"] == point["coverage"]
    assert xeflow.main([*read, "--at", "3"]) == 2
    assert "the one value of wimp_rate_multiplier" in capsys.readouterr().err


def test_toys_in_the_layout_of_alea(files, tmp_path):
    _, model, _ = files
    path = tmp_path / "toys.h5"
    words = ["toys", model, "--toys", "4", "--seed", "9", "--truth", "er_rate_multiplier=1.2", "--output", str(path)]
    assert xeflow.main(words) == 0
    built = StatisticalModel.from_config(model)
    with h5py.File(path) as file:
        assert json.loads(file.attrs["n_datasets"]) == 4
        stored = file["3/sr0"][()]
    again = built.generate_data(seed=9, toy=3, er_rate_multiplier=1.2)
    np.testing.assert_array_equal(stored, again["sr0"])
    built.set_data(path, index=3)
    assert len(built.data.events["sr0"]) == len(stored)


def test_fits_in_the_layout_of_alea(files, tmp_path):
    built = StatisticalModel.from_config(files[1])
    truth = {"wimp_rate_multiplier": 1.0}
    toys = draw_toys(built.parameters, built.runs, built.parameters.vector(truth), torch.arange(5), 3)
    tables = fit_hypotheses(built.parameters, built.runs, toys, "wimp_rate_multiplier", 2.7055)
    path = tmp_path / "fits.h5"
    full = built.parameters.mapping(built.parameters.vector(truth))
    write_fits(path, tables, "wimp_rate_multiplier", full, built.parameters, built.runs, 3)
    read, attributes = read_fits(path)
    assert attributes["poi"] == "wimp_rate_multiplier"
    assert attributes["generate_values"] == full
    assert attributes["expectation_values"]["er"] > 0
    free, zero = read["free"], read["zero"]
    assert list(free.dtype.names) == [*sorted(built.parameters.names), "ll", "dl", "ul", "valid_fit"]
    assert free["valid_fit"].all()
    assert (free["ll"] >= zero["ll"] - 1e-9).all()
    assert (free["ll"] >= read["true"]["ll"] - 1e-9).all()
    assert (zero["wimp_rate_multiplier"] == 0).all()
    assert (free["ul"] > free["wimp_rate_multiplier"]).all()
    assert np.isnan(zero["ul"]).all()
    with pytest.raises(DataError, match="no result file"):
        read_fits(files[2])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--toys", "9"], "makes no toys"),
        (["--seed", "3"], "makes no toys"),
        (["--poi", "er_rate_multiplier"], "not of er_rate_multiplier"),
        (["--nominal", "er_rate_multiplier=1.1"], "another model"),
    ],
)
def test_a_store_is_not_bent_to_another_question(files, construction, words, message, tmp_path, capsys):
    _, model, data = files
    limit = ["limit", model, "--data", data, "--critical", str(construction[1]), "--output", str(tmp_path), *words]
    assert xeflow.main(limit) == 2
    assert message in capsys.readouterr().err


def test_sensitivities_refuse_critical_values_of_another_model(files, construction, tmp_path, capsys):
    words = ["sensitivity", files[1], "--toys", "10", "--critical", str(construction[1]), "--output", str(tmp_path)]
    assert xeflow.main([*words, "--nominal", "er_rate_multiplier=1.1"]) == 2
    assert "another model" in capsys.readouterr().err
