"""Engines without a passport, which the user trusts: whose they are."""

from __future__ import annotations

from pathlib import Path

from onnxgraft.errors import InputError

__all__ = ["is_engine", "target_of"]


def target_of(path: Path) -> str:
    """Return the library of an engine by how its file begins.

    Raises:
        InputError: It is no engine that one of the targets writes.
    """
    with path.open("rb") as file:
        head = file.read(4096)
    if head[1:4] == b"trt":  # TensorRT: ftrt, ptrt, vtrt
        return "tensorrt"
    if b"UPCVO" in head[:16]:  # OpenVINO: an exported model of the CPU
        return "openvino"
    if head[:1] == b"\x08":  # ModelProto's first field, the version, as a number
        return "onnxruntime"
    raise InputError(f"{path}: not an engine of TensorRT, OpenVINO or onnxruntime")


def is_engine(path: Path) -> bool:
    """Tell whether a file begins as the engines of one of the targets do."""
    try:
        target_of(path)
    except InputError:
        return False
    return True
