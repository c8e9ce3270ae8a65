"""Inputs that sizes are computed of, which no large numbers may be fed to."""

import onnx
import pytest

from onnxgraft.graph.sizing import _SIZES, inputs_that_size
from tests.conftest import model_of


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Reshape(x, n)", {"n"}),
        ("m = Mul(n, n)  y = Expand(x, m)", {"n"}),
        ("f = Cast<to = 1>(n)  g = Floor(f)  m = Cast<to = 7>(g)  y = Tile(x, m)", {"n"}),
        (("y = If (c) <then_branch = a () => (float[M] p) { p = Reshape(x, n) },"
         " else_branch = b () => (float[M] q) { q = Identity(x) }>"), {"c", "n"}),
        ("f = Cast<to = 1>(n)  y = Mul(x, f)", set()),
        ("q = Shape(n)  y = Expand(x, q)", set()),
        ("i = Unsqueeze(n, a)  y = Reshape(x, s)", set()),
    ],
    ids=["shape", "computed", "by way of floats", "before a body", "a factor", "its shape alone",
         "another's shape"],
)  # fmt: skip
def test_inputs_that_size_are_found(body: str, expected: set[str]) -> None:
    model = model_of(
        f"net (float[N] x, int64[1] n, bool c) => (float[M] y)"
        f" <int64[1] a = {{0}}, int64[1] s = {{-1}}> {{ {body} }}"
    )
    assert inputs_that_size(model.graph) == expected


# What reads whole numbers alone, and makes nothing larger by them.
OF_NO_SIZE = {
    "Attention": {6},
    "BitShift": {0, 1},
    "BitwiseAnd": {0, 1},
    "BitwiseNot": {0},
    "BitwiseOr": {0, 1},
    "BitwiseXor": {0, 1},
    "Col2Im": {2},
    "ConvInteger": {0, 1, 2, 3},
    "CumProd": {1},
    "CumSum": {1},
    "DFT": {2},
    "DequantizeLinear": {0, 2},
    "GRU": {4},
    "Gather": {1},
    "GatherElements": {1},
    "GatherND": {1},
    "ImageDecoder": {0},
    "LSTM": {4},
    "Loop": {0},
    "MatMulInteger": {0, 1, 2, 3},
    "MaxUnpool": {1},
    "MelWeightMatrix": {2},
    "NegativeLogLikelihoodLoss": {1},
    "Pad": {3},
    "QLinearConv": {0, 2, 3, 5, 7, 8},
    "QLinearMatMul": {0, 2, 3, 5, 7},
    "QuantizeLinear": {2},
    "RNN": {4},
    "ReverseSequence": {1},
    "RoiAlign": {2},
    "RotaryEmbedding": {3},
    "Scan": {0},
    "Scatter": {1},
    "ScatterElements": {1},
    "ScatterND": {1},
    "SequenceAt": {1},
    "SequenceErase": {1},
    "SequenceInsert": {2},
    "Slice": {3},
    "SoftmaxCrossEntropyLoss": {1},
    "Split": {1},
    "SplitToSequence": {1},
    "Squeeze": {1},
    "TensorScatter": {2},
}


def test_each_input_of_whole_numbers_of_each_operator_is_judged() -> None:
    unjudged = []
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain or schema.deprecated or schema.name.startswith("Reduce"):
            continue
        known = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
        for place, given in enumerate(schema.inputs):
            types = known.get(given.type_str, {given.type_str})
            whole = all(kind.startswith(("tensor(int", "tensor(uint")) for kind in types)
            judged = {*_SIZES.get(schema.name, ()), *OF_NO_SIZE.get(schema.name, ())}
            if whole and place not in judged:
                unjudged.append((schema.name, schema.since_version, place, given.name))
    assert unjudged == []
