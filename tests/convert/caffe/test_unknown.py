"""What a net holds and its converters do not know: refused by name, line and value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.caffemodel import caffemodel
from onnxgraft.errors import NotSupportedError
from onnxgraft.stages.convert import Original
from onnxgraft.stages.convert.caffe.layers.fields import FIELDS
from onnxgraft.stages.convert.caffe.layers.table import LAYERS
from tests.convert.caffe.net import inputs, layer, load, normal

X = normal(2, 4, 6, 6)
POOL = "pooling_param { kernel_size: 2 %s }"


def pooled(field: str) -> str:
    return inputs(x=X.shape) + layer("Pooling", params=POOL % field)


@pytest.mark.parametrize("kind", LAYERS)
def test_every_layer_lists_the_fields_that_it_knows(kind: str) -> None:
    assert kind in FIELDS, f"{kind} has no line in convert/caffe/layers/fields.py"


def test_the_lists_name_layers_that_there_are() -> None:
    assert not FIELDS.keys() - LAYERS.keys()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (pooled("saturate: true"), r"pooling_param.saturate .*line 8: saturate: true"),
        (pooled("fancy { a: 1 }"), r"pooling_param.fancy .*line 8: fancy \{ \.\.\. \}"),
        (pooled("top: 3"), "pooling_param.top .*line 8: top: 3"),
        (inputs(x=X.shape) + layer("ReLU", params="quantize_param { bits: 8 }"),
         r"field quantize_param .*line 8: quantize_param \{"),
        (inputs(x=X.shape) + layer("ReLU", params="ceiling: 6"), r"ceiling .*line 8: ceiling: 6"),
        (inputs(x=X.shape) + layer("ReLU", params="phase: TRAIN"), "phase: TRAIN"),
        (inputs(x=X.shape) + layer("ReLU", params="phase: 0"), "phase: TRAIN"),
        ('quantize: true\n' + pooled(""), "line 1: the field quantize: true of the net"),
        (inputs(x=X.shape) + 'layers { layer { name: "r" type: "relu" leak: 0.1 } bottom: "x" '
         'top: "y" }', "the field leak .*line 3: leak: 0.1"),
        (inputs(x=X.shape) + layer("ReLU", params="include { not_phase: TRAIN }"),
         "line 8: the field not_phase: TRAIN of a rule"),
        ("state { rank: 1 } " + pooled(""), "the field rank: 1 of the net's state"),
        (inputs(x=X.shape) + layer("Reshape", params="reshape_param { shape { dim: 0 dim: -1 "
         "order: 2 } }"), "reshape_param.shape.order .*order: 2"),
    ],
    ids=["field", "message", "of_a_parameter_alone", "parameter_message", "of_the_layer",
         "phase_train", "phase_0", "of_the_net", "V0", "of_a_rule", "of_the_state", "nested"],
)  # fmt: skip
def test_an_unknown_field_is_refused_by_name_line_and_value(text: str, words: str) -> None:
    with pytest.raises(NotSupportedError, match=words):
        load(text)


def test_interp_is_bilinear() -> None:
    params = 'interp_param { height: 9 width: 9 interp_type: "%s" }'
    load(inputs(x=X.shape) + layer("Interp", params=params % "bilinear"))
    with pytest.raises(NotSupportedError, match="interp_type: 'nearest_neighbor'"):
        load(inputs(x=X.shape) + layer("Interp", params=params % "nearest_neighbor"))


def test_bottoms_and_tops_beyond_those_known_are_refused_by_name_and_line() -> None:
    with pytest.raises(NotSupportedError, match=r"its bottom 'gain' \(number 2, line 9\)"):
        load(inputs(x=X.shape, gain=(4,)) + layer("ReLU", "x gain"))
    with pytest.raises(NotSupportedError, match=r"its top 'norm' \(number 2, line 8\)"):
        load(inputs(x=X.shape) + layer("Normalize", tops="y norm"))


@pytest.mark.parametrize(
    "text",
    [
        pooled("engine: CAFFE"),
        pooled("") + layer("ReLU", "y", "z", "forward_type: FLOAT16 phase: TEST", name="other"),
        "force_backward: true default_forward_type: FLOAT16\n" + pooled(""),
        inputs(x=X.shape)
        + layer("ReLU", params="param { lr_mult: 0 } propagate_down: false loss_param { }"),
        inputs(x=X.shape) + layer("ReLU", params="unknown_param { }"),
        'engine: "MKLDNN"\n' + inputs(x=X.shape) + layer("TanH", params='engine: "MKLDNN"'),
        inputs(x=X.shape) + layer("Sigmoid", params="sigmoid_param { engine: CAFFE }"),
        inputs(x=X.shape)
        + layer("Normalize", params="normalize_param { fix_gradient: true bp_norm: true }"),
    ],
    ids=["engine", "precision", "of_the_net", "training", "empty", "of_intel", "engine_alone",
         "gradients"],
)  # fmt: skip
def test_what_changes_nothing_at_inference_is_read_over(text: str) -> None:
    load(text)


def test_a_message_of_another_type_of_layer_is_ignored_with_a_note(tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(inputs(x=X.shape) + layer("ReLU", params="pooling_param { kernel_size: 2 }"))
    _, notes = Original.of(net).lower()
    assert any("pooling_param was ignored" in note for note in notes)


@pytest.mark.parametrize(
    ("kind", "params", "blobs", "words"),
    [
        ("Convolution", "convolution_param { num_output: 2 kernel_size: 1 }",
         (normal(2, 4, 1, 1), normal(2), normal(2, 4, 1, 1)), r"3 blobs .* number 3 .*\(2, 4, 1"),
        ("Convolution", "convolution_param { num_output: 2 kernel_size: 1 bias_term: false }",
         (normal(2, 4, 1, 1), normal(2)), r"number 2 .*\(2,\)"),
        ("ReLU", "", (normal(4),), "1 blobs"),
        ("BatchNorm", "", (normal(4), normal(4), normal(1), normal(4)), "number 4"),
        ("BatchNorm", "batch_norm_param { scale_bias: false }",
         (normal(4), normal(4), normal(1), normal(4), normal(4)), "number 4, 5"),
    ],
    ids=["a_third", "a_bias_that_is_switched_off", "of_a_layer_without_any", "of_batch_norm",
         "a_scale_and_a_bias_that_are_switched_off"],
)  # fmt: skip
def test_stored_blobs_that_nothing_reads_are_refused(
    kind: str, params: str, blobs: tuple[np.ndarray, ...], words: str
) -> None:
    with pytest.raises(NotSupportedError, match=words):
        load(inputs(x=X.shape) + layer(kind, params=params), {"it": (kind, blobs)})


def test_a_caffemodel_without_weights_is_fine_for_a_net_that_needs_none(tmp_path: Path) -> None:
    net, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    net.write_text(pooled(""))
    weights.write_bytes(caffemodel({"it": ("Pooling", ())}))
    model, _ = Original.of(net, weights=weights).lower()
    assert [spec.name for spec in model.outputs] == ["y"]
