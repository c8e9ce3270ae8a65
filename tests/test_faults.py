"""Killed, out of disk, without rights, on a file that changes, and with a worker lost."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft.data.ranges import Ranges
from tests.conftest import ROOT, few, in_ci, once, only_ci
from tests.faults import COMMANDS, prepare
from tests.running import wait_for_lock

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
# With `make faults` 200.
KILLS = 4


def words(name: str, version: str, inputs: Path, out: Path) -> list[str]:
    return COMMANDS[name].words.format(v=version, here=inputs, out=out).split()


def begin(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "onnxgraft", *map(str, words)],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what came of full disks and kills; see `tests.faults.Trials`."""
    in_ci()
    # In a process of its own: it forks, which those of a test run should not.
    code = (
        "import dataclasses, json\n"
        "from tests.faults import tried\n"
        f"print(json.dumps(dataclasses.asdict(tried({KILLS}))))\n"
    )

    def make(folder: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, capture_output=True,
            text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        (folder / "trials.json").write_text(done.stdout.splitlines()[-1])

    found: dict[str, Any] = json.loads(
        (once(tmp_path_factory, "tried", make) / "trials.json").read_text()
    )
    return found


def test_random_kills_leave_the_old_result_or_the_new_one(tried: dict[str, Any]) -> None:
    assert not tried["torn"]
    assert sum(tried["kills"].values()) == KILLS


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_told_and_leaves_what_was_there(name: str, tried: dict[str, Any]) -> None:
    assert tried["full"][name] == ""


# Root writes everywhere by two rights, which it can do without. It stays the owner of its files, so
# it does not matter in whose folders the checkout and the temporary files lie.
ORDINARY = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
if os.geteuid() == 0:
    CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, VERSION_3 = 1, 2, 0x20080522
    head, sets = (ctypes.c_uint32 * 2)(VERSION_3, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(head, sets) == 0
    for index in range(3):  # effective, permitted, inheritable
        sets[index] &= ~(1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH)
    assert libc.capset(head, sets) == 0
assert not os.access(sys.argv[1], os.W_OK)
from onnxgraft.cli import app
app(sys.argv[2:])
"""


@pytest.mark.parametrize("name", ["convert", "build", "validate", "deploy"])
def test_a_folder_without_rights_is_told_before_the_work(
    name: str, inputs: Path, tmp_path: Path
) -> None:
    tmp_path.chmod(0o555)
    done = subprocess.run(
        [sys.executable, "-c", ORDINARY, tmp_path, *words(name, "a", inputs, tmp_path)],
        env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    tmp_path.chmod(0o755)
    assert done.returncode == 2, done.stderr
    assert "can't be written" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture
def changing() -> Iterator[Callable[[Path], None]]:
    """Return a function that goes on rewriting a file in place: shorter, and whole again."""
    ended = threading.Event()
    threads: list[threading.Thread] = []

    def change(path: Path) -> None:
        data = path.read_bytes()

        def rewrite() -> None:
            while not ended.wait(0.003):
                with open(path, "r+b") as file:
                    file.truncate(len(data) // 3)
                    file.seek(0)
                    file.write(data)

        threads.append(threading.Thread(target=rewrite))
        threads[-1].start()

    yield change
    ended.set()
    for thread in threads:
        thread.join()


@only_ci
@pytest.mark.parametrize(
    ("name", "file"),
    [("convert", "neta.caffemodel"), ("build", "ma.onnx"), ("calibrate", "dataa.npz")],
)
def test_a_file_that_changes_while_it_is_read_is_refused_or_read(
    name: str, file: str, tmp_path: Path, changing: Callable[[Path], None]
) -> None:
    inputs, out = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    out.mkdir()
    prepare(inputs)
    changing(inputs / file)
    process = begin(*words(name, "a", inputs, out))
    _, told = process.communicate(timeout=300)
    assert process.returncode in (0, 1, 2), told
    assert "internal error" not in told
    if process.returncode == 2:
        assert len(told.strip().splitlines()) == 1
        assert not [path for path in out.iterdir() if not path.name.endswith(".partial")]
    else:
        COMMANDS[name].version(out)


# Workers -----------------------------------------------------------------------------------------


def children(process: int) -> list[int]:
    """Return the processes below one, the nearest first."""
    found, waiting = [], [process]
    while waiting:
        told = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(waiting.pop(0))], capture_output=True, text=True
        )
        found += (nearer := [int(pid) for pid in told.stdout.split()])
        waiting += nearer
    return found


def kill_one(process: subprocess.Popen[str], words: str, among: int) -> None:
    """Kill a child whose command line has ``words``, when there are so many of them."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        mine = [pid for pid in children(process.pid) if words in command_of(pid)]
        if len(mine) >= among:
            time.sleep(0.3)
            os.kill(mine[-1], signal.SIGKILL)
            return
        time.sleep(0.02)
    raise AssertionError("there was no such child")


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


@pytest.fixture
def many(inputs: Path, tmp_path: Path) -> Path:
    """Return the data of many samples, so that there is time to kill."""
    images = np.random.default_rng(0).normal(size=(3000, 3, 12, 12)).astype(np.float32)
    np.savez(tmp_path / "many.npz", data=images, labels=np.zeros(3000, np.int64))
    return tmp_path / "many.npz"


@only_ci
def test_a_calibration_that_loses_a_worker_says_so_and_goes_on(
    inputs: Path, many: Path, tmp_path: Path
) -> None:
    call = ["calibrate", inputs / "ma.onnx", "--data", many, "-o", tmp_path / "r.json"]
    process = begin(*call, "--workers", "2")
    kill_one(process, "spawn_main", 2)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 2, told
    assert "a worker process died" in told
    assert not (tmp_path / "r.json").exists()
    again, whole = begin(*call, "--resume"), begin(*call[:-1], tmp_path / "whole.json")
    for run in (again, whole):
        _, told = run.communicate(timeout=300)
        assert run.returncode == 0, told
    found, expected = Ranges.load(tmp_path / "r.json"), Ranges.load(tmp_path / "whole.json")
    assert found.tensors == expected.tensors
    assert found.samples == expected.samples


@only_ci
def test_a_validation_that_loses_a_worker_says_so(inputs: Path, many: Path, tmp_path: Path) -> None:
    process = begin(
        "validate", inputs / "ma.onnx", inputs / "qa.onnx", "--data", many, "--workers", "2",
        "--report", tmp_path / "report",
    )  # fmt: skip
    kill_one(process, "spawn_main", 2)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 2, told
    assert "a worker process died" in told
    assert not (tmp_path / "report").exists()


@only_ci
def test_a_benchmark_that_loses_an_engine_says_so(inputs: Path) -> None:
    process = begin(
        "bench", inputs / "ma.onnx", inputs / "mb.onnx", "--batch", "1", "--rounds", "3000"
    )
    kill_one(process, "_bench_worker", 2)
    printed, told = process.communicate(timeout=300)
    # While it was loading the other one is timed, with a note; later there is no table.
    assert process.returncode in (0, 2), told
    assert re.search(r"m[ab]\.onnx can't be timed: its process ended", printed + told)


# Two at once -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", few(["calibrate", "deploy"], 1))
def test_two_runs_to_one_place_are_one(name: str, inputs: Path, tmp_path: Path) -> None:
    runs = [begin(*words(name, version, inputs, tmp_path)) for version in ("a", "b")]
    told = [run.communicate(timeout=300)[1] for run in runs]
    assert sorted(run.returncode for run in runs) in ([0, 0], [0, 2])
    for run, text in zip(runs, told, strict=True):
        assert run.returncode == 0 or "another onnxgraft is writing it" in text
    winner = ["a", "b"][[run.returncode for run in runs].index(0)]
    found = COMMANDS[name].version(tmp_path)
    assert found == winner or all(run.returncode == 0 for run in runs)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(COMMANDS[name].made)


@only_ci
def test_two_builds_that_share_timings_take_turns(inputs: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt")
    timings = tmp_path / "kept.timing"
    runs = [
        begin("build", inputs / f"m{version}.onnx", "--target", "tensorrt", "--timing-cache",
              timings, "-o", tmp_path / f"{version}.engine")
        for version in ("a", "b")
    ]  # fmt: skip
    for run in runs:
        told = run.communicate(timeout=300)[1]
        assert run.returncode == 0, told
    assert not list(tmp_path.glob(".*"))


@only_ci
def test_a_build_waits_for_another_one_s_timings(inputs: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt")
    from onnxgraft.files.locks import locked

    timings = tmp_path / "kept.timing"
    with locked(tmp_path / ".kept.timing.lock"):
        run = begin("build", inputs / "ma.onnx", "--target", "tensorrt", "--timing-cache", timings,
                    "-o", tmp_path / "a.engine")  # fmt: skip
        wait_for_lock(run, lambda: children(run.pid))
        assert not (tmp_path / "a.engine").exists()
    _, told = run.communicate(timeout=300)
    assert run.returncode == 0, told
