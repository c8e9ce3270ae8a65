"""A Caffe net as Caffe itself would set it up for TEST: which layers run, on which blobs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from onnxgraft.errors import InputError, ModelError, NotSupportedError, nearest
from onnxgraft.files import existing_file
from onnxgraft.files.limits import PROTOTXT_BYTES
from onnxgraft.graph.names import Taken, free
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert.caffe.reading.prototxt import Message, Scalar, parse_prototxt
from onnxgraft.stages.convert.caffe.reading.upgrade import layers_of

__all__ = ["Layer", "Net", "dummy_shapes", "read_net"]

_RULE_FIELDS = frozenset({"max_level", "min_level", "not_stage", "phase", "stage"})
_PHASES = ("TRAIN", "TEST")
# Fields of a net: those that are read, and those that change nothing at inference.
_NET_FIELDS = frozenset({"input", "input_dim", "input_shape", "layer", "layers", "name", "state"})
_NET_HARMLESS = frozenset(
    {"compile_net_state", "debug_info", "default_backward_math", "default_backward_type",
     "default_conv_algos_override", "default_cudnn_math_override", "default_forward_math",
     "default_forward_type", "engine", "force_backward", "global_grad_scale",
     "global_grad_scale_adaptive", "mem_param", "reduce_buckets"}
)  # fmt: skip

# Layers that feed a net from somewhere; their first top is an input, the others are labels.
DATA_LAYERS = frozenset(
    {"AnnotatedData", "Data", "DenseImageData", "HDF5Data", "ImageData", "ImageSegData", "Input",
     "MemoryData", "VideoData", "VolumeData", "WindowData"}
)  # fmt: skip
# Layers whose output is of no use at inference.
DROPPED = frozenset(
    {"Accuracy", "ContrastiveLoss", "DetectionEvaluate", "EuclideanLoss", "HDF5Output", "HingeLoss",
     "InfogainLoss", "MultiBoxLoss", "MultinomialLogisticLoss", "SigmoidCrossEntropyLoss",
     "SmoothL1Loss", "SoftmaxWithLoss", "TripletLoss"}
)  # fmt: skip


@dataclass
class Layer:
    """A layer that runs at inference.

    Attributes:
        name: Its own.
        type: As the prototxt says.
        bottoms: Versions of blobs that it reads.
        tops: Versions of blobs that it writes.
        message: Its fields.
        blobs: Its weights; empty where the caffemodel has none.
        position: Its number in the file, from 1.
    """

    name: str
    type: str
    bottoms: list[str]
    tops: list[str]
    message: Message
    blobs: list[Array]
    position: int

    def parameter(self, name: str) -> Message:
        """Return one of the layer's parameter messages, empty if it is not there."""
        return self.message.message(name)

    def __str__(self) -> str:
        """Return what messages call it."""
        return f"layer {self.position}, {self.type} {self.name!r} (line {self.message.line})"


@dataclass
class Net:
    """The layers of a net in order, its inputs and outputs.

    Attributes:
        name: Of the net.
        inputs: Shape by blob; -1 is a free dimension.
        layers: That run at inference.
        outputs: Versions of blobs that nothing consumes, in the order of production.
        blobs: The blob's own name, by version; an in-place layer makes a new version.
        own_inputs: The inputs that the net itself has.
        notes: What was left out, and why.
        v1: Whether it is written as V1 or V0 nets are.
    """

    name: str
    inputs: dict[str, tuple[int, ...]]
    layers: list[Layer]
    outputs: list[str]
    blobs: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    own_inputs: frozenset[str] = frozenset()
    v1: bool = False


def read_net(
    path: str | os.PathLike[str],
    weights: Mapping[str, list[Array]],
    shapes: Mapping[str, tuple[int, ...]],
) -> Net:
    """Read a prototxt and set the net up for TEST.

    Args:
        path: The prototxt.
        weights: Blobs by layer name.
        shapes: Of inputs for which the net gives none, or others than it gives.

    Raises:
        ModelError: The text is no net, or a layer reads what was never made.
    """
    file = existing_file(path, "the prototxt", PROTOTXT_BYTES)
    try:
        message = parse_prototxt(file.read_text(encoding="utf-8-sig"))
        return _SetUp(message, weights, shapes).run()
    except UnicodeDecodeError as error:
        raise ModelError(f"{file}: not a prototxt, it is not text") from error
    except (ModelError, NotSupportedError) as error:
        raise type(error)(f"{file}: {error}") from error


class _SetUp:
    """The walk over the layers in order that gives every blob its versions."""

    def __init__(
        self,
        message: Message,
        weights: Mapping[str, list[Array]],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        self.message = message
        self.weights = weights
        self.shapes = dict(shapes)
        self.net = Net(message.text("name") or "net", {}, [], [])
        self.latest: dict[str, str] = {}
        # What blobs and their versions are called.
        self.names = Taken(message.texts("input"))
        self.dropped: set[str] = set()
        self.consumed: set[str] = set()
        self.shared: dict[str, Array] = {}
        # Whether anything is fed, and the convolutions of each blob.
        self.fed = False
        self.convolutions: dict[str, list[Message]] = {}

    def run(self) -> Net:
        _check_known(self.message, _NET_FIELDS | _NET_HARMLESS, "the net")
        numbered = enumerate(layers_of(self.message), 1)
        running = [(position, layer) for position, layer in numbered if self._runs(layer)]
        layers = [layer for _, layer in running]
        self._declared_inputs(layers)
        self.names.update(top for layer in layers for top in layer.texts("top"))
        self.fed = bool(self.message.texts("input")) or any(map(_feeds, layers))
        for layer in layers:
            if layer.text("type") == "Convolution":
                for bottom in layer.texts("bottom"):
                    self.convolutions.setdefault(bottom, []).append(layer)
        for position, layer in running:
            self._add(layer, position)
        self.net.outputs = [
            version
            for layer in self.net.layers
            for version in layer.tops
            if version not in self.consumed
        ]
        if not self.net.outputs:
            raise ModelError("the net has no outputs at inference")
        self._name_versions()
        self.net.v1 = self.message.has("layers")
        self.net.own_inputs = frozenset(self.net.inputs)
        return self.net

    def _declared_inputs(self, layers: Sequence[Message]) -> None:
        """Take the inputs of `input:` with `input_dim:` or `input_shape`.

        Without any shape Caffe reads over `input:`, and a layer makes the blob.
        """
        names = self.message.texts("input")
        dims = self.message.integers("input_dim")
        shapes = [shape.integers("dim") for shape in self.message.messages("input_shape")]
        # C3D's have five.
        axes = len(dims) // len(names) if names else 4
        if dims and (axes not in (4, 5) or len(dims) != axes * len(names)):
            raise ModelError(
                f"{len(dims)} input_dim for {len(names)} inputs; 4 are wanted for each"
            )
        if dims:
            shapes = [dims[axes * i : axes * (i + 1)] for i in range(len(names))]
        if not shapes:
            made = {top for layer in layers for top in layer.texts("top")}
            names = [name for name in names if name not in made]
        for index, name in enumerate(names):
            self._input(name, tuple(shapes[index]) if index < len(shapes) else None)

    def _input(self, name: str, shape: tuple[int, ...] | None) -> None:
        shape = self.shapes.get(name, shape)
        if shape is None:
            raise InputError(
                f"the net does not say the shape of its input {name!r}; give it, such as "
                f"--inputs '{name}[1,3,224,224]'"
            )
        bad = [dim for dim in shape if dim < -1 or dim == 0 or dim > 1 << 24]
        if bad or len(shape) > 8:
            raise ModelError(f"the input {name!r} has the shape {list(shape)}")
        self.net.inputs[name] = shape
        self.latest[name] = name
        self.net.blobs[name] = name

    def _runs(self, layer: Message) -> bool:
        """Tell whether Caffe would include the layer in this state."""
        state = self.message.message("state")
        _check_known(state, {"level", "phase", "stage"}, "the net's state")
        phase = state.choice("phase", "TEST", _PHASES)
        level, stages = state.integer("level"), set(state.texts("stage"))

        def meets(rule: Message) -> bool:
            _check_known(rule, _RULE_FIELDS, "a rule of include or exclude")
            return (
                rule.choice("phase", phase, _PHASES) == phase
                and rule.integer("min_level", level) <= level <= rule.integer("max_level", level)
                and set(rule.texts("stage")) <= stages
                and not set(rule.texts("not_stage")) & stages
            )

        included, excluded = layer.messages("include"), layer.messages("exclude")
        if included:
            return any(meets(rule) for rule in included)
        return not any(meets(rule) for rule in excluded)

    def _add(self, message: Message, position: int) -> None:
        name, kind = message.text("name"), message.text("type")
        bottoms, tops = message.texts("bottom"), message.texts("top")
        layer = Layer(name, kind, [], [], message, self.weights.get(name, []), position)
        if not kind:
            raise ModelError(f"line {message.line}: the layer {name!r} has no type")
        if _is_data(layer, bottoms) and not self._is_constant(layer, tops):
            self._data(layer, tops)
            return
        for bottom in bottoms:
            if bottom not in self.latest and bottom not in self.dropped:
                raise ModelError(
                    f"{layer} reads the blob {bottom!r}, which no layer before it makes; "
                    f"{nearest(bottom, self.latest)}"
                )
        label = next((bottom for bottom in bottoms if bottom in self.dropped), None)
        python = message.message("python_param").text("layer") if kind == "Python" else ""
        loss = kind in DROPPED or "loss" in python.lower() or any(message.numbers("loss_weight"))
        if label is not None or loss:
            reason = f"it reads the label {label!r}" if label is not None else "it is for training"
            self.net.notes.append(f"{layer} was left out: {reason}")
            self.dropped.update(top for top in tops if top not in self.latest)
            return
        if bottoms and not tops and kind != "Silence":
            self.net.notes.append(f"{layer} was left out: it makes no blob")
            return
        layer.bottoms = [self.latest[bottom] for bottom in bottoms]
        self.consumed.update(layer.bottoms)
        if kind == "Silence":
            return
        read, twice = set(bottoms), {top for top, n in Counter(tops).items() if n > 1}
        for top in tops:
            if top in twice or (top in self.latest and top not in read):
                raise ModelError(f"{layer} writes the blob {top!r}, which another layer made")
            version = top
            if top in self.latest:
                version = free(self.names, f"{top}@{name}#{position}")
            self.latest[top] = version
            self.net.blobs[version] = top
            layer.tops.append(version)
        self._share(layer)
        self.net.layers.append(layer)

    def _is_constant(self, layer: Layer, tops: Sequence[str]) -> bool:
        """Tell whether the layer's tops are constants: a DummyData's with fillers that are.

        One that is all that a net is fed with stands for its input.
        """
        fillers = layer.parameter("dummy_data_param").messages("data_filler")
        return (
            layer.type == "DummyData"
            and not set(tops) & self.shapes.keys()
            and all(filler.text("type", "constant") == "constant" for filler in fillers)
            and self.fed
        )

    def _data(self, layer: Layer, tops: Sequence[str]) -> None:
        """Make a data layer's tops inputs; what is not the data is a label and goes."""
        shapes = _data_shapes(layer, len(tops), self._channels(tops))
        labels = set(() if layer.type in ("Input", "DummyData", "Python") else tops[1:])
        for top, shape in zip(tops, shapes, strict=True):
            if top in labels and top not in self.shapes:
                self.dropped.add(top)
                self.net.notes.append(f"the blob {top!r} of {layer} was left out: it is a label")
            else:
                self._input(top, shape)

    def _channels(self, tops: Sequence[str]) -> int | None:
        """Return the channels that the first convolution of the data wants, by its weights."""
        for message in (each for top in tops for each in self.convolutions.get(top, ())):
            blobs = self.weights.get(message.text("name"), [])
            if blobs and blobs[0].ndim == 4:
                group = message.message("convolution_param").integer("group", 1)
                return int(blobs[0].shape[1]) * group
        return None

    def _share(self, layer: Layer) -> None:
        """Let layers whose `param` has the same name use the same blobs."""
        names = [param.text("name") for param in layer.message.messages("param")]
        for index, name in enumerate(names):
            if not name:
                continue
            if index < len(layer.blobs):
                self.shared.setdefault(name, layer.blobs[index])
            if name in self.shared and index <= len(layer.blobs):
                layer.blobs = [
                    *layer.blobs[:index], self.shared[name], *layer.blobs[index + 1 :],
                ]  # fmt: skip

    def _name_versions(self) -> None:
        """Let the last version of each blob carry the blob's name, and the first ones another."""
        makers = {version: layer.name for layer in self.net.layers for version in layer.tops}
        renamed: dict[str, str] = {}
        for blob, last in self.latest.items():
            if last != blob and blob not in self.net.inputs:
                first = free(self.names, f"{blob}@{makers[blob]}")
                renamed[last], renamed[blob] = blob, first
        for layer in self.net.layers:
            layer.bottoms = [renamed.get(version, version) for version in layer.bottoms]
            layer.tops = [renamed.get(version, version) for version in layer.tops]
        self.net.outputs = [renamed.get(version, version) for version in self.net.outputs]
        self.net.blobs = {
            renamed.get(version, version): blob for version, blob in self.net.blobs.items()
        }


def _check_known(message: Message, known: Collection[str], what: str) -> None:
    """Refuse the fields of a message that are not known."""
    for name, values in message.fields.items():
        if values and name not in known:
            value = values[0]
            shown = f": {value.text}" if isinstance(value, Scalar) else " { ... }"
            raise NotSupportedError(
                f"line {value.line}: the field {name}{shown} of {what} is not known, and may "
                "change what the net computes; remove it if it changes nothing"
            )


def _feeds(layer: Message) -> bool:
    """Tell whether a layer makes inputs, whatever else there is."""
    fillers = layer.message("dummy_data_param").messages("data_filler")
    random = any(filler.text("type", "constant") != "constant" for filler in fillers)
    return layer.text("type") in DATA_LAYERS or (layer.text("type") == "DummyData" and random)


def _is_data(layer: Layer, bottoms: Sequence[str]) -> bool:
    return not bottoms and layer.type in DATA_LAYERS | {"DummyData", "Python"}


def dummy_shapes(layer: Layer) -> list[tuple[int, ...]]:
    """Return the shapes of a DummyData's tops: one for each, or one for all."""
    parameter = layer.parameter("dummy_data_param")
    shapes = [tuple(shape.integers("dim")) for shape in parameter.messages("shape")]
    if shapes:
        return shapes
    legacy = [parameter.integers(name) for name in ("num", "channels", "height", "width")]
    return [tuple(dims) for dims in zip(*legacy, strict=False)]


def _data_shapes(layer: Layer, tops: int, channels: int | None) -> list[tuple[int, ...] | None]:
    """Return the shapes that a data layer gives its tops, None where it does not say."""
    shapes: list[tuple[int, ...] | None] = []
    if layer.type == "Input":
        given = layer.parameter("input_param").messages("shape")
        shapes = [tuple(shape.integers("dim")) for shape in given]
    elif layer.type == "DummyData":
        shapes = [*dummy_shapes(layer)]
    elif layer.type == "MemoryData":
        parameter = layer.parameter("memory_data_param")
        names = ("batch_size", "channels", "height", "width")
        if all(parameter.has(name) for name in names):
            shapes = [tuple(parameter.integer(name) for name in names)]
    else:
        sections = ("data_param", "image_data_param", "window_data_param", "dense_image_data_param")
        sizes = [layer.parameter(s) for s in ("transform_param", *sections)]
        crop = next((s.integer("crop_size") for s in sizes if s.integer("crop_size")), 0)
        batch = next((s.integer("batch_size") for s in sizes if s.integer("batch_size")), 1)
        if crop and channels:
            shapes = [(batch, channels, crop, crop)]
    if len(shapes) == 1 and layer.type in ("Input", "DummyData"):
        return shapes * tops  # one shape for all
    return [*shapes[:tops], *[None] * (tops - len(shapes))]
