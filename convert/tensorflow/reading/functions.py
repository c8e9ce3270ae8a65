"""SavedModels and Keras files: functions with variables, frozen by TensorFlow itself."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import threading
import zipfile
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from onnxgraft.errors import InputError, ModelError, NotSupportedError, nearest, reason_in
from onnxgraft.files import existing_file, parse_json, sha256
from onnxgraft.files.archives import DAMAGED, check_archive
from onnxgraft.files.hurrying import hurried
from onnxgraft.files.limits import ARCHIVE_GROWTH, BUFFER_BYTES
from onnxgraft.files.trust import Trust, offer, trusts
from onnxgraft.graph.model import Source
from onnxgraft.graph.names import free
from onnxgraft.optional import optional
from onnxgraft.run.demand import bounded
from onnxgraft.stages.convert.tensorflow.quiet import quiet
from onnxgraft.stages.convert.tensorflow.reading.declared import check_declared
from onnxgraft.stages.convert.tensorflow.reading.forbidden import check_operators, check_restore
from onnxgraft.stages.convert.tensorflow.reading.graphdef import Cut, FrozenGraph, Public, prepare
from onnxgraft.stages.convert.tensorflow.reading.keras2 import freeze_keras2
from onnxgraft.stages.convert.tensorflow.reading.survey import is_message
from onnxgraft.stages.convert.tensorflow.reading.text import parse_text
from onnxgraft.stages.convert.tensorflow.running import reason_of, tensorflow

__all__ = [
    "check_keras", "check_saved_model", "freeze_keras", "keras_names", "read_keras",
    "read_saved_model",
]  # fmt: skip

DEFAULT_SIGNATURE = "serving_default"
# The tag of the graph that computes what is asked, beside those for training and for TPUs.
_SERVING = "serve"
# A Keras configuration is text; more than this is none.
_MOST_CONFIG = 1 << 26
# What Keras calls an input layer that the user gave no name.
_UNNAMED = re.compile(r"input_layer(_\d+)?")
# The modules whose objects are Keras' own, and those within whose classes do nothing but compute.
_KERAS = frozenset({"keras", "tf_keras", "builtins", ""})
_COMPUTING = frozenset({
    "activations", "constraints", "dtype_policies", "engine", "initializers", "layers", "losses",
    "metrics", "mixed_precision", "models", "ops", "optimizers", "quantizers", "random",
    "regularizers", "backend", "legacy",
})  # fmt: skip
# Layers that run what the file brings: Python code, a pickle, another framework's program or
# another SavedModel.
_RUNNING = frozenset({
    "FlaxLayer", "JaxLayer", "Lambda", "TFSMLayer", "TorchModuleWrapper", "__lambda__",
})  # fmt: skip
# What the weights' file may hold beside its own size (HDF5 need not store what is all one value).
_FREE = 64 << 20
_MOST_OBJECTS = 100_000
# Tells HDF5 to load no filter from a library.
_NO_PLUGINS = {"HDF5_PLUGIN_PRELOAD": "::"}


def read_saved_model(
    path: str | os.PathLike[str],
    cut: Cut,
    signature: str | None,
) -> FrozenGraph:
    """Read a SavedModel's signature and freeze it.

    Raises:
        ModelError: The SavedModel is damaged, has custom operators, no signature, or several
            graphs of which none is tagged ``serve`` alone.
        InputError: There is no such signature.
    """
    tags = check_saved_model(Path(path))
    tf = tensorflow()
    stored = sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())
    with quiet(), bounded(stored):
        try:
            loaded = tf.saved_model.load(os.fspath(path), tags=tags and list(tags))
        except Exception as error:  # what a damaged one raises has no common base
            unknown = re.search(r"Op type not registered '([^']*)'", str(error))
            if unknown:
                raise NotSupportedError(
                    f"{path}: the SavedModel has the custom operator {unknown[1]}, which "
                    "TensorFlow knows from a library alone; export it without"
                ) from error
            raise ModelError(
                f"{path}: TensorFlow can't load the SavedModel: {reason_of(error)}"
            ) from error
    found = dict(getattr(loaded, "signatures", {}))
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
    notes = list(frozen.notes)
    if tags is not None:
        notes.insert(0, f"of its graphs the one tagged {_SERVING} was used")
    if signature is None and len(found) > 1:
        others = ", ".join(sorted(found.keys() - {name}))
        notes.insert(0, f"the signature {name} was used; there are also {others} (--signature)")
    return replace(frozen, notes=tuple(notes))


def check_saved_model(folder: Path) -> set[str] | None:
    """Return the tags by which the graph of a SavedModel is loaded; None where there is but one.

    Raises:
        ModelError: It is damaged, would do more than compute, leads out of its folder, or nothing
            tells which of its graphs is meant.
    """
    inside = folder.resolve()
    for file in folder.rglob("*"):
        if file.is_symlink() and not file.resolve().is_relative_to(inside):
            raise ModelError(f"{file}: is a link out of the SavedModel; copy the file into it")
    binary = (folder / "saved_model.pb").is_file()
    file = folder / ("saved_model.pb" if binary else "saved_model.pbtxt")
    data = existing_file(file, "the SavedModel", BUFFER_BYTES).read_bytes()
    tensorflow()
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    _check_beside(folder)
    saved = SavedModel()
    if binary and not is_message(data, saved, f"{file}:"):
        raise ModelError(f"{file}: TensorFlow can't load the SavedModel: it is cut short")
    try:
        if binary:
            saved.ParseFromString(data)
        else:
            parse_text(data, saved, f"{file}:")
    except (DecodeError, RecursionError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ModelError(f"{file}: TensorFlow can't load the SavedModel: {error}") from error
    tags = _tags(saved, file)
    for meta_graph in saved.meta_graphs:
        if tags in (None, set(meta_graph.meta_info_def.tags)):
            check_declared(str(file), meta_graph.graph_def)
            check_operators(str(file), meta_graph.graph_def)
            if not meta_graph.HasField("object_graph_def"):  # TensorFlow 1 runs its own restoring
                restore = meta_graph.saver_def.restore_op_name
                check_restore(str(file), meta_graph.graph_def, restore)
    return tags


def _tags(saved: Any, file: Path) -> set[str] | None:
    """Return the tags of the graph that computes what is asked; None where there is but one.

    They are sets, as TensorFlow compares them: what it loads is what is checked.
    """
    tagged = [set(meta_graph.meta_info_def.tags) for meta_graph in saved.meta_graphs]
    if len(tagged) == 1:
        return None
    if tagged.count({_SERVING}) != 1:
        told = "; ".join(" and ".join(sorted(tags)) or "nothing" for tags in tagged)
        raise ModelError(
            f"{file}: has {len(tagged)} graphs{f' (tagged {told})' if tagged else ''}, and not one "
            f"that is tagged {_SERVING} alone; export it again with that one"
        )
    return {_SERVING}


def _check_beside(folder: Path) -> None:
    """Raise ModelError if one of the other messages that TensorFlow reads is no such message."""
    from tensorflow.core.framework.graph_debug_info_pb2 import GraphDebugInfo
    from tensorflow.core.protobuf.fingerprint_pb2 import FingerprintDef

    for file, kind in (
        (folder / "debug" / "saved_model_debug_info.pb", GraphDebugInfo),
        (folder / "fingerprint.pb", FingerprintDef),
    ):
        if file.is_file() and file.stat().st_size:
            data = existing_file(file, "a part of the SavedModel", BUFFER_BYTES).read_bytes()
            if not is_message(data, kind, f"{file}:"):
                raise ModelError(f"{file}: is damaged; take it out of the SavedModel")


def read_keras(
    path: str | os.PathLike[str],
    cut: Cut,
    trust: Trust,
) -> FrozenGraph:
    """Read a ``.keras`` or ``.h5`` file and freeze its inference function.

    Raises:
        ModelError: The file is damaged, or its layers can't be loaded.
        InputError: It has a Lambda layer or a custom object, which would run code from the file,
            and which is not trusted.
    """
    file = existing_file(path, "the Keras model")
    version, runs = check_keras(file, trust)
    source = Source(os.fspath(path), "tensorflow", sha256(file))
    if not version.startswith("3."):
        graph_def, public = freeze_keras2(file, runs)
        return prepare(source, graph_def, cut, public)
    tensorflow()  # sets it up: Keras would import it, and let it talk
    with optional("Reading a Keras model", "tensorflow"), quiet():
        import keras
    graph_def, public = freeze_keras(keras, file, runs)
    return prepare(source, graph_def, cut, public)


def check_keras(file: Path, trust: Trust = False) -> tuple[str, bool]:
    """Return the version of Keras that wrote a file, and whether code that it brings runs.

    Raises:
        ModelError: The file is damaged.
        InputError: It would run code that is not trusted.
    """
    with hurried():  # there are damaged files on which HDF5 goes round in a circle
        config = _configuration(file)
    return config.version, _brings_code(file, config.model, trust)


def freeze_keras(keras: Any, file: Path, runs: bool) -> tuple[Any, Public]:
    """Load a Keras file and freeze its inference function.

    Args:
        keras: The library: Keras 3, or ``tf_keras`` for what Keras 2 wrote.
        file: A ``.keras`` or ``.h5`` file.
        runs: Whether code that the file brings may run.

    Returns:
        The GraphDef, and the model's own names.

    Raises:
        ModelError: The library can't load the model.
    """
    tf = tensorflow()
    held = contextlib.nullcontext() if runs else bounded(file.stat().st_size)
    with quiet(), held:
        if not runs:
            _check_size(keras, file)
        try:
            model = keras.models.load_model(file, compile=False, safe_mode=not runs)
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
        try:
            function = tf.function(call).get_concrete_function(*specs)
        except Exception as error:  # what a layer raises has no common base
            raise ModelError(
                f"{file}: Keras can't call the model in a graph: {reason_of(error)}"
            ) from error
    last = [layer.name for layer in model.layers[-1:]] if len(model.outputs) == 1 else None
    names_out = getattr(model, "output_names", None) or last or [""] * len(model.outputs)
    graph_def, public = freeze(function, _unique(names, "input"), _unique(names_out, "output"))
    tensors = [*public.inputs.values(), *public.outputs.values()]
    others = _keras_tensors(model)
    for made, tensor in zip([*model.inputs, *model.outputs], tensors, strict=True):
        name = others.get(getattr(made, "_keras_history", None))
        if name is not None:
            public.others[name] = tensor
    return graph_def, public


def _check_size(keras: Any, file: Path) -> None:
    """Raise ModelError if a model's layers have far more weights than its file holds.

    A few words ask for a layer of any size, and Keras makes all variables before it reads the
    weights. So the layers are made once without values: in a scope of Keras 3 that makes none, or
    in a graph of TensorFlow 1; in a thread of its own, as Keras keeps such variables for later.
    """
    config, tf = _configuration(file).model, tensorflow()
    sizes: list[int] = []

    def declare() -> None:
        scope = getattr(keras, "StatelessScope", None)
        nothing = scope(initialize_variables=False) if scope else tf.Graph().as_default()
        # What is wrong with the layers, loading them says.
        with contextlib.suppress(Exception), nothing:
            if "module" in config:
                model = keras.models.model_from_json(json.dumps(config))
            else:  # as HDF5 has it
                kind = keras.Sequential if config["class_name"] == "Sequential" else keras.Model
                model = kind.from_config(config["config"])
            sizes.extend(
                math.prod(variable.shape) * tf.as_dtype(variable.dtype).size
                for variable in model.variables
            )

    thread = threading.Thread(target=declare)
    thread.start()
    thread.join()
    total, size = sum(sizes), file.stat().st_size
    if total > ARCHIVE_GROWTH.most * size + _FREE:
        raise ModelError(
            f"{file}: its layers have weights of {total / 1e9:.3g} GB, and the file holds "
            f"{size / 1e6:.3g} MB; save the model again, with its weights"
        )


def _keras_tensors(model: Any) -> dict[Any, str]:
    """Return the names that Keras 3 gave the tensors as the model was built, by their history.

    It numbers what has no name of its own in the order of making, which a file does not record but
    keeps: keras_tensor, keras_tensor_1 ...
    """
    names: dict[Any, str] = {}
    graph = getattr(model, "_functional", None) or model
    for operation in getattr(graph, "operations", ()):
        kind = type(operation).__name__
        if kind == "InputLayer" and not _UNNAMED.fullmatch(operation.name):
            continue
        for tensor in operation._inbound_nodes[0].output_tensors:
            number = len(names)
            names[tensor._keras_history] = f"keras_tensor_{number}" if number else "keras_tensor"
    return names


def _unique(names: Sequence[str], kind: str) -> list[str]:
    """Return ``names``, or numbered ones where they do not tell tensors apart."""
    if len(set(names)) == len(names) and all(names):
        return list(names)
    return [f"{kind}_{index}" for index in range(len(names))]


def freeze(function: Any, names_in: Sequence[str], names_out: Sequence[str]) -> tuple[Any, Public]:
    """Turn a concrete function's variables into constants; return its GraphDef and its names."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    tf = tensorflow()
    weights = function.graph.variables
    stored = sum(math.prod(weight.shape) * weight.dtype.size for weight in weights)
    with quiet(), bounded(stored):
        try:
            constant = convert_variables_to_constants_v2(function, lower_control_flow=False)
        except Exception as error:  # likewise
            written = [o.name for o in function.graph.get_operations() if "Assign" in o.type]
            if written:
                raise NotSupportedError(
                    f"the model writes to variables as it runs ({written[0]}), which no engine "
                    "keeps; build it without (a recurrent layer with stateful=False), or with its "
                    "state as an input and an output"
                ) from error
            raise ModelError(f"TensorFlow can't freeze the model: {reason_of(error)}") from error
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
    graph_def = _inlinable(constant)
    ends = _apart(graph_def, names_out, constant.outputs, given)
    public = Public(
        dict(zip(names_in, tensors, strict=True)), dict(zip(names_out, ends, strict=True))
    )
    return graph_def, public


def _apart(
    graph_def: Any, names: Sequence[str], tensors: Sequence[Any], inputs: AbstractSet[str]
) -> list[str]:
    """Return the tensor of each output; an Identity where it is an input's or another output's."""
    taken = {node.name for node in graph_def.node}
    found: list[str] = []
    for name, tensor in zip(names, tensors, strict=True):
        if tensor.name in inputs or tensor.name in found:
            node = graph_def.node.add(name=free(taken, f"{name}/output"), op="Identity")
            node.input.append(tensor.name)
            node.attr["T"].type = tensor.dtype.as_datatype_enum
            found.append(f"{node.name}:0")
        else:
            found.append(tensor.name)
    return found


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
    os.environ.update(_NO_PLUGINS)
    with optional("Reading a Keras model", "tensorflow"):
        import h5py
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                check_archive(archive, file)
                for entry in archive.infolist():
                    if entry.filename.endswith(".h5"):
                        with archive.open(entry) as member, h5py.File(member, "r") as weights:
                            _check_weights(weights, entry.file_size)
                about = parse_json(_member(archive, "metadata.json"))
                return _Configuration(
                    parse_json(_member(archive, "config.json")), str(about.get("keras_version"))
                )
        with h5py.File(file, "r") as archive:
            _check_weights(archive, file.stat().st_size)
            config = archive.attrs.get("model_config")
            if config is None:
                raise ValueError("it holds weights alone, and no architecture")
            return _Configuration(parse_json(config), str(archive.attrs.get("keras_version", "")))
    except RecursionError as error:
        raise ModelError(f"{file}: not a Keras model (its layers are nested too deep)") from error
    except (*DAMAGED, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{file}: not a Keras model ({reason_in(error)})") from error


def keras_names(file: Path) -> tuple[str, ...]:
    """Return the names of the models in a Keras file, the outermost first."""
    found, waiting = [], [_configuration(file).model]
    while waiting:
        entry = waiting.pop(0)
        inside = entry.get("config") if isinstance(entry, dict) else None
        if isinstance(inside, dict) and isinstance(inside.get("layers"), list):
            found.append(str(inside.get("name", "")))
            waiting += inside["layers"]
    return tuple(found)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > _MOST_CONFIG:
        raise ValueError(f"its {name} is too large")
    return archive.read(name)


def _check_weights(archive: Any, size: int) -> None:
    """Raise ValueError if an HDF5 file leads to other files, or says to hold far more than it does.

    Args:
        archive: The open file.
        size: In bytes.
    """
    import h5py

    total = count = 0
    left = [archive]
    while left:
        group = left.pop()
        for name in group:
            count += 1
            if count > _MOST_OBJECTS:
                raise ValueError(f"it has more than {_MOST_OBJECTS:,} objects")
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise ValueError(f"{name!r} in it is a link to another file")
            if isinstance(link, h5py.SoftLink):
                raise ValueError(f"{name!r} in it is a link")
            item = group[name]
            if isinstance(item, h5py.Group):
                left.append(item)
            elif isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise ValueError(f"the values of {name!r} are in another file")
                total += item.size * item.dtype.itemsize if item.size else 0
    if total > ARCHIVE_GROWTH.most * size + _FREE:
        raise ValueError(
            f"its weights are {total / size:.0f} times its own size, at most "
            f"{ARCHIVE_GROWTH.most} times are read"
        )


def _brings_code(file: Path, config: Any, trust: Trust) -> bool:
    """Tell whether loading a model runs code that the file brings or names.

    Raises:
        InputError: It would, and that is not trusted.
    """
    found = trust is True
    refused = []
    for entry, owner in _objects(config):
        does = _does(entry)
        if does is None:
            continue
        found = True
        # A lambda has no name of its own: whoever trusts a layer trusts those in it.
        called = _names(owner if entry["class_name"] == "__lambda__" else entry)
        if not trusts(trust, *called):
            refused.append((str(entry["class_name"]), called[0] or called[1], does))
    if not refused:
        return found
    kind, name, does = refused[0]
    what = f"the {kind} layer {name!r}" if kind in _RUNNING else f"{kind} {name!r}"
    others = dict.fromkeys(f"{kind} {name!r}" for kind, name, _ in refused[1:])
    others.pop(f"{kind} {name!r}", None)
    rest = f", and there are {', '.join(others)}" if others else ""
    raise InputError(f"{file}: {what} {does}{rest}; {offer(name)}")


def _names(entry: dict[str, Any]) -> tuple[str, str, str]:
    """Return what an object goes by: its name, which may be empty, its class, and both modules'."""
    kind, own = str(entry.get("class_name")), entry.get("config")
    name = own.get("name") if isinstance(own, dict) else own if kind == "function" else None
    return str(name or ""), kind, f"{entry.get('module')}.{kind}"


def _does(entry: dict[str, Any]) -> str | None:
    """Say what loading an object would do beside computing; None if nothing."""
    kind, own = str(entry.get("class_name")), entry.get("config")
    code = isinstance(own, dict) and any(
        str(key).endswith("_type") and value == "lambda" for key, value in own.items()
    )
    if kind in _RUNNING or code:
        return "holds Python code or a program that loading would run"
    if isinstance(own, dict) and isinstance(own.get("vocabulary"), str):
        return f"would read the file {own['vocabulary']!r}"
    module = str(entry.get("module") or "")
    parts = [part for part in module.split(".") if part != "src"]
    inner = parts[1:2] if parts[:1] in (["keras"], ["tf_keras"]) else []
    named = [kind, own if kind == "function" else entry.get("registered_name")]
    if not set(inner) <= _COMPUTING or any("." in str(word or "") for word in named):
        return f"is {module}'s, which does more than compute"
    if module.split(".")[0] not in _KERAS:
        return f"is a custom object of {module}, whose code loading would run"
    return None


def _objects(value: Any) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield all objects with a class within a configuration, each with the one that it is in."""
    stack: list[tuple[Any, dict[str, Any]]] = [(value, {})]
    while stack:
        item, owner = stack.pop()
        if isinstance(item, dict):
            if "class_name" in item:
                yield item, owner
                owner = item
            stack.extend((inner, owner) for inner in item.values())
        elif isinstance(item, list):
            stack.extend((inner, owner) for inner in item)
