"""What the tests of the passes share: running one pass, and comparing before with after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from onnxgraft.graph.model import Model, Source
from onnxgraft.graph.tensors import Array
from onnxgraft.run.session import OnnxRuntime, exposing
from onnxgraft.stages.surgery import Finding, PassReport, SurgeryReport, run
from tests.conftest import outputs_of

# float32 rounds to 6e-8 of a value; a sum of some hundred products that are rounded elsewhere,
# or added in another order, is off by some 1e-6 of the output's range at most.
ROUNDING = 1e-5


def normal(*shape: int, seed: int = 0) -> Array:
    """Return seeded normal float32 values."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def positive(*shape: int, seed: int = 0) -> Array:
    """Return seeded float32 values between 0.5 and 2."""
    return np.random.default_rng(seed).uniform(0.5, 2.0, shape).astype(np.float32)


def model_at(opset: int, text: str, constants: Mapping[str, Array] | None = None) -> Model:
    """Return the model written as ONNX text, as `model_of` does, but of another opset."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{text}')
    for name, value in (constants or {}).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    onnx.checker.check_model(proto)
    return Model.from_onnx(proto, Source("test.onnx", "onnx", "0" * 64))


def clean(model: Model, *only: str) -> tuple[Model, SurgeryReport]:
    """Run the named passes, or all, and check that what comes out is a valid ONNX model."""
    after, report = run(model, only=only)
    assert not [entry.rolled_back for entry in report.passes if entry.rolled_back]
    onnx.checker.check_model(after.to_onnx())
    return after, report


def report_of(report: SurgeryReport, name: str) -> PassReport:
    """Return what the pass did and refused."""
    return next(entry for entry in report.passes if entry.name == name)


def refusal(report: SurgeryReport, name: str) -> str:
    """Return the sentence of the pass's only refusal."""
    found: list[Finding] = report_of(report, name).refused
    assert len(found) == 1, found
    return found[0].sentence


def untouched(report: SurgeryReport, name: str) -> bool:
    """Tell whether the pass changed nothing and refused nothing."""
    entry = report_of(report, name)
    return not entry.done and not entry.refused and not entry.removed


def infer(model: Model, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Return what onnxruntime, without optimizations, computes."""
    with OnnxRuntime(model.to_onnx(), optimize=False) as session:
        return session.infer(feeds)


def tensor_values(
    model: Model, names: Sequence[str], feeds: Mapping[str, Array]
) -> dict[str, Array]:
    """Return the values of float tensors inside the model."""
    with OnnxRuntime(exposing(model.to_onnx(), names), optimize=False) as session:
        return session.infer(feeds)


def assert_close(
    expected: Mapping[str, Array], actual: Mapping[str, Array], fraction: float = 0.0
) -> None:
    """Hold ``actual`` against a fraction of each expected output's range; 0 means equal."""
    assert list(actual) == list(expected)
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype
        assert actual[name].shape == value.shape
        if fraction:
            span = float(np.ptp(value))
            assert span > 0, "equal values would hide a permutation"
            assert float(np.abs(actual[name] - value).max()) <= fraction * span
        else:
            np.testing.assert_array_equal(actual[name], value)


def assert_same(
    before: Model, after: Model, fraction: float = 0.0, batches: Sequence[int] = (1, 3)
) -> None:
    """Compare the outputs of two models, at each batch size."""
    for batch in batches:
        assert_close(outputs_of(before, batch), outputs_of(after, batch), fraction)


def attributes(model: Model, op: str) -> dict[str, Any]:
    """Return the attributes of the only node of an operator."""
    found = [node.attrs for node in model.graph.nodes if node.op == op]
    assert len(found) == 1
    return dict(found[0])
