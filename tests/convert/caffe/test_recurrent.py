"""LSTM and RNN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.tensors import Array
from onnxgraft.run.session import OnnxRuntime
from tests.conftest import model_of
from tests.convert.caffe import reference_recurrent as reference
from tests.convert.caffe.net import (
    Case,
    assert_close,
    case,
    cases,
    check,
    check_or_refused,
    inputs,
    layer,
    load,
    normal,
    run,
)

STEPS, STREAMS, INPUTS, SIZE = 6, 3, 5, 4
X = normal(STEPS, STREAMS, INPUTS)
# Each stream begins its sequences elsewhere: the second has one alone.
CONT = np.ones((STEPS, STREAMS), np.float32)
CONT[0] = 0
CONT[3, 0] = CONT[1, 2] = CONT[4, 2] = 0
WEIGHT, BIAS, RECURRENT = normal(4 * SIZE, INPUTS), normal(4 * SIZE), normal(4 * SIZE, SIZE)
STATIC, STATIC_WEIGHT = normal(STREAMS, 2), normal(4 * SIZE, 2)
HIDDEN, CELL = normal(1, STREAMS, SIZE, seed=1), normal(1, STREAMS, SIZE, seed=2)
RNN = (
    normal(SIZE, INPUTS), normal(SIZE), normal(SIZE, SIZE), normal(7, SIZE), normal(7)
)  # fmt: skip
PARAMS = f"recurrent_param {{ num_output: {SIZE} }}"
EXPOSED = f"recurrent_param {{ num_output: {SIZE} expose_hidden: true }}"


def lstm(*feeds: Array, **how: Any) -> Array:
    return reference.lstm(*feeds, WEIGHT, BIAS, RECURRENT, **how)[0]


def recurrent(name: str, kind: str, params: str, function: Any, *feeds: Array, **more: Any) -> Case:
    """Return a case whose first axis is time, so that it is run whole."""
    more = {"opencv": "it takes neither cont nor gates in this order", **more}
    return case(name, kind, params, function, *feeds, batches=None, **more)


LSTMS = [
    recurrent("sequences_begin_where_cont_is_0", "LSTM", PARAMS, lstm, X, CONT,
              blobs=(WEIGHT, BIAS, RECURRENT)),
    recurrent("one_sequence", "LSTM", PARAMS, lstm, X, np.ones_like(CONT),
              blobs=(WEIGHT, BIAS, RECURRENT)),
    recurrent("every_step_a_sequence", "LSTM", PARAMS, lstm, X, np.zeros_like(CONT),
              blobs=(WEIGHT, BIAS, RECURRENT)),
    recurrent("one_step", "LSTM", PARAMS, lstm, X[:1], CONT[:1],
              blobs=(WEIGHT, BIAS, RECURRENT)),
    recurrent("x_of_four_axes", "LSTM", PARAMS, lstm, normal(STEPS, STREAMS, 1, INPUTS), CONT,
              blobs=(WEIGHT, BIAS, RECURRENT)),
    recurrent(
        "a_static_input", "LSTM", PARAMS,
        lambda x, cont, static: lstm(x, cont, static=static, static_weight=STATIC_WEIGHT),
        X, CONT, STATIC, blobs=(WEIGHT, BIAS, STATIC_WEIGHT, RECURRENT),
    ),
]  # fmt: skip

EXPOSING = [
    recurrent(
        "lstm", "LSTM", EXPOSED,
        lambda x, cont, h, c: reference.lstm(
            x, cont, WEIGHT, BIAS, RECURRENT, hidden=h, cell=c
        ),
        X, np.ones_like(CONT), HIDDEN, CELL, blobs=(WEIGHT, BIAS, RECURRENT), tops="y h c",
    ),
    recurrent(
        "lstm_with_sequences", "LSTM", EXPOSED,
        lambda x, cont, h, c: reference.lstm(
            x, cont, WEIGHT, BIAS, RECURRENT, hidden=h, cell=c
        ),
        X, CONT, HIDDEN, CELL, blobs=(WEIGHT, BIAS, RECURRENT), tops="y h c",
    ),
    recurrent(
        "rnn", "RNN", EXPOSED,
        lambda x, cont, h: reference.rnn(x, cont, *RNN, hidden=h),
        X, np.ones_like(CONT), HIDDEN, blobs=RNN, tops="y h",
    ),
]  # fmt: skip

SQUARE = (*RNN[:3], normal(SIZE, SIZE, seed=3), normal(SIZE))

RNNS = [
    recurrent("sequences_begin_where_cont_is_0", "RNN", PARAMS,
              lambda x, cont: reference.rnn(x, cont, *SQUARE)[0], X, CONT, blobs=SQUARE),
    recurrent("one_sequence", "RNN", PARAMS,
              lambda x, cont: reference.rnn(x, cont, *SQUARE)[0], X, np.ones_like(CONT),
              blobs=SQUARE),
    recurrent(
        "a_static_input", "RNN", PARAMS,
        lambda x, cont, static: reference.rnn(
            x, cont, *SQUARE, static=static, static_weight=normal(SIZE, 2)
        )[0],
        X, CONT, STATIC, blobs=(*SQUARE[:2], normal(SIZE, 2), *SQUARE[2:]),
    ),
]  # fmt: skip


def sequences(x: Array) -> Array:
    return lstm(x, np.ones(x.shape[:2]))


LSTM_PARAM = f"lstm_param {{ num_output: {SIZE} }}"
SEQUENCES = [
    recurrent("streams", "Lstm", LSTM_PARAM, sequences, X, blobs=(WEIGHT, RECURRENT, BIAS)),
    recurrent("one_step", "Lstm", LSTM_PARAM, sequences, X[:1], blobs=(WEIGHT, RECURRENT, BIAS)),
    recurrent("old_blobs", "Lstm", LSTM_PARAM, sequences, X,
              blobs=(WEIGHT.reshape(1, 4, SIZE, INPUTS), RECURRENT.reshape(1, 4, SIZE, SIZE),
                     BIAS.reshape(1, 1, 4, SIZE))),
    recurrent("rows_of_one_stream", "Lstm", LSTM_PARAM, lambda x: sequences(x[:, None])[:, 0],
              X[:, 0], blobs=(WEIGHT, RECURRENT, BIAS)),
    recurrent("rows_of_streams", "Lstm", f"lstm_param {{ num_output: {SIZE} batch_size: 2 }}",
              lambda x: sequences(x.reshape(3, 2, -1)).reshape(6, -1), X[:, 0],
              blobs=(WEIGHT, RECURRENT, BIAS)),
    recurrent("clip_marks_where_a_sequence_begins", "Lstm", LSTM_PARAM,
              lambda x, clip: lstm(x, clip != 0), X[:, :1], 2 * CONT[:, :1],
              blobs=(WEIGHT, RECURRENT, BIAS)),
    recurrent("clip_of_rows", "Lstm", LSTM_PARAM,
              lambda x, clip: lstm(x[:, None], clip[:, None] != 0)[:, 0], X[:, 0], CONT[:, 2],
              blobs=(WEIGHT, RECURRENT, BIAS)),
]  # fmt: skip


@cases(SEQUENCES)
def test_lstm_of_ctpn(case: Case) -> None:
    check(case)


def test_clip_of_several_streams_is_refused() -> None:
    text = inputs(x=X.shape, clip=CONT.shape) + layer("Lstm", "x clip", params=LSTM_PARAM)
    with pytest.raises(NotSupportedError, match="one stream"):
        load(text, {"it": ("Lstm", (WEIGHT, RECURRENT, BIAS))})


def test_a_sequence_forwards_and_backwards_as_crnn_has_it() -> None:
    params = f"continuation_indicator_param {{ time_step: {STEPS} batch_size: {STREAMS} }}"
    text = (
        inputs(x=X.shape)
        + layer("ContinuationIndicator", "", "cont", params, name="indicator")
        + layer("LSTM", "x cont", "f", PARAMS, name="forwards")
        + layer("Reverse", "x", "r", "reverse_param { axis: 0 }", name="reverse")
        + layer("LSTM", "r cont", "b", PARAMS, name="backwards")
        + layer("Reverse", "b", "br", name="again")
        + layer("Concat", "f br", "y", "concat_param { axis: 2 }", name="both")
    )
    blobs = ("LSTM", (WEIGHT, BIAS, RECURRENT))
    wide = X.astype(np.float64)
    expected = np.concatenate([sequences(wide), sequences(wide[::-1])[::-1]], axis=2)
    told = run(text, {"forwards": blobs, "backwards": blobs}, {"x": X})
    assert_close(told, {"y": expected})


def test_the_reference_is_onnx_s_lstm_with_its_gates_in_another_order() -> None:
    def reordered(weight: Array) -> Array:
        i, f, o, g = np.split(weight, 4)
        return np.concatenate([i, o, f, g])[None]

    model = model_of(
        f"""lstm (float[{STEPS},{STREAMS},{INPUTS}] x) => (float[T,N,S] y) {{
            all = LSTM <hidden_size = {SIZE}> (x, w, r, b)
            axis = Constant <value_ints = [1]> ()
            y = Squeeze (all, axis)
        }}""",
        {
            "w": reordered(WEIGHT),
            "r": reordered(RECURRENT),
            "b": np.concatenate([reordered(BIAS), reordered(0 * BIAS)], axis=1),
        },
    )
    with OnnxRuntime(model.to_onnx()) as session:
        actual = session.infer({"x": X})
    assert_close(actual, {"y": lstm(X.astype(np.float64), np.ones_like(CONT))})


@cases(LSTMS)
def test_lstm(case: Case) -> None:
    check(case)


@cases(RNNS)
def test_rnn_is_computed_or_refused(case: Case) -> None:
    check_or_refused(case)


@cases(EXPOSING)
def test_exposed_states_are_computed_or_refused(case: Case) -> None:
    check_or_refused(case)


@pytest.mark.parametrize("streams", [1, 3])
def test_two_lstms_and_a_dense_layer(streams: int) -> None:
    x, cont = normal(4, streams, INPUTS), np.ones((4, streams), np.float32)
    cont[0] = 0
    second = (normal(8, SIZE), normal(8), normal(8, 2))
    dense = (normal(3, 2), normal(3))
    text = (
        inputs(x=x.shape, cont=cont.shape)
        + layer("LSTM", "x cont", "h1", PARAMS, name="lstm1")
        + layer("LSTM", "h1 cont", "h2", "recurrent_param { num_output: 2 }", name="lstm2")
        + layer(
            "InnerProduct", "h2", "y", "inner_product_param { num_output: 3 axis: 2 }", name="ip"
        )
    )
    weights = {
        "lstm1": ("LSTM", (WEIGHT, BIAS, RECURRENT)),
        "lstm2": ("LSTM", second),
        "ip": ("InnerProduct", dense),
    }
    first = lstm(x.astype(np.float64), cont)
    expected = reference.lstm(first, cont, *second)[0] @ dense[0].T.astype(np.float64) + dense[1]
    assert_close(run(text, weights, {"x": x, "cont": cont}), {"y": expected})
