"""The model that a user brings: a file and how it is opened, and everything that is asked of it."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxgraft.errors import InputError, ModelError, NotSupportedError
from onnxgraft.files.trust import Trust
from onnxgraft.graph.cut import extract
from onnxgraft.graph.model import Model
from onnxgraft.graph.pictures import KEY
from onnxgraft.graph.tensor_option import TensorOption, parse_tensors, parse_values
from onnxgraft.graph.wants import Wants, wants_of
from onnxgraft.run.demand import check_model, limited
from onnxgraft.run.engine import Engine
from onnxgraft.run.exact import exact, is_heavy
from onnxgraft.run.raising import raised
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.convert.detection import Framework, detect
from onnxgraft.stages.convert.inspection import (
    Inspection,
    inspect_frozen,
    inspect_graphdef,
    inspect_onnx,
)
from onnxgraft.stages.convert.io_layout import IoLayout, set_io_layout
from onnxgraft.stages.convert.objects import written
from onnxgraft.stages.convert.pictures import told_by
from onnxgraft.stages.convert.tensorflow.reading import kind_of, read_tensorflow
from onnxgraft.stages.convert.tensorflow.reading.graphdef import Cut, FrozenGraph, parse_graphdef
from onnxgraft.stages.convert.widening import widen

if TYPE_CHECKING:
    from onnxgraft.stages.convert.pytorch import Program

__all__ = ["DEFAULT_OPSET", "Original"]

DEFAULT_OPSET = 17
# Before 13 a softmax flattened its operand and scales had no axis. tf2onnx writes up to 18; 20 is
# the newest that the tests of the Caffe layers and of raising ONNX files run.
OLDEST_OPSET = 13
NEWEST_OPSET = {"caffe": 20, "onnx": 20, "pytorch": 20, "tensorflow": 18, "tflite": 18}
# What PyTorch's exporter writes by itself; older ones only where onnx's version converter can.
_PYTORCH_OPSET = 18


@dataclass(frozen=True)
class Original:
    """A model file in its own framework, and how it is opened.

    It is frozen and can be sent to another process. What was read of the file is kept until
    `forget`, so that a process reads it once; another process reads it again.

    Attributes:
        path: A frozen TensorFlow graph (binary or text), a SavedModel, a Keras or TFLite file, a
            TensorFlow checkpoint, a PyTorch program (.pt2), a Caffe prototxt or an ONNX file.
        weights: The weights of a Caffe network.
        inputs: Where to cut the graph's beginning, such as ``a:0,b:0[1,224,224,3]``; None finds
            the inputs.
        outputs: Where to cut its end, such as ``c:0``; None takes what nothing else reads.
        values: Placeholders or constants to set, such as ``is_training=false``.
        signature: The signature of a SavedModel or TFLite file.
        freeze_batchnorm: Run batch normalizations that are in training mode with the statistics
            that they store, which changes what the network computes.
        trust: Load a Keras file or a PyTorch program that brings code of its own: True, or the
            names of its layers or classes, or of the program's file, that may.
    """

    path: str
    weights: str | None = None
    inputs: str | None = None
    outputs: str | None = None
    values: tuple[str, ...] = ()
    signature: str | None = None
    freeze_batchnorm: bool = False
    trust: bool | str | tuple[str, ...] = False

    @classmethod
    def of(
        cls,
        path: Any,
        *,
        weights: str | os.PathLike[str] | None = None,
        inputs: str | None = None,
        outputs: str | None = None,
        values: Sequence[str] = (),
        signature: str | None = None,
        freeze_batchnorm: bool = False,
        trust: Trust = False,
    ) -> Original:
        """Return the original at ``path``, or of an object: see `written` and the attributes."""
        return cls(
            written(path),
            None if weights is None else os.fspath(weights),
            inputs, outputs, tuple(values), signature, freeze_batchnorm,
            trust if isinstance(trust, bool | str) else tuple(trust),
        )  # fmt: skip

    @property
    def title(self) -> str:
        """The file's name."""
        return Path(self.path).name

    @functools.cached_property
    def framework(self) -> Framework:
        """Whose file it is.

        Raises:
            InputError: There is no such file, or ``weights`` does not go with it.
        """
        found = detect(self.path, self.weights)
        if self.weights is not None and found != "caffe":
            raise InputError(f"{self.path}: --weights goes with a Caffe prototxt alone")
        return found

    def lower(
        self, opset: int | None = None, io_layout: IoLayout = "keep", *, oldest: int = 0
    ) -> tuple[Model, list[str]]:
        """Return the model as ONNX, with no clean-up, and a sentence for each thing decided.

        Args:
            opset: Of the ONNX graph; None writes `DEFAULT_OPSET`, and keeps that of an ONNX file.
            io_layout: ``nchw`` and ``nhwc`` change the layout of 4-D inputs and outputs.
            oldest: Raise an ONNX file that is of an earlier opset to this one.
        """
        model, notes = self._made(opset, io_layout, oldest)
        told = told_by(self.path, self.framework, model)
        if told is not None:
            model.metadata[KEY] = told.written()
        return model, notes

    def _made(self, opset: int | None, io_layout: IoLayout, oldest: int) -> tuple[Model, list[str]]:
        notes: list[str] = []
        framework = self.framework
        if framework == "onnx":
            model, notes = self._raised(opset, oldest)
            set_io_layout(model, io_layout)
            return model, notes + self._unused()
        first = _PYTORCH_OPSET if framework == "pytorch" else OLDEST_OPSET
        asked, opset = opset, max(first, DEFAULT_OPSET) if opset is None else opset
        if not first <= opset <= NEWEST_OPSET[framework]:
            newest = NEWEST_OPSET[framework]
            raise InputError(
                f"--opset {opset}: from {first} to {newest} can be written of {framework}"
            )
        elif framework == "caffe":
            from onnxgraft.stages.convert.caffe import convert_caffe

            model, notes = convert_caffe(self.path, self.weights, *self._ends, opset)
        elif framework == "pytorch":
            from onnxgraft.stages.convert.pytorch import lower_program

            model, notes = lower_program(self._program, opset)
            model = extract(model, *self._program_ends)
        else:
            from onnxgraft.stages.convert.tensorflow.lower.writing import NewerOpset

            try:
                model, notes = self._lowered(opset)
            except NewerOpset as error:
                if asked is not None:
                    raise NotSupportedError(f"{self.path}: {error}") from error
                model, notes = self._lowered(error.opset)
                notes += [f"written in opset {error.opset}: {error.operator} needs it"]
        widen(model)
        set_io_layout(model, io_layout)
        return model, notes + self._unused()

    def _lowered(self, opset: int) -> tuple[Model, list[str]]:
        """Return what tf2onnx makes of the TensorFlow graph or TFLite file."""
        if self.framework == "tflite":
            from onnxgraft.stages.convert.tflite import lower_tflite

            inputs, outputs = self._ends
            ends = [[option.name for option in side] for side in (outputs, inputs)]
            lowered, done = lower_tflite(self.path, opset, *ends, signature=self.signature)
            return extract(lowered, inputs, outputs), done.notes
        from onnxgraft.stages.convert.tensorflow.lower.lowering import lower

        return lower(self._frozen, opset)

    def _raised(self, opset: int | None, oldest: int) -> tuple[Model, list[str]]:
        """Return the ONNX file's model in the opset that is wanted."""
        model = extract(self._onnx, *self._ends)
        has = model.graph.opset
        newest = NEWEST_OPSET["onnx"]
        if opset is not None and not (opset == has or max(has, OLDEST_OPSET) <= opset <= newest):
            allowed = "neither raised nor lowered"
            if has < newest:
                allowed = f"raised to {max(has, OLDEST_OPSET)} to {newest}, and not lowered"
            raise InputError(
                f"--opset {opset}: {self.path} has opset {has}, which can be {allowed}"
            )
        return raised(model, oldest if opset is None else opset)

    def _unused(self) -> list[str]:
        """Return a sentence for each option that has no effect on a file of this framework."""
        options = {"--set": self.values, "--freeze-batchnorm": self.freeze_batchnorm}
        return [
            f"{option} has no effect: it is for TensorFlow graphs"
            for option, asked in options.items()
            if asked and self.framework != "tensorflow"
        ]

    def run(self, *, frugal: bool = False, optimize: bool = True) -> Engine:
        """Return the model running in its own framework: what later stages are compared with.

        Args:
            frugal: For a few inferences: hold the weights once, at the cost of speed.
            optimize: False runs an ONNX model node by node; others are not asked.

        Raises:
            NotSupportedError: Nothing here runs it as its framework does.
        """
        framework = self.framework
        if framework == "caffe":
            from onnxgraft.stages.convert.caffe import original_caffe

            if limited():
                check_model(self._made(None, "keep", 0)[0])
            return original_caffe(self.path, self.weights, *self._ends)
        if framework == "onnx":
            model = extract(self._onnx, *self._ends)
            check_model(model)
            if optimize:
                return exact(model, name="original")
            proto, weights = model.without_weights() if is_heavy(model) else (model.to_onnx(), {})
            return OnnxRuntime(proto, name="original", optimize=False, weights=weights)
        if framework == "tflite":
            from onnxgraft.stages.convert.tflite import TfLite

            inputs, outputs = self._ends
            if inputs:
                raise NotSupportedError(f"{self.path}: TFLite's interpreter begins at the inputs")
            return TfLite(self.path, [name for name, _ in outputs], signature=self.signature)
        if framework == "pytorch":
            from onnxgraft.stages.convert.pytorch import PyTorch

            return PyTorch(self._program, *self._program_ends)
        from onnxgraft.stages.convert.tensorflow.running import TensorFlow

        return TensorFlow(self._frozen, frugal=frugal)

    def check_types(self) -> None:
        """Raise ModelError for an ONNX file that onnx's own inference refuses: it can't run."""
        if self.framework == "onnx":
            extract(self._onnx, *self._ends).check_types()

    def wants(self, running: Engine) -> Wants:
        """Return what the network says of its inputs, where that can be read.

        Args:
            running: What `run` returned.
        """
        if self.framework == "onnx":
            return wants_of(extract(self._onnx, *self._ends).graph)
        if self.framework == "tensorflow":
            from onnxgraft.stages.convert.tensorflow.running import TensorFlow

            return running.wants() if isinstance(running, TensorFlow) else Wants()
        if self.framework == "pytorch":
            from onnxgraft.stages.convert.pytorch import PyTorch

            return running.wants() if isinstance(running, PyTorch) else Wants()
        if self.framework == "tflite" and any(
            spec.kind in "iu" or len(spec.shape) < 3 for spec in running.inputs
        ):
            # What is made of the file is read: it is made soon, and its tables are the file's.
            with contextlib.suppress(InputError):
                return wants_of(self.lower()[0].graph)
        return Wants()

    def inspect(self) -> Inspection:
        """Return what the file holds: inputs, outputs, operators, and what stands in the way."""
        framework = self.framework
        if framework == "onnx":
            return inspect_onnx(self._onnx)
        if framework == "caffe":
            from onnxgraft.stages.convert.caffe import inspect_caffe

            return inspect_caffe(self.path, self.weights)
        if framework == "tflite":
            from onnxgraft.stages.convert.tflite import inspect_tflite

            return inspect_tflite(self.path, DEFAULT_OPSET, self.signature)
        if framework == "pytorch":
            from onnxgraft.stages.convert.pytorch import inspect_program

            return inspect_program(self._program, _PYTORCH_OPSET)
        try:
            return inspect_frozen(self._frozen)
        except (InputError, ModelError) as error:
            if kind_of(self.path) != "graphdef":
                raise
            # A GraphDef that can't be converted as it is can still be looked at.
            found = inspect_graphdef(self.path, parse_graphdef(self.path))
            return replace(found, notes=[f"can't be converted: {error}"])

    def forget(self) -> None:
        """Give back the memory of what was read; it is read again when it is asked for."""
        names = {field.name for field in fields(self)}
        for name in [name for name in vars(self) if name not in names]:
            del vars(self)[name]

    def __getstate__(self) -> dict[str, Any]:
        """Leave what was read behind: another process reads the file itself."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @functools.cached_property
    def _ends(self) -> tuple[tuple[TensorOption, ...], tuple[TensorOption, ...]]:
        return parse_tensors(self.inputs), parse_tensors(self.outputs)

    @functools.cached_property
    def _onnx(self) -> Model:
        return Model.load(self.path)

    @functools.cached_property
    def _program(self) -> Program:
        from onnxgraft.stages.convert.pytorch import read_program

        return read_program(self.path, self.trust)

    @property
    def _program_ends(self) -> tuple[tuple[TensorOption, ...], tuple[TensorOption, ...]]:
        from onnxgraft.stages.convert.pytorch.program import resolved

        inputs, outputs = self._ends
        return resolved(self._program, inputs), resolved(self._program, outputs)

    @functools.cached_property
    def _frozen(self) -> FrozenGraph:
        cut = Cut(*self._ends, parse_values(self.values), self.freeze_batchnorm)
        return read_tensorflow(self.path, cut, self.signature, self.trust)
