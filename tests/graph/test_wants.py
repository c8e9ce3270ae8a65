"""What a graph says of its inputs: tables, masks and lengths, found through other operators."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxgraft.graph.model import Model, Source
from onnxgraft.graph.wants import Indices, Wants, wants_of
from onnxgraft.run.session import OnnxRuntime

TABLE = "<float[3,2] t = {1,2,3,4,5,6}>"
ROWS = (Indices(-1, 2),)


def proto(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17, "own" : 1]>\n{text}')


def wants(text: str) -> Wants:
    return wants_of(Model.from_onnx(proto(text), Source("g", "onnx", "")).graph)


@pytest.mark.parametrize(
    "steps",
    [
        "i = Identity(x)",
        "i = Cast<to = 7>(x)",
        "a = Constant<value_ints = [1]>() u = Unsqueeze(x, a) i = Squeeze(u, a)",
        "s = Constant<value_ints = [-1]>() i = Reshape(x, s)",
        "i = Transpose(x)",
        "i = Concat<axis = 0>(x, x)",
        "b = Constant<value_ints = [0]>() e = Constant<value_ints = [1]>() i = Slice(x, b, e)",
        "i, j = Split<axis = 1>(x)",
    ],
    ids=lambda steps: steps.split(" = ")[-1].split("(")[0].split("<")[0],
)
def test_an_index_is_followed_through(steps: str) -> None:
    body = " ".join(f"{step}" for step in steps.split("\n"))
    assert wants(
        f"g (int64[N,4] x) => (float[?] y) {TABLE} {{ {body} y = Gather(t, i) }}"
    ).indices == {"x": ROWS}


def test_an_index_of_floats_is_followed_through_a_cast() -> None:
    # So Keras and Caffe feed their embeddings.
    found = wants(
        f"g (float[N,4] x) => (float[N,4,2] y) {TABLE} {{ i = Cast<to = 7>(x) y = Gather(t, i) }}"
    )
    assert found.indices == {"x": ROWS}


def test_an_index_is_found_in_a_branch() -> None:
    found = wants(f"""g (int64[N,4] x, bool c) => (float[N,4,2] y) {TABLE} {{
        y = If (c) <
            then_branch = a () => (float[N,4,2] p) {{ p = Gather(t, x) }},
            else_branch = b () => (float[N,4,2] q) {{ z = Identity(x) q = Gather(t, z) }}
        > }}""")
    assert found.indices == {"x": ROWS}


def test_an_index_is_found_behind_a_branch() -> None:
    found = wants(f"""g (int64[N,4] x, bool c) => (float[N,4,2] y) {TABLE} {{
        i = If (c) <
            then_branch = a () => (int64[N,4] p) {{ p = Identity(x) }},
            else_branch = b () => (int64[N,4] q) {{ q = Neg(x) }}
        >
        y = Gather(t, i) }}""")
    assert found.indices == {"x": ROWS}


def test_an_index_is_found_in_a_function_that_is_given_the_table() -> None:
    model = proto(f"g (int64[N,4] x) => (float[N,4,2] y) {TABLE} {{ y = own.look(t, x) }}")
    (function,) = [onnx.parser.parse_function(
        '<domain: "own", opset_import: ["" : 17]> look (a, b) => (c) { c = Gather(a, b) }'
    )]  # fmt: skip
    model.functions.append(function)
    graph = Model.from_onnx(model, Source("g", "onnx", "")).graph
    assert wants_of(graph).indices == {"x": ROWS}


def test_a_table_in_int8_has_its_rows() -> None:
    found = wants("""g (int64[N] x) => (float[N,2] y)
        <int8[3,2] t = {1,2,3,4,5,6}, float s = {0.5}> {
        d = DequantizeLinear(t, s) y = Gather(d, x) }""")
    assert found.indices == {"x": ROWS}


def test_a_table_of_a_free_size_is_that_of_the_other_input() -> None:
    found = wants("g (float[N,S,2] d, int64[K] x) => (float[N,K,2] y) "
                  "{ y = Gather<axis = 1>(d, x) }")  # fmt: skip
    assert found.indices == {"x": (Indices(-1, -1, "S"),)}


def test_lengths_of_a_recurrent_layer_are_within_its_sequence() -> None:
    found = wants("g (float[T,N,2] d, int32[N] n) => (float[T,N,2] y) "
                  "{ y = ReverseSequence<time_axis = 0, batch_axis = 1>(d, n) }")  # fmt: skip
    assert found.indices == {"n": (Indices(1, 0, "T"),)}


def test_what_is_subtracted_from_one_or_cast_to_a_boolean_is_a_mask() -> None:
    found = wants("""g (float[N,4] m, int64[N,4] b, int64[N,4] n) => (float[N,4] y, bool[N,4] z)
        <float one = {1}> { y = Sub(one, m) z = Cast<to = 9>(b) w = Neg(n) }""")
    assert found.masks == {"m", "b"}


def test_what_an_input_is_compared_with_is_special() -> None:
    found = wants("g (int64 rate) => (bool y) <int64 k = {16000}> { y = Equal(rate, k) }")
    assert found.special == {"rate": (16000,)}


LENGTHS = {
    "a reflecting pad": "q = Pad<mode = \"reflect\">(x, p) y = Identity(q)",
    "a kernel": "u = Unsqueeze(x, a) y = Conv<strides = [2]>(u, w)",
    "kernels after one another": "u = Unsqueeze(x, a) v = Conv<strides = [3]>(u, w) "
                                 "r = Relu(v) y = Conv<dilations = [2], pads = [1, 0]>(r, w)",
    "a pad, a kernel and a pool": "q = Pad<mode = \"reflect\">(x, p) u = Unsqueeze(q, a) "
                                  "v = Conv<strides = [4]>(u, w) y = "
                                  "MaxPool<kernel_shape = [3]>(v)",
}  # fmt: skip


@pytest.mark.parametrize("steps", LENGTHS.values(), ids=LENGTHS)
def test_the_least_length_is_where_onnxruntime_begins_to_run(steps: str) -> None:
    model = proto(f"""g (float[N,L] x) => (float[A,B,C] y)
        <int64[4] p = {{0,5,0,3}}, int64[1] a = {{1}}, float[1,1,7] w = {{1,1,1,1,1,1,1}}>
        {{ {steps} }}""")
    least = wants_of(Model.from_onnx(model, Source("g", "onnx", "")).graph).least["x", 1]
    with OnnxRuntime(model) as session:

        def runs(length: int) -> bool:
            try:
                (value,) = session.infer({"x": np.zeros((1, length), np.float32)}).values()
            except Exception:
                return False
            return value.size > 0

        assert runs(least)
        assert not any(map(runs, range(1, least)))
