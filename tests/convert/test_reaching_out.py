"""TensorFlow's own files of programs that do more than compute are refused before they run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft.errors import ModelError
from onnxgraft.stages.convert import Original
from onnxgraft.stages.convert.tensorflow.reading import operators
from onnxgraft.stages.convert.tflite import reaching
from onnxgraft.stages.convert.tflite.reading import names_of, read_tflite
from tests.conftest import Cli

tf = pytest.importorskip("tensorflow")
v1 = tf.compat.v1


def saved_model(folder: Path, harm: Any) -> Path:
    """Save a model whose signature does ``harm`` beside its work."""
    module = tf.Module()
    module.weight = tf.Variable([1.0, 2.0])

    def call(x: Any) -> dict[str, Any]:
        harm()
        return {"y": x * module.weight}

    signature = tf.function(call, [tf.TensorSpec([None, 2], tf.float32, "x")])
    tf.saved_model.save(module, str(folder), signatures=signature)
    return folder


def test_a_saved_model_that_writes_a_file_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "written"
    path = saved_model(tmp_path / "m", lambda: tf.io.write_file(str(target), "x"))
    with pytest.raises(ModelError, match="is a WriteFile, which reads or writes files"):
        Original.of(path).lower()
    assert not target.exists()


def test_a_saved_model_that_prints_to_a_file_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "written"
    path = saved_model(tmp_path / "m", lambda: tf.print("x", output_stream=f"file://{target}"))
    with pytest.raises(ModelError, match="is a PrintV2, which reads or writes files"):
        Original.of(path).lower()
    assert not target.exists()


def test_a_saved_model_that_prints_to_the_screen_is_converted(tmp_path: Path) -> None:
    path = saved_model(tmp_path / "m", lambda: tf.print("x"))
    model, _ = Original.of(path).lower()
    assert [spec.name for spec in model.outputs] == ["y"]


@pytest.mark.parametrize("harmful", [True, False], ids=["with_harm", "without"])
def test_a_checkpoint_is_restored_and_nothing_else_is_run(tmp_path: Path, harmful: bool) -> None:
    target, prefix = tmp_path / "written", tmp_path / "model.ckpt"
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 2], name="x")
        weight = v1.get_variable("w", [2], use_resource=False)
        tf.multiply(x, weight, name="y")
        saver = v1.train.Saver()
        write = tf.io.write_file(str(target), "x") if harmful else tf.no_op()
        # What restoring runs waits for another operator.
        restore = graph.get_operation_by_name(saver.saver_def.restore_op_name)
        restore._add_control_input(write)
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            saver.save(session, str(prefix))
    assert not target.exists()
    if harmful:
        with pytest.raises(ModelError, match="restoring its variables would run 'WriteFile'"):
            Original.of(prefix).lower()
        assert not target.exists()
    else:
        model, _ = Original.of(prefix).lower()
        assert [spec.name for spec in model.outputs] == ["y:0"]


def with_operator(path: Path, name: str, attributes: dict[str, Any], inputs: list[Any]) -> Path:
    """Write a frozen graph whose output waits for an operator."""
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 2], name="x")
        given = [tf.constant(value) for value in inputs]
        harm = graph.create_op(
            name, given, [kind for kind, _ in attributes.pop("_outputs", [])], name="harm",
            attrs={key: v1.AttrValue(**value) for key, value in attributes.items()},
        )  # fmt: skip
        with tf.control_dependencies([harm]):
            tf.add(x, 1.0, name="y")
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


HARM = {
    "Abort": ({"exit_without_error": {"b": True}}, [], "ends the process"),
    "ImmutableConst": (
        {
            "dtype": {"type": 1}, "shape": {"shape": {"dim": [{"size": 4}]}},
            "memory_region_name": {"s": b"/etc/passwd"}, "_outputs": [(tf.float32, None)],
        },
        [], "reads or writes files",
    ),
    "FixedUnigramCandidateSampler": (
        {
            "num_true": {"i": 1}, "num_sampled": {"i": 1}, "unique": {"b": True},
            "range_max": {"i": 1}, "vocab_file": {"s": b"/etc/passwd"},
            "_outputs": [(tf.int64, None), (tf.float32, None), (tf.float32, None)],
        },
        [np.ones((1, 1), np.int64)], "reads or writes files",
    ),
    "Timestamp": ({"_outputs": [(tf.float64, None)]}, [], "asks the machine for the time"),
}  # fmt: skip


@pytest.mark.parametrize("command", ["convert", "inspect", "validate"])
@pytest.mark.parametrize("name", HARM)
def test_an_operator_that_does_more_than_compute_is_refused(
    tmp_path: Path, cli: Cli, name: str, command: str
) -> None:
    attributes, inputs, why = HARM[name]
    path = with_operator(tmp_path / "net.pb", name, dict(attributes), inputs)
    np.savez(tmp_path / "x.npz", x=np.ones((1, 2), np.float32))
    words = {
        "convert": ["-o", tmp_path / "net.onnx"],
        "validate": [path, "--data", tmp_path / "x.npz"],
        "inspect": [],  # which runs nothing
    }[command]
    done = cli(command, path, *words)
    assert done.returncode == (0 if command == "inspect" else 2)
    assert f"'harm' is a {name}, which {why}" in re.sub(r"\s+", " ", done.stdout + done.stderr)


def test_a_function_of_the_graph_is_called_by_its_name(tmp_path: Path) -> None:
    from tensorflow.python.framework import function

    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 2], name="x")
        twice = function.Defun(tf.float32, func_name="Twice")(lambda value: value * 2)
        tf.identity(twice(x), name="y")
    assert any(node.op == "Twice" for node in graph.as_graph_def().node)
    path = tmp_path / "net.pb"
    path.write_bytes(graph.as_graph_def().SerializeToString())
    Original.of(path, outputs="y:0").lower()


def flex(harm: Any) -> bytes:
    """Return a TFLite model that does ``harm`` by an operator of TensorFlow's."""

    @tf.function(input_signature=[tf.TensorSpec([1, 2], tf.float32, name="x")])
    def call(x: Any) -> Any:
        return harm(x)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([call.get_concrete_function()])
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS,
    ]  # fmt: skip
    return bytes(converter.convert())


def test_what_is_in_the_options_of_a_flex_operator_decides(tmp_path: Path) -> None:
    data = flex(lambda x: x * tf.cast(tf.timestamp(), tf.float32))
    assert b"FlexTimestamp" in data
    path = tmp_path / "net.tflite"
    for told in (data, data.replace(b"FlexTimestamp", b"FlexIdentityN")):
        path.write_bytes(told)
        with pytest.raises(ModelError, match="has a Timestamp, which asks the machine"):
            Original.of(path).lower()


def test_a_flex_operator_that_computes_is_run(tmp_path: Path) -> None:
    data = flex(tf.math.erf)
    assert b"FlexErf" in data
    path = tmp_path / "net.tflite"
    path.write_bytes(data)
    assert read_tflite(path).has_flex


# The lists ----------------------------------------------------------------------------------------


def test_every_operator_of_tensorflow_is_known_to_compute_or_has_a_reason_against_it() -> None:
    from tensorflow.python.framework.c_api_util import ApiDefMap

    flex(tf.math.erf)  # TensorFlow Lite's converter registers some more
    names = set(ApiDefMap().op_names())
    assert len(names) > 1400
    reasons = {
        name: [why for why, pattern in operators.REACHING.items() if pattern.fullmatch(name)]
        for name in names
    }
    assert {
        name for name in names if not reasons[name] and name not in operators.COMPUTING
    } == set()
    assert {name for name in names if reasons[name] and name in operators.COMPUTING} == set()


def test_no_operator_that_computes_names_a_file_or_an_address() -> None:
    from tensorflow.python.framework import op_def_registry

    words = re.compile("file.*|.*_file.*|path|address|host|url|descriptor_source|.*_region_name")

    def named(operator: str) -> bool:
        told = op_def_registry.get(operator)
        return any(words.fullmatch(part.name) for part in (*told.input_arg, *told.attr))

    assert all(map(named, ("ReadFile", "ImmutableConst", "FixedUnigramCandidateSampler")))
    assert [name for name in operators.COMPUTING if named(name)] == []


def test_every_operator_of_tensorflow_lite_is_known_to_compute_or_has_a_reason_against_it() -> None:
    from tensorflow.lite.python.schema_py_generated import BuiltinOperator

    names = set(names_of(BuiltinOperator).values()) - {"CUSTOM"}
    assert names == reaching.COMPUTING | set(reaching.REACHING)
    assert not reaching.COMPUTING & set(reaching.REACHING)
