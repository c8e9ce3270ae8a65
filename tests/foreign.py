"""Graphs in which an operator is of another domain, to run all the same."""

from __future__ import annotations

import numpy as np
import onnx

from onnxgraft.graph.model import Model, Source


def foreign(model: Model, name: str, domain: str = "acme") -> Model:
    """Return the model with the node that is called ``name`` as an operator of ``domain``.

    A function of the model does what ONNX's own operator does, so that onnxruntime can run it.
    """
    proto = model.to_onnx()
    node = next(node for node in proto.graph.node if node.name == name)
    body = onnx.NodeProto()
    body.CopyFrom(node)
    inner = [f"in_{index}" for index in range(len(node.input))]
    made = [f"out_{index}" for index in range(len(node.output))]
    body.input[:], body.output[:] = inner, made
    imports = [entry for entry in proto.opset_import if entry.domain == ""]
    proto.functions.append(
        onnx.helper.make_function(domain, node.op_type, inner, made, [body], imports)
    )
    proto.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    node.domain = domain
    del node.attribute[:]
    onnx.checker.check_model(proto)
    return Model.from_onnx(proto, model.source, dict(model.names))


def microsoft() -> Model:
    """Return a graph as onnxruntime's older tools quantized it: in a domain of their own."""
    proto = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
            [relu] r = Relu(x)
            [q] q = com.microsoft.QuantizeLinear(r, s, z)
            [dq] d = com.microsoft.DequantizeLinear(q, s, z)
            [conv] y = Conv(d, w)
        }
    """)
    weights = np.random.default_rng(0).standard_normal((4, 3, 1, 1))
    constants = {"s": np.float32(0.1), "z": np.uint8(0), "w": weights.astype(np.float32)}
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    return Model.from_onnx(proto, Source("test.onnx", "onnx", "0" * 64))
