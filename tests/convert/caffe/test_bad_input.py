"""Damaged, mismatched and hostile files: each ends in a sentence or in a correct model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.caffemodel import caffemodel
from onnxgraft.errors import InputError, NotSupportedError
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.convert import Original

NET = """
name: "net"
input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 2 } }
"""
RNG = np.random.default_rng(0)
BLOBS = {
    "conv": ("Convolution", [RNG.normal(size=(4, 3, 3, 3)), RNG.normal(size=4)]),
    "ip": ("InnerProduct", [RNG.normal(size=(2, 144)), RNG.normal(size=2)]),
}
WEIGHTS = caffemodel(BLOBS)


def load(folder: Path, net: str | bytes = NET, weights: bytes | None = WEIGHTS, **options: str):  # type: ignore[no-untyped-def]
    """Write the files and convert them."""
    text = net.encode() if isinstance(net, str) else net
    (folder / "net.prototxt").write_bytes(text)
    if weights is not None:
        (folder / "net.caffemodel").write_bytes(weights)
    blobs = None if weights is None else folder / "net.caffemodel"
    return Original.of(folder / "net.prototxt", weights=blobs, **options).lower()[0]


def refused(folder: Path, words: str, *parts: object, **options: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        load(folder, *parts, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_the_net_itself_is_right(tmp_path: Path) -> None:
    model = load(tmp_path)
    with OnnxRuntime(model.to_onnx()) as session:
        assert session.infer(random_feeds(session.inputs, 2))["ip"].shape == (2, 2)


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.999])
def test_a_truncated_caffemodel_is_refused(tmp_path: Path, kept: float) -> None:
    refused(tmp_path, r"net\.caffemodel: .*cut short", NET, WEIGHTS[: int(kept * len(WEIGHTS))])


def test_a_file_that_is_no_caffemodel_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, r"net\.caffemodel: ", NET, b"this is a letter to a friend")


def test_an_empty_caffemodel_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "is empty", NET, b"")


def test_a_missing_brace_is_told_by_line_and_column(tmp_path: Path) -> None:
    text = NET.rstrip().removesuffix("}")
    refused(tmp_path, r"line 8, column \d+: the file ends, but the \{ of line 7", text)


def test_a_brace_too_many_is_told_by_line_and_column(tmp_path: Path) -> None:
    refused(tmp_path, r"line 9, column 1: a \} that closes nothing", NET + "}")


def test_a_binary_file_as_prototxt_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, r"net\.prototxt: ", b"\x80\xff\x00" * 50)


def test_a_word_where_a_number_belongs_is_told_by_its_place(tmp_path: Path) -> None:
    text = NET.replace("num_output: 4", "num_output: four")
    refused(tmp_path, r"line 5, column \d+: num_output is a number, not 'four'", text)


def test_weights_of_another_shape_name_layer_and_both_shapes(tmp_path: Path) -> None:
    other = dict(BLOBS, conv=("Convolution", [np.zeros((5, 3, 3, 3)), np.zeros(5)]))
    refused(
        tmp_path, r"Convolution 'conv'.*\(5, 3, 3, 3\), the net says \(4, 3, 3, 3\)", NET,
        caffemodel(other),
    )  # fmt: skip


def test_missing_weights_ask_for_the_caffemodel(tmp_path: Path) -> None:
    refused(tmp_path, r"Convolution 'conv'.*name a caffemodel that has them with --weights", NET,
            None)  # fmt: skip


def test_weights_with_something_else_than_a_prototxt_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pb").write_bytes(b"x")
    with pytest.raises(InputError, match="--weights goes with a Caffe prototxt alone"):
        Original.of(tmp_path / "x.pb", weights=tmp_path / "x.caffemodel").lower()


def test_a_caffemodel_in_place_of_the_prototxt_is_told(tmp_path: Path) -> None:
    (tmp_path / "net.caffemodel").write_bytes(WEIGHTS)
    with pytest.raises(InputError, match="name the prototxt first, and this with --weights"):
        Original.of(tmp_path / "net.caffemodel").lower()


def blob_of(shape: list[int], values: int) -> bytes:
    """Return a caffemodel whose only blob says ``shape`` and holds ``values`` values."""

    def varint(value: int) -> bytes:
        value &= (1 << 64) - 1
        out = bytearray()
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        return bytes([*out, value])

    def field(number: int, data: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(data)) + data

    dims = field(1, b"".join(varint(dim) for dim in shape))
    blob = field(7, dims) + field(5, bytes(4 * values))
    return field(100, field(1, b"conv") + field(2, b"Convolution") + field(7, blob))


@pytest.mark.parametrize(
    "shape",
    [[-1, 3, 3, 3], [1 << 40, 3, 3, 3], [1 << 31] * 4, [1] * 100, [4, 3, 3, 4]],
    ids=["negative", "huge", "huge_product", "many_axes", "not_the_data_s"],
)
def test_a_blob_of_an_absurd_shape_is_refused(tmp_path: Path, shape: list[int]) -> None:
    refused(tmp_path, r"not a readable caffemodel", NET, blob_of(shape, 108))


def test_an_empty_blob_of_an_absurd_shape_is_refused(tmp_path: Path) -> None:
    """It has as many values as its shape says, and numpy makes no array of it."""
    refused(tmp_path, "values in a tensor", NET, blob_of([0, *[(1 << 31) - 1] * 3], 0))


@pytest.mark.parametrize(
    "dims", ["0", "-4", "99999999999", "1048576 input_dim: 1048576 #"], ids=str.split
)
def test_an_input_of_an_absurd_shape_is_refused(tmp_path: Path, dims: str) -> None:
    text = NET.replace("input_dim: 8 input_dim: 8", f"input_dim: {dims} input_dim: 8\n")
    if dims.startswith("1048576"):
        text = NET.replace("input_dim: 8 input_dim: 8", "input_dim: 1048576 input_dim: 1048576")
    refused(tmp_path, "input", text)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("num_output: 4", "num_output: 99999999"),
        ("kernel_size: 3", "kernel_size: 3 stride: 0"),
        ("kernel_size: 3", "kernel_size: 3 pad: -1"),
        ("kernel_size: 3", "kernel_size: 99"),
        ("kernel_size: 3", "kernel_size: 3 group: 2"),
        ("kernel_size: 3", ""),
    ],
    ids=["filters", "stride", "pad", "kernel", "group", "no_kernel"],
)
def test_impossible_parameters_name_the_layer(tmp_path: Path, before: str, after: str) -> None:
    refused(tmp_path, "Convolution 'conv'", NET.replace(before, after))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (NET.replace('bottom: "data"', 'bottom: "ip"'), "reads the blob 'ip', which no layer"),
        (NET.replace('bottom: "data"', 'bottom: "daat"'), "did you mean data"),
        (NET.replace('top: "ip"', 'top: "conv" top: "conv"'), "writes the blob 'conv'"),
        (NET.replace('top: "conv"\n', 'top: "data"\n', 1).replace(
            'bottom: "conv" top: "conv"', 'bottom: "data" top: "conv"'), ""),
    ],
    ids=["cyclic", "undefined", "twice", "in_place_on_the_input"],
)  # fmt: skip
def test_blobs_that_do_not_fit_together(tmp_path: Path, text: str, words: str) -> None:
    if words:
        refused(tmp_path, words, text)
    else:
        assert load(tmp_path, text).outputs[0].name == "ip"


def test_a_layer_that_can_not_be_converted_is_named_with_what_to_do(tmp_path: Path) -> None:
    text = NET + 'layer { name: "roi" type: "Proposal" bottom: "ip" top: "roi" }'
    with pytest.raises(NotSupportedError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    for words in ("layer 4", "Proposal 'roi'", "line 9", "--outputs", "register a converter"):
        assert words in message


def test_a_net_can_be_cut_before_what_can_not_be_converted(tmp_path: Path) -> None:
    text = NET + 'layer { name: "roi" type: "Proposal" bottom: "ip" top: "roi" }'
    assert [spec.name for spec in load(tmp_path, text, outputs="ip").outputs] == ["ip"]


def test_a_net_can_be_cut_at_both_ends(tmp_path: Path) -> None:
    model = load(tmp_path, inputs="conv[1,4,6,6]", outputs="ip")
    assert [str(spec) for spec in model.inputs] == ["conv (N, 4, 6, 6) float32"]
    assert model.operators() == {"Reshape": 1, "Gemm": 1}


def test_an_unknown_blob_suggests_the_nearest(tmp_path: Path) -> None:
    refused(tmp_path, r"no blob is called 'icp'; did you mean ip", NET, WEIGHTS, outputs="icp")


def test_a_registered_converter_is_used(tmp_path: Path) -> None:
    from onnxgraft.stages.convert import caffe

    text = NET + 'layer { name: "half" type: "Half" bottom: "ip" top: "half" }'
    caffe.register("Half", lambda layer, bottoms, out: [out.binary("Mul", bottoms[0], 0.5)])
    try:
        model = load(tmp_path, text)
    finally:
        del caffe.LAYERS["Half"]
    with OnnxRuntime(model.to_onnx()) as session:
        feeds = random_feeds(session.inputs, 1)
        half = session.infer(feeds)["half"]
    with OnnxRuntime(load(tmp_path).to_onnx()) as session:
        np.testing.assert_allclose(half, session.infer(feeds)["ip"] / 2, rtol=1e-6)
