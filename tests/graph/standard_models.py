"""onnx's own test models, in the forms in which other files may hold the same networks.

Each is what `onnx.backend.test` has, by name, with the inputs that it comes with. A form is a
function that writes it otherwise: its outputs are the same.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnxgraft.errors import OnnxgraftError
from onnxgraft.graph.lift import halves
from onnxgraft.graph.model import Model
from onnxgraft.graph.opset import raise_opset
from onnxgraft.run.tolerances import HALF_TOLERANCE
from onnxgraft.stages.surgery import run

__all__ = ["FORMS", "Case", "judge", "names"]

# Their outputs are random, or depend on the clock of training.
_RANDOM = frozenset({
    "Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
})  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A model, and what it is fed by name."""

    model: onnx.ModelProto
    feeds: dict[str, Any]


@functools.cache
def _cases() -> dict[str, Any]:
    from onnx.backend.test.case.node import collect_testcases
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    stored = [
        case
        for kind in ("simple", "pytorch-converted", "pytorch-operator")
        for case in load_model_tests(kind=kind)
    ]
    return {case.name: case for case in [*found, *stored]}


def names() -> list[str]:
    """Return the names of all models."""
    return sorted(_cases())


def case(name: str) -> Case:
    """Return a model by its name."""
    found = _cases()[name]
    if found.model is not None:
        model, values = found.model, found.data_sets[0][0]
    else:
        folder = Path(found.model_dir)
        model = onnx.load(folder / "model.onnx")
        files = sorted(folder.glob("test_data_set_0/input_*.pb"), key=lambda f: int(f.stem[6:]))
        protos = [onnx.TensorProto.FromString(file.read_bytes()) for file in files]
        values = [numpy_helper.to_array(proto) for proto in protos]
    inputs = [entry.name for entry in model.graph.input]
    stored = {tensor.name for tensor in model.graph.initializer}
    given = [name for name in inputs if name not in stored] if len(values) < len(inputs) else inputs
    return Case(model, dict(zip(given, values, strict=False)))


# Forms ----------------------------------------------------------------------------------------


def as_it_is(given: Case, path: Path) -> Case:
    """Write the model as it is."""
    path.write_bytes(given.model.SerializeToString())
    return given


def stored(given: Case, path: Path) -> Case:
    """Write all inputs but the first as initializers."""
    return as_it_is(_stored(given, 1), path)


def all_stored(given: Case, path: Path) -> Case:
    """Write all inputs as initializers: everything can be computed beforehand."""
    return as_it_is(_stored(given, 0), path)


def listed(given: Case, path: Path) -> Case:
    """Write a file of IR version 3, whose initializers are inputs too."""
    changed = _stored(given, 1, listed=True)
    if not changed.model.functions:
        changed.model.ir_version = 3
    return as_it_is(changed, path)


def beside(given: Case, path: Path) -> Case:
    """Write the initializers to a file beside the model."""
    changed = _stored(given, 1)
    onnx.save(
        changed.model, path, save_as_external_data=True, size_threshold=0, location="weights",
        convert_attribute=True,
    )  # fmt: skip
    return changed


def former(given: Case, path: Path) -> Case | None:
    """Write the model in opset 11, as onnx's version converter does where it can."""
    try:
        model = onnx.version_converter.convert_version(given.model, 11)
        onnx.checker.check_model(model)
    except Exception:  # it has no common base
        return None
    return as_it_is(Case(model, given.feeds), path)


FORMS: dict[str, Callable[[Case, Path], Case | None]] = {
    form.__name__: form for form in (as_it_is, stored, all_stored, listed, beside, former)
}


def _stored(given: Case, keep: int, *, listed: bool = False) -> Case:
    model = onnx.ModelProto()
    model.CopyFrom(given.model)
    feeds = dict(given.feeds)
    for entry in list(model.graph.input)[keep:]:
        value = feeds.get(entry.name)
        kind = entry.type.tensor_type.elem_type
        if value is None or not kind or not isinstance(value, np.ndarray | np.generic):
            continue
        if onnx.helper.np_dtype_to_tensor_dtype(np.asarray(value).dtype) != kind:
            continue
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), entry.name))
        del feeds[entry.name]
        if not listed:
            model.graph.input.remove(entry)
    return Case(model, feeds)


# Judging --------------------------------------------------------------------------------------


def judge(name: str, form: str, folder: Path) -> tuple[str, str]:
    """Return ``same``, ``refused``, ``crash``, ``not loaded`` or ``changed``, and why."""
    path, out = folder / "a.onnx", folder / "b.onnx"
    given = FORMS[form](case(name), path)
    if given is None:
        return "same", "there is no such form"
    expected = _outputs(path, given)
    for way in (_as_read, _cleaned, _raised):
        try:
            way(path).save(out)
        except OnnxgraftError as error:
            return "refused", str(error)
        except Exception as error:  # whatever else it is, it is a crash
            return "crash", f"{way.__name__}: {type(error).__name__}: {error}"
        if isinstance(expected, str):
            continue
        found = _outputs(out, given)
        if isinstance(found, str):
            return "not loaded", f"{way.__name__}: {found}"
        random = any(node.op_type in _RANDOM for node in given.model.graph.node)
        tolerance = HALF_TOLERANCE if halves(Model.load(path)) else 1e-5
        apart = None if random else _apart(expected, found, tolerance)
        if apart:
            return "changed", f"{way.__name__}: {apart}"
    return "same", ""


def _as_read(path: Path) -> Model:
    return Model.load(path)


def _cleaned(path: Path) -> Model:
    return run(Model.load(path), verify=False)[0]


def _raised(path: Path) -> Model:
    model = Model.load(path)
    return raise_opset(model, min(20, max(model.graph.opset, 17)))


def _outputs(path: Path, given: Case) -> list[Any] | str:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        wanted = {entry.name for entry in session.get_inputs()}
        feeds = {name: value for name, value in given.feeds.items() if name in wanted}
        return list(session.run(None, feeds))
    except Exception as error:  # onnxruntime's have no common base
        return str(error)


def _apart(expected: list[Any], found: list[Any], tolerance: float) -> str | None:
    for index, (one, other) in enumerate(zip(expected, found, strict=True)):
        if not isinstance(one, np.ndarray):
            same = repr(one) == repr(other)
        elif one.dtype != other.dtype or one.shape != other.shape:
            return f"output {index}: {one.dtype} {one.shape} became {other.dtype} {other.shape}"
        elif one.dtype.kind in "fc":
            largest = float(np.abs(one[np.isfinite(one)]).max(initial=0.0))
            same = np.allclose(one, other, rtol=tolerance, atol=tolerance * largest, equal_nan=True)
        else:
            same = bool(np.array_equal(one, other))
        if not same:
            return f"output {index} has other values"
    return None
