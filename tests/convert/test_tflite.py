"""TFLite files of every kind, against TensorFlow's own interpreter."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxgraft import commands
from onnxgraft.commands import Converted
from onnxgraft.commands._integer_kernels import held_by_rounding
from onnxgraft.errors import InputError, ModelError, NotSupportedError
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array
from onnxgraft.run.difference import sqnr
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.run.tolerances import least_sqnr
from onnxgraft.run.verdicts import hold
from onnxgraft.stages import engine, surgery
from onnxgraft.stages.convert import Original
from onnxgraft.stages.convert.tensorflow.quiet import quiet
from onnxgraft.stages.convert.tflite.preparing import prepare
from onnxgraft.stages.convert.tflite.reading import read_tflite
from onnxgraft.stages.convert.tflite.running import interpreter
from tests.convert.tflite_files import File, flex_options, numbers

tf = pytest.importorskip("tensorflow")


def converted(path: Path, **options: Any) -> Converted:
    """Convert, and assert that the numbers were compared with TensorFlow's and are the same."""
    done = commands.convert(path, **options)
    assert done.verdicts
    assert done.passed
    return done


def interpreted(path: Path, *feeds: Array) -> list[Array]:
    """Return what TensorFlow's own kernels make of feeds."""
    plain = tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    running = interpreter(path.read_bytes(), experimental_op_resolver_type=plain)
    running.allocate_tensors()
    for entry, value in zip(running.get_input_details(), feeds, strict=True):
        running.set_tensor(entry["index"], value)
    running.invoke()
    return [np.array(running.get_tensor(entry["index"])) for entry in running.get_output_details()]


def from_function(path: Path, function: Callable[..., Any], *shapes: tuple[int, ...]) -> Path:
    """Convert a function of float tensors with TensorFlow's converter."""
    module = tf.Module()
    signature = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
    concrete = tf.function(function, input_signature=signature).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
    path.write_bytes(converter.convert())
    return path


# --- sparse, packed and half-precision weights


def csr(schema: Any, segments: list[int], indices: list[int]) -> Any:
    level = schema.DimensionMetadataT()
    level.format = schema.DimensionType.SPARSE_CSR
    level.arraySegmentsType = level.arrayIndicesType = schema.SparseIndexVector.Int32Vector
    level.arraySegments, level.arrayIndices = schema.Int32VectorT(), schema.Int32VectorT()
    level.arraySegments.values, level.arrayIndices.values = segments, indices
    return level


def full(schema: Any, size: int) -> Any:
    level = schema.DimensionMetadataT()
    level.format, level.denseSize = schema.DimensionType.DENSE, size
    return level


def sparsity(schema: Any, order: list[int], levels: list[Any], blocks: list[int] | None) -> Any:
    told = schema.SparsityParametersT()
    told.traversalOrder, told.dimMetadata, told.blockMap = order, levels, blocks
    return told


# Name: shape, number of values, and the parameters of how they are stored.
SPARSE: dict[str, tuple[tuple[int, ...], int, Callable[[Any], Any]]] = {
    "rows": ((3, 4), 5, lambda s: sparsity(
        s, [0, 1], [full(s, 3), csr(s, [0, 2, 2, 5], [0, 3, 0, 1, 2])], None)),
    "columns": ((3, 4), 4, lambda s: sparsity(
        s, [1, 0], [full(s, 4), csr(s, [0, 1, 1, 3, 4], [2, 0, 1, 2])], None)),
    "both_compressed": ((4, 3), 3, lambda s: sparsity(
        s, [0, 1], [csr(s, [0, 2], [1, 3]), csr(s, [0, 1, 3], [2, 0, 2])], None)),
    "blocks": ((4, 8), 24, lambda s: sparsity(
        s, [0, 1, 2, 3],
        [full(s, 2), csr(s, [0, 1, 3], [1, 0, 1]), full(s, 2), full(s, 4)], [0, 1])),
    "blocks_of_columns": ((2, 8), 12, lambda s: sparsity(
        s, [0, 1, 2], [full(s, 2), csr(s, [0, 1, 3], [1, 0, 1]), full(s, 4)], [1])),
    "image_kernels": ((3, 1, 2, 4), 5, lambda s: sparsity(
        s, [0, 1, 2, 3],
        [full(s, 3), full(s, 1), full(s, 2), csr(s, [0, 1, 1, 2, 2, 4, 5], [0, 3, 1, 2, 0])],
        None)),
}  # fmt: skip
TYPES = {"FLOAT32": np.float32, "FLOAT16": np.float16, "INT8": np.int8}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", SPARSE)
def test_sparse_weights_are_bit_for_bit_what_densify_writes(
    tmp_path: Path, name: str, kind: str
) -> None:
    shape, count, told = SPARSE[name]
    file = File()
    values = (np.arange(count) + 1).astype(TYPES[kind])
    stored = file.tensor("w", shape, kind, values, sparsity=told(file.schema))
    target = file.tensor("y", shape, kind)
    file.op("DENSIFY", [stored], [target])
    path = file.save(tmp_path / "sparse.tflite", [], [target])
    (expected,) = interpreted(path)
    assert np.count_nonzero(expected) == count
    with OnnxRuntime(Original.of(path).lower()[0].to_onnx()) as session:
        found = session.infer({})["y"]
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()


def test_sparse_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    file = File()
    told = sparsity(file.schema, [0, 1], [full(file.schema, 3), full(file.schema, 4)], None)
    stored = file.tensor("w", (3, 4), "FLOAT32", numbers(5), sparsity=told)
    target = file.tensor("y", (3, 4))
    file.op("DENSIFY", [stored], [target])
    path = file.save(tmp_path / "sparse.tflite", [], [target])
    with pytest.raises(InputError, match="'w' does not fit its shape: 5 values are stored for 12"):
        Original.of(path).lower()


def test_weights_in_half_precision_are_float_constants(tmp_path: Path) -> None:
    file = File()
    stored = file.tensor("half", (3, 4), "FLOAT16", numbers(3, 4).astype(np.float16))
    weights, x, y = file.tensor("w", (3, 4)), file.tensor("x", (2, 4)), file.tensor("y", (2, 3))
    file.op("DEQUANTIZE", [stored], [weights])
    file.op("FULLY_CONNECTED", [x, weights, -1], [y], file.options("FullyConnected"))
    done = converted(file.save(tmp_path / "half.tflite", [x], [y]))
    assert done.model.operators() == {"MatMul": 1}


# --- int8 weights, float activations


def hybrid(path: Path, kind: str) -> Path:
    """Write a layer with int8 weights and float activations."""
    file, rng = File(), np.random.default_rng(1)

    def integers(*shape: int) -> Array:
        return rng.integers(-127, 128, shape).astype(np.int8)

    if kind.startswith("dense"):
        x, y = file.tensor("x", (3, 8)), file.tensor("y", (3, 6))
        w = file.tensor("w", (6, 8), "INT8", integers(6, 8), scale=0.02)
        options = file.options("FullyConnected", asymmetricQuantizeInputs=kind == "dense_offset")
        file.op("FULLY_CONNECTED", [x, w, -1], [y], options, 9 if kind == "dense_offset" else 3)
        return file.save(path, [x], [y])
    if kind == "product":
        x, y = file.tensor("x", (2, 3, 4)), file.tensor("y", (2, 3, 5))
        w = file.tensor("w", (2, 4, 5), "INT8", integers(2, 4, 5), scale=0.02)
        file.op("BATCH_MATMUL", [x, w], [y], file.options("BatchMatMul"), 2)
        return file.save(path, [x], [y])
    if kind == "transposed":
        size = file.tensor("n", (4,), "INT32", np.array([2, 8, 8, 2], np.int32))
        x, y = file.tensor("x", (2, 4, 4, 3)), file.tensor("y", (2, 8, 8, 2))
        w = file.tensor("w", (2, 3, 3, 3), "INT8", integers(2, 3, 3, 3), [0.02, 0.03])
        options = file.options("TransposeConv", strideH=2, strideW=2)
        file.op("TRANSPOSE_CONV", [size, w, x], [y], options, 4)
        return file.save(path, [x], [y])
    x, b = file.tensor("x", (2, 6, 6, 4)), file.tensor("b", (4,), value=numbers(4))
    y = file.tensor("y", (2, 6, 6, 4))
    scales = np.array([0.01, 0.02, 0.03, 0.05])
    if kind == "depthwise":
        w = file.tensor("w", (1, 3, 3, 4), "INT8", integers(1, 3, 3, 4), scales, axis=3)
        options = file.options("DepthwiseConv2D", strideW=1, strideH=1, depthMultiplier=1)
        file.op("DEPTHWISE_CONV_2D", [x, w, b], [y], options, 6)
    else:
        scale = 0.02 if kind == "conv" else scales
        w = file.tensor("w", (4, 3, 3, 4), "INT8", integers(4, 3, 3, 4), scale)
        options = file.options("Conv2D", strideW=1, strideH=1)
        file.op("CONV_2D", [x, w, b], [y], options, 5)
    return file.save(path, [x], [y])


@pytest.mark.parametrize(
    "kind",
    ["dense", "dense_offset", "conv", "conv_channels", "depthwise", "product", "transposed"],
)
def test_int8_weights_become_floats_and_the_kernels_rounding_is_told(
    tmp_path: Path, kind: str
) -> None:
    done = converted(hybrid(tmp_path / "net.tflite", kind))
    assert "DequantizeLinear" not in done.model.operators()
    (note,) = [note for note in done.notes if "round the activations" in note]
    # With the rounding written out, the graph's answers are those of TensorFlow's kernels.
    decibels = float(note.rsplit("(y: ", 1)[1].split(" dB", 1)[0])
    assert decibels > 100


def test_a_network_with_other_weights_is_seen_through_the_kernels_rounding(tmp_path: Path) -> None:
    path = hybrid(tmp_path / "net.tflite", "conv_channels")
    original = Original.of(path)
    model, _ = original.lower()
    proto = model.to_onnx()
    (weights,) = [entry for entry in proto.graph.initializer if len(entry.dims) == 4]
    weights.CopyFrom(
        onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights) * 1.01, weights.name)
    )
    other = Model.from_onnx(proto, model.source, {})
    feeds = random_feeds(model.inputs, 2)
    with original.run() as running, OnnxRuntime(proto) as session:
        verdicts = hold(running.infer(feeds), session.infer(feeds))
    found = held_by_rounding(original, other, [feeds], verdicts)
    assert found is not None
    assert not all(verdict.passed for verdict in found[0])


def test_an_int8_table_of_embeddings_becomes_a_float_table(tmp_path: Path) -> None:
    file = File()
    index, y = file.tensor("i", (4,), "INT32"), file.tensor("y", (4, 3))
    stored = np.random.default_rng(0).integers(-127, 128, (10, 3)).astype(np.int8)
    table = file.tensor("t", (10, 3), "INT8", stored, scale=0.1)
    file.op("EMBEDDING_LOOKUP", [index, table], [y], version=3)
    done = converted(file.save(tmp_path / "table.tflite", [index], [y]))
    assert done.model.operators() == {"Gather": 1}


# --- operators that are rewritten


@pytest.mark.parametrize("activation", ["NONE", "RELU", "RELU6", "RELU_N1_TO_1"])
def test_a_transposed_convolution_keeps_its_bias(tmp_path: Path, activation: str) -> None:
    file = File()
    fused = getattr(file.schema.ActivationFunctionType, activation)
    size = file.tensor("n", (4,), "INT32", np.array([1, 8, 8, 2], np.int32))
    w, b = (
        file.tensor("w", (2, 3, 3, 3), value=numbers(2, 3, 3, 3)),
        file.tensor("b", (2,), value=numbers(2) + 3),
    )
    x, y = file.tensor("x", (1, 4, 4, 3)), file.tensor("y", (1, 8, 8, 2))
    options = file.options(
        "TransposeConv", strideH=2, strideW=2, padding=0, fusedActivationFunction=fused
    )
    file.op("TRANSPOSE_CONV", [size, w, x, b], [y], options, 4)
    done = converted(file.save(tmp_path / "net.tflite", [x], [y]))
    assert "ConvTranspose" in done.model.operators()


@pytest.mark.parametrize("padding", [0, 1], ids=["same", "valid"])
@pytest.mark.parametrize("stored", [False, True], ids=["float", "int8 weights"])
def test_a_transposed_convolution_whose_kernel_does_not_reach_gets_zeros(
    tmp_path: Path, padding: int, stored: bool
) -> None:
    file, shape = File(), (2, 2, 3, 3)
    size = file.tensor("n", (4,), "INT32", np.array([1, 12, 15, 2], np.int32))
    if stored:
        integers = np.random.default_rng(0).integers(-127, 128, shape).astype(np.int8)
        w = file.tensor("w", shape, "INT8", integers, [0.02, 0.03])
    else:
        w = file.tensor("w", shape, value=numbers(*shape))
    x, y = file.tensor("x", (1, 4, 3, 3)), file.tensor("y", (1, 12, 15, 2))
    options = file.options("TransposeConv", strideH=3, strideW=5, padding=padding)
    file.op("TRANSPOSE_CONV", [size, w, x], [y], options, 4)
    done = converted(file.save(tmp_path / "net.tflite", [x], [y]))
    assert "ConvTranspose" in done.model.operators()


@pytest.mark.parametrize(("padding", "size"), [(1, 8), (2, 9)], ids=["same", "valid"])
def test_mediapipe_s_transposed_convolution_is_tensorflow_s(
    tmp_path: Path, padding: int, size: int
) -> None:
    file, kernel, bias = File(), numbers(2, 3, 3, 3), numbers(2, seed=1)
    w, b = file.tensor("w", (2, 3, 3, 3), value=kernel), file.tensor("b", (2,), value=bias)
    x, y = file.tensor("x", (1, 4, 4, 3)), file.tensor("y", (1, size, size, 2))
    options = np.array([padding, 2, 2], np.int32).tobytes()
    file.op("Convolution2DTransposeBias", [x, w, b], [y], options)
    done = converted(file.save(tmp_path / "net.tflite", [x], [y]))
    fed = numbers(1, 4, 4, 3, seed=2)
    # As Keras has it: the kernel is (rows, columns, outputs, inputs).
    expected = bias + tf.nn.conv2d_transpose(
        fed,
        kernel.transpose(1, 2, 0, 3),
        (1, size, size, 2),
        2,
        "SAME" if padding == 1 else "VALID",
    )
    with OnnxRuntime(done.model.to_onnx()) as session:
        found = session.infer({"x": fed})["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_spectrum_is_taken_apart_into_real_and_imaginary_parts(tmp_path: Path) -> None:
    def parts(x: Any) -> Any:
        spectrum = tf.signal.rfft(x)
        return tf.math.real(spectrum), tf.math.imag(spectrum), tf.abs(spectrum)

    done = converted(from_function(tmp_path / "net.tflite", parts, (2, 32)))
    assert len(done.verdicts) == 3


def test_a_spectrum_in_two_dimensions_is_tensorflow_s(tmp_path: Path) -> None:
    def parts(x: Any) -> Any:
        spectrum = tf.signal.rfft2d(x, [4, 16])  # rows are cut, columns filled
        return tf.math.real(spectrum) + tf.math.imag(spectrum * spectrum)

    converted(from_function(tmp_path / "net.tflite", parts, (2, 8, 10)))


def test_a_cast_of_a_spectrum_is_its_real_part(tmp_path: Path) -> None:
    def parts(x: Any) -> Any:
        spectrum = tf.signal.rfft(x)
        return tf.cast(spectrum, "float32") ** 2, tf.cast(spectrum, "int32")

    done = converted(from_function(tmp_path / "net.tflite", parts, (2, 32)))
    assert len(done.verdicts) == 2


def test_what_is_cast_to_complex_numbers_has_no_imaginary_part(tmp_path: Path) -> None:
    def parts(x: Any) -> Any:
        both = tf.cast(x, "complex64") * tf.signal.rfft(tf.concat([x, x[:, :-2]], 1))
        return tf.math.real(both), tf.math.imag(both)

    converted(from_function(tmp_path / "net.tflite", parts, (2, 9)))


def test_a_complex_output_is_refused_by_name(tmp_path: Path) -> None:
    path = from_function(tmp_path / "net.tflite", tf.signal.rfft, (1, 8))
    with pytest.raises(NotSupportedError, match=r"is complex.*--outputs"):
        Original.of(path).lower()


def lstm(path: Path, *, major: bool = False, int8: bool = False) -> Path:
    file, rng = File(), np.random.default_rng(0)
    batch = 2 if major else 4

    def weights(name: str, *shape: int) -> list[int]:
        if int8:
            stored = [rng.integers(-127, 128, shape).astype(np.int8) for _ in range(4)]
            return [
                file.tensor(f"{name}{i}", shape, "INT8", value, scale=0.02)
                for i, value in enumerate(stored)
            ]
        return [file.tensor(f"{name}{i}", shape, value=numbers(*shape, seed=i)) for i in range(4)]

    x, y = file.tensor("x", (4, 2, 3)), file.tensor("y", (4, 2, 5))
    kernels, recurrent = weights("w", 5, 3), weights("r", 5, 5)
    bias = [file.tensor(f"b{i}", (5,), value=numbers(5, seed=i)) for i in range(4)]
    kept = [file.tensor(name, (batch, 5), isVariable=True) for name in ("h", "c")]
    options = file.options("UnidirectionalSequenceLSTM", fusedActivationFunction=4, timeMajor=major)
    inputs = [x, *kernels, *recurrent, -1, -1, -1, *bias, -1, -1, *kept, -1, -1, -1, -1]
    file.op("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, [y], options, 2 if int8 else 1)
    return file.save(path, [x], [y])


@pytest.mark.parametrize("major", [False, True], ids=["batch_first", "time_first"])
def test_a_fused_lstm_becomes_onnx_s(tmp_path: Path, major: bool) -> None:
    done = converted(lstm(tmp_path / "net.tflite", major=major))
    assert done.model.operators()["LSTM"] == 1


def test_a_fused_lstm_with_int8_weights_is_compared_on_floats(tmp_path: Path) -> None:
    done = converted(lstm(tmp_path / "net.tflite", int8=True))
    assert any("recurrent kernels (y) round activations and states" in n for n in done.notes)


def steps_of_lstm(
    path: Path, *, parts: str = "", major: bool = False, cells: int = 5, units: int = 5,
    kind: int = 4, **options: float,
) -> Path:  # fmt: skip
    """Write an LSTM of 12 steps, with what a word in ``parts`` says of it."""
    file, seeds = File(), itertools.count()

    def weights(*shape: int, factor: float = 1) -> int:
        seed = next(seeds)
        return file.tensor(f"w{seed}", shape, value=factor * numbers(*shape, seed=seed))

    shape = (12, 2) if major else (2, 12)
    x, y = file.tensor("x", (*shape, 3)), file.tensor("y", (*shape, units))
    gates = range(4)
    coupled = "coupled" in parts
    kernels = [-1 if coupled and not gate else weights(cells, 3) for gate in gates]
    recurrent = [-1 if coupled and not gate else weights(cells, units) for gate in gates]
    bias = [-1 if coupled and not gate else weights(cells) for gate in gates]
    # Theirs that are added once in a step.
    holes = [weights(cells) if "peepholes" in parts else -1 for _ in range(3)]
    holes[0] = -1 if coupled else holes[0]
    projection = [weights(units, cells)] if "projection" in parts else [-1]
    projection += [weights(units)] if "projection_bias" in parts else [-1]
    kept = [
        file.tensor("h", (2, units), isVariable=True),
        file.tensor("c", (2, cells), isVariable=True),
    ]
    normal = [weights(cells) if "normalized" in parts else -1 for _ in gates]
    normal[0] = -1 if coupled else normal[0]
    told = file.options(
        "UnidirectionalSequenceLSTM", fusedActivationFunction=kind, timeMajor=major, **options
    )
    inputs = [x, *kernels, *recurrent, *holes, *bias, *projection, *kept, *normal]
    file.op("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, [y], told)
    return file.save(path, [x], [y])


@pytest.mark.parametrize(
    "options",
    [
        {"cellClip": 0.5},
        {"cellClip": 10.0},
        {"parts": "peepholes"},
        {"parts": "projection", "units": 4},
        {"parts": "projection projection_bias", "units": 4, "projClip": 0.4},
        {"parts": "normalized"},
        {"parts": "coupled"},
        {"kind": 1, "cellClip": 2.0},
        {"major": True, "cellClip": 0.7, "parts": "peepholes"},
        {"parts": "coupled peepholes normalized projection", "cells": 6, "units": 3,
         "cellClip": 0.6, "projClip": 0.5},
    ],
    ids=lambda options: " ".join(map(str, sum(options.items(), ()))),
)  # fmt: skip
def test_an_lstm_that_does_more_than_onnx_s_is_written_step_by_step(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    done = converted(steps_of_lstm(tmp_path / "net.tflite", **options))
    assert done.model.operators()["Scan"] == 1


def test_a_clip_that_no_cell_reaches_in_so_few_steps_is_left_out(tmp_path: Path) -> None:
    done = converted(steps_of_lstm(tmp_path / "net.tflite", cellClip=12.0))
    assert done.model.operators()["LSTM"] == 1


def test_an_lstm_with_another_activation_is_refused_by_what_it_does(tmp_path: Path) -> None:
    path = steps_of_lstm(tmp_path / "net.tflite", kind=3)
    with pytest.raises(NotSupportedError, match=r"LSTM \(y\) with another activation than tanh"):
        Original.of(path).lower()


def test_a_fused_recurrent_layer_becomes_onnx_s(tmp_path: Path) -> None:
    file = File()
    x, y = file.tensor("x", (2, 4, 3)), file.tensor("y", (2, 4, 5))
    w, r = (
        file.tensor("w", (5, 3), value=numbers(5, 3)),
        file.tensor("r", (5, 5), value=numbers(5, 5) / 2),
    )
    b, h = file.tensor("b", (5,), value=numbers(5)), file.tensor("h", (2, 5), isVariable=True)
    options = file.options("SequenceRNN", fusedActivationFunction=4)
    file.op("UNIDIRECTIONAL_SEQUENCE_RNN", [x, w, r, b, h], [y], options)
    done = converted(file.save(tmp_path / "net.tflite", [x], [y]))
    assert done.model.operators()["RNN"] == 1


def test_a_loop_after_a_loop_is_converted(tmp_path: Path) -> None:
    def loops(x: Any) -> Any:
        for _ in range(2):
            x, _ = tf.while_loop(
                lambda x, i: i < 3, lambda x, i: (x * 1.5 + tf.cast(i, tf.float32), i + 1), [x, 0]
            )
        return x

    converted(from_function(tmp_path / "net.tflite", loops, (2, 3)))


# --- detections


def detection(path: Path, *, regular: bool = False, classes: int = 1) -> Path:
    file = File()
    boxes, scores = file.tensor("boxes", (1, 40, 4)), file.tensor("scores", (1, 40, 4))
    anchors = file.tensor("anchors", (40, 4), value=np.abs(numbers(40, 4)) + 0.3)
    outputs = [
        file.tensor(name, shape)
        for name, shape in (("b", (1, 6, 4)), ("c", (1, 6)), ("s", (1, 6)), ("n", (1,)))
    ]
    options = {
        "max_detections": 6, "max_classes_per_detection": classes, "detections_per_class": 4,
        "use_regular_nms": regular, "nms_score_threshold": -9.0, "nms_iou_threshold": 0.5,
        "num_classes": 3, "y_scale": 10.0, "x_scale": 10.0, "h_scale": 5.0, "w_scale": 5.0,
    }  # fmt: skip
    file.op("TFLite_Detection_PostProcess", [boxes, scores, anchors], outputs, options)
    return file.save(path, [boxes, scores], outputs)


@pytest.mark.parametrize("regular", [False, True], ids=["fast", "regular"])
def test_the_detections_are_tensorflow_s(tmp_path: Path, regular: bool) -> None:
    done = converted(detection(tmp_path / "net.tflite", regular=regular))
    assert done.model.operators()["NonMaxSuppression"] == 1


def test_several_classes_for_a_box_are_refused_by_name(tmp_path: Path) -> None:
    path = detection(tmp_path / "net.tflite", classes=2)
    with pytest.raises(NotSupportedError, match=r"PostProcess with several classes .*--outputs"):
        Original.of(path).lower()
    assert Original.of(path, outputs="scores").inspect().notes


# --- variables


class Stream(tf.Module):  # type: ignore[misc]
    """A window over the last frames, and a count of them."""

    def __init__(self) -> None:
        self.window = tf.Variable(np.zeros((1, 3, 4), np.float32), name="window")
        self.count = tf.Variable(np.full((1,), 2, np.float32), name="count")

    @tf.function(input_signature=[tf.TensorSpec((1, 1, 4), tf.float32, name="x")])  # type: ignore[untyped-decorator]
    def step(self, x: Any) -> Any:
        frames = tf.concat([self.window, x], 1)
        self.window.assign(frames[:, 1:])
        self.count.assign_add([1.0])
        return tf.reduce_sum(frames, 1) * self.count


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module = Stream()
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.step.get_concrete_function()], module
    )
    converter.experimental_enable_resource_variables = True
    path = tmp_path_factory.mktemp("stream") / "net.tflite"
    path.write_bytes(converter.convert())
    return path


def test_variables_become_inputs_and_outputs(stream: Path) -> None:
    done = converted(stream)
    inputs, outputs = ({s.name for s in specs} for specs in (done.model.inputs, done.model.outputs))
    assert {"window", "count"} < inputs or len(inputs) == 3
    assert {name.removesuffix(".next") for name in outputs if name.endswith(".next")} < inputs
    assert any("TensorFlow begins with 2 everywhere" in note for note in done.notes)


class Alike(tf.Module):  # type: ignore[misc]
    """Two variables that begin with the same numbers, which are one constant in the file."""

    def __init__(self) -> None:
        self.one = tf.Variable(np.zeros((1, 4), np.float32), name="one")
        self.two = tf.Variable(np.zeros((1, 4), np.float32), name="two")

    @tf.function(input_signature=[tf.TensorSpec((1, 4), tf.float32, name="x")])  # type: ignore[untyped-decorator]
    def step(self, x: Any) -> Any:
        self.one.assign_add(x)
        self.two.assign(self.two * 0.5 - self.one)
        return self.one + 3 * self.two


@pytest.mark.parametrize("half", [False, True], ids=["float32", "stored in float16"])
def test_variables_that_begin_alike_are_compared_each_with_its_own_values(
    tmp_path: Path, half: bool
) -> None:
    module = Alike()
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.step.get_concrete_function()], module
    )
    converter.experimental_enable_resource_variables = True
    if half:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    (tmp_path / "net.tflite").write_bytes(converter.convert())
    done = converted(tmp_path / "net.tflite")
    assert len(done.model.inputs) == len(done.model.outputs) == 3


def test_a_stream_goes_on_as_in_tensorflow(stream: Path) -> None:
    done = converted(stream)
    fed = {spec.name: spec for spec in done.model.inputs}
    names = {name for name in fed if f"{name}.next" in {s.name for s in done.model.outputs}}
    (frame,) = set(fed) - names
    starts = {
        name: np.full(fed[name].shape, 0 if len(fed[name].shape) == 3 else 2) for name in names
    }
    state = {name: value.astype(np.float32) for name, value in starts.items()}
    running = interpreter(stream.read_bytes())
    running.allocate_tensors()
    (source,), (target,) = running.get_input_details(), running.get_output_details()
    with OnnxRuntime(done.model.to_onnx()) as session:
        for step in range(5):
            x = numbers(1, 1, 4, seed=step)
            running.set_tensor(source["index"], x)
            running.invoke()
            found = session.infer({frame: x, **state})
            state = {name: found[f"{name}.next"] for name in names}
            np.testing.assert_allclose(
                found[target["name"]], running.get_tensor(target["index"]), rtol=1e-5, atol=1e-6
            )


# --- refusals, cuts and names


def custom(path: Path) -> Path:
    file = File()
    x, a, y = (file.tensor(name, (1, 4)) for name in ("x", "before", "y"))
    file.op("EXP", [x], [a], file.options("Exp"))
    file.op("AcmeBlur", [a], [y])
    return file.save(path, [x], [y])


def test_a_custom_operator_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotSupportedError, match=r"the custom operator AcmeBlur \(y\).*--outputs"):
        Original.of(custom(tmp_path / "net.tflite")).lower()


@pytest.mark.parametrize("name", ["RELU", "GRAFT_COPY"])
def test_a_custom_operator_of_a_known_name_is_none_that_is_known(tmp_path: Path, name: str) -> None:
    file = File()
    x, y = file.tensor("x", (1, 4)), file.tensor("y", (1, 4))
    file.op("Acme", [x], [y])
    file.model.operatorCodes[0].customCode = name
    path = file.save(tmp_path / "net.tflite", [x], [y])
    with pytest.raises(NotSupportedError, match=f"custom {name}"):
        Original.of(path).lower()


def test_a_loop_over_tensorflow_s_lists_is_refused_with_what_to_do(tmp_path: Path) -> None:
    file = File()
    x, y = file.tensor("x", (1, 4)), file.tensor("y", (1, 4))
    file.op("FlexTensorListReserve", [x], [y], flex_options("TensorListReserve"))
    path = file.save(tmp_path / "net.tflite", [x], [y])
    with pytest.raises(NotSupportedError, match="with a fixed batch size"):
        Original.of(path).lower()


def test_outputs_cut_before_operators_are_checked(tmp_path: Path) -> None:
    done = converted(custom(tmp_path / "net.tflite"), outputs="before")
    assert done.model.operators() == {"Exp": 1}


def test_inputs_cut_behind_an_operator_that_can_t_be_lowered(tmp_path: Path) -> None:
    file = File()
    x, a, y = (file.tensor(name, (1, 4)) for name in ("x", "after", "y"))
    file.op("AcmeBlur", [x], [a])
    file.op("EXP", [a], [y], file.options("Exp"))
    path = file.save(tmp_path / "net.tflite", [x], [y])
    done = commands.convert(path, inputs="after")
    assert done.model.operators() == {"Exp": 1}
    assert [spec.name for spec in done.model.inputs] == ["after"]


def test_a_cut_at_an_unknown_tensor_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean before"):
        Original.of(custom(tmp_path / "net.tflite"), outputs="befor").lower()


def test_inspect_reads_the_file_where_only_the_lowering_fails(tmp_path: Path) -> None:
    found = Original.of(custom(tmp_path / "net.tflite")).inspect()
    assert found.framework == "tflite"
    assert found.inputs == ["x (1, 4) float32"]
    assert found.operators == {"EXP": 1, "AcmeBlur": 1}
    assert found.unsupported == ["the custom operator AcmeBlur (y): ONNX has none"]


def test_inspect_lists_variables_and_counts_parameters(stream: Path) -> None:
    found = Original.of(stream).inspect()
    assert len(found.variables) == 2
    assert found.operators["ASSIGN_VARIABLE"] >= 2
    assert found.parameters >= 13


def test_tensors_of_one_name_stay_apart(tmp_path: Path) -> None:
    file = File()
    x, inner, y = (file.tensor(name, (1, 4)) for name in ("x", "x", ""))
    file.op("EXP", [x], [inner], file.options("Exp"))
    file.op("NEG", [inner], [y], file.options("Neg"))
    done = converted(file.save(tmp_path / "net.tflite", [x], [y]))
    assert done.model.operators() == {"Exp": 1, "Neg": 1}


def test_an_output_that_is_an_input_or_a_constant_or_comes_twice_is_kept(tmp_path: Path) -> None:
    file = File()
    x, y = file.tensor("x", (1, 4)), file.tensor("y", (1, 4))
    constant = file.tensor("c", (2,), value=numbers(2))
    file.op("NEG", [x], [y], file.options("Neg"))
    done = converted(file.save(tmp_path / "net.tflite", [x], [y, y, x, constant]))
    assert [spec.name for spec in done.model.outputs] == ["y", "x/output", "c"]


def test_a_signature_selects_its_graph(tmp_path: Path) -> None:
    class Both(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec((1, 4), tf.float32)])  # type: ignore[untyped-decorator]
        def up(self, x: Any) -> Any:
            return tf.exp(x)

        @tf.function(input_signature=[tf.TensorSpec((1, 4), tf.float32)])  # type: ignore[untyped-decorator]
        def down(self, x: Any) -> Any:
            return tf.while_loop(lambda y: tf.reduce_sum(y) > -50.0, lambda y: [y - 3.0], [x])[0]

    module, path = Both(), tmp_path / "net.tflite"
    tf.saved_model.save(module, str(tmp_path / "saved"), {"up": module.up, "down": module.down})
    with quiet():
        path.write_bytes(
            tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved")).convert()
        )
    operators = {
        name: set(converted(path, signature=name).model.operators()) for name in ("up", "down")
    }
    assert operators["up"] == {"Exp"}
    assert "Loop" in operators["down"]
    assert any("--signature takes others" in note for note in commands.convert(path).notes)
    with pytest.raises(InputError, match="no signature 'side'"):
        Original.of(path, signature="side").lower()


@pytest.mark.parametrize("kind", ["stream", "sparse", "detection"])
def test_a_damaged_file_is_read_or_refused_in_a_sentence(
    stream: Path, tmp_path: Path, kind: str
) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "net.tflite"
    if kind == "stream":
        path.write_bytes(stream.read_bytes())
    elif kind == "detection":
        detection(path)
    else:
        file, (shape, count, told) = File(), SPARSE["blocks"]
        values = np.arange(count, dtype=np.float32)
        stored = file.tensor("w", shape, "FLOAT32", values, sparsity=told(file.schema))
        target = file.tensor("y", shape)
        file.op("DENSIFY", [stored], [target])
        file.save(path, [], [target])
    whole = path.read_bytes()
    for _ in range(60):
        broken = bytearray(whole)
        for place in rng.integers(8, len(whole), 3):
            broken[place] = rng.integers(256)
        path.write_bytes(broken)
        with contextlib.suppress(InputError):
            prepare(read_tflite(path))


# --- networks in integers


@pytest.fixture(scope="module")
def network() -> Any:
    """Return a small network of layers that have integer kernels."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3), batch_size=1)
    x = layers.Conv2D(8, 3, 2, padding="same", activation="relu")(image)
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu6")(x)
    y = layers.Conv2D(8, 1)(x)
    x = layers.Concatenate()([layers.MaxPool2D()(y), layers.AveragePooling2D(2)(x)])
    x = layers.Conv2DTranspose(4, 3, 2, padding="same", activation="relu")(x)
    network = keras.Model(image, layers.Dense(5)(layers.Flatten()(x)))
    rng = np.random.default_rng(0)
    for weight in network.weights:
        weight.assign(weight + rng.normal(size=weight.shape) * 0.1)
    return network


def in_integers(network: Any, path: Path, kind: str) -> Path:
    converter = tf.lite.TFLiteConverter.from_keras_model(network)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (
        [numbers(1, 16, 16, 3, seed=seed)] for seed in range(8)
    )
    if kind == "uint8_ends":
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.uint8
    if kind == "int16":
        mixed = "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8"
        converter.target_spec.supported_ops = [getattr(tf.lite.OpsSet, mixed)]
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that statistics of the inputs are not given
        path.write_bytes(converter.convert())
    return path


@pytest.mark.parametrize("kind", ["int8", "uint8_ends"])
def test_a_network_in_int8_goes_to_tensorrt(network: Any, tmp_path: Path, kind: str) -> None:
    path = in_integers(network, tmp_path / "net.tflite", kind)
    done = converted(path)
    assert any("surgery --for tensorrt" in note for note in done.notes)
    lowered, report = surgery.run(done.model, target="tensorrt")
    told = [finding.sentence for entry in report.passes for finding in entry.done]
    assert any("its zero point moved from -128 to 0" in sentence for sentence in told)
    feeds = [random_feeds(done.model.inputs, 1, seed) for seed in range(4)]
    with Original.of(path).run() as running, OnnxRuntime(lowered.to_onnx()) as session:
        expected = np.stack([as_numbers(running.infer(fed)) for fed in feeds])
        found = np.stack([as_numbers(session.infer(fed)) for fed in feeds])
    assert sqnr(expected, found) > least_sqnr(8)
    pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    engine.build(lowered, tmp_path / "engine", "tensorrt")
    assert (tmp_path / "engine").stat().st_size > 1000


def as_numbers(outputs: dict[str, Array]) -> Array:
    (value,) = outputs.values()
    return value.astype(np.float32)


def test_16_bit_activations_become_floats(network: Any, tmp_path: Path) -> None:
    done = converted(in_integers(network, tmp_path / "net.tflite", "int16"))
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(done.model.operators())
    assert done.passed
    # So little do they round that a float graph is as near as one is to another.
    assert not any("8 or 16 bits" in note for note in done.notes)


SATURATING = {
    "pad": lambda x: tf.pad(x, [[0, 0], [1, 1], [0, 0], [0, 0]]),
    "sum": lambda x: tf.reduce_sum(x, 1),
    "softmax": tf.nn.softmax,
    "product": lambda x: x * x,
}


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("kind", SATURATING)
def test_16_bit_activations_are_cut_off_where_they_were(
    tmp_path: Path, kind: str, size: int
) -> None:
    """At what was calibrated: 8 samples here."""
    keras = tf.keras
    given = keras.Input((16, 16, 3), batch_size=1)
    network = keras.Model(given, keras.layers.Lambda(SATURATING[kind])(given))
    path = in_integers(network, tmp_path / "net.tflite", "int16")
    done = converted(path)
    (spec,) = done.model.inputs
    feeds = {spec.name: size * numbers(1, 16, 16, 3, seed=9)}
    with Original.of(path).run() as running, OnnxRuntime(done.model.to_onnx()) as session:
        expected, found = as_numbers(running.infer(feeds)), as_numbers(session.infer(feeds))
    # Steps of 16 bits, a few of them added up.
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4 * float(np.abs(expected).max()))
    if size > 1 and kind != "softmax":
        assert np.abs(found).max() < 0.9 * np.abs(SATURATING[kind](feeds[spec.name])).max()


def test_an_output_that_nothing_makes_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the interpreter answers where a delegate has not allocated it."""

    def unmade(index: int) -> Array:
        raise ValueError("Tensor data is null. Run allocate_tensors() first")

    from_function(tmp_path / "net.tflite", tf.nn.relu, (1, 4))
    with Original.of(tmp_path / "net.tflite").run() as running:
        monkeypatch.setattr(running._interpreter, "get_tensor", unmade)  # type: ignore[attr-defined]
        with pytest.raises(ModelError, match="can't run the model: Tensor data is null"):
            running.infer({each.name: np.zeros(each.shape, each.dtype) for each in running.inputs})


# --- options that tf2onnx leaves, or takes for something else


@pytest.mark.parametrize("beta", [1.0, 0.5, 3.0])
def test_the_factor_of_a_softmax_is_one_of_what_it_reads(tmp_path: Path, beta: float) -> None:
    file = File()
    source, target = file.tensor("x", (2, 5)), file.tensor("y", (2, 5))
    file.op("SOFTMAX", [source], [target], file.options("Softmax", beta=beta))
    path = file.save(tmp_path / "m.tflite", [source], [target])
    done = converted(path)
    x = 2 * numbers(2, 5)
    with OnnxRuntime(done.model.to_onnx()) as session:
        np.testing.assert_allclose(session.infer({"x": x})["y"], interpreted(path, x)[0], rtol=1e-5)


def test_a_reshape_may_have_its_shape_as_an_input_alone(tmp_path: Path) -> None:
    file = File()
    source, target = file.tensor("x", (2, 3, 4)), file.tensor("y", (2, 12))
    shape = file.tensor("shape", (2,), "INT32", np.array([2, -1], np.int32))
    file.op("RESHAPE", [source, shape], [target], file.options("Reshape"))
    converted(file.save(tmp_path / "m.tflite", [source], [target]))


@pytest.mark.parametrize("kind", ["ARG_MAX", "ARG_MIN"])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_an_axis_may_be_a_list_of_one(tmp_path: Path, kind: str, shape: tuple[int, ...]) -> None:
    file = File()
    source, target = file.tensor("x", (2, 3, 4)), file.tensor("y", (2, 4), "INT64")
    axis = file.tensor("axis", shape, "INT32", np.full(shape, 1, np.int32))
    name = "ArgMax" if kind == "ARG_MAX" else "ArgMin"
    options = file.options(name, outputType=file.schema.TensorType.INT64)
    file.op(kind, [source, axis], [target], options)
    converted(file.save(tmp_path / "m.tflite", [source], [target]))
