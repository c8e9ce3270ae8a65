"""TensorFlow 1 checkpoints: restored, frozen, and freed of what only training needs."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from onnxgraft.errors import InputError, ModelError
from onnxgraft.files import existing_file, sha256
from onnxgraft.files.limits import BUFFER_BYTES
from onnxgraft.graph.model import Source
from onnxgraft.graph.tensor_option import TensorOption
from onnxgraft.run.demand import bounded
from onnxgraft.stages.convert.tensorflow.names import node_of
from onnxgraft.stages.convert.tensorflow.quiet import quiet
from onnxgraft.stages.convert.tensorflow.reading.declared import check_declared
from onnxgraft.stages.convert.tensorflow.reading.forbidden import check_restore
from onnxgraft.stages.convert.tensorflow.reading.graphdef import (
    QUEUES,
    Cut,
    FrozenGraph,
    loose_ends,
    prepare,
)
from onnxgraft.stages.convert.tensorflow.reading.survey import is_message
from onnxgraft.stages.convert.tensorflow.running import reason_of, tensorflow

__all__ = ["checkpoint_prefix", "read_checkpoint"]

# What optimizers, savers and summaries add to a graph.
_TRAINING = re.compile(r"(^|/)(gradients|save|report_uninitialized_variables|init)(_\d+)?/")

# Operators that write into the variable that is their first input.
_WRITES = re.compile(
    r"Assign|(Resource)?(Sparse)?Apply|ResourceScatter|Scatter(Nd)?(Update|Add|Sub|Mul|Div|Min|Max)"
)


def checkpoint_prefix(path: str | os.PathLike[str]) -> Path | None:
    """Return the prefix of the checkpoint that ``path`` is a part of, or None."""
    file = Path(path)
    text = re.sub(r"\.(meta|index|data-\d+-of-\d+)$", "", os.fspath(file))
    return Path(text) if Path(f"{text}.meta").is_file() else None


def read_checkpoint(prefix: Path, cut: Cut) -> FrozenGraph:
    """Restore a checkpoint and freeze the part of it that inference needs.

    Raises:
        ModelError: A part is missing or damaged, or no output is to be found.
    """
    tf = tensorflow()
    meta = existing_file(f"{prefix}.meta", "the checkpoint's graph", BUFFER_BYTES)
    check_meta(meta)
    parts = sorted(prefix.parent.glob(f"{prefix.name}.data-*"))
    if not Path(f"{prefix}.index").is_file() or not parts:
        raise ModelError(
            f"{prefix}: the checkpoint has no .index or no .data file beside its .meta"
        )
    graph = tf.Graph()
    with graph.as_default(), quiet(), tf.compat.v1.Session(graph=graph) as session:
        try:
            with bounded(meta.stat().st_size):
                saver = tf.compat.v1.train.import_meta_graph(os.fspath(meta), clear_devices=True)
            if saver is None:
                raise ValueError("its graph has no variables")
            saver.restore(session, os.fspath(prefix))
        except Exception as error:  # damaged files raise whatever the reader meets first
            raise ModelError(
                f"{prefix}: the checkpoint can't be restored: {reason_of(error)}"
            ) from error
        ends, scalars = [_named(graph, option) for option in cut.outputs], list[Any]()
        if not ends:
            ends, scalars = _inference_ends(graph)
        if not ends:
            raise InputError(
                f"{prefix}: nothing but losses and training is left at the graph's end; name the "
                "outputs with --outputs"
            )
        names = [tensor.op.name for tensor in ends]
        definition = _without_updates(graph.as_graph_def(), names)
        frozen = tf.compat.v1.graph_util.convert_variables_to_constants(session, definition, names)
    for node in frozen.node:
        node.attr.pop("_class", None)  # beside which node it has to run: one may be gone
    digest = hashlib.sha256()
    for file in (meta, Path(f"{prefix}.index"), *parts):
        digest.update(sha256(file).encode())
    source = Source(os.fspath(prefix), "tensorflow", digest.hexdigest())
    options = [TensorOption(tensor.name, None) for tensor in ends]
    found = prepare(source, frozen, replace(cut, outputs=options))
    if scalars:
        told = ", ".join(tensor.name for tensor in scalars)
        note = f"{told}: left out, as losses and counters are single numbers (--outputs)"
        found = replace(found, notes=(*found.notes, note))
    return found


def _without_updates(definition: Any, ends: Sequence[str]) -> Any:
    """Return a graph in which outputs do not wait for what training counts or averages.

    What an output waits for, and is written to a variable that it is not computed of, changes
    nothing of it. Where it is computed of that, it waits as before.
    """
    nodes = {node.name: node for node in definition.node}

    def behind(names: Iterable[str], *, waits: bool) -> set[str]:
        stack, seen = list(names), set()
        while stack:
            name = node_of(stack.pop())
            if name in nodes and name not in seen:
                seen.add(name)
                stack += [s for s in nodes[name].input if waits or not s.startswith("^")]
        return seen

    @functools.cache
    def harmless(source: str) -> bool:
        """Tell whether something writes where a wait leads, and nothing that is read."""
        made = behind([source], waits=True)
        written = [nodes[n].input[0] for n in made if _WRITES.match(nodes[n].op)]
        return bool(written) and not behind(written, waits=False) & computing

    computing = behind(ends, waits=False)
    for name in computing:
        node = nodes[name]
        node.input[:] = [s for s in node.input if not (s.startswith("^") and harmless(s))]
    return definition


def check_meta(file: Path) -> None:
    """Raise ModelError if restoring the variables of a graph would do more than that."""
    data = file.read_bytes()
    definition = tensorflow().compat.v1.MetaGraphDef()
    try:
        if not is_message(data, definition, f"{file}:"):
            raise DecodeError("it is cut short, or another kind of file")
        definition.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(
            f"{file.with_suffix('')}: the checkpoint can't be restored: {error}"
        ) from error
    graph = definition.graph_def
    check_declared(str(file), graph)
    reads = [f"{node.name}/Read/ReadVariableOp" for node in graph.node if node.op == "VarHandleOp"]
    for operation in (definition.saver_def.restore_op_name, *reads):
        check_restore(str(file), graph, operation)


def _named(graph: Any, option: TensorOption) -> Any:
    name = option.name if ":" in option.name else f"{option.name}:0"
    try:
        return graph.get_tensor_by_name(name)
    except (KeyError, ValueError) as error:
        raise InputError(f"no tensor is called {option.name!r} in the checkpoint") from error


def _inference_ends(graph: Any) -> tuple[list[Any], list[Any]]:
    """Return what is left at the end without training, and scalars: losses and counters."""
    definition = graph.as_graph_def()
    kept = [node for node in definition.node if not _TRAINING.search(node.name)]
    del definition.node[:]
    definition.node.extend(kept)
    ends = [tensor for tensor in loose_ends(definition, graph) if _computes(tensor)]
    return [t for t in ends if t.shape.rank != 0], [t for t in ends if t.shape.rank == 0]


def _computes(tensor: Any) -> bool:
    """Tell whether the tensor is computed from what is fed, and is no state of an optimizer."""
    stack, seen = [tensor.op], set()
    while stack:
        operation = stack.pop()
        if operation.name in seen:
            continue
        seen.add(operation.name)
        if operation.type.startswith("Placeholder") or QUEUES.fullmatch(operation.type):
            return tensor.op.type not in ("Identity", "ReadVariableOp") or len(seen) > 2
        stack.extend(source.op for source in operation.inputs)
    return False
