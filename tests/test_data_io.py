"""Data files: every layout gives the same tables, and what cannot be trusted or understood is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from analytic_sources import LIVETIME, UNIT, flat_source, rate_parameter

from inference.data.dataset import event_data
from inference.data.files import as_mapping, one_row, read_tables, write_toys
from inference.data.input import as_dataset
from inference.parameters import ParameterSet
from inference.science_run import RunSource, ScienceRun
from surrogate.errors import DataError
from training.foreign_files import open_foreign

EVENTS = np.array([(10.0, 900.0, -1), (20.0, 1200.0, -1)], dtype=[("cs1", "f8"), ("cs2", "f8"), ("source", "i8")])
ANCILLARY = one_row({"t_ly": 0.3, "er_rate_multiplier": 1.1})


def tables() -> dict[str, np.ndarray]:
    return {"SR0": EVENTS, "ancillary": ANCILLARY}


def check(found: dict[str, np.ndarray]) -> None:
    assert sorted(found) == ["SR0", "ancillary"]
    for name in ("cs1", "cs2"):
        np.testing.assert_array_equal(found["SR0"][name], EVENTS[name])
    assert as_mapping(found["ancillary"], "ancillary") == {"er_rate_multiplier": 1.1, "t_ly": 0.3}


def test_groups_of_columns(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "d.h5", "w") as file:
        for name in ("cs1", "cs2"):
            file[f"SR0/{name}"] = EVENTS[name]
        file.create_group("ancillary").attrs.update({"t_ly": 0.3, "er_rate_multiplier": 1.1})
    check(read_tables(tmp_path / "d.h5"))


def test_structured_datasets(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "d.hdf5", "w") as file:
        for name, table in tables().items():
            file[name] = table
    check(read_tables(tmp_path / "d.hdf5"))


def test_toy_file_round_trip(tmp_path: Path) -> None:
    other = {"SR0": EVENTS[:0], "ancillary": ANCILLARY}
    write_toys(tmp_path / "toys.h5", [tables(), other], {"seed": 3})
    check(read_tables(tmp_path / "toys.h5", index=0))
    assert len(read_tables(tmp_path / "toys.h5", index=1)["SR0"]) == 0
    with h5py.File(tmp_path / "toys.h5") as file:
        assert file.attrs["n_datasets"] == "2"
        assert file.attrs["dataset_names"] == '["SR0", "ancillary"]'


def test_toy_file_needs_a_number(tmp_path: Path) -> None:
    write_toys(tmp_path / "toys.h5", [tables(), tables()], {})
    with pytest.raises(DataError, match="holds 2 data sets; say which"):
        read_tables(tmp_path / "toys.h5")
    with pytest.raises(DataError, match="number 2 does not exist"):
        read_tables(tmp_path / "toys.h5", index=2)


def test_npz_and_npy(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **tables())
    check(read_tables(tmp_path / "d.npz"))
    np.save(tmp_path / "d.npy", EVENTS)
    np.testing.assert_array_equal(read_tables(tmp_path / "d.npy"), EVENTS)


def test_csv_and_directory(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "SR0.csv").write_text("# selected events\ncs1, cs2\n10, 900\n\n20, 1.2e3\n")
    np.save(folder / "ancillary.npy", ANCILLARY)
    check(read_tables(folder))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("cs1,cs1\n1,2\n", "unique column names"),
        ("cs1;cs2\n1;2\n", "commas must separate the columns, the header has ';'"),
        ("cs1,cs2\n1\n", "row 0 has 1 values for 2 columns"),
        ("cs1,cs2\n1,2\n3,x\n", "row 1: could not convert"),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_tables(tmp_path / "d.csv")


@pytest.mark.parametrize("name", ["real_data.pkl", "real_data.pickle", "real_data.dat"])
def test_a_pickle_is_refused_with_the_lines_that_convert_it(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    path.write_bytes(pickle.dumps([EVENTS, ANCILLARY]))
    monkeypatch.setattr(pickle, "load", lambda *_: pytest.fail("the pickle was loaded"))
    with pytest.raises(DataError, match="is a Python pickle") as error:
        read_tables(path, names=("SR0", "ancillary"))
    monkeypatch.undo()
    lines = str(error.value).splitlines()[1:]
    assert len(lines) == 3
    exec("\n".join(line.strip() for line in lines))  # noqa: S102  the lines shown to the user must work
    check(read_tables(path.with_suffix(".npz")))


def test_object_arrays_are_pickles(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.array([{"cs1": 1.0}], dtype=object))
    with pytest.raises(DataError, match="is a Python pickle"):
        read_tables(tmp_path / "d.npy")


@pytest.mark.parametrize("name", ["d.h5", "d.npy", "d.npz"])
def test_garbage(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no such format" * 20)
    with pytest.raises(DataError, match=r"d\."):
        read_tables(tmp_path / name)


def test_truncated_hdf5(tmp_path: Path) -> None:
    write_toys(tmp_path / "d.h5", [tables()], {})
    (tmp_path / "d.h5").write_bytes((tmp_path / "d.h5").read_bytes()[:800])
    with pytest.raises(DataError, match="not a readable HDF5 file"):
        read_tables(tmp_path / "d.h5")


def test_missing_and_unknown(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_tables(tmp_path / "none.h5")
    (tmp_path / "d.root").write_text("root")
    with pytest.raises(DataError, match=r"'\.root' is none of"):
        read_tables(tmp_path / "d.root")


def test_columns_of_unequal_length(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["SR0/cs1"], file["SR0/cs2"] = np.zeros(3), np.zeros(2)
    with pytest.raises(DataError, match="cs1 3, cs2 2"):
        read_tables(tmp_path / "d.h5")


def test_ancillary_has_one_row() -> None:
    with pytest.raises(DataError, match="one row"):
        as_mapping(np.concatenate([ANCILLARY, ANCILLARY]), "ancillary")
    assert as_mapping({"t_ly": 1}, "ancillary") == {"t_ly": 1.0}


@pytest.mark.shared
def test_release_science_data(shared: Path) -> None:
    """The XENONnT light dark matter release has 9 SR0 and 28 SR1 events (arXiv:2409.17868)."""
    found = read_tables(shared / "data" / "xenonnt_light_wimp" / "science_data.h5")
    assert {name: len(found[name]) for name in ("sr0", "sr1")} == {"sr0": 9, "sr1": 28}
    assert as_mapping(found["ancillary"], "ancillary")["signal_efficiency"] == 1.0


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes("# drift time in \u00b5s\ncs1,cs2\n1,2\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.csv' is not UTF-8 text .*save it as UTF-8"):
        read_tables(path)
    with pytest.raises(DataError, match=r"latin\.csv: is not UTF-8 text .*save it as UTF-8"):
        open_foreign(path).check(["cs1"])


def test_a_header_that_is_commented_out_is_missing(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "d.csv", np.array([[28.43, 1.5], [2.0, 3.0]]), delimiter=",", header="cs1,cs2", fmt="%g")
    with pytest.raises(DataError, match=r"header line is missing, or commented out by #.* reads 28\.43, 1\.5; write"):
        read_tables(tmp_path / "d.csv")


def test_columns_that_belong_to_no_run_are_refused(tmp_path: Path) -> None:
    parameters = ParameterSet((rate_parameter("mu"), LIVETIME))
    run = ScienceRun("sr0", UNIT, (RunSource("er", flat_source(), "mu", {}),), ("livetime",))
    np.savez(tmp_path / "d.npz", x=np.array([0.1, 0.2]))
    with pytest.raises(
        DataError, match="'x' is a column of events, not a table: group the columns by run, as sr0/x in"
    ):
        as_dataset(parameters, (run,), tmp_path / "d.npz")


def test_events_that_are_not_finite_are_dropped_on_request() -> None:
    x = torch.tensor([[0.1], [float("nan")], [float("inf")], [0.4]])
    with pytest.raises(DataError, match=r"2 events hold NaN or infinity.*drop them with --drop-outside"):
        event_data(UNIT, x)
    kept = event_data(UNIT, x, outside="drop")
    assert (len(kept), kept.n_dropped) == (2, 2)
