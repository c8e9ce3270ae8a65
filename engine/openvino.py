"""OpenVINO as a target: the engine is the compiled model for this machine's CPU, exported."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxgraft.engine.passport import Passport
from onnxgraft.errors import InputError, ModelError
from onnxgraft.files import write_bytes
from onnxgraft.model import Model
from onnxgraft.optional import optional
from onnxgraft.runtime import Engine, Feeds, Outputs, Resource, check_feeds

__all__ = ["OpenVino", "build", "load"]

# One stream that uses all cores answers a single image soonest. What is not INT8 stays FP32:
# without the second line OpenVINO takes BF16 where the processor has it.
_CONFIG = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}

_NOT_A_REASON = (
    "Check '", "Exception from", "FrontEnd API", "Model wasn't fully", "Summary:", "To facilitate",
)  # fmt: skip


def build(model: Model, path: Path, shapes: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """Compile ``model`` for the CPU and write it to ``path``.

    Free dimensions stay free unless ``shapes`` fixes them.
    """
    openvino = _openvino()
    core = openvino.Core()
    try:
        network = core.read_model(model.to_onnx().SerializeToString())
        if shapes:
            network.reshape({name: list(shape) for name, shape in shapes.items()})
        compiled = core.compile_model(network, "CPU", _CONFIG)
        exported = io.BytesIO()
        compiled.export_model(exported)
    except RuntimeError as error:
        raise ModelError(f"{model.file}: OpenVINO refuses the graph: {_reason(error)}") from error
    write_bytes(path, exported.getvalue())
    return {"openvino": openvino.__version__}


def load(path: Path, passport: Passport) -> Engine:
    """Return the engine at ``path``."""
    return OpenVino(path, passport)


class OpenVino(Resource):
    """An exported model in OpenVINO; one request, so one thread at a time."""

    def __init__(self, path: Path, passport: Passport) -> None:
        """Import the compiled model.

        Raises:
            InputError: OpenVINO refuses it, as it does one of another version or processor.
        """
        openvino = _openvino()
        if passport.versions.get("openvino") != openvino.__version__:
            raise InputError(
                f"{path}: was built with OpenVINO {passport.versions.get('openvino')}, here is "
                f"{openvino.__version__}; build it again"
            )
        try:
            compiled = openvino.Core().import_model(path.read_bytes(), "CPU", _CONFIG)
        except RuntimeError as error:
            raise InputError(f"{path}: OpenVINO can't load it: {_reason(error)}") from error
        self.name = f"openvino {passport.precision}"
        self.inputs = passport.inputs
        self.outputs = passport.outputs
        self._request: Any = compiled.create_infer_request()

    def infer(self, feeds: Feeds) -> Outputs:
        """Return the outputs, by name, for ``feeds``, by name."""
        checked = check_feeds(self.name, self.inputs, feeds)
        values = [np.ascontiguousarray(value) for value in checked.values()]
        self._request.infer(values, share_inputs=True)
        return {
            spec.name: np.array(self._request.get_output_tensor(index).data)
            for index, spec in enumerate(self.outputs)
        }


def _openvino() -> Any:
    with optional("OpenVINO as a target", "openvino"):
        import openvino
    return openvino


def _reason(error: BaseException) -> str:
    """Return the line that says what is wrong; the others say where in OpenVINO's source."""
    lines = [line.strip(" -") for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(_NOT_A_REASON)]
    return told[0] if told else type(error).__name__
