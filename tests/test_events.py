"""Event files: round trip, determinism, interruption, bad input."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from surrogate.errors import ConfigError, DataError
from surrogate.nuisance import Nuisance, NuisanceSpace
from surrogate.observables import Observable, ObservableSpace
from training.event_writer import EventWriter, Segment
from training.events import Blocks, EventFile, EventSchema
from training.simulation import SimulationProgress, simulate_to_file
from training.simulation_plan import BLOCK, SimulationPlan, block_thetas, simulate_batch
from training.simulator_config import standard_plan

SPACE = ObservableSpace((Observable("cs1", "PE", 0.0, 100.0), Observable("z", "cm", -10.0, 0.0)))
NUISANCES = NuisanceSpace((Nuisance("elife", "us", 300.0, 600.0, 450.0, scale="log"),))


def segment(seed: int, n: int = 1000, n_blocks: int = 8, weighted: bool = False) -> Segment:
    rng = np.random.default_rng(seed)
    block = np.sort(rng.integers(0, n_blocks, n)).astype(np.int32)
    counts = np.bincount(block, minlength=n_blocks)
    x = np.stack([rng.uniform(0, 100, n), rng.uniform(-10, 0, n)], axis=1).astype(np.float32)
    blocks = Blocks(rng.uniform(300, 600, (n_blocks, 1)), counts + 7, counts)
    weight = rng.uniform(0.5, 2, n).astype(np.float32) if weighted else None
    return Segment(blocks, x, block, weight, {"energy": x[:, 0] * 2})


def schema(weighted: bool = False) -> EventSchema:
    return EventSchema(SPACE, NUISANCES, 12.5, {"seed": 3}, ("energy",), weighted)


def written(path: Path, segments: list[Segment], weighted: bool = False) -> Path:
    writer = EventWriter(path, schema(weighted), {})
    for k in reversed(range(len(segments))):  # in any order
        writer.write(k, segments[k])
    return writer.finish(len(segments))


@pytest.mark.parametrize("weighted", [False, True])
def test_round_trip(tmp_path: Path, weighted: bool) -> None:
    segments = [segment(k, n, weighted=weighted) for k, n in enumerate((1000, 0, 70_000))]
    path = written(tmp_path / "events.h5", segments, weighted)
    assert not (tmp_path / "events.h5.parts").exists()
    with EventFile.open(path) as file:
        assert file.observables == SPACE
        assert file.nuisances == NUISANCES
        assert file.generated_rate == 12.5
        assert file.metadata == {"seed": 3}
        assert file.n_events == 71_000
        blocks, events = file.blocks(), file.read()
        assert np.array_equal(blocks.theta, np.concatenate([s.blocks.theta for s in segments]))
        assert np.array_equal(np.bincount(events.block, minlength=24), blocks.n_accepted)
        assert np.array_equal(events.x, np.concatenate([s.x for s in segments]))
        assert np.array_equal(events.theta, blocks.theta.astype(np.float32)[events.block])
        assert (events.weight is not None) == weighted
        part = file.read(990, 1010)
        assert np.array_equal(part.x, events.x[990:1010])
        assert np.array_equal(part.theta, events.theta[990:1010])
        assert np.array_equal(file.truth("energy", 5, 9), events.x[5:9, 0] * 2)
        with pytest.raises(DataError, match="truth column 'photons' was not recorded"):
            file.truth("photons")


def test_unknown_counts(tmp_path: Path) -> None:
    """Events without the number of generated ones carry a density but no acceptance."""
    known, unknown = segment(0), segment(1)
    unknown = replace(unknown, blocks=replace(unknown.blocks, n_generated=None))
    with EventFile.open(written(tmp_path / "events.h5", [known, unknown])) as file:
        assert file.blocks().n_generated is None


def test_content_hash(tmp_path: Path) -> None:
    """The hash follows the content, however it was cut into segments."""
    one, other = segment(0), segment(1)
    hashes = []
    for name, segments in {"a": [one], "b": [one], "c": [other]}.items():
        with EventFile.open(written(tmp_path / f"{name}.h5", segments)) as file:
            hashes.append(file.content_hash())
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((3, 2), np.float32)}, r"x \(3, 2\)"),
        ({"block": np.zeros(1000, np.int32)}, "n_accepted must equal"),
        ({"x": np.full((1000, 2), 500.0, np.float32)}, "cs1 = 500.0 PE lies outside"),
        ({"x": np.full((1000, 2), np.nan, np.float32)}, "cs1 = nan"),
        ({"weight": None}, "weighted"),
    ],
)
def test_bad_segments(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        EventWriter(tmp_path / "e.h5", schema(weighted=True), {}).write(0, replace(segment(0, weighted=True), **change))


def test_more_accepted_than_generated(tmp_path: Path) -> None:
    bad = segment(0)
    bad = replace(bad, blocks=replace(bad.blocks, n_generated=bad.blocks.n_accepted - 1))
    with pytest.raises(DataError, match="more accepted than generated"):
        EventWriter(tmp_path / "e.h5", schema(), {}).write(0, bad)


def test_segments_of_another_run_are_not_taken_over(tmp_path: Path) -> None:
    EventWriter(tmp_path / "e.h5", schema(), {"n": 1}).write(0, segment(0))
    with pytest.raises(ConfigError, match="other settings"):
        EventWriter(tmp_path / "e.h5", schema(), {"n": 2})
    again = EventWriter(tmp_path / "e.h5", schema(), {"n": 1})
    assert again.has(0)
    assert again.accepted(0) == 1000
    with pytest.raises(DataError, match="segment 1 of 2 is missing"):
        again.finish(2)
    with pytest.raises(DataError, match="unfinished"):
        EventFile.open(tmp_path / "e.h5")


def test_a_run_that_another_process_ended_leaves_no_segments_to_a_third(tmp_path: Path) -> None:
    first, second = (EventWriter(tmp_path / "e.h5", schema(), {"n": 1}) for _ in range(2))
    first.write(0, segment(0))
    first.finish(1)
    with pytest.raises(DataError, match="was removed while segments were written"):
        second.write(1, segment(1))
    (tmp_path / "e.h5.parts").mkdir()
    (tmp_path / "e.h5.parts" / "00000000.h5").touch()
    with pytest.raises(ConfigError, match="other settings"):
        EventWriter(tmp_path / "e.h5", schema(), {"n": 1})


def test_damaged_files(tmp_path: Path) -> None:
    """Whatever part is missing or cut short, one error that names it, and the file is closed."""
    path = written(tmp_path / "events.h5", [segment(0, weighted=True)], weighted=True)
    whole = path.read_bytes()
    with h5py.File(path) as file:
        columns = ("theta", "n_accepted", *schema(weighted=True).columns)
        text = json.loads(file.attrs["xeflow_events"])

    def refused(message: str) -> None:
        with pytest.raises(DataError, match=message):
            EventFile.open(path)
        path.write_bytes(whole)

    for name in columns:
        with h5py.File(path, "a") as file:
            del file[name]
        refused(f"'{name}' is missing; it is damaged")
    for name in ("n_generated", "n_accepted", "events/cs1", "events/weight", "truth/energy"):
        with h5py.File(path, "a") as file:
            kept = file[name][:-1]
            del file[name]
            file[name] = kept
        refused(f"'{name}' has {len(kept)} rows")
    for key in text:
        with h5py.File(path, "a") as file:
            file.attrs["xeflow_events"] = json.dumps({k: v for k, v in text.items() if k != key})
        refused("format version None" if key == "format_version" else f"incomplete.*{key}")
    with h5py.File(path, "a") as file:
        file.attrs["xeflow_events"] = '{"format_version": 1'
    refused("is not JSON")
    with h5py.File(path, "a") as file:
        file.attrs["xeflow_events"] = json.dumps(text | {"nuisances": []})
    refused("of 0 parameters|incomplete")
    with h5py.File(path, "a") as file:
        file["events/block"][-1] = 8
    with EventFile.open(path) as damaged, pytest.raises(DataError, match="holds 0 to 8, there are 8 blocks"):
        damaged.read()


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        EventFile.open(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(DataError, match="not readable as HDF5"):
        EventFile.open(tmp_path / "text.h5")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["s1"] = np.arange(3)
    with pytest.raises(DataError, match="convert files of other programs"):
        EventFile.open(tmp_path / "foreign.h5")
    with h5py.File(written(tmp_path / "new.h5", [segment(0)]), "r+") as file:
        data = json.loads(file.attrs["xeflow_events"])
        file.attrs["xeflow_events"] = json.dumps({**data, "format_version": 99})
    with pytest.raises(DataError, match="format version 99"):
        EventFile.open(tmp_path / "new.h5")


# Simulations


@pytest.fixture(scope="module")
def plan() -> SimulationPlan:
    return standard_plan("xenon1t_like", "wimp50", 300_000, seed=4)


def test_file_does_not_depend_on_workers_or_segments(tmp_path: Path, plan: SimulationPlan) -> None:
    contents = set()
    for workers, segments in ((1, 16), (2, 1), (3, 2)):
        path = tmp_path / f"{workers}.h5"
        simulate_to_file(plan, path, workers, segments)
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_simulated_file(tmp_path: Path, plan: SimulationPlan) -> None:
    seen: list[SimulationProgress] = []
    truth_plan = replace(plan, truth=("energy", "true_z"))
    record = simulate_to_file(truth_plan, tmp_path / "e.h5", progress=seen.append)
    assert [p.n_generated for p in seen] == sorted(p.n_generated for p in seen)
    assert seen[-1].n_generated == seen[-1].total == record.n_generated
    assert seen[-1].n_accepted == record.n_accepted
    json.dumps(record.to_dict())
    with EventFile.open(tmp_path / "e.h5") as file:
        events, blocks = file.read(), file.blocks()
        assert record.n_generated == BLOCK * len(blocks.theta) == 300_032
        assert blocks.n_generated is not None
        assert record.mean_expected == pytest.approx(file.generated_rate * len(events.x) / record.n_generated)
        assert file.metadata["detector"]["name"] == "xenon1t_like"
        assert file.metadata["source"]["spectrum"] == "wimp_si_50GeV"
        assert file.metadata["seed"] == 4
        energy, z = file.truth("energy"), file.truth("true_z")
        assert energy.min() >= 0.5
        assert np.abs(z - events.x[:, 3]).mean() < 0.2
        space, x = file.observables, events.x.astype(np.float64)
        for d, o in enumerate(space.observables):
            assert x[:, d].min() >= o.low
            assert x[:, d].max() <= o.high


def test_blocks_of_another_size(tmp_path: Path, plan: SimulationPlan) -> None:
    """Fewer thetas with more events each, and in all as many as were asked for."""
    record = simulate_to_file(replace(plan, block_size=4096, batch_blocks=16), tmp_path / "e.h5")
    with EventFile.open(tmp_path / "e.h5") as file:
        blocks, block = file.blocks(), file.read().block
        assert len(blocks.theta) == -(-300_000 // 4096)
        assert blocks.n_generated is not None
        assert record.n_generated == blocks.n_generated.sum() == 4096 * len(blocks.theta)
        assert np.array_equal(np.bincount(block, minlength=len(blocks.theta)), blocks.n_accepted)
    with pytest.raises(ConfigError, match="block_size = 0 must be at least 1"):
        replace(plan, block_size=0)


@pytest.mark.parametrize("draw", ["sobol", "uniform"])
def test_thetas_fill_their_ranges(plan: SimulationPlan, draw: str) -> None:
    """Uniform in each parameter's own scale; the thetas of a block do not depend on where the batch begins."""
    drawn = replace(plan, theta_draw=draw)
    theta = block_thetas(drawn, 0, 4096)
    u = (plan.nuisances.standardise(theta) + 1) / 2
    for k in range(4):
        counts = np.histogram(u[:, k].numpy(), 16, (0, 1))[0]
        assert abs(counts - 256).max() <= (2 if draw == "sobol" else 80)
    if draw == "sobol":
        assert np.array_equal(block_thetas(drawn, 1000, 50).numpy(), theta[1000:1050].numpy())


def test_fixed_theta(tmp_path: Path, plan: SimulationPlan) -> None:
    held = replace(plan, nuisances=NuisanceSpace(), fixed=(("elife", 600.0),), n_generated=50_000)
    assert held.base_theta().tolist() == [0.0, 0.0, 600.0, 0.1254]
    simulate_to_file(held, tmp_path / "e.h5")
    with EventFile.open(tmp_path / "e.h5") as file:
        assert file.read().theta.shape == (file.n_events, 0)


def test_batches_of_an_interrupted_run_are_the_same(plan: SimulationPlan) -> None:
    first, again = simulate_batch(plan, 3), simulate_batch(plan, 3)
    assert np.array_equal(first.x, again.x)
    assert len(first.blocks.theta) == 256


RUN = """
import sys
from pathlib import Path
from training.simulation import simulate_to_file
from training.simulator_config import standard_plan
simulate_to_file(standard_plan("xenon1t_like", "wimp50", 3_000_000, seed=4), Path(sys.argv[1]), 1, 2)
"""


def test_resumes_after_kill(tmp_path: Path) -> None:
    """Killed with SIGKILL between and within segments, run again: the same bytes as without interruption."""
    path, reference = tmp_path / "killed.h5", tmp_path / "whole.h5"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for wanted in (1, 5):
        process = subprocess.Popen([sys.executable, "-c", RUN, str(path)], env=environment)
        parts = tmp_path / "killed.h5.parts"
        deadline = time.monotonic() + 60
        while len(list(parts.glob("[0-9]*.h5"))) < wanted and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not path.exists()
    plan = standard_plan("xenon1t_like", "wimp50", 3_000_000, seed=4)
    record = simulate_to_file(plan, path, 1, 2)
    assert record.resumed_events >= 5 * 2 * 65_536
    whole = simulate_to_file(plan, reference, 2, 16)
    assert whole.resumed_events == 0
    assert record.n_accepted == whole.n_accepted
    assert path.read_bytes() == reference.read_bytes()


def test_full_disk(tmp_path: Path, plan: SimulationPlan) -> None:
    """A write that fails is one clear error; the segments before it stay, and the run continues when there is room."""
    path = tmp_path / "full.h5"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        with pytest.raises(DataError, match="make room and run the same command again"):
            simulate_to_file(plan, path, 1, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not path.exists()
    simulate_to_file(plan, path, 1, 1)
    assert path.exists()


def test_hopeless_source_is_a_warning(tmp_path: Path) -> None:
    """A 2 GeV WIMP: nothing is accepted. The counts are written, and the message says so."""
    with pytest.warns(RuntimeWarning, match="0 of 100096 generated events were accepted"):
        record = simulate_to_file(standard_plan("xenon1t_like", "wimp2", 100_000, 1), tmp_path / "e.h5")
    assert record.n_accepted == 0
    assert record.warnings
    with EventFile.open(tmp_path / "e.h5") as file:
        assert file.n_events == 0
        assert file.read().x.shape == (0, 4)
        assert file.blocks().n_accepted.sum() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"truth": ("enrgy",)}, "did you mean 'energy'"),
        ({"theta_draw": "grid"}, "theta_draw"),
        ({"n_generated": 0}, "n_generated"),
        ({"fixed": (("eliffe", 4.0),)}, "did you mean 'elife'"),
        ({"fixed": (("elife", 400.0),)}, "both varied and fixed"),
        ({"fixed": (("elife", -4.0),), "nuisances": NuisanceSpace()}, "elife = -4"),
        ({"space": SPACE.__class__((Observable("cs3", "PE", 0.0, 1.0),))}, "unknown observable 'cs3'"),
        ({"nuisances": NuisanceSpace((Nuisance("t_ly", "sigma", -9.0, 9.0, 0.0),))}, "t_ly = -9"),
    ],
)
def test_bad_plans(plan: SimulationPlan, change: dict, message: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=message):
        replace(plan, **change)


def test_bad_workers(tmp_path: Path, plan: SimulationPlan) -> None:
    with pytest.raises(ConfigError, match="workers = 0"):
        simulate_to_file(plan, tmp_path / "e.h5", workers=0)
