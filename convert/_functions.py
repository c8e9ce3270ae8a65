"""SavedModels and Keras files: functions with variables, frozen by TensorFlow itself."""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from onnxgraft.convert._forbidden import check_constants, check_operators, check_restore, is_message
from onnxgraft.convert._graphdef import Cut, FrozenGraph, Public, prepare
from onnxgraft.convert._keras2 import freeze_keras2
from onnxgraft.convert._quiet import quiet
from onnxgraft.convert._tensorflow import reason_of, tensorflow
from onnxgraft.errors import InputError, ModelError, NotSupportedError, nearest
from onnxgraft.files import existing_file, sha256
from onnxgraft.limits import BUFFER_BYTES
from onnxgraft.model import Source
from onnxgraft.optional import optional

__all__ = ["freeze_keras", "read_keras", "read_saved_model"]

DEFAULT_SIGNATURE = "serving_default"
# A Keras configuration is text; more than this is none.
_MOST_CONFIG = 1 << 26
# The modules whose objects are Keras' own.
_KERAS = frozenset({"keras", "tf_keras", "builtins", ""})


def read_saved_model(
    path: str | os.PathLike[str],
    cut: Cut,
    signature: str | None,
) -> FrozenGraph:
    """Read a SavedModel's signature and freeze it.

    Raises:
        ModelError: The SavedModel is damaged, has custom operators, or no signature.
        InputError: There is no such signature.
    """
    _check_saved_model(Path(path))
    tf = tensorflow()
    with quiet():
        try:
            loaded = tf.saved_model.load(os.fspath(path))
        except (OSError, ValueError, KeyError, RuntimeError, tf.errors.OpError) as error:
            unknown = re.search(r"Op type not registered '([^']*)'", str(error))
            if unknown:
                raise NotSupportedError(
                    f"{path}: the SavedModel has the custom operator {unknown[1]}, which "
                    "TensorFlow knows from a library alone; export it without"
                ) from error
            raise ModelError(
                f"{path}: TensorFlow can't load the SavedModel: {reason_of(error)}"
            ) from error
    found = dict(loaded.signatures)
    if not found:
        raise ModelError(f"{path}: the SavedModel has no signature; export it with one")
    name = signature or (DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in found else sorted(found)[0])
    if name not in found:
        raise InputError(f"{path}: no signature is called {name!r}; {nearest(name, found)}")
    function = found[name]
    digest = hashlib.sha256()
    for file in sorted(p for p in Path(path).rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path)} {sha256(file)}\n".encode())
    source = Source(os.fspath(path), "tensorflow", digest.hexdigest())
    names = (list(function.structured_input_signature[1]), sorted(function.structured_outputs))
    graph_def, public = freeze(function, *names)
    frozen = prepare(source, graph_def, cut, public)
    if signature is None and len(found) > 1:
        others = ", ".join(sorted(found.keys() - {name}))
        note = f"the signature {name} was taken; there are also {others} (--signature)"
        frozen = FrozenGraph(**{**vars(frozen), "notes": (note, *frozen.notes)})
    return frozen


def _check_saved_model(folder: Path) -> None:
    """Raise ModelError if a SavedModel would do more than compute, or leads out of its folder."""
    inside = folder.resolve()
    for file in folder.rglob("*"):
        if file.is_symlink() and not file.resolve().is_relative_to(inside):
            raise ModelError(f"{file}: is a link out of the SavedModel; copy the file into it")
    file = folder / "saved_model.pb"
    if not file.is_file():
        raise ModelError(f"{folder}: the SavedModel is text (saved_model.pbtxt); save it as binary")
    data = existing_file(file, "the SavedModel", BUFFER_BYTES).read_bytes()
    if not is_message(data, "SavedModel", f"{file}:"):
        raise ModelError(f"{file}: TensorFlow can't load the SavedModel: it is cut short")
    tensorflow()
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    saved = SavedModel()
    try:
        saved.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(f"{file}: TensorFlow can't load the SavedModel: {error}") from error
    for meta_graph in saved.meta_graphs:
        check_constants(str(file), meta_graph.graph_def)
        check_operators(str(file), meta_graph.graph_def)
        if meta_graph.HasField("saver_def"):
            restore = meta_graph.saver_def.restore_op_name
            check_restore(str(file), meta_graph.graph_def, restore)


def read_keras(
    path: str | os.PathLike[str],
    cut: Cut,
    trust: bool,
) -> FrozenGraph:
    """Read a ``.keras`` or ``.h5`` file and freeze its inference function.

    Raises:
        ModelError: The file is damaged, or its layers can't be loaded.
        InputError: It has a Lambda layer or a custom object, which would run code from the file.
    """
    file = existing_file(path, "the Keras model")
    config = _configuration(file)
    if not trust:
        _refuse_code(file, config.model)
    source = Source(os.fspath(path), "tensorflow", sha256(file))
    if not config.version.startswith("3."):
        graph_def, public = freeze_keras2(file, trust)
        return prepare(source, graph_def, cut, public)
    with optional("Reading a Keras model", "tensorflow"):
        import keras
    graph_def, public = freeze_keras(keras, file, trust)
    return prepare(source, graph_def, cut, public)


def freeze_keras(keras: Any, file: Path, trust: bool) -> tuple[Any, Public]:
    """Load a Keras file and freeze its inference function.

    Args:
        keras: The library: Keras 3, or ``tf_keras`` for what Keras 2 wrote.
        file: A ``.keras`` or ``.h5`` file.
        trust: Load Python code that the file brings.

    Returns:
        The GraphDef, and the model's own names.

    Raises:
        ModelError: The library can't load the model.
    """
    tf = tensorflow()
    with quiet():
        try:
            model = keras.models.load_model(file, compile=False, safe_mode=not trust)
        except Exception as error:  # what a damaged file raises has no common base
            raise ModelError(f"{file}: Keras can't load the model: {reason_of(error)}") from error
        if not model.built:
            raise ModelError(f"{file}: the model was saved before it knew its input's shape")

        tree = getattr(keras, "tree", tf.nest)

        def call(*tensors: Any) -> list[Any]:
            one = len(tensors) == 1
            packed = tensors[0] if one else tree.pack_sequence_as(model.input, tensors)
            return list(tree.flatten(model(packed, training=False)))

        names = getattr(model, "input_names", None) or [tensor.name for tensor in model.inputs]
        specs = [
            tf.TensorSpec(tensor.shape, tensor.dtype, name=f"input_{index}")
            for index, tensor in enumerate(model.inputs)
        ]
        function = tf.function(call).get_concrete_function(*specs)
    last = [layer.name for layer in model.layers[-1:]] if len(model.outputs) == 1 else None
    names_out = getattr(model, "output_names", None) or last or [""] * len(model.outputs)
    return freeze(function, _unique(names, "input"), _unique(names_out, "output"))


def _unique(names: Sequence[str], kind: str) -> list[str]:
    """Return ``names``, or numbered ones where they do not tell tensors apart."""
    if len(set(names)) == len(names) and all(names):
        return list(names)
    return [f"{kind}_{index}" for index in range(len(names))]


def freeze(function: Any, names_in: Sequence[str], names_out: Sequence[str]) -> tuple[Any, Public]:
    """Turn a concrete function's variables into constants; return its GraphDef and its names."""
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    tf = tensorflow()
    with quiet():
        constant = convert_variables_to_constants_v2(function, lower_control_flow=False)
    given = {tensor.name for tensor in constant.inputs}
    if len(given) != len(names_in):
        tables = sorted(tensor.name for tensor in constant.inputs if tensor.dtype == tf.resource)
        raise NotSupportedError(
            f"the model looks words up in tables ({', '.join(tables)}), which no engine has; cut "
            "the network behind them and export that"
        )
    # A signature's placeholders are called by its arguments; elsewhere the order tells.
    by_name = [f"{name}:0" for name in names_in]
    tensors = by_name if set(by_name) == given else [tensor.name for tensor in constant.inputs]
    public = Public(
        dict(zip(names_in, tensors, strict=True)),
        dict(zip(names_out, (tensor.name for tensor in constant.outputs), strict=True)),
    )
    return _inlinable(constant), public


def _inlinable(constant: Any) -> Any:
    """Return the function's GraphDef with nothing that keeps its inner calls from being inlined.

    Keras marks some layers' calls for XLA, which TensorFlow's optimizer then leaves as calls.
    """
    graph_def = constant.graph.as_graph_def()
    for function in graph_def.library.function:
        for key in ("_XlaMustCompile", "_noinline"):
            function.attr.pop(key, None)
    nodes = [*graph_def.node, *(n for f in graph_def.library.function for n in f.node_def)]
    for node in nodes:
        for key in ("_XlaMustCompile", "_noinline"):
            if key in node.attr:
                del node.attr[key]
    return graph_def


class _Configuration(NamedTuple):
    model: Any
    version: str


def _configuration(file: Path) -> _Configuration:
    """Return the configuration of a Keras file without loading anything of it."""
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                about = json.loads(_member(archive, "metadata.json"))
                return _Configuration(
                    json.loads(_member(archive, "config.json")), str(about.get("keras_version"))
                )
        import h5py

        with h5py.File(file, "r") as archive:
            config = archive.attrs.get("model_config")
            if config is None:
                raise ValueError("it holds weights alone, and no architecture")
            return _Configuration(json.loads(config), str(archive.attrs.get("keras_version", "")))
    except (AttributeError, KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise ModelError(f"{file}: not a Keras model ({error})") from error


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > _MOST_CONFIG:
        raise ValueError(f"its {name} is too large")
    return archive.read(name)


def _refuse_code(file: Path, config: Any) -> None:
    """Raise InputError if loading the model would run code that the file brings or names."""
    for entry in _objects(config):
        kind, module = entry.get("class_name"), entry.get("module")
        name = (entry.get("config") or {}).get("name", "") if isinstance(entry, dict) else ""
        if kind == "Lambda":
            raise InputError(
                f"{file}: the Lambda layer {name!r} holds Python code that loading would run; "
                "--trust allows it"
            )
        if isinstance(module, str) and module.split(".")[0] not in _KERAS:
            raise InputError(
                f"{file}: {kind} {name!r} is a custom object of {module}, whose code loading would "
                "run; --trust allows it"
            )


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield all objects with a class within a configuration."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if "class_name" in item:
                yield item
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
