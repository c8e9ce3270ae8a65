"""The tables of targets, as a user reads and changes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxgraft.errors import InputError
from onnxgraft.stages.quantize import placement, placement_text, quantize, read_placement
from onnxgraft.stages.quantize.place.ready import fingerprint
from onnxgraft.targets import target_names
from tests.conftest import model_of
from tests.quantize.networks import pair, ranges_of, samples_of, weights


@pytest.mark.parametrize("target", target_names())
def test_a_table_that_was_printed_is_read_as_the_same(target: str, tmp_path: Path) -> None:
    file = tmp_path / "table.toml"
    file.write_text(placement_text(placement(target)))
    assert read_placement(file, target) == placement(target)


def test_a_file_changes_only_what_it_names(tmp_path: Path) -> None:
    file = tmp_path / "table.toml"
    file.write_text('weights = { Conv = 0, ConvTranspose = 1 }\nalso = ["Concat"]\n')
    changed = read_placement(file, "tensorrt")
    assert changed.weights == {"Conv": 0, "ConvTranspose": 1}
    assert changed.also == {"Concat"}
    assert changed.symmetric
    assert changed.target == "tensorrt"


def test_a_changed_table_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "table.toml"
    file.write_text('weights = { Conv = "tensor" }\n')
    model = pair()
    ranges = ranges_of(model, samples_of(model, tmp_path))
    graph, _ = quantize(model, ranges, read_placement(file, "tensorrt"))
    layer = next(node for node in graph.graph.nodes if node.name == "second")
    assert np.shape(layer.inputs[1].inputs[0].inputs[1].values) == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("weight = 3", "weight is not part of a table; did you mean weights?"),
        ("weights = 3", "weights is 3"),
        ("weights = { Relu = 0 }", "Relu has no weights"),
        ("weights = { Conv = -1 }", "the axis of Conv is -1"),
        ('weights = { Conv = "channel" }', "the axis of Conv is 'channel'"),
        ('symmetric = "yes"', "symmetric is 'yes'; write true or false"),
        ('also = "Add"', "also is 'Add'; write a list"),
        ('target = "openvino"', "is a table for openvino, not for tensorrt"),
        ("tokens = -1", "tokens is -1; write a number"),
        ("stored = 4", "stored is 4; write { int4 = "),
        ("stored = { int3 = 4 }", "weights are not stored as int3; did you mean"),
        ("stored = { int4 = 32 }", "int4 of stored is 32; write { int4 = "),
        ('stored = { int4 = { reader = "MatMulNBit", block = 32 } }', "stored has 'MatMulNBit'"),
        (
            'stored = { int4 = { reader = "DequantizeLinear", block = 48 } }',
            "the block of int4 is 48; 0 or one of 16, 32, 64, 128, 256",
        ),
        ("= 3", "not a TOML file"),
    ],
    ids=lambda value: value if " " not in value else None,
)
def test_a_wrong_table_is_refused(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "table.toml"
    file.write_text(text)
    with pytest.raises(InputError) as refused:
        read_placement(file, "tensorrt")
    assert said in str(refused.value)
    assert str(file) in str(refused.value)


SHORTCUT = """
network (float[N, 8, 6, 6] image) => (float[N, 8, 6, 6] y) {
    [first] a = Conv <pads = [1, 1, 1, 1]> (image, w1)
    [relu] b = Relu (a)
    [second] c = Conv <pads = [1, 1, 1, 1]> (b, w2)
    [add] d = Add (c, b)
    [last] y = Conv (d, w3)
}
"""
SHORTCUT_SHAPES = {"w1": (8, 8, 3, 3), "w2": (8, 8, 3, 3), "w3": (8, 8, 1, 1)}


def shortcut(text: str, tmp_path: Path, target: str = "tensorrt") -> list[str]:
    """Return the producers of the inputs of the node ``add`` when ``text`` is quantized."""
    model = model_of(text, weights(SHORTCUT_SHAPES))
    graph, _ = quantize(model, ranges_of(model, samples_of(model, tmp_path)), target)
    (node,) = (node for node in graph.graph.nodes if node.name == "add")
    return [source.inputs[0].name if source.inputs else source.name for source in node.inputs]


def test_of_a_residual_add_the_shortcut_alone_is_quantized(tmp_path: Path) -> None:
    assert shortcut(SHORTCUT, tmp_path) == ["second", "b/DequantizeLinear"]


def test_of_two_layers_that_are_added_the_later_one_adds_the_other(tmp_path: Path) -> None:
    both = (
        SHORTCUT
        .replace("(b, w2)", "(image, w2)")
        .replace("Relu (a)", "Identity (a)")
        .replace("Add (c, b)", "Add (a, c)")
        .replace("    [relu] b = Identity (a)\n", "")
    )
    assert shortcut(both, tmp_path) == ["a/DequantizeLinear", "second"]


def test_a_layer_whose_result_others_read_too_does_not_add(tmp_path: Path) -> None:
    read_twice = SHORTCUT.replace("Conv (d, w3)", "Mul (d, c)")
    assert shortcut(read_twice, tmp_path) == ["second", "relu"]


def test_openvino_gets_no_quantized_shortcut(tmp_path: Path) -> None:
    assert shortcut(SHORTCUT, tmp_path, "openvino") == ["second", "relu"]


def test_a_constant_that_was_looked_at_leaves_a_graph_the_same() -> None:
    """It was numbers of a field in the file, and becomes bytes when it is read."""
    model = model_of(
        """
        network (float[N, 8] x) => (float[N, 8] y) {
            two = Constant <value = float {2.0}> ()
            a = Mul (x, two)
            y = MatMul (a, w)
        }
        """,
        weights({"w": (8, 8)}),
    )
    before = fingerprint(model)
    (constant,) = [node for node in model.graph.nodes if node.op == "Constant"]
    assert constant.attrs["value"].values == 2
    assert fingerprint(model) == before
