"""Distributions that own the same module: which of them is imported is up to their installation."""

from __future__ import annotations

from importlib import metadata

__all__ = ["clashes"]

# Module -> the distributions that own it, or did once; the first is the one that onnxgraft needs.
_OWNERS = {
    "cv2": (
        "opencv-python-headless", "opencv-python", "opencv-contrib-python",
        "opencv-contrib-python-headless", "opencv-python-rolling",
    ),
    "onnxruntime": (
        "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml",
        "onnxruntime-training", "onnxruntime-qnn", "onnxruntime-rocm", "onnxruntime-vitisai",
        "ort-nightly", "ort-nightly-gpu",
    ),
}  # fmt: skip


def clashes() -> list[str]:
    """Return a sentence for each module that several installed distributions own."""
    told = []
    for module, owners in _OWNERS.items():
        found = {name: version for name in owners if (version := _version(name, module))}
        if len(found) > 1:
            *names, last = (f"{name} {version}" for name, version in found.items())
            told.append(
                f"{', '.join(names)} and {last} are installed, and each of them brings the module "
                f"{module}: which of them runs is chance; keep one: "
                f"pip uninstall -y {' '.join(found)} && pip install {owners[0]}"
            )
    return told


def _version(name: str, module: str) -> str:
    """Return the version of a distribution that owns a module; nothing of one that does not.

    onnxruntime-qnn was an onnxruntime of its own before it became a plug-in for one.
    """
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return ""
    owns = found.files is None or any(file.parts[0] == module for file in found.files)
    return found.version if owns else ""
