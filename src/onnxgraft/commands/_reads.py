"""What a stage reads, as hashes: two runs in which they are the same make the same of it."""

from __future__ import annotations

import functools
import glob
import hashlib
import mmap
import os
import re
import uuid
from importlib import metadata
from pathlib import Path

import onnxgraft
from onnxgraft.data.functions import Function, is_function_path
from onnxgraft.data.samples import Samples
from onnxgraft.files import sha256
from onnxgraft.files.wire import WireError, read_varint
from onnxgraft.stages.convert import Original
from onnxgraft.stages.validate.report import versions
from onnxgraft.targets import TARGETS
from onnxgraft.targets.devices import PROVIDERS

__all__ = [
    "file_reads",
    "function_reads",
    "model_files",
    "model_reads",
    "sample_reads",
    "surroundings",
]

# What computes or reads beside what a report names.
_PACKAGES = (
    "h5py", "keras", "ml_dtypes", "opencv-python", "opencv-python-headless", "pydantic", "scipy",
    "tensorrt", "torch",
    *dict.fromkeys(name for known in PROVIDERS for name in (known.package, known.whole) if name),
)  # fmt: skip
_GPUS = Path("/proc/driver/nvidia")


@functools.cache
def surroundings() -> dict[str, object]:
    """Return what every stage depends on: the code, the libraries, the processor and the GPUs."""
    code = hashlib.sha256()
    for path in _sources():
        code.update(f"{path}\0{sha256(path)}\n".encode())
    return {
        "code": code.hexdigest(),
        "versions": versions() | {name: _version(name) for name in _PACKAGES},
        "processors": [str(target.cpu()) for target in TARGETS],
        "limits": [os.environ.get(target.limit or "", "") for target in TARGETS],
        "tf32": os.environ.get("NVIDIA_TF32_OVERRIDE"),
        "gpus": [
            re.findall(r"^(?:Model|NVRM version):.*", path.read_text(errors="replace"), re.M)
            for path in sorted((*_GPUS.glob("gpus/*/information"), *_GPUS.glob("version")))
        ],
    }


def _sources() -> list[Path]:
    """Return the files of onnxgraft's code; in a checkout the stages are reached by links."""
    walked = os.walk(Path(onnxgraft.__file__).parent, followlinks=True)
    return sorted(
        Path(folder, name) for folder, _, names in walked for name in names if name.endswith(".py")
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def model_reads(opened: Original) -> dict[str, object]:
    """Return a model's files and how it is opened; the graphs of it name the path."""
    files = model_files(opened)
    return {
        "model": os.fspath(opened.path),
        "files": _once() if files is None else files,
        "options": [
            opened.weights, opened.inputs, opened.outputs, list(opened.values), opened.signature,
            opened.freeze_batchnorm,
        ],
    }  # fmt: skip


def model_files(opened: Original) -> list[tuple[str, str]] | None:
    """Return the files that a model is read from, with their hashes; None where that is unknown."""
    files = _files(Path(opened.path))
    if files is None:
        return None
    if opened.weights is not None:
        files.append(Path(opened.weights))
    return [(str(path), sha256(path)) for path in sorted(files) if path.is_file()]


def _files(path: Path) -> list[Path] | None:
    """Return what a model is read from: all of a folder, a checkpoint, a file and external data.

    A mean file beside a prototxt tells of its images. None where that can't be told.
    """
    if path.is_dir():
        return list(path.rglob("*"))
    prefix = re.sub(r"\.(meta|index|data-\d+-of-\d+)$", "", path.name)
    if (path.parent / f"{prefix}.meta").is_file():
        return list(path.parent.glob(f"{glob.escape(prefix)}.*"))
    if path.suffix == ".prototxt":
        return [path, *path.parent.glob("*.binaryproto")]
    if not path.is_file() or not path.stat().st_size:
        return [path]
    names = set()
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        # How ONNX says where a tensor is: a key and its value. The message is not built for that.
        for found in re.finditer(rb"\x0a\x08location(\x12?)", data):
            try:
                length, begin = read_varint(memoryview(data[found.end() : found.end() + 10]), 0)
            except WireError:
                return None
            if not found[1]:
                return None
            begin += found.end()
            names.add(data[begin : begin + length].decode(errors="replace"))
    return [path, *(path.parent / name for name in names if "\0" not in name and len(name) < 4096)]


def sample_reads(samples: Samples, *, labelled: bool = False) -> list[object]:
    """Return the hash of samples, of which a function that Python gave may make anything."""
    function = samples.preprocess.function
    return [samples.fingerprint(labelled=labelled), function_reads(function)]


def function_reads(function: str | Function | None) -> object:
    """Return a metric's name, or the hash of a function's file.

    What a callable of Python computes may depend on more than its source, such as the variables
    around it: it is never the same.
    """
    if isinstance(function, Function):
        written = is_function_path(function.name)
        return [function.name, function.sha256] if written else _once()
    if function is not None and is_function_path(function):
        return [function, sha256(function.rpartition(":")[0])]
    return function


def file_reads(name: str | None) -> object:
    """Return what an option names: a word, or a file and its hash."""
    return [name, sha256(name)] if name is not None and Path(name).is_file() else name


def _once() -> str:
    return uuid.uuid4().hex
