"""What files of Caffe and its forks may hold: every form of weights, every version, every rule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from models.caffemodel import caffemodel
from onnxgraft.errors import InputError, ModelError
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert import Original
from onnxgraft.stages.convert.caffe import Net, read_caffemodel, read_net

WEIGHT = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)

# The wire format, written here by its definition: a key is number << 3 | type.


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def shape(dims: Sequence[int], packed: bool = True) -> bytes:
    if packed:
        return message(7, message(1, b"".join(map(varint, dims))))
    return message(7, b"".join(number(1, dim) for dim in dims))


LEGACY = b"".join(number(i + 1, dim) for i, dim in enumerate(WEIGHT.shape))
FORMS = {
    "float": shape(WEIGHT.shape) + message(5, WEIGHT.tobytes()),
    "double": shape(WEIGHT.shape) + message(8, WEIGHT.astype("<f8").tobytes()),
    "one_by_one": shape(WEIGHT.shape, packed=False)
    + b"".join(varint(5 << 3 | 5) + value.tobytes() for value in WEIGHT.ravel()),
    "in_two_pieces": shape(WEIGHT.shape)
    + message(5, WEIGHT.ravel()[:50].tobytes())
    + message(5, WEIGHT.ravel()[50:].tobytes()),
    "num_channels_height_width": LEGACY + message(5, WEIGHT.tobytes()),
    "half_raw": shape(WEIGHT.shape) + number(10, 2) + message(12, WEIGHT.astype("<f2").tobytes()),
    "float_raw": shape(WEIGHT.shape) + number(10, 1) + message(12, WEIGHT.tobytes()),
    # C3D's BlobProto: num, channels, length, height, width, and the data in field 6.
    "five_axes_of_c3d": b"".join(number(i + 1, dim) for i, dim in enumerate((*WEIGHT.shape, 1)))
    + message(6, WEIGHT.tobytes()),
    "with_diff_and_unknown_fields": shape(WEIGHT.shape)
    + message(6, b"\0" * 16)
    + number(99, 7)
    + message(5, WEIGHT.tobytes()),
}


def layer_of(version: str, blob: bytes) -> bytes:
    """Return a net with one layer called ``conv``, as the version's files have it."""
    if version == "V0":
        inner = message(1, b"conv") + message(2, b"conv") + message(50, blob)
        return message(2, message(1, inner) + message(2, b"data") + message(3, b"conv"))
    if version == "V1":
        return message(2, message(4, b"conv") + number(5, 4) + message(6, blob))
    return message(100, message(1, b"conv") + message(2, b"Convolution") + message(7, blob))


def read(folder: Path, data: bytes) -> dict[str, list[Array]]:
    (folder / "net.caffemodel").write_bytes(message(1, b"net") + data)
    return read_caffemodel(folder / "net.caffemodel")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("version", ["V0", "V1", "today"])
def test_weights_of_every_form_are_read(tmp_path: Path, version: str, form: str) -> None:
    [blob] = read(tmp_path, layer_of(version, FORMS[form]))["conv"]
    assert blob.shape == ((*WEIGHT.shape, 1) if "c3d" in form else WEIGHT.shape)
    blob = blob.reshape(WEIGHT.shape)
    # Half precision keeps 11 bits.
    np.testing.assert_allclose(blob, WEIGHT, rtol=2**-11 if form == "half_raw" else 0)


def test_raw_data_of_an_unknown_type_is_refused(tmp_path: Path) -> None:
    blob = shape((1,)) + number(10, 77) + message(12, b"\0" * 4)
    with pytest.raises(ModelError, match="raw data of an unknown type 77"):
        read(tmp_path, layer_of("today", blob))


def test_names_that_are_no_utf8_are_refused(tmp_path: Path) -> None:
    blob = message(7, FORMS["float"])
    with pytest.raises(ModelError, match="not a readable caffemodel"):
        read(tmp_path, message(100, message(1, b"\xff\xfe") + blob))


# Rules and versions of the text.


def net_of(folder: Path, text: str, **shapes: tuple[int, ...]) -> Net:
    (folder / "net.prototxt").write_text(text)
    return read_net(folder / "net.prototxt", {}, shapes)


def layers_of(net: Net) -> list[str]:
    return [layer.name for layer in net.layers]


DATA = 'input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }\n'


def ruled(rule: str, state: str = "") -> str:
    """Return a net of two layers, the second under a rule."""
    return (
        f'{DATA} {state} layer {{ name: "a" type: "ReLU" bottom: "data" top: "a" }}\n'
        f'layer {{ name: "b" type: "ReLU" bottom: "a" top: "b" {rule} }}'
    )


RULES = {
    "include { phase: TEST }": True,
    "include { phase: TRAIN }": False,
    "include: { phase: TRAIN } include { phase: TEST }": True,
    "exclude { phase: TEST }": False,
    "exclude { phase: TRAIN }": True,
    "include { phase: TEST stage: 'deploy' }": False,
    "include { phase: TEST not_stage: 'val' }": True,
    "include { min_level: 1 }": False,
    "include { max_level: 0 }": True,
    "include { min_level: -1 max_level: 3 }": True,
    "exclude { min_level: 1 }": True,
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_decides_whether_a_layer_runs(tmp_path: Path, rule: str) -> None:
    assert layers_of(net_of(tmp_path, ruled(rule))) == (["a", "b"] if RULES[rule] else ["a"])


@pytest.mark.parametrize(
    ("state", "rule", "runs"),
    [
        ("state { stage: 'deploy' }", "include { stage: 'deploy' }", True),
        ("state { stage: 'val' }", "include { not_stage: 'val' }", False),
        ("state { stage: 'a' stage: 'b' }", "include { stage: 'a' stage: 'b' }", True),
        ("state { level: 2 }", "include { min_level: 1 }", True),
        ("state { level: 2 }", "include { max_level: 1 }", False),
    ],
    ids=["stage", "not_stage", "two_stages", "level_reached", "level_passed"],
)
def test_the_net_s_own_state_counts(tmp_path: Path, state: str, rule: str, runs: bool) -> None:
    assert layers_of(net_of(tmp_path, ruled(rule, state))) == (["a", "b"] if runs else ["a"])


def test_a_layer_of_two_phases_under_one_name_is_taken_once(tmp_path: Path) -> None:
    bn = 'layer {{ name: "bn" type: "BatchNorm" bottom: "data" top: "y" include {{ phase: {} }} }}'
    net = net_of(tmp_path, DATA + bn.format("TRAIN") + "\n" + bn.format("TEST"))
    assert layers_of(net) == ["bn"]


DATA_LAYER = """
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "a" type: "ReLU" bottom: "data" top: "a" }
"""

TRAIN_VAL = """
layer { name: "d" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  data_param { batch_size: 64 } transform_param { crop_size: 9 } }
layer { name: "d" type: "Data" top: "data" top: "label" include { phase: TEST }
  data_param { batch_size: 5 } transform_param { crop_size: 8 } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 2 } }
layer { name: "mark" type: "Slice" bottom: "label" top: "l1" top: "l2" }
layer { name: "acc" type: "Accuracy" bottom: "ip" bottom: "label" top: "acc" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "l1" top: "loss" }
"""


def test_a_net_for_training_becomes_one_for_inference(tmp_path: Path) -> None:
    net = net_of(tmp_path, TRAIN_VAL, data=(1, 3, 8, 8))
    assert net.inputs == {"data": (1, 3, 8, 8)}
    assert layers_of(net) == ["conv", "ip"]
    assert net.outputs == ["ip"]
    told = " ".join(net.notes)
    for name in ("label", "mark", "acc", "loss"):
        assert f"'{name}'" in told


def test_the_channels_of_data_come_from_the_first_weights(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(TRAIN_VAL)
    blobs = {"conv": ("Convolution", [WEIGHT, np.zeros(4)]),
             "ip": ("InnerProduct", [np.zeros((2, 144)), np.zeros(2)])}  # fmt: skip
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(blobs))
    model, _ = Original.of(tmp_path / "net.prototxt", weights=tmp_path / "net.caffemodel").lower()
    assert str(model.inputs[0]) == "data (N, 3, 8, 8) float32"


def test_data_without_a_shape_asks_for_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"shape of its input 'data'; give it, .* 'data\[1,3,224"):
        net_of(tmp_path, TRAIN_VAL)


def test_an_input_without_a_shape_is_what_a_layer_makes(tmp_path: Path) -> None:
    text = 'input: "data" ' + DATA_LAYER
    assert net_of(tmp_path, text).inputs == {"data": (1, 3, 8, 8)}


def test_a_net_may_have_an_empty_name(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(f'name: "" {DATA_LAYER}')
    model, _ = Original.of(tmp_path / "net.prototxt").lower()
    assert model.to_onnx().graph.name


@pytest.mark.parametrize(
    ("rule", "runs"),
    [
        ("include { phase: 1 }", True),
        ("include { phase: 0 }", False),
        ("exclude { phase: 0 }", True),
        ("exclude { phase: 1 }", False),
    ],
)
def test_a_phase_by_its_number(tmp_path: Path, rule: str, runs: bool) -> None:
    assert layers_of(net_of(tmp_path, ruled(rule))) == (["a", "b"] if runs else ["a"])


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ("RELU", "ReLU"),
        ("4", "Convolution"),
        ("18", "ReLU"),
        ("INTERP", "Interp"),
        ("CROP", "Crop"),
        ("NORMALIZE", "Normalize"),
        ("PERMUTE", "Permute"),
        ("PRIOR_BOX", "PriorBox"),
        ("CONVOLUTION3D", "Convolution3D"),
        ("SPP", "SPP"),
    ],
)
def test_the_types_of_v1(tmp_path: Path, written: str, kind: str) -> None:
    text = f'{DATA} layers {{ name: "a" type: {written} bottom: "data" top: "a" }}'
    assert [layer.type for layer in net_of(tmp_path, text).layers] == [kind]


def test_data_layers_of_v1_forks_are_inputs(tmp_path: Path) -> None:
    text = """layers { name: "d" type: IMAGE_SEG_DATA top: "data" top: "label" }
    layers { name: "a" type: RELU bottom: "data" top: "a" }"""
    net = net_of(tmp_path, text, data=(1, 3, 8, 8))
    assert net.inputs == {"data": (1, 3, 8, 8)}


def test_a_layer_that_makes_no_blob_is_left_out(tmp_path: Path) -> None:
    text = f"""{DATA} layers {{ name: "a" type: RELU bottom: "data" top: "a" }}
    layers {{ name: "w" type: MAT_WRITE bottom: "a" mat_write_param {{ prefix: "x" }} }}"""
    net = net_of(tmp_path, text)
    assert net.outputs == ["a"]
    assert any("'w'" in note and "makes no blob" in note for note in net.notes)


@pytest.mark.parametrize(("weight", "outputs"), [("0", ["p"]), ("0.5", ["r"])])
def test_a_loss_weight_of_0_is_no_loss(tmp_path: Path, weight: str, outputs: list[str]) -> None:
    text = f"""{DATA} layer {{ name: "r" type: "ReLU" bottom: "data" top: "r" }}
    layer {{ name: "p" type: "Softmax" bottom: "r" top: "p" loss_weight: {weight} }}"""
    assert net_of(tmp_path, text).outputs == outputs


def test_five_axes_of_an_input(tmp_path: Path) -> None:
    dims = " ".join(f"input_dim: {dim}" for dim in (1, 3, 16, 8, 9))
    text = f'input: "data" {dims} layer {{ name: "a" type: "ReLU" bottom: "data" top: "a" }}'
    assert net_of(tmp_path, text).inputs == {"data": (1, 3, 16, 8, 9)}


def test_layer_and_layers_together_are_refused(tmp_path: Path) -> None:
    text = DATA + 'layer { name: "a" type: "ReLU" bottom: "data" top: "a" } layers { type: RELU }'
    with pytest.raises(ModelError, match="both layer and layers"):
        net_of(tmp_path, text)


def test_a_padding_layer_goes_into_what_follows_and_nothing_else(tmp_path: Path) -> None:
    v0 = """layers { layer { name: "pad" type: "padding" pad: 2 } bottom: "data" top: "padded" }
    layers { layer { name: "%s" type: "%s" kernelsize: 3 num_output: 4 pool: MAX }
             bottom: "padded" top: "y" }"""
    net = net_of(tmp_path, DATA + v0 % ("conv1", "conv"))
    assert layers_of(net) == ["conv1"]
    assert net.layers[0].parameter("convolution_param").integers("pad") == [2]
    assert net.layers[0].bottoms == ["data"]
    with pytest.raises(ModelError, match="follows a padding layer"):
        net_of(tmp_path, DATA + v0 % ("relu1", "relu"))


@pytest.mark.parametrize(
    "text",
    [
        'layer{name:"a"type:"ReLU"bottom:"data"top:"a"}',
        "layer: { name: 'a' ; type: 'ReLU' , bottom: 'data' top: 'a' }",
        '# a comment {\nlayer < name: "a" type: "Re" "LU" bottom: "data" top: "a" > # the end',
        'layer { name: "a" type: "ReLU" bottom: "data" top: "a"\n unknown_param { x: [1, 2.f] } }',
    ],
    ids=["no_spaces", "colons_and_separators", "comments_angles_joined_strings", "unknown_fields"],
)
def test_text_of_every_style_is_read(tmp_path: Path, text: str) -> None:
    assert layers_of(net_of(tmp_path, DATA + text)) == ["a"]


@pytest.mark.parametrize("name", ["a/b", "res2a:branch#1", "with space", "ärger.1"])
def test_names_of_any_kind_are_kept(tmp_path: Path, name: str) -> None:
    text = f'{DATA} layer {{ name: "{name}" type: "TanH" bottom: "data" top: "{name}" }}'
    (tmp_path / "net.prototxt").write_text(text, encoding="utf-8")
    model, _ = Original.of(tmp_path / "net.prototxt").lower()
    assert [node.name for node in model.graph.nodes] == [name]
    assert [spec.name for spec in model.outputs] == [name]


def test_in_place_layers_keep_the_blob_s_name_for_the_last(tmp_path: Path) -> None:
    text = (
        DATA
        + """
    layer { name: "t" type: "TanH" bottom: "data" top: "y" }
    layer { name: "r" type: "ReLU" bottom: "y" top: "y" }
    layer { name: "s" type: "Sigmoid" bottom: "y" top: "y" }"""
    )
    net = net_of(tmp_path, text)
    assert net.outputs == ["y"]
    assert [layer.tops for layer in net.layers][-1] == ["y"]
    assert len({layer.tops[0] for layer in net.layers}) == 3
    assert set(net.blobs.values()) == {"data", "y"}
