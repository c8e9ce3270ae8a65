"""TFLite files as ONNX, lowered by tf2onnx."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from onnxgraft.errors import ModelError, NotSupportedError, OnnxgraftError, reason_in
from onnxgraft.files import sha256
from onnxgraft.graph.model import Model, Origin, Source
from onnxgraft.optional import optional
from onnxgraft.stages.convert.tensorflow.lower.by_tf2onnx import by_tf2onnx
from onnxgraft.stages.convert.tensorflow.lower.lowering import check_operators, raise_refused
from onnxgraft.stages.convert.tensorflow.lower.operators import OPERATORS, handlers
from onnxgraft.stages.convert.tensorflow.quiet import quiet
from onnxgraft.stages.convert.tflite.operators import OWN, own_handlers
from onnxgraft.stages.convert.tflite.preparing import Prepared, prepare
from onnxgraft.stages.convert.tflite.reading import Lite, read_tflite
from onnxgraft.stages.convert.tflite.sizes import check_sizes
from onnxgraft.stages.convert.tflite.survey import sound

__all__ = ["lower_tflite", "unsupported"]


def lower_tflite(
    path: str | os.PathLike[str],
    opset: int,
    outputs: Sequence[str] = (),
    inputs: Sequence[str] = (),
    *,
    signature: str | None = None,
    rounding: bool = False,
) -> tuple[Model, Prepared]:
    """Return the model as ONNX, and what was decided.

    Args:
        path: The file.
        opset: Of the ONNX graph.
        outputs: The tensors to end at; empty for the model's own outputs.
        inputs: The tensors to begin at; empty for the model's own inputs.
        signature: The signature whose graph is converted; None takes the first graph.
        rounding: Write into the graph how TensorFlow's kernels round activations to 8 bits.

    Raises:
        ModelError: The file is damaged, or tf2onnx can't convert it.
        NotSupportedError: It has operators that can't be lowered; they are named.
    """
    lite = read_tflite(path, signature)
    others = lite.signatures() if signature is None else {}
    with sound(lite.file):
        check_sizes(lite, settle_shapes(lite))
        done = prepare(lite, outputs, inputs, rounding=rounding)
        refuse(lite)
        proto = _to_onnx(lite, opset)
    if len(others) > 1:
        done.notes.append(
            f"the first graph was converted; --signature takes others: {', '.join(others)}"
        )
    check_operators(os.fspath(path), proto)
    for value in (*proto.graph.input, *proto.graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param.startswith("unk__"):
                dim.dim_param = "N" if axis == 0 else f"{value.name}.{axis}"
    del proto.graph.value_info[:]
    names = {value.name: Origin(value.name) for value in (*proto.graph.input, *proto.graph.output)}
    source = Source(os.fspath(path), "tensorflow", sha256(lite.file))
    return Model.from_onnx(proto, source, names), done


def _to_onnx(lite: Lite, opset: int) -> onnx.ModelProto:
    """Return what tf2onnx makes of a prepared model, unchecked."""
    refused: dict[str, OnnxgraftError] = {}
    with tempfile.TemporaryDirectory(prefix="onnxgraft-") as folder, quiet():
        prepared = Path(folder, "prepared.tflite")
        prepared.write_bytes(lite.packed())
        try:
            proto = by_tf2onnx(
                None,
                refused.clear,
                tflite_path=os.fspath(prepared),
                opset=opset,
                custom_op_handlers=handlers(refused) | own_handlers(),
            )
        except OnnxgraftError:
            raise
        except Exception as error:  # the FlatBuffer reader raises whatever it meets
            raise ModelError(
                f"{lite.file}: tf2onnx can't convert the model: {reason_in(error)}"
            ) from error
    raise_refused(lite.file, proto, refused)
    return proto


def settle_shapes(lite: Lite) -> list[dict[str, Any]]:
    """Write the shapes that TensorFlow's interpreter finds: those of a file can be wrong.

    Returns:
        What it tells of each tensor; nothing where it lacks an operator.
    """
    from onnxgraft.stages.convert.tflite.running import interpreter

    with quiet():
        try:
            running = interpreter(lite.packed())
            running.allocate_tensors()
            found = running.get_tensor_details()
        except (ValueError, RuntimeError):  # an operator of TensorFlow's or the user's own
            return []
    for entry in found:
        index = entry["index"]
        if index < len(lite.main.tensors):
            tensor = lite.main.tensors[index]
            if lite.constant(tensor) is None:
                tensor.shape = [int(dim) for dim in entry["shape"]]
                tensor.shapeSignature = [int(dim) for dim in entry["shape_signature"]]
    return list(found)


def refuse(lite: Lite) -> None:
    """Raise NotSupportedError if operators are left that can't be lowered; they are named."""
    kinds = {lite.kind(operator) for graph in lite.model.subgraphs for operator in graph.operators}
    lists = sorted(kind for kind in kinds if kind.startswith("FlexTensorList"))
    if lists:
        raise NotSupportedError(
            f"{lite.file}: {', '.join(lists[:3])}: a loop over lists of TensorFlow's own; convert "
            "the network to TFLite with a fixed batch size, which writes plain loops"
        )
    told = unsupported(lite)
    if told:
        raise NotSupportedError(
            f"{lite.file}: no ONNX operators for {', '.join(told[:5])}"
            f"{', ...' if len(told) > 5 else ''}; cut the graph before them with --outputs"
        )


def unsupported(lite: Lite) -> list[str]:
    """Return the operators of a prepared model that can't be lowered, and what they make."""
    known = {f"TFL_{name}" for name in OWN} | set(OPERATORS) | _lowered()
    found = []
    for graph in lite.model.subgraphs:
        for operator in graph.operators:
            kind = lite.kind(operator)
            if f"TFL_{kind}" in known or kind.startswith("Flex"):
                continue
            made = graph.tensors[operator.outputs[0]].name if operator.outputs else graph.name
            word = "the custom operator " if lite.is_custom(operator) else ""
            found.append(f"{word}{kind} ({made})")
    return found


def _lowered() -> set[str]:
    """Return TFLite's operators that tf2onnx lowers."""
    with optional("Converting a TFLite model", "tensorflow"):
        import tf2onnx.tfonnx  # its handlers register themselves
        from tf2onnx.handler import tf_op
    del tf2onnx
    tables = [table for opsets in tf_op.get_opsets().values() for table in opsets if table]
    return {str(name) for table in tables for name in table}
