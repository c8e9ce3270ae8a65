"""Engines under load: what is asked for, what is told, and what stands in the passport."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

import onnxgraft
from onnxgraft.commands import _bench_load
from onnxgraft.commands._bench import BenchTarget, Worker
from onnxgraft.commands._bench_load import milliseconds
from onnxgraft.errors import InputError
from onnxgraft.run.load import Setting
from onnxgraft.stages.convert import Original
from onnxgraft.stages.engine import read_passport, record
from tests.conftest import Cli, few, model_of, once, only_ci

QUICK: dict[str, Any] = {"duration": 0.5, "rounds": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with engines of a free and a fixed batch."""

    def make(folder: Path) -> None:
        for name, dim in (("free", "N"), ("fixed", "2")):
            model = model_of(f"net (float[{dim}, 4] x) => (float[{dim}, 4] y) {{ y = Relu(x) }}")
            model.save(folder / f"{name}.onnx")
            for target in ("onnxruntime", "openvino"):
                onnxgraft.build(
                    folder / f"{name}.onnx", folder / f"{name}.{target}", target=target,
                    prove=False,
                )  # fmt: skip

    return once(tmp_path_factory, "load", make)


def copied(folder: Path, name: str, to: Path) -> Path:
    for end in ("", ".json"):
        (to / f"e{end}").write_bytes((folder / f"{name}{end}").read_bytes())
    return to / "e"


def test_clients_ask_again_and_again(folder: Path) -> None:
    done = onnxgraft.bench([folder / "free.onnxruntime"], clients="1,2", **QUICK)
    assert [(row.clients, row.rate) for row in done.loads] == [(1, None), (2, None)]
    for row in done.loads:
        assert row.told.requests > 0
        assert row.told.percentiles == tuple(sorted(row.told.percentiles))
    assert done.loads[0].ratio is None
    assert done.loads[1].ratio is not None
    assert any("warm up and do not count" in note for note in done.notes)


@pytest.mark.parametrize("arrivals", few(["poisson", "fixed"], 1))
def test_requests_come_at_a_rate(arrivals: Any, folder: Path) -> None:
    file = folder / "free.onnxruntime"
    done = onnxgraft.bench([file], rate="100", arrivals=arrivals, duration=1.0, rounds=1)
    (row,) = done.loads
    assert row.rate == 100
    # Of a second, nine tenths count; what was given up is among them.
    assert row.told.requests == pytest.approx(90, abs=1 if arrivals == "fixed" else 40)
    assert row.told.few


@pytest.mark.parametrize("target", few(["openvino", "onnxruntime"], 1))
def test_instances_streams_threads_and_batches_are_set(target: str, folder: Path) -> None:
    done = onnxgraft.bench(
        [folder / f"free.{target}"], clients=[4], instances=2, streams=1, threads=1, batch=[3],
        pin=True, **QUICK,
    )  # fmt: skip
    (row,) = done.loads
    assert row.setting == Setting(2, 1, 1, 3, True)
    assert row.told.requests > 0


def test_an_instance_is_pinned_to_its_cores(folder: Path) -> None:
    core = min(os.sched_getaffinity(0))
    target = BenchTarget(
        "e", "engine", Original.of(folder / "free.onnxruntime"), cores=(core,)
    )  # fmt: skip
    worker = Worker(target, 1)
    try:
        assert os.sched_getaffinity(worker._process.pid) == {core}
    finally:
        worker.close()


def test_a_batch_that_is_fixed_is_taken_as_it_is(folder: Path) -> None:
    (row,) = onnxgraft.bench([folder / "fixed.onnxruntime"], clients=[1], **QUICK).loads
    assert row.setting.batch == 2
    with pytest.raises(InputError, match="its inputs have a batch of 2"):
        onnxgraft.bench([folder / "fixed.onnxruntime"], clients=[1], batch=[3], **QUICK)


@only_ci
def test_an_onnx_file_is_loaded_too(folder: Path) -> None:
    (row,) = onnxgraft.bench([folder / "free.onnx"], clients=[1], **QUICK).loads
    assert row.told.requests > 0


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"instances": 2}, "say how many with --clients or --rate"),
        ({"clients": [1], "layers": True}, "are for single requests"),
        ({"clients": [0]}, "from 1 on"),
        ({"rate": "x"}, "not a list of whole numbers"),
        ({"clients": [1], "duration": 0}, "duration above 0"),
        ({"clients": [1, 2], "rate": [10]}, "is one number"),
        ({"clients": [1], "batch": [1, 2]}, "is one size"),
        ({"p99": "20ms", "clients": [1]}, "looks for"),
        ({"p99": "soon"}, "write a time such as 20ms"),
    ],
)
def test_what_does_not_go_together_is_told(
    more: dict[str, Any], sentence: str, folder: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        onnxgraft.bench([folder / "free.onnxruntime"], **more)


def test_a_time_is_milliseconds_or_seconds() -> None:
    assert [milliseconds(t) for t in ("20ms", "20", "0.02s", 20.0)] == [20.0] * 4


def test_a_busy_machine_is_told() -> None:
    quiet, busy = (_bench_load._told(load, 3, 3.0) for load in (0.1, 0.8))
    assert quiet == ["3 rounds of 1 s; the first 0.1 s of each warm up and do not count"]
    assert any("the machine was busy before: a load of 80%" in note for note in busy)


def test_the_table_marks_what_is_not_to_be_relied_on(folder: Path, cli: Cli) -> None:
    file = folder / "free.onnxruntime"
    done = cli("bench", file, "--rate", "50", "--duration", "0.5", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    assert re.search(r"50/s .*\d\?", done.stdout)
    assert "a p99 marked with ? is one of the ten slowest" in " ".join(done.stdout.split())


# The search, whose settings are measured only once here: tests/run/test_load.py has its law.


def test_the_best_settings_stand_in_the_passport_and_are_used(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        _bench_load, "settings", lambda cores, sizes, threads: [Setting(1, 1, 1, sizes[0])]
    )
    monkeypatch.setattr(_bench_load, "_PATIENCE", 100)  # a busy machine answers late
    file = copied(folder, "free.onnxruntime", tmp_path)
    done = onnxgraft.bench([file], p99="60s", batch=[2], duration=0.5, rounds=1)
    (found,) = done.searches
    assert found.best is not None
    assert found.stored
    told = read_passport(file).serving
    assert (told["threads"], told["streams"], told["batch"]) == (1, 1, 2)
    assert told["limit_ms"] == 60_000
    assert 0 < told["rate"] == found.best.rate
    assert told["p99_ms"] <= 60_000
    json.dumps(done.to_json())


@only_ci
def test_the_settings_of_this_machine_are_searched(
    folder: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = copied(folder, "free.openvino", tmp_path)
    done = cli(
        "bench", file, "--p99", "200ms", "--batch", "1", "--duration", "0.2", "--rounds", "1"
    )
    assert done.returncode == 0, done.stderr
    assert "the best stands in the passport" in done.stdout


def test_where_no_setting_keeps_the_limit_nothing_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_bench_load, "settings", lambda cores, sizes, threads: [Setting(1, 1, 1)])
    file = copied(folder, "free.onnxruntime", tmp_path)
    before = Path(f"{file}.json").read_bytes()
    done = onnxgraft.bench([file], p99="0.00001ms", duration=0.2, rounds=1)
    assert done.searches[0].best is None
    assert any("no setting answers" in note for note in done.notes)
    assert Path(f"{file}.json").read_bytes() == before


@pytest.fixture
def tuned(folder: Path, tmp_path: Path) -> Path:
    """Return an engine whose passport says what was found best on this processor."""
    file = copied(folder, "free.openvino", tmp_path)
    cpu = str(read_passport(file).cpu)
    record(file, serving={"instances": 1, "threads": 1, "streams": 1, "batch": 4, "cpu": cpu})
    return file


def setting_of(served: onnxgraft.ServedEngine, name: str) -> Any:
    return served._engine.setting(name)  # type: ignore[attr-defined]


def test_what_is_served_takes_the_settings_of_the_passport(tuned: Path) -> None:
    with onnxgraft.ServedEngine(tuned) as served:
        assert setting_of(served, "INFERENCE_NUM_THREADS") == 1
        assert setting_of(served, "NUM_STREAMS") == 1
    with onnxgraft.ServedEngine(tuned, threads=2) as served:
        # OpenVINO takes no more than there are processors.
        assert setting_of(served, "INFERENCE_NUM_THREADS") == min(2, len(os.sched_getaffinity(0)))


def test_inspect_tells_the_settings(tuned: Path, cli: Cli) -> None:
    told = cli("inspect", tuned).stdout
    assert re.search(r"best settings for serving\n  instances 1\n  threads 1\n", told)


def test_settings_of_another_processor_are_left(tuned: Path) -> None:
    record(tuned, serving={**read_passport(tuned).serving, "cpu": "another"})
    with onnxgraft.ServedEngine(tuned, threads=None) as served:
        usual = setting_of(served, "INFERENCE_NUM_THREADS")
    record(tuned, serving={})
    with onnxgraft.ServedEngine(tuned) as served:
        assert setting_of(served, "INFERENCE_NUM_THREADS") == usual


def test_triton_gets_the_settings_of_the_passport(folder: Path, tmp_path: Path) -> None:
    config = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    from google.protobuf import text_format

    file = copied(folder, "free.onnxruntime", tmp_path)
    cpu = str(read_passport(file).cpu)
    record(file, serving={"instances": 2, "threads": 1, "streams": 1, "batch": 4, "cpu": cpu})
    onnxgraft.export("triton", file, tmp_path / "r", name="net")
    text = (tmp_path / "r/net/config.pbtxt").read_text()
    found = text_format.Parse(text, config.ModelConfig())
    assert (found.max_batch_size, found.instance_group[0].count) == (4, 2)
    assert found.parameters["intra_op_thread_count"].string_value == "1"


@pytest.mark.parametrize("serving", [{"threads": 0}, {"streams": "many"}, {"batch": True}])
def test_settings_that_are_none_are_a_damaged_passport(
    serving: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    file = copied(folder, "free.onnxruntime", tmp_path)
    document = json.loads(Path(f"{file}.json").read_text())
    Path(f"{file}.json").write_text(json.dumps({**document, "serving": serving}))
    with pytest.raises(InputError, match="not a passport"):
        read_passport(file)


def test_a_passport_of_before_says_nothing_of_serving(folder: Path, tmp_path: Path) -> None:
    file = copied(folder, "free.onnxruntime", tmp_path)
    document = json.loads(Path(f"{file}.json").read_text())
    del document["serving"]
    Path(f"{file}.json").write_text(json.dumps(document))
    assert read_passport(file) == dataclasses.replace(read_passport(file), serving={})
