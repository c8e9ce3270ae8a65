"""The latency table: what is measured, what it is held against, what can't be timed."""

import json
from pathlib import Path

import pytest

from onnxgraft.commands._bench import BenchTarget, bench_targets, measure, record_latency, speed_ups
from onnxgraft.errors import InputError
from onnxgraft.stages import engine
from onnxgraft.stages.convert import Original
from onnxgraft.stages.validate.report import LatencyRow
from tests.conftest import Cli, model_of, only_ci


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, dim in (("free", "N"), ("fixed", "1")):
        model = model_of(f"net (float[{dim}, 4] x) => (float[{dim}, 4] y) {{ y = Relu(x) }}")
        model.save(tmp_path / f"{name}.onnx")
        engine.build(model, tmp_path / name, "onnxruntime")
    return tmp_path


@only_ci
def test_a_batch_that_an_engine_does_not_take_is_a_note(files: Path) -> None:
    notes: list[str] = []
    targets = bench_targets([files / "free", files / "fixed"])
    rows = measure(targets, batches=(1, 4), rounds=2, runs=3, notes=notes)
    assert [(row.name, row.batch, row.runs) for row in rows] == [
        ("free", 1, 6), ("fixed", 1, 6), ("free", 4, 6),
    ]  # fmt: skip
    assert notes == ["batch 4: fixed can't be timed: its inputs have a batch of 1"]
    with pytest.raises(InputError, match="its inputs have a batch of 1"):
        measure(targets, batches=(4,), rounds=1, runs=1)


@only_ci
def test_the_same_reason_is_told_once_for_all_batches(files: Path) -> None:
    notes: list[str] = []
    targets = bench_targets([files / "free", files / "fixed"])
    measure(targets, batches=(1, 2, 4), rounds=1, runs=1, notes=notes)
    assert notes == ["batches 2, 4: fixed can't be timed: its inputs have a batch of 1"]


def test_nothing_that_can_be_timed_is_an_error(files: Path) -> None:
    with pytest.raises(InputError, match="its inputs have a batch of 1"):
        measure(bench_targets([files / "fixed"]), batches=(2,), notes=[])


def test_speed_ups_are_over_the_original_and_the_first_fp32_of_the_batch() -> None:
    file = Original("")
    targets = [
        BenchTarget("tensorflow", "original", file),
        BenchTarget("ort", "onnx", file, precision="fp32"),
        BenchTarget("int8", "engine", file, precision="int8"),
    ]
    rows = [
        LatencyRow("tensorflow", 1, 8.0, 0, 0, 1), LatencyRow("ort", 1, 4.0, 0, 0, 1),
        LatencyRow("int8", 1, 1.0, 0, 0, 1), LatencyRow("int8", 2, 1.0, 0, 0, 1),
    ]  # fmt: skip
    found = [(ratio.original, ratio.fp32) for ratio in speed_ups(rows, targets)]
    assert found == [(1.0, 0.5), (2.0, 1.0), (8.0, 4.0), (None, None)]


def test_what_was_measured_goes_into_the_passport(files: Path) -> None:
    targets = bench_targets([files / "free"])
    record_latency(targets, measure(targets, batches=(2,), rounds=1, runs=2))
    stored = engine.read_passport(files / "free").latency
    assert [(row["batch"], row["runs"]) for row in stored] == [(2, 2)]
    engine.load(files / "free").close()


def test_an_engine_without_a_passport_needs_trust(files: Path, cli: Cli) -> None:
    (files / "free.json").unlink()
    arguments = ["bench", files / "free", "--batch", "1", "--rounds", "1", "--runs", "1", "--json"]
    refused = cli(*arguments)
    assert refused.returncode == 2
    assert "--trust" in refused.stderr
    assert cli(*arguments, "--trust=another").returncode == 2
    done = cli(*arguments, "--trust=free")
    assert done.returncode == 0, done.stderr
    done = cli(*arguments, "--trust")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["latency"][0]["batch"] == 1
