"""Records in HDF5: what is written comes back equal, and can be read without this package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import pytest
import torch
from analytic_sources import UNIT, counting_model
from hypothesis import given
from hypothesis import strategies as st

from inference.data.dataset import Dataset, event_data
from inference.intervals.confidence import confidence_interval
from inference.likelihood.extended import Likelihood
from inference.profiles.profile import profile_curve
from inference.record import Record
from inference.record_store import read_record, write_records
from inference.results import Interval, ProfileCurve
from surrogate.errors import DataError


@dataclass(frozen=True)
class Leaf(Record):
    value: float | None
    word: str


@dataclass(frozen=True)
class Tree(Record):
    numbers: tuple[float | None, ...]
    table: tuple[tuple[float, ...], ...]
    words: tuple[str, ...]
    by_name: dict[str, float | None]
    leaf: Leaf | None
    leaves: tuple[Leaf, ...]


FINITE = st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=8)
KEYS = WORDS.filter(lambda word: word != ".")
LEAVES = st.builds(Leaf, st.none() | FINITE, WORDS)
TREES = st.builds(
    Tree,
    st.lists(st.none() | FINITE, max_size=4).map(tuple),
    st.lists(st.tuples(FINITE, FINITE), max_size=3).map(tuple),
    st.lists(WORDS, max_size=3).map(tuple),
    st.dictionaries(KEYS, st.none() | FINITE, max_size=3),
    st.none() | LEAVES,
    st.lists(LEAVES, max_size=3).map(tuple),
)


@given(tree=TREES)
def test_any_record_comes_back_equal(tmp_path_factory: pytest.TempPathFactory, tree: Tree) -> None:
    path = tmp_path_factory.mktemp("records") / "tree.h5"
    write_records(path, {"tree": tree})
    assert read_record(path, Tree) == tree
    assert Tree.from_json(tree.to_json()) == tree


def test_results_come_back_and_are_plain_hdf5(tmp_path: Path) -> None:
    parameters, runs = counting_model(2.0, 3.0)
    events = event_data(UNIT, torch.tensor([[0.2], [0.5], [0.7], [0.9]]))
    likelihood = Likelihood(parameters, runs, Dataset({"run": events}, {}))
    interval, curve = confidence_interval(likelihood, "mu"), profile_curve(likelihood, "mu", [0.0, 1.0, 2.0])
    path = tmp_path / "limit.h5"
    write_records(path, {"interval": interval, "profile": curve})
    assert read_record(path, Interval, "interval") == interval
    assert read_record(path, ProfileCurve, "profile") == curve
    with h5py.File(path) as file:
        assert file["interval/upper"].attrs["value"] == interval.upper.value
        assert file["profile/grid"][()].tolist() == [0.0, 1.0, 2.0]


def test_what_is_no_such_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "leaf.h5"
    write_records(path, {"first": Leaf(None, "a"), "second": Leaf(1.0, "b")})
    with pytest.raises(DataError, match="2 records, say which: first, second"):
        read_record(path, Leaf)
    with pytest.raises(DataError, match="expected a Interval"):
        read_record(path, Interval, "first")
    with pytest.raises(DataError, match="no record that could be read"):
        read_record(path, Leaf, "third")
    with pytest.raises(DataError, match="no record that could be read"):
        read_record(tmp_path / "none.h5", Leaf)
    with pytest.raises(DataError, match=r"leaf\.h5' is no JSON file; read_record reads"):
        Leaf.load(path)
