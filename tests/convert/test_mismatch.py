"""A conversion that went wrong: exit status 1, the file is kept, and where it begins is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_graphsurgeon import Constant

from onnxgraft import commands
from onnxgraft.graph.model import Model
from onnxgraft.run.feeds import random_feeds
from onnxgraft.stages.convert import Original
from tests.convert.graphs import assert_equal_to_tensorflow, run, write
from tests.running import Done, here

tf = pytest.importorskip("tensorflow")

LAYERS = ["fc1", "fc2", "fc3", "fc4"]


def layers() -> None:
    """Build four fully connected layers in a row, and a second head behind the third."""
    rng = np.random.default_rng(0)
    value = tf.compat.v1.placeholder(tf.float32, [None, 9], "x")
    for name, units in zip(LAYERS, (8, 7, 6, 5), strict=True):
        with tf.name_scope(name):
            # Small enough that Tanh does not saturate, which would hide an error.
            weights = 0.3 * rng.standard_normal((value.shape[-1], units)).astype(np.float32)
            bias = 0.3 * rng.standard_normal(units).astype(np.float32)
            value = tf.raw_ops.MatMul(a=value, b=tf.constant(weights, name="w"), name="MatMul")
            value = tf.nn.bias_add(value, tf.constant(bias, name="b"), name="BiasAdd")
            value = tf.tanh(value, name="Tanh")
        if name == "fc3":
            tf.identity(value, name="inner")
    tf.identity(value, name="y")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the frozen graph."""
    return write(tmp_path / "x.pb", layers)


Plant = Callable[[str], None]


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Return a function that makes conversion change a number of each constant of a layer."""
    lower = Original.lower

    def planted(layer: str) -> None:
        def wrong(*args: Any, **options: Any) -> tuple[Model, list[str]]:
            model, notes = lower(*args, **options)
            constants = [
                tensor
                for tensor in model.graph.tensors().values()
                if isinstance(tensor, Constant) and tensor.name.startswith(layer)
            ]
            assert len(constants) == (2 if layer in LAYERS else 1)
            for tensor in constants:
                values = np.array(tensor.values)
                values.flat[0] += 1.0
                tensor.values = values
            return model, notes

        monkeypatch.setattr(Original, "lower", wrong)

    return planted


def command(*arguments: Any) -> Done:
    return here("convert", *arguments)


def test_what_is_right_passes_and_parts_nowhere(file: Path, tmp_path: Path) -> None:
    done = command(file, "-o", tmp_path / "y.onnx", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["divergence"] is None
    assert_equal_to_tensorflow(file)


@pytest.mark.parametrize("raw", [False, True], ids=["cleaned", "raw"])
@pytest.mark.parametrize("layer", LAYERS)
def test_the_layer_where_a_mismatch_begins_is_named(
    file: Path, tmp_path: Path, plant: Plant, layer: str, raw: bool
) -> None:
    plant(layer)
    out = tmp_path / "y.onnx"
    done = command(file, "-o", out, "--outputs", "y", "--json", *(["--raw"] if raw else []))
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert not all(verdict["passed"] for verdict in told["verdicts"])
    divergence = told["divergence"]
    # Surgery makes a Gemm of the product and the sum, which is where it parts then.
    operator, tensor = ("MatMul", "MatMul") if raw else ("Gemm", "BiasAdd")
    assert (divergence["operator"], divergence["origin"]) == (operator, f"{layer}/{tensor}:0")
    before = LAYERS[: LAYERS.index(layer)][-1:]
    assert divergence["agreed"] == (f"{before[0]}/Tanh:0" if before else None)
    assert divergence["relative"] > 1e-4
    made = [node for node in onnx.load(out).graph.node if divergence["tensor"] in node.output]
    assert [node.op_type for node in made] == [operator]


def test_a_wrong_bias_is_told_from_a_wrong_weight(file: Path, tmp_path: Path, plant: Plant) -> None:
    plant("fc2/b")
    done = command(file, "-o", tmp_path / "y.onnx", "--outputs", "y", "--raw", "--json")
    divergence = json.loads(done.stdout)["divergence"]
    assert (divergence["origin"], divergence["agreed"]) == ("fc2/BiasAdd:0", "fc2/MatMul:0")


def test_the_file_is_kept_and_is_what_was_judged(file: Path, tmp_path: Path, plant: Plant) -> None:
    right, _ = Original.of(file, outputs="y").lower()
    plant("fc3")
    out = tmp_path / "y.onnx"
    out.write_text("an older file")
    assert command(file, "-o", out, "--outputs", "y", "--force").returncode == 1
    onnx.checker.check_model(onnx.load(out), full_check=True)
    feeds = random_feeds(right.inputs, 2)
    kept, expected = run(Model.load(out), feeds)["y:0"], run(right, feeds)["y:0"]
    assert np.abs(kept - expected).max() > 1e-2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.pb", "y.onnx"]


def test_a_person_reads_where_it_begins(file: Path, tmp_path: Path, plant: Plant) -> None:
    plant("fc2")
    done = command(file, "-o", tmp_path / "y.onnx")
    assert done.returncode == 1
    assert (
        "first difference at fc2/BiasAdd:0 (Gemm 'fc2/BiasAdd:0' of the ONNX graph)" in done.stdout
    )
    assert "fc1/Tanh:0 is the last tensor that agrees" in done.stdout


def test_only_the_output_behind_the_mistake_fails(file: Path, plant: Plant) -> None:
    plant("fc4")
    done = commands.convert(file, outputs="inner,y")
    assert [(v.output, v.passed) for v in done.verdicts] == [
        ("inner:0", True), ("y:0", False), ("inner:0", True), ("y:0", False),
    ]  # fmt: skip
    assert not done.passed
    assert done.divergence is not None
    assert done.divergence.origin == "fc4/BiasAdd:0"


def test_what_is_not_compared_is_not_judged(file: Path, tmp_path: Path, plant: Plant) -> None:
    plant("fc1")
    done = command(file, "-o", tmp_path / "y.onnx", "--no-verify", "--json")
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert (told["verified"], told["verdicts"], told["divergence"]) == (False, [], None)


def test_where_it_begins_is_named_between_cuts(file: Path, tmp_path: Path, plant: Plant) -> None:
    plant("fc3")
    done = command(
        file, "-o", tmp_path / "y.onnx", "--inputs", "fc1/Tanh:0", "--outputs", "fc3/Tanh", "--json"
    )
    assert done.returncode == 1
    divergence = json.loads(done.stdout)["divergence"]
    assert (divergence["origin"], divergence["agreed"]) == ("fc3/BiasAdd:0", "fc2/Tanh:0")


def test_a_mistake_at_the_input_has_nothing_that_agrees_before_it(file: Path, plant: Plant) -> None:
    plant("fc1")
    divergence = commands.convert(file, outputs="y").divergence
    assert divergence is not None
    assert divergence.agreed is None
    assert "the last tensor that agrees" not in str(divergence)
