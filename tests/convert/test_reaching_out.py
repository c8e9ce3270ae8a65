"""TensorFlow's own files of programs that do more than compute are refused before they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onnxgraft.errors import ModelError
from onnxgraft.stages.convert import Original
from onnxgraft.stages.convert.tensorflow.reading.forbidden import _reason

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


def test_every_operator_of_tensorflow_that_names_a_file_is_known() -> None:
    # Operators of which an argument is called so take a path.
    from tensorflow.core.framework.op_def_pb2 import OpList
    from tensorflow.python.client import pywrap_tf_session as client

    operators = OpList()
    operators.ParseFromString(client.TF_GetBuffer(client.TF_GetAllOpList()))
    names = {
        op.name
        for op in operators.op
        for argument in op.input_arg
        if any(word in argument.name for word in ("filename", "file_pattern", "filepattern"))
    }
    assert len(names) > 20
    # It makes a name of a name.
    assert {name for name in names if _reason(name) is None} <= {"ShardedFilename"}
