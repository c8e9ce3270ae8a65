"""The model on its way from a framework to an engine: graph, provenance and name map."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from onnxgraft.errors import ModelError, NotSupportedError, reason_in
from onnxgraft.files import existing_file, parse_json, release_pages, sha256
from onnxgraft.graph import pictures
from onnxgraft.graph.exported import Exported
from onnxgraft.graph.kept import lost
from onnxgraft.graph.names import name_nodes
from onnxgraft.graph.onnx_file import (
    check,
    fed,
    is_known,
    read_model,
    reference_to,
    save_model,
    split_weights,
    unmade,
)
from onnxgraft.graph.operators import counted
from onnxgraft.graph.scales import misfit
from onnxgraft.graph.shapes import Shapes, misfit_of
from onnxgraft.graph.source import Source
from onnxgraft.graph.surgeon import graph_of, proto_of
from onnxgraft.graph.tensors import Array, TensorSpec
from onnxgraft.graph.walk import every_node, own_bodies
from onnxgraft.notebook import section
from onnxgraft.words import several

__all__ = ["Model", "Origin", "Source", "tensor_spec"]

# It prints to standard output, which belongs to results.
G_LOGGER.severity = G_LOGGER.ERROR

# Where a saved model carries what ONNX itself has no place for.
SOURCE_KEY = "onnxgraft.source"
NAMES_KEY = "onnxgraft.names"


@dataclass(frozen=True)
class Origin:
    """The framework's tensor that a tensor of the graph holds.

    Attributes:
        name: The framework's own name, such as ``conv1_1/Relu:0``.
        perm: If given, the graph's tensor is ``numpy.transpose(origin, perm)``.
    """

    name: str
    perm: tuple[int, ...] | None = None


@dataclass
class Model:
    """An ONNX graph, where it came from, and which of its tensors are the framework's.

    Attributes:
        graph: What passes rewrite.
        source: The original file.
        names: For a tensor of the graph, the framework's tensor that it holds.
        file: What messages call it: where it was read from.
        metadata: What else the file shall say, by keys that begin with ``onnxgraft.``.
    """

    graph: gs.Graph
    source: Source
    names: dict[str, Origin] = field(default_factory=dict)
    file: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    _exported: Exported | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Take the original's path where no other is given."""
        self.file = self.file or self.source.path

    @classmethod
    def from_onnx(
        cls,
        proto: onnx.ModelProto,
        source: Source,
        names: dict[str, Origin] | None = None,
        weights: Mapping[str, Array] | None = None,
    ) -> Model:
        """Wrap an ONNX model; names and source that an earlier run stored in it are read back.

        Each node gets a name of its own, if it has none: layers are told apart by their names.

        Args:
            proto: The model.
            source: The original file.
            names: The map of tensors to the framework's names.
            weights: The data of initializers that ``proto`` only lists.
        """
        place = source.path
        stored = {prop.key: prop.value for prop in proto.metadata_props}
        if names is None:
            names = {
                tensor: Origin(name, tuple(perm) if perm else None)
                for tensor, (name, perm) in parse_json(stored.get(NAMES_KEY, "{}")).items()
            }
            if SOURCE_KEY in stored:
                source = Source(**parse_json(stored[SOURCE_KEY]))
        metadata = {
            key: value
            for key, value in stored.items()
            if key.startswith("onnxgraft.") and key not in (SOURCE_KEY, NAMES_KEY)
        }
        told = pictures.of_metadata(stored)
        if told is not None:
            metadata.setdefault(pictures.KEY, told.written())
        try:
            graph = graph_of(proto)
        except NotSupportedError as error:
            raise NotSupportedError(f"{place}: {error}") from error
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise ModelError(
                f"{place}: the graph can't be taken in ({reason_in(error)})"
            ) from error
        name_nodes(graph)
        if weights:
            for tensor in _constants(graph):
                tensor.values = weights.get(tensor.name, tensor._values)
        if (fault := misfit(graph)) is not None:
            raise ModelError(f"{place}: {fault}; quantize the network again")
        return cls(graph, source, names, metadata=metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Model:
        """Read an ONNX file.

        Raises:
            ModelError: It is no ONNX file, or onnx.checker refuses it.
            NotSupportedError: An input or output is no tensor.
        """
        file = existing_file(path, "the ONNX model")
        proto, weights = read_model(file)
        try:
            check(proto, weights)
        except (onnx.checker.ValidationError, TypeError, ValueError) as error:
            reason = unmade(proto.graph, weights) or reason_in(error)
            raise ModelError(f"{file}: not a valid ONNX file ({reason})") from error
        for kind, entries in (("input", proto.graph.input), ("output", proto.graph.output)):
            for entry in entries:
                known = entry.type.WhichOneof("value")
                if known != "tensor_type" and (known or kind == "input"):
                    raise NotSupportedError(
                        f"{file}: the {kind} {entry.name!r} is a sequence, a map or optional: only "
                        "tensors can be handled; export the model without it"
                    )
        source = Source(str(path), "onnx", sha256(file))
        try:
            model = cls.from_onnx(proto, source, weights=weights)
        except (AttributeError, RecursionError, TypeError, ValueError) as error:
            raise ModelError(f"{file}: its onnxgraft metadata is damaged ({error})") from error
        model.file = str(path)
        light, large = split_weights(model.graph) if weights else (model.graph, {})
        other = lost(proto, proto_of(light, do_type_check=False), large)
        if other is not None:
            raise NotSupportedError(
                f"{file}: {other} can't be read as the file has it; export the network again"
            )
        _complete_outputs(model.graph, model.file)
        return model

    def to_onnx(self) -> onnx.ModelProto:
        """Return the ONNX model, with source and names in its metadata; it may be changed."""
        proto, self._exported = Exported.of(self.graph, self._exported)
        return self._described(proto)

    def without_weights(self) -> tuple[onnx.ModelProto, dict[str, Array]]:
        """Return the ONNX model with its large initializers left out, and these by name.

        The model refers to them as external data; `OnnxRuntime` takes both, without a copy.
        """
        light, weights = split_weights(self.graph, plain=True)
        proto = self._described(proto_of(light))
        for entry in proto.graph.initializer:
            if entry.name in weights:
                entry.CopyFrom(reference_to(entry.name, weights[entry.name]))
        return proto, weights

    def weight_bytes(self) -> int:
        """Return the size of all constants, in bytes."""
        constants = {id(tensor): tensor for tensor in _constants(self.graph)}
        return sum(int(tensor._values.nbytes) for tensor in constants.values())

    def _described(self, proto: onnx.ModelProto) -> onnx.ModelProto:
        """Write source, names and metadata into the ONNX model."""
        names = {tensor: [o.name, o.perm and list(o.perm)] for tensor, o in self.names.items()}
        onnx.helper.set_model_props(
            proto,
            {
                SOURCE_KEY: json.dumps(vars(self.source)),
                NAMES_KEY: json.dumps(names),
                **self.metadata,
            },
        )
        return proto

    def check_types(self) -> None:
        """Raise ModelError if types and shapes of the graph do not fit, as onnx infers them.

        That is for a graph that onnxruntime does not load, which has many reasons. Where onnx does
        not know all operators, it does not know what they make, and nothing is checked.
        """
        whole = fed(*self.without_weights())
        reason = misfit_of(whole) if is_known(whole) else None
        if reason is not None:
            raise ModelError(f"{self.file}: not a valid ONNX graph ({reason})")

    def save(self, path: str | os.PathLike[str], data: str | None = None) -> None:
        """Write the ONNX file, whole or not at all; its weights are held in memory only once.

        Args:
            path: Where to write it.
            data: The name of the file beside it for the weights, where they are more than 2 GB;
                ``NAME.onnx.data`` if None.
        """
        light, weights = split_weights(self.graph)
        proto = self._described(proto_of(light))
        try:
            check(proto, weights)
        except onnx.checker.ValidationError as error:
            raise ModelError(
                f"{self.file}: the graph it became is not valid ({reason_in(error)})"
            ) from error
        save_model(Path(path), proto, weights, data)
        release_pages(weights.values())

    def copy(self) -> Model:
        """Return a model whose graph can be rewritten without touching this one's."""
        return Model(
            self.graph.copy(), self.source, dict(self.names), self.file, dict(self.metadata)
        )

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs, in order."""
        return tuple(tensor_spec(tensor) for tensor in self.graph.inputs)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs, in order."""
        return tuple(tensor_spec(tensor) for tensor in self.graph.outputs)

    def operators(self) -> dict[str, int]:
        """Return how often each operator occurs, most frequent first; those of a domain with it.

        The nodes of branches, of the bodies of loops and of the model's functions count too.
        """
        return counted(every_node(self.graph))

    @property
    def title(self) -> str:
        """The file name of the source."""
        return Path(self.source.path).name

    def _repr_html_(self) -> str:
        operators = self.operators()
        counts = ", ".join(f"{count} {op}" for op, count in operators.items())
        specs = [("input", spec) for spec in self.inputs]
        specs += [("output", spec) for spec in self.outputs]
        return section(
            f"{self.file}: {several(sum(operators.values()), 'node')}",
            ("", "name", "shape", "type"),
            [(kind, spec.name, spec.shape, spec.dtype) for kind, spec in specs],
            [f"from {self.source.path} ({self.source.framework})", counts],
        )


def tensor_spec(tensor: Any) -> TensorSpec:
    """Return the spec of a graph's tensor; a dimension without a name is called ``?``."""
    shape = tuple(
        dim if isinstance(dim, int) and dim >= 0 else (dim if isinstance(dim, str) and dim else "?")
        for dim in (tensor.shape or ())
    )
    try:
        dtype = np.dtype(tensor.dtype).name
    except TypeError:  # a type that numpy does not have, such as bfloat16: onnx's own number
        dtype = onnx.TensorProto.DataType.Name(int(tensor.dtype)).lower()
    return TensorSpec(tensor.name, dtype, shape)


def _complete_outputs(graph: gs.Graph, file: str) -> None:
    """Infer the types and shapes of outputs whose file does not say them."""
    unknown = [tensor for tensor in graph.outputs if not _has_type(tensor) or tensor.shape is None]
    if not unknown:
        return
    shapes = Shapes(graph, declared=True)
    for tensor in unknown:
        if not _has_type(tensor):
            tensor.dtype = None
            tensor.dtype = shapes.dtype(tensor)
        if tensor.dtype is None:
            raise ModelError(
                f"{file}: the type of the output {tensor.name!r} is neither said nor can it be "
                "inferred; export the network with it"
            )
        found = shapes.shape(tensor)
        if tensor.shape is None and found is not None:
            tensor.shape = [dim.written for dim in found]


def _has_type(tensor: Any) -> bool:
    undefined = isinstance(tensor.dtype, int) and tensor.dtype == onnx.TensorProto.UNDEFINED
    return tensor.dtype is not None and not undefined


def _constants(graph: gs.Graph) -> Iterator[gs.Constant]:
    """Yield every constant of a graph and its bodies, at times more than once."""
    for tensor in graph.outputs:
        if isinstance(tensor, gs.Constant):
            yield tensor
    for node in graph.nodes:
        yield from (tensor for tensor in node.inputs if isinstance(tensor, gs.Constant))
        for body in own_bodies(node):
            yield from _constants(body)
