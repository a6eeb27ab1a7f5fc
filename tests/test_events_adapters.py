"""Event files of other programs, read by a mapping."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from surrogate.errors import ConfigError, DataError
from training.event_adapters import convert_events
from training.event_mapping import EventMapping, read_mapping
from training.events import EventFile
from training.foreign_files import SLAB, open_foreign

ROOT = Path(__file__).resolve().parents[1]
N = 3000

S1 = {"name": "s1", "unit": "PE", "low": 0, "high": 100}
TIME = {"name": "drift_time", "unit": "us", "column": "dt_ns", "factor": 1e-3, "low": 0, "high": 700}
G1 = {"name": "g1", "unit": "phd/photon", "low": 0.05, "high": 0.2, "nominal": 0.1}
ELIFE = {"name": "elife", "unit": "us", "low": 200, "high": 900, "nominal": 450, "scale": "log"}


def columns(seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    index = rng.integers(0, 4, N)
    table = np.stack([rng.uniform(2e5, 9e5, 4), rng.uniform(0.05, 0.2, 4)], axis=1)
    return {
        "s1": rng.uniform(0, 100, N),
        "dt_ns": rng.uniform(0, 7e5, N),
        "weight": rng.uniform(0, 2, N),
        "energy_ev": rng.uniform(1e3, 9e3, N),
        "index": index,
        "elife": table[index, 0],
        "g1": table[index, 1],
        "table": table,
        "generated": np.bincount(index, minlength=4) + 100,
    }


def write(path: Path, data: dict[str, np.ndarray]) -> Path:
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            for name, values in data.items():
                file[name] = values
            file.attrs["mu"] = 40.0
    elif path.suffix == ".npz":
        np.savez(path, **data)
    else:
        events = {name: values for name, values in data.items() if len(values) == N}
        rows = np.stack(list(events.values()), axis=1)
        header = "# written by a test\n" + ",".join(events)
        np.savetxt(path, rows, delimiter=",", header=header, comments="", fmt="%.9g")
    return path


def mapping(**blocks: object) -> EventMapping:
    return EventMapping.model_validate({"observables": [S1, TIME], **blocks})


TABLE = {
    "nuisances": [{**ELIFE, "column": 0, "factor": 1e-3}, {**G1, "column": 1}],
    "theta": {"table": "table", "index": "index"},
    "n_generated": {"column": "generated"},
}


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_theta_from_a_table(tmp_path: Path, suffix: str) -> None:
    data = columns()
    source = write(tmp_path / f"foreign{suffix}", data)
    rules = mapping(
        **TABLE, weight="weight", truth=[{"name": "energy", "column": "energy_ev", "factor": 1e-3}], generated_rate=40.0
    )
    record = convert_events(rules, [source], tmp_path / "events.h5")
    assert (record.n_read, record.n_kept, record.n_blocks) == (N, N, 4)
    with EventFile.open(tmp_path / "events.h5") as file:
        events, blocks = file.read(), file.blocks()
        assert file.generated_rate == 40.0
        assert events.x == pytest.approx(np.stack([data["s1"], data["dt_ns"] * 1e-3], axis=1), rel=1e-6)
        assert blocks.theta == pytest.approx(data["table"] * [1e-3, 1.0])
        assert blocks.n_generated.tolist() == data["generated"].tolist()
        assert blocks.n_accepted.tolist() == np.bincount(data["index"]).tolist()
        assert np.array_equal(events.block, data["index"])
        assert events.weight == pytest.approx(data["weight"], rel=1e-6)
        assert file.truth("energy") == pytest.approx(data["energy_ev"] * 1e-3, rel=1e-6)
        assert list(file.metadata["converted_from"]) == [source.name]


@pytest.mark.parametrize("suffix", [".h5", ".npz", ".csv"])
def test_theta_per_row(tmp_path: Path, suffix: str) -> None:
    """Each row is a generated event with its theta: equal ones become a block; lost ones count as generated."""
    data = columns()
    data["kept"] = (np.arange(N) % 3 > 0).astype(float)
    data["s1"][0] = np.nan  # of a lost event nothing need be known
    source = write(tmp_path / f"foreign{suffix}", data)
    blocks = {"nuisances": [{**ELIFE, "factor": 1e-3}, G1], "theta": "columns", "n_generated": "rows", "kept": "kept"}
    record = convert_events(mapping(**blocks), [source], tmp_path / "events.h5")
    kept = data["kept"] > 0
    assert (record.n_read, record.n_kept, record.n_blocks) == (N, kept.sum(), 4)
    with EventFile.open(tmp_path / "events.h5") as file:
        found, events = file.blocks(), file.read()
        expected = np.stack([data["elife"] * 1e-3, data["g1"]], axis=1)[kept]
        assert events.theta == pytest.approx(expected, rel=1e-6)
        assert events.x[:, 0] == pytest.approx(data["s1"][kept], rel=1e-6)
    for theta, generated, accepted in zip(found.theta, found.n_generated, found.n_accepted, strict=True):
        mine = np.isclose(data["g1"], theta[1])
        assert (generated, accepted) == (mine.sum(), (mine & kept).sum())


def test_rows_outside_the_windows_are_lost(tmp_path: Path) -> None:
    data = columns()
    data["s1"] *= 1.25
    source = write(tmp_path / "foreign.csv", data)
    inside = (data["s1"] <= 100).sum()
    convert_events(mapping(n_generated="rows", outside="drop"), [source, source], tmp_path / "events.h5")
    with EventFile.open(tmp_path / "events.h5") as file:
        assert file.blocks().n_generated.tolist() == [N, N]
        assert file.blocks().n_accepted.tolist() == [inside, inside]


def test_a_table_of_all_generated_thetas(tmp_path: Path) -> None:
    """Kept events alone, each with its row in the table of what was generated; or rows that are counted."""
    rng = np.random.default_rng(4)
    thrown = np.stack([rng.uniform(200, 900, 2 * N), rng.uniform(0.05, 0.2, 2 * N)], axis=1)
    data = columns() | {"table": thrown, "index": np.sort(rng.permutation(2 * N)[:N])}
    source = write(tmp_path / "foreign.h5", data)
    rules = {"nuisances": [{**ELIFE, "column": 0}, {**G1, "column": 1}], "theta": TABLE["theta"]}
    convert_events(mapping(**rules, n_generated=1), [source], tmp_path / "events.h5")
    with EventFile.open(tmp_path / "events.h5") as file:
        assert file.blocks().n_generated.tolist() == [1] * (2 * N)
        assert file.blocks().n_accepted.sum() == N
        assert file.read().theta == pytest.approx(thrown[data["index"]], rel=1e-6)
    convert_events(mapping(**rules, n_generated="rows"), [source], tmp_path / "events.h5")
    with EventFile.open(tmp_path / "events.h5") as file:
        assert np.array_equal(file.blocks().n_generated, file.blocks().n_accepted)


def test_a_bad_value_is_found_at_its_row_of_the_file(tmp_path: Path) -> None:
    values = np.zeros(SLAB + 10, dtype=np.float32)
    values[SLAB + 7] = np.nan
    with h5py.File(tmp_path / "long.h5", "w") as file:
        file["s1"] = values
    rules = EventMapping.model_validate({"observables": [S1]})
    with pytest.raises(DataError, match=rf"not finite \(row {SLAB + 7}, counted from 0\)"):
        convert_events(rules, [tmp_path / "long.h5"], tmp_path / "events.h5")


def test_theta_per_file(tmp_path: Path) -> None:
    first, second = (write(tmp_path / f"run_{k}.csv", columns(k)) for k in (1, 2))
    rules = mapping(
        nuisances=[G1],
        theta=[
            {"file": "run_1.csv", "values": {"g1": 0.10}, "n_generated": 5000},
            {"file": "run_2.csv", "values": {"g1": 0.12}, "n_generated": 6000},
        ],
    )
    convert_events(rules, [first, second], tmp_path / "events.h5")
    with EventFile.open(tmp_path / "events.h5") as file:
        blocks = file.blocks()
        assert blocks.theta.ravel().tolist() == [0.10, 0.12]
        assert blocks.n_generated.tolist() == [5000, 6000]
        assert blocks.n_accepted.tolist() == [N, N]
    with pytest.raises(ConfigError, match="0 entries under theta match"):
        convert_events(rules, [write(tmp_path / "run_3.csv", columns(3))], tmp_path / "none.h5")
    assert not (tmp_path / "none.h5").exists()


def test_no_theta(tmp_path: Path) -> None:
    source = write(tmp_path / "plain.csv", columns())
    convert_events(mapping(n_generated=9000), [source], tmp_path / "events.h5")
    with EventFile.open(tmp_path / "events.h5") as file:
        assert file.nuisances.dim == 0
        assert file.blocks().n_generated.tolist() == [9000]
        assert file.generated_rate is None


def test_attributes_and_compound_columns(tmp_path: Path) -> None:
    path = tmp_path / "structured.h5"
    table = np.zeros(10, dtype=[("area", "f4"), ("time", "f8")])
    table["area"] = np.arange(10)
    with h5py.File(path, "w") as file:
        file["events/peaks"] = table
        file.attrs["mu"] = 7.5
    rules = EventMapping.model_validate(
        {
            "observables": [{**S1, "column": "events/peaks.area"}],
            "generated_rate": {"attribute": "mu"},
        }
    )
    convert_events(rules, [path], tmp_path / "events.h5")
    with EventFile.open(tmp_path / "events.h5") as file:
        assert file.generated_rate == 7.5
        assert file.read().x.ravel().tolist() == list(range(10))


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    data = {name: values for name, values in columns().items() if len(values) == N}
    parquet.write_table(pyarrow.table(data), tmp_path / "foreign.parquet")
    convert_events(mapping(), [tmp_path / "foreign.parquet"], tmp_path / "events.h5")
    with EventFile.open(tmp_path / "events.h5") as file:
        assert file.read().x[:, 0] == pytest.approx(data["s1"], rel=1e-6)


def test_events_outside_are_an_error_or_dropped(tmp_path: Path) -> None:
    data = columns()
    data["s1"][5] = 150.0
    source = write(tmp_path / "foreign.h5", data)
    with pytest.raises(DataError, match="s1 = 150 PE lies outside its window"):
        convert_events(mapping(**TABLE), [source], tmp_path / "events.h5")
    assert not (tmp_path / "events.h5").exists()
    record = convert_events(mapping(**TABLE, outside="drop"), [source], tmp_path / "events.h5")
    assert (record.n_read, record.n_kept) == (N, N - 1)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("s1", np.nan, "s1 has a value that is not finite"),
        ("index", 9, r"theta index 9 must be a whole number in 0 \.\. 3"),
        ("generated", 0, "were kept of 0 generated"),
        ("table", 5.0, "elife = 0.005 us lies outside its range"),
    ],
)
def test_bad_events(tmp_path: Path, column: str, value: float, message: str) -> None:
    data = columns()
    data[column][0] = value
    with pytest.raises(DataError, match=message):
        convert_events(mapping(**TABLE), [write(tmp_path / "foreign.h5", data)], tmp_path / "events.h5")


def test_a_fractional_index_is_refused(tmp_path: Path) -> None:
    data = columns()
    data["index"] = data["index"] + 0.0
    data["index"][3] = 1.7
    with pytest.raises(DataError, match=r"theta index 1\.7 must be a whole number"):
        convert_events(mapping(**TABLE), [write(tmp_path / "foreign.h5", data)], tmp_path / "events.h5")


def test_bad_columns(tmp_path: Path) -> None:
    source = write(tmp_path / "foreign.h5", columns())
    with pytest.raises(ConfigError, match="unknown column 'dt_n'; did you mean 'dt_ns'"):
        convert_events(
            EventMapping.model_validate({"observables": [{**TIME, "column": "dt_n"}]}), [source], tmp_path / "e.h5"
        )
    with pytest.raises(ConfigError, match="unknown attribute 'mu0'"):
        convert_events(mapping(generated_rate={"attribute": "mu0"}), [source], tmp_path / "e.h5")
    with pytest.raises(DataError, match="equal length"):
        convert_events(
            EventMapping.model_validate({"observables": [S1, {**S1, "name": "n", "column": "generated"}]}),
            [source],
            tmp_path / "e.h5",
        )
    with pytest.raises(ConfigError, match="at least one"):
        convert_events(mapping(), [], tmp_path / "e.h5")


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown suffix"):
        open_foreign(tmp_path / "events.root")
    for suffix in (".h5", ".npz"):
        (tmp_path / f"text{suffix}").write_text("text")
        with pytest.raises(DataError, match="not readable"):
            open_foreign(tmp_path / f"text{suffix}")
    (tmp_path / "semicolons.csv").write_text("s1;dt_ns\n1.0;2.0\n")
    with pytest.raises(DataError, match="separated by ';'; separate them by commas"):
        convert_events(mapping(), [tmp_path / "semicolons.csv"], tmp_path / "e.h5")
    (tmp_path / "bad.csv").write_text("s1,dt_ns\n1.0,two\n")
    with pytest.raises(DataError, match="two"):
        convert_events(mapping(), [tmp_path / "bad.csv"], tmp_path / "e.h5")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observable": [S1]}, "unknown key 'observable'; did you mean 'observables'"),
        ({"observables": [{**S1, "factr": 2}]}, r"observables.0: unknown key 'factr'"),
        ({"nuisances": [G1]}, "theta exactly when"),
        ({"theta": "columns"}, "theta exactly when"),
        ({"n_generated": {"column": "generated"}}, "from a table"),
        ({"nuisances": [G1], "theta": {"table": "t", "index": "i"}}, "its number in the table"),
        ({"nuisances": [{**G1, "column": 0}], "theta": "columns"}, "name of an event column"),
        ({"nuisances": [G1], "theta": "columns", "n_generated": 5}, "theta: columns needs n_generated: rows"),
        ({"nuisances": [G1], "theta": "columns"}, "lost ones included; for files of kept events alone"),
        ({"kept": "flag", "n_generated": 5}, "which rows were kept of n_generated: rows"),
        (
            {
                "nuisances": [G1],
                "theta": [{"file": "a.csv", "values": {"g1": 0.1}, "n_generated": 5}],
                "n_generated": "rows",
            },
            "give no numbers under theta",
        ),
        ({"observables": []}, "observables"),
    ],
)
def test_bad_mappings(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_text(yaml.safe_dump({"observables": [S1], **change}))
    with pytest.raises(ConfigError, match=message):
        read_mapping(path)


def test_slabs_cover_long_files(tmp_path: Path) -> None:
    n = SLAB + 10
    with h5py.File(tmp_path / "long.h5", "w") as file:
        file["s1"] = np.linspace(0, 100, n, dtype=np.float32)
    rules = EventMapping.model_validate({"observables": [S1]})
    assert convert_events(rules, [tmp_path / "long.h5"], tmp_path / "events.h5").n_kept == n
    with EventFile.open(tmp_path / "events.h5") as file:
        assert np.array_equal(file.read(n - 3).x.ravel(), np.linspace(0, 100, n, dtype=np.float32)[-3:])


@pytest.mark.shared
@pytest.mark.parametrize(("recoil", "n", "rate"), [("er", 825_569, 1000.0), ("nr", 402_708, 100.0)])
def test_flamedisx_files_as_they_are(shared: Path, tmp_path: Path, recoil: str, n: int, rate: float) -> None:
    """Events of flamedisx 2.1.0: the rate from kept over generated is the exact one, within its error."""
    source = shared / "data" / "flamedisx" / f"{recoil}_events.h5"
    rules = read_mapping(ROOT / "configs" / "events" / "flamedisx.yaml")
    record = convert_events(rules, [source], tmp_path / "events.h5")
    assert record.n_kept == record.n_read == n
    with EventFile.open(tmp_path / "events.h5") as file, h5py.File(source) as original:
        blocks = file.blocks()
        assert file.generated_rate == rate
        assert len(blocks.theta) == 400
        fraction = blocks.n_accepted / blocks.n_generated
        error = np.sqrt(fraction * (1 - fraction) / blocks.n_generated)
        pull = (fraction - original["mu_exact"][:] / rate) / error
        assert abs(pull.mean()) < 0.25
        assert 0.85 < pull.std() < 1.15
        part = file.read(1000, 1100)
        assert part.theta[:, 0] == pytest.approx(original["elife"][1000:1100] * 1e-3, rel=1e-6)
