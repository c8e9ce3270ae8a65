"""Layers that combine their inputs with each other or with weights: dense ones and sums.

Source: Caffe's inner_product_layer.cpp, embed_layer.cpp, eltwise_layer.cpp, and the forks' Axpy;
tanghy2016/caffe's inner_product_layer.cpp (normalize).
"""

from __future__ import annotations

import numpy as np

from onnxgraft.stages.convert.caffe.layers.emitter import (
    FREE,
    BatchIsFixed,
    Blob,
    Emitter,
    axis_of,
    count,
)
from onnxgraft.stages.convert.caffe.reading.net import Layer

__all__ = ["axpy", "eltwise", "embed", "inner_product"]


def inner_product(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert InnerProduct: what comes from ``axis`` on is flattened and multiplied.

    With ``normalize`` (NormFace) each row of the weights has the length 1.
    """
    [x] = bottoms
    parameter = layer.parameter("inner_product_param")
    axis = axis_of(layer, parameter.integer("axis", 1), x.rank)
    if FREE in x.shape[axis:]:
        raise BatchIsFixed
    filters, features = parameter.integer("num_output"), count(x.shape[axis:])
    out.check(filters >= 1, "num_output is impossible")
    transposed = parameter.flag("transpose", False)
    shape = (features, filters) if transposed else (filters, features)
    weight = out.weight(0, shape, "weight_filler")
    if parameter.flag("normalize", False):
        # By rows of the buffer, also where it is stored transposed.
        rows = weight.reshape(filters, features).astype(np.float64)
        norm = np.sqrt((rows**2).sum(axis=1, keepdims=True) + 1e-6)
        weight = (rows / norm).astype(np.float32).reshape(shape)
    biased = parameter.flag("bias_term", True)
    bias = out.weight(1, (filters,), "bias_filler", what="biases") if biased else None
    flat = out.reshape(x, (*x.shape[:axis], features))
    if axis == 1:
        attrs = {"transB": int(not transposed)}
        return [out.op("Gemm", [flat, weight, bias], (x.shape[0], filters), attrs)]
    matrix = weight if transposed else weight.T
    y = out.op("MatMul", [flat, matrix], (*x.shape[:axis], filters))
    return [y if bias is None else out.binary("Add", y, bias)]


def embed(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Embed: the row of a table for each index."""
    [x] = bottoms
    parameter = layer.parameter("embed_param")
    size, rows = parameter.integer("num_output"), parameter.integer("input_dim")
    table = out.weight(0, (rows, size), "weight_filler")
    index = out.op("Cast", [x], x.shape, {"to": 7}, dtype=np.int64)
    y = out.op("Gather", [table, index], (*x.shape, size), {"axis": 0})
    if not parameter.flag("bias_term", True):
        return [y]
    return [out.binary("Add", y, out.weight(1, (size,), "bias_filler", what="biases"))]


def eltwise(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Eltwise: PROD, SUM (each input with a coefficient) or MAX of any number of inputs."""
    parameter = layer.parameter("eltwise_param")
    operation = parameter.choice("operation", "SUM", ("PROD", "SUM", "MAX"))
    shapes = {blob.shape for blob in bottoms}
    out.check(len(shapes) == 1, f"its inputs differ in shape: {sorted(shapes)}")
    coefficients = parameter.numbers("coeff") or [1.0] * len(bottoms)
    matching = len(coefficients) == len(bottoms)
    out.check(matching, f"{len(coefficients)} coefficients for {len(bottoms)} inputs")
    if operation == "MAX":
        return [out.op("Max", bottoms, bottoms[0].shape)]
    out.check(operation in ("PROD", "SUM"), f"the operation {operation} is unknown")
    if operation == "PROD":
        total = bottoms[0]
        for blob in bottoms[1:]:
            total = out.binary("Mul", total, blob)
        return [total if len(bottoms) > 1 else out.unary("Identity", total)]
    terms = list(zip(bottoms, coefficients, strict=True))
    blob, first = terms[0]
    total = blob if first == 1.0 else out.binary("Mul", blob, first)
    for blob, coefficient in terms[1:]:
        if coefficient == -1.0:
            total = out.binary("Sub", total, blob)
        else:
            term = blob if coefficient == 1.0 else out.binary("Mul", blob, coefficient)
            total = out.binary("Add", total, term)
    return [total if len(bottoms) > 1 or first != 1.0 else out.unary("Identity", total)]


def axpy(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Axpy (SENet): a x + y, with one a for each channel."""
    out.check(len(bottoms) == 3, "it needs a scale and two blobs")
    a, x, y = bottoms
    a = out.reshape(a, (*a.shape[:2], *[1] * (x.rank - 2)))
    return [out.binary("Add", out.binary("Mul", x, a), y)]
