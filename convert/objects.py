"""Models as Python holds them: each written by its own framework into a file, and read from there.

So an object is compared with what its framework makes of it, and travels to other processes, as a
file does. The file lives as long as its name.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from onnxgraft.errors import InputError, NotSupportedError, reason_in
from onnxgraft.graph.model import Model
from onnxgraft.optional import optional

__all__ = ["written"]

_FORMS = (
    "give a path, a Keras model, a tf.Module, an onnx.ModelProto, a torch.export program, or a "
    "pair of a torch module and its example inputs"
)


class _Written(str):
    """A path whose file is removed with it."""

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        """Let another process have the path alone."""
        return str, (str(self),)


def written(model: Any) -> str:
    """Return the path of a model; an object of Python is written into a file of its framework.

    Args:
        model: A path; a Keras model, a ``tf.Module``, an ``onnx.ModelProto``, a `Model`, a program
            of ``torch.export``; or a pair of a torch module, or a ``tf.Module``, and its example
            inputs: an array, or a tuple or mapping of them.

    Raises:
        InputError: It is none of them, or can't be written.
    """
    if isinstance(model, str | os.PathLike):
        return os.fspath(model)
    folder = tempfile.mkdtemp(prefix="onnxgraft-model-")
    try:
        with _told(model):
            found = _Written(_write(model, Path(folder)))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(found, shutil.rmtree, folder, ignore_errors=True)
    return found


@contextlib.contextmanager
def _told(model: Any) -> Iterator[None]:
    """Turn what a framework raises into a sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (InputError, ImportError):
        raise
    except Exception as error:  # the frameworks', of any kind
        first = model[0] if isinstance(model, tuple) else model
        raise InputError(
            f"{type(first).__name__}: its framework can't write the model ({reason_in(error)})"
        ) from error


def _write(model: Any, folder: Path) -> str:
    if isinstance(model, Model):
        path = folder / _named(Path(model.source.path).stem, ".onnx")
        model.save(path)
        return os.fspath(path)
    if isinstance(model, onnx.ModelProto):
        path = folder / _named(model.graph.name, ".onnx")
        onnx.save(model, path, save_as_external_data=model.ByteSize() > _ONE_FILE)
        return os.fspath(path)
    example = None
    if isinstance(model, tuple) and len(model) == 2:
        model, example = model
    for known, write in _WRITERS.items():
        if _is_a(model, *known):
            return os.fspath(write(model, example, folder))
    raise InputError(f"{type(model).__name__}: is no model that can be read; {_FORMS}")


# Protobuf holds no more in one message.
_ONE_FILE = (1 << 31) - (1 << 20)


def _named(name: Any, suffix: str = "") -> str:
    """Return a file name made of what a model calls itself."""
    return (re.sub(r"[^\w.-]+", "_", str(name or "")).strip("._") or "model") + suffix


def _is_a(model: Any, package: str, name: str) -> bool:
    """Tell whether an object is of a class of a package, which is not imported for that."""
    return any(
        kind.__module__.split(".")[0] == package and kind.__name__ == name
        for kind in type(model).__mro__
    )


def _keras(model: Any, example: Any, folder: Path) -> Path:
    """Write a Keras model: as Keras' own file, or as a SavedModel where it has code of its own."""
    name = _named(model.name)
    if not model.built and example is None:
        raise InputError(
            f"{model.name}: the Keras model is not built; call it once, or give it an Input layer"
        )
    if all(_is_kerass(layer) for layer in _layers(model)):
        model.save(folder / f"{name}.keras")
        return folder / f"{name}.keras"
    model.export(os.fspath(folder / name), **_quiet(model.export))
    return folder / name


def _layers(model: Any) -> Iterator[Any]:
    """Yield a model and all layers in it."""
    waiting = [model]
    while waiting:
        layer = waiting.pop()
        yield layer
        waiting += getattr(layer, "layers", None) or []
        inner = getattr(layer, "layer", None)  # of a wrapper, such as TimeDistributed
        waiting += [inner] if inner is not None else []


def _is_kerass(layer: Any) -> bool:
    kind = type(layer)
    return kind.__module__.split(".")[0] in ("keras", "tf_keras") and kind.__name__ != "Lambda"


def _quiet(export: Callable[..., Any]) -> dict[str, bool]:
    import inspect

    return {"verbose": False} if "verbose" in inspect.signature(export).parameters else {}


def _tensorflow(module: Any, example: Any, folder: Path) -> Path:
    """Write a ``tf.Module`` with its ``__call__`` as the signature."""
    with optional("Reading a tf.Module", "tensorflow"):
        import tensorflow as tf
    call: Any = module.__call__
    if example is not None:
        if not hasattr(call, "get_concrete_function"):
            call = tf.function(call)
        positional, named = _arguments(example)
        signature: Any = call.get_concrete_function(
            *(_spec(tf, value) for value in positional),
            **{name: _spec(tf, value) for name, value in named.items()},
        )
    elif getattr(call, "input_signature", None) is not None:
        signature = call
    else:
        raise InputError(
            f"{type(module).__name__}: what the tf.Module takes is not known; decorate its "
            "__call__ with tf.function(input_signature=[...]), or give a pair of it and its "
            "example inputs"
        )
    path = folder / _named(type(module).__name__)
    tf.saved_model.save(module, os.fspath(path), signatures=signature)
    return path


def _spec(tf: Any, value: Any) -> Any:
    tensor = tf.convert_to_tensor(value)
    return tf.TensorSpec(tensor.shape, tensor.dtype)


def _torch(module: Any, example: Any, folder: Path) -> Path:
    """Export a torch module; the first axis is free where the example has several rows there."""
    with optional("Reading a torch module", "pytorch"):
        import torch
    if example is None:
        raise InputError(
            f"{type(module).__name__}: a torch module does not say what it takes; give a pair of "
            "it and its example inputs: (module, example)"
        )
    positional, named = _arguments(example)
    training = module.training
    try:
        module.eval()
        program = torch.export.export(
            module, tuple(positional), dict(named), dynamic_shapes=_free(module, positional, named)
        )
    finally:
        module.train(training)
    return _program(program, None, folder, type(module).__name__)


def _free(module: Any, positional: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """Return which axes are free: the batch, where all inputs have several rows of it."""
    import torch

    sizes = {
        value.shape[0] if isinstance(value, torch.Tensor) and value.ndim else 0
        for value in (*positional, *named.values())
    }
    if len(sizes) != 1 or min(sizes) < 2:
        return None
    axes = {0: torch.export.Dim.AUTO}
    if named:
        return dict.fromkeys(named, axes)
    free: list[Any] = [axes] * len(positional)
    for at, entry in enumerate(inspect.signature(module.forward).parameters.values()):
        if entry.kind is inspect.Parameter.VAR_POSITIONAL and at < len(positional):
            free[at:] = [tuple(free[at:])]
    return tuple(free)


def _program(program: Any, example: Any, folder: Path, name: str = "program") -> Path:
    import torch

    path = folder / _named(name, ".pt2")
    torch.export.save(program, path)
    return path


def _arguments(example: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Return the example inputs by position and by name."""
    if isinstance(example, Mapping):
        return (), example
    return (tuple(example), {}) if isinstance(example, tuple | list) else ((example,), {})


def _scripted(model: Any, example: Any, folder: Path) -> Path:
    raise NotSupportedError(
        f"{type(model).__name__}: is a TorchScript network; give the module that it was made of, "
        "with its example inputs"
    )


# By package and class, the first that fits: how an object is written.
_WRITERS: dict[tuple[str, str], Callable[[Any, Any, Path], Path]] = {
    ("keras", "Model"): _keras,
    ("tf_keras", "Model"): _keras,
    ("tensorflow", "Module"): _tensorflow,
    ("torch", "ScriptModule"): _scripted,
    ("torch", "Module"): _torch,
    ("torch", "ExportedProgram"): _program,
}
