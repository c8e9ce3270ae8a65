"""Time by layer: rows that can be compared, and what keeps INT8 from being faster, in sentences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxgraft import commands
from onnxgraft.commands._layer_times import Timed, layer_times
from onnxgraft.commands._opening import graph_of_engine
from onnxgraft.graph.model import Model, Origin
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.layer_nodes import place
from onnxgraft.run.layers import Layer, LayerTimes, plain_precision
from onnxgraft.stages import engine
from onnxgraft.stages.validate.report import LayersTimedRow, LayerTimeRow
from tests.conftest import Cli, model_of, once


def quantized() -> Model:
    """Return a graph of a Conv and a ConvTranspose in integers, and a Softmax in float."""
    rng = np.random.default_rng(0)
    scales = {"s": np.float32(0.05), "z": np.uint8(128), "i": np.int8(0)}
    weights = {
        name: rng.integers(-100, 100, shape).astype(np.int8)
        for name, shape in (("w", (16, 16, 3, 3)), ("v", (16, 16, 2, 2)))
    }
    model = model_of(
        "net (float[1, 16, 16, 16] x) => (float[1, 16, 32, 32] y) {"
        " [q] a = QuantizeLinear(x, s, z) [dq] b = DequantizeLinear(a, s, z)"
        " [dw] k = DequantizeLinear(w, s, i) [conv] c = Conv<pads=[1,1,1,1]>(b, k)"
        " [q1] d = QuantizeLinear(c, s, z) [dq1] e = DequantizeLinear(d, s, z)"
        " [dv] l = DequantizeLinear(v, s, i) [up] t = ConvTranspose<strides=[2,2]>(e, l)"
        " [q2] g = QuantizeLinear(t, s, z) [dq2] h = DequantizeLinear(g, s, z)"
        " [soft] y = Softmax<axis=1>(h) }",
        {**scales, **weights},
    )
    model.names |= {"c": Origin("scope/Conv:0"), "t": Origin("scope/up:0")}
    return model


def layer(name: str, kind: str, precision: str, ms: float, *nodes: str) -> Layer:
    return Layer(name, kind, precision, nodes or (name,), makes=(name,), milliseconds=ms)


def moved(name: str, role: str, change: str, ms: float, reader: str) -> Layer:
    made = Layer(name, "Reorder", "", (), role, change, makes=(f"{reader}/in",), milliseconds=ms)  # type: ignore[arg-type]
    return made


def timed(
    *layers: Layer, name: str = "int8", model: Model | None = None, library: str = "openvino"
) -> Timed:
    times = LayerTimes(layers, 0.0, 1, 0.0)
    return Timed(name, library, 1, times, model)


def told(*layers: Layer) -> list[str]:
    return layer_times([timed(*layers, model=quantized())])[1][0].slow


INT8 = layer("conv", "Convolution", "u8", 10.0)
UP = layer("up", "Deconvolution", "i8", 5.0)
SOFT = layer("soft", "Softmax", "f32", 0.1)


def test_a_reorder_is_told() -> None:
    read = Layer("conv", "Convolution", "u8", ("conv",), reads=("conv/in",), milliseconds=10.0)
    reorder = moved("r", "reorder", "abcd to acdb", 2.0, "conv")
    assert told(reorder, read, UP) == [
        (
            "reorders, which move tensors into another layout, took 2 ms (12 %): for scope/Conv:0 "
            "(abcd to acdb) 2 ms"
        )
    ]


def test_a_conversion_between_precisions_is_told() -> None:
    forced = Layer("q1", "Subgraph", "f32", ("q1",), change="f32 to u8", milliseconds=5.0,
                   reads=("conv",), makes=("q1",))  # fmt: skip
    read = Layer("up", "Deconvolution", "i8", ("up",), reads=("q1",), milliseconds=5.0)
    assert told(INT8, forced, read) == [
        "conversions between precisions took 5 ms (25 %): for scope/up:0 (f32 to u8) 5 ms"
    ]


def test_a_layer_without_an_int8_kernel_is_told() -> None:
    assert told(INT8, layer("up", "Deconvolution", "f32", 10.0), SOFT) == [
        (
            "1 layer that the graph has in INT8 ran in float, for which the library has no INT8 "
            "kernel here, and took 10 ms (50 %): scope/up:0 (ConvTranspose) 10 ms"
        )
    ]


def test_layers_that_the_graph_has_in_float_are_told_by_themselves() -> None:
    soft = layer("soft", "Softmax", "f32", 5.0)
    assert told(INT8, UP, soft) == [
        "1 layer that the graph has in float took 5 ms (25 %): soft (Softmax) 5 ms"
    ]


def test_what_takes_little_is_not_told() -> None:
    assert told(INT8, UP, SOFT) == []


def test_layers_that_are_no_faster_than_in_float_are_told() -> None:
    float_ = model_of(
        "net (float[1, 16, 16, 16] x) => (float[1, 16, 32, 32] t) {"
        " [conv] c = Conv<pads=[1,1,1,1]>(x, w) [up] t = ConvTranspose<strides=[2,2]>(c, v) }",
        {"w": np.ones((16, 16, 3, 3), np.float32), "v": np.ones((16, 16, 2, 2), np.float32)},
    )
    floats = [layer("conv", "Conv", "f32", 30.0), layer("up", "Conv", "f32", 4.0)]
    engines = [
        timed(INT8, UP, model=quantized()),
        timed(*floats, name="another", model=float_, library="onnxruntime"),
        timed(*floats, name="fp32", model=float_),
    ]
    assert layer_times(engines)[1][0].slow == [
        "INT8 was no faster than fp32 in 1 layer: scope/up:0 (5 ms, 4 in float)"
    ]


def test_what_engines_fuse_otherwise_is_one_row_of_each() -> None:
    whole = timed(layer("c", "Conv", "f32", 7.0, "conv", "up"), name="one", model=quantized())
    parts = timed(INT8, UP, name="two", model=quantized())
    rows, wholes = layer_times([whole, parts])
    assert [(row.engine, row.layer, row.milliseconds) for row in rows] == [
        ("one", "scope/Conv:0", 7.0), ("two", "scope/Conv:0", 15.0),
    ]  # fmt: skip
    assert [one.lost for one in wholes] == [0.0, 0.0]


def test_what_finds_no_layer_is_counted() -> None:
    stray = Layer("odd", "Odd", "f32", (), milliseconds=5.0)
    whole = layer_times([timed(INT8, UP, stray, model=quantized())])[1][0]
    assert (whole.layers, whole.lost) == (20.0, 5.0)


def test_an_engines_precision_stands_beside_the_graphs() -> None:
    rows = layer_times([timed(INT8, layer("up", "x", "f32", 5.0), model=quantized())])[0]
    assert [(row.layer, row.precision, row.graph) for row in rows] == [
        ("scope/Conv:0", "int8", "int8"), ("scope/up:0", "fp32", "int8"),
    ]  # fmt: skip


def test_without_its_graph_an_engines_layers_have_its_librarys_names() -> None:
    rows = layer_times([timed(INT8, UP)])[0]
    assert [(row.layer, row.graph) for row in rows] == [("conv", ""), ("up", "")]


# On real engines --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with engines of the graph for both CPU targets."""

    def make(folder: Path) -> None:
        quantized().save(folder / "int8.onnx")
        for target in ("openvino", "onnxruntime"):
            commands.build(folder / "int8.onnx", folder / f"e.{target}", target=target)

    return once(tmp_path_factory, "layer_times", make)


def counted(folder: Path, target: str) -> LayerTimes:
    with engine.load(folder / f"e.{target}") as running:
        return engine.time_layers(running, random_feeds(running.inputs, 1), 2)


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_every_layer_of_an_engine_finds_its_nodes(target: str, built: Path) -> None:
    found = place(Model.load(built / "int8.onnx"), counted(built, target).layers)
    real = [one for one in found if one.layer.kind not in ("Input", "Output")]
    assert [one.layer.name for one in real if not one.found] == []
    for one in real:
        if "Conv" in one.layer.kind or one.layer.kind == "Deconvolution":
            assert {"conv", "up"} & set(one.nodes), one


def test_precisions_are_those_of_openvinos_own_model(built: Path) -> None:
    with engine.load(built / "e.openvino") as running:
        compiled = running._model(running._parts[-1])  # type: ignore[attr-defined]
        theirs = {
            operation.get_friendly_name(): operation.get_rt_info()["runtimePrecision"].astype(str)
            for operation in compiled.get_runtime_model().get_ordered_ops()
        }
        mine = {one.name: one.precision for one in engine.layers(running)}
    assert mine == theirs


def test_onnxruntimes_integer_convolution_is_int8_and_its_transposed_one_is_not(
    built: Path,
) -> None:
    kinds = {one.kind.rpartition(".")[2]: one for one in counted(built, "onnxruntime").layers}
    assert plain_precision(kinds["QLinearConv"].precision) == "int8"
    assert plain_precision(kinds["ConvTranspose"].precision) == "fp32"
    assert {one.change for one in kinds.values() if one.role == "conversion"} >= {"float to uint8"}


def test_a_passport_tells_what_layers_run_in(built: Path, cli: Cli) -> None:
    done = cli("inspect", built / "e.onnxruntime")
    assert "scope/up:0: fp32, where the graph has int8" in done.stdout
    assert "int8 1" in done.stdout


def test_bench_prints_bars_by_the_frameworks_names(built: Path, tmp_path: Path, cli: Cli) -> None:
    for name in ("e.openvino", "e.openvino.json"):
        (tmp_path / name).write_bytes((built / name).read_bytes())
    words = ["--batch", "1", "--rounds", "1", "--runs", "1", "--layers"]
    done = cli("bench", tmp_path / "e.openvino", built / "e.onnxruntime", *words)
    assert done.returncode == 0, done.stderr
    assert "1: e.openvino, batch 1, " in done.stdout
    assert "scope/up:0 (ConvTranspose)" in done.stdout
    assert "fp32 (graph int8)" in done.stdout
    assert "e.openvino: the graph that it was built from is not beside it" in done.stdout


def test_a_graph_elsewhere_is_found_by_its_hash(built: Path, tmp_path: Path) -> None:
    for name in ("e.openvino", "e.openvino.json"):
        (tmp_path / name).write_bytes((built / name).read_bytes())
    one = tmp_path / "e.openvino"
    assert graph_of_engine(built / "e.openvino") is not None
    assert graph_of_engine(one) is None
    assert graph_of_engine(one, [built / "int8.onnx"]) is not None
    model_of("n (float[1] x) => (float[1] y) { y = Relu(x) }").save(tmp_path / "other.onnx")
    assert graph_of_engine(one, [tmp_path / "other.onnx"]) is None


def test_rows_are_plain_values() -> None:
    rows, wholes = layer_times([timed(INT8, UP, model=quantized())])
    done = commands.Benched([], [], [], rows, wholes).to_json()
    assert LayerTimeRow(**done["layers"][0]) == rows[0]
    assert LayersTimedRow(**done["layers_timed"][0]) == wholes[0]
