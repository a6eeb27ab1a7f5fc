"""Template files: round trip, the layout of inference_interface, and files that must be refused."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from surrogate.binning import Binning
from surrogate.errors import DataError
from surrogate.template_io import read_template, read_templates, write_templates

GRID = Binning(("cs1", "cs2"), (torch.tensor([0.0, 1.0, 3.0]), torch.linspace(0, 1, 4, dtype=torch.float64)))
COUNTS = torch.arange(6, dtype=torch.float64).reshape(2, 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_templates(tmp_path / "er.h5", GRID, {"er": COUNTS, "nr": 2 * COUNTS})
    return tmp_path / "er.h5"


def test_round_trip(path: Path) -> None:
    found = read_templates(path)
    assert sorted(found) == ["er", "nr"]
    assert torch.equal(found["nr"].counts, 2 * COUNTS)
    assert found["er"].binning.names == GRID.names
    assert found["er"].binning.difference(GRID, tolerance=0.0) is None
    assert read_template(path, "er").total == 15.0


def test_layout_is_that_of_inference_interface(path: Path) -> None:
    with h5py.File(path) as file:
        assert set(file.attrs) == {"version", "date"}
        assert file["bins/1"].attrs["name"] == "cs2"
        np.testing.assert_array_equal(file["bins/0"][()], [0, 1, 3])
        np.testing.assert_array_equal(file["templates/er"][()], COUNTS.numpy())


def test_axes_are_numbered_not_sorted_as_text(tmp_path: Path) -> None:
    rows = tuple(torch.tensor([0.0, float(k + 1)]) for k in range(11))
    grid = Binning(tuple(f"x{k}" for k in range(11)), rows)
    write_templates(tmp_path / "t.h5", grid, {"t": torch.ones(grid.shape)})
    assert read_template(tmp_path / "t.h5", "t").binning.names == grid.names


def test_unknown_histogram_names_the_nearest(path: Path) -> None:
    with pytest.raises(DataError, match="unknown histogram 'err'; did you mean 'er'"):
        read_template(path, "err")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_template(tmp_path / "none.h5", "er")


def test_text_file_is_no_template(tmp_path: Path) -> None:
    (tmp_path / "t.h5").write_text("cs1,cs2\n")
    with pytest.raises(DataError, match="not a readable HDF5 file"):
        read_templates(tmp_path / "t.h5")


def test_truncated_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(DataError, match="not a readable HDF5 file"):
        read_templates(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("templates/er", -np.ones((2, 3)), "6 bins are negative"),
        ("templates/er", np.full((2, 3), np.nan), "6 bins are not finite"),
        ("templates/er", np.ones((3, 3)), r"has \(3, 3\) bins"),
        ("bins/0", np.array([0.0, 3.0, 1.0]), "must increase"),
        ("bins/0", np.array([0.0, np.nan, 1.0]), "must be finite"),
    ],
)
def test_bad_contents_are_refused_with_the_file(path: Path, name: str, value: np.ndarray, message: str) -> None:
    with h5py.File(path, "a") as file:
        del file[name]
        file[name] = value
    with pytest.raises(DataError, match=message) as error:
        read_template(path, "er")
    assert "er.h5" in str(error.value)


def test_nothing_is_left_of_a_refused_write(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="negative"):
        write_templates(tmp_path / "bad.h5", GRID, {"er": -COUNTS})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.shared
def test_release_template_has_its_rate(shared: Path) -> None:
    """Templates are events per tonne-year: alea 0.3.5 expects 7.481661913 AC events in the 1.174398 t y of SR0."""
    folder = shared / "data" / "xenonnt_light_wimp"
    template = read_template(folder / "ac" / "template_XENONnT_sr0_ac_cevns.h5", "template")
    assert template.binning.shape == (3, 3, 3, 3)
    assert template.total * 1.174398 == pytest.approx(7.481661913, rel=1e-9)
