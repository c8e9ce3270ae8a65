"""The file that a model was made from."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Source"]


@dataclass(frozen=True)
class Source:
    """The file that a model was made from.

    Attributes:
        path: As the user gave it.
        framework: ``tensorflow``, ``pytorch``, ``caffe`` or ``onnx``.
        sha256: Of the file's bytes.
    """

    path: str
    framework: str
    sha256: str
