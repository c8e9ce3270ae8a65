"""ONNX files of which a text is no UTF-8, as tools wrote comments in other encodings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxgraft.errors import ModelError
from onnxgraft.graph.model import Model
from onnxgraft.run.session import OnnxRuntime

# Stands for bytes that are no UTF-8 while the message is in Python, which takes none.
MARK = "QQQQ"


def model() -> onnx.ModelProto:
    """Return a model with a text in most fields that can have one."""
    proto: onnx.ModelProto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20, "d" : 1], producer_name: "p",
            producer_version: "v", domain: "m", doc_string: "text", metadata_props: ["k" : "v"]>
        g (float[N,3] x, bool c) => (float[N,3] y) {
            z = d.F <k = 2.0> (x)
            w = Add (z, one)
            y = If (c) <
                then_branch = a () => (float[N,3] u) { u = Abs (w) },
                else_branch = b () => (float[N,3] v) { v = Neg (w) }
            >
        }
        <opset_import: ["" : 20], domain: "d", doc_string: "text">
        F <k, l: float = 1.0> (a) => (b) { b = LeakyRelu <alpha: float = @k> (a) }"""
    )
    graph, function = proto.graph, proto.functions[0]
    graph.initializer.append(helper.make_tensor("one", onnx.TensorProto.FLOAT, [1], [1.0]))
    graph.value_info.append(helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, ["N", 3]))
    function.value_info.append(helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, None))
    noted: list[Any] = [
        graph, graph.node[0], graph.initializer[0], graph.input[0], graph.value_info[0],
        function.node[0], function.value_info[0],
    ]  # fmt: skip
    for attribute in graph.node[2].attribute:
        noted += [attribute.g, attribute.g.node[0]]
    for part in noted:
        part.doc_string = "text"
        part.metadata_props.add(key="k", value="v")
    graph.node[0].attribute[0].doc_string = "text"
    graph.node[0].name = "node"
    graph.input[0].type.denotation = "TENSOR"
    graph.input[0].type.tensor_type.shape.dim[1].denotation = "DATA_CHANNEL"
    annotation = graph.quantization_annotation.add(tensor_name="w")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="one")
    proto.training_info.add().algorithm.name = "step"
    proto.configuration.add(name="cpu", num_devices=1).device.append("cpu")
    graph.node[0].device_configurations.add().configuration_id = "cpu"
    return proto


def places(message: Any, path: str = "") -> list[tuple[str, Callable[[], None]]]:
    """Return the fields of a message that are texts, each with what puts the mark into it."""
    found: list[tuple[str, Callable[[], None]]] = []
    for field, value in message.ListFields():
        name = f"{path}.{field.name}"
        many = not isinstance(value, (str, bytes, int, float)) and not hasattr(value, "DESCRIPTOR")
        if field.type == field.TYPE_MESSAGE:
            for entry in value if many else [value]:
                found += places(entry, name)
        elif field.type == field.TYPE_STRING and many:
            for at, text in enumerate(value):
                found.append((name, partial(value.__setitem__, at, text + MARK)))
        elif field.type == field.TYPE_STRING:
            found.append((name, partial(setattr, message, field.name, value + MARK)))
    return found


def test_a_text_in_another_encoding_is_a_comment_or_refused(tmp_path: Path) -> None:
    feeds = {"x": np.ones((1, 3), np.float32), "c": np.array(True)}
    outcomes: Counter[str] = Counter()
    read = set()
    for number in range(len(places(model()))):
        proto = model()
        name, mark = places(proto)[number]
        mark()
        (tmp_path / "a.onnx").write_bytes(
            proto.SerializeToString().replace(MARK.encode(), "説明".encode("gbk"))
        )
        try:
            loaded = Model.load(tmp_path / "a.onnx")
            loaded.save(tmp_path / "b.onnx")
        except ModelError as error:
            assert "is no UTF-8" in str(error), name
            outcomes["refused"] += 1
            continue
        with OnnxRuntime(tmp_path / "b.onnx") as session:
            assert session.infer(feeds)["y"].tolist() == [[2.0] * 3], name
        outcomes["read"] += 1
        read.add(name)
    assert min(outcomes["refused"], outcomes["read"]) > 20
    comments = ("doc_string", "producer_name", "producer_version", "metadata_props.value")
    assert {f".{name}" for name in (*comments, "graph.doc_string")} <= read


def test_a_comment_in_another_encoding_stays_as_far_as_it_can_be_read(tmp_path: Path) -> None:
    proto = model()
    proto.graph.doc_string = f"before {MARK} after"
    (tmp_path / "a.onnx").write_bytes(
        proto.SerializeToString().replace(MARK.encode(), "説明".encode("gbk"))
    )
    Model.load(tmp_path / "a.onnx").save(tmp_path / "b.onnx")
    told = onnx.load(tmp_path / "b.onnx").graph.doc_string
    assert told.startswith("before ")
    assert told.endswith(" after")
    assert "\N{REPLACEMENT CHARACTER}" in told
