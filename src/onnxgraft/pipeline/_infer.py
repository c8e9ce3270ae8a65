"""Inference on image files."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxgraft.errors import InputError
from onnxgraft.files import existing_file, write_bytes
from onnxgraft.pipeline._validate import open_engine
from onnxgraft.runtime import Array
from onnxgraft.samples import Preprocess, arrange

__all__ = ["Answer", "infer"]

_BEST = 5


@dataclass(frozen=True)
class Answer:
    """What an engine says of one image.

    Attributes:
        image: Its path.
        best: For an output of (1, classes) scores: its name -> the best classes with scores.
        shapes: Output name -> shape.
    """

    image: str
    best: dict[str, list[tuple[int, float]]]
    shapes: dict[str, tuple[int, ...]]

    def lines(self) -> list[str]:
        """Return a line an output."""
        lines = []
        for name, shape in self.shapes.items():
            best = ", ".join(f"class {c}: {s:.4g}" for c, s in self.best.get(name, []))
            lines.append(f"{name}: {best or f'array of {shape}'}")
        return lines


def infer(
    path: str | os.PathLike[str],
    images: Sequence[str | os.PathLike[str]],
    preprocess: Preprocess | None = None,
    out: str | os.PathLike[str] | None = None,
) -> list[Answer]:
    """Run an engine on images.

    Args:
        path: An engine or an ONNX file.
        images: Image files.
        preprocess: The recipe that the network was trained with.
        out: Where to write the outputs, as an ``.npz`` with images along axis 0.

    Raises:
        InputError: An image can't be read, or does not fit the engine's input.
    """
    recipe = preprocess or Preprocess()
    answers = []
    collected: dict[str, list[Array]] = {}
    with open_engine(path) as engine:
        if len(engine.inputs) != 1:
            raise InputError(f"{path}: images feed one input, the engine has {len(engine.inputs)}")
        spec = engine.inputs[0]
        for image in images:
            file = existing_file(image, "the image")
            pixels = recipe.image(file)
            value = arrange(pixels[np.newaxis], spec, recipe.layout)
            if value is None:
                size = "x".join(map(str, pixels.shape))
                raise InputError(f"{file}: the recipe makes {size} of it, the input is {spec}")
            outputs = engine.infer({spec.name: value.astype(spec.dtype)})
            for name, array in outputs.items():
                if out is not None:
                    collected.setdefault(name, []).append(array)
            answers.append(
                Answer(
                    str(file),
                    {name: _best(array) for name, array in outputs.items() if _is_scores(array)},
                    {name: array.shape for name, array in outputs.items()},
                )
            )
    if out is not None:
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {n: np.concatenate(a) for n, a in collected.items()}
        np.savez_compressed(buffer, **arrays)
        write_bytes(out, buffer.getvalue())
    return answers


def _is_scores(array: Array) -> bool:
    return array.ndim == 2 and array.shape[0] == 1 and array.shape[1] > 1


def _best(array: Array) -> list[tuple[int, float]]:
    order = np.argsort(-array[0])[:_BEST]
    return [(int(index), float(array[0, index])) for index in order]
