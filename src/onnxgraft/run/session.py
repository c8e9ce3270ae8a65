"""onnxruntime as the reference: it verifies rewrites and collects calibration values."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxgraft.errors import InputError, ModelError, NotSupportedError
from onnxgraft.graph.source import Source
from onnxgraft.graph.tensors import Array, Feeds, Outputs, TensorSpec
from onnxgraft.optional import optional
from onnxgraft.run.engine import Computing, check_feeds, check_into
from onnxgraft.run.providers import Placed, Running

if TYPE_CHECKING:
    import onnx

__all__ = ["OnnxRuntime", "at_rest", "exposing", "left_out", "without_bfloat16"]

# Its optimizers that go wrong; those that move transposes where there are such operators.
_PAD = "Pad_Fusion"
_TRANSPOSES = ("TransposeOptimizer", "TransposeOptimizer_CPUExecutionProvider")
_RELUS = "ReluQuantRewrite"
_ROUNDING = (b"QuantizeLinear", b"QLinear")
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
}


class OnnxRuntime(Computing):
    """An ONNX model in onnxruntime, on the CPU where nothing else is said.

    It has no kernels for bfloat16 there: a model in it is computed in float32, between inputs and
    outputs of its own types.

    Args:
        model: The model, or the path of its file.
        name: What reports call it.
        threads: Threads within an operator; 0 leaves the choice to onnxruntime.
        optimize: False runs every node as it stands.
        save_optimized: Where to write the graph as onnxruntime optimized it.
        weights: Initializers that the model only refers to, as `Model.without_weights` has them.
        configure: Sets further fields of onnxruntime's SessionOptions.
        provider: What runs it in place of the CPU, as far as that takes its nodes.

    Raises:
        InputError: The provider does not start here, or takes none of the nodes.
        ModelError: onnxruntime refuses the model.
        NotSupportedError: It has no kernel for an operator of these types.
    """

    def __init__(
        self,
        model: onnx.ModelProto | str | os.PathLike[str],
        *,
        name: str = "onnxruntime",
        threads: int = 0,
        optimize: bool = True,
        save_optimized: str | os.PathLike[str] | None = None,
        weights: Mapping[str, Array] | None = None,
        configure: Callable[[Any], None] | None = None,
        provider: Running | None = None,
    ) -> None:
        with optional("Running an ONNX model", "onnxruntime"):
            import onnxruntime as ort
        ort.set_default_logger_severity(4)  # what goes wrong is in its exceptions
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        # Not by the file's name: one that ends in .ort would be read as onnxruntime's own format.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if save_optimized is not None:
            # EXTENDED: what "all" adds is fitted to this machine's processor, and is done again
            # when the saved file is loaded.
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            options.optimized_model_filepath = os.fspath(save_optimized)
        if configure is not None:
            configure(options)
        if provider is not None:
            provider.configure(options)
        without: list[str] = []
        if isinstance(model, str | os.PathLike):
            source: str | bytes = str(model)
        else:
            model, weights = without_bfloat16(model, name, weights)
            source = model.SerializeToString()
            without = [_RELUS] if _has_float8(model) else []
        if weights:
            # They are not copied: without packing, kernels read them where they are.
            options.add_session_config_entry("session.disable_prepacking", "1")
            # Only a view of a file may be out of line with its type, and is copied.
            aligned = [np.require(value, requirements=["A", "C"]) for value in weights.values()]
            values = [ort.OrtValue.ortvalue_from_numpy(value) for value in aligned]
            options.add_external_initializers(list(weights), values)
        try:
            self._session: Any = _opened(ort, source, options, provider, without)
        except Exception as error:  # its exceptions have no common base
            reason = _reason(error)
            if "NOT_IMPLEMENTED" in str(error):
                raise NotSupportedError(f"onnxruntime can't run the graph: {reason}") from error
            raise ModelError(f"{name}: onnxruntime refuses the graph: {reason}") from error
        if provider is not None:
            provider.check(self._session)
        self.name, self._provider = name, provider
        self.inputs = tuple(_spec(entry) for entry in self._session.get_inputs())
        self.outputs = tuple(_spec(entry) for entry in self._session.get_outputs())
        self._bfloat = any(spec.dtype == "bfloat16" for spec in (*self.inputs, *self.outputs))

    def infer(self, feeds: Feeds) -> Outputs:
        """Return the outputs, by name, for ``feeds``, by name; bfloat16 comes as float32."""
        checked = check_feeds(self.name, self.inputs, feeds)
        if self._session is None:
            raise InputError(f"{self.name}: is closed")
        names = [spec.name for spec in self.outputs]
        try:
            values = _run(self._session, names, checked, self._bfloat)
        except Exception as error:  # its exceptions have no common base
            raise ModelError(
                f"{self.name}: onnxruntime can't run the graph: {_reason(error)}"
            ) from error
        outputs = dict(zip(names, values, strict=True))
        for output, value in outputs.items():
            if value is None:  # of an Attention whose mode is none that there is
                raise ModelError(f"{self.name}: onnxruntime computes nothing for {output!r}")
        return outputs

    def infer_into(self, feeds: Feeds, into: Mapping[str, Array]) -> None:
        """Write the outputs for ``feeds`` into arrays of the caller's, without a copy."""
        if self._bfloat:
            return super().infer_into(feeds, into)
        checked = check_feeds(self.name, self.inputs, feeds)
        check_into(self.name, self.outputs, into, checked)
        if self._session is None:
            raise InputError(f"{self.name}: is closed")
        binding = self._session.io_binding()
        # What is made contiguous has to live until the session has run.
        kept = {name: np.asarray(value, order="C") for name, value in checked.items()}
        for bind, arrays in ((binding.bind_input, kept), (binding.bind_output, into)):
            for name, array in arrays.items():
                bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # its exceptions have no common base
            self.check_shapes(kept, into)
            raise ModelError(
                f"{self.name}: onnxruntime can't run the graph: {_reason(error)}"
            ) from error

    def placed(self) -> list[Placed]:
        """Return its nodes and where they run, of a session with a provider."""
        return [] if self._provider is None else self._provider.placed(self._session)

    def end_profiling(self) -> str:
        """Return the file with what the nodes took, of a session that was configured to profile."""
        return str(self._session.end_profiling())

    def close(self) -> None:
        """Give back the session and its weights."""
        self._session = None


def at_rest(options: Any) -> None:
    """Let onnxruntime's threads sleep between two runs, and its memory not be planned at once.

    For a session whose answers are looked at here, which needs the cores; where many tensors are
    answers, the plan takes a third more memory than what is then used.
    """
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.enable_mem_pattern = False


def _opened(
    ort: Any,
    source: str | bytes,
    options: Any,
    provider: Running | None,
    without: Sequence[str],
) -> Any:
    """Return a session, without what onnxruntime makes wrongly of sound graphs.

    Left to itself it would start again on the CPU alone where a provider fails.
    """
    listed: list[Any] | None = ["CPUExecutionProvider"]
    if provider is not None:
        listed = provider.listed(ort.get_available_providers())
    return ort.InferenceSession(
        source, options, providers=listed, disabled_optimizers=[*left_out(source), *without],
        enable_fallback=False,
    )  # fmt: skip


def left_out(source: str | bytes) -> list[str]:
    """Return the optimizers of onnxruntime 1.31 that go wrong on a model, or the file of one.

    Its fusion of a Pad into a MaxPool takes zeros for the lowest values that a pool pads with, and
    makes pads that pools refuse. Where a Transpose stands before a QuantizeLinear, its moving of
    transposes rounds what is before the Transpose, which may be an output of the graph or be read
    elsewhere.
    """
    return [_PAD, *(_TRANSPOSES if _rounds(source) else ())]


def _has_float8(model: onnx.ModelProto) -> bool:
    """Tell whether a model has constants in FP8, such as zero points, or asks for the type.

    onnxruntime 1.31 takes a Relu before a QuantizeLinear of FP8 out, as if it could not store what
    is negative.
    """
    from onnx import NodeProto, TensorProto

    from onnxgraft.graph.messages import parts

    kind = TensorProto.FLOAT8E4M3FN
    for part in parts(model):
        if isinstance(part, TensorProto) and part.data_type == kind:
            return True
        if isinstance(part, NodeProto) and any(
            entry.name == "output_dtype" and entry.i == kind for entry in part.attribute
        ):
            return True
    return any(entry.data_type == kind for entry in model.graph.initializer)


def _rounds(source: str | bytes) -> bool:
    """Tell whether a model, or the file of one, may have operators that quantize."""
    if isinstance(source, bytes):
        return any(name in source for name in _ROUNDING)
    try:
        with (
            open(source, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return any(data.find(name) >= 0 for name in _ROUNDING)
    except (OSError, ValueError):  # onnxruntime says what is wrong with it
        return True


def without_bfloat16(
    model: onnx.ModelProto, name: str, weights: Mapping[str, Array] | None
) -> tuple[onnx.ModelProto, Mapping[str, Array] | None]:
    """Return a model and its weights, in float32 where the model is in bfloat16."""
    from onnxgraft.graph.lift import halves, lift, uses_bfloat16
    from onnxgraft.graph.model import Model

    if uses_bfloat16(model):
        given = Model.from_onnx(model, Source(name, "onnx", ""), weights=weights)
        if "bfloat16" in halves(given):
            return lift(given).to_onnx(), None
    return model, weights


def _run(session: Any, names: list[str], feeds: Mapping[str, Array], bfloat: bool) -> list[Array]:
    """Run a session; it takes and gives numpy's arrays of all types but bfloat16."""
    if not bfloat:
        return list(session.run(names, feeds))
    import onnxruntime as ort

    given = {name: _value(ort, value) for name, value in feeds.items()}
    return [
        _from_bfloat16(value) if value.data_type() == "tensor(bfloat16)" else value.numpy()
        for value in session.run_with_ort_values(names, given)
    ]


def _value(ort: Any, value: Array) -> Any:
    """Return an array as a tensor of onnxruntime's."""
    if value.dtype.name != "bfloat16":
        return ort.OrtValue.ortvalue_from_numpy(value)
    from onnx import TensorProto

    bits = np.ascontiguousarray(value).view(np.uint16)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, TensorProto.BFLOAT16)


def _from_bfloat16(value: Any) -> Array:
    """Return a tensor of onnxruntime's as float32, whose upper half a bfloat16 is."""
    shape = value.shape()
    count = math.prod(shape)
    bits = (ctypes.c_uint16 * count).from_address(value.data_ptr()) if count else []
    upper = np.array(bits, np.uint32) << 16
    return upper.view(np.float32).reshape(shape)


def _reason(error: Exception) -> str:
    """Return onnxruntime's message without its code and the place in its sources."""
    line = str(error).strip().splitlines()[0]
    line = re.sub(r"^\[ONNXRuntimeError\] : \d+ : ", "", line)
    # The file, whose sentence this is the end of, or a temporary one.
    line = re.sub(r"Load model from .*? failed:\s*", "", line)
    # The path, the line, and the function's signature up to its closing parenthesis.
    return re.sub(r"/\S+\.(?:cc|h):\d+ [^()]*\([^()]*(?:\(\)[^()]*)*\) (?:const )?", "", line)


def _spec(entry: Any) -> TensorSpec:
    dtype = _DTYPES.get(entry.type, entry.type.removeprefix("tensor(").removesuffix(")"))
    shape = tuple(
        dim if isinstance(dim, int) else (dim or f"{entry.name}.{axis}")
        for axis, dim in enumerate(entry.shape)
    )
    return TensorSpec(entry.name, dtype, shape)


def exposing(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """Return a copy of ``model`` whose only outputs are ``tensors``; onnxruntime infers types."""
    import onnx

    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    del exposed.graph.output[:]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    return exposed
