"""What a net's blobs are: inputs, outputs, splits, in-place layers, constants; what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxgraft.errors import InputError
from onnxgraft.stages.convert import Original
from tests.convert.caffe.net import assert_close, inputs, layer, load, normal, run
from tests.convert.caffe.reference_activation import relu

X = normal(2, 3, 4, 5)
WIDE = X.astype(np.float64)


def names(text: str) -> tuple[list[str], list[str]]:
    """Return the names of the converted net's inputs and outputs."""
    model = load(text)
    return [spec.name for spec in model.inputs], [spec.name for spec in model.outputs]


def test_split_copies() -> None:
    text = inputs(x=X.shape) + layer("Split", "x", "a b c")
    assert_close(run(text, None, {"x": X}), {"a": WIDE, "b": WIDE, "c": WIDE})


DIMS = " ".join(f"dim: {dim}" for dim in X.shape)
HALF = f'dummy_data_param {{ data_filler {{ type: "constant" value: 0.5 }} shape {{ {DIMS} }} }}'


def test_dummy_data_with_a_constant_filler_is_a_constant() -> None:
    text = inputs(x=X.shape) + layer("DummyData", "", "c", HALF) + layer("Eltwise", "x c", name="s")
    assert names(text) == (["x"], ["y"])
    assert_close(run(text, None, {"x": X}), {"y": WIDE + 0.5})


def test_dummy_data_without_a_filler_is_0_and_of_several_tops_each() -> None:
    params = " ".join(
        [f"dummy_data_param {{ num: {X.shape[0]} channels: 3 height: 4 width: 5",
         "num: 2 channels: 3 height: 4 width: 5 }"]
    )  # fmt: skip
    text = inputs(x=X.shape) + layer("DummyData", "", "c d", params)
    text += layer("Eltwise", "x c d", name="s")
    assert_close(run(text, None, {"x": X}), {"y": WIDE})


def test_dummy_data_that_is_random_or_all_that_feeds_a_net_is_an_input() -> None:
    alone = layer("DummyData", "", "c", HALF) + layer("ReLU", "c", name="r")
    assert names(alone) == (["c"], ["y"])
    random = layer("DummyData", "", "c", HALF.replace("constant", "gaussian"))
    text = inputs(x=X.shape) + random + layer("Eltwise", "x c", name="s")
    assert names(text) == (["x", "c"], ["y"])


CROPPED = """input: "data" input_dim: 1 input_dim: 1 input_dim: 12 input_dim: 12
{0} {{ name: "c" type: {1} bottom: "data" top: "c" convolution_param {{ num_output: 1
  kernel_size: 3 pad: 5 weight_filler {{ type: "constant" value: 1 }} }} }}
{0} {{ name: "p" type: {2} bottom: "c" top: "p" pooling_param {{ kernel_size: 2 stride: 2 }} }}
{0} {{ name: "u" type: {3} bottom: "p" top: "u" convolution_param {{ num_output: 1
  kernel_size: 4 stride: 2 pad: 1 weight_filler {{ type: "constant" value: 1 }} }} }}
{0} {{ name: "crop" type: {4} bottom: "u" bottom: "data" top: "y" {5} }}
"""
TODAY = ("layer", '"Convolution"', '"Pooling"', '"Deconvolution"', '"Crop"')
OLD = ("layers", "CONVOLUTION", "POOLING", "DECONVOLUTION", "CROP")


def notes_of(folder: Path, text: str) -> str:
    (folder / "net.prototxt").write_text(text)
    return " ".join(Original.of(folder / "net.prototxt").lower()[1])


def test_a_crop_without_offsets_has_a_note_of_what_the_geometry_says(tmp_path: Path) -> None:
    # Half a pixel of the pooling goes, half of the deconvolution comes back: 4 of the convolution.
    assert "cut at 4, 4: if" in notes_of(tmp_path, CROPPED.format(*TODAY, ""))
    told = notes_of(tmp_path, CROPPED.format(*TODAY, "crop_param { offset: 0 }"))
    assert "cut at" not in told
    aligned = inputs(x=X.shape) + layer("ReLU", name="r") + layer("Crop", "y x", "z", name="c")
    assert "cut at" not in notes_of(tmp_path, aligned)


def test_a_crop_of_a_v1_net_is_cut_where_the_geometry_says(tmp_path: Path) -> None:
    assert "it is cut at 4, 4" in notes_of(tmp_path, CROPPED.format(*OLD, ""))
    x = normal(1, 1, 12, 12)
    told = run(CROPPED.format(*OLD, ""), None, {"data": x})
    params = "crop_param { offset: 4 offset: 4 }"
    assert_close(told, run(CROPPED.format(*TODAY, params), None, {"data": x}), 0.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (layer("Python", "x x", "y", 'python_param { module: "rpn" layer: "ProposalLayer" }'),
         r"it runs Python code \(rpn.ProposalLayer\)"),
        (layer("Proposal", "x x x", "y"), "layers of this type can't be converted"),
    ],
)  # fmt: skip
def test_a_layer_that_can_not_be_converted_is_refused_as_such(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load(inputs(x=X.shape) + text)


def test_outputs_are_the_blobs_that_nothing_consumes_in_order_of_production() -> None:
    text = (
        inputs(x=X.shape)
        + layer("TanH", "x", "late", name="1")
        + layer("AbsVal", "x", "early", name="2")
        + layer("ReLU", "late", "last", name="3")
    )
    assert names(text) == (["x"], ["early", "last"])
    expected = {"early": abs(WIDE), "last": relu(np.tanh(WIDE))}
    assert_close(run(text, None, {"x": X}), expected)


def test_a_layer_in_place_overwrites_its_blob() -> None:
    text = (
        inputs(x=X.shape)
        + layer("TanH", "x", "y", name="1")
        + layer("Power", "y", "y", "power_param { scale: 2 }", name="2")
        + layer("ReLU", "y", "y", name="3")
    )
    assert_close(run(text, None, {"x": X}), {"y": relu(2 * np.tanh(WIDE))})


def test_who_reads_a_blob_before_it_is_overwritten_gets_the_earlier_value() -> None:
    text = (
        inputs(x=X.shape)
        + layer("TanH", "x", "y", name="1")
        + layer("AbsVal", "y", "before", name="2")
        + layer("ReLU", "y", "y", name="3")
        + layer("Power", "y", "after", "power_param { shift: 1 }", name="4")
    )
    expected = {"before": abs(np.tanh(WIDE)), "after": relu(np.tanh(WIDE)) + 1}
    assert_close(run(text, None, {"x": X}), expected)


def test_a_layer_in_place_on_the_input() -> None:
    text = (
        inputs(x=X.shape)
        + layer("Power", "x", "x", "power_param { shift: 0.5 }", name="1")
        + layer("ReLU", "x", "y", name="2")
    )
    assert names(text) == (["x"], ["y"])
    assert_close(run(text, None, {"x": X}), {"y": relu(WIDE + 0.5)})


def test_a_layer_may_carry_the_name_of_another_s_blob() -> None:
    text = (
        inputs(x=X.shape)
        + layer("TanH", "x", "relu", name="first")
        + layer("ReLU", "relu", "tanh", name="relu")
        + layer("AbsVal", "x", "z", name="tanh")
    )
    assert_close(run(text, None, {"x": X}), {"tanh": relu(np.tanh(WIDE)), "z": abs(WIDE)})


def test_nodes_are_called_after_their_layers() -> None:
    text = (
        inputs(x=X.shape)
        + layer("TanH", "x", "a", name="block/first")
        + layer("MVN", "a", "y", name="block/second")
    )
    nodes = [node.name for node in load(text).to_onnx().graph.node]
    assert nodes
    assert all(name.startswith(("block/first", "block/second")) for name in nodes)


def test_silence_consumes() -> None:
    text = (
        inputs(x=X.shape)
        + layer("Slice", "x", "a b c", name="parts")
        + layer("Silence", "a c", "", name="quiet")
    )
    assert_close(run(text, None, {"x": X}), {"b": WIDE[:, 1:2]})


def test_a_parameter_is_a_constant() -> None:
    blob = normal(3, 4, 5)
    text = (
        inputs(x=X.shape)
        + layer(
            "Parameter", "", "p", "parameter_param { shape { dim: 3 dim: 4 dim: 5 } }", name="it"
        )
        + layer("Scale", "x p", "y", "scale_param { axis: 1 }", name="scale")
    )
    assert_close(run(text, {"it": ("Parameter", [blob])}, {"x": X}), {"y": WIDE * blob})


def test_dummy_data_is_an_input() -> None:
    text = layer(
        "DummyData", "", "x", "dummy_data_param { shape { dim: 2 dim: 3 dim: 4 dim: 5 } }"
    ) + layer("TanH", name="tanh")
    assert names(text) == (["x"], ["y"])
    assert_close(run(text, None, {"x": X}), {"y": np.tanh(WIDE)})


@pytest.mark.parametrize(
    "text",
    [
        'input: "x" input_dim: 2 input_dim: 3 input_dim: 4 input_dim: 5',
        'input: "x" input_shape { dim: 2 dim: 3 dim: 4 dim: 5 }',
        layer("Input", "", "x", "input_param { shape: { dim: 2 dim: 3 dim: 4 dim: 5 } }", "data"),
    ],
    ids=["input_dim", "input_shape", "input_layer"],
)
def test_an_input(text: str) -> None:
    net = text + "\n" + layer("TanH")
    assert names(net) == (["x"], ["y"])
    for batch in (1, 3):
        x = normal(batch, 3, 4, 5)
        assert_close(run(net, None, {"x": x}), {"y": np.tanh(x.astype(np.float64))})


def test_several_inputs_of_four_dims_each() -> None:
    text = (
        'input: "x" input: "z" input_dim: 2 input_dim: 3 input_dim: 4 input_dim: 5'
        " input_dim: 2 input_dim: 1 input_dim: 4 input_dim: 5\n"
    ) + layer("Concat", "x z")
    z = normal(2, 1, 4, 5)
    assert names(text) == (["x", "z"], ["y"])
    assert_close(run(text, None, {"x": X, "z": z}), {"y": np.concatenate([WIDE, z], axis=1)})


def test_one_shape_of_an_input_layer_is_that_of_all_its_tops() -> None:
    shape = "input_param { shape { dim: 2 dim: 3 dim: 4 dim: 5 } }"
    text = layer("Input", "", "x z", shape, name="data") + layer("Eltwise", "x z")
    z = normal(2, 3, 4, 5, seed=1)
    assert_close(run(text, None, {"x": X, "z": z}), {"y": WIDE + z})


def test_a_layer_that_is_not_known_is_refused_with_its_name() -> None:
    text = inputs(x=X.shape) + layer("Frobnicate", name="odd_one")
    with pytest.raises(InputError, match="odd_one"):
        load(text)


def test_a_layer_without_its_weights_is_refused_with_its_name() -> None:
    text = inputs(x=X.shape) + layer(
        "Convolution", params="convolution_param { num_output: 2 kernel_size: 3 }", name="conv1"
    )
    with pytest.raises(InputError, match="conv1"):
        load(text)


def test_two_layers_share_weights_by_the_name_of_their_params() -> None:
    weight, z = normal(4, 60), normal(2, 3, 4, 5, seed=1)
    params = 'param { name: "w" } inner_product_param { num_output: 4 bias_term: false }'
    text = (
        inputs(x=X.shape, z=z.shape)
        + layer("InnerProduct", "x", "a", params, name="left")
        + layer("InnerProduct", "z", "b", params, name="right")
    )
    weights = {"left": ("InnerProduct", [weight]), "right": ("InnerProduct", [weight])}
    matrix = weight.astype(np.float64).T
    assert_close(
        run(text, weights, {"x": X, "z": z}),
        {"a": WIDE.reshape(2, -1) @ matrix, "b": z.reshape(2, -1) @ matrix},
    )
