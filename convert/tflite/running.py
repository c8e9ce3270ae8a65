"""A TFLite model in TensorFlow's interpreter: what its conversion is compared with."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxgraft.errors import ModelError, NotSupportedError
from onnxgraft.graph.tensors import Array, Feeds, Outputs, TensorSpec
from onnxgraft.run.engine import Resource, check_feeds
from onnxgraft.stages.convert.tensorflow.quiet import quiet
from onnxgraft.stages.convert.tensorflow.running import tensorflow
from onnxgraft.stages.convert.tflite.preparing import end_at, in_floats, rewrite_custom
from onnxgraft.stages.convert.tflite.reading import Lite, read_tflite
from onnxgraft.stages.convert.tflite.sizes import check_sizes
from onnxgraft.stages.convert.tflite.survey import sound
from onnxgraft.stages.convert.tflite.variables import State, free_variables

__all__ = ["TfLite", "interpreter"]


def interpreter(data: bytes, **options: Any) -> Any:
    """Return TensorFlow's interpreter of a file.

    Raises:
        ValueError, RuntimeError: TensorFlow refuses it.
    """
    tf = tensorflow()
    with warnings.catch_warnings():
        # TensorFlow says that its interpreter will move to another package.
        warnings.simplefilter("ignore")
        return tf.lite.Interpreter(model_content=data, **options)


class TfLite(Resource):
    """A TFLite model in TensorFlow's interpreter.

    A variable is an input and an output, as in the converted graph: the file is run as it stands
    but for the constant that its variable is set to.

    Args:
        path: The file.
        outputs: The tensors to end at; empty for the model's own outputs.
        signature: The signature whose graph is run; None takes the first graph.
        floats: Run the layers with int8 weights and float activations on the weights as floats.

    Attributes:
        scaled: The outputs that are integers and stand for other numbers.
    """

    name = "tflite"

    def __init__(
        self,
        path: str | os.PathLike[str],
        outputs: Sequence[str] = (),
        *,
        signature: str | None = None,
        floats: bool = False,
    ) -> None:
        """Load the model.

        Raises:
            ModelError: TensorFlow refuses it.
        """
        self._lite = read_tflite(path, signature)
        with sound(self._lite.file):
            rewrite_custom(self._lite)
            end_at(self._lite, outputs)
            if floats:
                in_floats(self._lite)
        main = self._lite.main
        self._inputs = list(main.inputs)
        self._outputs = dict(zip(main.outputs, self._lite.output_names(), strict=True))
        names = [tensor.name for tensor in main.tensors]
        self._names = names
        self._states = _states(path, outputs, signature)
        self._begun = {s.name: _own_constant(self._lite, s) for s in self._states if s.name}
        self._interpreter: Any = self._open()
        self.scaled = frozenset(
            name for index, name in self._outputs.items() if self._lite.scales(main.tensors[index])
        )
        found = {entry["index"]: entry for entry in self._interpreter.get_tensor_details()}
        self.inputs = (
            *(_spec(names[index], found[index]) for index in self._inputs),
            *(_state_spec(state, state.name) for state in self._states if state.name),
        )
        self.outputs = (
            *(_spec(name, found[index]) for index, name in self._outputs.items()),
            *(_state_spec(state, state.after) for state in self._states if state.after),
        )

    def _open(self) -> Any:
        kinds = tensorflow().lite.experimental.OpResolverType
        # A delegate rounds in its own way; one that runs TensorFlow's operators has to be there.
        plain = self._lite.is_quantized and not self._lite.has_flex
        resolver = kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES if plain else kinds.AUTO
        with quiet():
            try:
                return interpreter(
                    self._lite.packed(),
                    experimental_op_resolver_type=resolver,
                    experimental_preserve_all_tensors=bool(self._states),
                )
            except (ValueError, RuntimeError) as error:
                self._refuse_custom(error)
                raise ModelError(
                    f"{self._lite.file}: TensorFlow can't load the model: {error}"
                ) from error

    def infer(self, feeds: Feeds) -> Outputs:
        """Return the outputs, by name, for ``feeds``, by name."""
        checked = check_feeds(self.name, self.inputs, feeds)
        if self._states:
            for name, tensor in self._begun.items():
                data = np.ascontiguousarray(checked[name]).tobytes()
                self._lite.model.buffers[tensor.buffer].data = np.frombuffer(data, np.uint8)
            self._interpreter = self._open()
        running = self._interpreter
        fed = {index: checked[self._names[index]] for index in self._inputs}
        for index, value in fed.items():
            running.resize_tensor_input(index, value.shape)
        try:
            with quiet():
                running.allocate_tensors()
                check_sizes(self._lite, running.get_tensor_details())
                # What recurrent kernels keep from run to run.
                running.reset_all_variables()
                for index, value in fed.items():
                    running.set_tensor(index, value)
                running.invoke()
            got = {name: np.array(running.get_tensor(i)) for i, name in self._outputs.items()}
        except (ValueError, RuntimeError) as error:
            self._refuse_custom(error)
            raise ModelError(f"TensorFlow can't run the model: {error}") from error
        for state in self._states:
            if state.after and state.last is not None:
                got[state.after] = np.array(running.get_tensor(state.last))
        return got

    def _refuse_custom(self, error: Exception) -> None:
        """Raise NotSupportedError if the interpreter lacks an operator of the file."""
        lacking = [
            self._lite.kind(operator)
            for graph in self._lite.model.subgraphs
            for operator in graph.operators
            if self._lite.is_custom(operator)
        ]
        if lacking and any(word in str(error) for word in ("Select TensorFlow op", "custom op")):
            raise NotSupportedError(
                f"TensorFlow's interpreter has no {', '.join(sorted(set(lacking))[:3])}"
            ) from error

    def close(self) -> None:
        """Give back the interpreter."""
        self._interpreter = None


def _states(
    path: str | os.PathLike[str], outputs: Sequence[str], signature: str | None
) -> list[State]:
    """Return the variables of a file."""
    lite = read_tflite(path, signature)
    with sound(lite.file):
        end_at(lite, outputs)
        return free_variables(lite, cut=bool(outputs))


def _own_constant(lite: Lite, state: State) -> Any:
    """Give a variable a tensor of its own to be set from, with a buffer of its own.

    Equal constants are one in a file: those of other variables, and of layers, stay as they are.
    """
    number, at = state.setter
    graph = lite.model.subgraphs[number]
    setter = graph.operators[at]
    own = copy.copy(graph.tensors[setter.inputs[1]])
    buffer = lite.schema.BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(state.start).tobytes(), np.uint8)
    own.buffer = len(lite.model.buffers)
    lite.model.buffers.append(buffer)
    setter.inputs = [setter.inputs[0], len(graph.tensors)]
    graph.tensors.append(own)
    return own


def _spec(name: str, entry: dict[str, Any]) -> TensorSpec:
    dims = [int(dim) for dim in entry["shape_signature"]]
    shape = tuple(
        dim if dim >= 0 else ("N" if axis == 0 else f"{name}.{axis}")
        for axis, dim in enumerate(dims)
    )
    return TensorSpec(name, np.dtype(entry["dtype"]).name, shape)


def _state_spec(state: State, name: str) -> TensorSpec:
    start: Array = state.start
    return TensorSpec(name, start.dtype.name, start.shape)
