"""Result stores and studies: atomic appends, resumption after a kill, independence of the number of workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.studies.storage import FileStore, read_header, read_study
from inference.studies.study import ProcessExecutor, StudyPlan, make_chunks, run_study
from inference.studies.study_record import Chunk, MemoryStore, StudyHeader
from surrogate.errors import ConfigError, DataError, XeflowError

ROOT = Path(__file__).resolve().parents[1]
HEADER = StudyHeader("squares", "abc", 7, {"grid": [1.0, 2.0], "poi": "mu"}, {"toy": "", "square": "events"})


@dataclass(frozen=True)
class Squares:
    """Work whose rows are known: the square of the toy's number, times one more than the point's."""

    delay: float = 0.0
    fails_at: int = -1
    dies_at: int = -1

    def __call__(self, chunk):
        time.sleep(self.delay)
        if chunk.first == self.fails_at:
            raise RuntimeError("no such toy")
        if chunk.first == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        toys = chunk.toys.numpy()
        return {"toy": toys, "square": (toys**2 * (chunk.point + 1)).astype(float)}


def expected(n_points, n_toys):
    toys = np.tile(np.arange(n_toys), n_points)
    return toys, toys.astype(float) ** 2 * np.repeat(np.arange(n_points) + 1, n_toys)


@given(
    n_points=st.integers(1, 3),
    n_toys=st.integers(1, 40),
    size=st.integers(1, 12),
    first=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(1, 7)), max_size=4),
)
def test_chunks_cover_what_is_missing_exactly_once(n_points, n_toys, size, first):
    stored = {}
    for point, k, n in first:
        if all(point != c.point or c.first + c.size <= 9 * k or 9 * k + n <= c.first for c in stored):
            stored[Chunk(point, 9 * k, n)] = True
    covered = np.zeros((max(n_points, 3), max(n_toys, 80)), dtype=int)
    for c in (*stored, *make_chunks(n_points, n_toys, size, stored)):
        covered[c.point, c.first : c.first + c.size] += 1
        assert c in stored or c.size <= size
    assert (covered[:n_points, :n_toys] == 1).all()
    assert covered.max() <= 1


def test_the_first_chunks_of_a_study_are_small_and_the_others_as_large_as_asked_for():
    sizes = [c.size for c in make_chunks(1, 2000, 500)]
    assert sizes == [50, 50, 100, 200, 400, 500, 500, 200]
    resumed = make_chunks(1, 3000, 500, [Chunk(0, 0, 2000)])
    assert [(c.first, c.size) for c in resumed] == [
        (2000, 50),
        (2050, 50),
        (2100, 100),
        (2200, 200),
        (2400, 400),
        (2800, 200),
    ]
    several = [(c.point, c.first, c.size) for c in make_chunks(3, 300, 200)]
    first, others = [(0, 50, 50), (0, 100, 100), (0, 200, 100)], [(1, 200, 100), (2, 200, 100)]
    assert several == [(0, 0, 50), (1, 0, 200), (2, 0, 200), *first, *others]


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_rows_come_back_by_point_and_toy(tmp_path, kind):
    store = MemoryStore(HEADER) if kind == "memory" else FileStore(tmp_path / "study.h5", HEADER)
    for chunk in (Chunk(1, 4, 3), Chunk(0, 0, 4), Chunk(1, 0, 4), Chunk(0, 4, 3)):
        store.append(chunk, Squares()(chunk))
    toys, squares = expected(2, 7)
    rows = store.read()
    np.testing.assert_array_equal(rows["toy"], toys)
    np.testing.assert_array_equal(rows["square"], squares)
    assert store.done() == {Chunk(1, 4, 3), Chunk(0, 0, 4), Chunk(1, 0, 4), Chunk(0, 4, 3)}


def test_a_store_describes_itself(tmp_path):
    run_study(HEADER, Squares(), 2, 10, StudyPlan(4, tmp_path / "study.h5"))
    header, status = read_header(tmp_path / "study.h5")
    assert header.identity() == HEADER.identity()
    assert status == "complete"
    with h5py.File(tmp_path / "study.h5") as file:
        assert file["columns/square"].attrs["unit"] == "events"
        assert "torch" in json.loads(file.attrs["versions"])
        assert file.attrs["created"]
    assert {p.name for p in tmp_path.iterdir()} == {"study.h5", ".study.h5.lock"}


def test_rows_wait_in_memory_while_writing_is_slow(tmp_path, monkeypatch):
    """The file is written anew only where that takes little of the time; what waits counts as done and is not lost."""
    store, clock = FileStore(tmp_path / "study.h5", HEADER), [100.0]
    writes = []
    monkeypatch.setattr("inference.studies.storage.time.monotonic", lambda: clock[0])
    write = h5py.File.__enter__
    monkeypatch.setattr(h5py.File, "__enter__", lambda file: (clock.__setitem__(0, clock[0] + 0.5), write(file))[1])
    for k in range(40):
        store.append(Chunk(0, k, 1), Squares()(Chunk(0, k, 1)))
        clock[0] += 1.0
        writes.append(len(store._written))
    assert len(set(writes)) == 4  # at 100 s, and then every 10 s
    assert len(store.done()) == 40
    with pytest.raises(DataError, match="stored already"):
        store.append(Chunk(0, 39, 1), Squares()(Chunk(0, 39, 1)))
    assert read_header(store.path)[1] == "running"
    np.testing.assert_array_equal(store.read()["square"], expected(1, 40)[1])


def test_toys_can_be_added_with_another_chunk_size(tmp_path):
    path = tmp_path / "study.h5"
    run_study(HEADER, Squares(), 2, 10, StudyPlan(4, path))
    seen = []
    plan = StudyPlan(7, path, progress=lambda done, total: seen.append((done, total)))
    rows = run_study(HEADER, Squares(), 2, 25, plan)
    np.testing.assert_array_equal(rows["square"], expected(2, 25)[1])
    assert seen[0] == (20, 50)
    assert seen[-1] == (50, 50)


def test_two_studies_never_write_one_store(tmp_path):
    """A second writer is refused while the first one works, and afterwards goes on from what the first has stored."""
    path = tmp_path / "study.h5"
    early, refused = FileStore(path, HEADER), []

    def progress(done, total):
        if done == 8:
            with pytest.raises(DataError, match=r"study\.h5' is being written by another process; wait"):
                run_study(HEADER, Squares(), 2, 10, StudyPlan(4, path))
            assert read_header(path)[1] == "running"
            refused.append(done)

    run_study(HEADER, Squares(), 2, 10, StudyPlan(4, path, progress=progress))
    assert refused == [8]
    assert not early.done()
    with early.writing(), pytest.raises(DataError, match="stored already"):
        early.append(Chunk(0, 0, 4), Squares()(Chunk(0, 0, 4)))
    np.testing.assert_array_equal(FileStore(path, HEADER).read()["toy"], expected(2, 10)[0])


def test_a_study_killed_before_its_end_was_marked_is_marked_later(tmp_path):
    path = tmp_path / "study.h5"
    store = FileStore(path, HEADER)
    store.append(Chunk(0, 0, 5), Squares()(Chunk(0, 0, 5)))
    store.flush()
    assert read_header(path)[1] == "running"
    run_study(HEADER, Squares(), 1, 5, StudyPlan(5, path))
    assert read_header(path)[1] == "complete"
    written = path.stat().st_mtime_ns
    run_study(HEADER, Squares(), 1, 5, StudyPlan(5, path))
    assert path.stat().st_mtime_ns == written
    assert len(run_study(HEADER, Squares(), 1, 5, StudyPlan(5))["toy"]) == 5


def test_another_study_is_never_mixed_in(tmp_path):
    FileStore(tmp_path / "study.h5", HEADER)
    other = StudyHeader("squares", "abc", 7, {"grid": [1.0, 3.0], "poi": "mu"}, HEADER.units)
    with pytest.raises(DataError, match=r"another study \(different settings, settings\.grid\)"):
        FileStore(tmp_path / "study.h5", other)


def test_bad_rows_and_files_are_refused(tmp_path):
    store = FileStore(tmp_path / "study.h5", HEADER)
    with pytest.raises(DataError, match="square is missing"):
        store.append(Chunk(0, 0, 2), {"toy": np.arange(2)})
    with pytest.raises(DataError, match="one row per toy"):
        store.append(Chunk(0, 0, 3), {"toy": np.arange(2), "square": np.arange(3)})
    store.append(Chunk(0, 0, 2), {"toy": np.arange(2), "square": np.arange(2)})
    with pytest.raises(DataError, match="stored already"):
        store.append(Chunk(0, 1, 2), {"toy": np.arange(2), "square": np.arange(2)})
    (tmp_path / "text.h5").write_text("nothing")
    with pytest.raises(DataError, match="no study"):
        read_study(tmp_path / "text.h5", "squares")
    with pytest.raises(ConfigError, match="n_toys = 0"):
        make_chunks(1, 0, 5)


def test_processes_give_the_same_rows():
    serial = run_study(HEADER, Squares(), 2, 12, StudyPlan(5))
    parallel = run_study(HEADER, Squares(), 2, 12, StudyPlan(3, executor=ProcessExecutor(2)))
    for name in serial:
        np.testing.assert_array_equal(serial[name], parallel[name])


def test_failing_and_dying_workers_are_reported(tmp_path):
    path = tmp_path / "study.h5"
    with pytest.raises(XeflowError, match="no such toy"):
        run_study(HEADER, Squares(fails_at=6), 1, 12, StudyPlan(3, path, ProcessExecutor(1)))
    with pytest.raises(XeflowError, match="ended without an answer"):
        run_study(HEADER, Squares(dies_at=6), 1, 12, StudyPlan(3, path, ProcessExecutor(1)))
    assert {c.first for c in FileStore(path, HEADER).done()} == {0, 3}
    rows = run_study(HEADER, Squares(), 1, 12, StudyPlan(3, path))
    np.testing.assert_array_equal(rows["square"], expected(1, 12)[1])


def test_a_killed_study_goes_on(tmp_path):
    path = tmp_path / "study.h5"
    script = (
        "from tests.test_storage import HEADER, Squares\n"
        "from inference.studies.study import StudyPlan, run_study\n"
        f"run_study(HEADER, Squares(delay=0.02), 2, 400, StudyPlan(2, {str(path)!r}))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not path.exists() or len(FileStore(path, HEADER).done()) < 5):
        time.sleep(0.02)
    process.kill()
    process.wait()
    header, before = read_study(path, "squares")
    assert header.identity() == HEADER.identity()
    assert 10 <= len(before["toy"]) < 800
    rows = run_study(HEADER, Squares(), 2, 400, StudyPlan(100, path))
    np.testing.assert_array_equal(rows["square"], expected(2, 400)[1])


def test_a_dask_cluster_gives_the_same_rows():
    distributed = pytest.importorskip("distributed", reason="needs the extra xeflow[cluster]")
    executor = pytest.importorskip("inference.studies.distributed").DaskExecutor
    serial = run_study(HEADER, Squares(), 2, 12, StudyPlan(5))
    options = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": None}
    with distributed.Client(**options) as client:
        found = run_study(HEADER, Squares(), 2, 12, StudyPlan(3, executor=executor(client)))
        with pytest.raises(RuntimeError, match="no such toy"):
            run_study(HEADER, Squares(fails_at=3), 1, 12, StudyPlan(3, executor=executor(client)))
    for name in serial:
        np.testing.assert_array_equal(serial[name], found[name])
