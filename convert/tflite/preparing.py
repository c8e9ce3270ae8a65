"""A TFLite model made ready for tf2onnx: what that leaves, gets wrong or can't say is rewritten.

In this order: the graph is cut at ``--outputs`` and ``--inputs``; variables become inputs and
outputs; sparse, packed and half-precision weights become plain constants, and so do int8 weights
that meet float activations; complex tensors become two; recurrent kernels get ONNX's weights;
biases and activations that are fused where tf2onnx does not look become operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert.tflite.complex import split_complex
from onnxgraft.stages.convert.tflite.reading import BODIES, Lite
from onnxgraft.stages.convert.tflite.recurrent import RECURRENT, fuse_sequences
from onnxgraft.stages.convert.tflite.survey import sound
from onnxgraft.stages.convert.tflite.variables import State, free_variables, told

__all__ = ["Prepared", "end_at", "in_floats", "prepare", "rewrite_custom"]

# Kernels that round float activations to 8 bits where their weights are int8.
_HYBRID = ("BATCH_MATMUL", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
_LAYERS = (*_HYBRID, "CONV_3D", "CONV_3D_TRANSPOSE")
# What weights are stored as, and what biases of layers are.
_STORED = ("INT16", "INT8", "UINT8")
_BIASES = ("INT32", "INT64")
# They pass on what is behind them, constants too.
_UNPACKING = ("DENSIFY", "DEQUANTIZE")
# What they make is within the range of what they read, if the scale is the same ...
_KEEPING = (
    "AVERAGE_POOL_2D", "BATCH_TO_SPACE_ND", "CONCATENATION", "DEPTH_TO_SPACE", "EXPAND_DIMS",
    "GATHER", "GATHER_ND", "MAXIMUM", "MAX_POOL_2D", "MINIMUM", "MIRROR_PAD", "PACK", "PAD",
    "RELU", "RESHAPE", "REVERSE_V2", "SLICE", "SPACE_TO_BATCH_ND", "SPACE_TO_DEPTH", "SPLIT",
    "SPLIT_V", "SQUEEZE", "STRIDED_SLICE", "TILE", "TRANSPOSE", "UNPACK",
)  # fmt: skip
# ... and what these make is within 1, for which 16 bits have room.
_BOUNDED = ("LOGISTIC", "SOFTMAX", "TANH")
# The whole numbers of 16 bits.
_LEAST, _MOST = -(1 << 15), (1 << 15) - 1

_Within = Callable[[Lite, Any, int, int, float], list[Any]]


@dataclass
class Prepared:
    """What was made of a model.

    Attributes:
        rounded: What the layers make whose kernels round float activations as they run.
        unproven: What recurrent kernels make that round their states too, as they run.
        states: The variables.
        notes: A sentence for each thing that was decided.
    """

    rounded: list[str] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def _drop_unused(lite: Lite, graph: Any) -> None:
    """Drop the operators that the outputs don't need."""
    wanted = set(graph.outputs)
    kept = []
    for operator in reversed(graph.operators):
        sets = lite.kind(operator) == "CALL_ONCE"  # it makes nothing, and sets variables
        if sets or wanted & set(operator.outputs):
            kept.append(operator)
            wanted |= set(operator.inputs)
    graph.operators = kept[::-1]


def prepare(
    lite: Lite,
    outputs: Sequence[str] = (),
    inputs: Sequence[str] = (),
    *,
    rounding: bool = False,
) -> Prepared:
    """Rewrite the model in place.

    Args:
        lite: The model.
        outputs: Where the main graph shall end; empty for its own outputs.
        inputs: Where it shall begin; empty for its own inputs.
        rounding: Write into the graph how TensorFlow's kernels round activations to 8 bits.

    Raises:
        InputError: No tensor has such a name.
        ModelError: The file is damaged.
        NotSupportedError: It has operators that ONNX can't say; they are named.
    """
    with sound(lite.file):
        return _prepared(lite, outputs, inputs, rounding)


def _prepared(
    lite: Lite, outputs: Sequence[str], inputs: Sequence[str], rounding: bool
) -> Prepared:
    done = Prepared()
    rewrite_custom(lite)
    end_at(lite, outputs)
    if inputs:
        _begin_at(lite, [lite.find(name) for name in inputs])
    names = lite.output_names()
    done.states = free_variables(lite, cut=bool(outputs))
    done.notes += told(done.states)
    _drop_unused(lite, lite.main)
    for graph in _reached(lite):
        _unpack(lite, graph)
        widened = _widen(lite, graph, done, _in_steps if rounding else _in_range)
        _dequantize(lite, graph, done, rounding, widened)
        split_complex(lite, graph)
        fuse_sequences(lite, graph)
        _separate(lite, graph)
    if any(_is_offset(lite, tensor) for tensor in lite.main.tensors):
        done.notes.append(
            "the model is quantized with zero points, which TensorRT lacks: for it, run onnxgraft "
            "surgery --for tensorrt, which moves them to 0"
        )
    _end_in(lite, [*names, *(state.after for state in done.states if state.after)])
    _drop_unused(lite, lite.main)
    return done


def end_at(lite: Lite, outputs: Sequence[str]) -> None:
    """Let the main graph end at tensors of these names, if there are any, and drop the rest."""
    if outputs:
        lite.main.outputs = list(dict.fromkeys(lite.find(name) for name in outputs))
        _drop_unused(lite, lite.main)


def _begin_at(lite: Lite, inputs: Sequence[int]) -> None:
    """Let tensors be inputs of the main graph: what would make them makes others."""
    main = lite.main
    for operator in main.operators:
        operator.outputs = [
            lite.like(index, f"{main.tensors[index].name}/unused") if index in inputs else index
            for index in operator.outputs
        ]
    _drop_unused(lite, main)
    read = {index for operator in main.operators for index in operator.inputs}
    main.inputs = [*inputs, *(i for i in main.inputs if i in read and i not in inputs)]


def rewrite_custom(lite: Lite) -> None:
    """Write MediaPipe's Convolution2DTransposeBias as TRANSPOSE_CONV, which computes the same.

    Its options are the two strides and the padding (1 is SAME) as they lie in memory.
    """
    for graph in lite.model.subgraphs:
        for place, operator in enumerate(graph.operators):
            if lite.kind(operator) != "Convolution2DTransposeBias" or not lite.is_custom(operator):
                continue
            source, weights, bias = operator.inputs
            padding, across, down = np.frombuffer(bytes(operator.customOptions), np.int32)[:3]
            batch, *sizes, _ = lite.shape(graph.tensors[source])
            depth, *kernel, _ = lite.shape(graph.tensors[weights])
            same = int(padding) == 1
            target = operator.outputs[0]
            size = [batch] + [
                step * old + (0 if same else max(reach - step, 0))
                for old, step, reach in zip(sizes, (int(down), int(across)), kernel, strict=True)
            ] + [depth]  # fmt: skip
            name = f"{graph.tensors[target].name}/shape"
            shape = lite.add_constant(np.array(size, np.int32), name, graph)
            options = lite.schema.TransposeConvOptionsT()
            options.strideW, options.strideH = int(across), int(down)
            paddings = lite.schema.Padding
            options.padding = paddings.SAME if same else paddings.VALID
            graph.operators[place] = lite.operator(
                "TRANSPOSE_CONV", [shape, weights, source, bias], [target], options, version=3
            )


def in_floats(lite: Lite) -> None:
    """Give layers with float activations and int8 weights the weights as floats."""
    for graph in lite.model.subgraphs:
        _unpack(lite, graph)
        widened = _widen(lite, graph, Prepared(), _between)
        _dequantize(lite, graph, Prepared(), rounding=False, widened=widened)


def _end_in(lite: Lite, names: Sequence[str]) -> None:
    """Let the main graph's outputs have these names, each of its own."""
    main = lite.main
    for place, (index, name) in enumerate(zip(main.outputs, names, strict=True)):
        tensor = main.tensors[index]
        if (
            tensor.name != name
            or index in main.outputs[:place]
            or index in main.inputs
            or lite.is_constant(tensor)
        ):
            for other in main.tensors:
                if other.name == name:
                    lite.rename(other, f"{name}/inner")
            main.outputs[place] = lite.copied(index, name)


def _reached(lite: Lite) -> list[Any]:
    """Return the main graph and the bodies that it runs, and forget all others."""
    graphs = lite.model.subgraphs
    reached, left = [lite.main], [lite.main]
    while left:
        for operator in left.pop().operators:
            for name in BODIES:
                number = getattr(operator.builtinOptions, name, None)
                if number is not None and not any(graphs[number] is graph for graph in reached):
                    reached.append(graphs[number])
                    left.append(graphs[number])
    for graph in graphs:
        if not any(graph is other for other in reached):
            graph.operators, graph.inputs, graph.outputs, graph.tensors = [], [], [], []
    return reached


def _unpack(lite: Lite, graph: Any) -> None:
    """Store constants densely, in types that ONNX has, and drop the operators that would do so."""
    replaced: dict[int, int] = {}
    kept = []
    for tensor in graph.tensors:
        if tensor.sparsity is None and lite.type_of(tensor) not in ("BFLOAT16", "INT4", "UINT4"):
            continue
        value = lite.constant(tensor)
        if value is not None:
            _store(lite, tensor, value)
    for operator in graph.operators:
        operator.inputs = [replaced.get(index, index) for index in operator.inputs]
        kind = lite.kind(operator)
        source = graph.tensors[operator.inputs[0]] if kind in _UNPACKING else None
        value = None if source is None else lite.constant(source)
        if source is None or value is None:
            kept.append(operator)
            continue
        target = operator.outputs[0]
        if kind == "DEQUANTIZE":
            value = _in_float(lite, source, value)
            _store(lite, graph.tensors[target], value)
        else:
            replaced[target] = operator.inputs[0]
    graph.operators = kept
    graph.outputs = [replaced.get(index, index) for index in graph.outputs]


def _store(lite: Lite, tensor: Any, value: Array) -> None:
    buffer = lite.schema.BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
    lite.model.buffers.append(buffer)
    tensor.buffer = len(lite.model.buffers) - 1
    tensor.sparsity = None
    lite.set_type(tensor, value.dtype.name.upper())
    tensor.shape = list(value.shape)


def _in_float(lite: Lite, tensor: Any, value: Array) -> Array:
    """Return what a constant's integers stand for, as TensorFlow's kernels compute it."""
    scales = lite.scales(tensor)
    if scales is None:
        return value.astype(np.float32)
    scale, zero = scales
    if scale.size > 1:
        shape = [1] * value.ndim
        shape[tensor.quantization.quantizedDimension] = scale.size
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return np.asarray((value.astype(np.int64) - zero).astype(np.float32) * scale, np.float32)


def _widen(lite: Lite, graph: Any, done: Prepared, within: _Within) -> set[int]:
    """Let 16-bit activations, which ONNX's QuantizeLinear lacks, be floats; return their numbers.

    Args:
        lite: The model.
        graph: Of it.
        done: Is told what is rounded.
        within: Writes what holds a tensor in the range of its 16 bits.

    Raises:
        NotSupportedError: An input or output of the model is one of them.
    """
    widened: dict[int, float] = {}
    for index, tensor in enumerate(graph.tensors):
        scales = lite.scales(tensor)
        if lite.type_of(tensor) != "INT16" or scales is None or lite.is_constant(tensor):
            continue
        if graph is lite.main and index in (*graph.inputs, *graph.outputs):
            raise NotSupportedError(
                f"{lite.file}: {tensor.name!r} is 16-bit, as no input or output of an ONNX graph "
                "is quantized; convert the network again with float inputs and outputs"
            )
        widened[index] = float(scales[0][0])
        lite.set_type(tensor, "FLOAT32")
        tensor.quantization = None
    moved: dict[int, int] = {}
    written = []
    for operator in graph.operators:
        operator.inputs = [moved.get(index, index) for index in operator.inputs]
        source = graph.tensors[operator.inputs[0]] if operator.inputs else None
        passes = lite.kind(operator) in ("DEQUANTIZE", "QUANTIZE") and source is not None
        target = operator.outputs[0] if operator.outputs else -1
        if passes and lite.type_of(graph.tensors[target]) == "FLOAT32" == lite.type_of(source):
            if target not in widened:
                moved[target] = operator.inputs[0]
            else:
                written += within(lite, graph, operator.inputs[0], target, widened[target])
            continue
        if passes and target in widened:
            operator = lite.operator("DEQUANTIZE", operator.inputs, operator.outputs)
        written.append(operator)
        read = {widened[index] for index in operator.inputs if index in widened}
        for place, made in enumerate(operator.outputs):
            if made not in widened:
                continue
            done.rounded.append(graph.tensors[made].name)
            kept = lite.kind(operator) in _KEEPING and read == {widened[made]}
            if within is _in_steps or not (kept or lite.kind(operator) in _BOUNDED):
                inner = lite.like(made, f"{graph.tensors[made].name}/before", graph)
                operator.outputs[place] = inner
                written += within(lite, graph, inner, made, widened[made])
    graph.operators = written
    graph.outputs = [moved.get(index, index) for index in graph.outputs]
    return set(widened)


def _in_steps(lite: Lite, graph: Any, source: int, target: int, scale: float) -> list[Any]:
    """Return an operator that rounds a tensor to the steps of 16 bits, within their range."""
    return [lite.operator("GRAFT_STEPS", [source], [target], {"scale": scale})]


def _in_range(lite: Lite, graph: Any, source: int, target: int, scale: float) -> list[Any]:
    """Return an operator that cuts off what is beyond the range of 16 bits."""
    bounds = {"low": _LEAST * scale, "high": _MOST * scale}
    return [lite.operator("GRAFT_CLIP", [source], [target], bounds)]


def _between(lite: Lite, graph: Any, source: int, target: int, scale: float) -> list[Any]:
    """Return TensorFlow's own operators that do so."""
    name = graph.tensors[target].name
    below = lite.like(target, f"{name}/below", graph)
    written = []
    for kind, end, given, made in (
        ("MINIMUM", _MOST, source, below),
        ("MAXIMUM", _LEAST, below, target),
    ):
        limit = lite.add_constant(np.array(end * scale, np.float32), f"{name}/{kind}", graph)
        options = lite.schema.MaximumMinimumOptionsT()
        written.append(lite.operator(kind, [given, limit], [made], options))
    return written


def _dequantize(lite: Lite, graph: Any, done: Prepared, rounding: bool, widened: set[int]) -> None:
    """Give layers with float activations and integer weights the weights as floats."""
    made: dict[int, int] = {}
    written = []
    for operator in graph.operators:
        kind = lite.kind(operator)
        types = {lite.type_of(graph.tensors[index]) for index in operator.outputs if index >= 0}
        if types == {"FLOAT32"} and kind not in ("DEQUANTIZE", "WHILE", "IF"):
            kinds = (*_STORED, *_BIASES) if kind in _LAYERS else _STORED
            stored = [
                i for i in operator.inputs if i >= 0 and _is_stored(lite, graph.tensors[i], kinds)
            ]
            if stored and kind in RECURRENT:
                done.unproven.append(graph.tensors[operator.outputs[0]].name)
            if stored and kind in _HYBRID and not widened & {operator.inputs[0], *operator.outputs}:
                done.rounded.append(graph.tensors[operator.outputs[0]].name)
                if rounding:
                    written.append(_rounded(lite, graph, operator, kind))
                if hasattr(operator.builtinOptions, "asymmetricQuantizeInputs"):
                    operator.builtinOptions.asymmetricQuantizeInputs = False
            for index in stored:
                if index not in made:
                    tensor = graph.tensors[index]
                    value = lite.constant(tensor)
                    assert value is not None
                    made[index] = lite.add_constant(
                        _in_float(lite, tensor, value), tensor.name, graph
                    )
            operator.inputs = [made.get(i, i) if i in stored else i for i in operator.inputs]
        written.append(operator)
    graph.operators = written


def _is_offset(lite: Lite, tensor: Any) -> bool:
    """Tell whether a tensor has 8 bits and a zero point."""
    scales = lite.scales(tensor)
    return bool(scales and scales[1].any() and lite.type_of(tensor) in ("INT8", "UINT8"))


def _is_stored(lite: Lite, tensor: Any, kinds: Sequence[str]) -> bool:
    return (
        lite.type_of(tensor) in kinds
        and lite.scales(tensor) is not None
        and lite.is_constant(tensor)
    )


def _rounded(lite: Lite, graph: Any, operator: Any, kind: str) -> Any:
    """Return an operator that rounds what a layer reads as the layer's kernel does."""
    place = 2 if kind == "TRANSPOSE_CONV" else 0
    source = operator.inputs[place]
    tensor, weights = graph.tensors[source], graph.tensors[operator.inputs[1]]
    if "CONV" in kind:
        scales = lite.scales(weights)
        depth, symmetric = 0, kind == "CONV_2D" and scales is not None and scales[0].size == 1
    else:
        depth = int((weights if kind == "FULLY_CONNECTED" else tensor).shape[-1])
        symmetric = not operator.builtinOptions.asymmetricQuantizeInputs
    target = lite.like(source, f"{tensor.name}/rounded", graph)
    operator.inputs[place] = target
    options = {"depth": depth, "symmetric": int(symmetric)}
    return lite.operator("GRAFT_ROUNDING", [source], [target], options)


def _separate(lite: Lite, graph: Any) -> None:
    """Write fused activations and biases that tf2onnx does not know as operators of their own."""
    none = lite.schema.ActivationFunctionType.NONE
    clipped = lite.schema.ActivationFunctionType.RELU_N1_TO_1
    written: list[Any] = []
    for operator in graph.operators:
        kind, options = lite.kind(operator), operator.builtinOptions
        fused = getattr(options, "fusedActivationFunction", none)
        after: list[Any] = []
        if kind == "CONCATENATION":  # whose kernel has none
            options.fusedActivationFunction = none
        elif fused == clipped and kind not in _RECURRENT:
            after = [_clipped(lite, graph, operator)]
            options.fusedActivationFunction = none
        if kind == "TRANSPOSE_CONV":
            _reach_with_zeros(lite, graph, operator)
        if kind == "TRANSPOSE_CONV" and len(operator.inputs) > 3:
            bias = operator.inputs.pop()
            if bias >= 0:
                after = [_bias(lite, graph, operator, bias), *after]
        elif kind in _CLIPS:
            low, high = _CLIPS[kind]
            bounds = {"low": low, "high": high}
            operator = lite.operator("GRAFT_CLIP", operator.inputs, operator.outputs, bounds)
        elif kind == "SOFTMAX" and lite.type_of(graph.tensors[operator.inputs[0]]) == "FLOAT32":
            written += _sharpened(lite, graph, operator)
        elif kind in ("ARG_MAX", "ARG_MIN"):
            operator.inputs[1] = _as_number(lite, graph, operator.inputs[1])
        elif kind == "TFLite_Detection_PostProcess":
            operator = _detection(lite, operator)
        elif kind == "EMBEDDING_LOOKUP":
            table = lite.schema.GatherOptionsT()
            operator = lite.operator("GATHER", operator.inputs[::-1], operator.outputs, table)
        elif kind == "WHILE":
            # tf2onnx takes each input's shape from the first output of what makes it.
            several = {i for other in written for i in other.outputs if len(other.outputs) > 1}
            for place, index in enumerate(operator.inputs):
                if index in several:
                    target = lite.like(index, f"{graph.tensors[index].name}/copy", graph)
                    written.append(lite.operator("GRAFT_COPY", [index], [target]))
                    operator.inputs[place] = target
        written += [operator, *after]
    graph.operators = written


def _reach_with_zeros(lite: Lite, graph: Any, operator: Any) -> None:
    """Add zeros behind a kernel that does not reach the output: ONNX would want a negative pad."""
    weights = graph.tensors[operator.inputs[1]]
    source, target = graph.tensors[operator.inputs[2]], graph.tensors[operator.outputs[0]]
    kernel, told = lite.constant(weights), operator.builtinOptions
    if kernel is None:
        return
    short = [
        max(0, target.shape[axis] - stride * (source.shape[axis] - 1) - kernel.shape[axis])
        for axis, stride in ((1, told.strideH), (2, told.strideW))
    ]
    if any(short):
        scales = lite.scales(weights)
        zero = 0 if scales is None else int(scales[1][0])
        pads = [(0, 0), (0, short[0]), (0, short[1]), (0, 0)]
        widened = np.pad(kernel, pads, constant_values=zero)
        index = lite.add_constant(widened, f"{weights.name}/with_zeros", graph)
        graph.tensors[index].quantization = weights.quantization
        operator.inputs = [operator.inputs[0], index, *operator.inputs[2:]]


def _detection(lite: Lite, operator: Any) -> Any:
    """Return the operator that is lowered in place of TFLite_Detection_PostProcess."""
    from flatbuffers import flexbuffers

    options = flexbuffers.Loads(bytes(operator.customOptions))
    if not options.get("use_regular_nms") and options.get("max_classes_per_detection", 1) > 1:
        raise NotSupportedError(
            f"{lite.file}: TFLite_Detection_PostProcess with several classes for a box "
            f"(max_classes_per_detection {options['max_classes_per_detection']}) can't be written "
            "in ONNX; export it with use_regular_nms, or cut the graph before it with --outputs"
        )
    if options["max_detections"] > _MOST_DETECTIONS:
        raise NotSupportedError(
            f"{lite.file}: TFLite_Detection_PostProcess gives {options['max_detections']} boxes, "
            f"and {_MOST_DETECTIONS} are the most that are written; cut the graph before it with "
            "--outputs"
        )
    kept = {name: value for name, value in options.items() if not name.startswith("_")}
    return lite.operator("GRAFT_DETECTION", operator.inputs, operator.outputs, kept)


# Rows of nothing are constants.
_MOST_DETECTIONS = 100_000
# Activations that are a range.
_CLIPS = {"RELU_0_TO_1": (0.0, 1.0), "RELU_N1_TO_1": (-1.0, 1.0)}
# Theirs is that of the cell.
_RECURRENT = (
    "BIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_RNN", "LSTM", "RNN", "SVDF",
    "UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN",
)  # fmt: skip


def _sharpened(lite: Lite, graph: Any, operator: Any) -> list[Any]:
    """Take the factor of a softmax out of its options; return what multiplies by it before."""
    beta, source = operator.builtinOptions.beta, operator.inputs[0]
    if beta == 1:
        return []
    name = graph.tensors[source].name
    target = lite.like(source, f"{name}/times_beta", graph)
    factor = lite.add_constant(np.array(beta, np.float32), f"{name}/beta", graph)
    operator.builtinOptions.beta, operator.inputs[0] = 1.0, target
    options = lite.schema.MulOptionsT()
    return [lite.operator("MUL", [source, factor], [target], options)]


def _as_number(lite: Lite, graph: Any, axis: int) -> int:
    """Return a constant that is a number where it is a list of one: tf2onnx takes no list."""
    tensor = graph.tensors[axis]
    value = lite.constant(tensor)
    if value is None or value.shape != (1,):
        return axis
    return lite.add_constant(value.reshape(()), f"{tensor.name}/number", graph)


def _clipped(lite: Lite, graph: Any, operator: Any) -> Any:
    """Return the operator of a fused RELU_N1_TO_1, behind ``operator``."""
    low, high = _CLIPS["RELU_N1_TO_1"]
    inner, target = _before_output(lite, graph, operator)
    return lite.operator("GRAFT_CLIP", [inner], [target], {"low": low, "high": high})


def _bias(lite: Lite, graph: Any, operator: Any, bias: int) -> Any:
    """Return the addition of a transposed convolution's bias, with its fused activation."""
    inner, target = _before_output(lite, graph, operator)
    tensor = graph.tensors[inner]
    if lite.type_of(tensor) != "FLOAT32":  # integer kernels round after the bias
        tensor.quantization = None
        lite.set_type(tensor, "FLOAT32")
    options = lite.schema.AddOptionsT()
    options.fusedActivationFunction = operator.builtinOptions.fusedActivationFunction
    operator.builtinOptions.fusedActivationFunction = lite.schema.ActivationFunctionType.NONE
    return lite.operator("ADD", [inner, bias], [target], options)


def _before_output(lite: Lite, graph: Any, operator: Any) -> tuple[int, int]:
    """Let an operator make a new tensor like its output; return the numbers of both."""
    target = operator.outputs[0]
    like = graph.tensors[target]
    inner = lite.like(target, f"{like.name}/before", graph)
    operator.outputs = [inner, *operator.outputs[1:]]
    return inner, target
